"""A record shop that never was: three years of sales and a stock, written as the files that such a shop would hand over.

A few hits are reordered in tens, a long tail sells a copy a year; December doubles everything; what runs out is missed for
weeks until the next delivery comes; prices move every few months. Then what real files have: months in two files and two months
in one, an old export as a semicolon CSV in the Cyrillic code page, barcodes that Excel took for numbers, a total below the
table, and a handful of rows with holes. Same arguments, same rows.

Symbols: N records, D days.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np

SEASON = (0.85, 0.85, 0.9, 1.0, 0.95, 0.9, 0.85, 0.9, 1.0, 1.05, 1.25, 2.0)  # of demand, by month
WEEKDAY = (0.7, 0.8, 0.85, 0.95, 1.15, 1.5, 1.05)
# kind: share of records, copies a month (from, to), copies a delivery (from, to), whether it is reordered
KINDS = {
    "hit": (0.05, (2.5, 6.0), (8, 18), True),
    "steady": (0.27, (0.5, 2.0), (3, 7), True),
    "tail": (0.43, (0.08, 0.5), (1, 3), True),
    "rarity": (0.25, (0.04, 0.3), (1, 2), False),
}
STYLES = ("Rock", "Rock/Pop", "Jazz", "Electronic", "Soul/Funk", "Folk", "Metal", "Hip-Hop", "Классика", "Rock/Psychedelic")
_BANDS = (
    "Velvet Harbour, The Paper Lanterns, Northern Static, Blue Meridian, Ivory Coastline, Tin Orchard, Saint Cassette, Glass "
    "Parade, Midnight Ferry, The Low Choirs, Marble Radio, Copper Tide, Salt & Signal, Hollow Arcade, The Ninth Tram, Amber "
    "Division, Mono Garden, Echo Bureau, Alder Quartet, Silver Postmen, Алый трамвай, Северный причал, Тихий эфир, Бумажные "
    "змеи, Оркестр на крыше, Город дождей, Ночной маршрут, Медная роза, Каменный сад, Зимний театр, Motorhalle, Tallinn Vector"
)
_WORDS = (
    "Distance, Harvest, Static, Rivers, Sunday, Cathedral, Ashes, Signals, Orchard, Mirrors, Tides, Lanterns, Winter, Paper, "
    "Salt, Machines, Gardens, Voyage, Neon, Silence, Снег, Проспект, Письма, Полночь, Радио, Острова, Крыши, Маяк"
)
BANDS, WORDS = _BANDS.split(", "), _WORDS.split(", ")
FORMS = ("{}", "{} II", "Songs of {}", "The {} Tapes", "After {}", "Live: {}", "{} & {}", "Beyond {}")
HEADS = (
    "Штрихкод",
    "Исполнитель",
    "Альбом",
    "Конверт",
    "Цена, руб.",
    "Тип",
    "Год записи",
    "Год выпуска",
    "Стиль",
    "Дата добавления",
)
PRICE = HEADS.index("Цена, руб.")


@dataclass
class Record:
    """One record of the shop. cells: the heads' values that do not change. price: (D,) roubles. lots: [day entered, copies]."""

    cells: dict[str, object]
    kind: str
    rate: float  # copies a month
    price: np.ndarray
    lots: list[list] = field(default_factory=list)
    sold: list[tuple[date, date, int]] = field(default_factory=list)  # day entered, day sold, price


def write(
    directory, *, records: int = 400, months: int = 36, seed: int = 7, until: date = date(2025, 9, 30)
) -> dict[str, Path | list[Path]]:
    """Write the shop's files into ``directory``; returns {"stock": path, "sales": [path, ...]}.

    ``until`` is the last day of sales (there is one on it) and the stock is that of the morning after.
    """
    draw = np.random.default_rng(seed)
    first = np.datetime64(until, "M") - (months - 1)
    days = np.arange(first.astype("datetime64[D]"), np.datetime64(until) + 1).astype(object).tolist()
    shelf = [_record(draw, days, number, _names(number, records)) for number in range(records)]
    for record in shelf:
        _live(draw, record, days)
    _sell_on(shelf, until)
    sales = [(record, entered, sold, price) for record in shelf for entered, sold, price in record.sold]
    sales.sort(key=lambda sale: sale[2])  # stable: within a day in the order of the shelf
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [_write_sales(draw, directory, name, rows) for name, rows in _files(sales, days)]
    return {"stock": _write_stock(directory, shelf, until), "sales": paths}


# ---- the life of a record ----------------------------------------------------------------------------------------------


