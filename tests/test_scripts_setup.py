"""scripts/setup names what is missing and what to type; the wheel carries the studies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from hpcinv import shipped

TOOLS = (
    "bash cat chmod cut dirname env flock grep id ls mkdir mktemp mv paste readlink rm sed "
    "sha256sum sort tail"
)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the scripts, so that no test touches the environment it runs in."""
    shutil.copytree(ROOT / "scripts", tmp_path / "repo" / "scripts")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / "repo")
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in TOOLS.split():
        found = shutil.which(tool)
        if found:
            (bare / tool).symlink_to(found)

    def run(*words: str, script: str = "setup", code: int = 2, **env: str) -> str:
        done = subprocess.run(
            [str(tmp_path / "repo" / "scripts" / script), *words],
            env={"PATH": str(bare), "HOME": str(tmp_path)} | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.bin = bare
    run.venv = tmp_path / "repo" / ".venv"
    return run


def test_help_and_a_typo(checkout):
    assert "--rootless" in checkout("--help", code=0)
    said = checkout("--rootles")
    assert "unknown option '--rootles'" in said and "usage" in said
    assert "--all" in checkout("--help", script="test", code=0)
    assert "hpcinv run jobs/winds" in checkout("--help", script="quickstart", code=0)


def test_no_python(checkout):
    said = checkout("--rootless")
    assert "no Python of at least 3.11" in said and "do: module load python" in said
    assert "not a Python of at least 3.11" in checkout("--rootless", HPCINV_PYTHON="/bin/false")
    assert not checkout.venv.exists()


def test_site_without_modules(checkout):
    said = checkout("--site", HPCINV_PYTHON=sys.executable)
    assert "'mpicc' is not in PATH" in said and "do: module load openmpi hdf5 netcdf-c" in said
    for tool, text in (("mpicc", ""), ("h5pcc", ""), ("nc-config", "echo no")):
        (checkout.bin / tool).write_text(f"#!/bin/bash\n{text}\n")
        (checkout.bin / tool).chmod(0o755)
    said = checkout("--site", HPCINV_PYTHON=sys.executable)
    assert "without parallel HDF5" in said and "scripts/setup --rootless" in said
    (checkout.bin / "nc-config").write_text("#!/bin/bash\necho yes\n")
    said = checkout("--site", HPCINV_PYTHON=sys.executable)
    assert "was built without MPI" in said


def test_python_without_venv(checkout):
    lame = checkout.bin / "lame"
    lame.write_text(f'#!/bin/bash\n[ "$2" = venv ] && exit 1\nexec {sys.executable} "$@"\n')
    lame.chmod(0o755)
    said = checkout("--rootless", HPCINV_PYTHON=str(lame))
    assert "cannot make virtual environments" in said and "python3-venv" in said
    assert not checkout.venv.exists()


def test_wheels_name_the_missing_compiler(checkout):
    said = checkout(sys.executable, script="mpi-wheels")
    assert "'mpicc' is missing" in said and "do: apt-get install" in said


def test_a_warm_setup_takes_seconds():
    stamp = ROOT / ".venv" / "setup.stamp"
    if not stamp.exists() or sys.prefix != str(ROOT / ".venv"):
        pytest.skip("these tests do not run in the environment that scripts/setup made")
    command = [str(ROOT / "scripts" / "setup"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    if done.returncode:
        pytest.skip("pyproject.toml or scripts/ changed since the last scripts/setup")
    assert "nothing to do" in done.stdout


def test_shipped_folders():
    assert shipped.folder("jobs") == ROOT / "jobs"
    assert (shipped.folder("slurm") / "job.sbatch.j2").is_file()
    with pytest.raises(FileNotFoundError, match="lacks its 'nothing' folder"):
        shipped.folder("nothing")


def test_the_wheel_carries_jobs_and_slurm(tmp_path):
    source = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "--no-index", "-w", str(tmp_path), str(source)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("hpcinv-*.whl")
    with zipfile.ZipFile(wheel) as z:
        inside = set(z.namelist())
        z.extractall(tmp_path / "site")
    for folder in ("jobs", "slurm"):
        for name in filter(None, files):
            if Path(name).parts[0] == folder and (ROOT / name).is_file():
                assert f"hpcinv/{name}" in inside, name
    assert not any(Path(n).parts[0] in ("jobs", "slurm", "tests", "scripts") for n in inside)
    found = subprocess.run(
        [sys.executable, "-S", "-c", "import hpcinv.shipped as s; print(s.folder('jobs'))"],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert found == str(tmp_path / "site" / "hpcinv" / "jobs")
