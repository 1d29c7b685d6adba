"""`assimilate` in its three modes, from job file to netCDF, with a small untrained prior."""

import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.io.analysis import open_analysis

FRAMES, LAST = 12, 7  # analysed frames; changed observations come after frame LAST

ASSIMILATE = """\
kind: assimilate
data: import
frames: [24, 36]
prior: ./prior
observations: ./seen
members: 2
window: 6
overlap: 3
reproducible: true
guidance: {iterations: 2}
sampler: {method: ddim, steps: 3}
checkpoint_every: 1
"""
EVALUATE = """\
kind: evaluate
truth: import
frames: [24, 36]
analyses: [filtering]
background: ahead
observations: ./seen
replicates: 100
"""
MODES = {
    "reanalysis": "",
    "filtering": "mode: filtering\nmemory: 8\n",
    "forecast": f"mode: forecast\nlead: {FRAMES - LAST - 1}\n",
    "ahead": "mode: filtering\nmemory: 8\nahead: 1\n",
}
SHOWN = ("reanalysis", "filtering", "forecast")  # of a conditioned prior


def hpcinv(*args):
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True
    )


def run_here(path, runs):
    """The jobs of a study, in this process."""
    from hpcinv.kinds.execute import execute
    from hpcinv.kinds.prepare import prepare
    from hpcinv.kinds.study import load

    s = load(path)
    s.check()
    for name in s.order():
        assert execute(prepare(s, runs, name).path / "job.yaml", 1) == 0


