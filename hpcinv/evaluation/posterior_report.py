r"""The report of a posterior: is it calibrated, what do the data tell, and what do they not?"""

from __future__ import annotations

__all__ = ["posterior_report", "posterior_verdict"]

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..io.atomic import write_bytes
from . import charts
from .posterior_figures import departures, intervals
from .report import environment, tree
from .words import Finding, Verdict, unit_text


def posterior_report(
    path: Path | str,
    *,
    title: str,
    card: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    pictures: Sequence[tuple[str, str, bytes]],
    about: str = "",
    row: int = 0,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
    lost: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    r"""Writes the page, atomically.

    Arguments:
        path: The file, usually `report.html`.
        title: The study's title.
        card: What `posterior_checks.judge` returned, with `fit` and `observed` beside.
        facts: Names and texts of the page's head.
        pictures: Title, caption and PNG of each.
        about: A sentence or two on what was done.
        row: Which of the observations of `card["observed"]` is shown.
        beside: Cards of other evaluations of the same parameters, by name.
        lost: Of each store of simulations, what failed and what was made again.
        provenance: How it was made.
    """
    checks = card["checks"]
    both = {k: checks[k] for k in ("coverage", "TARP")}
    ranks = {k.removeprefix("rank of "): v for k, v in checks.items() if k not in both}
    worst = sorted(ranks, key=lambda k: -ranks[k]["distance"])[:4]
    page = environment().get_template("posterior.html.jinja").render(
        title=title,
        about=about,
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        facts=facts,
        verdict=posterior_verdict(card, row),
        pictures=[
            (name, said, "data:image/png;base64," + base64.b64encode(png).decode())
            for name, said, png in pictures
        ],
        both={"names": list(both), "svg": departures(both, "Coverage and TARP")},
        ranks={
            "names": worst, "of": len(ranks),
            "svg": departures({k: ranks[k] for k in worst}, "Ranks"),
        },
        local=_local(card),
        parameters=_rows(card),
        contraction=intervals(
            {k: v["contraction"] for k, v in card["parameters"].items()},
            "share of the prior's variance that is gone", 0.0, (0.0, 1.0),
        ),
        reference=_reference(card),
        tests=[
            {"name": k, **{q: f"{v[q]:.3f}" for q in ("distance", "band", "p", "holm")}}
            for k, v in checks.items()
        ],
        beside=_beside(card, beside or {}),
        beside_names=["here", *(beside or {})],
        fit=_fit(card, row),
        lost=lost,
        simulations=card["simulations"],
        provenance=tree(provenance or {}),
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode())
    return path


def posterior_verdict(card: Mapping[str, Any], row: int = 0) -> Verdict:
    r"""Answers *can I trust this?* from a card, by the rules written here."""
    findings = [_calibrated(card), _told(card)]
    observed = card.get("observed")
    strange = False
    if observed:
        p = observed["p"][row]
        strange = p <= 0.05
        who = min(observed["statistics"], key=lambda k: observed["statistics"][k]["p"][row])
        text = (
            f"The statistics of this observation have p-values of at least {p:.3f} together, by "
            f"{observed['simulations']:,} withheld simulations"
        )
        text += f"; the one that finds most is '{who}'." if strange else "."
        if "fit" in card:
            text += (
                f" Of {card['fit']['of']:,} simulations, {card['fit']['false_alarms']:.1%} were "
                "called strange at 5%."
            )
        findings.append(
            Finding("Could the simulator have made this observation?",
                    "poor" if strange else "good", text, "No" if strange else "It could")
        )  # fmt: skip
    if not card["calibrated"]:
        e = card["excess"]
        tail = "see which check fails"
        if e["low"] > 0 or e["high"] < 0:
            tail = f"its regions are too {'small' if e['low'] > 0 else 'large'}"
        return Verdict(f"No: the posterior is not calibrated; {tail}.", "poor", findings)
    if strange:
        return Verdict("Not for this observation: the simulator does not make such.", "poor",
                       findings)  # fmt: skip
    if any(v["told"] == "hardly" for v in card["parameters"].values()):
        return Verdict("Yes, for the parameters that the data tell.", "fair", findings)
    return Verdict("Yes: it is calibrated, and the data tell every parameter.", "good", findings)


def _calibrated(card: Mapping[str, Any]) -> Finding:
    c, t = card["checks"]["coverage"], card["checks"]["TARP"]
    e = card["excess"]
    failed = [k for k, v in card["checks"].items() if v["holm"] <= card["alarm"]]
    number, local = len(card["checks"]), card.get("local")
    if local:
        number += 1
        failed += ["L-C2ST"] if local["holm"] <= card["alarm"] else []
    text = (
        f"On {card['simulations']:,} withheld simulations the coverage of credible regions "
        f"departs by at most {c['distance']:.3f} from what it should be, TARP by "
        f"{t['distance']:.3f}; the 95% band is {c['band']:.3f}. "
    )
    if failed:
        text += f"After Holm's correction these checks fail: {', '.join(failed)}. "
        if e["low"] > 0 or e["high"] < 0:
            way = "small (over-confident)" if e["low"] > 0 else "large (under-confident)"
            text += f"Regions are too {way}, by {abs(e['value']):.3f} on average."
    else:
        text += f"None of {number} checks fails after Holm's correction."
    if local:
        text += (
            f" Asked at each observation by itself (L-C2ST, p = {local['p']:.2f} over all), it is "
            f"told from the truth for {local['share']:.0%} of them at 5%."
        )
    return Finding("Does it know how wrong it can be?", "poor" if failed else "good", text)


def _told(card: Mapping[str, Any]) -> Finding:
    g = card["gain"]
    groups: dict[str, list[str]] = {"well": [], "in part": [], "hardly": []}
    for name, v in card["parameters"].items():
        groups[v["told"]].append(f"{name} ({v['contraction']['value']:.0%})")
    text = (
        f"An observation is worth {g['value']:.2f} nats ({g['low']:.2f} to {g['high']:.2f}) more "
        "than the prior. By how much the variance shrinks, on average: "
    )
    said = {"well": "told well", "in part": "told in part", "hardly": "hardly told"}
    text += "; ".join(f"{said[k]}: {', '.join(v)}" for k, v in groups.items() if v) + "."
    level = "good" if not groups["hardly"] else "fair"
    return Finding("What do the data tell?", level, text, "All of it" if level == "good" else "")


def _local(card: Mapping[str, Any]) -> dict[str, str] | None:
    r"""The test at each observation, as a picture and a number."""
    found = card.get("local")
    if not found or "curve" not in found:
        return None
    svg = charts.coverage(
        {"L-C2ST": found["curve"]}, "L-C2ST of each observation",
        ("p", "share of observations with a smaller p"),
    )  # fmt: skip
    return {"svg": svg, "p": f"{found['p']:.3f}", "holm": f"{found['holm']:.3f}"}


def _reference(card: Mapping[str, Any]) -> dict[str, Any] | None:
    r"""How well a classifier tells samples from reference samples."""
    found = card.get("reference")
    if not found:
        return None
    rows = {f"observation {e['observation']}": e for e in found["each"]}
    mean = found["c2st"]
    return {
        "svg": intervals(rows, "share told right", 0.5, (0.45, 1.0)),
        "mean": f"{mean['value']:.3f} ({mean['low']:.3f} to {mean['high']:.3f})",
        "samples": f"{found['each'][0]['samples']:,}", "of": len(rows),
    }  # fmt: skip


def _rows(card: Mapping[str, Any]) -> list[dict[str, str]]:
    out = []
    for (name, v), unit in zip(card["parameters"].items(), card["units"], strict=True):
        c = v["contraction"]
        out.append({
            "name": name, "unit": unit_text(unit), "told": v["told"],
            "contraction": f"{c['value']:.3f}", "range": f"{c['low']:.3f} to {c['high']:.3f}",
            "z": f"{v['z_std']:.2f}", "shift": f"{v['rank_shift']['value']:+.3f}",
            "distance": f"{v['distance']:.3f}", "p": f"{v['p']:.3f}", "holm": f"{v['holm']:.3f}",
            "apart": f"{v['prior']['apart']:.0%}", "prior_p": f"{v['prior']['p']:.2f}",
        })  # fmt: skip
    return out


def _beside(
    card: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    r"""Of each parameter, what these data tell and what others do: deviations shrink so often."""
    if not others:
        return []

    def said(v: Mapping[str, Any]) -> str:
        c = min(v["contraction"]["value"], 1 - 1e-9)
        return f"{max(1 - c, 0) ** -0.5:.1f} × ({v['prior']['apart']:.0%})"

    cards = {"here": card} | dict(others)
    return [
        {"name": name, "cells": [said(c["parameters"][name]) for c in cards.values()]}
        for name in card["parameters"]
        if all(name in c["parameters"] for c in cards.values())
    ]


def _fit(card: Mapping[str, Any], row: int) -> list[dict[str, str]]:
    found = card.get("observed", {}).get("statistics", {})
    return [
        {"name": k, "value": f"{v['value'][row]:.3g}", "typical": f"{v['typical']:.3g}",
         "p": f"{v['p'][row]:.3f}"}
        for k, v in found.items()
    ]  # fmt: skip
