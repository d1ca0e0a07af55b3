"""What is compiled (numba): the days of series walked through, what came after each, and quantiles read off a ladder of prices.

Loops that say what they do, over all series at machine speed; ``spells`` and ``sticky`` call them. They are compiled once on a
machine, in some seconds, and kept beside the module; a process that finds them there loads them in a fifth of a second.

Symbols: N series, T days, C days kept (the last ones), H days ahead, J candidate levels, A kinds of change, M places where a
price may stand, Q quantile levels.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import numba
import numpy as np


def compiled(function):
    """Numba's form of a function, kept beside this module; where nothing can be written, each process compiles its own."""
    if numba.config.DISABLE_JIT:  # NUMBA_DISABLE_JIT=1: plain Python, for a debugger
        return function
    try:
        made = numba.njit(cache=True)(function)
    except RuntimeError:  # no place for a cache
        return numba.njit(function)
    for kept in Path(made.stats.cache_path).glob(f"*.{function.__name__}-*.nb?"):
        with suppress(FileNotFoundError):  # another process was first
            if not kept.read_bytes().strip(b"\0"):  # a machine that lost power leaves such files, and numba would read them
                kept.unlink()
    return made


@compiled
def days(y, listed, change, price, features, levels, life, gap):
    """Write what is known of each of the last C days into the five arrays of a ``spells.Posted``.

    y: (N, T) positive prices, NaN where not observed. listed: (N, T) list prices, NaN where not known, or (N, 0). change: two
    log prices nearer than this are the same posted price. A mode is the level that held on most of the last days, by its latest
    price; levels are one when their logs round to one thousandth, and the lowest of several equally frequent ones is taken.
    """
    N, T = y.shape
    C = price.shape[1]
    logs = np.log1p(np.arange(T + 2))
    post, climbed = np.empty(T), np.empty(T)  # price carried forward; all steps in log so far, up or down
    moves, sights = np.empty(T, np.int64), np.empty(T, np.int64)  # changes and observations so far
    which, code = np.empty(T, np.int64), np.empty(T, np.int64)  # level of a day; log of a level, in thousandths
    held28, held90, latest = np.empty(T, np.int64), np.empty(T, np.int64), np.empty(T)  # of a level: days, and its last price
    for n in range(N):
        first, seen, began, before = -1, -1, -1, -1  # first and last observation, start of this spell and of the one before
        before_spell, known, k = 0, 0, -1  # observations before this spell; levels known, the one of today
        high28, low28, high90, low90 = -1, -1, -1, -1  # days of the extremes
        now, L, offer, jump, previous, previous2 = np.nan, 0.0, np.nan, 0.0, np.nan, np.nan
        for t in range(T):
            if t < listed.shape[1] and listed[n, t] > 0:
                offer = listed[n, t]
            sighted, step, c = math.isfinite(y[n, t]), 0.0, t - (T - C)
            if sighted:
                seen = t
                if first < 0:
                    first = t
                elif y[n, t] != now:
                    log = _rounded(math.log(y[n, t] / y[n, first]))  # rounding hides the last bit of a rescale
                    L, step = log, log - L
                now = y[n, t]
            if c >= 0:
                gap[n, c] = t - seen
            if first < 0:
                continue
            post[t], alive = now, t - first + 1

            born = t == first
            climbed[t] = abs(step) + (0.0 if born else climbed[t - 1])
            sights[t] = sighted + (0 if born else sights[t - 1])
            moves[t] = 0 if born else moves[t - 1]
            if abs(step) > change:
                moves[t] += 1
                jump, previous2, previous = step, previous, post[t - 1]
                before, began, before_spell = began, t, sights[t - 1]
            earliest = max(first, T - C - 89)  # no window of a day that is kept reaches further back
            if t < earliest:
                continue

            thousandths = int(np.rint(L * 1000))
            if k < 0 or code[k] != thousandths:
                k = 0
                while k < known and code[k] != thousandths:
                    k += 1
                if k == known:
                    code[k], held28[k], held90[k] = thousandths, 0, 0
                    known += 1
            which[t], latest[k] = k, now
            held28[k] += 1
            held90[k] += 1
            if t - 28 >= earliest:
                held28[which[t - 28]] -= 1
            if t - 90 >= earliest:
                held90[which[t - 90]] -= 1
            if c < 0:
                continue

            high28, low28 = _extreme(post, high28, t, max(first, t - 27), 1), _extreme(post, low28, t, max(first, t - 27), -1)
            high90, low90 = _extreme(post, high90, t, max(first, t - 89), 1), _extreme(post, low90, t, max(first, t - 89), -1)
            usual28, usual90 = _most(held28, code, known), _most(held90, code, known)
            age = t - began if began >= 0 else alive
            length = began - max(before, first) if began >= 0 else 0
            candidates = (previous, latest[usual90], post[high90], previous2, post[low90])  # as in spells.LEVELS
            to_previous, to_previous2 = _to(previous, now), _to(previous2, now)
            to_mode90, to_max90, to_min90 = _to(latest[usual90], now), _to(post[high90], now), _to(post[low90], now)
            row = (  # as in spells.FEATURES
                logs[age],
                logs[sights[t] - before_spell],
                logs[length],
                logs[age] - logs[length] if began >= 0 else 0.0,
                1.0 * (began < 0),
                to_previous,
                to_previous2,
                _to(latest[usual28], now),
                to_mode90,
                held90[usual90] / min(alive, 90),
                to_max90,
                to_min90,
                _to(post[high28], now),
                _to(post[low28], now),
                1.0 * (to_mode90 > 0.01),
                1.0 * (to_mode90 < -0.01),
                _late(moves, t, 7, first) / min(alive, 7),
                _late(moves, t, 28, first) / min(alive, 28),
                _late(moves, t, 90, first) / min(alive, 90),
                _late(climbed, t, 90, first) / min(alive, 90),  # exactly 0 where nothing moved
                logs[t - seen],
                _late(sights, t, 7, first) / min(alive, 7),
                _late(sights, t, 28, first) / min(alive, 28),
                np.sign(jump),
                step,
                1.0 * sighted,
                _to(offer, now),
                1.0 * (not math.isnan(offer)),
            )
            for f in range(len(row)):
                features[n, c, f] = row[f]
            price[n, c], life[n, c] = now, alive
            _distinct(candidates, (to_previous, to_mode90, to_max90, to_previous2, to_min90), change, levels[n, c])


