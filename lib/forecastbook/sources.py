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
from datetime import date
from pathlib import Path

import pandas as pd

from forecastbook.intake import Intake, SourceError, today
from forecastbook.longfile import LongFile
from forecastbook.panel import periods
from forecastbook.pricefacts import PriceFacts
from forecastbook.salesfacts import SalesFacts
from forecastbook.shop import ShopFiles
from forecastbook.trades import SALES

log = logging.getLogger(__name__)


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


SOURCES = {
    "warehouse_prices": PriceFacts(),
    "warehouse_sales": SalesFacts(),
    "shop_files": RecordShop(),
    "file": LongFile(),
}
