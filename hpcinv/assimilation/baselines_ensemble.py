r"""Ensemble Kalman filters and the ensemble smoother as methods of `assimilate`.

The members are the ensemble: what is written is what was updated. Without a forecast model every
frame's forecast is the climatological replay of the training period (`baselines.Resampled`), a
prior whose covariance is the sample's, between channels, places and frames; then any frame can be
analysed alone. With one, the filter cycles, and every rank cycles through the frames before its
own: the same numbers on any number of ranks.
"""

from __future__ import annotations

__all__ = ["EnsembleKalman"]

from typing import Any

import numpy as np

from ..errors import BadInput
from . import ensemble
from .baselines import Problem, Resampled
from .oi_taper import bartlett, gaspari_cohn, positions


class EnsembleKalman(Resampled):
    r"""See the module.

    Memory: the members of one frame (of all frames: `enks` with a forecast model), the training
    anomalies, and members × observations of the frames that count.

    Arguments:
        problem: See `Problem`.
        config: See `hpcinv.assimilation.baselines_config.Ensemble`.

    Raises:
        BadInput: With fewer than two members, or `letkf` without a length.
    """

    def __init__(self, problem: Problem, config: Any) -> None:
        from ..observations.operators import Operator, own

        super().__init__(problem)
        if len(problem.members) < 2:
            raise BadInput(f"{len(problem.members)} member is no ensemble", "members")
        if config.method == "letkf" and config.length_km is None:
            raise BadInput("letkf without a length", "ensemble: length_km", "Give it in km.")
        self.config = config
        self.operator = Operator(problem.table, problem.store, problem.analysed[0], problem.length)
        self.model = None
        if config.forecast == "simulator":
            from ..simulators.dynamics import Forecast

            self.model = Forecast(problem.store.attributes, problem.seed, problem.members)
        elif config.forecast is not None:
            self.model = own(config.forecast)
        if self.model is not None and problem.table.forward.time != "nearest":
            raise BadInput(
                "a filter with a forecast model sees one frame at a time",
                "observing: forward: time",
                "Write time: nearest.",
            )
        self.where = None if config.length_km is None else positions(problem.store)
        self._forecast: tuple[int, np.ndarray] | None = None
        self._smoothed: list[np.ndarray] | None = None

    def mean(self, start: int, stop: int) -> np.ndarray:
        return self.draw(start, stop).mean(0)

    def draw(self, start: int, stop: int) -> np.ndarray:
        E = np.stack([self._analysis(k) for k in range(start, stop)], 1)
        return self.problem.physical(E.astype(np.float32), start, stop)

    def _analysis(self, k: int) -> np.ndarray:
        r"""Members of one analysed frame, standardised, (M, C, *grid)."""
        if self.model is None:
            lags = self.config.lags if self.config.method == "enks" else 0
            lo = 0 if lags is None else max(0, k - lags)
            hi = self.problem.length if lags is None else min(self.problem.length, k + lags + 1)
            E = ensemble.inflate(self._replayed(k), self.config.inflation)
            if self.config.before:
                return E
            return self._update(E, range(lo, hi), k, self._replayed)
        if self.config.method == "enks":
            return self._smoother()[k]
        if self._forecast is not None and self._forecast[0] > k:
            self._forecast = None  # asked for an earlier frame: from the beginning
        while self._forecast is None or self._forecast[0] <= k:
            before, analysis = self._step()
        return before if self.config.before else analysis

    def _replayed(self, k: int) -> np.ndarray:
        at = np.array([k])
        z = [self.problem.anomalies[self.replay(m, at)][0] for m in self.problem.members]
        return np.stack(z).astype(np.float64)

    def _step(self) -> tuple[np.ndarray, np.ndarray]:
        r"""One cycle: the forecast of the next frame and its analysis; then the one after it."""
        k, E = self._forecast or (0, self._replayed(0))
        before = ensemble.inflate(E, self.config.inflation)
        E = self._update(before, [k], k, lambda _: before)
        self._forecast = (k + 1, self._next(E, k))
        return before, E

    def _next(self, E: np.ndarray, k: int) -> np.ndarray:
        p = self.problem
        first = p.analysed[0]
        if k + 1 >= p.length:
            return E
        x = p.statistics.restore(E[:, None], [first + k])[:, 0]
        x = np.asarray(self.model(x, first + k), np.float64)
        if x.shape != E.shape or not np.isfinite(x).all():
            what = f"has shape {x.shape}, not {E.shape}" if x.shape != E.shape else "is not finite"
            raise BadInput(f"the forecast of frame {first + k + 1} {what}", self.config.forecast)
        return p.statistics.standardise(x[:, None], [first + k + 1])[:, 0]

    def _smoother(self) -> list[np.ndarray]:
        r"""The forward filter; each analysis also updates the frames before (Evensen & van
        Leeuwen 2000), at most `lags` of them."""
        if self._smoothed is None:
            past: list[np.ndarray] = []
            E = self._replayed(0)
            for k in range(self.problem.length):
                E = ensemble.inflate(E, self.config.inflation)
                lags = k if self.config.lags is None else min(k, self.config.lags)
                forecast = E
                for j in range(k - lags, k):
                    past[j] = self._update(past[j], [k], k, lambda _, E=forecast: E, apart=k - j)
                E = self._update(E, [k], k, lambda _, E=forecast: E)
                past.append(E)
                E = self._next(E, k)
            self._smoothed = past
        return self._smoothed

    def _update(self, E: np.ndarray, frames, k: int, forecast, apart: int = 0) -> np.ndarray:
        r"""Members E of a frame, updated with the observations of some frames.

        Arguments:
            E: Standardised, (M, C, *grid).
            frames: Whose observations count.
            k: The frame of E (where `forecast` is a replay), or of the observations.
            forecast: Members of any frame, standardised: what the observations see.
            apart: Frames between E and the observations, beyond |frame − k|.
        """
        p, c = self.problem, self.config
        rows = self.operator.rows(list(frames))
        if not len(rows):
            return E
        t = p.table
        first = p.analysed[0]
        read = lambda f: p.statistics.restore(forecast(f)[:, None], [first + f])[:, 0]  # noqa: E731
        HE = self.operator.see(read, list(frames))
        if c.inflation != 1.0 and self.model is None:
            HE = ensemble.inflate(HE, c.inflation)
        y, R = t.value[rows], p.R.variance[rows]
        inverse = R if p.R.diagonal else lambda v: p.R.solve(v, rows)
        M = len(E)
        flat = E.reshape(M, -1)
        near = np.ones(len(rows))
        if c.length_km is not None and c.method == "enks":
            lags = p.length if c.lags is None else c.lags
            near = bartlett(np.abs(t.frame[rows] - k) + apart, lags)
        if c.method == "enkf":
            e = p.R.draw(self._perturbations(t.frame[rows]), rows)
            if self.where is None:
                return ensemble.enkf(flat, HE, y, inverse, e).reshape(E.shape)
            place = self.where[t.point[rows]]
            rho = (np.tile(self._taper(self.where, place), (E.shape[1], 1)),
                   self._taper(place, place))  # fmt: skip
            add = R if p.R.diagonal else lambda S: p.R.add(S, rows)
            return ensemble.enkf(flat, HE, y, add, e, rho).reshape(E.shape)
        if self.where is None:
            turn = self._turn(k)
            return ensemble.etkf(flat, HE, y, inverse, turn).reshape(E.shape)
        place = self.where[t.point[rows]]
        some = lambda v, at, more: p.R.solve_some(v, rows[at], more)  # noqa: E731
        x = ensemble.letkf(
            E.reshape(M, E.shape[1], -1), HE, y, R,
            lambda a, b: self._taper(self.where[a:b], place) * near,
            solve=None if p.R.diagonal else some,
        ).reshape(E.shape)  # fmt: skip
        turn = self._turn(k)
        if turn is None:
            return x
        return x.mean(0) + np.tensordot(turn, x - x.mean(0), 1)

    def _taper(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        d2 = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return gaspari_cohn(np.sqrt(np.maximum(d2, 0)) / self.config.length_km)

    def _turn(self, k: int) -> np.ndarray | None:
        from ..diffusion.noise import generator

        if not self.config.rotation:
            return None
        p = self.problem
        if self.model is None and self.config.method == "enks":
            k = 0  # one turn for the whole trajectory, whose members must hang together
        return ensemble.rotation(
            len(p.members), generator(p.seed, "ensemble rotation", p.analysed[0] + k)
        )

    def _perturbations(self, frame: np.ndarray) -> np.ndarray:
        r"""Standard normal numbers, a function of member and frame: (M, D)."""
        from ..diffusion.noise import generator

        p = self.problem
        out = np.empty((len(p.members), len(frame)))
        for f in np.unique(frame):
            at = frame == f
            for i, m in enumerate(p.members):
                rng = generator(p.seed, "enkf perturbation", m, p.analysed[0] + int(f))
                out[i, at] = rng.standard_normal(int(at.sum()))
        return out
