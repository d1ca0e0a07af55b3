"""The posted prices of a shop's own warehouse: what its tables hold, and what happens to facts that break the contract."""

import datetime as dt
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import adds_up, python, reading
from forecastbook.intake import SourceError
from forecastbook.sources import SOURCES
from forecastbook.warehouse import connect

PRICES = SOURCES["warehouse_prices"]
D = dt.date(2024, 3, 10)


def days(n, end=D):
    return [end - dt.timedelta(days=k) for k in range(n)][::-1]


def date_id(day):
    return int(day.strftime("%Y%m%d"))


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
    assert reading(intake, 2, D)["y"] == 4.0
    assert np.isnan(reading(intake, 3, D)["y"]) and not reading(intake, 3, D)["available"]
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
    assert reading(intake, 1, D)["y"] == 5.0 and adds_up(intake)


def test_an_unavailable_fact_claims_no_price(tmp_path):
    house = shop(tmp_path, [*steady(), (1, 2, D, 0.0, False), (2, 3, D, 77.0, False)])
    intake = PRICES.read(job(), house, D)
    assert intake.quarantine.empty and intake.counts["unavailable"] == 2
    assert np.isnan(reading(intake, 2, D)["y"]) and np.isnan(reading(intake, 3, D)["y"])


def test_only_the_window_up_to_the_as_of_date_is_read(tmp_path):
    house = shop(tmp_path, steady(n=30))
    as_of = D - dt.timedelta(days=5)
    intake = PRICES.read(job(history_days=10), house, as_of)
    assert intake.frame["ts"].max() == pd.Timestamp(as_of) and intake.counts["dates"] == 10
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


def test_facts_that_differ_in_their_list_price_alone_are_told_apart_by_it_and_not_by_their_order(tmp_path):
    alike = [(7, 2, D, 4.0, True, listed) for listed in (5.0, None, 6.0, 5.5)]
    for k, rows in enumerate((alike, alike[::-1])):
        (tmp_path / str(k)).mkdir()
        intake = PRICES.read(job(), shop(tmp_path / str(k), [*steady(), *rows]), D)
        assert reading(intake, 2, D)["list_price"] == 6.0 and intake.counts["duplicates resolved"] == 3


def test_one_variant_with_one_day_is_enough_to_read(tmp_path):
    intake = PRICES.read(job(), shop(tmp_path, [(1, 1, D, 5.0)]), D)
    assert (intake.counts["series"], intake.counts["dates"], intake.counts["observed"]) == (1, 1, 1)


def test_facts_and_variants_without_a_key_harm_no_other(tmp_path):
    """A shop's own tables may allow what ours do not: such rows are set aside and counted, and variant 1 stays what it was."""
    house = shop(tmp_path, steady(1) + steady(2, first=2000))
    with duckdb.connect(str(house.path)) as connection:
        for table in ("DimVariant", "FactProductPrice"):
            connection.execute(f"CREATE TABLE mine AS SELECT * FROM {table}; DROP TABLE {table} CASCADE")
            connection.execute(f"ALTER TABLE mine RENAME TO {table}")
        connection.execute("INSERT INTO DimVariant (variant_id, shop_product_id, variant_title) VALUES (NULL, 1, 'x')")
        connection.execute(
            "INSERT INTO FactProductPrice (price_fact_id, variant_id, date_id, current_price, is_available) VALUES "
            f"(9001, NULL, {date_id(D)}, 5, true), (9002, 1, NULL, 5, true), (9003, 1, {date_id(D)}, NULL, true)"
        )
    found = PRICES.read(job(), house, D)
    assert found.counts["observed"] == 20 and set(found.frame["series_id"]) == {"1", "2"} and adds_up(found)
    reasons = found.quarantine.set_index("row")["reason"].to_dict()
    assert reasons == {9001: "missing variant_id", 9002: "missing date_id", 9003: "not a number"}
    assert found.quarantine.set_index("row").loc[[9001, 9002], "value"].isna().all() and found.counts["rows read"] == 23


def test_variants_whose_facts_were_all_refused_are_named(tmp_path):
    refused = [(1, 2, D, 0.0), (2, 2, D, -1.0), (3, 2, D - dt.timedelta(days=1), 0.0)]
    intake = PRICES.read(job(), shop(tmp_path, [*steady(), *refused, (4, 3, D, 0.0, False), (5, 77, D, 5.0)]), D)
    (lost,) = intake.lost.itertuples(index=False)
    assert (lost.series_id, lost.title, lost.rows) == ("2", "NA", 3), "3 is not available, 77 is no variant"
    assert lost.why.startswith("zero price")
    assert adds_up(intake)


def test_facts_of_later_days_none_of_which_can_be_used_are_said(tmp_path):
    until = D - dt.timedelta(days=3)
    house = shop(tmp_path, steady(n=10) + [(2000, 1, D - dt.timedelta(days=1), 6.0)], calendar=days(60, until))
    assert PRICES.span(job(), house)[1] == until, "DimDate ends three days before the facts"
    (said,) = PRICES.read(job(), house, until).remarks
    assert f"4 facts of days after {until}, up to date_id {date_id(D)}, and not one can be used: is DimDate filled" in said
    day = {"date_id": [date_id(D)], "full_date": [D], "year": [D.year], "month": [D.month], "day": [D.day]}
    house.append("DimDate", pa.table(day | {"day_of_week": [D.strftime("%A")]}))
    assert PRICES.read(job(), house, until).remarks == (), "an earlier day was asked for"


