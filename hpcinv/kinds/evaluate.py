r"""`kind: evaluate`: analyses against a known truth, in one table of scores."""

from __future__ import annotations

__all__ = ["Evaluate"]

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ..errors import BadInput
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Evaluate(Job):
    r"""Scores of every analysis; the first is the one judged, the others are compared to it."""

    kind: Literal["evaluate"] = "evaluate"
    truth: Annotated[str, Ref("store")]
    frames: tuple[int, int] = Field(description="half-open range of the truth's frames")
    analyses: Annotated[list[str], Ref("analysis")] = Field(min_length=1)
    level: float = Field(0.95, gt=0, lt=1, description="of the confidence intervals")
    block: int | None = Field(None, ge=1, description="frames of a bootstrap block")
    replicates: int = Field(2000, ge=100)

    backend: ClassVar[str] = "mpi"
    thing: ClassVar[str] = "scores"

    def check(self, name: str, study: Study) -> None:
        for i, a in enumerate(self.analyses):
            job = study.jobs.get(a)
            if job is not None and tuple(job.frames) != tuple(self.frames):
                raise BadInput(
                    f"'{a}' analyses the frames {list(job.frames)}, not {list(self.frames)}",
                    study.sources[name].where(("analyses", str(i))),
                    "Give all of them the same frames.",
                )

    def run(self, ctx: Context) -> dict[str, str]:
        import numpy as np

        from ..evaluation.scores import scorecard
        from ..evaluation.sums import evaluate
        from ..io.analysis import open_analysis
        from ..io.atomic import digest_bytes, write_json

        store = ctx.store(self.truth)
        L = self.frames[1] - self.frames[0]
        sums = {}
        for name in self.analyses:
            with open_analysis(ctx.inputs[name]) as analysis:
                ctx.progress.begin(f"evaluating {name.rsplit('/', 1)[-1]}")
                sums[_short(name)] = evaluate(
                    analysis,
                    store,
                    members=analysis.members,
                    length=L,
                    truth_start=self.frames[0],
                    seed=self.seed,
                    world=ctx.world,
                    progress=ctx.progress,
                )
        scale = None
        if store.statistics is not None:
            s = np.square(store.statistics.std, dtype=np.float64).mean(0)
            scale = np.sqrt(np.average(s.reshape(len(s), -1), 1, store.weights().reshape(-1)))
        card = scorecard(
            sums,
            channels=store.channels,
            units=store.units,
            scale=scale,
            level=self.level,
            block=self.block,
            replicates=self.replicates,
            seed=self.seed,
        )
        path = ctx.folder / "scores.json"
        if ctx.world.rank == 0:
            write_json(path, card)
            first = next(iter(card["methods"].values()))
            p = first.get("pooled") or next(iter(first["channels"].values()))
            ctx.say(
                "  ".join(
                    f"{k} {p[k]['value']:.3f}"
                    for k in ("rmse", "crps", "spread_skill", "rank_distance")
                    if k in p
                )
            )
        ctx.world.barrier("scores")
        return {"scores": digest_bytes(path.read_bytes())}

    def figures(self, study: Study, name: str) -> dict[str, str]:
        return {"analyses": ", ".join(self.analyses)}


def _short(name: str) -> str:
    r"""A method's name: the job's, also where its run folder's path is given."""
    return name.rstrip("/").rsplit("/", 1)[-1]
