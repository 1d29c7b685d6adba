r"""What goes wrong ends with a message, soon, and without a loss of what was saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_assimilation_restart import STEPS, draw

from hpcinv.errors import Stopped

torch.set_num_threads(1)

RANKS = """
import os, signal, sys, time
from pathlib import Path
from hpcinv.parallel import connect

what, folder = sys.argv[1:]
world = connect("mpi", Path(folder))
world.barrier("start")
if what == "late" and world.rank == 2:
    time.sleep(4)
if what == "gone" and world.rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
if what == "apart" and world.rank == 0:
    world.broadcast(None, root=1)
    world.barrier("left")
world.barrier("right")
world.barrier("end")
if world.rank == 0:
    print("done")
"""


def ranks(what, folder, limit):
    """Three ranks; exit code, what they said, seconds."""
    from conftest import _environment

    (folder / "ranks.py").write_text(RANKS)
    command = ["mpirun", "--oversubscribe", "-n", "3", sys.executable, str(folder / "ranks.py")]
    env = _environment(HPCINV_COLLECTIVE_TIMEOUT=str(limit))
    began = time.monotonic()
    done = subprocess.run(
        [*command, what, str(folder)], env=env, timeout=90, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


@pytest.mark.mpi
def test_a_late_rank_is_named_and_waited_for(tmp_path):
    code, said, _ = ranks("late", tmp_path, 1.5)
    assert code == 0 and "done" in said, said
    assert "in the barrier 'right'; 2 of 3 ranks wait" in said
    assert "rank 2 is missing: it computes at " in said and "ranks.py:10" in said


@pytest.mark.mpi
def test_a_rank_that_is_gone_ends_the_job(tmp_path):
    code, said, seconds = ranks("gone", tmp_path, 2)
    assert code != 0 and seconds < 60
    # Once may be a library that keeps the interpreter's lock: only the second time counts.
    first, second = (said.index(f"rank 1 is missing: it gives no sign of life{x}\n")
                     for x in ("", " again"))  # fmt: skip
    assert first < second < said.index("nobody else will come: the job ends")
    assert "done" not in said
    left = list(tmp_path.glob("waiting-*/question"))
    assert not left, "the next start would find a question and never ask its own"


@pytest.mark.mpi
def test_ranks_that_wait_for_each_other_end_the_job(tmp_path):
    code, said, seconds = ranks("apart", tmp_path, 2)
    assert code != 0 and seconds < 60
    assert "3 of 3 ranks wait" in said and "nobody else will come: the job ends" in said
    assert "rank 0 waits in a broadcast" in said and "rank 2 waits in the barrier 'right'" in said


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """A real one: a file system of 1 MiB that fills up while the run is going."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    try:

        class Filling:
            asked = 0

            def requested(self, world):
                self.asked += 1
                if self.asked == 7:  # in step 4, after the checkpoint of step 2
                    with open(disk / "other", "wb", buffering=0) as f, pytest.raises(OSError):
                        while True:
                            f.write(bytes(1 << 12))
                return False

        with pytest.raises(OSError, match=r"the one before stays: rank 0: .*No space left"):
            draw(disk / "run", every=2, stop=Filling())
        assert (disk / "run" / "latest").read_text() == "step-2-a0"
        (disk / "other").unlink()
        assert torch.equal(draw(disk / "run", every=2, attempt=1).x, draw().x)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_stop_is_heard_inside_a_step(tmp_path):
    class Stop:
        asked = 0

        def requested(self, world):
            self.asked += 1
            return self.asked > 7  # the second guided call of step 4

    stop = Stop()
    with pytest.raises(Stopped, match=f"in step 3 of {STEPS}"):
        draw(tmp_path, stop=stop)
    assert stop.asked == 8
    assert (tmp_path / "latest").read_text() == "step-3-a0"  # the step is made anew
    assert torch.equal(draw(tmp_path, attempt=1).x, draw().x)


@pytest.mark.mpi
def test_one_killed_rank_ends_the_command(tmp_path):
    from test_assimilate_modes import study

    path = study(tmp_path / "tiny")
    for job in ("filtering", "forecast", "evaluate"):
        next(path.glob(f"*_{job}.yaml")).unlink()
    command = [sys.executable, "-m", "hpcinv", "run", str(path), "--ranks", "2"]
    command += ["--runs", str(tmp_path / "runs"), "reanalysis.sampler.steps=100000"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "runs" / "tiny" / "reanalysis"
    until = time.monotonic() + 120
    while not (folder / "progress.json").exists():
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    victim = next(p for p in _processes(str(folder)) if b"OMPI_COMM_WORLD_RANK=1\0" in p[1])[0]
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    said, _ = run.communicate(timeout=60)
    assert run.returncode not in (0, 75) and time.monotonic() - began < 60
    assert "signal 9" in said and "log: " in said, said


def _processes(word):
    """(pid, environment) of processes whose command line has a word."""
    for p in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (p / "cmdline").read_bytes():
                yield int(p.name), (p / "environ").read_bytes()
        except OSError:
            continue
