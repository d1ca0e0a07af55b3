"""What should be looked at before forecasts are trusted: that it is said, where, and that ordinary data raise no alarm."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pandas as pd
import pytest

from conftest import made_run, panel_of, posted_panel, posted_prices, tiny
from forecastbook import alarms, roster
from forecastbook.intake import Intake, quarantine
from forecastbook.runfiles import RunFiles
from salesdata import sales_panel
from salesdata import tiny as sales_job

LIMIT = {"max_age_days": 9}


def intake(**counts) -> Intake:
    return Intake(pd.DataFrame(), quarantine(), {"rows read": 1000, "rows kept": 1000} | counts)


def titles(found) -> list[str]:
    return [title for title, _ in found]


def test_ordinary_prices_raise_no_alarm():
    panel = posted_panel(40, 200, gaps=0.3)
    assert alarms.of(intake(), panel, tiny()) == []
    weekly = np.full((5, 70), np.nan)
    weekly[:, ::-7] = 3.0
    assert alarms.thin(panel_of(weekly)) == "", "read once a week, on that day all of it"


def test_a_newest_day_with_few_readings_is_named_with_the_last_full_one():
    y = np.full((30, 40), 5.0)
    y[1:, -1] = np.nan
    said = alarms.thin(panel_of(y))
    assert "2024-02-09 has 1 reading where even a quiet day has 30" in said and "AS_OF=2024-02-08" in said
    y[:16, -1] = 5.0
    assert alarms.thin(panel_of(y)) == "", "half of them is a day"
    stray = np.full((30, 80), np.nan)
    stray[:, :39], stray[0, -1] = 5.0, 5.0
    assert "AS_OF=2024-02-08" in alarms.thin(panel_of(stray)), "one row dated forty days after all others"


@pytest.mark.parametrize(("days", "told"), [(alarms.LEAST, False), (alarms.LEAST + 1, True)])
def test_of_a_few_days_it_is_not_known_what_a_full_one_is(days, told):
    y = np.full((30, days), 5.0)
    y[1:, -1] = np.nan
    assert bool(alarms.thin(panel_of(y))) == told


def test_a_thin_day_and_prices_that_jump_are_alarms_of_prices():
    y = np.full((30, 40), 9.0)
    y[0, -1], y[10:, -1] = 90.0, np.nan
    assert titles(alarms.of(intake(), panel_of(y), tiny())) == [
        "The newest day is not complete",
        "Prices far from what is usual",
    ]
    assert titles(alarms.of(intake(), panel_of(y), sales_job())) == ["The newest day is not complete"], "of sales, too few sold"


def test_prices_far_from_what_is_usual_are_named():
    y = np.full((6, 30), 9.0)
    y[0, -1], y[1, -3:], y[2, -1], y[3, :-1] = 90.0, 1.8, 40.0, np.nan
    y[3, -1], y[4, 10] = 900.0, 0.01
    said = alarms.far(panel_of(y))
    assert "of 2 items is 5 times" in said and "Item 0000 at 90.00, usually 9.00, Item 0001 at 1.80" in said
    assert alarms.far(panel_of(y[2:])) == "", "40 is no five times 9; one reading tells nothing; an old slip is no newest price"
    y[5, -15:] = 90.0
    assert "Item 0005" not in alarms.far(panel_of(y)), "it stands there for two weeks: no news"


def test_sales_far_from_what_is_usual_are_named():
    y = np.zeros((4, 30))
    y[:, ::4], y[1, 7], y[2, 7], y[3, 9] = 3.0, 1e7, 299.0, 99.0
    said = alarms.wild(panel_of(y))
    assert alarms.wild(panel_of(np.where(y == 299, 300, y))).startswith("2 items"), "a hundred times as much is enough"
    assert said.startswith("1 item sold at least 100 times as much") and "10,000,000 on 2024-01-08, else at most 3" in said
    rare = np.zeros((1, 30))
    rare[0, [1, 5, 9, 13]], rare[0, 20] = 3.0, 1e7
    assert alarms.wild(panel_of(rare)) and not alarms.wild(panel_of(rare[:, 2:])), "five sales tell what is usual, four do not"
    found = alarms.of(intake(), panel_of(y), sales_job())
    assert titles(found) == ["Sales far from what is usual"]
    assert alarms.of(intake(), sales_panel(), sales_job()) == [], "ordinary sales raise no alarm"


def test_ids_that_look_alike_are_named():
    assert alarms.alike(np.array(["s1", "s2", "S3"], dtype=object)) == ""
    said = alarms.alike(np.array(["s1", "caf\u00e9", "S 1", "s1 ", "cafe\u0301"], dtype=object))
    assert said.startswith("4 ids differ only by spaces") and "'s1' and 's1 '" in said


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"duplicates with another value": 10}, []),
        ({"duplicates with another value": 11}, ["Rows that contradict each other"]),
        ({"quarantined: date in the future": 10}, []),
        ({"quarantined: date in the future": 11}, ["Rows of the future"]),
        ({"quarantined: not a number": 200}, []),
        ({"quarantined: not a number": 201}, ["Many rows could not be used"]),
    ],
)
def test_counts_above_their_limit_are_said(counts, wanted):
    assert titles(alarms.of(intake(**counts), posted_panel(4, 60), tiny())) == wanted


def test_old_data_are_said_or_stop_the_run():
    panel, day = posted_panel(4, 60), dt.date(2024, 2, 29)
    assert alarms.of(intake(), panel, tiny(freshness=LIMIT), day + dt.timedelta(days=9)) == []
    ((title, text),) = alarms.of(intake(), panel, tiny(freshness=LIMIT), day + dt.timedelta(days=10))
    assert title == "The data are old" and "2024-02-29, is 10 days old; the limit is 9 days" in text
    with pytest.raises(roster.StaleError, match="bring the source up to date"):
        alarms.of(intake(), panel, tiny(freshness=LIMIT | {"action": "stop"}), day + dt.timedelta(days=10))


def test_each_alarm_is_logged_and_noted_and_items_that_are_gone_are_named(tmp_path, lines):
    frame = posted_prices(10, 60)
    earlier = made_run(tmp_path, tiny(), frame, dt.date(2024, 2, 20))
    earlier.note(status="done")
    run = made_run(tmp_path, tiny(), frame[frame["series_id"] < "0007"])
    table = alarms.sound(run, intake(**{"quarantined: not a number": 500}), run.panel())
    assert table["title"].tolist() == ["Many rows could not be used", "Many items are gone"]
    assert "3 of the 10 items that the run as of 2024-02-20 had" in table["text"][1]
    assert run.manifest["alarms"] == table.to_dict("records") and lines == [f"WARNING {text}" for text in table["text"]]


def test_items_beyond_those_that_were_asked_for_are_not_called_gone(tmp_path):
    frame = posted_prices(10, 60)
    earlier = made_run(tmp_path, tiny(), frame, dt.date(2024, 2, 20))
    earlier.note(status="done")
    before = RunFiles(earlier.dir)
    few = made_run(tmp_path, tiny(max_series=3), frame).panel()
    assert len(few) == 3 and alarms.gone(few, before, 3) == []
    ((_, text),) = alarms.gone(few.take([0, 2]), before, 2)
    assert "1 of the 3 items" in text, "it stood before the last of those that are there"
    assert "8 of the 10 items" in alarms.gone(few.take([0, 2]), before, 9)[0][1], "there are no more than these"


def test_a_newest_month_in_which_hardly_anything_sold_is_named():
    y = np.ones((40, 12))
    y[12:, -1] = 0
    panel = dataclasses.replace(panel_of(y), freq="MS")
    assert "has 12 items sold where even a quiet month has 40" in alarms.slack(panel)
    assert titles(alarms.of(intake(), panel, sales_job())) == ["The newest month is not complete"]
    y[12:20, -1] = 1
    assert alarms.slack(panel_of(y)) == "", "half of them is a month"
    assert alarms.slack(panel_of(np.delete(y, slice(19, None), 0) * [*[1] * 11, 0])) == "", (
        "of so few, chance may leave out all"
    )


def test_alarms_are_whole_sentences():
    y = np.full((30, 40), 9.0)
    y[0, -1], y[10:, -1] = 90.0, np.nan
    found = alarms.of(intake(), panel_of(y), tiny(freshness=LIMIT))
    assert len(found) == 3 and all(text.endswith((".", "?")) and not text.startswith(title) for title, text in found)


def test_small_sales_that_are_fractions_are_told_and_a_slip_is_not():
    kilos = np.array([[0.35, 0.5, 0.0, 1.2, 0.25] * 4])
    assert "80 %" not in alarms.fractions(panel_of(kilos)) and "grams, not kilograms" in alarms.fractions(panel_of(kilos))
    assert alarms.fractions(panel_of(kilos * 1000)) == "" == alarms.fractions(panel_of(np.rint(kilos)))
    slip = np.ones((10, 200))
    slip[0, 0] = 1.5
    assert alarms.fractions(panel_of(slip)) == ""


def test_covariates_that_are_no_numbers_are_told():
    counts = {"rows read": 100, "covariate left empty: not a number (wanted 1234.56)": 100}
    assert "100 values of past and future columns are no numbers" in alarms._unread(counts)
    assert alarms._unread({"rows read": 100, "covariate left empty: not a number": 20}) == ""
