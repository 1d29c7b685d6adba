r"""Progress of a running job: a small file for whoever watches, lines for whoever reads logs.

Rank 0 of the job writes `progress.json` at most once a second; `hpcinv run`, `status` and
`submit --wait` draw it. The job's own output gets plain lines, at most one in ten seconds.
"""

from __future__ import annotations

__all__ = ["Progress", "clock", "read_progress"]

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def clock(seconds: float) -> str:
    r"""A duration for people: `7 s`, `3:05`, `1:02:40`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return (
        f"{s // 60}:{s % 60:02d}" if s < 3600 else f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}"
    )


def read_progress(folder: Path) -> dict[str, Any] | None:
    r"""What a job last said of itself, or None."""
    try:
        return json.loads((Path(folder) / "progress.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


class Progress:
    r"""Reports of a job on its way.

    Arguments:
        folder: The run folder, or None to print only.
        active: False on all ranks but one.
        stream: Where the plain lines go.
    """

    def __init__(
        self, folder: Path | None = None, active: bool = True, stream: TextIO | None = None
    ) -> None:
        self.folder, self.active = folder, active
        self.stream = stream or sys.stdout
        self.what, self.began, self.first = "", time.monotonic(), 0.0
        self._written = self._printed = 0.0

    def begin(self, what: str) -> Progress:
        r"""Names the piece of work that follows; rate and ETA start anew."""
        self.what, self.began, self.first = what, time.monotonic(), 0.0
        self._written, self._printed = 0.0, time.monotonic() - 8  # first line after two seconds
        return self

    def update(self, done: float, total: float, **figures: float) -> None:
        r"""Says that `done` of `total` is finished; `figures` are shown beside (loss, ...)."""
        if not self.active:
            return
        now = time.monotonic()
        if now - self._written < 1 and done < total:
            return
        if self._written == 0.0:  # work done before a resume says nothing about speed
            self.first, self.began = (done, now) if done > 1 else (0.0, self.began)
        self._written = now
        spent, fresh = now - self.began, done - self.first
        eta = spent * (total - done) / fresh if fresh > 0 else None
        report = {
            "what": self.what,
            "done": done,
            "total": total,
            "seconds": spent,
            "eta": eta,
            "rate": fresh / spent if spent > 0 else None,
            "figures": {k: float(v) for k, v in figures.items()},
            "at": time.time(),
        }
        if self.folder is not None:
            scratch = self.folder / ".progress.tmp"
            scratch.write_text(json.dumps(report))
            os.replace(scratch, self.folder / "progress.json")  # a lost one is no loss: no fsync
        if now - self._printed >= 10 or (done >= total and spent >= 2):
            self._printed = now
            print(line(report), file=self.stream, flush=True)


def line(report: dict[str, Any]) -> str:
    r"""One plain line of a progress report."""
    done, total = report["done"], report["total"]
    text = f"{report['what']}: {done:g}/{total:g}"
    if total:
        text += f" ({100 * done / total:.0f}%)"
    if report["eta"] is not None and done < total:
        text += f", {clock(report['eta'])} left"
    elif done >= total:
        text += f" in {clock(report['seconds'])}"
    return text + "".join(f", {k} {v:.4g}" for k, v in report["figures"].items())
