"""The dry atmosphere against what is known of it: relaxation, mass, rest, and the climate."""

import numpy as np
import pytest
import torch

pytest.importorskip("dinosaur")

from hpcinv.errors import BadInput
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.dynamics import Forecast, trajectories

SIGMA = (np.arange(5) + 0.5) / 5
KAPPA = 2 / 7


@pytest.fixture(scope="module")
def core():
    return make("primitive_equations", {"minutes": 90, "spin_up": 6})


def weights(d):
    return np.polynomial.legendre.leggauss(d.state.grid[0])[1] / 2


def equilibrium(lat):
    r"""Held and Suarez (1994), their equation for T_eq, at p = sigma p0: (levels, lat)."""
    s = SIGMA[:, None]
    lat = np.radians(lat)
    t = (315 - 60 * np.sin(lat) ** 2 - 10 * np.log(s) * np.cos(lat) ** 2) * s**KAPPA
    return np.maximum(200.0, t)


def test_air_at_rest_relaxes_as_the_paper_says(core):
    """Over twelve hours no wind has grown: temperatures close in on the equilibrium alone."""
    lat = core.state.coords["lat"]
    x = np.zeros((1, *core.state.shape))
    x[:, 10:15], x[:, 15] = 260.0, 1000.0
    y = core.step(torch.from_numpy(x), None).numpy()[0]
    fast = np.clip((SIGMA - 0.7) / 0.3, 0, None)[:, None] * np.cos(np.radians(lat)) ** 4
    rate = 1 / 40 + (1 / 4 - 1 / 40) * fast
    told = (equilibrium(lat) - 260.0) * (1 - np.exp(-rate * 0.5))
    got = y[10:15].mean(-1) - 260.0
    # Aloft; near the ground the air that sinks and rises changes as much by compression.
    assert np.abs(got - told)[:2].max() < 0.15
    assert np.corrcoef(got.ravel(), told.ravel())[0, 1] > 0.97
    assert np.abs(y[10:15] - y[10:15].mean(-1, keepdims=True)).max() < 1e-2


@pytest.mark.slow
def test_mass_stays_and_numbers_are_the_same_however_they_are_batched(core):
    together = torch.stack(list(trajectories(core, Key(0, [0, 1, 2]), 5)), 1)
    alone = torch.stack(list(trajectories(core, Key(0, [1]), 5)), 1)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    mass = (together[:, :, -1].mean(-1).numpy() * weights(core)).sum(-1)
    assert np.abs(mass / mass[:, :1] - 1).max() < 1e-4
    assert together[:, :, -1].std() > 1  # hPa: there is something that could leak


def test_a_state_of_the_grid_is_a_state_of_the_core():
    """A step of almost no time gives the state back: nothing is lost between grid and waves."""
    d = make("primitive_equations", {"hours": 1e-4, "minutes": 6e-3, "spin_up": 0})
    settled = make("primitive_equations", {"minutes": 90, "spin_up": 6})
    x = settled.initial(Key(0, [0]))
    y = d.step(x, None)
    lost = (y - x).abs().amax((0, 2, 3))
    # Single precision: of winds, of temperatures around 250 K, and of the logarithm of pressure.
    assert lost[:10].max() < 1e-3 and lost[10:15].max() < 1e-3 and lost[15] < 0.1


def test_mistakes_are_named():
    with pytest.raises(BadInput, match="T20"):
        make("primitive_equations", {"truncation": "T20"})
    with pytest.raises(BadInput, match=r"nature: no 'fiction'.*friction"):
        make("primitive_equations", {"nature": {"first": 3, "fiction": 2.0}})
    with pytest.raises(BadInput, match="which trajectories"):
        make("primitive_equations", {"nature": {"friction": 2.0}})
    with pytest.raises(BadInput, match="whole number of steps"):
        make("primitive_equations", {"hours": 6, "minutes": 50})


@pytest.mark.slow
def test_another_nature_begins_where_it_says_and_no_forecast_knows_it():
    """And where it does, winds near the ground slow by the rate that was asked for."""
    options = {"hours": 1.5, "minutes": 90, "equator_to_pole": 0.0}
    options["nature"] = {"first": 2, "friction": 3.0}
    d = make("primitive_equations", options)
    # A westerly of 5 m/s in solid rotation near the ground. The lowest level's middle lies at
    # (0.9 - 0.7) / 0.3 of the layer that slows, at one per day, here at three.
    x = torch.zeros(2, *d.state.shape, dtype=torch.float64)
    x[:, 10:15], x[:, 15] = 260.0, 1000.0
    x[:, 4] = 5 * torch.cos(torch.deg2rad(torch.from_numpy(d.state.coords["lat"].copy())))[:, None]
    y = d.step(x, Key(0, [1, 2]))
    left = y[:, 4].mean((1, 2)) / x[0, 4].mean()
    rate = -torch.log(left) * 24 / 1.5
    assert (rate[1] - rate[0]).item() == pytest.approx(2 * (0.9 - 0.7) / 0.3, rel=0.03)
    # A forecast numbers its members, and these are not trajectories of the truth.
    model = Forecast({"simulator": "primitive_equations", "options": options}, 0, [1, 2])
    same = model(x.numpy(), 0)
    assert np.array_equal(same[0], same[1])
    assert np.abs(same[0] - y[0].numpy()).max() < 1e-3  # single precision


@pytest.mark.slow
def test_the_climate_is_that_of_held_and_suarez():
    """Their figure 2: westerly jets of about 30 m/s near 45 degrees, easterlies at the surface of
    the tropics, and westerlies of 8 m/s or so at that of the mid-latitudes."""
    d = make("primitive_equations", {"minutes": 90, "spin_up": 400})
    frames = [x for k, x in enumerate(trajectories(d, Key(0, [0]), 200)) if k % 2 == 0]
    u = torch.cat(frames)[:, :5].mean((0, 3)).numpy()
    u = (u + u[:, ::-1]) / 2  # both hemispheres alike
    lat = np.abs(d.state.coords["lat"])
    jet = np.unravel_index(u.argmax(), u.shape)
    assert jet[0] <= 1 and 20 < u.max() < 40 and 30 < lat[jet[1]] < 60
    assert u[4, lat < 15].mean() < 0 < u[4, (lat > 35) & (lat < 55)].mean() < 12
