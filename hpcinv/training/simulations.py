r"""Samples of a store of simulations, read out of core: parameters and what came of them.

An epoch goes through the store in groups of blocks. The order of the blocks is shuffled and so
are the rows inside a group, so that a batch draws from all over the store while only one group
and its neighbour are in memory. A store that fits is read once; the order is the same either way.
"""

from __future__ import annotations

__all__ = ["SimulationDataset"]

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from hpcinv.diffusion.noise import generator
from hpcinv.errors import BadInput
from hpcinv.io.rows import Rows
from hpcinv.training.data import Sample

BLOCK = 1 << 20  # bytes
GROUP = 32  # blocks shuffled together


class SimulationDataset:
    r"""The simulations that did not fail, of a part of a store.

    Arguments:
        rows: The store, with columns `theta`, `x` and `ok`.
        start, stop: The part of it, as shares of its length.
        memory: Bytes that may be held; a store that does not fit is read in groups of blocks.

    Raises:
        BadInput: If the store has no such columns, or every simulation failed.
    """

    def __init__(
        self, rows: Rows, start: float = 0.0, stop: float = 1.0, memory: int = 1 << 30
    ) -> None:
        for name in ("theta", "x", "ok"):
            if name not in rows.columns:
                raise BadInput(
                    f"a store without the column '{name}' holds no simulations", rows.folder,
                    "Name a job of kind: simulate.",
                )  # fmt: skip
        self.rows = rows
        first, last = round(start * len(rows)), round(stop * len(rows))
        ok = rows.read("ok", first, last).astype(bool)
        self.index = first + np.flatnonzero(ok)
        self.failed = int(len(ok) - ok.sum())
        if not len(self.index):
            raise BadInput(
                "no simulation of this part succeeded", rows.folder,
                "Look at the reasons in its index.json.",
            )  # fmt: skip
        widths = {
            n: int(np.prod(rows.columns[n][0], dtype=np.int64)) * rows.columns[n][1].itemsize
            for n in ("theta", "x")
        }
        row = sum(widths.values())
        self.block = max(16, min(BLOCK // row, last - first))
        self.first, self.last = first, last
        groups = max(2, (memory // 4) // (self.block * row))
        self._whole = row * (last - first) <= memory // 2
        self._capacity = min(2 * GROUP, groups)
        self.group = max(1, min(GROUP, self._capacity // 2))
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    def permutation(self, seed: int, epoch: int) -> np.ndarray:
        r"""The order of an epoch: groups of blocks, shuffled inside."""
        rng = generator(seed, "order", epoch)
        blocks = (self.index - self.first) // self.block
        edges = np.searchsorted(blocks, np.arange(blocks[-1] + 2))
        order = rng.permutation(len(edges) - 1)
        out = []
        for i in range(0, len(order), self.group):
            group = [np.arange(edges[b], edges[b + 1]) for b in order[i : i + self.group]]
            out.append(rng.permutation(np.concatenate(group)))
        return np.concatenate(out)

    def _block(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        if b in self._blocks:
            self._blocks.move_to_end(b)
            return self._blocks[b]
        start = self.first + b * self.block
        stop = min(start + self.block, self.last)
        found = self.rows.read("theta", start, stop), self.rows.read("x", start, stop)
        self._blocks[b] = found
        if not self._whole and len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return found

    def take(self, numbers: Sequence[int] | np.ndarray) -> Sample:
        r"""Samples by number: `theta` (B, P), `x` (B, *S) and `id`, their rows in the store."""
        ids = self.index[np.asarray(numbers, np.int64)]
        place = ids - self.first
        blocks = place // self.block
        theta = x = None
        for b in np.unique(blocks):
            at = blocks == b
            a, c = self._block(int(b))
            inside = place[at] - int(b) * self.block
            if theta is None:
                theta = np.empty((len(ids), *a.shape[1:]), a.dtype)
                x = np.empty((len(ids), *c.shape[1:]), c.dtype)
            theta[at], x[at] = a[inside], c[inside]
        return {"theta": theta, "x": x, "id": ids}

    def sample(self, epoch: int, number: int) -> Sample:
        r"""One sample; the same in every epoch."""
        return {k: v[0] for k, v in self.take([number]).items()}
