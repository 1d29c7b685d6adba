r"""Kolmogorov flow: the Navier-Stokes equations on a doubly periodic square, forced by shear.

.. math:: \partial_t u + (u \cdot \nabla) u = -\tfrac{1}{\rho} \nabla p + \nu \nabla^2 u - \mu u
    + A \sin(k y) \, e_x, \qquad \nabla \cdot u = 0

on :math:`[0, 2\pi)^2`, with :math:`\nu = 1/\mathrm{Re}`. The solver advances the vorticity
:math:`\omega = \partial_x v - \partial_y u`, whose equation knows no pressure,

.. math:: \partial_t \omega = -\nabla \cdot (u \omega) + \nu \nabla^2 \omega - \mu \omega
    - A k \cos(k y),

in Fourier space: products on the grid, wavenumbers beyond two thirds of the largest cut (Orszag
1971), viscosity and drag exactly by an integrating factor, the rest by the classical Runge-Kutta
method. The mean flow obeys :math:`\dot{\bar u} = -\mu \bar u` and is kept beside. Pressure is
diagnosed, :math:`\nabla^2 p = 2 \rho \, (u_x v_y - u_y v_x)`, with mean zero.
"""

from __future__ import annotations

__all__ = ["Kolmogorov"]

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .base import Key
from .dynamics import State

TWO_PI = 2 * math.pi


