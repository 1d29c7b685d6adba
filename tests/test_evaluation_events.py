"""Scores of events: a table counted by hand, and what a fair score is."""

import numpy as np
import pytest

from hpcinv.evaluation.events import events


def test_a_table_counted_by_hand():
    truth = np.array([[50.0, 50.0, 90.0, 90.0, 1.0]])
    # Below 63: 2 of 2, 0 of 2, 1 of 2, 0 of 2 members; the last point has no weight.
    members = np.array([[[10.0, 80, 60, 70, np.nan]], [[20.0, 81, 99, 71, np.nan]]])
    w = np.array([2.0, 1.0, 1.0, 4.0, 0.0])
    found = events(members, truth, 63.0, w)
    assert found.base == pytest.approx(3 / 8)
    assert found.told == pytest.approx((2 + 0.5) / 8)
    assert found.detection == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(2 / 3)  # a half counts as told
    # Squares 0, 1, 1/4, 0; two members' excess at p = 1/2 is 1/4.
    assert found.brier == pytest.approx(1 / 8)
    np.testing.assert_allclose(found.extent, [3])
    np.testing.assert_allclose(found.extents, [[3], [2]])
    never = events(np.full((2, 1, 5), 99.0), truth, 63.0, w)
    assert never.brier == pytest.approx(3 / 8) and np.isnan(never.precision)
    assert found.skill(never) == pytest.approx(2 / 3)


def test_the_score_of_few_members_is_that_of_many():
    # Truth and members of one distribution, P(event) = 0.3: the score is 0.3 * 0.7.
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 1, 400000)), rng.random((1, 400000))
    assert events(x, y, 0.3, np.ones(400000)).brier == pytest.approx(0.21, abs=2e-3)
