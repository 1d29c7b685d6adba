r"""`hpcinv submit`: a study goes to Slurm in one go, with its dependencies."""

from __future__ import annotations

__all__ = ["submit_study", "wait"]

import time
from pathlib import Path

from ..errors import EXIT_FAILED, BadInput
from ..kinds.prepare import complete, input_digests, input_folders, place, prepare
from ..kinds.study import Study
from ..runs.folder import RunFolder
from .estimate import refuse_what_cannot_fit
from .profile import Profile
from .run_here import cause
from .script import render
from .show import Screen
from .slurm import ALIVE, check_partition, need_slurm, queue, submit
from .status import collect


def submit_study(study: Study, runs: Path, profile: Profile) -> list[RunFolder]:
    r"""Submits every job that is neither complete nor already in the queue.

    Returns:
        The folders of all jobs asked for.

    Raises:
        BadInput: For mistakes known before anything is queued, or what Slurm refuses.
    """
    need_slurm()
    study.check()
    check_partition(profile.partition, profile.name)
    refuse_what_cannot_fit(study, runs, profile)
    names = [n for n in study.order() if n in study.wanted]
    for name in names:
        study.jobs[name].fetch()
    sent = {n: place(study, runs, n).submission().get("slurm_job") for n in names}
    known = queue([i for i in sent.values() if i])
    ids = {n: i for n, i in sent.items() if i in known and known[i].state in ALIVE}
    for name in names:
        if name not in ids:
            prepare(study, runs, name)
    for name in names:
        folder = place(study, runs, name)
        after = [ids[p] for p in study.parents(name) if p in ids]
        if name in ids:
            print(f"{folder.name} is in the queue already, as job {ids[name]}")
            continue
        if not after and _complete(study, runs, name):
            print(f"{folder.name} is complete")
            continue
        if folder.manifest()["state"] == "complete":
            folder.set_aside()
            folder = prepare(study, runs, name)
        script = render(folder.name, study.jobs[name], profile, folder.path)
        before = folder.manifest()["state"]
        folder.mark(state="queued")
        try:
            ids[name] = submit(script, folder.logs, after)
        except BadInput:
            folder.mark(state=before)
            raise
        folder.submitted(ids[name])
        waits = f" after {', '.join(after)}" if after else ""
        print(f"{folder.name} is job {ids[name]}{waits}", flush=True)
    return [place(study, runs, n) for n in names]


def _complete(study: Study, runs: Path, name: str) -> bool:
    try:
        inputs = input_digests(input_folders(study, runs, name), study.jobs[name])
    except BadInput:
        if any(p not in study.wanted for p in study.parents(name)):
            raise
        return False
    return complete(place(study, runs, name), inputs)


def wait(folders: list[RunFolder], runs: Path) -> int:
    r"""Shows the jobs until all have ended; returns the exit code.

    Ctrl-C leaves the jobs running.
    """
    screen = Screen()
    study = folders[0].path.parent.name
    names = {f.name: f for f in folders}
    seen: dict[str, str] = {}
    late: dict[str, float] = {}
    try:
        while True:
            rows = [r for r in collect(runs, study) if r.name in names]
            over = 0
            for row in rows:
                job = row.name.partition("/")[2]
                folder = names[row.name]
                state = row.state
                if row.note == "its manifest is late":  # a slow shared filesystem: give it time
                    first = late.setdefault(row.name, time.monotonic())
                    state = "running" if time.monotonic() - first < 60 else "failed"
                if state == "running":
                    screen.watch(job, folder.path)
                if state != seen.get(row.name):
                    if state in ("running", "complete", "failed"):
                        screen.job(job, state, f"job {row.slurm}" if row.slurm else "")
                    if state == "failed":
                        log = folder.logs / f"slurm-{row.slurm}.log"
                        screen.say(cause(folder.path, log, 1) if log.exists() else f"  {row.note}")
                    seen[row.name] = state
                over += state in ("complete", "failed", "interrupted")
            if over == len(names):
                return EXIT_FAILED if any(s != "complete" for s in seen.values()) else 0
            time.sleep(1)
    except KeyboardInterrupt:
        screen.close()
        print(
            f"\nThe jobs go on. To look again: hpcinv status {study} --runs {runs}\n"
            "To wait again: the same submit command with --wait."
        )
        return 0
    finally:
        screen.close()
