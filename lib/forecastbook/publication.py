"""What may be published: one run's forecasts, checked, completed and keyed, before a warehouse stores them.

Nothing here talks to a warehouse. ``prepare`` refuses rows that break the contract, naming column and row; what it returns is
stored whole or not at all. ``variant_ids`` makes the INT64 keys of text ids.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa

from forecastbook.files import as_json
from forecastbook.schema import ARROW, WarehouseError, conform, tables


@dataclass(frozen=True)
class Forecasts:
    """A table of forecasts: its key, the dimension behind the key, and the columns that must ascend."""

    key: str
    dimension: str
    title: str
    ascending: tuple[str, ...]
    run_query: str  # the rows of one run
    keys_query: str  # what some keys of the dimension stand for
    defaults: tuple[tuple[str, object], ...] = ()


FORECASTS = {
    "FactPriceForecast": Forecasts(
        "variant_id",
        "DimVariant",
        "variant_title",
        ("confidence_lower", "predicted_price", "confidence_upper"),
        "run_price",
        "keys_price",
        (("shop_product_id", 0),),
    ),
    "FactSalesForecast": Forecasts(
        "item_id",
        "DimItem",
        "title",
        ("q05", "q25", "q50", "q75", "q95"),
        "run_sales",
        "keys_sales",
        (("from_files", True),),
    ),
}
FILLED = ("forecast_id", "model_id", "as_of", "run_id", "created_at")  # publish writes these itself
MODEL = ("model_name", "model_version", "model_type", "training_date", "performance_metrics", "hyperparameters")


@dataclass(frozen=True)
class Publication:
    """One run's forecasts, checked and complete: what a backend stores, all of it or nothing."""

    job: str
    model_id: int
    as_of: date
    run_id: str
    table: str
    rows: pa.Table  # schema of ``table``, sorted by key and date
    dimension: pa.Table | None  # rows that the dimension must have
    model: dict | None  # parameters of record_model.sql

    @property
    def content_hash(self) -> str:
        """Of the forecasts alone: the clock (created_at) is left out."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.rows.drop_columns(["created_at"]).schema) as stream:
            stream.write_table(self.rows.drop_columns(["created_at"]).combine_chunks(), max_chunksize=65_536)
        return hashlib.sha256(sink.getvalue()).hexdigest()

    @property
    def ids(self) -> list[int]:
        """Keys of the rows that the dimension must have."""
        return [] if self.dimension is None else self.dimension[FORECASTS[self.table].key].to_pylist()

    def same(self, stored: pa.Table) -> bool:
        """Whether rows that a warehouse holds are these; the clock does not count."""
        return stored.cast(self.rows.schema).drop_columns(["created_at"]).equals(self.rows.drop_columns(["created_at"]))

    def flip(self, published_at: datetime) -> dict:
        """The parameters of flip_ledger.sql."""
        return {
            "job": self.job,
            "model_id": self.model_id,
            "as_of": self.as_of,
            "run_id": self.run_id,
            "n": self.rows.num_rows,
            "published_at": published_at,
        }


def prepare(
    job: str, model_id: int, as_of, run_id: str, table: str, rows: pa.Table, model: dict | None, among=None
) -> Publication:
    """Check a run's forecasts and complete them with what publish knows. Raises WarehouseError naming column and row."""
    if table not in FORECASTS:
        raise WarehouseError(f"cannot publish to {table!r}: forecasts go to {' or '.join(FORECASTS)}")
    for name, value in (("job", job), ("run_id", run_id)):
        if not isinstance(value, str) or not value.strip():
            raise WarehouseError(f"publish needs a {name}, got {value!r}")
    if not isinstance(rows, pa.Table):
        raise WarehouseError(f"publish wants an Arrow table of rows, got {type(rows).__name__}")
    target, as_of = FORECASTS[table], day_of(as_of)
    filled = [name for name in rows.column_names if name in FILLED]
    if filled:
        raise WarehouseError(f"publish to {table} fills {', '.join(filled)} itself: leave them out of the rows")
    if not rows.num_rows:
        raise WarehouseError(f"job {job!r} has no forecasts for {as_of}: nothing was published")
    dimension = None
    if "series_id" in rows.column_names:
        rows, dimension = _with_keys(rows, target, among)
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
    rows = rows.set_column(
        rows.schema.get_field_index("forecast_id"), rows.schema.field("forecast_id"), pa.array(names, pa.string())
    )
    return Publication(job, int(model_id), as_of, run_id, table, rows, dimension, _model_row(model_id, model))


