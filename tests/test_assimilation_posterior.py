r"""The engine against exact answers: a linear-Gaussian chain, and azula's own MMPS."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from azula.denoise import GaussianDenoiser
from azula.guidance.dps import DPSSampler
from azula.guidance.mmps import MMPSDenoiser
from azula.linalg.covariance import DiagonalCovariance, FullCovariance
from azula.noise import RectifiedSchedule, VESchedule, VPSchedule
from azula.sample import HeunSampler, xEABSampler

from hpcinv import assimilation
from hpcinv.assimilation.network import Network
from hpcinv.assimilation.solve_direct import direct
from hpcinv.diffusion import noise
from hpcinv.errors import BadInput

torch.set_num_threads(1)
LENGTH, D, SIGMA = 25, 2, 0.2


def chain(length):
    r"""Covariance (L, D, L, D) of x[i+1] = 0.9 Q x[i] + noise, stationary with identity."""
    a = 0.9 * torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    a = a.double()
    power = [torch.eye(2).double()]
    for _ in range(length):
        power.append(a @ power[-1])
    rows = [
        torch.stack([power[i - j] if i >= j else power[j - i].T for j in range(length)], 1)
        for i in range(length)
    ]
    return torch.stack(rows)  # (L, D, L, D)


C = chain(LENGTH)


class Table:
    frame = np.arange(0, LENGTH, 3)
    channel = np.arange(len(frame)) % 2
    point = np.zeros(len(frame), int)
    value = noise.normal((len(frame),), seed=0, purpose="y", dtype=torch.float64).numpy()
    error = np.full(len(frame), SIGMA)


AT = torch.from_numpy(Table.frame * D + Table.channel)


def exact(sigma=SIGMA):
    flat = C.reshape(LENGTH * D, LENGTH * D)
    S = flat[AT][:, AT] + sigma**2 * torch.eye(len(AT)).double()
    K = flat[:, AT] @ torch.linalg.inv(S)
    return K @ torch.from_numpy(Table.value), (flat - K @ flat[AT]).diagonal().sqrt()


def gaussian(length, schedule):
    flat = C[:length, :, :length].reshape(length * D, length * D)
    L, Q = torch.linalg.eigh(flat)
    cov = FullCovariance(Q.reshape(length, D, -1), L)
    return GaussianDenoiser(torch.zeros(length, D).double(), cov, schedule)


def likelihood(table=Table):
    return assimilation.PointLikelihood(table, shape=(D,), length=LENGTH, dtype=torch.float64)


def draw(schedule=None, window=LENGTH, members=range(3), **kwargs):
    schedule = schedule or VESchedule(1e-3, 1e2)
    return assimilation.sample(
        kwargs.pop("denoiser", None) or gaussian(window, schedule),
        **{
            "shape": (D,), "length": LENGTH, "window": window, "members": members,
            "likelihood": likelihood(), "dtype": torch.float64, "batch": 512, **kwargs,
        },
    )  # fmt: skip


def score(x, sigma=SIGMA):
    mean, std = exact(sigma)
    x = x.flatten(1)
    error = ((x.mean(0) - mean) / std).square().mean()
    spread = (x.std(0) / std).mean()
    # The mean of M members is off by spread/√M by itself.
    return float((error - spread**2 / len(x)).clamp(min=0).sqrt()), float(spread)


def start(members, schedule):
    alpha, sigma = schedule(torch.tensor(1.0).double())
    z = [
        noise.frames(
            (D,), seed=0, purpose="assimilation start", member=m, frames=range(LENGTH),
            dtype=torch.float64,
        )
        for m in members
    ]  # fmt: skip
    return torch.stack(z) * float(torch.sqrt(alpha**2 + sigma**2))


@pytest.mark.parametrize("schedule", [VESchedule(1e-3, 1e2), VPSchedule(), RectifiedSchedule()])
@pytest.mark.parametrize(("solver", "iterations"), [("cg", 1), ("cg", 3), ("gmres", 3)])
def test_mmps_is_azulas(schedule, solver, iterations):
    result = draw(
        schedule,
        guidance={"solver": solver, "iterations": iterations},
        sampler={"method": "heun", "steps": 8, "spacing": "time", "final": "keep"},
    )
    peer = MMPSDenoiser(
        gaussian(LENGTH, schedule), torch.from_numpy(Table.value),
        lambda x: x.flatten(1)[:, AT], DiagonalCovariance(torch.full((len(AT),), SIGMA**2)),
        solver=solver, iterations=iterations,
    )  # fmt: skip
    sampler = HeunSampler(peer, steps=8, silent=True, dtype=torch.float64)
    x = sampler(start(range(3), schedule)) / float(schedule(torch.tensor(0.0).double())[0])
    assert float((result.x - x).abs().max()) < 1e-7
    # One product less per call than azula: the solve carries the correction with it.
    assert result.diagnostics["network_products"] == 16 * iterations


def test_a_direct_solve_is_that_of_many_iterations():
    schedule, sampler = VPSchedule(), {"method": "heun", "steps": 4}
    made = {}
    for solver, iterations in (("direct", 3), ("gmres", 12), ("cg", 1)):
        made[solver] = draw(
            schedule, guidance={"solver": solver, "iterations": iterations}, sampler=sampler
        )
    assert len(AT) < 12
    assert float((made["direct"].x - made["gmres"].x).abs().max()) < 1e-6
    assert float((made["direct"].x - made["cg"].x).abs().max()) > 1e-3  # one iteration is not
    assert made["direct"].diagnostics["network_products"] == 9 * len(AT)


def test_a_direct_solve_takes_the_positive_part():
    rng = np.random.default_rng(0)
    system = torch.tensor([1, 0, 1, 1, 3, 0])  # of sizes 2, 3, 0, 1, their entries mixed
    S, R, b = np.zeros((2, 6, 6)), np.zeros((2, 6, 6)), rng.standard_normal((2, 6))
    for k in (0, 1, 3):
        i = np.flatnonzero(system == k)
        at, n = np.ix_([0, 1], i, i), len(i)
        S[at] = 3 * rng.standard_normal((2, n, n))  # neither symmetric nor positive
        a = rng.standard_normal((2, n, n))
        R[at] = a @ a.swapaxes(1, 2) + 0.3 * np.eye(n)
    want = np.zeros_like(b)
    for k, m in itertools.product((0, 1, 3), (0, 1)):
        i = np.flatnonzero(system == k)
        at = np.ix_(i, i)
        half = np.linalg.inv(scipy.linalg.sqrtm(R[m][at])).real
        values, v = np.linalg.eigh(half @ (S[m][at] + S[m][at].T) / 2 @ half)
        share = np.where(values > 0, 1 / (1 + values), 0)
        want[m, i] = half @ v @ (share * (v.T @ half @ b[m, i]))
    times = lambda M: lambda p: torch.einsum("bij,bj->bi", torch.from_numpy(M), p)  # noqa: E731
    found = direct(
        lambda p: (times(R + S)(p), [p]), times(R), torch.from_numpy(b), system, 4,
        lambda total, c, image: [image[0] * c[:, system] + (0 if total is None else total[0])],
    )  # fmt: skip
    assert np.allclose(found.weights, want, atol=1e-12)
    assert np.allclose(found.image[0], want, atol=1e-12)  # the image is of the same weights
    assert found.cut.any() and not found.cut[:, 2].any() and not found.failed.any()
    with pytest.raises(BadInput, match="sees 65 observations"):
        direct(None, None, torch.zeros(1, 65), torch.zeros(65).long(), 1, None)


def test_windows_of_too_many_observations_are_refused_before_any_call(monkeypatch):
    class Full:  # every number of every frame, and more of frame 20
        frame = np.concatenate([np.repeat(np.arange(LENGTH), 2), np.full(50, 20)])
        channel = np.arange(len(frame)) % 2
        point = np.zeros(len(frame), int)
        value, error = np.zeros(len(frame)), np.ones(len(frame))

    calls, call = [], Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda *a: calls.append(1) or call(*a))

    def windows(length, overlap):
        draw(window=length, overlap=overlap, likelihood=likelihood(Full),
             guidance={"solver": "direct"}, sampler={"steps": 1})  # fmt: skip

    with pytest.raises(BadInput, match=r"sees 68 observations.*at most 64"):
        windows(9, 5)  # of them one sees 18, and the 50
    assert not calls
    windows(5, 3)  # 10, and the 50
    assert calls


def test_adams_bashforth_is_azulas():
    schedule = VPSchedule()
    result = draw(
        schedule,
        likelihood=None,
        sampler={"method": "adams-bashforth", "order": 3, "steps": 12, "spacing": "time",
                 "final": "keep"},
    )  # fmt: skip
    peer = xEABSampler(
        gaussian(LENGTH, schedule), order=3, steps=12, silent=True, dtype=torch.float64
    )
    x = peer(start(range(3), schedule)) / float(schedule(torch.tensor(0.0).double())[0])
    assert float((result.x - x).abs().max()) < 1e-5


def test_dps_is_azulas():
    schedule, steps = VPSchedule(), 6
    result = draw(
        schedule,
        members=[0],
        guidance={"method": "dps", "strength": 0.5},
        sampler={"method": "ddpm", "steps": steps, "spacing": "time", "final": "keep"},
    )
    peer = DPSSampler(
        gaussian(LENGTH, schedule), torch.from_numpy(Table.value),
        lambda x: x.flatten(1)[:, AT], zeta=0.5, steps=steps, silent=True, dtype=torch.float64,
    )  # fmt: skip
    x, draws = start([0], schedule), iter(range(steps))

    def keyed(like):
        z = noise.frames(
            (D,), seed=0, purpose="assimilation step", member=0, frames=range(LENGTH),
            step=next(draws), dtype=torch.float64,
        )  # fmt: skip
        return z[None]

    import azula.guidance.dps as module

    class Torch:
        randn_like = staticmethod(keyed)

        def __getattr__(self, name):
            return getattr(torch, name)

    module.torch, original = Torch(), module.torch
    try:
        x = peer(x)
    finally:
        module.torch = original
    x = x / float(schedule(torch.tensor(0.0).double())[0])
    assert float((result.x - x).abs().max()) < 1e-8


@pytest.mark.parametrize(
    ("sampler", "error", "low", "high"),
    [
        ({"method": "heun", "steps": 32}, 0.08, 0.97, 1.04),
        ({"method": "ddpm", "steps": 48}, 0.08, 0.85, 1.0),
        ({"method": "adams-bashforth", "steps": 40}, 0.08, 0.95, 1.04),
        ({"method": "heun", "steps": 16, "corrections": 2}, 0.08, 0.97, 1.06),
    ],
)
def test_full_window_is_the_smoother(sampler, error, low, high):
    sampler = {"sigma_min": 3e-3, "sigma_max": 60.0} | sampler
    result = draw(
        members=range(200), guidance={"iterations": 12, "tolerance": 1e-4}, sampler=sampler
    )
    got, spread = score(result.x)
    assert got < error and low < spread < high, (got, spread)
    assert result.diagnostics["events"] == []


WINDOWS = {
    "center per window": ({"compose": "center", "guidance": {}}, 0.35),
    "junction per window": ({"compose": "junction", "guidance": {}}, 0.2),
    "junction markov": ({"compose": "junction", "guidance": {"covariance": "markov"}}, 0.25),
    "junction averaged": ({"compose": "junction", "guidance": {"covariance": "averaged"}}, 0.35),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_approach_the_smoother(name):
    extra, most = WINDOWS[name]
    moments = C[:9, :, :9].contiguous()
    guidance = {"iterations": 12, "tolerance": 1e-4} | extra["guidance"]
    result = draw(
        window=9, overlap=5, members=range(128), compose=extra["compose"], guidance=guidance,
        denoiser=gaussian(9, VESchedule(3e-3, 60.0)),
        markov=assimilation.MarkovCovariance(moments, LENGTH, 9, 5),
        sampler={"steps": 12, "corrections": 2},
    )  # fmt: skip
    error, spread = score(result.x)
    assert error < most and 0.9 < spread < 1.12, (error, spread)
    assert result.diagnostics["events"] == []


@pytest.mark.parametrize("sigma", [0.03, 0.1])
def test_composed_jacobian_falls_back_where_it_is_not_positive(sigma):
    class Sharp(Table):
        error = np.full(len(Table.frame), sigma)

    result = draw(
        window=5, overlap=3, members=range(48), compose="junction", likelihood=likelihood(Sharp),
        guidance={"scope": "trajectory", "iterations": 30, "tolerance": 1e-6},
        denoiser=gaussian(5, VESchedule(3e-3, 60.0)),
        sampler={"steps": 10, "corrections": 1},
    )  # fmt: skip
    error, spread = score(result.x, sigma)
    assert error < 0.4 and 0.9 < spread < 1.3, (error, spread)
    events = result.diagnostics["events"]
    assert events and min(e["sigma"] for e in events) > 1  # where windows know too little
    assert {e["instead"] for e in events} == {"averaged covariance"}


def test_junction_is_exact_for_a_chain_as_noise_vanishes():
    from hpcinv.assimilation.composition import compose
    from hpcinv.assimilation.exchange import Exchange
    from hpcinv.assimilation.network import Network
    from hpcinv.assimilation.slab import Products, Slab

    schedule = VESchedule(1e-3, 1e2)
    x = noise.normal((2, LENGTH, D), seed=1, purpose="x", dtype=torch.float64)
    for rule, sigma, most in (("junction", 0.01, 1e-4), ("center", 0.01, 0.1)):
        t = math.log(sigma / 1e-3) / math.log(1e5)
        t = torch.tensor(t).double()
        exchange = Exchange(compose(rule, LENGTH, 9, 5), LENGTH)
        slab = Slab(exchange, Network(assimilation.StationaryGaussian(
            torch.zeros(9, D).double(), C[:9, :, :9], schedule)))  # fmt: skip
        mean = slab(x, t, Products("none", exchange, frozenset())).compose()
        whole = gaussian(LENGTH, schedule)(x, t).mean
        # In units of the step from x to its mean.
        error = float((mean - whole).abs().max() / (whole - x).abs().max())
        assert error < most, (rule, error)


def test_markov_covariance_is_exact_for_a_chain():
    cov = assimilation.MarkovCovariance(C[:5, :, :5].contiguous(), LENGTH, 5, 2)
    v = noise.normal((1, LENGTH, D), seed=1, purpose="v", dtype=torch.float64)
    flat = C.reshape(LENGTH * D, -1)
    eye = torch.eye(LENGTH * D).double()
    want = torch.linalg.inv(torch.linalg.inv(flat) + 0.9**2 / 0.5**2 * eye) @ v.flatten()
    assert float((cov.apply(v, 0.9, 0.5).flatten() - want).abs().max()) < 1e-8


def test_empty_observations_give_prior_samples():
    class Empty:
        frame = channel = point = np.zeros(0, int)
        value = error = np.zeros(0)

    same = {"sampler": {"steps": 4}, "window": 9, "overlap": 4}
    denoiser = gaussian(9, VESchedule(1e-2, 10.0))
    a = draw(denoiser=denoiser, likelihood=likelihood(Empty), **same)
    b = draw(denoiser=denoiser, likelihood=None, **same)
    assert torch.equal(a.x, b.x)
    many = draw(denoiser=gaussian(LENGTH, VESchedule(1e-2, 100.0)), likelihood=None,
                members=range(400), sampler={"steps": 24})  # fmt: skip
    assert abs(float(many.x.var()) - 1) < 0.1
    lag = float((many.x[:, 1:, 0] * many.x[:, :-1, 0]).mean())
    assert abs(lag - 0.9 * math.cos(0.7)) < 0.05


def test_identity_observation_gives_the_denoiser():
    r"""With A = I and R = σ² I, E[x | y] = d(y, t) at σ_t / α_t = σ."""

    y = noise.normal((LENGTH, D), seed=2, purpose="y", dtype=torch.float64)

    class Everything:
        frame = np.repeat(np.arange(LENGTH), D)
        channel = np.tile(np.arange(D), LENGTH)
        point = np.zeros(LENGTH * D, int)
        value, error = y.flatten().numpy(), np.full(LENGTH * D, 0.5)

    schedule = VESchedule(1e-2, 50.0)
    result = draw(denoiser=gaussian(LENGTH, schedule), likelihood=likelihood(Everything),
                  members=range(400), guidance={"iterations": 8, "tolerance": 1e-4},
                  sampler={"steps": 24})  # fmt: skip
    t = torch.tensor(math.log(0.5 / 1e-2) / math.log(5e3)).double()
    want = gaussian(LENGTH, schedule)(y[None], t).mean[0]
    error = (result.x.mean(0) - want).square().mean().sqrt() / result.x.std(0).mean()
    assert float(error) < 0.06  # 400 members: 0.05 is sampling error
