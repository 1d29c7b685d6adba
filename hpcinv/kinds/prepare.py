r"""Making a job's run folder, or deciding that nothing is to be done."""

from __future__ import annotations

__all__ = [
    "changed",
    "complete",
    "cut_alike",
    "input_digests",
    "input_folders",
    "place",
    "prepare",
]

import time
from pathlib import Path
from typing import Any

import yaml

from ..errors import BadInput
from ..io.atomic import digest_external
from ..runs.folder import RunFolder
from .arrays import alike
from .base import Job
from .study import Study, load_resolved

HOW = ("resources", "after")  # how a job runs, not what it computes


def place(study: Study, runs: Path, name: str) -> RunFolder:
    r"""The run folder of a job."""
    return RunFolder(runs / study.name / name)


def input_folders(study: Study, runs: Path, name: str) -> dict[str, Path]:
    r"""The folder behind every reference of a job."""
    return {
        ref: place(study, runs, ref).path if path is None else path
        for ref, path in study.inputs(name).items()
    }


def cut_alike(folders: dict[str, Path], job: Job) -> dict[str, Path]:
    r"""Run folders of the inputs of which each task needs only the part of the same number."""
    found: dict[str, Path] = {}
    if job.resources.array is None:
        return found
    for ref, path in folders.items():
        if not (path / "job.yaml").exists():
            continue
        try:
            other = load_resolved(path / "job.yaml")
        except BadInput:  # of another version: its joined result is read
            continue
        if alike(job, ref, other):
            found[ref] = path
    return found


def input_digests(folders: dict[str, Path], job: Job, patience: float = 0.0) -> dict[str, Any]:
    r"""What identifies a job's inputs now.

    Arguments:
        folders: The folder behind every reference.
        job: The job.
        patience: Seconds that what another node wrote a moment ago may take to appear on a slow
            shared file system.

    Raises:
        BadInput: If an input is not there or its job has not ended well.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return _digests(folders, job)
        except BadInput:
            if time.monotonic() >= until:
                raise
            time.sleep(min(1.0, patience))


def _digests(folders: dict[str, Path], job: Job) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ref, path in folders.items():
        if (path / "manifest.json").exists():
            m = RunFolder(path).manifest()
            if m["state"] != "complete":
                raise BadInput(
                    f"its input '{ref}' is {m['state']}, not complete", path, "Run that job first."
                )
            found[ref] = m["digest"]
        elif path.exists():
            found[ref] = digest_external(path)["digest"]
        else:
            raise BadInput(f"its input '{ref}' has not run yet", path, "Run that job first.")
    for ref, (path, verify) in job.external().items():
        if not path.exists():
            raise BadInput(f"its {ref} is not there", path)
        found[ref] = digest_external(path, verify)["digest"]
    return found


def complete(folder: RunFolder, inputs: dict[str, Any]) -> bool:
    r"""Whether the job ended well with these very inputs."""
    m = folder.manifest()
    return m["state"] == "complete" and m["inputs"] == inputs


def prepare(study: Study, runs: Path, name: str, fresh: bool = False) -> RunFolder:
    r"""Makes the run folder, or finds that of an earlier start to go on with.

    Arguments:
        fresh: Set an earlier folder aside and begin anew.

    Raises:
        BadInput: If the folder holds a job with other fields, with the difference.
    """
    folder = place(study, runs, name)
    text = study.resolved(name)
    if folder.exists and fresh:
        folder.set_aside()
    if folder.exists:
        changes = changed(folder, text)
        state = folder.manifest()["state"]
        if changes and nothing_made(folder):
            folder.set_aside()  # a mistake has been mended
        elif changes:
            raise BadInput(
                f"{folder.name} ({state}) has other fields:\n  " + "\n  ".join(changes),
                folder.path,
                "\nTo set it aside and run it anew:  hpcinv run "
                f"{study.sources[name].path} --fresh  (of a folder, --fresh sets all its jobs "
                "aside). To keep both, --runs DIR.",
            )
        if state == "complete":  # its job file tells how it was made
            return folder
    folder.prepare(text, study.jobs[name].kind)
    return folder


def nothing_made(folder: RunFolder) -> bool:
    r"""Whether a job has not begun, or has failed and left nothing but what tells of it."""
    state = folder.manifest()["state"]
    if state != "failed":
        return state == "prepared"
    tells = {"job.yaml", "manifest.json", "failure.json", "progress.json", "submission.json"}
    return {p.name for p in folder.path.iterdir() if p.name[0] != "."} <= tells | {"logs"}


def changed(folder: RunFolder, text: str) -> list[str]:
    r"""How the fields of a run folder differ from those of a resolved job file."""
    path = folder.path / "job.yaml"
    try:  # fields that came with a newer version had their defaults before
        old = load_resolved(path).model_dump(mode="json")
    except BadInput:
        old = yaml.safe_load(path.read_text())
    return difference(old, yaml.safe_load(text))


def difference(old: dict[str, Any], new: dict[str, Any], at: str = "") -> list[str]:
    r"""Lines `key: old -> new` for all fields that say what is computed."""
    lines: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        if not at and key in HOW:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += difference(a, b, f"{at}{key}.")
        elif a != b:
            lines.append(f"{at}{key}: {a} -> {b}")
    return lines
