r"""Observation files spoilt at random, by key: read with flags or refused in words, no crash."""

import random
import re

import netCDF4
import pytest
from test_observations_read import HEAD, ROWS, STORE

from hpcinv.errors import BadInput
from hpcinv.observations.config import Measured, Quality
from hpcinv.observations.quality import control
from hpcinv.observations.read import read_points

CELLS = [
    "", "nan", "inf", "-9999", "1e400", "9" * 400, "abc", "None", "True", "1,5", "1_000", "0x1f",
    "٣", "\x00", '"open', "NaT", "2000-13-01", "2000-02-30", "0001-01-01", "0000-01-01",
    "99999-01-01", "1677-01-01", "2000-01-04T25:00", "0001-01-01T00:00+01:00", "20000104",
    "12:00", "T", "degc", "m/s/", "K^2", "K**0.5", "lat", "  ",
]  # fmt: skip
MEASURED = {"t": Measured(error=1.0, units="K"), "u": Measured(error=1.0)}


def csv(rng, path):
    head, rows = HEAD.split(","), [r.split(",") for r in ROWS * 2]
    for _ in range(rng.randint(1, 3)):
        row, column, cell = rng.choice(rows), rng.randrange(len(head)), rng.choice(CELLS)
        what = rng.randrange(8)
        if what < 4:
            row[column % len(row)] = cell
        elif what == 4:
            for r in rows:
                r[column % len(r)] = cell
        elif what == 5:
            head[column] = cell
        elif what == 6:
            row.append(cell)
        elif len(row) > 1:
            row.pop()
    text = "\n".join(",".join(r) for r in [head, *rows]) + "\n"
    text = text.replace(",", rng.choice(",,,,,,,;\t"))
    return path.with_suffix(".csv"), text[: rng.choice([None, None, None, rng.randrange(200)])]


def netcdf(rng, path, ioda):
    r"""Variables of any type, along any dimension, or left out; times in any units."""
    with netCDF4.Dataset(path.with_suffix(".nc"), "w") as f:
        for name, n in (("Location", rng.choice([0, 1, 3, 3, 3])), ("Channel", 2)):
            f.createDimension(name, n)

        def put(group, name, value, units):
            if rng.random() < 0.06:
                return
            kind = rng.choice(["f8"] * 9 + ["i4", "S1", str])
            usual = [("Location",)] * 12
            dims = rng.choice([*usual, (), ("Channel",), ("Location", "Channel")])
            v = group.createVariable(name, kind, dims)
            if kind in ("f8", "i4"):
                v[...] = rng.choice([value] * 9 + [-5, 95, 2_000_000_000])
            if rng.random() < 0.9:
                v.units = units
            if " since " in units and rng.random() < 0.4:
                v.calendar = rng.choice(["standard", "noleap", "360_day", "julian", "moon", ""])

        time = rng.choice(["days since 2000-01-01"] * 6 + ["days", "days since now", "months"])
        names = ("latitude", "longitude", "dateTime") if ioda else ("lat", "lon", "time")
        units = ("degrees_north", "degrees_east", time)
        meta = f.createGroup("MetaData") if ioda else f
        for name, value, unit in zip(names, (10, 20, 3), units, strict=True):
            put(meta, name, value, unit)
        for group in ("ObsValue", "ObsError", "PreQC") if ioda else ("/",):
            g = f.createGroup(group) if ioda else f
            for name, unit in (("t", "K"), ("u", "m s-1")):
                put(g, name, 1, rng.choice([unit] * 6 + ["", "Kelvins"]))
    return path.with_suffix(".nc")


@pytest.mark.parametrize("kind", ["csv", "ioda", "plain"])
def test_no_file_crashes(tmp_path, kind):
    told = set()
    for k in range(120 if kind == "csv" else 60):
        rng = random.Random(f"{kind} {k}")
        path = tmp_path / f"obs{k}"
        if kind == "csv":
            path, text = csv(rng, path)
            path.write_text(text)
        else:
            path = netcdf(rng, path, kind == "ioda")
        more = {"measured": MEASURED} if kind == "plain" else {}
        try:
            table, _ = read_points(path, STORE, start=2, stop=8, **more)
            table = control(table, STORE, Quality(background=None), start=2)
            told.add("read")
            assert (table.used.frame >= 0).all() and (table.used.error > 0).all()
        except BadInput as e:  # what, where, and what instead
            assert e.where and e.instead and len(e.what) > 8, (k, str(e))
            told.add(re.sub(r"'[^']*'|[^a-z ]", "", e.what)[:25])
    assert len(told) > 10, told
