"""A Slurm that misbehaves: nodes die, daemons restart, accounting is away, jobs are preempted.

Each ends in the results of an undisturbed run, with no task lost and none done twice. On a cluster
of the tests' own, with accounting and without.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, _environment
from test_scripts_dev_cluster import SCRIPT, call, free_ports
from test_slurm_arrays import Command, array

from hpcinv.runs.tasks import states

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A tiny study, and its runs here, without Slurm."""
    folder = tmp_path_factory.mktemp("undisturbed")
    hpcinv = Command(_environment(), folder)
    hpcinv("run", hpcinv.study)
    return hpcinv


@pytest.fixture(scope="module", params=["accounting", "no-accounting"])
def cluster(request):
    if os.geteuid() != 0 or shutil.which("slurmctld", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("needs root and scripts/setup --cluster")
    folder = Path(tempfile.mkdtemp(prefix="hpcinv-"))
    folder.chmod(0o755)
    where = {"HPCINV_DEV_CLUSTER": str(folder), "HPCINV_DEV_CLUSTER_PORT": str(free_ports())}
    env = {k: v for k, v in os.environ.items() if k != "SLURM_CONF"} | where
    call(env, "start", *([f"--{request.param}"] if request.param == "no-accounting" else []))
    lines = subprocess.run([SCRIPT, "env"], env=env, capture_output=True, text=True).stdout
    exports = dict(
        pair.split("=", 1)
        for line in lines.splitlines()
        for pair in line.removeprefix("export ").split()
    )
    yield _environment(**exports) | where | {"ACCOUNTING": request.param, "ROOT": str(ROOT)}
    subprocess.run([SCRIPT, "stop"], env=env, timeout=90, capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture
def ready(cluster, undisturbed, tmp_path):
    """``ready(inside)``: the study with all but its analysis done, and what its tasks do first."""

    def make(inside=""):
        hpcinv = Command(cluster, tmp_path, inside)
        hpcinv.study, hpcinv.outputs = undisturbed.study, undisturbed.manifest()["outputs"]
        for job in ("import", "observe"):
            shutil.copytree(undisturbed.runs / "tiny" / job, hpcinv.runs / "tiny" / job)
        hpcinv.oi = next(hpcinv.study.glob("*_oi.yaml"))
        return hpcinv

    return make


def resources(**fields):
    return array(**fields).removeprefix("oi.")


def node_of(hpcinv, task):
    return hpcinv.attempts(task)[-1]["slurm"]["nodes"]


def end(hpcinv, seconds=900):
    """Waits for the end, which must be that of the undisturbed study; returns attempts by task."""
    hpcinv.until(lambda: hpcinv.manifest()["state"] == "complete", seconds)
    assert hpcinv.manifest()["outputs"] == hpcinv.outputs
    marks = states(hpcinv.job)
    assert {s for s, _ in marks.values()} == {"complete"}
    return [len(hpcinv.attempts(k)) for k in sorted(marks)]


def test_a_node_dies_in_the_middle_of_an_array(ready, cluster):
    """It is back before Slurm looks, and still has the sockets of the steps it lost."""
    hpcinv = ready("ctx.attempt > 1 or wait()")
    hpcinv("submit", hpcinv.oi, resources(tasks=4, throttle=4))
    hpcinv.until(lambda: len(states(hpcinv.job)) == 4)
    victim = node_of(hpcinv, 3)
    lost = [k for k in range(4) if node_of(hpcinv, k) == victim]
    call(cluster, "kill-node", victim.removeprefix("node"))
    call(cluster, "start-node", victim.removeprefix("node"))
    hpcinv.go()
    assert end(hpcinv) == [1 + (k in lost) for k in range(4)]
    assert all(hpcinv.attempts(k)[0]["state"] == "running" for k in lost)  # it could not say more


@pytest.mark.parametrize("back", ["later", "at once"])
def test_a_node_dies_under_an_mpi_job(ready, cluster, back):
    """Slurm sees a node that stays away; one that is back at once only the other ranks miss."""
    hpcinv = ready("ctx.attempt > 1 or wait()")
    hpcinv.env["HPCINV_COLLECTIVE_TIMEOUT"] = "8" if back == "at once" else "0"
    two = "resources={nodes: 2, mem_per_task: 300MB, array: {over: members, tasks: 1}}"
    hpcinv("submit", hpcinv.oi, two)
    hpcinv.until(lambda: states(hpcinv.job))
    nodes = hpcinv.slurm("scontrol", "show", "hostnames", node_of(hpcinv, 0))
    victim = nodes.split()[1].removeprefix("node")
    call(cluster, "kill-node", victim)
    if back == "later":
        hpcinv.until(lambda: len(hpcinv.attempts(0)) == 2)
    call(cluster, "start-node", victim)
    hpcinv.go()
    assert end(hpcinv) == [2]
    assert [a["ranks"] for a in hpcinv.attempts(0)] == [2, 2]


def test_a_higher_partition_takes_the_nodes(ready):
    hpcinv = ready("ctx.attempt > 1 or wait()")
    hpcinv("submit", hpcinv.oi, resources(tasks=4))
    hpcinv.until(lambda: len(states(hpcinv.job)) == 4)
    greedy = ["sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null"]
    hpcinv.slurm(*greedy, "--wrap", "sleep 3")
    assert end(hpcinv) == [2, 2, 2, 2]


def test_an_administrator_requeues_tasks(ready):
    hpcinv = ready("ctx.attempt > 1 or wait()")
    hpcinv("submit", hpcinv.oi, resources(tasks=4))
    hpcinv.until(lambda: len(states(hpcinv.job)) == 4)
    id_ = hpcinv.attempts(1)[0]["slurm"]["array_job"]
    hpcinv.slurm("scontrol", "requeue", f"{id_}_[1,2]")
    hpcinv.until(lambda: len(hpcinv.attempts(1)) == len(hpcinv.attempts(2)) == 2)
    hpcinv.go()
    assert end(hpcinv) == [1, 2, 2, 1]


def test_the_controller_restarts_during_submission(ready, cluster):
    hpcinv = ready("import time; time.sleep(3)")
    command = [sys.executable, "-m", "hpcinv", "submit", hpcinv.study, array(tasks=4), "--runs"]
    here = {"env": hpcinv.env, "cwd": hpcinv.folder, "stdout": subprocess.PIPE}
    submit = subprocess.Popen([*command, hpcinv.runs], **here)
    hpcinv.until(lambda: (hpcinv.job / "submission.json").exists())  # the first batch is leaving
    call(cluster, "restart", "slurmctld", 6)
    said = submit.communicate(timeout=900)[0].decode()
    assert submit.returncode == 0, said
    there = hpcinv.slurm("squeue", "--me", "-h", "-t", "all", "-o", "%j %F %Z").splitlines()
    mine = {tuple(x.split()[:2]) for x in there if x.split()[2] == str(hpcinv.folder)}
    names = sorted(name for name, _ in mine)
    assert names == ["tiny/evaluate", "tiny/oi", "tiny/oi/join"], (said, there)  # none twice
    assert end(hpcinv) == [1, 1, 1, 1]
    hpcinv.until(lambda: {r["state"] for r in hpcinv.json("status", "tiny")} == {"complete"})


def test_the_controller_dies_during_a_run(ready, cluster):
    hpcinv = ready("wait()")
    hpcinv("submit", hpcinv.oi, resources(tasks=4))
    hpcinv.until(lambda: len(states(hpcinv.job)) == 4)
    time.sleep(8)  # by then it has written down what runs
    call(cluster, "kill", "slurmctld")
    (row,) = hpcinv.json("status", "tiny/oi")
    assert row["state"] not in ("failed", "cancelled")
    call(cluster, "start", *flags(cluster))
    hpcinv.go()
    assert end(hpcinv) == [1, 1, 1, 1]


def flags(cluster):
    return ["--no-accounting"] if cluster["ACCOUNTING"] == "no-accounting" else []


def test_time_limit_and_kill_are_explained_and_retried_without_slurmdbd(ready, cluster):
    hpcinv = ready(
        "import os, time\n"
        "if ctx.attempt == 1 and ctx.task == 1: time.sleep(300)\n"
        "if ctx.attempt == 1 and ctx.task == 3: os.kill(os.getpid(), 9)"
    )
    if not flags(cluster):
        call(cluster, "kill", "slurmdbd")
    hpcinv("submit", hpcinv.oi, resources(tasks=4).replace("mem_per", "time: 1m, mem_per"))
    try:
        hpcinv.until(lambda: hpcinv.json("status", "tiny/oi")[0]["failed"] == [1, 3])
        causes = {tuple(x["tasks"]): x["cause"] for x in hpcinv.json("why", "tiny/oi")}
        assert causes == {(1,): "time limit", (3,): "killed"}
        hpcinv("retry", "tiny/oi", "--time", "5m")
        assert end(hpcinv) == [1, 2, 1, 2]
    finally:
        call(cluster, "start", *flags(cluster))


def test_two_terminals_submit_the_same_study(ready):
    hpcinv = ready("import time; time.sleep(3)")
    command = [sys.executable, "-m", "hpcinv", "submit", hpcinv.study, array(tasks=4), "--runs"]
    both = [
        subprocess.Popen([*command, hpcinv.runs], env=hpcinv.env, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = sorted(p.communicate(timeout=900)[0].decode() for p in both)
    assert [p.returncode for p in both] == [0, 0]
    assert sum("in the queue already" in s for s in said) == 1
    assert [s["step"] for s in hpcinv.submission()["sent"]] == ["array", "join"]
    assert end(hpcinv) == [1, 1, 1, 1]


def test_clocks_of_nodes_differ_by_hours(ready):
    hpcinv = ready("wait()")
    with open(hpcinv.folder / "sitecustomize.py", "a") as f:
        f.write(
            "import time\n_now, _task = time.time, os.environ.get('HPCINV_TASK', '')\n"
            "_ahead = {'0': 7200, '1': -7200, 'join': -10000}.get(_task, 0)\n"
            "time.time = lambda: _now() + _ahead\n"
        )
    hpcinv("submit", hpcinv.oi, resources(tasks=4))
    hpcinv.until(lambda: len(states(hpcinv.job)) == 4)
    (row,) = hpcinv.json("status", "tiny/oi")
    assert row["state"] == "running" and (row["eta"] is None or 0 <= row["eta"] < 600)
    hpcinv.go()
    assert end(hpcinv) == [1, 1, 1, 1]
    (row,) = hpcinv.json("status", "tiny/oi")
    assert row["state"] == "complete" and 0 <= row["seconds"] < 1200
