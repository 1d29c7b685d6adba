r"""The run folder `runs/<study>/<job>/` and its manifest.

    job.yaml        the resolved job file
    manifest.json   state, attempts, inputs and outputs with their digests, versions, Slurm ids
    submission.json the id Slurm gave, written by the command that submitted
    logs/           what the attempts printed
    checkpoints/    of jobs that resume
    ...             the outputs

A start of the job is a numbered attempt. An attempt may change the manifest only while the
manifest still names it: after a node failure Slurm starts the job elsewhere, and the rank 0 of
a node thought dead must not commit over its successor.
"""

from __future__ import annotations

__all__ = ["Fenced", "RunFolder"]

import json
import os
import time
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..io.atomic import digest_bytes, write_bytes, write_json
from .provenance import launch_ids, software

FORMAT = 1


class Fenced(RuntimeError):
    r"""A newer attempt owns this run folder; this one must write nothing more."""


class RunFolder:
    r"""One job's folder.

    Arguments:
        path: `runs/<study>/<job>`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.attempt: int | None = None

    @property
    def name(self) -> str:
        r"""`study/job`."""
        return f"{self.path.parent.name}/{self.path.name}"

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
            write_json(
                self.path / "manifest.json",
                {
                    "format": FORMAT,
                    "study": self.path.parent.name,
                    "job": self.path.name,
                    "kind": kind,
                    "state": "prepared",
                    "attempts": [],
                },
            )
        m = self.manifest()
        m["job_digest"] = digest_bytes(text.encode())
        write_json(self.path / "manifest.json", m)

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

    def submission(self) -> dict[str, Any]:
        r"""The last submission: `slurm_job`, `submitted`; empty where there was none.

        A file of its own, since a job may start, and write its manifest, before the command that
        submitted it knows its id.
        """
        try:
            return json.loads((self.path / "submission.json").read_text())
        except FileNotFoundError:
            return {}

    def submitted(self, slurm_job: str) -> None:
        r"""Records the id of a submission."""
        write_json(
            self.path / "submission.json", {"slurm_job": slurm_job, "submitted": time.time()}
        )

    def mark(self, **fields: Any) -> None:
        r"""Changes fields of the manifest; from inside an attempt, only while it is the latest.

        Raises:
            Fenced: If a newer attempt has started.
        """
        if self.attempt is not None:
            self.fence(self.attempt)
        m = self.manifest()
        m.update(fields)
        write_json(self.path / "manifest.json", m)

    def fence(self, attempt: int) -> None:
        r"""Raises Fenced if an attempt newer than `attempt` has started."""
        n = len(self.manifest()["attempts"])
        if n != attempt:
            raise Fenced(
                f"attempt {n} of {self.name} has started; attempt {attempt} stops without writing"
            )

    def start(self, ranks: int, inputs: dict[str, Any]) -> int:
        r"""Begins a new attempt and returns its number, from 1."""
        m = self.manifest()
        m["attempts"].append(
            {"started": time.time(), "ranks": ranks, "state": "running", **launch_ids()}
        )
        for old in ("failure", "message"):
            m.pop(old, None)
        m.update(state="running", inputs=inputs, versions=software())
        write_json(self.path / "manifest.json", m)
        (self.path / "failure.json").unlink(missing_ok=True)
        (self.path / "progress.json").unlink(missing_ok=True)
        self.attempt = len(m["attempts"])
        return self.attempt

    def end(self, state: str, **fields: Any) -> None:
        r"""Ends the attempt: `complete`, `failed` or `stopped`."""
        m = self.manifest()
        if self.attempt is not None and len(m["attempts"]) == self.attempt:
            last = m["attempts"][-1]
            last.update(state=state, ended=time.time())
            fields["attempts"] = m["attempts"]
        self.mark(state=state, **fields)

    def seconds(self) -> float:
        r"""Wall-clock seconds all attempts took together."""
        now = time.time()
        return sum(a.get("ended", now) - a["started"] for a in self.manifest()["attempts"])
