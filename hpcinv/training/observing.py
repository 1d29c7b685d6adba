r"""Random observation sets, for denoisers conditioned on :math:`y`.

A network that is to accept whatever was observed must have seen all kinds of sets: few points and
many, exact and noisy, sensors and whole frames missing.
"""

from __future__ import annotations

import math

import numpy as np

from hpcinv.models.observed_fields import encode
from hpcinv.training.config import ConditioningConfig

__all__ = ["draw_observations"]


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
