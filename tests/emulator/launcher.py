"""Start the BigQuery emulator local-bigquery on loopback only and without the network.

    tests/emulator/setup.sh .emulator
    .emulator/bin/python tests/emulator/launcher.py --data-dir DIR [--port N] [--grpc-port N] [--with-parent]

One line on standard output says that both servers answer: ``READY 127.0.0.1:PORT grpc:PORT``. Port 0, the default, takes a
free one. SIGTERM and SIGINT stop both servers and exit 0, also while a query runs; with --with-parent so does the end of the
process that started this one. Data stays in DIR, also after SIGKILL; a second emulator on the same DIR or port is refused.

What is set right here, and would be wrong with local-bigquery's own command line:

- It listens on every interface unless told not to. Here there is no way to ask for that.
- It wants DuckDB's ducklake and spatial extensions from the network. ducklake is loaded by path from its wheel, for which pip
  has chosen the platform; spatial is left out, and the geography functions with it.
- It gives DuckDB the time zone at connect, before the part that knows time zones is loaded. A SET afterwards does the same.
- It looks a job id up and stores it in two steps: of eight loads sent at once under one id, two may run and double the rows.
- It runs eight jobs at a time, and CREATE IF NOT EXISTS or ALTER fail with "Conflict on update!". Here jobs run one by one.
- Its gRPC port can be shared unnoticed by a second emulator.
- Its listening socket lacks TCP_NODELAY: each reply on an open connection waits 40 ms for an acknowledgement.
- It asks DuckDB's functions of the catalog several times a statement, and those describe every table of every dataset to
  answer for one. The lake's own tables are asked here instead, and only once for each of its snapshots;
  of the result of a query, the result itself is.
- Before each statement it looks for temporary tables in that catalog, also where the connection is new and can have none.
- DuckDB looks for pandas several times a statement as long as there is none: half a thousand places on disk.
"""

import argparse
import concurrent.futures
import functools
import importlib.util
import os
import pathlib
import signal
import socket
import sys
import threading
import time

import duckdb
import grpc
import uvicorn
from local_bigquery import app
from local_bigquery.engine import database
from local_bigquery.grpc import server as storage
from local_bigquery.jobs import query, runner
from local_bigquery.settings import settings

HOST = "127.0.0.1"
DUCKLAKE = next(pathlib.Path(importlib.util.find_spec("duckdb_extension_ducklake").origin).parent.rglob("*.duckdb_extension"))
NOW = "(SELECT * FROM {{lake}}.ducklake_{} WHERE end_snapshot IS NULL)"
LAKE = {  # a function of DuckDB's catalog -> its columns and the tables of the lake that hold them
    "duckdb_tables()": (
        "table_name, coalesce(record_count, 0) AS estimated_size",
        f"{NOW.format('table')} JOIN {NOW.format('schema')} USING (schema_id) "
        "LEFT JOIN {lake}.ducklake_table_stats USING (table_id)",
    ),
    "duckdb_views()": (
        "view_name, false AS internal",
        f"{NOW.format('view')} JOIN {NOW.format('schema')} USING (schema_id)",
    ),
    "duckdb_columns()": (
        "table_name, column_name, nulls_allowed AS is_nullable",
        f"{NOW.format('column')} JOIN {NOW.format('table')} USING (table_id) JOIN {NOW.format('schema')} USING (schema_id)",
    ),
    "duckdb_schemas()": ("schema_id", NOW.format("schema")),
}


def offline(connect, threads):
    """``duckdb.connect`` that takes ducklake from its wheel, fetches nothing and sets the time zone after the start."""

    @functools.wraps(connect)
    def wrapper(*args, config=None, **kwargs):
        config = {**(config or {}), "autoinstall_known_extensions": False}
        timezone = config.pop("TimeZone", None)
        connection = connect(*args, config=config, **kwargs)
        connection.execute(f"LOAD '{DUCKLAKE}'")
        connection.execute(f"SET threads = {threads}")
        if timezone:
            connection.execute(f"SET TimeZone = '{timezone}'")
        return connection

    return wrapper


