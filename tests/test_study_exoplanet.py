r"""The study of an atmosphere's parameters, whole, at its smallest."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpcinv.io.rows import Rows
from hpcinv.simulators import make

ROOT = Path(__file__).parents[1]


def spectrum_file(path):
    r"""A made-up planet's spectrum as an observer would publish it: µm and mJy."""
    simulator = make("spectrum", {})
    theta = torch.tensor(
        [[1e-3, 1e-6, 1e-4, 1e-4, 1200, 300, 5e-3, 0.4, 1e6, 1e-3, 30, 1.2]], dtype=torch.float64
    )
    flux = simulator.flux(theta)
    lam = np.array(simulator.outputs.axes[0].values)
    mjy = 1e29 * 1e6 * (lam * 1e-6) ** 2 / 299792458.0  # of W m-2 um-1
    rows = np.stack([lam, flux[0].numpy() * mjy, simulator.error(flux)[0].numpy() * mjy], 1)
    np.savetxt(path, rows, header="wavelength: um\nflux: mJy")
    return np.arcsinh(flux[0].numpy() / simulator.floor)


@pytest.mark.slow
def test_the_chain_runs_whole_and_inverts_a_spectrum_of_ones_own(tmp_path):
    home = tmp_path / "exoplanet"
    shutil.copytree(ROOT / "jobs/exoplanet", home)
    x = spectrum_file(home / "planet.txt")
    infer = (home / "4_infer.yaml").read_text()
    (home / "4_infer-planet.yaml").write_text(
        infer.replace("observations: withheld", "file: planet.txt")
        .replace("samples: 200", "samples: 100").replace("predictive: 16", "predictive: 8")
        .replace("map_steps: 10", "map_steps: 2")
    )  # fmt: skip
    with (home / "5_evaluate.yaml").open("a") as f:
        f.write("observed: infer-planet\n")
    report = (home / "6_report.yaml").read_text()
    (home / "6_report-planet.yaml").write_text(
        report.replace("samples: infer", "samples: infer-planet")
    )
    runs = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", str(home),
         "--preset", "smoke", "--runs", str(runs)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    study = runs / "exoplanet"
    card = json.loads((study / "evaluate" / "scores.json").read_text())
    # Forty steps teach it something, and what it does not know it does not claim.
    assert card["gain"]["low"] > 0 and card["calibrated"]
    assert len(card["parameters"]) == 12 and card["simulations"] == 120
    page = (study / "report" / "report.html").read_text()
    assert "gravity" in page and "data:image/png" in page and len(page) < 6e6
    # The file was read in its units, and whoever asks learns whether it could be simulated.
    planet = Rows(study / "infer-planet")
    assert len(planet) == 1 and np.allclose(planet.read("x")[0], x, atol=1e-4)
    assert planet.read("samples").shape == (1, 100, 12)
    assert 0 < card["observed"]["p"][0] <= 1 and 0 < card["local"]["observed"][0] <= 1
    assert "planet.txt" in (study / "report-planet" / "report.html").read_text()
