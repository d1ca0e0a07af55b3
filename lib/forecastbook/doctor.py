"""What a person asks before the first run on a warehouse: ``make warehouse`` makes its tables, ``make doctor`` looks it over.

The doctor writes nothing, neither table nor file. Each check is one line: ok, warn, FAIL with what to do, or skip when an
earlier one that it needs did not pass.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from importlib import metadata
from pathlib import Path

import pandas as pd

from forecastbook import roster, schema, warehouse
from forecastbook.commands import Request, arguments, log_to
from forecastbook.intake import SourceError, today
from forecastbook.schema import WarehouseError
from forecastbook.wording import size
from forecastbook.yamlfile import ParamsError

log = logging.getLogger("forecastbook")
PATIENCE = 10.0  # seconds for a server that does not answer, or a file that another process has open
PRICE = 6.25  # dollars that BigQuery asks for a TiB read on demand, unless BIGQUERY_PRICE_PER_TIB says otherwise
RESULT = 10 * 10**9  # bytes that the result of one query may have, compressed
LOADS = 1500  # load jobs that BigQuery takes for one table in a day
SENT = {  # what a run sends: (load jobs into a table of ours, load jobs into staging tables, DML jobs)
    "publishing": (1, 0, 4),
    "new items": (0, 1, 2),  # in the dimension
    "scoring": (0, 1, 1),
    "facts of files": (0, 4, 4),
}
RIGHTS = {  # on a table -> what a run does with it
    "bigquery.tables.get": "look at it",
    "bigquery.tables.getData": "read it",
    "bigquery.tables.updateData": "write to it",
    "bigquery.tables.update": "add columns to it",
    "bigquery.tables.delete": "drop its staging tables",
}


# ---- make warehouse ------------------------------------------------------------------------------------------------------


def migrate(store, dry: bool = False) -> list[str]:
    """Make or migrate a warehouse; what was done, one line each. With ``dry`` the statements instead, and nothing is changed.

    A dry run of a server that cannot be asked gives the statements for an empty warehouse, with a warning.
    """
    if not dry:
        return store.migrate() or [f"{store.url} is up to date"]
    try:
        lacking = store.lacking()
    except WarehouseError as error:
        if store.embedded:
            raise
        log.warning("%s", error)
        log.warning("so it is not known what there is; these statements are for an empty warehouse")
        texts = store.ddl()
    else:
        if not lacking:
            return [f"-- {store.url} is up to date"]
        texts = store.migrate(dry=True)
    return [f"{text if text.startswith('CREATE SCHEMA') else schema.pretty(text, store.dialect)};" for text in texts]


# ---- make doctor ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What a check found. level: ok, warn, FAIL or skip."""

    level: str
    what: str
    found: str

    def __str__(self) -> str:
        return f"{self.level:<4} {self.what}: {self.found}"


class Wrong(Exception):
    """A check did not pass: what was found and what to do."""


class Patient(Request):
    """A job and a warehouse that are looked over: nothing is made, and nobody is waited for long."""

    @cached_property
    def store(self):
        store = warehouse.connect(self.url, lock_wait=PATIENCE, labels={"job": self.job})
        store.looks_only, store.patience = True, PATIENCE
        if not store.embedded:
            store.beside = self.out
        return store

    @cached_property
    def columns(self) -> dict[str, dict[str, str]]:
        return self.store.columns()

    def asks(self, day: date) -> dict[str, dict]:
        """The queries of the job's source, of tables that are there."""
        asked = self.source.asks(self.params.source, day)
        return {
            name: given for name, given in asked.items() if {t.lower() for t in schema.tables_read(name)} <= self.columns.keys()
        }

    @property
    def day(self) -> date:
        """The as-of date of the next run; a guess where only that can make the data."""
        return self.date if self.has_data else self.given or today()


def versions(p: Patient) -> tuple[str, str]:
    names = ("duckdb",) if p.store.embedded else ("google-cloud-bigquery", "google-cloud-bigquery-storage")
    return "ok", f"Python {platform.python_version()}, " + ", ".join(f"{name} {metadata.version(name)}" for name in names)


def address(p: Patient) -> tuple[str, str]:
    return "ok", f"{p.store.url}, {'an embedded file' if p.store.embedded else 'a dataset of BigQuery'}"


def job(p: Patient) -> tuple[str, str]:
    params = p.params
    to = params.publish.table if params.publish.enabled else "nowhere (publish.enabled is false)"
    return "ok", f"{p.job}: {params.title}, from {params.source.kind}, {params.horizon} x {params.freq} ahead, to {to}"


