r"""A denoiser conditioned on :math:`y` by training: observations go in as fields, no guidance.

The amortised counterpart of zero-shot sampling: one network call a step, for the kinds of
observation sets that it was trained on and no others.
"""

from __future__ import annotations

__all__ = ["Conditioned"]

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from azula.denoise import Denoiser, DiracPosterior
from torch import Tensor

from ..errors import BadInput
from ..models.observed_fields import encode

KEPT = 128  # frames whose fields are kept: more than the windows under way


class Conditioned(Denoiser):
    r"""Shows a denoiser the observations of the frames that it is asked for.

    The fields of a frame are made from the table when a window needs them, so a rank holds those
    of its windows, whatever the length of the trajectory. Several observations of one point and
    channel are merged by their precisions.

    Arguments:
        denoiser: A denoiser trained with `conditioning`; it takes the keyword `y`.
        table: The observations, in physical units (:class:`ObservationTable`).
        statistics: Those of the store, which standardise them.
        frames: The analysed frames' numbers in the store, with length L.
        channels: The channels that the denoiser was trained to be shown.

    Raises:
        BadInput: If the table observes anything else: another channel, or between grid points.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        table: Any,
        statistics: Any,
        frames: Sequence[int],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.timed = getattr(denoiser, "timed", False)
        shape = statistics.shape
        self.grid, points = shape[1:], int(np.prod(shape[1:]))
        frame, channel, point = (np.asarray(getattr(table, k)) for k in _PLACE)
        strange = sorted({int(c) for c in np.unique(channel)} - set(channels))
        names = getattr(table, "variables", None)
        if strange:
            raise BadInput(
                f"the prior was not trained on observations of "
                f"{', '.join(names[c] if names else str(c) for c in strange)}",
                where="prior",
                instead="Use method: diffusion, which takes any, or leave them out.",
            )
        if not getattr(table, "plain", True):
            raise BadInput(
                "a conditioned prior sees observations at grid points only",
                where="observations",
                instead="Observe at the nearest points, or use method: diffusion.",
            )
        mean, std = statistics.at(np.asarray(frames)[frame], channel, point)
        shown = np.zeros(shape[0], np.int64)
        shown[list(channels)] = np.arange(len(channels))
        order = np.argsort(frame, kind="stable")
        self._cuts = np.searchsorted(frame[order], np.arange(len(frames) + 1))
        # Where each observation is in its frame's fields, its value, and its precision.
        self._place = (shown[channel] * points + point)[order]
        self._value = ((table.value - mean) / std)[order]
        self._precision = np.square(std / table.error)[order]
        self._shape = (len(channels), points)
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def fields(self, frame: int) -> Tensor:
        r"""The fields of one frame, with shape :math:`(2 c, *grid)`."""
        if frame not in self._kept:
            rows = slice(self._cuts[frame], self._cuts[frame + 1])
            size = int(np.prod(self._shape))
            precision = np.bincount(self._place[rows], self._precision[rows], size)
            total = np.bincount(self._place[rows], self._precision[rows] * self._value[rows], size)
            seen = precision > 0
            value = np.divide(total, precision, out=np.zeros(size), where=seen)
            error = np.sqrt(np.divide(1.0, precision, out=np.ones(size), where=seen))
            made = encode(*(v.reshape(1, *self._shape) for v in (value, error, seen)))
            self._kept[frame] = torch.from_numpy(made[0].reshape(-1, *self.grid))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(frame)
        return self._kept[frame]

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor, **kwargs: Any) -> DiracPosterior:
        r"""
        Arguments:
            x_t: Noisy windows, with shape :math:`(B, W, C, *grid)`.
            t: The time, with shape :math:`()` or :math:`(B)`.
            context: Of each frame its number in the trajectory, then the denoiser's own context,
                with shape :math:`(B, W, 1 + K)`: see :meth:`context`.
        """
        numbers = context[..., 0].round().long()
        shown: dict[tuple[int, ...], Tensor] = {}
        for row in map(tuple, numbers.tolist()):
            if row not in shown:
                shown[row] = torch.stack([self.fields(f) for f in row]).to(x_t)
        y = torch.stack([shown[row] for row in map(tuple, numbers.tolist())])
        own = context[..., 1:] if context.shape[-1] > 1 else None
        return self.denoiser(x_t, t, context=own, y=y, **kwargs)

    @staticmethod
    def context(length: int, own: Tensor | None) -> Tensor:
        r"""The context to sample with: frame numbers beside the denoiser's own, (L, 1 + K).

        Float32 holds each number up to 16,777,216 exactly.
        """
        number = torch.arange(length, dtype=torch.float32)[:, None]
        return number if own is None else torch.cat([number, own.float()], dim=1)


_PLACE = ("frame", "channel", "point")
