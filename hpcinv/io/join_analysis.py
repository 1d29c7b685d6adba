r"""Joining members: one file on (realization, time, *grid) that only says where the data are."""

from __future__ import annotations

__all__ = ["join"]

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from .atomic import roll, sync
from .cf import LIBVER, create_file, define_variable
from .read_analysis import check_member, read_layout


def join(
    folder: Path | str,
    members: Sequence[int] | Mapping[int, Path | str],
    *,
    digests: Mapping[int, str] | None = None,
    verify: str = "roots",
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    r"""Makes `analysis.nc` of members that are all there. One process.

    The file names its members relative to itself: the folder may be moved as a whole.

    Arguments:
        folder: The run folder; the joined file is made in it.
        members: Ids, for `members/<m>.nc`; or where each is, relative to the folder (the tasks
            of an array write `tasks/<k>/members/<m>.nc`).
        digests: Each member's digest as its producer told it.
        verify: `roots` looks at every file and part and compares digests as written in them;
            `full` reads every frame as well.
        attributes: Global attributes that differ from those of the members.

    Returns:
        `{"file": ..., "digest": root, "members": {m: digest}}`.

    Raises:
        BadInput: Naming the member that is missing, truncated, or not like the others.
    """
    import h5py

    folder = Path(folder)
    if verify not in ("roots", "full"):
        raise BadInput(f"verify cannot be '{verify}'", "join", "Write roots or full.")
    named = members if isinstance(members, Mapping) else {m: f"members/{m}.nc" for m in members}
    paths = {int(m): Path(p) for m, p in named.items()}
    if not paths:
        raise BadInput("an analysis of no members cannot be joined", folder)
    first = folder / next(iter(paths.values()))
    layout = read_layout(first)
    found: dict[int, str] = {}
    for m, path in paths.items():
        path = folder / path
        expected = None if digests is None else digests[m]
        found[m] = check_member(path, layout, expected, full=verify == "full")
        other = read_layout(path)
        for what in ("channels", "units", "time_units", "calendar"):
            if list(getattr(other, what)) != list(getattr(layout, what)):
                raise BadInput(f"its {what} differ from those of {first}", path)
        if list(other.coords) != list(layout.coords) or any(
            not np.array_equal(other.coords[k], layout.coords[k]) for k in layout.coords
        ):
            raise BadInput(f"its grid differs from that of {first}", path)
    layout.attributes = {**layout.attributes, **(attributes or {})}

    final = folder / "analysis.nc"
    scratch = folder / f".analysis.{uuid.uuid4().hex[:8]}.partial"
    ids = list(paths)
    try:
        root = roll(found.values())
        create_file(scratch, layout, ids, hpcinv_digest=root)
        with h5py.File(scratch, "r+", libver=LIBVER) as f:
            for c, name in enumerate(layout.channels):
                sources = h5py.VirtualLayout((len(ids), *layout.shape), "<f4")
                for k, m in enumerate(ids):
                    sources[k] = h5py.VirtualSource(str(paths[m]), name, layout.shape)
                define_variable(f, layout, c, sources=sources)
        _compare(scratch, folder, paths, layout.channels)
        sync(scratch)
        os.replace(scratch, final)
        sync(folder)
    finally:
        scratch.unlink(missing_ok=True)
    return {"file": str(final), "digest": root, "members": found}


def _compare(joined: Path, folder: Path, paths: Mapping[int, Path], channels: Any) -> None:
    r"""The last frame of every member must read the same through the joined file."""
    import h5py

    with h5py.File(joined, "r") as f:
        for k, (m, path) in enumerate(paths.items()):
            with h5py.File(folder / path, "r") as g:
                for name in channels:
                    if not np.array_equal(f[name][k, -1], g[name][-1]):
                        raise BadInput(
                            f"member {m} does not read the same through the joined file",
                            folder / path,
                            "Is HDF5_VDS_PREFIX set? Unset it.",
                        )
