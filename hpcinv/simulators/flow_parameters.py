r"""Parameters of a Kolmogorov flow from a noisy, partial sequence of it.

:math:`\theta = (\mathrm{Re}, \rho, A)`: Reynolds number, density, and amplitude of the forcing. A
flow that began at random is followed by the solver of `kolmogorov.py`; velocities are seen at
every few points of the grid, in some frames, with noise, and where there are gauges the pressure
is seen at the same points.

Velocities obey :math:`\partial_t u = \dots - \nabla p / \rho`, in which the gradient of
:math:`p / \rho` is whatever keeps the flow free of divergence: **density has no part in them**.
From velocities alone the posterior of :math:`\rho` is therefore its prior, exactly. The gauges
see :math:`p` itself, and :math:`\rho` is its ratio to the :math:`p / \rho` of the velocities.

Of pressure x is :math:`\mathrm{arsinh}(p / \sigma_p)`, a logarithm where there is signal:
densities differ by orders of magnitude. Its noise is Gaussian in p.

Training makes many pairs of one that was simulated, by two symmetries that are exact. The first
flow is drawn from a law that no shift and no reflection changes, and the forcing is kept by shifts
along x, by half a period along y with x reflected, and by half a turn: a flow so moved is as
likely as the flow itself, whatever the parameters. And :math:`(\rho, p)` times any number solves
the equations with the same velocities. Without the second a network learns by heart which density
a flow had, though nothing in it tells.
"""

from __future__ import annotations

__all__ = ["FlowParameters"]

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .base import Axis, Key, Output, Parameter, Prior
from .kolmogorov import TWO_PI, Kolmogorov

WHERE = "simulator 'kolmogorov-parameters'"


