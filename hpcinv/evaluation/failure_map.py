r"""When and why an analysis fails: a verdict for each of many analyses, and a picture of them.

The verdict follows from pooled scores (`hpcinv.evaluation.scores`), the first that holds:

* *diverged*: not finite, or the RMSE is not below that of an analysis that was given no
  observations, or spread/skill is below `LOST`: the truth is lost and the members do not say so;
* *biased*: in some channel the mean error has one sign (its interval excludes zero) and is at
  least `BIAS` of the RMSE;
* *over-confident*, *under-confident*: spread/skill is below or above `SPREAD`;
* *calibrated*: none of these.
"""

from __future__ import annotations

__all__ = ["VERDICTS", "Cell", "judge", "picture", "table"]

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .words import SPREAD

LOST = 0.5  # spread/skill: errors are twice what the members say
BIAS = 0.5  # share of the RMSE; a quarter of the mean square
VERDICTS = {
    "calibrated": "#8cc5a2",
    "under-confident": "#a9c9e8",
    "over-confident": "#f3d08a",
    "biased": "#d9b3dc",
    "diverged": "#e39a90",
}


@dataclass(frozen=True)
class Cell:
    r"""One analysis of the map.

    Attributes:
        name: Of the analysis.
        at: Its place, a value on each axis.
        verdict: One of `VERDICTS`.
        rmse, spread_skill, crps: Its scores, pooled.
        low, high: Interval of its spread/skill.
    """

    name: str
    at: tuple[Any, ...]
    verdict: str
    rmse: float
    spread_skill: float
    crps: float
    low: float
    high: float


def judge(entry: Mapping[str, Any], against: Mapping[str, Any]) -> str:
    r"""The verdict on a method.

    Arguments:
        entry: Its part of a scorecard, of two members or more.
        against: That of an analysis of the same frames that was given no observations.
    """
    p = entry["pooled"]
    rmse, ratio = p["rmse"]["value"], p["spread_skill"]["value"]
    if not math.isfinite(rmse) or not rmse < against["pooled"]["rmse"]["value"] or ratio < LOST:
        return "diverged"
    for of in entry["channels"].values():
        b = of["bias"]
        if b["low"] * b["high"] > 0 and abs(b["value"]) >= BIAS * of["rmse"]["value"]:
            return "biased"
    if ratio < SPREAD[0]:
        return "over-confident"
    return "under-confident" if ratio > SPREAD[1] else "calibrated"


def cells(card: Mapping[str, Any], places: Mapping[str, tuple], against: str) -> list[Cell]:
    r"""A cell of each analysis that has a place.

    Arguments:
        card: The scorecard.
        places: Values on the axes by name of the analysis.
        against: The method that was given no observations.

    Raises:
        BadInput: If an analysis cannot be judged, or two have one place.
    """
    out: dict[tuple, Cell] = {}
    for name, at in places.items():
        entry = card["methods"][name]
        if "pooled" not in entry or "spread_skill" not in entry["pooled"]:
            raise BadInput("one member has no spread", f"analysis '{name}'", "Draw two or more.")
        if at in out:
            raise BadInput(
                f"'{out[at].name}' and '{name}' have one place, {list(at)}", "by",
                "Name the field in which they differ.",
            )  # fmt: skip
        p = entry["pooled"]
        s = p["spread_skill"]
        out[at] = Cell(
            name, at, judge(entry, card["methods"][against]), p["rmse"]["value"], s["value"],
            p["crps"]["value"], s["low"], s["high"],
        )  # fmt: skip
    return list(out.values())


def table(found: Sequence[Cell], axes: Sequence[str], unit: str = "") -> str:
    r"""The map as a table in Markdown, a row for each cell."""
    rmse, crps = (f"{n}, {unit}" if unit else n for n in ("RMSE", "fair CRPS"))
    head = [*axes, "verdict", rmse, crps, "spread/skill"]
    lines = [head, ["---"] * len(head)]
    for c in found:
        ratio = f"{c.spread_skill:.2f} ({c.low:.2f} to {c.high:.2f})"
        lines.append([*map(str, c.at), c.verdict, f"{c.rmse:.3g}", f"{c.crps:.3g}", ratio])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture(path: Path, found: Sequence[Cell], axes: Sequence[str], title: str) -> None:
    r"""Draws the map: the first axis along x, the second along y, a panel for each of the third.

    Arguments:
        path: The PNG.
        found: The cells; places without one stay white.
        axes: One to three labels.
        title: Above all panels.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    values = [list(dict.fromkeys(c.at[k] for c in found)) for k in range(len(axes))]
    values += [[""]] * (3 - len(axes))
    for v in values:
        if all(isinstance(x, (int, float)) for x in v):
            v.sort()
    at = {c.at + ("",) * (3 - len(axes)): c for c in found}
    nx, ny, panels = map(len, values)
    size = (max(1.15 * nx * panels + 1.2, 5), 0.85 * ny + 1.6)
    fig = Figure(figsize=size, dpi=130, layout="constrained")
    for k, z in enumerate(values[2]):
        ax = fig.add_subplot(1, panels, k + 1)
        for (i, x), (j, y) in itertools.product(enumerate(values[0]), enumerate(values[1])):
            c = at.get((x, y, z))
            if c is not None:
                ax.add_patch(Rectangle((i, j), 1, 1, fc=VERDICTS[c.verdict], ec="white", lw=2))
                told = f"{c.rmse:.3g}\n{c.spread_skill:.2f}"
                ax.text(i + 0.5, j + 0.5, told, ha="center", va="center", fontsize=8)
        ax.set(xlim=(0, nx), ylim=(0, ny), aspect="equal", xlabel=axes[0])
        ax.set_xticks([i + 0.5 for i in range(nx)], [str(x) for x in values[0]])
        ax.set_yticks([j + 0.5 for j in range(ny)], [str(y) for y in values[1]])
        ax.tick_params(length=0)
        for side in ax.spines.values():
            side.set_visible(False)
        if len(axes) > 1 and k == 0:
            ax.set_ylabel(axes[1])
        if len(axes) > 2:
            ax.set_title(f"{axes[2]}: {z}", fontsize=10)
    seen = [v for v in VERDICTS if any(c.verdict == v for c in found)]
    fig.legend(
        handles=[Patch(fc=VERDICTS[v], label=v) for v in seen], loc="outside lower center",
        ncols=len(seen), fontsize=8, frameon=False, title="RMSE above, spread/skill below",
        title_fontsize=8,
    )  # fmt: skip
    fig.suptitle(title, fontsize=10)
    fig.savefig(path, metadata={"Software": None})
