"""Generated shops: seeded processes of posted prices, to pre-train a base network on and to test with. Never a source of facts.

A shop draws its habits (scale of prices, grid, tempo, weekday, mixture of behaviours) from broad priors, so that many shops
together span how posted prices behave. Each item is of one of KINDS: ``fixed`` never changes; ``everyday`` is repriced for good
now and then; ``hilo`` is cut for some days and comes back, mostly to the usual price; ``repricer`` moves often, in steps around
a level; ``alternating`` goes to and fro between two prices. All but the fixed ones also take part in what their shop does as a
whole: campaigns, waves of repricing, seasons, clearance ladders with the item gone at their end, and deviations of one day, as
the mode of a few transactions shows them. Items begin late, end early, come in variants of one price, and are observed on
30 % to 100 % of the days of their life, with gaps at random and in spells.

Symbols: N items, n those of one kind, T days, K spells. A behaviour returns a path, (n, T) or (N, T): log ratios to the item's
first usual price. Paths add up and meet the grid last, so that equal ones give equal prices. Day 0 is weekday 0 of every shop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .panel import Panel, periods

KINDS = {"fixed": 0.24, "everyday": 0.5, "hilo": 0.18, "repricer": 0.05, "alternating": 0.03}  # mean shares of items
LAWS = ("geometric", "cycle", "heavy")  # of spell lengths: the hazard is level, comes at set ages, falls with age
GRIDS = ((0.05, 0), (0.1, 0.01), (0.5, 0.01), (1, 0.01), (1, 0.05), (1, 0), (10, 1), (10, 0), (100, 0), (500, 0), (1000, 0))
CENTS = (0.01, 0)  # no grid to speak of. A grid is (unit, under): multiples of unit, less under


@dataclass(frozen=True)
class Habits:
    """What all of a shop's behaviours share.

    scale: median price, in currency. spread: sd of log prices. grid: (unit, under). mix: (5,) shares of KINDS. law: of LAWS.
    tempo: frequency of changes, 1 is usual. weekday: 0..6, and discipline: share of changes that wait for it. back: share of
    lasting changes that undo the one before.
    """

    scale: float
    spread: float
    grid: tuple[float, float]
    mix: np.ndarray
    law: str
    tempo: float
    weekday: int
    discipline: float
    back: float


def habits(seed: int | np.random.SeedSequence) -> Habits:
    """The habits of ``shop(..., seed)``. A grid is drawn from those that are neither too coarse nor too fine for the prices."""
    rng = np.random.default_rng(seed)
    scale = 10 ** (5.5 * rng.beta(1.2, 2.2))
    fitting = [grid for grid in GRIDS if scale / 5000 <= grid[0] <= scale / 3]
    return Habits(
        scale=scale,
        spread=rng.uniform(0.3, 1.1),
        grid=fitting[rng.integers(len(fitting))] if fitting and rng.random() < 0.8 else CENTS,
        mix=rng.dirichlet(1.6 * np.array(list(KINDS.values()))),
        law=str(rng.choice(LAWS)),
        tempo=np.exp(rng.normal(0, 0.5)),
        weekday=int(rng.integers(7)),
        discipline=rng.choice((0.0, rng.random(), 1.0)),
        back=rng.uniform(0, 0.6),
    )


def shop(items: int, days: int, seed: int | np.random.SeedSequence) -> np.ndarray:
    """Posted prices (items, days) float64 on the grid of a shop, NaN where not observed; every item is seen at least once."""
    own, rng = habits(seed), np.random.Generator(np.random.PCG64(seed).jumped())  # two streams: habits are not drawn again
    kind = rng.choice(len(KINDS), size=items, p=own.mix)
    path = np.zeros((items, days))
    for k, behaviour in enumerate((everyday, hilo, repricer, alternating), start=1):
        if len(rows := np.flatnonzero(kind == k)):
            path[rows] = behaviour(rng, len(rows), days, own)
    ladder, last = clearance(rng, items, days)
    whole = campaigns(rng, items, days, own) + waves(rng, items, days, own) + seasons(rng, items, days)
    path += np.where(kind[:, None] > 0, whole + ladder + deviations(rng, items, days), 0.0)
    first = np.clip(own.scale * np.exp(own.spread * rng.standard_normal((items, 1))), 0.2, 1e6)
    variant = rng.random(items) < rng.choice((0.0, 0.0, rng.uniform(0, 0.5)))
    leader = np.maximum.accumulate(np.where(variant, 0, np.arange(items)))  # variants post the price of the item before them
    price = snap(first * np.exp(path), own.grid)[leader]
    return np.where(observed(rng, items, days, np.where(kind > 0, last, days)[leader]), price, np.nan)


def shops(count: int, items: int, days: int, seed: int, end: str = "2024-12-29") -> Panel:
    """``count`` shops side by side as one daily panel that ends at ``end``; more shops leave the first ones as they are."""
    y = np.concatenate([shop(items, days, child) for child in np.random.SeedSequence(seed).spawn(count)])
    names = [(f"shop{s:03d}-item{i:04d}", f"Item {i} of shop {s}") for s in range(count) for i in range(items)]
    ids, titles = np.array(names, dtype=object).T
    dates = periods(np.datetime64(end, "D") - (days - 1), days, "D")
    none = np.empty((*y.shape, 0))
    return Panel(ids, titles, dates, "D", y, np.isfinite(y), past=none, future=none, static=np.empty((len(y), 0), dtype=object))


def snap(price: np.ndarray, grid: tuple[float, float]) -> np.ndarray:
    """The nearest price on the grid, one unit at the least, to the cent."""
    unit, under = grid
    return np.round(np.maximum(np.rint((price + under) / unit), 1) * unit - under, 2)


def everyday(rng, n: int, days: int, own: Habits) -> np.ndarray:
    """Repriced for good, every 100 to 800 days or so, by 2 % to 20 %, more often up than down."""
    spell = numbered(rng, lengths(rng, rng.lognormal(np.log(300), 0.6, n) / own.tempo, days, own.law), days, own)
    return np.take_along_axis(walk(rng, n, spell.max() + 1, own), spell, axis=1)


def hilo(rng, n: int, days: int, own: Habits) -> np.ndarray:
    """Cut by 10 % to 50 % for 3 to 21 days, every 20 to 300 days, mostly by the item's own cut and back to the usual price."""
    between = lengths(rng, np.maximum(rng.lognormal(np.log(rng.uniform(40, 200)), 0.4, n) / own.tempo, 7), days, own.law)
    favourite = rng.choice((3, 5, 7, 7, 10, 14, 14, 21), size=(n, 1))
    during = np.where(rng.random(between.shape) < rng.random(), favourite, rng.integers(3, 22, between.shape))
    spell = numbered(rng, np.stack([between, during], axis=2).reshape(n, -1), days, own)
    cycles = spell.max() // 2 + 1
    cut = rng.integers(2, 11, (n, cycles))
    cut = np.log1p(-0.05 * np.where(rng.random(cut.shape) < rng.beta(3, 1), cut[:, :1], cut))
    renewals = np.cumsum(rng.random((n, cycles)) < 0.3 * rng.random(), axis=1)  # after some cuts the usual price is a new one
    level = np.take_along_axis(walk(rng, n, cycles + 1, own), renewals, axis=1)
    return np.take_along_axis(np.stack([level, level + cut], axis=2).reshape(n, -1), spell, axis=1)


