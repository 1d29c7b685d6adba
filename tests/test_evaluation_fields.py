r"""Scores of whole fields, exactly: energy, spectra, physics, reliability, flatness."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.evaluation import energy as energy_module
from hpcinv.evaluation.crps import crps
from hpcinv.evaluation.flatness import contrasts, flatness
from hpcinv.evaluation.physics import DENSITY, DRY_AIR, OMEGA, checks
from hpcinv.evaluation.reliability import reliability
from hpcinv.evaluation.spectra import Cartesian, Spherical, spectrum
from hpcinv.models.sphere import EARTH_RADIUS_KM, legendre

RADIUS = 1e3 * EARTH_RADIUS_KM


def globe(lat, lon, channels=("u", "v"), units=("m s-1", "m s-1"), names=None):
    return SimpleNamespace(
        grid=(len(lat), len(lon)), mask=None, channels=list(channels), units=list(units),
        coords={"lat": lat, "lon": lon}, coord_attrs={},
        standard_names=list(names or ("eastward_wind", "northward_wind")),
    )  # fmt: skip


def energy(x, y, w, size=5):
    r"""Of a field in blocks of some points."""

    def blocks(*some):
        for a in range(0, len(y), size):
            at = slice(a, a + size)
            yield [x[r.start : r.stop, at] for r in some], y[at], w[at]

    return energy_module.energy(blocks, len(x), w.sum())


@pytest.mark.parametrize("tile", [2, 3, 512])
def test_the_energy_score_is_the_fair_crps_of_one_number_and_proper(tile, monkeypatch):
    monkeypatch.setattr(energy_module, "TILE", tile)
    for members, y in (([0, 4, 3, 7], 2.0), ([1, -1, 2, 4], 3.0), ([0, 1, 4], 1.0)):
        x = np.array(members, float)
        assert energy(x[:, None], np.array([y]), np.ones(1)) == pytest.approx(
            float(crps(x, np.array(y))), abs=1e-14
        )
    rng = np.random.default_rng(0)
    w = rng.random(12)
    x, y = rng.standard_normal((6, 12)), rng.standard_normal(12)
    same = np.concatenate([x, x[:2] + 1e-9])  # near twins, whose distance must not be rounded off
    norm = lambda d: np.sqrt((w * d**2).sum(-1) / w.sum())  # noqa: E731
    M = len(same)
    want = norm(same - y).mean() - norm(same[:, None] - same).sum() / (2 * M * (M - 1))
    assert energy(same, y, w) == pytest.approx(want, abs=1e-14)
    # members that vary together, as the truth does, beat ones with the same margins that do not
    together, apart = [], []
    for _ in range(400):
        y = np.full(12, rng.standard_normal())
        together.append(energy(np.tile(rng.standard_normal((8, 1)), 12), y, np.ones(12)))
        apart.append(energy(rng.standard_normal((8, 12)), y, np.ones(12)))
    assert np.mean(together) < 0.9 * np.mean(apart)


@pytest.mark.parametrize("rows", ["even", "with poles", "gauss"])
def test_harmonics_have_power_in_their_own_degree_only(rows):
    H, W = 24, 48
    lat = {
        "even": -90 + (np.arange(H) + 0.5) * 180 / H,
        "with poles": np.linspace(90, -90, H),
        "gauss": np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(H)[0])),
    }[rows]
    lon = np.arange(W) * 360 / W + 3
    s = spectrum(globe(lat, lon))
    assert isinstance(s, Spherical) and s.waves[-1] == (H - 1) // 2
    p = legendre(s.waves[-1], np.sin(np.deg2rad(lat)))
    fields, want = [], []
    for n, m in ((0, 0), (1, 0), (3, 2), (7, 7), (11, 4)):
        fields.append(p[n, m][:, None] * np.cos(m * np.deg2rad(lon) + 0.4))
        want.append(np.zeros(len(s.waves)))
        want[-1][n] = np.cos(0.4) ** 2 if m == 0 else 1.0  # harmonics of unit mean square
    assert np.abs(s.power(np.stack(fields)) - want).max() < 1e-10
    total = s.power(np.sum(fields, 0)[None])[0]
    assert np.abs(total - np.sum(want, 0)).max() < 1e-10  # orthogonal
    turned = Spherical(lat, lon, swapped=True)
    assert np.abs(turned.power(np.stack(fields).swapaxes(1, 2)) - want).max() < 1e-10


def test_bands_of_a_plane_add_up_and_hold_their_cosines():
    s = spectrum(globe(np.linspace(40, 50, 16), np.linspace(0, 20, 32)))
    assert isinstance(s, Cartesian)
    x = np.random.default_rng(0).standard_normal((3, 16, 32))
    assert np.abs(s.power(x).sum(1) - np.square(x).mean((1, 2))).max() < 1e-12
    i, j = np.meshgrid(np.arange(16) + 0.5, np.arange(32) + 0.5, indexing="ij")
    wave = np.cos(np.pi * 3 * i / 16) * np.cos(np.pi * 8 * j / 32)
    power = s.power(wave[None])[0]
    assert power[5] == pytest.approx(0.25, abs=1e-12)  # 16 sqrt((3/16)^2 + (8/32)^2) = 5
    assert power.sum() == pytest.approx(0.25, abs=1e-12)
    line = Cartesian((40,))
    assert line.power(np.cos(np.pi * 6 * (np.arange(40) + 0.5) / 40)[None])[0, 6] == (
        pytest.approx(0.5)
    )
    masked = globe(np.linspace(40, 50, 16), np.linspace(0, 20, 32))
    masked.mask = np.zeros((16, 32), bool)
    assert spectrum(masked) is None


def test_members_that_are_too_smooth_lose_small_scales():
    lat, lon = -90 + (np.arange(20) + 0.5) * 9, np.arange(40) * 9.0
    s = spectrum(globe(lat, lon))
    rng = np.random.default_rng(0)
    y = rng.standard_normal((1, 20 * 40))
    x = np.repeat(y[None], 3, 0).reshape(3, 20, 40)
    x = (x + np.roll(x, 1, 2) + np.roll(x, -1, 2)) / 3
    truth, members, mean = s.three(x.reshape(3, 1, -1), y, 3)[:, 0]
    assert np.abs(members - mean).max() < 1e-12  # three equal members
    assert 0.8 < members[1] / truth[1] < 1.05 and members[-1] < 0.75 * truth[-1]


def test_solid_rotation_does_not_diverge_and_geostrophic_wind_is_in_balance():
    lat, lon = np.linspace(-88.75, 88.75, 72), np.arange(144) * 2.5
    names = ("eastward_wind", "northward_wind", "air_pressure_at_mean_sea_level")
    store = globe(lat, lon, ("u", "v", "p"), ("m s-1", "m s-1", "Pa"), names)
    c = checks(store)
    assert c.names == ["divergence", "vorticity", "wind", "geostrophic imbalance"]
    phi, lam = np.deg2rad(lat)[:, None], np.deg2rad(lon)[None]
    rate = 20 / RADIUS  # a westerly of 20 m/s at the equator
    u, v = np.broadcast_to(20 * np.cos(phi), (72, 144)), np.zeros((72, 144))
    # f u = -dp/dphi / (rho a) has the pressure -rho a Omega 20 sin^2 phi
    p = 1e5 - DENSITY * RADIUS * OMEGA * 20 * np.sin(phi) ** 2 + 0 * lam
    div, vort, wind, off = np.sqrt(c.of(np.stack([u, v, p])))
    area = np.cos(phi[1:-1, 0])
    want = np.sqrt((area * (2 * rate * np.sin(phi[1:-1, 0])) ** 2).sum() / area.sum())
    assert div < 1e-12 and vort == pytest.approx(want, rel=2e-3)
    assert off < 2e-3 * wind and wind > 10
    # a potential flow, v = grad sin(phi) cos(lambda) cos(phi)-like: its divergence is -l(l+1)/a^2
    l2 = np.sin(phi) * np.cos(phi) * np.cos(lam)  # degree 2
    u = -np.sin(phi) * np.sin(lam) + 0 * l2
    v = np.cos(2 * phi) * np.cos(lam)
    got = c.of(np.stack([u, v, p]))[:2]
    inner = np.broadcast_to(np.cos(phi), l2.shape)[1:-1]
    want = (inner * (6 / RADIUS * l2[1:-1]) ** 2).sum() / inner.sum()
    assert got[0] == pytest.approx(want, rel=5e-3) and got[1] < 1e-5 * got[0]
    # eastwards where it should be northwards: no balance
    assert c.of(np.stack([v, u, p]))[3] > 0.5 * c.of(np.stack([v, u, p]))[2]
    assert checks(globe(lat, lon, names=("air_temperature", "x"))) is None


def test_a_column_whose_temperature_is_linear_in_the_logarithm_of_pressure_is_in_balance():
    lat, lon = np.linspace(-80, 80, 9), np.arange(8) * 45.0
    levels = (1000.0, 700, 500, 250)
    names = [f"{v}_{p:.0f}" for v in ("z", "t") for p in levels]
    kinds = ["geopotential"] * 4 + ["air_temperature"] * 4
    c = checks(globe(lat, lon, names, ["m2 s-2"] * 4 + ["K"] * 4, kinds))
    assert c.names[::2] == [
        "thickness 500 to 250",
        "thickness 700 to 500",
        "thickness 1000 to 700",
    ]
    h = np.log(1000 / np.array(levels))[:, None, None]
    base = 280 + np.random.default_rng(0).standard_normal((1, 9, 8))
    t = base - 40 * h
    z = DRY_AIR * (base * h - 20 * h**2)  # the integral of R T over ln p
    found = np.sqrt(c.of(np.concatenate([z, t])))
    assert found[1::2].max() < 1e-6 and found[4] == pytest.approx(2830, rel=0.05)
    warm = np.sqrt(c.of(np.concatenate([z, t + 3])))
    want = [
        DRY_AIR / 9.80665 * 3 * np.log(a / b) for a, b in ((500, 250), (700, 500), (1000, 700))
    ]
    assert warm[1::2] == pytest.approx(want, rel=1e-9)


def test_budgets_are_the_changes_of_the_globes_means():
    lat, lon = np.linspace(-87.5, 87.5, 36), np.arange(8) * 45.0
    levels = (1000.0, 700, 500)
    names = [f"{v}_{p:.0f}" for v in ("u", "v", "t") for p in levels]
    kinds = np.repeat(["eastward_wind", "northward_wind", "air_temperature"], 3)
    units = np.repeat(["m s-1", "m s-1", "K"], 3)
    make = lambda lat: globe(  # noqa: E731
        lat, lon, [*names, "p"], [*units, "Pa"], [*kinds, "surface_air_pressure"]
    )
    c = checks(make(lat))
    assert c.names[-2:] == ["change of air mass", "change of energy"]
    assert c.units[-2:] == ["kg m-2", "J m-2"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 36, 8))
    x[6:9] += 280
    # 1 Pa more everywhere; 1 K more at 700 hPa, whose weight is half of 1000 to 500 hPa
    more = x.copy()
    more[9] += 1
    more[7] += 1
    found = np.sqrt(c.of(more, x)[-2:])
    assert found == pytest.approx([1 / 9.80665, 1004.7 * 25000 / 9.80665], rel=1e-9)
    # a wave along a circle of latitude moves mass and changes none
    wave = x.copy()
    wave[9] += 100 * np.cos(np.deg2rad(lon))
    assert c.of(wave, x)[-2] < 1e-20 and (c.of(x)[-2:] == 0).all()
    # kinetic energy: from rest to 10 m/s at all levels, over 500 hPa
    rest, moving = x.copy(), x.copy()
    rest[:6], moving[:3], moving[3:6] = 0, 6, 8
    assert np.sqrt(c.of(moving, rest)[-1]) == pytest.approx(50 * 50000 / 9.80665, rel=1e-6)
    # truth keeps its mass, members do not; and a region has no budget
    flat = lambda a: a.reshape(*a.shape[:-2], -1)  # noqa: E731
    told = c.both([(flat(more), flat(x)), (flat(wave), flat(x))], 2, flat(x), flat(x))
    assert told[0, -2] == 0 and told[1, -2] == pytest.approx(0.5 / 9.80665**2)
    assert "change of energy" not in checks(make(lat[10:])).names


def test_brier_and_its_parts_agree_with_the_scores_package_and_the_definition():
    import xarray as xr
    from scores.probability import brier_score

    rng = np.random.default_rng(0)
    M, n = 5, 4000
    chance = rng.random(n)
    count = rng.binomial(M, chance)
    hit = rng.random(n) < chance
    w = rng.random(n)
    found = reliability(np.bincount(count, w, M + 1), np.bincount(count, w * hit, M + 1), M)
    theirs = brier_score(
        xr.DataArray(count / M, dims="n"), xr.DataArray(hit.astype(float), dims="n"),
        weights=xr.DataArray(w / w.mean(), dims="n"),
    )  # fmt: skip
    assert found["brier"] == pytest.approx(float(theirs), abs=1e-12)
    parts = found["reliability"] - found["resolution"] + found["uncertainty"]
    assert found["brier"] == pytest.approx(parts, abs=1e-12)
    # the fair score of a perfect ensemble is that of its chances, E p (1 - p), for any M
    for many in (2, 20):
        k = rng.binomial(many, chance)
        fair = reliability(np.bincount(k, None, many + 1), np.bincount(k, hit, many + 1), many)
        assert fair["fair_brier"] == pytest.approx(1 / 6, abs=0.015)
    assert reliability(np.array([1.0, 0, 1]), np.array([0.0, 0, 1]), 2)["brier"] == 0


def test_the_flatness_test_keeps_its_level_in_spite_of_autocorrelation():
    # ranks of 9 members of an AR(1) process of 60 frames
    def p_of(rng, shift=0.0, width=1.0, L=60, M=9, r=0.5, points=4):
        z = rng.standard_normal((M + 1, L, points))
        for t in range(1, L):
            z[:, t] = r * z[:, t - 1] + np.sqrt(1 - r**2) * z[:, t]
        rank = (width * z[:M] + shift < z[M]).sum(0)
        h = np.stack([np.bincount(row, minlength=M + 1) for row in rank]).astype(float)
        return flatness(h) or {"p": 1.0, "slope": 0.0, "bow": 0.0}  # too few frames to tell

    rng = np.random.default_rng(0)
    flat = np.array([p_of(rng)["p"] for _ in range(400)])
    assert 0.01 < (flat < 0.05).mean() < 0.08  # 400 repeats: 0.05 ± 0.011
    off = [p_of(rng, shift=0.8) for _ in range(30)]
    assert np.mean([f["p"] < 0.05 for f in off]) > 0.9
    assert np.median([f["slope"] for f in off]) < -3
    narrow = [p_of(rng, width=0.4) for _ in range(30)]
    assert np.mean([f["p"] < 0.05 for f in narrow]) > 0.9
    assert np.median([f["bow"] for f in narrow]) > 3
    assert np.abs(contrasts(10) @ contrasts(10).T - np.eye(2)).max() < 1e-12
