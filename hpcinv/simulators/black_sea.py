r"""A shelf and a basin: temperature, salinity, nutrient, chlorophyll and oxygen on depth levels.

A small model in the likeness of the upper Black Sea, not of the Black Sea: coast and bathymetry
are formulas by default, the flow is prescribed (a seasonal rim current and random eddies, from
stream functions), and physics and life are kept to what makes the bottom of a shelf hypoxic:

* heat exchange with a seasonal, stormy atmosphere; mixing by wind against stratification;
* rivers on the north-western shelf, with more water and nutrients in some years than in others;
* growth in the light, in mmol N of which 1 is 1.6 mg of chlorophyll; losses, of which a part
  sinks and decays below or at the bottom, using 8.6 mmol of oxygen for each of nitrogen;
* exchange of oxygen with the air, :math:`k(W) (O_2^{sat} - O_2)`, with k of Wanninkhof (1992) at
  a Schmidt number of 660 and saturation by Garcia & Gordon (1992).

The basin ends in its lowest level, which is drawn towards halocline water. Below the bottom of a
shelf column the bottom's values are repeated, so that the last level is the bottom everywhere.
The weather of a day is an exponentially weighted mean of keyed noise: a frame is a function of
the frame before and of the key.
"""

from __future__ import annotations

__all__ = ["BlackSea", "saturation"]

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput, nearest
from .base import Key
from .black_sea_bathymetry import formula, read_heights
from .black_sea_transport import Cells, advect, diffuse, sink
from .dynamics import State

EDGES = (0.0, 8.0, 16.0, 28.0, 48.0, 80.0)  # m; the last level of the basin is its halocline
LIT = 3  # levels that chlorophyll is kept on from frame to frame
YEAR = 360.0  # days, of a 360-day calendar
DAY = 86400.0
CHLOROPHYLL = 1.6  # mg per mmol N
LOAD = 240.0  # mmol N in a cubic metre of river water
OXYGEN = 8.6  # mmol per mmol N: 106 + 2 * 16 to 16 (Redfield et al. 1963)
SEDIMENT = 12.0  # mmol of oxygen that a square metre of bottom takes in a day, at 10 degC
RIM, SEASON = 1.3e6, 0.3  # of the rim current: m3/s, and how much more of it winter has
MODES = 6  # of the eddies
MEMORY = 2  # frames back that weather remembers
FACTORS = ("mixing", "export", "river", "wind", "growth")


def saturation(t: Tensor, s: Tensor) -> Tensor:
    r"""Oxygen in equilibrium with moist air, mmol m-3 (Garcia & Gordon 1992, doi:10.4319/lo.1992.
    37.6.1307, table 1, Benson & Krause's data, in cm3 dm-3, times 44.6596)."""
    x = torch.log((298.15 - t) / (273.15 + t))
    a = (2.00907, 3.22014, 4.05010, 4.94457, -2.56847e-1, 3.88767)
    b = (-6.24523e-3, -7.37614e-3, -1.03410e-2, -8.17083e-3)
    poly = sum(c * x**k for k, c in enumerate(a)) + s * sum(c * x**k for k, c in enumerate(b))
    return 44.6596 * torch.exp(poly - 4.88682e-7 * s**2)


