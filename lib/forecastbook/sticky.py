"""The language of posted prices: spells, usual levels, and a two-part distribution over where a price goes next.

A posted price stays for days and then jumps, mostly to a level where it has been before. So a day is described by the
spell that it lies in and by the levels of its past, and a forecast is: does the price differ in h days (hazard), and if so,
which known level, or else which bin of the log ratio. Quantiles are read off the sorted atoms of that mixture.

Symbols: N series, T days, C days kept (the last ones), K features, J = 5 candidate levels, A = 25 classes of change
(J levels, 10 bins down, 10 bins up), Q quantile levels, M any number of forecasts. Everything at day t depends on days <= t of
the same series only, and on prices through their ratio to the first observed one: all prices times 100 give the same features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from .grid import Grid
from .panel import Panel

CHANGE = 0.005  # two log prices nearer than this are the same posted price
EDGES = np.array([CHANGE, 0.03, 0.07, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 6.0])  # of |log ratio|: 10 bins a side
LEVELS = ("previous", "mode90", "max90", "previous2", "min90")  # candidate levels, by precedence
J, BINS = len(LEVELS), len(EDGES) - 1
CLASSES = J + 2 * BINS  # of a change; class id 0 is "unchanged", so ids run from 0 to CLASSES
LIFE, GAP = 20, 14  # a forecast is learnt from when its series is this old and was seen this lately
CHUNK = 1024  # series read at a time
FEATURES = (
    "age",
    "observations",
    "previous_length",
    "age_to_previous_length",
    "never_changed",
    "to_previous",
    "to_previous2",
    "to_mode28",
    "to_mode90",
    "share_mode90",
    "to_max90",
    "to_min90",
    "to_max28",
    "to_min28",
    "below_usual",
    "above_usual",
    "rate7",
    "rate28",
    "rate90",
    "mean_step90",
    "gap",
    "seen7",
    "seen28",
    "last_direction",
    "last_step",
    "observed",
    "to_list",
    "list_known",
)


@dataclass(frozen=True)
class Posted:
    """What is known on each of the last C days.

    price: (N, C) float64 last posted price, NaN before the first. features: (N, C, K) float32, 0 before the first observation.
    levels: (N, C, J) float64 prices of the candidate levels, NaN where unknown, equal to ``price`` or to an earlier candidate.
    life: (N, C) days since the first observation, that day counted, 0 before it. gap: (N, C) days since the last observation.
    """

    price: np.ndarray
    features: np.ndarray
    levels: np.ndarray
    life: np.ndarray
    gap: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """(N, C, J) float64: log ratio of each candidate level to the price, NaN where it is masked."""
        return np.log(self.levels / self.price[:, :, None])


def of(panel: Panel, keep: int | None = None) -> Posted:
    """``read`` of a panel by chunks of series, which bounds memory; the list price is its past covariate ``list_price``."""
    listed = panel.past[:, :, panel.past_names.index("list_price")] if "list_price" in panel.past_names else None
    parts = [
        read(panel.y[i : i + CHUNK], None if listed is None else listed[i : i + CHUNK], keep)
        for i in range(0, max(len(panel), 1), CHUNK)
    ]
    names = ("price", "features", "levels", "life", "gap")
    return parts[0] if len(parts) == 1 else Posted(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def targets(panel: Panel, posted: Posted, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios (N, C, H) float32 and classes (N, C, H) int8 of what came after each day; -1 where not to be learnt from."""
    N, C = posted.price.shape
    start = len(panel.dates) - C
    ratio = np.full((N, C, horizon), np.nan, dtype=np.float32)
    classes = np.full((N, C, horizon), -1, dtype=np.int8)
    eligible, candidates = (posted.life >= LIFE) & (posted.gap <= GAP), posted.ratios
    for h in range(1, min(horizon, C - 1) + 1):
        with np.errstate(invalid="ignore"):
            ahead = np.log(panel.y[:, start + h :] / posted.price[:, :-h])  # (N, C - h)
        ahead[~eligible[:, :-h]] = np.nan
        ratio[:, :-h, h - 1] = ahead
        classes[:, :-h, h - 1] = classify(ahead, candidates[:, :-h])
    return ratio, classes


CALENDAR = ("ahead", "mondays_passed", "on_monday", "on_weekend", "on_friday")


