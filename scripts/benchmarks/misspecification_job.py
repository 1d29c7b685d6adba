r"""The test of misspecification as `evaluate` makes it: false alarms, power and what is told.

    python scripts/benchmarks/misspecification_job.py [--seas 400] [--stations 16] [--seed 0]

Every case is a sea of its own: red noise (0.5 from frame to frame) of unit variance on a globe,
correlated over 25 degrees, about a climatology of 2 + 2 sin(latitude); six frames observed by four
instruments of some stations each (σ 0.5) that share a variable; and forty withheld periods as
long, 300 repeats of them. The job's own features only: nothing is known of the truth, the data are
judged against the climatology. Of each sea the same observations are judged clean, and with one
fault after the other put in.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np

from hpcinv.evaluation.misspecification import CANNOT_TELL, CONSISTENT, effective_number
from hpcinv.evaluation.withheld_truths import judge_of
from hpcinv.io.statistics import Statistics
from hpcinv.observations.networks import draw
from hpcinv.observations.networks_config import Stations

FRAMES, PERIODS, REPEATS, SIGMA, MEMORY, DEGREES = 6, 40, 300, 0.5, 0.5, 25.0
LAT, LON = np.linspace(-82.5, 82.5, 12), np.arange(24) * 15.0
NAMES = "abcd"
PATTERNS = {f"instrument {k}": f"{k}-*" for k in NAMES}
MINE = ", instrument b"


class Sea(SimpleNamespace):
    r"""A store in memory."""

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.x[start:stop]


def kernels() -> tuple[np.ndarray, np.ndarray]:
    r"""Correlations along latitudes and, around the circle, longitudes."""
    lat = np.exp(-((LAT[:, None] - LAT) ** 2) / (2 * DEGREES**2))
    chord = 360 / np.pi * np.sin(np.pi * np.abs(LON[:, None] - LON) / 360)
    return lat, np.exp(-(chord**2) / (2 * DEGREES**2))


def sea(rng: np.random.Generator) -> Sea:
    L = FRAMES * (PERIODS + 1) + 6
    a, b = (np.linalg.cholesky(K + 1e-6 * np.eye(len(K))) for K in kernels())
    x = a @ rng.standard_normal((L, len(LAT), len(LON))) @ b.T
    for t in range(1, L):
        x[t] = MEMORY * x[t - 1] + np.sqrt(1 - MEMORY**2) * x[t]
    mean = np.broadcast_to(2 + 2 * np.sin(np.deg2rad(LAT))[:, None], (len(LAT), len(LON)))
    return Sea(
        x=(x + mean)[:, None].astype(np.float32), length=L, channels=["u"], units=["m s-1"],
        grid=(len(LAT), len(LON)), coords={"lat": LAT, "lon": LON}, mask=None, segments=[(0, L)],
        coord_attrs={k: {"standard_name": f"{k}itude"} for k in ("lat",)}
        | {"lon": {"standard_name": "longitude"}},
        time=6.0 * np.arange(L), time_units="hours since 2000-01-01", calendar="standard",
        statistics=Statistics(
            mean[None, None].astype(np.float32), np.ones((1, 1, 1, 1), np.float32),
            np.full(1, 99), np.zeros(L, int), (len(LAT), len(LON)),
        ),
    )  # fmt: skip


def faults(table, rng: np.random.Generator) -> dict[str, np.ndarray]:
    r"""Values with each fault."""
    y, mine = table.value, np.char.startswith(table.station, "b-")
    noise = SIGMA * rng.standard_normal(len(y))
    order = np.arange(len(y))
    for f in np.unique(table.frame):
        at = np.flatnonzero(mine & (table.frame == f))
        order[at] = rng.permutation(at)
    return {
        "nothing": y,
        "σ × 2": y + np.where(mine, np.sqrt(3) * noise, 0),
        "σ × 1.5": y + np.where(mine, np.sqrt(1.25) * noise, 0),
        "bias 1 σ": y + np.where(mine, SIGMA, 0),
        "bias 0.5 σ": y + np.where(mine, SIGMA / 2, 0),
        "units × 1.15": y * np.where(mine, 1.15, 1),
        "places": y[order],
        "prior shifted": y + 1.0,
    }


RIGHT = {
    "nothing": {CONSISTENT}, "σ × 2": {"σ of u" + MINE}, "σ × 1.5": {"σ of u" + MINE},
    "bias 1 σ": {"bias of u" + MINE}, "bias 0.5 σ": {"bias of u" + MINE},
    "units × 1.15": {"units of u" + MINE}, "places": {"places of u" + MINE},
    "prior shifted": {CANNOT_TELL},
}  # fmt: skip


def effective(table) -> float:
    lat, lon = kernels()
    i, j = np.divmod(table.point[table.frame == 0], len(LON))
    S = lat[np.ix_(i, i)] * lon[np.ix_(j, j)] + SIGMA**2 * np.eye(len(i))
    lag = np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
    return effective_number(S, MEMORY**lag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seas", type=int, default=400)
    parser.add_argument("--stations", type=int, default=16, help="of each instrument")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    told: dict[str, list] = {name: [] for name in RIGHT}
    worth = []
    for k in range(args.seas):
        rng = np.random.default_rng([args.seed, args.stations, k])
        s, n = sea(rng), 4 * args.stations
        places = {
            f"{NAMES[i % 4]}-{i:03}": (float(LAT[p // len(LON)]), float(LON[p % len(LON)]))
            for i, p in enumerate(rng.permutation(len(LAT) * len(LON))[:n])
        }
        table = draw(Stations(network="stations", places=places, error=SIGMA), s, start=0,
                     stop=FRAMES, seed=k)  # fmt: skip
        worth.append(effective(table))
        judge = judge_of(
            table, s, 0, FRAMES, (FRAMES + 6, s.length), repeats=REPEATS, seed=k,
            instruments=PATTERNS,
        )  # fmt: skip
        for name, y in faults(table, rng).items():
            told[name].append(judge(y))
    print(f"{args.seas} seas, 4 × {args.stations} stations, {FRAMES} frames, seed {args.seed}: "
          f"{np.mean(worth):.0f} effective observations")  # fmt: skip
    for name, found in told.items():
        alarm = np.mean([f["p"] <= 0.05 for f in found])
        right = np.mean([f["told"] in RIGHT[name] for f in found])
        unsure = np.mean([f["told"] == CANNOT_TELL for f in found])
        own = np.mean([bool(f["candidates"]) and all(c.endswith(MINE) for c in f["candidates"])
                       for f in found])  # fmt: skip
        print(f"{name:14s} alarms {alarm:.3f}  told right {right:.3f}  {CANNOT_TELL} "
              f"{unsure:.3f}  all candidates of the instrument {own:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
