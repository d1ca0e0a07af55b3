"""What the tests of sales share: seeded intermittent sales, their panel, tiny params and a run directory."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecastbook.intake import Intake, quiet
from forecastbook.panel import Panel, build
from forecastbook.params import Params
from forecastbook.yamlfile import merge

FILE = {"kind": "file", "path": "sales.csv"}
TINY = {
    "source": FILE,
    "model": {"name": "tide", "hidden_size": 8, "epochs": 1, "max_steps": 20, "sequence_length": 8, "seeds": 1},
    "horizon": 3,
    "finetune": {"epochs": 1, "days": 20, "validation_days": 4},
    "backtest": {"origins": 4, "stride": 3, "refits": 2},
}


def tiny(**over) -> Params:
    """Params of a sales job that trains in a blink; ``over`` is laid over them, section by section."""
    return Params.model_validate(merge(TINY, over))


def sold_units(n: int = 40, weeks: int = 52, seed: int = 0, start: str = "2024-01-01") -> pd.DataFrame:
    """A long frame of intermittent weekly sales, Mondays, no row where nothing was sold; items begin at different weeks."""
    draw, parts = np.random.default_rng(seed), []
    for i in range(n):
        rate, first = float(draw.gamma(1.0, 2.0)) + 0.2, int(draw.integers(0, 10)) * (i > 0)
        y = draw.negative_binomial(1.5, 1.5 / (1.5 + rate), weeks).astype(float)
        y[:first], y[first] = 0, max(y[first], 1)
        at = np.flatnonzero(y)
        ts = pd.date_range(start, periods=weeks, freq="W-MON")[at]
        parts.append(pd.DataFrame({"series_id": f"{i:03d}", "ts": ts, "y": y[at], "available": True, "title": f"Item {i}"}))
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[len(frame)] = ["000", pd.date_range(start, periods=weeks, freq="W-MON")[-1], 1.0, True, "Item 0"]
    frame = frame.drop_duplicates(["series_id", "ts"], keep="last").sort_values(["series_id", "ts"], ignore_index=True)
    return frame.astype({"series_id": "category"})


def complete(frame: pd.DataFrame, freq: str = "W-MON", as_of=None) -> pd.DataFrame:
    """The frame with its periods without a sale."""
    return quiet(Intake(frame, pd.DataFrame(), {}), freq, as_of or frame["ts"].max()).frame


def sales_panel(n: int = 40, weeks: int = 52, seed: int = 0) -> Panel:
    frame = complete(sold_units(n, weeks, seed))
    return build(frame, "W-MON", frame["ts"].max())
