"""What is wrong with the data is told before the first step, once, by whichever rank found it."""

import subprocess
import sys

import numpy as np
import pytest
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.io.store import TrajectoryStore
from hpcinv.io.write_store import StoreWriter
from hpcinv.kinds.study import load
from hpcinv.training import data

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


def test_windows_of_one_frame_cannot_be_cut(tmp_path):
    study = make(tmp_path / "tiny")
    text = TRAIN.replace("window: 4", "window: 1") + "loss: {short: 0.2}\n"
    (study / "2_train.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"'loss\.short' of windows of one frame"):
        load(study).check()
    (study / "2_train.yaml").write_text(text.replace("window: 1", "window: 2"))
    load(study).check()


def _store(folder):
    r"""Two segments of 7 and 5 frames of one number, 0 to 11."""
    writer = StoreWriter(
        folder / "store", channels=["x"], units=["1"], coords={"k": np.arange(2.0)},
        time=np.arange(12.0), time_units="1", segments=[(0, 7), (7, 12)],
    )  # fmt: skip
    for t in range(12):
        writer.write(t, np.full((1, 1, 2), t, np.float32))
    writer.close()
    return TrajectoryStore.open(folder / "store")


def test_windows_out_of_core_are_those_kept_in_memory(tmp_path, monkeypatch):
    store = _store(tmp_path)
    kept = data.WindowDataset(store, 3, time_steps=(2, 1))
    monkeypatch.setattr(data, "KEPT_IN_MEMORY", 0)
    read = data.WindowDataset(store, 3, time_steps=(2, 1))
    assert kept._kept is not None and read._kept is None
    starts = [(k, 1) for k in (0, 1, 2, 3, 4, 7, 8, 9)] + [(k, 2) for k in (0, 1, 2, 7)]
    assert len(read) == len(starts)
    for i, (first, step) in enumerate(starts):
        for found in (kept.sample(0, i), read.sample(3, i)):
            np.testing.assert_array_equal(found["x"][:, 0, 0], first + step * np.arange(3))


def test_too_few_frames_for_one_window(tmp_path):
    with pytest.raises(BadInput, match="no window of 8 frames fits") as told:
        data.WindowDataset(_store(tmp_path), 8)
    assert "longest segment has 7 frames" in str(told.value)
    # Where the job says its frames it is known before anything runs.
    from hpcinv.kinds.study import load

    study = make(tmp_path / "tiny")
    (study / "2_train.yaml").write_text(TRAIN.replace("window: 4", "window: 25"))
    with pytest.raises(BadInput, match="windows of 25 frames do not fit into 24 frames") as told:
        load(study).check()
    assert "2_train.yaml" in str(told.value)
