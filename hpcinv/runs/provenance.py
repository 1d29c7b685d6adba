r"""What a result was made with: versions, commit, machine, Slurm ids. Never the environment
itself: it holds secrets."""

from __future__ import annotations

__all__ = ["launch_ids", "software"]

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "hpcinv torch deepspeed azula zuko numpy scipy h5py netCDF4 mpi4py xarray submitit".split()
)
SLURM = {
    "job": "SLURM_JOB_ID",
    "array_job": "SLURM_ARRAY_JOB_ID",
    "array_task": "SLURM_ARRAY_TASK_ID",
    "restart": "SLURM_RESTART_COUNT",
    "nodes": "SLURM_JOB_NODELIST",
    "partition": "SLURM_JOB_PARTITION",
    "cluster": "SLURM_CLUSTER_NAME",
}


@cache
def software() -> dict[str, str]:
    r"""Versions of Python, of the packages that matter, and the commit where there is one."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        git = ["git", "-C", str(root)]
        try:
            done = subprocess.run(
                [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
            )
            dirty = subprocess.run(
                [*git, "status", "--porcelain", "--untracked-files=no"],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return found
        if done.returncode == 0:
            found["commit"] = done.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
    return found


def launch_ids() -> dict[str, Any]:
    r"""Where an attempt runs: host, process, and Slurm's ids inside a Slurm job."""
    ids: dict[str, Any] = {"host": platform.node(), "pid": os.getpid()}
    slurm = {k: os.environ[v] for k, v in SLURM.items() if v in os.environ}
    return ids | ({"slurm": slurm} if slurm else {})
