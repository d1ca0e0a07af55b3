"""Conformal calibration of quantiles, pooled over series, by horizon."""

from __future__ import annotations

import numpy as np


def tidy(q: np.ndarray, floor: float | None = 0.0) -> np.ndarray:
    """Quantiles that never cross and never fall below ``floor``: sorted along the last axis. Same shape as ``q``."""
    q = np.sort(q, axis=-1)
    return q if floor is None else np.maximum(q, floor)


def pairs(levels) -> list[tuple[int, int]]:
    """Indices (lower, upper) of the central intervals among the levels, widest first: .05/.95, then .25/.75."""
    levels = np.asarray(levels)
    return [(i, int(j)) for i in range(len(levels) // 2) for j in np.flatnonzero(np.isclose(levels, 1 - levels[i])) if i < j]


def widening(y, q, scale, levels) -> np.ndarray:
    """How much each central interval must be widened, by horizon, to have held what it promised: (H, P), relative to scale.

    Conformalized quantile regression (Romano, Patterson & Candes 2019) pooled over series: the score of a point is how far it
    lies outside its interval (negative inside), divided by the series' scale; the widening is the score's quantile at the
    promised coverage with the finite-sample correction. Never negative: a posted price that stays put lies exactly on its
    bounds, so an interval that holds more than promised must not be cut.

    y: (M, H) actuals, NaN left out; q: (M, H, Q); scale: (M,) positive; a horizon without any point gets 0.
    """
    found = pairs(levels)
    out = np.zeros((y.shape[1], len(found)))
    for p, (i, j) in enumerate(found):
        score = np.maximum(q[..., i] - y, y - q[..., j]) / scale[:, None]  # (M, H)
        promised = levels[j] - levels[i]
        for h in range(y.shape[1]):
            s = np.sort(score[:, h][np.isfinite(score[:, h])])
            rank = int(np.ceil((len(s) + 1) * promised)) - 1
            if len(s):
                out[h, p] = max(0.0, s[min(rank, len(s) - 1)])
    return out


def widen(q, scale, amount, levels, floor: float | None = 0.0) -> np.ndarray:
    """Quantiles with their central intervals widened by ``amount`` (H, P) x scale (N,): (N, H, Q), tidy."""
    out = np.array(q, float)
    for p, (i, j) in enumerate(pairs(levels)):
        out[..., i] -= amount[None, :, p] * scale[:, None]
        out[..., j] += amount[None, :, p] * scale[:, None]
    return tidy(out, floor)
