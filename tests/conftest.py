"""What several test files share: real ranks, the dev cluster, a small analysis layout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Ranks of the tests share few cores, are started by root in containers, and meet on loopback.
RANKS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMP_NUM_THREADS": "1",
}


def _environment(**more: str) -> dict[str, str]:
    # Inside an allocation or under another mpirun, a new mpirun must start from nothing.
    foreign = ("SLURM_", "PMIX_", "PMI_", "OMPI_COMM_", "PRTE_", "HPCINV_RANK", "HPCINV_SIZE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(foreign) or k == "SLURM_CONF"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    return env | RANKS | more


@pytest.fixture
def mpirun(tmp_path: Path) -> Callable[..., str]:
    """``mpirun(n, source_or_file, *args)``: runs a script on n real ranks, returns its output.

    The script is a file, or Python source. A failure or a timeout (a hang, in most cases) is a
    test failure that shows what the ranks said.
    """
    launcher = Path(sys.executable).with_name("mpirun")
    found = str(launcher) if launcher.exists() else shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun: scripts/setup installs one")

    def run(n: int, script: str | Path, *args: object, timeout: float = 60, **env: str) -> str:
        path = Path(script) if isinstance(script, Path) else tmp_path / "ranks.py"
        if not isinstance(script, Path):
            path.write_text(script)
        command = [found, "--oversubscribe", "-n", str(n), sys.executable, str(path)]
        try:
            done = subprocess.run(
                [*command, *map(str, args)],
                capture_output=True,
                text=True,
                timeout=timeout,
                env=_environment(**env),
                cwd=tmp_path,
            )
        except subprocess.TimeoutExpired as e:
            said = (e.stderr or b"").decode(errors="replace")[-3000:]
            pytest.fail(f"{n} ranks did not end within {timeout:.0f} s; they said:\n{said}")
        if done.returncode:
            pytest.fail(
                f"{n} ranks: exit {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
            )
        return done.stdout

    return run


@pytest.fixture(scope="session")
def cluster() -> dict[str, str]:
    """The environment in which Slurm's commands talk to the dev cluster.

    Without a cluster the test is skipped, unless HPCINV_TEST_CLUSTER says that there must be one.
    """
    script = str(ROOT / "scripts" / "dev-cluster")
    status = subprocess.run([script, "status"], capture_output=True, text=True, timeout=60)
    if status.returncode:
        reason = "the dev cluster is not up (scripts/dev-cluster start)"
        if os.environ.get("HPCINV_TEST_CLUSTER"):
            pytest.fail(f"{reason}:\n{status.stdout}{status.stderr}")
        pytest.skip(reason)
    lines = subprocess.run([script, "env"], capture_output=True, text=True, check=True).stdout
    exports = dict(
        pair.split("=", 1)
        for line in lines.splitlines()
        for pair in line.removeprefix("export ").split()
    )
    return _environment(**exports)


@pytest.fixture(scope="session")
def world():
    """The torch world of this process.

    One serves all tests: DeepSpeed keeps the first process groups it meets, and fails on a
    second world.
    """
    import torch

    from hpcinv.parallel import connect

    torch.set_num_threads(1)
    joined = connect("torch")
    yield joined
    joined.close()
