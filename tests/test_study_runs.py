"""Studies run here: what is done is skipped, what changed is refused or redone."""

import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
from tiny_study import make

from hpcinv.io.analysis import open_analysis


@pytest.fixture
def study(tmp_path):
    return make(tmp_path / "tiny")


def hpcinv(*args, **kw):
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True, **kw
    )


def manifest(runs, job):
    return json.loads((runs / "tiny" / job / "manifest.json").read_text())


def test_runs_skips_and_refuses(study, tmp_path):
    runs = tmp_path / "runs"
    done = hpcinv("run", study, "--runs", runs)
    assert done.returncode == 0, done.stdout + done.stderr
    first = {j: manifest(runs, j) for j in ("import", "observe", "oi", "evaluate")}
    assert all(m["state"] == "complete" and len(m["attempts"]) == 1 for m in first.values())
    # Inputs are named by the digests their producers told.
    assert first["oi"]["inputs"] == {j: first[j]["digest"] for j in ("import", "observe")}
    card = json.loads((runs / "tiny" / "evaluate" / "scores.json").read_text())
    assert card["methods"]["oi"]["members"] == 4
    # White noise of 1 K: a mean of 2 years errs by 1.2 K, and 5 points of 48 teach little.
    assert 1.0 < card["methods"]["oi"]["pooled"]["rmse"]["value"] < 2.0

    again = hpcinv("run", study, "--runs", runs)
    assert again.returncode == 0 and again.stdout.count("nothing to do") == 4
    assert manifest(runs, "oi") == first["oi"]

    other = hpcinv("run", study, "oi.seed=5", "--runs", runs)
    assert other.returncode == 2
    assert "seed: 0 -> 5" in other.stderr and "--fresh" in other.stderr
    assert manifest(runs, "oi") == first["oi"]

    # Resources do not change what is computed.
    cheap = hpcinv("run", study, "oi.resources.time=5m", "--runs", runs)
    assert cheap.returncode == 0 and cheap.stdout.count("nothing to do") == 4

    fresh = hpcinv("run", study / "3_oi.yaml", "seed=5", "--fresh", "--runs", runs)
    assert fresh.returncode == 0, fresh.stderr
    assert manifest(runs, "oi")["outputs"] != first["oi"]["outputs"]
    aside = [p for p in (runs / "tiny").iterdir() if p.name.startswith(".oi.")]
    assert len(aside) == 1 and json.loads((aside[0] / "manifest.json").read_text()) == first["oi"]

    rows = json.loads(hpcinv("status", "--json", "--runs", runs).stdout)
    assert [r["name"] for r in rows] == ["tiny/import", "tiny/observe", "tiny/evaluate", "tiny/oi"]
    assert {r["state"] for r in rows} == {"complete"}

    judged = hpcinv("run", study / "4_evaluate.yaml", "--runs", runs)
    assert judged.returncode == 0, judged.stderr
    note = "evaluate: its input 'oi' was made with other fields: seed: 5 -> 0"
    assert note in judged.stdout + judged.stderr
    quiet = hpcinv("run", study / "2_observe.yaml", "--fresh", "--runs", runs)
    assert quiet.returncode == 0 and "other fields" not in quiet.stdout + quiet.stderr


def test_a_job_that_failed_for_a_mistake_runs_once_it_is_mended(study, tmp_path):
    from hpcinv.errors import BadInput
    from hpcinv.kinds.prepare import prepare
    from hpcinv.kinds.study import load
    from hpcinv.launch.plan import state

    def fails(*fields):
        folder = prepare(load(study, None, fields), tmp_path, "oi")
        folder.start(1, {})
        (folder.path / "failure.json").write_text("{}")
        folder.end("failed")
        return folder

    folder = fails("oi.seed=5")
    assert state(load(study, None, []), tmp_path, "oi") == "to run"
    mended = prepare(load(study, None, []), tmp_path, "oi")
    assert mended.manifest()["state"] == "prepared"
    assert len(list(folder.path.parent.glob(".oi.*"))) == 1  # what failed is kept
    # What a failed job has made is not set aside unasked.
    folder = fails()
    (folder.path / "checkpoints").mkdir()
    with pytest.raises(
        BadInput, match=r"(?s)oi \(failed\) has other fields.*seed: 0 -> 7"
    ) as told:
        prepare(load(study, None, ["oi.seed=7"]), tmp_path, "oi")
    assert f"hpcinv run {study / '3_oi.yaml'} --fresh" in str(told.value)


def test_a_changed_source_is_imported_again(study, tmp_path):
    runs = tmp_path / "runs"
    assert hpcinv("run", study / "1_import.yaml", "--runs", runs).returncode == 0
    before = manifest(runs, "import")["digest"]
    with netCDF4.Dataset(study / "field.nc", "a") as f:
        f["t"][0] = 290.0
    done = hpcinv("run", study / "1_import.yaml", "--runs", runs)
    assert done.returncode == 0 and "its inputs have changed" in done.stdout
    assert manifest(runs, "import")["digest"] != before


