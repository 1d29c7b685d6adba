r"""How sure the scores of events are: a circular block bootstrap over frames.

Frames are drawn again in blocks that follow each other, round the period's end (Politis & Romano
1992), so that what lasts a few frames stays together; places are no sample and stay as they are.
Scores of several analyses come from the same draws. What another truth would have given, with
other storms and rivers, is not in these intervals.
"""

from __future__ import annotations

__all__ = ["intervals", "resampled"]

import numpy as np

from ..diffusion.noise import generator


def resampled(frames: int, block: int, draws: int, seed: int) -> np.ndarray:
    r"""How often each frame is in each draw, with shape :math:`(draws, frames)`.

    Arguments:
        frames: Their number :math:`L`; a draw has as many.
        block: Frames that stay together.
        draws: Draws.
        seed: Of the draws.
    """
    rng = generator(seed, "bootstrap")
    number = -(-frames // block)
    starts = rng.integers(0, frames, (draws, number))
    at = (starts[..., None] + np.arange(block)).reshape(draws, -1)[:, :frames] % frames
    return np.stack([np.bincount(a, minlength=frames) for a in at])


def intervals(
    analyses: dict[str, np.ndarray],
    truth: np.ndarray,
    threshold: float,
    weights: np.ndarray,
    reference: str,
    *,
    block: int = 3,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> dict[str, dict[str, tuple[float, float]]]:
    r"""Intervals of the scores of :func:`hpcinv.evaluation.events.events`.

    Arguments:
        analyses: Members by name, with shape :math:`(M, L, *grid)`.
        truth: With shape :math:`(L, *grid)`.
        threshold: An event is below it.
        weights: With the grid's shape, zero where nothing is asked.
        reference: The analysis over which the Brier skill is told.
        block: Frames that stay together in a draw.
        draws: Draws of the period.
        level: Probability of the (equal-tailed) intervals.
        seed: Of the draws.

    Returns:
        By analysis and score (`base`, `detection`, `precision`, `brier`, `skill`) the interval;
        draws in which a score does not exist (no event, none told) are left out of it.
    """
    L = len(truth)
    at = np.flatnonzero(np.ravel(weights) > 0)
    w = np.ravel(weights).astype(np.float64)[at]
    often = resampled(L, block, draws, seed).astype(np.float64)
    o = truth.reshape(L, -1)[:, at] < threshold
    total = lambda a: often @ (a @ w)  # noqa: E731
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, members in analyses.items():
        x = members.reshape(*members.shape[:2], -1)[..., at] < threshold
        M, p = len(x), x.mean(0)
        told = p >= 0.5
        excess = p * (1 - p) / (M - 1) if M > 1 else np.zeros_like(p)
        hits, events, all_told = total(told & o), total(o), total(told)
        ratio = lambda a, b: np.divide(a, b, out=np.full(draws, np.nan), where=b > 0)  # noqa: E731
        found[name] = {
            "base": events / (w.sum() * L),
            "detection": ratio(hits, events),
            "precision": ratio(hits, all_told),
            "brier": total((p - o) ** 2 - excess) / (w.sum() * L),
        }
    out = {}
    tails = [50 * (1 - level), 50 * (1 + level)]
    for name, scores in found.items():
        other = found[reference]["brier"]
        scores["skill"] = 1 - np.divide(
            scores["brier"], other, out=np.full(draws, np.nan), where=other > 0
        )
        out[name] = {
            s: tuple(np.nanpercentile(v, tails)) if np.isfinite(v).any() else (np.nan, np.nan)
            for s, v in scores.items()
        }
    return out
