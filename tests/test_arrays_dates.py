"""Jobs cut over dates or shards: the joined result is that of the uncut job, to the bit."""

import numpy as np
import pytest
import yaml
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.kinds.execute import execute
from hpcinv.kinds.prepare import prepare
from hpcinv.kinds.study import load
from hpcinv.runs.folder import RunFolder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The tiny study's import and observe, run, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    study = make(folder / "tiny")
    for job in ("import", "observe", "oi"):
        start(study, folder / "runs", job)
    return study, folder / "runs"


def start(folder, runs, job, *overrides):
    study = load(folder, None, [f"{job}.{o}" for o in overrides])
    study.check()
    run = prepare(study, runs, job)
    array = study.jobs[job].resources.array
    for step in [*range(array.tasks), "join"] if array else [None]:
        with pytest.MonkeyPatch.context() as m:
            if step is not None:
                m.setenv("HPCINV_TASK", str(step))
            assert execute(run.path / "job.yaml") == 0, (job, step)
    return run.manifest()


def cut(tmp_path, inputs, job, *overrides):
    """A job run in pieces, on the inputs of the whole study."""
    study, whole = inputs
    runs = tmp_path / "runs"
    (runs / "tiny").mkdir(parents=True)
    for name in ("import", "observe"):
        if name != job:
            (runs / "tiny" / name).symlink_to(whole / "tiny" / name)
    return start(study, runs, job, *overrides), RunFolder(whole / "tiny" / job).manifest()


def test_observations_drawn_over_dates(tmp_path, inputs):
    some = "observing={network: random_points, points: 5, error: 0.1, every: 5, missing: 0.3}"
    for overrides in ((), (some,)):  # 12 blocks of one frame: most of them have none observed
        a, b = (tmp_path / f"{len(overrides)}{k}" for k in "ab")
        mine, _ = cut(a, inputs, "observe", *overrides, "resources.array={over: dates, tasks: 12}")
        theirs, _ = cut(b, inputs, "observe", *overrides)
        assert mine["outputs"] == theirs["outputs"]
        assert mine["digest"] == theirs["digest"]


@pytest.mark.parametrize("tasks", [1, 5, 12])
def test_interpolation_over_dates(tmp_path, inputs, tasks):
    mine, whole = cut(tmp_path, inputs, "oi", f"resources.array={{over: dates, tasks: {tasks}}}")
    assert mine["outputs"] == whole["outputs"]
    folder = tmp_path / "runs" / "tiny" / "oi"
    a, b = open_analysis(folder), open_analysis(inputs[1] / "tiny" / "oi")
    assert np.array_equal(a.ensemble(), b.ensemble())
    assert np.array_equal(a.time, b.time)
    if tasks == 5:  # a part that is gone is said, not filled
        (folder / "tasks" / "3" / "members" / "2.nc").unlink()
        with pytest.raises(BadInput, match="a file of the analysis is missing"):
            open_analysis(folder).read(2)


@pytest.mark.parametrize("every", ["", ", every: 5, missing: 0.3"], ids=["all", "gaps"])
def test_interpolation_of_parts_that_are_not_joined_yet(tmp_path, inputs, every):
    """Both cut alike: task k reads what task k has drawn; the joins come afterwards."""
    over = "resources.array={over: dates, tasks: 4}"
    network = f"observing={{network: random_points, points: 5, error: 0.1{every}}}"
    study = load(inputs[0], None, [f"observe.{network}", f"observe.{over}", f"oi.{over}"])
    study.check()
    runs = tmp_path / "runs"
    (runs / "tiny").mkdir(parents=True)
    (runs / "tiny" / "import").symlink_to(inputs[1] / "tiny" / "import")
    jobs = {job: prepare(study, runs, job) for job in ("observe", "oi")}

    def step(job, task, code=0):
        with pytest.MonkeyPatch.context() as m:
            m.setenv("HPCINV_TASK", str(task))
            assert execute(jobs[job].path / "job.yaml") == code, (job, task)

    step("observe", 1)
    step("oi", 0, code=2)  # its own part is not there
    step("oi", 1)
    for k in (0, 2, 3):
        step("observe", k)
        step("oi", k)
    step("oi", "join", code=2)  # what was observed is not whole
    step("observe", "join")
    step("oi", "join")
    observed = [jobs["observe"].of_task(k).manifest()["digest"] for k in range(4)]
    assert [jobs["oi"].of_task(k).manifest()["inputs"]["observe"] for k in range(4)] == observed
    whole = tmp_path / "whole"
    (whole / "tiny").mkdir(parents=True)
    (whole / "tiny" / "import").symlink_to(inputs[1] / "tiny" / "import")
    start(study.folder, whole, "observe", network)
    theirs = start(study.folder, whole, "oi")
    assert jobs["oi"].manifest()["outputs"] == theirs["outputs"]
    assert jobs["oi"].manifest()["digest"] == theirs["digest"]

    # A part that is drawn again, otherwise, makes what was made of it a thing of other inputs.
    part = jobs["observe"].of_task(2)
    part.mark(digest="another")
    jobs["oi"].mark(state="queued")
    step("oi", "join", code=2)


def test_frames_that_are_drawn_together_are_not_cut(tmp_path):
    over = ["oi.method=enks", "oi.resources.array={over: dates, tasks: 2}"]
    study = load(make(tmp_path / "tiny"), None, over)
    with pytest.raises(BadInput, match="draws its frames together"):
        study.check()


class Halves:
    """A stand-in for a trained autoencoder: latents of half as many numbers."""

    latent_shape, context = (1, 6, 4), 0

    def encode(self, x, context):
        return x[..., ::2] + x[..., 1::2] ** 2


MIXTURES = {"window": 3, "windows": 7, "augmentation": {"length_km": 3000}}


@pytest.mark.parametrize("fields", [{"frames": [3, 33]}, MIXTURES], ids=["frames", "mixtures"])
def test_latents_over_dates_and_shards(tmp_path, inputs, fields, monkeypatch):
    monkeypatch.setattr("hpcinv.models.load", lambda path: Halves())
    runs = {}
    for tasks in (None, 4):
        top = tmp_path / str(tasks) / "tiny"
        (top / "ae").mkdir(parents=True)
        (top / "import").symlink_to(inputs[1] / "tiny" / "import")
        job = {"kind": "encode", "data": "import", "autoencoder": "ae", **fields}
        over = "dates" if "frames" in fields else "shards"
        if tasks:
            job["resources"] = {"array": {"over": over, "tasks": tasks}}
        run = RunFolder(top / "encode")
        run.prepare("# tiny/encode, resolved from nothing\n" + yaml.safe_dump(job), "encode")
        for step in [*range(tasks), "join"] if tasks else [None]:
            with pytest.MonkeyPatch.context() as m:
                if step is not None:
                    m.setenv("HPCINV_TASK", str(step))
                assert execute(run.path / "job.yaml") == 0
        runs[tasks] = run
    assert runs[None].manifest()["outputs"] == runs[4].manifest()["outputs"]
    a, b = (TrajectoryStore.open(r.path / "store") for r in runs.values())
    assert np.array_equal(a.read(0, a.length), b.read(0, b.length))
    assert a.segments == b.segments and np.array_equal(a.context(), b.context())
    b.verify()
    (runs[4].path / "tasks" / "2" / "store" / "part-00000.h5").unlink()
    with pytest.raises(BadInput, match="a part of the store is missing"):
        TrajectoryStore.open(runs[4].path / "store")
