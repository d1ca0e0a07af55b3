"""One file of a shop, Excel or CSV: its columns as text, each row with the number under which its reader sees it.

A file is a stranger's. Its kind is told by its content, not by its name; it is measured before it is unpacked; no macro, entity
or link of it is followed. What cannot be read as one plain table is refused whole, and says where. A single cell that Excel has
no value for is a fault of its row.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from forecastbook import workbook
from forecastbook.intake import SourceError
from forecastbook.workbook import Table

# Role of a column -> its heads, as compared by ``_plain``; the first two are the ones that messages name, and where a file has
# one of them beside another head of the role (Style beside Genre) it is the one that counts.
HEADS = {
    "barcode": ("Штрихкод", "Barcode", "Штрих-код", "EAN", "UPC"),
    "artist": ("Исполнитель", "Artist"),
    "album": ("Альбом", "Album"),
    "cover_type": ("Конверт", "Cover", "Cover type", "Sleeve"),
    "price": ("Цена, руб.", "Price", "Цена", "Price, rub."),
    "release_type": ("Тип", "Type", "Release type"),
    "recording_year": ("Год записи", "Recording year", "Year recorded", "Year of recording"),
    "release_year": ("Год выпуска", "Release year", "Year released", "Year of release"),
    "style": ("Стиль", "Style", "Genre"),
    "created_date": ("Дата создания", "Date created", "Дата добавления", "Date added", "Created date", "Created", "Added"),
    "sold_date": ("Дата заказа", "Order date", "Дата продажи", "Date sold", "Sold date", "Sale date", "Date ordered", "Sold"),
    "count": ("Экземпляры", "Copies", "Count", "Quantity", "Qty", "Количество", "Кол-во"),
}
RECORD = tuple(HEADS)[:10]
NEEDED = {"stock": (*RECORD, "count"), "sales": (*RECORD, "sold_date")}
OPTIONAL = {"stock": (), "sales": ("count",)}  # copies of one sold row; a row is one copy where there is no such column
MAX_FILE = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Document:
    """A file's content, held by its hash: two documents are the same when name and content are."""

    path: str
    digest: str
    data: bytes = field(compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Sheet:
    """The rows of one file that are not blank, n of them.

    file, sheet: where it stands; sheet is None for a CSV. row: (n,) the row in Excel, or the line of the text. cells: role ->
    (n,) text, None where empty. heads: role -> the head as it is written. comma: whether a lone comma is a decimal one.
    faults: (position, head or None, what stood there, why) of rows that cannot be used.
    """

    file: str
    sheet: str | None
    row: np.ndarray
    cells: dict[str, np.ndarray]
    heads: dict[str, str]
    comma: bool
    faults: list[tuple[int, str | None, str | None, str]]


def document(path: Path) -> Document:
    """The content of a file. Raises SourceError for what is no file, empty or too large."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise SourceError(f"{path}: {size / 2**20:.0f} MB, wanted at most {MAX_FILE // 2**20} MB")
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if not data.strip():
        raise SourceError(f"{path} is empty: wanted a head and rows")
    return Document(str(path), hashlib.sha256(data).hexdigest(), data)


def load(doc: Document, kind: str, sheet: str | None = None) -> Sheet:
    """A file of ``kind`` "stock" or "sales" as a checked table.

    sheet: which one, of an Excel file with several. Raises SourceError with file, sheet, row and column for a bad file.
    """
    suffix = Path(doc.path).suffix.lower()
    if suffix not in (".xlsx", ".xls", ".csv"):
        raise SourceError(f"{doc.path}: wanted an .xlsx, .xls or .csv file, not {suffix or 'a name without ending'}")
    table = _csv(doc) if suffix == ".csv" else workbook.read(doc.path, doc.data, sheet)
    where = table.where
    if not table.rows:
        raise SourceError(f"{where} is empty: wanted a head and rows")
    number, head = table.rows[0]
    if any(first <= number <= last for first, last in table.merged):
        raise SourceError(f"{where}, row {number}: merged cells in the head row; unmerge them, one head a column")
    if len(table.rows) == 1 and kind == "stock":  # a month in which nothing was sold is a file of sales all the same
        raise SourceError(f"{where} has a head in row {number} and no rows below it")
    columns = _columns(f"{where}, row {number}", head, kind)
    return _sheet(doc.path, table, columns)


def _sheet(path: str, table: Table, columns: dict[str, int]) -> Sheet:
    """The wanted columns of the rows below the head, and what is wrong with a row as a whole."""
    head, body = table.rows[0][1], table.rows[1:]
    heads = {role: head[at] or "" for role, at in columns.items()}
    cells = {role: np.empty(len(body), dtype=object) for role in columns}
    faults, text_file = [], table.sheet is None  # there a row has as many cells as its head; an Excel row just ends
    for i, (number, row) in enumerate(body):
        if text_file and len(row) != len(head):
            faults.append((i, None, ",".join(c or "" for c in row), f"row has {len(row)} cells, wanted {len(head)}"))
        elif any(first <= number <= last for first, last in table.merged):
            faults.append((i, None, next((c for c in row if c), None), "merged cells: unmerge them"))
        for role, at in columns.items():
            text = row[at] if at < len(row) else None
            cells[role][i] = text
            if (why := table.faults.get((number, at))) is not None:
                faults.append((i, heads[role], text, why))
    comma = table.decimal_comma or any(re.search("[а-яё]", head, re.IGNORECASE) for head in heads.values())
    return Sheet(path, table.sheet, np.array([number for number, _ in body]), cells, heads, comma, faults)


# ---- heads -------------------------------------------------------------------------------------------------------------


def _plain(head: str | None) -> str:
    """A head as it is compared: case, spaces, underscores and punctuation make no difference."""
    return " ".join(re.sub(r"[\W_]+", " ", (head or "").replace("ё", "е")).casefold().split())


ROLE = {_plain(head): role for role, heads in HEADS.items() for head in (role, *heads)}


def known(heads: list[str | None]) -> int:
    """How many of the heads are ones that a shop's file may have."""
    return len({ROLE[name] for name in map(_plain, heads) if name in ROLE})


def _columns(where: str, head: list[str | None], kind: str) -> dict[str, int]:
    """Role -> place of its column. Raises SourceError that lists all that are missing, or there twice, at once."""
    places: dict[str, list[int]] = {}
    for at, name in enumerate(head):
        if (role := ROLE.get(_plain(name))) is not None:
            places.setdefault(role, []).append(at)
    for role, at in places.items():
        leading = [i for i in at if _plain(head[i]) in map(_plain, HEADS[role][:2])]
        places[role] = leading if len(leading) == 1 else at
    spare = {_plain(name): name for name in head if _plain(name) and _plain(name) not in ROLE}
    faults = []
    for role in (*NEEDED[kind], *OPTIONAL[kind]):
        if role in places and len(places[role]) > 1:
            faults.append(f"more than one column for {role}: {', '.join(repr(head[at]) for at in places[role])}")
        elif role not in places and role in NEEDED[kind]:
            native, english = HEADS[role][:2]
            near = difflib.get_close_matches(_plain(native), spare, n=1, cutoff=0.6)
            near = near or difflib.get_close_matches(_plain(english), spare, n=1, cutoff=0.6)
            hint = f"; nearest: {spare[near[0]]!r}" if near else ""
            faults.append(f"no column for {role} ({native!r} or {english!r}{hint})")
    if faults:
        there = ", ".join(str(name) for name in head if name)
        raise SourceError(f"{where}: {'; '.join(faults)}. A {kind} file was wanted; it has {there[:500]}")
    return {role: places[role][0] for role in (*NEEDED[kind], *OPTIONAL[kind]) if role in places}


# ---- csv ---------------------------------------------------------------------------------------------------------------


def _csv(doc: Document) -> Table:
    text = _decode(doc)
    lines = text.splitlines(keepends=True)
    skipped = 0
    if lines and (sep := re.fullmatch(r"sep=(.)\s*", lines[0], re.IGNORECASE)):  # Excel's own way to name the delimiter
        delimiter, skipped = sep[1], 1
    else:
        first = next((line for line in lines if line.strip()), "")
        heads = {d: next(csv.reader([first], delimiter=d), []) for d in (";", ",", "\t")}
        delimiter = max(heads, key=lambda d: (known(heads[d]), len(heads[d])))
    reader = csv.reader(io.StringIO("".join(lines[skipped:]), newline=""), delimiter=delimiter)
    rows, line = [], skipped
    try:
        for row in reader:
            begun, line = line + 1, reader.line_num + skipped
            cells = [text if (text := cell.strip()) else None for cell in row]
            if rows:
                while len(cells) > len(rows[0][1]) and cells[-1] is None:  # trailing delimiters say nothing
                    cells.pop()
                swallowed = any("\n" in (c or "") and (c or "").count(delimiter) >= len(rows[0][1]) - 1 for c in cells)
                if line > begun and (swallowed or len(cells) != len(rows[0][1])):
                    raise SourceError(f"{doc.path}, line {begun}: a quoted cell is not closed, it runs to line {line}")
            else:
                cells = _head(cells)
            if any(cells):
                rows.append((begun, cells))
    except csv.Error as error:
        raise SourceError(f"{doc.path}, line {line + 1}: {error}") from error
    return Table(doc.path, None, rows, decimal_comma=delimiter == ";")


def _head(cells: list[str | None]) -> list[str | None]:
    """The head of a CSV without empty cells at its end; 'Цена, руб.', torn at a comma that nobody quoted, is one again."""
    while cells and cells[-1] is None:
        cells.pop()
    for at in range(len(cells) - 2, -1, -1):
        if cells[at] and (_plain(cells[at]), _plain(cells[at + 1])) in (("цена", "руб"), ("price", "rub")):
            cells[at : at + 2] = [f"{cells[at]}, {cells[at + 1]}"]
    return cells


def _decode(doc: Document) -> str:
    """The text of a CSV: UTF-8 or UTF-16 by their marks, else UTF-8 if it is, else the Cyrillic or the Western code page."""
    data = doc.data
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if workbook.is_excel(data):
        raise SourceError(f"{doc.path} is an Excel file under the name of a .csv: name it .xlsx or .xls")
    if b"\0" in data and not utf16:
        raise SourceError(f"{doc.path} is no text file: it holds zero bytes")
    texts = {}
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1251", "cp1252"):
        try:
            texts[encoding] = data.decode(encoding)
        except UnicodeDecodeError:
            continue  # the next one may do; none at all is refused below
        if encoding.startswith("utf"):
            return texts[encoding]
    if not texts:
        raise SourceError(f"cannot read {doc.path}: it is neither UTF-8 nor cp1251 nor cp1252; save it as UTF-8")
    if len(texts) == 1:
        return next(iter(texts.values()))
    # The same bytes are Cyrillic words in one page and accents inside Latin words in the other.
    words = re.findall(r"[^\W\d_]{2,}", texts["cp1251"])
    cyrillic = sum(bool(re.fullmatch("[Ѐ-ӿ]+", word)) for word in words)
    mixed = sum(bool(re.search("[a-z]", word, re.IGNORECASE) and re.search("[Ѐ-ӿ]", word)) for word in words)
    return texts["cp1252"] if mixed > cyrillic else texts["cp1251"]
