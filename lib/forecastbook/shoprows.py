"""The rows of a record shop's files: which files are meant, and every rule of a row that needs no as-of date.

A file that is given twice counts once; rows that are alike are as many copies. A bad file is refused, with all other bad ones,
before anything is used; a bad row is remembered with its file, sheet, row and column.
"""

from __future__ import annotations

import glob
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from forecastbook import shopfile, vinyl
from forecastbook.intake import REFUSED, Sieve, SourceError, reasons, today
from forecastbook.shopfile import Document

log = logging.getLogger(__name__)

SUFFIXES = (".xlsx", ".xls", ".csv")
NEARLY = 0.8  # of the days of a month: then it is likelier over than not
MOST_COPIES = 100_000  # of one row
EARLIEST = np.datetime64("1990-01-01")  # sales before it are slips of the pen: they would stretch every series


class RowSieve(Sieve):
    """A sieve over the rows of several files: the quarantine names each by its own file, sheet, row and head."""

    def __init__(self, where: pd.DataFrame, heads: list[dict[str, str]]):
        super().__init__("", np.arange(len(where)))
        self.where, self.heads = where, heads

    def copy(self) -> RowSieve:
        other = RowSieve(self.where, self.heads)
        other.ok, other.parts, other.counts = self.ok.copy(), list(self.parts), dict(self.counts)
        return other

    def quarantine(self) -> pd.DataFrame:
        found = super().quarantine()
        at = found["row"].to_numpy(dtype=np.int64)
        number = self.where["file_number"].to_numpy()[at]
        found["column"] = [self.heads[k].get(role, role) for k, role in zip(number, found["column"], strict=True)]
        found["file"], found["sheet"] = (self.where[name].to_numpy(dtype=object)[at] for name in ("file", "sheet"))
        return found.assign(row=pd.array(self.where["row"].to_numpy()[at], dtype="Int64"))


@dataclass(frozen=True, eq=False)
class Shop:
    """All rows of all files after the rules that need no as-of date. Never changed: a read works on copies.

    rows: one row a row of the files: is_stock, text cells, price, recording_year, created, sold (NaT in stock), copies.
    cutoff: day of the snapshot. end: the day after the last one that the sales cover. last: the newest day of any row.
    remarks: what else is to be said of the files.
    """

    rows: pd.DataFrame
    sieve: RowSieve
    cutoff: np.datetime64
    end: np.datetime64
    last: np.datetime64
    notes: dict[str, int]
    remarks: tuple[str, ...] = ()

    def months(self, fill: bool) -> np.ndarray:
        """(M,) datetime64[M]: from the month of the first sale to the last complete one, or to the incomplete one to fill."""
        sold = self.rows.loc[self.sieve.ok, "sold"].min()
        first, beyond = np.datetime64(sold, "M"), self.end.astype("datetime64[M]")
        partial = beyond.astype("datetime64[D]") < self.end
        months = np.arange(first, beyond + 1 if fill and partial else beyond)
        if not len(months):
            raise SourceError(
                f"the sales cover no complete month: they run from {np.datetime64(sold, 'D')} to the day before {self.end}; "
                "give source.cutoff if the snapshot is of a later day, or set source.fill_last_month: true"
            )
        return months

    def unfinished(self, fill: bool) -> Iterator[str]:
        """What was sold in a last month that is nearly over and not used, in a sentence; nothing where it is filled."""
        begins = self.end.astype("datetime64[M]")
        days, whole = (day.astype("datetime64[D]") - begins.astype("datetime64[D]") for day in (self.end, begins + 1))
        if not fill and days >= NEARLY * whole:
            sold = self.rows["sold"].to_numpy("datetime64[D]")
            late = int(self.rows["copies"].where(self.sieve.ok & (sold >= begins.astype("datetime64[D]")), 0).sum())
            yield (
                f"{begins} is nearly over and is forecast all the same, as no sale is of its last days: {late:,} copies sold "
                "in it are not used. Where the files cover all of it, source.cutoff says so; source.fill_last_month fills it"
            )


# ---- files -------------------------------------------------------------------------------------------------------------