def from_the_lake(fetch):
    """``database.fetch`` that asks the lake's own tables what DuckDB's functions of the catalog would look up.

    The answer is kept until the lake has another snapshot.
    """
    kept = {}  # project -> its snapshot, and what has been asked of that

    @functools.wraps(fetch)
    def wrapper(sql, params=None):
        if params and params[:2] == ["emulator", "_results"] and len(params) > 2 and params[2]:
            return of_a_result(fetch, sql, params[2])
        if not params or params[0] not in database._attached or not any(function in sql for function in LAKE):
            return fetch(sql, params)
        lake = database.quote(f"__ducklake_metadata_{params[0]}")
        snapshot = fetch(f"SELECT max(snapshot_id) FROM {lake}.ducklake_snapshot")
        if kept.get(params[0], [None])[0] != snapshot:
            kept[params[0]] = snapshot, {}
        answers, question = kept[params[0]][1], (sql, *params)
        if question not in answers:
            for function, (columns, tables) in LAKE.items():
                here = f"(SELECT '{params[0]}' AS database_name, schema_name, {columns} FROM {tables.format(lake=lake)})"
                sql = sql.replace(function, here)
            answers[question] = fetch(sql, params)
        return list(answers[question])

    return wrapper


def of_a_result(fetch, sql, name):
    """What the catalog says of the table of a query's result; CREATE TABLE AS SELECT made it, so all is nullable there."""
    if "duckdb_columns()" in sql:
        return []
    try:
        rows = fetch(f"SELECT count(*) FROM {database.quote('emulator', '_results', name)}")
    except duckdb.CatalogException:
        return []
    return [(name, "TABLE", rows[0][0])]


class New:
    """The cursor of a new connection, which has no temporary tables."""

    def __init__(self, cursor):
        self.cursor = cursor

    def __getattr__(self, name):
        return getattr(self.cursor, name)

    def sql(self, text, **more):
        if text.endswith("FROM duckdb_tables() WHERE temporary"):
            text = "SELECT '' LIMIT 0"
        return self.cursor.sql(text, **more)


def on_a_new_connection(execute):
    """``query.execute`` that knows that only a session can have temporary tables."""

    @functools.wraps(execute)
    def wrapper(cursor, *args, session=None, **kwargs):
        return execute(cursor if session else New(cursor), *args, session=session, **kwargs)

    return wrapper


def one_at_a_time(function):
    """The function, never run by two threads at once."""
    lock = threading.Lock()

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with lock:
            return function(*args, **kwargs)

    return wrapper


def stop_with(parent):
    """End this process as SIGTERM does, soon after the parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt_jobs():
    """Let no job start any more and end those that run."""
    runner._executor.shutdown(wait=False, cancel_futures=True)
    for job in list(runner._running.values()):
        job.cancelled = True
        if job.cursor:
            job.cursor.interrupt()
    runner._executor.shutdown(wait=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of DuckDB; more only help large reads")
    parser.add_argument("--with-parent", action="store_true", help="stop when the starting process ends")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    if args.with_parent:
        threading.Thread(target=stop_with, args=[os.getppid()], daemon=True).start()

    sys.modules["pandas"] = None  # is not there
    duckdb.connect = offline(duckdb.connect, args.threads)
    database.FUNCTIONS[:] = [path for path in database.FUNCTIONS if path.name != "geography.sql"]
    database.fetch = from_the_lake(database.fetch)
    query.execute = on_a_new_connection(query.execute)
    runner.submit = one_at_a_time(runner.submit)  # the look-up and the storing of a job id
    runner._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)  # the jobs themselves
    grpc.server = functools.partial(grpc.server, options=[("grpc.so_reuseport", 0)])  # else two may share a port unnoticed

    settings.data_dir = args.data_dir
    rest = socket.create_server((HOST, args.port))
    rest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    database.connection()
    grpc_server, grpc_port = storage.start(HOST, args.grpc_port)
    http_server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    print(f"READY {HOST}:{rest.getsockname()[1]} grpc:{grpc_port}", flush=True)
    try:
        http_server.run(sockets=[rest])
    finally:
        grpc_server.stop(None)
        interrupt_jobs()
        database.connection().close()


if __name__ == "__main__":
    main()
