r"""Proofs that a cluster runs the engine as it should, under the names of CESM's system tests.

A small nonlinear problem is sampled in reproducible mode, so that every difference must be zero:

* REP: twice the same.
* ERS: stopped half-way and resumed.
* PEM: on half of the ranks.
* ERP: stopped half-way and resumed on half of the ranks.
* NODEFAIL: the ranks of one node are killed half-way; the job must end, and resume.

The first four are one start of the ranks. NODEFAIL is two, `cut` and `resume`, which somebody
outside (`launch/selftest.py`) has to make: run as a program, this module is one rank of a start,

    python -m hpcinv.assimilation.selftest FOLDER run|cut|resume [REP ...]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VPSchedule
from torch import Tensor

from ..diffusion import noise
from ..errors import BadInput, Stopped, nearest
from ..parallel import MPIWorld, World, connect, leave_mpi_alone
from ..waiting import at
from .checkpoint import Checkpoint
from .engine import sample
from .point_likelihood import PointLikelihood

__all__ = ["NODEFAIL", "TESTS", "Verdict", "cut", "main", "resume", "run"]

TESTS = ("ERS", "PEM", "ERP", "REP")
NODEFAIL = "NODEFAIL"
LENGTH, STATE, STEPS, MEMBERS = 24, (2, 8), 6, range(4)
SAMPLER = {"method": "ddpm", "steps": STEPS, "corrections": 1}
ASKED = 2  # guided calls of a step: as often a run asks whether to stop


@dataclass(frozen=True)
class Verdict:
    r"""The outcome of one test: it passes if no number differs."""

    name: str
    difference: float

    @property
    def passed(self) -> bool:
        return self.difference == 0

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict} {self.name} largest difference {self.difference:.3g}"


class _Network(Denoiser):
    r"""A small nonlinear denoiser that mixes neighbouring frames and points."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = VPSchedule(1e-2, 1e-2)
        self._kernel = noise.normal((2, 2, 3, 3), seed=0, purpose="selftest kernel") / 4

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:
        alpha, sigma = self.schedule(t)
        power = alpha**2 + sigma**2
        h = (x_t * torch.rsqrt(power)).transpose(1, 2)
        h = torch.nn.functional.conv2d(h, self._kernel.to(x_t), padding=1).transpose(1, 2)
        return DiracPosterior(mean=alpha / power * x_t + sigma * torch.tanh(h))


class _Table:
    frame = np.repeat(np.arange(0, LENGTH, 3), 3)
    channel = np.arange(len(frame)) % 2
    point = np.arange(len(frame)) * 3 % 8
    value = noise.normal((len(frame),), seed=0, purpose="selftest y").numpy()
    error = np.full(len(frame), 0.3)


