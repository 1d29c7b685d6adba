r"""What one `sbatch` sends: a whole job, a share of an array, or the join of its parts.

An array of any length is one batch, unless Slurm's MaxArraySize or its throttle cuts it. An
element of a Slurm array is `pack` tasks in a row; element e of a batch has the index
e − `offset` in Slurm, whose indices are bounded.
"""

from __future__ import annotations

__all__ = ["ARRAY", "JOIN", "WHOLE", "Batch", "cut", "expand", "follows", "spec"]

from collections.abc import Iterable
from dataclasses import dataclass

from ..kinds.arrays import JOIN, alike
from ..kinds.base import Job

WHOLE, ARRAY = "job", "array"


@dataclass(frozen=True)
class Batch:
    r"""One call of sbatch.

    Attributes:
        step: `job`, `array` or `join`.
        indices: Slurm's indices, in its own notation ("0-99,105").
        offset: Element that index 0 stands for.
        throttle: Most elements at once.
        after: Place in the list of the batch that must have ended first, whichever way.
    """

    step: str = WHOLE
    indices: str = ""
    offset: int = 0
    throttle: int | None = None
    after: int | None = None

    @property
    def option(self) -> str:
        r"""The value of `--array`."""
        return self.indices + (f"%{self.throttle}" if self.throttle else "")

    def elements(self) -> range | list[int]:
        r"""The elements it starts."""
        return [self.offset + i for i in expand(self.indices)]


def follows(job: Job, parent: str, other: Job) -> bool:
    r"""Whether each element of an array may start after the element of the same index of
    another's (Slurm's `aftercorr`), before that one is joined.

    Arguments:
        job: The job that waits.
        parent: The name of the job it waits for.
        other: That job.
    """
    same = parent not in job.after and alike(job, parent, other)
    return same and job.resources.array.pack == other.resources.array.pack


def spec(indices: Iterable[int]) -> str:
    r"""Sorted indices in Slurm's notation: [0, 1, 2, 5] is "0-2,5"."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


def expand(text: str) -> list[int]:
    r"""Indices of Slurm's notation, as squeue writes it too: "[3-5,7%2]"; steps ("0-8:4") too."""
    found: list[int] = []
    for part in text.strip("[]").split("%")[0].split(","):
        if part and part[0].isdigit() and "..." not in part:
            bounds, _, step = part.partition(":")
            a, _, b = bounds.partition("-")
            found.extend(range(int(a), int(b or a) + 1, int(step or 1)))
    return found


def cut(
    tasks: Iterable[int], pack: int, most: int, throttle: int | None, limit: int | None = None
) -> list[Batch]:
    r"""Batches that start these tasks.

    Arguments:
        tasks: Tasks to run, in ascending order.
        pack: Tasks in a row in one Slurm job.
        most: Slurm's MaxArraySize: indices are below it.
        throttle: Most elements at once, over all batches.
        limit: Most elements sent now; the rest waits for a later wave.
    """
    elements = list(dict.fromkeys(k // pack for k in tasks))[:limit]
    shares: dict[int, list[int]] = {}
    for e in elements:
        shares.setdefault(e // most, []).append(e % most)
    n = len(shares)
    batches = []
    for i, (share, indices) in enumerate(shares.items()):
        mine, after = throttle, None
        if throttle and n > 1:
            if throttle >= n:  # batches run beside each other, each with its part of the throttle
                mine = throttle // n + (i < throttle % n)
            else:  # `throttle` chains of batches, one element at a time in each
                mine, after = 1, i - throttle if i >= throttle else None
        batches.append(Batch(ARRAY, spec(indices), share * most, mine, after))
    return batches
