r"""The trajectory store: a folder of HDF5 parts that reads as one long trajectory.

    index.json        channels, units, parts, segments, digests, provenance
    coordinates.h5    time, grid coordinates, mask, context, the digest of every frame
    statistics.h5     optional: climatology and standard deviation (see `Statistics`)
    part-00000.h5     /x (time, channel, *grid) float32, physical units

Opening reads the two small files and looks at the size of every part; frames are read by
windows, out of core, part by part. A segment is a run of consecutive frames (one simulated
trajectory, one augmented window, or everything): no window crosses its ends.
"""

from __future__ import annotations

__all__ = ["TrajectoryStore"]

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from .areas import area_weights
from .atomic import roll, same_frame
from .statistics import Statistics

FORMAT = 1
BLOCK = 16 << 20  # bytes read at once when all is looked at
STATIC = "static."  # before the names of fields that do not change, in coordinates.h5


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    r"""An uninitialised float32 array whose memory starts a cache line: the system copies into it
    up to twice as fast as where numpy puts large arrays, sixteen bytes behind one."""
    memory = np.empty(4 * int(np.prod(shape)) + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : len(memory) - 64 + first].view(np.float32).reshape(shape)


def announce(x: Any, rows: slice) -> None:
    r"""Tells the system which rows of a dataset are read next, all chunks of them at once: else
    the disk waits while one is copied."""
    if rows.stop == rows.start or not x.chunks or not hasattr(os, "posix_fadvise"):
        return
    size = x.dtype.itemsize * int(np.prod(x.chunks))
    grid = [range(0, n, c) for n, c in zip(x.shape[1:], x.chunks[1:], strict=True)]
    first = (rows.start, *[0] * len(grid))
    last = (rows.stop - 1, *(r[-1] for r in grid))
    a, b = (x.id.get_chunk_info_by_coord(at).byte_offset for at in (first, last))
    if a is not None and b is not None and a <= b:
        os.posix_fadvise(x.file.id.get_vfd_handle(), a, b + size - a, os.POSIX_FADV_WILLNEED)


