r"""Layers for latitude-longitude grids: periodic along longitude, bounded along latitude."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


def pad(x: Tensor, rows: int, columns: int, periodic: bool = True) -> Tensor:
    r"""Extends a field past its edges.

    Arguments:
        x: A field, with shape :math:`(N, C, H, W)`.
        rows: Rows added above and below. They repeat the edge, as nothing lies behind a bound.
        columns: Columns added left and right, from the other side when `periodic`.
        periodic: Whether the last axis closes on itself.

    Returns:
        The extended field, with shape :math:`(N, C, H + 2 r, W + 2 c)`.
    """
    if columns:
        mode = "circular" if periodic else "replicate"
        x = F.pad(x, (columns, columns, 0, 0), mode=mode)
    if rows:
        x = F.pad(x, (0, 0, rows, rows), mode="replicate")
    return x


class GridConv(nn.Module):
    r"""A 3 x 3 convolution whose padding knows the grid.

    Rows outside the grid are zeros, which tells the layer where the bound is and is cheaper than
    repeating the edge.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        periodic: Whether the last axis closes on itself.
    """

    def __init__(self, inputs: int, outputs: int, periodic: bool = True) -> None:
        super().__init__()
        self.periodic = periodic
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=(1, 0 if periodic else 1))

    def forward(self, x: Tensor) -> Tensor:
        r"""Maps (N, C_i, H, W) to (N, C_o, H, W)."""
        if self.periodic:
            x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
        return self.conv(x)


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
