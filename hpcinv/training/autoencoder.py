r"""Learning an autoencoder, and measuring the error it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcinv.models import build
from hpcinv.models.decoder_error import DecoderError
from hpcinv.training.config import AutoencoderLoss
from hpcinv.training.data import Dataset, Sample
from hpcinv.training.learner import Learner

CALIBRATION = 256


class AutoencoderLearner(Learner):
    r"""Weighted squared error of the reconstruction from perturbed latents.

    .. math:: \ell = \langle w \, (D(E(x) + \eta \varepsilon) - x)^2 \rangle
        + \lambda \, \langle (\langle z^2 \rangle_{h, w} - 1)^2 \rangle

    The second term pulls each channel of each latent towards unit mean square. Without it the
    encoder would drown the injected noise by growing without limit; batch normalisation would
    also prevent that, but would tie the samples of a batch together, and so the result to the
    number of ranks.

    Arguments:
        model: The autoencoder's mapping for :func:`hpcinv.models.build`.
        loss: The weights of the loss.
        weights: Weights of the squared error, broadcastable to :math:`(C, H, W)`, mean 1.
        seed: The seed of the initial weights.
        held: States the training does not see, of which the decoder's error is measured.
        lat: Latitudes of the rows in degrees.
        lon: Longitudes of the columns in degrees.
    """

    def __init__(
        self,
        model: dict[str, Any],
        loss: AutoencoderLoss | None = None,
        *,
        weights: np.ndarray | float = 1.0,
        seed: int = 0,
        held: Dataset | None = None,
        lat: np.ndarray | None = None,
        lon: np.ndarray | None = None,
    ) -> None:
        super().__init__(build(model, seed=seed), model)
        self.terms = loss or AutoencoderLoss()
        self.held, self.lat, self.lon = held, lat, lon
        weights = torch.as_tensor(np.asarray(weights, np.float32))
        self.register_buffer("weights", weights, persistent=False)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        frames = len(sample["x"])
        shape = (frames, *self.module.latent_shape)
        noise = np.float32(self.terms.noise) * rng.standard_normal(shape, dtype=np.float32)
        return {**sample, "noise": noise}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"].flatten(0, 1)
        context = batch["context"].flatten(0, 1) if self.module.context else None
        noise = batch["noise"].flatten(0, 1)
        dtype = self.dtype
        again, raw = self.module(
            x.to(dtype), None if context is None else context.to(dtype), noise.to(dtype)
        )
        error = (again.float() - x).square() * self.weights.float()
        power = raw.float().square().mean(dim=(-2, -1))
        return error.mean() + self.terms.variance * (power - 1).square().mean()

    @torch.no_grad()
    def finish(self, module: torch.nn.Module, dataset: Dataset, folder: Path) -> dict[str, Any]:
        r"""Standardises the latents; writes `decoder_error.h5` if there are held states."""
        latents, samples = [], min(CALIBRATION, len(dataset))
        for number in range(samples):
            # An epoch that training has not reached: fresh draws where there is augmentation.
            sample = dataset.sample(1 << 20, number)
            context = torch.from_numpy(sample["context"]) if module.context else None
            latents.append(module.raw_latent(torch.from_numpy(sample["x"]), context))
        module.calibrate(torch.cat(latents))
        extra: dict[str, Any] = {"latent_shape": list(module.latent_shape)}
        extra["latent_power"] = float(module.latent_std.square().mean())
        if self.held is None or len(self.held) == 0:
            return extra
        residuals, power = [], 0.0
        # Evenly spaced, so that all seasons are among them: of a large state few fit in memory.
        most = min(len(self.held), max(self.terms.residuals, 1))
        for number in np.linspace(0, len(self.held) - 1, most).round().astype(int).tolist():
            sample = self.held.sample(0, number)
            x = torch.from_numpy(sample["x"])
            context = torch.from_numpy(sample["context"]) if module.context else None
            residuals.append(x - module.decode(module.encode(x, context), context))
            power += float((self.weights * x.square()).mean()) / most
        r = torch.cat(residuals)
        extra["held_states"] = len(r)
        extra["held_error"] = float((self.weights * r.square()).mean()) / max(power, 1e-30)
        if self.terms.residuals and self.lat is not None and self.lon is not None:
            DecoderError(r.numpy(), self.lat, self.lon, self.terms.residual_length_km).save(folder)
        return extra
