r"""Scores of forecasts by lead time, beside the last known frame, kept."""

from __future__ import annotations

__all__ = ["lead_times"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from .sums import FrameSums


def lead_times(
    methods: Mapping[str, FrameSums],
    truth: Any,
    start: int,
    lead: int,
    scale: np.ndarray | None = None,
) -> dict[str, Any]:
    r"""Fair CRPS, VRMSE and spread over skill of the last frames, all channels together.

    VRMSE is the rms error of the members' mean over the truth's own deviation over the grid (The
    Well, Ohana et al. 2024): one is no better than the frame's mean. What is kept is one member,
    whose CRPS is its absolute error. Spread over skill is that of :mod:`hpcinv.evaluation.scores`,
    of methods with two members or more. One frame of the truth is held at a time.

    Arguments:
        methods: Sums by method, of L frames.
        truth: Store with the truth.
        start: Its frame beside frame 0.
        lead: Frames forecast, the last of the L.
        scale: Divides each channel; 1 without it.

    Returns:
        ``{"lead", "methods": {name: {"crps", "vrmse", "spread_skill"}}, "kept": {"crps",
        "vrmse"}}``, lists of `lead` numbers.
    """
    C = len(truth.channels)
    s = np.ones((C, 1)) if scale is None else np.asarray(scale, np.float64)[:, None]
    w = np.asarray(truth.weights(), np.float64).reshape(-1)
    L = len(next(iter(methods.values())).weight)

    def frame(t: int) -> np.ndarray:
        x = truth.read(start + t, start + t + 1)[0].reshape(C, -1) / s
        return np.where(w > 0, x, 0.0)  # what is not valid may be anything

    mean = lambda x: float((x * w).sum() / (C * w.sum()))  # noqa: E731
    last = frame(L - lead - 1)
    deviation, kept = [], {"crps": [], "vrmse": []}
    for t in range(L - lead, L):
        y = frame(t)
        centre = (y * w).sum(1, keepdims=True) / w.sum()
        deviation.append(max(np.sqrt(mean(np.square(y - centre))), 1e-30))
        kept["crps"].append(mean(np.abs(y - last)))
        kept["vrmse"].append(float(np.sqrt(mean(np.square(y - last))) / deviation[-1]))
    found = {}
    for name, sums in methods.items():
        weight = sums.weight[-lead:].sum(1)
        squared = (sums.squared[-lead:] / s[:, 0] ** 2).sum(1) / weight
        found[name] = {
            "crps": ((sums.crps[-lead:] / s[:, 0]).sum(1) / weight).tolist(),
            "vrmse": (np.sqrt(squared) / deviation).tolist(),
        }
        if sums.members > 1:
            spread = (sums.variance[-lead:] / s[:, 0] ** 2).sum(1) / weight
            spread *= (sums.members + 1) / sums.members
            found[name]["spread_skill"] = np.sqrt(spread / np.maximum(squared, 1e-30)).tolist()
    return {"lead": lead, "methods": found, "kept": kept}