def table(folder, after, change):
    """Observes one point of each frame; values after frame `after` are moved by `change`."""
    from hpcinv.observations.table import ObservationTable

    frame = np.arange(FRAMES)
    point = frame * 5 % 48
    value = 280 + np.sin(frame) + np.where(frame > after, change, 0.0)
    lat, lon = np.linspace(-75, 75, 6), np.arange(8) * 45.0
    folder.mkdir(parents=True)
    ObservationTable(
        frame=frame, channel=0 * frame, point=point, value=value, error=np.full(FRAMES, 0.3),
        lat=lat[point // 8], lon=lon[point % 8], time=30.4375 * (24 + frame),
        station=np.array(["s"] * FRAMES), channels=["t"], units=["K"],
        time_units="days since 2000-01-15", calendar="standard",
    ).save(folder / "observations.nc")  # fmt: skip


def study(folder, change=0.0, after=LAST, conditioned=False):
    from hpcinv.models import build, save

    make(folder)
    for name in ("2_observe", "3_oi", "4_evaluate"):
        (folder / f"{name}.yaml").unlink()
    method = "method: conditioned\n" if conditioned else ""
    for k, mode in enumerate(SHOWN if conditioned else MODES):
        (folder / f"{k + 2}_{mode}.yaml").write_text(ASSIMILATE + method + MODES[mode])
    if not conditioned:
        (folder / "9_evaluate.yaml").write_text(EVALUATE)
    config = {"name": "trajectory_denoiser", "channels": 1, "grid": (6, 8), "width": 8, "depth": 1}
    config |= {"observed": 1} if conditioned else {}
    prior = build(config)
    prior.leave.weight.data.normal_(std=0.1)  # as built, it ignores its input
    save(folder / "prior", prior, config, {"observed": [0]} if conditioned else {})
    table(folder / "seen", after, change)
    return folder


@pytest.fixture(scope="module")
def analyses(tmp_path_factory):
    return _analyses(tmp_path_factory)


def _analyses(tmp_path_factory, conditioned=False):
    """Analyses by mode, with the observations as they are, changed late, and changed early."""
    out = {}
    for name, change in (("as is", (0.0, LAST)), ("late", (9.0, LAST)), ("early", (9.0, -1))):
        where = tmp_path_factory.mktemp("modes")
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            path = study(where / "tiny", *change, conditioned)
        run_here(path, where / "runs")
        for mode in SHOWN if conditioned else MODES:
            with open_analysis(where / "runs" / "tiny" / mode) as a:
                out[mode, name] = a.ensemble()
    return out, where


@pytest.mark.parametrize("mode", ["filtering", "forecast"])
def test_later_observations_change_no_bit(analyses, mode):
    asis, late, early = (analyses[0][mode, k] for k in ("as is", "late", "early"))
    known = slice(0, LAST + 1) if mode == "filtering" else slice(0, FRAMES)
    assert np.array_equal(asis[:, known], late[:, known])
    # What may be known does change it, in every frame.
    assert (np.abs(asis - early).max(axis=(2, 3, 4)) > 0).all()
    assert np.abs(asis - early)[:, : LAST + 1].max() > 0.5
    if mode == "filtering":
        assert (np.abs(asis - late)[:, LAST + 1 :].max(axis=(2, 3, 4)) > 0.5).all()
    # A reanalysis does see them, in earlier frames too.
    assert not np.array_equal(*(analyses[0]["reanalysis", k][:, LAST] for k in ("as is", "late")))


def test_a_filters_forecast_has_not_seen_its_frame(analyses):
    asis, late, early = (analyses[0]["ahead", k] for k in ("as is", "late", "early"))
    assert np.array_equal(asis[:, : LAST + 2], late[:, : LAST + 2])
    assert (np.abs(asis - late)[:, LAST + 2 :].max(axis=(2, 3, 4)) > 0).all()
    assert np.array_equal(asis[:, 0], early[:, 0])  # nothing was known: the prior
    assert (np.abs(asis - early)[:, 1:].max(axis=(2, 3, 4)) > 0).all()


@pytest.mark.parametrize("mode", SHOWN)
def test_writing_is_told_apart_from_sampling(analyses, mode):
    told = json.loads((analyses[1] / "runs" / "tiny" / mode / "progress.json").read_text())
    assert told["what"] == "writing the analysis" and told["done"] == told["total"] > 0


def test_innovations_are_departures_from_the_filters_forecast(analyses):
    from hpcinv.observations.feedback import load

    out, where = analyses
    rows, of = load(where / "runs" / "tiny" / "evaluate" / "feedback.nc")
    for group, mode in (("hofx", "filtering"), ("hofx_background", "ahead")):
        x = out[mode, "early"].reshape(2, FRAMES, 48)[:, rows.frame, rows.point]
        assert np.abs(of[group] - x.T).max() < 1e-4
    b = rows.value - of["hofx_background"].mean(1)
    assert np.abs(of["ombg"] - b).max() < 1e-9
    scores = json.loads((where / "runs" / "tiny" / "evaluate" / "scores.json").read_text())
    told = scores["innovations"]["groups"]["t, used"]
    assert told["background"]["rms"]["value"] == pytest.approx(np.sqrt((b**2).mean()))
    s2 = 0.3**2 + 1.5 * of["hofx_background"].var(1, ddof=1)
    assert told["background"]["chi2"]["value"] == pytest.approx((b**2).mean() / s2.mean())


def test_a_conditioned_prior_is_shown_no_later_observation(tmp_path_factory):
    out, _ = _analyses(tmp_path_factory, conditioned=True)
    for mode, known in (("filtering", slice(0, LAST + 1)), ("forecast", slice(0, FRAMES))):
        asis, late, early = (out[mode, k] for k in ("as is", "late", "early"))
        assert np.array_equal(asis[:, known], late[:, known]), mode
        assert (np.abs(asis - early)[:, : LAST + 1].max(axis=(2, 3, 4)) > 0).all(), mode
    assert not np.array_equal(*(out["reanalysis", k][:, LAST] for k in ("as is", "late")))


def test_members_are_their_own(analyses):
    for x in analyses[0].values():
        assert np.isfinite(x).all() and (np.abs(x[0] - x[1]).max(axis=(1, 2, 3)) > 1e-3).all()


def test_the_file_says_how_it_was_made(analyses):
    _, where = analyses
    for mode in MODES:
        with netCDF4.Dataset(where / "runs" / "tiny" / mode / "analysis.nc") as f:
            title = "forecast, 1 ahead" if mode == "ahead" else mode
            assert f.title == f"diffusion {title}" and f["t"].shape == (2, FRAMES, 6, 8)


@pytest.mark.slow
@pytest.mark.mpi
def test_same_on_three_ranks(analyses, tmp_path):
    out, where = analyses
    path = where / "tiny"
    done = hpcinv(
        "run", path, "--ranks", 3, "--runs", tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for mode in MODES:
        with open_analysis(tmp_path / "tiny" / mode) as a:
            assert np.array_equal(a.ensemble(), out[mode, "early"]), mode


def test_threads_of_a_reproducible_job_do_not_depend_on_its_ranks(monkeypatch):
    from hpcinv.launch import local

    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: set(range(8)))
    assert [local.threads_per_rank(n, None) for n in (1, 2, 16)] == [8, 4, 1]
    assert [local.threads_per_rank(n, None, True) for n in (1, 2, 16)] == [1, 1, 1]
    assert local.threads_per_rank(2, 3, True) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: forecast\n", "mode: forecast needs a 'lead'"),
        ("lead: 3\n", "'lead' goes with mode: forecast"),
        ("mode: forecast\nlead: 12\n", "a forecast of 12 of 12 frames leaves none"),
        ("mode: filtering\nmemory: 0\n", "greater than or equal to 1"),
        ("ahead: 1\n", "'ahead' goes with mode: filtering"),
        ("method: oi\ntraining: [0, 24]\nahead: 1\n", "method: oi makes no forecast"),
        ("method: etkf\ntraining: [0, 24]\nahead: 2\n", "write ahead: 1"),
        ("mode: hindcast\n", "'reanalysis', 'filtering' or 'forecast', not 'hindcast'"),
    ],
)
def test_mistakes(tmp_path, text, said):
    from hpcinv.kinds.study import load

    folder = make(tmp_path / "tiny")
    (folder / "prior").mkdir()
    (folder / "seen").mkdir()
    (folder / "5_x.yaml").write_text(ASSIMILATE + text)
    with pytest.raises(BadInput) as e:
        load(folder).check()
    assert said in str(e.value)
