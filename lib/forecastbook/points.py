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

from forecastbook import scores

OURS = (
    "published",
    "challenger",
    "blend",
    "lstm_table",
    "lstm",
    "gbm",
    "tide",
    "champion",
)  # not baselines; the first one there is leads a figure
BANDS = {"inside90": ("q05", "q95"), "inside50": ("q25", "q75")}  # central bands and the quantiles at their ends


def levels(names: Iterable[str]) -> dict[str, float]:
    """Quantile columns among the names (of a frame's columns) and their levels: {'q05': 0.05, …}, in order."""
    found = {c: int(c[1:]) / 10 ** (len(c) - 1) for c in names if re.fullmatch(r"q\d{2,}", str(c))}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Score every row of a backtest that has an actual.

    Returns the rows with a finite y and a positive last_value, with the columns model, series_id, origin, horizon (where
    present) and: error = |y − q50| / last_value; loss = mean over the levels of pinball / last_value; inside90, inside50 = y
    within [q05, q95], [q25, q75]; changed as in ``scores.changed``. A frame that is scored already is returned as it is.
    """
    if "loss" in frame:
        return frame
    out, keep = _scored(list(frame), frame.__getitem__)
    return out.set_axis(frame.index[keep])


def _scored(names: list[str], column: Callable[[str], pd.Series]) -> tuple[pd.DataFrame, np.ndarray]:
    """``errors`` of a backtest whose columns are asked for one at a time: (scores (k, …), which rows have one (n,) bool)."""
    y, last = column("y").to_numpy(float), column("last_value").to_numpy(float)
    keep = np.isfinite(y) & np.isfinite(last) & (last > 0)
    y, last = y[keep], last[keep]
    out = {name: column(name).array[keep] for name in ("model", "series_id", "origin", "ts", "horizon") if name in names}
    quantiles = levels(names)
    bands = {label: ends for label, ends in BANDS.items() if set(ends) <= set(quantiles)}
    slack = 1e-9 * np.maximum(1.0, np.abs(y))  # a price that equals the bound is inside, whatever the last bit says
    loss, inside = np.zeros(len(y)), {label: np.ones(len(y), dtype=bool) for label in bands}
    for name, level in quantiles.items():
        gap = y - column(name).to_numpy(float)[keep]
        for label, (low, high) in bands.items():
            inside[label] &= (gap >= -slack) if name == low else (gap <= slack) if name == high else True
        if name == "q50":
            out["error"] = np.abs(gap) / last
        loss += np.maximum(level * gap, (level - 1) * gap)
    out["loss"] = loss / max(len(quantiles), 1) / last
    out |= {label: held.astype("float32") for label, held in inside.items()}
    out["changed"] = scores.changed(y, last) == 1
    return pd.DataFrame(out, copy=False), keep


def read(path: Path, keep=("published", "last_value")) -> tuple[pd.DataFrame, pd.DataFrame]:
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
