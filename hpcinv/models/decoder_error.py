r"""The error of an autoencoder, as a localised ensemble of residual fields.

A latent analysis knows nothing of what the decoder cannot express. Residuals
:math:`r = x - D(E(x))` of months that the autoencoder did not see give both the covariance that
the likelihood counts and the fields that are added to members: one is the expectation of the
other.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hpcinv.diffusion.noise import generator
from hpcinv.errors import BadInput
from hpcinv.io.atomic import digest_array, sync
from hpcinv.models.sphere import SmoothFields, correlation, unit_vectors

FILE = "decoder_error.h5"


class DecoderError:
    r"""Covariance and samples of the decoder's error, in standardised units.

    .. math:: \mathrm{Cov}(r)_{(i, c), (j, c')} = C(d_{ij}) \, \frac{1}{n} \sum_k
        r_{k, c, i} \, r_{k, c', j}

    Arguments:
        residuals: Residual fields, with shape :math:`(n, C, H, W)`.
        lat: Latitudes of the rows in degrees, with shape :math:`(H)`.
        lon: Longitudes of the columns in degrees, with shape :math:`(W)`.
        length_km: The localisation length in kilometres.
        seed: The seed of the samples.
    """

    def __init__(
        self,
        residuals: np.ndarray,
        lat: np.ndarray,
        lon: np.ndarray,
        length_km: float,
        seed: int = 0,
    ) -> None:
        self.residuals = np.ascontiguousarray(residuals, np.float32)
        if self.residuals.ndim != 4 or len(self.residuals) == 0:
            raise BadInput(
                f"residual fields have the shape {self.residuals.shape}",
                where="decoder error",
                instead="Give (n, channels, latitudes, longitudes) with n > 0.",
            )
        if not np.isfinite(self.residuals).all():
            raise BadInput("residual fields are not finite", where="decoder error")
        self.lat, self.lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
        self.length_km, self.seed = float(length_km), seed
        rows, columns = np.meshgrid(self.lat, self.lon, indexing="ij")
        self._points = unit_vectors(rows.ravel(), columns.ravel())
        self._fields: SmoothFields | None = None

    def covariance(self, i: np.ndarray, c: np.ndarray) -> np.ndarray:
        r"""The error covariance of some values of a state.

        Arguments:
            i: Flat grid points, with shape :math:`(d)`.
            c: Channels, with shape :math:`(d)`.

        Returns:
            The covariance, float64, with shape :math:`(d, d)`.
        """
        i, c = np.asarray(i), np.asarray(c)
        n = len(self.residuals)
        r = self.residuals.reshape(n, self.residuals.shape[1], -1)[:, c, i].astype(np.float64)
        points = self._points[i]
        return r.T @ r / n * correlation(points @ points.T, self.length_km)

    def variance(self) -> np.ndarray:
        r"""The error variance of every value of a state, with shape :math:`(C, H, W)`."""
        return np.square(self.residuals, dtype=np.float64).mean(0)

    def sample(self, seed: int, member: int, frame: int) -> np.ndarray:
        r"""Draws a field of decoder error: a function of (seed, member, frame).

        Arguments:
            seed: The seed of the analysis.
            member: The member's global number.
            frame: The frame of the analysed trajectory.

        Returns:
            A field in standardised units, with shape :math:`(C, H, W)`.
        """
        if self._fields is None:
            self._fields = SmoothFields(self.lat, self.lon, self.length_km)
        rng = generator(seed, "decoder-error", self.seed, member, frame)
        n = len(self.residuals)
        weights = self._fields.draw(n, rng) / np.float32(np.sqrt(n))
        return np.einsum("kchw,khw->chw", self.residuals, weights)

    def save(self, folder: Path | str) -> Path:
        r"""Writes `decoder_error.h5` into a folder, atomically, and returns its path."""
        import h5py

        path = Path(folder) / FILE
        scratch = path.with_name(f".{FILE}.{os.getpid()}.tmp")
        with h5py.File(scratch, "w") as f:
            f.create_dataset("residuals", data=self.residuals)
            f.create_dataset("lat", data=self.lat)
            f.create_dataset("lon", data=self.lon)
            f.attrs["length_km"] = self.length_km
            f.attrs["seed"] = self.seed
            f.attrs["digest"] = digest_array(self.residuals)
        sync(scratch)
        os.replace(scratch, path)
        sync(path.parent)
        return path

    @classmethod
    def load(cls, folder: Path | str) -> DecoderError:
        r"""Reads what :meth:`save` wrote.

        Raises:
            BadInput: If the file is missing, torn or not what was written.
        """
        import h5py

        path = Path(folder) / FILE
        try:
            with h5py.File(path, "r") as f:
                residuals = f["residuals"][()]
                lat, lon = f["lat"][()], f["lon"][()]
                attributes = dict(f.attrs)
        except (OSError, KeyError) as error:
            raise BadInput(
                f"no readable decoder error ({error})",
                where=path,
                instead="Run the autoencoder's training job again; one without 'held' frames or "
                "not on a sphere has none: write decoder_error: false.",
            ) from error
        if digest_array(residuals) != attributes["digest"]:
            raise BadInput("residuals differ from their digest", where=path)
        return cls(residuals, lat, lon, attributes["length_km"], int(attributes["seed"]))