def calendar(panel: Panel, keep: int, horizon: int) -> np.ndarray:
    """(keep, H, 5) float32 of the last days and their horizons: h, Mondays in (t, t + h], target a Monday, weekend, Friday."""
    weekday = (np.concatenate([panel.dates, panel.horizon_dates(horizon)]).astype("datetime64[D]").astype(int) + 3) % 7
    target = np.arange(len(panel.dates) - keep, len(panel.dates))[:, None] + np.arange(1, horizon + 1)  # (keep, H)
    monday = np.cumsum(weekday == 0)
    passed = monday[target] - monday[target[:, 0] - 1][:, None]
    day = weekday[target]
    h = np.broadcast_to(np.arange(1, horizon + 1) / 7, target.shape)
    return np.stack([h, passed, day == 0, day >= 5, day == 4], axis=2).astype(np.float32)


def read(y: np.ndarray, list_price: np.ndarray | None = None, keep: int | None = None) -> Posted:
    """Read daily prices as spells and levels, for the last ``keep`` days (default: all).

    y: (N, T) positive prices, NaN where not observed. list_price: (N, T) or None; NaN where not known.
    Vectorised over series; call it by chunks of series to bound memory. Raises ValueError on a price that is not positive.
    """
    y = np.asarray(y, dtype=np.float64)
    N, T = y.shape
    C = T if keep is None else min(keep, T)
    observed = np.isfinite(y)
    if (y[observed] <= 0).any():
        raise ValueError("a posted price must be positive: quarantine zero and negative prices before they reach the panel")
    day = np.arange(T)
    seen = np.maximum.accumulate(np.where(observed, day, -1), axis=1)  # (N, T) column of the last observation
    alive = seen >= 0
    first = np.where(alive[:, -1], observed.argmax(axis=1), T)[:, None]  # (N, 1)
    price = _at(y, seen)  # (N, T) forward filled
    with np.errstate(divide="ignore", invalid="ignore"):
        L = np.round(np.log(price / _at(price, np.minimum(first, T - 1))), 9)  # rounding hides the last bit of a rescale
    L = np.where(alive, L, 0.0)
    step = np.diff(L, axis=1, prepend=L[:, :1])  # (N, T)
    moved = np.abs(step) > CHANGE
    life = np.maximum(day - first + 1, 0)  # (N, T)

    began = np.maximum.accumulate(np.where(moved, day, -1), axis=1)  # day the present spell began, -1: the first
    began2 = np.where(began > 0, np.take_along_axis(began, np.maximum(began - 1, 0), axis=1), -1)
    age = np.where(began >= 0, day - began, life)
    length = np.where(began >= 0, began - np.maximum(began2, first), 0)  # of the previous spell
    previous, previous2 = (np.where(b >= 0, _at(price, b - 1), np.nan) for b in (began, began2))
    count = np.cumsum(observed, axis=1)
    in_spell = count - np.where(began > 0, np.take_along_axis(count, np.maximum(began - 1, 0), axis=1), 0)

    high90, low90, high28, low28 = (_extremes(price, window, sign) for window in (90, 28) for sign in (1, -1))
    mode90, share90 = usual(price, L, alive, 90, C)  # (N, C)
    mode28, _ = usual(price, L, alive, 28, C)

    def cut(a):
        return a[:, T - C :]

    def rate(a, window):
        total = np.cumsum(a, axis=1)
        total[:, window:] = total[:, window:] - total[:, :-window]
        return cut(total / np.clip(life, 1, window))

    now, age, length, began, alive_, life_ = (cut(a) for a in (price, age, length, began, alive, life))
    levels = np.stack([cut(previous), mode90, cut(high90), cut(previous2), cut(low90)], axis=2)  # (N, C, J)
    known = np.zeros((N, T)) if list_price is None else np.asarray(list_price, dtype=np.float64)
    listed = np.maximum.accumulate(np.where(known > 0, day, -1), axis=1)
    listed = cut(np.where(listed >= 0, _at(known, listed), np.nan))
    direction = np.where(began >= 0, np.sign(np.take_along_axis(step, np.maximum(began, 0), axis=1)), 0.0)

    def to(level):
        """Log distance from the price to a level, 0 where there is none."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.round(np.log(level / now), 9))

    gap = cut(day - seen)
    columns = (
        np.log1p(age),
        np.log1p(cut(in_spell)),
        np.log1p(length),
        np.where(began >= 0, np.log1p(age) - np.log1p(length), 0.0),
        began < 0,
        to(levels[:, :, 0]),
        to(levels[:, :, 3]),
        to(mode28),
        to(mode90),
        share90,
        to(levels[:, :, 2]),
        to(levels[:, :, 4]),
        to(cut(high28)),
        to(cut(low28)),
        to(mode90) > 0.01,
        to(mode90) < -0.01,
        rate(moved, 7),
        rate(moved, 28),
        rate(moved, 90),
        rate(np.abs(step), 90),
        np.log1p(np.where(alive_, gap, 0)),
        rate(observed, 7),
        rate(observed, 28),
        direction,
        cut(step),
        cut(observed),
        to(listed),
        np.isfinite(listed),
    )
    features = np.empty((N, C, len(FEATURES)), dtype=np.float32)
    for k, column in enumerate(columns):
        features[:, :, k] = np.where(alive_, column, 0)
    return Posted(price=now, features=features, levels=_masked(levels, now), life=life_, gap=gap)


def usual(price, L, alive, window: int, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The level that held on most of the last ``window`` days: its latest price (N, keep), and the share of days (N, keep).

    Levels are one when they agree to .001 in log. The lowest of several equally frequent levels is taken. A count table over a
    series' own levels moves along the days: T steps, each over all series.
    """
    N, T = L.shape
    start = max(0, T - keep - window + 1)
    L, price, alive = L[:, start:], price[:, start:], alive[:, start:]
    T = L.shape[1]
    grid = np.round(L * 1000).astype(np.int64)
    grid -= grid.min()
    width = grid.max() + 1
    level, code = np.unique(np.arange(N)[:, None] * width + grid, return_inverse=True)
    code = code.reshape(N, T)
    code -= np.searchsorted(level, np.arange(N) * width)[:, None]  # (N, T) rank of the level within its series
    rows = np.arange(N)
    counts = np.zeros((N, code.max() + 1), dtype=np.int32)
    latest = np.full(counts.shape, np.nan)
    mode, share = np.full((N, T), np.nan), np.zeros((N, T))
    for t in range(T):
        counts[rows, code[:, t]] += alive[:, t]
        latest[rows, code[:, t]] = price[:, t]
        if t >= window:
            counts[rows, code[:, t - window]] -= alive[:, t - window]
        if t >= T - keep:
            best = counts.argmax(axis=1)
            mode[:, t] = np.where(alive[:, t], latest[rows, best], np.nan)
            share[:, t] = counts[rows, best]
    days = np.cumsum(alive, axis=1)
    days[:, window:] = days[:, window:] - days[:, :-window]
    return mode[:, T - keep :], (share / np.maximum(days, 1))[:, T - keep :]


