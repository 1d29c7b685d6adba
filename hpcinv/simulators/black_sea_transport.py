r"""Transport of tracers on depth levels: advection, mixing, and what sinks.

Cells have shape :math:`(K, y, x)`, level 0 at the surface; a column is wet down to its bottom
level. All fluxes are between wet cells, so that the mass of a tracer changes by its sources only.
"""

from __future__ import annotations

__all__ = ["Cells", "advect", "diffuse", "sink"]

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    r"""Equal cells on levels of some thickness.

    Arguments:
        thickness: Of each level, in m, with shape :math:`(K)`.
        bottom: Wet levels of each column, 0 on land, with shape :math:`(y, x)`.
        width, height: Of a cell along x and y, in m.
    """

    thickness: Tensor
    bottom: Tensor
    width: float
    height: float

    @cached_property
    def wet(self) -> Tensor:
        r"""Whether a cell is wet, as 0 or 1, with shape (K, y, x)."""
        level = torch.arange(len(self.thickness))[:, None, None]
        return (level < self.bottom).double()

    @cached_property
    def last(self) -> Tensor:
        r"""1 in the lowest wet cell of each column, with shape (K, y, x)."""
        level = torch.arange(len(self.thickness))[:, None, None]
        return (level == self.bottom - 1).double()

    @cached_property
    def volume(self) -> Tensor:
        r"""In cubic metres, with shape (K, y, x)."""
        return self.wet * self.thickness[:, None, None] * (self.width * self.height)

    @cached_property
    def open(self) -> tuple[Tensor, Tensor]:
        r"""Faces between wet cells along x, (K, y, x - 1), and along y, (K, y - 1, x)."""
        w = self.wet
        return w[:, :, 1:] * w[:, :, :-1], w[:, 1:] * w[:, :-1]

    @cached_property
    def corners(self) -> Tensor:
        r"""1 at inner corners with four wet columns around, (y - 1, x - 1): where a stream
        function may differ from zero."""
        w = self.wet[0]
        return w[1:, 1:] * w[1:, :-1] * w[:-1, 1:] * w[:-1, :-1]

    def flow(self, stream: Tensor, ekman: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        r"""Volume fluxes through faces, :math:`m^3/s`, that neither create nor destroy volume.

        Arguments:
            stream: Stream function of the vertically integrated flow at the inner corners,
                :math:`m^3/s`, with shape :math:`(n, y - 1, x - 1)`. The flow is alike on all
                open levels of a face.
            ekman: Transport of level 0 along x and y, :math:`m^2/s`, broadcastable to
                :math:`(n, y, x)`; it returns below, on the face's other open levels.

        Returns:
            Fluxes to higher x, (n, K, y, x - 1); to higher y, (n, K, y - 1, x); and upwards
            through the top of levels 1 to K - 1, (n, K - 1, y, x).
        """
        psi = F.pad(stream * self.corners, (1, 1, 1, 1))  # corners of all cells: (y + 1, x + 1)
        across = (
            psi[:, :-1, 1:-1] - psi[:, 1:, 1:-1],  # u = -d psi / dy
            psi[:, 1:-1, 1:] - psi[:, 1:-1, :-1],  # v = d psi / dx
        )
        h = self.thickness[:, None, None]
        out = []
        for total, face, e, side in zip(
            across, self.open, ekman, (self.height, self.width), strict=True
        ):
            depth = (face * h).sum(0)
            flux = total[:, None] * face * h / depth.clamp(min=1)
            below = (face[1:] * h[1:]).sum(0)
            e = e.expand(len(stream), *self.bottom.shape)
            e = (e[:, :, 1:] + e[:, :, :-1]) if face is self.open[0] else (e[:, 1:] + e[:, :-1])
            e = e / 2 * side * (below > 0)
            back = -e[:, None] * face[1:] * h[1:] / below.clamp(min=1)
            out.append(flux + torch.cat([(e * face[0])[:, None], back], 1))
        x, y = out
        gain = (
            F.pad(x, (1, 0)) - F.pad(x, (0, 1)) + F.pad(y, (0, 0, 1, 0)) - F.pad(y, (0, 0, 0, 1))
        )
        # What a level and those above it gain must leave through its floor: up is minus that.
        return x, y, -gain.cumsum(1)[:, :-1] * self.wet[1:]

    def emptied(self, stream: Tensor, seconds: float) -> float:
        r"""How often a flow takes in a step what a cell holds, where it does so most: beyond one
        `advect` is no longer stable.

        Arguments:
            stream: As of `flow`, without wind.
            seconds: Of the step.
        """
        still = stream.new_zeros(1, 1, 1)
        x, y, z = self.flow(stream, (still, still))
        out = F.pad(x.clamp(min=0), (0, 1)) + F.pad((-x).clamp(min=0), (1, 0))
        out = out + F.pad(y.clamp(min=0), (0, 0, 0, 1)) + F.pad((-y).clamp(min=0), (0, 0, 1, 0))
        out = out + F.pad(z.clamp(min=0), (0, 0, 0, 0, 1, 0))
        out = out + F.pad((-z).clamp(min=0), (0, 0, 0, 0, 0, 1))
        return float((seconds * out / self.volume.clamp(min=1) * self.wet).max())


def advect(c: Tensor, fluxes: tuple[Tensor, ...], cells: Cells, seconds: float) -> Tensor:
    r"""One upwind step: conservative, and positive while no cell is emptied in a step.

    Arguments:
        c: Tracers, with shape :math:`(n, V, K, y, x)`.
        fluxes: Of `Cells.flow`.
    """
    x, y, z = (f[:, None] for f in fluxes)
    fx = x.clamp(min=0) * c[..., :-1] + x.clamp(max=0) * c[..., 1:]
    fy = y.clamp(min=0) * c[..., :-1, :] + y.clamp(max=0) * c[..., 1:, :]
    fz = z.clamp(min=0) * c[:, :, 1:] + z.clamp(max=0) * c[:, :, :-1]
    gain = F.pad(fx, (1, 0)) - F.pad(fx, (0, 1))
    gain = gain + F.pad(fy, (0, 0, 1, 0)) - F.pad(fy, (0, 0, 0, 1))
    gain = gain + F.pad(fz, (0, 0, 0, 0, 0, 1)) - F.pad(fz, (0, 0, 0, 0, 1, 0))
    return c + seconds * gain / cells.volume.clamp(min=1)


def diffuse(c: Tensor, diffusivity: Tensor, cells: Cells, seconds: float) -> Tensor:
    r"""One implicit step of vertical mixing: stable for any diffusivity.

    Arguments:
        c: Tracers, with shape :math:`(n, V, K, y, x)`.
        diffusivity: At the tops of levels 1 to K - 1, :math:`m^2/s`, (n, K - 1, y, x).
    """
    h = cells.thickness
    between = (h[1:] + h[:-1]) / 2
    g = diffusivity * cells.wet[1:] * (seconds / between)[:, None, None]
    g = F.pad(g, (0, 0, 0, 0, 1, 1))[:, None]  # at all tops and floors, m
    c, h = c * h[:, None, None], h[:, None, None]
    # Thomas's algorithm on (h + g_top + g_floor) c_k - g_top c_(k-1) - g_floor c_(k+1) = h c.
    K, ratio, right = len(cells.thickness), [], []
    for k in range(K):
        pivot = h[k] + g[:, :, k] + g[:, :, k + 1]
        value = c[:, :, k]
        if k:
            pivot = pivot - g[:, :, k] * ratio[-1]
            value = value + g[:, :, k] * right[-1]
        ratio.append(g[:, :, k + 1] / pivot)
        right.append(value / pivot)
    out = [right[-1]]
    for k in reversed(range(K - 1)):
        out.append(right[k] + ratio[k] * out[-1])
    return torch.stack(out[::-1], 2)


def sink(source: Tensor, cells: Cells, length: float) -> Tensor:
    r"""Where what leaves each cell decays: exponentially with depth below it, the rest at the
    bottom of the column.

    Arguments:
        source: Amount a volume, (n, K, y, x).
        length: The depth over which a share 1 - 1/e decays, m.

    Returns:
        Amount a volume that decays in each cell; its integral over a column is the source's.
    """
    h = cells.thickness
    flux, out = torch.zeros_like(source[:, 0]), []
    for k in range(len(h)):
        kept = torch.exp(-h[k] / length)
        decayed = torch.where(cells.last[k] > 0, flux, flux * (1 - kept))
        own = source[:, k] * h[k]
        at_bottom = cells.last[k] * own  # nothing is below to sink to
        out.append((decayed + at_bottom) / h[k] * cells.wet[k])
        flux = flux - decayed + own - at_bottom
    return torch.stack(out, 1)
