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

from datetime import date

import pandas as pd

from forecastbook.intake import SourceError, today
from forecastbook.longfile import LongFile
from forecastbook.panel import periods
from forecastbook.pricefacts import PriceFacts
from forecastbook.salesfacts import SalesFacts
from forecastbook.shop import ShopFiles
from forecastbook.trades import SALES


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
    "shop_files": ShopFiles(),
    "file": LongFile(),
}
