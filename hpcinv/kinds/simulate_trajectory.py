r"""`kind: simulate` of a dynamics: independent trajectories, as one trajectory store.

Each trajectory is a segment that no window crosses. Shards of trajectories are parts of the
store, written by ranks and by tasks of an array, each kept when it is whole; the join reads them
once, for their digests and for the statistics of the training trajectories, which come first.
"""

from __future__ import annotations

__all__ = ["Trajectory", "join", "run"]

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..errors import BadInput, Stopped
from ..runs.folder import RunFolder
from .arrays import block
from .base import Context, Fields

if TYPE_CHECKING:
    from .simulate import Simulate


class Trajectory(Fields):
    r"""What is kept of each simulation of a dynamics."""

    frames: int = Field(ge=2, description="frames of a trajectory")
    training: int | None = Field(
        None, ge=1, description="the first trajectories give the statistics; default: all"
    )


def dynamics_of(job: Simulate) -> Any:
    r"""The dynamics a job names.

    Raises:
        BadInput: If it is a simulator of parameters.
    """
    from ..simulators import make
    from ..simulators.dynamics import is_dynamics

    found = make(job.simulator, job.options)
    if not is_dynamics(found):
        raise BadInput(
            "it has parameters and no trajectory",
            f"simulator '{job.simulator}'",
            "Leave out 'trajectory'.",
        )
    cycle = found.state.cycle
    if job.trajectory.frames % cycle:
        raise BadInput(
            f"{job.trajectory.frames} frames are not whole cycles of {cycle}",
            "trajectory.frames",
            f"Give a multiple of {cycle}: dates go on from one trajectory to the next.",
        )
    return found


def run(job: Simulate, ctx: Context) -> dict[str, str]:
    r"""Makes the shards of this start's block; those that are whole are kept."""
    import torch

    from ..io.atomic import roll
    from ..io.rows import part_name
    from .simulate import kept

    torch.set_num_threads(ctx.threads)
    dynamics = dynamics_of(job)
    lo, hi = ctx.world.share(ctx.block.start, ctx.block.stop)
    longest = int(ctx.world.all_reduce(float(hi - lo), "max"))
    ctx.progress.begin("simulating trajectories")
    mine = []
    for k in range(longest):  # all ranks ask as often whether to stop
        shard, torn = lo + k, False
        if shard < hi:
            path = ctx.folder / "parts" / part_name(*_frames(job, shard))
            digest = kept(path) or _make(job, dynamics, shard, path.parent, ctx, k, hi - lo)
            torn = digest is None
            mine.append([shard, digest])
        if ctx.stop.requested(ctx.world) or torn:
            raise Stopped(f"stopped with {k + 1 - torn} of {hi - lo} shards whole")
    everyone = [m for part in ctx.world.all_gather(mine) for m in part]
    return {"store": roll(d for _, d in sorted(everyone))}


def join(job: Simulate, ctx: Context, parts: list[Path]) -> dict[str, str]:
    r"""Makes one store of the parts."""
    import numpy as np

    from ..io.atomic import roll
    from ..io.rows import part_name, verify, whole_parts
    from ..io.write_store import StoreWriter
    from .simulate import kept

    dynamics = dynamics_of(job)
    state, n, length = dynamics.state, job.simulations, job.trajectory.frames
    places = {}
    for k, folder in enumerate(parts):
        for shard in block(job.axis("shards"), len(parts), k):
            path = folder / "parts" / part_name(*_frames(job, shard))
            # What was damaged after its task had ended is made anew: the same numbers.
            if kept(path) is None and _make(job, dynamics, shard, path.parent, ctx, 0, 1) is None:
                raise Stopped("stopped while a damaged shard was made anew")
        found = whole_parts(folder / "parts")
        told = RunFolder(folder).manifest()["outputs"]["store"]
        if roll(verify(p)[0] for p in found.values()) != told:
            raise BadInput("its trajectories are not those its manifest tells of", folder)
        places |= found
    writer = StoreWriter(
        ctx.folder / "store",
        channels=list(state.channels),
        units=list(state.channels.values()),
        standard_names=[state.standard_names.get(c) for c in state.channels],
        coords=dict(state.coords),
        coord_attrs={k: dict(v) for k, v in state.coord_attrs.items()},
        time=np.arange(n * length) * state.dt,
        time_units=state.time_units,
        calendar=state.calendar,
        mask=state.mask,
        static=dict(state.static),
        segments=[(i * length, (i + 1) * length) for i in range(n)],
        attributes={"simulator": job.simulator, "options": job.options, "seed": job.seed}
        | ({"sigma": dict(state.sigma)} if state.sigma else {}),
        parts=[
            (os.path.relpath(p, ctx.folder / "store"), a, b)
            for (a, b), p in sorted(places.items())
        ],
        fence=ctx.fence,
    )
    writer.statistics = _statistics(writer, (job.trajectory.training or n) * length, state)
    digest = writer.close()
    ctx.say(f"{n} trajectories of {length} frames on {'x'.join(map(str, state.shape))} numbers")
    return {"store": digest}


