r"""`hpcinv why`: the cause of a failure in one line, the line that shows it, and what to do."""

from __future__ import annotations

__all__ = ["Explanation", "explain", "why"]

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..kinds.base import references
from ..kinds.study import load_resolved
from ..runs.folder import RunFolder
from .causes import Evidence, judge
from .slurm import account, queue
from .status import JobStatus, collect
from .submission import Submission

TAIL = 256 << 10  # bytes of a log that are read
SHOWN = 20  # failed tasks that are looked at
# After it the ranks try once more; after the third try nothing does.
AGAIN = re.compile(r"^=== hpcinv: the ranks did not meet .*try [12] of 3$", re.MULTILINE)
WELL = ("complete", "running", "starting")
WAITING = {
    "Resources": "it waits for nodes to become free",
    "Priority": "jobs with a higher priority come first",
    "Dependency": "it waits for another job to end",
    "JobArrayTaskLimit": "as many tasks run as its throttle allows",
    "BeginTime": "Slurm starts it again in a moment",
}


@dataclass
class Explanation:
    r"""What is known of why a job, or some tasks of it, are where they are."""

    job: str
    state: str
    cause: str
    says: str
    line: str = ""
    do: str = ""
    tasks: list[int] | None = None
    rank: int | None = None
    node: str = ""
    log: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        where = [f"rank {self.rank}"] if self.rank is not None else []
        where += [self.node] if self.node else []
        if self.tasks:
            some = ", ".join(map(str, self.tasks[:8])) + (", ..." if len(self.tasks) > 8 else "")
            where.insert(0, f"task{'s' * (len(self.tasks) > 1)} {some}")
        at = f" ({'; '.join(where)})" if where else ""
        out = [f"{self.job} {self.state}: {self.cause}: {self.says}{at}"]
        out += [f"  {self.line}"] if self.line else []
        out += [f"  what to do: {self.do}"] if self.do else []
        return out + ([f"  log: {self.log}"] if self.log else [])


def why(runs: Path, which: str | None = None) -> list[Explanation]:
    r"""Explanations for every job that is not well, causes before what hangs on them.

    Arguments:
        which: `study`, `study/job` or `study/job/task`.

    Raises:
        BadInput: If there is no such job.
    """
    parts = (which or "").strip("/").split("/")
    task = int(parts[2]) if len(parts) == 3 and parts[2].isdecimal() else None
    rows = collect(runs, "/".join(parts[:2]) or None)
    if task is not None:
        rows[0].failed = [task]
    found = [
        x
        for r in rows
        if task is not None or r.state not in WELL or r.failed
        for x in _explain(runs, r)
    ]
    return sorted(found, key=lambda x: x.cause == "unmet dependency")


def explain(runs: Path, row: JobStatus) -> Explanation:
    r"""The first explanation for one row."""
    return _explain(runs, row)[0]


def _explain(runs: Path, row: JobStatus) -> list[Explanation]:
    folder = RunFolder(runs / row.name)
    sub = Submission.of(folder)
    ids = [*sub.ids, *([row.slurm] if row.slurm and not sub.ids else [])]
    queued, ended = queue(ids) or {}, account(ids) or {}
    if row.state == "prepared" and not sub.refused:
        return [Explanation(row.name, row.state, "not sent", "it has not been submitted or run")]
    if row.failed:
        return _of_tasks(folder, sub, row, queued, ended)
    id_ = sub.last or row.slurm
    e = _slurm(id_, None, queued, ended)
    _words(e, folder, id_ and f"slurm-{id_}.log")
    if sub.refused:
        e.log += f"\n{sub.refused}"
    if row.state == "queued":
        e = Evidence(e.state, row.note or e.reason)
    x = _verdict(row.name, row.state, e, folder, id_ and f"slurm-{id_}.log")
    if x.cause in ("cancelled", "unknown", "waiting", "unmet dependency"):
        bad = ("failed",) if row.state == "queued" else ("failed", "running", "stopped", "queued")
        if blocked := _blocked(folder, bad):
            x.cause, x.says, x.line = "unmet dependency", f"{blocked} did not end well", ""
            x.do = f"See 'hpcinv why {blocked}'; hpcinv retry then sends both."
    return [x]


