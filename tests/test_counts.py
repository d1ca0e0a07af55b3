"""The language of sales: what speaks of demand, how items are classed, and quantiles of counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conftest import LEVELS, panel_of
from forecastbook import counts

nan = np.nan


def test_a_stock_out_is_no_demand_of_zero():
    panel = panel_of([[0.0, 0.0, 3.0, 2.0, nan]], freq="W-MON")
    panel = replace(panel, available=np.array([[True, False, False, True, False]]))
    np.testing.assert_array_equal(counts.sold(panel), [[0, nan, 3, 2, nan]])
    np.testing.assert_array_equal(panel.y, [[0, 0, 3, 2, nan]], "the panel is left as it was")


@given(st.data())
def test_what_can_be_learnt_from_has_a_life_before_it_and_something_known_after_it(data):
    N, T, H = (data.draw(st.integers(1, most)) for most in (3, 12, 4))
    known = np.array(data.draw(st.lists(st.booleans(), min_size=N * T, max_size=N * T))).reshape(N, T)
    wanted = np.zeros((N, T), dtype=bool)
    for n in range(N):
        for t in range(T - H):
            begun = np.flatnonzero(known[n, : t + 1])
            wanted[n, t] = len(begun) and t + 1 - begun[0] >= counts.LEAST and known[n, t + 1 : t + 1 + H].any()
    np.testing.assert_array_equal(counts.learnable(known, H), wanted)


def test_more_returned_than_sold_is_no_negative_demand():
    np.testing.assert_array_equal(counts.sold(panel_of([[-3.0, 2.0, nan]])), [[0, 2, nan]])


def test_intermittency_by_hand():
    adi, cv2 = counts.intermittency(
        panel_of([[nan, 0, 2, 0, 0, 4, 0], [1] * 7, [0] * 7, [nan] * 7, [0] * 6 + [5], [1, 0, 3, 0, 5, 0, 0]])
    )
    np.testing.assert_allclose(adi, [3, 1, nan, nan, 7, 7 / 3])
    np.testing.assert_allclose(cv2, [2 / 9, 0, nan, nan, 0, 4 / 9])


def test_every_class_has_its_corner():
    rare = np.zeros(12)
    rare[[2, 5, 8]] = 2
    lumpy = rare.copy()
    lumpy[5] = 20
    steady = np.full(12, 3.0)
    erratic = np.where(np.arange(12) % 3 == 0, 20, 1.0)
    found = counts.demand_class(panel_of([steady, erratic, rare, lumpy, np.zeros(12)]))
    assert [counts.CLASSES[k] for k in found] == ["smooth", "erratic", "intermittent", "lumpy", "silent"]


def test_classes_know_only_the_past():
    y = np.random.default_rng(0).poisson(0.7, (20, 40)).astype(float)
    panel = panel_of(y, freq="W-MON")
    y[:, 30:] = 50
    other = panel_of(y, freq="W-MON")
    at = panel.dates[29]
    np.testing.assert_array_equal(counts.demand_class(panel.until(at)), counts.demand_class(other.until(at)))


@given(st.floats(0.01, 500), st.floats(0, 20))
def test_negative_binomial_keeps_mean_and_variance(mean, extra):
    variance = mean * (1 + extra)
    said = counts.negative_binomial([[mean]], np.array([[variance]]), LEVELS)
    assert said.q.shape == (1, 1, 5) and (np.diff(said.q[0, 0]) >= 0).all() and (said.q == np.rint(said.q)).all()
    if extra > 1e-3:
        p = 1 / (1 + extra)
        law = stats.nbinom(mean / extra, p)
        assert law.mean() == pytest.approx(mean) and law.var() == pytest.approx(variance)
        np.testing.assert_array_equal(said.q[0, 0], law.ppf(LEVELS))
        assert said.zero[0, 0] == pytest.approx(law.pmf(0))


def test_without_more_variance_than_mean_it_is_poisson():
    said = counts.negative_binomial(np.array([[0.3, 2.0, 40.0]]), np.array([[0.1, 2.0, 30.0]]), LEVELS)
    np.testing.assert_array_equal(said.q[0], stats.poisson.ppf(LEVELS, np.array([[0.3], [2.0], [40.0]])))
    np.testing.assert_allclose(said.zero[0], np.exp([-0.3, -2.0, -40.0]), rtol=1e-3)


def test_a_mean_of_zero_sells_nothing():
    said = counts.negative_binomial(np.zeros((2, 3)), np.ones((2, 3)), LEVELS)
    assert not said.q.any() and (said.zero > 0.999).all()
