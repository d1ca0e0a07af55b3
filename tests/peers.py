"""The peers that the bench measures against: the pipeline that this project replaces, darts, and a pivot of pandas.

Each is written as it is usually written, on the kinder side where there is a choice. Nothing of the product imports this.

Symbols: N series, T days, H days ahead, L days of context, W windows, Q quantile levels.
"""

from __future__ import annotations

import logging
import warnings

import duckdb
import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import MinMaxScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from forecastbook.panel import Panel
from forecastbook.plain import Plain

PIVOT = """
SELECT f.variant_id, d.full_date, f.current_price
FROM FactProductPrice f JOIN DimVariant v USING (variant_id) JOIN DimDate d USING (date_id)
WHERE f.is_available AND f.current_price > 0
"""


def long(panel: Panel) -> pd.DataFrame:
    """The frame that the old pipeline works on: product_id int64, date, price; a row an observation, by product and date."""
    series, day = np.nonzero(panel.observed)
    return pd.DataFrame(
        {"product_id": series, "date": panel.dates[day].astype("datetime64[ns]"), "price": panel.y[series, day]}
    )


class Original:
    """The price pipeline that this project replaces: its trainer, one window at a time, and its forecasts, one item at a time.

    An item is filtered out of the long frame, its prices are scaled to 0..1 over all its rows and cut into windows of L + H
    rows, stride 1. The first nine tenths of the windows are trained on: a DataLoader fetches them singly and stacks 64; Adam on
    squared error. After each epoch all windows are scored again, those trained on and the rest. Left out: its invented history.
    """

    BATCH, RATE, SHARE = 64, 1e-3, 0.9

    def __init__(self, length: int, horizon: int):
        self.L, self.H, self.scalers = length, horizon, {}
        torch.manual_seed(0)
        self.net = Plain(dict(hidden_size=128, num_layers=2, forecast_length=horizon, attention=False))

    def windows(self, frame: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled windows (W, L) and what follows them (W, H); keeps the scaler of each item."""
        x, y = [], []
        for product in frame["product_id"].unique():
            prices = frame[frame["product_id"] == product].sort_values("date")["price"].to_numpy()
            if len(prices) < self.L + self.H:
                continue
            self.scalers[product] = MinMaxScaler()
            scaled = self.scalers[product].fit_transform(prices[:, None]).ravel()
            for start in range(len(scaled) - self.L - self.H + 1):
                x.append(scaled[start : start + self.L])
                y.append(scaled[start + self.L : start + self.L + self.H])
        return torch.tensor(np.array(x), dtype=torch.float32), torch.tensor(np.array(y), dtype=torch.float32)

    def fit(self, frame: pd.DataFrame, epochs: int) -> str:
        """Train; returns what was done, in words."""
        x, y = self.windows(frame)
        cut = int(self.SHARE * len(x))
        train = DataLoader(TensorDataset(x[:cut], y[:cut]), batch_size=self.BATCH, shuffle=True)
        held = DataLoader(TensorDataset(x[cut:], y[cut:]), batch_size=self.BATCH)
        optimizer, squares = torch.optim.Adam(self.net.parameters(), lr=self.RATE), nn.MSELoss()
        for _ in range(epochs):
            self.net.train()
            for a, b in train:
                optimizer.zero_grad()
                squares(self.net(a), b).backward()
                optimizer.step()
            self.scores(train), self.scores(held)
        return f"plain network, float32; {cut:,} windows of {self.L} rows, {len(train):,} steps of {self.BATCH} an epoch"

    @torch.no_grad()
    def scores(self, batches: DataLoader) -> dict[str, float]:
        """What it prints after an epoch, of scaled prices."""
        self.net.eval()
        said, came = (torch.cat(parts) for parts in zip(*((self.net(a), b) for a, b in batches), strict=True))
        error, some = (said - came).abs(), came.abs() > 1e-8
        return {
            "loss": float((error**2).mean()),
            "mae": float(error.mean()),
            "mae_percentage": float(100 * error.mean() / (came.abs().mean() + 1e-8)),
            "mape": float(100 * (error[some] / (came[some] + 1e-8)).abs().mean()),
            "accuracy": float((error <= 0.05).float().mean()),
        }

    @torch.no_grad()
    def forecast(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A row an item and day ahead: product_id, ahead, predicted_price, confidence_upper, confidence_lower."""
        self.net.eval()
        rows = []
        for product in frame["product_id"].unique():
            prices = frame[frame["product_id"] == product].sort_values("date")["price"]
            if len(prices) < self.L:
                continue
            last = prices.to_numpy()[-self.L :, None]
            scaler = self.scalers.get(product) or MinMaxScaler().fit(last)
            x = torch.tensor(scaler.transform(last).ravel(), dtype=torch.float32)[None]
            points = scaler.inverse_transform(self.net(x).numpy().reshape(-1, 1).astype(float)).ravel()
            margin = 1.96 * prices.std()
            for ahead, point in enumerate(points, start=1):
                upper, lower = round(point + margin, 2), round(max(0.0, point - margin), 2)
                rows.append((product, ahead, round(point, 2), upper, lower))
        return pd.DataFrame(rows, columns=["product_id", "ahead", "predicted_price", "confidence_upper", "confidence_lower"])


class Darts:
    """darts' stock BlockRNNModel with the size, context, horizon and quantiles of our network; it reads the price alone."""

    def __init__(self, hyper: dict, levels, batch: int):
        warnings.filterwarnings("ignore", module="pytorch_lightning|torch|darts")
        from darts import TimeSeries  # only here: seconds of imports that no other part of the bench needs
        from darts.models import BlockRNNModel
        from darts.utils.likelihood_models import QuantileRegression

        for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.TimeSeries, self.H = TimeSeries, hyper["forecast_length"]
        quiet = ("enable_progress_bar", "enable_checkpointing", "enable_model_summary", "logger")
        self.make = lambda epochs: BlockRNNModel(
            model="LSTM",
            hidden_dim=hyper["hidden_size"],
            n_rnn_layers=hyper["num_layers"],
            input_chunk_length=hyper["sequence_length"],
            output_chunk_length=self.H,
            likelihood=QuantileRegression(list(levels)),
            batch_size=batch,
            n_epochs=epochs,
            random_state=0,
            pl_trainer_kwargs={"accelerator": "cpu", **dict.fromkeys(quiet, False)},
        )
        self.batch, self.model = batch, None

    def series(self, panel: Panel) -> list:
        """One float32 series an item, from its first observation on, gaps filled: the kinder choice, it takes no NaN."""
        out = []
        for row in panel.filled:
            first = int(np.isfinite(row).argmax())
            days = pd.DatetimeIndex(panel.dates[first:], freq=panel.freq)
            out.append(self.TimeSeries.from_times_and_values(days, row[first:].astype(np.float32)))
        return out

    def fit(self, series: list, epochs: int) -> None:
        """Train from nothing, one pass over all windows an epoch."""
        self.model = self.make(epochs)
        self.model.fit(series)

    def forecast(self, series: list) -> list:
        """Quantiles (H, Q) of each item, read off the output once: nothing is sampled."""
        return self.model.predict(self.H, series=series, predict_likelihood_parameters=True, batch_size=1024)


def pivot(path) -> list[pd.DataFrame]:
    """The usable facts of a warehouse file fetched as a frame and pivoted: one table (N, T), of prices. Nothing is checked."""
    with duckdb.connect(str(path), read_only=True) as connection:
        facts = connection.execute(PIVOT).df()
    return [facts.pivot(index="variant_id", columns="full_date", values="current_price")]


def checked(path) -> list[pd.DataFrame]:
    """The same with what a source checks of its rows, by ordinary means of pandas: (N, T) prices, list prices, availability.

    A row of an unknown variant or day, or with an impossible price, is left out, a price a hundred times the item's usual one
    too, and of several facts of one variant and day the newest stays.
    """
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = ("FactProductPrice", "DimVariant", "DimDate")
        facts, variants, days = (connection.execute(f"SELECT * FROM {name}").df() for name in tables)
    facts = facts[facts["variant_id"].isin(variants["variant_id"])]
    facts = facts.assign(day=facts["date_id"].map(days.set_index("date_id")["full_date"]))
    facts = facts[facts["day"].notna() & facts["is_available"].notna()]
    offered, price = facts["is_available"].astype(bool), facts["current_price"]
    facts = facts[~(offered & ~(price > 0)) & ~(price < 0) & ~np.isinf(price)]
    price = facts["current_price"].where(facts["is_available"].astype(bool))
    log, item = np.log(price), facts["variant_id"]
    far = (log - log.groupby(item).transform("median")).abs() >= np.log(100)
    facts = facts.assign(price=price)[~(far & (price.groupby(item).transform("count") >= 3))]
    facts = facts.sort_values("price_fact_id").drop_duplicates(["variant_id", "day"], keep="last")
    return [facts.pivot(index="variant_id", columns="day", values=v) for v in ("price", "original_price", "is_available")]
