"""Reading at size from BigQuery: our reads against the emulator's own rate, in time and in memory.

    .venv/bin/python tests/bench_bigquery.py [FACTS]

The peer drains the same query with the plain client by the Storage Read API and keeps nothing. Ours are ``query`` (a table
in the declared types), ``read`` with ``panel`` (every check, and the panel), and the same when ``read`` has yet to look over
all tables, as the first one of a process does. Each in a process of its own, in turns, against one emulator; the judge is wall
time, the median of the turns. Memory is the growth of the process's peak over what its imports take.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa

from emulated import Emulator
from forecastbook.sources import SOURCES
from forecastbook.warehouse import connect

FACTS, REPEATS, TARGET = 10**6, 3, 2.0
URL = "bigquery:test-project.bench"
WINDOW = {"from_date_id": 20230101, "to_date_id": 20241231}
JOB = SimpleNamespace(history_days=400, sample_series=1, past=["list_price"], future=[], static=[])


def fill(store, n: int) -> None:
    """About ``n`` facts: 400 days up to 2024-12-31 of n / 400 variants, in sticky prices."""
    days = pd.date_range(end="2024-12-31", periods=400)
    ids = np.arange(1, max(n // len(days), 1) + 1)
    draw = np.random.default_rng(7)
    price = np.round(draw.lognormal(2, 1, len(ids)), 2)[:, None] * draw.choice([1.0, 1.0, 1.0, 0.8], (len(ids), len(days)))
    date_ids = (days.year * 10_000 + days.month * 100 + days.day).to_numpy(np.int64)
    store.migrate()
    store.append(
        "DimVariant", pa.table({"variant_id": ids, "shop_product_id": ids, "variant_title": [f"Item {i}" for i in ids]})
    )
    parts = {"year": days.year, "month": days.month, "day": days.day}
    calendar = {"date_id": date_ids, "full_date": pa.array(days.date, pa.date32())}
    calendar |= {k: v.to_numpy(np.int64) for k, v in parts.items()} | {"day_of_week": list(days.day_name())}
    store.append("DimDate", pa.table(calendar))
    total = price.size
    facts = {"price_fact_id": np.arange(total), "variant_id": np.repeat(ids, len(days)), "date_id": np.tile(date_ids, len(ids))}
    facts |= {"current_price": np.round(price.ravel(), 2), "is_available": np.ones(total, dtype=bool)}
    store.append("FactProductPrice", pa.table(facts))


def plain(store) -> int:
    """The rows of the same query, drained and dropped."""
    from google.cloud import bigquery

    from forecastbook.schema import statement

    params = [bigquery.ScalarQueryParameter(name, "INT64", value) for name, value in WINDOW.items()]
    settings = bigquery.QueryJobConfig(default_dataset=".".join(store.place), query_parameters=params)
    rows = store.client.query(statement("price_facts", "bigquery")[0], job_config=settings).result()
    return sum(batch.num_rows for batch in rows.to_arrow_iterable(bqstorage_client=store.reader))


def table(store) -> int:
    return store.query("price_facts", WINDOW).num_rows


def panel(store) -> int:
    intake = SOURCES["warehouse_prices"].read(JOB, store, "2024-12-31")
    return int(intake.panel("D", "2024-12-31", past=JOB.past).observed.sum())


SIDES = {"plain": plain, "table": table, "panel": panel, "panel, tables first": panel}


def measured(what: str) -> dict:
    """Seconds, rows and megabytes of one side, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--side", what], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def side(what: str) -> None:
    store = connect(URL)
    if what == "panel":
        store.migrate()  # there is nothing to make: it looks
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    rows = SIDES[what](store)
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "rows": rows, "mb": (peak - before) / 1024}))


def main(facts: int = FACTS, repeats: int = REPEATS) -> pd.DataFrame:
    """One row a side: rows, seconds (median), times the peer's seconds, MB above the imports (largest)."""
    with tempfile.TemporaryDirectory() as home, Emulator(home, threads=os.cpu_count()) as emulator:
        os.environ.update(emulator.environ)
        fill(connect(URL), facts)
        turns = [(what, measured(what)) for _ in range(repeats) for what in SIDES]
    found = pd.DataFrame([{"what": what, **turn} for what, turn in turns])
    out = found.groupby("what", sort=False).agg(rows=("rows", "first"), seconds=("seconds", "median"), mb=("mb", "max"))
    out["times the peer"] = out["seconds"] / out.loc["plain", "seconds"]
    return out


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(sys.argv[2])
    else:
        result = main(*map(int, sys.argv[1:2]))
        print(result.round(2).to_string())
        for what, words in (("table", "into declared types"), ("panel", "to the panel")):
            met = result.loc[what, "times the peer"] <= TARGET
            print(f"read {words} within {TARGET:g} times the emulator's own rate: {'met' if met else 'missed'}")
