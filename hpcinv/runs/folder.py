r"""The run folder `runs/<study>/<job>/` and its manifest.

    job.yaml        the resolved job file
    manifest.json   state, attempts, inputs and outputs with their digests, versions, Slurm ids
    submission.json what was sent to Slurm, and the ids it gave
    logs/           what the attempts printed
    checkpoints/    of jobs that resume
    seeds/<n>/      of a training from several seeds: checkpoints and model of the nth
    tasks/<k>/      of a job cut into an array: manifest, checkpoints and outputs of task k
    states/         how the tasks stand, in the names of empty files
    ...             the outputs

A start of the job is a numbered attempt. An attempt may change the manifest only while the
manifest still names it: after a node failure Slurm starts the job elsewhere, and the rank 0 of
a node thought dead must not commit over its successor.
"""

from __future__ import annotations

__all__ = ["LOST", "Fenced", "RunFolder", "spent"]

import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..io.atomic import digest_bytes, write_bytes, write_json
from .provenance import launch_ids, software
from .tasks import sign

FORMAT = 1
LOST = 4  # starts in a row that may be lost at one place: a job can be what its nodes die of


def spent(attempts: Sequence[dict[str, Any]], now: float) -> float:
    r"""Seconds that attempts took together. One that was lost ended, at the latest, when the next
    began; clocks of different nodes may differ, and take nothing away."""
    ends = [*(a["started"] for a in attempts[1:]), now]
    return sum(
        max(0.0, a.get("ended", end) - a["started"]) for a, end in zip(attempts, ends, strict=True)
    )


class Fenced(RuntimeError):
    r"""A newer attempt owns this run folder; this one must write nothing more."""


