"""Levels that end at a sea floor: in what is read, in the statistics, in the loss."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from hpcinv.io.store import TrajectoryStore
from hpcinv.kinds.train import importance
from hpcinv.kinds.training_data import static_fields
from hpcinv.training.autoencoder import AutoencoderLearner

JOB = """\
kind: import
source: {path: ../sea.nc}
missing: floor
variables: {ssh: {}, thetao: {}}
statistics: {frames: [0, 8], phase: none}
"""
DEEP = np.array([0, 0, 1, 2, 3, 3])  # levels that there are, by column of the grid


def sea(path, order=1, hole=None):
    t = np.random.default_rng(0).standard_normal((8, 3, 4, 6)).astype("f4")[:, ::order]
    surface = t[:, 0].copy()
    levels = np.arange(3)[::order]
    t[:, levels[:, None, None] >= np.broadcast_to(DEEP, (4, 6))] = np.nan
    surface[:, :, DEEP == 0] = np.nan
    if hole:
        t[hole] = np.nan
    xr.Dataset(
        {"thetao": (("time", "depth", "lat", "lon"), t, {"units": "degC"}),
         "ssh": (("time", "lat", "lon"), surface, {"units": "m"})},
        {"time": ("time", np.arange(8), {"units": "days since 2000-01-01"}),
         "depth": ("depth", np.array([5.0, 50, 500])[::order], {"units": "m"}),
         "lat": ("lat", 40.0 + np.arange(4), {"units": "degrees_north"}),
         "lon": ("lon", 28.0 + np.arange(6), {"units": "degrees_east"})},
    ).to_netcdf(path)  # fmt: skip
    return t


def imported(tmp_path, code=0):
    job = tmp_path / "sea" / "1_import.yaml"
    job.parent.mkdir(exist_ok=True)
    job.write_text(JOB)
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", job, "--runs", tmp_path / "runs"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return tmp_path / "runs/sea/import/store" if code == 0 else done.stdout


@pytest.mark.parametrize("order", [1, -1])  # from the surface down, and up
def test_the_lowest_level_goes_on_below_the_floor_and_counts_for_nothing(tmp_path, order):
    t = sea(tmp_path / "sea.nc", order)
    store = TrajectoryStore.open(imported(tmp_path))
    assert [c.split("_")[0] for c in store.channels] == ["ssh"] + 3 * ["thetao"]
    np.testing.assert_array_equal(store.mask, np.broadcast_to(DEEP > 0, (4, 6)))
    x = store.read(0, 8)[:, 1:]
    levels = range(3)[::order]
    for c, level in enumerate(levels):
        for column, deep in enumerate(DEEP):
            if deep:
                wanted = t[:, levels.index(min(level, deep - 1)), :, column]
                np.testing.assert_array_equal(x[:, c, :, column], wanted)
                assert (store.below[1 + c, :, column] == (level >= deep)).all()
    assert not store.below[0].any()
    z = store.standardised(0, 8)
    assert np.isfinite(z).all() and (z[..., DEEP == 0] == 0).all() and np.abs(z).max() < 9

    w = importance(store)
    assert (w[store.below] == 0).all() and (w[:, :, DEEP == 0] == 0).all()
    assert (w[~store.below & store.mask] > 0).all()
    np.testing.assert_allclose(w.reshape(4, -1).mean(1), 1)
    (told,) = static_fields(store, ["floor"])
    assert (np.diff(told[0, 2:]) >= 0).all() and told[0, 2] < told[0, 4]

    # An error below the floor or on land is none.
    model = {"name": "autoencoder", "channels": 4, "grid": [4, 6], "stride": 2, "width": 4}
    learner = AutoencoderLearner({**model, "periodic": False}, weights=w)
    x = torch.from_numpy(z)[:1]

    def loss(error):
        raw = torch.ones(1, *learner.module.latent_shape)
        again = x[0] + torch.as_tensor(error, dtype=torch.float32)
        learner.module.forward = lambda *_: (again[None], raw)
        batch = {"x": x[:, None], "noise": torch.zeros(1, 1, *learner.module.latent_shape)}
        return float(learner(batch | {"context": torch.zeros(1, 1, 0)}))

    assert loss(1e3 * (store.below | ~store.mask)) == 0
    assert loss(0.1 * ~store.below) > 0


def test_a_gap_above_the_floor_is_named(tmp_path):
    sea(tmp_path / "sea.nc", hole=(3, 1, 2, 4))
    said = imported(tmp_path, code=2)
    assert "variable 'thetao_50' has 1 missing or non-finite values at 2000-01-04" in said
