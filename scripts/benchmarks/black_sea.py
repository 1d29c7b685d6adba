r"""Oxygen at the bottom of the shelf: hypoxia, skill by depth, and reliability of analyses.

    hpcinv run jobs/black_sea
    python scripts/benchmarks/black_sea.py --runs runs

Hypoxia is oxygen below 63 mmol m-3 in the lowest wet level of columns that end above 80 m, whose
areas weight. Brier skill is over the climatology by day of year. Intervals are of 90%, from a
block bootstrap over months (blocks of three; of other lengths with --block). The CRPS is fair, in
deviations of the training climatology, over columns that reach the level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hpcinv.evaluation.crps import crps
from hpcinv.evaluation.event_intervals import intervals
from hpcinv.evaluation.events import events
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.models.sphere import EARTH_RADIUS_KM
from hpcinv.simulators import make

HYPOXIC = 63.0  # mmol m-3, 2 mg/l
ORDER = (
    "zero-shot",
    "hard-wired",
    "zero-shot-floats",
    "hard-wired-floats",
    "regression",
    "climatology",
    "letkf",
)


def areas(store: TrajectoryStore) -> np.ndarray:
    r"""Areas of the cells, km2, with the grid's shape; zero on land."""
    lat, lon = (np.deg2rad(store.coords[k]) for k in ("lat", "lon"))
    side = EARTH_RADIUS_KM * np.array([np.diff(lat)[0], np.diff(lon)[0]])
    return np.where(store.mask, side[0] * side[1] * np.cos(lat)[:, None], 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--start", type=int, default=1092, help="first frame of the store analysed"
    )
    parser.add_argument("--block", type=int, default=3, help="frames of a bootstrap's block")
    parser.add_argument("--draws", type=int, default=2000, help="draws of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args()
    folder = args.runs / "black_sea"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    sea = make(store.attributes["simulator"], store.attributes["options"])
    names, area = store.channels, areas(store)
    shelf = np.where(sea.basin.numpy() > 0, 0.0, area)
    read = {}
    for name in ORDER:
        if (folder / name / "analysis.nc").exists():
            with open_analysis(folder / name) as analysis:
                read[name] = np.where(store.mask, analysis.ensemble(), 0)
    length = next(iter(read.values())).shape[1]
    frames = np.arange(args.start, args.start + length)
    truth = store.read(args.start, args.start + length)
    o2 = [n for n in names if n.startswith("o2_")]
    bottom = names.index(o2[-1])
    found = {n: events(x[:, :, bottom], truth[:, bottom], HYPOXIC, shelf) for n, x in read.items()}
    any_of = next(iter(found.values()))
    most, whole = any_of.extent.max(), shelf.sum()
    print(f"base rate {any_of.base:.3f}; largest extent {most:.0f} km2 of {whole:.0f}")
    head = "  told  detection  precision   Brier  skill  extent: rmse, spread/skill"
    print(" " * 18 + head)
    for name, e in found.items():
        error = e.extents.mean(0) - e.extent
        rmse = np.sqrt((error**2).mean())
        M = len(e.extents)
        ratio = np.sqrt((M + 1) / M * e.extents.var(0, ddof=1).mean()) / rmse
        print(
            f"{name:18s} {e.told:5.3f} {e.detection:10.2f} {e.precision:10.2f} {e.brier:7.4f}"
            f" {e.skill(found['climatology']):6.2f} {rmse:10.0f} {ratio:10.2f}"
        )
    sure = intervals(
        {n: x[:, :, bottom] for n, x in read.items()}, truth[:, bottom], HYPOXIC, shelf,
        "climatology", block=args.block, draws=args.draws, seed=args.seed,
    )  # fmt: skip
    head = "".join(f"{s:>18s}" for s in ("base rate", "detection", "precision", "Brier", "skill"))
    print(f"\n90% intervals, blocks of {args.block} frames, {args.draws} draws\n{'':18s}{head}")
    for name, of in sure.items():
        digits = {"brier": 4}
        told = [
            f"{lo:.{digits.get(s, 2)}f} to {hi:.{digits.get(s, 2)}f}" for s, (lo, hi) in of.items()
        ]
        print(f"{name:18s}" + "".join(f"{t:>18s}" for t in told))
    z = lambda x: store.statistics.standardise(x, frames)  # noqa: E731
    y = z(truth)
    reach = [sea.cells.wet[k].numpy() > 0 for k in range(sea.levels)]
    print("\nCRPS in deviations by variable and level, and of bottom oxygen on the shelf")
    print(f"{'':18s}" + "".join(f"{n:>8s}" for n in names) + "  bottom  spread/skill")
    for name, x in read.items():
        x = z(x)
        row = []
        for c, n in enumerate(names):
            w = np.where(reach[int(n[-1]) - 1] if n[-1].isdigit() else reach[0], area, 0)
            row.append((crps(x[:, :, c], y[:, c]) * w).sum() / (w.sum() * length))
        b = x[:, :, bottom]
        row.append((crps(b, y[:, bottom]) * shelf).sum() / (shelf.sum() * length))
        M = len(b)
        spread = ((M + 1) / M * b.var(0, ddof=1) * shelf).sum()
        skill = (np.square(b.mean(0) - y[:, bottom]) * shelf).sum()
        print(
            f"{name:18s}" + "".join(f"{r:8.3f}" for r in row) + f"{np.sqrt(spread / skill):10.2f}"
        )


if __name__ == "__main__":
    main()
