"""The shop's own grid: found in what it posted, used for prices that it has not posted yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import panel_of, posted_panel
from forecastbook import grid, spells, sticky

nan = np.nan


def habits(prices, days: int = 60, seed: int = 0):
    """Forty series, each of which goes to and fro between prices drawn from the given ones."""
    draw = np.random.default_rng(seed)
    posted = draw.choice(np.asarray(prices, float), (40, 6))
    return panel_of(np.repeat(posted, days // 6, axis=1))


NINES = np.arange(3, 60) + 0.99
HUNDREDS = np.arange(20, 90) * 100.0
ENDINGS = (np.arange(5, 40)[:, None] * 1000 + np.array([0, 500, 900])).ravel()
CENTS = np.arange(311, 4000, 7) / 100


@pytest.mark.parametrize(
    ("prices", "modulus", "endings"),
    [
        (NINES, 1, [0.99]),
        (HUNDREDS, 100, [0]),
        (ENDINGS, 1000, [0, 500, 900]),
        (CENTS, 0.01, [0]),
        (np.arange(2, 99) / 2, 0.5, [0]),
        (np.r_[NINES, NINES - 0.49], 1, [0.5, 0.99]),
    ],
    ids=["nines", "hundreds", "endings", "cents", "halves", "two endings"],
)
def test_a_habit_is_found(prices, modulus, endings):
    found = grid.of(habits(prices))
    assert found.modulus == modulus and found.endings.tolist() == endings


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_a_few_exceptions_are_forgiven_and_many_are_not(share):
    draw = np.random.default_rng(1)
    odd = draw.uniform(3, 60, round(5700 * share)).round(2)
    found = grid.of(habits(np.r_[np.tile(NINES, round(100 * (1 - share))), odd]))
    if share < 0.05:
        assert found.modulus == 1 and found.endings.tolist() == [0.99]
    else:
        assert found.modulus / len(found.endings) < 0.05, "next to plain cents"


@pytest.mark.parametrize("top", [1000, 10_000])
def test_a_cent_below_a_large_round_price_is_a_habit_too(top):
    prices = np.random.default_rng(0).choice(np.arange(1, 7) * top - 0.01, (60, 90))
    found = grid.of(panel_of(prices))
    assert np.array_equal(found.snap(np.unique(prices)), np.unique(prices))


def test_no_habit_is_plain_cents_and_prices_without_even_those_have_none():
    assert grid.of(habits(np.random.default_rng(3).uniform(2, 60, 500).round(2))).modulus == 0.01
    assert grid.of(habits(np.random.default_rng(3).uniform(2, 60, 500))) is None


def test_too_few_prices_tell_nothing():
    assert grid.of(panel_of(np.full((29, 40), 4.99))) is None
    assert grid.of(panel_of(np.full((30, 40), 4.99))) is not None, "once a series, as it never changed"
    assert grid.of(panel_of(np.full((40, 40), nan))) is None
    assert grid.of(panel_of(np.repeat([[3.99, 5.99]], 10, axis=0).repeat(20, axis=1))) is None, "a price counts once a spell"


def test_each_modulus_divides_the_next():
    """What ``of`` builds on: it takes the endings of a modulus from those of the one before."""
    times = np.array(grid.MODULI[1:]) / grid.MODULI[:-1]
    np.testing.assert_allclose(times, np.round(times), rtol=1e-12)
    assert (times > 1).all()


@pytest.mark.parametrize("times", [10, 1000, 10_000])
def test_another_currency_has_the_same_grid(times):
    found = grid.of(habits(HUNDREDS * times))
    assert found.modulus == 100 * times and found.endings.tolist() == [0]


def test_the_last_bits_of_a_price_that_stands_are_no_new_price():
    calm = np.r_[habits(NINES).y, np.full((3, 60), 7.25)]
    noisy = calm * (1 + 1e-15 * np.random.default_rng(0).integers(-1, 2, calm.shape))
    assert grid.of(panel_of(calm)).endings.tolist() == grid.of(panel_of(noisy)).endings.tolist() == [0.99]


def test_a_few_items_endings_are_no_grid_of_the_shop():
    """Five prices are five endings of 10000 and of 100: both wider than a quarter of what the things cost."""
    found = grid.of(habits([11.3, 12.4, 13.9, 17.1, 19.6]))
    assert found.modulus / len(found.endings) <= 0.25 * 13.9


def test_old_prices_are_forgotten():
    y = np.concatenate([habits(CENTS).y, habits(NINES, 120).y], axis=1)
    assert grid.of(panel_of(y)).modulus == 1 and grid.of(panel_of(y).until(panel_of(y).dates[100])).modulus == 0.01


def test_a_grid_is_of_what_had_been_posted_by_then():
    panel = habits(NINES)
    y = panel.y.copy()
    y[:, 41:] = np.random.default_rng(0).uniform(1, 1e5, y[:, 41:].shape)
    date = panel.dates[40]
    now, other = grid.of(panel.until(date)), grid.of(replace(panel, y=y).until(date))
    assert now.modulus == other.modulus and (now.endings == other.endings).all()
    assert grid.of(replace(panel, y=y)) is None, "all of it has another grid: the above can fail"


@given(price=st.floats(1e-3, 1e7), which=st.sampled_from([(NINES, 1), (HUNDREDS, 100), (ENDINGS, 1000), (CENTS, 0.01)]))
def test_a_price_is_snapped_to_the_nearest_that_the_shop_could_post(price, which):
    prices, modulus = which
    found = grid.of(habits(prices))
    got = float(found.snap(np.array([price]))[0])
    whole = np.floor(price / modulus) * modulus
    could = np.array([whole + k * modulus + e for k in (-1, 0, 1) for e in found.endings])
    nearest = could[np.abs(could - price).argmin()]
    assert got > 0
    if nearest > 1e-9:
        assert abs(got - price) == pytest.approx(abs(nearest - price), abs=1e-6 + 1e-9 * price)
        assert np.abs(could - got).min() < 1e-6
    else:
        assert got == price, "a price that would be 0 or less stays as it is"


@pytest.mark.parametrize(
    ("prices", "given", "posted"),
    [
        (NINES, [4.2, 4.6, 5.48, 5.5, 0.3, 1e-9], [3.99, 4.99, 4.99, 5.99, 0.3, 1e-9]),
        (HUNDREDS, [149, 151, 99999, 20], [100, 200, 100000, 20]),
        (ENDINGS, [12240, 12260, 12700, 12701, 12951, 300], [12000, 12500, 12500, 12900, 13000, 500]),
        (CENTS, [0.29, 1.005001, 3.333], [0.29, 1.01, 3.33]),
    ],
    ids=["nines", "hundreds", "endings", "cents"],
)
def test_snapped_by_hand(prices, given, posted):
    got = grid.of(habits(prices)).snap(np.array(given, float))
    assert got.tolist() == posted, "to the last bit, as the shop writes it"


def test_any_shape_is_snapped_and_what_is_on_the_grid_stays():
    found = grid.of(habits(ENDINGS))
    prices = np.random.default_rng(0).choice(ENDINGS, (3, 4, 5))
    np.testing.assert_array_equal(found.snap(prices), prices)


# ---- in the ladder of a forecast

ATOMS = sticky.atoms(np.empty(0), np.empty(0, dtype=int))
NONE = np.full((1, spells.J), nan)


def values(price: float, steps, atoms=ATOMS) -> np.ndarray:
    """The places of the atoms on the ladder, in the order of the atoms."""
    ladder = sticky.Ladder.of(np.array([price]), NONE, atoms, steps)
    assert (np.diff(ladder.values[0]) >= 0).all()
    return ladder.values[0][ladder.order[0].argsort()][1 + spells.J :]


def test_atoms_are_prices_that_the_shop_could_post():
    steps = grid.of(habits(NINES))
    free, posted = values(19.99, None), values(19.99, steps)
    np.testing.assert_allclose(free, 19.99 * np.exp(ATOMS.ravel()))
    far = np.abs(free - 19.99) > 0.5
    assert far.any() and np.allclose(posted[far] % 1, 0.99)
    np.testing.assert_array_equal(posted[far], steps.snap(free[far]))


def test_an_atom_that_would_be_snapped_to_the_present_price_keeps_its_raw_place():
    steps = grid.of(habits(NINES))
    free, posted = values(19.99, None), values(19.99, steps)
    near = np.abs(free - 19.99) < 0.5
    assert near.any() and (steps.snap(free[near]) == 19.99).all()
    np.testing.assert_array_equal(posted[near], free[near])
    assert (posted != 19.99).all()


def test_from_a_price_off_the_grid_what_rises_is_never_snapped_below_it():
    """20.30 is no price of a shop of .99: the nearest to 20.45 is 19.99, on the other side."""
    steps, free = grid.of(habits(NINES)), values(20.30, None)
    posted, up = values(20.30, steps), ATOMS.ravel() > 0
    crossing = (steps.snap(free) > 20.30) != up
    assert crossing.any() and (posted[crossing] == free[crossing]).all()
    np.testing.assert_array_equal(posted > 20.30, up)


def test_known_levels_are_never_snapped():
    ladder = sticky.Ladder.of(np.array([19.99]), np.array([[12.34, *[nan] * 4]]), ATOMS, grid.of(habits(NINES)))
    assert 12.34 in ladder.values


def test_a_shop_s_forecasts_lie_on_its_grid():
    """Through a whole forecast of the counting table: what is not a posted price is one that could be."""
    from forecastbook import models

    panel = posted_panel(40, 90, gaps=0.0)
    panel = replace(panel, y=np.floor(panel.y) + 0.99)
    q, *_ = models.forecast(models.fit("table", None), panel, 7, np.linspace(0.005, 0.995, 60))
    last = panel.last_value[:, None, None]
    moved = np.abs(q - last) > 0.5
    assert moved.mean() > 0.05 and np.allclose(np.mod(q[moved], 1), 0.99)
