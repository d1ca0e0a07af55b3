"""The warehouse in BigQuery. The only importer of google.cloud.

Publishing appends a run's rows by one load job, counts them, then flips the one-row pointer in PublishLedger. A job's id says
what it does, so a request that is sent again, by this process or another, finds the job that is there: a reply may be lost, no
work is done twice.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import ipaddress
import itertools
import logging
import os
import re
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path

import google.auth
import google.auth.transport.requests
import pyarrow as pa
import pyarrow.parquet as pq
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry, exponential_sleep_generator
from google.auth import exceptions as auth
from google.auth import impersonated_credentials
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from sqlglot import exp

from forecastbook.backend import Warehouse
from forecastbook.publication import FORECASTS, Publication, absent
from forecastbook.schema import WarehouseError, conform, fitted, located, results, statement, tables, views

log = logging.getLogger(__name__)

SCOPE = "https://www.googleapis.com/auth/bigquery"
WIDE = "https://www.googleapis.com/auth/cloud-platform"  # of a login that asks for another account's token: less is refused
MAXIMUM = 100 * 10**9  # bytes that one query may read, unless BIGQUERY_MAXIMUM_BYTES_BILLED says otherwise
DESCRIPTION = "Forecasts, and the facts behind them. Tables are made by make warehouse."  # of a dataset that is made here
LARGE = 10_000  # rows from which a result is read through the Storage Read API
ATTEMPTS = 5  # times that a job which failed for a passing reason is begun anew
NAMES = 50  # load jobs of one content that may have been done and whose rows are gone
PASSING = {"rateLimitExceeded", "backendError", "internalError", "badGateway", "jobBackendError", "jobInternalError",
           "jobRateLimitExceeded"}  # fmt: skip
BROKEN = (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout,
          requests.exceptions.ChunkedEncodingError, concurrent.futures.TimeoutError, auth.TransportError)  # fmt: skip
ACCOUNTS = {  # module of google-auth -> what such credentials are
    "impersonated_credentials": "impersonating",
    "oauth2.service_account": "service account",
    "compute_engine": "service account of this machine",
    "identity_pool": "workload identity federation",
    "external_account": "workload identity federation",
    "oauth2.credentials": "user login (gcloud auth application-default login)",
}
KINDS = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING", datetime: "TIMESTAMP", date: "DATE"}


class _Failed(Exception):
    """A job that was done and failed; ``cause`` is its error."""

    def __init__(self, cause: exceptions.GoogleAPICallError):
        super().__init__(str(cause))
        self.cause = cause


class BigQuery(Warehouse):
    """A dataset in BigQuery, reached by Application Default Credentials."""

    dialect = "bigquery"
    patience = 300.0  # seconds for which a request is sent again while the service is not itself
    pause = 0.5  # seconds before the first repeat; doubled each time
    wait = 60.0  # seconds for one reply
    job_wait = 1800.0  # seconds for one job

    def __init__(self, url: str, project: str, dataset: str, labels: dict[str, str] | None = None):
        super().__init__(url)
        self.place = project, dataset
        self.maximum = _maximum()
        self.labels = {"app": "forecastbook", **{key: _label(value) for key, value in (labels or {}).items()}}
        self._client: bigquery.Client | None = None
        self._reader = None
        self._dataset: bigquery.Dataset | None = None
        self._migrated = False

    # -- the connection ---------------------------------------------------------------------------------------------------

    @property
    def client(self) -> bigquery.Client:
        """The genuine client, made at the first use: nobody needs credentials to name a dataset."""
        if self._client is None:
            emulator = emulator_host("BIGQUERY_EMULATOR_HOST")
            options = {"api_endpoint": f"http://{emulator}"} if emulator else None
            self._client = bigquery.Client(project=self.place[0], credentials=self.credentials(), client_options=options)
        return self._client

    @staticmethod
    def credentials():
        """Application Default Credentials, impersonating GOOGLE_IMPERSONATE_SERVICE_ACCOUNT where that is set.

        Raises WarehouseError when there are none, and for a key file that lies inside the repository.
        """
        if emulator_host("BIGQUERY_EMULATOR_HOST"):
            return AnonymousCredentials()
        key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        here = Path.cwd().resolve()
        roots = [Path(__file__).resolve().parents[2], *[d for d in (here, *here.parents) if (d / ".git").exists()][:1]]
        if key and any(Path(key).expanduser().resolve().is_relative_to(root) for root in roots):
            raise WarehouseError(
                f"GOOGLE_APPLICATION_CREDENTIALS={key} lies inside the repository, where a commit would publish it: "
                "move the key elsewhere, or better use `gcloud auth application-default login`"
            )
        target = os.environ.get("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT")
        try:
            found, _ = google.auth.default(scopes=[WIDE if target else SCOPE])
        except auth.GoogleAuthError as error:
            raise _explained(error, "BigQuery") from error
        except (OSError, ValueError, AttributeError) as error:  # a directory, not text, JSON of another kind
            raise WarehouseError(f"GOOGLE_APPLICATION_CREDENTIALS={key} is no key file: {_line(error)}") from error
        if not target:
            return found
        return impersonated_credentials.Credentials(found, target_principal=target, target_scopes=[SCOPE])

    @property
    def reader(self):
        """The client of the Storage Read API, or None where only an emulator of the REST API is named."""
        if self._reader is None:
            from google.cloud import bigquery_storage  # lazily: small results do without
            from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

            emulator = emulator_host("BIGQUERY_STORAGE_EMULATOR_HOST")
            if emulator:
                import grpc

                channel = grpc.insecure_channel(emulator, options=[("grpc.max_receive_message_length", -1)])
                transport = BigQueryReadGrpcTransport(channel=channel)
                self._reader = bigquery_storage.BigQueryReadClient(transport=transport)
            elif emulator_host("BIGQUERY_EMULATOR_HOST"):
                return None
            else:
                self._reader = bigquery_storage.BigQueryReadClient(credentials=self.client._credentials)
        return self._reader

    def _patiently(self, call):
        """``call()``, again while what it raises will pass (busy, rate limited, connection lost), for ``patience`` seconds."""
        again = Retry(
            predicate=_passing,
            initial=self.pause,
            maximum=30.0,
            multiplier=2.0,
            timeout=self.patience,
            on_error=lambda error: log.warning("%s: %s; trying again", self.url, _line(error)),
        )
        return again(call)()

    @contextlib.contextmanager
    def _errors(self, what: str = ""):
        """Errors of the service as WarehouseErrors of one line."""
        try:
            yield
        except _Failed as failed:
            raise _explained(failed.cause, self.url, what) from failed.cause
        except (exceptions.GoogleAPIError, auth.GoogleAuthError, *BROKEN) as error:
            raise _explained(error, self.url, what) from error

    # -- jobs -------------------------------------------------------------------------------------------------------------

    def _job(self, name: str, begin):
        """A job begun under ``name`` and waited for; ``begin(job_id)`` sends it. Returns it done.

        The id is looked up before it is sent again, and adopted when it is there. A job that failed for a passing reason is
        begun anew under the next attempt's id, and so is an adopted one that failed: perhaps long ago, what was wrong may be
        mended since. Raises _Failed for any other failure.
        """
        pauses, tries = exponential_sleep_generator(self.pause, 30.0), 0
        for attempt in itertools.count():
            job_id = f"forecastbook-{name}-{attempt}"
            job, adopted = self._begun(job_id, begin)
            try:
                return self._waited(job)
            except _Failed as failed:
                if adopted:
                    continue
                tries += 1
                if tries == ATTEMPTS or not _passing(failed.cause):
                    raise
                pause = next(pauses)
                log.warning("%s: job %s failed (%s); once more in %.1f s", self.url, job_id, _line(failed.cause), pause)
                time.sleep(pause)

    def _begun(self, job_id: str, begin):
        """A job, and whether it was there already."""
        sent = False

        def found():
            return self.client.get_job(job_id, location=self.location, retry=None, timeout=self.wait), True

        def once():
            nonlocal sent
            if sent:  # the reply may have been lost, not the job
                with contextlib.suppress(exceptions.NotFound):
                    return found()
            sent = True
            try:
                return begin(job_id), False
            except exceptions.Conflict:
                return found()

        return self._patiently(once)

    def _waited(self, job):
        until = time.monotonic() + self.job_wait

        def result():
            while True:
                try:
                    job.result(retry=None, timeout=self.wait)
                    return job
                except concurrent.futures.TimeoutError:  # a job may take longer than a reply
                    if time.monotonic() > until:
                        raise
                except exceptions.GoogleAPICallError as error:
                    if job.state == "DONE" and job.error_result:
                        raise _Failed(error) from error
                    raise

        return self._patiently(result)

    def _settings(self, params: dict | None, **more) -> bigquery.QueryJobConfig:
        return bigquery.QueryJobConfig(
            query_parameters=[_parameter(key, value) for key, value in (params or {}).items()],
            default_dataset=".".join(self.place),
            labels=self.labels,
            maximum_bytes_billed=self.maximum,
            **more,
        )

    def _statement(self, text: str, params: dict | None = None, name: str = "") -> None:
        """A statement that changes something, done once; ``name``: of its job, where several processes may send the same."""

        def begin(job_id: str):
            return self.client.query(
                text,
                job_config=self._settings(params),
                job_id=job_id,
                location=self.location,
                retry=None,
                job_retry=None,
                timeout=self.wait,
            )

        self._job(name or f"statement-{uuid.uuid4().hex}", begin)

    def _rows(self, text: str, params: dict | None = None):
        """An iterator over the rows of a query. To ask twice does no harm, so a lost reply is just asked for again."""
        return self._patiently(
            lambda: self.client.query_and_wait(
                text,
                job_config=self._settings(params),
                location=self.location,
                retry=None,
                job_retry=None,
                api_timeout=self.wait,
                wait_timeout=self.job_wait,
                page_size=LARGE // 4,  # the client stays with REST where a third of the rows came with the first reply
            )
        )

    def _estimate(self, text: str, params: dict | None) -> int:
        """Bytes that a query would read, by a dry run."""
        settings = self._settings(params, dry_run=True, use_query_cache=False)
        job = self._patiently(
            lambda: self.client.query(
                text, job_config=settings, location=self.location, retry=None, job_retry=None, timeout=self.wait
            )
        )
        return job.total_bytes_processed or 0

    def _load(self, table: str, rows: pa.Table, name: str, disposition: str = "WRITE_APPEND") -> None:
        """Rows as one load job: all of them or none. Types and modes are those of the table, which a shop may have made."""
        full, buffer = ".".join((*self.place, table)), BytesIO()
        found = self._patiently(lambda: self.client.get_table(full, retry=None, timeout=self.wait)).schema
        stored = {field.name.lower(): field for field in found}
        if lacking := [column for column in rows.column_names if column.lower() not in stored]:
            raise WarehouseError(f"{self.url}: {table} lacks the column {', '.join(lacking)}: make warehouse adds it")
        fields = [stored[column.lower()] for column in rows.column_names]
        columns = pa.schema([_arrow(field, kind) for field, kind in zip(fields, rows.schema.types, strict=True)])
        pq.write_table(rows.rename_columns(columns.names).cast(columns), buffer)
        settings = bigquery.LoadJobConfig(
            schema=fields,
            source_format="PARQUET",
            write_disposition=disposition,
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

        self._job(name, begin)

    @contextlib.contextmanager
    def _staged(self, table: str, rows: pa.Table):
        """Rows in a table of their own beside ``table``, for one statement; its name in full. Gone afterwards, or in a day."""
        full = bigquery.Table(".".join((*self.place, f"forecastbook_staging_{uuid.uuid4().hex}")))
        full.schema = _fields(tables()[table])
        full.expires = datetime.now(UTC) + timedelta(days=1)
        self._patiently(lambda: self.client.create_table(full, exists_ok=True, retry=None, timeout=self.wait))
        try:
            self._load(full.table_id, rows, f"stage-{uuid.uuid4().hex}", "WRITE_TRUNCATE")
            yield f"`{full.table_id}`"
        finally:
            self._patiently(lambda: self.client.delete_table(full, not_found_ok=True, retry=None, timeout=self.wait))

    # -- what make doctor asks; nothing is written ------------------------------------------------------------------------

    def account(self) -> str:
        """Who asks, in words; a token was fetched for it. Raises WarehouseError where there is nobody, or the login ran out."""
        if emulator := emulator_host("BIGQUERY_EMULATOR_HOST"):
            return f"none needed: emulator at {emulator}"
        with self._errors("credentials"):
            found = self.client._credentials
            self._patiently(lambda: found.refresh(google.auth.transport.requests.Request()))
        kind = next((words for name, words in ACCOUNTS.items() if name in type(found).__module__), type(found).__name__)
        name = getattr(found, "service_account_email", None) or getattr(found, "account", None)
        key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        return f"{kind}{f' {name}' if name else ''}{f', from {key}' if key else ''}"

    def user(self) -> str:
        """The account that BigQuery itself sees. It was let run a query to say so, one that reads nothing."""
        with self._errors("run a query"):
            self._estimate("SELECT SESSION_USER()", None)
            return str(next(iter(self._rows("SELECT SESSION_USER()")))[0])

    def may(self, table: str, rights: list[str]) -> list[str] | None:
        """Those of ``rights`` that the account has on a table; None where the service cannot be asked."""
        with self._errors("permissions"):
            try:
                found = self._patiently(
                    lambda: self.client.test_iam_permissions(
                        ".".join((*self.place, table)), rights, retry=None, timeout=self.wait
                    )
                )
            except (exceptions.NotFound, exceptions.MethodNotAllowed, exceptions.MethodNotImplemented):
                return None
        return [right for right in rights if right in found.get("permissions", [])]

    def try_to_make(self, table: str) -> None:
        """Raise WarehouseError unless the account may make a table in the dataset: a dry run, nothing is made."""
        with self._errors(f"make a table such as {table}"):
            self._estimate(f"CREATE TABLE {table} (id INT64)", None)

    def session(self, table: str) -> str | None:
        """Open a session of the Storage Read API on a table and read nothing of it; its place. None without such a server."""
        if self.reader is None:
            return None
        from google.cloud.bigquery_storage import types

        project, dataset = self.place
        wanted = types.ReadSession(
            table=f"projects/{project}/datasets/{dataset}/tables/{table}", data_format=types.DataFormat.ARROW
        )
        with self._errors("open a read session"):
            made = self._patiently(
                lambda: self.reader.create_read_session(
                    parent=f"projects/{project}",
                    read_session=wanted,
                    max_stream_count=1,
                    retry=None,
                    timeout=self.wait,
                )
            )
        return made.name.split("/locations/")[-1].split("/")[0]

    def held(self, table: str) -> int | None:
        with self._errors(), contextlib.suppress(exceptions.NotFound):
            name = ".".join((*self.place, table))
            return self._patiently(lambda: self.client.get_table(name, retry=None, timeout=self.wait)).num_rows
        return None

    def columns(self) -> dict[str, dict[str, str]]:
        with self._errors("look at the tables"):
            return self._columns() if self._there() else {}

    # -- primitives -------------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        with self._errors():
            return self._there()

    def _there(self) -> bool:
        """Whether the dataset is there; asked until it is."""
        if self._dataset is None:
            with contextlib.suppress(exceptions.NotFound):
                name = ".".join(self.place)
                self._dataset = self._patiently(lambda: self.client.get_dataset(name, retry=None, timeout=self.wait))
        return self._dataset is not None

    @property
    def location(self) -> str | None:
        """Where the dataset is: jobs have to be sent there."""
        return self._dataset.location if self._there() else None

    def _table(self, name: str, params: dict) -> pa.Table | None:
        text, _ = statement(name, self.dialect)
        with self._errors(f"query {name}"):
            if not self._there():
                return None
            try:
                estimate = self._estimate(text, params)
                log.info("query %s would read %s (limit %s)", name, size(estimate), size(self.maximum))
                if estimate > self.maximum:
                    raise WarehouseError(
                        f"{self.url}: query {name} would read {size(estimate)}, more than BIGQUERY_MAXIMUM_BYTES_BILLED allows "
                        f"({size(self.maximum)}): read fewer days (source.history_days), or raise it"
                    )
                return self._patiently(lambda: self._fetched(self._rows(text, params), results()[name]))
            except exceptions.NotFound as error:
                if "not found: table" in str(error).lower():
                    return None
                raise

    def _fetched(self, rows, schema: pa.Schema) -> pa.Table:
        """A result in its declared schema, batch by batch as it comes: narrow columns are held, never a frame of objects."""
        reader = self.reader if rows.total_rows and rows.total_rows > LARGE else None
        batches = []
        for batch in rows.to_arrow_iterable(bqstorage_client=reader):
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
                return self._statements(self._columns()) if self._there() else self.ddl()
            if self._migrated:  # within one process once is enough: it costs two queries
                return []
            done = [] if self._there() else [self._make_dataset()]
            changes = self._lacking(not done)
            for what, _ in changes:
                self._announce(what)
            if changes:
                self._statement(";\n".join(text for _, text in changes))  # one job: each statement may be repeated
            self._migrated = True
        return done + [what for what, _ in changes]

    def lacking(self, have: dict[str, dict[str, str]] | None = None) -> list[str]:
        with self._errors("look at the tables"):
            made = [] if self._there() else [f"made dataset {'.'.join(self.place)}"]
            return made + [what for what, _ in self._lacking(not made, have)]

    def _lacking(self, there: bool, have: dict[str, dict[str, str]] | None = None) -> list[tuple[str, str]]:
        changes = self._changes((self._columns() if have is None else have) if there else {})
        stored = self._views() if there else {}
        for name, tree in views().items():
            text = located(tree, self.place)
            if stored.get(name.lower()) != _body(text):
                changes.append((f"made {name}", text))
        return changes

    def ddl(self) -> list[str]:
        project, dataset = self.place
        told = {"description": DESCRIPTION, **({"location": place} if (place := os.environ.get("BIGQUERY_LOCATION")) else {})}
        options = ", ".join(f"{key} = {exp.Literal.string(text).sql('bigquery')}" for key, text in told.items())
        return [f"CREATE SCHEMA IF NOT EXISTS `{project}`.`{dataset}` OPTIONS ({options})", *super().ddl()]

    def _make_dataset(self) -> str:
        dataset = bigquery.Dataset(".".join(self.place))
        dataset.location = os.environ.get("BIGQUERY_LOCATION") or None
        dataset.description = DESCRIPTION
        self._dataset = self._patiently(
            lambda: self.client.create_dataset(dataset, exists_ok=True, retry=None, timeout=self.wait)
        )
        said = f"made dataset {'.'.join(self.place)} in {self._dataset.location or 'the default location'}"
        log.warning("%s: %s (BIGQUERY_LOCATION says where)", self.url, said)
        return said

    def _schema_of(self, what: str, columns: str) -> list:
        project, dataset = self.place
        return self._patiently(  # project and dataset were checked by connect
            lambda: list(self._rows(f"SELECT {columns} FROM `{project}`.`{dataset}`.INFORMATION_SCHEMA.{what}"))
        )

    def _columns(self) -> dict[str, dict[str, str]]:
        out: dict[str, dict[str, str]] = {}
        for table, column, kind in self._schema_of("COLUMNS", "table_name, column_name, data_type"):
            out.setdefault(table.lower(), {})[column.lower()] = kind
        return out

    def _views(self) -> dict[str, str]:
        return {name.lower(): text.strip() for name, text in self._schema_of("VIEWS", "table_name, view_definition")}

    def append(self, table: str, rows: pa.Table, replacing: tuple[str, ...] = ()) -> int:
        rows = conform(table, rows)
        unknown = [name for name in replacing if name not in rows.column_names]
        if unknown:
            raise WarehouseError(f"{table} has no column {', '.join(unknown)} to replace by")
        with self._errors(f"append to {table}"):
            if not replacing:
                self._load(table, rows, f"append-{uuid.uuid4().hex}")
            else:
                same = " AND ".join(f"stored.`{name}` = incoming.`{name}`" for name in replacing)
                with self._staged(table, rows) as staged:
                    self._statement(exchange(table, f"EXISTS (SELECT 1 FROM {staged} AS incoming WHERE {same})", staged))
        return rows.num_rows

    def _store(self, publication: Publication) -> dict:
        p, target = publication, FORECASTS[publication.table]
        with self._errors(f"publish run {p.run_id}"):
            entry, published_at = self._due(p, self._table("ledger", {}))
            stored = self.published(p.run_id, p.table, p.as_of)  # of an earlier publication, or of one that was cut off
            same = p.same(stored)
            if entry and entry["run_id"] == p.run_id and same:
                return self._receipt(p, "already published", entry["published_at"], 0)
            new = absent(p, self.query(target.keys_query, {"ids": p.ids}) if p.ids else None)
            if new.num_rows:
                self._add(target.dimension, target.key, new)
            if not same and not (stored.num_rows == 0 and self._appended(p)):
                self._replaced(p)
            if p.model is not None:
                self._statement(statement("record_model", self.dialect)[0], p.model)
            name = f"flip-{self._token(p, published_at.isoformat())}"
            self._statement(statement("flip_ledger", self.dialect)[0], p.flip(published_at), name)
        return self._receipt(p, "replaced" if entry else "published", published_at, new.num_rows)

    def _token(self, p: Publication, *more) -> str:
        """What tells one piece of work from any other: where, what, and whose."""
        return hashlib.sha256(repr((self.place, p.table, p.as_of, p.run_id, p.content_hash, *more)).encode()).hexdigest()[:32]

    def _appended(self, p: Publication) -> bool:
        """The run's rows added to the fact table, exactly once; False when other rows of the same run came in between."""
        for attempt in range(NAMES):
            self._load(p.table, p.rows, f"load-{self._token(p)}-{attempt}")
            stored = self.published(p.run_id, p.table, p.as_of)
            if stored.num_rows:
                return p.same(stored)
            # a job of this name was done long ago, and its rows were deleted since: take the next name
        raise WarehouseError(f"{self.url}: the rows of run {p.run_id} were loaded {NAMES} times and are not in {p.table}")

    def _replaced(self, p: Publication) -> None:
        """Other rows of this very run go, ours come, and the ledger counts them if it names the run: in one transaction."""
        count = "UPDATE PublishLedger SET `rows` = @n WHERE run_id = @run_id AND as_of = @as_of"
        with self._staged(p.table, p.rows) as staged:
            text = exchange(p.table, "as_of = @as_of AND run_id = @run_id", staged, count)
            self._statement(text, {"as_of": p.as_of, "run_id": p.run_id, "n": p.rows.num_rows})

    def _add(self, table: str, key: str, rows: pa.Table) -> None:
        columns = ", ".join(f"`{name}`" for name in rows.column_names)
        values = ", ".join(f"incoming.`{name}`" for name in rows.column_names)
        with self._staged(table, rows) as staged:
            self._statement(
                f"MERGE INTO {table} AS stored USING {staged} AS incoming ON stored.{key} = incoming.{key} "
                f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
            )


