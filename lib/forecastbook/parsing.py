"""A .parquet or .csv file: its columns as numpy arrays, and what in them is missing or is not what it should be.

Nothing is guessed and nothing is repaired: text is kept exactly as written, and a cell that cannot be read is told apart from
one that says "missing". Symbols: n rows, N distinct texts of a column.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from forecastbook.intake import SourceError, quarantine, shown

TEXT = pa.dictionary(pa.int32(), pa.string())  # how text is held: few distinct ones fill a column
FIRST_DAY, LAST_DAY = np.datetime64("1900-01-01"), np.datetime64("2200-12-31")
PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}  # of an Arrow time stamp's unit
MISSING = {"", "na", "n/a", "nan", "null", "none"}
DATES = "2024-12-31 with a time or without, 20241231 or 31.12.2024, of 1900 to 2200"  # how a date may be written
LONE = re.compile(r"[+-]?[1-9]\d{0,2}([.,])\d{3}")  # is its mark the decimal sign, or between thousands?
GROUPED = re.compile(  # thousands in groups of three: the mark that comes first stands between them
    r"[+-]?(?:\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:,\d{3})+\.\d+|\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?:,\d{3}){2,})"
)
SPACED = re.compile(r"[+-]?\d{1,3}(?:\s\d{3})+(?:[.,]\d+)?")  # a blank of any kind between thousands, as Excel writes it
DECIMAL = re.compile(r"[+-]?\d*([.,])\d+(e[+-]?\d+)?", re.I)
YES, NO = {"true", "t", "yes", "y", "1", "1.0", "да"}, {"false", "f", "no", "n", "0", "0.0", "нет"}
FLAGS = "yes or no, true or false, 1 or 0"  # how a flag may be written


def load(path: Path, wanted: list[str]) -> tuple[pa.Table, np.ndarray, pd.DataFrame, bool]:
    """The wanted columns, the 1-based number of each data row, torn rows as a quarantine frame, decimal comma or not."""
    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise SourceError(f"source.path {path}: wanted a .parquet or .csv file, not {kind or 'a name without ending'}")
    try:
        if kind == ".parquet":
            with pq.ParquetFile(path) as file:
                _has_columns(path, file.schema_arrow.names, wanted)
                _are_plain(path, file.schema_arrow, wanted)
                written = [name for name in wanted if _is_text(file.schema_arrow.field(name).type)]
            with pq.ParquetFile(path, read_dictionary=written) as file:  # as it is stored: each text once, and a number a row
                table = _decoded(path, file.read(columns=wanted))
            return table.select(wanted), np.arange(1, table.num_rows + 1), quarantine(), False
        return _load_csv(path, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError, csv.Error) as error:
        text = str(error).strip().split("\n")[0]
        advice = "save it as UTF-8" if "utf" in text.lower() else f"is it really a {kind} file, and complete?"
        raise SourceError(f"cannot read {path}: {text}; {advice}") from error


def _load_csv(path: Path, wanted: list[str]) -> tuple[pa.Table, np.ndarray, pd.DataFrame, bool]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = "".join(line for _, line in zip(range(20), file, strict=False))  # a quoted column name may hold a line break
    if not head.strip():
        raise SourceError(f"{path} is empty: wanted a header line and rows")
    headers = {d: next(csv.reader([*head.splitlines(keepends=True)], delimiter=d)) for d in (",", ";", "\t")}
    delimiter = max(headers, key=lambda d: (len(set(wanted) & set(headers[d])), len(headers[d])))
    names = headers[delimiter]
    _has_columns(path, names, wanted)
    torn: list[tuple[int, str, int]] = []

    def remember(row) -> str:
        torn.append((row.number, row.text, row.actual_columns))
        return "skip"

    unnamed = [f"{i}:{name}" if name not in wanted else name for i, name in enumerate(names)]  # namesakes elsewhere do no harm
    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=unnamed, skip_rows=1, encoding="utf8"),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=remember),
            convert_options=pa.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, TEXT), strings_can_be_null=False, null_values=[]
            ),
        )
    except pa.ArrowInvalid:
        _no_open_quote(path, delimiter, len(names))
        raise
    with path.open("rb") as file:
        ends = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    if ends > table.num_rows + len(torn) + 1:  # a cell holds a line break, or a line is blank
        _no_open_quote(path, delimiter, len(names))
    # Arrow counts lines from the header on: row k of the file is data row k - 1. The rows around a torn one keep their numbers.
    lost = np.array([number - 1 for number, _, _ in torn], dtype=np.int64)
    rows = np.delete(np.arange(1, table.num_rows + len(lost) + 1), lost - 1)
    frame = (
        quarantine()
        if not torn
        else quarantine(
            pd.DataFrame(
                {
                    "file": str(path),
                    "sheet": None,
                    "row": pd.array(lost, dtype="Int64"),
                    "column": None,
                    "value": [shown(text) for _, text, _ in torn],
                    "reason": [f"row has {cells} cells, wanted {len(names)}" for _, _, cells in torn],
                }
            )
        )
    )
    return table, rows, frame, delimiter == ";"


def _no_open_quote(path: Path, delimiter: str, width: int) -> None:
    """Raise SourceError where a quote that is not closed takes rows of so many cells into its cell; a text may have lines."""
    first, swallowed = 1, False
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for record in reader:
                inner = [line.split(delimiter) for cell in record for line in cell.splitlines()[1:]]
                if any(len(cells) == width and any(_one_day(cell) != "NaT" for cell in cells) for cells in inner):
                    swallowed = True
                    break
                first = reader.line_num + 1
        except csv.Error:  # a cell longer than any text
            swallowed = True
    if swallowed:
        raise SourceError(
            f"{path} line {first}: a quoted cell is not closed and takes the rows after it; close the quote, or write it twice"
        )


def _has_columns(path: Path, names: list[str], wanted: list[str]) -> None:
    """All faults at once: columns that are missing (with the nearest name), or there twice."""
    lower = {name.lower(): name for name in names}
    faults = []
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
            faults.append(f"no column {name!r}" + (f" (nearest: {lower[near[0]]!r})" if near else ""))
        elif names.count(name) > 1:
            faults.append(f"column {name!r} is there {names.count(name)} times")
    if faults:
        raise SourceError(f"{path}: {', '.join(faults)}; it has {', '.join(names)}. Map them in source.columns")


def _are_plain(path: Path, schema: pa.Schema, wanted: list[str]) -> None:
    """Raise SourceError, with all faults at once, where a column holds lists or records instead of single values."""
    faults = [f"column {n!r} is {schema.field(n).type}" for n in wanted if pa.types.is_nested(schema.field(n).type)]
    if faults:
        raise SourceError(f"{path}: {', '.join(faults)}; wanted text, numbers, dates or yes and no: one value a cell")


def _decoded(path: Path, table: pa.Table) -> pa.Table:
    """The same with bytes as text: older writers do not mark text as such. SourceError names a column that is none."""
    for at, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            try:
                table = table.set_column(at, field.name, table.column(at).cast(pa.large_string()))
            except pa.ArrowInvalid:
                raise SourceError(f"{path}: column {field.name!r} holds bytes that are no UTF-8 text; write text") from None
    return table


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers, dates and flags without their dictionary; text stays in it."""
    coded = pa.types.is_dictionary(column.type) and not _is_text(column.type.value_type)
    return column.cast(column.type.value_type) if coded else column


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Text as codes (n,) int32 into its distinct values, all of which occur; -1 for null. Each is written as text once."""
    column = column.cast(pa.string()) if pa.types.is_null(column.type) else column
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries()
    if not column.num_chunks:
        return np.empty(0, dtype=np.int32), []
    codes = np.concatenate([chunk.indices.cast(pa.int32()).fill_null(-1).to_numpy() for chunk in column.chunks])
    texts = column.chunk(0).dictionary.cast(pa.large_string()).to_pylist()
    used = np.zeros(len(texts) + 1, dtype=bool)
    used[codes] = True
    if used[:-1].all() and len(set(texts)) == len(texts):
        return codes, texts
    return _coded(column.cast(column.type.value_type))  # a dictionary may hold what no row says, or one text twice


def as_text(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column as text exactly as written: codes (n,) into texts (N,), -1 where null or blank. 12 and 12.0 are '12'."""
    column = _plain(column)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        whole = pc.all(pc.equal(column, pc.floor(column))).as_py() and (pc.max(pc.abs(column)).as_py() or 0) < 2**53
        column = column.cast(pa.int64()) if whole else column
    codes, texts = _coded(column)
    blank = np.array([not text.strip() for text in texts] + [True])  # the last one answers for code -1
    return np.where(blank[codes], -1, codes), np.array(texts, dtype=object)


