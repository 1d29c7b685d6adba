"""What is wrong with the data is told before the first step, once, by whichever rank found it."""

import subprocess
import sys

import pytest
from tiny_study import make

TRAIN = """\
kind: train
data: import
frames: [0, 24]
window: 4
model: {name: trajectory_denoiser, preset: tiny}
training: {steps: 2, batch: 4}
resources: {tasks_per_node: 2, cpus_per_task: 1}
"""


@pytest.mark.parametrize("frame", [1, 23])  # in the share of each rank
def test_a_corrupt_shard_stops_a_training_before_its_first_step(tmp_path, frame):
    study = make(tmp_path / "tiny")
    (study / "2_train.yaml").write_text(TRAIN)

    def run(job):
        return subprocess.run(
            [sys.executable, "-m", "hpcinv", "run", study / job, "--runs", tmp_path / "runs"],
            capture_output=True, text=True,
        )  # fmt: skip

    assert run("1_import.yaml").returncode == 0
    from hpcinv.io.store import TrajectoryStore

    folder = tmp_path / "runs" / "tiny"
    store = TrajectoryStore.open(folder / "import" / "store")
    (part,) = (store.folder / p["file"] for p in store.index["parts"])
    data = bytearray(part.read_bytes())
    data[data.find(store.read(frame, frame + 1).tobytes())] ^= 1
    part.write_bytes(data)
    done = run("2_train.yaml")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.count(f"frame {frame} differs from its digest") == 1, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "train" / "metrics.jsonl").exists()
