"""An Excel file, old or new, as rows of text: measured before it is unpacked, and read without following anything in it.

Rows keep their numbers in Excel. A formula counts by the value that Excel stored with it; without one its cell is at fault.
"""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from datetime import date, datetime

from forecastbook.intake import SourceError

MAX_INFLATED = 256 * 2**20  # bytes of all parts of a workbook together, unpacked
MAX_RATIO, RATIO_FROM = 200, 8 * 2**20  # how far a part of more bytes than RATIO_FROM may have been squeezed
MAX_PARTS = 2_000
MAX_CELLS, MAX_ROWS = 20_000_000, 1_048_576
OLE, ZIP = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"PK\x03\x04"
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
MERGE = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="[A-Z]+(\d+)(?::[A-Z]+(\d+))?"')
FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
NO_VALUE = "formula without a stored value: open the file in Excel and save it"


@dataclass
class Table:
    """Rows of text as they stand in a file: (number, cells), None for an empty cell, no blank rows; the first is the head.

    merged: (first, last) rows of merged cells. faults: (row, column from 0) -> why that cell has no value.
    """

    file: str
    sheet: str | None
    rows: list[tuple[int, list[str | None]]]
    merged: list[tuple[int, int]] = field(default_factory=list)
    faults: dict[tuple[int, int], str] = field(default_factory=dict)
    decimal_comma: bool = False

    @property
    def where(self) -> str:
        return self.file if self.sheet is None else f"{self.file}, sheet {self.sheet!r}"


def is_excel(data: bytes) -> bool:
    """Whether a file begins as Excel's do."""
    return data.startswith((OLE, ZIP))


def read(path: str, data: bytes, sheet: str | None) -> Table:
    """The one sheet that holds data, or the one that is named. Raises SourceError for anything but one plain table."""
    if data.startswith(OLE):
        if ENCRYPTED in data:
            raise SourceError(f"{path} is encrypted: save it without a password")
        tables = _old(path, data)
    elif data.startswith(ZIP):
        tables = _new(path, data)
    else:
        looks = " but a web page" if re.match(rb"\s*(\xef\xbb\xbf)?<(!doctype|html|table)", data, re.IGNORECASE) else ""
        raise SourceError(f"{path} is not really an Excel file{looks}; open it in Excel and save it as .xlsx")
    full = [table for table in tables if table.rows]
    if sheet is not None:
        named = [table for table in tables if table.sheet == sheet]
        if named:
            return named[0]
        if len(full) != 1:
            raise SourceError(f"{path} has no sheet {sheet!r}: it has {_names(tables)}")
    if len(full) > 1:
        raise SourceError(f"{path} has {len(full)} sheets with data, {_names(full)}: name one as source.sheet, or keep one")
    if not full:
        raise SourceError(f"{path} is empty: no sheet of {_names(tables) or 'none'} has data")
    return full[0]


def _names(tables: list[Table]) -> str:
    return ", ".join(repr(table.sheet) for table in tables)


def as_text(value) -> str | None:
    """A cell's value as one would write it: days in ISO form, whole numbers without a point, no blanks around."""
    if value is None:
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e18 else repr(value)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == datetime.min.time() else value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    return str(value).strip() or None


def _add(table: Table, number: int, cells: list[str | None]) -> None:
    while cells and cells[-1] is None:
        cells.pop()
    if cells:
        table.rows.append((number, cells))


# ---- .xlsx -------------------------------------------------------------------------------------------------------------


def _new(path: str, data: bytes) -> list[Table]:
    import openpyxl  # lazily: half a second that no other job needs

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = _scan(path, archive)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that do not matter here
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            tables, budget = [], MAX_CELLS
            for sheet in book.worksheets:
                merged, formulas = found.get(sheet._worksheet_path.lstrip("/"), ([], False))
                tables.append(table := Table(path, sheet.title, [], merged))
                sheet.reset_dimensions()  # a file may say that it is smaller than it is
                for number, row in enumerate(sheet.iter_rows(), 1):
                    budget -= len(row)
                    if budget < 0 or number > MAX_ROWS:
                        raise SourceError(f"{table.where}, row {number}: more cells or rows than a workbook may have")
                    cells = [as_text(cell.value) for cell in row]
                    for at, cell in enumerate(row):
                        if cell.data_type == "e":
                            table.faults[number, at] = "Excel shows an error in this cell"
                    if formulas or any(cells):
                        table.rows.append((number, cells))
                if formulas:
                    _formulas(table, data)
            book.close()
    except SourceError:
        raise
    except Exception as error:  # a stranger's file can break a reader in any way: each is the same answer to its owner
        raise SourceError(f"cannot read {path} as .xlsx: {_line(error)}; open it in Excel and save it again") from error
    return [_trimmed(table) for table in tables]


