"""What is known of a posted price on each day: the spell that the day lies in, and the levels of its past.

A posted price stays for days and then jumps, mostly to a level where it has been before. Here the days of each series are
walked through once (``compiled.days``), so that what is said of day t depends on days <= t of the same series only. Prices
count by their ratio to the first observed one: all prices times 100 give the same features.

Symbols: N series, T days, C days kept (the last ones), K features, J = 5 candidate levels, H days ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .panel import Panel
from .scores import CHANGED

CHANGE = CHANGED  # two log prices nearer than this are the same posted price: what is learnt is what is scored
LEVELS = ("previous", "mode90", "max90", "previous2", "min90")  # candidate levels, by precedence
J = len(LEVELS)
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
CALENDAR = ("ahead", "mondays_passed", "on_monday", "on_weekend", "on_friday", "habit_passed", "on_habit")
YEAR, NO_HABIT = 365, 8  # days that a shop's habit is read from; weeks without a habit that are added to them


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


def of(panel: Panel, keep: int | None = None) -> Posted:
    """``read`` of a panel; the list price is its past covariate ``list_price``."""
    listed = panel.past[:, :, panel.past_names.index("list_price")] if "list_price" in panel.past_names else None
    return read(panel.y, listed, keep)


def calendar(panel: Panel, keep: int, horizon: int, own: np.ndarray | None = None) -> np.ndarray:
    """(keep, H, 7) float32, as in ``CALENDAR``, of the last days and the days ahead of each.

    h in weeks; Mondays in (t, t + h]; whether the target is a Monday, at a weekend, a Friday; and by the shop's own ``habit``,
    what share of a week's changes more than usual falls into (t, t + h], and on the target. own: that habit, where it must not
    be read from all of the panel's days.
    """
    weekday = _weekday(np.concatenate([panel.dates, panel.horizon_dates(horizon)]))
    target = np.arange(len(panel.dates) - keep, len(panel.dates))[:, None] + np.arange(1, horizon + 1)  # (keep, H)
    day, own = weekday[target], (habit(panel) if own is None else own)[weekday]

    def passed(count: np.ndarray) -> np.ndarray:
        total = np.cumsum(count)
        return total[target] - total[target[:, 0] - 1][:, None]

    h, due = np.broadcast_to(np.arange(1, horizon + 1) / 7, target.shape), passed(own).round(6)  # a week's sum is 0, not 1e-17
    return np.stack([h, passed(weekday == 0), day == 0, day >= 5, day == 4, due, own[target]], axis=2).astype(np.float32)


def habit(panel: Panel) -> np.ndarray:
    """(7,) the share of a week's changes that the shop makes on each weekday, Monday first, less a seventh; sums to 0.

    Of the last year, in which each week counts the same, however many prices it changed: a campaign that moves all of them is
    one decision. Eight weeks of no habit are added.
    """
    recent = panel.last(YEAR)
    if len(recent.dates) < 2:
        return np.zeros(7)
    weekday, moved = _weekday(recent.dates[1:]), np.zeros(len(recent.dates) - 1)
    for _, part in recent.seen():
        moved += (np.abs(np.diff(np.log(part.filled), axis=1)) > CHANGE).sum(axis=0)  # NaN before a series begins is no change
    week = np.arange(len(moved))[::-1] // 7  # counted back from the last day
    share = moved / np.maximum(np.bincount(week, moved), 1)[week]
    found = np.bincount(weekday, share, 7)
    return (found + NO_HABIT / 7) / (found.sum() + NO_HABIT) - 1 / 7


def _weekday(dates: np.ndarray) -> np.ndarray:
    """0 Monday to 6 Sunday; 1970 began on a Thursday."""
    return (dates.astype("datetime64[D]").astype(int) + 3) % 7


def read(y: np.ndarray, list_price: np.ndarray | None = None, keep: int | None = None) -> Posted:
    """Read daily prices as spells and levels, for the last ``keep`` days (default: all).

    y: (N, T) positive prices, NaN where not observed. list_price: (N, T) or None; NaN where not known.
    Raises ValueError on a price that is not positive, and on list prices of another shape.
    """
    from . import compiled  # loaded where it runs

    y = np.array(y, dtype=np.float64, order="C")  # own and in one layout: the walk is compiled once
    N, T = y.shape
    C = T if keep is None else min(keep, T)
    if (y <= 0).any():
        raise ValueError("a posted price must be positive: quarantine zero and negative prices before they reach the panel")
    if list_price is not None and np.shape(list_price) != y.shape:  # compiled code would read beyond its end
        raise ValueError(f"list prices of shape {np.shape(list_price)} do not belong to prices of shape {y.shape}")
    listed = np.empty((N, 0)) if list_price is None else np.array(list_price, dtype=np.float64, order="C")
    posted = Posted(
        price=np.full((N, C), np.nan),
        features=np.zeros((N, C, len(FEATURES)), dtype=np.float32),
        levels=np.full((N, C, J), np.nan),
        life=np.zeros((N, C), dtype=np.int64),
        gap=np.empty((N, C), dtype=np.int64),
    )
    compiled.days(y, listed, CHANGE, posted.price, posted.features, posted.levels, posted.life, posted.gap)
    return posted
