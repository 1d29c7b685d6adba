r"""Observations matched to the law of a number: exact where a number has no neighbours."""

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule

from hpcinv import assimilation
from hpcinv.assimilation import Law, PointwiseLikelihood
from hpcinv.assimilation.engine import _Run
from hpcinv.assimilation.guidance.estimate import Level
from hpcinv.errors import BadInput
from hpcinv.parallel import World

WELLS = ((0.3, -1.0, 0.25), (0.7, 0.8, 0.4))  # weight, mean, deviation
CURVES = {
    "number": None,
    "square": lambda u: u * u,
    "tanh": lambda u: torch.tanh(2 * u),
    "limit": lambda u: u.clamp(-0.5, 0.5),
}


def log_density(u):
    parts = [np.log(w / s) - (u - m) ** 2 / (2 * s**2) for w, m, s in WELLS]
    return torch.logsumexp(torch.stack(parts), 0)


class Alone(Denoiser):
    r"""The exact denoiser of frames of one number each, independent, of two wells."""

    def __init__(self):
        super().__init__()
        self.schedule = VESchedule(1e-2, 1e2)

    def forward(self, x_t, t, **kwargs):
        s2 = self.schedule.sigma(t) ** 2
        logw, mean = [], []
        for w, m, s in WELLS:
            v = s**2 + s2
            logw.append(np.log(w) - v.log() / 2 - (x_t - m) ** 2 / (2 * v))
            mean.append(m + s**2 / v * (x_t - m))
        p = torch.softmax(torch.stack(logw), 0)
        return DiracPosterior(mean=(p * torch.stack(mean)).sum(0))


def table(values, error):
    class Table:
        frame = np.arange(len(values))
        channel = point = np.zeros(len(values), int)

    Table.value, Table.error = np.asarray(values, float), np.full(len(values), float(error))
    return Table


def law(nodes=1200):
    u = torch.linspace(-3, 3.5, nodes, dtype=torch.float64)
    return Law(u, log_density(u))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("sigma", [0.02, 0.5, 1.5, 10.0])
def test_exact_where_a_number_is_alone(curve, sigma):
    h, error = CURVES[curve], 0.3
    values = [-0.9, 0.1, 0.4, 0.9]
    likelihood = PointwiseLikelihood(
        table(values, error), law(), shape=(1, 1), length=4, operator=h, dtype=torch.float64
    )
    run = _Run(
        Alone(), (1, 1), 4, 4, 0, [0], likelihood, None, "center", None, {"iterations": 8},
        None, None, 0, 0, "assimilation", World(), None, False, 16, 64, 1, torch.float64, None,
    )  # fmt: skip
    t = Alone().schedule
    at = torch.linspace(0, 1, 200001, dtype=torch.float64)
    at = at[torch.searchsorted(t.sigma(at), sigma)]
    sigma = float(t.sigma(at))
    x_t = torch.tensor([-1.4, 0.2, 0.0, 1.5], dtype=torch.float64).view(1, 4, 1, 1) * (1 + sigma)
    guided = run.guidance(x_t, Level(at, 1.0, sigma, 0), [0]).mean.flatten()

    u = torch.linspace(-6, 6, 200001, dtype=torch.float64)
    for x, y, found in zip(x_t.flatten(), values, guided, strict=True):
        p = log_density(u) - (x - u) ** 2 / (2 * sigma**2)
        p = p - (y - (u if h is None else h(u))) ** 2 / (2 * error**2)
        exact = float((torch.softmax(p, 0) * u).sum())
        # Where the noise is small the law is taken for flat, about as wide as the noise.
        assert abs(float(found) - exact) < (2e-3 if sigma > 0.1 else 0.05 * sigma)
    plain = assimilation.PointLikelihood(table(values, error), shape=(1, 1), length=4)
    assert plain.sizes([0, 1, 2, 3]) == likelihood.sizes([0, 1, 2, 3])


def test_of_a_gaussian_law_it_is_the_observation_itself():
    u = torch.linspace(-6, 6, 1500, dtype=torch.float64)
    z = torch.tensor([[-1.0, 0.3, 1.2], [0.0, 2.0, -0.4]], dtype=torch.float64)
    values = [0.5, -0.2, 1.0]
    likelihood = PointwiseLikelihood(
        table(values, 0.4), Law(u, -(u**2) / 2), shape=(1, 1), length=3, dtype=torch.float64
    )
    for told in (1e-3, 0.3, 4.0, 1e4):
        departure, variance = likelihood.matched(z, told, [0, 1, 2])
        # Of the local cloud five deviations are seen, of which an observation takes some away.
        torch.testing.assert_close(variance, torch.full_like(z, 0.16), rtol=2e-2, atol=0)
        torch.testing.assert_close(
            departure, torch.tensor(values) - z, rtol=2e-2, atol=2e-3, check_dtype=False
        )


def test_law_of_samples():
    rng = np.random.default_rng(0)
    k = rng.random(20000) < 0.3
    x = np.where(k, rng.normal(-1.0, 0.25, 20000), rng.normal(0.8, 0.4, 20000))
    of = Law.of(torch.from_numpy(x))
    assert abs(of.mean - x.mean()) < 1e-3 and abs(of.variance / x.var() - 1) < 0.06
    p, exact = of.logp.exp(), torch.softmax(log_density(of.u), 0)
    assert float((p - exact).abs().sum()) < 0.12  # twice the total variation
    with pytest.raises(BadInput, match="32 finite samples"):
        Law.of(torch.ones(100))
    with pytest.raises(BadInput, match="even"):
        Law(torch.tensor([0.0, 1, 2, 3, 5, 6, 7, 8]), torch.zeros(8))
    with pytest.raises(BadInput, match="not a number"):
        Law(torch.arange(8.0), torch.full((8,), torch.nan))


RANKS = """
import sys, numpy as np, torch
sys.path.insert(0, {tests!r})
from test_assimilation_pointwise import Alone, law, table
from hpcinv import assimilation
from hpcinv.parallel import connect
world = connect("mpi")
torch.set_num_threads(1)
for guidance in ({{}}, {{"scope": "trajectory"}}):
    likelihood = assimilation.PointwiseLikelihood(
        table([-0.9, 0.1, 0.4, 0.9, 0.2], 0.3), law(200), shape=(1, 1), length=9,
        operator=lambda u: u * u,
    )
    r = assimilation.sample(
        Alone(), shape=(1, 1), length=9, window=3, overlap=1, members=range(2), world=world,
        likelihood=likelihood, sampler={{"steps": 4}}, reproducible=True, group=2,
        guidance=guidance,
    )
    mine = (r.members, r.frames, r.x.numpy())
    parts = world.comm.gather(mine) if world.size > 1 else [mine]
    if world.rank == 0:
        out = np.zeros((2, 9))
        for members, frames, x in parts:
            for i, m in enumerate(members):
                out[m, list(frames)] = x[i, :, 0, 0]
        print(out.tobytes().hex())
"""


@pytest.mark.mpi
def test_the_same_bits_on_any_ranks(mpirun):
    from pathlib import Path

    script = RANKS.format(tests=str(Path(__file__).parent))
    one = mpirun(1, script)
    assert len(one) > 100 and mpirun(3, script) == one
