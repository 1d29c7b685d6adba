r"""Climatology and standardisation of a trajectory store.

Networks only ever see standardised states :math:`z = (x - \mu_p) / s_p`, where :math:`p` is
the phase of the frame: its month of the year, or 0 where there is no calendar. Mean and
standard deviation come from the training frames alone.
"""

from __future__ import annotations

__all__ = ["Statistics"]

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import BadInput
from .atomic import digest_array, roll, sync

Array = TypeVar("Array")  # a numpy array or a torch tensor


@dataclass(frozen=True)
class Statistics:
    r"""Mean and standard deviation by phase.

    Arguments:
        mean: :math:`\mu`, physical units, with shape :math:`(P, C, *grid)`, or 1 instead of the
            grid's sizes where a channel has one value for all points.
        std: :math:`s`, physical units, same shape; it includes the sampling error of the mean,
            a factor :math:`\sqrt{(n + 1) / n}` for n training frames of a phase.
        count: Training frames :math:`n` of each phase, with shape :math:`(P)`.
        phases: The phase of every frame of the store, with shape :math:`(L)`.
        grid: The grid, where mean and std do not tell it.
    """

    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray
    phases: np.ndarray
    grid: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        r"""The shape :math:`(C, *grid)` of a state."""
        return (self.mean.shape[1], *(self.grid or self.mean.shape[2:]))

    def at(
        self, frames: object, channel: np.ndarray, point: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Mean and standard deviation of single values, in float64, with shape :math:`(P)` each.

        Arguments:
            frames: The frame of each value, its number in the store, with shape :math:`(P)`.
            channel: The channel of each value, with shape :math:`(P)`.
            point: The flat grid point of each value, with shape :math:`(P)`.
        """
        _, *grid = self.shape
        where = (self.phase(frames), channel, *(np.unravel_index(point, grid) if grid else ()))
        # A view: nothing of the size of the grid is made.
        mean, std = (np.broadcast_to(a, (len(a), *self.shape)) for a in (self.mean, self.std))
        return mean[where].astype(np.float64), std[where].astype(np.float64)

    def phase(self, frames: object) -> np.ndarray:
        r"""The phases of some frames, given by their numbers in the store."""
        return self.phases[np.asarray(frames, dtype=np.int64)]

    @property
    def shrinkage(self) -> np.ndarray:
        r"""Standard deviation of the standardised training anomalies, with shape :math:`(P)`.

        They are measured from their own mean, so they are smaller than those of any other
        year: :math:`\sqrt{(n - 1) / (n + 1)}`. An augmentation divides by it.
        """
        n = self.count.astype(np.float64)
        return np.sqrt(np.maximum(n - 1, 0) / (n + 1))

    def standardise(self, x: Array, frames: object) -> Array:
        r"""Physical to standardised.

        Arguments:
            x: States, with shape :math:`(..., n, C, *grid)`, numpy or torch.
            frames: Their :math:`n` frame numbers in the store.
        """
        mean, std = self._of(x, frames)
        return (x - mean) / std

    def restore(self, z: Array, frames: object) -> Array:
        r"""Standardised to physical; the inverse of `standardise`."""
        mean, std = self._of(z, frames)
        return z * std + mean

    def _of(self, x, frames):
        p = self.phase(frames)
        mean, std = self.mean[p], self.std[p]
        if isinstance(x, np.ndarray):
            return mean.astype(x.dtype, copy=False), std.astype(x.dtype, copy=False)
        import torch

        return torch.from_numpy(mean).to(x), torch.from_numpy(std).to(x)

    @property
    def digest(self) -> str:
        return roll(digest_array(a) for a in (self.mean, self.std, self.count, self.phases))

    def save(self, path: Path) -> None:
        r"""Writes `statistics.h5`, atomically."""
        import h5py

        path = Path(path)
        scratch = path.with_name(f".{path.name}.tmp")
        with h5py.File(scratch, "w", libver=("earliest", "v110")) as f:
            for name in ("mean", "std", "count", "phases"):
                f.create_dataset(name, data=getattr(self, name))
            f.attrs["digest"] = self.digest
            f.attrs["grid"] = np.asarray(self.shape[1:], np.int64)
        sync(scratch)
        os.replace(scratch, path)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        r"""Reads what `save` wrote.

        Raises:
            BadInput: If the file is missing, truncated or altered.
        """
        import h5py

        try:
            with h5py.File(path, "r") as f:
                arrays = (f[k][()] for k in ("mean", "std", "count", "phases"))
                s = cls(*arrays, tuple(int(n) for n in f.attrs.get("grid", ())))
                told = f.attrs["digest"]
        except (OSError, KeyError) as e:
            raise BadInput(f"statistics cannot be read ({e})", path, "Run its job again.") from e
        if s.digest != told:
            raise BadInput("statistics differ from their digest", path, "Run its job again.")
        return s
