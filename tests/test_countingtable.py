"""The counting table: what it counts, by hand, and that it counts nothing that came later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import LEVELS, panel_of, posted_panel
from forecastbook import compiled, countingtable, grid, models, spells, sticky

nan = np.nan
H = 3
K = {name: k for k, name in enumerate(spells.FEATURES)}


def features(below=0.0, above=0.0, age=1, rate=0.0) -> np.ndarray:
    """The features of one day as far as a cell depends on them; age in days."""
    out = np.zeros(len(spells.FEATURES), dtype=np.float32)
    out[[K["below_usual"], K["above_usual"], K["age"], K["rate90"]]] = below, above, np.log1p(age), rate
    return out


def by_hand(panel, horizon: int, days: int = 500) -> dict:
    """Everything that is counted of the last days, in loops over them, and the rates that follow by the words of the module."""
    posted = spells.of(panel)
    N, T = panel.y.shape
    moves, asked = np.zeros((countingtable.CELLS, horizon)), np.zeros((countingtable.CELLS, horizon))
    kinds = np.zeros((countingtable.STATES, sticky.CLASSES))
    for n in range(N):
        for t in range(max(T - days, 0), T):
            if posted.life[n, t] < sticky.LIFE or posted.gap[n, t] > sticky.GAP:
                continue
            f = posted.features[n, t]
            state = 0 if f[K["below_usual"]] else 1 if f[K["above_usual"]] else 2
            age = round(float(np.expm1(f[K["age"]])))
            aged = sum(age > limit for limit in (2, 7, 14, 30))
            often = int(f[K["rate90"]] >= 0.001) + int(f[K["rate90"]] >= 0.025)
            for h in range(1, horizon + 1):
                if t + h >= T or np.isnan(panel.y[n, t + h]):
                    continue
                away = np.log(posted.levels[n, t] / posted.price[n, t])
                to = compiled.kind(np.log(panel.y[n, t + h] / posted.price[n, t]), away, spells.CHANGE, sticky.EDGES)
                asked[(state * 5 + aged) * 3 + often, h - 1] += 1
                moves[(state * 5 + aged) * 3 + often, h - 1] += to > 0
                if to > 0:
                    kinds[state, to - 1] += 1
    pool = (moves.sum(axis=0) + 0.01) / (asked.sum(axis=0) + 2)
    hits, rows, mean = moves.sum(axis=1) * 2 / horizon, asked.sum(axis=1) * 2 / horizon, pool.mean()
    share = (kinds.sum(axis=0) + 1) / (kinds.sum() + sticky.CLASSES)
    return dict(
        moves=moves,
        asked=asked,
        pool=pool,
        lift=(hits + 100 * mean) / (rows + 100) / mean,
        kinds=(kinds + 20 * share) / (kinds.sum(axis=1, keepdims=True) + 20),
    )


# ---- cells


@pytest.mark.parametrize(
    ("day", "state", "cell"),
    [
        (dict(below=1, age=1), 0, 0),
        (dict(below=1, age=2), 0, 0),
        (dict(below=1, age=3), 0, 3),
        (dict(below=1, age=7, rate=0.02), 0, 4),
        (dict(above=1, age=8, rate=0.025), 1, 15 + 8),
        (dict(above=1, age=14), 1, 15 + 6),
        (dict(age=15), 2, 30 + 9),
        (dict(age=30, rate=0.001), 2, 30 + 10),
        (dict(age=31, rate=1 / 90), 2, 30 + 13),
        (dict(age=400, rate=0.9), 2, 44),
    ],
)
def test_a_day_is_in_the_cell_of_its_state_its_age_and_its_rate(day, state, cell):
    assert countingtable.cells(features(**day)) == (state, cell)


def test_cells_of_many_days_at_once_and_none_outside():
    posted = spells.of(posted_panel(8, 110))
    state, cell = countingtable.cells(posted.features)
    assert state.shape == cell.shape == posted.life.shape
    assert cell.min() >= 0 and cell.max() < countingtable.CELLS and (state == cell // 15).all() and len(np.unique(cell)) > 10


# ---- what is counted


def test_a_tiny_panel_counted_by_hand():
    """Two prices over 26 days, of which the first 19 tell nothing yet; one is cut on day 22 and comes back on day 24.

    At the usual price of long standing: days 19 to 21 of the one, 19 to 24 of the other. Below it: days 22 and 23. Back: 24.
    """
    y = np.full((2, 26), 10.0)
    y[0, 22:24] = 8.0
    found = countingtable.count(panel_of(y), 1)
    # by one day: the other stays 6 times; the first stays on 19 and 20, leaves on 21, stays on 22, leaves on 23, stays on 24
    pool = (2 + 0.01) / (12 + 2)
    assert found.pool == pytest.approx([pool])
    days = features(age=20), features(below=1, age=1, rate=1 / 24), features(age=1, rate=2 / 25)
    usual, low, back = (countingtable.cells(day)[1] for day in days)
    np.testing.assert_allclose(found.lift[low], (2 * 1 + 100 * pool) / (2 * 2 + 100) / pool)
    np.testing.assert_allclose(found.lift[back], (0 + 100 * pool) / (2 * 1 + 100) / pool)
    np.testing.assert_allclose(found.lift[usual], (2 * 1 + 100 * pool) / (2 * 9 + 100) / pool)
    # the two moves: 20 % down into a bin, from the usual state; from below, to the price before
    down, to_previous = spells.J + 4, 0
    assert found.kinds[2].argmax() == down and found.kinds[0].argmax() == to_previous
    share = (1 + 1) / (2 + sticky.CLASSES)
    assert found.kinds[2, down] == pytest.approx((1 + 20 * share) / (1 + 20))
    assert found.kinds[0, down] == pytest.approx((0 + 20 * share) / (1 + 20))
    assert found.kinds[1, down] == pytest.approx(share), "nothing was ever above: the pool"


@given(seed=st.integers(0, 10**6))
def test_what_is_counted_is_what_a_loop_over_days_counts(seed):
    panel = posted_panel(5, 60, seed, gaps=0.3)
    found, wanted = countingtable.count(panel, H), by_hand(panel, H)
    assert wanted["moves"].sum() > 10
    for name in ("pool", "lift", "kinds"):
        np.testing.assert_allclose(getattr(found, name), wanted[name], rtol=1e-12, err_msg=name)


def test_a_cell_of_few_days_stays_near_the_pool_and_one_of_many_near_its_own_rate():
    panel = posted_panel(14, 110, seed=4, gaps=0.0)
    found, counts = countingtable.count(panel, H), by_hand(panel, H)
    rate = counts["moves"].sum(axis=1) / np.maximum(counts["asked"].sum(axis=1), 1)
    lift, asked = rate / found.pool.mean(), counts["asked"].sum(axis=1)
    empty, many = asked == 0, asked > 400
    assert empty.any() and many.any()
    np.testing.assert_allclose(found.lift[empty], 1)
    weight = 2 / H * asked / (2 / H * asked + 100)  # of its own rate, against a hundred rows of the pool
    np.testing.assert_allclose(found.lift, weight * lift + 1 - weight)
    assert weight[many].min() > 0.7
    np.testing.assert_allclose(found.kinds.sum(axis=1), 1)


def test_no_evidence_is_one_change_in_two_hundred():
    for y in (np.full((2, 5), 4.99), np.full((3, 40), nan)):
        found = countingtable.count(panel_of(y), H)
        np.testing.assert_allclose(found.pool, 0.005)
        np.testing.assert_allclose(found.lift, 1)
        np.testing.assert_allclose(found.kinds, 1 / sticky.CLASSES)


def test_only_so_many_days_of_so_many_series_are_counted(monkeypatch):
    panel = posted_panel(12, 110)
    whole = countingtable.count(panel, H)
    other = countingtable.count(panel, H - 1)  # kept with the panel, by horizon
    assert countingtable.count(panel, H) is whole and other is not whole
    monkeypatch.setattr(countingtable, "DAYS", 50)
    last = countingtable.count(replace(panel), H)
    np.testing.assert_allclose(last.lift, by_hand(panel, H, 50)["lift"], rtol=1e-12)
    assert not np.array_equal(last.lift, whole.lift)
    monkeypatch.setattr(countingtable, "MAX_DAYS", 50 * 4)
    sampled = countingtable.count(replace(panel), H)
    np.testing.assert_array_equal(sampled.lift, countingtable.count(panel.sample(4, 0), H).lift)
    assert not np.array_equal(sampled.lift, last.lift)


@pytest.mark.parametrize(("counts", "days"), [([0, 0], 0), ([7], 1), ([3, 0, 3, 3], 3), ([9, 1], 100 / 82)])
def test_days_of_change_count_by_how_evenly_they_share_the_changes(counts, days):
    assert countingtable.effective(np.array(counts)) == pytest.approx(days)


def test_a_campaign_is_one_day_of_change_however_many_prices_move():
    def seen(day):  # by series: the day of its one change
        return countingtable.count(panel_of(np.where(np.arange(80) < np.array(day)[:, None], 5.0, 4.0)), H).change_days

    assert seen([40] * 6) == 1 and seen(range(40, 46)) == 6 and seen([40, 40, 40, 41, 42, 43]) == 36 / 12
    assert seen([80] * 6) == 0, "nothing ever moved"


# ---- what is said


def test_a_hazard_is_the_pooled_rate_times_the_lift_within_bounds():
    at = np.stack([features(age=1), features(below=1, age=1), features(above=1, age=1)])
    lift = np.ones(countingtable.CELLS)
    _, (plain, low, high) = countingtable.cells(at)
    lift[[plain, low, high]] = 1.0, 30.0, 1e-5
    found = countingtable.CountingTable(
        np.array([0.02, 0.05]), lift, np.full((3, sticky.CLASSES), 1 / sticky.CLASSES), None, 1.0
    )
    np.testing.assert_allclose(found.hazard(at), [[0.02, 0.05], [0.6, 0.9], [1e-4, 1e-4]])


@given(seed=st.integers(0, 10**6), T=st.integers(1, 70), gaps=st.sampled_from([0.0, 0.5, 0.9]))
def test_hazards_stay_within_their_bounds_whatever_is_counted(seed, T, gaps):
    draw = np.random.default_rng(seed)
    y = draw.choice([1.0, 2, 3, 9], (6, T)) if seed % 2 else np.full((6, T), 5.0)
    y[draw.random((6, T)) < gaps] = nan
    panel = panel_of(y)
    hazard = countingtable.count(panel, H).hazard(spells.of(panel, 1).features[:, -1])
    assert hazard.shape == (6, H) and (hazard >= 1e-4).all() and (hazard <= 0.9).all()


def test_where_a_price_goes_depends_on_its_state():
    """Cuts come back to the usual price: from below, nearly all of the mass is on a known level."""
    y = np.full((30, 120), 10.0) + np.arange(30)[:, None]
    for start in range(20, 120, 13):
        y[:, start : start + 4] *= 0.8
    panel = panel_of(y).until(panel_of(y).dates[86])  # third day of a cut
    assert (panel.last_value < 0.9 * np.nanmax(panel.y, axis=1)).all()
    found = countingtable.count(panel, 7)
    q = found.mixture(panel).quantiles(LEVELS)
    usual = np.arange(30) + 10.0
    np.testing.assert_array_equal(q[:, -1, 4], usual)
    assert (found.hazard(spells.of(panel, 1).features[:, -1])[:, -1] > 0.5).all()
    np.testing.assert_array_equal(q[:, -1, 2], usual)  # more than half of the mass has left: so does the median
    np.testing.assert_array_equal(q[:, 0, 2], panel.last_value)


@given(cut=st.integers(20, 108), seed=st.integers(0, 99))
def test_nothing_after_the_as_of_date_counts(cut, seed):
    panel = posted_panel(8, 110)
    y = panel.y.copy()
    y[:, cut + 1 :] = np.random.default_rng(seed).uniform(0.1, 1e5, y[:, cut + 1 :].shape)
    date = panel.dates[cut]
    found, other = (countingtable.count(p.until(date), H) for p in (panel, replace(panel, y=y)))
    for name in ("pool", "lift", "kinds", "atoms"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name), err_msg=name)
    assert not np.array_equal(countingtable.count(panel, H).pool, countingtable.count(replace(panel, y=y), H).pool)


def test_the_baseline_is_the_mixture_on_the_shops_grid():
    panel = posted_panel(8, 110)
    y = panel.y.copy()
    y[3] = nan
    panel = replace(panel, y=y)
    q, p, _ = models.forecast(models.fit("table", None), panel, H, LEVELS)
    seen = np.flatnonzero(panel.n_obs > 0)
    assert len(seen) == 7 and np.isnan(q[3]).all() and np.isnan(p[3]).all()
    said = countingtable.count(panel, H).mixture(panel.take(seen), grid.of(panel))
    np.testing.assert_array_equal(q[seen], said.quantiles(LEVELS))
    np.testing.assert_array_equal(p[seen], said.hazard)
    assert (q[..., 2][seen][p[seen] < 0.5] == np.broadcast_to(panel.last_value[seen, None], p[seen].shape)[p[seen] < 0.5]).all()