def _trimmed(table: Table) -> Table:
    """Without blank rows and blank ends of rows; a row with a fault is not blank."""
    faulty = {number for number, _ in table.faults}
    rows, table.rows = table.rows, []
    for number, cells in rows:
        before = len(table.rows)
        _add(table, number, cells)
        if len(table.rows) == before and number in faulty:
            table.rows.append((number, []))
    return table


def _formulas(table: Table, data: bytes) -> None:
    """Enter the formulas that have no stored value among the faults: the second reading of a sheet that has formulas."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=False, keep_links=False)
    sheet = book[table.sheet]
    sheet.reset_dimensions()
    stored = dict(table.rows)
    for number, row in enumerate(sheet.iter_rows(), 1):
        for at, cell in enumerate(row):
            if cell.data_type == "f" and (at >= len(stored.get(number, [])) or stored[number][at] is None):
                table.faults[number, at] = NO_VALUE
    book.close()


def _scan(path: str, archive: zipfile.ZipFile) -> dict[str, tuple[list[tuple[int, int]], bool]]:
    """Refuse what is dangerous before anything is parsed. Returns part of a sheet -> (rows of merged cells, has formulas)."""
    parts = archive.infolist()
    names = {part.filename for part in parts}
    if len(parts) > MAX_PARTS:
        raise SourceError(f"{path}: {len(parts):,} parts in one workbook, wanted at most {MAX_PARTS:,}")
    if any(part.flag_bits & 1 for part in parts):
        raise SourceError(f"{path} is encrypted: save it without a password")
    if (size := sum(part.file_size for part in parts)) > MAX_INFLATED:
        raise SourceError(f"{path} would unpack to {size / 2**20:,.0f} MB, wanted at most {MAX_INFLATED // 2**20} MB")
    for part in parts:
        if part.file_size > RATIO_FROM and part.file_size > MAX_RATIO * max(part.compress_size, 1):
            raise SourceError(
                f"{path} is packed {part.file_size / max(part.compress_size, 1):,.0f}-fold, wanted at most {MAX_RATIO}-fold"
            )
    if not {"[Content_Types].xml", "xl/workbook.xml"} <= names:
        what = "a binary workbook (.xlsb)" if "xl/workbook.bin" in names else "a zip file, but no workbook"
        raise SourceError(f"{path} is not really an .xlsx file: it is {what}; open it in Excel and save it as .xlsx")
    if any(name.lower().endswith("vbaproject.bin") for name in names):
        raise SourceError(f"{path} holds a macro: save it as .xlsx, without macros")
    found = {}
    for part in parts:
        if part.filename.lower().endswith((".xml", ".rels", ".vml")):
            found[part.filename] = _scan_part(path, archive, part)
    return found


def _scan_part(path: str, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> tuple[list[tuple[int, int]], bool]:
    merged, formulas, tail = set(), False, b""
    with archive.open(part) as stream:
        while chunk := stream.read(2**20):
            text = tail + chunk
            if b"\0" in chunk or b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # zeros: XML in UTF-16 could hide one
                raise SourceError(f"{path}: its part {part.filename} declares entities, which no table needs")
            merged |= {(int(a), int(b or a)) for a, b in MERGE.findall(text)}
            formulas = formulas or FORMULA.search(text) is not None
            tail = text[-200:]
    return sorted(merged), formulas


def _line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]


# ---- .xls --------------------------------------------------------------------------------------------------------------


def _old(path: str, data: bytes) -> list[Table]:
    """Old Excel says which cells are merged and what formulas came to, not which cells are formulas."""
    import xlrd  # lazily, like openpyxl

    try:
        with open(os.devnull, "w", encoding="utf-8") as silent:  # it prints its complaints
            book = xlrd.open_workbook(file_contents=data, formatting_info=True, ragged_rows=True, logfile=silent)
        tables = []
        for sheet in book.sheets():
            merged = sorted({(low + 1, high) for low, high, _, _ in sheet.merged_cells})
            tables.append(table := Table(path, sheet.name, [], merged))
            for i in range(sheet.nrows):
                cells = []
                for at, cell in enumerate(sheet.row(i)):
                    if cell.ctype == xlrd.XL_CELL_DATE:
                        cells.append(as_text(xlrd.xldate_as_datetime(cell.value, book.datemode)))
                    elif cell.ctype == xlrd.XL_CELL_ERROR:
                        cells.append(xlrd.error_text_from_code.get(cell.value, "#ERROR!"))
                        table.faults[i + 1, at] = "Excel shows an error in this cell"
                    else:
                        cells.append(as_text(cell.value))
                _add(table, i + 1, cells)
    except Exception as error:  # as above
        if "encrypted" in str(error).lower():
            raise SourceError(f"{path} is encrypted: save it without a password") from error
        raise SourceError(f"cannot read {path} as .xls: {_line(error)}; open it in Excel and save it as .xlsx") from error
    return tables
