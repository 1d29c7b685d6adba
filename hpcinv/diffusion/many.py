r"""Keyed noise for many rows at once: the batch's counterpart of :mod:`hpcinv.diffusion.noise`.

A training step draws noise for hundreds of small samples, each named by itself so that neither
batches nor ranks matter. A generator object for each would cost more than the step. Here all
rows go through Philox 4x32-10 (Salmon et al. 2011) together: a digest of (seed, purpose) is the
key, and a row's ids with the position in the row are the counter.
"""

from __future__ import annotations

__all__ = ["bits", "normals", "uniforms"]

import hashlib
import struct
from collections.abc import Sequence

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int], rounds: int = 10) -> np.ndarray:
    r"""Philox 4x32: counters of shape (4, N), 32-bit words in uint64, to as many words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        a, b = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            (b >> _32) ^ c1 ^ np.uint64(k0),
            b & _LOW,
            (a >> _32) ^ c3 ^ np.uint64(k1),
            a & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def bits(count: int, *, seed: int, purpose: str, ids: Sequence[np.ndarray]) -> np.ndarray:
    r"""32-bit words named (seed, purpose, ids of the row, place).

    Arguments:
        count: Words of a row.
        seed: The study's seed.
        purpose: What they are for.
        ids: One or two arrays of N integers that name the rows: 64 bits for the first, 32 for
            the second.

    Returns:
        Words as uint64, with shape (N, count).
    """
    name = purpose.encode()
    message = struct.pack("<qq", int(seed), len(name)) + name
    key = struct.unpack("<II", hashlib.blake2b(message, digest_size=8).digest())
    first = np.asarray(ids[0], np.uint64)
    second = np.asarray(ids[1], np.uint64) if len(ids) > 1 else np.zeros_like(first)
    blocks = -(-count // 4)
    n = len(first)
    counter = np.empty((4, n, blocks), np.uint64)
    counter[0] = np.arange(blocks, dtype=np.uint64)
    counter[1] = (first & _LOW)[:, None]
    counter[2] = (first >> _32)[:, None]
    counter[3] = (second & _LOW)[:, None]
    words = philox(counter.reshape(4, -1), key).reshape(4, n, blocks)
    return words.transpose(1, 2, 0).reshape(n, blocks * 4)[:, :count]


def uniforms(shape: Sequence[int], **names) -> np.ndarray:
    r"""Numbers uniform in (0, 1), a row of `shape` for each id: float64, shape (N, *shape).

    Their resolution is :math:`2^{-32}`, and neither end is reached.
    """
    count = int(np.prod(shape, dtype=np.int64))
    words = bits(count, **names)
    return ((words + 0.5) * 2.0**-32).reshape(len(words), *shape)


def normals(shape: Sequence[int], **names) -> np.ndarray:
    r"""Standard normal numbers (Box-Muller), a row of `shape` for each id: float64.

    The first of the two uniforms has 64 bits, so that the tails go to 9.
    """
    count = int(np.prod(shape, dtype=np.int64))
    pairs = -(-count // 2)
    words = bits(3 * pairs, **names).reshape(-1, pairs, 3)
    u = (words[..., 0] * 2.0**32 + words[..., 1] + 0.5) * 2.0**-64
    radius = np.sqrt(-2 * np.log(u))
    angle = (2 * np.pi * 2.0**-32) * words[..., 2]
    found = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return found.reshape(len(words), 2 * pairs)[:, :count].reshape(len(words), *shape)
