r"""Layers for grids whose axes end, or close on themselves."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


def extend(x: Tensor, axis: int, before: int, after: int, periodic: bool) -> Tensor:
    r"""Extends a field past its edges along one axis.

    Arguments:
        x: A field, with shape :math:`(N, C, H, W)`.
        axis: The axis, -2 or -1.
        before, after: Points added on each side: those of the other side where the axis is
            periodic, else the edge repeated, as nothing lies behind a bound.
        periodic: Whether the axis closes on itself.
    """
    if not before and not after:
        return x
    pads = (before, after, 0, 0) if axis == -1 else (0, 0, before, after)
    return F.pad(x, pads, mode="circular" if periodic else "replicate")


class GridConv(nn.Module):
    r"""A 3 x 3 convolution whose padding knows the grid.

    Rows outside the grid are zeros, which tells the layer where the bound is and is cheaper than
    repeating the edge; or, across a pole, the outermost row half a turn further.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        periodic: Whether the last axis closes on itself, or "both" axes do; "poles": the last axis
            does, and the first one runs from pole to pole (an even number of columns).
        kernel: Its size; 1 along an axis of one point, where a neighbour is never anything.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        periodic: bool | str = True,
        kernel: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        self.rows = periodic in ("both", "poles") and kernel[0] > 1
        self.poles = periodic == "poles"
        self.columns = bool(periodic) and kernel[1] > 1
        padding = (0 if self.rows else kernel[0] // 2, 0 if self.columns else kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        r"""Maps (N, C_i, H, W) to (N, C_o, H, W)."""
        if self.rows:
            first, last = x[..., :1, :], x[..., -1:, :]
            if self.poles:
                last, first = (row.roll(x.shape[-1] // 2, -1) for row in (first, last))
            x = torch.cat([last, x, first], dim=-2)
        if self.columns:
            x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
        return self.conv(x)


def half_turn(columns: int, periodic: bool | str) -> None:
    r"""Raises `ValueError` where half a turn is no whole number of columns, as poles want."""
    if periodic == "poles" and columns % 2:
        raise ValueError(f"{columns} columns have no half: periodic: poles wants an even number")


class PositionField(nn.Module):
    r"""Learnt features of each cell, which let a convolution tell places apart.

    A layer of its own, so that an engine that shards weights gathers them around its backward
    pass as well.

    Arguments:
        features: The number of features.
        grid: The grid :math:`(H, W)`.
    """

    def __init__(self, features: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.field = nn.Parameter(torch.zeros(1, features, *grid))

    def forward(self, x: Tensor) -> Tensor:
        r"""Maps (N, C, H, W) to (N, C + F, H, W)."""
        return torch.cat([x, self.field.expand(len(x), -1, -1, -1)], dim=1)
