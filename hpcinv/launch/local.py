r"""Starting a job's ranks on this machine: mpirun for MPI jobs, plain processes for torch.

The ranks run `hpcinv run job.yaml --launcher none`, like those of an sbatch script; what they
print goes to a log in the run folder, and what they report of their progress is drawn here.
"""

from __future__ import annotations

__all__ = ["environment", "mpirun", "start", "threads_per_rank"]

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ..errors import EXIT_STOPPED, BadInput

GRACE = 10.0  # seconds the other ranks have to end by themselves after one has


def threads_per_rank(ranks: int, cpus_per_task: int | None, fixed: bool = False) -> int:
    r"""Intra-op threads: what the job says, else the machine's cores shared by the ranks; or one,
    where results must not depend on their number (sums are split among threads)."""
    if cpus_per_task is None and fixed:
        return 1
    return cpus_per_task or max(1, len(os.sched_getaffinity(0)) // ranks)


@cache
def mpirun() -> tuple[str, ...]:
    r"""The start of an mpirun command.

    Raises:
        BadInput: If there is none.
    """
    path = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        raise BadInput(
            "several ranks need mpirun, which is not here",
            None,
            "Run scripts/setup, load your site's MPI module, or give --ranks 1.",
        )
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in said or "OpenRTE" in said:
        return (path, "--oversubscribe", "--bind-to", "none")
    return (path,)


def command(job: Path) -> list[str]:
    r"""What every rank runs."""
    return [sys.executable, "-m", "hpcinv", "run", str(job), "--launcher", "none"]


def environment(ranks: int, threads: int) -> dict[str, str]:
    r"""The ranks' environment: threads, and what many ranks on few cores need."""
    # A rank must not think itself part of a job step that merely started this process, nor mpirun
    # of a process that began MPI by itself (Open MPI leaves its marks in the environment).
    foreign = ("PMIX_", "PMI_", "PRTE_", "OMPI_COMM_", "OMPI_UNIVERSE_", "OMPI_MCA_ess",
               "OMPI_MCA_orte", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "HPCINV_TASK",
               "HPCINV_MET", "HPCINV_STARTER")  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    env.update(HPCINV_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    env.setdefault("PYTHONUNBUFFERED", "1")
    # Threads that spin while they wait cost a shared machine many times what they do.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if ranks > len(os.sched_getaffinity(0)):
        env["OMPI_MCA_mpi_yield_when_idle"] = "1"
    if os.geteuid() == 0:
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return env


def start(
    job: Path,
    backend: str,
    ranks: int,
    threads: int,
    log: Path,
    tick: Callable[[], None],
    step: int | str | None = None,
) -> int:
    r"""Runs a prepared job to its end.

    Arguments:
        job: The resolved job file.
        backend: `mpi`, `torch` or `none`.
        ranks: Processes to start.
        threads: Intra-op threads of each.
        log: File that gets what they print.
        tick: Called a few times a second, to draw progress.
        step: The task of an array, or `join`.

    Returns:
        The exit code of the first rank that failed, or 0.
    """
    env = environment(ranks, threads) | {"HPCINV_STARTER": str(os.getpid())}
    if step is not None:
        env["HPCINV_TASK"] = str(step)
    with open(log, "ab") as out:
        if ranks > 1 and backend == "torch":
            launch = uuid.uuid4().hex[:12]
            env.update(HPCINV_SIZE=str(ranks), HPCINV_LAUNCH=launch, GLOO_SOCKET_IFNAME="lo")
            groups = [(command(job), env | {"HPCINV_RANK": str(r)}) for r in range(ranks)]
        elif ranks > 1:
            groups = [([*mpirun(), "-n", str(ranks), *command(job)], env)]
        else:
            groups = [(command(job), env)]
        children = [
            subprocess.Popen(
                c,
                env=e,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for c, e in groups
        ]
        return _wait(children, tick)


def _wait(children: list[subprocess.Popen], tick: Callable[[], None]) -> int:
    asked, ended_at, code = 0, None, 0
    while True:
        try:
            states = [c.poll() for c in children]
            bad = [s for s in states if s not in (None, 0)]
            if bad and not code:
                code = bad[0]
            if all(s is not None for s in states):
                break
            if bad and ended_at is None:
                ended_at = time.monotonic()
            if ended_at is not None and time.monotonic() - ended_at > GRACE:
                _signal(children, signal.SIGKILL)
            tick()
            time.sleep(0.1)
        except KeyboardInterrupt:
            asked += 1
            if asked == 1:
                print("\nstopping: the job saves its state (Ctrl-C again ends it at once)")
            _signal(children, signal.SIGTERM if asked == 1 else signal.SIGKILL)
    if code < 0:  # ended by a signal
        code = 128 - code
    return EXIT_STOPPED if asked == 1 and code == 128 + signal.SIGTERM else code


def _signal(children: list[subprocess.Popen], number: int) -> None:
    for c in children:
        if c.poll() is None:
            try:
                os.killpg(c.pid, number)
            except ProcessLookupError:
                continue
