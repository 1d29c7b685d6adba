r"""Emission spectra of brown dwarfs and giant exoplanets: correlated-k, batched, differentiable.

An atmosphere of H2 and He with uniform mixing ratios of trace gases, a temperature profile after
Guillot (2010) and a grey cloud deck is cut into layers. Optical depths are those of the gases
(random overlap), of H2-H2, H2-He, H2-CH4 and CH4-CH4 collisions, of Rayleigh scattering (as a
loss) and of the cloud. Radiation that leaves at an angle with cosine :math:`\mu`,

.. math:: I_\mu = \sum_l (e^{-\tau_{l-1}} - e^{-\tau_l}) B(T_l) + e^{-\tau_L} B(T_L)

with optical depths along the ray from above, is averaged over g in each bin and over the disc,
:math:`F = 2 \pi \int I_\mu \mu\, d\mu`, and thinned by :math:`(R / d)^2`.

What is stored of the flux, and its noise, is told in `measured_spectrum.py`.
"""

from __future__ import annotations

__all__ = ["Spectrum"]

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from . import nemesis_tables
from .atmosphere import AMU, HELIUM, MASS, convective, guillot, layers, planck, rayleigh
from .base import Axis, Curve, Output, Parameter, Prior
from .measured_spectrum import JUPITER, PARSEC, MeasuredSpectrum
from .observed_spectrum import binning, read_spectrum
from .opacity import CIA, KTables, read_cia, read_tables
from .overlap import mix_all

AMAGAT = 2.68675e25