def _frames(job: Simulate, shard: int) -> tuple[int, int]:
    r"""Frames of the store that a shard holds."""
    a, b = shard * job.shard, min((shard + 1) * job.shard, job.simulations)
    return a * job.trajectory.frames, b * job.trajectory.frames


def _make(job, dynamics, shard: int, folder: Path, ctx: Context, done: int, total: int):
    r"""One shard; None if this rank was asked to stop before it was whole."""
    import numpy as np

    from ..io.rows import PartWriter
    from ..simulators.base import Key
    from ..simulators.dynamics import trajectories

    start, stop = _frames(job, shard)
    length = job.trajectory.frames
    columns = {"x": (dynamics.state.shape, "f4")}
    fence = ctx.fence if ctx.world.rank == 0 else None
    with PartWriter(folder, start, stop, columns, fence=fence) as writer:
        for a in range(start // length, stop // length, job.batch):
            key = Key(job.seed, np.arange(a, min(a + job.batch, stop // length)))
            frames = []
            for k, x in enumerate(trajectories(dynamics, key, length)):
                if ctx.stop.seen:
                    return None
                frames.append(x.cpu().numpy().astype(np.float32))
                share = (a * length - start + (k + 1) * len(key)) / (stop - start)
                ctx.progress.update(done + share, total)
            writer.write(x=np.concatenate(np.stack(frames, 1)))
        return writer.close()


def _statistics(writer: Any, frames: int, state: Any) -> Any:
    r"""Mean and deviation of the training frames, by the place in the cycle, alike along the
    axes that say so."""
    import numpy as np

    from ..io.statistics import Statistics
    from .statistics import name_still

    P = state.cycle
    phases = np.arange(writer.length) % P  # trajectories are whole cycles
    count = np.zeros(P)
    mean, spread = np.zeros((2, P, *state.shape))
    for start, x in writer.blocks():
        x = x[: max(0, frames - start)].astype(np.float64)
        of = phases[start : start + len(x)]
        for p in np.unique(of):
            new = x[of == p]
            # Chan, Golub & LeVeque (1983): means and squares of two sets make those of both.
            m, both = new.mean(0), count[p] + len(new)
            spread[p] += ((new - m) ** 2).sum(0)
            spread[p] += (m - mean[p]) ** 2 * count[p] * len(new) / both
            mean[p] += (m - mean[p]) * len(new) / both
            count[p] = both
    if count.min() < 2:
        raise BadInput(
            f"{int(count.min())} training frames of a place in the cycle", "trajectory.training",
            "Two or more are needed: more trajectories, or longer ones.",
        )  # fmt: skip
    n = count.reshape(-1, *[1] * len(state.shape))
    same = tuple(2 + list(state.coords).index(a) for a in state.homogeneous)
    pooled = mean.mean(same, keepdims=True)
    var = (spread / n + (mean - pooled) ** 2).mean(same, keepdims=True) * n / (n - 1)
    mean, var = (np.broadcast_to(a, mean.shape) for a in (pooled, var * (n + 1) / n))
    if state.mask is not None:
        var = np.where(state.mask, var, 1.0)
    for c in map(list(state.channels).index, state.partial):
        var = var.copy()
        var[:, c][var[:, c] == 0] = 1.0
    name_still(mean, var, list(state.channels), writer.folder)
    return Statistics(mean.astype("f4"), np.sqrt(var).astype("f4"), count.astype(np.int64), phases)
