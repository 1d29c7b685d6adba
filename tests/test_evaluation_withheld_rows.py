"""Methods judged by observations that none was shown, and networks that share a table."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_baselines_oi import C, H, L, N, W, store  # noqa: F401
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.evaluation.withheld_rows import collect, scores
from hpcinv.kinds.observe import Observe
from hpcinv.observations import flags
from hpcinv.observations.networks import random_points
from hpcinv.observations.quality import with_flags
from hpcinv.observations.table import COLUMNS, FURTHER, ObservationTable
from hpcinv.parallel import World


def perfect(rng, truth, variance, M):
    r"""Members that are drawn as the truth was, around a centre of the given variance."""
    centre = truth + np.sqrt(variance) * rng.standard_normal(truth.shape)
    return centre + np.sqrt(variance) * rng.standard_normal((M, *truth.shape))


def reader(x):
    return SimpleNamespace(members=range(len(x)), read=lambda m, a, b: x[m, a:b])


def test_reliable_ensembles_have_the_crps_of_their_variance(store):  # noqa: F811
    rng = np.random.default_rng(0)
    tables = [
        random_points(store, start=N, stop=N + L, points=H * W, error=0.5, seed=s)
        for s in range(8)
    ]
    t = ObservationTable.concatenate(tables)
    truth = rng.standard_normal((L, C, H * W))
    value = truth[t.frame, t.channel, t.point] + 0.5 * rng.standard_normal(len(t))
    used = rng.random(len(t)) < 0.3
    value[used] = 1e6  # what methods were shown does not judge them
    columns = {c: getattr(t, c) for c in COLUMNS | FURTHER}
    t = replace(t, **columns | {"value": value, "flag": np.where(used, 0, flags.WITHHELD)})
    sums = {}
    for name, v, M in (("sharp", 0.05, 6), ("wide", 0.6, 11)):
        x = perfect(rng, truth.reshape(L, C, H, W), v, M)
        variables, sums[name] = collect(t, store, N, L, reader(x), world=World())
    assert variables == list(t.variables)
    scale = dict.fromkeys(variables, 2.0)
    card = scores(sums, variables, scale, replicates=200)
    assert card["count"] == (t.flag == flags.WITHHELD).sum() > 1000
    for name, v in (("sharp", 0.05), ("wide", 0.6)):
        e = card["methods"][name]
        # For a truth and members of one normal law the expected score is s / sqrt(pi).
        want = np.sqrt((v + 0.25) / np.pi)
        crps, n = e["pooled"]["crps"]["value"], card["count"]
        assert crps == pytest.approx(want / 2, abs=5 * want / 2 / np.sqrt(n / 8))
        each = [e["variables"][u]["crps"]["value"] for u in variables]
        assert np.mean(each) == pytest.approx(2 * crps, rel=0.02)
        assert e["variables"][variables[0]]["chi2"]["value"] == pytest.approx(1, abs=0.25)
    d = card["differences"]["wide"]["crps"]
    assert d["value"] == pytest.approx(
        card["methods"]["sharp"]["pooled"]["crps"]["value"]
        - card["methods"]["wide"]["pooled"]["crps"]["value"]
    )
    assert d["high"] < 0  # the sharp one is told to be better
    # a variable without a scale is told by itself, and not pooled
    one = scores(sums, variables, {variables[0]: 2.0}, replicates=100)
    first = one["methods"]["wide"]
    assert first["pooled"]["crps"]["value"] == pytest.approx(
        first["variables"][variables[0]]["crps"]["value"] / 2
    )
    fewer = with_flags(t, np.where(np.arange(len(t)) % 2, 0, t.flag))
    sums["wide"] = collect(fewer, store, N, L, reader(x))[1]
    with pytest.raises(BadInput, match="other rows"):
        scores(sums, variables, scale)


def test_two_networks_share_a_table_and_one_only_judges(tmp_path):
    study = make(tmp_path / "tiny")
    (study / "2_observe.yaml").write_text(
        "kind: observe\ndata: import\nframes: [24, 36]\n"
        "observing: {network: random_points, points: 5, error: 0.1}\n"
        "also:\n  - {network: random_points, points: 3, error: 0.2, every: 2}\n"
    )
    (study / "2_judge.yaml").write_text(
        "kind: observe\ndata: import\nframes: [24, 36]\nseed: 7\n"
        "observing: {network: random_points, points: 20, error: 0.1}\n"
        "quality: {withhold: 1, background: null, duplicates: false}\n"
    )
    (study / "3_climatology.yaml").write_text(
        "kind: assimilate\nmethod: climatology\ndata: import\n"
        "frames: [24, 36]\ntraining: [0, 24]\nmembers: 6\n"
    )
    text = (study / "4_evaluate.yaml").read_text().replace("[oi]", "[oi, climatology]")
    (study / "4_evaluate.yaml").write_text(text + "observations: judge\n")
    command = [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "tiny"
    t = ObservationTable.load(folder / "observe" / "observations.nc")
    counts = np.bincount(t.frame, minlength=12)
    assert counts.tolist() == [8, 5] * 6 and sorted(set(t.error)) == [0.1, 0.2]
    card = json.loads((folder / "evaluate" / "scores.json").read_text())
    found = card["withheld"]
    assert found["count"] == 12 * 20
    told = card["innovations"]["groups"]["t, withheld"]["analysis"]  # of the feedback file
    assert found["methods"]["oi"]["variables"]["t"]["crps"] == pytest.approx(told["crps"])
    assert set(found["methods"]) == {"oi", "climatology"}
    flagged = json.loads((folder / "judge" / "quality.json").read_text())["flags"]
    assert flagged == {"t": {"withheld for verification": 240}}


def test_networks_of_one_table_draw_numbers_of_their_own(store):  # noqa: F811
    network = {"network": "random_points", "points": 4, "error": 0.1}
    job = Observe(data="x", frames=(N, N + L), observing=network, also=[network])
    t = job._drawn(store, seed=0, start=N, stop=N + L)
    alone = random_points(store, start=N, stop=N + L, points=4, error=0.1, seed=0)
    assert len(t) == 2 * len(alone)
    assert set(alone.value) < set(t.value)  # the first is what it is without the second
    assert len(set(t.value)) == len(t)
    some = job._drawn(store, seed=0, start=N, stop=N + L, within=range(2, 4))
    assert some == t.at([2, 3])
    with pytest.raises(ValueError, match="the same 'forward'"):
        Observe(
            data="x", frames=(0, 1), observing=network,
            also=[network | {"forward": {"space": "bilinear"}}],
        )  # fmt: skip
