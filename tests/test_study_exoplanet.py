r"""The study of an atmosphere's parameters, whole, at its smallest."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_chain_runs_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", str(ROOT / "jobs/exoplanet"),
         "--preset", "smoke", "--runs", str(tmp_path)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    study = tmp_path / "exoplanet"
    card = json.loads((study / "evaluate" / "scores.json").read_text())
    # Forty steps teach it something, and what it does not know it does not claim.
    assert card["gain"]["low"] > 0 and card["calibrated"]
    assert len(card["parameters"]) == 12 and card["simulations"] == 120
    page = (study / "report" / "report.html").read_text()
    assert "gravity" in page and "data:image/png" in page and len(page) < 6e6
