"""Rolling origins: the life of the job, replayed.

A model is trained at the first origin on what was known then, fine-tuned along the way, and asked at every origin together
with the baselines. Whatever is asked gets ``panel.until(origin)`` and nothing else.

Symbols: N series, H periods ahead, Q quantile levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tqdm import tqdm

from forecastbook import models, scores
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.roster import status, trainable

SAFE = "last_value"  # what is published where nothing has proven better


@dataclass
class Origin:
    """Every forecast made from one origin, and what came. ``q``: name -> (N, H, Q); ``p``: name -> (N, H)."""

    date: np.datetime64
    ts: np.ndarray  # (H,) the periods forecast
    status: np.ndarray  # (N,) 'model', 'naive' or 'excluded' at that date
    last: np.ndarray  # (N,) last value then
    scale: np.ndarray  # (N,) what errors are measured in
    y: np.ndarray  # (N, H), NaN where not observed
    q: dict[str, np.ndarray] = field(default_factory=dict)
    p: dict[str, np.ndarray] = field(default_factory=dict)
    warm_up: bool = False  # evidence from before the first origin; in no score table


def hyper(params: Params) -> dict:
    """Hyperparameters of a first training, as the model takes them."""
    own = params.model.model_dump(exclude={"name", "forecast_length"})
    return {
        **own,
        "forecast_length": params.model.forecast_length or params.horizon,
        "seed": params.seed,
        "validation_days": params.finetune.validation_days,
        "patience": params.finetune.patience,
    }


def finetune_hyper(params: Params) -> dict:
    """Hyperparameters of a fine-tune."""
    f = params.finetune
    return {
        "epochs": f.epochs,
        "learning_rate": f.learning_rate,
        "patience": f.patience,
        "validation_days": f.validation_days,
        "train_days": f.days,
        "seed": params.seed,
        "device": params.model.device,
    }


def origins(panel: Panel, params: Params) -> list[np.datetime64]:
    """Rolling origins, oldest first: the last lies a horizon before the as-of date, the others a stride apart.

    Origins with fewer periods before them than the context are left out: nobody could have forecast there.
    """
    last = len(panel.dates) - 1 - params.horizon
    found = [last - k * params.backtest.stride for k in range(params.backtest.origins)]
    return [panel.dates[i] for i in sorted(found) if i + 1 >= params.model.sequence_length]


def held_out(panel: Panel, params: Params) -> list[np.datetime64]:
    """Origins within the periods that training kept away from, a horizon apart, oldest first."""
    last = len(panel.dates) - 1 - params.horizon
    count = max(params.finetune.validation_days // params.horizon, 1)
    return [panel.dates[last - k * params.horizon] for k in reversed(range(count)) if last - k * params.horizon >= 1]


def ask(panel: Panel, date, params: Params, asked: dict, warm_up: bool = False) -> Origin:
    """Every model's forecast from ``date``, made on ``panel.until(date)``, with what ``panel`` knows of the periods after."""
    view = panel.until(date)
    at = Origin(
        date,
        view.horizon_dates(params.horizon),
        status(view, params),
        view.last_value,
        models.scale(view),
        panel.after(date, params.horizon),
        warm_up=warm_up,
    )
    for name, model in asked.items():
        at.q[name], at.p[name] = models.forecast(model, view, params.horizon, params.quantiles)
    return at


def rolling(panel: Panel, params: Params, progress: bool = False) -> list[Origin]:
    """Replay the job over its rolling origins: train at the first, fine-tune ``refits - 1`` times, ask everyone at each.

    The held-out origins of the first training come first, marked ``warm_up``: the evidence that the job would have had on its
    first day.
    """
    dates = origins(panel, params)
    baselines = {name: models.fit(name, panel) for name in models.BASELINES}
    model, record = None, []
    refit_at = {int(i) for i in np.linspace(0, len(dates), params.backtest.refits, endpoint=False)} if dates else set()
    for i, date in enumerate(tqdm(dates, desc="origins", disable=not progress)):
        view = panel.until(date)
        if (i in refit_at or model is None) and trainable(view, params) is None:
            if model is None:
                model = models.fit(params.model.name, view, **hyper(params))
                record += [
                    ask(view, d, params, {**baselines, params.model.name: model}, warm_up=True) for d in held_out(view, params)
                ]
            else:
                model = models.finetune(model, view, **finetune_hyper(params))
        record.append(ask(panel, date, params, {**baselines, **({params.model.name: model} if model else {})}))
    return record


def quantile_error(at: Origin, q, params: Params) -> np.ndarray:
    """(N, H) mean pinball over the levels, relative to the scale; NaN where not observed."""
    return scores.pinball(at.y, q, params.quantiles).mean(axis=-1) / at.scale[:, None]


def point_error(at: Origin, name: str, params: Params) -> np.ndarray:
    return np.abs(at.y - at.q[name][..., params.quantiles.index(0.5)]) / at.scale[:, None]  # (N, H)


def level_name(level: float) -> str:
    """Column of a quantile level: .05 -> q05, .5 -> q50, .975 -> q975."""
    return "q" + f"{level:.4f}"[2:].rstrip("0").ljust(2, "0")


def frame(record: list[Origin], ids: np.ndarray, params: Params) -> pd.DataFrame:
    """``backtest.parquet``: a row a model, series, origin and horizon, of every series that was forecast at that origin."""
    names = ["published", *dict.fromkeys(n for o in record for n in o.q if n != "published")]
    parts = []
    for name in names:
        for at in record:
            if at.warm_up or name not in at.q:
                continue
            keep = np.flatnonzero(at.status != "excluded")
            H = len(at.ts)
            columns = {
                "model": name,
                "series_id": np.repeat(ids[keep], H),
                "origin": pd.Timestamp(at.date),
                "ts": np.tile(at.ts.astype("datetime64[ns]"), len(keep)),
                "horizon": np.tile(np.arange(1, H + 1), len(keep)),
                "y": at.y[keep].ravel(),
            }
            columns |= {level_name(level): at.q[name][keep, :, k].ravel() for k, level in enumerate(params.quantiles)}
            parts.append(
                pd.DataFrame(columns | {"last_value": np.repeat(at.last[keep], H), "p_change": at.p[name][keep].ravel()})
            )
    if not parts:
        columns = [
            "model",
            "series_id",
            "origin",
            "ts",
            "horizon",
            "y",
            *map(level_name, params.quantiles),
            "last_value",
            "p_change",
        ]
        return pd.DataFrame(
            {
                c: pd.Series(
                    dtype=object if c in ("model", "series_id") else "datetime64[ns]" if c in ("origin", "ts") else float
                )
                for c in columns
            }
        )
    return pd.concat(parts, ignore_index=True)
