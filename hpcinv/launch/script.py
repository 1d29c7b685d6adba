r"""The sbatch script of a job: one template, filled from the job's resources and the profile."""

from __future__ import annotations

__all__ = ["render"]

import shlex
import sys
from pathlib import Path

from ..kinds.base import Job
from ..shipped import folder
from .profile import Profile


def _time(seconds: int) -> str:
    d, rest = divmod(seconds, 86400)
    return f"{d}-{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"


def options(name: str, job: Job, profile: Profile, logs: Path) -> list[tuple[str, str | None]]:
    r"""The `#SBATCH` lines, as (option, value)."""
    r = job.resources
    cpus = r.cpus_per_task or profile.cpus_per_task
    said: list[tuple[str, str | None]] = [
        ("job-name", name),
        ("nodes", str(r.nodes)),
        ("ntasks-per-node", str(r.tasks_per_node)),
        ("cpus-per-task", str(cpus)),
        # Memory per task is no sbatch option, and GPUs bound to tasks break NCCL's peer copies:
        # both are asked for per node.
        ("mem", f"{-(-r.mem_per_task * r.tasks_per_node // 10**6)}M"),
        ("time", _time(r.time)),
    ]
    if r.gpus_per_task:
        said.append(("gpus-per-node", str(r.gpus_per_task * r.tasks_per_node)))
    for key in ("partition", "account", "qos", "constraint"):
        if getattr(profile, key):
            said.append((key, getattr(profile, key)))
    if profile.exclusive:
        said.append(("exclusive", None))
    return [
        *said,
        ("output", str(logs / "slurm-%j.log")),
        ("open-mode", "append"),
        ("signal", f"USR2@{profile.signal_delay}"),
        ("requeue", None),
    ]


def render(name: str, job: Job, profile: Profile, run_folder: Path) -> str:
    r"""The script that `submit` sends and `plan --sbatch` writes.

    Arguments:
        name: `study/job`.
        job: The job.
        profile: The site.
        run_folder: Where its resolved `job.yaml` is.
    """
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder("slurm")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters["quote"] = lambda v: shlex.quote(str(v))
    bind = ["--gpu-bind=none"] if job.resources.gpus_per_task else []
    return env.get_template("job.sbatch.j2").render(
        title=f"{name}, rendered by hpcinv for the cluster profile '{profile.name}'",
        options=options(name, job, profile, run_folder / "logs"),
        setup=profile.setup,
        environment=list(profile.environment.items()),
        bin=Path(sys.executable).parent,
        threads=job.resources.cpus_per_task or profile.cpus_per_task,
        mpi=profile.mpi,
        srun_args=[*profile.srun_args, *bind],
        job=run_folder / "job.yaml",
        max_restarts=profile.max_restarts,
    )
