r"""A denoiser that learns windows cut to fewer frames, against the exact one of each length."""

import numpy as np
import pytest
import torch

from hpcinv.diffusion.noise import generator
from hpcinv.models import load
from hpcinv.training import train
from hpcinv.training.config import DiffusionLoss, TrainConfig
from hpcinv.training.diffusion import DiffusionLearner

FRAMES = 4
MODEL = {
    "name": "trajectory_denoiser",
    "channels": 1,
    "grid": [],
    "width": 24,
    "depth": 3,
    "reach": [1, 2, 1],
    "context": 0,
    "position": 0,
}


class _Signs:
    r"""Windows of one number, 1 or -1, in every frame: E[x | x_t] is tanh of the sum / sigma²."""

    def __len__(self):
        return 2

    def sample(self, epoch, number):
        x = np.full((FRAMES, 1), 2.0 * number - 1.0, np.float32)
        return {"x": x, "context": np.zeros((FRAMES, 0), np.float32)}


def _error(module, frames, sigma):
    r"""Mean square distance from the exact posterior mean of windows of some frames."""
    rng = np.random.default_rng(frames)
    x = rng.choice([-1.0, 1.0], (2000, 1)) * np.ones((1, frames))
    x_t = torch.from_numpy(x + sigma * rng.standard_normal(x.shape))
    exact = torch.tanh(x_t.sum(1) / sigma**2)
    t = module.time(torch.log(torch.tensor(float(sigma))))
    found = module(x_t.float()[..., None], t).mean[..., 0]
    return float((found - exact[:, None]).square().mean())


def test_cut_windows_teach_short_ones_and_cost_the_whole_ones_little(tmp_path, world):
    config = TrainConfig(
        steps=500, batch=64, learning_rate=1e-2, checkpoint_every=1000, ema=0.99, warmup=20
    )
    errors = {}
    for short in (0.0, 0.5):
        loss = DiffusionLoss(log_sigma_mean=0.0, log_sigma_std=0.5, short=short)
        learner = DiffusionLearner(MODEL, loss, seed=1)
        train(learner, _Signs(), config, world=world, folder=tmp_path / str(short))
        module = load(tmp_path / str(short))
        errors[short] = [_error(module, n, 1.0) for n in range(1, FRAMES + 1)]
    print(errors)
    assert max(errors[0.5]) < 0.01
    # Who saw whole windows only takes one frame's number for four that agree.
    assert errors[0.0][0] > 4 * errors[0.5][0]
    assert errors[0.0][-1] < 0.01


@pytest.mark.parametrize("short", [0.0, 0.4])
def test_lengths_are_of_the_step_and_of_its_share(short):
    learner = DiffusionLearner(MODEL, DiffusionLoss(short=short))
    times = torch.arange(FRAMES).float().expand(3, FRAMES)
    seen = []
    for step in range(2000):
        batch = {"x": times[..., None], "times": times, "level": torch.zeros(3)}
        cut = learner.alike(batch, generator(0, "loss-alike", step))
        again = learner.alike(batch, generator(0, "loss-alike", step))
        torch.testing.assert_close(cut["times"], again["times"], rtol=0, atol=0)
        torch.testing.assert_close(cut["x"][..., 0], cut["times"], rtol=0, atol=0)
        assert cut["level"].shape == (3,) and (cut["times"].diff(dim=1) == 1).all()
        seen.append((cut["x"].shape[1], int(cut["times"][0, 0])))
    lengths = np.bincount([n for n, _ in seen], minlength=FRAMES + 1) / len(seen)
    assert lengths[FRAMES] == pytest.approx(1 - short, abs=0.04)
    np.testing.assert_allclose(lengths[1:FRAMES], short / (FRAMES - 1), atol=0.03)
    if short:  # from any frame on
        assert {first for n, first in seen if n == 2} == set(range(FRAMES - 1))