class Spectrum(MeasuredSpectrum):
    r"""The simulator; a spectrum has C channels.

    Arguments:
        opacities: k-tables, one a gas; without any, the small ones of nemesispy.
        cia: NEMESIS's table of collision-induced absorption; default as above.
        wavelengths: First and last bin centre in µm that is used; all by default.
        observed: A spectrum whose channels and errors are taken (see `read_spectrum`).
        distance: In parsec.
        snr: Signal-to-noise ratio where the floor is of no matter.
        floor: Standard deviation of the noise of no signal, in W m⁻² µm⁻¹.
        pressures: Of the highest and lowest level in Pa.
        layers: Their number.
        angles: Of emission, over which is integrated.
        disc: Their rule: `gauss` is exact for intensities that are polynomials in the cosine,
            `lobatto` with 3 angles is nemesispy's, which the limb makes 1% larger.
    """

    batched = True
    portable = True

    def __init__(
        self,
        opacities: Sequence[str | Path] = (),
        cia: str | Path | None = None,
        wavelengths: tuple[float, float] | None = None,
        observed: str | Path | None = None,
        distance: float = 10.0,
        snr: float = 50.0,
        floor: float = 1e-18,
        pressures: tuple[float, float] = (1e2, 2e6),
        layers: int = 20,
        angles: int = 3,
        disc: str = "gauss",
    ) -> None:
        for name, value in (("distance", distance), ("snr", snr), ("floor", floor)):
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name} is {value}", "simulator 'spectrum'", "It is positive.")
        if not (0 < pressures[0] < pressures[1] < math.inf) or layers < 2 or angles < 1:
            raise BadInput(
                f"{layers} layers between {pressures[0]:g} and {pressures[1]:g} Pa",
                "simulator 'spectrum'", "Give the higher level's pressure first.",
            )  # fmt: skip
        if opacities:
            tables = read_tables(opacities)
            collisions = read_cia(cia or nemesis_tables.fetch() / nemesis_tables.CIA_FILE)
        else:
            place = nemesis_tables.fetch()
            tables = read_tables([place / g for g in nemesis_tables.GASES])
            collisions = read_cia(cia or place / nemesis_tables.CIA_FILE)
        if wavelengths is not None:
            tables = tables.cut(*wavelengths)
        self.distance, self.snr, self.floor = distance, snr, floor
        self.tables = tables
        self.levels = np.geomspace(pressures[1], pressures[0], layers + 1)
        self.seen = None if observed is None else read_spectrum(observed)
        bins = None if self.seen is None else binning(self.seen, tables, observed)
        # Only bins that some channel sees are computed.
        self.used = np.arange(len(tables.wavelength)) if bins is None else np.flatnonzero(
            bins.any(axis=0))  # fmt: skip
        self._bins = None if bins is None else bins[:, self.used]
        self._mu, self._mu_weight = _angles(angles, disc)
        self._columns = _columns(tables, collisions, self.levels, self.used)
        self._cache: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

        gases = [Parameter(g, 1e-8, 1e-2, "1", "log") for g in tables.gases]
        self.prior = Prior(
            [
                *gases,
                Parameter("t_eq", 300, 2000, "K"),
                Parameter("t_int", 100, 1000, "K"),
                Parameter("kappa", 1e-4, 0.1, "m2 kg-1", "log"),
                Parameter("gamma", 1e-2, 10, "1", "log"),
                Parameter("cloud_top", 1e2, 2e6, "Pa", "log"),
                Parameter("cloud_opacity", 1e-6, 1, "m2 kg-1", "log"),
                Parameter("gravity", 5, 500, "m s-2", "log"),
                Parameter("radius", 0.6, 2.0, "R_jup"),
            ]
        )
        centres = tables.wavelength if self.seen is None else self.seen.wavelength
        self.outputs = Output("arsinh_flux", "1", (Axis("wavelength", "um", tuple(centres)),))

    def temperature(self, theta: Tensor, p: Tensor) -> Tensor:
        r"""The temperature profile in K at pressures p (M) in Pa: (n, M)."""
        q = self._named(theta)
        order = p.argsort()
        p = p[order][None]
        t = guillot(p, q["gravity"], q["t_eq"], q["t_int"], q["kappa"], q["gamma"])
        return convective(p, t)[:, order.argsort()]

    def curves(self, theta: Tensor) -> list[Curve]:
        r"""The temperature profiles of parameters (n, P)."""
        p = torch.from_numpy(np.geomspace(self.levels[-1], self.levels[0], 60))
        axis = Axis("pressure", "Pa", tuple(p.tolist()))
        found = self.temperature(theta.double(), p).numpy()
        return [Curve("temperature", "K", axis, found, log=True, upright=True)]

    def flux(self, theta: Tensor) -> Tensor:
        r"""Flux at the observer in W m⁻² µm⁻¹, (n, P) to (n, C), in the precision of theta."""
        q = self._named(theta)
        emitted = self.emitted(
            torch.cat([q[g] for g in self.tables.gases], dim=-1), partial(self.temperature, theta),
            q["gravity"][:, 0], JUPITER * q["radius"][:, 0],
            q["cloud_top"], q["cloud_opacity"],
        )  # fmt: skip
        f = emitted * (q["radius"] * (JUPITER / (self.distance * PARSEC))) ** 2
        return f if self._bins is None else f @ f.new_tensor(self._bins).T

    def emitted(
        self, mixing: Tensor, profile, gravity: Tensor, radius: Tensor, cloud_top: Tensor,
        cloud_opacity: Tensor,
    ) -> Tensor:  # fmt: skip
        r"""Flux at the surface in W m⁻² µm⁻¹, in the bins that are used.

        Arguments:
            mixing: Mixing ratios by volume, shape (n, G).
            profile: Temperatures of pressures, (M) to (n, M).
            gravity, radius: At the lowest level in m s⁻² and m, shape (n).
            cloud_top, cloud_opacity: In Pa and m² kg⁻¹, shape (n, 1).
        """
        c = self._constants(mixing)
        rest = 1 - mixing.sum(-1, keepdim=True)
        x = dict(zip(self.tables.gases, mixing.T[:, :, None], strict=True))
        x |= {"H2": (1 - HELIUM) * rest, "He": HELIUM * rest}
        mass = AMU * sum(MASS[g] * x[g][:, 0] for g in x)
        a = layers(c["levels"], profile, mass, gravity, radius, c["mu"])

        gas = self._gas(a, mixing, c)  # (n, L, W, N)
        amagat = a.column / a.thickness / AMAGAT
        i, u = _bracket(c["cia_T"], a.temperature)
        other = a.column[..., None] * c["rayleigh"]
        for pair, k in self._pairs(c):
            if all(g in x for g in pair):
                strength = x[pair[0]] * x[pair[1]] * amagat**2 * a.thickness
                other = other + strength[..., None] * torch.lerp(k[i], k[i + 1], u[..., None])
        below, above = c["levels"][:-1], c["levels"][1:]
        covered = (below - torch.maximum(above, torch.minimum(below, cloud_top))) / gravity[
            :, None
        ]
        tau = gas + (other + (cloud_opacity * covered)[..., None])[..., None]

        # From above, along the ray: level m sees the layers l <= m, as a product of matrices.
        n, L, W, N = tau.shape
        slant = a.slant.permute(1, 0, 2).flip(-1)[:, :, None]  # (n, A, 1, L)
        slant = (slant * torch.ones_like(slant[0, 0, 0]).expand(L, L).tril()).flatten(1, 2)
        depth = (slant @ tau.flip(1).flatten(2)).view(n, -1, L, W, N)
        through = torch.exp(-depth) @ c["weights"]  # (n, A, L, W)
        B = planck(c["wavelength"], a.temperature.flip(1)[..., None])[:, None]
        seen = torch.cat([1 - through[:, :, :1], -through.diff(dim=2)], dim=2)
        intensity = (seen * B).sum(2) + through[:, :, -1] * B[:, :, -1]
        return math.pi * torch.einsum("a,naw->nw", c["mu_weight"], intensity)

    def _gas(self, a, mixing: Tensor, c: dict[str, Tensor]) -> Tensor:
        r"""Optical depths of the gases' mixture, shape (n, L, W, N)."""
        i, u = _bracket(c["T"], a.temperature)
        level = torch.arange(i.shape[1], device=i.device)
        amount = (mixing.T[:, :, None] * a.column).log()  # (G, n, L)
        taus = torch.stack(
            [
                torch.exp(torch.lerp(k[level, i], k[level, i + 1], u[..., None, None]) + m)
                for k, m in zip(c["log_k"], amount[..., None, None], strict=True)
            ]
        )
        return mix_all(taus, c["weights"])

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        return {n: theta[:, i : i + 1] for i, n in enumerate(self.prior.names)}

    def _pairs(self, c: dict[str, Tensor]):
        return ((k[4:].split("-"), v) for k, v in c.items() if k.startswith("cia "))

    def _constants(self, like: Tensor) -> dict[str, Tensor]:
        where = (like.device, like.dtype)
        if where not in self._cache:
            arrays = self._columns | {"levels": self.levels, "mu": self._mu,
                                      "mu_weight": self._mu_weight}  # fmt: skip
            self._cache[where] = {k: like.new_tensor(v) for k, v in arrays.items()}
        return self._cache[where]


