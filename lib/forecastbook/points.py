"""The points of a backtest, scored one by one: a row a model, series, origin and horizon in, its errors out.

Tables, figures and reports all start here, so that they agree on what an error is. A *backtest* frame has the columns model,
series_id, origin, ts, horizon, y, q05 … q95, last_value.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from forecastbook import scores

OURS = ("published", "challenger", "lstm", "tide", "gbm", "champion")  # not baselines; the first one there is leads a figure


def levels(frame: pd.DataFrame) -> dict[str, float]:
    """Quantile columns and their levels: {'q05': 0.05, …}, in order."""
    found = {c: int(c[1:]) / 10 ** (len(c) - 1) for c in frame.columns if re.fullmatch(r"q\d{2,}", str(c))}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Score every row of a backtest that has an actual.

    Returns the rows with a finite y and a positive last_value, with the columns model, series_id, origin, horizon (where
    present) and: error = |y − q50| / last_value; loss = mean over the levels of pinball / last_value; inside90, inside50 = y
    within [q05, q95], [q25, q75]; changed as in ``scores.changed``. A frame that is scored already is returned as it is.
    """
    if "loss" in frame:
        return frame
    y, last = frame["y"].to_numpy(float), frame["last_value"].to_numpy(float)
    keep = np.isfinite(y) & np.isfinite(last) & (last > 0)
    frame, y, last = frame.loc[keep], y[keep], last[keep]
    quantiles = levels(frame)
    loss = np.zeros(len(y))
    for column, level in quantiles.items():
        gap = y - frame[column].to_numpy(float)
        loss += np.maximum(level * gap, (level - 1) * gap)
    out = frame[[c for c in ("model", "series_id", "origin", "ts", "horizon") if c in frame]].copy()
    out["error"] = np.abs(y - frame["q50"].to_numpy(float)) / last
    out["loss"] = loss / max(len(quantiles), 1) / last
    for label, (low, high) in {"inside90": ("q05", "q95"), "inside50": ("q25", "q75")}.items():
        if low in frame and high in frame:
            slack = 1e-9 * np.maximum(1.0, np.abs(y))  # a price that equals the bound is inside, whatever the last bit says
            out[label] = scores.covered(y, frame[low].to_numpy(float) - slack, frame[high].to_numpy(float) + slack)
    out["changed"] = scores.changed(y, last) == 1
    return out