def documents(source) -> tuple[Document, tuple[Document, ...], int]:
    """The stock file, the sales files in the order of their names as given, and how many of them were given again."""
    stock_path = Path(source.stock).expanduser()
    if not stock_path.is_file():
        what = "is a directory" if stock_path.is_dir() else "does not exist"
        raise SourceError(f"source.stock {stock_path} {what}; a relative path starts at {Path.cwd()}")
    paths, repeated, by_content = {}, 0, {}
    for text in source.sales:
        for path in _matching(text, stock_path):
            if paths.setdefault(path.resolve(), path) is not path:
                repeated += 1
                log.info("%s is given twice: it counts once", path)
    for path in paths.values():
        doc = shopfile.document(path)
        if (same := by_content.setdefault(doc.digest, doc)) is not doc:
            repeated += 1
            log.info("%s is the same file as %s: it counts once", path, same.path)
    return shopfile.document(stock_path), tuple(by_content.values()), repeated


def _matching(text: str, stock_path: Path) -> list[Path]:
    """The files of one entry of source.sales: a path, a directory, a pattern. Excel's lock files and the stock are no sales."""
    path = Path(text).expanduser()
    if path.is_file():
        return [path]
    pattern = str(path / "*") if path.is_dir() else str(path)
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    found = [p for p in found if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(("~$", "."))]
    found = [p for p in found if p.resolve() != stock_path.resolve()]
    if not found:
        raise SourceError(f"source.sales {text} matches no .xlsx, .xls or .csv file; a relative path starts at {Path.cwd()}")
    return found


@lru_cache(maxsize=2)  # a run asks for the span, the fingerprint and the data of the same files
def parsed(
    stock_file: Document, sales_files: tuple[Document, ...], repeated: int, sheet: str | None, cutoff: str | None
) -> Shop:
    """The shop of these files. cutoff: a day as text, None for that after the last sale. Raises SourceError for bad files."""
    sheets, refused = [], []
    for doc, kind in [(stock_file, "stock"), *((doc, "sales") for doc in sales_files)]:
        try:
            sheets.append(shopfile.load(doc, kind, sheet))
        except SourceError as error:
            refused.append(str(error))  # said below, with all others: one answer for all bad files
    if refused:
        raise SourceError(" | ".join(refused[:5]) + (f" | and {len(refused) - 5} more files" if len(refused) > 5 else ""))
    read, sheets = len(sheets), _with_rows(sheets)
    _warn_of_twins(sheets[1:])
    rows, sieve = _rows(sheets)
    notes = {"files read": read, "files given again": repeated} | _rules(rows, sieve)
    sold = rows.loc[sieve.ok, "sold"].to_numpy("datetime64[D]")
    if not (sieve.ok & rows["is_stock"].to_numpy()).any():  # or all that was ever sold would have been sold out since
        raise SourceError(
            f"the stock file has no usable row of {rows['is_stock'].sum()}; of all files: {reasons(sieve.counts)}"
        )
    if np.isnat(sold).all():
        raise SourceError(f"the sales files have no usable row: {len(rows)} rows read, {reasons(sieve.counts)}")
    after = np.nanmax(sold) + 1
    day = after if cutoff is None else vinyl.day(cutoff)
    if np.isnat(day) or day > np.datetime64(today()) + 1:
        raise SourceError(f"source.cutoff {cutoff!r} is no day up to today: wanted 2022-09-30, 30.09.2022 or 30-09-2022")
    silent = _silent_months(sold, max(day, after))
    notes["months without any sale"] = len(silent)
    if silent:
        log.warning("nothing at all was sold in %s: is a sales file missing?", ", ".join(silent[:12]))
    late = sold >= day
    if late.any():
        log.info("%d sales on or after the cutoff %s: they leave the snapshot", late.sum(), day)
    end = max(day, after)
    last = max(end - 1, rows.loc[sieve.ok, "created"].to_numpy("datetime64[D]").max())
    return Shop(rows, sieve, day, end, last, notes, tuple(_poor(rows, sieve)))


