r"""Reading analyses, from the members themselves.

A virtual dataset reads as fill values where a file is missing; so the joined file only tells
which members there are, and every frame is read from the member's own file, after a look at it.
"""

from __future__ import annotations

__all__ = ["Analysis", "check_member", "open_analysis", "read_layout"]

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from .atomic import digest_array, digest_frame, roll
from .cf import FILL, Layout

AGAIN = "Run the job that makes it again, with --fresh."


class Analysis:
    r"""An analysis opened for reading.

    Attributes:
        members: Ids of the members, in the order of the joined file.
        length: Frames :math:`L`.
        channels, units, standard_names, long_names: Of the :math:`C` channels.
        grid: Shape of the grid; `coords` and `coord_attrs` describe its axes.
        time, time_units, calendar: Time of every frame.
        mask: Where the grid is valid, or None if that is everywhere.
    """

    def __init__(self, path: Path, files: dict[int, Path]) -> None:
        self.path, self.files = path, files
        self.members = list(files)
        layout = read_layout(files[self.members[0]])
        self.channels, self.units = list(layout.channels), list(layout.units)
        self.standard_names, self.long_names = layout.standard_names, layout.long_names
        self.coords, self.coord_attrs = dict(layout.coords), dict(layout.coord_attrs)
        self.time, self.time_units = layout.time, layout.time_units
        self.calendar, self.attributes = layout.calendar, dict(layout.attributes)
        self.length, self.grid = layout.length, layout.grid
        self.layout = layout
        self._open: dict[int, Any] = {}
        self._whole: set[int] = set()  # members whose file was looked at
        first = self._raw(self.members[0], 0, min(1, self.length))
        valid = (first != FILL).all(axis=(0, 1))
        self.mask = None if valid.all() else valid

    def __enter__(self) -> Analysis:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dates(self) -> np.ndarray:
        r"""The date of every frame, as `cftime` objects."""
        import cftime

        return cftime.num2date(self.time, self.time_units, self.calendar)

    def _from(self, member: int, start: int, stop: int, take: Callable[[Any], Any]) -> Any:
        r"""What is taken of a member's open file."""
        import h5py

        if member not in self.files:
            raise BadInput(
                f"no member {member}; there are {self.members[0]} to {self.members[-1]}", self.path
            )
        if not 0 <= start <= stop <= self.length:
            raise BadInput(
                f"frames {start} to {stop - 1} asked of an analysis of {self.length}", self.path
            )
        path = self.files[member]
        if member not in self._open:
            if len(self._open) >= 64:
                # Scores go round the members: were the first to go, each would be opened again.
                self._open.popitem()[1].close()
            if member not in self._whole:
                check_member(path, self.layout)
                self._whole.add(member)
            self._open[member] = h5py.File(path, "r")
        try:
            return take(self._open[member])
        except (OSError, KeyError) as e:
            raise BadInput(
                f"frames {start} to {stop - 1} cannot be read ({e})", path, AGAIN
            ) from e

    def _raw(self, member: int, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, len(self.channels), *self.grid), np.float32)

        def take(f: Any) -> np.ndarray:
            for c, name in enumerate(self.channels):
                out[:, c] = f[name][start:stop]
            return out

        return self._from(member, start, stop, take)

    def read(self, member: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        r"""Frames [start, stop) of one member, physical units, NaN outside the mask.

        Returns:
            An array with shape :math:`(stop - start, C, *grid)`, float32.

        Raises:
            BadInput: If there is no such member or frame, or its file is missing or damaged.
        """
        x = self._raw(member, start, self.length if stop is None else stop)
        if self.mask is not None:
            x[..., ~self.mask] = np.nan
        return x

    def cells(self, member: int, frame: int, channel: int, start: int, stop: int) -> np.ndarray:
        r"""Cells [start, stop) of the grid in C order, of one channel of one member's frame.

        Only their rows are read. NaN outside the mask.

        Raises:
            BadInput: As `read`.
        """
        width = int(np.prod(self.grid[1:]))
        a, b = start // width, -(-stop // width)
        name = self.channels[channel]
        x = self._from(member, frame, frame + 1, lambda f: f[name][frame, a:b])
        x = x.reshape(-1)[start - a * width : stop - a * width].astype(np.float32)
        if self.mask is not None:
            x[~self.mask.reshape(-1)[start:stop]] = np.nan
        return x

    def ensemble(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        r"""All members, with shape :math:`(M, stop - start, C, *grid)`."""
        return np.stack([self.read(m, start, stop) for m in self.members])

    def close(self) -> None:
        for f in self._open.values():
            f.close()
        self._open.clear()


def open_analysis(path: Path | str) -> Analysis:
    r"""Opens an analysis for reading.

    Arguments:
        path: The joined file, its folder, or a folder whose `members/` are not joined yet.

    Raises:
        BadInput: If there is none, or a member is missing or damaged.
    """
    import h5py

    path = Path(path)
    joined = path / "analysis.nc" if path.is_dir() else path
    if joined.exists():
        try:
            with h5py.File(joined, "r") as f:
                ids = [int(m) for m in f["realization"][:]]
                name = _text(f.attrs["channels"]).split(",")[0]
                files = {}
                for source in f[name].virtual_sources():
                    k = source.vspace.get_select_bounds()[0][0]
                    files[ids[k]] = joined.parent / source.file_name
        except (OSError, KeyError, RuntimeError) as e:
            raise BadInput(f"this is no joined analysis ({e})", joined, AGAIN) from e
        return Analysis(joined, {m: files[m] for m in ids})
    found = {int(p.stem): p for p in (path / "members").glob("*.nc") if p.stem.isdigit()}
    if not found:
        raise BadInput("no analysis here", path, "Run the job that makes it.")
    return Analysis(path, dict(sorted(found.items())))


def read_layout(path: Path) -> Layout:
    r"""The layout of a member, from its file.

    Raises:
        BadInput: If the file is missing, truncated, or no member of an analysis.
    """
    import netCDF4

    _open_or_name(path).close()
    try:
        with netCDF4.Dataset(path) as f:
            channels = f.channels.split(",")
            dims = [d for d in f[channels[0]].dimensions if d != "time"]
            of = lambda key: [getattr(f[c], key, None) for c in channels]  # noqa: E731
            own = {"Conventions", "channels", "history", "realization", "hpcinv_digest"}
            return Layout(
                channels=channels,
                units=[u or "" for u in of("units")],
                standard_names=of("standard_name"),
                long_names=of("long_name"),
                coords={d: np.asarray(f[d][:]) for d in dims},
                coord_attrs={d: {k: f[d].getncattr(k) for k in f[d].ncattrs()} for d in dims},
                time=np.asarray(f["time"][:], np.float64),
                time_units=f["time"].units,
                calendar=getattr(f["time"], "calendar", "standard"),
                attributes={k: f.getncattr(k) for k in f.ncattrs() if k not in own},
            )
    except (OSError, AttributeError, KeyError, IndexError) as e:
        raise BadInput(f"this is no member of an analysis ({e})", path, AGAIN) from e


def check_member(path: Path, layout: Layout, digest: str | None = None, full: bool = False) -> str:
    r"""Looks whether a member's file, and each part it is made of, is there and whole.

    Arguments:
        path: The member's file.
        layout: What it must hold.
        digest: What its producer said of it, if known.
        full: Read every frame and compare with the digest.

    Returns:
        The member's digest.

    Raises:
        BadInput: Naming the file, and the channel or frame.
    """
    with _open_or_name(path) as f:
        found = _text(f.attrs.get("hpcinv_digest", b""))
        if not found:
            raise BadInput("this member was never finished", path, AGAIN)
        if digest is not None and found != digest:
            raise BadInput("this is not the member that its job wrote", path, AGAIN)
        if "time" not in f or not np.array_equal(f["time"][:], layout.time):
            raise BadInput("its times differ from those of the other members", path, AGAIN)
        for name in layout.channels:
            if name not in f:
                raise BadInput(f"the variable {name} is missing", path, AGAIN)
            if f[name].shape != layout.shape:
                raise BadInput(
                    f"{name} has shape {f[name].shape}, not {layout.shape}", path, AGAIN
                )
            if not f[name].is_virtual:
                continue
            for source in f[name].virtual_sources():
                with _open_or_name(path.parent / source.file_name) as part:
                    need = source.src_space.get_select_bounds()[1][0] + 1
                    if source.dset_name not in part or len(part[source.dset_name]) < need:
                        raise BadInput(
                            f"it holds fewer than {need} frames of {name}",
                            path.parent / source.file_name,
                            AGAIN,
                        )
        if full:
            told = (roll(_digests(f, layout, of)) for of in (digest_frame, digest_array))
            if found not in told:  # the second is that of older files
                raise BadInput("its values differ from its digest", path, AGAIN)
    return found


def _digests(f: Any, layout: Layout, of: Callable[[np.ndarray], str]) -> Iterator[str]:
    for t in range(layout.length):
        yield of(np.stack([f[name][t] for name in layout.channels]).astype("<f4"))


def _open_or_name(path: Path) -> Any:
    import h5py

    if not path.exists():
        raise BadInput("a file of the analysis is missing", path, AGAIN)
    try:
        return h5py.File(path, "r")
    except OSError as e:
        what = "is truncated" if "truncated" in str(e) else f"cannot be opened ({e})"
        raise BadInput(f"a file of the analysis {what}", path, AGAIN) from e


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
