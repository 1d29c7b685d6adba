r"""What all job kinds share: typed fields, references to other jobs, and the context of a run.

A kind is a pydantic model of its fields and a `run` method. This module and the fields of every
kind import nothing heavy, so that reading, planning and submitting a study never load torch.
"""

from __future__ import annotations

__all__ = [
    "Array",
    "Context",
    "Duration",
    "Fields",
    "Job",
    "Ref",
    "Resources",
    "Size",
    "references",
]

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

if TYPE_CHECKING:
    from ..parallel import World
    from ..runs.progress import Progress
    from ..runs.stop import StopFlag
    from .study import Study

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", value)
        if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", "", value).strip():
            raise ValueError(f"'{value}' is no duration: write 90s, 30m, 2h or 1d12h")
        return round(sum(float(n) * _SECONDS[u] for n, u in parts))
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"a duration has a unit: write {value:g}s, {value:g}m or {value:g}h")
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B?", value.strip(), re.IGNORECASE)
        if not match:
            raise ValueError(f"'{value}' is no size: write 500MB or 60GB")
        return round(float(match[1]) * _BYTES[match[2].upper() + "B"])
    return value


def _write_duration(s: int) -> str:
    for unit in ("d", "h", "m"):
        if s and s % _SECONDS[unit] == 0:
            return f"{s // _SECONDS[unit]}{unit}"
    return f"{s}s"


def _write_size(b: int) -> str:
    for unit in ("GB", "MB", "KB"):
        if b % _BYTES[unit] == 0:
            return f"{b // _BYTES[unit]}{unit}"
    return f"{b / 1000:g}KB"


# In a file both are text with a unit, and so says the schema.
Duration = Annotated[
    int, BeforeValidator(_duration), Field(gt=0), PlainSerializer(_write_duration, str),
    WithJsonSchema({"type": "string", "examples": ["30m", "2h"]}),
]  # fmt: skip
Size = Annotated[
    int, BeforeValidator(_size), Field(gt=0), PlainSerializer(_write_size, str),
    WithJsonSchema({"type": "string", "examples": ["500MB", "60GB"]}),
]  # fmt: skip


