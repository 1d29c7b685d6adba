r"""Fields of a job that observes: which network, what it sees and how well.

Only pydantic is imported here: reading a job file needs nothing else.
"""

from __future__ import annotations

__all__ = ["PointTable", "RandomPoints"]

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


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
        errors = self.error.values() if isinstance(self.error, dict) else [self.error]
        if not all(0 < e < float("inf") for e in errors):
            raise ValueError("error: a standard deviation is positive")
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