class FlowParameters:
    r"""The simulator; x has shape (C, F, M, M): u, v and with gauges p; frames; y; x.

    Arguments:
        size: The number N of points along a side of the grid.
        every: Every how many points of each axis are seen: M = N / every.
        frames: F, the number of frames seen.
        dt: Time from a frame to the next.
        substeps: Runge-Kutta steps of a frame.
        spin_up: Frames from the random flow to the first that is seen.
        wavenumber: Of the forcing.
        drag: The linear drag, which is known.
        gauges: Whether pressure is seen.
        noise_velocity, noise_pressure: Standard deviations.
    """

    batched = True

    def __init__(
        self,
        size: int = 24,
        every: int = 3,
        frames: int = 4,
        dt: float = 0.25,
        substeps: int = 5,
        spin_up: int = 24,
        wavenumber: int = 2,
        drag: float = 0.1,
        gauges: bool = False,
        noise_velocity: float = 0.1,
        noise_pressure: float = 0.02,
    ) -> None:
        if every < 1 or size % every:
            raise BadInput(
                f"every {every} points of {size}", WHERE, f"'every' must divide 'size' ({size})."
            )
        if frames < 1:
            raise BadInput(f"{frames} frames", WHERE, "At least one must be seen.")
        for name, sigma in (("velocity", noise_velocity), ("pressure", noise_pressure)):
            if not sigma > 0:
                raise BadInput(f"noise_{name} is {sigma}", WHERE, "It must be positive.")
        self.every, self.frames, self.gauges = every, frames, gauges
        self.noise_velocity, self.noise_pressure = noise_velocity, noise_pressure
        self._flow = {
            "size": size, "wavenumber": wavenumber, "drag": drag, "dt": dt, "pressure": gauges,
            "substeps": substeps, "spin_up": spin_up,
        }  # fmt: skip
        Kolmogorov(**self._flow)  # names what cannot be solved
        self.prior = Prior(
            [
                Parameter("reynolds", 5, 50, "1", "log"),
                Parameter("density", 0.1, 10, "1", "log"),
                Parameter("amplitude", 0.5, 2, "1"),
            ]
        )
        # Half periods of the forcing, where they end on points that are seen: how many of them
        # there are along y, and points of each.
        whole = size % (2 * wavenumber * every) == 0
        self._halves = (2 * wavenumber, size // (2 * wavenumber * every)) if whole else (1, 0)
        points = tuple((np.arange(0, size, every) * TWO_PI / size).tolist())
        self.outputs = Output(
            "u, v, arsinh(p / noise)" if gauges else "u, v",
            "1",
            (
                Axis("quantity", "1", tuple(range(2 + gauges))),
                Axis("time", "1", tuple(dt * k for k in range(frames))),
                Axis("y", "1", points),
                Axis("x", "1", points),
            ),
        )

    def simulate(self, theta: Tensor, key: Key) -> Tensor:
        r"""x without noise: (n, 3) to (n, C, F, M, M). The first flow is drawn."""
        reynolds, density, amplitude = theta.double().T
        flow = Kolmogorov(
            reynolds=reynolds, density=density, amplitude=amplitude, **self._flow
        )  # fmt: skip
        now = flow.initial(key)
        seen = [now]
        for _ in range(self.frames - 1):
            seen.append(flow.advance(seen[-1]))
        return self.measured(torch.stack(seen, 2)[..., :: self.every, :: self.every]).float()

    def measured(self, fields: Tensor) -> Tensor:
        r"""x of u, v (and p), with shape (..., C, F, M, M)."""
        velocity, pressure = fields[..., :2, :, :, :], fields[..., 2:, :, :, :]
        return torch.cat([velocity, torch.asinh(pressure / self.noise_pressure)], dim=-4)

    def noise(self, x: Tensor, key: Key) -> Tensor:
        r"""x of u, v (and p) with noise."""
        drawn = key.normal("gauges", x.shape[1:], x.dtype).to(x.device)
        velocity = x[:, :2] + self.noise_velocity * drawn[:, :2]
        pressure = torch.asinh(torch.sinh(x[:, 2:]) + drawn[:, 2:])
        return torch.cat([velocity, pressure], dim=1)

    def redrawn(self, theta: Tensor, x: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        r"""Parameters (n, 3) and flows of another density, drawn from the prior, and moved."""
        u = key.uniform("symmetry", (4,))
        at = self.prior.names.index("density")
        fresh = self.prior.quantile(theta)
        fresh[:, at] = u[:, 3]
        fresh = torch.where(torch.arange(3) == at, self.prior.from_quantile(fresh), theta.double())
        ratio = (fresh[:, at] / theta[:, at].double()).to(x.dtype)[:, None, None, None, None]
        pressure = torch.asinh(torch.sinh(x[:, 2:]) * ratio)
        x = self.moved(torch.cat([x[:, :2], pressure], dim=1), u)
        return fresh.to(theta.dtype), x

    def moved(self, x: Tensor, u: Tensor) -> Tensor:
        r"""Flows moved by one of the symmetries that forcing, equations and first flow have.

        Arguments:
            x: Flows, with shape (n, C, F, M, M).
            u: Which symmetry: numbers in [0, 1) with shape (n, 3 or more), for the shift along
                x, half periods along y, half a turn.
        """
        u, M = u.to(x.device), x.shape[-1]
        count, step = self._halves
        shift, half = (u[:, 0] * M).long(), (u[:, 1] * count).long()
        turn = u[:, 2] >= 0.5
        # sin(k y) changes its sign with each half period and with y: u must, and with it x.
        sign_x, sign_y = 1 - 2 * ((half % 2 == 1) ^ turn).long(), 1 - 2 * turn.long()
        i = torch.arange(M, device=x.device)
        from_x = (shift[:, None] + sign_x[:, None] * i) % M
        from_y = (step * half[:, None] + sign_y[:, None] * i) % M
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        x = x.permute(0, 3, 4, 1, 2)[rows, from_y[:, :, None], from_x[:, None, :]]
        signs = torch.stack([sign_x, sign_y, torch.ones_like(sign_x)], 1)[:, : x.shape[3]]
        return x.permute(0, 3, 4, 1, 2) * signs[:, :, None, None, None].to(x.dtype)

    def observation(self, path: str | Path) -> Tensor:
        r"""A measured sequence as x: an `.npy` of u, v (and p) with the shape (C, F, M, M)."""
        found = np.load(path, allow_pickle=False)
        if found.shape[-4:] != self.outputs.shape:
            raise BadInput(
                f"an array of shape {found.shape}", path,
                f"Write one of shape {self.outputs.shape}: u, v{', p' if self.gauges else ''}; "
                "frames; y; x.",
            )  # fmt: skip
        return self.measured(torch.from_numpy(found).double()).float()
