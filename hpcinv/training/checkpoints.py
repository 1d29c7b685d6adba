r"""Checkpoints that are whole or are not there.

    checkpoints/
      step-300-a2/          a tag: step, attempt. Never used twice.
        *.pt                the engine's state, one file per rank and kind
        average.safetensors the moving average, whole
        manifest.json       the size and digest of every file; written last
      latest                the name of a tag, moved by one rename after all ranks are done

A kill at any moment leaves `latest` on a whole checkpoint. A file damaged later is found by its
digest, and the newest whole tag is taken instead. The last few are kept, and the one with the
best validation among those that were validated at their step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcinv.errors import BadInput
from hpcinv.io.atomic import sync, write_bytes, write_json
from hpcinv.training.alone import alone

if TYPE_CHECKING:
    from hpcinv.parallel import World

_TAG = re.compile(r"^step-(\d+)-a(\d+)$")
MANIFEST, LATEST, AVERAGE = "manifest.json", "latest", "average.safetensors"
UNIVERSAL = "universal-"


def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class DiskFull(RuntimeError):
    r"""There is no room for a checkpoint, or none under the user's quota."""


class Checkpoints:
    r"""The checkpoints of one training, seen by all its ranks.

    Arguments:
        folder: The folder `checkpoints`.
        world: The ranks that save and load together.
        keep: The number of whole checkpoints kept, the best one not counted.
        attempt: The number of this start of the job. A number whose tag exists is passed over.
    """

    def __init__(
        self, folder: Path | str, world: World, keep: int = 2, attempt: int | None = None
    ) -> None:
        self.folder, self.world, self.keep = Path(folder), world, keep
        if world.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            if attempt is None:
                attempt = 1 + max((a for _, a, _ in self._tags()), default=0)
        self.attempt = int(world.broadcast(attempt))

    def _tags(self) -> list[tuple[int, int, str]]:
        r"""(step, attempt, name) of every tag's folder, newest last."""
        if not self.folder.is_dir():
            return []
        found = (_TAG.match(entry.name) for entry in self.folder.iterdir())
        return sorted((int(m[1]), int(m[2]), m[0]) for m in found if m)

    def save(self, engine: Any, average: dict[str, Any] | None, state: dict[str, Any]) -> str:
        r"""Writes a checkpoint and moves `latest` to it. Collective.

        Arguments:
            engine: The DeepSpeed engine.
            average: The moving average, whole, on rank 0.
            state: What must agree when it is loaded; `step` among it, and `validation`, the loss
                of a validation at this step, where there was one.

        Returns:
            The checkpoint's tag.

        Raises:
            DiskFull: If it did not fit; what was written of it is removed.
        """
        from safetensors.torch import save as to_bytes

        rank, size = self.world.rank, self.world.size
        tag = None
        if rank == 0:
            attempt = self.attempt
            while (self.folder / f"step-{state['step']}-a{attempt}").exists():
                attempt += 1
            tag = f"step-{state['step']}-a{attempt}"
            (self.folder / tag).mkdir()
        tag = self.world.broadcast(tag)
        place = self.folder / tag
        try:
            engine.save_checkpoint(
                str(self.folder), tag=tag, client_state={"step": state["step"]}, save_latest=False
            )
            if average and rank == 0:
                write_bytes(place / AVERAGE, to_bytes(average))
        except (OSError, RuntimeError) as error:  # torch's writer hides the cause in its words
            self._no_room(place, error)
            raise
        self.world.barrier("checkpoint files")
        # Every rank reads back and flushes its share of the files, whoever wrote them: what is
        # digested is what reached the file system.
        names = sorted(p.name for p in place.iterdir() if p.is_file())[rank::size]
        mine = []
        for name in names:
            sync(place / name)
            mine.append([name, (place / name).stat().st_size, _digest(place / name)])
        everyone = self.world.gather(mine)
        if rank == 0:
            files = {n: {"bytes": b, "digest": d} for part in everyone for n, b, d in part}
            sync(place)
            write_json(place / MANIFEST, {**state, "tag": tag, "files": files})
            write_bytes(self.folder / LATEST, f"{tag}\n".encode())
            self._prune(tag)
        self.world.barrier("checkpoint committed")
        return tag

    def _no_room(self, place: Path, error: Exception) -> None:
        r"""Raises DiskFull if that is why a file could not be written."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full:
            try:
                with open(place / "probe", "wb") as f:
                    f.write(bytes(1 << 16))
                (place / "probe").unlink()
            except OSError as again:
                full = again.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full:
            return
        shutil.rmtree(place, ignore_errors=True)
        try:
            last = (self.folder / LATEST).read_text().strip()
        except OSError:
            last = ""
        left = f"{last} is whole" if last else "there is none before it"
        raise DiskFull(
            f"the disk is full (or a quota spent): {place.name} was not written; {left}."
            f" Make room in {self.folder} and run the job again."
        ) from error

    def _prune(self, latest: str) -> None:
        r"""Removes whole checkpoints beyond the last kept, but for the best, and torn ones."""
        names = [name for *_, name in self._tags() if name != latest]
        whole = [n for n in names if (self.folder / n / MANIFEST).exists()]
        torn = [n for n in names if n not in whole]
        best = min([*whole, latest], key=self._validation)
        old = whole[: max(0, len(whole) - (self.keep - 1))]
        for name in torn + [n for n in old if n != best or self._validation(n) == math.inf]:
            # Without its manifest a tag is not whole, so a kill inside the removal is harmless.
            (self.folder / name / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _validation(self, tag: str) -> float:
        r"""The loss of the validation at a checkpoint's step, infinite where there was none."""
        try:
            value = json.loads((self.folder / tag / MANIFEST).read_text()).get("validation")
        except (OSError, ValueError):
            value = None
        return math.inf if value is None else value

    def _verdict(self, tag: str) -> tuple[dict[str, Any] | None, str]:
        r"""The tag's manifest if all its files are as they were written, else why not."""
        place = self.folder / tag
        manifest, problem = None, ""
        try:
            manifest = json.loads((place / MANIFEST).read_text())
            names = sorted(manifest["files"])[self.world.rank :: self.world.size]
            for name in names:
                told = manifest["files"][name]
                if (place / name).stat().st_size != told["bytes"]:
                    raise OSError(f"{name} is torn")
                if _digest(place / name) != told["digest"]:
                    raise OSError(f"{name} differs from its digest")
        except (OSError, ValueError, KeyError) as error:
            problem = str(error) or type(error).__name__
        problems = [p for p in self.world.all_gather(problem) if p]
        return (None, problems[0]) if problems else (manifest, "")

    def newest(self) -> dict[str, Any] | None:
        r"""The manifest of the newest whole checkpoint, or None where there is none. Collective.

        `latest` is tried first, then older and stray tags; each that fails costs a warning.
        """
        candidates: list[str] = []
        if self.world.rank == 0:
            names = [name for *_, name in reversed(self._tags())]
            try:
                first = (self.folder / LATEST).read_text().strip()
            except OSError:
                first = ""
            candidates = [n for n in names if n == first] + [n for n in names if n != first]
        candidates = self.world.broadcast(candidates)
        for tag in candidates:
            manifest, problem = self._verdict(tag)
            if manifest is not None:
                return manifest
            if self.world.rank == 0 and (self.folder / tag / MANIFEST).exists():
                warnings.warn(
                    f"checkpoint {tag} is not whole ({problem}); taking the one before it",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return None

    def spread(self, manifest: dict[str, Any]) -> bool:
        r"""Makes a checkpoint of sharded states readable by this number of ranks. Collective.

        DeepSpeed's converter writes each parameter's states whole, in a folder of its own; it is
        removed once loaded.

        Returns:
            Whether that was necessary.

        Raises:
            BadInput: If the converter fails.
        """
        if manifest["world"] == self.world.size or manifest["replicated"]:
            return False
        if self.world.rank == 0:
            warnings.warn(
                f"resuming a checkpoint of {manifest['world']} ranks on {self.world.size}: "
                "sums are taken in another order, so the bits will differ",
                RuntimeWarning,
                stacklevel=2,
            )
            self._own(manifest)
        source, target = self.folder / manifest["tag"], self._universal(manifest)
        problem = self.world.broadcast(alone(self.world, lambda: _convert(source, target)))
        if problem:
            raise BadInput(
                f"a checkpoint of {manifest['world']} ranks cannot be spread over "
                f"{self.world.size}: {problem}",
                where=self.folder / manifest["tag"],
                instead=f"Start {manifest['world']} ranks.",
            )
        return True

    def _universal(self, manifest: dict[str, Any]) -> Path:
        return self.folder / (UNIVERSAL + manifest["tag"])

    def _own(self, manifest: dict[str, Any]) -> None:
        r"""Loading unpickles, which runs what a file says: only for files of one's own."""
        place = self.folder / manifest["tag"]
        for name in manifest["files"]:
            if name.endswith(".pt") and (place / name).stat().st_uid != os.getuid():
                raise BadInput("a checkpoint that belongs to another user", where=place / name)

    def load(self, engine: Any, manifest: dict[str, Any]) -> dict[str, Any] | None:
        r"""Loads a checkpoint into an engine. Collective.

        Arguments:
            engine: The engine, as freshly started.
            manifest: What :meth:`newest` returned.

        Returns:
            The moving average, whole, or None where it was not kept.

        Raises:
            BadInput: If the checkpoint belongs to somebody else.
        """
        from safetensors.torch import load as from_bytes

        self._own(manifest)
        universal = self._universal(manifest)
        spread = self.world.broadcast(universal.is_dir())
        engine.load_checkpoint(str(self.folder), tag=universal.name if spread else manifest["tag"])
        self.world.barrier("checkpoint loaded")
        if spread and self.world.rank == 0:
            shutil.rmtree(universal, ignore_errors=True)
            (self.folder / "latest_universal").unlink(missing_ok=True)  # the converter's own
        average = self.folder / manifest["tag"] / AVERAGE
        return from_bytes(average.read_bytes()) if average.exists() else None


def _convert(source: Path, target: Path) -> str:
    r"""Runs DeepSpeed's converter to its universal format; returns what went wrong."""
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    shutil.rmtree(target, ignore_errors=True)
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the converter ended with {done.returncode}"
