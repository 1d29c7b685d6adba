r"""Two ways to see the same observations: of the trajectory, or of each window by itself.

A view lists the observed moments of this rank, takes the states that they see (a slot for each
frame of a moment), multiplies by the covariance of x given x_t, and takes inner products.
`TrajectoryView` has one linear system per member, across the ranks of its group; `TermView` one
per member and term, without any message: what lies between two frames is seen by the terms that
hold both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .exact_sum import limbs, value
from .exchange import Exchange
from .moments import Across, Moment, add_layers, frames_of, layers
from .network import Stack
from .slab import Call

__all__ = ["TermView", "TrajectoryView"]

Image = list[Tensor]


def frame_sums(u: Tensor, v: Tensor, cuts: np.ndarray) -> np.ndarray:
    r"""Inner products slot by slot, with shape ``(B, slots)``.

    numpy sums each row of a slot by itself, whatever the number of rows or threads.
    """

    if len(cuts) == 0:
        return np.zeros((u.shape[0], 0))
    return np.add.reduceat((u * v).cpu().numpy(), cuts, axis=1)


def _coefficients(c: Tensor, like: Tensor) -> Tensor:
    return c.to(like)[(...,) + (None,) * (like.ndim - c.ndim)]


def _add(total: Image | None, coefficients: list[Tensor], image: Image) -> Image:
    r"""total + c · image; a zero coefficient keeps out even what is not finite."""

    terms = [torch.where(c == 0, 0.0, c * q) for c, q in zip(coefficients, image, strict=True)]
    return terms if total is None else [a + b for a, b in zip(total, terms, strict=True)]


class TrajectoryView:
    r"""All frames of a member are one system.

    Arguments:
        exchange: The partition of frames.
        observed: All observed moments of the trajectory, in order.
        reproducible: Add the moments' inner products exactly, whichever rank holds them.
    """

    def __init__(self, exchange: Exchange, observed: list[Moment], reproducible: bool) -> None:
        self._exchange, self._reproducible = exchange, reproducible
        a, b = exchange.frames
        self.moments = [m for m in observed if a <= m < b]
        self._across = Across(exchange, observed)
        frames = [f - a for f in frames_of(self.moments)]
        self._at = torch.tensor(frames, dtype=torch.long)
        self._layers = layers([f for f in frames if f < b - a])
        self.systems = 1

    def sized(self, sizes: list[int]) -> None:
        r"""Learns the number of observations of each slot."""
        self._cuts = np.cumsum([0, *sizes])[:-1] if sizes else np.zeros(0, int)

    def take(self, mean: Image) -> Tensor:
        r"""States of the observed slots, with shape ``(B, S, *state)``."""
        return self._across.take(mean[0])[:, self._at]

    def put(self, a: Tensor, like: Image) -> Image:
        r"""Cotangents of slots into the state."""
        out = torch.zeros_like(like[0])
        before = self._across.give(a[:, -1:])
        if before is not None:
            out[:, :1] = before
        add_layers(out, a, self._at, self._layers)
        return [out]

    def transposed(self, call: Call, v: Image, spare: bool = False) -> Image:
        r"""Jᵀv, or that of the products' spare kind."""
        return [call.vjp(v[0], spare)]

    def mean(self, call: Call) -> Image:
        return [call.compose()]

    def compose(self, call: Call, mean: Image) -> Tensor:
        return mean[0]

    def dot(self, u: Tensor, v: Tensor) -> Tensor:
        sums = frame_sums(u, v, self._cuts)
        if self._reproducible:
            total = value(self._exchange.sum(limbs(sums)))
        else:
            total = self._exchange.sum(sums.sum(1))
        return torch.from_numpy(total[:, None]).to(u.device)

    def spread(self, c: Tensor) -> Tensor:
        return c

    def combine(self, total: Image | None, c: Tensor, image: Image) -> Image:
        return _add(total, [_coefficients(c, q) for q in image], image)

    def untrusted(self, mean: Image, correction: Image, limit: float) -> tuple[Tensor, list]:
        r"""Members whose correction is not finite or beyond the limit, on any rank.

        Returns:
            Flags with shape ``(B, 1)``, and per member this rank's frames at fault.
        """

        size = _size(correction[0], 2)  # (B, own)
        bad = ~(size <= limit)
        frames = [[self._exchange.own[int(i)] for i in row.nonzero()] for row in bad]
        flags = self._exchange.sum(bad.any(1).double().cpu().numpy()[:, None])
        return torch.from_numpy(flags > 0), frames

    def select(self, flags: Tensor, a: Image, b: Image) -> Image:
        r"""a where flagged, else b."""
        f = flags.to(a[0].device)
        return [torch.where(f[(...,) + (None,) * (a[0].ndim - 2)], a[0], b[0])]


