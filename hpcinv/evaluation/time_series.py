r"""States without a grid: a channel is a curve in time, and its members are curves around it."""

from __future__ import annotations

__all__ = ["curves", "sheets"]

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .figures import Panel, Sheet, View

SHOWN = 200  # frames


def curves(
    ax: Any, frames: range, truth: np.ndarray, members: np.ndarray, seen: Any = None
) -> None:
    r"""Draws one channel on matplotlib axes.

    Arguments:
        frames: The frames shown, with length n.
        truth: With shape :math:`(n)`.
        members: With shape :math:`(M, n)`.
        seen: Frames and values observed, each with shape :math:`(D)`, or None.
    """
    for m in members[:32]:
        ax.plot(frames, m, color="#3b82c4", lw=0.6, alpha=0.45)
    ax.plot(frames, truth, color="#8a9099", lw=1.6)  # reads on light and on dark paper
    if seen is not None and len(seen[0]):
        ax.plot(*seen, "o", color="#d9662b", ms=4)
    ax.set_xlim(frames.start, frames.stop - 1)


def around(frame: int, length: int) -> range:
    r"""At most `SHOWN` frames around one."""
    start = max(0, min(frame - SHOWN // 2, length - SHOWN))
    return range(start, min(start + SHOWN, length))


def observed(table: Any, channel: int, frames: range) -> tuple[np.ndarray, np.ndarray] | None:
    r"""What was seen of a channel itself, in some frames."""
    if table is None:
        return None
    at = (table.channel == channel) & (table.frame >= frames.start) & (table.frame < frames.stop)
    return table.frame[at], table.value[at]


def read(truth: Any, first: int, ensemble: Any, members: Sequence[int], frames: range):
    r"""Truth (n, C) and members (M, n, C) of some frames."""
    y = truth.read(first + frames.start, first + frames.stop)
    return y, np.stack([np.asarray(ensemble.read(m, frames.start, frames.stop)) for m in members])


def sheets(
    looks: Sequence[View],
    *,
    frame: int,
    length: int,
    truth: Any,
    truth_start: int,
    ensemble: Any,
    members: Sequence[int],
    table: Any = None,
    width: int = 1000,
) -> list[Sheet]:
    r"""A panel of each quantity, around a frame.

    Arguments:
        looks: The quantities.
        frame: The frame in the middle.
        length: Frames of the analysis.
        truth, truth_start: A store, and its frame beside frame 0.
        ensemble: Reader (`.read(member, start, stop)`) of the `members`.
        table: The observations, None for none.
        width: Pixels.
    """
    from matplotlib.figure import Figure

    frames = around(frame, length)
    y, x = read(truth, truth_start, ensemble, members, frames)
    out = []
    for view in looks:
        (c,) = view.channels
        fig = Figure(figsize=(10, 3), dpi=width / 10)
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        curves(ax, frames, y[:, c], x[:, :, c], observed(table, c, frames))
        raw = io.BytesIO()
        fig.savefig(raw, format="png", transparent=True)
        caption = f"grey: truth; blue: {min(len(members), 32)} members; dots: observations"
        sheet = Sheet(view, frame, f"frames {frames.start} to {frames.stop - 1}")
        sheet.panels.append(Panel("Members and truth", caption, raw.getvalue()))
        out.append(sheet)
    return out


def picture(
    looks: Sequence[View], frame: int, length: int, truth: Any, truth_start: int,
    ensemble: Any, members: Sequence[int], table: Any, width: float,
) -> Any:  # fmt: skip
    r"""A matplotlib figure of all quantities, with titles and axes."""
    from matplotlib.figure import Figure

    frames = around(frame, length)
    y, x = read(truth, truth_start, ensemble, members, frames)
    fig = Figure(figsize=(width, 1.9 * len(looks) + 0.5), facecolor="white", layout="constrained")
    for k, view in enumerate(looks):
        (c,) = view.channels
        ax = fig.add_subplot(len(looks), 1, k + 1)
        curves(ax, frames, y[:, c], x[:, :, c], observed(table, c, frames))
        ax.set_ylabel(f"{view.name} ({view.unit})" if view.unit else view.name)
    ax.set_xlabel("frame (grey: truth; blue: members; dots: observations)")
    return fig
