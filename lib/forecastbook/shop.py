"""A record shop's own files: a snapshot of its stock and what it sold, as monthly demand with the stock beside it.

Every read starts from the files, all of them: no month replaces another, and reading twice changes nothing.

**A copy was in the shop from the day it was entered to the day it was sold.** The snapshot's lots are the copies not yet sold
at the start of the cutoff day, so the snapshot, the arrivals and the sales are one story, told forwards or backwards. A copy
sold on or after the cutoff leaves the snapshot; one that the snapshot does not hold was in the shop all the same.

**What an earlier as-of date knows**: rows entered (created) by the end of its month, and of those only the sales by then: later
sales, their prices and what was entered later change no number of it. There is one limit. That a copy entered by then *existed*
is told by the snapshot and by later sales, since nobody kept the older snapshots: a later file that loses such a row loses it
from the earlier stock, from the modes of covers and styles, and from the gap of reissues.

Symbols: N items, M months, n rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from forecastbook import stock, vinyl
from forecastbook.cells import texts
from forecastbook.intake import Intake, Source, SourceError, as_day, inside, reasons, unit_errors
from forecastbook.params import digest
from forecastbook.shoprows import RowSieve, Shop, documents, parsed

log = logging.getLogger(__name__)
WORDS = ("barcode", "artist", "album", "cover_type", "release_type", "release_year", "style")  # cells that stay text


class ShopFiles(Source):
    """Parameters: stock (path), sales (paths, globs or directories), cutoff (day of the snapshot; None = the day after the last
    sale), sheet (of workbooks that have several), fill_last_month, history_months (None = all). Where a job names no files,
    those of a generated shop, written beside the warehouse at the first use.

    An as-of date is the first day of a month, the newest one that its forecasts may know. A month is complete when the day
    after its last one has come: by the cutoff, or by a sale on or after it.
    """

    stores_facts = True

    def there(self, source, warehouse) -> bool:
        """Whether there is anything yet, or only the first run writes it."""
        return source.stock is not None or _home(warehouse).is_dir()

    def span(self, source, warehouse=None) -> tuple[date, date]:
        """The months of the first sale and the last complete one, by their first days."""
        days = self._shop(source, warehouse).months(source.fill_last_month).astype("datetime64[D]")
        return days[0].astype(date), days[-1].astype(date)

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of what a run as of then reads: the format of files, their number and the order of their rows do not count."""
        intake = self.read(source, warehouse, as_of)
        content = hashlib.sha256()
        for frame in (intake.frame, intake.facts["StockNow"].to_pandas()):
            content.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        return digest(
            {
                "as_of": as_day(as_of),
                "content": content.hexdigest(),
                "fill_last_month": source.fill_last_month,
                "history_months": source.history_months,
            }
        )

    def read(self, source, warehouse, as_of) -> Intake:
        """One row an item and month, zero months too, from the month it was entered (or the sales begin) to ``as_of``.

        Static columns: ``vinyl.STATIC``. Past covariates: price (mean selling price of the month, else the last one before,
        NaN until the first sale), price_band (its category, 0 .. 7), availability, confidence, lost_sales (units).
        ``available``: in stock on some day of the month, or sold. Facts: FactSales (series_id, period, units, revenue; months
        with sales, at the newest as-of also the month under way), FactStockMovement (series_id, date, units = arrivals - sales,
        from the first arrival on), FactItemMonth (the frame's months), DimItem (series_id, title, attributes_json) and StockNow
        (series_id, units, price: what the shop holds at the end of what is known, and the latest price).
        """
        shop = self._shop(source, warehouse)
        every = shop.months(source.fill_last_month)
        months = _up_to(every, as_day(as_of))
        newest = len(months) == len(every)
        known = Known(shop, shop.last + 1 if newest else (months[-1] + 1).astype("datetime64[D]"), newest)
        known.take_months(months, source.history_months)
        if not known.cells.any():
            raise SourceError(f"no item was known by the end of {months[-1]}: {reasons(known.sieve.counts)}")
        frame = known.frame()
        counts = {
            "rows read": len(shop.rows),
            **known.sieve.counts,
            "rows kept": int(known.sieve.ok.sum()),
            **shop.notes,
            **known.notes,
            "observed": len(frame),
            "series": len(frame["series_id"].cat.categories),
            "months": len(np.unique(frame["ts"])),
        }
        remarks = (*shop.remarks, *shop.unfinished(source.fill_last_month)) if newest else shop.remarks
        return Intake(frame, known.sieve.quarantine(), counts, known.facts(), remarks=remarks, newest=newest)

    @staticmethod
    def _shop(source, warehouse) -> Shop:
        source = _generated(source, warehouse)
        return parsed(*documents(source), source.sheet, source.cutoff)


