r"""An ensemble beside the truth, read so that memory does not grow with the members.

A small ensemble is held, two frames of it, as each member's frame is read once then. Of a large
one a block of cells of all members is read at a time (its members' fields, where a field is asked
for whole), and read again by whoever asks again.
"""

from __future__ import annotations

__all__ = ["BATCH", "HELD", "Frames"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput

BATCH = 1 << 21  # numbers of a block
HELD = 1 << 23  # most numbers of all members in a frame, for them to be held


class Frames:
    r"""Ensemble and truth, frame by frame.

    Arguments:
        ensemble: Reader with `.read(member, start, stop)` -> :math:`(n, C, *grid)`, physical; and,
            of an ensemble too large to be held, `.cells(member, frame, channel, start, stop)`.
        truth: Reader with `.read(start, stop)`; a trajectory store.
        members: Ids of the members.
        truth_start: Frame of the truth beside frame 0 of the ensemble.
        valid: The cells that are looked at, ascending.
    """

    def __init__(
        self, ensemble: Any, truth: Any, members: Sequence[int], truth_start: int,
        valid: np.ndarray,
    ) -> None:  # fmt: skip
        self.ensemble, self.truth, self.members = ensemble, truth, list(members)
        self.truth_start, self.valid, self.channels = truth_start, valid, truth.channels
        self.held = len(self.members) * len(self.channels) * len(valid) <= HELD
        self._kept: dict[int, np.ndarray] = {}
        self._truths: dict[int, np.ndarray] = {}

    def true(self, t: int) -> np.ndarray:
        r"""The truth's frame, with shape :math:`(C, n)`, float32."""
        if t not in self._truths:
            at = self.truth_start + t
            y = self.truth.read(at, at + 1)[0].reshape(len(self.channels), -1)[:, self.valid]
            good = np.isfinite(y).all(1)
            if not good.all():
                c = self.channels[int(np.argmin(good))]
                raise BadInput(
                    f"'{c}' of the truth is not finite inside the mask", f"truth frame {at}"
                )
            self._truths = {k: v for k, v in self._truths.items() if abs(k - t) == 1}
            self._truths[t] = y.astype(np.float32)
        return self._truths[t]

    def blocks(self, ranges: int, most: int) -> Iterator[slice]:
        r"""Slices of the cells, such that of so many times `most` members few numbers are read."""
        n = len(self.valid)
        size = max(1, BATCH // (ranges * min(most, len(self.members))))
        for a in range(0, n, size):
            yield slice(a, min(a + size, n))

    def cells(self, t: int, c: int, some: range, at: slice) -> np.ndarray:
        r"""Members of a range at a slice of the cells, with shape :math:`(m, n)`, float32.

        Raises:
            BadInput: Naming member, frame and channel where something is not finite.
        """
        if self.held:
            return self._frame(t)[some.start : some.stop, c, at]
        where = self.valid[at]
        a, b = int(where[0]), int(where[-1]) + 1
        x = np.empty((len(some), len(where)), np.float32)
        for k, m in enumerate(some):
            x[k] = self.ensemble.cells(self.members[m], t, c, a, b)[where - a]
        self._check(x, some, t, c)
        return x

    def field(self, t: int, m: int) -> np.ndarray:
        r"""A member's frame, with shape :math:`(C, n)`, float32."""
        if self.held:
            return self._frame(t)[m]
        x = self.ensemble.read(self.members[m], t, t + 1)[0]
        x = x.reshape(len(self.channels), -1)[:, self.valid].astype(np.float32)
        for c, row in enumerate(x):
            self._check(row[None], range(m, m + 1), t, c)
        return x

    def _frame(self, t: int) -> np.ndarray:
        if t not in self._kept:
            C = len(self.channels)
            x = np.empty((len(self.members), C, len(self.valid)), np.float32)
            for k, m in enumerate(self.members):
                x[k] = self.ensemble.read(m, t, t + 1)[0].reshape(C, -1)[:, self.valid]
            for c in range(C):
                self._check(x[:, c], range(len(x)), t, c)
            self._kept = {k: v for k, v in self._kept.items() if abs(k - t) == 1}
            self._kept[t] = x
        return self._kept[t]

    def _check(self, x: np.ndarray, some: range, t: int, c: int) -> None:
        if not np.isfinite(x).all():
            m = some[int(np.argmin(np.isfinite(x).all(1)))]
            raise BadInput(
                f"'{self.channels[c]}' is not finite",
                f"member {self.members[m]}, frame {t}",
                "Run the job that makes this analysis again.",
            )
