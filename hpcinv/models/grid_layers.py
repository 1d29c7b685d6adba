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
        periodic: Whether the last axis closes on itself, or "both" axes do.
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
        self.rows = periodic == "both" and kernel[0] > 1
        self.columns = bool(periodic) and kernel[1] > 1
        padding = (0 if self.rows else kernel[0] // 2, 0 if self.columns else kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        r"""Maps (N, C_i, H, W) to (N, C_o, H, W)."""
        if self.columns:
            x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
        if self.rows:
            x = torch.cat([x[..., -1:, :], x, x[..., :1, :]], dim=-2)
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
