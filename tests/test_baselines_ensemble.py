r"""Ensemble Kalman updates: the PDAF tutorial, dense Kalman formulas, and the job's methods."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import _environment
from test_baselines_oi import C, H, L, N, W, problem, store  # noqa: F401
from tiny_study import make

from hpcinv.assimilation import baselines_config as config
from hpcinv.assimilation import ensemble
from hpcinv.assimilation.baselines import Problem, build
from hpcinv.assimilation.oi_taper import bartlett, gaspari_cohn, positions
from hpcinv.errors import BadInput
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.observations.table import ObservationTable

METHODS = {
    "enkf": "ensemble: {length_km: 5000}\n",
    "etkf": "ensemble: {inflation: 1.05, rotation: true}\n",
    "letkf": "ensemble: {length_km: 5000}\n",
    "enks": "",
}
SAMPLES = Path(os.environ.get("HPCINV_SAMPLES", "/nowhere")) / "da" / "pdaf_tutorial"


@pytest.mark.skipif(not SAMPLES.exists(), reason="HPCINV_SAMPLES has no PDAF tutorial")
def test_the_pdaf_tutorial_is_reproduced():
    # 18 steps of two fields that move by a row, 28 observations of the first every second one.
    run = _pdaf()
    for (field, step, kind), x in run.means.items():
        theirs = run.read(f"ref_ESTKF/{field}_step{step:02}_{kind}.txt")
        assert np.abs(x - theirs).max() < 1e-12, (field, step, kind)
    assert len(run.means) == 36
    for (field, member), x in run.members.items():
        theirs = run.read(f"ref_ESTKF/{field}_{member:02}_step18_ana.txt")
        assert np.abs(x - theirs).max() < 1e-12, (field, member)


def _pdaf():
    import importlib.util

    path = Path(__file__).parents[1] / "scripts" / "benchmarks" / "pdaf.py"
    spec = importlib.util.spec_from_file_location("pdaf", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(SAMPLES)


def toy(M=12, n=7, D=5, seed=0):
    rng = np.random.default_rng(seed)
    E, A = rng.standard_normal((M, n)), rng.standard_normal((D, n))
    R = 0.5 + rng.random(D)
    return rng, E, A, R, rng.standard_normal(D)


def kalman(E, A, R, y):
    P = np.cov(E.T)
    K = P @ A.T @ np.linalg.inv(A @ P @ A.T + R)
    return E.mean(0) + K @ (y - A @ E.mean(0)), P - K @ A @ P


def test_etkf_and_letkf_are_the_kalman_filter_of_the_sample_covariance():
    _, E, A, R, y = toy()
    mean, P = kalman(E, A, np.diag(R), y)
    x = ensemble.etkf(E, E @ A.T, y, R)
    assert np.abs(x.mean(0) - mean).max() < 1e-12 and np.abs(np.cov(x.T) - P).max() < 1e-12
    turned = ensemble.etkf(E, E @ A.T, y, R, ensemble.rotation(12, np.random.default_rng(1)))
    assert np.abs(turned.mean(0) - mean).max() < 1e-12
    assert np.abs(np.cov(turned.T) - P).max() < 1e-12 and np.abs(turned - x).max() > 0.1
    # correlated R through its inverse
    S = np.diag(R) + 0.3
    mean, P = kalman(E, A, S, y)
    x = ensemble.etkf(E, E @ A.T, y, lambda v: np.linalg.solve(S, v.T).T)
    assert np.abs(x.mean(0) - mean).max() < 1e-12 and np.abs(np.cov(x.T) - P).max() < 1e-12
    # local: at each point the Kalman filter with R divided by that point's taper
    rho = np.random.default_rng(2).uniform(0.1, 1, (7, 5))
    x = ensemble.letkf(E[:, None], E @ A.T, y, R, lambda a, b: rho[a:b], block=3)[:, 0]
    for p in range(7):
        mean, P = kalman(E, A, np.diag(R / rho[p]), y)
        assert abs(x[:, p].mean() - mean[p]) < 1e-12 and abs(x[:, p].var(ddof=1) - P[p, p]) < 1e-12


def test_enkf_is_the_kalman_gain_on_each_members_innovation():
    rng, E, A, R, y = toy()
    e = rng.standard_normal((12, 5)) * np.sqrt(R)
    e0 = e - e.mean(0)
    P = np.cov(E.T)
    K = P @ A.T @ np.linalg.inv(A @ P @ A.T + np.diag(R))
    want = E + (y + e0 - E @ A.T) @ K.T
    assert np.abs(ensemble.enkf(E, E @ A.T, y, R, e) - want).max() < 1e-12
    few = slice(0, 4)  # fewer members than observations: the other branch
    P = np.cov(E[few].T)
    K = P @ A.T @ np.linalg.inv(A @ P @ A.T + np.diag(R))
    e0 = e[few] - e[few].mean(0)
    want = E[few] + (y + e0 - E[few] @ A.T) @ K.T
    assert np.abs(ensemble.enkf(E[few], E[few] @ A.T, y, R, e[few]) - want).max() < 1e-12
    ones = (np.ones((7, 5)), np.ones((5, 5)))
    assert np.abs(ensemble.enkf(E[few], E[few] @ A.T, y, R, e[few], ones) - want).max() < 1e-12


def test_the_smoother_is_the_kalman_smoother_of_the_replayed_trajectories(store):  # noqa: F811
    p = problem(store, range(6))
    b = build(config.Ensemble(method="enks"), p)
    X = np.stack([b._replayed(k) for k in range(L)], 1).reshape(6, -1)
    rows, y, R = [], [], []
    for t in range(L):
        c, i, v, s = p.standardised_observations(t)
        rows += list((t * C + c) * H * W + i)
        y, R = [*y, *v], [*R, *s**2]
    A = np.eye(X.shape[1])[rows]
    mean, P = kalman(X, A, np.diag(R), np.array(y))
    x = np.stack([b._analysis(k) for k in range(L)], 1).reshape(6, -1)
    assert np.abs(x.mean(0) - mean).max() < 1e-6  # restored and standardised in float32
    assert np.abs(np.cov(x.T) - P).max() < 1e-6
    z = store.statistics.standardise(b.draw(0, L), range(N, N + L)).reshape(6, -1)
    assert np.abs(z - x).max() < 1e-5
    # any block of frames gives the same members
    assert np.array_equal(b.draw(2, 4), b.draw(0, L)[:, 2:4])
    # localised with a taper that is nearly one, the covariance in time tapered too: it moves less
    local = build(config.Ensemble(method="enks", length_km=1e7, lags=2 * 10**9), p)
    assert np.abs(local._analysis(1).reshape(6, -1) - x.reshape(6, L, -1)[:, 1]).max() < 1e-4


def test_letkf_uses_the_gaspari_cohn_distance(store):  # noqa: F811
    p = problem(store, range(6))
    b = build(config.Ensemble(method="letkf", length_km=3000), p)
    x, E = b._analysis(2).reshape(6, C, -1), b._replayed(2).reshape(6, C, -1)
    c, i, y, s = p.standardised_observations(2)
    where = positions(store)
    for point in (0, 13, 23):
        r = np.linalg.norm(where[point] - where[i], axis=1) / 3000
        rho = gaspari_cohn(r)
        near = rho > 0
        Y = E[:, c, i][:, near]
        P = np.cov(np.concatenate([E[:, :, point], Y], 1).T)
        S = P[C:, C:] + np.diag(s[near] ** 2 / rho[near])
        want = E[:, :, point].mean(0) + P[:C, C:] @ np.linalg.solve(S, y[near] - Y.mean(0))
        assert np.abs(x[:, :, point].mean(0) - want).max() < 1e-5
    assert bartlett(np.array([0, 1]), 0).tolist() == [1, 0]


def advance(x, frame):
    r"""A forecast model: each row moves east by a point, and a little is forgotten."""
    return 0.9 * np.roll(x, 1, axis=-1)


ADVANCE = f"{__name__}:advance"


def test_a_filter_cycles_with_a_forecast_model(store):  # noqa: F811
    p = problem(store, range(5))
    b = build(config.Ensemble(method="etkf", forecast=ADVANCE, inflation=1.1), p)
    got = b.draw(0, 4)
    before = build(
        config.Ensemble(method="etkf", forecast=ADVANCE, inflation=1.1, before=True), p
    ).draw(0, 4)
    E = b._replayed(0)
    for k in range(4):
        c, i, y, s = p.standardised_observations(k)
        E = ensemble.inflate(E, 1.1).reshape(5, C, -1)
        forecast = E.reshape(5, 1, C, H, W)
        forecast = store.statistics.restore(forecast, [N + k])[:, 0]
        assert np.abs(before[:, k] - forecast).max() < 2e-5
        E = ensemble.etkf(E.reshape(5, -1), E[:, c, i], y, s**2).reshape(5, C, H, W)
        want = store.statistics.restore(E[:, None], [N + k])[:, 0]
        assert np.abs(got[:, k] - want).max() < 2e-5
        E = store.statistics.standardise(advance(want, N + k)[:, None], [N + k + 1])[:, 0]
    # a rank that starts later finds the same numbers, and one may go back
    other = build(config.Ensemble(method="etkf", forecast=ADVANCE, inflation=1.1), p)
    assert np.array_equal(other.draw(2, 4), got[:, 2:]) and np.array_equal(
        b.draw(1, 2), got[:, 1:2]
    )
    # the smoother's last frame is the filter's, its first has seen the future
    s = build(config.Ensemble(method="enks", forecast=ADVANCE, inflation=1.1), p).draw(0, L)
    assert np.abs(s[:, -1] - b.draw(L - 1, L)[:, 0]).max() < 1e-6
    assert np.abs(s[:, 0] - got[:, 0]).max() > 0.1


@pytest.mark.slow
@pytest.mark.mpi
def test_the_job_runs_them_on_any_number_of_ranks(tmp_path):
    study = make(tmp_path / "tiny")
    oi = (study / "3_oi.yaml").read_text().split("oi: {")[0]
    for method, more in METHODS.items():
        text = oi.replace("method: oi", f"method: {method}") + more
        (study / f"3_{method}.yaml").write_text(text)
    text = (study / "4_evaluate.yaml").read_text()
    (study / "4_evaluate.yaml").write_text(text.replace("[oi]", "[enks, oi, enkf, etkf, letkf]"))
    digests = []
    for ranks in (1, 2):
        runs = tmp_path / f"runs{ranks}"
        done = subprocess.run(
            [sys.executable, "-m", "hpcinv", "run", str(study), "--runs", str(runs), "--ranks",
             str(ranks)],
            capture_output=True, text=True, env=_environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        of = {m: json.loads((runs / "tiny" / m / "manifest.json").read_text()) for m in METHODS}
        digests.append({m: found["digest"] for m, found in of.items()})
    assert digests[0] == digests[1]
    data = TrajectoryStore.open(runs / "tiny" / "import" / "store")
    table = ObservationTable.load(runs / "tiny" / "observe" / "observations.nc")
    p = Problem(data, data.statistics, (0, 24), (24, 36), table, range(4), 0)
    with open_analysis(runs / "tiny" / "enks") as analysis:
        want = build(config.Ensemble(method="enks"), p).draw(3, 5)
        assert np.array_equal(analysis.ensemble(3, 5), want)


def test_what_cannot_be_is_refused(store):  # noqa: F811
    with pytest.raises(BadInput, match="1 member is no ensemble"):
        build(config.Ensemble(), problem(store, range(1)))
    with pytest.raises(BadInput, match="letkf without a length"):
        build(config.Ensemble(method="letkf"), problem(store, range(3)))
    with pytest.raises(BadInput, match=r"no 'advanse' in .*Did you mean 'advance'"):
        build(config.Ensemble(forecast=ADVANCE.replace("ance", "anse")), problem(store, range(3)))
    with pytest.raises(ValueError, match="module:Name"):
        config.Ensemble(forecast="advance")