def repricer(rng, n: int, days: int, own: Habits) -> np.ndarray:
    """Moves every 1 to 15 days around a level: at random, or undercutting in small steps until it jumps back up."""
    mean = np.maximum(rng.lognormal(np.log(rng.choice((1.0, 3.0, 7.0))), 0.5, n), 1)
    spell = numbered(rng, lengths(rng, mean, days, own.law), days, own)
    size, memory = rng.lognormal(np.log(rng.uniform(0.01, 0.08)), 0.4, n), rng.uniform(0, 0.95, n)
    step, undercuts = size[:, None] * rng.standard_normal((n, spell.max() + 1)), rng.random() < 0.3
    level = np.zeros(step.shape)
    for k in range(1, step.shape[1]):
        before = level[:, k - 1]
        level[:, k] = np.where(before < -6 * size, 0.0, before - abs(step[:, k])) if undercuts else memory * before + step[:, k]
    rung = np.where(rng.random(n) < rng.random(), size * rng.uniform(0.3, 1.5, n), 0.001)[:, None]  # few levels, or any
    return np.take_along_axis(np.rint(level / rung) * rung, spell, axis=1)


def alternating(rng, n: int, days: int, own: Habits) -> np.ndarray:
    """To and fro between two prices 3 % to 30 % apart, each for 2 to 80 days."""
    mean = np.maximum(rng.lognormal(np.log(rng.uniform(6, 60)), 0.4, n) / own.tempo, 2)
    return rng.uniform(-0.3, -0.03, (n, 1)) * (numbered(rng, lengths(rng, mean, days, own.law), days, own) % 2)


