"""FactSales -> long frame: the sample, whose rows count, what is set aside; and periods without a sale."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import publishing
from conftest import day
from forecastbook import sample
from forecastbook.intake import Intake, SourceError, quiet
from forecastbook.panel import build
from forecastbook.params import File, WarehouseSales
from forecastbook.salesfacts import _attribute, keep_facts
from forecastbook.sources import SOURCES, newest
from forecastbook.warehouse import connect, variant_ids
from salesdata import complete, sold_units

SOURCE = WarehouseSales(kind="warehouse_sales", sample_series=40)
READ = SOURCES["warehouse_sales"]
WEEKS = [day("2024-01-01"), day("2024-01-08"), day("2024-01-15"), day("2024-01-22"), day("2024-01-29")]
MONDAYS = WEEKS[:4]


@pytest.fixture
def house(tmp_path):
    """A warehouse with three items of its own."""
    store = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    store.migrate()
    about = [json.dumps({"department": "Tea"}), None, json.dumps({"department": "Tea", "category": "Green", "brand": 7})]
    items = {"item_id": [1, 2, 3], "title": ["Assam", "Darjeeling", "Sencha"], "attributes_json": pa.array(about, pa.string())}
    store.append("DimItem", pa.table(items))
    return store


def sell(store, rows: list[tuple]) -> None:
    names = ("item_id", "period", "units", "revenue", "list_price", "promotion")
    columns = list(zip(*rows, strict=True))
    kinds = (pa.int64(), pa.date32(), pa.float64(), pa.float64(), pa.float64(), pa.float64())
    store.append("FactSales", pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)}))


def test_sales_become_a_long_frame_with_price_and_attributes(house):
    sell(house, [(1, MONDAYS[0], 4, 10.0, 3.0, 0.5), (3, MONDAYS[1], 2, None, None, None), (1, MONDAYS[2], 1, 2.0, 2.0, 0.0)])
    assert READ.span(SOURCE, house) == (MONDAYS[0], MONDAYS[2])
    frame = READ.read(SOURCE, house, MONDAYS[2]).frame
    assert frame["series_id"].tolist() == ["1", "1", "3"] and frame["y"].tolist() == [4, 1, 2]
    assert frame["title"].tolist() == ["Assam", "Assam", "Sencha"] and frame["available"].all()
    np.testing.assert_allclose(frame["price"], [2.5, 2.0, np.nan])
    assert frame["brand"].tolist() == ["", "", "7"] and frame["department"].tolist() == ["Tea"] * 3
    assert READ.read(SOURCE, house, MONDAYS[0]).frame["y"].tolist() == [4], "nothing after the as-of date"
    late = READ.read(SOURCE.model_copy(update={"history_days": 40}), house, MONDAYS[2])
    assert len(late.frame) == 3
    with pytest.raises(SourceError, match="runs from 2024-01-01 to 2024-01-15"):
        READ.read(SOURCE, house, MONDAYS[3])


def test_of_rows_with_as_many_units_none_counts_because_of_its_place(house):
    """A database keeps no order: the same sales could be other inputs at the next reading."""
    rows = [(1, MONDAYS[0], 4, *more) for more in ((8.0, 3.0, None), (12.0, 2.0, 0.5), (None, 4.0, 1.0), (12.0, None, None))]
    marks = set()
    for each in (rows, rows[::-1], rows[2:] + rows[:2]):
        with duckdb.connect(str(house.path)) as connection:
            connection.execute("DELETE FROM FactSales")
        sell(house, each)
        (kept,) = READ.read(SOURCE, house, MONDAYS[0]).frame.to_dict("records")
        assert (kept["y"], kept["price"], kept["list_price"], kept["promotion"]) == (4, 3.0, 2.0, 0.5)
        marks.add(READ.fingerprint(SOURCE, house, MONDAYS[0]))
    assert len(marks) == 1


def test_rows_that_break_the_contract_are_set_aside_and_counted(house):
    nan = float("nan")
    rows = [(1, MONDAYS[0], 4, 1.0, None, None), (9, MONDAYS[0], 1, 1.0, None, None), (2, MONDAYS[0], -1, 1.0, None, None)]
    rows += [
        (2, MONDAYS[1], float("inf"), 1.0, None, None),
        (1, MONDAYS[0], 6, 1.0, None, None),
        (2, MONDAYS[2], 0, None, None, nan),
    ]
    sell(house, rows)
    intake = READ.read(SOURCE, house, MONDAYS[2])
    assert dict(zip(intake.quarantine["reason"], intake.quarantine["value"], strict=True)) == {
        "missing item: not in DimItem": "9",
        "negative": "-1.0",
        "not finite": "inf",
    }
    counts = intake.counts
    taken = sum(n for rule, n in counts.items() if rule.startswith("quarantined")) + counts["duplicates resolved"]
    assert counts["rows read"] == len(rows) == taken + counts["rows kept"]
    assert counts["duplicates with another value"] == 1
    assert intake.frame.set_index(["series_id", "ts"])["y"].tolist() == [6, 0], "of two rows of one week the larger counts"


def test_items_whose_rows_were_all_refused_are_named(house):
    rows = [(1, MONDAYS[0], 4, 1.0, None, None), (2, MONDAYS[0], -1, 1.0, None, None), (2, MONDAYS[1], -2, 1.0, None, None)]
    sell(house, [*rows, (9, MONDAYS[0], 1, 1.0, None, None), (1, MONDAYS[1], -4, 1.0, None, None)])
    intake = READ.read(SOURCE, house, MONDAYS[0])
    assert intake.lost.values.tolist() == [["2", "Darjeeling", 1, "negative"]], "of what was known then; 9 is no item"
    sell(house, [(1, MONDAYS[1], 3, 1.0, None, None)])
    intake = READ.read(SOURCE, house, MONDAYS[1])
    assert quiet(intake, "W-MON", MONDAYS[1]).lost.values.tolist() == [["2", "Darjeeling", 2, "negative"]]


def test_sales_that_came_from_files_are_another_jobs(house):
    house.append("DimItem", pa.table({"item_id": [5], "title": ["A record"], "from_files": [True]}))
    sell(house, [(5, MONDAYS[3], 4, 1.0, None, None), (1, MONDAYS[0], 2, 1.0, None, None)])
    assert READ.span(SOURCE, house) == (MONDAYS[0], MONDAYS[0])
    assert READ.read(SOURCE, house, MONDAYS[0]).frame["series_id"].tolist() == ["1"]


def test_an_empty_table_gets_the_sample_once_and_only_where_it_is_nobodys(tmp_path, house):
    store = connect(f"duckdb:{tmp_path / 'new.duckdb'}")
    store.migrate()
    store.append("DimItem", pa.table({"item_id": [5], "title": ["A record"], "from_files": [True]}))
    sell(store, [(5, MONDAYS[3], 4, 1.0, None, None)])
    assert READ.ensure_sample(store, 40) is True and READ.ensure_sample(store, 40) is False
    first, last = READ.span(SOURCE, store)
    assert first.weekday() == last.weekday() == 0 and (last - first).days == 51 * 7
    assert len(READ.read(SOURCE, store, last).frame["series_id"].cat.categories) == 40
    with pytest.raises(SourceError, match="DimItem has 3 rows"):
        READ.ensure_sample(house, 40)


def test_the_sample_is_drawn_from_best_sellers_to_slow_ones():
    tables = sample.sales(60)
    facts = tables["FactSales"].to_pandas()
    weeks = facts.groupby("item_id").size()
    assert len(weeks) == 60 == tables["DimItem"].num_rows and weeks.min() >= sample.WEEKS and weeks.max() >= 50
    assert weeks.median() < 30, "half of them are intermittent"
    assert facts["promotion"].between(0, 1).all() and (facts["list_price"] * facts["units"] >= facts["revenue"] - 0.01).all()
    assert tables["FactSales"].equals(sample.sales(60)["FactSales"])
    assert tables["DimItem"]["title"].to_pandas().is_unique


def test_the_fingerprint_follows_the_facts_up_to_the_as_of_date(house):
    sell(house, [(1, MONDAYS[0], 4, 10.0, 3.0, 0.5), (1, MONDAYS[3], 4, 10.0, 3.0, 0.5)])
    before = READ.fingerprint(SOURCE, house, MONDAYS[1])
    sell(house, [(1, MONDAYS[2], 9, 10.0, 3.0, 0.5)])
    assert READ.fingerprint(SOURCE, house, MONDAYS[1]) == before != READ.fingerprint(SOURCE, house, MONDAYS[2])
    sell(house, [(2, MONDAYS[0], 1, 1.0, None, None)])
    assert READ.fingerprint(SOURCE, house, MONDAYS[1]) != before


def test_attributes_that_are_no_object_are_named():
    assert _attribute(None, "brand", "7") == "" and _attribute('{"brand": null}', "brand", "7") == ""
    for text in ("[1]", "{"):
        with pytest.raises(SourceError, match="attributes_json of item 7 is no JSON object"):
            _attribute(text, "brand", "7")


# --- periods without a sale ---------------------------------------------------------------------------------------------


def test_a_period_without_a_row_is_a_zero_from_the_first_sale_to_the_as_of_date():
    days = pd.to_datetime(["2024-01-08", "2024-01-01", "2024-01-22"])
    frame = pd.DataFrame({"series_id": ["a", "b", "b"], "ts": days, "y": [2.0, 1, np.nan], "available": [True, True, False]})
    frame = frame.assign(price=[3.0, 4, 5], title=["A", "B", "B"])
    frame = frame.astype({"series_id": "category", "title": "category"})
    intake = quiet(Intake(frame, pd.DataFrame(), {"observed": 2}), "W-MON", "2024-01-29")
    panel = build(intake.frame, "W-MON", "2024-01-29", past=("price",))
    np.testing.assert_array_equal(panel.y, [[np.nan, 2, 0, 0, 0], [1, 0, 0, np.nan, 0]])
    np.testing.assert_array_equal(panel.available[1], [True, True, True, False, True])
    assert panel.titles.tolist() == ["A", "B"] and np.isnan(panel.past[0, 2:, 0]).all()
    assert intake.counts["periods without a sale, added as 0"] == 6 and intake.counts["observed"] == 8


def test_a_period_of_which_a_row_was_refused_is_not_known(house, tmp_path):
    """What was sold then is no zero: the refused rows may be those of the best weeks."""
    rows = [
        (1, WEEKS[k], 4 if k not in (1, 2) else -1, 1.0, None, None) for k in range(5) if k != 3
    ]  # in week 3 nothing was sold
    sell(house, [*rows, (2, MONDAYS[0], 1, 1.0, None, None), (2, MONDAYS[2], np.nan, 1.0, None, None)])
    intake = quiet(READ.read(SOURCE, house, WEEKS[4]), "W-MON", WEEKS[4])
    y = build(intake.frame, "W-MON", WEEKS[4]).y
    np.testing.assert_array_equal(y, [[4, np.nan, np.nan, 0, 4], [1, 0, np.nan, 0, 0]])
    assert intake.counts["periods with a refused row, not known"] == 3 and not intake.unread.empty
    path = tmp_path / "sales.csv"
    weeks = [f"a,{day:%Y-%m-%d},{units}" for day, units in zip(pd.to_datetime(MONDAYS[:4]), (3, "many", -2, 5), strict=True)]
    path.write_text("\n".join(["id,week,units", *weeks]) + "\n", encoding="utf-8")
    source = File(kind="file", path=str(path), columns={"series": "id", "ts": "week", "y": "units"}, positive=False)
    intake = quiet(SOURCES["file"].read(source, None, MONDAYS[3]), "W-MON", MONDAYS[3])
    np.testing.assert_array_equal(build(intake.frame, "W-MON", MONDAYS[3]).y, [[3, np.nan, np.nan, 5]])
    before = SOURCES["file"].fingerprint(source, None, MONDAYS[3])
    path.write_text("\n".join(["id,week,units", weeks[0], weeks[3]]) + "\n", encoding="utf-8")
    assert SOURCES["file"].fingerprint(source, None, MONDAYS[3]) != before, "without that row it is a zero"


def test_a_period_that_is_added_has_the_text_that_was_known_then():
    """Rows of later weeks, which bring what is known ahead, say nothing of the item's title at the as-of date."""
    days = pd.to_datetime(["2024-01-01", "2024-01-15", "2024-01-29"])
    frame = pd.DataFrame(
        {"series_id": "a", "ts": days, "y": [1.0, 2, np.nan], "available": True, "title": ["old", "old", "new"]}
    )
    frame = frame.assign(promo=1.0).astype({"series_id": "category", "title": "category"})
    rows = quiet(Intake(frame, pd.DataFrame(), {}), "W-MON", "2024-01-22").frame
    assert build(rows, "W-MON", "2024-01-22", future=("promo",), horizon=1).titles.tolist() == ["old"]


