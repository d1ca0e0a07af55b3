"""Generated shops: the same for a seed, on their grid, and as different from each other as shops are."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import panel_of
from forecastbook import processes, spells, sticky

SHOPS, ITEMS, DAYS = 60, 50, 400


@pytest.fixture(scope="module")
def prices() -> list[np.ndarray]:
    """Sixty shops of fifty items over 400 days."""
    return [processes.shop(ITEMS, DAYS, seed) for seed in range(SHOPS)]


def moved(y: np.ndarray, days: int) -> np.ndarray:
    """Of all pairs of observations ``days`` apart, whether the price differs."""
    ratio = np.log(y[:, days:] / y[:, :-days])
    return np.abs(ratio[np.isfinite(ratio)]) > spells.CHANGE


def test_a_seed_gives_the_same_prices_and_another_seed_others():
    one, again, other = (processes.shop(20, 200, seed) for seed in (3, 3, 4))
    assert np.array_equal(one, again, equal_nan=True) and not np.array_equal(one, other, equal_nan=True)
    child = np.random.SeedSequence(9).spawn(1)[0]
    assert np.array_equal(processes.shop(20, 200, child), processes.shop(20, 200, child), equal_nan=True)


def test_prices_are_positive_and_of_every_scale(prices):
    known = [y[np.isfinite(y)] for y in prices]
    assert min(k.min() for k in known) > 0
    medians = [np.median(k) for k in known]
    assert min(medians) < 5 and max(medians) > 10_000


def test_every_price_lies_on_the_grid_of_its_shop(prices):
    grids = set()
    for seed, y in enumerate(prices):
        unit, under = processes.habits(seed).grid
        grids.add((unit, under))
        steps = (y[np.isfinite(y)] + under) / unit
        np.testing.assert_allclose(steps, np.rint(steps), rtol=1e-9)
        if (unit, under) == (1, 0.01):
            assert {f"{p:.2f}"[-3:] for p in y[np.isfinite(y)]} == {".99"}
    assert {(1, 0.01), processes.CENTS} <= grids and len(grids) >= 8


@pytest.mark.parametrize("price, grid, posted", [(4.2, (1, 0.01), 3.99), (0.1, (1, 0.01), 0.99), (1234, (500, 0), 1000)])
def test_a_price_is_snapped_to_the_nearest_of_its_grid(price, grid, posted):
    assert processes.snap(np.array([price]), grid) == posted


def test_shops_differ_in_how_often_prices_change(prices):
    rates = np.array([moved(y, 7).mean() for y in prices])
    assert 0.05 < np.median(rates) < 0.12
    assert np.quantile(rates, 0.05) < 0.03 and np.quantile(rates, 0.95) > 0.2
    assert ((rates > 0.01) & (rates < 0.45)).mean() > 0.85


def test_many_changes_go_back_to_a_level_of_before(prices):
    back = []
    for y in prices:
        panel = panel_of(y)
        kind = sticky.targets(panel, spells.of(panel), 1)[1][:, 90:]
        if (kind > 0).sum() > 20:
            back.append((kind[kind > 0] <= spells.J).mean())
    assert 0.3 < np.median(back) < 0.7 and max(back) > 0.8 and min(back) < 0.25


def test_there_are_gaps_and_items_come_and_go(prices):
    observed = np.array([np.isfinite(y) for y in prices])  # (shops, items, days)
    share = observed.mean(axis=(1, 2))
    assert observed.any(axis=2).all() and 0.25 < share.min() < 0.5 and share.max() > 0.97
    first, last = observed.argmax(axis=2), DAYS - 1 - observed[:, :, ::-1].argmax(axis=2)
    assert 0.02 < (first > 60).mean() < 0.4 and 0.02 < (last < DAYS - 60).mean() < 0.4


def test_some_items_never_change_and_some_change_almost_daily(prices):
    rows = [row[None] for y in prices for row in y if np.isfinite(row[1:] / row[:-1]).sum() > 50]
    daily = np.array([moved(row, 1).mean() for row in rows])
    assert 0.15 < (daily == 0).mean() < 0.5 and (daily > 0.5).any()


def test_clearance_goes_down_and_ends():
    path, last = processes.clearance(np.random.default_rng(1), 500, DAYS)
    taken = path.min(axis=1) < 0
    assert 0 < taken.mean() < 0.25 and (np.diff(path, axis=1) <= 0).all() and (last[~taken] >= DAYS).all()
    done = np.flatnonzero(taken & (last < DAYS))
    assert all(len(np.unique(path[n, : last[n]])) in (3, 4, 5) for n in done if path[n, 0] == 0)


@pytest.mark.parametrize("law", processes.LAWS)
@pytest.mark.parametrize("mean", [1.0, 5.0, 60.0])
def test_spells_have_the_mean_that_was_asked_for(law, mean):
    drawn = processes.lengths(np.random.default_rng(2), np.full(2000, mean), DAYS, law)
    assert drawn.min() >= 1 and drawn.mean() == pytest.approx(mean, rel=0.15 if law == "heavy" else 0.05)
    if law == "cycle" and mean > 28:
        assert (drawn % 7 == 0).all()


def test_a_disciplined_shop_changes_prices_on_its_weekday():
    seed = next(s for s in range(100) if processes.habits(s).discipline == 1)
    own = processes.habits(seed)
    spell = processes.numbered(np.random.default_rng(1), np.full((300, 40), 30), DAYS, own)
    day = np.nonzero(np.diff(spell, axis=1))[1] + 1
    assert set(day % 7) == {own.weekday}
    lengths = np.tile([40, 3], (300, 20))  # three days from that weekday on
    odd = processes.numbered(np.random.default_rng(1), lengths, DAYS, own) % 2 == 1
    began = np.nonzero(odd[:, 1:] & ~odd[:, :-1])[1] + 1
    assert set(began % 7) == {own.weekday} and odd[:, :-3].mean() == pytest.approx(3 / 43, rel=0.15)


def test_a_campaign_begins_on_one_day_for_many():
    own = processes.habits(0)
    paths = (processes.campaigns(np.random.default_rng(seed), 200, DAYS, own) for seed in range(40))
    with_one = [path for path in paths if path.any()]
    assert 10 < len(with_one) < 35
    for path in with_one:
        down = np.nonzero(np.diff(path, axis=1) < 0)[1] + 1
        assert set(down % 7) <= {own.weekday} and len(set(down)) < 30 and path.min() >= np.log(0.5) - 1e-9


def test_shops_are_a_panel_like_any_other():
    panel = processes.shops(3, 7, 90, seed=1, end="2024-06-30")
    assert panel.y.shape == (21, 90) and panel.y.dtype == np.float64 and panel.as_of == np.datetime64("2024-06-30")
    assert panel.ids[8] == "shop001-item0001" and len(set(panel.ids)) == 21 and list(panel.ids) == sorted(panel.ids)
    assert panel.titles[8] == "Item 1 of shop 1" and (np.diff(panel.dates).astype(int) == 1).all()
    assert panel.past.shape == panel.future.shape == (21, 90, 0) and panel.static.shape == (21, 0)
    assert np.array_equal(panel.available, panel.observed)
    cut = panel.until("2024-05-31")
    assert cut.y.shape == (21, 60) and cut.future.shape == (21, 60, 0) and len(cut.take([0, 5]).last(7).dates) == 7
    more = processes.shops(4, 7, 90, seed=1, end="2024-06-30")
    assert np.array_equal(more.y[:21], panel.y, equal_nan=True)
    assert not np.array_equal(panel.y[:7], panel.y[7:14], equal_nan=True)


def test_the_language_of_posted_prices_reads_them():
    panel = processes.shops(10, 30, 200, seed=2)
    posted = spells.of(panel)
    assert np.isfinite(posted.features).all() and (posted.life[:, -1] > 0).all()
    _, classes = sticky.targets(panel, posted, 7)
    assert set(np.unique(classes)) >= {-1, 0, 1, 2}


@pytest.mark.parametrize("items, days", [(1, 1), (1, 400), (40, 2), (3, 8)])
def test_small_shops_are_shops(items, days):
    for seed in range(20):
        y = processes.shop(items, days, seed)
        assert y.shape == (items, days) and np.isfinite(y).any(axis=1).all()
