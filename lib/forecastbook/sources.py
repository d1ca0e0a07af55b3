"""Where the data comes from: ``SOURCES`` turns raw tables or files into one long frame.

The frame has one row a series and day: series_id (text), ts (midnight), y (float, NaN = not observed), available (bool), title,
then covariates. A source never repairs silently: a row that breaks the contract goes to the quarantine with file, row, column,
value and reason, and everything that is dropped is counted, so that rows read = rows kept + what the counts name.

A source answers six questions about a ``source:`` section of a params file and a warehouse:
``there`` (is there anything yet?), ``span`` (first and last date; the last is the default as-of), ``fingerprint`` (have the
inputs changed?), ``read`` (the data as known at a date), ``asks`` (which queries would those be? None is sent) and ``unused``
(is there anything newer that cannot be used?). ``stores_facts``: whether ingest writes what it reads into the warehouse.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from forecastbook import longfile
from forecastbook.cells import Cells, mask
from forecastbook.intake import (
    Intake,
    Sieve,
    Source,
    SourceError,
    as_day,
    disagreeing,
    far,
    inside,
    of_cells,
    reasons,
    today,
    unit_errors,
)
from forecastbook.panel import periods
from forecastbook.params import digest
from forecastbook.pricefacts import PriceFacts
from forecastbook.publication import variant_ids
from forecastbook.salesfacts import SalesFacts
from forecastbook.shop import ShopFiles
from forecastbook.trades import SALES

log = logging.getLogger(__name__)


class LongFile(Source):
    """A long .parquet or .csv file. Parameters: path, columns {series, ts, y, available?, title?}, static, past, future,
    history_days (None = all), positive (True where y must be above 0).

    Several rows of one series and date: the latest time of day wins, of those as late the last row of the file. Ids and titles
    are text exactly as written.
    """

    def there(self, source, warehouse) -> bool:
        """A file is there, or it is an error to say so."""
        return True

    def span(self, source, warehouse=None) -> tuple[date, date]:
        """First and newest date with an observed value, not after today. Raises SourceError when no row is usable."""
        return self._span(source, *self._parse(source))

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of what a run as of then reads: neither the rows' order nor the file's format, nor other rows, count."""
        intake = self.read(source, warehouse, as_of)
        return digest(
            {
                "as_of": as_day(as_of),
                "content": intake.digest(sales=not _positive(source)),
                "columns": _mapping(source),
                "static": list(source.static),
                "past": list(source.past),
                "future": list(source.future),
                "history_days": source.history_days,
                "positive": _positive(source),
            }
        )

    def read(self, source, warehouse, as_of) -> Intake:
        """The rows up to ``as_of``; later rows only where ``future`` columns want them, without their value."""
        as_of = np.datetime64(as_day(as_of), "D")
        table, sieve, parsed = self._parse(source, as_of)
        inside(as_of.astype(date), self._span(source, table, sieve, parsed), str(_path(source)))
        columns, codes, day, y, flag = (parsed[k] for k in ("columns", "codes", "day", "y", "flag"))
        later = ~np.isnat(day) & (day > as_of)
        if not source.future:
            sieve.drop(later, "after the as-of date")
        past = np.zeros(len(day), dtype=bool)
        if source.history_days is not None:
            past = ~np.isnat(day) & (day <= as_of - np.timedelta64(source.history_days, "D"))
            sieve.drop(past, "before the history window")
        sieve.reject(far(day, sieve.ok & ~later), columns["ts"], table[columns["ts"]], "date far before all others")
        if _positive(source):
            sieve.reject(
                unit_errors(codes, np.where(sieve.ok & ~later & (flag != 0), y, np.nan)),
                columns["y"],
                table[columns["y"]],
                "unit error?",
            )
        ids = parsed["ids"]
        cells = Cells(ids, codes, day.astype(np.int64).astype(np.int32), sieve.ok)
        times = table[columns["ts"]]
        beaten, stays = cells.resolve(lambda rows: (longfile.as_times(times.take(pa.array(rows))),))
        sieve.drop(mask(beaten, len(codes)), "duplicates resolved")
        hidden = (flag == 0) & _positive(source)
        y = np.where(later | hidden, np.nan, y)
        available = np.where(flag < 0, ~np.isnan(y), flag == 1) & ~later
        title = (None, ids)  # the id where there is none
        if "title" in columns:
            said, titles = longfile.as_text(table[columns["title"]])
            said = _carried(said, codes, day, sieve.ok & ~later)
            title = np.where(said >= 0, said, codes + len(titles)), np.concatenate([titles, ids])
        data = {"y": y, "available": available, "title": title}
        for name in source.static:
            said, texts = longfile.as_text(table[name])
            data[name] = _carried(said, codes, day, sieve.ok & ~later), np.append(texts, "")  # code -1 = missing = ""
        for name in (*source.past, *source.future):
            value, missing, bad = longfile.as_numbers(table[name], parsed["comma"], parsed["known"])
            if bad[parsed["known"]].any():
                said, neither = longfile.as_flags(table[name])
                if not neither[parsed["known"]].any():  # a promotion: yes or no
                    value, bad = np.where(said < 0, np.nan, said), neither
            why = f"not a number (wanted {longfile.numbers(parsed['comma'])})"
            sieve.note((bad | np.isinf(value)) & sieve.ok, name, table[name], why, "covariate left empty")
            data[name] = np.where(np.isfinite(value), value, np.nan)
        if not (np.isfinite(y) & sieve.ok).any():
            raise SourceError(f"{_path(source)} has no usable value in the window up to {as_of}: {reasons(sieve.counts)}")
        now, empty = sieve.ok & ~later, np.isnan(y)
        notes = {
            "unavailable": int((now & empty & ~available).sum()),
            "available without a value": int((now & empty & available).sum()),
            **({"known ahead": int((sieve.ok & later).sum())} if source.future else {}),
            **disagreeing(y, beaten, stays),
        }
        ahead = later if source.future else later & (day <= np.datetime64(today(), "D"))  # what is not known yet; 2999 is wrong
        lost = sieve.lost(ids, codes, data["title"], now, lambda at: ~(ahead | past)[at])
        found = of_cells(cells, data, sieve, len(codes) + parsed["torn"], notes, lost)
        return replace(found, unread=sieve.unread(ids, codes, day))

    @staticmethod
    def _parse(source, as_of=None) -> tuple[pa.Table, Sieve, dict]:
        """Every rule of a single row. Codes (n,) index ids (N,); flag (n,) is 1, 0 or -1 (not said).

        as_of: how numbers are written is told by the rows up to then; None: by all.
        """
        path, columns = _path(source), _mapping(source)
        wanted = list(dict.fromkeys([*columns.values(), *source.static, *source.past, *source.future]))
        table, rows, torn, comma = longfile.load(path, wanted)
        sieve = Sieve(str(path), rows)
        if len(torn):
            sieve.parts.append(torn)
            sieve.counts["quarantined: wrong number of cells"] = len(torn)
        n, series, ts, value = table.num_rows, columns["series"], columns["ts"], columns["y"]
        codes, ids = longfile.as_text(table[series])
        day, no_day = longfile.as_days(table[ts])
        known = ~np.isnat(day) if as_of is None else day <= as_of  # NaT is not
        y, no_value, not_number = longfile.as_numbers(table[value], comma, known)
        flag, not_flag = (
            longfile.as_flags(table[columns["available"]]) if "available" in columns else (np.full(n, -1), np.zeros(n, bool))
        )
        sieve.reject(codes < 0, series, table[series], "missing series id")
        sieve.reject(no_day, ts, table[ts], "missing date")
        sieve.reject(np.isnat(day), ts, table[ts], f"impossible date (wanted {longfile.DATES})")
        if not source.future:
            sieve.reject(day > np.datetime64(today(), "D"), ts, table[ts], "date in the future")
        if "available" in columns:
            why = f"neither yes nor no (wanted {longfile.FLAGS})"
            sieve.reject(not_flag, columns["available"], table[columns["available"]], why)
        sieve.reject(not_number, value, table[value], f"not a number (wanted {longfile.numbers(comma)})")
        sieve.reject(np.isinf(y), value, table[value], "not finite")
        sieve.reject(y < 0, value, table[value], "negative")
        if _positive(source):
            sieve.reject((y == 0) & (flag != 0), value, table[value], "zero price")
        return (
            table,
            sieve,
            {
                "columns": columns,
                "codes": codes,
                "ids": ids,
                "day": day,
                "y": y,
                "flag": flag,
                "comma": comma,
                "known": known,
                "torn": len(torn),
            },
        )

    @staticmethod
    def _span(source, table, sieve: Sieve, parsed: dict) -> tuple[date, date]:
        """First and last date with an observed value."""
        seen = sieve.ok & ~np.isnan(parsed["y"]) & (parsed["day"] <= np.datetime64(today(), "D"))
        if _positive(source):
            seen &= parsed["flag"] != 0
        if not seen.any():
            refused = sieve.quarantine().head(1).to_dict("records")
            example = "".join(f"; row {r['row']}: {r['column']} is {r['value']!r}" for r in refused)
            raise SourceError(
                f"{_path(source)} has no usable rows: {table.num_rows + parsed['torn']} rows, {reasons(sieve.counts)}{example}"
            )
        day = parsed["day"][seen]
        return day.min().astype(date), day.max().astype(date)


