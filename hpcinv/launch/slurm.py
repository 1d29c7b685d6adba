r"""What Slurm says: the queue, the accounts, the partitions. Each question is one call.

Slurm may be slow, busy or absent: None is "no answer", which is not "no such job".
"""

from __future__ import annotations

__all__ = [
    "OURS",
    "Element",
    "Ended",
    "account",
    "cancel",
    "check_partition",
    "forgotten",
    "need_slurm",
    "queue",
]

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import BadInput
from .batches import expand

PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESV_DEL_HOLD"}
ALIVE = PENDING | {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"}

OURS = "hpcinv:"  # every key, the comment a job is sent with, begins so
WHOLE_LISTS = {"SLURM_BITSTR_LEN": "0"}  # else long lists of array indices are cut short


@dataclass(frozen=True)
class Element:
    r"""A job, an element of an array, or those that wait together, as `squeue` shows them."""

    state: str
    reason: str
    nodes: str
    start: str
    indices: str = ""  # of an array: "5", or "[7-999%4]" where many wait
    key: str = ""  # the comment it was sent with

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    @property
    def waits(self) -> bool:
        return self.state in PENDING


@dataclass(frozen=True)
class Ended:
    r"""A job, or an element of an array, as `sacct` remembers it."""

    state: str
    code: str  # exit code:signal
    nodes: str
    elapsed: str


def need_slurm() -> None:
    r"""Raises BadInput where there is no Slurm, or none that its own commands can find.

    One that is silent is another matter: it may answer later.
    """
    for tool in ("sbatch", "squeue", "srun"):
        if not shutil.which(tool):
            raise BadInput(
                f"there is no Slurm here ('{tool}' is missing)",
                None,
                "Use 'hpcinv run', or try Slurm on this machine: scripts/dev-cluster start.",
            )
    try:
        said = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=60).stderr
    except subprocess.TimeoutExpired:
        return
    if "configuration source" in said:
        raise BadInput(
            "Slurm's commands are here, but they find no configuration",
            os.environ.get("SLURM_CONF", "SLURM_CONF is not set"),
            "Log in to a node of the cluster, set SLURM_CONF, or for the dev cluster: "
            'eval "$(scripts/dev-cluster env)".',
        )


def check_partition(partition: str | None, profile: str) -> None:
    r"""An unknown partition is known before the queue.

    Raises:
        BadInput: With the partitions there are.
    """
    if partition is None:
        return
    rows = _rows(["sinfo", "-h", "-o", "%R"])
    known = sorted({r[0] for r in rows or []})
    for p in partition.split(",") if known else ():
        if p not in known:
            raise BadInput(
                f"this Slurm has no partition '{p}'",
                f"cluster profile '{profile}'",
                f"Known: {', '.join(known)}.",
            )


def queue(ids: Iterable[str] | None = None) -> dict[str, list[Element]] | None:
    r"""What squeue says of some jobs, or of all of mine: the elements of each by its id.

    Jobs that Slurm has forgotten (MinJobAge after their end) are left out.
    """
    if ids is not None and not (ids := list(ids)):
        return {}
    whose = ["--me"] if ids is None else ["-j", ",".join(ids)]
    rows = _rows(["squeue", "-h", "-t", "all", "-o", "%F|%T|%r|%N|%S|%K|%k", *whose])
    if rows is None:
        return None
    found: dict[str, list[Element]] = {}
    for r in rows:
        if len(r) >= 7:
            indices = "" if r[5] == "N/A" else r[5]
            found.setdefault(r[0], []).append(Element(*r[1:5], indices, r[6]))
    return found


def account(ids: Iterable[str]) -> dict[str, Ended] | None:
    r"""Final states from sacct, by `id` or `id_index`; None where there is no accounting."""
    ids = list(ids)
    if not ids:
        return {}
    rows = _rows(
        ["sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode,NodeList,Elapsed", "-j",
         ",".join(ids)]
    )  # fmt: skip
    if rows is None:
        return None
    found: dict[str, Ended] = {}
    for r in rows:
        if len(r) == 5 and r[1].strip():
            base, _, tail = r[0].partition("_")
            ended = Ended(r[1].split()[0], *r[2:])
            for name in [f"{base}_{i}" for i in expand(tail)] if tail.startswith("[") else [r[0]]:
                found[name] = ended
    return found


def forgotten(id_: str, key: str) -> bool:
    r"""Whether the controller itself says that a job it has taken is none, or another one's.

    A site's squeue may be a cache that is behind; `scontrol` is asked where that matters.
    """
    if not shutil.which("scontrol"):
        return False
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "-o", id_], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        return "invalid job id" in done.stderr.lower()
    said = re.search(r"\bComment=(\S+)", done.stdout)
    return said is not None and said[1].startswith(OURS) and said[1] != key


def cancel(ids: Iterable[str]) -> None:
    r"""Cancels jobs, in one call.

    Raises:
        BadInput: If Slurm refuses or does not answer.
    """
    ids = list(ids)
    if not ids:
        return
    done = subprocess.run(["scancel", *ids], capture_output=True, text=True, timeout=120)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise BadInput(f"Slurm did not cancel them: {done.stderr.strip()}", ", ".join(ids))


def _rows(command: list[str]) -> list[list[str]] | None:
    r"""The rows a Slurm command prints, cut at `|`; None where Slurm does not answer."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=os.environ | WHOLE_LISTS
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode and not re.search("invalid job id", done.stderr, re.IGNORECASE):
        return None
    return [line.split("|") for line in done.stdout.splitlines()]
