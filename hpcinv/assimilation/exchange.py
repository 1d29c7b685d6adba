r"""Frames and their cotangents between the time slabs of one member group.

`borrow` brings to each slab the frames its terms need; `give_back` is its adjoint: rows computed
for borrowed frames return to the owners, who add them in order of their terms, so that the sum
does not depend on who computed what. Only slabs that share a term exchange, and without blocking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..waiting import at
from .buffers import Direct, Host, buffers
from .composition import Term
from .partition import owners, slab

__all__ = ["Borrowed", "Exchange", "Route"]


class Route:
    r"""Where each weighted row of a set of terms goes.

    Arguments:
        terms: All terms of the trajectory, in order.
        weights: Their weights; rows with weight 0 do not travel. None: all rows, weight 1.
        active: Which terms take part.
    """

    def __init__(
        self, exchange: Exchange, weights: Sequence[Term] | None, active: Sequence[bool]
    ) -> None:
        terms, owner, me = exchange.terms, exchange.owner, exchange.rank
        a, _b = exchange.frames

        self.rows: dict[int, list[tuple[int, int]]] = {}  # receiver -> (term, position), mine
        incoming: dict[int, list[tuple[int, int]]] = {}  # sender -> (term, position), for me
        for k, term in enumerate(terms):
            if not active[k]:
                continue
            for p, f in enumerate(term.frames):
                if weights is not None and not weights[k].weights[p]:
                    continue
                keeper = exchange.keeper(f)
                if owner[k] == me:
                    self.rows.setdefault(keeper, []).append((k, p))
                if keeper == me:
                    incoming.setdefault(owner[k], []).append((k, p))

        self.senders = {s: len(rows) for s, rows in sorted(incoming.items()) if s != me}
        # All rows that reach me lie in one buffer: mine first, then each sender's.
        order = [me, *self.senders] if me in incoming else list(self.senders)
        place, at = {}, 0
        for s in order:
            for row in incoming[s]:
                place[row] = at
                at += 1
        # Layer j holds the j-th contribution, in order of terms, to each frame that has one.
        seen: dict[int, int] = {}
        layers: list[tuple[list[int], list[int]]] = []
        for k, p in sorted(place):
            f = terms[k].frames[p]
            j = seen.get(f, 0)
            seen[f] = j + 1
            if j == len(layers):
                layers.append(([], []))
            layers[j][0].append(f - a)
            layers[j][1].append(place[k, p])
        self.layers = [(torch.tensor(i), torch.tensor(r)) for i, r in layers]


class Borrowed:
    r"""Frames on their way; those already here can be used at once."""

    def __init__(
        self, have: Tensor, kind: type[Host] | type[Direct], pending: list, got: list, put: list
    ) -> None:
        self.have, self._kind = have, kind
        self._pending, self._got, self._put = pending, got, put

    def finish(self) -> Tensor:
        r"""Waits for the rest. Returns ``(B, needed, *state)``."""

        with at("an exchange of frames"):
            for request in self._pending:
                request.Wait()
        for buffer, index in zip(self._got, self._put, strict=True):
            self.have[:, index] = self._kind.arrived(buffer, self.have)
        self._pending, self._got, self._put = [], [], []
        return self.have


class Exchange:
    r"""One time slab's view of the trajectory.

    Arguments:
        terms: All terms of the trajectory.
        length: Number of frames L.
        comm: The MPI communicator of the member group's slabs, or None.

    Attributes:
        buffers: What is handed to MPI: `Host` or `Direct` (see `buffers`).
    """

    def __init__(self, terms: Sequence[Term], length: int, comm: Any = None) -> None:
        self.terms, self.length, self.comm = list(terms), length, comm
        self.rank, self.size = (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())
        self.buffers = buffers()
        self.frames = slab(length, self.size, self.rank)
        self.owner = owners(self.terms, self.size)
        self.mine = [k for k, o in enumerate(self.owner) if o == self.rank]
        # Bytes of frames sent, bytes of sums, times that frames were lent.
        self.sent = self.summed = self.exchanges = 0

        needs = [
            sorted({f for k, o in enumerate(self.owner) if o == r for f in self.terms[k].frames})
            for r in range(self.size)
        ]
        self.needed = needs[self.rank]
        self.at = {f: i for i, f in enumerate(self.needed)}
        a, b = self.frames
        local = [f for f in self.needed if a <= f < b]
        self._local = (
            torch.tensor([self.at[f] for f in local], dtype=torch.long),
            torch.tensor([f - a for f in local], dtype=torch.long),
        )
        self.local = frozenset(local)
        self._send = {
            r: torch.tensor([f - a for f in need if a <= f < b])
            for r, need in enumerate(needs)
            if r != self.rank and any(a <= f < b for f in need)
        }
        self._receive: dict[int, Tensor] = {}
        for r in range(self.size):
            c, d = slab(length, self.size, r)
            inside = [self.at[f] for f in self.needed if c <= f < d]
            if r != self.rank and inside:
                self._receive[r] = torch.tensor(inside)

    @property
    def own(self) -> list[int]:
        r"""The frames this rank stores."""
        return list(range(*self.frames))

    @property
    def lent(self) -> int:
        r"""Frames that other slabs borrow each time: those of windows that reach across."""
        return sum(len(index) for index in self._send.values())

    def keeper(self, frame: int) -> int:
        r"""The slab that stores a frame."""

        # L k // n <= f < L (k + 1) // n, solved for k.
        return ((frame + 1) * self.size - 1) // self.length

    def borrow(self, x: Tensor) -> Borrowed:
        r"""Starts to bring the frames that this rank's terms need.

        Arguments:
            x: Own frames, with shape ``(B, own, *state)``.
        """

        self.exchanges += 1
        have = x.new_zeros((x.shape[0], len(self.needed), *x.shape[2:]))
        pending, got, put = [], [], []
        for r, index in self._receive.items():
            buffer = self.buffers.incoming(x, (x.shape[0], len(index), *x.shape[2:]))
            pending.append(self.comm.Irecv(buffer, source=r, tag=1))
            got.append(buffer)
            put.append(index)
        sends = []
        for r, index in self._send.items():
            out = self.buffers.outgoing(x[:, index])
            sends.append((self.comm.Isend(out, dest=r, tag=1), out))
            self.sent += out.nbytes
        have[:, self._local[0]] = x[:, self._local[1]]
        # A send's buffer must outlive it: the requests carry their arrays along.
        sent = [_Sent(*s) for s in sends]
        return Borrowed(have, self.buffers, [*pending, *sent], got, put)

    def give_back(self, rows: dict[int, Tensor], route: Route, like: Tensor) -> Tensor:
        r"""Adds weighted rows of terms into the frames they belong to.

        Arguments:
            rows: Weighted values of my active terms, term -> ``(B, frames of term, *state)``.
            route: Which rows travel where.
            like: Own frames, with shape ``(B, own, *state)``; its values are not read.

        Returns:
            The sums at own frames, with shape ``(B, own, *state)``.
        """

        B, state = like.shape[0], like.shape[2:]
        pending, got, sends = [], [], []
        for r, n in route.senders.items():
            buffer = self.buffers.incoming(like, (B, n, *state))
            pending.append(self.comm.Irecv(buffer, source=r, tag=2))
            got.append(buffer)
        parts = []
        for r, entries in route.rows.items():
            block = torch.stack([rows[k][:, p] for k, p in entries], dim=1)
            if r == self.rank:
                parts.append(block)
            else:
                out = self.buffers.outgoing(block)
                sends.append((self.comm.Isend(out, dest=r, tag=2), out))
                self.sent += out.nbytes
        with at("an exchange of means"):
            for request in [*pending, *(request for request, _ in sends)]:
                request.Wait()
        parts += [self.buffers.arrived(b, like) for b in got]

        total = torch.zeros_like(like)
        if parts:
            buffer = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
            for frames, index in route.layers:
                total[:, frames] = total[:, frames] + buffer[:, index]
        return total

    def sum(self, values: np.ndarray) -> np.ndarray:
        r"""Sum over the slabs of the member group."""

        if self.size == 1:
            return values
        values = np.ascontiguousarray(values)
        self.summed += values.nbytes
        out = np.empty_like(values)
        with at("a sum over time slabs"):
            self.comm.Allreduce(values, out)
        return out


class _Sent:
    r"""A send under way, with the memory it reads."""

    def __init__(self, request: Any, array: Any) -> None:
        self._request, self._array = request, array

    def Wait(self) -> None:
        with at("an exchange of frames"):
            self._request.Wait()
