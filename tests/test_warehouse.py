"""The warehouse: publishing happens once and only once, whatever is killed, repeated or done at the same time."""

import datetime as dt
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from forecastbook import publication, warehouse
from forecastbook.warehouse import WarehouseError, connect, variant_ids

H = 7
DAY = dt.date(2024, 3, 1)
MODEL = {
    "model_name": "LSTM_Price_Forecaster",
    "model_version": "v1",
    "model_type": "LSTM_Seq2Seq",
    "training_date": DAY,
    "performance_metrics": {"rel_mae": 0.02, "skill": float("nan")},
    "hyperparameters": {"hidden_size": 128},
}


def prices(ids=(1, 2, 3), as_of=DAY, level=10.0, key="variant_id", **replaced):
    n = len(ids)
    columns = {
        key: [i for i in ids for _ in range(H)],
        "forecast_date": [as_of + dt.timedelta(days=h) for _ in ids for h in range(1, H + 1)],
        "horizon": list(range(1, H + 1)) * n,
        "predicted_price": [level] * n * H,
        "confidence_lower": [level - 1] * n * H,
        "confidence_upper": [level + 1] * n * H,
        "p_change": [0.1] * n * H,
    }
    return pa.table({**columns, **replaced})


def sales(ids=(1, 2), as_of=DAY):
    n = len(ids)
    return pa.table(
        {
            "item_id": [i for i in ids for _ in range(H)],
            "horizon": list(range(1, H + 1)) * n,
            "forecast_date": [as_of + dt.timedelta(days=h) for _ in ids for h in range(1, H + 1)],
            **{q: [float(k)] * n * H for k, q in enumerate(("q05", "q25", "q50", "q75", "q95"))},
        }
    )


def put(house, rows=None, run_id="r1", as_of=DAY, job="prices", **more):
    rows = prices(as_of=as_of) if rows is None else rows
    return house.publish(
        **{
            "job": job,
            "model_id": 100,
            "as_of": as_of,
            "run_id": run_id,
            "table": "FactPriceForecast",
            "rows": rows,
            "model": MODEL,
            **more,
        }
    )


def stored(house, text):
    connection = duckdb.connect(str(house.path), read_only=True)
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def healthy(house):
    return [name for name, ok, _ in house.checks() if not ok] == []


@pytest.fixture
def house(tmp_path):
    out = connect(f"duckdb:{tmp_path / 'склад' / 'the warehouse.duckdb'}")
    out.migrate()
    return out


# ---- urls, SQL texts and schemas ----


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgres:x",
        "duckdb:",
        "duckdb",
        "duckdb::memory:",
        "bigquery:",
        "bigquery:a`; DROP TABLE x.y",
        "bigquery:my-project",
        "bigquery:my-project.a-b",
        "bigquery:my-project.d`x",
        "bigquery:UPPER1.ds",
    ],
)
def test_a_wrong_url_is_refused_with_the_two_forms(url):
    with pytest.raises(WarehouseError, match="bigquery:PROJECT.DATASET") as error:
        connect(url)
    assert "\n" not in str(error.value)


def test_bigquery_is_refused_clearly_until_it_is_built():
    with pytest.raises(WarehouseError, match="not built in this version"):
        connect("bigquery:my-project.prices_eu")


def faults_of(text: str) -> list[str]:
    """What the dialects read differently without saying so."""
    found = []
    for tree in sqlglot.parse(text, read="bigquery"):
        for node in tree.walk():
            if isinstance(node, exp.Div):
                found.append("bare /")
            if isinstance(node, exp.Week | exp.WeekOfYear | exp.DayOfWeek | exp.WeekStart):
                found.append("week function")
            if isinstance(node, exp.Unnest) and node.find(exp.Struct):
                found.append("UNNEST of STRUCTs")
            if isinstance(node, exp.ArrayAgg) and not isinstance(node.this, exp.Column):
                found.append("ARRAY_AGG modifier")
            if isinstance(node, exp.CurrentDate | exp.CurrentTimestamp):
                found.append("the clock")
            if isinstance(node, exp.DataType) and node.this == exp.DataType.Type.DECIMAL and not node.expressions:
                found.append("NUMERIC without precision")
    if re.search(r"\b(ISO)?WEEK\b|DAYOFWEEK|WITH OFFSET|FORMAT\(", re.sub(r"--.*", "", text), re.I):
        found.append("week function")
    return found


