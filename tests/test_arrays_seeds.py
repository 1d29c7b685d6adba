"""Arrays over seeds: trainings of a posterior from several seeds make one ensemble of flows."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.io.analysis import open_analysis
from hpcinv.io.rows import Rows
from hpcinv.kinds.study import load
from hpcinv.models import load as load_model
from hpcinv.runs.folder import RunFolder

JOBS = {
    "1_simulate": "kind: simulate\nsimulator: npe_toys:Linear\nsimulations: 1500\n",
    "2_train": "kind: train\ndata: simulate\nmodel: {name: posterior, flows: [maf], width: 16}\n"
    "training: {steps: 150, checkpoint_every: 50}\nloss: {validation: 0.2}\nseed: 5\nseeds: 3\n",
}


def toy(folder):
    folder.mkdir()
    for name, text in JOBS.items():
        (folder / f"{name}.yaml").write_text(text + "resources: {cpus_per_task: 1}\n")
    return folder


def hpcinv(*args, env=None):
    env = (env or os.environ) | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.slow
def test_flows_of_several_seeds_are_one_ensemble_however_they_are_cut(tmp_path):
    study, runs, other = toy(tmp_path / "toy"), tmp_path / "runs", tmp_path / "other"
    hpcinv("run", study, "--runs", runs)
    train = runs / "toy" / "train"
    whole = load_model(train)
    alone = [load_model(train / "seeds" / str(k)) for k in range(3)]
    assert len(whole.members) == 3

    # The ensemble is the mixture of the trained flows, and no flow is that of another seed.
    rows = Rows(runs / "toy" / "simulate")
    theta, x = (torch.from_numpy(rows.read(n, 1200, 1500)) for n in ("theta", "x"))
    each = torch.stack([f.log_prob(theta, x) for f in alone])
    mixed = (each + whole.weights.double().log()[:, None]).logsumexp(0)
    assert torch.allclose(whole.log_prob(theta, x), mixed, atol=1e-6)
    assert min((each[a] - each[b]).abs().max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
    told = json.loads((train / "model.json").read_text())["extra"]
    assert told["validation"] <= min(told["validation_of_seeds"]) + 1e-3

    # The first is what a training of its seed alone gives.
    hpcinv("run", study / "1_simulate.yaml", "--runs", other)
    hpcinv("run", study / "2_train.yaml", "seeds=1", "--runs", other)
    once = load_model(other / "toy" / "train")
    assert all(torch.equal(v, once.state_dict()[k]) for k, v in alone[0].state_dict().items())

    # Cut into tasks of an array, the same bits.
    array = "resources={array: {over: seeds, tasks: 2}, cpus_per_task: 1}"
    hpcinv("run", study / "2_train.yaml", array, "--runs", other, "--fresh")
    cut = other / "toy" / "train"
    assert [manifest(cut / "tasks" / str(k))["block"] for k in (0, 1)] == [[0, 1], [1, 3]]
    assert manifest(cut)["outputs"] == manifest(train)["outputs"]


def test_ensembles_of_several_seeds_are_pooled_however_they_are_cut(tmp_path):
    """An ensemble filter's members make each other; those of another seed are another ensemble."""
    study, runs = make(tmp_path / "tiny"), tmp_path / "runs"
    text = (study / "3_oi.yaml").read_text()
    text = text.replace("method: oi", "method: etkf").replace("oi: {covariance: eof, eofs: 5}", "")
    (study / "3_oi.yaml").write_text(text.replace("members: 4", "members: 3\nseeds: 2\nseed: 7"))
    (study / "4_evaluate.yaml").unlink()
    hpcinv("run", study, "--runs", runs)
    job = study / "3_oi.yaml"
    pooled = open_analysis(runs / "tiny" / "oi").ensemble()
    outputs = manifest(runs / "tiny" / "oi")["outputs"]
    assert len(pooled) == 6
    for n in range(2):  # each is the ensemble of its seed, as a job of its own makes it
        hpcinv("run", job, "seeds=1", f"seed={7 + n}", "--runs", runs, "--fresh")
        alone = open_analysis(runs / "tiny" / "oi").ensemble()
        assert (alone == pooled[3 * n : 3 * n + 3]).all()
    assert (pooled[:3] != pooled[3:]).any()
    for cut in ("{over: seeds, tasks: 2}", "{over: members, tasks: 4}"):
        hpcinv("run", job, f"resources.array={cut}", "--runs", runs, "--fresh")
        assert manifest(runs / "tiny" / "oi")["outputs"] == outputs


