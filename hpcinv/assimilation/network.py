r"""One denoiser call for all terms of a rank: few large network calls, graphs kept for reuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .composition import Term

__all__ = ["Evaluation", "Network", "Stack"]


class Stack:
    r"""Terms of the same length and time step, evaluated side by side.

    Arguments:
        terms: Their places in the trajectory's list.
        wanted: For whom vector–Jacobian products will be asked for; empty: no graph is kept.
    """

    def __init__(self, terms: Sequence[int], all_terms: Sequence[Term], wanted: frozenset) -> None:
        self.terms, self.wanted, self.graph = list(terms), wanted, bool(wanted)
        self.step = all_terms[self.terms[0]].step
        self.length = len(all_terms[self.terms[0]].frames)
        self.frames = torch.tensor([all_terms[k].frames for k in self.terms])  # (T, W)


def stacks(
    terms: Sequence[Term],
    mine: Sequence[int],
    local: frozenset[int],
    wanted: Sequence[frozenset],
) -> list[Stack]:
    r"""Groups this rank's terms; those that need no borrowed frame come first."""

    groups: dict[tuple, list[int]] = {}
    for k in mine:
        term = terms[k]
        inner = local.issuperset(term.frames)
        groups.setdefault((not inner, len(term.frames), term.step, wanted[k]), []).append(k)
    order = sorted(groups.items(), key=lambda item: (*item[0][:3], len(item[0][3]), item[1]))

    return [Stack(group, terms, key[3]) for key, group in order]


class Network:
    r"""Calls the denoiser on rows of (term, member) pairs.

    Arguments:
        denoiser: An azula denoiser of trajectories, ``(B, W, *state)`` in, mean of the same shape.
        coarse: The denoiser of terms with a larger time step; None takes the first. A denoiser
            whose `timed` is true is given the frames' numbers, as ``times (B, W)``.
        context: Per-frame context, with shape ``(L, K)``, or None.
        rows: Pairs per network call; exactly that many in every call if ``fixed``.
    """

    def __init__(
        self,
        denoiser: Callable,
        coarse: Callable | None = None,
        context: Tensor | None = None,
        rows: int = 64,
    ) -> None:
        self.denoiser, self.coarse = denoiser, coarse or denoiser
        self.context, self.rows = context, rows
        self.calls = self.pairs = self.products = 0

    def __call__(self, stack: Stack, x: Tensor, t: Tensor) -> Evaluation:
        r"""
        Arguments:
            x: Noisy terms, with shape ``(T, B, W, *state)``.
            t: The time, with shape ``()``.
        """

        T, B = x.shape[:2]
        flat = x.flatten(0, 1)
        context = None
        if self.context is not None:
            context = self.context[stack.frames].to(x)  # (T, W, K)
            context = context[:, None].expand(-1, B, -1, -1).flatten(0, 1)

        denoiser = self.coarse if stack.step > 1 else self.denoiser
        times = None
        if getattr(denoiser, "timed", False):
            times = stack.frames.to(x)[:, None].expand(-1, B, -1).flatten(0, 1)
        inputs, outputs = [], []
        for i in range(0, len(flat), self.rows):
            # A fresh tensor: the same alignment whatever its place in the stack.
            piece = flat[i : i + self.rows].clone()
            extra = {} if context is None else {"context": context[i : i + self.rows].clone()}
            if times is not None:
                extra["times"] = times[i : i + self.rows]
            with torch.set_grad_enabled(stack.graph):
                piece.requires_grad_(stack.graph)
                mean = denoiser(piece, t, **extra).mean
            if mean.shape != piece.shape:
                from ..errors import BadInput

                raise BadInput(
                    f"the denoiser maps {tuple(piece.shape)} to {tuple(mean.shape)}",
                    where="denoiser",
                    instead="Its mean must have the shape of its input.",
                )
            inputs.append(piece)
            outputs.append(mean)
            self.calls += 1
            self.pairs += len(piece)

        return Evaluation(self, inputs, outputs, (T, B))


class Evaluation:
    r"""The means of a stack, and their vector–Jacobian products."""

    def __init__(
        self, network: Network, inputs: list[Tensor], outputs: list[Tensor], shape: tuple[int, int]
    ) -> None:
        self._network, self._inputs, self._outputs, self._shape = network, inputs, outputs, shape
        means = [y.detach() for y in outputs]
        flat = torch.cat(means) if len(means) > 1 else means[0]
        self.mean = flat.unflatten(0, shape)  # (T, B, W, *state)

    def vjp(self, v: Tensor) -> Tensor:
        r"""Jᵀv, with shape ``(T, B, W, *state)``; the graph is kept for the next product."""

        flat, out, i = v.flatten(0, 1), [], 0
        for x, y in zip(self._inputs, self._outputs, strict=True):
            piece = flat[i : i + len(x)].clone()
            i += len(x)
            out.append(torch.autograd.grad(y, x, piece, retain_graph=True)[0])
            self._network.products += 1

        flat = torch.cat(out) if len(out) > 1 else out[0]
        return flat.unflatten(0, self._shape)