def _names(number: int, records: int) -> tuple[str, str]:
    """Artist and album: each pair once, artists with several albums."""
    step = 7 * number + number // len(BANDS)
    word, other = WORDS[step % len(WORDS)], WORDS[(step // len(WORDS) + 3) % len(WORDS)]
    album = FORMS[(number // len(BANDS)) % len(FORMS)].format(word, other)
    volume = number // (len(BANDS) * len(FORMS))
    return BANDS[number % len(BANDS)], album + (f", vol. {volume + 1}" if volume else "")


def _record(draw, days: list[date], number: int, names: tuple[str, str]) -> Record:
    kinds = list(KINDS)
    kind = kinds[int(draw.choice(len(kinds), p=[KINDS[name][0] for name in kinds]))]
    original = kind == "rarity"
    recorded = int(
        draw.integers(1956, 1994) if original else draw.choice([draw.integers(1958, 2000), draw.integers(1965, 2023)])
    )
    released = recorded if original else int(draw.integers(min(recorded + 3, days[-1].year - 1), days[-1].year))
    base = float(draw.lognormal(np.log(4200 if original else 2900), 0.5))
    said = str(max(released, recorded))
    if not original and draw.random() < 0.06:
        said = str(draw.choice([said[:3] + "?", said[:2], ""], p=[0.6, 0.2, 0.2]))
    low, high = KINDS[kind][1]
    cells = {
        "Штрихкод": "" if original and draw.random() < 0.7 else _barcode(draw),
        "Исполнитель": names[0],
        "Альбом": names[1],
        "Конверт": str(draw.choice(["VG+", "NM", "EX", "VG"])) if original else str(draw.choice(["SS", "NM"], p=[0.85, 0.15])),
        "Тип": "Оригинал" if original else "Переиздание",
        "Год записи": recorded,
        "Год выпуска": said,
        "Стиль": STYLES[int(draw.integers(len(STYLES)))],
    }
    return Record(cells, kind, float(draw.uniform(low, high)), _prices(draw, base, len(days)))


def _barcode(draw) -> str:
    """Thirteen digits with their check digit; some begin with zeros, as American ones do."""
    digits = [int(d) for d in (f"{'0' if draw.random() < 0.3 else '4'}{draw.integers(10**10, 10**11)}")]
    return "".join(map(str, digits)) + str(-sum(d * (1 + 2 * (i % 2)) for i, d in enumerate(digits)) % 10)


def _prices(draw, base: float, days: int) -> np.ndarray:
    """(D,) roubles that end with 0 or 90 and move every ten months or so by up to a quarter: now and then into another band."""
    price, day = np.empty(days), 0
    while day < days:
        spell = int(draw.exponential(300)) + 30
        price[day : day + spell] = max(round(base / 100) * 100 - (10 if base < 6000 else 0), 290)
        base *= float(draw.uniform(0.82, 1.28))
        day += spell
    return price


def _live(draw, record: Record, days: list[date]) -> None:
    """Walk a record through its days: a sale takes the oldest copy, and the next delivery is ordered when few are left."""
    _, _, (small, large), reordered = KINDS[record.kind]
    known_from = 0 if draw.random() < 0.68 else int(draw.integers(0, max(len(days) - 45, 1)))
    fades = np.exp(-np.arange(len(days)) / 500) * 1.8 if draw.random() < 0.25 else np.ones(len(days))
    season = np.array([SEASON[day.month - 1] * WEEKDAY[day.weekday()] for day in days]) * fades
    demand = draw.poisson(record.rate / 30.4 * season)
    entered = days[0] - timedelta(days=int(draw.integers(1, 700))) if known_from == 0 else days[known_from]
    record.lots.append([entered, int(draw.integers(small, large + 1))])
    delivery = None  # number of the day on which the next one arrives
    for day in range(known_from, len(days)):
        if delivery == day:
            record.lots.append([days[day], int(draw.integers(small, large + 1))])
            delivery = None
        for _ in range(int(demand[day])):
            lot = next((lot for lot in record.lots if lot[1]), None)
            if lot is None:
                break  # sold out: this customer goes home
            lot[1] -= 1
            record.sold.append((lot[0], days[day], int(record.price[day])))
        left = sum(copies for _, copies in record.lots)
        if reordered and delivery is None and left <= (2 if record.kind == "hit" else 0):
            delivery = day + int(draw.integers(8, 25) if record.kind == "hit" else draw.integers(15, 90))


def _sell_on(shelf: list[Record], until: date) -> None:
    """See to a sale on the last day: where there is none, the last one of all is moved there."""
    last = max((record.sold[-1][1] for record in shelf if record.sold), default=None)
    if last is None:  # a tiny shop in a slow month: its first copy goes
        shelf[0].lots[0][1] -= 1
        shelf[0].sold.append((shelf[0].lots[0][0], until, int(shelf[0].price[-1])))
    elif last < until:
        record = next(record for record in shelf if record.sold and record.sold[-1][1] == last)
        record.sold[-1] = (record.sold[-1][0], until, record.sold[-1][2])


# ---- its files ---------------------------------------------------------------------------------------------------------


def _files(sales: list[tuple], days: list[date]) -> list[tuple[str, list[tuple]]]:
    """File names and their sales. As a rule one a month; some hold two months, some months are two files."""
    months = sorted({(day.year, day.month) for day in days})
    by_month = {month: [] for month in months}
    for sale in sales:
        by_month[sale[2].year, sale[2].month].append(sale)
    found, at = [], 0
    while at < len(months):
        (year, month), rows = months[at], by_month[months[at]]
        name = f"Продажи {year}-{month:02d}"
        if at % 12 == 8:
            half = [[sale for sale in rows if (sale[2].day > 15) == late] for late in (False, True)]
            found += [(f"{name} (1).xlsx", half[0]), (f"{name} (2).xlsx", half[1])]
        elif at % 12 == 2 and at + 1 < len(months):
            at += 1
            found.append((f"{name} и {months[at][0]}-{months[at][1]:02d}.xlsx", rows + by_month[months[at]]))
        else:
            found.append((f"{name}.csv" if at % 18 == 5 else f"{name}.xlsx", rows))
        at += 1
    return [(name, rows) for name, rows in found if rows]


def _write_sales(draw, directory: Path, name: str, sales: list[tuple]) -> Path:
    rows = [[*_row(record, price, entered), sold] for record, entered, sold, price in sales]
    for row in rows:
        _soil(draw, row)
    heads = [*HEADS, "Дата заказа"]
    if name.endswith(".csv"):
        return _written(directory / name, _csv([heads, *rows]))
    total = [None] * PRICE + [sum(price for _, _, _, price in sales)] if draw.random() < 0.1 else None
    return _written(directory / name, _xlsx("Продажи", [heads, *rows, *([["Итого", *total[1:]]] if total else [])]))


def _write_stock(directory: Path, shelf: list[Record], until: date) -> Path:
    rows = [
        [*_row(record, int(record.price[-1]), entered), copies] for record in shelf for entered, copies in record.lots if copies
    ]
    heads = [*HEADS[:-1], "Дата создания", "Экземпляры"]
    return _written(directory / f"Остатки {until + timedelta(days=1)}.xlsx", _xlsx("Остатки", [heads, *rows]))


def _row(record: Record, price: int, entered: date) -> list:
    values = record.cells | {"Цена, руб.": price, "Дата добавления": entered}
    return [values[head] for head in HEADS]


def _soil(draw, row: list) -> None:
    """Now and then what people do to a row: most of it can be cleaned, the last two cannot."""
    luck = draw.random()
    if luck < 0.01:
        row[PRICE] = f"{row[PRICE]:,}".replace(",", "\u00a0") + ",00"
    elif luck < 0.015:
        row[HEADS.index("Исполнитель")] = f" {row[HEADS.index('Исполнитель')].upper()}  "
    elif luck < 0.02:
        row[HEADS.index("Конверт")] = None
    elif luck < 0.025:
        row[HEADS.index("Стиль")] = None
    elif luck < 0.0253:
        row[PRICE] = "договорная"
    elif luck < 0.0256:
        row[HEADS.index("Альбом")] = None


def _xlsx(sheet: str, rows: list[list]) -> bytes:
    import openpyxl  # lazily, like everything that reads or writes Excel
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet(sheet)
    book.create_sheet("Лист2")  # empty, as Excel likes to leave one
    for letter, width in zip("ABCDEFGHIJKL", (16, 22, 26, 9, 11, 13, 11, 12, 16, 16, 14, 12), strict=True):
        page.column_dimensions[letter].width = width
    page.freeze_panes = "A2"
    heads = [WriteOnlyCell(page, value=head) for head in rows[0]]
    for cell in heads:
        cell.font = Font(bold=True)
    page.append(heads)
    for number, row in enumerate(rows[1:]):
        code = str(row[0] or "")
        if code.isdigit() and number % 3 == 0:  # typed as a number: Excel then drops its zeros
            row = [int(code), *row[1:]]
        page.append([value if value != "" else None for value in row])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _csv(rows: list[list]) -> bytes:
    def text(value) -> str:
        if isinstance(value, date):
            return value.strftime("%d.%m.%Y")
        return f"{value},00" if isinstance(value, int) and value > 2100 else "" if value is None else str(value)

    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=";").writerows([[text(value) for value in row] for row in rows])
    return stream.getvalue().encode("cp1251")


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