def _carried(said: np.ndarray, codes: np.ndarray, day: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Text of a series as codes (n,), -1 for none: where a row says nothing, what the series' newest row that does says.

    codes: (n,) the series, -1 for none. day: (n,). known: (n,) bool, the rows whose word counts.
    """
    if (said >= 0).all():
        return said
    told = np.flatnonzero(known & (said >= 0))
    told = told[np.argsort(day[told], kind="stable")]
    last = np.full(codes.max(initial=-1) + 2, -1)  # the last place answers for code -1: no series
    last[codes[told]] = said[told]  # of several the latest stays
    return np.where(said >= 0, said, last[codes])


def _path(source) -> Path:
    path = Path(source.path).expanduser()
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise SourceError(f"source.path {path} {what}; a relative path starts at {Path.cwd()}")
    return path


def _mapping(source) -> dict[str, str]:
    """Role -> column of the file; roles that are not mapped are left out."""
    columns = source.columns
    get = columns.get if isinstance(columns, dict) else lambda role: getattr(columns, role, None)
    return {role: get(role) for role in ("series", "ts", "y", "available", "title") if get(role)}


def _positive(source) -> bool:
    return bool(getattr(source, "positive", False))


class RecordShop(ShopFiles):
    """``ShopFiles``; where a job names no files, those of a generated shop, written beside the warehouse at the first use."""

    def there(self, source, warehouse) -> bool:
        """Whether there is anything yet, or only the first run writes it."""
        return source.stock is not None or _home(warehouse).is_dir()

    def span(self, source, warehouse=None) -> tuple[date, date]:
        return super().span(_generated(source, warehouse), warehouse)

    def fingerprint(self, source, warehouse, as_of) -> str:
        return super().fingerprint(_generated(source, warehouse), warehouse, as_of)

    def read(self, source, warehouse, as_of) -> Intake:
        return super().read(_generated(source, warehouse), warehouse, as_of)


def _home(warehouse) -> Path:
    """Where the generated shop's files are."""
    return warehouse.beside / "record_shop"


def _generated(source, warehouse):
    """The source with its files; those of the generated shop are written whole or not at all."""
    if source.stock is not None:
        return source
    home = _home(warehouse)
    if not home.is_dir():
        from forecastbook import recordshop  # lazily: only a first run needs it

        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".record_shop.") as part:
            recordshop.write(Path(part) / "shop")
            with contextlib.suppress(OSError):  # another run was first: its files are the same
                (Path(part) / "shop").rename(home)
        log.info("no files are named: a generated record shop was written to %s", home)
    stock, sales = (sorted(map(str, home.glob(pattern))) for pattern in ("Остатки *", "Продажи *"))
    return source.model_copy(update={"stock": stock[0], "sales": sales})


