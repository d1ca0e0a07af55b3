"""The warehouse: where facts come from and forecasts go. The only importer of duckdb.

``connect("duckdb:PATH")`` gives a Warehouse. What is the same on every backend is in ``backend``, what it is declared
to hold in ``schema``, what may be published in ``publication``; here is what talks to a database.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot

from forecastbook.backend import Warehouse
from forecastbook.publication import FORECASTS, Forecasts, Publication, variant_ids
from forecastbook.schema import SQL, WarehouseError, conform, definitions, results, statement, tables

__all__ = ["DuckDB", "Warehouse", "WarehouseError", "connect", "variant_ids"]

log = logging.getLogger(__name__)

# Which types a shop's own column may have where ours says INT64, FLOAT64, ...: what a cast to ours cannot misread.
FAMILIES = {
    pa.int64(): r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$",
    pa.float64(): r"(DOUBLE|FLOAT|REAL|DECIMAL.*|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?)$",
    pa.string(): r"(VARCHAR|TEXT|ENUM.*)$",
    pa.bool_(): r"BOOLEAN$",
    pa.date32(): r"DATE$",
    pa.timestamp("us", tz="UTC"): r"TIMESTAMP.*$",
}


def connect(url: str, lock_wait: float = 60.0) -> Warehouse:
    """The warehouse behind a url: ``duckdb:PATH`` (made when absent) or ``bigquery:PROJECT.DATASET``.

    lock_wait: seconds to wait for another process that has the DuckDB file open. Raises WarehouseError on any other url.
    """
    scheme, _, rest = str(url).partition(":")
    if scheme == "duckdb" and rest.strip() and rest != ":memory:":  # memory would be gone after each call
        return DuckDB(url, Path(rest).expanduser(), lock_wait)
    if scheme == "bigquery":
        if not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]\.[A-Za-z0-9_]{1,1024}", rest):
            raise WarehouseError(
                f"not a BigQuery dataset: {rest!r}; wanted bigquery:PROJECT.DATASET, a project of 6 to 30 "
                "lower-case letters, digits and hyphens, a dataset of letters, digits and underscores"
            )
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
        self.path, self.lock_wait, self.beside = path, lock_wait, path.parent

    def exists(self) -> bool:
        return self.path.is_file()

    # -- opening ----------------------------------------------------------------------------------------------------------

    @contextmanager
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
                raise WarehouseError(
                    f"cannot make the directory of {self.path}: {error.strerror}; "
                    "choose another place with WAREHOUSE=duckdb:PATH"
                ) from error
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
                    raise WarehouseError(
                        f"{self.path} is still in use after {waited:.0f} s by {holder}: close that program, then run again"
                    ) from error
                if not told and waited > 0.5:
                    log.warning("waiting for %s, in use by %s (up to %.0f s)", self.path, holder, self.lock_wait)
                    told = True
                time.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, self.lock_wait - waited) + 0.01))
                pause = min(pause * 1.5, 1.0)
        if told:
            log.info("%s is free after %.1f s", self.path, time.monotonic() - started)
        if fresh:
            self.path.chmod(self.path.stat().st_mode & ~0o002)  # whatever the umask says: not writable by everyone
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
                except duckdb.Error as error:  # a full disk has ended it already: nothing was committed
                    log.debug("rollback after a failure: %s", error)
                raise
            connection.commit()

    def _explained(self, error: duckdb.Error) -> WarehouseError:
        text = str(error).strip().split("\n")[0]
        advice = next(
            (
                advice
                for pattern, advice in (
                    (
                        "not a valid duckdb database",
                        "the file is damaged or something else; move it away and a new one is made",
                    ),
                    (
                        "no space left|could not write|file too large|quota",
                        "is the disk full? nothing was changed; free some space",
                    ),
                    ("permission denied|read-only", "it cannot be written; choose another place with WAREHOUSE=duckdb:PATH"),
                    ("is a directory", "WAREHOUSE=duckdb:PATH wants a file"),
                    ("cannot open file", "check the path in WAREHOUSE=duckdb:PATH"),
                )
                if re.search(pattern, text.lower())
            ),
            "nothing was changed",
        )
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
                raise WarehouseError(
                    f"{self.path}: {'; '.join(faults)}. Nothing was changed: rename the table "
                    "(ALTER TABLE ... RENAME TO ...) or point WAREHOUSE elsewhere"
                )
            for table, tree in definitions().items():
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
                connection.rollback()  # an up-to-date file keeps its bytes
                connection.begin()
        for line in done:
            log.log(logging.WARNING if line.startswith("added") else logging.INFO, "%s: %s", self.path, line)
        return done

    @staticmethod
    def _columns(connection) -> dict[str, dict[str, str]]:
        found = _fetched(
            connection,
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
            "AND schema_name = current_schema() AND database_name = current_database()",
        )
        out: dict[str, dict[str, str]] = {}
        for table, column, kind in found:
            out.setdefault(table.lower(), {})[column.lower()] = kind
        return out

    @staticmethod
    def _views(connection) -> dict[str, str]:
        return dict(
            _fetched(
                connection, "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal AND schema_name = current_schema()"
            )
        )

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

    def seed(self, unless: str, rows: dict[str, pa.Table]) -> bool:
        checked = {table: conform(table, part) for table, part in rows.items()}
        with self._transaction() as connection:
            if self._run(connection, unless, {})["facts"][0].as_py():
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
                    raise WarehouseError(
                        f"run {p.run_id} is already published as job {entry['job']!r}, model "
                        f"{entry['model_id']}, as of {entry['as_of']}: a run is published once"
                    )
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
            connection.execute(
                statement("flip_ledger", self.dialect)[0],
                {
                    "job": p.job,
                    "model_id": p.model_id,
                    "as_of": p.as_of,
                    "run_id": p.run_id,
                    "n": n,
                    "published_at": published_at,
                },
            )
            if p.model is not None:
                connection.execute(statement("record_model", self.dialect)[0], p.model)
        return self._receipt(p, status, published_at, added)

    def _add_dimension(self, connection, p: Publication, target: Forecasts) -> int:
        """Rows that the dimension lacks; a key that stands for something else already is an error, never a mix-up."""
        if p.dimension is None:
            return 0
        key = target.key
        connection.register("incoming", p.dimension)
        clashes = _fetched(
            connection,
            f"SELECT i.{key}, COALESCE(i.source_key, CAST(i.{key} AS VARCHAR)), COALESCE(d.source_key, d.{target.title}) "
            f"FROM incoming AS i JOIN {target.dimension} AS d ON i.{key} = d.{key} "
            f"WHERE i.source_key IS DISTINCT FROM d.source_key ORDER BY i.{key} LIMIT 1",
        )
        known = _fetched(connection, f"SELECT COUNT(*) FROM incoming WHERE {key} IN (SELECT {key} FROM {target.dimension})")
        connection.unregister("incoming")
        for clash in clashes:
            raise WarehouseError(
                f"{target.dimension}.{key} {clash[0]} already stands for {clash[2]!r}, not for the series "
                f"{clash[1]!r}: rename that series; nothing was published"
            )
        self._insert(connection, target.dimension, p.dimension, absent_only=key)
        return p.dimension.num_rows - known[0][0]

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