def test_dates_off_the_grid_are_named_with_what_to_do():
    frame = sold_units(3)
    frame.loc[1, "ts"] += pd.Timedelta(days=1)
    with pytest.raises(SourceError, match=r"1 dates are not the first day of a period of freq 'W-MON', first \d{4}.*'000'"):
        complete(frame)


def test_a_frequency_that_would_fit_is_named():
    sundays = sold_units(3)
    sundays["ts"] -= pd.Timedelta(days=1)
    with pytest.raises(SourceError, match="all of them would fit freq: W-SUN"):
        complete(sundays)


def test_a_frame_that_is_whole_is_left_alone():
    frame = complete(sold_units(3))
    intake = Intake(frame, pd.DataFrame(), {})
    assert quiet(intake, "W-MON", frame["ts"].max()) is intake


# --- facts that a job's own files bring ---------------------------------------------------------------------------------


def brought(units: dict[str, float], last: dt.date = MONDAYS[1]) -> Intake:
    ids = list(units)
    text, n = pa.array(ids, pa.string()), len(ids)
    facts = {
        "DimItem": pa.table({"series_id": text, "title": text, "attributes_json": pa.array(["{}"] * n)}),
        "FactSales": pa.table({"series_id": text, "period": [last] * n, "units": list(units.values()), "revenue": [1.0] * n}),
        "FactStockMovement": pa.table({"series_id": text, "date": [last] * n, "units": [-u for u in units.values()]}),
        "FactItemMonth": pa.table({"series_id": text, "period": [last] * n, "availability": [1.0] * n}),
    }
    return Intake(pd.DataFrame(), pd.DataFrame(), {}, facts)


