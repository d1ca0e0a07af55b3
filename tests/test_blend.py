"""The blend: weights and level from what has finished, means over members, whole numbers last."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import LEVELS
from forecastbook import blend, scores
from forecastbook.blend import Finished, combine, level, weights, whole
from forecastbook.counts import Demand, negative_binomial

nan = np.nan
N, H = 40, 4
NAMES = ("imapa", "gbm")


def demand(mean, spread=1.0):
    mean = np.asarray(mean, float)
    return negative_binomial(mean, mean * (1 + spread), LEVELS)


def origin(seed, good="gbm", off=2.0, factor=1.0):
    """A finished origin: one member knows the rate, the other says ``off`` times it; demand is ``factor`` times the rate."""
    draw = np.random.default_rng(seed)
    rate = draw.gamma(2, 6, (N, 1)).repeat(H, 1)
    said = {name: demand(rate if name == good else rate * off) for name in NAMES}
    return Finished(draw.poisson(rate * factor).astype(float), said)


def test_before_anything_has_finished_the_prior_stands():
    start = weights([], NAMES, LEVELS)
    np.testing.assert_allclose(start["imapa"], [0.01, 0.05, 0.1, 0.15, 0.19])
    np.testing.assert_allclose(start["imapa"] + start["gbm"], 1)
    np.testing.assert_array_equal(weights([], ("imapa",), LEVELS)["imapa"], np.ones(5))
    three = weights([], ("imapa", "gbm", "tide"), LEVELS)
    np.testing.assert_allclose(sum(three.values()), 1)
    np.testing.assert_allclose(three["tide"], 0.4 / 1.4)
    assert level([], {"imapa": 1.0}, LEVELS) == (1.0, 1.0)


def test_a_quantile_up_to_which_nothing_is_sold_is_zero():
    """Where one member says 0 and another 40, the mean says 6 at a level at which the blend itself expects nothing."""
    q = np.array([[[0.0, 6.0, 30.0]], [[2.0, 6.0, 30.0]]])
    said = blend.settled(Demand(q, np.full((2, 1), 9.0), np.array([[0.3], [np.nan]])), (0.05, 0.25, 0.5))
    assert said.q.tolist() == [[[0, 0, 30]], [[2, 6, 30]]] and said.zero[0, 0] == 0.3


@pytest.mark.parametrize("off", [2.0, 0.5], ids=["the other says more", "the other says less"])
def test_weights_move_to_the_better_member_with_the_evidence(off):
    to_gbm = [weights([origin(k, off=off) for k in range(n)], NAMES, LEVELS)["gbm"][2] for n in (0, 1, 4, 12)]
    assert to_gbm[0] < to_gbm[1] < to_gbm[2] < to_gbm[3] and to_gbm[3] > 0.9
    to_imapa = [weights([origin(k, "imapa", off) for k in range(n)], NAMES, LEVELS)["imapa"][2] for n in (0, 1, 4, 12)]
    assert to_imapa[0] < to_imapa[1] < to_imapa[2] < to_imapa[3] and to_imapa[3] > 0.7


def test_where_all_said_nothing_would_sell_the_prior_stands():
    none = Demand(np.zeros((N, H, 5)), np.zeros((N, H)), np.ones((N, H)))
    found = weights([Finished(np.zeros((N, H)), dict.fromkeys(NAMES, none))], NAMES, LEVELS)
    np.testing.assert_allclose(found["gbm"], blend.prior(NAMES, LEVELS)["gbm"])


def test_the_search_finds_the_tilt_that_a_grid_finds():
    told = [origin(3, off=0.5), origin(4, "imapa", off=1.4)]
    parts = [blend._stacked(f, NAMES) for f in told]
    y, q = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    start = np.stack([blend.prior(NAMES, LEVELS)[name] for name in NAMES], axis=1)
    found = blend._least(y, q, start, np.array(LEVELS))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    odds = (found[:, 0] / found[:, 1]) / (start[:, 0] / start[:, 1])
    np.testing.assert_allclose(odds, odds[0], err_msg="one tilt for all levels")

    def loss(tilt):
        w = start * [tilt, 1]
        return scores.pinball(y, (q * (w / w.sum(axis=1, keepdims=True))).sum(axis=-1), LEVELS).sum()

    assert scores.pinball(y, (q * found).sum(axis=-1), LEVELS).sum() <= min(map(loss, np.geomspace(0.01, 100, 201))) * 1.002


def test_an_origin_without_a_member_or_without_actuals_says_nothing():
    lame = origin(0)
    lame = Finished(lame.y, {"gbm": lame.said["gbm"]})
    empty = Finished(np.full((N, H), nan), origin(1).said)
    found = weights([lame, empty], NAMES, LEVELS)
    np.testing.assert_array_equal(found["imapa"], blend.prior(NAMES, LEVELS)["imapa"])
    assert level([Finished(lame.y, {}), lame, empty], {"imapa": 1.0}, LEVELS) == (1.0, 1.0)


def sure(*levels):
    """Finished origins at which all was said to be 50 and another number came."""
    said = demand(np.full((N, H), 50.0), 0.2)
    return [Finished(np.full((N, H), y), {"imapa": said}) for y in levels]


def test_the_level_by_hand():
    found = level(sure(56.0, 54.0, 58.0), {"imapa": 1.0}, LEVELS)
    assert found.mean == pytest.approx(((54 + 58) / 100) ** blend.DAMP)
    assert 1.02 < found.quantiles < 1.12
    assert level(sure(56.0), {"imapa": 1.0}, LEVELS) == (1.0, 1.0), "one origin is no trend"
    assert level(sure(500.0, 500.0, 500.0), {"imapa": 1.0}, LEVELS) == pytest.approx([blend.FACTORS[-1] ** blend.DAMP] * 2)
    assert level(sure(0.0, 0.0, 0.0), {"imapa": 1.0}, LEVELS) == (1.0, 1.0)


def test_one_bulk_order_moves_the_mean_and_not_the_quantiles():
    told = sure(50.0, 50.0, 50.0)
    for f in told:
        f.y[0] = 2000.0
    found = level(told, {"imapa": 1.0}, LEVELS)
    assert found.mean > 1.1 and found.quantiles == pytest.approx(1, abs=0.03)


def test_what_finishes_later_changes_nothing_before():
    told = [origin(k, off=1.5, factor=1.2) for k in range(6)]
    for n in range(6):
        before = told[:n]
        first = weights(before, NAMES, LEVELS)
        spoilt = [*before, *(Finished(f.y * 0 + 999, f.said) for f in told[n:])]
        for name, value in weights(spoilt[:n], NAMES, LEVELS).items():
            np.testing.assert_array_equal(value, first[name])
        assert level(spoilt[:n], first, LEVELS) == level(before, first, LEVELS)


def test_combine_by_hand():
    a = Demand(np.array([[[0.0, 3.0]]]), np.array([[1.5]]), np.array([[0.5]]))
    b = Demand(np.array([[[3.0, 9.0]]]), np.array([[6.0]]), np.array([[0.2]]))
    said = combine({"a": a, "b": b}, {"a": 1 / 3, "b": 2 / 3}, 2.0)
    np.testing.assert_allclose(said.q, [[[4, 14]]])
    assert said.mean[0, 0] == pytest.approx(9) and said.zero[0, 0] == pytest.approx(0.3)


def test_a_series_that_one_member_lacks_is_the_others():
    a, b = demand(np.full((2, 1), 5.0)), demand(np.full((2, 1), 9.0))
    a.q[1], a.mean[1], a.zero[1] = nan, nan, nan
    said = combine({"a": a, "b": b}, {"a": 0.5, "b": 0.5})
    np.testing.assert_allclose(said.q[1], b.q[1])
    assert said.mean.ravel() == pytest.approx([7, 9])
    both = combine({"a": a}, {"a": 1.0})
    assert np.isnan(both.q[1]).all() and np.isnan(both.mean[1]).all()
    with pytest.raises(ValueError, match="none of a has a weight"):
        combine({"a": a}, {"b": 1.0})


def test_whole_rounds_the_quantiles_and_nothing_else():
    said = Demand(np.array([[[0.0, 0.49, 0.5, 1.5, 2.4]]]), np.array([[0.7]]), np.array([[0.5]]))
    out = whole(said)
    np.testing.assert_array_equal(out.q, [[[0, 0, 1, 2, 2]]])
    assert out.mean is said.mean and out.zero is said.zero
    assert np.isnan(whole(Demand(np.full((1, 1, 2), nan), np.full((1, 1), nan), np.full((1, 1), nan))).q).all()


@given(st.integers(0, 10_000), st.floats(0.01, 1), st.floats(0.5, 2))
def test_blended_quantiles_rise_and_lie_between_the_members(seed, share, factor):
    draw = np.random.default_rng(seed)
    a, b = (Demand(np.sort(draw.gamma(1, 5, (3, 2, 5)), axis=2), draw.random((3, 2)), draw.random((3, 2))) for _ in "ab")
    said = combine({"a": a, "b": b}, {"a": share, "b": 1 - share}, factor)
    assert (np.diff(said.q, axis=2) >= 0).all() and (np.diff(whole(said).q, axis=2) >= 0).all()
    assert (said.q >= factor * np.minimum(a.q, b.q) - 1e-9).all() and (said.q <= factor * np.maximum(a.q, b.q) + 1e-9).all()


def test_each_level_has_weights_of_its_own():
    a, b = (Demand(np.full((1, 1, 2), v), np.full((1, 1), v), np.full((1, 1), 0.0)) for v in (0.0, 10.0))
    said = combine({"a": a, "b": b}, {"a": np.array([0.9, 0.5]), "b": np.array([0.1, 0.5])}, blend.Level(2.0, 3.0))
    np.testing.assert_allclose(said.q, [[[2, 10]]])
    assert said.mean[0, 0] == pytest.approx(10 * 0.3 * 3)


def test_the_order_of_the_members_does_not_matter():
    told = [origin(k) for k in range(3)]
    one, two = weights(told, NAMES, LEVELS), weights(told, NAMES[::-1], LEVELS)
    for name in NAMES:
        np.testing.assert_allclose(one[name], two[name])
