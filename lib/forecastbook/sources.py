"""Where the data comes from: ``SOURCES`` turns raw tables or files into one long frame.

The frame has one row a series and day: series_id (text), ts (midnight), y (float, NaN = not observed), available (bool), title,
then covariates. A source never repairs silently: a row that breaks the contract goes to the quarantine with file, row, column,
value and reason, and everything that is dropped is counted, so that rows read = rows kept + what the counts name.

A source answers five questions about a ``source:`` section of a params file (attributes, or a mapping) and a warehouse:
``there`` (is there anything yet?), ``span`` (first and last date; the last is the default as-of), ``fingerprint`` (have the
inputs changed?), ``read`` (the data as known at a date) and ``asks`` (which queries would those be? None is sent).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from forecastbook import longfile, sample
from forecastbook.cells import Cells, chunks, mask, numbered, side_by_side, taken
from forecastbook.intake import Intake, Sieve, SourceError, as_day, disagreeing, inside, of_cells, reasons, today, unit_errors
from forecastbook.panel import periods
from forecastbook.params import digest
from forecastbook.publication import variant_ids
from forecastbook.salesfacts import WarehouseSales
from forecastbook.shop import ShopFiles
from forecastbook.trades import SALES

log = logging.getLogger(__name__)

# ---- the shop's warehouse ----------------------------------------------------------------------------------------------


class WarehousePrices:
    """FactProductPrice with its variants and days. Parameters: history_days, sample_series.

    Several facts of one variant and day: the highest price_fact_id wins, also when it says that the item is not available.
    """

    def there(self, source, warehouse) -> bool:
        """Whether there is anything yet, or only the first run makes it. Looks, and makes nothing."""
        return sample.held(warehouse, "price_stock")

    def span(self, source, warehouse) -> tuple[date, date]:
        """First and newest day with a usable price, not after today. Raises SourceError when there is none."""
        self._ready(source, warehouse)
        found = warehouse.query("price_span", self.asks(source, today())["price_span"])
        first, last = (found["first_date"][0].as_py(), found["last_date"][0].as_py()) if found.num_rows else (None, None)
        if last is None:
            facts = sum(warehouse.query("price_stock")["facts"].to_pylist())
            raise SourceError(
                f"FactProductPrice in {warehouse.url} has {facts:,} facts and no usable price up to today ({today()}), which "
                "is one that is available, positive, of a variant in DimVariant and a day in DimDate: fill those tables too, "
                "or point WAREHOUSE elsewhere"
            )
        return first, last

    def asks(self, source, as_of) -> dict[str, dict]:
        """Every query that a run as of then may send to read its facts, with its parameters; none is sent here.

        price_stock is sent to a file, and to a server only where nothing was found.
        """
        start, as_of = self._window(source, as_of)
        window = {"from_date_id": _date_id(start), "to_date_id": _date_id(as_of)}
        return {
            "price_stock": {},
            "price_span": {"from_date_id": 19000101, "to_date_id": _date_id(today())},
            "price_fingerprint": window,
            "price_variants": {},
            "price_days": window,
            "price_facts": window,
            "price_later": {"from_date_id": _date_id(as_of + timedelta(days=1)), "to_date_id": _date_id(today())},
            "price_strays": {"today_id": _date_id(today())},
        }

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of a cheap summary of the facts in the window: changes when a fact does, not with their order."""
        self._ready(source, warehouse)
        found = warehouse.query("price_fingerprint", self.asks(source, as_of)["price_fingerprint"])
        return digest({"as_of": as_day(as_of), "history_days": source.history_days, "facts": found.to_pylist()})

    def read(self, source, warehouse, as_of) -> Intake:
        """The facts of the last ``history_days`` days up to ``as_of``. Past covariate: list_price, NaN where not shown.

        There may be 10^7 facts: keys become small codes at once, and what a variant or a day is, is looked up once each.
        """
        self._ready(source, warehouse)
        start, as_of = self._window(source, as_of)
        asked = self.asks(source, as_of)
        wanted = ("price_facts", "price_variants", "price_days", "price_strays", "price_later")
        facts, variants, calendar, strays, later = warehouse.queries({name: asked[name] for name in wanted}).values()
        n, sieve = facts.num_rows, Sieve("FactProductPrice", facts["price_fact_id"])

        (codes, variant), (date_codes, date_id) = side_by_side(numbered, [facts["variant_id"], facts["date_id"]])
        at = _found(variant, variants["variant_id"].to_numpy())  # -1 takes the last of what is appended below: nothing
        titles, known = np.append(variants["variant_title"].to_numpy(zero_copy_only=False), None)[at], at >= 0
        if not known.all():
            sieve.reject(~known[codes], "variant_id", facts["variant_id"], "missing variant: not in DimVariant")
        at = _found(date_id, calendar["date_id"].to_numpy())
        day = np.append(longfile.arrow_days(calendar["full_date"]), np.datetime64("NaT"))[at]
        wrong = np.isnat(day) | (_date_ids(day) != date_id)
        if wrong.any():
            sieve.reject(wrong[date_codes], "date_id", facts["date_id"], "impossible date: no such day in DimDate")
        flag = facts["is_available"]
        if flag.null_count:
            sieve.reject(flag.is_null().to_numpy(), "is_available", flag, "missing: neither available nor not")
        available = flag.fill_null(False).to_numpy()

        y = np.empty(n)
        for rows, price in chunks(facts["current_price"]):
            y[rows] = price
        self._price_rules(sieve, y, available, facts["current_price"])
        np.copyto(y, np.nan, where=~(sieve.ok & available))
        wrong = unit_errors(codes, y)
        sieve.reject(wrong, "current_price", facts["current_price"], "unit error?")
        y[wrong] = np.nan
        on = np.flatnonzero(day == as_of)  # the code of the as-of date, if a fact has it
        if as_of > today() or not len(on) or np.isnan(y[date_codes == on[0]]).all():  # else the day needs no further proof
            inside(as_of, self.span(source, warehouse), warehouse.url)

        ids = np.array([str(v) for v in variant.tolist()], dtype=object)
        cells = Cells(ids, codes, day.astype(np.int64).astype(np.int32)[date_codes], sieve.ok)

        def newest(rows, fact=facts["price_fact_id"], y=y):  # ids may repeat: then what is available, then the higher price
            return taken(fact, rows), available[rows], np.nan_to_num(y[rows], nan=-1.0)

        beaten, stays = cells.resolve(newest)
        sieve.drop(mask(beaten, n), "duplicates resolved")
        titles = np.array([i if t is None else t for i, t in zip(ids, titles, strict=True)], dtype=object)
        n += self._strays(sieve, strays)
        if not (np.isfinite(y) & sieve.ok).any():
            raise SourceError(
                f"FactProductPrice in {warehouse.url} has no usable price from {start} to {as_of}: "
                f"{n} facts, {reasons(sieve.counts)}; give an AS_OF within the data, or mend the rows"
            )
        notes = {"unavailable": int((~available & sieve.ok).sum())} | disagreeing(y, beaten, stays)
        data = {"y": y, "available": available, "title": (None, titles), "list_price": facts["original_price"]}
        lost = sieve.lost(ids, codes, (None, titles), sieve.ok, lambda at: known[codes[at]])
        del y, facts, newest
        found = of_cells(cells, data, sieve, n, notes, lost)
        listed = found.rows.columns["list_price"]
        listed[~((listed > 0) & (listed < np.inf))] = np.nan
        return replace(found, remarks=self._too_late(later, as_of))

    @staticmethod
    def _price_rules(sieve: Sieve, price: np.ndarray, available: np.ndarray, shown: pa.ChunkedArray) -> None:
        """What a price must be. Of an item that is not available, a missing or zero price claims nothing."""
        odd = np.flatnonzero(~((price > 0) & (price < np.inf)))  # few: no rule need look at the ordinary ones
        odd = odd[available[odd] | (price[odd] < 0) | np.isinf(price[odd])]
        if not len(odd):
            return
        price, offered, n = price[odd], available[odd], len(price)
        sieve.reject(mask(odd[np.isnan(price) & offered], n), "current_price", shown, "not a number")
        sieve.reject(mask(odd[np.isinf(price)], n), "current_price", shown, "not finite")
        sieve.reject(mask(odd[price < 0], n), "current_price", shown, "negative")
        sieve.reject(mask(odd[(price == 0) & offered], n), "current_price", shown, "zero price")

    @staticmethod
    def _strays(sieve: Sieve, found: pa.Table) -> int:
        """Facts outside all possible days never come into a window: quarantine them here, so that they are not silent.

        Listed are the first of them, counted all. Returns how many there are.
        """
        stray = Sieve(sieve.file, found["price_fact_id"].to_numpy())
        ids = found["date_id"].to_numpy()
        stray.reject(ids > _date_id(today()), "date_id", ids, "date in the future")
        stray.reject(np.ones(len(ids), dtype=bool), "date_id", ids, "impossible date: no such day in DimDate")
        sieve.parts += stray.parts
        total = found["strays"][0].as_py() if len(ids) else 0
        rest = {"quarantined: outside all possible days, not listed": total - len(ids)} if total > len(ids) else {}
        for reason, n in (stray.counts | rest).items():
            sieve.counts[reason] = sieve.counts.get(reason, 0) + n
        return total

    @staticmethod
    def _too_late(later: pa.Table, as_of: date) -> tuple[str, ...]:
        """That there are facts of later days of which none can be used: else nobody would miss them."""
        facts, usable, newest = (later[name][0].as_py() for name in ("facts", "usable", "newest"))
        if not facts or usable:  # with one that can be used, an earlier day was asked for
            return ()
        return (
            f"FactProductPrice has {facts:,} facts of days after {as_of}, up to date_id {newest}, and not one can be used: is "
            "DimDate filled so far, DimVariant too, and are there prices?",
        )

    def _ready(self, source, warehouse) -> None:
        if not warehouse.looks_only:
            warehouse.migrate()
            ensure_sample(warehouse, source.sample_series)

    @staticmethod
    def _window(source, as_of) -> tuple[date, date]:
        as_of = as_day(as_of)
        if source.history_days is None:
            return date(1900, 1, 1), as_of
        return max(as_of - timedelta(days=source.history_days - 1), date(1900, 1, 1)), as_of


