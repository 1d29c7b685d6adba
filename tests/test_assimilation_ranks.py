r"""The answer does not depend on how many ranks computed it: real MPI ranks against one process.

Run as a program, this file is what each rank executes.
"""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VPSchedule

from hpcinv import assimilation
from hpcinv.assimilation.buffers import VARIABLE
from hpcinv.assimilation.modal import ModalCovariance
from hpcinv.diffusion import noise

LENGTH, STATE, MEMBERS = 11, (3, 2, 4), [0, 1, 5]

GUIDANCES = {
    "none": {"method": "none"},
    "cg": {"scope": "trajectory", "iterations": 3},
    "gmres": {"scope": "trajectory", "solver": "gmres", "iterations": 2, "memory": 1.0},
    "tolerance": {"scope": "trajectory", "iterations": 6, "tolerance": 0.3},
    "averaged": {"covariance": "averaged"},
    "isotropic": {"scope": "trajectory", "covariance": "isotropic"},
    "markov": {"covariance": "markov"},
    "window": {},
    "window-gmres": {"scope": "window", "solver": "gmres"},
    "window-direct": {"scope": "window", "solver": "direct"},
    "dps": {"method": "dps"},
    "dps-far": {"method": "dps", "strength": 1e3, "limit": 2.0},  # steps are replaced
    "sda": {"scope": "trajectory", "method": "sda", "gamma": 0.1},
    "sda-window": {"method": "sda", "gamma": 0.1, "scope": "window"},
}
SAMPLERS = {
    "ddpm": {"method": "ddpm"},
    "ddim": {"method": "ddim", "eta": 0.5},
    "heun": {"method": "heun"},
    "ab": {"method": "adams-bashforth", "order": 3},
    "corrections": {"method": "heun", "corrections": 1, "spacing": "log"},
}
COMPOSITIONS = {
    "center": {"compose": "center"},
    "junction": {"compose": "junction"},
    "coarse": {"compose": "junction", "coarse": assimilation.Coarse(3, 3, 2)},
    "center-coarse": {"compose": "center", "coarse": assimilation.Coarse(3, 3, 2)},
    "one": {"compose": "center", "window": LENGTH},
}


def key(*shape, name):
    return noise.normal(shape, seed=5, purpose=name, dtype=torch.float64)


class Net(Denoiser):
    r"""A small nonlinear denoiser that mixes frames, channels and space, and uses its context."""

    def __init__(self):
        super().__init__()
        self.schedule = VPSchedule(1e-2, 1e-2)
        self.a, self.b = key(3, 3, name="a") / 3, key(3, 1, 3, name="b") / 3

    def forward(self, x_t, t, context=None):
        alpha, sigma = self.schedule(t)
        x = x_t * torch.rsqrt(alpha**2 + sigma**2)
        h = torch.einsum("cd,bwdij->bwcij", self.a.to(x), x) + context[..., :1, None, None]
        h = torch.tanh(h + h.roll(1, -1))
        h = torch.nn.functional.conv3d(h.transpose(1, 2), self.b.to(x)[..., None, None],
                                       padding=(1, 0, 0), groups=3).transpose(1, 2)  # fmt: skip
        return DiracPosterior(mean=alpha / (alpha**2 + sigma**2) * x_t + sigma * h)


class Table:
    r"""Frames 0, 1, 4 and 9 are observed, by different numbers of points."""

    frame = np.repeat([0, 1, 4, 9], [3, 1, 5, 4])
    channel = np.arange(13) % 2
    point = np.arange(13) * 5 % 12
    value = key(13, name="y").numpy()
    error = 0.3 + 0.1 * np.arange(13)


class Points(Table):
    point = Table.point % 8


class Error:
    def covariance(self, points, channels):
        return 0.05 * np.exp(-np.abs(points[:, None] - points[None]) / 3.0)


def decode(z, context=None):
    r"""(N, 3, 2, 4) -> (N, 2, 3, 4), nonlinear."""
    w = key(6, 6, name="w").to(z) / 2
    h = z.flatten(1, 2).transpose(1, 2) @ w
    return (
        torch.tanh(h).transpose(1, 2).reshape(len(z), 2, 3, 4) + 0.1 * context[:, :1, None, None]
    )


def problem(dtype):
    context = torch.linspace(-1, 1, LENGTH * 2, dtype=dtype).view(LENGTH, 2)
    likelihood = assimilation.PointLikelihood(
        Table, shape=(2, 3, 4), decoder=decode, decoder_error=Error(), context=context, dtype=dtype
    )
    lag = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    moments = (0.8**lag).double().expand(*STATE, 5, 5)
    return {
        "shape": STATE, "length": LENGTH, "window": 5, "overlap": 3, "members": MEMBERS,
        "likelihood": likelihood, "context": context, "seed": 3, "dtype": dtype,
        "markov": assimilation.MarkovCovariance(moments, LENGTH, 5, 3, independent=True),
    }  # fmt: skip


def modal():
    modes, _ = torch.linalg.qr(key(24, 7, name="modes"))
    k = torch.arange(7)
    return ModalCovariance(modes, 1.0 / (1 + k), 0.9 - 0.1 * k, 0.1, LENGTH)


