r"""The trajectory denoiser: its Gaussian skip is exact, and it takes any window."""

import math

import numpy as np
import pytest
import torch

from hpcinv.models import build
from hpcinv.models.gaussian_skip import GaussianSkip, principal
from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser

GRID, C, W = (3, 4), 2, 5
SIZE = C * math.prod(GRID)


def _skip():
    generator = torch.Generator().manual_seed(0)
    skip = GaussianSkip(SIZE, SIZE)
    basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))
    skip.modes.copy_(basis)
    skip.variance.copy_(torch.rand(SIZE, generator=generator) * 2 + 0.1)
    skip.memory.copy_(torch.rand(SIZE, generator=generator) * 0.9)
    return skip


def _covariance(skip, length):
    lag = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    time = skip.memory.double()[:, None, None] ** lag
    u = skip.modes.double()
    cov = torch.einsum("dk,k,kij,ek->idje", u, skip.variance.double(), time, u)
    return cov.reshape(length * SIZE, length * SIZE)


@pytest.mark.parametrize("single", ["works", "gives up", "gives NaN"])
def test_principal_axes_of_states_with_land(monkeypatch, single):
    r"""Half of the numbers never vary, and some repeat others: as a sea's do."""
    draw = np.random.default_rng(0).standard_normal((60, 40), dtype=np.float32) * 3
    x = np.zeros((60, 120), np.float32)
    x[:, 10:50], x[:, 70:80] = draw, draw[:, :10]
    covariance = torch.from_numpy(x.T @ x / 60)
    eigh, widths = torch.linalg.eigh, []

    def told(a):
        widths.append((len(a), a.dtype))
        if a.dtype == torch.float32 and single == "gives up":
            raise torch.linalg.LinAlgError("failed to converge")
        values, vectors = eigh(a)
        bad = a.dtype == torch.float32 and single == "gives NaN"
        return values, vectors * math.nan if bad else vectors

    monkeypatch.setattr(torch.linalg, "eigh", told)
    values, vectors = principal(covariance)
    assert widths[0] == (50, torch.float32) and len(widths) == 1 + (single != "works")
    assert (values[:50].diff() <= 1e-5).all() and (values[50:] == 0).all()
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(120), atol=1e-5, rtol=0)
    again = vectors * values @ vectors.T
    torch.testing.assert_close(again, covariance, atol=2e-5 * float(values[0]), rtol=0)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_gaussian_skip_against_the_exact_denoiser(length):
    skip = _skip()
    covariance = _covariance(skip, length)
    x = torch.randn(2, length, C, *GRID, generator=torch.Generator().manual_seed(1))
    alpha, sigma = torch.tensor([0.7, 1.0]), torch.tensor([0.3, 2.0])
    found = skip(x, alpha, sigma).flatten(1)
    for i in range(2):
        a, s = alpha[i].double(), sigma[i].double()
        noisy = a**2 * covariance + s**2 * torch.eye(len(covariance))
        wanted = a * covariance @ torch.linalg.solve(noisy, x[i].flatten().double())
        torch.testing.assert_close(found[i].double(), wanted, atol=2e-5, rtol=1e-4)


def test_fit_recovers_variances_and_memory():
    truth = _skip()
    truth.variance.copy_(2 * 0.8 ** torch.arange(SIZE))  # apart, so that modes can be told apart
    generator = torch.Generator().manual_seed(2)
    factor = torch.linalg.cholesky(_covariance(truth, W)).float()
    x = torch.randn(20000, W * SIZE, generator=generator) @ factor.T
    fitted = GaussianSkip(SIZE, SIZE)
    fitted.fit(x.reshape(-1, W, C, *GRID), shrinkage=0.0)
    exact, found = _covariance(truth, W), _covariance(fitted, W)
    assert float((exact - found).abs().max()) < 0.1


