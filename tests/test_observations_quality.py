r"""Quality control: each check finds what was planted and leaves the rest; nothing disappears."""

from dataclasses import replace

import numpy as np
import pytest
from test_baselines_oi import C, L, N, problem, store  # noqa: F401

from hpcinv.assimilation import baselines_config as config
from hpcinv.assimilation.baselines import Problem, build
from hpcinv.errors import BadInput
from hpcinv.observations import flags
from hpcinv.observations.background import prior_predictive
from hpcinv.observations.config import Buddy, Forward, Quality, Thin
from hpcinv.observations.networks import random_points
from hpcinv.observations.quality import control, with_flags
from hpcinv.observations.table import COLUMNS, ObservationTable
from hpcinv.observations.thinning import cells

ALONE = {"background": None, "duplicates": False}


def spoilt(table, row, value):
    x = table.value.copy()
    x[row] = value
    return replace(table, value=x)


@pytest.mark.parametrize("method", ["oi", "etkf", "enks"])
def test_a_gross_error_does_not_move_the_analysis(store, method):  # noqa: F811
    clean = random_points(store, start=N, stop=N + L, points=12, error=0.5, seed=2)
    bad = spoilt(clean, 17, 300.0)
    checked = control(bad, store, Quality(background=20), start=N)
    assert len(checked) == len(clean)
    assert flags.counts(checked)[clean.channels[clean.channel[17]]][flags.REASONS[15]] == 1
    mask = np.ones(len(clean), bool)
    mask[17] = False
    made = {
        "oi": config.OI(length_km=4000, lags=1),
        "etkf": config.Ensemble(method="etkf"),
        "enks": config.Ensemble(method="enks"),
    }[method]

    def analysis(table):
        p = Problem(store, store.statistics, (0, N), (N, N + L), table, range(3), 0)
        return build(made, p).draw(0, L)

    without = analysis(clean.select(mask))
    assert np.array_equal(analysis(checked.used), without)
    assert np.abs(analysis(bad) - without).max() > 1  # it would have moved it


def test_the_background_is_the_climatology(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=5, error=0.5, seed=2)
    mean, std = prior_predictive(t, store, N)
    s = store.statistics
    phase = s.phase(N + t.frame)
    flat = (12, C, -1)
    assert np.allclose(mean, s.mean.reshape(flat)[phase, t.channel, t.point])
    assert np.allclose(std, s.std.reshape(flat)[phase, t.channel, t.point])
    z = np.abs(t.value - mean) / np.hypot(std, 0.5)
    limit = np.sort(z)[-4:].mean()
    checked = control(t, store, Quality(background=float(limit)), start=N)
    assert (checked.flag == flags.BACKGROUND).tolist() == (z > limit).tolist()
    with pytest.raises(BadInput, match="no statistics"):
        control(t, replace_statistics(store), Quality(), start=N)


def replace_statistics(store):  # noqa: F811
    return type(store)(**{**vars(store), "statistics": None})


def test_bounds_and_unknown_variables(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=5, error=0.5, seed=2)
    got = control(t, store, Quality(bounds={"u": (None, 1.0)}, **ALONE), start=N)
    want = (t.channel == 0) & (t.value > 1)
    assert want.any() and ((got.flag == flags.BOUNDS) == want).all()
    with pytest.raises(BadInput, match="unknown variable 'w'"):
        control(t, store, Quality(bounds={"w": (0, 1)}), start=N)


def test_duplicates_stay_once_or_not_at_all(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=5, error=0.5, seed=2)
    twice = ObservationTable.concatenate([t, t.select(np.array([3, 7]))])
    got = control(twice, store, Quality(background=None), start=N)
    assert (got.flag == flags.DUPLICATE).sum() == 2 and len(got.used) == len(t)
    torn = t.select(np.array([3]))
    torn = replace(torn, value=torn.value + 9)
    got = control(
        ObservationTable.concatenate([t, torn]), store, Quality(background=None), start=N
    )
    assert (got.flag == flags.DUPLICATE).sum() == 2  # nobody knows which is right