class Fields(BaseModel):
    r"""A group of fields; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


@dataclass(frozen=True)
class Ref:
    r"""Marks a field that names a job of the study (or a path) making one kind of thing, or one
    of several: `store|simulations`."""

    thing: str


class Array(Fields):
    r"""A job cut into tasks, each with a contiguous block of one axis; ids stay global."""

    over: Literal["members", "dates", "seeds", "shards", "observations"] = Field(
        description="the axis, each of what has one: the members of an assimilation; the dates "
        "of observing, encoding and what analyses frame by frame; the seeds of a posterior's "
        "training and of ensemble filters; the shards of simulations and mixtures; the "
        "observations inferred from"
    )
    tasks: int = Field(ge=1, description="blocks the axis is cut into, of sizes that differ by 1")
    throttle: int | None = Field(None, ge=1, description="most tasks at once")
    pack: int = Field(1, ge=1, description="short tasks that share one Slurm job, in sequence")


class Resources(Fields):
    r"""What a job asks of the cluster. Locally only the ranks and the array count.

    Of an array they are those of one task; the time limit is that of one Slurm job, so of `pack`
    tasks together.
    """

    nodes: int = Field(1, ge=1)
    tasks_per_node: int = Field(1, ge=1, description="ranks on each node")
    cpus_per_task: int | None = Field(None, ge=1, description="default: the cluster profile's")
    gpus_per_task: int = Field(0, ge=0)
    time: Duration = Field("1h", description="time limit, e.g. 30m or 2h")
    mem_per_task: Size = Field("2GB", description="memory of one rank, e.g. 60GB")
    array: Array | None = None

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass
class Context:
    r"""What a running job is given.

    Attributes:
        folder: Where outputs go: the run folder, or `tasks/<k>` of it for a task of an array.
        world: The ranks.
        inputs: Folder of every reference, by the name the job file gives it.
        threads: Intra-op threads of a rank.
        task: Which task of an array this is; None where the job is whole, and in the join.
        over: The axis that is cut, or would be (the first of the kind's); None if it has none.
        block: Global ids along that axis that are this start's work: all of them without array.
    """

    folder: Path
    world: World
    progress: Progress
    stop: StopFlag
    attempt: int
    inputs: dict[str, Path] = field(default_factory=dict)
    threads: int = 1
    task: int | None = None
    over: str | None = None
    block: range = range(0)

    def store(self, name: str):
        r"""The trajectory store behind a reference (a run folder, or a store itself)."""
        from ..io.store import TrajectoryStore

        path = self.inputs[name]
        return TrajectoryStore.open(path / "store" if (path / "store").is_dir() else path)

    def fence(self) -> None:
        r"""Raises where a newer attempt has begun: this one may not commit any more."""
        from ..runs.folder import RunFolder

        run = self.folder if self.task is None else self.folder.parents[1]
        RunFolder(run, self.task).fence(self.attempt)

    def say(self, text: str) -> None:
        r"""One line of the job's log, from rank 0."""
        if self.world.rank == 0:
            print(text, flush=True)


class Job(Fields):
    r"""Fields every job file has.

    Attributes:
        backend: How its ranks talk: `mpi`, `torch` or `none` (one process).
        makes: What other jobs may use it as.
        axes: Axes it can be cut over, into the tasks of an array; it then has `axis` and `join`.
    """

    kind: str
    after: list[str] = Field([], description="jobs that must end first, besides the inputs")
    resources: Resources = Resources()
    seed: int = Field(0, ge=0)

    backend: ClassVar[str] = "none"
    thing: ClassVar[str] = ""
    axes: ClassVar[tuple[str, ...]] = ()

    @property
    def makes(self) -> str:
        return self.thing

    def check(self, name: str, study: Study) -> None:
        r"""Looks for mistakes that can be known before anything runs, without heavy imports.

        Raises:
            BadInput: With what, where and what to write instead.
        """

    def fetch(self) -> None:
        r"""Brings what compute nodes could not download; called on submission and local runs."""

    def external(self) -> dict[str, tuple[Path, str]]:
        r"""Files of others it reads: name -> (path, `quick` or `full` verification)."""
        return {}

    def run(self, ctx: Context) -> dict[str, str]:
        r"""Does the job. All ranks call it.

        Returns:
            Digests of the outputs by name.
        """
        raise TypeError(f"{type(self).__name__} has no run()")  # every kind has its own

    def axis(self, over: str) -> int:
        r"""Length of one of its `axes`, without heavy imports."""
        raise TypeError(f"{type(self).__name__} cannot be cut over {over}")

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        r"""Makes one result of the blocks that `run` wrote. One process calls it.

        Arguments:
            ctx: `ctx.folder` is the run folder.
            parts: Folders of all tasks in their order, each complete and made of the same inputs;
                without an array the run folder alone. `outputs` of a part's manifest holds what
                `run` returned: a part is checked by it before it is used.

        Returns:
            Digests of the outputs by name, the same however the axis was cut.
        """
        raise TypeError(f"{type(self).__name__} has no join()")  # kinds with axes have their own

    def blockwise(self, ref: str, other: Job) -> bool:
        r"""Whether a block of its axis needs of an input no more than the same block of it.

        Arguments:
            ref: The input's reference.
            other: The job that makes it, cut over the same axis.
        """
        return False

    def figures(self, study: Study, name: str) -> dict[str, str]:
        r"""What `plan` prints of the job beside its resources, as short texts by name."""
        return {}


def references(job: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    r"""All references of a job: (key, name or path, thing it must be)."""
    for key, info in type(job).model_fields.items():
        value = getattr(job, key)
        marks = [m for m in info.metadata if isinstance(m, Ref)]
        if marks and value is not None:
            for v in [value] if isinstance(value, str) else value:
                yield prefix + key, v, marks[0].thing
        elif isinstance(value, BaseModel):
            yield from references(value, f"{prefix}{key}.")