def classify(ratio: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Class of a move: 0 unchanged, 1..J the first candidate that it hits, then 10 bins down, 10 bins up; -1 where NaN.

    ratio: (...) log(price ahead / price now). candidates: (..., J) log ratios, NaN where masked. Returns (...) int8.
    """
    size, known = np.abs(ratio), np.isfinite(ratio)
    bin_ = np.clip(np.searchsorted(EDGES, np.where(known, size, 0.0), side="right") - 1, 0, BINS - 1)
    out = 1 + J + bin_ + np.where(ratio > 0, BINS, 0)
    with np.errstate(invalid="ignore"):
        hit = np.abs(ratio[..., None] - candidates) <= CHANGE  # (..., J)
        out = np.where(hit.any(axis=-1), 1 + hit.argmax(axis=-1), out)
        out = np.where(size <= CHANGE, 0, out)
    return np.where(known, out, -1).astype(np.int8)


def atoms(ratio: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Two log ratios that stand for each bin: the quartiles of the training moves in it, its centre where there are under 8.

    ratio, classes: same shape, as from ``classify``. Returns (2 * BINS, 2) float64, bins down first.
    """
    out = np.empty((2 * BINS, 2))
    for b in range(2 * BINS):
        inside = np.abs(ratio[classes == 1 + J + b])
        low, high = EDGES[b % BINS], EDGES[b % BINS + 1]
        pair = np.quantile(inside, (0.25, 0.75)) if len(inside) >= 8 else np.full(2, (low + min(high, 2 * low)) / 2)
        out[b] = pair if b >= BINS else -pair
    return out


@dataclass(frozen=True)
class Ladder:
    """Where the prices of N series may stand: the present one, its candidate levels and two atoms a bin, in rising order.

    values: (N, M) prices. order: (N, M) which place is which: 0 the present price, 1..J a level, then the atoms. A masked level
    stands at the present price and gets no probability. M = 1 + J + 4 * BINS.
    """

    values: np.ndarray
    order: np.ndarray
    masked: np.ndarray  # (N, J)

    @classmethod
    def of(cls, price, levels, atoms, grid: Grid | None = None) -> Ladder:
        """price: (N,) now. levels: (N, J) candidate prices, NaN where masked. atoms: (2 * BINS, 2) log ratios.

        With a ``grid`` the atoms are prices that the shop could post, where such a one differs from the present price.
        """
        masked = np.isnan(levels)
        bins = price[:, None] * np.exp(atoms.reshape(1, -1))  # (N, 4 * BINS)
        if grid is not None:
            posted = grid.snap(bins)
            with np.errstate(divide="ignore"):
                bins = np.where(np.abs(np.log(posted / price[:, None])) > CHANGE, posted, bins)
        values = np.concatenate([price[:, None], np.where(masked, price[:, None], levels), bins], axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        return cls(np.take_along_axis(values, order, axis=1), order, masked)


@dataclass(frozen=True)
class Mixture:
    """A two-part forecast of N series.

    hazard: (N, H) probability that the price differs h days on. climb: (N, H, M) if it does, the probability that it then
    stands at this place of the ladder or lower.
    """

    ladder: Ladder
    hazard: np.ndarray
    climb: np.ndarray

    @classmethod
    def of(cls, ladder: Ladder, hazard, kinds) -> Mixture:
        """kinds: (N, H, A) probabilities of the kinds of change; those of masked levels are dropped, the others sum to 1."""
        kinds = np.array(kinds, dtype=np.float64)
        kinds[..., :J][np.broadcast_to(ladder.masked[:, None], (*kinds.shape[:2], J))] = 0.0
        kinds /= np.maximum(kinds.sum(axis=2, keepdims=True), 1e-300)
        stay = np.zeros((*kinds.shape[:2], 1))
        mass = np.concatenate([stay, kinds[..., :J], np.repeat(kinds[..., J:] / 2, 2, axis=2)], axis=2)  # (N, H, M)
        return cls(
            ladder, np.asarray(hazard, dtype=np.float64), np.take_along_axis(mass, ladder.order[:, None], axis=2).cumsum(axis=2)
        )

    def quantiles(self, at) -> np.ndarray:
        """(N, H, Q) float64: the lowest place of the ladder below or at which at least so much probability lies.

        A quantile on a known level is that posted price to the last bit; the median stays at the present price unless more than
        half of the probability lies on one side of it. Never negative, never crossing.
        """
        N, H = self.hazard.shape
        here = self.ladder.order.argmin(axis=1)[:, None] <= np.arange(
            self.ladder.order.shape[1]
        )  # (N, M) at or above the price
        total = self.hazard[..., None] * self.climb + (1 - self.hazard)[..., None] * here[:, None]  # (N, H, M)
        out = np.empty((N, H, len(at)))
        for q, level in enumerate(at):
            place = (total < level - 1e-9).sum(axis=2).clip(max=total.shape[2] - 1)  # (N, H)
            out[..., q] = np.take_along_axis(self.ladder.values, place, axis=1)
        return out


def mean_odds(hazards: list[np.ndarray]) -> np.ndarray:
    """The probability whose log odds are the mean of theirs; of one alone, itself."""
    if len(hazards) == 1:
        return hazards[0]
    return 1 / (1 + np.exp(-sum(np.log(p) - np.log1p(-p) for p in hazards) / len(hazards)))


def _at(a, column):
    """a[n, column[n, t]], NaN where the column is negative."""
    return np.where(column >= 0, np.take_along_axis(a, np.maximum(column, 0), axis=1), np.nan)


def _extremes(price, window, sign=1):
    """Highest (sign 1) or lowest (sign -1) price of the last ``window`` days, NaN before the first: (N, T)."""
    run = maximum_filter1d if sign > 0 else minimum_filter1d
    floor = -np.inf if sign > 0 else np.inf
    out = run(np.where(np.isnan(price), floor, price), window, axis=1, mode="constant", cval=floor, origin=(window - 1) // 2)
    return np.where(np.isfinite(out), out, np.nan)


def _masked(levels, price):
    """Candidate levels with those that equal the price, or an earlier candidate, set to NaN: (N, C, J)."""
    out = np.array(levels)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(out / price[:, :, None])
        for j in range(J):
            same = np.abs(ratio[:, :, j]) <= CHANGE
            for i in range(j):
                same |= np.abs(ratio[:, :, j] - ratio[:, :, i]) <= CHANGE  # False where candidate i is masked
            ratio[:, :, j] = np.where(same, np.nan, ratio[:, :, j])
    out[np.isnan(ratio)] = np.nan
    return out
