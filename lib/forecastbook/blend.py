"""The blend of forecasts of counts: who weighs how much, how high the level lies, and whole numbers last.

Everything is decided by records of finished origins: forecasts whose actuals have all come in by now. Callers pass
those that had finished by the origin, oldest first; nothing else is read.

Symbols: N series, H periods ahead, Q quantile levels, M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from . import intervals, scores
from .counts import Demand

TRUST = 4.0  # finished origins that count as much as the prior
STEPS = 60  # of the search for weights
WINDOWS = 2  # last finished origins that the level is read from
DAMP = 0.4  # power of what they say: that much of it, in log, will hold
FACTORS = np.exp(np.linspace(-0.25, 0.25, 51))  # that are tried, and the bounds of the level: one campaign is no trend


@dataclass(frozen=True)
class Finished:
    """An origin whose actuals are known. y: (N, H) counts, NaN where not observed; said: what each member forecast then."""

    y: np.ndarray
    said: Mapping[str, Demand]


class Level(NamedTuple):
    """Factors of the quantiles and of the mean: one bulk order moves a mean and leaves quantiles where they are."""

    quantiles: float = 1.0
    mean: float = 1.0


def prior(names: Sequence[str], levels) -> dict[str, np.ndarray]:
    """Weights (Q,) that add to one at each level, before anything is known.

    The pooled model knows most; the negative binomial of a baseline knows something of the upper tail, which is rare among the
    rows that trees learn from. At level t they weigh 1 - .2 t and .2 t, a third one .4.
    """
    t = np.asarray(levels, float)
    raw = {name: {"gbm": 1 - 0.2 * t, "imapa": 0.2 * t}.get(name, 0 * t + 0.4) for name in names}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


def weights(finished: Sequence[Finished], names: Sequence[str], levels) -> dict[str, np.ndarray]:
    """Weights (Q,) of the members, adding to one at each level: the prior, tilted towards what lost least so far.

    One tilt a member, common to all levels, is searched for by gradient steps on the pinball loss of the finished origins; n
    origins weigh n / (n + 4) against the prior. Origins at which a member was missing are left out.
    """
    start = prior(names, levels)
    told = [_stacked(f, names) for f in finished if all(name in f.said for name in names)]
    told = [(y, q) for y, q in told if len(y)]
    if len(names) < 2 or not told:
        return start
    y, q = np.concatenate([p[0] for p in told]), np.concatenate([p[1] for p in told])  # (P,), (P, Q, M)
    found = _least(y, q, np.stack([start[name] for name in names], axis=1), np.asarray(levels, float))  # (Q, M)
    trust = len(told) / (len(told) + TRUST)
    return {name: trust * found[:, m] + (1 - trust) * start[name] for m, name in enumerate(names)}


def level(finished: Sequence[Finished], weights: Mapping[str, np.ndarray], levels) -> Level:
    """The factors that the last two finished origins ask for, damped; both 1 before two have finished.

    Quantiles: the factor with the least pinball loss. Mean: sum of actuals over sum of means. A level that was off goes on
    being off as a rule, by less; where it does not, what is left of the factor costs little.
    """
    told = [(f.y, {name: f.said[name] for name in weights if name in f.said}) for f in finished]
    blended = [(y, combine(said, weights)) for y, said in told if said][-WINDOWS:]
    if len(blended) < WINDOWS:
        return Level()
    actual, meant = np.array([_sums(y, said) for y, said in blended]).sum(axis=0)
    if not (actual > 0 and meant > 0):
        return Level()
    losses = [sum(_loss(y, said.q * factor, levels) for y, said in blended) for factor in FACTORS]
    ratio = np.clip(actual / meant, FACTORS[0], FACTORS[-1])
    return Level(float(FACTORS[int(np.argmin(losses))] ** DAMP), float(ratio**DAMP))


def combine(members: Mapping[str, Demand], weights: Mapping[str, np.ndarray | float], level: Level | float = 1.0) -> Demand:
    """The weighted mean of the members' quantiles, means and chances of nothing, times the level (the chance is left as it is).

    weights: a number or (Q,) a member; means weigh by their average. A series that a member says nothing of is forecast by the
    others. Raises ValueError when no member has a weight.
    """
    used = {name: np.asarray(weights[name], float) for name in members if np.any(np.asarray(weights.get(name, 0)) > 0)}
    if not used:
        raise ValueError(f"none of {', '.join(members) or 'no members'} has a weight")
    factor = level if isinstance(level, Level) else Level(level, level)

    def mean(part: str) -> np.ndarray:
        total, weight = 0.0, 0.0
        for name, w in used.items():
            value = getattr(members[name], part)
            known, w = np.isfinite(value), w if part == "q" else w.mean()
            total, weight = total + np.where(known, w * np.nan_to_num(value), 0), weight + w * known
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)

    return Demand(intervals.tidy(mean("q") * factor.quantiles), mean("mean") * factor.mean, mean("zero"))


def settled(demand: Demand, levels) -> Demand:
    """The same with every quantile at 0 up to whose level nothing is sold: the mean of a zero and of a hundred is neither.

    levels: (Q,).
    """
    none = demand.zero[..., None] >= np.asarray(levels, float) - 1e-12  # nor is a NaN
    return replace(demand, q=np.where(none, 0.0, demand.q))


def whole(demand: Demand) -> Demand:
    """Quantiles of things that are counted: rounded to the nearest integer, halves up. The last step, after blend and level."""
    return Demand(np.floor(demand.q + 0.5), demand.mean, demand.zero)


def _sums(y: np.ndarray, said: Demand) -> tuple[float, float]:
    """Sum of actuals and sum of means, over the points that were observed and forecast."""
    known = np.isfinite(y) & np.isfinite(said.mean)
    return float(y[known].sum()), float(said.mean[known].sum())


def _loss(y: np.ndarray, q: np.ndarray, levels) -> float:
    """Sum of pinball losses over the points that were observed and forecast."""
    known = np.isfinite(y) & np.isfinite(q).all(axis=-1)
    return float(scores.pinball(y[known], q[known], levels).sum())


def _stacked(finished: Finished, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Points that were observed and forecast by all: actuals (P,), quantiles (P, Q, M)."""
    q = np.stack([finished.said[name].q for name in names], axis=-1)  # (N, H, Q, M)
    known = np.isfinite(finished.y) & np.isfinite(q).all(axis=(-1, -2))
    return finished.y[known], q[known]


def _least(y: np.ndarray, q: np.ndarray, start: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(Q, M) start, tilted by one factor a member, with the least pinball loss that ``STEPS`` steps find."""
    tilt, best, least = np.zeros(start.shape[1]), start, np.inf
    for step in range(STEPS):
        now = start * np.exp(tilt - tilt.max())
        now = now / now.sum(axis=1, keepdims=True)
        said = np.einsum("pqm,qm->pq", q, now)
        loss = scores.pinball(y, said, levels).sum()
        if loss < least:
            best, least = now, loss
        slope = np.where(y[:, None] > said, -levels, 1 - levels)  # of the loss in the quantile
        gradient = np.einsum("pq,pqm,qm->m", slope, q, now) - np.einsum("pq,pq,qm->m", slope, said, now)
        size = np.abs(gradient).sum()
        if size == 0:
            break
        tilt = tilt - 0.5 / np.sqrt(step + 1) * gradient / size
    return best
