"""What a source read: the long frame, the rows that it refused, and how many rows each rule took.

The rules of one row are the source's own; here is what all sources share: the sieve that remembers each refusal, the long frame
and its counts, and the hundredfold slips of the unit that only the rest of a series can tell.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa

from forecastbook.cells import Cells, Grids, taken
from forecastbook.panel import Panel, build
from forecastbook.wording import percent

UNIT_FACTOR = 100.0  # a price this many times the series' median, or 1/this, is a slip of the unit
UNIT_EVIDENCE = 3  # ... when there are at least so many prices to tell by
FAR = 5  # years without any row before the first of the others
REFUSED = 0.2  # share of the rows read above which a warning is given: then the file is probably wrong, not single rows
LISTED = 1000  # rows that the quarantine names where only a value of theirs is left empty; a column of text would fill it
UNREAD = ["series_id", "ts"]
LOST = ["series_id", "title", "rows", "why"]  # columns of the series of which no row could be used


class SourceError(Exception):
    """The source cannot be read as asked. One line: what, where, what to do."""


class Source:
    """What a source answers where it has nothing of its own to say; the questions are those of ``sources``."""

    stores_facts = False  # whether ingest writes what it reads into the warehouse

    def asks(self, source, as_of) -> dict[str, dict]:
        """Files are asked no queries."""
        return {}

    def unused(self, source, warehouse, as_of) -> tuple[str, ...]:
        """Nothing: what is there and cannot be used is told when it is read."""
        return ()


@dataclass(frozen=True)
class Intake:
    """What a source read: the long frame, the rows it refused, and how many rows each rule took.

    rows: the long frame, or the grids of which it is made when it is asked for. quarantine: file, sheet, row (1-based data row,
    or price_fact_id), column, value (text), reason. facts: tables for the warehouse, keyed by the text series_id, of a source
    that reads a shop's own files; none where the facts are there already.
    lost: the series of which every row was refused, as ``Sieve.lost`` has them. unread: of which series and day a row was
    refused, as ``Sieve.unread`` has them. remarks: what else is to be said. newest: False where the source says more of later
    days, which a run for an earlier date does not know.
    """

    rows: pd.DataFrame | Grids
    quarantine: pd.DataFrame
    counts: dict[str, int]
    facts: dict[str, pa.Table] = field(default_factory=dict)
    lost: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LOST))
    unread: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=UNREAD))
    remarks: tuple[str, ...] = ()
    newest: bool = True

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The long frame: one row a series and period."""
        return self.rows.frame() if isinstance(self.rows, Grids) else self.rows

    def panel(self, freq: str, as_of, *, past=(), future=(), static=(), horizon: int = 0) -> Panel:
        """``panel.build`` of the frame, with the same arguments; daily values are taken from the grids as they are."""
        if isinstance(self.rows, Grids) and freq == "D" and not len(future):
            dense = self.rows.panel(np.datetime64(as_of, "D"), past, static)
            if dense is not None:
                return dense
        return build(self.frame, freq, as_of, past=past, future=future, static=static, horizon=horizon)

    def digest(self, sales: bool) -> str:
        """Hash of the rows, titles left out; of sales also of which periods a row was refused, as they are no zeros."""
        found = hashlib.sha256(pd.util.hash_pandas_object(self.frame.drop(columns="title"), index=False).to_numpy().tobytes())
        if sales and len(self.unread):
            unread = self.unread.drop_duplicates().sort_values(UNREAD).astype(str)
            found.update(pd.util.hash_pandas_object(unread, index=False).to_numpy().tobytes())
        return found.hexdigest()

    def refusal(self) -> str:
        """Where more than ``REFUSED`` of the rows were refused: how many, and the commonest reason with an example; else ''."""
        taken = {rule.removeprefix("quarantined: "): n for rule, n in self.counts.items() if rule.startswith("quarantined: ")}
        refused, read = sum(taken.values()), self.counts.get("rows read", 0)
        if refused <= REFUSED * read:
            return ""
        why = max(taken, key=taken.get)
        example = "".join(
            f"; such as {f'{column} ' if (column := r['column']) else ''}{r['value']!r} in row {r['row']} of {r['file']}"
            for r in self.quarantine[self.quarantine["reason"] == why].head(1).to_dict("records")
        )
        gone = f"; {len(self.lost):,} items have no row left" if len(self.lost) else ""
        return f"{refused:,} of {read:,} rows were refused ({percent(refused / read)}), most often: {why}{example}{gone}"

    def tally(self) -> pd.DataFrame:
        """The counts as a table: rule, count."""
        return pd.DataFrame({"rule": list(self.counts), "count": list(self.counts.values())})

    def reasons(self) -> pd.DataFrame:
        """The quarantined rows by reason: reason, column, rows, an example value; most first."""
        groups = self.quarantine.fillna({"column": ""}).groupby(["reason", "column"], sort=False)
        table = pd.DataFrame({"rows": groups.size(), "example": groups["value"].first()}).reset_index()
        return table.sort_values("rows", ascending=False, kind="stable")


