r"""Importance weights of samples whose likelihood is known, and how many samples they leave."""

from __future__ import annotations

__all__ = ["effective", "log_weights"]

from typing import Any

import torch
from torch import Tensor

CHUNK = 512  # likelihoods at a time: a simulator may need much memory for each


@torch.no_grad()
def log_weights(simulator: Any, theta: Tensor, log_density: Tensor, x: Tensor) -> Tensor:
    r""":math:`\log p(\theta) + \log p(x \mid \theta) - \log q(\theta \mid x)`, not normalised.

    Arguments:
        simulator: One with `log_likelihood`.
        theta: Samples, with shape (B, N, P).
        log_density: :math:`\log q` of the samples, with shape (B, N).
        x: Observations, with shape (B, *S).
    """
    B, N, P = theta.shape
    flat = theta.reshape(B * N, P)
    x = x[:, None].expand(B, N, *x.shape[1:]).reshape(B * N, *x.shape[1:])
    known = [
        simulator.log_likelihood(a, b).double()
        for a, b in zip(flat.split(CHUNK), x.split(CHUNK), strict=True)
    ]
    given = torch.cat(known) + simulator.prior.log_prob(flat).double()
    return given.reshape(B, N) - log_density


def effective(log_weight: Tensor) -> Tensor:
    r"""Kish's effective sample size :math:`(\sum w)^2 / \sum w^2`, along the last axis."""
    w = log_weight - log_weight.amax(-1, keepdim=True)
    return torch.exp(2 * w.logsumexp(-1) - (2 * w).logsumexp(-1))
