"""Features of demand: what the counts, prices and neighbours of an item say at each period about the next ones.

All of them look back only, and those of size are relative to a recent level of the item itself, so that one model serves slow
and fast sellers alike. ``counts.sold`` decides what is demand; a period in which nothing is known is skipped.

Symbols: N series, T periods, C last columns of them, H periods ahead, K features, R rows that are learnt from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from . import counts
from .panel import Panel

WINDOWS = {"D": (7, 28, 91), "M": (3, 6, 12), "Q": (2, 4, 8)}  # of trailing means
WEEKS = (4, 13, 26)  # else
ALPHAS = (0.4, 0.2, 0.1, 0.05)  # smoothing constants of recent levels
QUANTILES = (0.25, 0.5, 0.75, 0.9)
LAGS = 4
PRICES = ("price", "list_price", "promotion")  # past columns that are understood; any other one is fed relative to its mean
LEVEL = 5.0  # mean items that a group's trend is shrunk by


@dataclass(frozen=True)
class Signals:
    """x: (N, C, K) features at the last C periods; names: K; scale: (N, C) what an item's counts are measured in, positive."""

    x: np.ndarray
    names: list[str]
    scale: np.ndarray


def of(panel: Panel, keep: int, categories: dict[str, list[str]]) -> Signals:
    """Features at the last ``keep`` periods. categories: the values of each static column that are told apart, in order."""
    y = counts.sold(panel)
    some = np.where(np.isfinite(y), (y > 0).astype(float), np.nan)
    n = np.cumsum(np.isfinite(y), axis=1)
    windows = WINDOWS.get(panel.freq[:1], WEEKS)
    scale = _scale(y, smooth(y, 2 / (windows[0] + 1)), n)
    out: dict[str, np.ndarray] = {}

    def add(found: dict[str, np.ndarray]) -> None:
        for name, value in found.items():  # only what is kept: (N, C)
            out[name] = np.broadcast_to(value, y.shape)[:, -keep:].astype(np.float32)

    recent = {alpha: smooth(y, alpha) for alpha in ALPHAS}
    add({"level": np.log(scale), "length": n})
    add({f"recent_{a}": np.log((np.nan_to_num(level) + 0.05 * scale) / scale) for a, level in recent.items()})
    add({f"steady_{a}": smooth(np.sqrt(y), a) ** 2 / scale for a in (0.3, 0.1)})  # of roots: bulk orders weigh less
    add({"rate": smooth(some, 0.1), "rate_fast": smooth(some, 0.3)})
    add({f"last_{lag}": back(y, lag) / scale for lag in range(LAGS)})
    for w in windows:
        add({f"mean_{w}": trailing(y, w) / scale, f"zeros_{w}": 1 - trailing(some, w)})
    add(_sizes(y, some, n, scale))
    if y.shape[1] > panel.season:
        now = trailing(y, min(13, panel.season))
        add({"growth": np.log((now + 0.1 * scale) / (back(now, panel.season) + 0.1 * scale))})
    add(_trends(panel, recent, scale, categories))
    add(_past(panel))
    out |= _order(y, scale, 2 * windows[1], keep)
    return Signals(np.stack(list(out.values()), axis=2), list(out), scale[:, -keep:])  # (N, C, K)


def ahead(panel: Panel, keep: int, horizon: int, scale: np.ndarray, yearly: bool) -> tuple[np.ndarray, list[str]]:
    """Features that depend on the period that is forecast: ((N, C, H, K), names).

    The steps ahead; with ``yearly`` the counts at and around that period a season ago and its place in the season; what the
    panel knows of the future (its value then, and by how much that differs from now).
    """
    y = counts.sold(panel)
    N, T = y.shape
    at = np.arange(T - keep, T)[:, None] + np.arange(1, horizon + 1)  # (C, H) the period forecast
    shape = (N, keep, horizon)
    out = {"ahead": np.broadcast_to(np.arange(1, horizon + 1), shape)}
    if yearly:
        middle = np.concatenate([trailing(y, 5)[:, 2:], np.full((N, 2), np.nan)], axis=1)  # two on either side
        for name, value in {"year_ago": y, "year_ago_5": middle}.items():
            then = at - panel.season
            known = (then >= 0) & (then + (2 if value is middle else 0) <= np.arange(T - keep, T)[:, None])
            out[name] = np.where(known, value[:, np.clip(then, 0, T - 1)], np.nan) / scale[:, :, None]
        turn = 2 * np.pi * _place(panel, horizon)[at] / panel.season
        out["season_sin"], out["season_cos"] = np.broadcast_to(np.sin(turn), shape), np.broadcast_to(np.cos(turn), shape)
    for k, name in enumerate(panel.future_names):
        value = panel.future[:, :, k]
        known = np.where(at < value.shape[1], value[:, np.minimum(at, value.shape[1] - 1)], np.nan)
        out[f"future_{name}"], out[f"future_{name}_step"] = known, known - value[:, T - keep : T, None]
    return np.stack(list(out.values()), axis=3).astype(np.float32), list(out)  # (N, C, H, K)


