r"""Writing a trajectory store: by one process, by many ranks, or by the tasks of an array.

Rank 0 creates the file and its dataset, then all ranks open it together and write their own
frames: independent writes, since the ranks of a job need not write equally often. Where h5py
has no MPI, every rank writes a part of its own; both read as the same store. The folder gets
its name only when everything in it is on disk.
"""

from __future__ import annotations

__all__ = ["StoreWriter"]

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
from .atomic import digest_array, digest_frame, roll, sync, write_json
from .statistics import Statistics
from .store import FORMAT, STATIC

CHUNK = 8 << 20  # bytes


class StoreWriter:
    r"""Creates a store; every rank of `world` calls the same methods.

    Arguments:
        folder: Where the store will be. It appears there when `close` has returned.
        channels, units: Names and units of the channels.
        coords: Grid coordinates by name, in the order of the grid's axes.
        coord_attrs: CF attributes of each coordinate (`units`, `standard_name`, ...).
        time, time_units, calendar: Time of every frame.
        segments: Runs of consecutive frames; by default everything is one run.
        mask: Where the grid is valid, with the grid's shape.
        below: Where a channel lies below a floor, with shape :math:`(C, *grid)`.
        context: Per frame features for the denoiser where time does not say them.
        static: Fields that do not change, by name, with the grid's shape.
        attributes: Provenance, JSON-like.
        parts: Files that hold the frames already, as (path relative to the folder, first frame,
            one past the last): nothing is written but what makes them one store.
        fence: Called by rank 0 just before the store gets its name; raises if this attempt may
            not commit any more.

    Raises:
        BadInput: For shapes that do not fit each other.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        channels: Sequence[str],
        units: Sequence[str],
        coords: dict[str, np.ndarray],
        coord_attrs: dict[str, dict[str, str]] | None = None,
        time: np.ndarray,
        time_units: str,
        calendar: str = "standard",
        standard_names: Sequence[str | None] | None = None,
        long_names: Sequence[str | None] | None = None,
        segments: Sequence[tuple[int, int]] | None = None,
        mask: np.ndarray | None = None,
        below: np.ndarray | None = None,
        context: np.ndarray | None = None,
        static: dict[str, np.ndarray] | None = None,
        attributes: dict[str, Any] | None = None,
        parts: Sequence[tuple[str, int, int]] | None = None,
        world: World | None = None,
        fence: Callable[[], None] | None = None,
    ) -> None:
        self.fence = fence
        self.folder, self.world = Path(folder), world or World()
        self.time = np.asarray(time, np.float64)
        self.length, C = len(self.time), len(channels)
        self.grid = tuple(len(c) for c in coords.values())
        segments = [(0, self.length)] if segments is None else list(segments)
        if len(units) != C:
            raise BadInput(f"{C} channels but {len(units)} units", folder)
        if sum(b - a for a, b in segments) != self.length:
            raise BadInput("segments do not cover the frames", folder)
        self.arrays = {
            **{k: np.asarray(v) for k, v in coords.items()},
            "time": self.time,
            "segments": np.asarray(segments, np.int64).reshape(-1, 2),
        }
        if mask is not None:
            self.arrays["mask"] = np.asarray(mask, bool)
        if below is not None:
            self.arrays["below"] = np.asarray(below, bool)
        if context is not None:
            self.arrays["context"] = np.asarray(context, np.float32)
        for name, field in (static or {}).items():
            self.arrays[STATIC + name] = np.asarray(field, np.float32)
        self.index = {
            "format": FORMAT,
            "length": self.length,
            "channels": list(channels),
            "units": list(units),
            "standard_names": list(standard_names or [None] * C),
            "long_names": list(long_names or [None] * C),
            "grid": list(self.grid),
            "coordinates": {k: (coord_attrs or {}).get(k, {}) for k in coords},
            "time_units": time_units,
            "calendar": calendar,
            "attributes": attributes or {},
        }
        self.digests: dict[int, str] = {}
        self.statistics: Statistics | None = None
        # A name of this attempt's own: one thought dead may still be writing into its.
        token = self.world.broadcast(uuid.uuid4().hex[:8])
        self.scratch = self.folder.with_name(f".{self.folder.name}.{token}.partial")
        self.shape = (C, *self.grid)
        if self.world.rank == 0:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.parent.glob(f".{self.folder.name}.*.partial"):
                shutil.rmtree(stale, ignore_errors=True)
            self.scratch.mkdir()
        self.world.barrier("create store")
        self.file = None
        if parts is None:
            self._create()
        else:
            self.parts = list(parts)

    def _create(self) -> None:
        import h5py

        frame = 4 * int(np.prod(self.shape))
        # Whole frames where they are small, else whole fields of some channels.
        some = max(1, min(self.shape[0], CHUNK * self.shape[0] // max(frame, 1)))
        frames = max(1, min(self.length, CHUNK // max(frame, 1)))
        chunk = (frames, some, *self.shape[1:])
        whole = (self.length, *self.shape)
        self.shared = self.world.size > 1 and bool(h5py.get_config().mpi)
        if self.world.size == 1 or self.shared:
            path = self.scratch / "part-00000.h5"
            if self.world.rank == 0:
                with h5py.File(path, "w", libver=("earliest", "v110")) as f:
                    # Allocated now: later opens by many ranks must not change the file's layout.
                    space = h5py.h5s.create_simple(whole)
                    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                    plist.set_chunk(chunk)
                    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                    h5py.h5d.create(f.id, b"x", h5py.h5t.IEEE_F32LE, space, plist)
            self.world.barrier("create part")
            how = {"driver": "mpio", "comm": self.world.comm} if self.shared else {}
            with waiting(f"the opening of {path.name}"):
                self.file = h5py.File(path, "r+", **how)
            self.parts = [("part-00000.h5", 0, self.length)]
            self.start = 0
        else:
            self.start, stop = self.world.share(0, self.length)
            name = f"part-{self.world.rank:05d}.h5"
            self.file = h5py.File(self.scratch / name, "w", libver=("earliest", "v110"))
            rows = max(stop - self.start, 0)
            self.file.create_dataset(
                "x",
                (rows, *self.shape),
                "<f4",
                chunks=(min(chunk[0], rows), *chunk[1:]) if rows else None,
            )
            bounds = [
                World(r, self.world.size).share(0, self.length) for r in range(self.world.size)
            ]
            self.parts = [(f"part-{r:05d}.h5", a, b) for r, (a, b) in enumerate(bounds) if b > a]

    def write(self, start: int, block: np.ndarray) -> None:
        r"""Writes frames from `start` on.

        Arguments:
            start: Number of the first frame.
            block: Physical units, with shape :math:`(n, C, *grid)`. In a world without parallel
                HDF5 the frames are those of `world.share(0, length)`.
        """
        block = np.ascontiguousarray(block, "<f4")
        if block.shape[1:] != self.shape or start < 0 or start + len(block) > self.length:
            raise BadInput(
                f"a block of shape {block.shape} at frame {start} does not fit a store of "
                f"{self.length} frames of shape {self.shape}",
                self.folder,
            )
        at = start - self.start
        self.file["x"][at : at + len(block)] = block
        for k, x in enumerate(block):
            self.digests[start + k] = digest_frame(x)

    def read(self, start: int, stop: int) -> np.ndarray:
        r"""Frames [start, stop) that this rank has written, physical units, (n, C, *grid)."""
        return self.file["x"][start - self.start : stop - self.start]

    def close(self) -> str:
        r"""Commits the store and returns its digest. Collective.

        Raises:
            BadInput: If a frame was never written (or, of parts, has no digest in `digests`).
        """
        if self.file is not None:
            with waiting(f"closing the store {self.folder.name}"):
                self.file.close()
            for name, *_ in self.parts:
                path = self.scratch / name
                if path.exists() and (self.world.rank == 0 or not self.shared):
                    sync(path)
        everyone = self.world.gather(self.digests)
        root, problem = None, None
        if self.world.rank == 0:
            digests = {t: d for of_rank in everyone for t, d in of_rank.items()}
            missing = [t for t in range(self.length) if t not in digests]
            if missing:
                problem = f"{len(missing)} frames were never written, the first is {missing[0]}"
            else:
                root = self._commit([digests[t] for t in range(self.length)])
        root, problem = self.world.broadcast([root, problem])
        if problem:
            raise BadInput(problem, self.folder)
        return root

    def _commit(self, digests: list[str]) -> str:
        import h5py

        self.index["frames_digest"] = roll(digests)
        named = [digest_array(self.arrays[k]) for k in sorted(self.arrays)]
        if self.statistics is not None:
            named.append(self.statistics.digest)
        self.index["digest"] = root = roll([self.index["frames_digest"], *named])
        self.index["parts"] = [
            {"file": n, "start": a, "stop": b, "bytes": (self.scratch / n).stat().st_size}
            for n, a, b in self.parts
        ]
        with h5py.File(self.scratch / "coordinates.h5", "w", libver=("earliest", "v110")) as f:
            for name, a in self.arrays.items():
                f.create_dataset(name, data=a)
            f.create_dataset("digests", data=np.array(digests, dtype="S32"))
        sync(self.scratch / "coordinates.h5")
        if self.statistics is not None:
            self.statistics.save(self.scratch / "statistics.h5")
        write_json(self.scratch / "index.json", self.index)
        if self.fence is not None:
            self.fence()
        old = self.folder.with_name(f".{self.folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            os.replace(self.folder, old)
        os.replace(self.scratch, self.folder)
        shutil.rmtree(old, ignore_errors=True)
        sync(self.folder.parent)
        return root
