r"""Malformed observation files: each is refused with place and mend, or its row flagged and told.

What cannot be understood is an error; a row that lacks something keeps its place with a flag.
"""

from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
from test_observations_read import HEAD, ROWS, STORE, write

from hpcinv.errors import BadInput
from hpcinv.observations import flags
from hpcinv.observations.config import Quality
from hpcinv.observations.networks import draw
from hpcinv.observations.networks_config import Stations
from hpcinv.observations.quality import control
from hpcinv.observations.read import read_points
from hpcinv.observations.table import ObservationTable

NO_ERROR = HEAD.replace("error,", "")
NO_UNITS = HEAD.replace("units,", "")


def csv(*rows, head=HEAD, good=ROWS):
    return lambda folder: write(folder, *good, *rows, head=head)


def raw(content, name="obs.csv"):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def netcdf(
    harm=None, *, calendar="standard", days=(3.0, 4.0), lat=(10.0, 20.0), group="MetaData",
    text=None,
):  # fmt: skip
    r"""A file in IODA's groups, whole but for what is asked; `text`: a variable of characters."""

    def make(folder):
        path = folder / "obs.nc"
        with netCDF4.Dataset(path, "w") as f:
            f.createDimension("Location", 2)

            def put(g, name, x):
                v = g.createVariable(name, "S1" if name == text else "f8", ("Location",))
                v[:] = np.array(["x", "y"], "S1") if name == text else x
                return v

            meta = f.createGroup(group)
            for name, x in (("latitude", lat), ("longitude", (0.0, 90.0)), ("dateTime", days)):
                put(meta, name, x)
            meta["dateTime"].setncatts({"units": "days since 2000-01-01", "calendar": calendar})
            for g, x in (("ObsValue", (280.0, 281.0)), ("ObsError", (1.0, 1.0))):
                put(f.createGroup(g), "t", x).units = "K"
        if harm is not None:
            harm(path)
        return path

    return make


def cut(path):
    path.write_bytes(path.read_bytes()[:3000])


def changed(folder):
    table, _ = read_points(write(folder, *ROWS), STORE, start=2, stop=8)
    table.save(folder / "obs.nc")
    with netCDF4.Dataset(folder / "obs.nc", "a") as f:
        f["ObsValue"]["t"][0] += 1.0
    return folder / "obs.nc"


def torn_parquet(folder):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = folder / "obs.parquet"
    pd.read_csv(write(folder, *ROWS)).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def listed(folder):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.read_csv(write(folder, *ROWS))
    frame["value"] = [[x, x] for x in frame["value"]]
    frame.to_parquet(folder / "obs.parquet")
    return folder / "obs.parquet"


def told(path, attribute, value):
    with netCDF4.Dataset(path, "a") as f:
        f["MetaData/dateTime"].setncattr(attribute, value)


