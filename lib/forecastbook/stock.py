"""From a snapshot of the stock and all that moved: what was in the shop each day, and what a month in stock says of demand.

A day's stock comes in two forms, and they must not be mixed up. ``walk`` gives the stock at the *end* of a day. What a customer
could have bought on a day is that plus the day's sales: stock at its start and what arrived on it (``offered``), so that a copy
that comes and goes on one day was there. The features of a month are taken from the second.

Symbols: N items, D days, M months, n movements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

PLENTY = 5  # copies in stock from which on more of them say nothing more about demand
FEATURES = (
    "availability",
    "confidence",
    "masked_mean_units",
    "masked_mean_revenue",
    "lost_sales_units",
    "lost_sales_revenue",
)


def walk(snapshot, arrivals, sales, at: int = 0) -> np.ndarray:
    """Stock at the end of each day: (N, D), copies.

    snapshot: (N,) copies at the *start* of day ``at`` (0 .. D; D is the start of the day after the last one). arrivals, sales:
    (N, D) copies. Days from ``at`` on are walked forwards, the days before it backwards; both are the same sum, so a walk from
    any day's own stock is the same walk.
    """
    moved = np.cumsum(np.asarray(arrivals, float) - np.asarray(sales, float), axis=1)  # (N, D)
    before = moved[:, at - 1] if at else np.zeros(len(moved))
    return moved + (np.asarray(snapshot, float) - before)[:, None]


def offered(end, sales) -> np.ndarray:
    """What could be sold on each day: (N, D). end: stock at the end of the day, sales: copies sold on it, (N, D) each."""
    return np.maximum(np.asarray(end, float), 0) + np.asarray(sales, float)


def month_features(stock, sales, price) -> pd.DataFrame:
    """What the days of one month say: a frame of N rows with the columns ``FEATURES``. Every calendar day counts once.

    stock: (N, D) copies that could be sold on each day, see ``offered``: a day is available where it is above 0, and only
    there, so a caller who passes the stock at the end of the day calls a day on which the last copy went unavailable.
    sales: (N, D) copies sold. price: mean price of the month (N,), or daily prices (N, D) or one number; a day whose price is
    not known (NaN, 0) is left out of the mean.

    availability: mean over days of clip(stock, 0, 1). confidence: mean of clip(stock, 0, 5) / 5. masked_mean_units: mean daily
    sales over available days, 0 when there is none. masked_mean_revenue: that times the mean price, in whole money, cut off.
    lost_sales_units and _revenue: days not available times the masked means.
    """
    index = stock.index if isinstance(stock, pd.DataFrame) else None
    stock, sales = np.asarray(stock, float), np.asarray(sales, float)
    if stock.ndim != 2 or stock.shape != sales.shape or not stock.shape[1]:
        raise ValueError(f"stock and sales must both be (items, days), a day at least: {stock.shape}, {sales.shape}")
    mask = stock > 0
    days = mask.sum(axis=1)
    units = np.where(mask, sales, 0).sum(axis=1) / np.maximum(days, 1)
    revenue = np.trunc(units * _mean_price(price, stock.shape))
    lost = stock.shape[1] - days
    columns = (
        np.clip(stock, 0, 1).mean(axis=1),
        np.clip(stock, 0, PLENTY).mean(axis=1) / PLENTY,
        units,
        revenue,
        lost * units,
        lost * revenue,
    )
    return pd.DataFrame(dict(zip(FEATURES, columns, strict=True)), index=index)


def _mean_price(price, shape: tuple[int, int]) -> np.ndarray:
    """One number, (N,) or (N, D) prices -> (N,) means over the prices that are known; 0 where none is."""
    price = np.asarray(price, float)
    if price.ndim < 2:
        price = np.broadcast_to(price, shape[:1])[:, None]
    known = np.isfinite(price) & (price > 0)
    return np.where(known, price, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


@dataclass(frozen=True)
class Movements:
    """All that came and went, in any order. item: (n,) number of the item; day: (n,) datetime64[D]; arrived, sold: (n,) copies;
    revenue: (n,) money of what was sold."""

    item: np.ndarray
    day: np.ndarray
    arrived: np.ndarray
    sold: np.ndarray
    revenue: np.ndarray

    def between(self, first, until) -> Movements:
        """Those of the days ``first`` <= day < ``until``."""
        return self.take((self.day >= np.datetime64(first, "D")) & (self.day < np.datetime64(until, "D")))

    def take(self, rows) -> Movements:
        """Some of them: an index or a mask over n."""
        return Movements(self.item[rows], self.day[rows], self.arrived[rows], self.sold[rows], self.revenue[rows])

    def total(self, values: np.ndarray, items: int) -> np.ndarray:
        """(n,) -> (N,) sums by item."""
        return np.bincount(self.item, values, minlength=items)

    def net(self, items: int) -> np.ndarray:
        """(N,) copies that came minus copies that went."""
        return self.total(self.arrived - self.sold, items)

    def daily(self, first, days: int, items: int) -> tuple[np.ndarray, np.ndarray]:
        """Arrivals and sales of each day from ``first`` on: (N, D) each. All movements must lie in these days."""
        cell = self.item * days + (self.day - np.datetime64(first, "D")).astype(np.int64)
        shape, size = (items, days), items * days
        arrived, sold = (np.bincount(cell, values, minlength=size).reshape(shape) for values in (self.arrived, self.sold))
        return arrived, sold


def item_months(snapshot, cutoff, moves: Movements, months: np.ndarray, until) -> dict[str, np.ndarray]:
    """Month by month what sold and how the stock stood: name -> (N, M), and "closing" (N,), the copies at the end of them.

    snapshot: (N,) copies at the start of the day ``cutoff``, before or after the months. months: (M,) datetime64[M], in a row.
    until: the day after the last one that is known; days from it on do not count, though their month is among ``months``.
    Names: units, revenue, price (mean selling price of the month, else the last one before, NaN until something sold) and
    ``FEATURES``, over the known days of a month. One month of days at a time: memory is linear in items.
    """
    snapshot, until = np.asarray(snapshot, float), np.datetime64(until, "D")
    n = len(snapshot)
    starts = months.astype("datetime64[D]")
    ends = np.minimum((months + 1).astype("datetime64[D]"), until)
    stock = stock_at(snapshot, cutoff, moves, starts[0])
    sold_before = moves.take((moves.day < starts[0]) & (moves.sold > 0))
    price = _last_price(sold_before, n)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("units", "revenue", "price", *FEATURES)}
    for start, end in zip(starts, ends, strict=True):
        now = moves.between(start, end)
        arrived, sold = now.daily(start, int((end - start).astype(int)), n)
        close = walk(stock, arrived, sold)
        units, revenue = now.total(now.sold, n), now.total(now.revenue, n)
        price = np.where(units > 0, revenue / np.maximum(units, 1), price)
        features = month_features(offered(close, sold), sold, price)
        for name, column in {"units": units, "revenue": revenue, "price": price, **features}.items():
            found[name].append(np.asarray(column, float))
        stock = close[:, -1]
    return {name: np.column_stack(columns) for name, columns in found.items()} | {"closing": stock}


def stock_at(snapshot, cutoff, moves: Movements, day) -> np.ndarray:
    """(N,) copies at the start of ``day``: from the snapshot at the start of ``cutoff`` backwards or forwards."""
    day, cutoff, snapshot = np.datetime64(day, "D"), np.datetime64(cutoff, "D"), np.asarray(snapshot, float)
    if day <= cutoff:
        return snapshot - moves.between(day, cutoff).net(len(snapshot))
    return snapshot + moves.between(cutoff, day).net(len(snapshot))


def _last_price(sold: Movements, items: int) -> np.ndarray:
    """(N,) price of the last sale, NaN for what never sold."""
    price = np.full(items, np.nan)
    order = np.argsort(sold.day, kind="stable")
    price[sold.item[order]] = (sold.revenue / np.maximum(sold.sold, 1))[order]  # of several the last one written stays
    return price


def filled(units: np.ndarray, seen: int, missing: int) -> np.ndarray:
    """What a month would have sold, had all its days been seen: units (N,) + round(daily mean of the seen days x missing days).

    Halves are rounded to the even number, as Python's ``round`` does.
    """
    return units + np.rint(units / seen * missing)
