r"""Denoiser of windows of a trajectory, with any number of frames.

Space and time are mixed in turn: a convolution over the grid, a convolution over the neighbouring
frames, and, for large models, attention over the grid and over the frames. Nothing depends on the
length of the window, so a model trained on windows of 8 frames is evaluated on 24.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from azula.denoise import Denoiser, DiracPosterior
from azula.nn.attention import MultiheadSelfAttention
from azula.nn.utils import checkpoint
from azula.noise import VESchedule
from torch import Tensor

from hpcinv.models.gaussian_conditioned import ConditionedSkip
from hpcinv.models.gaussian_skip import GaussianSkip
from hpcinv.models.grid_layers import GridConv, PositionField, half_turn


class NoiseEmbedding(nn.Module):
    r"""Features of :math:`\log \sigma_t / \alpha_t` and of each frame's context.

    Arguments:
        features: The number of features returned.
        context: The number of further features per frame.
        frequencies: The number of sine-cosine pairs of the noise level.
    """

    def __init__(self, features: int, context: int, frequencies: int = 8) -> None:
        super().__init__()
        # exp(-1) .. exp(1.5) radians per unit of log sigma: resolves a range of about +-4.
        pitch = torch.exp(torch.linspace(-1.0, 1.5, frequencies))
        self.register_buffer("pitch", pitch, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * frequencies + 1 + context, features),
            nn.SiLU(),
            nn.Linear(features, features),
            nn.SiLU(),
        )

    def forward(self, level: Tensor, context: Tensor) -> Tensor:
        r"""Maps levels (B,) and contexts (B, W, K) to features (B, W, F)."""
        level = level[:, None]
        angle = level * self.pitch
        level = torch.cat([angle.sin(), angle.cos(), level / 3], dim=-1)
        level = level[:, None].expand(-1, context.shape[1], -1)
        features = torch.cat([level, context], dim=-1)
        return self.layers(features.to(self.layers[0].weight.dtype))


def gaps(times: Tensor) -> Tensor:
    r"""Logarithms of the gaps before and after each frame, (B, W) to (B, W, 2).

    The first and the last frame have one gap only, and tell it twice; a frame alone tells zeros.
    """
    if times.shape[1] == 1:
        return times.new_zeros(*times.shape, 2)
    gap = (times[:, 1:] - times[:, :-1]).log2()
    return torch.stack(
        [torch.cat([gap[:, :1], gap], dim=1), torch.cat([gap, gap[:, -1:]], dim=1)], dim=-1
    )


class SpaceTimeBlock(nn.Module):
    r"""One modulated residual block over the grid and the frames.

    Arguments:
        width: The number of channels.
        features: The number of features of the embedding that modulates the block.
        heads: The number of attention heads over the grid and the frames, 0 for none.
        periodic: Whether the last axis of the grid closes on itself, or "both" do, or "poles".
        kernel: Size of the convolution over the grid.
        reach: Frames from each to those that its convolution over frames sees.
    """

    def __init__(
        self,
        width: int,
        features: int,
        heads: int,
        periodic: bool | str,
        kernel: tuple[int, int] = (3, 3),
        reach: int = 1,
    ) -> None:
        super().__init__()
        self.reach = reach
        self.modulation = nn.Linear(features, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.space = GridConv(width, width, periodic, kernel)
        self.before = nn.Conv2d(width, width, 1, bias=False)
        self.now = nn.Conv2d(width, width, 1)
        self.after = nn.Conv2d(width, width, 1, bias=False)
        for layer in (self.before, self.now, self.after):
            layer.weight.data.mul_(1 / math.sqrt(3))
        self.attention = nn.ModuleList(
            MultiheadSelfAttention(width, attention_heads=heads) for _ in range(2 if heads else 0)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        r"""Maps (B, W, C, h, w), with an embedding (B, W, F), to the same shape."""
        b, n, c, h, w = x.shape
        scale, shift, gate = self.modulation(embedding)[..., None, None].chunk(3, dim=2)
        y = F.group_norm(x.flatten(0, 1), 1).unflatten(0, (b, n))
        y = y * (1 + scale) + shift
        y = F.silu(self.space(y.flatten(0, 1)))
        now = self.now(y).unflatten(0, (b, n))
        y = y.unflatten(0, (b, n))
        d = self.reach
        if n > d:
            # Convolution over frames written as shifts: no permutation of the grid is needed.
            before = self.before(y[:, :-d].flatten(0, 1)).unflatten(0, (b, n - d))
            after = self.after(y[:, d:].flatten(0, 1)).unflatten(0, (b, n - d))
            now = now + F.pad(before, (0, 0, 0, 0, 0, 0, d, 0))
            now = now + F.pad(after, (0, 0, 0, 0, 0, 0, 0, d))
        x = x + now * (1 + gate)
        if len(self.attention):
            over_grid, over_frames = self.attention
            y = x.permute(0, 1, 3, 4, 2).reshape(b * n, h * w, c)
            y = y + over_grid(F.layer_norm(y, (c,)))
            y = y.reshape(b, n, h * w, c).transpose(1, 2).reshape(b * h * w, n, c)
            y = y + over_frames(F.layer_norm(y, (c,)))
            x = y.reshape(b, h, w, n, c).permute(0, 3, 4, 1, 2)
        return x


class TrajectoryDenoiser(Denoiser):
    r"""Estimates :math:`E[x | x_t]` for windows of latents or states.

    Preconditioned as by Karras et al. (2022), for unit variances and any :math:`\alpha_t`:

    .. math:: d(x_t) = s(x_t) + \frac{\sigma_t}{\sqrt{\alpha_t^2 + \sigma_t^2}} \,
        n\left( \frac{x_t}{\sqrt{\alpha_t^2 + \sigma_t^2}}, \log \frac{\sigma_t}{\alpha_t} \right)

    with the skip :math:`s` either :math:`\alpha_t x_t / (\alpha_t^2 + \sigma_t^2)` or, with
    `modes` > 0, the exact denoiser of a Gaussian (:class:`GaussianSkip`, fitted before training).

    Arguments:
        channels: The number of channels :math:`c` of a frame.
        grid: The grid of a frame: :math:`(h, w)`, :math:`(w)` or :math:`()`.
        width: The number of channels inside.
        depth: The number of blocks.
        heads: The number of attention heads, 0 for convolutions only.
        position: The number of learnt position features.
        context: The number :math:`K` of context features per frame.
        modes: The number of modes of the Gaussian skip, 0 for none.
        sigma_min: The smallest noise level.
        sigma_max: The largest noise level.
        periodic: Whether the last axis of the grid closes on itself, or "both" axes do, or from
            pole to pole ("poles").
        checkpointing: Whether blocks are recomputed in the backward pass, to save memory.
        observed: The number of channels whose observations condition it, 0 for none
            (:mod:`hpcinv.models.observed_fields`).
        timed: Whether it is told the times of the frames, for windows of any time step.
        reach: Frames from each to those that the convolution over frames of a block sees, for
            the blocks in turn (dilations: van den Oord et al., 2016). Six blocks of reach 1 see
            six frames to each side; of (1, 2, 4), at the same cost, fourteen.
        conditioned: The channels whose observations the Gaussian skip sees, too
            (:class:`ConditionedSkip`); none by default.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, ...],
        width: int = 64,
        depth: int = 4,
        heads: int = 0,
        position: int = 4,
        context: int = 2,
        modes: int = 0,
        sigma_min: float = 0.02,
        sigma_max: float = 20.0,
        periodic: bool | str = True,
        checkpointing: bool = False,
        observed: int = 0,
        timed: bool = False,
        reach: Sequence[int] = (1,),
        conditioned: Sequence[int] = (),
    ) -> None:
        super().__init__()
        grid = tuple(int(n) for n in grid)
        if len(grid) > 2:
            raise ValueError(f"a frame has at most two axes, got the grid {grid}")
        self.schedule = VESchedule(sigma_min=sigma_min, sigma_max=sigma_max)
        self.channels, self.grid, self.context = channels, grid, context
        self.observed, self.timed = observed, timed
        # Fewer axes are a grid with rows of one: the same layers serve columns and plain vectors.
        self.plane = (1,) * (2 - len(grid)) + grid
        half_turn(self.plane[1], periodic)
        self.checkpointing = checkpointing
        features = max(64, width)
        self.embedding = NoiseEmbedding(features, context + 2 * timed)
        self.position = PositionField(position, self.plane)
        self.enter = nn.Conv2d(channels + position + 2 * observed, width, 1)
        kernel = tuple(3 if n > 1 else 1 for n in self.plane)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(width, features, heads, periodic, kernel, reach[k % len(reach)])
            for k in range(depth)
        )
        self.leave = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        size = channels * math.prod(grid)
        self.conditioned = bool(modes) and len(conditioned) > 0
        if self.conditioned:
            self.skip = ConditionedSkip(size, min(modes, size), math.prod(grid), conditioned)
        else:
            self.skip = GaussianSkip(size, min(modes, size)) if modes else None

    def time(self, level: Tensor) -> Tensor:
        r"""The time at which :math:`\log \sigma_t / \alpha_t` has some value, within [0, 1]."""
        low, high = math.log(self.schedule.sigma_min), math.log(self.schedule.sigma_max)
        return ((level - low) / (high - low)).clamp(0.0, 1.0)

    def _network(
        self, x: Tensor, level: Tensor, context: Tensor, observed: Tensor | None
    ) -> Tensor:
        b, n = x.shape[:2]
        embedding = self.embedding(level, context)
        y = self.position(x.flatten(0, 1))
        if observed is not None:
            y = torch.cat([y, observed.flatten(0, 1)], dim=1)
        y = self.enter(y).unflatten(0, (b, n))
        for block in self.blocks:
            y = checkpoint(block)(y, embedding) if self.checkpointing else block(y, embedding)
        return self.leave(y.flatten(0, 1)).unflatten(0, (b, n))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        times: Tensor | None = None,
        **kwargs,
    ) -> DiracPosterior:
        r"""
        Arguments:
            x_t: Noisy windows, with shape :math:`(B, W, c, *grid)`.
            t: The time, with shape :math:`()` or :math:`(B)`.
            context: The context of each frame, with shape :math:`(B, W, K)` or :math:`(W, K)`;
                zeros when it is None.
            y: The fields of what is observed, with shape :math:`(B, W, 2 c_y, *grid)`; nothing
                is when it is None.
            times: The times of the frames, in frames of the training data, with shape
                :math:`(W)` or :math:`(B, W)`; one after the other when it is None. A denoiser
                that is not `timed` takes no others.

        Returns:
            The posterior, with its mean of the shape of `x_t`.
        """
        b, n = x_t.shape[:2]
        alpha, sigma = self.schedule(t.expand(b))
        alpha, sigma = alpha.to(x_t), sigma.to(x_t)
        if context is None:
            context = x_t.new_zeros(b, n, self.context)
        # Without a context all frames have one embedding, which is made once.
        apart = n if self.context or self.timed else 1
        context = context[..., :apart, : self.context].expand(b, apart, self.context)
        if self.timed:
            if times is None:
                times = torch.arange(n, device=x_t.device)
            times = times.to(torch.float32).expand(b, n)
            context = torch.cat([context, gaps(times).to(context)], dim=-1)
        else:
            times = None
        unit = torch.rsqrt(alpha**2 + sigma**2)

        def column(v: Tensor) -> Tensor:
            return v.reshape(-1, *(1,) * (x_t.ndim - 1))

        if self.skip is None:
            mean = column(alpha * unit**2) * x_t
        elif self.conditioned:
            mean = self.skip(x_t, alpha, sigma, times, y)
        else:
            mean = self.skip(x_t, alpha, sigma, times)
        inner = (column(unit) * x_t).reshape(b, n, self.channels, *self.plane)
        dtype = self.enter.weight.dtype
        if not self.observed:
            y = None
        elif y is None:
            y = inner.new_zeros(b, n, 2 * self.observed, *self.plane)
        else:
            y = y.reshape(b, n, 2 * self.observed, *self.plane)
        y = None if y is None else y.to(dtype)
        output = self._network(inner.to(dtype), torch.log(sigma / alpha), context.to(x_t), y)
        mean = mean + column(sigma * unit) * output.to(x_t).reshape(x_t.shape)
        return DiracPosterior(mean=mean)
