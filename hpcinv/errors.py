r"""How a run ends that is not well: bad input, an early and resumable stop, and what the sbatch
script is told of it."""

from __future__ import annotations

__all__ = [
    "EXIT_BAD_INPUT",
    "EXIT_FAILED",
    "EXIT_STOPPED",
    "BadInput",
    "Stopped",
    "nearest",
    "tell_script",
]

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED = 1, 2, 75


class BadInput(ValueError):
    r"""Something the user gave cannot be used; the command ends with exit code 2.

    Arguments:
        what: What is wrong, as a short sentence without a final stop.
        where: The file, key, line, variable or time where it was found.
        instead: What to write or to do instead.
    """

    def __init__(self, what: str, where: object = None, instead: str | None = None) -> None:
        self.what, self.where, self.instead = what, where, instead
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{text}. {self.instead}" if self.instead else text

    def __reduce__(self):
        return type(self), (self.what, str(self.where) if self.where else None, self.instead)


class Stopped(Exception):
    r"""The job was asked to stop, saved its state and can be resumed (exit code 75)."""


def tell_script(code: int | None = None) -> bool:
    r"""Tells the sbatch script that the ranks have met: what follows is no failed launch.

    Arguments:
        code: The exit code the script shall believe, where ranks of a lost node hide it from srun.

    Returns:
        Whether there is a script to tell.
    """
    mark = os.environ.get("HPCINV_MET")
    if mark is None:
        return False
    try:
        Path(mark).write_text("" if code is None else f"{code}")
    except OSError:  # a full disk: then the launch counts as failed, and is tried again
        return False
    return True


def nearest(name: str, known: Iterable[str]) -> str | None:
    r"""A sentence suggesting the known names closest to a misspelt one, for `BadInput`."""
    known = [str(k) for k in known]
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(sorted(known))}." if known else None
