r"""The composed denoiser on one time slab: its mean and its transposed Jacobian, across ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .composition import Term, averaged
from .exchange import Exchange, Route
from .network import Evaluation, Network, Stack, stacks

__all__ = ["Call", "Products", "Slab"]


class Products:
    r"""How vector–Jacobian products of the trajectory are assembled from those of its terms.

    Jᵀv = Σ_k Out_k J_kᵀ In_k v, with diagonal weights In, Out over each term's frames.

    Arguments:
        kind: `own`: the composed denoiser's Jacobian (In = its weights, Out = 1); `averaged`: a
            positive surrogate (In = Out = a square-root partition of unity over windows);
            `terms`: each term by itself, nothing is assembled; `none`: no products.
        observed: Frames where v may differ from zero.
        spare: Another kind, which `Call.vjp` can be asked for instead.
    """

    def __init__(
        self,
        kind: str,
        exchange: Exchange,
        observed: frozenset[int],
        spare: Products | None = None,
    ) -> None:
        terms, self.kind = exchange.terms, kind
        unit = [Term(t.frames, (1.0,) * len(t.frames), t.window) for t in terms]
        self.enter, self.leave = {
            "own": (terms, unit),
            "averaged": (averaged(terms),) * 2,
            "terms": (terms, unit),
            "none": (terms, unit),
        }[kind]
        self.active = [
            kind != "none"
            and any(c and f in observed for f, c in zip(t.frames, t.weights, strict=True))
            for t in self.enter
        ]
        if kind == "terms":
            self.active = [any(t.weights) and not observed.isdisjoint(t.frames) for t in terms]
        self.route, self.spare = Route(exchange, self.leave, self.active), spare
        wanted = [frozenset({self}) if a else frozenset() for a in self.active]
        if spare is not None:
            wanted = [w | {spare} if a else w for w, a in zip(wanted, spare.active, strict=True)]
        self.stacks = stacks(terms, exchange.mine, exchange.local, wanted)


class Slab:
    r"""One member group's trajectory, as one of its ranks sees it.

    Arguments:
        exchange: The partition of frames and terms.
        network: The denoiser of terms.
    """

    def __init__(self, exchange: Exchange, network: Network) -> None:
        self.exchange, self.network = exchange, network
        everything = [True] * len(exchange.terms)
        self._forward = Route(exchange, exchange.terms, everything)

    def __call__(self, x: Tensor, t: Tensor, products: Products) -> Call:
        r"""Evaluates every term of this rank once.

        Arguments:
            x: Own noisy frames, with shape ``(B, own, *state)``.
            t: The time, with shape ``()``.
        """

        borrowed = self.exchange.borrow(x)
        evaluations = []
        whole = None
        for stack in products.stacks:
            # Inner terms come first: their work hides the messages.
            if whole is None and not self._inner(stack):
                whole = borrowed.finish()
            have = borrowed.have if whole is None else whole
            evaluations.append(self.network(stack, self._gather(stack, have), t))
        borrowed.finish()

        return Call(self, products, evaluations, x)

    def _inner(self, stack: Stack) -> bool:
        return self.exchange.local.issuperset(stack.frames.flatten().tolist())

    def _gather(self, stack: Stack, needed: Tensor) -> Tensor:
        r"""``(B, needed, *state)`` -> ``(T, B, W, *state)``."""

        index = torch.tensor([[self.exchange.at[int(f)] for f in row] for row in stack.frames])
        return needed[:, index].movedim(1, 0)

    def _weights(self, stack: Stack, terms: Sequence[Term], like: Tensor) -> Tensor:
        r"""Weights of a stack, with shape ``(T, 1, W, 1...)``."""

        c = torch.tensor([terms[k].weights for k in stack.terms], dtype=like.dtype)
        return c.to(like.device)[(slice(None), None, slice(None)) + (None,) * (like.ndim - 3)]


class Call:
    r"""The composed denoiser at one (x, t)."""

    def __init__(
        self, slab: Slab, products: Products, evaluations: list[Evaluation], x: Tensor
    ) -> None:
        self.slab, self.products, self.evaluations, self.x = slab, products, evaluations, x

    def compose(self, means: Sequence[Tensor] | None = None) -> Tensor:
        r"""The trajectory's mean at own frames, with shape ``(B, own, *state)``.

        Arguments:
            means: Means of the stacks' terms to use instead of the denoiser's own.
        """

        slab, rows = self.slab, {}
        for i, stack in enumerate(self.products.stacks):
            mean = self.evaluations[i].mean if means is None else means[i]
            mean = mean * slab._weights(stack, slab.exchange.terms, mean)
            rows.update(zip(stack.terms, mean, strict=True))
        return slab.exchange.give_back(rows, slab._forward, self.x)

    def vjp(self, v: Tensor, spare: bool = False) -> Tensor:
        r"""The products' Jᵀv at own frames; a collective of the member group.

        Arguments:
            v: Cotangents of own frames, with shape ``(B, own, *state)``.
            spare: Of the products' spare kind.
        """

        slab, rows = self.slab, {}
        products = self.products.spare if spare else self.products
        needed = slab.exchange.borrow(v).finish()
        for stack, evaluation in zip(self.products.stacks, self.evaluations, strict=True):
            if products not in stack.wanted:
                continue
            u = slab._gather(stack, needed)
            u = evaluation.vjp(u * slab._weights(stack, products.enter, u))
            u = u * slab._weights(stack, products.leave, u)
            rows.update(zip(stack.terms, u, strict=True))
        return slab.exchange.give_back(rows, products.route, v)
