r"""The panels of a report: which fields to show, of which frames, on which scales."""

from __future__ import annotations

__all__ = ["Panel", "Sheet", "View", "frame_names", "sheet", "telling_frames", "views"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from .charts import colour_bar
from .maps import Canvas
from .words import unit_text

VALUE, SIGNED, SIZE = "YlGnBu", "RdBu_r", "YlOrBr"  # colour-blind safe, light where low
PAIRS = (("eastward_", "northward_"), ("x_", "y_"), ("u", "v"), ("uwnd", "vwnd"))
MONTHS = "January February March April May June July August September October November December"


@dataclass(frozen=True)
class View:
    r"""A quantity to look at: one channel, or two that are the components of a vector."""

    name: str
    channels: tuple[int, ...]
    unit: str

    @property
    def vector(self) -> bool:
        return len(self.channels) == 2

    def of(self, x: np.ndarray) -> np.ndarray:
        r"""The quantity of states (..., C, *grid): the channel, or the vector's length."""
        c = [np.take(x, k, axis=x.ndim - self.rank - 1) for k in self.channels]
        return c[0] if len(c) == 1 else np.hypot(*c)

    rank: int = 2


@dataclass
class Panel:
    title: str
    caption: str
    png: bytes


@dataclass
class Sheet:
    r"""Panels of one quantity at one frame, with the scales of values and of uncertainties."""

    view: View
    frame: int
    when: str
    panels: list[Panel] = field(default_factory=list)
    scales: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[tuple[str, float, float]] = field(default_factory=list)


MOST = 6


def views(store: Any, channels: Sequence[str] | None = None) -> list[View]:
    r"""Vectors first, then channels alone.

    Arguments:
        store: Names, standard names, units and grid.
        channels: Those to look at; by default the first ones, and at most six views.

    Raises:
        BadInput: If the store has no such channel.
    """
    for c in channels or ():
        if c not in store.channels:
            raise BadInput(f"no channel '{c}' to show", "report", nearest(c, store.channels))
    chosen = list(channels or store.channels[:MOST])
    names = getattr(store, "standard_names", None) or [None] * len(store.channels)
    long = getattr(store, "long_names", None) or [None] * len(store.channels)
    units = [unit_text(u) for u in store.units]
    rank = len(store.grid)
    found = []
    if rank == 2:
        for i, j in _vectors(store.channels, names):
            if units[i] == units[j] and {store.channels[i], store.channels[j]} <= set(chosen):
                what = names[i].split("_", 1)[1] if names[i] and "_" in names[i] else None
                title = f"{(what or f'{store.channels[i]} and {store.channels[j]}').capitalize()}"
                found.append(View(f"{title}: speed and direction", (i, j), units[i], rank))
    for channel in chosen:
        c = list(store.channels).index(channel)
        known = names[c] or long[c]
        title = f"{channel} ({known.replace('_', ' ').lower()})" if known else channel
        found.append(View(title, (c,), units[c], rank))
    return found if channels else found[:MOST]


def _vectors(channels: Sequence[str], standard: Sequence[str | None]) -> list[tuple[int, int]]:
    pairs = []
    for i, a in enumerate(channels):
        for j, b in enumerate(channels):
            for first, second in PAIRS:
                names = (standard[i] or "", standard[j] or ""), (a.lower(), b.lower())
                for x, y in names:
                    if i != j and x.startswith(first) and y == second + x[len(first) :]:
                        pairs.append((i, j))
    # On many levels a standard name has many partners: the one whose name differs in one letter.
    beside = [(i, j) for i, j in pairs if _letters(channels[i], channels[j]) == 1]
    alone = [(i, j) for i, j in pairs if sum(i == k for k, _ in pairs) == 1]
    return list(dict.fromkeys(sorted(beside + alone)))


def _letters(a: str, b: str) -> int | None:
    r"""In how many letters two names of one length differ."""
    if len(a) != len(b):
        return None
    return sum(x != y for x, y in zip(a, b, strict=True))


def telling_frames(rmse: Sequence[float]) -> tuple[int, int]:
    r"""The frame of median error and the frame of the largest: neither chosen by eye."""
    order = np.argsort(rmse, kind="stable")
    return int(order[(len(order) - 1) // 2]), int(order[-1])


def frame_names(store: Any, start: int, stop: int) -> list[str]:
    r"""Names of frames for people: months of a monthly store, dates, or numbers."""
    if " since " not in store.time_units:
        return [f"frame {k}" for k in range(stop - start)]
    dates = store.dates()[start:stop]
    day = {"d": 1, "h": 24, "m": 1440, "s": 86400}[store.time_units.strip().lower()[0]]
    step = np.median(np.diff(store.time)) / day if store.length > 1 else 1
    if step > 27:
        return [f"{MONTHS.split()[d.month - 1]} {d.year}" for d in dates]
    form = "%Y-%m-%d" if step >= 1 else "%Y-%m-%d %H:%M"
    return [d.strftime(form) for d in dates]


def sheet(
    canvas: Canvas,
    view: View,
    *,
    frame: int,
    when: str,
    truth: np.ndarray,
    members: np.ndarray,
    ids: Sequence[int],
    points: np.ndarray | None = None,
    method: str = "ensemble",
) -> Sheet:
    r"""Truth, mean, two members, spread with the observed points, and error.

    Arguments:
        canvas: Draws the fields.
        view: The quantity.
        frame, when: The frame's number and name.
        truth: State with shape :math:`(C, *grid)`.
        members: Ensemble with shape :math:`(M, C, *grid)`.
        ids: The members' ids.
        points: Flat indices of the points observed in this frame.
        method: The method's name.
    """
    out = Sheet(view, frame, when)
    mean = members.mean(0)
    pick = list(view.channels)
    var = members.var(0, ddof=1) if len(members) > 1 else np.zeros_like(mean)
    spread = np.sqrt(var[pick].sum(0))
    error = np.sqrt(((mean - truth)[pick] ** 2).sum(0))
    values = view.of(truth)
    low, high, cmap = _scale(values, view.vector)
    wide = float(np.nanpercentile(np.concatenate([error.ravel(), spread.ravel()]), 98)) or 1.0

    def show(title, caption, x, **more):
        arrows = (x[pick[0]], x[pick[1]]) if view.vector else None
        png = canvas.field(view.of(x), cmap=cmap, low=low, high=high, arrows=arrows, **more)
        out.panels.append(Panel(title, caption, png))

    show("Truth", "withheld from the method", truth)
    show("Ensemble mean", f"{method}, {len(members)} members", mean)
    for k in range(min(2, len(members))):
        show(f"Member {ids[k]}", "one plausible state", members[k])
    look = {"cmap": SIZE, "low": 0.0, "high": wide}
    seen = "" if points is None or not len(points) else f"; dots: {len(points)} observed points"
    png = canvas.field(spread, points=points, **look)
    out.panels.append(Panel("Spread", f"the error to expect{seen}", png))
    png = canvas.field(error, **look)
    out.panels.append(Panel("Error", "of the mean, same scale as the spread", png))
    out.ranges = [(cmap, low, high), (SIZE, 0.0, wide)]
    if len(truth.shape) == 2:  # lines on a common axis need no colour scale
        return out
    out.scales = [
        (name, colour_bar(*scale, view.unit))
        for name, scale in zip(("values", "spread and error"), out.ranges, strict=True)
    ]
    return out


def _scale(values: np.ndarray, vector: bool) -> tuple[float, float, str]:
    low, high = (float(v) for v in np.nanpercentile(values, [1, 99]))
    if vector:
        return 0.0, high or 1.0, VALUE
    if low < -0.2 * high < 0:
        top = max(-low, high)
        return -top, top, SIGNED
    return low, high if high > low else low + 1.0, VALUE
