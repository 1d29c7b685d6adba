r"""`kind: import`: a gridded file becomes a trajectory store, with its statistics."""

from __future__ import annotations

__all__ = ["Import"]

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import BadInput, nearest
from .base import Context, Fields, Job

if TYPE_CHECKING:
    from .study import Study


class Sample(Fields):
    r"""A made-up atmosphere in ERA5's layout, to try a study before its data are here."""

    frames: int = Field(ge=2, description="six-hourly states")
    grid: tuple[int, int] = Field((32, 64), description="latitudes and longitudes")


class Source(Fields):
    r"""A file on this machine or on the web, one of a Debian package, or a made-up one."""

    path: str | None = Field(None, description="netCDF, Zarr or GRIB; relative to the job file")
    url: str | None = Field(
        None, pattern="^[a-z0-9]+://", description="Zarr store: gs://, s3://, https://"
    )
    options: dict[str, str | bool] | None = Field(
        None, description="of the url's file system (fsspec), e.g. {token: anon}; no secrets"
    )
    shape: tuple[int, int, int] | None = Field(
        None, description="channels, latitudes, longitudes expected of a url: plan counts on them"
    )
    sample: Sample | None = Field(None, description="made up on the spot; no observations")
    debian: str | None = Field(None, description="name of a Debian package")
    file: str | None = Field(None, description="path of the file in that package")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    engine: str | None = Field(None, description="xarray engine, where it cannot be guessed")
    verify: Literal["quick", "full"] = "quick"

    @model_validator(mode="after")
    def _one(self) -> Source:
        if sum(v is not None for v in (self.path, self.url, self.debian, self.sample)) != 1:
            raise ValueError(
                "give one of 'path', 'url', 'sample', or 'debian' with 'file' and 'sha256'"
            )
        if self.url is None and (self.options or self.shape):
            raise ValueError("'options' and 'shape' belong to a 'url'")
        if self.debian is not None and (self.file is None or self.sha256 is None):
            raise ValueError("'debian' needs 'file' and 'sha256'")
        return self


class Variable(Fields):
    r"""What the file does not say of a variable, or says wrongly."""

    units: str | None = None
    standard_name: str | None = None
    long_name: str | None = None


class Smooth(Fields):
    r"""Gaussian smoothing of the variance, as standard deviations of the kernel."""

    phases: float = Field(0.0, ge=0, description="along the phases, e.g. months")
    degrees: float = Field(0.0, ge=0, description="along latitude and longitude")


class StatisticsFields(Fields):
    r"""Climatology and standard deviation, from the training frames alone."""

    frames: tuple[int, int] = Field(description="half-open range of training frames")
    phase: Literal["month", "none"] = "month"
    per: Literal["point", "channel"] = Field(
        "point", description="'channel': one mean and deviation for all points of a channel"
    )
    smooth: Smooth = Smooth()