def _of_tasks(
    folder: RunFolder, sub: Submission, row: JobStatus, queued: dict, ended: dict
) -> list[Explanation]:
    r"""One explanation for each cause, with the tasks it has stopped."""
    found: dict[str, Explanation] = {}
    for k in row.failed[:SHOWN]:
        task, at = folder.of_task(k), sub.element(k)
        e = _slurm(at and at[0], at and at[1], queued, ended)
        log = at and f"slurm-{at[0]}_{at[1]}.log"
        _words(e, task, log)
        x = _verdict(row.name, "failed", e, task, log)
        if x.cause in found:
            found[x.cause].tasks.append(k)
        else:
            x.tasks = [k]
            found[x.cause] = x
    if len(row.failed) > SHOWN:
        x = next(iter(found.values()))
        x.says += f" ({len(row.failed)} tasks failed, {SHOWN} were looked at)"
    return list(found.values())


def _slurm(id_: str | None, index: int | None, queued: dict, ended: dict) -> Evidence:
    past = ended.get(id_ if index is None else f"{id_}_{index}")
    mine = queued.get(id_ or "", [])
    if index is not None:
        mine = [e for e in mine if e.indices == str(index)]
    e = Evidence()
    if mine:
        e.state, e.reason = mine[-1].state, mine[-1].reason
    if past:
        e.state, e.code = past.state, past.code
    return e


def _words(e: Evidence, folder: RunFolder, log: str | None) -> None:
    r"""Adds what the first failing rank and the log say."""
    try:
        report = json.loads((folder.path / "failure.json").read_text())
        head = "hpcinv: " if report["code"] == 2 else ""
        e.error = f"{head}{report['error']}\n{report['traceback']}"
    except (OSError, ValueError, KeyError):
        e.error = ""
    path = _log(folder, log)
    if path is not None:
        e.log += last_start(path)


def _log(folder: RunFolder, name: str | None) -> Path | None:
    r"""The log of a Slurm job, or the newest one of a job that ran here."""
    if name and (folder.run / "logs" / name).exists():
        return folder.run / "logs" / name
    logs = sorted(folder.logs.glob("*.log"), key=lambda p: p.stat().st_mtime)
    return logs[-1] if logs else None


def last_start(path: Path) -> str:
    r"""The end of a log, from the last start of the job on; of a start whose ranks met at a
    second try, that try: what hindered the first one did not end the job."""
    with open(path, "rb") as f:
        f.seek(max(0, path.stat().st_size - TAIL))
        text = f.read().decode(errors="replace").replace("\r", "\n")
    text = text[max(0, text.rfind("=== hpcinv: job ")) :]
    last = AGAIN.split(text)[-1]
    return last if last.strip() else text


def _verdict(job: str, state: str, e: Evidence, folder: RunFolder, log: str | None) -> Explanation:
    found = judge(e)
    path = _log(folder, log)
    x = Explanation(job, state, "unknown", "nobody says why", log=str(path or ""))
    if state == "interrupted" and found is None:
        x.cause, x.says = "interrupted", "its process is gone, and its log says no reason"
        x.do = "Run it again: it goes on from its last checkpoint."
    if state == "queued" and (found is None or found[0].name == "cancelled"):
        x.cause, x.says = "waiting", WAITING.get(e.reason, f"Slurm's reason is {e.reason}")
        return x
    if found is not None:
        rule, x.line = found
        x.cause, x.says, x.do = rule.name, rule.says, rule.do
    elif e.log.strip():
        x.line = e.log.strip().splitlines()[-1].strip()
        x.do = x.do or "Read the log; its last line is above."
    x.line = x.line[:400]
    try:
        report = json.loads((folder.path / "failure.json").read_text())
        x.rank, x.node = report["rank"], report.get("node", "")
    except (OSError, ValueError, KeyError):
        attempts = folder.manifest()["attempts"]
        x.node = attempts[-1].get("slurm", {}).get("nodes", "") if attempts else ""
    return x


def _blocked(folder: RunFolder, bad: tuple[str, ...]) -> str | None:
    r"""A job this one waits for whose manifest is in one of these states."""
    job = load_resolved(folder.path / "job.yaml")
    refs = [r for _, r, _ in references(job) if not Path(r).is_absolute()]
    for name in [*refs, *job.after]:
        parent = RunFolder(folder.path.parent / name)
        if parent.exists and parent.manifest()["state"] in bad:
            return parent.name
    return None