@pytest.mark.parametrize("path", sorted(warehouse.SQL.glob("*.sql")), ids=lambda p: p.stem)
def test_sql_stays_off_what_the_dialects_read_differently(path):
    assert faults_of(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a / b",
        "SELECT EXTRACT(DAYOFWEEK FROM d)",
        "SELECT DATE_TRUNC(d, WEEK) FROM t",
        "SELECT ARRAY_AGG(x ORDER BY y) FROM t",
        "SELECT ARRAY_AGG(x LIMIT 1) FROM t",
        "SELECT * FROM UNNEST([STRUCT(1 AS a)])",
        "SELECT CURRENT_DATE()",
        "SELECT CAST(x AS NUMERIC)",
    ],
)
def test_the_lint_sees_each_of_them(text):
    assert faults_of(text)


def test_every_query_has_a_schema_and_a_text_and_only_bound_parameters():
    texts = {p.stem for p in warehouse.SQL.glob("*.sql")} - {"schema", "views", "flip_ledger", "record_model"}
    assert texts == set(warehouse.results())
    assert not [p.name for p in warehouse.SQL.glob("*.sql") if re.search(r"[{}%]", re.sub(r"--.*", "", p.read_text()))]


def test_the_tables_of_the_shop_keep_their_columns():
    assert warehouse.tables()["FactProductPrice"].names == [
        "price_fact_id",
        "variant_id",
        "date_id",
        "current_price",
        "original_price",
        "is_available",
    ]
    assert not warehouse.tables()["FactProductPrice"].field("current_price").nullable
    assert warehouse.tables()["FactPriceForecast"].field("forecast_id").type == pa.string()
    assert warehouse.tables()["PublishLedger"].field("rows").type == pa.int64()


def test_every_result_has_its_declared_schema_empty_or_not(house):
    values = {"job": "prices", "before": DAY, "run_id": "r1", "from_date_id": 1, "to_date_id": 99999999, "today_id": 20250101}
    values |= {"first": dt.date(1900, 1, 1), "last": DAY}
    for filled in (False, True):
        if filled:
            put(house)
            house.append(
                "DimDate",
                pa.table(
                    {
                        "date_id": [20240301],
                        "full_date": [DAY],
                        "year": [2024],
                        "month": [3],
                        "day": [1],
                        "day_of_week": ["Friday"],
                    }
                ),
            )
            house.append(
                "FactProductPrice",
                pa.table(
                    {
                        "price_fact_id": [1],
                        "variant_id": [1],
                        "date_id": [20240301],
                        "current_price": [1.5],
                        "is_available": [True],
                    }
                ),
            )
            house.append("DimItem", pa.table({"item_id": [1], "title": ["tea"]}))
            house.append("FactSales", pa.table({"item_id": [1], "period": [DAY], "units": [2.0]}))
        for name, schema in warehouse.results().items():
            _, wanted = warehouse.statement(name, "duckdb")
            assert house.query(name, {k: values[k] for k in wanted}).schema == schema, name
    assert connect("duckdb:/nowhere/at/all.duckdb").query("ledger").schema == warehouse.results()["ledger"]


def test_a_query_wants_exactly_its_parameters_and_a_known_name(house):
    with pytest.raises(WarehouseError, match=r"takes parameters \['job'\]"):
        house.query("job_price", {"jib": "x"})
    with pytest.raises(WarehouseError, match="no query 'nope'"):
        house.query("nope")


def test_hostile_values_are_only_values(house):
    job = "x'; DROP TABLE PublishLedger; --"
    put(house, job=job, run_id=job)
    assert house.current(job).num_rows == 3 * H
    assert house.published(job).num_rows == 3 * H


# ---- migrate ----


def test_migrating_again_changes_no_byte(house):
    before = hashlib.sha256(house.path.read_bytes()).hexdigest()
    assert house.migrate() == []
    assert hashlib.sha256(house.path.read_bytes()).hexdigest() == before


def shop(tmp_path, *statements):
    path = tmp_path / "shop.duckdb"
    connection = duckdb.connect(str(path))
    for text in statements:
        connection.execute(text)
    connection.close()
    return connect(f"duckdb:{path}")


