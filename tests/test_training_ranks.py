r"""Two gloo ranks: exact resume, kill -9 inside a save, and agreement with one rank."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_toys import weights

from hpcinv.models import load

ROOT = Path(__file__).resolve().parent.parent


def _start(folder, mode="run", zero=0, size=2, **fields):
    r"""Starts the toy training on some ranks."""
    folder.mkdir(exist_ok=True)
    given = json.dumps({"zero": zero, **fields})
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
        command = [sys.executable, ROOT / "tests" / "training_toys.py", folder, mode, given]
        started.append(
            subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return started


def _ranks(folder, mode, zero=0, size=2, **fields):
    r"""Runs it to its end; returns the ranks' exit codes."""
    started = _start(folder, mode, zero, size, **fields)
    said = [p.communicate(timeout=300) for p in started]
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
    some = {"short": 0.5}  # steps have shorter windows, on both ranks the same
    _ranks(straight, "run", **some)
    assert _ranks(cut, "stop", **some) == [75, 75]
    shutil.copytree(cut, alone)
    _ranks(cut, "run", **some)
    assert weights(cut) == weights(straight)
    # Replicated checkpoints resume on any number of ranks; sums then differ by their order.
    _ranks(alone, "run", size=1, **some)
    np.testing.assert_allclose(_losses(alone), _losses(straight), rtol=1e-5)
    a, b = load(alone).state_dict(), load(straight).state_dict()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)


def test_all_ranks_have_what_the_first_measured(tmp_path):
    assert _ranks(tmp_path, "measure") == [0, 0]
    found = [json.loads((tmp_path / f"measured-{r}.json").read_text()) for r in range(2)]
    assert found == [[1.0] * 3] * 2


@pytest.mark.slow
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
def test_the_average_is_sharded_as_the_optimiser_is(tmp_path):
    assert _ranks(tmp_path, "hold") == [0, 0]
    held = np.array([json.loads((tmp_path / f"held-{r}.json").read_text()) for r in range(2)])
    average, moment = held[..., 0], held[..., 1]  # by rank and stage
    np.testing.assert_array_equal(average, moment)
    whole = average[0, 0]
    np.testing.assert_array_equal(average[:, 0], whole)  # stage 0 replicates
    # Halves, but for what fills their last rows up.
    np.testing.assert_allclose(average[:, 1:], whole / 2, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_stage_and_precision_resumes_exactly_on_two_ranks(tmp_path, zero, precision):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    # Weights whose numbers do not divide among the ranks are filled up by some stages.
    fields = {"precision": precision, "model": {"width": 15}}
    _ranks(straight, "run", zero, **fields)
    assert _ranks(cut, "stop", zero, **fields) == [75, 75]
    _ranks(cut, "run", zero, **fields)
    assert weights(cut) == weights(straight)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2])
def test_thirty_kills_in_a_row_change_nothing(tmp_path, zero):
    """kill -9 of a random rank at a random moment after the first step, saves included."""
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    long = {"steps": 1600, "checkpoint_every": 3, "log_every": 1}
    _ranks(straight, "run", zero, **long)
    rng = np.random.default_rng(7)
    in_saves = 0
    for kill in range(30):
        seen = _steps(cut)
        ranks = _start(cut, "run", zero, **long)
        until = time.monotonic() + 120
        while _steps(cut) <= seen:  # it runs, and is beyond where the last one came
            assert all(p.poll() is None for p in ranks), ranks[0].communicate()[1][-3000:]
            assert time.monotonic() < until, f"no progress before kill {kill}"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        victim = ranks[rng.integers(2)]
        assert victim.poll() is None, "the training is too short for so many kills"
        victim.send_signal(signal.SIGKILL)
        codes = [(p.communicate(timeout=120), p.returncode)[1] for p in ranks]
        assert -9 in codes and 0 not in codes
        tags = [p for p in (cut / "checkpoints").iterdir() if p.name.startswith("step-")]
        in_saves += any(not (p / "manifest.json").exists() for p in tags)
    assert in_saves, "no kill fell into a save: make them longer"
    _ranks(cut, "run", zero, **long)
    assert weights(cut) == weights(straight)
    # Every step's loss, however often it was taken, is in the metrics once and the same.
    np.testing.assert_array_equal(_losses(cut), _losses(straight))


def _steps(folder):
    r"""Steps on record."""
    try:
        return len((folder / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "size"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 4), (3, 4)])
def test_shards_are_spread_over_another_number_of_ranks(tmp_path, zero, size):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    _ranks(straight, "run", zero)
    assert _ranks(cut, "stop", zero) == [75, 75]
    _ranks(cut, "run", zero, size=size)
    np.testing.assert_allclose(_losses(cut), _losses(straight), rtol=1e-5)
    a, b = load(cut).state_dict(), load(straight).state_dict()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)
    left = sorted(p.name for p in (cut / "checkpoints").iterdir() if p.suffix != ".py")
    assert left == ["latest", "step-6-a2", "step-7-a2"]
