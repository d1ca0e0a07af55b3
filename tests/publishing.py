"""What tests publish: forecasts of a few variants and items, and a warehouse that is looked over afterwards."""

import datetime as dt
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import pyarrow as pa
import sqlglot
from google.cloud import bigquery

from forecastbook import warehouse

H = 7


DAY = dt.date(2024, 3, 1)


MODEL = {
    "model_name": "LSTM_Price_Forecaster",
    "model_version": "v1",
    "model_type": "LSTM_Seq2Seq",
    "training_date": DAY,
    "performance_metrics": {"rel_mae": 0.02, "skill": float("nan")},
    "hyperparameters": {"hidden_size": 128},
}


def prices(ids=(1, 2, 3), as_of=DAY, level=10.0, key="variant_id", **replaced):
    n = len(ids)
    columns = {
        key: [i for i in ids for _ in range(H)],
        "forecast_date": [as_of + dt.timedelta(days=h) for _ in ids for h in range(1, H + 1)],
        "horizon": list(range(1, H + 1)) * n,
        "predicted_price": [level] * n * H,
        "confidence_lower": [level - 1] * n * H,
        "confidence_upper": [level + 1] * n * H,
        "p_change": [0.1] * n * H,
    }
    return pa.table({**columns, **replaced})


def sales(ids=(1, 2), as_of=DAY):
    n = len(ids)
    return pa.table(
        {
            "item_id": [i for i in ids for _ in range(H)],
            "horizon": list(range(1, H + 1)) * n,
            "forecast_date": [as_of + dt.timedelta(days=h) for _ in ids for h in range(1, H + 1)],
            **{q: [float(k)] * n * H for k, q in enumerate(("q05", "q25", "q50", "q75", "q95"))},
        }
    )


def put(house, rows=None, run_id="r1", as_of=DAY, job="prices", **more):
    rows = prices(as_of=as_of) if rows is None else rows
    return house.publish(
        **{
            "job": job,
            "model_id": 100,
            "as_of": as_of,
            "run_id": run_id,
            "table": "FactPriceForecast",
            "rows": rows,
            "model": MODEL,
            **more,
        }
    )


def healthy(house):
    return [name for name, ok, _ in house.checks() if not ok] == []


def stored(house, text: str) -> list[tuple]:
    """Rows of a query in GoogleSQL, asked past the warehouse's own code; also runs statements."""
    if house.dialect == "bigquery":
        config = bigquery.QueryJobConfig(default_dataset=".".join(house.place))
        return [tuple(row.values()) for row in house.client.query_and_wait(text, job_config=config)]
    with duckdb.connect(str(house.path)) as connection:
        for statement in sqlglot.transpile(text, read="bigquery", write="duckdb"):
            found = connection.execute(statement)
        return found.fetchall()


def state(house) -> list:
    """All that a publication may write, to be compared."""
    tables = {"FactPriceForecast": "forecast_id", "PublishLedger": "run_id", "DimModel": "model_id", "DimVariant": "variant_id"}
    return [stored(house, f"SELECT * FROM {table} ORDER BY {key}") for table, key in tables.items()]


PUBLISHERS = textwrap.dedent("""
    import os, sys, traceback
    sys.path.insert(0, {tests!r})
    from forecastbook import bigquery, embedded  # once, before there are eight processes
    from forecastbook.warehouse import connect
    from publishing import put, prices

    def publish(k):
        house = connect({url!r})
        house.estimates = False
        house.migrate()
        said = put(house, prices(level=10.0 + k % 4), run_id=f"run{{k % 4}}")["status"]
        os.write(1, f"{{said}}\\n".encode())

    children = []
    for k in range(int(sys.argv[1])):
        children.append(os.fork())
        if not children[-1]:
            try:
                publish(k)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
                os._exit(1)
            os._exit(0)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
""")


def start(house, text: str, *args, **environ) -> subprocess.Popen:
    """A process that runs a text in which {tests}, {url} and {path} are filled in."""
    code = text.format(tests=str(Path(__file__).parent), url=house.url, path=getattr(house, "path", ""))
    lib = str(Path(warehouse.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": lib, "OMP_NUM_THREADS": "1", **environ},
    )
