#!/usr/bin/env python
r"""How many posterior samples a second a flow gives, for a batch of observations.

    OMP_NUM_THREADS=1 python scripts/benchmarks/posterior_samples.py

The weights are random: what is timed is the passes, in processor time. It says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import time

import torch

from hpcinv.inference.sample import draw
from hpcinv.models import build
from hpcinv.training.posterior_config import PosteriorConfig

EMBEDDING = {"name": "mlp", "features": 32, "width": 64, "depth": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--observations", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1000)
    a = parser.parse_args()
    print(f"{a.observations} observations of 17 numbers, {a.samples} samples each, "
          f"{torch.get_num_threads()} thread(s), 3 transforms of width 64")  # fmt: skip
    print("| flow | parameters | samples a second of processor time |\n|---|---|---|")
    default = PosteriorConfig().flows  # a sample of a mixture asks every member for its density
    for flow, densities in ((["nsf"], True), (["maf"], True), (default, True), (default, False)):
        told = ", ".join(flow) + ("" if densities else " (`densities: false`)")
        for n in (2, 12):
            found = rate(flow, n, a.observations, a.samples, densities)
            print(f"| {told} | {n} | {found:,.0f} |")


def rate(
    flow: list[str], parameters: int, observations: int, samples: int, densities: bool
) -> float:
    fields = {
        "name": "posterior",
        "parameters": [{"name": f"p{i}", "low": 0.0, "high": 1.0} for i in range(parameters)],
        "shape": [17],
        "flows": flow,
        "embedding": EMBEDDING,
    }
    module = build(fields, seed=0).eval().requires_grad_(False)
    x = torch.randn(observations, 17, generator=torch.Generator().manual_seed(0))
    how = {"ids": range(observations), "seed": 0, "densities": densities}
    draw(module, x[:2], samples=10, **how | {"ids": range(2)})  # warms up
    began = time.process_time()
    draw(module, x, samples=samples, **how)
    return observations * samples / (time.process_time() - began)


if __name__ == "__main__":
    main()
