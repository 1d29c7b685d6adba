r"""An analysis of a thousand million numbers, sampled, decoded and written by the ranks here.

    mpirun -n 2 python scripts/benchmarks/large.py FOLDER          # 12 x 78 x 721 x 1440
    mpirun -n 2 python scripts/benchmarks/large.py FOLDER --frames 2 --degrees 1

One member at 0.25 degrees: latents are sampled in windows of 6/2 given 500 points a frame, and
each rank decodes its own frames, one after the other, and writes them as `assimilate` does. The
networks are small and have random weights: memory, bytes and the path are real, the weather is
not. Each rank's peak of resident memory is printed, then the folder is read again, compared with
the digests of what was decoded, and removed.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from hpcinv import assimilation, parallel
from hpcinv.io.analysis import AnalysisWriter, open_analysis
from hpcinv.io.atomic import digest_frame
from hpcinv.models.autoencoder import Autoencoder
from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser


def peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--channels", type=int, default=78)
    parser.add_argument("--degrees", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--keep", action="store_true", help="leave the analysis where it is")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = parallel.connect("mpi")
    L, C = args.frames, args.channels
    lat = np.arange(-90, 90 + args.degrees / 2, args.degrees)
    lon = np.arange(0, 360 - args.degrees / 2, args.degrees)
    grid = (len(lat), len(lon))

    torch.manual_seed(0)
    decoder = Autoencoder(C, grid, latent_channels=8, stride=8, width=16)
    decoder = decoder.eval().requires_grad_(False)
    latent = decoder.latent_shape
    prior = TrajectoryDenoiser(latent[0], latent[1:], width=16, depth=1, context=0)
    prior = prior.eval().requires_grad_(False)
    rng = np.random.default_rng(0)

    class Table:
        frame = np.repeat(np.arange(L), 500)
        channel = rng.integers(0, C, 500 * L)
        point = rng.integers(0, grid[0] * grid[1], 500 * L)
        value, error = rng.standard_normal(500 * L), np.full(500 * L, 0.5)

    start = time.perf_counter()
    found = assimilation.sample(
        prior, shape=latent, length=L, window=min(6, L), overlap=min(2, L - 1), members=[0],
        likelihood=assimilation.PointLikelihood(Table, shape=(C, *grid), length=L,
                                                decoder=decoder),
        guidance={"iterations": 2}, sampler={"method": "ddpm", "steps": args.steps},
        world=world, slabs=world.size, rows=1,
    )  # fmt: skip
    world.barrier("sampled")
    sampled, start = time.perf_counter() - start, time.perf_counter()

    shutil.rmtree(args.folder, ignore_errors=True) if world.rank == 0 else None
    world.barrier("the folder")
    writer = AnalysisWriter(
        args.folder, members=[0], own=[0] if found.frames else [], world=world,
        channels=[f"x{c}" for c in range(C)], units=["1"] * C, coords={"lat": lat, "lon": lon},
        time=np.arange(L), time_units="hours since 2020-01-01",
    )  # fmt: skip
    digests = {}
    for k, f in enumerate(found.frames):
        with torch.no_grad():
            x = decoder.decode(found.x[0, k : k + 1]).numpy()
        digests[f] = digest_frame(x[0])
        writer.write(0, f, x)
        del x
    writer.close()
    wrote, most = time.perf_counter() - start, peak()

    start, wrong = time.perf_counter(), 0
    for f in found.frames:
        with open_analysis(args.folder) as a:
            wrong += digest_frame(a.read(0, f, f + 1)[0]) != digests[f]
    wrong = world.all_reduce(float(wrong))
    read = time.perf_counter() - start
    peaks = world.all_gather(most)
    if world.rank == 0:
        n = L * C * grid[0] * grid[1]
        text = ", ".join(f"{p:.2f}" for p in peaks)
        print(
            f"{n:.3g} numbers ({L} frames of {C} x {grid[0]} x {grid[1]}), {world.size} ranks: "
            f"sampled in {sampled:.0f} s ({args.steps} steps, latents {tuple(latent)}), decoded "
            f"and written in {wrote:.0f} s ({4 * n / 2**30:.2f} GiB, {4 * n / 2**20 / wrote:.0f} "
            f"MiB/s), read again in {read:.0f} s, {wrong:.0f} frames differ; peak resident "
            f"{text} GiB"
        )
        if not args.keep:
            shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
