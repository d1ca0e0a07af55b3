"""What the warehouse is declared to hold: tables, query results and statements, read off ``sql/*.sql``.

SQL is written once, in GoogleSQL; sqlglot turns it into the dialect at hand. Dialects differ silently in the types they return,
so every table and every result has an Arrow schema here that rows are cast to.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify_tables import qualify_tables

SQL = Path(__file__).parent / "sql"
ARROW = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "TEXT": pa.string(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
}
# Which types a shop's own column may have where ours says INT64, FLOAT64, ...: what a cast to ours cannot misread. The names
# are those of DuckDB and of BigQuery.
FAMILIES = {
    pa.int64(): r"(INT64|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$",
    pa.float64(): r"(DOUBLE|FLOAT(64)?|REAL|DECIMAL.*|(BIG)?NUMERIC.*|INT64|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$",
    pa.string(): r"((STRING|VARCHAR|TEXT)(\(\d+\))?|ENUM.*)$",
    pa.bool_(): r"BOOL(EAN)?$",
    pa.date32(): r"DATE$",
    pa.timestamp("us", tz="UTC"): r"TIMESTAMP.*$",
}
EXACT = r"(DOUBLE|FLOAT(64)?|REAL)$"  # of forecasts, which are compared with what was sent


class WarehouseError(Exception):
    """Something is wrong with the warehouse or with what was to be written to it. One line: what, where, what to do."""


@cache
def definitions() -> dict[str, exp.Create]:
    """The CREATE TABLE statements of schema.sql, by table."""
    parsed = sqlglot.parse((SQL / "schema.sql").read_text(encoding="utf-8"), read="bigquery")
    return {tree.this.this.name: tree for tree in parsed if isinstance(tree, exp.Create)}


@cache
def tables() -> dict[str, pa.Schema]:
    """The Arrow schema of every table, read off sql/schema.sql. A field is nullable where the column is."""

    def field(column: exp.ColumnDef) -> pa.Field:
        required = any(isinstance(c.kind, exp.NotNullColumnConstraint) for c in column.constraints)
        return pa.field(column.name, ARROW[column.kind.sql("duckdb")], nullable=not required)

    return {name: pa.schema([field(c) for c in tree.this.expressions]) for name, tree in definitions().items()}


@cache
def views() -> dict[str, exp.Create]:
    """The CREATE VIEW statements of views.sql, by view."""
    parsed = sqlglot.parse((SQL / "views.sql").read_text(encoding="utf-8"), read="bigquery")
    return {tree.this.name: tree for tree in parsed if isinstance(tree, exp.Create)}


def located(tree: exp.Expression, place: tuple[str, str] | None, dialect: str = "bigquery") -> str:
    """A statement as text, its tables named in full where ``place`` says (project, dataset)."""
    if place:
        tree = qualify_tables(tree.copy(), catalog=exp.to_identifier(place[0], quoted=True), db=place[1], dialect=dialect)
    return tree.sql(dialect, comments=False)


def changes(have: dict[str, dict[str, str]], dialect: str, place: tuple[str, str] | None = None) -> list[tuple[str, str]]:
    """What makes the tables of a warehouse ours: (what it does, statement) each; empty when nothing lacks.

    have: the types of its columns, by table and column in lower case. Absent tables are made, absent nullable columns added;
    nothing else is altered. Raises WarehouseError, listing all of them, for columns that are missing or of another type.
    """
    faults, todo = [], []
    for table, tree in definitions().items():
        stored = have.get(table.lower())
        if stored is None:
            todo.append((f"made {table}", located(_described(table) if dialect == "bigquery" else _bare(tree), place, dialect)))
            continue
        columns = {column.name: column for column in _described(table).this.expressions}
        for field in tables()[table]:
            kind = stored.get(field.name.lower())
            if kind is not None and not re.match(
                EXACT if table.endswith("Forecast") and field.type == pa.float64() else FAMILIES[field.type], kind
            ):
                faults.append(f"{table}.{field.name} is {kind}, wanted {field.type}")
            elif kind is None and not field.nullable:
                faults.append(f"{table}.{field.name} is missing")
            elif kind is None:
                name, column = located(exp.to_table(table), place, dialect), columns[field.name]
                column = column if dialect == "bigquery" else _bare(column)
                todo.append(
                    (f"added {table}.{field.name}", f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column.sql(dialect)}")
                )
    if faults:
        raise WarehouseError(
            f"{'; '.join(faults)}. Nothing was changed: rename the table (ALTER TABLE ... RENAME TO ...) or point "
            "WAREHOUSE elsewhere"
        )
    return todo


def _bare(tree: exp.Expression) -> exp.Expression:
    """Without what only BigQuery has: partitions, clusters, descriptions, and without comments."""
    tree = tree.copy()
    tree.set("properties", None)
    tree.set("constraints", [c for c in tree.args.get("constraints") or [] if not isinstance(c.kind, exp.Properties)])
    return _uncommented(tree)


@cache
def _described(table: str) -> exp.Create:
    """CREATE TABLE with the comments of schema.sql as the descriptions of the table and its columns."""
    tree = definitions()[table].copy()

    def option(text: str) -> exp.Property:
        return exp.Property(this=exp.var("description"), value=exp.Literal.string(text))

    for column in tree.this.expressions:
        if column.comments:
            said = exp.ColumnConstraint(kind=exp.Properties(expressions=[option(" ".join(c.strip() for c in column.comments))]))
            column.append("constraints", said)
    lines = [line.strip() for line in tree.comments or []]
    lines = lines[1 + max((i for i, line in enumerate(lines) if line.endswith("---")), default=-1) :]  # below a heading
    tree.args.setdefault("properties", None)
    if tree.args["properties"] is None:
        tree.set("properties", exp.Properties(expressions=[]))
    tree.args["properties"].append("expressions", option(" ".join(lines)))
    return _uncommented(tree)


def _uncommented(tree: exp.Expression) -> exp.Expression:
    for node in tree.walk():
        node.comments = None
    return tree


def _nullable(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


def _mixed(columns: str, *names: str) -> pa.Schema:
    """A schema whose columns are those of the named tables, in the given order."""
    known = {field.name: field.type for name in names for field in tables()[name]}
    return _nullable(*[(column, known[column]) for column in columns.split()])


@cache
def results() -> dict[str, pa.Schema]:
    """The Arrow schema that each query's result is cast to, by query. A column of a table has that table's type."""
    price = (
        "job variant_id forecast_date horizon predicted_price confidence_lower confidence_upper p_change as_of model_id "
        "run_id forecast_id created_at published_at"
    )
    sales = (
        "job item_id forecast_date horizon q05 q25 q50 q75 q95 mean as_of model_id run_id forecast_id created_at published_at"
    )
    faults = _nullable(("faults", pa.int64()))
    counts = ("facts", "newest", "ids", "variants", "prices", "list_prices", "available", "known_variants", "known_days")
    return {
        "price_facts": _mixed("price_fact_id variant_id date_id current_price original_price is_available", "FactProductPrice"),
        "price_days": _mixed("date_id full_date", "DimDate"),
        "price_variants": _mixed("variant_id variant_title", "DimVariant"),
        "price_span": _nullable(("first_date", pa.date32()), ("last_date", pa.date32())),
        "price_strays": _mixed("price_fact_id variant_id date_id", "FactProductPrice").append(pa.field("strays", pa.int64())),
        "price_later": _nullable(*[(name, pa.int64()) for name in ("facts", "usable", "newest")]),
        "price_fingerprint": _nullable(*[(name, pa.int64()) for name in counts]),
        "price_held": _nullable(("facts", pa.int64()), ("own", pa.int64())),
        "sales_facts": _mixed("item_id period units revenue list_price promotion", "FactSales"),
        "sales_items": _mixed("item_id title source_key attributes_json", "DimItem"),
        "sales_newest": _mixed("item_id job", "DimItem").append(pa.field("newest", pa.date32())),
        "sales_span": _nullable(("first_date", pa.date32()), ("last_date", pa.date32())),
        "sales_held": _nullable(("facts", pa.int64()), ("own", pa.int64())),
        "current_price": _mixed(price, "PublishLedger", "FactPriceForecast"),
        "current_sales": _mixed(sales, "PublishLedger", "FactSalesForecast"),
        "job_price": _mixed(price, "PublishLedger", "FactPriceForecast"),
        "job_sales": _mixed(sales, "PublishLedger", "FactSalesForecast"),
        **{
            f"keys_{kind}": _nullable(("id", pa.int64()), ("source_key", pa.string()), ("title", pa.string()))
            for kind in ("price", "sales")
        },
        "run_rows": _nullable(("n", pa.int64())),
        "run_price": _nullable(*[(f.name, f.type) for f in tables()["FactPriceForecast"]]),
        "run_sales": _nullable(*[(f.name, f.type) for f in tables()["FactSalesForecast"]]),
        "model": _nullable(("model_id", pa.int64())),
        "ledger": _mixed("job model_id as_of run_id rows published_at", "PublishLedger"),
        "scores": _mixed("job model_id as_of run_id horizon metric value n scored_at", "ForecastScore"),
        "vintages": _nullable(
            ("id", pa.int64()),
            ("forecast_date", pa.date32()),
            ("horizon", pa.int64()),
            ("as_of", pa.date32()),
            ("predicted", pa.float64()),
            ("lower", pa.float64()),
            ("upper", pa.float64()),
            ("p_change", pa.float64()),
            ("run_id", pa.string()),
            ("model_id", pa.int64()),
        ),
        **{f"check_{name}": faults for name in ("counts", "ledger", "current", "bounds", "orphans")},
    }


@cache
def statement(name: str, dialect: str) -> tuple[str, frozenset[str]]:
    """One file of sql/ in a dialect, and the names of its parameters. ``@name`` becomes the dialect's own bound parameter."""
    tree = sqlglot.parse_one((SQL / f"{name}.sql").read_text(encoding="utf-8"), read="bigquery")
    wanted = frozenset(parameter.name for parameter in tree.find_all(exp.Parameter))
    return tree.sql(dialect, comments=False, unsupported_level=sqlglot.ErrorLevel.RAISE), wanted


