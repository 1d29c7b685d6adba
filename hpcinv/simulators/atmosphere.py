r"""A hydrostatic atmosphere of H2, He and trace gases, in plane layers with spherical paths.

Between pressure levels :math:`p_0 > p_1 > \dots`, with gravity :math:`g_0 (R / r)^2` and mean
molecular mass m, hydrostatic balance :math:`dp = - m n g\, dr` of an ideal gas integrates to

.. math:: \frac{1}{r} = \frac{1}{R} - \int \frac{k T}{m g_0 R^2}\, d \log \frac{p_0}{p},
    \qquad n\, dr = \frac{dp}{m g}

so that heights and columns follow from integrals of T(p) alone.

References:
    | On the radiative equilibrium of irradiated planetary atmospheres (Guillot, 2010), eq. 29
    | https://doi.org/10.1051/0004-6361/200913396
"""

from __future__ import annotations

__all__ = ["Layers", "convective", "guillot", "layers", "planck", "rayleigh"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

H, C, K, AMU = 6.62607015e-34, 299792458.0, 1.380649e-23, 1.66053906660e-27
MASS = {"H2": 2.01588, "He": 4.002602, "H2O": 18.01528, "CO2": 44.0095, "CO": 28.0101,
        "CH4": 16.0425, "NH3": 17.0305, "PH3": 33.9976, "H2S": 34.081}  # fmt: skip
HELIUM = 0.15  # of what the trace gases leave, by volume


def guillot(p: Tensor, gravity: Tensor, t_eq: Tensor, t_int: Tensor, kappa: Tensor, gamma: Tensor):
    r"""Temperature in K at pressures p (Pa), of an irradiated atmosphere averaged over its disc.

    Arguments:
        gravity: In m s⁻².
        t_eq: Of the irradiation, in K.
        t_int: Of the heat from within, in K.
        kappa: Mean absorption of thermal radiation, in m² kg⁻¹.
        gamma: Ratio of visible to thermal absorption.
    """
    tau, root = kappa * p / gravity, math.sqrt(3)
    inner = 0.75 * t_int**4 * (2 / 3 + tau)
    visible = (gamma / root - 1 / (gamma * root)) * torch.exp(-gamma * tau * root)
    outer = 0.75 * t_eq**4 * (2 / 3 + 1 / (gamma * root) + visible)
    return (inner + outer) ** 0.25


def convective(p: Tensor, t: Tensor) -> Tensor:
    r"""Temperatures where gas that is lighter than what lies above it has risen.

    Potential temperature :math:`t p^{-2/7}` (a diatomic gas) does not increase downwards.

    Arguments:
        p: Pressures, ascending, shape (1, M).
        t: Temperatures with shape (n, M).
    """
    adiabat = (p / p[:, -1:]) ** (2 / 7)
    return (t / adiabat).cummin(dim=-1).values * adiabat


@dataclass(frozen=True)
class Layers:
    r"""L layers from below, of n atmospheres.

    Attributes:
        pressure: Mean over a layer's mass in Pa, shape (L).
        temperature: Likewise in K, shape (n, L).
        column: Molecules per m², shape (n, L).
        thickness: In m, shape (n, L).
        slant: Path through a layer over its thickness, shape (A, n, L).
    """

    pressure: Tensor
    temperature: Tensor
    column: Tensor
    thickness: Tensor
    slant: Tensor


def layers(
    edges: Tensor,
    profile: Callable[[Tensor], Tensor],
    mass: Tensor,
    gravity: Tensor,
    radius: Tensor,
    mu: Tensor,
) -> Layers:
    r"""Cuts atmospheres into layers.

    Arguments:
        edges: Pressures of the L + 1 levels in Pa, descending.
        profile: T of p with shape (M): (n, M), in K.
        mass: Mean molecular mass in kg, shape (n).
        gravity, radius: At the lowest level, in m s⁻² and m, shape (n).
        mu: Cosines of the angles at the lowest level, shape (A).
    """
    below, above = edges[:-1], edges[1:]
    nodes, weights = _legendre(4, edges)
    depth = (below / above).log()  # of a layer, in log p
    p = above[:, None] * torch.exp(depth[:, None] * nodes)
    t = profile(p.flatten()).unflatten(-1, p.shape)  # (n, L, 4)
    mean_log = t @ weights
    mean_mass = (t * p * weights).sum(-1) / (p * weights).sum(-1)

    g0, r0 = gravity[:, None], radius[:, None]
    rise = (K / (mass[:, None] * g0 * r0) * mean_log * depth).cumsum(-1)  # 1 - R / r
    # An atmosphere so hot and light that it escapes has no radius: NaN, a failed simulation.
    rise = torch.where(rise < 0.5, rise, math.nan)
    height = torch.nn.functional.pad(r0 * rise / (1 - rise), (1, 0))
    thickness = height.diff(dim=-1)
    r = r0 + (height[:, 1:] + height[:, :-1]) / 2
    column = (below - above) * r**2 / (mass[:, None] * g0 * r0**2)
    # Distance along a ray: sqrt(r² - R² sin²) - R cos, without its cancellation.
    across = height * (height + 2 * r0)
    path = torch.stack([across / (torch.sqrt(across + (r0 * m) ** 2) + r0 * m) for m in mu])
    return Layers((below + above) / 2, mean_mass, column, thickness, path.diff(dim=-1) / thickness)


def _legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(count)
    return like.new_tensor((x + 1) / 2), like.new_tensor(w / 2)


def planck(wavelength: Tensor, temperature: Tensor) -> Tensor:
    r"""Black-body radiance in W m⁻² sr⁻¹ µm⁻¹, of µm and K (shapes broadcast)."""
    first, second = 2 * H * C**2 * 1e24, H * C * 1e6 / K
    exponent = (second / (wavelength * temperature)).clamp(max=85.0)  # float32 ends at 88
    return first / wavelength**5 / torch.expm1(exponent)


def rayleigh(wavelength: Tensor) -> Tensor:
    r"""Scattering cross-section of H2 and He in m² per molecule (Allen 1976), of µm."""
    x = wavelength**-2
    hydrogen, helium = 13.58e-5 * (1 + 7.52e-3 * x), 3.48e-5 * (1 + 2.30e-3 * x)
    index = (1 - HELIUM) * hydrogen + HELIUM * helium
    loschmidt = 101325.0 / (K * 273.15)
    return 32 * math.pi**3 * index**2 / (3 * (loschmidt * (wavelength * 1e-6) ** 2) ** 2)
