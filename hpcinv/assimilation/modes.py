r"""Other uses of the same sampler: filtering, and forecasts that roll windows forward.

Reanalysis is `sample` itself, with all observations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..parallel import World
from ..waiting import at
from .checkpoint import Checkpoint
from .config import GuidanceConfig, settings
from .engine import Result, sample
from .likelihood import Likelihood, Restricted

__all__ = ["Drawn", "analysis_and_forecast", "filtering", "forecast"]


def _place(checkpoint: Checkpoint | None, name: str) -> Checkpoint | None:
    r"""A run's own folder of checkpoints; its last state stays, so that it is not run again."""

    if checkpoint is None:
        return None
    return replace(checkpoint, folder=Path(checkpoint.folder) / name, keep=1, final=True)


class _Part:
    r"""Progress of one run of several that are alike."""

    def __init__(self, progress: Any, k: int, n: int) -> None:
        self._progress, self._k, self._n = progress, k, n

    def update(self, done: float, total: float, **figures: float) -> None:
        self._progress.update(self._k + done / total, self._n, **figures)


def filtering(
    denoiser: Callable,
    *,
    length: int,
    window: int,
    overlap: int,
    likelihood: Likelihood | None,
    times: Sequence[int] | None = None,
    memory: int | None = None,
    ahead: int = 0,
    context: Tensor | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Any = None,
    **kwargs: Any,
) -> Result:
    r"""Draws x_i | y[1:i] for each analysis time i, by a run over the frames up to i.

    Arguments:
        length: Number of frames L of the observations.
        times: Analysis times; all frames by default.
        memory: Frames each run goes back; all by default. Older observations are then forgotten.
        ahead: Draws x_i | y[1:i − ahead] instead: what the filter forecasts of frame i before it
            sees the observations of the last frames. The first ones are drawn from the prior.
        checkpoint: Where the runs save themselves, each in a folder of its own; the last state
            of each is kept (so `memory` bounds what is on disk, too).
        kwargs: What `sample` takes, except `first` and `purpose`.

    Returns:
        The frames ``times`` of the rank's members, on the ranks that hold the end of a trajectory;
        other ranks hold none. Draws at two times are independent.
    """

    times = list(range(length)) if times is None else list(times)
    if not times or min(times) < 0 or max(times) >= length:
        raise BadInput(
            f"analysis times {times} of {length} frames", where="times", instead="Use 0 to L − 1."
        )
    if not 0 <= ahead <= length:
        raise BadInput(
            f"a forecast {ahead} frames ahead", where="ahead", instead=f"Use 0 to {length}."
        )
    if memory is not None and memory < 1:
        raise BadInput(f"a memory of {memory} frames", where="memory", instead="Use 1 or more.")

    states, events, result = [], [], None
    for i in times:
        start = 0 if memory is None else max(0, i + 1 - memory)
        result = sample(
            denoiser,
            length=i + 1 - start,
            window=window,
            overlap=overlap,
            likelihood=None
            if likelihood is None
            else Restricted(likelihood, start, i + 1 - ahead),
            context=None if context is None else context[start : i + 1],
            first=start,
            purpose=f"filtering {i}",
            checkpoint=_place(checkpoint, f"filtering-{i}"),
            progress=progress and _Part(progress, times.index(i), len(times)),
            **kwargs,
        )
        events += result.diagnostics["events"]
        if i in result.frames:
            states.append(result.x[:, result.frames.index(i)])
    x = torch.stack(states, dim=1) if states else result.x[:, :0]

    return Result(
        result.members, times if states else [], x, result.diagnostics | {"events": events}
    )


