"""The dry atmosphere against what is known of it: relaxation, mass, rest, and the climate."""

import numpy as np
import pytest
import torch

pytest.importorskip("dinosaur")

from hpcinv.errors import BadInput
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.dynamics import trajectories

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
    with pytest.raises(BadInput, match="whole number of steps"):
        make("primitive_equations", {"hours": 6, "minutes": 50})


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
