r"""What was sent to Slurm for a job, kept in `submission.json` of its run folder.

A file of its own, since a job may start, and write its manifest, before the command that sent it
knows its id. Each batch is written down with a key before it is sent; the key travels as the
job's comment. So a command that died, or never heard Slurm's answer, finds its job again.
"""

from __future__ import annotations

__all__ = ["Sent", "Submission", "locked"]

import contextlib
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import BadInput
from ..runs.folder import RunFolder
from .batches import ARRAY, WHOLE, Batch, expand
from .slurm import OURS, Element

Queue = dict[str, list[Element]]


@dataclass
class Sent:
    r"""A batch, as it was sent."""

    step: str
    key: str
    slurm_job: str | None = None  # None: Slurm has not answered (yet)
    indices: str = ""
    offset: int = 0
    pack: int = 1
    at: float = 0.0

    def tasks(self, index: int) -> range:
        r"""The tasks of an element, by Slurm's index."""
        first = (self.offset + index) * self.pack
        return range(first, first + self.pack)

    def elements(self, queue: Queue) -> list[Element]:
        r"""What of it Slurm knows. A controller that dies may forget a job it has just taken,
        and give its id to the next: a job with another key of ours is not this one."""
        found = queue.get(self.slurm_job or "", [])
        return [e for e in found if e.key == self.key or not e.key.startswith(OURS)]

    def alive(self, queue: Queue) -> bool:
        return any(e.alive for e in self.elements(queue))


@dataclass
class Submission:
    r"""All batches of a job, oldest first.

    Attributes:
        cluster: Name or file of the profile, for `retry`.
        refused: What Slurm said when it did not take the job.
    """

    folder: RunFolder
    cluster: str | None = None
    refused: str | None = None
    sent: list[Sent] = field(default_factory=list)

    @classmethod
    def of(cls, folder: RunFolder) -> Submission:
        m = folder.submission()
        sent = [Sent(**s) for s in m.get("sent", [])]
        return cls(folder, m.get("cluster"), m.get("refused"), sent)

    def save(self) -> None:
        self.folder.submitted(
            {
                "slurm_job": self.last,
                "cluster": self.cluster,
                "refused": self.refused,
                "sent": [asdict(s) for s in self.sent],
            }
        )

    @property
    def last(self) -> str | None:
        r"""The id that dependents wait for: of the job, or of an array's join."""
        ids = [s.slurm_job for s in self.sent if s.step != ARRAY]
        return ids[-1] if ids else None

    @property
    def ids(self) -> list[str]:
        return [s.slurm_job for s in self.sent if s.slurm_job]

    def open(self, batch: Batch, pack: int) -> Sent:
        r"""Writes down a batch that is about to be sent."""
        s = Sent(batch.step, f"{OURS}{uuid.uuid4().hex[:12]}", None, batch.indices, batch.offset)
        s.pack, s.at = pack, time.time()
        self.sent.append(s)
        self.save()
        return s

    def find_lost(self, queue: Queue) -> None:
        r"""Ids of batches whose answer was lost; what Slurm never got is forgotten."""
        known = {e.key: id_ for id_, elements in queue.items() for e in elements if e.key}
        lost = [s for s in self.sent if s.slurm_job is None]
        for s in lost:
            s.slurm_job = known.get(s.key)
            if s.slurm_job is None:
                self.sent.remove(s)
        if lost:
            self.save()

    def seen(self, queue: Queue) -> Queue:
        r"""The queue, where an id that was given to another job since is none of ours."""
        mine: Queue = {}
        for s in self.sent:
            if s.slurm_job:
                mine.setdefault(s.slurm_job, []).extend(s.elements(queue))
        return queue | mine

    def live(self, queue: Queue) -> list[Sent]:
        return [s for s in self.sent if s.alive(queue)]

    def covered(self, queue: Queue) -> set[int]:
        r"""Tasks of an array that are in the queue, waiting or running."""
        found: set[int] = set()
        for s in self.sent:
            for e in s.elements(queue) if s.step == ARRAY else ():
                if e.alive:
                    found.update(k for i in expand(e.indices) for k in s.tasks(i))
        return found

    def element(self, task: int) -> tuple[str, int] | None:
        r"""Slurm's id and index of the last batch that held a task."""
        for s in reversed(self.sent):
            if s.step == ARRAY and s.slurm_job and task // s.pack - s.offset in self._set(s):
                return s.slurm_job, task // s.pack - s.offset
        return None

    def _set(self, s: Sent) -> set[int]:
        cache = self.__dict__.setdefault("_sets", {})
        if s.key not in cache:
            cache[s.key] = set(expand(s.indices))
        return cache[s.key]

    @property
    def whole(self) -> bool:
        return all(s.step == WHOLE for s in self.sent)


@contextlib.contextmanager
def locked(study: Path, patience: float = 30.0) -> Iterator[None]:
    r"""Holds a study for one submitting command at a time.

    Raises:
        BadInput: If another one holds it, or the folder belongs to somebody else.
    """
    study.mkdir(parents=True, exist_ok=True)
    owner = study.stat().st_uid
    if os.geteuid() not in (0, owner) or not os.access(study, os.W_OK):
        raise BadInput(
            "these run folders belong to another user", study, "Give --runs DIR of your own."
        )
    until = time.monotonic() + patience
    with open(study / ".submit.lock", "w") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as e:
                if e.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    break  # a file system without locks
                if time.monotonic() > until:
                    raise BadInput(
                        "another command is submitting this study", study, "Wait for it."
                    ) from e
                time.sleep(0.2)
        yield
