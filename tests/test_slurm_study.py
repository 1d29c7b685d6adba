"""Studies on a real Slurm: the same results as here, and clear words when Slurm says no."""

import json
import re
import subprocess
import sys

import pytest
from tiny_study import make

pytestmark = pytest.mark.slurm


@pytest.fixture
def study(tmp_path):
    return make(tmp_path / "tiny")


def hpcinv(env, *args):
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)],
        capture_output=True, text=True, env=env, timeout=900,
    )  # fmt: skip


def told(runs, job, name="manifest.json"):
    return json.loads((runs / "tiny" / job / name).read_text())


def test_submit_waits_and_agrees_with_run(cluster, study, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert hpcinv(cluster, "run", study, "--runs", here).returncode == 0
    args = ["oi.resources.nodes=2", "import.resources={nodes: 2, tasks_per_node: 2}"]
    done = hpcinv(cluster, "submit", study, *args, "--runs", there, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    for job in ("import", "observe", "oi", "evaluate"):
        a, b = (
            json.loads((r / "tiny" / job / "manifest.json").read_text()) for r in (here, there)
        )
        assert a["digest"] == b["digest"] or job == "evaluate"
        assert re.fullmatch(r"\d+", b["attempts"][0]["slurm"]["job"])
    assert b["attempts"][0]["slurm"]["cluster"] != ""
    a, b = (
        json.loads((r / "tiny" / "evaluate" / "scores.json").read_text()) for r in (here, there)
    )
    mine, theirs = (x["methods"]["oi"]["pooled"]["crps"]["value"] for x in (a, b))
    assert mine == pytest.approx(theirs, rel=1e-5)
    assert told(there, "import")["attempts"][0]["ranks"] == 4

    again = hpcinv(cluster, "submit", study, *args, "--runs", there)
    assert again.returncode == 0 and again.stdout.count("is complete") == 4


def test_a_failure_stops_what_hangs_on_it(cluster, study, tmp_path):
    import netCDF4
    import numpy as np

    with netCDF4.Dataset(study / "field.nc", "a") as f:
        f["t"][3, 0, 0] = np.nan
    runs = tmp_path / "runs"
    done = hpcinv(cluster, "submit", study, "--runs", runs, "--wait")
    assert done.returncode == 1
    assert "variable 't' has 1 missing" in done.stdout
    rows = json.loads(hpcinv(cluster, "status", "tiny", "--json", "--runs", runs).stdout)
    states = {r["name"]: r["state"] for r in rows}
    assert states["tiny/import"] == "failed"
    assert {s for n, s in states.items() if n != "tiny/import"} == {"cancelled"}
    causes = {
        x["job"]: x["cause"]
        for x in json.loads(hpcinv(cluster, "why", "tiny", "--json", "--runs", runs).stdout)
    }
    assert causes.pop("tiny/import") == "bad input"
    assert set(causes.values()) == {"unmet dependency"}
    # Mended, the same command goes on.
    make(tmp_path / "whole")
    (tmp_path / "whole" / "field.nc").replace(study / "field.nc")
    done = hpcinv(cluster, "submit", study, "--runs", runs, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_in_the_queue_is_not_sent_twice(cluster, study, tmp_path):
    profile = tmp_path / "later.yaml"  # nothing starts while the test looks
    profile.write_text("partition: main\nmpi: pmix\nsbatch: {begin: now+1hour}\n")
    args = [study, "--cluster", profile, "--runs", tmp_path / "runs"]
    first = hpcinv(cluster, "submit", *args)
    second = hpcinv(cluster, "submit", *args)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    ids = re.findall(r"is job (\d+)", first.stdout)
    assert len(ids) == 4
    assert re.findall(r"in the queue already, as job (\d+)", second.stdout) == ids
    subprocess.run(["scancel", *ids], env=cluster, check=True)


def test_an_unknown_partition_is_known_before_the_queue(cluster, study, tmp_path):
    profile = tmp_path / "site.yaml"
    profile.write_text("partition: mian\nmpi: pmix\n")
    runs = tmp_path / "runs"
    done = hpcinv(cluster, "submit", study, "--cluster", profile, "--runs", runs)
    assert done.returncode == 2
    assert "no partition 'mian'" in done.stderr and "main" in done.stderr
    assert not runs.exists()


def test_what_slurm_refuses_is_told(cluster, study, tmp_path):
    runs = tmp_path / "runs"
    done = hpcinv(
        cluster, "submit", study / "1_import.yaml", "resources.mem_per_task=999GB", "--runs", runs
    )
    assert done.returncode == 2
    assert "Slurm refused the job: Memory specification can not be satisfied" in done.stderr


def test_a_stopped_job_is_requeued_and_ends(cluster, study, tmp_path):
    """The stop signal before a time limit: exit code 75, the script requeues, attempt 2 ends."""
    runs = tmp_path / "runs"
    slow = "kind: import\nsource: {path: field.nc}\nvariables: {t: {units: K}}\n"
    (study / "1_import.yaml").write_text(slow)
    # The job notices the signal at its first step boundary: it is sent before the job starts.
    module = tmp_path / "sitecustomize.py"
    module.write_text(
        "import os, signal\n"
        "if os.environ.get('SLURM_RESTART_COUNT', '0') == '0' and 'SLURM_PROCID' in os.environ:\n"
        "    import hpcinv.kinds.import_ as m\n"
        "    from hpcinv.errors import Stopped\n"
        "    def run(self, ctx):\n"
        "        os.kill(os.getpid(), signal.SIGUSR2)\n"
        "        assert ctx.stop.requested(ctx.world)\n"
        "        raise Stopped('asked to')\n"
        "    m.Import.run = run\n"
    )
    env = cluster | {"PYTHONPATH": f"{tmp_path}:{cluster['PYTHONPATH']}"}
    done = hpcinv(env, "submit", study / "1_import.yaml", "--runs", runs, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    m = json.loads((runs / "tiny" / "import" / "manifest.json").read_text())
    assert [a["state"] for a in m["attempts"]] == ["stopped", "complete"]
    assert m["attempts"][1]["slurm"]["restart"] == "1"


@pytest.mark.slow
def test_slurm_warns_ninety_seconds_before_the_limit(cluster, study, tmp_path):
    """By a signal to the ranks of both nodes: they stop together, and the next start ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "if os.environ.get('SLURM_RESTART_COUNT', '0') == '0' and 'SLURM_PROCID' in os.environ:\n"
        "    import hpcinv.kinds.import_ as m\n"
        "    from hpcinv.errors import Stopped\n"
        "    def run(self, ctx):\n"
        "        while not ctx.stop.requested(ctx.world):\n"
        "            time.sleep(0.2)\n"
        "        raise Stopped(f'by {ctx.world.all_gather(ctx.stop.seen)}')\n"
        "    m.Import.run = run\n"
    )
    env = cluster | {"PYTHONPATH": f"{tmp_path}:{cluster['PYTHONPATH']}"}
    runs = tmp_path / "runs"
    args = ["resources={nodes: 2, time: 3m, mem_per_task: 300MB}", "--runs", runs, "--wait"]
    done = hpcinv(env, "submit", study / "1_import.yaml", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = told(runs, "import")["attempts"]
    assert (first["state"], second["state"]) == ("stopped", "complete")
    assert second["slurm"]["restart"] == "1"
    (log,) = (runs / "tiny" / "import" / "logs").glob("slurm-*.log")
    assert "stopped and can be resumed: by ['SIGUSR2', 'SIGUSR2']" in log.read_text()


def test_ctrl_c_leaves_the_jobs(cluster, study, tmp_path):
    import signal

    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "hpcinv", "submit", str(study), "--wait", "--runs", str(runs)]
    child = subprocess.Popen(
        command, env=cluster, stdout=subprocess.PIPE, text=True,
        # A test run in the background ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in child.stdout:
        if line.startswith(("- import", "✓ import")):  # it watches now
            break
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=300)
    assert child.returncode == 0
    assert "The jobs go on" in out and "hpcinv status tiny" in out
    done = hpcinv(cluster, "submit", study, "--wait", "--runs", runs)
    assert done.returncode == 0, done.stdout
