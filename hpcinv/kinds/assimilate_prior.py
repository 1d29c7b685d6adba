r"""The part of `kind: assimilate` that samples a prior: guided by observations, or shown them."""

from __future__ import annotations

__all__ = ["draw", "known_steps"]

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..observations.config import Errors

if TYPE_CHECKING:
    from .assimilate import Assimilate
    from .base import Context


def draw(job: Assimilate, ctx: Context, store: Any, table: Any) -> tuple[Any, Iterator]:
    r"""Ids of the members that this rank holds frames of, and those: member, frame, states."""
    import torch

    from ..assimilation import Checkpoint, OperatorLikelihood, PointLikelihood
    from ..models import load
    from ..models.decoder_error import DecoderError

    torch.set_num_threads(ctx.threads)
    frames = range(*job.frames)
    prior = load(ctx.inputs[job.prior]).to(ctx.world.device)
    decoder = error = None
    shape = (len(store.channels), *store.grid)
    if job.decoder is not None:
        decoder = load(ctx.inputs[job.decoder]).to(ctx.world.device)
        shape = decoder.latent_shape
        if job.decoder_error:
            error = DecoderError.load(ctx.inputs[job.decoder])
    c = store.context(frames)
    context = None if c is None else torch.from_numpy(c)
    told = context if getattr(prior, "context", 0) else None
    with_context = context if decoder is not None and decoder.context else None
    likelihood = None
    if job.method == "conditioned":
        prior = _conditioned(job, ctx, prior, store, table)
        told = prior.context(len(frames), told)
    elif table is not None and len(table):
        plain = table.plain and job.errors == Errors()
        kind = PointLikelihood if plain else OperatorLikelihood
        more = {} if plain else {"store": store, "errors": job.errors}
        likelihood = kind(
            table,
            store.statistics,
            frames,
            decoder=decoder,
            decoder_error=error,
            context=with_context,
            **more,
        )
    results = _sample(
        job,
        ctx,
        prior,
        shape=shape,
        length=len(frames),
        window=job.window,
        overlap=job.overlap,
        members=ctx.block,
        likelihood=likelihood,
        context=told,
        compose=job.compose,
        coarse=_coarse(job, ctx),
        guidance=job.guidance,
        sampler=job.sampler,
        seed=job.seed,
        world=ctx.world,
        reproducible=job.reproducible,
        group=job.group,
        batch=job.batch,
        rows=job.rows,
        checkpoint=Checkpoint(
            ctx.folder / "checkpoints",
            job.checkpoint_every,
            ctx.attempt,
            minutes=job.checkpoint_minutes,
        ),
        progress=ctx.progress,
        stop=ctx.stop,
    )

    def pieces():
        ctx.progress.begin("writing the analysis" if decoder is None else "decoding and writing")
        own, done = sum(len(r.members) * len(r.frames) for r in results), 0
        for found in results:
            for (i, m), (k, f) in itertools.product(
                enumerate(found.members), enumerate(found.frames)
            ):
                ctx.progress.update(done, own)
                done += 1
                z = found.x[i, k : k + 1]
                if decoder is not None:
                    row = None if with_context is None else with_context[f : f + 1].to(z)
                    with torch.no_grad():
                        z = decoder.decode(z, row)
                x = z.cpu().numpy()
                if error is not None:
                    x = x + error.sample(job.seed, m, f)
                yield m, f, store.statistics.restore(x, [frames[f]])
        if own:
            ctx.progress.update(own, own)

    return results[0].members if any(r.frames for r in results) else [], pieces()


def known_steps(job: Assimilate, known: Sequence[int], where: Any) -> None:
    r"""Windows must have time steps that the prior has learnt."""
    wanted = [1] if job.coarse is None else [1, job.coarse.step]
    if not set(wanted) <= set(known):
        raise BadInput(
            f"windows of time steps {' and '.join(map(str, wanted))}, by a prior of {list(known)}",
            where,
            f"Train it with 'time_steps: {wanted}'"
            + (", or leave out 'coarse'." if job.coarse and 1 in known else "."),
        )


def _coarse(job: Assimilate, ctx: Context):
    r"""The coarse windows, of a prior that knows their time step."""
    from ..assimilation import Coarse
    from ..models.export import describe

    told = describe(ctx.inputs[job.prior])["extra"].get("time_steps", [1])
    known_steps(job, told, ctx.inputs[job.prior])
    return job.coarse and Coarse(**job.coarse.model_dump())


def _conditioned(job: Assimilate, ctx: Context, prior: Any, store: Any, table: Any):
    r"""The prior that is shown the observations."""
    from ..assimilation.conditioned import Conditioned
    from ..models.export import describe

    channels = describe(ctx.inputs[job.prior])["extra"].get("observed")
    if not channels:
        raise BadInput(
            "the prior was trained without observations",
            ctx.inputs[job.prior],
            "Train it with 'conditioning', or use method: diffusion.",
        )
    if job.mode == "forecast":  # guidance leaves these out by itself, a field would show them
        table = table.select(table.frame < job.frames[1] - job.frames[0] - job.lead)
    return Conditioned(prior, table, store.statistics, range(*job.frames), channels)


def _sample(job: Assimilate, ctx: Context, prior: Any, **arguments: Any) -> list:
    r"""Draws in the job's mode; what this rank holds."""
    from ..assimilation import analysis_and_forecast, filtering, sample

    ctx.progress.begin("sampling")
    if job.mode == "filtering":
        results = [filtering(prior, memory=job.memory, ahead=job.ahead or 0, **arguments)]
    elif job.mode == "forecast":
        results = analysis_and_forecast(prior, lead=job.lead, **arguments)
    else:
        results = [sample(prior, **arguments)]
    events = [e for r in results for e in r.diagnostics["events"]]
    _tell(ctx, results[0].diagnostics | {"events": events})
    return results


def _tell(ctx: Context, found: dict[str, Any]) -> None:
    r"""Writes the sampler's diagnostics, and says what it had to fall back from."""
    from ..io.atomic import write_json

    events = [e for of_rank in ctx.world.all_gather(found["events"]) for e in of_rank]
    counts = [found[k] for k in ("bytes_sent", "bytes_summed", "exchanges", "frames_lent")]
    told = ctx.world.all_gather(counts)
    sent, summed, times, lent = (sum(c) for c in zip(*told, strict=True))
    if sent or summed:
        times = max(times / len(told), 1)
        ctx.say(
            f"sent between ranks: {sent / 1e6:.1f} MB, {sent / times / 1e6:.3f} MB in each of "
            f"{times:.0f} exchanges of {lent} frames of overlaps; sums {summed / 1e6:.3f} MB"
        )
    if ctx.world.rank == 0:
        write_json(ctx.folder / "sampler.json", {**found, "events": events})
    for e in events[:5]:
        ctx.say(f"note: {e}")
    if len(events) > 5:
        ctx.say(f"note: {len(events) - 5} more such events are in sampler.json")
