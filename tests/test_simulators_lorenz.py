"""The two systems of Lorenz: an integrator of scipy, exact identities, published statistics."""

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from hpcinv.assimilation import baselines_config, ensemble
from hpcinv.assimilation.baselines import Problem, build
from hpcinv.errors import BadInput
from hpcinv.io.statistics import Statistics
from hpcinv.observations.table import ObservationTable
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.dynamics import Forecast, State, trajectories
from hpcinv.simulators.lorenz import Lorenz63, Lorenz96

SILENT = {"lorenz63": Lorenz63(noise=0.0), "lorenz96": Lorenz96()}


@pytest.mark.parametrize("name", SILENT)
def test_a_step_is_that_of_scipy_to_fourth_order(name):
    d = SILENT[name]
    x = d.initial(Key(0, [0]))
    slope = lambda _, y: d.slope(torch.from_numpy(y).reshape(x.shape)).numpy().ravel()  # noqa: E731
    kind, dt = type(d), d.state.dt
    errors = []
    for h in (dt, dt / 2, dt / 4):
        exact = solve_ivp(slope, (0, h), x.numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-12)
        own = kind(dt=h, noise=0.0) if name == "lorenz63" else kind(dt=h)
        errors.append(np.abs(own.step(x, Key(0, [0], 1)).numpy().ravel() - exact.y[:, -1]).max())
    # An error of h^5 a step: a factor of 32 for each halving, up to the next order.
    assert all(20 < a / b < 50 for a, b in itertools.pairwise(errors)), errors


def test_fixed_points_and_energy_are_exact():
    d = Lorenz63()
    c = (d.beta * (d.r - 1)) ** 0.5
    x = torch.tensor([[c, c, d.r - 1], [-c, -c, d.r - 1], [0, 0, 0]], dtype=torch.float64)
    assert d.slope(x).abs().max() < 1e-12
    # Lorenz-96: advection conserves energy, so d/dt sum x^2 / 2 = sum x (F - x).
    e = Lorenz96(n=17, forcing=6.0)
    x = torch.randn(5, 1, 17, dtype=torch.float64)
    assert torch.allclose((x * e.slope(x)).sum(-1), (x * (6.0 - x)).sum(-1), atol=1e-12)


def test_the_attractors_have_the_published_size():
    """DAPPER's RMSE of the climatology, a mean over times: 7.6 and 3.6."""
    for d, rmse, tolerance in ((Lorenz63(noise=0.0), 7.6, 0.25), (Lorenz96(), 3.6, 0.06)):
        x = torch.stack(list(trajectories(d, Key(1, range(256)), 64)))
        found = (x - x.mean((0, 1))).square().flatten(2).mean(2).sqrt().mean()
        assert abs(found - rmse) < tolerance, (type(d), found)


def test_noise_has_the_variance_of_a_step():
    d = Lorenz63()
    x = d.initial(Key(0, range(4000)))
    e = d.step(x, Key(0, range(4000), 1)) - d.mean(x)
    assert torch.allclose(e.T.cov(), 0.025 * torch.eye(3, dtype=e.dtype), atol=2.5e-3)
    # ... and the next frame's noise is another.
    again = d.step(x, Key(0, range(4000), 2)) - d.mean(x)
    assert abs(torch.corrcoef(torch.stack([e[:, 0], again[:, 0]]))[0, 1]) < 0.06


@pytest.mark.parametrize("name", ["lorenz63", "lorenz96"])
def test_trajectories_do_not_depend_on_the_batch(name):
    d = make(name, {"spin_up": 20})
    whole = torch.stack(list(trajectories(d, Key(3, [0, 1, 2, 3]), 12)))
    parts = [torch.stack(list(trajectories(d, Key(3, ids), 12))) for ids in ([0, 1, 2], [3])]
    assert torch.equal(whole, torch.cat(parts, 1))
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1


class Explosive:
    """A dynamics of one's own that leaves the numbers at its third frame, in one trajectory."""

    state = State({"x": "m"}, 1.0)

    def initial(self, key):
        return torch.ones(len(key), 1)

    def step(self, x, key):
        return (
            x / torch.tensor([0.0 if i == 7 and key.draw == 2 else 1.0 for i in key.ids])[:, None]
        )


def test_a_trajectory_that_explodes_is_named():
    d = make(f"{__name__}:Explosive")
    with pytest.raises(BadInput, match="trajectory 7 is not finite from frame 2"):
        list(trajectories(d, Key(0, [5, 7]), 4))


class Store:
    """Enough of a store for a filter."""

    def __init__(self, name, x, state):
        self.attributes = {"simulator": name, "options": {}}
        self.x, self.length = x, len(x)
        self.channels, self.units = list(state.channels), list(state.channels.values())
        self.grid, self.coords, self.coord_attrs = state.grid, state.coords, state.coord_attrs
        self.time, self.time_units, self.mask = np.arange(len(x)) * state.dt, "1", None

    def read(self, start, stop, channels=None):
        return self.x[start:stop]


def test_a_filter_forecasts_with_the_simulator_of_its_data():
    """Each cycle is the dynamics' own step between two updates, noise and all; and the filter
    is as good as one that was given the dynamics as a function."""
    d = Lorenz63()
    x = torch.stack(list(trajectories(d, Key(0, [0]), 240)))[:, 0].float().numpy()
    mean, std = x[:200].mean(0), x[:200].std(0)
    stats = Statistics(mean[None], std[None], np.array([200]), np.zeros(240, np.int64))
    store = Store("lorenz63", x, d.state)
    n, rng = 40, np.random.default_rng(0)
    nothing = np.full(n, np.nan)
    column = {"lat": nothing, "lon": nothing, "time": np.arange(n), "station": [""] * n}
    table = ObservationTable(
        frame=np.arange(n), channel=np.zeros(n), point=np.zeros(n), error=np.full(n, 0.5),
        value=x[200:, 0] + 0.5 * rng.standard_normal(n), channels=("a", "b", "c"),
        units=("1", "1", "1"), time_units="1", **column,
    )  # fmt: skip
    p = Problem(store, stats, (0, 200), (200, 240), table, range(20), seed=5)
    b = build(baselines_config.Ensemble(method="etkf", forecast="simulator"), p)
    got = b.draw(0, n)
    E = b._replayed(0)
    for k in range(4):
        s = std[0]
        E = ensemble.etkf(
            E, E[:, :1], (table.value[k : k + 1] - mean[0]) / s, np.array([0.5 / s]) ** 2
        )
        assert np.abs(got[:, k] - (E * std + mean)).max() < 1e-4
        forecast = d.step(torch.from_numpy(got[:, k]).double(), Key(5, range(20), 200 + k + 1))
        E = (forecast.numpy() - mean) / std
    error = np.sqrt(((got.mean(0) - x[200:]) ** 2).mean(1))
    assert error[20:].mean() < 1.5 < 5 < x.std()
    with pytest.raises(BadInput, match="no dynamics made these data"):
        Forecast({}, 0, [0])
