r"""What people see: a bar on a terminal, plain lines in a log, the status table."""

from __future__ import annotations

__all__ = ["Screen", "status_table"]

import sys
import time
from typing import Any

from ..runs.progress import clock, line
from .status import JobStatus

SIGNS = {"complete": "✓", "failed": "✗", "skipped": "·", "stopped": "◦"}
COLOURS = {
    "complete": "green",
    "running": "cyan",
    "starting": "cyan",
    "failed": "bold red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "stopped": "yellow",
    "queued": "blue",
}


class Screen:
    r"""Shows the jobs of a study as they run: one line each, a bar for those under way.

    Arguments:
        tty: Draw bars; by default when the output is a terminal.
    """

    def __init__(self, tty: bool | None = None) -> None:
        self.tty = sys.stdout.isatty() if tty is None else tty
        self._bars: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._printed: dict[str, float] = {}
        self._live: Any = None

    def say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def job(self, name: str, state: str, text: str = "") -> None:
        r"""A job changed its state."""
        if name in self._bars:
            self._live.remove_task(self._bars.pop(name))
        if state == "running":
            self._began[name] = time.monotonic()
            if not self.tty:
                self.say(f"- {name} {text}".rstrip())
            return
        spent = time.monotonic() - self._began[name] if name in self._began else None
        took = f"  {clock(spent)}" if spent is not None else ""
        self.say(f"{SIGNS.get(state, '-')} {name}{took}{'  ' + text if text else ''}")

    def watch(self, name: str, p: dict[str, Any] | None) -> None:
        r"""Draws what the job last reported; call it a few times a second."""
        began = self._began.setdefault(name, time.monotonic())
        now = time.monotonic()
        if now - began < 2:
            return
        if not self.tty:
            if p and now - self._printed.get(name, began - 8) >= 10:
                self._printed[name] = now
                self.say(f"  {name}: {line(p)}")
            return
        if self._live is None:
            self._live = self._start()
        if name not in self._bars:
            self._bars[name] = self._live.add_task(name, total=None, what="starting", left="")
        if p:
            figures = "".join(f"  {k} {v:.4g}" for k, v in p["figures"].items())
            left = "" if p["eta"] is None else f"{clock(max(0.0, p['eta']))} left"
            self._live.update(
                self._bars[name],
                completed=p["done"],
                total=p["total"],
                what=p["what"] + figures,
                left=left,
            )

    def _start(self):
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[what]}"),
            refresh_per_second=4,
            transient=True,
        )
        live.start()
        return live

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def status_table(rows: list[JobStatus]) -> Any:
    r"""The table of `hpcinv status`."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, how in (
        ("job", {}),
        ("state", {}),
        ("progress", {}),
        ("left", {"justify": "right"}),
        ("took", {"justify": "right"}),
        ("starts", {"justify": "right"}),
        ("slurm", {}),
        ("where", {}),
        ("note", {"overflow": "fold"}),
    ):
        table.add_column(title, **how)
    for r in rows:
        progress = ""
        if r.tasks is not None:
            progress = f"{r.done:g}/{r.total:g} tasks"
            more = [f"{n} {s}" for s, n in r.tasks.items() if s not in ("complete", "waiting")]
            progress += f", {', '.join(more)}" if more else ""
        elif r.total:
            progress = f"{100 * r.done / r.total:3.0f}% {r.what}"
        if r.total:
            if r.rate:
                progress += f" ({r.rate:.3g}/s)"
        table.add_row(
            r.name,
            f"[{COLOURS.get(r.state, 'default')}]{r.state}[/]",
            progress,
            "" if r.eta is None else clock(r.eta),
            "" if r.seconds is None else clock(r.seconds),
            str(r.attempt or ""),
            r.slurm or "",
            r.where,
            r.note.splitlines()[0] if r.note else "",
        )
    return table
