"""What the warehouse is declared to hold, and the one SQL text of it."""

import re

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from forecastbook import schema


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


@pytest.mark.parametrize("path", sorted(schema.SQL.glob("*.sql")), ids=lambda p: p.stem)
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
    texts = {p.stem for p in schema.SQL.glob("*.sql")} - {"schema", "views", "flip_ledger", "record_model"}
    assert texts == set(schema.results())
    assert not [p.name for p in schema.SQL.glob("*.sql") if re.search(r"[{}%]", re.sub(r"--.*", "", p.read_text()))]


def test_the_tables_of_the_shop_keep_their_columns():
    assert schema.tables()["FactProductPrice"].names == [
        "price_fact_id",
        "variant_id",
        "date_id",
        "current_price",
        "original_price",
        "is_available",
    ]
    assert not schema.tables()["FactProductPrice"].field("current_price").nullable
    assert schema.tables()["FactPriceForecast"].field("forecast_id").type == pa.string()
    assert schema.tables()["PublishLedger"].field("rows").type == pa.int64()