def test_a_shops_older_table_gets_the_nullable_columns_it_lacks_and_keeps_its_rows(tmp_path, caplog):
    house = shop(
        tmp_path,
        "CREATE TABLE DimVariant (variant_id INTEGER NOT NULL, shop_product_id INTEGER NOT NULL, "
        "variant_title VARCHAR NOT NULL)",
        "INSERT INTO DimVariant VALUES (5, 6, 'tea')",
    )
    assert "added DimVariant.source_key" in house.migrate()
    assert "added DimVariant.source_key" in caplog.text
    assert stored(house, "SELECT * FROM DimVariant") == [(5, 6, "tea", None)]
    put(house, prices(["5", "8"], key="series_id"))
    assert stored(house, "SELECT * FROM DimVariant ORDER BY 1") == [(5, 6, "tea", None), (8, 0, "8", None)]


def test_a_column_of_another_type_is_refused_before_anything_is_written(tmp_path):
    house = shop(
        tmp_path,
        "CREATE TABLE FactPriceForecast (forecast_id BIGINT NOT NULL, variant_id BIGINT NOT NULL, "
        "model_id BIGINT NOT NULL, forecast_date DATE NOT NULL, predicted_price DOUBLE, "
        "confidence_upper DOUBLE, confidence_lower DOUBLE, created_at TIMESTAMP DEFAULT current_timestamp)",
    )
    before = house.path.read_bytes()
    with pytest.raises(WarehouseError, match="FactPriceForecast.forecast_id is BIGINT, wanted string"):
        house.migrate()
    assert house.path.read_bytes() == before


def test_all_conflicts_are_listed_and_a_missing_required_column_is_one(tmp_path):
    house = shop(tmp_path, "CREATE TABLE DimVariant (variant_id VARCHAR)")
    with pytest.raises(WarehouseError) as error:
        house.migrate()
    assert all(f"DimVariant.{c}" in str(error.value) for c in ("variant_id", "shop_product_id", "variant_title"))


# ---- publish ----


def test_a_publication_is_stored_counted_and_current(house):
    receipt = put(house)
    assert (receipt["status"], receipt["rows"], receipt["series"]) == ("published", 3 * H, 3)
    current = house.current("prices")
    assert current.num_rows == 3 * H and set(current["run_id"].to_pylist()) == {"r1"}
    assert set(current["forecast_id"].to_pylist()) == {f"r1-{v}-{h}" for v in (1, 2, 3) for h in range(1, H + 1)}
    entry = house.ledger().to_pylist()[0]
    assert (entry["job"], entry["as_of"], entry["run_id"], entry["rows"]) == ("prices", DAY, "r1", 3 * H)
    assert healthy(house)


def test_a_repeat_changes_nothing_not_even_a_byte(house):
    first = put(house)
    before = house.path.read_bytes()
    second = put(house, prices([3, 1, 2]))  # the same rows in another order
    assert second["status"] == "already published"
    assert (second["content_hash"], second["published_at"]) == (first["content_hash"], first["published_at"])
    assert house.path.read_bytes() == before


def test_the_same_run_with_other_rows_replaces_its_own_rows(house):
    put(house)
    assert put(house, prices([1, 2], level=20.0))["status"] == "replaced"
    assert house.published("r1").num_rows == 2 * H
    assert set(house.current()["predicted_price"].to_pylist()) == {20.0}
    assert healthy(house)


def test_a_new_run_at_the_same_date_takes_over_and_the_old_rows_stay_unseen(house):
    put(house)
    put(house, prices(level=20.0), run_id="r2")
    assert house.ledger().num_rows == 1
    assert set(house.current("prices")["run_id"].to_pylist()) == {"r2"}
    assert house.published("r1").num_rows == 3 * H
    assert set(house.vintages("prices")["run_id"].to_pylist()) == {"r2"}
    assert healthy(house)


def test_vintages_stay_and_the_newest_as_of_is_current_also_after_a_backfill(house):
    later = DAY + dt.timedelta(days=3)
    put(house, run_id="new", as_of=later)
    put(house, prices([1, 2, 3, 4], as_of=DAY), run_id="backfill", as_of=DAY)
    current = house.current()
    assert current.num_rows == 3 * H and set(current["as_of"].to_pylist()) == {later}
    vintages = house.vintages("prices")
    assert vintages.num_rows == 7 * H and set(vintages["as_of"].to_pylist()) == {DAY, later}
    assert set(house.vintages("prices", before=later)["run_id"].to_pylist()) == {"backfill"}
    assert house.vintages("other").num_rows == 0


