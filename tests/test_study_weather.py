"""The study of the dry atmosphere runs whole, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dinosaur")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def test_the_smoke_preset_runs_whole_and_filtering_does_not_see_the_future(tmp_path):
    import numpy as np

    from hpcinv.io.analysis import open_analysis

    def run(file="", *more):
        done = subprocess.run(
            [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / "weather" / file, "--preset",
             "smoke", "--runs", tmp_path, *more],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def filtered():
        with open_analysis(tmp_path / "weather" / "filtering") as a:
            return a.ensemble()

    run()
    card = json.loads((tmp_path / "weather" / "evaluate" / "scores.json").read_text())
    score = {n: e["pooled"]["crps"]["value"] for n, e in card["methods"].items()}
    # Little is learnt in a second, but interpolation beats knowing nothing of these days.
    assert score["oi-localised"] < score["climatology"]
    assert (tmp_path / "weather" / "report" / "report.html").exists()
    before = filtered()
    # Nothing is seen any more from the eighth frame on: the filter's first eight stay, bit by bit.
    run("2_observe.yaml", "--fresh", "observing.gaps=[[8,16]]")
    run("6_filtering.yaml", "--fresh")
    after = filtered()
    assert np.array_equal(before[:, :8], after[:, :8])
    assert not np.array_equal(before[:, 8:], after[:, 8:])
