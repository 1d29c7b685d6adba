r"""Joining stores of consecutive frames: an index over parts that stay where they were written."""

from __future__ import annotations

__all__ = ["join_stores"]

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from .store import TrajectoryStore
from .write_store import StoreWriter

SAME = ("channels", "units", "standard_names", "long_names", "coords", "coord_attrs",
        "time_units", "calendar", "attributes", "mask", "static")  # fmt: skip


def join_stores(
    folder: Path | str,
    parts: Sequence[Path | str],
    segments: Sequence[tuple[int, int]],
    digests: Sequence[str] | None = None,
    fence: Callable[[], None] | None = None,
) -> str:
    r"""Makes one store of several that follow each other in time. One process.

    It names the parts' files relative to itself: all may be moved together. It has the digest
    of a store that was written in one.

    Arguments:
        folder: Where the store will be.
        parts: The stores, in their order.
        segments: Runs of consecutive frames of the whole, which may go on over the parts' ends.
        digests: Each part's digest as its producer told it.
        fence: Called just before the store gets its name; raises if it may not.

    Returns:
        The digest.

    Raises:
        BadInput: Naming a part that is missing, damaged, not like the others, or not the one
            that its producer told of.
    """
    folder = Path(folder)
    stores = [TrajectoryStore.open(p) for p in parts]
    first = stores[0]
    for k, s in enumerate(stores):
        if digests is not None and s.digest != digests[k]:
            raise BadInput("this is not the store that its manifest tells of", s.folder)
        for what in SAME:
            mine, others = getattr(s, what), getattr(first, what)
            if not _alike(mine, others):
                raise BadInput(f"its {what} differ from those of {first.folder}", s.folder)
    places, start = [], 0
    for s in stores:
        for p in s.index["parts"]:
            file = os.path.relpath(s.folder / p["file"], folder)
            places.append((file, start + p["start"], start + p["stop"]))
        start += s.length
    writer = StoreWriter(
        folder,
        channels=first.channels,
        units=first.units,
        standard_names=first.standard_names,
        long_names=first.long_names,
        coords=first.coords,
        coord_attrs=first.coord_attrs,
        time=np.concatenate([s.time for s in stores]),
        time_units=first.time_units,
        calendar=first.calendar,
        segments=segments,
        mask=first.mask,
        context=None
        if first.kept_context is None
        else np.concatenate([s.kept_context for s in stores]),
        static=first.static,
        attributes=first.attributes,
        parts=places,
        fence=fence,
    )
    # What the producers told of each frame; nothing is read again.
    told = [d.decode() for s in stores for d in s.frame_digests]
    writer.digests = dict(enumerate(told))
    return writer.close()


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(_alike(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b)) if isinstance(b, np.ndarray) else a is b or a == b
