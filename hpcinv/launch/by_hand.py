r"""`hpcinv plan --sbatch DIR`: the scripts that `submit` sends, for sending them by hand."""

from __future__ import annotations

__all__ = ["write_scripts"]

from pathlib import Path

from ..io.atomic import write_bytes
from ..kinds.prepare import place
from ..kinds.study import Study
from .batches import ARRAY, JOIN, follows
from .profile import Profile
from .script import render, scripts, template


def write_scripts(study: Study, runs: Path, profile: Profile, folder: Path) -> list[Path]:
    r"""Writes the scripts `submit` would send, the resolved job files, and `submit.sh`.

    `submit.sh` makes the run folders and sends the scripts with their dependencies, job by job;
    it leaves nothing out that is complete already.

    Returns:
        The sbatch scripts, in the order they are sent.
    """
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    order = [n for n in study.order() if n in study.wanted]
    steps, ids = [], {}
    for i, name in enumerate(order, start=1):
        run, job = place(study, runs, name), study.jobs[name]
        batches = scripts(job, profile)
        parents = [p for p in study.parents(name) if p in ids]
        twins = [p for p in parents if follows(job, p, study.jobs[p])]
        sends, mine = [], []
        for n, batch in enumerate(batches):
            part = {ARRAY: f".array{n}" if len(batches) > 2 else ".array", JOIN: ".join"}
            script = folder / f"{i:02d}_{name}{part.get(batch.step, '')}.sbatch"
            write_bytes(script, render(run.name, job, profile, run.path, batch).encode())
            written.append(script)
            waits = [ids[p] for p in parents if p not in twins]
            if batch.step == JOIN:
                waits = mine + [ids[p] for p in twins]
            held = [f"afterok:{':'.join(f'$j{w}' for w in waits)}"] if waits else []
            if batch.step == ARRAY:
                held += [f"aftercorr:$j{order.index(p) + 1}_{n}" for p in twins]
            if batch.after is not None:
                held.append(f"afterany:$j{mine[batch.after]}")
            mine.append(f"{i}_{n}" if batch.step == ARRAY else f"{i}")
            sends.append({"id": mine[-1], "script": script.name, "after": ",".join(held)})
        ids[name] = mine[-1]
        file = f"{i:02d}_{name}.yaml"
        write_bytes(folder / file, study.resolved(name).encode())
        steps.append({"name": run.name, "folder": run.path, "file": file, "sends": sends})
    said = {"study": study.name, "runs": runs, "jobs": steps}
    write_bytes(folder / "submit.sh", template("submit.sh.j2").render(said).encode())
    return written
