"""The sources: what a shop's tables or a user's file hold, and what happens to rows that break the contract."""

import datetime as dt
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import same
from forecastbook import cells, panel, sample, sources
from forecastbook.intake import Intake
from forecastbook.panel import build
from forecastbook.sources import SOURCES, SourceError, ensure_sample
from forecastbook.warehouse import connect

FILE, PRICES = SOURCES["file"], SOURCES["warehouse_prices"]
D = dt.date(2024, 3, 10)


def days(n, end=D):
    return [end - dt.timedelta(days=k) for k in range(n)][::-1]


def date_id(day):
    return int(day.strftime("%Y%m%d"))


# ---- the shop's warehouse ----


def job(**more):
    return SimpleNamespace(**{"kind": "warehouse_prices", "history_days": 400, "sample_series": 500, **more})


def facts(rows):
    """Rows of (price_fact_id, variant_id, day, price[, available[, list price]])."""
    rows = [(*row, True, None)[:6] if len(row) == 4 else (*row, None)[:6] for row in rows]
    ids, variants, when, price, available, listed = zip(*rows, strict=True)
    return pa.table(
        {
            "price_fact_id": ids,
            "variant_id": variants,
            "is_available": available,
            "date_id": [d if isinstance(d, int) else date_id(d) for d in when],
            "current_price": pa.array(price, pa.float64()),
            "original_price": pa.array(listed, pa.float64()),
        }
    )


def shop(tmp_path, rows, variants=((1, "tea"), (2, "NA"), (3, "<script>")), calendar=None):
    house = connect(f"duckdb:{tmp_path / 'shop.duckdb'}")
    house.migrate()
    calendar = days(60) if calendar is None else calendar
    house.append(
        "DimDate",
        pa.table(
            {
                "date_id": [date_id(d) for d in calendar],
                "full_date": calendar,
                "year": [d.year for d in calendar],
                "month": [d.month for d in calendar],
                "day": [d.day for d in calendar],
                "day_of_week": [d.strftime("%A") for d in calendar],
            }
        ),
    )
    if variants:
        ids, titles = zip(*variants, strict=True)
        house.append("DimVariant", pa.table({"variant_id": ids, "shop_product_id": ids, "variant_title": titles}))
    if rows:
        house.append("FactProductPrice", facts(rows))
    return house


def steady(variant=1, n=10, price=5.0, first=1000):
    return [(first + k, variant, d, price) for k, d in enumerate(days(n))]


def value(intake, series, day):
    frame = intake.frame
    at = frame[(frame["series_id"] == str(series)) & (frame["ts"] == pd.Timestamp(day))]
    assert len(at) == 1
    return at.iloc[0]


def adds_up(intake):
    c = intake.counts
    taken = sum(
        n
        for name, n in c.items()
        if name.startswith("quarantined")
        or name in ("duplicates resolved", "after the as-of date", "before the history window")
    )
    known = sum(c.get(name, 0) for name in ("observed", "unavailable", "available without a value", "known ahead"))
    return c["rows read"] == c["rows kept"] + taken and len(intake.frame) == c["rows kept"] == known


def test_prices_become_a_long_frame_with_text_ids_titles_and_list_price(tmp_path):
    house = shop(tmp_path, [(1, 1, D, 5.0, True, 6.0), (2, 2, D, 7.5, True, 0.0), (3, 3, D, 1.0, True, None)])
    intake = PRICES.read(job(), house, PRICES.span(job(), house)[1])
    assert list(intake.frame) == ["series_id", "ts", "y", "available", "title", "list_price"]
    assert intake.frame["ts"].dtype == "datetime64[ns]" and intake.frame["y"].dtype == float
    assert intake.frame["series_id"].tolist() == ["1", "2", "3"]
    assert intake.frame["title"].tolist() == ["tea", "NA", "<script>"]
    assert np.allclose(intake.frame["list_price"], [6.0, np.nan, np.nan], equal_nan=True)
    assert intake.quarantine.empty and adds_up(intake)


def test_of_several_facts_the_highest_id_wins_also_when_it_is_unavailable(tmp_path):
    house = shop(tmp_path, [*steady(), (7, 2, D, 3.0), (9, 2, D, 4.0), (8, 2, D, 9.0), (20, 3, D, 3.0), (21, 3, D, 3.0, False)])
    intake = PRICES.read(job(), house, D)
    assert value(intake, 2, D)["y"] == 4.0
    assert np.isnan(value(intake, 3, D)["y"]) and not value(intake, 3, D)["available"]
    assert intake.counts["duplicates resolved"] == 3 and intake.counts["unavailable"] == 1 and adds_up(intake)
    assert intake.counts["duplicates with another value"] == 3


def test_each_broken_fact_is_quarantined_with_its_reason(tmp_path):
    bad = [
        (1, 1, D, float("nan"), "not a number", "current_price"),
        (2, 1, D, float("inf"), "not finite", "current_price"),
        (3, 1, D, 0.0, "zero price", "current_price"),
        (4, 1, D, -2.0, "negative", "current_price"),
        (5, 99, D, 5.0, "missing variant", "variant_id"),
        (6, 1, 20240230, 5.0, "impossible date", "date_id"),
        (7, 1, D, 5000.0, "unit error?", "current_price"),
        (8, 1, D, 0.05, "unit error?", "current_price"),
        (9, 1, 29990101, 5.0, "date in the future", "date_id"),
        (10, 1, 7, 5.0, "impossible date", "date_id"),
    ]
    house = shop(tmp_path, steady())
    connection = duckdb.connect(str(house.path))
    for fact_id, variant, day, price, _, _ in bad:  # straight into the table, as a careless loader would
        connection.execute(
            "INSERT INTO FactProductPrice VALUES (?, ?, ?, ?, NULL, TRUE)",
            [fact_id, variant, day if isinstance(day, int) else date_id(day), price],
        )
    connection.close()
    intake = PRICES.read(job(), house, D)
    got = {r.row: (r.reason, r.column) for r in intake.quarantine.itertuples()}
    assert set(got) == {b[0] for b in bad}
    for fact_id, *_, reason, column in bad:
        assert got[fact_id][0].startswith(reason) and got[fact_id][1] == column
    assert intake.quarantine.set_index("row")["value"].to_dict()[7] == "5000.0"
    assert value(intake, 1, D)["y"] == 5.0 and adds_up(intake)


