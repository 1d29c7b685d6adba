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

CALIBRATION = 256  # samples of which the latents' deviations are measured
HELD = 256  # held samples of which the error is


def _spread(size: int, most: int) -> list[int]:
    r"""At most so many numbers below `size`, evenly spaced."""
    return np.linspace(0, size - 1, min(size, most)).round().astype(int).tolist()


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
        static: Fields that do not change, with shape :math:`(S, H, W)`.
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
        static: np.ndarray | None = None,
    ) -> None:
        super().__init__(build(model, seed=seed), model)
        if static is not None and len(static):
            field = torch.as_tensor(static, dtype=torch.float32)
            self.module.static_fields.copy_(field.view_as(self.module.static_fields))
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
        device = next(module.parameters()).device

        def given(sample: Sample) -> tuple[Tensor, Tensor | None]:
            context = torch.from_numpy(sample["context"]).to(device) if module.context else None
            return torch.from_numpy(sample["x"]).to(device), context

        latents, samples = [], min(CALIBRATION, len(dataset))
        for number in range(samples):
            # An epoch that training has not reached: fresh draws where there is augmentation.
            latents.append(module.raw_latent(*given(dataset.sample(1 << 20, number))))
        module.calibrate(torch.cat(latents))
        extra: dict[str, Any] = {"latent_shape": list(module.latent_shape)}
        extra["latent_power"] = float(module.latent_std.square().mean())
        if self.held is None or len(self.held) == 0:
            return extra
        # Evenly spaced, so that all seasons are among them; few are kept, a state may be large.
        chosen = _spread(len(self.held), HELD)
        kept = {chosen[i] for i in _spread(len(chosen), self.terms.residuals)}
        residuals, error, power = [], 0.0, 0.0
        for number in chosen:
            x, context = given(self.held.sample(0, number))
            r = x - module.decode(module.encode(x, context), context)
            error += float((self.weights * r.square()).mean())
            power += float((self.weights * x.square()).mean())
            if number in kept:
                residuals.append(r.cpu().numpy())
        extra["held_states"] = len(chosen) * len(x)
        extra["held_error"] = error / max(power, 1e-30)
        if residuals and self.lat is not None and self.lon is not None:
            length = self.terms.residual_length_km
            DecoderError(np.concatenate(residuals), self.lat, self.lon, length).save(folder)
        return extra
