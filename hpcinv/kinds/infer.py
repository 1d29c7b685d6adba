r"""`kind: infer`: posteriors of parameters for one observation or a hundred thousand."""

from __future__ import annotations

__all__ = ["Infer"]

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..errors import BadInput, Stopped
from ..runs.folder import RunFolder
from .base import Context, Job, Ref
from .simulate import Bounds, simulator_of

if TYPE_CHECKING:
    from .study import Study


class Infer(Job):
    r"""Samples of a trained posterior, with densities, modes, credible regions and weights."""

    kind: Literal["infer"] = "infer"
    posterior: Annotated[str, Ref("posterior")]
    simulations: Annotated[str, Ref("simulations")] = Field(
        description="the simulations it was trained on: they name the simulator"
    )
    observations: Annotated[str | None, Ref("simulations")] = Field(
        None, description="withheld simulations, observed with the simulator's noise"
    )
    file: str | None = Field(None, description="or a file of observations, one a row")
    rows: tuple[int, int] | None = Field(None, description="half-open range of them; default: all")
    number: int | None = Field(None, ge=1, description="of observations; a study knows")
    samples: int = Field(1000, ge=2, description="of each observation")
    levels: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5, 0.68, 0.95], min_length=1, description="of credible regions"
    )
    map_steps: int = Field(60, ge=0, description="steps of the climb to the mode")
    predictive: int = Field(0, ge=0, description="samples of each that are simulated again")
    fit_steps: int = Field(
        0, ge=0, description="steps of a fit of the simulator to each observation, which tells "
        "whether any parameters could have made it; each costs P + 3 simulations",
    )  # fmt: skip
    densities: bool = Field(
        True, description="log densities of the samples, and with them modes, credible regions, "
        "weights and what evaluate judges by; without, an ensemble draws several times as fast",
    )  # fmt: skip
    weights: bool = Field(
        True, description="importance weights, where the simulator has a likelihood"
    )
    prior: dict[str, Bounds] = Field(
        {}, description="narrower bounds: samples outside are rejected and counted"
    )
    shard: int = Field(256, ge=1, description="observations of a part of the result")
    batch: int = Field(32, ge=1, description="observations drawn for at a time")

    backend: ClassVar[str] = "mpi"
    thing: ClassVar[str] = "samples"
    axes: ClassVar[tuple[str, ...]] = ("observations",)

    @model_validator(mode="after")
    def _one(self) -> Infer:
        if (self.observations is None) == (self.file is None):
            raise ValueError("give either 'observations' or 'file'")
        if self.rows is not None and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError("'rows' is empty: write [first, last + 1]")
        return self

    def axis(self, over: str) -> int:
        r"""Shards of observations: a part is never cut."""
        if self.number is None:
            return 1
        return -(-self.number // self.shard)

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name]
        if self.file is not None:
            path = Path(self.file).expanduser()
            self.file = str(path if path.is_absolute() else (study.folder / path).resolve())
            if not Path(self.file).exists():
                raise BadInput(f"no such file: {self.file}", where.where(("file",)))
        job = study.jobs.get(self.observations or "")
        if job is not None and self.rows is not None and self.rows[1] > job.simulations:
            raise BadInput(
                f"'rows' ends at {self.rows[1]} but '{self.observations}' makes "
                f"{job.simulations:,}", where.where(("rows",)),
            )  # fmt: skip
        if self.number is None:
            if self.rows is not None:
                self.number = self.rows[1] - self.rows[0]
            elif job is not None:
                self.number = job.simulations
            elif self.resources.array is not None:
                raise BadInput(
                    "an array needs the number of observations", where.where(("number",)),
                    "Write 'number: 100000', or 'rows: [0, 100000]'.",
                )  # fmt: skip

    def external(self) -> dict[str, tuple[Path, str]]:
        return {} if self.file is None else {"file": (Path(self.file), "full")}

    def run(self, ctx: Context) -> dict[str, str]:
        import torch

        from ..io.atomic import roll
        from ..io.rows import Rows, part_name
        from ..models import load
        from .simulate import kept

        torch.set_num_threads(ctx.threads)
        trained = Rows(ctx.inputs[self.simulations])
        make = partial(simulator_of, trained.attributes["simulate"])
        simulator = make()
        flow = load(ctx.inputs[self.posterior]).to(ctx.world.device)
        source = self._source(ctx, simulator, flow.missing)
        first, last = self.rows or (0, len(source))
        if last > len(source):
            raise BadInput(f"'rows' ends at {last} but there are {len(source)}", self.file)
        number = last - first
        if self.number is not None and number != self.number:
            raise BadInput(
                f"there are {number} observations, not {self.number}", self.file or ctx.folder,
                "Change 'number' or 'rows'.",
            )  # fmt: skip
        spans = [(i, min(i + self.shard, last)) for i in range(first, last, self.shard)]
        if self.number is not None:
            spans = spans[ctx.block.start : ctx.block.stop]
        lo, hi = ctx.world.share(0, len(spans))
        longest = int(ctx.world.all_reduce(float(hi - lo), "max"))
        ctx.progress.begin("inferring")
        mine: list[list[Any]] = []
        work = _Work(self, flow, simulator, make, source, ctx)
        for k in range(longest):
            if lo + k < hi:
                a, b = spans[lo + k]
                path = ctx.folder / "parts" / part_name(a - first, b - first)
                digest = kept(path) or work.part(a, b, first, k, hi - lo)
                mine.append([a, digest])
            if ctx.stop.requested(ctx.world):
                raise Stopped(f"stopped with {k + 1} of {longest} parts whole")
        work.close()
        everyone = sorted(m for part in ctx.world.all_gather(mine) for m in part)
        ctx.say(f"{number:,} observations, {self.samples:,} samples each{work.rate()}")
        return {"samples": roll(d for _, d in everyone)}

    def _source(self, ctx: Context, simulator: Any, missing: bool) -> Any:
        from ..inference.observed import File, Withheld
        from ..io.rows import Rows

        if self.file is not None:
            return File(Path(self.file), simulator, missing)
        return Withheld(Rows(ctx.inputs[self.observations]), simulator, self.seed)

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        import json

        from ..io.atomic import roll
        from ..io.rows import Rows, join, whole_parts

        trained = Rows(ctx.inputs[self.simulations])
        found = {s: p for part in parts for s, p in whole_parts(part / "parts").items()}
        length = max(stop for _, stop in found)
        facts = {
            "parameters": trained.attributes["parameters"],
            "outputs": trained.attributes["outputs"],
            "simulate": trained.attributes["simulate"],
            "levels": self.levels,
            "fit_steps": self.fit_steps,
            "observed": "simulations" if self.file is None else Path(self.file).name,
            "truth": self.file is None,
            "seed": self.seed,
        }
        digest, _ = join(ctx.folder, [p / "parts" for p in parts], self.number or length, facts)
        index = json.loads((ctx.folder / "index.json").read_text())["parts"]
        told = {(p["start"], p["stop"]): p["digest"] for p in index}
        for part in parts:
            mine = roll(told[span] for span in whole_parts(part / "parts"))
            if mine != RunFolder(part).manifest()["outputs"]["samples"]:
                raise BadInput("its samples are not those its manifest tells of", part)
        rows = Rows(ctx.folder)
        outside, drawn = int(rows.read("outside").sum()), int(rows.read("drawn").sum())
        if outside:
            ctx.say(f"{outside:,} of {drawn:,} draws lay outside the prior and were rejected")
        return {"samples": digest}

    def figures(self, study: Study, name: str) -> dict[str, str]:
        n = {} if self.number is None else {"observations": f"{self.number:,}"}
        return n | {"samples": f"{self.samples:,} each"}


