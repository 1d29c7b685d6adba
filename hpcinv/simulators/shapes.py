r"""What the planner asks of dynamics, in a process of its own: the shapes of their states."""

from __future__ import annotations

import json
import sys


def main() -> None:
    r"""Reads simulators and options as a JSON list on stdin, writes a list of [C, *grid]."""
    from . import make

    asked = json.load(sys.stdin)
    found = [list(make(a["simulator"], a["options"]).state.shape) for a in asked]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
