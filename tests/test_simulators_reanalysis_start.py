"""States of a reanalysis as states of the model: exact where it can be, and a real one."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hpcinv.errors import BadInput
from hpcinv.simulators.reanalysis_start import sigma_state

SAMPLES = os.environ.get("HPCINV_SAMPLES")
R = 287.05
SIGMA = (np.arange(5) + 0.5) / 5
LEVELS = np.array([50.0, 100, 200, 300, 500, 700, 850, 925, 1000])


def write(path, lat, lon, scale=1.0, units="hPa", names=("u", "v", "t", "z"), **change):
    r"""At 270 K over a ground whose pressure varies: geopotential is linear in ln p."""
    phi, lam = np.radians(lat)[:, None], np.radians(lon)[None]
    ps = 1000 + 20 * np.sin(phi) * np.cos(lam)  # hPa; its heights at any level are known
    z = R * 270 * (np.log(ps) - np.log(LEVELS)[:, None, None])
    u = 10 + 5 * np.log(LEVELS / 1000)[:, None, None] + 0 * z
    fields = {
        "u": u,
        "v": 2 * np.sin(lam) * np.cos(phi) + 0 * z,
        "t": 270 + 0 * z,
        "z": z,
    } | change
    dims = ("time", "level", "latitude", "longitude")
    xr.Dataset(
        {n: (dims, fields[k][None]) for n, k in zip(names, "uvtz", strict=True)},
        {
            "time": ("time", [0.0], {"units": "hours since 1959-01-02"}),
            "level": ("level", LEVELS * scale, {"units": units}),
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        },
    ).to_netcdf(path)
    return ps


def test_pressure_at_height_zero_and_winds_between_levels_are_exact(tmp_path):
    lat, lon = np.linspace(-85, 85, 35), np.arange(72) * 5.0
    ps = write(tmp_path / "x.nc", lat, lon)
    x = sigma_state(tmp_path / "x.nc", SIGMA, lat, lon)
    assert x.shape == (16, 35, 72)
    np.testing.assert_allclose(x[15], ps, rtol=1e-6)
    # u is linear in ln p down to 1000 hPa, below which it does not change
    u = 10 + 5 * np.log(np.minimum(SIGMA[:, None, None] * ps, 1000) / 1000)
    np.testing.assert_allclose(x[:5], u, atol=1e-4)
    np.testing.assert_allclose(x[10:15], 270, atol=1e-4)
    # the same in Pa, from north to south, from 180 degrees west, by the other names
    names = ("u_component_of_wind", "v_component_of_wind", "temperature", "geopotential")
    write(tmp_path / "y.nc", lat[::-1], lon - 180, 100, "Pa", names)
    np.testing.assert_allclose(sigma_state(tmp_path / "y.nc", SIGMA, lat, lon), x, atol=1e-3)


def test_another_grid_is_met_bilinearly(tmp_path):
    lat, lon = np.linspace(-89, 89, 90), np.arange(180) * 2.0
    write(tmp_path / "x.nc", lat, lon)
    to = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0])), np.arange(64) * 5.625
    x = sigma_state(tmp_path / "x.nc", SIGMA, *to)
    phi, lam = np.radians(to[0])[:, None], np.radians(to[1])[None]
    assert np.abs(x[15] - (1000 + 20 * np.sin(phi) * np.cos(lam))).max() < 0.01
    assert np.abs(x[5:10] - 2 * np.sin(lam) * np.cos(phi)).max() < 2e-3


def test_what_cannot_be_a_start_is_named(tmp_path):
    lat, lon = np.linspace(-85, 85, 35), np.arange(72) * 5.0
    with pytest.raises(BadInput, match="no such file"):
        sigma_state(tmp_path / "x.nc", SIGMA, lat, lon)
    write(tmp_path / "x.nc", lat, lon / 4)
    with pytest.raises(BadInput, match="cover the globe"):
        sigma_state(tmp_path / "x.nc", SIGMA, lat, lon)
    write(tmp_path / "y.nc", lat, lon, names=("u", "v", "t", "height"))
    with pytest.raises(BadInput, match="u_component_of_wind"):
        sigma_state(tmp_path / "y.nc", SIGMA, lat, lon)
    write(tmp_path / "z.nc", lat, lon, t=np.full((9, 35, 72), np.nan))
    with pytest.raises(BadInput, match="missing values"):
        sigma_state(tmp_path / "z.nc", SIGMA, lat, lon)


def test_a_job_finds_the_file_beside_it_and_counts_it_among_its_inputs(tmp_path):
    from hpcinv.kinds.study import load

    (tmp_path / "1_simulate.yaml").write_text(
        "kind: simulate\nsimulator: primitive_equations\noptions: {start: x.nc}\n"
        "simulations: 2\ntrajectory: {frames: 4}\n"
    )
    with pytest.raises(BadInput, match=r"no such file: .*x.nc"):
        load(tmp_path).check()
    (tmp_path / "x.nc").write_bytes(b"")
    study = load(tmp_path)
    study.check()
    job = study.jobs["simulate"]
    assert job.options["start"] == str(tmp_path / "x.nc")
    assert job.external() == {"start": (tmp_path / "x.nc", "quick")}


@pytest.mark.skipif(not SAMPLES, reason="HPCINV_SAMPLES is not set")
def test_a_real_state_starts_the_model_and_stays_weather():
    pytest.importorskip("dinosaur")
    import torch

    from hpcinv.simulators import make
    from hpcinv.simulators.base import Key

    path = Path(SAMPLES) / "atmosphere" / "era5_tl31_19590102T00.nc"
    d = make("primitive_equations", {"start": str(path), "spin_up": 0, "hours": 6, "minutes": 30})
    lat, lon = d.state.coords.values()
    raw = sigma_state(path, SIGMA, lat, lon)
    x = d.initial(Key(0, [0, 1]))
    assert torch.isfinite(x).all() and not torch.equal(x[0], x[1])
    # The long waves of winds, and temperatures, are ERA5's: T21 cuts the short ones of TL31.
    long = lambda c, y: np.fft.rfft(np.asarray(y[c], float))[3:-3, :6].ravel()  # noqa: E731
    for c in (0, 2, 4, 7, 12, 14):
        a, b = long(c, x[0]), long(c, raw)
        assert np.abs(a - b).std() < 0.15 * np.abs(b).std(), list(d.state.channels)[c]
    assert 990 < raw[15].mean() < 1030 and 1 < np.abs(x[0, 15].numpy() - raw[15]).max() < 60
    # January: the jet of the winter lies nearer to the equator than that of the summer.
    jet = raw[:5].mean(-1).max(0)
    north, south = (lat[side][jet[side].argmax()] for side in (lat > 0, lat < 0))
    assert 20 < north < 40 < -south < 60
    for k in range(4):  # a day
        x = d.step(x, Key(0, [0, 1]).again(k + 1))
    assert torch.isfinite(x).all() and x[:, :5].abs().max() < 150
    again = np.corrcoef(x[0, 2].ravel(), raw[2].ravel())[0, 1]
    assert again > 0.7  # it is still that weather a day later
