r"""Sending one script, exactly once, to a Slurm that may be busy, restarting, or deaf.

submitit's executor writes and sends the script, finds the job id and reads errors; its pickled
function is replaced by our rendered script, so that nothing is ever unpickled. sbatch that fails
may have been heard all the same: before anything is sent again, the queue is searched for the
key that went with it.
"""

from __future__ import annotations

__all__ = ["patiently", "send"]

import contextlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import BadInput
from .slurm import queue

PATIENCE = 900.0  # seconds until a Slurm that does not answer is given up
TRANSIENT = re.compile(
    "contact slurm controller|timed out|connection refused|connection timed out|connect failure"
    "|zero bytes|temporarily unable|temporarily unavailable|communications? (connection )?"
    "(failure|error)|no route to host|transport endpoint|standby mode|not responding",
    re.IGNORECASE,
)


def send(
    script: str, folder: Path, key: str, dependency: str, say: Callable[[str], None] = print
) -> str:
    r"""Sends a script.

    Arguments:
        script: Its text.
        folder: Where submitit keeps the copy it sends.
        key: The comment by which the job is found again.
        dependency: The value of `--dependency`, or nothing.
        say: Told, once, that Slurm makes us wait.

    Returns:
        The job id.

    Raises:
        BadInput: If Slurm refuses the job, with its reason, or does not answer for long.
    """
    for pause in patiently("sbatch", say):
        try:
            return _sbatch(script, folder, key, dependency)
        except _Refused as e:
            if not TRANSIENT.search(str(e)):
                raise BadInput(
                    f"Slurm refused the job: {e}",
                    folder,
                    "Mend the resources or the cluster profile; the script is beside the logs.",
                ) from e
            # What timed out may still be on its way: it gets time before it is looked for.
            pause(10.0 if "timed out" in str(e).lower() else 0.0)
        for again in patiently("squeue", say):
            mine = queue()
            if mine is not None:
                break
            again(0.0)
        for id_, elements in mine.items():
            if any(e.key == key for e in elements):
                return id_
    raise AssertionError("patiently() ends by itself")


def patiently(what: str, say: Callable[[str], None]) -> Iterator[Callable[[float], None]]:
    r"""Turns of trying, each with a function that waits longer than the last time.

    Raises:
        BadInput: When Slurm has not answered for PATIENCE seconds.
    """
    began, wait = time.monotonic(), 0.5

    def pause(least: float) -> None:
        nonlocal wait
        if wait == 0.5:
            say(f"Slurm does not answer ({what}); trying again for {PATIENCE / 60:.0f} minutes")
        time.sleep(max(wait, least))
        wait = min(2 * wait, 30.0)

    while time.monotonic() - began < PATIENCE:
        yield pause
    raise BadInput(
        f"Slurm has not answered for {PATIENCE / 60:.0f} minutes",
        what,
        "Run the same command again when it is back: nothing is sent twice.",
    )


class _Refused(Exception):
    pass


def _sbatch(script: str, folder: Path, key: str, dependency: str) -> str:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    class Executor(submitit.SlurmExecutor):
        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return script

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            held = [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
            return [
                "sbatch",
                f"--comment={key}",
                *(held if dependency else []),
                str(submission_file_path),
            ]

    logging.getLogger("submitit").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return Executor(folder)._submit_command("").job_id
    except (FailedJobError, FailedSubmissionError) as e:
        said = re.findall(r"sbatch: error: (.*)", str(e)) or str(e).strip().splitlines()
        raise _Refused("; ".join(said)) from e
