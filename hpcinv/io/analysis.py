r"""Analyses: one CF netCDF file per ensemble member, written by all ranks that hold its frames.

    members/<m>.nc    one member, dims (time, *grid), one variable per channel, physical units
    analysis.nc       all of them on (realization, time, *grid), a virtual dataset (see `join`)

`write` never waits for another rank, so ranks may hold uneven numbers of frames, or none. Large
blocks, which gain nothing from being collected with others', are written on the spot, from the
caller's own memory. Small ones queue up; `flush` and `close` write them in collective rounds,
where a rank that has run out takes part with an empty selection. A queue that outgrows its limit
is written on the spot, independently.

Where h5py has no MPI, or values are compressed (which together could only be done in step), each
rank writes a part of its own beside the member, which is then a virtual dataset over the parts:
the same values for every reader.
"""

from __future__ import annotations

__all__ = ["Analysis", "AnalysisWriter", "join", "open_analysis"]

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..parallel import World
from ..waiting import at as waiting
from . import member_file
from .atomic import digest_frame, roll, sync
from .cf import FILL, LIBVER, Layout, create_file, define_variable
from .join_analysis import join
from .member_file import PartFile, SharedFile
from .read_analysis import Analysis, open_analysis

QUEUE = 64 << 20  # bytes a rank holds back for collective writing


