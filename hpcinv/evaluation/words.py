r"""The verdict in words: what the numbers allow one to say, and nothing beyond.

Every sentence follows from the scorecard by the rules written here. A method is called better
than another only where the paired confidence interval of the difference excludes zero.
"""

from __future__ import annotations

__all__ = ["Finding", "Verdict", "unit_text", "verdict"]

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import words_fields

SPREAD = (0.85, 1.15)  # spread/skill called calibrated
FLAT = 0.12  # rank histogram distance called flat
CHI2 = (0.75, 1.33)  # chi2 of withheld observations called consistent
ERROR = (0.8, 1.25)  # estimated over told error called as told


@dataclass
class Finding:
    r"""One answer: a question, a level (`good`, `fair`, `poor`), sentences, and a word or two."""

    question: str
    level: str
    text: str
    answer: str = ""

    def __post_init__(self) -> None:
        self.answer = self.answer or {"good": "Yes", "fair": "In part", "poor": "No"}[self.level]


@dataclass
class Verdict:
    headline: str
    level: str
    findings: list[Finding] = field(default_factory=list)


def unit_text(unit: str | None) -> str:
    r"""A unit as people write it: m s-1 becomes m s⁻¹."""
    if unit in (None, "1", ""):
        return ""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    if re.fullmatch(r"[A-Z]+/[A-Z]+", unit):
        unit = unit.lower()  # the capitals of old files: M/S
    unit = unit.replace("**", "")  # ECMWF's m s**-1
    text = re.sub(r"(?<=[A-Za-z])(-?\d+)", lambda m: m[1].translate(raised), unit)
    return text.replace(" ", "\u00a0")  # a unit does not break over lines


def verdict(card: Mapping[str, Any], trivial: tuple[str, ...] = ("climatology", "persistence")):
    r"""Answers *can I trust this?* from a scorecard.

    Arguments:
        card: See `hpcinv.evaluation.scores.scorecard`; its first method is the one judged. Where
            channels are not pooled, its first channel is.
        trivial: Baselines that use no observation; worse than one of them means no.

    Returns:
        A `Verdict`.
    """
    names = list(card["methods"])
    main = names[0]
    scores = {n: _main_scores(card, n) for n in names}
    unit = unit_text(card["pooled_units"] or card["units"][0])
    out = Verdict("", "good")
    out.findings.append(_accuracy(card, scores, main, unit))
    rival = _rival(card, scores, main, trivial, unit)
    if rival:
        out.findings.append(rival)
    if "spread_skill" in scores[main]:
        out.findings.append(_calibration(scores[main], unit))
        calibration = out.findings[-1].level
    beaten = [t for t in trivial if t in scores and not _better(card, t)]
    calibrated = calibration if "spread_skill" in scores[main] else "poor"
    seen = [*departures(card.get("innovations")), *_faults(card.get("misspecification"))]
    entry = card["methods"][main]
    for question, told in (
        ("Has it the truth’s scales?", words_fields.scales(entry)),
        ("Do its variables fit together?", words_fields.balance(entry)),
        ("Do its windows join?", words_fields.seams(entry)),
    ):
        if told is not None:
            out.findings.append(Finding(question, *told))
    out.findings += seen
    best = rival is None or rival.level == "good"
    if beaten:
        out.headline = f"No. It is not shown to be more accurate than {beaten[0]}."
        out.level = "poor"
    elif calibrated == "poor":
        out.headline = "The mean, yes; its uncertainty, no."
        out.level = "fair"
    elif calibrated == "fair":
        out.headline = "The mean, yes; its uncertainty, with care."
        out.level = "fair"
    elif best:
        out.headline = "Yes: it is accurate, and it knows how wrong it can be."
    else:
        better = rival.answer == "Not all of them"
        out.headline = (
            "Yes, but a simpler method does better here."
            if better
            else "Yes, though a simpler method does as well."
        )
        out.level = "fair"
    if out.level == "good" and any(f.level == "poor" for f in seen):
        out.headline = "With care: the observations do not bear it out."
        out.level = "fair"
    return out


