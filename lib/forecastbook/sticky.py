"""The language of posted prices: a two-part distribution over where a price goes next.

A posted price stays for days and then jumps, mostly to a level where it has been before (``spells``). So a forecast is: does
the price differ in h days (hazard), and if so, which known level, or else which bin of the log ratio. Quantiles are read off
the sorted atoms of that mixture.

Symbols: N series, C days kept (the last ones), H days ahead, J = 5 candidate levels, A = 25 classes of change (J levels, 10
bins down, 10 bins up), M places where a price may stand, Q quantile levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .grid import Grid
from .panel import Panel
from .spells import CHANGE, J, Posted

EDGES = np.array([CHANGE, 0.03, 0.07, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 6.0])  # of |log ratio|: 10 bins a side
BINS = len(EDGES) - 1
CLASSES = J + 2 * BINS  # of a change; class id 0 is "unchanged", so ids run from 0 to CLASSES
LIFE, GAP = 20, 14  # a forecast is learnt from when its series is this old and was seen this lately


def targets(panel: Panel, posted: Posted, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios (N, C, H) float32 of what came after each day, NaN where not to be learnt from, and classes (N, C, H) int8.

    A class is 0 unchanged, 1..J the first candidate level that was hit, then 10 bins down, 10 bins up; -1 is not to be learnt
    from.
    """
    from . import compiled  # loaded where it runs

    N, C = posted.price.shape
    ratio = np.full((N, C, horizon), np.nan, dtype=np.float32)
    classes = np.full((N, C, horizon), -1, dtype=np.int8)
    y = np.array(panel.y[:, len(panel.dates) - C :], dtype=np.float64, order="C")
    known = (posted.price, posted.levels, posted.life, posted.gap)
    compiled.targets(y, *known, LIFE, GAP, CHANGE, EDGES, ratio, classes)
    return ratio, classes


def atoms(ratio: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Two log ratios that stand for each bin: the quartiles of the training moves in it, its centre where there are under 8.

    ratio, classes: same shape, as from ``targets``. Returns (2 * BINS, 2) float64, bins down first.
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
    stands at the present price and gets no probability. rising: (N, A) bool, the kinds of change that go up. M = 1 + J +
    4 * BINS.
    """

    values: np.ndarray
    order: np.ndarray
    masked: np.ndarray  # (N, J)
    rising: np.ndarray

    @classmethod
    def of(cls, price, levels, atoms, grid: Grid | None = None) -> Ladder:
        """price: (N,) now. levels: (N, J) candidate prices, NaN where masked. atoms: (2 * BINS, 2) log ratios.

        With a ``grid`` the atoms are prices that the shop could post, where such a one lies on the same side of the price.
        """
        masked, away = np.isnan(levels), atoms.ravel()
        bins = price[:, None] * np.exp(away)  # (N, 4 * BINS)
        if grid is not None:
            posted, least = grid.snap(bins), price[:, None] * np.exp(np.copysign(CHANGE, away))
            bins = np.where(np.where(away > 0, posted > least, posted < least), posted, bins)
        values = np.concatenate([price[:, None], np.where(masked, price[:, None], levels), bins], axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        up = np.broadcast_to(np.arange(2 * BINS) >= BINS, (len(price), 2 * BINS))
        rising = np.concatenate([levels > price[:, None], up], axis=1)
        return cls(np.take_along_axis(values, order, axis=1), order, masked, rising)


class Outlook(NamedTuple):
    """A forecast of posted prices. q: (N, H, Q) quantiles; p_change: (N, H) probability that the price differs h days on; p_up:
    (N, H) that it is higher then, so that p_change - p_up is that it is lower."""

    q: np.ndarray
    p_change: np.ndarray
    p_up: np.ndarray

    @classmethod
    def unknown(cls, N: int, H: int, Q: int) -> Outlook:
        """All NaN, to be filled by ``put``."""
        return cls(np.full((N, H, Q), np.nan), np.full((N, H), np.nan), np.full((N, H), np.nan))

    def put(self, rows, said: Outlook) -> None:
        """Write the forecast of some of the series."""
        for whole, part in zip(self, said, strict=True):
            whole[rows] = part


@dataclass(frozen=True)
class Mixture:
    """A two-part forecast of N series.

    hazard: (N, H) probability that the price differs h days on. kinds: (N, H, A) if it does, the probabilities of the kinds of
    change; those of masked levels do not count, and the others are taken to sum to 1.
    """

    ladder: Ladder
    hazard: np.ndarray
    kinds: np.ndarray

    @cached_property
    def upward(self) -> np.ndarray:
        """(N, H) probability that the price, if it differs, is above the present one; its log odds are finite."""
        from . import compiled  # loaded where it runs

        out = np.empty(self.hazard.shape)
        compiled.upward(self.ladder.rising, self.ladder.masked, self._dense, out)
        return np.clip(out, 1e-4, 1 - 1e-4)

    @cached_property
    def _dense(self) -> np.ndarray:
        """(N, H, A) kinds in the one layout that compiled code takes."""
        return np.array(np.broadcast_to(self.kinds, (*self.hazard.shape, CLASSES)), dtype=np.float64, order="C")

    def leaning(self, upward: np.ndarray) -> Mixture:
        """The same with that probability (N, H) above the present price, as far as a side has any; nothing else changes."""
        upper, lower = upward / self.upward, (1 - upward) / (1 - self.upward)
        return replace(self, kinds=self.kinds * np.where(self.ladder.rising[:, None], upper[..., None], lower[..., None]))

    def outlook(self, at) -> Outlook:
        """All that is said of a forecast, with quantiles at the levels ``at``."""
        return Outlook(self.quantiles(at), self.hazard, self.hazard * self.upward)

    def quantiles(self, at) -> np.ndarray:
        """(N, H, Q) float64: the lowest place of the ladder below or at which at least so much probability lies.

        A quantile on a known level is that posted price to the last bit; the median stays at the present price unless more than
        half of the probability lies on one side of it. Never negative, never crossing.
        """
        from . import compiled  # loaded where it runs

        out, at = np.empty((*self.hazard.shape, len(at))), np.asarray(at, dtype=np.float64)
        hazard, places = np.array(self.hazard, dtype=np.float64, order="C"), (self.ladder.order, self.ladder.masked)
        compiled.quantiles(self.ladder.values, *places, hazard, self._dense, np.sort(at), out)
        return out[..., at.argsort().argsort()]


def mean_odds(hazards: list[np.ndarray], weights=None) -> np.ndarray:
    """The probability whose log odds are the mean of theirs, (N, H) each, by ``weights`` where they do not count the same."""
    return 1 / (1 + np.exp(-np.average([np.log(p) - np.log1p(-p) for p in hazards], axis=0, weights=weights)))
