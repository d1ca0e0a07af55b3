"""What TiDE reads: the windows of a panel of sales, as whole batches of tensors, every number known at the window's origin.

A window is a series and its origin, the last period known. A series may begin inside the window: what came before is NaN, and
the network is told so. Beside the counts it reads the *context* of the origin: what smoothing over all history says of level,
frequency and spread, which the window alone is too short for. The first of it is the log of the scale of the window.

Symbols: N series, T periods, L periods of a window, H periods ahead, B windows, C context, K past and F future covariates,
S multi-hot categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from . import counts
from .counts import learnable
from .panel import Panel, carried

ALPHAS = (0.4, 0.2, 0.1, 0.05)  # smoothing of the levels
SCALE = 2  # of ALPHAS: the one whose level scales the window
SHRUNK = 2.0  # periods of a series that weigh as much as nothing known
FLOOR = 0.05  # units a period: the least scale, and what keeps logarithms finite
CONTEXT = (
    "log_scale",
    *(f"level_{a}" for a in ALPHAS),
    "sold_share",
    "since_sale",
    "age",
    "spread",
    "mean_size",
    "trend",
)
YEARS, CALENDAR = 2, 5  # future covariates that are made here: counts of a year ago, and functions of the date
MOST_TOKENS, RAREST = 64, 10  # categories: at most so many, each of at least so many series
REACH = 5.0  # standard deviations beyond which a covariate is cut off


@dataclass
class Feed:
    """A panel as tensors that windows are cut from; float32, NaN where not known.

    y: (N, L + T + H) counts that speak of demand, the first L and the last H periods empty. context: (N, T, C).
    past: (N, L + T, K). future: (N, L + T + H, 2 + F), first the counts of a year ago and around it. static: (N, S).
    weight: (N, T) of the window with that origin. Past, future and static are None where the network has none;
    static without columns still brings the context.
    """

    y: torch.Tensor
    context: torch.Tensor
    weight: torch.Tensor
    past: torch.Tensor | None
    future: torch.Tensor | None
    static: torch.Tensor | None
    length: int
    horizon: int

    @property
    def periods(self) -> int:
        """T, of the panel."""
        return self.context.shape[1]

    def batch(self, series: torch.Tensor, origin: torch.Tensor, targets: bool = True) -> dict[str, torch.Tensor]:
        """The tensors that darts names for B windows: (B, L, .), (B, H, .) and static (B, 1, C + S)."""
        L, H = self.length, self.horizon
        out = {"past_target": _cut(self.y, series, origin + 1, L)[..., None]}
        if self.static is not None:
            static = torch.cat([self.context[series, origin], self.static[series]], dim=1)  # (B, C + S)
            out["static_covariates"] = static[:, None]
        if self.past is not None:
            out["past_covariates"] = _cut(self.past, series, origin + 1, L)
        if self.future is not None:
            out["historic_future_covariates"] = _cut(self.future, series, origin + 1, L)
            out["future_covariates"] = _cut(self.future, series, origin + 1 + L, H)
        if targets:
            y = _cut(self.y, series, origin + 1 + L, H)[..., None]  # (B, H, 1)
            out["future_target"] = y.nan_to_num(0.0)
            out["sample_weight"] = torch.where(y.isnan(), 0.0, self.weight[series, origin][:, None, None])
        return out

    def windows(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Series and origins (W,) of the windows all of whose targets lie in periods ``first`` to ``last`` and speak of demand.

        Only series that have begun are in, from their ``LEAST``th period on (``counts.learnable``).
        """
        L, T = self.length, self.periods
        fits = np.zeros(T, dtype=bool)
        fits[max(first - 1, 0) : max(last - self.horizon + 1, 0)] = True
        series, origin = np.nonzero(learnable(~self.y[:, L : L + T].isnan().numpy(), self.horizon) & fits)
        return torch.from_numpy(series), torch.from_numpy(origin)


def _cut(values: torch.Tensor, series: torch.Tensor, start: torch.Tensor, length: int) -> torch.Tensor:
    """``length`` periods of ``values`` (N, P) or (N, P, K) from ``start`` on, for B windows: (B, length) or (B, length, K)."""
    flat = values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])
    at = (series * values.shape[1] + start)[:, None] + torch.arange(length)  # (B, length)
    return flat[at]


