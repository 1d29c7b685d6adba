r"""The state of every job of a runs folder, from its manifest, its progress and the queue.

Two questions to Slurm answer for everything: what is in the queue, and how what is no longer
there has ended. Tasks are counted by the names of their marks; manifests of tasks are opened
only where such a mark and the queue disagree.
"""

from __future__ import annotations

__all__ = ["OVER", "JobStatus", "busy", "collect", "folders", "settle"]

import os
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadInput, nearest
from ..runs.folder import RunFolder, spent
from ..runs.progress import read_progress
from ..runs.tasks import pace, states
from .batches import ARRAY
from .slurm import Element, Ended, account, queue
from .submission import Submission

OVER = ("complete", "failed", "interrupted", "cancelled")
OPEN = ("queued", "running", "stopped")  # of a manifest: Slurm knows more
SILENT = "Slurm does not answer"


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
    restarts: int = 0
    tasks: dict[str, int] | None = None
    failed: list[int] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def report(self, folder: Path) -> dict[str, Any] | None:
        r"""Progress to draw: of the tasks where there are some, else what the job last said."""
        if self.tasks is None:
            return read_progress(folder)
        return {
            "what": "tasks", "done": self.done, "total": self.total, "eta": self.eta,
            "seconds": self.seconds or 0.0, "figures": {},
        }  # fmt: skip


def folders(runs: Path, only: str | None = None) -> list[RunFolder]:
    r"""Run folders of all jobs, of a study, or of one job.

    Raises:
        BadInput: If there is no such study or job.
    """
    study, _, job = (only or "").strip("/").partition("/")
    if not runs.is_dir():
        raise BadInput("no runs here yet", runs, "Run or submit a study, or give --runs DIR.")
    found = sorted(runs.glob(f"{study or '*'}/{job or '*'}/manifest.json"))
    found = [m.parent for m in found if not m.parent.name.startswith(".")]
    if only and not found:
        known = sorted({m.parent.parent.name for m in runs.glob("*/*/manifest.json")})
        if study in known:
            known = [f"{study}/{m.parent.name}" for m in runs.glob(f"{study}/*/manifest.json")]
        raise BadInput(f"nothing named '{only}' has run", runs, nearest(only, known))
    return [RunFolder(p) for p in found]


def collect(runs: Path, only: str | None = None) -> list[JobStatus]:
    r"""Rows of all jobs, or of `study` or `study/job`; at most two calls to Slurm.

    Raises:
        BadInput: If there is no such study or job.
    """
    found = folders(runs, only)
    data = [(f, f.manifest(), Submission.of(f)) for f in found]
    pending = [(m, s) for _, m, s in data if m["state"] in OPEN]
    ids = list(dict.fromkeys(i for m, s in pending for i in [*s.ids, _id(m, s)] if i))
    queued = queue(ids)
    gone = [i for i in ids if not any(e.alive for e in (queued or {}).get(i, []))]
    partly = [s.slurm_job for _, sub in pending for s in sub.sent if s.step == ARRAY]
    past = dict.fromkeys([*gone, *filter(None, partly)])
    ended = account(past) if queued is not None else {}
    rows = [_row(f, m, s, queued and s.seen(queued), ended) for f, m, s in data]
    first = {
        f.name: s.sent[0].at if s.sent else (m["attempts"] or [{}])[0].get("started", 0.0)
        for f, m, s in data
    }
    return sorted(rows, key=lambda r: (r.name.split("/")[0], first[r.name], r.name))


def _id(m: dict[str, Any], sub: Submission) -> str | None:
    r"""The job's id in Slurm, also of a script that a person has sent by hand."""
    return sub.last or (m["attempts"] or [{}])[-1].get("slurm", {}).get("job")


def busy(folder: RunFolder) -> str | None:
    r"""Who is at work on a job, or None: a second start would push the first aside."""
    m, sub = folder.manifest(), Submission.of(folder)
    if m["state"] in OPEN and sub.ids:
        queued = queue(sub.ids)
        if live := sub.live(queued or {}):
            waits = all(e.waits for s in live for e in queued[s.slurm_job] if e.alive)
            how = "queued" if waits else "running"
            return f"is in the queue as job {live[-1].slurm_job} ({how})"
    at_work = [folder] if m["state"] == "running" else []
    at_work += [folder.of_task(k) for k, (s, _) in states(folder.path).items() if s == "running"]
    for each in at_work:
        last = (each.manifest()["attempts"] or [{}])[-1]
        here = last.get("host") == platform.node() and "slurm" not in last
        if here and last.get("state") == "running" and _alive(last["pid"]):
            return f"runs already, in process {last['pid']}"
    return None


def settle(
    m: dict[str, Any], id_: str | None, queued: dict[str, list[Element]] | None,
    ended: dict[str, Ended] | None, index: int | None = None,
) -> tuple[str, str]:  # fmt: skip
    r"""The state as it really is, and a note: a killed job cannot say that it was killed.

    Arguments:
        m: The manifest of a job or a task.
        id_: Its Slurm job, None where it had none.
        queued: What squeue says; None if it does not answer.
        ended: What sacct says; None where there is no accounting.
        index: Of an element of an array.
    """
    state = m["state"]
    if state in OPEN and id_:
        if queued is None:
            return state, SILENT
        mine = queued.get(id_, [])
        if index is not None:
            mine = [e for e in mine if e.indices == str(index) or e.waits]
        live = [e for e in mine if e.alive]
        if live and live[0].waits:
            return "queued", live[0].reason
        if live:
            return ("running" if state != "queued" else "starting"), ""
        past = (ended or {}).get(id_ if index is None else f"{id_}_{index}")
        how = past.state if past else (mine[-1].state if mine else None)
        if how == "COMPLETED" and state != "stopped":
            return state, "its manifest is late"
        if how and how.startswith("CANCELLED"):
            return "cancelled", how
        if state == "stopped":
            return "stopped", how or ""
        return "failed", how or "it left the queue without a word"
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


