r"""Slurm: submission through submitit, and what the queue says.

submitit's executor writes and sends the script, finds the job id and reads errors; its pickled
function is replaced by our rendered script, so that nothing is ever unpickled.
"""

from __future__ import annotations

__all__ = ["queue", "submit"]

import logging
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput

PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESV_DEL_HOLD"}
ALIVE = PENDING | {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"}


@dataclass(frozen=True)
class Queued:
    r"""One job as `squeue` shows it."""

    state: str
    reason: str
    nodes: str
    start: str


def need_slurm() -> None:
    r"""Raises BadInput where there is no Slurm."""
    for tool in ("sbatch", "squeue", "srun"):
        if not shutil.which(tool):
            raise BadInput(
                f"there is no Slurm here ('{tool}' is missing)",
                None,
                "Use 'hpcinv run', or try Slurm on this machine: scripts/dev-cluster start.",
            )


def check_partition(partition: str | None, profile: str) -> None:
    r"""An unknown partition is known before the queue.

    Raises:
        BadInput: With the partitions there are.
    """
    if partition is None:
        return
    done = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, timeout=60)
    known = sorted(set(done.stdout.split()))
    if done.returncode == 0 and known:
        for p in partition.split(","):
            if p not in known:
                raise BadInput(
                    f"this Slurm has no partition '{p}'",
                    f"cluster profile '{profile}'",
                    f"Known: {', '.join(known)}.",
                )


def submit(script: str, folder: Path, after: list[str]) -> str:
    r"""Sends one script.

    Arguments:
        script: Its text.
        folder: Where submitit keeps the copy it sends.
        after: Ids of jobs that must end well first.

    Returns:
        The job id.

    Raises:
        BadInput: If Slurm refuses the job, with its reason.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    class Executor(submitit.SlurmExecutor):
        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return script

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            held = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
            return ["sbatch", *(held if after else []), str(submission_file_path)]

    logging.getLogger("submitit").setLevel(logging.ERROR)
    try:
        return Executor(folder)._submit_command("").job_id
    except (FailedJobError, FailedSubmissionError) as e:
        said = re.findall(r"sbatch: error: (.*)", str(e)) or str(e).strip().splitlines()[-1:]
        raise BadInput(
            f"Slurm refused the job: {said[0] if said else e}",
            folder,
            "Mend the resources or the cluster profile; the script is beside the logs.",
        ) from e


def queue(ids: list[str]) -> dict[str, Queued]:
    r"""What squeue says of some jobs, in one call; jobs it no longer knows are left out."""
    if not ids or not shutil.which("squeue"):
        return {}
    rows = _rows(["squeue", "-h", "-o", "%A|%T|%r|%N|%S", "-t", "all", "-j", ",".join(ids)])
    return {r[0]: Queued(*r[1:]) for r in rows if len(r) == 5}


def account(ids: list[str]) -> dict[str, str]:
    r"""Final states from sacct, where there is accounting."""
    if not ids or not shutil.which("sacct"):
        return {}
    rows = _rows(["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(ids)])
    return {r[0]: r[1].split()[0] for r in rows if len(r) == 2 and r[1].strip()}


def _rows(command: list[str]) -> list[list[str]]:
    r"""The rows a Slurm command prints, cut at `|`; none where Slurm does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return []
    return [line.split("|") for line in done.stdout.splitlines()]
