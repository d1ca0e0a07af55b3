"""One contract, two backends: publishing happens once and only once, whatever is behind a warehouse.

Every test that takes ``house`` or ``bare`` runs twice: on a DuckDB file, and on the emulator by the genuine client.
"""

import datetime as dt
import hashlib
import itertools

import pyarrow as pa
import pytest

from forecastbook import backend, publication, schema
from forecastbook.warehouse import WarehouseError, connect, variant_ids
from publishing import DAY, MODEL, PUBLISHERS, H, healthy, prices, put, sales, start, state, stored

DATASETS = itertools.count()


@pytest.fixture(params=["duckdb", "bigquery"])
def bare(request, tmp_path, monkeypatch):
    """A warehouse without tables."""
    if request.param == "duckdb":
        yield connect(f"duckdb:{tmp_path / 'склад' / 'the warehouse.duckdb'}")
        return
    emulator = request.getfixturevalue("emulator")
    emulator.lead(monkeypatch)
    house = connect(f"bigquery:test-project.contract_{next(DATASETS)}")
    house.estimates = False  # half the emulator's work; test_bigquery.py looks at them
    yield house
    house.client.delete_dataset(".".join(house.place), delete_contents=True, not_found_ok=True)


@pytest.fixture
def house(bare):
    bare.migrate()
    return bare


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


def test_every_result_has_its_declared_schema_empty_or_not(house):
    values = {
        "job": "prices",
        "model_id": 100,
        "before": DAY,
        "run_id": "r1",
        "from_date_id": 1,
        "to_date_id": 99999999,
        "today_id": 20250101,
    }
    values |= {"first": dt.date(1900, 1, 1), "last": DAY, "since": dt.date(1900, 1, 1), "as_of": DAY, "ids": [1, 2]}
    for filled in (False, True) if house.dialect == "duckdb" else (True,):  # twice would take half a minute
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
        wanted = {name: schema.statement(name, house.dialect)[1] for name in schema.results()}
        found = house.queries({name: {k: values[k] for k in wanted[name]} for name in wanted})
        assert {name: table.schema for name, table in found.items()} == schema.results()


def test_where_nothing_is_there_is_nothing_to_read_and_nothing_is_made(bare):
    assert bare.query("ledger").schema == schema.results()["ledger"] and bare.current().num_rows == 0
    assert bare.migrate(dry=True) and not bare.exists()


def test_a_query_wants_exactly_its_parameters_and_a_known_name(house):
    with pytest.raises(WarehouseError, match=r"takes parameters \['as_of', 'job'\]"):
        house.query("job_price", {"jib": "x"})
    with pytest.raises(WarehouseError, match="no query 'nope'"):
        house.query("nope")


def test_hostile_values_are_only_values(house):
    job = "x'; DROP TABLE PublishLedger; --"
    put(house, job=job, run_id=job)
    assert house.current(job).num_rows == 3 * H
    assert house.published(job).num_rows == 3 * H


def shop(bare, text: str):
    """A shop's own tables, made before we came."""
    if bare.dialect == "bigquery":
        bare.client.create_dataset(".".join(bare.place))
    else:
        bare.path.parent.mkdir()
    stored(bare, text)
    return bare


def test_migrating_again_does_nothing_in_any_process(house):
    assert connect(house.url).migrate() == []
    assert len(house.migrate(dry=True)) == len(schema.views())


def test_a_shops_older_table_gets_the_nullable_columns_it_lacks_and_keeps_its_rows(bare, caplog):
    house = shop(
        bare,
        "CREATE TABLE DimVariant (variant_id INT64 NOT NULL, shop_product_id INT64 NOT NULL, variant_title STRING NOT NULL); "
        "INSERT INTO DimVariant (variant_id, shop_product_id, variant_title) VALUES (5, 6, 'tea')",
    )
    assert any("DimVariant ADD COLUMN" in text for text in house.migrate(dry=True))
    assert stored(house, "SELECT * FROM DimVariant") == [(5, 6, "tea")], "a dry run alters nothing"
    assert "added DimVariant.source_key" in house.migrate()
    assert "adding DimVariant.source_key" in caplog.text, "said before it is done"
    assert stored(house, "SELECT * FROM DimVariant") == [(5, 6, "tea", None)]
    put(house, prices(["5", "8"], key="series_id"))
    assert stored(house, "SELECT * FROM DimVariant ORDER BY 1") == [(5, 6, "tea", None), (8, 0, "8", None)]


