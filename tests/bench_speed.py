"""The speed half of the bench: ratios against named peers, the share of the matmul limit, and how the cost grows with a shop.

Peer and product are measured in turns in one process, torch on one thread for both; the judge is CPU seconds, which a busy
machine stretches least. Each size of the scaling table has a process of its own, so that its peak memory is its own:

    .venv/bin/python tests/bench_speed.py VARIANTS DAYS

Symbols: N series, T days, H days ahead, B crops in a batch, C days in a crop, S scored origins in a crop, P horizons of each.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import torch

import peers
from conftest import LEVELS, posted_panel
from forecastbook import forking, lstm, models, processes, scores
from forecastbook import panel as panels
from forecastbook.params import Params
from forecastbook.sources import SOURCES
from forecastbook.threads import one_thread
from forecastbook.training import train as train_experts
from forecastbook.warehouse import connect
from forecastbook.yamlfile import read_yaml

PARAMS = Path(__file__).resolve().parents[1] / "params"
VARIANTS, MORE, DAYS, REPEATS = 1000, 5000, 60, 3
L, H = lstm.DEFAULTS["sequence_length"], lstm.DEFAULTS["forecast_length"]
EPOCHS = lstm.DEFAULTS["epochs"]
TARGETS = {"train": 50, "predict": 50, "predict more": 200, "darts": 20, "intake": 12}  # times less CPU than the peer
FACTS, LONG, LAST_DAY = 10_000_000, 400, date(2026, 6, 30)  # rows and days of the intake's warehouse
SIZES, SHOP = (1000, 5000, 20_000), 50  # variants of the scaling table, items of one shop in it
FORMATS = {  # how columns are shown
    **{f"{who} {what} s": ".2f" for who in ("peer", "ours") for what in ("wall", "CPU")},
    **{"wall ratio": ".1f", "CPU ratio": ".1f", "target": ".0f"},
    **{"variants": ",", "train CPU s": ".1f", "forecast CPU s": ".2f", "table CPU s": ".2f", "all CPU s": ".1f"},
    **{"CPU s per 1,000": ".2f", "peak MB": ",.0f"},
    **{"relative MAE": ".2%", "relative quantile score": ".2%"},
}

MACHINE = (
    "{cores} cores, networks on one thread, {turns}. Target: times less CPU than the peer. The networks differ, and with them "
    "what an epoch is: the second table compares what was learnt."
)
QUALITY = "{days} days that nobody trained on, forecast from the last {context}: no worse than the old pipeline: {verdict}."
SCALING = (
    "What the experts of a run cost by the number of variants, {days} days each (trained, grown, all candidates forecast; each "
    "size in a process of its own): {training} s of CPU to train, on a sample of a large panel, then {slope} s and {memory} MB "
    "for each 1,000 variants more"
)


def timed(work, *given, **named) -> tuple[object, float, float]:
    """What a call returns, its wall seconds and its CPU seconds (of all threads); what others left is collected before."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    return work(*given, **named), time.perf_counter() - wall, time.process_time() - cpu


def medians(turns: list) -> list[float]:
    """Column by column: peer wall, peer CPU, our wall, our CPU."""
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def fresh(panel: panels.Panel) -> panels.Panel:
    """The same panel without what it has already worked out, so that a second turn costs what the first did."""
    return panel.take(slice(None))


def row(what: str, turns: list, target: str, peer: str, ours: str, worse: bool = False) -> dict:
    """A line of the speed table from its turns. ``worse``: bought with a worse forecast, so that the target cannot be met."""
    wall, cpu, our_wall, our_cpu = medians(turns)
    met = cpu / our_cpu >= TARGETS[target]
    return {
        "what": what,
        "peer wall s": wall,
        "peer CPU s": cpu,
        "ours wall s": our_wall,
        "ours CPU s": our_cpu,
        "wall ratio": wall / our_wall,
        "CPU ratio": cpu / our_cpu,
        "target": TARGETS[target],
        "verdict": ("met" if not worse else "missed: forecasts are worse") if met else "missed",
        "peer": peer,
        "ours": ours,
    }


