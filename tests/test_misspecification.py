r"""Misspecification: the level holds for an imperfect prior, power, attribution, cannot tell."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import _environment
from test_observations_networks import truth
from tiny_study import make

from hpcinv.errors import BadInput
from hpcinv.evaluation.misspecification import (
    CANNOT_TELL,
    CONSISTENT,
    Misspecification,
    effective_number,
    features,
)
from hpcinv.evaluation.neighbours import LENGTHS, NEAREST, contrast, sharpest
from hpcinv.evaluation.withheld_truths import check_table
from hpcinv.evaluation.words import _faults
from hpcinv.io.statistics import Statistics
from hpcinv.models.sphere import unit_vectors
from hpcinv.observations.networks import draw
from hpcinv.observations.networks_config import Stations

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmarks" / "misspecification.py"


def script():
    spec = importlib.util.spec_from_file_location("misspecification_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_features_are_one_where_all_is_as_told():
    rng = np.random.default_rng(0)
    n, s2, b2 = 200_000, 0.25, 1.0
    m = rng.normal(5, 2, n)
    d = rng.normal(0, np.sqrt(s2 + b2), n)
    a = s2 / (s2 + b2) * d  # O−A of the exact analysis
    total = lambda v: np.array([[np.sum(v)]])  # noqa: E731
    sums = SimpleNamespace(
        count=total(np.ones(n)), sigma2=total(np.full(n, s2)), d_b=total(d), d2_b=total(d**2),
        v2_b=total(np.full(n, s2 + b2)), d_a=total(a), cross=total(a * d), told=total(m),
        told2=total(m**2), along=total(m * d),
    )  # fmt: skip
    assert features(sums) == pytest.approx([0, 1, 0, 0, 1], abs=0.01)
    # values 1.2 times too large depart along what is told: by 0.2 m, in deviations of m and d
    sums.d_b, sums.along = total(d + 0.2 * m), total(m * (d + 0.2 * m))
    assert features(sums)[2] == pytest.approx(0.2 * 2 / np.sqrt(s2 + b2), abs=0.01)
    sums.told, sums.told2, sums.along = total(0 * m + 3), total(0 * m + 9), total(3 * d)
    assert features(sums)[2] == 0  # the same is told everywhere
    sums.count = np.zeros((1, 1))
    with pytest.raises(BadInput, match="a group without observations"):
        features(sums)


def test_the_filter_is_the_known_one_and_p_values_are_ranks():
    rng = np.random.default_rng(0)
    L = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0.3, 0.2, 0.5]])
    null = rng.standard_normal((20_000, 3)) @ L.T + 5
    fault = null[:500] + np.array([0.0, 1.0, -1.0])
    same = null[:500] + np.array([0.0, 2.0, -2.0])
    other = null[:500] + np.array([1.0, 0.0, 0.0])
    test = Misspecification(null, {"a": fault, "twice a": same, "b": other})
    v, C = np.array([0.0, 1.0, -1.0]), L @ L.T
    x = np.array([[5.3, 6.0, 4.0]])
    want = (v @ np.linalg.solve(C, x[0] - 5)) ** 2 / (v @ np.linalg.solve(C, v))
    assert test.statistics(x)[0] == pytest.approx([want, want, test.statistics(x)[0, 2]], rel=0.05)
    assert test.alike()["a"] == ["twice a"] and test.alike()["b"] == []
    p = test.p_values(null[10_000:])  # of the very truths that make the reference: their ranks
    assert np.sort(p)[:3] == pytest.approx([2 / 10_001, 3 / 10_001, 4 / 10_001])
    far = test.judge(np.array([[5, 25.0, -15.0], [25.0, 5, 5], [5, 5, 5]]))
    assert far[0]["told"] == CANNOT_TELL and set(far[0]["candidates"]) == {"a", "twice a"}
    assert far[1]["told"] == "b" and far[2]["told"] == CONSISTENT and far[1]["p"] < 1e-3
    # a feature that is a sum of others adds nothing and breaks nothing
    extra = lambda y: np.c_[y, y[:, 0] + y[:, 1]]  # noqa: E731
    more = Misspecification(extra(null), {"a": extra(fault), "b": extra(other)})
    assert more.statistics(extra(x))[0, 0] == pytest.approx(test.statistics(x)[0, 0], rel=1e-3)
    with pytest.raises(BadInput, match=r"10 withheld truths for 3 features.*Use 40 or more"):
        Misspecification(null[:10], {"a": fault[:5]})


def test_effective_numbers():
    assert effective_number(np.eye(7)) == pytest.approx(7)
    assert effective_number(np.ones((7, 7))) == pytest.approx(1)
    lag = np.abs(np.subtract.outer(np.arange(400), np.arange(400)))
    # of squares of an AR(1) process: (1 - r^2) / (1 + r^2)
    assert effective_number(np.eye(1), 0.5**lag) == pytest.approx(400 * 0.6, rel=0.01)


def test_false_alarms_power_and_attribution_on_the_linear_gaussian_ring():
    s = script()
    ring = s.Ring(16)
    assert ring.effective == pytest.approx(70.6, abs=0.1)
    rng = np.random.default_rng(1)
    test, naive = s.learn(ring, 1200, rng), s.learn(ring, 1200, rng, own=True)
    assert test.unseen == []
    clean = ring.features(ring.cases(4000, rng))
    assert 0.03 <= s.power(test, clean) <= 0.07
    assert s.power(naive, clean) > 0.1  # the prior's own samples are no null
    for fault in (
        {"factor": 2.0}, {"bias": 1.0}, {"wave": 1.0}, {"moved": 3}, {"units": s.KNOTS},
        {"length": 2.5},
    ):  # fmt: skip
        assert s.power(test, ring.features(ring.cases(400, rng), **fault)) >= 0.9, fault
    # what only shows in the order of frames takes more of them
    assert s.power(test, ring.features(ring.cases(400, rng), memory=0.9)) >= 0.6
    told = s.confusion(ring, test, 100, rng)
    assert told["nothing wrong"][CONSISTENT] > 0.9
    for name in ("σ of instrument 3", "bias of instrument 2", "prior shifted along a wave",
                 "places of instrument 1", "physics: length"):  # fmt: skip
        assert told[name][name] > 0.9, (name, told[name])
    for name in ("bias of all", "prior shifted everywhere"):
        assert told[name][CANNOT_TELL] > 0.9
    few = s.Ring(2)
    weak = s.learn(few, 1200, rng)
    assert s.power(weak, few.features(few.cases(400, rng), bias=0.5)) < 0.3


def test_departures_from_what_other_instruments_tell_have_the_variance_told():
    s = script()
    ring = s.Ring(1)
    d = (
        np.random.default_rng(0).standard_normal((200_000, len(ring.S)))
        @ np.linalg.cholesky(ring.S).T
    )
    o = d @ ring.to_others.T
    assert o.var(0) == pytest.approx(ring.others, rel=0.02)
    # by the book: the conditional mean of one instrument given the three others
    mine = ring.instrument == 2
    rest = ring.S[np.ix_(mine, ~mine)] @ np.linalg.inv(ring.S[np.ix_(~mine, ~mine)])
    assert np.abs(o[:5, mine] - (d[:5, mine] - d[:5, ~mine] @ rest.T)).max() < 1e-9


def ocean(L=130, mean=0.0, seed=3):
    r"""Frames of red noise of unit variance on a globe, climatology N(mean, 1)."""
    rng = np.random.default_rng(seed)
    s = truth(L=L)
    C = len(s.channels)
    x = rng.standard_normal((L, C, *s.grid))
    for t in range(1, L):
        x[t] = 0.5 * x[t - 1] + np.sqrt(0.75) * x[t]
    mean = mean * (1 + np.sin(np.deg2rad(s.coords["lat"])))[None, None, :, None]
    s.x = (x + mean).astype(np.float32)
    s.statistics = Statistics(
        np.broadcast_to(mean, (1, C, len(s.coords["lat"]), 1)), np.ones((1, C, 1, 1)),
        np.full(1, 99), np.zeros(L, int), tuple(s.grid),
    )  # fmt: skip
    s.segments = [(0, L)]
    return s


def stations(rng):
    places = {f"s{k:02}": (float(a), float(b)) for k, (a, b) in
              enumerate(rng.uniform([-70, 0], [70, 359], (30, 2)))}  # fmt: skip
    return Stations(network="stations", places=places, error=0.5)


def test_a_table_is_judged_by_withheld_truths():
    s = ocean(mean=2.0)
    rng = np.random.default_rng(0)
    net = stations(rng)
    table = draw(net, s, start=0, stop=6, seed=1)
    judge = lambda t: check_table(t, s, 0, 6, (10, 130), repeats=400, seed=2)  # noqa: E731
    found = judge(table)
    assert found["told"] == CONSISTENT and found["periods"] == 20 and found["repeats"] == 400
    assert "bias of all" in found["alike"]["prior shifted everywhere"]
    assert _faults(found)[0].level == "good"
    from dataclasses import replace

    u = table.channel == 0
    biased = replace(table, value=table.value - np.where(u, 1.0, 0.0))
    assert judge(biased)["told"] == "bias of u" and judge(biased)["p"] < 0.02
    # values that are a little larger might be in other units, too
    more = judge(replace(table, value=table.value + np.where(u, 1.0, 0.0)))
    assert more["told"] == CANNOT_TELL and more["candidates"] == ["bias of u", "units of u"]
    assert "bias of u" in _faults(judge(biased))[0].text
    noisy = table.value + np.where(u, 1.2 * rng.standard_normal(len(u)), 0)
    assert judge(replace(table, value=noisy))["told"] == "σ of u"
    # knots that are taken for m/s, and a list of stations that is mixed up in every frame
    assert judge(replace(table, value=np.where(u, 1.944, 1) * table.value))["told"] == "units of u"
    order = np.lexsort((rng.random(len(u)), table.frame, table.channel))
    mixed = table.value.copy()
    mixed[np.lexsort((table.frame, table.channel))] = table.value[order]
    elsewhere = judge(replace(table, value=np.where(u, mixed, table.value)))
    assert elsewhere["told"] == "places of u" and elsewhere["unseen"] == []
    both = judge(replace(table, value=table.value + 0.5))
    assert both["told"] == CANNOT_TELL and _faults(both)[0].answer == "No; why, cannot be told"
    assert {"bias of all", "prior shifted everywhere"} <= set(both["candidates"])
    with pytest.raises(BadInput, match="hold no stretch of 6 frames"):
        check_table(table, s, 0, 6, (10, 14))
    with pytest.raises(BadInput, match="3 separate periods of 6 frames are no distribution"):
        check_table(table, s, 0, 6, (10, 30))


FOUR = {f"instrument {k}": f"{k}-*" for k in "abcd"}


def test_a_bias_of_one_instrument_among_several_is_named():
    r"""Four instruments see one variable; one of them is off by 1 σ, or has twice the σ."""
    from dataclasses import replace

    s = ocean()
    rng = np.random.default_rng(0)
    names = [f"{k}-{i:02}" for k in "abcd" for i in range(30)]
    places = rng.uniform([-70, 0], [70, 359], (120, 2))
    net = Stations(network="stations", error=0.5, channels=["u"], places={
        n: (float(a), float(b)) for n, (a, b) in zip(names, places, strict=True)})  # fmt: skip
    table = draw(net, s, start=0, stop=6, seed=1)
    judge = lambda t: check_table(  # noqa: E731
        t, s, 0, 6, (10, 130), repeats=400, seed=2, instruments=FOUR
    )
    assert judge(table)["told"] == CONSISTENT
    mine = np.char.startswith(table.station, "b-")
    biased = judge(replace(table, value=table.value + np.where(mine, 0.5, 0)))
    assert biased["told"] == "bias of u, instrument b" and biased["p"] < 0.02
    noise = np.where(mine, 0.5 * np.sqrt(3) * rng.standard_normal(len(table)), 0)
    noisy = judge(replace(table, value=table.value + noise))["candidates"]
    # whatever it is, it is of that instrument
    assert "σ of u, instrument b" in noisy and all(n.endswith("instrument b") for n in noisy)
    with pytest.raises(BadInput, match=r"no station's name is like 'e-[*]'"):
        check_table(table, s, 0, 6, (10, 130), instruments={"e": "e-*"})


def test_contrasts_are_what_the_other_instruments_leave_open():
    rng = np.random.default_rng(0)
    n, share = 40, np.linspace(0.6, 0.95, 40)
    net = Stations(network="stations", error=0.5, channels=["u"], places={
        f"s{k:02}": (float(a), float(b)) for k, (a, b) in
        enumerate(rng.uniform([30, 0], [60, 40], (n, 2)))})  # fmt: skip
    table = draw(net, ocean(2), start=0, stop=1, seed=1)
    of = np.arange(n) % 4
    where = 6371.0 * unit_vectors(table.lat, table.lon)
    r = np.linalg.norm(where[:, None] - where, axis=-1)
    cov = lambda L: (  # noqa: E731
        np.exp(-(r**2) / (2 * L**2)) * np.sqrt(share[:, None] * share) + np.diag(1 - share)
    )
    W = contrast(table, of, share, 800.0).toarray()
    C = cov(800.0)
    for k in range(n):
        order = np.argsort(r[k])
        near = order[: 2 * NEAREST][of[order[: 2 * NEAREST]] != of[k]][:NEAREST]
        w = np.linalg.solve(C[np.ix_(near, near)], C[near, k])
        row = np.zeros(n)
        row[k], row[near] = 1, -w
        left = 1 - w @ C[near, k]
        assert np.abs(W[k] - row / np.sqrt(left)).max() < 1e-6
        assert W[k] @ C @ W[k] == pytest.approx(1, abs=1e-6)
    for length in LENGTHS:
        z = rng.standard_normal((200, n)) @ np.linalg.cholesky(cov(length)).T
        found = sharpest(table, of, share, list(z))
        assert (found != contrast(table, of, share, length)).nnz == 0
    assert sharpest(table, np.zeros(n), share, [np.zeros(n)]) is None  # of one instrument alone


def test_too_few_periods_are_refused_at_any_level():
    r"""Beside one period and its neighbours others must be left to learn from."""
    rng = np.random.default_rng(0)
    null, periods = rng.standard_normal((400, 2)), np.repeat(np.arange(4), 100)
    for level, wanted in ((0.05, 19), (0.25, 5), (0.4, 5)):
        with pytest.raises(BadInput, match=f"4 withheld periods.*Use {wanted} or more"):
            Misspecification(null, {"bias": null + 1}, level, periods)


def test_few_periods_of_truth_raise_few_false_alarms():
    r"""Twenty periods are few beside 24 features: a fit of them all would alarm every other time.

    Clean data of twenty oceans: at a level of 0.05 more than four alarms have a chance of 0.3%.
    """
    net = stations(np.random.default_rng(0))
    alarms = 0
    for k in range(20):
        s = ocean(mean=2.0, seed=100 + k)
        table = draw(net, s, start=0, stop=6, seed=1)
        alarms += check_table(table, s, 0, 6, (10, 130), repeats=200, seed=k)["p"] <= 0.05
    assert alarms <= 4


def test_what_cannot_show_is_said():
    r"""Where the background tells the same everywhere, one place is as good as another."""
    s = ocean()
    table = draw(stations(np.random.default_rng(0)), s, start=0, stop=6, seed=1)
    found = check_table(table, s, 0, 6, (10, 130), repeats=400, seed=2)
    assert found["told"] == CONSISTENT and {"places of u", "places of v"} <= set(found["unseen"])
    assert "What would not show here" in _faults(found)[0].text
    noisy = np.where(table.channel == 0, 1.3 * np.random.default_rng(1).standard_normal(
        len(table)), 0)  # fmt: skip
    from dataclasses import replace

    told = check_table(
        replace(table, value=table.value + noisy), s, 0, 6, (10, 130), repeats=400, seed=2
    )  # values that are too large and noise that is too large look alike without a mean
    assert told["told"] == CANNOT_TELL and {"σ of u", "units of u"} <= set(told["candidates"])


def lorenz96(F, frames, seed, shape):
    r"""A ring of as many numbers as a state has, frames one unit of time apart."""
    x, out, h = F + np.random.default_rng(seed).standard_normal(int(np.prod(shape))), [], 0.05
    rate = lambda x: (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + F  # noqa: E731
    for k in range((frames + 10) * 20):
        k1 = rate(x)
        k2 = rate(x + h / 2 * k1)
        k3 = rate(x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(x + h * k3))
        if (k + 1) % 20 == 0:
            out.append(x)
    return np.array(out[10:]).reshape(frames, *shape)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_forcing_outside_the_training_range_is_found(seed):
    r"""Lorenz-96 learnt and withheld at F = 8; the data are of F = 8, or of F = 10."""
    s = ocean()
    shape = s.x.shape[1:]
    known = lorenz96(8.0, 120, 1000 + seed, shape)
    mean, std = np.full((1, shape[0], 1, 1), 2.34), np.full((1, shape[0], 1, 1), 3.64)
    s.statistics = Statistics(mean, std, np.full(1, 99), np.zeros(130, int), tuple(s.grid))
    net = stations(np.random.default_rng(0))
    for F, wrong in ((8.0, False), (10.0, True)):
        s.x = np.concatenate([lorenz96(F, 10, seed, shape), known]).astype(np.float32)
        table = draw(net, s, start=0, stop=6, seed=seed)
        found = check_table(table, s, 0, 6, (10, 130), repeats=200, seed=seed)
        assert (found["p"] <= 0.05) == wrong, (F, found)
    # what it is called: more variance than the prior has, or values that are too large
    assert {"prior too narrow", "units of u", "σ of u"} & set(found["candidates"])


class Forecasts:
    r"""What a forecast of one frame knows: half of the frame before, and its own spread."""

    def __init__(self, store, first, last):
        rng = np.random.default_rng(first)
        self.members = list(range(20))
        x = 0.5 * store.x[first - 1 : last - 1]
        z = rng.standard_normal((20, *x.shape))
        z = (z - z.mean(0)) / z.std(0, ddof=1)  # their moments are exact
        self.x = (x + np.sqrt(0.75) * z).astype(np.float32)

    def read(self, member, start, stop):
        return self.x[member, start:stop]


def test_the_background_may_be_a_forecast():
    s = ocean()
    rng = np.random.default_rng(0)
    net = stations(rng)
    table = draw(net, s, start=4, stop=10, seed=1)
    both = Forecasts(s, 4, 10), Forecasts(s, 10, 130)

    def judge(t, background=both, **more):
        more = {"repeats": 400, "seed": 2} | more
        return check_table(t, s, 4, 6, (10, 130), background=background, **more)

    assert judge(table)["told"] == CONSISTENT and judge(table)["background"] == "ensemble"
    from dataclasses import replace

    u = table.channel == 0
    biased = replace(table, value=table.value + np.where(u, 0.5, 0.0))
    found = judge(biased)
    assert found["told"] == "bias of u" and found["p"] < 0.01
    # a forecast that drifts by one of its deviations, told from none of what was withheld
    worse = Forecasts(s, 4, 10)
    worse.x = worse.x + np.float32(0.85)
    found = judge(table, (worse, both[1]))
    assert found["told"] != CONSISTENT
    assert {"prior shifted everywhere", "bias of all"} & set(found["candidates"])
    # the same drift in the withheld forecasts: that is how this forecast is
    always = Forecasts(s, 10, 130)
    always.x = always.x + np.float32(0.85)
    assert judge(table, (worse, always))["told"] == CONSISTENT
    few = Forecasts(s, 4, 10)
    few.members = [0, 1]
    with pytest.raises(BadInput, match="fewer than three members"):
        judge(table, (few, few))


@pytest.mark.slow
def test_the_job_refuses_truths_that_something_has_learnt_from(tmp_path):
    study = make(tmp_path / "study")
    path = study / "4_evaluate.yaml"
    plain = path.read_text() + "observations: observe\n"

    def run(text, *more):
        path.write_text(text)
        runs = str(tmp_path / "runs")
        return subprocess.run(
            [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", runs, *more],
            env=_environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    done = run(plain + "misspecification: {truths: [10, 30]}\n")
    assert done.returncode == 2 and "frames 24 to 29 are evaluated" in done.stderr, done.stderr
    done = run(plain + "misspecification: {truths: [0, 20]}\n")
    assert done.returncode == 2 and "frames 0 to 19 are in the statistics" in done.stderr
    done = run(plain + "misspecification: {truths: [0, 5]}\n")
    assert done.returncode == 2 and "frames 0 to 4 are fewer than the 12" in done.stderr
    # six frames for the statistics, then fourteen periods of two withheld, two analysed
    for name in ("1_import", "2_observe", "3_oi", "4_evaluate"):
        text = (plain if name == "4_evaluate" else (study / f"{name}.yaml").read_text()).replace(
            "[24, 36]", "[34, 36]"
        )
        text = text.replace("[0, 24], phase: month", "[0, 6], phase: none")
        (study / f"{name}.yaml").write_text(text.replace("[0, 24]", "[0, 6]"))
    done = run(path.read_text() + "misspecification: {truths: [24, 34]}\n")
    assert done.returncode == 2 and "5 separate periods of 2 frames" in done.stderr, done.stderr
    path.write_text(path.read_text().split("misspecification")[0])
    done = run((study / "4_evaluate.yaml").read_text()
               + "misspecification: {truths: [6, 34], repeats: 120, level: 0.1}\n")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "runs" / "study" / "evaluate" / "scores.json").read_text())
    found = card["misspecification"]
    assert found["told"] == CONSISTENT and found["periods"] == 14 and found["p"] > 0.05
    # the same against an ensemble that was made of both ranges of frames in one way
    prior = "kind: assimilate\nmethod: climatology\ndata: import\ntraining: [0, 6]\nmembers: 6\n"
    (study / "3_prior.yaml").write_text(prior + "frames: [34, 36]\n")
    (study / "3_withheld.yaml").write_text(prior + "frames: [6, 30]\n")
    text = path.read_text().split("misspecification")[0]
    test = "misspecification: {truths: [6, 34], repeats: 120, level: 0.1}\n"
    test += "withheld_background: withheld\n"
    done = run(text + test)
    assert done.returncode == 2 and "without 'background' and" in done.stderr, done.stderr
    done = run(text + test + "background: prior\n")
    assert done.returncode == 2 and "is of the frames [6, 30], not of the" in done.stderr
    (study / "3_withheld.yaml").write_text(prior + "frames: [6, 34]\n")
    done = run(text + test + "background: prior\n", "--fresh")
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((tmp_path / "runs" / "study" / "evaluate" / "scores.json").read_text())
    found = card["misspecification"]
    assert found["background"] == "ensemble" and found["told"] == CONSISTENT
