#!/usr/bin/env python
r"""A product with the covariance of a prior's Gaussian part: of whole states, and of what is seen.

    OMP_NUM_THREADS=1 python scripts/benchmarks/modal.py

`guidance: {covariance: markov}` takes some twenty such products a call. The first sizes are those
of jobs/kolmogorov (plain and medium) and jobs/black_sea (medium); of the last two a fourth and a
half of all numbers are seen: from a fourth on, solves are of whole states. The peer is the product
of whole states in the same run. Processor time, double precision; it says nothing of a GPU.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import torch

from hpcinv.assimilation.exchange import Exchange
from hpcinv.assimilation.modal import ModalCovariance

SIZES = (  # frames, numbers of a frame, modes, numbers seen of each frame, members
    (48, 2048, 256, 100, 8),
    (24, 8192, 512, 400, 4),
    (72, 5184, 256, 200, 8),
    (48, 2048, 256, 512, 8),
    (48, 2048, 256, 1024, 8),
)


def main() -> None:
    torch.manual_seed(0)
    print("| frames | numbers | modes | seen | members | whole, ms | seen, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for frames, numbers, modes, n, members in SIZES:
        U, _ = torch.linalg.qr(torch.randn(numbers, modes, dtype=torch.float64))
        V = ModalCovariance(U, torch.rand(modes) + 0.1, 0.9 * torch.rand(modes), 0.1, frames)
        how = {"exchange": Exchange([], frames), "level": SimpleNamespace(alpha=1.0, sigma=0.6)}
        at = [torch.randperm(numbers)[:n].sort()[0] for _ in range(frames)]
        v = torch.zeros(members, frames, numbers)
        for f, a in enumerate(at):
            v[:, f, a] = torch.randn(members, n)
        whole = spent(lambda V=V, v=v, how=how: V([v], **how))
        seen = spent(lambda V=V, v=v, how=how, at=at: V.among([v], **how, numbers=at))
        print(f"| {frames} | {numbers} | {modes} | {n} | {members} | {1e3 * whole:.1f} "
              f"| {1e3 * seen:.1f} | {whole / seen:.1f} |")  # fmt: skip


def spent(product, times: int = 5) -> float:
    product()
    began = time.process_time()
    for _ in range(times):
        product()
    return (time.process_time() - began) / times


if __name__ == "__main__":
    main()
