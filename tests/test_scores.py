"""Metrics against formulas written out point by point."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from conftest import LEVELS
from forecastbook import scores

nan = np.nan


@pytest.fixture
def data():
    draw = np.random.default_rng(3)
    y = draw.normal(5, 3, (6, 4))
    y[draw.random(y.shape) < 0.3] = nan
    q = np.sort(draw.normal(5, 3, (6, 4, 5)), axis=-1)
    return y, q


def loop_pinball(y, q, level):
    return level * (y - q) if y >= q else (1 - level) * (q - y)


def test_pinball_is_the_check_function_of_each_point_and_level(data):
    y, q = data
    got = scores.pinball(y, q, LEVELS)
    assert got.shape == (6, 4, 5)
    for n, h, k in np.ndindex(got.shape):
        if np.isnan(y[n, h]):
            assert np.isnan(got[n, h, k])
        else:
            assert got[n, h, k] == pytest.approx(loop_pinball(y[n, h], q[n, h, k], LEVELS[k]), rel=1e-12)


def test_wql_is_twice_the_mean_pinball_over_the_mean_size(data):
    y, q = data
    seen = [(n, h) for n, h in np.ndindex(y.shape) if not np.isnan(y[n, h])]
    loss = np.mean([loop_pinball(y[i], q[i][k], LEVELS[k]) for i in seen for k in range(5)])
    assert scores.wql(y, q, LEVELS) == pytest.approx(2 * loss / np.mean([abs(y[i]) for i in seen]), rel=1e-12)
    assert math.isnan(scores.wql(np.zeros((2, 2)), q[:2, :2], LEVELS))


def test_winkler_adds_a_twentieth_level_penalty_per_unit_outside():
    y, lower, upper = np.array([5, 0, 12, 2, 10, nan]), 2.0, 10.0
    np.testing.assert_allclose(scores.winkler(y, lower, upper), [8, 8 + 2 / 0.05, 8 + 2 / 0.05, 8, 8, nan])
    np.testing.assert_allclose(scores.winkler([0.0, 11.0], 2.0, 10.0, levels=(0.1, 0.8)), [8 + 2 / 0.1, 8 + 1 / 0.2])


def test_a_price_as_small_as_its_slack_is_not_covered_by_any_band():
    assert scores.covered(3e-9, 2.1e-9, 2.2e-9) == 0 and scores.covered(0.0, 0.0, 0.0) == 1


def test_covered_counts_the_bounds_and_leaves_out_what_was_not_seen():
    np.testing.assert_array_equal(scores.covered([1, 2, 3, 4, nan], 2, 3), [0, 1, 1, 0, nan])
    np.testing.assert_array_equal(scores.covered(9.99, [9.990000000000002, 9.9901], 12), [1, 0])


def test_relative_divides_each_series_by_its_own_last_price():
    error = np.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(scores.relative(error, [2.0, -4.0]), np.stack([error[0] / 2, error[1] / 4]))
    np.testing.assert_array_equal(scores.relative(error[0], [[1.0, 2.0], [1, 2], [1, 2]]), error[0] / [1, 2])
    assert np.isnan(scores.relative(np.ones((3, 2)), [0.0, nan, 1.0])[:2]).all()
    np.testing.assert_array_equal(scores.relative(np.ones(2), 2.0), [0.5, 0.5])


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.1, 8))
def test_the_weighted_harmonic_mean_is_one_over_the_weighted_mean_of_inverses(zero, nonzero, beta):
    """beta^2 weighs the non-zero group: (beta^2 + 1) / (beta^2 / nonzero + 1 / zero)."""
    wanted = (beta**2 + 1) / (beta**2 / nonzero + 1 / zero)
    assert scores.weighted_harmonic(zero, nonzero, beta) == pytest.approx(wanted, rel=1e-9)
    low, high = sorted((zero, nonzero))
    assert low * (1 - 1e-9) <= scores.weighted_harmonic(zero, nonzero, beta) <= high * (1 + 1e-9)


def test_the_weighted_harmonic_mean_of_nothing_is_nothing():
    assert scores.weighted_harmonic(0.0, 0.0, 4.0) == 0.0 == scores.weighted_harmonic(0.0, 1.0, 4.0)
    assert np.isnan(scores.weighted_harmonic(np.nan, 0.25, 4.0)) and np.isnan(scores.weighted_harmonic(0.25, np.nan, 4.0))


def test_miws_and_mic_split_zero_from_nonzero_actuals():
    y = np.array([[0.0, 0.0, nan], [5.0, 20.0, 3.0]])
    lower, upper = np.array([[0.0, 1.0, 0.0], [2.0, 2.0, 2.0]]), np.full((2, 3), 10.0)
    widths = scores.miws(y, lower, upper)
    zero, nonzero = np.mean([10, 9 + 1 / 0.05]), np.mean([8, 8 + 10 / 0.05, 8])
    assert widths["zero"] == pytest.approx(zero) and widths["nonzero"] == pytest.approx(nonzero)
    assert widths["all"] == pytest.approx((2 * zero + 3 * nonzero) / 5)
    assert widths["combined"] == pytest.approx(17 * zero * nonzero / (16 * zero + nonzero))
    inside = scores.mic(y, lower, upper)
    assert (inside["zero"], inside["nonzero"], inside["all"]) == pytest.approx((1 / 2, 2 / 3, 3 / 5))
    assert inside["combined"] == pytest.approx(17 * (1 / 2) * (2 / 3) / (16 / 2 + 2 / 3))


@pytest.mark.parametrize("metric", [scores.miws, scores.mic])
def test_an_empty_group_leaves_the_other_one(metric):
    only_zero, only_more = metric(np.zeros(3), np.zeros(3), np.ones(3)), metric(np.full(3, 2.0), np.zeros(3), np.ones(3))
    assert math.isnan(only_zero["nonzero"]) and only_zero["combined"] == only_zero["zero"]
    assert math.isnan(only_more["zero"]) and only_more["combined"] == only_more["nonzero"]
    nothing = metric(np.full(3, nan), np.zeros(3), np.ones(3))
    assert all(math.isnan(v) for v in nothing.values())


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.2, 0.2000001, 0.5, 0.9, 1.0])), min_size=1, max_size=40))
def test_average_precision_is_that_of_scikit_learn(points):
    event, p = (np.array(column, float) for column in zip(*points, strict=True))
    if event.any():
        assert scores.average_precision(event, p) == pytest.approx(average_precision_score(event, p), rel=1e-12)
    else:
        assert math.isnan(scores.average_precision(event, p))


def test_average_precision_leaves_unknown_points_out():
    event, p = [[1, 0, nan], [1, 0, 1]], [[0.9, 0.8, 0.99], [0.1, nan, 0.7]]
    assert scores.average_precision(event, p) == pytest.approx(average_precision_score([1, 0, 1, 1], [0.9, 0.8, 0.1, 0.7]))


def test_nothing_observed_scores_nothing_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(scores.wql(np.full((2, 2), nan), np.ones((2, 2, 5)), LEVELS))
        assert math.isnan(scores.average_precision([nan], [0.1]))


def test_a_change_is_more_than_half_a_percent_in_log():
    last = np.array([100.0, 100.0, 100.0, nan, 0.0])
    y = np.array([[100.4, 100.6], [99.6, 99.4], [nan, -1.0], [1.0, 2.0], [0.0, 1.0]])
    np.testing.assert_array_equal(scores.changed(y, last), [[0, 1], [0, 1], [nan, 1], [nan, nan], [0, 1]])


@given(st.floats(0.01, 1e6), st.floats(0.5, 2), st.floats(0.01, 1000))
def test_a_change_does_not_depend_on_the_currency(last, ratio, factor):
    if abs(abs(math.log(ratio)) - scores.CHANGED) > 1e-9:
        a, b = (scores.changed(np.array([[last * ratio * f]]), np.array([last * f]))[0, 0] for f in (1, factor))
        assert a == b == (abs(math.log(ratio)) > 0.005)
