"""`import`: names and axes as they come, subsets, masks, statistics against plain numpy."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hpcinv.errors import BadInput
from hpcinv.io.fields import GriddedFile
from hpcinv.kinds.import_ import Import
from hpcinv.kinds.statistics import climatology
from hpcinv.parallel import World

SAMPLES = os.environ.get("HPCINV_SAMPLES")
samples = pytest.mark.skipif(not SAMPLES, reason="HPCINV_SAMPLES is not set")


def dataset(times=24, calendar="standard", **more):
    """ERA5's names: latitudes from north, longitudes from 0, levels, hours since 1900."""
    rng = np.random.default_rng(1)
    t = rng.standard_normal((times, 2, 5, 8)).astype("f4")
    return xr.Dataset(
        {
            "temperature": (("time", "level", "latitude", "longitude"), t, {"units": "K"}),
            "2m_temperature": (("time", "latitude", "longitude"), t[:, 0] + 1, {"units": "K"}),
        },
        {
            "time": ("time", 730.5 * np.arange(times) + 1, {"units": "hour since 1900-01-15",
                                                           "calendar": calendar}),
            "level": ("level", [500, 850]),
            "latitude": ("latitude", np.linspace(80, -80, 5)),
            "longitude": ("longitude", np.arange(8) * 45.0),
        },
    ).assign(**more)  # fmt: skip


@pytest.fixture(params=["nc", "zarr"])
def path(request, tmp_path):
    p = tmp_path / f"era5.{request.param}"
    if request.param == "zarr":
        pytest.importorskip("zarr")
        dataset().to_zarr(p, zarr_format=2)
    else:
        dataset().to_netcdf(p)
    return p


def test_levels_become_channels(path):
    f = GriddedFile(path, ["temperature", "2m_temperature"], levels=[850])
    assert [c for c, *_ in f.channels] == ["temperature_850", "2m_temperature"]
    assert list(f.coords) == ["lat", "lon"] and f.time_units == "hours since 1900-01-15"
    x, d = f.read(3, 5), dataset()
    np.testing.assert_array_equal(x[:, 0], d.temperature.values[3:5, 1])
    np.testing.assert_array_equal(x[:, 1], d["2m_temperature"].values[3:5])


def test_a_region_across_greenwich_and_a_period(path):
    f = GriddedFile(
        path, ["2m_temperature"], region={"lat": (-45, 45), "lon": (-60, 60)},
        time=("1900-03", "1900-05"),
    )  # fmt: skip
    assert f.coords["lon"].tolist() == [315, 0, 45]
    assert f.coords["lat"].tolist() == [40, 0, -40]
    # Months of 730.5 hours from mid-January: the third to the fifth.
    assert len(f.time) == 3
    np.testing.assert_array_equal(
        f.read(0, 3)[:, 0], dataset()["2m_temperature"].values[2:5, 1:4][:, :, [7, 0, 1]]
    )


