r"""Observations as fields on the grid: what a denoiser conditioned on :math:`y` is shown.

Of each observable channel there are two fields, zero where nothing is observed:

.. math:: \frac{y}{1 + \sigma^2} \quad \text{and} \quad \frac{1}{1 + \sigma^2}

with :math:`y` and :math:`\sigma` standardised like the state. The first is the posterior mean of a
standard normal state given that observation alone, the second how much was learnt.
"""

from __future__ import annotations

import numpy as np

__all__ = ["encode"]


def encode(value: np.ndarray, error: np.ndarray, observed: np.ndarray) -> np.ndarray:
    r"""Fields of observations.

    Arguments:
        value: :math:`y`, with shape :math:`(W, C, *grid)`; anything where not observed.
        error: :math:`\sigma`, broadcastable to it.
        observed: Where there is an observation, broadcastable to it.

    Returns:
        The values' fields, then the weights', with shape :math:`(W, 2 C, *grid)`, float32.
    """
    weight = np.where(observed, 1.0 / (1.0 + np.square(error, dtype=np.float64)), 0.0)
    weight = np.broadcast_to(weight, value.shape)
    fields = np.concatenate([np.where(weight > 0, value, 0.0) * weight, weight], axis=1)
    return fields.astype(np.float32)
