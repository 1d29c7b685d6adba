"""Real casts become observations of the study's levels: two of the Black Sea, ten with oxygen.

The samples are not part of the repository: HPCINV_SAMPLES names their folder.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from hpcinv.errors import BadInput
from hpcinv.observations import flags
from hpcinv.observations.config import PointTable
from hpcinv.observations.operators import Operator
from hpcinv.observations.read import read_points
from hpcinv.observations.units import conversion
from hpcinv.simulators.black_sea import BlackSea

OCEAN = Path(os.environ.get("HPCINV_SAMPLES", "/nowhere")) / "ocean"
ODV = OCEAN / "BlackSea_2profiles.txt"
CTD = OCEAN / "netCDF_vertical_profiles_ctd.nc"
PAGE = Path(__file__).resolve().parent.parent / "jobs" / "black_sea" / "README.md"
MIDDLE = np.array([4.0, 12, 22, 38, 64])


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"HPCINV_SAMPLES has no {path.name}")


def job(which):
    """A job file as the study's page shows it."""
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    found = [yaml.safe_load(b.split("```")[0]) for b in blocks]
    return next(f for f in found if which in f["observing"]["path"])


def store(sea, frames, lat=None, lon=None, mask=True):
    """What a job would open: a year of the sea's frames, elsewhere where it is asked."""
    s = sea.state
    coords = {"lat": s.coords["lat"] if lat is None else lat,
              "lon": s.coords["lon"] if lon is None else lon}  # fmt: skip
    return SimpleNamespace(
        channels=list(s.channels), units=list(s.channels.values()), coords=coords,
        grid=tuple(len(c) for c in coords.values()), coord_attrs=s.coord_attrs,
        time=np.arange(frames) * s.dt, time_units=s.time_units, calendar=s.calendar,
        mask=s.mask if mask else None, statistics=None,
    )  # fmt: skip


def read(path, fields, where, frames):
    table = PointTable.model_validate(fields["observing"] | {"path": str(path)})
    of = {k: v for k, v in table if k not in ("network", "path")}
    return read_points(path, where, start=0, stop=frames, **of)


def seen(table, where, column):
    """What the rows see of a sea that is alike everywhere: `column` maps channels to numbers."""
    rows = Operator(table, where)
    frame = np.zeros((len(where.channels), *where.grid))
    for name, value in column.items():
        frame[where.channels.index(name)] = value
    index = rows.rows(range(len(where.time)))
    out = np.empty(len(table))
    out[index] = rows.see(lambda f: frame, range(len(where.time)))
    return out


@needs(ODV)
def test_black_sea_casts_are_observations_of_the_levels():
    sea = BlackSea(rows=8, columns=10, days=30, spin_up=12, substeps=15, year=1991)
    where = store(sea, 12)
    table, _ = read(ODV, job("BlackSea"), where, 12)
    # 4 and 11 depths of two variables, all on 3 September: frame 8 is 1 September of 360 days.
    assert len(table) == 30 and (table.frame[table.frame >= 0] == 8).all()
    cast = table.station == "11570900"
    names = [*where.channels, "temp", "salt"]
    temp = np.array([names[c] == "temp" for c in table.channel])
    order = np.argsort(table.level[cast & temp])
    np.testing.assert_allclose(table.level[cast & temp][order], [0, 10, 20, 30])
    np.testing.assert_allclose(table.value[cast & temp][order], [22.208, 22.26, 22.346, 22.308])
    salt = np.sort(table.value[cast & ~temp])
    np.testing.assert_allclose(salt, [15.702, 15.738, 15.974, 16.027])  # psu, CF's 1e-3
    # The operator: what a sea whose temperature is its depth would have shown them.
    used = table.used
    beyond = table.level > 80
    assert beyond.sum() == 10 and (table.flag[beyond] == flags.OUTSIDE).all()
    # The cast nearest to the coast is on land of a grid this coarse.
    assert set(used.station) == {"11570901"} and len(used) == 12
    assert (table.flag[cast] == flags.MASKED).all()
    column = {f"temp_{k + 1}": m for k, m in enumerate(MIDDLE)}
    found = seen(used, where, column)
    of = np.array([names[c] == "temp" for c in used.channel])
    inside = np.clip(used.level, MIDDLE[0], MIDDLE[-1])
    np.testing.assert_allclose(found[of], inside[of], atol=1e-9)


