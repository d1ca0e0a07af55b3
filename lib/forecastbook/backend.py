"""What every warehouse does, whatever is behind it: queries by name, publishing, reading back, checks.

A backend (``embedded``, ``bigquery``) says what is there (``exists``, ``columns``, ``lacking``, ``held``), makes the tables
(``migrate``), and has three hooks: ``_result`` (run a query), ``_write`` (add rows), ``_store`` (publish rows exactly once).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from forecastbook.publication import FORECASTS, Publication, day_of, prepare
from forecastbook.schema import WarehouseError, changes, conform, fitted, located, results, statement, views

log = logging.getLogger(__name__)
ALWAYS = date(1900, 1, 1), date(9999, 12, 31)


class Warehouse(ABC):
    """What every backend does; what each brings itself is abstract."""

    dialect: str  # of sqlglot
    embedded = False  # True where an empty warehouse may be filled with the sample; it then has ``seed``
    place: tuple[str, str] | None = None  # (project, dataset), where statements must name them
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
    def migrate(self, dry: bool = False) -> list[str]:
        """Make every table and view that is absent, add nullable columns that a table lacks; nothing else is altered.

        Returns what was done, one line each; empty when all was there. With ``dry`` nothing is done and the statements that
        would be run are returned. Raises WarehouseError before anything is written when an existing column has another type
        than ours.
        """

    @abstractmethod
    def columns(self) -> dict[str, dict[str, str]]:
        """The types of all columns that are there, by table and column in lower case; empty where there is nothing yet."""

    @abstractmethod
    def lacking(self) -> list[str]:
        """What migrate() would do now, one line each; nothing is done. Raises the same errors."""

    @abstractmethod
    def held(self, table: str) -> int | None:
        """How many rows a table holds; None where it is not there or does not say."""

    def append(self, table: str, rows: pa.Table, replacing: tuple[str, ...] = (), gone: tuple[int, ...] = ()) -> int:
        """Add rows to a table, all or none; returns how many. ``replacing`` names key columns: stored rows that share
        their key with a new row are deleted in the same transaction, so that a repeat does not double anything. ``gone``:
        values of the one key column whose stored rows are deleted too, new ones or not."""
        rows = conform(table, rows)
        unknown = [name for name in replacing if name not in rows.column_names]
        if unknown:
            raise WarehouseError(f"{table} has no column {', '.join(unknown)} to replace by")
        if gone and len(replacing) != 1:
            raise WarehouseError(f"rows of {table} that are gone are named by one key column, not by {len(replacing)}")
        self._write(table, rows, replacing, gone)
        return rows.num_rows

    @abstractmethod
    def _write(self, table: str, rows: pa.Table, replacing: tuple[str, ...], gone: tuple[int, ...]) -> None:
        """Add rows that fit the table, instead of those that share a key in ``replacing`` or whose key is ``gone``."""

    @abstractmethod
    def _result(self, name: str, params: dict) -> pa.Table | None:
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
        found, schema = self._result(name, params), results()[name]
        if found is None:
            return schema.empty_table()
        try:
            return fitted(found, schema)
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise WarehouseError(f"query {name}: the result does not fit its declared schema ({error})") from error

    def queries(self, asked: dict[str, dict]) -> dict[str, pa.Table]:
        """The results of several queries, each with its parameters, by name; a server is asked for all of them at once."""
        return {name: self.query(name, params) for name, params in asked.items()}

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
        Returns the receipt: status ('published', 'replaced', 'already published', or 'superseded by run …' where another
        publisher was later), rows, series, content_hash, ...
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
        if job is not None:  # its newest date is asked first, so that BigQuery reads that partition alone
            ledger = self.ledger()
            newest = pc.max(ledger.filter(pc.equal(ledger["job"], job))["as_of"]).as_py()
        for kind in [kinds[table]] if table else kinds.values():
            found = self.query(f"current_{kind}") if job is None else self.query(f"job_{kind}", {"job": job, "as_of": newest})
            if found.num_rows:
                return found
        return results()[f"current_{kinds.get(table, 'price')}"].empty_table()

    def published(self, run_id: str, table: str = "FactPriceForecast", as_of=None) -> pa.Table:
        """One run's rows as they are stored: what a publication reads back and counts. ``as_of``: its date, where known."""
        first, last = ALWAYS if as_of is None else (day_of(as_of),) * 2
        return self.query(FORECASTS[table].run_query, {"run_id": run_id, "first": first, "last": last})

    def stored(self, run_id: str, as_of) -> int:
        """How many rows of one run's forecasts there are, whether the ledger names them or not; none is read."""
        found = self.query("run_rows", {"run_id": run_id, "first": day_of(as_of), "last": day_of(as_of)})
        return sum(found["n"].to_pylist())

    def ledger(self) -> pa.Table:
        """Which run is current for each job, model and as-of date: job, model_id, as_of, run_id, rows, published_at."""
        return self.query("ledger")

    def vintages(self, job: str, before=None, since=None) -> pa.Table:
        """What the job published for as-of dates from ``since`` up to, not with, ``before`` (None: no bound), one set a date.

        Columns id, forecast_date, horizon, as_of, predicted, lower, upper, p_change, run_id, model_id.
        """
        since, before = (always if day is None else day_of(day) for always, day in zip(ALWAYS, (since, before), strict=True))
        return self.query("vintages", {"job": job, "since": since, "before": before})

    def checks(self) -> list[tuple[str, bool, str]]:
        """Sanity of what readers see: (name, ok, what was found)."""
        texts = {
            "counts": "every ledger entry has all its rows",
            "ledger": "one pointer for a job, model and as-of date",
            "current": "every item has exactly one row for each period ahead",
            "bounds": "bounds are ordered, finite and not negative",
            "orphans": "no row is visible that the ledger does not name",
        }
        out, answers = [], self.queries({f"check_{name}": {} for name in texts})
        empty = "publishledger" not in self.columns()  # nothing is there yet, so nothing is wrong
        for name, text in texts.items():
            found = answers[f"check_{name}"]["faults"].to_pylist()
            if not found and not empty:
                out.append((name, False, f"not known: a table or a view is missing, which make warehouse makes ({text})"))
            else:
                out.append((name, not sum(found), f"{sum(found)} faults against: {text}" if sum(found) else text))
        return out

    def ddl(self) -> list[str]:
        """The statements that make an empty warehouse ours; nothing is asked of it."""
        return self._statements({})

    # -- what a backend's own code shares ---------------------------------------------------------------------------------

    def _changes(self, have: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
        try:
            return changes(have, self.dialect, self.place)
        except WarehouseError as error:
            raise WarehouseError(f"{self.url}: {error}") from error

    def _statements(self, have: dict[str, dict[str, str]]) -> list[str]:
        """All that a migration would run: tables and columns that lack, and the views."""
        texts = [text for _, text in self._changes(have)]
        return texts + [located(tree, self.place, self.dialect) for tree in views().values()]

    def _announce(self, what: str) -> None:
        """Said before it is done: a column that is added to a table of the shop's is worth a warning."""
        if what.startswith("added "):
            log.warning("%s: adding %s, nullable, to a table that is there", self.url, what.removeprefix("added "))
        else:
            log.info("%s: making %s", self.url, what.removeprefix("made "))

    def _due(self, p: Publication, ledger: pa.Table | None) -> tuple[dict | None, datetime]:
        """What the ledger says where a publication will stand (None: nothing yet), and the time that it will carry.

        Raises WarehouseError when the run stands elsewhere already, or when there are no tables.
        """
        if ledger is None:
            raise WarehouseError(f"{self.url} has no tables yet: call migrate() first, or run make warehouse")
        mine, published_at = None, datetime.now(UTC)
        for entry in ledger.cast(results()["ledger"]).to_pylist():
            same_place = (entry["job"], entry["model_id"], entry["as_of"]) == (p.job, p.model_id, p.as_of)
            if entry["run_id"] == p.run_id and not same_place:
                raise WarehouseError(
                    f"run {p.run_id} is already published as job {entry['job']!r}, model "
                    f"{entry['model_id']}, as of {entry['as_of']}: a run is published once"
                )
            if same_place:
                mine = entry
            # The clock may jump back; what is published later must still be the later one.
            published_at = max(published_at, entry["published_at"] + timedelta(microseconds=1))
        return mine, published_at

    def _receipt(self, p: Publication, status: str, published_at: datetime, added: int) -> dict:
        return {
            "status": status,
            "warehouse": self.url,
            "job": p.job,
            "model_id": p.model_id,
            "as_of": p.as_of.isoformat(),
            "run_id": p.run_id,
            "table": p.table,
            "rows": p.rows.num_rows,
            "series": pc.count_distinct(p.rows[FORECASTS[p.table].key]).as_py(),
            "content_hash": p.content_hash,
            "published_at": published_at.isoformat(),
            "new_in_dimension": added,
        }
