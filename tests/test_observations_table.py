r"""Observation tables: one content, one digest; round trips; every bad row named with its mend."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.observations.networks import random_points
from hpcinv.observations.networks_config import RandomPoints
from hpcinv.observations.table import ObservationTable


class Truth(SimpleNamespace):
    def read(self, start, stop):
        return self.x[start:stop]


@pytest.fixture
def truth():
    x = np.random.default_rng(0).standard_normal((6, 2, 5, 8)).astype(np.float32)
    return Truth(
        x=x,
        length=6,
        channels=["u", "v"],
        units=["m s-1", "m s-1"],
        grid=(5, 8),
        coords={"lat": np.linspace(-80, 80, 5), "lon": np.arange(0, 360, 45.0)},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=np.arange(6) * 730.5,
        time_units="hours since 1980-01-14 14:00:00",
        calendar="standard",
        mask=None,
    )


def draw(truth, **changes):
    return random_points(truth, **({"start": 2, "stop": 6, "points": 7, "seed": 3} | changes))


def test_values_are_truth_plus_noise_of_the_stated_size(truth):
    t = random_points(truth, start=2, stop=6, points=40, error={"u": 1e-9, "v": 2.0}, seed=3)
    x = truth.x.reshape(6, 2, -1)
    r = t.value - x[t.frame + 2, t.channel, t.point]
    assert len(t) == 4 * 40 * 2
    assert np.abs(r[t.channel == 0]).max() < 1e-7
    assert np.std(r[t.channel == 1]) == pytest.approx(2.0, rel=0.15)
    i, j = np.unravel_index(t.point, truth.grid)
    assert (t.lat == truth.coords["lat"][i]).all() and (t.lon == truth.coords["lon"][j]).all()
    assert (t.time == truth.time[t.frame + 2]).all()


def test_a_draw_does_not_depend_on_the_other_frames(truth):
    whole, part = draw(truth), draw(truth, start=4)
    again = whole.at([2, 3])
    assert (again.value == part.value).all() and (again.point == part.point).all()
    assert draw(truth) == whole and draw(truth, seed=4) != whole
    assert set(draw(truth, every=2).frame) == {0, 2}
    assert (draw(truth, every=2).value == whole.at([0, 2]).value).all()


def test_masked_points_are_never_observed(truth):
    truth.mask = np.zeros(truth.grid, bool)
    truth.mask[1] = True
    assert set(draw(truth).point) <= set(range(8, 16))
    with pytest.raises(BadInput, match="9 points of a grid of 8"):
        draw(truth, points=9)


def test_order_of_rows_does_not_matter(truth):
    t = draw(truth)
    shuffled = t.select(np.random.default_rng(0).permutation(len(t)))
    assert shuffled.digest == t.digest


@pytest.mark.parametrize("channels", [None, ["v"]])
def test_round_trip_is_exact(truth, tmp_path, channels):
    t = draw(truth, channels=channels)
    # Two reports of one variable at one place and moment, and a named station, survive too.
    names = np.where(np.arange(len(t)) % 5 == 0, "Aberdeen", "")
    t = ObservationTable.concatenate([t, t.select(np.arange(4))])
    t = ObservationTable(**{**t.__dict__, "station": np.resize(names, len(t))})
    assert t.save(tmp_path / "t.nc") == t.digest
    back = ObservationTable.load(tmp_path / "t.nc")
    assert back == t and back.units == t.units and back.station.tolist() == t.station.tolist()


def test_files_are_ioda_groups_that_xarray_reads(truth, tmp_path):
    import xarray as xr

    t = draw(truth)
    t.save(tmp_path / "t.nc")
    meta = xr.open_dataset(tmp_path / "t.nc", group="MetaData")
    value = xr.open_dataset(tmp_path / "t.nc", group="ObsValue")
    assert meta.sizes["Location"] == 4 * 7  # u and v of a point share a location
    assert value["v"].attrs["units"] == "m s-1"
    assert np.array_equal(value["u"], t.value[t.channel == 0])
    when = np.datetime64("1980-01-14T14:00") + (t.time[0] * 3600).astype("m8[s]")
    assert meta["dateTime"].values[0] == when
    assert meta["latitude"].attrs["units"] == "degrees_north"


def test_empty_table(tmp_path, truth):
    t = draw(truth).select(np.zeros(0, int))
    t.save(tmp_path / "t.nc")
    assert len(ObservationTable.load(tmp_path / "t.nc")) == 0


BAD = {
    "nan value": ({"value": np.nan}, "the value is nan"),
    "infinite value": ({"value": np.inf}, "the value is inf"),
    "no error": ({"error": 0.0}, "σ is 0.0"),
    "negative error": ({"error": -1.0}, "σ is -1.0"),
    "frame too late": ({"frame": 4}, "frame 4 of a trajectory of 4"),
    "frame before": ({"frame": -1}, "frame -1"),
    "point outside": ({"point": 40}, "point 40 of a grid of 40"),
    "channel": ({"channel": 2}, "channel 2 of a trajectory of 2"),
    "latitude": ({"lat": 95.0}, "latitude 95"),
    "nan latitude": ({"lat": np.nan}, "latitude nan"),
    "longitude": ({"lon": 400.0}, "longitude 400"),
    "time": ({"time": np.nan}, "the time is nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named(truth, case):
    change, message = BAD[case]
    t = draw(truth)
    columns = dict(t.__dict__)
    for name, value in change.items():
        columns[name] = columns[name].copy()
        columns[name][5] = value
    bad = ObservationTable(**columns)
    with pytest.raises(BadInput, match=re.escape(message)) as e:
        bad.check(length=4, grid=(5, 8), channels=["u", "v"], where="obs.nc")
    assert re.search(r"obs.nc, row \d+ \(frame -?\d+, ", str(e.value)) and e.value.instead


def test_a_good_table_passes_and_other_trajectories_do_not(truth):
    t = draw(truth)
    fits = {"length": 4, "grid": (5, 8), "channels": ["u", "v"], "units": ["m s-1"] * 2}
    assert t.check(**fits) is t
    with pytest.raises(BadInput, match="unknown variable 'u'"):
        t.check(**fits | {"channels": ["uwnd", "v"]})
    with pytest.raises(BadInput, match="'v' is in 'm s-1' where the trajectory has 'knots'"):
        t.check(**fits | {"units": ["m s-1", "knots"]})
    with pytest.raises(BadInput, match="outside the domain"):
        t.check(**fits, mask=np.zeros((5, 8), bool))


@pytest.mark.parametrize("harm", ["truncate", "alter", "other", "missing", "no group"])
def test_a_damaged_file_is_named(truth, tmp_path, harm):
    import netCDF4

    path = tmp_path / "t.nc"
    draw(truth).save(path)
    if harm == "truncate":
        path.write_bytes(path.read_bytes()[:2000])
    elif harm == "other":
        path.write_text("frame,value\n0,1\n")
    elif harm == "missing":
        path.unlink()
    elif harm == "alter":
        with netCDF4.Dataset(path, "a") as f:
            f["ObsValue/u"][3] += 1.0
    else:
        with netCDF4.Dataset(path, "w") as f:
            f.createGroup("MetaData")
    with pytest.raises(BadInput, match=r"t\.nc"):
        ObservationTable.load(path)


def test_unknown_channel_and_strings(truth):
    with pytest.raises(BadInput, match="unknown variable 'w'"):
        draw(truth, channels=["w"])
    with pytest.raises(BadInput, match="no error for 'v'"):
        draw(truth, error={"u": 1.0})
    with pytest.raises(BadInput, match="frames 2 to 6 of a store of 6"):
        draw(truth, stop=7)
    columns = dict(draw(truth).__dict__) | {"value": ["a"] * 56}
    with pytest.raises(BadInput, match="column 'value'"):
        ObservationTable(**columns)


def test_config_refuses_unknown_fields_and_bad_errors():
    assert RandomPoints(points=3).error == 0.5
    for bad in ({"pointz": 3}, {"error": 0.0}, {"error": {"u": -1}}, {"points": 0}):
        with pytest.raises(ValueError):
            RandomPoints(**bad)