class _Halfway:
    def __init__(self) -> None:
        self._left = ASKED * (STEPS // 2)

    def requested(self, world: World) -> bool:
        self._left -= 1
        return self._left < 0


class _NodeFailure:
    r"""Ends the ranks of one node as a power cut would, half-way.

    The node is that of the last rank. Where there is one node only, the last half of its ranks
    stand for another.
    """

    def __init__(self, world: World, folder: Path) -> None:
        nodes = world.all_gather(os.uname().nodename)
        last = nodes[-1] if len(set(nodes)) > 1 else None
        here = nodes[world.rank] == last if last else world.rank >= world.size // 2
        self._doomed, self._left, self._folder = here, ASKED * (STEPS // 2), folder
        self._told = world.rank == world.size - 1

    def requested(self, world: World) -> bool:
        self._left -= 1
        if self._left < 0 and self._doomed:
            if self._told:
                (self._folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def _draw(world: World, place: Checkpoint | None = None, stop: Any = None) -> np.ndarray | None:
    r"""The whole ensemble on every rank, or None if the run was stopped."""

    try:
        result = sample(
            _Network(),
            shape=STATE,
            length=LENGTH,
            window=6,
            overlap=3,
            members=MEMBERS,
            likelihood=PointLikelihood(_Table, shape=STATE, length=LENGTH),
            compose="junction",
            guidance={"scope": "trajectory", "iterations": 2},
            sampler=SAMPLER,
            world=world,
            # One trajectory over all ranks, as far as it goes: the hardest case.
            slabs=world.size,
            reproducible=True,
            checkpoint=place,
            stop=stop,
        )
    except Stopped:
        return None
    whole = np.zeros((len(MEMBERS), LENGTH, *STATE), np.float32)
    for row, m in zip(result.x.cpu().numpy(), result.members, strict=True):
        whole[m, result.frames] = row

    return world.all_reduce(whole)


def run(names: Sequence[str], world: World, folder: Path | str) -> list[Verdict]:
    r"""Runs tests; a collective of the world.

    Arguments:
        names: Some of `TESTS`.
        world: The ranks; with one rank, PEM and ERP run on one rank as well.
        folder: An empty folder that all ranks see, for checkpoints.

    Raises:
        BadInput: If a test is unknown.
    """

    for name in names:
        if name not in TESTS:
            raise BadInput(
                f"unknown test '{name}'", where="selftest", instead=nearest(name, TESTS)
            )
    folder = Path(folder)
    half = _half(world)
    reference = _draw(world)
    verdicts = []
    for name in names:
        here = world if name in ("REP", "ERS") else half
        place = Checkpoint(folder / name)
        if name in ("ERS", "ERP"):
            _draw(world, place, _Halfway())
        got = None
        if here is not None:
            got = _draw(here, place if name in ("ERS", "ERP") else None)
        verdicts.append(Verdict(name, _difference(world, got, reference)))

    return verdicts


def _difference(world: World, got: np.ndarray | None, reference: np.ndarray) -> float:
    r"""The largest difference on any rank; a result that is not finite equals nothing."""

    difference = 0.0
    if got is not None:
        difference = float(np.abs(got.astype(np.float64) - reference).max())
    return world.all_reduce(difference if np.isfinite(difference) else float("inf"), "max")


def cut(world: World, folder: Path | str) -> None:
    r"""The first start of NODEFAIL: saves every step, and does not survive its middle.

    A file `killed` in the folder tells when the last rank ended.
    """

    folder = Path(folder)
    _draw(world, Checkpoint(folder / NODEFAIL, every=1), _NodeFailure(world, folder))


def resume(world: World, folder: Path | str) -> Verdict:
    r"""The second start of NODEFAIL, on any number of ranks: what was lost is made again.

    Raises:
        BadInput: If the first start saved nothing.
    """

    place = Checkpoint(Path(folder) / NODEFAIL, attempt=1)
    if not (Path(place.folder) / "latest").exists():
        raise BadInput("the run that was cut saved nothing", place.folder)
    got = _draw(world, place)

    return Verdict(NODEFAIL, _difference(world, got, _draw(world)))


def _half(world: World) -> World | None:
    r"""The first half of the ranks as a world of its own; None on the others."""

    if world.size == 1:
        return world
    members = max(world.size // 2, 1)
    with at("the half of the ranks"):
        comm = world.comm.Split(int(world.rank >= members), world.rank)
    return MPIWorld(comm, world.local_rank) if world.rank < members else None


def main(folder: str, stage: str, *names: str) -> int:
    r"""One rank of a start. Rank 0 prints the verdicts; exit code 1 where a test fails."""

    leave_mpi_alone()
    torch.set_num_threads(1)
    world = connect("mpi")
    try:
        if stage == "cut":
            cut(world, folder)
            return 0
        verdicts = [resume(world, folder)] if stage == "resume" else run(names, world, folder)
    except Exception:
        if world.size > 1:  # the others wait for this rank
            sys.excepthook(*sys.exc_info())
            world.comm.Abort(1)
        raise
    if world.rank == 0:
        for verdict in verdicts:
            print(verdict, flush=True)

    return 0 if all(v.passed for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
