r"""The sampler's state on disk: whole or absent, and readable by any number of ranks.

Each rank writes its members and frames under a new tag ``step-<n>-a<attempt>``; rank 0 collects
the digests into the tag's manifest and only then moves ``latest``. A tag is never reused.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..io.atomic import sync

__all__ = ["Checkpoint", "Saved"]


@dataclass(frozen=True)
class Checkpoint:
    r"""Where and how often a run saves itself.

    Arguments:
        folder: The folder of tags.
        every: Steps between two checkpoints; 0: no such rule.
        attempt: The number of this start of the job.
        keep: Whole tags kept.
        minutes: Minutes after which the next step saves; 0: no such rule. Without either rule a
            run saves only when asked to stop.
        final: Also save after the last step, so that a run that is repeated costs one call.
    """

    folder: str | os.PathLike
    every: int = 0
    attempt: int = 0
    keep: int = 2
    minutes: float = 0.0
    final: bool = False


@dataclass
class Saved:
    r"""A rank's state after ``step`` steps: x and remembered means, each (m, own, *state)."""

    step: int
    tensors: list[Tensor]
    events: list[dict]


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def save(
    place: Checkpoint,
    world: Any,
    saved: Saved,
    members: Sequence[int],
    frames: tuple[int, int],
    identity: dict,
) -> Path:
    r"""Saves all ranks' states; a collective of the world.

    Arguments:
        members: Global ids of this rank's members.
        frames: This rank's own frames [a, b).
        identity: What the run is; a run that differs refuses to resume from it.
    """

    folder = Path(place.folder)
    name = f"step-{saved.step}-a{place.attempt}"
    tag, failure = folder / name, None
    if world.rank == 0:
        try:
            while tag.exists():  # left unfinished by an earlier start with the same number
                name += "b"
                tag = folder / name
            tag.mkdir(parents=True)
        except OSError as error:
            failure = str(error)
    name, failure = world.broadcast([name, failure])
    if failure:
        raise OSError(f"no checkpoint folder {tag}: {failure}")
    tag = folder / name

    entry = {"rank": world.rank, "members": list(members), "frames": list(frames)}
    try:
        digests = []
        for k, tensor in enumerate(saved.tensors):
            array = tensor.detach().cpu().contiguous().numpy()
            path = tag / f"rank-{world.rank}-{k}.npy"
            with open(path, "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            digests.append(_digest(path))
        entry |= {"digests": digests, "events": saved.events}
    except OSError as error:
        entry["failure"] = str(error)

    entries = world.all_gather(entry)
    failures = [f"rank {e['rank']}: {e['failure']}" for e in entries if "failure" in e]
    if failures:
        raise OSError(f"checkpoint {tag} is incomplete, the one before stays: {failures[0]}")
    failure = None
    if world.rank == 0:
        try:
            manifest = {"step": saved.step, "identity": identity, "ranks": entries}
            _write(tag / "manifest.json", json.dumps(manifest).encode())
            sync(tag)
            scratch = folder / f"latest.{os.getpid()}"
            _write(scratch, name.encode())
            os.replace(scratch, folder / "latest")
            sync(folder)
            _prune(folder, place.keep, name)
        except OSError as error:  # told to all, so that none waits
            failure = str(error)
    if failure := world.broadcast(failure):
        raise OSError(f"checkpoint {tag} is not committed, the one before stays: {failure}")

    return tag


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _tags(folder: Path) -> list[str]:
    r"""Whole tags, the newest first."""

    whole = [p.parent for p in folder.glob("step-*/manifest.json")]
    return [
        p.name for p in sorted(whole, key=lambda p: (_step(p), p.stat().st_mtime), reverse=True)
    ]


def _step(tag: Path) -> int:
    return int(tag.name.split("-")[1])


def _prune(folder: Path, keep: int, latest: str) -> None:
    for name in _tags(folder)[max(keep, 1) :]:
        if name == latest:
            continue
        # The manifest goes first: what is left is no tag any more.
        for path in [folder / name / "manifest.json", *(folder / name).glob("rank-*.npy")]:
            path.unlink(missing_ok=True)
        (folder / name).rmdir()


def load(
    place: Checkpoint,
    world: Any,
    members: Sequence[int],
    frames: tuple[int, int],
    identity: dict,
) -> Saved | None:
    r"""The newest whole state, cut for this rank; a collective of the world.

    A damaged tag is reported and the one before is tried.

    Raises:
        BadInput: If the checkpoint belongs to a run with other settings.
    """

    folder = Path(place.folder)
    names: list[str] = []
    if world.rank == 0 and folder.is_dir():
        names = _tags(folder)
        if (folder / "latest").exists():
            first = (folder / "latest").read_text().strip()
            if first in names:  # tags newer than `latest` were never committed
                names = names[names.index(first) :]
    names = world.broadcast(names)

    for name in names:
        saved, problem = None, ""
        try:
            manifest = json.loads((folder / name / "manifest.json").read_text())
            saved = _read(folder / name, manifest, members, frames)
        except (OSError, ValueError, KeyError) as error:
            problem = f"rank {world.rank}: {error}"
        problems = [p for p in world.all_gather(problem) if p]
        if not problems:
            if manifest["identity"] != identity:
                keys = {*manifest["identity"], *identity}
                odd = sorted(k for k in keys if manifest["identity"].get(k) != identity.get(k))
                raise BadInput(
                    f"the checkpoint {name} is of a run with other {', '.join(odd)}",
                    where=str(folder),
                    instead="Use the same settings, or another folder.",
                )
            return saved
        if world.rank == 0:
            warnings.warn(f"checkpoint {name} is damaged ({problems[0]})", stacklevel=2)

    return None


def _read(tag: Path, manifest: dict, members: Sequence[int], frames: tuple[int, int]) -> Saved:
    r"""This rank's share of a tag.

    Raises:
        ValueError: If a file is damaged or something is missing.
    """

    row = {m: i for i, m in enumerate(members)}
    a, b = frames
    out: list[Tensor] = []
    missing = np.ones((len(members), b - a), bool)
    for entry in manifest["ranks"]:
        c, d = entry["frames"]
        mine = [(row[m], i) for i, m in enumerate(entry["members"]) if m in row]
        lo, hi = max(a, c), min(b, d)
        # An empty share still says how many tensors there are and of what shape.
        if out and (not mine or lo >= hi):
            continue
        for k, digest in enumerate(entry["digests"]):
            path = tag / f"rank-{entry['rank']}-{k}.npy"
            if _digest(path) != digest:
                raise ValueError(f"{path.name} does not match its digest")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if len(out) <= k:
                shape = (len(members), b - a, *array.shape[2:])
                out.append(torch.zeros(shape, dtype=torch.from_numpy(array[:0].copy()).dtype))
            if lo < hi:
                for to, i in mine:
                    piece = np.array(array[i, lo - c : hi - c])
                    out[k][to, lo - a : hi - a] = torch.from_numpy(piece)
                    missing[to, lo - a : hi - a] = False
    if missing.any():
        raise ValueError("members or frames are missing")
    # What happened to my members: told by the rank that stored the same frames, or, on another
    # number of ranks, by the slab that starts the trajectory.
    events = [
        event
        for e in manifest["ranks"]
        for event in e["events"]
        if event["member"] in row and (e["frames"] == [a, b] or a == 0)
    ]

    return Saved(manifest["step"], out, events)
