r"""A dry atmosphere: the primitive equations on the sphere, forced as by Held and Suarez (1994).

The dynamical core is dinosaur's (Kochkov et al. 2024): spherical harmonics, sigma levels,
semi-implicit Runge-Kutta steps. Temperatures relax towards a prescribed equilibrium, winds near
the ground towards rest; there is no orography, no moisture, no day and no season, so statistics
are the same at every longitude and, but for their sign, in both hemispheres.
"""

from __future__ import annotations

__all__ = ["PrimitiveEquations"]

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput, nearest
from .base import Key
from .dynamics import State

GRIDS = {"T21": (32, 64), "T31": (48, 96), "T42": (64, 128), "T85": (128, 256)}
NATURE = ("equator_to_pole", "friction")  # what another nature may have otherwise
CF = {
    "u": "eastward_wind", "v": "northward_wind", "t": "air_temperature",
    "ps": "surface_air_pressure",
}  # fmt: skip
SHALLOW = 0.05  # the share of surface pressure by which initial states differ; of a start, a tenth


class PrimitiveEquations:
    r"""Winds u and v (m/s) and temperature (K) on sigma levels, and surface pressure (hPa).

    A frame has shape :math:`(3 K + 1, h, w)`: u, v and t of the highest level to the lowest, then
    ps, from south to north, on the Gaussian grid of the truncation. Needs the extra `weather`.

    Arguments:
        truncation: T21, T31, T42 or T85.
        levels: The number K of sigma levels, of equal mass.
        hours: Time from a frame to the next.
        minutes: Time step of the integration.
        spin_up: Frames from an atmosphere at rest, whose surface pressure alone is disturbed, to
            frame 0. Storms are fully grown after about 100 days.
        equator_to_pole: Difference of the equilibrium temperatures, in K (60 in the paper): a
            forecast model of another climate than the truth's.
        nature: Other forcing, for some trajectories: `{first: 12, equator_to_pole: 66, friction:
            1.2}` forces those from 12 on towards another equilibrium, and multiplies the rate at
            which winds near the ground are slowed. Ensemble filters forecast without it.
        start: A file with a state of ERA5 on pressure levels (`simulators.reanalysis_start`), from
            which spin-up begins, its surface pressure disturbed, instead of an atmosphere at rest.
    """

    def __init__(
        self,
        truncation: str = "T21",
        levels: int = 5,
        hours: float = 12.0,
        minutes: float = 60.0,
        spin_up: int = 240,
        equator_to_pole: float = 60.0,
        nature: dict[str, float] | None = None,
        start: str | None = None,
    ) -> None:
        where = "simulator 'primitive_equations'"
        if truncation not in GRIDS:
            raise BadInput(f"truncation '{truncation}'", where, f"One of {', '.join(GRIDS)}.")
        if levels < 2:
            raise BadInput(f"{levels} level", where, "Two or more.")
        if minutes <= 0 or abs(hours * 60 / minutes - round(hours * 60 / minutes)) > 1e-9:
            raise BadInput(
                f"frames of {hours:g} h in steps of {minutes:g} min", where,
                "A whole number of steps to a frame.",
            )  # fmt: skip
        try:
            import dinosaur  # noqa: F401
        except ImportError:
            raise BadInput(
                "the package dinosaur is not installed", where,
                "Run scripts/setup --extra weather, or install the extra 'weather'.",
            ) from None  # fmt: skip
        if start is not None and not Path(start).expanduser().exists():
            raise BadInput(f"no such file: {start}", f"{where}, start", "Give its path.")
        self.truncation, self.levels, self.spin_up = truncation, levels, spin_up
        self.start = start
        self.minutes, self.steps = minutes, round(hours * 60 / minutes)
        self.equator_to_pole = equator_to_pole
        self.nature = dict(nature or {})
        for name in self.nature:
            if name not in ("first", *NATURE):
                raise BadInput(f"nature: no '{name}'", where, nearest(name, NATURE))
        if self.nature and "first" not in self.nature:
            raise BadInput("nature: which trajectories?", where, "Write 'first'.")
        h, w = GRIDS[truncation]
        # Gauss-Legendre nodes are the sines of the latitudes.
        latitudes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(h)[0]))
        names = [f"{v}{k + 1}" for v in "uvt" for k in range(levels)]
        sigma = (np.arange(levels) + 0.5) / levels
        self.state = State(
            channels={n: "K" if n[0] == "t" else "m/s" for n in names} | {"ps": "hPa"},
            dt=hours,
            time_units="hours since 2001-01-01",
            coords={"lat": latitudes, "lon": np.arange(w) * 360.0 / w},
            coord_attrs={
                "lat": {"standard_name": "latitude", "units": "degrees_north"},
                "lon": {"standard_name": "longitude", "units": "degrees_east"},
            },
            homogeneous=("lon",),
            standard_names={n: CF[n.rstrip("0123456789")] for n in [*names, "ps"]},
            sigma={n: float(sigma[int(n[1:]) - 1]) for n in names},
        )

    @cached_property
    def _core(self) -> tuple[Any, Any]:
        return self._compiled(self.equator_to_pole, 1.0)

    @cached_property
    def _other(self) -> tuple[Any, Any]:
        return self._compiled(
            self.nature.get("equator_to_pole", self.equator_to_pole),
            self.nature.get("friction", 1.0),
        )

    def _compiled(self, equator_to_pole: float, friction: float) -> tuple[Any, Any]:
        r"""Compiled functions: noise to initial states, and states to those of the next frame."""
        import jax
        import jax.numpy as jnp
        from dinosaur import (
            coordinate_systems,
            held_suarez,
            primitive_equations,
            primitive_equations_states,
            sigma_coordinates,
            spherical_harmonic,
            time_integration,
            xarray_utils,
        )
        from dinosaur.scales import units

        coords = coordinate_systems.CoordinateSystem(
            horizontal=getattr(spherical_harmonic.Grid, self.truncation)(),
            vertical=sigma_coordinates.SigmaCoordinates.equidistant(self.levels),
        )
        grid = coords.horizontal
        physics = primitive_equations.PrimitiveEquationsSpecs.from_si()
        at_rest, features = primitive_equations_states.isothermal_rest_atmosphere(
            coords, physics, p0=1e5 * units.pascal
        )
        reference = features[xarray_utils.REF_TEMP_KEY]
        flat = primitive_equations.truncated_modal_orography(
            features[xarray_utils.OROGRAPHY], coords
        )
        equation = time_integration.compose_equations(
            [
                primitive_equations.PrimitiveEquations(reference, flat, coords, physics),
                held_suarez.HeldSuarezForcing(
                    coords,
                    physics,
                    reference,
                    dTy=equator_to_pole * units.degK,
                    kf=friction / (1 * units.day),
                ),
            ]
        )
        dt = physics.nondimensionalize(self.minutes * units.minute)
        step = time_integration.step_with_filters(
            time_integration.imex_rk_sil3(equation, dt),
            [time_integration.exponential_step_filter(grid, dt)],
        )
        frame = time_integration.repeated(step, self.steps)
        speed = physics.nondimensionalize(1.0 * units.meter / units.second)
        pascal = physics.nondimensionalize(1.0 * units.pascal)
        column = np.asarray(reference)[:, None, None]
        K = self.levels

        def to_modal(x: Any) -> Any:
            x = jnp.swapaxes(x, -1, -2)  # dinosaur has longitudes first
            vorticity, divergence = spherical_harmonic.uv_nodal_to_vor_div_modal(
                grid, x[:K] * speed, x[K : 2 * K] * speed
            )
            return primitive_equations.State(
                vorticity=vorticity,
                divergence=divergence,
                temperature_variation=grid.to_modal(x[2 * K : 3 * K] - column),
                log_surface_pressure=grid.to_modal(jnp.log(x[3 * K :] * 100 * pascal)),
            )

        def to_nodal(s: Any) -> Any:
            u, v = spherical_harmonic.vor_div_to_uv_nodal(grid, s.vorticity, s.divergence)
            t = grid.to_nodal(s.temperature_variation) + column
            ps = jnp.exp(grid.to_nodal(s.log_surface_pressure)) / (100 * pascal)
            return jnp.swapaxes(jnp.concatenate([u / speed, v / speed, t, ps]), -1, -2)

        rest, shallow = at_rest(jax.random.PRNGKey(0)), SHALLOW
        if self.start is not None:
            from .reanalysis_start import sigma_state

            sigma = (np.arange(K) + 0.5) / K
            lat, lon = self.state.coords.values()
            rest = to_modal(sigma_state(Path(self.start).expanduser(), sigma, lat, lon))
            shallow = SHALLOW / 10

        def begin(noise: Any) -> Any:
            r"""The start, with the largest waves of the noise in its surface pressure."""
            waves = grid.to_modal(noise[None]) * (np.arange(grid.modal_shape[1]) <= 8)
            s = rest
            return s.__class__(
                vorticity=s.vorticity,
                divergence=s.divergence,
                temperature_variation=s.temperature_variation,
                log_surface_pressure=s.log_surface_pressure + shallow * waves,
            )

        several = time_integration.repeated(frame, self.spin_up) if self.spin_up else lambda s: s
        # One after the other: together, the size of a batch would decide how products are rounded,
        # and a rounding grows to another trajectory in some weeks.
        start = jax.jit(partial(jax.lax.map, lambda noise: to_nodal(several(begin(noise)))))
        advance = jax.jit(partial(jax.lax.map, lambda x: to_nodal(frame(to_modal(x)))))
        return start, advance

    def initial(self, key: Key) -> Tensor:
        r"""States after `spin_up` frames, :math:`(n, 3 K + 1, h, w)`."""
        h, w = self.state.grid
        noise = key.normal("pressure", (w, h)).numpy().astype(np.float32)
        return self._each(0, noise, key)

    def step(self, x: Tensor, key: Key) -> Tensor:
        r"""The next frame of each."""
        return self._each(1, x.numpy().astype(np.float32), key)

    def _each(self, which: int, x: np.ndarray, key: Key | None) -> Tensor:
        r"""Rows through the core, or through that of another nature."""
        ids = np.zeros(len(x)) if key is None else np.asarray(key.ids)
        other = ids >= self.nature.get("first", np.inf)
        if not other.any():
            return _torch(self._core[which](x))
        out = np.empty((len(x), *self.state.shape))
        for core, rows in (("_core", ~other), ("_other", other)):
            if rows.any():
                out[rows] = np.asarray(getattr(self, core)[which](x[rows]))
        return torch.from_numpy(out)


def _torch(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x, np.float64))
