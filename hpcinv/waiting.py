r"""What a rank waits for, so that no collective can hang unnoticed.

Whoever enters a collective says so, `with at("barrier: checkpoint"):`. A thread of each rank looks
at its own place now and then. When a rank has waited longer than the limit, it asks all ranks, by
a file in a folder that all see, where they are, and prints what they answered: which rank is
missing, and what it does instead. Where all ranks wait, nobody will ever come: then the job ends.
So it does where a rank has given no answer twice; once may be a library that keeps the
interpreter's lock over a long write. Slurm may not know that its node was lost (one that is back
at once looks well), so the sbatch script is told to start the job again. Where some still
compute, waiting goes on.

The limit is five minutes, or `HPCINV_COLLECTIVE_TIMEOUT` seconds; 0 turns the watch off.
"""

from __future__ import annotations

__all__ = ["Watch", "at"]

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from .errors import EXIT_FAILED, EXIT_STOPPED, tell_script

LIMIT = "HPCINV_COLLECTIVE_TIMEOUT"


class _Place:
    what: str | None = None
    since = 0.0


class at:
    r"""Says that this rank waits for others, as long as the block lasts."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.before = (_Place.what, _Place.since)
        _Place.what, _Place.since = self.what, time.monotonic()

    def __exit__(self, *_: object) -> None:
        _Place.what, _Place.since = self.before


class Watch(threading.Thread):
    r"""Watches this rank.

    Arguments:
        folder: A folder that all ranks see and nobody else uses; made at the first question.
        rank, size: Of this rank, of the world.
        limit: Seconds a collective may wait before it is looked into.
    """

    def __init__(self, folder: Path, rank: int, size: int, limit: float | None = None) -> None:
        super().__init__(daemon=True, name="hpcinv waiting")
        limit = float(os.environ.get(LIMIT, 300)) if limit is None else limit
        self.folder, self.rank, self.size, self.limit = Path(folder), rank, size, limit
        self.pause = min(max(limit / 20, 0.05), 15.0)
        self._main = threading.get_ident()
        self._answered = self._answered_at = self._reported = 0.0

    def run(self) -> None:
        while self.limit > 0:
            time.sleep(self.pause)
            try:
                self._look()
            except OSError:  # the folder is gone, or the disk is full: watch on
                continue

    def _look(self) -> None:
        question = self.folder / "question"
        waited = time.monotonic() - max(_Place.since, self._reported)
        if _Place.what is not None and waited > self.limit:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                os.close(os.open(question, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                self._answer(question)
                if time.monotonic() - self._answered_at > self.limit:
                    question.unlink(missing_ok=True)  # whoever asked has died since
            else:
                self._answer(question)
                time.sleep(4 * self.pause)
                hopeless, lost = self._report()
                question.unlink(missing_ok=True)
                if hopeless:
                    again = lost and tell_script(EXIT_STOPPED)
                    os._exit(EXIT_STOPPED if again else EXIT_FAILED)
            self._reported = time.monotonic()
        elif question.exists():
            self._answer(question)
            self._reported = time.monotonic()  # one rank's report serves all that wait

    def _answer(self, question: Path) -> None:
        asked = question.stat().st_mtime
        if asked == self._answered:
            return
        self._answered, self._answered_at = asked, time.monotonic()
        if _Place.what is not None:
            seconds = time.monotonic() - _Place.since
            said = {"waits": f"in {_Place.what}, for {seconds:.0f} s"}
        else:
            stack = traceback.extract_stack(sys._current_frames()[self._main])
            ours = [f for f in stack if "hpcinv" in f.filename] or stack
            last = ours[-1]
            said = {"computes": f"at {last.filename}:{last.lineno} in {last.name}"}
        scratch = self.folder / f".{self.rank}.tmp"
        scratch.write_text(json.dumps({"asked": asked, **said}))
        os.replace(scratch, self.folder / f"{self.rank}.json")

    def _report(self) -> tuple[bool, bool]:
        r"""Prints where the ranks are; tells whether that will never change, and some are lost."""
        asked, places = self._answered, {}
        for rank in range(self.size):
            try:
                told = json.loads((self.folder / f"{rank}.json").read_text())
            except (OSError, ValueError):
                told = {}
            places[rank] = told if told.get("asked") == asked else {}
        waiting = [r for r, told in places.items() if "waits" in told]
        silent = [r for r, told in places.items() if not told]
        gone = [r for r in silent if (self.folder / f"silent-{r}").exists()]
        lines = [
            f"hpcinv: rank {self.rank} has waited {time.monotonic() - _Place.since:.0f} s in "
            f"{_Place.what}; {len(waiting)} of {self.size} ranks wait"
        ]
        for rank, told in places.items():
            if rank in silent:
                again = " again" if rank in gone else ""
                lines.append(f"  rank {rank} is missing: it gives no sign of life{again}")
            elif rank not in waiting:
                lines.append(f"  rank {rank} is missing: it computes {told['computes']}")
            elif len(waiting) == self.size:
                lines.append(f"  rank {rank} waits {told['waits']}")
        for rank in places:
            mark = self.folder / f"silent-{rank}"
            mark.touch() if rank in silent else mark.unlink(missing_ok=True)
        hopeless = bool(gone) or len(waiting) == self.size
        if hopeless:
            lines.append("  nobody else will come: the job ends")
        print("\n".join(lines), file=sys.stderr, flush=True)
        return hopeless, bool(gone)
