r"""The misspecification test of a table of observations, from withheld truths of its trajectory.

A repeat takes a stretch of withheld frames as truth, observes it where and as well as the table
says the data were, and sums up its departures from the background. That is the climatology's
prediction of every row (`observations.background`), or an ensemble that was made of the withheld
frames by the same steps as that of the data: draws of the prior, or the forecasts of a filter. The
faults put into it are, for each variable, and each instrument where these are told apart, a σ
twice, a bias of one or three σ, units that are taken for others (values times 1.15 or 1.94, as of
miles or knots) and places that are mixed up (the rows of a frame exchanged among each other); for
all rows together a bias of one σ; and a prior that is shifted by one of its deviations, or too
narrow by a factor 1.5.

Beside the features of `misspecification` there are two for each variable and instrument: the mean,
and the mean square, of departures from what the rows of others tell (`neighbours`).

What a deviation of the background hides is hidden from this test too: errors far smaller than it
show only where their number is large.
"""

from __future__ import annotations

__all__ = ["check_table", "enough", "judge_of"]

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import BadInput
from ..observations import flags
from ..observations.background import Predictive
from ..observations.feedback import see
from ..observations.instruments import instruments as by_instrument
from .innovations import groups
from .misspecification import Misspecification, features, fewest
from .neighbours import sharpest

LEARNT = 8  # truths of which neighbours' correlation is learnt
FACTOR, NARROW, UNITS, BIASES = 2.0, 1.5, (1.15, 1.94), (1.0, -1.0, 3.0, -3.0)


def enough(periods: int, length: int, level: float, where: str) -> None:
    r"""Refuses so few periods of truth that no data could be stranger than all of them."""
    if periods < fewest(level):
        raise BadInput(
            f"{periods} separate periods of {length} frames are no distribution at α = {level:g}",
            where,
            f"Withhold {fewest(level) * length} frames or more, or evaluate fewer at a time.",
        )


def check_table(table: Any, store: Any, start: int, *how: Any, **more: Any) -> dict[str, Any]:
    r"""Judges the rows with flag 0, see `judge_of`.

    Returns:
        What `Misspecification.judge` says, with `repeats`, `periods` (stretches of truth that do
        not overlap), `groups`, `alike` and `unseen`.
    """
    return judge_of(table, store, start, *how, **more)(table.select(_rows(table)).value)


def _rows(table: Any) -> np.ndarray:
    return (table.flag == flags.USED) & (table.point >= 0) & (table.frame >= 0)


