r"""A run that is stopped, killed or cut goes on to the very same numbers.

Run as a program, this file is what each rank executes: one attempt of one run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from azula.noise import VPSchedule

from hpcinv import assimilation
from hpcinv.errors import BadInput, Stopped

torch.set_num_threads(1)
LENGTH, STEPS, MEMBERS = 11, 6, [0, 1, 2]
ASKED = 2  # guided calls of a step: as often a run asks whether to stop


class Table:
    frame = np.array([0, 3, 4, 9])
    channel = np.array([0, 1, 1, 0])
    point = np.zeros(4, int)
    value = np.array([0.4, -1.0, 0.3, 1.2])
    error = np.full(4, 0.3)


class Stop:
    r"""Asks to stop before the n-th step, or ends the process there as a power cut would."""

    def __init__(self, n, kill=False):
        self.left, self.kill = ASKED * n, kill

    def requested(self, world):
        self.left -= 1
        if self.left < 0 and self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.left < 0


def draw(folder=None, world=None, stop=None, every=0, attempt=0, **change):
    lag = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    C = torch.einsum("ij,cd->icjd", 0.9**lag, torch.eye(2))
    likelihood = assimilation.PointLikelihood(Table, shape=(2,), length=LENGTH)
    place = folder and assimilation.Checkpoint(folder, every=every, attempt=attempt)
    arguments = {
        "shape": (2,), "length": LENGTH, "window": 5, "overlap": 3, "members": MEMBERS,
        "likelihood": likelihood, "compose": "junction", "reproducible": True,
        "sampler": {"method": "adams-bashforth", "order": 3, "steps": STEPS, "corrections": 1},
        "world": world, "slabs": world.size if world else None,
    } | change  # fmt: skip
    arguments.setdefault("checkpoint", place)
    return assimilation.sample(
        assimilation.StationaryGaussian(torch.zeros(5, 2), C, VPSchedule(1e-2, 1e-2)),
        stop=stop, **arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return draw().x


def test_stop_saves_and_resumes_exactly(whole, tmp_path):
    for n in (0, 3, 1):  # stopped three times, after 0, 3 and 1 more steps
        with pytest.raises(Stopped):
            draw(tmp_path, stop=Stop(n))
    assert (tmp_path / "latest").read_text().startswith("step-4-")
    result = draw(tmp_path, attempt=3)
    assert torch.equal(result.x, whole)
    assert len(list(tmp_path.glob("step-*"))) == 2  # older tags are pruned


def test_damaged_checkpoint_falls_back(whole, tmp_path):
    with pytest.raises(Stopped):
        draw(tmp_path, every=2, stop=Stop(5))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-4-a0", "step-5-a0"]
    victim = tmp_path / "step-5-a0" / "rank-0-1.npy"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match=r"step-5-a0 is damaged.*digest"):
        result = draw(tmp_path, attempt=1)
    assert torch.equal(result.x, whole)
    assert result.diagnostics["events"] == []


def test_the_clock_saves_too(whole, tmp_path):
    place = assimilation.Checkpoint(tmp_path, minutes=1e-9, keep=99)
    assert torch.equal(draw(checkpoint=place).x, whole)
    assert len(list(tmp_path.glob("step-*"))) == STEPS - 1


def test_uncommitted_tag_is_not_read(whole, tmp_path):
    with pytest.raises(Stopped):
        draw(tmp_path, stop=Stop(3))
    # A tag whose `latest` was never moved, with garbage in it.
    bad = tmp_path / "step-5-a0"
    shutil.copytree(tmp_path / "step-3-a0", bad)
    manifest = json.loads((bad / "manifest.json").read_text()) | {"step": 5}
    (bad / "manifest.json").write_text(json.dumps(manifest))
    assert torch.equal(draw(tmp_path, attempt=1).x, whole)


def test_other_settings_are_refused(tmp_path):
    with pytest.raises(Stopped):
        draw(tmp_path, stop=Stop(2))
    with pytest.raises(BadInput, match="other seed"):
        draw(tmp_path, seed=1)
    with pytest.raises(BadInput, match="guidance"):
        draw(tmp_path, guidance={"iterations": 9})


def test_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        draw(tmp_path, stop=Stop(2))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match=r"the one before stays.*No space left"):
            draw(tmp_path, stop=Stop(2), attempt=1)
    assert torch.equal(draw(tmp_path, attempt=2).x, whole)


def main(folder, attempt, stop, kill):
    from hpcinv import parallel

    world = parallel.connect("mpi")
    kill = kill == "kill" and world.rank == world.size - 1
    asked = Stop(int(stop), kill) if int(stop) >= 0 else None
    try:
        result = draw(folder, world, asked, every=2, attempt=int(attempt))
    except Stopped:
        return
    out = np.zeros((len(MEMBERS), LENGTH, 2), np.float32)
    for i, m in enumerate(result.members):
        out[MEMBERS.index(m), result.frames] = result.x[i].numpy()
    out = world.all_reduce(out)
    if world.rank == 0:
        np.save(Path(folder) / "result.npy", out)


@pytest.mark.mpi
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_killed_and_resumed_on_other_ranks(whole, tmp_path):
    environ = {
        **os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip

    def run(ranks, attempt, stop=-1, kill="no"):
        command = ["mpirun", "--oversubscribe", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
        command += [__file__, str(tmp_path), str(attempt), str(stop), kill]
        return subprocess.run(command, env=environ, timeout=60).returncode

    assert run(3, 0, stop=3, kill="kill") != 0  # kill -9 of the last rank before step 4
    assert (tmp_path / "latest").read_text() == "step-2-a0"
    assert run(2, 1, stop=1) == 0  # resumed at step 2, stopped at 3
    assert (tmp_path / "latest").read_text() == "step-3-a1"
    assert run(4, 2) == 0
    assert np.array_equal(np.load(tmp_path / "result.npy"), whole.numpy())


def test_noise_is_of_global_names():
    a = draw(sampler={"steps": 1, "final": "keep"}, likelihood=None, members=[7])
    b = draw(sampler={"steps": 1, "final": "keep"}, likelihood=None, members=[2, 7])
    assert torch.equal(a.x[0], b.x[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
