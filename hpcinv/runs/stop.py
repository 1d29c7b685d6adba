r"""The stop flag: signals set it, ranks agree on it at step boundaries.

A signal handler does nothing but set a flag: no collective, no write. Slurm sends USR1 or USR2
before the time limit and TERM at preemption, to some ranks or to all; what any rank has seen,
all ranks learn at their next step, and they stop together.

Ranks that a command started here stop, too, when that command was killed: nobody would see them.
"""

from __future__ import annotations

__all__ = ["StopFlag"]

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from ..parallel import World


class StopFlag:
    r"""Set by USR1, USR2, TERM or by `set`; read by `requested`, a collective."""

    def __init__(self) -> None:
        self.seen: str | None = None

    def listen(self) -> StopFlag:
        r"""Catches the signals; to be called from the main thread."""
        for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(s, self._caught)
        return self

    def follow(self, pid: int) -> StopFlag:
        r"""Sets the flag when a process of this machine is gone, and with it who started us."""

        def watch() -> None:
            while self.seen is None:
                if _gone(pid):
                    self.set("the command that started it is gone")
                time.sleep(1)

        threading.Thread(target=watch, daemon=True, name="hpcinv starter").start()
        return self

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.seen = signal.Signals(number).name

    def set(self, why: str = "asked") -> None:
        self.seen = why

    def requested(self, world: World | None = None) -> bool:
        r"""Whether any rank was asked to stop. All ranks of `world` must call it."""
        mine = 1.0 if self.seen else 0.0
        return bool((world.all_reduce(mine, "max") if world else mine) > 0)


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A container may have nobody who buries its dead.
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return True
    except OSError:
        return False
