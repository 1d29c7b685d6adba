r"""Windows of several time steps by one denoiser: learnt, told apart, and composed."""

import numpy as np
import pytest
import torch
from test_assimilate_modes import ASSIMILATE, hpcinv, run_here, study
from tiny_study import make

from hpcinv.assimilation import Coarse, StationaryGaussian, sample
from hpcinv.errors import BadInput
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load
from hpcinv.models.gaussian_skip import GaussianSkip
from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser
from hpcinv.training import train
from hpcinv.training.config import TrainConfig
from hpcinv.training.data import WindowDataset
from hpcinv.training.diffusion import DiffusionLearner

MEMORY, STEPS = 0.9, (1, 5)


def _correlation(times):
    times = torch.as_tensor(times, dtype=torch.float64)
    return MEMORY ** (times[:, None] - times).abs()


def _exact(x, correlation, sigma):
    r"""E[x | x_t] of rows of one variable."""
    noisy = correlation + sigma**2 * torch.eye(len(correlation))
    return x @ torch.linalg.solve(noisy, correlation)


def test_gaussian_skip_of_any_times_is_exact():
    skip = GaussianSkip(1, 1)
    skip.memory.fill_(MEMORY)
    times = torch.tensor([[0.0, 1.0, 2.0], [7.0, 11.0, 12.5], [3.0, 4.0, 5.0]])
    x = torch.randn(3, 3, 1, generator=torch.Generator().manual_seed(0))
    found = skip(x, torch.ones(3), torch.full((3,), 0.7), times)
    for row, when, mean in zip(x, times, found, strict=True):
        wanted = _exact(row[:, 0].double(), _correlation(when), 0.7)
        torch.testing.assert_close(mean[:, 0].double(), wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, skip(x, torch.ones(3), torch.full((3,), 0.7)), atol=1e-2)


class _Chains:
    r"""Windows of three frames of an autoregression, one or five frames apart."""

    def __init__(self, size=4000, told=True):
        rng = np.random.default_rng(0)
        self.times = np.array([k * np.arange(3) for k in STEPS], np.float32)
        factors = [np.linalg.cholesky(_correlation(t).numpy()) for t in self.times]
        x = [rng.standard_normal((size, 3)) @ f.T for f in factors]
        self.x = np.stack(x, 1).reshape(-1, 3, 1).astype(np.float32)
        self.told = told

    def __len__(self):
        return len(self.x)

    def sample(self, epoch, number):
        times = {"times": self.times[number % 2]} if self.told else {}
        return {"x": self.x[number], "context": np.zeros((3, 0), np.float32), **times}


@pytest.mark.slow
@pytest.mark.parametrize("modes", [0, 1])
def test_one_denoiser_learns_both_time_steps(tmp_path, world, modes):
    excess = {}
    for timed in (True,) if modes else (True, False):
        data = _Chains(told=timed)
        model = {
            "name": "trajectory_denoiser", "channels": 1, "grid": [], "width": 32, "depth": 2,
            "context": 0, "position": 0, "modes": modes, "timed": timed,
        }  # fmt: skip
        config = TrainConfig(
            steps=40 if modes else 400, batch=64, learning_rate=1e-2, ema=0.99,
            checkpoint_every=1000, warmup=20,
        )  # fmt: skip
        folder = tmp_path / str(timed)
        train(DiffusionLearner(model, seed=1), data, config, world=world, folder=folder)
        module = load(folder)
        for k, times in enumerate(data.times):
            x = torch.from_numpy(data.x[k:2000:2, :, 0]).double()
            x_t = x + 0.7 * torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape))
            exact = _exact(x_t, _correlation(times), 0.7)
            t = module.time(torch.log(torch.tensor(0.7)))
            told = torch.from_numpy(times) if timed else None
            found = module(x_t.float()[..., None], t, times=told).mean[..., 0]
            error = (found - exact).square().mean() / exact.square().mean()
            excess[timed, STEPS[k]] = float(error)
    assert max(excess[True, k] for k in STEPS) < 0.01, excess
    if not modes:  # what is not told which it sees has to guess
        assert all(excess[False, k] > 2.5 * excess[True, k] for k in STEPS), excess


def test_windows_of_a_store_are_its_frames(tmp_path):
    run_here(_imported(tmp_path / "tiny"), tmp_path / "runs")
    store = TrajectoryStore.open(tmp_path / "runs/tiny/import/store")
    data = WindowDataset(store, 3, (0, 24), (1, 4))
    assert len(data) == 22 + 16
    z = store.standardised(0, 24)
    for kept in (data._kept, None):  # from memory, and frame by frame
        data._kept = kept
        for number, first, k in ((21, 21, 1), (22, 0, 4), (37, 15, 4)):
            found = data.sample(0, number)
            frames = first + k * np.arange(3)
            assert np.array_equal(found["x"], z[frames])
            assert np.array_equal(found["times"], k * np.arange(3))
            assert np.array_equal(found["context"], store.context(frames))
    with pytest.raises(BadInput, match="no window of 3 frames 12 apart fits"):
        WindowDataset(store, 3, (0, 24), (1, 12))