def test_an_input_that_never_ran_is_asked_for(study, tmp_path):
    done = hpcinv("run", study / "3_oi.yaml", "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert "its input 'import' has not run yet" in done.stderr


def test_a_nan_is_named_with_variable_and_time(study, tmp_path):
    with netCDF4.Dataset(study / "field.nc", "a") as f:
        f["t"][7, 2, 3] = np.nan
    done = hpcinv("run", study, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    # Frame 7 of a monthly axis that begins in mid-January 2000.
    assert "variable 't' has 1 missing or non-finite values at 2000-08-15" in done.stdout
    assert "(frame 7)" in done.stdout


@pytest.mark.parametrize("left", [0.9, 0.05])
def test_a_truncated_file_is_named(study, tmp_path, left):
    path = study / "field.nc"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    done = hpcinv("run", study, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert "field.nc" in done.stdout + done.stderr
    assert "truncated" in done.stdout + done.stderr


@pytest.mark.mpi
def test_ranks_do_not_change_the_analysis(study, tmp_path):
    digests = set()
    for ranks in (1, 2, 3):
        runs = tmp_path / f"runs{ranks}"
        done = hpcinv("run", study, "--ranks", ranks, "--runs", runs)
        assert done.returncode == 0, done.stdout + done.stderr
        assert manifest(runs, "oi")["attempts"][0]["ranks"] == ranks
        digests.add((manifest(runs, "import")["digest"], manifest(runs, "oi")["digest"]))
        card = json.loads((runs / "tiny" / "evaluate" / "scores.json").read_text())
        value = card["methods"]["oi"]["pooled"]["crps"]["value"]
        digests.add(round(value, 10))
    assert len(digests) == 2, digests


@pytest.mark.mpi
def test_ranks_that_disagree_with_the_world(study, tmp_path):
    runs = tmp_path / "runs"
    assert hpcinv("run", study / "1_import.yaml", "--runs", runs).returncode == 0
    job = runs / "tiny" / "import" / "job.yaml"
    done = hpcinv("run", job, "--launcher", "none", "--ranks", 2)
    assert done.returncode == 2 and "--ranks 2 was asked for but 1 started" in done.stderr
    again = hpcinv("run", job, "--launcher", "none")
    assert again.returncode == 0 and "complete already" in again.stdout


def test_a_dead_process_is_seen_and_continued(study, tmp_path):
    runs = tmp_path / "runs"
    assert hpcinv("run", study / "1_import.yaml", "--runs", runs).returncode == 0
    path = runs / "tiny" / "import" / "manifest.json"
    m = json.loads(path.read_text())
    # What a kill -9 leaves: an attempt that says it runs, of a process that is gone.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    m["state"] = m["attempts"][0]["state"] = "running"
    m["attempts"][0]["pid"] = gone.pid
    path.write_text(json.dumps(m))
    (row,) = json.loads(hpcinv("status", "tiny/import", "--json", "--runs", runs).stdout)
    assert row["state"] == "interrupted"
    told = hpcinv("why", "tiny/import", "--runs", runs).stdout
    assert "interrupted" in told and "it goes on from its last checkpoint" in told
    done = hpcinv("run", study / "1_import.yaml", "--runs", runs)
    assert done.returncode == 0 and "attempt 2" in done.stdout
    assert len(manifest(runs, "import")["attempts"]) == 2


def test_the_analysis_is_physical_and_on_the_files_own_axes(study, tmp_path):
    runs = tmp_path / "runs"
    assert hpcinv("run", study, "--runs", runs).returncode == 0
    with open_analysis(runs / "tiny" / "oi") as a, netCDF4.Dataset(study / "field.nc") as f:
        assert a.members == [0, 1, 2, 3] and a.channels == ["t"] and a.units == ["K"]
        np.testing.assert_array_equal(a.time, f["time"][24:36])
        np.testing.assert_array_equal(a.coords["lat"], f["lat"][:])
        assert a.time_units == "days since 2000-01-15"
        assert 275 < a.read(2).mean() < 285


def test_a_job_that_runs_is_not_started_twice(study, tmp_path):
    runs = tmp_path / "runs"
    assert hpcinv("run", study / "1_import.yaml", "--runs", runs).returncode == 0
    path = runs / "tiny" / "import" / "manifest.json"
    m = json.loads(path.read_text())
    sleeper = subprocess.Popen(["sleep", "60"])
    m["state"] = m["attempts"][0]["state"] = "running"
    m["attempts"][0]["pid"] = sleeper.pid
    path.write_text(json.dumps(m))
    done = hpcinv("run", study, "--runs", runs)
    sleeper.kill()
    assert done.returncode == 2
    assert f"tiny/import runs already, in process {sleeper.pid}" in done.stderr


def test_a_pushed_aside_attempt_commits_nothing(tmp_path):
    from hpcinv.io.write_store import StoreWriter
    from hpcinv.runs.folder import Fenced, RunFolder

    folder = RunFolder(tmp_path / "s" / "j")
    folder.prepare("kind: import\n", "import")
    first = folder.start(1, {})
    writer = StoreWriter(
        folder.path / "store", channels=["t"], units=["K"], coords={"x": np.arange(2.0)},
        time=np.zeros(1), time_units="1", fence=lambda: folder.fence(first),
    )  # fmt: skip
    writer.write(0, np.zeros((1, 1, 2), "f4"))
    successor = RunFolder(folder.path)
    assert successor.start(1, {}) == 2
    with pytest.raises(Fenced, match="attempt 2 of s/j has started"):
        writer.close()
    assert not (folder.path / "store").exists()
    with pytest.raises(Fenced):
        folder.end("complete")
    assert folder.manifest()["state"] == "running"
