r"""The two ways a run ends that are not a crash: bad input, and an early, resumable stop."""

from __future__ import annotations

__all__ = ["EXIT_BAD_INPUT", "EXIT_FAILED", "EXIT_STOPPED", "BadInput", "Stopped", "nearest"]

from collections.abc import Iterable
from difflib import get_close_matches

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


def nearest(name: str, known: Iterable[str]) -> str | None:
    r"""A sentence suggesting the known names closest to a misspelt one, for `BadInput`."""
    known = [str(k) for k in known]
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(sorted(known))}." if known else None