def judge_of(
    table: Any, store: Any, start: int, length: int, truths: tuple[int, int], *,
    repeats: int = 400, level: float = 0.05, seed: int = 0, world: Any = None,
    background: tuple[Any, Any] | None = None, instruments: Mapping[str, str] | None = None,
) -> Callable[[np.ndarray], dict[str, Any]]:  # fmt: skip
    r"""The test that judges values of the rows with flag 0.

    Arguments:
        table, store: The observations and their trajectory, with statistics.
        start: Frame of the store that is the table's frame 0.
        length: Frames of the table.
        truths: Half-open range of frames that neither prior nor statistics have seen.
        repeats: Withheld truths drawn.
        level, seed: Of the test, and of its draws.
        world: Ranks that share the repeats.
        background: Ensembles of the table's frames and of the withheld ones, readers with
            `.members` and `.read(member, start, stop)`; the climatology by default.
        instruments: Patterns of stations' names, see `innovations.groups`: faults of each are
            looked for besides those of all that see a variable.

    Returns:
        A function of the values of those rows, in their order.

    Raises:
        BadInput: If the withheld truths are shorter than the table, or too few for its groups.
    """
    from ..diffusion.noise import generator
    from ..parallel import World

    world = world or World()
    for ensemble in background or ():
        if len(ensemble.members) < 3:
            raise BadInput("a background of fewer than three members", "misspecification")
    used = table.select(_rows(table))
    starts = _starts(store, truths, length)
    periods = (truths[1] - truths[0]) // length
    enough(periods, length, level, "misspecification: truths")
    of = {
        name.replace(", used", ""): rows
        for name, rows in groups(used, instruments).items() if ", used" in name
    }  # fmt: skip
    sigma = used.error
    # What a fault may be of: a variable, or an instrument that sees it.
    of_one = {f"{v}, {i}" for v in used.variables for i in instruments or ()}
    mine = [name for name in of if name in used.variables or name in of_one]
    single = np.stack([of[name] for name in mine], 1).astype(np.float64)
    count = np.maximum(single.sum(0), 1)
    names, masks = list(of), of
    of = np.stack(list(of.values()))
    many = {"σ": 1, "bias": len(BIASES), "units": len(UNITS), "places": 1}
    faults = [
        *(f"{what} of {v}" for what, n in many.items() for _ in range(n) for v in mine),
        "bias of all", "prior shifted everywhere", "prior too narrow",
    ]  # fmt: skip
    share = of.T.astype(np.float64)

    def told(d: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        r"""Features of departures (K, D) from a background."""
        every = lambda v: np.broadcast_to(v @ share, (len(d), 1, share.shape[1]))  # noqa: E731
        found = features(
            SimpleNamespace(
                count=every(np.ones(len(sigma))), sigma2=every(sigma**2),
                d_b=(d @ share)[:, None], d2_b=(d**2 @ share)[:, None],
                v2_b=every(sigma**2 + deviation**2), told=every(mean), told2=every(mean**2),
                along=((mean * d) @ share)[:, None],
            ),
            analysis=False,
        )  # fmt: skip
        if between is None:
            return found
        r = (between @ (d / np.sqrt(sigma**2 + deviation**2)).T).T
        return np.concatenate([found, r @ single / count, r**2 @ single / count], 1)

    kept = Predictive(used, store, start, length)

    def beside(first: int) -> Predictive:
        r"""The rows where their frame 0 is a frame of the store."""
        if used.forward.time == "nearest":  # whatever the clock says there
            return kept
        return Predictive(_moved(used, store, start, first), store, first, length)

    def predicted(first: int, data: bool = False) -> tuple[np.ndarray, np.ndarray]:
        r"""Mean and deviation of each row where its frame 0 is a frame of the store."""
        if background is None:
            return beside(first).prior(first)
        ensemble = background[0] if data else _Later(background[1], first - truths[0])
        # Rows without a place are none of `used`: all are seen, in order of their frames.
        order = np.argsort(used.frame, kind="stable")
        h = np.empty((len(ensemble.members), len(used)))
        there = _moved(used, store, start, first)
        h[:, order] = see(there, store, first, ensemble, range(length))
        return h.mean(0), np.sqrt((1 + 1 / len(h)) * h.var(0, ddof=1))

    def observed(first: int) -> np.ndarray:
        r"""What each row sees of the truth where its frame 0 is a frame of the store."""
        return beside(first).seen(first)

    pick = generator(seed, "withheld truths", repeats).integers(0, len(starts), repeats)
    between, some = None, []
    for i, s in enumerate(np.unique(pick)[:: max(len(np.unique(pick)) // LEARNT, 1)]):
        e = sigma * generator(seed, "withheld noise of neighbours", i).standard_normal(len(used))
        mean, deviation = predicted(starts[s])
        total = np.sqrt(sigma**2 + deviation**2)
        some.append((observed(starts[s]) + e - mean) / total)
    made = by_instrument(used, instruments, "instruments") if instruments else np.where(
        used.station != "", used.station, used.point.astype(str)
    )  # fmt: skip
    between = sharpest(used, made, (deviation / total) ** 2, some)
    P = 3 * len(names) + (0 if between is None else 2 * len(mine))
    null, bad = np.zeros((repeats, P)), np.zeros((len(faults), repeats, P))
    lo, hi = world.share(0, repeats)
    for s in np.unique(pick[lo:hi]):
        first = starts[s]
        seen = observed(first)
        mean, deviation = predicted(first)
        for i in lo + np.flatnonzero(pick[lo:hi] == s):
            e = sigma * generator(seed, "withheld noise", int(i)).standard_normal(len(used))
            d = seen - mean
            null[i] = told((d + e)[None], mean, deviation)[0]
            other = seen[_exchanged(used, generator(seed, "exchanged places", int(i)))]
            more = [
                (FACTOR - 1) * e,
                *(b * sigma for b in BIASES),
                *((u - 1) * (seen + e) for u in UNITS),
                other - seen,
            ]
            wrong = [
                d + e + np.where(masks[v], x, 0.0)
                for x in more for v in mine
            ]  # fmt: skip
            wrong += [d + e + sigma, d + e + deviation, NARROW * d + e]
            bad[:, i] = told(np.stack(wrong), mean, deviation)
    null, bad = world.all_reduce(null), world.all_reduce(bad)
    period = np.array([(starts[s] - truths[0]) // length for s in pick])
    sizes: dict[str, list[np.ndarray]] = {}
    for name, x in zip(faults, bad, strict=True):
        sizes.setdefault(name, []).append(x)
    test = Misspecification(null, sizes, level, period)
    mean, deviation = predicted(start, data=True)
    known = {
        "level": level,
        "repeats": repeats,
        "periods": periods,
        "background": "climatology" if background is None else "ensemble",
        "groups": names,
        "alike": test.alike(),
        "unseen": test.unseen,
    }
    return lambda y: test.judge(told((y - mean)[None], mean, deviation))[0] | known


def _moved(table: Any, store: Any, start: int, first: int) -> Any:
    r"""The rows as long after frame `first` of the store as they are after frame `start`, by the
    share of a step: what interpolation in time looks at."""
    if table.forward.time == "nearest" or start == first:
        return table
    clock = np.asarray(store.time, np.float64)
    n = min(len(clock) - start, len(clock) - first)
    time = np.interp(table.time, clock[start : start + n], clock[first : first + n])
    # Beyond both ends as far as they are, so that rows stay in their order.
    ends = clock[[start, start + n - 1]]
    return replace(table, time=time + table.time - np.clip(table.time, *ends))


def _exchanged(table: Any, rng: np.random.Generator) -> np.ndarray:
    r"""Rows in an order that mixes up those of a variable and frame among each other."""
    drawn = np.lexsort((rng.random(len(table)), table.frame, table.channel))
    order = np.empty(len(table), np.int64)
    order[np.lexsort((table.frame, table.channel))] = drawn
    return order


class _Later:
    r"""An ensemble whose frame 0 is a later one of another."""

    def __init__(self, ensemble: Any, by: int) -> None:
        self._of, self._by, self.members = ensemble, by, ensemble.members

    def read(self, member: int, start: int, stop: int) -> np.ndarray:
        return self._of.read(member, start + self._by, stop + self._by)


def _starts(store: Any, truths: tuple[int, int], length: int) -> list[int]:
    r"""First frames of the stretches of withheld truth, none across two trajectories."""
    a, b = truths
    segments = [tuple(s) for s in getattr(store, "segments", None) or [(a, b)]]
    found = [
        s for lo, hi in segments for s in range(max(a, lo), min(b, hi) - length + 1)
    ]  # fmt: skip
    if not found:
        raise BadInput(
            f"frames {a} to {b - 1} hold no stretch of {length} frames",
            "misspecification: truths",
            "Withhold more.",
        )
    return found
