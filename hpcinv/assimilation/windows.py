r"""How a trajectory of L frames is covered by windows of W frames that overlap.

The rule: windows start every W − V frames. If the last one would pass the end, it is shifted back
to end there, so that its overlap with the one before is larger than V. If W ≥ L there is one
window, of L frames.
"""

from __future__ import annotations

import itertools

from ..errors import BadInput

__all__ = ["cover", "middles"]


def cover(length: int, window: int, overlap: int) -> list[tuple[int, int]]:
    r"""Half-open ranges (start, stop) of the windows that cover ``length`` frames.

    Raises:
        BadInput: If a size is not positive, or the overlap leaves windows that share no frame or
            do not advance.
    """

    if length < 1:
        raise BadInput(
            f"a trajectory of {length} frames", where="length", instead="Use 1 or more."
        )
    if window < 1:
        raise BadInput(f"a window of {window} frames", where="window", instead="Use 1 or more.")
    if window >= length:
        return [(0, length)]
    if overlap < 0 or overlap >= window:
        raise BadInput(
            f"an overlap of {overlap} frames between windows of {window}",
            where="overlap",
            instead=f"Use 1 to {window - 1}.",
        )
    if overlap == 0:
        raise BadInput(
            "windows that share no frame know nothing of each other",
            where="overlap",
            instead=f"Use 1 to {window - 1}, or a window of all {length} frames.",
        )

    starts = list(range(0, length - window + 1, window - overlap))
    if starts[-1] + window < length:
        starts.append(length - window)

    return [(a, a + window) for a in starts]


def middles(windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    r"""The frames each window keeps under `center`: they meet in the middle of each overlap."""

    meet = [b + (stop - b) // 2 for (_, stop), (b, _) in itertools.pairwise(windows)]
    cuts = [windows[0][0], *meet, windows[-1][1]]

    return list(itertools.pairwise(cuts))
