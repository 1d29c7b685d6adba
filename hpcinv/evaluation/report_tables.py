r"""The report's tables: scores of all methods, by channel, differences, departures."""

from __future__ import annotations

__all__ = ["channel_tables", "departures", "differences", "main_scores", "score_table", "withheld"]

from collections.abc import Mapping
from typing import Any

from .words import unit_text

COLUMNS = (
    ("rmse", "RMSE", "root-mean-square error of the ensemble mean, weighted by area"),
    ("crps", "CRPS", "fair continuous ranked probability score of the members"),
    ("spread", "Spread", "root-mean ensemble variance"),
    ("spread_skill", "Spread/skill", "spread, corrected for the number of members, over RMSE"),
    ("rank_distance", "Rank distance", "of the rank histogram from the flat one"),
    ("bias", "Bias", "mean error of the ensemble mean"),
)


def main_scores(card, name: str) -> Mapping[str, Any]:
    entry = card["methods"][name]
    return entry["pooled"] if "pooled" in entry else entry["channels"][card["channels"][0]]


def _number(v: float, digits: int = 2) -> str:
    return f"{round(v, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no minus zero


def _rows(of: Mapping[str, Mapping[str, Any]], card, main: str) -> list[dict[str, Any]]:
    best = {m: min(of, key=lambda n: of[n][m]["value"]) for m in ("rmse", "crps") if len(of) > 1}
    rows = []
    for name, scores in of.items():
        cells = []
        for key, *_ in COLUMNS:
            s = scores.get(key)
            cells.append(
                {"value": "–", "range": "", "best": False}
                if s is None
                else {
                    "value": _number(s["value"]),
                    "range": f"{_number(s['low'])} to {_number(s['high'])}",
                    "best": best.get(key) == name,
                }
            )
        members = card["methods"][name]["members"]
        rows.append({"name": name, "members": members, "main": name == main, "cells": cells})
    return rows


def score_table(card, main: str) -> dict[str, Any]:
    of = {n: main_scores(card, n) for n in card["methods"]}
    unit = unit_text(card["pooled_units"] or card["units"][0])
    what = "all channels" if card["pooled_units"] else card["channels"][0]
    return {"columns": COLUMNS, "rows": _rows(of, card, main), "unit": unit, "what": what}


def channel_tables(card, main: str) -> list[dict[str, Any]]:
    out = []
    for channel, unit in zip(card["channels"], card["units"], strict=True):
        of = {n: e["channels"][channel] for n, e in card["methods"].items()}
        rows = _rows(of, card, main)
        out.append({"columns": COLUMNS, "rows": rows, "unit": unit_text(unit), "what": channel})
    return out if len(out) > 1 else []


def differences(card, main: str) -> list[dict[str, str]]:
    rows = []
    for name, d in card["differences"].items():
        for metric in ("rmse", "crps"):
            v = d[metric]
            told = "better" if v["high"] < 0 else "worse" if v["low"] > 0 else "not told apart"
            rows.append(
                {
                    "name": name,
                    "metric": metric.upper(),
                    "value": _number(v["value"]),
                    "range": f"{_number(v['low'])} to {_number(v['high'])}",
                    "told": told,
                }
            )
    return rows


def departures(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    r"""Rows of the table of departures: a group, and what is known of it."""
    rows = []
    for name, e in (found or {"groups": {}})["groups"].items():
        a, b = e["analysis"], e.get("background")
        judged = a if "withheld" in name else b
        both = lambda x: f"{_number(x['bias']['value'])} ± {_number(x['rms']['value'])}"  # noqa: E731
        told = e.get("desroziers")
        rows.append(
            {
                "name": name,
                "unit": unit_text(e["units"]),
                "count": f"{e['count']:,}",
                "error": _number(e["error"]),
                "ob": both(b) if b else "–",
                "oa": both(a),
                "chi2": _number(judged["chi2"]["value"]) if judged else "–",
                "desroziers": _number(told["error"]["value"]) if told else "–",
            }
        )
    return rows


def withheld(card: Mapping[str, Any]) -> list[dict[str, str]]:
    r"""Rows of the table of methods on withheld observations."""
    found = card.get("withheld") or {"methods": {}, "differences": {}}
    rows = []
    for name, e in found["methods"].items():
        if "pooled" not in e:
            continue
        crps = e["pooled"]["crps"]
        d = found["differences"].get(name, {}).get("crps")
        rows.append(
            {
                "name": name,
                "crps": _number(crps["value"]),
                "range": f"{_number(crps['low'])} to {_number(crps['high'])}",
                "less": "–" if d is None else f"{_number(d['low'])} to {_number(d['high'])}",
            }
        )
    return rows
