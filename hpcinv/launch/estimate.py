r"""What the planner says of a training: operations, memory of each ZeRO stage, hours on a GPU.

The figures come from `hpcinv.training.cost`, which needs torch: it runs once, in a process of its
own, and its answer is kept in the user's cache. So does what a simulator says of its states.
"""

from __future__ import annotations

__all__ = ["Estimate", "estimate_table", "estimates", "refuse_what_cannot_fit", "shape_of"]

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..io.atomic import digest_bytes, write_bytes
from ..kinds.base import Job
from ..kinds.encode import Encode
from ..kinds.import_ import Import
from ..kinds.prepare import input_folders
from ..kinds.simulate import Simulate
from ..kinds.study import Study
from ..kinds.train import Train
from ..runs.progress import clock
from ..simulators import BUILT_IN
from ..training.cost import Cost, memory
from ..training.devices import DEVICES
from .profile import Profile

USED = 0.35  # share of a GPU's peak assumed for hours: what large transformers commonly reach
ROOM = 0.9  # share of a GPU's memory the planner fills: the rest is the allocator's and NCCL's
# Bytes of a rank without a model, on a CPU (measured) and on a GPU: context, kernels, buffers.
FRAMEWORK = (500_000_000, 1_500_000_000)


@dataclass(frozen=True)
class Estimate:
    r"""The cost of one training job, of one sample."""

    name: str
    job: Train
    cost: Cost
    ranks: int

    @property
    def micro(self) -> int:
        return max(1, self.job.training.batch // (self.ranks * self.job.training.accumulation))

    def held(self, zero: int, micro: int | None = None) -> int:
        r"""Bytes of a rank while it trains."""
        t = self.job.training
        n = micro or self.micro
        cost = Cost(self.cost.parameters, self.cost.flops, n * self.cost.activations)
        own = FRAMEWORK[self.job.resources.gpus_per_task > 0]
        return memory(cost, zero, t.precision, self.ranks, bool(t.ema))["all"] + own

    @property
    def checkpoint(self) -> int:
        r"""Bytes of a checkpoint: weights, two moments, the average, 32-bit copies of 16."""
        t = self.job.training
        each = (4 if t.precision == "fp32" else 6) + 8 + (4 if t.ema else 0)
        return each * self.cost.parameters

    def hours(self, gpu: str) -> float:
        t = self.job.training
        peak = getattr(DEVICES[gpu], t.precision)
        return t.steps * t.batch * self.cost.flops / (USED * peak * self.ranks) / 3600

    def fitting(self, room: int) -> tuple[int, int] | None:
        r"""The smallest stage and, with it, the fewest accumulation steps that fit, or None."""
        for zero in (0, 1, 2, 3) if self.ranks > 1 else (0,):
            share = self.job.training.batch // self.ranks
            for micro in sorted((d for d in range(1, share + 1) if share % d == 0), reverse=True):
                if self.held(zero, micro) <= room:
                    return zero, share // micro
        return None

    def more(self, room: int) -> int | None:
        r"""The fewest ranks that fit, of those the batch can be cut among by doubling, or None."""
        ranks = 2 * self.ranks
        while self.job.training.batch % ranks == 0:
            if replace(self, ranks=ranks).fitting(room):
                return ranks
            ranks *= 2
        return None


def estimates(study: Study, runs: Path) -> tuple[list[Estimate], list[str]]:
    r"""Of all training jobs asked for, and the names of those whose data are not known yet."""
    asked: dict[str, dict[str, Any]] = {}
    unknown = []
    for name in study.order():
        job = study.jobs[name]
        if name not in study.wanted or not isinstance(job, Train):
            continue
        if job.model.name == "posterior":  # small beside any memory: its size is not traced
            continue
        shape = shape_of(study, runs, name, job.data)
        if shape is None:
            unknown.append(name)
            continue
        asked[name] = {
            "model": job.model.build_fields(),
            "loss": job.loss.model_dump(),
            "precision": job.training.precision,
            "window": job.window,
            "channels": shape[0],
            "grid": list(shape[1]),
        }
    costs = _costs(asked)
    found = [
        Estimate(n, study.jobs[n], c, study.jobs[n].resources.tasks) for n, c in costs.items()
    ]
    return found, unknown


def shape_of(study: Study, runs: Path, name: str, ref: str) -> tuple[int, tuple[int, ...]] | None:
    r"""Channels and grid of a job's input: of a store that is there, else of what will make it."""
    folder = input_folders(study, runs, name)[ref]
    for index in (folder / "store" / "index.json", folder / "index.json"):
        try:
            data = json.loads(index.read_text())
            return len(data["channels"]), tuple(data["grid"])
        except (OSError, ValueError, KeyError):
            continue
    job = study.jobs.get(ref)
    if isinstance(job, Encode):
        coder, states = study.jobs.get(job.autoencoder), shape_of(study, runs, ref, job.data)
        return coder.model.latent(states[1]) if isinstance(coder, Train) and states else None
    if isinstance(job, Simulate) and job.trajectory is not None:
        return _simulated(job)
    return job.store_shape() if isinstance(job, Import) else None


def _simulated(job: Simulate) -> tuple[int, tuple[int, ...]] | None:
    r"""Of the states of a built-in simulator; one's own module is not run to make a plan."""
    if job.simulator not in BUILT_IN:
        return None
    asked = {"simulator": job.simulator, "options": job.options}
    try:
        told = _told("hpcinv.simulators.shapes", {job.simulator: asked})[job.simulator]
    except RuntimeError:  # an extra is missing, or an option is wrong: the job will tell
        return None
    return told[0], tuple(told[1:])


def _costs(asked: dict[str, dict[str, Any]]) -> dict[str, Cost]:
    r"""Of each training by name."""
    return {n: Cost(**told) for n, told in _told("hpcinv.training.cost", asked).items()}


def _told(module: str, asked: dict[str, dict[str, Any]]) -> dict[str, Any]:
    r"""A module's answers by name, from the cache or one process for all that are not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hpcinv" / "costs"
    files = {name: cache / f"{_key(fields)}.json" for name, fields in asked.items()}
    said: dict[str, str] = {}
    for name, file in files.items():
        try:
            said[name] = file.read_text()
        except OSError:
            continue
    new = [n for n in asked if n not in said]
    if new:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps([asked[n] for n in new], default=str),
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(f"{module} could not answer:\n{done.stderr}")
        for name, answer in zip(new, json.loads(done.stdout), strict=True):
            said[name] = json.dumps(answer)
            try:
                cache.mkdir(parents=True, exist_ok=True)
                write_bytes(files[name], said[name].encode())
            except OSError:  # a home that is full or read-only: the next plan asks again
                continue
    return {name: json.loads(said[name]) for name in asked}


def _key(fields: dict[str, Any]) -> str:
    return digest_bytes(json.dumps(fields, sort_keys=True, default=str).encode())


def estimate_table(found: list[Estimate], profile: Profile) -> Any:
    r"""One row a training: its size, and what a rank of each ZeRO stage holds."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    titles = ["training", "parameters", "per sample", "checkpoint"]
    titles += [f"ZeRO {zero}" for zero in range(4)]
    titles += [f"hours on {profile.gpu}", "advice"] if profile.gpu else ["advice"]
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i in (0, len(titles) - 1) else "right")
    for e in found:
        zero = e.job.training.zero
        held = [f"{e.held(z) / 1e9:.3g} GB" for z in range(4)]
        held[zero] = f"[bold]{held[zero]}[/]"
        row = [e.name, _count(e.cost.parameters), f"{_count(e.cost.flops)}FLOP"]
        row += [f"{e.checkpoint / 1e9:.3g} GB", *held]
        if profile.gpu:
            row.append(clock(3600 * e.hours(profile.gpu)))
        table.add_row(*row, _advice(e, profile))
    gpu = f"; hours at {USED:.0%} of its peak" if profile.gpu else ""
    table.caption = f"bytes held by one rank while it trains, of the stage in use in bold{gpu}"
    table.caption_justify = "left"
    return table


