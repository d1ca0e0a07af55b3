"""Conformal calibration of quantiles, pooled over series, by group and horizon."""

from __future__ import annotations

import numpy as np

POOL = 200  # points from which a group is calibrated on its own


def tidy(q: np.ndarray, floor: float | None = 0.0) -> np.ndarray:
    """Quantiles that never cross and never fall below ``floor``: sorted along the last axis. Same shape as ``q``."""
    if not (q[..., 1:] >= q[..., :-1]).all():  # as a rule they are in order; NaN is not
        q = np.sort(q, axis=-1)
    return q if floor is None else np.maximum(q, floor)


def pairs(levels) -> list[tuple[int, int]]:
    """Indices (lower, upper) of the central intervals among the levels, widest first: .05/.95, then .25/.75."""
    levels = np.asarray(levels)
    below = np.flatnonzero(levels < 0.5)
    return [(int(i), int(j)) for i in below for j in np.flatnonzero(np.isclose(levels, 1 - levels[i]))]


def widening(y, q, scale, levels, group=None, promise=None, groups: int = 1) -> np.ndarray:
    """How much each central interval must be widened, by horizon, to have held what it promised: (G, H, P), relative to scale.

    Conformalized quantile regression (Romano, Patterson & Candes 2019) pooled over the series of a group: a point's score is
    how far it lies outside its interval (negative inside), divided by the series' scale; the widening is the score's quantile
    at the promised coverage with the finite-sample correction. Never negative: a posted price that stays put lies exactly on
    its bounds, so an interval that holds more than promised must not be cut.

    promise: (M, P) what share of a row's points each interval is to hold, at least 0; None: what its levels say. Of a group it
    is the mean.
    y: (M, H) actuals, NaN left out; q: (M, H, Q); scale: (M,) positive; group: (M,) whole numbers from 0, None: one group. A
    horizon without any point gets 0; a group with fewer than ``POOL`` points takes the widening of all. groups: how many there
    may be, met or not.
    """
    found, group = pairs(levels), np.zeros(len(y), dtype=int) if group is None else np.asarray(group)
    out = np.zeros((max(int(group.max(initial=0)) + 1, groups), y.shape[1], len(found)))
    for p, (i, j) in enumerate(found):
        score = np.maximum(q[..., i] - y, y - q[..., j]) / scale[:, None]  # (M, H)
        wanted = np.full(len(y), levels[j] - levels[i]) if promise is None else promise[:, p]
        for h in range(y.shape[1]):
            for g in range(len(out)):
                known = np.isfinite(score[:, h])
                if (known & (group == g)).sum() >= POOL:
                    known &= group == g
                if not known.any():
                    continue
                s, share = np.sort(score[known, h]), wanted[known].mean()
                rank = int(np.ceil((len(s) + 1) * share - 1e-9)) - 1  # .8 - .2 is a little more than .6
                out[g, h, p] = max(0.0, s[min(rank, len(s) - 1)]) if rank >= 0 else 0.0
    return out


def widen(q, scale, amount, levels, group=None, floor: float | None = 0.0) -> np.ndarray:
    """Quantiles with their central intervals widened by ``amount`` (G, H, P) x scale (N,): (N, H, Q), tidy. group: (N,)."""
    out = np.array(q, float)
    own = amount[np.zeros(len(out), dtype=int) if group is None else group]  # (N, H, P)
    for p, (i, j) in enumerate(pairs(levels)):
        out[..., i] -= own[..., p] * scale[:, None]
        out[..., j] += own[..., p] * scale[:, None]
    half = np.searchsorted(levels, 0.5)  # a level that no interval ends at follows those that were moved, outwards
    out[..., half:] = np.maximum.accumulate(out[..., half:], axis=-1)
    out[..., : half + 1] = np.minimum.accumulate(out[..., half::-1], axis=-1)[..., ::-1]
    return tidy(out, floor)
