r"""A denoiser for L frames as a signed sum of denoisers of a few frames.

Scores add: Σ_r c_r s_r, where r runs over sets of frames (terms) and s_r is the score of the
marginal of r. With x̂ = (x_t + σ² s)/α and Σ_{r ∋ i} c_r = 1 for every frame i, the same sum holds
for means: x̂_i = Σ_r c_{r,i} x̂_{r,i}, which is how it is computed.

* `center` (Rozet & Louppe 2023; Appa): each frame is taken from the one window that holds it
  nearest to its middle.
* `junction` (junction tree; DiffCollage, Zhang et al. 2023): windows minus overlaps, exact for
  Markov chains as t → 0.
* Coarse windows, of every k-th frame, carry long memory. The counting numbers
  c_r = 1 − Σ_{s ⊋ r} c_s over all intersections of windows (Kikuchi's region graph) correct for
  what coarse and fine windows share.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ..errors import BadInput
from .windows import cover, middles

__all__ = ["Coarse", "Term", "averaged", "compose"]


@dataclass(frozen=True)
class Coarse:
    r"""Windows of every ``step``-th frame, beside the fine ones.

    ``denoiser`` is trained on frames ``step`` apart; None takes the fine one, which then must
    know windows of both: `train` with ``time_steps: [1, step]``.
    """

    step: int
    window: int
    overlap: int = 1
    denoiser: object = None


@dataclass(frozen=True)
class Term:
    r"""A set of frames denoised together, and the weight of each in the trajectory's mean."""

    frames: tuple[int, ...]
    weights: tuple[float, ...]
    window: bool  # one of the windows, not an overlap

    @property
    def step(self) -> int:
        r"""Frames between two of its own."""
        return self.frames[1] - self.frames[0] if len(self.frames) > 1 else 1


def counting(clusters: list[frozenset[int]]) -> dict[frozenset[int], int]:
    r"""Counting numbers of the clusters and of all their intersections (zeros left out)."""

    regions = set(clusters)
    fresh = set(clusters)
    while fresh:
        meets = {a & b for a in fresh for b in clusters if not a.isdisjoint(b)}
        fresh = meets - regions
        regions |= fresh

    count: dict[frozenset[int], int] = {}
    for r in sorted(regions, key=len, reverse=True):
        count[r] = 1 - sum(c for s, c in count.items() if c and r < s)

    return {r: c for r, c in count.items() if c}


def compose(
    rule: str, length: int, window: int, overlap: int, coarse: Coarse | None = None
) -> list[Term]:
    r"""The terms of a trajectory of ``length`` frames, in order of their first frame.

    Raises:
        BadInput: If the rule is unknown or the windows cannot cover the trajectory.
    """

    fine = cover(length, window, overlap)

    if rule == "center":
        terms = [
            Term(tuple(range(a, b)), tuple(float(i <= f < j) for f in range(a, b)), True)
            for (a, b), (i, j) in zip(fine, middles(fine), strict=True)
        ]
    elif rule == "junction":
        terms = [Term(tuple(range(a, b)), (1.0,) * (b - a), True) for a, b in fine]
        # With V > W/2, three windows may share frames: intersections of neighbours are enough.
        terms += [
            Term(tuple(range(b, stop)), (-1.0,) * (stop - b), False)
            for (_, stop), (b, _) in itertools.pairwise(fine)
        ]
    else:
        raise BadInput(
            f"unknown composition '{rule}'", where="compose", instead="Use center or junction."
        )

    if coarse is not None:
        terms += _coarse(length, fine, coarse)

    return sorted(terms, key=lambda term: (term.frames[0], -len(term.frames), term.step))


def _coarse(length: int, fine: list[tuple[int, int]], coarse: Coarse) -> list[Term]:
    r"""Terms that coarse windows add: counting numbers with them, minus those without."""

    k = coarse.step
    if k < 2:
        raise BadInput(f"a coarse step of {k}", where="coarse.step", instead="Use 2 or more.")
    count = len(range(0, length, k))
    wide = [
        frozenset(range(a * k, b * k, k)) for a, b in cover(count, coarse.window, coarse.overlap)
    ]
    narrow = [frozenset(range(a, b)) for a, b in fine]

    both, alone = counting(narrow + wide), counting(narrow)
    terms = []
    for r in both.keys() | alone.keys():
        c = both.get(r, 0) - alone.get(r, 0)
        if c:
            terms.append(Term(tuple(sorted(r)), (float(c),) * len(r), r in wide))

    return terms


def averaged(terms: list[Term]) -> list[Term]:
    r"""Windows alone, weighted by r_i = (number of windows that hold i)^−1/2.

    Σ_w r J_w r is positive when every J_w is: the weights are a partition of unity.
    """

    held: dict[int, int] = {}
    for term in terms:
        if term.window:
            for f in term.frames:
                held[f] = held.get(f, 0) + 1

    return [
        Term(t.frames, tuple(held[f] ** -0.5 if t.window else 0.0 for f in t.frames), t.window)
        for t in terms
    ]