def _place(panel: Panel, horizon: int) -> np.ndarray:
    """(T + H,) the place of each period in its season: counted from the first period of a year, or from any Monday."""
    dates = np.concatenate([panel.dates, panel.horizon_dates(horizon)]).astype("datetime64[D]")
    day = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)  # of the year
    return {"D": (dates.astype(int) + 3) % 7, "W": day / 7, "M": day / 30.5, "Q": day / 91.5}.get(panel.freq[:1], day * 0.0)


# --- pieces, each (N, T) -> (N, T) -------------------------------------------------------------------------------------


def back(y: np.ndarray, lag: int) -> np.ndarray:
    """The value so many periods earlier."""
    out = np.full(y.shape, np.nan)
    out[:, lag:] = y[:, : max(y.shape[1] - lag, 0)]
    return out


def smooth(y: np.ndarray, alpha: float) -> np.ndarray:
    """Exponentially weighted mean of what is known so far, weights adding to one from the first value on; NaN before it."""
    total, weight = np.zeros((2, len(y)))
    out = np.full(y.shape, np.nan)
    for t in range(y.shape[1]):
        new, known = np.nan_to_num(y[:, t]), np.isfinite(y[:, t])
        total = np.where(known, (1 - alpha) * total + alpha * new, total)
        weight = np.where(known, (1 - alpha) * weight + alpha, weight)
        out[:, t] = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    return out


def trailing(y: np.ndarray, window: int) -> np.ndarray:
    """Mean of what is known in the last ``window`` periods; NaN where nothing is."""
    sums, n = (np.cumsum(a, axis=1) for a in (np.nan_to_num(y), np.isfinite(y).astype(float)))
    if y.shape[1] > window:
        sums, n = (np.concatenate([a[:, :window], a[:, window:] - a[:, :-window]], axis=1) for a in (sums, n))
    return np.where(n > 0, sums / np.maximum(n, 1), np.nan)