def test_an_unavailable_fact_claims_no_price(tmp_path):
    house = shop(tmp_path, [*steady(), (1, 2, D, 0.0, False), (2, 3, D, 77.0, False)])
    intake = PRICES.read(job(), house, D)
    assert intake.quarantine.empty and intake.counts["unavailable"] == 2
    assert np.isnan(value(intake, 2, D)["y"]) and np.isnan(value(intake, 3, D)["y"])


def test_only_the_window_up_to_the_as_of_date_is_read(tmp_path):
    house = shop(tmp_path, steady(n=30))
    as_of = D - dt.timedelta(days=5)
    intake = PRICES.read(job(history_days=10), house, as_of)
    assert intake.frame["ts"].max() == pd.Timestamp(as_of) and intake.counts["days"] == 10
    assert PRICES.span(job(), house)[1] == D


def test_last_date_is_the_newest_day_with_a_usable_price(tmp_path):
    later = [D + dt.timedelta(days=k) for k in range(1, 9)]
    unusable = [
        (50, 1, later[0], 0.0),
        (51, 98, later[1], 5.0),
        (52, 1, later[2], 5.0, False),
        (53, 1, later[3], float("inf")),
        (54, 1, 29990101, 5.0),
    ]
    house = shop(tmp_path, [*steady(n=5, first=1), *unusable], calendar=[*days(60), *later])
    assert PRICES.span(job(), house)[1] == D


@pytest.mark.parametrize("as_of", [D - dt.timedelta(days=300), D + dt.timedelta(days=1)])
def test_an_as_of_outside_the_data_names_its_first_and_last_day(tmp_path, as_of):
    house = shop(tmp_path, steady(n=10))
    with pytest.raises(SourceError, match=f"{days(10)[0]} to {D}"):
        PRICES.read(job(), house, as_of)


def test_nothing_usable_is_an_error_that_says_what_is_wanted(tmp_path):
    house = shop(tmp_path, [(1, 1, D, 5.0, False)])
    with pytest.raises(SourceError, match="no usable price"):
        PRICES.span(job(), house)[1]


def test_the_fingerprint_follows_the_facts_and_not_their_order(tmp_path):
    rows = [*steady(), *steady(2, price=7.25, first=2000)]
    marks = set()
    for k, version in enumerate((rows, rows[::-1], [*rows[:3], *rows[3:]])):
        (tmp_path / str(k)).mkdir()
        marks.add(PRICES.fingerprint(job(), shop(tmp_path / str(k), version), D))
    assert len(marks) == 1
    swapped = [(*rows[0][:3], 7.25), *rows[1:10], (*rows[10][:3], 5.0), *rows[11:]]
    for k, version in enumerate((rows[1:], [*rows[:-1], (*rows[-1][:3], 7.26)], [*rows[:-1], (*rows[-1], False)], swapped)):
        (tmp_path / f"x{k}").mkdir()
        mark = PRICES.fingerprint(job(), shop(tmp_path / f"x{k}", version), D)
        assert mark not in marks, k
        marks.add(mark)


def test_the_fingerprint_changes_when_a_fact_becomes_known_and_with_nothing_else_of_the_dimensions(tmp_path):
    def mark(name, variants=((1, "tea"),), calendar=None, twice=""):
        (tmp_path / name).mkdir()
        house = shop(tmp_path / name, [*steady(), *steady(2, first=2000)], variants=variants, calendar=calendar or days(20))
        if twice:
            connection = duckdb.connect(str(house.path))
            connection.execute(f"INSERT INTO {twice} SELECT * FROM {twice}")
            connection.close()
        return PRICES.fingerprint(job(), house, D)

    first = mark("first")
    assert mark("titled", variants=[(1, "coffee")]) == first, "a title is no price"
    assert mark("idle", variants=[(1, "tea"), (3, "idle")]) == first, "3 has no fact"
    assert mark("days", calendar=days(30)) == first, "those days have no fact"
    assert mark("variants twice", twice="DimVariant") == first == mark("days twice", twice="DimDate")
    known, day = mark("known", variants=[(1, "tea"), (2, "milk")]), mark("short", calendar=days(20)[:-2])
    assert len({first, known, day, mark("other", variants=[(2, "milk")])}) == 4
    (tmp_path / "wrong").mkdir()
    house = shop(tmp_path / "wrong", [*steady(), *steady(2, first=2000)], variants=[(1, "tea")], calendar=days(20))
    connection = duckdb.connect(str(house.path))
    connection.execute("UPDATE DimDate SET full_date = DATE '2024-03-01' WHERE date_id = 20240310")
    connection.close()
    assert PRICES.fingerprint(job(), house, D) not in (first, known, day), "a day that says another date is none"


def test_facts_of_impossible_days_are_all_counted_and_the_first_thousand_listed(tmp_path):
    rows = [(k, 1, 29990101, 5.0) for k in range(5000, 6500)]
    intake = PRICES.read(job(), shop(tmp_path, [*steady(), *rows]), D)
    assert intake.counts["rows read"] == 1510 and len(intake.quarantine) == 1000 and adds_up(intake)
    assert intake.counts["quarantined: date in the future"] == 1000
    assert intake.counts["quarantined: outside all possible days, not listed"] == 500


@given(st.randoms(use_true_random=False), st.data())
@settings(max_examples=8, deadline=None)
def test_row_order_of_the_facts_never_matters(tmp_path_factory, random, data):
    rows = data.draw(
        st.lists(
            st.tuples(
                st.integers(1, 6),
                st.integers(1, 4),
                st.sampled_from(days(4)),
                st.sampled_from([5.0, 6.0, 0.0, -1.0, 700.0]),
                st.booleans(),
            ),
            max_size=30,
        )
    )
    rows = [*rows, *steady(n=4), *steady(3, n=4)]
    shuffled = random.sample(rows, len(rows))
    one, two = (PRICES.read(job(), shop(tmp_path_factory.mktemp("w"), r), D) for r in (rows, shuffled))
    pd.testing.assert_frame_equal(one.frame, two.frame)
    pd.testing.assert_frame_equal(one.quarantine, two.quarantine)
    assert one.counts == two.counts and adds_up(one)


