"""The language of posted prices: causal, free of scale, and exact on known levels."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import panel_of
from forecastbook import sticky

K = {name: k for k, name in enumerate(sticky.FEATURES)}


def posted_prices(seed: int, N: int = 6, T: int = 140, gaps: float = 0.3) -> np.ndarray:
    """Random spells over a few levels, with gaps and late starts: (N, T)."""
    draw = np.random.default_rng(seed)
    y = np.empty((N, T))
    for n in range(N):
        level = np.round(draw.uniform(1, 50, size=draw.integers(1, 6)), 2)
        spell = np.repeat(draw.integers(len(level), size=T), draw.integers(1, 20, size=T))[:T]
        y[n] = level[spell]
        y[n, : draw.integers(0, T // 2)] = np.nan
    y[draw.random((N, T)) < gaps] = np.nan
    return y


def read_equal(a: sticky.Posted, b: sticky.Posted, days=slice(None)) -> bool:
    return all(
        np.array_equal(getattr(a, name)[:, days], getattr(b, name), equal_nan=True)
        for name in ("price", "features", "levels", "life", "gap")
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 139))
def test_a_day_knows_nothing_of_later_days(seed, cut):
    y = posted_prices(seed)
    changed = y.copy()
    changed[:, cut:] = np.random.default_rng(seed + 1).uniform(0.01, 1e5, size=changed[:, cut:].shape)
    early = sticky.read(y[:, :cut], y[:, :cut] * 1.1)
    assert read_equal(sticky.read(changed, changed * 1.1), early, slice(None, cut))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([100.0, 0.01, 4096.0, 7.3]))
def test_scale_changes_prices_and_no_feature(seed, factor):
    y = posted_prices(seed)
    one, other = sticky.read(y), sticky.read(y * factor)
    assert np.array_equal(one.features, other.features)
    np.testing.assert_allclose(other.levels, one.levels * factor, rtol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.integers(1, 140))
def test_keeping_the_last_days_gives_the_same_days(seed, keep):
    y = posted_prices(seed)
    assert read_equal(sticky.read(y), sticky.read(y, keep=keep), slice(140 - keep, None))


def test_series_are_read_one_by_one():
    y = posted_prices(3)
    together, rows = sticky.read(y), [4, 1]
    for name in ("price", "features", "levels"):
        assert np.array_equal(getattr(together, name)[rows], getattr(sticky.read(y[rows]), name), equal_nan=True)


def test_the_words_for_a_known_story():
    """Forty days at 10, three days at 8, then 10 again: eight days, the last three not observed."""
    y = np.r_[np.full(40, 10.0), np.full(3, 8.0), np.full(5, 10.0), np.full(3, np.nan)][None]
    read = sticky.read(y)
    now, dip = read.features[0, -1], read.features[0, 41]
    assert read.gap[0, -1] == 3 and read.life[0, -1] == 51
    assert now[K["age"]] == pytest.approx(np.log1p(7)) and now[K["observations"]] == pytest.approx(np.log1p(5))
    assert now[K["previous_length"]] == pytest.approx(np.log1p(3))
    assert now[K["to_previous"]] == pytest.approx(np.log(0.8)) and now[K["to_mode90"]] == 0
    assert now[K["rate28"]] == pytest.approx(2 / 28) and now[K["last_direction"]] == 1 and now[K["observed"]] == 0
    assert dip[K["to_mode90"]] == pytest.approx(np.log(10 / 8)) and dip[K["below_usual"]] == 1 and dip[K["above_usual"]] == 0
    assert dip[K["last_step"]] == 0 and read.features[0, 40, K["last_step"]] == pytest.approx(np.log(0.8))
    assert np.array_equal(read.levels[0, -1], [8, np.nan, np.nan, np.nan, np.nan], equal_nan=True)  # the others equal 10 or 8
    assert np.array_equal(read.levels[0, 41], [10, np.nan, np.nan, np.nan, np.nan], equal_nan=True)


def test_levels_are_what_a_slow_reading_finds():
    y = posted_prices(11, N=4, T=120)
    read = sticky.read(y)
    for n in range(4):
        alive = np.flatnonzero(np.isfinite(y[n]))
        filled, last = np.full(120, np.nan), np.nan
        for t in range(120):
            last = y[n, t] if np.isfinite(y[n, t]) else last
            filled[t] = last
        for t in range(alive[0], 120, 7):
            window = filled[max(alive[0], t - 89) : t + 1]
            values, counts = np.unique(window, return_counts=True)
            wanted = [values[counts.argmax()], window.max(), window.min()]
            slow = [np.log(w / filled[t]) for w in wanted]
            fast = read.features[n, t, [K["to_mode90"], K["to_max90"], K["to_min90"]]]
            np.testing.assert_allclose(fast, slow, atol=1e-6)
            assert read.features[n, t, K["share_mode90"]] == pytest.approx(counts.max() / len(window))


def test_a_gap_is_not_a_row_shift():
    y = np.r_[np.full(30, 5.0), np.full(30, 6.0)]
    gap = y.copy()
    gap[32:55] = np.nan
    full, gapped = sticky.read(y[None]).features[0, -1], sticky.read(gap[None]).features[0, -1]
    assert full[K["age"]] == gapped[K["age"]] and gapped[K["observations"]] < full[K["observations"]]
    dropped = sticky.read(y[np.isfinite(gap)][None]).features[0, -1]
    assert dropped[K["age"]] < gapped[K["age"]]


def test_list_price_is_used_where_known():
    y = np.full((2, 30), 8.0)
    listed = np.full((2, 30), np.nan)
    listed[0, 10] = 10.0
    read = sticky.read(y, listed).features[:, -1]
    assert read[0, K["to_list"]] == pytest.approx(np.log(10 / 8)) and read[0, K["list_known"]] == 1
    assert read[1, K["to_list"]] == 0 and read[1, K["list_known"]] == 0


def test_classes_follow_the_order_of_the_candidates():
    levels = np.array([[0.2, np.nan, 0.3, np.nan, -0.1]])
    moves = np.array([0.0, 0.005, 0.2, 0.2049, 0.3, -0.1, -0.02, 0.02, 0.04, -9.0, np.nan])
    got = sticky.classify(moves, np.repeat(levels, len(moves), axis=0))
    assert list(got) == [0, 0, 1, 1, 3, 5, 6, 16, 17, 15, -1]


def test_atoms_are_quartiles_within_their_bin():
    ratio = np.array([0.04, 0.05, 0.05, 0.05, 0.06, 0.06, 0.06, 0.06, -0.9])
    kinds = sticky.classify(ratio, np.full((9, sticky.J), np.nan))
    atoms = sticky.atoms(ratio, kinds)
    np.testing.assert_allclose(atoms[sticky.BINS + 1], np.quantile(ratio[:8], [0.25, 0.75]))
    assert (atoms[: sticky.BINS] < 0).all() and (atoms[sticky.BINS :] > 0).all()
    size = np.abs(atoms)
    edges = np.tile(sticky.EDGES, 2)
    assert all(sticky.EDGES[b % sticky.BINS] <= v <= edges[b % sticky.BINS + 1] for b in range(20) for v in size[b])


ATOMS = sticky.atoms(np.empty(0), np.empty(0, dtype=int))
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def mixed(price, levels, hazard, kinds, grid=None) -> sticky.Mixture:
    """A mixture of one day ahead: price, hazard (N,), levels (N, J), kinds (N, A)."""
    ladder = sticky.Ladder.of(np.asarray(price, float), np.asarray(levels, float), ATOMS, grid)
    return sticky.Mixture.of(ladder, np.asarray(hazard, float)[:, None], np.asarray(kinds, float)[:, None])


def quantiles(price, levels, hazard, kinds, at=LEVELS) -> np.ndarray:
    return mixed(price, levels, hazard, kinds).quantiles(at)[:, 0]


def drawn(seed: int, M: int = 50):
    """Prices, levels of which some are masked, hazards and kinds of change."""
    draw = np.random.default_rng(seed)
    price, p = draw.uniform(0.01, 1e4, M), draw.random(M)
    levels = np.where(draw.random((M, 5)) < 0.5, np.nan, price[:, None] * draw.uniform(0.3, 3, (M, 5)))
    return price, levels, p, draw.dirichlet(np.full(sticky.CLASSES, 0.3), M)


def places(price, levels, hazard, kinds) -> list[tuple[float, float]]:
    """(price, probability) of every place where one series may stand, by the definition: half a bin to each of its atoms."""
    known = np.r_[~np.isnan(levels), np.ones(2 * sticky.BINS, bool)]
    share = np.where(known, kinds, 0) / kinds[known].sum()
    out = [(price, 1 - hazard)] + [(levels[j], hazard * share[j]) for j in range(sticky.J) if known[j]]
    return out + [(price * np.exp(a), hazard * share[sticky.J + b] / 2) for b in range(2 * sticky.BINS) for a in ATOMS[b]]


def test_quantiles_lie_on_posted_prices():
    levels = np.array([[7.99, 12.49, np.nan, np.nan, np.nan]])
    kinds = np.zeros((1, sticky.CLASSES))
    kinds[0, 0], kinds[0, 1] = 0.25, 0.75
    assert list(quantiles([9.99], levels, [0.4], kinds)[0]) == [7.99, 9.99, 9.99, 12.49, 12.49]
    assert quantiles([9.99], levels, [0.8], kinds, (0.5,))[0, 0] == 12.49


def test_masked_levels_take_no_probability():
    kinds = np.full((1, sticky.CLASSES), 1e-9)
    kinds[0, : sticky.J] = 1
    assert (quantiles([10.0], [[8.0, *[np.nan] * 4]], [1.0], kinds) == 8.0).all()
    assert (kinds[0, : sticky.J] == 1).all(), "what was given is left as it was"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_quantiles_are_ordered_and_the_median_stays_without_a_majority_on_one_side(seed):
    price, levels, p, kinds = drawn(seed)
    at = np.linspace(0.01, 0.99, 21)
    got = quantiles(price, levels, p, kinds, at)
    assert (np.diff(got, axis=1) >= 0).all() and (got > 0).all()
    for n in range(len(price)):
        where = places(price[n], levels[n], p[n], kinds[n])
        below, above = sum(m for v, m in where if v < price[n]), sum(m for v, m in where if v > price[n])
        if abs(below - 0.5) > 1e-6 and abs(above - 0.5) > 1e-6:
            assert (got[n, 10] == price[n]) == (below < 0.5 and above < 0.5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_quantile_is_the_lowest_place_with_so_much_probability_below_or_at_it(seed):
    price, levels, p, kinds = drawn(seed, 12)
    got = quantiles(price, levels, p, kinds)
    for n in range(len(price)):
        where = sorted(places(price[n], levels[n], p[n], kinds[n]))
        reached = np.cumsum([m for _, m in where])
        for q, level in enumerate(LEVELS):
            if np.abs(reached - level).min() > 1e-6:
                assert got[n, q] == pytest.approx(where[np.argmax(reached >= level)][0], rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_prices_times_1000_give_quantiles_times_1000(seed):
    price, levels, p, kinds = drawn(seed)
    np.testing.assert_allclose(quantiles(1000 * price, 1000 * levels, p, kinds), 1000 * quantiles(price, levels, p, kinds))


def test_a_sure_stay_and_a_sure_leave():
    price, levels, _, kinds = drawn(1)
    assert (quantiles(price, levels, np.zeros(50), kinds) == price[:, None]).all()
    assert (quantiles(price, levels, np.ones(50), kinds, np.linspace(0.01, 0.99, 21)) != price[:, None]).all()


def test_each_day_ahead_has_its_own_hazard_and_kinds():
    price, levels, p, kinds = drawn(2)
    ladder = sticky.Ladder.of(price, levels, ATOMS)
    hazards, both = np.stack([p, p / 3], axis=1), np.stack([kinds, kinds[::-1]], axis=1)
    got = sticky.Mixture.of(ladder, hazards, both).quantiles(LEVELS)
    assert got.shape == (50, 2, 5)
    np.testing.assert_array_equal(got[:, 0], quantiles(price, levels, p, kinds))
    np.testing.assert_array_equal(got[:, 1], quantiles(price, levels, p / 3, kinds[::-1]))


def test_the_mean_of_odds():
    a, b, c = np.array([0.1]), np.array([0.5]), np.array([0.9])
    assert sticky.mean_odds([a]) is a
    np.testing.assert_allclose(sticky.mean_odds([a, c]), 0.5)
    np.testing.assert_allclose(sticky.mean_odds([a, b]), 0.25)  # odds 1/9 and 1: their geometric mean is 1/3
    np.testing.assert_allclose(sticky.mean_odds([a, b, c]), 0.5)
    np.testing.assert_allclose(sticky.mean_odds([np.array([1e-6]), np.array([1 - 1e-6])]), 0.5)


# ---- a panel read: chunks, the calendar, and what came after a day


def test_a_panel_is_read_alike_whole_and_by_chunks_and_its_list_price_is_found(monkeypatch):
    y = posted_prices(5, N=9)
    panel = panel_of(y)
    listed = replace(panel, past=np.stack([y * 0, y * 1.3], axis=2), past_names=("other", "list_price"))
    whole = sticky.of(listed, 40)
    assert read_equal(sticky.read(y, y * 1.3), whole, slice(100, None)) and whole.features[..., K["list_known"]].any()
    assert not sticky.of(panel, 40).features[..., K["list_known"]].any()
    monkeypatch.setattr(sticky, "CHUNK", 4)
    assert read_equal(whole, sticky.of(listed, 40))


@pytest.mark.parametrize("keep, horizon", [(1, 7), (5, 3), (30, 14)])
def test_the_calendar_counts_mondays_between_a_day_and_its_target(keep, horizon):
    panel = panel_of(np.ones((1, 30)))  # 2024-01-01 is a Monday
    got = sticky.calendar(panel, keep, horizon)
    assert got.shape == (keep, horizon, len(sticky.CALENDAR))
    for k in range(keep):
        for h in range(1, horizon + 1):
            origin = panel.dates[30 - keep + k].astype(dt.date)
            days = [origin + dt.timedelta(days=d) for d in range(1, h + 1)]
            on = days[-1].weekday()
            wanted = [h / 7, sum(d.weekday() == 0 for d in days), on == 0, on >= 5, on == 4]
            np.testing.assert_allclose(got[k, h - 1], np.array(wanted, float), rtol=1e-6)


def test_targets_are_what_came_after_a_day_and_unknown_where_it_may_not_be_learnt_from():
    y = np.full((4, 60), 10.0)
    y[0, 40:45] = 8.0  # a cut of five days
    y[1, :45], y[1, 50] = np.nan, 20.0  # young all the time
    y[2, 30:] = np.nan  # gone: after 14 days no longer learnt from
    y[3, 59] = 10.04  # within the noise
    panel = panel_of(y)
    ratio, classes = sticky.targets(panel, sticky.of(panel, 30), 3)  # days 30..59
    assert ratio.shape == classes.shape == (4, 30, 3)
    assert (classes[0, :7] == 0).all() and list(classes[0, 7]) == [0, 0, 10]  # 20 % down has no level yet: its bin
    for day in range(30, 59):
        ahead = y[0, day + 1 : day + 4]
        np.testing.assert_allclose(ratio[0, day - 30, : len(ahead)], np.log(ahead / y[0, day]), atol=1e-6)
    assert (classes[0, 11, :2] == 0).all() and (classes[0, 12:15] == np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1]])).all()
    assert (classes[:, 29] == -1).all() and np.isnan(ratio[:, 29]).all()  # nothing is known after the last day
    assert (classes[0, 28] == [0, -1, -1]).all()
    assert (classes[1] == -1).all() and (classes[2] == -1).all() and (classes[3, 26:29, 0] == 0).all()


def test_targets_end_where_the_series_is_too_young_or_long_unseen():
    y = np.full((2, 60), 10.0)
    y[0, :20] = np.nan  # lives from day 20: twenty days old on day 39
    y[1, 21:40] = np.nan  # day 20 seen last: learnt from until day 34, and again from day 40
    panel = panel_of(y)
    _, classes = sticky.targets(panel, sticky.of(panel), 7)
    known = (classes >= 0).any(axis=2)
    assert np.flatnonzero(known[0]).tolist() == list(range(39, 59))
    assert np.flatnonzero(known[1]).tolist() == [19, 33, 34, *range(40, 59)]


def test_a_zero_price_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        sticky.read(np.array([[1.0, 0.0]]))


def test_hard_series_stay_finite():
    y = np.full((3, 20), np.nan)
    y[1, -1] = 3.0
    y[2] = 5.0
    read = sticky.read(y)
    assert np.isfinite(read.features).all() and (read.life[0] == 0).all() and np.isnan(read.levels).all()