def sized(what: str, panel: panels.Panel) -> str:
    return f"{what}, {len(panel):,} variants x {len(panel.dates)} days"


# --- against the old pipeline ---------------------------------------------------------------------------------------------


def our_training(panel: panels.Panel, quick: bool, on_epoch=None) -> lstm.Model:
    """All epochs, whatever the validation loss says."""
    return lstm.fit(panel, patience=EPOCHS, on_epoch=on_epoch, **({"max_steps": EPOCHS} if quick else {}))


def number() -> torch.dtype:
    """What the encoder computes in on this processor."""
    with forking.autocast(torch.device("cpu")):
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def named(kind: torch.dtype) -> str:
    return str(kind).split(".")[1]


def told(model: lstm.Model) -> str:
    """Our training in words."""
    steps, crops = model.history[-1]["step"], model.hyper["batch_size"]
    origins = f"{model.info['n_origins']:,} origins"
    return f"forking network, {named(number())}; {origins}, {steps:,} steps of {crops} crops in {EPOCHS} epochs"


def training(whole: panels.Panel, quick: bool) -> tuple[dict, pd.DataFrame, lstm.Model, peers.Original]:
    """The speed of training on all but the last H days, what the trained forecast there, and both that were trained."""
    panel = whole.until(whole.dates[-H - 1])
    peer, frame, epochs = peers.Original(L, H), peers.long(panel), 1 if quick else EPOCHS
    work, *theirs = timed(peer.fit, frame, epochs)
    turns = []
    for _ in range(1 if quick else REPEATS):
        model, *ours = timed(our_training, fresh(panel), quick)
        turns.append([*(s * EPOCHS / epochs for s in theirs), *ours])
    work += "; 1 epoch measured, times 10" if quick else f"; all {epochs} epochs, measured once"
    quality = forecast_quality(whole, model, peer, frame)
    worse = not no_worse(quality)
    return row(sized("train", panel), turns, "train", f"old pipeline: {work}", told(model), worse), quality, model, peer


def forecast_quality(whole: panels.Panel, model, peer: peers.Original, frame: pd.DataFrame) -> pd.DataFrame:
    """Errors on the last H days, as shares of the last price. We see the L days before them, the old pipeline L rows.

    Its point alone has no quantiles, so it stands for all of them; its interval is also read as that of a normal distribution.
    """
    view = whole.until(whole.dates[-H - 1]).last(L)
    rows = peer.forecast(frame).set_index("product_id")
    seen = np.unique(rows.index)  # what it does forecast: items with L rows
    shape = (len(seen), H)
    point = rows["predicted_price"].to_numpy().reshape(shape)
    spread = frame.groupby("product_id")["price"].std().loc[seen].to_numpy()[:, None]  # its interval is 1.96 of it
    normal = [statistics.NormalDist().inv_cdf(level) for level in LEVELS]
    last = models.Baseline("last_value").forecast(view, H, LEVELS)[0][seen]
    middle = LEVELS.index(0.5)
    said = {
        "ours": models.forecast(model, view, H, LEVELS)[0][seen],
        "old pipeline, its point as all quantiles": np.repeat(point[..., None], len(LEVELS), axis=2),
        "old pipeline, its interval read as a normal one": np.stack([(point + z * spread).clip(min=0) for z in normal], axis=2),
        "last value, as all quantiles": np.repeat(last[..., [middle]], len(LEVELS), axis=2),
        "last value, with its own past errors": last,
    }
    y, price = whole.y[seen, -H:], view.last_value[seen, None]
    return pd.DataFrame(
        {
            "forecast": name,
            "relative MAE": np.nanmean(np.abs(y - q[..., middle]) / price),
            "relative quantile score": np.nanmean(scores.pinball(y, q, LEVELS).mean(axis=2) / price),
        }
        for name, q in said.items()
    )