def _poor(rows: pd.DataFrame, sieve: RowSieve) -> Iterator[str]:
    """Of which files more than ``REFUSED`` of the rows cannot be used, a sentence each: among all rows it may not show."""
    for file, used in pd.Series(sieve.ok).groupby(rows["file"].to_numpy(object), sort=False):
        if 1 - used.mean() > REFUSED:
            yield f"{(~used).sum():,} of the {len(used):,} rows of {file} were refused: the quarantine says why, row by row"


def _silent_months(sold: np.ndarray, end: np.datetime64) -> list[str]:
    """Whole months between the first sale and ``end`` in which the shop sold nothing at all. sold: (n,) days, NaT in stock."""
    months = sold[~np.isnat(sold)].astype("datetime64[M]")
    return np.setdiff1d(np.arange(months.min(), end.astype("datetime64[M]")), months).astype(str).tolist()


def _with_rows(sheets: list[shopfile.Sheet]) -> list[shopfile.Sheet]:
    """Those that hold rows: a file of sales may hold heads alone, which is said."""
    for sheet in sheets:
        if not len(sheet.row):
            log.warning("%s has heads and no sales below them: is it meant to be empty?", sheet.file)
    return [sheet for sheet in sheets if len(sheet.row)]


def _warn_of_twins(sheets: list[shopfile.Sheet]) -> None:
    """Two files with the same rows in other bytes are one export saved twice, or a strange chance: say so, and count both."""
    seen: dict[str, str] = {}
    for sheet in sheets:
        text = repr([sheet.cells[role].tolist() for role in shopfile.NEEDED["sales"]])
        other = seen.setdefault(hashlib.sha256(text.encode()).hexdigest(), sheet.file)
        if other != sheet.file:
            log.warning("%s holds the same %d rows as %s: both count; remove one if it is the same export", sheet.file,
                        len(sheet.row), other)  # fmt: skip


def _rows(sheets: list[shopfile.Sheet]) -> tuple[pd.DataFrame, RowSieve]:
    """All rows of all files in one table, and the sieve that knows where each stands."""
    parts = []
    for number, sheet in enumerate(sheets):
        cells = {role: sheet.cells.get(role, np.full(len(sheet.row), None)) for role in shopfile.HEADS}
        place = {"file_number": number, "file": sheet.file, "sheet": sheet.sheet, "row": sheet.row, "comma": sheet.comma}
        parts.append(pd.DataFrame(cells, dtype=object).assign(**place, is_stock=number == 0))
    rows = pd.concat(parts, ignore_index=True)
    sieve = RowSieve(rows[["file_number", "file", "sheet", "row"]], [sheet.heads for sheet in sheets])
    start = np.cumsum([0, *(len(sheet.row) for sheet in sheets)])
    by_reason: dict[tuple[str | None, str], dict[int, str | None]] = {}
    for first, sheet in zip(start, sheets, strict=False):
        for at, head, value, why in sheet.faults:
            by_reason.setdefault((head, why), {})[first + at] = value
    for (head, why), found in by_reason.items():
        bad, shown = np.zeros(len(rows), dtype=bool), np.full(len(rows), None, dtype=object)
        bad[list(found)] = True
        shown[list(found)] = list(found.values())
        sieve.reject(bad, head, shown, why)
    return rows, sieve


def _american(texts: pd.Series, files: pd.Series) -> np.ndarray:
    """(n,) bool: dates with a slash that may begin with day or month, in a file whose others begin with the month as a rule.

    Dates are read day first, so that they would be taken for another day unseen.
    """
    parts = texts.astype("string").str.extract(r"^\s*(\d{1,2})/(\d{1,2})/\d").astype("Int64")
    first, second = (parts[k].fillna(0).to_numpy(int) for k in (0, 1))
    both = (first > 0) & (first <= 12) & (second <= 12) & (first != second)
    leaning = pd.Series(((second > 12) & (first <= 12)).astype(int) - (first > 12)).groupby(files.to_numpy()).transform("sum")
    return both & (leaning > 1).to_numpy()  # one may be a slip