def test_one_variant_with_one_day_is_enough_to_read(tmp_path):
    intake = PRICES.read(job(), shop(tmp_path, [(1, 1, D, 5.0)]), D)
    assert (intake.counts["series"], intake.counts["days"], intake.counts["observed"]) == (1, 1, 1)


# ---- the sample ----


def python(code):
    environment = {**os.environ, "PYTHONPATH": str(Path(sources.__file__).parent.parent)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_the_sample_is_loaded_into_an_empty_warehouse_once(tmp_path):
    house = connect(f"duckdb:{tmp_path / 'new' / 'w.duckdb'}")
    assert PRICES.span(job(sample_series=60), house)[1] == dt.date(2017, 12, 31)
    intake = PRICES.read(job(sample_series=60), house, dt.date(2017, 12, 31))
    assert intake.counts["series"] == 60 and intake.counts["rows read"] == intake.counts["rows kept"] > 60 * 200
    assert intake.frame.groupby("series_id", observed=True)["title"].first().is_unique
    assert (intake.frame["list_price"] >= intake.frame["y"] - 0.01).mean() > 0.99
    assert ensure_sample(house, 60) is False


def test_the_sample_is_the_same_every_time():
    one, two = sample.build(40), sample.build(40)
    assert all(one[name].equals(two[name]) for name in one)
    assert one["FactProductPrice"]["price_fact_id"].to_pylist() == list(range(1, one["FactProductPrice"].num_rows + 1))
    assert one["DimDate"].num_rows == 365


def test_two_processes_load_the_sample_once(tmp_path):
    code = (
        f"from forecastbook import sources, warehouse; h = warehouse.connect('duckdb:{tmp_path}/w.duckdb'); h.migrate();"
        "print(sources.ensure_sample(h, 30))"
    )
    running = [python(code) for _ in range(2)]
    assert sorted(p.communicate(timeout=60)[0].strip() for p in running) == ["False", "True"]
    found = connect(f"duckdb:{tmp_path}/w.duckdb").query("price_stock").to_pylist()[0]
    assert found["own"] == 30


def test_killed_while_the_sample_is_loaded_it_is_not_there_and_loads_next_time(tmp_path):
    code = (
        f"from forecastbook import sources, warehouse; h = warehouse.connect('duckdb:{tmp_path}/w.duckdb'); h.migrate();"
        "seen, done = warehouse.DuckDB._insert, []\n"
        "def slow(connection, table, *more, **named):\n"
        "    seen(connection, table, *more, **named); done.append(table)\n"
        "    if len(done) == 2: print('here', flush=True); __import__('time').sleep(60)\n"
        "warehouse.DuckDB._insert = staticmethod(slow); sources.ensure_sample(h, 30)"
    )
    process = python(code)
    assert process.stdout.readline().strip() == "here"
    process.kill()
    process.communicate()
    house = connect(f"duckdb:{tmp_path}/w.duckdb")
    assert house.query("price_stock").to_pylist() == [{"facts": 0, "own": 0}]
    assert ensure_sample(house, 30) is True


def test_a_shops_own_empty_price_table_is_an_error_not_a_place_for_the_sample(tmp_path):
    house = shop(tmp_path, [])
    with pytest.raises(SourceError, match="no facts, though DimVariant has 3 rows"):
        PRICES.span(job(), house)[1]
    assert house.query("price_stock").to_pylist()[0]["facts"] == 0


def test_a_file_job_before_the_first_price_job_does_not_stand_in_the_samples_way(tmp_path):
    house = connect(f"duckdb:{tmp_path}/w.duckdb")
    house.migrate()
    house.append("DimVariant", pa.table({"variant_id": [1], "shop_product_id": [0], "variant_title": ["from a file"]}))
    assert ensure_sample(house, 20) is True


def test_a_server_is_never_filled_with_the_sample():
    assert ensure_sample(connect("bigquery:some-project.prices"), 10) is False, "and not asked: there is no such project"


# ---- files ----


def file(path, **more):
    columns = {"series": "sku", "ts": "day", "y": "price", "available": "seen", "title": "name"}
    return SimpleNamespace(
        **{
            "kind": "file",
            "path": str(path),
            "columns": columns,
            "static": [],
            "past": [],
            "future": [],
            "history_days": None,
            "positive": True,
            **more,
        }
    )


def bare(path, **more):
    return file(path, **{"columns": {"series": "sku", "ts": "day", "y": "price"}, **more})


def text(tmp_path, body, name="prices.csv"):
    path = tmp_path / name
    path.write_text(body, encoding="utf-8")
    return path


def parquet(tmp_path, **columns):
    path = tmp_path / "prices.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def read(source, as_of=None):
    intake = FILE.read(source, None, FILE.span(source)[1] if as_of is None else as_of)
    assert adds_up(intake), intake.counts
    return intake


GOOD = "".join(f"a,{d},5.0,true,tea\n" for d in days(6, D - dt.timedelta(days=1)))


@pytest.mark.parametrize(
    "row, column, value, reason",
    [
        (f",{D},5,true,x", "sku", "", "missing series id"),
        (f"  ,{D},5,true,x", "sku", "  ", "missing series id"),
        ("a,,5,true,x", "day", "", "missing date"),
        ("a,2024-02-30,5,true,x", "day", "2024-02-30", "impossible date"),
        ("a,soon,5,true,x", "day", "soon", "impossible date"),
        ("a,0001-01-01,5,true,x", "day", "0001-01-01", "impossible date"),
        ("a,2999-01-01,5,true,x", "day", "2999-01-01", "impossible date"),
        ("a,2150-01-01,5,true,x", "day", "2150-01-01", "date in the future"),
        (f"a,{D},five,true,x", "price", "five", "not a number"),
        (f"a,{D},Rs. 12,true,x", "price", "Rs. 12", "not a number"),
        (f"a,{D},1_000,true,x", "price", "1_000", "not a number"),
        (f"a,{D},inf,true,x", "price", "inf", "not finite"),
        (f"a,{D},1e999,true,x", "price", "1e999", "not finite"),
        (f"a,{D},-5,true,x", "price", "-5", "negative"),
        (f"a,{D},-5,false,x", "price", "-5", "negative"),
        (f"a,{D},0,true,x", "price", "0", "zero price"),
        (f"a,{D},5000,true,x", "price", "5000", "unit error?"),
        (f"a,{D},0.05,true,x", "price", "0.05", "unit error?"),
        (f"a,{D},5,perhaps,x", "seen", "perhaps", "neither yes nor no"),
        (f"a,{D},5", None, f"a,{D},5", "row has 3 cells, wanted 5"),
    ],
)
def test_a_row_that_breaks_the_contract_is_quarantined(tmp_path, row, column, value, reason):
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}{row}\nb,{D},7,true,coffee\n")
    intake = read(file(path))
    assert len(intake.quarantine) == 1
    got = intake.quarantine.iloc[0]
    said = got["reason"].split(" (wanted ")[0]
    assert (got["file"], got["row"], got["column"], got["value"], said) == (str(path), 7, column, value, reason)
    if said in ("impossible date", "not a number"):
        assert {"impossible date": "31.12.2024", "not a number": "1,234.56"}[said] in got["reason"]
    assert intake.counts["rows kept"] == 7 and intake.counts["rows read"] == 8


