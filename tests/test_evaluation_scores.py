r"""Scores: published values, agreement with the `scores` package, any partition, calibration."""

import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.evaluation.bootstrap import block_counts, block_length
from hpcinv.evaluation.crps import crps
from hpcinv.evaluation.physics import checks
from hpcinv.evaluation.scores import scorecard, seam
from hpcinv.evaluation.spectra import spectrum
from hpcinv.evaluation.sums import SUMMED, FrameSums, evaluate
from hpcinv.evaluation.words import verdict
from hpcinv.kinds.evaluate import _boundaries
from hpcinv.parallel import World

M, L, C, H, W = 5, 9, 2, 6, 8
GRID = SimpleNamespace(
    grid=(H, W), mask=None, channels=["u", "v"], units=["m s-1"] * 2,
    standard_names=["eastward_wind", "northward_wind"],
    coords={"lat": np.linspace(-75, 75, H), "lon": np.arange(W) * 360 / W}, coord_attrs={},
)  # fmt: skip
ALL = {  # every sum that there is
    "threshold": lambda t: np.full((C, H, W), 0.1), "spectrum": spectrum(GRID),
    "checks": checks(GRID),
}  # fmt: skip
TWO = {"channels": ["u", "v"], "units": ["m s-1"] * 2}


class Ensemble(SimpleNamespace):
    def read(self, member, start, stop):
        return self.x[member, start:stop]

    def cells(self, member, frame, channel, start, stop):
        return self.x[member, frame, channel].reshape(-1)[start:stop]


class Truth(SimpleNamespace):
    channels = TWO["channels"]

    def read(self, start, stop):
        return self.y[start:stop]

    def weights(self):
        return self.w


