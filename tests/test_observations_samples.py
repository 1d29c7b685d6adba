r"""Real files as customers: surface reports, METAR, CTD casts, ODV; the pace of a million rows.

The samples are not part of the repository: HPCINV_SAMPLES names their folder.
"""

import os
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.io.statistics import Statistics
from hpcinv.observations.config import Buddy, Derived, Forward, Measured, Quality
from hpcinv.observations.flags import BUDDY, PLACE, REASONS, counts
from hpcinv.observations.operators import Operator
from hpcinv.observations.quality import control
from hpcinv.observations.read import read_points
from hpcinv.observations.table import ObservationTable

SAMPLES = Path(os.environ.get("HPCINV_SAMPLES", "/nowhere"))
SAO = SAMPLES / "observations" / "95031806_sao.cdf"
METAR = SAMPLES / "observations" / "metar_2020-01.parquet"
CTD = SAMPLES / "ocean" / "netCDF_vertical_profiles_ctd.nc"
ODV = SAMPLES / "ocean" / "BlackSea_2profiles.txt"


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"HPCINV_SAMPLES has no {path.name}")


def trajectory(channels, units, lat, lon, time, time_units):
    return SimpleNamespace(
        channels=channels, units=units, grid=(len(lat), len(lon)),
        coords={"lat": lat, "lon": lon},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=np.asarray(time, float), time_units=time_units, calendar="standard", mask=None,
        statistics=None,
    )  # fmt: skip


def america():
    s = trajectory(["t", "u", "v"], ["K", "m s-1", "m s-1"], np.arange(20, 61, 1.0),
                   np.arange(-130, -59, 1.0), np.arange(0, 24, 6.0),
                   "hours since 1995-03-18")  # fmt: skip
    s.statistics = Statistics(
        np.array([283.0, 0, 0]).reshape(1, 3, 1, 1), np.array([12.0, 5, 5]).reshape(1, 3, 1, 1),
        np.full(1, 9), np.zeros(4, int), tuple(s.grid),
    )  # fmt: skip
    return s


@needs(SAO)
def test_surface_reports_become_a_table_that_knows_what_it_lost():
    import netCDF4

    s = america()
    forward = Forward(
        space="bilinear",
        derived=(Derived(name="speed", units="m s-1", of=("u", "v"), operator="speed"),),
    )
    measured = {
        "T": Measured(channel="t", error=1.5, missing=[-9999]),
        "SPD": Measured(channel="speed", error=2.0, missing=[-9999]),
    }
    table, notes = read_points(
        SAO, s, start=0, stop=4, measured=measured, time_format="%Y %m %d %H:%M UTC",
        columns={"station": "id"}, forward=forward,
    )  # fmt: skip
    with netCDF4.Dataset(SAO) as f:
        temperature = f["T"][:]
        station = netCDF4.chartostring(np.ma.filled(f["id"][:], b" "), "ascii")
        lat, lon = (np.ma.filled(f[v][:], np.nan) for v in ("lat", "lon"))
    # A report without a place, and one at longitude -790.2, are rows like others, with a flag.
    placed = (np.abs(lat) <= 90) & (np.abs(lon) <= 360)
    seen = ~np.ma.getmaskarray(temperature)
    n = int((seen & placed).sum())
    nowhere = table.flag == PLACE
    assert ((table.channel == 0) & ~nowhere).sum() == n
    assert (nowhere & (table.channel == 0)).sum() == (seen & ~placed).sum() > 0
    assert len(table) + notes["not observed"] == 2 * len(temperature)  # nothing disappeared
    wild = np.isfinite(table.lon) & (np.abs(table.lon) > 360)
    assert 1 <= wild.sum() <= 2 and (table.flag[wild] == PLACE).all()
    assert table.lon[wild] == pytest.approx(-790.2, abs=1e-4)
    assert notes[REASONS[PLACE]] == nowhere.sum()
    # one report, by hand: Celsius became kelvin, at its place and hour
    k = int(np.flatnonzero(np.char.strip(station) == "JFK")[0])
    row = np.flatnonzero((table.station == "JFK") & (table.channel == 0))[0]
    assert table.value[row] == pytest.approx(float(temperature[k]) + 273.15, abs=1e-4)
    assert table.lat[row] == pytest.approx(float(lat[k])) and table.frame[row] == 1
    outside = (table.lat < 19.5) | (table.lat > 60.5) | (table.lon < -130.5) | (table.lon > -59.5)
    assert ((table.flag == 10) == (outside & ~nowhere)).all()
    checked = control(table, s, Quality(buddy=Buddy(length_km=300, limit=5)), start=0)
    assert len(checked) == len(table)
    found = counts(checked)
    assert sum(found["t"].values()) == seen.sum()
    # a planted error is turned down, and most of the real reports are not
    i = int(np.flatnonzero((checked.flag == 0) & (checked.channel == 0))[100])
    value = table.value.copy()
    value[i] += 25.0
    again = control(
        ObservationTable(**{**{f: getattr(table, f) for f in table.__dataclass_fields__},
                            "value": value}), s, Quality(buddy=Buddy(length_km=300, limit=5)),
        start=0,
    )  # fmt: skip
    assert again.flag[i] in (15, BUDDY)
    inside = int((~outside & ~nowhere & (table.channel == 0)).sum())
    assert found["t"]["used"] + found["t"]["duplicate"] > 0.98 * inside


