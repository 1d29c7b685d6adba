r"""The part of `kind: train` that learns a posterior from simulations."""

from __future__ import annotations

__all__ = ["run"]

from typing import TYPE_CHECKING

from .simulate import simulator_of

if TYPE_CHECKING:
    from .base import Context
    from .train import Train


def run(job: Train, ctx: Context) -> dict[str, str]:
    r"""Trains the posterior of a `train` job; see `Job.run`."""
    from ..io.rows import Rows
    from ..training.posterior import PosteriorLearner, noise_of
    from ..training.simulations import SimulationDataset
    from .train import fit

    rows = Rows(ctx.inputs[job.data])
    # A quarter of a rank's memory is for simulations; a larger store is read in blocks.
    memory = min(1 << 30, job.resources.mem_per_task // 4)
    cut = 1.0 - job.loss.validation
    data = SimulationDataset(rows, 0.0, cut, memory)
    held = SimulationDataset(rows, cut, 1.0, memory)
    simulator = simulator_of(rows.attributes["simulate"])
    model = job.model.model_dump() | {
        "parameters": rows.attributes["parameters"],
        "shape": list(rows.columns["x"][0]),
        "missing": job.loss.missing > 0,
    }
    learner = PosteriorLearner(
        model, job.loss, noise=noise_of(simulator, job.seed), seed=job.seed, held=held
    )
    return fit(job, ctx, learner, data, held)
