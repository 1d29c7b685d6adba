r"""Physical checks: whether members obey what ties their variables, as well as the truth does.

Mean squares over the grid (area-weighted), of quantities that a good state has in the right
amount:

* divergence and vorticity of the horizontal wind, s-1, on a sphere:
  :math:`\nabla \cdot v = \frac{1}{a \cos\phi} (\partial_\lambda u + \partial_\phi (v
  \cos\phi))`, :math:`\zeta = \frac{1}{a \cos\phi} (\partial_\lambda v - \partial_\phi (u
  \cos\phi))`;
* wind and geostrophic imbalance, m s-1, poleward of 20 degrees: of :math:`v - v_g` with
  :math:`f \, k \times v_g = -\nabla \Phi`, where there is a geopotential, its height, or a
  pressure at sea level (divided by a density of 1.2 kg m-3) beside the wind;
* thickness and hydrostatic imbalance, m, between neighbouring pressure levels that have both
  geopotential (or its height) and temperature: of :math:`\Delta Z - \frac{R}{g} \bar T \ln
  (p_1 / p_2)`, :math:`\bar T` the mean of both levels' (moisture is left out: about 1% of it).

Budgets, of a whole globe, are mean squares of how much its mean changes from a frame to the next
(none before the first), for what the truth keeps the members must not gain or lose:

* air mass, kg m-2: :math:`p_s / g`, where there is a surface pressure;
* energy, J m-2: :math:`\frac{1}{g} \int (c_p T + \tfrac{1}{2} |v|^2) \, dp` by the trapezoid rule
  over two or more pressure levels (hPa) that have temperature and wind. The enthalpy of a
  hydrostatic column holds its potential energy but for that of the ground; moisture and what is
  outside the levels are left out.

Centred differences on the grid's own rows; the rows beside the poles are left out. Which channels
are what is read from their standard names; several levels are several triples.
"""

from __future__ import annotations

__all__ = ["Checks", "checks"]

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..models.sphere import EARTH_RADIUS_KM
from ..observations.stencils import axes, goes_around

OMEGA = 7.292115e-5  # s-1
GRAVITY, DENSITY, DRY_AIR, HEAT = 9.80665, 1.2, 287.05, 1004.7
EAST = ("eastward_wind", "x_wind")
NORTH = ("northward_wind", "y_wind")
MASS = {
    "geopotential": ("m2 s-2", 1.0),
    "geopotential_height": ("m", GRAVITY),
    "air_pressure_at_mean_sea_level": ("Pa", 1 / DENSITY),
    "air_pressure_at_sea_level": ("Pa", 1 / DENSITY),
}
TROPICS = 20.0


def checks(store: Any) -> Checks | None:
    r"""The checks that a trajectory allows; None without any, or without an even globe grid."""
    if (getattr(store, "attributes", None) or {}).get("sigma"):
        from .physics_sigma import sigma_checks

        return sigma_checks(store)
    of = axes(store)
    if set(of) != {"lat", "lon"} or len(store.grid) != 2 or min(store.grid) < 4:
        return None
    if store.mask is not None and not np.asarray(store.mask, bool).all():
        return None
    if any(np.ptp(np.diff(np.asarray(x, float))) > 1e-3 for x in list(store.coords.values())):
        return None
    names = [n or "" for n in store.standard_names]
    level = [
        c.rsplit("_", 1)[-1] if c.rsplit("_", 1)[-1].isdigit() else "" for c in store.channels
    ]
    winds, mass = [], []
    for i, n in enumerate(names):
        if n not in EAST or store.units[i] != "m s-1":
            continue
        j = next(
            (j for j, m in enumerate(names) if m in NORTH and level[j] == level[i]), None
        )  # fmt: skip
        if j is None or store.units[j] != "m s-1":
            continue
        winds.append((i, j, level[i]))
        for k, m in enumerate(names):
            if m in MASS and level[k] == level[i] and store.units[k] == MASS[m][0]:
                mass.append((i, j, k, MASS[m][1], level[i]))
    column = []
    of_level = {
        kind: {float(level[k]): k for k, m in enumerate(names) if m == kind and level[k]}
        for kind in ("air_temperature", "geopotential", "geopotential_height")
    }
    warm = {p: k for p, k in of_level["air_temperature"].items() if store.units[k] == "K"}
    for kind in ("geopotential", "geopotential_height"):
        unit, factor = MASS[kind]
        high = {p: k for p, k in of_level[kind].items() if store.units[k] == unit and p in warm}
        for a, b in itertools.pairwise(sorted(high)):
            column.append(
                (high[a], high[b], warm[a], warm[b], factor / GRAVITY, np.log(b / a), a, b)
            )
    budgets: dict[str, list] = {}
    if _whole(store):
        for k, m in enumerate(names):
            if m == "surface_air_pressure" and store.units[k] == "Pa":
                budgets["air mass"] = [(k, None, None, 1 / GRAVITY)]
        of = {float(p): (i, j) for i, j, p in winds if p}
        levels = sorted(set(of) & set(warm))
        if len(levels) > 1:
            width = _trapezoid(levels) / GRAVITY
            budgets["energy"] = [(warm[p], *of[p], w) for p, w in zip(levels, width, strict=True)]
    if not (winds or column or budgets):
        return None
    return Checks(store, winds, mass, column, budgets)


def _trapezoid(levels: list[float]) -> np.ndarray:
    r"""Weights of an integral over levels (hPa), Pa."""
    steps = 100 * np.diff(levels)
    return (np.append(steps, 0) + np.append(0, steps)) / 2


def _whole(store: Any) -> bool:
    r"""Whether a grid covers the globe."""
    of = axes(store)
    lat, lon = (np.asarray(list(store.coords.values())[of[k]], float) for k in ("lat", "lon"))
    step = abs(lat[1] - lat[0])
    return bool(goes_around(lon)) and np.ptp(lat) + 2 * step > 180 - 1e-6


