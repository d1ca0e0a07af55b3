"""FactSales with its items: read from a shop's own warehouse as one long frame, written there from its files."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from forecastbook import parsing, sample
from forecastbook.cells import Cells, mask, numbered, taken
from forecastbook.facts import WarehouseFacts
from forecastbook.intake import Intake, Sieve, SourceError, as_day, disagreeing, far, inside, of_cells, reasons, today
from forecastbook.params import digest
from forecastbook.publication import variant_ids

log = logging.getLogger(__name__)


class SalesFacts(WarehouseFacts):
    """FactSales and DimItem. Parameters: history_days (None: all), sample_series, static (keys of DimItem.attributes_json).

    One row an item and period in which something was sold; where several rows share both, the one with most units wins,
    of those with as many the one with the highest revenue.
    Past covariates: price (revenue / units), list_price, promotion; NaN where not known.
    """

    table, dimension, held, spanned = "FactSales", "DimItem", "sales_held", "sales_span"
    usable = "row up to today ({today}), which is one of units of 0 or more and of an item in DimItem: fill that table too"
    build_sample = staticmethod(sample.sales)

    def asks(self, source, as_of) -> dict[str, dict]:
        """Every query that a run as of then may send to read its facts, with its parameters; none is sent here.

        sales_held is sent to a file, and to a server only where nothing was found.
        """
        start, as_of = self.window(source, as_of)
        return {
            "sales_held": {},
            "sales_span": {"last": today()},
            "sales_facts": {"first": start, "last": as_of},
            "sales_items": {},
        }

    def fingerprint(self, source, warehouse, as_of) -> str:
        """Hash of the rows that a run as of then reads; titles do not count."""
        content = self.read(source, warehouse, as_of).digest(sales=True)
        return digest({"as_of": as_day(as_of), "history_days": source.history_days, "content": content})

    def read(self, source, warehouse, as_of) -> Intake:
        """The sales of the window up to ``as_of``."""
        as_of = as_day(as_of)
        inside(as_of, self.span(source, warehouse), warehouse.url)
        asked = self.asks(source, as_of)
        facts, items = warehouse.queries({name: asked[name] for name in ("sales_facts", "sales_items")}).values()
        n, sieve = facts.num_rows, Sieve("FactSales", np.arange(1, facts.num_rows + 1))
        key, period = facts["item_id"], facts["period"]
        codes, item = numbered(key.fill_null(-1))
        place = pd.Index(items["item_id"].to_numpy()).get_indexer(item)  # (N,) row of DimItem, -1: none
        sieve.reject(np.asarray(key.is_null()), "item_id", key, "missing item_id")
        sieve.reject(np.asarray(period.is_null()), "period", period, "missing period")
        sieve.reject((place < 0)[codes], "item_id", key, "missing item: not in DimItem")
        units = facts["units"].to_numpy()
        sieve.reject(np.isnan(units), "units", facts["units"], "not a number")
        sieve.reject(np.isinf(units), "units", facts["units"], "not finite")
        sieve.reject(units < 0, "units", facts["units"], "negative")
        day = parsing.arrow_days(period)
        sieve.reject(far(day, sieve.ok), "period", period, "date far before all others")
        titles, sources, about = (items[c].to_pylist() for c in ("title", "source_key", "attributes_json"))
        ids = np.array([str(sources[p] or i) if p >= 0 else str(i) for i, p in zip(item.tolist(), place, strict=True)], object)
        cells = Cells(ids, codes, day.astype(np.int64).astype(np.int32), sieve.ok)
        told = [facts[name] for name in ("units", "revenue", "list_price", "promotion")]  # all: a database keeps no order
        beaten, stays = cells.resolve(lambda rows: tuple(np.nan_to_num(taken(column, rows), nan=-1.0) for column in told))
        sieve.drop(mask(beaten, n), "duplicates resolved")
        if not sieve.ok.any():
            raise SourceError(
                f"FactSales in {warehouse.url} has no usable row from {asked['sales_facts']['first']} to {as_of}: "
                f"{reasons(sieve.counts)}; give an AS_OF within the data, or mend the rows"
            )
        revenue = facts["revenue"].to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where((units > 0) & (revenue > 0), revenue / units, np.nan)
        data = {
            "y": units,
            "available": np.ones(n, dtype=bool),
            "title": (None, np.array([(p >= 0 and titles[p]) or i for i, p in zip(ids, place, strict=True)], dtype=object)),
            "price": price,
            "list_price": facts["list_price"].to_numpy(),
            "promotion": facts["promotion"].to_numpy(),
        }
        for name in source.static:
            said = [_attribute(about[p] if p >= 0 else None, name, i) for i, p in zip(ids, place, strict=True)]
            data[name] = None, np.array(said, dtype=object)
        lost = sieve.lost(ids, codes, data["title"], sieve.ok, lambda at: place[codes[at]] >= 0)
        found = of_cells(cells, data, sieve, n, disagreeing(units, beaten, stays), lost)
        return replace(found, unread=sieve.unread(ids, codes, day))


def keep_facts(intake: Intake, store, job: str) -> None:
    """Write the facts that a job's own files hold into the warehouse; sources whose facts are there already bring none.

    All facts of the job's items are replaced, also of those that the files no longer have: reading the same files again changes
    nothing, and a corrected file corrects. A run for a past date, which knows less, leaves facts of later periods alone.
    """
    if not intake.facts:
        return
    items = intake.facts["DimItem"]
    ids = items["series_id"].to_pylist()
    keys = variant_ids(ids, items["title"].to_pylist())
    number = dict(zip(ids, keys["id"].to_pylist(), strict=True))
    store.migrate()
    stored = store.query("sales_newest")
    own = pc.fill_null(pc.equal(stored["job"], job), False)
    stored = stored.append_column("own", own).filter(pc.or_(pc.is_in(stored["item_id"], keys["id"]), own))
    mine = pc.max(intake.facts["FactSales"]["period"]).as_py()
    # what another job knows is no mistake of ours
    others = stored.filter(pc.invert(stored["own"])) if intake.newest else stored
    later = pc.max(others["newest"]).as_py()
    if later and mine and later > mine:
        log.info("%s has sales up to %s: those up to %s are not written over them", store.url, later, mine)
        return
    about = {"item_id": keys["id"], "title": keys["title"], "source_key": keys["source_key"]}
    about |= {"attributes_json": items["attributes_json"], "from_files": [True] * len(ids), "job": [job] * len(ids)}
    store.append("DimItem", pa.table(about), replacing=("item_id",))
    held = tuple(stored["item_id"].to_pylist()) if intake.newest else ()  # an earlier day does not know all items yet
    for table in ("FactSales", "FactStockMovement", "FactItemMonth"):
        rows = intake.facts[table]
        keyed = pa.array([number[i] for i in rows["series_id"].to_pylist()], pa.int64())
        rows = rows.drop_columns(["series_id"]).append_column("item_id", keyed)
        store.append(table, rows, replacing=("item_id",), gone=held)


def _attribute(text: str | None, name: str, item: str) -> str:
    """One entry of an item's JSON object as text; empty where it is absent. Raises SourceError on what is no object."""
    try:
        value = json.loads(text or "{}").get(name)
    except (ValueError, AttributeError) as error:
        raise SourceError(
            f"DimItem.attributes_json of item {item} is no JSON object: {text!r} ({error}); mend that row"
        ) from error
    return "" if value is None else str(value)
