"""The distribution of posted prices: exact on known levels, ordered, free of scale; and what came after a day."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import panel_of
from forecastbook import compiled, spells, sticky


def kind(ratio: float, away: list[float]) -> int:
    """The class of a move."""
    return compiled.kind(ratio, np.array(away), spells.CHANGE, sticky.EDGES)


def test_classes_follow_the_order_of_the_candidates():
    moves = [0.0, 0.005, 0.2, 0.2049, 0.3, -0.1, -0.02, 0.02, 0.04, -9.0]
    assert [kind(move, [0.2, np.nan, 0.3, np.nan, -0.1]) for move in moves] == [0, 0, 1, 1, 3, 5, 6, 16, 17, 15]


def test_atoms_are_quartiles_within_their_bin():
    ratio = np.array([0.031, 0.035, 0.04, 0.044, 0.05, 0.057, 0.06, 0.068, -0.9])
    kinds = np.array([kind(r, [np.nan] * spells.J) for r in ratio])
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
    return sticky.Mixture(ladder, np.asarray(hazard, float)[:, None], np.asarray(kinds, float)[:, None])


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
    out = [(price, 1 - hazard)] + [(levels[j], hazard * share[j]) for j in range(spells.J) if known[j]]
    return out + [(price * np.exp(a), hazard * share[spells.J + b] / 2) for b in range(2 * sticky.BINS) for a in ATOMS[b]]


def test_quantiles_lie_on_posted_prices():
    levels = np.array([[7.99, 12.49, np.nan, np.nan, np.nan]])
    kinds = np.zeros((1, sticky.CLASSES))
    kinds[0, 0], kinds[0, 1] = 0.25, 0.75
    assert list(quantiles([9.99], levels, [0.4], kinds)[0]) == [7.99, 9.99, 9.99, 12.49, 12.49]
    assert quantiles([9.99], levels, [0.8], kinds, (0.5,))[0, 0] == 12.49


def test_masked_levels_take_no_probability():
    kinds = np.full((1, sticky.CLASSES), 1e-9)
    kinds[0, : spells.J] = 1
    assert (quantiles([10.0], [[8.0, *[np.nan] * 4]], [1.0], kinds) == 8.0).all()
    assert (kinds[0, : spells.J] == 1).all(), "what was given is left as it was"


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


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_mixture_that_leans_keeps_its_shape_on_either_side(seed):
    price, levels, p, kinds = drawn(seed)
    said, side = mixed(price, levels, p, kinds), np.random.default_rng(seed).uniform(0.01, 0.99, (50, 1))
    for n in range(50):
        up = sum(m for v, m in places(price[n], levels[n], 1.0, kinds[n]) if v > price[n])
        assert said.upward[n, 0] == pytest.approx(np.clip(up, 1e-4, 1 - 1e-4), abs=1e-9)
    lean, sure, up = said.leaning(side), np.abs(said.upward[:, 0] - 0.5) < 0.49, said.ladder.rising
    np.testing.assert_allclose(lean.upward[sure], side[sure])
    np.testing.assert_allclose(said.leaning(said.upward).kinds, said.kinds)
    share = np.where(up, side / said.upward, (1 - side) / (1 - said.upward))
    np.testing.assert_allclose(lean.kinds[:, 0], said.kinds[:, 0] * share)


def test_kinds_that_hold_for_all_days_ahead_need_no_copy_for_each():
    price, levels, p, kinds = drawn(4)
    ladder = sticky.Ladder.of(price, levels, ATOMS)
    one, three = (
        sticky.Mixture(ladder, np.repeat(p[:, None], 3, 1), k) for k in (kinds[:, None], np.repeat(kinds[:, None], 3, 1))
    )
    np.testing.assert_array_equal(one.quantiles(LEVELS), three.quantiles(LEVELS))


def test_a_sure_stay_and_a_sure_leave():
    price, levels, _, kinds = drawn(1)
    assert (quantiles(price, levels, np.zeros(50), kinds) == price[:, None]).all()
    assert (quantiles(price, levels, np.ones(50), kinds, np.linspace(0.01, 0.99, 21)) != price[:, None]).all()


def test_each_day_ahead_has_its_own_hazard_and_kinds():
    price, levels, p, kinds = drawn(2)
    ladder = sticky.Ladder.of(price, levels, ATOMS)
    hazards, both = np.stack([p, p / 3], axis=1), np.stack([kinds, kinds[::-1]], axis=1)
    got = sticky.Mixture(ladder, hazards, both).quantiles(LEVELS)
    assert got.shape == (50, 2, 5)
    np.testing.assert_array_equal(got[:, 0], quantiles(price, levels, p, kinds))
    np.testing.assert_array_equal(got[:, 1], quantiles(price, levels, p / 3, kinds[::-1]))


def test_the_mean_of_odds():
    a, b, c = np.array([0.1]), np.array([0.5]), np.array([0.9])
    np.testing.assert_allclose(sticky.mean_odds([a, c]), 0.5)
    np.testing.assert_allclose(sticky.mean_odds([a, b]), 0.25)  # odds 1/9 and 1: their geometric mean is 1/3
    np.testing.assert_allclose(sticky.mean_odds([a, b, c]), 0.5)
    np.testing.assert_allclose(sticky.mean_odds([a, b], [0, 1]), 0.5)
    np.testing.assert_allclose(sticky.mean_odds([a, b], [2, 2]), 0.25)
    np.testing.assert_allclose(sticky.mean_odds([np.array([1e-6]), np.array([1 - 1e-6])]), 0.5)


def test_targets_are_what_came_after_a_day_and_unknown_where_it_may_not_be_learnt_from():
    y = np.full((4, 60), 10.0)
    y[0, 40:45] = 8.0  # a cut of five days
    y[1, :45], y[1, 50] = np.nan, 20.0  # young all the time
    y[2, 30:] = np.nan  # gone: after 14 days no longer learnt from
    y[3, 59] = 10.04  # within the noise
    panel = panel_of(y)
    ratio, classes = sticky.targets(panel, spells.of(panel, 30), 3)  # days 30..59
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
    _, classes = sticky.targets(panel, spells.of(panel), 7)
    known = (classes >= 0).any(axis=2)
    assert np.flatnonzero(known[0]).tolist() == list(range(39, 59))
    assert np.flatnonzero(known[1]).tolist() == [19, 33, 34, *range(40, 59)]
