r"""Two gloo ranks: exact resume, kill -9 inside a save, and agreement with one rank."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_toys import weights

from hpcinv.models import load

ROOT = Path(__file__).resolve().parent.parent


def _ranks(folder, mode, zero=0, size=2):
    r"""Runs the toy training on some ranks; returns their exit codes."""
    folder.mkdir(exist_ok=True)
    started = []
    for rank in range(size):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))}
        env |= {
            "HPCINV_RANK": str(rank),
            "HPCINV_SIZE": str(size),
            "HPCINV_LAUNCH": f"{mode}{len(list(folder.glob('rendezvous-*')))}",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        }
        command = [sys.executable, ROOT / "tests" / "training_toys.py", folder, mode, str(zero)]
        started.append(
            subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    said = [p.communicate(timeout=120) for p in started]
    codes = [p.returncode for p in started]
    # What the engine has to say goes to stderr; stdout belongs to the command.
    assert all(out == "" for out, _ in said), said
    if mode == "run":
        assert codes == [0] * size, "\n".join(err[-2000:] for _, err in said)
    return codes


def _losses(folder):
    rows = [json.loads(r) for r in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([r["loss"] for r in rows])


def test_two_ranks_resume_exactly_and_agree_with_one(tmp_path):
    straight, cut, alone = tmp_path / "straight", tmp_path / "cut", tmp_path / "alone"
    _ranks(straight, "run")
    assert _ranks(cut, "stop") == [75, 75]
    shutil.copytree(cut, alone)
    _ranks(cut, "run")
    assert weights(cut) == weights(straight)
    # Replicated checkpoints resume on any number of ranks; sums then differ by their order.
    _ranks(alone, "run", size=1)
    np.testing.assert_allclose(_losses(alone), _losses(straight), rtol=1e-5)
    a, b = load(alone).state_dict(), load(straight).state_dict()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("zero", [2])
def test_a_kill_inside_a_save_loses_at_most_one_interval(tmp_path, zero):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    _ranks(straight, "run", zero)
    assert -9 in _ranks(cut, "kill", zero)  # in the save of step 4
    folder = cut / "checkpoints"
    assert (folder / "latest").read_text() == "step-2-a1\n"
    assert not (folder / "step-4-a1" / "manifest.json").exists()
    _ranks(cut, "run", zero)
    assert weights(cut) == weights(straight)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_shards_are_spread_over_another_number_of_ranks(tmp_path, zero):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    _ranks(straight, "run", zero)
    assert _ranks(cut, "stop", zero) == [75, 75]
    _ranks(cut, "run", zero, size=1)
    np.testing.assert_allclose(_losses(cut), _losses(straight), rtol=1e-5)
    a, b = load(cut).state_dict(), load(straight).state_dict()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)
    left = sorted(p.name for p in (cut / "checkpoints").iterdir() if p.suffix != ".py")
    assert left == ["latest", "step-6-a2", "step-7-a2"]
