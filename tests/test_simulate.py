"""Simulate: failures are counted, splits change nothing, what is lost is made anew."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from npe_toys import A, Frail

from hpcinv.errors import BadInput
from hpcinv.io.rows import PartWriter, Rows, join
from hpcinv.simulators.base import Key
from hpcinv.simulators.external import External
from hpcinv.simulators.running import REASONS, Runner

JOB = """kind: simulate
simulator: npe_toys:Linear
options: {fail: 0.01}
simulations: 4000
shard: 500
"""


def hpcinv(*args):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True, env=env
    )


@pytest.fixture
def job(tmp_path):
    (tmp_path / "toy").mkdir()
    path = tmp_path / "toy" / "1_simulate.yaml"
    path.write_text(JOB)
    return path


def test_failures_splits_and_a_truncated_shard(job, tmp_path):
    digests = []
    for k, more in enumerate(([], ["resources.array={over: shards, tasks: 3}"])):
        done = hpcinv("run", job, *more, "--runs", tmp_path / f"runs{k}")
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(Rows(tmp_path / f"runs{k}" / "toy" / "simulate").digest)
    assert digests[0] == digests[1]
    folder = tmp_path / "runs0" / "toy" / "simulate"
    rows = Rows(folder)
    counts = json.loads((folder / "failures.json").read_text())["counts"]
    ok = rows.read("ok").astype(bool)
    assert counts["not finite"] == (~ok).sum() == 4000 - counts["ok"]
    assert 15 < counts["not finite"] < 70  # binomial, 40 +- 4 deviations
    assert np.array_equal(ok, np.isfinite(rows.read("x")).all(1))
    assert np.allclose(rows.read("x")[ok], rows.read("theta")[ok] @ A.numpy().T, atol=1e-5)
    # A shard cut short after its task had ended is made anew, the same.
    part = sorted((folder / "parts").glob("*.h5"))[2]
    part.write_bytes(part.read_bytes()[:3000])
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"state": "failed"}))
    done = hpcinv("run", job, "--runs", tmp_path / "runs0")
    logs = "".join(p.read_text() for p in (folder / "logs").iterdir())
    assert done.returncode == 0 and "made anew" in done.stdout + done.stderr + logs
    assert Rows(folder).digest == digests[0]


def test_a_killed_task_is_made_again_and_told(job, tmp_path):
    array = "resources.array={over: shards, tasks: 2}"
    args = ("run", job, array, f"options={{fail: 0.01, kill: {tmp_path / 'once'}}}", "--runs")
    first = hpcinv(*args, tmp_path / "runs")
    assert first.returncode == 137
    folder = tmp_path / "runs" / "toy" / "simulate"
    whole = {p: p.stat().st_mtime_ns for p in folder.rglob("rows-*.h5")}
    assert len(whole) >= 3  # shards 0 to 2, before the kill in shard 3
    second = hpcinv(*args, tmp_path / "runs")
    assert second.returncode == 0, second.stdout + second.stderr
    assert all(p.stat().st_mtime_ns == t for p, t in whole.items())  # what was whole was kept
    assert len(Rows(folder)) == 4000
    told = json.loads((folder / "failures.json").read_text())
    assert told["again"] == [{"task": 0, "attempts": 2}]


STUDY = {
    "2_withheld": "kind: simulate\nsimulator: npe_toys:Linear\nsimulations: 120\nseed: 7\n",
    "3_train": "kind: train\ndata: simulate\ntraining: {steps: 60}\n"
    "model: {name: posterior, flows: [maf], width: 16}\n",
    "4_infer": "kind: infer\nposterior: train\nsimulations: simulate\nobservations: withheld\n"
    "samples: 100\nmap_steps: 2\n",
    "5_evaluate": "kind: evaluate\nsamples: infer\n",
    "6_report": "kind: report\ntitle: A line\nevaluate: evaluate\nsamples: infer\n"
    "simulations: [simulate, withheld]\n",
}


@pytest.mark.slow
def test_what_a_study_lost_and_made_again_stands_in_its_report(job, tmp_path):
    """1% of the simulations fail, a task is killed, and a shard is truncated before the rest."""
    job.write_text(
        JOB.replace("fail: 0.01", f"fail: 0.01, kill: {tmp_path / 'once'}")
        + "resources: {array: {over: shards, tasks: 2}, cpus_per_task: 1}\n"
    )
    for name, text in STUDY.items():
        (job.parent / f"{name}.yaml").write_text(text + "resources: {cpus_per_task: 1}\n")
    first = hpcinv("run", job.parent, "--runs", tmp_path / "runs")
    assert first.returncode == 137 and "not started" in first.stdout + first.stderr
    folder = tmp_path / "runs" / "toy" / "simulate"
    (part,) = folder.rglob("rows-*0500-*1000.h5")
    part.write_bytes(part.read_bytes()[:3000])
    second = hpcinv("run", job.parent, "--runs", tmp_path / "runs")
    assert second.returncode == 0, second.stdout + second.stderr
    failed = int((~Rows(folder).read("ok").astype(bool)).sum())
    assert 15 < failed < 70
    page = (tmp_path / "runs" / "toy" / "report" / "report.html").read_text()
    told = page[page.index("What was lost, and made again") :]
    row = told[told.index('<th scope="row">simulate</th>') :]
    cells = re.findall("<td>(.*?)</td>", row)[:5]
    assert cells == [
        "4,000", str(failed), f"{failed} not finite", "rows 500 to 999", "task 0 (2 starts)"
    ]  # fmt: skip


def test_bad_priors_are_named(job, tmp_path):
    for prior, said in (
        ("{a: {low: 2, high: 1, unit: m}}", "prior of 'a': low (2) is not below high (1)"),
        ("{a: {low: 0, high: 1}}", "prior of 'a': the unit is missing"),
    ):
        done = hpcinv("run", job, f"prior={prior}", "--runs", tmp_path / "runs")
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_each_way_to_fail_costs_one_simulation():
    runner = Runner(Frail, Frail(), timeout=15.0)
    theta = np.linspace(0.1, 0.6, 6, dtype=np.float32)[:, None]
    out = runner.run(theta, Key(0, np.arange(6)))
    runner.close()
    assert [REASONS[r] for r in out.reason] == [
        "ok", "exception", "time-out", "died", "not finite", "ok",
    ]  # fmt: skip
    assert np.array_equal(out.x[[0, 5]], theta[[0, 5]]) and np.isnan(out.x[1:5]).all()
    assert any("no root" in message for _, _, message in out.notes)


def test_parameters_are_given_where_a_portable_simulator_may_take_them():
    class Where(Frail):
        batched = True

        def simulate(self, theta, key):
            self.seen = theta.device.type
            return torch.zeros(len(theta), 1)

    for portable, device in ((True, "meta"), (False, "cpu")):
        simulator = Where()
        simulator.portable = portable
        out = Runner(Where, simulator, device="meta").run(
            np.zeros((3, 1), np.float32), Key(0, [1, 2, 3])
        )
        assert simulator.seen == device and (out.reason == 0).all()


def test_a_program_is_a_simulator_and_its_failures_are_told(tmp_path):
    program = tmp_path / "twice.py"
    program.write_text(
        "import json, sys\n"
        "told = json.load(open(sys.argv[1]))\n"
        "if told['id'] == 1: sys.exit('no convergence')\n"
        "open(sys.argv[2], 'w').write(f\"{2 * told['theta']['a']} {told['seed']}\")\n"
    )
    found = External(
        [sys.executable, str(program), "{input}", "{output}"],
        [{"name": "a", "low": 0, "high": 1, "unit": "1"}],
        {"name": "x", "unit": "1", "shape": [2]},
    )
    runner = Runner(lambda: found, found)
    theta = np.array([[0.25], [0.5], [0.75]], np.float32)
    out = runner.run(theta, Key(3, np.arange(3)))
    assert np.allclose(out.x[[0, 2], 0], 2 * theta[[0, 2], 0])
    assert [REASONS[r] for r in out.reason] == ["ok", "exception", "ok"]
    assert "no convergence" in out.notes[0][2]
    again = runner.run(theta[2:], Key(3, [2]))  # the seed belongs to the simulation
    assert np.array_equal(again.x[0], out.x[2])


def test_damage_and_gaps_in_a_store_are_named(tmp_path):
    def part(start, stop):
        w = PartWriter(tmp_path / "parts", start, stop, {"x": ((2,), "f4")})
        w.write(x=np.arange(2 * start, 2 * stop, dtype=np.float32).reshape(-1, 2))
        w.close()
        return w.path

    part(0, 10), part(20, 30)
    with pytest.raises(BadInput, match="rows 10 to 19 are missing"):
        join(tmp_path, [tmp_path / "parts"], 30, {})
    middle = part(10, 20)
    join(tmp_path, [tmp_path / "parts"], 30, {})
    rows = Rows(tmp_path)
    assert np.array_equal(rows.read("x", 8, 23)[:, 0], np.arange(16, 46, 2))
    rows.close()
    middle.write_bytes(middle.read_bytes()[:-100])
    with pytest.raises(BadInput, match=middle.name):
        join(tmp_path, [tmp_path / "parts"], 30, {})
