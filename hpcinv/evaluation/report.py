r"""The report: one self-contained page that answers *can I trust this?* and then shows it.

The page holds its style, its images (PNG in base64) and its charts (inline SVG); it asks
nothing of the network and runs no script.
"""

from __future__ import annotations

__all__ = ["environment", "picture", "report", "tree"]

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..io.atomic import write_bytes
from . import charts, report_fields, report_tables, time_series
from .figures import frame_names, sheet, telling_frames, views
from .maps import INK, Canvas
from .report_tables import main_scores
from .words import unit_text, verdict


def report(
    path: Path | str,
    *,
    title: str,
    results: Mapping[str, Any],
    members: Sequence[int],
    truth: Any,
    truth_start: int,
    length: int,
    card: Mapping[str, Any],
    table: Any = None,
    provenance: Mapping[str, Any] | None = None,
    about: str = "",
    channels: Sequence[str] | None = None,
    width: int = 1000,
) -> Path:
    r"""Writes the page, atomically.

    Arguments:
        path: The file, usually `report.html`.
        title: The study's title.
        results: Readers (`.read(member, start, stop)`) by method; the first is the one judged, and
            the only one whose fields are shown.
        members: Its members' ids.
        truth: Store with the truth; `truth_start` is its frame beside frame 0.
        length: Frames of the analysis.
        card: What `scorecard` returned, its first method the first of `results`.
        table: The observations, for the points on the maps and their count.
        provenance: How it was made: nested mappings of JSON-like values, shown as they are.
        about: A sentence or two on what was done, in words.
        channels: Channels on the maps; by default the first few.
        width: Width of the images, pixels.

    Raises:
        BadInput: If the scores are not of these results.
    """
    main = next(iter(results))
    if next(iter(card["methods"])) != main:
        raise BadInput(
            f"scores of '{next(iter(card['methods']))}' in a report on '{main}'", "report"
        )
    when = frame_names(truth, truth_start, truth_start + length)
    typical, worst = telling_frames(card["methods"][main]["frames"]["rmse"])
    looks = views(truth, channels)
    if truth.grid:
        sheets = _fields(looks, typical, worst, when, main, results[main], members, truth,
                         truth_start, table, width)  # fmt: skip
    else:
        sheets = time_series.sheets(
            looks, frame=typical, length=length, truth=truth, truth_start=truth_start,
            ensemble=results[main], members=members, table=table, width=width,
        )  # fmt: skip
    judged = verdict(card)
    page = environment().get_template("report.html.jinja").render(
        title=title,
        about=about,
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        main=main,
        facts=_facts(truth, when, members, table),
        verdict=judged,
        sheets=[_page_sheet(s, typical) for s in sheets],
        table=report_tables.score_table(card, main),
        by_channel=report_tables.channel_tables(card, main),
        ranks=charts.bars(main_scores(card, main)["rank_histogram"], "Rank histogram")
        if len(members) > 1
        else "",
        coverage=_coverage(card, main),
        reliability=report_fields.reliability(card, main),
        spectra=report_fields.spectra(card, main),
        balance=report_fields.balance(card, main),
        series=_series(card, main, when),
        leads=report_fields.lead_times(card),
        departures=report_tables.departures(card.get("innovations")),
        withheld=report_tables.withheld(card),
        consistency=report_fields.departures(card.get("innovations"), when),
        interval=card["interval"],
        differences=report_tables.differences(card, main),
        provenance=tree(provenance or {}),
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode())
    return path


def _fields(
    looks, typical, worst, when, main, ensemble, members, truth, truth_start, table, width
) -> list[Any]:
    r"""Maps of the frame of median error, and of the worst frame."""
    canvas = Canvas(truth, width)
    wanted = [(v, typical) for v in looks] + ([(looks[0], worst)] if worst != typical else [])
    sheets = []
    for k in dict.fromkeys(f for _, f in wanted):
        y = truth.read(truth_start + k, truth_start + k + 1)[0]
        x = np.stack([np.asarray(ensemble.read(m, k, k + 1))[0] for m in members])
        for view in (v for v, f in wanted if f == k):
            points = _points(table, k, view.channels)
            sheets.append(
                sheet(
                    canvas, view, frame=k, when=when[k], truth=y, members=x, ids=list(members),
                    points=points, method=main,
                )
            )  # fmt: skip
    return sheets


