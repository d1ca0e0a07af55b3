"""The embedded warehouse: a DuckDB file. The only importer of duckdb."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from forecastbook.backend import Warehouse
from forecastbook.publication import FORECASTS, Publication, absent
from forecastbook.schema import WarehouseError, conform, located, statement, views

log = logging.getLogger(__name__)

ADVICE = {  # what DuckDB says -> what to do; the first that is found counts
    "not a valid duckdb database": "the file is damaged or something else; move it away and a new one is made",
    "no space left|could not write|file too large|quota": "is the disk full? nothing was changed; free some space",
    "permission denied|read-only": "it cannot be written; choose another place with WAREHOUSE=duckdb:PATH",
    "in-memory database": "that is no DuckDB file; name another in WAREHOUSE=duckdb:PATH",
    "is a directory": "WAREHOUSE=duckdb:PATH wants a file",
    "cannot open file": "check the path in WAREHOUSE=duckdb:PATH",
    "corrupt|checksum|could not read|extension": "the file is damaged or another program's: put a copy back, or move it away "
    "and a new one is made",
}

_file_locks: dict[str, threading.RLock] = {}
_guard = threading.Lock()


def _fetched(connection, text: str) -> list[tuple]:
    """All rows at once: DuckDB 2 refuses the next statement while a result is half read."""
    return connection.execute(text).fetchall()


class DuckDB(Warehouse):
    """The embedded warehouse: one file, opened for each call and closed at once, because DuckDB locks it while it is open."""

    dialect = "duckdb"
    embedded = True
    # Extensions are never fetched: a warehouse must not need the network.
    config = {"autoinstall_known_extensions": False}

    def __init__(self, url: str, path: Path, lock_wait: float = 60.0):
        super().__init__(url)
        self.path, self.lock_wait, self.beside = path, lock_wait, path.parent
        self._reading = threading.local()  # the connection that this thread's queries share

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
        said = text.lower().replace(str(self.path).lower(), "")
        advice = next((advice for pattern, advice in ADVICE.items() if re.search(pattern, said)), "nothing was changed")
        return WarehouseError(f"{self.path}: {text}: {advice}")

    # -- primitives -------------------------------------------------------------------------------------------------------

    def queries(self, asked: dict[str, dict]) -> dict[str, pa.Table]:
        """As for any warehouse; the file is opened once for all of them."""
        if not self.path.exists():
            return super().queries(asked)
        with self._open(read_only=True) as connection:
            self._reading.connection = connection
            try:
                return super().queries(asked)
            finally:
                self._reading.connection = None

    def _result(self, name: str, params: dict) -> pa.Table | None:
        connection = getattr(self._reading, "connection", None)
        if connection is not None:
            return self._run(connection, name, params)
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

    def migrate(self, dry: bool = False) -> list[str]:
        if dry:
            have = {}
            if self.exists():
                with self._open(read_only=True) as connection:
                    have = self._columns(connection)
            return self._statements(have)
        done = []
        with self._transaction() as connection:
            for what, text in self._changes(self._columns(connection)):
                self._announce(what)
                connection.execute(text)
                done.append(what)
            before = self._views(connection)
            for tree in views().values():
                connection.execute(located(tree, None, self.dialect))
            after = self._views(connection)
            done += [f"made {name}" for name in after if before.get(name) != after[name]]
            if not done:
                connection.rollback()  # an up-to-date file keeps its bytes
                connection.begin()
        return done

    def columns(self) -> dict[str, dict[str, str]]:
        if not self.exists():
            return {}
        with self._open(read_only=True) as connection:
            return self._columns(connection)

    def lacking(self) -> list[str]:
        done, stored = [what for what, _ in self._changes(self.columns())], {}
        if self.exists():
            with self._open(read_only=True) as connection:
                stored = self._views(connection)
        with duckdb.connect(config=self.config) as empty:  # only DuckDB knows how it would write a view down
            for text in self.ddl():
                empty.execute(text)
            wanted = self._views(empty)
        return done + [f"made {name}" for name in wanted if stored.get(name) != wanted[name]]

    def held(self, table: str) -> int | None:
        if table.lower() not in self.columns():
            return None
        with self._open(read_only=True) as connection:
            return _fetched(connection, f'SELECT COUNT(*) FROM "{table}"')[0][0]

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

    def _write(self, table: str, rows: pa.Table, replacing: tuple[str, ...], gone: tuple[int, ...]) -> None:
        with self._transaction() as connection:
            if gone:
                connection.execute(
                    f'DELETE FROM {table} WHERE "{replacing[0]}" IN (SELECT unnest($gone))', {"gone": list(gone)}
                )
            self._insert(connection, table, rows, replacing)

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
        """Fill several tables in one transaction, unless the query ``unless`` counts ``facts`` there; returns whether it did.

        Rows whose first column (the key) is already there are left as they are. Two callers at once fill once.
        """
        checked = {table: conform(table, part) for table, part in rows.items()}
        with self._transaction() as connection:
            if self._run(connection, unless, {})["facts"][0].as_py():
                return False
            for table, part in checked.items():
                self._insert(connection, table, part, absent_only=part.column_names[0])
        return True

    def _store(self, publication: Publication) -> dict:
        p, run_query = publication, FORECASTS[publication.table].run_query
        with self._transaction() as connection:
            entry, published_at = self._due(p, self._run(connection, "ledger", {}))
            run = {"run_id": p.run_id, "first": p.as_of, "last": p.as_of}
            if entry and entry["run_id"] == p.run_id and p.same(self._run(connection, run_query, run)):
                return self._receipt(p, "already published", entry["published_at"], 0)
            new = absent(p, self._run(connection, FORECASTS[p.table].keys_query, {"ids": p.ids}))
            self._insert(connection, FORECASTS[p.table].dimension, new)
            connection.execute(f"DELETE FROM {p.table} WHERE run_id = $run_id", {"run_id": p.run_id})
            self._insert(connection, p.table, p.rows)
            n = self._run(connection, run_query, run).num_rows
            if n != p.rows.num_rows:
                raise WarehouseError(f"{p.table} holds {n} rows of run {p.run_id} after {p.rows.num_rows} were written")
            if p.model is not None:
                connection.execute(statement("record_model", self.dialect)[0], p.model)
            connection.execute(statement("flip_ledger", self.dialect)[0], p.flip(published_at))
        return self._receipt(p, "replaced" if entry else "published", published_at, new.num_rows)