class AnalysisWriter:
    r"""Writes members of an analysis; every rank of `world` makes one and closes it.

    Arguments:
        folder: The run folder; the members appear in its `members/` when `close` has returned.
        members: Ids of the members this job writes.
        own: Ids this rank has frames of; by default all. The ranks that share a member write
            its file together, other ranks take no part.
        world: The ranks.
        fence: Called by rank 0 just before the files get their names; raises if this attempt
            may not commit any more (a newer one has begun).
        queue: Bytes this rank holds back for collective writing.
        layout: The fields of `Layout`: channels, units, coords, time, time_units, ...

    Example:
        >>> layout = dict(channels=s.channels, units=s.units, coords=s.coords, ...)
        >>> writer = AnalysisWriter(folder, members=range(16), world=world, **layout)
        >>> for m, first, block in pieces:  # this rank's own
        ...     writer.write(m, first, block)
        >>> digests = writer.close()
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        members: Sequence[int],
        own: Sequence[int] | None = None,
        world: World | None = None,
        fence: Callable[[], None] | None = None,
        queue: int = QUEUE,
        **layout: Any,
    ) -> None:
        self.folder = Path(folder) / "members"
        self.world = world or World()
        self.layout = Layout(**layout)
        self.members = [int(m) for m in members]
        self.fence, self.limit = fence, queue
        mine = self.members if own is None else sorted({int(m) for m in own})
        if not set(mine) <= set(self.members):
            raise BadInput(f"this rank holds members {mine}, the job writes {self.members}")
        held = self.world.all_gather(mine)
        # Which ranks write a member. Nobody's member goes to rank 0, which will miss its frames.
        self.ranks = {m: [r for r, h in enumerate(held) if m in h] or [0] for m in self.members}
        self.digests: dict[tuple[int, int], str] = {}
        self.queue: dict[int, list[tuple[int, np.ndarray]]] = {}  # by member
        self._queued = 0  # bytes of it, kept: a sum for each block would grow with their square
        self._spare: list[np.ndarray] = []
        self.token = self.world.broadcast(uuid.uuid4().hex[:8])
        if self.world.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for m in self.members:
                for stale in self.folder.glob(f".{m}.*.partial"):
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        self.world.barrier("analysis folder")
        self.files = self._open()

    @property
    def shared(self) -> bool:
        r"""Whether the ranks of a member write one file together."""
        import h5py

        together = self.world.comm is not None and bool(h5py.get_config().mpi)
        return together and not self.layout.compression

    def _scratch(self, m: int) -> Path:
        return self.folder / f".{m}.{self.token}.partial"

    def _open(self) -> dict[int, Any]:
        r"""Opens this rank's members, in ascending order on all ranks: no two groups can cross."""
        groups: dict[tuple[int, ...], Any] = {}
        files: dict[int, Any] = {}
        for m in sorted(self.members):
            ranks = tuple(self.ranks[m])
            if self.world.rank not in ranks:
                continue
            path = self._scratch(m)
            if len(ranks) == 1:
                files[m] = SharedFile(path, self.layout, m, None)
            elif self.shared:
                if ranks not in groups:
                    group = self.world.comm.Get_group().Incl(ranks)
                    with waiting(f"the ranks of member {m}"):
                        groups[ranks] = self.world.comm.Create_group(group, tag=min(m, 32000))
                files[m] = SharedFile(path, self.layout, m, groups[ranks])
            else:
                files[m] = PartFile(path, self.layout, ranks.index(self.world.rank))
        self._groups = groups
        return files

    def write(self, member: int, frame_start: int, block: np.ndarray) -> None:
        r"""Takes frames of one member. Not collective.

        Arguments:
            member: Id of the member, one that this rank holds.
            frame_start: Number of the block's first frame.
            block: Physical units, with shape :math:`(n, C, *grid)`; n may be 0.

        Raises:
            BadInput: If the block does not fit, comes twice, or is not finite.
        """
        lay = self.layout
        block = np.ascontiguousarray(block, dtype="<f4")
        where = self.folder / f"{member}.nc"
        if member not in self.files:
            raise BadInput(f"this rank does not write member {member}", self.folder)
        if (
            block.shape[1:] != (len(lay.channels), *lay.grid)
            or frame_start < 0
            or frame_start + len(block) > lay.length
        ):
            raise BadInput(
                f"a block of shape {block.shape} at frame {frame_start} does not fit an analysis "
                f"of {lay.length} frames of shape {(len(lay.channels), *lay.grid)}",
                where,
            )
        large = block[:, :1].nbytes >= member_file.LARGE
        if lay.mask is not None:
            block = self._copy(block)
            block[..., ~np.asarray(lay.mask, bool)] = FILL
        if not np.isfinite(block).all():
            n, c = np.argwhere(~np.isfinite(block))[0][:2]
            raise BadInput(f"{lay.channels[c]} is not finite in frame {frame_start + n}", where)
        for k, frame in enumerate(block):
            if (member, frame_start + k) in self.digests:
                raise BadInput(f"frame {frame_start + k} was written twice", where)
            self.digests[member, frame_start + k] = digest_frame(frame)
        if len(block) == 0:
            return
        if large:
            self.files[member].write(frame_start, block)
            if lay.mask is not None:
                self._keep([block])
            return
        if lay.mask is None:  # the caller may reuse its own; channels are written one by one
            block = self._copy(block.swapaxes(0, 1)).swapaxes(0, 1)
        self.queue.setdefault(member, []).append((frame_start, block))
        self._queued += block.nbytes
        if self._queued > self.limit:
            for m in self.files:
                for start, b in _adjoin(self._taken(m)):
                    self.files[m].write(start, b)

    def _copy(self, block: np.ndarray) -> np.ndarray:
        r"""A copy in memory that an earlier block has left, if there is any: memory touched for
        the first time costs more than the copy."""
        for i, old in enumerate(self._spare):
            if old.shape == block.shape:
                np.copyto(old, block)
                return self._spare.pop(i)
        return block.copy("C")

    def _keep(self, blocks: list[np.ndarray]) -> None:
        dense = [b if b.flags.c_contiguous else b.swapaxes(0, 1) for b in blocks]
        self._spare = dense + self._spare
        held = sum(b.nbytes for b in self._spare)
        while held > self.limit:
            held -= self._spare.pop().nbytes

    def flush(self) -> None:
        r"""Writes what is queued. Collective over the ranks of each member."""
        for m in sorted(self.files):
            self.files[m].write_rounds(_adjoin(self._taken(m)))

    def _taken(self, m: int) -> list[tuple[int, np.ndarray]]:
        r"""One member's blocks, no longer queued; their memory is used again after the write."""
        blocks = self.queue.pop(m, [])
        self._queued -= sum(block.nbytes for _, block in blocks)
        self._keep([block for _, block in blocks])
        return blocks

    def close(self) -> dict[str, Any]:
        r"""Writes the rest and gives the files their names. Collective over the world.

        Returns:
            `{"digest": root, "members": {m: {"digest": ..., "frames": [...]}}}`, on every rank.

        Raises:
            BadInput: If a frame was never written, or written by two ranks. Nothing is
                committed then.
        """
        self.flush()
        extents = {m: f.close() for m, f in self.files.items()}
        with waiting("the end of the members' files"):
            for comm in self._groups.values():
                comm.Free()
        told = self.world.gather(
            [[[m, t, d] for (m, t), d in self.digests.items()], sorted(extents.items())]
        )
        result: Any = None
        if self.world.rank == 0:
            try:
                result = self._commit(
                    [d for ds, _ in told for d in ds], [dict(e) for _, e in told]
                )
            except Exception as e:  # the others wait in the broadcast below: tell them
                result = e
        result = self.world.broadcast(result)
        if isinstance(result, Exception):
            raise result
        return result

    def _commit(self, written: list[Any], extents: list[dict[int, Any]]) -> dict[str, Any]:
        frames: dict[int, dict[int, str]] = {m: {} for m in self.members}
        for m, t, digest in written:
            if t in frames[m]:
                raise BadInput(f"two ranks wrote frame {t}", self.folder / f"{m}.nc")
            frames[m][t] = digest
        for m in self.members:
            lost = [t for t in range(self.layout.length) if t not in frames[m]]
            if lost:
                raise BadInput(
                    f"{len(lost)} frames were never written, the first is {lost[0]}",
                    self.folder / f"{m}.nc",
                )
        if self.fence is not None:
            self.fence()
        out: dict[int, dict[str, Any]] = {}
        for m in self.members:
            of_member = [frames[m][t] for t in range(self.layout.length)]
            out[m] = {"digest": roll(of_member), "frames": of_member}
            in_parts = not self.shared and len(self.ranks[m]) > 1
            pieces = [extents[r].get(m, []) for r in self.ranks[m]] if in_parts else None
            self._name(m, out[m]["digest"], pieces)
        sync(self.folder)
        return {"digest": roll(out[m]["digest"] for m in self.members), "members": out}

    def _name(self, m: int, digest: str, pieces: list[Any] | None) -> None:
        r"""Makes the member's file whole and moves it to its name."""
        import h5py

        final, parts = self.folder / f"{m}.nc", self.folder / f"{m}.parts"
        scratch = self._scratch(m)
        if pieces is not None:
            # The old file would point into the new parts for a moment: it goes first.
            final.unlink(missing_ok=True)
            shutil.rmtree(parts, ignore_errors=True)
            os.replace(scratch, parts)
            create_file(scratch, self.layout, None, realization=np.int32(m))
            with h5py.File(scratch, "r+", libver=LIBVER) as f:
                for c, name in enumerate(self.layout.channels):
                    v = h5py.VirtualLayout(self.layout.shape, "<f4")
                    for r, of_rank in enumerate(pieces):
                        rows = sum(n for _, n in of_rank)
                        at = 0
                        for start, n in of_rank:
                            source = h5py.VirtualSource(
                                f"{m}.parts/{r:05d}.h5", name, (rows, *self.layout.grid)
                            )
                            v[start : start + n] = source[at : at + n]
                            at += n
                    define_variable(f, self.layout, c, sources=v)
        with h5py.File(scratch, "r+") as f:
            f.attrs.create("hpcinv_digest", np.bytes_(digest.encode()))
        sync(scratch)
        os.replace(scratch, final)
        if pieces is None:
            shutil.rmtree(parts, ignore_errors=True)


def _adjoin(blocks: list[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    r"""Puts small blocks of consecutive frames together: fewer and larger writes."""
    runs: list[list[tuple[int, np.ndarray]]] = []
    held, end = 0, -1  # bytes of a channel in the last run, and the frame after it
    for start, block in sorted(blocks, key=lambda b: b[0]):
        if runs and held < member_file.LARGE and start == end:
            runs[-1].append((start, block))
        else:
            runs.append([(start, block)])
            held = 0
        held, end = held + block[:, :1].nbytes, start + len(block)
    return [
        (run[0][0], np.concatenate([b for _, b in run]) if len(run) > 1 else run[0][1])
        for run in runs
    ]
