r"""The part of `kind: report` that shows posteriors of parameters."""

from __future__ import annotations

__all__ = ["run"]

import json
from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    from .base import Context
    from .report import Report

CURVES = 500  # samples whose curves are drawn


def run(job: Report, ctx: Context) -> dict[str, str]:
    r"""Writes the page of a posterior; see `Job.run`."""
    from ..evaluation.posterior_report import posterior_report
    from ..evaluation.words import unit_text
    from ..io.atomic import digest_bytes, write_bytes
    from ..io.rows import Rows
    from .report import provenance

    rows = Rows(ctx.inputs[job.samples])
    card = _card(ctx, job.evaluate)
    if job.shown >= len(rows) or not rows.read("ok", job.shown, job.shown + 1)[0]:
        raise BadInput(
            f"there is no observation {job.shown} among {len(rows)}, or it failed", job.samples,
            "Write another 'shown'.",
        )  # fmt: skip
    if not rows.attributes["truth"] and "observed" not in card:
        raise BadInput(
            f"'{job.evaluate}' did not judge these observations", job.samples,
            f"Write 'observed: {job.samples}' there.",
        )  # fmt: skip
    if rows.attributes["truth"]:
        card.pop("observed", None)  # that is of other observations than are shown
    pictures = _pictures(rows, job.shown)
    facts = [
        ("Parameters", str(len(card["parameters"]))),
        ("Withheld simulations", f"{card['simulations']:,}"),
        ("Shown", f"observation {job.shown} of {rows.attributes['observed']}"),
        ("Information gained", f"{card['gain']['value']:.2f} nats"),
        ("Negative log density", f"{card['nll']['value']:.2f} ± "
         f"{(card['nll']['high'] - card['nll']['low']) / 2:.2f}"),
    ]  # fmt: skip
    if "effective" in card:
        e = card["effective"]
        facts.append(
            ("Importance sampling", f"{e['median']:.0f} effective of {e['samples']:,} samples")
        )
    outside, drawn = (int(rows.read(c).sum()) for c in ("outside", "drawn"))
    facts.append(("Outside the prior", f"{outside:,} of {drawn:,} draws"))
    path = posterior_report(
        ctx.folder / "report.html",
        title=job.title,
        about=job.about,
        card=card | {"units": [unit_text(u) for u in card["units"]]},
        facts=facts,
        pictures=[(name, said, png) for name, said, png in pictures],
        row=job.shown,
        beside={name: _card(ctx, name) for name in job.beside},
        lost=[_lost(ctx, name) for name in job.simulations],
        provenance=provenance(ctx),
    )
    for name, _, png in pictures:
        write_bytes(ctx.folder / f"{name.lower().replace(' ', '-')}.png", png)
    ctx.say(str(path))
    return {"report": digest_bytes(path.read_bytes())}


def _card(ctx: Context, name: str) -> dict[str, Any]:
    r"""What an evaluation of posteriors found.

    Raises:
        BadInput: If it is of gridded states, or was made by a version that asked for less.
    """
    card = json.loads((ctx.inputs[name] / "scores.json").read_text())
    if not all("prior" in p for p in card.get("parameters", {"": {}}).values()):
        raise BadInput(
            "it does not compare the posterior of each parameter with its prior",
            f"'{name}'",
            "Name an evaluation with 'samples'; run one of an earlier version again (--fresh).",
        )
    return card


def _pictures(rows: Any, row: int) -> list[tuple[str, str, bytes]]:
    import numpy as np
    import torch

    from ..evaluation import posterior_figures as draw
    from ..evaluation.words import unit_text
    from .simulate import simulator_of

    def one(name: str) -> Any:
        return rows.read(name, row, row + 1)[0]

    simulator = simulator_of(rows.attributes["simulate"])
    given = rows.attributes["parameters"]
    samples = one("samples").astype(np.float64)
    truth = one("truth") if rows.attributes["truth"] else None
    labels = ["\n".join(filter(None, (p["name"], unit_text(p["unit"])))) for p in given]
    said = f"{len(samples):,} samples over the prior's whole range"
    said += ", the truth in orange." if truth is not None else "."
    out = [("Parameters", said, draw.corner(samples, simulator.prior, labels, truth))]
    axes = rows.attributes["outputs"]["axes"]
    if "predictive" in rows.columns and len(axes) == 1:
        x, name, unit = one("x"), rows.attributes["outputs"]["name"], ""
        p = torch.from_numpy(one("predictive"))
        x = torch.from_numpy(np.asarray(x))
        unit = rows.attributes["outputs"]["unit"]
        if hasattr(simulator, "shown"):
            p, name, unit = simulator.shown(p)
            x = simulator.shown(x)[0]
        at = np.asarray(axes[0]["values"])
        png = draw.predictive(
            at, p.numpy(), x.numpy(), f"{axes[0]['name']} ({unit_text(axes[0]['unit'])})",
            f"{name} ({unit_text(unit)})" if unit_text(unit) else name,
        )  # fmt: skip
        out.append(("Posterior predictive",
                    "What samples foretell, noise included (68% and 95%), and the observation.",
                    png))  # fmt: skip
    if hasattr(simulator, "curves"):
        some = torch.from_numpy(samples[:CURVES])
        true = [None] * 99
        if truth is not None:
            true = [c.values[0] for c in simulator.curves(torch.from_numpy(truth)[None])]
        for c, t in zip(simulator.curves(some), true, strict=False):
            out.append((c.name.capitalize(), "Bands of 68% and 95%.", draw.curve(c, t)))
    return out


def _lost(ctx: Context, name: str) -> dict[str, Any]:
    r"""What a store of simulations lost and made again."""
    told = json.loads((ctx.inputs[name] / "failures.json").read_text())
    counts = told["counts"]
    failed = {k: v for k, v in counts.items() if k != "ok" and v}
    return {
        "name": name.rstrip("/").rsplit("/", 1)[-1],
        "simulated": f"{sum(counts.values()):,}",
        "failed": f"{sum(failed.values()):,}",
        "why": ", ".join(f"{v:,} {k}" for k, v in failed.items()) or "none",
        "redone": ", ".join(f"rows {a:,} to {b - 1:,}" for a, b in told["redone"]) or "none",
        "again": ", ".join(f"task {t['task']} ({t['attempts']} starts)" for t in told["again"])
        or "none",
    }
