r"""Scores from sums: values, confidence intervals, and paired differences between methods.

For an ensemble of M members with mean :math:`\bar x` and unbiased variance :math:`s^2`, area
means over grid, frames and (pooled) channels in angle brackets:

* rmse :math:`= \langle (\bar x - y)^2 \rangle^{1/2}`, bias :math:`= \langle \bar x - y \rangle`;
* crps: the fair CRPS (`hpcinv.evaluation.crps`);
* spread :math:`= \langle s^2 \rangle^{1/2}`;
* spread_skill :math:`= (\tfrac{M + 1}{M} \langle s^2 \rangle)^{1/2} / \text{rmse}`, one for a
  reliable ensemble (Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1, equation 15);
* spread_skill_unbiased :math:`= (\langle s^2 \rangle / (\text{rmse}^2 - \langle s^2 \rangle / M))
  ^{1/2}`, the ratio to the error a mean of infinitely many members would have;
* rank_distance: total-variation distance of the rank histogram from the flat one,
  :math:`\tfrac12 \sum_k |h_k - \tfrac{1}{M + 1}|`;
* coverage: how often the truth lies between the k-th smallest and the k-th largest member,
  nominally :math:`(M + 1 - 2 k) / (M + 1)`; a sum of the rank histogram, hence exact.
"""

from __future__ import annotations

