"""The Navier-Stokes solver: exact solutions, balances, and what does not depend on the grid."""

import math

import pytest
import torch

from hpcinv.errors import BadInput
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.dynamics import trajectories
from hpcinv.simulators.kolmogorov import Kolmogorov


def square(n):
    axis = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    return torch.meshgrid(axis, axis, indexing="ij")


def test_taylor_green_decays_as_it_must_and_its_pressure_is_known():
    y, x = square(32)
    d = Kolmogorov(32, reynolds=50, amplitude=0, drag=0.05, density=2.5, pressure=True, dt=0.5)
    u, v = torch.cos(x) * torch.sin(y), -torch.sin(x) * torch.cos(y)
    now = torch.stack([u, v, torch.zeros_like(u)])[None]
    for k in range(1, 5):
        now = d.advance(now)
        a = math.exp(-(2 / 50 + 0.05) * 0.5 * k)
        p = -2.5 * a**2 / 4 * (torch.cos(2 * x) + torch.cos(2 * y))
        exact = torch.stack([a * u, a * v, p])
        assert (now[0] - exact).abs().max() < 1e-12


def test_a_vortex_carried_by_a_mean_flow_is_the_vortex_moved():
    # Galilean invariance, the nonlinear term's own test: without drag and forcing.
    y, x = square(32)
    d = Kolmogorov(32, reynolds=50, amplitude=0, drag=0, dt=0.5)
    U, V, t = 0.7, -0.4, 1.0
    flow = lambda x, y: torch.stack([torch.cos(x) * torch.sin(y), -torch.sin(x) * torch.cos(y)])  # noqa: E731
    mean = torch.tensor([U, V], dtype=torch.float64)[:, None, None]
    now = (flow(x, y) + mean)[None]
    for _ in range(2):
        now = d.advance(now)
    exact = mean + math.exp(-2 / 50 * t) * flow(x - U * t, y - V * t)
    assert (now[0] - exact).abs().max() < 1e-7


def test_the_laminar_flow_stays():
    y, _ = square(32)
    d = Kolmogorov(32, reynolds=20, amplitude=0.3, wavenumber=3, drag=0.1)
    u = 0.3 * torch.sin(3 * y) / (9 / 20 + 0.1)
    now = torch.stack([u, torch.zeros_like(u)])[None]
    assert (d.advance(now) - now).abs().max() < 1e-12


def test_energy_and_enstrophy_balance():
    r"""dE/dt = A <u sin ky> - nu <w^2> - 2 mu E of a developed flow, at second order in h; the
    advection alone keeps energy and enstrophy to the order of the method."""
    d = Kolmogorov(32, reynolds=80, dt=0.2, spin_up=30)
    x = d.initial(Key(0, range(3)))
    y, _ = square(32)

    def budget(x):
        energy = x.square().sum(1).mean((1, 2)) / 2
        gain = (x[:, 0] * torch.sin(4 * y)).mean((1, 2))
        return energy, gain - d.vorticity(x).square().mean((1, 2)) / 80 - 0.2 * energy

    h = 1e-3
    small = Kolmogorov(32, reynolds=80, dt=h, substeps=1)
    (before, _), (_, rate), (after, _) = (
        budget(x), budget(small.advance(x)), budget(small.advance(small.advance(x))),
    )  # fmt: skip
    assert torch.allclose((after - before) / (2 * h), rate, rtol=1e-4, atol=1e-5)
    ideal = Kolmogorov(32, reynolds=1e12, amplitude=0, drag=0, dt=0.2)
    moved = ideal.advance(x)
    assert (moved - x).abs().max() > 0.05
    for of in (lambda x: x.square().sum(1), lambda x: ideal.vorticity(x).square()):
        was, now = of(x).mean((1, 2)), of(moved).mean((1, 2))
        assert torch.allclose(was, now, rtol=1e-6)


def test_a_resolved_flow_does_not_depend_on_the_grid():
    coarse, fine = Kolmogorov(32, reynolds=20, spin_up=20), Kolmogorov(64, reynolds=20)
    x = coarse.initial(Key(0, [0]))
    f = torch.fft.rfft2(x)
    big = torch.zeros(1, 2, 64, 33, dtype=f.dtype)
    for rows in (slice(0, 16), slice(-16, None)):
        big[..., rows, :16] = f[..., rows, :16]
    wide = torch.fft.irfft2(big) * 4
    for _ in range(3):
        x, wide = coarse.advance(x), fine.advance(wide)
    assert (wide[..., ::2, ::2] - x).abs().max() < 2e-3 < 0.4 < x.std()


def test_flows_are_solenoidal_and_do_not_depend_on_the_batch():
    d = make("kolmogorov", {"size": 16, "reynolds": 30, "spin_up": 3, "wavenumber": 2})
    whole = torch.stack(list(trajectories(d, Key(2, [0, 1, 2]), 3)), 1)
    alone = torch.stack(list(trajectories(d, Key(2, [2]), 3)), 1)
    assert torch.allclose(whole[2:], alone, atol=1e-12)
    assert d.divergence(whole).abs().max() < 1e-12
    assert (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 31}, "even"),
        ({"size": 16, "wavenumber": 6}, "At most 5"),
        ({"dt": 0}, "positive"),
    ],
)
def test_what_cannot_be_simulated_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        make("kolmogorov", fields)


def test_parameters_that_vary_are_channels_and_solve_the_flow():
    r"""A flow that drew its Re and amplitude is the flow of a solver told these numbers."""
    small = {"size": 16, "wavenumber": 2, "spin_up": 5}
    d = make("kolmogorov", {**small, "vary": {"reynolds": [20, 80], "amplitude": [0.5, 2]}})
    assert list(d.state.channels) == ["u", "v", "log_reynolds", "amplitude"]
    key = Key(0, range(6))
    x = torch.stack(list(trajectories(d, key, 3)))
    theta = x[0, :, 2:, 0, 0]
    assert (x[:, :, 2:, 0, 0] == theta).all()  # in all frames, at the first point
    assert (x[:, :, 2:].flatten(3)[..., 1:] == 0).all()
    reynolds, amplitude = theta[:, 0].exp(), theta[:, 1]
    for drawn, low, high in ((reynolds, 20, 80), (amplitude, 0.5, 2)):
        assert (drawn > low).all() and (drawn < high).all() and drawn.unique().numel() == 6
    told = Kolmogorov(**small, reynolds=reynolds, amplitude=amplitude)
    exact = torch.stack(list(trajectories(told, key, 3)))
    assert (x[:, :, :2] - exact).abs().max() < 1e-12
    one = torch.stack(list(trajectories(d, key[4], 3)))
    assert torch.equal(one[:, 0, 2:], x[:, 4, 2:])  # whatever the batch
    wild = x[:1, 0].clone()
    wild[:, 2, 0, 0] = 7.0  # a filter's update may leave the bounds: the flow does not
    told = Kolmogorov(**small, reynolds=80.0, amplitude=float(amplitude[0]))
    assert (d.advance(wild)[:, :2] - told.advance(wild[:, :2])).abs().max() < 1e-12
    assert d.advance(wild)[0, 2, 0, 0] == 7


@pytest.mark.parametrize(
    "vary",
    [{"drag": [0.1, 0.2]}, {"reynolds": [80, 20]}, {"amplitude": [0, 1]}, {"reynolds": [5]}],
)
def test_what_cannot_vary_is_said(vary):
    with pytest.raises(BadInput, match="var"):
        make("kolmogorov", {"size": 16, "wavenumber": 2, "vary": vary})
