"""Trajectories of a dynamics: one store, however they were made."""

import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from hpcinv.errors import BadInput
from hpcinv.io.store import TrajectoryStore
from hpcinv.kinds.simulate import Simulate, simulator_of
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.dynamics import trajectories

OPTIONS = {"n": 9, "spin_up": 30}
JOB = f"""kind: simulate
simulator: lorenz96
options: {OPTIONS}
simulations: 7
trajectory: {{frames: 20, training: 5}}
shard: 2
batch: 2
seed: 4
"""


def hpcinv(*args):
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True,
        env=os.environ | {"HPCINV_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos") / "chaos"
    folder.mkdir()
    job = folder / "1_simulate.yaml"
    job.write_text(JOB)
    for k, more in enumerate(([], ["resources.array={over: shards, tasks: 3}"])):
        done = hpcinv("run", job, *more, "--runs", folder / f"runs{k}")
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def store(folder, k=0):
    return TrajectoryStore.open(folder / f"runs{k}" / "chaos" / "simulate" / "store")


def failed(run):
    m = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(m | {"state": "failed"}))


def test_the_store_holds_the_trajectories_and_their_statistics(made):
    s = store(made)
    d = make("lorenz96", OPTIONS)
    x = torch.stack(list(trajectories(d, Key(4, range(7)), 20)), 1).float().numpy()
    assert np.array_equal(s.read(0, 140).reshape(x.shape), x)
    assert s.segments == [(20 * i, 20 * i + 20) for i in range(7)]
    assert len(s.windows(16)) == 7 * 5 and not any(w % 20 > 4 for w in s.windows(16))
    assert np.allclose(s.time, np.arange(140) * 0.05)
    train = x[:5].astype(np.float64)
    want = train.mean(), train.std(ddof=0) * np.sqrt(101 / 99)
    got = s.statistics
    assert got.count.tolist() == [100]
    # One mean and one deviation for the whole circle, which is the same everywhere.
    assert np.allclose(got.mean, want[0], atol=1e-5) and np.allclose(got.std, want[1], rtol=1e-5)
    s.verify()


def test_an_array_makes_the_same_store(made):
    assert store(made).digest == store(made, 1).digest
    assert np.array_equal(store(made).read(30, 90), store(made, 1).read(30, 90))


def test_a_damaged_part_is_made_anew(made):
    folder = made / "runs0" / "chaos" / "simulate"
    digest = store(made).digest
    part = sorted((folder / "parts").glob("*.h5"))[1]
    part.write_bytes(part.read_bytes()[:2000])
    with pytest.raises(BadInput, match="bytes of"):
        store(made)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"state": "failed"}))
    done = hpcinv("run", made / "1_simulate.yaml", "--runs", made / "runs0")
    assert done.returncode == 0 and store(made).digest == digest
    store(made).verify()


def test_the_join_takes_what_the_parts_tell_and_a_later_check_reads_them(made, tmp_path):
    folder = tmp_path / "chaos"
    shutil.copytree(made, folder)
    run = folder / "runs1" / "chaos" / "simulate"
    with h5py.File(sorted(run.rglob("rows-*.h5"))[2], "r+") as f:
        f["x"][3] += 1
    failed(run)
    shutil.rmtree(run / "store")  # the join has to make it
    more = ("resources.array={over: shards, tasks: 3}", "--runs", folder / "runs1")
    done = hpcinv("run", folder / "1_simulate.yaml", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert store(folder, 1).digest == store(made).digest
    with pytest.raises(BadInput, match="differs from its digest"):
        store(folder, 1).verify()


def test_a_part_that_tells_wrongly_of_itself_is_made_anew(made, tmp_path):
    folder = tmp_path / "chaos"
    shutil.copytree(made, folder)
    run = folder / "runs0" / "chaos" / "simulate"
    with h5py.File(sorted((run / "parts").glob("*.h5"))[0], "r+") as f:
        f["about/mean"][0] += 1
    failed(run)
    shutil.rmtree(run / "store")
    done = hpcinv("run", folder / "1_simulate.yaml", "--runs", folder / "runs0")
    assert done.returncode == 0 and store(folder).digest == store(made).digest
    assert np.array_equal(store(folder).statistics.mean, store(made).statistics.mean)


def test_an_analysis_stays_within_a_trajectory(made):
    (made / "2_climatology.yaml").write_text(
        "kind: assimilate\ndata: simulate\nmethod: climatology\nframes: [110, 130]\n"
        "training: [0, 100]\nmembers: 3\n"
    )
    done = hpcinv("run", made / "2_climatology.yaml", "--runs", made / "runs0")
    assert done.returncode == 2 and "not of one trajectory: one ends at 119" in done.stdout
    assert "[100, 120]" in done.stdout


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trajectory": {"frames": 9}, "timeout": "3s"}, "'timeout' means nothing"),
        ({"trajectory": {"frames": 9, "training": 8}}, "8 of 7"),
        ({"trajectory": {"frames": 9}, "command": ["x"], "simulator": None,
          "parameters": [{"name": "a", "low": 0, "high": 1, "unit": "1"}],
          "outputs": {"name": "x", "unit": "1", "shape": [2]}}, "not with a 'command'"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Simulate.model_validate({"simulator": "lorenz96", "simulations": 7} | fields)


def test_a_dynamics_without_a_length_is_told_what_to_write():
    job = Simulate(simulator="lorenz96", simulations=7)
    with pytest.raises(BadInput, match="trajectory: "):
        simulator_of(job.model_dump(mode="json"))