def case(seed=0, members=M, noise=1.0, length=L):
    r"""A reliable ensemble: truth and members are draws around the same centre."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((length, C, H, W))
    y = centre + noise * rng.standard_normal(centre.shape)
    x = centre + noise * rng.standard_normal((members, *centre.shape))
    lat = np.linspace(-75, 75, H)
    w = np.broadcast_to(np.cos(np.deg2rad(lat))[:, None], (H, W))
    return Ensemble(x=x.astype(np.float32)), Truth(y=y.astype(np.float32), w=w / w.mean())


def sums_of(ensemble, truth, **more):
    given = {"members": range(len(ensemble.x)), "length": ensemble.x.shape[1]}
    return evaluate(ensemble, truth, **given | more)


@pytest.mark.parametrize(
    "members, y, ecdf, fair",
    [([0, 4, 3, 7], 2, 1.125, 2 / 3), ([1, -1, 2, 4], 3, 1.0, 2 / 3), ([0, 1, 4], 1, 4 / 9, 0.0)],
)
def test_crps_of_the_anchors(members, y, ecdf, fair):
    x, y = np.array(members, float), np.array(float(y))
    assert crps(x, y, fair=False) == pytest.approx(ecdf, abs=1e-15)
    assert crps(x, y, fair=True) == pytest.approx(fair, abs=1e-15)
    # the definition, pair by pair
    pairs = np.abs(x[:, None] - x[None]).sum()
    n = len(x)
    assert crps(x, y) == pytest.approx(np.abs(x - y).mean() - pairs / (2 * n * (n - 1)), abs=1e-14)


def test_crps_of_a_gaussian_is_the_closed_form():
    from scipy.stats import norm

    x = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    y = np.array([0.7])
    exact = 0.7 * (2 * norm.cdf(0.7) - 1) + 2 * norm.pdf(0.7) - 1 / np.sqrt(np.pi)
    assert crps(x, y)[0] == pytest.approx(exact, abs=3e-4)


def test_agreement_with_the_scores_package():
    import xarray as xr
    from scores.continuous import mse
    from scores.probability import crps_for_ensemble, rank_histogram

    ensemble, truth = case()
    dims = ("member", "time", "channel", "lat", "lon")
    x = xr.DataArray(ensemble.x.astype(float), dims=dims)
    y = xr.DataArray(truth.y.astype(float), dims=dims[1:])
    w = xr.DataArray(truth.w, dims=("lat", "lon"))
    sums = sums_of(ensemble, truth)
    space = ["lat", "lon"]
    mean = (sums.crps / sums.weight).ravel()
    for method, ours in (("fair", mean), ("ecdf", None)):
        theirs = crps_for_ensemble(
            x, y, "member", method=method, reduce_dims=space, weights=w
        ).values
        if ours is None:
            c = crps(ensemble.x, truth.y.astype(float), fair=False)
            ours = ((c * truth.w).sum((-2, -1)) / truth.w.sum()).ravel()
        assert np.abs(theirs.ravel() - ours).max() < 1e-12
    theirs = rank_histogram(x, y, "member", preserve_dims="all").sum(["time", "channel"])
    theirs = (theirs * w).sum(space) / w.sum() / (L * C)
    ours = sums.ranks.sum((0, 1)) / sums.ranks.sum()
    assert np.abs(theirs.values.ravel() - ours).max() < 1e-12
    theirs = mse(x.mean("member"), y, reduce_dims=space, weights=w).values
    assert np.abs(theirs - sums.squared / sums.weight).max() < 1e-12


def _energy(x, y, w):
    norm = lambda d: np.sqrt((w * d**2).sum((-2, -1)) / w.sum())  # noqa: E731
    return norm(x - y).mean() - norm(x[:, None] - x[None]).sum() / (2 * M * (M - 1))


def test_pooled_scores_are_the_definitions():
    ensemble, truth = case()
    x, y, w = ensemble.x.astype(float), truth.y.astype(float), truth.w
    card = scorecard({"a": sums_of(ensemble, truth)}, **TWO, replicates=20)
    got = {
        k: v["value"]
        for k, v in card["methods"]["a"]["pooled"].items()
        if isinstance(v, dict) and "value" in v
    }
    m = x.mean(0)
    mse = ((m - y) ** 2 * w).mean()
    var = (x.var(0, ddof=1) * w).mean()
    want = {
        "rmse": np.sqrt(mse),
        "bias": ((m - y) * w).mean(),
        "spread": np.sqrt(var),
        "spread_skill": np.sqrt((M + 1) / M * var / mse),
        "spread_skill_unbiased": np.sqrt(var / (mse - var / M)),
        "crps": (crps(x, y) * w).mean(),
        "energy": np.mean([_energy(x[:, t, c], y[t, c], w) for t in range(L) for c in range(C)]),
    }
    h = np.array([(((x < y).sum(0) == k) * w).mean() for k in range(M + 1)])
    want["rank_distance"] = 0.5 * np.abs(h - 1 / (M + 1)).sum()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name
    pooled = card["methods"]["a"]["pooled"]
    assert np.abs(np.array(pooled["rank_histogram"]) - h).max() < 1e-12
    s = np.sort(x, 0)
    for k, c in enumerate(pooled["coverage"], 1):
        inside = (((s[k - 1] < y) & (y <= s[M - k])) * w).mean()
        assert c["found"] == pytest.approx(inside, abs=1e-12)
        assert c["nominal"] == pytest.approx((M + 1 - 2 * k) / (M + 1))
    series = card["methods"]["a"]["frames"]["rmse"]
    assert np.mean(np.square(series)) == pytest.approx(mse, rel=1e-12)
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_partition_gives_the_same_sums(ranks):
    ensemble, truth = case()
    whole = sums_of(ensemble, truth, **ALL)
    parts = [sums_of(ensemble, truth, world=World(r, ranks), **ALL) for r in range(ranks)]
    merged = parts[-1]
    for p in parts[:-1]:
        merged = merged.merge(p)
    # members in another order, frames evaluated in blocks
    order = sums_of(ensemble, truth, members=[3, 1, 4, 0, 2], **ALL)
    for name in SUMMED:
        a = getattr(whole, name)
        assert np.abs(a - getattr(merged, name)).max() <= 1e-12 * np.abs(a).max(), name
        assert np.abs(a - getattr(order, name)).max() <= 1e-12 * np.abs(a).max(), name
    with pytest.raises(BadInput, match="frame 0 is in both"):
        whole.merge(parts[0])


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_real_ranks_give_the_same_sums(ranks, tmp_path):
    code = """
        import sys; sys.path[:0] = sys.argv[1:3]
        import numpy as np
        from test_evaluation_scores import ALL, SUMMED, case, sums_of
        from hpcinv.parallel import MPIWorld
        world = MPIWorld()
        assert world.size == int(sys.argv[3]), world.size
        whole, mine = sums_of(*case(), **ALL), sums_of(*case(), world=world, **ALL)
        for name in SUMMED:
            a, b = getattr(whole, name), getattr(mine, name)
            assert np.abs(a - b).max() <= 1e-12 * np.abs(a).max(), name
        print("same")
    """
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(code))
    here = os.path.dirname(os.path.abspath(__file__))
    env = os.environ | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = ["mpirun", "--oversubscribe", "-n", str(ranks), sys.executable, str(script)]
    done = subprocess.run(
        [*command, here, os.path.dirname(here), str(ranks)],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("same") == ranks, done.stderr


def test_a_reliable_ensemble_is_told_reliable_and_others_are_not():
    ensemble, truth = case(members=12, length=40)
    centre = ensemble.x.mean(0)
    cards = {}
    for name, factor, shift in (("good", 1, 0), ("narrow", 0.5, 0), ("wide", 2, 0), ("off", 1, 1)):
        x = centre + factor * (ensemble.x - centre) + shift
        sums = sums_of(Ensemble(x=x.astype(np.float32)), truth)
        cards[name] = scorecard({name: sums}, **TWO, replicates=50)["methods"][name]["pooled"]
    good = cards["good"]
    assert good["spread_skill"]["value"] == pytest.approx(1, abs=0.03)
    assert good["spread_skill_unbiased"]["value"] == pytest.approx(1, abs=0.03)
    assert good["rank_distance"]["value"] < 0.04
    assert max(abs(c["found"] - c["nominal"]) for c in good["coverage"]) < 0.03
    assert cards["narrow"]["spread_skill"]["value"] == pytest.approx(0.5, abs=0.02)
    h = cards["narrow"]["rank_histogram"]
    assert h[0] + h[-1] > 2 * 2 / 13
    h = cards["wide"]["rank_histogram"]
    assert h[0] + h[-1] < 0.5 * 2 / 13 and cards["wide"]["rank_distance"]["value"] > 0.15
    assert cards["off"]["bias"]["value"] == pytest.approx(1, abs=0.05)
    assert all(
        cards[n]["crps"]["value"] > good["crps"]["value"] for n in ("narrow", "wide", "off")
    )


def test_fair_crps_does_not_depend_on_the_number_of_members():
    values = [
        scorecard({"a": sums_of(*case(members=m, length=60))}, **TWO, replicates=2)
        ["methods"]["a"]["pooled"]["crps"]["value"]
        for m in (2, 4, 16)
    ]  # fmt: skip
    assert np.ptp(values) < 0.02  # the ecdf's score falls by 40% over these


def test_ties_get_random_ranks_by_key():
    y = np.zeros((L, C, H, W), np.float32)
    ensemble, truth = Ensemble(x=np.zeros((M, *y.shape), np.float32)), case()[1]
    truth.y = y
    a, b = sums_of(ensemble, truth), sums_of(ensemble, truth)
    assert np.array_equal(a.ranks, b.ranks)
    h = a.ranks.sum((0, 1))
    assert np.abs(h / h.sum() - 1 / (M + 1)).max() < 0.04
    assert not np.array_equal(a.ranks, sums_of(ensemble, truth, seed=1).ranks)


def test_one_member_and_masked_points():
    ensemble, truth = case(members=1)
    truth.w = truth.w.copy()
    truth.w[0] = 0.0
    ensemble.x[:, :, :, 0] = np.nan  # outside the domain: never looked at
    card = scorecard({"a": sums_of(ensemble, truth)}, **TWO, replicates=2)["methods"]["a"]
    error = np.abs(ensemble.x[0] - truth.y)[:, :, 1:] * truth.w[1:]
    assert card["pooled"]["crps"]["value"] == pytest.approx(
        error.sum() / truth.w.sum() / L / C, rel=1e-6
    )
    assert "spread_skill" not in card["pooled"]


def test_what_is_not_finite_is_named():
    ensemble, truth = case()
    ensemble.x[3, 2, 1, 4, 4] = np.nan
    with pytest.raises(BadInput, match="member 3, frame 2: 'v' is not finite"):
        sums_of(ensemble, truth)
    truth.y[5, 0, 0, 0] = np.inf
    with pytest.raises(BadInput, match="truth frame 5: 'u' of the truth"):
        sums_of(case()[0], truth)


def test_intervals_cover_and_know_about_autocorrelation():
    r"""95% intervals of a mean of an AR(1) series cover it; single frames would not."""

    def series(seed):
        rng = np.random.default_rng(seed)
        a = np.zeros(130)
        for t in range(1, 130):
            a[t] = 0.6 * a[t - 1] + rng.standard_normal()
        return a[10:]

    def coverage(block):
        counts = block_counts(120, block, 300, seed=0)
        inside = 0
        for s in range(200):
            low, high = np.quantile(counts @ series(s) / 120, [0.025, 0.975])
            inside += low < 0 < high
        return inside / 200

    assert coverage(8) > 0.85
    assert coverage(1) < 0.75
    assert block_length(24) == 3


def test_bootstrap_is_keyed_and_paired():
    counts = block_counts(24, 3, 50, seed=1)
    assert (counts.sum(1) == 24).all() and np.array_equal(counts, block_counts(24, 3, 50, 1))
    assert not np.array_equal(counts, block_counts(24, 3, 50, 2))
    good, bad = case(), case()
    bad[0].x += 0.3  # the same members, a little off: paired intervals see it
    card = scorecard({"good": sums_of(*good), "bad": sums_of(*bad)}, **TWO)
    d, own = card["differences"]["bad"]["rmse"], card["methods"]["good"]["pooled"]["rmse"]
    other = card["methods"]["bad"]["pooled"]["rmse"]
    assert d["value"] == pytest.approx(own["value"] - other["value"])
    assert d["low"] <= d["value"] <= d["high"] < 0
    assert d["high"] - d["low"] < other["high"] - other["low"]


def test_channels_of_different_units_are_pooled_only_with_a_scale():
    ensemble, truth = case()
    sums = sums_of(ensemble, truth)
    mixed = {"channels": ["u", "v"], "units": ["m s-1", "K"]}
    assert "pooled" not in scorecard({"a": sums}, **mixed, replicates=2)["methods"]["a"]
    card = scorecard({"a": sums}, **mixed, scale=[2.0, 4.0], replicates=2)
    mse = (sums.squared / sums.weight).mean(0) / [4, 16]
    assert card["methods"]["a"]["pooled"]["rmse"]["value"] == pytest.approx(np.sqrt(mse.mean()))
    assert card["pooled_units"] == "1"


def test_missing_frames_are_refused():
    ensemble, truth = case()
    with pytest.raises(BadInput, match="frame 4 was not evaluated"):
        scorecard({"a": sums_of(ensemble, truth, frames=(0, 4))}, **TWO)


def test_seams_are_seen():
    rng = np.random.default_rng(0)
    truth = case(length=40)[1]
    truth.y = np.cumsum(rng.standard_normal((40, C, H, W)), 0).astype(np.float32)
    x = truth.y + np.cumsum(rng.standard_normal((3, 40, C, H, W)), 1) * 0.1
    smooth = sums_of(Ensemble(x=x.astype(np.float32)), truth)
    found = seam(smooth, [10, 20, 30])
    assert found["ratio"] == pytest.approx(1, abs=0.1) and found["low"] < 1 < found["high"]
    x[:, 20:] += 2 * rng.standard_normal((3, 1, C, H, W))  # a jump between frames 19 and 20
    jump = sums_of(Ensemble(x=x.astype(np.float32)), truth)
    found = seam(jump, [20])
    assert found["ratio"] > 3 and found["low"] > 2
    with pytest.raises(BadInput, match="no seam"):
        seam(jump, [])


def test_boundaries_are_those_of_windows_and_of_blocks_of_dates(tmp_path):
    def of(text):
        (tmp_path / "job.yaml").write_text(text)
        return _boundaries(tmp_path, 24)

    sampled = "method: diffusion\nmode: reanalysis\nwindow: 12\noverlap: 8\n"
    assert of(sampled) == [8, 12, 16]  # windows from 0, 4, 8, 12 meet amid their overlaps
    assert of("method: oi\nresources: {array: {over: dates, tasks: 3}}\n") == [8, 16]
    assert of("method: oi\nresources: {array: {over: members, tasks: 3}}\n") == []
    assert of(sampled.replace("reanalysis", "filtering")) == []


def test_zeros_merge_as_nothing():
    sums = sums_of(*case())
    again = FrameSums.zeros(L, C, M).merge(sums)
    assert np.array_equal(again.crps, sums.crps) and np.array_equal(again.ranks, sums.ranks)


def test_the_verdict_tells_of_scales_balance_and_seams():
    ensemble, truth = case(length=40, members=9)
    how = {"spectrum": ALL["spectrum"], "checks": ALL["checks"]}

    def told(x):
        sums = sums_of(Ensemble(x=x.astype(np.float32)), truth, **ALL)
        card = scorecard(
            {"a": sums}, **TWO, replicates=20, boundaries={"a": [10, 20, 30]}, **how
        )  # fmt: skip
        found = {f.question: f for f in verdict(card).findings}
        return card["methods"]["a"], found, verdict(card)

    entry, found, _ = told(ensemble.x)
    for question in ("the truth’s scales", "variables fit", "windows join"):
        assert next(f for q, f in found.items() if question in q).level == "good"
    assert 0.8 < min(entry["spectrum"]["channels"]["u"]["members_over_truth"]) < 1.25
    assert "No slope or bow" in found["Does it know how wrong it can be?"].text
    smooth = (ensemble.x + np.roll(ensemble.x, 1, -1) + np.roll(ensemble.x, -1, -1)) / 3
    smooth[:, 10:20] += 20
    smooth[:, 30:] += 20
    entry, found, judged = told(smooth)
    assert found["Has it the truth’s scales?"].level != "good"
    assert found["Do its variables fit together?"].level != "good"
    assert found["Do its windows join?"].level == "poor" and judged.level != "good"
