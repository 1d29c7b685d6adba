r"""Observations to invert: withheld simulations with their noise, or a file."""

from __future__ import annotations

__all__ = ["File", "Withheld"]

from pathlib import Path
from typing import Any

import numpy as np

from hpcinv.errors import BadInput
from hpcinv.io.rows import Rows
from hpcinv.simulators.base import Key


class Withheld:
    r"""Simulations as observations: the noise model is applied, the truth is known.

    Arguments:
        rows: Their store.
        simulator: Their simulator.
        seed: The seed of the noise.
    """

    def __init__(self, rows: Rows, simulator: Any, seed: int) -> None:
        self.rows, self.simulator, self.seed = rows, simulator, seed

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        r"""`x`, `truth` and `ok` of rows [start, stop)."""
        import torch

        x = self.rows.read("x", start, stop)
        ok = self.rows.read("ok", start, stop).astype(bool)
        if hasattr(self.simulator, "noise"):
            key = Key(self.seed, np.arange(start, stop), 0)
            noisy = self.simulator.noise(torch.from_numpy(np.nan_to_num(x)), key).numpy()
            x = np.where(ok.reshape(-1, *[1] * (x.ndim - 1)), noisy, x)
        return {"x": x, "truth": self.rows.read("theta", start, stop), "ok": ok}


class File:
    r"""Observations in a file: a row each, NaN where a value is missing.

    A simulator that has `observation(path)` reads its own format. Otherwise `.npy`, or numbers
    as text, a line for each observation.

    Arguments:
        path: The file.
        simulator: The simulator the posterior was trained on.
        missing: Whether the posterior has learnt what to make of missing values.

    Raises:
        BadInput: If the file has another shape, nothing but missing values in a row, or any where
            the posterior has seen none: it would take them for the mean of the simulations.
    """

    def __init__(self, path: Path, simulator: Any, missing: bool) -> None:
        shape = simulator.outputs.shape
        try:
            if hasattr(simulator, "observation"):
                x = np.asarray(simulator.observation(path), np.float32)
            elif path.suffix == ".npy":
                x = np.load(path, allow_pickle=False)
            else:
                x = np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)
        except FileNotFoundError as e:
            raise BadInput("no such file", path) from e
        except (OSError, ValueError) as e:
            raise BadInput(f"the observations cannot be read ({e})", path) from e
        if x.shape == shape:
            x = x[None]
        if x.shape[1:] != shape and x[0].size == int(np.prod(shape)):
            x = x.reshape(len(x), *shape)
        if x.shape[1:] != shape:
            raise BadInput(
                f"observations of shape {x.shape[1:]}; the simulator makes {shape}", path,
                "Write one observation a row.",
            )  # fmt: skip
        self.x = x.astype(np.float32)
        infinite = np.isinf(self.x).reshape(len(x), -1).any(1)
        empty = np.isnan(self.x).reshape(len(x), -1).all(1)
        for bad, what in ((infinite, "an infinite value"), (empty, "nothing but missing values")):
            if bad.any():
                raise BadInput(
                    f"observation {int(np.flatnonzero(bad)[0])} has {what}", path,
                    "Write NaN where a value is missing.",
                )  # fmt: skip

        holes = np.isnan(self.x).reshape(len(x), -1)
        if holes.any() and not missing:
            i = int(np.flatnonzero(holes.any(1))[0])
            raise BadInput(
                f"observation {i} lacks {int(holes[i].sum())} of {holes.shape[1]} values, and the "
                "posterior was trained on whole ones", path,
                "Train it with loss: {missing: 0.5}, which hides up to half of the values.",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.x)

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        x = self.x[start:stop]
        return {"x": x, "truth": None, "ok": np.ones(len(x), bool)}