def blank(hyper: dict, scaling: dict) -> Feed:
    """One series of one period of which nothing is known: the shapes of the network's inputs, without a panel."""
    L, H = hyper["sequence_length"], hyper["forecast_length"]
    past = 1 + len(scaling["groups"]) + len(scaling["past"])
    future = YEARS + CALENDAR + len(scaling["future"])
    return Feed(
        y=torch.zeros(1, L + 1 + H),
        context=torch.zeros(1, 1, len(CONTEXT)),
        weight=torch.ones(1, 1),
        past=torch.zeros(1, L + 1, past) if hyper["covariates"] else None,
        future=torch.zeros(1, L + 1 + H, future) if hyper["seasonal"] else None,
        static=torch.zeros(1, len(scaling["tokens"])) if hyper["window_scale"] else None,
        length=L,
        horizon=H,
    )


def invented(hyper: dict, scaling: dict, number: int) -> dict[str, torch.Tensor]:
    """A batch of so many windows without targets, with numbers that a network may meet: to try a network with."""
    draw, nobody = np.random.default_rng(number), torch.zeros(number, dtype=torch.long)
    batch = blank(hyper, scaling).batch(nobody, nobody, targets=False)
    return {
        name: torch.from_numpy(draw.poisson(2.0, tensor.shape).astype(np.float32))
        if name == "past_target"
        else torch.from_numpy(draw.normal(0.5, 0.5, tensor.shape).astype(np.float32))
        for name, tensor in batch.items()
    }


def feed(panel: Panel, hyper: dict, scaling: dict) -> Feed:
    """The tensors of a panel, cut to its as-of date by whoever made it. ``scaling`` is what ``learn_scaling`` returned."""
    L, H = hyper["sequence_length"], hyper["forecast_length"]
    y = counts.sold(panel)
    state = context(y) if hyper["window_scale"] else np.zeros((*y.shape, len(CONTEXT)), dtype=np.float32)
    past = past_covariates(panel, y, scaling) if hyper["covariates"] else None
    future = future_covariates(panel, y, H, scaling) if hyper["seasonal"] else None
    return Feed(
        y=_tensor(np.pad(y, ((0, 0), (L, H)), constant_values=np.nan)),
        context=_tensor(state),
        weight=_tensor(weights(y, L, hyper["weight_alpha"])),
        past=None if past is None else _tensor(np.pad(past, ((0, 0), (L, 0), (0, 0)))),
        future=None if future is None else _tensor(np.pad(future, ((0, 0), (L, 0), (0, 0)), constant_values=np.nan)),
        static=_tensor(multi_hot(panel, scaling["tokens"])) if hyper["window_scale"] else None,
        length=L,
        horizon=H,
    )


