"""The study of the Kolmogorov flow runs whole, in small; its benchmark's figures are exact."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpcinv.io.store import TrajectoryStore
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.dynamics import trajectories

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"))

import kolmogorov

ROOT = Path(__file__).resolve().parent.parent


def smoke(study, runs):
    """The folder of a study whose smoke preset has run whole."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / study, "--preset", "smoke",
         "--runs", runs],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return runs / study


def test_the_spectrum_holds_all_energy_and_finds_a_wave():
    x = np.arange(16) * 2 * np.pi / 16
    wave = np.zeros((1, 2, 16, 16))
    wave[0, 0] = np.sin(3 * x)[:, None]  # u = sin 3y: energy 1/4 at wavenumber 3
    e = kolmogorov.spectrum(wave)
    assert np.allclose(e, np.where(np.arange(9) == 3, 0.25, 0), atol=1e-12)


def test_the_simulator_has_no_defect_and_noise_has():
    d = make("kolmogorov", {"size": 16, "reynolds": 30, "wavenumber": 2, "spin_up": 5})
    x = torch.stack(list(trajectories(d, Key(0, [0]), 6)))[:, 0].numpy()
    flow, div = kolmogorov.defects(d, x)
    assert flow < 1e-10 and div < 1e-10
    rng = np.random.default_rng(0)
    flow, div = kolmogorov.defects(d, rng.standard_normal(x.shape))
    # White noise: half of its energy is divergent, and no frame follows from the one before.
    assert 0.85 < div < 1.15 and flow > 0.6


@pytest.mark.slow
def test_the_smoke_preset_runs_whole(tmp_path):
    runs = smoke("kolmogorov", tmp_path)
    for what in ("points", "coarse", "saturating", "super"):
        card = json.loads((runs / f"evaluate-{what}" / "scores.json").read_text())
        score = {n: e["pooled"]["crps"]["value"] for n, e in card["methods"].items()}
        # What holds the simulator is better than what holds nothing.
        assert score[f"letkf-{what}"] < score["climatology"]
    assert (runs / "report" / "report.html").exists()


@pytest.mark.slow
def test_the_map_runs_whole(tmp_path):
    runs = smoke("kolmogorov-map", tmp_path)
    cells = json.loads((runs / "map" / "map.json").read_text())["cells"]
    assert [c["at"] for c in cells] == [[n, 0.2, w] for w in (4, 8) for n in (12, 200)]
    scores = json.loads((runs / "evaluate" / "scores.json").read_text())["methods"]
    for c in cells:
        assert c["rmse"] == scores[c["name"]]["pooled"]["rmse"]["value"]
    # Ten steps teach nothing, but the Gaussian of the modes and the observations do.
    best = min(cells, key=lambda c: c["rmse"])
    assert best["at"][0] == 200 and best["rmse"] < scores["climatology"]["pooled"]["rmse"]["value"]


@pytest.mark.slow
def test_states_and_parameters_run_whole(tmp_path):
    runs = smoke("kolmogorov-joint", tmp_path)
    store = TrajectoryStore.open(runs / "simulate" / "store")
    assert list(store.channels) == ["u", "v", "log_reynolds", "amplitude"]
    z = store.standardised(0, 256)[:, 2:]
    assert np.abs(z[..., 0, 0].std(0) - 1).max() < 0.05  # one deviation at its point
    assert not z.reshape(256, 2, -1)[..., 1:].any()  # and zero, not a division by zero, elsewhere
    card = json.loads((runs / "evaluate" / "scores.json").read_text())
    assert {"log_reynolds", "amplitude"} <= set(card["methods"]["reanalysis"]["channels"])