@compiled
def _rounded(log):
    """To nine places."""
    return np.rint(log * 1e9) / 1e9


@compiled
def _to(level, now):
    """Log distance from the price to a level, 0 where there is none."""
    return 0.0 if level == now or math.isnan(level) else _rounded(math.log(level / now))


@compiled
def _distinct(candidates, ratios, change, out):
    """Write the candidate levels into out (J,), except unknown ones and those that equal the price or an earlier candidate.

    ratios: log distances from the price, as many.
    """
    for j in range(len(ratios)):
        same = math.isnan(candidates[j]) or abs(ratios[j]) <= change
        for i in range(j):
            same |= not math.isnan(out[i]) and abs(ratios[j] - ratios[i]) <= change
        if not same:
            out[j] = candidates[j]


@compiled
def _late(total, t, window, first):
    """What a running total, which begins on the day ``first``, gained in the last ``window`` days."""
    return total[t] - (total[t - window] if t - window >= first else 0)


@compiled
def _extreme(post, best, t, start, sign):
    """The day of the highest (sign 1) or lowest price of the days start..t; best: that of a day ago."""
    if best >= start:
        return t if sign * post[t] >= sign * post[best] else best
    best = start
    for day in range(start + 1, t + 1):
        if sign * post[day] >= sign * post[best]:
            best = day
    return best


