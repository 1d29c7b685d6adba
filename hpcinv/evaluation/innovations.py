r"""Departures of observations from analysis and background, as mergeable sums, and what they say.

For a row with value y and error σ, and an ensemble with mean :math:`\bar h` and variance
:math:`s^2` of H(x): :math:`d = y - \bar h`. If the errors are what they are said to be,
:math:`E\, d_b^2 = \sigma^2 + s_b^2` for the background, and the same holds of the analysis for
observations that were withheld from it (not for those it used: they pulled it).

* chi2: :math:`\langle d^2 \rangle / \langle \sigma^2 + \tfrac{M + 1}{M} s^2 \rangle`, one if
  consistent (a ratio of means: the mean of ratios is biased for few members); its band is a
  moving-block bootstrap over frames, so that neighbouring frames are not counted as independent.
* Desroziers et al. (2005, doi:10.1256/qj.05.108): :math:`\hat R = E\, d_a d_b` and
  :math:`\widehat{HBH^T} = E\,(d_b - d_a)\, d_b`. They hold if the analysis used the observations
  with a near-optimal gain, and if errors of observations and background have different scales.
* ranks: of the value among the members, noise :math:`N(0, \sigma^2)` added to each of them; and of
  withheld observations all scores that a gridded truth has (`hpcinv.evaluation.scores`), of the
  same noisy members: both ratios of spread and skill, the energy score of a frame's rows,
  coverage, and reliability for the event of a value above the climatology.

Sums are kept for each frame and group (variable, use, region, level); those of disjoint frames
add, so that the ranks of a job give the same numbers however they share the frames.
"""

from __future__ import annotations

__all__ = ["InnovationSums", "groups", "summary"]

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import BadInput
from ..observations import flags
from ..observations.instruments import instruments
from .bootstrap import block_counts, block_length
from .crps import crps
from .energy import energy
from .flatness import flatness
from .ranks import bins, nearest, place
from .reliability import reliability

REGIONS = {"north of 20°N": (20, 90.1), "tropics": (-20, 20), "south of 20°S": (-90.1, -20)}
CONDITIONS = (
    "the analysis weighs observations nearly as it should (background chi2 near one)",
    "errors of observations are correlated over other distances than those of the background",
    "observation and background errors are independent",
)


