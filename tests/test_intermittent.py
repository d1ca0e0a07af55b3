"""The baselines of sales against hand-made numbers, loops of their definitions and another library; and what they may know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import LEVELS, panel_of
from forecastbook import counts, intermittent, scores
from forecastbook.intermittent import forecast
from forecastbook.trades import SALES

BASELINES = SALES.baselines
nan = np.nan
H = 4
RNG = np.random.default_rng(5)


def weekly(y):
    return panel_of(y, freq="W-MON")


def shop(n=60, T=70, seed=0):
    """Counts of slow and fast sellers, ragged starts, a few gaps and stock-outs."""
    draw = np.random.default_rng(seed)
    rate = np.exp(draw.normal(0.3, 1.3, n))[:, None]
    y = draw.negative_binomial(1.5, 1.5 / (1.5 + rate), (n, T)).astype(float)
    y[np.arange(T) < draw.integers(0, 30, n)[:, None]] = nan
    y[draw.random((n, T)) < 0.03] = nan
    y[0] = np.where(np.isnan(y[0]), 0, y[0])
    panel = weekly(y)
    out = (draw.random((n, T)) < 0.05) & (y == 0)
    return replace(panel, available=panel.available & ~out)


@pytest.fixture(scope="module")
def panel():
    return shop()


# ---- points


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_croston_and_tsb_agree_with_another_library(seed, share):
    models = pytest.importorskip("statsforecast.models")
    draw = np.random.default_rng(seed)
    y = draw.poisson(4, (10, 60)) * (draw.random((10, 60)) < share)
    y[:, 7] = 3.0
    for name, other in {"croston_sba": models.CrostonSBA(), "tsb": models.TSB(alpha_d=0.1, alpha_p=0.1)}.items():
        wanted = [other.forecast(y=row.astype(np.float32), h=H)["mean"] for row in y]
        np.testing.assert_allclose(forecast(name, weekly(y), H, LEVELS).mean, wanted, rtol=2e-5, err_msg=name)


def test_smoothing_of_one_level_agrees_with_another_library():
    """IMAPA of items that sell every week and may not be aggregated is simple smoothing from adjusted weights."""
    y = np.r_[RNG.poisson(5, (4, 50)) + 1.0, np.cumsum(RNG.integers(-1, 2, (4, 50)), axis=1) + 60.0]  # noise, and walks
    wanted, best = [], set()
    for row in y:
        fits = []
        for a in intermittent.ALPHAS:
            weights = [a * (1 - a) ** np.arange(t)[::-1] for t in range(1, len(row) + 1)]
            said = [float(w @ row[: len(w)] / w.sum()) for w in weights]
            fits.append((sum((b - s) ** 2 for b, s in zip(row[1:], said[:-1], strict=True)), said[-1]))
        wanted.append(min(fits)[1]), best.add(intermittent.ALPHAS[fits.index(min(fits))])
    np.testing.assert_allclose(intermittent._smoothed(y), wanted)
    assert len(best) > 1, "there is something to choose"


def test_points_by_hand():
    y = weekly([[nan, 0, 4, 0, 0, 2, nan]])
    mean = {name: forecast(name, y, 2, LEVELS).mean[0, 0] for name in BASELINES}
    assert mean["zeros"] == 0 and mean["last_value"] == 2 and mean["moving_average"] == pytest.approx(6 / 5)
    assert mean["historical_quantiles"] == pytest.approx(6 / 5)
    size, interval = 4 + 0.1 * (2 - 4), 2 + 0.1 * (3 - 2)  # sold in the 2nd and, 3 known weeks later, the 5th
    assert mean["croston_sba"] == pytest.approx(0.95 * size / interval)
    p = 0.0
    for sale in (1, 0, 0, 1):
        p += 0.1 * (sale - p)
    assert mean["tsb"] == pytest.approx(size * p)
    assert mean["seasonal_naive"] == 2, "younger than a season: the last value"
    assert 0.5 < mean["imapa"] < 2 and mean["auto_ets"] == pytest.approx(6 / 5)


def test_seasonal_naive_finds_the_week_a_year_ago():
    y = np.arange(60.0)[None]
    np.testing.assert_array_equal(forecast("seasonal_naive", weekly(y), H, LEVELS).mean, [[8, 9, 10, 11]])
    assert forecast("seasonal_naive", weekly(y[:, :52]), 1, LEVELS).mean == 0, "its very first week"
    monthly = panel_of(np.arange(20.0)[None], freq="MS")
    np.testing.assert_array_equal(forecast("seasonal_naive", monthly, 3, LEVELS).mean, [[8, 9, 10]])


def test_blocks_end_at_the_last_period():
    y = np.array([[9, 1, 3, nan, 5, nan, nan]])
    np.testing.assert_allclose(intermittent._blocks(y, 2), [[2, 5, nan]])
    np.testing.assert_allclose(intermittent._blocks(y, 3), [[2, 5]])


def test_aggregation_sees_a_steady_rate_through_the_noise():
    """One unit every fourth week: whatever the week, the rate is a quarter."""
    y = np.zeros((4, 80))
    for k in range(4):
        y[k, k::4] = 1
    assert forecast("imapa", weekly(y), H, LEVELS).mean[:, 0] == pytest.approx([0.25] * 4, abs=0.09)


def test_an_item_is_aggregated_up_to_its_mean_interval_between_sales():
    y = np.array([[0.0, 0, 3, 0, 0, 0]])
    levels = [intermittent._smoothed(intermittent._blocks(y, K))[0] for K in range(1, 7)]
    assert intermittent.imapa(y, "W", 1)[0, 0] == pytest.approx(np.mean(levels)) != pytest.approx(np.mean(levels[:3]))


def test_of_constants_that_err_alike_the_smoothest_is_taken():
    """A steady seller that jumps once: every constant has made the same one error, whatever the size of the shop."""
    y = np.outer(np.arange(1.0, 200), np.r_[np.ones(11), 3.0])
    found = intermittent.imapa(y, "W-MON", 1)[:, 0] / y[:, 0]
    np.testing.assert_allclose(found, found[0], rtol=1e-9)


# ---- quantiles


def test_the_spread_is_that_of_the_last_half_year():
    draw = np.random.default_rng(0)
    wild, calm = draw.poisson(0.3, (30, 60)) * 20.0, draw.poisson(np.linspace(2, 30, 30)[:, None], (30, 26)).astype(float)
    for both, late in zip(intermittent.spread(np.c_[wild, calm], "W"), intermittent.spread(calm, "W"), strict=True):
        np.testing.assert_allclose(both, late, rtol=1e-12)


@pytest.mark.parametrize("name", BASELINES)
def test_quantiles_rise_are_not_negative_and_speak_of_all(panel, name):
    said = forecast(name, panel, H, LEVELS)
    assert said.q.shape == (60, H, 5) and said.mean.shape == said.zero.shape == (60, H)
    assert np.isfinite(said.q).all() and (said.q >= 0).all() and (np.diff(said.q, axis=2) >= 0).all()
    assert (said.mean >= 0).all() and ((said.zero >= 0) & (said.zero <= 1)).all()


@pytest.mark.parametrize("name", ["imapa", "tsb", "croston_sba", "moving_average"])
def test_steady_demand_is_covered_as_promised(name):
    draw = np.random.default_rng(1)
    rate = np.exp(draw.normal(2, 0.5, 300))[:, None]
    y = draw.negative_binomial(3, 3 / (3 + rate), (300, 64)).astype(float)
    panel = weekly(y)
    said = forecast(name, panel.until(panel.dates[59]), H, LEVELS)
    inside = scores.covered(panel.after(panel.dates[59], H), said.q[..., 0], said.q[..., -1])
    assert inside.mean() == pytest.approx(0.91, abs=0.035)
    assert said.mean.sum() / y[:, 60:].sum() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("name", BASELINES)
def test_further_levels_move_none_of_the_others(panel, name):
    wide = (*LEVELS[:4], 0.8, 0.9, 0.95, 0.99)  # as a job with service levels asks
    for view in (panel, panel.until(panel.dates[-9])):
        few, many = forecast(name, view, 4, LEVELS), forecast(name, view, 4, wide)
        np.testing.assert_array_equal(many.q[..., [0, 1, 2, 3, 6]], few.q)
        np.testing.assert_array_equal(many.mean, few.mean)


def test_wilder_items_get_wider_bands():
    draw = np.random.default_rng(2)
    tame, wild = draw.poisson(20, (40, 60)), draw.negative_binomial(0.7, 0.7 / 20.7, (40, 60))
    said = forecast("imapa", weekly(np.concatenate([tame, wild]).astype(float)), 1, LEVELS)
    width = said.q[:, 0, -1] - said.q[:, 0, 0]
    assert np.median(width[40:]) > 2 * np.median(width[:40])


def test_historical_quantiles_are_those_of_half_a_year():
    y = np.concatenate([np.full(30, 99.0), np.arange(26.0)])[None]
    said = forecast("historical_quantiles", weekly(y), 2, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(said.q[0, 1], [0, 12.5, 25])
    assert said.zero[0, 0] == pytest.approx(1 / 26)


# ---- awkward panels


AWKWARD = {
    "one observation": [nan] * 19 + [3.0],
    "one zero": [nan] * 19 + [0.0],
    "all zeros": [0.0] * 20,
    "never seen": [nan] * 20,
    "silent for long": [5.0] + [0.0] * 19,
    "gone": [5.0, 2.0] + [nan] * 18,
    "constant": [4.0] * 20,
    "huge": [1e7, 0.0] * 10,
}


@pytest.mark.parametrize("name", BASELINES)
def test_awkward_series_are_forecast_alone_and_together(name):
    together = forecast(name, weekly(list(AWKWARD.values())), H, LEVELS)
    for k, (kind, y) in enumerate(AWKWARD.items()):
        alone = forecast(name, weekly([y]), H, LEVELS)
        for said in (alone.q[0], together.q[k]):
            if kind == "never seen":
                assert np.isnan(said).all()
            else:
                assert np.isfinite(said).all() and (said >= 0).all() and (np.diff(said, axis=1) >= 0).all(), kind
            if kind in ("all zeros", "one zero"):
                assert not said.any()
        if kind != "never seen":
            np.testing.assert_allclose(alone.mean[0], together.mean[k], err_msg=kind)


def test_a_stock_out_moves_no_forecast():
    y = np.tile([0.0, 2, 3, 1, 4], 8)[None]
    full = weekly(y)
    out = np.zeros(y.shape, bool)
    out[0, -3:] = True
    y = y.copy()
    y[0, -3:] = 0
    empty = replace(full, y=y, available=~out)
    for name in ("last_value", "moving_average", "tsb", "imapa"):
        gone = forecast(name, empty, H, LEVELS).mean
        assert (gone > forecast(name, weekly(y), H, LEVELS).mean).all(), f"{name}: three zeros would have pulled it down"
    assert forecast("last_value", empty, H, LEVELS).mean[0, 0] == full.y[0, -4]


def test_an_unknown_name_is_told_the_known_ones(panel):
    with pytest.raises(ValueError, match="baseline 'arima' is not known; known: zeros, last_value"):
        forecast("arima", panel, H, LEVELS)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("cut", [12, 40, 66])
def test_the_future_changes_no_bit(panel, name, cut):
    y, available = panel.y.copy(), panel.available.copy()
    y[:, cut + 1 :] = RNG.choice([nan, 0, 7, 900], y[:, cut + 1 :].shape)
    available[:, cut + 1 :] ^= True
    at, other = panel.dates[cut], replace(panel, y=y, available=available)
    a, b = (forecast(name, p.until(at), H, LEVELS) for p in (panel, other))
    for part in ("q", "mean", "zero"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


@given(st.lists(st.one_of(st.integers(0, 50), st.just(nan)), min_size=1, max_size=30), st.sampled_from(BASELINES[:-1]))
def test_any_history_gives_a_sane_forecast(y, name):
    said = forecast(name, weekly([y]), 2, (0.1, 0.5, 0.9))
    if np.isnan(y).all():
        assert np.isnan(said.q).all() and np.isnan(said.mean).all()
    else:
        assert np.isfinite(said.q).all() and (np.diff(said.q, axis=2) >= 0).all()
        assert 0 <= said.mean[0, 0] <= np.nanmax(y) + 1e-9


def test_zero_is_the_chance_of_nothing(panel):
    said = forecast("imapa", panel, H, LEVELS)
    assert np.corrcoef(said.zero[:, 0], np.nanmean(counts.sold(panel) == 0, axis=1))[0, 1] > 0.9


def test_the_chance_of_nothing_of_ets_is_that_of_its_normal_below_a_half(panel):
    said = forecast("auto_ets", panel, H, LEVELS)
    np.testing.assert_array_equal(said.q < 0.5, np.array(LEVELS) < said.zero[..., None])


@pytest.mark.parametrize("name", BASELINES)
def test_returns_make_no_negative_demand(name):
    y = np.tile([3.0, -2, 0, 5, -9], 6)[None]
    a, b = (forecast(name, weekly(v), H, LEVELS) for v in (y, np.maximum(y, 0)))
    np.testing.assert_array_equal(a.q, b.q)
    assert (a.mean >= 0).all()


def test_an_item_long_off_the_shelf_is_as_wide_as_others_of_its_mean():
    """Sold once in the only period it was on offer, years ago: it is no slow seller, and its tail not theirs."""
    draw = np.random.default_rng(0)
    y = draw.poisson(np.linspace(0.05, 2, 80)[:, None], (80, 48)).astype(float)
    y[40] = np.nan
    y[40, 3] = 1.0
    said = intermittent.forecast("imapa", panel_of(y, freq="MS"), 3, (0.5, 0.95, 0.99))
    near = (np.abs(said.mean[:, 0] - 1) < 0.15) & (np.arange(80) != 40)
    assert said.mean[40, 0] == 1 and near.sum() > 5
    assert said.q[40, 0, 2] <= said.q[near, 0, 2].max() <= 8