def out(p: Patient) -> tuple[str, str]:
    return "ok", f"runs will be written to {_writable(p.out, 'OUT')}"


def _writable(path: Path, variable: str) -> Path:
    """The path, when it or what it will be made in may be written. Nothing is."""
    known = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if known != path.absolute() and not known.is_dir():
        raise Wrong(f"{known} is a file: choose another {variable}")
    if not os.access(known, os.W_OK | (os.X_OK if known.is_dir() else 0)):
        raise Wrong(f"{known} may not be written to: choose another {variable}, or change its owner")
    return path


# -- a file


def file(p: Patient) -> tuple[str, str]:
    path = _writable(p.store.path, "WAREHOUSE=duckdb:PATH")
    if not p.store.exists():
        if path.exists():
            raise Wrong(f"{path} is a directory: WAREHOUSE=duckdb:PATH wants a file")
        return "warn", f"{path} is not there yet: the first run makes it; make warehouse makes it empty"
    p.store.columns()  # opens it
    if not os.access(path.absolute().parent, os.W_OK):
        raise Wrong(f"{path.absolute().parent} may not be written to, and DuckDB keeps a log beside its file: change its owner")
    return "ok", f"{path} of {path.stat().st_size / 1e6:,.1f} MB can be read and written, and nobody has it open"


# -- a server


def credentials(p: Patient) -> tuple[str, str]:
    return "ok", "no credentials needed" if p.store.embedded else p.store.account()


def dataset(p: Patient) -> tuple[str, str]:
    if not p.store.exists():
        raise Wrong(
            f"{'.'.join(p.store.place)} does not exist: check PROJECT and DATASET, or make it with make warehouse "
            f"WAREHOUSE={p.url} (needs roles/bigquery.user on the project)"
        )
    place, wanted = p.store.location, os.environ.get("BIGQUERY_LOCATION")
    if wanted and place and wanted.lower() != place.lower():
        return "warn", f"it is in {place}; BIGQUERY_LOCATION says {wanted}, which counts only when a dataset is made"
    return "ok", f"it is in {place or 'a place that it does not say'}"


def querying(p: Patient) -> tuple[str, str]:
    return "ok", f"jobs may be made and run, as {p.store.user()}"


def expiry(p: Patient) -> tuple[str, str]:
    if gone := p.store.expiring([table for table in schema.tables() if table.lower() in p.columns]):
        return "warn", f"BigQuery deletes {'; '.join(gone)}, facts and forecasts with them: BIGQUERY.md says how to end that"
    return "ok", "nothing is deleted by itself"


def reading(p: Patient) -> tuple[str, str]:
    asked = p.asks(today()) or ({"ledger": {}} if "publishledger" in p.columns else {})
    if not asked:
        return "warn", "cannot be told while there is no table to read: make warehouse makes them"
    for name, given in asked.items():
        p.store.estimate(name, given)
    read = list(dict.fromkeys(table for name in asked for table in schema.tables_read(name)))
    return "ok", f"{', '.join(read)} may be read"


def writing(p: Patient) -> tuple[str, str]:
    p.store.try_to_make("forecastbook_staging_doctor")
    table = next((t for t in (p.params.publish.table, *schema.tables()) if t.lower() in p.columns), None)
    if table is None:
        return "warn", "tables may be made; the rest cannot be told before there is one: make warehouse makes them"
    has = p.store.may(table, list(RIGHTS))
    if has is None:
        return "warn", f"tables may be made; which rights there are on {table} cannot be told here"
    if lacks := [f"{right} ({why})" for right, why in RIGHTS.items() if right not in has]:
        raise Wrong(f"on {table} the account lacks {', '.join(lacks)}: grant it roles/bigquery.dataEditor on the dataset")
    return "ok", f"tables may be made, and {table} written"


def sessions(p: Patient) -> tuple[str, str]:
    table = next((t for t in (p.params.publish.table, "PublishLedger") if t.lower() in p.columns), None)
    if table is None:
        return "warn", "cannot be told before there is a table: needs roles/bigquery.readSessionUser on the project"
    try:
        place = p.store.session(table)
    except WarehouseError as error:
        raise Wrong(f"{error}; large results need roles/bigquery.readSessionUser on the project") from error
    if place is None:
        return "warn", "the emulator has no Storage Read API (BIGQUERY_STORAGE_EMULATOR_HOST): results come by the REST API"
    return "ok", f"the Storage Read API opened one on {table} in {place}; nothing was read"