def tables_read(name: str) -> list[str]:
    """The tables of the warehouse that a file of sql/ reads, in the order in which they are declared."""
    tree = sqlglot.parse_one((SQL / f"{name}.sql").read_text(encoding="utf-8"), read="bigquery")
    named = {table.name for table in tree.find_all(exp.Table)}
    return [table for table in tables() if table in named]


def pretty(text: str, dialect: str) -> str:
    """A statement on several lines, for a reader."""
    return sqlglot.transpile(text, read=dialect, write=dialect, pretty=True)[0]


def fitted(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """A result in its declared schema; columns may be spelt as the shop spells them (``Variant_ID``)."""
    return found.rename_columns([name.lower() for name in found.column_names]).select(schema.names).cast(schema)


def conform(table: str, rows: pa.Table) -> pa.Table:
    """Rows with exactly the columns and types of a table: absent nullable columns become null. Raises WarehouseError."""
    if table not in tables():
        raise WarehouseError(f"no table {table!r}; there are {', '.join(tables())}")
    if not isinstance(rows, pa.Table):
        raise WarehouseError(f"rows for {table}: wanted an Arrow table, got {type(rows).__name__}")
    schema = tables()[table]
    unknown = [name for name in rows.column_names if name not in schema.names]
    missing = [f.name for f in schema if not f.nullable and f.name not in rows.column_names]
    if unknown or missing:
        raise WarehouseError(
            f"rows for {table}: "
            + "; ".join(
                f"{what} column{'s' * (len(names) > 1)} {', '.join(names)}"
                for what, names in (("unknown", unknown), ("missing", missing))
                if names
            )
            + f"; it has {', '.join(schema.names)}"
        )
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            column = rows[field.name].cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise WarehouseError(
                f"rows for {table}: column {field.name} is {rows[field.name].type}, wanted {field.type} ({error})"
            ) from error
        if field.nullable and pa.types.is_floating(field.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
        if not field.nullable and column.null_count:
            raise WarehouseError(f"rows for {table}: {field.name} is null in {column.null_count} rows")
        columns.append(column)
    return pa.Table.from_arrays(columns, names=schema.names).cast(pa.schema([f.with_nullable(True) for f in schema]))
