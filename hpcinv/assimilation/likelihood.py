r"""What the engine asks of observations, and checks of what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import BadInput
from .moments import Moment, moments_of, width

__all__ = ["Likelihood", "Restricted", "checked"]


@runtime_checkable
class Likelihood(Protocol):
    r"""Observations y = A(x) + N(0, R) of a trajectory, frame by frame.

    ``frames`` lists frame numbers in 0..L−1; a frame may be listed more than once. D is the number
    of observations of the listed frames, ordered like the list. Optional members:

    * ``variance(frames) -> (D,)``: R's diagonal; solves are then scaled by it (and SDA needs it).
    * ``linear: bool``: A is affine, so that its derivative is a difference.
    * ``between: bool``: some observations lie between frames: ``frames`` then lists moments too,
      f + ½ for all observations between f and f + 1, which see both: the states that `operator`
      gets are those of `frames_of(frames)`, two for such a moment.
    * ``for_members(ids) -> Likelihood``: observations that differ between members, ``y`` then has
      shape ``(len(ids), D)``.
    * ``scattered(variance, alike) -> Likelihood``: A as it is best linearised for states that
      scatter about x with a variance, each number as one with `alike` numbers of the trajectory;
      both of the shape of the state or one for all. Where its ``scatters`` is true, ``scatter(x,
      frames) -> (B, D)`` is the variance of what this leaves, and adds to R.
    * ``matched(z, told, frames)`` and ``numbers``: observations of single numbers that are not
      Gaussian, for MMPS, see `PointwiseLikelihood`.
    """

    def sizes(self, frames: Sequence[Moment]) -> list[int]:
        r"""Number of observations of each frame."""

    def y(self, frames: Sequence[Moment]) -> Tensor:
        r"""Observed values, with shape ``(D,)``."""

    def operator(self, x: Tensor, frames: Sequence[Moment]) -> Tensor:
        r"""A(x), differentiable: ``(B, len(frames), *state)`` -> ``(B, D)``."""

    def covariance(self, v: Tensor, frames: Sequence[Moment]) -> Tensor:
        r"""R v, block diagonal over frames: ``(B, D)`` -> ``(B, D)``."""


class Restricted:
    r"""The same observations, of some frames only, counted from ``start``.

    Arguments:
        likelihood: Observations of a longer trajectory.
        start: The frame of the longer trajectory that is frame 0 here.
        stop: Observations that see frames from ``stop`` on are left out.
    """

    def __init__(self, likelihood: Likelihood, start: int, stop: int) -> None:
        self._all, self._start, self._stop = likelihood, start, stop
        self.linear = bool(getattr(likelihood, "linear", False))
        self.between = bool(getattr(likelihood, "between", False))
        if hasattr(likelihood, "variance"):
            self.variance = lambda frames: likelihood.variance(self._there(frames))
        if hasattr(likelihood, "for_members"):
            self.for_members = lambda ids: Restricted(likelihood.for_members(ids), start, stop)
        if hasattr(likelihood, "scattered"):
            self.scattered = lambda *v: Restricted(likelihood.scattered(*v), start, stop)
        self.scatters = getattr(likelihood, "scatters", False)
        if hasattr(likelihood, "matched"):
            self.numbers = Restricted(likelihood.numbers, start, stop)
            self.matched = lambda z, told, frames: likelihood.matched(z, told, self._there(frames))
        if self.scatters:
            self.scatter = lambda x, frames: likelihood.scatter(x, self._there(frames))

    def _there(self, frames: Sequence[Moment]) -> list[Moment]:
        return [f + self._start for f in frames]

    def sizes(self, frames: Sequence[Moment]) -> list[int]:
        there = self._there(frames)
        sizes = self._all.sizes([f for f in there if f <= self._stop - 1])
        at = iter(sizes)
        return [next(at) if f <= self._stop - 1 else 0 for f in there]

    def y(self, frames: Sequence[Moment]) -> Tensor:
        return self._all.y(self._there(frames))

    def operator(self, x: Tensor, frames: Sequence[Moment]) -> Tensor:
        return self._all.operator(x, self._there(frames))

    def covariance(self, v: Tensor, frames: Sequence[Moment]) -> Tensor:
        return self._all.covariance(v, self._there(frames))


def checked(likelihood: Likelihood, length: int, state: Sequence[int]) -> list[Moment]:
    r"""The moments of L frames that are observed, after trying every method once for each.

    Raises:
        BadInput: If shapes do not fit, or values are not finite, or a variance is not positive.
    """

    frames = moments_of(length, getattr(likelihood, "between", False))
    sizes = likelihood.sizes(frames)
    if len(sizes) != len(frames):
        raise BadInput(
            f"sizes of {len(frames)} frames has {len(sizes)} entries", where="likelihood.sizes"
        )
    observed = [f for f, n in zip(frames, sizes, strict=True) if n]
    for f, n in zip(frames, sizes, strict=True):
        if not n:
            continue
        y = likelihood.y([f])
        if y.shape[-1] != n:
            raise BadInput(
                f"frame {f} has {n} observations and y has {y.shape[-1]}", where="likelihood.y"
            )
        if not torch.isfinite(y).all():
            raise BadInput(f"an observation of frame {f} is not finite", where="likelihood.y")
        if hasattr(likelihood, "variance"):
            variance = likelihood.variance([f])
            if variance.shape != (n,):
                raise BadInput(
                    f"frame {f} has {n} observations and {tuple(variance.shape)} variances",
                    where="likelihood.variance",
                )
            if not (torch.isfinite(variance).all() and (variance > 0).all()):
                raise BadInput(
                    f"an error variance of frame {f} is zero, negative or not finite",
                    where="likelihood.variance",
                    instead="Give every observation a positive error.",
                )

    if observed:
        f = observed[0]
        n = sizes[frames.index(f)]
        x = torch.zeros((1, width(f), *state), dtype=likelihood.y([f]).dtype)
        try:
            with torch.no_grad():
                got = likelihood.operator(x, [f])
        except BadInput:
            raise
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise BadInput(
                f"the operator does not take states of shape {tuple(state)}: {error}",
                where="likelihood.operator",
            ) from error
        if got.shape != (1, n):
            raise BadInput(
                f"the operator gives {tuple(got.shape)} for {n} observations of frame {f}",
                where="likelihood.operator",
            )

    return observed