def newest(span: tuple[date, date], params) -> date:
    """The default as-of date: the last one of the data; of sales the last period that is over, as half a week is no week."""
    first, last = span
    if params.trade is not SALES or last == first:
        return last
    if periods(last, 2, params.freq)[-1].astype(date) <= today():
        return last
    return pd.date_range(end=pd.Timestamp(last), periods=2, freq=params.freq)[0].date()


def begins(as_of: date, newest: date, freq: str) -> None:
    """Raise SourceError unless the newest date of the data, and then the as-of date, is the first day of a period."""
    known, asked = (pd.date_range(end=pd.Timestamp(day), periods=1, freq=freq)[0].date() for day in (newest, as_of))
    if known != newest:
        weeks = f"{newest:%a}".upper()
        raise SourceError(
            f"the newest date of the data, {newest}, is not the first day of a period of freq {freq}: set freq (weeks that "
            f"begin on its day are W-{weeks}), or sum by period and date each by its first day"
        )
    if asked != as_of:
        raise SourceError(f"as-of date {as_of} is not the first day of a period of freq {freq}: write {asked}")


def keep_facts(intake: Intake, store, job: str) -> None:
    """Write the facts that a job's own files hold into the warehouse; sources whose facts are there already bring none.

    All facts of the job's items are replaced, also of those that the files no longer have: reading the same files again changes
    nothing, and a corrected file corrects. A run for a past date, which knows less, leaves facts of later periods alone.
    """
    if not intake.facts:
        return
    items = intake.facts["DimItem"]
    ids = items["series_id"].to_pylist()
    keys = variant_ids(ids, items["title"].to_pylist())
    number = dict(zip(ids, keys["id"].to_pylist(), strict=True))
    store.migrate()
    stored = store.query("sales_newest")
    own = pc.fill_null(pc.equal(stored["job"], job), False)
    stored = stored.append_column("own", own).filter(pc.or_(pc.is_in(stored["item_id"], keys["id"]), own))
    mine = pc.max(intake.facts["FactSales"]["period"]).as_py()
    others = (
        stored if not intake.newest else stored.filter(pc.invert(stored["own"]))
    )  # what another job knows is no mistake of ours
    later = pc.max(others["newest"]).as_py()
    if later and mine and later > mine:
        log.info("%s has sales up to %s: those up to %s are not written over them", store.url, later, mine)
        return
    about = {"item_id": keys["id"], "title": keys["title"], "source_key": keys["source_key"]}
    about |= {"attributes_json": items["attributes_json"], "from_files": [True] * len(ids), "job": [job] * len(ids)}
    store.append("DimItem", pa.table(about), replacing=("item_id",))
    held = tuple(stored["item_id"].to_pylist()) if intake.newest else ()  # an earlier day does not know all items yet
    for table in ("FactSales", "FactStockMovement", "FactItemMonth"):
        rows = intake.facts[table]
        keyed = pa.array([number[i] for i in rows["series_id"].to_pylist()], pa.int64())
        rows = rows.drop_columns(["series_id"]).append_column("item_id", keyed)
        store.append(table, rows, replacing=("item_id",), gone=held)


SOURCES = {
    "warehouse_prices": PriceFacts(),
    "warehouse_sales": SalesFacts(),
    "shop_files": RecordShop(),
    "file": LongFile(),
}
