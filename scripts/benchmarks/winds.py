r"""`jobs/winds` on several seeds; and how its settings were chosen, by leaving out years.

    python scripts/benchmarks/winds.py [--folds withheld] [--seeds 0,1,2] [key=value ...]

`withheld` is the study itself: the last two years, read once the settings stand. Folds `last` and
`first` choose them: the study on the first 108 months only, 84 of them to learn from, 24 to
analyse. Further `job.key=value` arguments are passed on, so that a setting is compared with the
study's own. A fold has its own difficulty: read its scores beside those of the localised
interpolation. Seconds are those of the whole study; memory is that of its largest job, all ranks
together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

# name: (training frames, held frames for the decoder's error, analysed frames)
FOLDS = {
    "withheld": ((0, 108), (84, 108), (108, 132)),
    "last": ((0, 84), (60, 84), (84, 108)),
    "first": ((24, 108), (84, 108), (0, 24)),
}
FIGURES = ("rmse", "crps", "spread_skill", "rank_distance")
SCORED = ("reanalysis", "oi-localised", "oi-eof", "persistence", "climatology")


def overrides(fold: str, seed: int) -> list[str]:
    r"""The fields of the study that leave a fold's years out."""
    train, held, left = (json.dumps(list(f)) for f in FOLDS[fold])
    given = [f"import.statistics.frames={train}", f"observe.frames={left}"]
    given += [f"train-autoencoder.frames={train}", f"train-autoencoder.held={held}"]
    given += [f"encode.frames={train}", f"reanalysis.frames={left}", f"evaluate.frames={left}"]
    for job in ("climatology", "persistence", "oi-eof", "oi-localised"):
        given += [f"{job}.frames={left}", f"{job}.training={train}"]
    seeded = ("observe", "train-autoencoder", "encode", "train-diffusion", "reanalysis")
    return given + [f"{job}.seed={seed}" for job in seeded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folds", default="withheld")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-winds"))
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    print("| fold | seed | method | RMSE | CRPS | spread/skill | rank TV | seconds | GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for fold in given.folds.split(","):
        for seed in given.seeds.split(","):
            runs = given.runs / f"{fold}-{seed}"
            began = time.monotonic()
            command = [sys.executable, "-m", "hpcinv", "run", "jobs/winds", "--runs", str(runs)]
            command += [*overrides(fold, int(seed)), *given.settings]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - began
            scores = json.loads((runs / "winds" / "evaluate" / "scores.json").read_text())
            told = [json.loads(p.read_text()) for p in (runs / "winds").glob("*/manifest.json")]
            memory = max(m["peak_memory"]["all"] for m in told) / 1e9
            for method in SCORED:
                pooled = scores["methods"][method]["pooled"]
                figures = [pooled[key]["value"] for key in FIGURES]
                row = [fold, seed, method, *(f"{v:.3f}" for v in figures), f"{seconds:.0f}"]
                row.append(f"{memory:.1f}")
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