@pytest.mark.parametrize(
    "change, said",
    [
        ({"variables": ["temprature"]}, "no variable 'temprature'"),
        ({"levels": [700]}, "no level 700"),
        ({"region": {"lat": (85, 89)}}, "region lat 85 to 89 is empty"),
        ({"time": ("1850", "1851")}, "no frame lies between 1850 and 1851"),
        ({"time": ("yesterday", "1851")}, "'yesterday' is no date"),
        ({"select": {"number": 1}}, "names no dimension: 'number'"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, change, said):
    dataset().to_netcdf(tmp_path / "x.nc")
    with pytest.raises(BadInput, match=said):
        GriddedFile(tmp_path / "x.nc", **{"variables": ["temperature"], **change})


def test_times_that_do_not_increase_are_refused(tmp_path):
    d = dataset()
    d["time"] = d.time.copy(data=d.time.values[[0, 1, 3, 2, *range(4, 24)]])
    d.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(BadInput, match="do not increase at frame 3"):
        GriddedFile(tmp_path / "x.nc", ["temperature"])


def test_an_ensemble_asks_which_member(tmp_path):
    d = dataset()[["2m_temperature"]]
    xr.concat([d, d + 1], "number").assign_coords(number=[3, 4]).to_netcdf(tmp_path / "x.nc")
    with pytest.raises(BadInput, match=r"dimension 'number'.*select"):
        GriddedFile(tmp_path / "x.nc", ["2m_temperature"])
    f = GriddedFile(tmp_path / "x.nc", ["2m_temperature"], select={"number": 4})
    np.testing.assert_allclose(f.read(0, 24)[:, 0], d["2m_temperature"].values + 1, rtol=1e-6)


def fields(**kw):
    base = {"frames": [0, 24], "phase": "none"} | kw
    return Import(
        source={"path": "x.nc"}, variables={"2m_temperature": {}}, statistics=base
    ).statistics


def measured(file, of):
    return climatology(file.read, (0, len(file.time)), file, of, World(), 5, None)


def test_statistics_are_those_of_numpy(tmp_path):
    dataset().to_netcdf(tmp_path / "x.nc")
    f = GriddedFile(tmp_path / "x.nc", ["2m_temperature"])
    x = f.read(0, 24).astype(float)
    s = measured(f, fields(frames=[4, 20]))
    np.testing.assert_allclose(s.mean[0], x[4:20].mean(0), rtol=1e-5)
    var = x[4:20].var(0, ddof=1) * 17 / 16  # of a frame that is not in the mean
    np.testing.assert_allclose(s.std[0], np.sqrt(var), rtol=1e-5)

    monthly = measured(f, fields(phase="month"))
    months = monthly.phases
    assert sorted(set(months)) == list(range(12)) and (monthly.count == 2).all()
    np.testing.assert_allclose(monthly.mean[3], x[months == 3].mean(0), rtol=1e-5)


def test_statistics_of_a_channel_are_those_of_the_sphere(tmp_path):
    dataset().to_netcdf(tmp_path / "x.nc")
    f = GriddedFile(tmp_path / "x.nc", ["2m_temperature"])
    x = f.read(0, 24).astype(float)[:, 0]
    s = measured(f, fields(per="channel"))
    assert s.mean.shape == (1, 1, 1, 1) and s.shape == (1, *x.shape[1:])
    lat = f.coords["lat"]
    half = np.abs(np.diff(lat))[0] / 2
    edges = np.deg2rad(np.clip(np.stack([lat - half, lat + half], 1), -90, 90))
    w = np.diff(np.sin(edges)) * np.ones(x.shape[1:])
    mean = np.average(x, weights=np.broadcast_to(w, x.shape))
    var = np.average((x - mean) ** 2, weights=np.broadcast_to(w, x.shape))
    np.testing.assert_allclose(s.mean.item(), mean, rtol=1e-6)
    np.testing.assert_allclose(s.std.item(), np.sqrt(var * 24 / 23 * 25 / 24), rtol=1e-6)
    m, d = s.at([3, 4], np.array([0, 0]), np.array([0, 17]))
    assert (m == s.mean.item()).all() and (d == s.std.item()).all()
    s.save(tmp_path / "statistics.h5")
    again = type(s).load(tmp_path / "statistics.h5")
    assert again.shape == s.shape and again.restore(np.ones((2, 1, 1, 1)), [0, 1]).shape[0] == 2


@pytest.mark.mpi
@pytest.mark.parametrize("per", ["point", "channel"])
def test_statistics_are_those_of_all_ranks(tmp_path, per):
    import subprocess
    import sys

    from hpcinv.io.statistics import Statistics

    dataset().to_netcdf(tmp_path / "x.nc")
    job = tmp_path / "air" / "1_import.yaml"
    job.parent.mkdir()
    job.write_text(
        "kind: import\nsource: {path: ../x.nc}\nvariables: {2m_temperature: {}}\n"
        f"statistics: {{frames: [3, 24], phase: none, per: {per}}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "hpcinv",
        "run",
        job,
        "--ranks",
        "3",
        "--runs",
        tmp_path / "r",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Statistics.load(tmp_path / "r" / "air" / "import" / "store" / "statistics.h5")
    file = GriddedFile(tmp_path / "x.nc", ["2m_temperature"])
    alone = measured(file, fields(frames=[3, 24], per=per))
    assert (found.count == 21).all()
    np.testing.assert_allclose(found.mean, alone.mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, alone.std, rtol=1e-6)


def test_smoothing_keeps_the_mean_variance_of_a_periodic_row(tmp_path):
    dataset().to_netcdf(tmp_path / "x.nc")
    f = GriddedFile(tmp_path / "x.nc", ["2m_temperature"])
    raw = measured(f, fields(phase="month"))
    smooth = measured(f, fields(phase="month", smooth={"phases": 1.0, "degrees": 60}))
    mean = [np.square(s.std.astype(float)).mean((0, 1, 3))[2] for s in (raw, smooth)]
    assert smooth.std.std() < raw.std.std() / 2
    # Only the exchange between latitudes may change the equator's mean.
    assert mean[1] == pytest.approx(np.square(raw.std.astype(float)).mean(), rel=0.2)


def test_a_channel_that_never_varies_is_refused(tmp_path):
    d = dataset()
    d["2m_temperature"][:] = 5.0
    d.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(BadInput, match="'2m_temperature' never varies"):
        measured(GriddedFile(tmp_path / "x.nc", ["2m_temperature"]), fields())


@pytest.mark.parametrize(
    ("per", "phase"), [("point", "none"), ("channel", "none"), ("point", "month")]
)
def test_a_constant_is_refused_though_sums_of_it_are_rounded(tmp_path, per, phase):
    d = dataset()
    d["2m_temperature"][:] = 273.15
    d.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(BadInput, match="'2m_temperature' never varies"):
        measured(GriddedFile(tmp_path / "x.nc", ["2m_temperature"]), fields(per=per, phase=phase))


def test_a_point_that_never_varies_is_refused(tmp_path):
    d = dataset()
    d["2m_temperature"][:, 2, 5] = 271.35  # below ice: nothing could be divided by its deviation
    d.to_netcdf(tmp_path / "x.nc")
    file = GriddedFile(tmp_path / "x.nc", ["2m_temperature"])
    with pytest.raises(BadInput, match=r"never varies at 1 of its 40 points.*per: channel"):
        measured(file, fields(phase="none"))
    measured(file, fields(phase="none", per="channel"))


def test_land_is_masked_and_a_gap_in_the_sea_is_not(tmp_path):
    import json

    from hpcinv.io.store import TrajectoryStore

    d = dataset()
    d["2m_temperature"][:, 1, 2] = np.nan  # land
    d.to_netcdf(tmp_path / "x.nc")
    job = tmp_path / "sea" / "1_import.yaml"
    job.parent.mkdir()
    job.write_text(
        "kind: import\nsource: {path: ../x.nc}\nmissing: mask\n"
        "variables: {2m_temperature: {}}\nstatistics: {frames: [0, 24], phase: none}\n"
    )
    import subprocess
    import sys

    command = [sys.executable, "-m", "hpcinv", "run", str(job), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    s = TrajectoryStore.open(tmp_path / "runs" / "sea" / "import" / "store")
    assert not s.mask[1, 2] and s.mask.sum() == 39
    assert np.isfinite(s.standardised(0, 24)).all() and s.weights()[1, 2] == 0

    d["2m_temperature"][5, 3, 3] = np.nan
    d.to_netcdf(tmp_path / "x.nc")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    told = json.loads((tmp_path / "runs" / "sea" / "import" / "failure.json").read_text())
    assert "variable '2m_temperature' has 1 missing" in told["error"]
    assert "(frame 5)" in told["error"]


def test_a_zarr_store_on_the_web(tmp_path):
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    pytest.importorskip("zarr")
    pytest.importorskip("aiohttp")
    d = dataset()
    d.to_zarr(tmp_path / "x.zarr", zarr_format=2, consolidated=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *said):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        there = f"http://127.0.0.1:{server.server_port}"
        f = GriddedFile(f"{there}/x.zarr", ["2m_temperature"])
        np.testing.assert_array_equal(f.read(3, 5)[:, 0], d["2m_temperature"].values[3:5])
        with pytest.raises(BadInput, match=r"nowhere.zarr: no such file"):
            GriddedFile(f"{there}/nowhere.zarr", ["2m_temperature"])
    finally:
        server.shutdown()


@samples
def test_a_real_era5_state():
    """A file whose longitudes come before its latitudes: each number is where the file has it."""
    import netCDF4

    path = Path(SAMPLES) / "atmosphere" / "era5_tl31_19590102T00.nc"
    names = ["temperature", "u_component_of_wind", "geopotential"]
    f = GriddedFile(path, names, levels=[500, 1000])
    assert len(f.time) == 1 and f.coords["lat"].shape == (32,)
    x = f.read(0, 1)[0]
    assert [c for c, *_ in f.channels] == [f"{n}_{p}" for n in names for p in (500, 1000)]
    with netCDF4.Dataset(path) as d:
        assert d["temperature"].dimensions == ("level", "longitude", "latitude")
        level, lat, lon = (d[k][:].tolist() for k in ("level", "latitude", "longitude"))
        assert f.coords["lat"].tolist() == lat and f.coords["lon"].tolist() == lon
        want = [d[n][level.index(p)].T for n in names for p in (500, 1000)]
    np.testing.assert_array_equal(x, np.stack(want))
    # The weather is the right way up: warm at the equator, westerlies aloft in middle latitudes,
    # and of the thickness of 1000 to 500 hPa that its temperatures ask for.
    lat = np.asarray(lat)
    t, ground, u, _, high, low = x.mean(-1)
    assert t[np.abs(lat) < 10].mean() - t[np.abs(lat) > 70].mean() > 20
    assert u[(np.abs(lat) > 30) & (np.abs(lat) < 60)].mean() > 8
    thick = (high - low) / (287.05 * np.log(2))
    assert np.abs(thick - (t + ground) / 2)[np.abs(lat) < 60].max() < 10


MESSAGES = """
import os, sys, eccodes, numpy
want = {}
with open(sys.argv[1], "rb") as f:
    while (h := eccodes.codes_grib_new_from_file(f)) is not None:
        of = {k: eccodes.codes_get(h, k) for k in
              ("number", "Nj", "Ni", "dataDate", "dataTime", "shortName", "level")}
        if of["number"] == 3:
            frame = (of["dataDate"] - 20170101) * 2 + of["dataTime"] // 1200
            name = f"{frame} {of['shortName']}_{of['level']}"
            want[name] = eccodes.codes_get_values(h).reshape(of["Nj"], of["Ni"])
        eccodes.codes_release(h)
numpy.savez(sys.argv[2], **want)
os._exit(0)
"""


@samples
def test_a_real_era5_grib(tmp_path):
    """What an import makes of it is what ecCodes reads, message by message; and it ends well."""
    import importlib.util
    import subprocess
    import sys

    if importlib.util.find_spec("cfgrib") is None:
        pytest.skip("the extra grib is not installed")
    from hpcinv.io.store import TrajectoryStore

    path = Path(SAMPLES) / "atmosphere" / "era5-levels-members.grib"
    # In a process of its own: ecCodes would crash this one at its end.
    subprocess.run([sys.executable, "-c", MESSAGES, path, tmp_path / "want.npz"], check=True)
    want = dict(np.load(tmp_path / "want.npz"))
    assert len(want) == 4 * 4
    job = tmp_path / "grib" / "1_import.yaml"
    job.parent.mkdir()
    job.write_text(
        f"kind: import\nsource: {{path: {path}, engine: cfgrib}}\nselect: {{number: 3}}\n"
        "variables: {t: {}, z: {}}\nstatistics: {frames: [0, 4], phase: none}\n"
    )
    command = [sys.executable, "-m", "hpcinv", "run", str(job), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    s = TrajectoryStore.open(tmp_path / "runs" / "grib" / "import" / "store")
    assert s.length == 4 and set(s.channels) == {of.split(" ")[1] for of in want}
    assert s.coords["lat"][0] == 90 and s.coords["lon"][1] == 3
    units = dict(zip(s.channels, s.units, strict=True))
    assert units["t_500"] == "K" and units["z_500"] in ("m2 s-2", "m**2 s**-2")
    x = s.read(0, 4)
    for of, field in want.items():
        k, name = of.split(" ")
        np.testing.assert_allclose(x[int(k), s.channels.index(name)], field, rtol=1e-6)
