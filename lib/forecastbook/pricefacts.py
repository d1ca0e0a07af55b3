"""FactProductPrice with its variants and days -> cells: the posted prices of a shop's own warehouse."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from forecastbook import parsing, sample
from forecastbook.cells import Cells, chunks, mask, numbered, side_by_side, taken
from forecastbook.facts import WarehouseFacts
from forecastbook.intake import (
    Intake,
    Sieve,
    SourceError,
    as_day,
    disagreeing,
    inside,
    of_cells,
    reasons,
    today,
    unit_errors,
)
from forecastbook.params import digest


class PriceFacts(WarehouseFacts):
    """FactProductPrice with its variants and days. Parameters: history_days, sample_series.

    Several facts of one variant and day: the highest price_fact_id wins, also when it says that the item is not available.
    """

    table, dimension, held, spanned = "FactProductPrice", "DimVariant", "price_held", "price_span"
    usable = (
        "price up to today ({today}), which is one that is available, positive, of a variant in DimVariant and a day in "
        "DimDate: fill those tables too"
    )
    build_sample = staticmethod(sample.build)

    def asks(self, source, as_of) -> dict[str, dict]:
        """Every query that a run as of then may send to read its facts, with its parameters; none is sent here.

        price_held is sent to a file, and to a server only where nothing was found.
        """
        start, as_of = self.window(source, as_of)
        window = {"from_date_id": _date_id(start), "to_date_id": _date_id(as_of)}
        return {
            "price_held": {},
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
        start, as_of = self.window(source, as_of)
        asked = self.asks(source, as_of)
        wanted = ("price_facts", "price_variants", "price_days", "price_strays", "price_later")
        facts, variants, calendar, strays, later = warehouse.queries({name: asked[name] for name in wanted}).values()
        n, sieve = facts.num_rows, Sieve("FactProductPrice", facts["price_fact_id"])

        key, date_key = facts["variant_id"], facts["date_id"]
        absent = np.asarray(key.is_null()) if key.null_count else None
        (codes, variant), (date_codes, date_id) = side_by_side(numbered, [key.fill_null(-1), date_key])
        if absent is not None:
            sieve.reject(absent, "variant_id", key, "missing variant_id")
        at = _places(variant, variants["variant_id"].to_numpy())  # -1 takes the last of what is appended below: nothing
        titles, known = np.append(variants["variant_title"].to_numpy(zero_copy_only=False), None)[at], at >= 0
        if not known.all():
            sieve.reject(~known[codes], "variant_id", key, "missing variant: not in DimVariant")
        at = _places(date_id, calendar["date_id"].to_numpy())
        day = np.append(parsing.arrow_days(calendar["full_date"]), np.datetime64("NaT"))[at]
        wrong = np.isnat(day) | (_date_ids(day) != date_id)
        if wrong.any():
            sieve.reject(wrong[date_codes], "date_id", date_key, "impossible date: no such day in DimDate")
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

        def newest(rows, fact=facts["price_fact_id"], listed=facts["original_price"], y=y):
            """Ids may repeat: then what is available, then the higher price, then the higher list price."""
            return (
                taken(fact, rows),
                available[rows],
                *(np.nan_to_num(column, nan=-1.0) for column in (y[rows], taken(listed, rows))),
            )

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
        ids = found["date_id"]
        stray.reject(np.asarray(ids.is_null()), "date_id", ids, "missing date_id")
        stray.reject(ids.fill_null(0).to_numpy() > _date_id(today()), "date_id", ids, "date in the future")
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

    def unused(self, source, warehouse, as_of) -> tuple[str, ...]:
        """That the warehouse has facts of days after the newest, none of which can be used, in a sentence."""
        return self._too_late(warehouse.query("price_later", self.asks(source, as_of)["price_later"]), as_day(as_of))


def _places(values: np.ndarray, known: np.ndarray) -> np.ndarray:
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
