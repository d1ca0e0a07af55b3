"""What the commands of Make share: their arguments, the job that is asked for, and where log lines go."""

from __future__ import annotations

import argparse
import datetime as dt
import logging
from functools import cached_property
from pathlib import Path

from forecastbook import jobs
from forecastbook.intake import SourceError, inside, today
from forecastbook.params import Params

log = logging.getLogger("forecastbook")
ROOT = Path(__file__).resolve().parents[2]


def log_to(path: Path | None, label: str) -> None:
    """Send the package's log lines to a file (a kernel's way) or to stderr (``path`` None)."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    handler = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {label} %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every command has: those of a ``Request``."""
    parser.add_argument("--job", required=True)
    parser.add_argument("--as-of", default="")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--warehouse", required=True)
    parser.add_argument("--params", default="", type=str.split, help="overlays, separated by spaces")


class Request:
    """What a command asks for: a job, with its params, source and warehouse, at a date or the newest.

    Each is looked up when it is first wanted, and raises the error of whatever part says no.
    """

    def __init__(self, job: str, as_of: str, out: Path, url: str, overlays: list[str]):
        self.job, self.as_of, self.out, self.url, self.overlays = job, as_of, Path(out), url, overlays

    @cached_property
    def params(self) -> Params:
        return self.load()

    def load(self, tuned: dict | None = None) -> Params:
        """The job's params, with what a tuning chose laid over them. Raises ParamsError for an overlay that is no job."""
        return jobs.load(jobs.path(ROOT / "params", self.job, self.overlays), self.overlays, tuned)

    @property
    def source(self):
        from forecastbook.sources import SOURCES

        return SOURCES[self.params.source.kind]

    @cached_property
    def store(self):
        return connected(self.url, self.out, {"job": self.job})

    @cached_property
    def has_data(self) -> bool:
        """Whether the source holds anything yet; looks, and makes nothing."""
        return self.source.there(self.params.source, self.store)

    @cached_property
    def span(self) -> tuple[dt.date, dt.date]:
        """First and newest day of the source, which loads the sample into an empty embedded warehouse to say so."""
        return self.source.span(self.params.source, self.store)

    @cached_property
    def given(self) -> dt.date | None:
        """The as-of date that was given, None where it is to be the newest."""
        given = jobs.as_of_date(self.as_of) if self.as_of else None
        if given and given > today():
            raise SourceError(f"as-of date {given} lies in the future: a forecast is made as of a day that has been")
        return given

    @cached_property
    def date(self) -> dt.date:
        """The as-of date: the given one, if it lies within the data, or the newest."""
        from forecastbook.sources import begins, newest

        date = self.given or newest(self.span, self.params)
        inside(date, self.span, getattr(self.params.source, "path", self.params.source.kind))
        begins(date, self.span[1], self.params.freq)
        return date


def connected(url: str, out: Path, labels: dict[str, str]):
    """The warehouse behind a url, which must be there if it is a server; files that belong with that lie in ``out``."""
    from forecastbook import warehouse

    found = warehouse.connect(url, labels=labels)
    if not found.embedded:
        found.beside = out
        if not found.exists():  # a misspelt name must not become a new dataset
            raise warehouse.WarehouseError(
                f"{url} does not exist: check PROJECT and DATASET, or make it: make warehouse WAREHOUSE={url}"
            )
    return found