@pytest.mark.parametrize("cells", ["5,,true", ",true,x", "nan,true,x", ",,x", "NA,false,x", "0,false,x", "5,false,x"])
def test_a_value_that_is_missing_or_not_available_is_not_observed_and_not_wrong(tmp_path, cells):
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}a,{D},{cells}\nb,{D},7,true,coffee\n")
    intake = read(file(path))
    assert intake.quarantine.empty
    y = value(intake, "a", D)["y"]
    assert y == 5.0 if cells == "5,,true" else np.isnan(y)
    assert intake.counts["available without a value"] == (1 if cells in (",true,x", "nan,true,x") else 0)


def test_a_zero_is_a_value_where_zero_is_allowed(tmp_path):
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}a,{D},0,false,x\n")
    intake = read(file(path, positive=False))
    assert value(intake, "a", D)["y"] == 0.0 and not value(intake, "a", D)["available"] and intake.quarantine.empty


def test_the_last_row_of_a_series_and_day_wins_and_is_counted(tmp_path):
    intake = read(bare(text(tmp_path, f"sku,day,price\na,{D},5\na,{D},6\nb,{D},1\na,{D},4\n")))
    assert value(intake, "a", D)["y"] == 4.0 and intake.counts["duplicates resolved"] == 2


TIMES = [f"a,{D} 08:00,5", f"a,{D} 20:00,6", f"a,{D}T12:30:00,7", f"b,{D},1", f"b,{D},2"]


@pytest.mark.parametrize("rows", [TIMES, TIMES[:3][::-1] + TIMES[3:], [TIMES[1], TIMES[3], TIMES[0], TIMES[4], TIMES[2]]])
def test_of_several_times_of_a_day_the_latest_wins_whatever_the_order_of_rows(tmp_path, rows):
    intake = read(bare(text(tmp_path, "\n".join(["sku,day,price", *rows]))))
    assert value(intake, "a", D)["y"] == 6.0 and value(intake, "b", D)["y"] == 2.0
    assert intake.counts["duplicates resolved"] == 3 == intake.counts["duplicates with another value"]


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_a_time_stamp_column_count_on_the_writers_wall(tmp_path, zone, unit):
    stamps = pd.DatetimeIndex([f"{D} 23:30", f"{D} 00:10", f"{D} 23:29"]).tz_localize(zone).as_unit(unit)
    intake = read(bare(parquet(tmp_path, sku=["a"] * 3, day=pa.array(stamps), price=[1.0, 2.0, 1.0])))
    assert value(intake, "a", D)["y"] == 1.0
    assert (intake.counts["duplicates resolved"], intake.counts["duplicates with another value"]) == (2, 1)


def test_times_are_only_looked_at_where_rows_share_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.longfile, "as_times", lambda column: 1 / 0)
    path = text(tmp_path, f"sku,day,price\na,{D} 08:00,5\nb,{D},1\n")
    assert value(read(bare(path)), "a", D)["y"] == 5.0


def test_duplicates_that_say_the_same_are_told_from_those_that_do_not(tmp_path):
    """Not available on the same day is another value too; two empty ones are not."""
    rows = ["a,{},5,true,x", "a,{},5,true,x", "a,{},5,false,x", "b,{},,true,x", "b,{},,true,x", "c,{},1,true,x"]
    counts = read(file(text(tmp_path, "\n".join(["sku,day,price,seen,name", *(row.format(D) for row in rows)])))).counts
    assert (counts["duplicates resolved"], counts["duplicates with another value"]) == (3, 2)


@pytest.mark.parametrize(
    ("sep", "written", "number"),
    [
        (";", "1.445,86", 1445.86),
        (";", "1.234.567,5", 1234567.5),
        (";", "-1.445,86", None),
        (";", "1,445.86", 1445.86),
        (";", "1.234.567", 1234567),
        (";", "1445,86", 1445.86),
        (";", "7.25", 7.25),
        (";", "1.445", None),  # beside 12,5 it may be either
        (";", "14.45,86", None),
        (";", "1.4455,86", None),
        (";", "1.445,86.1", None),
        (";", "€1445,86", None),
        (",", "1,445.86", 1445.86),
        (",", "1.445,86", 1445.86),
        (",", "1,234,567", 1234567),
        (",", "1.445", 1.445),
        (",", "1,445", None),
        (",", "1445,86", None),
        (",", "1,44.86", None),
        (",", "1,445,86", None),
        (",", "€1445.86", None),
    ],
)
def test_marks_between_thousands_are_read_where_they_can_mean_one_thing(tmp_path, sep, written, number):
    other = "12,5" if sep == ";" else "12.5"
    path = text(tmp_path, sep.join(["sku", "day", "price"]) + f'\na{sep}{D}{sep}"{written}"\nb{sep}{D}{sep}{other}\n')
    intake = read(bare(path))
    if number is None:
        wanted = "1234,56, 1.234,56 or 1234.56" if sep == ";" else "1234.56 or 1,234.56"
        reason = "negative" if written[0] == "-" else f"not a number (wanted {wanted})"
        assert intake.quarantine["reason"].tolist() == [reason]
    else:
        assert value(intake, "a", D)["y"] == number and intake.quarantine.empty


