"""Millions of rows laid out as cells, one a series and day, without sorting or hashing them.

Symbols: n rows, N series, D days from the first row to the last, M cells that have a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from forecastbook.panel import Panel, occurring, periods


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

    def resolve(self, rank) -> tuple[np.ndarray, np.ndarray]:
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

    def grid(self, values: np.ndarray | pa.ChunkedArray) -> np.ndarray:
        """What the rows hold (n,), thrown into the cells: (size,), NaN or zero where there is no row. After ``resolve``."""
        kind = values.dtype if isinstance(values, np.ndarray) else np.dtype(values.type.to_pandas_dtype())
        out = np.full(self.size + 1, np.nan if kind.kind == "f" else 0, dtype=kind)
        for rows, part in [(slice(None), values)] if isinstance(values, np.ndarray) else chunks(values):
            out[self.cell[rows]] = part
        return out[:-1]

    def grids(self, columns: dict) -> Grids:
        """All columns thrown.

        columns: name -> (n,) values, or for text (codes (n,), texts (M,)), or (None, texts (N,)): one a series, in the order
        of the codes that the cells were made from.
        """

        def thrown(column):
            if not isinstance(column, tuple):
                return self.grid(column)
            codes, values = column
            return (None, values[self.by_id]) if codes is None else (self.grid(codes), values)

        columns = dict(zip(columns, side_by_side(thrown, columns.values()), strict=True))
        return Grids(self.ids, self.first, self.days, self.filled[:-1], self.numbers, columns)


@dataclass(frozen=True)
class Grids:
    """What a source read, one cell a series and day: long or dense, whichever is asked for.

    ids: (N,) text, in order. first: days since 1970. filled: (size,) bool, the cells that have a row; a cell is
    series * D + day, or the number of that in ``numbers`` (M,), where most would be empty. columns: name -> (size,), or of
    text (codes (size,), texts), or (None, texts (N,)).
    """

    ids: np.ndarray
    first: int
    days: int
    filled: np.ndarray
    numbers: np.ndarray | None
    columns: dict

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The series (a number of ``ids``) and the day (counted from the first) of each filled cell: (M,) each."""
        if self.numbers is not None:
            at = self.numbers[self.filled]
            return at // self.days, at % self.days
        filled = self.filled.reshape(len(self.ids), self.days)
        series = np.repeat(np.arange(len(self.ids), dtype=np.int32), np.count_nonzero(filled, axis=1))
        return series, self._of_rows(np.tile(np.arange(self.days, dtype=np.int32), len(self.ids)))

    def used(self) -> tuple[int, int]:
        """How many series and how many days have a row."""
        if self.numbers is not None:
            return tuple(len(np.unique(axis)) for axis in self.axes())
        filled = self.filled.reshape(len(self.ids), self.days)
        return int(filled.any(axis=1).sum()), int(filled.any(axis=0).sum())

    def frame(self) -> pd.DataFrame:
        """One row a filled cell, by series and day: series_id, ts, then the columns; text is categorical."""
        series, day = self.axes()
        calendar = (self.first + np.arange(self.days)).astype("datetime64[D]").astype("datetime64[ns]")
        data = {"series_id": texts(series, self.ids), "ts": calendar[day]}
        del day
        for name, column in self.columns.items():
            if isinstance(column, tuple):
                codes, values = column
                data[name] = texts(series if codes is None else self._of_rows(codes), values)
            else:
                data[name] = self._of_rows(column)
        return pd.DataFrame(data, copy=False)

    def panel(self, as_of: np.datetime64, past=(), static=()) -> Panel | None:
        """The daily panel that ``panel.build`` would make of the frame, without making one; None where it cannot be cut so.

        That is where most cells are empty, or where there are rows after the as-of date.
        """
        ahead = int(as_of.astype("datetime64[D]").astype(int)) - (self.first + self.days - 1)
        if self.numbers is not None or ahead < 0:
            return None
        filled = self.filled.reshape(len(self.ids), self.days)
        there = filled.any(axis=1)
        rows = slice(None) if there.all() else there
        newest = self.days - 1 - filled[rows, ::-1].argmax(axis=1)  # (N,) each series' last row: its texts count

        def dense(name: str) -> np.ndarray:  # (N, T)
            grid = self.columns[name].reshape(filled.shape)[rows]
            if not ahead:
                return grid
            return np.pad(grid, ((0, 0), (0, ahead)), constant_values=np.nan if grid.dtype.kind == "f" else 0)

        def said(name: str) -> np.ndarray:  # (N,)
            codes, values = self.columns[name]
            if codes is None:
                return values[rows]
            return values[np.take_along_axis(codes.reshape(filled.shape)[rows], newest[:, None], axis=1)[:, 0]]

        N, T = len(newest), self.days + ahead
        covariates = [dense(name)[..., None] for name in past]
        labels = [said(name).astype(str).astype(object)[:, None] for name in static]
        return Panel(
            ids=self.ids[rows],
            titles=said("title") if "title" in self.columns else self.ids[rows],
            dates=periods(np.datetime64(self.first, "D"), T, "D"),
            freq="D",
            y=dense("y"),
            available=dense("available"),
            past=covariates[0] if len(covariates) == 1 else np.concatenate([np.empty((N, T, 0)), *covariates], axis=2),
            future=np.empty((N, T, 0)),
            static=np.concatenate([np.empty((N, 0), dtype=object), *labels], axis=1),
            past_names=tuple(past),
            static_names=tuple(static),
        )

    def _of_rows(self, grid: np.ndarray) -> np.ndarray:
        """What the filled cells hold, a copy: (M,)."""
        return grid.copy() if self.filled.all() else grid[self.filled]


def texts(codes: np.ndarray, values: np.ndarray) -> pd.Categorical:
    """Text (n,) as codes into values (N,), which may repeat: a category for each that occurs, in the order of the alphabet.

    Millions of rows then cost a small number each, nobody hashes them again, and a parquet file still holds plain text.
    """
    codes, categories = occurring(codes, values)
    return pd.Categorical.from_codes(codes, categories=categories, validate=False)


def side_by_side(work, things) -> list:
    """What ``work`` makes of each thing, two at a time: numpy does most of it outside of Python's lock."""
    with ThreadPoolExecutor(2) as hands:
        return list(hands.map(work, things))


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