def departures(found: Mapping[str, Any] | None) -> list[Finding]:
    r"""What departures from observations say: of withheld ones, and of the errors told."""
    if not found:
        return []
    of = {n: e for n, e in found["groups"].items() if n.count(",") == 1}
    out = []
    withheld = {n.split(",")[0]: e for n, e in of.items() if n.endswith("withheld")}
    if withheld:
        parts, bad = [], 0
        for name, e in withheld.items():
            chi2, flat = e["analysis"]["chi2"], e["ranks"]["distance"]
            bad += not (CHI2[0] <= chi2["value"] <= CHI2[1]) or flat > FLAT
            parts.append(
                f"{name}: {e['count']:,} values, missed by "
                f"{_value(e['analysis']['rms'], unit_text(e['units']))}, "
                f"χ² {chi2['value']:.2f} ({_range(chi2)}), rank distance {flat:.2f}"
            )
        text = (
            "Observations that no method was given, compared with members to which the "
            "observations’ noise was added: "
            + "; ".join(parts)
            + ". One is the χ² of an ensemble that knows how wrong it is."
        )
        grade = "good" if not bad else "fair" if bad < len(withheld) else "poor"
        out.append(Finding("Does it foretell observations it was not given?", grade, text))
    told = {n.split(",")[0]: e["desroziers"] for n, e in of.items() if "desroziers" in e}
    sure = {n: d for n, d in told.items() if d["gain_near_optimal"]}
    if told and sure:
        off = {n: d for n, d in sure.items() if d["over_told"]["low"] > ERROR[1]
               or d["over_told"]["high"] < ERROR[0]}  # fmt: skip
        text = "Departures before and after (Desroziers) put the errors at " + "; ".join(
            f"{d['over_told']['value']:.2f} ({_range(d['over_told'])}) of what is told for {n}"
            for n, d in sure.items()
        )
        text += ". That holds if " + "; ".join(found["desroziers_conditions"]) + "."
        out.append(
            Finding("Are the observations’ errors as told?", "fair" if off else "good", text)
        )
    elif told:
        out.append(
            Finding(
                "Are the observations’ errors as told?", "fair",
                "Cannot be told: the background misses by far more or less than it says, so "
                "that departures before and after do not separate the two errors.",
                "Cannot tell",
            )
        )  # fmt: skip
    return out


def _faults(found: Mapping[str, Any] | None) -> list[Finding]:
    r"""Whether prior and observations are what they are said to be."""
    if not found:
        return []
    question = "Do prior and observations fit what was assumed of them?"
    p = f"p = {found['p']:.3f}, {found['repeats']} withheld truths from "
    p += f"{found['periods']} separate periods"
    if found["told"] == "consistent":
        text = f"Departures are as those of withheld truths observed in the same way ({p})."
        if found.get("unseen"):
            text += f" What would not show here: {', '.join(found['unseen'])}."
        return [Finding(question, "good", text, "Nothing against it")]
    names = ", ".join(found["candidates"])
    if found["told"] == "cannot tell":
        text = f"Departures are not those of withheld truths ({p}). Any of these explains them: "
        return [Finding(question, "poor", f"{text}{names}.", "No; why, cannot be told")]
    text = f"Departures are not those of withheld truths ({p}). They look like this: {names}."
    return [Finding(question, "poor", text)]


def _main_scores(card, name: str) -> Mapping[str, Any]:
    entry = card["methods"][name]
    return entry["pooled"] if "pooled" in entry else entry["channels"][card["channels"][0]]


def _whole(name: str) -> str:
    return name.replace("-", "\u2011")  # a name does not break over lines


def _value(score: Mapping[str, float], unit: str) -> str:
    return f"{score['value']:.2f}\u00a0{unit}".strip()


def _range(score: Mapping[str, float], digits: int = 2) -> str:
    low, high = (round(score[k], digits) + 0.0 for k in ("low", "high"))  # no minus zero
    return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")


def _better(card, other: str) -> bool:
    r"""Whether the judged method has the smaller RMSE beyond doubt."""
    if other in card["differences"]:
        return card["differences"][other]["rmse"]["high"] < 0
    main = next(iter(card["methods"]))
    return _main_scores(card, main)["rmse"]["high"] < _main_scores(card, other)["rmse"]["low"]


