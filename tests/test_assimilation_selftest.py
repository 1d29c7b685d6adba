r"""The self-test passes where it should, and fails where numbers differ."""

import os
import shutil
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
