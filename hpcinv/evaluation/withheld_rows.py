r"""Withheld observations as judges: the CRPS of each method on rows that none was shown.

A row is predicted by what members see of it, with noise of its error added to each. Scores of
variables are pooled in units of the climatological deviation of their channels, as those of
states are (`hpcinv.evaluation.scores`); intervals are of blocks of frames, the same ones for all
methods, so that differences are paired.
"""

from __future__ import annotations

__all__ = ["collect", "scores"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput
from ..observations import flags
from .bootstrap import block_counts, block_length
from .innovations import InnovationSums


def collect(
    table: Any, store: Any, start: int, length: int, ensemble: Any, *, seed: int = 0,
    world: Any = None, progress: Any = None,
) -> tuple[list[str], InnovationSums]:  # fmt: skip
    r"""Sums over the withheld rows of each variable that has some, and those variables.

    Arguments:
        table: All rows.
        store, start: The trajectory; the frame of it that is the table's frame 0.
        length: Frames evaluated; ranks of `world` share them, all get all sums.
        ensemble: Reader with `.members` and `.read(member, start, stop)`.
        seed: Of the noise that members get; a function of the frame.
        progress: `.update(done, total)` after each frame.
    """
    from ..observations.feedback import Seen
    from ..parallel import World

    world = world or World()
    withheld = table.flag == flags.WITHHELD
    groups = {
        name: withheld & (table.channel == c)
        for c, name in enumerate(table.variables)
        if (withheld & (table.channel == c)).any()
    }
    belongs = np.stack(list(groups.values()))
    seen = Seen(table, store, start, ensemble, length)
    sums = InnovationSums.zeros(length, len(groups), len(ensemble.members))
    lo, hi = world.share(0, length)
    for f in range(lo, hi):
        rows = seen.rows(f)
        if withheld[rows].any():
            sums.add(f, belongs[:, rows], table.value[rows], table.error[rows], seen(f), seed=seed)
        if progress is not None:
            progress.update(f + 1 - lo, hi - lo)
    return list(groups), sums.reduce(world)


def scores(
    methods: Mapping[str, InnovationSums],
    variables: Sequence[str],
    scale: Mapping[str, float],
    *,
    level: float = 0.95,
    block: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    r"""What the sums of all methods say, as JSON-like numbers.

    Arguments:
        methods: Sums by method; the others are compared to the first.
        variables: Their groups.
        scale: Deviation by which a variable is divided when variables are pooled; those without
            one are left out of the pool.
        level, block, replicates, seed: Of the intervals, as in `scorecard`.

    Returns:
        `{"count", "methods": {name: {"pooled": {"crps", "rms"}, "variables": {v: {"crps",
        "rms", "chi2"}}}}, "differences": {name: {"crps": first minus it}}}`, each score with
        `value`, `low` and `high`.

    Raises:
        BadInput: If methods judge different rows.
    """
    first = next(iter(methods.values()))
    L = len(first.count)
    counts = np.concatenate(
        [np.ones((1, L)), block_counts(L, block or block_length(L), replicates, seed)]
    )
    tail = (1 - level) / 2
    keep = [g for g, v in enumerate(variables) if v in scale]
    unit = np.array([scale[variables[g]] for g in keep])

    def told(v: np.ndarray) -> dict[str, float]:
        good = v[1:][np.isfinite(v[1:])]
        low, high = np.quantile(good, [tail, 1 - tail])
        return {"value": float(v[0]), "low": float(low), "high": float(high)}

    out: dict[str, Any] = {"count": int(first.count.sum()), "methods": {}, "differences": {}}
    pools: dict[str, np.ndarray] = {}
    for name, s in methods.items():
        if not np.array_equal(s.count, first.count):
            raise BadInput("other rows than those of the first method", f"method '{name}'")
        with np.errstate(invalid="ignore", divide="ignore"):  # no row in any block drawn
            n, crps, d2, v2 = (counts @ getattr(s, k) for k in ("count", "crps", "d2_a", "v2_a"))
            entry: dict[str, Any] = {
                "variables": {
                    v: {
                        "crps": told(crps[:, g] / n[:, g]),
                        "rms": told(np.sqrt(d2[:, g] / n[:, g])),
                        "chi2": told(d2[:, g] / v2[:, g]),
                    }
                    for g, v in enumerate(variables)
                }
            }
            if keep:
                many = n[:, keep].sum(1)
                pools[name] = (crps[:, keep] / unit).sum(1) / many
                rms = np.sqrt((d2[:, keep] / unit**2).sum(1) / many)
                entry["pooled"] = {"crps": told(pools[name]), "rms": told(rms)}
        out["methods"][name] = entry
    main = next(iter(methods))
    for name, pool in pools.items():
        if name != main:
            out["differences"][name] = {"crps": told(pools[main] - pool)}
    return out