def no_worse(quality: pd.DataFrame) -> bool:
    """Whether our forecasts are no worse than the old pipeline's, by both errors and whichever way its interval is read."""
    errors = quality.set_index("forecast")
    old = errors[errors.index.str.startswith("old pipeline")].min()
    return bool((errors.loc["ours"] <= old).all())


def prediction(panel: panels.Panel, target: str, model, peer: peers.Original, quick: bool) -> dict:
    """The speed of forecasting every item of a panel."""
    frame, turns = peers.long(panel), []
    peer.windows(frame)  # it has the scaler of every item from training
    for _ in range(1 if quick else REPEATS):
        _, *theirs = timed(peer.forecast, frame)
        _, *ours = timed(models.forecast, model, fresh(panel), H, LEVELS)
        turns.append([*theirs, *ours])
    theirs = f"old pipeline: {H} points and one interval, one item at a time out of a frame of {len(frame):,} rows"
    ours = f"{H} x {len(LEVELS)} quantiles and p_change, all items at once"
    return row(sized("predict", panel), turns, target, theirs, ours)


# --- against darts --------------------------------------------------------------------------------------------------------


def darts(panel: panels.Panel, quick: bool) -> list[dict]:
    """Training and prediction against darts, at whichever of two batch sizes it trains faster."""
    epochs, tried = 1 if quick else EPOCHS, {}
    for batch in (64, 1024):
        peer = peers.Darts(lstm.DEFAULTS, LEVELS, batch)
        tried[batch] = (timed(peer.fit, peer.series(fresh(panel)), 1)[2], peer)
    _, peer = min(tried.values(), key=lambda pair: pair[0])
    fits, forecasts = [], []
    for _ in range(1 if quick else REPEATS):
        series, *reading = timed(peer.series, fresh(panel))
        _, *theirs = timed(peer.fit, series, epochs)
        model, *ours = timed(our_training, fresh(panel), quick)
        fits.append([*(r + s * EPOCHS / epochs for r, s in zip(reading, theirs, strict=True)), *ours])
        _, *theirs = timed(peer.forecast, series)
        _, *ours = timed(models.forecast, model, fresh(panel), H, LEVELS)
        forecasts.append([*(r + s for r, s in zip(reading, theirs, strict=True)), *ours])
    size = f"darts BlockRNNModel of our size, float32, the price alone, {H} x {len(LEVELS)} quantiles"
    work = f"every window, batches of {peer.batch} (the faster of 64 and 1024); "
    work += "1 epoch measured, times 10" if quick else f"all {epochs} epochs"
    return [
        row(sized("train against darts", panel), fits, "darts", f"{size}; {work}", told(model)),
        row(sized("predict against darts", panel), forecasts, "darts", f"{size}; batches of 1024", "the same and p_change"),
    ]


# --- from the warehouse to a panel ----------------------------------------------------------------------------------------

STOCK = """
INSERT INTO FactProductPrice
SELECT row_number() OVER (), variant_id, date_id, CASE WHEN off THEN 0 ELSE price END,
  CASE WHEN price < usual THEN usual END, NOT off
FROM (
  SELECT *, round(usual * CASE WHEN hash(v, t // (7 + v % 13)) % 4 = 0 THEN 0.8 ELSE 1 END, 2) AS price
  FROM (
    SELECT v, 1000 + 7 * v AS variant_id, date_id, t, round(0.5 * exp(hash(v) % 7000 / 1000.0), 2) AS usual,
      hash(v, t, 1) % 33 = 0 AS off
    FROM (SELECT date_id, row_number() OVER (ORDER BY date_id) - 1 AS t FROM DimDate), range({variants}) r(v)
  )
)
ORDER BY date_id, hash(v, date_id)
"""