__all__ = ["scorecard", "seam"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput
from .bootstrap import block_counts, block_length
from .sums import FrameSums

METRICS = (
    "rmse",
    "bias",
    "crps",
    "spread",
    "spread_skill",
    "spread_skill_unbiased",
    "rank_distance",
)
SUMS = ("weight", "error", "squared", "variance", "crps")


def scorecard(
    methods: Mapping[str, FrameSums],
    *,
    channels: Sequence[str],
    units: Sequence[str],
    scale: Sequence[float] | None = None,
    level: float = 0.95,
    block: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    r"""All scores of all methods, as JSON-like numbers.

    Arguments:
        methods: Sums by method; the first is the one under test, the others are compared to it.
        channels, units: Names and units of the channels.
        scale: Divides each channel when channels are pooled; 1 where all share their units, and
            without it channels of different units are not pooled.
        level: Level of the intervals.
        block: Frames of a bootstrap block; `block_length` by default.
        replicates, seed: Of the bootstrap.

    Returns:
        `{"channels", "units", "pooled_units", "frames", "interval", "methods": {name: {"members",
        "pooled": {metric: {"value", "low", "high"}, "rank_histogram", "coverage"}, "channels":
        {channel: the same}, "frames": {"rmse", "spread", "crps", "increment_ratio"}}},
        "differences": {other: {"rmse": first minus other, "crps"}}}`.

    Raises:
        BadInput: If frames are missing from a method's sums, or methods differ in frames.
    """
    if not methods:
        raise BadInput("no method to score", "scorecard")
    same = len(set(units)) == 1
    pool = same or scale is not None
    s = np.ones(len(channels)) if scale is None or same else np.asarray(scale, np.float64)
    L = len(next(iter(methods.values())).weight)
    block = block or block_length(L)
    counts = np.concatenate([np.ones((1, L)), block_counts(L, block, replicates, seed)])
    derived = {}
    for name, sums in methods.items():
        if sums.weight.shape != (L, len(channels)) or not (sums.weight > 0).all():
            missing = np.flatnonzero(~(sums.weight > 0).all(-1))
            what = f"frame {missing[0]} was not evaluated" if len(missing) else "other frames"
            raise BadInput(what, f"method '{name}'", "Evaluate every frame before scoring.")
        derived[name] = _derive(sums, counts, s)
    tail = (1 - level) / 2

    def interval(values: np.ndarray) -> dict[str, float]:
        low, high = np.quantile(values[1:], [tail, 1 - tail])
        return {"value": float(values[0]), "low": float(low), "high": float(high)}

    card: dict[str, Any] = {
        "channels": list(channels),
        "units": list(units),
        "pooled_units": (units[0] if same else "1") if pool else None,
        "frames": L,
        "interval": {
            "level": level,
            "by": "circular moving-block bootstrap over frames",
            "block": block,
            "replicates": replicates,
            "seed": seed,
        },
        "methods": {},
        "differences": {},
    }
    first = next(iter(methods))
    for name, sums in methods.items():
        by_channel, pooled = derived[name]
        entry: dict[str, Any] = {"members": sums.members}
        if pool:
            entry["pooled"] = {m: interval(pooled[m]) for m in METRICS if m in pooled}
            entry["pooled"] |= _histogram(sums.ranks.sum((0, 1)))
        entry["channels"] = {}
        for c, channel in enumerate(channels):
            found = {m: interval(by_channel[m][:, c]) for m in METRICS if m in by_channel}
            entry["channels"][channel] = found | _histogram(sums.ranks[:, c].sum(0))
        entry["frames"] = _series(sums, s)
        card["methods"][name] = entry
        if name != first and pool:
            card["differences"][name] = {
                m: interval(derived[first][1][m] - pooled[m]) for m in ("rmse", "crps")
            }
    return card


def _derive(sums: FrameSums, counts: np.ndarray, scale: np.ndarray):
    r"""Scores of every replicate: by channel (B, C) and pooled (B)."""
    a = {n: counts @ getattr(sums, n) for n in SUMS}
    ranks = np.einsum("bl,lck->bck", counts, sums.ranks)
    by_channel = _metrics(a, ranks, sums.members)
    power = {"error": 1, "squared": 2, "variance": 2, "crps": 1, "weight": 0}
    pooled = {n: (a[n] / scale ** power[n]).sum(1) for n in SUMS}
    return by_channel, _metrics(pooled, ranks.sum(1), sums.members)


def _metrics(a: dict[str, np.ndarray], ranks: np.ndarray, M: int) -> dict[str, np.ndarray]:
    w = a["weight"]
    mse, variance = a["squared"] / w, a["variance"] / w
    found = {"rmse": np.sqrt(mse), "bias": a["error"] / w, "crps": a["crps"] / w}
    if M > 1:
        h = ranks / ranks.sum(-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            # A perfect mean has no skill to divide by: the ratio is then infinite, told as 1e9.
            ratio = np.sqrt((M + 1) / M * variance / mse)
            unbiased = np.sqrt(variance / np.maximum(mse - variance / M, 0))
        found |= {
            "spread": np.sqrt(variance),
            "spread_skill": np.nan_to_num(ratio, nan=1.0, posinf=1e9),
            "spread_skill_unbiased": np.nan_to_num(unbiased, nan=1.0, posinf=1e9),
            "rank_distance": 0.5 * np.abs(h - 1 / (M + 1)).sum(-1),
        }
    return found


def _histogram(ranks: np.ndarray) -> dict[str, Any]:
    h = ranks / ranks.sum()
    M = len(h) - 1
    coverage = [
        {"nominal": (M + 1 - 2 * k) / (M + 1), "found": float(h[k : M + 1 - k].sum())}
        for k in range(1, M // 2 + 1)
    ]
    return {"rank_histogram": h.tolist(), "coverage": coverage}


def _series(sums: FrameSums, scale: np.ndarray) -> dict[str, list[float]]:
    w = sums.weight.sum(1)
    change = (sums.true_increment / scale**2).sum(1)
    ratio = (sums.increment / scale**2).sum(1)[1:] / np.where(change[1:] > 0, change[1:], 1.0)
    return {
        "rmse": np.sqrt((sums.squared / scale**2).sum(1) / w).tolist(),
        "spread": np.sqrt((sums.variance / scale**2).sum(1) / w).tolist(),
        "crps": ((sums.crps / scale).sum(1) / w).tolist(),
        "increment_ratio": ratio.tolist(),
    }


def seam(sums: FrameSums, boundaries: Sequence[int]) -> dict[str, float]:
    r"""Whether the trajectory jumps where windows, ranks or array blocks meet.

    Arguments:
        sums: Sums of the whole trajectory.
        boundaries: Frames t such that frames t − 1 and t were made apart.

    Returns:
        Mean squared increments across the boundaries over those elsewhere, for the members and
        for the truth; and `ratio`, the first over the second: 1 where there is no seam.
    """
    at = np.zeros(len(sums.weight), bool)
    at[list(boundaries)] = True
    inside = ~at
    at[0] = inside[0] = False
    if not at.any() or not inside.any():
        raise BadInput(f"no seam among {len(at)} frames at {list(boundaries)}", "boundaries")

    def relative(increment: np.ndarray) -> float:
        return float(increment[at].mean() / increment[inside].mean())

    members, truth = relative(sums.increment), relative(sums.true_increment)
    return {"members": members, "truth": truth, "ratio": members / truth}
