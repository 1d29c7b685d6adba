r"""The part of `kind: evaluate` that judges posteriors of parameters."""

from __future__ import annotations

__all__ = ["run"]

from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    from .base import Context
    from .evaluate import Evaluate

NUMBERS = 1 << 24  # of samples that a rank reads at a time
LEAST = 100  # withheld simulations below which nothing is judged
PAIRS = 2000  # withheld simulations at most that classifiers learn from
BAND = ("value", "low", "high")
LOCAL = ("local_truth", "local_drawn", "local_points")


def run(job: Evaluate, ctx: Context) -> dict[str, str]:
    r"""Judges the samples of an `infer` job; see `Job.run`."""
    from ..evaluation.posterior_checks import combine, judge
    from ..evaluation.posterior_fit import p_values
    from ..evaluation.posterior_local import local_test
    from ..io.atomic import digest_bytes, write_json
    from ..io.rows import Rows

    rows = Rows(ctx.inputs[job.samples])
    if not rows.attributes["truth"]:
        raise BadInput(
            "these samples are of observations whose parameters nobody knows", job.samples,
            "Name an infer job with 'observations: WITHHELD' here, and this one as 'observed'.",
        )  # fmt: skip
    if "log_density" not in rows.columns:  # of another study: its job is not known here
        raise BadInput(
            "these samples have no densities: nothing can be judged", job.samples,
            "Draw them without 'densities: false'.",
        )  # fmt: skip
    ctx.progress.begin("judging the posterior")
    lo, hi = ctx.world.share(0, len(rows))
    step = max(1, NUMBERS // max(1, rows.columns["samples"][0][0] * rows.columns["x"][0][0]))
    mine = []
    for a in range(lo, hi, step):
        mine.append(_block(rows, a, min(a + step, hi), job.seed))
        ctx.progress.update(min(a + step, hi) - lo, hi - lo)
    parts = [p for part in ctx.world.all_gather(mine) for p in part]
    path = ctx.folder / "scores.json"
    if ctx.world.rank == 0:
        found = combine(parts)
        n = len(found["level"])
        if n < LEAST:
            raise BadInput(
                f"{n} withheld simulations are too few to judge by", job.samples,
                f"Simulate at least {LEAST}; 500 make a band of 6%.",
            )  # fmt: skip
        names = [p["name"] for p in rows.attributes["parameters"]]
        seen = None
        if job.observed is not None:
            seen = Rows(ctx.inputs[job.observed])
            if seen.attributes["simulate"] != rows.attributes["simulate"]:
                raise BadInput("it is of another simulator or prior", job.observed)
        ctx.progress.begin("judging it at each observation")
        few = {k: found[k][:PAIRS] for k in ("features", *LOCAL)}
        card = judge(found, names, local_test(few, seen and _local(seen), job.seed))
        card["units"] = [p["unit"] for p in rows.attributes["parameters"]]
        card["failed"] = int(len(rows) - n)
        if "effective" in rows.columns:
            e = rows.read("effective")[rows.read("ok").astype(bool)]
            card["effective"] = {
                "samples": rows.columns["samples"][0][0], "median": float(_median(e)),
            }  # fmt: skip
        card["fit"] = _false_alarms(found)
        if seen is not None:
            other = _fit(seen, 0, len(seen))
            _alike(rows, seen, job.observed)
            withheld = {k: v for k, v in found.items() if k in other}
            card["observed"] = p_values(withheld, other)
        if job.reference is not None:
            card["reference"] = _reference(job, rows if seen is None else seen, ctx)
        write_json(path, card)
        checks = card["checks"]
        ctx.say(
            f"{'calibrated' if card['calibrated'] else 'NOT calibrated'} on {n:,} withheld "
            f"simulations: coverage off by {checks['coverage']['distance']:.3f} "
            f"(band {checks['coverage']['band']:.3f}), TARP {checks['TARP']['distance']:.3f}, "
            f"L-C2ST p {card['local']['p']:.2f}; "
            f"gain {card['gain']['value']:.2f} nats"
        )
    ctx.world.barrier("scores")
    return {"scores": digest_bytes(path.read_bytes())}


def _block(rows: Any, a: int, b: int, seed: int) -> dict[str, Any]:
    r"""The numbers of observations [a, b), without those that failed."""
    import numpy as np
    import torch

    from ..evaluation.posterior_checks import one_by_one
    from ..evaluation.posterior_local import pairs
    from ..simulators.base import Parameter, Prior

    prior = Prior([Parameter(**p) for p in rows.attributes["parameters"]])
    ok = rows.read("ok", a, b).astype(bool)
    names = ("samples", "truth", "log_density", "truth_log_density")
    columns = [rows.read(n, a, b)[ok] for n in names]
    found = one_by_one(*columns, prior, np.flatnonzero(ok) + a, seed)
    found |= pairs(*(prior.quantile(torch.from_numpy(np.float64(c))).numpy() for c in columns[:2]))
    return found | {k: v[ok] for k, v in _fit(rows, a, b).items()}


def _reference(job: Evaluate, rows: Any, ctx: Context) -> dict[str, Any]:
    r"""C2ST of each observation that has reference samples.

    Raises:
        BadInput: If the file holds no such samples.
    """
    import numpy as np

    from ..evaluation.c2st import c2st
    from ..evaluation.posterior_checks import mean_and_error

    try:
        found = np.load(job.reference, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise BadInput(f"reference samples cannot be read ({e})", job.reference) from e
    P, N = len(rows.attributes["parameters"]), rows.columns["samples"][0][0]
    if found.ndim == 2:
        found = found[None]
    if found.ndim != 3 or found.shape[2] != P or not 1 <= len(found) <= len(rows):
        raise BadInput(
            f"reference samples of shape {found.shape}, for {len(rows)} observations of {P} "
            "parameters", job.reference, "Write (observations, samples, parameters).",
        )  # fmt: skip
    if min(found.shape[1], N) < LEAST:
        raise BadInput(
            f"{min(found.shape[1], N)} samples are too few for a classifier", job.reference,
            f"Give at least {LEAST} of each; infer draws 'samples'.",
        )  # fmt: skip
    ctx.progress.begin("telling samples from reference samples")
    ok = rows.read("ok", 0, len(found)).astype(bool)
    each: list[dict[str, Any]] = []
    for k, there in enumerate(found):
        whole = there[np.isfinite(there).all(1)]
        if ok[k] and len(whole) >= LEAST:
            ours = rows.read("samples", k, k + 1)[0]
            each.append({"observation": k, **c2st(whole, ours, seed=job.seed, name=k)})
        ctx.progress.update(k + 1, len(found))
    if not each:
        raise BadInput("no observation has both samples and reference samples", job.reference)
    values = np.array([e["value"] for e in each])
    mean = mean_and_error(values) if len(each) > 1 else {k: each[0][k] for k in BAND}
    ctx.say(f"C2ST against reference samples {mean['value']:.3f} over {len(each)} observations")
    return {"c2st": mean, "each": each}


def _alike(rows: Any, seen: Any, name: str) -> None:
    r"""Statistics compare where they were made alike.

    Raises:
        BadInput: If there are draws or fits of both, and others.
    """

    def both(column: str, field: str, number: Any) -> None:
        counts = {number(r) for r in (rows, seen) if column in r.columns}
        if len(counts) > 1:
            raise BadInput(
                f"'{field}' of {min(counts)} and of {max(counts)} do not compare", name,
                f"Give both infer jobs the same '{field}'.",
            )  # fmt: skip

    both("predictive", "predictive", lambda r: r.columns["predictive"][0][0])
    both("misfit", "fit_steps", lambda r: r.attributes["fit_steps"])


def _local(rows: Any) -> dict[str, Any]:
    r"""Observations whose parameters nobody knows, for the local test."""
    import numpy as np
    import torch

    from ..evaluation.posterior_checks import combine
    from ..evaluation.posterior_local import pairs
    from ..simulators.base import Parameter, Prior

    prior = Prior([Parameter(**p) for p in rows.attributes["parameters"]])
    step = max(1, NUMBERS // rows.columns["samples"][0][0])
    found = []
    for a in range(0, len(rows), step):
        drawn = np.float64(rows.read("samples", a, min(a + step, len(rows))))
        nobody = np.full((len(drawn), len(prior)), np.nan)
        found.append(pairs(prior.quantile(torch.from_numpy(drawn)).numpy(), nobody))
    return combine(found) | {"features": rows.read("features")}


def _fit(rows: Any, a: int, b: int) -> dict[str, Any]:
    r"""What tells of observations [a, b) whether the simulator could have made them."""
    from ..evaluation.posterior_fit import departure

    out = {"x": rows.read("x", a, b), "features": rows.read("features", a, b)}
    if "predictive" in rows.columns:
        out["departure"] = departure(out["x"], rows.read("predictive", a, b))
    if "misfit" in rows.columns:
        out["misfit"] = rows.read("misfit", a, b)
    return out


def _false_alarms(found: dict[str, Any]) -> dict[str, Any]:
    r"""How often simulations themselves are called none: two thirds say how far is usual."""
    import numpy as np

    from ..evaluation.posterior_fit import p_values

    keep = [k for k in ("x", "features", "departure", "misfit") if k in found]
    cut = 2 * len(found["x"]) // 3
    p = p_values({k: found[k][:cut] for k in keep}, {k: found[k][cut:] for k in keep})["p"]
    return {"false_alarms": float(np.mean(np.array(p) <= 0.05)), "of": len(p)}


def _median(v: Any) -> float:
    import numpy as np

    return float(np.median(v)) if len(v) else float("nan")
