r"""`kind: observe`: draws observations of a known trajectory once, so that every method sees the
same."""

from __future__ import annotations

__all__ = ["Observe"]

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ..errors import BadInput, nearest
from ..observations.config import RandomPoints
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Observe(Job):
    r"""An observing-system simulation: the table of what a network sees of a truth."""

    kind: Literal["observe"] = "observe"
    truth: Annotated[str, Ref("store")]
    frames: tuple[int, int] = Field(description="half-open range of the frames analysed")
    observing: RandomPoints = Field(description="the network, what it sees, and how well")

    thing: ClassVar[str] = "observations"

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name]
        if self.frames[0] >= self.frames[1] or self.frames[0] < 0:
            raise BadInput(
                "'frames' is empty", where.where(("frames",)), "Write [first, last + 1]."
            )
        truth = study.jobs.get(self.truth)
        known = list(truth.variables) if truth is not None and truth.kind == "import" else []
        if known and truth.levels is None and self.observing.channels:
            for c in self.observing.channels:
                if not any(c == v or c.startswith(f"{v}_") for v in known):
                    raise BadInput(
                        f"unknown variable '{c}'",
                        where.where(("observing", "channels")),
                        nearest(c, known),
                    )

    def run(self, ctx: Context) -> dict[str, str]:
        from ..observations.networks import random_points

        store = ctx.store(self.truth)
        o = self.observing
        table = random_points(
            store,
            start=self.frames[0],
            stop=self.frames[1],
            points=o.points,
            channels=o.channels,
            error=o.error,
            every=o.every,
            seed=self.seed,
        )
        digest = table.save(ctx.folder / "observations.nc")
        ctx.say(f"{len(table)} observations of {self.frames[1] - self.frames[0]} frames")
        return {"observations": digest}

    def figures(self, study: Study, name: str) -> dict[str, str]:
        return {"points": f"{self.observing.points} a frame"}
