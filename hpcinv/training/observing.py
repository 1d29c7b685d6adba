r"""Random observation sets, for denoisers conditioned on :math:`y`.

A network that is to accept whatever was observed must have seen all kinds of sets: few points and
many, exact and noisy, sensors and whole frames missing.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from hpcinv.models.observed_fields import encode
from hpcinv.training.config import _Fields

__all__ = ["ConditioningConfig", "draw_observations"]

Range = tuple[
    Annotated[float, Field(gt=0, description="smallest")],
    Annotated[float, Field(gt=0, description="largest")],
]


class ConditioningConfig(_Fields):
    r"""The observation sets that a conditioned denoiser is trained on."""

    channels: Annotated[
        list[str] | None, Field(min_length=1, description="those observed; default: all")
    ] = None
    fraction: Annotated[
        Range, Field(description="of the grid points observed in a frame, log-uniform")
    ] = (0.002, 0.2)
    noise: Annotated[
        Range,
        Field(
            description="σ of the observations in standard deviations of the state, log-uniform"
        ),
    ] = (0.05, 0.5)
    missing: Annotated[
        float, Field(ge=0, lt=1, description="chance of a channel to be absent from a sample")
    ] = 0.1
    gaps: Annotated[
        float, Field(ge=0, lt=1, description="chance of a frame to have no observation")
    ] = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> ConditioningConfig:
        for name in ("fraction", "noise"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"'{name}' runs from {low} down to {high}")
        if self.fraction[1] > 1:
            raise ValueError("'fraction' cannot be more than 1")
        return self


def _log_uniform(rng: np.random.Generator, span: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(span[0]), math.log(span[1])))


def draw_observations(
    x: np.ndarray, channels: list[int], config: ConditioningConfig, rng: np.random.Generator
) -> np.ndarray:
    r"""Observes a window at random points, all channels at the same ones.

    Arguments:
        x: Standardised states, with shape :math:`(W, C, *grid)`.
        channels: The :math:`c` channels that can be observed.
        config: The sets to draw from.
        rng: The sample's own generator.

    Returns:
        Their fields (:mod:`hpcinv.models.observed_fields`), with shape :math:`(W, 2 c, *grid)`.
    """
    frames, grid = len(x), x.shape[2:]
    one = (1,) * len(grid)
    share = _log_uniform(rng, config.fraction)
    sigma = _log_uniform(rng, config.noise)
    points = rng.random((frames, 1, *grid)) < share
    present = rng.random((1, len(channels), *one)) >= config.missing
    watched = rng.random((frames, 1, *one)) >= config.gaps
    seen = x[:, channels]
    y = seen + sigma * rng.standard_normal(seen.shape, dtype=np.float32)
    return encode(y, np.float32(sigma), points & present & watched)