def ensure_sample(warehouse, sample_series: int) -> bool:
    """``sample.ensure`` of prices."""
    return sample.ensure(warehouse, "price_stock", "FactProductPrice", "DimVariant", lambda: sample.build(sample_series))


def _found(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each of ``values`` (n,) stands in ``known`` (m,), which rise: (n,) places, -1 for what is not there."""
    at = np.searchsorted(known, values)
    there = at < len(known)
    there[there] = known[at[there]] == values[there]
    return np.where(there, at, -1)


def _date_id(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _date_ids(days: np.ndarray) -> np.ndarray:
    """(n,) datetime64[D] -> YYYYMMDD; anything for NaT."""
    month = days.astype("datetime64[M]")
    year = days.astype("datetime64[Y]").astype(np.int64) + 1970
    return year * 10_000 + (month.astype(np.int64) % 12 + 1) * 100 + (days - month).astype(np.int64) + 1


# ---- files -------------------------------------------------------------------------------------------------------------


class LongFile:
    """A long .parquet or .csv file. Parameters: path, columns {series, ts, y, available?, title?}, static, past, future,
    history_days (None = all), positive (True where y must be above 0).

    Several rows of one series and date: the latest time of day wins, of those as late the last row of the file. Ids and titles
    are text exactly as written.
    """

    def there(self, source, warehouse) -> bool:
        """A file is there, or it is an error to say so."""
        return True

    def span(self, source, warehouse=None) -> tuple[date, date]:
        """First and newest date with an observed value, not after today. Raises SourceError when no row is usable."""
        return self._span(source, *self._parse(source))

    def asks(self, source, as_of) -> dict[str, dict]:
        """A file is asked no queries."""
        return {}

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of the rows that a run as of then reads: rows after it, their order and the file's format do not count."""
        rows = self.read(source, warehouse, as_of).frame.drop(columns="title")
        content = hashlib.sha256(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes()).hexdigest()
        return digest(
            {
                "as_of": as_day(as_of),
                "content": content,
                "columns": _mapping(source),
                "static": list(source.static),
                "past": list(source.past),
                "future": list(source.future),
                "history_days": source.history_days,
                "positive": _positive(source),
            }
        )

    def read(self, source, warehouse, as_of) -> Intake:
        """The rows up to ``as_of``; later rows only where ``future`` columns want them, without their value."""
        as_of = np.datetime64(as_day(as_of), "D")
        table, sieve, parsed = self._parse(source)
        inside(as_of.astype(date), self._span(source, table, sieve, parsed), str(_path(source)))
        columns, codes, day, y, flag = (parsed[k] for k in ("columns", "codes", "day", "y", "flag"))
        later = ~np.isnat(day) & (day > as_of)
        if not source.future:
            sieve.drop(later, "after the as-of date")
        past = np.zeros(len(day), dtype=bool)
        if source.history_days is not None:
            past = ~np.isnat(day) & (day <= as_of - np.timedelta64(source.history_days, "D"))
            sieve.drop(past, "before the history window")
        if _positive(source):
            sieve.reject(
                unit_errors(codes, np.where(sieve.ok & ~later & (flag != 0), y, np.nan)),
                columns["y"],
                table[columns["y"]],
                "unit error?",
            )
        ids = parsed["ids"]
        cells = Cells(ids, codes, day.astype(np.int64).astype(np.int32), sieve.ok)
        times = table[columns["ts"]]
        beaten, stays = cells.resolve(lambda rows: (longfile.as_times(times.take(pa.array(rows))),))
        sieve.drop(mask(beaten, len(codes)), "duplicates resolved")
        hidden = (flag == 0) & _positive(source)
        y = np.where(later | hidden, np.nan, y)
        available = np.where(flag < 0, ~np.isnan(y), flag == 1) & ~later
        data = {"y": y, "available": available, "title": self._titles(table, columns, ids, codes)}
        for name in source.static:
            text_codes, texts = longfile.as_text(table[name])
            data[name] = text_codes, np.append(texts, "")  # code -1 = missing = ""
        for name in (*source.past, *source.future):
            value, missing, bad = longfile.as_numbers(table[name], parsed["comma"])
            why = f"not a number (wanted {longfile.numbers(parsed['comma'])})"
            sieve.note((bad | np.isinf(value)) & sieve.ok, name, table[name], why, "covariate left empty")
            data[name] = np.where(np.isfinite(value), value, np.nan)
        if not (np.isfinite(y) & sieve.ok).any():
            raise SourceError(f"{_path(source)} has no usable value in the window up to {as_of}: {reasons(sieve.counts)}")
        now, empty = sieve.ok & ~later, np.isnan(y)
        notes = {
            "unavailable": int((now & empty & ~available).sum()),
            "available without a value": int((now & empty & available).sum()),
            **({"known ahead": int((sieve.ok & later).sum())} if source.future else {}),
            **disagreeing(y, beaten, stays),
        }
        ahead = later if source.future else later & (day <= np.datetime64(today(), "D"))  # what is not known yet; 2999 is wrong
        lost = sieve.lost(ids, codes, data["title"], now, lambda at: ~(ahead | past)[at])
        return of_cells(cells, data, sieve, len(codes) + parsed["torn"], notes, lost)

    @staticmethod
    def _parse(source) -> tuple[pa.Table, Sieve, dict]:
        """Every rule that needs no as-of date. Codes (n,) index ids (N,); flag (n,) is 1, 0 or -1 (not said)."""
        path, columns = _path(source), _mapping(source)
        wanted = list(dict.fromkeys([*columns.values(), *source.static, *source.past, *source.future]))
        table, rows, torn, comma = longfile.load(path, wanted)
        sieve = Sieve(str(path), rows)
        if len(torn):
            sieve.parts.append(torn)
            sieve.counts["quarantined: wrong number of cells"] = len(torn)
        n, series, ts, value = table.num_rows, columns["series"], columns["ts"], columns["y"]
        codes, ids = longfile.as_text(table[series])
        day, no_day = longfile.as_days(table[ts])
        y, no_value, not_number = longfile.as_numbers(table[value], comma)
        flag, not_flag = (
            longfile.as_flags(table[columns["available"]]) if "available" in columns else (np.full(n, -1), np.zeros(n, bool))
        )
        sieve.reject(codes < 0, series, table[series], "missing series id")
        sieve.reject(no_day, ts, table[ts], "missing date")
        sieve.reject(np.isnat(day), ts, table[ts], f"impossible date (wanted {longfile.DATES})")
        if not source.future:
            sieve.reject(day > np.datetime64(today(), "D"), ts, table[ts], "date in the future")
        if "available" in columns:
            sieve.reject(not_flag, columns["available"], table[columns["available"]], "neither yes nor no")
        sieve.reject(not_number, value, table[value], f"not a number (wanted {longfile.numbers(comma)})")
        sieve.reject(np.isinf(y), value, table[value], "not finite")
        sieve.reject(y < 0, value, table[value], "negative")
        if _positive(source):
            sieve.reject((y == 0) & (flag != 0), value, table[value], "zero price")
        return (
            table,
            sieve,
            {
                "columns": columns,
                "codes": codes,
                "ids": ids,
                "day": day,
                "y": y,
                "flag": flag,
                "comma": comma,
                "torn": len(torn),
            },
        )

    @staticmethod
    def _span(source, table, sieve: Sieve, parsed: dict) -> tuple[date, date]:
        """First and last date with an observed value."""
        seen = sieve.ok & ~np.isnan(parsed["y"]) & (parsed["day"] <= np.datetime64(today(), "D"))
        if _positive(source):
            seen &= parsed["flag"] != 0
        if not seen.any():
            refused = sieve.quarantine().head(1).to_dict("records")
            example = "".join(f"; row {r['row']}: {r['column']} is {r['value']!r}" for r in refused)
            raise SourceError(
                f"{_path(source)} has no usable rows: {table.num_rows + parsed['torn']} rows, {reasons(sieve.counts)}{example}"
            )
        day = parsed["day"][seen]
        return day.min().astype(date), day.max().astype(date)

    @staticmethod
    def _titles(table: pa.Table, columns: dict[str, str], ids: np.ndarray, codes: np.ndarray) -> tuple:
        """Titles as ``Cells.grids`` takes text; the id where there is none."""
        if "title" not in columns:
            return None, ids
        title_codes, titles = longfile.as_text(table[columns["title"]])
        return np.where(title_codes >= 0, title_codes, codes + len(titles)), np.concatenate([titles, ids])


def _path(source) -> Path:
    path = Path(source.path).expanduser()
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise SourceError(f"source.path {path} {what}; a relative path starts at {Path.cwd()}")
    return path


def _mapping(source) -> dict[str, str]:
    """Role -> column of the file; roles that are not mapped are left out."""
    columns = source.columns
    get = columns.get if isinstance(columns, dict) else lambda role: getattr(columns, role, None)
    return {role: get(role) for role in ("series", "ts", "y", "available", "title") if get(role)}


def _positive(source) -> bool:
    return bool(getattr(source, "positive", False))


class RecordShop(ShopFiles):
    """``ShopFiles``; where a job names no files, those of a generated shop, written beside the warehouse at the first use."""

    def there(self, source, warehouse) -> bool:
        """Whether there is anything yet, or only the first run writes it."""
        return source.stock is not None or _home(warehouse).is_dir()

    def span(self, source, warehouse=None) -> tuple[date, date]:
        return super().span(_generated(source, warehouse), warehouse)

    def fingerprint(self, source, warehouse, as_of) -> str:
        return super().fingerprint(_generated(source, warehouse), warehouse, as_of)

    def read(self, source, warehouse, as_of) -> Intake:
        return super().read(_generated(source, warehouse), warehouse, as_of)


def _home(warehouse) -> Path:
    """Where the generated shop's files are."""
    return warehouse.beside / "record_shop"


def _generated(source, warehouse):
    """The source with its files; those of the generated shop are written whole or not at all."""
    if source.stock is not None:
        return source
    home = _home(warehouse)
    if not home.is_dir():
        from forecastbook import recordshop  # lazily: only a first run needs it

        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".record_shop.") as part:
            recordshop.write(Path(part) / "shop")
            with contextlib.suppress(OSError):  # another run was first: its files are the same
                (Path(part) / "shop").rename(home)
        log.info("no files are named: a generated record shop was written to %s", home)
    stock, sales = (sorted(map(str, home.glob(pattern))) for pattern in ("Остатки *", "Продажи *"))
    return source.model_copy(update={"stock": stock[0], "sales": sales})