def field(n=400, seed=0):
    r"""Smooth departures (600 km) at n places of Europe in one frame, as a table of channel u."""
    rng = np.random.default_rng(seed)
    lat, lon = rng.uniform(40, 60, n), rng.uniform(0, 30, n)
    x = np.stack([lat, lon * np.cos(np.deg2rad(50))], 1) * 111.2
    S = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / (2 * 600**2)) + 1e-8 * np.eye(n)
    return rng, lat, lon, np.linalg.cholesky(S) @ rng.standard_normal(n)


def test_the_buddy_check_finds_planted_errors_and_spares_their_neighbours(store):  # noqa: F811
    rng, lat, lon, truth = field()
    n = len(lat)
    fine = type(store)(
        **{
            **vars(store),
            "grid": (41, 61),
            "coords": {"lat": np.linspace(40, 60, 41), "lon": np.linspace(0, 30, 61)},
            "statistics": type(store.statistics)(
                np.zeros((1, C, 41, 61), np.float32), np.ones((1, C, 41, 61), np.float32),
                np.full(1, N), np.zeros(N + L, int),
            ),
        }
    )  # fmt: skip
    value = truth + 0.2 * rng.standard_normal(n)
    planted = rng.choice(n, 8, replace=False)
    value[planted] += 3.0 * rng.choice([-1, 1], 8)  # within seven deviations of the climatology
    t = ObservationTable(
        frame=np.zeros(n, int), channel=np.zeros(n, int),
        point=np.rint((lat - 40) * 2).astype(int) * 61 + np.rint(lon * 2).astype(int),
        value=value, error=np.full(n, 0.2), lat=lat, lon=lon, time=np.zeros(n),
        station=np.array([f"s{k:03d}" for k in range(n)]), channels=("u", "v"),
        units=("m s-1",) * 2, time_units=store.time_units,
    )  # fmt: skip
    quality = Quality(background=7.0, buddy=Buddy(length_km=600, limit=5))
    got = control(t, fine, quality, start=N)
    found = {int(s[1:]) for s in got.station[got.flag == flags.BUDDY]}
    assert found == set(planted.tolist())
    assert not (got.flag == flags.BACKGROUND).any()  # that check alone would not have seen them


def test_the_bias_of_a_station_is_taken_off(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=8, error=0.5, seed=2)
    names = np.where(t.frame % 2 == 0, "sound", "biased")
    t = replace(t, station=names, value=t.value + 40.0 * (names == "biased"))
    got = control(t, store, Quality(background=20, station_bias=100.0), start=N)
    assert (got.flag == 0).all()  # nothing is far from the background any more
    off = (t.value - got.value)[t.station == "biased"]
    mean, _ = prior_predictive(t, store, N)
    d = (t.value - mean)[(t.station == "biased") & (t.channel == 0)]
    assert off.min() > 35 and d.mean() == pytest.approx(off[0], abs=0.5)


def test_the_bias_of_an_instrument_is_that_of_all_its_stations(store):  # noqa: F811
    r"""Three instruments see one variable, one of them is off by 1 σ; estimates in closed form."""
    t = random_points(store, start=N, stop=N + L, points=20, error=0.5, seed=2)
    rng = np.random.default_rng(0)
    kind = rng.choice(["ship", "buoy", "land"], len(t))
    names = np.char.add(np.char.add(kind, "-"), rng.integers(0, 9, len(t)).astype(str))
    t = replace(t, station=names)  # in another order now
    mean, _ = prior_predictive(t, store, N)
    truth = mean + 0.5 * rng.standard_normal(len(t))  # a background without errors of its own
    t = replace(t, value=truth + 0.5 * np.char.startswith(t.station, "ship"))
    mine, biases = {"ships": "ship-*", "buoys": "buoy-*", "on land": "land-*"}, {}
    quality = Quality(background=20, station_bias=2.0, instruments=mine)
    got = control(t, store, quality, start=N, biases=biases)
    assert set(biases) == {(i, v) for i in mine for v in "uv"}
    for (instrument, v), (b, sd) in biases.items():
        rows = np.char.startswith(t.station, mine[instrument][:-1]) & (t.channel == "uv".index(v))
        frames = [(t.value - mean)[rows & (t.frame == f)] for f in np.unique(t.frame[rows])]
        d, n = np.array([x.mean() for x in frames]), np.array([len(x) for x in frames])
        var = max(d.var(ddof=1), (0.25 / n).mean()) / len(d)
        assert b == pytest.approx(d.mean() / (1 + var)) and sd == pytest.approx(
            np.sqrt(var / (1 + var))
        )
        assert np.allclose((t.value - got.value)[rows], b)
        assert abs(b - 0.5 * (instrument == "ships")) < 3.5 * sd < 0.6
    for patterns, said in (
        ({"ships": "SHIP*"}, r"no station's name is like 'SHIP[*]'"),
        ({"ships": "ship-*", "all": "*"}, "is of 'ships' and of 'all'"),
    ):
        with pytest.raises(BadInput, match=said):
            control(t, store, Quality(station_bias=1.0, instruments=patterns), start=N)
    nameless = replace(t, station=np.full(len(t), ""))
    with pytest.raises(BadInput, match="no row says which station") as e:
        control(nameless, store, Quality(station_bias=1.0), start=N)
    assert "columns: {station: ...}" in str(e.value)


