r"""The file of one member while it is being written: shared by its ranks, or a part per rank."""

from __future__ import annotations

__all__ = ["PartFile", "SharedFile"]

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..waiting import at as waiting
from .atomic import start_writing, sync
from .cf import LIBVER, Layout, create_file, define_variable

# Bytes of one channel in one MPI-IO call. Small enough for the buffers below it to be reused:
# memory touched for the first time costs more than a disk. Implementations fail beyond 2 GiB.
PIECE = 16 << 20
LARGE = 1 << 20  # bytes, a stripe: larger writes gain nothing from being collected with others


class SharedFile:
    r"""One file, opened by all ranks of `comm` together (or by one process if that is None).

    The first rank makes the file and allocates its variables with the serial driver; then all
    open it. Making it is collective, as are `write_rounds` and `close`. A process alone keeps
    nothing open between writes: it may hold more members than it may open files.
    """

    def __init__(self, path: Path, layout: Layout, member: int, comm: Any) -> None:
        import h5py

        self.path, self.layout, self.comm = path, layout, comm
        self._buffer = np.empty(0, "<f4")
        error = None
        if comm is None or comm.rank == 0:
            try:
                create_file(path, layout, None, unlimited=True, realization=np.int32(member))
                with h5py.File(path, "r+", libver=LIBVER) as f:
                    for c in range(len(layout.channels)):
                        define_variable(f, layout, c)
            except Exception as e:
                error = e
        self.file = None
        if comm is not None:
            with waiting(f"the making of {path.name}"):
                error = comm.bcast(error)
        if error is not None:
            raise error
        if comm is not None:
            with waiting(f"the opening of {path.name}"):
                self.file = h5py.File(path, "r+", driver="mpio", comm=comm)
            self._fd = os.open(path, os.O_RDONLY)  # MPI-IO shows none of its own

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import h5py

        if self.file is not None:
            yield self.file
        else:
            with h5py.File(self.path, "r+") as f:
                yield f

    def _transfer(
        self, f: Any, channel: int, start: int, x: np.ndarray | None, collective: bool
    ) -> None:
        import h5py

        dataset = f[self.layout.channels[channel]].id
        plist = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        if self.comm is not None:
            plist.set_dxpl_mpio(
                h5py.h5fd.MPIO_COLLECTIVE if collective else h5py.h5fd.MPIO_INDEPENDENT
            )
        space = dataset.get_space()
        if x is None:  # take part, write nothing
            space.select_none()
            memory = h5py.h5s.create_simple((1,))
            memory.select_none()
            x = np.zeros(1, "<f4")
        else:
            space.select_hyperslab((start, *[0] * len(self.layout.grid)), x.shape)
            memory = h5py.h5s.create_simple(x.shape)
        dataset.write(memory, space, x, dxpl=plist)

    def _dense(self, x: np.ndarray) -> np.ndarray:
        r"""The values in C order, in a buffer that the next call uses again."""
        if x.flags.c_contiguous:
            return x
        if self._buffer.size < x.size:
            self._buffer = np.empty(x.size, "<f4")
        dense = self._buffer[: x.size].reshape(x.shape)
        np.copyto(dense, x)
        return dense

    def write(self, start: int, block: np.ndarray, collective: bool = False) -> None:
        r"""Writes a block (n, C, *grid) from frame `start` on, without waiting for anyone."""
        with self._opened() as f:
            for at, piece in _cut(start, block):
                for c in range(piece.shape[1]):
                    self._transfer(f, c, at, self._dense(piece[:, c]), collective)
            self._start_writing(f)

    def write_rounds(self, blocks: Sequence[tuple[int, np.ndarray]]) -> None:
        r"""Writes every rank's blocks: together, one of each rank at a time, unless all are large.

        Together, a few ranks collect the pieces of all and write them: right for many small ones,
        several times slower than each rank for itself where every piece is whole stripes.
        """
        mine = [piece for start, block in blocks for piece in _cut(start, block)]
        rounds, together = len(mine), False
        if self.comm is not None:
            small = any(piece[:, :1].nbytes < LARGE for _, piece in mine)
            with waiting(f"the write of {self.path.name}"):
                told = self.comm.allgather((rounds, small))
            rounds, together = max(n for n, _ in told), any(s for _, s in told)
        if rounds == 0:
            return
        if not together:
            for at, piece in mine:
                self.write(at, piece)
            return
        with waiting(f"the collective write of {self.path.name}"), self._opened() as f:
            for k in range(rounds):
                for c in range(len(self.layout.channels)):
                    if k < len(mine):
                        at, piece = mine[k]
                        self._transfer(f, c, at, self._dense(piece[:, c]), True)
                    else:
                        self._transfer(f, c, 0, None, True)
            self._start_writing(f)

    def _start_writing(self, f: Any) -> None:
        start_writing(f.id.get_vfd_handle() if self.file is None else self._fd)

    def close(self) -> list[Any]:
        r"""Everything is on disk afterwards."""
        if self.file is not None:
            with waiting(f"closing {self.path.name}"):
                self.file.flush()
                self.file.close()
            os.close(self._fd)
        if self.comm is None or self.comm.rank == 0:
            sync(self.path)
        return []


class PartFile:
    r"""The part of one rank, for h5py without MPI or compressed: its blocks, one by one."""

    def __init__(self, folder: Path, layout: Layout, rank: int) -> None:
        import h5py

        self.layout, self.extents = layout, []
        folder.mkdir(exist_ok=True)
        self.path = folder / f"{rank:05d}.h5"
        grow: dict[str, Any] = {"maxshape": (None, *layout.grid), "chunks": layout.chunk}
        if layout.compression:
            grow |= {"compression": layout.compression, "shuffle": True}
        with h5py.File(self.path, "w", libver=LIBVER) as f:
            for name in layout.channels:
                f.create_dataset(name, (0, *layout.grid), "<f4", **grow)

    def write(self, start: int, block: np.ndarray, collective: bool = False) -> None:
        import h5py

        rows = sum(n for _, n in self.extents)
        with h5py.File(self.path, "r+", libver=LIBVER) as f:
            for c, name in enumerate(self.layout.channels):
                f[name].resize(rows + len(block), axis=0)
                f[name][rows:] = block[:, c]
            start_writing(f.id.get_vfd_handle())
        self.extents.append((start, len(block)))

    def write_rounds(self, blocks: Sequence[tuple[int, np.ndarray]]) -> None:
        for start, block in blocks:
            self.write(start, block)

    def close(self) -> list[Any]:
        r"""Returns the frames it holds, as [first, number] in the order of the file."""
        sync(self.path)
        return self.extents


def _cut(start: int, block: np.ndarray) -> list[tuple[int, np.ndarray]]:
    r"""Cuts a block along its frames so that one channel of a piece stays below `PIECE`."""
    frame = max(1, block[:1, 0].nbytes)
    n = max(1, PIECE // frame)
    return [(start + k, block[k : k + n]) for k in range(0, len(block), n)]