class Checks:
    r"""See the module; made by `checks`.

    Attributes:
        names: Of the quantities.
    """

    def __init__(
        self, store: Any, winds: list, mass: list, column: list, budgets: dict[str, list]
    ) -> None:
        of = axes(store)
        lat, lon = (np.asarray(list(store.coords.values())[of[k]], float) for k in ("lat", "lon"))
        self.swapped, self.grid = of["lat"] == 1, tuple(store.grid)
        self.winds, self.mass, self.column, self.around = winds, mass, column, goes_around(lon)
        self.lat = np.deg2rad(lat)
        self.step = np.deg2rad(lat[1] - lat[0]), np.deg2rad(lon[1] - lon[0])
        inner = np.zeros((len(lat), len(lon)), bool)
        inner[1:-1] = True
        inner &= (np.abs(lat) < 89.5)[:, None]
        if not self.around:
            inner[:, [0, -1]] = False
        area = np.broadcast_to(np.cos(self.lat)[:, None], inner.shape) * inner
        self.area = area / area.sum()
        self.budgets = budgets
        globe = np.maximum(np.broadcast_to(np.cos(self.lat)[:, None], inner.shape), 0)
        self.globe = globe / globe.sum()
        outer = area * (np.abs(lat) >= TROPICS)[:, None]
        self.outer = outer / max(outer.sum(), 1e-300)
        at = lambda level: f" at {level}" if level else ""  # noqa: E731
        if not outer.any():
            self.mass = []
        self.names = [f"{n}{at(w[2])}" for w in winds for n in ("divergence", "vorticity")]
        self.names += [
            f"{n}{at(m[4])}" for m in self.mass for n in ("wind", "geostrophic imbalance")
        ]
        self.names += [
            f"{n} {b:g} to {a:g}"
            for *_, a, b in column
            for n in ("thickness", "hydrostatic imbalance")
        ]
        self.names += [f"change of {n}" for n in budgets]
        self.units = ["s-1"] * (2 * len(winds)) + ["m s-1"] * (2 * len(self.mass))
        self.units += ["m"] * (2 * len(column))
        self.units += [{"air mass": "kg m-2", "energy": "J m-2"}[n] for n in budgets]

    def _gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""(1 / a) ∂x/∂λ and (1 / a) ∂x/∂φ, 1/m; the edges are not to be used."""
        a = 1e3 * EARTH_RADIUS_KM
        east = (np.roll(x, -1, 1) - np.roll(x, 1, 1)) / (2 * self.step[1] * a)
        north = np.zeros_like(x)
        north[1:-1] = (x[2:] - x[:-2]) / (2 * self.step[0] * a)
        return east, north

    def means(self, x: np.ndarray) -> np.ndarray:
        r"""The globe's mean of each budget of a state :math:`(C, *grid)`, physical units."""
        x = np.asarray(x, np.float64)
        x = x.swapaxes(1, 2) if self.swapped else x
        out = []
        for terms in self.budgets.values():
            total = 0.0
            for k, i, j, weight in terms:
                what = x[k] if i is None else HEAT * x[k] + (x[i] ** 2 + x[j] ** 2) / 2
                total += weight * (self.globe * what).sum()
            out.append(total)
        return np.array(out)

    def of(self, x: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
        r"""Mean squares of all quantities of one state :math:`(C, *grid)`, physical units.

        Arguments:
            x: The state.
            before: That of the frame before, for budgets; without it their changes are zero.
        """
        last = np.zeros(len(self.budgets))
        if before is not None:
            last = (self.means(x) - self.means(before)) ** 2
        x = np.asarray(x, np.float64)
        x = x.swapaxes(1, 2) if self.swapped else x
        cosine = np.maximum(np.cos(self.lat), 1e-6)[:, None]
        out = []
        for i, j, _ in self.winds:
            u, v = x[i], x[j]
            u_east, _ = self._gradient(u)
            v_east, _ = self._gradient(v)
            _, u_north = self._gradient(u * cosine)
            _, v_north = self._gradient(v * cosine)
            for q in ((u_east + v_north) / cosine, (v_east - u_north) / cosine):
                out.append((self.area * q**2).sum())
        f = 2 * OMEGA * np.sin(self.lat)[:, None]
        f = np.where(np.abs(f) > 1e-6, f, 1e-6)
        for i, j, k, factor, _ in self.mass:
            east, north = self._gradient(factor * x[k])
            u, v = -north / f, east / cosine / f
            out.append((self.outer * (x[i] ** 2 + x[j] ** 2)).sum())
            out.append((self.outer * ((x[i] - u) ** 2 + (x[j] - v) ** 2)).sum())
        for above, below, cold, warm, factor, log, *_ in self.column:
            thick = factor * (x[above] - x[below])
            off = thick - DRY_AIR / GRAVITY * log * (x[cold] + x[warm]) / 2
            out += [(self.area * thick**2).sum(), (self.area * off**2).sum()]
        return np.append(out, last)

    def both(
        self, x: Iterable[tuple[np.ndarray, np.ndarray | None]], members: int, y: np.ndarray,
        before: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        r"""Of truth y :math:`(C, n)`, and of members on average: (2, Q).

        Arguments:
            x: Of each member the frame :math:`(C, n)` and, if there is one, that before it.
            members: How many there are.
            y, before: The truth's.
        """
        whole = lambda v: None if v is None else v.reshape(len(y), *self.grid)  # noqa: E731
        truth = self.of(whole(y), whole(before))
        return np.stack([truth, sum(self.of(whole(a), whole(b)) for a, b in x) / members])
