r"""A study: the jobs of a folder, and the DAG their references draw."""

from __future__ import annotations

__all__ = ["Study", "load", "load_resolved"]

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import BadInput, nearest
from .arrays import check_array
from .base import Job, references
from .jobfile import Source, merge, nest, override, read_yaml, validate
from .sweep import NAME, Sweeps, Swept


@dataclass
class Study:
    r"""Jobs by name, in the order of their files.

    Attributes:
        name: The folder's name.
        folder: Where the job files are.
        jobs, sources: The jobs, and where their fields came from.
        wanted: The jobs asked for: all, or the one whose file was given.
    """

    name: str
    folder: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    wanted: list[str] = field(default_factory=list)

    def inputs(self, name: str) -> dict[str, Path | None]:
        r"""References of a job: None where it is a job of this study, else an absolute path."""
        found: dict[str, Path | None] = {}
        for _, value, _ in references(self.jobs[name]):
            found[value] = None if value in self.jobs else self._path(value)
        return found

    def _path(self, value: str) -> Path:
        path = Path(value).expanduser()
        return path if path.is_absolute() else (self.folder / path).resolve()

    def parents(self, name: str) -> list[str]:
        r"""Jobs that must be complete before this one."""
        from_refs = [n for n, path in self.inputs(name).items() if path is None]
        return list(dict.fromkeys([*from_refs, *self.jobs[name].after]))

    def order(self) -> list[str]:
        r"""All jobs, parents first, else in the order of their files.

        Raises:
            BadInput: If references go in a circle.
        """
        done: list[str] = []
        trail: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in trail:
                circle = " -> ".join([*trail[trail.index(name) :], name])
                raise BadInput(
                    f"the jobs wait for each other in a circle: {circle}",
                    self.sources[name].path,
                    "Remove one of these references.",
                )
            trail.append(name)
            for parent in self.parents(name):
                visit(parent)
            trail.pop()
            done.append(name)

        for name in self.jobs:
            visit(name)
        return done

    def check(self) -> None:
        r"""Everything that can be wrong before anything runs.

        Raises:
            BadInput: For the first mistake found.
        """
        for name, job in self.jobs.items():
            source = self.sources[name]
            for i, other in enumerate(job.after):
                if other not in self.jobs:
                    raise BadInput(
                        f"'after' names no job of this study: '{other}'",
                        source.where(("after", str(i))),
                        nearest(other, self.jobs),
                    )
            for key, value, thing in references(job):
                self._check_reference(name, key, value, thing)
        self.order()
        for name, job in self.jobs.items():
            job.check(name, self)  # first: what the study knows may say how long an axis is
            check_array(job, self.sources[name])

    def _check_reference(self, name: str, key: str, value: str, thing: str) -> None:
        where = self.sources[name].where(tuple(key.split(".")))
        if value in self.jobs:
            makes = self.jobs[value].makes
            wanted = set(thing.split("|"))
            if not wanted & set(makes.split("|")):
                fit = [n for n, j in self.jobs.items() if wanted & set(j.makes.split("|"))]
                what = " or ".join(_a(t) for t in thing.split("|"))
                raise BadInput(
                    f"'{key}' needs a job that makes {what}; '{value}' makes {_a(makes)}",
                    where,
                    f"Jobs that do: {', '.join(fit)}." if fit else None,
                )
        elif "/" not in value and not value.startswith("."):
            raise BadInput(
                f"'{key}' names no job of this study: '{value}'", where, nearest(value, self.jobs)
            )
        elif not self._path(value).exists():
            raise BadInput(f"'{key}': no such file or folder: {self._path(value)}", where)

    def resolved(self, name: str) -> str:
        r"""The resolved job file: every field written out, paths absolute."""
        data = self.jobs[name].model_dump(mode="json")
        for value, path in self.inputs(name).items():
            if path is not None:
                _replace(data, value, str(path))
        head = f"# {self.name}/{name}, resolved from {self.sources[name].path.name}\n"
        return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _a(thing: str) -> str:
    thing = thing.replace("|", " or ")
    return (
        thing
        if not thing or thing.endswith("s")
        else f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    )


def _replace(data: Any, old: str, new: str) -> None:
    for k, v in data.items() if isinstance(data, dict) else enumerate(data):
        if v == old:
            data[k] = new
        elif isinstance(v, (dict, list)):
            _replace(v, old, new)


