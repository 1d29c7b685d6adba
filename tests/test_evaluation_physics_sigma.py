"""Physical checks on sigma levels, against winds and budgets in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.evaluation.physics import DRY_AIR, GRAVITY, HEAT, OMEGA, checks
from hpcinv.models.sphere import EARTH_RADIUS_KM

RADIUS = 1e3 * EARTH_RADIUS_KM
SIGMA = (0.1, 0.3, 0.5, 0.7, 0.9)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
LAT, LON = np.degrees(np.arcsin(NODES)), np.arange(64) * 360 / 64
PHI, LAM = np.radians(LAT)[:, None], np.radians(LON)[None]


def store(**change):
    r"""The store of a dry atmosphere on a Gaussian grid, whose rows are not evenly spaced."""
    names = [f"{v}{k + 1}" for v in "uvt" for k in range(5)]
    kinds = np.repeat(["eastward_wind", "northward_wind", "air_temperature"], 5)
    fields = {
        "grid": (32, 64), "mask": None, "channels": [*names, "ps"],
        "units": ["m/s"] * 10 + ["K"] * 5 + ["hPa"],
        "coords": {"lat": LAT, "lon": LON}, "coord_attrs": {},
        "standard_names": [*kinds, "surface_air_pressure"],
        "attributes": {"sigma": {n: SIGMA[int(n[1:]) - 1] for n in names}},
        "weights": lambda: np.broadcast_to(WEIGHTS[:, None], (32, 64)),
    }  # fmt: skip
    return SimpleNamespace(**fields | change)


def state(u, v, t, ps):
    parts = [np.broadcast_to(a, (5, 32, 64)) for a in (u, v, t)]
    return np.concatenate([*parts, np.broadcast_to(ps, (1, 32, 64))])


def of(c, x, what):
    found = dict(zip(c.names, np.sqrt(c.of(x)), strict=True))
    return np.array([found[f"{what} at sigma {s:g}"] for s in SIGMA])


def test_a_westerly_over_an_isothermal_ground_is_in_balance_with_its_pressure():
    c = checks(store())
    u = 20 * np.cos(PHI)
    ps = 1000 * np.exp(-RADIUS * OMEGA * 20 * np.sin(PHI) ** 2 / (DRY_AIR * 280))
    x = state(u, 0, 280, ps)
    assert (of(c, x, "geostrophic imbalance") < 0.01 * of(c, x, "wind")).all()
    assert of(c, x, "divergence").max() < 1e-12
    inner = WEIGHTS[1:-1]
    want = np.sqrt((inner * (40 / RADIUS * np.sin(PHI[1:-1, 0])) ** 2).sum() / inner.sum())
    assert of(c, x, "vorticity") == pytest.approx([want] * 5, rel=0.01)
    # the same wind from the south has no such pressure
    off = of(c, state(0, u, 280, ps), "geostrophic imbalance")
    assert (off > of(c, x, "wind")).all()


def test_a_wave_of_pressure_balances_a_wind_from_the_south():
    c = checks(store())
    log = 0.01 * np.cos(3 * LAM) * np.cos(PHI) ** 3
    f = 2 * OMEGA * np.sin(PHI)
    v = -DRY_AIR * 280 * 0.03 * np.sin(3 * LAM) * np.cos(PHI) ** 2 / (RADIUS * f)
    u = DRY_AIR * 280 * 0.03 * np.cos(3 * LAM) * np.cos(PHI) ** 2 * np.sin(PHI) / (RADIUS * f)
    x = state(u, v, 280, 1000 * np.exp(log))
    assert (of(c, x, "geostrophic imbalance") < 0.03 * of(c, x, "wind")).all()


def test_thermal_wind_grows_with_height_as_the_temperature_says():
    c = checks(store())
    t = 280 - 20 * np.sin(PHI) ** 2
    u = -np.log(np.array(SIGMA))[:, None, None] * DRY_AIR * 20 * np.cos(PHI) / (OMEGA * RADIUS)
    x = state(u, 0, t, 1000.0)
    assert (of(c, x, "geostrophic imbalance") < 0.01 * of(c, x, "wind")).all()
    assert of(c, x, "wind")[0] > 15 * of(c, x, "wind")[4] > 0
    # levels upside down are no thermal wind
    off = of(c, state(u[::-1], 0, t, 1000.0), "geostrophic imbalance")
    assert (off[[0, 4]] > 0.5 * of(c, x, "wind")[0]).all()


def test_budgets_are_those_of_the_column():
    c = checks(store())
    assert c.names[-2:] == ["change of air mass", "change of energy"]
    x = state(0, 0, 280, 1000.0)
    more = state(0, 0, 280, 1001.0)
    mass = 100 / GRAVITY
    assert np.sqrt(c.of(more, x)[-2:]) == pytest.approx([mass, mass * HEAT * 280], rel=1e-9)
    wave = state(0, 0, 280, 1000 + 5 * np.cos(2 * LAM))
    assert c.of(wave, x)[-2] < 1e-16 and (c.of(wave)[-2:] == 0).all()
    # one level of five from rest to 10 m/s
    moving = x.copy()
    moving[2], moving[7] = 6, 8
    assert np.sqrt(c.of(moving, x)[-1]) == pytest.approx(0.2 * 1e5 / GRAVITY * 50, rel=1e-6)


def test_what_lacks_a_part_has_no_checks():
    assert checks(store(units=["m/s"] * 10 + ["K"] * 5 + ["bar"])) is None
    assert checks(store(standard_names=[None] * 16)) is None
    some = store()
    del some.attributes["sigma"]["t3"]
    assert checks(some) is None
    assert checks(store(coords={"lat": LAT, "lon": LON / 4})) is None
