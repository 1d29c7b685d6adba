r"""Fields of a job that observes: which network, what it sees and how well.

Only pydantic is imported here: reading a job file needs nothing else.
"""

from __future__ import annotations

__all__ = ["Derived", "Forward", "PointTable", "RandomPoints"]

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

OPERATORS = ("column", "level", "saturation", "speed")


class Derived(BaseModel):
    r"""A variable that is observed but is no channel: a function of channels at one place.

    Fields:
        name, units: Of the observed variable, as tables name it.
        of: The channels it is made from.
        operator: `speed`, the length of the vector of them; `saturation`, the first of them
            between `low` and `high` (a censored instrument); `column`, :math:`\sum_k w_k x_k` with
            `weights`, or with those of the trapezoid rule over `levels`; `level`, interpolation
            between `levels` to the row's own; or `module:Name`, a function of one's own of a
            tensor :math:`(..., K)` of the K channels, differentiable, that gives :math:`(...)`.
        low, high: Of `saturation`.
        levels: Level of each of `of` (`column`, `level`), for instance pressures.
        weights: Weight of each of `of` (`column`).
        scale: Factor of a column with `levels`; 100 / 9.80665 for hPa and kg/kg into kg m-2.
        logarithmic: Interpolate in the logarithm of the level (`level`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    units: str
    of: tuple[str, ...] = Field(min_length=1)
    operator: str
    low: float | None = None
    high: float | None = None
    levels: tuple[float, ...] | None = None
    weights: tuple[float, ...] | None = None
    scale: float = 1.0
    logarithmic: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Derived:
        n = len(self.of)
        if self.operator not in OPERATORS and ":" not in self.operator:
            raise ValueError(f"operator: {', '.join(OPERATORS)} or module:Name")
        for name in ("levels", "weights"):
            given = getattr(self, name)
            if given is not None and len(given) != n:
                raise ValueError(f"{name}: {len(given)} for {n} channels")
        if self.operator == "column" and (self.levels is None) == (self.weights is None):
            raise ValueError("column: give either weights or levels")
        if self.operator == "level":
            if self.levels is None or n < 2:
                raise ValueError("level: give the level of each channel, two or more")
            if self.logarithmic and min(self.levels) <= 0:
                raise ValueError("levels: a logarithm needs positive ones")
        ordered = sorted(self.levels or ())
        if ordered and list(self.levels) not in (ordered, ordered[::-1]):
            raise ValueError("levels: give them in ascending or descending order")
        if len(set(ordered)) < len(ordered):
            raise ValueError("levels: two are equal")
        if self.operator == "saturation" and self.low is None and self.high is None:
            raise ValueError("saturation: give low, high or both")
        if self.operator == "saturation" and n > 1:
            raise ValueError("saturation: of one channel")
        return self


class Forward(BaseModel):
    r"""How the rows of a table see the state.

    Fields:
        space: `nearest` grid point; `bilinear` between the four around the place (on a global
            grid across the date line and across the poles); `block`, the area average of
            `cells` × `cells` points around the nearest.
        cells: Points along the side of a block, an odd number.
        time: `nearest` frame, or `linear` between the two around the moment.
        derived: Observed variables that are no channels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: Literal["nearest", "bilinear", "block"] = "nearest"
    cells: PositiveInt = 3
    time: Literal["nearest", "linear"] = "nearest"
    derived: tuple[Derived, ...] = ()

    @model_validator(mode="after")
    def _odd(self) -> Forward:
        if self.cells % 2 == 0:
            raise ValueError("cells: an odd number has a middle")
        names = [d.name for d in self.derived]
        if len(set(names)) < len(names):
            raise ValueError("derived: two variables have one name")
        return self

    @property
    def direct(self) -> bool:
        r"""Whether a channel is seen at its nearest grid point and frame."""
        return self.space == "nearest" and self.time == "nearest"


class RandomPoints(BaseModel):
    r"""Random grid points, drawn anew for each observed frame, all points equally likely.

    Fields:
        points: Points in a frame.
        channels: Channels seen at each of them; all when left out.
        error: Standard deviation σ of the noise in the channel's units, one for all or by channel.
        every: Observe each frame whose distance from the first is a multiple of this.
    """

    model_config = ConfigDict(extra="forbid")

    network: Literal["random_points"] = "random_points"
    points: PositiveInt = 200
    channels: list[str] | None = None
    error: float | dict[str, float] = Field(default=0.5)
    every: PositiveInt = 1

    @model_validator(mode="after")
    def _errors(self) -> RandomPoints:
        positive(self.error)
        return self


class PointTable(BaseModel):
    r"""Observations read from a file; see `hpcinv.observations.read`.

    Fields:
        path: A `.csv`, `.parquet` or `.nc` file.
        columns: Names of the file's columns by ours (variable, value, units, error, time, lat,
            lon, station), where they differ.
        variables: Channel of each of the file's variables, where names differ; others are left
            out and counted.
        error: Standard deviation where the file has no error column, one for all or by channel.
        window: Largest distance in time from a frame, in the trajectory's time units.
    """

    model_config = ConfigDict(extra="forbid")

    network: Literal["table"]
    path: str
    columns: dict[str, str] = Field(default_factory=dict)
    variables: dict[str, str] | None = None
    error: float | dict[str, float] | None = None
    window: float | None = Field(None, gt=0)


def positive(error: float | dict[str, float]) -> None:
    r"""Refuses a standard deviation that is not positive and finite."""
    errors = error.values() if isinstance(error, dict) else [error]
    if not all(0 < e < float("inf") for e in errors):
        raise ValueError("error: a standard deviation is positive")