def cost(p: Patient) -> tuple[str, str]:
    asked = p.asks(p.day)
    if not asked:
        return "ok", f"{p.params.source.kind} sends no query to read its facts"
    price, sizes = _price(), {name: p.store.estimate(name, given) for name, given in asked.items()}
    most, total, limit = max(sizes, key=sizes.get), sum(sizes.values()), p.store.maximum
    if sizes[most] > limit:
        raise Wrong(
            f"{most} would read {size(sizes[most])}, above BIGQUERY_MAXIMUM_BYTES_BILLED ({size(limit)}): read fewer days "
            "(source.history_days), or raise it"
        )
    said = (
        f"a run as of {p.day} reads {size(total)} by {len(sizes)} queries, {size(sizes[most])} of it by {most} (limit "
        f"{size(limit)} a query): ${total / 2**40 * price:.4f} at ${price:g} a TiB"
    )
    if not total:
        return "warn", "the dry runs say 0 B, so what a run costs cannot be told here"
    return "ok", said


def _price() -> float:
    text = os.environ.get("BIGQUERY_PRICE_PER_TIB", "").strip() or str(PRICE)
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise Wrong(f"BIGQUERY_PRICE_PER_TIB={text}: wanted dollars, such as {PRICE}")
    return float(text)


def quota(p: Patient) -> tuple[str, str]:
    parts = [*(["publishing", "new items", "scoring"] if p.params.publish.enabled else [])]
    if p.params.source.kind == "shop_files":
        parts.append("facts of files")
    loads, staged, changes = (sum(SENT[part][i] for part in parts) for i in range(3))
    said = (
        f"a run sends at most {loads} load job{'s' * (loads != 1)} into {p.params.publish.table} (of {LOADS:,} a table and "
        f"day), {staged} into staging tables of their own, {changes} DML jobs (no limit a day), and no DDL once the tables are "
        "there"
    )
    if not (asked := p.asks(p.day)):
        return "ok", said
    name, table = _facts(asked)
    rows, read = p.store.held(table), p.store.estimate(name, asked[name])
    if rows is not None:
        said += f"; {name} reads at most {rows:,} rows in one session"
    if read > RESULT:
        return "warn", f"{said}, {size(read)}: a result may have {size(RESULT)} compressed, so read fewer days"
    return "ok", said


# -- both


def tables(p: Patient) -> tuple[str, str]:
    lacks = p.store.lacking()  # raises on wrong types, naming all of them
    needed = {table for name in p.source.asks(p.params.source, today()) for table in schema.tables_read(name)}
    absent = [table for table in schema.tables() if table in needed and table.lower() not in p.columns]
    if absent and not p.store.embedded:
        raise Wrong(
            f"{p.job} reads {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not there: point WAREHOUSE at the "
            "dataset that has them, or make warehouse makes them empty, to be filled"
        )
    if lacks and not p.columns:
        return "warn", "none is there yet: the first run makes them, or make warehouse"
    if lacks:
        shown = ", ".join(what.removeprefix("made ").replace("added ", "column ") for what in lacks)
        return "warn", f"{shown} will be made by the first run, or by make warehouse"
    return "ok", f"all {len(schema.tables())} tables and {len(schema.views())} views are there, of the right types"


def data(p: Patient) -> tuple[str, str]:
    asked = p.asks(today())
    if not p.has_data:
        own = sum(r["own"] for name in asked if name.endswith("_held") for r in p.store.query(name, asked[name]).to_pylist())
        if asked and (own or not p.store.embedded):
            raise Wrong(f"{_facts(asked)[1]} has no facts: load them first, or point WAREHOUSE elsewhere")
        return "warn", f"{p.params.source.kind} has nothing yet: the first run makes a sample of it"
    day, (first, last), fresh = p.date, p.span, p.params.freshness
    age = roster.age(day, p.params)
    said = f"from {first} to {last}; a run as of {day} knows nothing of the last {max(age, 0)} days"
    if fresh.max_age_days is not None and age > fresh.max_age_days:
        said += f", more than freshness.max_age_days allows ({fresh.max_age_days})"
        if fresh.action == "stop":
            raise Wrong(f"{said}, so it would stop: bring the source up to date, or set freshness.action: warn")
        return "warn", said
    end = pd.date_range(day, periods=p.params.horizon + 1, freq=p.params.freq)[-1].date()
    if end < today() and not p.as_of:
        return "warn", f"{said}, and its forecasts would end on {end}, before today"
    return "ok", said


