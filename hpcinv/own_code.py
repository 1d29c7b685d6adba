r"""`package.module:Name`, looked up without running it: mistakes are found before a job starts."""

from __future__ import annotations

__all__ = ["look_up"]

import ast
import os
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from .errors import BadInput, nearest


def look_up(name: str, where: object) -> None:
    r"""Finds the module on the path, and the name among what its file defines.

    Modules without a source file, or that make names as they run, are only looked for.

    Arguments:
        name: `package.module:Name`.
        where: The file and line that name it.

    Raises:
        BadInput: If there is no such module, or no such name in it.
    """
    module, _, attribute = name.partition(":")
    spec = _spec(module)
    if spec is None:
        raise BadInput(
            f"no module '{module}' is found", where, "Put its folder on PYTHONPATH, or run there."
        )
    if not (spec.has_location and spec.origin and spec.origin.endswith(".py")):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as e:
        raise BadInput(f"'{module}' cannot be read ({e})", where) from e
    known = set(_names(tree.body))
    if attribute not in known and not known & {"*", "__getattr__"}:
        raise BadInput(f"'{spec.origin}' has no '{attribute}'", where, nearest(attribute, known))


def _spec(module: str) -> ModuleSpec | None:
    first, *rest = module.split(".")
    # Ranks run where the command runs, and look there first.
    spec = PathFinder.find_spec(first, [os.getcwd()])
    if spec is None or spec.origin is None:
        try:
            spec = find_spec(first) or spec
        except (ImportError, ValueError):  # e.g. __main__, which has none
            spec = None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        # By its own name only: a dotted one would ask for packages that are not imported.
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec


def _names(body: list[ast.stmt]) -> Iterator[str]:
    r"""What a module defines when it is imported, `*` for names that it takes from another."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (a.asname or a.name.split(".")[0] for a in node.names)
        else:
            for child in ast.walk(node):
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    yield child.id
            inner = [getattr(node, k, []) for k in ("body", "orelse", "finalbody")]
            inner += [h.body for h in getattr(node, "handlers", [])]
            for statements in inner:
                yield from _names(statements)
