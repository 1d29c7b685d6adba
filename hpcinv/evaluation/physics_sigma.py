r"""Physical checks on sigma levels: `hpcinv.evaluation.physics` for a model's own coordinates.

Levels are layers of a share of the surface pressure, over flat ground (`State.sigma`). Of each:

* wind and geostrophic imbalance, m s-1, poleward of 20 degrees: of :math:`v - v_g` with
  :math:`f \, k \times v_g = -\nabla \Phi - R T \nabla \ln p_s`, where :math:`\Phi_k` is the
  integral of :math:`R T` over :math:`\ln \sigma` from the ground, temperatures averaged between
  levels (Durran 2010, section 8.6, as dinosaur has it);
* divergence and vorticity, s-1.

Budgets are of :math:`p_s / g` and :math:`\frac{p_s}{g} \sum_k \Delta\sigma_k (c_p T_k + \tfrac12
|v_k|^2)`. Derivatives are spectral along circles of latitude, and differences of second order
across them, whose distances may differ (Gaussian grids).
"""

from __future__ import annotations

__all__ = ["SigmaChecks", "sigma_checks"]

from typing import Any

import numpy as np

from ..models.sphere import EARTH_RADIUS_KM
from ..observations.stencils import axes, goes_around
from .physics import DRY_AIR, GRAVITY, HEAT, OMEGA, TROPICS, Checks

PASCAL = {"Pa": 1.0, "hPa": 100.0}
SPEED = ("m s-1", "m/s")


def sigma_checks(store: Any) -> SigmaChecks | None:
    r"""The checks of a globe whose channels are winds, temperature and surface pressure on sigma
    levels; None without all of them."""
    if axes(store) != {"lat": 0, "lon": 1} or store.mask is not None or min(store.grid) < 4:
        return None
    lat, lon = (np.asarray(x, float) for x in store.coords.values())
    if not goes_around(lon) or np.ptp(np.diff(lon)) > 1e-3 or np.ptp(lat) < 150:
        return None
    sigma = store.attributes["sigma"]
    of: dict[str, dict[float, int]] = {}
    for i, (channel, name) in enumerate(zip(store.channels, store.standard_names, strict=True)):
        wind = name in ("eastward_wind", "northward_wind") and store.units[i] in SPEED
        if channel in sigma and (wind or (name == "air_temperature" and store.units[i] == "K")):
            of.setdefault(name, {})[sigma[channel]] = i
    pressure = [
        i for i, n in enumerate(store.standard_names)
        if n == "surface_air_pressure" and store.units[i] in PASCAL
    ]  # fmt: skip
    levels = sorted(of.get("eastward_wind", ()))
    if not pressure or len(of) < 3 or any(sorted(v) != levels for v in of.values()):
        return None
    rows = [[of[n][s] for s in levels] for n in ("eastward_wind", "northward_wind")]
    rows.append([of["air_temperature"][s] for s in levels])
    return SigmaChecks(store, levels, rows, pressure[0], PASCAL[store.units[pressure[0]]])


class SigmaChecks(Checks):
    r"""See the module; made by `sigma_checks`.

    Arguments:
        store: The trajectory.
        levels: Sigma from the highest level to the lowest, middles of their layers.
        rows: Channels of u, v and T on them.
        surface, pascal: Channel of the surface pressure, and its unit in Pa.
    """

    def __init__(
        self, store: Any, levels: list[float], rows: list[list[int]], surface: int, pascal: float
    ) -> None:
        self.grid = tuple(store.grid)
        self.levels, self.rows, self.surface, self.pascal = levels, rows, surface, pascal
        lat = np.asarray(next(iter(store.coords.values())), float)
        self.lat = np.deg2rad(lat)
        self.globe = np.asarray(store.weights(), np.float64).reshape(self.grid)
        self.globe = self.globe / self.globe.sum()
        inner = self.globe.copy()
        inner[[0, -1]] = 0
        self.area = inner / inner.sum()
        outer = inner * (np.abs(lat) >= TROPICS)[:, None]
        self.outer = outer / outer.sum()
        edges = [0.0]
        for s in levels:
            edges.append(2 * s - edges[-1])
        self.share = np.diff(edges)[:, None, None]
        self.names, self.units = [], []
        for s in reversed(levels):
            for name, unit in (
                ("wind", "m s-1"), ("geostrophic imbalance", "m s-1"),
                ("divergence", "s-1"), ("vorticity", "s-1"),
            ):  # fmt: skip
                self.names.append(f"{name} at sigma {s:.3g}")
                self.units.append(unit)
        self.names += ["change of air mass", "change of energy"]
        self.units += ["kg m-2", "J m-2"]

    def _east(self, x: np.ndarray) -> np.ndarray:
        r"""(1 / a) ∂x/∂λ, 1/m."""
        k = 1j * np.arange(x.shape[-1] // 2 + 1)
        slope = np.fft.irfft(k * np.fft.rfft(x), x.shape[-1])
        return slope / (1e3 * EARTH_RADIUS_KM)

    def _north(self, x: np.ndarray) -> np.ndarray:
        r"""(1 / a) ∂x/∂φ, 1/m."""
        return np.gradient(x, self.lat, axis=-2) / (1e3 * EARTH_RADIUS_KM)

    def means(self, x: np.ndarray) -> np.ndarray:
        r"""The globe's mean of air mass and energy of a state :math:`(C, *grid)`."""
        u, v, t, p = self._parts(x)
        mass = p / GRAVITY
        energy = mass * (self.share * (HEAT * t + (u**2 + v**2) / 2)).sum(0)
        return np.array([(self.globe * mass).sum(), (self.globe * energy).sum()])

    def _parts(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(x, np.float64)
        return *(x[r] for r in self.rows), self.pascal * x[self.surface]

    def of(self, x: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
        r"""Mean squares of all quantities, see `Checks.of`."""
        change = np.zeros(2)
        if before is not None:
            change = (self.means(x) - self.means(before)) ** 2
        u, v, t, p = self._parts(x)
        cosine = np.maximum(np.cos(self.lat), 1e-6)[:, None]
        log = np.log(np.array(self.levels))
        height = np.empty_like(t)  # of each level, times g
        height[-1] = -DRY_AIR * t[-1] * log[-1]
        for k in reversed(range(len(log) - 1)):
            height[k] = height[k + 1] + DRY_AIR * (t[k] + t[k + 1]) / 2 * (log[k + 1] - log[k])
        slope = np.log(p)
        f = 2 * OMEGA * np.sin(self.lat)[:, None]
        f = np.where(np.abs(f) > 1e-6, f, 1e-6)
        v_g = (self._east(height) + DRY_AIR * t * self._east(slope)) / cosine / f
        u_g = -(self._north(height) + DRY_AIR * t * self._north(slope)) / f
        div = (self._east(u) + self._north(v * cosine)) / cosine
        vort = (self._east(v) - self._north(u * cosine)) / cosine
        each = [
            (self.outer * (u**2 + v**2)).sum((1, 2)),
            (self.outer * ((u - u_g) ** 2 + (v - v_g) ** 2)).sum((1, 2)),
            (self.area * div**2).sum((1, 2)),
            (self.area * vort**2).sum((1, 2)),
        ]
        return np.append(np.stack(each, 1)[::-1].ravel(), change)