def stored(store) -> dict[int, float]:
    with store._open(read_only=True) as connection:
        return dict(
            connection.execute(
                "SELECT source_key, SUM(units) FROM FactSales JOIN DimItem USING (item_id) GROUP BY 1"
            ).fetchall()
        )


def test_facts_from_files_are_written_once_corrected_and_not_shortened_by_a_past_date(tmp_path, lines):
    store = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    keep_facts(Intake(pd.DataFrame(), pd.DataFrame(), {}), store, "vinyl")
    assert not store.exists(), "a source without facts writes nothing"
    keep_facts(brought({"x1": 2, "x2": 3}), store, "vinyl")
    keep_facts(brought({"x1": 2, "x2": 3}), store, "vinyl")
    assert stored(store) == {"x1": 2, "x2": 3}
    keep_facts(brought({"x1": 5, "x2": 3}), store, "vinyl")
    assert stored(store) == {"x1": 5, "x2": 3}
    keep_facts(replace(brought({"x1": 9}, MONDAYS[0]), newest=False), store, "vinyl")
    assert stored(store) == {"x1": 5, "x2": 3} and any("are not written over them" in line for line in lines)


@pytest.mark.parametrize("where", ["duckdb", "bigquery"])
def test_what_corrected_files_no_longer_say_leaves_the_warehouse(tmp_path, emulator, monkeypatch, where):
    """A misspelt artist makes another item: what stood under the wrong name must not be counted beside the right one."""
    emulator.lead(monkeypatch)
    store = connect({"duckdb": f"duckdb:{tmp_path / 'w.duckdb'}", "bigquery": "bigquery:test-project.corrected"}[where])
    keep_facts(brought({"Nothern": 2, "kept": 3}), store, "vinyl")
    keep_facts(brought({"other": 7}), store, "other_shop")
    keep_facts(brought({"Northern": 2, "kept": 3}), store, "vinyl")
    found = store.query("sales_newest")
    assert {(job, newest) for job, newest in zip(found["job"].to_pylist(), found["newest"].to_pylist(), strict=True)} == {
        *[("vinyl", MONDAYS[1]), ("vinyl", None), ("other_shop", MONDAYS[1])]
    }
    unsold = brought({"Northern": 2, "kept": 3})
    unsold.facts["FactSales"] = unsold.facts["FactSales"].slice(0, 1)  # the sale of the other one was none
    keep_facts(unsold, store, "vinyl")
    units = {row["item_id"] for row in store.query("sales_newest").to_pylist() if row["newest"]}
    assert units == {variant_ids([key], [key])["id"][0].as_py() for key in ("Northern", "other")}
    count = {table: f"SELECT COUNT(*) FROM {table}" for table in ("FactSales", "FactItemMonth", "FactStockMovement")}
    assert [publishing.stored(store, text) for text in count.values()] == [[(2,)], [(3,)], [(3,)]]


