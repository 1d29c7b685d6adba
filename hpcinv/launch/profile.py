r"""Cluster profiles: what a site wants said in every sbatch script."""

from __future__ import annotations

__all__ = ["Profile", "load_profile"]

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from ..errors import BadInput, nearest
from ..shipped import folder
from ..training.devices import DEVICES


def _word(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.,:=+*@&|!-]+", value):
        raise ValueError(f"'{value}' holds characters that do not belong into an sbatch option")
    return value


Word = Annotated[str, AfterValidator(_word)]


class Profile(BaseModel):
    r"""One site. Job files say what a job needs; this says how the site calls it."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    cluster_name: Word | None = Field(None, description="Slurm's ClusterName, to recognise it")
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    mpi: Word | None = Field(None, description="srun --mpi=")
    srun_args: list[Word] = []
    cpus_per_task: int = Field(1, ge=1, description="for jobs that do not say")
    gpu: str | None = Field(None, description="its GPUs, as hpcinv/training/devices.py names them")
    exclusive: bool = False
    setup: list[str] = Field([], description="shell lines of the site, e.g. module load ...")
    environment: dict[Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")], str] = {}
    signal_delay: int = Field(90, ge=1, description="seconds between the signal and the end")
    max_restarts: int = Field(10, ge=0)

    @field_validator("gpu")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in DEVICES:
            raise ValueError(f"unknown GPU '{value}'. {nearest(value, DEVICES)}")
        return value


def load_profile(name: str | None) -> Profile:
    r"""The profile asked for, or that of the cluster this machine belongs to.

    Arguments:
        name: A profile's name, or the path of a YAML file. By default `$HPCINV_CLUSTER`, then
            the profile whose `cluster_name` is Slurm's own, then `generic`.

    Raises:
        BadInput: If there is no such profile, or it has a mistake.
    """
    from ..kinds.jobfile import read_yaml

    shipped = {p.stem: p for p in sorted((folder("slurm") / "clusters").glob("*.yaml"))}
    name = name or os.environ.get("HPCINV_CLUSTER")
    if name is None:
        here = _cluster_name()
        named = {read_yaml(p)[0].get("cluster_name"): n for n, p in shipped.items()}
        name = named.get(here, "generic") if here else "generic"
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise BadInput(
            f"unknown cluster '{name}'", folder("slurm") / "clusters", nearest(name, shipped)
        )
    data, lines = read_yaml(path)
    try:
        return Profile(**{"name": path.stem, **data})
    except ValidationError as e:
        first: dict[str, Any] = e.errors(include_url=False)[0]
        loc = tuple(str(k) for k in first["loc"])
        line = lines.get(loc[:1])
        hint = (
            nearest(loc[0], Profile.model_fields) if first["type"] == "extra_forbidden" else None
        )
        raise BadInput(
            f"'{'.'.join(loc)}': {first['msg']}", f"{path}, line {line}" if line else path, hint
        ) from e


def _cluster_name() -> str | None:
    if not shutil.which("scontrol"):
        return None
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return match[1] if match else None
