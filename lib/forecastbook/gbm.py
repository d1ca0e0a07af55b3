"""Boosted trees on the features of posted prices: the probability that a price differs h days on, one model for all series.

LightGBM (Ke et al. 2017) on a seeded sample of past days and horizons, with small leaves and many rows in each: a shop has
thousands of days but only tens of campaigns to learn from. Trees are grown anew in each run, in about a second.

Symbols: N series, C days, H days ahead, K features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

from . import spells, sticky
from .panel import Panel

DAYS = 500  # the last days that are learnt from
MAX_DAYS = 400_000  # series-days read: above it a seeded sample of the series
ROWS = 100_000  # pairs of a day and a horizon that are learnt from
LEAST = 500  # pairs below which nothing is learnt
FILE = "trees.txt"  # LightGBM's own text format, read as numbers: nothing in it is executed
SEAL = "sha256="  # begins the last line, the hash of all before: text that is cut off or changed makes LightGBM end the process
NAMES = [*spells.FEATURES, *spells.CALENDAR]
STEADY = dict(num_threads=1, deterministic=True, verbose=-1)  # same rows, same trees, bit for bit: with a layout forced
SETTINGS = dict(
    objective="binary",
    learning_rate=0.06,
    num_leaves=8,
    min_data_in_leaf=200,
    lambda_l2=5.0,
    force_row_wise=True,
    **STEADY,
)
TREES = 150


class TreesError(ValueError):
    """Trees that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Trees:
    """A grown model."""

    booster: lightgbm.Booster

    def hazard(self, panel: Panel, horizon: int, features: np.ndarray | None = None) -> np.ndarray:
        """(N, H) probability that the price differs h days after the panel's last one; series must all have been seen.

        features: (N, K) of that last day, where somebody has read them already.
        """
        features = spells.of(panel, 1).features[:, -1] if features is None else features
        ahead = spells.calendar(panel, 1, horizon)[0]  # (H, 5)
        x = np.concatenate([np.repeat(features, horizon, axis=0), np.tile(ahead, (len(panel), 1))], axis=1)
        return np.clip(self.booster.predict(x, num_threads=1), 1e-4, 0.99).reshape(len(panel), horizon)

    def importance(self) -> pd.DataFrame:
        """What the trees look at: feature, share of the loss that its splits saved; most first."""
        gain = self.booster.feature_importance("gain")
        table = pd.DataFrame({"feature": NAMES, "share": gain / max(gain.sum(), 1e-300)})
        return table.sort_values(["share", "feature"], ascending=[False, True], ignore_index=True)


def fit(panel: Panel, horizon: int, seed: int = 0) -> Trees | None:
    """Grow trees on what lies at or before the panel's as-of date; None where there is too little, or nothing ever changed."""
    keep = min(DAYS, len(panel.dates))
    panel = panel.sample(MAX_DAYS // keep, seed)
    posted = spells.of(panel, keep)
    _, classes = sticky.targets(panel, posted, horizon)  # (N, C, H)
    known = np.flatnonzero(classes >= 0)
    if len(known) < LEAST or not (classes > 0).any():
        return None
    if len(known) > ROWS:
        known = known[np.sort(np.random.default_rng(seed).choice(len(known), ROWS, replace=False))]
    series, day, h = np.unravel_index(known, classes.shape)
    x = np.concatenate([posted.features[series, day], spells.calendar(panel, keep, horizon)[day, h]], axis=1)
    rows = lightgbm.Dataset(x, (classes.ravel()[known] > 0).astype(np.int8), feature_name=NAMES)
    return Trees(lightgbm.train(SETTINGS | {"seed": seed}, rows, num_boost_round=TREES))


def save(trees: Trees, directory) -> None:
    """Write the trees into a directory that exists, as text: same trees, same bytes."""
    (Path(directory) / FILE).write_text(sealed(trees.booster.model_to_string()), encoding="utf-8")


def load(directory) -> Trees | None:
    """What ``save`` wrote; None where the directory has no trees. TreesError names a file that is broken."""
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    try:
        booster = lightgbm.Booster(model_str=unsealed(path.read_text(encoding="utf-8")))
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise TreesError(f"{path}: not the text of boosted trees ({error}); make the run anew") from None
    if booster.feature_name() != NAMES:
        raise TreesError(f"{path}: grown on other features than this version reads; make the run anew")
    return Trees(booster)


def sealed(text: str) -> str:
    """The text with its hash as the last line."""
    return f"{text}{SEAL}{_hash(text)}\n"


def unsealed(text: str) -> str:
    """What was given to ``sealed``. ValueError where it is no longer that."""
    text, _, seal = text.rpartition(SEAL)
    if seal.strip() != _hash(text):
        raise ValueError("cut off, changed, or not written by forecastbook")
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