def picture(
    path: Path | str,
    *,
    results: Mapping[str, Any],
    members: Sequence[int],
    truth: Any,
    truth_start: int,
    frame: int,
    table: Any = None,
    channels: Sequence[str] | None = None,
    width: float = 10.0,
    dpi: int = 110,
) -> Path:
    r"""A picture for a README: truth, mean, one member and spread of one frame, with titles.

    Arguments:
        frame: The frame shown; others as in `report`.
        width, dpi: Inches and dots per inch.
    """
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from PIL import Image

    main = next(iter(results))
    if not truth.grid:
        fig = time_series.picture(views(truth, channels), frame, results[main].length, truth,
                                  truth_start, results[main], members, table, width)  # fmt: skip
        out = io.BytesIO()
        fig.savefig(out, format="png", dpi=dpi)
        write_bytes(Path(path), out.getvalue())
        return Path(path)
    canvas, view = Canvas(truth, 900), views(truth, channels)[0]
    y = truth.read(truth_start + frame, truth_start + frame + 1)[0]
    x = np.stack([np.asarray(results[main].read(m, frame, frame + 1))[0] for m in members])
    when = frame_names(truth, truth_start, truth_start + frame + 1)[-1]
    points = _points(table, frame, view.channels)
    n = 0 if points is None else len(points)
    s = sheet(
        canvas, view, frame=frame, when=when, truth=y, members=x, ids=list(members), points=points
    )
    shown = [s.panels[0], s.panels[1], s.panels[2], s.panels[-2]]
    titles = [
        f"Truth, {when}",
        f"Mean of {len(members)} members",
        "One member",
        f"Spread, and the {n} points observed" if n else "Spread; it is not observed here",
    ]
    images = [np.asarray(Image.open(io.BytesIO(p.png)).convert("RGBA")) for p in shown]
    ratio = images[0].shape[0] / images[0].shape[1]
    fig = Figure(figsize=(width, width * ratio + 1.2), dpi=dpi, facecolor="white")
    grid = fig.add_gridspec(
        3, 2, height_ratios=[1, 1, 0.04], left=0.01, right=0.99, top=0.95, bottom=0.065,
        wspace=0.03, hspace=0.14,
    )  # fmt: skip
    for k, (image, name) in enumerate(zip(images, titles, strict=True)):
        ax = fig.add_subplot(grid[divmod(k, 2)])
        ax.imshow(image, interpolation="antialiased")
        ax.set_axis_off()
        ax.set_title(name, fontsize=11, color=INK, pad=4)
    unit = f" ({view.unit})" if view.unit else ""
    for k, (cmap, low, high) in enumerate(s.ranges):
        ax = fig.add_axes((0.08 + 0.5 * k, 0.05, 0.34, 0.014))
        ax.imshow(np.linspace(0, 1, 256)[None], cmap=cmap, aspect="auto", extent=(low, high, 0, 1))
        ax.set_yticks([])
        ax.tick_params(labelsize=8, length=2, colors=INK)
        name = ("Speed" if view.vector else view.name) if k == 0 else "Spread"
        ax.set_title(name + unit, fontsize=8, color=INK, pad=3)
    raw = io.BytesIO()
    fig.savefig(raw, format="png")
    palette = _palette([cmap for cmap, *_ in s.ranges])
    image = Image.open(raw).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, format="png", optimize=True)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, out.getvalue())
    return path


def _palette(maps: Sequence[str]):
    r"""A palette image: the colour maps, greys, and greys over the maps' colours.

    Colours chosen by frequency would leave out the rare ends of a scale, which matter most.
    """
    import matplotlib
    from PIL import Image

    def of(name: str, n: int) -> np.ndarray:
        return matplotlib.colormaps[name](np.linspace(0, 1, n))[:, :3] * 255

    shades = [0.6 * of(m, 20) for m in maps]  # antialiased lines over the fields
    colours = np.concatenate([*(of(m, 90) for m in maps), *shades, of("gray", 36)])
    out = Image.new("P", (1, 1))
    out.putpalette(np.rint(colours).astype(np.uint8).ravel().tolist())
    return out