def test_withheld_stations_are_a_share_and_stay_together(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=10, error=0.5, seed=2)
    got = control(t, store, Quality(withhold=0.2, **ALONE), start=N, seed=5)
    held = got.flag == flags.WITHHELD
    assert held.sum() == 0.2 * len(t)
    place = got.frame * 100 + got.point
    assert not set(place[held]) & set(place[~held])  # both channels of a place, or none
    again = control(t, store, Quality(withhold=0.2, **ALONE), start=N, seed=5)
    assert (again.flag == got.flag).all()
    other = control(t, store, Quality(withhold=0.2, **ALONE), start=N, seed=6)
    assert (other.flag != got.flag).any()


def test_thinning_keeps_the_nearest_and_superobs_are_the_mean_departure(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=20, error=0.5, seed=2)
    got = control(t, store, Quality(thin=Thin(km=6000), **ALONE), start=N)
    cell, centre, middle = cells(t.lat, t.lon, 6000)
    key = [tuple(k) for k in zip(t.frame, t.channel, cell, strict=True)]
    east = np.cos(np.deg2rad(t.lat)) * ((t.lon - middle + 180) % 360 - 180)
    d = (t.lat - centre) ** 2 + east**2
    for k in set(key):
        rows = [i for i, other in enumerate(key) if other == k]
        kept = [i for i in rows if got.flag[i] == 0]
        assert len(kept) == 1 and d[kept[0]] <= d[rows].min() + 1e-9
    # superobservations: one for each crowded cell, of the mean departure, with the mean's error
    how = Thin(km=6000, method="average", representativeness=0.3)
    got = control(t, store, Quality(thin=how, **ALONE), start=N)
    mean, _ = prior_predictive(t, store, N)
    new = got.select(np.char.startswith(got.station, "superob"))
    assert len(got) == len(t) + len(new) and (got.flag == flags.MERGED).sum() + len(
        got.used
    ) - len(new) == len(t)
    at = {tuple(k): i for i, k in enumerate(zip(new.frame, new.channel,
          cells(new.lat, new.lon, 6000)[0], strict=True))}  # fmt: skip
    b, _ = prior_predictive(new, store, N)
    seen = 0
    for k in set(key):
        rows = [i for i, other in enumerate(key) if other == k]
        if len(rows) > 1:
            i = at[k]
            assert new.value[i] - b[i] == pytest.approx((t.value - mean)[rows].mean(), abs=1e-9)
            assert new.error[i] == pytest.approx(np.hypot(0.5 / np.sqrt(len(rows)), 0.3))
            seen += 1
    assert seen == len(new) > 5


def test_flags_survive_the_file_and_carry_their_meanings(store, tmp_path):  # noqa: F811
    import netCDF4

    t = random_points(store, start=N, stop=N + L, points=5, error=0.5, seed=2)
    before = t.digest
    t = with_flags(t, np.arange(len(t)) % 4)
    assert t.digest != before
    t.save(tmp_path / "t.nc")
    again = ObservationTable.load(tmp_path / "t.nc")
    assert again == t and (again.flag == t.flag).all() and len(again.used) == len(t) // 4
    with netCDF4.Dataset(tmp_path / "t.nc") as f:
        v = f["EffectiveQC"]["u"]
        meanings = dict(zip(v.flag_values.tolist(), v.flag_meanings.split(), strict=True))
        assert meanings[1] == "withheld_for_verification"
    assert problem(store).table.forward == Forward() and set(COLUMNS) >= {"value", "error"}