def test_where_two_jobs_forecast_a_variant_the_newest_as_of_wins_that_variant_only(house):
    put(house, prices([1, 2, 3]), run_id="a", job="prices")
    later = DAY + dt.timedelta(days=2)
    put(house, prices([3, 4], as_of=later), run_id="b", job="mine", as_of=later)
    current = house.current()
    seen = {}
    for row in current.to_pylist():
        seen.setdefault(row["variant_id"], []).append(row["run_id"])
    assert seen == {1: ["a"] * H, 2: ["a"] * H, 3: ["b"] * H, 4: ["b"] * H}
    assert house.current("prices").num_rows == 3 * H  # its own set, whatever others do
    assert healthy(house)


def test_on_equal_as_of_the_later_publication_wins_even_when_the_clock_goes_back(house, monkeypatch):
    put(house, run_id="a", job="one")

    class Past(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr(warehouse, "datetime", Past)
    put(house, run_id="b", job="two")
    put(house, run_id="c", job="one")
    assert set(house.current()["run_id"].to_pylist()) == {"c"}
    assert set(house.current("two")["run_id"].to_pylist()) == {"b"}


def test_sales_go_the_same_way(house):
    put(house, sales(), job="sales", table="FactSalesForecast")
    put(house, prices(), run_id="p1")
    assert house.current("sales").num_rows == 2 * H and "q95" in house.current("sales").column_names
    assert house.current(table="FactSalesForecast").num_rows == 2 * H
    assert house.vintages("sales").num_rows == 2 * H and house.vintages("sales")["predicted"][0].as_py() == 2.0
    assert healthy(house)


def test_the_model_row_is_written_anew_each_time_with_real_json(house):
    put(house)
    put(house, run_id="r2", model={**MODEL, "performance_metrics": {"rel_mae": 0.01}})
    assert stored(
        house,
        "SELECT model_id, model_name, model_type, training_date, performance_metrics_json, hyperparameters_json FROM DimModel",
    ) == [(100, "LSTM_Price_Forecaster", "LSTM_Seq2Seq", DAY, '{"rel_mae": 0.01}', '{"hidden_size": 128}')]
    with pytest.raises(WarehouseError, match="unknown .'metrics'"):
        put(house, run_id="r3", model={"model_name": "x", "model_version": "1", "metrics": {}})


def changed(column, value, at=4):
    rows = prices()
    values = rows[column].to_pylist()
    values[at] = value
    return rows.set_column(rows.schema.get_field_index(column), column, pa.array(values, rows.schema.field(column).type))


@pytest.mark.parametrize(
    "rows, words",
    [
        (prices().slice(0, 0), "no forecasts"),
        (changed("variant_id", None), "variant_id is null"),
        (changed("predicted_price", None), "predicted_price is null"),
        (changed("predicted_price", float("nan")), "predicted_price is null"),
        (changed("confidence_upper", float("inf")), "not finite"),
        (changed("confidence_lower", -0.01), "negative"),
        (changed("confidence_lower", 10.5), "out of order"),
        (changed("confidence_upper", 9.5), "out of order"),
        (changed("p_change", 1.5), "p_change is out of range"),
        (changed("forecast_date", DAY + dt.timedelta(days=1)), "twice"),
        (changed("horizon", 1), "twice"),
        (changed("horizon", 0), "below 1"),
        (changed("forecast_date", DAY), "not after the as-of"),
        (prices().slice(1), "does not have all of 1 .. 7"),
        (prices().drop_columns(["predicted_price"]), "predicted_price is null"),
        (prices().drop_columns(["forecast_date"]), "missing column forecast_date"),
        (prices(extra=["x"] * 3 * H), "unknown column extra"),
        (prices(run_id=["x"] * 3 * H), "fills run_id itself"),
        (prices(horizon=["one"] * 3 * H), "column horizon is string"),
        (prices(["a", None], key="series_id"), "series_id is null"),
        (prices(["a", ""], key="series_id"), "id is empty"),
    ],
)
def test_rows_that_break_the_contract_are_refused_and_nothing_is_written(house, rows, words):
    put(house, run_id="good")
    before = house.path.read_bytes()
    with pytest.raises(WarehouseError, match=words) as error:
        put(house, rows, run_id="bad")
    assert "\n" not in str(error.value)
    assert house.path.read_bytes() == before


def test_a_run_id_belongs_to_one_job_and_date(house):
    put(house)
    with pytest.raises(WarehouseError, match="already published as job 'prices'"):
        put(house, job="other")


def test_publishing_before_migrating_says_so(tmp_path):
    with pytest.raises(WarehouseError, match="migrate"):
        put(connect(f"duckdb:{tmp_path / 'x.duckdb'}"))


# ---- ids ----


def test_integer_ids_are_themselves_and_anything_else_is_hashed():
    assert variant_ids(["7", "-3", "0", str(2**63 - 1)])["id"].to_pylist() == [7, -3, 0, 2**63 - 1]
    for ids in (["7", "007"], ["7", "a"], ["7", str(2**63)], ["7", "-0"], ["7", "1.0"], ["7", " 8"], ["7", "٣"]):
        table = variant_ids(ids)
        assert table["source_key"].to_pylist() == ids and table["id"].to_pylist()[0] != 7
    assert variant_ids(["a"])["id"].to_pylist() == variant_ids(["a", "b"])["id"].to_pylist()[:1]


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_distinct_ids_get_distinct_keys_in_range(ids):
    keys = variant_ids(ids)["id"].to_pylist()
    assert len(set(keys)) == len(ids) and all(-(2**63) <= k < 2**63 for k in keys)


def test_hashed_series_land_in_the_dimension_once_with_their_title(house):
    rows = prices(["007", "чай"], key="series_id", title=["NA"] * H + [None] * H)
    receipt = put(house, rows)
    assert receipt["new_in_dimension"] == 2
    put(house, rows, run_id="r2")
    assert stored(house, "SELECT source_key, variant_title, shop_product_id FROM DimVariant ORDER BY 1") == [
        ("007", "NA", 0),
        ("чай", "чай", 0),
    ]
    assert {r["variant_id"] for r in house.current().to_pylist()} == set(variant_ids(["007", "чай"])["id"].to_pylist())


def test_a_hash_collision_is_an_error_and_nothing_is_written(house, monkeypatch):
    put(house, prices(["a", "b"], key="series_id"))
    before = house.path.read_bytes()
    monkeypatch.setattr(publication, "_hash63", lambda text: 42)
    with pytest.raises(WarehouseError, match="share the hash 42"):
        put(house, prices(["x", "y"], key="series_id"), run_id="r2")
    a = int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "big") >> 1
    monkeypatch.setattr(publication, "_hash63", lambda text: a)
    with pytest.raises(WarehouseError, match="already stands for 'a'"):
        put(house, prices(["x"], key="series_id"), run_id="r2")
    assert house.path.read_bytes() == before