@needs(CTD)
def test_ctd_oxygen_becomes_an_amount_in_a_volume():
    import netCDF4

    sea = BlackSea(rows=8, columns=10, days=30, spin_up=12, substeps=15, year=2006)
    there = store(sea, 12, np.linspace(36, 44, 9), np.linspace(-14, -7, 8), mask=False)
    fields = job("profiles_ctd")
    table, notes = read(CTD, fields, there, 12)
    with netCDF4.Dataset(CTD) as f:
        o2, good = f["DOXMSDXX"][:], f["DOXMSDXX_SEADATANET_QC"][:]
    whole = ~np.ma.getmaskarray(o2)
    assert len(table) == whole.sum() and notes["not observed"] == (~whole).sum()
    density = fields["observing"]["measured"]["DOXMSDXX"]["density"]
    np.testing.assert_allclose(
        np.sort(table.value), np.sort(np.asarray(o2[whole], float) * density / 1000), rtol=1e-12
    )
    assert set(np.unique(good[whole])) and 180 < np.median(table.used.value) < 300
    # Near the surface oxygen is in equilibrium with the air, to ten per cent: units are right.
    import torch

    from hpcinv.simulators.black_sea import saturation

    with netCDF4.Dataset(CTD) as f:
        t, s, p = (f[v][:] for v in ("TEMPPR01", "PSLTZZ01", "PRES"))
    top = (p < 10) & whole & ~np.ma.getmaskarray(t) & ~np.ma.getmaskarray(s)
    full = saturation(torch.from_numpy(np.asarray(t[top])), torch.from_numpy(np.asarray(s[top])))
    ratio = np.asarray(o2[top], float) * density / 1000 / full.numpy()
    print(f"oxygen over saturation in the upper 10 m: {ratio.mean():.3f}")
    assert np.abs(ratio - 1).max() < 0.1
    # In the Black Sea's own store these casts are rows outside of it, and the job says so.
    with pytest.raises(BadInput, match="can be used"):
        read(CTD, fields, store(sea, 12), 12)


def test_units_of_oxygen_and_salinity():
    # One millilitre of oxygen is 44.6596 micromoles at 0 degC and one atmosphere.
    assert conversion("ml/l", "mmol m-3") == pytest.approx((44.6596, 0.0))
    assert conversion("umol/l", "mmol m-3") == (1.0, 0.0)
    assert conversion("psu", "1e-3") == (1.0, 0.0) == conversion("1e-3", "PSU".lower())
    with pytest.raises(BadInput, match="is an amount per mass"):
        conversion("umol/kg", "mmol m-3")  # without a density it is another thing


def test_a_density_is_for_amounts_in_a_mass(tmp_path):
    (tmp_path / "casts.csv").write_text(
        "time,lat,lon,depth,oxy,ml\n1991-09-02,43.5,33.0,12.0,200.0,5.0\n"
    )
    sea = BlackSea(rows=8, columns=10, days=30, spin_up=12, substeps=15, year=1991)
    fields = {"observing": {"network": "table", "path": "x", "columns": {"level": "depth"},
                            "measured": {"oxy": {"channel": "o2_2", "units": "umol/kg",
                                                 "density": 1012.0, "error": 5.0},
                                         "ml": {"channel": "o2_2", "units": "ml/l",
                                                "error": 5.0}}}}  # fmt: skip
    table, _ = read(tmp_path / "casts.csv", fields, store(sea, 12), 12)
    np.testing.assert_allclose(np.sort(table.value), [200 * 1.012, 5 * 44.6596])
    fields["observing"]["measured"]["ml"]["density"] = 1012.0
    with pytest.raises(BadInput, match="'ml/l' is a number, 'umol kg-1' an amount per mass"):
        read(tmp_path / "casts.csv", fields, store(sea, 12), 12)
