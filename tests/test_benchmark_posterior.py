r"""The closed form that the posterior benchmark prints is the law of what `sample` draws."""

import math
import sys
from pathlib import Path

import pytest
import torch

from hpcinv import assimilation
from hpcinv.assimilation import engine
from hpcinv.assimilation.config import GuidanceConfig, SamplerConfig
from hpcinv.assimilation.guidance import Estimate
from hpcinv.assimilation.guidance.estimate import Level
from hpcinv.assimilation.samplers import Sampler

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "benchmarks"))
torch.set_num_threads(1)
LENGTH, N = 9, 36


@pytest.mark.parametrize(
    "sampler",
    [
        {"method": "heun", "steps": 2, "corrections": 2},
        {"method": "adams-bashforth", "order": 3, "steps": 3, "corrections": 1},
        {"method": "ddim", "eta": 0.7, "steps": 2, "final": "keep"},
    ],
)
def test_closed_form_is_the_law_of_sample(sampler, monkeypatch):
    from affine import Engine
    from oracles import Chain

    chain = Chain(LENGTH)
    y = chain.observations(3)
    solve = {"iterations": 30, "tolerance": 1e-12}
    setting = {"window": 5, "overlap": 3, "denoiser": chain.denoiser(5), "guidance": solve}
    M, P, figures = Engine(
        chain.likelihood(y), shape=(4,), length=LENGTH, compose_="junction", **setting
    ).law(sampler)

    drawn: dict[tuple, torch.Tensor] = {}

    def draw(likelihood, only):
        r"""Members whose noise is unit vectors for one purpose and step, else zero."""

        def frames(shape, *, purpose, member, frames, step, dtype, **names):
            drawn.setdefault((purpose, step), None)
            unit = torch.zeros(N, dtype=dtype)
            if (purpose, step) == only:
                unit[member] = 1
            return unit.view(LENGTH, *shape)[[*frames]]

        monkeypatch.setattr(engine.keyed, "frames", frames)
        return assimilation.sample(
            shape=(4,), length=LENGTH, members=range(N), likelihood=likelihood, batch=N,
            dtype=torch.float64, compose="junction", sampler=sampler, **setting,
        ).x.flatten(1)  # fmt: skip

    mean = draw(chain.likelihood(y), None)
    assert torch.allclose(mean[0], M @ y, atol=1e-8)
    zero, total = chain.likelihood(0 * y), torch.zeros(N, N, dtype=torch.float64)
    for key in list(drawn):
        x = draw(zero, key)
        total += x.T @ x
    assert torch.allclose(total, P, atol=1e-8)
    assert P.diagonal().mean() > 0.01 and figures["events"] == 0


@pytest.mark.parametrize("delta", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_corrections_leave_a_gaussian_as_it_is(delta, sigma):
    # x ~ N(0, 1); its variance at the level is α² + σ², whatever the share renewed.
    alpha, runs = 0.8, 60
    gain = alpha / (alpha**2 + sigma**2)
    sampler = Sampler(SamplerConfig(corrections=runs, delta=delta), [])
    columns = runs + 2  # what was there, one for each draw of noise, one for the start

    def noise(purpose):
        out = torch.zeros(columns, dtype=torch.float64)
        out[-1 if purpose == "correction start" else 1 + int(purpose.split()[1])] = 1
        return out

    x = torch.zeros(columns, dtype=torch.float64)
    x[0] = math.hypot(alpha, sigma)
    for steps, slack in ((runs, 1e-3 if sigma > 0.1 else 0.02), (1, delta**2 / 4)):
        one = Sampler(SamplerConfig(corrections=steps, delta=delta), [])
        sampler = sampler if steps == runs else one
        level = Level(torch.tensor(0.5), alpha, sigma, 0)
        z = sampler._correct(x, level, lambda v, _: Estimate(gain * v), noise)
        assert abs(float(z.square().sum()) / (alpha**2 + sigma**2) - 1) < slack, steps


def test_sda_stays_where_its_variance_is_no_smaller_than_the_noise():
    from affine import Engine
    from oracles import Chain

    chain = Chain(LENGTH)
    y = chain.observations(3)
    off = {}
    for gamma in (0.01, 1.0):
        M, *_ = Engine(
            chain.likelihood(y), shape=(4,), length=LENGTH, window=LENGTH,
            denoiser=chain.denoiser(LENGTH), guidance={"method": "sda", "gamma": gamma},
        ).law({"method": "heun", "steps": 8})  # fmt: skip
        off[gamma] = float((((M - chain.K) @ y) / chain.std).square().mean().sqrt())
    assert off[1.0] < 5 < 50 < off[0.01]
    assert GuidanceConfig(method="sda").gamma == 1.0
