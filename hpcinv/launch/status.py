r"""The state of every job of a runs folder, from its manifest, its progress and the queue."""

from __future__ import annotations

__all__ = ["JobStatus", "busy", "collect", "settle"]

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, nearest
from ..runs.folder import RunFolder
from ..runs.progress import read_progress
from .slurm import ALIVE, PENDING, account, queue


@dataclass
class JobStatus:
    r"""One row of `hpcinv status`."""

    name: str
    state: str
    attempt: int
    seconds: float | None
    done: float | None = None
    total: float | None = None
    what: str = ""
    eta: float | None = None
    rate: float | None = None
    slurm: str | None = None
    where: str = ""
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def collect(runs: Path, only: str | None = None) -> list[JobStatus]:
    r"""Rows of all jobs, or of `study` or `study/job`; at most two calls to Slurm.

    Raises:
        BadInput: If there is no such study or job.
    """
    study, _, job = (only or "").partition("/")
    if not runs.is_dir():
        raise BadInput("no runs here yet", runs, "Run or submit a study, or give --runs DIR.")
    manifests = sorted(runs.glob(f"{study or '*'}/{job or '*'}/manifest.json"))
    manifests = [m for m in manifests if not m.parent.name.startswith(".")]
    if only and not manifests:
        known = sorted({m.parent.parent.name for m in runs.glob("*/*/manifest.json")})
        raise BadInput(f"nothing named '{only}' has run", runs, nearest(study, known))
    folders = [RunFolder(m.parent) for m in manifests]
    data = [f.manifest() | f.submission() for f in folders]
    pending = [m for m in data if m["state"] in ("queued", "running", "stopped")]
    ids = [m["slurm_job"] for m in pending if m.get("slurm_job")]
    queued = queue(ids)
    ended = account([i for i in ids if i not in queued or queued[i].state not in ALIVE])
    rows = [_row(f, m, queued, ended) for f, m in zip(folders, data, strict=True)]
    order = {m.parent: m.stat().st_mtime for m in manifests}
    first = {
        f.path: (m["attempts"] or [{}])[0].get("started", order[f.path])
        for f, m in zip(folders, data, strict=True)
    }
    by_name = {f.name: first[f.path] for f in folders}
    return sorted(rows, key=lambda r: (r.name.split("/")[0], by_name[r.name], r.name))


def busy(folder: RunFolder) -> str | None:
    r"""Who is at work on a job, or None: a second start would push the first aside."""
    m = folder.manifest() | folder.submission()
    if m["state"] not in ("queued", "running", "stopped"):
        return None
    queued = queue([m["slurm_job"]]) if m.get("slurm_job") else {}
    state, _ = settle(m, queued, {})
    if m.get("slurm_job") in queued and state in ("queued", "starting", "running"):
        return f"is in the queue as job {m['slurm_job']} ({state})"
    last = (m["attempts"] or [{}])[-1]
    if state == "running" and "slurm" not in last and last.get("host") == platform.node():
        return f"runs already, in process {last['pid']}"
    return None


def settle(m: dict[str, Any], queued: dict, ended: dict[str, str]) -> tuple[str, str]:
    r"""The state as it really is, and a note: a killed job cannot say that it was killed."""
    state, id_ = m["state"], m.get("slurm_job")
    if state in ("queued", "running", "stopped") and id_:
        if id_ in queued and queued[id_].state in ALIVE:
            q = queued[id_]
            if q.state in PENDING:
                return "queued", q.reason
            return ("running" if state != "queued" else "starting"), ""
        how = ended.get(id_) or (queued[id_].state if id_ in queued else None)
        if how in (None, "COMPLETED") and state != "stopped":
            return state, "" if how is None else "its manifest is late"
        return ("stopped" if state == "stopped" else "failed"), how or ""
    if state == "running":
        last = m["attempts"][-1]
        here = last.get("host") == platform.node() and "slurm" not in last
        if here and not _alive(last["pid"]):
            return "interrupted", "its process is gone; run it again to go on"
    return state, m.get("message", "") if state in ("failed", "stopped") else ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _row(folder: RunFolder, m: dict[str, Any], queued: dict, ended: dict[str, str]) -> JobStatus:
    state, note = settle(m, queued, ended)
    attempts = m["attempts"]
    seconds = None
    if attempts:
        now = time.time() if state == "running" else attempts[-1]["started"]
        seconds = sum(max(0.0, a.get("ended", now) - a["started"]) for a in attempts)
    row = JobStatus(
        folder.name, state, len(attempts), seconds, slurm=m.get("slurm_job"), note=note
    )
    if attempts:
        last = attempts[-1]
        row.where = last.get("slurm", {}).get("nodes", last.get("host", ""))
    if state == "running" and (p := read_progress(folder.path)):
        late = max(0.0, time.time() - p["at"])
        row.done, row.total, row.what, row.rate = p["done"], p["total"], p["what"], p["rate"]
        row.eta = max(0.0, p["eta"] - late) if p["eta"] is not None else None
    return row
