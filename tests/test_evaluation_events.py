"""Scores of events: a table counted by hand, and what a fair score is."""

import numpy as np
import pytest

from hpcinv.evaluation.event_intervals import intervals, resampled
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


def case(frames, hit=0.7, seed=0, last=1):
    """One place: an event in 40% of frames, told in `hit` of these and in 10% of the others."""
    rng = np.random.default_rng(seed)
    o = rng.random(frames) < 0.4
    told = rng.random(frames) < np.where(o, hit, 0.1)
    o, told = np.repeat(o, last), np.repeat(told, last)
    return np.where(told, 0.0, 1.0)[None, :, None], np.where(o, 0.0, 1.0)[:, None], o.sum()


def test_a_block_of_the_whole_period_leaves_the_scores_as_they_are():
    rng = np.random.default_rng(1)
    members, truth, w = rng.random((4, 12, 5)), rng.random((12, 5)), np.array([1.0, 2, 0, 1, 3])
    other = rng.random((4, 12, 5))
    found = intervals({"a": members, "b": other}, truth, 0.5, w, "b", block=12, draws=20)["a"]
    e, f = (events(x, truth, 0.5, w) for x in (members, other))
    exact = {"base": e.base, "detection": e.detection, "precision": e.precision,
             "brier": e.brier, "skill": e.skill(f)}  # fmt: skip
    for name, value in exact.items():
        assert found[name] == pytest.approx((value, value)), name


def test_of_independent_frames_the_interval_is_the_binomials():
    members, truth, n = case(3000)
    low, high = intervals({"a": members}, truth, 0.5, np.ones(1), "a", block=1)["a"]["detection"]
    assert high - low == pytest.approx(2 * 1.645 * np.sqrt(0.7 * 0.3 / n), rel=0.1)


def test_what_lasts_is_counted_once_by_long_blocks():
    # Each state lasts eight frames: an eighth as many events are independent.
    members, truth, n = case(800, last=8)
    width = {}
    for block in (1, 64):
        low, high = intervals({"a": members}, truth, 0.5, np.ones(1), "a", block=block)["a"][
            "detection"
        ]
        width[block] = (high - low) / (2 * 1.645 * np.sqrt(0.7 * 0.3 / n))
    assert width[1] == pytest.approx(1, rel=0.1)
    assert width[64] == pytest.approx(np.sqrt(8), rel=0.12)


def test_draws_have_as_many_frames_and_are_keyed():
    a = resampled(10, 3, 50, 0)
    assert (a.sum(1) == 10).all() and (a == resampled(10, 3, 50, 0)).all()
    assert (a != resampled(10, 3, 50, 1)).any()
