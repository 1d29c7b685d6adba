"""The study of a flow's parameters: what velocities cannot tell, and pressure can."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(runs, *preset):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", str(ROOT / "jobs/kolmogorov-parameters"),
         *preset, "--runs", str(runs)],
        capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    study = runs / "kolmogorov-parameters"
    cards = {
        k: json.loads((study / f"evaluate-{k}" / "scores.json").read_text())
        for k in ("velocities", "gauges")
    }
    return study, cards


@pytest.mark.slow
def test_the_smoke_preset_runs_whole(tmp_path):
    study, cards = run(tmp_path, "--preset", "smoke")
    for card in cards.values():
        assert card["calibrated"] and card["gain"]["low"] > 0
        assert card["parameters"]["reynolds"]["contraction"]["value"] > 0.1
    density = cards["velocities"]["parameters"]["density"]
    assert density["told"] == "hardly" and density["prior"]["p"] > 0.05
    for k in cards:
        page = (study / f"report-{k}" / "report.html").read_text()
        assert "What other data tell" in page and "L-C2ST" in page


@pytest.mark.slow
def test_density_equals_its_prior_without_gauges_and_is_known_with_them(tmp_path):
    _, cards = run(tmp_path)
    blind, seeing = (cards[k]["parameters"]["density"] for k in ("velocities", "gauges"))
    print(blind, seeing)
    assert all(card["calibrated"] for card in cards.values())
    # The posterior of each withheld flow, 300 samples, against the prior: 5% would be told from it
    # if it were the prior exactly (6% were measured).
    assert blind["prior"]["p"] > 0.3 and blind["prior"]["apart"] < 0.1
    assert abs(blind["contraction"]["value"]) < 0.02
    assert (1 - seeing["contraction"]["value"]) ** -0.5 >= 5
