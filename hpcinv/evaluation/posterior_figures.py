r"""Pictures of one posterior: corner plot, predictive draws, and curves that parameters make."""

from __future__ import annotations

__all__ = ["corner", "curve", "departures", "intervals", "predictive"]

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import charts

BLUE, ORANGE, INK = "#3b82c4", "#d9662b", "#22262b"  # as on maps and time series
MOST = 16  # parameters of a corner plot


def _png(fig: Any) -> bytes:
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=110, bbox_inches="tight")
    plt.close(fig)
    return out.getvalue()


def _figure(*args: Any, **fields: Any) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(*args, **fields)


def corner(
    samples: np.ndarray, prior: Any, labels: Sequence[str], truth: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> bytes:  # fmt: skip
    r"""Marginals of one and two parameters over the prior's whole range, as PNG.

    Arguments:
        samples: With shape (N, P).
        prior: Its bounds and scales are those of the axes.
        labels: Name and unit of each parameter.
        truth: What they really were, where it is known, (P).
        weights: Importance weights, (N).
    """
    P = min(samples.shape[1], MOST)
    fig, axes = _figure(P, P, figsize=(1.15 * P + 1, 1.15 * P + 1), squeeze=False)
    edges = []
    for p in prior.parameters[:P]:
        make = np.geomspace if p.scale == "log" else np.linspace
        edges.append(make(p.low, p.high, 31))
    for i in range(P):
        for j in range(P):
            ax = axes[i, j]
            if j > i:
                ax.axis("off")
                continue
            if i == j:
                ax.hist(samples[:, i], edges[i], weights=weights, color=BLUE)
                ax.set_yticks([])
            else:
                h, *_ = np.histogram2d(
                    samples[:, j], samples[:, i], [edges[j], edges[i]], weights=weights
                )
                ax.pcolormesh(edges[j], edges[i], h.T, cmap="Blues", rasterized=True)
                if prior.parameters[i].scale == "log":
                    ax.set_yscale("log")
                ax.set_ylim(edges[i][0], edges[i][-1])
            if prior.parameters[j].scale == "log":
                ax.set_xscale("log")
            ax.set_xlim(edges[j][0], edges[j][-1])
            if truth is not None:
                ax.axvline(truth[j], color=ORANGE, lw=1)
                if i != j:
                    ax.axhline(truth[i], color=ORANGE, lw=1)
            ax.tick_params(labelsize=6)
            ax.minorticks_off()
            if i < P - 1:
                ax.set_xticklabels([])
            else:
                ax.set_xlabel(labels[j], fontsize=8)
            if j or i == j:
                ax.set_yticklabels([])
            else:
                ax.set_ylabel(labels[i], fontsize=8)
    fig.subplots_adjust(hspace=0.06, wspace=0.06)
    return _png(fig)


def _bands(ax: Any, at: np.ndarray, draws: np.ndarray, along: str) -> None:
    r"""Bands of 68% and 95% of draws (N, M), and their median."""
    fill = ax.fill_between if along == "x" else ax.fill_betweenx
    low, a, mid, b, high = np.nanquantile(draws, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
    fill(at, low, high, color=BLUE, alpha=0.22, lw=0)
    fill(at, a, b, color=BLUE, alpha=0.35, lw=0)
    line = (at, mid) if along == "x" else (mid, at)
    ax.plot(*line, color=BLUE, lw=1.2)


def predictive(
    at: np.ndarray, draws: np.ndarray, seen: np.ndarray, axis: str, value: str
) -> bytes:
    r"""What the posterior foretells of the observation, with what was observed, as PNG.

    Arguments:
        at: Coordinates, (M).
        draws: Simulated from samples, noise included, (N, M).
        seen: The observation, (M).
        axis, value: Labels.
    """
    fig, (top, low) = _figure(
        2, 1, figsize=(7, 4.6), sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    _bands(top, at, draws, "x")
    top.plot(at, seen, "o", color=ORANGE, ms=4)
    top.set_ylabel(value)
    if (seen[np.isfinite(seen)] > 0).all() and np.nanmin(draws) > 0:
        top.set_yscale("log")
    spread = np.nanstd(draws, axis=0)
    low.axhspan(-2, 2, color=BLUE, alpha=0.15, lw=0)
    low.plot(at, (seen - np.nanmean(draws, axis=0)) / np.where(spread > 0, spread, 1), "o",
             color=ORANGE, ms=4)  # fmt: skip
    low.set_ylabel("departure / σ")
    low.set_xlabel(axis)
    return _png(fig)


def curve(drawn: Any, truth: np.ndarray | None) -> bytes:
    r"""A curve that parameters make, with bands, as PNG.

    Arguments:
        drawn: A :class:`hpcinv.simulators.base.Curve` of samples.
        truth: The true curve (M), where it is known.
    """
    fig, ax = _figure(figsize=(4.6, 4.6))
    at = np.asarray(drawn.axis.values)
    across = "y" if drawn.upright else "x"
    _bands(ax, at, drawn.values, across)
    if truth is not None:
        ax.plot(*((truth, at) if drawn.upright else (at, truth)), color=ORANGE, lw=1.4)
    names = f"{drawn.name} ({drawn.unit})", f"{drawn.axis.name} ({drawn.axis.unit})"
    ax.set_xlabel(names[0] if drawn.upright else names[1])
    ax.set_ylabel(names[1] if drawn.upright else names[0])
    if drawn.log:
        (ax.set_yscale if drawn.upright else ax.set_xscale)("log")
    if drawn.upright:
        ax.invert_yaxis()
    return _png(fig)


def departures(checks: dict[str, Any], title: str) -> str:
    r"""Each check's distribution function less the uniform one, with the 95% band, as SVG."""
    band = next(iter(checks.values()))["band"]
    far = max(abs(c["found"] - c["nominal"]) for v in checks.values() for c in v["curve"])
    top = 1.15 * max(band, far)
    p = charts._Plot((0, 1), (-top, top), 560, 280)
    p.y_axis("found less nominal")
    for end in (-band, band):
        p.line([0, 1], [end, end], "flat")
    for k, c in enumerate(checks.values()):
        xs = [0.0, *(v["nominal"] for v in c["curve"]), 1.0]
        ys = [0.0, *(v["found"] - v["nominal"] for v in c["curve"]), 0.0]
        p.line(xs, ys, f"s{k % 4}")
    p.x_axis("level", [(v, charts.label(v)) for v in (0, 0.25, 0.5, 0.75, 1)])
    return p.svg(title)


def intervals(
    rows: Mapping[str, Mapping[str, float]], title: str, ideal: float, ends: tuple[float, float]
) -> str:
    r"""A dot with its interval for each row, and a line at what would be ideal, as SVG.

    Arguments:
        rows: `value`, `low` and `high` by name.
        title: Of the axis.
        ideal: Where the line stands.
        ends: Of the axis, at least; it grows to what there is.
    """
    low = min(ends[0], *(v["low"] for v in rows.values()))
    high = max(ends[1], *(v["high"] for v in rows.values()))
    n = len(rows)
    p = charts._Plot((low, high), (0, n), 560, 60 + 20 * n, left=130)
    p.line([ideal, ideal], [0, n], "flat")
    for k, (name, v) in enumerate(rows.items()):
        y = n - k - 0.5
        p.text(p.box[0] - 8, p.at(low, y)[1] + 4, name, "end")
        p.line([v["low"], v["high"]], [y, y], "s0")
        said = f"{name}: {v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})"
        p.dot(v["value"], y, "s0", said)
    p.x_axis(title, [(v, charts.label(v)) for v in charts.ticks(low, high)])
    return p.svg(title)
