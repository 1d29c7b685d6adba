r"""The part of `kind: train` that learns a posterior from simulations, from one seed or several.

From several, each flow is trained as it would be alone; the join puts the flows of all of them
into one ensemble and fits the weights of the mixture on the withheld simulations. A seed that went
wrong gets no weight.
"""

from __future__ import annotations

__all__ = ["join", "run", "told"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..runs.folder import RunFolder
from .simulate import simulator_of

if TYPE_CHECKING:
    from .base import Context
    from .train import Train

SHARED = ("x_mean", "x_std", "z_mean", "z_std")  # one for all flows of an ensemble


def run(job: Train, ctx: Context) -> dict[str, str]:
    r"""Trains the posterior of a `train` job, or those of a block of seeds; see `Job.run`."""
    from ..io.atomic import roll
    from .train import digest, fit

    data, held = _simulations(job, ctx)
    if job.seeds == 1:
        return fit(job, ctx, _learner(job, ctx, data, held), data, held)
    found = []
    for nth in ctx.block:
        folder = ctx.folder / "seeds" / str(nth)
        # Written last, by an earlier attempt. One looks: a file system may tell two ranks apart.
        if ctx.world.broadcast((folder / "model.json").exists()):
            found.append(digest(folder))
        else:
            learner = _learner(job, ctx, data, held, nth)
            found.append(fit(job, ctx, learner, data, held, nth)["model"])
    return {"models": roll(found)}


def join(job: Train, ctx: Context, parts: list[Path]) -> dict[str, str]:
    r"""One ensemble of the flows of all seeds; see `Job.join`."""
    import torch

    from ..io.atomic import roll
    from ..models import load, save
    from ..training.best import loss_of
    from .arrays import block
    from .train import digest

    torch.set_num_threads(ctx.threads)
    flows = []
    for k, part in enumerate(parts):
        folders = [part / "seeds" / str(n) for n in block(job.seeds, len(parts), k)]
        if {"models": roll(map(digest, folders))} != told(part):
            raise BadInput("its flows are not those its manifest tells of", part)
        flows += [load(folder) for folder in folders]
    data, held = _simulations(job, ctx)
    learner = _learner(job, ctx, data, held, flows=job.model.flows * job.seeds)
    one = learner.module
    for name in SHARED:
        first = getattr(flows[0], name)
        if not all(torch.equal(getattr(f, name), first) for f in flows):
            raise BadInput(f"the flows of the seeds differ in their '{name}'", ctx.folder)
        getattr(one, name).copy_(first)
    members = [m for f in flows for m in f.members]
    for mine, trained in zip(one.members, members, strict=True):
        mine.load_state_dict(trained.state_dict())
    one.eval().requires_grad_(False)
    figures = learner.finish(one, data, ctx.folder)
    config = job.training.model_copy(update={"seed": job.seed})
    alone = [loss_of(learner, f, held, config) for f in flows]
    figures |= {"validation": loss_of(learner, one, held, config), "validation_of_seeds": alone}
    save(ctx.folder, one, learner.model, figures)
    ctx.say(
        f"{len(members)} flows of {job.seeds} seeds: validation {figures['validation']:.4g}, "
        f"alone {min(alone):.4g} to {max(alone):.4g}"
    )
    return {"model": digest(ctx.folder)}


def told(part: Path) -> dict[str, str]:
    r"""What a part's manifest tells of its outputs."""
    return RunFolder(part).manifest()["outputs"]


def _simulations(job: Train, ctx: Context) -> tuple[Any, Any]:
    r"""The simulations to learn from, and those withheld: the same for every seed."""
    from ..io.rows import Rows, verify
    from ..training.simulations import SimulationDataset
    from .training_data import read_through

    rows = Rows(ctx.inputs[job.data])

    def look(start: int, stop: int) -> None:
        for part in rows.parts[start:stop]:
            verify(rows.folder / part["file"])

    if job.verify == "full":
        read_through(ctx, look, 0, len(rows.parts))
    # A quarter of a rank's memory is for simulations; a larger store is read in blocks.
    memory = min(1 << 30, job.resources.mem_per_task // 4)
    cut = 1.0 - job.loss.validation
    return SimulationDataset(rows, 0.0, cut, memory), SimulationDataset(rows, cut, 1.0, memory)


def _learner(
    job: Train, ctx: Context, data: Any, held: Any, nth: int = 0, flows: list[str] | None = None
) -> Any:
    r"""The learner of the nth seed, or that of other flows."""
    from ..training.posterior import PosteriorLearner, noise_of, redraw_of

    facts = data.rows.attributes
    simulator = simulator_of(facts["simulate"])
    model = job.model.model_dump() | {
        "parameters": facts["parameters"],
        "shape": list(data.rows.columns["x"][0]),
        "missing": job.loss.missing > 0,
    }
    if flows is not None:
        model["flows"] = flows
    noise, redraw = (_of_seed(m, simulator, job.seed, nth) for m in (noise_of, redraw_of))
    return PosteriorLearner(
        model, job.loss, noise=noise, redraw=redraw, seed=job.seed + nth, held=held
    )


def _of_seed(make: Any, simulator: Any, seed: int, nth: int) -> Any:
    r"""What the nth seed draws of noise or symmetries, None where there is none."""
    own, first = make(simulator, seed + nth), make(simulator, seed)
    if own is None:
        return None

    def drawn(*given: Any) -> Any:
        # Means and deviations are those of one seed: flows of all seeds see the same numbers.
        return (first if given[-1] == "statistics" else own)(*given)

    return drawn
