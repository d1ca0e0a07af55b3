"""What the tests of a shop's files share: real .xlsx, .xls and .csv files of few rows, in the contract's heads."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import openpyxl
import xlwt

from forecastbook.shop import ShopFiles

RUSSIAN = {
    "barcode": "Штрихкод",
    "artist": "Исполнитель",
    "album": "Альбом",
    "cover_type": "Конверт",
    "price": "Цена, руб.",
    "release_type": "Тип",
    "recording_year": "Год записи",
    "release_year": "Год выпуска",
    "style": "Стиль",
    "created_date": "Дата добавления",
    "sold_date": "Дата заказа",
    "count": "Экземпляры",
}
ENGLISH = {
    "barcode": "Barcode",
    "artist": "ARTIST",
    "album": "Album",
    "cover_type": "cover type",
    "price": "Price",
    "release_type": "Type",
    "recording_year": "Recording year",
    "release_year": "Release year",
    "style": "Style",
    "created_date": "Date added",
    "sold_date": "Date sold",
    "count": "Copies",
}
RECORD = {
    "barcode": "4601234567893",
    "artist": "Northern Static",
    "album": "Distance",
    "cover_type": "SS",
    "price": 2000,
    "release_type": "Переиздание",
    "recording_year": 1973,
    "release_year": "1988",
    "style": "Rock",
    "created_date": "01.06.2022",
}


def lot(count=1, created="01.06.2022", **more) -> dict:
    """One row of the stock file."""
    return RECORD | {"created_date": created, "count": count} | more


def sale(sold="10.08.2022", created="01.06.2022", **more) -> dict:
    """One row of a sales file."""
    return RECORD | {"created_date": created, "sold_date": sold} | more


def table(rows: list[dict], heads: dict = RUSSIAN) -> list[list]:
    """The head and the rows, in the order of the first row's columns."""
    return [[heads.get(name, name) for name in rows[0]], *([row[name] for name in rows[0]] for row in rows)]


def xlsx(path: Path, *sheets: list[list], names=("Лист1", "Лист2", "Лист3"), merge: str | None = None) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in zip(names, sheets, strict=False):
        page = book.create_sheet(name)
        for row in rows:
            page.append(row)
        if merge:
            page.merge_cells(merge)
    book.save(path)
    return path


def xls(path: Path, rows: list[list], merge: tuple[int, int, int, int] | None = None) -> Path:
    book = xlwt.Workbook()
    page = book.add_sheet("Лист1")
    day = xlwt.easyxf(num_format_str="DD.MM.YYYY")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if hasattr(value, "year"):
                page.write(i, j, value, day)
            else:
                page.write(i, j, value)
    if merge:
        page.merge(*merge)
    book.save(str(path))
    return path


def text(path: Path, rows: list[list], delimiter=";", encoding="utf-8", end="\r\n") -> Path:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows(rows)
    path.write_bytes(stream.getvalue().encode(encoding))
    return path


def job(stock, *sales, **more) -> SimpleNamespace:
    """The source section of a params file."""
    given = {"kind": "shop_files", "cutoff": None, "sheet": None, "fill_last_month": False, "history_months": None}
    return SimpleNamespace(**given | {"stock": str(stock), "sales": [str(path) for path in sales]} | more)


def shop(directory: Path, lots: list[dict], sales: list[dict], **more) -> SimpleNamespace:
    """A shop of one stock file and one sales file."""
    directory.mkdir(exist_ok=True)
    return job(xlsx(directory / "stock.xlsx", table(lots)), xlsx(directory / "sales.xlsx", table(sales)), **more)


def read(source, as_of=None):
    """What the source gives as of its newest month, or another."""
    return ShopFiles().read(source, None, as_of or ShopFiles().span(source)[1])


def fact(intake, name: str):
    """A table of facts as a frame, without its ids where there is one item only."""
    frame = intake.facts[name].to_pandas()
    return frame.drop(columns="series_id") if frame["series_id"].nunique() == 1 else frame