def _imported(folder):
    make(folder)
    for name in ("2_observe", "3_oi", "4_evaluate"):
        (folder / f"{name}.yaml").unlink()
    return folder


@pytest.mark.parametrize("rule", ["center", "junction"])
def test_coarse_windows_by_one_denoiser_or_two(rule):
    schedule = TrajectoryDenoiser(1, (), modes=1).schedule
    timed = TrajectoryDenoiser(1, (), modes=1, width=8, depth=1, timed=True)
    timed.skip.memory.fill_(MEMORY)
    of = {
        k: StationaryGaussian(
            torch.zeros(5, 1), _correlation(k * torch.arange(5)).reshape(5, 1, 5, 1), schedule
        )
        for k in (1, 4)
    }
    common = {
        "shape": (1,), "length": 13, "window": 5, "overlap": 3, "members": range(4), "seed": 3,
        "compose": rule, "sampler": {"method": "heun", "steps": 8},
    }  # fmt: skip
    one = sample(timed, coarse=Coarse(4, 4), **common).x
    two = sample(of[1], coarse=Coarse(4, 4, denoiser=of[4]), **common).x
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    wrong = sample(of[1], coarse=Coarse(4, 4), **common).x  # the fine one, told nothing
    assert float((one - wrong).square().mean().sqrt()) > 0.05


def test_from_job_to_job(tmp_path):
    r"""A prior trained on two time steps samples with coarse windows; another refuses."""
    folder = _imported(tmp_path / "tiny")
    (folder / "2_train.yaml").write_text(
        "kind: train\ndata: import\nframes: [0, 24]\nwindow: 4\ntime_steps: [1, 3]\n"
        "model: {name: trajectory_denoiser, width: 8, depth: 1, context: 2, modes: 4}\n"
        "training: {steps: 2, batch: 2}\n"
    )
    text = ASSIMILATE.replace("./prior", "train").replace("observations: ./seen\n", "")
    (folder / "3_plain.yaml").write_text(text)
    wrong = folder / "3_coarse.yaml"
    wrong.write_text(text + "coarse: {step: 2, window: 4}\n")
    from hpcinv.kinds.study import load as load_study

    with pytest.raises(BadInput, match=r"time steps 1 and 2, by a prior of \[1, 3\]"):
        load_study(folder).check()
    wrong.write_text(text + "coarse: {step: 3, window: 4}\n")
    ended = hpcinv("run", folder, "--runs", tmp_path / "runs")  # DeepSpeed's own process
    assert ended.returncode == 0, ended.stderr
    x = {}
    for name in ("plain", "coarse"):
        with open_analysis(tmp_path / "runs/tiny" / name) as a:
            x[name] = a.ensemble()
    assert np.isfinite(x["coarse"]).all() and not np.array_equal(x["plain"], x["coarse"])

    path = study(tmp_path / "other")
    for name in ("2_reanalysis", "3_filtering", "9_evaluate"):
        (path / f"{name}.yaml").unlink()
    (path / "4_forecast.yaml").write_text(ASSIMILATE + "coarse: {step: 3, window: 4}\n")
    refused = hpcinv("run", path, "--runs", tmp_path / "runs")
    assert refused.returncode == 2
    assert "time steps 1 and 3, by a prior of [1]" in refused.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time_steps: [0]\n", "greater than or equal to 1"),
        ("time_steps: [1, 1]\n", "has one twice"),
        ("time_steps: [1, 3]\nheld: [15, 24]\n", "4 frames, 3 apart, do not fit into 9 held"),
        ("time_steps: [1, 3]\nwindow: 1\n", "means nothing to trajectory_denoiser with windows"),
        ("time_steps: [1, 3]\naugmentation: {}\n", "of the same time step only"),
    ],
)
def test_mistakes(tmp_path, text, said):
    from hpcinv.kinds.study import load as load_study

    folder = _imported(tmp_path / "tiny")
    window = "" if "window" in text else "window: 4\n"
    (folder / "2_train.yaml").write_text(
        f"kind: train\ndata: import\n{window}{text}model: {{name: trajectory_denoiser}}\n"
        "training: {steps: 2, batch: 2}\n"
    )
    with pytest.raises(BadInput) as e:
        load_study(folder).check()
    assert said in str(e.value)
