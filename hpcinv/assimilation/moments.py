r"""Moments of a trajectory at which something is observed: its frames, and between two of them.

A moment is a frame's number f, or f + ½ for all that lies between frames f and f + 1: what is
observed there sees both. In time slabs, a moment belongs to the slab that stores frame f; if f is
its last frame, the next slab lends frame f + 1 and gets the cotangents of it (`Across`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ..waiting import at
from .exchange import Exchange

__all__ = ["Across", "Moment", "add_layers", "frames_of", "layers", "moments_of", "width"]

Moment = int | float


def width(moment: Moment) -> int:
    r"""How many frames a moment sees: one, or two."""
    return 1 if moment == int(moment) else 2


def frames_of(moments: Sequence[Moment]) -> list[int]:
    r"""The frames that moments see, one after the other: [0, ½, 3] sees 0, 0, 1, 3."""
    return [int(m) + k for m in moments for k in range(width(m))]


def moments_of(length: int, between: bool) -> list[Moment]:
    r"""All moments of L frames, with those between frames or without."""
    if not between:
        return list(range(length))
    return [k // 2 if k % 2 == 0 else k / 2 for k in range(2 * length - 1)]


def layers(targets: Sequence[Hashable]) -> list[list[int]]:
    r"""Places in a list of targets such that no layer holds a target twice.

    Layer j holds the j-th place of each target: sums made layer by layer do not depend on where
    the list was cut.
    """
    seen: dict[Hashable, int] = {}
    out: list[list[int]] = []
    for i, target in enumerate(targets):
        j = seen.get(target, 0)
        seen[target] = j + 1
        if j == len(out):
            out.append([])
        out[j].append(i)
    return out


def add_layers(out: Tensor, a: Tensor, at: Tensor, order: Sequence[Sequence[int]]) -> None:
    r"""Adds a's columns into out's columns `at`, in place, layer by layer."""
    for places in order:
        i = torch.tensor(places)
        out[:, at[i]] = out[:, at[i]] + a[:, i]


class Across:
    r"""The frame after a slab's last one, where a moment lies between the two.

    Arguments:
        exchange: The partition of frames.
        moments: All observed moments of the trajectory, the same on every rank.
    """

    def __init__(self, exchange: Exchange, moments: Sequence[Moment]) -> None:
        self._exchange = exchange
        a, b = exchange.frames
        seen = set(moments) if a < b else set()
        self.after = exchange.keeper(b) if b - 0.5 in seen and b < exchange.length else None
        self.before = exchange.keeper(a - 1) if a - 0.5 in seen and a > 0 else None

    def take(self, x: Tensor) -> Tensor:
        r"""Own frames ``(B, own, *state)`` and, if a moment needs it, the one after them."""
        got = self._swap(x[:, :1], self.before, self.after)
        return x if got is None else torch.cat([x, got], 1)

    def give(self, last: Tensor) -> Tensor | None:
        r"""Cotangents of the frame after, ``(B, 1, *state)``, to its slab.

        Returns:
            Those that the slab before has of the first own frame, or None.
        """
        return self._swap(last, self.after, self.before)

    def _swap(self, x: Tensor, to: int | None, of: int | None) -> Tensor | None:
        exchange, out, sent = self._exchange, None, None
        if to is not None:
            buffer = exchange.buffers.outgoing(x)
            sent = exchange.comm.Isend(buffer, dest=to, tag=4)
            exchange.sent += buffer.nbytes
        with at("an exchange of frames"):
            if of is not None:
                got = exchange.buffers.incoming(x, (len(x), 1, *x.shape[2:]))
                exchange.comm.Recv(got, source=of, tag=4)
                out = exchange.buffers.arrived(got, x)
            if sent is not None:
                sent.Wait()
        return out