def _angles(count: int, disc: str) -> tuple[np.ndarray, np.ndarray]:
    r"""Cosines and their weights in the mean over the disc, :math:`2 \mu d\mu`."""
    legendre = np.polynomial.legendre.Legendre
    if disc == "gauss":
        x, w = np.polynomial.legendre.leggauss(count)
        mu = (x + 1) / 2
    elif disc == "lobatto":  # on [-1, 1], of which the positive half is used
        order = 2 * count - 1
        polynomial = legendre.basis(order)
        mu = np.sort(np.append(polynomial.deriv().roots().real, 1.0))[-count:]
        w = polynomial(mu) ** -2.0
    else:
        raise BadInput(f"disc is '{disc}'", "simulator 'spectrum'", "Write gauss or lobatto.")
    return mu, w * mu / np.sum(w * mu)


def _columns(
    tables: KTables, cia: CIA, levels: np.ndarray, used: np.ndarray
) -> dict[str, np.ndarray]:
    r"""Tables at the layers' pressures and the bins' wavelengths."""
    p = np.clip((levels[:-1] + levels[1:]) / 2, tables.pressure[0], tables.pressure[-1])
    at = np.interp(np.log(p), np.log(tables.pressure), np.arange(len(tables.pressure)))
    i = np.minimum(at.astype(int), len(tables.pressure) - 2)
    v = (at - i)[:, None, None, None]
    k = tables.log_k[..., used, :]
    wavelength = tables.wavelength[used]
    arrays = {
        "log_k": k[:, i] * (1 - v) + k[:, i + 1] * v,  # (G, L, T, W, N)
        "T": tables.temperature,
        "weights": tables.weights,
        "wavelength": wavelength,
        "rayleigh": rayleigh(torch.from_numpy(wavelength)).numpy(),
        "cia_T": cia.temperature,
    }
    for pair, values in cia.k.items():
        arrays[f"cia {'-'.join(pair)}"] = np.stack(
            [np.interp(1e4 / wavelength, cia.wavenumber, v, right=0.0) for v in values]
        )
    return arrays


def _bracket(grid: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    r"""Place below, and share of the way to the next; the ends hold beyond them."""
    value = torch.nan_to_num(value, nan=float(grid[0])) + 0 * value.detach()
    value = torch.minimum(torch.maximum(value, grid[0]), grid[-1])
    i = (torch.searchsorted(grid, value.detach()) - 1).clamp(0, len(grid) - 2)
    return i, (value - grid[i]) / (grid[i + 1] - grid[i])
