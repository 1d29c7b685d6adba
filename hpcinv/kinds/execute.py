r"""Running a prepared job on the ranks that are there. The same path for a person's `hpcinv run`
and for the last line of every sbatch script."""

from __future__ import annotations

__all__ = ["execute"]

import json
import os
import resource
import sys
import traceback
from pathlib import Path

from ..errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, BadInput, Stopped
from ..io.atomic import roll
from ..parallel import World, connect, launched
from ..runs.folder import Fenced, RunFolder
from ..runs.progress import Progress, clock
from ..runs.stop import StopFlag
from .base import Context, Job, references
from .prepare import complete, input_digests
from .study import load_resolved


def execute(path: Path, ranks: int | None = None) -> int:
    r"""Runs the job of a run folder on this process's world; every rank calls it.

    Arguments:
        path: The resolved `job.yaml` in its run folder.
        ranks: The world's expected size; by default that of the job's resources.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input, 75 stopped and resumable.
    """
    job = load_resolved(path)
    folder = RunFolder(path.resolve().parent)
    launch = launched()
    if ranks is not None and ranks != launch.size:
        raise BadInput(
            f"--ranks {ranks} was asked for but {launch.size} started",
            path,
            "Leave --ranks out under a launcher, or start as many ranks as it says.",
        )
    threads = int(os.environ.get("HPCINV_THREADS", job.resources.cpus_per_task or 1))
    if job.backend == "torch":
        # One setting for both ranks and libraries; read by torch when it is first imported.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    stop = StopFlag().listen()
    world: World | None = None
    try:
        world = connect(job.backend, rendezvous=folder.logs)
        return world.finish(_run(job, folder, world, stop, threads))
    except Fenced as e:
        print(f"hpcinv: {e}", file=sys.stderr)
        return EXIT_FAILED
    except BaseException as e:
        return _failed(e, folder, world)
    finally:
        if world is not None:
            world.close()


def _run(job: Job, folder: RunFolder, world: World, stop: StopFlag, threads: int) -> int:
    folders = {}
    for _, ref, _ in references(job):
        path = Path(ref)
        folders[ref] = path if path.is_absolute() else folder.path.parent / ref
    state = None
    if world.rank == 0:
        try:
            inputs = input_digests(folders, job)
            if complete(folder, inputs):
                state = ["complete", 0]
            else:
                state = ["go", folder.start(world.size, inputs)]
        except BadInput as e:  # told by rank 0 to all, so that none waits for it
            state = ["bad", str(e)]
    what, value = world.broadcast(state)
    if what == "bad":
        raise BadInput(value)
    if what == "complete":
        if world.rank == 0:
            print(f"{folder.name} is complete already", flush=True)
        return 0
    ctx = Context(
        folder=folder.path,
        world=world,
        progress=Progress(folder.path, active=world.rank == 0),
        stop=stop,
        attempt=value,
        inputs=folders,
        threads=threads,
    )
    try:
        outputs = job.run(ctx)
    except Stopped as e:
        if world.rank == 0:
            folder.end("stopped", message=str(e))
            print(f"{folder.name} stopped and can be resumed: {e}", flush=True)
        return EXIT_STOPPED
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = {
        "largest_rank": int(world.all_reduce(peak, "max")),
        "all": int(world.all_reduce(peak)),
    }
    if world.rank == 0:
        folder.end(
            "complete",
            outputs=outputs,
            digest=roll(outputs[k] for k in sorted(outputs)),
            peak_memory=memory,
        )
        print(f"{folder.name} complete in {clock(folder.seconds())}", flush=True)
    return 0


def _failed(e: BaseException, folder: RunFolder, world: World | None) -> int:
    r"""The first rank that fails tells; then the whole world ends, wherever the others wait."""
    code = EXIT_BAD_INPUT if isinstance(e, BadInput) else EXIT_FAILED
    many = world is not None and world.size > 1
    rank = world.rank if world is not None else launched().rank
    report = {
        "rank": rank,
        "code": code,
        "error": f"{type(e).__name__}: {e}" if code == EXIT_FAILED else str(e),
        "traceback": traceback.format_exc(),
    }
    first = True
    try:
        with open(folder.path / "failure.json", "x") as f:
            json.dump(report, f, indent=1)
    except OSError:  # another rank was first (or the disk is full: then the log must do)
        first = not (folder.path / "failure.json").exists()
    if first:
        text = f"hpcinv: {e}" if code == EXIT_BAD_INPUT else report["traceback"]
        print(text, file=sys.stderr, flush=True)
        try:
            if (
                folder.attempt is None
            ):  # the attempt is rank 0's; any rank may be the first to fail
                folder.attempt = len(folder.manifest()["attempts"]) or None
            folder.end("failed", message=report["error"])
        except Exception as again:
            print(f"hpcinv: the manifest could not be written: {again}", file=sys.stderr)
    if many and world.backend == "mpi":
        sys.stderr.flush()
        world.comm.Abort(code)
    if many:
        os._exit(code)  # torch's process group would wait for the other ranks
    return code
