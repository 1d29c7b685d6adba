r"""Failure maps: verdicts on known cases, sweeps that read from each other, a whole map."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tiny_study import STUDY, make

from hpcinv.errors import BadInput
from hpcinv.evaluation.failure_map import cells, judge, table
from hpcinv.evaluation.scores import scorecard
from hpcinv.evaluation.sums import evaluate
from hpcinv.kinds.study import load, load_resolved

M, L, N = 16, 40, 60


def card(**ensembles):
    r"""The scorecard of ensembles (M, L, 1, N) and of the climatology of truths N(0, 1), of which
    the exact posterior given y = truth + N(0, 0.25) has the deviation 0.2^(1/2)."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((L, 1, N))
    mean = 0.8 * (truth + 0.5 * rng.standard_normal(truth.shape))
    white = rng.standard_normal((M, L, 1, N))
    made = {n: f(mean, np.sqrt(0.2) * white, white) for n, f in ensembles.items()}
    store = SimpleNamespace(
        read=lambda a, b: truth[a:b], weights=lambda: np.ones(N), channels=["x"]
    )
    sums = {}
    for name, x in (made | {"climatology": white}).items():
        ensemble = SimpleNamespace(read=lambda m, a, b, x=x: x[m, a:b])
        sums[name] = evaluate(ensemble, store, members=range(M), length=L)
    return scorecard(sums, channels=["x"], units=["1"], replicates=100)


KNOWN = {
    "calibrated": lambda mean, posterior, white: mean + posterior,
    "over-confident": lambda mean, posterior, white: mean + 0.7 * posterior,
    "under-confident": lambda mean, posterior, white: mean + 1.4 * posterior,
    "biased": lambda mean, posterior, white: mean + 0.4 + posterior,
    "diverged": lambda mean, posterior, white: np.roll(mean, 7, 0) + 0.2 * white,
}


def test_known_cases_get_their_verdicts():
    found = card(**KNOWN, lost=lambda mean, posterior, white: mean + 0.4 * posterior)
    methods = found["methods"]
    for verdict in KNOWN:
        assert judge(methods[verdict], methods["climatology"]) == verdict
    # Accurate, but errors are more than twice what the members say; and: no news is no divergence.
    assert judge(methods["lost"], methods["climatology"]) == "diverged"
    assert judge(methods["climatology"], methods["climatology"]) == "diverged"
    exact = methods["calibrated"]["pooled"]
    assert exact["rmse"]["value"] == pytest.approx(np.sqrt(0.2 * (1 + 1 / M)), rel=0.03)


def test_a_place_has_one_cell():
    found = card(calibrated=KNOWN["calibrated"], biased=KNOWN["biased"])
    both = cells(found, {"calibrated": (1, 0.5), "biased": (2, 0.5)}, "climatology")
    assert [(c.at, c.verdict) for c in both] == [((1, 0.5), "calibrated"), ((2, 0.5), "biased")]
    assert "| 2 | 0.5 | biased | " in table(both, ["stride", "noise"])
    with pytest.raises(BadInput, match="'calibrated' and 'biased' have one place"):
        cells(found, {"calibrated": (1,), "biased": (1,)}, "climatology")


@pytest.fixture
def study(tmp_path):
    folder = make(tmp_path / "tiny")
    (folder / "2_observe.yaml").write_text(
        STUDY["2_observe.yaml"]
        + "each: {observing.points: {few: 2, many: 40}, observing.error: [0.1, 5]}\n"
    )
    (folder / "3_oi.yaml").write_text(STUDY["3_oi.yaml"] + "each: {observations: [observe]}\n")
    (folder / "3_climatology.yaml").write_text(
        "kind: assimilate\nmethod: climatology\ndata: import\nframes: [24, 36]\n"
        "training: [0, 24]\nmembers: 8\n"
    )
    evaluate = STUDY["4_evaluate.yaml"].replace("[oi]", "[oi, climatology]")
    (folder / "4_evaluate.yaml").write_text(evaluate)
    (folder / "5_map.yaml").write_text(
        "kind: map\ntitle: a map\nscores: evaluate\nby:\n"
        "  - {label: points, field: observations.observing.points}\n"
        "  - {label: noise, field: observations.observing.error}\n"
    )
    return folder


def test_sweeps_read_from_sweeps(study):
    s = load(study)
    s.check()
    names = [f"oi-{n}-error{e}" for n in ("few", "many") for e in (0.1, 5)]
    assert [n for n in s.jobs if n.startswith("oi")] == names
    assert s.jobs["oi-many-error5"].observations == "observe-many-error5"
    assert s.jobs["evaluate"].analyses == [*names, "climatology"]
    # Swept over less than what it reads, it reads all that agree; over more, the one that does.
    fields = yaml.safe_load((study / "4_evaluate.yaml").read_text())
    fields["each"] = {"level": {"few": 0.5, "many": 0.9}}
    (study / "4_evaluate.yaml").write_text(yaml.safe_dump(fields))
    s = load(study, overrides=["map.scores=evaluate-many"])
    s.check()
    assert s.jobs["evaluate-many"].analyses == [*names[2:], "climatology"]
    oi = (study / "3_oi.yaml").read_text().replace("[observe]}", "[observe], seed: [0, 1]}")
    (study / "3_oi.yaml").write_text(oi)
    s = load(study)
    assert s.jobs["oi-few-error5-seed1"].observations == "observe-few-error5"
    with pytest.raises(BadInput, match="'scores' names no job of this study: 'evaluate'"):
        s.check()  # two of them, and none is like the map


def test_a_map_is_of_its_cells(study, tmp_path):
    r"""Of run folders as jobs leave them: resolved job files, and the scores."""
    s, runs = load(study), tmp_path / "runs"
    for name in s.jobs:
        (runs / name).mkdir(parents=True)
        (runs / name / "job.yaml").write_text(s.resolved(name))
    cases = [n for n in s.jobs if n.startswith("oi")]
    scores = card(**dict(zip(cases, KNOWN.values(), strict=False)))
    (runs / "evaluate" / "scores.json").write_text(json.dumps(scores))
    said = []
    inputs = {"evaluate": runs / "evaluate"}
    ctx = SimpleNamespace(folder=runs / "map", inputs=inputs, say=said.append)
    load_resolved(runs / "map" / "job.yaml").run(ctx)
    found = json.loads((runs / "map" / "map.json").read_text())
    at = {(2, 0.1): "calibrated", (2, 5): "over-confident", (40, 0.1): "under-confident",
          (40, 5): "biased"}  # fmt: skip
    assert found["axes"] == ["points", "noise"]
    assert {tuple(c["at"]): c["verdict"] for c in found["cells"]} == at
    rmse = scores["methods"]["oi-few-error5"]["pooled"]["rmse"]["value"]
    assert found["cells"][1]["rmse"] == rmse
    assert said == ["1 calibrated, 1 under-confident, 1 over-confident, 1 biased"]
    assert "| 40 | 5.0 | biased |" in (runs / "map" / "map.md").read_text()
    assert (runs / "map" / "map.png").read_bytes()[:4] == b"\x89PNG"


def test_mistakes_are_told_before_anything_runs(study):
    with pytest.raises(BadInput, match=r"does not judge 'nobody'.*\n?.*oi-few"):
        load(study, overrides=["map.against=nobody"]).check()
    with pytest.raises(BadInput, match=r"there is no 'noise' in 'observe-few-error0.1'"):
        load(study, overrides=["map.by=[{label: x, field: observations.noise}]"]).check()
