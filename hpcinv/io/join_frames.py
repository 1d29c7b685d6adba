r"""Joining blocks of dates: a member whose frames lie in several files, one after the other."""

from __future__ import annotations

__all__ = ["join_frames"]

import os
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import BadInput
from .atomic import roll, sync
from .cf import LIBVER, create_file, define_variable
from .read_analysis import check_member, read_layout


def join_frames(
    path: Path | str, member: int, parts: Sequence[Path | str], frames: Sequence[Sequence[str]]
) -> str:
    r"""Makes a member's file of files that hold consecutive blocks of its frames. One process.

    The file only says where the frames are, relative to itself.

    Arguments:
        path: The file, `members/<m>.nc`.
        member: Its id.
        parts: The files of the blocks, in the order of their frames.
        frames: The digest of every frame of each part, as its producer told them.

    Returns:
        The digest of the member, that of a file written in one.

    Raises:
        BadInput: Naming a part that is missing, damaged, or not like the first.
    """
    import h5py

    path, parts = Path(path), [Path(p) for p in parts]
    layouts = [read_layout(p) for p in parts]
    first = layouts[0]
    for part, lay, told in zip(parts, layouts, frames, strict=True):
        for what in ("channels", "units", "time_units", "calendar"):
            if list(getattr(lay, what)) != list(getattr(first, what)):
                raise BadInput(f"its {what} differ from those of {parts[0]}", part)
        if lay.grid != first.grid or lay.length != len(told):
            raise BadInput(f"its shape does not fit that of {parts[0]}", part)
        check_member(part, lay, roll(told))
    layout = replace(first, time=np.concatenate([lay.time for lay in layouts]))
    digest = roll(d for told in frames for d in told)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{member}.{uuid.uuid4().hex[:8]}.partial")
    try:
        create_file(scratch, layout, None, realization=np.int32(member))
        with h5py.File(scratch, "r+", libver=LIBVER) as f:
            for c, name in enumerate(layout.channels):
                v, at = h5py.VirtualLayout(layout.shape, "<f4"), 0
                for part, lay in zip(parts, layouts, strict=True):
                    file, n = os.path.relpath(part, path.parent), lay.length
                    v[at : at + n] = h5py.VirtualSource(file, name, lay.shape)[0:n]
                    at += n
                define_variable(f, layout, c, sources=v)
            f.attrs.create("hpcinv_digest", np.bytes_(digest.encode()))
        sync(scratch)
        os.replace(scratch, path)
        sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)
    return digest
