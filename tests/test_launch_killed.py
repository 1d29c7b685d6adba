"""A command that is killed leaves no ranks behind: they save and stop, and can be gone on with."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_study import make

# A job that works until it is asked to stop, once.
INSIDE = """\
import pathlib, time
here = pathlib.Path(__file__).parent
if (here / "runs" / "tiny" / "import" / "job.yaml").exists():
    from hpcinv.errors import Stopped
    from hpcinv.kinds.import_ import Import
    work = Import.run
    def run(self, ctx):
        if ctx.attempt > 1:
            return work(self, ctx)
        (here / f"rank{ctx.world.rank}").touch()
        while not ctx.stop.requested(ctx.world):
            time.sleep(0.1)
        raise Stopped("asked to")
    Import.run = run
"""


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_stop_when_their_command_is_killed(tmp_path, ranks):
    study, runs = make(tmp_path / "tiny"), tmp_path / "runs"
    (tmp_path / "sitecustomize.py").write_text(INSIDE)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "hpcinv", "run", str(study / "1_import.yaml")]
    command += ["--ranks", str(ranks), "--runs", str(runs)]
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    until(lambda: len(list(tmp_path.glob("rank*"))) == ranks)
    run.kill()  # and is not buried yet
    folder = runs / "tiny" / "import"
    until(lambda: not working(folder))
    run.wait()
    told = json.loads((folder / "manifest.json").read_text())
    assert told["state"] == "stopped" and told["message"] == "asked to"
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((folder / "manifest.json").read_text())
    assert [a["state"] for a in told["attempts"]] == ["stopped", "complete"]


def until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def working(folder):
    """Processes, or mpirun, that have the run folder in their command line."""
    found = []
    for p in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (p / "cmdline").read_bytes():
                found.append(int(p.name))
        except OSError:
            continue
    return found