def every_case():
    # Every composition with every guidance, the samplers taken in turn: of five compositions and
    # five samplers every pair with a guidance occurs, and every pair of the two. Then more.
    turn = itertools.cycle(SAMPLERS)
    for c, g in itertools.product(COMPOSITIONS, GUIDANCES):
        s = next(turn)
        if g.startswith("dps") and s == "corrections":
            s = "ddpm"
        yield c, g, s
    for s in SAMPLERS:
        yield "center", "cg", s
        yield "junction", "averaged", s
    yield "center", "modal", "heun"
    yield "center", "modal points", "heun"  # solved among the numbers seen


def run_all(world, reproducible, dtype, slabs=None, only=1, **kwargs):
    out = {}
    base = problem(dtype)
    for c, g, s in itertools.islice(every_case(), 0, None, only):
        more = {"markov": modal()} if g.startswith("modal") else {}
        if g == "modal points":
            more["likelihood"] = assimilation.PointLikelihood(
                Points, shape=STATE, length=LENGTH, dtype=dtype
            )
        result = assimilation.sample(
            Net(),
            **{**base, **COMPOSITIONS[c], **more},
            guidance=GUIDANCES["markov" if g.startswith("modal") else g],
            sampler={**SAMPLERS[s], "steps": 2},
            world=world,
            reproducible=reproducible,
            slabs=slabs,
            **kwargs,
        )
        whole = np.zeros((len(MEMBERS), LENGTH, *STATE))
        for i, m in enumerate(result.members):
            if result.frames:
                whole[MEMBERS.index(m), result.frames] = result.x[i].numpy()
        out[f"{c} {g} {s}"] = world.all_reduce(whole)
        assert result.diagnostics["calls"] > 0
    return out


def main(folder):
    torch.set_num_threads(1)
    from hpcinv import parallel

    world = parallel.connect("mpi")
    # One trajectory over all ranks, and a few cases with member groups as well.
    for name, args in MODES.items():
        out = run_all(world, *args, slabs=world.size, only=ONLY[name])
        if world.rank == 0:
            np.savez(Path(folder) / f"{name}.npz", **out)
    out = run_all(world, *MODES["float"], only=7)
    if world.rank == 0:
        np.savez(Path(folder) / "groups.npz", **out)
    # Tensors themselves handed to MPI, as one that knows the device takes them.
    os.environ[VARIABLE] = "direct"
    out = run_all(world, *MODES["float"], slabs=world.size, only=7)
    if world.rank == 0:
        np.savez(Path(folder) / "direct.npz", **out)


# Every case in reproducible mode, some without.
ONLY = {"double": 4, "float": 1, "loose": 6}
MODES = {
    "double": (False, torch.float64),
    "float": (True, torch.float32),
    "loose": (False, torch.float32),
}


@pytest.fixture(scope="module")
def alone():
    from hpcinv.parallel import World

    torch.set_num_threads(1)
    return {name: run_all(World(), *args, only=ONLY[name]) for name, args in MODES.items()}


@pytest.mark.mpi
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
@pytest.mark.parametrize(
    "ranks",
    [
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(3, marks=pytest.mark.slow),
        4,
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_same_on_ranks(alone, ranks, tmp_path):
    environ = {
        **os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    subprocess.run(
        ["mpirun", "--oversubscribe", "-n", str(ranks), sys.executable, "-m", "mpi4py",
         __file__, str(tmp_path)],
        env=environ, check=True, timeout=500,
    )  # fmt: skip
    worst = {}
    for name, most in (("double", 1e-10), ("loose", 1e-5)):
        with np.load(tmp_path / f"{name}.npz") as many:
            assert set(many.files) == set(alone[name])
            for case in many.files:
                one = alone[name][case]
                assert np.isfinite(one).all() and np.abs(one).max() > 0.1, case
                error = np.abs(many[case] - one).max() / np.abs(one).max()
                assert error <= most, (name, case, error)
                worst[name] = max(worst.get(name, 0.0), error)
    for name in ("float", "groups", "direct"):
        with np.load(tmp_path / f"{name}.npz") as many:
            for case in many.files:
                assert np.array_equal(many[case], alone["float"][case]), (name, case)
    print(f"{ranks} ranks: largest relative differences {worst}, reproducible: 0")


def test_batches_groups_and_memory_do_not_matter(alone):
    from hpcinv.parallel import World

    small = run_all(World(), False, torch.float64, only=4, batch=2, rows=3)
    for case, one in alone["double"].items():
        assert np.abs(small[case] - one).max() <= 1e-10 * np.abs(one).max(), case
    grouped = run_all(World(), True, torch.float64, only=4, group=4)
    for case, one in alone["double"].items():
        assert np.abs(grouped[case] - one).max() <= 1e-10 * np.abs(one).max(), case
    one_by_one = run_all(World(), True, torch.float32, only=2, batch=1)
    for case, one in one_by_one.items():
        assert np.array_equal(alone["float"][case], one), case


def test_members_do_not_depend_on_each_other(alone):
    base = problem(torch.float32)
    result = assimilation.sample(
        Net(), **{**base, "members": [5]}, compose="junction", reproducible=True,
        guidance=GUIDANCES["averaged"], sampler={**SAMPLERS["heun"], "steps": 2},
    )  # fmt: skip
    assert np.array_equal(result.x[0].numpy(), alone["float"]["junction averaged heun"][2])


if __name__ == "__main__":
    main(sys.argv[1])
