"""The bench: what the forecasts are worth, and what they cost, as two tables. ``make bench``, or by hand on your own prices:

    .venv/bin/python tests/bench.py --out outputs/bench --file prices.parquet

Accuracy: the price job replayed over dense rolling origins of the sample and of every ``--file`` (columns variant_id, date,
price, is_available, title). Speed: ratios against a named peer, measured in turns in one process, torch on one thread for both.
Everything is computed here; accuracy.csv, speed.csv and bench.md are written to OUT.

Symbols: N series, T days, H days ahead, L sequence length.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from conftest import LEVELS, posted_panel
from forecastbook import backtest, gate, lstm, models, points, scoreboard
from forecastbook import panel as panels
from forecastbook.backtest import SAFE
from forecastbook.forking import autocast
from forecastbook.intake import SourceError
from forecastbook.params import Params, merge, read_yaml
from forecastbook.plain import Plain
from forecastbook.run import write_text
from forecastbook.sources import SOURCES
from forecastbook.warehouse import connect

PARAMS = Path(__file__).resolve().parents[1] / "params"
DENSE = {"backtest": {"origins": 20, "stride": 7, "refits": 3}}  # a week apart, so that targets do not overlap
QUICK = {"backtest": {"origins": 2, "stride": 7, "refits": 1}, "source": {"sample_series": 60}}
COLUMNS = {"series": "variant_id", "ts": "date", "y": "price", "available": "is_available", "title": "title"}
VARIANTS, DAYS, REPEATS = 1000, 60, 3
TARGET = 50  # times less CPU than the peer, for training and for prediction
FORMATS = {  # how the columns of both tables are shown
    "relative MAE": ".2%",
    "relative quantile score": ".2%",
    "skill against last value": "+.1%",
    "from": "+.1%",
    "to": "+.1%",
    "in 90 % band": ".1%",
    "in 90 % band, changed": ".1%",
    "AP ratio": ".2f",
    "Brier skill": "+.3f",
    **{f"{who} {what} s": ".2f" for who in ("peer", "ours") for what in ("wall", "CPU")},
    "wall ratio": ".1f",
    "CPU ratio": ".1f",
}

READING = (
    "Errors are shares of the last price. Skill: quantile score against the last value's, with a 90 % interval by block "
    "bootstrap over origins. AP ratio: average precision of p_change over the rate of change; Brier skill is against that rate."
)
MACHINE = "{cores} cores, one thread, {turns}. The networks differ, and with them what an epoch is; accuracy is not compared."

# --- accuracy -------------------------------------------------------------------------------------------------------------


def job(quick: bool, file: str | None = None) -> Params:
    """Params of the price job with dense origins; on a file instead of the warehouse, when one is given."""
    told = read_yaml(PARAMS / "prices.yaml")
    told = merge(merge(told, read_yaml(PARAMS / "smoke.yaml")), QUICK) if quick else merge(told, DENSE)
    return Params.model_validate(merge(told, {"source": {"kind": "file", "path": file, "columns": COLUMNS}} if file else {}))


def load(params: Params, directory: str) -> panels.Panel:
    """The panel of a job as of its newest day, by the same doors as a run: source, warehouse, intake, panel."""
    source, store = SOURCES[params.source.kind], connect(f"duckdb:{directory}/warehouse.duckdb")
    as_of = source.span(params.source, store)[1]
    frame = source.read(params.source, store, as_of).frame
    panel = panels.build(frame, params.freq, as_of, past=params.source.past, horizon=params.horizon)
    return panel.take(slice(params.max_series))


def accuracy(panel: panels.Panel, params: Params, data: str) -> tuple[pd.DataFrame, str]:
    """A row a model, best first, its columns as ``READING`` says, and what the record covers in a sentence."""
    record = gate.replay(backtest.rolling(panel, params, progress=True), params)
    back = backtest.frame(record, panel.ids, params)
    if not back["y"].notna().any():
        raise SourceError(f"{data}: from no rolling origin did a forecast meet an actual; give a longer history")
    table, scored = scoreboard.score_table(back, params), points.errors(back)
    value, rows = table.set_index(["model", "slice", "metric"])["value"], []
    for name in table["model"].unique():
        pair = scored[scored["model"].isin([name, SAFE])]
        skill = {"skill": 0.0, "low": 0.0, "high": 0.0}  # of the last value against itself
        if name != SAFE:
            skill = scoreboard.skills(pair, model=name, seed=params.seed).set_index("baseline").reindex([SAFE]).iloc[0]
        rows.append(
            {
                "data": data,
                "model": name,
                "relative MAE": value[name, "all", "rel_mae"],
                "relative quantile score": value[name, "all", "rel_ql"],
                "skill against last value": skill["skill"],
                "from": skill["low"],
                "to": skill["high"],
                "in 90 % band": value[name, "all", "coverage90"],
                "in 90 % band, changed": value.get((name, "changed", "coverage90"), np.nan),
                "AP ratio": value[name, "all", "ap_ratio"],
                "Brier skill": value[name, "all", "brier_skill"],
            }
        )
    said = f"{data}: {scoreboard.describe(back)} {value['published', 'all', 'change_rate']:.1%} of prices had changed by then."
    return pd.DataFrame(rows).sort_values("relative quantile score", ignore_index=True), said


# --- speed ----------------------------------------------------------------------------------------------------------------


class Peer:
    """The named peer: a trainer of the plain network that takes one window at a time, as such pipelines are written.

    Each item is scaled to 0..1 over all its days and cut into windows of L + H days; a DataLoader fetches windows singly and
    stacks 64; Adam on squared error; the last tenth of the windows is validated on; forecasts are made item by item. It is
    spared what the pipeline that it stands for also did: scoring all training windows after each epoch, filtering a frame.
    """

    def __init__(self, length: int, horizon: int):
        self.L, self.H = length, horizon
        torch.manual_seed(0)
        self.net = Plain(dict(hidden_size=128, num_layers=2, forecast_length=horizon, attention=False))

    @staticmethod
    def scaled(panel: panels.Panel):
        """Each item in turn: its prices scaled, its lowest one and its span (1 where the price never moved)."""
        for row in panel.filled:
            row = row[np.isfinite(row)]
            low, span = row.min(), row.max() - row.min() or 1.0
            yield (row - low) / span, low, span

    def fit(self, panel: panels.Panel, epochs: int = 1) -> str:
        """Train; returns what was done, in words."""
        width, x, y = self.L + self.H, [], []
        for row, _, _ in self.scaled(panel):
            for start in range(len(row) - width + 1):
                x.append(torch.tensor(row[start : start + self.L], dtype=torch.float32))
                y.append(torch.tensor(row[start + self.L : start + width], dtype=torch.float32))
        x, y, train = torch.stack(x), torch.stack(y), int(0.9 * len(x))
        batches = DataLoader(TensorDataset(x[:train], y[:train]), batch_size=64, shuffle=True)
        held = DataLoader(TensorDataset(x[train:], y[train:]), batch_size=64)
        optimizer, squares = torch.optim.Adam(self.net.parameters(), lr=1e-3), nn.MSELoss()
        for _ in range(epochs):
            self.net.train()
            for a, b in batches:
                optimizer.zero_grad()
                squares(self.net(a), b).backward()
                optimizer.step()
            self.net.eval()
            with torch.no_grad():
                for a, b in held:
                    squares(self.net(a), b).item()
        return f"plain network, float32; {train:,} windows of {self.L} days, {len(batches):,} steps of 64 an epoch"

    @torch.no_grad()
    def forecast(self, panel: panels.Panel) -> np.ndarray:
        """(N, H) point forecasts, one item at a time."""
        self.net.eval()
        items = ((torch.tensor(row[-self.L :], dtype=torch.float32), low, span) for row, low, span in self.scaled(panel))
        return np.stack([self.net(x[None])[0].numpy() * span + low for x, low, span in items])


def timed(work, *given, **named) -> tuple[object, float, float]:
    """What a call returns, its wall seconds and its CPU seconds (of all threads)."""
    wall, cpu = time.perf_counter(), time.process_time()
    return work(*given, **named), time.perf_counter() - wall, time.process_time() - cpu


def speed(quick: bool) -> pd.DataFrame:
    """Medians of ``REPEATS`` turns: training and prediction, the peer's seconds over ours, and whether the target is met.

    Our training runs all its epochs (no early stop); the peer runs one, and its seconds are multiplied by as many.
    """
    panel = posted_panel(50 if quick else VARIANTS, DAYS)
    epochs, H = lstm.DEFAULTS["epochs"], lstm.DEFAULTS["forecast_length"]
    peer, seconds = Peer(lstm.DEFAULTS["sequence_length"], H), {"train": [], "predict": []}
    for _ in range(1 if quick else REPEATS):
        told, *theirs = timed(peer.fit, panel)
        model, *ours = timed(lstm.fit, panel, patience=epochs, **({"max_steps": 10} if quick else {}))
        seconds["train"].append([*(s * epochs for s in theirs), *ours])
        _, *theirs = timed(peer.forecast, panel)
        _, *ours = timed(models.forecast, model, panel, H, LEVELS)
        seconds["predict"].append([*theirs, *ours])
    with autocast(torch.device("cpu")):
        number = str(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32).split(".")[1]
    work = f"{model.info['n_origins']:,} origins, {model.history[-1]['step']:,} steps of {model.hyper['batch_size']} crops"
    compared = {
        "train": (f"{told}; 1 epoch measured, times {epochs}", f"forking network, {number}; {work} in {epochs} epochs"),
        "predict": (f"{H} points, one item at a time", f"{H} x {len(LEVELS)} quantiles and p_change, all items at once"),
    }
    rows = []
    for what, parts in seconds.items():
        wall, cpu, our_wall, our_cpu = (statistics.median(column) for column in zip(*parts, strict=True))
        row = {"what": f"{what}, {len(panel):,} variants x {DAYS} days", "peer wall s": wall, "peer CPU s": cpu}
        row |= {"ours wall s": our_wall, "ours CPU s": our_cpu, "wall ratio": wall / our_wall, "CPU ratio": cpu / our_cpu}
        row |= {"target": f"{TARGET}x less CPU: {'met' if cpu / our_cpu >= TARGET else 'missed'}"}
        rows.append(row | dict(zip(("peer", "ours"), compared[what], strict=True)))
    return pd.DataFrame(rows)


# --- the page -------------------------------------------------------------------------------------------------------------


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a table of markdown, numbers to the right."""
    rules = ["---:" if name in FORMATS else "---" for name in frame]
    cells = [
        ["–" if v != v else format(v, FORMATS.get(c, "")) for c, v in zip(frame, row, strict=True)]  # NaN is not itself
        for row in frame.itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(frame), rules, *cells])