def test_a_correction_may_take_the_newest_period_away(tmp_path):
    """A sale of March was typed as one of May: the files then end earlier, and that is no run for a past date."""
    store = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    keep_facts(brought({"x1": 1}, MONDAYS[3]), store, "vinyl")
    keep_facts(brought({"x1": 4}, MONDAYS[0]), store, "vinyl")
    assert stored(store) == {"x1": 4} and store.query("sales_newest")["newest"].to_pylist() == [MONDAYS[0]]


def test_what_another_job_or_a_past_date_does_not_know_stays(tmp_path):
    store = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    keep_facts(brought({"x1": 1, "late": 2}, MONDAYS[3]), store, "vinyl")
    keep_facts(brought({"x1": 4}, MONDAYS[0]), store, "older_files")
    assert stored(store) == {"x1": 1, "late": 2}, "another job's files end earlier"
    keep_facts(replace(brought({"x1": 3}, MONDAYS[3]), newest=False), store, "vinyl")
    assert stored(store) == {"x1": 3, "late": 2}, "an earlier day knows fewer items"


@pytest.mark.parametrize("where", ["duckdb", "bigquery"])
def test_facts_without_a_key_are_set_aside_and_an_item_twice_counts_once(tmp_path, emulator, monkeypatch, where):
    emulator.lead(monkeypatch)
    store = connect({"duckdb": f"duckdb:{tmp_path / 'w.duckdb'}", "bigquery": "bigquery:test-project.keyless"}[where])
    store.migrate()
    for text in (  # a shop's own tables may allow what ours do not
        "DROP TABLE DimItem",
        "DROP TABLE FactSales",
        "CREATE TABLE DimItem (item_id INT64, title STRING, source_key STRING, attributes_json STRING, from_files BOOL)",
        "CREATE TABLE FactSales "
        "(item_id INT64, period DATE, units FLOAT64, revenue FLOAT64, list_price FLOAT64, promotion FLOAT64)",
        "INSERT INTO DimItem (item_id, title) VALUES (1, 'one'), (1, 'one'), (2, NULL), (NULL, 'none')",
        "INSERT INTO FactSales (item_id, period, units) VALUES (1, DATE '2024-01-01', 3), (2, DATE '2024-01-08', 1), "
        "(NULL, DATE '2024-01-01', 5), (1, NULL, 7)",
    ):
        publishing.stored(store, text)
    monkeypatch.setattr(store, "looks_only", True)
    found = READ.read(SOURCE.model_copy(update={"static": []}), store, MONDAYS[1])
    assert found.frame[["series_id", "title", "y"]].astype(object).to_numpy().tolist() == [["1", "one", 3.0], ["2", "2", 1.0]]
    assert sorted(found.quarantine["reason"]) == ["missing item_id", "missing period"] and found.counts["rows read"] == 4