class TrajectoryStore:
    r"""A store opened for reading.

    Attributes:
        length: Frames :math:`L`.
        channels: Names of the :math:`C` channels; `units` and `standard_names` beside them.
        grid: Shape of the grid.
        coords: Grid coordinates by name, in the order of the grid's axes.
        time: Time of every frame, in `time_units` of `calendar`, with shape :math:`(L)`.
        segments: Half-open ranges of consecutive frames.
        mask: Where the grid is valid, with the grid's shape, or None.
        below: Where a channel lies below a floor and repeats the level above, with shape
            :math:`(C, *grid)`, or None.
        static: Fields that do not change, by name, with the grid's shape.
        kept_context: What the store itself keeps of each frame for a model, or None (`context`).
    """

    def __init__(self, folder: Path, index: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.folder = Path(folder)
        self.index = index
        self.length: int = index["length"]
        self.channels: list[str] = index["channels"]
        self.units: list[str] = index["units"]
        self.standard_names: list[str | None] = index["standard_names"]
        self.long_names: list[str | None] = index["long_names"]
        self.grid: tuple[int, ...] = tuple(index["grid"])
        self.coord_attrs: dict[str, dict[str, str]] = index["coordinates"]
        self.coords = {name: arrays[name] for name in self.coord_attrs}
        self.time = arrays["time"]
        self.time_units: str = index["time_units"]
        self.calendar: str = index["calendar"]
        self.segments = [tuple(s) for s in arrays["segments"].tolist()]
        self.mask = arrays.get("mask")
        self.below = arrays.get("below")
        self.static = {
            k.removeprefix(STATIC): v for k, v in arrays.items() if k.startswith(STATIC)
        }
        self.attributes: dict[str, Any] = index["attributes"]
        self.digest: str = index["digest"]
        self.frame_digests = arrays["digests"]
        self.kept_context = arrays.get("context")
        self._starts = np.array([p["start"] for p in index["parts"]])
        self._open: dict[int, Any] = {}

    @classmethod
    def open(cls, folder: Path | str) -> TrajectoryStore:
        r"""Opens a store.

        Raises:
            BadInput: If it is not a store, or a part is missing or truncated.
        """
        import h5py

        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text())
            with h5py.File(folder / "coordinates.h5", "r") as f:
                arrays = {k: f[k][()] for k in f}
        except FileNotFoundError as e:
            raise BadInput("no trajectory store here", folder, "Run the job that makes it.") from e
        except (OSError, ValueError) as e:
            raise BadInput(f"the store's index cannot be read ({e})", folder) from e
        for part in index["parts"]:
            path = folder / part["file"]
            size = path.stat().st_size if path.exists() else None
            if size != part["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes of {part['bytes']}"
                raise BadInput(
                    f"a part of the store {found} (frames {part['start']} to {part['stop'] - 1})",
                    path,
                    "Run the job that makes it again, with --fresh.",
                )
        return cls(folder, index, arrays)

    @cached_property
    def statistics(self) -> Statistics | None:
        path = self.folder / "statistics.h5"
        return Statistics.load(path) if path.exists() else None

    def dates(self) -> np.ndarray:
        r"""The date of every frame, as `cftime` objects of the store's calendar."""
        import cftime

        return cftime.num2date(self.time, self.time_units, self.calendar)

    def context(self, frames: object = None) -> np.ndarray | None:
        r"""What a model is told of each frame: sine and cosine of the time of year, and those of
        the time of day (UTC) where frames are less than a day apart.

        Returns:
            An array with shape :math:`(L, 2)` or :math:`(L, 4)`, or None for a store without a
            calendar.
        """
        if self.kept_context is None and " since " not in self.time_units:
            return None
        table = self.kept_context if self.kept_context is not None else self._times
        return table if frames is None else table[np.asarray(frames, dtype=np.int64)]

    @cached_property
    def _times(self) -> np.ndarray:
        dates = self.dates()
        hour = np.array([d.hour + d.minute / 60 for d in dates])
        days = np.array([d.dayofyr - 1 for d in dates]) + hour / 24
        angles = [2 * np.pi * days / 365.25]
        if len(dates) > 1 and (dates[1] - dates[0]).total_seconds() < 86400:
            angles.append(2 * np.pi * hour / 24)
        return np.stack([f(a) for a in angles for f in (np.sin, np.cos)], -1).astype(np.float32)

    def weights(self) -> np.ndarray:
        r"""Area weights of the grid (:func:`hpcinv.io.areas.area_weights`)."""
        return area_weights(self.coords, self.coord_attrs, self.mask)

    def windows(self, length: int, within: tuple[int, int] | None = None) -> np.ndarray:
        r"""First frames of all windows of `length` frames that stay inside one segment.

        Arguments:
            length: Frames of a window.
            within: Keep only windows inside this half-open range of frames.
        """
        lo, hi = within or (0, self.length)
        runs = [
            np.arange(max(a, lo), min(b, hi) - length + 1)
            for a, b in self.segments
            if min(b, hi) - max(a, lo) >= length
        ]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)

    def read(self, start: int, stop: int, channels: slice | list[int] | None = None) -> np.ndarray:
        r"""Frames [start, stop), physical units.

        Returns:
            An array with shape :math:`(stop - start, C, *grid)`, float32.

        Raises:
            BadInput: If the frames are not in the store, or a part cannot be read.
        """
        if not 0 <= start <= stop <= self.length:
            raise BadInput(
                f"frames {start} to {stop - 1} asked of a store of {self.length}", self.folder
            )
        pick = slice(None) if channels is None else channels
        n = len(range(*pick.indices(len(self.channels)))) if isinstance(pick, slice) else len(pick)
        out = aligned((stop - start, n, *self.grid))
        at = start
        while at < stop:
            k = int(np.searchsorted(self._starts, at, "right")) - 1
            part = self.index["parts"][k]
            end = min(stop, part["stop"])
            try:
                rows = slice(at - part["start"], end - part["start"])
                x = self._part(k)["x"]
                if channels is None:
                    announce(x, rows)
                x.read_direct(out[at - start : end - start], np.s_[rows, pick])
            except (OSError, KeyError, RuntimeError) as e:
                raise BadInput(
                    f"frames {at} to {end - 1} cannot be read ({e})",
                    self.folder / part["file"],
                    "Run the job that makes it again, with --fresh.",
                ) from e
            at = end
        return out

    def standardised(self, start: int, stop: int) -> np.ndarray:
        r"""Frames [start, stop) as networks see them, 0 where the grid is not valid; unchanged in
        a store without statistics."""
        x = self.read(start, stop)
        s = self.statistics
        if s is None:
            return x
        z = s.standardise(x, range(start, stop))
        return z if self.mask is None else np.where(self.mask, z, z.dtype.type(0))

    def verify(self, start: int = 0, stop: int | None = None) -> None:
        r"""Reads frames [start, stop), by default all, and compares digests.

        Raises:
            BadInput: Naming the first part and frame that differ, or hold what is not finite.
        """
        stop = self.length if stop is None else stop
        some = max(1, BLOCK // (4 * len(self.channels) * int(np.prod(self.grid))))
        for first in range(start, stop, some):
            x = self.read(first, min(first + some, stop))
            for t, frame in enumerate(x, first):
                if not same_frame(frame, self.frame_digests[t].decode()):
                    raise BadInput(
                        f"frame {t} differs from its digest",
                        self._path(t),
                        "Run the job that makes it again, with --fresh.",
                    )
            wrong = ~np.isfinite(x)
            if self.mask is not None:
                wrong &= self.mask
            if wrong.any():
                t, c = (int(i) for i in np.argwhere(wrong)[0][:2])
                raise BadInput(
                    f"channel '{self.channels[c]}' has {int(wrong[t, c].sum())} values that are "
                    f"not finite in frame {first + t}",
                    self._path(first + t),
                    "Mend what the store was made from, or give frames without it.",
                )
        if roll(d.decode() for d in self.frame_digests) != self.index["frames_digest"]:
            raise BadInput("the digests differ from their root", self.folder / "index.json")

    def _path(self, frame: int) -> Path:
        r"""The part that holds a frame."""
        k = int(np.searchsorted(self._starts, frame, "right")) - 1
        return self.folder / self.index["parts"][k]["file"]

    def close(self) -> None:
        for f in self._open.values():
            f.close()
        self._open.clear()

    def _part(self, k: int):
        if k not in self._open:
            import h5py

            if len(self._open) >= 64:  # a store may have more parts than a process open files
                self._open.pop(next(iter(self._open))).close()
            self._open[k] = h5py.File(self.folder / self.index["parts"][k]["file"], "r")
        return self._open[k]
