"""Exact deviations of samplers: they converge to the right one, and what the page quotes holds."""

import sys
from pathlib import Path

import pytest
import torch

from hpcinv.assimilation.config import SamplerConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"))

import corrections

S = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0], dtype=torch.float64)
FROM_TO = {"sigma_max": 20, "sigma_min": 0.02}


@pytest.mark.parametrize("method", ["heun", "adams-bashforth", "ddim"])
def test_many_steps_leave_the_deviation_as_it_is(method):
    few, many = (
        (corrections.deviations(SamplerConfig(method=method, steps=n, **FROM_TO), S) - 1).abs()
        for n in (16, 256)
    )
    # The mean at the last level, 0.02, takes 2% of a deviation of 0.1: no steps bring it back.
    assert many.max() < 0.04 and many.max() < few.max()


def test_multistep_after_corrections_is_too_wide_and_heun_is_not():
    heun = SamplerConfig(method="heun", steps=12, corrections=1, **FROM_TO)
    ab = SamplerConfig(method="adams-bashforth", steps=12, corrections=2, **FROM_TO)
    assert heun.calls == ab.calls
    assert (corrections.deviations(heun, S) - 1).abs().max() < 0.02
    wide = corrections.deviations(ab, S)
    assert wide.min() > 1.10 and wide.max() < 1.18
