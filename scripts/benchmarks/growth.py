r"""How time, memory and messages grow with frames, members and ranks.

    python scripts/benchmarks/growth.py time       # processor seconds for 16 times the frames
    python scripts/benchmarks/growth.py memory     # of each rank: a + b (own frames) + c (frames)
    python scripts/benchmarks/growth.py bytes      # sent per guided call, beside the overlaps'

The network is one small convolution over time and space: what is measured is the engine. Memory is
the peak of a process (VmHWM), the ranks are started with mpirun, and c, the term in the length of
the whole trajectory, should be nothing beside b.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule

from hpcinv import assimilation, parallel

WINDOW, OVERLAP = 8, 4
SETTINGS = {
    "center, per window": {"compose": "center"},
    "junction, per window": {"compose": "junction"},
    "junction, averaged": {"compose": "junction", "guidance": {"covariance": "averaged"}},
    "junction, averaged, reproducible": {
        "compose": "junction", "guidance": {"covariance": "averaged"}, "reproducible": True,
        "group": 4,
    },
}  # fmt: skip


class Network(Denoiser):
    r"""Neighbours in time and space pull a point towards themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.schedule = VESchedule(1e-2, 50.0)
        self.kernel = torch.full((channels, 1, 3, 3, 3), 1 / 27)

    def forward(self, x_t, t, **kwargs):
        s = self.schedule.sigma(t)
        x = (x_t / (1 + s**2).sqrt()).movedim(1, 2)
        h = torch.nn.functional.conv3d(x, self.kernel, padding=1, groups=x.shape[1])
        return DiracPosterior(mean=torch.tanh((x + h) / 2).movedim(2, 1) / (1 + s**2).sqrt())


def run(state: tuple[int, ...], length: int, members: int, steps: int, setting: dict, **more):
    class Table:
        frame = np.repeat(np.arange(length), 16)
        channel = np.tile(np.arange(16) % state[0], length)
        point = np.tile(np.arange(16), length)
        value, error = np.zeros(16 * length), np.full(16 * length, 0.3)

    setting = dict(setting)
    guidance = {"iterations": 2} | setting.pop("guidance", {})
    return assimilation.sample(
        Network(state[0]), shape=state, length=length, window=WINDOW, overlap=OVERLAP,
        members=range(members), guidance=guidance, batch=4, rows=16,
        likelihood=assimilation.PointLikelihood(Table, shape=state, length=length),
        sampler={"method": "ddpm", "steps": steps}, **setting, **more,
    )  # fmt: skip


def seconds(args) -> None:
    r"""Processor seconds of one process: comparable on a machine that others use too."""

    torch.set_num_threads(1)
    state = (4, 8, 8)
    for name in [args.setting] if args.setting else SETTINGS:
        setting = SETTINGS[name]
        for what, sizes in (("frames", (64, 256, 1024)), ("members", (4, 16, 64))):
            took = []
            for n in sizes:
                L, M = (n, 4) if what == "frames" else (64, n)
                run(state, L, M, 1, setting)
                began = time.process_time()
                run(state, L, M, args.steps, setting)
                took.append(time.process_time() - began)
            text = ", ".join(f"{n}: {t:.2f} s" for n, t in zip(sizes, took, strict=True))
            print(f"{name}; {what} {text}; x16 costs x{took[-1] / took[0]:.1f}", flush=True)


def rank(args) -> None:
    r"""One rank of `memory` and `bytes`: says what it needed."""

    torch.set_num_threads(1)
    world = parallel.connect("mpi") if args.ranks > 1 else parallel.World()
    r = run(
        tuple(args.state), args.frames, args.members, args.steps, SETTINGS[args.setting],
        world=world, slabs=world.size,
    )  # fmt: skip
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    d = r.diagnostics
    every = world.all_gather([peak, d["bytes_sent"], d["bytes_summed"], d["exchanges"]])
    lent = world.all_gather(d["frames_lent"])
    if world.rank == 0:
        print(json.dumps({"ranks": every, "lent": lent}), flush=True)


def start(ranks: int, frames: int, state: tuple, setting: str, members: int, steps: int) -> dict:
    command = [sys.executable, __file__, "rank", "--ranks", str(ranks), "--frames", str(frames)]
    command += ["--state", *map(str, state), "--setting", setting, "--members", str(members)]
    command += ["--steps", str(steps)]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "-n", str(ranks), *command]
    env = os.environ | {
        "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory(args) -> None:
    state = (8, 64, 64)
    frame = 4 * int(np.prod(state))
    print(f"frames of {frame / 2**10:.0f} KiB, {args.setting}")
    rows, peaks = [], []
    for ranks, own in itertools.product((3, 6), (32, 64, 128)):
        found = start(ranks, ranks * own, state, args.setting, 1, 1)
        peak = max(r[0] for r in found["ranks"])
        rows.append((1, own, ranks * own))
        peaks.append(peak)
        print(f"{ranks} ranks, {ranks * own:4d} frames, {own:3d} own: {peak / 2**20:7.1f} MiB")
    (a, b, c), *_ = np.linalg.lstsq(np.array(rows, float), np.array(peaks, float), rcond=None)
    off = np.array(rows, float) @ (a, b, c) - peaks
    print(
        f"peak = {a / 2**20:.0f} MiB + {b / frame:.1f} x own frames + {c / frame:.2f} x all, in "
        f"sizes of a frame; within {np.abs(off).max() / 2**20:.0f} MiB"
    )


def messages(args) -> None:
    state, members = (8, 16, 16), 2
    frame = 4 * members * int(np.prod(state))
    for name in [args.setting] if args.setting else SETTINGS:
        for ranks, frames in ((2, 32), (2, 128), (4, 128)):
            found = start(ranks, frames, state, name, members, 4)
            sent = sum(r[1] for r in found["ranks"])
            summed = sum(r[2] for r in found["ranks"])
            n = found["ranks"][0][3]
            print(
                f"{name}; {ranks} ranks, {frames} frames: {sent / n / frame:.2f} frames of "
                f"{frame / 2**10:.0f} KiB sent each time (overlaps lend {sum(found['lent'])}), "
                f"{summed / n:.0f} bytes of sums",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["time", "memory", "bytes", "rank"])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--state", type=int, nargs="+", default=[4, 8, 8])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--setting", choices=SETTINGS)
    args = parser.parse_args()
    if args.what in ("memory", "rank"):
        args.setting = args.setting or next(iter(SETTINGS))
    {"time": seconds, "memory": memory, "bytes": messages, "rank": rank}[args.what](args)


if __name__ == "__main__":
    main()
