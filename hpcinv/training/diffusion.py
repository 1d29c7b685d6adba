r"""Learning a denoiser of trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from hpcinv.models import build
from hpcinv.training.config import ConditioningConfig, DiffusionLoss
from hpcinv.training.data import Dataset, Sample
from hpcinv.training.learner import Learner
from hpcinv.training.observing import draw_observations

FITTED = 2048


class DiffusionLearner(Learner):
    r"""The denoising loss, weighted so that every noise level counts alike.

    .. math:: \ell = \left\langle \frac{\alpha_t^2 + \sigma_t^2}{\sigma_t^2}
        \, (d(\alpha_t x + \sigma_t \varepsilon, t) - x)^2 \right\rangle

    with :math:`\log \sigma_t / \alpha_t` normal (Karras et al., 2022).

    Arguments:
        model: The denoiser's mapping for :func:`hpcinv.models.build`.
        loss: The distribution of noise levels, and the Gaussian skip's fit.
        seed: The seed of the initial weights.
        conditioning: The observation sets that the denoiser is shown, None for an unconditional
            one.
        observed: The channels that can be observed; as many as the model's `observed`.
        time_steps: The time steps of the windows that it is shown, in frames.
    """

    def __init__(
        self,
        model: dict[str, Any],
        loss: DiffusionLoss | None = None,
        *,
        seed: int = 0,
        conditioning: ConditioningConfig | None = None,
        observed: Sequence[int] = (),
        time_steps: Sequence[int] = (1,),
    ) -> None:
        super().__init__(build(model, seed=seed), model)
        self.terms = loss or DiffusionLoss()
        self.conditioning, self.observed = conditioning, list(observed)
        self.time_steps = list(time_steps)

    def setup(self, dataset: Dataset) -> None:
        r"""Fits the Gaussian skip to the training windows."""
        if self.module.skip is None:
            return
        number = min(FITTED, len(dataset))
        samples = [dataset.sample(1 << 20, i) for i in range(number)]
        step = 1
        if self.module.timed and samples[0]["x"].shape[0] > 1:
            # The memory is that from a frame to the next: measured where they are closest.
            steps = [round(float(s["times"][1] - s["times"][0])) for s in samples]
            step = min(steps)
            samples = [s for s, k in zip(samples, steps, strict=True) if k == step]
        x = np.stack([s["x"] for s in samples])
        self.module.skip.fit(torch.from_numpy(x), self.terms.shrinkage, step)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        level = self.terms.log_sigma_mean + self.terms.log_sigma_std * rng.standard_normal()
        noise = rng.standard_normal(sample["x"].shape, dtype=np.float32)
        drawn = {**sample, "level": np.float32(level), "noise": noise}
        if self.conditioning is not None:
            drawn["y"] = draw_observations(sample["x"], self.observed, self.conditioning, rng)
        return drawn

    def alike(self, batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        r"""Cuts the windows of a share of the steps to fewer frames, one length for all of them.

        One length for all ranks: passes of ZeRO 3 are collective, and every window counts alike
        however the batch is cut.
        """
        frames = batch["x"].shape[1]
        if frames == 1 or rng.random() >= self.terms.short:
            return batch
        length = int(rng.integers(1, frames))
        first = int(rng.integers(frames - length + 1))
        return {
            key: v if v.ndim < 2 else v[:, first : first + length].contiguous()
            for key, v in batch.items()
        }

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        t = self.module.time(batch["level"])
        alpha, sigma = self.module.schedule(t)
        column = (-1, *(1,) * (x.ndim - 1))
        alpha, sigma = alpha.reshape(column), sigma.reshape(column)
        context = batch["context"] if self.module.context else None
        x_t = alpha * x + sigma * batch["noise"]
        d = self.module(x_t, t, context=context, y=batch.get("y"), times=batch.get("times")).mean
        weight = (alpha / sigma) ** 2 + 1
        return (weight * (d.float() - x).square()).mean()

    def finish(self, module: nn.Module, dataset: Dataset, folder: Path) -> dict[str, Any]:
        r"""Says which channels and which time steps the denoiser was trained to be shown."""
        told: dict[str, Any] = {"observed": self.observed} if self.observed else {}
        return told | {"time_steps": self.time_steps}