# name: (the file, more arguments, then what the message must hold: what, where, mend)
REFUSED = {
    "no file": (
        lambda folder: folder / "obs.csv",
        {},
        "no such file",
        "obs.csv",
        "Check the path",
    ),
    "another format": (raw(b"x", "obs.xls"), {}, "'.xls' is not read", "obs.xls", "Give one of"),
    "empty": (raw(b""), {}, "it is empty", "obs.csv", "Copy it again"),
    "only a heading": (csv(good=()), {}, "the table is empty", "obs.csv", "A row for each"),
    "not text": (
        raw(b"\x89HDF\xff\xfe,\x00\n\xd0\xcf"),
        {},
        "cannot be read as csv",
        "obs.csv",
        "whole",
    ),
    "a field too many": (
        csv("t,1,K,1,2000-01-04,0,0,,,9"),
        {},
        "line 5",
        "obs.csv",
        "the line named",
    ),
    "truncated netCDF": (
        netcdf(cut),
        {},
        "cannot be read as netCDF",
        "obs.nc",
        "Is the file whole?",
    ),
    "truncated Parquet": (torn_parquet, {}, "cannot be read as parquet", "obs.parquet", "whole"),
    "no variable": (
        csv(head=HEAD.replace("variable", "what")),
        {},
        "no column 'variable'",
        "obs.csv",
        "under columns",
    ),
    "no latitude": (
        csv(head=HEAD.replace("lat", "phi")),
        {},
        "no column 'lat'",
        "obs.csv",
        "under columns",
    ),
    "a column twice": (
        csv(head=HEAD.replace("station", "lat")),
        {},
        "two columns 'lat'",
        "obs.csv",
        "Rename one",
    ),
    "no units": (
        csv("t,280,1,2000-01-04,0,0,", head=NO_UNITS, good=()),
        {},
        "no column 'units'",
        "obs.csv",
        "Say what the values are in",
    ),
    "an empty unit": (csv("t,1,,1,2000-01-04,0,0,"), {}, "'t' has no units", "row 3", "Write K"),
    "an unknown unit": (
        csv("t,1,Kelvins,1,2000-01-04,0,0,"),
        {},
        "the unit 'Kelvins' is not known",
        "row 3",
        "kelvin",
    ),
    "another dimension": (
        csv("t,1,Pa,1,2000-01-04,0,0,"),
        {},
        "'Pa' is a pressure, 'K' a temperature",
        "row 3",
        "Give values in 'K'",
    ),
    "a string in numbers": (
        csv("t,warm,K,1,2000-01-04,0,0,"),
        {},
        "value is 'warm', not a number",
        "row 3",
        "Leave the place empty",
    ),
    "a string in places": (
        csv("t,1,K,1,2000-01-04,12N,0,"),
        {},
        "lat is '12N', not a number",
        "row 3",
        "Leave the place empty",
    ),
    "an unknown variable": (
        csv("temp,1,K,1,2000-01-04,0,0,"),
        {},
        "unknown variable 'temp'",
        "row 3",
        "Known: t, u",
    ),
    "an unknown channel": (
        csv(),
        {"variables": {"t": "temp"}},
        "mapped to the unknown 'temp'",
        "variables",
        "Known: t, u",
    ),
    "an unknown column": (
        csv(),
        {"columns": {"latitude": "lat"}},
        "no column 'latitude'",
        "columns",
        "lat, level, lon",
    ),
    "no error": (
        csv("t,280,K,2000-01-04,0,0,", head=NO_ERROR, good=()),
        {},
        "no column 'error'",
        "obs.csv",
        "Give σ",
    ),
    "an error below zero": (
        csv("t,280,K,2000-01-04,0,0,", head=NO_ERROR, good=()),
        {"error": -1.0},
        "an error σ of -1.0",
        "error",
        "positive",
    ),
    "no date": (
        csv("t,1,K,1,yesterday,0,0,"),
        {},
        "the time is 'yesterday'",
        "row 3",
        "1991-01-31T12:00",
    ),
    "an American date": (
        csv("t,1,K,1,04/13/2000,0,0,"),
        {},
        "the time is '04/13/2000'",
        "row 3",
        "1991-01-31T12:00",
    ),
    "another calendar": (
        csv("t,1,K,1,2000-02-29,0,0,", good=()),
        {"calendar": "noleap"},
        "calendar 'noleap' lacks",
        "obs.csv",
        "Leave its rows out",
    ),
    "mixed calendars": (
        netcdf(calendar="noleap"),
        {},
        "calendar 'noleap' where the trajectory's is 'standard'",
        "variable 'time'",
        "convert_calendar",
    ),
    "30 February": (
        netcdf(calendar="360_day", days=(3.0, 59.0)),
        {"calendar": "360_day"},
        "2000-02-30",
        "360_day",
        "another calendar",
    ),
    "another period": (
        csv("t,1,K,1,2001-01-04,0,0,", good=()),
        {},
        "too far in time from any frame",
        "obs.csv",
        "Compare the file's times",
    ),
    "swapped places": (
        csv(*["t,1,K,1,2000-01-04,140,30,"] * 4),
        {},
        "4 of 7 rows cannot be right",
        "row 3, lat 140",
        "name the right columns",
    ),
    "IODA without a place": (
        netcdf(group="Meta"),
        {},
        "no variable 'MetaData/",
        "obs.nc",
        "ncdump",
    ),
    "text for times": (
        netcdf(text="dateTime"),
        {},
        "'dateTime' is no variable of numbers",
        "obs.nc, MetaData/dateTime",
        "Write numbers",
    ),
    "text for values": (
        netcdf(text="t"),
        {},
        "'t' is no variable of numbers",
        "obs.nc, ObsValue/t",
        "Write numbers",
    ),
    "times without a unit": (
        netcdf(lambda p: told(p, "units", "days")),
        {},
        "'dateTime' is in 'days'",
        "obs.nc, MetaData/dateTime",
        "seconds since",
    ),
    "no calendar of CF": (
        netcdf(lambda p: told(p, "calendar", "moon")),
        {},
        "no dates",
        "of the calendar 'moon'",
        "a calendar of CF",
    ),
    "a time beyond all": (
        netcdf(days=(1e300, 4.0)),
        {},
        "no dates",
        "days since 2000-01-01",
        "a calendar of CF",
    ),
    "a year zero": (
        csv("t,1,K,1,0001-01-01T00:00+01:00,0,0,"),
        {},
        "a date that the calendar 'standard' lacks",
        "obs.csv",
        "Leave its rows out",
    ),
    "lists in Parquet": (listed, {}, "column 'value' holds lists", "obs.parquet", "One number"),
    "changed by hand": (changed, {}, "differs from the digest", "obs.nc", "Run the job"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_understood_is_refused(tmp_path, case):
    make, more, what, where, mend = REFUSED[case]
    store = SimpleNamespace(**vars(STORE) | {"calendar": more.get("calendar", "standard")})
    with pytest.raises(BadInput) as e:
        path = make(tmp_path)
        read_points(
            path, store, start=2, stop=8, **{k: v for k, v in more.items() if k != "calendar"}
        )
    told = str(e.value)
    for part in (what, where, mend):
        assert part in told, told


# name: (row, its flag, what the note tells of the first)
FLAGGED = {
    "latitude 95": ("t,1,K,1,2000-01-04,95,0,", flags.PLACE, "row 3, lat 95, lon 0"),
    "longitude -790.2": ("t,1,K,1,2000-01-04,0,-790.2,", flags.PLACE, "row 3, lat 0, lon -790.2"),
    "no longitude": ("t,1,K,1,2000-01-04,5,,", flags.PLACE, "row 3, lat 5, lon nan"),
    "no value": ("t,nan,K,1,2000-01-04,0,0,", flags.VALUE, "row 3, value nan"),
    "an infinite value": ("t,inf,K,1,2000-01-04,0,0,", flags.VALUE, "row 3, value inf"),
    "no time": ("t,1,K,1,,0,0,", flags.TIME, "row 3, time nan"),
    "an error of zero": ("t,1,K,0,2000-01-04,0,0,", flags.ERROR, "row 3, error 0"),
    "no error": ("t,1,K,,2000-01-04,0,0,", flags.ERROR, "row 3, error nan"),
    "a row cut short": ("t,1,K", flags.PLACE, "row 3, lat nan, lon nan"),
    "outside": ("t,1,K,1,2000-01-04,89,0,", flags.OUTSIDE, "row 3"),
    "of another year": ("t,1,K,1,2009-01-04,0,0,", flags.LATE, "row 3"),
}


@pytest.mark.parametrize("case", FLAGGED)
def test_a_row_that_lacks_something_keeps_its_place_with_a_flag(tmp_path, case):
    row, flag, said = FLAGGED[case]
    table, notes = read_points(write(tmp_path, *ROWS, row), STORE, start=2, stop=8)
    assert len(table) == 4 and len(table.used) == 3
    assert sorted(table.flag.tolist()) == [0, 0, 0, flag]
    why = flags.REASONS[flag]
    assert dict(notes) == {why: 1} and notes.first[why].endswith(f"obs.csv, {said}")
    table.save(tmp_path / "obs.nc")  # it outlives the file
    assert ObservationTable.load(tmp_path / "obs.nc") == table
    again = control(table, STORE, Quality(background=None), start=2)
    assert np.array_equal(again.flag, table.flag)


def test_what_is_repeated_or_out_of_order_is_told_or_harmless(tmp_path):
    plain, _ = read_points(write(tmp_path, *ROWS), STORE, start=2, stop=8)
    mixed, _ = read_points(write(tmp_path, *ROWS[::-1]), STORE, start=2, stop=8)
    assert mixed == plain
    twice, _ = read_points(write(tmp_path, *ROWS, ROWS[0]), STORE, start=2, stop=8)
    quality = Quality(background=None)
    assert sorted(control(twice, STORE, quality, start=2).flag) == [0, 0, 0, flags.DUPLICATE]
    torn = ROWS[0].replace("t,10,", "t,20,")
    apart, _ = read_points(write(tmp_path, *ROWS, torn), STORE, start=2, stop=8)
    assert sorted(control(apart, STORE, quality, start=2).flag) == [0, 0] + [flags.DUPLICATE] * 2
    (tmp_path / "list.csv").write_text("station,lat,lon\nA,0,0\nA,10,10\n")
    network = Stations(network="stations", path=str(tmp_path / "list.csv"))
    with pytest.raises(BadInput, match=r"list\.csv: two stations 'A'. Give each its own name"):
        draw(network, SimpleNamespace(**vars(STORE), length=10), start=2, stop=8, seed=0)


def test_a_whole_file_in_ioda_groups_is_read(tmp_path):
    table, notes = read_points(netcdf(lat=(10.0, 95.0))(tmp_path), STORE, start=2, stop=8)
    assert table.value.tolist() == [280.0, 281.0] and table.error.tolist() == [1.0, 1.0]
    assert table.flag.tolist() == [0, flags.PLACE] and table.frame.tolist()[0] == 1
    assert table.time.tolist() == [72.0, 96.0] and len(notes) == 1


def test_a_sounder_of_ioda_has_a_variable_for_each_of_its_channels(tmp_path):
    r"""Location × Channel, as radiances come: named by the sensor's numbers, σ and flags along."""
    path, y = tmp_path / "obs.nc", np.array([[280.0, 281.0], [np.nan, 283.0]])
    with netCDF4.Dataset(netcdf()(tmp_path), "a") as f:
        f.createDimension("Channel", 2)
        f["MetaData"].createVariable("sensorChannelNumber", "i4", ("Channel",))[:] = [4, 7]
        for g, x in (("ObsValue", y), ("ObsError", 0 * y + [0.5, 0.7]), ("PreQC", 0 * y + [0, 1])):
            group = f[g] if g in f.groups else f.createGroup(g)
            v = group.createVariable("tb", "f8", ("Location", "Channel"), fill_value=-1.0)
            v.units, v[:] = "K", np.nan_to_num(x, nan=-1.0)
    store = SimpleNamespace(**vars(STORE) | {"channels": ["t", "u"]})
    table, _ = read_points(
        path, store, start=2, stop=8, variables={"tb_4": "t", "tb_7": "t", "t": "t"}
    )
    sounder = table.select(table.error < 1)
    order = np.lexsort((sounder.error, sounder.lat))
    assert sounder.value[order].tolist() == [280.0, 281.0, 283.0]
    assert sounder.error[order].tolist() == [0.5, 0.7, 0.7]
    assert sounder.flag[order].tolist() == [0, flags.SOURCE, flags.SOURCE] and len(table) == 5
    with netCDF4.Dataset(path, "a") as f:
        f.createDimension("other", 3)
        f["ObsValue"].createVariable("u", "f8", ("other",))[:] = 1.0
    with pytest.raises(BadInput, match=r"obs\.nc, ObsValue/u: 'u' is along other\. Observations"):
        read_points(path, store, start=2, stop=8)
