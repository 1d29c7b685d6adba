"""The study of the Black Sea runs whole, in small, and its figures are told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcinv.evaluation.events import events
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.simulators import make

ROOT = Path(__file__).resolve().parent.parent
CENTRES = ("jean-zay", "lumi")


@pytest.mark.parametrize("centre", CENTRES)
def test_every_script_of_the_full_study_is_rendered(tmp_path, centre):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "plan", ROOT / "jobs" / "black_sea", "--preset", "full",
         "--cluster", centre, "--sbatch", tmp_path / "out", "--runs", tmp_path / "runs"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    scripts = sorted((tmp_path / "out").glob("*.sbatch"))
    for script in scripts:
        assert subprocess.run(["bash", "-n", script]).returncode == 0
        assert "--launcher none" in script.read_text()
    arrays = {p.name.split("_")[1].split(".")[0]: p.read_text() for p in scripts
              if p.name.endswith(".array.sbatch")}  # fmt: skip
    assert "--array=0-50%16" in arrays["simulate"]
    for name in ("zero-shot", "zero-shot-floats", "hard-wired", "hard-wired-floats"):
        assert "--array=0-7" in arrays[name]


@pytest.mark.slow
def test_the_smoke_preset_runs_whole(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / "black_sea", "--preset", "smoke",
         "--runs", tmp_path],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = tmp_path / "black_sea"
    store = TrajectoryStore.open(runs / "simulate" / "store")
    assert (store.statistics.count == 6).all()  # three trajectories of two years of training
    assert [d.month for d in store.dates()[84:88]] == [1, 2, 3, 4]
    with open_analysis(runs / "zero-shot") as analysis:
        x = analysis.ensemble()
        np.testing.assert_array_equal(analysis.mask, store.mask)
    card = json.loads((runs / "evaluate" / "scores.json").read_text())
    assert set(card["methods"]) == {
        "zero-shot", "hard-wired", "regression", "climatology", "letkf"
    }  # fmt: skip
    assert (runs / "report" / "report.html").exists()
    told = subprocess.run(
        [sys.executable, ROOT / "scripts" / "benchmarks" / "black_sea.py", "--runs", tmp_path,
         "--start", "84"],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "90% intervals" in told.stdout
    row = next(line for line in told.stdout.splitlines() if line.startswith("zero-shot "))
    sea = make(store.attributes["simulator"], store.attributes["options"])
    bottom = store.channels.index("o2_5")
    truth = store.read(84, 96)[:, bottom]
    shelf = store.mask & (sea.basin.numpy() == 0)
    # All rows of this grid have nearly one area: unweighted shares are near.
    near = events(x[:, :, bottom], truth, 63.0, shelf.astype(float))
    assert float(row.split()[1]) == pytest.approx(near.told, abs=0.05)