class _Work:
    r"""Makes parts of the result."""

    def __init__(
        self, job: Infer, flow: Any, simulator: Any, make: Any, source: Any, ctx: Context
    ) -> None:
        from ..inference.summaries import Wanted
        from ..simulators.running import Runner

        self.job, self.flow, self.simulator = job, flow, simulator
        self.source, self.ctx = source, ctx
        self.prior = simulator.prior
        if job.prior:
            self.prior = self.prior.replaced(
                {n: {k: v for k, v in b if v is not None} for n, b in job.prior.items()}
            )
        self.wanted = Wanted(
            job.samples, job.levels, job.map_steps, job.predictive, job.densities,
            job.weights and job.densities and hasattr(simulator, "log_likelihood"), job.seed,
            job.fit_steps,
        )  # fmt: skip
        if job.fit_steps and not hasattr(simulator, "noise"):
            raise BadInput(
                "'fit_steps' needs a simulator with a noise model",
                f"simulator of '{job.simulations}'",
                "Write 'fit_steps: 0', or give the simulator a method 'noise'.",
            )  # fmt: skip
        wanted = job.predictive or job.fit_steps
        self.runner = Runner(make, simulator, device=ctx.world.device) if wanted else None
        self.seconds, self.drawn = 0.0, 0

    def part(self, start: int, stop: int, first: int, done: int, total: int) -> str:
        r"""Infers observations [start, stop); returns the part's digest."""
        import time

        from ..inference.summaries import columns, infer
        from ..io.rows import PartWriter

        fence = self.ctx.fence if self.ctx.world.rank == 0 else None
        with PartWriter(
            self.ctx.folder / "parts", start - first, stop - first,
            columns(self.wanted, self.flow), fence=fence,
        ) as writer:  # fmt: skip
            for a in range(start, stop, self.job.batch):
                b = min(a + self.job.batch, stop)
                began = time.perf_counter()
                found = infer(
                    self.flow, self.source.read(a, b), range(a, b), self.wanted, self.simulator,
                    self.prior, self.runner,
                )  # fmt: skip
                self.seconds += time.perf_counter() - began
                self.drawn += (b - a) * self.job.samples
                writer.write(**found)
                self.ctx.progress.update(done + (b - start) / (stop - start), total)
            return writer.close()

    def rate(self) -> str:
        r"""How fast samples came, all included."""
        return f"; {self.drawn / self.seconds:,.0f} samples/s a rank" if self.seconds else ""

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()
