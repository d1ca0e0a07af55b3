"""The baselines of sales: what an item sells by its own history alone, without training.

Most say a mean, vectorised over series, whose quantiles are those of a negative binomial: its spread is the item's own shrunk
to the pool of all items, at the width that would have served best over the last ``horizon`` periods. ``zeros``,
``historical_quantiles`` and ``auto_ets`` say quantiles of their own.
Only what speaks of demand is read (``counts.sold``): a period that was not observed, or sold out, is skipped, it is no zero.

Symbols: N series, T periods, H periods ahead, Q quantile levels, A smoothing constants, K periods in a block.
"""

from __future__ import annotations

import warnings

import numpy as np

from . import counts, scores
from .counts import Demand
from .panel import SEASON, Panel, carried
from .trades import SALES

WINDOW = {"D": 28, "W": 13, "M": 6, "Q": 4}  # periods of the moving average
SPREAD = {"D": 91, "W": 26, "M": 24, "Q": 8}  # periods of the historical quantiles and of the spread
ALPHA = 0.1  # smoothing of sizes, intervals and probabilities: Croston and TSB
ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # what simple smoothing chooses from, by each item's one-step errors
BLOCKS = (2, 8)  # fewest and most levels of aggregation
WIDTHS = (0.6, 0.8, 1.0, 1.25, 1.6)  # multiples of the variance that are tried
JUDGES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])  # levels that choose among them, whatever is asked: no level moves another
OWN = 20.0  # periods of own history that weigh as much as the pool's spread
LEAST = 8  # periods from which an item's own spread counts


def forecast(name: str, panel: Panel, horizon: int, quantiles) -> Demand:
    """What the named baseline expects from the panel's as-of date: quantiles that never cross and are never negative.

    NaN for a series whose demand was never observed. Raises ValueError for a name that is no baseline of sales.
    """
    if name not in SALES.baselines:
        raise ValueError(f"baseline {name!r} is not known; known: {', '.join(SALES.baselines)}")
    levels, y = np.asarray(quantiles, float), counts.sold(panel)
    begun = np.isfinite(y).any(axis=1)
    N, Q = len(panel), len(levels)
    q, mean, zero = np.full((N, horizon, Q), np.nan), np.full((N, horizon), np.nan), np.full((N, horizon), np.nan)
    if begun.any():
        said = _whole(name, y[begun], panel.freq[:1], horizon, levels)
        q[begun], mean[begun], zero[begun] = said.q, said.mean, said.zero
    return Demand(q, mean, zero)


def _whole(name: str, y: np.ndarray, freq: str, horizon: int, levels: np.ndarray) -> Demand:
    """The forecast of series that have all been observed."""
    N = len(y)
    if name == "zeros":
        return Demand(np.zeros((N, horizon, len(levels))), np.zeros((N, horizon)), np.ones((N, horizon)))
    if name == "historical_quantiles":
        return _historical(y, freq, horizon, levels)
    if name == "auto_ets":
        return _auto_ets(y, freq, horizon, levels)
    point = MEANS[name]
    mean, width, T = point(y, freq, horizon), 1.0, y.shape[1]
    if 2 * horizon < T:
        then = y[:, : T - horizon]
        width = _width(y[:, T - horizon :], point(then, freq, horizon), spread(then, freq))
    return _counts(mean, spread(y, freq), width, levels)


# --- means: (N, T) of demand, NaN where it is not known -> (N, H) -------------------------------------------------------


def last_value(y: np.ndarray, freq: str, horizon: int) -> np.ndarray:
    """The last demand observed, the random walk that every method has to beat."""
    return np.repeat(carried(y)[:, -1:], horizon, axis=1)