def test_a_column_of_another_type_is_refused_before_anything_is_written(bare):
    house = shop(
        bare,
        "CREATE TABLE FactPriceForecast (forecast_id INT64 NOT NULL, variant_id INT64 NOT NULL, model_id INT64 NOT NULL, "
        "forecast_date DATE NOT NULL, predicted_price FLOAT64, confidence_upper FLOAT64, confidence_lower FLOAT64, "
        "created_at TIMESTAMP)",
    )
    for migrate in (house.migrate, lambda: house.migrate(dry=True)):
        with pytest.raises(WarehouseError, match=r"FactPriceForecast.forecast_id is (BIGINT|INT64), wanted string"):
            migrate()
    with pytest.raises(WarehouseError, match="no tables yet"):  # the ledger was not made either
        put(house)


def test_all_conflicts_are_listed_and_a_missing_required_column_is_one(bare):
    house = shop(bare, "CREATE TABLE DimVariant (variant_id STRING)")
    with pytest.raises(WarehouseError) as error:
        house.migrate()
    assert all(f"DimVariant.{c}" in str(error.value) for c in ("variant_id", "shop_product_id", "variant_title"))


def test_a_publication_is_stored_counted_and_current(house):
    receipt = put(house)
    assert (receipt["status"], receipt["rows"], receipt["series"]) == ("published", 3 * H, 3)
    current = house.current("prices")
    assert current.num_rows == 3 * H and set(current["run_id"].to_pylist()) == {"r1"}
    assert set(current["forecast_id"].to_pylist()) == {f"r1-{v}-{h}" for v in (1, 2, 3) for h in range(1, H + 1)}
    entry = house.ledger().to_pylist()[0]
    assert (entry["job"], entry["as_of"], entry["run_id"], entry["rows"]) == ("prices", DAY, "r1", 3 * H)
    assert healthy(house)


def test_a_repeat_changes_nothing(house):
    first = put(house)
    before = state(house)
    second = put(house, prices([3, 1, 2]))  # the same rows in another order
    assert second["status"] == "already published"
    assert (second["content_hash"], second["published_at"]) == (first["content_hash"], first["published_at"])
    assert state(house) == before


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

    monkeypatch.setattr(backend, "datetime", Past)
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


def test_a_run_of_an_earlier_date_leaves_the_model_row_of_the_newer_one(house):
    put(house, run_id="new", model=MODEL)
    early = DAY - dt.timedelta(days=30)
    put(house, prices(as_of=early), run_id="old", as_of=early, model={**MODEL, "model_version": "old", "training_date": early})
    assert stored(house, "SELECT model_version, training_date FROM DimModel") == [(MODEL["model_version"], DAY)]
    put(house, run_id="same", model={**MODEL, "model_version": "same"})
    assert stored(house, "SELECT model_version FROM DimModel") == [("same",)]


def test_a_run_id_belongs_to_one_job_and_date(house):
    put(house)
    with pytest.raises(WarehouseError, match="already published as job 'prices'"):
        put(house, job="other")


def test_publishing_before_migrating_says_so(bare):
    with pytest.raises(WarehouseError, match="migrate"):
        put(bare)


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
    before = state(house)
    monkeypatch.setattr(publication, "_hash63", lambda text: 42)
    with pytest.raises(WarehouseError, match="share the hash 42"):
        put(house, prices(["x", "y"], key="series_id"), run_id="r2")
    a = int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "big") >> 1
    monkeypatch.setattr(publication, "_hash63", lambda text: a)
    with pytest.raises(WarehouseError, match="already stands for 'a'"):
        put(house, prices(["x"], key="series_id"), run_id="r2")
    assert state(house) == before


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


