"""The protocol of simulators: keys, priors, names."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hpcinv.diffusion import many
from hpcinv.errors import BadInput
from hpcinv.simulators import make
from hpcinv.simulators.base import Axis, Key, Output, Parameter, Prior

PRIOR = Prior([Parameter("T", 500, 2500, "K"), Parameter("k", 1e-4, 10, "m2 kg-1", "log")])


class Toy:
    """theta -> mean of a Gaussian; a simulator of one's own."""

    batched = True

    def __init__(self, size: int = 3):
        self.prior = PRIOR
        self.outputs = Output("y", "1", (Axis("place", "1", range(size)),))

    def simulate(self, theta, key):
        return theta[:, :1] + key.normal("toy", self.outputs.shape)


def test_philox_gives_the_published_words():
    """Known answers of Random123's philox4x32-10."""
    ones = 0xFFFFFFFF
    counters = np.array([[0, ones], [0, ones], [0, ones], [0, ones]], np.uint64)
    zero = many.philox(counters[:, :1], (0, 0))[:, 0]
    full = many.philox(counters[:, 1:], (ones, ones))[:, 0]
    assert [f"{w:08x}" for w in zero] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert [f"{w:08x}" for w in full] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


def test_a_draw_belongs_to_the_simulation_alone():
    whole = Key(7, range(100))
    x = whole.normal("flow", (2, 3))
    parts = [whole[:37], Key(7, range(37, 90)), Key(7, [*range(90, 99)]), whole[99]]
    assert torch.equal(x, torch.cat([k.normal("flow", (2, 3)) for k in parts]))
    other = [Key(8, range(100)), whole.again(1)]
    assert all(not torch.equal(x, k.normal("flow", (2, 3))) for k in other)
    assert not torch.equal(x, whole.normal("other", (2, 3)))
    a, b = (Key(7, ids)[i].generator("g").random(4) for ids, i in ((range(9), 5), ([5], 0)))
    assert np.array_equal(a, b)
    z = Key(0, range(20_000)).normal("n", (5,), torch.float64).flatten()
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3


def test_samples_follow_the_prior():
    theta = PRIOR.sample(Key(0, range(20_000)))
    assert PRIOR.inside(theta).all()
    assert stats.kstest(theta[:, 0].numpy(), stats.uniform(500, 2000).cdf).pvalue > 1e-3
    assert stats.kstest(theta[:, 1].numpy(), stats.loguniform(1e-4, 10).cdf).pvalue > 1e-3


def test_log_prob_is_scipys():
    theta = torch.tensor([[600.0, 2.0], [2499.0, 1e-3], [499.0, 1.0], [600.0, 11.0]]).double()
    exact = stats.uniform(500, 2000).logpdf(theta[:, 0]) + stats.loguniform(1e-4, 10).logpdf(
        theta[:, 1]
    )
    np.testing.assert_allclose(PRIOR.log_prob(theta), exact, rtol=1e-12)
    assert PRIOR.inside(theta).tolist() == [True, True, False, False]
    corners = torch.tensor([[500.0, 1e-4], [2500.0, 10.0]])  # as float32 rounds them
    assert PRIOR.inside(corners).all()


def test_unbounded_parameters_are_logistic_and_come_back():
    theta = PRIOR.sample(Key(1, range(2000))).double()
    z = PRIOR.to_unbounded(theta)
    torch.testing.assert_close(PRIOR.from_unbounded(z), theta, rtol=1e-9, atol=0)
    logistic = torch.from_numpy(stats.logistic.logpdf(z.numpy()).sum(axis=-1))
    torch.testing.assert_close(logistic + PRIOR.log_det(theta), PRIOR.log_prob(theta))
    at = theta[:5].requires_grad_()
    slopes = torch.autograd.functional.jacobian(PRIOR.to_unbounded, at)
    exact = torch.stack([slopes[i, :, i].det().abs().log() for i in range(5)])
    torch.testing.assert_close(exact, PRIOR.log_det(at).detach())
    assert PRIOR.to_unbounded(torch.tensor([[500.0, 10.0]])).isfinite().all()
    back = torch.autograd.functional.jacobian(PRIOR.from_unbounded, z[:1])
    torch.testing.assert_close(back[0, :, 0].det().abs().log(), -PRIOR.log_det(theta[:1])[0])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("T", 2, 1, "K"), r"prior of 'T': low \(2\) is not below high \(1\)"),
        (("T", 1, 1, "K"), "is not below"),
        (("T", 1, 2, ""), "prior of 'T': the unit is missing.*'unit: K'"),
        (("T", 1, 2, None), "unit is missing"),
        (("T", math.nan, 2, "K"), "low is nan"),
        (("T", 1, math.inf, "K"), "high is inf"),
        (("T", 1, "2", "K"), "high is '2', no number"),
        (("T", 0, 2, "K", "log"), "log scale from 0"),
        (("T", 1, 2, "K", "lin"), "scale is 'lin'"),
        (("", 1, 2, "K"), "no name"),
    ],
)
def test_bad_parameters_are_named(fields, said):
    with pytest.raises(BadInput, match=said) as e:
        Parameter(*fields)
    assert str(e.value)


def test_two_of_one_name():
    with pytest.raises(BadInput, match="two parameters are called 'a'"):
        Prior([Parameter("a", 0, 1, "1")] * 2)


def test_a_job_file_changes_bounds():
    toy = make(f"{__name__}:Toy", {"size": 2}, {"T": {"low": 100, "high": 200, "unit": "K"}})
    assert toy.outputs.shape == (2,)
    assert (toy.prior.parameters[0].low, toy.prior.parameters[0].high) == (100, 200)
    assert toy.prior.parameters[1] == PRIOR.parameters[1]
    for change, said in [
        (
            {"t": {"low": 1, "high": 2, "unit": "K"}},
            "prior of 't': no such parameter. Known: T, k",
        ),
        ({"T": {"low": 1, "high": 2}}, "prior of 'T': the unit is missing"),
        ({"T": {"low": 1, "unit": "degC"}}, "the unit is 'degC'. The simulator takes 'K'"),
        ({"T": {"lwo": 1, "unit": "K"}}, "unknown field 'lwo'. Did you mean 'low'"),
        ({"T": {"low": 3000, "unit": "K"}}, "low .3000. is not below high .2500."),
    ]:
        with pytest.raises(BadInput, match=said):
            make(f"{__name__}:Toy", prior=change)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nonesuch", {}, "no such simulator.*package.module:Name"),
        ("no.such.module:Toy", {}, "'no.such.module' cannot be imported"),
        (f"{__name__}:Toi", {}, "Did you mean 'Toy'"),
        (f"{__name__}:Toy", {"sise": 3}, "no option 'sise'. Did you mean 'size'"),
        (f"{__name__}:PRIOR", {}, "no class or function"),
        ("collections:OrderedDict", {}, "'OrderedDict' is no simulator"),
        ("fractions:Fraction", {}, "it has no 'prior'"),
    ],
)
def test_names_that_lead_nowhere(name, options, said):
    with pytest.raises(BadInput, match=said):
        make(name, options)
