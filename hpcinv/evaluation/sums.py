r"""Mergeable statistics: area-weighted sums for each frame and channel.

Everything a score needs is a sum over grid points, kept for each frame and channel with the
sum of its weights. Sums of disjoint frames merge by addition, so any split of the frames over
ranks or array tasks gives the same numbers, and a bootstrap over frames needs no data.

Members are read frame by frame, and large ensembles by blocks of cells (`blocks`), so that memory
depends neither on their number nor on that of the frames, but for the sums themselves.
"""

from __future__ import annotations

__all__ = ["FrameSums", "evaluate"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadInput
from ..parallel import World
from .blocks import Frames
from .crps import _of_sorted
from .energy import TILE, energy
from .ranks import bins, nearest, place

POINTWISE = (
    "weight", "error", "squared", "variance", "crps", "energy", "increment", "true_increment"
)  # fmt: skip
HISTOGRAMS = ("ranks", "events", "hits")
TOTALS = ("power", "checks")
SUMMED = (*POINTWISE, *HISTOGRAMS, *TOTALS)


@dataclass
class FrameSums:
    r"""Area-weighted sums over the grid, for L frames and C channels, from M members.

    Attributes:
        weight: :math:`\sum w`, with shape :math:`(L, C)`, as all others; zero where not evaluated.
        error: of :math:`\bar x - y`.
        squared: of :math:`(\bar x - y)^2`.
        variance: of the ensemble's unbiased variance.
        crps: of the fair CRPS.
        energy: the weights' sum times the fair energy score of the frame's whole field
            (`hpcinv.evaluation.energy`).
        increment, true_increment: of :math:`(x_t - x_{t-1})^2`, members' average, and of the
            truth's; zero in frame 0.
        ranks: of the indicator of each rank of the truth among the members, :math:`(L, C, K)`, K
            being M + 1 or, of many members, fewer (`hpcinv.evaluation.ranks`).
        events, hits: by the number of members above the threshold, 0 to M: of one, and of whether
            the truth is above it, :math:`(L, C, K)`; zero without a threshold.
        power: power spectra of truth, members and ensemble mean, summed over frames,
            :math:`(3, C, K)`; see `hpcinv.evaluation.spectra`.
        checks: mean squares of physical quantities of truth and members, summed over frames,
            :math:`(2, Q)`; see `hpcinv.evaluation.physics`.
        members: :math:`M`.
    """

    weight: np.ndarray
    error: np.ndarray
    squared: np.ndarray
    variance: np.ndarray
    crps: np.ndarray
    energy: np.ndarray
    increment: np.ndarray
    true_increment: np.ndarray
    ranks: np.ndarray
    events: np.ndarray
    hits: np.ndarray
    power: np.ndarray
    checks: np.ndarray
    members: int

    @classmethod
    def zeros(
        cls, frames: int, channels: int, members: int, waves: int = 0, checks: int = 0
    ) -> FrameSums:
        point = [np.zeros((frames, channels)) for _ in POINTWISE]
        ranks = [np.zeros((frames, channels, bins(members))) for _ in HISTOGRAMS]
        return cls(*point, *ranks, np.zeros((3, channels, waves)), np.zeros((2, checks)), members)

    def merge(self, other: FrameSums) -> FrameSums:
        r"""Sums of two disjoint sets of frames of the same trajectory and members.

        Raises:
            BadInput: If both hold a frame, or they differ in shape or members.
        """
        if self.ranks.shape != other.ranks.shape:
            raise BadInput(f"sums of shapes {self.ranks.shape} and {other.ranks.shape}", "merge")
        both = (self.weight > 0) & (other.weight > 0)
        if both.any():
            raise BadInput(f"frame {int(np.argmax(both.any(1)))} is in both sums", "merge")
        return FrameSums(
            *(getattr(self, n) + getattr(other, n) for n in SUMMED), members=self.members
        )

    def reduce(self, world: World) -> FrameSums:
        r"""The sums of all ranks, on every rank."""
        return FrameSums(
            *(world.all_reduce(getattr(self, n)) for n in SUMMED), members=self.members
        )


def evaluate(
    ensemble: Any,
    truth: Any,
    *,
    members: Sequence[int],
    length: int,
    truth_start: int = 0,
    frames: tuple[int, int] | None = None,
    weights: np.ndarray | None = None,
    threshold: Callable[[int], np.ndarray] | None = None,
    spectrum: Any = None,
    checks: Any = None,
    seed: int = 0,
    world: World | None = None,
    progress: Any = None,
) -> FrameSums:
    r"""Compares an ensemble with the truth, frame by frame.

    Arguments:
        ensemble, truth: Readers, see `hpcinv.evaluation.blocks.Frames`.
        members: Ids of the members, in any order; it does not matter.
        length: Frames :math:`L` of the trajectory.
        truth_start: Frame of the truth beside frame 0 of the ensemble.
        frames: Half-open range to evaluate; all by default. Ranks share it.
        weights: Area weights with the grid's shape; the truth's own by default. Points of
            weight zero are never looked at.
        threshold: Gives what an event exceeds, :math:`(C, *grid)`, of a frame of the truth.
        spectrum: `hpcinv.evaluation.spectra.spectrum` of the grid, for power spectra.
        checks: `hpcinv.evaluation.physics.Checks` of the trajectory.
        seed: Key of the random ranks that ties get, with the frame's number.
        world: Ranks that share the frames; all get all sums.
        progress: `.update(done, total)` after each frame.

    Raises:
        BadInput: Naming member, frame and channel where something is not finite.
    """
    world = world or World()
    weights = truth.weights() if weights is None else weights
    w = np.asarray(weights, np.float64).reshape(-1)
    valid = np.flatnonzero(w > 0)
    w = w[valid]
    lo, hi = frames or (0, length)
    start, stop = world.share(lo, hi)
    C, M = len(truth.channels), len(members)
    if M == 0:
        raise BadInput("an ensemble without members", "evaluate")
    if (spectrum or checks) is not None and len(valid) < weights.size:
        raise BadInput("a spectrum or check of a grid with a mask", "evaluate", "Leave it out.")
    sums = FrameSums.zeros(
        length, C, M, 0 if spectrum is None else len(spectrum.waves),
        0 if checks is None else len(checks.names),
    )  # fmt: skip
    both = Frames(ensemble, truth, members, truth_start, valid)
    every = range(M)
    for t in range(start, stop):
        y, old = both.true(t), both.true(t - 1) if t > lo else None
        above = None
        if threshold is not None:
            above = np.asarray(threshold(truth_start + t)).reshape(C, -1)[:, valid]
        if spectrum is not None:
            sums.power += spectrum.three((both.field(t, m) for m in every), y, M)
        if checks is not None:
            pairs = ((both.field(t, m), both.field(t - 1, m) if t > lo else None) for m in every)
            sums.checks += checks.both(pairs, M, y, old)
        for c in range(C):
            sums.weight[t, c] = w.sum()
            ties = _Ties(seed, t, c, len(valid))
            for at in both.blocks(1, M):
                x, v, u = both.cells(t, c, every, at), y[c, at], w[at]
                _add(sums, t, c, x, v, u, ties, at)
                if above is not None:
                    count = (x > above[c, at]).sum(0)
                    bin_, size = nearest(count, M), bins(M)
                    sums.events[t, c] += np.bincount(bin_, u, size)
                    sums.hits[t, c] += np.bincount(bin_, u * (v > above[c, at]), size)
                if old is not None:
                    d = x.astype(np.float64)
                    d -= both.cells(t - 1, c, every, at)
                    sums.increment[t, c] += (u * np.square(d, out=d).mean(0)).sum()
                    d = v.astype(np.float64) - old[c, at]
                    sums.true_increment[t, c] += (u * d**2).sum()

            def blocks(*some: range, t=t, c=c, y=y):
                for at in both.blocks(len(some), TILE):
                    yield [both.cells(t, c, r, at) for r in some], y[c, at], w[at]

            sums.energy[t, c] = w.sum() * energy(blocks, M, w.sum())
        if progress is not None:
            progress.update(t + 1 - start, stop - start)
    return sums.reduce(world)


class _Ties:
    r"""Random numbers of a frame and channel, one for each cell; drawn if any is asked for."""

    def __init__(self, seed: int, t: int, c: int, cells: int) -> None:
        self._key, self._cells, self._drawn = (seed, "rank ties", t, c), cells, None

    def __getitem__(self, at: slice) -> np.ndarray:
        if self._drawn is None:
            from ..diffusion.noise import generator

            self._drawn = generator(*self._key).random(self._cells)
        return self._drawn[at]


def _add(sums: FrameSums, t: int, c: int, x, y, w, ties: _Ties, at: slice) -> None:
    r"""Adds a block of one frame and channel: x (M, n), y (n), w (n)."""
    M = len(x)
    e, v = np.sort(x.astype(np.float64), axis=0), y.astype(np.float64)
    mean = e.mean(0)
    sums.error[t, c] += (w * (mean - v)).sum()
    sums.squared[t, c] += (w * (mean - v) ** 2).sum()
    if M > 1:
        sums.variance[t, c] += (w * e.var(0, ddof=1)).sum()
    sums.crps[t, c] += (w * _of_sorted(e, v)).sum()
    rank, equal = (e < v).sum(0), (e == v).sum(0)
    within = ties[at] * (equal + 1) if equal.any() or bins(M) <= M else 0.0
    sums.ranks[t, c] += np.bincount(place(rank, within, M), w, bins(M))
