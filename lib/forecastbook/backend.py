"""What every warehouse does, whatever is behind it: queries by name, publishing, reading back, checks.

A backend (in ``warehouse``) brings the primitives ``exists``, ``migrate``, ``append`` and ``seed``, and two hooks: ``_table``
(run a query) and ``_store`` (publish rows, once and only once).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from datetime import date
from pathlib import Path

import pyarrow as pa

from forecastbook.publication import FORECASTS, Publication, day_of, prepare
from forecastbook.schema import WarehouseError, results, statement

log = logging.getLogger(__name__)


class Warehouse(ABC):
    """What every backend does. A backend brings migrate, append, seed, _table and _store."""

    dialect: str  # of sqlglot
    embedded = False  # True where an empty warehouse may be filled with the sample

    looks_only = False  # a dry run: a source may ask, and must not make anything

    def __init__(self, url: str):
        self.url = url
        self.beside = Path("outputs")  # directory for files that belong with it

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
    def seed(self, unless: str, rows: dict[str, pa.Table]) -> bool:
        """Fill several tables in one transaction, unless the query ``unless`` counts ``facts`` there; returns whether it did.

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

    def publish(
        self, *, job: str, model_id: int, as_of, run_id: str, table: str, rows: pa.Table, model: dict | None = None, among=None
    ) -> dict:
        """Publish a run's forecasts, once and only once: a repeat changes nothing, a kill leaves the old set current.

        rows: one row a series and period ahead. FactPriceForecast: forecast_date, horizon (1..H), predicted_price,
        confidence_lower, confidence_upper, optional p_change; FactSalesForecast: forecast_date, horizon, q05 .. q95,
        optional mean. Keyed by variant_id / item_id, or by text ``series_id`` (with optional ``title``): then the key is
        made by variant_ids (``among``: all ids of the job, forecast or not) and the dimension gets the rows that it lacks.
        model: model_name, model_version, model_type,
        training_date, performance_metrics, hyperparameters.
        Returns the receipt: status ('published', 'replaced' or 'already published'), rows, series, content_hash, ...
        Raises WarehouseError, with nothing written, when a row breaks the contract.
        """
        publication = prepare(job, model_id, as_of, run_id, table, rows, model, among)
        receipt = self._store(publication)
        log.info(
            "%s: %d rows of %d series for %s as of %s (run %s)",
            receipt["status"],
            receipt["rows"],
            receipt["series"],
            job,
            receipt["as_of"],
            run_id,
        )
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
        return self.query("vintages", {"job": job, "before": date(9999, 12, 31) if before is None else day_of(before)})

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