def groups(table: Any, of: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    r"""Rows by variable and use, and within each by region and by level where rows have them; by
    instrument where `of` tells the pattern of its stations' names (`observations.instruments`)."""
    out: dict[str, np.ndarray] = {}
    instrument = instruments(table, of, "instruments") if of else np.full(len(table), "")
    levels = np.unique(table.level[~np.isnan(table.level)])
    edges = np.quantile(levels, [0, 1 / 3, 2 / 3, 1]) if len(levels) > 3 else None
    for use, flag in (("used", flags.USED), ("withheld", flags.WITHHELD)):
        for c, name in enumerate(table.variables):
            rows = (table.channel == c) & (table.flag == flag)
            if not rows.any():
                continue
            out[f"{name}, {use}"] = rows
            for which in of or ():
                inside = rows & (instrument == which)
                if inside.any():
                    out[f"{name}, {use}, {which}"] = inside
            for region, (low, high) in REGIONS.items():
                inside = rows & (table.lat >= low) & (table.lat < high)
                if inside.any() and not np.array_equal(inside, rows):
                    out[f"{name}, {use}, {region}"] = inside
            if edges is not None:
                for a, b in itertools.pairwise(edges):
                    inside = rows & (table.level >= a) & (table.level <= b)
                    if inside.any():
                        out[f"{name}, {use}, level {a:g} to {b:g}"] = inside
    return out


@dataclass
class InnovationSums:
    r"""Sums over rows, for L frames and G groups, all with shape :math:`(L, G)`.

    `_a` is the analysis, `_b` the background (zero without one): d departures, s2 variances of the
    members, v2 the variance of a departure that was told; `crps`, `energy` (times the rows) and
    `ranks`, `events` and `hits` (L, G, K), with bins as in `hpcinv.evaluation.ranks`, are of the
    analysis with noise added to its members.
    """

    count: np.ndarray
    sigma2: np.ndarray
    d_a: np.ndarray
    d2_a: np.ndarray
    s2_a: np.ndarray
    v2_a: np.ndarray
    d_b: np.ndarray
    d2_b: np.ndarray
    s2_b: np.ndarray
    v2_b: np.ndarray
    cross: np.ndarray
    crps: np.ndarray
    energy: np.ndarray
    ranks: np.ndarray
    events: np.ndarray
    hits: np.ndarray

    @classmethod
    def zeros(cls, frames: int, many: int, members: int) -> InnovationSums:
        plain = [np.zeros((frames, many)) for _ in range(len(fields(cls)) - 3)]
        return cls(*plain, *(np.zeros((frames, many, bins(members))) for _ in range(3)))

    def merge(self, other: InnovationSums) -> InnovationSums:
        r"""Sums of two disjoint sets of frames.

        Raises:
            BadInput: If both hold a frame, or they differ in shape.
        """
        if self.ranks.shape != other.ranks.shape:
            raise BadInput(f"sums of shapes {self.ranks.shape} and {other.ranks.shape}", "merge")
        both = (self.count > 0) & (other.count > 0)
        if both.any():
            raise BadInput(f"frame {int(np.argmax(both.any(1)))} is in both sums", "merge")
        return InnovationSums(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    def reduce(self, world: Any) -> InnovationSums:
        r"""The sums of all ranks, on every rank."""
        return InnovationSums(*(world.all_reduce(getattr(self, f.name)) for f in fields(self)))

    def add(
        self, frame: int, of: np.ndarray, y: np.ndarray, sigma: np.ndarray, hofx: np.ndarray,
        background: np.ndarray | None = None, seed: int = 0,
        threshold: np.ndarray | None = None, whole: Sequence[int] = (),
    ) -> None:  # fmt: skip
        r"""Adds the rows of one frame.

        Arguments:
            frame: Its number.
            of: Which groups each row belongs to, booleans with shape :math:`(G, D)`.
            y, sigma: Values and errors, with shape :math:`(D)`.
            hofx, background: What members see, with shapes :math:`(M, D)`.
            seed: Of the noise added to members; a function of the frame.
            threshold: What an event exceeds, with shape :math:`(D)`; NaN where there is none.
            whole: Groups whose energy score is asked for.
        """
        from ..diffusion.noise import generator

        M, D = hofx.shape
        rng = generator(seed, "observation noise of members", frame)
        noisy = hofx + sigma * rng.standard_normal((M, D))
        rank = (noisy < y).sum(0)
        within = rng.random(D) if bins(M) <= M else 0.0
        rank = place(rank, within, M)
        score = crps(noisy, y)
        w = of.astype(np.float64)
        mean, var, v2 = _departures(y, sigma, hofx)
        rows: dict[str, np.ndarray] = {
            "count": np.ones(D), "sigma2": sigma**2, "d_a": mean, "d2_a": mean**2, "s2_a": var,
            "v2_a": v2, "crps": score,
        }  # fmt: skip
        if background is not None:
            b, var, v2 = _departures(y, sigma, background)
            rows |= {"d_b": b, "d2_b": b**2, "s2_b": var, "v2_b": v2, "cross": mean * b}
        for name, x in rows.items():
            getattr(self, name)[frame] += w @ x
        for g in range(len(of)):
            self.ranks[frame, g] += np.bincount(rank[of[g]], minlength=bins(M))
        for g in whole:
            at = np.flatnonzero(of[g])
            if len(at):
                one = lambda *some, at=at: [([noisy[r][:, at] for r in some], y[at],  # noqa: E731
                                             np.ones(len(at)))]  # fmt: skip
                self.energy[frame, g] += len(at) * energy(one, M, len(at))
        if threshold is not None:
            above = nearest((noisy > threshold).sum(0), M)
            for g in range(len(of)):
                at = of[g] & np.isfinite(threshold)
                hit = above[at & (y > threshold)]
                self.events[frame, g] += np.bincount(above[at], minlength=bins(M))
                self.hits[frame, g] += np.bincount(hit, minlength=bins(M))


def _departures(y, sigma, hofx):
    M = len(hofx)
    d = y - hofx.mean(0)
    var = hofx.var(0, ddof=1) if M > 1 else np.zeros(len(y))
    return d, var, sigma**2 + (M + 1) / M * var


def summary(
    names: list[str],
    sums: InnovationSums,
    *,
    units: Mapping[str, str],
    background: bool,
    members: int,
    level: float = 0.95,
    block: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    r"""What the sums say of each group, as JSON-like numbers with bootstrap intervals."""
    L = len(sums.count)
    counts = np.concatenate(
        [np.ones((1, L)), block_counts(L, block or block_length(L), replicates, seed)]
    )
    tail = (1 - level) / 2
    out: dict[str, Any] = {}
    for g, name in enumerate(names):
        n = counts @ sums.count[:, g]
        full = n > 0
        if not n[0]:
            continue

        def mean(x: np.ndarray, n=n, full=full, g=g) -> np.ndarray:
            return (counts @ x[:, g])[full] / n[full]

        def told(v: np.ndarray) -> dict[str, float]:
            low, high = np.quantile(v[1:], [tail, 1 - tail])
            return {"value": float(v[0]), "low": float(low), "high": float(high)}

        entry: dict[str, Any] = {
            "count": int(n[0]),
            "units": units[name.split(", ")[0]],
            "error": float(np.sqrt(mean(sums.sigma2)[0])),
            "analysis": {
                "bias": told(mean(sums.d_a)),
                "rms": told(np.sqrt(mean(sums.d2_a))),
                "spread": told(np.sqrt(mean(sums.s2_a))),
                "chi2": told(mean(sums.d2_a) / mean(sums.v2_a)),
                "crps": told(mean(sums.crps)),
            },
        }
        h = sums.ranks[:, g].sum(0)
        if h.sum() and ", withheld" in name:
            M = len(h) - 1
            h = h / h.sum()
            k = max(1, round(0.1 * (M + 1)))
            entry["ranks"] = {
                "histogram": h.tolist(),
                "distance": float(0.5 * np.abs(h - 1 / (M + 1)).sum()),
                "interval": {
                    "nominal": (M + 1 - 2 * k) / (M + 1),
                    "found": float(h[k : M + 1 - k].sum()),
                },
            }
            by_frame = sums.ranks[:, g]
            test = flatness(by_frame[by_frame.sum(1) > 0])
            if test is not None:
                entry["ranks"]["flatness"] = test
            entry |= _withheld(sums, g, mean, told, members)
        if background:
            entry["background"] = {
                "bias": told(mean(sums.d_b)),
                "rms": told(np.sqrt(mean(sums.d2_b))),
                "spread": told(np.sqrt(mean(sums.s2_b))),
                "chi2": told(mean(sums.d2_b) / mean(sums.v2_b)),
            }
            if ", used" in name:
                entry["desroziers"] = _desroziers(entry, mean, sums, told)
        if name.count(",") == 1:  # a variable and its use
            entry["frames"] = _by_frame(sums, g, background)
        out[name] = entry
    return {"groups": out, "desroziers_conditions": list(CONDITIONS) if background else []}


def _withheld(sums: InnovationSums, g: int, mean: Any, told: Any, members: int) -> dict[str, Any]:
    r"""Scores that only departures of withheld observations have."""
    h = sums.ranks[:, g].sum(0) / sums.ranks[:, g].sum()
    K = len(h) - 1
    found: dict[str, Any] = {
        "coverage": [
            {"nominal": (K + 1 - 2 * k) / (K + 1), "found": float(h[k : K + 1 - k].sum())}
            for k in range(1, K // 2 + 1)
        ]
    }
    if sums.energy[:, g].any():
        found["energy"] = told(mean(sums.energy))
    if sums.events[:, g].any():
        events, hits = sums.events[:, g].sum(0), sums.hits[:, g].sum(0)
        found["reliability"] = reliability(events, hits, members)
    if members > 1:
        s2, d2 = mean(sums.s2_a), mean(sums.d2_a)
        spread = mean(sums.sigma2) + s2
        with np.errstate(divide="ignore", invalid="ignore"):
            plain = np.sqrt(mean(sums.v2_a) / d2)
            unbiased = np.sqrt(spread / np.maximum(d2 - s2 / members, 0))
        for name, x in (("spread_skill", plain), ("spread_skill_unbiased", unbiased)):
            found[name] = told(np.nan_to_num(x, nan=1.0, posinf=1e9))
    return {"scores": found}


def _by_frame(sums: InnovationSums, g: int, background: bool) -> dict[str, Any]:
    r"""Departures of every frame, None where nothing was observed."""
    n = sums.count[:, g]

    def over(x: np.ndarray, y: np.ndarray, root: bool = False) -> list[float | None]:
        v = np.divide(x, y, out=np.full(len(x), np.nan), where=n > 0)
        return [None if np.isnan(e) else float(e) for e in (np.sqrt(v) if root else v)]

    out: dict[str, Any] = {"count": n.astype(int).tolist()}
    for name, letter in (("analysis", "a"), ("background", "b")):
        if letter == "a" or background:
            d, d2, s2, v2 = (
                getattr(sums, f"{k}_{letter}")[:, g] for k in ("d", "d2", "s2", "v2")
            )  # fmt: skip
            out[name] = {
                "bias": over(d, n), "rms": over(d2, n, True), "spread": over(s2, n, True),
                "chi2": over(d2, v2),
            }  # fmt: skip
    return out


def _desroziers(entry: dict, mean, sums: InnovationSums, told) -> dict[str, Any]:
    root = lambda x: np.sign(x) * np.sqrt(np.abs(x))  # noqa: E731
    R = mean(sums.cross)
    B = mean(sums.d2_b) - R
    chi2 = entry["background"]["chi2"]
    return {
        "error": told(root(R)),
        "background": told(root(B)),
        "over_told": told(root(R) / np.sqrt(mean(sums.sigma2))),
        # Far from one the gain was not the right one, and the estimate is only a hint.
        "gain_near_optimal": bool(0.7 <= chi2["value"] <= 1.4),
    }