def campaigns(rng, items: int, days: int, own: Habits) -> np.ndarray:
    """In half of the shops: cuts of 5 % to 50 % that a share of the items begins on one day, for 1 to 3 weeks.

    They end together or within days of each other, and some are extended; all are cut by the same, or each by its own.
    """
    path, day, between = np.zeros((items, days)), np.arange(days), rng.uniform(50, 260)
    prone, ragged, alike, own_cut = rng.beta(0.8, 2, items), rng.random() < 0.4, rng.random() < 0.5, rng.integers(1, 11, items)
    start = rng.choice((days, rng.exponential(between) - 21))
    while start < days:
        begin = int(start) + (own.weekday - int(start)) % 7
        end = begin + rng.choice((7, 7, 10, 14, 14, 21)) + ragged * rng.integers(-3, 6, items)
        end += rng.integers(3, 15, items) * (rng.random(items) < 0.1)
        joins = rng.random(items) < prone * rng.uniform(0.3, 1.2)
        cut = np.log1p(-0.05 * (rng.integers(1, 11) if alike else own_cut)) * joins
        path = np.minimum(path, cut[:, None] * ((day >= begin) & (day < end[:, None])))
        start += 7 + rng.exponential(between)
    return path


def waves(rng, items: int, days: int, own: Habits) -> np.ndarray:
    """In two shops of five: inflation of 2 % to 60 % a year, that a share of items passes on at once, or within two weeks."""
    path, between, share, over = np.zeros((items, days)), rng.uniform(60, 365), rng.uniform(0.2, 1), rng.choice((1, 14))
    yearly = rng.choice((0.0, rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.6)), p=(0.6, 0.3, 0.1))
    start = rng.uniform(0, between)
    while yearly and start < days:
        begin = int(start) + rng.integers(over, size=(items, 1))
        begin += (own.weekday - begin) % 7 * (rng.random() < own.discipline)
        step = yearly * between / 365 * rng.lognormal(0, 0.4, (items, 1)) * (rng.random((items, 1)) < share)
        path += step * (np.arange(days) >= begin)
        start += between * rng.uniform(0.7, 1.3)
    return path


def seasons(rng, items: int, days: int) -> np.ndarray:
    """In a quarter of the shops: some items are 5 % to 35 % dearer, or cheaper, for 40 to 150 days of each 365."""
    begin = rng.integers(365) + rng.integers(rng.choice((1, 30)), size=(items, 1))
    inside = (np.arange(days) - begin) % 365 < rng.integers(40, 150)
    joins = rng.random((items, 1)) < rng.choice((0.0, 0.0, 0.0, rng.uniform(0.1, 0.6)))
    return inside * joins * rng.choice((-1, 1)) * rng.uniform(0.05, 0.35)


