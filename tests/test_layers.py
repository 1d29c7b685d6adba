"""Imports point downwards: a room may use those below it, never those above."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "hpcinv"
ROOMS = [
    "cli", "launch", "kinds", "training", "assimilation", "inference", "evaluation",
    "observations", "simulators", "models", "diffusion", "runs", "io", "parallel", "waiting",
    "shipped", "own_code", "errors",
]  # fmt: skip


def imports(path):
    """Rooms that a file imports, wherever in it."""
    here = ["hpcinv", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [[*module, a.name] for a in node.names]
        else:
            continue
        yield from (n[1] for n in names if n[0] == "hpcinv" and len(n) > 1 and n[1] in ROOMS)


# What waits for other ranks, of an mpi4py communicator.
WAITS = {
    "Split", "Create_group", "Dup", "Free", "bcast", "Bcast", "gather", "Gather", "allgather",
    "Allgather", "allreduce", "Allreduce", "Barrier", "Recv", "recv", "Send", "send",
}  # fmt: skip


def waits(node, told=False):
    """Lines of calls that wait for other ranks outside a `with at("...")`."""
    if isinstance(node, ast.With):
        names = [getattr(getattr(i.context_expr, "func", None), "id", "") for i in node.items]
        told = told or bool({"at", "waiting"} & set(names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not told:
        name, of = node.func.attr, ast.unparse(node.func.value)
        given = " ".join(ast.unparse(k) for k in node.keywords)
        opens = name == "File" and ("mpio" in given or "**how" in given)
        if opens or name == "Wait" or (name in WAITS and of.endswith("comm")):
            yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from waits(child, told)


def test_whoever_waits_for_other_ranks_says_so():
    """Else the watch on collectives could not tell where a rank is (`hpcinv/waiting.py`)."""
    here = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in waits(ast.parse(path.read_text()))
    ]
    assert not here, here
    assert list(waits(ast.parse("comm.Barrier()\nwith at('x'):\n    comm.Barrier()"))) == [1]


def test_rooms_are_known_and_imports_point_down():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in ROOMS, f"a new room, '{room}': where does it stand?"
        for other in imports(path):
            if ROOMS.index(other) < ROOMS.index(room):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert not wrong, wrong
