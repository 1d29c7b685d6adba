r"""What a simulator is: a prior over named parameters, and x drawn from :math:`p(x | \theta)`.

A simulator of one's own is a class with `prior`, `outputs`, `batched` and `simulate`::

    class Pendulum:
        batched = True
        prior = Prior(
            [Parameter("length", 0.1, 2.0, "m"), Parameter("damping", 0.01, 1, "s-1", "log")]
        )
        outputs = Output("angle", "rad", (Axis("time", "s", tuple(range(100))),))

        def simulate(self, theta, key):        # (n, 2) -> (n, 100)
            ...

        def noise(self, x, key):               # optional: drawn anew in training
            return x + 0.01 * key.normal("instrument", x.shape[1:])

The job file names it `package.module:Pendulum`. All random numbers come from the key, which knows
the ids of the simulations: the same draws come out however an array is split.
"""

from __future__ import annotations

__all__ = ["Axis", "Curve", "Key", "Output", "Parameter", "Prior", "Simulator", "check"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..diffusion import many, noise
from ..errors import BadInput, nearest


@dataclass(frozen=True)
class Key:
    r"""Names the random numbers of n simulations.

    A number is a function of (seed, id of the simulation, draw, purpose, place) and of nothing
    else: not of the other simulations of the batch, the task or the rank.

    Attributes:
        seed: The study's seed.
        ids: Global ids of the simulations, one a row.
        draw: Which of many draws of the same simulations, e.g. the epoch in training.
    """

    seed: int
    ids: Sequence[int]
    draw: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: int | slice) -> Key:
        r"""The key of some of the rows; of one row it is a key of length one."""
        chosen = self.ids[rows] if isinstance(rows, slice) else [self.ids[rows]]
        return replace(self, ids=chosen)

    def again(self, draw: int) -> Key:
        r"""Names other numbers of the same simulations."""
        return replace(self, draw=draw)

    def normal(self, purpose: str, shape: Sequence[int], dtype=torch.float32) -> Tensor:
        r"""Standard normal numbers with shape (n, *shape), on the CPU."""
        return torch.from_numpy(many.normals(shape, **self._names(purpose))).to(dtype)

    def uniform(self, purpose: str, shape: Sequence[int], dtype=torch.float64) -> Tensor:
        r"""Numbers uniform in (0, 1) with shape (n, *shape), on the CPU."""
        return torch.from_numpy(many.uniforms(shape, **self._names(purpose))).to(dtype)

    def generator(self, purpose: str) -> np.random.Generator:
        r"""A numpy generator for the one simulation of this key, for any distribution."""
        (one,) = self.ids
        return noise.generator(self.seed, purpose, int(one), self.draw)

    def _names(self, purpose: str) -> dict[str, Any]:
        ids = np.asarray(self.ids, dtype=np.int64)
        draw = np.full(len(ids), self.draw, np.int64)
        return {"seed": self.seed, "purpose": purpose, "ids": (ids, draw)}


@dataclass(frozen=True)
class Parameter:
    r"""One bounded parameter, uniform a priori in itself or in its logarithm.

    Attributes:
        name: Its name in tables and figures.
        low, high: Its bounds.
        unit: Its unit, '1' where it has none.
        scale: Whether it is uniform ('linear') or its logarithm is ('log').
    """

    name: str
    low: float
    high: float
    unit: str
    scale: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        where = f"prior of '{self.name}'"
        if not isinstance(self.name, str) or not self.name.strip():
            raise BadInput("a parameter has no name", "prior", "Write 'name: ...'.")
        if not isinstance(self.unit, str) or not self.unit.strip():
            raise BadInput("the unit is missing", where, "Write 'unit: K', or '1' for none.")
        for end in ("low", "high"):
            value = getattr(self, end)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInput(f"{end} is {value!r}, no number", where, f"Write '{end}: 1.0'.")
            if not math.isfinite(value):
                raise BadInput(f"{end} is {value}", where, "Both bounds must be finite.")
        if self.low >= self.high:
            raise BadInput(
                f"low ({self.low:g}) is not below high ({self.high:g})", where, "Exchange them?"
            )
        if self.scale not in ("linear", "log"):
            raise BadInput(f"scale is '{self.scale}'", where, "Write 'linear' or 'log'.")
        if self.scale == "log" and self.low <= 0:
            raise BadInput(f"a log scale from {self.low:g}", where, "low must be positive.")


