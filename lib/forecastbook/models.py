"""The MODELS table, the one interface to every model, and the baselines.

A model is made by ``fit`` or ``finetune`` on a panel and asked by ``forecast`` or ``predict`` at a panel's as-of date. It sees
the panel and nothing else, so what it may know is decided by ``Panel.until`` alone. The table maps a name to the
module that does the work; a module is imported when its model is asked for, so that a job pays for no other one.

Symbols: N series, T periods, H periods ahead, Q quantile levels.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from forecastbook import countingtable, grid, intermittent, intervals, scores
from forecastbook.counts import Demand
from forecastbook.files import write_json
from forecastbook.panel import Panel
from forecastbook.sticky import Outlook
from forecastbook.trades import PRICES, SALES, Trade

MODELS = {"lstm": "forecastbook.lstm", "tide": "forecastbook.tide"}
SHIPPED = "the shipped base"  # id of the base model that the package carries


class ModelError(ValueError):
    """A model that cannot be made, loaded or asked."""


def fit(name: str, panel: Panel, trade: Trade = PRICES, **hyper):
    """Train the named model from nothing. A baseline of the trade is ready at once."""
    return Baseline(name, trade) if name in trade.baselines else _module(name).fit(panel, **hyper)


def finetune(model, panel: Panel, **hyper):
    """Train a model further; returns a new one and leaves the given one as it was."""
    return model if isinstance(model, Baseline) else _home(model).finetune(model, panel, **hyper)


def forecast(model, panel: Panel, horizon: int, quantiles) -> Outlook | Demand:
    """The forecast from the panel's as-of date: of a model of prices an ``Outlook``, of a model of sales a ``Demand``.

    Quantiles never cross and, where the panel's values are positive, are never negative; NaN for a series never observed.
    """
    if isinstance(model, Baseline):
        said = model.forecast(panel, horizon, quantiles)
    else:
        said = _home(model).forecast(model, panel, horizon, quantiles)
    return _tidy(said, floor(panel))


def _tidy(said, lowest: float | None):
    if isinstance(said, Demand):
        return replace(said, q=intervals.tidy(said.q, 0.0))
    return said._replace(q=intervals.tidy(said.q, lowest))


def forecasts(asked: dict, panel: Panel, horizon: int, quantiles) -> dict:
    """``forecast`` of several models, by name; experts answer under the names of all their candidates."""
    out, lowest = {}, floor(panel)
    for name, model in asked.items():
        if several := getattr(model, "forecasts", None):
            out |= {each: _tidy(said, lowest) for each, said in several(panel, horizon, quantiles).items()}
        else:
            out[name] = forecast(model, panel, horizon, quantiles)
    return out


def baselines(panel: Panel, trade: Trade = PRICES) -> dict:
    """Every baseline of the trade that suits the panel: the counting table speaks of positive prices only."""
    positive = not (panel.y <= 0).any()  # NaN is not
    return {name: Baseline(name, trade) for name in trade.baselines if positive or name != "table"}


def predict(model, panel: Panel, horizon: int, quantiles) -> np.ndarray:
    """The quantiles of ``forecast``: (N, H, Q)."""
    return forecast(model, panel, horizon, quantiles).q


def save(model, directory: Path) -> None:
    """Write a model as JSON (and safetensors, where it has weights) into ``directory``."""
    if isinstance(model, Baseline):
        Path(directory).mkdir(parents=True, exist_ok=True)
        write_json(
            Path(directory) / "model.json", {"model": model.name, "class": type(model).__name__, "trade": model.trade.name}
        )
    else:
        _home(model).save(model, directory)


def load(directory: Path):
    """Read what ``save`` wrote. Raises ModelError naming the file when it is missing or is no model of ours."""
    path = Path(directory) / "model.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        name = str(described["model"])
    except FileNotFoundError:
        raise ModelError(f"{path}: model file not found; run make forecast, or name another finetune.base") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a model description ({error!r}); make the run anew") from error
    for trade in (PRICES, SALES):
        if name in trade.baselines and described.get("trade", PRICES.name) == trade.name:
            return Baseline(name, trade)
    return _module(name).load(directory)


def checkpoint(name: str, path: Path, **hyper):
    """A model from a foreign file of weights. Raises the model's own error naming path, key and both shapes."""
    if not hasattr(_module(name), "from_checkpoint"):
        if not path.exists():
            raise ModelError(
                f"{path}: model file not found; correct finetune.base (a relative path starts at {Path.cwd()}), or leave it out"
            )
        raise ModelError(f"{path}: {name} starts from a directory that a run has written, not from a file of weights")
    return _module(name).from_checkpoint(path, **hyper)