def stock(path: Path, variants: int) -> None:
    """A warehouse file of a fact a variant and day over LONG days, in the order in which a scraper writes: day by day."""
    connect(f"duckdb:{path}").migrate()
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "INSERT INTO DimDate SELECT CAST(strftime(d, '%Y%m%d') AS BIGINT), CAST(d AS DATE), year(d), month(d), day(d), "
            f"dayname(d) FROM range(DATE '{LAST_DAY}' - {LONG - 1}, DATE '{LAST_DAY}' + 1, INTERVAL 1 DAY) t(d)"
        )
        connection.execute(
            "INSERT INTO DimVariant (variant_id, shop_product_id, variant_title) "
            f"SELECT 1000 + 7 * v, 1 + v // 3, 'Variant ' || v FROM range({variants}) t(v)"
        )
        connection.execute(STOCK.format(variants=variants))


def read(path: Path) -> panels.Panel:
    """The panel of a warehouse file by the production path, as the first notebook takes it."""
    source = SimpleNamespace(history_days=None, sample_series=0)
    found = SOURCES["warehouse_prices"].read(source, connect(f"duckdb:{path}"), LAST_DAY)
    return found.panel("D", LAST_DAY, past=("list_price",))


def intake(quick: bool) -> list[dict]:
    """The speed of reading a warehouse into a panel, against a bare pivot and one with the same checks. All must be equal."""
    variants, bare, same = 100 if quick else FACTS // LONG, [], []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "prices.duckdb"
        stock(path, variants)
        for _ in range(1 if quick else REPEATS):
            panel, *ours = timed(read, path)
            whole = [panel.y, panel.past[:, :, 0], panel.available]
            for peer, parts, turns in ((peers.pivot, whole[:1], bare), (peers.checked, whole, same)):
                tables, *theirs = timed(peer, path)
                for part, table in zip(parts, tables, strict=True):
                    table = table.loc[panel.ids.astype(int)].to_numpy(dtype=float)
                    assert np.array_equal(table, part, equal_nan=True), "the panels differ"
                turns.append([*theirs, *ours])
                del tables, table
            del panel
    size, work = f"{variants * LONG:,} facts", "read with all checks (bad rows, duplicates, unit errors, strays), Intake.panel"
    peer = "DuckDB's .df(), DataFrame.pivot"
    return [
        row(f"DuckDB to panel, {size}", bare, "intake", f"{peer}; nothing checked", work),
        row(f"DuckDB to panel with checks, {size}", same, "intake", f"{peer}, and the same checks in pandas", work),
    ]


# --- the limit of the machine ---------------------------------------------------------------------------------------------


def matmul_rate(number: torch.dtype, size: int = 1024) -> float:
    """Operations a second of one thread in matrix products, the best of ten."""
    a = torch.randn(size, size).to(number)
    return 2 * size**3 / min(timed(torch.mm, a, a)[2] for _ in range(10))


def operations(net: forking.Forking, crops: int, days: int, origins: int) -> int:
    """Of a training step without attention, by the shapes of the weights: a multiply-add is two; backward is twice forward."""
    weights = {name: tensor.numel() for name, tensor in net.named_parameters() if tensor.dim() == 2}
    kept, asked = forking.remembering(crops), crops * origins * min(forking.ASKED, len(net.hazard))
    times = {"encoder": kept * days, "from_state": kept * origins, "from_features": crops * origins}  # the others once if asked
    return 3 * 2 * sum(size * times.get(name.split(".")[0], asked) for name, size in weights.items())


