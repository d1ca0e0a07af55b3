"""The warehouse: where facts come from and forecasts go. The only importer of duckdb.

``connect("duckdb:PATH")`` gives a Warehouse. SQL lives in ``sql/*.sql`` in GoogleSQL, sqlglot turns it into the dialect at
hand, parameters are always bound, and every result is cast to a declared Arrow schema. ``Warehouse`` holds what is the same
on every backend (queries by name, validation of what is published, reading back, checks); a backend brings four primitives:
``migrate``, ``append``, ``seed`` and the two hooks ``_table`` (run a query) and ``_store`` (publish rows, once and only once).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import re
import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp

log = logging.getLogger(__name__)

SQL = Path(__file__).parent / "sql"
ARROW = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "TEXT": pa.string(), "BOOLEAN": pa.bool_(), "DATE": pa.date32(),
         "TIMESTAMPTZ": pa.timestamp("us", tz="UTC")}
# Which types a shop's own column may have where ours says INT64, FLOAT64, ...: what a cast to ours cannot misread.
FAMILIES = {
    pa.int64(): r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$",
    pa.float64(): r"(DOUBLE|FLOAT|REAL|DECIMAL.*|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$",
    pa.string(): r"(VARCHAR|TEXT|ENUM.*)$",
    pa.bool_(): r"BOOLEAN$",
    pa.date32(): r"DATE$",
    pa.timestamp("us", tz="UTC"): r"TIMESTAMP.*$",
}


class WarehouseError(Exception):
    """Something is wrong with the warehouse or with what was to be written to it. One line: what, where, what to do."""


# ---- declared schemas --------------------------------------------------------------------------------------------------


@cache
def _definitions() -> dict[str, exp.Create]:
    """The CREATE TABLE statements of schema.sql, by table."""
    parsed = sqlglot.parse((SQL / "schema.sql").read_text(encoding="utf-8"), read="bigquery")
    return {tree.this.this.name: tree for tree in parsed if isinstance(tree, exp.Create)}


@cache
def tables() -> dict[str, pa.Schema]:
    """The Arrow schema of every table, read off sql/schema.sql. A field is nullable where the column is."""
    def field(column: exp.ColumnDef) -> pa.Field:
        required = any(isinstance(c.kind, exp.NotNullColumnConstraint) for c in column.constraints)
        return pa.field(column.name, ARROW[column.kind.sql("duckdb")], nullable=not required)

    return {name: pa.schema([field(c) for c in tree.this.expressions]) for name, tree in _definitions().items()}


def _nullable(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


def _mixed(columns: str, *names: str) -> pa.Schema:
    """A schema whose columns are those of the named tables, in the given order."""
    known = {field.name: field.type for name in names for field in tables()[name]}
    return _nullable(*[(column, known[column]) for column in columns.split()])


@cache
def results() -> dict[str, pa.Schema]:
    """The Arrow schema that each query's result is cast to, by query. A column of a table has that table's type."""
    price = "job variant_id forecast_date horizon predicted_price confidence_lower confidence_upper p_change as_of model_id " \
            "run_id forecast_id created_at published_at"
    sales = "job item_id forecast_date horizon q05 q25 q50 q75 q95 mean as_of model_id " \
            "run_id forecast_id created_at published_at"
    faults = _nullable(("faults", pa.int64()))
    counts = ("facts", "newest", "ids", "variants", "prices", "list_prices", "available")
    return {
        "price_facts": _mixed("price_fact_id variant_id date_id current_price original_price is_available full_date",
                              "FactProductPrice", "DimDate"),
        "price_variants": _nullable(("variant_id", pa.int64()), ("variant_title", pa.string()), ("known", pa.bool_())),
        "price_span": _nullable(("first_date", pa.date32()), ("last_date", pa.date32())),
        "price_strays": _mixed("price_fact_id variant_id date_id", "FactProductPrice"),
        "price_fingerprint": _nullable(*[(name, pa.int64()) for name in counts]),
        "price_stock": _nullable(("facts", pa.int64()), ("shop_variants", pa.int64())),
        "current_price": _mixed(price, "PublishLedger", "FactPriceForecast"),
        "current_sales": _mixed(sales, "PublishLedger", "FactSalesForecast"),
        "job_price": _mixed(price, "PublishLedger", "FactPriceForecast"),
        "job_sales": _mixed(sales, "PublishLedger", "FactSalesForecast"),
        "run_price": _nullable(*[(f.name, f.type) for f in tables()["FactPriceForecast"]]),
        "run_sales": _nullable(*[(f.name, f.type) for f in tables()["FactSalesForecast"]]),
        "ledger": _mixed("job model_id as_of run_id rows published_at", "PublishLedger"),
        "vintages": _nullable(("id", pa.int64()), ("forecast_date", pa.date32()), ("horizon", pa.int64()),
                              ("as_of", pa.date32()), ("predicted", pa.float64()), ("lower", pa.float64()),
                              ("upper", pa.float64()), ("p_change", pa.float64()), ("run_id", pa.string()),
                              ("model_id", pa.int64())),
        **{f"check_{name}": faults for name in ("counts", "ledger", "current", "bounds", "orphans")},
    }


@cache
def statement(name: str, dialect: str) -> tuple[str, frozenset[str]]:
    """One file of sql/ in a dialect, and the names of its parameters. ``@name`` becomes the dialect's own bound parameter."""
    tree = sqlglot.parse_one((SQL / f"{name}.sql").read_text(encoding="utf-8"), read="bigquery")
    wanted = frozenset(parameter.name for parameter in tree.find_all(exp.Parameter))
    return tree.sql(dialect, comments=False, unsupported_level=sqlglot.ErrorLevel.RAISE), wanted


