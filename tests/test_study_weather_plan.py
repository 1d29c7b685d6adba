"""The presets of the dry atmosphere: planned, and every script rendered, without its simulator."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def plan(out, preset, centre):
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "plan", ROOT / "jobs" / "weather", "--preset", preset,
         "--cluster", centre, "--sbatch", out, "--runs", out.parent / "runs"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(out.glob("*.sbatch"))


@pytest.mark.parametrize("centre", ["jean-zay", "leonardo", "lumi"])
def test_every_script_of_the_full_study_is_rendered(tmp_path, centre):
    scripts = plan(tmp_path / "out", "full", centre)
    for script in scripts:
        assert subprocess.run(["bash", "-n", script]).returncode == 0
        assert "--launcher none" in script.read_text()
    # 42 jobs, of which seven are arrays with a join step each.
    assert len(scripts) == 49
    simulate = next(s for s in scripts if s.name.endswith("simulate.array.sbatch")).read_text()
    assert "--array=0-20%21" in simulate
    reanalysis = next(s for s in scripts if s.name.endswith("_reanalysis.array.sbatch"))
    assert "--array=0-15%8" in reanalysis.read_text() and "--nodes=2" in reanalysis.read_text()
    jobs = {p.name.split("_", 1)[1]: p for p in (tmp_path / "out").glob("*.yaml")}
    before, twin = (yaml.safe_load(jobs[f"observe{n}.yaml"].read_text()) for n in ("", "-twin"))
    # Ten levels are told an error each; the twin's truth begins where its nature does.
    assert len(before["observing"]["error"]) == 31 and twin["frames"][0] == 20 * 720


def test_medium_is_ten_windows_long(tmp_path):
    plan(tmp_path / "out", "medium", "generic")
    jobs = {p.name.split("_", 1)[1]: p for p in (tmp_path / "out").glob("*.yaml")}
    job = yaml.safe_load(jobs["reanalysis.yaml"].read_text())
    assert job["frames"][1] - job["frames"][0] == 10 * job["window"]
