r"""`kind: assimilate`: observations in, an ensemble analysis out, by the diffusion prior or a
baseline. All methods read the same table and write the same files."""

from __future__ import annotations

__all__ = ["Assimilate"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..assimilation.baselines_config import METHODS, OI, EnsembleFields
from ..assimilation.config import CoarseConfig, GuidanceConfig, SamplerConfig
from ..assimilation.windows import cover
from ..errors import BadInput
from ..observations.config import Errors
from ..own_code import look_up
from .assimilate_prior import known_steps
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study

FRAMEWISE = ("oi", "climatology", "persistence")  # what they say of a frame needs no other


class Assimilate(Job):
    r"""An ensemble of trajectories given observations.

    `data` says where the analysed frames lie on the axis of time, on which grid, and how states
    are standardised; of its frames only `training` ones are read.
    """

    kind: Literal["assimilate"] = "assimilate"
    data: Annotated[str, Ref("store")]
    frames: tuple[int, int] = Field(description="half-open range of the frames analysed")
    observations: Annotated[str | None, Ref("observations")] = None
    method: Literal[
        "diffusion",
        "conditioned",
        "oi",
        "enkf",
        "etkf",
        "letkf",
        "enks",
        "climatology",
        "persistence",
    ] = Field(
        "diffusion",
        description="diffusion guides a prior by the likelihood of any observations; conditioned "
        "shows them to a prior trained with 'conditioning'; the others are baselines",
    )
    errors: Errors = Field(Errors(), description="how the observations' errors are taken")
    members: int = Field(16, ge=1)
    seeds: int = Field(
        1,
        ge=1,
        description="of enkf, etkf, letkf and enks: ensembles of so many members, from 'seed', "
        "'seed' + 1, ..., each for itself; their members are pooled",
    )
    # method: diffusion or conditioned
    prior: Annotated[str | None, Ref("prior")] = None
    decoder: Annotated[str | None, Ref("autoencoder")] = None
    decoder_error: bool = Field(
        True, description="count the decoder's error in the likelihood, sample it in the members"
    )
    mode: Literal["reanalysis", "filtering", "forecast"] = Field(
        "reanalysis",
        description="each frame given all observations; given those up to it; or forecast: the "
        "last 'lead' frames are drawn from the end of the reanalysis of those before",
    )
    lead: int | None = Field(None, ge=1, description="mode: forecast, frames without observations")
    memory: int | None = Field(
        None, ge=1, description="mode: filtering, frames each run goes back; default: all"
    )
    ahead: int | None = Field(
        None,
        ge=1,
        description="of a filter, the forecast instead of the analysis: each frame given what was "
        "observed so many frames before it or earlier; as 'background' of evaluate it gives O−B",
    )
    window: int = Field(24, ge=1, description="frames of a window")
    overlap: int = Field(12, ge=0, description="frames neighbouring windows share")
    compose: Literal["center", "junction"] = "center"
    coarse: CoarseConfig | None = Field(
        None, description="windows of a larger time step; the prior is trained on its 'time_steps'"
    )
    guidance: GuidanceConfig = GuidanceConfig()
    sampler: SamplerConfig = SamplerConfig()
    reproducible: bool = Field(False, description="the same bits on any number of ranks")
    group: int = Field(
        1, ge=1, description="reproducible: members per network call; best a divisor of a rank's"
    )
    checkpoint_every: int = Field(8, ge=0, description="sampler steps between checkpoints")
    checkpoint_minutes: float = Field(
        10, ge=0, description="minutes after which the next step saves, too; 0: no such rule"
    )
    batch: int = Field(16, ge=1, description="members a rank samples at once")
    rows: int = Field(16, ge=1, description="most (member, window) pairs per network call")
    compression: int = Field(
        0,
        ge=0,
        le=9,
        description="gzip level of the analysis; ranks that share a member then write a part each",
    )
    # the baselines
    training: tuple[int, int] | None = Field(None, description="frames a baseline learns from")
    oi: OI = Field(OI(), description="method: oi")
    ensemble: EnsembleFields = Field(
        EnsembleFields(), description="method: enkf, etkf, letkf or enks"
    )

    backend: ClassVar[str] = "mpi"
    thing: ClassVar[str] = "analysis"
    axes: ClassVar[tuple[str, ...]] = ("members", "dates", "seeds")

    def axis(self, over: str) -> int:
        dates = self.frames[1] - self.frames[0]
        return {"members": self.members * self.seeds, "dates": dates, "seeds": self.seeds}[over]

    def held(self, over: str, block: range) -> range:
        r"""Ids of the members of which a block of an axis holds frames. Member m of the ensemble
        of the nth seed is number n * `members` + m."""
        if over == "dates":
            return range(self.members * self.seeds)
        each = self.members if over == "seeds" else 1
        return range(block.start * each, block.stop * each)

    def blockwise(self, ref: str, other: Job) -> bool:
        # Rows of a frame are drawn for it alone; quality control compares those of all frames.
        mine = ref == self.observations and other.kind == "observe" and other.quality is None
        return mine and tuple(other.frames) == tuple(self.frames)

    @property
    def _written(self) -> str:
        return self.mode if self.ahead is None else f"forecast, {self.ahead} ahead"

    @property
    def sampled(self) -> bool:
        r"""Whether a prior is sampled, and not a baseline computed."""
        return self.method in ("diffusion", "conditioned")

    @model_validator(mode="after")
    def _whole(self) -> Assimilate:
        if self.sampled and self.prior is None:
            raise ValueError(f"method: {self.method} needs a 'prior'")
        if self.method == "conditioned" and self.decoder is not None:
            raise ValueError("method: conditioned samples states: leave out 'decoder'")
        if self.method == "conditioned" and self.errors != Errors():
            raise ValueError("method: conditioned knows σ from its training: leave out 'errors'")
        for key, mode in (("lead", "forecast"), ("memory", "filtering")):
            if getattr(self, key) is not None and self.mode != mode:
                raise ValueError(f"'{key}' goes with mode: {mode}")
        if self.ahead is not None:
            self._ahead()
        if self.coarse is not None and not self.sampled:
            raise ValueError("'coarse' goes with method: diffusion or conditioned")
        if self.mode == "forecast" and self.lead is None:
            raise ValueError("mode: forecast needs a 'lead'")
        if self.mode != "reanalysis" and not self.sampled:
            raise ValueError(f"mode: {self.mode} goes with method: diffusion or conditioned")
        if self.method in ("conditioned", "oi", *METHODS) and self.observations is None:
            raise ValueError(f"method: {self.method} needs 'observations'")
        if self.method == "letkf" and self.ensemble.length_km is None:
            raise ValueError("method: letkf needs 'ensemble.length_km'")
        if self.method in METHODS and self.members < 2:
            raise ValueError(f"method: {self.method} needs two members or more")
        if self.seeds > 1 and self.method not in METHODS:
            raise ValueError(
                f"method: {self.method} makes each member by itself, and 'seeds' means nothing to "
                f"it: write members: {self.members * self.seeds}"
            )
        if not self.sampled and self.training is None:
            raise ValueError(f"method: {self.method} needs 'training' frames")
        return self

    def _ahead(self) -> None:
        if self.method == "diffusion":
            if self.mode != "filtering":
                raise ValueError("'ahead' goes with mode: filtering")
        elif self.method not in ("enkf", "etkf", "letkf"):
            raise ValueError(
                f"method: {self.method} makes no forecast: 'ahead' goes with diffusion (mode: "
                "filtering), enkf, etkf and letkf"
            )
        elif self.ahead > 1:
            raise ValueError(f"method: {self.method} forecasts the next frame: write ahead: 1")

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name]
        L = self.frames[1] - self.frames[0]
        if self.frames[0] < 0 or L < 1:
            raise BadInput(
                "'frames' is empty", where.where(("frames",)), "Write [first, last + 1]."
            )
        if ":" in (self.ensemble.forecast or ""):
            look_up(self.ensemble.forecast, where.where(("ensemble", "forecast")))
        seen = study.jobs.get(self.observations or "")
        if seen is not None and tuple(seen.frames) != tuple(self.frames):
            raise BadInput(
                f"'frames' {list(self.frames)} differ from those of '{self.observations}', "
                f"{list(seen.frames)}",
                where.where(("frames",)),
                "Give both jobs the same frames.",
            )
        array = self.resources.array
        if array is not None and array.over == "dates" and self.method not in FRAMEWISE:
            raise BadInput(
                f"method: {self.method} draws its frames together: they cannot be cut over dates",
                where.where(("resources", "array", "over")),
                f"Write 'over: members'; over dates go {', '.join(FRAMEWISE)}.",
            )
        if self.sampled:
            prior = study.jobs.get(self.prior)
            if prior is not None:
                known_steps(self, getattr(prior, "time_steps", (1,)), where.where(("prior",)))
            if self.lead is not None and self.lead >= L:
                raise BadInput(
                    f"a forecast of {self.lead} of {L} frames leaves none to start from",
                    where.where(("lead",)),
                    f"Use 1 to {L - 1}.",
                )
            if self.window > L:
                raise BadInput(
                    f"windows of {self.window} frames do not fit into {L} frames",
                    where.where(("window",)),
                    f"Use at most {L}.",
                )
            if self.window < L and not 0 < self.overlap < self.window:
                raise BadInput(
                    f"windows of {self.window} frames cannot share {self.overlap}",
                    where.where(("overlap",)),
                    f"Use 1 to {self.window - 1}.",
                )

    def run(self, ctx: Context) -> dict[str, str]:
        from ..io.analysis import AnalysisWriter
        from ..io.atomic import write_json

        store = ctx.store(self.data)
        a, b = self.frames
        if b > store.length or store.statistics is None:
            what = "has no statistics" if b <= store.length else f"has {store.length} frames"
            raise BadInput(f"the store {what}; frames {a} to {b - 1} are analysed", self.data)
        if not any(p <= a and b <= q for p, q in store.segments):
            p, q = next(s for s in store.segments if s[0] <= a < s[1])
            raise BadInput(
                f"frames {a} to {b - 1} are not of one trajectory: one ends at {q - 1}",
                self.data,
                f"Analyse frames within [{p}, {q}].",
            )
        table = self._table(ctx, store)
        if self.sampled:
            from .assimilate_prior import draw
        else:
            from .assimilate_baseline import draw
        members = self.held(ctx.over, ctx.block)
        frames = ctx.block if ctx.over == "dates" else range(b - a)
        own, pieces = draw(self, ctx, store, table)
        writer = AnalysisWriter(
            ctx.folder,
            members=members,
            own=own,
            world=ctx.world,
            fence=ctx.fence,
            channels=store.channels,
            units=store.units,
            standard_names=store.standard_names,
            long_names=store.long_names,
            coords=store.coords,
            coord_attrs=store.coord_attrs,
            time=store.time[a + frames.start : a + frames.stop],
            time_units=store.time_units,
            calendar=store.calendar,
            mask=store.mask,
            compression=self.compression,
            attributes={"title": f"{self.method} {self._written}", "seed": self.seed},
        )
        for member, start, block in pieces:
            writer.write(member, start - frames.start, block)
        written = writer.close()
        if ctx.over == "dates" and ctx.world.rank == 0:
            write_json(
                ctx.folder / "frames.json",
                {m: told["frames"] for m, told in written["members"].items()},
            )
        ctx.say(f"{len(members)} members of {len(frames)} frames")
        return {"analysis": written["digest"]}

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        from .analysis_parts import join_blocks_of_dates, join_members

        cut = ctx.over == "dates" and parts != [ctx.folder]
        return {"analysis": (join_blocks_of_dates if cut else join_members)(self, ctx, parts)}

    def _table(self, ctx: Context, store: Any):
        r"""The observations, checked against the trajectory."""
        if self.observations is None:
            return None
        from ..observations.table import ObservationTable

        path = ctx.inputs[self.observations]
        path = path / "observations.nc" if path.is_dir() else path
        return (
            ObservationTable.load(path)
            .check(
                length=self.frames[1] - self.frames[0],
                grid=store.grid,
                channels=store.channels,
                units=store.units,
                mask=store.mask,
                where=path,
            )
            .used
        )

    def figures(self, study: Study, name: str) -> dict[str, str]:
        of = f"{self.seeds} × " if self.seeds > 1 else ""
        out = {"method": self.method, "members": f"{of}{self.members}"}
        L = self.frames[1] - self.frames[0]
        if self.sampled:
            n = len(cover(L, self.window, self.overlap))
            out["windows"] = f"{n} of {self.window}/{self.overlap}"
            learnt = getattr(study.jobs.get(self.prior), "window", self.window)
            if learnt != self.window:  # legitimate (jobs/lorenz-map), but seldom what is meant
                out["windows"] += f"; the prior learns windows of {learnt}"
            ranks = self.resources.tasks
            if ranks > n * self.members:
                out["idle"] = f"{ranks - n * self.members} of {ranks} ranks have no window"
        return out
