"""The bands of a candidate as they may be published: widened by what they missed on the record, held at the last price, whole.

Symbols: N series, M the series of several origins one after the other, H periods ahead, Q quantile levels, P central intervals,
G groups of series.
"""

from __future__ import annotations

import numpy as np

from forecastbook import counts, intervals, scores
from forecastbook.backtest import Origin
from forecastbook.params import Params
from forecastbook.trades import PRICES, SALES

SLACK = 0.02  # of the coverage of sales above zero
ROUNDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # fractions of a unit from which the upper bound of the widest band may be rounded up
TRUST = 4.0  # finished origins from which half of what they ask for is widened by


def rounds(finished: list[Origin], name: str, params: Params) -> float:
    """The fraction of a unit from which the upper bound of the widest band is rounded up.

    A half is best for the loss, which hardly knows the difference; but the quantile of a slow seller lies between two whole
    numbers, and a band whose every such bound is rounded up holds more than it promised. So the largest of ``ROUNDS`` is taken
    with which the band would have held its share of the sales above zero.
    """
    if params.trade is PRICES or not finished[-1].whole:
        return ROUNDS[0]
    i, j = intervals.pairs(params.levels)[0]
    sold = [o.scored & (o.y > 0) for o in finished]
    y = np.concatenate([o.y[s] for o, s in zip(finished, sold, strict=True)])

    def held(rounds: float) -> float:
        q = np.concatenate([rounded(o, name, rounds, params)[s] for o, s in zip(finished, sold, strict=True)])
        return scores.covered(y, q[:, i], q[:, j]).mean() if len(y) else 0.0

    return max((r for r in ROUNDS[1:] if held(r) >= params.levels[j] - params.levels[i]), default=ROUNDS[0])


def rounded(at: Origin, name: str, rounds: float, params: Params) -> np.ndarray:
    """(N, H, Q) quantiles of a forecast, its widest band's upper bound rounded up from that fraction on.

    It never falls below the median, and levels between the two are no higher.
    """
    out = at.q[name]
    if rounds == ROUNDS[0]:
        return out
    out, j, half = out.copy(), intervals.pairs(params.levels)[0][1], params.levels.index(0.5)
    out[..., j] = np.maximum(np.floor(at.unrounded(name)[..., j] + 1 - rounds), out[..., half])
    out[..., half:j] = np.minimum(out[..., half:j], out[..., [j]])
    return out


def widening(finished: list[Origin], name: str, rounds: float, held: bool, params: Params) -> np.ndarray:
    """(G, H, P) how much the bands of a candidate must be widened to have held what they promised, by group.

    held: its points are held at the last value, and with them the bands that are looked at.

    Of sales only those count that were not zero: a zero lies on its bound as a rule, and a band that is too narrow where
    something sells would not show. They are no fair sample, though: an honest band holds less of them, and the inner one much
    less. So only the outermost is widened, and only where it held less than ``SLACK`` below what an honest one would have.
    """
    rows = [o.scored for o in finished]
    if params.trade is SALES:
        rows = [r & (o.y > 0) for o, r in zip(finished, rows, strict=True)]
    actual = np.concatenate([np.where(r, o.y, np.nan) for o, r in zip(finished, rows, strict=True)])
    said = [rounded(o, name, rounds, params) for o in finished]
    said = np.concatenate([hold(q, o, params) if held else q for q, o in zip(said, finished, strict=True)])
    spread = np.concatenate([o.spread for o in finished])
    group = np.concatenate([o.group for o in finished])
    if params.trade is PRICES:
        return intervals.widening(actual, said, spread, params.levels, group)
    promise = _honest(finished, group, params) - SLACK
    out = intervals.widening(actual, said, spread, params.levels, group, np.maximum(promise, 0), len(counts.CLASSES))
    out[..., 1:] = 0
    return out * len(finished) / (len(finished) + TRUST)


def _honest(finished: list[Origin], group: np.ndarray, params: Params) -> np.ndarray:
    """(M, P) what share of the sales above zero the honest intervals of items as slow hold, M the items of all origins.

    Of items that sell in a share p of periods, an honest interval that begins at zero leaves out the upper tail t, all of it
    sales: it holds 1 - t / p of them. group: (M,) the class of demand.
    """
    seen, sold = (np.concatenate([(o.scored & (o.y > least)).sum(axis=1) for o in finished]) for least in (-np.inf, 0))
    seen, sold = (np.bincount(group, n, minlength=len(counts.CLASSES)) for n in (seen, sold))
    rate = np.where(seen > 0, sold, 1) / np.maximum(seen, 1)
    ends = [(params.levels[i], params.levels[j]) for i, j in intervals.pairs(params.levels)]
    return np.stack([np.minimum(high - low, 1 - (1 - high) / np.maximum(rate, 1e-9))[group] for low, high in ends], axis=1)


def hold(q, at: Origin, params: Params) -> np.ndarray:
    """Quantiles with the median at the last value and the others on their side of it: (N, H, Q), a copy."""
    out, middle, last = np.array(q, float), params.levels.index(0.5), at.last[:, None]
    out[..., :middle] = np.minimum(out[..., :middle], last[..., None])
    out[..., middle + 1 :] = np.maximum(out[..., middle + 1 :], last[..., None])
    out[..., middle] = last
    return out


def shape(q, at: Origin, widening, hold_median: bool, params: Params) -> np.ndarray:
    """Calibrated quantiles (N, H, Q): the median held at the last value when asked, widened, in order, not below 0; whole again
    where sales are whole numbers."""
    group = np.minimum(at.group, len(widening) - 1)
    q = hold(q, at, params) if hold_median else q
    out = intervals.widen(q, at.spread, widening, params.levels, group)
    if at.whole:  # they were whole before: outwards, so that no band gives up what it was widened by
        levels = np.asarray(params.levels)
        out = np.where(levels < 0.5, np.floor(out), np.where(levels > 0.5, np.ceil(out), np.rint(out)))
    return out
