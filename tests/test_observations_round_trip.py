r"""Swaths, gridded fields, tables, feedback files through xarray, pandas and ncdump, exactly."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from test_observations_feedback import write

from hpcinv.observations import feedback
from hpcinv.observations.config import Forward, Measured
from hpcinv.observations.quality import with_flags
from hpcinv.observations.read import read_points
from hpcinv.observations.table import ObservationTable

xr = pytest.importorskip("xarray")
STORE = SimpleNamespace(
    channels=["t", "u"], units=["K", "m s-1"], grid=(5, 8), mask=None,
    coords={"lat": np.linspace(60, -60, 5), "lon": np.arange(0, 360, 45.0)},
    coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
    time=np.arange(10) * 24.0, time_units="hours since 2000-01-01", calendar="standard",
)  # fmt: skip
FRAMES = {"start": 2, "stop": 8}
MEASURED = {"brightness": Measured(channel="t", error=0.7), "u": Measured(error=1.5)}
PLACE = {"time": "scan_time", "lat": "latitude", "lon": "longitude"}


def swath(scans=12, pixels=7):
    r"""Footprints on their own two axes, a time for each scan, and what is missing as NaN."""
    rng = np.random.default_rng(0)
    shape = (scans, pixels)
    t = 250 + rng.integers(0, 4000, shape) / 100.0
    t[3, 2] = t[0, 0] = np.nan
    u = rng.standard_normal(shape)
    u[5] = np.nan
    two = ("scan", "pixel")
    return xr.Dataset(
        {"brightness": (two, t - 273.15, {"units": "degC"}), "u": (two, u, {"units": "m/s"})},
        coords={
            "latitude": (two, rng.uniform(-58, 58, shape), {"units": "degrees_north"}),
            "longitude": (two, rng.uniform(-180, 180, shape), {"units": "degrees_east"}),
            "scan_time": ("scan", np.datetime64("2000-01-03T12:00:00", "ns")
                          + np.arange(scans) * np.timedelta64(10, "h")),
        },
    )  # fmt: skip


def written(source, path, packed=False):
    if packed:  # as satellite products are: small integers with a scale and a fill value
        how = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 0.0, "_FillValue": -32768}
        source.to_netcdf(path, encoding={"brightness": how})
    else:
        source.to_netcdf(path)
    return path


def rows_of(source):
    r"""What pandas makes of a dataset: a row for each number that is there."""
    frame = source.to_dataframe().reset_index()
    out = {}
    for name, ours, factor in (("brightness", 0, 273.15), ("u", 1, 0.0)):
        f = frame[frame[name].notna()]
        for r in f.itertuples():
            hours = (r.scan_time - np.datetime64("2000-01-01")) / np.timedelta64(1, "h")
            key = (ours, round(r.latitude, 9), round(r.longitude, 9))
            out[key] = (getattr(r, name) + factor, hours)
    return out


def columns(table):
    place = zip(table.channel.tolist(), table.lat.tolist(), table.lon.tolist(), strict=True)
    numbers = zip(table.value.tolist(), table.time.tolist(), strict=True)
    return {(c, round(a, 9), round(b, 9)): v for (c, a, b), v in zip(place, numbers, strict=True)}


@pytest.mark.parametrize("packed", [False, True])
def test_a_swath_that_xarray_wrote_is_read_as_pandas_sees_it(tmp_path, packed):
    source = swath()
    path = written(source, tmp_path / "swath.nc", packed)
    table, notes = read_points(path, STORE, **FRAMES, columns=PLACE, measured=MEASURED)
    want, got = rows_of(source), columns(table)
    assert got.keys() == want.keys() and len(got) == len(table) == 12 * 7 * 2 - 9
    assert notes["not observed"] == 9
    for key, (value, hours) in want.items():
        assert got[key] == pytest.approx((value, hours), abs=1e-9)
    assert set(table.error[table.channel == 0]) == {0.7}


@pytest.mark.parametrize("verdicts", [("i1", -9), ("u1", 255)])
def test_fill_values_of_integers_are_not_observed_and_verdicts_stay_integers(tmp_path, verdicts):
    counts = np.array([[280, 281, -1], [283, -1, 285]])
    kind, missing = verdicts
    good = np.array([[0, 1, 0], [0, 0, missing]])
    two = ("scan", "pixel")
    lat, lon = np.full((2, 3), 5.0), 10.0 * np.arange(6).reshape(2, 3)
    source = xr.Dataset(
        {"t": (two, counts, {"units": "K"}), "quality": (two, good)},
        coords={"lat": (two, lat), "lon": (two, lon),
                "time": ("scan", np.array(["2000-01-03", "2000-01-04"], "M8[ns]"))},
    )  # fmt: skip
    how = {
        "t": {"dtype": "i2", "_FillValue": -1},
        "quality": {"dtype": kind, "_FillValue": missing},
    }
    source.to_netcdf(tmp_path / "counts.nc", encoding=how)
    measured = {"t": Measured(error=1.0, flag="quality", good=[0])}
    table, notes = read_points(tmp_path / "counts.nc", STORE, **FRAMES, measured=measured)
    assert notes["not observed"] == 2 and table.value.tolist() == [280, 281, 283, 285]
    assert (table.flag == 0).tolist() == [True, False, True, False]


def test_a_gridded_field_that_xarray_wrote_is_read_as_it_is(tmp_path):
    rng = np.random.default_rng(1)
    lat, lon = np.array([-45.0, 0, 45]), np.array([-90.0, 10, 100, 179])
    t = rng.normal(280, 5, (4, 3, 4))
    t[1, 1, 1] = np.nan
    field = xr.Dataset(
        {"t": (("time", "lat", "lon"), t, {"units": "K"})},
        coords={"time": np.datetime64("2000-01-03", "ns") + np.arange(4) * np.timedelta64(1, "D"),
                "lat": lat, "lon": lon},
    )  # fmt: skip
    field.to_netcdf(tmp_path / "field.nc")
    table, notes = read_points(
        tmp_path / "field.nc", STORE, **FRAMES, measured={"t": Measured(error=1.0)}
    )
    assert notes == {"not observed": 1} and len(table) == 47
    k = table.frame
    i, j = np.searchsorted(lat, table.lat), np.searchsorted(lon, table.lon)
    assert np.array_equal(table.value, t[k, i, j])
    # axes in another order, and in another file, are the same observations
    field.transpose("lon", "time", "lat").to_netcdf(tmp_path / "turned.nc")
    again, _ = read_points(
        tmp_path / "turned.nc", STORE, **FRAMES, measured={"t": Measured(error=1.0)}
    )
    assert again == table


def pandas_of(path):
    r"""A file in IODA's groups as a long pandas table, by xarray alone."""
    import pandas as pd

    open_ = lambda group: xr.open_dataset(path, group=group)  # noqa: E731
    meta, value, error, flag = map(open_, ("MetaData", "ObsValue", "ObsError", "EffectiveQC"))
    parts = []
    for name in value.data_vars:
        part = pd.DataFrame({
            "variable": name, "value": value[name].to_numpy(), "units": value[name].attrs["units"],
            "error": error[name].to_numpy(), "flag": flag[name].to_numpy(),
            "time": meta["dateTime"].to_numpy(), "lat": meta["latitude"].to_numpy(),
            "lon": meta["longitude"].to_numpy(), "station":
            meta["stationIdentification"].to_numpy().astype(str),
        })  # fmt: skip
        parts.append(part[part["value"].notna()])
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("kind", ["csv", "parquet", "nc"])
def test_a_swath_survives_ioda_pandas_and_each_format_to_the_bit(tmp_path, kind):
    path = written(swath(), tmp_path / "swath.nc")
    table, _ = read_points(
        path, STORE, **FRAMES, columns=PLACE, measured=MEASURED, forward=Forward(space="bilinear")
    )
    table.save(tmp_path / "table.nc")
    assert ObservationTable.load(tmp_path / "table.nc") == table
    frame = pandas_of(tmp_path / "table.nc")
    if kind == "csv":
        frame.to_csv(tmp_path / "back.csv", index=False)
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(tmp_path / "back.parquet")
    else:
        plain = frame.drop(columns=["units"]).astype({"variable": str, "station": str})
        plain.to_xarray().to_netcdf(tmp_path / "back.nc")
    more = {"units": {"t": "K", "u": "m s-1"}} if kind == "nc" else {}
    back, _ = read_points(
        tmp_path / f"back.{kind}", STORE, **FRAMES, forward=Forward(space="bilinear"), **more
    )
    assert back == table


