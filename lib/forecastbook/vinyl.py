"""What a record in a shop is: its attributes cleaned, the ones that are missing filled, and the nine that say which item it is.

A function here reads one cell, or one column of cells; none of them looks at the clock. An item is a record as a buyer tells
it from another: barcode, artist, album, cover, kind of release, decades, style and year. Its price is no part of it: prices
change.

Symbols: n rows of the shop's files, N items.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation

import numpy as np
import pandas as pd

# Right-closed price categories, in roubles: band 0 ends with 689.999, band 7 begins above 11990.
PRICE_BREAKS = (689.999, 2490.0, 3990.0, 5590.0, 7390.0, 8590.0, 11990.0)
GAP, ENOUGH = 15, 10  # years from a recording to its reissue: the default, and how many known ones the mean must exceed
NONE = "None"  # what a missing barcode, kind or style is called
KEY = (
    "barcode",
    "artist",
    "album",
    "cover_type",
    "release_type",
    "recording_decade",
    "release_decade",
    "style",
    "recording_year",
)
STATIC = ("cover_type", "release_type", "style", "recording_decade", "release_decade")
SEALED = {"ss", "sealed", "still sealed"}
KINDS = {"оригинал": "Original", "original": "Original", "original pressing": "Original"} | {
    "переиздание": "Reissue",
    "reissue": "Reissue",
    "re-issue": "Reissue",
}
SAYS_NOTHING = {"", "-", "—", "nan", "none", "null", "n/a", "#n/a"}
MONEY = re.compile(r"\s*(руб\.?|р\.|₽|rub\.?|rur)$", re.IGNORECASE)
DAY = re.compile(
    r"(?:(?P<y>\d{4})[-./](?P<m>\d{1,2})[-./](?P<d>\d{1,2})|(?P<D>\d{1,2})[-./](?P<M>\d{1,2})[-./](?P<Y>\d{4}|\d{2}))"
    r"(?:[T ]\s*\d{1,2}:\d{2}.*)?"
)
EXCEL_EPOCH, UNIX_EPOCH = date(1899, 12, 30), datetime(1970, 1, 1)

# ---- one cell ----------------------------------------------------------------------------------------------------------


def number(text: str, comma: bool = True) -> float:
    """'1 500,00' (any kind of space), '1.500,00', '1,500.00', '1500 руб.' as a number; NaN for what is none.

    comma: a lone comma is a decimal one; else it is one between thousands where three digits follow it.
    """
    text = MONEY.sub("", re.sub(r"\s", "", text))
    if "," in text and "." in text:  # the last one is the decimal sign
        text = text.replace(",", "") if text.rfind(".") > text.rfind(",") else text.replace(".", "").replace(",", ".")
    elif text.count(",") > 1 or (not comma and re.fullmatch(r"[+-]?\d{1,3},\d{3}", text)):
        text = text.replace(",", "") if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", text) else "?"
    text = text.replace(",", ".")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", text, re.IGNORECASE):
        return math.nan
    return float(text)


def ambiguous(text: str, comma: bool = True) -> bool:
    """Whether a price may mean two things: '1,500' in a file with decimal commas is hardly one and a half roubles."""
    return comma and bool(re.fullmatch(r"\d{1,3},\d{3}", MONEY.sub("", re.sub(r"\s", "", text))))


def day(text: str) -> np.datetime64:
    """A day: 2022-09-30, 30.09.2022, 30-09-2022, 30/09/2022 (the day first), 30.09.22, each with a time or without; a number
    is seconds since 1970, YYYYMMDD, or Excel's own count of days. NaT for anything else, 30 February too."""
    text = " ".join(text.split())
    if re.fullmatch(r"\d+([.,]\d*)?", text):  # the fraction is the time of day
        return _counted_day(int(re.split(r"[.,]", text)[0]))
    if not (found := DAY.fullmatch(text)):
        return np.datetime64("NaT")
    y, m, d = (int(found[a] or found[b]) for a, b in (("y", "Y"), ("m", "M"), ("d", "D")))
    if found["Y"] and len(found["Y"]) == 2:
        y += 2000 if y < 70 else 1900
    return _the_day(y, m, d)