# ---- what is asked of the environment ------------------------------------------------------------------------------------


def emulator_host(variable: str) -> str | None:
    """``host:port`` of an emulator named in the environment. Raises WarehouseError unless it is this machine itself."""
    value = os.environ.get(variable, "").strip().removeprefix("http://").rstrip("/")
    if not value:
        return None
    host, _, port = value.rpartition(":")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not port.isdigit():
        raise WarehouseError(
            f"{variable}={value}: an emulator must be on this machine, as 127.0.0.1:PORT; unset it for the real BigQuery"
        )
    return value


def _maximum() -> int:
    text = os.environ.get("BIGQUERY_MAXIMUM_BYTES_BILLED", "").strip()
    if not text:
        return MAXIMUM
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise WarehouseError(f"BIGQUERY_MAXIMUM_BYTES_BILLED={text}: wanted a whole number of bytes, such as {MAXIMUM}")
    return int(text)


def size(n: int) -> str:
    """Bytes in words: '512 B', '1.4 GB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _label(value: str) -> str:
    """A value as BigQuery's labels may be: lower-case letters, digits, hyphens, underscores, at most 63."""
    return re.sub(r"[^a-z0-9_-]", "_", str(value).lower())[:63]


def _parameter(name: str, value):
    if isinstance(value, list):
        return bigquery.ArrayQueryParameter(name, "INT64", value)
    return bigquery.ScalarQueryParameter(name, "STRING" if value is None else KINDS[type(value)], value)


