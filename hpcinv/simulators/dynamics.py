r"""What a dynamics is: states on a grid, the first of each trajectory, a step to the next.

A dynamics of one's own is a class with `state`, `initial` and `step`::

    class Walk:
        state = State(channels={"x": "m"}, dt=0.1)

        def initial(self, key):                # one row for each trajectory of the key
            return key.normal("first", (1,))

        def step(self, x, key):                # (n, 1) -> (n, 1), dt later
            return x + 0.1 * key.normal("step", (1,))

The job file names it `package.module:Walk`. All random numbers come from the key, whose ids are
the trajectories and whose `draw` is the frame that is made: the same trajectories come out
however they are batched or shared among tasks.
"""

from __future__ import annotations

__all__ = ["Dynamics", "Forecast", "State", "is_dynamics", "trajectories"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .base import Key


@dataclass(frozen=True)
class State:
    r"""What a frame is.

    Attributes:
        channels: Units of each channel by its name ('1' for none).
        dt: Time from a frame to the next.
        time_units: Units of time.
        coords: Grid coordinates by name, in the order of the grid's axes; none for a state
            without a grid.
        coord_attrs: Their CF attributes; `period` where an axis closes on itself.
        homogeneous: Axes along which the statistics of the states do not change.
        calendar: Of `time_units`.
        cycle: Frames of a cycle, e.g. a year: statistics are of each place in it. Frame 0 of a
            trajectory is the first of a cycle.
        mask: Where the grid is valid, or None for everywhere; elsewhere states are 0.
        static: Fields that do not change, by name, with the grid's shape.
        standard_names: CF names of channels, by channel.
        sigma: Of channels on sigma levels (p over surface pressure), the level's: each is the
            middle of a layer, over flat ground.
        partial: Channels that stand at some points only and are 0 at the others, whose deviation
            counts as 1.
    """

    channels: Mapping[str, str]
    dt: float
    time_units: str = "1"
    coords: Mapping[str, np.ndarray] = field(default_factory=dict)
    coord_attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    homogeneous: tuple[str, ...] = ()
    calendar: str = "standard"
    cycle: int = 1
    mask: np.ndarray | None = None
    static: Mapping[str, np.ndarray] = field(default_factory=dict)
    standard_names: Mapping[str, str] = field(default_factory=dict)
    sigma: Mapping[str, float] = field(default_factory=dict)
    partial: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(len(c) for c in self.coords.values())

    @property
    def shape(self) -> tuple[int, ...]:
        r"""Shape of a frame, :math:`(C, *grid)`."""
        return (len(self.channels), *self.grid)


class Dynamics(Protocol):
    r"""The protocol; `state` is a `State`."""

    state: State

    def initial(self, key: Key) -> Tensor:
        r"""Frame 0 of each trajectory of the key, on the attractor: :math:`(n, C, *grid)`."""

    def step(self, x: Tensor, key: Key) -> Tensor:
        r"""The next frame of each; `key.draw` is its number in the trajectory, 1 or more."""


def is_dynamics(simulator: Any) -> bool:
    r"""Whether what a name made is a dynamics, and not a simulator of parameters."""
    return all(hasattr(simulator, part) for part in ("state", "initial", "step"))


def trajectories(dynamics: Dynamics, key: Key, length: int) -> Iterator[Tensor]:
    r"""The frames of the trajectories of a key, one after the other.

    Raises:
        BadInput: A frame has another shape than its `state` says, or is not finite; it names the
            trajectory and the frame.
    """
    shape = (len(key), *dynamics.state.shape)
    x = dynamics.initial(key)
    for k in range(length):
        if k:
            x = dynamics.step(x, key.again(k))
        if tuple(x.shape) != shape:
            raise BadInput(
                f"frame {k} has the shape {tuple(x.shape)}, not {shape}",
                type(dynamics).__name__,
                "See simulators/dynamics.py.",
            )
        bad = ~torch.isfinite(x).flatten(1).all(1)
        if bad.any():
            raise BadInput(
                f"trajectory {key.ids[int(bad.nonzero()[0])]} is not finite from frame {k} on",
                type(dynamics).__name__,
                "Shorten the time step, or mend its initial states.",
            )
        yield x


class Forecast:
    r"""The dynamics that made a store, as the forecast model of an ensemble filter.

    Arguments:
        attributes: The store's, which tell its `simulator` and `options`.
        seed: Key of the noise of the model, if it has one.
        members: Global ids of the members.

    Raises:
        BadInput: If the store was not simulated.
    """

    def __init__(self, attributes: Mapping[str, Any], seed: int, members: Sequence[int]) -> None:
        from . import make

        if "simulator" not in attributes:
            raise BadInput(
                "no dynamics made these data",
                "ensemble: forecast",
                "Name a forecast model of your own, module:Name.",
            )
        # Another nature is that of trajectories; ids are members here, and no forecast knows it.
        options = {k: v for k, v in (attributes.get("options") or {}).items() if k != "nature"}
        self.dynamics = make(attributes["simulator"], options)
        self.key = Key(seed, list(members))

    def __call__(self, x: np.ndarray, frame: int) -> np.ndarray:
        r"""States :math:`(M, C, *grid)` of the frame after `frame`."""
        x = torch.from_numpy(np.asarray(x, np.float64))
        return self.dynamics.step(x, self.key.again(frame + 1)).numpy()
