r"""Feedback and innovations: the file is what every tool reads, the numbers are known ones."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import _environment
from test_baselines_oi import C, H, L, N, W, store  # noqa: F401
from test_evaluation_scores import Ensemble, Truth
from tiny_study import make

from hpcinv.diffusion import noise
from hpcinv.evaluation.innovations import InnovationSums, groups, summary
from hpcinv.evaluation.scores import scorecard
from hpcinv.evaluation.sums import evaluate
from hpcinv.evaluation.words import departures
from hpcinv.io.analysis import open_analysis
from hpcinv.observations import feedback
from hpcinv.observations.config import Quality
from hpcinv.observations.networks import random_points
from hpcinv.observations.quality import control, with_flags
from hpcinv.parallel import World

EXTRA = {
    "3_climatology.yaml": "kind: assimilate\nmethod: climatology\ndata: import\n"
    "frames: [24, 36]\ntraining: [0, 24]\nmembers: 4\n",
    "4_evaluate.yaml": "kind: evaluate\ntruth: import\nframes: [24, 36]\nanalyses: [oi]\n"
    "observations: observe\nbackground: climatology\nreplicates: 100\n",
}


def ensemble(store, M=5, seed=0):  # noqa: F811
    x = np.random.default_rng(seed).standard_normal((M, L, C, H, W)).astype(np.float32)
    return SimpleNamespace(members=range(M), read=lambda m, a, b: x[m, a:b]), x


def write(path, table, rows, seen):
    r"""The feedback file, frame by frame as a job writes it."""
    writer = feedback.Writer(path, table, World(), {k: len(x) for k, x in seen.items()})
    for f in np.unique(table.frame[rows]):
        at = table.frame[rows] == f
        writer.add(rows[at], {k: x[:, at] for k, x in seen.items()})
    return writer.close()


def test_the_file_holds_what_members_see(store, tmp_path):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=6, error=0.5, seed=2)
    t = with_flags(t, np.where(np.arange(len(t)) == 4, 10, np.arange(len(t)) % 2))
    e, x = ensemble(store)
    rows = feedback.placed(t)
    assert len(rows) == len(t) - 1
    seen = {
        "hofx": feedback.see(t, store, N, e, range(L)),
        "hofx_background": feedback.see(t, store, N, ensemble(store, 3, 1)[0], range(L)),
    }
    flat = x.reshape(5, L, C, -1)
    assert np.abs(seen["hofx"] - flat[:, t.frame[rows], t.channel[rows], t.point[rows]]).max() == 0
    path = tmp_path / "feedback.nc"
    digest = write(path, t, rows, seen)
    again, found = feedback.load(path)
    assert again == t and (again.flag == t.flag).all() and len(digest) == 32
    assert np.array_equal(found["hofx"][rows], seen["hofx"].T)
    assert (
        np.abs(found["ombg"][rows] - (t.value[rows] - seen["hofx_background"].mean(0))).max() == 0
    )
    assert np.isnan(found["oman"][4]) and np.isnan(found["hofx"][4]).all()
    # the same through xarray and, where it is installed, ncdump
    import xarray as xr

    g = xr.open_dataset(path, group="oman")["u"].to_numpy()
    want = (t.value[rows] - seen["hofx"].mean(0))[t.channel[rows] == 0]
    assert np.array_equal(g[~np.isnan(g)], want)
    q = xr.open_dataset(path, group="EffectiveQC")["u"]
    assert "withheld_for_verification" in q.attrs["flag_meanings"]
    if shutil.which("ncdump"):
        head = subprocess.run(["ncdump", "-h", str(path)], capture_output=True, text=True).stdout
        for text in ("group: hofx {", "group: EffectiveQC {", "double u(Location, realization)"):
            assert text in head


def drawn(factor=1.0, bias=0.0, D=4000, M=20, seed=0):
    r"""A consistent Gaussian world: background N(0, 1), value σ = 0.7 told, Kalman analysis."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(D)
    y = truth + bias + factor * 0.7 * rng.standard_normal(D)
    K = 1 / (1 + 0.49)
    mean, sd = K * y, np.sqrt(1 - K)
    analysis = mean + sd * rng.standard_normal((M, D))
    return y, rng.standard_normal((M, D)), analysis, truth


def summed(y, background, analysis, used):
    D = len(y)
    named = {"t, used": used, "t, withheld": ~used}
    sums = InnovationSums.zeros(10, 2, len(analysis))
    frame = np.arange(D) * 10 // D
    for f in range(10):
        at = frame == f
        sums.add(f, np.stack(list(named.values()))[:, at], y[at], np.full(at.sum(), 0.7),
                 analysis[:, at], background[:, at], threshold=np.where(used, np.nan, 0.2)[at],
                 whole=[1])  # fmt: skip
    how = {"units": {"t": "K"}, "background": True, "members": len(analysis), "replicates": 200}
    return summary(list(named), sums, **how), sums


