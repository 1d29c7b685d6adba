r"""Fields of what is observed: how rows see the state, their quality and errors, and their files.

Only pydantic is imported here: reading a job file needs nothing else.
"""

from __future__ import annotations

__all__ = [
    "Buddy",
    "Derived",
    "Errors",
    "Forward",
    "Measured",
    "PointTable",
    "Quality",
    "Thin",
]

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


class Buddy(BaseModel):
    r"""The check against neighbours.

    Fields:
        length_km: Length of the correlation of departures, :math:`e^{-r^2 / 2 L^2}`.
        limit: Deviations of the neighbours' prediction that are too many.
        neighbours: Nearest rows that are asked.
    """

    model_config = ConfigDict(extra="forbid")

    length_km: float = Field(300.0, gt=0)
    limit: float = Field(4.0, gt=0)
    neighbours: PositiveInt = 8


class Thin(BaseModel):
    r"""Thinning or superobbing.

    Fields:
        km: Size of the cells.
        method: `nearest` to the centre stays, or the `average` becomes a superobservation.
        representativeness: Error that the rows of a cell share, in the variable's units.
    """

    model_config = ConfigDict(extra="forbid")

    km: float = Field(gt=0)
    method: Literal["nearest", "average"] = "nearest"
    representativeness: float = Field(0.0, ge=0)


class Quality(BaseModel):
    r"""Quality control, see `hpcinv.observations.quality`.

    Fields:
        bounds: Lowest and highest value of a variable, `null` for none.
        duplicates: Turn down repetitions.
        background: Deviations of the prior's prediction that are too many; null for no check.
        station_bias: Bias that a station is expected to have, over its σ: each is estimated from
            the departures of all frames, and taken off before the background check; null for
            none. A departure of the weather that lasts as long is taken off with it.
            `quality.json` tells the estimates and their deviations.
        instruments: Instruments by the pattern of their stations' names, `{ships: "SHIP*"}`: the
            bias is then estimated for each of them instead of for each station.
        buddy: The check against neighbours; null for none.
        withhold: Share of the stations (or places) kept from every method, for verification; 1
            for a network that only judges.
        thin: Thinning or superobbing; null for none.
    """

    model_config = ConfigDict(extra="forbid")

    bounds: dict[str, tuple[float | None, float | None]] = {}
    duplicates: bool = True
    background: float | None = Field(5.0, gt=0)
    station_bias: float | None = Field(None, gt=0)
    instruments: dict[str, str] = {}
    buddy: Buddy | None = None
    withhold: float = Field(0.0, ge=0, le=1)
    thin: Thin | None = None

    @model_validator(mode="after")
    def _biases(self) -> Quality:
        if self.instruments and self.station_bias is None:
            raise ValueError("instruments: they go with 'station_bias'")
        return self


class Errors(BaseModel):
    r"""How a method takes the errors of the observations, by variable; see `observations.errors`.

    Fields:
        factor: Times the σ that the table tells.
        representativeness: Deviation added, of what the state's grid cannot hold.
        length_km: Length of the errors' correlation in space.
        between: Correlation of the errors of two variables, `{u: {v: 0.3}}`: of rows at one place
            and frame, and over the length, which is then the same for both.
        share: Share of σ² that is so correlated.
    """

    model_config = ConfigDict(extra="forbid")

    factor: dict[str, float] = {}
    representativeness: dict[str, float] = {}
    length_km: dict[str, float] = {}
    between: dict[str, dict[str, float]] = {}
    share: float = Field(0.9, gt=0, lt=1)

    @model_validator(mode="after")
    def _positive(self) -> Errors:
        for name in ("factor", "length_km", "representativeness"):
            if any(not 0 < x < float("inf") for x in getattr(self, name).values()):
                raise ValueError(f"{name}: positive numbers")
        pairs = [(a, b, r) for a, of in self.between.items() for b, r in of.items()]
        if any(a == b or not -1 < r < 1 for a, b, r in pairs):
            raise ValueError("between: correlations of two variables, between -1 and 1")
        return self


class Measured(BaseModel):
    r"""A column that holds one variable.

    Fields:
        channel: The channel or derived variable it is; the column's own name by default.
        units: Its units; the netCDF variable's own by default.
        error: Standard deviation σ of its error, in the trajectory's units.
        missing: Numbers that stand for nothing, besides what the file itself says.
        flag: Column with the source's own verdict.
        good: Its values that mean the value may be used.
        density: Of the water, in kg m-3, where amounts per mass (umol kg-1) stand for a channel
            of amounts per volume (mmol m-3).
    """

    model_config = ConfigDict(extra="forbid")

    channel: str | None = None
    units: str | None = None
    density: float | None = Field(None, gt=0)
    error: float | None = Field(None, gt=0)
    missing: list[float] = []
    flag: str | None = None
    good: list[str | int] = []

    @model_validator(mode="after")
    def _verdicts(self) -> Measured:
        if (self.flag is None) != (not self.good):
            raise ValueError("flag and good: give both or none")
        return self


class PointTable(BaseModel):
    r"""Observations read from a file; see `hpcinv.observations.read`.

    Fields:
        path: A `.csv`, `.parquet`, `.nc` or `.cdf` file, or an ODV spreadsheet (`.txt`).
        columns: Names of the file's columns by ours (variable, value, units, error, time, lat,
            lon, station, level, flag), where they differ.
        variables: Channel of each of the file's variables, where names differ; others are left
            out and counted.
        measured: For a file with a column for each variable: those columns.
        units: Units where the file has no such column, one for all or by channel.
        error: Standard deviation where the file has no error column, one for all or by channel.
        window: Largest distance in time from a frame, in the trajectory's time units.
        time_format: How times are written, for `strptime`; ISO 8601 by default.
        forward: How rows see the state, and the derived variables they may be of.
    """

    model_config = ConfigDict(extra="forbid")

    network: Literal["table"]
    path: str
    columns: dict[str, str] = Field(default_factory=dict)
    variables: dict[str, str] | None = None
    measured: dict[str, Measured] | None = None
    units: str | dict[str, str] | None = None
    error: float | dict[str, float] | None = None
    window: float | None = Field(None, gt=0)
    time_format: str | None = None
    forward: Forward = Forward()

    @model_validator(mode="after")
    def _one_shape(self) -> PointTable:
        if self.measured is not None and self.variables is not None:
            raise ValueError("measured: it names the variables, leave out 'variables'")
        return self
