r"""Autoencoder of states on a latitude-longitude grid, with a decoder cheap enough for guidance.

Guided sampling differentiates through the decoder several times per step, so the decoder is one
convolution block on the latent grid and one linear map to overlapping patches: a cell of the
latent grid writes a patch twice its size, and the patches are added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from hpcinv.models.grid_layers import GridConv, PositionField, pad


class ResidualBlock(nn.Module):
    r"""x + conv(silu(conv(x))) on the latent grid; the second convolution starts at zero."""

    def __init__(self, width: int, periodic: bool) -> None:
        super().__init__()
        self.first = GridConv(width, width, periodic)
        self.second = GridConv(width, width, periodic)
        nn.init.zeros_(self.second.conv.weight)
        nn.init.zeros_(self.second.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class PointPlan(NamedTuple):
    r"""The four cells of each point, flat over frames, (4 P); their weights, (C, P, 4 F)."""

    cell: Tensor
    weight: Tensor


def _covering(position: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    r"""The two cells whose patches cover each position, and the position within each, (P, 2)."""
    last = torch.div(position, stride, rounding_mode="floor")
    cells = torch.stack([last - 1, last], dim=1)
    return cells, position[:, None] - cells * stride


class Autoencoder(nn.Module):
    r"""Compresses states :math:`x` to latents :math:`z` on a grid `stride` times coarser.

    The latent of a cell is a non-linear function of the patch of :math:`2s \times 2s` points
    around it and of its neighbours. It is soft-saturated at `bound` (the bounded latents of LoLA,
    Rozet et al., 2025) and then standardised per channel by constants measured once after
    training (:meth:`calibrate`), so that a diffusion model finds unit variances.

    Arguments:
        channels: The number of channels :math:`C` of a state.
        grid: The grid :math:`(H, W)` of a state. A periodic W must be a multiple of `stride`.
        latent_channels: The number of channels :math:`c` of a latent.
        stride: The number of grid points per latent cell along each axis.
        width: The number of features on the latent grid.
        depth: The number of residual blocks in the encoder and in the decoder.
        position: The number of learnt position features, which let cells differ by place.
        context: The number :math:`K` of context features of a state, 0 for none.
        bound: The absolute value at which latents saturate.
        periodic: Whether the last axis closes on itself.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        latent_channels: int = 16,
        stride: int = 8,
        width: int = 64,
        depth: int = 0,
        position: int = 4,
        context: int = 0,
        bound: float = 8.0,
        periodic: bool = True,
    ) -> None:
        super().__init__()
        height, length = (int(n) for n in grid)
        if periodic and length % stride:
            raise ValueError(
                f"a periodic axis of {length} points does not divide into cells of {stride}"
            )
        rows, columns = -(-height // stride), -(-length // stride)
        self.channels, self.grid, self.stride = channels, (height, length), stride
        self.context, self.bound, self.periodic = context, bound, periodic
        self.latent_shape = (latent_channels, rows, columns)
        # Where the grid is not a multiple of the stride, the missing points are shared out.
        self.top = (rows * stride - height) // 2
        self.bottom = rows * stride - height - self.top
        self.left = (columns * stride - length) // 2
        self.right = columns * stride - length - self.left

        features = 2 * width + position + context
        self.patch = nn.Conv2d(channels, width, 2 * stride, stride=stride)
        self.position = PositionField(position, (rows, columns))
        self.encoder = nn.Sequential(
            *(ResidualBlock(features, periodic) for _ in range(depth)),
            GridConv(features, latent_channels, periodic),
        )
        self.expand = GridConv(latent_channels + position + context, width, periodic)
        self.decoder = nn.Sequential(*(ResidualBlock(width, periodic) for _ in range(depth)))
        self.unpatch = nn.Linear(width + latent_channels, channels * (2 * stride) ** 2, bias=False)
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(latent_channels, 1, 1))

    def _placed(self, x: Tensor, context: Tensor | None) -> Tensor:
        r"""Appends position and context to features x of shape (N, *, h, w)."""
        if self.context:
            if context is None:
                context = x.new_zeros(len(x), self.context)
            field = context[:, : self.context, None, None].to(x).expand(-1, -1, *x.shape[-2:])
            x = torch.cat([x, field], dim=1)
        return self.position(x)

    def raw_latent(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""The saturated latent before standardisation, with shape :math:`(N, c, h, w)`."""
        half = self.stride // 2
        x = F.pad(x, (self.left, self.right, self.top, self.bottom), mode="replicate")
        x = pad(x, half, half, self.periodic)
        if self.stride % 2:
            x = F.pad(x, (0, 1, 0, 1), mode="replicate")
        y = self.patch(x)
        y = torch.cat([y, F.silu(y)], dim=1)
        z = self.encoder(self._placed(y, context))
        return z * torch.rsqrt(1 + (z / self.bound) ** 2)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Maps states to latents.

        Arguments:
            x: Standardised states, with shape :math:`(N, C, H, W)`.
            context: Context features, with shape :math:`(N, K)`.

        Returns:
            The latents, standardised per channel, with shape :math:`(N, c, h, w)`.
        """
        return (self.raw_latent(x, context) - self.latent_mean) / self.latent_std

    def _features(self, z: Tensor, context: Tensor | None) -> Tensor:
        r"""What each latent cell's patch is a linear function of, shape (N, F, h, w)."""
        z = z * self.latent_std + self.latent_mean
        y = self.decoder(F.silu(self.expand(self._placed(z, context))))
        return torch.cat([z, y], dim=1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Maps latents to states.

        Arguments:
            z: Latents, with shape :math:`(N, c, h, w)`.
            context: Context features, with shape :math:`(N, K)`.

        Returns:
            The standardised states, with shape :math:`(N, C, H, W)`.
        """
        y = self._features(z, context)
        if self.periodic:
            y = torch.cat([y[..., -1:], y, y[..., :1]], dim=-1)
        s, (h, w) = self.stride, y.shape[-2:]
        patches = self.unpatch(y.flatten(2).transpose(1, 2)).transpose(1, 2)
        x = F.fold(patches, ((h + 1) * s, (w + 1) * s), 2 * s, stride=s)
        rows = s // 2 + self.top
        columns = s // 2 + self.left + (s if self.periodic else 0)
        return x[..., rows : rows + self.grid[0], columns : columns + self.grid[1]]

    def plan_points(self, frame: Tensor, point: Tensor) -> PointPlan:
        r"""Prepares the decoding of chosen points, which :meth:`decode_points` repeats cheaply.

        Arguments:
            frame: The frame, 0..n-1, of each point, with shape :math:`(P)`.
            point: Flat indices on the grid, with shape :math:`(P)`.
        """
        s, (h, w) = self.stride, self.latent_shape[1:]
        # A point lies in the patches of two rows and two columns of cells.
        row = point // self.grid[1] + s // 2 + self.top
        column = point % self.grid[1] + s // 2 + self.left
        row, row_in = _covering(row, s)
        column, column_in = _covering(column, s)
        inside = (row >= 0) & (row < h)
        if self.periodic:
            column = column % w
            beside = torch.ones_like(column, dtype=torch.bool)
        else:
            beside = (column >= 0) & (column < w)
        cell = row.clamp(0, h - 1)[:, :, None] * w + column.clamp(0, w - 1)[:, None, :]
        place = row_in[:, :, None] * (2 * s) + column_in[:, None, :]
        weight = self.unpatch.weight.reshape(self.channels, (2 * s) ** 2, -1)
        weight = weight[:, place.flatten(1)]  # (C, P, 4, F)
        weight = weight * (inside[:, :, None] & beside[:, None, :]).flatten(1)[..., None]
        cell = frame[:, None] * (h * w) + cell.flatten(1)
        return PointPlan(cell.flatten(), weight.flatten(2))

    def decode_points(self, z: Tensor, plan: PointPlan, context: Tensor | None = None) -> Tensor:
        r"""Decodes chosen points only: what :meth:`decode` gives there, several times cheaper.

        Arguments:
            z: Latents of B batches of n frames, with shape :math:`(B, n, c, h, w)`.
            plan: What :meth:`plan_points` made of P points.
            context: Context features, with shape :math:`(B n, K)`.

        Returns:
            The standardised values of all channels, with shape :math:`(B, P, C)`.
        """
        b, n = z.shape[:2]
        y = self._features(z.flatten(0, 1), context)
        y = y.flatten(2).transpose(1, 2).reshape(b, n * y.shape[-2] * y.shape[-1], -1)
        y = y.index_select(1, plan.cell).reshape(b, plan.weight.shape[1], -1)
        # Not an einsum: as a product of thousands of tiny matrices it costs ten times this.
        return torch.stack([(y * w).sum(-1) for w in plan.weight], dim=-1)

    @torch.no_grad()
    def calibrate(self, latents: Tensor) -> None:
        r"""Measures the constants that standardise the latents, per channel.

        Arguments:
            latents: Raw latents of training states, with shape :math:`(N, c, h, w)`.
        """
        self.latent_mean.copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
        std = latents.std(dim=(0, 2, 3)).clamp_min(1e-6)
        self.latent_std.copy_(std[:, None, None])

    def forward(
        self, x: Tensor, context: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Reconstructs states from their (perturbed) raw latents, for training.

        Arguments:
            x: Standardised states, with shape :math:`(N, C, H, W)`.
            context: Context features, with shape :math:`(N, K)`.
            noise: A perturbation of the raw latent, with shape :math:`(N, c, h, w)`.

        Returns:
            The reconstruction (N, C, H, W) and the raw latent (N, c, h, w) before the noise.
        """
        raw = self.raw_latent(x, context)
        z = (raw - self.latent_mean) / self.latent_std
        if noise is not None:
            z = z + noise / self.latent_std
        return self.decode(z, context), raw
