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
  nominally :math:`(M + 1 - 2 k) / (M + 1)`; a sum of the rank histogram, hence exact;
* energy: the fair energy score of each frame's field (`hpcinv.evaluation.energy`), averaged;
* flatness: a test of the rank histogram (`hpcinv.evaluation.flatness`);
* reliability: of the probability of an event (`hpcinv.evaluation.reliability`);
* spectrum: power of truth, members and mean by scale (`hpcinv.evaluation.spectra`);
* checks: root mean squares of physical quantities (`hpcinv.evaluation.physics`);
* seam: whether increments jump where windows meet (`seam`).
"""

from __future__ import annotations

__all__ = ["scorecard", "seam"]

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput
from .bootstrap import block_counts, block_length
from .flatness import flatness
from .reliability import reliability
from .sums import FrameSums

METRICS = (
    "rmse",
    "bias",
    "crps",
    "energy",
    "spread",
    "spread_skill",
    "spread_skill_unbiased",
    "rank_distance",
)
SUMS = ("weight", "error", "squared", "variance", "crps", "energy")


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
    spectrum: Any = None,
    checks: Any = None,
    boundaries: Mapping[str, Sequence[int]] | None = None,
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
        spectrum, checks: With which the sums were made, if any.
        boundaries: Frames t of methods such that frames t − 1 and t come from different windows.

    Returns:
        `{"channels", "units", "pooled_units", "frames", "interval", "methods": {name: {"members",
        "pooled": {metric: {"value", "low", "high"}, "rank_histogram", "coverage", "flatness",
        "reliability"}, "channels": {channel: the same}, "frames": {"rmse", "spread", "crps",
        "increment_ratio"}, "spectrum", "checks", "seam"}},
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
            entry["pooled"] |= _histogram(sums.ranks.sum(1))
            entry["pooled"] |= _events(
                sums.events.sum((0, 1)), sums.hits.sum((0, 1)), sums.members
            )
        entry["channels"] = {}
        for c, channel in enumerate(channels):
            found = {m: interval(by_channel[m][:, c]) for m in METRICS if m in by_channel}
            entry["channels"][channel] = found | _histogram(sums.ranks[:, c])
            entry["channels"][channel] |= _events(
                sums.events[:, c].sum(0), sums.hits[:, c].sum(0), sums.members
            )
        entry["frames"] = _series(sums, s)
        if spectrum is not None:
            entry["spectrum"] = _spectrum(sums.power / L, spectrum, channels)
        if checks is not None:
            entry["checks"] = _checks(sums.checks / L, checks)
        if boundaries is not None and len(boundaries.get(name, ())):
            entry["seam"] = seam(sums, boundaries[name], level)
        card["methods"][name] = entry
        if name != first and pool:
            card["differences"][name] = {
                m: interval(derived[first][1][m] - pooled[m]) for m in ("rmse", "crps")
            }
    return card


def _derive(sums: FrameSums, counts: np.ndarray, scale: np.ndarray):
    r"""Scores of every replicate: by channel (B, C) and pooled (B)."""
    a = {n: counts @ getattr(sums, n) for n in SUMS}
    by_channel = _metrics(a, sums.members)
    power = {"error": 1, "squared": 2, "variance": 2, "crps": 1, "energy": 1, "weight": 0}
    pooled = {n: (a[n] / scale ** power[n]).sum(1) for n in SUMS}
    together = _metrics(pooled, sums.members)
    if sums.members > 1:
        each = [_distance(counts @ sums.ranks[:, c]) for c in range(sums.ranks.shape[1])]
        by_channel["rank_distance"] = np.stack(each, 1)
        together["rank_distance"] = _distance(counts @ sums.ranks.sum(1))
    return by_channel, together


def _distance(ranks: np.ndarray) -> np.ndarray:
    r"""Distance from a flat one of the histograms of replicates (B, K): (B)."""
    h = ranks / ranks.sum(-1, keepdims=True)
    return 0.5 * np.abs(h - 1 / h.shape[-1]).sum(-1)


def _metrics(a: dict[str, np.ndarray], M: int) -> dict[str, np.ndarray]:
    w = a["weight"]
    mse, variance = a["squared"] / w, a["variance"] / w
    found = {"rmse": np.sqrt(mse), "bias": a["error"] / w}
    found |= {"crps": a["crps"] / w, "energy": a["energy"] / w}
    if M > 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            # A perfect mean has no skill to divide by: the ratio is then infinite, told as 1e9.
            ratio = np.sqrt((M + 1) / M * variance / mse)
            unbiased = np.sqrt(variance / np.maximum(mse - variance / M, 0))
        found |= {
            "spread": np.sqrt(variance),
            "spread_skill": np.nan_to_num(ratio, nan=1.0, posinf=1e9),
            "spread_skill_unbiased": np.nan_to_num(unbiased, nan=1.0, posinf=1e9),
        }
    return found


def _histogram(ranks: np.ndarray) -> dict[str, Any]:
    r"""What ranks (L, M + 1) say."""
    h = ranks.sum(0) / ranks.sum()
    M = len(h) - 1
    coverage = [
        {"nominal": (M + 1 - 2 * k) / (M + 1), "found": float(h[k : M + 1 - k].sum())}
        for k in range(1, M // 2 + 1)
    ]
    told = {"rank_histogram": h.tolist(), "coverage": coverage}
    test = flatness(ranks)
    return told if test is None else told | {"flatness": test}


def _events(events: np.ndarray, hits: np.ndarray, members: int) -> dict[str, Any]:
    return {"reliability": reliability(events, hits, members)} if events.any() else {}


def _spectrum(power: np.ndarray, spectrum: Any, channels: Sequence[str]) -> dict[str, Any]:
    r"""Mean power by wave, and how much of the truth's the members have in three ranges."""
    of = {}
    waves = spectrum.waves
    edges = np.unique(np.geomspace(1, len(waves), 4).round().astype(int))
    for c, channel in enumerate(channels):
        truth, members, mean = power[:, c]
        ratio = [
            float(members[a:b].sum() / truth[a:b].sum()) if truth[a:b].sum() > 0 else None
            for a, b in itertools.pairwise(edges)
        ]
        of[channel] = {
            "truth": truth.tolist(), "members": members.tolist(), "mean": mean.tolist(),
            "members_over_truth": ratio,
        }  # fmt: skip
    ranges = [[int(waves[a]), int(waves[b - 1])] for a, b in itertools.pairwise(edges)]
    return {"by": spectrum.name, "waves": waves.tolist(), "ranges": ranges, "channels": of}


