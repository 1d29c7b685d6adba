r"""Posterior trajectories: `sample` puts the parts together and runs the steps."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..diffusion import noise as keyed
from ..errors import BadInput, Stopped
from ..parallel import World
from ..waiting import at
from . import checkpoint as storage
from .composition import Coarse
from .composition import compose as composition
from .config import GuidanceConfig, SamplerConfig, settings
from .exchange import Exchange
from .gaussian import adapted
from .guidance import Estimate, Guidance
from .guidance.estimate import Level
from .likelihood import Likelihood, checked
from .modal import ModalCovariance
from .moments import Moment
from .network import Network
from .partition import Partition
from .samplers import Sampler
from .schedule import levels
from .slab import Slab

__all__ = ["Result", "sample"]


@dataclass
class Result:
    r"""What one rank holds at the end.

    Arguments:
        members: Global ids of its members.
        frames: Global numbers of its own frames.
        x: Their states, with shape ``(m, n, *state)``.
        diagnostics: Calls, products, bytes, seconds, solver residuals, events.
    """

    members: list[int]
    frames: list[int]
    x: Tensor
    diagnostics: dict[str, Any] = field(default_factory=dict)


def sample(
    denoiser: Callable,
    *,
    shape: Sequence[int],
    length: int,
    window: int,
    overlap: int = 0,
    members: Sequence[int],
    likelihood: Likelihood | None = None,
    context: Tensor | None = None,
    compose: str = "center",
    coarse: Coarse | None = None,
    guidance: GuidanceConfig | dict | None = None,
    sampler: SamplerConfig | dict | None = None,
    markov: object = None,
    seed: int = 0,
    first: int = 0,
    purpose: str = "assimilation",
    world: World | None = None,
    slabs: int | None = None,
    reproducible: bool = False,
    batch: int = 16,
    rows: int = 64,
    group: int = 1,
    dtype: torch.dtype = torch.float32,
    checkpoint: storage.Checkpoint | None = None,
    progress: Any = None,
    stop: Any = None,
) -> Result:
    r"""Draws trajectories from the posterior; a collective of the world.

    Arguments:
        denoiser: An azula denoiser of windows: ``(B, W, *state)``, time, and, if there is one, a
            keyword ``context (B, W, K)``; it must take any number of frames (azula's exact
            `GaussianDenoiser` is adapted).
        shape: The shape of the state, without frames.
        length: Number of frames L.
        window: Frames W of a window; if W ≥ L there is one window.
        overlap: Frames V that neighbouring windows share.
        members: Global ids of the members to draw.
        likelihood: The observations; None draws from the prior.
        context: Context of each frame, with shape ``(L, K)``.
        compose: `center` or `junction`.
        coarse: Windows of a larger time step, or None.
        guidance: Settings of `GuidanceConfig`.
        sampler: Settings of `SamplerConfig`.
        markov: A `MarkovCovariance`, for ``guidance.covariance: markov``; by default that of the
            Gaussian part of the denoiser (`ModalCovariance`), if it has one.
        seed: Every random number is a function of it and of member, frame, step and purpose.
        first: Global number of frame 0: what names its noise and comes back in `Result.frames`.
        purpose: Names the noise, so that two runs on the same frames can be independent.
        world: The ranks; None: this process alone.
        slabs: Number of time slabs; by default as few as the number of members allows.
        reproducible: Make the result bit-identical for any number of ranks.
        batch: Members treated at once; with rows, what bounds memory.
        rows: Most (member, window) pairs per network call.
        group: With ``reproducible``: members per network call, exactly; absent ones are computed
            and dropped, so let it divide the members of every task.
        dtype: Precision of states.
        checkpoint: Where and how often to save; a run continues from what it finds there.
        progress: An object with ``update(done, total, **figures)``.
        stop: An object with ``requested(world) -> bool``, asked between steps and between the
            guided calls of a step, which is then begun again on the next start.

    Raises:
        BadInput: If arguments do not fit each other.
        Diverged: If the denoiser gives values that are not finite.
        Stopped: If asked to stop; the state was saved if there is a checkpoint folder.
    """

    run = _Run(
        denoiser, tuple(shape), length, window, overlap, list(members), likelihood, context,
        compose, coarse, guidance, sampler, markov, seed, first, purpose, world or World(), slabs,
        reproducible, batch, rows, group, dtype, checkpoint,
    )  # fmt: skip
    result = run(progress, stop)
    # Only at a good end: freeing is a collective, and a rank that failed must not wait for others.
    run.close()

    return result


class _Run:
    r"""One call of `sample`."""

    def __init__(
        self, denoiser, shape, length, window, overlap, members, likelihood, context, rule,
        coarse, guidance, sampler, markov, seed, first, purpose, world, slabs, reproducible,
        batch, rows, group, dtype, checkpoint,
    ) -> None:  # fmt: skip
        self.world, self.seed, self.shape, self.dtype = world, seed, shape, dtype
        self.place, self.first, self.purpose = checkpoint, first, purpose
        for name, value in (("batch", batch), ("rows", rows), ("group", group)):
            if value < 1:
                raise BadInput(f"{value}", where=name, instead="Use 1 or more.")
        if not members or len(set(members)) < len(members) or min(members) < 0:
            raise BadInput(
                "members must be distinct ids from 0", where="members", instead="Give one or more."
            )
        guided = settings(GuidanceConfig, guidance, "guidance")
        self.config = settings(SamplerConfig, sampler, "sampler")
        if guided.method == "dps" and self.config.corrections:
            raise BadInput(
                "dps moves x after each step and has no corrections",
                where="sampler.corrections",
                instead="Use 0, or mmps.",
            )
        if context is not None and len(context) != length:
            raise BadInput(f"a context of {len(context)} frames for {length}", where="context")
        terms = composition(rule, length, window, overlap, coarse)
        denoiser = adapted(denoiser)
        if markov is None and guided.covariance == "markov":
            markov = ModalCovariance.of(denoiser, length)
        observed = []
        if likelihood is not None:
            tried = likelihood
            if hasattr(likelihood, "for_members"):
                tried = likelihood.for_members(members[:1])
            observed = checked(tried, length, shape)

        block = group if reproducible else 1
        part = Partition.of(world.rank, world.size, len({m // block for m in members}), slabs)
        self.part = part
        self.comm = None
        if world.size > 1:
            with at("the ranks of a member group"):
                self.comm = world.comm.Split(part.group, part.slab)
        self.exchange = Exchange(terms, length, self.comm if part.slabs > 1 else None)
        self.wanted = part.members(members, block)
        # Blocks are filled up, so that a member's place in a call never changes.
        self.members = (
            [m for k in sorted({m // group for m in self.wanted}) for m in
             range(k * group, (k + 1) * group)]
            if reproducible
            else self.wanted
        )  # fmt: skip
        size = max(batch // group, 1) * group if reproducible else batch
        self.batches = [
            slice(i, min(i + size, len(self.members))) for i in range(0, len(self.members), size)
        ]
        self.network = Network(
            denoiser,
            adapted(coarse.denoiser) if coarse is not None else None,
            None if context is None else torch.as_tensor(context),
            group if reproducible else rows,
        )
        self.guidance = Guidance(
            Slab(self.exchange, self.network),
            guided,
            likelihood,
            observed,
            group if reproducible else None,
            reproducible,
            markov,
        )
        self.levels = levels(denoiser.schedule, self.config, dtype)
        self.sampler = Sampler(self.config, self.levels)
        self.identity = {
            "seed": seed, "first": first, "purpose": purpose, "shape": list(shape),
            "length": length, "terms": len(terms),
            "window": window, "overlap": overlap, "compose": rule, "members": sorted(members),
            "guidance": guided.model_dump(), "sampler": self.config.model_dump(),
            "reproducible": reproducible, "dtype": str(dtype),
            "coarse": None if coarse is None else [coarse.step, coarse.window, coarse.overlap],
            "observations": _fingerprint(likelihood, observed),
        }  # fmt: skip

    def close(self) -> None:
        if self.comm is not None:
            with at("the end of a member group"):
                self.comm.Free()

    def _noise(self, ids: Sequence[int], step: int) -> Callable[[str], Tensor]:
        r"""Noise of own frames for some members: purpose -> ``(B, own, *state)``."""

        own = [self.first + f for f in self.exchange.own]

        def draw(purpose: str) -> Tensor:
            out = torch.empty((len(ids), len(own), *self.shape), dtype=self.dtype)
            for row, member in zip(out, ids, strict=True):
                row.copy_(
                    keyed.frames(
                        self.shape, seed=self.seed, purpose=f"{self.purpose} {purpose}",
                        member=member, frames=own, step=step, dtype=self.dtype,
                    )
                )  # fmt: skip
            return out.to(self.world.device)

        return draw

    def _start(self) -> storage.Saved:
        r"""The state to begin with: what a checkpoint kept, or noise."""

        if self.place is not None:
            saved = storage.load(
                self.place, self.world, self.members, self.exchange.frames, self.identity
            )
            if saved is not None:
                saved.tensors = [t.to(self.world.device) for t in saved.tensors]
                return saved
        x = [self.sampler.start(self._noise(self.members[b], 0)) for b in self.batches]
        return storage.Saved(0, [torch.cat(x)], [])

    def __call__(self, progress: Any, stop: Any) -> Result:
        began = time.perf_counter()
        self._saved = time.monotonic()
        saved = self._start()
        steps, events = self.config.steps, self.guidance.figures.events
        earlier = list(saved.events)
        total = (steps + 1) * len(self.batches)

        most = self.world.all_reduce(len(self.batches), "max")
        for i in range(saved.step, steps):
            ask, known = _Asked(stop, self.world, most * self.config.per_step), len(events)
            try:
                saved = self._step(i, saved, ask, progress, total)
            except _StopNow:
                del events[known:]  # they come again with the step
                if self.place is not None:
                    self._save(saved, earlier)
                raise Stopped(f"asked to stop in step {i} of {steps}") from None
            if self._due(i + 1):
                self._save(saved, earlier)

        final = []
        for k, b in enumerate(self.batches):
            ids = self.members[b]
            final.append(self.sampler.finish(saved.tensors[0][b], self._denoise(ids)))
            if progress is not None:
                progress.update(steps * len(self.batches) + k + 1, total)
        x = torch.cat(final)
        at = [self.members.index(m) for m in self.wanted]
        events = earlier + [e.as_dict() for e in events]

        return Result(
            self.wanted,
            [self.first + f for f in self.exchange.own],
            x[at] if len(at) < len(x) else x,
            self._diagnostics(began, [e for e in events if e["member"] in set(self.wanted)]),
        )

    def _step(
        self, i: int, saved: storage.Saved, ask: _Asked, progress: Any, total: int
    ) -> storage.Saved:
        r"""All members' step i."""

        new: list[list[Tensor]] = []
        for k, b in enumerate(self.batches):
            ids = self.members[b]
            x, *past = (t[b] for t in saved.tensors)
            x, past = self.sampler.step(i, x, past, self._denoise(ids, ask), self._noise(ids, i))
            new.append([x, *past])
            if progress is not None:
                progress.update(i * len(self.batches) + k + 1, total, sigma=self.levels[i].sigma)
        ask.rest()
        return storage.Saved(i + 1, [torch.cat(t) for t in zip(*new, strict=True)], [])

    def _denoise(self, ids: Sequence[int], ask: _Asked | None = None):
        def denoise(x: Tensor, level: Level) -> Estimate:
            if ask is not None:
                ask()
            return self.guidance(x, level, ids)

        return denoise

    def _due(self, done: int) -> bool:
        r"""Whether to save after ``done`` steps; the first rank's clock decides for all."""

        place = self.place
        if place is None:
            return False
        if done == self.config.steps:
            return place.final
        if place.every and done % place.every == 0:
            return True
        if not place.minutes:
            return False
        return self.world.broadcast(time.monotonic() - self._saved >= 60 * place.minutes)

    def _save(self, saved: storage.Saved, earlier: list[dict]) -> None:
        saved.events = earlier + [e.as_dict() for e in self.guidance.figures.events]
        storage.save(
            self.place, self.world, saved, self.members, self.exchange.frames, self.identity
        )
        self._saved = time.monotonic()

    def _diagnostics(self, began: float, events: list[dict]) -> dict[str, Any]:
        network, figures = self.network, self.guidance.figures
        pairs = sum(len(t.frames) for t in self.exchange.terms)
        residuals = [figures.residuals[k] for k in sorted(figures.residuals)]

        return {
            "calls": self.config.calls,
            "evaluations_per_frame": self.config.calls * pairs / self.exchange.length,
            "network_calls": network.calls,
            "network_pairs": network.pairs,
            "network_products": network.products,
            "solver_products": figures.products,
            "solver_residuals": residuals,
            "worst_residual": max(residuals, default=0.0),
            "bytes_sent": self.exchange.sent,
            "bytes_summed": self.exchange.summed,
            "exchanges": self.exchange.exchanges,
            "frames_lent": self.exchange.lent,
            "events": events,
            "partition": {
                "groups": self.part.groups,
                "slabs": self.part.slabs,
                "terms": len(self.exchange.terms),
                "terms_here": len(self.exchange.mine),
            },
            "sigma": [level.sigma for level in self.levels],
            "seconds": time.perf_counter() - began,
        }


class _StopNow(Exception):
    r"""All ranks leave the step they are in."""


class _Asked:
    r"""Asks for a stop before each guided call of a step, as often on every rank.

    Arguments:
        stop: Whom to ask, or None.
        world: The ranks, which agree.
        times: Guided calls of the rank that has most.
    """

    def __init__(self, stop: Any, world: World, times: int) -> None:
        self._stop, self._world, self._left = stop, world, times

    def __call__(self) -> None:
        self._left -= 1
        if self._stop is not None and self._stop.requested(self._world):
            raise _StopNow

    def rest(self) -> None:
        r"""Asks along with ranks that have more members."""
        while self._left > 0:
            self()


def _fingerprint(likelihood: Likelihood | None, observed: Sequence[Moment]) -> str | None:
    r"""A digest of the observed values, where they are the same for all members."""

    if not observed or hasattr(likelihood, "for_members"):
        return None
    y = likelihood.y(list(observed)).detach().cpu().contiguous().numpy()
    return hashlib.blake2b(y.tobytes(), digest_size=16).hexdigest()
