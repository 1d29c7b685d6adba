"""jobs/winds on a real Slurm, its analyses cut over members and over dates, then mended."""

import json
import shutil
import subprocess
import sys

import pytest
from test_slurm_arrays import Command

from hpcinv.io.analysis import open_analysis
from hpcinv.runs.tasks import states
from hpcinv.shipped import folder

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
THREAD = "oi-localised.resources.cpus_per_task=1"  # more of them round otherwise
CUT = {"reanalysis": "members", "oi-localised": "dates", "climatology": "dates"}


def outputs(runs, job):
    return json.loads((runs / "winds" / job / "manifest.json").read_text())["outputs"]


def scores(runs):
    card = json.loads((runs / "winds" / "evaluate" / "scores.json").read_text())
    return {
        name: {k: v for k, v in of.items() if k != "seam"} for name, of in card["methods"].items()
    }


def test_analyses_cut_over_members_and_dates_and_one_member_made_again(cluster, tmp_path):
    hpcinv, winds = Command(cluster, tmp_path), folder("jobs") / "winds"
    hpcinv.study = winds
    whole = tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", winds, "--preset", "smoke", THREAD,
         "--runs", whole],
        capture_output=True, text=True, env=cluster, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(whole, hpcinv.runs)
    for job in (*CUT, "evaluate", "report"):
        shutil.rmtree(hpcinv.runs / "winds" / job)
    arrays = [f"{j}.resources.array={{over: {over}, tasks: 4}}" for j, over in CUT.items()]
    hpcinv("submit", winds, "--preset", "smoke", THREAD, *arrays, "--wait")
    for job in CUT:
        assert outputs(hpcinv.runs, job) == outputs(whole, job), job
    # The cut analyses are scored alike; only they have seams where blocks of dates meet.
    assert scores(hpcinv.runs) == scores(whole)

    # Member 2 is deleted: readers say so; its task alone is done again, and nothing after it.
    job = hpcinv.runs / "winds" / "reanalysis"
    (job / "tasks" / "2" / "members" / "2.nc").unlink()
    done = subprocess.run(
        [sys.executable, "-c", f"from hpcinv.io.analysis import open_analysis as o\n"
         f"o({str(job)!r}).read(2)"],
        capture_output=True, text=True, env=cluster,
    )  # fmt: skip
    assert "a file of the analysis is missing" in done.stderr and "2.nc" in done.stderr
    before = {k: m["attempts"] for k, m in manifests(job).items()}
    said = hpcinv("retry", "winds/reanalysis/2")
    assert "(1 tasks:" in said and said.count("is job") == 1
    hpcinv.until(lambda: hpcinv.manifest(job)["state"] == "complete")
    after = {k: m["attempts"] for k, m in manifests(job).items()}
    assert [k for k in after if after[k] != before[k]] == [2] and len(after[2]) == 1
    assert outputs(hpcinv.runs, "reanalysis") == outputs(whole, "reanalysis")
    assert (
        open_analysis(job).ensemble() == open_analysis(whole / "winds/reanalysis").ensemble()
    ).all()
    assert {s for s, _ in states(job).values()} == {"complete"}

    # So is a task whose folder is gone.
    shutil.rmtree(job / "tasks" / "0")
    assert "(1 tasks:" in hpcinv("retry", "winds")
    hpcinv.until(lambda: hpcinv.manifest(job)["state"] == "complete")
    assert outputs(hpcinv.runs, "reanalysis") == outputs(whole, "reanalysis")
    rows = hpcinv.json("status", "winds")
    assert {r["state"] for r in rows} == {"complete"}


def manifests(job):
    return {
        k: json.loads((job / "tasks" / str(k) / "manifest.json").read_text()) for k in range(4)
    }
