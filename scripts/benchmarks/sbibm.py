#!/usr/bin/env python
"""Posteriors of the sbibm tasks, with default settings, beside the published ones and beside sbi.

    .venv/bin/python scripts/benchmarks/sbibm.py [TASK ...] [--simulations 10000] [--seeds 0 1 2]
        [--sbi PYTHON] [--folds 5] [--out FILE]

The figure is sbibm's: the accuracy with which a classifier tells 10,000 posterior samples from
the reference samples (C2ST, 0.5 is perfect), averaged over the ten published observations.
References and observations come from the sbibm 1.1.0 wheel (MIT), which is downloaded once with
pip and checked; nothing of it is installed. The published figures of NPE are those of Lueckmann
et al. (2021, https://arxiv.org/abs/2101.04653), from the data of their site. --sbi names a Python
that has sbi: its NPE is trained, with its defaults, on the same simulations. --folds 1 tests one
of the five folds instead of all: a fifth of the time, the same expectation, more noise.

Needs scikit-learn (extra `sbi`). Seconds are of CPU on one thread, training and sampling. With
--out, a run that was interrupted goes on where it was: what the file has is not run again, nor are
observations that have been classified.
"""

import argparse
import bz2
import hashlib
import io
import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

SELF, CHILDREN = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
WHEEL = "sbibm-1.1.0-py2.py3-none-any.whl"
SHA256 = "12ecc6b4d327b92f9225f08faa6405e4274fb8e75943d86a53157d1b1bcfaf74"
PUBLISHED = {  # by simulations: 1,000, 10,000, 100,000
    "two_moons": (0.725, 0.606, 0.542),
    "gaussian_linear": (0.694, 0.552, 0.506),
    "gaussian_linear_uniform": (0.696, 0.553, 0.509),
    "gaussian_mixture": (0.716, 0.615, 0.548),
    "bernoulli_glm": (0.863, 0.678, 0.559),
    "slcp": (0.975, 0.901, 0.831),
}
TOLD = ("steps", "validation", "weights")  # of a training
BOUNDS = {"two_moons": 1, "gaussian_linear_uniform": 1, "gaussian_mixture": 10, "slcp": 3}


# --- the tasks (definitions: appendix T of the paper) ---------------------------------------


def two_moons(n, rng, files):
    theta = rng.uniform(-1, 1, (n, 2))
    a, r = rng.uniform(-math.pi / 2, math.pi / 2, n), rng.normal(0.1, 0.01, n)
    p = np.stack([r * np.cos(a) + 0.25, r * np.sin(a)], 1)
    q = np.stack([-abs(theta.sum(1)), theta[:, 1] - theta[:, 0]], 1) / math.sqrt(2)
    return theta, p + q


def gaussian_linear(n, rng, files):
    theta = math.sqrt(0.1) * rng.standard_normal((n, 10))
    return theta, theta + math.sqrt(0.1) * rng.standard_normal((n, 10))


def gaussian_linear_uniform(n, rng, files):
    theta = rng.uniform(-1, 1, (n, 10))
    return theta, theta + math.sqrt(0.1) * rng.standard_normal((n, 10))


def gaussian_mixture(n, rng, files):
    theta = rng.uniform(-10, 10, (n, 2))
    spread = np.where(rng.uniform(size=(n, 1)) < 0.5, 1.0, 0.1)
    return theta, theta + spread * rng.standard_normal((n, 2))


def bernoulli_glm(n, rng, files):
    import torch

    def tensor(name):  # weights_only: nothing of the file is run
        return torch.load(io.BytesIO(files(f"bernoulli_glm/files/{name}")), weights_only=True)

    stimulus, design = tensor("stimulus_I.pt").numpy(), tensor("design_matrix.pt").numpy()
    M = 9
    D = np.eye(M) - np.diag(np.ones(M - 1), -1)
    F = D @ D + np.diag(np.sqrt(np.arange(M) / M))
    B = np.zeros((M + 1, M + 1))
    B[0, 0], B[1:, 1:] = 0.5, F.T @ F
    theta = rng.standard_normal((n, M + 1)) @ np.linalg.cholesky(np.linalg.inv(B)).T
    y = (rng.uniform(size=(n, 100)) < 1 / (1 + np.exp(-theta @ design.T))).astype(float)
    padded = np.concatenate([np.zeros((n, M - 1)), y, np.zeros((n, M - 1))], 1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, 100, axis=1)
    sta = seen @ stimulus.ravel()
    return theta, np.concatenate([y.sum(1, keepdims=True), sta[:, -M:]], 1)


def slcp(n, rng, files):
    theta = rng.uniform(-3, 3, (n, 5))
    s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    a = np.sqrt(s1**2 + 1e-6)
    c = rho * s1 * s2 / a
    b = np.sqrt(np.maximum(s2**2 + 1e-6 - c**2, 1e-12))
    z = rng.standard_normal((n, 4, 2))
    first = theta[:, [0]] + a[:, None] * z[..., 0]
    second = theta[:, [1]] + c[:, None] * z[..., 0] + b[:, None] * z[..., 1]
    return theta, np.stack([first, second], -1).reshape(n, 8)


