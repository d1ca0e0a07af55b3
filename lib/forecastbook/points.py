"""The points of a backtest, scored one by one: a row a model, series, origin and horizon in, its errors out.

Tables, figures and reports all start here, so that they agree on what an error is. A *backtest* frame has the columns model,
series_id, origin, ts, horizon, y, q05 … q95, last_value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecastbook import scores, trades

# not baselines; the first one there is leads a figure
OURS = ("published", "challenger", "blend", "lstm_table", "lstm", "gbm", "tide", "champion")
ENOUGH = 5  # origins, from which an advantage is told from chance
BANDS = {"inside90": ("q05", "q95"), "inside50": ("q25", "q75")}  # central bands and the quantiles at their ends


def levels(names: Iterable[str]) -> dict[str, float]:
    """Quantile columns among the names (of a frame's columns) and their levels: {'q05': 0.05, …}, in order."""
    found = {c: int(c[1:]) / 10 ** (len(c) - 1) for c in names if re.fullmatch(r"q\d{2,}", str(c))}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Score every row of a backtest that has an actual.

    Returns the rows with a finite y and a size to measure in (``Trade.sizes``: the last price; for sales the mean of all), with
    the columns model, series_id, origin, horizon (where present) and: error = |y − q50| / size; loss = mean over the levels of
    pinball / size (twice that for sales: the mean is their WQL); inside90, inside50 = y within [q05, q95], [q25, q75]; the
    trade's event: changed, or sold; and of sales share = y / size, so that a series' own WQL is sum(loss) / sum(share). A frame
    that is scored already is returned as it is.
    """
    if "loss" in frame:
        return frame
    out, keep = _scored(list(frame), frame.__getitem__)
    return out.set_axis(frame.index[keep])


SCORED = ("q05", "q25", "q50", "q75", "q95")  # what a quantile score is made of where a table has more levels, of service


def _scored(names: list[str], column: Callable[[str], pd.Series]) -> tuple[pd.DataFrame, np.ndarray]:
    """``errors`` of a backtest whose columns are asked for one at a time: (scores (k, …), which rows have one (n,) bool)."""
    trade = trades.of(names)
    y, last = column("y").to_numpy(float), column("last_value").to_numpy(float)
    keep = np.isfinite(y) & np.isfinite(last) & ((last > 0) | (trade is trades.SALES))
    y, last = y[keep], last[keep]
    size = trade.sizes(y, last)
    out = {name: column(name).array[keep] for name in ("model", "series_id", "origin", "ts", "horizon") if name in names}
    quantiles = levels(names)
    if trade is trades.SALES and set(SCORED) <= set(quantiles):
        quantiles = {name: quantiles[name] for name in SCORED}
    bands = {label: ends for label, ends in BANDS.items() if set(ends) <= set(quantiles)}
    loss, inside = np.zeros(len(y)), {label: np.ones(len(y), dtype=bool) for label in bands}
    for name, level in quantiles.items():
        value = column(name).to_numpy(float)[keep]
        gap = y - value
        for label, (low, high) in bands.items():  # an end at a time: no two columns are held at once
            if name in (low, high):
                ends = (value, np.inf) if name == low else (-np.inf, value)
                inside[label] &= scores.covered(y, *ends) == 1
        if name == "q50":
            out["error"] = np.abs(gap) / size
        loss += np.maximum(level * gap, (level - 1) * gap)
    out["loss"] = trade.weight * loss / max(len(quantiles), 1) / size
    out |= {label: held.astype("float32") for label, held in inside.items()}
    out[trade.event] = trade.happened(y, last) == 1
    if trade is trades.SALES:
        out["share"] = y / size
    return pd.DataFrame(out, copy=False), keep


def event(scored: pd.DataFrame) -> pd.Series:
    """Where the trade's event came: the price had changed, something was sold. scored: what ``errors`` made; (n,) bool."""
    return scored[trades.of(scored).event]


def read(path: Path, keep=("published", "last_value", "imapa")) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A ``backtest.parquet``: (the rows of the models ``keep`` that have an actual, ``errors`` of all rows).

    Text is categorical. Millions of rows fit: of the other models no more than a column is in memory at a time. Raises OSError
    or ValueError when the file cannot be read, KeyError when it lacks a column.
    """
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names

        def column(name: str) -> pd.Series:
            if name not in names:
                raise KeyError(name)
            return _tidy(file.read([name]).to_pandas(self_destruct=True))[name]

        scored, _ = _scored([name for name in names if name != "ts"], column)
        tables = [file.schema_arrow.empty_table()]
        for group in range(file.num_row_groups):
            wanted = pc.is_in(file.read_row_group(group, ["model"])["model"].cast(pa.string()), pa.array(keep))
            if pc.any(wanted).as_py():
                table = file.read_row_group(group)
                tables.append(table.filter(pc.and_(wanted, pc.is_valid(table["y"]))))
                del table
    kept = pa.concat_tables(tables).unify_dictionaries()
    del tables
    frame = _tidy(kept.to_pandas(self_destruct=True))
    del kept
    pa.default_memory_pool().release_unused()
    return frame, scored


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with text as categories and an origin that is a time, also where another program wrote the file."""
    for name in {"model", "series_id"} & set(frame):
        if not isinstance(frame[name].dtype, pd.CategoricalDtype):
            frame[name] = frame[name].astype(str).astype("category")
    if "origin" in frame:
        frame["origin"] = pd.to_datetime(frame["origin"])
    return frame
