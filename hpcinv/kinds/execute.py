r"""Running a prepared job on the ranks that are there. The same path for a person's `hpcinv run`
and for the last line of every sbatch script."""

from __future__ import annotations

__all__ = ["execute"]

import json
import os
import platform
import resource
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from ..errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, BadInput, Stopped, tell_script
from ..io.atomic import roll
from ..parallel import World, connect, launched
from ..runs.folder import LOST, Fenced, RunFolder
from ..runs.progress import Progress, clock
from ..runs.stop import StopFlag
from . import arrays
from .base import Context, Job, references
from .prepare import complete, cut_alike, input_digests
from .study import load_resolved


def execute(path: Path, ranks: int | None = None) -> int:
    r"""Runs a run folder's job, or a task of it, on this process's world; every rank calls it.

    Arguments:
        path: The resolved `job.yaml` in its run folder.
        ranks: The world's expected size; by default that of the job's resources.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input, 75 stopped and resumable.
    """
    job = load_resolved(path)
    top = RunFolder(path.resolve().parent)
    step = arrays.asked(job, path)
    folder = top.of_task(step) if isinstance(step, int) else top
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
    if "HPCINV_STARTER" in os.environ:
        stop.follow(int(os.environ["HPCINV_STARTER"]))
    world: World | None = None
    try:
        world = connect("none" if step == arrays.JOIN else job.backend, rendezvous=top.logs)
        if world.rank == 0:
            tell_script()
        return world.finish(_run(job, folder, step, world, stop, threads))
    except Fenced as e:
        print(f"hpcinv: {e}", file=sys.stderr)
        return EXIT_FAILED
    except BaseException as e:
        return _failed(e, folder, world)
    finally:
        if world is not None:
            world.close()


def _run(
    job: Job, folder: RunFolder, step: int | str | None, world: World, stop: StopFlag, threads: int
) -> int:
    folders = {}
    for _, ref, _ in references(job):
        path = Path(ref)
        folders[ref] = path if path.is_absolute() else folder.run.parent / ref
    over = arrays.axis(job)
    block = range(job.axis(over)) if over else range(0)
    if isinstance(step, int):
        block = arrays.block(len(block), job.resources.array.tasks, step)
    state = parts = None
    own: dict[str, str] = {}  # parts of inputs that are cut alike: this task reads its own
    if world.rank == 0:
        top = RunFolder(folder.run)
        if not top.exists and not top.submission():  # sent by hand
            top.prepare((top.path / "job.yaml").read_text(), job.kind)
        (folder.path / "failure.json").unlink(missing_ok=True)  # an earlier attempt's
        try:
            # Slurm starts a job when those before it have ended: their files may not be here yet.
            late = 30.0 if "SLURM_JOB_ID" in os.environ else 0.0
            same = cut_alike(folders, job)
            if folder.task is not None:
                own = {ref: str(RunFolder(path, folder.task).path) for ref, path in same.items()}
            inputs = input_digests(folders | {ref: Path(p) for ref, p in own.items()}, job, late)
            if complete(folder, inputs):
                state = ["complete", None]
            else:
                if step == arrays.JOIN:
                    parts = arrays.parts(folder, job, inputs, late, same)
                if folder.lost_in_vain():
                    raise BadInput(
                        f"{LOST} starts of this Slurm job were lost without a word at the same "
                        "place: it made no progress",
                        folder.path,
                        "See what its nodes died of (memory?); hpcinv retry starts it anew.",
                    )
                state = ["go", [_begin(folder, world.size, inputs, block), own]]
        except BadInput as e:  # told by rank 0 to all, so that none waits for it
            state = ["bad", str(e)]
    what, value = world.broadcast(state)
    if what == "bad":
        raise BadInput(value)
    if what == "complete":
        if world.rank == 0:
            print(f"{folder.name} is complete already", flush=True)
        return 0
    attempt, own = value
    ctx = Context(
        folder=folder.path,
        world=world,
        progress=Progress(folder.path, active=world.rank == 0),
        stop=stop,
        attempt=attempt,
        inputs=folders | {ref: Path(p) for ref, p in own.items()},
        threads=threads,
        task=folder.task,
        over=over,
        block=block,
    )
    outputs: dict[str, str] = {}
    try:
        if step != arrays.JOIN:
            outputs = job.run(ctx)
    except Stopped as e:
        if world.broadcast(folder.stuck() if world.rank == 0 else None):
            raise RuntimeError(
                f"it was started again and made no progress: {e}, for the second time"
            ) from e
        if world.rank == 0:
            folder.end("stopped", message=str(e))
            print(f"{folder.name} stopped and can be resumed: {e}", flush=True)
        return EXIT_STOPPED
    if job.axes and folder.task is None and world.rank == 0:
        if parts is None:
            # The whole job in one: its part is the run folder, told of in the same way.
            folder.mark(outputs=outputs)
            parts = [folder.path]
        outputs = job.join(replace(ctx, world=World()), parts)
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


def _begin(folder: RunFolder, ranks: int, inputs: dict, block: range) -> int:
    r"""Starts an attempt; where the inputs have changed since the last one, it begins anew."""
    m = folder.manifest()
    moved = m["attempts"] and m["inputs"] != inputs
    if folder.task is None:
        if moved and (place := folder.clear()):
            print(f"the inputs have changed: what was made of the old ones is in {place}")
        return folder.start(ranks, inputs)
    earlier = []
    if moved:
        folder.set_aside()
        earlier = m["attempts"]
    return folder.start(ranks, inputs, earlier, block=[block.start, block.stop])


def _failed(e: BaseException, folder: RunFolder, world: World | None) -> int:
    r"""The first rank that fails tells; then the whole world ends, wherever the others wait."""
    code = EXIT_BAD_INPUT if isinstance(e, BadInput) else EXIT_FAILED
    many = world is not None and world.size > 1
    rank = world.rank if world is not None else launched().rank
    report = {
        "rank": rank,
        "node": platform.node(),
        "code": code,
        "error": f"{type(e).__name__}: {e}" if code == EXIT_FAILED else str(e),
        "traceback": traceback.format_exc(),
    }
    first = room = True
    tell_script()  # whichever rank this is: it runs, and says itself what is wrong
    try:
        folder.path.mkdir(parents=True, exist_ok=True)  # a task may fail before it has begun
        with open(folder.path / "failure.json", "x") as f:
            try:
                json.dump(report, f, indent=1)
                f.flush()
            except OSError:  # the disk is full: then the log must do
                room = False
                (folder.path / "failure.json").unlink()
    except FileExistsError:  # another rank was first
        first = False
    except OSError:
        room = False
    if first:
        text = f"hpcinv: {e}" if code == EXIT_BAD_INPUT else report["traceback"]
        if not room and code == EXIT_FAILED:  # what it came to first: the log may end soon, too
            text = f"Traceback (most recent call last):\n{report['error']}\n\nIn full:\n\n{text}"
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
