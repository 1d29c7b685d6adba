r"""Rows in parts: simulations and posterior samples, written by many and read as one.

    parts/rows-00000000-00004096.h5    rows 0 to 4095: one dataset a column, first axis the rows
    index.json                         which parts there are, their digests, what the columns mean

Beside its columns a part may carry arrays about its rows as a whole, in a group `about`.

A part gets its name only when it is whole and on disk, so the name itself says that it is. Parts
may stand in folders of different tasks; the index that joins them says where. Rows are read out
of core: nothing is kept but the open files.
"""

from __future__ import annotations

__all__ = ["PartWriter", "Rows", "join", "part_name", "told", "verify", "whole_parts"]

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from .atomic import digest_array, roll, sync, write_json

FORMAT = 1
PARTS, INDEX, ABOUT = "parts", "index.json", "about"
_NAME = re.compile(r"rows-(\d+)-(\d+)\.h5$")
CHUNK = 1 << 20  # bytes
OPEN_FILES = 64


def part_name(start: int, stop: int) -> str:
    r"""The name of the part that holds rows [start, stop)."""
    return f"rows-{start:010d}-{stop:010d}.h5"


class PartWriter:
    r"""Writes one part, in order of its rows; on disk and named when :meth:`close` returns.

    Used as a context: what is left without :meth:`close` is removed.

    Arguments:
        folder: The folder of the parts, made when missing.
        start, stop: The rows it will hold, by their global ids.
        columns: Shape and type of a row of each column.
        attributes: JSON-like facts of this part.
        fence: Called just before the part gets its name; raises if it may not.
    """

    def __init__(
        self,
        folder: Path | str,
        start: int,
        stop: int,
        columns: Mapping[str, tuple[Sequence[int], str]],
        attributes: Mapping[str, Any] | None = None,
        fence: Callable[[], None] | None = None,
    ) -> None:
        import h5py

        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start, self.stop, self.fence = start, stop, fence
        self.path = self.folder / part_name(start, stop)
        self._scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = h5py.File(self._scratch, "w", libver=("earliest", "v110"))
        self.attributes = dict(attributes or {})
        self._written, self._digests = start, []
        n = stop - start
        for name, (shape, dtype) in columns.items():
            row = max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
            chunk = (max(1, min(n, CHUNK // row)), *shape)
            self._file.create_dataset(name, (n, *shape), dtype, chunks=chunk if n else None)

    def write(self, **columns: np.ndarray) -> None:
        r"""Appends rows: every column, with equally many."""
        n = len(next(iter(columns.values())))
        at = self._written - self.start
        if set(columns) != set(_columns(self._file)) or self._written + n > self.stop:
            raise ValueError(f"rows {sorted(columns)} do not fit {_columns(self._file)}")
        for name in sorted(columns):
            dataset = self._file[name]
            value = np.ascontiguousarray(columns[name], dataset.dtype)
            dataset[at : at + n] = value
        self._written += n

    def close(self, about: Mapping[str, np.ndarray] | None = None) -> str:
        r"""Finishes the part, with arrays about its rows; returns its digest, of all of it."""
        if self._written != self.stop:
            raise ValueError(f"rows up to {self.stop} were promised, {self._written} are there")
        for name, value in (about or {}).items():
            self._file.create_dataset(f"{ABOUT}/{name}", data=value)
        digest = _digest(self._file)
        self._file.attrs["digest"] = digest
        self._file.attrs["about"] = roll(
            digest_array(np.asarray(value)) for _, value in sorted((about or {}).items())
        )
        self._file.attrs["attributes"] = json.dumps(self.attributes)
        self._file.close()
        sync(self._scratch)
        if self.fence is not None:
            self.fence()
        os.replace(self._scratch, self.path)
        sync(self.folder)
        return digest

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()  # a second time does nothing
        self._scratch.unlink(missing_ok=True)


def _columns(file: Any) -> list[str]:
    return sorted(name for name in file if name != ABOUT)


def _digest(file: Any) -> str:
    r"""One digest of all columns and what is about them, read a chunk at a time."""
    found = []
    about = file.get(ABOUT, {})
    for dataset in [*(file[k] for k in _columns(file)), *(about[k] for k in sorted(about))]:
        step = dataset.chunks[0] if dataset.chunks else max(1, len(dataset))
        for i in range(0, len(dataset), step):
            found.append(digest_array(dataset[i : i + step]))
    return roll(found)


def verify(path: Path) -> tuple[str, dict[str, Any]]:
    r"""Reads a part against its digest.

    Returns:
        The digest, and the part's attributes.

    Raises:
        BadInput: If it is truncated or altered.
    """
    import h5py

    try:
        with h5py.File(path, "r") as f:
            told, found = f.attrs["digest"], _digest(f)
            attributes = json.loads(f.attrs["attributes"])
    except (OSError, KeyError, RuntimeError, ValueError) as e:
        raise _damaged(path, e) from e
    if told != found:
        raise BadInput("the part differs from its digest", path, "Remove it; run its job again.")
    return told, attributes


def told(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    r"""What a part says of itself; its rows are not read.

    Returns:
        The digest of the part, and the arrays about its rows, compared with one of their own.

    Raises:
        BadInput: If it is missing or truncated, or what it says has been altered.
    """
    import h5py

    try:
        with h5py.File(path, "r") as f:  # one that is too short does not open
            about = {k: a[()] for k, a in f.get(ABOUT, {}).items()}
            digest, whole = f.attrs["digest"], f.attrs["about"]
    except (OSError, KeyError, RuntimeError) as e:
        raise _damaged(path, e) from e
    if roll(digest_array(about[k]) for k in sorted(about)) != whole:
        raise _damaged(path, "what it says of its rows differs from its digest")
    return digest, about


def _damaged(path: Path, why: object) -> BadInput:
    return BadInput(
        f"the part cannot be read, it is truncated or damaged ({why})", path,
        "Run its job again: the part is made anew.",
    )  # fmt: skip


def whole_parts(folder: Path) -> dict[tuple[int, int], Path]:
    r"""The parts that have their name, by their rows, in order."""
    found = {}
    for path in sorted(Path(folder).glob("rows-*.h5")):
        if m := _NAME.fullmatch(path.name):
            found[int(m[1]), int(m[2])] = path
    return found


def join(
    folder: Path, places: Sequence[Path], length: int, attributes: Mapping[str, Any]
) -> tuple[str, list[dict[str, Any]]]:
    r"""Verifies all parts and writes the index that makes them one store.

    Arguments:
        folder: Where the index goes.
        places: The folders that hold the parts.
        length: The number of rows there must be.
        attributes: What the store says of itself.

    Returns:
        The digest of the whole, and the attributes of each part.

    Raises:
        BadInput: If a part is damaged, or rows are missing or there twice.
    """
    import h5py

    parts, told, next_row = [], [], 0
    found = sorted((k, p) for place in places for k, p in whole_parts(place).items())
    for (start, stop), path in found:
        if start != next_row:
            what = "there twice" if start < next_row else "missing"
            raise BadInput(f"rows {min(start, next_row)} to {max(start, next_row) - 1} are {what}",
                           path.parent, "Run the job again.")  # fmt: skip
        digest, facts = verify(path)
        parts.append(
            {"file": os.path.relpath(path, folder), "start": start, "stop": stop, "digest": digest}
        )
        told.append(facts)
        next_row = stop
    if next_row != length:
        raise BadInput(
            f"rows {next_row} to {length - 1} are missing", folder,
            "Run the job again: only they are made.",
        )  # fmt: skip
    with h5py.File(found[0][1], "r") as f:
        columns = {
            n: {"shape": list(f[n].shape[1:]), "dtype": f[n].dtype.str} for n in _columns(f)
        }
    digest = roll(p["digest"] for p in parts)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(
        Path(folder) / INDEX,
        {
            "format": FORMAT, "length": length, "columns": columns, "digest": digest,
            "attributes": dict(attributes), "parts": parts,
        },
    )  # fmt: skip
    return digest, told


class Rows:
    r"""A store of rows, read out of core.

    Arguments:
        folder: The folder of its `index.json`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / INDEX
        try:
            index = json.loads(path.read_text())
        except FileNotFoundError as e:
            raise BadInput("no rows here", self.folder, "Run the job that makes them.") from e
        except ValueError as e:
            raise BadInput(f"the index cannot be read ({e})", path) from e
        if index.get("format") != FORMAT:
            raise BadInput(f"an index of format {index.get('format')}, not {FORMAT}", path)
        self.length: int = index["length"]
        self.digest: str = index["digest"]
        self.attributes: dict[str, Any] = index["attributes"]
        self.columns = {
            n: (tuple(c["shape"]), np.dtype(c["dtype"])) for n, c in index["columns"].items()
        }
        self.parts = index["parts"]
        self._starts = np.array([p["start"] for p in self.parts])
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return self.length

    def _file(self, k: int):
        import h5py

        if k in self._open:
            self._open.move_to_end(k)
            return self._open[k]
        path = self.folder / self.parts[k]["file"]
        try:
            # A small chunk cache: rows are read in long runs, and every file would keep its own.
            self._open[k] = h5py.File(path, "r", rdcc_nbytes=0)
        except OSError as e:
            raise BadInput(
                f"a part cannot be opened, it is missing or truncated ({e})", path,
                "Run the job that made it again, with --fresh.",
            ) from e  # fmt: skip
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return self._open[k]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        r"""Rows [start, stop) of a column, with shape (stop - start, *row).

        Raises:
            BadInput: If there is no such column, or a part is missing or damaged.
        """
        stop = self.length if stop is None else min(stop, self.length)
        if name not in self.columns:
            raise BadInput(f"no column '{name}'", self.folder, f"There are {list(self.columns)}.")
        shape, dtype = self.columns[name]
        out = np.empty((max(0, stop - start), *shape), dtype)
        k = int(np.searchsorted(self._starts, start, side="right")) - 1
        at = start
        while at < stop:
            part = self.parts[k]
            upto = min(stop, part["stop"])
            try:
                out[at - start : upto - start] = self._file(k)[name][
                    at - part["start"] : upto - part["start"]
                ]
            except (OSError, KeyError, ValueError) as e:
                raise BadInput(
                    f"rows {at} to {upto - 1} cannot be read, the part is damaged ({e})",
                    self.folder / part["file"], "Run the job that made it again, with --fresh.",
                ) from e  # fmt: skip
            at, k = upto, k + 1
        return out

    def close(self) -> None:
        r"""Closes the files."""
        while self._open:
            self._open.popitem()[1].close()
