"""The prices that a shop could post: its own grid, such as every price ending in .99, or whole hundreds.

A grid is a modulus and the endings that prices have within it: (1, [.99]), (1000, [0, 500, 900]), (0.01, [0]) for plain cents.
Symbols: N series, T days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .panel import Panel

MODULI = (0.01, 0.05, 0.1, 0.5, *(k * 10**n for n in range(8) for k in (1, 5)))
ENDINGS = 5  # more than so many endings within a modulus are no habit
SHARE = 0.95  # of posted prices that must lie on a grid
COARSE = 0.25  # of the usual price: wider than this, endings are those of a few items, not of a shop
DAYS, SERIES = 90, 500  # the last days and a seeded sample of the series are looked at
LEAST = 30  # posted prices, fewer tell nothing


@dataclass(frozen=True)
class Grid:
    """modulus > 0; endings (E,) rising, in [0, modulus)."""

    modulus: float
    endings: np.ndarray

    def snap(self, price: np.ndarray) -> np.ndarray:
        """The nearest price on the grid, never 0 or less: where that would be, the price as it is. Any shape."""
        around = np.concatenate([self.endings[-1:] - self.modulus, self.endings, self.endings[:1] + self.modulus])
        whole = np.floor(price / self.modulus) * self.modulus
        nearest = np.searchsorted((around[1:] + around[:-1]) / 2, price - whole)
        out = np.round(whole + around[nearest], 6)  # 3.99, not 3.9900000000000002
        return np.where(out > 0, out, price)


def of(panel: Panel) -> Grid | None:
    """The widest-spaced grid that holds the prices posted of late up to the panel's as-of date; None where there is none."""
    recent = panel.last(DAYS).sample(SERIES, seed=0)
    filled = np.round(recent.filled, 6)  # the last bits of a price that stands are no new spell
    began = np.isfinite(filled)
    began[:, 1:] &= filled[:, 1:] != filled[:, :-1]
    price, spells = np.unique(filled[began], return_counts=True)  # a price counts once a spell
    if spells.sum() < LEAST:
        return None
    coarsest, best = COARSE * np.median(np.repeat(price, spells)), None
    for modulus in reversed(MODULI):
        if best is not None and modulus < best[0]:
            break  # no finer one can be spaced more widely
        ending = np.round(np.mod(price, modulus), 6)
        ending[np.abs(ending - modulus) <= 1e-6] = 0.0  # 0.07 mod 0.01 is 0.00999...
        price, which = np.unique(ending, return_inverse=True)  # each modulus divides the next: an ending has that of a price
        spells = np.bincount(which, spells)
        often = np.argsort(-spells, kind="stable")[:ENDINGS]
        needed = int(np.searchsorted(np.cumsum(spells[often]), SHARE * spells.sum())) + 1
        spacing = modulus / needed
        if needed <= len(often) and spacing <= coarsest and (best is None or spacing >= best[0]):
            best = spacing, Grid(modulus, np.sort(price[often[:needed]]))
    return None if best is None else best[1]
