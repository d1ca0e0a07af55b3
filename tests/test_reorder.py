"""What to reorder: needs against the exact distribution of sums, orders against stocks, and lists that a buyer can act on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecastbook import reorder
from forecastbook.tables import table as html

LEVELS = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q80": 0.8, "q90": 0.9, "q95": 0.95, "q99": 0.99}


def poisson(rates, horizon: int = 4, known=LEVELS) -> pd.DataFrame:
    """The forecast of items that sell by a Poisson law, one item a rate."""
    rate = np.repeat(np.asarray(rates, float), horizon)
    names = [f"i{k:03d}" for k in range(len(rates))]
    columns = {"series_id": np.repeat(names, horizon), "horizon": np.tile(np.arange(1, horizon + 1), len(rates))}
    columns |= {c: stats.poisson.ppf(level, rate) for c, level in known.items()}
    return pd.DataFrame(columns | {"mean": rate, "p_sale": 1 - np.exp(-rate), "last_value": 1.0, "source": "model"})


def stocked(forecast: pd.DataFrame, **columns) -> pd.DataFrame:
    """A series frame for the items of a forecast."""
    ids = pd.unique(forecast["series_id"])
    return pd.DataFrame({"series_id": ids, "title": [f"Item {i}" for i in ids], "demand_class": "smooth"} | columns)


def test_over_one_period_the_need_is_the_interpolated_quantile_rounded_up():
    one = poisson([0.2, 3.0, 40.0, 5000.0], horizon=1)
    assert reorder.total(one, 0.9)["need"].tolist() == one["q90"].tolist()
    half = np.ceil((one["q90"] + one["q95"]) / 2 - 1e-9)
    assert reorder.total(one, 0.925)["need"].tolist() == half.tolist()
    assert reorder.total(one, 0.999)["need"].tolist() == one["q99"].tolist(), "flat above the highest known level"
    assert reorder.total(one, 0.025)["need"].tolist() == np.ceil(one["q05"] / 2).tolist(), "from 0 at level 0"


@pytest.mark.parametrize("horizon", [3, 13])
def test_the_need_of_independent_periods_is_that_of_their_sum(horizon):
    rates = np.array([2.0, 5.0, 20.0, 100.0])
    for level in (0.8, 0.9, 0.95, 0.99):
        found = reorder.total(poisson(rates, horizon), level)["need"].to_numpy()
        exact = stats.poisson.ppf(level, rates * horizon)
        assert (np.abs(found - exact) <= 2 + 0.01 * exact).all(), (level, found, exact)
    alone = poisson(rates, horizon).groupby("series_id")["q90"].sum().to_numpy()
    assert (reorder.total(poisson(rates, horizon), 0.9)["need"] < alone).all(), "bad weeks of an item do not all come at once"


def test_whether_a_need_was_enough_is_told_from_past_dates():
    """Nine of ten sums or some more, as needs are whole units; what was not observed to its end does not count."""
    draw, said = np.random.default_rng(0), poisson(np.repeat([3.0, 20.0], 2500))
    back = pd.concat([said.assign(origin=pd.Timestamp("2024-01-01") + pd.Timedelta(days=28 * k)) for k in range(2)])
    back = back.assign(model="published", y=draw.poisson(np.tile(np.repeat([3.0, 20.0], 10_000), 2)).astype(float))
    need = reorder.total(said, 0.9).set_index("series_id")["need"]
    sold = back.groupby(["origin", "series_id"])["y"].sum().unstack()
    assert (
        reorder.kept(back, 0.9) == (sold <= need[sold.columns].to_numpy()).to_numpy().mean()
        and 0.9 < reorder.kept(back, 0.9) < 0.95
    )
    half = back.assign(y=np.where((back["origin"].dt.day == 29) & (back["horizon"] == 4), np.nan, back["y"]))
    assert reorder.kept(half, 0.9) == reorder.kept(back[back["origin"].dt.day == 1], 0.9)
    assert np.isnan(reorder.kept(back.assign(y=np.nan), 0.9)) and reorder.kept(back.assign(y=1e9), 0.9) == 0


def test_what_is_short_without_a_known_stock_is_all_that_is_expected_to_be_asked_for():
    forecast = poisson([5.0, 20.0])
    for stock in (None, pd.Series([np.nan, 0.0], ["i000", "i001"])):
        assert reorder.total(forecast, 0.9, stock=stock)["short"].tolist() == pytest.approx([20, 80], rel=0.02)


def test_rare_sales_need_more_than_no_stock_over_several_periods():
    rare = poisson([0.1], horizon=4)  # each period's 90 % quantile is 0; that of the sum is 1
    assert rare["q90"].max() == 0 and stats.poisson.ppf(0.9, 0.4) == 1
    assert reorder.total(rare, 0.9)["need"].tolist() == [1.0]


def test_the_need_rises_with_the_level_and_comes_out_the_same_in_any_company():
    forecast = poisson(np.geomspace(0.05, 60, 40))
    needs = np.array([reorder.total(forecast, level)["need"] for level in (0.1, 0.5, 0.8, 0.9, 0.95, 0.99)])
    assert (np.diff(needs, axis=0) >= 0).all() and (needs == np.rint(needs)).all()
    shuffled = forecast.sample(frac=1, random_state=0)
    again = reorder.total(shuffled, 0.9).set_index("series_id")["need"]
    few = reorder.total(forecast[forecast["series_id"] == "i030"], 0.9)["need"]
    assert again.sort_index().tolist() == needs[3].tolist() and few.tolist() == [needs[3][30]]
    assert reorder.total(forecast, 0.9)["expected"].to_numpy() == pytest.approx(4 * np.geomspace(0.05, 60, 40))


def test_many_items_in_chunks_are_as_one_by_one(monkeypatch):
    forecast = poisson(np.linspace(0.1, 9, 50))
    whole = reorder.total(forecast, 0.95)
    monkeypatch.setattr(reorder, "CHUNK", 7)
    pd.testing.assert_frame_equal(reorder.total(forecast, 0.95), whole)


@pytest.mark.parametrize("level", [0.0, 1.0, 90, float("nan")])
def test_a_level_outside_of_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        reorder.total(poisson([1.0]), level)


def test_the_order_fills_the_stock_up_to_the_need_and_no_further():
    forecast = poisson([5.0] * 5)
    series = stocked(forecast, stock=[0, 10, 500, np.nan, -3], price=[2.0, 4.0, 1.0, 3.0, np.nan], lost_units=[0, 1, 2, 3, 4.0])
    rows = reorder.plan(forecast, series, 0.9).set_index("series_id").sort_index()
    need = rows["need"].iloc[0]
    assert rows["order"].tolist() == [need, need - 10, 0, need, need + 3], "oversold copies are owed too"
    assert rows["cost"].iloc[:4].tolist() == [need * 2, (need - 10) * 4, 0, need * 3] and np.isnan(rows["cost"].iloc[4])
    assert rows["periods_of_stock"].iloc[:3].tolist() == pytest.approx([0, 2, 100]) and np.isnan(
        rows["periods_of_stock"].iloc[3]
    )
    assert rows["p_any"].to_numpy() == pytest.approx(1 - np.exp(-20))
    assert rows["level"].eq(0.9).all() and rows["periods"].eq(4).all()
    assert tuple(rows.reset_index()) == reorder.COLUMNS


def test_what_runs_out_first_and_sells_most_is_most_urgent():
    forecast = poisson([20.0, 20.0, 2.0, 20.0, 20.0])
    series = stocked(forecast, stock=[0, 60, 0, 400, np.nan], price=10.0)
    rows = reorder.plan(forecast, series)
    assert rows["series_id"].tolist() == ["i000", "i001", "i002", "i003", "i004"], "a stock nobody knows comes last"
    assert rows["short"].iloc[:3].tolist() == pytest.approx([80, 20, 8], abs=0.7) and rows["short"].iloc[3] < 0.01
    dear = reorder.plan(forecast, series.assign(price=[1, 1, 1000, 1, 1.0]))
    assert dear["series_id"].iloc[0] == "i002", "units that are worth more weigh more"
    assert reorder.reorder(rows, 2)["series_id"].tolist() == ["i000", "i001"]
    assert set(reorder.reorder(rows, None)["series_id"]) == {"i000", "i001", "i002", "i004"}


def test_slow_stock_is_what_hardly_sells_or_lasts_for_long():
    forecast = poisson([0.001, 0.001, 0.05, 30.0, 30.0, 0.001])
    rows = reorder.plan(forecast, stocked(forecast, stock=[1, 9, 3, 10, 5000, 0]))
    assert reorder.slow(rows)["series_id"].tolist() == ["i001", "i000", "i002", "i004"]
    assert reorder.slow(rows, 1)["series_id"].tolist() == ["i001"]
    new = rows.assign(why=np.where(rows["series_id"] == "i001", "only 2 observations (a model needs 4): IMAPA", None))
    assert reorder.slow(new)["series_id"].tolist() == ["i000", "i002", "i004"], "of what is new nobody knows that it is slow"
    assert reorder.slow(reorder.plan(forecast, stocked(forecast))).empty, "no stock is known: nothing can be slow"


def test_lost_sales_are_listed_largest_first():
    forecast = poisson([1.0] * 4)
    rows = reorder.plan(forecast, stocked(forecast, lost_units=[0.0, 7.5, np.nan, 12.0]))
    assert reorder.lost(rows)["series_id"].tolist() == ["i003", "i001"]


def test_a_shop_that_knows_no_stock_no_price_and_no_titles_gets_its_plan_too():
    forecast = poisson([1.0, 9.0])
    series = pd.DataFrame({"series_id": ["i000", "i001"], "title": [None, "Tea"]})
    rows = reorder.plan(forecast.astype({"series_id": "category"}), series.astype("category"))
    assert rows["title"].tolist() == ["Tea", "i000"] and rows["order"].tolist() == rows["need"].tolist()
    shown = reorder.table(reorder.reorder(rows))
    assert list(shown) == ["item", "expected sales, units", "need, units", "order, units"]
    assert reorder.lost(rows).empty and reorder.slow(rows).empty
    empty = reorder.plan(forecast.iloc[:0], series)
    assert list(empty) == list(rows) and empty.empty and reorder.table(reorder.reorder(empty)).empty
    assert len(reorder.total(forecast.iloc[:0], 0.9)) == 0


@pytest.mark.parametrize("kind", ["reorder", "slow", "lost"])
def test_tables_name_their_units_and_say_what_is_not_known(kind):
    forecast = poisson([0.0, 0.2, 1200.0, 3.0])
    series = stocked(forecast, stock=[5, 70, 90, np.nan], price=3.5, lost_units=[0, 2, 1500.25, 1])
    series.loc[2, "title"] = "<script>alert(1)</script>"
    shown = reorder.table(reorder.plan(forecast, series), kind, units="months")
    assert {"item", "stock, units", "stock lasts, months"} <= set(shown)
    text = html(shown, formats=reorder.FORMATS)
    assert "<script>" not in text and "&lt;script&gt;" in text and "unknown" in text and "nan" not in text.lower()
    assert set(shown) - {"item", "demand"} <= set(reorder.FORMATS), "every number has a format"
    assert shown["stock lasts, months"].iloc[-1] == "unknown" and "over 99" in set(shown["stock lasts, months"])
    said = reorder.plan(forecast, series).assign(periods_of_stock=[np.nan, 3.14, 99.0, 99.1]).pipe(reorder.table, kind)
    assert said["stock lasts, weeks"].tolist() == ["unknown", "3.1", "99.0", "over 99"]


def test_curves_of_stock_and_shortage_follow_their_definitions():
    y = np.array([0.0, 0, 1, 3])
    frame = pd.DataFrame({"y": y, "q25": 0.0, "q50": 0.0, "q90": 2.0, "p_sale": 0.5})
    found = reorder.stock_cost(frame)
    assert found["level"].tolist() == [0.5, 0.9] and list(reorder.upper(frame)) == ["q50", "q90"]
    assert found["over"].tolist() == [0, 5 / 4] and found["short"].tolist() == [1, 1 / 4]
    assert found["served"].tolist() == [0.5, 0.75] and found["served_sales"].tolist() == [0, 0.5]
    assert found["honest"].tolist() == pytest.approx([0, 0.8])
    worse = found.assign(over=found["over"] * 2)
    assert reorder.saved(found, worse, 1) == pytest.approx(0.5)
    assert np.isnan(reorder.saved(found, worse.assign(short=worse["short"] + 9), 1)), "not beyond the rival's curve"
    bent = pd.DataFrame(
        {"short": [0.4, 0.1], "over": [1.0, 3.0]}
    )  # at a shortage of 0.2, half way in its logarithm: 2 left over
    assert reorder.saved(pd.DataFrame({"short": [0.2], "over": [2.0]}), bent, 0) == pytest.approx(0)
