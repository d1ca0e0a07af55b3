"""Who is forecast by what, and why the others are not."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from conftest import panel_of, tiny
from forecastbook import roster
from forecastbook.roster import StaleError

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
        *["series_id", "title", "last_value", "last_ts", "n_obs", "gap", "change_rate", "demand_class", "source", "why"]
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


def test_examples_are_the_liveliest_well_observed_series(panel):
    assert roster.examples(roster.roster(panel, tiny()), 2) == ["0006", "0000"]


def test_a_network_needs_history_and_a_series_to_learn_from(panel):
    assert roster.trainable(panel, tiny()) is None
    short = panel.last(34)
    assert roster.trainable(short, tiny()) == "34 periods of history, a network needs 35"
    assert roster.trainable(panel.last(35), tiny()) is None
    assert "no series has 20 observations" in roster.trainable(panel.take([2, 4, 5]), tiny())


def test_old_data_warns_or_stops_as_asked(panel, lines):
    today = dt.date(2024, 3, 10)
    assert "is 10 days old" in roster.freshness(panel, tiny(), today) and "57%" in roster.freshness(panel, tiny(), today)
    assert not lines
    limit = {"max_age_days": 9}
    assert "The limit is 9 days" in roster.freshness(panel, tiny(freshness=limit), today)
    assert len(lines) == 1 and lines[0].startswith("WARNING")
    with pytest.raises(StaleError, match="freshness.action"):
        roster.freshness(panel, tiny(freshness={**limit, "action": "stop"}), today)
    roster.freshness(panel, tiny(freshness={"max_age_days": 10, "action": "stop"}), today)
