r"""Joining stores of consecutive frames: an index over parts that stay where they were written."""

from __future__ import annotations

__all__ = ["join_stores"]

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import BadInput
from .atomic import digest_array, roll, sync, write_json
from .store import TrajectoryStore

WHOLE = ("channels", "units", "standard_names", "long_names", "grid", "coordinates",
         "time_units", "calendar", "attributes")  # fmt: skip
ALONG = ("time", "context", "digests")  # arrays with a row for each frame


def join_stores(
    folder: Path | str,
    parts: Sequence[Path | str],
    segments: Sequence[tuple[int, int]],
    digests: Sequence[str] | None = None,
) -> str:
    r"""Makes one store of several that follow each other in time. One process.

    It names the parts' files relative to itself: all may be moved together. It has the digest
    of a store that was written in one.

    Arguments:
        folder: Where the store will be.
        parts: The stores, in their order.
        segments: Runs of consecutive frames of the whole, which may go on over the parts' ends.
        digests: Each part's digest as its producer told it.

    Returns:
        The digest.

    Raises:
        BadInput: Naming a part that is missing, damaged, not like the others, or not the one
            that its producer told of.
    """
    import h5py

    folder = Path(folder)
    stores = [TrajectoryStore.open(p) for p in parts]
    first = stores[0]
    for k, s in enumerate(stores):
        if digests is not None and s.digest != digests[k]:
            raise BadInput("this is not the store that its manifest tells of", s.folder)
        for what in WHOLE:
            if s.index[what] != first.index[what]:
                raise BadInput(f"its {what} differ from those of {first.folder}", s.folder)
    kept = [_arrays(s.folder) for s in stores]
    arrays = {}
    for key, of_first in kept[0].items():
        if key in ALONG:
            arrays[key] = np.concatenate([a[key] for a in kept])
            continue
        for a, s in zip(kept, stores, strict=True):
            if key != "segments" and not np.array_equal(a[key], of_first):
                raise BadInput(f"its '{key}' differs from that of {first.folder}", s.folder)
        arrays[key] = of_first
    arrays["segments"] = np.asarray(segments, np.int64).reshape(-1, 2)
    frames = arrays.pop("digests")
    index = {k: v for k, v in first.index.items() if k not in ("parts", "digest")}
    index["length"] = len(frames)
    index["frames_digest"] = roll(d.decode() for d in frames)
    index["digest"] = roll(
        [index["frames_digest"], *(digest_array(arrays[k]) for k in sorted(arrays))]
    )
    index["parts"], start = [], 0
    for s in stores:
        for p in s.index["parts"]:
            file = os.path.relpath(s.folder / p["file"], folder)
            where = {"start": start + p["start"], "stop": start + p["stop"]}
            index["parts"].append({"file": file, **where, "bytes": p["bytes"]})
        start += s.length

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    scratch.mkdir()
    with h5py.File(scratch / "coordinates.h5", "w", libver=("earliest", "v110")) as f:
        for name, a in arrays.items():
            f.create_dataset(name, data=a)
        f.create_dataset("digests", data=frames)
    sync(scratch / "coordinates.h5")
    write_json(scratch / "index.json", index)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)
    sync(folder.parent)
    return index["digest"]


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    import h5py

    with h5py.File(folder / "coordinates.h5", "r") as f:
        return {k: f[k][()] for k in f}