# ---- text ids -> INT64 -------------------------------------------------------------------------------------------------

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")


def variant_ids(ids, titles=None) -> pa.Table:
    """Text ids of series as the INT64 keys of the warehouse: (N,) each -> table (id int64, source_key, title), (N,) rows.

    The key is the id itself where every id is a canonical integer in the INT64 range; else the first 63 bits of the id's
    blake2b hash, with the original in ``source_key`` (null in the first case). Titles default to the ids.
    Raises WarehouseError on an empty id, or when two different ids share a hash.
    """
    ids = [str(i) for i in ids]
    if any(not i for i in ids):
        raise WarehouseError("a series id is empty: every series that is published needs one")
    if all(_CANONICAL.fullmatch(i) and -2**63 <= int(i) < 2**63 for i in ids):
        keys, source = np.array([int(i) for i in ids], dtype=np.int64), [None] * len(ids)
    else:
        keys, source = np.array([_hash63(i) for i in ids], dtype=np.int64), ids
    owner: dict[int, str] = {}
    for key, i in zip(keys.tolist(), ids, strict=True):
        if owner.setdefault(key, i) != i:
            raise WarehouseError(f"series ids {owner[key]!r} and {i!r} share the hash {key}: rename one of them")
    pairs = zip(ids, ids if titles is None else titles, strict=True)
    titles = [i if t is None or t != t or t == "" else str(t) for i, t in pairs]
    return pa.table({"id": pa.array(keys), "source_key": pa.array(source, pa.string()), "title": pa.array(titles, pa.string())})


