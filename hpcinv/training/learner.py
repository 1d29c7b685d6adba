r"""A learner: what differs between the models that the one loop trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from hpcinv.diffusion.noise import generator
from hpcinv.training.data import Dataset, Sample, stack


class Learner(nn.Module):
    r"""A module, its loss, and what is done before and after its training.

    The forward pass is the loss, so that an engine that gathers weights as layers are entered
    (ZeRO 3) sees it. All randomness comes in with the batch: :meth:`draw` adds it to a sample
    from a generator that is a function of the sample's names.

    Arguments:
        module: The module that is trained and exported.
        model: The mapping from which :func:`hpcinv.models.build` makes the module.
    """

    validated = 1  # samples of one pass of a validation

    def __init__(self, module: nn.Module, model: dict[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.model = model

    @property
    def dtype(self) -> torch.dtype:
        r"""The precision in which the module computes."""
        return next(p.dtype for p in self.module.parameters())

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        r"""Adds to a sample the random numbers that its loss needs."""
        return sample

    def draws(
        self, dataset: Dataset, keys: Sequence[tuple[int, int]], seed: int, purpose: str
    ) -> Sample:
        r"""A batch with its random numbers, each sample's a function of its names alone.

        Arguments:
            dataset: The samples.
            keys: The (epoch, number) of each.
            seed: The seed of the training.
            purpose: What the batch is for.
        """
        return stack(
            [
                self.draw(dataset.sample(*key), generator(seed, f"loss-{purpose}", *key))
                for key in keys
            ]
        )

    def alike(self, batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        r"""Does to a batch what all batches of a step have in common, on every rank.

        Arguments:
            batch: A batch, with its random numbers.
            rng: A generator in the same state for every batch of the step.
        """
        return batch

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        r"""The loss of a batch: a mean over its samples, with shape ()."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def setup(self, dataset: Dataset) -> None:
        r"""Measures on the data what the module needs before its first step; not on a resume."""

    def finish(self, module: nn.Module, dataset: Dataset, folder: Path) -> dict[str, Any]:
        r"""Completes the averaged module before its export, on one rank.

        Arguments:
            module: The module with its final weights, on the engine's device.
            dataset: The training data.
            folder: The run folder, for files beside the weights.

        Returns:
            What `model.json` should say of it.
        """
        return {}