def _checks(squares: np.ndarray, checks: Any) -> dict[str, Any]:
    truth, members = np.sqrt(squares)
    return {
        name: {
            "units": unit,
            "truth": float(truth[k]),
            "members": float(members[k]),
            "ratio": float(members[k] / truth[k]) if truth[k] > 0 else None,
        }
        for k, (name, unit) in enumerate(zip(checks.names, checks.units, strict=True))
    }


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


def seam(sums: FrameSums, boundaries: Sequence[int], level: float = 0.95) -> dict[str, Any]:
    r"""Whether the trajectory jumps where windows, ranks or array blocks meet.

    Arguments:
        sums: Sums of the whole trajectory.
        boundaries: Frames t such that frames t − 1 and t were made apart.
        level: Of the interval, from the scatter over frames of the logarithm of the members'
            increment over the truth's; boundaries are few, hence Student's t.

    Returns:
        Mean squared increments across the boundaries over those elsewhere, for the members and
        for the truth; and `ratio`, the first over the second: 1 where there is no seam, with
        `low` and `high`.
    """
    from scipy.stats import t as student

    at = np.zeros(len(sums.weight), bool)
    at[list(boundaries)] = True
    inside = ~at
    at[0] = inside[0] = False
    if not at.any() or not inside.any():
        raise BadInput(f"no seam among {len(at)} frames at {list(boundaries)}", "boundaries")

    def relative(increment: np.ndarray) -> float:
        return float(increment[at].mean() / increment[inside].mean())

    members, truth = relative(sums.increment), relative(sums.true_increment)
    tiny = np.finfo(float).tiny
    q = np.log(sums.increment.sum(1) + tiny) - np.log(sums.true_increment.sum(1) + tiny)
    parts = q[at], q[inside]
    free = len(parts[0]) + len(parts[1]) - 2
    half = np.inf
    if free > 0:
        spread = sum(((x - x.mean()) ** 2).sum() for x in parts) / free
        half = student.ppf((1 + level) / 2, free) * np.sqrt(
            spread * sum(1 / len(x) for x in parts)
        )
    ratio = members / truth
    return {
        "members": members,
        "truth": truth,
        "ratio": ratio,
        "low": float(ratio * np.exp(-half)),
        "high": float(min(ratio * np.exp(half), 1e9)),
        "boundaries": [int(b) for b in boundaries],
    }
