r"""States of an array's tasks, listed without opening a file.

`states/<task>.<state>.<attempt>` is an empty file, renamed as the task goes on; one listing of
the folder tells how thousands of tasks stand. The manifests decide where the two disagree: a
task that was killed still reads `running` here.
"""

from __future__ import annotations

__all__ = ["forget", "pace", "sign", "states"]

import contextlib
import os
from pathlib import Path

ORDER = ("running", "stopped", "failed", "complete")


def states(run: Path) -> dict[int, tuple[str, int]]:
    r"""State and number of the last attempt, of every task that has ever started."""
    found: dict[int, tuple[str, int]] = {}
    try:
        with os.scandir(run / "states") as entries:
            names = [e.name for e in entries]
    except FileNotFoundError:
        return found
    for name in names:
        task, state, attempt = name.split(".")
        new = (state, int(attempt))
        old = found.get(int(task))
        # Two of one task: a rename that was lost, or an attempt that was thought dead.
        if old is None or _rank(new) > _rank(old):
            found[int(task)] = new
    return found


def _rank(mark: tuple[str, int]) -> tuple[int, int]:
    return mark[1], ORDER.index(mark[0])


def sign(run: Path, task: int, new: tuple[str, int], old: tuple[str, int] | None) -> None:
    r"""Says that a task has gone from one (state, attempt) to another."""
    folder = run / "states"
    mark = folder / f"{task}.{new[0]}.{new[1]}"
    if old is not None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder / f"{task}.{old[0]}.{old[1]}", mark)
            return
    folder.mkdir(exist_ok=True)
    mark.touch()


def forget(run: Path, task: int) -> None:
    r"""Takes away a task's marks: its folder is gone, and its attempts count from 1 again."""
    for mark in (run / "states").glob(f"{task}.*"):
        mark.unlink(missing_ok=True)


def pace(run: Path, done: int, total: int) -> tuple[float | None, float | None]:
    r"""Tasks per second so far, and the seconds left at this pace.

    The times come from some of the marks, all on the clock of the file system.
    """
    marks = list(os.scandir(run / "states")) if done and (run / "states").is_dir() else []
    ends = [e for e in marks if e.name.split(".")[1] == "complete"]
    sample = ends[:: max(1, len(ends) // 32)]
    if len(sample) < 2:
        return None, None
    times = [e.stat().st_mtime for e in sample]
    span = max(times) - min(times)
    if span <= 0:
        return None, None
    rate = done * (1 - 1 / len(sample)) / span
    return rate, (total - done) / rate