class Sieve:
    """Takes rows out, rule by rule, and remembers each: a row falls to the first rule that it breaks.

    rows: (n,) the numbers under which the quarantine names them, as numpy or Arrow.
    """

    def __init__(self, file: str, rows: np.ndarray | pa.ChunkedArray):
        self.file, self.rows = file, rows
        self.ok = np.ones(len(rows), dtype=bool)
        self.parts: list[pd.DataFrame] = []
        self.counts: dict[str, int] = {}
        self.refused: list[tuple[str, np.ndarray]] = []  # reason, places of the rows: (k,)

    def reject(self, bad: np.ndarray, column: str, values, reason: str) -> None:
        """Quarantine the rows that are ``bad`` (n,) and still there. values: (n,) what stood in the column."""
        bad = bad & self.ok
        if bad.any():
            self.ok &= ~bad
            self.refused.append((reason, np.flatnonzero(bad)))
            self._list(np.flatnonzero(bad), column, values, reason, "quarantined")

    def note(self, bad: np.ndarray, column: str, values, reason: str, what: str) -> None:
        """Write rows into the quarantine file; they go on without that value. Listed are the first ``LISTED``, counted all."""
        self._list(np.flatnonzero(bad), column, values, reason, what, LISTED)

    def _list(self, at: np.ndarray, column: str, values, reason: str, what: str, most: int | None = None) -> None:
        """Quarantine and count rows (k,), at most so many of them by name."""
        key, named = f"{what}: {reason}", at[:most]
        for name, rows in ((key, named), (f"{key}, not listed", at[len(named) :])):
            if len(rows):
                self.counts[name] = self.counts.get(name, 0) + len(rows)
        if len(named):
            arrow = isinstance(values, pa.ChunkedArray)
            cells = values.take(pa.array(named)).to_pylist() if arrow else [values[i] for i in named]
            self.parts.append(
                pd.DataFrame(
                    {
                        "file": self.file,
                        "sheet": None,
                        "row": pd.array(taken(self.rows, named), dtype="Int64"),
                        "column": column,
                        "value": [shown(v) for v in cells],
                        "reason": reason,
                    }
                )
            )

    def drop(self, bad: np.ndarray, why: str) -> None:
        """Leave rows out that are not wrong, only not wanted: counted, not quarantined."""
        bad = bad & self.ok
        self.ok &= ~bad
        self.counts[why] = self.counts.get(why, 0) + int(bad.sum())

    def quarantine(self) -> pd.DataFrame:
        """All that was noted so far, as one quarantine frame."""
        return quarantine(*self.parts)

    def lost(self, ids: np.ndarray, codes: np.ndarray, titles: tuple, kept: np.ndarray, among: Callable) -> pd.DataFrame:
        """The series that were seen and have no row left, a row each: series_id, title, rows (refused), why (what took most).

        ids: (N,) text. codes: (n,) into ids, -1 for none. titles: as ``Cells.grids`` takes text. kept: (n,) bool, the rows that
        are left. among: row numbers (k,) -> (k,) bool, those that a run may know of.
        """
        if not self.refused:
            return pd.DataFrame(columns=LOST)
        at = np.concatenate([rows for _, rows in self.refused])
        why = np.repeat([reason for reason, _ in self.refused], [len(rows) for _, rows in self.refused])
        left = np.zeros(len(ids) + 1, dtype=bool)  # the last one answers for code -1
        left[-1] = True
        left[codes[kept]] = True
        of_lost = among(at) & ~left[codes[at]]
        if not of_lost.any():
            return pd.DataFrame(columns=LOST)
        found = pd.DataFrame({"code": codes[at], "row": at, "why": why})[of_lost]
        size = found.groupby(["code", "why"], as_index=False).size().sort_values("size", ascending=False, kind="stable")
        out = found.groupby("code")["row"].agg(rows="size", last="max")
        title_codes, texts = titles
        named = out.index.to_numpy() if title_codes is None else title_codes[out["last"].to_numpy()]
        out = out.assign(series_id=ids[out.index.to_numpy()], title=texts[named])
        out["why"] = size.drop_duplicates("code").set_index("code")["why"].astype(object)
        return out.sort_values("series_id")[LOST].reset_index(drop=True)

    def unread(self, ids: np.ndarray, codes: np.ndarray, day: np.ndarray) -> pd.DataFrame:
        """Of which series and day a row was refused, where its id and its date could be read: series_id, ts.

        ids: (N,) text. codes: (n,) into ids, -1 for none. day: (n,) datetime64[D], NaT for none.
        """
        at = np.concatenate([np.empty(0, dtype=np.int64), *(rows for _, rows in self.refused)])
        at = at[(codes[at] >= 0) & ~np.isnat(day[at])]
        return pd.DataFrame({"series_id": ids[codes[at]], "ts": day[at].astype("datetime64[ns]")}, columns=UNREAD)


