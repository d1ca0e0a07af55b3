"""Every metric, on arrays.

Symbols: N series, H periods ahead, Q quantile levels. ``y`` is (N, H) and NaN where not observed: such points are left out
(a per-point metric is NaN there). ``q`` is (N, H, Q), ``levels`` (Q,) rising between 0 and 1. Any leading shape will do.
"""

from __future__ import annotations

import numpy as np

CHANGED = 0.005  # |log(price / last price)| above this is a change of a posted price
DUST = 1e-12  # an error below this is a sum of zeros


def pinball(y, q, levels) -> np.ndarray:
    """Pinball (quantile) loss of each point and level, in units of ``y``: (N, H, Q). Koenker & Bassett 1978."""
    error = np.asarray(y, float)[..., None] - np.asarray(q, float)  # (N, H, Q)
    levels = np.asarray(levels, float)
    return np.maximum(levels * error, (levels - 1) * error)


def wql(y, q, levels) -> float:
    """Weighted quantile loss: 2 x mean pinball / mean |y| over the observed points; NaN when all of them are 0."""
    seen = ~np.isnan(np.asarray(y, float))
    loss, size = pinball(y, q, levels)[seen], np.abs(np.asarray(y, float)[seen])
    return float(2 * loss.mean() / size.mean()) if size.sum() > 0 else float("nan")


def relative(error, last) -> np.ndarray:
    """Errors divided by the last price of their series, so that dear items do not dominate.

    error: (N, ...) in units of y; last: (N,) or any shape that broadcasts from the left. NaN where that is 0 or unknown.
    """
    error, last = np.asarray(error, float), np.asarray(last, float)
    last = last.reshape(last.shape + (1,) * (error.ndim - last.ndim))
    return error / np.where(np.abs(last) > 0, np.abs(last), np.nan)


def slack(y) -> np.ndarray:
    """How near a bound an actual must be to equal it, whatever the last bits say; the shape of ``y``."""
    return 1e-9 * np.abs(y)


def covered(y, lower, upper) -> np.ndarray:
    """1.0 where lower <= y <= upper, up to ``slack``, 0.0 where not, NaN where y is not observed."""
    y, near = np.asarray(y, float), slack(y)
    return np.where(np.isnan(y), np.nan, (np.asarray(lower) <= y + near) & (y - near <= np.asarray(upper)))


def winkler(y, lower, upper, levels=(0.05, 0.95)) -> np.ndarray:
    """Interval score of each point: width + shortfall / lower level + excess / (1 - upper level). Winkler 1972."""
    y, lower, upper = (np.asarray(a, float) for a in (y, lower, upper))
    return (upper - lower) + np.maximum(lower - y, 0) / levels[0] + np.maximum(y - upper, 0) / (1 - levels[1])


def weighted_harmonic(zero: float, nonzero: float, beta: float) -> float:
    """(beta^2 + 1) zero nonzero / (beta^2 zero + nonzero): weighs the non-zero group beta^2 to 1. 0 when both are 0."""
    below = beta**2 * zero + nonzero
    return float((beta**2 + 1) * zero * nonzero / below) if below != 0 else 0.0


def _split(y, per_point, beta) -> dict[str, float]:
    y, zero = np.asarray(y, float), np.asarray(y, float) == 0
    groups = {"zero": per_point[zero], "nonzero": per_point[~zero & ~np.isnan(y)], "all": per_point[~np.isnan(y)]}
    out = {name: float(np.mean(v)) if v.size else float("nan") for name, v in groups.items()}
    if np.isnan(out["zero"]) or np.isnan(out["nonzero"]):
        out["combined"] = out["nonzero"] if np.isnan(out["zero"]) else out["zero"]
    else:
        out["combined"] = weighted_harmonic(out["zero"], out["nonzero"], beta)
    return out


def miws(y, lower, upper, levels=(0.05, 0.95), beta: float = 4.0) -> dict[str, float]:
    """Mean interval Winkler score over zero and non-zero actuals, all, and combined (lower is better).

    An empty group is NaN, and ``combined`` is then the other group.
    """
    return _split(y, winkler(y, lower, upper, levels), beta)


def mic(y, lower, upper, beta: float = 4.0) -> dict[str, float]:
    """Mean interval coverage over zero and non-zero actuals, all, and combined. Empty groups as in ``miws``."""
    return _split(y, covered(y, lower, upper), beta)


def average_precision(event, p) -> float:
    """Area under the precision-recall curve by steps; ties in p count as one threshold. NaN without any event."""
    event, p = np.asarray(event, float).ravel(), np.asarray(p, float).ravel()
    known = ~np.isnan(event) & ~np.isnan(p)
    event, p = event[known], p[known]
    if not event.sum():
        return float("nan")
    order = np.argsort(-p, kind="stable")
    event, p = event[order], p[order]
    last = np.r_[np.flatnonzero(np.diff(p)), len(p) - 1]  # last index of each threshold
    hits = np.cumsum(event)[last]
    return float(np.sum(np.diff(np.r_[0, hits]) / event.sum() * hits / (last + 1)))


def changed(y, last) -> np.ndarray:
    """1.0 where the price differs from the last one by more than ``CHANGED`` in log, 0.0 where not, NaN where not known.

    y: (N, H); last: (N,). A price at or below 0 on one side only is a change.
    """
    y = np.asarray(y, float)
    last = np.broadcast_to(np.asarray(last, float).reshape(-1, *(1,) * (y.ndim - 1)), y.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where((y > 0) & (last > 0), np.abs(np.log(y / last)) > CHANGED, y != last)
    return np.where(np.isnan(y) | np.isnan(last), np.nan, far)
