r"""Cluster profiles: what a site wants said in every sbatch script, and what its nodes have."""

from __future__ import annotations

__all__ = ["Profile", "Staging", "controller", "load_profile"]

import os
import re
import shutil
import subprocess
from functools import cache
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
from ..kinds.base import Duration, Job, Size
from ..shipped import folder
from ..training.devices import DEVICES


def _word(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.,:=+*@&|!/-]+", value):
        raise ValueError(f"'{value}' holds characters that do not belong into an option")
    return value


def _line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("a line break or another control character")
    return value


Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Name = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
Option = Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$")]


class Nodes(BaseModel):
    r"""A kind of nodes: how it is asked for, and what it has."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    partition: Word | None = None
    account: Word | None = Field(None, description="else $SBATCH_ACCOUNT, which sbatch reads")
    qos: Word | None = None
    constraint: Word | None = None
    sbatch: dict[Option, Word | None] = Field({}, description="more options of sbatch")
    cores: int | None = Field(None, ge=1, description="cores of a node")
    memory: Size | None = Field(None, description="memory of a node")
    gpus: int | None = Field(None, ge=0, description="GPUs of a node")
    max_nodes: int | None = Field(None, ge=1)
    max_time: Duration | None = None


class Staging(BaseModel):
    r"""An environment that goes to every node once, instead of being read by every rank.

    `archive` is copied to `to` of each node by sbcast. A container image is run from there by
    `container`; a tar archive is unpacked, and its `bin` goes to the front of PATH.
    """

    model_config = ConfigDict(extra="forbid")

    archive: Line
    to: str = Field(
        "/tmp",
        pattern=r"^(/|\$[A-Z_]+)[A-Za-z0-9_./-]*$",
        description="a folder every node has of its own; may begin with a $VARIABLE",
    )
    container: list[Word] = Field([], description="what runs an image: [apptainer, exec, --nv]")


class Profile(Nodes):
    r"""One site. Job files say what a job needs; this says how the site calls it."""

    name: str = ""
    source: str | None = Field(None, description="where the site documents it")
    untested: bool = Field(False, description="written from documentation, run nowhere")
    cluster_name: Word | None = Field(None, description="Slurm's ClusterName, to recognise it")
    gpu_nodes: Nodes = Field(Nodes(), description="what differs for jobs that ask for GPUs")
    gpu_option: Annotated[str, Field(pattern="^(gpus-per-node|gres)$")] = "gpus-per-node"
    memory_option: bool = Field(True, description="false where memory is not to be asked for")
    mpi: Word | None = Field(None, description="srun --mpi=")
    srun_args: list[Word] = []
    cpus_per_task: int = Field(1, ge=1, description="for jobs that do not say")
    gpu: str | None = Field(None, description="its GPUs, as hpcinv/training/devices.py names them")
    exclusive: bool = False
    setup: list[Line] = Field([], description="shell lines of the site, e.g. module load ...")
    environment: dict[Name, Line] = {}
    staging: Staging | None = None
    scratch: str | None = Field(
        None,
        pattern=r"^(/|\$[A-Z_]+)[A-Za-z0-9_./-]*$",
        description="the parallel file system, where run folders belong; may begin with $VARIABLE",
    )
    signal_delay: int = Field(90, ge=1, description="seconds between the signal and the end")
    max_restarts: int = Field(10, ge=0)
    max_array: int | None = Field(None, ge=1, description="MaxArraySize; else Slurm is asked")
    max_submit: int | None = Field(None, ge=2, description="most jobs a user may have queued")

    def nodes_of(self, job: Job) -> Nodes:
        r"""The nodes a job goes to: those with GPUs where it asks for some."""
        fields = {k: getattr(self, k) for k in Nodes.model_fields}
        if job.resources.gpus_per_task:
            given = {k: getattr(self.gpu_nodes, k) for k in self.gpu_nodes.model_fields_set}
            fields |= given | {"sbatch": self.sbatch | self.gpu_nodes.sbatch}
        return Nodes.model_construct(**fields)

    def misplaced(self, runs: Path) -> str | None:
        r"""A note where run folders are not on the site's parallel file system."""
        place = os.path.expandvars(self.scratch or "")
        if not place or "$" in place or Path(runs).resolve().is_relative_to(Path(place).resolve()):
            return None
        return (
            f"note: '{self.name}' keeps large results in {place}, the run folders are in {runs}; "
            f"to have them there: --runs {place}/runs"
        )

    def check(self, name: str, job: Job) -> None:
        r"""What a site cannot give is known before the queue.

        Raises:
            BadInput: With what the job asks for and what there is.
        """
        r, has = job.resources, self.nodes_of(job)
        if r.gpus_per_task and has.gpus == 0:
            raise BadInput(f"{name} asks for GPUs; '{self.name}' has none", "resources")
        cpus = r.tasks_per_node * (r.cpus_per_task or self.cpus_per_task)
        for key, wanted, most, what in (
            ("tasks_per_node", cpus, has.cores, "cores a node"),
            ("gpus_per_task", r.gpus_per_task * r.tasks_per_node, has.gpus, "GPUs a node"),
            ("mem_per_task", r.mem_per_task * r.tasks_per_node, has.memory, "bytes a node"),
            ("nodes", r.nodes, has.max_nodes, "nodes"),
            ("time", r.time, has.max_time, "seconds"),
        ):
            if most is not None and wanted > most:
                raise BadInput(
                    f"{name} asks for {wanted} {what}; '{self.name}' gives {most}",
                    f"resources.{key}",
                    "Ask for less, or mend the cluster profile.",
                )

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
        here = controller("ClusterName")
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


def controller(key: str) -> str | None:
    r"""A setting of slurmctld, or None where it does not say. Asked once."""
    match = re.search(rf"^{key}\s*=\s*(\S+)", _config(), re.MULTILINE)
    return match[1] if match else None


@cache
def _config() -> str:
    if not shutil.which("scontrol"):
        return ""
    try:
        return subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=20
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