TASKS = {
    f.__name__: f
    for f in (
        two_moons, gaussian_linear, gaussian_linear_uniform, gaussian_mixture, bernoulli_glm, slcp
    )
}  # fmt: skip


def wheel():
    """The sbibm wheel in the user's cache, whose checksum is known."""
    from hpcinv.io.sources import cache

    path = cache() / WHEEL
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q",
                        "--disable-pip-version-check", "-d", str(path.parent), "sbibm==1.1.0"],
                       check=True)  # fmt: skip
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{path}: its SHA-256 is {found}, not {SHA256}")
    return zipfile.ZipFile(path)


# --- the peers ------------------------------------------------------------------------------


def ours(world, task, theta, x, observed, seed, samples, **model):
    """Samples (10, samples, P) of hpcinv's posterior, trained with its defaults."""
    import torch

    from hpcinv.inference.sample import draw
    from hpcinv.io.rows import PartWriter, Rows, join
    from hpcinv.models import load
    from hpcinv.training import train
    from hpcinv.training.config import TrainConfig
    from hpcinv.training.posterior import PosteriorLearner
    from hpcinv.training.posterior_config import (
        POSTERIOR_TRAINING,
        PosteriorConfig,
        PosteriorLoss,
    )  # fmt: skip
    from hpcinv.training.simulations import SimulationDataset

    torch.set_num_threads(1)
    n, P = theta.shape
    names = [{"name": f"t{k}"} for k in range(P)]
    if task in BOUNDS:
        names = [p | {"low": -BOUNDS[task], "high": BOUNDS[task]} for p in names]
    with tempfile.TemporaryDirectory() as work:
        writer = PartWriter(Path(work) / "parts", 0, n, {"theta": ((P,), "f4"),
                            "x": (x.shape[1:], "f4"), "ok": ((), "u1")})  # fmt: skip
        writer.write(theta=theta, x=x, ok=np.ones(n))
        writer.close()
        join(Path(work), [Path(work) / "parts"], n, {})
        rows, loss = Rows(work), PosteriorLoss()
        data = SimulationDataset(rows, 0.0, 1 - loss.validation)
        held = SimulationDataset(rows, 1 - loss.validation, 1.0)
        fields = PosteriorConfig(**model).model_dump() | {
            "parameters": names, "shape": list(x.shape[1:])
        }  # fmt: skip
        figures = train(
            PosteriorLearner(fields, loss, seed=seed, held=held), data,
            TrainConfig(**POSTERIOR_TRAINING, seed=seed),
            world=world, folder=work, validation=held,
        )  # fmt: skip
        flow = load(work)
    found = draw(flow, torch.from_numpy(observed), ids=range(len(observed)), samples=samples,
                 seed=seed)  # fmt: skip
    return found.theta.numpy(), figures


PEER = """
import sys, numpy as np, torch
from sbi.inference import NPE
from sbi.utils import BoxUniform
torch.set_num_threads(1)
d = np.load(sys.argv[1])
torch.manual_seed(int(d["seed"]))
theta, x = torch.from_numpy(d["theta"]).float(), torch.from_numpy(d["x"]).float()
b = float(d["bound"]) * torch.ones(theta.shape[1])
prior = BoxUniform(-b, b) if b[0] > 0 else None  # samples outside of it are drawn again
inference = NPE(prior=prior, show_progress_bars=False)
inference.append_simulations(theta, x).train()
posterior = inference.build_posterior()
out = []
for o in torch.from_numpy(d["observed"]).float():
    s = posterior.sample((int(d["samples"]),), x=o[None], show_progress_bars=False)
    out.append(s.numpy())
np.save(sys.argv[2], np.stack(out))
"""


def sbi(python, task, theta, x, observed, seed, samples):
    """Samples of sbi's NPE with its defaults, told the bounds, in an environment of its own."""
    with tempfile.TemporaryDirectory() as work:
        np.savez(f"{work}/task.npz", theta=theta, x=x, observed=observed, seed=seed,
                 samples=samples, bound=BOUNDS.get(task, 0))  # fmt: skip
        python = str(Path(python).absolute())  # its logs stay in the folder, too
        subprocess.run([python, "-c", PEER, "task.npz", "out.npy"], check=True, cwd=work)
        return np.load(f"{work}/out.npy")


def c2st(reference, samples, folds, seed=1):
    """sbibm's classifier two-sample test, over the first of its five folds or all; in single
    precision, as there."""
    from sklearn.model_selection import KFold
    from sklearn.neural_network import MLPClassifier

    reference, samples = np.float32(reference), np.float32(samples)
    mean, std = reference.mean(0), reference.std(0, ddof=1)
    data = np.concatenate([(reference - mean) / std, (samples - mean) / std])
    target = np.repeat([0, 1], [len(reference), len(samples)])
    width, right = 10 * data.shape[1], []
    parts = list(KFold(5, shuffle=True, random_state=seed).split(data))
    for fit, test in parts[:folds]:
        net = MLPClassifier((width, width), max_iter=1000, random_state=seed)
        right.append(net.fit(data[fit], target[fit]).score(data[test], target[test]))
    return float(np.mean(right))


