r"""The likelihood linearised at one state: products with A and Aᵀ within a memory budget.

Moments are treated in groups. If the graphs of all groups fit the budget they are kept, and each
product costs one pass; else each product recomputes its group, and no more than one group of
decoded frames exists at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .likelihood import Likelihood
from .moments import Moment, width

__all__ = ["Linearised"]


def graph_bytes(likelihood: Likelihood, x: Tensor, moment: Moment) -> int:
    r"""Bytes that autograd keeps for the operator at one moment, seeing all of ``x``."""

    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        seen[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = likelihood.operator(x.detach().requires_grad_(), [moment])

    return sum(seen.values()) + y.numel() * y.element_size()


class Linearised:
    r"""
    Arguments:
        likelihood: The observations.
        x: States of the observed slots, with shape ``(B, S, *state)``.
        moments: The moments observed, each of which sees one slot, or two.
        memory: Bytes that may be held.
        block: None, or the fixed number of members per operator call (one moment at a time).
        cost: Bytes of the operator's graph per member and moment, from `graph_bytes`.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        x: Tensor,
        moments: Sequence[Moment],
        memory: float,
        block: int | None,
        cost: float,
    ) -> None:
        self._likelihood, self._x, moments = likelihood, x.detach(), list(moments)
        self.sizes = likelihood.sizes(moments)
        self._linear = bool(getattr(likelihood, "linear", False))
        self.variance: Tensor | None = None  # R's diagonal where members differ, (B, D)
        B, S = len(x), len(moments)
        cost = max(cost, 1.0)
        self._keep = B * S * cost <= memory
        rows = block or B
        if block:
            some = 1
        elif self._keep:
            some = max(S, 1)
        else:
            some = int(min(max(memory // (rows * cost), 1), max(S, 1)))

        columns = [0, *itertools.accumulate(self.sizes)]
        slots = [0, *itertools.accumulate(map(width, moments))]
        self.total = columns[-1]
        self._pieces = [
            _Piece(
                likelihood,
                slice(b, b + rows),
                slice(slots[s], slots[min(s + some, S)]),
                moments[s : s + some],
                slice(columns[s], columns[min(s + some, S)]),
            )
            for b in range(0, B, rows)
            for s in range(0, S, some)
        ]
        self.value = self._assemble([p.start(self._x, self._keep) for p in self._pieces])
        self._scatter = None
        if getattr(likelihood, "scatters", False):
            with torch.no_grad():
                self._scatter = self._assemble([p.scatter(self._x) for p in self._pieces])

    def _assemble(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        out = self._x.new_zeros((self._x.shape[0], self.total))
        for piece, part in zip(self._pieces, parts, strict=True):
            out[piece.rows, piece.columns] = part
        return out

    def vjp(self, u: Tensor) -> Tensor:
        r"""Aᵀu: ``(B, D)`` -> ``(B, S, *state)``."""

        parts = [p.vjp(self._x, u) for p in self._pieces]
        if len(parts) == 1:
            return parts[0]
        out = torch.zeros_like(self._x)
        for piece, part in zip(self._pieces, parts, strict=True):
            out[piece.rows, piece.slots] = part
        return out

    def jvp(self, v: Tensor) -> Tensor:
        r"""A v: ``(B, S, *state)`` -> ``(B, D)``."""

        return self._assemble([p.jvp(self._x, v, self._linear) for p in self._pieces])

    def covariance(self, u: Tensor) -> Tensor:
        r"""R u, what a linearisation leaves included: ``(B, D)`` -> ``(B, D)``."""

        if self.variance is not None:
            return self.variance.to(u) * u
        out = self._assemble([p.covariance(u) for p in self._pieces])
        return out if self._scatter is None else out + self._scatter * u


class _Piece:
    r"""Some members of some moments: one call of the operator."""

    def __init__(self, likelihood, rows: slice, slots: slice, moments, columns: slice) -> None:
        self.likelihood, self.rows, self.slots = likelihood, rows, slots
        self.moments, self.columns = moments, columns
        self._graph = self._transposed = self._origin = None

    def _take(self, x: Tensor) -> Tensor:
        return x[self.rows, self.slots].clone()

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = self._take(x).requires_grad_()
            return leaf, self.likelihood.operator(leaf, self.moments)

    def start(self, x: Tensor, keep: bool) -> Tensor:
        if not self.moments:
            return x.new_zeros((x[self.rows].shape[0], 0))
        if keep:
            self._graph = self._forward(x)
            return self._graph[1].detach()
        with torch.no_grad():
            return self.likelihood.operator(self._take(x), self.moments)

    def scatter(self, x: Tensor) -> Tensor:
        if not self.moments:
            return x.new_zeros((x[self.rows].shape[0], 0))
        return self.likelihood.scatter(self._take(x), self.moments)

    def vjp(self, x: Tensor, u: Tensor) -> Tensor:
        if not self.moments:
            return self._take(x)
        leaf, y = self._graph or self._forward(x)
        u = u[self.rows, self.columns].clone()
        return torch.autograd.grad(y, leaf, u, retain_graph=self._graph is not None)[0]

    def jvp(self, x: Tensor, v: Tensor, linear: bool) -> Tensor:
        if not self.moments:
            return v.new_zeros((v[self.rows].shape[0], 0))
        v = self._take(v)
        if linear:
            with torch.no_grad():
                if self._origin is None:
                    zero = torch.zeros_like(v)
                    self._origin = self.likelihood.operator(zero, self.moments)
                return self.likelihood.operator(v, self.moments) - self._origin
        if self._graph is None:
            forward = lambda z: self.likelihood.operator(z, self.moments)  # noqa: E731
            return torch.func.jvp(forward, (self._take(x),), (v,))[1]
        # Aᵀu is linear in u: its own transposed product with v is A v, at the price of one more
        # backward pass, and its graph serves every iteration.
        if self._transposed is None:
            leaf, y = self._graph
            with torch.enable_grad():
                u = torch.zeros_like(y, requires_grad=True)
                g = torch.autograd.grad(y, leaf, u, create_graph=True)[0]
            self._transposed = (u, g)
        u, g = self._transposed
        return torch.autograd.grad(g, u, v, retain_graph=True)[0]

    def covariance(self, u: Tensor) -> Tensor:
        u = u[self.rows, self.columns].clone()
        return self.likelihood.covariance(u, self.moments) if self.moments else u
