r"""Point tables from files: mapped to grid and frames, converted, counted, or refused by row."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.observations.config import PointTable
from hpcinv.observations.read import read_points
from hpcinv.observations.units import conversion

STORE = SimpleNamespace(
    channels=["t", "u"],
    units=["K", "m s-1"],
    grid=(5, 8),
    coords={"lat": np.linspace(60, -60, 5), "lon": np.arange(0, 360, 45.0)},
    coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
    time=np.arange(10) * 24.0,
    time_units="hours since 2000-01-01",
    calendar="standard",
    mask=None,
)
HEAD = "variable,value,units,error,time,lat,lon,station"
ROWS = [
    "t,10,degC,0.5,2000-01-04T01:00,31,-44,A",
    "u,10,knots,1,2000-01-05T12:30:00Z,-59,359,B",
    "u,3,m/s,1,2000-01-05,0,46,",
]


def write(tmp_path, *rows, head=HEAD):
    path = tmp_path / "obs.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def read(path, **more):
    return read_points(path, STORE, **{"start": 2, "stop": 8} | more)


def test_rows_find_their_frame_point_channel_and_units(tmp_path):
    table, left = read(write(tmp_path, *ROWS))
    assert left == {} and len(table) == 3
    rows = {s: i for i, s in enumerate(table.station.tolist())}
    a, b, c = rows["A"], rows["B"], rows[""]
    assert table.value[a] == pytest.approx(283.15) and table.error[a] == 0.5  # offsets spare σ
    assert table.value[b] == pytest.approx(5.14444, abs=1e-5)
    assert table.error[b] == pytest.approx(0.514444, abs=1e-6)
    assert table.frame[[a, b, c]].tolist() == [1, 3, 2]  # frames 3, 5 and 4 of the store
    assert table.channel[[a, b, c]].tolist() == [0, 1, 1]
    # 31°N is nearest to 30 (row 1), −44° is 316°E, nearest to 315 (column 7); 359° wraps to 0
    assert table.point[[a, b, c]].tolist() == [1 * 8 + 7, 4 * 8 + 0, 2 * 8 + 1]
    assert table.time[a] == pytest.approx(73.0)


def test_what_is_left_out_is_counted(tmp_path):
    path = write(
        tmp_path, *ROWS, "t,1,K,1,2000-01-01,0,0,", "t,1,K,1,2000-02-01,0,0,",
        "t,1,K,1,2000-01-04,80,0,", "q,1,K,1,2000-01-04,0,0,",
    )  # fmt: skip
    table, left = read(path, variables={"t": "t", "u": "u"})
    # each keeps its place in the table, with the reason as its flag
    assert len(table) == 6 and sorted(table.flag.tolist()) == [0, 0, 0, 10, 12, 12]
    assert len(table.used) == 3
    assert left == {
        "another variable": 1, "outside the grid": 1, "too far in time from any frame": 2
    }  # fmt: skip
    table, left = read(path, variables={"t": "t"}, window=2.0)
    assert len(table.used) == 1 and left["another variable"] == 3


def test_mask_regional_grids_and_other_names(tmp_path):
    masked = SimpleNamespace(**vars(STORE) | {"mask": np.zeros((5, 8), bool)})
    masked.mask[2, 1] = True
    table, left = read_points(write(tmp_path, *ROWS), masked, start=2, stop=8)
    assert table.used.point.tolist() == [17] and left == {"outside the domain (mask)": 2}
    path = write(tmp_path, "t,280,2000-01-04,30,315", head="what,obs,when,lat,lon")
    names = {"variable": "what", "value": "obs", "time": "when"}
    table, _ = read(path, columns=names, error={"t": 0.7}, units="K")
    assert table.error.tolist() == [0.7] and table.value.tolist() == [280.0]
    west = {"lat": np.linspace(40, 50, 5), "lon": np.linspace(-20, 15, 8)}
    region = SimpleNamespace(**vars(STORE) | {"coords": west})
    path = write(tmp_path, "t,280,K,1,2000-01-04,45,350,", "t,280,K,1,2000-01-04,45,30,")
    table, left = read_points(path, region, start=2, stop=8)
    assert table.used.point.tolist() == [2 * 8 + 2] and left == {"outside the grid": 1}


def test_tables_of_our_own_are_read_as_they_are(tmp_path):
    table, _ = read(write(tmp_path, *ROWS))
    table.save(tmp_path / "t.nc")
    again, left = read(tmp_path / "t.nc")
    assert again == table and left == {}
    other = SimpleNamespace(**vars(STORE) | {"units": ["degC", "m s-1"]})
    with pytest.raises(BadInput, match="'t' is in 'K' where the trajectory has 'degC'"):
        read_points(tmp_path / "t.nc", other, start=2, stop=8)


def test_units_convert_exactly():
    assert conversion("hPa", "Pa") == (100.0, 0.0)
    f, o = conversion("degF", "degC")
    assert f * 212 + o == pytest.approx(100) and f * 32 + o == pytest.approx(0, abs=1e-10)
    assert conversion("%", "1") == (0.01, 0.0) and conversion("M/S", "m s-1") == (1.0, 0.0)


def test_config():
    assert PointTable(network="table", path="a.csv").window is None
    with pytest.raises(ValueError):
        PointTable(network="table", path="a.csv", windows=3)
