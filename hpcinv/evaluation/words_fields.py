r"""What is said of whole fields: their scales, their balance, and where windows meet."""

from __future__ import annotations

__all__ = ["balance", "scales", "seams"]

from collections.abc import Mapping
from typing import Any

POWER = (0.7, 1.43)  # members' over truth's power called alike
SQUARE = (0.84, 1.19)  # the same of root mean squares
JUMP = 1.2  # increments across boundaries over elsewhere that are called a seam


def scales(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    r"""Grade and sentence on the power of members by scale."""
    found = entry.get("spectrum")
    if found is None:
        return None
    names = [f"{a} to {b}" for a, b in found["ranges"]]
    said, off, many = [], 0, 0
    for channel, of in found["channels"].items():
        ratio = [r for r in of["members_over_truth"] if r is not None]
        off += sum(not POWER[0] <= r <= POWER[1] for r in ratio)
        many += len(ratio)
        said.append(f"{channel} {', '.join(f'{r:.2f}' for r in ratio)}")
    what = "degrees" if found["by"] == "degree" else "bands"
    more = f"; and {len(said) - 4} more channels" if len(said) > 4 else ""
    text = (
        f"Power of the members over the truth’s, in {what} {'; '.join(names)}: "
        f"{'; '.join(said[:4])}{more}. One is alike; below one the members are too smooth."
    )
    return ("good" if not off else "fair" if off < many / 2 else "poor"), text


def balance(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    r"""Grade and sentence on physical checks."""
    found = {n: e for n, e in entry.get("checks", {}).items() if e["ratio"] is not None}
    if not found:
        return None
    off = [n for n, e in found.items() if not SQUARE[0] <= e["ratio"] <= SQUARE[1]]
    said = [f"{n} {e['ratio']:.2f}" for n, e in list(found.items())[:6]]
    text = f"Root mean squares of the members over the truth’s: {', '.join(said)}."
    return ("good" if not off else "fair" if len(off) < len(found) else "poor"), text


def seams(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    r"""Grade and sentence on increments where windows meet."""
    s = entry.get("seam")
    if s is None:
        return None
    text = (
        f"Changes from frame to frame where windows meet are {s['ratio']:.2f} times those "
        f"elsewhere, the truth’s own counted out (interval {s['low']:.2f} to "
        f"{min(s['high'], 99):.2f}; one is no seam)."
    )
    if s["low"] > JUMP:
        return "poor", text
    return ("good" if s["low"] <= 1 <= s["high"] or s["ratio"] <= 1.1 else "fair"), text