def main() -> None:
    """Measure, print, write. One line and exit code 1 when the data cannot be read."""
    ask = argparse.ArgumentParser(description="accuracy and speed of the price forecasts")
    ask.add_argument("--out", type=Path, default=Path("outputs/bench"), help="where the tables are written")
    ask.add_argument("--file", action="append", default=[], help=f"own prices, with columns {', '.join(COLUMNS.values())}")
    ask.add_argument("--quick", action="store_true", help="few series, two origins: only to see that it runs")
    told = ask.parse_args()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:  # all are read first: a fault in one is told before the long work
            jobs = [(job(told.quick, file), Path(file or "sample").name) for file in (None, *told.file)]
            data = [(load(params, directory), params, name) for params, name in jobs]
        tables, said = zip(*(accuracy(*given) for given in data), strict=True)
    except SourceError as error:
        sys.exit(f"bench: {error}")
    found = {"accuracy": pd.concat(tables, ignore_index=True), "speed": speed(told.quick)}
    machine = MACHINE.format(cores=os.cpu_count(), turns="one turn" if told.quick else f"medians of {REPEATS} turns")
    page = [*said, READING, markdown(found["accuracy"]), machine, markdown(found["speed"])]
    print("\n\n".join(page))
    told.out.mkdir(parents=True, exist_ok=True)
    write_text(told.out / "bench.md", "\n\n".join(page) + "\n")
    for name, table in found.items():
        write_text(told.out / f"{name}.csv", table.to_csv(index=False))


if __name__ == "__main__":
    main()
