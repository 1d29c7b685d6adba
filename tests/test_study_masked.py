r"""A study on a grid with land: masks from the file to the analysis."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

JOBS = {
    "1_import": """
kind: import
source: {path: ../sea.nc}
variables: {sst: {}}
static: [depth]
missing: mask
statistics: {frames: [0, 40], phase: none, per: channel}
""",
    "2_observe": """
kind: observe
data: import
frames: [44, 52]
observing: {network: random_points, points: 20, error: 0.1}
""",
    "3_train-autoencoder": """
kind: train
data: import
frames: [0, 40]
held: [32, 40]
model:
  {name: autoencoder, latent_channels: 2, stride: 4, width: 16, periodic: false,
   static: [mask, depth]}
training: {steps: 60, batch: 8, learning_rate: 1e-2, checkpoint_every: 60}
""",
    "4_encode": """
kind: encode
data: import
autoencoder: train-autoencoder
frames: [0, 40]
""",
    "5_train-diffusion": """
kind: train
data: encode
window: 4
model: {name: trajectory_denoiser, width: 16, depth: 1, modes: 8, periodic: false}
training: {steps: 5, batch: 4, checkpoint_every: 5}
""",
    "6_reanalysis": """
kind: assimilate
data: import
frames: [44, 52]
observations: observe
prior: train-diffusion
decoder: train-autoencoder
members: 2
window: 4
overlap: 2
sampler: {steps: 4}
guidance: {iterations: 1}
""",
    "8_evaluate": """
kind: evaluate
truth: import
frames: [44, 52]
analyses: [reanalysis]
""",
    "9_report": """
kind: report
title: A sea with an island
evaluate: evaluate
analysis: reanalysis
truth: import
frames: [44, 52]
observations: observe
""",
}


def sea(path):
    r"""A warm blob that wanders around an island, with no value on land."""
    lat, lon = np.linspace(40, 46, 13), np.linspace(28, 40, 24)
    land = (np.hypot(lat[:, None] - 43, (lon - 33) / 1.5) < 1) | (lat[:, None] < 41)
    t = np.arange(52)
    x = 15 + 3 * np.exp(
        -((lat[:, None] - 43 - 1.5 * np.sin(t / 5)[:, None, None]) ** 2)
        - ((lon - 34 - 3 * np.cos(t / 5)[:, None, None]) / 2) ** 2
    )
    x[:, land] = np.nan
    depth = np.where(land, 0.0, 1000.0 + 100 * lat[:, None])
    xr.Dataset(
        {
            "sst": (("time", "lat", "lon"), x, {"units": "degC"}),
            "depth": (("lat", "lon"), depth, {"units": "m"}),
        },
        {
            "time": ("time", t, {"units": "days since 2000-01-01"}),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
        },
    ).to_netcdf(path)
    return land


@pytest.mark.slow
def test_land_stays_land(tmp_path):
    land = sea(tmp_path / "sea.nc")
    study = tmp_path / "sea"
    study.mkdir()
    for name, text in JOBS.items():
        (study / f"{name}.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", str(tmp_path / "runs")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with xr.open_dataset(tmp_path / "runs/sea/reanalysis/analysis.nc") as a:
        x = a["sst"].values
    assert np.isnan(x[..., land]).all() and np.isfinite(x[..., ~land]).all()
    from safetensors.numpy import load_file

    from hpcinv.io.store import TrajectoryStore

    store = TrajectoryStore.open(tmp_path / "runs/sea/import/store")
    # Networks see nothing on land, whatever the mean of the sea.
    assert (store.standardised(0, 52)[:, :, land] == 0).all()
    assert (store.static["depth"][land] == 0).all() and store.static["depth"].max() > 5000
    kept = load_file(tmp_path / "runs/sea/train-autoencoder/weights.safetensors")
    told = kept["static_fields"]
    assert (told[0][land] < 0).all() and (told[0][~land] > 0).all()  # the mask, standardised
