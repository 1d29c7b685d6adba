"""The shelf-basin model: what transport conserves, what mixing does, what a frame depends on."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr

from hpcinv.errors import BadInput
from hpcinv.kinds.simulate import Simulate
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.black_sea import BlackSea, saturation
from hpcinv.simulators.black_sea_transport import Cells, advect, diffuse, sink
from hpcinv.simulators.dynamics import trajectories

# A year in 12 frames of 10 steps of three days.
SHORT = {"days": 30, "spin_up": 12, "substeps": 10}


@pytest.fixture(scope="module")
def sea():
    return BlackSea(rows=8, columns=10, **SHORT)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def test_transport_keeps_volume_and_mass(sea):
    c = sea.cells
    grid = c.bottom.shape
    fluxes = c.flow(1e6 * draw(2, grid[0] - 1, grid[1] - 1), (draw(2, 1, 1), -draw(2, 1, 1)))
    assert max(float(f.abs().max()) for f in fluxes) > 1e4
    one = c.wet.expand(2, 1, *c.wet.shape)
    # A flow without divergence leaves a constant alone; only rounding is left.
    assert (advect(one, fluxes, c, 86400.0) - one).abs().max() < 1e-12
    x = draw(2, 3, *c.wet.shape) * c.wet
    before = (x * c.volume).sum((2, 3, 4))
    x = diffuse(advect(x, fluxes, c, 8640.0), 1e-3 * draw(2, 4, *grid), c, 86400.0)
    torch.testing.assert_close((x * c.volume).sum((2, 3, 4)), before, rtol=1e-12, atol=0)
    assert x.min() >= 0 and x.max() <= 1  # upwind: nothing new below or above what there was
    assert not (x * (1 - c.wet)).any()


def test_a_step_that_empties_a_cell_is_told():
    # A closed channel of depth H, 8 m levels: Q in and Q out of cells of volume dx dy H.
    c = Cells(torch.full((2,), 8.0).double(), torch.full((3, 4), 2), 1e4, 2e4)
    psi = torch.full((1, 2, 3), 1e5).double()
    # Round the inner corners: corner cells take Q through one side, with dx dy H = 3.2e9 m3.
    assert c.emptied(psi, 86400.0) == pytest.approx(1e5 * 86400 / (1e4 * 2e4 * 16))


def test_mixing_is_that_of_the_diffusion_equation():
    # A cosine of a closed column decays by exp(-k (pi / H)^2 t).
    n, depth, k, t = 40, 80.0, 1e-3, 4e5
    c = Cells(torch.full((n,), depth / n).double(), torch.full((1, 1), n), 1e4, 1e4)
    z = (torch.arange(n).double() + 0.5) * depth / n
    x = torch.cos(math.pi * z / depth).reshape(1, 1, n, 1, 1)
    y, steps = x, 400
    for _ in range(steps):
        y = diffuse(y, torch.full((1, n - 1, 1, 1), k).double(), c, t / steps)
    exact = math.exp(-k * (math.pi / depth) ** 2 * t)
    assert 0.4 < exact < 0.6
    torch.testing.assert_close(y, exact * x, rtol=0, atol=2e-3)


def test_what_sinks_arrives(sea):
    c = sea.cells
    h = c.thickness[:, None, None]
    source = draw(2, *c.wet.shape) * c.wet
    found = sink(source, c, 20.0)
    torch.testing.assert_close((found * h).sum(1), (source * h).sum(1), rtol=1e-12, atol=1e-14)
    # One unit from the top of a column of five: exp(-d / 20) of it passes the depth d below.
    one = torch.zeros_like(source[:1])
    one[:, 0] = 1 / 8.0
    deep = c.bottom == 5
    found = (sink(one, c, 20.0) * h)[0][:, deep][:, 0]
    left = [math.exp(-d / 20) for d in (0, 8, 20, 40)]
    exact = [0, *(a - b for a, b in pairwise(left)), left[-1]]
    np.testing.assert_allclose(found, exact, atol=1e-12)


def test_life_moves_nitrogen_and_makes_none(sea):
    c = sea.cells
    x = draw(2, 5, *c.wet.shape, seed=1) * c.wet * torch.tensor([20, 19, 8, 2, 300.0])[
        :, None, None, None
    ].double()  # fmt: skip
    x[:, 3] = x[:, 3].clamp(min=0.05) * c.wet  # above the seed, which is a source
    factors = {n: torch.ones(2, 1, 1).double() for n in ("growth", "export")}
    y = sea._life(x, torch.tensor(-1.0).double(), factors, 1.0)
    total = lambda a: ((a[:, 2] + a[:, 3]) * c.volume).sum((1, 2, 3))  # noqa: E731
    torch.testing.assert_close(total(y), total(x), rtol=1e-12, atol=0)
    assert (y[:, 3] - x[:, 3]).abs().max() > 0.05


def test_saturation_is_garcia_and_gordons():
    # Their check value: 6.315 cm3 dm-3 at 10 degC and salinity 35.
    found = saturation(torch.tensor(10.0).double(), torch.tensor(35.0).double())
    assert float(found) == pytest.approx(6.315 * 44.6596, rel=2e-4)


def test_a_frame_is_a_function_of_the_one_before_and_the_key(sea):
    frames = list(trajectories(sea, Key(0, [0, 1]), 3))
    alone = list(trajectories(sea, Key(0, [1]), 3))
    for a, b in zip(frames, alone, strict=True):
        torch.testing.assert_close(a[1:], b, rtol=0, atol=0)
    again = sea.step(frames[1], Key(0, [0, 1]).again(2))
    torch.testing.assert_close(again, frames[2], rtol=1e-12, atol=1e-12)
    assert not torch.equal(frames[2][0], frames[2][1])
    x = torch.stack(frames)
    names = list(sea.state.channels)
    assert x[:, :, names.index("o2_1") : -1].min() >= 0
    # Bottom values go on below the bottom.
    shallow = (sea.cells.bottom == 4).numpy()
    four, five = (
        x[:, :, names.index(n)][:, :, torch.from_numpy(shallow)] for n in ("o2_4", "o2_5")
    )
    assert torch.equal(four, five) and four.std() > 1


def test_another_nature_begins_where_it_says():
    d = BlackSea(rows=8, columns=10, **SHORT, nature={"first": 1, "river": 3.0})
    same = BlackSea(rows=8, columns=10, **SHORT)
    a, b = d.initial(Key(0, [0, 1])), same.initial(Key(0, [0, 1]))
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)
    salt = list(d.state.channels).index("salt_1")
    assert (a - b)[1, salt].sum() < -0.1  # three times the rivers


def test_heights_of_a_file(tmp_path):
    lat, lon = np.arange(40.0, 48), np.arange(27.0, 43)
    z = np.where(lat[:, None] < 45.2, -1000.0, 50.0) + 0 * lon
    coords = {"y": lat, "x": lon}
    xr.Dataset({"rose": (("y", "x"), z)}, coords).to_netcdf(tmp_path / "etopo.nc")
    d = BlackSea(bathymetry=str(tmp_path / "etopo.nc"), substeps=40)
    wet = d.state.mask
    north = d.state.coords["lat"] > 46
    assert not wet[north].any() and wet[d.state.coords["lat"] < 45].all()
    assert (d.state.static["depth"][0] == 1000).all()


def test_what_does_not_fit_the_year_is_refused():
    with pytest.raises(BadInput, match="frames of 7 days"):
        make("black_sea", {"days": 7})
    with pytest.raises(BadInput, match="whole years"):
        make("black_sea", {"spin_up": 40})
    with pytest.raises(BadInput, match="nature: no 'rivers'"):
        make("black_sea", {"nature": {"first": 1, "rivers": 2.0}})
    # Coasts of a file may narrow the current: a year of such steps is not finite.
    with pytest.raises(BadInput, match=r"takes 1\.5 times what a cell holds") as e:
        make("black_sea", {"rows": 12, "columns": 18, "days": 10, "substeps": 5})
    assert "substeps: 10" in str(e.value)
    from hpcinv.kinds.simulate_trajectory import dynamics_of

    job = Simulate(
        kind="simulate", simulator="black_sea", simulations=2, trajectory={"frames": 40}
    )
    with pytest.raises(BadInput, match="not whole cycles of 36"):
        dynamics_of(job)


def test_statistics_are_of_the_place_in_the_cycle():
    from hpcinv.io.phase_moments import PhaseMoments
    from hpcinv.kinds.simulate_trajectory import _statistics
    from hpcinv.simulators.dynamics import State

    x = np.random.default_rng(0).standard_normal((24, 1, 3)) + np.arange(24).reshape(-1, 1, 1) % 4
    phases = np.arange(24) % 4
    moments = PhaseMoments(4, (1, 3))
    for a in range(0, 20, 7):  # blocks that cut cycles; four frames are not of the training
        moments.add(x[a : min(a + 7, 20)], phases[a : min(a + 7, 20)])
    land = np.array([True, True, False])
    state = State({"a": "1"}, 1.0, coords={"x": np.arange(3.0)}, cycle=4, mask=land)
    found = _statistics(moments, phases, state, ".")
    own = x[:20].reshape(5, 4, 1, 3)
    np.testing.assert_allclose(found.mean, own.mean(0), rtol=1e-5)
    exact = np.where(land, own.std(0, ddof=1) * np.sqrt(6 / 5), 1.0)
    np.testing.assert_allclose(found.std, exact, rtol=1e-5)
    assert (found.count == 5).all() and (found.phases == np.arange(24) % 4).all()