class RunFolder:
    r"""One job's folder.

    Arguments:
        path: `runs/<study>/<job>`.
        task: The task of an array whose folder this is.
    """

    def __init__(self, path: Path | str, task: int | None = None) -> None:
        self.run, self.task = Path(path), task
        self.path = self.run if task is None else self.run / "tasks" / str(task)
        self.attempt: int | None = None

    def of_task(self, task: int) -> RunFolder:
        r"""The folder of a task."""
        return RunFolder(self.run, task)

    @property
    def name(self) -> str:
        r"""`study/job`, or `study/job/task`."""
        job = f"{self.run.parent.name}/{self.run.name}"
        return job if self.task is None else f"{job}/{self.task}"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def exists(self) -> bool:
        return (self.path / "manifest.json").exists()

    def manifest(self) -> dict[str, Any]:
        r"""The manifest, or `{"state": "new"}` where there is none yet.

        Raises:
            BadInput: If it was written by a newer version, or is not a manifest.
        """
        try:
            m = json.loads((self.path / "manifest.json").read_text())
        except FileNotFoundError:
            return {"state": "new", "attempts": []}
        except ValueError as e:
            raise BadInput(
                f"the manifest cannot be read ({e})", self.path / "manifest.json"
            ) from e
        if m.get("format") != FORMAT:
            raise BadInput(
                f"a manifest of format {m.get('format')}; this version reads {FORMAT}",
                self.path / "manifest.json",
                "Use the version that wrote it, or --fresh.",
            )
        return m

    def prepare(self, text: str, kind: str) -> None:
        r"""Makes the folder, with its resolved job file and a manifest, before anything queues.

        Arguments:
            text: The resolved job file.
            kind: The job's kind.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path / "job.yaml", text.encode())
        if not self.exists:
            write_json(self.path / "manifest.json", self._blank() | {"kind": kind})
        m = self.manifest()
        m["job_digest"] = digest_bytes(text.encode())
        write_json(self.path / "manifest.json", m)

    def _blank(self) -> dict[str, Any]:
        blank = {"format": FORMAT, "study": self.run.parent.name, "job": self.run.name}
        if self.task is not None:
            blank["task"] = self.task
        return blank | {"state": "prepared", "attempts": []}

    def set_aside(self) -> Path:
        r"""Moves the folder out of the way, keeping it, and returns its new place."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime())
        place = self.path.with_name(f".{self.path.name}.{stamp}")
        n = 0
        while place.exists():
            n += 1
            place = self.path.with_name(f".{self.path.name}.{stamp}-{n}")
        os.replace(self.path, place)
        return place

    def clear(self) -> Path | None:
        r"""Moves what earlier attempts made out of the way, into a hidden folder of this one;
        the job file, the manifest, the logs and the tasks of an array stay.

        Returns:
            That folder, None where there was nothing.
        """
        stay = {"job.yaml", "manifest.json", "submission.json", "logs", "tasks", "states"}
        made = [p for p in self.path.iterdir() if p.name not in stay and p.name[0] != "."]
        place = None
        if made:
            place = self.path / f".attempts-to-{len(self.manifest()['attempts'])}"
            place.mkdir(exist_ok=True)
            for p in made:
                os.replace(p, place / p.name)
        return place

    def submission(self) -> dict[str, Any]:
        r"""What was sent to Slurm, as `launch` wrote it; empty where there was nothing."""
        try:
            return json.loads((self.path / "submission.json").read_text())
        except FileNotFoundError:
            return {}

    def submitted(self, what: dict[str, Any]) -> None:
        r"""Records what was sent."""
        write_json(self.path / "submission.json", what)

    def mark(self, **fields: Any) -> None:
        r"""Changes fields of the manifest; from inside an attempt, only while it is the latest.

        Raises:
            Fenced: If a newer attempt has started.
        """
        if self.attempt is not None:
            self.fence(self.attempt)
        m = self.manifest()
        if m["state"] == "new":  # a task that failed before it began
            m = self._blank()
        m.update(fields)
        write_json(self.path / "manifest.json", m)

    def fence(self, attempt: int) -> None:
        r"""Raises Fenced if an attempt newer than `attempt` has started."""
        n = len(self.manifest()["attempts"])
        if n != attempt:
            raise Fenced(
                f"attempt {n} of {self.name} has started; attempt {attempt} stops without writing"
            )

    def start(
        self, ranks: int, inputs: dict[str, Any], earlier: Sequence[dict] = (), **fields: Any
    ) -> int:
        r"""Begins a new attempt and returns its number, from 1.

        The folder of a task is made now, by the task itself.

        Arguments:
            ranks: The world's size.
            inputs: Digests of the inputs.
            earlier: Attempts made in a folder that was set aside; counting goes on from them.
            fields: More fields of the manifest.
        """
        m = self.manifest()
        if m["state"] == "new":
            self.path.mkdir(parents=True, exist_ok=True)
            m = self._blank()
        m["attempts"] = [*earlier, *m["attempts"]]
        old = m["attempts"][-1]["state"] if m["attempts"] else None
        m["attempts"].append(
            {
                "started": time.time(),
                "from": self.reached(),
                "ranks": ranks,
                "state": "running",
                **launch_ids(),
            }
        )
        m.pop("message", None)
        m.update(state="running", inputs=inputs, versions=software(), **fields)
        write_json(self.path / "manifest.json", m)
        (self.path / "progress.json").unlink(missing_ok=True)
        self.attempt = n = len(m["attempts"])
        if self.task is not None:
            sign(self.run, self.task, ("running", n), old and (old, n - 1))
        return n

    def end(self, state: str, **fields: Any) -> None:
        r"""Ends the attempt: `complete`, `failed` or `stopped`."""
        m = self.manifest()
        if self.attempt is not None and len(m["attempts"]) == self.attempt:
            last = m["attempts"][-1]
            last.update(state=state, ended=time.time(), reached=self.reached())
            fields["attempts"] = m["attempts"]
        self.mark(state=state, **fields)
        if self.task is not None:
            n = self.attempt or 0
            sign(self.run, self.task, (state, n), ("running", n))

    def reached(self) -> str | None:
        r"""How far the newest checkpoint is, whichever attempt made it; None without one. Of a
        job that goes from seed to seed, how far that of each is."""
        found = []
        for at in (self.path, *sorted(self.path.glob("seeds/*"))):
            try:
                tag = (at / "checkpoints" / "latest").read_text().strip()
            except OSError:
                continue
            found.append(re.sub(r"-a\d+\w*$", "", tag))
        return " ".join(found) or None

    def stuck(self) -> bool:
        r"""Whether this attempt and the one that Slurm restarted have stopped at the same place.

        A person who stops a job twice knows what they do: only restarts of one Slurm job count.
        """
        attempts = self.manifest()["attempts"][-2:]
        jobs = {a.get("slurm", {}).get("job") for a in attempts}
        return (
            len(attempts) == 2
            and jobs != {None}
            and len(jobs) == 1
            and attempts[0]["state"] == "stopped"
            and attempts[0].get("reached") == self.reached()
        )

    def lost_in_vain(self) -> bool:
        r"""Whether the last `LOST` starts of this Slurm job all died unheard and got nowhere."""
        attempts = self.manifest()["attempts"][-LOST:]
        here = launch_ids().get("slurm", {}).get("job")
        return len(attempts) == LOST and all(
            a["state"] == "running"
            and here is not None
            and a.get("slurm", {}).get("job") == here
            and a.get("from") == self.reached()
            for a in attempts
        )

    def seconds(self) -> float:
        r"""Wall-clock seconds all attempts took together."""
        return spent(self.manifest()["attempts"], time.time())
