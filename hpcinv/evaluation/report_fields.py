r"""Parts of the report about whole fields: spectra, reliability, physical checks, departures."""

from __future__ import annotations

__all__ = ["balance", "departures", "lead_times", "reliability", "spectra"]

from collections.abc import Mapping, Sequence
from typing import Any

from . import charts
from .words import unit_text

MOST = 4  # channels whose spectra are drawn
NAMES = ("truth", "members", "mean")


def spectra(card: Mapping[str, Any], main: str) -> dict[str, Any] | None:
    r"""A chart for each of the first channels."""
    found = card["methods"][main].get("spectrum")
    if found is None:
        return None
    by = "spherical degree" if found["by"] == "degree" else "wave number"
    shown = list(found["channels"].items())[:MOST]
    plots = [
        {"name": name, "svg": charts.spectrum({n: of[n] for n in NAMES}, found["waves"], by)}
        for name, of in shown
    ]
    return {"names": ["truth", "one member, on average", "mean of the members"], "plots": plots}


def lead_times(card: Mapping[str, Any]) -> dict[str, Any] | None:
    r"""Scores by lead time, of the first methods and of the last known frame."""
    found = card.get("forecast")
    if found is None:
        return None
    of = dict(list(found["methods"].items())[:MOST]) | {"last frame, kept": found["kept"]}
    times = [str(k + 1) for k in range(found["lead"])]
    plots = [
        {
            "name": title,
            "svg": charts.series({n: e[key] for n, e in of.items() if key in e}, times, y, title),
        }
        for key, y, title in (
            ("crps", "CRPS", "CRPS by lead time, in frames"),
            ("vrmse", "VRMSE", "Error of the mean over the truth's own variation"),
            ("spread_skill", "spread/skill", "Spread over skill: one for an exact posterior"),
        )
        if any(key in e for e in of.values())
    ]
    return {"names": list(of), "plots": plots}


def reliability(card: Mapping[str, Any], main: str) -> dict[str, Any] | None:
    r"""The diagram of the event above the climatological mean, all channels or the first."""
    entry = card["methods"][main]
    scores = entry.get("pooled") or entry["channels"][card["channels"][0]]
    found = scores.get("reliability")
    if found is None or card["methods"][main]["members"] < 2:
        return None
    points = [
        {"nominal": p, "found": f}
        for p, f in zip(found["probability"], found["frequency"], strict=True)
        if f is not None
    ]
    svg = charts.coverage({main: points}, "Reliability", ("probability told", "frequency found"))
    return found | {"svg": svg, "names": [main]}


def balance(card: Mapping[str, Any], main: str) -> list[dict[str, str]]:
    r"""Rows of the table of physical checks."""
    rows = []
    for name, e in card["methods"][main].get("checks", {}).items():
        rows.append(
            {
                "name": name,
                "unit": unit_text(e["units"]),
                "truth": f"{e['truth']:.3g}",
                "members": f"{e['members']:.3g}",
                "ratio": "–" if e["ratio"] is None else f"{e['ratio']:.2f}",
            }
        )
    return rows


def departures(found: Mapping[str, Any] | None, when: Sequence[str]) -> dict[str, Any] | None:
    r"""Chart of the chi2 of every frame that was observed, as in the table of departures."""
    lines = {}
    for name, e in (found or {"groups": {}})["groups"].items():
        of = e.get("frames", {}).get("analysis" if "withheld" in name else "background")
        if of is not None and len(lines) < 4:
            lines[name] = of["chi2"]
    full = [t for t in range(len(when)) if all(v[t] is not None for v in lines.values())]
    if not lines or len(full) < 2:
        return None
    kept = {n: [v[t] for t in full] for n, v in lines.items()}
    svg = charts.series(kept, [when[t] for t in full], "χ²", "χ² of the departures of every frame")
    return {"svg": svg, "names": list(kept)}
