"""The way to a dataset in BigQuery: credentials, patience, jobs, and errors in words.

A job's id says what it does, so a request that is sent again, by this process or another, finds the job that is there: a reply
may be lost, no work is done twice. The client's own retries are off: they miss some transient errors and have timeouts of their
own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ipaddress
import itertools
import logging
import os
import re
import time
import uuid
from datetime import date, datetime
from pathlib import Path

import google.auth
import google.auth.transport.requests
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry, exponential_sleep_generator
from google.auth import exceptions as auth
from google.auth import impersonated_credentials
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from forecastbook.schema import WarehouseError

log = logging.getLogger(__name__)

SCOPE = "https://www.googleapis.com/auth/bigquery"
WIDE = "https://www.googleapis.com/auth/cloud-platform"  # of a login that asks for another account's token: less is refused
MAXIMUM = 100 * 10**9  # bytes that one query may read, unless BIGQUERY_MAXIMUM_BYTES_BILLED says otherwise
LARGE = 10_000  # rows from which a result is read through the Storage Read API
ATTEMPTS = 5  # times that a job which failed for a passing reason is begun anew
PASSING = {"rateLimitExceeded", "backendError", "internalError", "badGateway", "jobBackendError", "jobInternalError",
           "jobRateLimitExceeded", "serviceUnavailable"}  # fmt: skip
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


class Failed(Exception):
    """A job that was done and failed; ``cause`` is its error."""

    def __init__(self, cause: exceptions.GoogleAPICallError):
        super().__init__(str(cause))
        self.cause = cause


class Foreign(Exception):
    """A job of that id is there, and another account began it: BigQuery shows it to nobody else (``hidden`` says so)."""

    def __init__(self, hidden: exceptions.Forbidden):
        super().__init__(str(hidden))
        self.hidden = hidden


class Connection:
    """What is asked of one dataset, by the genuine client."""

    patience = 300.0  # seconds for which a request is sent again while the service is not itself
    pause = 0.5  # seconds before the first repeat; doubled each time
    wait = 60.0  # seconds for one reply
    job_wait = 1800.0  # seconds for one job
    estimates = True  # each query is asked for its size before it is sent

    def __init__(self, url: str, project: str, dataset: str, labels: dict[str, str] | None = None):
        self.url, self.place, self.maximum = url, (project, dataset), _maximum()
        self.labels = {"app": "forecastbook", **{key: _label(value) for key, value in (labels or {}).items()}}
        self._client: bigquery.Client | None = None
        self._reader = None
        self._dataset: bigquery.Dataset | None = None

    # -- the connection ---------------------------------------------------------------------------------------------------

    @property
    def client(self) -> bigquery.Client:
        """The genuine client, made at the first use: nobody needs credentials to name a dataset."""
        if self._client is None:
            emulator = emulator_host("BIGQUERY_EMULATOR_HOST")
            options = {"api_endpoint": f"http://{emulator}"} if emulator else None
            self._client = bigquery.Client(project=self.payer, credentials=self.credentials(), client_options=options)
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

    def _there(self) -> bool:
        """Whether the dataset is there; asked until it is."""
        if self._dataset is None:
            with contextlib.suppress(exceptions.NotFound):
                self._dataset = self._ask(self.client.get_dataset, self._name())
        return self._dataset is not None

    @property
    def payer(self) -> str:
        """The project in which jobs run, and which pays for them."""
        return os.environ.get("BIGQUERY_BILLING_PROJECT", "").strip() or self.place[0]

    @property
    def location(self) -> str | None:
        """Where the dataset is: jobs have to be sent there."""
        return self._dataset.location if self._there() else None

    def _name(self, *table: str) -> str:
        """The dataset, or a table of it, by its full name."""
        return ".".join((*self.place, *table))

    def _ask(self, method, *given, **more):
        """One request, by a method of a client of Google's, ``_patiently``."""
        return self._patiently(lambda: method(*given, retry=None, timeout=self.wait, **more))

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
        except Failed as failed:
            raise _explained(failed.cause, self.url, what) from failed.cause
        except (exceptions.GoogleAPIError, auth.GoogleAuthError, *BROKEN) as error:
            raise _explained(error, self.url, what) from error

    # -- jobs -------------------------------------------------------------------------------------------------------------

    def _job(self, name: str, begin, done=None) -> bool:
        """A job begun under ``name`` and waited for; ``begin(job_id)`` sends it. Returns whether it was there already.

        The id is looked up before it is sent again, and adopted when it is there. A job that failed for a passing reason is
        begun anew under the next attempt's id, and so is an adopted one that failed: perhaps long ago, what was wrong may be
        mended since. One of another account cannot be seen; ``done()``, of a name that several may send, says whether what
        it was to do is done, and is waited for. Raises Failed for any other failure.
        """
        pauses, tries, until = exponential_sleep_generator(self.pause, 30.0), 0, time.monotonic() + self.patience
        for attempt in itertools.count():
            job_id = f"forecastbook-{name}-{attempt}"
            try:
                job, adopted = self._begun(job_id, begin)
                self._waited(job)
                return adopted
            except Foreign as foreign:
                if done is None:  # nobody else gives such a name
                    raise foreign.hidden from None
                if self._comes(done):
                    return True
            except Failed as failed:
                if adopted:
                    continue
                tries += 1
                patient = tries < ATTEMPTS or (_crowded(failed.cause) and time.monotonic() < until)
                if not patient or not _passing(failed.cause):
                    raise
                pause = next(pauses)
                log.warning("%s: job %s failed (%s); once more in %.1f s", self.url, job_id, _line(failed.cause), pause)
                time.sleep(pause)

    def _comes(self, done) -> bool:
        """Whether what a job of another account was to do is done, within the patience for a service that is not itself."""
        until, pauses = time.monotonic() + self.patience, exponential_sleep_generator(self.pause, 30.0)
        while not done():
            if time.monotonic() > until:  # it has failed, or what it did is gone: the next id is free
                return False
            time.sleep(next(pauses))
        return True

    def _begun(self, job_id: str, begin):
        """A job, and whether it was there already. Raises Foreign for one that cannot be seen."""
        sent = False

        def found():
            return self.client.get_job(job_id, location=self.location, retry=None, timeout=self.wait), True

        def once():
            nonlocal sent
            if sent:  # the reply may have been lost, not the job
                with contextlib.suppress(exceptions.NotFound, exceptions.Forbidden):
                    return found()
            sent = True
            try:
                return begin(job_id), False
            except exceptions.Conflict as conflict:
                try:
                    return found()
                except exceptions.NotFound:  # known to one part of the service and not yet to another
                    raise exceptions.ServiceUnavailable(f"job {job_id} is there and cannot be seen yet") from conflict
                except exceptions.Forbidden as hidden:
                    if _passing(hidden):
                        raise
                    raise Foreign(hidden) from hidden

        return self._patiently(once)

    def _waited(self, job) -> None:
        """Return when a job is done. Raises Failed when it has failed."""
        until = time.monotonic() + self.job_wait

        def result():
            while True:
                try:
                    job.result(retry=None, timeout=self.wait)
                    return
                except concurrent.futures.TimeoutError as slow:  # a job may take longer than a reply
                    if time.monotonic() > until:
                        self.client.cancel_job(job.job_id, location=self.location, retry=None, timeout=self.wait)
                        raise WarehouseError(
                            f"{self.url}: job {job.job_id} had not ended after {self.job_wait:.0f} s and was cancelled: "
                            "run again"
                        ) from slow
                except exceptions.GoogleAPICallError as error:
                    if job.state == "DONE" and job.error_result:
                        raise Failed(error) from error
                    raise

        self._patiently(result)

    def _settings(self, params: dict | None, **more) -> bigquery.QueryJobConfig:
        return bigquery.QueryJobConfig(
            query_parameters=[_parameter(key, value) for key, value in (params or {}).items()],
            default_dataset=self._name(),
            labels=self.labels,
            maximum_bytes_billed=self.maximum,
            **more,
        )

    def _statement(self, text: str, params: dict | None = None, name: str = "", done=None) -> None:
        """A statement that changes something, done once. name: of its job, where several processes may send the same; done:
        see ``_job``."""

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

        self._job(name or f"statement-{uuid.uuid4().hex}", begin, done)

    def _rows(self, text: str, params: dict | None = None, read=list):
        """What ``read`` makes of the rows of a query. To ask twice does no harm, so what is lost is asked for again."""

        def once():
            return read(
                self.client.query_and_wait(
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

        return self._patiently(once)

    def _estimate(self, text: str, params: dict | None) -> int:
        """Bytes that a query would read, by a dry run."""
        settings = self._settings(params, dry_run=True, use_query_cache=False)
        job = self._ask(self.client.query, text, job_config=settings, location=self.location, job_retry=None)
        return job.total_bytes_processed or 0

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
            return str(self._rows("SELECT SESSION_USER()")[0][0])

    def may(self, table: str, rights: list[str]) -> list[str] | None:
        """Those of ``rights`` that the account has on a table; None where the service cannot be asked."""
        with self._errors("permissions"):
            try:
                found = self._ask(self.client.test_iam_permissions, self._name(table), rights)
            except (exceptions.NotFound, exceptions.MethodNotAllowed, exceptions.MethodNotImplemented):
                return None
        return [right for right in rights if right in found.get("permissions", [])]

    def try_to_make(self, table: str) -> None:
        """Raise WarehouseError unless the account may make a table in the dataset: a dry run, nothing is made."""
        with self._errors(f"make a table such as {table}"):
            self._estimate(f"CREATE TABLE {table} (id INT64)", None)

    def expiring(self, tables: list[str]) -> list[str]:
        """What is deleted by itself: the dataset's rules for new tables, and those of the named tables, in words."""
        with self._errors("look at the tables"):
            found = [self._ask(self.client.get_table, self._name(table)) for table in tables] if self._there() else []
        dataset, day = self._dataset, 86_400_000
        after = [
            ("every new table of the dataset", dataset and dataset.default_table_expiration_ms),
            ("partitions of every new table", dataset and dataset.default_partition_expiration_ms),
            *((f"partitions of {t.table_id}", t.time_partitioning and t.time_partitioning.expiration_ms) for t in found),
        ]
        told = [f"{what} after {ms / day:g} days" for what, ms in after if ms]
        return told + [f"{t.table_id} on {t.expires:%Y-%m-%d}" for t in found if t.expires]

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
            made = self._ask(
                self.reader.create_read_session, parent=f"projects/{self.payer}", read_session=wanted, max_stream_count=1
            )
        return made.name.split("/locations/")[-1].split("/")[0]


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


def _label(value: str) -> str:
    """A value as BigQuery's labels may be: lower-case letters, digits, hyphens, underscores, at most 63."""
    return re.sub(r"[^a-z0-9_-]", "_", str(value).lower())[:63]


def _parameter(name: str, value):
    if isinstance(value, list):
        return bigquery.ArrayQueryParameter(name, "INT64", value)
    return bigquery.ScalarQueryParameter(name, "STRING" if value is None else KINDS[type(value)], value)


# ---- errors --------------------------------------------------------------------------------------------------------------


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
    if _crowded(error):
        return True
    if _reason(error):  # the code is no help then: reasons that the client does not know become a 500
        return _reason(error) in PASSING
    return error.code in (408, 429, 500, 502, 503, 504)


def _crowded(error: Exception) -> bool:
    """Whether others were changing the same table: a transaction that meets another is cancelled, however long that takes."""
    return any(words in str(error) for words in ("due to concurrent update", "Too many DML statements outstanding"))


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
    elif reason == "billingNotEnabled" or "Billing has not been enabled" in text:
        advice = "enable billing for the project: BigQuery's sandbox takes no MERGE, UPDATE or DELETE, by which is published"
    elif isinstance(error, exceptions.Forbidden) and reason in ("", "accessDenied", "forbidden"):
        advice = "the account lacks a right: BIGQUERY.md lists the roles that it needs, make doctor tells which is missing"
        if "may not exist" in text:
            advice += "; or check PROJECT and DATASET in WAREHOUSE"
    elif isinstance(error, exceptions.NotFound):
        advice = "check PROJECT and DATASET in WAREHOUSE; make warehouse makes what is missing"
    elif _passing(error):
        advice = "BigQuery could not be reached or was too busy for too long; nothing is half done: run again"
    else:
        advice = "nothing is half done"
    return WarehouseError(f"{where}: {what + ': ' if what else ''}{text.rstrip('.')}: {advice}")
