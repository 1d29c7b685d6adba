"""The shelf-basin model beside real files: ETOPO5, COADS, and what Levitus lacks.

Skipped where the package's files are neither installed nor in the cache
(`apt-get install ferret-datasets`, or `hpcinv run jobs/black_sea --preset etopo` fetches ETOPO5).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from hpcinv.errors import BadInput
from hpcinv.io.sources import cached_debian
from hpcinv.kinds.study import load
from hpcinv.simulators.base import Key
from hpcinv.simulators.black_sea import BlackSea
from hpcinv.simulators.black_sea_bathymetry import read_heights
from hpcinv.simulators.dynamics import trajectories

STUDY = Path(__file__).resolve().parent.parent / "jobs" / "black_sea"
PRESET = yaml.safe_load((STUDY / "presets" / "etopo.yaml").read_text())
ETOPO = PRESET["simulate"]["options"]["bathymetry"]
FOLDER = "usr/share/ferret-vis/data"
SUMS = {
    "levitus_climatology.cdf": "6cf0c43e2b5b790a25547eb90194c0468ab508a40636c1e67b42e892c3b7596b",
    "coads_climatology.cdf": "b94f55034d13d63f33e2153afddc0c5e00347076c35ab3e34937aec38ce9c4c1",
}


def real(file, sha256):
    path = cached_debian(f"{FOLDER}/{file}", sha256)
    if path is None:
        pytest.skip(f"no {file}: apt-get install ferret-datasets")
    return path


@pytest.fixture(scope="module")
def heights():
    return real("etopo5.cdf", ETOPO["sha256"])


def test_a_cell_is_the_mean_of_its_sea(heights):
    lat, lon = np.linspace(41.0, 46.5, 8), np.linspace(28.0, 41.5, 10)
    found = read_heights(ETOPO, lat, lon)
    with xr.open_dataset(heights) as d:
        z = d["ROSE"].rename(ETOPO05_Y="lat", ETOPO05_X="lon").load()

    def of(i, j):
        # Sides lie on points of the file: a point belongs to the cell above or to the right.
        low = lat[i] - (lat[1] - lat[0]) / 2, lon[j] - (lon[1] - lon[0]) / 2
        y, x = z["lat"].values - low[0] + 1e-3, z["lon"].values - low[1] + 1e-3
        inside = [(v > 0) & (v < c[1] - c[0]) for v, c in ((y, lat), (x, lon))]
        return z.values[np.ix_(*inside)].astype(float)

    for i, j in ((3, 6), (5, 2), (6, 3), (2, 7)):  # basin, shelf edge, shelf, east
        own = of(i, j)
        assert (own < 0).mean() > 0.5
        assert found[i, j] == pytest.approx(-own[own < 0].mean(), rel=1e-6)
    assert (of(6, 4) < 0).mean() < 0.5 and found[6, 4] == 0  # the Crimea is land
    assert (of(0, 0) < 0).mean() >= 0.5 and found[0, 0] == 0  # the Sea of Marmara is another


@pytest.mark.parametrize("rows, columns", [(8, 10), (12, 18), (24, 36)])
def test_the_basin_is_as_large_as_the_black_sea(heights, rows, columns):
    # 436,400 km2 and 547,000 km3, and the Sea of Azov's 39,000 km2 (Encyclopaedia Britannica).
    sea = BlackSea(rows=rows, columns=columns, bathymetry=ETOPO, substeps=300)
    lat, lon = (sea.state.coords[k] for k in ("lat", "lon"))
    depth = sea.state.static["depth"]
    side = 111.195 * np.array([lat[1] - lat[0], lon[1] - lon[0]])
    area = side[0] * side[1] * np.cos(np.deg2rad(lat))[:, None] * (depth > 0)
    azov = (lat[:, None] > 45.3) & (lon > 34.9)
    assert (area * ~azov).sum() == pytest.approx(436_400, rel=0.02)
    assert (area * azov).sum() == pytest.approx(39_000, rel=0.25)  # a cell more or less
    assert (area * depth).sum() / 1e3 == pytest.approx(547_000, rel=0.04)
    assert depth.max() == pytest.approx(2200, rel=0.02)
    np.testing.assert_array_equal(sea.state.mask, depth > 2)


def test_its_preset_stays_finite_and_is_hypoxic_in_autumn(heights):
    job = load(STUDY, "etopo").jobs["simulate"]
    sea = BlackSea(**job.options)
    x = torch.stack(list(trajectories(sea, Key(0, [0, 1, 30, 31]), 24)), 1).numpy()
    assert sea.state.mask.sum() == 44
    names = list(sea.state.channels)
    low = x[:, :, names.index("o2_5")] < 63
    shelf = sea.state.mask & (sea.basin.numpy() == 0)
    month = np.arange(24) % 12
    share = [low[:, month == m][..., shelf].mean() for m in range(12)]
    assert 0.02 < np.mean(share) < 0.12 and max(share[:5]) == 0 and np.argmax(share) in (7, 8, 9)
    wet = x[..., sea.state.mask]
    for n in ("no3_1", "chl_1", "o2_5"):
        assert wet[:, :, names.index(n)].min() >= 0


def test_the_surface_is_as_warm_as_ships_have_found_it():
    path = real("coads_climatology.cdf", SUMS["coads_climatology.cdf"])
    with xr.open_dataset(path, decode_times=False) as d:
        box = d["SST"].sel(COADSY=slice(42, 46), COADSX=slice(28, 42)).values
    ships = np.nanmean(box.reshape(12, -1), axis=1)
    sea = BlackSea(rows=8, columns=10, days=30, spin_up=12, substeps=15)
    x = torch.stack(list(trajectories(sea, Key(0, range(6)), 12)), 1).numpy()
    ours = x[:, :, 0][..., sea.state.mask].mean((0, 2))
    # Frames are at the beginning of months, ships' means are of months.
    ships = (ships + np.roll(ships, 1)) / 2
    error = ours - ships
    print("months:", np.round(ours, 1), np.round(ships, 1))
    assert np.sqrt(np.mean(error**2)) < 1.0 and np.corrcoef(ours, ships)[0, 1] > 0.98


def test_levitus_has_no_black_sea():
    # Nothing to start from or to relax to: the package's climatology ends at the Aegean.
    path = real("levitus_climatology.cdf", SUMS["levitus_climatology.cdf"])
    with xr.open_dataset(path, decode_times=False) as d:
        for name in ("TEMP", "SALT"):
            here = d[name].sel(YAXLEVITR=slice(40.5, 47), XAXLEVITR=slice(27.5, 42))
            beside = d[name].sel(YAXLEVITR=slice(33, 40), XAXLEVITR=slice(22, 30))
            assert here.size > 20 * 6 * 14 and not np.isfinite(here).any()
            assert np.isfinite(beside).sum() > 200


def test_what_is_no_bathymetry_is_refused(tmp_path):
    with pytest.raises(BadInput, match="bathymetry with debian"):
        BlackSea(bathymetry={"debian": "ferret-datasets"})
    lat, lon = np.arange(40.0, 44, 0.1), np.arange(27.0, 43, 0.1)
    z = np.full((len(lat), len(lon)), -100.0)
    xr.Dataset({"z": (("lat", "lon"), z)}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "h.nc")
    with pytest.raises(BadInput, match="do not cover"):
        BlackSea(bathymetry=str(tmp_path / "h.nc"))
    (tmp_path / "1_simulate.yaml").write_text(
        "kind: simulate\nsimulator: black_sea\nsimulations: 2\ntrajectory: {frames: 36}\n"
        "options: {bathymetry: {debian: ferret-datasets, file: x.cdf}}\n"
    )
    with pytest.raises(BadInput, match="Write debian, file and sha256"):
        load(tmp_path).check()


def test_a_file_of_the_study_is_found_from_anywhere_and_counts_as_input(tmp_path):
    (tmp_path / "heights.nc").write_bytes(b"")
    (tmp_path / "1_simulate.yaml").write_text(
        "kind: simulate\nsimulator: black_sea\nsimulations: 2\ntrajectory: {frames: 36}\n"
        "options: {bathymetry: heights.nc}\n"
    )
    study = load(tmp_path)
    study.check()
    job = study.jobs["simulate"]
    assert job.options["bathymetry"] == str(tmp_path / "heights.nc")
    assert job.external() == {"bathymetry": (tmp_path / "heights.nc", "quick")}


def test_only_the_largest_sea_is_kept(tmp_path):
    lat, lon = np.arange(40.0, 48, 0.05), np.arange(27.0, 43, 0.05)
    z = np.full((len(lat), len(lon)), 10.0)
    z[(lat < 44)[:, None] & (lon > 31)] = -500.0
    z[(lat > 46)[:, None] & (lon < 30)] = -50.0  # a lake
    xr.Dataset({"z": (("lat", "lon"), z)}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "h.nc")
    rows, columns = np.linspace(41, 46.5, 8), np.linspace(28, 41.5, 10)
    depth = read_heights(str(tmp_path / "h.nc"), rows, columns)
    assert not depth[-1].any() and set(np.unique(depth)) == {0.0, 500.0}
