r"""`kind: observe`: draws or reads observations once, so that every method sees the same."""

from __future__ import annotations

__all__ = ["Observe"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..errors import BadInput, nearest
from ..observations.config import PointTable, Quality
from ..observations.networks_config import CoarseGrid, Orbit, RandomPoints, Stations, Tracks
from ..own_code import look_up
from ..runs.folder import RunFolder
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Observe(Job):
    r"""The table of observations: what a network sees of a known truth, or what a file holds.

    `data` is the trajectory that is observed. An OSSE draws from its frames; a file's rows are
    only mapped to its grid and its times. `observations.nc` holds every row, with a flag that
    says why it is not used; `quality.json` counts the flags. An array cuts the drawing over
    dates; a file is read in one.
    """

    kind: Literal["observe"] = "observe"
    data: Annotated[str, Ref("store")]
    frames: tuple[int, int] = Field(description="half-open range of the frames analysed")
    observing: Annotated[
        RandomPoints | Stations | Tracks | Orbit | CoarseGrid | PointTable,
        Field(discriminator="network"),
    ]
    also: list[
        Annotated[
            RandomPoints | Stations | Tracks | Orbit | CoarseGrid, Field(discriminator="network")
        ]
    ] = Field([], description="more networks, whose rows come into the same table")
    quality: Quality | None = Field(
        None, description="quality control; by default its defaults for files, none for draws"
    )

    thing: ClassVar[str] = "observations"

    @model_validator(mode="after")
    def _together(self) -> Observe:
        if self.also and self.observing.network == "table":
            raise ValueError("'also' goes with a network that is drawn, not with a file")
        if any(o.forward != self.observing.forward for o in self.also):
            raise ValueError("also: networks of one table see alike: give them the same 'forward'")
        return self

    @property
    def axes(self) -> tuple[str, ...]:
        return () if self.observing.network == "table" else ("dates",)

    def axis(self, over: str) -> int:
        return self.frames[1] - self.frames[0]

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name]
        if self.frames[0] >= self.frames[1] or self.frames[0] < 0:
            raise BadInput(
                "'frames' is empty", where.where(("frames",)), "Write [first, last + 1]."
            )
        o = self.observing
        for key, n in [(("observing",), o), *((("also", i), n) for i, n in enumerate(self.also))]:
            if getattr(n, "path", None) is not None:
                path = Path(n.path).expanduser()
                n.path = str(path if path.is_absolute() else (study.folder / path).resolve())
                if not Path(n.path).exists():
                    raise BadInput(f"no such file: {n.path}", where.where((*key, "path")))
        for i, d in enumerate(o.forward.derived):
            if ":" in d.operator:
                loc = ("observing", "forward", "derived", i, "operator")
                look_up(d.operator, where.where(loc))
        if o.network == "table":
            return
        data = study.jobs.get(self.data)
        known = list(data.variables) if data is not None and data.kind == "import" else []
        derived = [d.name for d in o.forward.derived]
        if known and data.levels is None and o.channels:
            for c in o.channels:
                if c not in derived and not any(c == v or c.startswith(f"{v}_") for v in known):
                    raise BadInput(
                        f"unknown variable '{c}'",
                        where.where(("observing", "channels")),
                        nearest(c, [*known, *derived]),
                    )

    def external(self) -> dict[str, tuple[Path, str]]:
        paths = [getattr(n, "path", None) for n in (self.observing, *self.also)]
        names = ["table", *(f"table {k}" for k in range(1, len(paths)))]
        return {n: (Path(p), "quick") for n, p in zip(names, paths, strict=True) if p is not None}

    def run(self, ctx: Context) -> dict[str, str]:
        from ..observations.read import Notes, read_points

        store = ctx.store(self.data)
        start, stop = self.frames
        if ctx.task is not None:
            how = {"start": start, "stop": stop, "seed": self.seed, "within": ctx.block}
            table = self._drawn(store, **how)
            return {"observations": table.save(ctx.folder / "observations.nc")}
        notes = Notes()
        quality = self.quality
        if self.observing.network == "table":
            fields = {k: v for k, v in self.observing if k != "network"}
            path = fields.pop("path")
            table, notes = read_points(path, store, start=start, stop=stop, **fields)
            if quality is None:
                sure = {} if store.statistics is not None else {"background": None}
                quality = Quality(**sure)
        else:
            table = self._drawn(store, start=start, stop=stop, seed=self.seed)
        return self._finish(ctx, table, quality, notes)

    def _drawn(self, store, *, seed: int, **how):
        r"""What all networks see, each with numbers of its own."""
        from ..diffusion.noise import generator
        from ..observations.networks import draw
        from ..observations.table import ObservationTable

        seeds = [seed] + [
            int(generator(seed, "network", k).integers(2**62))
            for k in range(1, len(self.also) + 1)
        ]
        networks = (self.observing, *self.also)
        tables = [draw(n, store, seed=s, **how) for n, s in zip(networks, seeds, strict=True)]
        return tables[0] if len(tables) == 1 else ObservationTable.concatenate(tables)

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        from ..observations.read import Notes
        from ..observations.table import ObservationTable

        told = [RunFolder(p).manifest()["outputs"] for p in parts]
        if parts == [ctx.folder]:
            return told[0]
        tables = [ObservationTable.load(p / "observations.nc") for p in parts]
        for part, table, of_part in zip(parts, tables, told, strict=True):
            if table.digest != of_part["observations"]:
                raise BadInput("its rows are not those its manifest tells of", part)
        table = ObservationTable.concatenate(tables)
        if not len(table):
            raise BadInput("no frame is observed", "observing", "Leave out gaps or 'missing'.")
        return self._finish(ctx, table, self.quality, Notes())

    def _finish(self, ctx: Context, table, quality: Quality | None, notes) -> dict[str, str]:
        r"""Quality control of all rows, and the files."""
        from ..io.atomic import digest_bytes, write_json
        from ..observations.flags import counts
        from ..observations.quality import control

        start, stop = self.frames
        biases: dict[tuple[str, str], tuple[float, float]] = {}
        if quality is not None:
            table = control(
                table, ctx.store(self.data), quality, start=start, seed=self.seed, biases=biases
            )
        digest = table.save(ctx.folder / "observations.nc")
        found = {"flags": counts(table), "left out when reading": notes, "first": notes.first}
        units = dict(zip(table.variables, table.variable_units, strict=True))
        if biases:
            found["biases"] = [
                {"of": of, "variable": v, "bias": b, "deviation": d, "units": units[v]}
                for (of, v), (b, d) in biases.items()
            ]
        write_json(ctx.folder / "quality.json", found)
        # The most certain first.
        worst = sorted(biases.items(), key=lambda item: -abs(item[1][0]) / item[1][1])
        for (of, v), (b, d) in worst[:10]:
            ctx.say(f"bias of {of}, {v}: {b:.3g} ± {d:.2g} {units[v]}, taken off")
        if len(worst) > 10:
            ctx.say(f"{len(worst) - 10} more biases are in quality.json")
        for why, count in notes.items():
            at = f" (first: {notes.first[why]})" if why in notes.first else ""
            ctx.say(f"{count} rows left out: {why}{at}")
        used = int((table.flag == 0).sum())
        ctx.say(f"{used} observations of {stop - start} frames")
        if used < len(table):
            for variable, of in found["flags"].items():
                said = "; ".join(f"{n} {why}" for why, n in of.items())
                ctx.say(f"{variable}: {said}")
        return {
            "observations": digest,
            "quality": digest_bytes((ctx.folder / "quality.json").read_bytes()),
        }

    def figures(self, study: Study, name: str) -> dict[str, str]:
        o = self.observing
        if o.network == "table":
            return {"file": o.path}
        if o.network == "random_points" and not self.also:
            return {"points": f"{o.points} a frame"}
        return {"network": " and ".join(n.network for n in (o, *self.also))}
