r"""Autoencoder of states on a grid of two axes, one or none, with a decoder cheap for guidance.

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

from hpcinv.models.grid_layers import GridConv, PositionField, extend, half_turn

PATCHES = 256 << 20  # bytes of patches that a decoder without gradient makes at once
GROUND = 8  # features of the fields that do not change, on the latent grid


class ResidualBlock(nn.Module):
    r"""x + conv(silu(conv(x))) on the latent grid; the second convolution starts at zero."""

    def __init__(self, width: int, periodic: bool | str, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.first = GridConv(width, width, periodic, kernel)
        self.second = GridConv(width, width, periodic, kernel)
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
        grid: The grid of a state: :math:`(H, W)`, :math:`(W)` or :math:`()`. A periodic axis
            must be a multiple of its stride.
        latent_channels: The number of channels :math:`c` of a latent.
        stride: The number of grid points per latent cell along each axis, or along both.
        width: The number of features on the latent grid.
        depth: The number of residual blocks in the encoder and in the decoder.
        position: The number of learnt position features, which let cells differ by place.
        context: The number :math:`K` of context features of a state, 0 for none.
        bound: The absolute value at which latents saturate.
        periodic: Whether the last axis closes on itself, or "both" do, or from pole to pole
            ("poles": :class:`~hpcinv.models.grid_layers.GridConv`).
        static: The number :math:`S` of fields that do not change (land, orography), which both
            sides see; :attr:`static_fields` holds them.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, ...],
        latent_channels: int = 16,
        stride: int | tuple[int, int] = 8,
        width: int = 64,
        depth: int = 0,
        position: int = 4,
        context: int = 0,
        bound: float = 8.0,
        periodic: bool | str = True,
        static: int = 0,
    ) -> None:
        super().__init__()
        self.grid = tuple(int(n) for n in grid)
        self.plane = (1,) * (2 - len(self.grid)) + self.grid
        both = (stride, stride) if isinstance(stride, int) else tuple(stride)
        self.stride = tuple(1 if n == 1 else s for n, s in zip(self.plane, both, strict=True))
        self.around = (periodic == "both" and self.plane[0] > 1, periodic and self.plane[1] > 1)
        for n, s, around in zip(self.plane, self.stride, self.around, strict=True):
            if around and n % s:
                raise ValueError(
                    f"a periodic axis of {n} points does not divide into cells of {s}"
                )
        self.channels, self.context, self.bound = channels, context, bound
        cells = tuple(-(-n // s) for n, s in zip(self.plane, self.stride, strict=True))
        half_turn(cells[1], periodic)
        self.latent_shape = (latent_channels, *cells)
        # Where the grid is not a multiple of the stride, the missing points are shared out.
        missing = [h * s - n for n, s, h in zip(self.plane, self.stride, cells, strict=True)]
        self.before = tuple(m // 2 for m in missing)
        self.after = tuple(m - b for m, b in zip(missing, self.before, strict=True))

        patch = tuple(2 * s for s in self.stride)
        kernel = tuple(3 if n > 1 else 1 for n in cells)
        features = 2 * width + position + context
        self.patch = nn.Conv2d(channels + static, width, patch, stride=self.stride)
        self.position = PositionField(position, cells)
        self.encoder = nn.Sequential(
            *(ResidualBlock(features, periodic, kernel) for _ in range(depth)),
            GridConv(features, latent_channels, periodic, kernel),
        )
        self.static = static
        if static:
            self.ground = nn.Conv2d(static, GROUND, patch, stride=self.stride)
            self.register_buffer("static_fields", torch.zeros(static, *self.plane))
        placed = latent_channels + position + context + GROUND * bool(static)
        self.expand = GridConv(placed, width, periodic, kernel)
        self.decoder = nn.Sequential(
            *(ResidualBlock(width, periodic, kernel) for _ in range(depth))
        )
        outputs = channels * patch[0] * patch[1]
        self.unpatch = nn.Linear(width + latent_channels, outputs, bias=False)
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
        x = x.reshape(len(x), self.channels, *self.plane)
        if self.static:
            x = torch.cat([x, self.static_fields.to(x).expand(len(x), -1, -1, -1)], dim=1)
        y = self.patch(self._around(x))
        y = torch.cat([y, F.silu(y)], dim=1)
        z = self.encoder(self._placed(y, context))
        return z * torch.rsqrt(1 + (z / self.bound) ** 2)

    def _around(self, x: Tensor) -> Tensor:
        r"""Fields with what the patches of the outermost cells reach over the edges."""
        for axis in (-2, -1):
            s = self.stride[axis]
            x = extend(x, axis, self.before[axis], self.after[axis], False)
            x = extend(x, axis, s // 2, s - s // 2, self.around[axis])
        return x

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Maps states to latents.

        Arguments:
            x: Standardised states, with shape :math:`(N, C, *grid)`.
            context: Context features, with shape :math:`(N, K)`.

        Returns:
            The latents, standardised per channel, with shape :math:`(N, c, h, w)`.
        """
        return (self.raw_latent(x, context) - self.latent_mean) / self.latent_std

    def _features(self, z: Tensor, context: Tensor | None) -> Tensor:
        r"""What each latent cell's patch is a linear function of, shape (N, F, h, w)."""
        z = z * self.latent_std + self.latent_mean
        x = self._placed(z, context)
        if self.static:
            ground = self.ground(self._around(self.static_fields.to(z)[None]))
            x = torch.cat([x, F.silu(ground).expand(len(x), -1, -1, -1)], dim=1)
        return torch.cat([z, self.decoder(F.silu(self.expand(x)))], dim=1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Maps latents to states.

        Arguments:
            z: Latents, with shape :math:`(N, c, h, w)`.
            context: Context features, with shape :math:`(N, K)`.

        Returns:
            The standardised states, with shape :math:`(N, C, *grid)`.
        """
        y = self._features(z, context)
        if self.around[1]:
            y = torch.cat([y[..., -1:], y, y[..., :1]], dim=-1)
        if self.around[0]:
            y = torch.cat([y[..., -1:, :], y, y[..., :1, :]], dim=-2)
        s = self.stride
        size = tuple((n + 1) * s for n, s in zip(y.shape[-2:], s, strict=True))
        y = y.flatten(2).transpose(1, 2)
        rows, columns = (
            n // 2 + before + n * around
            for n, before, around in zip(s, self.before, self.around, strict=True)
        )

        def joined(patches: Tensor) -> Tensor:
            x = F.fold(patches.transpose(1, 2), size, tuple(2 * n for n in s), stride=s)
            return x[..., rows : rows + self.plane[0], columns : columns + self.plane[1]]

        # Patches take four times the room of a state, and joining them as much again: where no
        # gradient is asked for, some channels at a time. (Weights that are sharded have no rows.)
        weight, each = self.unpatch.weight, 4 * s[0] * s[1]
        some = max(1, PATCHES // (4 * y.shape[0] * y.shape[1] * each))
        if torch.is_grad_enabled() or some >= self.channels or not len(weight):
            x = joined(self.unpatch(y))
        else:
            x = y.new_empty(len(y), self.channels, *self.plane)
            for c in range(0, self.channels, some):
                x[:, c : c + some] = joined(F.linear(y, weight[c * each : (c + some) * each]))
        return x.reshape(len(x), self.channels, *self.grid)

    def plan_points(self, frame: Tensor, point: Tensor) -> PointPlan:
        r"""Prepares the decoding of chosen points, which :meth:`decode_points` repeats cheaply.

        Arguments:
            frame: The frame, 0..n-1, of each point, with shape :math:`(P)`.
            point: Flat indices on the grid, with shape :math:`(P)`.
        """
        h, w = self.latent_shape[1:]
        # A point lies in the patches of two rows and two columns of cells.
        cells, within, inside = [], [], []
        for axis, at in enumerate((point // self.plane[1], point % self.plane[1])):
            s, n = self.stride[axis], self.latent_shape[1 + axis]
            cell, place = _covering(at + s // 2 + self.before[axis], s)
            inside.append(torch.ones_like(cell, dtype=torch.bool) if self.around[axis]
                          else (cell >= 0) & (cell < n))  # fmt: skip
            cells.append(cell % n if self.around[axis] else cell.clamp(0, n - 1))
            within.append(place)
        cell = cells[0][:, :, None] * w + cells[1][:, None, :]
        place = within[0][:, :, None] * (2 * self.stride[1]) + within[1][:, None, :]
        patch = 4 * self.stride[0] * self.stride[1]
        weight = self.unpatch.weight.reshape(self.channels, patch, -1)
        weight = weight[:, place.flatten(1)]  # (C, P, 4, F)
        weight = weight * (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)[..., None]
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
            x: Standardised states, with shape :math:`(N, C, *grid)`.
            context: Context features, with shape :math:`(N, K)`.
            noise: A perturbation of the raw latent, with shape :math:`(N, c, h, w)`.

        Returns:
            The reconstruction (N, C, *grid) and the raw latent (N, c, h, w) before the noise.
        """
        raw = self.raw_latent(x, context)
        z = (raw - self.latent_mean) / self.latent_std
        if noise is not None:
            z = z + noise / self.latent_std
        return self.decode(z, context), raw