def as_numbers(
    column: pa.ChunkedArray, comma: bool = False, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A column as floats: values (n,) with NaN where there is none, which are missing (n,), which are no number (n,).

    comma: the file is not delimited by commas, so that one may be a decimal sign. Whether the mark in 1,445 or 1.445 is that or
    stands between thousands, the column's other numbers tell; where it may still be either, it is refused.
    known: (n,) bool, the rows that may tell; None: all.
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), np.ones(len(column), dtype=bool), np.zeros(len(column), dtype=bool)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        value = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
        return value, np.isnan(value), np.zeros(len(value), dtype=bool)
    codes, texts = _coded(column)
    told = texts if known is None else [texts[k] for k in np.unique(codes[known]) if k >= 0]
    sign = _sign(told, comma)
    parsed = np.array([_number(text, comma, sign) for text in texts] + [(np.nan, True)], dtype=float).reshape(-1, 2)
    value, fine = parsed[codes, 0], parsed[codes, 1] == 1
    return value, np.isnan(value) & fine, ~fine


def _sign(texts: list[str], comma: bool) -> str | None:
    """The decimal sign of a column's numbers, by those that can be read in one way only; '' where they do not tell.

    Without any, it is the point in a file that is delimited by commas, and None in another.
    """
    shown = set()
    for text in {_closed(text) for text in texts if "." in text or "," in text}:
        if GROUPED.fullmatch(text):
            shown.add("." if re.search(r"[.,]", text)[0] == "," else ",")
        elif not LONE.fullmatch(text) and (found := DECIMAL.fullmatch(text)):
            shown.add(found[1])
    if not shown:
        return None if comma else "."
    return shown.pop() if len(shown) == 1 and (comma or shown == {"."}) else ""