def test_known_departures_give_known_numbers():
    y, b, a, truth = drawn(D=20000)
    used = np.ones(len(y), bool)
    used[::2] = False
    # withheld rows: an analysis that did not see them, with the truth's own uncertainty
    rng = np.random.default_rng(5)
    centre = truth + 0.5 * rng.standard_normal(len(y))
    a = np.where(used, a, centre + 0.5 * rng.standard_normal(a.shape))
    found, _ = summed(y, b, a, used)
    g = found["groups"]["t, used"]
    assert g["desroziers"]["error"]["value"] == pytest.approx(0.7, abs=0.03)
    assert g["desroziers"]["background"]["value"] == pytest.approx(1.0, abs=0.05)
    assert g["desroziers"]["gain_near_optimal"]
    # the background's mean is of 20 members, which chi2 counts
    assert g["background"]["chi2"]["value"] == pytest.approx(1.0, abs=0.04)
    w = found["groups"]["t, withheld"]
    assert w["analysis"]["chi2"]["value"] == pytest.approx(1.0, abs=0.05)
    assert w["ranks"]["distance"] < 0.03
    assert w["ranks"]["interval"]["found"] == pytest.approx(
        w["ranks"]["interval"]["nominal"], abs=0.02
    )
    # by frame: what the sums of a frame say, and the frames together
    f, at = g["frames"], used & (np.arange(len(y)) < len(y) // 10)
    d = y[at] - b[:, at].mean(0)
    assert f["count"][0] == at.sum() and f["background"]["bias"][0] == pytest.approx(d.mean())
    assert f["background"]["rms"][0] == pytest.approx(np.sqrt((d**2).mean()))
    chi2 = (d**2).sum() / (0.49 + 21 / 20 * b[:, at].var(0, ddof=1)).sum()
    assert f["background"]["chi2"][0] == pytest.approx(chi2)
    weights = np.array(f["count"]) / sum(f["count"])
    assert np.dot(weights, f["analysis"]["bias"]) == pytest.approx(g["analysis"]["bias"]["value"])
    assert "ranks" not in g  # those of assimilated ones are not flat
    words = departures(found)
    assert [f.level for f in words] == ["good", "good"]


def test_withheld_observations_have_the_scores_of_a_truth_on_a_grid():
    r"""The members with noise added, scored as fields of D points."""
    M, D, T = 8, 400, 10
    y, b, a, truth = drawn(D=D, M=M)
    rng = np.random.default_rng(5)
    a = truth + 0.5 * rng.standard_normal(D) + 0.5 * rng.standard_normal((M, D))
    told = summed(y, b, a, np.zeros(D, bool))[0]["groups"]["t, withheld"]
    noisy = np.concatenate([
        a[:, f * 40 : f * 40 + 40] + 0.7 * noise.generator(
            0, "observation noise of members", f).standard_normal((M, 40)) for f in range(T)
    ], 1)  # fmt: skip
    fields = Ensemble(x=noisy.reshape(M, T, 1, 1, 40))
    grid = Truth(y=y.reshape(T, 1, 1, 40), w=np.ones((1, 40)), channels=["t"])
    sums = evaluate(fields, grid, members=range(M), length=T,
                    threshold=lambda t: np.full((1, 1, 40), 0.2))  # fmt: skip
    card = scorecard({"a": sums}, channels=["t"], units=["K"], replicates=200)
    want = card["methods"]["a"]["pooled"]
    scores = told["scores"]
    assert told["analysis"]["crps"]["value"] == pytest.approx(want["crps"]["value"], rel=1e-6)
    assert scores["energy"]["value"] == pytest.approx(want["energy"]["value"], rel=1e-6)
    assert [c["found"] for c in scores["coverage"]] == pytest.approx(
        [c["found"] for c in want["coverage"]]
    )
    for name, x in want["reliability"].items():
        assert scores["reliability"][name] == pytest.approx(x), name
    # Of the noise its deviation is known, not estimated from the members.
    d2, s2 = ((y - a.mean(0)) ** 2).mean(), a.var(0, ddof=1).mean()
    ratio = np.sqrt((0.49 + (M + 1) / M * s2) / d2)
    assert scores["spread_skill"]["value"] == pytest.approx(ratio)
    unbiased = np.sqrt((0.49 + s2) / (d2 - s2 / M))
    assert scores["spread_skill_unbiased"]["value"] == pytest.approx(unbiased)
    assert abs(ratio - 1) < 0.1 and json.loads(json.dumps(told, allow_nan=False)) == told
    used = summed(y, b, a, np.ones(D, bool))[0]["groups"]["t, used"]
    assert "scores" not in used  # they pulled the analysis


def test_frames_without_observations_have_no_departures_and_a_chart_leaves_them_out():
    from hpcinv.evaluation.report_fields import departures as chart

    sums = InnovationSums.zeros(4, 1, 3)
    x = np.random.default_rng(0).standard_normal((3, 5))
    for f in (0, 2, 3):
        sums.add(f, np.ones((1, 5), bool), np.zeros(5), np.ones(5), x, x)
    found = summary(["t, used"], sums, units={"t": "K"}, background=True, members=3,
                    replicates=20)  # fmt: skip
    of = found["groups"]["t, used"]["frames"]
    assert of["count"] == [5, 0, 5, 5] and of["background"]["rms"][1] is None
    drawn = chart(found, ["May", "June", "July", "August"])
    assert drawn["names"] == ["t, used"]
    assert "May" in drawn["svg"] and "June" not in drawn["svg"]
    assert chart(None, ["May"]) is None


def test_a_wrong_error_is_seen():
    y, b, a, _ = drawn(factor=2.0, D=20000)
    found, _ = summed(y, b, a, np.ones(len(y), bool))
    d = found["groups"]["t, used"]["desroziers"]
    assert d["over_told"]["low"] > 1.25 and departures(found)[-1].level == "fair"


def test_any_partition_gives_the_same_sums():
    y, b, a, _ = drawn()
    used = np.arange(len(y)) % 3 > 0
    _, whole = summed(y, b, a, used)
    frame = np.arange(len(y)) * 10 // len(y)
    parts = [InnovationSums.zeros(10, 2, 20) for _ in range(3)]
    for f in range(10):
        at = frame == f
        parts[f % 3].add(f, np.stack([used, ~used])[:, at], y[at], np.full(at.sum(), 0.7),
                         a[:, at], b[:, at], threshold=np.where(used, np.nan, 0.2)[at],
                         whole=[1])  # fmt: skip
    merged = parts[0].merge(parts[2]).merge(parts[1])
    for name in ("d_a", "v2_b", "cross", "crps", "ranks", "energy", "events", "hits"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name))
    with pytest.raises(ValueError, match="frame 0 is in both"):
        merged.merge(parts[0])