def _row(
    folder: RunFolder, m: dict[str, Any], sub: Submission,
    queued: dict[str, list[Element]] | None, ended: dict[str, Ended] | None,
) -> JobStatus:  # fmt: skip
    state, note = settle(m, _id(m, sub), queued, ended)
    attempts = m["attempts"]
    seconds = None
    if attempts:
        now = time.time() if state == "running" else attempts[-1]["started"]
        seconds = spent(attempts, now)
    row = JobStatus(folder.name, state, len(attempts), seconds, slurm=_id(m, sub), note=note)
    row.restarts = sum(a.get("slurm", {}).get("restart", "0") != "0" for a in attempts)
    if attempts:
        last = attempts[-1]
        row.where = last.get("slurm", {}).get("nodes", last.get("host", ""))
    if m["state"] != "complete" and ((folder.path / "states").is_dir() or not sub.whole):
        _tasks(row, folder, sub, queued, ended)
    elif state == "running" and (p := read_progress(folder.path)):
        late = max(0.0, time.time() - p["at"])
        row.done, row.total, row.what, row.rate = p["done"], p["total"], p["what"], p["rate"]
        row.eta = max(0.0, p["eta"] - late) if p["eta"] is not None else None
    return row


def _tasks(
    row: JobStatus, folder: RunFolder, sub: Submission,
    queued: dict[str, list[Element]] | None, ended: dict[str, Ended] | None,
) -> None:  # fmt: skip
    r"""Counts the tasks of an array that is not joined yet, and takes its state from them."""
    from ..kinds.study import load_resolved

    array = load_resolved(folder.path / "job.yaml").resources.array
    if array is None:
        return
    marks = states(folder.path)
    covered = sub.covered(queued or {})
    running = _running(sub, queued or {})
    found: dict[int, str] = {}
    for k in range(array.tasks):
        state = marks.get(k, ("waiting", 0))[0]
        if k in covered:
            state = "running" if k in running and state != "complete" else state
            if state in ("failed", "stopped") or (state == "running" and k not in running):
                state = "waiting"  # it is to start again
        elif state != "complete" and queued is not None:
            state = _gone(folder, k, state, sub, queued, ended)
        found[k] = state
    row.tasks = dict(Counter(found.values()))
    row.failed = [k for k, s in found.items() if s == "failed"]
    row.done, row.total, row.what = row.tasks.get("complete", 0), array.tasks, "tasks"
    row.rate, row.eta = pace(folder.path, int(row.done), array.tasks)
    row.slurm = ",".join(dict.fromkeys(s.slurm_job for s in sub.sent if s.slurm_job)) or row.slurm
    row.attempt = max((n for _, n in marks.values()), default=row.attempt)
    row.restarts = sum(n - 1 for _, n in marks.values() if n > 1)
    nodes = {e.nodes for s in sub.sent for e in (queued or {}).get(s.slurm_job or "", [])}
    if row.tasks.get("running"):
        row.state, row.note = "running", ""
        row.where = ",".join(sorted(n for n in nodes if n))
    elif covered:
        row.state = "queued"
        waits = [e for s in sub.sent for e in (queued or {}).get(s.slurm_job or "", []) if e.waits]
        row.note = waits[0].reason if waits else row.note
    elif row.failed:
        row.state = "failed"
    elif row.tasks.get("cancelled"):
        row.state = "cancelled"
    elif row.tasks.get("interrupted"):
        row.state = "interrupted"
    if row.state not in ("running", "complete"):
        row.eta = None
    if row.failed:
        shown = ", ".join(map(str, row.failed[:8])) + (", ..." if len(row.failed) > 8 else "")
        row.note = f"failed: task {shown}" + (f"; {row.note}" if row.note and covered else "")


def _running(sub: Submission, queued: dict[str, list[Element]]) -> set[int]:
    found: set[int] = set()
    for s in sub.sent:
        for e in queued.get(s.slurm_job or "", []) if s.step == ARRAY else ():
            if e.alive and not e.waits and e.indices.isdecimal():
                found.update(s.tasks(int(e.indices)))
    return found


def _gone(
    folder: RunFolder, k: int, state: str, sub: Submission,
    queued: dict[str, list[Element]], ended: dict[str, Ended] | None,
) -> str:  # fmt: skip
    r"""The state of a task that is not in the queue."""
    at = sub.element(k)
    if at is None:
        if state == "running":  # started here, without Slurm: its process is asked
            state, _ = settle(folder.of_task(k).manifest(), None, queued, ended)
        return state
    past = (ended or {}).get(f"{at[0]}_{at[1]}")
    mine = [e for e in queued.get(at[0], []) if e.indices == str(at[1])]
    how = past.state if past else (mine[-1].state if mine else "")
    if how.startswith("CANCELLED"):
        return "cancelled"
    if state == "waiting":
        return "waiting" if not how or how == "PENDING" else "failed"
    if state == "running":
        return "running" if how == "COMPLETED" else "failed"  # its mark is late
    return state
