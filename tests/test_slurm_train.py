"""Training through the engine: two ranks here and two Slurm nodes end in the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slurm
def test_two_nodes_train_as_two_ranks_here(cluster, tmp_path):
    def hpcinv(verb, job, runs, *args):
        file = next((ROOT / "jobs" / "winds").glob(f"*_{job}.yaml"))
        command = [sys.executable, "-m", "hpcinv", verb, str(file), "--preset", "smoke"]
        done = subprocess.run(
            [*command, "--runs", str(runs), *args], capture_output=True, text=True, env=cluster
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((runs / "winds" / job / "manifest.json").read_text())

    here, there = tmp_path / "here", tmp_path / "there"
    one = ["resources.cpus_per_task=1"]
    hpcinv("run", "import", here)
    hpcinv("run", "import", there)
    a = hpcinv("run", "train-autoencoder", here, "--ranks", "2", *one)
    b = hpcinv("submit", "train-autoencoder", there, "--wait", "resources.nodes=2", *one)
    assert a["attempts"][0]["ranks"] == b["attempts"][0]["ranks"] == 2
    assert b["attempts"][0]["slurm"]["nodes"].count("node") >= 1
    assert a["outputs"] == b["outputs"]
