"""What a run folder says and what Slurm says may differ: files that are late, jobs that are gone,
ids that were given to others. No Slurm here."""

import threading
import time
from types import SimpleNamespace

import pytest
from test_launch_batches import Slurm
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.kinds.arrays import parts
from hpcinv.kinds.study import load
from hpcinv.launch import wait as waiting
from hpcinv.launch.profile import Profile
from hpcinv.launch.status import collect
from hpcinv.launch.submission import Submission, locked
from hpcinv.launch.submit import submit_study
from hpcinv.runs.folder import RunFolder


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    made = Slurm(tmp_path / "slurm", monkeypatch)
    for tool in ("sinfo", "srun", "scancel", "scontrol"):
        made.tool(tool, "true")
    made.tool("sacct", "exit 1")  # no accounting
    return made


@pytest.fixture
def study(tmp_path):
    return load(make(tmp_path / "tiny") / "1_import.yaml")


def sent(study, runs):
    submit_study(study, runs, Profile(name="x", max_array=1001))
    return RunFolder(runs / "tiny" / "import")


def says(slurm, folder, state, key=None):
    """squeue shows the job in this state; a job that has ended, for some minutes."""
    (last,) = Submission.of(folder).sent[-1:]
    line = f"{last.slurm_job}|{state}|None|n1|N/A|N/A|{key or last.key}\n"
    (slurm.folder / "queue").write_text(line)


def test_a_result_that_appears_late_is_waited_for(slurm, study, tmp_path, monkeypatch, capsys):
    """Slurm says that the job has ended, its manifest still that it runs."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for k, (late, code) in enumerate(((20, 0), (None, 1))):
        folder = sent(study, tmp_path / f"runs{k}")
        folder.start(1, {})
        says(slurm, folder, "COMPLETED")
        (row,) = collect(tmp_path / f"runs{k}", "tiny")
        assert (row.state, row.note) == ("running", "its manifest is late")
        clock = [0.0]

        def sleep(seconds, clock=clock, folder=folder, late=late):
            before, clock[0] = clock[0], clock[0] + seconds
            if late is not None and before < late <= clock[0]:
                folder.end("complete", outputs={}, digest="d")

        fake = SimpleNamespace(monotonic=lambda clock=clock: clock[0], sleep=sleep)
        monkeypatch.setattr(waiting, "time", fake)
        delivery = SimpleNamespace(folders=[folder], study=study, left=[])
        assert waiting.wait(delivery, tmp_path / f"runs{k}") == code
        assert 20 <= clock[0] < 40 if late else 60 <= clock[0] < 100


def test_rows_keep_the_order_of_the_study_when_jobs_start(slurm, tmp_path):
    whole, runs = load(make(tmp_path / "whole")), tmp_path / "runs"
    submit_study(whole, runs, Profile(name="x", max_array=1001))
    RunFolder(runs / "whole" / "import").start(1, {})
    names = [r.name.partition("/")[2] for r in collect(runs, "whole")]
    assert names == ["import", "observe", "oi", "evaluate"]


def test_parts_that_appear_late_are_joined(tmp_path):
    top = RunFolder(tmp_path / "s" / "job")
    top.prepare("kind: import\n", "import")
    two = SimpleNamespace(resources=SimpleNamespace(array=SimpleNamespace(tasks=2)))
    tasks = [top.of_task(k) for k in range(2)]
    for t in tasks:
        t.start(1, {"x": "1"})
    tasks[0].end("complete", outputs={})
    with pytest.raises(BadInput, match="task 1 of 2 is running"):
        parts(top, two, {"x": "1"}, patience=0)
    timer = threading.Timer(0.5, lambda: tasks[1].end("complete", outputs={}))
    timer.start()
    assert parts(top, two, {"x": "1"}, patience=60) == [t.path for t in tasks]
    timer.join()


def test_a_run_folder_whose_job_is_gone_is_sent_again(slurm, study, tmp_path, monkeypatch):
    """A machine was set up anew, or Slurm has forgotten: the folder says that it runs."""
    runs = tmp_path / "runs"
    folder = sent(study, runs)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    folder.start(1, {})
    monkeypatch.delenv("SLURM_JOB_ID")
    says(slurm, folder, "RUNNING")
    assert collect(runs, "tiny")[0].state == "running"
    # The same id, but a job of another study: ours is gone.
    says(slurm, folder, "RUNNING", key="hpcinv:another")
    (row,) = collect(runs, "tiny")
    assert (row.state, row.note) == ("failed", "it left the queue without a word")
    # Slurm does not answer: nothing is said of it, and nothing is sent.
    slurm.tool("squeue", "exit 1")
    (row,) = collect(runs, "tiny")
    assert (row.state, row.note) == ("running", "Slurm does not answer")
    slurm.tool("squeue", f"cat {slurm.folder}/queue")
    before = Submission.of(folder).sent
    folder = sent(study, runs)
    after = Submission.of(folder).sent
    assert after[:1] == before and len(after) == 2 and after[1].key != before[0].key
    assert collect(runs, "tiny")[0].state == "queued"
    # A zombie of the first start may not end the job that was sent since.
    zombie = RunFolder(folder.path)
    zombie.attempt = 1
    assert RunFolder(folder.path).start(1, {}) == 2
    with pytest.raises(RuntimeError, match="attempt 2 of tiny/import has started"):
        zombie.end("complete", outputs={})


def test_a_study_is_submitted_by_one_at_a_time(tmp_path):
    """Of the same user in two terminals, or of two users who share a group."""
    order = []

    def other():
        with locked(tmp_path / "s", patience=60):
            order.append("second")

    with locked(tmp_path / "s"):
        with pytest.raises(BadInput, match="another command is submitting this study"):
            with locked(tmp_path / "s", patience=0.3):
                pass
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