def _rules(rows: pd.DataFrame, sieve: RowSieve) -> dict[str, int]:
    """Every rule of one row. Adds the columns created, sold, copies and makes price and recording_year numbers."""
    stocked = rows["is_stock"].to_numpy()
    for name in ("artist", "album"):
        _missing(rows, sieve, name)
    price = _price(rows, sieve)
    _missing(rows, sieve, "recording_year")
    year = vinyl.each(rows["recording_year"], lambda t: vinyl.recording_year(t or ""), float)
    sieve.reject(np.isnan(year), "recording_year", rows["recording_year"], "not a year")
    sieve.reject(year > today().year, "recording_year", rows["recording_year"], "year in the future")
    created = _day(rows, sieve, "created_date", np.datetime64("1900-01-01"), True)
    sold = _day(rows, sieve, "sold_date", EARLIEST, ~stocked)
    copies = _copies(rows, sieve, stocked)
    ok = sieve.ok
    swapped = ok & ~stocked & (created > sold)
    rows["price"], rows["recording_year"] = price, year
    rows["created"] = np.where(swapped, sold, created).astype("datetime64[s]")
    rows["sold"] = np.where(stocked, np.datetime64("NaT"), sold).astype("datetime64[s]")
    rows["copies"] = np.where(ok, copies, 0).astype(np.int64)
    return {
        "stock rows": int((ok & stocked).sum()),
        "sold rows": int((ok & ~stocked).sum()),
        "created after sold: taken as the day sold": int(swapped.sum()),
    }


def _missing(rows: pd.DataFrame, sieve: RowSieve, name: str, among=True) -> None:
    sieve.reject(pd.isna(rows[name]).to_numpy() & among, name, rows[name], f"missing {name}")


def _price(rows: pd.DataFrame, sieve: RowSieve) -> np.ndarray:
    """(n,) the price of each row."""
    _missing(rows, sieve, "price")
    commas, price = rows["comma"].to_numpy(), np.full(len(rows), np.nan)
    unclear = np.zeros(len(rows), dtype=bool)
    for comma in (True, False):
        at = commas == comma
        price[at] = vinyl.each(rows["price"][at], lambda t, c=comma: vinyl.number(t or "", c), float)
        unclear[at] = vinyl.each(rows["price"][at], lambda t, c=comma: vinyl.ambiguous(t or "", c), bool)
    typed = commas & pd.isna(rows["sheet"]).to_numpy()  # in a CSV 1.500 is written by hand too; in Excel it is a number
    unclear[typed] |= vinyl.each(rows["price"][typed], lambda t: vinyl.ambiguous((t or "").replace(".", ",")), bool)
    sieve.reject(unclear, "price", rows["price"], "ambiguous: a decimal comma, or one between thousands?")
    sieve.reject(np.isnan(price), "price", rows["price"], "not a number")
    sieve.reject(np.isinf(price), "price", rows["price"], "not finite")
    sieve.reject(price < 0, "price", rows["price"], "negative")
    sieve.reject(price == 0, "price", rows["price"], "zero price")
    return price


def _day(rows: pd.DataFrame, sieve: RowSieve, name: str, first: np.datetime64, among) -> np.ndarray:
    """(n,) the day that a column names, not before ``first``. among: the rows that need one."""
    day = vinyl.each(rows[name], lambda t: vinyl.day(t or ""), "datetime64[D]")
    _missing(rows, sieve, name, among)
    unclear = _american(rows[name], sieve.where["file_number"])
    why = "ambiguous date: others of this file begin with the month; write 2025-10-24"
    sieve.reject(unclear & among, name, rows[name], why)
    sieve.reject((np.isnat(day) | (day < first)) & among, name, rows[name], "impossible date")
    sieve.reject((day > np.datetime64(today())) & among, name, rows[name], "date in the future")
    return day


def _copies(rows: pd.DataFrame, sieve: RowSieve, stocked: np.ndarray) -> np.ndarray:
    """(n,) how many copies a row is of: one, where it does not say."""
    _missing(rows, sieve, "count", stocked)
    copies = vinyl.each(rows["count"], lambda t: vinyl.number(t or "1", True), float)
    sieve.reject(np.isnan(copies), "count", rows["count"], "not a number")
    sieve.reject(copies < 0, "count", rows["count"], "negative")
    sieve.reject(copies != np.floor(copies), "count", rows["count"], "not a whole number")
    sieve.reject(copies > MOST_COPIES, "count", rows["count"], "too many copies")
    return copies
