r"""Jobs that are swept: `each` makes several of one file, and they read from each other."""

from __future__ import annotations

__all__ = ["NAME", "Sweeps", "Swept"]

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadInput
from .jobfile import Source, merge, nest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*")


@dataclass(frozen=True)
class Swept:
    r"""One job of a sweep, or a job that is not swept.

    Attributes:
        parts: What each swept field adds to the name.
        fields: Its fields.
    """

    parts: tuple[str, ...]
    fields: dict[str, Any]

    @property
    def tail(self) -> str:
        return "".join(f"-{part}" for part in self.parts)


class Sweeps:
    r"""The jobs that the files of a study make.

    `each: {seed: [0, 1]}` makes the jobs `name-seed0` and `name-seed1`; values that have names,
    `each: {frames: {early: [0, 24], late: [96, 120]}}`, `name-early` and `name-late`. A job of the
    study that is swept itself stands for all its own: `each: {observations: [observe]}` makes
    `name-early` of `observe-early`.

    Arguments:
        raw: Fields and source of each file, by the job it names.
    """

    def __init__(self, raw: Mapping[str, tuple[dict[str, Any], Source]]) -> None:
        self._raw = raw
        self._made: dict[str, list[Swept]] = {}
        self._making: list[str] = []

    def of(self, job: str) -> list[Swept]:
        r"""All jobs of a file.

        Raises:
            BadInput: If `each` is no sweep, or what it makes has no name.
        """
        if job not in self._made:
            self._making.append(job)
            self._made[job] = self._make(job)
            self._making.pop()
        return self._made[job]

    def meant(self, name: str, by: Swept, several: bool = False) -> list[str]:
        r"""Jobs that a reference means.

        Of a sweep that is the one swept like the job that refers: `a-early` that names `b`, of
        which there is only `b-early`, means that; `a-early-seed1` too. Where `several` may be
        named, it is all that agree: `evaluate` that names `a` reads `a-early` and `a-late`.
        """
        if not self._swept(name):
            return [name]
        of = self.of(name)
        like = [o for o in of if set(o.parts) <= set(by.parts)]
        if like:
            return [name + max(like, key=lambda o: len(o.parts)).tail]
        agree = [name + o.tail for o in of if set(by.parts) <= set(o.parts)] if several else []
        return agree or [name]

    def _swept(self, name: Any) -> bool:
        return isinstance(name, str) and name in self._raw and "each" in self._raw[name][0]

    def _make(self, job: str) -> list[Swept]:
        data, source = self._raw[job]
        data = dict(data)
        each = data.pop("each", None)
        if each is None:
            return [Swept((), data)]
        if not isinstance(each, dict) or not all(
            isinstance(v, (list, dict)) and v for v in each.values()
        ):
            raise BadInput(
                "'each' sweeps fields over lists, or over values with names",
                source.where(("each",)),
                "Write each: {seed: [0, 1]}, or each: "
                "{frames: {early: [0, 24], late: [96, 120]}}.",
            )
        made = []
        for values in itertools.product(*(self._values(k, v) for k, v in each.items())):
            fields, parts = data, ()
            for key, (part, value) in zip(each, values, strict=True):
                fields = merge(fields, nest(tuple(key.split(".")), value))
                parts += part
            one = Swept(parts, fields)
            if not NAME.fullmatch(job + one.tail):
                raise BadInput(f"'{job + one.tail}' cannot name a job", source.where(("each",)))
            made.append(one)
        return made

    def _values(self, key: str, given: list | dict) -> list[tuple[tuple[str, ...], Any]]:
        r"""What each value of a swept field adds to the name, and the value."""
        if isinstance(given, dict):
            return [((str(name),), value) for name, value in given.items()]
        out: list[tuple[tuple[str, ...], Any]] = []
        for x in given:
            if self._swept(x) and x not in self._making:
                out += [(o.parts, x + o.tail) for o in self.of(x)]
            else:
                out.append(((f"{key.split('.')[-1]}{x}",), x))
        return out