class Kolmogorov:
    r"""Velocities u, v (and pressure p) with shape :math:`(n, C, N, N)`, axes y and x.

    Lengths are in units in which the square's side is 2 pi; all quantities are dimensionless.
    Double precision.

    Arguments:
        size: The number N of points along a side, even; 32 to 256 are usual.
        reynolds: Re, the inverse of the viscosity; this, `amplitude` and `density` are numbers,
            or a number for each of the n flows with shape (n).
        amplitude: A of the forcing.
        wavenumber: k of the forcing, inside the dealiased range.
        drag: mu.
        density: rho; only pressure knows it.
        pressure: Whether p is a third channel.
        dt: Time from a frame to the next.
        substeps: Runge-Kutta steps of a frame; by default so many that a flow of speed
            `fastest` crosses at most half a cell in each.
        fastest: The largest speed expected.
        spin_up: Frames from a random flow to frame 0.
        vary: Bounds of what each trajectory draws for itself, e.g. `reynolds: [5, 50]`, uniform in
            its logarithm, or `amplitude: [0.5, 2]`, uniform. Each is a last channel of the state,
            `log_reynolds` or `amplitude`, in all frames: an analysis of states is then one of
            parameters, too. It stands at the first point and is 0 at all others, because a
            number that is repeated at all points is told by their mean: a denoiser would settle
            it at noise in which nothing of the flow is seen.
    """

    def __init__(
        self,
        size: int = 64,
        reynolds: float | Tensor = 200.0,
        amplitude: float | Tensor = 1.0,
        wavenumber: int = 4,
        drag: float = 0.1,
        density: float | Tensor = 1.0,
        pressure: bool = False,
        dt: float = 0.2,
        substeps: int | None = None,
        fastest: float = 5.0,
        spin_up: int = 100,
        vary: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        where = "simulator 'kolmogorov'"
        self.vary = {name: tuple(map(float, b)) for name, b in (vary or {}).items()}
        for name, bounds in self.vary.items():
            if name not in ("reynolds", "amplitude"):
                raise BadInput(f"'{name}' cannot vary", where, "Name reynolds, amplitude or both.")
            if len(bounds) != 2 or not 0 < bounds[0] < bounds[1]:
                raise BadInput(
                    f"'{name}' varies in {list(bounds)}", where, "Give a lower and an upper bound."
                )
        if size < 8 or size % 2:
            raise BadInput(f"a grid of {size} points a side", where, "Give an even number from 8.")
        if wavenumber > (size - 1) // 3:
            raise BadInput(
                f"a forcing of wavenumber {wavenumber} on {size} points", where,
                f"At most {(size - 1) // 3}, or more points.",
            )  # fmt: skip
        for name, value in (("reynolds", reynolds), ("density", density), ("dt", dt)):
            if not torch.as_tensor(value).gt(0).all():
                raise BadInput(f"'{name}' is {value}", where, "It must be positive.")
        names = ["log_reynolds" if name == "reynolds" else name for name in self.vary]
        self.size, self.wavenumber, self.drag = size, wavenumber, drag
        self.viscosity, self.amplitude = 1 / _each(reynolds), _each(amplitude)
        self.density = _each(density)
        self.pressure, self.spin_up = pressure, spin_up
        self.substeps = substeps or max(1, math.ceil(dt * fastest * 2 * size / TWO_PI))
        axis = np.arange(size) * TWO_PI / size
        about = {"units": "1", "period": TWO_PI}
        self.state = State(
            dict.fromkeys(("u", "v", *(["p"] if pressure else []), *names), "1"),
            dt,
            coords={"y": axis, "x": axis},
            coord_attrs={
                "y": {**about, "long_name": "across the forcing"},
                "x": {**about, "long_name": "along the forcing"},
            },
            homogeneous=() if self.vary else ("x",),
            partial=tuple(names),
        )

    @cached_property
    def _k(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Wavenumbers ky (N, 1) and kx (1, N/2 + 1), their square (1 at the mean), the filter."""
        n = self.size
        ky = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)[:, None]
        kx = torch.fft.rfftfreq(n, 1 / n, dtype=torch.float64)[None]
        square = ky**2 + kx**2
        square[0, 0] = 1.0
        keep = (ky.abs() <= (n - 1) // 3) & (kx <= (n - 1) // 3)
        return ky, kx, square, keep.to(torch.float64)

    def _velocity(self, w: Tensor) -> tuple[Tensor, Tensor]:
        r"""Fourier coefficients of u and v (without their means) from those of the vorticity."""
        ky, kx, square, _ = self._k
        stream = w / square  # -laplacian psi = omega; u = d psi / dy, v = -d psi / dx
        return 1j * ky * stream, -1j * kx * stream

    def _grid(self, f: Tensor) -> Tensor:
        return torch.fft.irfft2(f, s=(self.size, self.size))

    def _tendency(self, w: Tensor, mean: Tensor, amplitude: float | Tensor) -> Tensor:
        r"""All but viscosity and drag.

        Arguments:
            w: Vorticity, Fourier coefficients with shape (n, N, N/2 + 1).
            mean: The mean flow, with shape (n, 2).
            amplitude: A, one or with shape (n, 1, 1).
        """
        ky, kx, _, keep = self._k
        u, v = (self._grid(f) for f in self._velocity(w))
        omega = self._grid(w)
        u, v = u + mean[:, :1, None], v + mean[:, 1:, None]
        flux = 1j * kx * torch.fft.rfft2(u * omega) + 1j * ky * torch.fft.rfft2(v * omega)
        return amplitude * self._force - keep * flux

    @cached_property
    def _force(self) -> Tensor:
        r"""The forcing of amplitude one."""
        y = torch.arange(self.size, dtype=torch.float64) * TWO_PI / self.size
        curl = -self.wavenumber * torch.cos(self.wavenumber * y)
        return torch.fft.rfft2(curl[:, None].expand(self.size, self.size))

    def _advance(
        self, w: Tensor, mean: Tensor, steps: int, theta: Tensor
    ) -> tuple[Tensor, Tensor]:
        h = self.state.dt / self.substeps
        _, _, square, keep = self._k
        viscosity, amplitude = self._parameters(theta)
        half = torch.exp(-(viscosity * square + self.drag) * h / 2)
        slow = math.exp(-self.drag * h / 2)
        w = w * keep
        w[:, 0, 0] = 0  # the mean of the vorticity of a periodic flow
        f = partial(self._tendency, amplitude=amplitude)
        for _ in range(steps):
            a = f(w, mean)
            b = f(half * (w + h / 2 * a), slow * mean)
            c = f(half * w + h / 2 * b, slow * mean)
            d = f(half * (half * w + h * c), slow**2 * mean)
            w = half * (half * (w + h / 6 * a) + h / 3 * (b + c)) + h / 6 * d
            mean = slow**2 * mean
        return w, mean

    def _parameters(self, theta: Tensor) -> tuple[float | Tensor, float | Tensor]:
        r"""Viscosity and amplitude; those that vary are of theta (n, K), inside their bounds."""
        inside = theta.double().clamp(*self._bounds)[..., None, None]
        own = dict(zip(self.vary, inside.unbind(1), strict=True))
        viscosity = torch.exp(-own["reynolds"]) if "reynolds" in own else self.viscosity
        return viscosity, own.get("amplitude", self.amplitude)

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        r"""Bounds of what varies, as it stands in the state."""
        own = [[math.log(b) if n == "reynolds" else b for b in v] for n, v in self.vary.items()]
        low, high = torch.tensor(own, dtype=torch.float64).reshape(-1, 2).T
        return low, high

    def vorticity(self, x: Tensor) -> Tensor:
        r"""The vorticity of states (..., C, N, N), with shape (..., N, N)."""
        return self._grid(self._curl(x))

    def _curl(self, x: Tensor) -> Tensor:
        ky, kx, _, _ = self._k
        u, v = torch.fft.rfft2(x[..., :2, :, :].double()).unbind(-3)
        return 1j * kx * v - 1j * ky * u

    def divergence(self, x: Tensor) -> Tensor:
        r"""The divergence of states (..., C, N, N), with shape (..., N, N)."""
        ky, kx, _, _ = self._k
        u, v = torch.fft.rfft2(x[..., :2, :, :].double()).unbind(-3)
        return self._grid(1j * kx * u + 1j * ky * v)

    def _state(self, w: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
        u, v = self._velocity(w)
        fields = [self._grid(u) + mean[:, :1, None], self._grid(v) + mean[:, 1:, None]]
        if self.pressure:
            ky, kx, square, keep = self._k
            ux, uy = self._grid(1j * kx * u), self._grid(1j * ky * u)
            vx, vy = self._grid(1j * kx * v), self._grid(1j * ky * v)
            p = -2 * self.density * keep * torch.fft.rfft2(ux * vy - uy * vx) / square
            p[:, 0, 0] = 0
            fields.append(self._grid(p))
        at_first = theta.new_zeros(*theta.shape, self.size, self.size)
        at_first[:, :, 0, 0] = theta
        return torch.cat([torch.stack(fields, 1), at_first], 1)

    def initial(self, key: Key) -> Tensor:
        r"""A random flow of unit speed around the forcing's scale, then `spin_up` frames."""
        _, _, square, keep = self._k
        noise = key.normal("kolmogorov first", (self.size, self.size), torch.float64)
        k = square.sqrt()
        w = torch.fft.rfft2(noise) * keep * k**2 * torch.exp(-((k / self.wavenumber) ** 2))
        w[:, 0, 0] = 0
        speed = torch.stack([self._grid(f) for f in self._velocity(w)], 1)
        w = w / speed.square().sum(1).mean((1, 2)).sqrt()[:, None, None]
        mean = torch.zeros(len(key), 2, dtype=torch.float64)
        low, high = self._bounds
        theta = low + (high - low) * key.uniform("kolmogorov vary", (len(self.vary),))
        w, mean = self._advance(w, mean, self.spin_up * self.substeps, theta)
        return self._state(w, mean, theta)

    def step(self, x: Tensor, key: Key) -> Tensor:
        return self.advance(x)

    def advance(self, x: Tensor) -> Tensor:
        r"""The next frame. What is not solenoidal, or beyond the dealiased range, is left out."""
        mean = x[:, :2].double().mean((2, 3))
        theta = x[:, x.shape[1] - len(self.vary) :, 0, 0].double()
        return self._state(*self._advance(self._curl(x), mean, self.substeps, theta), theta)


def _each(value: float | Tensor) -> float | Tensor:
    r"""A number, or one of each flow (n) in a shape (n, 1, 1) that goes with fields."""
    return value.double()[:, None, None] if isinstance(value, Tensor) else value
