"""The language of posted prices: causal, free of scale, and exact on known levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_quantiles_lie_on_posted_prices():
    levels = np.array([[7.99, 12.49, np.nan, np.nan, np.nan]])
    kinds = np.zeros((1, sticky.CLASSES))
    kinds[0, 0], kinds[0, 1] = 0.25, 0.75
    got = sticky.quantiles(np.array([9.99]), levels, np.array([0.4]), kinds, ATOMS, LEVELS)
    assert list(got[0]) == [7.99, 9.99, 9.99, 12.49, 12.49]
    moved = sticky.quantiles(np.array([9.99]), levels, np.array([0.8]), kinds, ATOMS, (0.5,))
    assert moved[0, 0] == 12.49


def test_masked_levels_take_no_probability():
    kinds = np.full((1, sticky.CLASSES), 1e-9)
    kinds[0, : sticky.J] = 1
    got = sticky.quantiles(np.array([10.0]), np.array([[8.0, *[np.nan] * 4]]), np.array([1.0]), kinds, ATOMS, LEVELS)
    assert (got == 8.0).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_quantiles_are_ordered_and_the_median_stays_without_a_majority(seed):
    draw = np.random.default_rng(seed)
    M = 50
    price, p = draw.uniform(0.01, 1e4, M), draw.random(M)
    levels = np.where(draw.random((M, 5)) < 0.5, np.nan, price[:, None] * draw.uniform(0.3, 3, (M, 5)))
    kinds = draw.dirichlet(np.full(sticky.CLASSES, 0.3), M)
    at = np.linspace(0.01, 0.99, 21)
    got = sticky.quantiles(price, levels, p, kinds, ATOMS, at)
    assert (np.diff(got, axis=1) >= 0).all() and (got > 0).all()
    assert (got[p < 0.5][:, 10] == price[p < 0.5]).all()


def test_a_zero_price_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        sticky.read(np.array([[1.0, 0.0]]))


def test_hard_series_stay_finite():
    y = np.full((3, 20), np.nan)
    y[1, -1] = 3.0
    y[2] = 5.0
    read = sticky.read(y)
    assert np.isfinite(read.features).all() and (read.life[0] == 0).all() and np.isnan(read.levels).all()
