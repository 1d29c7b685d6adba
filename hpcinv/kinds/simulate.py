r"""`kind: simulate`: parameters drawn from a prior, and what a simulator makes of them.

Of a dynamics it makes trajectories instead (`simulate_trajectory`).
"""

from __future__ import annotations

__all__ = ["Bounds", "Simulate", "kept", "simulator_of"]

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..errors import BadInput, Stopped
from ..runs.folder import RunFolder
from . import simulate_trajectory
from .arrays import block
from .base import Context, Duration, Fields, Job
from .simulate_trajectory import Trajectory

if TYPE_CHECKING:
    from .study import Study

EXAMPLES = 20  # failures whose messages are kept


class Bounds(Fields):
    r"""Other bounds of a parameter than the simulator's own."""

    low: float
    high: float
    unit: str | None = Field(None, description="must be the simulator's: says what is meant")
    scale: Literal["linear", "log"] | None = None


class Parameter(Fields):
    r"""A parameter of a program."""

    name: str
    low: float
    high: float
    unit: str | None = Field(None, description="'1' for none")
    scale: Literal["linear", "log"] = "linear"


class Outputs(Fields):
    r"""What a program gives."""

    name: str
    unit: str
    shape: list[int] = Field(min_length=1)


class Simulate(Job):
    r"""Draws (theta, x) pairs in shards; an array's tasks make blocks of shards."""

    kind: Literal["simulate"] = "simulate"
    simulator: str | None = Field(
        None, description="a built-in simulator, or your own as package.module:Name"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of the simulator")
    prior: dict[str, Bounds] = Field({}, description="other bounds of some parameters")
    command: list[str] | None = Field(
        None, description="a program instead: it reads {input} (JSON) and writes {output}"
    )
    parameters: list[Parameter] = Field([], description="of the program")
    outputs: Outputs | None = Field(None, description="of the program")
    simulations: int = Field(ge=1)
    trajectory: Trajectory | None = Field(
        None, description="of a dynamics: each simulation is a trajectory, all make one store"
    )
    shard: int = Field(4096, ge=1, description="simulations of a part, the unit that is redone")
    batch: int = Field(256, ge=1, description="simulations of one call of a batched simulator")
    timeout: Duration | None = Field(None, description="of a call, e.g. 30s")
    failures: float = Field(
        0.1, ge=0, le=1, description="share of failed simulations beyond which the job fails"
    )

    backend: ClassVar[str] = "mpi"
    axes: ClassVar[tuple[str, ...]] = ("shards",)

    @property
    def makes(self) -> str:
        return "simulations" if self.trajectory is None else "store"

    @model_validator(mode="after")
    def _which(self) -> Simulate:
        if (self.simulator is None) == (self.command is None):
            raise ValueError("give either 'simulator' or 'command'")
        if self.command is not None and (not self.parameters or self.outputs is None):
            raise ValueError("a 'command' needs 'parameters' and 'outputs'")
        if self.trajectory is not None:
            if self.command is not None:
                raise ValueError("'trajectory' goes with a dynamics, not with a 'command'")
            for key in ("prior", "timeout", "failures"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"'{key}' means nothing to a dynamics: leave it out")
            if (self.trajectory.training or 0) > self.simulations:
                raise ValueError(
                    f"trajectory.training: {self.trajectory.training} of {self.simulations}"
                )
        if self.command is None and (self.parameters or self.outputs is not None):
            raise ValueError("'parameters' and 'outputs' belong to a 'command'")
        for name, p in [*self.prior.items(), *((p.name, p) for p in self.parameters)]:
            if p.low >= p.high:
                raise ValueError(
                    f"prior of '{name}': low ({p.low:g}) is not below high ({p.high:g})"
                )
            if not p.unit:
                raise ValueError(f"prior of '{name}': the unit is missing; write '1' for none")
            if p.scale == "log" and p.low <= 0:
                raise ValueError(f"prior of '{name}': a log scale needs a positive low")
        return self

    def axis(self, over: str) -> int:
        return -(-self.simulations // self.shard)

    def check(self, name: str, study: Study) -> None:
        r"""Names and files that can be looked up without importing a simulator."""
        where = study.sources[name]
        if self.command is not None:
            program = study.folder / self.command[0]
            if "/" in self.command[0] and not program.exists():
                raise BadInput(f"no such program: {program}", where.where(("command",)))
            # The run folder is elsewhere: a relative path is one of the study's.
            self.command = [str(program.resolve()) if "/" in self.command[0] else self.command[0],
                            *(self._own(c, study.folder) for c in self.command[1:])]  # fmt: skip
            return
        self._check_files(where, study.folder)
        start = self.options.get("start")
        if self.simulator == "primitive_equations" and isinstance(start, str):
            if not Path(start).is_file():
                path = study.folder / Path(start).expanduser()
                raise BadInput(f"no such file: {path}", where.where(("options", "start")))
        if ":" in self.simulator:
            from ..own_code import look_up

            look_up(self.simulator, where.where(("simulator",)))
        else:
            from ..errors import nearest
            from ..simulators import BUILT_IN

            if self.simulator not in BUILT_IN:
                hint = nearest(self.simulator, BUILT_IN) or ""
                raise BadInput(
                    f"no simulator is called '{self.simulator}'", where.where(("simulator",)),
                    f"{hint} Or write 'package.module:Name'.".strip(),
                )  # fmt: skip

    def _check_files(self, where: Any, folder: Path) -> None:
        r"""Options that are files: the study's own, or ones of a Debian package."""
        for key, value in self.options.items():
            if isinstance(value, str) and ":" not in self.simulator:
                self.options[key] = self._own(value, folder)
            elif isinstance(value, dict) and "debian" in value:
                lacking = {"file", "sha256"} - set(value)
                if lacking or len(value) > 3:
                    raise BadInput(
                        f"'{key}' of the package '{value['debian']}' has {', '.join(value)}",
                        where.where(("options", key)),
                        "Write debian, file and sha256.",
                    )

    def fetch(self) -> None:
        from ..io.sources import cached_debian, fetch_debian

        for v in self.options.values():
            if isinstance(v, dict) and "debian" in v:
                if cached_debian(v["file"], v["sha256"]) is None:
                    print(f"fetching {v['file']} of {v['debian']}", flush=True)
                fetch_debian(v["debian"], v["file"], v["sha256"])

    def external(self) -> dict[str, tuple[Path, str]]:
        # A package's file is known by its checksum, which stands in the job file.
        if self.simulator is None or ":" in self.simulator:
            return {}  # what a path of one's own simulator is to it, nobody knows
        files = {k: Path(v) for k, v in self.options.items() if isinstance(v, str)}
        return {k: (p, "quick") for k, p in files.items() if p.is_absolute() and p.is_file()}

    @staticmethod
    def _own(argument: str, folder: Path) -> str:
        path = folder / argument
        return str(path.resolve()) if "{" not in argument and path.is_file() else argument

    def run(self, ctx: Context) -> dict[str, str]:
        if self.trajectory is not None:
            return simulate_trajectory.run(self, ctx)
        import torch

        from ..io.atomic import roll
        from ..io.rows import part_name, verify

        torch.set_num_threads(ctx.threads)
        make = partial(simulator_of, self.model_dump(mode="json"))
        simulator = make()
        folder = ctx.folder / "parts"
        lo, hi = ctx.world.share(ctx.block.start, ctx.block.stop)
        longest = int(ctx.world.all_reduce(float(hi - lo), "max"))
        ctx.progress.begin("simulating")
        mine: list[list[Any]] = []
        shards = _Shards(self, make, simulator, folder, ctx)
        try:
            for k in range(longest):  # all ranks ask as often whether to stop
                shard = lo + k
                torn = False
                if shard < hi:
                    start, stop = self._span(shard)
                    path = folder / part_name(start, stop)
                    there = path.exists()
                    digest = kept(path)
                    if digest is None:
                        digest = shards.make(start, stop, done=k, total=hi - lo, again=there)
                    torn = digest is None
                    mine.append([shard, digest])
                    ctx.progress.update(k + 1, hi - lo)
                if ctx.stop.requested(ctx.world) or torn:
                    raise Stopped(f"stopped with {k + 1 - torn} of {hi - lo} shards whole")
        finally:
            shards.close()
        everyone = [m for part in ctx.world.all_gather(mine) for m in part]
        if ctx.world.rank == 0:
            for start, stop in (self._span(s) for s, _ in everyone):
                verify(folder / part_name(start, stop))
        return {"simulations": roll(d for _, d in sorted(everyone))}

    def _span(self, shard: int) -> tuple[int, int]:
        return shard * self.shard, min((shard + 1) * self.shard, self.simulations)

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        if self.trajectory is not None:
            return simulate_trajectory.join(self, ctx, parts)
        from ..io.atomic import roll
        from ..io.rows import join, whole_parts
        from ..simulators.running import REASONS

        make = partial(simulator_of, self.model_dump(mode="json"))
        simulator = make()
        self._mend(ctx, parts, make, simulator)
        places = [part / "parts" for part in parts]
        digest, told = join(ctx.folder, places, self.simulations, describe(simulator, self))
        index = _digests(ctx.folder)
        for part in parts:
            mine = [index[span] for span in whole_parts(part / "parts")]
            if roll(mine) != RunFolder(part).manifest()["outputs"]["simulations"]:
                raise BadInput("its simulations are not those its manifest tells of", part)
        counts = {r: sum(t["reasons"].get(r, 0) for t in told) for r in REASONS}
        examples = [e for t in told for e in t["examples"]][:EXAMPLES]
        starts = [len(RunFolder(part).manifest()["attempts"]) for part in parts]
        again = [{"task": k, "attempts": n} for k, n in enumerate(starts) if n > 1]
        redone = [t["redone"] for t in told if t.get("redone")]
        _say(ctx.folder, counts, examples, redone, again)
        failed = self.simulations - counts["ok"]
        share = failed / self.simulations
        ctx.say(
            f"{self.simulations:,} simulations, {failed:,} failed"
            + "".join(f"; {n:,} {r}" for r, n in counts.items() if n and r != "ok")
        )
        if share > self.failures:
            first = f", the first ({examples[0][0]}): {examples[0][2]}" if examples else ""
            raise BadInput(
                f"{failed:,} of {self.simulations:,} simulations failed{first}", ctx.folder,
                "Mend the simulator or its prior, or raise 'failures'.",
            )  # fmt: skip
        return {"simulations": digest}

    def _mend(self, ctx: Context, parts: list[Path], make: Any, simulator: Any) -> None:
        r"""Makes anew the shards that were damaged after their tasks had ended: the same draws."""
        from ..io.rows import part_name

        for k, part in enumerate(parts):
            shards = _Shards(self, make, simulator, part / "parts", ctx)
            for shard in block(self.axis("shards"), len(parts), k):
                start, stop = self._span(shard)
                if kept(part / "parts" / part_name(start, stop)) is None:
                    if shards.make(start, stop, done=0, total=1, again=True) is None:
                        raise Stopped("stopped while a damaged shard was made anew")
            shards.close()

    def figures(self, study: Study, name: str) -> dict[str, str]:
        what = self.simulator or self.command[0]
        return {"simulator": what, "simulations": f"{self.simulations:,}",
                "shards": str(self.axis("shards"))}  # fmt: skip


class _Shards:
    r"""Makes shards, one after the other."""

    def __init__(self, job: Simulate, make: Any, simulator: Any, folder: Path, ctx: Context):
        from ..simulators.running import Runner

        self.job, self.simulator, self.folder, self.ctx = job, simulator, folder, ctx
        # A program has its own time limit: it is a process of its own already.
        limit = None if job.command else job.timeout
        self.runner = Runner(make, simulator, limit, ctx.world.device)

    def make(
        self, start: int, stop: int, done: int, total: int, again: bool = False
    ) -> str | None:
        r"""One shard, again if it was damaged; None if this rank was to stop before its end."""
        import numpy as np

        from ..io.rows import PartWriter
        from ..simulators.base import Key
        from ..simulators.running import REASONS

        prior, shape = self.simulator.prior, self.simulator.outputs.shape
        columns = {"theta": ((len(prior),), "f4"), "x": (shape, "f4"), "ok": ((), "u1"),
                   "reason": ((), "u1")}  # fmt: skip
        fence = self.ctx.fence if self.ctx.world.rank == 0 else None
        counts, examples = dict.fromkeys(REASONS, 0), []
        with PartWriter(self.folder, start, stop, columns, fence=fence) as writer:
            for a in range(start, stop, self.job.batch):
                if self.ctx.stop.seen:
                    return None
                b = min(a + self.job.batch, stop)
                key = Key(self.job.seed, np.arange(a, b))
                theta = np.asarray(prior.sample(key), np.float32)
                out = self.runner.run(theta, key)
                writer.write(theta=theta, x=out.x, ok=out.reason == 0, reason=out.reason)
                for r, n in zip(*np.unique(out.reason, return_counts=True), strict=True):
                    counts[REASONS[r]] += int(n)
                examples += out.notes[: EXAMPLES - len(examples)]
                self.ctx.progress.update(done + (b - start) / (stop - start), total)
            redone = [start, stop] if again else None
            writer.attributes.update(reasons=counts, examples=examples, redone=redone)
            return writer.close()

    def close(self) -> None:
        self.runner.close()


def simulator_of(fields: dict[str, Any]) -> Any:
    r"""The simulator that the fields of a `simulate` job name.

    Raises:
        BadInput: The name, an option, a bound or a unit is wrong.
    """
    if fields["command"] is not None:
        from ..simulators.external import External

        return External(
            fields["command"], fields["parameters"], fields["outputs"], _seconds(fields["timeout"])
        )
    from ..simulators import make

    prior = {n: {k: v for k, v in b.items() if v is not None} for n, b in fields["prior"].items()}
    found = make(fields["simulator"], fields["options"], prior)
    if not hasattr(found, "prior"):
        raise BadInput(
            "it makes trajectories and has no parameters to draw",
            f"simulator '{fields['simulator']}'",
            "Write trajectory: {frames: ...}, or name a simulator with a prior.",
        )
    return found


def _seconds(value: Any) -> float | None:
    from .base import _duration

    return None if value is None else float(_duration(value))


def describe(simulator: Any, job: Simulate) -> dict[str, Any]:
    r"""What a store of simulations says of itself: enough to make its simulator again."""
    import dataclasses

    outputs = simulator.outputs
    return {
        "parameters": [dataclasses.asdict(p) for p in simulator.prior.parameters],
        "outputs": {
            "name": outputs.name, "unit": outputs.unit,
            "axes": [
                {"name": a.name, "unit": a.unit, "values": [float(v) for v in a.values]}
                for a in outputs.axes
            ],
        },
        "seed": job.seed,
        "simulate": job.model_dump(mode="json"),
    }  # fmt: skip


def kept(path: Path) -> str | None:
    r"""The digest of a shard that is whole; one that is damaged is removed and made anew."""
    from ..io.rows import verify

    if not path.exists():
        return None
    try:
        return verify(path)[0]
    except BadInput as e:
        print(f"hpcinv: {e.what}; it is made anew ({path.name})", flush=True)
        path.unlink()
        return None


def _digests(folder: Path) -> dict[tuple[int, int], str]:
    import json

    parts = json.loads((folder / "index.json").read_text())["parts"]
    return {(p["start"], p["stop"]): p["digest"] for p in parts}


def _say(
    folder: Path, counts: dict[str, int], examples: list[Any], redone: list[list[int]],
    again: list[dict[str, int]],
) -> None:  # fmt: skip
    r"""Writes `failures.json`: what failed and why, which rows and which tasks were redone."""
    from ..io.atomic import write_json

    shown = [{"id": i, "reason": r, "message": m} for i, r, m in examples]
    write_json(
        folder / "failures.json",
        {"counts": counts, "examples": shown, "redone": redone, "again": again},
    )
