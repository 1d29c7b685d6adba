"""Posteriors of parameters: exact answers of toys, densities that integrate to one, resumption."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from npe_toys import SIGMA, A, Linear
from zuko.transforms import MonotonicRQSTransform

from hpcinv.errors import Stopped
from hpcinv.inference.mode import mode
from hpcinv.inference.sample import draw
from hpcinv.inference.weights import effective
from hpcinv.io.rows import PartWriter, Rows, join
from hpcinv.models import load, spline_inverse
from hpcinv.models.autoregressive import inverse
from hpcinv.models.embeddings import embedding
from hpcinv.models.posterior_flow import PosteriorFlow
from hpcinv.models.spline import Spline
from hpcinv.simulators.base import Key
from hpcinv.training import train
from hpcinv.training.config import TrainConfig
from hpcinv.training.posterior import PosteriorLearner, moments, redraw_of
from hpcinv.training.posterior_config import PosteriorLoss
from hpcinv.training.simulations import SimulationDataset

JOBS = {
    "1_simulate": "kind: simulate\nsimulator: npe_toys:Linear\nsimulations: 4000\n",
    "2_withheld": "kind: simulate\nsimulator: npe_toys:Linear\nsimulations: 200\nseed: 7\n",
    "3_train": "kind: train\ndata: simulate\nmodel: {name: posterior, flows: [nsf, maf]}\n"
    "training: {steps: 500, learning_rate: 2e-3}\n",
    "4_infer": "kind: infer\nposterior: train\nsimulations: simulate\nobservations: withheld\n"
    "samples: 1000\nshard: 50\nbatch: 50\nmap_steps: 20\nnumber: 200\npredictive: 20\n",
    "5_evaluate": "kind: evaluate\nsamples: infer\nreference: exact.npy\n",
    "6_report": "kind: report\ntitle: A line\nevaluate: evaluate\nsamples: infer\n"
    "simulations: [simulate, withheld]\n",
}


def exact_samples(n, samples):
    """Of the exact posteriors of the first n withheld simulations as 4_infer observes them."""
    toy = Linear()
    x = toy.simulate(toy.prior.sample(Key(7, range(n))), Key(7, range(n)))
    x = toy.noise(x, Key(0, range(n))).double().numpy()
    inverse = np.linalg.inv(A.T.double().numpy() @ A.double().numpy())
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n, 20 * samples, 2)) @ np.linalg.cholesky(inverse * SIGMA**2).T
    drawn = (x @ A.double().numpy() @ inverse)[:, None] + noise
    return np.stack([d[(np.abs(d) < 3).all(1)][:samples] for d in drawn])


def test_the_posterior_is_the_conjugate_one_however_it_is_cut(tmp_path):
    study, runs = tmp_path / "toy", tmp_path / "runs"
    study.mkdir()
    for name, text in JOBS.items():
        (study / f"{name}.yaml").write_text(text + "resources: {cpus_per_task: 1}\n")
    np.save(study / "exact.npy", exact_samples(2, 1000))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    base = [sys.executable, "-m", "hpcinv", "run"]
    told = {"capture_output": True, "text": True, "env": env}
    done = subprocess.run([*base, study, "--runs", runs], **told)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Rows(runs / "toy" / "infer")
    S = np.linalg.inv(A.T.numpy() @ A.numpy()) * SIGMA**2  # flat prior, well inside its bounds
    inside = np.abs(found.read("truth")).max(1) < 2
    mean = found.read("x") @ A.numpy() @ np.linalg.inv(A.T.numpy() @ A.numpy())
    deviation = np.sqrt(np.diag(S))
    error = (found.read("mean") - mean)[inside] / deviation
    assert np.sqrt((error**2).mean()) < 0.25
    assert 0.85 < np.median(found.read("std")[inside] / deviation) < 1.2
    assert np.sqrt((((found.read("mode") - mean)[inside] / deviation) ** 2).mean()) < 0.4
    # The likelihood is known: weights of a good posterior are nearly equal.
    assert np.median(found.read("effective")[inside]) > 800
    # Resampled by their weights, samples are nearer to the exact answer.
    w = np.exp(found.read("log_weight") - found.read("log_weight").max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    better = ((w[..., None] * found.read("samples")).sum(1) - mean)[inside] / deviation
    assert np.sqrt((better**2).mean()) < 0.5 * np.sqrt((error**2).mean())
    # What is judged and told is what is there.
    card = json.loads((runs / "toy" / "evaluate" / "scores.json").read_text())
    assert card["simulations"] == 200 and card["checks"]["coverage"]["distance"] < 0.15
    entropy = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * S))
    assert card["nll"]["low"] - 0.1 < entropy < card["nll"]["high"] + 0.1
    assert card["fit"]["false_alarms"] < 0.2
    # Samples of the exact answers of two observations: hardly to be told from ours.
    beside = card["reference"]
    assert [e["samples"] for e in beside["each"]] == [1000, 1000]
    assert 0.45 < beside["c2st"]["value"] < 0.6, beside
    page = (runs / "toy" / "report" / "report.html").read_text()
    assert f"{beside['c2st']['value']:.3f}" in page and "Beside reference samples" in page
    assert f"{card['parameters']['a']['contraction']['value']:.3f}" in page
    assert page.count("data:image/png") == 2 and "4,000" in page
    # Cut into tasks of an array, the same samples.
    array = "resources={array: {over: observations, tasks: 2}, cpus_per_task: 1}"
    job = [study / "4_infer.yaml", array]
    os.rename(runs / "toy" / "infer", runs / "whole")
    done = subprocess.run([*base, *job, "--runs", runs], **told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Rows(runs / "toy" / "infer").digest == found.digest
    # Samples alone are the same samples, and nothing is told that takes a density.
    shutil.rmtree(runs / "toy" / "infer")
    for name in ("5_evaluate", "6_report"):  # they need densities, and say so
        (study / f"{name}.yaml").unlink()
    done = subprocess.run(
        [*base, study / "4_infer.yaml", "densities=false", "--runs", runs], **told
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bare, found = Rows(runs / "toy" / "infer"), Rows(runs / "whole")
    assert np.array_equal(bare.read("samples"), found.read("samples"))
    gone = {"log_density", "mode", "mode_log_density", "densest", "log_weight", "effective"}
    assert set(found.columns) - set(bare.columns) == gone
    # Another study, which does not know the job that drew them, is told too.
    other = tmp_path / "other.yaml"
    other.write_text(
        f"kind: evaluate\nsamples: {runs}/toy/infer\nresources: {{cpus_per_task: 1}}\n"
    )
    done = subprocess.run([*base, other, "--runs", runs], **told)
    assert done.returncode == 2 and "have no densities" in done.stdout + done.stderr


@pytest.fixture
def flow():
    torch.manual_seed(0)
    parameters = [
        {"name": "a", "low": -1.0, "high": 3.0},
        {"name": "b", "low": 0.1, "high": 10.0, "scale": "log"},
    ]
    made = PosteriorFlow(
        parameters, (2,), flows=["nsf", "maf"], width=16, embedding={"name": "none"}
    )
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(1.3)  # not the identity
        made.z_mean += torch.tensor([0.3, -0.2])
        made.z_std *= 0.7
        made.weights.copy_(torch.tensor([0.3, 0.7]))
    return made.eval().requires_grad_(False)


def test_a_density_integrates_to_one_and_is_that_of_its_samples(flow):
    n = 400
    a = -1 + 4 * (np.arange(n) + 0.5) / n
    edges = np.geomspace(0.1, 10, n + 1)
    b = np.sqrt(edges[1:] * edges[:-1])
    grid = torch.tensor(np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2))
    x = torch.tensor([[0.4, -1.2]])
    p = flow.log_prob(grid, x.expand(len(grid), -1)).exp().reshape(n, n).numpy()
    cell = 4 / n * np.diff(edges)
    assert abs((p * cell).sum() - 1) < 0.01
    d = draw(flow, x, ids=[5], samples=20_000, seed=1)
    theta = d.theta[0]
    again = flow.log_prob(theta, x.expand(len(theta), -1))
    assert torch.allclose(d.log_density[0], again, atol=1e-3)
    # Moments of the samples are those of the density.
    want = (p * cell).sum(1) @ a, (p * cell).sum(0) @ np.log(b)
    got = theta[:, 0], theta[:, 1].log()
    for w, g in zip(want, got, strict=True):
        assert abs(float(g.mean()) - w) < 4 * float(g.std()) / 20_000**0.5 + 0.005
    best, height = mode(flow, x, d.theta, d.log_density, steps=40)
    assert float(height[0]) >= np.log(p.max()) - 0.02
    assert torch.allclose(flow.log_prob(best, x), height, atol=1e-3)


def test_a_spline_and_its_derivative_are_zukos():
    torch.manual_seed(2)
    phi = [3 * torch.randn(40, 5, n, dtype=torch.float64) for n in (8, 8, 7)]
    x = 4 * torch.randn(40, 5, dtype=torch.float64)  # some outside of +-5
    x[0, 0], x[0, 1] = 5.0, -5.0
    found = []
    for made in (Spline, MonotonicRQSTransform):
        given = [t.clone().requires_grad_() for t in (*phi, x)]
        y, ladj = made(*given[:3]).call_and_ladj(given[3])
        (y.sin().sum() + (ladj * torch.linspace(-1, 1, 5)).sum()).backward()
        found.append([y, ladj, *(t.grad for t in given)])
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-11)
    assert torch.allclose(Spline(*phi).inv(found[0][0]), x, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "coupling"), [("nsf", False), ("maf", False), ("nsf", True), ("naf", False)]
)
def test_the_inverse_is_zukos(kind, coupling, monkeypatch):
    monkeypatch.setattr(spline_inverse, "CHUNK", 22)  # seven draws of each, and a rest
    torch.manual_seed(1)
    flow = PosteriorFlow(
        [{"name": n} for n in "abcde"], (2,), flows=[kind], width=16, coupling=coupling
    ).eval()
    member = flow.members[0]
    z = torch.randn(40, 3, 5)
    # Splines end at +-5, beyond they are the identity; zuko looks for inverses of naf within +-10.
    z = 4 * z if kind == "nsf" else z.clamp(-2, 2)
    with torch.no_grad():
        context = flow.contexts(torch.randn(3, 2))[0]
        w, ladj = inverse(member.flow, context, z)
        theirs, less = member.flow(context).transform.inv.call_and_ladj(z)
        assert torch.allclose(w, theirs, atol=1e-4) and torch.allclose(ladj, -less, atol=1e-3)
        back, _ = member.flow(context).transform.call_and_ladj(w)
        assert torch.allclose(back, z, atol=2e-3)


def test_a_sample_is_a_function_of_its_names(flow):
    x = torch.randn(4, 2)
    whole = draw(flow, x, ids=[3, 4, 5, 6], samples=64, seed=2)
    alone = draw(flow, x[2:3], ids=[5], samples=64, seed=2)
    assert torch.allclose(whole.theta[2], alone.theta[0], atol=1e-5)
    bare = draw(flow, x, ids=[3, 4, 5, 6], samples=64, seed=2, densities=False)
    assert torch.equal(bare.theta, whole.theta) and bare.log_density.isnan().all()
    # Outside of narrower bounds they are rejected and counted, and the density is of the rest.
    few = draw(flow, x, ids=[3, 4, 5, 6], samples=256, seed=2, inside=lambda t: t[..., 0] > 1)
    assert (few.theta[..., 0] > 1).all() and (few.outside > 0).all()
    share = 1 - few.outside / few.drawn
    given = flow.log_prob(few.theta[1], x[1:2].expand(256, -1)) - share[1].log()
    assert torch.allclose(few.log_density[1], given, atol=1e-3)


def test_effective_samples():
    assert effective(torch.zeros(1, 50)).item() == pytest.approx(50)
    w = torch.tensor([[0.5, 0.25, 0.25]])
    assert effective(w.log()).item() == pytest.approx(1 / (0.25 + 0.125))


def test_moments_merge_and_leave_out_what_is_missing():
    x = np.random.default_rng(0).normal(1e4, 1.0, (1000, 3))
    x[::7, 1] = np.nan
    x[:, 2] = 5.0
    mean, std = moments(x[i : i + 130] for i in range(0, 1000, 130))
    assert np.allclose(mean, np.nanmean(x, 0)) and std[2] == 1
    assert np.allclose(std[:2], np.nanstd(x, 0, ddof=1)[:2])


class Shifted:
    """x is theta, and any shift of both is as likely."""

    def redrawn(self, theta, x, key):
        shift = key.normal("shift", (1,))
        return theta + shift, x + shift


def test_symmetries_are_drawn_anew_for_parameters_and_x_together(tmp_path):
    n = 40
    theta = np.arange(n, dtype="f4")[:, None]
    writer = PartWriter(tmp_path / "parts", 0, n, {"theta": ((1,), "f4"), "x": ((1,), "f4"),
                                                   "ok": ((), "u1")})  # fmt: skip
    writer.write(theta=theta, x=theta, ok=np.ones(n))
    writer.close()
    join(tmp_path, [tmp_path / "parts"], n, {})
    data = SimulationDataset(Rows(tmp_path))
    model = {"name": "posterior", "parameters": [{"name": "a"}], "shape": [1], "width": 8}
    learner, plain = (
        PosteriorLearner(model, PosteriorLoss(symmetries=on), redraw=redraw_of(Shifted(), 0))
        for on in (True, False)
    )
    keys = [(e, k) for e in (0, 1) for k in range(n)]
    found = learner.draws(data, keys, 0, "train")
    shift = found["theta"][:, 0] - np.tile(theta[:, 0], 2)
    assert np.allclose(found["x"], found["theta"], atol=1e-5)
    assert 0.7 < shift.std() < 1.3 and abs(np.corrcoef(shift[:n], shift[n:])[0, 1]) < 0.5
    # Of their own names, not of the batch's; and another purpose draws others.
    alone = learner.draws(data, keys[50:52], 0, "train")["theta"]
    assert np.array_equal(alone, found["theta"][50:52])
    assert not np.allclose(learner.draws(data, keys, 0, "validation")["theta"], found["theta"])
    assert np.array_equal(plain.draws(data, keys[:n], 0, "train")["theta"], theta)


@pytest.mark.parametrize("name", ["mlp", "resmlp", "conv1d", "conv2d", "set", "transformer"])
def test_what_is_missing_has_no_say(name):
    torch.manual_seed(0)
    net = embedding((2, 6), True, name=name, features=5, width=8, depth=2, heads=2).eval()
    flow = PosteriorFlow([{"name": "a"}], (2, 6), missing=True, embedding={"name": name})
    x = torch.randn(3, 2, 6)
    mask = torch.rand(3, 2, 6) < 0.7
    hidden = torch.where(mask, x, torch.nan)
    flow.x_mean += 1.5  # a missing value is no observed mean either
    a, b = flow.eval()._seen(hidden)
    assert (b == mask).all() and (a[~mask] == 0).all()
    assert net(a, b).shape == (3, 5)
    filled = torch.where(mask, x, flow.x_mean)
    assert not torch.allclose(flow.features(hidden), flow.features(filled))


def rows(folder, n=400, seed=0):
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-3, 3, (n, 2)).astype("f4")
    x = theta @ A.numpy().T + SIGMA * rng.standard_normal((n, 3), "f4")
    writer = PartWriter(folder / "parts", 0, n, {"theta": ((2,), "f4"), "x": ((3,), "f4"),
                                                 "ok": ((), "u1")})  # fmt: skip
    writer.write(theta=theta, x=x, ok=np.ones(n))
    writer.close()
    join(folder, [folder / "parts"], n, {})
    return Rows(folder)


@pytest.mark.slow
def test_a_posterior_of_what_is_left_is_the_conjugate_one(tmp_path, world):
    """A transformer trained on holes: each number missing in turn, against the exact Gaussian."""
    data = SimulationDataset(rows(tmp_path, 8000))
    name = {"name": "transformer", "features": 16, "width": 32, "depth": 1}
    model = {"name": "posterior", "parameters": [{"name": p, "low": -3, "high": 3} for p in "ab"],
             "shape": [3], "flows": ["maf"], "embedding": name, "missing": True}  # fmt: skip
    learner = PosteriorLearner(model, PosteriorLoss(missing=0.7), seed=0)
    config = TrainConfig(steps=1200, batch=256, learning_rate=3e-3, seed=0, ema=0.99)
    train(learner, data, config, world=world, folder=tmp_path)
    flow = load(tmp_path)
    rng = np.random.default_rng(5)
    theta = rng.uniform(-1.5, 1.5, (60, 2)).astype("f4")
    x = theta @ A.numpy().T + SIGMA * rng.standard_normal((60, 3), "f4")
    for missing in (None, 0, 1, 2):
        kept = [k for k in range(3) if k != missing]
        hidden = x.copy()
        if missing is not None:
            hidden[:, missing] = np.nan
        found = draw(flow, torch.from_numpy(hidden), ids=range(60), samples=1000, seed=0).theta
        B = A.numpy()[kept]
        S = np.linalg.inv(B.T @ B) * SIGMA**2
        deviation = np.sqrt(np.diag(S))
        error = (found.mean(1).numpy() - x[:, kept] @ B @ S / SIGMA**2) / deviation
        ratio = np.median(found.std(1).numpy() / deviation, axis=0)
        print(missing, np.sqrt((error**2).mean()), ratio)
        assert np.sqrt((error**2).mean()) < 0.35 and (abs(ratio - 1) < 0.2).all()


class StopAfter:
    def __init__(self, steps):
        self.left = steps

    def requested(self, world):
        self.left -= 1
        return self.left < 0


def test_a_training_that_was_stopped_keeps_its_best(tmp_path, world):
    store = rows(tmp_path / "rows")
    data, held = SimulationDataset(store, 0, 0.5), SimulationDataset(store, 0.5, 1)
    model = {"name": "posterior", "parameters": [{"name": "a"}, {"name": "b"}], "shape": [3],
             "flows": ["nsf", "maf"], "width": 16}  # fmt: skip
    config = TrainConfig(
        steps=200, batch=40, schedule="plateau", patience=1, falls=2, validate_every=5, warmup=2,
        learning_rate=3e-2, ema=0.9, checkpoint_every=10, seed=3, validation_samples=200,
    )  # fmt: skip

    def go(folder, stop=None):
        learner = PosteriorLearner(model, seed=3, held=held)
        return train(learner, data, config, world=world, folder=folder, validation=held,
                     stop=stop)  # fmt: skip

    whole = go(tmp_path / "whole")
    assert whole["best_step"] < whole["steps"] < 200  # it ended by itself, after its best
    for k in (17, 12, 9):
        with pytest.raises(Stopped):
            go(tmp_path / "cut", StopAfter(k))
    assert go(tmp_path / "cut") == whole
    one, two = ((tmp_path / d / "weights.safetensors").read_bytes() for d in ("whole", "cut"))
    assert one == two


def test_a_store_is_read_out_of_core_and_every_row_once(tmp_path):
    n, width = 60_000, 512  # 123 MB
    writer = PartWriter(tmp_path / "parts", 0, n, {"theta": ((1,), "f4"), "x": ((width,), "f4"),
                                                   "ok": ((), "u1")})  # fmt: skip
    for a in range(0, n, 5000):
        ids = np.arange(a, a + 5000, dtype="f4")
        writer.write(theta=ids[:, None], x=np.repeat(ids[:, None], width, 1), ok=ids != 7)
    writer.close()
    join(tmp_path, [tmp_path / "parts"], n, {})
    data = SimulationDataset(Rows(tmp_path), memory=24 << 20)
    assert len(data) == n - 1 and data.failed == 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = np.zeros(n, int)
    order = data.permutation(0, 0)
    for i in range(0, len(order), 1000):
        batch = data.take(order[i : i + 1000])
        assert (batch["x"][:, ::100] == batch["theta"]).all()
        seen[batch["theta"][:, 0].astype(int)] += 1
    assert seen[7] == 0 and (np.delete(seen, 7) == 1).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 << 10  # KiB
    # Batches are drawn from all over a group, and epochs differ.
    first = data.take(order[:256])["theta"][:, 0]
    assert first.std() > n / 10
    assert (data.permutation(0, 1) != order).any()


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(tmp_path):
    study = tmp_path / "toy"
    study.mkdir()
    (study / "1_simulate.yaml").write_text(JOBS["1_simulate"])
    for ranks in (1, 2):
        (study / f"{ranks + 1}_train{ranks}.yaml").write_text(
            "kind: train\ndata: simulate\nmodel: {name: posterior, flows: [nsf, maf], width: 32}\n"
            "training: {steps: 60, batch: 128, validate_every: 20, ema: 0.9}\n"
            f"resources: {{tasks_per_node: {ranks}, cpus_per_task: 1}}\n"
        )
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", study, "--runs", tmp_path / "runs"],
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    losses = []
    for ranks in (1, 2):
        lines = (tmp_path / "runs" / "toy" / f"train{ranks}" / "metrics.jsonl").read_text()
        told = [json.loads(line) for line in lines.splitlines()]
        losses.append([t["validation"] for t in told if "validation" in t])
    assert len(losses[0]) == 3 and losses[0][-1] < losses[0][0]
    # Only the order of sums differs.
    assert np.allclose(losses[0], losses[1], atol=2e-3)


def test_too_few_withheld_simulations_are_told_before_anything_runs(tmp_path):
    from hpcinv.errors import BadInput
    from hpcinv.kinds.study import load as load_study

    folder = tmp_path / "toy"
    folder.mkdir()
    for name, text in JOBS.items():
        (folder / f"{name}.yaml").write_text(text)
    np.save(folder / "exact.npy", np.zeros((2, 200, 2)))
    for override in ("withheld.simulations=99", "infer.rows=[10, 60]"):
        with pytest.raises(BadInput, match=r"simulations of 'withheld' are too few.*at least 100"):
            load_study(folder, None, [override]).check()
    load_study(folder, None, ["withheld.simulations=100"]).check()
    with pytest.raises(BadInput, match="samples without their densities"):
        load_study(folder, None, ["infer.densities=false"]).check()