# ---- append and seed ----


def test_append_casts_checks_and_can_replace_by_key(house):
    score = {
        "job": ["p"],
        "model_id": [100],
        "as_of": [DAY],
        "run_id": ["r"],
        "horizon": [1],
        "metric": ["mae"],
        "value": [0.5],
        "n": [10],
        "scored_at": [dt.datetime(2024, 3, 9, tzinfo=dt.UTC)],
    }
    for value in (0.5, 0.25):
        rows = pa.table({**score, "value": [value]})
        assert house.append("ForecastScore", rows, replacing=("job", "as_of", "horizon", "metric")) == 1
    assert stored(house, "SELECT value FROM ForecastScore") == [(0.25,)]
    with pytest.raises(WarehouseError, match="no table 'Nope'"):
        house.append("Nope", pa.table(score))
    with pytest.raises(WarehouseError, match="missing columns job"):
        house.append("ForecastScore", pa.table({"value": [1.0]}))
    with pytest.raises(WarehouseError, match="job is null"):
        house.append("ForecastScore", pa.table({**score, "job": pa.array([None], pa.string())}))


def test_seed_fills_an_empty_table_once_and_leaves_a_full_one(house):
    facts = {
        "FactProductPrice": pa.table(
            {
                "price_fact_id": [1, 2],
                "variant_id": [1, 1],
                "date_id": [20240301, 20240302],
                "current_price": [1.0, 2.0],
                "is_available": [True, True],
            }
        ),
        "DimVariant": pa.table({"variant_id": [1], "shop_product_id": [1], "variant_title": ["tea"]}),
    }
    assert house.seed("price_stock", facts) is True
    assert house.seed("price_stock", facts) is False
    assert stored(house, "SELECT COUNT(*) FROM FactProductPrice") == [(2,)]