class TermView:
    r"""Each term of a member is a system of its own."""

    def __init__(self, exchange: Exchange, stacks: list[Stack], observed: list[Moment]) -> None:
        self._stacks, self._exchange = stacks, exchange
        self.moments: list[Moment] = []
        self._terms: list[tuple[int, ...]] = []  # frames of each system
        self._slots: list[tuple[Tensor, Tensor]] = []  # (row in stack, position) of its slots
        self._layers: list[list[list[int]]] = []
        self._systems: list[slice] = []
        system_of_slot: list[int] = []
        for stack in stacks:
            first = len(self._terms)
            rows, places = [], []
            if stack.graph:
                for row, frames in enumerate(stack.frames.tolist()):
                    place = {f: i for i, f in enumerate(frames)}
                    for m in observed:
                        own = frames_of([m])
                        if place.keys() >= set(own):
                            rows += [row] * len(own)
                            places += [place[f] for f in own]
                            self.moments.append(m)
                            system_of_slot.append(len(self._terms))
                    self._terms.append(tuple(frames))
            self._slots.append((torch.tensor(rows).long(), torch.tensor(places).long()))
            self._layers.append(layers(list(zip(rows, places, strict=True))))
            self._systems.append(slice(first, len(self._terms)))
        self.systems = max(len(self._terms), 1)
        self._system_of_slot = np.array(system_of_slot, dtype=int)

    def sized(self, sizes: list[int]) -> None:
        self._cuts = np.cumsum([0, *sizes])[:-1] if sizes else np.zeros(0, int)
        self.system = torch.from_numpy(np.repeat(self._system_of_slot, sizes))

    def take(self, mean: Image) -> Tensor:
        if not mean:  # a rank without terms
            return self._nothing
        # (T, B, W, *state) -> (B, slots of the stack, *state)
        parts = [m[r, :, p].movedim(0, 1) for m, (r, p) in zip(mean, self._slots, strict=True)]
        return torch.cat(parts, dim=1)

    def put(self, a: Tensor, like: Image) -> Image:
        out, at = [], 0
        for m, (r, p), order in zip(like, self._slots, self._layers, strict=True):
            z = torch.zeros_like(m)
            part = a[:, at : at + len(r)].movedim(1, 0)
            for i in map(torch.tensor, order):
                z[r[i], :, p[i]] = z[r[i], :, p[i]] + part[i]
            at += len(r)
            out.append(z)
        return out

    def transposed(self, call: Call, v: Image) -> Image:
        return [
            e.vjp(u) if stack.graph else torch.zeros_like(u)
            for stack, e, u in zip(self._stacks, call.evaluations, v, strict=True)
        ]

    def mean(self, call: Call) -> Image:
        self._nothing = call.x[:, :0]
        return [e.mean for e in call.evaluations]

    def compose(self, call: Call, mean: Image) -> Tensor:
        return call.compose(mean)

    def dot(self, u: Tensor, v: Tensor) -> Tensor:
        sums = frame_sums(u, v, self._cuts)
        total = np.zeros((u.shape[0], self.systems))
        for k, s in zip(self._system_of_slot, sums.T, strict=True):
            total[:, k] = total[:, k] + s
        return torch.from_numpy(total).to(u.device)

    def spread(self, c: Tensor) -> Tensor:
        return c[:, self.system]

    def _per_stack(self, c: Tensor, image: Image) -> list[Tensor]:
        r"""(B, systems) -> (T, B, 1...) for each stack."""
        out = []
        for q, k in zip(image, self._systems, strict=True):
            part = c[:, k].T if k.stop > k.start else c.new_zeros((q.shape[0], q.shape[1]))
            out.append(part.to(q.device)[(...,) + (None,) * (q.ndim - 2)])
        return out

    def combine(self, total: Image | None, c: Tensor, image: Image) -> Image:
        parts = self._per_stack(c, image)
        return _add(total, [p.to(q) for p, q in zip(parts, image, strict=True)], image)

    def untrusted(self, mean: Image, correction: Image, limit: float) -> tuple[Tensor, list]:
        flags = torch.zeros((len(self._nothing), self.systems))
        frames: list[list[int]] = [[] for _ in range(len(flags))]
        for q, k in zip(correction, self._systems, strict=True):
            if k.stop == k.start:
                continue
            bad = ~(_size(q, 3) <= limit)  # (T, B, W)
            flags[:, k] = bad.any(-1).T.to(flags)
            for t, b, w in bad.nonzero().tolist():
                frames[b].append(self._terms[k.start + t][w])
        return flags > 0, frames

    def select(self, flags: Tensor, a: Image, b: Image) -> Image:
        parts = self._per_stack(flags.double(), a)
        return [torch.where(f > 0, x, y) for f, x, y in zip(parts, a, b, strict=True)]


def _size(x: Tensor, lead: int) -> Tensor:
    r"""Root mean square over the state's axes."""

    if x.ndim == lead:
        return x.abs()
    return x.flatten(lead).square().mean(-1).sqrt()
