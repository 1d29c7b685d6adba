r"""What an instrument makes of a flux: channels, noise, a real spectrum, for any simulator.

What is stored is :math:`x = \mathrm{arsinh}(f / s)` of the flux f, where the softening s is the
floor of the noise: a logarithm where there is signal, linear where noise may make f negative
(Lupton et al. 1999). Noise is Gaussian in f.
"""

from __future__ import annotations

__all__ = ["FLUX", "JUPITER", "PARSEC", "MeasuredSpectrum"]

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .base import Key
from .observed_spectrum import Bins, ObservedSpectrum, binning, read_spectrum
from .opacity import KTables

JUPITER, PARSEC = 7.1492e7, 3.0856775814913673e16  # in m
FLUX = "W m-2 um-1"


class MeasuredSpectrum(ABC):
    r"""A simulator's part that is the instrument's; `flux` is the simulator's own.

    Attributes:
        tables: Bins of the opacities.
        seen: The spectrum whose channels and errors are taken, or None.
        floor: Standard deviation of the noise of no signal, in W m⁻² µm⁻¹.
        snr: Signal-to-noise ratio where the floor is of no matter; infinite for the floor alone.
    """

    tables: KTables | Bins
    seen: ObservedSpectrum | None
    floor: float
    snr: float

    @abstractmethod
    def flux(self, theta: Tensor) -> Tensor:
        r"""Flux at the observer in W m⁻² µm⁻¹, (n, P) to (n, C)."""

    def simulate(self, theta: Tensor, key: Key | None = None) -> Tensor:
        r"""x without noise: (n, P) to (n, C). It draws nothing."""
        return torch.asinh(self.flux(theta) / self.floor)

    def noise(self, x: Tensor, key: Key) -> Tensor:
        r"""x of the flux with noise."""
        f = self.flux_of(x)
        drawn = key.normal("spectrum noise", f.shape[1:], f.dtype).to(f.device)
        return torch.asinh((f + self.error(f) * drawn) / self.floor)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        r"""log p(x | theta) of parameters (n, P) and noisy spectra (n, C), or of one of either.

        NaN channels of x are missing.
        """
        f, y = self.flux(theta), self.flux_of(x)
        sigma = self.error(f)
        # d f / d x = sqrt(f² + floor²): the density is one of x.
        terms = -0.5 * ((y - f) / sigma) ** 2 - torch.log(sigma * math.sqrt(2 * math.pi))
        terms = terms + 0.5 * torch.log(y**2 + self.floor**2)
        return torch.where(torch.isfinite(y), terms, 0.0).sum(dim=-1)

    def flux_of(self, x: Tensor) -> Tensor:
        r"""Flux in W m⁻² µm⁻¹ of x."""
        return self.floor * torch.sinh(x)

    def error(self, f: Tensor) -> Tensor:
        r"""Standard deviation of the noise, the observed spectrum's where there is one."""
        if self.seen is not None:
            return torch.as_tensor(self.seen.error, dtype=f.dtype, device=f.device).expand_as(f)
        return torch.sqrt(self.floor**2 + (f / self.snr) ** 2)

    def observation(self, path: str | Path) -> Tensor:
        r"""A real spectrum as x, shape (C). Its channels and errors must be this simulator's.

        Raises:
            BadInput: It is no spectrum, its wavelengths are not those of the simulator, or its
                errors are others by a quarter: a posterior holds for the noise it was trained on.
        """
        found = read_spectrum(path)
        if self.seen is None:
            bins = binning(found, self.tables, path)
            full = np.full(len(self.tables.wavelength), np.nan)
            for c, row in enumerate(bins):
                if np.count_nonzero(row) != 1:
                    raise BadInput(
                        f"the channel at {found.wavelength[c]:g} µm is none of the simulator's",
                        path, "Simulate with options: {observed: FILE} to use its channels.",
                    )  # fmt: skip
                full[np.flatnonzero(row)] = found.flux[c]
            self._same_errors(found, path)
            return torch.asinh(torch.from_numpy(full) / self.floor).float()
        if not np.allclose(found.wavelength, self.seen.wavelength, rtol=1e-4):
            raise BadInput("its channels are not those the simulations were made with", path)
        self._same_errors(found, path)
        return torch.asinh(torch.from_numpy(found.flux) / self.floor).float()

    def _same_errors(self, found: ObservedSpectrum, path: str | Path) -> None:
        told = self.error(torch.from_numpy(found.flux)).numpy()
        ratio = float(np.nanmedian(found.error / told))
        if not 0.8 <= ratio <= 1.25:
            raise BadInput(
                f"its errors are {ratio:.3g} times those of the simulations (median)", path,
                "Simulate with options: {observed: FILE}, or with a floor and a snr like its own.",
            )  # fmt: skip

    def shown(self, x: Tensor) -> tuple[Tensor, str, str]:
        r"""The flux of x."""
        return self.flux_of(x.double()), "flux", FLUX
