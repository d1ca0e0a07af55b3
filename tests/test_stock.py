"""The stock walk and the features of a month, against numbers worked out by hand, and both directions against each other."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecastbook import stock
from forecastbook.stock import Movements, item_months, month_features, offered, stock_at, walk


def days(*numbers):
    return np.datetime64("2022-01-01") + np.array(numbers)


# ---- the walk ----


def test_a_walk_goes_forwards_and_backwards_from_the_snapshot():
    # two arrive on day 1, one sells on days 2 and 4; the shop holds 3 on the morning of day 3
    arrivals, sales = [[0, 2, 0, 0, 0]], [[0, 0, 1, 0, 1]]
    assert walk([3], arrivals, sales, at=3).tolist() == [[2, 4, 3, 3, 2]]
    assert walk([2], arrivals, sales, at=0).tolist() == [[2, 4, 3, 3, 2]]
    assert walk([2], arrivals, sales, at=5).tolist() == [[2, 4, 3, 3, 2]]


@given(st.data())
def test_forwards_and_backwards_agree_from_any_day(data):
    n, d = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    copies = hnp.arrays(np.int64, (n, d), elements=st.integers(0, 9))
    arrivals, sales = data.draw(copies), data.draw(copies)
    snapshot, at, other = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 50))), *(
        data.draw(st.integers(0, d)) for _ in range(2)
    )  # fmt: skip
    end = walk(snapshot, arrivals, sales, at)
    start = np.column_stack([end[:, 0] - arrivals[:, 0] + sales[:, 0], end])  # stock at the start of each day, and of the next
    assert np.array_equal(start[:, at], snapshot)
    assert np.array_equal(walk(start[:, other], arrivals, sales, other), end)  # from any day's own stock it is the same walk
    assert np.array_equal(np.diff(start, axis=1), arrivals - sales)


def test_what_could_be_sold_on_a_day_is_its_end_and_what_was_sold():
    # one copy arrives and sells on the same day: it was there
    arrivals, sales = [[0, 1, 0]], [[0, 1, 0]]
    end = walk([0], arrivals, sales)
    assert end.tolist() == [[0, 0, 0]]
    assert offered(end, sales).tolist() == [[0, 1, 0]]


# ---- the features of a month ----


def test_features_of_a_month_by_hand():
    # 10 days: in stock on 6 of them, 3 copies sold, mean price 500
    on_hand = [[8, 6, 4, 2, 1, 1, 0, 0, 0, 0]]
    sales = [[1, 0, 1, 0, 0, 1, 0, 0, 0, 0]]
    found = month_features(on_hand, sales, [500.0]).iloc[0]
    assert found["availability"] == 0.6
    assert found["confidence"] == pytest.approx((1 + 1 + 0.8 + 0.4 + 0.2 + 0.2) / 10)
    assert found["masked_mean_units"] == 0.5
    assert found["masked_mean_revenue"] == 250
    assert found["lost_sales_units"] == 4 * 0.5
    assert found["lost_sales_revenue"] == 4 * 250


def test_every_calendar_day_counts_not_only_those_with_a_movement():
    on_hand, sales = np.zeros((1, 31)), np.zeros((1, 31))
    on_hand[0, 20:] = 2  # arrives on the 21st, nothing else ever happens
    found = month_features(on_hand, sales, 1000.0).iloc[0]
    assert found["availability"] == pytest.approx(11 / 31)
    assert found["confidence"] == pytest.approx(11 * 0.4 / 31)


def test_revenue_is_whole_money_cut_off():
    found = month_features([[1, 1, 1, 0]], [[1, 0, 0, 0]], [1000.0]).iloc[0]
    assert found["masked_mean_units"] == pytest.approx(1 / 3)
    assert found["masked_mean_revenue"] == 333 and found["lost_sales_revenue"] == 333


def test_never_in_stock_is_zero_and_not_nan():
    found = month_features(np.zeros((2, 30)), np.zeros((2, 30)), [np.nan, 900.0])
    assert (found.to_numpy() == 0).all() and list(found) == list(stock.FEATURES)


def test_sales_on_a_day_that_is_called_unavailable_do_not_enter_the_mean():
    found = month_features([[0, 1]], [[1, 0]], 100.0).iloc[0]
    assert found["masked_mean_units"] == 0 and found["availability"] == 0.5


def test_prices_may_be_one_number_one_an_item_or_one_a_day():
    on_hand, sales = np.ones((2, 4)), np.eye(2, 4)
    daily = [[100, np.nan, 300, 0], [200, 200, 200, 200]]  # a day without a price does not count
    wanted = [0.25 * 200, 0.25 * 200]
    for price in (200.0, [200.0, 200.0], daily):
        assert month_features(on_hand, sales, price)["masked_mean_revenue"].tolist() == wanted


def test_a_frame_keeps_its_items():
    on_hand = pd.DataFrame([[1, 1]], index=["a"])
    assert month_features(on_hand, on_hand, 1.0).index.tolist() == ["a"]


@pytest.mark.parametrize("shape", [(2,), (2, 0)])
def test_a_month_without_days_is_refused(shape):
    with pytest.raises(ValueError, match="items, days"):
        month_features(np.zeros(shape), np.zeros(shape), 1.0)


# ---- months of items ----


def moves(rows):
    """Rows of (item, day number from 2022-01-01, arrived, sold, price)."""
    item, day, arrived, sold, price = (np.array(column) for column in zip(*rows, strict=True))
    return Movements(item, days(*day), arrived.astype(float), sold.astype(float), sold * price.astype(float))


MONTHS = np.arange(np.datetime64("2022-01"), np.datetime64("2022-04"))


def test_months_of_two_items_by_hand():
    # item 0: 2 copies from before, one sold on 11 January at 900, one on 1 March at 1100. item 1: arrives on 10 February.
    rows = [(0, -50, 2, 0, 0), (0, 10, 0, 1, 900), (0, 59, 0, 1, 1100), (1, 40, 1, 0, 0)]
    found = item_months([0, 1], "2022-04-01", moves(rows), MONTHS, "2022-04-01")
    assert found["units"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert found["revenue"].tolist() == [[900, 0, 1100], [0, 0, 0]]
    assert np.array_equal(found["price"], [[900, 900, 1100], [np.nan] * 3], equal_nan=True)
    assert found["availability"] == pytest.approx(np.array([[1, 1, 1 / 31], [0, 19 / 28, 1]]))
    # item 0, March: in stock on the 1st only, one sold on it: 30 days without it at one copy a day
    assert found["lost_sales_units"][0] == pytest.approx([0, 0, 30]) and found["lost_sales_revenue"][0, 2] == 30 * 1100
    assert found["confidence"][0] == pytest.approx([(11 * 0.4 + 20 * 0.2) / 31, 0.2, 0.2 / 31])
    assert found["closing"].tolist() == [0, 1]


def test_a_snapshot_in_the_middle_or_before_gives_the_same_months():
    rows = [(0, 3, 5, 0, 0), (0, 20, 0, 2, 500), (0, 40, 0, 1, 500), (0, 70, 4, 2, 500)]
    late = item_months([4], "2022-04-01", moves(rows), MONTHS, "2022-04-01")
    for cutoff, snapshot in (("2021-12-31", 0), ("2022-01-25", 3), ("2022-02-11", 2)):
        other = item_months([snapshot], cutoff, moves(rows), MONTHS, "2022-04-01")
        assert all(np.array_equal(late[name], other[name], equal_nan=True) for name in late)
        assert stock_at([snapshot], cutoff, moves(rows), "2022-01-25").tolist() == [3]


def test_days_that_are_not_known_do_not_count():
    rows = [(0, 0, 4, 0, 0), (0, 64, 0, 1, 500), (0, 80, 0, 1, 500)]
    found = item_months([2], "2022-04-01", moves(rows), MONTHS, "2022-03-11")
    assert found["units"][0, 2] == 1 and found["availability"][0, 2] == 1
    assert found["masked_mean_units"][0, 2] == pytest.approx(1 / 10)


@pytest.mark.parametrize("units, seen, missing, wanted", [(10, 20, 10, 15), (1, 28, 2, 1), (3, 20, 10, 5), (1, 20, 10, 1)])
def test_an_incomplete_month_is_filled_with_its_own_mean(units, seen, missing, wanted):
    # 3/20 * 10 = 1.5 -> 2, and 1/20 * 10 = 0.5 -> 0: halves go to the even number
    assert stock.filled(np.array([float(units)]), seen, missing).tolist() == [wanted]
