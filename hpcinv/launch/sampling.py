r"""What the planner says of an analysis by diffusion: numbers, bytes, memory of a rank, GPU hours.

From the traced costs of the two trainings it samples with (`estimate`), of which a forward pass is
a third. With weights that stay as they are, a vector–Jacobian product costs a forward pass too. A
guided call of a window takes the first forward pass and, where its Jacobian is the covariance, a
product an iteration; through the decoder, of every frame of the window, two passes and two more an
iteration. It is an upper bound where observations are few: frames without any are not decoded, and
of others only some points.
"""

from __future__ import annotations

__all__ = ["Sampling", "sampling_table", "samplings"]

from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from ..assimilation.composition import Coarse, compose
from ..assimilation.windows import cover
from ..kinds.assimilate import Assimilate
from ..kinds.study import Study
from ..runs.progress import clock
from ..training.devices import DEVICES
from .estimate import FRAMEWORK, USED, Estimate, room_of, shape_of
from .profile import Profile


@dataclass(frozen=True)
class Sampling:
    r"""One analysis: `state` and `latent` are shapes without frames."""

    name: str
    job: Assimilate
    state: tuple[int, ...]
    latent: tuple[int, ...]
    prior: Estimate
    decoder: Estimate | None

    @property
    def length(self) -> int:
        return self.job.frames[1] - self.job.frames[0]

    @property
    def windows(self) -> int:
        return len(cover(self.length, self.job.window, self.job.overlap))

    @property
    def frames(self) -> int:
        r"""Of a trajectory in one call: those of all windows, coarse ones, and what they share."""
        job = self.job
        coarse = job.coarse and Coarse(**job.coarse.model_dump())
        terms = compose(job.compose, self.length, job.window, job.overlap, coarse)
        return sum(len(term.frames) for term in terms)

    @property
    def numbers(self) -> int:
        r"""Of all members; each takes four bytes on disk."""
        return self.job.members * self.length * prod(self.state)

    @property
    def ranks(self) -> int:
        r"""Of all array tasks that run at once."""
        array = self.job.resources.array
        at_once = min(array.throttle or array.tasks, array.tasks) if array else 1
        return self.job.resources.tasks * at_once

    @property
    def operations(self) -> float:
        r"""Of all members, in the reanalysis mode."""
        job = self.job
        guided = job.observations is not None and job.guidance.method == "mmps"
        K = job.guidance.products if guided else 0
        # Products with the network are those of its Jacobian.
        J = K if job.guidance.covariance in ("own", "averaged") else 0
        # Of a frame: the training's window and batch of one cost in proportion.
        network = self.prior.cost.flops / 3 / self.prior.job.window
        decoded = 0.0 if self.decoder is None else self.decoder.cost.flops / 6  # half of both
        call = network * (1 + J)
        if guided:
            call += decoded * (2 + 2 * K)
        return job.members * (job.sampler.calls * self.frames * call + self.length * decoded)

    @property
    def held(self) -> int:
        r"""Bytes of a rank: weights, graphs of its windows and of the decoder, frames, a state."""
        job, W = self.job, min(self.job.window, self.length)
        array = job.resources.array
        members = ceil(job.members / (array.tasks if array else 1))
        slabs = max(job.resources.tasks // members, 1)
        here = min(job.batch, ceil(members / max(job.resources.tasks // slabs, 1)))
        wide = 2 if self.prior.job.training.precision == "bf16" else 1  # it samples in fp32
        graphs = here * ceil(self.frames / slabs) * self.prior.cost.activations * wide
        graphs = graphs // self.prior.job.window
        own = ceil(self.length / slabs) + 2 * W
        frames = 4 * here * own * prod(self.latent) * (12 + 2 * job.guidance.products)
        models = sum(4 * e.cost.parameters for e in (self.prior, self.decoder) if e is not None)
        decoder = int(job.guidance.memory) if self.decoder is not None else 0
        written = 4 * 5 * prod(self.state)  # a decoded frame, its patches, what is written of it
        base = FRAMEWORK[job.resources.gpus_per_task > 0]
        return base + models + graphs + frames + decoder + written

    @property
    def sent(self) -> int:
        r"""Bytes between two neighbouring slabs in one call: an overlap there, and back."""
        return 2 * 4 * min(self.job.batch, self.job.members) * self.job.overlap * prod(self.latent)

    def gpu_hours(self, gpu: str) -> float:
        return self.operations / (USED * DEVICES[gpu].fp32) / 3600


def samplings(study: Study, runs: Path, trainings: list[Estimate]) -> list[Sampling]:
    r"""Of the analyses asked for whose models' costs are known."""
    known = {e.name: e for e in trainings}
    found = []
    for name in study.order():
        job = study.jobs[name]
        if name not in study.wanted or not isinstance(job, Assimilate) or not job.sampled:
            continue
        state = shape_of(study, runs, name, job.data)
        if state is None or job.prior not in known:
            continue
        decoder = known.get(job.decoder or "")
        if (decoder is None) != (job.decoder is None):
            continue
        whole = (state[0], *state[1])
        latent = whole
        if decoder is not None:
            channels, cells = decoder.job.model.latent(state[1])
            latent = (channels, *cells)
        found.append(Sampling(name, job, whole, latent, known[job.prior], decoder))
    return found


def sampling_table(found: list[Sampling], profile: Profile) -> Any:
    r"""One row an analysis: numbers, bytes, what a rank holds, hours."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    titles = ["analysis", "a member", "numbers", "to disk", "ranks at once", "a rank holds"]
    titles += ["sent a call", "operations"]
    titles += [f"{profile.gpu} hours", "hours"] if profile.gpu else []
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left")
    table.add_column("", no_wrap=True)
    fits = True
    for s in found:
        row = [s.name, f"{s.numbers / s.job.members:.3g}", f"{s.numbers:.3g}"]
        row += [f"{4 * s.numbers / 1e9:.3g} GB", str(s.ranks), f"{s.held / 1e9:.3g} GB"]
        row += [f"{s.sent / 1e6:.3g} MB", f"{s.operations:.3g}"]
        if profile.gpu:
            hours = s.gpu_hours(profile.gpu)
            row += [f"{hours:.3g}", clock(3600 * hours / s.ranks)]
        room, what = room_of(s.job, profile)
        fits &= s.held <= room
        table.add_row(*row, "fits" if s.held <= room else f"more than {what}")
    table.caption = "at most; an overlap is sent between two neighbours"
    if profile.gpu:
        table.caption += f"; hours at {USED:.0%} of the peak in fp32"
    if not fits:
        table.caption += "\nTo fit: more ranks a member, fewer members a task, a smaller 'batch', "
        table.caption += "a shorter window."
    table.caption_justify = "left"
    return table