@needs(METAR)
def test_metar_is_read_with_its_own_flags():
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    s = trajectory(["t"], ["degC"], np.linspace(-90, 90, 37), np.arange(0, 360, 5.0),
                   np.arange(31.0) + 0.5, "days since 2020-01-01")  # fmt: skip
    measured = {"temperature": Measured(channel="t", units="K", error=1.0, flag="temperatureDD",
                                        good=["S", "V", "C"])}  # fmt: skip
    columns = {"time": "timeObs", "lat": "latitude", "lon": "longitude", "station": "stationName"}
    table, notes = read_points(METAR, s, start=0, stop=31, columns=columns, measured=measured)
    frame = pd.read_parquet(METAR)
    seen = frame["temperature"].notna()
    assert len(table) == seen.sum() and notes["not observed"] == (~seen).sum()
    bad = seen & ~frame["temperatureDD"].isin(["S", "V", "C"])
    assert (table.flag == 17).sum() <= bad.sum()
    used = table.used
    assert used.value.min() > -90 and used.value.max() < 60
    first = frame[seen].iloc[0]
    row = np.flatnonzero((table.station == first["stationName"]) & (np.abs(
        table.value + 273.15 - first["temperature"]) < 1e-3))  # fmt: skip
    assert len(row)
    # hourly reports of one station are many rows, and none is a duplicate of another but some are
    checked = control(table, s, Quality(background=None), start=0)
    assert len(checked) == len(table)


@needs(CTD)
def test_casts_have_levels_and_oxygen():
    levels = (0.0, 100.0, 500.0, 1000.0, 5000.0)
    channels = [f"o2_{int(k)}" for k in levels]
    s = trajectory(channels, ["umol kg-1"] * 5, np.linspace(36, 44, 9), np.linspace(-14, -7, 8),
                   np.arange(12) * 30.0, "days since 2006-01-01")  # fmt: skip
    forward = Forward(derived=(
        Derived(name="oxygen", units="umol kg-1", of=tuple(channels), operator="level",
                levels=levels),
    ))  # fmt: skip
    measured = {"DOXMSDXX": Measured(channel="oxygen", error=3.0, flag="DOXMSDXX_SEADATANET_QC",
                                     good=[49, 50])}  # fmt: skip
    columns = {"time": "TIME", "lat": "LATITUDE", "lon": "LONGITUDE", "level": "PRES",
               "station": "SDN_LOCAL_CDI_ID"}  # fmt: skip
    table, notes = read_points(CTD, s, start=0, stop=12, columns=columns, measured=measured,
                               forward=forward)  # fmt: skip
    assert len(table) > 5000 and len(np.unique(table.station)) <= 10
    # Julian days of 24 and 25 May 2006: the cruise's first month, whatever calendar tells them
    import cftime

    first = cftime.num2date(table.time.min(), s.time_units)
    assert (first.year, first.month) == (2006, 5) and first.day in (24, 25, 26)
    assert 200 < np.median(table.value[table.flag == 0]) < 260
    # a cast through the operator: a linear profile of the channels is read back exactly
    t = table.used.select(np.arange(0, len(table.used), 50))
    op = Operator(t, s)
    x = np.asarray(levels)[:, None, None] * np.ones((5, *s.grid)) / 10
    rows = op.rows(range(12))
    assert np.abs(op.see(lambda f: x, range(12)) - t.level[rows] / 10).max() < 1e-9
    assert notes["not observed"] > 0


@needs(ODV)
def test_odv_spreadsheets_are_read():
    s = trajectory(["t", "s"], ["degC", "1"], np.linspace(41, 46, 6), np.linspace(27, 42, 16),
                   [15.0], "days since 1991-08-20")  # fmt: skip
    columns = {"time": "yyyy-mm-ddThh:mm:ss.sss", "lat": "Latitude", "lon": "Longitude",
               "station": "Station", "level": "Depth"}  # fmt: skip
    measured = {"Temperature": Measured(channel="t", units="degC", error=0.1),
                "Salinity": Measured(channel="s", units="psu", error=0.05)}  # fmt: skip
    table, _ = read_points(ODV, s, start=0, stop=1, columns=columns, measured=measured, window=30)
    assert set(table.station) == {"11570900", "11570901"}
    top = (table.station == "11570900") & (table.level == 0)
    assert table.value[top & (table.channel == 0)] == pytest.approx([22.208])
    assert table.value[top & (table.channel == 1)] == pytest.approx([15.702])


@pytest.mark.slow
def test_a_million_rows_in_a_minute_and_two_gigabytes(tmp_path):
    import pandas as pd

    n, rng = 1_000_000, np.random.default_rng(0)
    s = america()
    when = np.datetime64("1995-03-18") + (3600 * rng.uniform(-2, 20, n)).astype("m8[s]")
    pd.DataFrame({
        "variable": rng.choice(["t", "u"], n), "value": rng.normal(0, 5, n).round(2),
        "units": "m s-1", "error": 1.0, "time": when, "lat": rng.uniform(15, 65, n).round(3),
        "lon": rng.uniform(-135, -55, n).round(3), "station": rng.integers(0, 9999, n).astype(str),
    }).assign(units=lambda d: np.where(d.variable == "t", "degC", "m s-1")).to_csv(
        tmp_path / "obs.csv", index=False)  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    table, _ = read_points(
        tmp_path / "obs.csv", s, start=0, stop=4, forward=Forward(space="bilinear")
    )
    table = control(table, s, Quality(), start=0)
    used = table.used
    op = Operator(used, s)
    pieces = [op.piece(op.rows([f])) for f in range(4)]
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{n} rows: {took:.1f} s of CPU, {grown / 2**20:.2f} GiB more at the peak")
    assert len(table) == n and sum(len(p.rows) for p in pieces) == len(used)
    assert grown < 2 << 20
    assert set(np.unique(table.flag)) <= set(REASONS)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="no such file"):
        read_points("none.nc", america(), start=0, stop=1)
