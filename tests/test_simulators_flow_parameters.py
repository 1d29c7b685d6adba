"""Parameters of a flow: exact pressures, and what velocities cannot know."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from hpcinv.errors import BadInput
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.kolmogorov import Kolmogorov

QUICK = {"spin_up": 2, "frames": 2}


def test_pressure_is_taylor_and_greens_with_the_density_of_each_flow():
    n = 24
    axis = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rho, re = torch.tensor([[0.1, 1.0, 10.0], [5.0, 20.0, 50.0]], dtype=torch.float64)
    d = Kolmogorov(n, reynolds=re, density=rho, amplitude=torch.zeros(3), drag=0.1, dt=0.5,
                   wavenumber=2, pressure=True)  # fmt: skip
    u, v = torch.cos(x) * torch.sin(y), -torch.sin(x) * torch.cos(y)
    now = d.advance(torch.stack([u, v, 0 * u])[None].repeat(3, 1, 1, 1))
    for k in range(3):
        a = math.exp(-(2 / float(re[k]) + 0.1) * 0.5)
        p = -float(rho[k]) * a**2 / 4 * (torch.cos(2 * x) + torch.cos(2 * y))
        error = (now[k] - torch.stack([a * u, a * v, p])).abs().amax((1, 2))
        assert error[:2].max() < 1e-12 and error[2] < 1e-12 * max(1, float(rho[k]))


def test_velocities_do_not_know_the_density_and_pressure_is_proportional_to_it():
    s = make("kolmogorov-parameters", QUICK | {"gauges": True})
    blind = make("kolmogorov-parameters", QUICK)
    theta = torch.tensor([[20.0, 0.5, 1.0], [20.0, 5.0, 1.0]])
    key = Key(0, np.array([3, 3]))
    a, b = s.simulate(theta, key)
    assert torch.equal(a[:2], b[:2]) and a[:2].std() > 0.3
    assert torch.equal(blind.simulate(theta, key)[0], a[:2])
    p = [torch.sinh(x[2].double()) * s.noise_pressure for x in (a, b)]
    assert p[0].std() > 0.05
    assert torch.allclose(p[1], 10 * p[0], rtol=1e-5, atol=1e-5)


def test_a_flow_is_that_of_its_parameters_alone_and_resolved_in_time():
    s = make("kolmogorov-parameters", {"gauges": True})
    key = Key(1, np.arange(4))
    theta = s.prior.sample(key)
    theta[0] = torch.tensor([50.0, 10.0, 2.0])  # the fastest
    x = s.simulate(theta, key)
    assert x.shape == (4, *s.outputs.shape)
    re, rho, amplitude = theta[2].tolist()
    one = Kolmogorov(24, re, amplitude, 2, 0.1, rho, True, 0.25, 5, spin_up=24)
    now = one.initial(key[2])
    for k in range(4):
        seen = s.measured(now[:, :, None, ::3, ::3])[:, :, 0]
        assert torch.allclose(seen[0].float(), x[2, :, k], atol=1e-5)
        now = one.advance(now)
    finer = make("kolmogorov-parameters", {"gauges": True, "substeps": 20}).simulate(theta, key)
    error = (finer - x)[:, :2].abs().amax((1, 2, 3, 4))
    print("departure of velocities from a quarter of the step:", error.tolist())
    assert error[0] < 0.2 * s.noise_velocity and error[1:].max() < 1e-3


def test_a_flow_moved_by_a_symmetry_is_a_flow():
    """Advanced after it was moved, and moved after it was advanced: the same."""
    n = 16
    s = make("kolmogorov-parameters", {"size": n, "every": 2, "gauges": True})
    d = Kolmogorov(n, reynolds=30.0, wavenumber=2, dt=0.25, spin_up=4, pressure=True)
    first = d.initial(Key(0, np.arange(64)))
    first = d.advance(first + torch.tensor([0.3, -0.2, 0.0])[:, None, None])  # with a mean flow
    u = torch.rand(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def moved(x):  # on every point of the grid
        fine = make("kolmogorov-parameters", {"size": n, "every": 1, "gauges": True})
        return fine.moved(x[:, :, None], u)[:, :, 0]

    assert (d.advance(moved(first)) - moved(d.advance(first))).abs().max() < 1e-12
    # All of the 8 x 4 x 2 symmetries of the points that are seen are drawn, and differ.
    seen = s.moved(torch.randn(1, 3, 1, 8, 8).expand(1000, -1, -1, -1, -1),
                   Key(0, np.arange(1000)).uniform("symmetry", (3,)))  # fmt: skip
    assert len({row.numpy().tobytes() for row in seen}) == 64


def test_a_flow_redrawn_is_the_flow_of_its_new_density():
    """Simulated with the parameters it was given, and moved as it was, it is the same."""
    s = make("kolmogorov-parameters", QUICK | {"gauges": True})
    key = Key(0, np.arange(6))
    theta = s.prior.sample(key)
    fresh, x = s.redrawn(theta, s.simulate(theta, key), key.again(3))
    assert torch.equal(fresh[:, [0, 2]], theta[:, [0, 2]]) and (fresh[:, 1] != theta[:, 1]).all()
    u = key.again(3).uniform("symmetry", (4,))
    assert torch.allclose(x, s.moved(s.simulate(fresh, key), u), atol=1e-4)
    # New densities are draws of the prior, whatever the old ones were.
    many = Key(1, np.arange(4000))
    fresh, _ = s.redrawn(theta[:1].expand(4000, -1), x[:1].expand(4000, -1, -1, -1, -1), many)
    assert kstest(s.prior.quantile(fresh)[:, 1].numpy(), "uniform").pvalue > 1e-3


def test_noise_is_of_the_velocities_and_of_the_pressure_itself():
    s = make("kolmogorov-parameters", QUICK | {"gauges": True})
    x = torch.zeros(500, 3, 2, 8, 8)
    x[:, 2] = math.asinh(0.3 / s.noise_pressure)
    y = s.noise(x, Key(0, np.arange(500)))
    p = torch.sinh(y[:, 2].double()) * s.noise_pressure
    assert y[:, :2].std().item() == pytest.approx(s.noise_velocity, rel=0.01)
    assert p.std().item() == pytest.approx(s.noise_pressure, rel=0.01)
    assert p.mean().item() == pytest.approx(0.3, rel=1e-3)


def test_a_sequence_of_ones_own_is_read(tmp_path):
    s = make("kolmogorov-parameters", QUICK | {"gauges": True})
    fields = np.random.default_rng(0).normal(size=(3, 2, 8, 8))
    np.save(tmp_path / "seen.npy", fields)
    x = s.observation(tmp_path / "seen.npy").numpy()
    assert np.allclose(x[:2], fields[:2]) and np.allclose(np.sinh(x[2]) * 0.02, fields[2], 1e-5)
    np.save(tmp_path / "seen.npy", fields[:2])
    with pytest.raises(BadInput, match="u, v, p; frames"):
        s.observation(tmp_path / "seen.npy")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"every": 5}, "divide"), ({"frames": 0}, "At least one"),
     ({"noise_pressure": 0}, "positive"), ({"size": 25, "every": 5}, "even")],
)  # fmt: skip
def test_what_cannot_be_simulated_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        make("kolmogorov-parameters", fields)