# ---- other processes ----

PUBLISHER = textwrap.dedent("""
    import sys
    sys.path.insert(0, {tests!r})
    from test_warehouse import connect, put, prices
    run, level = sys.argv[1], float(sys.argv[2])
    house = connect("duckdb:{path}")
    house.migrate()
    print(put(house, prices(level=level), run_id=run)["status"])
""")


def start(house, text, *args):
    code = text.format(tests=str(Path(__file__).parent), path=house.path)
    lib = str(Path(warehouse.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": lib, "OMP_NUM_THREADS": "1"},
    )


def test_eight_publishers_at_once_all_finish_with_one_current_set(house):
    house.path.unlink()  # they also make the file and its tables together
    running = [start(house, PUBLISHER, f"run{k % 4}", 10 + k % 4) for k in range(8)]
    ends = [process.communicate(timeout=90) for process in running]
    assert [process.returncode for process in running] == [0] * 8, [err for _, err in ends]
    assert sorted(out.strip() for out, _ in ends).count("published") == 1
    assert house.ledger().num_rows == 1 and house.current("prices").num_rows == 3 * H
    assert stored(house, "SELECT run_id, COUNT(*) FROM FactPriceForecast GROUP BY 1 ORDER BY 1") == [
        (f"run{k}", 3 * H) for k in range(4)
    ]
    assert healthy(house)


def test_threads_of_one_process_take_turns(house):
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda k: put(house, run_id=f"run{k % 2}")["status"], range(8)))
    assert len(done) == 8 and house.ledger().num_rows == 1 and healthy(house)


KILLED = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, {tests!r})
    from forecastbook import warehouse
    from test_warehouse import connect, put, prices
    step = sys.argv[1]
    seen = warehouse.DuckDB._insert
    def pause(*args, **more):
        if step == "before insert":
            print("here", flush=True); time.sleep(60)
        seen(*args, **more)
        if step == "after insert":
            print("here", flush=True); time.sleep(60)
    warehouse.DuckDB._insert = staticmethod(pause)
    receipt = warehouse.DuckDB._receipt
    def last(*args):
        if step == "after commit":
            print("here", flush=True); time.sleep(60)
        return receipt(*args)
    warehouse.DuckDB._receipt = last
    put(connect("duckdb:{path}"), prices(level=20.0), run_id="r2")
""")


@pytest.mark.parametrize("step, current", [("before insert", "r1"), ("after insert", "r1"), ("after commit", "r2")])
def test_killed_inside_a_publication_readers_see_one_whole_set_and_a_rerun_ends_it(house, step, current):
    put(house)
    process = start(house, KILLED, step)
    assert process.stdout.readline().strip() == "here", process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rows = house.current("prices")
    assert rows.num_rows == 3 * H and set(rows["run_id"].to_pylist()) == {current}
    assert healthy(house)
    put(house, prices(level=20.0), run_id="r2")
    assert set(house.current("prices")["run_id"].to_pylist()) == {"r2"}
    assert stored(house, "SELECT COUNT(*) FROM FactPriceForecast WHERE run_id = 'r2'") == [(3 * H,)]
    assert healthy(house)


HOLDER = "import duckdb, sys, time; c = duckdb.connect({path!r}); print('held', flush=True); time.sleep(float(sys.argv[1]))"


def holding(house, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(path=str(house.path)), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "held"
    return process


def test_a_lock_is_waited_for_visibly(house, caplog):
    process = holding(house, 1.5)
    put(house)
    process.communicate()
    assert "waiting for" in caplog.text and f"PID {process.pid}" in caplog.text
    assert house.current("prices").num_rows == 3 * H


def test_a_lock_that_stays_is_an_error_naming_its_holder(house):
    process = holding(house, 60)
    try:
        started = time.monotonic()
        for call in (lambda h: put(h), lambda h: h.current("prices")):
            with pytest.raises(WarehouseError, match=f"still in use after .*PID {process.pid}"):
                call(connect(house.url, lock_wait=0.6))
        assert time.monotonic() - started < 10
    finally:
        process.kill()
        process.communicate()


# ---- files that are not as they should be ----


def test_a_damaged_file_a_directory_and_an_impossible_place_are_named(tmp_path):
    bad = tmp_path / "bad.duckdb"
    bad.write_bytes(b"hello" * 10_000)
    (tmp_path / "file").write_text("x")
    for path, words in (
        (bad, "damaged or something else"),
        (tmp_path, "directory"),
        (tmp_path / "file" / "x.duckdb", "directory of"),
        (Path("/proc/nothing/x.duckdb"), "directory of"),
    ):
        with pytest.raises(WarehouseError, match=words) as error:
            connect(f"duckdb:{path}").migrate()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert bad.read_bytes() == b"hello" * 10_000


READ_ONLY = textwrap.dedent("""
    import os, sys
    sys.path.insert(0, {tests!r})
    from forecastbook.warehouse import WarehouseError
    from test_warehouse import connect, put
    house = connect("duckdb:{path}")
    if os.geteuid() == 0:
        os.seteuid(65534)                                       # root writes everywhere
    print(house.current("prices").num_rows)
    for url in (house.url, house.url + ".new"):
        try:
            put(connect(url), run_id="r2")
        except WarehouseError as error:
            print(error)