def _accuracy(card, scores, main: str, unit: str) -> Finding:
    rmse, bias = scores[main]["rmse"], scores[main]["bias"]
    level = f"{card['interval']['level']:.0%}"
    text = (
        f"The ensemble mean misses the truth by {_value(rmse, unit)} on average "
        f"(RMSE, weighted by area; {level} interval {_range(rmse)})."
    )
    grade = "good"
    if "climatology" in scores:
        clim = scores["climatology"]["rmse"]["value"]
        gain = 1 - rmse["value"] / clim
        if _better(card, "climatology"):
            text += (
                f" That is {gain:.0%} less than the seasonal climatology, which needs no "
                f"observations and misses by {clim:.2f}."
            )
        else:
            grade = "poor"
            text += (
                f" The seasonal climatology, which needs no observations, misses by {clim:.2f}: "
                "no improvement is shown."
            )
    if bias["low"] > 0 or bias["high"] < 0:
        text += f" The mean is biased by {bias['value']:+.2f} ({_range(bias)}).".replace("-", "−")
    else:
        text += " No bias is seen."
    return Finding("Is it accurate?", grade, text)


def _rival(card, scores, main: str, trivial, unit: str) -> Finding | None:
    others = [n for n in scores if n != main and n not in trivial]
    others = others or [n for n in scores if n != main]
    if not others:
        return None
    best = min(others, key=lambda n: scores[n]["rmse"]["value"])
    a, b = scores[main], scores[best]
    text = (
        f"The best of the other methods is {_whole(best)}, with an RMSE of "
        f"{_value(b['rmse'], unit)} and a CRPS of {b['crps']['value']:.2f}; this method has "
        f"{a['rmse']['value']:.2f} and "
        f"{a['crps']['value']:.2f}."
    )
    grade, answer = "good", ""
    if best in card["differences"]:
        d = card["differences"][best]["rmse"]
        size = f"{abs(d['value']):.2f}"
        if d["high"] < 0:
            text += f" This method is better, by {size} (difference {_range(d)})."
        elif d["low"] > 0:
            grade, answer = "fair", "Not all of them"
            text += (
                f" The better one is {_whole(best)}, by {size} (difference {_range(d)}): where it "
                "can be used, its mean is the one to use."
            )
        else:
            grade, answer = "fair", "Not shown"
            text += f" The difference ({_range(d)}) includes zero: neither is shown to be better."
    return Finding("Does it beat simpler methods?", grade, text, answer)


def _calibration(s: Mapping[str, Any], unit: str) -> Finding:
    ratio, flat = s["spread_skill"], s["rank_distance"]
    r = ratio["value"]
    inside = SPREAD[0] <= r <= SPREAD[1]
    if inside:
        text = (
            "The members differ from each other about as much as their mean errs: spread over "
            f"skill is {r:.2f} ({_range(ratio)}; 1 is ideal)."
        )
    elif r < 1:
        text = (
            f"The members are too sure of themselves: spread over skill is {r:.2f} "
            f"({_range(ratio)}), so true errors are about {1 / r:.1f} times what the spread says."
        )
    else:
        text = (
            f"The members are too unsure of themselves: spread over skill is {r:.2f} "
            f"({_range(ratio)}), so true errors are about {1 / r:.1f} times what the spread says."
        )
    level = flat["value"] <= FLAT
    text += (
        f" The rank histogram is {'close to' if level else 'far from'} flat "
        f"(distance {flat['value']:.2f}, at most {FLAT} wanted)."
    )
    test = s.get("flatness")
    if test is not None:
        slope, bow = test["slope"], test["bow"]
        how = (
            "is biased" if abs(slope) > abs(bow) else "is too narrow" if bow > 0 else "is too wide"
        )
        text += (
            f" A test that counts {test['frames']:.0f} independent frames says that it {how} "
            f"(p = {test['p']:.2g})."
            if test["p"] < 0.05
            else f" No slope or bow is shown in it (p = {test['p']:.2g})."
        )
    wide = [c for c in s["coverage"] if 0.5 <= c["nominal"]]
    if wide:
        c = min(wide, key=lambda c: abs(c["nominal"] - 0.8))
        text += (
            f" The ensemble’s {c['nominal']:.0%} intervals hold the truth {c['found']:.0%} of the "
            "time."
        )
    grade = "good" if inside and level else "fair" if inside or level else "poor"
    return Finding("Does it know how wrong it can be?", grade, text)
