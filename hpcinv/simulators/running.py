r"""Running a simulator that may fail: what cannot be simulated is counted, and the rest goes on.

A batch that raises is repeated row by row, so that one bad row costs one row. With a time limit
the simulator runs in a process of its own, which can be ended whatever it is doing; it is started
anew for the next call.
"""

from __future__ import annotations

__all__ = ["REASONS", "Outcome", "Runner"]

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .base import Key

OK, NOT_FINITE, EXCEPTION, TIME_OUT, DIED = range(5)
REASONS = ("ok", "not finite", "exception", "time-out", "died")
START = 300.0  # seconds that a simulator may take to be imported and made


@dataclass
class Outcome:
    r"""What came of n simulations.

    Attributes:
        x: Results, with shape (n, *S); NaN where there is none.
        reason: Index into `REASONS` of each.
        notes: (id, reason, message) of those that failed, where there is something to say.
    """

    x: np.ndarray
    reason: np.ndarray
    notes: list[tuple[int, str, str]] = field(default_factory=list)


class Failed(Exception):
    r"""A call of the simulator failed, for one of the `REASONS`."""

    def __init__(self, reason: int, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def _call(simulator: Any, theta: np.ndarray, key: Key, device: Any = "cpu") -> np.ndarray:
    given = torch.from_numpy(theta)
    if getattr(simulator, "portable", False):
        given = given.to(device)
    x = simulator.simulate(given, key)
    x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, np.float32)
    shape = (len(theta), *simulator.outputs.shape)
    if x.shape != shape:
        raise ValueError(f"the simulator returned the shape {x.shape} instead of {shape}")
    return x


def _serve(make: Callable[[], Any], pipe: Any, device: Any) -> None:
    r"""The process of its own: answers calls until there are no more."""
    torch.set_num_threads(1)
    try:
        simulator = make()
        pipe.send(("ready", None))
        while True:
            theta, key = pipe.recv()
            try:
                pipe.send(("x", _call(simulator, theta, key, device)))
            except Exception as e:
                pipe.send(("exception", _short(e)))
    except (EOFError, KeyboardInterrupt):
        pass


def _short(e: BaseException) -> str:
    where = traceback.extract_tb(e.__traceback__)[-1]
    return f"{type(e).__name__}: {e} ({where.name}, line {where.lineno})"


class Runner:
    r"""Runs batches of simulations.

    Arguments:
        make: Makes the simulator; picklable where there is a time limit.
        simulator: What it made, for the runs in this process.
        timeout: Seconds a call may take, None for any. A call of many rows that takes longer is
            repeated row by row.
        device: Where parameters are given to a simulator that says it is `portable`.
    """

    def __init__(
        self, make: Callable[[], Any], simulator: Any, timeout: float | None = None,
        device: Any = "cpu",
    ) -> None:  # fmt: skip
        self.make, self.simulator, self.timeout = make, simulator, timeout
        self.device = device
        self._process: Any = None
        self._pipe: Any = None

    def run(self, theta: np.ndarray, key: Key) -> Outcome:
        r"""Simulates rows.

        Arguments:
            theta: Parameters, with shape (n, P).
            key: Names their random numbers.
        """
        n = len(theta)
        out = Outcome(
            np.full((n, *self.simulator.outputs.shape), np.nan, np.float32), np.zeros(n, np.uint8)
        )
        if self.simulator.batched and n > 1:
            try:
                out.x[:] = self._attempt(theta, key)
                self._not_finite(out, key)
                return out
            except Failed:
                pass  # which of the rows it was, the rows alone will tell
        for i in range(n):
            try:
                out.x[i] = self._attempt(theta[i : i + 1], key[i])[0]
            except Failed as e:
                out.reason[i] = e.reason
                out.notes.append((int(key.ids[i]), REASONS[e.reason], str(e)))
        self._not_finite(out, key)
        return out

    def _not_finite(self, out: Outcome, key: Key) -> None:
        finite = np.isfinite(out.x).reshape(len(out.x), -1).all(1)
        for i in np.flatnonzero(~finite & (out.reason == OK)):
            out.reason[i] = NOT_FINITE
            bad = int((~np.isfinite(out.x[i])).sum())
            out.notes.append(
                (int(key.ids[i]), REASONS[NOT_FINITE], f"{bad} of {out.x[i].size} values")
            )

    def _attempt(self, theta: np.ndarray, key: Key) -> np.ndarray:
        if self.timeout is None:
            try:
                return _call(self.simulator, theta, key, self.device)
            except Exception as e:
                raise Failed(TIME_OUT if isinstance(e, TimeoutError) else EXCEPTION, _short(e)) \
                    from e  # fmt: skip
        self._start()
        try:
            self._pipe.send((theta, key))
            if not self._pipe.poll(self.timeout):
                self.close()
                raise Failed(TIME_OUT, f"no answer within {self.timeout:g} s")
            what, value = self._pipe.recv()
        except (EOFError, OSError) as e:
            self._process.join(5)
            code = self._process.exitcode
            self.close()
            raise Failed(DIED, f"the simulator's process ended with {code}") from e
        if what == "exception":
            raise Failed(EXCEPTION, value)
        return value

    def _start(self) -> None:
        if self._process is not None:
            return
        # Spawned, never forked: MPI and the threads of libraries do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self.make, theirs, self.device), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            if not self._pipe.poll(START):
                raise RuntimeError(f"the simulator was not ready within {START:.0f} s")
            self._pipe.recv()
        except EOFError as e:
            self.close()
            raise RuntimeError("the simulator's process ended before it was ready") from e

    def close(self) -> None:
        r"""Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join(10)
            with contextlib.suppress(OSError):
                self._pipe.close()
            self._process = self._pipe = None