class Prior:
    r"""Independent, bounded parameters.

    With quantile :math:`u = (\theta - a) / (b - a)` of each parameter (of its logarithm where the
    scale is one), the unbounded parameters are :math:`z = \log u - \log(1 - u)`: the prior of z is
    the logistic distribution, whatever the units.

    Arguments:
        parameters: At least one; names must differ.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = tuple(parameters)
        if not self.parameters:
            raise BadInput("a prior without parameters", "prior")
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise BadInput(f"two parameters are called '{name}'", "prior", "Rename one.")
        self._log = torch.tensor([p.scale == "log" for p in self.parameters])
        ends = [
            (math.log(p.low), math.log(p.high)) if p.scale == "log" else (p.low, p.high)
            for p in self.parameters
        ]
        self._low, self._high = torch.tensor(ends, dtype=torch.float64).T

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.parameters]

    @property
    def units(self) -> list[str]:
        return [p.unit for p in self.parameters]

    def replaced(self, changes: Mapping[str, Mapping[str, Any]]) -> Prior:
        r"""This prior with other bounds, e.g. ``{"mass": {"low": 1, "high": 5, "unit": "kg"}}``.

        Raises:
            BadInput: An unknown parameter or field, a missing or different unit, bad bounds.
        """
        known = {p.name: p for p in self.parameters}
        for name, change in changes.items():
            where = f"prior of '{name}'"
            if name not in known:
                raise BadInput("no such parameter", where, nearest(name, known))
            for key in change:
                if key not in ("low", "high", "unit", "scale"):
                    raise BadInput(
                        f"unknown field '{key}'",
                        where,
                        nearest(key, ["low", "high", "unit", "scale"]),
                    )
            unit = change.get("unit")
            if unit is None:
                raise BadInput("the unit is missing", where, f"Write 'unit: {known[name].unit}'.")
            if unit != known[name].unit:
                raise BadInput(
                    f"the unit is '{unit}'", where, f"The simulator takes '{known[name].unit}'."
                )
            known[name] = replace(known[name], **change)
        return Prior(known.values())

    def sample(self, key: Key) -> Tensor:
        r"""Draws a row of parameters for each simulation of the key.

        Returns:
            Float32 parameters with shape (n, P), never outside the bounds.
        """
        u = key.uniform("prior", (len(self),))
        return self.from_quantile(u).to(torch.float32)

    def inside(self, theta: Tensor) -> Tensor:
        r"""Which rows (..., P) lie within the bounds (up to the rounding of their precision)."""
        u = self.quantile(theta)
        slack = 8 * torch.finfo(theta.dtype).eps * self._scale(theta)
        return ((u >= -slack) & (u <= 1 + slack)).all(dim=-1)

    def log_prob(self, theta: Tensor) -> Tensor:
        r"""Log density of rows (..., P), minus infinity outside the bounds."""
        (high, low, log) = (t.to(theta.device) for t in (self._high, self._low, self._log))
        jacobian = torch.where(log, theta.double().clamp(min=1e-300).log(), 0.0)
        density = -((high - low).log() + jacobian).sum(dim=-1)
        return density.masked_fill(~self.inside(theta), -math.inf).to(theta.dtype)

    def quantile(self, theta: Tensor) -> Tensor:
        r"""Marginal distribution functions, not clipped: float64, shape of theta."""
        (high, low, log) = (t.to(theta.device) for t in (self._high, self._low, self._log))
        value = theta.double()
        value = torch.where(log, value.clamp(min=1e-300).log(), value)
        return (value - low) / (high - low)

    def from_quantile(self, u: Tensor) -> Tensor:
        r"""The inverse of `quantile`: float64."""
        (high, low, log) = (t.to(u.device) for t in (self._high, self._low, self._log))
        value = low + (high - low) * u.double()
        # Of what is not chosen the exponential must not overflow: its gradient would be NaN.
        return torch.where(log, torch.where(log, value, 0.0).exp(), value)

    def to_unbounded(self, theta: Tensor) -> Tensor:
        r"""z of theta, in its precision; a bound itself is taken a rounding error inside."""
        eps = torch.finfo(theta.dtype).eps
        u = self.quantile(theta).clamp(eps, 1 - eps)
        return (u.log() - torch.log1p(-u)).to(theta.dtype)

    def from_unbounded(self, z: Tensor) -> Tensor:
        r"""theta of z, in its precision."""
        return self.from_quantile(torch.sigmoid(z.double())).to(z.dtype)

    def log_det(self, theta: Tensor) -> Tensor:
        r""":math:`\log |dz / d\theta|`, so that :math:`\log p(\theta) = \log p(z) +` this."""
        u = self.quantile(theta).clamp(
            torch.finfo(theta.dtype).eps, 1 - torch.finfo(theta.dtype).eps
        )
        (high, low, log) = (t.to(theta.device) for t in (self._high, self._low, self._log))
        slope = torch.where(log, theta.double().clamp(min=1e-300).log(), 0.0) + (high - low).log()
        return -(u.log() + torch.log1p(-u) + slope).sum(dim=-1).to(theta.dtype)

    def _scale(self, theta: Tensor) -> Tensor:
        r"""How much larger a rounding error of theta is as a quantile."""
        size = torch.maximum(self._low.abs(), self._high.abs()).clamp(min=1)
        return (size / (self._high - self._low)).to(theta.device)


@dataclass(frozen=True)
class Axis:
    r"""One axis of x: its name, unit and coordinates."""

    name: str
    unit: str
    values: Sequence[float] = field(repr=False)


@dataclass(frozen=True)
class Output:
    r"""What x is: its name, its unit and its axes, in the order of its shape."""

    name: str
    unit: str
    axes: tuple[Axis, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(a.values) for a in self.axes)


@dataclass(frozen=True)
class Curve:
    r"""A curve that parameters make and reports show, e.g. a temperature profile.

    Attributes:
        name, unit: Of its values.
        axis: What it is a function of.
        values: With shape (n, M).
        log: Whether the axis is logarithmic.
        upright: Whether the axis is drawn upright, from top to bottom: pressure, depth.
    """

    name: str
    unit: str
    axis: Axis
    values: np.ndarray = field(repr=False)
    log: bool = False
    upright: bool = False


@runtime_checkable
class Simulator(Protocol):
    r"""The protocol. `noise`, `log_likelihood` and what serves files and reports are optional.

    One that says `portable = True` is given parameters on the rank's own device, a GPU where it
    has one, and may return x there; any other gets them on the CPU and goes where it likes.

    Attributes:
        prior: Over its parameters.
        outputs: What x is; gives its shape.
        batched: Whether `simulate` takes n rows at a time, or one with shape (1, P).
    """

    prior: Prior
    outputs: Output
    batched: bool

    def simulate(self, theta: Tensor, key: Key) -> Tensor:
        r"""x with shape (n, *outputs.shape) from theta with shape (n, P).

        A row that cannot be simulated is NaN (or the call raises): it is counted, not used.
        """

    # def noise(self, x: Tensor, key: Key) -> Tensor
    #     What the instrument adds to x (n, *shape): drawn anew each time a simulation is seen.
    # def redrawn(self, theta: Tensor, x: Tensor, key: Key) -> tuple[Tensor, Tensor]
    #     Of pairs (n, P) and x before noise others that the prior and the simulator would have
    #     drawn as likely, by symmetries of the model: training draws them anew each time.
    # def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor
    #     log p(x | theta) of rows, noise included: where it is known, samples get weights.
    # def observation(self, path: Path) -> Tensor
    #     x of a file in the simulator's own format.
    # def curves(self, theta: Tensor) -> list[Curve]
    #     Curves that reports show with their bands.
    # def shown(self, x: Tensor) -> tuple[Tensor, str, str]
    #     x as people want to see it, with its name and unit.


def check(simulator: Any, name: str) -> Simulator:
    r"""The simulator, if it keeps the protocol.

    Raises:
        BadInput: Names what is missing.
    """
    for part in ("prior", "outputs", "batched", "simulate"):
        if not hasattr(simulator, part):
            raise BadInput(f"it has no '{part}'", f"simulator '{name}'", "See simulators/base.py.")
    if not isinstance(simulator.prior, Prior):
        raise BadInput("its prior is no Prior", f"simulator '{name}'", "See simulators/base.py.")
    if not isinstance(simulator.outputs, Output):
        raise BadInput(
            "its outputs are no Output", f"simulator '{name}'", "See simulators/base.py."
        )
    return simulator