def made_by(name: str, model) -> bool:
    """Whether the named network's module made the model."""
    return _home(model) is _module(name)


def shape(name: str) -> tuple[str, ...]:
    """Names of the hyperparameters that are fixed once a network is trained."""
    return _module(name).SHAPE


def shipped(name: str, **hyper):
    """The trained base model that the package carries, None where it has none or one of another shape than ``hyper`` asks."""
    if not hasattr(_module(name), "shipped"):
        return None
    base = _module(name).shipped()
    return base if all(base.hyper[k] == hyper.get(k, base.hyper[k]) for k in shape(name)) else None


def _module(name: str):
    if name not in MODELS:
        raise ModelError(f"model {name!r} is not known; known: {', '.join([*MODELS, *PRICES.baselines])}")
    return importlib.import_module(MODELS[name])


def _home(model):
    """The module that made a model and knows how to handle it."""
    return importlib.import_module(getattr(model, "home", type(model).__module__))


def floor(panel: Panel) -> float | None:
    """0 where nothing negative was ever observed (prices, counts), else no floor."""
    seen = panel.y[panel.observed]
    return 0.0 if not seen.size or seen.min() >= 0 else None


def scale(panel: Panel) -> np.ndarray:
    """(N,) what errors of a series are measured in: its last value's size, its mean size where that is 0, else 1."""
    size = np.abs(panel.last_value)
    total, count = np.nansum(np.abs(panel.y), axis=1), np.maximum(panel.n_obs, 1)
    size = np.where(size > 0, size, total / count)  # NaN > 0 is False: never observed ends at 1
    return np.where(size > 0, size, 1.0)


# --- baselines ------------------------------------------------------------------------------------------------------

ERRORS = 365  # trailing periods whose errors make the intervals
MEAN_WINDOW = 28  # periods of the moving average
QUANTILE_WINDOW = 90  # periods of the historical quantiles


