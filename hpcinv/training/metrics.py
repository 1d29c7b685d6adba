r"""`metrics.jsonl`: one JSON object a line, and nothing beyond the step a run resumes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpcinv.io.atomic import write_bytes


class Metrics:
    r"""Appends lines of figures to a file.

    Arguments:
        path: The file.
        step: The step the run starts from. Lines of later steps, of a start that got further
            than its last checkpoint, are removed: they will be written again.
        active: False on all ranks but one.
    """

    def __init__(self, path: Path, step: int, active: bool = True) -> None:
        self.path, self.active = Path(path), active
        if active and self.path.exists():
            kept = []
            for line in self.path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # the line a kill tore
            write_bytes(self.path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, **figures: Any) -> None:
        r"""Appends a line."""
        if self.active:
            with open(self.path, "a") as f:
                f.write(json.dumps(figures) + "\n")
