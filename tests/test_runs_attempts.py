"""Attempts that are lost, clocks that differ, files that appear late, folders of other people."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.kinds.execute import _begin
from hpcinv.kinds.prepare import input_digests
from hpcinv.runs.folder import Fenced, RunFolder, spent
from hpcinv.runs.tasks import forget, states


def test_a_job_that_its_nodes_die_of_is_not_started_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder = RunFolder(tmp_path / "s" / "job")
    folder.prepare("kind: import\n", "import")
    for k in range(4):
        assert not folder.lost_in_vain()
        assert folder.start(1, {}) == k + 1  # and dies without a word
    assert folder.lost_in_vain()
    # Progress excuses it, and so does a new Slurm job: `retry` is a person's decision.
    (folder.path / "checkpoints").mkdir()
    (folder.path / "checkpoints" / "latest").write_text("step-300-a4")
    assert not folder.lost_in_vain()
    (folder.path / "checkpoints" / "latest").unlink()
    assert folder.lost_in_vain()
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert not folder.lost_in_vain()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder.start(1, {})
    folder.end("stopped")
    assert not folder.lost_in_vain()  # the last one could say what it was about


def test_seconds_of_attempts_whose_end_or_clock_is_not_known():
    now = 1000.0
    lost, ended = {"started": 100.0}, {"started": 500.0, "ended": 530.0}
    assert spent([ended], now) == 30
    assert spent([lost, ended], now) == 400 + 30  # it ended when the next began, if not before
    assert spent([ended, {"started": 990.0}], now) == 30 + 10
    ahead = {"started": 8000.0, "ended": 8010.0}  # a node two hours fast
    assert spent([ended, ahead, {"started": 9000.0}], now) == 30 + 10 + 0


def test_an_input_may_appear_late(tmp_path):
    from hpcinv.kinds.evaluate import Evaluate

    job = Evaluate(truth="truth", frames=(0, 1), analyses=["oi"])
    truth = RunFolder(tmp_path / "s" / "truth")
    truth.prepare("kind: import\n", "import")
    truth.start(1, {})
    folders = {"truth": truth.path}
    with pytest.raises(BadInput, match="its input 'truth' is running"):
        input_digests(folders, job)
    timer = threading.Timer(0.5, lambda: truth.end("complete", digest="d1"))
    timer.start()
    began = time.monotonic()
    assert input_digests(folders, job, patience=30) == {"truth": "d1"}
    assert time.monotonic() - began < 25
    timer.join()


def test_nothing_made_of_other_inputs_is_gone_on_from(tmp_path):
    """A training that was stopped must not resume from what it learnt of older data."""
    folder = RunFolder(tmp_path / "s" / "train")
    folder.prepare("kind: train\n", "train")
    assert _begin(folder, 1, {"data": "1"}, range(1)) == 1
    for name in ("checkpoints/latest", "logs/slurm-1.log", "parts/0.h5"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("step-3-a1")
    folder.end("stopped")
    assert _begin(folder, 1, {"data": "1"}, range(1)) == 2 and folder.reached() == "step-3"
    folder.end("stopped")
    assert _begin(folder, 1, {"data": "2"}, range(1)) == 3 and folder.reached() is None
    assert {p.name for p in folder.path.iterdir() if p.name[0] != "."} == {
        "job.yaml", "manifest.json", "logs",
    }  # fmt: skip
    assert (folder.path / "logs" / "slurm-1.log").exists()
    assert (folder.path / ".attempts-to-2" / "parts" / "0.h5").exists()
    with pytest.raises(Fenced):
        folder.fence(2)


def test_a_task_whose_folder_is_gone_counts_from_one(tmp_path):
    top = RunFolder(tmp_path / "s" / "job")
    top.prepare("kind: import\n", "import")
    for k in (0, 1, 11):
        t = top.of_task(k)
        t.start(1, {})
        t.end("complete", outputs={})
    top.of_task(1).set_aside()
    forget(top.path, 1)
    assert states(top.path) == {0: ("complete", 1), 11: ("complete", 1)}
    assert top.of_task(1).start(1, {}) == 1
    assert states(top.path)[1] == ("running", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_colleagues_read_a_run_folder_and_cannot_submit_into_it():
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        old = os.umask(0o022)
        try:
            folder = RunFolder(Path(top) / "s" / "job")
            folder.prepare("kind: import\n", "import")
            folder.start(1, {})
        finally:
            os.umask(old)
        path = folder.path / "manifest.json"
        code = (
            "import os; from pathlib import Path\n"
            "from hpcinv.errors import BadInput\n"
            "from hpcinv.launch.submission import locked\n"
            "os.setgid(65534); os.setuid(65534)  # the interpreter may be in root's home\n"
            f"assert Path({str(path)!r}).read_text()\n"
            f"try: open({str(path)!r}, 'a')\n"
            "except PermissionError: print('read only')\n"
            f"try:\n with locked(Path({top!r}) / 's'): print('taken')\n"
            "except BadInput as e: print(e)\n"
        )
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[0] == "read only", done.stderr
        assert "these run folders belong to another user" in done.stdout


def test_a_command_that_may_not_write_ends_with_one_message(tmp_path):
    study, runs = make(tmp_path / "tiny"), "/sys/runs"  # where not even root makes folders
    for verb in ("run", "submit"):
        command = [sys.executable, "-m", "hpcinv", verb, study, "--runs", runs]
        done = subprocess.run(command, capture_output=True, text=True)
        if "there is no Slurm" in done.stderr or "no configuration" in done.stderr:
            continue
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(
            f"hpcinv: {runs}: .*[Pp]ermi.*. Give --runs DIR where you may write.\n", done.stderr
        )


def test_a_full_disk_ends_with_one_message(monkeypatch, capsys):
    import errno

    from hpcinv import cli

    def full(**kwargs):  # writing names no file
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "app", full)
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert said == "hpcinv: No space left on device. Make room, or write elsewhere.\n"
