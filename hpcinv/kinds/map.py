r"""`kind: map`: many analyses side by side, each with a verdict: when and why one fails."""

from __future__ import annotations

__all__ = ["Map"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..errors import BadInput
from .base import Context, Fields, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Axis(Fields):
    r"""An axis of the map: what it is called, and where an analysis says where it lies on it."""

    label: str
    field: str = Field(
        description="of the analysis job; through its references too: "
        "observations.observing.error is that of the job which made its observations"
    )


class Map(Job):
    r"""A verdict on every analysis of an evaluation, over one to three axes.

    The rule is written in `hpcinv.evaluation.failure_map`. Written are `map.png`, `map.json`, and
    `map.md`, a table.
    """

    kind: Literal["map"] = "map"
    title: str
    scores: Annotated[str, Ref("scores")] = Field(
        description="of analyses of the same frames: the cells, and 'against'"
    )
    against: str = Field(
        "climatology", description="the analysis among them that was given no observations"
    )
    beside: list[str] = Field([], description="analyses among them that are no cells")
    by: list[Axis] = Field(min_length=1, max_length=3, description="along x, along y, panels")

    thing: ClassVar[str] = "map"

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name].where
        judged = study.jobs.get(self.scores)
        if judged is None:
            return
        if judged.samples is not None:
            raise BadInput(f"'{self.scores}' judges a posterior", where(("scores",)))
        for key, names in (("against", [self.against]), ("beside", self.beside)):
            for n in names:
                if n not in judged.analyses:
                    raise BadInput(
                        f"'{self.scores}' does not judge '{n}'", where((key,)),
                        f"It judges {', '.join(judged.analyses[:6])}.",
                    )  # fmt: skip
        jobs = {n: j.model_dump(mode="json") for n, j in study.jobs.items()}
        for n in self._cells(judged.analyses):
            for k, axis in enumerate(self.by):
                if n in jobs:
                    _value(jobs.get, n, axis.field, where(("by", str(k), "field")))

    def _cells(self, names: list[str]) -> list[str]:
        return [n for n in names if n != self.against and n not in self.beside]

    def run(self, ctx: Context) -> dict[str, str]:
        import json
        from dataclasses import asdict

        from ..evaluation.failure_map import VERDICTS, cells, picture, table
        from ..evaluation.words import unit_text
        from ..io.atomic import digest_bytes, write_bytes, write_json

        of = ctx.inputs[self.scores]
        card = json.loads((of / "scores.json").read_text())
        places = {
            n: tuple(_value(_Runs(of.parent), n, a.field, "by") for a in self.by)
            for n in self._cells(list(card["methods"]))
        }
        found = cells(card, places, self.against)
        axes = [a.label for a in self.by]
        write_json(
            ctx.folder / "map.json",
            {"axes": axes, "against": self.against, "cells": [asdict(c) for c in found]},
        )
        text = table(found, axes, unit_text(card["pooled_units"])).encode()
        write_bytes(ctx.folder / "map.md", text)
        picture(ctx.folder / "map.png", found, axes, self.title)
        counts = {v: sum(c.verdict == v for c in found) for v in VERDICTS}
        ctx.say(", ".join(f"{n} {v}" for v, n in counts.items() if n))
        return {"map": digest_bytes(text)}

    def figures(self, study: Study, name: str) -> dict[str, str]:
        judged = study.jobs.get(self.scores)
        return {} if judged is None else {"cells": str(len(self._cells(judged.analyses)))}


class _Runs:
    r"""Fields of a job by its name, or by the path of its run folder."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def __call__(self, name: str) -> dict[str, Any] | None:
        import yaml

        path = self._runs / name / "job.yaml"
        return yaml.safe_load(path.read_text()) if path.exists() else None


def _value(job: Any, name: str, field: str, where: Any) -> Any:
    r"""A field of a job, through the references on its way.

    Arguments:
        job: Fields of a job by its name, None if there is no such job.
    """
    at, on = job(name), name
    for key in field.split("."):
        if isinstance(at, str) and (other := job(at)) is not None:
            at, on = other, at
        if not isinstance(at, dict) or key not in at:
            raise BadInput(
                f"'{name}' has no '{field}': there is no '{key}' in '{on}'", where,
                "Name a field of the analysis, or observations.observing.error and the like.",
            )  # fmt: skip
        at = at[key]
    if isinstance(at, (dict, list)):
        raise BadInput(f"'{field}' of '{name}' is no number or word", where, "Name a part of it.")
    return at
