r"""Denoisers conditioned on y: fields of observations, and the posterior they amount to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hpcinv.assimilation import PointLikelihood, sample
from hpcinv.assimilation.conditioned import Conditioned
from hpcinv.errors import BadInput
from hpcinv.io.statistics import Statistics
from hpcinv.models import load
from hpcinv.models.observed_fields import encode
from hpcinv.training import train
from hpcinv.training.config import ConditioningConfig, TrainConfig
from hpcinv.training.diffusion import DiffusionLearner
from hpcinv.training.observing import draw_observations

GRID = 6


class _Field:
    r"""Windows of two frames of a line of six correlated points."""

    def __init__(self, size=3000):
        i = np.arange(GRID)
        along = 0.8 ** np.abs(i[:, None] - i)
        self.covariance = np.kron([[1.0, 0.7], [0.7, 1.0]], along)
        factor = np.linalg.cholesky(self.covariance)
        x = np.random.default_rng(0).standard_normal((size, 2 * GRID)) @ factor.T
        self.x = x.reshape(size, 2, 1, GRID).astype(np.float32)

    def __len__(self):
        return len(self.x)

    def sample(self, epoch, number):
        return {"x": self.x[number], "context": np.zeros((2, 0), np.float32)}


def _table(**columns):
    rows = len(columns["frame"])
    given = {"channel": np.zeros(rows, int), "error": np.full(rows, 0.6), **columns}
    return SimpleNamespace(**{k: np.asarray(v) for k, v in given.items()})


def _statistics(mean=3.0, std=2.0, length=2):
    one = np.ones((1, 1, GRID))
    return Statistics(mean * one, std * one, np.array([9]), np.zeros(length, int))


def test_one_observation_is_its_own_posterior_mean():
    y = np.array([[[1.5, 9.0]]])
    fields = encode(y, np.array([[[0.5, 0.5]]]), np.array([[[True, False]]]))
    # Of a standard normal seen with sigma 0.5: mean y / 1.25, and 1 / 1.25 was learnt.
    np.testing.assert_allclose(fields[0], [[1.5 / 1.25, 0], [1 / 1.25, 0]], rtol=1e-6)


def test_fields_of_a_table_are_standardised_and_merged():
    table = _table(frame=[1, 1, 0], point=[4, 4, 2], value=[5.0, 7.0, 1.0], error=[1.0, 2.0, 2.0])
    shown = Conditioned(SimpleNamespace(schedule=None), table, _statistics(), range(2), [0])
    merged = (1.0 * 4 + 2.0 * 1) / 5  # precisions of 4 and 1; standardised values 1 and 2
    weight = 1 / (1 + 1 / 5)
    expected = np.zeros((2, 2, GRID))
    expected[1, :, 4] = merged * weight, weight
    expected[0, :, 2] = -0.5, 0.5
    found = torch.stack([shown.fields(f) for f in (0, 1)]).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_random_sets_are_those_of_the_fields():
    x = np.zeros((400, 2, 50), np.float32)
    config = ConditioningConfig(fraction=(0.3, 0.3), noise=(0.5, 0.5), missing=0.0, gaps=0.25)
    y = draw_observations(x, [1], config, np.random.default_rng(0))
    seen = y[:, 1] > 0
    np.testing.assert_allclose(np.unique(y[:, 1]), [0.0, 0.8])
    assert (~seen).all(1).mean() == pytest.approx(0.25, abs=0.07)
    assert seen.mean() == pytest.approx(0.75 * 0.3, abs=0.03)
    assert y[:, 0][seen].std() == pytest.approx(0.5 * 0.8, rel=0.05)
    assert not y[:, 0][~seen].any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, world):
    folder = tmp_path_factory.mktemp("conditioned")
    model = {
        "name": "trajectory_denoiser", "channels": 1, "grid": [GRID], "width": 48, "depth": 3,
        "context": 0, "position": 2, "periodic": False, "observed": 1,
    }  # fmt: skip
    sets = ConditioningConfig(fraction=(0.15, 0.6), noise=(0.2, 0.5), gaps=0.2)
    learner = DiffusionLearner(model, seed=1, conditioning=sets, observed=[0])
    config = TrainConfig(
        steps=900, batch=64, learning_rate=5e-3, checkpoint_every=1000, ema=0.99, warmup=30
    )
    train(learner, _Field(), config, world=world, folder=folder)
    return folder


@pytest.mark.slow
def test_samples_are_of_the_exact_posterior(trained):
    prior, data = load(trained), _Field(2)
    table = _table(frame=[0, 0, 1], point=[1, 4, 2], value=[5.5, 1.5, 4.0])
    shown = Conditioned(prior, table, _statistics(), range(2), [0])
    result = sample(
        shown, shape=(1, GRID), length=2, window=2, overlap=1, members=range(800), seed=0,
        context=Conditioned.context(2, None), sampler={"method": "heun", "steps": 24},
    )  # fmt: skip
    where = table.frame * GRID + table.point
    s, r = data.covariance, 0.3**2
    gain = np.linalg.solve(s[where][:, where] + r * np.eye(3), s[where]).T
    mean = gain @ ((table.value - 3) / 2)
    deviation = np.sqrt(np.diag(s - gain @ s[where]))
    x = result.x.reshape(800, -1).numpy()
    assert np.sqrt(np.mean((mean / deviation) ** 2)) > 0.7  # how far the prior's own mean is
    assert np.sqrt(np.mean(((x.mean(0) - mean) / deviation) ** 2)) < 0.25
    assert np.mean(x.std(0) / deviation) == pytest.approx(1.0, abs=0.12)


def test_what_it_was_not_trained_for_is_refused(trained):
    prior = load(trained)
    table = _table(frame=[0], point=[0], value=[1.0], channel=[1])
    table.variables = ("t", "salt")
    with pytest.raises(BadInput, match="not trained on observations of salt"):
        Conditioned(prior, table, _statistics(), range(2), [0])
    with pytest.raises(ValueError, match="runs from"):
        ConditioningConfig(noise=(0.5, 0.1))


def test_what_lies_between_grid_points_is_refused_by_samplers():
    table = _table(frame=[0], point=[0], value=[1.0])
    table.plain = False
    with pytest.raises(BadInput, match="at grid points only"):
        Conditioned(SimpleNamespace(schedule=None), table, _statistics(), range(2), [0])
    with pytest.raises(BadInput, match="between grid points"):
        PointLikelihood(table, _statistics(), range(2))
