r"""Observations through an operator: interpolation in space and time, columns, speeds, one's
own, any R.

What `PointLikelihood` is for rows that are numbers of the state, this is for rows that are
functions of several. Through a decoder that can decode chosen points, only the operator's support
is decoded.
"""

from __future__ import annotations

__all__ = ["OperatorLikelihood"]

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..observations.config import Errors
from ..observations.errors import ErrorCovariance
from ..observations.operators import Operator, Piece
from .moments import Moment, frames_of, width


class OperatorLikelihood:
    r"""y = A(x) + N(0, R) in units of each row's error: y, A and R are divided by its deviation.

    Arguments:
        table: An `ObservationTable`; its rows are used as they are.
        statistics: Standardise the state; None: the state is in physical units already.
        frames: Absolute frame numbers of the analysed frames.
        store: The trajectory, for grid, channels and clock.
        decoder, decoder_error, context: As in `PointLikelihood`. The decoder's error enters with
            the operator's own derivative at the climatology; rows of different moments that see
            one frame are taken to have errors of their own.
        errors: See `hpcinv.observations.config.Errors`.

    Raises:
        BadInput: If errors are correlated between rows of which some lie between frames.
    """

    def __init__(
        self,
        table: Any,
        statistics: Any,
        frames: Sequence[int],
        *,
        store: Any,
        decoder: Any = None,
        decoder_error: Any = None,
        context: Tensor | None = None,
        errors: Errors = Errors(),  # noqa: B008
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype, self._frames = dtype, np.asarray(frames)
        self._statistics, self._decoder, self._error = statistics, decoder, decoder_error
        self._context = context
        self._grid = int(np.prod(store.grid))
        self._numbers = len(store.channels) * self._grid
        self._operator = Operator(table, store, int(self._frames[0]), len(self._frames))
        moments = self._operator.moments
        self._order = np.argsort(moments, kind="stable")
        self._sorted = moments[self._order]
        self.between = bool((moments % 1 != 0).any())
        self._R = ErrorCovariance(table, errors)
        if self.between and not self._R.diagonal:
            raise BadInput(
                "errors correlated within a frame, of rows that lie between frames",
                "errors: length_km, between",
                "Leave both out, or observe with forward: {time: nearest}.",
            )
        self._scale = np.sqrt(self._R.variance)
        self._value = table.value
        curved = {"speed", "saturation"} | {
            d.operator for d in table.forward.derived if ":" in d.operator
        }
        self.linear = decoder is None and not any(
            d.operator in curved for d in table.forward.derived
        )
        # The scatter of states is known where they are sampled, not behind a decoder.
        self._saturates = decoder is None and any(
            d.operator == "saturation" for d in table.forward.derived
        )
        self.scatters = False
        self._spread: Tensor | None = None
        self._repeats: Tensor | None = None
        self._density = len(table) / max(len(np.unique(table.frame)) * self._numbers, 1)
        self._sparse = hasattr(decoder, "plan_points") and hasattr(decoder, "decode_points")
        self._seen: dict[Moment, tuple[Piece, Tensor, Tensor]] = {}
        self._blocks: dict[Moment, Tensor] = {}
        self._plans: dict[tuple[Moment, ...], Any] = {}

    def _piece(self, f: Moment) -> tuple[Piece, Tensor, Tensor]:
        r"""A moment's operator, and mean and deviation that make its support physical."""
        if f not in self._seen:
            p = self._operator.piece(self._rows([f]))
            mean, std = np.zeros(len(p.point)), np.ones(len(p.point))
            if self._statistics is not None:
                mean, std = self._statistics.at(self._frames[p.frame], p.channel, p.point)
            as_tensor = lambda x: torch.from_numpy(np.asarray(x, np.float64)).to(self.dtype)  # noqa: E731
            self._seen[f] = p, as_tensor(mean), as_tensor(std)
        return self._seen[f]

    def sizes(self, frames: Sequence[Moment]) -> list[int]:
        return [len(self._rows([f])) for f in frames]

    def _rows(self, frames: Sequence[Moment]) -> np.ndarray:
        ends = (np.searchsorted(self._sorted, list(frames), side) for side in ("left", "right"))
        parts = [self._order[a:b] for a, b in zip(*ends, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def y(self, frames: Sequence[Moment]) -> Tensor:
        rows = self._rows(frames)
        return torch.from_numpy(self._value[rows] / self._scale[rows]).to(self.dtype)

    def _block(self, f: Moment) -> Tensor:
        r"""R of one moment in units of the rows' deviations, (d, d)."""
        if f not in self._blocks:
            rows = self._rows([f])
            s = self._scale[rows]
            block = self._R.apply(np.diag(1 / s), rows) / s
            if self._error is not None:
                p, mean, std = self._piece(f)
                J = _derivative(p, mean, std, s)
                for k in np.unique(p.frame):  # decoding errs at each frame by itself
                    at = p.frame == k
                    C = self._error.covariance(p.point[at], p.channel[at])
                    block = block + J[:, at] @ C @ J[:, at].T
            self._blocks[f] = torch.from_numpy((block + block.T) / 2).to(self.dtype)
        return self._blocks[f]

    def variance(self, frames: Sequence[Moment]) -> Tensor:
        if self._R.diagonal and self._error is None:
            return torch.ones(sum(self.sizes(frames)), dtype=self.dtype)
        parts = [self._block(f).diagonal() for f in frames]
        return torch.cat(parts or [torch.zeros(0, dtype=self.dtype)])

    def covariance(self, v: Tensor, frames: Sequence[Moment]) -> Tensor:
        if self._R.diagonal and self._error is None:
            return v
        pieces = v.split(self.sizes(frames), dim=-1)
        return torch.cat(
            [p @ self._block(f).to(v) for p, f in zip(pieces, frames, strict=True)] or [v], dim=-1
        )

    def scattered(self, variance: Tensor, alike: Tensor) -> OperatorLikelihood:
        r"""The same, best linearised for states that scatter about x with a variance.

        What linearisations leave is alike where states are: its variance counts as many times as
        there are observations among the numbers that vary as one, as if they were everywhere as
        dense.

        Arguments:
            variance: Of standardised states, with their shape or one for all.
            alike: How many numbers of the trajectory vary as one with each, alike.
        """
        if not self._saturates:
            return self
        other = copy.copy(self)
        other.scatters = True
        whole = lambda v: v.expand(self._numbers) if v.ndim == 0 else v.flatten()  # noqa: E731
        other._spread = whole(variance.sqrt()).clamp_min(1e-6)
        other._repeats = 1 + self._density * (whole(alike) - 1)
        return other

    def _spread_of(self, p: Piece, std: Tensor, like: Tensor) -> Tensor | None:
        if self._spread is None:
            return None
        at = torch.as_tensor(p.channel * self._grid + p.point, device=self._spread.device)
        return (self._spread[at].to(std) * std).to(like)

    def scatter(self, x: Tensor, frames: Sequence[Moment]) -> Tensor:
        r"""Variance of what the linearisation at x leaves, in units of the rows' deviations."""
        pieces = [self._piece(f) for f in frames]
        values = self._support(x, frames, [p for p, *_ in pieces])
        out = [x.new_zeros((len(x), 0))]
        for (p, mean, std), z in zip(pieces, values, strict=True):
            spread = self._spread_of(p, std, z)
            scale = torch.from_numpy(self._scale[p.rows]).to(z)
            left = p.remainder(z * std.to(z) + mean.to(z), spread)
            at = torch.from_numpy(p.channel[p.first] * self._grid + p.point[p.first])
            out.append(left * self._repeats[at].to(z) / scale**2)
        return torch.cat(out, -1)

    def operator(self, x: Tensor, frames: Sequence[Moment]) -> Tensor:
        pieces = [self._piece(f) for f in frames]
        values = self._support(x, frames, [p for p, *_ in pieces])
        out = []
        for (p, mean, std), z in zip(pieces, values, strict=True):
            scale = torch.from_numpy(self._scale[p.rows]).to(z)
            spread = self._spread_of(p, std, z)
            out.append(p(z * std.to(z) + mean.to(z), spread) / scale)
        return torch.cat(out, -1) if out else x.new_zeros((len(x), 0))

    def _support(self, x: Tensor, frames: Sequence[Moment], pieces: list[Piece]) -> list[Tensor]:
        r"""Standardised values of each moment's support, (B, S) each."""
        context, sees = None, frames_of(frames)
        if self._context is not None and self._decoder is not None:
            rows = self._context[torch.as_tensor(sees)].to(x)
            context = rows.expand(len(x), -1, -1).flatten(0, 1)
        sizes = [len(p.point) for p in pieces]
        # The state of x in which each number of the supports lies.
        first = itertools.accumulate(map(width, frames), initial=0)
        slots = [s + p.frame - int(m) for s, m, p in zip(first, frames, pieces, strict=False)]
        if self._sparse:
            key = tuple(frames)
            if key not in self._plans:
                if len(self._plans) > 64:
                    self._plans.clear()
                at = np.concatenate(
                    [s * self._grid + p.point for s, p in zip(slots, pieces, strict=True)]
                )
                unique, place = np.unique(at, return_inverse=True)
                s, point = np.divmod(unique, self._grid)
                to = lambda a: torch.as_tensor(a, device=x.device)  # noqa: E731
                channel = to(np.concatenate([p.channel for p in pieces]))
                plan = self._decoder.plan_points(to(s), to(point))
                self._plans[key] = plan, to(place.reshape(-1)), channel
            plan, place, channel = self._plans[key]
            values = self._decoder.decode_points(x, plan, context)[:, place, channel]
            return list(values.split(sizes, -1))
        state = x.flatten(0, 1)
        if self._decoder is not None:
            decode: Callable = getattr(self._decoder, "decode", self._decoder)
            state = decode(state, context)
        state = state.reshape(len(x), len(sees) * self._numbers)
        at = [
            (s * self._numbers + p.channel * self._grid) + p.point
            for s, p in zip(slots, pieces, strict=True)
        ]
        return [state.index_select(1, torch.as_tensor(i, device=x.device)) for i in at]


def _derivative(p: Piece, mean: Tensor, std: Tensor, scale: np.ndarray) -> np.ndarray:
    r"""∂A/∂z at the climatology, in units of the rows' deviations, (d, S)."""
    z = torch.zeros(len(mean), dtype=torch.float64)
    see = lambda z: p(z * std.double() + mean.double())  # noqa: E731
    J = torch.autograd.functional.jacobian(see, z, vectorize=True)
    return J.numpy() / scale[:, None]
