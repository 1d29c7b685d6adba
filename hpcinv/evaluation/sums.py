r"""Mergeable statistics: area-weighted sums for each frame and channel.

Everything a score needs is a sum over grid points, kept for each frame and channel with the
sum of its weights. Sums of disjoint frames merge by addition, so any split of the frames over
ranks or array tasks gives the same numbers, and a bootstrap over frames needs no data.

Members are read frame by frame: memory is that of the members of two frames.
"""

from __future__ import annotations

__all__ = ["FrameSums", "evaluate"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadInput
from ..parallel import World
from .crps import _of_sorted
from .energy import energy

BATCH = 1 << 22  # numbers sorted at once

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
        ranks: of the indicator of each rank of the truth among the members, :math:`(L, C, M + 1)`.
        events, hits: by the number of members above the threshold, 0 to M: of one, and of whether
            the truth is above it, :math:`(L, C, M + 1)`; zero without a threshold.
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
        ranks = [np.zeros((frames, channels, members + 1)) for _ in HISTOGRAMS]
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
        ensemble: Reader with `.read(member, start, stop)` -> :math:`(n, C, *grid)`, physical.
        truth: Reader with `.read(start, stop)`; a trajectory store.
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

    def load(t: int) -> tuple[np.ndarray, np.ndarray]:
        y = truth.read(truth_start + t, truth_start + t + 1)[0].reshape(C, -1)[:, valid]
        x = np.empty((M, C, len(valid)), np.float32)
        for k, m in enumerate(members):
            x[k] = ensemble.read(m, t, t + 1)[0].reshape(C, -1)[:, valid]
        _finite(x, y, truth, members, t, truth_start + t)
        return x, y.astype(np.float32)

    before = load(start - 1) if lo < start < stop else None
    for t in range(start, stop):
        x, y = load(t)
        above = None
        if threshold is not None:
            above = np.asarray(threshold(truth_start + t)).reshape(C, -1)[:, valid]
        if spectrum is not None:
            sums.power += spectrum.three(x, y)
        if checks is not None:
            sums.checks += checks.both(x, y, before)
        for c in range(C):
            sums.weight[t, c] = w.sum()
            _add(sums, t, c, x[:, c], y[c], w, seed)
            sums.energy[t, c] = w.sum() * energy(x[:, c], y[c], w)
            if above is not None:
                count = (x[:, c] > above[c]).sum(0)
                sums.events[t, c] = np.bincount(count, w, M + 1)
                sums.hits[t, c] = np.bincount(count, w * (y[c] > above[c]), M + 1)
            if before is not None:
                d = x[:, c].astype(np.float64) - before[0][:, c]
                sums.increment[t, c] = (w * (d**2).mean(0)).sum()
                d = y[c].astype(np.float64) - before[1][c]
                sums.true_increment[t, c] = (w * d**2).sum()
        before = (x, y)
        if progress is not None:
            progress.update(t + 1 - start, stop - start)
    return sums.reduce(world)


def _add(sums: FrameSums, t: int, c: int, x, y, w, seed: int) -> None:
    r"""Adds one frame and channel: x (M, n), y (n), w (n)."""
    M, n = x.shape
    size = max(1, BATCH // M)
    ties = None
    for a in range(0, n, size):
        e = np.sort(x[:, a : a + size].astype(np.float64), axis=0)
        v, u = y[a : a + size].astype(np.float64), w[a : a + size]
        mean = e.mean(0)
        sums.error[t, c] += (u * (mean - v)).sum()
        sums.squared[t, c] += (u * (mean - v) ** 2).sum()
        if M > 1:
            sums.variance[t, c] += (u * e.var(0, ddof=1)).sum()
        sums.crps[t, c] += (u * _of_sorted(e, v)).sum()
        rank, equal = (e < v).sum(0), (e == v).sum(0)
        if equal.any():
            if ties is None:
                from ..diffusion.noise import generator

                ties = generator(seed, "rank ties", t, c).random(n)
            rank = rank + np.floor(ties[a : a + size] * (equal + 1)).astype(int)
        sums.ranks[t, c] += np.bincount(rank, u, minlength=M + 1)


def _finite(x, y, truth, members, t: int, at: int) -> None:
    if not np.isfinite(y).all():
        c = truth.channels[int(np.argmax(~np.isfinite(y).all(1)))]
        raise BadInput(f"'{c}' of the truth is not finite inside the mask", f"truth frame {at}")
    good = np.isfinite(x).all(2)
    if not good.all():
        k, c = np.argwhere(~good)[0]
        raise BadInput(
            f"'{truth.channels[c]}' is not finite",
            f"member {members[k]}, frame {t}",
            "Run the job that makes this analysis again.",
        )
