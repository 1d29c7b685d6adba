r"""Reliability of an ensemble's probabilities of an event: Brier score and its three parts.

The event is to be above a threshold, usually the climatological mean of the place and season; the
probability is the share of members above it. With weights :math:`w_k` of the cases in which k of M
members are, and the event's frequency :math:`o_k` among them,

.. math:: BS = \sum_k w_k (p_k - o_k)^2 - \sum_k w_k (o_k - \bar o)^2 + \bar o (1 - \bar o),

reliability (nothing is best), resolution and uncertainty (Murphy 1973); with as many bins as there
are probabilities the sum is exact (those of many members are rounded, see `ranks`). Few members
cost even the best ensemble something; the fair score
:math:`BS - \sum_k w_k p_k (1 - p_k) / (M - 1)` judges the distribution behind them (Ferro 2014).
"""

from __future__ import annotations

__all__ = ["reliability"]

from typing import Any

import numpy as np


def reliability(events: np.ndarray, hits: np.ndarray, members: int) -> dict[str, Any]:
    r"""The diagram and the scores.

    Arguments:
        events: Weight of the cases in which a share k / K of the members is above the threshold,
            with shape :math:`(K + 1)`.
        hits: Of those in which the truth is above it, too.
        members: Their number :math:`M`.

    Returns:
        `{"probability", "frequency" (None where no case is), "share", "brier", "reliability",
        "resolution", "uncertainty", "fair_brier"}`.
    """
    K, M = len(events) - 1, members
    total = events.sum()
    w, p = events / total, np.arange(K + 1) / K
    o = np.divide(hits, events, out=np.zeros(K + 1), where=events > 0)
    base = float(hits.sum() / total)
    found = {
        "reliability": float((w * (p - o) ** 2).sum()),
        "resolution": float((w * (o - base) ** 2).sum()),
        "uncertainty": base * (1 - base),
    }
    brier = float((w * (p**2 * (1 - o) + (1 - p) ** 2 * o)).sum())
    few = float((w * p * (1 - p)).sum() / (M - 1)) if M > 1 else 0.0
    return {
        "probability": p.tolist(),
        "frequency": [float(f) if e > 0 else None for f, e in zip(o, events, strict=True)],
        "share": w.tolist(),
        "brier": brier,
        **found,
        "fair_brier": brier - few,
    }
