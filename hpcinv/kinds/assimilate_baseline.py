r"""The part of `kind: assimilate` that computes a baseline: interpolation, ensembles, no data."""

from __future__ import annotations

__all__ = ["draw"]

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..assimilation.baselines_config import METHODS, Climatology, Ensemble, Persistence

if TYPE_CHECKING:
    from .assimilate import Assimilate
    from .base import Context


def draw(job: Assimilate, ctx: Context, store: Any, table: Any) -> tuple[Any, Iterator]:
    r"""Ids of the members that this rank holds frames of, and those: member, frame, states."""
    from ..assimilation.baselines import Problem, build

    config = {
        "climatology": Climatology,
        "persistence": Persistence,
        "oi": lambda: job.oi,
    }.get(
        job.method,
        lambda: Ensemble(method=job.method, before=bool(job.ahead), **job.ensemble.model_dump()),
    )()
    dates, L = ctx.over == "dates", job.frames[1] - job.frames[0]
    own, M = job.held(ctx.over, ctx.block), job.members
    lo, hi = ctx.world.share(*((ctx.block.start, ctx.block.stop) if dates else (0, L)))
    ctx.progress.begin(f"analysing by {job.method}")

    def pieces():
        # Members of an ensemble Kalman filter make each other: whoever wants one makes all.
        together = job.method in METHODS
        first, last = (own.start // M, (own.stop - 1) // M) if together else (0, 0)
        for n in range(first, last + 1):
            problem = Problem(
                store=store,
                statistics=store.statistics,
                training=job.training,
                analysed=job.frames,
                table=table,
                members=range(M) if together else own,
                seed=job.seed + n,
                errors=job.errors,
            )
            baseline = build(config, problem)
            for k in range(lo, hi):
                for m, x in zip(problem.members, baseline.draw(k, k + 1), strict=True):
                    if n * M + m in own:
                        yield n * M + m, k, x
                done = (n - first) * (hi - lo) + k + 1 - lo
                ctx.progress.update(done, (last + 1 - first) * (hi - lo))

    return list(own) if hi > lo else [], pieces()
