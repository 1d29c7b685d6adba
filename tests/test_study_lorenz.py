"""The study of Lorenz's systems runs whole, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.kinds.study import load
from hpcinv.observations.table import ObservationTable

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("study", ["lorenz", "lorenz-map"])
@pytest.mark.parametrize("preset", [None, "medium", "full", "smoke"])
def test_presets_move_observations_analyses_and_scores_together(study, preset):
    jobs = load(ROOT / "jobs" / study, preset=preset)
    jobs.check()
    scores = [j for j in jobs.jobs.values() if j.kind == "evaluate"]
    assert scores
    for job in scores:
        for name in job.analyses:
            analysis = jobs.jobs[name]
            assert analysis.frames == job.frames, name
            seen = getattr(analysis, "observations", None)
            assert seen is None or jobs.jobs[seen].frames == job.frames, name


@pytest.mark.slow
def test_the_smoke_preset_runs_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / "lorenz", "--preset", "smoke",
         "--runs", tmp_path],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = tmp_path / "lorenz"
    assert {p.parent.name for p in runs.glob("*/report.html")} == {"report63", "report96"}
    for system in ("63", "96", "96-sparse"):
        card = json.loads((runs / f"evaluate{system}" / "scores.json").read_text())
        store = TrajectoryStore.open(runs / f"simulate{system[:2]}" / "store")
        truth = store.read(1024, 1088)
        for name, entry in card["methods"].items():
            with open_analysis(runs / name) as analysis:
                mean = analysis.ensemble().astype(np.float64).mean(0)
            rmse = np.sqrt(((mean - truth) ** 2).mean())
            assert abs(entry["pooled"]["rmse"]["value"] - rmse) < 1e-4 * rmse, name
    # Interpolation of all variables, seen with noise of one, is better than the noise.
    methods = json.loads((runs / "evaluate96" / "scores.json").read_text())["methods"]
    assert methods["oi96"]["pooled"]["rmse"]["value"] < 1.3 < store.statistics.std.mean()
    # The table saw the truth: noise of deviation one.
    table = ObservationTable.load(runs / "observe96" / "observations.nc")
    error = table.value - truth[table.frame, 0, table.point]
    assert len(table) == 64 * 40 and abs(error.std() - 1) < 0.05


@pytest.mark.slow
def test_the_map_runs_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / "lorenz-map", "--preset", "smoke",
         "--runs", tmp_path],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = tmp_path / "lorenz-map"
    cells = json.loads((runs / "map" / "map.json").read_text())["cells"]
    assert [c["at"] for c in cells] == [[k, 1.0, w] for w in (8, 16, 32) for k in (1, 4)]
    scores = json.loads((runs / "evaluate" / "scores.json").read_text())["methods"]
    for c in cells:
        assert c["rmse"] == scores[c["name"]]["pooled"]["rmse"]["value"]
    # Twenty steps teach nothing, but the Gaussian of the modes and the observations do.
    best = min(cells, key=lambda c: c["rmse"])
    assert best["at"][0] == 1 and best["rmse"] < scores["climatology"]["pooled"]["rmse"]["value"]
