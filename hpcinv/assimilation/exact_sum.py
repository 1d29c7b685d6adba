r"""Sums that do not depend on the order of their terms, nor on which rank holds them.

A double is an integer times a power of two. Of every row the integers are added in 32-bit limbs
that span all exponents, which 64-bit integers do exactly up to 2^29 terms; limbs of ranks add
exactly, too. What is exchanged has one size, however many terms there are. (A superaccumulator:
Kulisch's; Collange, Defour, Graillat, Iakymchuk 2015, doi:10.1016/j.parco.2015.09.001.)
"""

from __future__ import annotations

__all__ = ["LIMBS", "limbs", "value"]

import numpy as np

# frexp's exponents go from -1073 to 1024; of bits below the point, 53 more. One limb past the
# largest for carries, and one that counts terms that are not finite.
POINT = 36 * 32  # the bit that is worth one
LIMBS = (POINT + 1024) // 32 + 3
CHUNK = 22  # bits of the integer that are shifted at once: 22 + 31 fit


def limbs(x: np.ndarray) -> np.ndarray:
    r"""The exact sum of each row.

    Arguments:
        x: Doubles, with shape :math:`(B, n)`; n may be 0.

    Returns:
        Integers with shape :math:`(B, LIMBS)`, to be added to those of other ranks.
    """
    out = np.zeros((len(x), LIMBS), np.int64)
    finite = np.isfinite(x)
    out[:, -1] = (~finite).sum(1)
    mantissa, exponent = np.frexp(np.where(finite, x, 0.0))
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    sign, whole = np.sign(whole), np.abs(whole)
    row = np.broadcast_to(np.arange(len(x))[:, None], x.shape)
    for k in range(0, 53, CHUNK):
        place = exponent - 53 + POINT + k
        limb, shift = place // 32, place % 32
        part = ((whole >> k) & ((1 << CHUNK) - 1)) << shift
        np.add.at(out, (row, limb), sign * (part & 0xFFFFFFFF))
        np.add.at(out, (row, limb + 1), sign * (part >> 32))
    return out


def value(sums: np.ndarray) -> np.ndarray:
    r"""What limbs are worth, rounded once; NaN where a term was not finite.

    Arguments:
        sums: Limbs, with shape :math:`(B, LIMBS)`.

    Returns:
        Doubles with shape :math:`(B)`.
    """
    out = np.full(len(sums), np.nan)
    for b, row in enumerate(sums):
        if row[-1] == 0:
            total = sum(int(row[k]) << (32 * int(k)) for k in np.flatnonzero(row))
            try:
                out[b] = total / (1 << POINT)
            except OverflowError:
                out[b] = np.inf if total > 0 else -np.inf
    return out
