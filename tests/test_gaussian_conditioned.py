"""The Gaussian that sees a noisy window and observations: its mean is the textbook's."""

import numpy as np
import pytest
import torch

from hpcinv.errors import BadInput
from hpcinv.kinds.study import load
from hpcinv.models.gaussian_conditioned import ConditionedSkip
from hpcinv.models.observed_fields import encode
from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser

C, P, W = 3, 4, 5  # channels, points, frames
SHOWN = [0, 2]


def made(modes, seed=0):
    """A skip with random modes and memories, in double precision."""
    g = torch.Generator().manual_seed(seed)
    skip = ConditionedSkip(C * P, modes, P, SHOWN).double()
    U = torch.linalg.qr(torch.randn(C * P, C * P, generator=g, dtype=torch.float64))[0]
    skip.modes.copy_(U[:, :modes])
    skip.variance.copy_(3 * torch.rand(modes, generator=g) + 0.1)
    skip.memory.copy_(0.97 * torch.rand(modes, generator=g))
    skip.rest.fill_(0.3)
    return skip


def exact(skip, x_t, alpha, sigma, value, error, seen, times):
    """The mean by the covariance of all numbers of the window, in one dense solve."""
    U, n = skip.modes.numpy(), C * P
    lag = np.abs(times[:, None] - times)
    rest = float(skip.rest) * (np.eye(n) - U @ U.T)
    S = np.kron(np.eye(len(times)), rest)
    for k in range(U.shape[1]):
        T = float(skip.variance[k]) * float(skip.memory[k]) ** lag
        S += np.kron(T, np.outer(U[:, k], U[:, k]))
    full_value, full_seen = np.zeros((len(times), C, P)), np.zeros((len(times), C, P), bool)
    full_error = np.ones((len(times), C, P))
    full_value[:, SHOWN], full_seen[:, SHOWN], full_error[:, SHOWN] = value, seen, error
    at = full_seen.ravel()
    H = np.concatenate([alpha * np.eye(len(at)), np.eye(len(at))[at]])
    R = np.concatenate([np.full(len(at), sigma**2), full_error.ravel()[at] ** 2])
    told = np.concatenate([x_t.ravel(), full_value.ravel()[at]])
    gain = S @ H.T @ np.linalg.inv(H @ S @ H.T + np.diag(R))
    return (gain @ told).reshape(len(times), C, P)


def drawn(seed, share=0.5):
    rng = np.random.default_rng(seed)
    value, error = rng.standard_normal((W, 2, P)), rng.uniform(0.2, 1.5, (W, 2, P))
    seen = rng.random((W, 2, P)) < share
    y = torch.from_numpy(encode(value, error, seen).astype(np.float64))
    return rng.standard_normal((W, C, P)), value, error, seen, y


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_with_all_modes_the_mean_is_exact(sigma):
    skip = made(C * P)
    times = np.array([0.0, 1, 2, 5, 6])
    parts = [drawn(seed) for seed in (0, 1)]
    x, y = torch.from_numpy(np.stack([p[0] for p in parts])), torch.stack([p[-1] for p in parts])
    alpha = torch.full((2,), 0.9, dtype=torch.float64)
    found = skip(x, alpha, torch.full_like(alpha, sigma), torch.from_numpy(times), y)
    for f, (x_t, value, error, seen, _) in zip(found, parts, strict=True):
        e = exact(skip, x_t, 0.9, sigma, value, error, seen, times)
        # The fields of an observation are told in single precision.
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-5)
    alone = super(ConditionedSkip, skip).forward(x, alpha, torch.full_like(alpha, sigma),
                                                 torch.from_numpy(times).expand(2, W))  # fmt: skip
    assert (found - alone).abs().max() > (0.5 if sigma >= 1 else 1e-4)


def test_beside_few_modes_one_observation_a_frame_tells_of_them_exactly():
    # What is white outside the modes is taken as independent from point to point: of one point
    # that is no approximation, and the point's own value is exact, too.
    skip, times = made(5), np.arange(float(W))
    x_t, value, error, seen, _ = drawn(0)
    seen[:] = False
    seen[np.arange(W), [0, 1, 1, 0, 0], [0, 3, 2, 1, 1]] = True
    y = torch.from_numpy(encode(value, error, seen).astype(np.float64))
    e = exact(skip, x_t, 1.0, 1.0, value, error, seen, times)
    one = torch.ones(1, dtype=torch.float64)
    found = skip(torch.from_numpy(x_t)[None], one, one, None, y[None])[0].numpy()
    U = skip.modes.numpy()
    np.testing.assert_allclose(found.reshape(W, -1) @ U, e.reshape(W, -1) @ U, atol=1e-5)
    np.testing.assert_allclose(found[:, SHOWN][seen], e[:, SHOWN][seen], atol=1e-5)
    alone = skip(torch.from_numpy(x_t)[None], one, one)[0].numpy()
    assert np.abs((alone - e).reshape(W, -1) @ U).max() > 0.1


def test_without_observations_it_is_the_gaussian_alone():
    skip = made(5)
    x = torch.from_numpy(drawn(0)[0])[None]
    one = torch.ones(1, dtype=torch.float64)
    none = torch.zeros(1, W, 4, P, dtype=torch.float64)
    found = skip(x, one, one, None, none)
    torch.testing.assert_close(found, skip(x, one, one), atol=1e-10, rtol=0)


def test_a_denoiser_that_has_learnt_nothing_interpolates():
    net = TrajectoryDenoiser(
        C, (P,), width=8, depth=1, modes=C * P, context=0, periodic=False, observed=2,
        conditioned=SHOWN, sigma_max=200.0,
    )  # fmt: skip
    net.skip.load_state_dict({k: v.float() for k, v in made(C * P).state_dict().items()})
    x_t, value, error, seen, y = drawn(3)
    d = net(200 * torch.from_numpy(x_t)[None].float(), torch.ones(()), y=y[None].float()).mean
    e = exact(made(C * P), 200 * x_t, 1.0, 200.0, value, error, seen, np.arange(float(W)))
    np.testing.assert_allclose(d[0].detach(), e, atol=2e-3)


def test_it_needs_modes(tmp_path):
    (tmp_path / "1_simulate.yaml").write_text(
        "kind: simulate\nsimulator: lorenz96\nsimulations: 2\ntrajectory: {frames: 8}\n"
    )
    (tmp_path / "2_train.yaml").write_text(
        "kind: train\ndata: simulate\nwindow: 2\nmodel: {name: trajectory_denoiser}\n"
        "conditioning: {gaussian: true}\ntraining: {steps: 1, batch: 1}\n"
    )
    with pytest.raises(BadInput, match="without a Gaussian skip"):
        load(tmp_path).check()


def test_a_fit_survives_an_eigensolver_that_gives_nan(monkeypatch):
    # Seen once in single precision, of a covariance with the zeros of land.
    eigh = torch.linalg.eigh
    spoilt = lambda a: eigh(a) if a.dtype == torch.float64 else (a[0] * torch.nan, a)  # noqa: E731
    x = torch.randn(200, 3, 6, generator=torch.Generator().manual_seed(0))
    x[..., 4:] = 0
    skip, again = ConditionedSkip(6, 4, 2, [0]), ConditionedSkip(6, 4, 2, [0])
    skip.fit(x)
    monkeypatch.setattr(torch.linalg, "eigh", spoilt)
    again.fit(x)
    torch.testing.assert_close(again.variance, skip.variance)
    torch.testing.assert_close(again.memory, skip.memory)
