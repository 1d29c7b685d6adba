r"""Exact sums, against `math.fsum` and rationals, over any order and any split."""

import math
from fractions import Fraction

import numpy as np
import pytest

from hpcinv.assimilation.exact_sum import LIMBS, limbs, value


@pytest.mark.parametrize("spread", [1, 40, 300])
def test_sums_are_those_of_fsum_in_any_order_and_split(spread):
    rng = np.random.default_rng(spread)
    x = rng.standard_normal((3, 1001)) * 2.0 ** rng.integers(-spread, spread, (3, 1001))
    want = [math.fsum(row) for row in x]
    assert value(limbs(x)).tolist() == want
    assert value(limbs(x[:, rng.permutation(1001)])).tolist() == want
    cuts = np.sort(rng.integers(0, 1002, 6))
    parts = [limbs(p) for p in np.split(x, cuts, axis=1)]
    assert value(sum(parts)).tolist() == want
    # what the order of frames would have given differs, or the test tells nothing
    assert value(limbs(x)).tolist() != [sum(row) for row in x.tolist()]


def test_the_ends_of_the_range():
    tiny, large = 5e-324, 1.7976931348623157e308
    x = np.array([[large, -large, tiny, tiny], [large, tiny, -tiny, 0.0], [-tiny, 1.0, 0, -1.0]])
    assert value(limbs(x)).tolist() == [2 * tiny, large, -tiny]
    both = limbs(np.array([[large, large]]))
    assert both.shape == (1, LIMBS) and value(both)[0] == np.inf
    assert value(-both)[0] == -np.inf
    exact = sum(Fraction(v) for v in (1e300, 1e-300, -1e300))
    assert value(limbs(np.array([[1e300, 1e-300, -1e300]])))[0] == float(exact)


def test_what_is_not_finite_stays_so_and_nothing_is_nothing():
    x = np.array([[1.0, np.inf], [np.nan, 2.0], [1.0, 2.0]])
    assert np.isnan(value(limbs(x))).tolist() == [True, True, False]
    assert value(limbs(np.zeros((2, 0)))).tolist() == [0.0, 0.0]
