r"""`kind: evaluate`: analyses, or posteriors of parameters, against a known truth."""

from __future__ import annotations

__all__ = ["Evaluate"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..errors import BadInput
from . import arrays
from .base import Context, Fields, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class WithheldTruths(Fields):
    r"""The test of prior and observations, see `hpcinv.evaluation.withheld_truths`."""

    truths: tuple[int, int] = Field(
        description="half-open range of frames of the truth that neither prior nor statistics "
        "saw, 1 / level - 1 times as long as what is evaluated, or longer"
    )
    repeats: int = Field(400, ge=100)
    level: float = Field(0.05, gt=0, lt=0.5)


class Evaluate(Job):
    r"""Scores of every analysis; the first is the one judged, the others are compared to it."""

    kind: Literal["evaluate"] = "evaluate"
    truth: Annotated[str | None, Ref("store")] = None
    frames: tuple[int, int] | None = Field(
        None, description="half-open range of the truth's frames"
    )
    analyses: Annotated[list[str], Ref("analysis")] = Field([])
    lead: int | None = Field(
        None, ge=1, description="the last frames are forecasts: score them by lead time"
    )
    samples: Annotated[str | None, Ref("samples")] = Field(
        None, description="instead of analyses: posteriors of withheld simulations"
    )
    observed: Annotated[str | None, Ref("samples")] = Field(
        None, description="posteriors of real observations: could the simulator have made them?"
    )
    reference: str | None = Field(
        None, description="samples of the same posteriors by another method, a file .npy of shape "
        "(observations, samples, parameters); of 'observed' if it is given, else of 'samples'"
    )  # fmt: skip
    observations: Annotated[str | None, Ref("observations")] = None
    background: Annotated[str | None, Ref("analysis")] = Field(
        None, description="what was known before the observations; for O−B and Desroziers"
    )
    instruments: dict[str, str] = Field(
        {}, description="instruments by the pattern of their stations' names, {ships: 'SHIP*'}: "
        "departures are told for each, and faults of each are tested"
    )  # fmt: skip
    misspecification: WithheldTruths | None = Field(
        None, description="test prior and errors of the observations against withheld truths"
    )
    withheld_background: Annotated[str | None, Ref("analysis")] = Field(
        None, description="the 'background' of the withheld truths' frames, made as that of the "
        "evaluated ones; the test of misspecification then takes these, not the climatology"
    )  # fmt: skip
    level: float = Field(0.95, gt=0, lt=1, description="of the confidence intervals")
    block: int | None = Field(None, ge=1, description="frames of a bootstrap block")
    replicates: int = Field(2000, ge=100)

    backend: ClassVar[str] = "mpi"
    thing: ClassVar[str] = "scores"

    @model_validator(mode="after")
    def _what(self) -> Evaluate:
        fields = {"truth": self.truth, "frames": self.frames, "analyses": self.analyses or None}
        if self.samples is None:
            missing = [k for k, v in fields.items() if v is None]
            if missing:
                raise ValueError(f"'{missing[0]}' is missing (or give 'samples' of a posterior)")
            for key in ("observed", "reference"):
                if getattr(self, key) is not None:
                    raise ValueError(f"'{key}' goes with 'samples'")
        else:
            names = ("observations", "background", "withheld_background", "lead")
            fields |= {k: getattr(self, k) for k in names}
            fields["misspecification"] = self.misspecification
            given = [k for k, v in fields.items() if v is not None]
            if given:
                raise ValueError(
                    f"'{given[0]}' is of analyses, 'samples' of a posterior: give one"
                )
        return self

    def _check_withheld(self, study: Study, where: Any) -> None:
        r"""There are densities and simulations enough to judge by, as far as is known now."""
        from .evaluate_posterior import LEAST

        infer = study.jobs.get(self.samples or "")
        if not getattr(infer, "densities", True):
            raise BadInput(
                f"'{self.samples}' draws samples without their densities: nothing can be judged",
                where(("samples",)), f"Take 'densities: false' out of '{self.samples}'.",
            )  # fmt: skip
        withheld = study.jobs.get(getattr(infer, "observations", None) or "")
        if withheld is None:
            return
        a, b = infer.rows or (0, withheld.simulations)
        if b - a < LEAST:
            raise BadInput(
                f"the {b - a} simulations of '{infer.observations}' are too few to judge by",
                where(("samples",)),
                f"Simulate at least {LEAST}; 500 make a band of 6%.",
            )

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name].where
        if self.reference is not None:
            path = Path(self.reference).expanduser()
            self.reference = str(path if path.is_absolute() else (study.folder / path).resolve())
            if not Path(self.reference).exists():
                raise BadInput(f"no such file: {self.reference}", where(("reference",)))
        if self.samples is not None:
            self._check_withheld(study, where)
            return
        others = [(k, getattr(self, k)) for k in ("observations", "background")]
        for i, a in enumerate(self.analyses):
            others.append((f"analyses.{i}", a))
        for key, a in others:
            job = study.jobs.get(a or "")
            if job is not None and tuple(job.frames) != tuple(self.frames):
                raise BadInput(
                    f"'{a}' is of the frames {list(job.frames)}, not {list(self.frames)}",
                    where(tuple(key.split("."))),
                    "Give all of them the same frames.",
                )
        if self.instruments and self.observations is None:
            raise BadInput(
                "'instruments' without 'observations'", where(("instruments",)),
                "Name the observe job too: the instruments are of its rows.",
            )  # fmt: skip
        if self.background is not None and self.observations is None:
            raise BadInput(
                "a 'background' without 'observations'", where(("background",)),
                "Name the observe job too: O−B is of its rows.",
            )  # fmt: skip
        if self.withheld_background is not None and None in (
            self.background,
            self.misspecification,
        ):
            raise BadInput(
                "a 'withheld_background' without 'background' and 'misspecification'",
                where(("withheld_background",)),
                "Name the background of the evaluated frames, and the withheld 'truths'.",
            )  # fmt: skip
        if self.lead is not None and self.lead >= self.frames[1] - self.frames[0]:
            raise BadInput(
                f"a forecast of {self.lead} of {self.frames[1] - self.frames[0]} frames leaves "
                "none that is known", where(("lead",)), "Evaluate the frames before it, too.",
            )  # fmt: skip
        for i, a in enumerate(self.analyses):
            drawn = getattr(study.jobs.get(a), "lead", None)
            if self.lead is not None and drawn not in (None, self.lead):
                raise BadInput(
                    f"'{a}' forecasts {drawn} frames, not {self.lead}",
                    where(("analyses", i)), "Give both the same 'lead'.",
                )  # fmt: skip
        if self.misspecification is not None:
            self._check_truths(study, where)

    def external(self) -> dict[str, tuple[Path, str]]:
        return {} if self.reference is None else {"reference": (Path(self.reference), "full")}

    def _check_truths(self, study: Study, where: Any) -> None:
        a, b = self.misspecification.truths
        at = where(("misspecification", "truths"))
        if self.observations is None:
            raise BadInput("nothing to test without 'observations'", at, "Name the observe job.")
        if b - a < self.frames[1] - self.frames[0]:
            raise BadInput(
                f"frames {a} to {b - 1} are fewer than the {self.frames[1] - self.frames[0]} "
                "evaluated", at, "Withhold more.",
            )  # fmt: skip
        job = study.jobs.get(self.withheld_background or "")
        if job is not None and tuple(job.frames) != (a, b):
            raise BadInput(
                f"'{self.withheld_background}' is of the frames {list(job.frames)}, not of the "
                f"withheld ones, {[a, b]}", where(("withheld_background",)),
                "Give both the same frames.",
            )  # fmt: skip
        data = study.jobs.get(self.truth)
        learnt = getattr(getattr(data, "statistics", None), "frames", None)
        for what, frames in (("evaluated", self.frames), ("in the statistics", learnt)):
            if frames is not None and a < frames[1] and frames[0] < b:
                raise BadInput(
                    f"frames {max(a, frames[0])} to {min(b, frames[1]) - 1} are {what}: no "
                    "withheld truths", at, "Give frames that nothing has learnt from.",
                )  # fmt: skip
        from ..evaluation.withheld_truths import enough

        length = self.frames[1] - self.frames[0]
        enough((b - a) // length, length, self.misspecification.level, at)

    def run(self, ctx: Context) -> dict[str, str]:
        if self.samples is not None:
            from .evaluate_posterior import run

            return run(self, ctx)
        import numpy as np

        from ..evaluation.lead_times import lead_times
        from ..evaluation.physics import checks
        from ..evaluation.scores import scorecard
        from ..evaluation.spectra import spectrum
        from ..evaluation.sums import evaluate
        from ..io.analysis import open_analysis
        from ..io.atomic import digest_bytes, write_json

        store = ctx.store(self.truth)
        L = self.frames[1] - self.frames[0]
        scale = above = None
        if store.statistics is not None:
            s = np.square(store.statistics.std, dtype=np.float64).mean(0)
            s = np.broadcast_to(s, store.statistics.shape).reshape(len(s), -1)
            scale = np.sqrt(np.average(s, 1, store.weights().reshape(-1)))
            stats = store.statistics
            above = lambda t: np.broadcast_to(  # noqa: E731
                stats.mean[int(stats.phase([t])[0])], stats.shape
            )
        waves, balance = spectrum(store), checks(store)
        sums, boundaries = {}, {}
        for name in self.analyses:
            with open_analysis(ctx.inputs[name]) as analysis:
                ctx.progress.begin(f"evaluating {name.rsplit('/', 1)[-1]}")
                sums[_short(name)] = evaluate(
                    analysis,
                    store,
                    members=analysis.members,
                    length=L,
                    truth_start=self.frames[0],
                    threshold=above,
                    spectrum=waves,
                    checks=balance,
                    seed=self.seed,
                    world=ctx.world,
                    progress=ctx.progress,
                )
                boundaries[_short(name)] = _boundaries(ctx.inputs[name], L)
        card = scorecard(
            sums,
            channels=store.channels,
            units=store.units,
            scale=scale,
            level=self.level,
            block=self.block,
            replicates=self.replicates,
            seed=self.seed,
            spectrum=waves,
            checks=balance,
            boundaries=boundaries,
        )
        outputs = {}
        if self.lead is not None and ctx.world.rank == 0:
            by = None if len(set(store.units)) == 1 else scale  # as channels are pooled
            card["forecast"] = lead_times(sums, store, self.frames[0], self.lead, by)
        if self.observations is not None:
            card["innovations"], outputs["feedback"] = self._innovations(ctx, store)
            withheld = self._withheld(ctx, store, scale)
            if withheld is not None:
                card["withheld"] = withheld
        if self.misspecification is not None:
            card["misspecification"] = self._misspecification(ctx, store)
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
        return {"scores": digest_bytes(path.read_bytes())} | outputs

    def _innovations(self, ctx: Context, store: Any) -> tuple[dict[str, Any], str]:
        r"""Writes `feedback.nc` of the analysis judged, and tells what its departures say."""
        from contextlib import ExitStack

        import numpy as np

        from ..evaluation.innovations import InnovationSums, groups, summary
        from ..io.analysis import open_analysis
        from ..observations import feedback
        from ..observations.background import prior_predictive
        from ..observations.flags import WITHHELD
        from ..observations.table import ObservationTable

        source = ctx.inputs[self.observations] / "observations.nc"
        table = ObservationTable.load(source)
        start, L = self.frames[0], self.frames[1] - self.frames[0]
        table.check(
            length=L, grid=store.grid, channels=store.channels, units=store.units,
            mask=store.mask, where=source,
        )  # fmt: skip
        lo, hi = ctx.world.share(0, L)
        named = groups(table, self.instruments)
        belongs = np.stack(list(named.values())) if named else np.zeros((0, len(table)), bool)
        above = np.full(len(table), np.nan)
        kept = np.flatnonzero(table.flag == WITHHELD)
        if store.statistics is not None and len(kept):  # an event: to be above the climatology
            above[kept] = prior_predictive(table.select(kept), store, start)[0]
        whole = [g for g, n in enumerate(named) if n.endswith(", withheld")]
        with ExitStack() as stack:
            seen, members = {}, {}
            read = {"hofx": self.analyses[0], "hofx_background": self.background}
            for group, name in read.items():
                if name is not None:
                    analysis = stack.enter_context(open_analysis(ctx.inputs[name]))
                    seen[group] = feedback.Seen(table, store, start, analysis, L)
                    members[group] = len(analysis.members)
            sums = InnovationSums.zeros(L, len(named), members["hofx"])
            path = ctx.folder / "feedback.nc"
            writer = feedback.Writer(path, table, ctx.world, members, ctx.fence)
            ctx.progress.begin("departures")
            for f in range(lo, hi):
                rows = seen["hofx"].rows(f)
                if len(rows):
                    of = {group: see(f) for group, see in seen.items()}
                    writer.add(rows, of)
                    sums.add(
                        f, belongs[:, rows], table.value[rows], table.error[rows],
                        of["hofx"], of.get("hofx_background"), self.seed,
                        above[rows], whole,
                    )  # fmt: skip
                ctx.progress.update(f + 1 - lo, hi - lo)
            digest = writer.close()
        found = summary(
            list(named), sums.reduce(ctx.world),
            units=dict(zip(table.variables, table.variable_units, strict=True)),
            background=self.background is not None, members=members["hofx"],
            level=self.level, block=self.block,
            replicates=self.replicates, seed=self.seed,
        )  # fmt: skip
        return found, digest

    def _withheld(self, ctx: Context, store: Any, scale: Any) -> dict[str, Any] | None:
        r"""Every analysis on the rows that were withheld; None without any."""
        from ..evaluation.withheld_rows import collect, scores
        from ..io.analysis import open_analysis
        from ..observations import flags
        from ..observations.table import ObservationTable

        table = ObservationTable.load(ctx.inputs[self.observations] / "observations.nc")
        if not (table.flag == flags.WITHHELD).any():
            return None
        sums, variables = {}, []
        for name in self.analyses:
            ctx.progress.begin(f"withheld rows, {_short(name)}")
            with open_analysis(ctx.inputs[name]) as analysis:
                variables, sums[_short(name)] = collect(
                    table, store, self.frames[0], self.frames[1] - self.frames[0], analysis,
                    seed=self.seed, world=ctx.world, progress=ctx.progress,
                )  # fmt: skip
        by = {} if scale is None else dict(zip(store.channels, scale, strict=True))
        found = scores(
            sums, variables, by, level=self.level, block=self.block,
            replicates=self.replicates, seed=self.seed,
        )  # fmt: skip
        if "pooled" in next(iter(found["methods"].values())):
            of = (f"{n} {e['pooled']['crps']['value']:.3f}" for n, e in found["methods"].items())
            ctx.say(f"CRPS of {found['count']} withheld observations: {', '.join(of)}")
        return found

    def _misspecification(self, ctx: Context, store: Any) -> dict[str, Any]:
        from contextlib import ExitStack

        from ..evaluation.withheld_truths import check_table
        from ..io.analysis import open_analysis
        from ..observations.table import ObservationTable

        m = self.misspecification
        ctx.progress.begin("withheld truths")
        if m.truths[1] > store.length:
            raise BadInput(
                f"frame {m.truths[1] - 1} of a trajectory of {store.length}",
                "misspecification: truths",
            )
        table = ObservationTable.load(ctx.inputs[self.observations] / "observations.nc")
        with ExitStack() as stack:
            both = None
            if self.withheld_background is not None:
                both = tuple(
                    stack.enter_context(open_analysis(ctx.inputs[name]))
                    for name in (self.background, self.withheld_background)
                )
            return check_table(
                table, store, self.frames[0], self.frames[1] - self.frames[0], m.truths,
                repeats=m.repeats, level=m.level, seed=self.seed, world=ctx.world,
                background=both, instruments=self.instruments,
            )  # fmt: skip

    def figures(self, study: Study, name: str) -> dict[str, str]:
        if self.samples is not None:
            return {"posterior": self.samples}
        return {"analyses": ", ".join(self.analyses)}


def _boundaries(folder: Path, length: int) -> list[int]:
    r"""Where the windows of a sampled trajectory meet, or the blocks of an array over dates."""
    import yaml

    from ..assimilation.windows import cover, middles

    path = folder / "job.yaml"
    job = yaml.safe_load(path.read_text()) if path.exists() else {}
    array = (job.get("resources") or {}).get("array") or {}
    found = set()
    if array.get("over") == "dates":
        found |= {arrays.block(length, array["tasks"], k).start for k in range(array["tasks"])}
    if job.get("method") in ("diffusion", "conditioned") and job.get("mode") == "reanalysis":
        windows = cover(length, job["window"], job["overlap"])
        found |= {b for _, b in middles(windows)[:-1]}
    return sorted(found - {0})


def _short(name: str) -> str:
    r"""A method's name: the job's, also where its run folder's path is given."""
    return name.rstrip("/").rsplit("/", 1)[-1]
