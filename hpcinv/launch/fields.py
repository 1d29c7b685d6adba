r"""The fields of a kind of job as a table: what may be written, what holds if it is not."""

from __future__ import annotations

__all__ = ["field_rows", "field_table", "kind_table"]

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def field_rows(schema: Schema) -> Iterator[tuple[str, str, str, str]]:
    r"""Fields of a JSON Schema in their order, those of groups after a dot.

    Yields:
        Key, type, default ('required' if there is none) and description. Where a group is one of
        several, the key says which, e.g. `observing (stations)`.
    """
    yield from _rows(schema, schema.get("$defs", {}), "", ())


def _rows(
    group: Schema, known: dict[str, Schema], above: str, within: tuple[str, ...]
) -> Iterator[tuple[str, str, str, str]]:
    for name, field in group.get("properties", {}).items():
        key = f"{above}{name}"
        named, others = [], []
        for one in field.get("anyOf") or field.get("oneOf") or [field]:
            ref = one.get("$ref", "").rpartition("/")[2]
            found = known.get(ref, one)
            (named if "properties" in found else others).append((ref, found))
        if not named or others:
            words = " or ".join(dict.fromkeys(_word(o) for _, o in others)) or "group"
            yield key, words, _default(name, field, group), field.get("description", "")
        for ref, found in named:
            if ref not in within:  # a group may hold itself
                which = f" ({_tag(found) or ref})" if len(named) > 1 else ""
                yield from _rows(found, known, f"{key}{which}.", (*within, ref))


def _tag(group: Schema) -> str:
    r"""What tells a group from others in its place: the first of its fields with one value."""
    return next((str(p["const"]) for p in group["properties"].values() if "const" in p), "")


def _word(one: Schema) -> str:
    if "const" in one or "enum" in one:
        return " | ".join(map(str, one.get("enum", [one.get("const")])))
    kind = {"null": "none", "array": "list", "object": "mapping"}
    return kind.get(one.get("type", "any"), one.get("type", "any"))


def _default(name: str, field: Schema, group: Schema) -> str:
    if name in group.get("required", ()):
        return "required"
    default = field.get("default")
    return "" if default is None or isinstance(default, dict) else str(default)


def field_table(schema: Schema) -> Any:
    r"""The fields of a kind, for people."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("field", no_wrap=True)
    table.add_column("")
    for key, kind, default, words in field_rows(schema):
        told = ", ".join(w for w in (kind, default and f"default {default}") if w)
        told = told.replace("default required", "required")
        table.add_row(key, told + (f": {words}" if words else ""))
    return table


def kind_table(kinds: dict[str, str]) -> Any:
    r"""Names of kinds, and what each does."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("kind")
    table.add_column("")
    for name, words in kinds.items():
        table.add_row(name, words)
    return table
