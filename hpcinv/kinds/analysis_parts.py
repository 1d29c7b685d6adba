r"""Joining the parts of an analysis: blocks of members, or blocks of dates of all members."""

from __future__ import annotations

__all__ = ["join_blocks_of_dates", "join_members"]

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..io.analysis import join
from ..io.atomic import roll
from ..io.join_frames import join_frames
from ..runs.folder import RunFolder
from . import arrays

if TYPE_CHECKING:
    from .assimilate import Assimilate
    from .base import Context


def join_members(job: Assimilate, ctx: Context, parts: list[Path]) -> str:
    r"""`analysis.nc` of members that lie in several folders.

    Returns:
        The digest of the analysis.
    """
    n, length = len(parts), job.axis(ctx.over)
    blocks = [job.held(ctx.over, arrays.block(length, n, k)) for k in range(n)]
    where = {
        m: (part / "members" / f"{m}.nc").relative_to(ctx.folder)
        for part, members in zip(parts, blocks, strict=True)
        for m in members
    }
    joined = join(ctx.folder, where)
    for part, members in zip(parts, blocks, strict=True):
        if roll(joined["members"][m] for m in members) != _told(part):
            raise BadInput("its members are not those its manifest tells of", part)
    return joined["digest"]


def join_blocks_of_dates(job: Assimilate, ctx: Context, parts: list[Path]) -> str:
    r"""Each member made of its blocks of frames, then `analysis.nc` of the members.

    Returns:
        The digest of the analysis, that of one written whole.
    """
    frames = []
    for part in parts:
        told = json.loads((part / "frames.json").read_text())
        if roll(roll(told[str(m)]) for m in range(job.members)) != _told(part):
            raise BadInput("its frames are not those its manifest tells of", part)
        frames.append(told)
    for m in range(job.members):
        files = [part / "members" / f"{m}.nc" for part in parts]
        join_frames(
            ctx.folder / "members" / f"{m}.nc", m, files, [told[str(m)] for told in frames]
        )
    return join(ctx.folder, range(job.members))["digest"]


def _told(part: Path) -> str:
    return RunFolder(part).manifest()["outputs"]["analysis"]
