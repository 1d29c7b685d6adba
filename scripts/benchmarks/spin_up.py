#!/usr/bin/env python
r"""Scores of analyses without their first frames, in which a filter finds the truth.

    python scripts/benchmarks/spin_up.py runs/lorenz filtering96 letkf96-filter \
        --truth simulate96 --start 65536 --skip 16 --span 64 256

RMSE of the ensemble mean, fair CRPS and spread over skill, all numbers alike, of all frames,
without the first ones, of any spans of them (from a frame to before another), and of the first
ones each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hpcinv.evaluation.crps import crps
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="a study's run folders")
    parser.add_argument("analyses", nargs="+")
    parser.add_argument("--truth", required=True, help="the job that made the truth")
    parser.add_argument("--start", type=int, required=True, help="the first analysed frame")
    parser.add_argument("--skip", type=int, default=16)
    parser.add_argument("--span", type=int, nargs=2, action="append", default=[])
    a = parser.parse_args()
    store = TrajectoryStore.open(a.study / a.truth / "store")
    for name in a.analyses:
        with open_analysis(a.study / name) as analysis:
            x = analysis.ensemble().astype(np.float64)
        members, frames = x.shape[:2]
        x = x.reshape(members, frames, -1)
        truth = np.asarray(store.read(a.start, a.start + frames)).reshape(frames, -1)
        error = np.square(x.mean(0) - truth).mean(1)
        variance = x.var(0, ddof=1).mean(1) * (members + 1) / members
        score = crps(x, truth).mean(1)
        spans = [("all", slice(None)), (f"after {a.skip}", slice(a.skip, None))]
        for what, s in spans + [(f"{i} to {k}", slice(i, k)) for i, k in a.span]:
            e, v = error[s].mean(), variance[s].mean()
            print(f"{name}, {members} members, {what}: RMSE {e**0.5:.3f}, CRPS "
                  f"{score[s].mean():.3f}, spread/skill {(v / e) ** 0.5:.3f}")  # fmt: skip
        print("  RMSE of the first:", " ".join(f"{v**0.5:.2f}" for v in error[: a.skip]))


if __name__ == "__main__":
    main()
