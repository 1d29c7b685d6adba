"""`jobs/winds` whole: what it must reach, on three seeds, any number of ranks, and Slurm."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
SEEDED = ("observe", "train-autoencoder", "encode", "train-diffusion", "reanalysis")


def hpcinv(*args, env=None):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)],
        capture_output=True, text=True, cwd=ROOT, env=env or os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def pooled(runs):
    card = json.loads((runs / "winds" / "evaluate" / "scores.json").read_text())
    return {name: m["pooled"] for name, m in card["methods"].items()}


def same(a, b):
    """Scores of two runs agree to 1e-5 relative; ranks of ties are keyed, so histograms too."""
    for name, scores in pooled(a).items():
        for key, v in scores.items():
            w = pooled(b)[name][key]
            if isinstance(v, dict) and "value" in v:
                assert v["value"] == pytest.approx(w["value"], rel=1e-5, abs=1e-7), (name, key)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run per seed."""
    made = {}

    def of(seed):
        if seed not in made:
            made[seed] = tmp_path_factory.mktemp(f"seed{seed}")
            fields = [f"{job}.seed={seed}" for job in SEEDED]
            hpcinv("run", "jobs/winds", "--runs", made[seed], *fields)
        return made[seed]

    return of


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reaches_what_the_readme_promises(runs, seed):
    found = pooled(runs(seed))
    value = {
        k: v["value"]
        for k, v in found["reanalysis"].items()
        if isinstance(v, dict) and "value" in v
    }
    assert value["rmse"] <= 1.38
    assert value["crps"] <= 0.72
    assert 0.85 <= value["spread_skill"] <= 1.15
    assert value["rank_distance"] <= 0.12
    # The baselines are not straw men: their known errors, for members' means of sixteen.
    assert found["climatology"]["rmse"]["value"] == pytest.approx(1.86, abs=0.03)
    assert found["oi-eof"]["rmse"]["value"] == pytest.approx(1.47, abs=0.04)
    assert found["oi-localised"]["rmse"]["value"] == pytest.approx(1.22, abs=0.02)


def test_fits_a_laptop(runs):
    for path in (runs(0) / "winds").glob("*/manifest.json"):
        m = json.loads(path.read_text())
        assert m["peak_memory"]["all"] <= 6 * 2**30, m["job"]


@pytest.mark.parametrize("ranks", [1, 4])
def test_ranks_do_not_change_the_scores(runs, ranks, tmp_path):
    again = tmp_path / "runs"
    shutil.copytree(runs(0), again)
    for job in ("import", "reanalysis", "evaluate", "report"):
        shutil.rmtree(again / "winds" / job)
    hpcinv("run", "jobs/winds", "--ranks", ranks, "--runs", again)
    for job in ("import", "reanalysis"):
        m = json.loads((again / "winds" / job / "manifest.json").read_text())
        assert m["attempts"][-1]["ranks"] == ranks
    same(runs(0), again)


@pytest.mark.slurm
def test_slurm_gives_the_same_scores(runs, cluster, tmp_path):
    hpcinv("submit", "jobs/winds", "--wait", "--runs", tmp_path, env=cluster)
    same(runs(0), tmp_path)


@pytest.mark.parametrize("job", ["train-autoencoder", "train-diffusion", "reanalysis"])
def test_a_kill_changes_nothing(runs, job, tmp_path):
    """kill -9 in the middle of a job; the same command goes on and ends in the same bits."""
    import signal
    import time

    again = tmp_path / "runs"
    shutil.copytree(runs(0), again)
    shutil.rmtree(again / "winds" / job)
    before = json.loads((runs(0) / "winds" / job / "manifest.json").read_text())
    file = next((ROOT / "jobs" / "winds").glob(f"*_{job}.yaml"))
    command = [sys.executable, "-m", "hpcinv", "run", str(file), "--runs", str(again)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    tags = again / "winds" / job / "checkpoints" / "latest"
    until = time.monotonic() + 300
    while not tags.exists():
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)
    m = json.loads((again / "winds" / job / "manifest.json").read_text())
    os.kill(m["attempts"][-1]["pid"], signal.SIGKILL)
    assert child.wait(timeout=120) != 0
    hpcinv("run", file, "--runs", again)
    after = json.loads((again / "winds" / job / "manifest.json").read_text())
    assert len(after["attempts"]) == 2
    assert after["outputs"] == before["outputs"]
