r"""The loop that trains every model.

A step is a function of the weights, the optimiser's state and the step's number: samples, noise
and learning rate are all keyed by it. So a checkpoint is those states and a number, a run that
was interrupted ends in the bits of one that was not, and the number of ranks changes nothing but
the order of sums.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hpcinv.diffusion.noise import generator
from hpcinv.errors import BadInput, Stopped
from hpcinv.io.atomic import digest_bytes
from hpcinv.models import save
from hpcinv.training.alone import alone
from hpcinv.training.best import BEST, Best, copied, loss_of, tensors
from hpcinv.training.checkpoints import Checkpoints
from hpcinv.training.config import TrainConfig
from hpcinv.training.cost import count_flops
from hpcinv.training.data import Dataset, Order
from hpcinv.training.engine import Average, micro_batch, start, whole
from hpcinv.training.learner import Learner
from hpcinv.training.metrics import Clock, Metrics

if TYPE_CHECKING:
    from hpcinv.parallel import World

FULL = 2**62


class Diverged(RuntimeError):
    r"""The loss of a step is not finite."""


class _Progress(Protocol):
    def update(self, done: float, total: float, **figures: float) -> None: ...


class _Stop(Protocol):
    def requested(self, world: World) -> bool: ...


class _Feed:
    r"""A rank's share of each step, drawn one step ahead by a thread.

    Arguments:
        learner: The learner, which adds its draws to the samples.
        dataset: The samples.
        config: The fields of the training.
        world: The ranks among which a step is cut.
    """

    def __init__(
        self, learner: Learner, dataset: Dataset, config: TrainConfig, world: World
    ) -> None:
        self.learner, self.dataset, self.config, self.world = learner, dataset, config, world
        self.order = Order(config.seed, len(dataset), getattr(dataset, "permutation", None))
        self.micro = micro_batch(config, world)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._ahead: dict[int, Any] = {}

    def samples(self, step: int, rank: int) -> list[tuple[int, int]]:
        r"""The (epoch, sample) of a rank in a step."""
        share = self.micro * self.config.accumulation
        return self.order.batch(step, self.config.batch)[rank * share : (rank + 1) * share]

    def _draw(self, step: int) -> list[dict[str, torch.Tensor]]:
        keys, seed = self.samples(step, self.world.rank), self.config.seed
        parts = [keys[i : i + self.micro] for i in range(0, len(keys), self.micro)]
        return [
            self.learner.alike(
                tensors(self.learner, self.dataset, part, seed, "training"),
                generator(seed, "loss-alike", step),
            )
            for part in parts
        ]

    def take(self, step: int) -> list[dict[str, torch.Tensor]]:
        r"""The rank's batches of a step, one per accumulation; starts to draw the next."""
        now = self._ahead.pop(step, None) or self._thread.submit(self._draw, step)
        if step + 1 < self.config.steps:
            self._ahead[step + 1] = self._thread.submit(self._draw, step + 1)
        return now.result()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