def _hash63(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


# ---- what may be published ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecasts:
    """A table of forecasts: its key, the dimension behind the key, and the columns that must ascend."""

    key: str
    dimension: str
    title: str
    ascending: tuple[str, ...]
    run_query: str
    defaults: tuple[tuple[str, object], ...] = ()


FORECASTS = {
    "FactPriceForecast": Forecasts("variant_id", "DimVariant", "variant_title",
                                   ("confidence_lower", "predicted_price", "confidence_upper"), "run_price",
                                   (("shop_product_id", 0),)),
    "FactSalesForecast": Forecasts("item_id", "DimItem", "title", ("q05", "q25", "q50", "q75", "q95"), "run_sales"),
}
FILLED = ("forecast_id", "model_id", "as_of", "run_id", "created_at")          # publish writes these itself
MODEL = ("model_name", "model_version", "model_type", "training_date", "performance_metrics", "hyperparameters")


@dataclass(frozen=True)
class Publication:
    """One run's forecasts, checked and complete: what a backend stores, all of it or nothing."""

    job: str
    model_id: int
    as_of: date
    run_id: str
    table: str
    rows: pa.Table            # schema of ``table``, sorted by key and date
    dimension: pa.Table | None  # rows that the dimension must have
    model: dict | None        # parameters of record_model.sql

    @property
    def content_hash(self) -> str:
        """Of the forecasts alone: the clock (created_at) is left out."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.rows.drop_columns(["created_at"]).schema) as stream:
            stream.write_table(self.rows.drop_columns(["created_at"]).combine_chunks(), max_chunksize=65_536)
        return hashlib.sha256(sink.getvalue()).hexdigest()


def prepare(job: str, model_id: int, as_of, run_id: str, table: str, rows: pa.Table, model: dict | None) -> Publication:
    """Check a run's forecasts and complete them with what publish knows. Raises WarehouseError naming column and row."""
    if table not in FORECASTS:
        raise WarehouseError(f"cannot publish to {table!r}: forecasts go to {' or '.join(FORECASTS)}")
    for name, value in (("job", job), ("run_id", run_id)):
        if not isinstance(value, str) or not value.strip():
            raise WarehouseError(f"publish needs a {name}, got {value!r}")
    if not isinstance(rows, pa.Table):
        raise WarehouseError(f"publish wants an Arrow table of rows, got {type(rows).__name__}")
    target, as_of = FORECASTS[table], _day(as_of)
    filled = [name for name in rows.column_names if name in FILLED]
    if filled:
        raise WarehouseError(f"publish to {table} fills {', '.join(filled)} itself: leave them out of the rows")
    if not rows.num_rows:
        raise WarehouseError(f"job {job!r} has no forecasts for {as_of}: nothing was published")
    dimension = None
    if "series_id" in rows.column_names:
        rows, dimension = _with_keys(rows, target)
    n = rows.num_rows
    rows = rows.append_column("model_id", pa.array(np.full(n, model_id, dtype=np.int64)))
    rows = rows.append_column("as_of", pa.array([as_of] * n, pa.date32()))
    rows = rows.append_column("run_id", pa.array([run_id] * n, pa.string()))
    rows = rows.append_column("created_at", pa.array([datetime.now(UTC)] * n, ARROW["TIMESTAMPTZ"]))
    rows = rows.append_column("forecast_id", pa.array([""] * n, pa.string()))
    rows = conform(table, rows)
    _check(table, target, rows, as_of)
    rows = rows.sort_by([(target.key, "ascending"), ("forecast_date", "ascending")])
    names = [f"{run_id}-{k}-{h}" for k, h in zip(rows[target.key].to_pylist(), rows["horizon"].to_pylist(), strict=True)]
    rows = rows.set_column(rows.schema.get_field_index("forecast_id"), rows.schema.field("forecast_id"),
                           pa.array(names, pa.string()))
    return Publication(job, int(model_id), as_of, run_id, table, rows, dimension, _model_row(model_id, model))


def _with_keys(rows: pa.Table, target: Forecasts) -> tuple[pa.Table, pa.Table]:
    """Rows keyed by text ``series_id`` (and ``title``) -> rows keyed by INT64, and the dimension rows behind them."""
    if target.key in rows.column_names:
        raise WarehouseError(f"rows have both series_id and {target.key}: give one of them")
    encoded = rows["series_id"].cast(pa.string()).combine_chunks().dictionary_encode()
    if encoded.null_count:
        raise WarehouseError(f"series_id is null in {encoded.null_count} rows: every forecast needs its series")
    codes = encoded.indices.to_numpy()                                           # (rows,)
    titles = None
    if "title" in rows.column_names:
        first = np.unique(codes, return_index=True)[1]
        titles = rows["title"].cast(pa.string()).take(pa.array(first)).to_pylist()
    keys = variant_ids(encoded.dictionary.to_pylist(), titles)
    rows = rows.drop_columns([c for c in ("series_id", "title") if c in rows.column_names])
    rows = rows.append_column(target.key, keys["id"].take(pa.array(codes)))
    dimension = {target.key: keys["id"], target.title: keys["title"], "source_key": keys["source_key"]}
    for name, value in target.defaults:
        dimension[name] = pa.array([value] * keys.num_rows)
    return rows, conform(target.dimension, pa.table(dimension))


def _check(table: str, target: Forecasts, rows: pa.Table, as_of: date) -> None:
    """Forecasts are complete, finite, non-negative, ordered, and each series has one row for each of 1 .. H."""
    def refuse(mask, what: str) -> None:
        if mask.any():
            at = int(np.flatnonzero(mask)[0])
            shown = {c: rows[c][at].as_py() for c in (target.key, "forecast_date", "horizon", *target.ascending)}
            raise WarehouseError(f"{table}: {what} in {int(mask.sum())} of {len(mask)} rows, first "
                                 + ", ".join(f"{k}={v}" for k, v in shown.items()) + ": nothing was published")

    for name in (target.key, "forecast_date", "horizon", *target.ascending):
        refuse(np.asarray(rows[name].is_null()), f"{name} is null")
    values = np.stack([rows[name].to_numpy() for name in target.ascending], axis=1)           # (rows, Q)
    refuse(~np.isfinite(values).all(axis=1), "a value is not finite")
    refuse((values < 0).any(axis=1), "a value is negative")
    refuse((np.diff(values, axis=1) < 0).any(axis=1), f"bounds are out of order ({' <= '.join(target.ascending)})")
    for name, top in (("p_change", 1.0), ("mean", np.inf)):
        if name in rows.column_names:
            value = rows[name].to_numpy()                                         # null arrives as NaN: allowed here
            refuse((value < 0) | (value > top) | np.isinf(value), f"{name} is out of range")
    key, horizon = rows[target.key].to_numpy(), rows["horizon"].to_numpy()
    dates = rows["forecast_date"].to_numpy().astype("datetime64[D]")
    refuse(dates <= np.datetime64(as_of), f"forecast_date is not after the as-of date {as_of}")
    refuse(horizon < 1, "horizon is below 1")
    for what, column in (("forecast_date", dates.astype(np.int64)), ("horizon", horizon)):
        order = np.lexsort((column, key))
        again = (np.diff(key[order]) == 0) & (np.diff(column[order]) == 0)
        twice = np.zeros(len(key), dtype=bool)
        twice[order[1:][again]] = True
        refuse(twice, f"({target.key}, {what}) appears twice")
    ids, codes, n = np.unique(key, return_inverse=True, return_counts=True)
    refuse((n != horizon.max())[codes], f"a series does not have all of 1 .. {horizon.max()} periods ahead")


def conform(table: str, rows: pa.Table) -> pa.Table:
    """Rows with exactly the columns and types of a table: absent nullable columns become null. Raises WarehouseError."""
    if table not in tables():
        raise WarehouseError(f"no table {table!r}; there are {', '.join(tables())}")
    schema = tables()[table]
    unknown = [name for name in rows.column_names if name not in schema.names]
    missing = [f.name for f in schema if not f.nullable and f.name not in rows.column_names]
    if unknown or missing:
        raise WarehouseError(f"rows for {table}: " + "; ".join(
            f"{what} column{'s' * (len(names) > 1)} {', '.join(names)}"
            for what, names in (("unknown", unknown), ("missing", missing)) if names) + f"; it has {', '.join(schema.names)}")
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            column = rows[field.name].cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise WarehouseError(f"rows for {table}: column {field.name} is {rows[field.name].type}, "
                                 f"wanted {field.type} ({error})") from error
        if field.nullable and pa.types.is_floating(field.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
        if not field.nullable and column.null_count:
            raise WarehouseError(f"rows for {table}: {field.name} is null in {column.null_count} rows")
        columns.append(column)
    return pa.Table.from_arrays(columns, names=schema.names).cast(pa.schema([f.with_nullable(True) for f in schema]))


def _model_row(model_id: int, model: dict | None) -> dict | None:
    """The parameters of record_model.sql: metrics and hyperparameters as JSON, NaN and infinity as null."""
    if model is None:
        return None
    unknown, missing = set(model) - {"model_id", *MODEL}, {"model_name", "model_version"} - set(model)
    if unknown or missing:
        raise WarehouseError(f"model row: unknown {sorted(unknown)}, missing {sorted(missing)}; it takes {', '.join(MODEL)}")
    if model.get("model_id", model_id) != model_id:
        raise WarehouseError(f"model row has model_id {model['model_id']}, the publication {model_id}")
    trained = model.get("training_date")
    return {
        "model_id": int(model_id), "model_name": str(model["model_name"]), "model_version": str(model["model_version"]),
        "model_type": model.get("model_type"), "training_date": None if trained is None else _day(trained),
        "performance_metrics_json": _json(model.get("performance_metrics", {})),
        "hyperparameters_json": _json(model.get("hyperparameters", {})),
    }


def _json(value) -> str:
    def plain(v):
        if isinstance(v, dict):
            return {str(k): plain(w) for k, w in v.items()}
        if isinstance(v, (list, tuple, np.ndarray)):
            return [plain(w) for w in v]
        if isinstance(v, np.generic):
            v = v.item()
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)


def _day(value) -> date:
    try:
        day = np.datetime64(value, "D").astype(date)
    except ValueError as error:
        raise WarehouseError(f"not a date: {value!r}") from error
    if day is None:
        raise WarehouseError(f"not a date: {value!r}")
    return day


# ---- the warehouse -----------------------------------------------------------------------------------------------------


class Warehouse(ABC):
    """What every backend does. A backend brings migrate, append, seed, _table and _store."""

    dialect: str              # of sqlglot
    embedded = False          # True where an empty warehouse may be filled with the sample

    def __init__(self, url: str):
        self.url = url

    def __repr__(self) -> str:
        return f"Warehouse({self.url})"

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is anything at the address yet; looks, and makes nothing."""

    @abstractmethod
    def migrate(self) -> list[str]:
        """Make every table and view that is absent, add nullable columns that a table lacks; nothing else is altered.

        Returns what was done, one line each; empty when all was there. Raises WarehouseError before anything is written
        when an existing column has another type than ours.
        """

    @abstractmethod
    def append(self, table: str, rows: pa.Table, replacing: tuple[str, ...] = ()) -> int:
        """Add rows to a table, all or none; returns how many. ``replacing`` names key columns: stored rows that share
        their key with a new row are deleted in the same transaction, so that a repeat does not double anything."""

    @abstractmethod
    def seed(self, empty: str, rows: dict[str, pa.Table]) -> bool:
        """Fill several tables in one transaction, only if table ``empty`` has no rows; returns whether it did.

        Rows whose first column (the key) is already there are left as they are. Two callers at once fill once.
        """

    @abstractmethod
    def _table(self, name: str, params: dict) -> pa.Table | None:
        """Run sql/<name>.sql; None when a table that it reads does not exist."""

    @abstractmethod
    def _store(self, publication: Publication) -> dict:
        """Store a publication so that readers see all of it or nothing of it, and once; returns the receipt."""

    def query(self, name: str, params: dict | None = None) -> pa.Table:
        """The result of sql/<name>.sql with bound parameters, cast to its declared schema.

        An absent table counts as no rows; every other failure is a WarehouseError.
        """
        if name not in results():
            raise WarehouseError(f"no query {name!r}; there are {', '.join(results())}")
        params, (_, wanted) = params or {}, statement(name, self.dialect)
        if set(params) != wanted:
            raise WarehouseError(f"query {name} takes parameters {sorted(wanted)}, got {sorted(params)}")
        found, schema = self._table(name, params), results()[name]
        if found is None:
            return schema.empty_table()
        try:
            return found.select(schema.names).cast(schema)
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise WarehouseError(f"query {name}: the result does not fit its declared schema ({error})") from error

    def publish(self, *, job: str, model_id: int, as_of, run_id: str, table: str, rows: pa.Table,
                model: dict | None = None) -> dict:
        """Publish a run's forecasts, once and only once: a repeat changes nothing, a kill leaves the old set current.

        rows: one row a series and period ahead. FactPriceForecast: forecast_date, horizon (1..H), predicted_price,
        confidence_lower, confidence_upper, optional p_change; FactSalesForecast: forecast_date, horizon, q05 .. q95,
        optional mean. Keyed by variant_id / item_id, or by text ``series_id`` (with optional ``title``): then the key is
        made by variant_ids and the dimension gets the rows that it lacks. model: model_name, model_version, model_type,
        training_date, performance_metrics, hyperparameters.
        Returns the receipt: status ('published', 'replaced' or 'already published'), rows, series, content_hash, ...
        Raises WarehouseError, with nothing written, when a row breaks the contract.
        """
        publication = prepare(job, model_id, as_of, run_id, table, rows, model)
        receipt = self._store(publication)
        log.info("%s: %d rows of %d series for %s as of %s (run %s)", receipt["status"], receipt["rows"], receipt["series"],
                 job, receipt["as_of"], run_id)
        return receipt

    def current(self, job: str | None = None, table: str | None = None) -> pa.Table:
        """The forecasts to read now. With a job: its own newest set; without: the view, newest over all jobs.

        table: FactPriceForecast or FactSalesForecast; by default the first of them that has rows.
        """
        if table is not None and table not in FORECASTS:
            raise WarehouseError(f"no forecasts in {table!r}: they are in {' or '.join(FORECASTS)}")
        kinds = {"FactPriceForecast": "price", "FactSalesForecast": "sales"}
        for kind in [kinds[table]] if table else kinds.values():
            found = self.query(f"current_{kind}") if job is None else self.query(f"job_{kind}", {"job": job})
            if found.num_rows:
                return found
        return results()[f"current_{kinds.get(table, 'price')}"].empty_table()

    def published(self, run_id: str, table: str = "FactPriceForecast") -> pa.Table:
        """One run's rows as they are stored: what a publication reads back and counts."""
        return self.query(FORECASTS[table].run_query, {"run_id": run_id})

    def ledger(self) -> pa.Table:
        """Which run is current for each job, model and as-of date: job, model_id, as_of, run_id, rows, published_at."""
        return self.query("ledger")

    def vintages(self, job: str, before=None) -> pa.Table:
        """What the job published earlier, one set an as-of date (before ``before``, if given), to be scored against actuals.

        Columns id, forecast_date, horizon, as_of, predicted, lower, upper, p_change, run_id, model_id.
        """
        return self.query("vintages", {"job": job, "before": date(9999, 12, 31) if before is None else _day(before)})

    def checks(self) -> list[tuple[str, bool, str]]:
        """Sanity of what readers see: (name, ok, what was found)."""
        texts = {
            "counts": "every ledger entry has all its rows",
            "ledger": "one pointer for a job, model and as-of date",
            "current": "every item has exactly one row for each period ahead",
            "bounds": "bounds are ordered, finite and not negative",
            "orphans": "no row is visible that the ledger does not name",
        }
        out = []
        for name, text in texts.items():
            found = self.query(f"check_{name}")
            faults = found["faults"][0].as_py() if found.num_rows else 0
            out.append((name, faults == 0, text if not faults else f"{faults} faults against: {text}"))
        return out


def connect(url: str, lock_wait: float = 60.0) -> Warehouse:
    """The warehouse behind a url: ``duckdb:PATH`` (made when absent) or ``bigquery:PROJECT.DATASET``.

    lock_wait: seconds to wait for another process that has the DuckDB file open. Raises WarehouseError on any other url.
    """
    scheme, _, rest = str(url).partition(":")
    if scheme == "duckdb" and rest.strip() and rest != ":memory:":                # memory would be gone after each call
        return DuckDB(url, Path(rest).expanduser(), lock_wait)
    if scheme == "bigquery":
        if not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]\.[A-Za-z0-9_]{1,1024}", rest):
            raise WarehouseError(f"not a BigQuery dataset: {rest!r}; wanted bigquery:PROJECT.DATASET, a project of 6 to 30 "
                                 "lower-case letters, digits and hyphens, a dataset of letters, digits and underscores")
        raise WarehouseError(f"{url}: the BigQuery backend is not built in this version; use duckdb:PATH")
    raise WarehouseError(f"not a warehouse: {url!r}; wanted duckdb:PATH or bigquery:PROJECT.DATASET")


