r"""Fields of the baselines of `assimilate`: climatology, persistence, optimal interpolation.

Only pydantic is imported here: reading a job file needs nothing else.
"""

from __future__ import annotations

__all__ = ["OI", "Climatology", "Persistence"]

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt


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