class Drawn:
    r"""Frames 0..V−1 are known for each member, up to a small error.

    Arguments:
        states: Member -> its frames, with shape ``(V, *state)``.
        error: Standard deviation of the condition, in units of the state.
    """

    linear = True

    def __init__(self, states: dict[int, Tensor], error: float, ids: Sequence[int] | None = None):
        self._states, self._error = states, error
        first = next(iter(states.values()))
        self._known, self._size = len(first), first[0].numel()
        self._ids, self._like = list(states) if ids is None else list(ids), first

    def for_members(self, ids: Sequence[int]) -> Drawn:
        return Drawn(self._states, self._error, ids)

    def sizes(self, frames: Sequence[int]) -> list[int]:
        return [self._size if f < self._known else 0 for f in frames]

    def y(self, frames: Sequence[int]) -> Tensor:
        # Members without a state are padding, whose draws are dropped.
        zero = torch.zeros_like(self._like)
        rows = [self._states.get(m, zero)[list(frames)].flatten() for m in self._ids]
        return torch.stack(rows)

    def variance(self, frames: Sequence[int]) -> Tensor:
        n = sum(self.sizes(frames))
        return torch.full((n,), self._error**2, dtype=self._like.dtype)

    def operator(self, x: Tensor, frames: Sequence[int]) -> Tensor:
        return x.flatten(1)

    def covariance(self, v: Tensor, frames: Sequence[int]) -> Tensor:
        return v * self._error**2