@pytest.mark.slurm
@pytest.mark.slow
def test_on_slurm_a_seed_that_died_is_trained_again_alone(cluster, tmp_path):
    study, here, there = toy(tmp_path / "toy"), tmp_path / "here", tmp_path / "there"
    (study / "3_infer.yaml").write_text(
        "kind: infer\nposterior: train\nsimulations: simulate\nobservations: simulate\n"
        "rows: [0, 8]\nsamples: 50\nmap_steps: 2\nresources: {cpus_per_task: 1}\n"
    )
    hpcinv("run", study, "--runs", here, env=cluster)
    # Seed 1 dies, on its first start, when it has saved its first checkpoint.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('HPCINV_TASK') == '1' and 'SLURM_STEP_ID' in os.environ:\n"
        "    import hpcinv.training.checkpoints as c\n"
        "    save = c.Checkpoints.save\n"
        "    def dies(self, *a, **k):\n"
        "        save(self, *a, **k)\n"
        "        if self.attempt == 1: raise MemoryError('as if')\n"
        "    c.Checkpoints.save = dies\n"
    )
    env = cluster | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])}
    command = [sys.executable, "-m", "hpcinv"]
    array = "train.resources={array: {over: seeds, tasks: 3}, cpus_per_task: 1}"
    told = {"capture_output": True, "text": True, "env": env}
    to = ["--runs", str(there)]
    done = subprocess.run([*command, "submit", study, array, *to, "--wait"], **told)
    assert done.returncode == 1 and "memory of the host" in done.stdout, done.stdout + done.stderr
    done = subprocess.run([*command, "retry", "toy", *to], **told)
    assert done.returncode == 0 and "(1 tasks:" in done.stdout, done.stdout + done.stderr
    done = subprocess.run([*command, "submit", study, array, *to, "--wait"], **told)
    assert done.returncode == 0, done.stdout + done.stderr
    train = there / "toy" / "train"
    assert [len(manifest(train / "tasks" / str(k))["attempts"]) for k in range(3)] == [1, 2, 1]
    assert manifest(train / "tasks" / "1")["attempts"][1]["from"] == "step-50"
    for job in ("train", "infer"):
        a, b = (manifest(runs / "toy" / job)["outputs"] for runs in (here, there))
        assert a == b, job


def test_seeds_where_they_mean_nothing_are_refused_with_what_to_write(tmp_path):
    study = toy(tmp_path / "toy")
    with pytest.raises(BadInput, match="4 tasks cannot share 3 seeds"):
        load(study, None, ["train.resources.array={over: seeds, tasks: 4}"]).check()
    with pytest.raises(BadInput, match="cannot be cut over members"):
        load(study, None, ["train.resources.array={over: members, tasks: 2}"]).check()
    one = ["train.seeds=1", "train.resources.array={over: seeds, tasks: 1}"]
    with pytest.raises(BadInput, match=r"an array over seeds of one seed.*Write seeds: 2 or more"):
        load(study, None, one).check()
    tiny = make(tmp_path / "tiny")
    (tiny / "5_prior.yaml").write_text(
        "kind: train\ndata: import\nmodel: {name: trajectory_denoiser}\n"
        "training: {steps: 5, batch: 2}\n"
    )
    for given in ("seeds=2", "resources.array={over: seeds, tasks: 1}"):
        with pytest.raises(BadInput, match=r"of several seeds.*\n?.*each: {seed: \[0, 1, 2\]}"):
            load(tiny, None, [f"prior.{given}"]).check()
    with pytest.raises(BadInput, match=r"makes each member by itself.*write members: 12"):
        load(tiny, None, ["oi.seeds=3"])
    with pytest.raises(BadInput, match=r"Write seeds: 2\."):
        load(tiny, None, ["oi.resources.array={over: seeds, tasks: 2}"]).check()
    with pytest.raises(BadInput, match="cannot be cut over members"):
        load(tiny, None, ["prior.resources.array={over: members, tasks: 2}"]).check()
    with pytest.raises(BadInput, match=r"over seeds.*\n?.*Whole jobs of several seeds: each"):
        load(tiny, None, ["import.resources.array={over: seeds, tasks: 2}"]).check()


def test_how_far_seeds_have_come_is_progress(tmp_path):
    folder = RunFolder(tmp_path / "s" / "train")
    for n, step in ((0, 150), (1, 50)):
        at = folder.path / "seeds" / str(n) / "checkpoints"
        at.mkdir(parents=True)
        (at / "latest").write_text(f"step-{step}-a1")
    assert folder.reached() == "step-150 step-50"
    (at / "latest").write_text("step-100-a2")
    assert folder.reached() == "step-150 step-100"


def test_the_weight_of_a_flow_that_learnt_nothing_is_none():
    """What the join relies on: a seed that went wrong takes no part."""
    from hpcinv.models.posterior_flow import PosteriorFlow

    flow = PosteriorFlow([{"name": "a"}], (1,), flows=["maf"] * 3, width=4)
    normal = -0.5 * torch.randn(3, 2000).square() - 0.5 * math.log(2 * math.pi)
    flow.fit_weights(torch.stack([normal[0], normal[0] - 6, normal[0]]))
    assert flow.weights[1] == 0 and torch.allclose(flow.weights[[0, 2]], torch.tensor([0.5, 0.5]))