def ledger(p: Patient) -> tuple[str, str]:
    if "publishledger" not in p.columns:
        return "ok", "nothing was ever published here"
    found = p.store.checks()
    if faults := [f"{name} ({text})" for name, good, text in found if not good]:
        raise Wrong(
            f"{'; '.join(faults)}: rows were changed by hand; publish the run again (FORCE=1), or restore the table from before"
        )
    return "ok", f"{len(found)} checks of what readers see passed"


def forecasts(p: Patient) -> tuple[str, str]:
    table, entries = p.params.publish.table, p.store.ledger().to_pylist()
    mine = [entry for entry in entries if entry["job"] == p.job]
    said = f"{table} holds {p.store.held(table) or 0:,} rows"
    if not mine:
        return "ok", f"{said}; {p.job} has published nothing yet"
    return "ok", f"{said}; {p.job} has published {len(mine)} vintages, the newest as of {max(e['as_of'] for e in mine)}"


def _facts(asked: dict[str, dict]) -> tuple[str, str]:
    """Of a source's queries the one that reads its facts, and the table of them."""
    name = next(name for name in asked if name.endswith("_facts"))
    return name, next(table for table in schema.tables_read(name) if table.startswith("Fact"))


Check = Callable[[Patient], tuple[str, str]]
Checks = dict[str, tuple[Check, tuple[str, ...]]]  # what it is called -> (the check, those that must not have failed before it)
FIRST: Checks = {
    "warehouse": (address, ()),
    "versions": (versions, ("warehouse",)),
    "job": (job, ()),
    "out": (out, ()),
    "credentials": (credentials, ("warehouse",)),
}
FILE: Checks = {
    **FIRST,
    "file": (file, ("warehouse",)),
    "tables": (tables, ("file", "job")),
    "data": (data, ("tables", "job")),
    "ledger": (ledger, ("tables",)),
    "forecasts": (forecasts, ("tables", "job")),
}
SERVER: Checks = {
    **FIRST,
    "jobs": (querying, ("credentials",)),
    "dataset": (dataset, ("credentials",)),
    "tables": (tables, ("jobs", "dataset", "job")),
    "expiry": (expiry, ("jobs", "dataset")),
    "reading": (reading, ("jobs", "dataset", "job")),
    "writing": (writing, ("jobs", "dataset", "job")),
    "read sessions": (sessions, ("jobs", "dataset", "job")),
    "data": (data, ("tables", "reading")),
    "cost": (cost, ("data",)),
    "quota": (quota, ("data",)),
    "ledger": (ledger, ("tables", "reading")),
    "forecasts": (forecasts, ("tables", "reading")),
}


def check(p: Patient, checks: Checks | None = None):
    """Every finding in turn. An error of a check's own kind is a finding too; anything else is a fault of ours."""
    bad: set[str] = set()
    for what, (look, needs) in (checks or (SERVER if p.url.startswith("bigquery:") else FILE)).items():
        if failed := [name for name in needs if name in bad]:
            bad.add(what)
            yield Finding("skip", what, f"not looked at, because of {', '.join(failed)}")
            continue
        try:
            level, found = look(p)
        except (Wrong, WarehouseError, SourceError, ParamsError) as error:
            level, found = "FAIL", " | ".join(str(error).splitlines())
        except OSError as error:
            level, found = "FAIL", f"{error.filename or p.url}: {error.strerror or error}: it must be readable to this user"
        if level == "FAIL":
            bad.add(what)
        yield Finding(level, what, found)


# ---- the command line, called by the Makefile ----------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """``migrate`` makes the tables of a warehouse, ``check`` looks it over. Exit 0 done, 1 something FAILs, 2 refused."""
    parser = argparse.ArgumentParser(prog="python -m forecastbook.doctor")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("migrate", "check"):
        sub = commands.add_parser(name)
        arguments(sub)
        if name == "migrate":
            sub.add_argument("--dry-run", action="store_true", help="print the statements, change nothing")
    args = parser.parse_args(argv)
    log_to(None, args.command)
    try:
        if args.command == "migrate":
            store = warehouse.connect(args.warehouse, labels={"job": args.job})
            if args.dry_run:
                store.patience = PATIENCE
            for line in migrate(store, args.dry_run):
                print(line, flush=True)
            return 0
        log.setLevel(logging.WARNING)
        worst = 0
        for finding in check(Patient(args.job, args.as_of, args.out, args.warehouse, args.params)):
            print(finding, flush=True)
            worst |= finding.level == "FAIL"
        return int(worst)
    except KeyboardInterrupt:
        return 130
    except (WarehouseError, SourceError, ParamsError) as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return 2


if __name__ == "__main__":
    sys.exit(main())