def statistics(feed: Feed, series: torch.Tensor, origin: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean and spread (C + S,) of what is static in windows (W,), by which the network reads it; categories stay."""
    if feed.static is None:
        return {}
    seen, S = feed.context[series, origin], feed.static.shape[1]  # (W, C)
    mean, std = seen.mean(dim=0), seen.std(dim=0, correction=0).clamp(min=0.05)
    return dict(static_mean=torch.cat([mean, torch.zeros(S)]), static_std=torch.cat([std, torch.ones(S)]))


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


# --------------------------------------------------------------------------------------------------- the state of an origin


def context(y: np.ndarray) -> np.ndarray:
    """(N, T, C) what smoothing over all history up to each origin says, in the order of ``CONTEXT``. NaN periods are skipped.

    Logarithms of levels, spread and sizes are relative to the scale, n / (n + 2) of the level at .1 and a tenth of the panel's
    mean (at most 1), so that an item with little history is not scaled by chance. That mean and the trend are the panel's: an
    item is forecast a little differently in other company.
    """
    N, T = y.shape
    level, share, spread = np.zeros((len(ALPHAS), N)), np.zeros(N), np.zeros(N)
    size, n, sales, since = np.zeros(N), np.zeros(N), np.zeros(N), np.zeros(N)
    total, seen_total, pooled = 0.0, 0, np.full(2, np.nan)
    out = np.empty((N, T, len(CONTEXT)), dtype=np.float32)
    for t in range(T):
        seen = np.isfinite(y[:, t])
        new = np.where(seen, y[:, t], 0.0)
        some, n = seen & (new > 0), n + seen
        steps = np.maximum(np.array(ALPHAS)[:, None], 1 / np.maximum(n, 1))  # (A, N): a plain mean at first
        error = new - level[SCALE]
        spread += np.where(seen, steps[SCALE] * (np.where(n > 1, error**2, 0.0) - spread), 0.0)
        level += np.where(seen, steps * (new - level), 0.0)
        share += np.where(seen, steps[SCALE] * (some - share), 0.0)
        sales = sales + some
        size += np.where(some, np.maximum(0.2, 1 / np.maximum(sales, 1)) * (new - size), 0.0)
        since = np.where(some, 0.0, since + (n > 0))
        total, seen_total = total + new.sum(), seen_total + int(seen.sum())
        if seen.any():
            mean = new[seen].mean()
            pooled = np.where(np.isnan(pooled), mean, pooled + np.array([0.4, 0.1]) * (mean - pooled))
        scale = n / (n + SHRUNK) * level[SCALE] + 0.1 * min(total / max(seen_total, 1), 1.0) + FLOOR
        out[:, t, 0] = np.log(scale)
        out[:, t, 1 : 1 + len(ALPHAS)] = np.log(level / scale + FLOOR).T
        rest = (share, np.log1p(since), np.log1p(n), np.log(spread / scale**2 + FLOOR), np.log(size / scale + FLOOR))
        out[:, t, 1 + len(ALPHAS) : -1] = np.stack(rest, axis=1)
        out[:, t, -1] = np.log((pooled[0] + FLOOR) / (pooled[1] + FLOOR)) if np.isfinite(pooled[0]) else 0.0
    return out


def weights(y: np.ndarray, length: int, alpha: float) -> np.ndarray:
    """(N, T) how much the window of each origin counts: .1 + alpha log1p(its own mean), over their mean; 1 where alpha is 0."""
    if not alpha:
        return np.ones(y.shape)
    known = np.isfinite(y)

    def summed(values):
        run = np.cumsum(np.pad(values, ((0, 0), (length, 0))), axis=1)
        return run[:, length:] - run[:, :-length]

    mean = summed(np.where(known, y, 0.0)) / np.maximum(summed(known), 1)
    weight = 0.1 + alpha * np.log1p(mean)
    return weight / weight.mean()


# --------------------------------------------------------------------------------------------------------------- covariates


def learn_scaling(panel: Panel, hyper: dict) -> dict:
    """What must stay as it was when the network was trained: covariates and their spreads, tokens of categories."""
    kept = dict(tokens=_tokens(panel) if hyper["static_covariates"] else [], groups=[], past={}, future={})
    if hyper["covariates"]:
        kept["groups"] = list(panel.static_names)
        kept["past"] = {name: _kind(panel.past[:, :, k]) for k, name in enumerate(panel.past_names)}
    if hyper["seasonal"]:
        T = len(panel.dates)
        kept["future"] = {name: _kind(panel.future[:, :T, k]) for k, name in enumerate(panel.future_names)}
    return kept


def _kind(values: np.ndarray) -> list:
    """How a covariate is read: ("share", mean) within 0..1, ("ratio", 1) where never negative, else ("plain", spread)."""
    known = values[np.isfinite(values)]
    if not len(known) or (known.min() >= 0 and known.max() <= 1):
        return ["share", float(known.mean()) if len(known) else 0.0]
    return ["ratio", 1.0] if known.min() >= 0 else ["plain", float(known.std()) or 1.0]


def _tokens(panel: Panel) -> list:
    """[column, token] of every category that enough series have; a value is split on "/", so that a series may have several."""
    found = []
    for k, name in enumerate(panel.static_names):
        split = [token.strip() for value in panel.static[:, k] for token in set(str(value).split("/"))]
        names, number = np.unique(np.array(split, dtype=str), return_counts=True)
        enough = number >= min(RAREST, max(1, len(panel) // 10))
        found += [(int(n), name, str(token)) for token, n in zip(names[enough], number[enough], strict=True)]
    found.sort(key=lambda item: (-item[0], item[1], item[2]))
    return [[name, token] for _, name, token in found[:MOST_TOKENS]]


def multi_hot(panel: Panel, tokens: list) -> np.ndarray:
    """(N, S) 1 where the series has the token in that column; a category never seen in training has none."""
    out = np.zeros((len(panel), len(tokens)))
    columns = {
        name: [set(map(str.strip, str(v).split("/"))) for v in panel.static[:, k]] for k, name in enumerate(panel.static_names)
    }
    for s, (name, token) in enumerate(tokens):
        out[:, s] = [token in own for own in columns.get(name, [()] * len(panel))]
    return out


def _read(values: np.ndarray, kind) -> np.ndarray:
    """A covariate (N, P) as the network takes it, by the past alone: gaps hold the last value; 0 where nothing is known yet.

    A ratio is the log against the series' own mean so far; a plain number is against that mean, in spreads of training.
    """
    how, size = kind
    known = np.isfinite(values)
    held = carried(values)
    if how == "share":
        return np.nan_to_num(held - size)
    so_far = np.cumsum(np.where(known, values, 0.0), axis=1) / np.maximum(np.cumsum(known, axis=1), 1)
    out = (held - so_far) / size if how == "plain" else np.log((np.maximum(held, 0) + 1e-3) / (np.maximum(so_far, 0) + 1e-3))
    return np.clip(np.nan_to_num(out), -REACH, REACH)


def _column(values: np.ndarray, names, name: str, width: int) -> np.ndarray:
    """The covariate of a name (N, width): NaN where the panel does not have it, or does not reach so far."""
    out = np.full((len(values), width), np.nan)
    if name in names:
        own = values[:, :width, names.index(name)]
        out[:, : own.shape[1]] = own
    return out


def past_covariates(panel: Panel, y: np.ndarray, scaling: dict) -> np.ndarray:
    """(N, T, 1 + G + K): availability, the momentum of the groups that the series is in, and the panel's own covariates."""
    T = len(panel.dates)
    parts = [panel.available.astype(float)]
    parts += [momentum(y, _codes(panel, name)) for name in scaling["groups"]]
    parts += [_read(_column(panel.past, panel.past_names, name, T), kind) for name, kind in scaling["past"].items()]
    return np.stack(parts, axis=2)


def _codes(panel: Panel, name: str) -> np.ndarray:
    """(N,) the group of each series by a static column; all in one where the panel does not have it."""
    if name not in panel.static_names:
        return np.zeros(len(panel), dtype=int)
    return np.unique(panel.static[:, panel.static_names.index(name)].astype(str), return_inverse=True)[1]


def momentum(y: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N, T) log of the mean sales of the group in a period, over those on offer, against its own smoothed level so far."""
    size = codes.max() + 1
    known, level, out = np.isfinite(y), np.full(size, np.nan), np.zeros(y.shape)
    for t in range(y.shape[1]):
        n = np.bincount(codes, weights=known[:, t], minlength=size)
        mean = np.bincount(codes, weights=np.where(known[:, t], y[:, t], 0.0), minlength=size) / np.maximum(n, 1)
        level = np.where(n == 0, level, np.where(np.isnan(level), mean, level + 0.1 * (mean - level)))
        said = np.where(n == 0, 0.0, np.log((mean + FLOOR) / (np.nan_to_num(level) + FLOOR)))
        out[:, t] = said[codes]
    return np.clip(out, -REACH, REACH)


def future_covariates(panel: Panel, y: np.ndarray, horizon: int, scaling: dict) -> np.ndarray:
    """(N, T + H, 2 + 5 + F): counts a year ago and around it, the calendar, the anniversary of the first sale, the panel's own.

    All of it is known at any origin: a year ago is more than a horizon ago (``tide.fit`` sees to it), and the panel knows its
    future columns.
    """
    (N, T), lag = y.shape, panel.year
    dates = np.concatenate([panel.dates, panel.horizon_dates(horizon)])  # (T + H,)
    ago = np.full((N, T + horizon), np.nan)
    ago[:, lag:] = y[:, : max(T + horizon - lag, 0)]
    around = _around(y, lag, T + horizon, min(2, lag - horizon))
    day = (dates - dates.astype("datetime64[Y]")).astype(int) * (2 * np.pi / 365.25)
    waves = [np.broadcast_to(w, (N, T + horizon)) for w in (np.sin(day), np.cos(day), np.sin(2 * day), np.cos(2 * day))]
    first = np.where(np.isfinite(y).any(axis=1), np.isfinite(y).argmax(axis=1), T + horizon)
    old = np.arange(T + horizon) - first[:, None]  # (N, T + H) periods since the first sale
    anniversary = ((old >= lag - 1) & ((old + 1) % lag <= 2)).astype(float)
    own = [_read(_column(panel.future, panel.future_names, name, T + horizon), k) for name, k in scaling["future"].items()]
    return np.stack([ago, around, *waves, anniversary, *own], axis=2)


def _around(y: np.ndarray, year: int, width: int, reach: int) -> np.ndarray:
    """(N, width) mean of the counts within ``reach`` periods of the same one a year before; NaN where none is known."""
    reach = max(reach, 0)
    padded = np.pad(y, ((0, 0), (year + reach, max(width - year - y.shape[1] + reach, 0))), constant_values=np.nan)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)[:, :width]  # (N, width, 2 reach + 1)
    known = np.isfinite(near)
    return np.where(known.any(axis=2), np.where(known, near, 0.0).sum(axis=2) / np.maximum(known.sum(axis=2), 1), np.nan)