@compiled
def _most(held, code, known):
    """The level that held most often, of several the lowest."""
    best = 0
    for k in range(1, known):
        if held[k] > held[best] or (held[k] == held[best] and code[k] < code[best]):
            best = k
    return best


@compiled
def targets(y, price, levels, life, gap, youngest, longest, change, edges, ratio, classes):
    """Write what came after each of C days into ratio (N, C, H) and classes (N, C, H), where it may be learnt from.

    y: (N, C) prices of those days, NaN where not observed. price, levels, life, gap: of a ``spells.Posted``. A day counts when
    its series is that old (youngest) and was seen that lately (longest). change, edges: as in ``kind``.
    """
    N, C, H = classes.shape
    away = np.empty(levels.shape[2])  # log ratios of the levels
    for n in range(N):
        for c in range(C - 1):
            if life[n, c] < youngest or gap[n, c] > longest:
                continue
            for j in range(len(away)):
                away[j] = math.log(levels[n, c, j] / price[n, c])
            for h in range(min(H, C - 1 - c)):
                ahead = y[n, c + 1 + h]
                if math.isfinite(ahead):
                    log = 0.0 if ahead == price[n, c] else math.log(ahead / price[n, c])
                    ratio[n, c, h], classes[n, c, h] = log, kind(log, away, change, edges)


@compiled
def kind(ratio, away, change, edges):
    """Class of a move: 0 unchanged, 1..J the first level that it hits, then the bins down, then as many up.

    ratio: log(price ahead / price now). away: (J,) the same of the levels, NaN where masked. change: nearer than this is the
    same price. edges: (B + 1,) rising, of the bins' absolute log ratios.
    """
    size, J, bins = abs(ratio), len(away), len(edges) - 1
    if size <= change:
        return 0
    for j in range(J):
        if abs(ratio - away[j]) <= change:  # never of a masked one
            return 1 + j
    b = 0
    while b < bins - 1 and size >= edges[b + 1]:
        b += 1
    return 1 + J + b + (bins if ratio > 0 else 0)


@compiled
def quantiles(values, order, masked, hazard, kinds, at, out):
    """Write into out (N, H, Q) the lowest place of a ladder below or at which at least so much probability lies.

    values, order (N, M), masked (N, J): of a ``sticky.Ladder``. hazard: (N, H). kinds: (N, H, A), masked levels taken as 0 and
    the others made to sum to 1; a bin is shared by its two atoms. at: (Q,) rising levels.
    """
    N, M = values.shape
    J = masked.shape[1]
    for n in range(N):
        for h in range(hazard.shape[1]):
            known = 0.0
            for a in range(kinds.shape[2]):
                if a >= J or not masked[n, a]:
                    known += kinds[n, h, a]
            share = hazard[n, h] / max(known, 1e-300)
            reached, place = 0.0, -1
            for q in range(len(at)):
                while reached < at[q] - 1e-9 and place < M - 1:
                    place += 1
                    k = order[n, place]
                    if k == 0:
                        reached += 1 - hazard[n, h]
                    elif k > J:
                        reached += share * kinds[n, h, J + (k - J - 1) // 2] / 2
                    elif not masked[n, k - 1]:
                        reached += share * kinds[n, h, k - 1]
                out[n, h, q] = values[n, max(place, 0)]


@compiled
def upward(rising, masked, kinds, out):
    """Write into out (N, H) the share of the kinds of change that go up, of those that a ladder has.

    rising (N, A), masked (N, J): of a ``sticky.Ladder``. kinds: (N, H, A).
    """
    J = masked.shape[1]
    for n in range(len(out)):
        for h in range(out.shape[1]):
            up, known = 0.0, 0.0
            for a in range(kinds.shape[2]):
                if a >= J or not masked[n, a]:
                    known += kinds[n, h, a]
                    up += kinds[n, h, a] * rising[n, a]
            out[n, h] = up / max(known, 1e-300)
