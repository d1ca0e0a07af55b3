"""Conformal widening: what is promised is kept on the record, and quantiles stay in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import LEVELS
from forecastbook import intervals

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6)), elements=finite))
def test_tidy_quantiles_never_cross_and_never_fall_below_the_floor(q):
    got = intervals.tidy(q)
    assert got.shape == q.shape and (np.diff(got, axis=-1) >= 0).all() and (got >= 0).all()
    free = intervals.tidy(q, floor=None)
    assert (np.diff(free, axis=-1) >= 0).all() and np.array_equal(np.sort(q.ravel()), np.sort(free.ravel()))
    np.testing.assert_array_equal(intervals.tidy(got), got)


def test_pairs_are_the_central_intervals_widest_first():
    assert intervals.pairs(LEVELS) == [(0, 4), (1, 3)]
    assert intervals.pairs([0.05, 0.1, 0.5, 0.95]) == [(0, 3)]
    assert intervals.pairs([0.5]) == [] == intervals.pairs([0.1, 0.2, 0.5])
    assert intervals.pairs([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.95]) == [(0, 7), (4, 6)], "more levels below than above"
    assert intervals.pairs([0.025, 0.05, 0.5, 0.95, 0.975]) == [(0, 4), (1, 3)]


def record(seed, M, H, noise):
    draw = np.random.default_rng(seed)
    scale = draw.uniform(0.5, 50, M)
    q = np.sort(draw.normal(0, 1, (M, H, 5)), axis=-1) * scale[:, None, None]
    y = draw.normal(0, noise, (M, H)) * scale[:, None]
    y[draw.random((M, H)) < 0.2] = np.nan
    return y, q, scale


@given(seed=st.integers(0, 10**6), M=st.integers(1, 60), noise=st.sampled_from([0.1, 1.0, 10.0]))
def test_the_widened_band_holds_its_promise_on_the_record(seed, M, noise):
    """Finite sample: at least ceil((n + 1) x promised) of n points lie inside, all of them where that is more than n."""
    y, q, scale = record(seed, M, 3, noise)
    amount = intervals.widening(y, q, scale, LEVELS)
    assert amount.shape == (1, 3, 2) and (amount >= 0).all()
    for p, (i, j) in enumerate(intervals.pairs(LEVELS)):
        slack = 1e-9 * scale[:, None]
        inside = (q[..., i] - amount[0, :, p] * scale[:, None] - slack <= y) & (
            y <= q[..., j] + amount[0, :, p] * scale[:, None] + slack
        )
        for h in range(3):
            seen = np.isfinite(y[:, h])
            wanted = min(math.ceil((seen.sum() + 1) * (0.9, 0.5)[p] - 1e-9), seen.sum())
            assert inside[seen, h].sum() >= wanted
    wide = intervals.widen(q, scale, amount, LEVELS, floor=None)
    holds = (wide[..., 0] - slack <= y) & (y <= wide[..., 4] + slack)
    assert holds.sum() >= math.floor(0.9 * np.isfinite(y).sum() - 1e-9)


def test_the_widening_is_the_smallest_score_that_keeps_the_promise():
    """Scores of one horizon are 1..19: the 90 % band needs the ceil(20 x 0.9) = 18th, the 50 % band the 10th."""
    y, q = np.arange(1.0, 20)[:, None], np.zeros((19, 1, 5))
    np.testing.assert_allclose(intervals.widening(y, q, np.ones(19), LEVELS), [[[18, 10]]])
    np.testing.assert_allclose(intervals.widening(y * 7, q, np.full(19, 7.0), LEVELS), [[[18, 10]]])


@pytest.mark.parametrize("n", [9, 99, 999])
def test_the_rank_is_exact_where_the_difference_of_two_levels_is_not(n):
    """.8 - .2 is a little more than .6 in floats: of n scores the .6 (n + 1)-th is wanted, not the next one."""
    y, q = np.arange(1.0, n + 1)[:, None], np.zeros((n, 1, 3))
    found = intervals.widening(y, q, np.ones(n), [0.2, 0.5, 0.8])
    assert found[0, 0, 0] == round(0.6 * (n + 1))


def test_a_group_that_was_never_met_takes_the_widening_of_all():
    y, q = np.repeat([5.0, 50.0], intervals.POOL)[:, None], np.full((2 * intervals.POOL, 1, 3), 5.0)
    found = intervals.widening(y, q, np.ones(len(y)), [0.05, 0.5, 0.95], np.repeat([0, 1], intervals.POOL), groups=4)
    assert found.shape == (4, 1, 1) and found[:, 0, 0].tolist() == [0, 45, 45, 45]


def test_prices_that_stay_put_are_not_widened():
    q = np.full((30, 2, 5), 9.99)
    np.testing.assert_array_equal(intervals.widening(np.full((30, 2), 9.99), q, np.full(30, 9.99), LEVELS), 0)


def test_a_band_that_holds_too_much_is_not_cut():
    q = np.broadcast_to(np.array([-9.0, -8, 0, 8, 9]), (40, 2, 5))
    np.testing.assert_array_equal(intervals.widening(np.zeros((40, 2)), q, np.ones(40), LEVELS), 0)


def test_a_horizon_without_a_point_is_left_alone():
    y = np.column_stack([np.full(9, 5.0), np.full(9, np.nan)])
    got = intervals.widening(y, np.zeros((9, 2, 5)), np.ones(9), LEVELS)
    assert (got[0, 0] == 5).all() and (got[0, 1] == 0).all()


@given(seed=st.integers(0, 10**6), amount=st.floats(0, 5), more=st.floats(0, 5))
def test_more_widening_never_gives_a_narrower_band(seed, amount, more):
    _, q, scale = record(seed, 5, 2, 1.0)
    small, large = (intervals.widen(q, scale, np.full((1, 2, 2), a), LEVELS, floor=None) for a in (amount, amount + more))
    assert (large[..., :2] <= small[..., :2]).all() and (large[..., 3:] >= small[..., 3:]).all()
    np.testing.assert_array_equal(large[..., 2], small[..., 2])
    assert (np.diff(large, axis=-1) >= 0).all()
    floored = intervals.widen(q, scale, np.full((1, 2, 2), amount), LEVELS)
    assert (floored >= 0).all()


def test_no_widening_leaves_the_quantiles_and_the_given_array_alone():
    _, q, scale = record(1, 4, 2, 1.0)
    before = q.copy()
    np.testing.assert_array_equal(intervals.widen(q, scale, np.zeros((1, 2, 2)), LEVELS, floor=None), before)
    intervals.widen(q, scale, np.ones((1, 2, 2)), LEVELS)
    np.testing.assert_array_equal(q, before)


# ---- groups


def test_each_group_is_calibrated_on_its_own_where_it_has_enough_points():
    """Errors of 1 in one group and 5 in the other: each gets its own; the third, too small, what holds for all."""
    n = intervals.POOL
    group = np.repeat([0, 1, 2], [n, n, 9])
    y = np.select([group == 0, group == 1], [1.0, 5.0], 50.0)[:, None]
    got = intervals.widening(y, np.zeros((len(y), 1, 5)), np.ones(len(y)), LEVELS, group)
    assert got.shape == (3, 1, 2)
    assert (got[0] == 1).all() and (got[1] == 5).all()
    np.testing.assert_array_equal(got[2], intervals.widening(y, np.zeros((len(y), 1, 5)), np.ones(len(y)), LEVELS)[0])
    few = intervals.widening(y[1:], np.zeros((len(y) - 1, 1, 5)), np.ones(len(y) - 1), LEVELS, group[1:])
    np.testing.assert_array_equal(few[0], few[2], err_msg="one point short of its own")


def test_each_series_is_widened_by_the_amount_of_its_group():
    amount = np.arange(8.0).reshape(2, 2, 2)  # (G, H, P)
    q, scale, group = np.zeros((3, 2, 5)), np.array([1.0, 2.0, 1.0]), np.array([1, 0, 0])
    wide = intervals.widen(q, scale, amount, LEVELS, group, floor=None)
    for n in range(3):
        alone = intervals.widen(q[n : n + 1], scale[n : n + 1], amount[group[n]][None], LEVELS, floor=None)
        np.testing.assert_array_equal(wide[n], alone[0])
    np.testing.assert_array_equal(wide[1, 1], [-6, -6, 0, 6, 6], err_msg="h=2: .05/.95 by 2, .25/.75 by 3, x 2: never in")
    np.testing.assert_array_equal(intervals.widen(q, scale, amount, LEVELS, floor=None)[0], wide[2], err_msg="None: the first")