""")


def test_a_read_only_place_can_be_read_but_not_published_to():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        house = connect(f"duckdb:{folder}/w.duckdb")
        house.migrate()
        put(house)
        house.path.chmod(0o444)
        house.path.parent.chmod(0o555)
        out, err = start(house, READ_ONLY).communicate(timeout=60)
        house.path.parent.chmod(0o755)
        lines = out.strip().split("\n")
        assert lines[0] == str(3 * H) and len(lines) == 3, (out, err)
        assert all("cannot be written" in line for line in lines[1:])
        assert [p.name for p in Path(folder).iterdir()] == ["w.duckdb"] and healthy(house)


FULL = textwrap.dedent("""
    import resource, signal, sys
    sys.path.insert(0, {tests!r})
    from forecastbook.warehouse import WarehouseError
    from test_warehouse import connect, put, prices
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)               # a file may not grow beyond the limit: as a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
    try:
        put(connect("duckdb:{path}"), prices(list(range(20_000))), run_id="big")
    except WarehouseError as error:
        print(error)
""")


def test_a_full_disk_leaves_the_old_set(house):
    put(house)
    process = start(house, FULL, house.path.stat().st_size + 100_000)
    out, err = process.communicate(timeout=120)
    assert str(house.path) in out and len(out.strip().split("\n")) == 1, (out, err)
    assert set(house.current("prices")["run_id"].to_pylist()) == {"r1"} and healthy(house)
    put(house, prices(list(range(100))), run_id="after")  # there is room again
    assert house.current("prices").num_rows == 100 * H and healthy(house)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error_and_never_an_empty_result(house, share):
    put(house, prices(list(range(2000))))
    content = house.path.read_bytes()
    house.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WarehouseError) as error:
        assert house.current("prices").num_rows == 2000 * H  # or what is cut off was free space
        raise WarehouseError(str(house.path))
    assert str(house.path) in str(error.value) and "\n" not in str(error.value)


def test_files_are_never_writable_by_everyone(tmp_path):
    old = os.umask(0)
    try:
        house = connect(f"duckdb:{tmp_path / 'x.duckdb'}")
        house.migrate()
        put(house)
    finally:
        os.umask(old)
    assert all(p.stat().st_mode & 0o002 == 0 for p in tmp_path.iterdir())


def test_checks_find_a_damaged_set(house):
    put(house)
    connection = duckdb.connect(str(house.path))
    connection.execute("DELETE FROM FactPriceForecast WHERE horizon = 3 AND variant_id = 2")
    connection.execute("UPDATE FactPriceForecast SET confidence_lower = 99 WHERE horizon = 1 AND variant_id = 1")
    connection.execute("INSERT INTO PublishLedger SELECT * FROM PublishLedger")
    connection.close()
    bad = {name for name, ok, _ in house.checks() if not ok}
    assert bad == {"counts", "ledger", "current", "bounds"}


def test_all_ids_of_the_job_decide_what_a_key_is():
    alone, among = variant_ids(["1", "2"]), variant_ids(["1", "2"], among=["1", "2", "A9"])
    assert alone["id"].to_pylist() == [1, 2] and alone["source_key"].to_pylist() == [None, None]
    assert among["source_key"].to_pylist() == ["1", "2"]
    assert among["id"].to_pylist() == variant_ids(["1", "2", "A9"])["id"].to_pylist()[:2]
