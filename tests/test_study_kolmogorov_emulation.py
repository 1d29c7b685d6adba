"""Emulators in data space and in latent spaces: the study runs whole, in small."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import emulators  # noqa: E402


def test_scores_by_lead_time_are_exact():
    truth = np.random.default_rng(0).standard_normal((2, 2, 8, 8))
    x = np.stack([truth + 0.3, truth - 0.1])
    score, error = emulators.by_lead(x, truth)
    deviation = np.sqrt(truth.var(axis=(2, 3)).mean(1))
    assert np.allclose(error, 0.1 / deviation)
    assert np.allclose(score, (0.3 + 0.1) / 2 - 0.4 / 2)  # mean |x - y|, minus half of |x - x'|
    score, error = emulators.by_lead(truth[None] + 0.5, truth)
    assert np.allclose(score, 0.5) and np.allclose(error, 0.5 / deviation)


def test_what_is_resolved():
    true = np.array([0.0, 4, 4, 2, 1, 1])
    assert emulators.resolved(true, true) == 5
    assert emulators.resolved(true * [1, 1, 1.2, 0.5, 0.4, 1], true) == 3


@pytest.mark.slow
def test_the_smoke_preset_runs_whole(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", ROOT / "jobs" / "kolmogorov-emulation",
         "--preset", "smoke", "--runs", tmp_path],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = subprocess.run(
        [sys.executable, ROOT / "scripts/benchmarks/emulators.py", "--runs", tmp_path],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "4 starts" in told.stdout
    lead = re.search(r"lead 1 +(.*)", told.stdout).group(1)
    lead = [float(mean) for mean in re.findall(r"(\S+) ±", lead)]
    # Nothing was learnt: the frame that is kept is nearer than any drawn one.
    assert len(lead) == 5 and min(lead[:4]) > lead[4]
