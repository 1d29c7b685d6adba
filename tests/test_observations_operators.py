r"""Observation operators: exact on known fields, adjoint to 1e-12, the same in numpy and torch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hpcinv.errors import BadInput
from hpcinv.observations.config import Derived, Forward
from hpcinv.observations.operators import Operator
from hpcinv.observations.stencils import horizontal, nearest_points
from hpcinv.observations.table import ObservationTable

CHANNELS = ["u", "v", "q_1000", "q_850", "q_500", "t_1000", "t_500"]


def store(lat=None, lon=None, mask=None, L=4):
    lat = np.linspace(-85, 85, 18) if lat is None else lat
    lon = np.arange(0, 360, 15.0) if lon is None else lon
    return SimpleNamespace(
        channels=CHANNELS,
        units=["m s-1"] * 2 + ["kg kg-1"] * 3 + ["K"] * 2,
        grid=(len(lat), len(lon)),
        coords={"lat": lat, "lon": lon},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=10 + 6.0 * np.arange(L),
        mask=mask,
    )


DERIVED = (
    Derived(name="speed", units="m s-1", of=("u", "v"), operator="speed"),
    Derived(name="tcw", units="kg m-2", of=("q_1000", "q_850", "q_500"), operator="column",
            levels=(1000, 850, 500), scale=100 / 9.80665),
    Derived(name="q", units="kg kg-1", of=("q_1000", "q_850", "q_500"), operator="level",
            levels=(1000, 850, 500), logarithmic=True),
    Derived(name="capped", units="m s-1", of=("u",), operator="saturation", low=-1, high=0.5),
    Derived(name="mine", units="K", of=("t_1000", "t_500"), operator=f"{__name__}:thickness"),
)  # fmt: skip


def thickness(t):
    return torch.log(t[..., 0].square() + 1) * t[..., 1]


def table(s, n=60, forward=Forward(derived=DERIVED), seed=0, channel=None):  # noqa: B008
    rng = np.random.default_rng(seed)
    lat, lon = rng.uniform(-80, 80, n), rng.uniform(-180, 360, n)
    point, _ = nearest_points(s, lat, lon)
    many = len(CHANNELS) + len(forward.derived)
    time = rng.uniform(10, 10 + 6 * (len(s.time) - 1), n)
    return ObservationTable(
        frame=np.rint((time - 10) / 6).astype(int),
        channel=rng.integers(0, many, n) if channel is None else np.full(n, channel),
        point=point, value=rng.standard_normal(n), error=np.ones(n), lat=lat, lon=lon, time=time,
        station=np.full(n, ""), channels=tuple(CHANNELS), units=tuple(s.units),
        time_units="hours since 2000-01-01", level=rng.uniform(500, 1000, n), forward=forward,
    )  # fmt: skip


@pytest.mark.parametrize("time", ["nearest", "linear"])
@pytest.mark.parametrize("space", ["nearest", "bilinear", "block"])
def test_the_adjoint_and_both_libraries_agree(space, time):
    s, rng = store(), np.random.default_rng(1)
    forward = Forward(space=space, time=time, derived=DERIVED)
    op = Operator(table(s, forward=forward), s)
    x = rng.standard_normal((4, len(CHANNELS), *s.grid))
    rows = op.rows(range(4))
    assert len(rows) == 60
    piece = op.piece(rows)

    def see(z):
        return piece(z.reshape(-1, len(CHANNELS) * s.grid[0] * s.grid[1])[
            torch.as_tensor(piece.frame),
            torch.as_tensor(piece.channel * s.grid[0] * s.grid[1] + piece.point),
        ])  # fmt: skip

    z = torch.from_numpy(x).requires_grad_()
    y = see(z)
    assert np.abs(op.see(lambda f: x[f], range(4)) - y.detach().numpy()).max() < 1e-12
    # ⟨A' dx, dy⟩ = ⟨dx, A'ᵀ dy⟩, with A' from forward-mode differences of the graph's own jvp
    dx, dy = torch.randn_like(z), torch.randn_like(y)
    _, forward_product = torch.func.jvp(see, (z.detach(),), (dx,))
    (adjoint,) = torch.autograd.grad(y, z, dy)
    assert abs((forward_product * dy).sum() - (adjoint * dx).sum()) < 1e-12 * len(rows)
    # and the derivative is right: central differences
    h = 1e-6
    numeric = (see(z.detach() + h * dx) - see(z.detach() - h * dx)) / (2 * h)
    assert (numeric - forward_product).abs().max() < 1e-5


def test_bilinear_is_exact_on_linear_fields_across_date_line_and_pole():
    s = store(L=1)
    lat, lon = np.meshgrid(s.coords["lat"], s.coords["lon"], indexing="ij")
    at = np.array([[12.3, 359.0], [-40.0, -7.0], [3.0, 181.0], [84.9, 10.0]])
    point, inside = nearest_points(s, at[:, 0], at[:, 1])
    assert inside.all()
    p, w = horizontal(s, "bilinear", 1, point, at[:, 0], at[:, 1])
    assert np.abs((lat.reshape(-1)[p] * w).sum(1) - at[:, 0]).max() < 1e-12
    east = np.exp(1j * np.deg2rad(lon.reshape(-1)))[p]  # around the circle between neighbours
    assert np.abs(np.angle((east * w).sum(1) * np.exp(-1j * np.deg2rad(at[:, 1])))).max() < 2e-3
    # beyond the last circle, at the pole itself: the mean of the point and its opposite
    for descending in (False, True):
        g = store(lat=s.coords["lat"][::-1] if descending else None, L=1)
        la = np.repeat(g.coords["lat"], 24)
        for pole in (90.0, -90.0):
            place = (np.array([pole]), np.array([30.0]))
            p, w = horizontal(g, "bilinear", 1, nearest_points(g, *place)[0], *place)
            used = w[0] > 0
            assert sorted(g.coords["lon"][p[0][used] % 24]) == [30, 210]
            assert np.allclose(w[0][used], 0.5) and (la[p[0][used]] == np.sign(pole) * 85).all()
    # a regional grid ends at its edge
    g = store(lat=np.linspace(40, 50, 6), lon=np.linspace(-20, 15, 8), L=1)
    place = (np.array([50.5]), np.array([-20.5]))
    p, w = horizontal(g, "bilinear", 1, nearest_points(g, *place)[0], *place)
    assert p[0][w[0] > 0].tolist() == [5 * 8] and w.sum() == 1


def test_a_wind_across_the_pole_keeps_its_direction():
    r"""A uniform flow over the pole: its components turn with the meridian, its speed does not."""
    s = store(L=1)
    s.standard_names = ["eastward_wind", "northward_wind", *[None] * 5]
    lam = np.deg2rad(s.coords["lon"])
    x = np.zeros((len(CHANNELS), *s.grid))
    x[0], x[1] = -7 * np.sin(lam), -7 * np.cos(lam)  # along the meridian of 0 degrees, at 90 N
    lat, lon = np.array([88.0, 89.5, 90.0]), np.array([30.0, 105.0, 225.0])
    n, many = len(lat), (0, 1, len(CHANNELS))
    point = nearest_points(s, lat, lon)[0]
    t = ObservationTable(
        frame=np.zeros(3 * n), channel=np.repeat(many, n), point=np.tile(point, 3),
        value=np.zeros(3 * n), error=np.ones(3 * n), lat=np.tile(lat, 3), lon=np.tile(lon, 3),
        time=np.full(3 * n, 10.0), station=np.full(3 * n, ""), channels=tuple(CHANNELS),
        units=tuple(s.units), time_units="hours since 2000-01-01",
        forward=Forward(space="bilinear", derived=DERIVED),
    )  # fmt: skip
    op = Operator(t, s)
    y, rows = op.see(lambda f: x, [0]), op.rows([0])
    angle = np.deg2rad(t.lon[rows])
    want = np.select([t.channel[rows] == 0, t.channel[rows] == 1],
                     [-7 * np.sin(angle), -7 * np.cos(angle)], 7.0)  # fmt: skip
    assert np.abs(y - want).max() < 1e-9
    # scalars are what they were
    x[2] = 5.0
    q = Operator(replace(t, channel=np.full(3 * n, 2)), s)
    assert np.abs(q.see(lambda f: x, [0]) - 5).max() < 1e-12


def test_blocks_are_area_averages_inside_the_mask():
    mask = np.ones((18, 24), bool)
    mask[9, 3] = False
    s = store(mask=mask, L=1)
    p, w = horizontal(s, "block", 3, np.array([9 * 24 + 2]), np.zeros(1), np.zeros(1))
    weight = np.zeros((18, 24))
    np.add.at(weight.reshape(-1), p[0], w[0])
    want = np.zeros((18, 24))
    want[8:11, 1:4] = np.cos(np.deg2rad(s.coords["lat"][8:11]))[:, None]
    want[9, 3] = 0
    assert np.abs(weight - want / want.sum()).max() < 1e-15


def expected(name, u, level):
    if name == "speed":
        return np.hypot(u[:, 0], u[:, 1])
    if name == "tcw":
        return 100 / 9.80665 * (75 * u[:, 0] + 250 * u[:, 1] + 175 * u[:, 2])
    if name == "q":
        at = np.log([500, 850, 1000])
        return [np.interp(np.log(a), at, b[::-1]) for a, b in zip(level, u, strict=True)]
    if name == "capped":
        return np.clip(u[:, 0], -1, 0.5)
    return np.log(u[:, 0] ** 2 + 1) * u[:, 1]


def test_heads_are_what_they_say():
    s = store()
    x = np.random.default_rng(3).standard_normal((4, len(CHANNELS), *s.grid))
    for k, d in enumerate(DERIVED):
        t = table(s, channel=len(CHANNELS) + k, n=20)
        op = Operator(t, s)
        rows = op.rows(range(4))
        of = [CHANNELS.index(c) for c in d.of]
        flat = x.reshape(4, len(CHANNELS), -1)
        u = np.stack([flat[t.frame[rows], c, t.point[rows]] for c in of], -1)
        want = expected(d.name, u, t.level[rows])
        assert np.abs(op.see(lambda f: x[f], range(4)) - want).max() < 1e-10, d.name


def test_interpolation_in_time_sees_two_frames():
    s = store()
    x = np.broadcast_to(s.time[:, None, None, None], (4, len(CHANNELS), *s.grid))
    t = table(s, channel=0, forward=Forward(time="linear"))
    op = Operator(t, s)
    assert np.abs(op.see(lambda f: x[f], range(4)) - t.time[op.rows(range(4))]).max() < 1e-12


def test_mistakes_are_named():
    s = store()
    t = table(s, channel=len(CHANNELS) + 2)
    t.level[0] = 400.0
    with pytest.raises(BadInput, match="level 400 of 'q', between 500 and 1000"):
        op = Operator(t, s)
        op.piece(op.rows(range(4)))
    d = Derived(name="s", units="m s-1", of=("u", "w"), operator="speed")
    with pytest.raises(BadInput, match="'s' is made of the unknown 'w'"):
        Operator(table(s, forward=Forward(derived=(d,)), channel=0), s)
    for bad in ({"operator": "sum"}, {"operator": "column"}, {"operator": "saturation"},
                {"operator": "level", "levels": (1, 2)}):  # fmt: skip
        with pytest.raises(ValueError):
            Derived(name="s", units="1", of=("u",), **bad)
    with pytest.raises(ValueError, match="an odd number has a middle"):
        Forward(space="block", cells=4)


def test_the_table_keeps_how_it_sees(tmp_path):
    t = table(store(), forward=Forward(space="bilinear", derived=DERIVED))
    t.save(tmp_path / "t.nc")
    again = ObservationTable.load(tmp_path / "t.nc")
    assert again == t and again.forward == t.forward and np.array_equal(again.level, t.level)
    assert again.variables[-1] == "mine" and not again.plain
