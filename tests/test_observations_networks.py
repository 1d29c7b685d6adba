r"""Networks of OSSEs: where they look is known in closed form; noise has the moments it says."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.observations import orbit
from hpcinv.observations.config import Derived, Forward
from hpcinv.observations.networks import draw
from hpcinv.observations.networks_config import (
    CoarseGrid,
    Noise,
    Orbit,
    RandomPoints,
    Stations,
    Tracks,
)


class Truth(SimpleNamespace):
    def read(self, start, stop):
        return self.x[start:stop]


def truth(L=12, lat=None, lon=None, x=None, **more):
    lat = np.linspace(-87.5, 87.5, 36) if lat is None else lat
    lon = np.arange(0, 360, 5.0) if lon is None else lon
    if x is None:
        x = np.zeros((L, 2, len(lat), len(lon)), np.float32)
    return Truth(
        x=x, length=L, channels=["u", "v"], units=["m s-1"] * 2, grid=(len(lat), len(lon)),
        coords={"lat": lat, "lon": lon},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=6.0 * np.arange(L), time_units="hours since 2000-01-01", calendar="standard",
        **({"mask": None} | more),
    )  # fmt: skip


def great_circle(a, b, c, d):
    a, b, c, d = np.deg2rad([a, b, c, d])
    return 6371 * np.arccos(
        np.clip(np.sin(a) * np.sin(c) + np.cos(a) * np.cos(c) * np.cos(b - d), -1, 1)
    )


def test_sun_synchronous_orbits_have_the_textbook_inclination_and_period():
    # Landsat, 705 km: 98.2 degrees and 98.9 minutes; Metop, 817 km: 98.7 degrees, 101.4 minutes
    assert orbit.sun_synchronous(705) == pytest.approx(98.2, abs=0.05)
    assert orbit.sun_synchronous(817) == pytest.approx(98.7, abs=0.1)
    assert orbit.period(705) / 60 == pytest.approx(98.9, abs=0.2)
    assert orbit.period(817) / 60 == pytest.approx(101.4, abs=0.5)
    # VIIRS scans to 56.06 degrees from 829 km and sees 3,060 km
    assert orbit.swath(829, 56.06) == pytest.approx(3060, rel=0.02)
    assert orbit.swath(817, 89) == pytest.approx(2 * 6371 * np.arccos(6371 / (6371 + 817)))


def test_the_satellite_crosses_the_equator_at_its_local_time_for_a_year():
    how = {"altitude_km": 817.0, "inclination": orbit.sun_synchronous(817), "local_time": 21.5,
           "swath_km": 1.0, "spacing_km": 20.0}  # fmt: skip
    for day in (0, 100, 300):
        lat, lon, t = orbit.footprints(day * 86400.0, (day + 1) * 86400.0, **how)
        up = np.flatnonzero((lat[:-1] < 0) & (lat[1:] >= 0))
        assert len(up) in (14, 15)  # orbits a day
        hour = (t[up] / 3600 + lon[up] / 15) % 24
        assert np.abs(hour - 21.5).max() < 0.05
        assert np.abs(lat).max() == pytest.approx(180 - how["inclination"], abs=0.2)
    # the width of the swath, and the same footprints however the day is cut
    wide = how | {"swath_km": 1000.0, "spacing_km": 100.0}
    lat, lon, t = orbit.footprints(0, 86400, **wide)
    rows = lat.reshape(-1, 11), lon.reshape(-1, 11)
    d = great_circle(rows[0][:, 0], rows[1][:, 0], rows[0][:, -1], rows[1][:, -1])
    assert np.abs(d - 1000).max() < 1
    halves = [orbit.footprints(a, a + 43200, **wide)[2] for a in (0, 43200)]
    assert np.array_equal(np.concatenate(halves), t)


def test_an_orbit_observes_what_passes_beneath_in_each_frame():
    s = truth()
    net = Orbit(network="orbit", swath_km=1500, spacing_km=150, channels=["u"], error=1.0)
    t = draw(net, s, start=2, stop=6)
    assert np.abs(t.time - (t.frame + 2) * 6.0).max() <= 3.0
    per = np.bincount(t.frame)
    want = 6 * 3600 / (150 / (2 * np.pi * 6371 / orbit.period(817))) * 11
    assert np.abs(per - want).max() < 0.02 * want
    assert draw(net, s, start=4, stop=6).value[: per[2]].tolist() == t.value[t.frame == 2].tolist()


def test_ships_keep_their_great_circle_and_speed_and_floats_diffuse():
    s = truth(L=40)
    ship = Tracks(network="tracks", platforms=4, speed=8.0, channels=["u"])
    t = draw(ship, s, start=0, stop=40)
    assert (np.bincount(t.frame) == 4).all()
    for name in np.unique(t.station):
        a = t.select(t.station == name)
        hop = great_circle(a.lat[:-1], a.lon[:-1], a.lat[1:], a.lon[1:])
        sailed = hop > 1e-3
        assert np.abs(hop[sailed] - 8.0 * 21600 / 1000).max() < 0.5 and sailed.mean() > 0.9
    # a straight one ends 39 legs from its start along one great circle
    open_sea = [n for n in np.unique(t.station) if (great_circle(
        *(x[t.station == n][:-1] for x in (t.lat, t.lon)),
        *(x[t.station == n][1:] for x in (t.lat, t.lon))) > 1).all()]  # fmt: skip
    a = t.select(t.station == open_sea[0])
    angle = 39 * 8.0 * 21.6 / 6371
    end = great_circle(a.lat[0], a.lon[0], a.lat[-1], a.lon[-1])
    assert end == pytest.approx(6371 * np.arccos(np.cos(angle)), rel=0.01)
    drift = draw(
        Tracks(network="tracks", platforms=40, speed=0.3, steadiness=0.0, channels=["u"]),
        s, start=0, stop=40,
    )  # fmt: skip
    leg = 0.3 * 21.6
    squares = []
    for name in np.unique(drift.station):
        a = drift.select(drift.station == name)
        squares.append(great_circle(a.lat[0], a.lon[0], a.lat[-1], a.lon[-1]) ** 2)
    # headings that forget: the mean square grows like the number of legs, not its square
    assert 0.4 < np.mean(squares) / (39 * leg**2) < 2.5


def test_stations_grids_gaps_and_surface():
    s = truth()
    net = Stations(network="stations", places={"A": (50.0, 8.0), "B": (-33.0, -71.0)},
                   gaps=[(1, 3)], every=1, error={"u": 1.0, "v": 2.0})  # fmt: skip
    t = draw(net, s, start=4, stop=9)
    assert np.unique(t.frame).tolist() == [0, 3, 4] and set(t.station) == {"A", "B"}
    assert t.error.tolist() == [1.0, 2.0] * 6
    grid = draw(CoarseGrid(network="grid", stride=12), s, start=0, stop=1)
    rows, columns = np.divmod(np.unique(grid.point), 72)
    assert set(rows) == {0, 12, 24} and set(columns) == {0, 12, 24, 36, 48, 60}
    some = draw(CoarseGrid(network="grid", stride=12, missing=0.5), s, start=0, stop=12)
    assert 2 <= len(np.unique(some.frame)) <= 10
    deep = Truth(**vars(s) | {
        "grid": (3, 36, 72), "coords": {"depth": np.arange(3.0), **s.coords},
        "x": np.zeros((12, 2, 3, 36, 72), np.float32)})  # fmt: skip
    top = draw(RandomPoints(points=50, surface=True), deep, start=0, stop=1)
    assert (top.point < 36 * 72).all()


@pytest.mark.slow
def test_noise_has_the_moments_it_says():
    s = truth(L=60)
    many = {f"s{k:03d}": (float(a), float(b)) for k, (a, b) in enumerate(
        np.random.default_rng(0).uniform([-60, -180], [60, 180], (150, 2)))}  # fmt: skip

    def noise(**how):
        net = Stations(network="stations", places=many, error=0.5, noise=Noise(**how))
        t = draw(net, s, start=0, stop=60)
        order = np.lexsort((t.station, t.frame, t.channel))
        return t.value[order].reshape(2, 60, 150), t

    e, t = noise()
    assert e.std() == pytest.approx(0.5, rel=0.03) and abs(e.mean()) < 0.02
    assert (t.error == 0.5).all()
    e, t = noise(factor=2.0)
    assert e.std() == pytest.approx(1.0, rel=0.03) and (t.error == 0.5).all()  # not told
    e, _ = noise(bias={"u": 0.7})
    assert e[0].mean() == pytest.approx(0.7, abs=0.03) and abs(e[1].mean()) < 0.03
    e, _ = noise(station_bias=1.0)
    assert e.mean(1).std() == pytest.approx(0.5, rel=0.15)
    e, _ = noise(persistence=0.8)
    assert e.std() == pytest.approx(0.5, rel=0.05)
    lag = (e[:, 1:] * e[:, :-1]).mean() / (e**2).mean()
    assert lag == pytest.approx(0.8, abs=0.03)
    e, t = noise(length_km=1500)
    place = [many[f"s{k:03d}"] for k in range(150)]
    lat, lon = np.array(place).T
    xyz = np.stack(
        [
            np.cos(np.deg2rad(lat)) * np.cos(np.deg2rad(lon)),
            np.cos(np.deg2rad(lat)) * np.sin(np.deg2rad(lon)),
            np.sin(np.deg2rad(lat)),
        ]
    )
    r = 6371 * np.linalg.norm(xyz[:, :, None] - xyz[:, None], axis=0)
    S = np.einsum("cti,ctj->ij", e, e) / 120 / 0.25
    near = (r > 0) & (r < 1500)
    assert np.abs(S[near] - np.exp(-r[near] / 1500)).mean() < 0.1
    # the same rows whatever frames are asked for
    net = Stations(network="stations", places=many, noise=Noise(persistence=0.8))
    a, b = draw(net, s, start=0, stop=60), draw(net, s, start=40, stop=60)
    assert np.array_equal(a.value[a.frame >= 40], b.value)


def test_derived_variables_and_interpolation_are_seen_of_the_truth():
    lat = np.linspace(-87.5, 87.5, 36)
    x = np.zeros((3, 2, 36, 72), np.float32)
    x[:, 0], x[:, 1] = lat[:, None], 4.0
    s = truth(L=3, x=x)
    forward = Forward(
        space="bilinear",
        derived=(Derived(name="speed", units="m s-1", of=("u", "v"), operator="speed"),),
    )
    net = Stations(network="stations", places={"A": (11.3, 2.0)}, channels=["u", "speed"],
                   error=1e-9, forward=forward)  # fmt: skip
    t = draw(net, s, start=0, stop=1)
    assert t.value == pytest.approx([11.3, np.hypot(11.3, 4)], abs=1e-5)
    assert t.variables == ("u", "v", "speed") and t.channel.tolist() == [0, 2]


def test_mistakes_are_named(tmp_path):
    s = truth()
    path = tmp_path / "list.csv"
    for text, said in (
        ("station,lat,lon\nA,50,8\nA,51,9\n", "two stations 'A'"),
        ("station,lat,lon\nA,95,8\n", "station 'A' at latitude 95"),
        ("name,lat,lon\nA,5,8\n", "needs the columns station, lat and lon"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            draw(Stations(network="stations", path=str(path)), s, start=0, stop=1)
    with pytest.raises(BadInput, match="unknown variable 'w'"):
        draw(CoarseGrid(network="grid", channels=["w"]), s, start=0, stop=1)
    with pytest.raises(BadInput, match="no clock to travel by"):
        draw(Tracks(network="tracks"), Truth(**vars(s) | {"time_units": "1"}), start=0, stop=1)
    with pytest.raises(BadInput, match="no frame is observed"):
        draw(CoarseGrid(network="grid", gaps=[(0, 12)]), s, start=0, stop=12)
    with pytest.raises(ValueError, match="either 'swath_km' or 'scan_angle'"):
        Orbit(network="orbit")
    with pytest.raises(ValueError, match="no stations with a memory"):
        RandomPoints(noise=Noise(persistence=0.5))
