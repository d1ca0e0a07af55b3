"""The language of sales: how often an item sells, how much when it does, and what a forecast of counts consists of.

Demand is intermittent: most periods sell nothing or little. A period in which the item was not on offer says nothing of demand
(a stock-out censors it), so such periods are left out here unless something was sold in them.

Symbols: N series, T periods, H periods ahead, Q quantile levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .panel import Panel, carried

CLASSES = ("smooth", "erratic", "intermittent", "lumpy", "silent")  # silent: nothing sold yet
TELLS = 0.25  # share of a period in stock, from which lost sales are told
LEAST = 4  # periods of an item's life before a network can learn from what follows
ADI, CV2 = 1.32, 0.49  # the cut between them: Syntetos, Boylan and Croston 2005


@dataclass(frozen=True)
class Demand:
    """A forecast of counts. q: (N, H, Q) quantiles; mean: (N, H); zero: (N, H) probability that nothing is sold."""

    q: np.ndarray
    mean: np.ndarray
    zero: np.ndarray


def sold(panel: Panel) -> np.ndarray:
    """(N, T) units sold where they speak of demand, as ``demand``."""
    return demand(panel.y, panel.available)


def demand(y: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Units sold where they speak of demand: NaN where not observed, and where nothing sold because none was there.

    More returned than sold is demand of zero. y, available (bool): arrays of one shape, as is what is returned.
    """
    return np.where(~available & (y <= 0), np.nan, np.maximum(y, 0))


def learnable(known: np.ndarray, horizon: int) -> np.ndarray:
    """(N, T) bool: the periods from whose end demand can be learnt. known: (N, T) bool, where demand is known.

    Such a period lies ``LEAST`` or more into the life of an item and has ``horizon`` periods after it, one of them known.
    """
    so_far, T = known.cumsum(axis=1), known.shape[1]
    life, out = (so_far > 0).cumsum(axis=1), np.zeros(known.shape, dtype=bool)  # life: periods since the first, counted
    if horizon < T:
        out[:, :-horizon] = (life[:, :-horizon] >= LEAST) & (so_far[:, horizon:] > so_far[:, :-horizon])
    return out


def intermittency(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """(average demand interval, squared coefficient of variation of the sizes sold), (N,) each; NaN for a silent series."""
    y = sold(panel)
    some = y > 0  # NaN is not
    n, periods = some.sum(axis=1), np.isfinite(y).sum(axis=1)
    total = np.where(some, y, 0).sum(axis=1)
    mean = total / np.maximum(n, 1)
    spread = np.where(some, (y - mean[:, None]) ** 2, 0).sum(axis=1) / np.maximum(n - 1, 1)
    adi = np.where(n > 0, periods / np.maximum(n, 1), np.nan)
    return adi, np.where(n > 0, spread / np.maximum(mean, 1e-12) ** 2, np.nan)


def demand_class(panel: Panel) -> np.ndarray:
    """(N,) index into ``CLASSES`` by average demand interval and CV^2, as known at the panel's as-of date."""
    adi, cv2 = intermittency(panel)
    rare, wild = adi >= ADI, cv2 >= CV2
    return np.where(np.isnan(adi), 4, np.where(rare, np.where(wild, 3, 2), np.where(wild, 1, 0)))


def negative_binomial(mean: np.ndarray, variance: np.ndarray, levels) -> Demand:
    """Counts of a given mean and variance, both (N, H): negative binomial; Poisson where the variance is no larger."""
    from scipy import stats  # lazily: half a second that prices do without

    mean = np.maximum(np.asarray(mean, float), 1e-9)
    over = np.maximum(np.asarray(variance, float) - mean, 1e-9 * mean)
    size = np.minimum(mean**2 / over, 1e3 * np.maximum(mean, 1e3))  # of the negative binomial: to infinity it is Poisson
    p = size / (size + mean)
    q = stats.nbinom.ppf(np.asarray(levels, float), size[..., None], p[..., None])  # (N, H, Q)
    return Demand(q, mean, p**size)


def describe(panel: Panel) -> dict[str, np.ndarray]:
    """What is known of each series' demand, as columns of N values.

    total_units, mean_units (a period in which it was on offer), sale_rate (share of them with sales), interval (average demand
    interval), cv2, demand_class; price (the latest) and lost_units (of those of the last twelve periods that had stock on a
    quarter of the days or more) where the panel knows them.
    """
    y = sold(panel)
    known = np.maximum(np.isfinite(y).sum(axis=1), 1)
    adi, cv2 = intermittency(panel)
    out = {
        "total_units": np.where(np.isfinite(y), y, 0).sum(axis=1),
        "mean_units": np.where(np.isfinite(y), y, 0).sum(axis=1) / known,
        "sale_rate": (y > 0).sum(axis=1) / known,
        "interval": adi,
        "cv2": cv2,
        "demand_class": np.array(CLASSES, dtype=object)[demand_class(panel)],
    }
    if "price" in panel.past_names:
        price = panel.past[:, :, panel.past_names.index("price")]
        out["price"] = carried(price)[:, -1]  # the latest one known
    if "lost_sales" in panel.past_names:
        lost, tells = panel.past[:, -12:, panel.past_names.index("lost_sales")], True
        if "availability" in panel.past_names:  # a copy that sold on its only day would be thirty a month
            tells = panel.past[:, -12:, panel.past_names.index("availability")] >= TELLS
        tells &= np.isfinite(lost)
        out["lost_units"] = np.where(tells, lost, 0).sum(axis=1)  # of the last twelve periods
    return out


def calibration(panel: Panel) -> dict:
    """How forecasts of counts are calibrated together: group (N,) by demand class, spread (N,) what a band is widened in (the
    root of the mean level), whole: whether all sales are whole numbers."""
    seen = panel.y[panel.observed]
    level = describe(panel)["mean_units"]
    return {"group": demand_class(panel), "spread": np.sqrt(level + 0.25), "whole": bool((seen == np.rint(seen)).all())}
