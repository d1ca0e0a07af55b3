"""The bench of sales: what the network, the trees, their blend and every baseline are worth on rolling origins.

    .venv/bin/python tests/bench_sales.py [--params mine.yaml ...] [--quick]

Each origin of the sales job is replayed as a run would have published it: trained on what was known by then, weights, level,
widening and choice read from finished origins alone. The sample first, then the job with each overlay of ``--params`` (its own
file of sales, as with ``make forecast PARAMS=``). sales.md and sales.csv are written to OUT.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from bench import markdown
from forecastbook import backtest, gate, scoreboard
from forecastbook import run as runs
from forecastbook.files import write_text
from forecastbook.jobs import load
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.sources import SOURCES
from forecastbook.trades import SALES
from forecastbook.warehouse import connect

JOB = Path(__file__).resolve().parents[1] / "params" / "sales.yaml"
READING = (
    "WQL: weighted quantile loss at .05 .25 .5 .75 .95. Published saves: its WQL below the row's, as a share, with a 90 % "
    "interval by block bootstrap over origins. Bias: of the mean forecast, as a share of what was sold. Where sold: coverage "
    "of the actuals above zero by the 90 % band. Service 95: share of points not above the 95 % quantile."
)


def read(overlay: str | None, directory: str, quick: bool) -> tuple[Params, Panel]:
    """The sales job's params, with an overlay, and its panel."""
    params = load(JOB, [overlay] if overlay else [])
    source, store = SOURCES[params.source.kind], connect(f"duckdb:{directory}/warehouse.duckdb")
    as_of = source.span(params.source, store)[1]
    panel = runs.build(runs.complete(source.read(params.source, store, as_of), params, as_of), params, as_of)
    if quick:
        params = params.model_copy(update={"backtest": params.backtest.model_copy(update={"origins": 2, "refits": 2})})
        panel = panel.sample(150, params.seed)
    return params, panel


def table(name: str, params: Params, panel: Panel) -> tuple[pd.DataFrame, str]:
    """A row a model, best first, and what was replayed in a sentence."""
    began = time.process_time()
    record = gate.replay(backtest.rolling(panel, params), params)
    spent = time.process_time() - began
    back = backtest.frame(record, backtest.judges(panel, params).ids, params)
    scores = scoreboard.score_table(back, params, panel)
    wide = scoreboard.summary(scores, SALES).drop(columns="skill")
    served = scores[(scores["slice"] == "all") & (scores["metric"] == "service95")].set_index("model")["value"]
    wide["service 95"] = wide["model"].map(served)
    skill = scoreboard.skills(back, seed=params.seed).set_index("baseline")
    wide["published saves"] = wide["model"].map(skill["skill"])
    wide["from"], wide["to"] = wide["model"].map(skill["low"]), wide["model"].map(skill["high"])
    wide.insert(0, "data", name)
    zero = (back.loc[back["model"] == "published", "y"] == 0).mean()
    said = f"{name}: {scoreboard.describe(back)} {zero:.0%} of them were zeros. {spent:.0f} s of CPU."
    return wide, said


def main() -> None:
    """Measure, print, write."""
    ask = argparse.ArgumentParser(description="accuracy of the sales forecasts")
    ask.add_argument("--out", type=Path, default=Path("outputs/bench"), help="where the tables are written")
    ask.add_argument("--params", action="append", default=[], help="an overlay of the sales job, with its own file")
    ask.add_argument("--quick", action="store_true", help="few items, two origins: only to see that it runs")
    told = ask.parse_args()
    torch.set_num_threads(1)
    found, page = [], []
    with tempfile.TemporaryDirectory() as directory:
        for overlay in (None, *told.params):
            name = Path(overlay).stem if overlay else "sample"
            wide, said = table(name, *read(overlay, directory, told.quick))
            found.append(wide)
            page.append(said)
            print(said, wide.to_string(index=False), sep="\n", flush=True)
    whole = pd.concat(found, ignore_index=True)
    text = "\n\n".join([*page, READING, markdown(whole)]) + "\n"
    told.out.mkdir(parents=True, exist_ok=True)
    write_text(told.out / "sales.md", text)
    whole.to_csv(told.out / "sales.csv", index=False)


if __name__ == "__main__":
    main()
