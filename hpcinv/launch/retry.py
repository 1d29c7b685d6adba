r"""`hpcinv retry` and `hpcinv cancel`: a study is known by its run folders, its job files may be
elsewhere."""

from __future__ import annotations

__all__ = ["cancel_jobs", "retry"]

import os
import signal
from pathlib import Path
from typing import Any

import yaml

from ..errors import BadInput, nearest
from ..io.atomic import write_bytes
from ..kinds.study import Study, load_resolved
from ..runs.folder import RunFolder
from ..runs.tasks import forget, states
from .batches import spec
from .profile import load_profile
from .slurm import cancel, need_slurm, queue
from .status import busy, collect, folders
from .submission import Submission
from .submit import Delivery

AGAIN = ("failed", "stopped", "interrupted", "cancelled")


def retry(runs: Path, which: str, **resources: Any) -> Delivery:
    r"""Sends what has failed, and what hangs on it, again.

    Arguments:
        which: `study` or `study/job`; or `study/job/task`, which is done again even if it is
            complete (as are tasks whose folder was deleted).
        resources: Fields of `resources` that change for the jobs that failed.

    Raises:
        BadInput: If nothing of that name has failed.
    """
    which, task = _task(which)
    study = known(runs, which)
    need_slurm()
    for name in study.wanted:
        _forget(study, runs / study.name / name, name, task)
    rows = {r.name.partition("/")[2]: r for r in collect(runs, study.name)}
    asked = study.wanted
    # What never started because a job before it failed is `queued` or `prepared` and not here.
    bad = [n for n in asked if rows[n].state in AGAIN or rows[n].failed]
    if not bad:
        states_ = ", ".join(sorted({rows[n].state for n in asked}))
        raise BadInput(f"nothing of '{which}' has failed: it is {states_}", runs)
    hanging = list(bad)
    for name in study.order():
        if rows[name].state != "complete" and any(p in hanging for p in study.parents(name)):
            hanging.append(name)
    names = [n for n in study.order() if n in hanging]
    for name in bad:
        if resources:
            _change(study, runs / study.name / name / "job.yaml", name, resources)
    clusters = [c for n in names if (c := Submission.of(RunFolder(runs / study.name / n)).cluster)]
    delivery = Delivery(study, runs, load_profile(clusters[0] if clusters else None), names)
    for name in names:
        delivery.profile.check(name, study.jobs[name])
    delivery.go_on()
    return delivery


def _task(which: str) -> tuple[str, int | None]:
    r"""`study/job` and the task of `study/job/task`."""
    parts = which.strip("/").split("/")
    if len(parts) == 3 and parts[2].isdecimal():
        return "/".join(parts[:2]), int(parts[2])
    return which, None


def _forget(study: Study, path: Path, name: str, task: int | None) -> None:
    r"""Makes an array incomplete again: a task that is named, or those that were deleted."""
    array, folder = study.jobs[name].resources.array, RunFolder(path)
    if task is not None and (array is None or task >= array.tasks):
        last = f"The tasks are 0 to {array.tasks - 1}." if array else "It is no array."
        raise BadInput(f"{study.name}/{name} has no task {task}", path, last)
    if array is None or (task is None and folder.manifest()["state"] != "complete"):
        return
    if who := busy(folder):
        raise BadInput(f"{folder.name} {who}", path, "Wait for its end, or cancel it.")
    # A job that was never cut has no tasks to lose.
    there = {p.name for p in (path / "tasks").glob("*")} or set(map(str, range(array.tasks)))
    again = [k for k in range(array.tasks) if k == task or str(k) not in there]
    for k in again:
        if folder.of_task(k).exists:
            folder.of_task(k).set_aside()
        forget(path, k)
    if again:
        folder.mark(state="stopped", message=f"tasks to be done again: {spec(again)}")


def known(runs: Path, which: str) -> Study:
    r"""The study of some run folders; `wanted` are the jobs named.

    Raises:
        BadInput: If none is named, or there is none of that name.
    """
    if not which:
        names = [p.name for p in sorted(runs.iterdir()) if p.is_dir()] if runs.is_dir() else []
        raise BadInput("no study is named", runs, nearest("", names) or "Nothing has run here.")
    asked = [f.path.name for f in folders(runs, which)]
    name = which.partition("/")[0]
    study = Study(name, runs / name)
    for f in folders(runs, name):
        study.jobs[f.path.name] = load_resolved(f.path / "job.yaml")
    study.wanted = asked
    return study


def _change(study: Study, path: Path, name: str, resources: dict[str, Any]) -> None:
    r"""Writes other resources into a resolved job file; what is computed stays."""
    text = path.read_text()
    head = "".join(x for x in text.splitlines(True) if x.startswith("#"))
    data = yaml.safe_load(text)
    data["resources"] |= resources
    write_bytes(path, (head + yaml.safe_dump(data, sort_keys=False)).encode())
    study.jobs[name] = load_resolved(path)


def cancel_jobs(runs: Path, which: str) -> list[str]:
    r"""Cancels what waits or runs, in Slurm and here; returns a line for each.

    Raises:
        BadInput: If nothing is named, or Slurm does not answer.
    """
    said: list[str] = []
    study = known(runs, which)
    subs = [Submission.of(RunFolder(runs / study.name / n)) for n in study.wanted]
    ids = [i for s in subs for i in s.ids]
    queued = queue(ids)
    if queued is None:
        raise BadInput("Slurm does not answer", which, "Run the same command again later.")
    live = {s.folder.name: [b.slurm_job for b in s.live(queued)] for s in subs}
    cancel(i for found in live.values() for i in found)
    said += [f"{n}: cancelled job {', '.join(found)}" for n, found in live.items() if found]
    for sub in subs:
        if not live[sub.folder.name] and busy(sub.folder):
            for at in [sub.folder, *map(sub.folder.of_task, states(sub.folder.path))]:
                last = (at.manifest()["attempts"] or [{}])[-1]
                if last.get("state") == "running" and "slurm" not in last:
                    os.kill(last["pid"], signal.SIGTERM)
                    said.append(f"{at.name}: asked process {last['pid']} to save and stop")
    return said
