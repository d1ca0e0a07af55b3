"""What may be published: whole, ordered, finite forecasts, and the keys of text ids."""

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecastbook.publication import variant_ids
from forecastbook.warehouse import WarehouseError, connect
from publishing import DAY, H, prices, put, state


@pytest.fixture
def house(tmp_path):
    out = connect(f"duckdb:{tmp_path / 'warehouse.duckdb'}")
    out.migrate()
    return out


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


def test_all_ids_of_the_job_decide_what_a_key_is():
    alone, among = variant_ids(["1", "2"]), variant_ids(["1", "2"], among=["1", "2", "A9"])
    assert alone["id"].to_pylist() == [1, 2] and alone["source_key"].to_pylist() == [None, None]
    assert among["source_key"].to_pylist() == ["1", "2"]
    assert among["id"].to_pylist() == variant_ids(["1", "2", "A9"])["id"].to_pylist()[:2]


def test_a_title_that_is_missing_is_the_id():
    assert variant_ids(["a", "b", "c", "d"], [None, float("nan"), "", "Tea"])["title"].to_pylist() == ["a", "b", "c", "Tea"]


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
        (changed("confidence_lower", -0.01), "negative in 1 of 21 rows, first variant_id=1, forecast_date=2024-03-06"),
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
        (prices(["a", "b", "c"], key="series_id", variant_id=[1] * 3 * H), "both series_id and variant_id"),
    ],
)
def test_rows_that_break_the_contract_are_refused_and_nothing_is_written(house, rows, words):
    put(house, run_id="good")
    before = state(house)
    with pytest.raises(WarehouseError, match=words) as error:
        put(house, rows, run_id="bad")
    assert "\n" not in str(error.value)
    assert state(house) == before


def test_prices_that_fall_bounds_that_touch_and_a_change_that_is_sure_are_published(house):
    point = [10 - 0.25 * k for k in range(3 * H)]
    rows = prices(
        predicted_price=point, confidence_lower=point, confidence_upper=[v + 0.01 for v in point], p_change=[1.0] * 3 * H
    )
    assert put(house, rows)["status"] == "published"
