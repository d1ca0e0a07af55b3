"""One model of sales for all items: boosted trees of each quantile, of the mean and of the chance that nothing is sold.

LightGBM (Ke et al. 2017) on a seeded sample of past periods and horizons. Counts are learnt relative to a recent level of their
item, each row weighing its square root; quantiles on the square root of that, which calms bulk orders and changes no quantile.
Where there are more rows than are learnt from, weight is the chance to be drawn: such rows say more, and trees of rows that
weigh alike take half the time. Splits of the quantiles are drawn, not searched (extremely randomised trees, Geurts et al.
2006): a year has few weeks, and what moved all items in one of them will not come back. Trees are grown anew at each origin.

Symbols: N series, T periods, C last columns of them, H periods ahead, Q quantile levels, K features, R rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtri

from . import counts, demand, intervals
from .boosting import STEADY, lightgbm, sealed, unsealed
from .counts import Demand
from .panel import Panel

KEEP = 156  # last periods that are learnt from
MAX_CELLS = 600_000  # series-periods read: above it a seeded sample of the series
ROWS = 90_000  # rows that are learnt from
LEAST = 200  # rows below which nothing is learnt
MOST = 100.0  # times its level: what an item that was silent sells all at once weighs no more
GROUPS = 200  # values of a static column that are told apart, the most frequent ones
FILE = "pooled.json"
SETTINGS = dict(
    learning_rate=0.07,
    num_leaves=47,
    min_data_in_leaf=100,
    feature_fraction=0.6,
    lambda_l2=5.0,
    force_col_wise=True,
    **STEADY,
)
TREES = 120


class PooledError(ValueError):
    """A pooled model that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Pooled:
    """A grown model. boosters: one a level, then the mean and the chance of nothing; names: K features."""

    levels: tuple[float, ...]
    names: list[str]
    categories: dict[str, list[str]]
    yearly: bool
    boosters: list[lightgbm.Booster]

    def forecast(self, panel: Panel, horizon: int, levels) -> Demand:
        """Counts from the panel's as-of date; NaN for a series whose demand was never observed.

        Trends are those of the panel that is asked: ask for all items at once. Levels that were not learnt are interpolated.
        """
        signals = demand.of(panel, 1, self.categories)
        everything = np.arange(len(panel) * horizon)
        x, names = _features(panel, signals, 1, horizon, self.yearly, everything)
        x, scale = _aligned(x, names, self.names), np.repeat(signals.scale, horizon, axis=1)  # (N * H, K), (N, H)
        said = np.stack([booster.predict(x, num_threads=1) for booster in self.boosters], axis=1)
        said = said.reshape(len(panel), horizon, -1)  # (N, H, Q + 2)
        said[~np.isfinite(counts.sold(panel)).any(axis=1)] = np.nan
        q = intervals.tidy(np.maximum(said[..., :-2], 0) ** 2 * scale[..., None])
        return Demand(between(q, self.levels, levels), np.maximum(said[..., -2] * scale, 0), said[..., -1])

    def importance(self) -> pd.DataFrame:
        """What the trees of the quantiles look at: feature, share of the loss that its splits saved; most first."""
        shares = []
        for booster in self.boosters[: len(self.levels)]:
            gain = booster.feature_importance("gain")
            shares.append(gain / max(gain.sum(), 1e-300))
        table = pd.DataFrame({"feature": self.names, "share": np.mean(shares, axis=0)})
        table["share"] /= max(table["share"].sum(), 1e-300)
        return table.sort_values(["share", "feature"], ascending=[False, True], ignore_index=True)


