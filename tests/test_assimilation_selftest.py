r"""The self-test passes where it should, and fails where numbers differ."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpcinv.assimilation import selftest
from hpcinv.errors import BadInput
from hpcinv.parallel import World


def test_passes_alone(tmp_path):
    verdicts = selftest.run(selftest.TESTS, World(), tmp_path)
    assert [str(v) for v in verdicts] == [
        f"PASS {name} largest difference 0" for name in selftest.TESTS
    ]


def test_fails_if_noise_is_not_keyed(tmp_path, monkeypatch):
    from hpcinv.assimilation import engine

    monkeypatch.setattr(
        engine.keyed, "frames", lambda shape, frames, dtype, **names: torch.randn(
            (len(frames), *shape), dtype=dtype
        )
    )  # fmt: skip
    (verdict,) = selftest.run(["REP"], World(), tmp_path)
    assert not verdict.passed and str(verdict).startswith("FAIL REP")


def test_unknown_name(tmp_path):
    with pytest.raises(BadInput, match="unknown test 'EPR'"):
        selftest.run(["EPR"], World(), tmp_path)


PROGRAM = """
import sys
from hpcinv import parallel
from hpcinv.assimilation import selftest
world = parallel.connect("mpi")
for v in selftest.run(selftest.TESTS, world, sys.argv[1]):
    if world.rank == 0:
        print(v)
"""


@pytest.mark.mpi
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_passes_on_ranks(tmp_path):
    environ = {
        **os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["mpirun", "--oversubscribe", "-n", "4", sys.executable, "-m", "mpi4py"]
    command += [str(tmp_path / "program.py"), str(tmp_path)]
    out = subprocess.run(
        command, env=environ, timeout=120, check=True, capture_output=True, text=True
    )
    lines = [line for line in out.stdout.splitlines() if "largest" in line]
    assert lines == [f"PASS {name} largest difference 0" for name in selftest.TESTS]


def test_what_was_killed_is_made_again(tmp_path, monkeypatch):
    program = [sys.executable, "-m", "hpcinv.assimilation.selftest", str(tmp_path)]
    assert subprocess.run([*program, "cut"], timeout=120).returncode == -signal.SIGKILL
    assert (tmp_path / "killed").exists()
    saved = (tmp_path / "NODEFAIL" / "latest").read_text()
    assert saved == f"step-{selftest.STEPS // 2}-a0"
    out = subprocess.run([*program, "resume"], timeout=120, capture_output=True, text=True)
    assert out.stdout == "PASS NODEFAIL largest difference 0\n" and out.returncode == 0

    # A saved state that is not what was computed: the digests are right, the numbers are not.
    from hpcinv.assimilation import checkpoint

    read = checkpoint._read

    def spoiled(*args):
        saved = read(*args)
        saved.tensors[0] += 1e-3
        return saved

    monkeypatch.setattr(checkpoint, "_read", spoiled)
    assert not selftest.resume(World(), tmp_path).passed


def test_nothing_saved_is_said(tmp_path):
    with pytest.raises(BadInput, match="saved nothing"):
        selftest.resume(World(), tmp_path)


def test_verb_refuses(tmp_path, monkeypatch):
    from hpcinv.launch.selftest import selftest as verb

    with pytest.raises(BadInput, match=r"unknown test 'NODFAIL'\. Did you mean 'NODEFAIL'"):
        verb(["NODFAIL"], tmp_path)
    monkeypatch.setenv("HPCINV_RANK", "0")
    monkeypatch.setenv("HPCINV_SIZE", "2")
    with pytest.raises(BadInput, match="which a rank cannot"):
        verb(["NODEFAIL"], tmp_path)


@pytest.mark.mpi
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_verb_kills_a_node_and_resumes(tmp_path):
    command = [sys.executable, "-m", "hpcinv", "selftest", "NODEFAIL", "--runs", str(tmp_path)]
    out = subprocess.run(command, timeout=240, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    assert "PASS NODEFAIL largest difference 0\n" in out.stdout
    (waited,) = re.findall(r"the job ended (\S+) s after", out.stdout)
    assert float(waited) < 60
    assert not list(tmp_path.iterdir())  # it leaves nothing behind


@pytest.mark.slurm
@pytest.mark.slow
def test_verb_in_an_allocation(cluster, tmp_path):
    command = ["salloc", "--quiet", "--nodes=2", "--ntasks-per-node=2", "--time=5"]
    command += [sys.executable, "-m", "hpcinv", "selftest", "--runs", str(tmp_path)]
    out = subprocess.run(command, env=cluster, timeout=300, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    passed = re.findall(r"PASS (\S+) largest difference 0\n", out.stdout)
    assert passed == ["ERS", "PEM", "ERP", "REP", "NODEFAIL"]