@dataclass(frozen=True)
class Baseline:
    """A forecast that needs no training. Those of sales are in ``intermittent``; those of prices are points, and the empirical
    quantiles of their own past errors:

    - ``last_value``: the last observed value.
    - ``seasonal_naive``: the value carried at the same place of the last season (7 days, 52 weeks, 12 months).
    - ``moving_average``: mean of the observations of the last 28 periods (the last value where there is none).
    - ``table``: the counting table of posted prices, counted anew on the panel that is asked.
    - ``historical_quantiles``: quantiles of the observations of the last 90 periods, the same for each horizon.

    Errors are relative to the last value at their origin, taken over the last 365 periods at each horizon. Half of the
    quantile is the series' own, half the pool's of all series; with fewer than 20 own errors it is the pool's. The median
    is the point itself, and quantiles on either side of it stay on their side.
    """

    name: str
    trade: Trade = PRICES

    def forecast(self, panel: Panel, horizon: int, quantiles) -> Outlook | Demand:
        """Of prices with the rates of change and of rises by h, half own and half pooled, as probabilities."""
        if self.trade is SALES:
            return intermittent.forecast(self.name, panel, horizon, quantiles)
        if self.name == "table":
            return _counted(panel, horizon, quantiles)
        if self.name == "historical_quantiles":
            values = _row_quantiles(panel.last(QUANTILE_WINDOW).y, quantiles)  # (N, Q)
            values = np.where(np.isnan(values), panel.last_value[:, None], values)
            q = np.repeat(values[:, None, :], horizon, axis=1)  # (N, H, Q)
        else:
            q = self._with_errors(panel, horizon, np.asarray(quantiles, float))
        return Outlook(q, *change_rates(panel, horizon))

    def _with_errors(self, panel: Panel, horizon: int, levels: np.ndarray) -> np.ndarray:
        recent = panel.last(ERRORS + horizon)
        size, T = scale(panel), len(recent.dates)
        last = np.abs(recent.filled)
        out = np.empty((len(panel), horizon, len(levels)))
        for h in range(1, horizon + 1):
            point = self._points(recent, h)  # (N, T): made at t for t + h
            now = np.where(np.isnan(point[:, -1]), panel.last_value, point[:, -1])  # nothing seen that lately: what was last
            error = np.full((len(panel), max(T - h, 1)), np.nan)
            if h < T:
                with np.errstate(divide="ignore", invalid="ignore"):
                    error = (recent.y[:, h:] - point[:, :-h]) / np.where(last[:, :-h] > 0, last[:, :-h], np.nan)
            spread = _half_pooled(error, levels)  # (N, Q)
            spread = np.where(levels < 0.5, np.minimum(spread, 0), np.where(levels > 0.5, np.maximum(spread, 0), 0.0))
            out[:, h - 1] = now[:, None] + spread * size[:, None]
        return out

    def _points(self, panel: Panel, h: int) -> np.ndarray:
        filled, T = panel.filled, len(panel.dates)
        if self.name == "last_value":
            return filled
        if self.name == "seasonal_naive":
            back = np.arange(T) + h - panel.season * -(-h // panel.season)  # same place, last finished season
            point = np.where(back >= 0, filled[:, np.maximum(back, 0)], np.nan)
            return np.where(np.isnan(point), filled, point)  # younger than a season
        first = np.nan_to_num(panel.y[np.arange(len(panel)), panel.observed.argmax(axis=1)])[:, None]
        sums = np.cumsum(np.where(panel.observed, panel.y - first, 0), axis=1)  # exactly 0 of a price that never moved
        counts = np.cumsum(panel.observed, axis=1)
        sums[:, MEAN_WINDOW:], counts[:, MEAN_WINDOW:] = (
            sums[:, MEAN_WINDOW:] - sums[:, :-MEAN_WINDOW],
            counts[:, MEAN_WINDOW:] - counts[:, :-MEAN_WINDOW],
        )
        return np.where(counts > 0, first + sums / np.maximum(counts, 1), filled)


def _counted(panel: Panel, horizon: int, quantiles) -> Outlook:
    out = Outlook.unknown(len(panel), horizon, len(quantiles))
    counted, steps = countingtable.count(panel, horizon), grid.of(panel)
    for rows, part in panel.seen():
        out.put(rows, counted.mixture(part, steps).outlook(quantiles))
    return out


_RATES: WeakKeyDictionary[Panel, dict[int, tuple]] = WeakKeyDictionary()  # every baseline asks for those of the same panel


def change_rates(panel: Panel, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, H) how often the value differed h periods later over the last 365 periods, and how often it was higher then; each
    half own and half pooled. Counted once a panel, and read only."""
    known = _RATES.setdefault(panel, {})
    if horizon not in known:
        known[horizon] = _count_changes(panel, horizon)
    return known[horizon]


def _count_changes(panel: Panel, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    recent = panel.last(ERRORS + horizon)
    differs, higher = np.zeros((len(panel), horizon)), np.zeros((len(panel), horizon))
    for h in range(1, min(horizon, len(recent.dates) - 1) + 1):
        then, before = recent.y[:, h:], recent.filled[:, :-h]
        event = scores.changed(then.ravel(), before.ravel()).reshape(len(panel), -1)
        n = (~np.isnan(event)).sum(axis=1)
        for out, came in ((differs, event == 1), (higher, (event == 1) & (then > before))):
            hits = came.sum(axis=1)
            pool = hits.sum() / max(n.sum(), 1)
            out[:, h - 1] = np.where(n >= 20, (hits / np.maximum(n, 1) + pool) / 2, pool)
    for out in (differs, higher):
        out.setflags(write=False)  # several forecasts hold it
    return differs, higher


def _row_quantiles(values: np.ndarray, levels) -> np.ndarray:
    """Quantiles of each row, NaN left out, linear between order statistics: (N, M) -> (N, Q). NaN for an empty row."""
    ordered = np.sort(values, axis=1)  # NaN sort last
    n = np.isfinite(values).sum(axis=1)
    place = np.maximum(n - 1, 0)[:, None] * np.asarray(levels, float)[None, :]  # (N, Q)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, np.maximum(n - 1, 0)[:, None])
    left, right = np.take_along_axis(ordered, low, 1), np.take_along_axis(ordered, high, 1)
    return np.where(n[:, None] > 0, left + (right - left) * (place - low), np.nan)


def _half_pooled(errors: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of relative errors, half own and half pooled: (N, M) -> (N, Q). All zero where nobody has an error yet."""
    known = errors[np.isfinite(errors)]
    pool = np.quantile(known, levels) if known.size else np.zeros(len(levels))
    own = _row_quantiles(errors, levels)
    enough = np.isfinite(errors).sum(axis=1) >= 20
    return np.where(enough[:, None], (own + pool) / 2, pool)