def test_decimal_points_in_a_semicolon_file_stay_numbers(tmp_path):
    intake = read(bare(text(tmp_path, f"sku;day;price\na;{D};1.445\nb;{D};12.5\n")))
    assert value(intake, "a", D)["y"] == 1.445 and intake.quarantine.empty


@pytest.mark.parametrize("positive", [True, False])
def test_every_kept_row_is_observed_or_not_available_or_without_a_value(tmp_path, positive):
    body = f"sku,day,price\na,{D},\nb,{D},1\na,{D - dt.timedelta(days=1)},2\n"
    intake = read(bare(text(tmp_path, body), positive=positive))
    assert (intake.counts["rows kept"], intake.counts["observed"], intake.counts["unavailable"]) == (3, 2, 1)
    seen = f"sku,day,price,seen,name\na,{D},4,false,x\nb,{D},1,true,x\nc,{D},,true,x\nd,{D},,false,x\ne,{D},,,x\n"
    counts = read(file(text(tmp_path, seen), positive=positive)).counts
    assert counts["available without a value"] == 1 and counts["unavailable"] == (3 if positive else 2)


# ---- series of which no row could be used


def lost(intake):
    return {row.series_id: (row.title, row.rows, row.why.split(" (")[0]) for row in intake.lost.itertuples()}


def test_series_of_a_file_without_a_usable_row_are_named_with_the_commonest_reason(tmp_path):
    early, late = D - dt.timedelta(days=20), D + dt.timedelta(days=1)
    body = [
        *(f"b,{d},x,true,bread" for d in days(3)),  # b: three no numbers, a zero
        f"b,{D},0,true,bread",
        f"c,{D},-1,true,",
        f"a,{D},x,true,tea",  # a has other rows
        f"d,{late},x,true,later",  # not known yet
        f"e,{early},x,true,before the window",
        "f,2150-01-01,5,true,wrong year",
        "g,never,5,true,no day",
        f"h,{D},,false,not on offer",
        f",{D},x,true,no id",
        f"z,{late},5,true,z",
    ]
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}" + "\n".join(body) + "\n")
    intake = read(file(path, history_days=10), D)
    assert lost(intake) == {
        "b": ("bread", 4, "not a number"),
        "c": ("c", 1, "negative"),
        "f": ("wrong year", 1, "date in the future"),
        "g": ("no day", 1, "impossible date"),
    }
    assert intake.counts["series without a usable row"] == 4 and intake.counts["series"] == 2
    assert lost(read(bare(path), late)).keys() == set("bcdefg"), "e is inside now, d is known"


def test_a_series_of_which_only_what_is_known_ahead_is_left_counts_as_lost(tmp_path):
    late = D + dt.timedelta(days=1)
    path = text(tmp_path, f"sku,day,price,promo\na,{D},5,1\nb,{D},x,1\nb,{late},,1\na,{late},5,1\n")
    assert lost(read(bare(path, future=["promo"]), D)) == {"b": ("b", 1, "not a number")}


def test_variants_whose_facts_were_all_refused_are_named(tmp_path):
    refused = [(1, 2, D, 0.0), (2, 2, D, -1.0), (3, 2, D - dt.timedelta(days=1), 0.0)]
    intake = PRICES.read(job(), shop(tmp_path, [*steady(), *refused, (4, 3, D, 0.0, False), (5, 77, D, 5.0)]), D)
    assert lost(intake) == {"2": ("NA", 3, "zero price")}, "3 is not available, 77 is no variant"
    assert adds_up(intake)


def test_a_file_of_which_most_is_refused_says_so(tmp_path):
    body = "".join(f"s{k};{d};€{k},5\n" for k in range(1, 18) for d in days(3)) + "".join(f"t;{d};4,5\n" for d in days(3))
    path = text(tmp_path, "sku;day;price\n" + body)
    intake = read(bare(path))
    assert len(intake.lost) == 17
    assert "51 of 54 rows were refused (94 %), most often: not a number (wanted 1234,56" in intake.refusal()
    assert f"such as price '€1,5' in row 1 of {path}; 17 items have no row left" in intake.refusal()
    assert read(bare(text(tmp_path, f"sku,day,price\n{GOOD.replace(',true,tea', '')}a,{D},x\n"))).refusal() == ""


def test_ids_and_titles_are_text_exactly_as_written(tmp_path):
    ids = ["007", "7", "NA", "1e5", "чай", "🍵", "x" * 10_000, "<script>", "=cmd|x", "a b"]
    titles = ["NA", "null", "", "nan", 'чай "à la"', "🍵", "y" * 10_000, '"><img onerror', "=1+1", "None"]
    frame = pd.DataFrame({"sku": ids, "day": D, "price": 1.0, "name": titles})
    columns = {"series": "sku", "ts": "day", "y": "price", "title": "name"}
    frame.to_csv(tmp_path / "Цены за май.csv", index=False, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "Цены за май.parquet")
    for path in tmp_path.iterdir():
        out = read(file(path, columns=columns)).frame
        wanted = dict(zip(ids, [t or i for i, t in zip(ids, titles, strict=True)], strict=True))
        assert dict(zip(out["series_id"], out["title"], strict=True)) == wanted, path
        assert out["series_id"].tolist() == sorted(ids)


@pytest.mark.parametrize(
    "ids, wanted",
    [
        (pa.array([1, 22, None], pa.int64()), ["1", "22"]),
        (pa.array([1.0, 22.0, None]), ["1", "22"]),
        (pa.array([1.5, 22.0, float("nan")]), ["1.5", "22"]),
        (pa.array(["007", "b", None]).dictionary_encode(), ["007", "b"]),
        (pa.array([2**63 - 1, -4, None], pa.int64()), ["-4", str(2**63 - 1)]),
    ],
)
def test_ids_of_any_parquet_type_become_canonical_text(tmp_path, ids, wanted):
    intake = read(bare(parquet(tmp_path, sku=ids, day=[D] * 3, price=[1.0, 2.0, 3.0])))
    assert sorted(intake.frame["series_id"]) == sorted(wanted)
    assert intake.quarantine["reason"].tolist() == ["missing series id"]


STAMPS = [dt.datetime(2024, 2, 29, 23, 30), dt.datetime(2024, 3, 9, 12), dt.datetime(2024, 3, 10, 0, 30)]
TRUE_DAYS = [dt.date(2024, 2, 29), dt.date(2024, 3, 9), dt.date(2024, 3, 10)]


