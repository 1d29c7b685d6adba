r"""`kind: report`: one page that answers *can I trust this?* and then shows it."""

from __future__ import annotations

__all__ = ["Report"]

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..errors import BadInput
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Report(Job):
    r"""The report of an evaluation; it shows the fields of the analysis judged there."""

    kind: Literal["report"] = "report"
    title: str
    about: str = ""
    evaluate: Annotated[str, Ref("scores")]
    analysis: Annotated[str | None, Ref("analysis")] = None
    truth: Annotated[str | None, Ref("store")] = None
    frames: tuple[int, int] | None = None
    samples: Annotated[str | None, Ref("samples")] = Field(
        None, description="instead of an analysis: the posteriors that are shown"
    )
    shown: int = Field(0, ge=0, description="which of them")
    simulations: Annotated[list[str], Ref("simulations")] = Field(
        [], description="whose failures are told, and what was made again"
    )
    beside: Annotated[list[str], Ref("scores")] = Field(
        [], description="evaluations of the same parameters from other data"
    )
    observations: Annotated[str | None, Ref("observations")] = None
    channels: list[str] | None = Field(
        None, min_length=1, description="channels on the maps; default: the first few"
    )

    thing: ClassVar[str] = "report"

    @model_validator(mode="after")
    def _what(self) -> Report:
        fields = {"analysis": self.analysis, "truth": self.truth, "frames": self.frames}
        if self.samples is None:
            missing = [k for k, v in fields.items() if v is None]
            if missing:
                raise ValueError(f"'{missing[0]}' is missing (or give 'samples' of a posterior)")
            for key in ("simulations", "beside"):
                if getattr(self, key):
                    raise ValueError(f"'{key}' goes with 'samples'")
        else:
            fields |= {"observations": self.observations, "channels": self.channels}
            given = [k for k, v in fields.items() if v is not None]
            if given:
                raise ValueError(
                    f"'{given[0]}' is of an analysis, 'samples' of a posterior: give one"
                )
        return self

    def check(self, name: str, study: Study) -> None:
        judged = study.jobs.get(self.evaluate)
        if judged is not None and (judged.samples is None) != (self.samples is None):
            of = "analyses" if judged.samples is None else "a posterior"
            raise BadInput(
                f"'{self.evaluate}' judges {of}", study.sources[name].where(("evaluate",))
            )
        if self.samples is not None:
            return
        if judged is not None and judged.analyses[0] != self.analysis:
            raise BadInput(
                f"'{self.evaluate}' judges '{judged.analyses[0]}', not '{self.analysis}'",
                study.sources[name].where(("analysis",)),
                f"Write analysis: {judged.analyses[0]}.",
            )

    def run(self, ctx: Context) -> dict[str, str]:
        if self.samples is not None:
            from .report_posterior import run

            return run(self, ctx)
        import json

        from ..evaluation.figures import telling_frames
        from ..evaluation.report import picture, report
        from ..io.analysis import open_analysis
        from ..io.atomic import digest_bytes
        from ..observations.table import ObservationTable

        store = ctx.store(self.truth)
        card = json.loads((ctx.inputs[self.evaluate] / "scores.json").read_text())
        table = None
        if self.observations is not None:
            path = ctx.inputs[self.observations] / "observations.nc"
            table = ObservationTable.load(path).used
        name = next(iter(card["methods"]))
        with open_analysis(ctx.inputs[self.analysis]) as analysis:
            shown: dict[str, Any] = {
                "results": {name: analysis},
                "members": analysis.members,
                "truth": store,
                "truth_start": self.frames[0],
                "table": table,
                "channels": self.channels,
            }
            path = report(
                ctx.folder / "report.html",
                title=self.title,
                about=self.about,
                length=self.frames[1] - self.frames[0],
                card=card,
                provenance=provenance(ctx),
                **shown,
            )
            typical, _ = telling_frames(card["methods"][name]["frames"]["rmse"])
            picture(ctx.folder / "picture.png", frame=typical, **shown)
        ctx.say(str(path))
        return {"report": digest_bytes(path.read_bytes())}


def provenance(ctx: Context) -> dict[str, Any]:
    r"""How the study was made: every job before this one, with seed, time, ranks and digest."""
    import yaml

    from ..runs.folder import RunFolder
    from ..runs.progress import clock

    jobs: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for path in sorted(ctx.folder.parent.iterdir()):
        if path == ctx.folder or path.name.startswith(".") or not (path / "job.yaml").exists():
            continue
        m = RunFolder(path).manifest()
        if m["state"] != "complete":
            continue
        fields = yaml.safe_load((path / "job.yaml").read_text())
        last = m["attempts"][-1]
        said = {
            "kind": fields["kind"],
            "seed": fields["seed"],
            "took": clock(RunFolder(path).seconds()),
            "ranks": last["ranks"],
            "attempts": len(m["attempts"]),
            "digest": m["digest"],
        }
        if "slurm" in last:
            said["slurm job"] = last["slurm"].get("job", "")
        jobs[path.name] = said
        versions |= m["versions"]
    return {"Versions": versions, "Jobs": jobs}
