r"""Filtering and forecasts of a linear-Gaussian chain against their exact answers."""

import numpy as np
import pytest
import torch
from azula.noise import VESchedule

from hpcinv import assimilation
from hpcinv.diffusion import noise
from hpcinv.errors import BadInput

torch.set_num_threads(1)
LENGTH, RHO = 12, 0.9
LAG = (torch.arange(40)[:, None] - torch.arange(40)).abs()
C = (RHO**LAG).double()


def denoiser(window):
    return assimilation.StationaryGaussian(
        torch.zeros(window, 1).double(), C[:window, None, :window, None], VESchedule(1e-2, 60.0)
    )


class Table:
    frame = np.arange(0, LENGTH, 2)
    channel = point = np.zeros(len(frame), int)
    value = noise.normal((len(frame),), seed=1, purpose="y", dtype=torch.float64).numpy()
    error = np.full(len(frame), 0.3)


def common(**extra):
    return {
        "shape": (1,), "members": range(300), "sampler": {"steps": 20}, "dtype": torch.float64,
        "batch": 300, "rows": 10_000, **extra,
    }  # fmt: skip


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_filtering_is_kalmans(ahead):
    r"""The analysis, and the forecasts before the last observations were seen."""
    likelihood = assimilation.PointLikelihood(
        Table, shape=(1,), length=LENGTH, dtype=torch.float64
    )
    result = assimilation.filtering(
        denoiser(LENGTH), length=LENGTH, window=LENGTH, overlap=0, likelihood=likelihood,
        times=[0, 5, 9], ahead=ahead, guidance={"iterations": 6}, **common(),
    )  # fmt: skip
    assert result.frames == [0, 5, 9]
    for k, i in enumerate(result.frames):
        seen = [j for j, f in enumerate(Table.frame) if f <= i - ahead]
        at = torch.from_numpy(Table.frame[seen]).long()
        S = C[at][:, at] + 0.09 * torch.eye(len(at)).double()
        gain = C[i, at] @ torch.linalg.inv(S)
        mean = float(gain @ torch.from_numpy(Table.value[seen]))
        std = float((C[i, i] - gain @ C[at, i]).sqrt())
        x = result.x[:, k, 0]
        assert abs(float(x.mean()) - mean) < 4 * std / 300**0.5 + 0.05 * std, i
        assert abs(float(x.std()) / std - 1) < 0.15, i


def test_filtering_sees_no_later_observation():
    class Later(Table):
        value = np.where(Table.frame > 5, 1e3, Table.value)

    out = []
    for table in (Table, Later):
        likelihood = assimilation.PointLikelihood(
            table, shape=(1,), length=LENGTH, dtype=torch.float64
        )
        out.append(
            assimilation.filtering(
                denoiser(5), length=LENGTH, window=5, overlap=2, likelihood=likelihood,
                times=[5], memory=5, **common(members=[0, 1], sampler={"steps": 3}),
            ).x
        )  # fmt: skip
    assert torch.equal(*out)


def test_forecast_has_the_chains_law():
    start = torch.full((300, 3, 1), 1.5).double()
    result = assimilation.forecast(
        denoiser(6), start=start, lead=8, window=6, overlap=2, first=7,
        **{k: v for k, v in common().items() if k not in ("shape", "dtype")},
    )  # fmt: skip
    assert result.frames == list(range(10, 18)) and result.x.shape == (300, 8, 1)
    for k in range(8):  # x[k+1 steps ahead] ~ N(ρ^(k+1) 1.5, 1 − ρ^(2k+2))
        a = RHO ** (k + 1)
        std = (1 - a * a) ** 0.5
        x = result.x[:, k, 0]
        assert abs(float(x.mean()) - 1.5 * a) < 4 * std / 300**0.5 + 0.06, k
        assert abs(float(x.std()) / std - 1) < 0.2, k
    lag = torch.corrcoef(result.x[:, 2:4, 0].T)[0, 1]
    assert float(lag) > 0.6


def test_forecast_rejects_what_does_not_fit():
    start = torch.zeros(2, 3, 1)
    for change in ({"overlap": 4}, {"overlap": 0}, {"lead": 0}, {"members": [1]}):
        with pytest.raises(BadInput):
            assimilation.forecast(
                denoiser(6),
                **{"start": start, "members": [0, 1], "lead": 2, "window": 4, **change},
            )


@pytest.mark.parametrize("covariance", ["own", "markov"])
def test_a_forecast_of_a_trained_prior_is_its_chain(covariance):
    """A denoiser that is its Gaussian part alone: an AR(1) chain, known without its network."""
    from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser

    prior = TrajectoryDenoiser(1, (4,), width=8, depth=1, context=0, modes=4,
                               sigma_min=0.01, sigma_max=60.0).double()  # fmt: skip
    prior.skip.memory.fill_(RHO)  # of unit variances; the network begins at zero
    known, lead = 4, 3
    truth = noise.normal((known, 1, 4), seed=2, purpose="x", dtype=torch.float64)

    class Seen:
        frame = np.repeat(np.arange(known), 4)
        channel, point = np.zeros(len(frame), int), np.tile(np.arange(4), known)
        value, error = truth.flatten().numpy(), np.full(len(frame), 0.02)

    likelihood = assimilation.PointLikelihood(
        Seen, shape=(1, 4), length=known + lead, dtype=torch.float64
    )
    analysis, later = assimilation.analysis_and_forecast(
        prior, length=known + lead, lead=lead, window=4, overlap=2, likelihood=likelihood,
        guidance={"covariance": covariance, "iterations": 12, "tolerance": 1e-3},
        **common(shape=(1, 4)),
    )  # fmt: skip
    # Only where the covariance is the Jacobian are its products formed, in the forecast too.
    assert (later.diagnostics["network_products"] > 0) == (covariance == "own")
    assert torch.allclose(analysis.x.mean(0), truth, atol=0.02)
    last = analysis.x[:, -1]
    for k in range(lead):
        m = RHO ** (k + 1)
        error = later.x[:, k] - m * last
        assert float(error.mean(0).abs().max()) < 4 * (1 - m**2) ** 0.5 / 300**0.5 + 0.05
        assert abs(float(error.std()) / (1 - m**2) ** 0.5 - 1) < 0.06, k
