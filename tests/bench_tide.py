"""TiDE fed by whole batches against darts as it is usually fed: an epoch at identical loss, and a forecast of every series.

    .venv/bin/python tests/bench_tide.py [SERIES]

Both sides train darts' own TiDE network on raw counts with the quantile loss, from the same first weights, on the same windows
in the same order, under the same schedule: so that the losses must agree, and only the feeding differs. The stock side is
written as darts documents it, on the kinder side where there is a choice: float32 series, no progress bar, no checkpoints.
Measured in turns, on one thread; the judge is CPU seconds, the median of the turns.

Symbols: N series, T periods, L periods of a window, H periods ahead.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import pandas as pd
import torch

from conftest import LEVELS, panel_of
from forecastbook import tide, tide_data
from forecastbook.panel import Panel

SERIES, PERIODS, EPOCHS, REPEATS = 2000, 52, 2, 3
HYPER = dict(window_scale=False, head="quantile", hidden_size=64, dropout=0.1, seeds=1, epochs=EPOCHS, max_steps=10**6)
BATCHES = (64, 256)  # windows a step
TARGETS = {"epoch": 2.0, "predict": 5.0}


def sales(N: int, T: int = PERIODS, ragged: bool = False, seed: int = 0) -> Panel:
    """Weekly counts, two thirds of them zero; ragged: items begin anywhere in the first half."""
    draw = np.random.default_rng(seed)
    y = draw.negative_binomial(0.5, 0.5 / (0.5 + draw.lognormal(0, 1, N)[:, None]), (N, T)).astype(float)
    if ragged:
        y[np.arange(T) < draw.integers(0, T // 2, N)[:, None]] = np.nan
    return panel_of(y, "2023-01-02", "W-MON")


class Stock:
    """darts' TiDEModel on its own datasets, one window at a time."""

    def __init__(self, panel: Panel, hyper: dict):
        from darts import TimeSeries
        from darts.utils.data import SequentialTorchTrainingDataset

        self.hyper, self.panel, self.series = hyper, panel, []
        for row in panel.y:
            first = int(np.isfinite(row).argmax())
            weeks = pd.DatetimeIndex(panel.dates[first:], freq=panel.freq)
            self.series.append(TimeSeries.from_times_and_values(weeks, row[first:].astype(np.float32)))
        self.data = SequentialTorchTrainingDataset(self.series, None, None, hyper["sequence_length"], hyper["forecast_length"])

    def windows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Series and origin of each window of darts' dataset, in its order: short series come round again."""
        most, span = self.data.max_samples_per_ts, self.hyper["sequence_length"] + self.hyper["forecast_length"]
        at = torch.arange(len(self.data))
        series, back = at // most, at % most
        number = torch.tensor([len(s) - span + 1 for s in self.series])[series]
        return series, len(self.panel.dates) - 1 - self.hyper["forecast_length"] - back % number

    def fit(self, steps: int) -> list[float]:
        """Train; the mean loss of each epoch."""
        from darts.models import TiDEModel
        from darts.utils.likelihood_models.torch import QuantileRegression

        class Losses(tide.nets().lightning.Callback):
            steps, epochs = [], []

            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                self.steps.append(outputs["loss"].detach())

            def on_train_epoch_end(self, trainer, module):
                self.epochs, self.steps = [*self.epochs, float(torch.stack(self.steps).mean())], []

        hyper, recorder = self.hyper, Losses()
        names = (*tide.NETWORK, "dropout", "batch_size")
        self.model = TiDEModel(
            hyper["sequence_length"],
            hyper["forecast_length"],
            **{name: hyper[name] for name in names},
            likelihood=QuantileRegression(list(LEVELS)),
            optimizer_kwargs=dict(lr=hyper["learning_rate"], fused=True),
            lr_scheduler_cls=torch.optim.lr_scheduler.OneCycleLR,
            lr_scheduler_kwargs=dict(
                max_lr=hyper["learning_rate"], pct_start=0.2, total_steps=EPOCHS * steps + 1, interval="step"
            ),
            n_epochs=EPOCHS,
            random_state=0,
            pl_trainer_kwargs=dict(
                accelerator="cpu",
                gradient_clip_val=hyper["gradient_clip"],
                callbacks=[recorder],
                **dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False),
            ),
        )
        self.model.fit_from_dataset(self.data)
        return recorder.epochs

    def forecast(self) -> np.ndarray:
        """Quantiles (N, H, Q), read off the output once: nothing is sampled."""
        H = self.hyper["forecast_length"]
        said = self.model.predict(H, self.series, predict_likelihood_parameters=True, batch_size=tide.CHUNK, verbose=False)
        return np.stack([s.values() for s in said])


