r"""Keyed noise: every random number is a function of names (seed, purpose, member, frame, step).

A counter-based generator (Philox 4x64, Salmon et al. 2011, *Parallel random numbers: as easy as
1, 2, 3*) is keyed by a digest of the names. No state is carried from one draw to the next, so a
result does not depend on the number of ranks, on the order of the draws, on which task of an array
made them, or on restarts. Numbers are drawn in double precision and rounded, so that a run in
another precision sees the same noise.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # jobs that need generators only are spared torch: seconds each
    import torch
    from torch import Tensor

__all__ = ["frames", "generator", "normal", "uniform"]


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    r"""A numpy generator that is a function of its names alone.

    Arguments:
        seed: The study's seed.
        purpose: What the numbers are for; two purposes never share numbers.
        ids: Any integers that name the draw (member, frame, step; epoch, sample; ...).

    Returns:
        A fresh Philox generator: two calls with the same names give the same numbers.
    """

    return np.random.Generator(np.random.Philox(key=_key(seed, purpose, ids)))


def _key(seed: int, purpose: str, ids: Sequence[int]) -> np.ndarray:
    # Lengths are part of the message: ("a", 1, 2) and ("a1", 2) must not collide.
    name = purpose.encode()
    words = (int(seed), *(int(i) for i in ids))
    message = struct.pack(f"<{len(words) + 1}q", len(name), *words) + name

    return np.frombuffer(hashlib.blake2b(message, digest_size=16).digest(), dtype=np.uint64)


class _Keyed:
    r"""One generator, set to the start of a named stream again and again.

    A fresh `Philox` asks the system for entropy that its key then replaces: 50 µs each time.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._fresh = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def __call__(self, seed: int, purpose: str, *ids: int) -> np.random.Generator:
        state = self._fresh["state"]
        self._bits.state = {
            **self._fresh,
            "state": {"counter": state["counter"], "key": _key(seed, purpose, ids)},
        }
        return self._generator


def normal(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: str,
    member: int = 0,
    frame: int = 0,
    step: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draws standard normal numbers named (seed, purpose, member, frame, step).

    Returns:
        A CPU tensor with shape ``shape``; single precision by default.
    """

    import torch

    rng = generator(seed, purpose, member, frame, step)

    return torch.from_numpy(rng.standard_normal(tuple(shape))).to(dtype or torch.float32)


def uniform(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: str,
    member: int = 0,
    frame: int = 0,
    step: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draws numbers uniform in [0, 1), named (seed, purpose, member, frame, step).

    Returns:
        A CPU tensor with shape ``shape``; single precision by default.
    """

    import torch

    rng = generator(seed, purpose, member, frame, step)

    return torch.from_numpy(rng.random(tuple(shape))).to(dtype or torch.float32)


def frames(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: str,
    member: int,
    frames: Sequence[int],
    step: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draws standard normal states for several frames of one member.

    Row ``i`` equals ``normal(shape, ..., frame=frames[i])``.

    Returns:
        A CPU tensor with shape ``(len(frames), *shape)``; single precision by default.
    """

    import torch

    out = torch.empty((len(frames), *shape), dtype=dtype or torch.float32)
    named = _Keyed()  # its own: threads may draw at the same time

    for row, frame in zip(out, frames, strict=True):
        rng = named(seed, purpose, member, frame, step)
        row.copy_(torch.from_numpy(rng.standard_normal(tuple(shape))))

    return out