def test_groups_by_use_region_and_level(store):  # noqa: F811
    t = random_points(store, start=N, stop=N + L, points=10, error=0.5, seed=2)
    t = control(t, store, Quality(background=None, withhold=0.3), start=N)
    found = groups(t)
    assert (found["u, used"] | found["u, withheld"]).sum() == (t.channel == 0).sum()
    tropics = found["u, used, tropics"]
    assert (np.abs(t.lat[tropics]) < 20.1).all() and tropics.any()
    names = np.where(np.arange(len(t)) % 3 == 0, "SHIP1", "other")
    t = replace(t, station=names)  # in another order now
    found = groups(t, {"ships": "SHIP*"})
    ships = found["u, used, ships"] | found["u, withheld, ships"]
    assert np.array_equal(ships, (t.station == "SHIP1") & (t.channel == 0)) and ships.any()


@pytest.mark.slow
@pytest.mark.mpi
def test_the_job_gives_the_same_on_one_two_and_three_ranks(tmp_path):
    study = make(tmp_path / "tiny")
    for name, text in EXTRA.items():
        (study / name).write_text(text)
    observe = (study / "2_observe.yaml").read_text() + "quality: {background: 4, withhold: 0.2}\n"
    (study / "2_observe.yaml").write_text(observe)
    runs = tmp_path / "runs"
    base = [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", str(runs)]
    found = []
    for ranks in (1, 2, 3):
        shutil.rmtree(runs / "tiny" / "evaluate", ignore_errors=True)
        done = subprocess.run(
            [*base, "--ranks", str(ranks)], capture_output=True, text=True, env=_environment()
        )
        assert done.returncode == 0, done.stdout + done.stderr
        folder = runs / "tiny" / "evaluate"
        card = json.loads((folder / "scores.json").read_text())
        outputs = json.loads((folder / "manifest.json").read_text())["outputs"]
        found.append((card, outputs["feedback"], feedback.load(folder / "feedback.nc")))
    table, of = found[0][2]
    for card, digest, (other, values) in found[1:]:
        assert digest == found[0][1] and other == table
        assert all(np.array_equal(values[k], of[k], equal_nan=True) for k in of)
        _close(card, found[0][0])
    with open_analysis(runs / "tiny" / "oi") as analysis:
        x = analysis.ensemble()
    d = table.value - x[:, table.frame, 0].reshape(4, len(table), -1)[
        :, np.arange(len(table)), table.point].astype(float).mean(0)  # fmt: skip
    assert np.abs(of["oman"] - d).max() < 1e-9
    withheld = table.flag == 1
    rms = found[0][0]["innovations"]["groups"]["t, withheld"]["analysis"]["rms"]["value"]
    assert rms == pytest.approx(np.sqrt((d[withheld] ** 2).mean()), rel=1e-12)


def _close(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            _close(a[k], b[k])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _close(x, y)
    elif isinstance(a, float):
        assert abs(a - b) <= 1e-12 * max(1, abs(a))
    else:
        assert a == b