def limit(panel: panels.Panel, quick: bool) -> str:
    """What part of the machine's matrix products training reaches, in a sentence; by CPU seconds, validation not counted."""
    marks = []
    model = our_training(panel, quick, on_epoch=lambda _: marks.append(time.process_time()))
    held = int((panel.as_of - np.datetime64(model.info["trained_until"])).astype(int))
    data = forking.prepare(model, panel, held, cold=False)
    with one_thread():
        validation = statistics.median(timed(data.validate, model.net, torch.device("cpu"))[2] for _ in range(REPEATS))
        rates = {named(kind): matmul_rate(kind) for kind in dict.fromkeys([number(), torch.float32])}
    steps, crops = model.history[-1]["step"] / EPOCHS, model.hyper["batch_size"]
    seconds = (statistics.median(np.diff(marks)) - validation) / steps
    done = operations(model.net, crops, data.length, origins=round((data.length - data.warm) / forking.EVERY))
    reached = ", ".join(f"{done / seconds / rate:.0%} of the {rate / 1e9:,.0f} in {name}" for name, rate in rates.items())
    return (
        f"A training step of {crops} crops of {data.length} days is {done / 1e9:.2f} GFLOP in {seconds * 1e3:.1f} ms of CPU: "
        f"{done / seconds / 1e9:.0f} GFLOP/s, {reached} that one thread reaches in products of 1024 x 1024."
    )


# --- how the cost grows ---------------------------------------------------------------------------------------------------


def peak_memory() -> float:
    """The most MB that this process has held. Linux lets a child start with its parent's ru_maxrss, but not with its VmHWM."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # elsewhere in bytes


def experts(variants: int, days: int) -> dict:
    """What the experts of one run cost at a size, in this process: trained, grown, and all candidates forecast."""
    params = Params.model_validate(read_yaml(PARAMS / "prices.yaml"))
    panel = processes.shops(variants // SHOP, SHOP, days, seed=0)
    speaker, _, train = timed(train_experts, panel, params)
    _, _, forecast = timed(speaker.forecasts, panel, params.horizon, params.quantiles)
    _, _, table = timed(models.forecast, models.Baseline("table"), panel, params.horizon, params.quantiles)
    spent = train + forecast + table
    costs = {"train CPU s": train, "forecast CPU s": forecast, "table CPU s": table, "all CPU s": spent}
    return {"variants": variants, **costs, "CPU s per 1,000": spent / variants * 1000, "peak MB": peak_memory()}


def scaling(quick: bool) -> tuple[pd.DataFrame, str]:
    """A row a size, each measured in a process of its own, and the straight line through them in words."""
    rows, days = [], DAYS if quick else LONG
    for variants in (SHOP, 2 * SHOP) if quick else SIZES:
        command = [sys.executable, __file__, str(variants), str(days)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    table = pd.DataFrame(rows)
    thousands, training = table["variants"] / 1000, table["train CPU s"].mean()  # bounded: its noise is no slope
    grows = (table["forecast CPU s"] + table["table CPU s"], table["peak MB"])
    lines = [np.polyfit(thousands, column, 1) for column in grows]
    said = SCALING.format(days=days, training=f"{training:.0f}", slope=f"{lines[0][0]:.2f}", memory=f"{lines[1][0]:.0f}")
    if not quick:
        seconds, memory = (np.polyval(line, 1000) for line in lines)
        said += f"; by that 1,000,000 variants would take {training + seconds:.0f} s of one core and {memory / 1024:.0f} GB"
    return table, said + "."


# --- all of it ------------------------------------------------------------------------------------------------------------


def measure(quick: bool) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Tables by name (speed, quality, scaling) and the sentence that stands over or, of the limit, below each."""
    whole = posted_panel(50 if quick else VARIANTS, DAYS + H)
    panel, more = whole.until(whole.dates[-H - 1]), posted_panel(100 if quick else MORE, DAYS)
    first, quality, model, peer = training(whole, quick)
    rows = [first, prediction(panel, "predict", model, peer, quick), prediction(more, "predict more", model, peer, quick)]
    rows += [*darts(panel, quick), *intake(quick)]
    grown, growth = scaling(quick)
    said = {
        "speed": MACHINE.format(cores=os.cpu_count(), turns="one turn" if quick else f"medians of {REPEATS} turns"),
        "quality": QUALITY.format(days=H, context=L, verdict="yes" if no_worse(quality) else "no"),
        "limit": limit(panel, quick),
        "scaling": growth,
    }
    return {"speed": pd.DataFrame(rows), "quality": quality, "scaling": grown}, said


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(experts(*map(int, sys.argv[1:]))))