def newest(span: tuple[date, date], params) -> date:
    """The default as-of date: the last one of the data; of sales the last period that is over, as half a week is no week."""
    first, last = span
    if params.trade is not SALES or last == first:
        return last
    if periods(last, 2, params.freq)[-1].astype(date) <= today():
        return last
    return pd.date_range(end=pd.Timestamp(last), periods=2, freq=params.freq)[0].date()


def record(intake: Intake, store) -> None:
    """Write the facts that a source's own files hold into the warehouse; sources whose facts are there already bring none.

    All rows of an item are replaced, so that reading the same files again changes nothing and a corrected file corrects. A run
    for a past date, which knows less, leaves facts of later periods alone.
    """
    if not intake.facts:
        return
    items = intake.facts["DimItem"]
    ids = items["series_id"].to_pylist()
    keys = variant_ids(ids, items["title"].to_pylist())
    number = dict(zip(ids, keys["id"].to_pylist(), strict=True))
    store.migrate()
    stored = store.query("sales_newest")
    later = pc.max(stored.filter(pc.is_in(stored["item_id"], keys["id"]))["newest"]).as_py()
    newest = pc.max(intake.facts["FactSales"]["period"]).as_py()
    if later and newest and later > newest:
        log.info("%s has sales up to %s: those up to %s are not written over them", store.url, later, newest)
        return
    about = {"item_id": keys["id"], "title": keys["title"], "source_key": keys["source_key"]}
    about |= {"attributes_json": items["attributes_json"], "from_files": pa.array([True] * len(ids))}
    store.append("DimItem", pa.table(about), replacing=("item_id",))
    for table in ("FactSales", "FactStockMovement", "FactItemMonth"):
        rows = intake.facts[table]
        keyed = pa.array([number[i] for i in rows["series_id"].to_pylist()], pa.int64())
        store.append(table, rows.drop_columns(["series_id"]).append_column("item_id", keyed), replacing=("item_id",))


SOURCES = {
    "warehouse_prices": WarehousePrices(),
    "warehouse_sales": WarehouseSales(),
    "shop_files": RecordShop(),
    "file": LongFile(),
}
