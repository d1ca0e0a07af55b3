"""Boosted trees on the features of posted prices: does a price differ h days on, and if so, is it higher? For all series.

LightGBM (Ke et al. 2017) on a seeded sample of past days and horizons, with small leaves and many rows in each: a shop has
thousands of days but only tens of campaigns to learn from. The side of a change is learnt from the changes alone. Trees are
grown anew in each run, in about a second.

Symbols: N series, C days, H days ahead, K features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import spells, sticky
from .boosting import STEADY, lightgbm, sealed, unsealed
from .panel import Panel

DAYS = 500  # the last days that are learnt from
MAX_DAYS = 400_000  # series-days read: above it a seeded sample of the series
ROWS, SIDE_ROWS = 100_000, 60_000  # pairs of a day and a horizon that are learnt from; changed ones, for the side
LEAST = 500  # pairs below which nothing is learnt; of the side, pairs with a change
FILE = "trees.txt"  # LightGBM's own text format, read as numbers: nothing in it is executed
NEXT = "\nthe side of a change:\n"  # between the two models in that file
NAMES = [*spells.FEATURES, *spells.CALENDAR]
SETTINGS = dict(
    objective="binary",
    learning_rate=0.06,
    num_leaves=8,
    min_data_in_leaf=200,
    lambda_l2=5.0,
    force_row_wise=True,
    **STEADY,
)
TREES, SIDE_TREES = 150, 100


class TreesError(ValueError):
    """Trees that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Trees:
    """Grown models: whether a price differs, and whether one that does is higher (None: too few changes, or all one way)."""

    booster: lightgbm.Booster
    sides: lightgbm.Booster | None = None

    def hazard(self, today: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """(N, H) probability that the price differs h days on. today: (N, K) features of a day. ahead: (H, 7) its calendar."""
        return np.clip(_ask(self.booster, today, ahead), 1e-4, 0.99)

    def upward(self, today: np.ndarray, ahead: np.ndarray) -> np.ndarray | None:
        """(N, H) probability that a price which differs then is above the last one; None where that was not learnt."""
        return None if self.sides is None else np.clip(_ask(self.sides, today, ahead), 0.01, 0.99)

    def importance(self) -> pd.DataFrame:
        """What the trees of whether a price differs look at: feature, share of the loss that its splits saved; most first."""
        gain = self.booster.feature_importance("gain")
        table = pd.DataFrame({"feature": NAMES, "share": gain / max(gain.sum(), 1e-300)})
        return table.sort_values(["share", "feature"], ascending=[False, True], ignore_index=True)


def _ask(booster, today: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    x = np.concatenate([np.repeat(today, len(ahead), axis=0), np.tile(ahead, (len(today), 1))], axis=1)
    return booster.predict(x, num_threads=1).reshape(len(today), len(ahead))


def fit(panel: Panel, horizon: int, seed: int = 0) -> Trees | None:
    """Grow trees on what lies at or before the panel's as-of date; None where there is too little, or nothing ever changed."""
    keep = min(DAYS, len(panel.dates))
    panel = panel.sample(MAX_DAYS // keep, seed)
    posted = spells.of(panel, keep)
    ratio, classes = sticky.targets(panel, posted, horizon)  # (N, C, H)
    known, moved, up = np.flatnonzero(classes >= 0), np.flatnonzero(classes > 0), ratio > 0
    if len(known) < LEAST or not len(moved):
        return None
    calendar = spells.calendar(panel, keep, horizon)  # (C, H, 7)

    def grow(pairs: np.ndarray, event: np.ndarray, most: int, trees: int) -> lightgbm.Booster:
        """Trees that tell the pairs, flat places in (N, C, H), at which the event (N, C, H) came from the others."""
        if len(pairs) > most:
            pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), most, replace=False))]
        series, day, h = np.unravel_index(pairs, event.shape)
        x = np.concatenate([posted.features[series, day], calendar[day, h]], axis=1)
        rows = lightgbm.Dataset(x, event.ravel()[pairs].astype(np.int8), feature_name=NAMES)
        return lightgbm.train(SETTINGS | {"seed": seed}, rows, num_boost_round=trees)

    both = len(moved) >= LEAST and 0 < up.ravel()[moved].sum() < len(moved)
    return Trees(grow(known, classes > 0, ROWS, TREES), grow(moved, up, SIDE_ROWS, SIDE_TREES) if both else None)


def save(trees: Trees, directory) -> None:
    """Write the trees into a directory that exists, as text: same trees, same bytes."""
    text = NEXT.join(each.model_to_string() for each in (trees.booster, trees.sides) if each)
    (Path(directory) / FILE).write_text(sealed(text), encoding="utf-8")


def load(directory) -> Trees | None:
    """What ``save`` wrote; None where the directory has no trees. TreesError names a file that is broken."""
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    try:
        texts = unsealed(path.read_text(encoding="utf-8")).split(NEXT)
        boosters = [lightgbm.Booster(model_str=text) for text in texts]
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise TreesError(f"{path}: not the text of boosted trees ({error}); make the run anew") from None
    if any(each.feature_name() != NAMES for each in boosters):
        raise TreesError(f"{path}: grown on other features than this version reads; make the run anew")
    return Trees(*boosters)