def ours(panel: Panel, hyper: dict, stock: Stock) -> tuple[tide.Model, list[float]]:
    """Our feeding of darts' windows in darts' order: the model and the mean loss of each epoch."""
    model = tide.Model([None], hyper, tide_data.learn_scaling(panel, hyper))
    feed, recorder = tide_data.feed(panel, hyper, model.scaling), tide.nets().Recorder()
    net = tide._run(model, feed, stock.windows(), 0, None, EPOCHS, [recorder], False)
    model.states = [{name: v.detach().clone() for name, v in net.model.state_dict().items()}]
    return model, [row["train_loss"] for row in recorder.history]


def timed(work, *given):
    """What a call returns, and its CPU seconds."""
    began = time.process_time()
    out = work(*given)
    return out, time.process_time() - began


def compare(panel: Panel, batch: int) -> list[dict]:
    """Rows "epoch" and "predict" of the table for one panel and batch size."""
    hyper = tide.settings({**HYPER, "batch_size": batch, "seasonal": False})
    stock, turns = Stock(panel, hyper), []
    steps = -(-len(stock.data) // batch)
    for _ in range(REPEATS):
        theirs, their_cpu = timed(stock.fit, steps)
        (model, losses), our_cpu = timed(ours, panel, hyper, stock)
        wanted, their_predict = timed(stock.forecast)
        got, our_predict = timed(tide.forecast, model, panel.take(slice(None)), hyper["forecast_length"], LEVELS)
        turns.append((their_cpu / EPOCHS, our_cpu / EPOCHS, their_predict, our_predict))
    epoch_theirs, epoch_ours, predict_theirs, predict_ours = (statistics.median(column) for column in zip(*turns, strict=True))
    apart = float(np.abs(np.sort(np.maximum(wanted, 0), axis=2) - got.q).max())
    return [
        dict(what="epoch", theirs=epoch_theirs, ours=epoch_ours, agree=f"loss {theirs[-1]:.6f} / {losses[-1]:.6f}"),
        dict(what="predict", theirs=predict_theirs, ours=predict_ours, agree=f"quantiles differ by {apart:.1e} at most"),
    ]


def main(N: int = SERIES) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tide.quiet():
        tide.nets()
        print(f"{N:,} series of {PERIODS} weeks, {EPOCHS} epochs, median of {REPEATS} turns, CPU seconds of one thread")
        print(f"{'series':<8}{'batch':>6}  {'what':<8}{'darts':>8}{'ours':>8}{'ratio':>8}{'target':>8}  agreement")
        for ragged in (False, True):
            for batch in BATCHES:
                for row in compare(sales(N, ragged=ragged), batch):
                    what, ratio = row["what"], row["theirs"] / row["ours"]
                    numbers = f"{row['theirs']:>8.2f}{row['ours']:>8.2f}{ratio:>7.1f}x{TARGETS[what]:>7.0f}x"
                    print(f"{'ragged' if ragged else 'even':<8}{batch:>6}  {what:<8}{numbers}  {row['agree']}", flush=True)


if __name__ == "__main__":
    main(*(int(n) for n in sys.argv[1:]))
