"""Who is forecast by what, and why the others are not."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from conftest import panel_of, tiny
from forecastbook import intake, roster, training
from forecastbook.intake import LOST, Intake
from forecastbook.panel import build
from forecastbook.roster import StaleError
from salesdata import sold_units
from salesdata import tiny as sales_job

nan = np.nan


@pytest.fixture
def panel():
    """Plenty, just enough, one short, seen at the limit, gone since the limit, never seen, changing often."""
    T = 60
    y = np.full((7, T), nan)
    y[0], y[1, -20:], y[2, -19:] = 5.0, 5.0, 5.0
    y[3, : T - 28], y[4, : T - 29] = 5.0, 5.0
    y[6] = np.where(np.arange(T) % 2, 5.0, 6.0)
    y[0, 30:] = 6.0
    return panel_of(y)


def test_each_rule_decides_exactly_at_its_limit(panel):
    wanted = ["model", "model", "naive", "model", "excluded", "excluded", "model"]
    assert roster.status(panel, tiny()).tolist() == wanted
    loose = tiny(eligible={"min_observations": 19, "max_gap": 29})
    assert roster.status(panel, loose).tolist() == ["model"] * 5 + ["excluded", "model"]
    assert panel.gap[3] == 28 and panel.gap[4] == 29


def test_a_reason_is_given_for_everyone_left_out(panel):
    why = roster.reasons(panel, tiny())
    assert [w is None for w in why] == [True, True, False, True, False, False, True]
    assert why[2] == "only 19 observations (a model needs 20): the last value"
    assert why[4] == "not seen for 29 periods (limit 28)"
    assert why[5] == "no valid observation up to 2024-02-29"


def test_the_roster_tells_what_was_last_seen_and_how_lively_it_is(panel):
    table = roster.roster(panel, tiny())
    assert list(table.columns) == [
        *["series_id", "title", "last_value", "last_ts", "n_obs", "gap", "change_rate", "demand_class", "source", "why"],
        "refused",
    ]
    assert table["demand_class"].tolist() == ["sticky", *["constant"] * 5, "volatile"]
    assert table["n_obs"].tolist() == [60, 20, 19, 32, 31, 0, 60]
    assert str(table["last_ts"][4]) == "2024-01-31" and table["last_ts"].isna().tolist() == [False] * 5 + [True, False]
    np.testing.assert_allclose(table["change_rate"], [1 / 59, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(table["last_value"], [6, 5, 5, 5, 5, nan, 5])


def test_a_change_across_a_gap_counts_once():
    table = roster.roster(panel_of([[5, nan, nan, 6, nan, 6, 6]]), tiny())
    assert table["change_rate"][0] == pytest.approx(1 / 3)


def test_everyone_is_counted_once_in_the_table_of_reasons(panel):
    counts = roster.eligibility(roster.roster(panel, tiny()))
    assert counts["series"].sum() == 7 and counts.set_index("source")["series"].to_dict()["model, if the gate lets it"] == 4
    assert counts["series"].is_monotonic_decreasing


def test_reasons_of_one_kind_are_alike_and_name_the_period(panel):
    said = set(roster.eligibility(roster.roster(panel, tiny()), "days")["why"])
    assert "not seen for more than 28 days" in said and not any("(limit" in why or "(a model" in why for why in said), said
    why = ["not on offer for 14 periods (limit 12, a year)", "only 1 observation (a model needs 4): IMAPA", None]
    assert roster.kinds(pd.Series(why), "months").tolist() == [
        "not on offer for more than 12 months",
        "fewer than the 4 observations that a model needs: IMAPA",
        None,
    ]


def test_examples_are_the_liveliest_well_observed_series(panel):
    assert roster.examples(roster.roster(panel, tiny()), 2) == ["0006", "0000"]


def test_a_network_needs_history_and_a_series_to_learn_from(panel):
    assert training.trainable(panel, tiny()) is None
    short = panel.last(34)
    assert training.trainable(short, tiny()) == "34 periods of history, a network needs 35"
    assert training.trainable(panel.last(35), tiny()) is None
    assert "no series has 20 observations" in training.trainable(panel.take([2, 4, 5]), tiny())


def test_old_data_warns_or_stops_as_asked(panel, lines):
    today = dt.date(2024, 3, 10)
    assert "is 10 days old" in roster.freshness(panel, tiny(), today) and "57 %" in roster.freshness(panel, tiny(), today)
    assert not lines
    limit = {"max_age_days": 9}
    assert "The limit is 9 days" in roster.freshness(panel, tiny(freshness=limit), today)
    assert not lines, "who asks says it aloud"
    with pytest.raises(StaleError, match="freshness.action"):
        roster.freshness(panel, tiny(freshness={**limit, "action": "stop"}), today)
    roster.freshness(panel, tiny(freshness={"max_age_days": 10, "action": "stop"}), today)


def test_the_default_clock_is_the_later_one_of_local_and_utc(panel, monkeypatch):
    assert roster.clock is intake.today
    monkeypatch.setattr(roster, "clock", lambda: dt.date(2024, 3, 1))
    assert ", is 1 day old, and has a reading of 57 %" in roster.freshness(panel, tiny())


def test_a_month_is_as_old_as_its_last_day(panel):
    months = SimpleNamespace(as_of=np.datetime64("2025-09-01"), y=np.ones((2, 3)))
    said = roster.freshness(months, sales_job(freq="MS", freshness={"max_age_days": 9}), dt.date(2025, 10, 10))
    assert "is not over yet" in roster.freshness(months, sales_job(freq="MS"), dt.date(2025, 9, 20))
    assert said.startswith("The newest month, 2025-09-01, ended 10 days ago. The limit")
    assert (
        roster.overdue(dt.date(2025, 9, 1), sales_job(freq="MS", freshness={"max_age_days": 10}), dt.date(2025, 10, 10)) == ""
    )


def test_a_shop_of_single_copies_teaches_a_network_nothing():
    """Each copy sells within four months of its arrival: no item has a life before a period of which anything is known."""
    draw, y, available = np.random.default_rng(0), np.full((300, 20), nan), np.zeros((300, 20), dtype=bool)
    for n, (first, life) in enumerate(zip(draw.integers(0, 16, 300), draw.integers(1, 5, 300), strict=True)):
        y[n, first:], available[n, first : first + life] = 0, True
        y[n, first + life - 1] = 1
    shop = replace(panel_of(y, freq="MS"), available=available)
    params = sales_job(freq="MS", model={"seeds": 1}, source={"kind": "shop_files"})
    assert training.trainable(shop, params) == "of no item is demand known over 4 periods and in the 3 after them"
    assert training.train(shop, params).network is None, "the trees speak alone"
    lately = replace(shop, available=np.where(np.arange(20) > 11, True, available))
    assert training.trainable(lately, params) is None and training.trainable(lately, params, held=8), (
        "what is held out does not count"
    )


def test_what_a_network_needs_follows_how_far_ahead_it_is_trained(panel):
    assert training.context(tiny()) == 14 + 14 + 7
    assert training.context(tiny(model={"forecast_length": 30})) == 14 + 14 + 30


def test_one_is_not_said_in_the_plural():
    short = panel_of([[nan, nan, 5.0], [5.0, 5.0, 5.0]])
    assert roster.reasons(short, tiny())[0].startswith("only 1 observation (a model")
    assert training.trainable(short.last(1), tiny()).startswith("1 period of history")
    why = "seen in the last period"
    strict = tiny(eligible={"min_observations": 41, "max_gap": 1})
    assert training.trainable(panel_of(np.full((1, 40), 5.0)), strict).endswith(why)
    table = roster.eligibility(roster.roster(panel_of([[nan, nan, 5.0], [nan, 5.0, 5.0]]), tiny()))
    assert len(table) == 1, "one reason, however many observations"


# ---- series of which no row could be used


def read(refused=90, rows=100, lost=(("0003x", "lost tea", 102, "not a number"), ("9999", "milk", 1, "zero price"))):
    bad = {"file": "prices.csv", "sheet": None, "row": [7], "column": "price", "value": "1.445,8", "reason": "not a number"}
    counts = {"rows read": rows, "quarantined: not a number": refused, "quarantined: zero price": 1}
    return Intake(pd.DataFrame(), pd.DataFrame(bad), counts, lost=pd.DataFrame(lost, columns=LOST))


def test_a_series_without_a_usable_row_is_in_the_roster_and_left_out(panel):
    plain, table = roster.roster(panel, tiny()), roster.roster(panel, tiny(), read())
    pd.testing.assert_frame_equal(table[:7], plain)  # the panel's rows, in its order and in their types
    more = table[7:]
    assert more["series_id"].tolist() == ["0003x", "9999"] and more["title"].tolist() == ["lost tea", "milk"]
    assert more["source"].tolist() == ["excluded"] * 2 and more["refused"].tolist() == [102, 1]
    assert more["why"].tolist() == [
        "none of its 102 rows could be used: not a number",
        "its only row could not be used: zero price",
    ]
    assert more["n_obs"].tolist() == [0, 0] and more["last_value"].isna().all() and more["last_ts"].isna().all()
    assert set(more["demand_class"]) == {"unknown"}


def test_of_a_series_that_was_lost_the_price_is_not_known():
    frame = sold_units(3, 20).assign(price=4.0)
    sales = build(frame, "W-MON", frame["ts"].max(), past=["price"])
    table = roster.roster(sales, sales_job(), read())
    assert table["price"][:3].tolist() == [4.0] * 3 and table["price"][3:].isna().all()
    assert roster.examples(table, 1) == ["000"], "of sales the best seller"


def test_a_series_of_the_panel_is_never_lost_and_a_quick_look_leaves_the_later_ones_alone(panel):
    known = read(lost=[(str(panel.ids[0]), "tea", 3, "zero price")])
    assert len(roster.roster(panel, tiny(), known)) == len(panel)
    assert roster.roster(panel, tiny(max_series=7), read())["series_id"].tolist() == [*panel.ids[:7], "0003x"]
    assert len(roster.roster(panel, tiny(max_series=9), read())) == 9, "fewer than that are in the source: all are looked at"


def test_examples_are_series_with_values_though_most_were_lost(panel):
    many = [(f"x{k}", "x", 5, "not a number") for k in range(50)]
    table = roster.roster(panel, tiny(), read(lost=many))
    assert roster.examples(table, 2) == ["0006", "0000"]
    assert set(roster.examples(table, 60)) <= set(panel.ids)
    assert roster.eligibility(table)["series"].max() == 50 and "none of its rows" in roster.eligibility(table)["why"][0]


def test_many_refused_rows_are_said_with_the_commonest_reason_and_an_example():
    assert read(refused=19).refusal() == ""
    said = read(refused=20).refusal()
    assert "21 of 100 rows were refused (21 %), most often: not a number" in said
    assert "price '1.445,8' in row 7 of prices.csv" in said and "2 items have no row left" in said
