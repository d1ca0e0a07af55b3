"""A long .csv or .parquet file -> one long frame."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from forecastbook import parsing
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
from forecastbook.params import digest
from forecastbook.wording import size as bytes_of

log = logging.getLogger(__name__)
LARGE = 5e6  # bytes of a file whose reading is announced
SETTLED = 2.0  # seconds: of a file written more recently two versions may bear the same time


@dataclass(frozen=True, eq=False)
class Content:
    """What a file holds, before any rule: n rows of N series, and the rows that were torn.

    columns: role -> column. numbers: (n,) under which the quarantine names the rows. comma: whether it may have decimal commas.
    codes: (n,) into ids (N,), -1 for none. day: (n,), NaT where it is none, or missing (``no_day``). flag: (n,) 1, 0 or -1
    (not said), and which are neither.
    """

    table: pa.Table
    columns: dict[str, str]
    numbers: np.ndarray
    torn: pd.DataFrame
    comma: bool
    codes: np.ndarray
    ids: np.ndarray
    day: np.ndarray
    no_day: np.ndarray
    flag: np.ndarray
    not_flag: np.ndarray

    @property
    def rows(self) -> int:
        """How many rows the file has, torn ones too."""
        return len(self.codes) + len(self.torn)

    def cells(self, role: str) -> pa.ChunkedArray:
        """The column of a role, as it is written."""
        return self.table[self.columns[role]]


class LongFile(Source):
    """A long .parquet or .csv file. Parameters: path, columns {series, ts, y, available?, title?}, static, past, future,
    history_days (None = all), positive (True where y must be above 0).

    Several rows of one series and date: the latest time of day wins, of those as late the last row of the file. Ids and titles
    are text exactly as written. What ``span`` has read is held for the ``fingerprint`` or ``read`` that follows, then let go.
    """

    def __init__(self):
        self._held: tuple[tuple, Content] | None = None  # which file, as of which write, with which columns; and its content

    def there(self, source, warehouse) -> bool:
        """A file is there, or it is an error to say so."""
        return True

    def span(self, source, warehouse=None) -> tuple[date, date]:
        """First and newest date with an observed value, not after today. Raises SourceError when no row is usable."""
        file, sieve, y, _ = self._parse(source, hold=True)
        return self._span(source, file, sieve, y)

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of what a run as of then reads: neither the rows' order nor the file's format, nor other rows, count."""
        intake = self.read(source, warehouse, as_of)
        return digest(
            {
                "as_of": as_day(as_of),
                "content": intake.digest(sales=not source.positive),
                "columns": _columns(source),
                "static": list(source.static),
                "past": list(source.past),
                "future": list(source.future),
                "history_days": source.history_days,
                "positive": source.positive,
            }
        )

    def read(self, source, warehouse, as_of) -> Intake:
        """The rows up to ``as_of``; later rows only where ``future`` columns want them, and of those no value else."""
        as_of = np.datetime64(as_day(as_of), "D")
        file, sieve, y, known = self._parse(source, as_of)
        inside(as_of.astype(date), self._span(source, file, sieve, y), str(_path(source)))
        table, columns, ids, codes, day, flag = file.table, file.columns, file.ids, file.codes, file.day, file.flag
        later = ~np.isnat(day) & (day > as_of)
        if not source.future:
            sieve.drop(later, "after the as-of date")
        past = np.zeros(len(day), dtype=bool)
        if source.history_days is not None:
            past = ~np.isnat(day) & (day <= as_of - np.timedelta64(source.history_days, "D"))
            sieve.drop(past, "before the history window")
        sieve.reject(far(day, sieve.ok & ~later), columns["ts"], file.cells("ts"), "date far before all others")
        if source.positive:
            odd = unit_errors(codes, np.where(sieve.ok & ~later & (flag != 0), y, np.nan))
            sieve.reject(odd, columns["y"], file.cells("y"), "unit error?")
        cells = Cells(ids, codes, day.astype(np.int64).astype(np.int32), sieve.ok)
        times = file.cells("ts")
        beaten, stays = cells.resolve(lambda rows: (parsing.as_times(times.take(pa.array(rows))),))
        sieve.drop(mask(beaten, len(codes)), "duplicates resolved")
        hidden = (flag == 0) & source.positive
        y = np.where(later | hidden, np.nan, y)
        available = np.where(flag < 0, ~np.isnan(y), flag == 1) & ~later
        title = (None, ids)  # the id where there is none
        if "title" in columns:
            said, titles = parsing.as_text(file.cells("title"))
            said = _carried(said, codes, day, sieve.ok & ~later)
            title = np.where(said >= 0, said, codes + len(titles)), np.concatenate([titles, ids])
        data = {"y": y, "available": available, "title": title}
        for name in source.static:
            said, texts = parsing.as_text(table[name])
            said = _carried(np.where(later, -1, said), codes, day, sieve.ok & ~later)
            data[name] = said, np.append(texts, "")  # code -1 = missing = ""
        for name in (*source.past, *source.future):
            value, missing, bad = parsing.as_numbers(table[name], file.comma, known)
            if bad[known].any():
                said, neither = parsing.as_flags(table[name])
                if not neither[known].any():  # a promotion: yes or no
                    value, bad = np.where(said < 0, np.nan, said), neither
            why = f"not a number (wanted {parsing.numbers(file.comma)})"
            here = sieve.ok if name in source.future else sieve.ok & ~later
            sieve.note((bad | np.isinf(value)) & here, name, table[name], why, "covariate left empty")
            data[name] = np.where(np.isfinite(value) & here, value, np.nan)
        if not (np.isfinite(y) & sieve.ok).any():
            raise SourceError(f"{_path(source)} has no usable value in the window up to {as_of}: {reasons(sieve.counts)}")
        now, empty = sieve.ok & ~later, np.isnan(y)
        notes = {
            "unavailable": int((now & empty & ~available).sum()),
            "available without a value": int((now & empty & available).sum()),
            **({} if source.positive else {"of the observed not on offer": int((now & ~empty & ~available).sum())}),
            **({"known ahead": int((sieve.ok & later).sum())} if source.future else {}),
            **disagreeing(y, beaten, stays),
        }
        ahead = later if source.future else later & (day <= np.datetime64(today(), "D"))  # what is not known yet; 2999 is wrong
        lost = sieve.lost(ids, codes, data["title"], now, lambda at: ~(ahead | past)[at])
        found = of_cells(cells, data, sieve, file.rows, notes, lost)
        return replace(found, unread=sieve.unread(ids, codes, np.where(later | past, np.datetime64("NaT"), day)))

    def _parse(self, source, as_of=None, hold: bool = False) -> tuple[Content, Sieve, np.ndarray, np.ndarray]:
        """Every rule of a single row: what the file holds, the sieve, the values (n,), and the rows (n,) bool that could tell
        how its numbers are written: those up to ``as_of``, None: all. hold: as ``_content`` takes it.
        """
        file = self._content(source, hold)
        table, columns, comma, codes, day, flag = file.table, file.columns, file.comma, file.codes, file.day, file.flag
        sieve = Sieve(str(_path(source)), file.numbers)
        if len(file.torn):
            sieve.parts.append(file.torn)
            sieve.counts["quarantined: wrong number of cells"] = len(file.torn)
        series, ts, value = columns["series"], columns["ts"], columns["y"]
        known = ~np.isnat(day) if as_of is None else day <= as_of  # NaT is not
        y, _, not_number = parsing.as_numbers(table[value], comma, known)
        sieve.reject(codes < 0, series, table[series], "missing series id")
        sieve.reject(file.no_day, ts, table[ts], "missing date")
        sieve.reject(np.isnat(day), ts, table[ts], f"impossible date (wanted {parsing.DATES})")
        if not source.future:
            sieve.reject(day > np.datetime64(today(), "D"), ts, table[ts], "date in the future")
        if "available" in columns:
            why = f"neither yes nor no (wanted {parsing.FLAGS})"
            sieve.reject(file.not_flag, columns["available"], file.cells("available"), why)
        sieve.reject(not_number, value, table[value], f"not a number (wanted {parsing.numbers(comma)})")
        sieve.reject(np.isinf(y), value, table[value], "not finite")
        sieve.reject(y < 0, value, table[value], "negative")
        if source.positive:
            sieve.reject((y == 0) & (flag != 0), value, table[value], "zero price")
        return file, sieve, y, known

    def _content(self, source, hold: bool) -> Content:
        """What the file holds. hold: keep it for the next call; a file that was written since is read anew."""
        held, self._held = self._held, None
        path = _path(source)
        columns = _columns(source)
        wanted = tuple(dict.fromkeys([*columns.values(), *source.static, *source.past, *source.future]))
        state = path.stat()  # before it is read: what is written meanwhile is another version
        key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, tuple(columns.items()), wanted)
        content = held[1] if held and held[0] == key else self._load(path, state.st_size, columns, list(wanted))
        if hold and time.time() - max(state.st_mtime, state.st_ctime) > SETTLED:
            self._held = key, content
        return content

    @staticmethod
    def _load(path: Path, size: int, columns: dict[str, str], wanted: list[str]) -> Content:
        if size > LARGE:
            log.info("reading %s (%s)", path, bytes_of(size))
        table, numbers, torn, comma = parsing.load(path, wanted)
        codes, ids = parsing.as_text(table[columns["series"]])
        day, no_day = parsing.as_days(table[columns["ts"]])
        flag, not_flag = np.full(table.num_rows, -1), np.zeros(table.num_rows, dtype=bool)
        if "available" in columns:
            flag, not_flag = parsing.as_flags(table[columns["available"]])
        return Content(table, columns, numbers, torn, comma, codes, ids, day, no_day, flag, not_flag)

    @staticmethod
    def _span(source, file: Content, sieve: Sieve, y: np.ndarray) -> tuple[date, date]:
        """First and last date with an observed value."""
        seen = sieve.ok & ~np.isnan(y) & (file.day <= np.datetime64(today(), "D"))
        if source.positive:
            seen &= file.flag != 0
        if not seen.any():
            refused = sieve.quarantine().head(1).to_dict("records")
            example = "".join(f"; row {r['row']}: {r['column']} is {r['value']!r}" for r in refused)
            raise SourceError(f"{_path(source)} has no usable rows: {file.rows} rows, {reasons(sieve.counts)}{example}")
        day = file.day[seen]
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


def _columns(source) -> dict[str, str]:
    """Role -> column of the file; roles that are not mapped are left out."""
    return {role: name for role, name in source.columns if name}