def test_text_of_a_long_frame_is_categories_in_order(tmp_path):
    got = PRICES.read(job(), shop(tmp_path, [*steady(2), *steady(1, first=50)], variants=((1, "same"), (2, "same"))), D).frame
    assert list(got["series_id"].cat.categories) == ["1", "2"] and list(got["title"].cat.categories) == ["same"]
    assert got["series_id"].cat.codes.is_monotonic_increasing


def test_keys_that_are_hashes_and_days_a_century_apart_are_told_apart(tmp_path):
    old, ids = dt.date(1924, 3, 10), (3, 2**62 + 11, 2**61)
    rows = [(k, v, d, 1.0 + k) for k, (v, d) in enumerate((v, d) for d in (D, old) for v in ids)]
    house = shop(tmp_path, [*rows, (100, 3, D, 9.0)], variants=[(v, f"t{v}") for v in ids], calendar=[old, D])
    got = PRICES.read(job(history_days=None), house, D)
    wanted = sorted((str(v), pd.Timestamp(d), 9.0 if k == 0 else 1.0 + k) for k, v, d, _ in rows)
    assert list(got.frame[["series_id", "ts", "y"]].itertuples(index=False, name=None)) == wanted
    assert got.counts["duplicates resolved"] == 1 and (got.counts["series"], got.counts["dates"]) == (3, 2) and adds_up(got)


# ---- the sample ----


def test_the_sample_is_loaded_into_an_empty_warehouse_once(tmp_path):
    house = connect(f"duckdb:{tmp_path / 'new' / 'w.duckdb'}")
    assert PRICES.span(job(sample_series=60), house)[1] == dt.date(2017, 12, 31)
    intake = PRICES.read(job(sample_series=60), house, dt.date(2017, 12, 31))
    assert intake.counts["series"] == 60 and intake.counts["rows read"] == intake.counts["rows kept"] > 60 * 200
    assert intake.frame.groupby("series_id", observed=True)["title"].first().is_unique
    assert (intake.frame["list_price"] >= intake.frame["y"] - 0.01).mean() > 0.99
    assert PRICES.ensure_sample(house, 60) is False


def test_two_processes_load_the_sample_once(tmp_path):
    code = (
        f"from forecastbook import pricefacts, warehouse; h = warehouse.connect('duckdb:{tmp_path}/w.duckdb'); h.migrate();"
        "print(pricefacts.PriceFacts().ensure_sample(h, 30))"
    )
    running = [python(code) for _ in range(2)]
    assert sorted(p.communicate(timeout=60)[0].strip() for p in running) == ["False", "True"]
    found = connect(f"duckdb:{tmp_path}/w.duckdb").query("price_held").to_pylist()[0]
    assert found["own"] == 30


def test_killed_while_the_sample_is_loaded_it_is_not_there_and_loads_next_time(tmp_path):
    code = (
        f"from forecastbook import pricefacts, warehouse; h = warehouse.connect('duckdb:{tmp_path}/w.duckdb'); h.migrate();"
        "seen, done = warehouse.DuckDB._insert, []\n"
        "def slow(connection, table, *more, **named):\n"
        "    seen(connection, table, *more, **named); done.append(table)\n"
        "    if len(done) == 2: print('here', flush=True); __import__('time').sleep(60)\n"
        "warehouse.DuckDB._insert = staticmethod(slow); pricefacts.PriceFacts().ensure_sample(h, 30)"
    )
    process = python(code)
    assert process.stdout.readline().strip() == "here"
    process.kill()
    process.communicate()
    house = connect(f"duckdb:{tmp_path}/w.duckdb")
    assert house.query("price_held").to_pylist() == [{"facts": 0, "own": 0}]
    assert PRICES.ensure_sample(house, 30) is True


def test_a_shops_own_empty_price_table_is_an_error_not_a_place_for_the_sample(tmp_path):
    house = shop(tmp_path, [])
    with pytest.raises(SourceError, match="no facts, though DimVariant has 3 rows"):
        PRICES.span(job(), house)[1]
    assert house.query("price_held").to_pylist()[0]["facts"] == 0


def test_a_file_job_before_the_first_price_job_does_not_stand_in_the_samples_way(tmp_path):
    house = connect(f"duckdb:{tmp_path}/w.duckdb")
    house.migrate()
    house.append("DimVariant", pa.table({"variant_id": [1], "shop_product_id": [0], "variant_title": ["from a file"]}))
    assert PRICES.ensure_sample(house, 20) is True


def test_a_server_is_never_filled_with_the_sample():
    assert PRICES.ensure_sample(connect("bigquery:some-project.prices"), 10) is False, "and not asked: there is no such project"
