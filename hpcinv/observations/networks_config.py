r"""Fields of the networks that observe a known trajectory: where they look, with what noise."""

from __future__ import annotations

__all__ = [
    "Clouds",
    "CoarseGrid",
    "Network",
    "Noise",
    "Orbit",
    "RandomPoints",
    "Stations",
    "Tracks",
]

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from .config import Forward


class Noise(BaseModel):
    r"""What is added to what a network sees; the table always tells `error` as its σ.

    Fields:
        factor: The noise's true deviation over the `error` that is told.
        bias: Added to every value, in the variable's units, one for all or by variable.
        station_bias: Deviation of a constant of each station's own, over `error`.
        persistence: Correlation of a station's noise from frame to frame (not random points).
        length_km: Length of the noise's correlation in space, exp(−r/L); null for white noise.
    """

    model_config = ConfigDict(extra="forbid")

    factor: float = Field(1.0, gt=0)
    bias: float | dict[str, float] = 0.0
    station_bias: float = Field(0.0, ge=0)
    persistence: float = Field(0.0, ge=0, lt=1)
    length_km: float | None = Field(None, gt=0)


class Clouds(BaseModel):
    r"""Coherent clouds that hide places from a network.

    Fields:
        share: Share of the places hidden, in the mean over frames.
        length_km: Length L of the clouds' correlation, exp(−r²/2L²).
        memory: Correlation of the field behind them from one frame to the next.
        channels: Variables that are hidden; all of them when left out.
    """

    model_config = ConfigDict(extra="forbid")

    share: float = Field(gt=0, lt=1)
    length_km: float = Field(gt=0)
    memory: float = Field(0.0, ge=0, lt=1)
    channels: list[str] | None = None


class Network(BaseModel):
    r"""What all networks share.

    Fields:
        channels: Channels or derived variables seen at each place; all channels when left out.
        error: Standard deviation σ of the noise in the variable's units, one for all or by name.
        every: Observe each frame whose distance from the first is a multiple of this.
        gaps: Half-open ranges of the analysed frames, counted from 0, without observations.
        missing: Share of the frames without observations, drawn at random.
        clouds: Coherent fields that hide places; they change from frame to frame.
        surface: Only the first level of a grid with a vertical axis.
        noise: How noise departs from white.
        forward: How places see the state, and the derived variables.
    """

    model_config = ConfigDict(extra="forbid")

    channels: list[str] | None = None
    error: float | dict[str, float] = Field(default=0.5)
    every: PositiveInt = 1
    gaps: list[tuple[int, int]] = []
    missing: float = Field(0.0, ge=0, lt=1)
    clouds: Clouds | None = None
    surface: bool = False
    noise: Noise = Noise()
    forward: Forward = Forward()

    @field_validator("error")
    @classmethod
    def _positive(cls, error: float | dict[str, float]) -> float | dict[str, float]:
        errors = error.values() if isinstance(error, dict) else [error]
        if not all(0 < e < float("inf") for e in errors):
            raise ValueError("a standard deviation is positive")
        return error


class RandomPoints(Network):
    r"""Random grid points, drawn anew for each observed frame, all points equally likely.

    Fields:
        points: Points in a frame.
    """

    network: Literal["random_points"] = "random_points"
    points: PositiveInt = 200

    @model_validator(mode="after")
    def _no_stations(self) -> RandomPoints:
        if self.noise.persistence or self.noise.station_bias:
            raise ValueError("noise: random points are no stations with a memory")
        return self


class Stations(Network):
    r"""Fixed stations, from a list.

    Fields:
        path: A CSV file with the columns station, lat and lon.
        places: The list itself: name -> [latitude, longitude].
    """

    network: Literal["stations"]
    path: str | None = None
    places: dict[str, tuple[float, float]] = {}

    @model_validator(mode="after")
    def _one(self) -> Stations:
        if (self.path is None) != bool(self.places):
            raise ValueError("stations: give either 'path' or 'places'")
        return self


class Tracks(Network):
    r"""Ships or floats that report from where they are.

    Fields:
        platforms: How many.
        speed: In m/s, over ground.
        steadiness: Correlation of the heading from report to report: 1 is a ship on a great
            circle, 0 a float that forgets where it came from.
        reports: Reports of a platform in a frame, evenly spaced in time.
    """

    network: Literal["tracks"]
    platforms: PositiveInt = 20
    speed: float = Field(7.0, gt=0)
    steadiness: float = Field(1.0, ge=0, le=1)
    reports: PositiveInt = 1


class Orbit(Network):
    r"""The swath of a satellite on a circular orbit.

    Fields:
        altitude_km: Above a sphere of 6371 km.
        inclination: Degrees; null for the one that keeps the orbit sun-synchronous.
        local_time: Mean local time of the ascending node, hours.
        swath_km: Width of what is seen, or
        scan_angle: half angle of the scan, degrees from the nadir.
        spacing_km: Distance of the footprints, along and across.
    """

    network: Literal["orbit"]
    altitude_km: float = Field(817.0, gt=0)
    inclination: float | None = Field(None, ge=0, le=180)
    local_time: float = Field(21.5, ge=0, lt=24)
    swath_km: float | None = Field(None, gt=0)
    scan_angle: float | None = Field(None, gt=0, lt=90)
    spacing_km: float = Field(100.0, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Orbit:
        if (self.swath_km is None) == (self.scan_angle is None):
            raise ValueError("orbit: give either 'swath_km' or 'scan_angle'")
        return self


class CoarseGrid(Network):
    r"""Every `stride`-th point of the grid along each axis.

    Fields:
        stride: Points from one to the next.
    """

    network: Literal["grid"]
    stride: PositiveInt = 4
