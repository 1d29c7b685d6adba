r"""Other uses of the same sampler: filtering, and forecasts that roll windows forward.

Reanalysis is `sample` itself, with all observations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..parallel import World
from .config import GuidanceConfig, settings
from .engine import Result, sample
from .likelihood import Likelihood, Restricted

__all__ = ["Drawn", "filtering", "forecast"]


def filtering(
    denoiser: Callable,
    *,
    length: int,
    window: int,
    overlap: int,
    likelihood: Likelihood,
    times: Sequence[int] | None = None,
    memory: int | None = None,
    context: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    r"""Draws x_i | y[1:i] for each analysis time i, by a run over the frames up to i.

    Arguments:
        length: Number of frames L of the observations.
        times: Analysis times; all frames by default.
        memory: Frames each run goes back; all by default. Older observations are then forgotten.
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
            likelihood=Restricted(likelihood, start, i + 1),
            context=None if context is None else context[start : i + 1],
            first=start,
            purpose=f"filtering {i}",
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
    start: Tensor,
    members: Sequence[int],
    lead: int,
    window: int,
    overlap: int | None = None,
    first: int = 0,
    error: float = 0.05,
    context: Tensor | None = None,
    guidance: GuidanceConfig | dict | None = None,
    world: World | None = None,
    **kwargs: Any,
) -> Result:
    r"""Rolls windows forward, each conditioned on the last V frames already drawn.

    Arguments:
        start: Frames up to the analysis time, all members', with shape ``(M, n, *state)``; the
            last V are used.
        members: Global ids of the M members.
        lead: Number of frames to draw after them.
        window: Frames W of a window.
        overlap: Frames V each window is conditioned on; half a window, or all of ``start`` if it
            is shorter, by default.
        first: Global number of the first frame of ``start``.
        error: Standard deviation of the condition, in units of the state.
        context: Context of the frames of ``start`` and of the forecast, ``(n + lead, K)``.
        guidance: MMPS; by default 8 iterations, since whole frames are observed.
        kwargs: What else `sample` takes. Members are shared by the ranks, time is not.

    Returns:
        The ``lead`` frames of this rank's members.
    """

    n, state = start.shape[1], start.shape[2:]
    V = min(n, max(window // 2, 1)) if overlap is None else overlap
    if not 1 <= V <= min(n, window - 1):
        raise BadInput(
            f"windows of {window} conditioned on {V} of {n} frames",
            where="overlap",
            instead=f"Use 1 to {min(n, window - 1)}.",
        )
    if lead < 1 or len(start) != len(members):
        raise BadInput(
            f"a forecast of {lead} frames of {len(members)} members from {len(start)} states",
            where="forecast",
        )
    if context is not None and len(context) != n + lead:
        raise BadInput(f"a context of {len(context)} frames for {n + lead}", where="context")
    if guidance is None:
        guidance = {"iterations": 8, "tolerance": 1e-2}
    guidance = settings(GuidanceConfig, guidance, "guidance")

    known = {m: x[-V:] for m, x in zip(members, start, strict=True)}
    done, events, drawn, result = 0, [], [], None
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
            slabs=1,
            dtype=start.dtype,
            **kwargs,
        )
        events += result.diagnostics["events"]
        new = result.x[:, V:].cpu()
        drawn.append(new)
        done += length - V
        # The known frames themselves go on, not their slightly different copies in the window.
        known = {
            m: torch.cat((known[m].cpu(), x))[-V:]
            for m, x in zip(result.members, new, strict=True)
        }

    frames = list(range(first + n, first + n + lead))

    return Result(
        result.members, frames, torch.cat(drawn, 1), result.diagnostics | {"events": events}
    )