def quarantine(*parts: pd.DataFrame) -> pd.DataFrame:
    """One quarantine frame, in the order of the rows; empty but with its columns when nothing was refused."""
    kinds = {"file": object, "sheet": object, "row": "Int64", "column": object, "value": object, "reason": object}
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    if not parts:
        return empty
    return pd.concat(parts).sort_values(["row", "column", "value"], kind="stable").reset_index(drop=True)[empty.columns]


def shown(value) -> str | None:
    """What the quarantine shows of a value: its text, at most 1,000 characters of it."""
    return None if value is None else str(value)[:1000]


def today() -> date:
    """The latest date that it is anywhere we know of: local or UTC. Only ever a bound on what a source may claim."""
    return max(date.today(), datetime.now(UTC).date())


def as_day(value) -> date:
    """An as-of date in any form that numpy takes. Raises SourceError when it is none."""
    try:
        day = np.datetime64(value, "D").astype(date)
    except ValueError:
        day = None
    if day is None:
        raise SourceError(f"as-of is no date: {value!r}")
    return day


def inside(as_of: date, span: tuple[date, date], where: str) -> None:
    """Raise SourceError unless the as-of date lies within the data."""
    first, last = span
    if not first <= as_of <= last:
        raise SourceError(f"as-of date {as_of} lies outside the data of {where}, which runs from {first} to {last}")