def test_the_default_as_of_date_is_a_period_that_is_over():
    from forecastbook.intake import today
    from forecastbook.params import Params
    from salesdata import tiny

    monday = today() - dt.timedelta(days=today().weekday())
    first, before = monday - dt.timedelta(weeks=60), monday - dt.timedelta(weeks=1)
    assert newest((first, monday), tiny(freq="W-MON")) == before == newest((first, before), tiny(freq="W-MON"))
    assert newest((first, monday), Params()) == monday, "a price of today is whole"
    month = today().replace(day=1)
    assert newest((first.replace(day=1), month), tiny(freq="MS")) == (month - dt.timedelta(days=1)).replace(day=1)
    assert newest((monday, monday), tiny(freq="W-MON")) == monday, "there is no other"


def test_sales_read_from_bigquery_are_those_read_from_duckdb(house, emulator, monkeypatch):
    emulator.lead(monkeypatch)
    served = connect("bigquery:test-project.sales_facts")
    served.migrate()
    with pytest.raises(SourceError, match="has 0 facts and no usable row"):
        READ.span(SOURCE, served)
    sample_rows = sample.sales(30)
    for store in (house, served):
        for table, rows in sample_rows.items():
            store.append(table, rows, replacing=("item_id",))
    own = WarehouseSales(kind="warehouse_sales", static=["department"])
    assert READ.span(own, house) == READ.span(own, served)
    as_of = READ.span(own, house)[1]
    pd.testing.assert_frame_equal(READ.read(own, house, as_of).frame, READ.read(own, served, as_of).frame)
    assert READ.fingerprint(own, house, as_of) == READ.fingerprint(own, served, as_of)
