"""What a source read: the long frame, the rows that it refused, and how many rows each rule took.

The rules of one row are the source's own; here is what all sources share: the sieve that remembers each refusal, one cell a
series and day, and the hundredfold slips of the unit that only the rest of a series can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa

UNIT_FACTOR = 100.0  # a price this many times the series' median, or 1/this, is a slip of the unit
UNIT_EVIDENCE = 3  # ... when there are at least so many prices to tell by


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
            cells = values.take(pa.array(at)).to_pylist() if isinstance(values, pa.ChunkedArray) else [values[i] for i in at]
            self.parts.append(
                pd.DataFrame(
                    {
                        "file": self.file,
                        "sheet": None,
                        "row": pd.array(self.rows[at], dtype="Int64"),
                        "column": column,
                        "value": [shown(v) for v in cells],
                        "reason": reason,
                    }
                )
            )
            key = f"{what}: {reason}"
            self.counts[key] = self.counts.get(key, 0) + len(at)

    def drop(self, bad: np.ndarray, why: str) -> None:
        """Leave rows out that are not wrong, only not wanted: counted, not quarantined."""
        bad = bad & self.ok
        self.ok &= ~bad
        self.counts[why] = self.counts.get(why, 0) + int(bad.sum())

    def quarantine(self) -> pd.DataFrame:
        """All that was noted so far, as one quarantine frame."""
        return quarantine(*self.parts)


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
    day = np.datetime64(value, "D").astype(date)
    if day is None:
        raise SourceError(f"as-of is no date: {value!r}")
    return day


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
    suspects = (high - low >= bound)[code]  # most series never come near: skip their sort
    level, code, seen = level[suspects], code[suspects], seen[suspects]
    order = np.lexsort((level, code))
    count = np.bincount(code, minlength=n)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    ranked = np.append(level[order], np.nan)
    middle = np.minimum(start + (count - 1) // 2, len(level)), np.minimum(start + count // 2, len(level))
    median = (ranked[middle[0]] + ranked[middle[1]]) / 2  # (n,)
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
        self.cell = rank[codes[rows]]  # (m,)
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


def long_frame(ids, codes, day, columns: dict, rows: np.ndarray, sieve: Sieve, read: int, notes: dict[str, int]) -> Intake:
    """The long frame of ``rows`` and the counts. columns: name -> (n,), or (codes (n,), texts (N,)) for text."""
    data = {"series_id": ids[codes[rows]], "ts": day[rows].astype("datetime64[ns]")}
    for name in list(columns):
        column = columns.pop(name)  # one at a time: a source can be large
        data[name] = column[1][column[0][rows]] if isinstance(column, tuple) else column[rows]
    frame = pd.DataFrame(data, copy=False)
    seen = np.bincount(codes[rows], minlength=1) > 0
    counts = {
        "rows read": read,
        **sieve.counts,
        "rows kept": len(rows),
        **notes,
        "observed": int(np.isfinite(data["y"]).sum()),
        "series": int(seen.sum()),
        "days": len(pd.unique(frame["ts"])),
    }
    return Intake(frame, sieve.quarantine(), counts)


def mask(rows: np.ndarray, n: int) -> np.ndarray:
    """(k,) row numbers -> (n,) bool."""
    out = np.zeros(n, dtype=bool)
    out[rows] = True
    return out


def reasons(counts: dict[str, int]) -> str:
    """'412 not a number, 3 negative': what took the rows, largest first."""
    taken = sorted(((n, reason.split(": ", 1)[-1]) for reason, n in counts.items() if n), reverse=True)
    return ", ".join(f"{n} {reason}" for n, reason in taken) or "none of them with a value"