def kept(path):
    """The lines of an earlier run, by what they are about."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    return {key(line): line for line in map(json.loads, lines)}


def unfinished(out, line):
    """Where a run keeps its samples and what it found of the first observations."""
    if out is None:
        return None
    name = "-".join(str(line[k]) for k in ("who", "task", "seed", "simulations", "folds"))
    told = hashlib.sha256(key(line).encode()).hexdigest()[:8]
    return out.with_name(f"{out.name}.{name}-{told}.npz")


def key(line):
    return json.dumps([line[k] for k in ("who", "task", "seed", "simulations", "folds", "model")])


def seconds():
    """CPU seconds of this process and of those it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (SELF, CHILDREN))


def table(lines):
    """A line for each task: mean C2ST over the seeds, hpcinv's and sbi's, beside the published."""
    print(f"\n{'task':<25}{'simulations':>12}{'published':>11}"
          f"{'hpcinv (seeds; s)':>30}{'sbi (seeds; s)':>30}")  # fmt: skip
    for task, simulations in sorted({(line["task"], line["simulations"]) for line in lines}):
        cells = []
        for who in ("hpcinv", "sbi"):
            mine = [v for v in lines if (v["who"], v["task"], v["simulations"])
                    == (who, task, simulations)]  # fmt: skip
            each = " ".join(f"{v['c2st']:.3f}" for v in mine)
            mean = [np.mean([v[k] for v in mine]) for k in ("c2st", "seconds") if mine]
            cells.append(f"{mean[0]:.3f} ({each}; {mean[1]:.0f})" if mine else "-")
        known = dict(zip((1_000, 10_000, 100_000), PUBLISHED[task], strict=True))
        told = f"{known[simulations]:.3f}" if simulations in known else "-"
        print(f"{task:<25}{simulations:>12,}{told:>11}{cells[0]:>30}{cells[1]:>30}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("tasks", nargs="*", default=list(TASKS))
    p.add_argument("--simulations", type=int, default=10_000)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--sbi", metavar="PYTHON")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--samples", type=int, default=10_000)
    p.add_argument("--model", type=json.loads, default={}, help="other fields of the model")
    p.add_argument("--out", type=Path, help="a line of JSON for each task and seed; what it has "
                   "is not run again")  # fmt: skip
    args = p.parse_args()
    from hpcinv.parallel import connect

    world = connect("torch")  # one for all: DeepSpeed keeps the first it meets
    done, shown = kept(args.out), []
    with wheel() as z:

        def files(name):
            return z.read(f"sbibm/tasks/{name}")

        def numbers(name):
            raw = files(name)
            raw = bz2.decompress(raw) if name.endswith("bz2") else raw
            return np.loadtxt(io.BytesIO(raw), delimiter=",", skiprows=1, ndmin=2)

        for name, seed in itertools.product(args.tasks, args.seeds):
            place = f"{name}/files/num_observation_"
            observed = np.concatenate(
                [numbers(f"{place}{k}/observation.csv") for k in range(1, 11)]
            ).astype(np.float32)
            rng = np.random.default_rng([seed, 20210])
            theta, x = (a.astype(np.float32) for a in TASKS[name](args.simulations, rng, files))
            given = (theta, x, observed, seed, args.samples)
            peers = {"hpcinv": lambda g=given, n=name: ours(world, n, *g, **args.model)}
            if args.sbi:
                peers["sbi"] = lambda g=given, n=name: (sbi(args.sbi, n, *g), {})
            for who, sample in peers.items():
                line = {"who": who, "task": name, "seed": seed, "simulations": args.simulations,
                        "folds": args.folds, "model": args.model}  # fmt: skip
                if key(line) not in done:
                    begun = unfinished(args.out, line)
                    if begun is not None and begun.exists():
                        with np.load(begun) as f:
                            samples, each = f["samples"], f["each"].tolist()
                            line = json.loads(str(f["line"]))
                    else:
                        began, each = seconds(), []
                        samples, told = sample()
                        line |= {"seconds": round(seconds() - began, 1)}
                        line |= {k: told[k] for k in TOLD if k in told}
                    for k in range(len(each), 10):
                        known = numbers(f"{place}{k + 1}/reference_posterior_samples.csv.bz2")
                        each.append(c2st(known[: args.samples], samples[k], args.folds))
                        print(f"{who} {name} {seed}: observation {k + 1} {each[-1]:.3f}",
                              file=sys.stderr, flush=True)  # fmt: skip
                        if begun is not None:
                            np.savez(begun, samples=samples, each=each, line=json.dumps(line))
                    line |= {"c2st": float(np.mean(each)), "each": np.round(each, 3).tolist()}
                    done[key(line)] = line
                    if args.out:
                        with args.out.open("a") as f:
                            f.write(json.dumps(line) + "\n")
                        begun.unlink()
                    print(json.dumps(line), flush=True)
                shown.append(done[key(line)])
    table(shown)


if __name__ == "__main__":
    main()