def forecast(
    denoiser: Callable,
    *,
    start: Tensor | Mapping[int, Tensor],
    members: Sequence[int],
    lead: int,
    window: int,
    overlap: int | None = None,
    first: int = 0,
    error: float = 0.05,
    context: Tensor | None = None,
    guidance: GuidanceConfig | dict | None = None,
    world: World | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Any = None,
    **kwargs: Any,
) -> Result:
    r"""Rolls windows forward, each conditioned on the last V frames already drawn.

    Arguments:
        start: Frames up to the analysis time, with shape ``(M, n, *state)``, or member ->
            ``(n, *state)`` of this rank's members; the last V are used.
        members: Global ids of the M members.
        lead: Number of frames to draw after them.
        window: Frames W of a window.
        overlap: Frames V each window is conditioned on; half a window, or all of ``start`` if it
            is shorter, by default.
        first: Global number of the first frame of ``start``.
        error: Standard deviation of the condition, in units of the state.
        context: Context of the frames of ``start`` and of the forecast, ``(n + lead, K)``.
        guidance: MMPS; by default 8 iterations, since whole frames are observed.
        checkpoint: Where the windows save themselves, each in a folder of its own.
        kwargs: What else `sample` takes.

    Returns:
        The ``lead`` frames of this rank's members. Ranks that share members share each window's
        frames as `sample` does.
    """

    if not isinstance(start, Mapping):
        if len(start) != len(members):
            raise BadInput(f"{len(start)} states of {len(members)} members", where="forecast")
        start = dict(zip(members, start, strict=True))
    one = next(iter(start.values()))
    n, state = len(one), one.shape[1:]
    V = min(n, max(window // 2, 1)) if overlap is None else overlap
    if not 1 <= V <= min(n, window - 1):
        raise BadInput(
            f"windows of {window} conditioned on {V} of {n} frames",
            where="overlap",
            instead=f"Use 1 to {min(n, window - 1)}.",
        )
    if lead < 1:
        raise BadInput(f"a forecast of {lead} frames", where="lead", instead="Use 1 or more.")
    if context is not None and len(context) != n + lead:
        raise BadInput(f"a context of {len(context)} frames for {n + lead}", where="context")
    if guidance is None:
        guidance = {"iterations": 8, "tolerance": 1e-2}
    guidance = settings(GuidanceConfig, guidance, "guidance")

    known = {m: x[-V:].cpu() for m, x in start.items()}
    done, events, frames, drawn, result = 0, [], [], [], None
    while done < lead:
        length = min(window, V + lead - done)
        begin = n + done - V
        result = sample(
            denoiser,
            shape=state,
            length=length,
            window=length,
            overlap=0,
            members=members,
            likelihood=Drawn(known, error),
            context=None if context is None else context[begin : begin + length],
            guidance=guidance,
            first=first + begin,
            purpose=f"forecast {done}",
            world=world,
            dtype=one.dtype,
            checkpoint=_place(checkpoint, f"forecast-{done}"),
            progress=progress and _Part(progress, done, lead),
            **kwargs,
        )
        events += result.diagnostics["events"]
        new = [k for k, f in enumerate(result.frames) if f >= first + n + done]
        frames += [result.frames[k] for k in new]
        drawn.append(result.x[:, new].cpu())
        # The known frames themselves go on, not their slightly different copies in the window.
        keep = min(V, length - V)
        latest = _last_frames(result, first + begin + length, keep, world)
        known = {m: torch.cat((known[m], x))[-V:] for m, x in latest.items()}
        done += length - V

    return Result(
        result.members, frames, torch.cat(drawn, 1), result.diagnostics | {"events": events}
    )


def _last_frames(
    result: Result, stop: int, count: int, world: World | None = None
) -> dict[int, Tensor]:
    r"""The last frames of this rank's members, also those that other time slabs hold.

    Arguments:
        result: What `sample` gave this rank.
        stop: Global number after the last frame of the trajectory.
        count: How many frames.

    Returns:
        Member -> its frames, with shape ``(count, *state)``; a collective of the world.
    """

    out = torch.zeros((len(result.members), count, *result.x.shape[2:]), dtype=result.x.dtype)
    for k, f in enumerate(result.frames):
        if f >= stop - count:
            out[:, f - stop + count] = result.x[:, k].cpu()
    slabs = result.diagnostics["partition"]["slabs"]
    if slabs > 1:
        whole = out.numpy().copy()
        with at("the last frames of other time slabs"):
            comm = world.comm.Split(world.rank // slabs, world.rank)
            comm.Allreduce(out.numpy(), whole)
            comm.Free()
        out = torch.from_numpy(whole)

    return dict(zip(result.members, out, strict=True))


def analysis_and_forecast(
    denoiser: Callable,
    *,
    length: int,
    lead: int,
    window: int,
    overlap: int,
    likelihood: Likelihood | None,
    context: Tensor | None = None,
    world: World | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Any = None,
    compose: str = "center",
    coarse: Any = None,
    guidance: GuidanceConfig | dict | None = None,
    markov: object = None,
    **kwargs: Any,
) -> list[Result]:
    r"""A reanalysis of the first frames and, from each member's end, a forecast of the rest.

    Observations of the forecast's frames are not looked at.

    Arguments:
        length: Number of frames L of both.
        lead: How many of them, the last ones, are forecast.
        window, overlap: Of the reanalysis; the forecast's windows are as long, and conditioned on
            ``overlap`` frames (half a window, where the reanalysis is one window).
        guidance: Of the reanalysis; of the forecast too if its covariance is the Markov chain of
            the denoiser's Gaussian part, otherwise that has its own (see `forecast`).
        kwargs: What `sample` takes.

    Returns:
        What this rank holds of the analysis, and of the forecast.
    """

    n = length - lead
    if not 1 <= lead < length:
        raise BadInput(
            f"a forecast of {lead} of {length} frames", where="lead",
            instead=f"Use 1 to {length - 1}.",
        )  # fmt: skip
    analysis = sample(
        denoiser,
        length=n,
        window=window,
        overlap=overlap,
        likelihood=None if likelihood is None else Restricted(likelihood, 0, n),
        context=None if context is None else context[:n],
        compose=compose,
        coarse=coarse,
        guidance=guidance,
        markov=markov,
        world=world,
        checkpoint=_place(checkpoint, "analysis"),
        progress=progress and _Part(progress, 0, 2),
        **kwargs,
    )
    V = min(n, overlap if 0 < overlap < window else max(window // 2, 1), window - 1)
    kwargs.pop("shape")
    # What the reanalysis asks of sparse observations is no measure for whole known frames; but a
    # covariance that needs no Jacobian stays one.
    chosen = settings(GuidanceConfig, guidance, "guidance")
    modal = chosen.covariance == "markov" and getattr(denoiser, "skip", None) is not None
    later = forecast(
        denoiser,
        start=_last_frames(analysis, n, V, world),
        lead=lead,
        window=window,
        overlap=V,
        first=n - V,
        context=None if context is None else context[n - V :],
        world=world,
        checkpoint=checkpoint,
        progress=progress and _Part(progress, 1, 2),
        guidance=chosen if modal else None,
        **{k: v for k, v in kwargs.items() if k != "dtype"},
    )

    return [analysis, later]
