r"""Confidence intervals of scores of a time series: moving blocks of frames.

Blocks of consecutive frames are drawn with replacement, on a circle so that every frame is
equally likely (Politis & Romano 1992), and the score is computed from the drawn frames' sums.
Neighbouring months resemble each other; blocks keep that, single frames would not. All
methods are scored on the same draws, so that differences between them are paired.
"""

from __future__ import annotations

__all__ = ["block_counts", "block_length"]

import numpy as np


def block_length(frames: int) -> int:
    r"""The usual rate, :math:`L^{1/3}` rounded: 3 of 24 months."""
    return max(1, round(frames ** (1 / 3)))


def block_counts(frames: int, block: int, replicates: int, seed: int) -> np.ndarray:
    r"""How often each frame is drawn in each replicate.

    Arguments:
        frames: Frames of the series, :math:`L`.
        block: Frames of a block.
        replicates: Replicates :math:`B`.
        seed: Key of the draws.

    Returns:
        Counts with shape :math:`(B, L)`; each row sums to L.
    """
    from ..diffusion.noise import generator

    rng = generator(seed, "block bootstrap", frames, block)
    blocks = -(-frames // block)
    starts = rng.integers(0, frames, (replicates, blocks))
    index = (starts[..., None] + np.arange(block)) % frames
    index = index.reshape(replicates, -1)[:, :frames]  # the last block is cut to fit
    counts = np.zeros((replicates, frames))
    np.add.at(counts, (np.arange(replicates)[:, None], index), 1.0)
    return counts
