"""The warehouse in BigQuery: tables, loads, and publications that happen exactly once.

Publishing appends a run's rows by one load job, reads them back, then flips the one-row pointer in PublishLedger.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from google.api_core import exceptions
from google.cloud import bigquery
from sqlglot import exp

from forecastbook.backend import Warehouse
from forecastbook.cloud import LARGE, Connection, Failed
from forecastbook.publication import FORECASTS, Publication, absent
from forecastbook.schema import WarehouseError, fitted, located, results, statement, tables, tables_read, views
from forecastbook.wording import size

log = logging.getLogger(__name__)

DESCRIPTION = "Forecasts, and the facts behind them. Tables are made by make warehouse."  # of a dataset that is made here
NAMES = 50  # load jobs of one content that may have been done and whose rows are gone


class BigQuery(Connection, Warehouse):
    """A dataset in BigQuery as a warehouse."""

    dialect = "bigquery"

    def __init__(self, url: str, project: str, dataset: str, labels: dict[str, str] | None = None):
        Warehouse.__init__(self, url)
        Connection.__init__(self, url, project, dataset, labels)
        self._migrated = False

    def exists(self) -> bool:
        with self._errors():
            return self._there()

    def columns(self) -> dict[str, dict[str, str]]:
        with self._errors("look at the tables"):
            return self._stored()[0] if self._there() else {}

    def held(self, table: str) -> int | None:
        with self._errors(), contextlib.suppress(exceptions.NotFound):
            return self._ask(self.client.get_table, self._name(table)).num_rows
        return None

    def _result(self, name: str, params: dict) -> pa.Table | None:
        text, _ = statement(name, self.dialect)
        with self._errors(f"query {name}"):
            if not self._there():
                return None
            try:
                if self.estimates:
                    self._affordable(name, self._estimate(text, params))
                return self._rows(text, params, lambda rows: self._fetched(rows, results()[name]))
            except exceptions.NotFound as error:
                lacks = re.search(r"not found: table ([^:\s]+):(\w+)\.(\w+)", str(error), re.I)
                if lacks and lacks.groups()[:2] == self.place and lacks[3] in tables_read(name):
                    return None  # what a view of the shop's lacks is an error
                raise

    def queries(self, asked: dict[str, dict]) -> dict[str, pa.Table]:
        self.exists()  # makes the client and finds the dataset once, before the threads want them
        with ThreadPoolExecutor(max(len(asked), 1)) as pool:
            return dict(zip(asked, pool.map(self.query, asked, asked.values()), strict=True))

    def _affordable(self, name: str, estimate: int) -> None:
        log.info("query %s would read %s (limit %s)", name, size(estimate), size(self.maximum))
        if estimate > self.maximum:
            raise WarehouseError(
                f"{self.url}: query {name} would read {size(estimate)}, more than BIGQUERY_MAXIMUM_BYTES_BILLED allows "
                f"({size(self.maximum)}): read fewer days (source.history_days), or raise it"
            )

    def _fetched(self, rows, schema: pa.Schema) -> pa.Table:
        """A result in its declared schema, batch by batch as it comes: narrow columns are held, never a frame of objects."""
        reader = self.reader if rows.total_rows and rows.total_rows > LARGE else None
        batches = []
        for batch in rows.to_arrow_iterable(bqstorage_client=reader, timeout=self.job_wait):
            if batch.num_rows:
                batches += fitted(pa.Table.from_batches([batch]), schema).to_batches()
        return pa.Table.from_batches(batches, schema)

    def estimate(self, name: str, params: dict) -> int:
        """Bytes that a query of sql/ would read, by a dry run."""
        with self._errors(f"query {name}"):
            return self._estimate(statement(name, self.dialect)[0], params)

    def migrate(self, dry: bool = False) -> list[str]:
        with self._errors("migrate"):
            if dry:
                return self._statements(self._stored()[0]) if self._there() else self.ddl()
            if self._migrated:  # within one process once is enough: it costs a query
                return []
            done = [] if self._there() else [self._make_dataset()]
            changes = self._lacking(not done)
            for what, _ in changes:
                self._announce(what)
            for again in (True, True, False):
                if not changes:
                    break
                try:
                    self._statement(";\n".join(text for _, text in changes))  # one job: each statement may be repeated
                    done += [what for what, _ in changes]
                    break
                except Failed as failed:
                    if not (again and isinstance(failed.cause, exceptions.Conflict)):
                        raise
                    changes = self._lacking(True)  # somebody else was making the same
            self._migrated = True
        return done

    def lacking(self) -> list[str]:
        with self._errors("look at the tables"):
            made = [] if self._there() else [f"made dataset {self._name()}"]
            return made + [what for what, _ in self._lacking(not made)]

    def _lacking(self, there: bool) -> list[tuple[str, str]]:
        have, stored = self._stored() if there else ({}, {})
        changes = self._changes(have)
        for name, tree in views().items():
            text = located(tree, self.place)
            if _normal(stored.get(name.lower(), "")) != _normal(_body(text)):
                changes.append((f"made {name}", text))
        return changes

    def ddl(self) -> list[str]:
        project, dataset = self.place
        told = {"description": DESCRIPTION, **({"location": place} if (place := os.environ.get("BIGQUERY_LOCATION")) else {})}
        options = ", ".join(f"{key} = {exp.Literal.string(text).sql('bigquery')}" for key, text in told.items())
        return [f"CREATE SCHEMA IF NOT EXISTS `{project}`.`{dataset}` OPTIONS ({options})", *super().ddl()]

    def _make_dataset(self) -> str:
        dataset = bigquery.Dataset(self._name())
        dataset.location = os.environ.get("BIGQUERY_LOCATION") or None
        dataset.description = DESCRIPTION
        self._dataset = self._ask(self.client.create_dataset, dataset, exists_ok=True)
        said = f"made dataset {self._name()} in {self._dataset.location or 'the default location'}"
        log.warning("%s: %s (BIGQUERY_LOCATION says where)", self.url, said)
        return said

    def _stored(self) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """What ``columns`` says, and the text of each view by name in lower case."""
        columns: dict[str, dict[str, str]] = {}
        texts: dict[str, str] = {}
        ours = {name.lower(): name for name in (*tables(), *views())}
        project, dataset = self.place  # both names were checked by connect
        there = f"`{project}`.`{dataset}`.INFORMATION_SCHEMA"
        mine = f"WHERE LOWER(table_name) IN ({', '.join(repr(name) for name in ours)})"  # a dataset may hold many others
        asked = (
            f"SELECT table_name, column_name, data_type FROM {there}.COLUMNS {mine} "
            f"UNION ALL SELECT table_name, NULL, view_definition FROM {there}.VIEWS {mine}"
        )
        for table, column, said in self._rows(asked):
            if column is None:
                texts[table.lower()] = said
                continue
            if ours.get(table.lower(), table) != table and not self._dataset.is_case_insensitive:
                raise WarehouseError(
                    f"{self.url}: the table {table} is not {ours[table.lower()]} to BigQuery, which minds the case: rename it, "
                    "or make a view of the right name"
                )
            columns.setdefault(table.lower(), {})[column.lower()] = said
        return columns, texts

    def _write(self, table: str, rows: pa.Table, replacing: tuple[str, ...], gone: tuple[int, ...]) -> None:
        with self._errors(f"append to {table}"):
            if not replacing:
                self._load(table, rows, f"append-{uuid.uuid4().hex}")
                return
            same = " AND ".join(f"stored.`{name}` = incoming.`{name}`" for name in replacing)
            with self._staged(table, rows) as staged:
                where = f"EXISTS (SELECT 1 FROM {staged} AS incoming WHERE {same})"
                if gone:
                    where += f" OR stored.`{replacing[0]}` IN UNNEST(@gone)"
                self._statement(exchange(table, where, staged), {"gone": list(gone)} if gone else {})

    def _load(self, table: str, rows: pa.Table, name: str, done=None) -> bool:
        """Rows as one load job: all of them or none. Types and modes are those of the table, which a shop may have made.

        done: see ``_job``. Returns whether the job was there already.
        """
        full, buffer = self._name(table), BytesIO()
        stored = {field.name.lower(): field for field in self._ask(self.client.get_table, full).schema}
        if lacking := [column for column in rows.column_names if column.lower() not in stored]:
            raise WarehouseError(f"{self.url}: {table} lacks the column {', '.join(lacking)}: make warehouse adds it")
        fields = [stored[column.lower()] for column in rows.column_names]
        columns = pa.schema([_arrow(field, kind) for field, kind in zip(fields, rows.schema.types, strict=True)])
        try:
            pq.write_table(rows.rename_columns(columns.names).cast(columns), buffer)
        except pa.ArrowInvalid as error:
            raise WarehouseError(f"{self.url}: {table} cannot hold what was to be written: {error}") from error
        settings = bigquery.LoadJobConfig(
            schema=fields,
            source_format="PARQUET",
            write_disposition="WRITE_APPEND",
            create_disposition="CREATE_NEVER",
            labels=self.labels,
        )

        def begin(job_id: str):
            return self.client.load_table_from_file(
                buffer,
                full,
                rewind=True,
                size=buffer.getbuffer().nbytes,
                job_id=job_id,
                location=self.location,
                job_config=settings,
                num_retries=0,  # the client would send it again unasked, and wait by a clock of its own
                timeout=self.wait,
            )

        return self._job(name, begin, done)

    @contextlib.contextmanager
    def _staged(self, table: str, rows: pa.Table):
        """Rows in a table of their own beside ``table``, for one statement; its name in full. Gone afterwards, or in a day."""
        full = bigquery.Table(self._name(f"forecastbook_staging_{uuid.uuid4().hex}"))
        stored = self._ask(self.client.get_table, self._name(table))
        full.schema = [
            bigquery.SchemaField(f.name, f.field_type) for f in stored.schema if f.name.lower() in tables()[table].names
        ]
        full.expires = datetime.now(UTC) + timedelta(days=1)
        self._ask(self.client.create_table, full, exists_ok=True)
        try:
            self._load(full.table_id, rows, f"stage-{uuid.uuid4().hex}")
            yield f"`{full.table_id}`"
        finally:
            self._ask(self.client.delete_table, full, not_found_ok=True)

    def _store(self, publication: Publication) -> dict:
        p, target = publication, FORECASTS[publication.table]
        with self._errors(f"publish run {p.run_id}"):
            entry, published_at = self._due(p, self._result("ledger", {}))
            stored = self.published(p.run_id, p.table, p.as_of)  # of an earlier publication, or of one that was cut off
            same = p.same(stored)
            if entry and entry["run_id"] == p.run_id and same:
                return self._receipt(p, "already published", entry["published_at"], 0)
            new = self._absent(p)
            if new.num_rows:
                self._add(target.dimension, target.key, new, lambda: self._absent(p).num_rows == 0)
            if not same and not (stored.num_rows == 0 and self._appended(p)):
                self._replaced(p)
            record, flip = (statement(name, self.dialect)[0] for name in ("record_model", "flip_ledger"))
            mine = p.flip(published_at)
            if entry is None:
                # Others may find nothing either, and a MERGE that only inserts does not exclude theirs; the id of a job does.
                if p.model is not None and not self._knows(p.model_id):
                    self._statement(record, p.model, f"model-{self._token(p.model_id)}", lambda: self._knows(p.model_id))
                entered = f"enter-{self._token(p.job, p.model_id, p.as_of)}"
                self._statement(flip, mine, entered, lambda: self._due(p, self._result("ledger", {}))[0] is not None)
            if p.model is not None:
                self._statement(record, p.model)
            self._statement(flip, mine, f"flip-{self._token(p.run_id, p.content_hash, published_at)}")
            now, _ = self._due(p, self._result("ledger", {}))
            if now is None or now["run_id"] != p.run_id:
                found = "nothing" if now is None else f"run {now['run_id']}"
                log.warning("%s: the ledger names %s, published meanwhile, and not run %s", self.url, found, p.run_id)
                return self._receipt(p, f"superseded by {found}", published_at, new.num_rows)
        return self._receipt(p, "replaced" if entry else "published", published_at, new.num_rows)

    def _absent(self, p: Publication) -> pa.Table:
        """The items of a publication that its dimension lacks."""
        return absent(p, self.query(FORECASTS[p.table].keys_query, {"ids": p.ids}) if p.ids else None)

    def _knows(self, model_id: int) -> bool:
        """Whether DimModel has the model."""
        return self.query("model", {"model_id": model_id}).num_rows > 0

    def _token(self, *what) -> str:
        """What tells one piece of work in this dataset from any other."""
        return hashlib.sha256(repr((self.place, *map(str, what))).encode()).hexdigest()[:32]

    def _appended(self, p: Publication) -> bool:
        """The run's rows added to the fact table, exactly once; False when other rows of the same run came in between."""
        for attempt in range(NAMES):  # the rows are not part of the name: two contents of one run must not both be added
            name = f"load-{self._token(p.table, p.as_of, p.run_id)}-{attempt}"
            there = self._load(p.table, p.rows, name, lambda: self.published(p.run_id, p.table, p.as_of).num_rows > 0)
            stored = self.published(p.run_id, p.table, p.as_of)
            if stored.num_rows:
                return p.same(stored)
            if not there:
                raise WarehouseError(
                    f"{self.url}: the rows of run {p.run_id} were loaded into {p.table} and are not there: where its "
                    f"partitions expire, those of {p.as_of} have at once; make doctor tells"
                )
            # a job of this name was done long ago, and its rows were deleted since: take the next name
        raise WarehouseError(f"{self.url}: the rows of run {p.run_id} were loaded {NAMES} times and are not in {p.table}")

    def _replaced(self, p: Publication) -> None:
        """Other rows of this very run go, ours come, and the ledger counts them if it names the run: in one transaction."""
        count = "UPDATE PublishLedger SET `rows` = @n WHERE run_id = @run_id AND as_of = @as_of"
        with self._staged(p.table, p.rows) as staged:
            text = exchange(p.table, "as_of = @as_of AND run_id = @run_id", staged, count)
            self._statement(text, {"as_of": p.as_of, "run_id": p.run_id, "n": p.rows.num_rows})

    def _add(self, table: str, key: str, rows: pa.Table, done) -> None:
        columns = ", ".join(f"`{name}`" for name in rows.column_names)
        values = ", ".join(f"incoming.`{name}`" for name in rows.column_names)
        with self._staged(table, rows) as staged:
            text = (
                f"MERGE INTO {table} AS stored USING {staged} AS incoming ON stored.{key} = incoming.{key} "
                f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
            )
            # twice: under an id that other publishers of these rows share, and for what a job of that name did long ago
            self._statement(text, name=f"items-{self._token(table, *rows[key].to_pylist())}", done=done)
            self._statement(text)


def exchange(table: str, where: str, staged: str, *more: str) -> str:
    """A script that deletes rows of ``table AS stored``, adds the staged ones and does more, all in one transaction."""
    columns = ", ".join(f"`{name}`" for name in tables()[table].names)
    delete = f"DELETE FROM {table} AS stored WHERE {where}"
    insert = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {staged}"
    return "; ".join(("BEGIN TRANSACTION", delete, insert, *more, "COMMIT TRANSACTION"))


def _arrow(field: bigquery.SchemaField, ours: pa.DataType) -> pa.Field:
    """A stored column as the column of Arrow that is loaded into it: ours, or the exact or whole numbers that a shop keeps."""
    whole = dict.fromkeys(("INTEGER", "INT64"), pa.int64())
    kind = ({"NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38)} | whole).get(field.field_type)
    return pa.field(field.name, kind or ours, nullable=field.mode != "REQUIRED")


def _normal(query: str) -> str:
    """A query without the accidents of its writing."""
    return sqlglot.parse_one(query, read="bigquery").sql("bigquery", comments=False) if query.strip() else ""


def _body(create: str) -> str:
    """The query of a CREATE VIEW statement."""
    return create.split(" AS ", 1)[1].strip()