class Import(Job):
    r"""Reads anything xarray opens into a trajectory store."""

    kind: Literal["import"] = "import"
    source: Source
    variables: dict[str, Variable] = Field(min_length=1)
    static: list[str] = Field(
        [], description="variables that do not change, e.g. orography: kept beside the states"
    )
    levels: list[float] | None = None
    region: dict[Literal["lat", "lon"], tuple[float, float]] | None = None
    time: tuple[str, str] | None = Field(None, description="first and last date, inclusive")
    select: dict[str, float | str] | None = Field(
        None, description="labels along further dimensions, e.g. {number: 0}"
    )
    missing: Literal["error", "mask", "floor"] = Field(
        "error",
        description="'mask': points missing in every frame are masked (land), in all channels; "
        "'floor': levels missing below a sea floor repeat the lowest one that is there and count "
        "for nothing in an autoencoder's loss, points without any level are masked",
    )
    statistics: StatisticsFields | None = None

    backend: ClassVar[str] = "mpi"
    thing: ClassVar[str] = "store"

    @field_validator("time", mode="before")
    @classmethod
    def _dates(cls, value: Any) -> Any:
        # YAML reads 2018-01-01 as a date and 1982 as a number.
        return [str(v) for v in value] if isinstance(value, list | tuple) else value

    def check(self, name: str, study: Study) -> None:
        s = self.source
        where = study.sources[name]
        if s.path is not None:
            path = Path(s.path).expanduser()
            s.path = str(path if path.is_absolute() else (study.folder / path).resolve())
            if not Path(s.path).exists():
                raise BadInput(
                    f"no such file: {s.path}", where.where(("source", "path")), "Give its path."
                )
        if (local := self._local()) is not None:
            self._check_names(local, where)
        if self.statistics and self.statistics.frames[0] >= self.statistics.frames[1]:
            raise BadInput(
                "'statistics.frames' is empty",
                where.where(("statistics", "frames")),
                "Write [first, last + 1].",
            )

    def _check_names(self, path: Path, where) -> None:
        r"""Variables, while nothing is queued yet; other formats than netCDF are read later."""
        import netCDF4

        try:
            with netCDF4.Dataset(str(path)) as f:
                known = list(f.variables)
        except OSError:
            if path.is_dir() or self.source.engine not in (None, "netcdf4"):
                return
            if path.suffix in (".nc", ".nc4", ".cdf", ".netcdf"):
                raise BadInput(
                    f"the file cannot be opened as netCDF: {path}",
                    where.where(("source",)),
                    "Is it truncated?",
                ) from None
            return
        for v in [*self.variables, *self.static]:
            if v not in known:
                raise BadInput(
                    f"{path.name} has no variable '{v}'",
                    where.where(("variables" if v in self.variables else "static", v)),
                    nearest(v, known),
                )

    def external(self) -> dict[str, tuple[Path, str]]:
        # A package's file is known by its checksum, which stands in the job file.
        # A web address is in the job file too: what it holds is taken not to change.
        s = self.source
        return {"source": (Path(s.path), s.verify)} if s.path is not None else {}

    def _local(self) -> Path | None:
        r"""The file on this machine, if it is there."""
        from ..io.sources import cached_debian

        s = self.source
        if s.path is not None:
            return Path(s.path)
        if s.debian is not None:
            return cached_debian(s.file, s.sha256)
        if s.sample is not None:
            path = self._sample()
            return path if path.exists() else None
        return None

    def _sample(self) -> Path:
        from ..io.sources import sampled
        from ..simulators.planetary_waves import VERSION

        return sampled({"version": VERSION, **self.source.sample.model_dump()})

    def fetch(self) -> None:
        if self.source.sample is not None and self._local() is None:
            from ..io.sources import keep_sample
            from ..simulators.planetary_waves import planetary_waves

            keep_sample(planetary_waves(**self.source.sample.model_dump()), self._sample())
        if self.source.debian is not None:
            from ..io.sources import fetch_debian

            if self._local() is None:
                print(f"fetching {self.source.file} of {self.source.debian}", flush=True)
            fetch_debian(self.source.debian, self.source.file, self.source.sha256)

    def run(self, ctx: Context) -> dict[str, str]:
        import numpy as np

        from ..io.fields import GriddedFile
        from ..io.sea_floor import SeaFloor
        from ..io.write_store import StoreWriter
        from .statistics import climatology, name_missing

        if ctx.world.rank == 0:
            self.fetch()
        ctx.world.barrier("fetch")
        file = GriddedFile(
            self.source.url or self._local(),
            list(self.variables),
            self.levels,
            self.region,
            self.time,
            self.select,
            self.source.engine,
            self.source.options,
            self.static,
        )
        L = len(file.time)
        found = (len(file.channels), *(len(c) for c in file.coords.values()))
        if self.source.shape not in (None, found):
            raise BadInput(
                f"channels and grid are {list(found)}, not {list(self.source.shape)}", file.path,
                "Mend 'source.shape', or choose other variables or levels.",
            )  # fmt: skip
        lo, hi = ctx.world.share(0, L)
        step = max(1, (64 << 20) // max(1, 4 * len(file.channels) * _points(file)))
        mask = floor = None
        if self.missing == "floor":
            there = np.isfinite(file.read(0, 1)[0])
            floor = SeaFloor(there, [v for _, v, _ in file.channels])
            mask = floor.mask
        elif self.missing == "mask":
            # A point missing in the first frame is land if it is missing in all (checked below).
            mask = np.isfinite(file.read(0, 1)).all((0, 1))
        said = [self.variables[v] for _, v, _ in file.channels]
        units = [
            s.units or file.units(v) for s, (_, v, _) in zip(said, file.channels, strict=True)
        ]
        for (_, v, _), u in zip(file.channels, units, strict=True):
            if not u:
                raise BadInput(
                    f"variable '{v}' has no units",
                    file.path,
                    f"Write variables: {{{v}: {{units: ...}}}}.",
                )
        writer = StoreWriter(
            ctx.folder / "store",
            channels=[c for c, *_ in file.channels],
            units=units,
            standard_names=[
                s.standard_name or file.attribute(v, "standard_name")
                for s, (_, v, _) in zip(said, file.channels, strict=True)
            ],
            long_names=[
                s.long_name or file.attribute(v, "long_name")
                for s, (_, v, _) in zip(said, file.channels, strict=True)
            ],
            coords=file.coords,
            coord_attrs=file.coord_attrs,
            time=file.time,
            time_units=file.time_units,
            calendar=file.calendar,
            mask=mask,
            below=None if floor is None else floor.below,
            static=file.static,
            attributes={"source": str(file.path).rstrip("/").rpartition("/")[2]},
            world=ctx.world,
            fence=ctx.fence,
        )
        ctx.progress.begin("importing frames")
        for t in range(lo, hi, step):
            x = file.read(t, min(t + step, hi))
            x = x if floor is None else floor.fill(x)
            name_missing(x, t, file, mask)
            writer.write(t, np.nan_to_num(x, copy=False) if mask is not None else x)
            ctx.progress.update(min(t + step, hi) - lo, hi - lo)
        if self.statistics is not None:
            # Read back from the part: the file itself may be far away.
            writer.statistics = climatology(
                writer.read, (lo, hi), file, self.statistics, ctx.world, step, mask
            )
        ctx.say(f"{L} frames, {len(file.channels)} channels on {'x'.join(map(str, writer.grid))}")
        return {"store": writer.close()}

    def store_shape(self) -> tuple[int, tuple[int, ...]] | None:
        r"""Channels and grid of the store it will make, where a netCDF header tells them."""
        import netCDF4

        s = self.source
        if s.shape is not None:
            return s.shape[0], s.shape[1:]
        if s.sample is not None:
            from ..simulators.planetary_waves import LEVELS, UPPER

            upper = sum(v in UPPER for v in self.variables)
            return len(self.variables) + upper * (len(self.levels or LEVELS) - 1), s.sample.grid
        local = self._local()
        if local is None or not local.is_file() or self.region:
            return None
        try:
            with netCDF4.Dataset(str(local)) as f:
                of = [f.variables[v] for v in self.variables]
                # (time, level, lat, lon), or without level
                deep = [v.shape[1] if v.ndim > 3 else 1 for v in of]
                n = sum(len(self.levels or range(d)) if d > 1 else 1 for d in deep)
                return n, of[0].shape[-2:]
        except (OSError, KeyError):  # another format, or a mistake that `check` tells
            return None

    def figures(self, study: Study, name: str) -> dict[str, str]:
        s = self.source
        if s.sample is not None:
            return {"source": f"{s.sample.frames} made-up states"}
        return {"source": s.path or s.url or f"{s.debian} (Debian)"}


def _points(file) -> int:
    n = 1
    for c in file.coords.values():
        n *= len(c)
    return n