def _scale(y: np.ndarray, recent: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The recent level, less of it where little is known, and never 0: a share of the panel's mean so far, at most 1."""
    total = np.cumsum(np.nan_to_num(y).sum(axis=0)) / np.maximum(np.cumsum(np.isfinite(y).sum(axis=0)), 1)  # (T,)
    return n / (n + 2) * np.nan_to_num(recent) + 0.1 * np.minimum(total, 1) + 0.05


def _sizes(y: np.ndarray, some: np.ndarray, n: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
    """Periods since the last sale, mean interval between sales, mean size when sold, variation of all counts."""
    sale = np.nan_to_num(some) > 0
    clock = np.maximum.accumulate(np.where(sale, n, 0), axis=1)
    sales = np.cumsum(sale, axis=1)
    total, square = np.cumsum(np.nan_to_num(y), axis=1), np.cumsum(np.nan_to_num(y) ** 2, axis=1)
    mean = total / np.maximum(n, 1)
    spread = np.sqrt(np.maximum(square / np.maximum(n, 1) - mean**2, 0))
    return {
        "since_sale": np.where(n > 0, n - clock, np.nan),
        "interval": np.where(sales > 0, n / np.maximum(sales, 1), np.nan),
        "size": np.where(sales > 0, total / np.maximum(sales, 1), np.nan) / scale,
        "variation": np.where(mean > 0, spread / np.maximum(mean, 1e-9), np.nan),
        "mean_all": mean / scale,
    }


def _order(y: np.ndarray, scale: np.ndarray, window: int, keep: int) -> dict[str, np.ndarray]:
    """Quantiles and the largest of the last ``window`` periods, at the last ``keep`` ones: (N, C) each."""
    padded = np.concatenate([np.full((len(y), window - 1), np.nan), y], axis=1)[:, -(keep + window - 1) :]
    recent = np.sort(np.lib.stride_tricks.sliding_window_view(padded, window, axis=1), axis=2)  # (N, C, window), NaN last
    n = np.isfinite(recent).sum(axis=2)
    out = {}
    for level in (*QUANTILES, 1.0):
        place = np.rint(level * np.maximum(n - 1, 0)).astype(int)
        value = np.take_along_axis(recent, place[..., None], axis=2)[..., 0] / scale[:, -keep:]
        out[f"quantile_{level}"] = value.astype(np.float32)
    return out


def _trends(panel: Panel, recent: dict, scale: np.ndarray, categories: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Whether all items, and those of the same group, sell more lately than before: log ratios of summed levels; and the
    groups as numbers."""
    fast, slow = np.nan_to_num(recent[0.4]), np.nan_to_num(recent[0.05])  # (N, T)
    begun = np.maximum.accumulate(panel.observed, axis=1)  # in a replay an item that begins later has its row already
    n = np.maximum(begun.sum(axis=0), 1)  # (T,)
    mean = slow.sum(axis=0) / n + 1e-9
    ratio = (fast.sum(axis=0) / n + 1e-9) / mean  # (T,)
    out = {"trend": np.log(ratio)[None], "trend_items": (np.minimum(fast / scale, 4).sum(axis=0) / n)[None]}
    for name, known in categories.items():
        values = panel.static[:, panel.static_names.index(name)] if name in panel.static_names else np.full(len(panel), None)
        number = {value: i for i, value in enumerate(known)}
        code = np.array([number.get(value, len(known)) for value in values])
        sums = np.zeros((2, len(known) + 1, fast.shape[1]))
        np.add.at(sums[0], code, fast)
        np.add.at(sums[1], code, slow)
        group = np.log((sums[0] + LEVEL * ratio * mean) / (sums[1] + LEVEL * mean) / ratio)
        out[f"trend_{name}"] = group[code]
        out[name] = np.where(code < len(known), code, np.nan)[:, None]
    return out | _words(panel, fast, slow, begun[:, -1], mean, ratio)


def _words(panel: Panel, fast, slow, begun, mean, ratio) -> dict[str, np.ndarray]:
    """Mean trend of the words of a title: whether items that share one sell more lately, relative to the panel's."""
    known: dict[str, list[int]] = {}
    for n in np.flatnonzero(begun):
        for word in set(re.findall(r"[^\W\d_]{3,}", str(panel.titles[n]).lower())):
            known.setdefault(word, []).append(n)
    words = [word for word in sorted(known) if 5 <= len(known[word]) <= begun.sum() / 4]
    if not words:
        return {}
    row = np.concatenate([known[word] for word in words])
    column = np.repeat(np.arange(len(words)), [len(known[word]) for word in words])
    has = sparse.csr_matrix((np.ones(len(row)), (row, column)), (len(panel), len(words)))
    trend = np.log((has.T @ fast + LEVEL * ratio * mean) / (has.T @ slow + LEVEL * mean) / ratio)  # (W, T)
    n = np.asarray(has.sum(axis=1))
    return {"trend_words": np.where(n > 0, has @ trend / np.maximum(n, 1), np.nan)}


def _past(panel: Panel) -> dict[str, np.ndarray]:
    """Price against its list price and its usual level, promotion, how often on offer, and any other column's recent level."""
    columns = {name: panel.past[:, :, k] for k, name in enumerate(panel.past_names)}
    out = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        if (price := columns.get("price")) is not None:
            price = np.log(np.where(price > 0, price, np.nan))
            out |= {"price": price, "price_usual": price - trailing(price, 13), "price_step": price - trailing(price, 2)}
            if (listed := columns.get("list_price")) is not None:
                out["price_list"] = price - np.log(np.where(listed > 0, listed, np.nan))
                out["price_list_usual"] = trailing(out["price_list"], 13)
        if (promoted := columns.get("promotion")) is not None:
            out |= {"promotion": promoted, "promotion_4": trailing(promoted, 4)}
    begun = np.maximum.accumulate(panel.observed, axis=1)
    if (begun & ~panel.available).any():
        offered = np.where(begun, panel.available.astype(float), np.nan)
        out |= {"offered": offered, "offered_4": trailing(offered, 4), "offered_13": trailing(offered, 13)}
    for name, value in columns.items():
        if name not in PRICES:
            usual = np.abs(smooth(value, 0.1)) + 1e-9
            out[f"past_{name}"] = value / usual
            out[f"past_{name}_recent"] = smooth(value, 0.4) / usual
            out[f"past_{name}_level"] = smooth(value, 0.1)
    return out
