"""Arrays on a real Slurm: one sbatch, the parts joined, only what failed done again."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_study import make

from hpcinv.runs.tasks import states

pytestmark = pytest.mark.slurm

# What a test has a task do before its work; `wait()` waits for the test's `hpcinv.go()`.
INSIDE = """\
import os, pathlib, time
here = pathlib.Path(__file__).parent
def wait():
    end = time.monotonic() + 900  # a test that has failed does not keep the nodes
    while not (here / "go").exists() and time.monotonic() < end:
        time.sleep(0.1)
if (here / "inside.py").exists() and os.environ.get("HPCINV_TASK", "").isdecimal():
    from hpcinv.kinds.assimilate import Assimilate
    from hpcinv.kinds.observe import Observe
    def first(kind, work):
        def run(self, ctx):
            exec((here / "inside.py").read_text(), {"ctx": ctx, "wait": wait, "kind": self.kind})
            return work(self, ctx)
        kind.run = run
    first(Assimilate, Assimilate.run)
    first(Observe, Observe.run)
"""


class Command:
    """The command `hpcinv` on a cluster, for the tiny study."""

    here = None

    def __init__(self, env, folder, inside=""):
        self.folder, self.runs = folder, folder / "runs"
        (folder / "sitecustomize.py").write_text(INSIDE)
        (folder / "inside.py").write_text(inside)
        self.env = env | {"PYTHONPATH": f"{folder}:{env['PYTHONPATH']}"}
        self.study = make(folder / "tiny")
        self.job = self.runs / "tiny" / "oi"

    def __call__(self, *args, code=0, runs=None):
        done = subprocess.run(
            [sys.executable, "-m", "hpcinv", *map(str, args), "--runs", str(runs or self.runs)],
            capture_output=True, text=True, env=self.env, timeout=900,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def json(self, *args):
        return json.loads(self(*args, "--json"))

    def slurm(self, *args):
        return subprocess.run(
            args, env=self.env, capture_output=True, text=True, check=True
        ).stdout

    def manifest(self, folder=None):
        return json.loads(((folder or self.job) / "manifest.json").read_text())

    def submission(self):
        return json.loads((self.job / "submission.json").read_text())

    def attempts(self, task):
        return self.manifest(self.job / "tasks" / str(task))["attempts"]

    def go(self):
        (self.folder / "go").touch()

    def until(self, condition, seconds=900):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self("status", self.study.name)
            time.sleep(0.5)

    def whole(self):
        """The outputs of the same study run here without an array, once for all tests."""
        if Command.here is None:
            self("run", self.study, runs=self.folder / "here")
            Command.here = self.folder / "here"
        return self.manifest(Command.here / "tiny" / "oi")["outputs"]


def array(**fields):
    inside = ", ".join(f"{k}: {v}" for k, v in ({"over": "members"} | fields).items())
    return f"oi.resources={{mem_per_task: 300MB, array: {{{inside}}}}}"


def test_only_what_failed_is_done_again_and_the_result_is_that_of_the_whole(cluster, tmp_path):
    inside = "if ctx.task == 2 and ctx.attempt == 1: raise MemoryError('as if')"
    hpcinv = Command(cluster, tmp_path, inside)
    said = hpcinv("submit", hpcinv.study, array(tasks=4, throttle=3), "--wait", code=1)
    assert "memory of the host" in said and "task 2" in said
    sent = json.loads((hpcinv.job / "submission.json").read_text())["sent"]
    assert [s["step"] for s in sent] == ["array", "join"] and sent[0]["indices"] == "0-3"
    assert {k: s for k, (s, _) in states(hpcinv.job).items()} == {
        0: "complete", 1: "complete", 2: "failed", 3: "complete",
    }  # fmt: skip
    rows = {r["name"]: r for r in hpcinv.json("status", "tiny")}
    assert rows["tiny/oi"]["state"] == "failed" and rows["tiny/oi"]["failed"] == [2]
    assert rows["tiny/oi"]["tasks"] == {"complete": 3, "failed": 1}
    (why,) = [x for x in hpcinv.json("why", "tiny") if x["job"] == "tiny/oi"]
    assert (why["tasks"], why["cause"], why["rank"]) == ([2], "memory of the host", 0)
    assert hpcinv.json("why", "tiny/oi/2")[0]["line"] == "MemoryError: as if"

    hpcinv("retry", "tiny", "--mem", "400MB", "--time", "7m")
    sent = json.loads((hpcinv.job / "submission.json").read_text())["sent"]
    assert [(s["step"], s["indices"]) for s in sent[2:]] == [("array", "2"), ("join", "")]
    asked = hpcinv.slurm("squeue", "-h", "-t", "all", "-o", "%m %l", "-j", sent[2]["slurm_job"])
    assert asked.split() == ["400M", "7:00"]
    hpcinv.until(lambda: {r["state"] for r in hpcinv.json("status", "tiny")} == {"complete"})
    assert hpcinv.manifest()["outputs"] == hpcinv.whole()
    assert [len(hpcinv.attempts(k)) for k in range(4)] == [1, 1, 2, 1]
    scores = "tiny/evaluate/scores.json"
    a, b = (json.loads((r / scores).read_text()) for r in (hpcinv.runs, Command.here))
    assert a["methods"]["oi"] == b["methods"]["oi"]


@pytest.mark.slow
def test_tasks_follow_the_tasks_of_the_array_before(cluster, tmp_path):
    """Where both are cut alike: they do not wait for its join, nor for its other tasks."""
    inside = (
        "if kind == 'observe' and ctx.task == 2 and ctx.attempt == 1: raise MemoryError('as if')\n"
        "if kind == 'observe' and ctx.task == 3: wait()\n"
    )
    hpcinv = Command(cluster, tmp_path, inside)
    both = [array(over="dates", tasks=4).replace("oi.", f"{job}.") for job in ("oi", "observe")]
    hpcinv("submit", hpcinv.study, *both)
    before = hpcinv.runs / "tiny" / "observe"
    hpcinv.until(lambda: states(hpcinv.job) == dict.fromkeys((0, 1), ("complete", 1)))
    assert states(before)[3] == ("running", 1) and hpcinv.manifest(before)["state"] == "queued"
    hpcinv.go()
    hpcinv.until(lambda: hpcinv.json("status", "tiny/oi")[0]["state"] == "cancelled")
    assert {k for k, (s, _) in states(hpcinv.job).items() if s == "complete"} == {0, 1, 3}
    causes = {x["job"]: x["cause"] for x in hpcinv.json("why", "tiny")}
    assert causes["tiny/observe"] == "memory of the host"
    assert causes["tiny/oi"] == "unmet dependency"
    hpcinv("retry", "tiny")
    assert [b["indices"] for b in hpcinv.submission()["sent"]][2:] == ["2", ""]
    hpcinv.until(lambda: {r["state"] for r in hpcinv.json("status", "tiny")} == {"complete"})
    assert hpcinv.manifest()["outputs"] == hpcinv.whole()
    assert [len(hpcinv.attempts(k)) for k in range(4)] == [1, 1, 1, 1]


def test_cancel_and_submit_again(cluster, tmp_path):
    hpcinv = Command(cluster, tmp_path, "wait()")
    hpcinv("submit", hpcinv.study, array(tasks=4, throttle=1, pack=2))
    hpcinv.until(lambda: states(hpcinv.job))
    again = hpcinv("submit", hpcinv.study, array(tasks=4, throttle=1, pack=2))
    assert again.count("in the queue already") >= 2, again
    said = hpcinv("cancel", "tiny")
    assert "tiny/oi: cancelled job" in said and "tiny/evaluate: cancelled job" in said
    hpcinv.until(lambda: not hpcinv.slurm("squeue", "--me", "-h", "-n", "tiny/oi"))
    rows = {r["name"]: r for r in hpcinv.json("status", "tiny")}
    assert rows["tiny/oi"]["state"] == "cancelled"
    assert states(hpcinv.job) == {0: ("running", 1)}  # nothing of it could say that it was killed
    hpcinv.go()
    hpcinv("submit", hpcinv.study, array(tasks=4, throttle=1, pack=2), "--wait")
    assert hpcinv.manifest()["state"] == "complete"
    assert [len(hpcinv.attempts(k)) for k in range(4)] == [2, 1, 1, 1]
    assert not re.search("tiny/oi", hpcinv("cancel", "tiny"))


@pytest.mark.slow
def test_sent_by_hand_it_is_the_same(cluster, tmp_path):
    hpcinv = Command(cluster, tmp_path)
    hpcinv("plan", hpcinv.study, array(tasks=2), "--sbatch", tmp_path / "scripts")
    hpcinv.slurm("bash", tmp_path / "scripts" / "submit.sh")
    scores = hpcinv.runs / "tiny" / "evaluate"
    hpcinv.until(lambda: (scores / "manifest.json").exists())
    hpcinv.until(lambda: hpcinv.manifest(scores)["state"] == "complete")
    rows = hpcinv.json("status", "tiny")
    assert [(r["state"], r["attempt"]) for r in rows] == [("complete", 1)] * 4
    assert hpcinv.manifest()["outputs"] == hpcinv.whole()


@pytest.mark.slow
def test_waves_where_a_site_limits_submitted_jobs(cluster, tmp_path):
    from hpcinv.launch.profile import load_profile

    hpcinv = Command(cluster, tmp_path)
    site = tmp_path / "site.yaml"
    env = load_profile("dev-cluster").environment
    site.write_text(f"partition: main\nmpi: pmix\nmax_submit: 4\nenvironment: {json.dumps(env)}\n")
    for job in ("import", "observe"):
        hpcinv("run", next(hpcinv.study.glob(f"*_{job}.yaml")))
    args = [hpcinv.study, array(tasks=4), "--cluster", site]
    said = hpcinv("submit", *args[:1], *args[1:2], *args[2:], "--wait")
    sent = json.loads((hpcinv.job / "submission.json").read_text())["sent"]
    assert [s["step"] for s in sent][-1] == "join" and len(sent) >= 2
    tasks = [i for s in sent if s["step"] == "array" for i in s["indices"].split(",")]
    assert "follows when the queue has room" in said
    assert tasks and hpcinv.manifest()["state"] == "complete"
    assert [len(hpcinv.attempts(k)) for k in range(4)] == [1, 1, 1, 1]


def test_an_environment_is_staged_to_the_nodes(cluster, tmp_path):
    """A tar archive unpacked on every node, and an image run by a container's command."""
    import io
    import tarfile

    from hpcinv.launch.profile import load_profile

    hpcinv = Command(cluster, tmp_path)
    env = json.dumps(load_profile("dev-cluster").environment)
    tool = f'#!/bin/bash\necho "staged in $0"\nexec {Path(sys.executable).parent}/hpcinv "$@"\n'
    with tarfile.open(tmp_path / "env.tar", "w") as tar:
        member = tarfile.TarInfo("bin/hpcinv")
        member.size, member.mode = len(tool), 0o755
        tar.addfile(member, io.BytesIO(tool.encode()))
    (tmp_path / "image.sif").write_text("an image")
    run = tmp_path / "apptainer"
    run.write_text('#!/bin/bash\necho "in $2: $(cat $2)"; shift 2; exec "$@"\n')
    run.chmod(0o755)
    job = next(hpcinv.study.glob("*_import.yaml"))
    for name, staging, said in (
        ("tar", {"archive": f"{tmp_path}/env.tar"}, r"staged in /dev/shm/hpcinv-\d+-0/bin/hpcinv"),
        ("image", {"archive": f"{tmp_path}/image.sif", "container": [str(run), "exec"]},
         r"in /dev/shm/hpcinv-\d+-0/image.sif: an image"),
    ):  # fmt: skip
        staging["to"] = "/dev/shm"  # the dev cluster's nodes share /tmp, and nothing in here
        site = tmp_path / f"{name}.yaml"
        site.write_text(
            f"partition: main\nmpi: pmix\nenvironment: {env}\nstaging: {json.dumps(staging)}\n"
        )
        runs = tmp_path / f"runs-{name}"
        hpcinv("submit", job, "resources={nodes: 2}", "--cluster", site, "--wait", runs=runs)
        (log,) = (runs / "tiny" / "import" / "logs").glob("slurm-*.log")
        assert len(re.findall(said, log.read_text())) == 2, log.read_text()
        # --wait is over with the results; the job ends when it has tidied up.
        hpcinv.until(lambda: not hpcinv.slurm("squeue", "--me", "-h", "-n", "tiny/import"))
        left = hpcinv.slurm("srun", "--nodes=4", "--ntasks-per-node=1", "ls", "/dev/shm")
        assert "hpcinv-" not in left


def test_staging_to_a_folder_that_nodes_share_is_refused(cluster, tmp_path):
    from hpcinv.launch.profile import load_profile

    hpcinv = Command(cluster, tmp_path)
    env = json.dumps(load_profile("dev-cluster").environment)
    (tmp_path / "image.sif").write_text("an image")
    staging = {"archive": f"{tmp_path}/image.sif", "to": str(tmp_path), "container": ["env"]}
    site = tmp_path / "site.yaml"
    site.write_text(
        f"partition: main\nmpi: pmix\nenvironment: {env}\nstaging: {json.dumps(staging)}\n"
    )
    job = next(hpcinv.study.glob("*_import.yaml"))
    hpcinv("submit", job, "resources={nodes: 2}", "--cluster", site, "--wait", code=1)
    (log,) = (hpcinv.runs / "tiny" / "import" / "logs").glob("slurm-*.log")
    assert "'staging.to' must be a folder that every node has of its own" in log.read_text()
    assert not list(tmp_path.glob("hpcinv-*"))