def seasonal_naive(y: np.ndarray, freq: str, horizon: int) -> np.ndarray:
    """The demand at the same place of the last finished season; the last one observed where the item is younger."""
    season, T, held = SEASON.get(freq, 1), y.shape[1], carried(y)
    ahead = np.arange(1, horizon + 1)
    back = T - 1 + ahead - season * -(-ahead // season)
    point = np.where(back >= 0, held[:, np.maximum(back, 0)], np.nan)  # (N, H)
    return np.where(np.isnan(point), held[:, -1:], point)


def moving_average(y: np.ndarray, freq: str, horizon: int) -> np.ndarray:
    """Mean demand of the last 13 weeks (6 months, 28 days); the last demand observed where there is none in them."""
    recent = y[:, -WINDOW.get(freq, 12) :]
    n = np.isfinite(recent).sum(axis=1)
    mean = np.where(np.isfinite(recent), recent, 0).sum(axis=1) / np.maximum(n, 1)
    return np.repeat(np.where(n > 0, mean, carried(y)[:, -1])[:, None], horizon, axis=1)


def croston_sba(y: np.ndarray, freq: str, horizon: int) -> np.ndarray:
    """Size over interval, smoothed apart at each sale (Croston 1972), less half the smoothing constant: its bias as
    approximated by Syntetos & Boylan 2005. Intervals count the periods whose demand is known."""
    size, interval, since = np.full(len(y), np.nan), np.full(len(y), np.nan), np.zeros(len(y))
    for t in range(y.shape[1]):
        new = y[:, t]
        some = new > 0
        since += np.isfinite(new)
        size = np.where(some, _moved(size, new), size)
        interval = np.where(some, _moved(interval, since), interval)
        since = np.where(some, 0, since)
    mean = np.where(np.isnan(size), 0.0, (1 - ALPHA / 2) * size / interval)
    return np.repeat(mean[:, None], horizon, axis=1)


def tsb(y: np.ndarray, freq: str, horizon: int) -> np.ndarray:
    """Smoothed probability of a sale, moved every period, times smoothed size: Teunter, Syntetos & Babai 2011."""
    size, p = np.full(len(y), np.nan), np.full(len(y), np.nan)
    for t in range(y.shape[1]):
        new = y[:, t]
        size = np.where(new > 0, _moved(size, new), size)
        p = np.where(np.isfinite(new), _moved(p, new > 0), p)
    return np.repeat(np.where(np.isnan(size), 0.0, size * p)[:, None], horizon, axis=1)


def imapa(y: np.ndarray, freq: str, horizon: int) -> np.ndarray:
    """Simple smoothing of sums over 1, 2, 3 ... periods, averaged (Petropoulos & Kourentzes 2015).

    Blocks end at the last period. An item is aggregated up to its mean interval between sales (within ``BLOCKS``); each level
    chooses its smoothing constant by the item's one-step errors.
    """
    n, some = np.isfinite(y).sum(axis=1), (y > 0).sum(axis=1)
    levels = np.clip(np.ceil(n / np.maximum(some, 1)), *BLOCKS)
    total, used = np.zeros(len(y)), np.zeros(len(y))
    for K in range(1, min(BLOCKS[1], y.shape[1]) + 1):
        mean = _smoothed(_blocks(y, K))
        use = (levels >= K) & np.isfinite(mean)
        total, used = total + np.where(use, mean, 0), used + use
    return np.repeat((total / np.maximum(used, 1))[:, None], horizon, axis=1)


MEANS = {f.__name__: f for f in (last_value, moving_average, seasonal_naive, croston_sba, tsb, imapa)}


def _moved(level: np.ndarray, new: np.ndarray) -> np.ndarray:
    """One step of simple smoothing; the first value starts it."""
    return np.where(np.isnan(level), new, level + ALPHA * (new - level))


def _blocks(y: np.ndarray, K: int) -> np.ndarray:
    """Means over blocks of K periods, the last ends at the end: (N, T // K); NaN where nothing of a block is known."""
    N, T = y.shape
    block = y[:, T % K :].reshape(N, T // K, K)
    n = np.isfinite(block).sum(axis=2)
    return np.where(n > 0, np.where(np.isfinite(block), block, 0).sum(axis=2) / np.maximum(n, 1), np.nan)


def _smoothed(y: np.ndarray) -> np.ndarray:
    """(N,) exponentially weighted mean of each row, by the constant with the least one-step error; NaN for an empty row."""
    alphas = np.array(ALPHAS)
    total, weight, error = np.zeros((3, len(y), len(alphas)))  # (N, A) each
    for t in range(y.shape[1]):
        new = y[:, t, None]
        known, old = np.isfinite(new), weight > 0
        new = np.where(known, new, 0)
        error += np.where(known & old, (new - total / np.where(old, weight, 1)) ** 2, 0)
        total = np.where(known, (1 - alphas) * total + alphas * new, total)
        weight = np.where(known, (1 - alphas) * weight + alphas, weight)
    mean = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    least = error.min(axis=1, keepdims=True)
    alike = error <= least * (1 + 1e-9) + 1e-12 * np.nan_to_num(mean) ** 2  # of a tie the smoothest, not the last bit's choice
    return np.take_along_axis(mean, alike.argmax(axis=1)[:, None], axis=1)[:, 0]


# --- quantiles ----------------------------------------------------------------------------------------------------------


def spread(y: np.ndarray, freq: str) -> tuple[np.ndarray, np.ndarray]:
    """(log of the squared coefficient of variation (N,), shrunk to the pool; and its pool: rows of log mean, log cv^2).

    The pool is what items of a like mean show, in ten groups: slow sellers vary more. An item that nothing is known of lately
    (it was not on offer) is looked up by the mean of all its history.
    """
    window, recent = SPREAD.get(freq, 24), np.array(y, float)
    recent[np.isfinite(y[:, -window:]).any(axis=1), :-window] = np.nan
    known = np.isfinite(recent)
    n = known.sum(axis=1)
    mean = np.where(known, recent, 0).sum(axis=1) / np.maximum(n, 1)
    variance = np.where(known, (recent - mean[:, None]) ** 2, 0).sum(axis=1) / np.maximum(n - 1, 1)
    enough = (n >= LEAST) & (mean > 0) & (variance > 0)
    own = np.log(np.where(enough, variance, 1)) - 2 * np.log(np.where(enough, mean, 1))
    pool = np.array([[0.0], [0.0]])  # cv^2 of 1
    if enough.sum() > 1:
        order = np.flatnonzero(enough)[np.argsort(np.log(mean[enough]), kind="stable")]
        groups = np.array_split(order, min(10, max(1, len(order) // 10)))
        pool = np.array([[np.log(mean[g]).mean(), own[g].mean()] for g in groups]).T
    typical = np.interp(np.log(np.maximum(mean, 1e-9)), *pool)
    return np.where(enough, (n * own + OWN * typical) / (n + OWN), typical), pool


def _counts(mean: np.ndarray, spread, width: float, levels) -> Demand:
    variance = width * np.exp(spread[0])[:, None] * mean**2
    flat = (mean == mean[:, :1]).all()
    said = counts.negative_binomial(mean[:, :1] if flat else mean, variance[:, :1] if flat else variance, levels)
    H = mean.shape[1]
    return Demand(np.repeat(said.q, H, 1), mean, np.repeat(said.zero, H, 1)) if flat else Demand(said.q, mean, said.zero)


def _width(y: np.ndarray, mean: np.ndarray, spread) -> float:
    """The multiple of the variance with the least pinball loss over the last H periods, whose mean was said before them."""
    rows = np.isfinite(mean).all(axis=1) & np.isfinite(y).any(axis=1)
    if rows.sum() < LEAST:
        return 1.0
    loss = [np.nansum(scores.pinball(y[rows], _counts(mean[rows], (spread[0][rows],), w, JUDGES).q, JUDGES)) for w in WIDTHS]
    return WIDTHS[int(np.argmin(loss))]


def _historical(y: np.ndarray, freq: str, horizon: int, levels: np.ndarray) -> Demand:
    """The item's own quantiles of the last 26 weeks (24 months, 91 days), linear between order statistics."""
    recent = y[:, -SPREAD.get(freq, 24) :]
    recent = np.where(np.isfinite(recent).any(axis=1)[:, None], recent, carried(y)[:, -1:])
    return _repeated(np.nanquantile(recent, levels, axis=1).T, np.nanmean(recent, axis=1), _zeros(recent), horizon)


def _zeros(y: np.ndarray) -> np.ndarray:
    """(N,) share of zeros among what is known."""
    return (y == 0).sum(axis=1) / np.maximum(np.isfinite(y).sum(axis=1), 1)


def _repeated(q: np.ndarray, mean: np.ndarray, zero: np.ndarray, horizon: int) -> Demand:
    """The same at every horizon: q (N, Q), mean and zero (N,)."""
    return Demand(np.repeat(q[:, None], horizon, 1), np.repeat(mean[:, None], horizon, 1), np.repeat(zero[:, None], horizon, 1))


def _auto_ets(y: np.ndarray, freq: str, horizon: int, levels: np.ndarray) -> Demand:
    """Exponential smoothing of the level, its error additive or not by AICc (Hyndman & Khandakar 2008, in statsforecast).

    Without trend, which carries one bulk order on for ever (it costs 8 % of quantile loss), and without season, which takes
    seconds a series at 52 weeks; so it takes about a millisecond. Its normal quantiles are cut at zero. Where it cannot be
    fitted (a handful of periods, or constant ones) the mean of the item stands, without spread.
    """
    from scipy.special import ndtr, ndtri  # lazily, these too: jobs of prices do without
    from statsforecast.models import AutoETS  # a second to import

    mean, sd = np.repeat(np.nanmean(y, axis=1)[:, None], horizon, 1), np.zeros((len(y), horizon))
    model = AutoETS(season_length=1, model="ZNN")
    for n, row in enumerate(y):
        known = row[np.isfinite(row)]
        if len(known) < LEAST or np.ptp(known) == 0:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own search, which divides by zero at the edges
            said = model.forecast(y=known, h=horizon, level=[90])
        wide = (said["hi-90"] - said["lo-90"]) / 2 / ndtri(0.95)
        if np.isfinite(said["mean"]).all() and np.isfinite(wide).all():
            mean[n], sd[n] = said["mean"], wide
    mean = np.maximum(mean, 0)
    q = np.maximum(mean[..., None] + sd[..., None] * ndtri(levels), 0)  # (N, H, Q)
    zero = np.where(sd > 0, ndtr((0.5 - mean) / np.where(sd > 0, sd, 1)), mean < 0.5)
    return Demand(q, mean, zero)
