r"""`hpcinv selftest`: starts the engine's self-test on ranks, here or in a Slurm allocation.

The proofs themselves are `assimilation/selftest.py`. NODEFAIL takes somebody outside the ranks,
who sees that the job ends when some of them are gone, and starts it again.
"""

from __future__ import annotations

__all__ = ["RANKS", "TESTS", "selftest"]

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import EXIT_BAD_INPUT, EXIT_FAILED, BadInput, nearest
from ..parallel import launched
from .local import environment, mpirun
from .profile import load_profile

TESTS = ("ERS", "PEM", "ERP", "REP", "NODEFAIL")
RANKS = 4  # here, without Slurm
LIMIT = 60.0  # seconds in which a job ends when some of its ranks are gone


def selftest(names: Sequence[str], runs: Path) -> int:
    r"""Runs tests and prints `PASS` or `FAIL` with the largest difference.

    Arguments:
        names: Some of `TESTS`; none: all.
        runs: A folder that all nodes see; checkpoints are made in it, and removed.

    Returns:
        0 if all pass, else 1.

    Raises:
        BadInput: For an unknown test, or NODEFAIL asked of ranks somebody else started.
    """
    for name in names:
        if name not in TESTS:
            raise BadInput(f"unknown test '{name}'", "selftest", nearest(name, TESTS))
    if launched().by != "nobody":
        return _as_rank(names, runs)
    names = list(dict.fromkeys(names)) or list(TESTS)
    together = [n for n in names if n != "NODEFAIL"]

    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".selftest-", dir=runs))
    try:
        code = 0
        if together:
            code = _start(folder, "run", *together).wait()
            if code not in (0, EXIT_FAILED):
                print(f"FAIL the ranks ended with exit code {code}")
        return EXIT_FAILED if ("NODEFAIL" in names and _node_failure(folder)) or code else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_rank(names: Sequence[str], runs: Path) -> int:
    r"""This process is a rank that srun or mpirun started."""
    from ..assimilation.selftest import main

    if "NODEFAIL" in names:
        raise BadInput(
            "NODEFAIL kills ranks and starts new ones, which a rank cannot",
            "selftest",
            "Leave srun or mpirun out: inside an allocation hpcinv selftest starts its own.",
        )
    folder = runs / f".selftest-{os.environ.get('SLURM_JOB_ID', 'ranks')}"
    code = main(str(folder), "run", *(names or [t for t in TESTS if t != "NODEFAIL"]))
    if launched().rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _command() -> tuple[list[str], dict[str, str]]:
    r"""What starts the ranks, and their environment."""
    env = environment(RANKS, 1)
    if "SLURM_JOB_ID" in os.environ:
        profile = load_profile(None)
        mpi = [f"--mpi={profile.mpi}"] if profile.mpi else []
        starter = ["srun", "--kill-on-bad-exit=1", *mpi, *profile.srun_args]
        return starter, env | profile.environment
    return [*mpirun(), "-n", str(RANKS)], env


def _start(folder: Path, stage: str, *names: str) -> subprocess.Popen:
    command, env = _command()
    program = [sys.executable, "-m", "hpcinv.assimilation.selftest"]
    return subprocess.Popen(
        [*command, *program, str(folder), stage, *names],
        env=env,
        stdin=subprocess.DEVNULL,
        stderr=None if stage != "cut" else subprocess.DEVNULL,
        start_new_session=True,
    )


def _node_failure(folder: Path) -> int:
    r"""Cuts a run, sees it end, resumes it."""
    ranks = _start(folder, "cut")
    killed, seen = folder / "killed", None
    while ranks.poll() is None:
        if seen is None and killed.exists():
            seen = time.monotonic()
        if seen is not None and time.monotonic() - seen > LIMIT:
            os.killpg(ranks.pid, signal.SIGKILL)
            print(f"FAIL NODEFAIL the job still ran {LIMIT:.0f} s after its ranks were killed")
            return EXIT_FAILED
        time.sleep(0.1)
    if not killed.exists() or ranks.returncode == 0:
        print(f"FAIL NODEFAIL no rank was killed (exit code {ranks.returncode})")
        return EXIT_FAILED
    waited = time.monotonic() - (seen or time.monotonic())
    print(f"     NODEFAIL the job ended {waited:.1f} s after ranks were killed", flush=True)
    code = _start(folder, "resume").wait()
    if code not in (0, EXIT_FAILED, EXIT_BAD_INPUT):
        print(f"FAIL NODEFAIL the resumed ranks ended with exit code {code}")
    return code