def clearance(rng, items: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Two to four markdowns of 10 % to 30 %, each for 5 to 21 days: their path, and the day (N,) on which the item is gone.

    In half of the shops, of up to a fifth of the items; ``days`` is the day of the others.
    """
    taken = rng.random(items) < rng.choice((0.0, rng.uniform(0, 0.2)))
    begin, each, steps = rng.integers(days, size=items), rng.integers(5, 22, items), rng.integers(2, 5, items)
    so_far = np.clip((np.arange(days) - begin[:, None]) // each[:, None] + 1, 0, steps[:, None])
    path = so_far * taken[:, None] * np.log1p(-0.05 * rng.integers(2, 7, (items, 1)))
    return path, np.where(taken, begin + each * steps, days)


def deviations(rng, items: int, days: int) -> np.ndarray:
    """In a sixth of the shops: on up to 15 % of days a price of that day only, 30 % lower to 10 % higher, often the same."""
    rate = rng.choice((0.0, rng.uniform(0.005, 0.15)), p=(5 / 6, 1 / 6)) * rng.random((items, 1))
    size = rng.uniform(-0.3, 0.1, (items, days))
    size = np.where(rng.random((items, days)) < rng.random(), size[:, :1], size)
    return np.where(rng.random((items, days)) < rate, size, 0.0)


def observed(rng, items: int, days: int, last: np.ndarray) -> np.ndarray:
    """(N, T) bool: alive, in stock and seen. Items begin late or end early, and are gone by their day ``last`` (N,)."""
    day = np.arange(days)
    begin = np.where(rng.random(items) < rng.choice((0.0, rng.uniform(0, 0.5))), rng.integers(days, size=items), 0)
    early = np.where(rng.random(items) < rng.uniform(0, 0.1), rng.integers(days, size=items), days)
    missing = rng.choice((0.0, rng.uniform(0, 0.7)), p=(0.3, 0.7)) * rng.uniform(0.7, 1, items)  # share of days
    absent = missing * rng.random()  # of these, in spells: without stock. The others are missing at random
    off = rng.lognormal(np.log(rng.uniform(3, 30)), 0.3, items)  # mean length of such a spell, days
    means = np.stack([off * (1 - absent) / np.maximum(absent, 1e-6), off], axis=1)[:, None]  # (N, 1, 2) in stock, and without
    spell = numbered(rng, rng.geometric(1 / (1 + means), (items, days // 4 + 2, 2)).reshape(items, -1), days)
    seen = (spell % 2 == 0) & (rng.random((items, days)) < ((1 - missing) / (1 - absent))[:, None])
    seen &= rng.random(days) >= rng.choice((0.0, 0.0, 0.03))  # on some days nothing is recorded
    seen &= (day % 7 < 5) | (rng.random() < 0.93)  # and a few shops are seen on working days only
    seen[np.arange(items), begin] = True
    return seen & (day >= begin[:, None]) & (day < np.maximum(np.minimum(last, early), begin + 1)[:, None])


def lengths(rng, mean: np.ndarray, days: int, law: str) -> np.ndarray:
    """Lengths of spells, (n, K) int days from 1, of expectation ``mean`` (n,); as a rule K of them fill ``days``."""
    mean, shape = np.maximum(mean, 1)[:, None], (len(mean), int(min(3 * days / mean.min(), days)) + 8)
    if law == "cycle":  # in weeks, fortnights or four weeks; of a frequent repricer in its own few days
        cycle = np.minimum(rng.choice((7, 14, 28)), np.rint(mean)).astype(int)
        return cycle * rng.geometric(cycle / np.maximum(mean, cycle), shape)
    return 1 + (rng.pareto(1.5, shape) * (mean - 1) / 2).astype(int) if law == "heavy" else rng.geometric(1 / mean, shape)


def numbered(rng, lengths: np.ndarray, days: int, own: Habits | None = None) -> np.ndarray:
    """The number of the spell in which each day lies, (n, T) int from 0, for spells of ``lengths`` (n, K) one after the other.

    Day 0 lies anywhere in the first two. A spell of a week or more ends on the shop's weekday, as often as its discipline asks;
    a shorter one after it moves along.
    """
    ends = np.cumsum(lengths, axis=1) - (rng.random((len(lengths), 1)) * lengths[:, :2].sum(axis=1, keepdims=True)).astype(int)
    if own is not None:
        shift = np.where((lengths >= 7) & (rng.random(ends.shape) < own.discipline), (own.weekday - ends) % 7, 0)
        ends += shift
        ends[:, 1:] += np.where(lengths[:, 1:] < 7, shift[:, :-1], 0)
    cell = np.arange(len(ends))[:, None] * (days + 1) + np.clip(ends, 0, days)
    return np.bincount(cell.ravel(), minlength=len(ends) * (days + 1)).reshape(len(ends), -1)[:, :days].cumsum(axis=1)


def walk(rng, n: int, count: int, own: Habits) -> np.ndarray:
    """Log levels (n, count) of lasting changes of 2 % to 20 %, some of which undo the one before."""
    moves = rng.lognormal(np.log(rng.uniform(0.03, 0.12)), 0.5, (n, count)) * rng.choice((1, 1, -1), (n, count))
    undone, level = rng.random((n, count)) < own.back, np.zeros((n, count))
    for k in range(1, count):
        level[:, k] = np.where(undone[:, k] & (k > 1), level[:, max(k - 2, 0)], level[:, k - 1] + moves[:, k])
    return level
