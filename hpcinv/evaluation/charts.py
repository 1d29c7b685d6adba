r"""Charts as inline SVG, styled by the page: they follow its colours in light and dark.

Series and bars carry classes (`s0`, `s1`, ...; `bar`; `flat`) that the page's style sheet
colours; text takes the colour of the text around it.
"""

from __future__ import annotations

__all__ = ["bars", "colour_bar", "coverage", "series", "spectrum"]

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    r"""Round numbers between two values."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / count))
    step = min(
        (m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= count), default=span
    )
    first = np.ceil(low / step - 1e-9)
    last = np.floor(high / step + 1e-9)
    return [float(k * step) for k in np.arange(first, last + 1)]


def label(value: float) -> str:
    text = f"{value:.10g}"
    return "0" if text in ("-0", "0") else text.replace("-", "−")


class _Plot:
    r"""A frame with axes; data coordinates in, SVG elements out."""

    def __init__(self, x, y, width=560, height=260, left=56, bottom=38, top=10, right=12):
        self.x0, self.x1, self.y0, self.y1 = *x, *y
        self.box = (left, top, width - right, height - bottom)
        self.size = (width, height)
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        a, b, c, d = self.box
        return (
            a + (x - self.x0) / (self.x1 - self.x0) * (c - a),
            d - (y - self.y0) / (self.y1 - self.y0) * (d - b),
        )

    def y_axis(self, title: str, values: Sequence[float] | None = None) -> None:
        a, _, c, _ = self.box
        for v in ticks(self.y0, self.y1) if values is None else values:
            y = self.at(self.x0, v)[1]
            self.parts.append(f'<line class="grid" x1="{a}" x2="{c}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.text(a - 7, y + 4, label(v), "end")
        self.parts.append(
            f'<text class="axis" transform="translate(12 {sum(self.box[1::2]) / 2:.0f}) '
            f'rotate(-90)" text-anchor="middle">{escape(title)}</text>'
        )

    def x_axis(self, title: str, at: Sequence[tuple[float, str]]) -> None:
        d = self.box[3]
        for v, text in at:
            self.text(self.at(v, self.y0)[0], d + 16, text, "middle")
        self.text(sum(self.box[::2]) / 2, self.size[1] - 4, title, "middle", "axis")

    def text(self, x: float, y: float, text: str, anchor: str, kind: str = "tick") -> None:
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def line(self, xs, ys, kind: str) -> None:
        path = " ".join(
            "{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in zip(xs, ys, strict=True)
        )
        self.parts.append(f'<polyline class="line {kind}" points="{path}"/>')

    def dot(self, x: float, y: float, kind: str, title: str) -> None:
        a, b = self.at(x, y)
        self.parts.append(
            f'<circle class="dot {kind}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
            f"<title>{escape(title)}</title></circle>"
        )

    def svg(self, about: str) -> str:
        w, h = self.size
        return (
            f'<svg viewBox="0 0 {w} {h}" role="img" aria-label="{escape(about)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def bars(histogram: Sequence[float], title: str) -> str:
    r"""A rank histogram, relative to the flat one (1 everywhere)."""
    n = len(histogram)
    h = np.asarray(histogram) * n
    p = _Plot((0, n), (0, max(2.0, 1.08 * h.max())))
    p.y_axis("frequency, relative to flat")
    for k, v in enumerate(h):
        x, y = p.at(k + 0.06, v)
        x1, y1 = p.at(k + 0.94, 0)
        p.parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{x1 - x:.1f}" '
            f'height="{max(y1 - y, 0):.1f}"><title>rank {k}: {v / n:.1%}</title></rect>'
        )
    p.line([0, n], [1, 1], "flat")
    step = max(1, (n - 1) // 8)
    p.x_axis("rank of the truth among the members", [(k + 0.5, str(k)) for k in range(0, n, step)])
    return p.svg(title)


def coverage(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    title: str,
    axes: tuple[str, str] = ("share that should", "share that holds the truth"),
) -> str:
    r"""How often intervals hold the truth against how often they should; the diagonal is ideal.

    With other titles of the axes, a reliability diagram.
    """
    p = _Plot((0, 1), (0, 1), 360, 290, left=60)
    p.y_axis(axes[1], [0, 0.25, 0.5, 0.75, 1])
    p.line([0, 1], [0, 1], "flat")
    for k, (name, points) in enumerate(curves.items()):
        p.line([c["nominal"] for c in points], [c["found"] for c in points], f"s{k}")
        for c in points:
            tip = f"{name}: {c['found']:.0%} of {c['nominal']:.0%}"
            p.dot(c["nominal"], c["found"], f"s{k}", tip)
    p.x_axis(axes[0], [(v, label(v)) for v in (0, 0.25, 0.5, 0.75, 1)])
    return p.svg(title)


def series(
    lines: Mapping[str, Sequence[float]],
    times: Sequence[str],
    unit: str,
    title: str,
    dashed: Mapping[str, Sequence[float]] | None = None,
) -> str:
    r"""Values of every frame, one line a method; dashed lines share the colour of their name."""
    everything = [*lines.values(), *(dashed or {}).values()]
    top = max(max(v) for v in everything) or 1.0
    n = len(times)
    p = _Plot((0, max(n - 1, 1)), (0, 1.08 * top), 860, 280)
    p.y_axis(unit)
    for k, (name, values) in enumerate(lines.items()):
        if dashed and name in dashed:
            p.line(range(n), dashed[name], f"s{k} dashed")
        p.line(range(n), values, f"s{k}")
    step = max(1, n // 6)
    p.x_axis("", [(t, times[t]) for t in range(0, n, step)])
    return p.svg(title)


def spectrum(lines: Mapping[str, Sequence[float]], waves: Sequence[int], by: str) -> str:
    r"""Power by wave, both axes logarithmic; what has no power is left out, and wave 0."""
    kept = {}
    for name, values in lines.items():
        points = [(w, v) for w, v in zip(waves, values, strict=True) if w > 0 and v > 0]
        kept[name] = np.log10(np.array(points)).reshape(-1, 2)
    every = np.concatenate(list(kept.values()))
    if not len(every):
        return ""
    (x0, y0), (x1, y1) = every.min(0), every.max(0)
    y0 = max(y0, y1 - 8)
    p = _Plot((x0, max(x1, x0 + 0.1)), (y0, y1 + 0.1), 430, 290, left=60)
    p.y_axis("power, powers of ten")
    for k, (_, points) in enumerate(kept.items()):
        points = points[points[:, 1] >= y0]
        p.line(points[:, 0], points[:, 1], f"s{k}")
    at = [w for w in (1, 2, 5, 10, 20, 50, 100, 200) if x0 <= np.log10(w) <= x1]
    p.x_axis(by, [(float(np.log10(w)), str(w)) for w in at])
    return p.svg(f"power spectrum by {by}")


def colour_bar(cmap: str, low: float, high: float, unit: str) -> str:
    r"""A horizontal scale of a matplotlib colour map."""
    import matplotlib
    from matplotlib.colors import to_hex

    n = 24
    colours = [to_hex(c) for c in matplotlib.colormaps[cmap](np.linspace(0, 1, n))]
    p = _Plot((low, high), (0, 1), 420, 44, left=14, right=70, top=2, bottom=24)
    a, b, c, d = p.box
    width = (c - a) / n
    for k, colour in enumerate(colours):
        p.parts.append(
            f'<rect x="{a + k * width:.2f}" y="{b}" width="{width + 0.5:.2f}" '
            f'height="{d - b}" fill="{colour}"/>'
        )
    for v in ticks(low, high, 6):
        p.text(p.at(v, 0)[0], d + 15, label(v), "middle")
    p.text(c + 10, d - 3, unit, "start", "axis")
    return p.svg(f"colour scale from {label(low)} to {label(high)} {unit}")