def test_untrained_denoiser_with_skip_is_the_gaussian_denoiser():
    module = TrajectoryDenoiser(C, GRID, width=16, depth=1, modes=SIZE)
    module.skip.load_state_dict(_skip().state_dict())
    x = torch.randn(1, W, C, *GRID, generator=torch.Generator().manual_seed(3))
    t = torch.tensor(0.4)
    alpha, sigma = module.schedule(t)
    torch.testing.assert_close(module(x, t).mean, module.skip(x, alpha[None], sigma[None]))


def test_some_modes_leave_the_rest_isotropic():
    skip = GaussianSkip(SIZE, 3)
    skip.rest.fill_(0.5)
    x = torch.randn(1, 2, C, *GRID, generator=torch.Generator().manual_seed(4))
    found = skip(x, torch.ones(1), torch.ones(1)).flatten(2)
    torch.testing.assert_close(found[..., 3:], x.flatten(2)[..., 3:] / 3)  # 0.5 / (0.5 + 1)
    torch.testing.assert_close(found[..., :3], x.flatten(2)[..., :3] / 2)


@pytest.mark.parametrize("grid", [(3, 4), (6,), ()])
@pytest.mark.parametrize("heads", [0, 2])
def test_any_grid_and_window_and_batches_alike(grid, heads):
    config = {"name": "trajectory_denoiser", "channels": C, "grid": grid, "width": 16, "depth": 2}
    module = build({**config, "heads": heads}, seed=3).eval()
    # Zero-initialised layers would hide the network.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in module.parameters():
            torch.nn.init.normal_(p, std=0.2)
    for length in (1, 3, 8):
        x = torch.randn(3, length, C, *grid, generator=torch.Generator().manual_seed(length))
        context = torch.ones(3, length, 2)
        t = torch.tensor([0.1, 0.5, 0.9])
        together = module(x, t, context=context).mean
        assert together.shape == x.shape
        apart = [module(x[i : i + 1], t[i], context=context[i]).mean[0] for i in range(3)]
        torch.testing.assert_close(together, torch.stack(apart), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(together, module(x, t).mean, atol=1e-3)  # context is heard


def test_time_inverts_the_schedule():
    module = TrajectoryDenoiser(1, (), sigma_min=0.02, sigma_max=20.0)
    level = torch.tensor([-3.0, 0.0, 2.0])
    alpha, sigma = module.schedule(module.time(level))
    torch.testing.assert_close(torch.log(sigma / alpha), level)


def test_build_is_a_function_of_fields_and_seed():
    config = {"name": "trajectory_denoiser", "channels": 1, "grid": (2, 4), "width": 8, "depth": 1}
    before = torch.random.get_rng_state()
    a, b, c = build(config, seed=1), build(config, seed=1), build(config, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(a.enter.weight, b.enter.weight)
    assert not torch.equal(a.enter.weight, c.enter.weight)


def test_recomputed_blocks_have_the_same_gradients_and_keep_less():
    from hpcinv.training import cost
    from hpcinv.training.diffusion import DiffusionLearner

    fields = {"name": "trajectory_denoiser", "channels": C, "grid": list(GRID), "width": 8}
    fields |= {"depth": 6, "heads": 2, "context": 0}
    one = {"x": np.ones((W, C, *GRID), np.float32), "context": np.zeros((W, 0), np.float32)}
    gradients, kept = [], []
    for checkpointing in (False, True):
        learner = DiffusionLearner({**fields, "checkpointing": checkpointing})
        with torch.no_grad():
            learner.module.leave.weight.fill_(0.1)  # or nothing reaches the blocks
        drawn = learner.draw(one, np.random.default_rng(0))
        learner({k: torch.as_tensor(v)[None] for k, v in drawn.items()}).backward()
        gradients.append([p.grad for p in learner.parameters()])
        kept.append(cost.describe(learner, drawn, 1).activations)
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
    assert sum(g.abs().sum() > 0 for g in gradients[0]) > 30
    assert kept[1] < 0.4 * kept[0]  # of six blocks one, and what goes into each