def unit_errors(codes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which prices are UNIT_FACTOR times their series' median or more, or as far below. codes, y: (n,) -> (n,) bool.

    The median is of log prices over the series, so half of the prices would have to be wrong to hide one. NaN is left out.
    """
    out = np.zeros(len(y), dtype=bool)
    if not len(y):
        return out
    n = int(codes.max()) + 1
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.fmin.at(low, codes, y)
    np.fmax.at(high, codes, y)
    wide = high >= low * (UNIT_FACTOR * (1 - 1e-6))  # most series never come near: spare them the sort
    if not wide.any():
        return out
    seen = np.flatnonzero(wide[codes])
    seen = seen[np.isfinite(y[seen]) & (y[seen] > 0)]
    level, code = np.log(y[seen]), codes[seen]
    order = np.lexsort((level, code))
    count = np.bincount(code, minlength=n)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    ranked = np.append(level[order], np.nan)
    middle = np.minimum(start + (count - 1) // 2, len(level)), np.minimum(start + count // 2, len(level))
    median = (ranked[middle[0]] + ranked[middle[1]]) / 2  # (n,)
    bound = math.log(UNIT_FACTOR) - 1e-9
    out[seen] = (np.abs(level - median[code]) >= bound) & (count[code] >= UNIT_EVIDENCE)
    return out


def far(day: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Which dates lie so far before all others that they are slips of the pen: (n,) bool. day: (n,) datetime64[D].

    Among the rows that are ``ok`` (n,) bool, at most one in a thousand, or a single one, and more than ``FAR`` years and twice
    the span of the others before them: a table of all days between would be mostly empty.
    """
    out, at = np.zeros(len(day), dtype=bool), np.flatnonzero(ok)
    few = max(len(at) // 1000, 1)
    if len(at) < UNIT_EVIDENCE + few:
        return out
    days = day[at].astype(np.int64)
    oldest = np.partition(days, few)[few]
    out[at] = days < oldest - max(2 * (int(days.max()) - int(oldest)), int(365 * FAR))
    return out


def disagreeing(values: np.ndarray, beaten: np.ndarray, stays: np.ndarray) -> dict[str, int]:
    """For the counts: how many of the duplicates resolved (k,) held another value than the row that stays. values: (n,)."""
    one, other = values[beaten], values[stays]
    return {"duplicates with another value": int(((one != other) & ~(np.isnan(one) & np.isnan(other))).sum())}


def of_cells(cells: Cells, columns: dict, sieve: Sieve, read: int, notes: dict[str, int], lost: pd.DataFrame) -> Intake:
    """The rows that were kept and the counts. columns: as ``Cells.grids`` takes them. lost: as ``Sieve.lost`` returns it."""
    grids = cells.grids(columns)
    series, days = grids.used()
    counts = {
        "rows read": read,
        **sieve.counts,
        "rows kept": cells.kept,
        **notes,
        "observed": int(np.isfinite(grids.columns["y"]).sum()),
        "series": series,
        "series without a usable row": len(lost),
        "dates": days,
    }
    return Intake(grids, sieve.quarantine(), counts, lost=lost)


def quiet(intake: Intake, freq: str, as_of) -> Intake:
    """The intake with a row of 0 for each period without one, from a series' first row to ``as_of``: nothing was sold then.

    A period of which a row was refused stays without one: what was sold then is not known. Covariates of the new rows are NaN,
    text is the series' own. Raises SourceError when a date is not one of the periods.
    """
    frame, as_of = intake.frame, np.datetime64(as_of, "D")
    day = frame["ts"].to_numpy().astype("datetime64[D]")
    grid = pd.date_range(pd.Timestamp(day.min()), pd.Timestamp(max(day.max(), as_of)), freq=freq).values.astype("datetime64[D]")
    column = np.searchsorted(grid, day)
    off = (column >= len(grid)) | (grid[np.minimum(column, len(grid) - 1)] != day) if len(grid) else np.ones(len(day), bool)
    if off.any():
        row = int(np.flatnonzero(off)[0])
        weekdays = set(pd.DatetimeIndex(day).day_name().str[:3].str.upper())
        fits = f"; all of them would fit freq: W-{min(weekdays)}" if len(weekdays) == 1 else ""
        raise SourceError(
            f"{off.sum()} dates are not the first day of a period of freq {freq!r}, first {day[row]} of series "
            f"{frame['series_id'].iloc[row]!r}: sum sales by period, or set freq (weeks that begin on a Monday are W-MON){fits}"
        )
    series, N, T = frame["series_id"].cat.codes.to_numpy(), len(frame["series_id"].cat.categories), len(grid)
    first, known = np.full(N, T), np.zeros((N, T), dtype=bool)
    np.minimum.at(first, series, column)
    known[series, column] = True
    missing = ~known & (np.arange(T) >= first[:, None]) & (grid <= as_of)  # (N, T)
    at = pd.Index(grid.astype("datetime64[ns]")).get_indexer(intake.unread["ts"])
    of = frame["series_id"].cat.categories.get_indexer(intake.unread["series_id"])
    there, empty = (at >= 0) & (of >= 0), int(missing.sum())
    missing[of[there], at[there]] = False
    refused = empty - int(missing.sum())
    counts = intake.counts | ({"periods with a refused row, not known": refused} if refused else {})
    if not missing.any():
        return replace(intake, counts=counts) if refused else intake
    rows, columns = np.nonzero(missing)
    own, known = np.zeros(N, dtype=np.int64), np.flatnonzero(day <= as_of)
    own[series[known]] = known  # the newest row of each series that the as-of date knows, for its text
    added = frame.iloc[own[rows]].copy()
    added["ts"] = grid[columns].astype("datetime64[ns]")
    added["y"], added["available"] = 0.0, True
    for name in added.columns.difference(["series_id", "ts", "y", "available"]):
        if not isinstance(added[name].dtype, pd.CategoricalDtype):
            added[name] = np.nan
    whole = pd.concat([frame, added], ignore_index=True).sort_values(["series_id", "ts"], kind="stable", ignore_index=True)
    counts |= {"periods without a sale, added as 0": len(added), "observed": int(np.isfinite(whole["y"]).sum())}
    return replace(intake, rows=whole, counts=counts)


def reasons(counts: dict[str, int]) -> str:
    """'412 not a number, 3 negative': what took the rows, largest first."""
    taken = sorted(((n, reason.split(": ", 1)[-1]) for reason, n in counts.items() if n), reverse=True)
    return ", ".join(f"{n} {reason}" for n, reason in taken) or "none of them with a value"
