r"""`kind: simulate` of a dynamics: independent trajectories, as one trajectory store.

Each trajectory is a segment that no window crosses. Shards of trajectories are parts of the
store, written by ranks and by tasks of an array, each kept when it is whole. A shard brings the
digests of its frames and the moments of its training trajectories, which come first: the join
merges what the shards tell and reads no frame.
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

    def trained(self, start: int, stop: int) -> int:
        r"""How many of the frames [start, stop) are of training trajectories, all first."""
        last = stop if self.training is None else self.training * self.frames
        return max(0, min(stop, last) - start)


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
            digest = kept(path) if _told(path) else None
            digest = digest or _make(job, dynamics, shard, path.parent, ctx, k, hi - lo)
            torn = digest is None
            mine.append([shard, digest])
        if ctx.stop.requested(ctx.world) or torn:
            raise Stopped(f"stopped with {k + 1 - torn} of {hi - lo} shards whole")
    everyone = [m for part in ctx.world.all_gather(mine) for m in part]
    return {"store": roll(d for _, d in sorted(everyone))}


def join(job: Simulate, ctx: Context, parts: list[Path]) -> dict[str, str]:
    r"""Makes one store of the parts, of what they tell: no frame is read."""
    import numpy as np

    from ..io.atomic import roll
    from ..io.phase_moments import PhaseMoments
    from ..io.rows import part_name, told
    from ..io.write_store import StoreWriter

    dynamics = dynamics_of(job)
    state, n, length = dynamics.state, job.simulations, job.trajectory.frames
    places, digests, moments = {}, [], PhaseMoments(state.cycle, state.shape)
    for k, folder in enumerate(parts):
        of_parts = []
        for shard in block(job.axis("shards"), len(parts), k):
            span = _frames(job, shard)
            path = folder / "parts" / part_name(*span)
            places[span] = path
            found = _told(path)
            if found is None:  # truncated after its task had ended: the same numbers again
                if _make(job, dynamics, shard, path.parent, ctx, 0, 1) is None:
                    raise Stopped("stopped while a damaged shard was made anew")
                found = told(path)
            digest, about = found
            of_parts.append(digest)
            digests += [d.decode() for d in about["digests"]]
            if job.trajectory.trained(*span):
                moments.merge(about)
        if roll(of_parts) != RunFolder(folder).manifest()["outputs"]["store"]:
            raise BadInput(
                "its trajectories are not those its manifest tells of", folder,
                "Run the job again with --fresh.",
            )  # fmt: skip
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
    writer.digests = dict(enumerate(digests))
    phases = np.arange(n * length) % state.cycle  # trajectories are whole cycles
    writer.statistics = _statistics(moments, phases, state, writer.folder)
    digest = writer.close()
    ctx.say(f"{n} trajectories of {length} frames on {'x'.join(map(str, state.shape))} numbers")
    return {"store": digest}


def _frames(job: Simulate, shard: int) -> tuple[int, int]:
    r"""Frames of the store that a shard holds."""
    a, b = shard * job.shard, min((shard + 1) * job.shard, job.simulations)
    return a * job.trajectory.frames, b * job.trajectory.frames


def _told(path: Path) -> tuple[str, dict[str, Any]] | None:
    r"""What a shard says of itself; one that is damaged, or of an earlier version, is removed."""
    from ..io.rows import told

    if not path.exists():
        return None
    try:
        return told(path)
    except BadInput as e:
        print(f"hpcinv: {e.what}; it is made anew ({path.name})", flush=True)
        path.unlink()
        return None


def _make(job, dynamics, shard: int, folder: Path, ctx: Context, done: int, total: int):
    r"""One shard; None if this rank was asked to stop before it was whole."""
    import numpy as np

    from ..io.atomic import digest_frame
    from ..io.phase_moments import PhaseMoments
    from ..io.rows import PartWriter
    from ..simulators.base import Key
    from ..simulators.dynamics import trajectories

    start, stop = _frames(job, shard)
    length, state = job.trajectory.frames, dynamics.state
    columns = {"x": (state.shape, "f4")}
    fence = ctx.fence if ctx.world.rank == 0 else None
    trained = job.trajectory.trained(start, stop)
    moments, digests = PhaseMoments(state.cycle, state.shape) if trained else None, []
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
            x = np.concatenate(np.stack(frames, 1))
            mine = x[: job.trajectory.trained(a * length, a * length + len(x))]
            if len(mine):
                moments.add(mine, np.arange(len(mine)) % state.cycle)
            digests += [digest_frame(row) for row in x]
            writer.write(x=x)
        about = {"digests": np.array(digests, dtype="S32")}
        return writer.close(about | (moments.arrays if trained else {}))


def _statistics(moments: Any, phases: Any, state: Any, folder: Path) -> Any:
    r"""Mean and deviation of the training frames, by the place in the cycle, alike along the
    axes that say so."""
    import numpy as np

    from ..io.statistics import Statistics
    from .statistics import name_still

    count, mean = moments.count, moments.mean
    if count.min() < 2:
        raise BadInput(
            f"{int(count.min())} training frames of a place in the cycle", "trajectory.training",
            "Two or more are needed: more trajectories, or longer ones.",
        )  # fmt: skip
    n = count.reshape(-1, *[1] * len(state.shape))
    same = tuple(2 + list(state.coords).index(a) for a in state.homogeneous)
    pooled = mean.mean(same, keepdims=True)
    var = (moments.spread / n + (mean - pooled) ** 2).mean(same, keepdims=True) * n / (n - 1)
    mean, var = (np.broadcast_to(a, mean.shape) for a in (pooled, var * (n + 1) / n))
    if state.mask is not None:
        var = np.where(state.mask, var, 1.0)
    for c in map(list(state.channels).index, state.partial):
        var = var.copy()
        var[:, c][var[:, c] == 0] = 1.0
    name_still(mean, var, list(state.channels), folder)
    return Statistics(mean.astype("f4"), np.sqrt(var).astype("f4"), count, phases)