def fit(panel: Panel, horizon: int, levels, seed: int = 0) -> Pooled | None:
    """Grow trees on what lies at or before the panel's as-of date; None where there is too little, or nothing was ever sold.

    A target that was sold out says nothing of demand and is left out, and so is one of an item not observed before it.
    """
    keep = min(KEEP, panel.y.shape[1])
    panel = panel.sample(max(MAX_CELLS // keep, 1), seed)
    target = _targets(panel, keep, horizon)  # (N, C, H)
    known = np.flatnonzero(np.isfinite(target))
    if len(known) < LEAST or not np.nanmax(target) > 0:
        return None
    yearly = panel.y.shape[1] > panel.season + max(panel.season // 4, 4)
    categories = {name: _frequent(panel.static[:, k]) for k, name in enumerate(panel.static_names)}
    signals = demand.of(panel, keep, categories)
    scale = np.repeat(signals.scale.ravel(), horizon)[known]  # (R,)
    if drawn := len(known) > ROWS:
        chosen = _drawn(np.sqrt(scale), ROWS, seed)
        known, scale = known[chosen], scale[chosen]
    x, names = _features(panel, signals, keep, horizon, yearly, known)
    boosters = _grow(x, names, target.ravel()[known], scale, drawn, levels, seed)
    return Pooled(tuple(float(level) for level in levels), names, categories, yearly, boosters)


def _targets(panel: Panel, keep: int, horizon: int) -> np.ndarray:
    """(N, C, H) demand h periods after each of the last C; NaN where not known, or where nothing was known before."""
    y, T = counts.sold(panel), panel.y.shape[1]
    at = np.arange(T - keep, T)[:, None] + np.arange(1, horizon + 1)
    begun = np.maximum.accumulate(np.isfinite(y), axis=1)[:, T - keep :, None]
    return np.where((at < T) & begun, y[:, np.minimum(at, T - 1)], np.nan)


def _drawn(weight: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Indices of n rows, in order, drawn by weight, none of them twice (Efraimidis and Spirakis 2006)."""
    turn = np.random.default_rng(seed).exponential(size=len(weight)) / weight
    return np.sort(np.argpartition(turn, n)[:n])


def _features(panel, signals: demand.Signals, keep, horizon, yearly, rows) -> tuple[np.ndarray, list[str]]:
    """(R, K) features, and their names, of the rows of (N, C, H)."""
    later, names = demand.ahead(panel, keep, horizon, signals.scale, yearly)
    n, c, h = np.unravel_index(rows, (len(panel), keep, horizon))
    return np.concatenate([signals.x[n, c], later[n, c, h]], axis=1), signals.names + names


def _grow(x: np.ndarray, names: list[str], y: np.ndarray, scale: np.ndarray, drawn: bool, levels, seed: int):
    """One booster a level, one of the mean and one of nothing, on the same bins.

    A row weighs the root of its scale, unless that had its say when rows were drawn; in the chance of nothing too, where equal
    weights gave a worse Brier score.
    """
    least = int(np.clip(len(y) // 50, 5, SETTINGS["min_data_in_leaf"]))
    shared = SETTINGS | {"seed": seed, "min_data_in_leaf": least}
    weight, ratio = None if drawn else np.sqrt(scale), np.minimum(y / scale, MOST)
    rows = lightgbm.Dataset(x, weight=weight, feature_name=names, params=shared, free_raw_data=False)
    asked = [(np.sqrt(ratio), {"objective": "quantile", "alpha": float(level), "extra_trees": True}) for level in levels]
    asked += [
        (ratio, {"objective": "tweedie", "tweedie_variance_power": 1.3}),
        ((y == 0).astype(float), {"objective": "binary"}),
    ]
    return [lightgbm.train(shared | how, rows.set_label(target), num_boost_round=TREES) for target, how in asked]


def between(q: np.ndarray, learnt, levels) -> np.ndarray:
    """Quantiles at other levels: (N, H, Q) -> (N, H, Q'). Linear in the normal score of the level, and beyond the outermost
    ones along the line through the median; rising as q does, at least 0."""
    z, wanted = ndtri(np.asarray(learnt, float)), ndtri(np.asarray(levels, float))
    mix, middle = np.zeros((len(z), len(wanted))), int(np.abs(z).argmin())
    for k, value in enumerate(wanted):
        right = int(np.clip(np.searchsorted(z, value), 1, max(len(z) - 1, 1)))
        left = right - 1
        if len(z) == 1:
            mix[0, k] = 1.0
            continue
        if value > z[-1]:
            left, right = min(middle, len(z) - 2), len(z) - 1
        elif value < z[0]:
            left, right = 0, max(middle, 1)
        share = (value - z[left]) / (z[right] - z[left])
        mix[left, k], mix[right, k] = 1 - share, share
    return intervals.tidy(q @ mix)


def _frequent(values: np.ndarray) -> list[str]:
    """The most frequent values of a static column, by name."""
    found, n = np.unique(values.astype(str), return_counts=True)
    return sorted(found[np.argsort(-n, kind="stable")][:GROUPS].tolist())


def _aligned(x: np.ndarray, names: list[str], wanted: list[str]) -> np.ndarray:
    """The columns (R, K) in another order; NaN for one that is not there."""
    place = {name: k for k, name in enumerate(names)}
    missing = np.full(len(x), np.nan, dtype=x.dtype)
    return np.stack([x[:, place[name]] if name in place else missing for name in wanted], axis=1)


def save(pooled: Pooled, directory) -> None:
    """Write the model into a directory that exists, as one sealed text: same model, same bytes."""
    said = {
        "levels": pooled.levels,
        "names": pooled.names,
        "categories": pooled.categories,
        "yearly": pooled.yearly,
        "boosters": [booster.model_to_string() for booster in pooled.boosters],
    }
    (Path(directory) / FILE).write_text(sealed(json.dumps(said, indent=0) + "\n"), encoding="utf-8")


def load(directory) -> Pooled | None:
    """What ``save`` wrote; None where the directory has no such model. PooledError names a file that is broken."""
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    try:
        said = json.loads(unsealed(path.read_text(encoding="utf-8")))
        boosters = [lightgbm.Booster(model_str=each) for each in said["boosters"]]
        pooled = Pooled(tuple(said["levels"]), said["names"], said["categories"], said["yearly"], boosters)
    except (lightgbm.basic.LightGBMError, ValueError, KeyError, TypeError) as error:
        raise PooledError(f"{path}: not the text of a pooled model ({error}); make the run anew") from None
    if len(boosters) != len(pooled.levels) + 2 or any(b.feature_name() != pooled.names for b in boosters):
        raise PooledError(f"{path}: grown on other features than it names; make the run anew")
    return pooled