def _with_keys(rows: pa.Table, target: Forecasts, among) -> tuple[pa.Table, pa.Table]:
    """Rows keyed by text ``series_id`` (and ``title``) -> rows keyed by INT64, and the dimension rows behind them."""
    if target.key in rows.column_names:
        raise WarehouseError(f"rows have both series_id and {target.key}: give one of them")
    encoded = rows["series_id"].cast(pa.string()).combine_chunks().dictionary_encode()
    if encoded.null_count:
        raise WarehouseError(f"series_id is null in {encoded.null_count} rows: every forecast needs its series")
    codes = encoded.indices.to_numpy()  # (rows,)
    titles = None
    if "title" in rows.column_names:
        first = np.unique(codes, return_index=True)[1]
        titles = rows["title"].cast(pa.string()).take(pa.array(first)).to_pylist()
    keys = variant_ids(encoded.dictionary.to_pylist(), titles, among)
    rows = rows.drop_columns([c for c in ("series_id", "title") if c in rows.column_names])
    rows = rows.append_column(target.key, keys["id"].take(pa.array(codes)))
    dimension = {target.key: keys["id"], target.title: keys["title"], "source_key": keys["source_key"]}
    for name, value in target.defaults:
        dimension[name] = pa.array([value] * keys.num_rows)
    return rows, conform(target.dimension, pa.table(dimension))


def absent(p: Publication, stored: pa.Table) -> pa.Table:
    """The dimension rows of a publication that a warehouse lacks. stored: result of its ``keys_query`` for ``p.ids``.

    Raises WarehouseError when a key stands for something else already: never a mix-up.
    """
    target = FORECASTS[p.table]
    if p.dimension is None:
        return conform(target.dimension, tables()[target.dimension].empty_table())
    known = {row["id"]: row for row in stored.to_pylist()}
    for row in p.dimension.to_pylist():
        there = known.get(row[target.key])
        if there and there["source_key"] != row["source_key"]:
            raise WarehouseError(
                f"{target.dimension}.{target.key} {row[target.key]} already stands for "
                f"{there['source_key'] or there['title']!r}, not for the series {row['source_key'] or str(row[target.key])!r}: "
                "rename that series; nothing was published"
            )
    return p.dimension.filter(pa.array([key not in known for key in p.ids], pa.bool_()))


def _check(table: str, target: Forecasts, rows: pa.Table, as_of: date) -> None:
    """Forecasts are complete, finite, non-negative, ordered, and each series has one row for each of 1 .. H."""

    def refuse(mask, what: str) -> None:
        if mask.any():
            at = int(np.flatnonzero(mask)[0])
            shown = {c: rows[c][at].as_py() for c in (target.key, "forecast_date", "horizon", *target.ascending)}
            raise WarehouseError(
                f"{table}: {what} in {int(mask.sum())} of {len(mask)} rows, first "
                + ", ".join(f"{k}={v}" for k, v in shown.items())
                + ": nothing was published"
            )

    for name in (target.key, "forecast_date", "horizon", *target.ascending):
        refuse(np.asarray(rows[name].is_null()), f"{name} is null")
    values = np.stack([rows[name].to_numpy() for name in target.ascending], axis=1)  # (rows, Q)
    refuse(~np.isfinite(values).all(axis=1), "a value is not finite")
    refuse((values < 0).any(axis=1), "a value is negative")
    refuse((np.diff(values, axis=1) < 0).any(axis=1), f"bounds are out of order ({' <= '.join(target.ascending)})")
    for name, top in (("p_change", 1.0), ("mean", np.inf)):
        if name in rows.column_names:
            value = rows[name].to_numpy()  # null arrives as NaN: allowed here
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
        "model_id": int(model_id),
        "model_name": str(model["model_name"]),
        "model_version": str(model["model_version"]),
        "model_type": model.get("model_type"),
        "training_date": None if trained is None else day_of(trained),
        "performance_metrics_json": as_json(model.get("performance_metrics", {}), sort_keys=True),
        "hyperparameters_json": as_json(model.get("hyperparameters", {}), sort_keys=True),
    }


def day_of(value) -> date:
    """A date in any form that numpy takes. Raises WarehouseError when it is none."""
    try:
        day = np.datetime64(value, "D").astype(date)
    except ValueError as error:
        raise WarehouseError(f"not a date: {value!r}") from error
    if day is None:
        raise WarehouseError(f"not a date: {value!r}")
    return day


# ---- text ids -> INT64 -------------------------------------------------------------------------------------------------

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")


def canonical(text: str) -> bool:
    """Whether an id is a whole number, written as such, that a key can hold."""
    return bool(_CANONICAL.fullmatch(text)) and -(2**63) <= int(text) < 2**63


def variant_ids(ids, titles=None, among=None) -> pa.Table:
    """Text ids of series as the INT64 keys of the warehouse: (N,) each -> table (id int64, source_key, title), (N,) rows.

    The key is the id itself where every id is a canonical integer in the INT64 range; else the first 63 bits of the id's
    blake2b hash, with the original in ``source_key`` (null in the first case). Titles default to the ids.
    ``among``: all ids of the job, where ``ids`` are only some: they decide which of the two it is.
    Raises WarehouseError on an empty id, or when two different ids share a hash.
    """
    ids = [str(i) for i in ids]
    if any(not i for i in ids):
        raise WarehouseError("a series id is empty: every series that is published needs one")
    if all(canonical(i) for i in (ids if among is None else map(str, among))):
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
