r"""Observations between frames: operator and adjoint, the exact posterior, the same on any ranks.

Run as a program, this file is what each rank executes.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import test_assimilation_ranks as ranks
import torch
from azula.noise import VESchedule
from test_assimilation_decoder import CONTEXT, decoder, state
from test_assimilation_decoder import LENGTH as SHORT
from test_assimilation_operators import DecoderError, world
from test_assimilation_posterior import LENGTH, C, D, draw, gaussian
from test_observations_networks import truth

from hpcinv import assimilation
from hpcinv.assimilation import OperatorLikelihood
from hpcinv.assimilation.likelihood import Restricted
from hpcinv.assimilation.moments import frames_of
from hpcinv.diffusion import noise
from hpcinv.errors import BadInput
from hpcinv.observations.config import Derived, Errors, Forward
from hpcinv.observations.table import ObservationTable

SPEED = Derived(name="speed", units="m s-1", of=("u", "v"), operator="speed")


def between(table, times, **forward):
    r"""The rows at other times, interpolated in time."""
    n = len(table)
    time = np.resize(np.asarray(times, float), n)
    clock = 6.0 * np.arange(100)
    frame = np.abs(clock[:, None] - time).argmin(0)
    forward = table.forward.model_copy(update={"time": "linear", **forward})
    return replace(table, frame=frame, time=time, forward=forward)


def test_the_operator_through_a_decoder_sees_two_frames_and_its_adjoint_is_exact():
    s, table = world()
    table = between(table, [3.0, 6.0, 8.0, 17.0, 0.0, 18.0, 19.5, -1.0])
    net = decoder()
    more = {"store": s, "context": CONTEXT, "dtype": torch.float64}
    sparse = OperatorLikelihood(table, s.statistics, range(SHORT), decoder=net, **more)
    dense = OperatorLikelihood(table, s.statistics, range(SHORT), decoder=net.decode, **more)
    moments = [0, 0.5, 1, 1.5, 2, 2.5, 3]
    sizes = sparse.sizes(moments)  # what is outside the first and last frame sees that one
    assert sizes[4] == 0 and all(n > 0 for k, n in enumerate(sizes) if k != 4)
    assert sum(sizes) == len(table) and sparse.between
    seen = frames_of(moments)
    assert seen == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    z = state(net, 4)
    x = torch.stack([net.decode(z[:, f], CONTEXT[[f, f]]) for f in range(4)], 1)
    x = s.statistics.restore(x, range(4))
    rows = sparse._rows(moments)
    t = table.select(rows)  # in the same order: the table's order is by frame and place
    want = np.empty((2, len(table)))
    for i, row in enumerate(rows):
        k = float(np.clip(table.time[row] / 6, 0, 3))
        a, w = min(int(k), 2), k - min(int(k), 2)
        mixed = (1 - w) * x[:, a] + w * x[:, a + 1]
        one = replace(table.select([row]), frame=[0], time=[0.0])
        op = OperatorLikelihood(one, None, [0], store=s, dtype=torch.float64)
        want[:, i] = op.operator(mixed[:, None], [0])[:, 0].numpy()
    assert len(t) == len(table)
    zz = z[:, seen]
    assert np.abs(dense.operator(zz, moments).numpy() - want).max() < 1e-6
    assert np.abs(sparse.operator(zz, moments).numpy() - want).max() < 1e-6
    v, u = torch.randn_like(zz), torch.randn(2, len(table), dtype=torch.float64)
    _, Jv = torch.func.jvp(lambda z: sparse.operator(z, moments), (zz,), (v,))
    leaf = zz.clone().requires_grad_()
    (Ju,) = torch.autograd.grad(sparse.operator(leaf, moments), leaf, u)
    assert abs((Jv * u).sum() - (Ju * v).sum()) < 1e-10
    # A shorter trajectory sees what lies within it, under its own numbers.
    part = Restricted(sparse, 1, 3)
    assert part.sizes([0, 0.5, 1, 1.5]) == [*sizes[2:5], 0]


def test_the_decoders_error_enters_by_the_frames_that_are_seen():
    s, table = world()
    t = table.select(table.channel == 0)
    t = between(t, [2.0])
    lik = OperatorLikelihood(t, s.statistics, range(SHORT), store=s, decoder_error=DecoderError,
                             dtype=torch.float64)  # fmt: skip
    p, _, std = lik._piece(0.5)
    A = p.matrix.toarray() * std.numpy() / t.error[lik._rows([0.5])][:, None]
    R = np.eye(len(t))
    for f in (0, 1):
        at = p.frame == f
        R += A[:, at] @ DecoderError.covariance(p.point[at], p.channel[at]) @ A[:, at].T
    got = lik.covariance(torch.eye(len(t), dtype=torch.float64), [0.5]).numpy()
    assert np.abs(got - R).max() < 1e-9 and np.abs(R - np.eye(len(t))).max() > 0.1
    with pytest.raises(BadInput, match="rows that lie between frames"):
        OperatorLikelihood(t, s.statistics, range(SHORT), store=s,
                           errors=Errors(length_km={"u": 500}))  # fmt: skip


# The chain of test_assimilation_posterior, of which every third frame was observed half a step,
# or a quarter, later; the last row lies on a frame.
TIME = np.append(np.arange(0, LENGTH - 2, 3) + np.tile([0.5, 0.25], 4), LENGTH - 1)
CHANNEL = np.arange(len(TIME)) % D
VALUE = noise.normal((len(TIME),), seed=0, purpose="y", dtype=torch.float64).numpy()
ERROR = 0.2


def rows_of_the_chain():
    n = len(TIME)
    store = SimpleNamespace(
        channels=["a", "b"], units=["1", "1"], grid=(), coords={}, coord_attrs={}, mask=None,
        time=np.arange(float(LENGTH)), length=LENGTH,
    )  # fmt: skip
    table = ObservationTable(
        frame=np.round(TIME), channel=CHANNEL, point=np.zeros(n), value=VALUE,
        error=np.full(n, ERROR), lat=np.full(n, np.nan), lon=np.full(n, np.nan), time=TIME,
        station=np.full(n, ""), channels=("a", "b"), units=("1", "1"),
        forward=Forward(time="linear"),
    )  # fmt: skip
    return OperatorLikelihood(table, None, range(LENGTH), store=store, dtype=torch.float64)


def closed_form():
    A = np.zeros((len(TIME), LENGTH, D))
    for i, (t, c) in enumerate(zip(TIME, CHANNEL, strict=True)):
        k = int(t)
        A[i, k, c] = 1 - (t - k)
        if t > k:
            A[i, k + 1, c] = t - k
    A, P = A.reshape(len(TIME), -1), C.reshape(LENGTH * D, -1).numpy()
    K = P @ A.T @ np.linalg.inv(A @ P @ A.T + ERROR**2 * np.eye(len(TIME)))
    return K @ VALUE, np.sqrt(np.diag(P - K @ A @ P))


def distance(x):
    r"""Error of the mean in posterior deviations, without that of so few members; and spread."""
    mean, std = map(torch.from_numpy, closed_form())
    x = x.flatten(1)
    error, spread = ((x.mean(0) - mean) / std).square().mean(), (x.std(0) / std).mean()
    return float((error - spread**2 / len(x)).clamp(min=0).sqrt()), float(spread)


@pytest.mark.parametrize("scope", ["window", "trajectory"])
def test_one_window_is_the_exact_smoother(scope):
    result = draw(
        VESchedule(3e-3, 60.0), members=range(200), likelihood=rows_of_the_chain(),
        guidance={"iterations": 12, "tolerance": 1e-4, "scope": scope},
        sampler={"method": "heun", "steps": 24},
    )  # fmt: skip
    error, spread = distance(result.x)
    assert error < 0.08 and 0.97 < spread < 1.04, (error, spread)
    assert result.diagnostics["events"] == []


SLOW = pytest.mark.slow
WINDOWS = [
    ("junction", {}, 0.2),
    pytest.param("junction", {"covariance": "averaged"}, 0.35, marks=SLOW),
    pytest.param("center", {}, 0.35, marks=SLOW),
]


@pytest.mark.parametrize(("compose", "guidance", "most"), WINDOWS)
def test_windows_approach_it(compose, guidance, most):
    result = draw(
        window=9, overlap=5, members=range(128), compose=compose, likelihood=rows_of_the_chain(),
        guidance={"iterations": 12, "tolerance": 1e-4} | guidance,
        denoiser=gaussian(9, VESchedule(3e-3, 60.0)), sampler={"steps": 12, "corrections": 2},
    )  # fmt: skip
    error, spread = distance(result.x)
    assert error < most and 0.9 < spread < 1.12, (error, spread)


def test_filtering_sees_what_came_before():
    r"""At frame 1 the filter knows the row between frames 0 and 1, and no other."""
    result = assimilation.filtering(
        gaussian(LENGTH, VESchedule(3e-3, 60.0)), shape=(D,), length=LENGTH, window=9, overlap=5,
        members=range(400), likelihood=rows_of_the_chain(), times=[0, 1], dtype=torch.float64,
        guidance={"iterations": 12, "tolerance": 1e-4}, sampler={"steps": 16}, batch=512,
    )  # fmt: skip
    P = C[:2, :, :2].reshape(4, 4).numpy()
    h = np.array([0.5, 0, 0.5, 0])
    gain = P @ h / (h @ P @ h + ERROR**2)
    mean, cov = gain * VALUE[0], P - np.outer(gain, h @ P)
    x = result.x.numpy()
    assert np.abs(x[:, 0].mean(0)).max() < 0.15 and np.abs(x[:, 0].std(0) - 1).max() < 0.12
    assert np.abs(x[:, 1].mean(0) - mean[2:]).max() < 0.15
    assert np.abs(x[:, 1].std(0) / np.sqrt(np.diag(cov))[2:] - 1).max() < 0.12


CASES = [
    ("center", "cg"), ("junction", "window"), ("coarse", "averaged"), ("one", "gmres"),
    ("junction", "markov"), ("center", "dps"), ("junction", "sda"), ("one", "window"),
]  # fmt: skip
# Between slabs of two ranks (frames 4 and 5) and of three (2 and 3, 6 and 7), and elsewhere.
TIMES = [2.5, 4.25, 6.75, 0.5, 1.0, 9.0, 4.5]


def run_all(world, reproducible, dtype, slabs=None):
    base = ranks.problem(dtype)
    s = truth(L=ranks.LENGTH, lat=np.array([-30.0, 0, 30]), lon=90.0 * np.arange(4))
    n = 4 * len(TIMES)
    time = np.repeat(TIMES, 4)
    table = ObservationTable(
        frame=np.floor(time + 0.5), channel=np.arange(n) % 3, point=np.arange(n) * 5 % 12,
        value=ranks.key(n, name="y").numpy(), error=0.3 + 0.02 * np.arange(n),
        lat=np.linspace(-29, 29, n), lon=np.linspace(0, 350, n), time=6.0 * time,
        station=np.full(n, ""), channels=("u", "v"), units=("m s-1",) * 2,
        forward=Forward(space="bilinear", time="linear", derived=(SPEED,)),
    )  # fmt: skip
    likelihood = OperatorLikelihood(
        table, None, range(ranks.LENGTH), store=s, decoder=ranks.decode,
        decoder_error=ranks.Error(), context=base["context"], dtype=dtype,
    )  # fmt: skip
    out = {}
    for c, g in CASES:
        result = assimilation.sample(
            ranks.Net(), **{**base, **ranks.COMPOSITIONS[c], "likelihood": likelihood},
            guidance=ranks.GUIDANCES[g], sampler={"method": "heun", "steps": 2}, world=world,
            reproducible=reproducible, slabs=slabs,
        )  # fmt: skip
        whole = np.zeros((len(ranks.MEMBERS), ranks.LENGTH, *ranks.STATE))
        for i, m in enumerate(result.members):
            whole[ranks.MEMBERS.index(m), result.frames] = result.x[i].numpy()
        out[f"{c} {g}"] = world.all_reduce(whole)
    return out


MODES = {"double": (False, torch.float64), "float": (True, torch.float32)}


def main(folder):
    torch.set_num_threads(1)
    from hpcinv import parallel

    world = parallel.connect("mpi")
    for name, args in MODES.items():
        out = run_all(world, *args, slabs=world.size)
        if world.rank == 0:
            np.savez(Path(folder) / f"{name}.npz", **out)


@pytest.fixture(scope="module")
def alone():
    from hpcinv.parallel import World

    torch.set_num_threads(1)
    return {name: run_all(World(), *args) for name, args in MODES.items()}


@pytest.mark.mpi
@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_same_bits_on_any_number_of_ranks(alone, n, tmp_path, mpirun):
    mpirun(n, Path(__file__), tmp_path, timeout=300)
    for name in MODES:
        with np.load(tmp_path / f"{name}.npz") as many:
            assert set(many.files) == set(alone[name])
            for case in many.files:
                one = alone[name][case]
                assert np.isfinite(one).all() and np.abs(one).max() > 0.1, case
                error = np.abs(many[case] - one).max() / np.abs(one).max()
                assert error <= (1e-10 if name == "double" else 0), (name, case, error)


if __name__ == "__main__":
    main(sys.argv[1])