def environment() -> Any:
    r"""The page templates of this room."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _points(table: Any, frame: int, channels: Sequence[int]) -> np.ndarray | None:
    if table is None:
        return None
    at = (table.frame == frame) & np.isin(table.channel, list(channels))
    return np.unique(table.point[at])


def _facts(truth, when, members, table) -> list[tuple[str, str]]:
    grid = " × ".join(str(n) for n in truth.grid)
    C = len(truth.channels)
    named = ", ".join(truth.channels[:4]) + (f" and {C - 4} more" if C > 4 else "")
    facts = [
        ("Analysed", f"{when[0]} to {when[-1]}" if len(when) > 1 else when[0]),
        ("States", f"{len(when)} of {named} on {grid} points"),
        ("Members", str(len(members))),
    ]
    if table is not None:
        sigma = np.unique(table.error)
        noise = f"{sigma[0]:g}" if len(sigma) == 1 else f"{sigma[0]:g} to {sigma[-1]:g}"
        unit = unit_text(truth.units[0]) if len(set(truth.units)) == 1 else ""
        facts.append(("Observations", f"{len(table):,}, error σ {noise} {unit}".strip()))
    return facts


def _page_sheet(s, typical: int) -> dict[str, Any]:
    kind = "the month" if " " in s.when and not s.when.startswith("frame") else "the frame"
    why = "of median error" if s.frame == typical else "of largest error"
    kind = f"around {kind}" if s.when.startswith("frames") else kind
    return {
        "name": s.view.name,
        "when": s.when,
        "why": f"{kind} {why}",
        "open": s.frame != typical,
        "scales": s.scales,
        "panels": [
            {
                "title": p.title,
                "caption": p.caption,
                "src": "data:image/png;base64," + base64.b64encode(p.png).decode(),
            }
            for p in s.panels
        ],
    }


def _order(card, main: str) -> list[str]:
    r"""The judged method, then the others from best to worst: colours follow this order."""
    rest = [n for n in card["methods"] if n != main]
    return [main, *sorted(rest, key=lambda n: main_scores(card, n)["rmse"]["value"])]


def _coverage(card, main: str) -> dict[str, Any] | None:
    names = [n for n in _order(card, main) if card["methods"][n]["members"] > 1][:3]
    if main not in names:
        return None
    curves = {n: main_scores(card, n)["coverage"] for n in names}
    return {"svg": charts.coverage(curves, "Coverage of intervals"), "names": names}


def _series(card, main: str, when: Sequence[str]) -> dict[str, Any]:
    names = _order(card, main)[:4]
    frames = {n: card["methods"][n]["frames"] for n in names}
    short = [_short(w) for w in when]
    unit = unit_text(card["pooled_units"])
    svg = charts.series(
        {n: f["rmse"] for n, f in frames.items()},
        short,
        f"RMSE, {unit}" if unit else "RMSE",
        "RMSE of every frame",
        {main: frames[main]["spread"]} if card["methods"][main]["members"] > 1 else None,
    )
    return {"svg": svg, "names": names}


def _short(name: str) -> str:
    word, _, year = name.partition(" ")
    return f"{word[:3]} {year}" if year.isdigit() and word.isalpha() and word != "frame" else name


def tree(x: Any) -> dict[str, Any]:
    r"""Nested values as nodes for the template: text, a table of alike entries, or a list."""
    if isinstance(x, (list, tuple)):
        if all(not isinstance(v, (Mapping, list, tuple)) for v in x):
            return {"text": ", ".join(str(v) for v in x)}
        x = dict(enumerate(x))
    if not isinstance(x, Mapping):
        return {"text": str(x)}
    names = {k: str(k).replace("_", " ") for k in x}
    flat = [isinstance(v, Mapping) and not any(isinstance(w, Mapping) for w in v.values())
            for v in x.values()]  # fmt: skip
    columns = list(dict.fromkeys(c for v in x.values() if isinstance(v, Mapping) for c in v))
    if len(x) > 2 and all(flat) and 2 <= len(columns) <= 8:
        rows = [(k, [tree(v[c])["text"] if c in v else "" for c in columns])
                for k, v in x.items()]  # fmt: skip
        return {"columns": [str(c).replace("_", " ") for c in columns], "rows": rows}
    items = [(names[k], tree(v)) for k, v in x.items()]
    short = [len(n.get("text", "x" * 99)) <= 16 for _, n in items]
    return {"items": items, "small": sum(short) > 3 and all("text" in n for _, n in items)}
