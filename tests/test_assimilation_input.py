r"""Bad input is refused by name, and what diverges is named and falls back."""

import math

import numpy as np
import pytest
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule

from hpcinv import assimilation
from hpcinv.assimilation.buffers import Direct, Host, buffers
from hpcinv.assimilation.composition import compose
from hpcinv.assimilation.partition import Partition, owners
from hpcinv.assimilation.windows import cover, middles
from hpcinv.errors import BadInput
from hpcinv.io.statistics import Statistics

torch.set_num_threads(1)


class Net(Denoiser):
    schedule = VESchedule(1e-2, 50.0)

    def forward(self, x_t, t, **kwargs):
        return DiracPosterior(mean=x_t / (1 + self.schedule.sigma(t) ** 2))


def table(**change):
    class Table:
        frame, channel, point = np.array([0, 2]), np.array([0, 1]), np.array([3, 0])
        value, error = np.array([0.5, -0.2]), np.array([0.1, 0.1])

    for name, value in change.items():
        setattr(Table, name, np.array(value))
    return Table


def likelihood(**change):
    return assimilation.PointLikelihood(table(**change), shape=(2, 2, 3), length=6)


def draw(**change):
    return assimilation.sample(
        change.pop("denoiser", Net()),
        **{
            "shape": (2, 2, 3), "length": 6, "window": 4, "overlap": 2, "members": [0, 1],
            "likelihood": likelihood(), "sampler": {"steps": 2}, **change,
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": [0, 6]}, r"observation 1 \(frame 6\) is outside the trajectory.*0 to 5"),
        ({"frame": [-1, 2]}, "outside the trajectory"),
        ({"channel": [0, 2]}, "unknown channel"),
        ({"point": [6, 0]}, "outside the grid"),
        ({"value": [np.nan, 0.0]}, r"observation 0 \(frame 0\) has a value that is not finite"),
        ({"error": [0.1, 0.0]}, "observation 1 .*zero, negative"),
        ({"error": [0.1, -1.0]}, "zero, negative"),
        ({"error": [np.inf, 1.0]}, "not finite"),
    ],
)
def test_observations(change, message):
    with pytest.raises(BadInput, match=message):
        likelihood(**change)


def test_observation_of_a_constant_point():
    one = np.ones((1, 2, 2, 3), np.float32)
    statistics = Statistics(0 * one, one, np.array([9]), np.zeros(6, int))
    statistics.std[0, 1, 0, 0] = 0
    with pytest.raises(BadInput, match="does not vary"):
        assimilation.PointLikelihood(table(), statistics, range(6))