_file_locks: dict[str, threading.RLock] = {}
_guard = threading.Lock()


def _fetched(connection, text: str, params: dict | None = None) -> list[tuple]:
    """All rows at once: DuckDB 2 refuses the next statement while a result is half read."""
    return connection.execute(text, params or {}).fetchall()


class DuckDB(Warehouse):
    """The embedded warehouse: one file, opened for each call and closed at once, because DuckDB locks it while it is open."""

    dialect = "duckdb"
    embedded = True
    # Extensions are never fetched: a warehouse must not need the network.
    config = {"autoinstall_known_extensions": False}

    def __init__(self, url: str, path: Path, lock_wait: float = 60.0):
        super().__init__(url)
        self.path, self.lock_wait = path, lock_wait

    # -- opening ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def exists(self) -> bool:
        return self.path.is_file()

    def _open(self, read_only: bool = False):
        """A connection for one call. Threads of this process take turns; other processes are waited for."""
        with _guard:
            lock = _file_locks.setdefault(str(self.path.absolute()), threading.RLock())
        with lock:
            connection = self._connect(read_only)
            try:
                yield connection
            except duckdb.Error as error:
                raise self._explained(error) from error
            finally:
                connection.close()

    def _connect(self, read_only: bool):
        fresh = not self.path.exists()
        if fresh:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WarehouseError(f"cannot make the directory of {self.path}: {error.strerror}; "
                                     "choose another place with WAREHOUSE=duckdb:PATH") from error
        started, pause, told = time.monotonic(), 0.02, False
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only, config=self.config)
                break
            except duckdb.Error as error:
                if "could not set lock" not in str(error).lower():
                    raise self._explained(error) from error
                holder = re.search(r"lock is held in (.*?\(PID \d+\)|PID \d+)", str(error))
                holder = holder.group(1) if holder else "another process"
                waited = time.monotonic() - started
                if waited >= self.lock_wait:
                    raise WarehouseError(f"{self.path} is still in use after {waited:.0f} s by {holder}: "
                                         "close that program, then run again") from error
                if not told and waited > 0.5:
                    log.warning("waiting for %s, in use by %s (up to %.0f s)", self.path, holder, self.lock_wait)
                    told = True
                time.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, self.lock_wait - waited) + 0.01))
                pause = min(pause * 1.5, 1.0)
        if told:
            log.info("%s is free after %.1f s", self.path, time.monotonic() - started)
        if fresh:
            self.path.chmod(self.path.stat().st_mode & ~0o002)      # whatever the umask says: not writable by everyone
        return connection

    @contextmanager
    def _transaction(self):
        """All or nothing: committed at the end of the block, rolled back by any exception in it."""
        with self._open() as connection:
            connection.begin()
            try:
                yield connection
            except BaseException:
                try:
                    connection.rollback()
                except duckdb.Error as error:                       # a full disk has ended it already: nothing was committed
                    log.debug("rollback after a failure: %s", error)
                raise
            connection.commit()

    def _explained(self, error: duckdb.Error) -> WarehouseError:
        text = str(error).strip().split("\n")[0]
        advice = next((advice for pattern, advice in (
            ("not a valid duckdb database", "the file is damaged or something else; move it away and a new one is made"),
            ("no space left|could not write|file too large|quota", "is the disk full? nothing was changed; free some space"),
            ("permission denied|read-only", "it cannot be written; choose another place with WAREHOUSE=duckdb:PATH"),
            ("is a directory", "WAREHOUSE=duckdb:PATH wants a file"),
            ("cannot open file", "check the path in WAREHOUSE=duckdb:PATH"),
        ) if re.search(pattern, text.lower())), "nothing was changed")
        return WarehouseError(f"{self.path}: {text}: {advice}")

    # -- primitives -------------------------------------------------------------------------------------------------------

    def _table(self, name: str, params: dict) -> pa.Table | None:
        if not self.path.exists():
            return None
        with self._open(read_only=True) as connection:
            return self._run(connection, name, params)

    def _run(self, connection, name: str, params: dict) -> pa.Table | None:
        text, _ = statement(name, self.dialect)
        try:
            return connection.sql(text, params=params).to_arrow_table()
        except duckdb.CatalogException as error:
            if re.search(r"Table with name \S+ does not exist", str(error)):
                return None
            raise

    def migrate(self) -> list[str]:
        done = []
        with self._transaction() as connection:
            have = self._columns(connection)
            faults = []
            for table, schema in tables().items():
                stored = have.get(table.lower())
                if stored is None:
                    continue
                for field in schema:
                    kind = stored.get(field.name.lower())
                    if kind is None and not field.nullable:
                        faults.append(f"{table}.{field.name} is missing")
                    elif kind is not None and not re.match(FAMILIES[field.type], kind):
                        faults.append(f"{table}.{field.name} is {kind}, wanted {field.type}")
            if faults:
                raise WarehouseError(f"{self.path}: {'; '.join(faults)}. Nothing was changed: rename the table "
                                     "(ALTER TABLE ... RENAME TO ...) or point WAREHOUSE elsewhere")
            for table, tree in _definitions().items():
                if table.lower() not in have:
                    connection.execute(tree.sql(self.dialect, comments=False))
                    done.append(f"made {table}")
                    continue
                for column in tree.this.expressions:
                    if column.name.lower() not in have[table.lower()]:
                        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column.sql(self.dialect, comments=False)}")
                        done.append(f"added {table}.{column.name}")
            before = self._views(connection)
            for tree in sqlglot.parse((SQL / "views.sql").read_text(encoding="utf-8"), read="bigquery"):
                connection.execute(tree.sql(self.dialect, comments=False))
            after = self._views(connection)
            done += [f"made {name}" for name in after if before.get(name) != after[name]]
            if not done:
                connection.rollback()                               # an up-to-date file keeps its bytes
                connection.begin()
        for line in done:
            log.log(logging.WARNING if line.startswith("added") else logging.INFO, "%s: %s", self.path, line)
        return done

    @staticmethod
    def _columns(connection) -> dict[str, dict[str, str]]:
        found = _fetched(connection, "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
                                     "AND schema_name = current_schema() AND database_name = current_database()")
        out: dict[str, dict[str, str]] = {}
        for table, column, kind in found:
            out.setdefault(table.lower(), {})[column.lower()] = kind
        return out

    @staticmethod
    def _views(connection) -> dict[str, str]:
        return dict(_fetched(connection, "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal "
                                         "AND schema_name = current_schema()"))

    def append(self, table: str, rows: pa.Table, replacing: tuple[str, ...] = ()) -> int:
        rows = conform(table, rows)
        unknown = [name for name in replacing if name not in rows.column_names]
        if unknown:
            raise WarehouseError(f"{table} has no column {', '.join(unknown)} to replace by")
        with self._transaction() as connection:
            self._insert(connection, table, rows, replacing)
        return rows.num_rows

    @staticmethod
    def _insert(connection, table: str, rows: pa.Table, replacing: tuple[str, ...] = (), absent_only: str | None = None):
        """Names come from our own schema, never from outside; values travel as Arrow."""
        columns = ", ".join(f'"{name}"' for name in rows.column_names)
        connection.register("incoming", rows)
        try:
            if replacing:
                same = " AND ".join(f'stored."{name}" = incoming."{name}"' for name in replacing)
                connection.execute(f"DELETE FROM {table} AS stored WHERE EXISTS (SELECT 1 FROM incoming WHERE {same})")
            absent = "" if absent_only is None else f' WHERE "{absent_only}" NOT IN (SELECT "{absent_only}" FROM {table})'
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM incoming{absent}")
        finally:
            connection.unregister("incoming")

    def seed(self, empty: str, rows: dict[str, pa.Table]) -> bool:
        checked = {table: conform(table, part) for table, part in rows.items()}
        with self._transaction() as connection:
            if _fetched(connection, f"SELECT 1 FROM {empty} LIMIT 1"):
                return False
            for table, part in checked.items():
                self._insert(connection, table, part, absent_only=part.column_names[0])
        return True

    def _store(self, publication: Publication) -> dict:
        p, target = publication, FORECASTS[publication.table]
        status, published_at = "published", datetime.now(UTC)
        with self._transaction() as connection:
            ledger = self._run(connection, "ledger", {})
            if ledger is None:
                raise WarehouseError(f"{self.path} has no tables yet: call migrate() first")
            mine = None
            for entry in ledger.cast(results()["ledger"]).to_pylist():
                same_place = (entry["job"], entry["model_id"], entry["as_of"]) == (p.job, p.model_id, p.as_of)
                if entry["run_id"] == p.run_id and not same_place:
                    raise WarehouseError(f"run {p.run_id} is already published as job {entry['job']!r}, model "
                                         f"{entry['model_id']}, as of {entry['as_of']}: a run is published once")
                if same_place:
                    mine = entry
                # The clock may jump back; what is published later must still be the later one.
                published_at = max(published_at, entry["published_at"] + timedelta(microseconds=1))
            if mine and mine["run_id"] == p.run_id:
                stored = self._run(connection, target.run_query, {"run_id": p.run_id}).cast(p.rows.schema)
                if stored.drop_columns(["created_at"]).equals(p.rows.drop_columns(["created_at"])):
                    return self._receipt(p, "already published", mine["published_at"], 0)
                status = "replaced"
            elif mine:
                status = "replaced"
            added = self._add_dimension(connection, p, target)
            connection.execute(f"DELETE FROM {p.table} WHERE run_id = $run_id", {"run_id": p.run_id})
            self._insert(connection, p.table, p.rows)
            n = _fetched(connection, f"SELECT COUNT(*) FROM {p.table} WHERE run_id = $run_id", {"run_id": p.run_id})[0][0]
            if n != p.rows.num_rows:
                raise WarehouseError(f"{p.table} holds {n} rows of run {p.run_id} after {p.rows.num_rows} were written")
            connection.execute(statement("flip_ledger", self.dialect)[0],
                               {"job": p.job, "model_id": p.model_id, "as_of": p.as_of, "run_id": p.run_id, "n": n,
                                "published_at": published_at})
            if p.model is not None:
                connection.execute(statement("record_model", self.dialect)[0], p.model)
        return self._receipt(p, status, published_at, added)

    def _add_dimension(self, connection, p: Publication, target: Forecasts) -> int:
        """Rows that the dimension lacks; a key that stands for something else already is an error, never a mix-up."""
        if p.dimension is None:
            return 0
        key = target.key
        connection.register("incoming", p.dimension)
        clashes = _fetched(connection,
            f"SELECT i.{key}, COALESCE(i.source_key, CAST(i.{key} AS VARCHAR)), COALESCE(d.source_key, d.{target.title}) "
            f"FROM incoming AS i JOIN {target.dimension} AS d ON i.{key} = d.{key} "
            f"WHERE i.source_key IS DISTINCT FROM d.source_key ORDER BY i.{key} LIMIT 1")
        known = _fetched(connection, f"SELECT COUNT(*) FROM incoming WHERE {key} IN (SELECT {key} FROM {target.dimension})")
        connection.unregister("incoming")
        for clash in clashes:
            raise WarehouseError(f"{target.dimension}.{key} {clash[0]} already stands for {clash[2]!r}, not for the series "
                                 f"{clash[1]!r}: rename that series; nothing was published")
        self._insert(connection, target.dimension, p.dimension, absent_only=key)
        return p.dimension.num_rows - known[0][0]

    def _receipt(self, p: Publication, status: str, published_at: datetime, added: int) -> dict:
        return {"status": status, "warehouse": self.url, "job": p.job, "model_id": p.model_id, "as_of": p.as_of.isoformat(),
                "run_id": p.run_id, "table": p.table, "rows": p.rows.num_rows,
                "series": pc.count_distinct(p.rows[FORECASTS[p.table].key]).as_py(), "content_hash": p.content_hash,
                "published_at": published_at.isoformat(), "new_in_dimension": added}
