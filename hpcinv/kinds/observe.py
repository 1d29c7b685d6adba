r"""`kind: observe`: draws or reads observations once, so that every method sees the same."""

from __future__ import annotations

__all__ = ["Observe"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ..errors import BadInput, nearest
from ..observations.config import PointTable, RandomPoints
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Observe(Job):
    r"""The table of observations: what a network sees of a known truth, or what a file holds.

    `data` is the trajectory that is observed. An OSSE draws from its frames; a file's rows are
    only mapped to its grid and its times.
    """

    kind: Literal["observe"] = "observe"
    data: Annotated[str, Ref("store")]
    frames: tuple[int, int] = Field(description="half-open range of the frames analysed")
    observing: Annotated[RandomPoints | PointTable, Field(discriminator="network")]

    thing: ClassVar[str] = "observations"

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name]
        if self.frames[0] >= self.frames[1] or self.frames[0] < 0:
            raise BadInput(
                "'frames' is empty", where.where(("frames",)), "Write [first, last + 1]."
            )
        o = self.observing
        if o.network == "table":
            path = Path(o.path).expanduser()
            o.path = str(path if path.is_absolute() else (study.folder / path).resolve())
            if not Path(o.path).exists():
                raise BadInput(f"no such file: {o.path}", where.where(("observing", "path")))
            return
        data = study.jobs.get(self.data)
        known = list(data.variables) if data is not None and data.kind == "import" else []
        if known and data.levels is None and o.channels:
            for c in o.channels:
                if not any(c == v or c.startswith(f"{v}_") for v in known):
                    raise BadInput(
                        f"unknown variable '{c}'",
                        where.where(("observing", "channels")),
                        nearest(c, known),
                    )

    def external(self) -> dict[str, tuple[Path, str]]:
        o = self.observing
        return {"table": (Path(o.path), "quick")} if o.network == "table" else {}

    def run(self, ctx: Context) -> dict[str, str]:
        from ..observations.networks import random_points
        from ..observations.read import read_points

        store = ctx.store(self.data)
        draw = self.observing.network == "random_points"
        fields = self.observing.model_dump(exclude={"network"})
        start, stop = self.frames
        if draw:
            table = random_points(store, start=start, stop=stop, seed=self.seed, **fields)
        else:
            path = fields.pop("path")
            table, left_out = read_points(path, store, start=start, stop=stop, **fields)
            for why, count in left_out.items():
                ctx.say(f"{count} rows left out: {why}")
        digest = table.save(ctx.folder / "observations.nc")
        ctx.say(f"{len(table)} observations of {stop - start} frames")
        return {"observations": digest}

    def figures(self, study: Study, name: str) -> dict[str, str]:
        o = self.observing
        return {"file": o.path} if o.network == "table" else {"points": f"{o.points} a frame"}
