r"""Fields of the baselines of `assimilate`: climatology, persistence, interpolation, ensembles.

Only pydantic is imported here: reading a job file needs nothing else.
"""

from __future__ import annotations

__all__ = ["OI", "Climatology", "Ensemble", "EnsembleFields", "Persistence"]

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

METHODS = ("enkf", "etkf", "letkf", "enks")  # those of `Ensemble`


class Climatology(BaseModel):
    r"""The training years' own anomalies around their climatology; no observation is used."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["climatology"] = "climatology"


class Persistence(BaseModel):
    r"""The anomaly of the last frame before the analysis, kept; no observation is used."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["persistence"] = "persistence"


class OI(BaseModel):
    r"""Optimal interpolation with a covariance estimated from the training frames.

    Fields:
        covariance: `localised`, the sample covariance times a taper in space and in time, or
            `eof`, its leading EOFs and a white residual, frame by frame.
        eofs: EOFs kept (`eof`).
        length_km: Length L of the taper, exp(−d²/2L²) or the Gaspari–Cohn function of the same
            curvature (`localised`). Without latitude and longitude, in the coordinates' units.
        taper: The taper's shape in space (`localised`).
        lags: Frames before and after the analysed one whose observations count; the taper falls
            linearly and reaches zero one frame farther (`localised`).
    """

    model_config = ConfigDict(extra="forbid")

    method: Literal["oi"] = "oi"
    covariance: Literal["localised", "eof"] = "localised"
    eofs: PositiveInt = 50
    length_km: PositiveFloat = 2000.0
    taper: Literal["gaussian", "gaspari_cohn"] = "gaussian"
    lags: NonNegativeInt = 1


class EnsembleFields(BaseModel):
    r"""What the ensemble Kalman filters and the smoother have in common.

    The first forecast is a climatological ensemble: each member replays the training period from
    a start of the same phase. With a `forecast` model the filter cycles from there; without one
    every frame's forecast is that replay, whose covariances reach across frames.

    Fields:
        forecast: `simulator`, the dynamics that made the data (a perfect model); or
            `module:Name`, a function of states :math:`(M, C, *grid)` in physical units and
            the number of their frame in the store, that gives the states of the next frame.
        inflation: Factor of the anomalies before each analysis.
        rotation: Turn the anomalies at random, mean kept, after each analysis (not `enkf`).
        length_km: Length of the localisation, exp(−d²/2L²) in Gaspari and Cohn's compact form;
            needed by `letkf`, none by default elsewhere.
        lags: Frames before and after whose observations count (`enks`); all by default.
    """

    model_config = ConfigDict(extra="forbid")

    forecast: str | None = None
    inflation: float = Field(1.0, ge=1.0)
    rotation: bool = False
    length_km: PositiveFloat | None = None
    lags: NonNegativeInt | None = None

    @field_validator("forecast")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value not in (None, "simulator") and ":" not in value:
            raise ValueError("forecast: write simulator or module:Name")
        return value


class Ensemble(EnsembleFields):
    r"""Stochastic filter, transform filter (global or local), or ensemble smoother.

    Fields:
        method: Which.
        before: Of a filter, the forecast of a frame before its observations were seen.
    """

    method: Literal["enkf", "etkf", "letkf", "enks"] = "etkf"
    before: bool = False
