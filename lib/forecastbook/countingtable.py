"""The counting table: how often posted prices moved from a state like this one, and where to. All of it is counted.

A day is in one of 45 cells: below, above or at the usual price of 90 days; how long the price has stood (up to 2, 7, 14, 30
days, longer); how often it changed in 90 days. The probability of a change by day h is the pooled rate by h times the cell's
lift over the mean rate, shrunk towards 1 with 100 pooled rows. Where a price goes depends on the first of the three alone,
shrunk towards the pool with 20 moves. It needs seconds for any panel, and no direct quantile model tried beats it.

Symbols: N series, C days counted, H days ahead, A = 25 kinds of change.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from . import spells, sticky
from .grid import Grid
from .panel import Panel

DAYS = 500  # the last days that are counted
MAX_DAYS = 200_000  # series-days counted: above it a seeded sample of the series
AGES = np.log1p([2.5, 7.5, 14.5, 30.5])  # between the classes of age, in days
RATES = np.array([0.001, 0.025])  # between the classes of the rate of change
STATES, CELLS = 3, 3 * 5 * 3
CELL_PRIOR, KIND_PRIOR = 100, 20  # pooled rows added to each cell, pooled moves added to each state


_COUNTED: WeakKeyDictionary[Panel, dict[int, CountingTable]] = WeakKeyDictionary()


@dataclass(frozen=True)
class CountingTable:
    """pool: (H,) rate of change by h. lift: (45,) of each cell. kinds: (3, A) by state. atoms: (2 * BINS, 2).

    change_days: how many days of change were seen, by their effective number: a campaign that moves many prices is one day.
    """

    pool: np.ndarray
    lift: np.ndarray
    kinds: np.ndarray
    atoms: np.ndarray
    change_days: float

    def hazard(self, features: np.ndarray) -> np.ndarray:
        """(N, H) probability that the price differs h days on, from the features (N, K) of a day."""
        return np.clip(self.pool * self.lift[cells(features)[1]][:, None], 1e-4, 0.9)

    def mixture(self, panel: Panel, grid: Grid | None = None) -> sticky.Mixture:
        """What the table says at the last day of a panel of series that have all been seen."""
        posted = spells.of(panel, 1)
        ladder = sticky.Ladder.of(posted.price[:, -1], posted.levels[:, -1], self.atoms, grid)
        return self.on(ladder, posted.features[:, -1])

    def on(self, ladder: sticky.Ladder, features: np.ndarray) -> sticky.Mixture:
        """What the table says of prices that may stand on this ladder, from the features (N, K) of their last day."""
        kinds = np.repeat(self.kinds[cells(features)[0]][:, None], len(self.pool), axis=1)  # (N, H, A)
        return sticky.Mixture(ladder, self.hazard(features), kinds)


def count(panel: Panel, horizon: int) -> CountingTable:
    """Count the last 500 days of a panel of positive prices; whatever it sees lies at or before the panel's as-of date.

    Baseline and experts ask for the same one: it is kept for as long as the panel is.
    """
    kept = _COUNTED.setdefault(panel, {})
    if horizon not in kept:
        kept[horizon] = _count(panel, horizon)
    return kept[horizon]


def _count(panel: Panel, horizon: int) -> CountingTable:
    keep = min(DAYS, len(panel.dates))
    panel = panel.sample(MAX_DAYS // keep, seed=0)
    posted = spells.of(panel, keep)
    ratio, classes = sticky.targets(panel, posted, horizon)  # (N, C, H)
    state, cell = cells(posted.features)
    known, moved = classes >= 0, classes > 0
    pool = (moved.sum(axis=(0, 1)) + 0.01) / (known.sum(axis=(0, 1)) + 2.0)  # no evidence: one change in two hundred
    # neighbouring horizons of one day say nearly the same: each day counts as two
    hits, rows = (np.bincount(cell.ravel(), a.sum(axis=2).ravel() * 2 / horizon, CELLS) for a in (moved, known))
    mean = pool.mean()
    kinds = np.stack(
        [np.bincount(classes[(state == s)[..., None] & moved], minlength=1 + sticky.CLASSES)[1:] for s in range(STATES)]
    )
    total = kinds.sum(axis=0)
    share = (total + 1) / (total.sum() + sticky.CLASSES)
    return CountingTable(
        pool=pool,
        lift=(hits + CELL_PRIOR * mean) / (rows + CELL_PRIOR) / mean,
        kinds=(kinds + KIND_PRIOR * share) / (kinds.sum(axis=1, keepdims=True) + KIND_PRIOR),
        atoms=sticky.atoms(ratio, classes),
        change_days=effective(moved[:, :, 0].sum(axis=0)),
    )


def effective(counts: np.ndarray) -> float:
    """How many equal counts say as much as these: the square of their sum over their sum of squares (Kish 1965)."""
    counts = counts.astype(float)
    return float(counts.sum() ** 2 / max((counts**2).sum(), 1.0))


def cells(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State (...) 0 below, 1 above, 2 at the usual price, and cell (...) 0..44, from ``spells`` features (..., K)."""
    below, above, age, rate = (features[..., spells.FEATURES.index(n)] for n in ("below_usual", "above_usual", "age", "rate90"))
    state = np.where(below > 0.5, 0, np.where(above > 0.5, 1, 2))
    return state, (state * 5 + np.searchsorted(AGES, age)) * 3 + np.searchsorted(RATES, rate, side="right")
