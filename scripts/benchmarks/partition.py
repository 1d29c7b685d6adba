r"""What the engine costs beside the network it calls, and what ranks cost (`growth.py`: frames).

The size is that of the winds study: latents (16, 10, 18), decoded to 2 × 73 × 144 numbers, 400
observations a frame. Networks have random weights: their cost is what counts.

    python scripts/benchmarks/partition.py step        # engine against bare products and azula
    python scripts/benchmarks/partition.py sample      # the winds study's sampling
    mpirun -n 2 python scripts/benchmarks/partition.py ranks
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from azula.guidance.mmps import MMPSDenoiser
from azula.linalg.covariance import DiagonalCovariance
from azula.sample import DDIMSampler

from hpcinv import assimilation, parallel
from hpcinv.models.autoencoder import Autoencoder
from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser

LATENT, GRID = (16, 10, 18), (73, 144)


class Table:
    r"""200 random points a frame, two channels each."""

    def __init__(self, length: int) -> None:
        rng = np.random.default_rng(0)
        point = np.stack([rng.choice(np.prod(GRID), 200, replace=False) for _ in range(length)])
        self.frame = np.repeat(np.arange(length), 400)
        self.point = np.concatenate([point, point], axis=1).ravel()
        self.channel = np.tile(np.repeat([0, 1], 200), length)
        self.value = rng.standard_normal(len(self.frame))
        self.error = np.full(len(self.frame), 0.3)


def models() -> tuple[TrajectoryDenoiser, Autoencoder]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = TrajectoryDenoiser(16, (10, 18), context=2).eval().requires_grad_(False)
        denoiser.leave.weight.normal_(std=0.01)
        autoencoder = Autoencoder(2, GRID, context=2).eval().requires_grad_(False)
    return denoiser, autoencoder


def settings(length: int, window: int, overlap: int, members: int) -> dict:
    denoiser, autoencoder = models()
    context = torch.rand(length, 2, generator=torch.Generator().manual_seed(0))
    return {
        "denoiser": denoiser, "shape": LATENT, "length": length, "window": window,
        "overlap": overlap, "members": range(members), "context": context,
        "likelihood": assimilation.PointLikelihood(
            Table(length), shape=(2, *GRID), decoder=autoencoder, context=context
        ),
    }  # fmt: skip


def sample(**s):
    return assimilation.sample(s.pop("denoiser"), **s)


def timed(f, repeat: int = 3) -> float:
    r"""Processor seconds: comparable on a machine that others use as well (set one thread)."""

    times = []
    for _ in range(repeat):
        began = time.process_time()
        f()
        times.append(time.process_time() - began)
    return min(times)


def step(args) -> None:
    r"""A guided call of the engine against its parts alone, and against azula's MMPS."""

    torch.set_num_threads(1)
    M, L, K = args.members, args.frames, args.iterations
    s = settings(L, L, 0, M)
    denoiser, likelihood, context = s["denoiser"], s["likelihood"], s["context"]
    x = torch.randn(M, L, *LATENT, generator=torch.Generator().manual_seed(1))
    t, frames = torch.tensor(0.5), list(range(L))
    rows = context.expand(M, -1, -1)

    def bare():
        z = x.clone().requires_grad_()
        mean = denoiser(z, t, context=rows).mean
        w = mean.detach().requires_grad_()
        y = likelihood.operator(w, frames)
        u = torch.ones_like(y)
        for _ in range(K + 1):
            v = torch.autograd.grad(y, w, u, retain_graph=True)[0]
            torch.autograd.grad(mean, z, v, retain_graph=True)

    def steps(n):
        sample(
            **s, guidance={"iterations": K}, batch=M, rows=M,
            sampler={"method": "ddim", "steps": n, "final": "keep"},
        )  # fmt: skip

    decode = lambda z: likelihood.operator(z, frames)  # noqa: E731
    peer = MMPSDenoiser(
        denoiser, likelihood.y(frames).expand(M, -1), decode,
        DiagonalCovariance(likelihood.variance(frames)), solver="cg", iterations=K,
    )  # fmt: skip

    def azula(n):
        DDIMSampler(peer, steps=n, silent=True)(x * 20, context=rows)

    bare()
    alone = timed(bare)
    print(f"one forward + {K + 1} products alone: {alone:.3f} s", flush=True)
    ours = (timed(lambda: steps(3)) - timed(lambda: steps(1))) / 2
    print(f"a guided step: {ours:.3f} s ({ours / alone:.2f} x)", flush=True)
    theirs = (timed(lambda: azula(3)) - timed(lambda: azula(1))) / 2
    print(f"azula's MMPSDenoiser: {theirs:.3f} s ({ours / theirs:.2f} x)")


def whole(args) -> None:
    s = settings(args.frames, args.window, args.overlap, args.members)
    for rule, cov in (("center", "own"), ("junction", "averaged")):
        r = sample(
            **s, compose=rule, batch=args.batch,
            guidance={"iterations": args.iterations, "covariance": cov},
            sampler={"method": "ddpm", "steps": args.steps, "sigma_min": 0.03},
        )  # fmt: skip
        d = r.diagnostics
        print(
            f"{rule}, {cov}: {args.members} members x {args.frames} frames, {args.steps} steps, "
            f"{args.iterations} iterations: {d['seconds']:.1f} s, {d['network_pairs']} windows, "
            f"{d['network_products']} products, events {len(d['events'])}, "
            f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB",
            flush=True,
        )


def ranks(args) -> None:
    torch.set_num_threads(1)
    world = parallel.connect("mpi")
    for slabs in sorted({1, world.size}):
        if world.size // slabs > args.members:
            continue
        s = settings(args.frames, args.window, args.overlap, args.members)
        world.barrier()
        r = sample(
            **s, world=world, slabs=slabs, batch=args.batch,
            guidance={"iterations": args.iterations}, sampler={"method": "ddpm", "steps": 4},
        )  # fmt: skip
        seconds = world.all_reduce(r.diagnostics["seconds"], "max")
        sent = world.all_reduce(float(r.diagnostics["bytes_sent"]))
        memory = world.all_reduce(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), "max")
        if world.rank == 0:
            print(
                f"{world.size} ranks, {slabs} slabs: {seconds:.2f} s, "
                f"{sent / r.diagnostics['calls'] / 1e6:.2f} MB sent per call, "
                f"peak {memory / 1e6:.2f} GB per rank",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["step", "sample", "ranks"])
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--overlap", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    {"step": step, "sample": whole, "ranks": ranks}[args.what](args)


if __name__ == "__main__":
    main()
