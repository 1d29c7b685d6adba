r"""The sbatch script of a job: one template, filled from the job's resources and the profile."""

from __future__ import annotations

__all__ = ["render", "scripts", "template"]

import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ..kinds.base import Job, Resources
from ..shipped import folder
from .batches import ARRAY, JOIN, WHOLE, Batch, cut
from .profile import Profile, controller

MAX_ARRAY = 1001  # Slurm's own default
ALL = Batch(WHOLE)


def scripts(job: Job, profile: Profile, tasks: list[int] | None = None) -> list[Batch]:
    r"""What is to be sent for a job: itself, or the shares of its array and the join.

    Arguments:
        job: The job.
        profile: The site.
        tasks: The tasks of an array that are to run; by default all.
    """
    array = job.resources.array
    if array is None:
        return [ALL]
    most = profile.max_array or int(controller("MaxArraySize") or MAX_ARRAY)
    todo = range(array.tasks) if tasks is None else tasks
    return [*cut(todo, array.pack, most, array.throttle), Batch(JOIN)]


def _time(seconds: int) -> str:
    d, rest = divmod(seconds, 86400)
    return f"{d}-{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"


def options(
    name: str, job: Job, profile: Profile, logs: Path, batch: Batch
) -> list[tuple[str, str | None]]:
    r"""The `#SBATCH` lines, as (option, value)."""
    r = _resources(job, batch)
    site = profile.nodes_of(job)
    cpus = r.cpus_per_task or profile.cpus_per_task
    said: list[tuple[str, str | None]] = [
        ("job-name", name if batch.step != JOIN else f"{name}/join"),
        ("nodes", str(r.nodes)),
        ("ntasks-per-node", str(r.tasks_per_node)),
        ("cpus-per-task", str(cpus)),
    ]
    if batch.step == ARRAY:
        said.insert(1, ("array", batch.option))
    # Memory per task is no sbatch option, and GPUs bound to tasks break NCCL's peer copies:
    # both are asked for per node.
    if profile.memory_option:
        said.append(("mem", f"{-(-r.mem_per_task * r.tasks_per_node // 10**6)}M"))
    said.append(("time", _time(r.time)))
    if r.gpus_per_task:
        gpus = str(r.gpus_per_task * r.tasks_per_node)
        by_name = profile.gpu_option == "gres"
        said.append(("gres", f"gpu:{gpus}") if by_name else ("gpus-per-node", gpus))
    for key in ("partition", "account", "qos", "constraint"):
        if getattr(site, key):
            said.append((key, getattr(site, key)))
    said.extend(site.sbatch.items())
    if profile.exclusive:
        said.append(("exclusive", None))
    return [
        *said,
        ("output", str(logs / ("slurm-%A_%a.log" if batch.step == ARRAY else "slurm-%j.log"))),
        ("open-mode", "append"),
        ("signal", f"USR2@{profile.signal_delay}"),
        ("requeue", None),
    ]


def _resources(job: Job, batch: Batch) -> Resources:
    r"""The join is one process, on the kind of node its tasks have."""
    if batch.step != JOIN:
        return job.resources
    one = {"nodes": 1, "tasks_per_node": 1, "array": None}
    return job.resources.model_copy(update=one)


@cache
def template(name: str):
    r"""A template of the folder `slurm`; `quote` makes of a value one word of the shell."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder("slurm")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters["quote"] = lambda v: shlex.quote(str(v))
    return env.get_template(name)


def render(name: str, job: Job, profile: Profile, run_folder: Path, batch: Batch = ALL) -> str:
    r"""A script that `submit` sends and `plan --sbatch` writes.

    Arguments:
        name: `study/job`.
        job: The job.
        profile: The site.
        run_folder: Where its resolved `job.yaml` is.
        batch: What of the job it starts.
    """
    array = job.resources.array
    bind = ["--gpu-bind=none"] if job.resources.gpus_per_task else []
    what = {ARRAY: "an array of it, ", JOIN: "the join of its tasks, "}.get(batch.step, "")
    staging = profile.staging
    said: dict[str, Any] = {
        "title": f"{name}, {what}rendered by hpcinv for the cluster profile '{profile.name}'",
        "options": options(name, job, profile, run_folder / "logs", batch),
        "setup": profile.setup,
        "environment": list(profile.environment.items()),
        "bin": Path(sys.executable).parent,
        "threads": job.resources.cpus_per_task or profile.cpus_per_task,
        "mpi": profile.mpi,
        "srun_args": [*profile.srun_args, *bind],
        "job": run_folder / "job.yaml",
        "met": run_folder / "logs" / "met",
        "max_restarts": profile.max_restarts,
        "staging": staging,
        "archive": Path(staging.archive).name if staging else "",
        "step": batch.step,
        "offset": batch.offset,
        "pack": array.pack if array else 1,
        "tasks": array.tasks if array else 1,
    }
    return template("job.sbatch.j2").render(said)