def _fields(columns: pa.Schema) -> list[bigquery.SchemaField]:
    """An Arrow schema as BigQuery's, all columns nullable."""
    kinds = {pa.int64(): "INT64", pa.float64(): "FLOAT64", pa.string(): "STRING", pa.bool_(): "BOOL", pa.date32(): "DATE"}
    return [bigquery.SchemaField(f.name, kinds.get(f.type, "TIMESTAMP")) for f in columns]


def _arrow(field: bigquery.SchemaField, ours: pa.DataType) -> pa.Field:
    """A stored column as the column of Arrow that is loaded into it: ours, or exact decimals where a shop keeps such."""
    kind = {"NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38)}.get(field.field_type)
    return pa.field(field.name, kind or ours, nullable=field.mode != "REQUIRED")


def exchange(table: str, where: str, staged: str, *more: str) -> str:
    """A script that deletes rows of ``table AS stored``, adds the staged ones and does more, all in one transaction."""
    columns = ", ".join(f"`{name}`" for name in tables()[table].names)
    delete = f"DELETE FROM {table} AS stored WHERE {where}"
    insert = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {staged}"
    return "; ".join(("BEGIN TRANSACTION", delete, insert, *more, "COMMIT TRANSACTION"))


def _body(create: str) -> str:
    """The query of a CREATE VIEW statement."""
    return create.split(" AS ", 1)[1].strip()


# ---- errors ----------------------------------------------------------------------------------------------------------------


def _reason(error: Exception) -> str:
    found = getattr(error, "errors", None) or []
    return found[0].get("reason", "") if found and isinstance(found[0], dict) else ""


def _passing(error: Exception) -> bool:
    """Whether an error will pass: the same request may succeed in a while."""
    if isinstance(error, BROKEN) and not isinstance(error, requests.exceptions.SSLError):
        return True
    if isinstance(error, auth.GoogleAuthError):
        return error.retryable
    if not isinstance(error, exceptions.GoogleAPICallError):
        return False
    if isinstance(error, exceptions.Forbidden):  # a limit on the rate passes, a missing right does not
        return _reason(error) in PASSING
    if "due to concurrent update" in str(error):
        return True
    return _reason(error) in PASSING or error.code in (408, 429, 500, 502, 503, 504)


def _line(error: Exception) -> str:
    """An error as one line without the client's own footer."""
    text = " ".join(str(getattr(error, "message", None) or error or type(error).__name__).split())
    return re.sub(r" ?(Location: \S+ )?Job ID: \S+.*$", "", text)[:400] or type(error).__name__


def _explained(error: Exception, where: str, what: str = "") -> WarehouseError:
    """What went wrong, where, and what to do."""
    if isinstance(error, exceptions.RetryError) and error.cause is not None:
        error = error.cause
    text, reason = _line(error), _reason(error)
    if isinstance(error, auth.GoogleAuthError | exceptions.Unauthorized) and not _passing(error):
        target = os.environ.get("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT")
        if target and "impersonated" in text.lower():
            advice = (
                f"authentication failed: the login may not act as {target} (GOOGLE_IMPERSONATE_SERVICE_ACCOUNT): it needs "
                "roles/iam.serviceAccountTokenCreator on that account"
            )
        else:
            advice = (
                "authentication failed: run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS "
                "to a key file outside the repository"
            )
    elif reason == "bytesBilledLimitExceeded" or "bytesBilledLimitExceeded" in text:
        advice = "read fewer days (source.history_days), or raise BIGQUERY_MAXIMUM_BYTES_BILLED"
    elif reason == "quotaExceeded":
        advice = "a quota of the project is used up: wait, or ask for more under IAM & Admin, Quotas"
    elif isinstance(error, exceptions.Forbidden):
        advice = "the account lacks a right: the README lists the roles that it needs, make doctor tells which is missing"
    elif isinstance(error, exceptions.NotFound):
        advice = "check PROJECT and DATASET in WAREHOUSE; make warehouse makes what is missing"
    elif _passing(error):
        advice = "BigQuery could not be reached or was too busy for too long; nothing is half done: run again"
    else:
        advice = "nothing is half done"
    return WarehouseError(f"{where}: {what + ': ' if what else ''}{text.rstrip('.')}: {advice}")
