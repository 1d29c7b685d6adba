r"""Leaving the world: ranks that have read GRIB and ranks that have not end together."""

import re

import pytest

SCRIPT = """
import sys, types
from hpcinv.parallel import connect
world = connect("mpi")
if world.rank == 0:  # as if it had opened a GRIB file, which the others had no part in
    sys.modules["gribapi"] = types.ModuleType("gribapi")
print(f"end{world.rank};", flush=True)
sys.exit(world.finish(0))
"""


@pytest.mark.mpi
def test_a_rank_that_has_read_grib_waits_for_none_at_a_barrier(mpirun):
    said = mpirun(3, SCRIPT, timeout=60)  # a hang, or a crash, is a failure
    # mpirun may join the lines of ranks that speak at once
    assert sorted(re.findall(r"end\d;", said)) == ["end0;", "end1;", "end2;"]
