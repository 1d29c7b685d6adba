"""Every command of the README runs, and its Python too: the README is a promise."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import _environment

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.split("  #")[0].split(" #")[0] for b in blocks("sh") for line in b.splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def run(command, env, timeout=900):
    """A command of the README; whole studies in their smoke preset."""
    if command[0].endswith("quickstart") or command[1] in ("run", "plan", "submit"):
        command = [*command, "--preset", "smoke"]
    path = f"{BIN}:{env.get('PATH', os.environ['PATH'])}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        env={**env, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def scores(runs):
    card = json.loads((runs / "winds" / "evaluate" / "scores.json").read_text())
    return {
        (name, k): v["value"]
        for name, m in card["methods"].items()
        for k, v in m["pooled"].items()
        if isinstance(v, dict) and "value" in v
    }


def test_all_commands_are_known_here():
    found = [" ".join(c[:2]) for c in commands()]
    assert found == [
        "scripts/quickstart", "scripts/test", "hpcinv plan", "hpcinv run", "hpcinv submit",
        "hpcinv status", "hpcinv schema",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The runs folder after all commands but scripts/test, which runs this, and `submit`."""
    runs, said = tmp_path_factory.mktemp("here"), {}
    for command in commands():
        if command != ["scripts/test"] and "submit" not in command:
            said[" ".join(command[:2])] = run(command, _environment(HPCINV_RUNS=str(runs)))
    assert "report.html" in said["scripts/quickstart"]
    assert said["hpcinv run"].count("nothing to do") == 12
    assert "winds/reanalysis" in said["hpcinv status"]
    assert "integer, default 24: frames of a window" in said["hpcinv schema"]
    return runs


@pytest.mark.slurm
@pytest.mark.slow
def test_slurm_and_this_machine_give_the_same_scores(here, cluster, tmp_path):
    (command,) = (c for c in commands() if "submit" in c)
    run(command, cluster | {"HPCINV_RUNS": str(tmp_path)})
    a, b = scores(here), scores(tmp_path)
    assert a.keys() == b.keys() and len(a) >= 30
    for key in a:
        assert a[key] == pytest.approx(b[key], rel=1e-5), key


def test_the_users_day(here, tmp_path):
    report = (here / "winds" / "report" / "report.html").read_text()
    assert "Can I trust this?" in report and "http://" not in report.replace("http://www.w3", "")
    member = here / "winds" / "reanalysis" / "members" / "0.nc"
    for tool in (
        ["cdo", "-s", "sinfon", str(member)],
        ["cdo", "-s", "fldmean", str(member), "m.nc"],
    ):
        done = subprocess.run(tool, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    joined = here / "winds" / "reanalysis" / "analysis.nc"
    head = subprocess.run(["ncdump", "-h", str(joined)], capture_output=True, text=True)
    assert head.returncode == 0 and not head.stderr
    assert "float UWND(realization, time, lat, lon)" in head.stdout
    import xarray as xr

    with xr.open_dataset(joined) as d:
        assert d.UWND.dims == ("realization", "time", "lat", "lon")
        assert (
            d.UWND.attrs["standard_name"] == "eastward_wind" and d.UWND.attrs["units"] == "m s-1"
        )
        assert float(d.lon[0]) == 20 and float(d.lon[-1]) == 377.5
        assert str(d.time.values[0]).startswith("1991-01-17")
        assert d.attrs["Conventions"] == "CF-1.11"
        assert abs(d.UWND.values).max() < 60


def test_the_job_file_shown_is_the_job_file():
    (shown,) = (b for b in blocks("yaml") if "assimilate" in b)
    assert yaml.safe_load(shown) == yaml.safe_load(
        (ROOT / "jobs" / "winds" / "6_reanalysis.yaml").read_text()
    )


def test_the_python_example(tmp_path):
    (code,) = blocks("python")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    error, ratio = (float(x) for x in re.findall(r"tensor\(([\d.]+)", done.stdout))
    assert error < 0.2 and 0.95 < ratio < 1.05, done.stdout