def _home(warehouse) -> Path:
    """Where the files of the generated shop are."""
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


def _up_to(months: np.ndarray, as_of: date) -> np.ndarray:
    """The months up to the as-of date, which must be one of them."""
    if as_of.day != 1:
        raise SourceError(f"as-of date {as_of} is not the first day of a month: write {as_of.replace(day=1)}")
    days = months.astype("datetime64[D]")
    inside(as_of, (days[0].astype(date), days[-1].astype(date)), "the shop's files")
    return months[: int((np.datetime64(as_of, "M") - months[0]).astype(int)) + 1]


def _order(rows: pd.DataFrame) -> np.ndarray:
    """(n,) places of the rows by the day they were entered and by what they say, wherever in the files they stand: which of
    two equals counts, and the last bits of a sum, must not depend on that."""
    said = rows[[*WORDS, "is_stock", "price", "recording_year", "created", "sold", "copies"]]
    return np.lexsort((pd.util.hash_pandas_object(said, index=False), rows["created"]))


class Known:
    """What was known of the shop by a day: its items, their movements, their months.

    until: the first day that is not known. newest: whether that is the end of all data: then the snapshot's prices are known.
    """

    def __init__(self, shop: Shop, until: np.datetime64, newest: bool):
        self.shop, self.until, self.newest = shop, until, newest
        self.sieve: RowSieve = shop.sieve.copy()
        self.sieve.drop(shop.rows["created"].to_numpy("datetime64[D]") >= until, "after the as-of date")
        rows = shop.rows[self.sieve.ok]
        lot, sold = rows["is_stock"].to_numpy(), rows["sold"].to_numpy("datetime64[D]") < until  # NaT is not
        rows = rows.assign(price=rows["price"].where(sold | (lot & newest)))  # other prices are of a later day
        rows = rows.iloc[_order(rows)]
        attributes, self.notes = vinyl.clean(rows, newest=(until - 1).astype("datetime64[Y]").astype(int) + 1970)
        self._unit_errors(rows, attributes["series_id"])
        kept = self.sieve.ok[rows.index]
        rows, attributes = rows[kept], attributes[kept]
        self.item, self.ids = pd.factorize(attributes["series_id"], sort=True)  # (n,), (N,)
        self.lot = rows["is_stock"].to_numpy()
        self.created, self.sold = (rows[name].to_numpy("datetime64[D]") for name in ("created", "sold"))
        self.copies, self.price = rows["copies"].to_numpy(float), rows["price"].to_numpy().copy()
        self.price[self.odd[rows.index]] = np.nan
        first = pd.DataFrame({"item": self.item, "created": self.created}).sort_values(["item", "created"], kind="stable")
        self.items = attributes.iloc[first.drop_duplicates("item").index].reset_index(drop=True)  # (N) the first row of each
        self.titles = vinyl.titles(self.items) if len(self.items) else np.empty(0, object)

    def _unit_errors(self, rows: pd.DataFrame, series: pd.Series) -> None:
        """Sales at a hundredfold price, or a hundredth, go to quarantine; a lot that is priced so is a lot all the same."""
        self.odd = np.zeros(len(self.shop.rows), dtype=bool)
        self.odd[rows.index] = unit_errors(pd.factorize(series)[0], rows["price"].to_numpy(float))
        shown, lots = self.shop.rows["price"], self.shop.rows["is_stock"].to_numpy()
        self.sieve.reject(self.odd & ~lots, "price", shown, "unit error?")
        self.sieve.note(self.odd & lots, "price", shown, "unit error?", "price left out")

    @cached_property
    def snapshot(self) -> np.ndarray:
        """(N,) copies at the start of the cutoff day: lots entered before it, and copies sold later that are in none."""
        there = (self.created < self.shop.cutoff) & (self.lot | (self.sold >= self.shop.cutoff))
        return np.bincount(self.item, np.where(there, np.where(self.lot, self.copies, self._unlisted), 0), len(self.ids))

    @cached_property
    def _unlisted(self) -> np.ndarray:
        """(n,) copies of a sold row that no lot of the snapshot holds: all of one sold before the cutoff or entered since; of
        the others those beyond the item's lots, the last sold ones first."""
        held = np.bincount(self.item, np.where(self.lot & (self.created < self.shop.cutoff), self.copies, 0), len(self.ids))
        late = np.flatnonzero(~self.lot & (self.sold >= self.shop.cutoff) & (self.created < self.shop.cutoff))
        late = late[np.lexsort((self.sold[late], self.item[late]))]
        out, item, copies = self.copies.copy(), self.item[late], self.copies[late]
        total = np.cumsum(copies)
        first = np.flatnonzero(np.diff(item, prepend=-1))
        before = total - copies
        before -= np.repeat(before[first], np.diff(np.append(first, len(late))))  # copies of the item sold earlier
        out[late] = copies - np.clip(held[item] - before, 0, copies)
        return out

    @cached_property
    def moves(self) -> stock.Movements:
        """All that came and went of what is known, also after ``until``: a walk back from the snapshot needs it."""
        lot, sold = self.lot, ~self.lot
        came, none, went = np.where(lot, self.copies, self._unlisted), np.zeros(int(sold.sum())), self.copies[sold]
        return stock.Movements(
            item=np.concatenate([self.item, self.item[sold]]),
            day=np.concatenate([self.created, self.sold[sold]]),
            arrived=np.concatenate([came, none]),
            sold=np.concatenate([np.zeros(len(came)), went]),
            revenue=np.concatenate([np.zeros(len(came)), went * self.price[sold]]),
        )

    def take_months(self, months: np.ndarray, history: int | None) -> None:
        """Walk the stock through the months: ``table`` (name -> (N, M)) and ``cells`` (N, M), which of them the frame has.

        A last month that is not over is filled: what its days sold, and as much again for each day that is missing.
        """
        end, n, width = min(self.until, self.shop.end), len(self.ids), len(months)
        self.months, self.periods = months, months.astype("datetime64[D]")
        self.table = table = stock.item_months(self.snapshot, self.shop.cutoff, self.moves, months, end)
        days, missing = (end - self.periods[-1]).astype(int), ((months[-1] + 1).astype("datetime64[D]") - end).astype(int)
        if missing > 0:
            full = stock.filled(table["units"][:, -1], days, missing)
            table["revenue"][:, -1] += (full - table["units"][:, -1]) * np.nan_to_num(table["price"][:, -1])
            table["units"][:, -1] = full
        born = np.full(n, months[-1] + 1)
        np.minimum.at(born, self.item, self.created.astype("datetime64[M]"))
        column = np.maximum((born - months[0]).astype(int), width - (history or width))
        self.cells = np.arange(width) >= column[:, None]  # (N, M)

    def frame(self) -> pd.DataFrame:
        """The long frame, in the order of the items' ids, then of the months."""
        item, month = np.nonzero(self.cells)
        column = {name: values[self.cells] for name, values in self.table.items() if name != "closing"}
        data = {
            "series_id": texts(item, self.ids.to_numpy(object)),
            "ts": self.periods.astype("datetime64[ns]")[month],
            "y": column["units"],
            "available": (column["availability"] > 0) | (column["units"] > 0),
            "title": texts(item, self.titles),
            **{name: texts(item, self.items[name].to_numpy(object)) for name in vinyl.STATIC},
            "price": column["price"],
            "price_band": vinyl.price_band(column["price"]),
            "availability": column["availability"],
            "confidence": column["confidence"],
            "lost_sales": column["lost_sales_units"],
        }
        return pd.DataFrame(data, copy=False)

    def facts(self) -> dict[str, pa.Table]:
        """The tables of the warehouse, by name."""
        item, month = np.nonzero(self.cells)
        features = ("availability", "confidence", "masked_mean_units", "lost_sales_units", "lost_sales_revenue")
        kept = {name: self.table[name][self.cells] for name in features}
        titles = pa.array(self.titles, pa.string())
        return {
            "FactSales": self._sales(),
            "FactStockMovement": self._movements(),
            "FactItemMonth": self._fact(item, "period", self.periods[month], kept),
            "DimItem": self._fact(
                np.arange(len(self.ids)), None, None, {"title": titles, "attributes_json": vinyl.attributes_json(self.items)}
            ),
            "StockNow": self._fact(np.arange(len(self.ids)), None, None, {"units": self._now(), "price": self._latest_price()}),
        }

    def _fact(self, item: np.ndarray, date_name: str | None, days, columns: dict) -> pa.Table:
        dates = {} if date_name is None else {date_name: pa.array(days.astype("datetime64[D]"), pa.date32())}
        return pa.table({"series_id": pa.array(self.ids.to_numpy(object)[item], pa.string()), **dates, **columns})

    def _sales(self) -> pa.Table:
        """Units and revenue by item and month: the months of the table, and what is known of one that is under way."""
        item, month = np.nonzero(self.table["units"] > 0)
        parts = [(item, self.periods[month], self.table["units"][item, month], self.table["revenue"][item, month])]
        later = self.moves.between(self.months[-1] + 1, self.until)
        later = later.take(later.sold > 0)
        if len(later.item):
            keys = {"item": later.item, "period": later.day.astype("datetime64[M]").astype("datetime64[s]")}
            sums = pd.DataFrame(keys | {"units": later.sold, "revenue": later.revenue}).groupby(["item", "period"]).sum()
            parts.append(tuple(column.to_numpy() for _, column in sums.reset_index().items()))
        item, period, units, revenue = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((period, item))
        return self._fact(item[order], "period", period[order], {"units": units[order], "revenue": revenue[order]})

    def _movements(self) -> pa.Table:
        moves = self.moves.take(self.moves.day < self.until)
        keys = {"item": moves.item, "day": moves.day.astype("datetime64[s]")}
        net = pd.DataFrame(keys | {"units": moves.arrived - moves.sold}).groupby(["item", "day"])["units"].sum()
        net = net[net != 0].reset_index()
        return self._fact(net["item"].to_numpy(), "date", net["day"].to_numpy(), {"units": net["units"].to_numpy()})

    def _now(self) -> np.ndarray:
        """(N,) copies at the end of what is known."""
        return stock.stock_at(self.snapshot, self.shop.cutoff, self.moves, self.until)

    def _latest_price(self) -> np.ndarray:
        """(N,) what the newest lot of the snapshot costs where the snapshot is known; else what the last copy sold for."""
        price, sold = np.full(len(self.ids), np.nan), ~self.lot & (self.sold < self.until)
        for rows, day in ((sold, self.sold), (self.lot, self.created)):
            at = np.flatnonzero(rows & np.isfinite(self.price))
            at = at[np.argsort(day[at], kind="stable")]
            price[self.item[at]] = self.price[at]  # of several the last one written stays
        return price
