r"""What Langevin corrections leave of a Gaussian's deviation, by sampler: exact, in seconds.

    python scripts/benchmarks/corrections.py

A number x ~ N(0, s²) has the denoiser s² x_t / (s² + σ²), so every step is linear in the noises
that were drawn, and the deviation of what comes out is known without sampling. Printed: that over
s, for s in units of the state; 1 is right. Levels are those of `jobs/kolmogorov`.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import torch
from azula.noise import VESchedule

from hpcinv.assimilation.config import SamplerConfig
from hpcinv.assimilation.samplers import Sampler
from hpcinv.assimilation.schedule import levels

DEVIATIONS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
METHODS = {
    "heun": {"method": "heun"},
    "adams-bashforth 2": {"method": "adams-bashforth", "order": 2},
    "euler": {"method": "ddim"},
}


def deviations(config: SamplerConfig, s: torch.Tensor) -> torch.Tensor:
    r"""Deviations of samples over s, for numbers of the deviations s (n)."""
    steps = levels(VESchedule(sigma_min=0.01, sigma_max=50.0), config, torch.float64)
    sampler, drawn = Sampler(config, steps), [0]
    most = 1 + config.steps * (config.corrections + 2)

    def noise(purpose: str) -> torch.Tensor:
        e = torch.zeros(len(s), most, dtype=torch.float64)  # a number is a sum over noises
        e[:, drawn[0]] = 1
        drawn[0] += 1
        return e

    def denoise(x, level):
        gain = level.alpha * s**2 / (level.alpha**2 * s**2 + level.sigma**2)
        return SimpleNamespace(mean=gain[:, None] * x, shift=None)

    x, past = sampler.start(noise), []
    for i in range(config.steps):
        x, past = sampler.step(i, x, past, denoise, noise)
    return sampler.finish(x, denoise).norm(dim=1) / s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--corrections", type=int, nargs="*", default=[0, 1, 2])
    args = parser.parse_args()
    s = torch.tensor(DEVIATIONS, dtype=torch.float64)
    print(f"{'s':24s}" + "".join(f"{v:7.2f}" for v in DEVIATIONS) + "  calls")
    for name, how in METHODS.items():
        for n in args.corrections:
            c = SamplerConfig(
                steps=args.steps, sigma_max=20, sigma_min=0.02, corrections=n, **how
            )  # fmt: skip
            row = "".join(f"{v:7.3f}" for v in deviations(c, s).tolist())
            print(f"{name + f' + {n}':24s}{row}{c.calls:7d}")


if __name__ == "__main__":
    main()