@pytest.mark.parametrize(
    "when",
    [
        pa.array(TRUE_DAYS, pa.date32()),
        pa.array(TRUE_DAYS, pa.date64()),
        *[pa.array(STAMPS, pa.timestamp(u)) for u in ("s", "ms", "us", "ns")],
        pa.array(pd.DatetimeIndex(STAMPS).tz_localize("America/New_York")),
        pa.array([str(d) for d in TRUE_DAYS]),
        pa.array([int(d.strftime("%Y%m%d")) for d in TRUE_DAYS]),
        pa.array([d.strftime("%d.%m.%Y") for d in TRUE_DAYS]),
        pa.array([s.isoformat() + "+14:00" for s in STAMPS]),
        pa.array([s.isoformat() + "Z" for s in STAMPS]),
        pa.array([str(d) for d in TRUE_DAYS]).dictionary_encode(),
    ],
    ids=str,
)
def test_dates_of_any_type_are_the_day_on_the_writers_wall(tmp_path, when):
    intake = read(bare(parquet(tmp_path, sku=["a"] * 3, day=when, price=[1.0, 2.0, 3.0])))
    assert [t.date() for t in intake.frame["ts"]] == TRUE_DAYS


def test_daylight_saving_adds_and_loses_no_day(tmp_path):
    hours = pd.date_range("2023-03-01", "2023-11-30 23:00", freq="h", tz="Europe/Berlin")
    intake = read(bare(parquet(tmp_path, sku=["a"] * len(hours), day=pa.array(hours), price=[1.0] * len(hours))))
    assert intake.counts["days"] == 275 and intake.frame["ts"].diff().dropna().eq(pd.Timedelta(days=1)).all()


@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_other_delimiters_quotes_and_the_decimal_comma(tmp_path, sep):
    price = '"12,5"' if sep == "," else "12,5"
    body = sep.join(["sku", "note", "day", "price"]) + "\n" + sep.join(['"a"', '"x\ny"', f"{D:%d.%m.%Y}", price]) + "\n"
    body += sep.join(["b", "", str(D), "7.25"]) + "\n"
    intake = read(bare(text(tmp_path, body)))
    if sep == ";":
        assert value(intake, "a", D)["y"] == 12.5
    else:
        # a comma may also group thousands: not guessed
        assert intake.quarantine["reason"].tolist() == ["not a number (wanted 1234.56 or 1,234.56)"]
    assert value(intake, "b", D)["y"] == 7.25


def test_facts_of_later_days_none_of_which_can_be_used_are_said(tmp_path):
    until = D - dt.timedelta(days=3)
    house = shop(tmp_path, steady(n=10) + [(2000, 1, D - dt.timedelta(days=1), 6.0)], calendar=days(60, until))
    assert PRICES.span(job(), house)[1] == until, "DimDate ends three days before the facts"
    (said,) = PRICES.read(job(), house, until).remarks
    assert f"4 facts of days after {until}, up to date_id {date_id(D)}, and not one can be used: is DimDate filled" in said
    day = {"date_id": [date_id(D)], "full_date": [D], "year": [D.year], "month": [D.month], "day": [D.day]}
    house.append("DimDate", pa.table(day | {"day_of_week": [D.strftime("%A")]}))
    assert PRICES.read(job(), house, until).remarks == (), "an earlier day was asked for"


@pytest.mark.parametrize("unclosed", [(3,), (3, 4), (3, 7), (3, 4000)])
def test_a_quote_that_is_never_closed_does_not_swallow_rows_of_a_file(tmp_path, unclosed):
    rows = [f'item{i % 50},{D - dt.timedelta(days=99 - i // 50)},5.0,"tea, green"\n' for i in range(5000)]
    for i in unclosed:
        rows[i] = rows[i].replace('"tea, green"', '"9 inch')
    path = text(tmp_path, "sku,day,price,title\n" + "".join(rows))
    with pytest.raises(SourceError, match=rf"line {unclosed[0] + 2}: a quoted cell is not closed"):
        read(bare(path))


def test_a_cell_larger_than_what_is_read_at_once_is_named_by_its_line(tmp_path):
    rows = "".join(f"item{i % 50},{D - dt.timedelta(days=i // 2000)},5.0,tea\n" for i in range(100_000))
    path = text(tmp_path, f'sku,day,price,title\na,{D},5.0,"9 inch\n{rows}')
    with pytest.raises(SourceError, match="line 2: a quoted cell is not closed"):
        read(bare(path))


def test_lines_within_a_quoted_text_are_text(tmp_path):
    intake = read(bare(text(tmp_path, f'sku,day,price,title\na,{D},1,"tea\n5,5,5,5\n\ngreen"\n\nb,{D},2,9" inch\nc,{D},3,x\n')))
    assert dict(zip(intake.frame["series_id"], intake.frame["y"], strict=True)) == {"a": 1, "b": 2, "c": 3}
    assert intake.quarantine.empty and adds_up(intake)


def test_torn_rows_do_not_shift_the_numbers_of_others(tmp_path):
    intake = read(bare(text(tmp_path, f"sku,day,price\na,{D},1\ntorn\nb,{D},-1\nc,{D},1,2,3\nd,{D},x\n")))
    assert intake.quarantine["row"].tolist() == [2, 3, 4, 5]
    assert intake.counts["rows read"] == 5 and intake.counts["rows kept"] == 1


def test_later_rows_are_kept_for_future_columns_only_and_without_their_value(tmp_path):
    when = [*days(3), D + dt.timedelta(days=1), D + dt.timedelta(days=2)]
    path = parquet(
        tmp_path,
        sku=["a"] * 5,
        day=when,
        price=[1.0, 2.0, 3.0, 4.0, None],
        promo=[0, 1, 0, 1, 1],
        cost=[1.0, None, 2.0, 9.0, 9.0],
        colour=["red", None, "NA", "red", "red"],
    )
    source = bare(path, future=["promo"], past=["cost"], static=["colour"])
    intake = read(source, D)
    assert intake.frame["promo"].tolist() == [0, 1, 0, 1, 1]
    assert np.isnan(intake.frame["y"].to_numpy()[3:]).all() and not intake.frame["available"].to_numpy()[3:].any()
    assert intake.frame["colour"].tolist() == ["red", "", "NA", "red", "red"]
    built = panel.build(intake.frame, "D", D, past=["cost"], future=["promo"], static=["colour"], horizon=2)
    assert built.y.shape == (1, 3) and built.future.shape == (1, 5, 1)
    assert FILE.span(source)[1] == D + dt.timedelta(days=1)
    plain = read(bare(path), D)
    assert len(plain.frame) == 3 and plain.counts["after the as-of date"] == 2


