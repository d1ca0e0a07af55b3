"""The panel: any row order, gaps kept as days, and nothing of what comes after a cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import long_frame, panel_of, posted_panel, posted_prices, same
from forecastbook.panel import build, periods

nan = np.nan


def full(frame=None, horizon=3, days=30):
    """A panel with every kind of column; future values reach ``horizon`` days ahead."""
    frame = posted_prices(5, days, gaps=0.3) if frame is None else frame
    ahead = pd.date_range(frame["ts"].max() + pd.Timedelta(days=1), periods=horizon)
    more = pd.DataFrame({"series_id": np.repeat(frame["series_id"].unique(), horizon), "available": False})
    more["ts"] = np.tile(ahead, frame["series_id"].nunique())
    whole = pd.concat([frame, more], ignore_index=True)
    number = np.arange(len(whole), dtype=float)
    whole = whole.assign(list_price=whole["y"] * 2, promo=number, store="s" + whole["series_id"].astype(str))
    as_of = frame["ts"].max()
    return whole, lambda f: build(f, "D", as_of, past=["list_price"], future=["promo"], static=["store"], horizon=horizon)


# ---- building


@given(st.integers(0, 10**6))
def test_the_order_of_rows_does_not_matter(seed):
    whole, make = full()
    same(make(whole.sample(frac=1, random_state=seed)), make(whole))


def test_every_value_lands_at_its_series_and_day():
    whole, make = full()
    panel = make(whole)
    assert panel.future.shape == (5, 33, 1) and panel.past.shape == (5, 30, 1)
    known = 0
    for row in whole.itertuples():
        n, t = list(panel.ids).index(row.series_id), int((row.ts - pd.Timestamp(panel.dates[0])).days)
        assert panel.future[n, t, 0] == row.promo
        if t < 30:
            known += 1
            assert (panel.y[n, t], panel.past[n, t, 0], panel.available[n, t]) == (row.y, row.list_price, True)
    assert panel.observed.sum() == known == panel.n_obs.sum() and np.isnan(panel.past[~panel.observed]).all()
    assert list(panel.static[:, 0]) == [f"s{i}" for i in panel.ids]


def test_a_day_without_a_row_stays_a_day():
    frame = long_frame([[1, 2, 3, 4, 5]]).drop(index=[1, 2])
    panel = build(frame, "D", "2024-01-05")
    np.testing.assert_array_equal(panel.y, [[1, nan, nan, 4, 5]])
    np.testing.assert_array_equal(panel.available, [[True, False, False, True, True]])


@pytest.mark.parametrize(("start", "end", "count"), [("2024-02-28", "2024-03-01", 3), ("2023-02-28", "2023-03-01", 2)])
def test_the_29th_of_february_is_a_day_only_when_it_is_one(start, end, count):
    frame = pd.DataFrame({"series_id": "a", "ts": pd.to_datetime([start, end]), "y": [1.0, 2.0], "available": True})
    assert len(build(frame, "D", end).dates) == count


def test_days_of_a_clock_change_are_single_days():
    panel = build(long_frame(np.ones((1, 240)), start="2024-03-20"), "D", "2024-11-14")
    assert len(np.unique(panel.dates)) == 240 == len(panel.dates)
    assert np.datetime64("2024-03-31") in panel.dates and np.datetime64("2024-10-27") in panel.dates


def test_the_last_of_several_rows_of_a_day_wins():
    frame = long_frame([[1, 2, 3]])
    again = frame.iloc[[1]].assign(y=9.0, available=False)
    panel = build(pd.concat([frame, again]), "D", "2024-01-03")
    np.testing.assert_array_equal(panel.y, [[1, 9, 3]])
    assert not panel.available[0, 1]
    np.testing.assert_array_equal(build(pd.concat([again, frame]), "D", "2024-01-03").y, [[1, 2, 3]])


def test_rows_after_the_as_of_date_are_not_seen():
    frame = long_frame([[1, 2, 3, 4, 5]])
    panel = build(frame, "D", "2024-01-03", horizon=2)
    np.testing.assert_array_equal(panel.y, [[1, 2, 3]])
    assert str(panel.as_of) == "2024-01-03"


def test_a_series_that_begins_after_the_as_of_date_is_not_in_the_panel():
    frame = long_frame([[1, 2, 3, 4, 5], [nan] * 3 + [7, 8]])
    frame = frame[frame["y"].notna()]
    for future in ([], ["y"]):
        assert list(build(frame, "D", "2024-01-03", horizon=2, future=future).ids) == ["0000"]


def test_the_newest_title_and_attributes_win():
    frame = long_frame([[1, 2, 3], [4, 5, 6]])
    frame["title"], frame["brand"] = list("abcdef"), list("uvwxyz")
    for order in (slice(None), slice(None, None, -1)):
        panel = build(frame[order], "D", "2024-01-03", static=["brand"])
        assert list(panel.titles) == ["c", "f"] and list(panel.static[:, 0]) == ["w", "z"]


def test_ids_stay_text():
    frame = pd.concat([long_frame([[1, 2]]).assign(series_id=i) for i in ("007", "7", "10", "9", "NA")])
    panel = build(frame, "D", "2024-01-02")
    assert list(panel.ids) == ["007", "10", "7", "9", "NA"] and all(isinstance(i, str) for i in panel.ids)


@pytest.mark.parametrize(
    ("freq", "start", "ahead"),
    [("W-MON", "2024-01-01", ["2024-03-11", "2024-03-18"]), ("MS", "2023-05-01", ["2024-03-01", "2024-04-01"])],
)
def test_weeks_and_months_have_their_own_grid(freq, start, ahead):
    y = np.arange(20.0).reshape(2, 10)
    panel = panel_of(y, start, freq)
    assert panel.dates.shape == (10,) and [str(d) for d in panel.horizon_dates(2)] == ahead
    np.testing.assert_array_equal(panel.y, y)
    cut = panel.until(panel.dates[3])
    assert [str(d) for d in cut.horizon_dates(2)] == [str(d) for d in panel.dates[4:6]]


def test_a_date_that_is_not_on_the_grid_is_refused():
    frame = long_frame(np.ones((1, 3)), "2024-01-01", "W-MON")
    odd = frame.assign(ts=[pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-09"), pd.Timestamp("2024-01-15")])
    with pytest.raises(ValueError, match="first day of a period of freq 'W-MON': 1 dates, first 2024-01-09 of series '0000'"):
        build(odd, "W-MON", "2024-01-15")
    with pytest.raises(ValueError, match="2024-01-16 is not on the grid"):
        build(frame, "W-MON", "2024-01-16")


def test_nothing_on_or_before_the_as_of_date_is_an_error():
    with pytest.raises(ValueError, match="no rows on or before 2023-12-31"):
        build(long_frame([[1, 2]]), "D", "2023-12-31")
    with pytest.raises(ValueError, match="no rows"):
        build(long_frame([[1, 2]]).iloc[:0], "D", "2024-01-02")


def test_categorical_text_gives_the_same_panel_whatever_its_categories():
    whole, make = full()
    names = sorted(whole["series_id"].unique())[::-1]
    kinds = {"series_id": pd.CategoricalDtype(["never seen", *names]), "store": "category", "title": "category"}
    same(make(whole.astype(kinds)), make(whole))
    same(make(whole.astype(kinds).sample(frac=1, random_state=1)), make(whole))


# ---- views


@given(cut=st.integers(0, 28), seed=st.integers(0, 99))
def test_a_view_knows_nothing_of_what_comes_after(cut, seed):
    """Everything after the cut is rewritten; each array of the view keeps each bit. Known-ahead columns reach further."""
    whole, make = full()
    panel, draw = make(whole), np.random.default_rng(seed)
    y, past, future, available = panel.y.copy(), panel.past.copy(), panel.future.copy(), panel.available.copy()
    y[:, cut + 1 :] = draw.choice([nan, -1.0, 0.0, 1e9], y[:, cut + 1 :].shape)
    past[:, cut + 1 :], available[:, cut + 1 :] = 1e9, ~available[:, cut + 1 :]
    future[:, cut + 1 + 3 :] = -5
    garbage = replace(panel, y=y, past=past, future=future, available=available)
    before, after = panel.until(panel.dates[cut]), garbage.until(panel.dates[cut])
    same(before, after)
    for name in ("observed", "filled", "last_index", "last_value", "gap", "n_obs", "life"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name), err_msg=name)
    np.testing.assert_array_equal(before.spells(), after.spells())
    assert before.as_of == panel.dates[cut] == before.dates[-1] and before.future.shape[1] == cut + 1 + 3


def test_a_view_is_the_panel_that_would_have_been_built_then():
    frame = posted_prices(5, 40, gaps=0.2)
    panel, date = build(frame, "D", frame["ts"].max()), "2024-01-25"
    then = build(frame[frame["ts"] <= date], "D", date)
    assert list(then.ids) == list(panel.ids)
    same(panel.until(date), then)


@pytest.mark.parametrize("date", ["2023-12-31", "2024-01-31", "2024-06-01"])
def test_a_view_of_a_date_outside_the_panel_is_refused(date):
    with pytest.raises(ValueError, match=f"as-of {date} is not a period"):
        panel_of(np.ones((1, 30))).until(date)


def test_the_truth_after_a_date_ends_with_the_panel():
    panel = panel_of(np.arange(20.0).reshape(2, 10))
    np.testing.assert_array_equal(panel.after("2024-01-07", 3), [[7, 8, 9], [17, 18, 19]])
    np.testing.assert_array_equal(panel.after("2024-01-08", 3), [[8, 9, np.nan], [18, 19, np.nan]])
    with pytest.raises(ValueError, match="nothing is known after 2024-01-10"):
        panel.after("2024-01-10", 3)


def test_a_sample_is_drawn_from_what_has_begun():
    """A view of the past holds rows that begin later: who is drawn must not depend on them."""
    whole = posted_panel(30, 60)
    late = replace(whole, ids=whole.ids + "x", y=np.where(np.arange(60) < 50, nan, whole.y))
    both = replace(
        whole, **{name: np.concatenate([getattr(whole, name), getattr(late, name)]) for name in ("ids", "y")},
        **{name: np.concatenate([getattr(whole, name)] * 2) for name in ("titles", "available", "past", "future", "static")},
    ).until(whole.dates[40])  # fmt: skip
    assert both.sample(10, 3).ids.tolist() == whole.until(whole.dates[40]).sample(10, 3).ids.tolist()
    assert len(both.sample(50, 3)) == 30 and len(both.sample(60, 3)) == 60, "a panel that is small enough is left as it is"


def test_the_last_periods_and_some_rows():
    whole, make = full()
    panel = make(whole)
    late = panel.last(7)
    np.testing.assert_array_equal(late.y, panel.y[:, -7:])
    assert late.future.shape[1] == 10 and late.as_of == panel.as_of
    same(panel.last(999), panel)
    some = panel.take(panel.ids == "0003")
    assert list(some.ids) == ["0003"] and some.future.shape == (1, 33, 1) and some.static.shape == (1, 1)


# ---- what is read off a panel


def test_carried_values_gaps_and_lives_on_a_ragged_panel():
    panel = panel_of([[nan, 5, nan, 6, nan], [1, nan, nan, nan, nan], [nan] * 5, [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(panel.filled, [[nan, 5, 5, 6, 6], [1] * 5, [nan] * 5, [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(panel.last_index, [[-1, 1, 1, 3, 3], [0] * 5, [-1] * 5, [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(panel.last_value, [6, 1, nan, 5])
    assert panel.gap.tolist() == [1, 4, 5, 0] and panel.n_obs.tolist() == [2, 1, 0, 5] and panel.life.tolist() == [4, 5, 0, 5]


def test_spells_are_finished_and_have_a_known_start():
    panel = panel_of([[1, 1, 2, 2, nan, 2, 3, 1, 1], [5] * 9, [nan, nan, 4, 5, 5, nan, 4, nan, 9], [nan] * 9])
    assert panel.spells().tolist() == [4, 1, 3, 2]


def test_shapes_that_do_not_agree_are_refused():
    panel = panel_of(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"panel.y has shape \(2, 3\), wanted \(2, 4\)"):
        replace(panel, y=panel.y[:, 1:])


def test_periods_follow_the_frequency():
    assert [str(d) for d in periods("2024-02-28", 3, "D")] == ["2024-02-28", "2024-02-29", "2024-03-01"]
