"""Arrays here: any cut gives the same result, a lost part is found and made again alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.kinds.arrays import asked, block, parts
from hpcinv.kinds.study import load
from hpcinv.runs.folder import Fenced, RunFolder
from hpcinv.runs.tasks import states


@pytest.fixture
def study(tmp_path):
    return make(tmp_path / "tiny")


def hpcinv(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)],
        capture_output=True, text=True, env=os.environ | env,
    )  # fmt: skip


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("length, tasks", [(10, 1), (10, 3), (10, 10), (1000, 7)])
def test_blocks_tile_the_axis(length, tasks):
    cut = [block(length, tasks, k) for k in range(tasks)]
    assert [i for b in cut for i in b] == list(range(length))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


def test_any_cut_gives_the_same_analysis_and_a_lost_part_is_made_alone(study, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = hpcinv("run", study, "--runs", whole)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("oi", "evaluate"))
    array = "oi.resources.array={over: members, tasks: 3}"
    done = hpcinv("run", study, array, "--runs", cut)
    assert done.returncode == 0, done.stdout + done.stderr
    oi = cut / "tiny" / "oi"
    a, b = manifest(whole / "tiny" / "oi"), manifest(oi)
    assert a["outputs"] == b["outputs"] and a["digest"] == b["digest"]
    assert states(oi) == dict.fromkeys(range(3), ("complete", 1))
    assert [manifest(oi / "tasks" / str(k))["block"] for k in range(3)] == [[0, 1], [1, 2], [2, 4]]
    scores = [json.loads((r / "tiny/evaluate/scores.json").read_text()) for r in (whole, cut)]
    assert scores[0]["methods"]["oi"] == scores[1]["methods"]["oi"]

    # A member that is damaged is found by the join, whatever the manifests say.
    other = oi / "tasks" / "0" / "members" / "0.nc"
    shutil.copy(other, oi / "tasks" / "1" / "members" / "1.nc")
    failed = hpcinv("run", oi / "job.yaml", HPCINV_TASK="join")
    assert "is complete already" in failed.stdout
    m = manifest(oi)
    (oi / "manifest.json").write_text(json.dumps(m | {"state": "queued"}))
    failed = hpcinv("run", oi / "job.yaml", HPCINV_TASK="join")
    assert failed.returncode == 2 and "tasks/1" in failed.stderr, failed.stderr
    shutil.rmtree(oi / "tasks" / "1")
    failed = hpcinv("run", oi / "job.yaml", HPCINV_TASK="join")
    assert failed.returncode == 2 and "task 1 of 3 has not run" in failed.stderr

    # It alone is made again, and the result is the same.
    done = hpcinv("run", study, array, "--runs", cut)
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifest(oi)["outputs"] == a["outputs"]
    assert [len(manifest(oi / "tasks" / str(k))["attempts"]) for k in range(3)] == [1, 1, 1]
    assert len(list((oi / "tasks" / "1" / "logs").iterdir())) == 1


def test_what_cannot_be_cut_is_said_before_anything_runs(study):
    for array, said in (
        ("import.resources.array={over: members, tasks: 2}", "cannot be cut over members"),
        ("oi.resources.array={over: shards, tasks: 2}", "cannot be cut over shards"),
        ("oi.resources.array={over: members, tasks: 5}", "5 tasks cannot share 4 members"),
    ):
        with pytest.raises(BadInput, match=said):
            load(study, None, [array]).check()


def test_a_process_knows_which_task_it_is(study):
    job = load(study, None, ["oi.resources.array={over: members, tasks: 3}"]).jobs["oi"]
    at = Path("job.yaml")
    assert asked(job, at, {}) is None
    assert asked(job, at, {"HPCINV_TASK": "2"}) == 2
    assert asked(job, at, {"HPCINV_TASK": "join"}) == "join"
    for env in ({"HPCINV_TASK": "3"}, {"HPCINV_TASK": "-1"}, {"SLURM_ARRAY_TASK_ID": "1"}):
        with pytest.raises(BadInput):
            asked(job, at, env)
    with pytest.raises(BadInput, match="no array"):
        asked(load(study).jobs["oi"], at, {"HPCINV_TASK": "0"})


def test_a_second_start_of_a_task_fences_the_first_and_counts_on(study, tmp_path):
    job = load(study, None, ["oi.resources.array={over: members, tasks: 2}"]).jobs["oi"]
    top = RunFolder(tmp_path / "tiny" / "oi")
    top.prepare("kind: assimilate\n", "assimilate")
    zombie, heir = top.of_task(0), top.of_task(0)
    assert (zombie.start(1, {"x": "1"}), heir.start(1, {"x": "1"})) == (1, 2)
    assert states(top.path) == {0: ("running", 2)}
    with pytest.raises(Fenced):
        zombie.end("complete", outputs={})
    assert states(top.path) == {0: ("running", 2)}
    heir.end("complete", outputs={})
    assert states(top.path) == {0: ("complete", 2)}
    # Attempts count on when the folder is set aside for other inputs: the zombie stays fenced.
    earlier = heir.manifest()["attempts"]
    heir.set_aside()
    assert top.of_task(0).start(1, {"x": "2"}, earlier) == 3
    with pytest.raises(Fenced):
        top.of_task(0).fence(2)
    # The join takes no part that is missing, unfinished, or made of something else.
    with pytest.raises(BadInput, match=r"task 0 of 2 is running \(and 1 more\)"):
        parts(top, job, {"x": "2"}, patience=0)
    for k in (0, 1):
        t = top.of_task(k)
        t.start(1, {"x": "2"})
        t.end("complete", outputs={})
    assert parts(top, job, {"x": "2"}, patience=0) == [top.of_task(k).path for k in (0, 1)]
    with pytest.raises(BadInput, match="task 0 of 2 was made of other inputs"):
        parts(top, job, {"x": "3"}, patience=0)


def test_listing_thousands_of_tasks_opens_no_file(tmp_path, monkeypatch):
    folder = tmp_path / "states"
    folder.mkdir()
    for k in range(2000):
        (folder / f"{k}.{'failed' if k % 5 == 0 else 'complete'}.1").touch()
    (folder / "5.complete.2").touch()
    monkeypatch.setattr("builtins.open", lambda *a, **k: pytest.fail("a file was opened"))
    found = states(tmp_path)
    assert sum(s == "failed" for s, _ in found.values()) == 399 and found[5] == ("complete", 2)