def test_the_feedback_of_a_swath_round_trips_through_xarray_pandas_and_ncdump(tmp_path):
    path = written(swath(), tmp_path / "swath.nc")
    table, _ = read_points(path, STORE, **FRAMES, columns=PLACE, measured=MEASURED)
    table = with_flags(
        table, np.where((np.arange(len(table)) % 9 == 0) & (table.flag == 0), 1, table.flag)
    )
    x = np.random.default_rng(3).standard_normal((4, 6, 2, 5, 8)).astype(np.float32)
    members = SimpleNamespace(members=range(4), read=lambda m, a, b: x[m, a:b])
    rows = feedback.placed(table)
    seen = {"hofx": feedback.see(table, STORE, 2, members, range(6))}
    out = tmp_path / "feedback.nc"
    write(out, table, rows, seen)
    again, found = feedback.load(out)
    assert again == table
    hofx, oman = (xr.open_dataset(out, group=g) for g in ("hofx", "oman"))
    value = xr.open_dataset(out, group="ObsValue")
    for c, name in enumerate(table.channels):
        at = table.channel == c
        frame = hofx[name].to_pandas().dropna()
        assert np.array_equal(frame.to_numpy(), found["hofx"][at])
        assert len(frame) == at.sum() > 70
        mean = value[name].to_pandas().dropna() - frame.mean(axis=1)
        assert np.abs(mean - oman[name].to_pandas().dropna()).max() < 1e-12
    # xarray writes it again, group by group: the same table, the same members
    copy = tmp_path / "copy.nc"
    for group in xr.open_groups(out):
        part = xr.open_dataset(out, group=group, decode_cf=False)
        part.to_netcdf(copy, group=group, mode="a" if copy.exists() else "w")
    told, values = feedback.load(copy)
    assert told == table
    assert all(np.array_equal(values[k], found[k], equal_nan=True) for k in found)
    if shutil.which("ncdump") and shutil.which("ncgen"):
        text = subprocess.run(
            ["ncdump", "-p", "9,17", str(out)], capture_output=True, text=True, check=True
        ).stdout
        assert re.search(r"double t\(Location, realization\)", text)
        cdl, other = tmp_path / "f.cdl", tmp_path / "ncgen.nc"
        cdl.write_text(text)
        subprocess.run(["ncgen", "-4", "-o", str(other), str(cdl)], check=True)
        told, values = feedback.load(other)
        assert told == table
        assert all(np.array_equal(values[k], found[k], equal_nan=True) for k in found)
