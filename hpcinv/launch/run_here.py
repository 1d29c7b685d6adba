r"""`hpcinv run`: the jobs of a study, one after another, on this machine."""

from __future__ import annotations

__all__ = ["run_here"]

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import EXIT_STOPPED, BadInput
from ..kinds.arrays import JOIN, inputs_of_task
from ..kinds.base import Job, references
from ..kinds.prepare import (
    changed,
    complete,
    cut_alike,
    input_digests,
    input_folders,
    place,
    prepare,
)
from ..kinds.study import Study
from ..runs.folder import RunFolder
from ..runs.progress import read_progress
from .local import start, threads_per_rank
from .show import Screen
from .status import busy


def ranks_of(study: Study, name: str, ranks: int | None) -> int:
    r"""Ranks of a job here.

    `--ranks` of a study is for its MPI jobs, whose results do not depend on it; training keeps
    the number its job file says, since it is part of its arithmetic (how a batch is summed). Given
    with one job's file, it holds for that job.
    """
    job = study.jobs[name]
    if job.backend == "none":
        return 1
    if ranks is None or (job.backend == "torch" and len(study.wanted) > 1):
        return job.resources.tasks
    return ranks


def run_here(study: Study, runs: Path, ranks: int | None, fresh: bool) -> int:
    r"""Runs what is not complete yet; returns the exit code.

    Raises:
        BadInput: For mistakes known before anything runs.
    """
    study.check()
    names = [n for n in study.order() if n in study.wanted]
    for name in names:
        study.jobs[name].fetch()
    for name in names:
        if who := busy(place(study, runs, name)):
            raise BadInput(
                f"{study.name}/{name} {who}",
                place(study, runs, name).path,
                "Wait for it, end it, or give --runs DIR.",
            )
    for name in names:
        prepare(study, runs, name, fresh)
    screen = Screen()
    try:
        for name in names:
            code = _one(study, runs, name, ranks, screen)
            if code:
                left = len(names) - names.index(name) - 1
                if left:
                    screen.say(f"{left} jobs after it were not started")
                return code
        return 0
    finally:
        screen.close()


def _one(study: Study, runs: Path, name: str, ranks: int | None, screen: Screen) -> int:
    folder = place(study, runs, name)
    job = study.jobs[name]
    sources = input_folders(study, runs, name)
    inputs = input_digests(sources, job)
    if complete(folder, inputs):
        screen.job(name, "complete", "nothing to do")
        return 0
    if folder.manifest()["state"] == "complete":
        screen.say(f"  {name}: its inputs have changed; the old run is set aside")
        folder.set_aside()
        folder = prepare(study, runs, name)
    for note in other_inputs(study, runs, name):
        screen.say(f"  {note}")
    n = ranks_of(study, name, ranks)
    attempt = len(folder.manifest()["attempts"]) + 1
    array = job.resources.array
    many = f"{n} rank{'s' * (n > 1)}" + (f", {array.tasks} tasks" if array else "")
    again = f", attempt {attempt}" if attempt > 1 else ""
    screen.job(name, "running", f"({many}{again})")
    if n > (cores := len(os.sched_getaffinity(0))):
        screen.say(f"  {n} ranks share {cores} core{'s' * (cores > 1)}: they take turns")

    def watch(at: RunFolder) -> None:
        screen.watch(name, read_progress(at.path))

    same = cut_alike(sources, job)
    for step in [*range(array.tasks), JOIN] if array else [None]:
        mine = inputs_of_task(inputs, same, step) if isinstance(step, int) else inputs
        code, at, log = _step(job, folder, step, mine, n, watch)
        if code == EXIT_STOPPED:
            screen.job(name, "stopped", "saved; the same command goes on from there")
            return code
        if code or at.manifest()["state"] != "complete":
            screen.job(name, "failed", f"in task {step}" if at.task is not None else "")
            screen.say(cause(at.path, log, code))
            return code or 1
    screen.job(name, "complete", last_line(log))
    return 0


def other_inputs(study: Study, runs: Path, name: str) -> list[str]:
    r"""Notes of inputs that are there, but were made with other fields than the files now say:
    by an override, which is as it should be, or before the files were changed."""
    notes = []
    for _, ref, _ in references(study.jobs[name]):
        if ref not in study.jobs or ref in study.wanted:
            continue  # jobs asked for are compared by `prepare`
        there = place(study, runs, ref)
        if there.exists and (found := changed(there, study.resolved(ref))):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            notes.append(f"{name}: its input '{ref}' was made with other fields: {found[0]}{more}")
    return notes


def _step(
    job: Job,
    folder: RunFolder,
    step: int | str | None,
    inputs: dict[str, Any],
    ranks: int,
    watch: Callable[[RunFolder], None],
) -> tuple[int, RunFolder, Path]:
    r"""Runs a job, or a task or the join of an array; its exit code, its folder and its log."""
    at = folder.of_task(step) if isinstance(step, int) else folder
    log = at.logs / f"attempt-{len(at.manifest()['attempts']) + 1}.log"
    if complete(at, inputs):
        return 0, at, log
    at.logs.mkdir(parents=True, exist_ok=True)
    backend, n = ("none", 1) if step == JOIN else (job.backend, ranks)
    threads = threads_per_rank(n, job.resources.cpus_per_task, getattr(job, "reproducible", False))
    code = start(folder.path / "job.yaml", backend, n, threads, log, lambda: watch(at), step=step)
    return code, at, log


def last_line(log: Path) -> str:
    r"""What the job said before its closing line, for the summary."""
    lines = [x for x in log.read_text(errors="replace").splitlines() if x.strip()]
    said = [
        x for x in lines if not x.startswith(("hpcinv", "importing")) and " complete in " not in x
    ]
    return said[-1].strip()[:90] if said else ""


def cause(folder: Path, log: Path, code: int) -> str:
    r"""Why a job failed: the first failing rank's own words, else the end of the log."""
    try:
        report = json.loads((folder / "failure.json").read_text())
        return f"  rank {report['rank']}: {report['error']}\n  log: {log}"
    except (FileNotFoundError, ValueError):
        lines = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
    tail = "\n".join(f"    {x}" for x in lines)
    how = f"ended by signal {code - 128}" if code > 128 else f"exit code {code}"
    return f"  {how}; the end of its log:\n{tail}\n  log: {log}"
