r"""Baselines: the same observations in, the same kind of analysis out.

A baseline is fitted to the training frames of a store and analyses other frames of it. It
gives the exact mean of its posterior and genuine posterior samples, by blocks of frames, each
a function of (seed, member, frame) alone: the blocks may have any length, any rank may draw
any member.

*Climatology* draws the training years' anomalies. *Persistence* keeps the anomaly of the last
frame before the analysis and spreads it by how far the training years drifted from theirs.
Optimal interpolation is in `oi` (EOFs) and `oi_localised`, ensemble Kalman filters and the
ensemble smoother are in `ensemble` (the update) and `baselines_ensemble` (the method).
"""

from __future__ import annotations

__all__ = ["Baseline", "Climatology", "Persistence", "Problem", "build"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ..errors import BadInput
from .baselines_config import METHODS


@dataclass(frozen=True)
class Problem:
    r"""What every baseline is given.

    Arguments:
        store: A trajectory store: `.read`, `.grid`, `.coords`, `.coord_attrs`, `.channels`,
            `.segments`, `.length`.
        statistics: Its `Statistics`, estimated on the training frames.
        training: Half-open range of the frames it may learn from.
        analysed: Half-open range of the frames to analyse, also numbered in the store.
        table: The observations; its frame 0 is `analysed[0]`. None where none are used.
        members: Global ids of the members wanted.
        seed: Key of all draws.
        errors: How the errors of observations are taken (`observations.config.Errors`); their σ
            alone by default.
    """

    store: Any
    statistics: Any
    training: tuple[int, int]
    analysed: tuple[int, int]
    table: Any = None
    members: Sequence[int] = ()
    seed: int = 0
    errors: Any = None

    def __post_init__(self) -> None:
        a, b = self.training
        if not 0 <= a < b <= self.store.length:
            raise BadInput(
                f"frames {a} to {b - 1} of a store of {self.store.length}",
                "training frames",
                f"Give frames between 0 and {self.store.length - 1}.",
            )
        if b - a < 2:
            raise BadInput("one training frame has no anomaly", "training frames")

    @cached_property
    def R(self) -> Any:
        r"""The observations' error covariance."""
        from ..observations.config import Errors
        from ..observations.errors import ErrorCovariance

        return ErrorCovariance(self.table, self.errors or Errors())

    @property
    def length(self) -> int:
        return self.analysed[1] - self.analysed[0]

    @property
    def shape(self) -> tuple[int, ...]:
        r"""Shape of a state, (C, *grid)."""
        return (len(self.store.channels), *self.store.grid)

    @cached_property
    def anomalies(self) -> np.ndarray:
        r"""Standardised training anomalies with the spread a new year has: (N, C, *grid).

        Anomalies are measured from the mean of their own years. Divided by the shrinkage
        :math:`\sqrt{(n - 1) / (n + 1)}`, their sample covariance is that of the difference
        between a year that was not used and the estimated climatology.
        """
        frames = np.arange(*self.training)
        z = self.statistics.standardise(self.store.read(*self.training), frames)
        shrinkage = self.statistics.shrinkage[self.statistics.phase(frames)]
        if not (shrinkage > 0).all():
            raise BadInput(
                "a phase of the year has a single training frame, hence no anomaly",
                "training frames",
                "Train on at least two years.",
            )
        z = z / shrinkage.reshape(-1, *[1] * len(self.shape)).astype(z.dtype)
        return np.nan_to_num(z, copy=False)  # masked points hold nothing

    def physical(self, z: np.ndarray, start: int, stop: int) -> np.ndarray:
        r"""Standardised states of analysed frames [start, stop) in physical units."""
        first = self.analysed[0]
        return self.statistics.restore(z, np.arange(first + start, first + stop))

    def standardised_observations(self, frame: int) -> tuple[np.ndarray, ...]:
        r"""Channel, point, standardised value and standardised σ of one frame's observations."""
        at = self.rows[frame]
        t = self.table
        c, i = t.channel[at], t.point[at]
        mean, std = self.statistics.at(np.full(len(at), self.analysed[0] + frame), c, i)
        return c, i, (t.value[at] - mean) / std, np.sqrt(self.R.variance[at]) / std

    @cached_property
    def rows(self) -> list[np.ndarray]:
        r"""Rows of the table by analysed frame."""
        return [np.flatnonzero(self.table.frame == k) for k in range(self.length)]


class Baseline(Protocol):
    r"""What `build` returns: posterior mean and samples of any block of analysed frames."""

    def mean(self, start: int, stop: int) -> np.ndarray:
        r"""Exact posterior mean, physical units, with shape :math:`(n, C, *grid)`."""
        ...

    def draw(self, start: int, stop: int) -> np.ndarray:
        r"""The members, physical units, with shape :math:`(m, n, C, *grid)`."""
        ...


def build(config: Any, problem: Problem) -> Baseline:
    r"""The baseline of a config of `baselines_config`, fitted to a problem's training frames.

    Raises:
        BadInput: If the method needs observations and there is no table, or more EOFs are asked
            for than there are training frames.
    """
    if config.method == "climatology":
        return Climatology(problem)
    if config.method == "persistence":
        return Persistence(problem)
    if problem.table is None:
        raise BadInput(f"method: {config.method} without observations", "observations")
    if config.method in METHODS:
        from .baselines_ensemble import EnsembleKalman

        return EnsembleKalman(problem, config)
    if config.covariance == "eof":
        from .oi import EOFInterpolation

        return EOFInterpolation(problem, eofs=config.eofs)
    from .oi_localised import LocalisedInterpolation

    return LocalisedInterpolation(
        problem, length_km=config.length_km, taper=config.taper, lags=config.lags
    )


def blocks(length: int, size: int) -> Iterator[tuple[int, int]]:
    r"""Consecutive half-open blocks of at most `size` frames."""
    for start in range(0, length, size):
        yield start, min(start + size, length)


class Resampled:
    r"""Members that replay the training period beside the analysed frames.

    A member's replay starts in a training year at the place of the year where the analysis
    starts, or a month before or after (as a climatology with a window of the season does), and
    wraps at the end of the training period. It so keeps the neighbours of each frame; anomalies
    are standardised by their own month. Members take the years and shifts in the order of a keyed
    permutation, each once before one comes twice: drawn with replacement from nine years,
    sixteen members would hold several twice, which no other method's do.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        a, b = problem.training
        starts = self._starts()
        period = int(np.median(np.diff(starts))) if len(starts) > 1 else b - a
        self.cycle = max((b - a) // period, 1) * period  # whole years
        month = max(period // 12, 1) if len(starts) < b - a else 0
        years = np.unique(starts % self.cycle)
        self.starts = np.unique((years[:, None] + [-month, 0, month]) % self.cycle)
        if len(years) < 2:
            raise BadInput(
                f"{b - a} training frames hold no two starts of the analysed period's phase",
                "training frames",
                "Train on at least two years.",
            )

    def _starts(self) -> np.ndarray:
        r"""Offsets in the training period that stand where analysed frame 0 does in the year.

        That is as many frames into a run of its phase; any frame where there is one phase only.
        """
        a, b = self.problem.training
        phases, t = self.problem.statistics.phases, self.problem.analysed[0]
        if (phases == phases[0]).all():
            return np.arange(b - a)
        into = int(np.argmax(np.append(phases[t::-1] != phases[t], True))) - 1
        same = phases[a:b] == phases[t]
        begins = np.flatnonzero(same & ~np.append(False, same[:-1]))
        return begins + into

    def replay(self, member: int, frames: np.ndarray) -> np.ndarray:
        r"""Offsets in the training period replayed by a member at some analysed frames."""
        from ..diffusion.noise import generator

        turn, place = divmod(member, len(self.starts))
        order = generator(self.problem.seed, "years", turn).permutation(len(self.starts))
        return (self.starts[order[place]] + frames) % self.cycle


class Climatology(Resampled):
    r"""The climatological ensemble: the mean of the phase, anomalies of training years.

    Their variance is that of a year that was not used, about a mean estimated from the others.
    """

    def mean(self, start: int, stop: int) -> np.ndarray:
        zero = np.zeros((stop - start, *self.problem.shape), np.float32)
        return self.problem.physical(zero, start, stop)

    def draw(self, start: int, stop: int) -> np.ndarray:
        p, frames = self.problem, np.arange(start, stop)
        z = np.stack([p.anomalies[self.replay(m, frames)] for m in p.members])
        return p.physical(z, start, stop)


class Persistence(Resampled):
    r"""The last known anomaly, kept through the whole analysis.

    What is known is the standardised anomaly :math:`z_0` of the frame before the first analysed
    one when that is a training frame, else of the last training frame; nothing of the analysed
    period is used. The mean is :math:`z_0` in all frames, whatever the lead. Member i adds the
    drift :math:`z_{s+k} - z_s` that the training period showed k frames after a start s of the
    same phase, a different start for each member.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        a, b = problem.training
        before = problem.analysed[0] - 1
        self.origin = before if a <= before < b else b - 1
        # The state in hand is a training state, and in a drift the estimated mean cancels:
        # neither is widened to the anomaly of a new year.
        s = problem.statistics.shrinkage[problem.statistics.phase(range(a, b))]
        self.shrinkage = s.reshape(-1, *[1] * len(problem.shape)).astype(np.float32)
        frames = np.arange(self.origin, self.origin + 1)
        state = problem.store.read(self.origin, self.origin + 1)
        self.known = np.nan_to_num(problem.statistics.standardise(state, frames))[0]

    def mean(self, start: int, stop: int) -> np.ndarray:
        z = np.broadcast_to(self.known, (stop - start, *self.problem.shape)).copy()
        return self.problem.physical(z, start, stop)

    def draw(self, start: int, stop: int) -> np.ndarray:
        p, frames = self.problem, np.arange(start, stop)
        members = []
        for m in p.members:
            at = self.replay(m, np.concatenate([[-1], frames]))
            z = p.anomalies[at] * self.shrinkage[at]
            members.append(self.known + z[1:] - z[:1])
        return p.physical(np.stack(members), start, stop)
