"""One training on two nodes that dies of everything a cluster has, and ends in the same bits.

Each death comes at a random moment (of a fixed seed), inside a save or not. What each may cost is
one interval of checkpoints.
"""

import contextlib
import random
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import _environment
from test_scripts_dev_cluster import call
from test_slurm_arrays import Command
from test_slurm_survival import cluster  # noqa: F401

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
EVERY, STEPS = 40, 3200
TRAIN = f"""\
kind: train
data: import
frames: [0, 24]
window: 4
model: {{name: trajectory_denoiser, width: 16, depth: 2, modes: 8}}
training: {{steps: {STEPS}, batch: 4, checkpoint_every: {EVERY}, log_every: 20}}
resources: {{tasks_per_node: 2, cpus_per_task: 1, time: 10m, mem_per_task: 700MB}}
"""


def ranks_of(runs):
    """The processes that train, of both nodes: all nodes are on this machine."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            program = command.split(b"\0")[0]  # not srun, which names the same job
            if (
                b"train/job.yaml" in command
                and str(runs).encode() in command
                and b"python" in program
            ):
                pids.append(int(path.name))
        except OSError:
            continue
    return pids


def _die(hpcinv, cluster, way, rng):  # noqa: F811
    attempt = hpcinv.manifest()["attempts"][-1]
    id_ = str(attempt["slurm"]["job"])
    if way == "requeue":
        hpcinv.slurm("scontrol", "requeue", id_)
    elif way == "preemption":
        hpcinv.slurm("sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null",
                     "--wrap", "sleep 3")  # fmt: skip
    elif way == "node":
        victim = attempt["slurm"]["nodes"]
        victim = rng.choice(hpcinv.slurm("scontrol", "show", "hostnames", victim).split())
        call(cluster, "kill-node", victim.removeprefix("node"))
        return lambda: call(cluster, "start-node", victim.removeprefix("node"))
    elif way == "kill -9":
        ranks = sorted(ranks_of(hpcinv.runs))
        assert ranks, "no rank was found"
        subprocess.run(["kill", f"-{signal.SIGKILL}", str(rng.choice(ranks))], check=True)
        hpcinv.until(lambda: hpcinv.json("status", "tiny/train")[0]["state"] == "failed")
        (cause,) = hpcinv.json("why", "tiny/train")
        assert cause["cause"] == "killed", cause
        hpcinv("retry", "tiny/train")
    elif way == "time limit":
        # As if it had been given no more: the ranks are told to save a while before the end.
        elapsed = hpcinv.slurm("squeue", "-h", "-j", id_, "-o", "%M").strip()
        minutes = 1 + int(elapsed.split(":")[-2])
        hpcinv.slurm("scontrol", "update", f"JobId={id_}", f"TimeLimit={minutes}")
        hpcinv.until(lambda: hpcinv.manifest()["attempts"][-1]["state"] == "stopped")
        longer = ["scontrol", "update", f"JobId={id_}", "TimeLimit=10"]
        # Refused for as long as it is ending.
        hpcinv.until(lambda: subprocess.run(longer, env=hpcinv.env).returncode == 0)
    elif way == "full disk":
        filler = hpcinv.runs / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
            while True:
                f.write(bytes(1 << 16))
        hpcinv.until(lambda: hpcinv.json("status", "tiny/train")[0]["state"] == "failed")
        filler.unlink()
        (cause,) = hpcinv.json("why", "tiny/train")
        assert cause["cause"] == "disk", Path(cause["log"]).read_text()[-4000:]
        hpcinv("retry", "tiny/train")
    return lambda: None


@pytest.fixture(scope="module")
def disk():
    """A small one, there before the nodes are, that these see too."""
    folder = Path(tempfile.mkdtemp(prefix="hpcinv-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]).returncode:
        pytest.skip("a small file system needs root")
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


@pytest.mark.parametrize("cluster", ["accounting"], indirect=True)
def test_a_training_outlives_every_death(disk, cluster, tmp_path):  # noqa: F811
    def study(folder, environment):
        folder.mkdir()
        hpcinv = Command(environment, folder)
        for file in hpcinv.study.glob("[234]_*.yaml"):
            file.unlink()
        (hpcinv.study / "2_train.yaml").write_text(TRAIN)
        hpcinv.job = hpcinv.runs / "tiny" / "train"
        hpcinv("run", hpcinv.study / "1_import.yaml")
        return hpcinv

    straight = study(tmp_path / "straight", _environment())
    straight("run", straight.study)
    hpcinv = study(disk / "dying", cluster)
    train = hpcinv.study / "2_train.yaml"
    resources = "resources={nodes: 2, tasks_per_node: 1, time: 10m, mem_per_task: 700MB}"
    hpcinv("submit", train, resources)
    rng, latest = random.Random(0), hpcinv.job / "checkpoints" / "latest"

    def step():
        """That of the checkpoint that was committed last."""
        return int(re.search(r"\d+", latest.read_text())[0]) if latest.exists() else 0

    ways = ["requeue", "kill -9", "node", "time limit", "preemption", "full disk", "requeue",
            "kill -9"]  # fmt: skip
    for n, way in enumerate(ways):
        before = step()
        hpcinv.until(lambda before=before: step() > before)
        time.sleep(rng.uniform(0, 1.5))
        assert hpcinv.manifest()["state"] == "running", "the training ended before it could die"
        reached = step()
        revive = _die(hpcinv, cluster, way, rng)
        hpcinv.until(lambda n=n: len(hpcinv.manifest()["attempts"]) >= n + 2)
        revive()
        assert step() >= reached, way  # nothing that was committed is lost
    hpcinv.until(lambda: hpcinv.manifest()["state"] == "complete")
    assert hpcinv.manifest()["outputs"] == straight.manifest()["outputs"]
    assert [a["ranks"] for a in hpcinv.manifest()["attempts"]] == [2] * (len(ways) + 1)
