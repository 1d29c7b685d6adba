r"""Observations at grid points of the physical state, seen through an optional decoder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput

__all__ = ["PointLikelihood"]


class PointLikelihood:
    r"""Grid-point observations with Gaussian errors, in standardised units.

    y = x[c, p] + N(0, R), with x the standardised state, decoded from the sampled one if there is
    a decoder, and R = diag(σ²) + the decoder's error covariance between the observed points.

    Arguments:
        table: Columns ``frame`` (0..L−1), ``channel``, ``point`` (flat grid index), ``value`` and
            ``error`` (σ), physical units (an `ObservationTable`).
        statistics: The statistics that standardise the state; None: the table is in standardised
            units already, and ``shape`` says what the state is.
        frames: Absolute frame numbers of the analysed frames, for their phase of the year, with
            shape ``(L,)``. By default 0..L−1, with L from the table.
        decoder: Maps ``(N, *latent)`` and a context ``(N, K)`` or None to ``(N, C, *grid)``; or an
            object with such a ``decode``. If it has ``plan_points`` and ``decode_points`` (our
            `Autoencoder` has), only observed points are decoded.
        decoder_error: An object with ``covariance(points, channels) -> (d, d)``.
        context: The decoder's context, with shape ``(L, K)``, or None.
        shape: The shape ``(C, *grid)`` of the state, if there are no statistics.
        length: Number of frames L, if neither ``frames`` nor ``context`` says it.

    Raises:
        BadInput: If an observation is out of the trajectory or the grid, is not finite, has an
            error that is not positive, or lies where the state does not vary; or if the table
            sees anything but channels at grid points.
    """

    def __init__(
        self,
        table: Any,
        statistics: Any = None,
        frames: Sequence[int] | None = None,
        *,
        decoder: Callable | None = None,
        decoder_error: Any = None,
        context: Tensor | None = None,
        shape: Sequence[int] | None = None,
        length: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not getattr(table, "plain", True):
            raise BadInput(
                "observations between grid points or frames, or of derived variables",
                where="observations",
                instead="Use OperatorLikelihood, which takes any operator of one frame.",
            )
        columns = {k: np.asarray(getattr(table, k)) for k in _COLUMNS}
        frame, channel, point = (columns[k].astype(np.int64) for k in _COLUMNS[:3])
        value, error = (columns[k].astype(np.float64) for k in _COLUMNS[3:])

        if statistics is not None:
            shape = statistics.shape
        if shape is None:
            raise BadInput("neither statistics nor a shape", where="PointLikelihood")
        if frames is not None:
            length = len(frames)
        elif context is not None:
            length = len(context)
        elif length is None:
            length = int(frame.max()) + 1 if len(frame) else 0

        self.shape, self.linear = tuple(shape), decoder is None
        self._points = int(np.prod(self.shape[1:]))
        _check(frame, channel, point, value, error, length, self.shape[0], self._points)

        if statistics is not None and len(frame):
            absolute = np.arange(length) if frames is None else np.asarray(frames)
            mean, scale = statistics.at(absolute[frame], channel, point)
            _refuse(
                ~(np.isfinite(scale) & (scale > 0)),
                frame,
                "lies where the state does not vary",
                "Leave out observations of masked points.",
            )
            value = (value - mean) / scale
            error = error / scale

        order = np.argsort(frame, kind="stable")
        cuts = np.searchsorted(frame[order], np.arange(length + 1))
        self._where, self._y, self._variance = [], [], []
        self._index: list[tuple[np.ndarray, np.ndarray]] = []
        for a, b in itertools.pairwise(cuts):
            rows = order[a:b]
            flat = channel[rows] * self._points + point[rows]
            self._where.append(torch.from_numpy(flat))
            self._y.append(torch.from_numpy(value[rows]).to(dtype))
            self._variance.append(torch.from_numpy(error[rows] ** 2).to(dtype))
            self._index.append((point[rows], channel[rows]))
        self._decoder, self._error, self._context = decoder, decoder_error, context
        self._sparse = hasattr(decoder, "plan_points") and hasattr(decoder, "decode_points")
        self._blocks: dict[int, Tensor] = {}
        self._plans: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}
        self.dtype = dtype

    def sizes(self, frames: Sequence[int]) -> list[int]:
        return [len(self._y[f]) if f < len(self._y) else 0 for f in frames]

    def y(self, frames: Sequence[int]) -> Tensor:
        return torch.cat([self._y[f] for f in frames] or [torch.zeros(0, dtype=self.dtype)])

    def _block(self, f: int) -> Tensor:
        r"""R of one frame, with shape ``(d, d)``, made when it is first needed."""

        if f not in self._blocks:
            block = np.asarray(self._error.covariance(*self._index[f]), dtype=np.float64)
            block = torch.from_numpy((block + block.T) / 2)
            self._blocks[f] = (block + self._variance[f].double().diag()).to(self.dtype)
        return self._blocks[f]

    def variance(self, frames: Sequence[int]) -> Tensor:
        r"""R's diagonal, with shape ``(D,)``."""

        if self._error is None:
            parts = [self._variance[f] for f in frames]
        else:
            parts = [self._block(f).diagonal() for f in frames]
        return torch.cat(parts or [torch.zeros(0, dtype=self.dtype)])

    def covariance(self, v: Tensor, frames: Sequence[int]) -> Tensor:
        if self._error is None:
            return v * self.variance(frames).to(v)
        pieces = v.split(self.sizes(frames), dim=-1)
        return torch.cat(
            [p @ self._block(f).to(v) for p, f in zip(pieces, frames, strict=True)] or [v], dim=-1
        )

    def operator(self, x: Tensor, frames: Sequence[int]) -> Tensor:
        n, size = len(frames), self.shape[0] * self._points
        context = None
        if self._context is not None:
            rows = self._context[torch.as_tensor(list(frames))].to(x)
            context = rows.expand(len(x), -1, -1).flatten(0, 1)

        if self._sparse:
            plan, place, channel = self._plan(tuple(frames), x.device)
            return self._decoder.decode_points(x, plan, context)[:, place, channel]
        if self._decoder is None:
            if tuple(x.shape[2:]) != self.shape:
                raise BadInput(
                    f"states of shape {tuple(x.shape[2:])} for observations of {self.shape}",
                    where="likelihood.operator",
                )
            state = x
        else:
            decode = getattr(self._decoder, "decode", self._decoder)
            state = decode(x.flatten(0, 1), context)
            if tuple(state.shape[1:]) != self.shape:
                raise BadInput(
                    f"the decoder gives {tuple(state.shape[1:])}, not the observed {self.shape}",
                    where="decoder",
                )
        index = torch.cat([self._where[f] + i * size for i, f in enumerate(frames)])
        return state.reshape(len(x), n * size).index_select(1, index.to(x.device))

    def _plan(self, frames: tuple[int, ...], device) -> tuple[Any, Tensor, Tensor]:
        r"""The decoder's plan of the frames' points, and each observation's place in it."""

        if frames not in self._plans:
            if len(self._plans) > 2 * len(self._y):
                self._plans.clear()
            slot, point, place, channel, at = [], [], [], [], 0
            for i, f in enumerate(frames):
                points, inverse = np.unique(self._index[f][0], return_inverse=True)
                slot.append(np.full(len(points), i))
                point.append(points)
                place.append(inverse + at)
                channel.append(self._index[f][1])
                at += len(points)
            slot, point, place, channel = (
                torch.from_numpy(np.concatenate(v).astype(np.int64)).to(device)
                for v in (slot, point, place, channel)
            )
            self._plans[frames] = self._decoder.plan_points(slot, point), place, channel
        return self._plans[frames]


_COLUMNS = ("frame", "channel", "point", "value", "error")


def _refuse(bad: np.ndarray, frame: np.ndarray, what: str, instead: str) -> None:
    r"""Names the first bad observation."""

    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"observation {i} (frame {int(frame[i])}) {what}; {int(bad.sum())} such in all",
            where="observations",
            instead=instead,
        )


def _check(frame, channel, point, value, error, length, channels, points) -> None:
    _refuse((frame < 0) | (frame >= length), frame, "is outside the trajectory",
            f"Frames are 0 to {length - 1}.")  # fmt: skip
    _refuse((channel < 0) | (channel >= channels), frame, "is of an unknown channel",
            f"Channels are 0 to {channels - 1}.")  # fmt: skip
    _refuse((point < 0) | (point >= points), frame, "is outside the grid",
            f"Points are 0 to {points - 1}.")  # fmt: skip
    _refuse(~np.isfinite(value), frame, "has a value that is not finite",
            "Remove it in quality control.")  # fmt: skip
    _refuse(~(np.isfinite(error) & (error > 0)), frame,
            "has an error that is zero, negative or not finite",
            "Give every observation a positive error.")  # fmt: skip