def load(
    path: Path | str, preset: str | None = None, overrides: Sequence[str] = (), name: str = ""
) -> Study:
    r"""Reads a study folder, or the study around one job file.

    Arguments:
        path: A study folder or a job file in one.
        preset: `presets/<name>.yaml` of the study, which maps job names to fields.
        overrides: `job.key=value` for a folder, `key=value` for a job file.
        name: The study's name; by default the folder's.

    Raises:
        BadInput: For any mistake in the files or the overrides.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput("no such job file or study folder", path)
    folder = path if path.is_dir() else path.parent
    study = Study(name or folder.resolve().name, folder.resolve())
    files = sorted((p for p in folder.glob("*.yaml")), key=lambda p: (_number(p), p.name))
    if not files:
        raise BadInput("no job files (*.yaml) in this folder", folder)
    chosen = {} if preset is None else _preset(folder, preset)
    parsed = [override(o) for o in overrides]
    raw: dict[str, tuple[dict[str, Any], Source]] = {}
    for file in files:
        job = _stem(file)
        if not NAME.fullmatch(job):
            raise BadInput(f"'{job}' cannot name a job", file, "Use letters, digits, - and _.")
        if job in raw:
            raise BadInput(f"two files name the job '{job}'", f"{raw[job][1].path} and {file}")
        data, lines = read_yaml(file)
        raw[job] = merge(data, chosen.pop(job, {})), Source(file, lines)
    if chosen:
        first = next(iter(chosen))
        raise BadInput(
            f"the preset sets fields of '{first}', which is no job of this study",
            folder / "presets" / f"{preset}.yaml",
            nearest(first, raw),
        )
    only = None if path.is_dir() else _stem(path)
    for (keys, value), text in zip(parsed, overrides, strict=True):
        _apply(raw, only, keys, value, text)
    sweeps = Sweeps(raw)
    for job, (_, source) in raw.items():
        for one in sweeps.of(job):
            name = job + one.tail
            study.jobs[name] = _follow(validate(one.fields, source), one, sweeps, source)
            study.sources[name] = source
    study.wanted = [
        n for n in study.jobs if only is None or study.sources[n].path.name == path.name
    ]
    return study


def load_resolved(path: Path) -> Job:
    r"""Reads the resolved job file of a run folder."""
    data, lines = read_yaml(path)
    return validate(data, Source(path, lines))


def _number(path: Path) -> int:
    head = path.stem.split("_")[0]
    return int(head) if head.isdigit() else 10**6


def _stem(path: Path) -> str:
    r"""The job's name: the file's stem without its number."""
    head, _, rest = path.stem.partition("_")
    return rest if head.isdigit() and rest else path.stem


def _preset(folder: Path, preset: str) -> dict[str, Any]:
    known = sorted(p.stem for p in (folder / "presets").glob("*.yaml"))
    if preset not in known:
        hint = nearest(preset, known) or "The study has no presets."
        raise BadInput(f"unknown preset '{preset}'", folder, hint)
    return dict(read_yaml(folder / "presets" / f"{preset}.yaml")[0])


def _apply(raw: dict, only: str | None, keys: tuple[str, ...], value: Any, text: str) -> None:
    if only is None:
        job, *rest = keys
        if job not in raw:
            raise BadInput(
                f"override '{text}' names no job of this study: '{job}'",
                "command line",
                nearest(job, raw),
            )
        if not rest:
            raise BadInput(
                f"override '{text}' names no field", "command line", "Write job.key=value."
            )
        keys = tuple(rest)
    else:
        job = only
    data, source = raw[job]
    raw[job] = merge(data, nest(keys, value)), source
    source.given[keys] = text


def _follow(job: Job, one: Swept, sweeps: Sweeps, source: Source) -> Job:
    r"""The job with its references to jobs that are swept resolved, see `Sweeps.meant`."""
    keys = {key for key, _, _ in references(job)} | {"after"}
    followed = copy.deepcopy(one.fields)
    for key in keys:
        *path, last = key.split(".")
        at = followed
        for k in path:
            at = at[k]
        if last in at:
            value = at[last]
            if isinstance(value, str):
                at[last] = sweeps.meant(value, one)[0]
            else:
                at[last] = [m for v in value for m in sweeps.meant(v, one, several=True)]
    return job if followed == one.fields else validate(followed, source)
