r"""How near samples come to reference samples: the classifier two-sample test (C2ST).

Where another method has drawn from the same posterior, a classifier is trained to tell its
samples from ours (Lopez-Paz & Oquab, 2017, https://arxiv.org/abs/1610.06545). The figure is the
share that it tells right of samples it has not seen, over five folds: 0.5 if the two are of one
distribution, 1 if they never meet. The classifier is that of Lueckmann et al. (2021,
https://arxiv.org/abs/2101.04653): coordinates in means and deviations of the reference, a
perceptron with two hidden layers of 10 P features, Adam at a rate of 1e-3 in batches of 200, until
its loss has not fallen by 1e-4 for ten epochs.
"""

from __future__ import annotations

__all__ = ["c2st"]

import numpy as np
import torch
from torch import Tensor

from hpcinv.diffusion.noise import generator

MOST = 10_000  # samples of each, as in the paper
BATCH, RATE, DECAY = 200, 1e-3, 1e-4
BETTER, PATIENCE = 1e-4, 10
EPOCHS = 1000


def c2st(
    reference: np.ndarray, samples: np.ndarray, *, folds: int = 5, seed: int = 0, name: int = 0
) -> dict[str, float]:
    r"""The test of one observation.

    Arguments:
        reference: Reference samples, with shape (M, P).
        samples: Ours, with shape (N, P). Of the two as many are taken as there are of the fewer.
        folds: Into which they are cut; each is told by a classifier that learnt from the others.
        seed: Of the order, the initial weights and the batches.
        name: Of the observation: each has random numbers of its own.

    Returns:
        `value`, `low` and `high`, the share told right with its interval of 95%, and `samples`,
        the number of each.
    """
    n = min(len(reference), len(samples), MOST)
    a, b = (np.asarray(v[:n], np.float64) for v in (reference, samples))
    spread = a.std(0, ddof=1)
    mean, spread = a.mean(0), np.where(spread > 0, spread, 1.0)
    rng = generator(seed, "c2st", name)
    data = torch.from_numpy(np.concatenate([(a - mean) / spread, (b - mean) / spread])).float()
    label = torch.cat([torch.zeros(n), torch.ones(n)])
    tests = np.array_split(rng.permutation(2 * n), folds)
    others = [np.concatenate(tests[:k] + tests[k + 1 :]) for k in range(folds)]
    learnt = torch.from_numpy(np.stack([o[: min(map(len, others))] for o in others]))
    layers = _learn(data[learnt], label[learnt], rng)
    right = 0
    for k, test in enumerate(tests):
        told = _logit([v[k : k + 1] for v in layers], data[test][None])[0] > 0
        right += int((told == label[test].bool()).sum())
    share = right / (2 * n)
    error = 1.96 * (share * (1 - share) / (2 * n)) ** 0.5
    return {"value": share, "low": share - error, "high": share + error, "samples": n}


def _learn(x: Tensor, y: Tensor, rng: np.random.Generator) -> list[Tensor]:
    r"""Weights and biases of a perceptron for each fold, from points (F, n, P) and labels (F, n).

    The folds learn side by side, and each ends by itself.
    """
    F, n, P = x.shape
    layers = []
    for i, o in ((P, 10 * P), (10 * P, 10 * P), (10 * P, 1)):
        bound = (6 / (i + o)) ** 0.5  # Glorot and Bengio's
        layers += [torch.from_numpy(rng.uniform(-bound, bound, (F, s, o))).float()
                   .requires_grad_() for s in (i, 1)]  # fmt: skip
    step = torch.optim.Adam(layers, RATE, fused=True)
    lowest, waited = torch.full((F,), torch.inf), torch.zeros(F)
    kept = [v.detach().clone() for v in layers]
    for _ in range(EPOCHS):
        total = torch.zeros(F)
        order = torch.from_numpy(np.stack([rng.permutation(n) for _ in range(F)]))
        for rows in order.split(min(BATCH, n), dim=1):
            some = torch.take_along_dim(x, rows[..., None], 1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                _logit(layers, some), y.gather(1, rows), reduction="none"
            ).mean(1)
            decay = sum(w.square().sum() for w in layers[::2])
            step.zero_grad()
            (loss.sum() + 0.5 * DECAY * decay / rows.shape[1]).backward()
            step.step()
            total += loss.detach() * rows.shape[1] / n
        going = waited < PATIENCE
        for keep, now in zip(kept, layers, strict=True):
            keep[going] = now.detach()[going]
        waited = torch.where(total < lowest - BETTER, 0, waited + 1) + PATIENCE * ~going
        lowest = torch.minimum(lowest, total)
        if (waited >= PATIENCE).all():
            break
    return kept


def _logit(layers: list[Tensor], x: Tensor) -> Tensor:
    r"""Of points (F, n, P): (F, n)."""
    a, b, c, d, e, f = layers
    x = torch.relu(torch.baddbmm(b, x, a))
    return torch.baddbmm(f, torch.relu(torch.baddbmm(d, x, c)), e)[..., 0]
