r"""Two systems of Lorenz: chaos in three numbers, and chaos on a circle.

`Lorenz63` with noise is the chain of Rozet & Louppe (2023, *Score-based data assimilation*):

.. math:: x_{i+1} = \Phi_{\Delta t}(x_i) + \sqrt{\Delta t} \, \varepsilon, \qquad
    \dot a = s (b - a), \quad \dot b = a (r - c) - b, \quad \dot c = a b - \beta c

with one Runge-Kutta step :math:`\Phi` of :math:`\Delta t = 0.025` and
:math:`(s, r, \beta) = (10, 28, 8/3)`. `Lorenz96` is the circle of Lorenz & Emanuel (1998) as in
DAPPER's experiment sakov2008: forty numbers, :math:`F = 8`, :math:`\Delta t = 0.05`, no noise,

.. math:: \dot x_k = (x_{k+1} - x_{k-2}) \, x_{k-1} - x_k + F.

Units are none. Everything is computed in double precision.
"""

from __future__ import annotations

__all__ = ["Lorenz63", "Lorenz96", "rk4"]

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .base import Key
from .dynamics import State


def rk4(f: Callable[[Tensor], Tensor], x: Tensor, dt: float) -> Tensor:
    r"""One step of the classical Runge-Kutta method of fourth order."""
    k1 = f(x)
    k2 = f(x + dt / 2 * k1)
    k3 = f(x + dt / 2 * k2)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(x + dt * k3))


class Lorenz63:
    r"""Lorenz-63, noisy by default; states are :math:`(n, 3)`.

    Arguments:
        dt: Time step.
        noise: Deviation of what is added after each step, over :math:`\sqrt{\Delta t}`.
        spin_up: Steps from a Gaussian blob around the attractor to frame 0.
        s, r, beta: The parameters.
    """

    def __init__(
        self,
        dt: float = 0.025,
        noise: float = 1.0,
        spin_up: int = 1024,
        s: float = 10.0,
        r: float = 28.0,
        beta: float = 8 / 3,
    ) -> None:
        self.state = State({"a": "1", "b": "1", "c": "1"}, dt)
        self.dt, self.spin_up = dt, spin_up
        self.deviation = noise * math.sqrt(dt)
        self.s, self.r, self.beta = s, r, beta

    def slope(self, x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack([self.s * (b - a), a * (self.r - c) - b, a * b - self.beta * c], -1)

    def mean(self, x: Tensor) -> Tensor:
        r"""The mean of the next frame, given this one."""
        return rk4(self.slope, x, self.dt)

    def initial(self, key: Key) -> Tensor:
        x = 8.0 * key.normal("lorenz63 first", (3,), torch.float64)
        x = x + torch.tensor([0.0, 0.0, 25.0], dtype=torch.float64)
        for k in range(self.spin_up):
            x = self._noisy(self.mean(x), key.again(k), "lorenz63 spin-up")
        return x

    def step(self, x: Tensor, key: Key) -> Tensor:
        return self._noisy(self.mean(x), key, "lorenz63")

    def _noisy(self, x: Tensor, key: Key, purpose: str) -> Tensor:
        if not self.deviation:
            return x
        return x + self.deviation * key.normal(purpose, (3,), torch.float64)


class Lorenz96:
    r"""Lorenz-96; states are :math:`(n, 1, N)` on a circle of circumference N.

    Arguments:
        n: The number N of variables.
        forcing: F.
        dt: Time from a frame to the next.
        substeps: Runge-Kutta steps of a frame.
        spin_up: Frames from small noise around the resting state F to frame 0.
    """

    def __init__(
        self,
        n: int = 40,
        forcing: float = 8.0,
        dt: float = 0.05,
        substeps: int = 1,
        spin_up: int = 400,
    ) -> None:
        circle = {"k": np.arange(n, dtype=float)}
        about = {"k": {"long_name": "place on the circle", "units": "1", "period": float(n)}}
        self.state = State({"x": "1"}, dt, coords=circle, coord_attrs=about, homogeneous=("k",))
        self.n, self.forcing, self.substeps, self.spin_up = n, forcing, substeps, spin_up

    def slope(self, x: Tensor) -> Tensor:
        return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + self.forcing

    def initial(self, key: Key) -> Tensor:
        x = self.forcing + 0.1 * key.normal("lorenz96 first", (1, self.n), torch.float64)
        for _ in range(self.spin_up):
            x = self.advance(x)
        return x

    def step(self, x: Tensor, key: Key) -> Tensor:
        return self.advance(x)

    def advance(self, x: Tensor) -> Tensor:
        r"""The next frame."""
        for _ in range(self.substeps):
            x = rk4(self.slope, x, self.state.dt / self.substeps)
        return x
