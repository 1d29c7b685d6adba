r"""Reading job files: YAML with line numbers, presets, overrides, and messages for mistakes."""

from __future__ import annotations

__all__ = ["Source", "merge", "override", "read_yaml", "validate"]

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import BadInput, nearest
from .base import Job


@dataclass
class Source:
    r"""Where the fields of a job came from, to point at them in messages."""

    path: Path
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    given: dict[tuple[str, ...], str] = field(default_factory=dict)  # overrides, as typed

    def where(self, loc: tuple[Any, ...]) -> str:
        loc = tuple(str(k) for k in loc)
        for n in range(len(loc), 0, -1):
            if loc[:n] in self.given:
                return f"override '{self.given[loc[:n]]}'"
            if loc[:n] in self.lines:
                return f"{self.path}, line {self.lines[loc[:n]]}"
        return str(self.path)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    r"""A YAML mapping and the line of each of its keys.

    Raises:
        BadInput: If the file is missing, no YAML, no mapping, or has a key twice.
    """
    try:
        text = path.read_text()
    except FileNotFoundError as e:
        raise BadInput("no such file", path) from e
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"the file cannot be read ({e})", path) from e
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        at = f"{path}, line {mark.line + 1}" if mark else path
        raise BadInput(f"this is no YAML: {getattr(e, 'problem', e)}", at) from e
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise BadInput("a mapping of keys to values is expected", path, "Write 'kind: ...' first.")
    lines: dict[tuple[str, ...], int] = {}
    _walk(node, (), lines, path)
    return data, lines


def _walk(node: yaml.Node, at: tuple[str, ...], lines: dict, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            loc = (*at, str(key.value))
            line = key.start_mark.line + 1
            if loc in lines:
                raise BadInput(
                    f"key '{'.'.join(loc)}' stands twice", f"{path}, lines {lines[loc]} and {line}"
                )
            lines[loc] = line
            _walk(value, loc, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*at, str(i))] = value.start_mark.line + 1
            _walk(value, (*at, str(i)), lines, path)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    r"""Mappings merge, everything else (lists too) is replaced."""
    out = dict(base)
    for k, v in over.items():
        both = isinstance(v, dict) and isinstance(out.get(k), dict)
        out[k] = merge(out[k], v) if both else v
    return out


def override(text: str) -> tuple[tuple[str, ...], Any]:
    r"""Splits `key.sub=value`; the value is read as YAML.

    Raises:
        BadInput: If there is no `=` or the value is no YAML.
    """
    key, eq, value = text.partition("=")
    if not eq or not key.strip():
        raise BadInput(f"'{text}' is no override", "command line", "Write key=value.")
    try:
        return tuple(key.strip().split(".")), yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise BadInput(f"the value of '{text}' is no YAML", "command line") from e


def nest(keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    r"""`{a: {b: value}}` for keys (a, b)."""
    for k in reversed(keys):
        value = {k: value}
    return value


def validate(data: dict[str, Any], source: Source) -> Job:
    r"""Makes the job of its kind.

    Raises:
        BadInput: For an unknown kind, an unknown key, a missing or an unfitting value.
    """
    from . import KINDS, kind

    if "kind" not in data:
        raise BadInput("no 'kind' is given", source.path, f"One of: {', '.join(KINDS)}.")
    if data["kind"] not in KINDS:
        raise BadInput(
            f"unknown kind '{data['kind']}'",
            source.where(("kind",)),
            nearest(str(data["kind"]), KINDS),
        )
    cls = kind(data["kind"])
    try:
        return cls.model_validate(data)
    except ValidationError as e:
        errors = e.errors(include_url=False)
        # An unknown key explains a missing one, so it comes first.
        first = min(errors, key=lambda x: x["type"] != "extra_forbidden")
        loc = tuple(str(k) for k in first["loc"] if not str(k).startswith("function-"))
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        # Members of a union put their tag into the location; the file has no such key.
        shown = _in_file(loc, data)
        key = ".".join(shown)
        if first["type"] == "extra_forbidden":
            known = _fields(cls, loc[:-1])
            raise BadInput(
                f"unknown key '{key}'{more}", source.where(shown), nearest(loc[-1], known)
            ) from e
        if first["type"] == "missing":
            raise BadInput(f"'{key}' is missing{more}", source.where(shown)) from e
        message = first["msg"].removeprefix("Value error, ")
        given = first.get("input")
        said = f", not {given!r}" if isinstance(given, (str, int, float, bool)) else ""
        raise BadInput(
            f"'{key}': {message[:1].lower() + message[1:]}{said}{more}", source.where(shown)
        ) from e


def _in_file(loc: tuple[str, ...], data: Any) -> tuple[str, ...]:
    out: list[str] = []
    for i, k in enumerate(loc):
        if isinstance(data, dict) and k not in data and i < len(loc) - 1:
            continue
        out.append(k)
        if isinstance(data, dict):
            data = data.get(k)
        elif isinstance(data, list) and k.isdigit() and int(k) < len(data):
            data = data[int(k)]
        else:
            data = None
    return tuple(out)


def _fields(cls: Any, loc: tuple[str, ...]) -> list[str]:
    r"""Names of the fields of the model at a location, for suggestions."""
    models = _models(cls)
    for k in loc:
        inner = [m.model_fields[k].annotation for m in models if k in m.model_fields]
        models = [x for a in inner for x in _models(a)] or models
    return [f for m in models for f in m.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in typing.get_args(annotation) for m in _models(a)]
