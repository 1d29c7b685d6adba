r"""Validation of the averaged weights, and keeping the best of them.

What is kept is part of every checkpoint, so that an interrupted training forgets nothing: it
ends in the same weights as one that ran through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch import Tensor

from hpcinv.models import build
from hpcinv.training.config import TrainConfig
from hpcinv.training.data import Dataset
from hpcinv.training.engine import Average, place, whole
from hpcinv.training.learner import Learner

if TYPE_CHECKING:
    from hpcinv.parallel import World

BEST = "best."  # before the names of the best weights, beside the average in a checkpoint


def tensors(
    learner: Learner, dataset: Dataset, keys: Sequence[tuple[int, int]], seed: int, purpose: str
) -> dict[str, Tensor]:
    r"""A batch of samples, with the random numbers of their loss, as tensors."""
    return {k: torch.from_numpy(v) for k, v in learner.draws(dataset, keys, seed, purpose).items()}


def copied(learner: Learner, weights: dict[str, Tensor], seed: int) -> nn.Module:
    r"""A module of its own with a learner's buffers and other weights, on the CPU."""
    module = build(learner.model, seed=seed)
    prefix = "module."
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    # Buffers (statistics measured before training) are alike on all ranks.
    buffers = {
        k: v.float().cpu() if v.is_floating_point() else v.cpu()
        for k, v in learner.module.named_buffers()
    }
    known = module.state_dict()
    module.load_state_dict({**{k: v for k, v in buffers.items() if k in known}, **state})
    return module.eval().requires_grad_(False)


@torch.no_grad()
def loss_of(
    learner: Learner, module: nn.Module, validation: Dataset, config: TrainConfig
) -> float:
    r"""The loss of a module on validation samples, by one rank: the mean of single samples'."""
    number = min(config.validation_samples, len(validation))
    device = next(module.parameters()).device
    batches = (
        {k: v.to(device) for k, v in
         tensors(learner, validation, keys, config.seed, "validation").items()}
        for keys in _cut(range(number), learner.validated)
    )  # fmt: skip
    return _mean(learner, module, batches)


def _cut(numbers: range, size: int) -> list[list[tuple[int, int]]]:
    return [[(0, n) for n in numbers[i : i + size]] for i in range(0, len(numbers), size)]


def _mean(learner: Learner, module: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    r"""The loss of a module, averaged over the samples of some batches."""
    trained, was = learner.module, learner.training
    learner.module = module
    learner.eval()
    try:
        total = count = 0.0
        for batch in batches:
            n = len(next(iter(batch.values())))
            total += n * float(learner(batch))
            count += n
        return total / count if count else 0.0
    finally:
        learner.module = trained
        learner.train(was)


class Best:
    r"""The best weights on validation, and what follows where nothing gets better.

    Arguments:
        engine, average: The training's engine and moving average.
        learner: The learner, on its rank's device.
        validation: The samples of a validation; a rank takes its share of them, and keeps it.
        config: The fields of the training.
        world: The ranks.
    """

    def __init__(
        self, engine: Any, average: Average | None, learner: Learner, validation: Dataset,
        config: TrainConfig, world: World,
    ) -> None:  # fmt: skip
        self.engine, self.average, self.learner = engine, average, learner
        self.config, self.world = config, world
        self.kept: dict[str, Tensor] = {}
        self.state = {"value": None, "step": 0, "seen": 0, "bad": 0, "falls": 0, "ended": False}
        number = min(config.validation_samples, len(validation))
        a, b = world.share(0, number)
        self._count = b - a
        self._batches = [
            {k: v.to(engine.device) for k, v in tensors(
                learner, validation, keys, config.seed, "validation").items()}
            for keys in _cut(range(a, b), learner.validated)
        ]  # fmt: skip

    @property
    def scale(self) -> float:
        r"""The factor of the learning rate."""
        return self.config.fall ** self.state["falls"]

    @property
    def ended(self) -> bool:
        r"""Whether training has nothing left to gain."""
        return self.state["ended"]

    def weights(self) -> dict[str, Tensor]:
        r"""The best weights, under names that a checkpoint keeps them by."""
        return {BEST + k: v for k, v in self.kept.items()}

    def resume(self, state: dict[str, Any], kept: dict[str, Tensor] | None) -> None:
        r"""Takes up what a checkpoint says."""
        self.state = dict(state)
        self.kept = {k.removeprefix(BEST): v for k, v in (kept or {}).items() if k[:5] == BEST}

    @torch.no_grad()
    def consider(self, step: int) -> float:
        r"""Validates the (averaged) weights after a step, and decides what follows. Collective.

        Returns:
            Their loss.
        """
        weights = self.average.whole() if self.average is not None else whole(self.engine)
        module = copied(self.learner, weights, self.config.seed).to(self.engine.device)
        mine = _mean(self.learner, module, self._batches)
        sums = torch.tensor([mine * self._count, self._count], dtype=torch.float64)
        sums = self.world.all_reduce(sums)
        value = float(sums[0] / sums[1])
        s = self.state
        s["seen"] = step
        if math.isfinite(value) and (s["value"] is None or value < s["value"]):
            s.update(value=value, step=step, bad=0)
            self.kept = weights
            return value
        s["bad"] += 1
        if s["bad"] >= self.config.patience:
            if self.config.schedule == "plateau" and s["falls"] < self.config.falls:
                s.update(bad=0, falls=s["falls"] + 1)
                place(self.engine, self.kept)
                if self.average is not None:
                    self.average.restore(self.kept)
            else:
                s["ended"] = True
        return value
