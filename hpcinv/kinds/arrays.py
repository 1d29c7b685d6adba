r"""Arrays: a job cut into tasks that run on their own, and the step that joins their parts.

Task k of N does block k of the axis and writes `tasks/<k>/`, which has its own manifest and
attempts. The `join` step looks at every part before it makes one result of them. Which of them a
process is, HPCINV_TASK says: a number, `join`, or nothing for the job as a whole.
"""

from __future__ import annotations

__all__ = [
    "JOIN",
    "alike",
    "asked",
    "axis",
    "block",
    "check_array",
    "inputs_of_task",
    "parts",
]

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..parallel import World
from ..runs.folder import RunFolder
from .base import Job
from .jobfile import Source

JOIN = "join"


def block(length: int, tasks: int, task: int) -> range:
    r"""Ids of block `task` of `tasks`: contiguous, sizes differ by at most one."""
    return range(*World(task, tasks).share(0, length))


def axis(job: Job) -> str | None:
    r"""The axis that is cut, or the one that would be."""
    array = job.resources.array
    return array.over if array else (job.axes[0] if job.axes else None)


def check_array(job: Job, source: Source) -> None:
    r"""Whether a job can be cut as its array says.

    Raises:
        BadInput: With what it can be cut over, or how long the axis is.
    """
    array = job.resources.array
    if array is None:
        return
    if array.over not in job.axes:
        other = f"Possible: {', '.join(job.axes)}." if job.axes else "Remove the array."
        if array.over == "seeds":
            other += " Whole jobs of several seeds: each: {seed: [0, 1, 2]}."
        raise BadInput(
            f"a job of kind '{job.kind}' cannot be cut over {array.over}",
            source.where(("resources", "array", "over")),
            other,
        )
    length = job.axis(array.over)
    if array.tasks > length:
        raise BadInput(
            f"{array.tasks} tasks cannot share {length} {array.over}",
            source.where(("resources", "array", "tasks")),
            f"Write seeds: {array.tasks}."
            if array.over == "seeds" and length == 1
            else f"Use at most {length}.",
        )


def alike(job: Job, ref: str, other: Job) -> bool:
    r"""Whether each task needs of an input only what the task of the same number has made of it.

    Arguments:
        job: The job.
        ref: The input's reference.
        other: The job that makes it.
    """
    a, b = job.resources.array, other.resources.array
    same = a is not None and b is not None and (a.over, a.tasks) == (b.over, b.tasks)
    return same and job.blockwise(ref, other)


def inputs_of_task(inputs: Mapping[str, Any], same: Mapping[str, Path], task: int) -> dict:
    r"""Digests of a task's inputs: those of the job, but of what is cut alike its own part's.

    Arguments:
        inputs: Digests of the job's inputs.
        same: Run folders of the inputs that are cut alike.
        task: The task.
    """
    parts = {ref: RunFolder(path, task).manifest().get("digest") for ref, path in same.items()}
    return {**inputs, **parts}


def asked(job: Job, where: Path, environ: Mapping[str, str] = os.environ) -> int | str | None:
    r"""The task this process is, `join`, or None for the whole job.

    Raises:
        BadInput: If the job has no such task, or Slurm started a task without saying which.
    """
    said, array = environ.get("HPCINV_TASK"), job.resources.array
    if said is None:
        if array and "SLURM_ARRAY_TASK_ID" in environ:
            raise BadInput(
                "this is a task of a Slurm array, but HPCINV_TASK does not say which",
                where,
                "Write 'export HPCINV_TASK=$SLURM_ARRAY_TASK_ID' before srun.",
            )
        return None
    if array is None:
        raise BadInput(f"HPCINV_TASK is {said}, but the job is no array", where)
    if said == JOIN:
        return JOIN
    if not said.isdecimal() or int(said) >= array.tasks:
        raise BadInput(
            f"HPCINV_TASK is {said}; the array has the tasks 0 to {array.tasks - 1}", where
        )
    return int(said)


def parts(
    top: RunFolder,
    job: Job,
    inputs: dict[str, Any],
    patience: float = 60.0,
    same: Mapping[str, Path] | None = None,
) -> list[Path]:
    r"""Folders of all tasks, each complete and made of these inputs.

    Arguments:
        top: The run folder.
        inputs: Digests of the job's inputs.
        patience: Seconds that other nodes' files may take to appear on a slow shared file system.
        same: Run folders of the inputs that are cut alike: a task has read its own part of them.

    Raises:
        BadInput: Naming the tasks that are missing, have not ended well, or used other inputs.
    """
    array = job.resources.array
    until = time.monotonic() + patience
    wrong = dict.fromkeys(range(array.tasks), "")
    while True:
        for k in list(wrong):
            m = top.of_task(k).manifest()
            if m["state"] != "complete":
                wrong[k] = {"new": "has not run"}.get(m["state"], f"is {m['state']}")
            elif m["inputs"] != inputs_of_task(inputs, same or {}, k):
                wrong[k] = "was made of other inputs"
            else:
                del wrong[k]
        if not wrong:
            return [top.of_task(k).path for k in range(array.tasks)]
        if time.monotonic() > until:
            k, what = next(iter(wrong.items()))
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise BadInput(f"task {k} of {array.tasks} {what}{more}", top.path, "Run it again.")
        time.sleep(1)