def test_statistics_standardise():
    one = np.ones((3, 2, 2, 3), np.float32)
    p = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    for mean, std in (
        (p * one, (p + 1) * one),
        (p * one[..., :1, :1], (p + 1) * one[..., :1, :1]),
    ):
        statistics = Statistics(mean, std, np.full(3, 9), np.arange(20) % 3, (2, 3))
        seen = assimilation.PointLikelihood(table(), statistics, range(10, 16))
        assert torch.allclose(seen.y([0, 2]), torch.tensor([(0.5 - 1) / 2, -0.2]))
        assert torch.allclose(seen.variance([0, 2]), torch.tensor([0.05**2, 0.1**2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlap": 4}, "overlap of 4"),
        ({"overlap": 0}, "share no frame"),
        ({"window": 0}, "window of 0"),
        ({"length": 0}, "trajectory of 0"),
        ({"compose": "middle"}, "unknown composition 'middle'"),
        ({"members": []}, "members"),
        ({"members": [1, 1]}, "distinct"),
        ({"guidance": {"method": "mpms"}}, "guidance.method"),
        ({"guidance": {"iteration": 2}}, "guidance.iteration"),
        ({"guidance": {"covariance": "markov"}}, "second moments"),
        ({"guidance": {"scope": "window", "covariance": "averaged"}}, "own or isotropic"),
        ({"sampler": {"steps": 0}}, "sampler.steps"),
        ({"sampler": {"sigma_max": 100.0}}, "outside the denoiser's schedule"),
        ({"sampler": {"sigma_min": 1.0, "sigma_max": 0.5}}, "smaller"),
        ({"sampler": {"corrections": 1}, "guidance": {"method": "dps"}}, "no corrections"),
        ({"shape": (2, 3)}, "operator"),
        ({"context": torch.zeros(5, 2)}, "context of 5 frames"),
        ({"slabs": 2}, "2 time slabs for 1 ranks"),
        ({"coarse": assimilation.Coarse(1, 3)}, "coarse step of 1"),
    ],
)
def test_settings(change, message):
    with pytest.raises(BadInput, match=message):
        draw(**change)


def test_likelihood_of_the_user():
    class Mine:
        def sizes(self, frames):
            return [2] * len(frames)

        def y(self, frames):
            return torch.zeros(2 * len(frames))

        def operator(self, x, frames):
            return x.flatten(2)[:, :, :3].flatten(1)

        def covariance(self, v, frames):
            return v

    with pytest.raises(BadInput, match=r"operator gives .* for 2 observations"):
        draw(likelihood=Mine())
    with pytest.raises(BadInput, match="sda needs the likelihood's variance"):
        Mine.operator = lambda self, x, frames: x.flatten(2)[:, :, :2].flatten(1)
        draw(likelihood=Mine(), guidance={"method": "sda"})
    assert torch.isfinite(draw(likelihood=Mine()).x).all()


def test_denoiser_of_another_shape():
    class Wrong(Net):
        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(mean=x_t[:, 1:])

    with pytest.raises(BadInput, match="denoiser maps"):
        draw(denoiser=Wrong())


def test_nan_denoiser_is_named():
    class Broken(Net):
        def forward(self, x_t, t, **kwargs):
            mean = super().forward(x_t, t).mean
            if self.schedule.sigma(t) < 1:
                mean = mean.clone()
                mean[:, -1] = math.nan
            return DiracPosterior(mean=mean)

    with pytest.raises(assimilation.Diverged, match=r"member 0, frame 3, step 2, sigma 0\.01"):
        draw(denoiser=Broken())


class Negative(Net):
    r"""A denoiser whose Jacobian is negative at large noise."""

    def forward(self, x_t, t, **kwargs):
        sigma = self.schedule.sigma(t)
        return DiracPosterior(mean=x_t / (1 + sigma**2) * (-1.0 if sigma > 10 else 1.0))


@pytest.mark.parametrize("scope", ["trajectory", "window"])
@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_divergence_is_named_and_falls_back(scope, solver):
    guidance = {"scope": scope, "solver": solver, "limit": 3.0}
    result = draw(denoiser=Negative(), guidance=guidance, sampler={"steps": 6})
    assert torch.isfinite(result.x).all() and float(result.x.abs().max()) < 10
    if solver == "cg":  # GMRES solves indefinite systems
        events = result.diagnostics["events"]
        assert events and all(e["sigma"] > 10 for e in events)
        assert {e["member"] for e in events} == {0, 1}
        assert all("isotropic" in e["instead"] for e in events)
    healthy = draw(guidance=guidance, sampler={"steps": 6})
    assert healthy.diagnostics["events"] == []


def test_a_direct_solve_leaves_out_what_is_not_positive():
    told = {"scope": "window", "solver": "direct", "limit": 3.0}
    result = draw(denoiser=Negative(), guidance=told, sampler={"steps": 6})
    assert torch.isfinite(result.x).all() and float(result.x.abs().max()) < 10
    events = result.diagnostics["events"]
    assert {e["member"] for e in events} == {0, 1} and all(e["sigma"] > 10 for e in events)
    assert all(e["instead"] == "it was left out" for e in events)
    assert draw(guidance=told, sampler={"steps": 6}).diagnostics["events"] == []
    with pytest.raises(BadInput, match=r"solver: direct goes with scope: window"):
        draw(guidance=told | {"scope": "trajectory"}, sampler={"steps": 6})


def test_a_step_of_dps_that_goes_too_far_is_named_and_replaced():
    far = {"method": "dps", "strength": 1e4, "limit": 5.0}
    result = draw(guidance=far, sampler={"steps": 12})
    events = result.diagnostics["events"]
    assert {e["member"] for e in events} == {0, 1} and events[0]["step"] <= 3
    assert all(e["instead"] == "isotropic covariance" for e in events)
    assert torch.isfinite(result.x).all() and float(result.x.abs().max()) < 10
    lost = draw(guidance=far | {"limit": 1e9}, sampler={"steps": 12})
    assert float(lost.x.abs().max()) > 100  # what it comes to without
    healthy = draw(guidance={"method": "dps", "strength": 0.5}, sampler={"steps": 12})
    assert healthy.diagnostics["events"] == []


def test_windows():
    assert cover(49, 9, 5) == [(a, a + 9) for a in range(0, 41, 4)]
    assert cover(10, 4, 2) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert cover(11, 4, 2)[-2:] == [(6, 10), (7, 11)]  # the last one is shifted back
    assert cover(3, 8, 2) == [(0, 3)]
    for length, window, overlap in [(11, 4, 2), (24, 8, 5), (30, 7, 1)]:
        kept = middles(cover(length, window, overlap))
        assert [f for a, b in kept for f in range(a, b)] == list(range(length))


@pytest.mark.parametrize("rule", ["center", "junction"])
@pytest.mark.parametrize("coarse", [None, assimilation.Coarse(4, 4, 2)])
def test_weights_of_every_frame_sum_to_one(rule, coarse):
    for length, window, overlap in [(26, 5, 3), (25, 9, 7), (9, 4, 1)]:
        total = np.zeros(length)
        for term in compose(rule, length, window, overlap, coarse):
            for f, c in zip(term.frames, term.weights, strict=True):
                total[f] += c
        assert np.array_equal(total, np.ones(length))


@pytest.mark.parametrize("kind", [Host, Direct])
def test_buffers_are_copies(kind):
    # `test_assimilation_ranks.py` sends both.
    x = torch.arange(12.0).view(3, 4)
    out = kind.outgoing(x[:, 1:3].T)
    x.zero_()
    assert np.array_equal(np.asarray(out), [[1, 5, 9], [2, 6, 10]]) and out.nbytes == 24
    got = kind.incoming(x, (2, 3))
    got[:] = out
    assert torch.equal(kind.arrived(got, x), torch.tensor([[1.0, 5, 9], [2, 6, 10]]))


def test_buffers_are_chosen_by_name():
    assert buffers({}) is Host and buffers({"HPCINV_MPI_BUFFERS": "direct"}) is Direct
    with pytest.raises(BadInput, match=r"HPCINV_MPI_BUFFERS.*'gpu'.*host or direct"):
        buffers({"HPCINV_MPI_BUFFERS": "gpu"})


def test_partition():
    terms = compose("junction", 40, 8, 4)
    for slabs in (1, 2, 3, 7, 50):
        got = owners(terms, slabs)
        assert got == sorted(got) and set(got) <= set(range(slabs))
        load = np.bincount(got, [len(t.frames) for t in terms], slabs)
        assert load.max() <= load.sum() / slabs + 8
    parts = [Partition.of(r, 8, 6) for r in range(8)]
    assert parts[0].groups == 4 and parts[0].slabs == 2
    shares = [p.members(range(6)) for p in parts if p.slab == 0]
    assert sorted(m for s in shares for m in s) == list(range(6))
    with pytest.raises(BadInput, match="4 member groups for 3 members"):
        Partition.of(0, 4, 3, slabs=1)