def _counted_day(count: int) -> np.datetime64:
    if 20_000 <= count < 80_000:
        return np.datetime64(EXCEL_EPOCH + timedelta(days=count))
    if 19_000_000 <= count < 22_000_000:
        return _the_day(count // 10_000, count // 100 % 100, count % 100)
    if 100_000_000 <= count < 10_000_000_000:
        return np.datetime64((UNIX_EPOCH + timedelta(seconds=count)).date())
    return np.datetime64("NaT")


def _the_day(y: int, m: int, d: int) -> np.datetime64:
    try:
        return np.datetime64(date(y, m, d))
    except ValueError:  # no such day in the calendar
        return np.datetime64("NaT")


def barcode(text: str | None) -> str:
    """A barcode as text without spaces and leading zeros; what Excel made of it ('4.601E+12', '12345.0', '="0123"') undone.

    Of '4.601E+12' the last digits are lost for good: artist and album still tell such records apart.
    """
    text = re.sub(r"\s", "", text or "")
    text = re.sub(r'^="?([^"]*)"?$|^\'', r"\1", text)
    if re.fullmatch(r"\d+([.,]\d+)?(e\+?\d{1,2})?", text, re.IGNORECASE) and not text.isdigit():
        try:
            whole = Decimal(text.replace(",", "."))
            text = str(int(whole)) if whole == int(whole) else text
        except (InvalidOperation, OverflowError):
            pass  # not a number after all: it stays as it is written
    text = text.lstrip("0")
    return NONE if text.casefold() in SAYS_NOTHING else text


def recording_year(text: str) -> float:
    """'1977', '1977.0', '1977 г.' -> 1977; NaN for anything else: a partial year does not say when a record was made."""
    found = re.fullmatch(r"(1[89]\d\d|20\d\d)([.,]0+)?\s*(г\.?)?", text.strip())
    return float(found[1]) if found else math.nan


def release_year(text: str | None) -> float:
    """'1979' -> 1979; a partial year is completed: '197?' -> 1979, '20' and '20??' -> 2000; NaN when it starts otherwise."""
    found = re.match(r"(19|20)(\d{0,2})(?!\d)", re.sub(r"\s", "", text or ""))
    if not found:
        return math.nan
    return float(found[1] + {0: "00", 1: found[2] + "9", 2: found[2]}[len(found[2])])


def decade(year: float) -> str:
    """1950 .. 1959 -> '1950s', and so on for ever; earlier '<1950'."""
    return "<1950" if year < 1950 else f"{int(year) // 10 * 10}s"


def cover(text: str | None) -> str | None:
    """'SS' is Sealed, anything else Opened; None when nothing is said."""
    text = plain(text)
    return None if text in SAYS_NOTHING else "Sealed" if text in SEALED else "Opened"


def release_type(text: str | None) -> str:
    """Original or Reissue in either language; another word stays as it is written."""
    text = " ".join((text or "").split())
    return NONE if text.casefold() in SAYS_NOTHING else KINDS.get(text.casefold(), text)


def style(text: str | None) -> str | None:
    """'Rock / Pop' -> 'Rock/Pop'; None when nothing is said."""
    text = "/".join(part for part in (" ".join(part.split()) for part in (text or "").split("/")) if part)
    return None if text.casefold() in SAYS_NOTHING else text


def plain(text: str | None) -> str:
    """Text as it is compared: case, spaces and the form of accents make no difference."""
    return " ".join(unicodedata.normalize("NFC", text or "").split()).casefold()


# ---- columns -----------------------------------------------------------------------------------------------------------


def each(values, function, dtype=object) -> np.ndarray:
    """``function`` of every cell (n,), worked out once for each distinct one."""
    codes, distinct = pd.factorize(np.asarray(values, dtype=object), use_na_sentinel=False)
    found = np.empty(len(distinct), dtype=dtype)
    for i, value in enumerate(distinct):
        found[i] = function(None if value is None or value != value else value)
    return found[codes]


def price_band(price) -> np.ndarray:
    """Price category 0 .. 7 as float, NaN where there is no price: an attribute of a moment, never of an item."""
    price = np.asarray(price, float)
    return np.where(price > 0, np.searchsorted(PRICE_BREAKS, price, side="left"), np.nan)


def release_years(kind, recorded, released, newest: int) -> tuple[np.ndarray, dict[str, int]]:
    """The year of release of each row (n,), and how many were repaired.

    kind: (n,) ``release_type``; recorded, released: (n,) years, NaN in released where it is not known. An original came out in
    the year of its recording. A reissue whose year is missing, beyond the year after ``newest`` or earlier than its recording
    gets the recording's plus the gap: 15 years, or the rounded mean of the reissues with a year when there are more than ten.
    That ends with ``newest`` too: nothing comes out in the future.
    """
    kind, recorded, released = np.asarray(kind, object), np.asarray(recorded, float), np.asarray(released, float)
    original = kind == "Original"
    with np.errstate(invalid="ignore"):
        known = ~original & (released >= recorded) & (released <= newest + 1)
    gap = np.rint((released - recorded)[known].mean()) if known.sum() > ENOUGH else GAP
    guess = np.maximum(np.minimum(recorded + gap, newest), recorded)
    return np.where(original, recorded, np.where(known, released, guess)), {
        "release year repaired": int((~original & ~known).sum())
    }


def modes(keys: list[np.ndarray], values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The most frequent value of each row's group (n,), of equals the first by ``order``; None where none is said.

    keys: columns (n,) that make a group. values: (n,) text or None.
    """
    by = [f"k{i}" for i in range(len(keys))]
    frame = pd.DataFrame(dict(zip(by, keys, strict=True)) | {"value": values, "order": order})
    counts = frame.dropna(subset="value").groupby([*by, "value"], sort=False)["order"].agg(["size", "min"]).reset_index()
    best = counts.sort_values(["size", "min"], ascending=[False, True], kind="stable").drop_duplicates(by)
    found = frame[by].merge(best[[*by, "value"]], on=by, how="left")["value"]
    return found.astype(object).where(found.notna(), None).to_numpy()


def clean(rows: pd.DataFrame, newest: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """The attributes of every row (n), cleaned and filled, with its ``series_id``; and how many were filled.

    rows: barcode, artist, album, cover_type, release_type, release_year, style as written (text or None), recording_year and
    price (numbers, a price NaN where it is not known yet), created (datetime64[D]). Modes and the gap of reissues are those of
    the rows given: whoever wants to know nothing later than a day passes the rows that were entered by then. newest: the year
    of the last day that is known.
    """
    out = pd.DataFrame(index=rows.index)
    out["barcode"] = each(rows["barcode"], barcode)
    for name in ("artist", "album"):
        out[name] = each(rows[name], lambda text: " ".join(text.split()))
    out["release_type"] = each(rows["release_type"], release_type)
    recorded = rows["recording_year"].to_numpy(float)
    given = np.minimum(each(rows["release_year"], release_year, float), _open_decade(rows["release_year"], newest))
    released, counts = release_years(out["release_type"], recorded, given, newest)
    out["recording_year"], out["release_year"] = recorded.astype(int), released.astype(int)
    out["recording_decade"], out["release_decade"] = each(recorded, decade), each(released, decade)
    order = np.lexsort((np.arange(len(rows)), rows["created"].to_numpy("datetime64[D]"))).argsort()
    record = [each(rows["artist"], plain), each(rows["album"], plain)]
    styles = modes(record, each(rows["style"], style), order)
    out["style"] = np.where(pd.isna(styles), NONE, styles)
    covers = each(rows["cover_type"], cover)
    unsaid = pd.isna(covers)
    if unsaid.any():
        decades = out["release_decade"].to_numpy()
        for keys in ([*record, decades], [np.nan_to_num(price_band(rows["price"]), nan=-1), decades]):
            covers = np.where(pd.isna(covers), modes(keys, np.where(unsaid, None, covers), order), covers)
    out["cover_type"] = np.where(pd.isna(covers), "Opened", covers)
    counts |= {"cover filled": int(unsaid.sum()), "without a style": int((out["style"] == NONE).sum())}
    out["series_id"] = identity(out)
    return out, counts


def _open_decade(texts, newest: int) -> np.ndarray:
    """(n,) the latest year that a partial one may be completed to: '202?' is not 2029 yet; no bound for a full one."""
    return each(texts, lambda t: math.inf if re.match(r"\s*\d{4}", t or "") else float(newest), float)


def identity(attributes: pd.DataFrame) -> np.ndarray:
    """(n,) series_id of each row: 12 hex digits of blake2b over the nine parts of ``KEY`` as they are compared."""
    joined = pd.Series("", index=attributes.index)
    for i, name in enumerate(KEY):
        part = each(attributes[name].astype(str), plain)
        joined = joined + ("\x1f" if i else "") + pd.Series(part, index=attributes.index)
    return each(joined, lambda text: hashlib.blake2b(text.encode(), digest_size=6).hexdigest())


def titles(items: pd.DataFrame) -> np.ndarray:
    """(N,) 'Artist - Album (Sealed, reissue 1979)'; namesakes have their id at the end, where ``style.called`` keeps it.

    items: one row an item, with the columns of ``clean``.
    """
    kind = items["release_type"].where(items["release_type"] != NONE, "pressing").str.lower()
    title = (
        items["artist"] + " - " + items["album"] + " (" + items["cover_type"] + ", " + kind + " "
        + items["release_year"].astype(str) + ")"
    )  # fmt: skip
    twice = title.str.casefold().duplicated(keep=False)
    return title.where(~twice, title + " (" + items["series_id"] + ")").to_numpy(dtype=object)


def attributes_json(items: pd.DataFrame) -> list[str]:
    """The nine attributes of each item as a JSON object."""
    return [json.dumps(row, ensure_ascii=False) for row in items[list(KEY)].to_dict("records")]
