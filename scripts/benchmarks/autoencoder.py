#!/usr/bin/env python
r"""What an autoencoder loses, beside principal components with as many numbers.

    python scripts/benchmarks/autoencoder.py runs/winds --held 84 108

Both have seen the frames before the held ones: components once of the frames themselves (there are
no more than frames) and, where the study trained on mixtures, of as many mixtures as give the
autoencoder's count of numbers. Errors are squared, weighted as in training, relative to the held
states' own. It says nothing of what a latent is good for: components are the best of all linear
codes for the states they were made from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml

from hpcinv.io.store import TrajectoryStore
from hpcinv.kinds.train import importance
from hpcinv.kinds.training_data import archive, mixed
from hpcinv.models import load
from hpcinv.training.config import MixingConfig


def components(x: np.ndarray, weights: np.ndarray, most: int) -> np.ndarray:
    r"""Leading components of states (N, C, *grid), orthonormal under the weights, (n, D)."""
    root = np.sqrt(weights).ravel()
    _, s, v = np.linalg.svd(x.reshape(len(x), -1) * root, full_matrices=False)
    return v[: min(most, int((s > 1e-6 * s[0]).sum()))]


def lost(x: np.ndarray, v: np.ndarray, weights: np.ndarray) -> float:
    r"""Relative squared error of the projection onto components."""
    y = x.reshape(len(x), -1) * np.sqrt(weights).ravel()
    return float(np.square(y - y @ v.T @ v).sum() / np.square(y).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of a study's runs")
    parser.add_argument("--data", default="import")
    parser.add_argument("--autoencoder", default="train-autoencoder")
    parser.add_argument("--held", type=int, nargs=2, required=True, metavar=("FIRST", "END"))
    parser.add_argument("--mixtures", type=int, default=3600)
    a = parser.parse_args()
    store = TrajectoryStore.open(a.study / a.data / "store")
    module = load(a.study / a.autoencoder)
    fields = yaml.safe_load((a.study / a.autoencoder / "job.yaml").read_text())
    weights = importance(store)
    numbers = int(np.prod(module.latent_shape))
    x = archive(store, 1, tuple(a.held)).array()[:, 0]
    told = store.context(range(*a.held))
    with torch.no_grad():
        context = torch.from_numpy(told) if module.context else None
        again = module.decode(module.encode(torch.from_numpy(x), context), context).numpy()
    error = float((weights * np.square(again - x)).sum() / (weights * np.square(x)).sum())
    print(f"{len(x)} held states of {'x'.join(map(str, x.shape[1:]))}, error over their own")
    print(f"{'autoencoder':<34}{numbers:>6} numbers  {error:.4f}")
    windows = archive(store, 1, (0, a.held[0]))
    v = components(windows.array()[:, 0], weights, numbers)
    print(f"{'components of the frames':<34}{len(v):>6} numbers  {lost(x, v, weights):.4f}")
    if fields.get("augmentation"):
        mixing = MixingConfig(**fields["augmentation"]).model_copy(update={"bank": a.mixtures})
        data = mixed(windows, mixing, 0, a.mixtures)
        draws = np.stack([data.sample(0, i)["x"][0] for i in range(a.mixtures)])
        v = components(draws, weights, numbers)
        what = f"components of {a.mixtures} mixtures"
        print(f"{what:<34}{len(v):>6} numbers  {lost(x, v, weights):.4f}")


if __name__ == "__main__":
    main()