class BlackSea:
    r"""Frames with shape :math:`(n, 24, y, x)`: `temp_1` ... `temp_5` (degC), `salt_k`, `no3_k`
    (mmol m-3), `chl_1` ... `chl_3` (mg m-3), `o2_k` (mmol m-3), `ssh` (m). Double precision.

    Arguments:
        rows, columns: Points along latitude (41 to 46.5 N) and longitude (28 to 41.5 E).
        days: Of a frame; a divisor of the year's 360.
        substeps: Steps of a frame.
        spin_up: Frames from rest to frame 0, whole years: frame 0 is of 1 January.
        bathymetry: A netCDF file with one variable over latitude and longitude, heights in m, or
            one of a Debian package, `{debian: ..., file: ..., sha256: ...}` (ETOPO5 is in
            ferret-datasets); None for formulas.
        load: mmol of nitrogen in a cubic metre of river water.
        year: The first, for dates.
        nature: Other parameters, for some trajectories: `{first: 40, export: 1.2}` multiplies the
            sinking share by 1.2 in the trajectories from 40 on. Also `mixing` (diffusivity),
            `river` (their load), `wind`, `growth`.
    """

    def __init__(
        self,
        rows: int = 12,
        columns: int = 18,
        days: int = 10,
        substeps: int = 10,
        spin_up: int = 72,
        bathymetry: str | dict[str, str] | None = None,
        load: float = LOAD,
        year: int = 2001,
        nature: dict[str, Any] | None = None,
    ) -> None:
        where = "simulator 'black_sea'"
        if days < 1 or YEAR % days:
            raise BadInput(f"frames of {days} days", where, "Give a divisor of 360.")
        self.cycle = int(YEAR) // days
        if spin_up < self.cycle or spin_up % self.cycle:
            raise BadInput(
                f"a spin-up of {spin_up} frames", where,
                f"Give whole years, {self.cycle} frames each.",
            )  # fmt: skip
        self.nature = dict(nature or {})
        for name in self.nature:
            if name not in ("first", *FACTORS):
                raise BadInput(f"nature: no '{name}'", where, nearest(name, FACTORS))
        if self.nature and "first" not in self.nature:
            raise BadInput("nature: which trajectories?", where, "Write 'first'.")
        self.days, self.substeps, self.spin_up, self.load = days, substeps, spin_up, float(load)
        lat = np.linspace(41.0, 46.5, rows)
        lon = np.linspace(28.0, 41.5, columns)
        depth = formula(lat, lon) if bathymetry is None else read_heights(bathymetry, lat, lon)
        edges = torch.tensor(EDGES, dtype=torch.float64)
        # The level whose floor is nearest to the bottom is the last; land is above 2 m.
        middle = (edges[1:] + edges[:-1]) / 2
        d = torch.from_numpy(depth)
        bottom = torch.where(d > 2, (d[..., None] > middle).sum(-1).clamp(min=1), 0)
        side = math.radians(1) * 6.371e6
        self.cells = Cells(
            edges.diff(), bottom,
            side * math.cos(math.radians(43.75)) * float(lon[1] - lon[0]),
            side * float(lat[1] - lat[0]),
        )  # fmt: skip
        self.basin = (d >= 80.0).double()  # columns that go on below the last level
        K = len(EDGES) - 1
        self.levels = K
        self.state = State(
            {f"temp_{k + 1}": "degC" for k in range(K)}
            | {f"salt_{k + 1}": "1e-3" for k in range(K)}
            | {f"no3_{k + 1}": "mmol m-3" for k in range(K)}
            | {f"chl_{k + 1}": "mg m-3" for k in range(LIT)}
            | {f"o2_{k + 1}": "mmol m-3" for k in range(K)}
            | {"ssh": "m"},
            float(days),
            f"days since {int(year):04d}-01-01",
            coords={"lat": lat, "lon": lon},
            coord_attrs={
                "lat": {"units": "degrees_north", "standard_name": "latitude"},
                "lon": {"units": "degrees_east", "standard_name": "longitude"},
            },
            calendar="360_day",
            cycle=self.cycle,
            mask=(bottom > 0).numpy(),
            static={"depth": depth},
        )
        self._places(torch.from_numpy(lat), torch.from_numpy(lon))
        emptied = self.cells.emptied(-RIM * (1 + SEASON) * self.rim[None], DAY * days / substeps)
        if emptied > 1:
            raise BadInput(
                f"in a step of {days / substeps:g} days the winter's rim current takes "
                f"{emptied:.1f} times what a cell holds",
                where,
                f"Give substeps: {math.ceil(substeps * emptied / 0.75)} or more.",
            )

    def _places(self, lat: Tensor, lon: Tensor) -> None:
        r"""Fixed fields: the rim current, the eddies, the rivers."""
        c = self.cells
        y = (lat - lat[0]) / (lat[-1] - lat[0])
        x = (lon - lon[0]) / (lon[-1] - lon[0])
        yc, xc = ((a[1:] + a[:-1]) / 2 for a in (y, x))
        # Deep water carries the flow; over the shelf it is weak.
        deep = torch.nn.functional.avg_pool2d(self.basin[None], 2, 1)[0]
        carry = 0.06 + 0.94 * deep
        self.rim = torch.sin(math.pi * xc) * torch.sin(math.pi * yc)[:, None] * carry
        waves = [(p, q) for p in (1, 2, 3) for q in (1, 2)][:MODES]
        self.eddies = torch.stack(
            [torch.sin(p * math.pi * xc) * torch.sin(q * math.pi * yc)[:, None] for p, q in waves]
        ) * carry  # fmt: skip
        near = torch.exp(-(((lon - 30.0) / 1.0) ** 2) - ((lat[:, None] - 45.6) / 0.7) ** 2)
        near = near * c.wet[0]
        self.mouth = near / near.sum().clamp(min=1e-12)  # share of the rivers' water
        self.north = (lat - 43.75)[:, None]

    # ---------------------------------------------------------------- frames

    def initial(self, key: Key) -> Tensor:
        c, n, K = self.cells, len(key), self.levels
        depth = torch.tensor(EDGES, dtype=torch.float64).unfold(0, 2, 1).mean(1)[:, None, None]
        t = 7.5 + 0.0 * depth
        s = 17.8 + depth / 40
        no3 = 1.0 + depth / 15
        fields = [t, s, no3, 0.2 + 0 * depth, saturation(t, s)]
        tracers = torch.stack([(f * c.wet).expand(n, K, *c.bottom.shape) for f in fields], 1)
        for k in range(1 - self.spin_up, 1):
            tracers, stream = self._frame(tracers, key, k)
        return self._joined(tracers, stream)

    def step(self, x: Tensor, key: Key) -> Tensor:
        return self._joined(*self._frame(self._tracers(x), key, key.draw))

    def _tracers(self, x: Tensor) -> Tensor:
        r"""Tracers (n, 5, K, y, x) of frames; nothing below the bottom."""
        K = self.levels
        x = x.double()
        parts = list(x[:, :-1].split([K, K, K, LIT, K], 1))
        none = torch.zeros_like(parts[0][:, LIT:])
        parts[3] = torch.cat([parts[3] / CHLOROPHYLL, none], 1)
        # An analysis may hand over less than nothing of nitrate, plankton or oxygen.
        parts[2:] = [p.clamp(min=0) for p in parts[2:]]
        return torch.stack(parts, 1) * self.cells.wet

    def _joined(self, c: Tensor, stream: Tensor) -> Tensor:
        wet = self.cells.wet
        levels = [c[:, :, 0]]
        for k in range(1, self.levels):
            levels.append(torch.where(wet[k] > 0, c[:, :, k], levels[-1]))
        t, s, no3, p, o2 = torch.stack(levels, 2).unbind(1)
        ssh = self._sea_level(c, stream)[:, None]
        return torch.cat([t, s, no3, p[:, :LIT] * CHLOROPHYLL, o2, ssh], 1)

    def _sea_level(self, c: Tensor, stream: Tensor) -> Tensor:
        r"""Geostrophic height of the flow, and of the expansion of the water column, m."""
        psi = torch.nn.functional.avg_pool2d(
            torch.nn.functional.pad(stream * self.cells.corners, (1, 1, 1, 1)), 2, 1
        )
        h = self.cells.thickness[:, None, None] * self.cells.wet
        steric = -((_density(c[:, 0], c[:, 1]) - 1013.0) * h).sum(1) / 1013.0
        # f psi / (g H) of a flow through the upper 300 m.
        return (-1e-4 / (9.81 * 300) * psi + steric) * self.cells.wet[0]

    def _factor(self, key: Key, name: str) -> Tensor:
        other = torch.tensor([i >= self.nature.get("first", math.inf) for i in key.ids])
        return torch.where(other, float(self.nature.get(name, 1.0)), 1.0).double()[:, None, None]

    def _weather(self, key: Key, k: int) -> dict[str, Tensor]:
        r"""Of each day of the frame that ends with frame k."""
        at = k + self.spin_up + MEMORY
        drawn = torch.cat(
            [
                key.again(at - back).normal("weather", (self.days, 3 + MODES), torch.float64)
                for back in reversed(range(MEMORY + 1))
            ],
            1,
        )

        def smooth(x: Tensor, rho: float) -> Tensor:
            lag = torch.arange(self.days * MEMORY + 1, dtype=torch.float64)
            w = rho**lag
            w = (w / w.square().sum().sqrt()).flip(0)
            return x.unfold(1, len(w), 1) @ w  # (n, days, ...)

        first = (k - 1) * self.days  # the frame before ends here: 0 is 1 January of frame 0's year
        year = (first + self.spin_up * self.days) // int(YEAR)
        annual = key.again(year).normal("year", (2,), torch.float64)
        return {
            "wind": smooth(drawn[..., :2], 0.75),
            "air": 2.0 * smooth(drawn[..., 2], 0.85) + 1.0 * annual[:, :1],
            "eddies": smooth(drawn[..., 3:], 0.93),
            "river": torch.exp(0.35 * annual[:, 1] - 0.06),
            "day": torch.tensor(float(first % int(YEAR)), dtype=torch.float64),
        }

    def _frame(self, c: Tensor, key: Key, k: int) -> tuple[Tensor, Tensor]:
        r"""Tracers at frame k from those at frame k - 1, and the stream function there."""
        weather = self._weather(key, k)
        factors = {name: self._factor(key, name) for name in FACTORS}
        for i in range(self.substeps):
            elapsed = (i + 0.5) * self.days / self.substeps
            j = int(elapsed)
            today = {n: w[:, j] for n, w in weather.items() if n in ("wind", "air", "eddies")}
            today |= {"day": weather["day"] + elapsed, "river": weather["river"]}
            c, stream = self._substep(c, today, factors, self.days / self.substeps)
        # What was mixed into the dark has died and is nutrient again.
        dead = c[:, 3, LIT:].clone()
        o2 = c[:, 4, LIT:]
        c = c.clone()
        c[:, 2, LIT:] += dead
        c[:, 3, LIT:] = 0
        c[:, 4, LIT:] = (o2 - OXYGEN * dead).clamp(min=0)
        return c, stream

    # ---------------------------------------------------------------- one step

    def _substep(self, c: Tensor, today: dict, factors: dict, dt: float) -> tuple[Tensor, Tensor]:
        season = torch.cos(2 * math.pi * (today["day"] - 30) / YEAR)  # 1 in the depth of winter
        mean = torch.stack([0.0 * season, -3.0 * (1 + 0.4 * season)])  # m/s, from the north
        wind = (mean + (4.0 + 1.5 * season) * today["wind"])[..., None, None]
        wind = wind * factors["wind"][:, None]
        speed = wind.square().sum(1).sqrt()  # (n, 1, 1)
        stream = -RIM * (1 + SEASON * season) * self.rim
        stream = stream + 3.5e5 * torch.einsum("ne,eyx->nyx", today["eddies"], self.eddies)
        # Ekman (1905): a transport tau / (rho f) to the right of the wind.
        tau = 1.2 * 1.3e-3 * speed * wind.transpose(0, 1)
        ekman = (tau[1] / (1013 * 1e-4), -tau[0] / (1013 * 1e-4))
        fluxes = self.cells.flow(stream, ekman)
        c = advect(c, fluxes, self.cells, dt * DAY)
        c = self._surface(c, today, speed, season, factors, dt)
        c = self._life(c, season, factors, dt)
        c = diffuse(c, self._diffusivity(c, speed, factors["mixing"]), self.cells, dt * DAY)
        return c * self.cells.wet, stream

    def _diffusivity(self, c: Tensor, speed: Tensor, factor: Tensor) -> Tensor:
        r"""Wind mixing that stratification suppresses; overturning where it is unstable."""
        rho = _density(c[:, 0], c[:, 1])
        h = self.cells.thickness
        n2 = 9.81 / 1013 * rho.diff(dim=1) / ((h[1:] + h[:-1]) / 2)[:, None, None]
        top = torch.tensor(EDGES[1:-1], dtype=torch.float64)[:, None, None]
        stirred = 4e-3 * (speed / 7)[:, None] ** 3 * torch.exp(-top / 14)
        k = factor[:, None] * (4e-6 + stirred / (1 + n2.clamp(min=0) / 4e-5) ** 1.5)
        return torch.where(n2 < 0, 5e-2, k)

    def _surface(self, c, today, speed, season, factors, dt: float) -> Tensor:
        r"""Heat, rivers, and what the halocline and the open sea give."""
        c = c.clone()
        h, wet = float(self.cells.thickness[0]), self.cells.wet
        air = 14.5 - 10.0 * season - (0.6 + 0.5 * season) * self.north
        air = air + today["air"][:, None, None]
        c[:, 0, 0] += 0.8 * dt / h * (air - c[:, 0, 0])  # 40 W m-2 K-1
        # Peak discharge in May; m3 a day on the mouths' cells.
        flood = 1 + 0.45 * torch.cos(2 * math.pi * (today["day"] - 130) / YEAR)
        water = (
            7500 * DAY * flood * (today["river"][:, None, None] * factors["river"]) * self.mouth
        )
        share = dt * water / (h * self.cells.width * self.cells.height)
        c[:, 1, 0] -= share * c[:, 1, 0]
        c[:, 2, 0] += share * self.load
        # The sea beyond: surface salinity over a year, halocline water over a month.
        c[:, 1, 0] += dt / YEAR * (18.2 - c[:, 1, 0])
        for v, value in ((0, 8.5), (1, 20.0), (2, 5.0), (4, 130.0)):
            c[:, v, -1] += dt / 30 * self.basin * (value - c[:, v, -1])
        # Wanninkhof (1992): 0.31 W^2 cm/h at a Schmidt number of 660.
        k = 0.31 * speed**2 * 0.24
        gas = 1 - torch.exp(-k * dt / h)
        c[:, 4, 0] += gas * (saturation(c[:, 0, 0], c[:, 1, 0]) - c[:, 4, 0])
        return c * wet

    def _life(self, c: Tensor, season: Tensor, factors: dict, dt: float) -> Tensor:
        t, s, no3, p, o2 = c.unbind(1)
        edges = torch.tensor(EDGES, dtype=torch.float64)
        attenuation = 0.16  # 1/m
        mean = -torch.exp(-attenuation * edges).diff() / (attenuation * edges.diff())
        light = (100 - 65 * season) * mean[:, None, None]  # W m-2 in the water, by level
        warm = 1.066 ** (t - 10)  # Eppley (1972)
        growth = 0.85 * factors["growth"][:, None] * warm * torch.tanh(light / 40)
        made = torch.minimum(dt * growth * p * no3 / (no3 + 0.5), 0.5 * no3)
        lost = (p + made) * (1 - torch.exp(-dt * (0.10 * warm + 0.35 * p)))
        falls = 0.65 * factors["export"][:, None]
        decayed = (1 - falls) * lost + sink(falls * lost, self.cells, 20.0)
        p = p + made - lost + 1e-3 * dt * (0.05 - p).clamp(min=0)  # a seed that never dies out
        # Without oxygen decay goes on with other oxidants.
        floor = SEDIMENT * dt * warm / self.cells.thickness[:, None, None] * self.cells.last
        used = (OXYGEN * decayed + floor) * o2 / (o2 + 5)
        o2 = (o2 + OXYGEN * made - torch.minimum(used, o2)).clamp(max=450)
        return torch.stack([t, s, no3 - made + decayed, p, o2], 1) * self.cells.wet[None]


def _density(t: Tensor, s: Tensor) -> Tensor:
    r"""Of brackish water, kg m-3: linear in salinity, quadratic in temperature."""
    return 1013.0 + 0.77 * (s - 18) - 0.0055 * (t - 3.5).clamp(min=0) ** 2