def numbers(comma: bool) -> str:
    """How a number may be written in a file with decimal commas, or with points."""
    either = "1.234 may be two numbers: 1234 or 1,234" if comma else "1,234 may be two numbers beside 12,5"
    return f"{'1234,56, 1.234,56 or 1234.56' if comma else '1234.56 or 1,234.56'}; {either}"


def _closed(text: str) -> str:
    """A cell without blanks around it, nor between thousands."""
    text = text.strip()
    return re.sub(r"\s", "", text) if SPACED.fullmatch(text) else text


def _number(text: str, comma: bool, sign: str | None) -> tuple[float, bool]:
    """A number, or NaN; and whether the text is one, or openly says that there is none. sign: as ``_sign`` says."""
    text = _closed(text)
    if text.lower() in MISSING:
        return math.nan, True
    if lone := LONE.fullmatch(text):
        if (sign == "" and (comma or lone[1] == ",")) or (sign is None and lone[1] == "."):
            return math.nan, False
        text = text.replace(lone[1], "." if lone[1] == (sign or ("," if comma else ".")) else "")
    elif GROUPED.fullmatch(text):
        text = text.replace(re.search(r"[.,]", text)[0], "").replace(",", ".")
    elif comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return (float(text), True) if "_" not in text else (math.nan, False)
    except ValueError:
        return math.nan, False


def as_flags(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Yes / no / not said as 1 / 0 / -1 (n,), and which are neither (n,)."""
    codes, texts = _coded(_plain(column))
    words = [text.strip().lower() for text in texts]
    flag = np.array([1 if w in YES else 0 if w in NO else -1 for w in words] + [-1])
    bad = np.array([w not in YES | NO | MISSING for w in words] + [False])
    return flag[codes], bad[codes]


def as_days(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column as days (n,), NaT where it is none; and which are missing (n,). The day is the one on the writer's wall."""
    column = _plain(column)
    if pa.types.is_temporal(column.type) and not pa.types.is_time(column.type) and not pa.types.is_duration(column.type):
        day, missing = arrow_days(column), np.asarray(column.is_null())
    else:
        codes, texts = _coded(column)
        day = np.array([_one_day(text) for text in texts] + ["NaT"], dtype="datetime64[D]")[codes]
        blank = np.array([text.strip().lower() in MISSING for text in texts] + [True])
        missing = blank[codes]
    with np.errstate(invalid="ignore"):
        return np.where((day >= FIRST_DAY) & (day <= LAST_DAY), day, np.datetime64("NaT")), missing


def as_times(column: pa.ChunkedArray) -> np.ndarray:
    """The time of day of each cell on its writer's wall, as a share of the day: (n,) float, 0 where none is said."""
    column = _plain(column)
    if pa.types.is_timestamp(column.type):
        local = pc.local_timestamp(column) if column.type.tz else column
        return local.cast(pa.int64()).fill_null(0).to_numpy() % PER_DAY[column.type.unit] / PER_DAY[column.type.unit]
    if pa.types.is_temporal(column.type):
        return np.zeros(len(column))
    codes, texts = _coded(column)
    return np.array([_one_time(text) for text in texts] + [0.0])[codes]


def _one_time(text: str) -> float:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return 0.0  # the other forms have no time
    return (at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6) / 86_400


def arrow_days(column: pa.ChunkedArray) -> np.ndarray:
    """Dates and time stamps (of any zone: the day on their own wall) as (n,) datetime64[D], NaT for null."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = pc.local_timestamp(column) if kind.tz else column
        per_day = PER_DAY[kind.unit]
    elif pa.types.is_date64(kind):
        per_day = PER_DAY["ms"]
    else:
        per_day = 1
    whole = column.cast(pa.int32() if per_day == 1 else pa.int64()).fill_null(0).to_numpy().astype(np.int64) // per_day
    return np.where(np.asarray(column.is_null()), np.datetime64("NaT"), whole.astype("datetime64[D]"))


def _one_day(text: str) -> str:
    """An ISO date or time stamp, YYYYMMDD, or DD.MM.YYYY, as YYYY-MM-DD; 'NaT' for anything else (30 February too)."""
    text = text.strip()
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        pass  # not ISO: one more form is allowed, judged below
    try:
        return datetime.strptime(text, "%d.%m.%Y").date().isoformat()
    except ValueError:
        return "NaT"
