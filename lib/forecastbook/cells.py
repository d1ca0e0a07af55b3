"""Millions of rows laid out as cells, one a series and day, without sorting or hashing them.

Symbols: n rows, N series, M cells that have a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


class Cells:
    """One cell a series and day, and the row that fills it. Cells are in the order of the series' ids, then of the days.

    ids: (N,) text, each once. codes: (n,) into ids. day: (n,) int32, days since 1970. ok: (n,) bool, the rows that count, all
    with a series and a day. Rows are thrown into an array of all cells, so nothing is sorted; where that would be mostly empty,
    the M cells that have a row are numbered first.
    """

    def __init__(self, ids: np.ndarray, codes: np.ndarray, day: np.ndarray, ok: np.ndarray):
        by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        self.ids, self.by_id = ids[by_id], by_id  # (N,)
        when = day if ok.all() else day[ok]
        self.first, last = (int(when.min()), int(when.max())) if len(when) else (0, 0)
        self.days = last - self.first + 1
        size = len(ids) * self.days
        kind = np.int32 if size < 2**31 - 1 else np.int64
        place = np.empty(len(ids), dtype=kind)  # the first cell of each series
        place[by_id] = np.arange(len(ids)) * self.days
        self.cell = place[codes]  # (n,)
        self.cell += day
        self.cell -= self.first
        self.numbers = None
        if size > 4 * len(ok) + 1_000_000:
            numbers, self.numbers = pd.factorize(self.cell[ok], sort=True)
            self.cell, size = np.empty(len(ok), dtype=np.int32), len(self.numbers)
            self.cell[ok] = numbers
        self.size = size
        self.cell[~ok] = size  # one cell more, for what falls out
        self.filled = np.zeros(size + 1, dtype=bool)
        self.filled[self.cell] = True
        self.filled[size] = False
        self.kept = int(np.count_nonzero(ok))

    def resolve(self, rank=lambda rows: ()) -> tuple[np.ndarray, np.ndarray]:
        """Of rows that share a cell the best stays: highest by ``rank``, then the latest.

        rank: row numbers (m,) -> keys, the first one first, each (m,). Asked only of rows that share their cell.
        Returns the others, and the row that stays for each of them: (k,) row numbers both.
        """
        if np.count_nonzero(self.filled) == self.kept:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        shared = np.bincount(self.cell, minlength=self.size + 1) > 1
        shared[self.size] = False
        rows = np.flatnonzero(shared[self.cell])
        cell = self.cell[rows]
        order = np.lexsort((*reversed(rank(rows)), cell))
        same = cell[order[1:]] == cell[order[:-1]]
        best = np.flatnonzero(np.append(~same, True))  # where in the order each cell ends
        beaten, stays = rows[order[:-1][same]], rows[order[best[np.searchsorted(best, np.flatnonzero(same))]]]
        self.cell[beaten] = self.size
        self.kept -= len(beaten)
        return beaten, stays

    def column(self, values: np.ndarray) -> np.ndarray:
        """What the rows hold (n,), in the order of the cells: (M,), one row a filled cell. Only after ``resolve``."""
        grid = np.empty(self.size + 1, dtype=values.dtype)
        grid[self.cell] = values
        return grid[:-1] if self.kept == self.size else grid[self.filled]

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The series (a number of ``self.ids``) and the day (counted from ``self.first``) of each filled cell: (M,) each."""
        if self.numbers is not None:
            at = self.numbers[np.flatnonzero(self.filled)]
            return at // self.days, at % self.days
        filled = self.filled[:-1].reshape(len(self.ids), self.days)
        series = np.repeat(np.arange(len(self.ids), dtype=np.int32), np.count_nonzero(filled, axis=1))
        day = np.tile(np.arange(self.days, dtype=np.int32), len(self.ids))
        return series, day if self.kept == self.size else day[filled.ravel()]


def chunks(column: pa.ChunkedArray) -> Iterator[tuple[slice, np.ndarray]]:
    """An Arrow column piece by piece, as (rows, numpy array): what is made of a piece stays in the processor's cache."""
    start = 0
    for chunk in column.chunks:
        yield slice(start, start + len(chunk)), chunk.to_numpy(zero_copy_only=False)
        start += len(chunk)


def numbered(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers (n,) as codes (n,) int32 into their distinct values (N,), which rise.

    Numbers that lie close together, as keys and dates do, are looked up in a table: nothing is sorted and nothing is hashed.
    """
    codes, ends = np.empty(len(column), dtype=np.int32), pc.min_max(column).as_py()
    low, width = ends["min"] or 0, (ends["max"] or 0) - (ends["min"] or 0) + 1
    if width > 4 * len(column) + 1_000_000:
        own, distinct = pd.factorize(column.to_numpy(), sort=True)
        return own.astype(np.int32), distinct
    table = np.zeros(width, dtype=np.int32)
    for _, values in chunks(column):
        table[values - low] = 1
    distinct = np.flatnonzero(table) if len(column) else np.empty(0, dtype=np.int64)
    table[distinct] = np.arange(len(distinct))
    for rows, values in chunks(column):
        codes[rows] = table[values - low]
    return codes, distinct + low


def taken(values: np.ndarray | pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """Some rows of a numpy array or of an Arrow column."""
    return values.take(pa.array(rows)).to_numpy() if isinstance(values, pa.ChunkedArray) else values[rows]


def mask(rows: np.ndarray, n: int) -> np.ndarray:
    """(k,) row numbers -> (n,) bool."""
    out = np.zeros(n, dtype=bool)
    out[rows] = True
    return out
