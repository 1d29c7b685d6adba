r"""Learning a posterior of parameters from simulations (neural posterior estimation)."""

from __future__ import annotations

__all__ = ["PosteriorLearner", "moments", "noise_of", "redraw_of"]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcinv.diffusion.many import uniforms
from hpcinv.diffusion.noise import generator
from hpcinv.errors import BadInput
from hpcinv.models import build
from hpcinv.training.data import Dataset, Sample
from hpcinv.training.learner import Learner
from hpcinv.training.posterior_config import PosteriorLoss

MEASURED = 1 << 18  # simulations at most from which means and deviations are measured
HELD = 1 << 13  # simulations at most on which the weights of flows are fitted
CHUNK = 2048

Noise = Callable[[np.ndarray, np.ndarray, int, str], np.ndarray]
Redraw = Callable[[np.ndarray, np.ndarray, np.ndarray, int, str], tuple[np.ndarray, np.ndarray]]


def moments(chunks: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and standard deviation of rows that come in chunks, over the finite values.

    Merged pairwise (Chan et al., 1979), so that neither the order of magnitude nor the number of
    rows costs digits.

    Returns:
        Both with the shape of a row; where nothing is known or nothing varies, 0 or the value
        itself, and 1.
    """
    n = mean = square = None
    for chunk in chunks:
        x = np.asarray(chunk, np.float64)
        seen = np.isfinite(x)
        m = seen.sum(0)
        here = np.where(seen, x, 0).sum(0) / np.maximum(m, 1)
        spread = np.where(seen, (x - here) ** 2, 0).sum(0)
        if n is None:
            n, mean, square = m.astype(np.float64), here, spread
            continue
        both = np.maximum(n + m, 1)
        delta = here - mean
        square = square + spread + delta**2 * n * m / both
        mean = mean + delta * m / both
        n = n + m
    std = np.sqrt(square / np.maximum(n - 1, 1))
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)


def noise_of(simulator: Any, seed: int) -> Noise | None:
    r"""The noise model of a simulator, keyed; None where it has none."""
    if not hasattr(simulator, "noise"):
        return None
    from hpcinv.simulators.base import Key

    def noise(x: np.ndarray, ids: np.ndarray, draw: int, purpose: str) -> np.ndarray:
        key = Key(_named(seed, purpose), ids, draw)
        return simulator.noise(torch.from_numpy(np.asarray(x, np.float32)), key).numpy()

    return noise


def redraw_of(simulator: Any, seed: int) -> Redraw | None:
    r"""The symmetries of a simulator, keyed; None where it tells of none."""
    if not hasattr(simulator, "redrawn"):
        return None
    from hpcinv.simulators.base import Key

    def redraw(
        theta: np.ndarray, x: np.ndarray, ids: np.ndarray, draw: int, purpose: str
    ) -> tuple[np.ndarray, np.ndarray]:
        key = Key(_named(seed, f"symmetries-{purpose}"), ids, draw)
        pair = (torch.from_numpy(np.asarray(a, np.float32)) for a in (theta, x))
        theta, x = simulator.redrawn(*pair, key)
        return theta.numpy(), x.numpy()

    return redraw


def _named(seed: int, purpose: str) -> int:
    r"""A seed of its own for each purpose: a simulator names its noise by itself."""
    return int(generator(seed, purpose).integers(2**62))


class PosteriorLearner(Learner):
    r"""The negative log density of the true parameters (Papamakarios & Murray, 2016).

    .. math:: \ell = - \langle \log q(\theta \mid x + \text{noise}) \rangle

    In training each flow of the ensemble is fitted by itself; in validation the loss is that of
    their mixture, which is what is used.

    Arguments:
        model: The mapping of a posterior flow for :func:`hpcinv.models.build`.
        loss: What is drawn on the fly.
        noise: The simulator's noise model, (x, ids, epoch, purpose) -> what would be observed:
            see :func:`noise_of`.
        redraw: The simulator's symmetries, (theta, x, ids, epoch, purpose) -> another pair as
            likely: see :func:`redraw_of`.
        seed: The seed of the initial weights.
        held: Simulations the training does not see, on which the mixture's weights are fitted.
    """

    validated = 512

    def __init__(
        self,
        model: dict[str, Any],
        loss: PosteriorLoss | None = None,
        *,
        noise: Noise | None = None,
        redraw: Redraw | None = None,
        seed: int = 0,
        held: Dataset | None = None,
    ) -> None:
        super().__init__(build(model, seed=seed), model)
        self.terms = loss or PosteriorLoss()
        self.noise = noise if self.terms.noise else None
        self.redraw = redraw if self.terms.symmetries else None
        self.held, self.seed = held, seed
        if self.terms.missing and not self.module.missing:
            raise BadInput("a posterior that hides values needs a model with 'missing'", "loss")

    def draws(
        self, dataset: Dataset, keys: Sequence[tuple[int, int]], seed: int, purpose: str
    ) -> Sample:
        batch = dataset.take([number for _, number in keys])
        epochs = np.array([epoch for epoch, _ in keys])
        return self._observed(batch, epochs, seed, purpose)

    def _observed(self, batch: Sample, epochs: np.ndarray, seed: int, purpose: str) -> Sample:
        theta, x, ids = (np.array(batch[k]) for k in ("theta", "x", "id"))
        for e in np.unique(epochs):  # one, or two where an epoch ends inside the batch
            at = epochs == e
            if self.redraw is not None:
                theta[at], x[at] = self.redraw(theta[at], x[at], ids[at], int(e), purpose)
            if self.noise is not None:
                x[at] = self.noise(x[at], ids[at], int(e), purpose)
        if self.terms.missing:
            names = {"seed": seed, "purpose": f"missing-{purpose}", "ids": (ids, epochs)}
            u = uniforms((1 + x[0].size,), **names)
            hidden = u[:, 1:] < self.terms.missing * u[:, :1]
            x = np.where(hidden.reshape(x.shape), np.nan, x)
        return {"theta": np.asarray(theta, np.float64), "x": np.asarray(x, np.float32)}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        if self.training:
            return -self.module.log_probs(batch["theta"], batch["x"]).mean()
        return -self.module.log_prob(batch["theta"], batch["x"]).mean()

    def setup(self, dataset: Dataset) -> None:
        r"""Measures means and deviations of what the network will see, a chunk at a time."""
        number = min(len(dataset), MEASURED)

        def chunks(what: str):
            for i in range(0, number, CHUNK):
                batch = dataset.take(np.arange(i, min(i + CHUNK, number)))
                if what == "x":
                    epochs = np.zeros(len(batch["id"]), np.int64)
                    yield self._observed(batch, epochs, 0, "statistics")["x"]
                else:
                    yield self.module.unbounded(torch.from_numpy(np.float64(batch["theta"])))[0]

        for what in ("x", "z"):
            mean, std = moments(chunks(what))
            getattr(self.module, f"{what}_mean").copy_(torch.from_numpy(mean))
            getattr(self.module, f"{what}_std").copy_(torch.from_numpy(std))

    @torch.no_grad()
    def finish(self, module: torch.nn.Module, dataset: Dataset, folder: Path) -> dict[str, Any]:
        r"""Fits the weights of the mixture."""
        told = {"simulations": len(dataset), "failed": getattr(dataset, "failed", 0)}
        if self.held is None or len(module.members) == 1:
            return told
        found, device = [], next(module.parameters()).device
        for i in range(0, min(len(self.held), HELD), self.validated):
            keys = [(0, k) for k in range(i, min(i + self.validated, len(self.held), HELD))]
            batch = self.draws(self.held, keys, self.seed, "weights")
            found.append(
                module.log_probs(
                    torch.from_numpy(batch["theta"]).to(device),
                    torch.from_numpy(batch["x"]).to(device),
                )
            )
        module.fit_weights(torch.cat(found, dim=1))
        return told | {"weights": [round(float(w), 4) for w in module.weights]}