def _count(n: int) -> str:
    size, unit = next((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (0, "k")) if n >= s)
    return f"{n / (size or 1e3):.3g} {unit}"


def _room(profile: Profile) -> int | None:
    return int(ROOM * DEVICES[profile.gpu].memory) if profile.gpu else None


def room_of(job: Job, profile: Profile) -> tuple[int, str]:
    r"""Bytes that a rank may hold, and of what: a GPU if it asks for one and the cluster's is
    known, or its memory."""
    if profile.gpu and job.resources.gpus_per_task:
        return _room(profile), f"a {profile.gpu}"
    return int(job.resources.mem_per_task), "the memory asked for"


def _advice(e: Estimate, profile: Profile) -> str:
    t = e.job.training
    room, what = room_of(e.job, profile)
    fit = e.fitting(room)
    if e.held(t.zero) <= room:
        if fit is None or fit[0] >= t.zero:
            return f"fits {what}"
        return f"fits {what}; so does zero {fit[0]}, accumulation {fit[1]}"
    if fit is not None:
        return f"to fit {what}: zero {fit[0]}, accumulation {fit[1]}"
    more = e.more(room)
    return f"does not fit {what} with {e.ranks} ranks" + (f"; {more} would do" if more else "")


def refuse_what_cannot_fit(study: Study, runs: Path, profile: Profile) -> None:
    r"""Raises BadInput for a training on GPUs whose named kind cannot hold it."""
    if not profile.gpu or not any(
        isinstance(study.jobs[n], Train) and study.jobs[n].resources.gpus_per_task
        for n in study.wanted
    ):
        return
    for e in estimates(study, runs)[0]:
        if e.job.resources.gpus_per_task and e.held(e.job.training.zero) > _room(profile):
            raise BadInput(
                f"'{e.name}' needs {e.held(e.job.training.zero) / 1e9:.3g} GB on each GPU; "
                f"{ROOM:.0%} of a {profile.gpu} is {_room(profile) / 1e9:.3g} GB",
                study.sources[e.name].where(("training",)),
                _advice(e, profile)[0].upper() + _advice(e, profile)[1:] + ".",
            )