def train(
    learner: Learner,
    dataset: Dataset,
    config: TrainConfig,
    *,
    world: World,
    folder: Path | str,
    progress: _Progress | None = None,
    stop: _Stop | None = None,
    validation: Dataset | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    r"""Trains a model, from its newest whole checkpoint if there is one, and exports it.

    Arguments:
        learner: The model and its loss.
        dataset: The training samples.
        config: The fields of the training.
        world: The ranks, in a world of the torch backend.
        folder: The run folder: `checkpoints/`, `metrics.jsonl`, and at the end
            `weights.safetensors` and `model.json`.
        progress: Told of each step.
        stop: Asked at each step boundary whether to stop. Collective.
        validation: The samples of validations; without them there are none.
        attempt: The number of this start of the job.

    Returns:
        The final figures: `steps`, `loss`, `validation` (of the averaged weights), ...

    Raises:
        BadInput: If the fields do not fit the ranks, or the checkpoints other fields.
        Stopped: If `stop` asked for it; a checkpoint has been written.
        Diverged: If a loss is not finite; names the step and the samples.
    """
    folder = Path(folder)
    if len(dataset) == 0:
        raise BadInput("a dataset without samples", where="training")
    identity = _identity(learner, config)
    checkpoints = Checkpoints(folder / "checkpoints", world, config.keep, attempt)
    manifest = checkpoints.newest()
    if manifest is None:
        learner.setup(dataset)
        _share_measured(learner, world)
    elif manifest["identity"] != identity:
        raise BadInput(
            "the checkpoints are of another model or other fields of training",
            where=checkpoints.folder / manifest["tag"],
            instead="Start afresh (--fresh), or restore the fields.",
        )
    flops = alone(world, lambda: _flops(learner, dataset, config, world)) or 0
    universal = manifest is not None and checkpoints.spread(manifest)
    engine = start(learner, config, world, universal)
    average = Average(engine) if config.ema else None
    first = 0
    if manifest is not None:
        first = manifest["step"]
        kept = checkpoints.load(engine, manifest)
        if average is not None:
            if kept is None:
                raise BadInput(
                    "the checkpoint has no moving average",
                    where=checkpoints.folder / manifest["tag"],
                )
            average.restore({k: v for k, v in kept.items() if not k.startswith(BEST)})

    best = None
    if config.patience and validation is not None and len(validation):
        best = Best(engine, average, learner, validation, config, world)
        if manifest is not None:
            best.resume(manifest["best"], kept)

    fixed = {
        "identity": identity,
        "world": world.size,
        "zero": config.zero,
        "precision": config.precision,
        "replicated": config.zero == 0,
    }

    def checkpoint(step: int, validation: float | None = None) -> None:
        state = average.whole(here=world.rank == 0) if average is not None else {}
        seen = validation is not None and math.isfinite(validation)
        told: dict[str, Any] = {"validation": validation if seen else None}
        if best is not None:
            state = {**state, **best.weights()}
            told["best"] = best.state
        checkpoints.save(engine, state or None, {"step": step, **told, **fixed})

    feed = _Feed(learner, dataset, config, world)
    metrics = Metrics(folder / "metrics.jsonl", first, active=world.rank == 0)
    saved, loss = first, math.nan
    clock = Clock(flops, config.precision)
    try:
        for step in range(first, config.steps):
            if best is not None and best.ended:
                break
            if stop is not None and stop.requested(world):
                if saved != step:
                    checkpoint(step)
                raise Stopped(f"stopped after step {step} of {config.steps}")
            clock.lap("other")
            batches = feed.take(step)
            clock.lap("data")
            rate = config.rate(step) * (1.0 if best is None else best.scale)
            loss = _step(engine, feed, config, world, step, batches, rate)
            if average is not None:
                average.update(config.decay(step))
            done, figure = step + 1, None
            clock.lap("step")
            if done % config.log_every == 0 or done == config.steps:
                norm = engine.get_global_grad_norm()
                metrics.write(
                    step=done,
                    loss=loss,
                    learning_rate=rate,
                    gradient_norm=None if norm is None else float(norm),
                    **clock.figures(config.batch),
                )
            if config.validate_every and done % config.validate_every == 0 and validation:
                if best is None:
                    figure = _validate(engine, feed, validation, config, world)
                else:
                    figure = best.consider(done)
                metrics.write(step=done, validation=figure)
            ended = done == config.steps or (best is not None and best.ended)
            if done % config.checkpoint_every == 0 or ended:
                checkpoint(done, figure)
                saved = done
            if progress is not None:
                progress.update(done, config.steps, loss=loss)
    finally:
        feed.close()
        metrics.close()
    return _export(engine, average, best, feed, validation, folder, metrics, loss)


def _share_measured(learner: Learner, world: World) -> None:
    r"""Gives all ranks what the first one measured: on nodes with other processors a
    decomposition has other last digits, and engines share parameters only."""
    if world.size == 1:
        return
    kept = dict(learner.named_buffers())
    found = world.broadcast(kept if world.rank == 0 else None)
    with torch.no_grad():
        for name, buffer in kept.items():
            buffer.copy_(found[name])


def _flops(learner: Learner, dataset: Dataset, config: TrainConfig, world: World) -> int:
    r"""Operations of one rank in one step."""
    one = learner.draws(dataset, [(0, 0)], config.seed, "training")
    sample = {k: v[0] for k, v in one.items()}
    return config.accumulation * count_flops(learner, sample, micro_batch(config, world))


def _identity(learner: Learner, config: TrainConfig) -> str:
    r"""A digest of all that a resumed run must share with the one that wrote its checkpoint."""
    no_matter = {"checkpoint_every", "keep", "log_every", "accumulation"}
    if not config.patience:
        no_matter |= {"patience", "falls", "fall"}
    fields = config.model_dump(exclude=no_matter)
    shapes = {n: list(p.shape) for n, p in learner.module.named_parameters()}
    text = json.dumps([learner.model, fields, shapes], sort_keys=True, default=str)
    return digest_bytes(text.encode())


def _step(
    engine: Any,
    feed: _Feed,
    config: TrainConfig,
    world: World,
    step: int,
    batches: list[dict[str, torch.Tensor]],
    rate: float,
) -> float:
    r"""One optimiser step; returns the loss, averaged over the whole batch."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    # Layers that draw by themselves (dropout) find a state that no restart can have changed.
    torch.manual_seed(int(generator(config.seed, "library", step, world.rank).integers(FULL)))
    total = 0.0
    for batch in batches:
        batch = {k: v.to(engine.device) for k, v in batch.items()}
        loss = engine(batch)
        total += float(loss.detach()) / len(batches)
        if math.isfinite(total):
            engine.backward(loss)
            engine.step()
        else:
            break
    losses = world.all_gather(total) if world.size > 1 else [total]
    bad = [rank for rank, value in enumerate(losses) if not math.isfinite(value)]
    if bad:
        names = [key for rank in bad for key in feed.samples(step, rank)]
        raise Diverged(
            f"the loss of step {step} is {losses[bad[0]]}; its samples (epoch, number): {names}"
        )
    return math.fsum(losses) / len(losses)


@torch.no_grad()
def _validate(
    engine: Any, feed: _Feed, validation: Dataset, config: TrainConfig, world: World
) -> float:
    r"""The loss of the present weights on validation samples. Collective."""
    number = min(config.validation_samples, len(validation))
    engine.eval()
    total = torch.zeros(2, dtype=torch.float64)
    # All ranks make the same number of passes, since those of ZeRO 3 are collective.
    for i in range(-(-number // world.size)):
        k = i * world.size + world.rank
        batch = tensors(
            feed.learner, validation, [(0, min(k, number - 1))], config.seed, "validation"
        )
        value = float(engine({n: v.to(engine.device) for n, v in batch.items()}))
        total += torch.tensor([value, 1.0], dtype=torch.float64) * (k < number)
    engine.train()
    total = world.all_reduce(total)
    return float(total[0] / total[1])


def _export(
    engine: Any,
    average: Average | None,
    best: Best | None,
    feed: _Feed,
    validation: Dataset | None,
    folder: Path,
    metrics: Metrics,
    loss: float,
) -> dict[str, Any]:
    r"""Writes the averaged module for the jobs that read it. Collective."""
    learner, config, world = feed.learner, feed.config, feed.world
    weights = average.whole() if average is not None else whole(engine)
    figures: dict[str, Any] = {"steps": config.steps}
    if best is not None:
        weights = best.kept or weights
        figures = {"steps": best.state["seen"], "best_step": best.state["step"]}
    if math.isfinite(loss):
        figures["loss"] = loss

    def export() -> None:
        module = copied(learner, weights, config.seed).to(engine.device)
        extra = learner.finish(module, feed.dataset, folder)
        if validation is not None and len(validation) and config.validation_samples:
            figures["validation"] = loss_of(learner, module, validation, config)
            metrics.write(step=figures["steps"], averaged_validation=figures["validation"])
        figures.update(extra)
        save(folder, module, learner.model, figures)

    # Of a large model it takes longer than a collective waits.
    alone(world, export)
    return world.broadcast(figures)