def test_a_covariate_that_is_no_number_is_left_empty_and_noted(tmp_path):
    path = text(tmp_path, f"sku,day,price,cost\na,{D},1,cheap\nb,{D},2,3.5\n")
    intake = read(bare(path, past=["cost"]))
    assert intake.quarantine[["row", "column", "value"]].values.tolist() == [[1, "cost", "cheap"]]
    assert np.isnan(value(intake, "a", D)["cost"]) and value(intake, "b", D)["cost"] == 3.5


def test_history_days_cuts_the_past(tmp_path):
    path = parquet(tmp_path, sku=["a"] * 30, day=days(30), price=[1.0] * 30)
    intake = read(bare(path, history_days=10))
    assert intake.counts["rows kept"] == 10 and intake.counts["before the history window"] == 20


def test_all_missing_columns_are_named_with_the_nearest(tmp_path):
    path = text(tmp_path, f"SKU,date,price_eur,seen\na,{D},1,true\n")
    with pytest.raises(SourceError) as error:
        FILE.span(file(path))[1]
    for words in (
        "'sku' (nearest: 'SKU')",
        "'day'",
        "'price' (nearest: 'price_eur')",
        "'name'",
        "it has SKU, date, price_eur, seen",
    ):
        assert words in str(error.value)
    with pytest.raises(SourceError, match="there 2 times"):
        FILE.span(bare(text(tmp_path, f"sku,day,price,price\na,{D},1,2\n")))[1]


def test_namesakes_among_columns_that_nobody_asked_for_do_no_harm(tmp_path):
    assert len(read(bare(text(tmp_path, f"x,sku,x,day,price,\n1,a,2,{D},1,\n"))).frame) == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x.parquet", b"PAR1 not really", "really a .parquet file"),
        ("x.csv", b"", "is empty"),
        ("x.xlsx", b"x", "wanted a .parquet or .csv"),
        ("x.csv", b"sku,day,price\n", "no usable rows: 0 rows"),
        ("x.csv", "sku,day,price\nчай,2024-03-01,1\n".encode("cp1251"), "UTF-8"),
        ("x.csv", b"sku,day,price\na,never,1\na,2024-03-01,x\n", r"2 rows, 1 not a number \(.*\), 1 impossible date \("),
        ("x.csv", b"sku,day,price\na,01/31/2024,1\n", "row 1: day is '01/31/2024'"),
        ("x.parquet", b"", "really a .parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words) as error:
        FILE.span(bare(tmp_path / name))[1]
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_parquet_a_directory_and_nothing_at_all(tmp_path):
    path = parquet(tmp_path, sku=["a"], day=[D], price=[1.0])
    path.write_bytes(path.read_bytes()[:-20])
    for bad, words in ((path, "complete"), (tmp_path, "is a directory"), (tmp_path / "no.csv", "does not exist")):
        with pytest.raises(SourceError, match=words):
            FILE.span(bare(bad))[1]


@pytest.mark.parametrize("as_of", [D - dt.timedelta(days=30), D + dt.timedelta(days=1)])
def test_an_as_of_outside_the_file_names_its_first_and_last_day(tmp_path, as_of):
    with pytest.raises(SourceError, match=f"{D} to {D}"):
        read(bare(text(tmp_path, f"sku,day,price\na,{D},1\n")), as_of)


def test_the_fingerprint_follows_content_date_and_mapping(tmp_path):
    before = D - dt.timedelta(days=1)
    path = text(tmp_path, f"sku,day,price,p2\na,{before},1,2\na,{D},1,2\n")
    first = FILE.fingerprint(bare(path), None, D)
    assert first == FILE.fingerprint(bare(path), None, str(D))
    other = bare(path, columns=SimpleNamespace(series="sku", ts="day", y="p2", available=None, title=None))
    assert (
        len(
            {
                first,
                FILE.fingerprint(bare(path), None, D - dt.timedelta(days=1)),
                FILE.fingerprint(other, None, D),
                FILE.fingerprint(bare(path, history_days=5), None, D),
            }
        )
        == 4
    )
    text(tmp_path, f"sku,day,price,p2\na,{D},1,3\n")
    assert FILE.fingerprint(bare(path), None, D) != first


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_row_order_of_a_file_never_matters(tmp_path_factory, data):
    n = 24
    price, seen = st.sampled_from(["5", "5.5", "0", "-1", "x", "", "900", "inf"]), st.sampled_from(["true", "false", ""])
    cells = {
        "sku": [f"s{k % 4}" for k in range(n)],
        "day": [str(days(6)[k // 4]) for k in range(n)],
        "price": data.draw(st.lists(price, min_size=n, max_size=n)),
        "seen": data.draw(st.lists(seen, min_size=n, max_size=n)),
    }
    cells["sku"][0], cells["day"][0], cells["price"][0], cells["seen"][0] = "z", str(D), "5", "true"
    frame = pd.DataFrame(cells)
    order = data.draw(st.permutations(range(n)))
    folder = tmp_path_factory.mktemp("f")
    columns = {"series": "sku", "ts": "day", "y": "price", "available": "seen"}
    out = []
    for name, rows in (("one.csv", frame), ("two.csv", frame.iloc[order])):
        rows.to_csv(folder / name, index=False)
        out.append(read(file(folder / name, columns=columns)))
    pd.testing.assert_frame_equal(out[0].frame, out[1].frame)
    assert out[0].counts == out[1].counts
    assert sorted(out[0].quarantine["reason"]) == sorted(out[1].quarantine["reason"])


def test_csv_and_parquet_of_the_same_rows_read_the_same(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"sku": rng.integers(0, 50, 2000), "day": rng.choice(days(60), 2000), "price": rng.uniform(1, 9, 2000).round(2)}
    )
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    one, two = read(bare(tmp_path / "x.csv")), read(bare(tmp_path / "x.parquet"))
    pd.testing.assert_frame_equal(one.frame, two.frame)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1.0, 1.1, 2.0, 100.0, 150.0, 0.01, np.nan])), max_size=40))
