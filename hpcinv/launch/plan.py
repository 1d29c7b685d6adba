r"""`hpcinv plan`: what a study would do, and what it would ask of the cluster. No torch here."""

from __future__ import annotations

__all__ = ["plan_table"]

from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..kinds.prepare import (
    changed,
    complete,
    input_digests,
    input_folders,
    nothing_made,
    place,
)
from ..kinds.study import Study
from ..runs.progress import clock
from .profile import Profile
from .script import scripts


def state(study: Study, runs: Path, name: str) -> str:
    r"""`to run`, `complete`, or what an earlier start left."""
    folder = place(study, runs, name)
    if not folder.exists:
        return "to run"
    if changed(folder, study.resolved(name)):
        return "to run" if nothing_made(folder) else "other fields there: --fresh"
    try:
        if complete(folder, input_digests(input_folders(study, runs, name), study.jobs[name])):
            return "complete"
    except BadInput:
        return "to run"
    s = folder.manifest()["state"]
    return {"prepared": "to run", "complete": "to run (inputs changed)"}.get(s, f"to go on ({s})")


def plan_table(study: Study, runs: Path, profile: Profile) -> Any:
    r"""The DAG in the order it runs: job, what it waits for, ranks, memory, time limit."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, right in (
        ("job", 0),
        ("kind", 0),
        ("after", 0),
        ("nodes", 1),
        ("ranks", 1),
        ("cpus", 1),
        ("gpus", 1),
        ("memory", 1),
        ("limit", 1),
        ("state", 0),
        ("what", 0),
    ):
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    hours = gpu_hours = 0.0
    moving: set[str] = set()  # jobs whose results will be new
    for name in study.order():
        if name not in study.wanted:
            continue
        job = study.jobs[name]
        r = job.resources
        cpus = (r.cpus_per_task or profile.cpus_per_task) * r.tasks
        starts = -(-r.array.tasks // r.array.pack) if r.array else 1
        hours += cpus * r.time / 3600 * starts
        gpu_hours += r.gpus_per_task * r.tasks * r.time / 3600 * starts
        now = state(study, runs, name)
        if now == "complete" and moving & set(study.parents(name)):
            now = "to run (inputs change)"
        if now != "complete":
            moving.add(name)
        profile.check(name, job)
        what = [f"{k} {v}" for k, v in job.figures(study, name).items()]
        if r.array:
            at_once = f", {r.array.throttle} at once" if r.array.throttle else ""
            calls = len(scripts(job, profile)) - 1
            sent = f" in {calls} arrays" if calls > 1 else ""
            what.append(f"{r.array.tasks} tasks over {r.array.over}{at_once}{sent}")
        table.add_row(
            name,
            job.kind,
            ", ".join(study.parents(name)),
            f"{starts} × {r.nodes}" if r.array else str(r.nodes),
            str(r.tasks),
            str(cpus),
            str(r.gpus_per_task * r.tasks or ""),
            f"{r.mem_per_task * r.tasks / 1e9:g} GB",
            clock(r.time),
            now,
            "; ".join(what),
        )
    table.caption = (
        f"at most {hours:.3g} core hours"
        + (f", {gpu_hours:.3g} GPU hours" if gpu_hours else "")
        + f"; cluster profile '{profile.name}'"
    )
    table.caption_justify = "left"
    return table
