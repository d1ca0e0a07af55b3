"""The panel: dense arrays, one row a series, one column a period. The only door to data for a model.

Symbols: N series, T periods up to the as-of date, H periods ahead, K past covariates, F future covariates,
S static columns. Ragged series are the normal case: a period without an observation stays a period and holds NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

CHUNK = 1024  # series that are forecast at once
YEAR = {"D": 365, "W": 52, "M": 12, "Q": 4}  # periods in a year, by the frequency's first letter
SEASON = YEAR | {"D": 7}  # periods in a season


@dataclass(frozen=True, eq=False)  # a panel is itself: two of the same numbers are two
class Panel:
    """Everything that was known at ``as_of``, and nothing else.

    ids, titles: (N,) text. dates: (T,) datetime64[D], equally spaced by ``freq``, the last one is ``as_of``.
    y: (N, T) float64, NaN where not observed; float64 because a published price must equal the posted one to the cent.
    available: (N, T) bool. past: (N, T, K), future: (N, T + H, F), static: (N, S) text; their column names beside them.
    """

    ids: np.ndarray
    titles: np.ndarray
    dates: np.ndarray
    freq: str
    y: np.ndarray
    available: np.ndarray
    past: np.ndarray
    future: np.ndarray
    static: np.ndarray
    past_names: tuple[str, ...] = ()
    future_names: tuple[str, ...] = ()
    static_names: tuple[str, ...] = ()

    def __post_init__(self):
        N, T = len(self.ids), len(self.dates)
        ahead = max(self.future.shape[1], T) if self.future.ndim == 3 else T  # T + H, for any H
        wanted = {
            **{"titles": (N,), "y": (N, T), "available": (N, T), "static": (N, len(self.static_names))},
            **{"past": (N, T, len(self.past_names)), "future": (N, ahead, len(self.future_names))},
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"panel.{name} has shape {getattr(self, name).shape}, wanted {shape}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def as_of(self) -> np.datetime64:
        """The last period that anything here may know of."""
        return self.dates[-1]

    @property
    def season(self) -> int:
        """Periods in a season: seven days, 52 weeks, twelve months; 1 where the frequency has none."""
        return SEASON.get(self.freq[:1], 1)

    @property
    def year(self) -> int:
        """Periods in a year, as ``year``."""
        return year(self.freq)

    def horizon_dates(self, horizon: int) -> np.ndarray:
        """The next ``horizon`` periods after ``as_of``: (H,) datetime64[D]. They follow the data, never the clock."""
        return periods(self.dates[-1], horizon + 1, self.freq)[1:]

    def until(self, date) -> Panel:
        """The panel as it was at ``date``: every array cut there. Series keep their rows, so that views align.

        Raises ValueError when ``date`` is not one of the panel's periods.
        """
        at = np.flatnonzero(self.dates == np.datetime64(date, "D"))
        if not len(at):
            raise ValueError(f"as-of {date} is not a period of this panel ({self.dates[0]} to {self.as_of}, freq {self.freq})")
        T, ahead = at[0] + 1, self.future.shape[1] - len(self.dates)
        return replace(
            self,
            dates=self.dates[:T],
            y=self.y[:, :T],
            available=self.available[:, :T],
            past=self.past[:, :T],
            future=self.future[:, : T + ahead],
        )

    def last(self, periods: int) -> Panel:
        """Only the last ``periods`` periods: what a fine-tune of the latest days may see."""
        T = len(self.dates)
        start = max(0, T - periods)
        return replace(
            self,
            dates=self.dates[start:],
            y=self.y[:, start:],
            available=self.available[:, start:],
            past=self.past[:, start:],
            future=self.future[:, start:],
        )

    def take(self, rows) -> Panel:
        """Some of the series: an index or a mask over N."""
        return replace(
            self,
            ids=self.ids[rows],
            titles=self.titles[rows],
            y=self.y[rows],
            available=self.available[rows],
            past=self.past[rows],
            future=self.future[rows],
            static=self.static[rows],
        )

    def sample(self, most: int, seed: int) -> Panel:
        """At most so many of the series, drawn by the seed, in their order; of a larger panel only those that have begun.

        In a replay a series that begins later has its row already: whether it is there must not decide who is drawn.
        """
        return self if len(self) <= most else self.take(self.drawn(most, seed))

    def drawn(self, most: int, seed: int) -> np.ndarray:
        """The rows of ``sample``, rising: (n,) of those that have begun."""
        begun = np.flatnonzero(self.n_obs > 0)
        return np.sort(np.random.default_rng(seed).choice(begun, min(max(most, 1), len(begun)), replace=False))

    def seen(self):
        """The series with any observation, ``CHUNK`` at a time, which bounds memory: their rows, and a panel of them."""
        begun = np.flatnonzero(self.n_obs > 0)
        for i in range(0, len(begun), CHUNK):
            rows = begun[i : i + CHUNK]
            yield rows, self.take(rows)

    @cached_property
    def observed(self) -> np.ndarray:
        """(N, T) bool: where there is an observation."""
        return np.isfinite(self.y)

    @cached_property
    def last_index(self) -> np.ndarray:
        """(N, T) int: at each period the column of the last observation so far, -1 before the first."""
        return last_known(self.observed)

    @cached_property
    def filled(self) -> np.ndarray:
        """(N, T) float64: the last observation carried forward; NaN before the first."""
        return carried(self.y, self.last_index)

    @property
    def last_value(self) -> np.ndarray:
        """(N,) the last observed value, NaN for a series that has none."""
        return self.filled[:, -1]

    @property
    def gap(self) -> np.ndarray:
        """(N,) periods since the last observation: 0 when seen at the as-of date; T when never seen."""
        return np.where(self.last_index[:, -1] >= 0, len(self.dates) - 1 - self.last_index[:, -1], len(self.dates))

    @property
    def n_obs(self) -> np.ndarray:
        """(N,) number of observations."""
        return self.observed.sum(axis=1)

    @property
    def life(self) -> np.ndarray:
        """(N,) periods from the first observation to the as-of date, both counted; 0 for a series never seen."""
        first = np.where(self.observed.any(axis=1), self.observed.argmax(axis=1), len(self.dates))
        return len(self.dates) - first

    def spells(self) -> np.ndarray:
        """Lengths, in periods, of all finished spells of one value; first ones are left out: their start is not known."""
        moved = np.zeros(self.y.shape, dtype=bool)
        moved[:, 1:] = (self.filled[:, 1:] != self.filled[:, :-1]) & np.isfinite(self.filled[:, :-1])
        row, day = np.nonzero(moved)
        return np.diff(day)[np.diff(row) == 0]

    def after(self, date, horizon: int) -> np.ndarray:
        """The truth behind the other door: y of the ``horizon`` periods after ``date``, (N, H), NaN beyond the as-of date.

        For scoring only. Raises ValueError when no period is known after ``date``.
        """
        start = len(self.until(date).dates)
        if start >= len(self.dates):
            raise ValueError(f"nothing is known after {date}, the panel's as-of date")
        known = self.y[:, start : start + horizon]
        return np.pad(known, ((0, 0), (0, horizon - known.shape[1])), constant_values=np.nan)


def last_known(known: np.ndarray) -> np.ndarray:
    """(N, T) bool -> (N, T) int: at each period the column of the last one that is known so far, -1 before the first."""
    return np.maximum.accumulate(np.where(known, np.arange(known.shape[1], dtype=np.int32), np.int32(-1)), axis=1)


def carried(values: np.ndarray, last: np.ndarray | None = None) -> np.ndarray:
    """(N, T): the last known value carried forward, NaN before the first. last: ``last_known`` of it, where it is at hand."""
    last = last_known(np.isfinite(values)) if last is None else last
    out = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    out[last < 0] = np.nan
    return out


def year(freq: str) -> int:
    """Periods of a frequency in a year; 0 where it has none that we know."""
    return YEAR.get(freq[:1], 0)


def periods(start, count: int, freq: str) -> np.ndarray:
    """``count`` periods of a pandas frequency from ``start`` (included when it lies on the grid): (count,) datetime64[D]."""
    if freq == "D":
        return np.datetime64(start, "D") + np.arange(count)
    return pd.date_range(pd.Timestamp(start), periods=count, freq=freq).values.astype("datetime64[D]")


def build(frame: pd.DataFrame, freq: str, as_of, *, past=(), future=(), static=(), horizon: int = 0) -> Panel:
    """Scatter a long frame into a panel: any row order, gaps kept, no pivot.

    frame: one row a series and period, columns series_id, ts (datetime64), y, available, then optional title, ``past``,
    ``future`` and ``static`` columns. Text may be categorical: then no row is hashed. Rows after ``as_of`` are used only for
    ``future`` columns (at most ``horizon`` periods ahead) of series that were seen by then. Series are sorted by id, so that
    the row order of the source does not matter. Where several rows share a series and period the last one wins: sources
    resolve duplicates by their own rule before they come here.

    Raises ValueError on an empty frame, or when a date does not lie on the grid of ``freq``.
    """
    as_of = np.datetime64(as_of, "D")
    day = frame["ts"].to_numpy().astype("datetime64[D]")
    known = day <= as_of
    if not known.any():
        raise ValueError(f"no rows on or before {as_of}: there is nothing to build a panel from")
    dates = _dates(day.min(), as_of, freq)
    grid = np.concatenate([dates, periods(as_of, horizon + 1, freq)[1:]])
    codes, ids = _series(frame["series_id"])
    inside = known  # what comes later is nobody's to know, be it only that a series will begin
    if len(future):
        begun = np.zeros(len(ids), dtype=bool)
        begun[codes[known]] = True
        inside = (day <= grid[-1]) & begun[codes]
    rows = slice(None)  # all of them, as a rule: then nothing is copied
    if not inside.all():
        rows = np.flatnonzero(inside)
        codes, ids = occurring(codes[rows], ids)
    column = _columns(day[rows], day.min(), grid)  # (n,)
    if (off := column < 0).any():
        bad, at = day[rows][off], int(np.flatnonzero(off)[0])
        raise ValueError(
            f"not the first day of a period of freq {freq!r}: {len(bad)} dates, first {bad[0]} of series "
            f"{str(ids[codes[at]])!r}; give one value a period, or set freq (daily values are D)"
        )
    del day, known, inside
    N, T = len(ids), len(dates)
    seen, rows_seen = slice(None), rows
    if (ahead := column >= T).any():
        seen = np.flatnonzero(~ahead)
        rows_seen = seen if isinstance(rows, slice) else rows[seen]
    cell = codes[seen].astype(np.int32 if N * T < 2**31 else np.int64) * T + column[seen]  # of (N, T)

    def scatter(names, width, cell, rows) -> np.ndarray:
        out = np.full((N * width, len(names)), np.nan)
        for k, name in enumerate(names):
            out[:, k][cell] = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)[rows]
        return out.reshape(N, width, len(names))

    available = np.zeros(N * T, dtype=bool)
    available[cell] = frame["available"].to_numpy(dtype=bool)[rows_seen]
    newest = np.zeros(N, dtype=column.dtype)
    np.maximum.at(newest, codes[seen], column[seen])
    at = np.flatnonzero(column[seen] == newest[codes[seen]])
    last_row = np.zeros(N, dtype=np.int64)  # the newest title and static attributes win
    last_row[codes[seen][at]] = at if isinstance(rows_seen, slice) else rows_seen[at]

    def newest_of(name) -> np.ndarray:
        return frame[name].iloc[last_row].astype(object).to_numpy()

    return Panel(
        ids=ids,
        titles=newest_of("title") if "title" in frame else ids,
        dates=dates,
        freq=freq,
        y=scatter(["y"], T, cell, rows_seen)[:, :, 0],
        available=available.reshape(N, T),
        past=scatter(list(past), T, cell, rows_seen),
        future=scatter(list(future), len(grid), codes.astype(np.int64) * len(grid) + column if len(future) else None, rows),
        static=np.column_stack([newest_of(s).astype(str).astype(object) for s in static])
        if len(static)
        else np.empty((N, 0), dtype=object),
        past_names=tuple(past),
        future_names=tuple(future),
        static_names=tuple(static),
    )


def _dates(first: np.datetime64, as_of: np.datetime64, freq: str) -> np.ndarray:
    """(T,) the periods from the first to the as-of date. Raises ValueError where that is none of them."""
    dates = pd.date_range(pd.Timestamp(first), pd.Timestamp(as_of), freq=freq).values.astype("datetime64[D]")
    if not len(dates) or dates[-1] != as_of:
        raise ValueError(
            f"as-of date {as_of} is not on the grid of freq {freq!r} that starts at {first}; give the first day of a period, "
            "or set freq (daily values are D)"
        )
    return dates


def _columns(day: np.ndarray, first: np.datetime64, grid: np.ndarray) -> np.ndarray:
    """Where each day (n,), none before ``first``, stands in the grid: (n,), -1 for a day between two periods."""
    place = np.full(int((grid[-1] - first).astype(int)) + 1, -1, dtype=np.int32)  # day since the first -> column
    place[(grid - first).astype(int)] = np.arange(len(grid))
    return place[(day - first).astype(np.int64)]


def _series(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A column of ids as codes (n,) into the ids that occur (N,), sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return occurring(column.cat.codes.to_numpy(), column.cat.categories.to_numpy(dtype=object))
    codes, ids = pd.factorize(column, sort=True)
    return codes, np.asarray(ids, dtype=object)


def occurring(codes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n,) into ids, as codes into those that occur, sorted."""
    used = np.zeros(len(ids), dtype=bool)
    used[codes] = True
    number = np.zeros(len(used), dtype=np.int32)
    number[used], ids = pd.factorize(ids[used], sort=True)
    if not np.array_equal(number, np.arange(len(number))):  # else they are these numbers already
        codes = number[codes]
    return codes, ids