@settings(max_examples=200, deadline=None)
def test_unit_errors_are_what_the_median_says(pairs):
    codes, y = np.array([p[0] for p in pairs], dtype=int), np.array([p[1] for p in pairs], dtype=float)
    got = sources.unit_errors(codes, y)
    for k in range(len(y)):
        own = y[(codes == codes[k]) & np.isfinite(y)]
        ratio = 1.0 if np.isnan(y[k]) else abs(np.log(y[k]) - np.median(np.log(own)))
        wanted = np.isfinite(y[k]) and len(own) >= 3 and ratio >= np.log(100) - 1e-9
        assert got[k] == wanted


def test_a_thousand_series_of_800_days_are_read_in_two_seconds(tmp_path):
    n, t = 1000, 800
    when = pd.date_range(end=D, periods=t).values.astype("datetime64[D]")
    path = parquet(
        tmp_path,
        sku=np.repeat([f"s{k:04d}" for k in range(n)], t),
        day=np.tile(when, n),
        price=np.random.default_rng(1).uniform(1, 2, n * t),
        seen=np.ones(n * t, bool),
        name=np.repeat(["x"] * n, t),
    )
    started = time.perf_counter()
    assert read(file(path), D).counts["rows kept"] == n * t
    assert time.perf_counter() - started < 2


def test_the_fingerprint_is_of_what_a_run_reads(tmp_path):
    """A row after the as-of date, another order of rows or another format of file leaves a finished run as it is."""
    earlier, later = D - dt.timedelta(days=1), D + dt.timedelta(days=1)
    rows = [f"a,{earlier},1", f"b,{earlier},2", f"a,{D},3"]
    first = FILE.fingerprint(bare(text(tmp_path, "\n".join(["sku,day,price", *rows]))), None, D)
    for again in (rows[::-1], [*rows, f"a,{later},9"]):
        assert FILE.fingerprint(bare(text(tmp_path, "\n".join(["sku,day,price", *again]))), None, D) == first
    changed = [rows[0], rows[1], f"a,{D},4"]
    assert FILE.fingerprint(bare(text(tmp_path, "\n".join(["sku,day,price", *changed]))), None, D) != first


# ---- how rows find their cell ----


@given(st.lists(st.integers(0, 30), max_size=30), st.sampled_from([1, 7, 10**15]), st.integers(-(10**9), 10**9))
def test_numbers_become_codes_into_their_sorted_distinct_values(values, factor, shift):
    values = np.array(values, dtype=np.int64) * factor + shift
    column = pa.chunked_array([values[:3], values[3:]])
    codes, distinct = cells.numbered(column)
    wanted, inverse = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(distinct, wanted)
    np.testing.assert_array_equal(codes, inverse)


def test_keys_that_are_hashes_and_days_a_century_apart_find_their_cells(tmp_path):
    old, ids = dt.date(1924, 3, 10), (3, 2**62 + 11, 2**61)
    rows = [(k, v, d, 1.0 + k) for k, (v, d) in enumerate((v, d) for d in (D, old) for v in ids)]
    house = shop(tmp_path, [*rows, (100, 3, D, 9.0)], variants=[(v, f"t{v}") for v in ids], calendar=[old, D])
    got = PRICES.read(job(history_days=None), house, D)
    wanted = sorted((str(v), pd.Timestamp(d), 9.0 if k == 0 else 1.0 + k) for k, v, d, _ in rows)
    assert list(got.frame[["series_id", "ts", "y"]].itertuples(index=False, name=None)) == wanted
    assert got.counts["duplicates resolved"] == 1 and (got.counts["series"], got.counts["days"]) == (3, 2) and adds_up(got)
    # a thousand series, each on two days of 150 years: a grid of all cells would be mostly empty
    lines = "".join(f"s{i},{d},{i + 1}\n" for i in range(1000) for d in ("1900-01-01", "2024-03-10"))
    path = text(tmp_path, "sku,day,price\n" + lines)
    sparse = read(bare(path))
    assert len(sparse.frame) == 2000 and sparse.counts["days"] == 2
    assert (sparse.frame["y"] == sparse.frame["series_id"].astype(str).str[1:].astype(int) + 1).all()


def test_text_of_a_long_frame_is_categories_in_order(tmp_path):
    got = PRICES.read(job(), shop(tmp_path, [*steady(2), *steady(1, first=50)], variants=((1, "same"), (2, "same"))), D).frame
    assert list(got["series_id"].cat.categories) == ["1", "2"] and list(got["title"].cat.categories) == ["same"]
    assert got["series_id"].cat.codes.is_monotonic_increasing


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_panel_of_grids_is_the_one_built_from_their_frame(data):
    """Whatever is missing, beaten or refused: dense and long say the same, to the last bit."""
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    ids, colours = np.array(["b", "a", "c", "10", "9"], dtype=object), np.array(["red", "", "red", "blue"], dtype=object)
    codes, day = rng.integers(0, len(ids), n).astype(np.int32), rng.integers(19_000, 19_009, n).astype(np.int32)
    ok = rng.random(n) < 0.8
    ok[0] = True
    made = cells.Cells(ids, codes, day, ok)
    made.resolve()
    y, price = np.where(rng.random(n) < 0.3, np.nan, rng.random(n)), pa.chunked_array([rng.random(n)])
    columns = {"y": y, "available": rng.random(n) < 0.5, "title": (None, ids), "colour": (rng.integers(0, 4, n), colours)}
    grids = made.grids(columns | {"price": price, "cost": y * 2})
    as_of = np.datetime64(int(day[ok].max()) + data.draw(st.integers(0, 3)), "D")
    past = data.draw(st.sampled_from([(), ("price",), ("cost", "price")]))
    intake = Intake(grids, pd.DataFrame(), {})
    dense = intake.panel("D", as_of, past=past, static=("colour",))
    assert "frame" not in vars(intake), "nothing long was made"
    same(dense, build(intake.frame, "D", as_of, past=past, static=("colour",)))
    assert grids.used() == (intake.frame["series_id"].nunique(), intake.frame["ts"].nunique())