def test_eight_publishers_at_once_all_finish_with_one_current_set(bare):
    if bare.dialect == "bigquery":
        bare.client.create_dataset(".".join(bare.place))  # the emulator, unlike the service, fails when two make one at once
    publishing = start(bare, PUBLISHERS, 8)  # they also make the tables together
    said, failed = publishing.communicate(timeout=240)
    assert publishing.returncode == 0 and len(said.splitlines()) == 8, failed[-4000:]
    assert {line.partition(" by run ")[0] for line in said.splitlines()} <= {
        "published",
        "replaced",
        "already published",
        "superseded",
    }
    assert bare.ledger().num_rows == 1 and bare.current("prices").num_rows == 3 * H
    assert stored(bare, "SELECT run_id, COUNT(*) FROM FactPriceForecast GROUP BY 1 ORDER BY 1") == [
        (f"run{k}", 3 * H) for k in range(4)
    ]
    assert healthy(bare)


def test_checks_find_a_damaged_set(house):
    put(house)
    stored(house, "DELETE FROM FactPriceForecast WHERE horizon = 3 AND variant_id = 2")
    stored(house, "UPDATE FactPriceForecast SET confidence_lower = 99 WHERE horizon = 1 AND variant_id = 1")
    stored(house, "INSERT INTO PublishLedger SELECT * FROM PublishLedger")
    bad = {name for name, ok, _ in house.checks() if not ok}
    assert bad == {"counts", "ledger", "current", "bounds"}
    stored(house, "CREATE OR REPLACE VIEW CurrentPriceForecast AS SELECT * FROM FactPriceForecast")
    stored(house, "DELETE FROM PublishLedger WHERE TRUE")
    assert "orphans" in {name for name, ok, _ in house.checks() if not ok}, "somebody's view goes past the ledger"


def test_checks_that_cannot_be_made_have_not_passed(house):
    assert all(ok for _, ok, _ in house.checks()), "an empty warehouse is in order"
    put(house)
    stored(house, "DROP VIEW CurrentPriceForecast")
    if house.embedded:
        said = {name: (ok, text) for name, ok, text in house.checks()}
        assert {name for name, (ok, _) in said.items() if not ok} == {"current", "bounds", "orphans"}
        assert "a table or a view is missing, which make warehouse makes" in said["bounds"][1]
    else:
        with pytest.raises(WarehouseError, match="CurrentPriceForecast was not found.*make warehouse makes what is missing"):
            house.checks()
    again = connect(house.url)  # a new process, which has not looked over the tables yet
    again.migrate()
    assert all(ok for _, ok, _ in again.checks())


def test_a_shops_short_texts_and_whole_units_are_read_and_written(bare):
    """STRING(50), and units that are INT64 where ours are FLOAT64."""
    house = shop(
        bare,
        "CREATE TABLE FactSales (item_id INT64 NOT NULL, period DATE NOT NULL, units INT64); "
        "CREATE TABLE DimItem (item_id INT64 NOT NULL, title STRING(50), source_key STRING(9), attributes_json STRING)",
    )
    house.migrate()
    house.append("FactSales", pa.table({"item_id": [7], "period": [dt.date(2024, 3, 4)], "units": [3.0]}))
    assert stored(house, "SELECT units FROM FactSales") == [(3,)]


def test_a_shops_decimals_and_its_own_spelling_of_names_are_read_and_written(bare):
    house = shop(
        bare,
        "CREATE TABLE FactProductPrice (Price_Fact_ID INT64, variant_id INT64 NOT NULL, date_id INT64, "
        "current_price NUMERIC(12, 2), original_price NUMERIC(12, 2), is_available BOOL, scraper STRING)",
    )
    house.migrate()
    fact = {"price_fact_id": 1, "variant_id": 7, "date_id": 20240301, "current_price": 1.99, "original_price": 2.29}
    house.append("FactProductPrice", pa.Table.from_pylist([{**fact, "is_available": True}]))
    window = {"from_date_id": 20240101, "to_date_id": 20240401}
    assert house.query("price_facts", window).to_pylist() == [{**fact, "is_available": True}]
    assert stored(house, "SELECT scraper FROM FactProductPrice") == [(None,)], "a column that is not ours is left alone"
