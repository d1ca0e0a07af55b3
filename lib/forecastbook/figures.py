"""One function a figure: a frame or arrays in, a `Figure` out, its title stating what the data say. Here: what was observed,
learnt and forecast; what forecasts were worth is in ``scorefigures``, what is special of sales in ``salesfigures``.

Frames are long. Input that holds nothing to draw gives a figure that says so.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, NullFormatter

from forecastbook import trades
from forecastbook.scores import CHANGED
from forecastbook.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    Figure,
    canvas,
    date_axis,
    drawn,
    end_labels,
    names,
    nothing,
    percent_axis,
    plain,
    whole_ticks,
)
from forecastbook.trades import PRICES, Trade
from forecastbook.wording import CHANGE, EARLY, counted, feature_name, percent, period_name, share0, signed, span, within


def _edged(y: pd.Series) -> pd.Series:
    """A series over its periods with the end of the last one behind it: a period's value holds for all of the period."""
    return pd.concat([y, pd.Series(y.iloc[-1:].to_numpy(), index=y.index[-1:] + y.index.freq)])


def _history(ax, y: pd.Series) -> None:
    """What was observed as black steps; over periods without an observation a pale line carries the last value."""
    for steps, colour, width in ((_edged(y.ffill()), PALE, 1.1), (_edged(y), INK, 1.4)):
        ax.step(steps.index, steps, where="post", color=colour, lw=width)
    alone = y.notna() & y.shift().isna() & y.shift(-1).isna()  # a day between two gaps has no line: show it as a dot
    ax.plot(y.index[alone], y[alone], ".", color=INK, ms=2.5)


@drawn
def small_multiples(frame: pd.DataFrame, series=None, trade: Trade = PRICES, freq: str = "D") -> Figure:
    """History of up to six series, one small panel each. frame: series_id, ts, y, title (optional); gaps stay gaps."""
    ids = list(series if series is not None else pd.unique(frame["series_id"]))[:6] if len(frame) else []
    groups = {i: frame[frame["series_id"] == i].sort_values("ts") for i in ids}
    groups = {i: g for i, g in groups.items() if g["y"].notna().any()}
    if not groups:
        return nothing(f"No observed {trade.things} to show")
    kept = pd.concat([g["y"].dropna().pct_change().abs().iloc[1:] for g in groups.values()])
    days = [pd.date_range(g["ts"].min(), g["ts"].max(), freq=freq) for g in groups.values()]
    gap = 1 - sum(g["y"].notna().sum() for g in groups.values()) / sum(len(d) for d in days)
    changed = percent(np.mean(kept > CHANGED) if len(kept) else 0.0)
    who = "This price" if len(groups) == 1 else f"These {len(groups)} prices"
    unit, on = period_name(freq), within(freq)
    title = f"{who} changed {on} {changed} of observed {unit}; {percent(max(gap, 0))} of {unit} have no observation ({CHANGE})"
    if trade is trades.SALES:
        selling = np.mean(np.concatenate([g["y"].dropna() for g in groups.values()]) > 0)
        who = "This item" if len(groups) == 1 else f"These {len(groups)} items"
        title = f"{who} sold {on} {share0(selling)} of {'its' if len(groups) == 1 else 'their'} {unit}"
    cols = min(3, len(groups))
    rows = -(-len(groups) // cols)
    fig, axes = canvas(title, rows=rows, cols=cols, size=(8.2, 0.6 + 1.75 * rows), sharex=True)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    titles = [group["title"].iloc[-1] if "title" in group else key for key, group in groups.items()]
    for ax, group, times, name in zip(axes.flat, groups.values(), days, names(titles, groups, 30), strict=False):
        y = group.drop_duplicates("ts", keep="last").set_index("ts")["y"].reindex(times)
        _history(ax, y)
        ax.set_title(name)
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=trade is trades.SALES))
        ax.margins(y=0.15)
        date_axis(ax, times, most=4)
    for ax in axes[:, 0]:
        ax.set_ylabel(trade.unit)
    return fig


@drawn
def spells(lengths, unit: str = "days") -> Figure:
    """How long a price lasts. lengths: array of spell lengths in days, each ≥ 1; log axis, median labelled."""
    x = np.asarray(lengths, dtype=float).ravel()
    x = x[np.isfinite(x) & (x > 0)]
    if not len(x):
        return nothing("No completed price spells: no price has changed yet")
    median, long = np.median(x), np.quantile(x, 0.9)
    half = span(round(median), unit)
    title = f"Half of all prices that ended had lasted {half} or less, one in ten longer than {long:.0f}"
    alt = f"Histogram of {counted(len(x), 'price spell')} on a logarithmic axis; median {half}."
    fig, axes = canvas(title, alt, size=(8.2, 3.1))
    ax = axes[0, 0]
    edges = np.unique(np.round(np.geomspace(1, x.max() + 1, 26)))
    edges = np.append(edges, edges[-1] + 1) if len(edges) < 3 else edges
    counts, _ = np.histogram(x, edges)
    ax.bar(edges[:-1], counts / len(x), width=np.diff(edges) * 0.92, align="edge", color=PALE)
    ax.axvline(median, color=INK, lw=1.2)
    ax.annotate(
        f"median {median:.0f}", (median, 1), xycoords=("data", "axes fraction"), xytext=(5, -11), textcoords="offset points"
    )
    ax.set_xscale("log")
    ticks = [t for t in (1, 2, 3, 7, 14, 28, 56, 112, 224, 448, 896) if t <= x.max() * 1.3 + 1]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()
    ax.set_xlabel(f"length of a price spell, {unit} (log scale)")
    ax.set_ylabel(f"share of {counted(len(x), 'spell')}")
    percent_axis(ax.yaxis)
    ax.grid(axis="x", visible=False)
    return fig


@drawn
def coverage_over_time(frame: pd.DataFrame, freq: str = "D") -> Figure:
    """Number of series observed in each period. frame: series_id, ts, y."""
    seen = frame.dropna(subset=["y"]) if len(frame) else frame
    if not len(seen):
        return nothing("No observations in the window")
    daily = seen.groupby("ts")["series_id"].nunique()
    daily = daily.reindex(pd.date_range(daily.index.min(), daily.index.max(), freq=freq), fill_value=0)
    total, typical = frame["series_id"].nunique(), daily.median()
    one = period_name(freq).removesuffix("s")
    verb = "is" if round(typical) == 1 else "are"
    title = f"Of {total:,} series {typical:,.0f} {verb} observed {within(freq)} a typical {one} ({percent(typical / total)})"
    if total == 1:
        title = f"The one series is observed {within(freq)} {share0((daily > 0).mean())} of the {period_name(freq)}"
    fig, axes = canvas(title, size=(8.2, 2.7))
    ax = axes[0, 0]
    steps = _edged(daily)
    ax.fill_between(steps.index, steps, step="post", color=PALE, lw=0)
    ax.step(steps.index, steps, where="post", color=INK, lw=0.9)
    ax.axhline(total, color=GREY, lw=0.9, ls=(0, (4, 3)))
    ax.annotate(
        f"all {total:,} series" if total > 1 else "the one series",
        (0, total),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        color=GREY,
    )
    ax.set_ylim(0, total * 1.15)
    ax.set_ylabel(f"series observed, per {one}")
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    date_axis(ax, daily.index)
    return fig


def _ranges(spans) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """(start, end), or several of them, or an array of dates."""
    if spans is None or not len(spans):
        return []
    if isinstance(spans[0], (tuple, list)):
        return [(pd.Timestamp(a), pd.Timestamp(b)) for a, b in spans]
    return [(pd.Timestamp(min(spans)), pd.Timestamp(max(spans)))]


@drawn
def splits(train, validation, test, freq: str = "D") -> Figure:
    """Where the dates fall. Each argument: (first, last) period, a list of such pairs, an array of dates, or None."""
    lanes = {"train": (_ranges(train), GREY), "validation": (_ranges(validation), BLUE), "test": (_ranges(test), ORANGE)}
    lanes = {k: v for k, v in lanes.items() if v[0]}
    if not lanes:
        return nothing("No dates to split")
    ends = {k: (min(a for a, _ in v[0]), max(b for _, b in v[0])) for k, v in lanes.items()}
    order = list(ends)
    late = all(ends[a][1] < ends[b][0] for a, b in zip(order, order[1:], strict=False))
    said = "The search never sees a date that it is later tested on" if late else "Caution: the date ranges overlap"
    words = {label: _period(*ends[label], spans, freq) for label, (spans, _) in lanes.items()}
    alt = "Bars on a time line: " + "; ".join(f"{label} {text}" for label, text in words.items()) + "."
    fig, axes = canvas(said, alt, size=(8.2, 0.9 + 0.5 * len(lanes)))
    ax, half = axes[0, 0], _middle(ends)
    for row, (label, (spans, colour)) in enumerate(lanes.items()):
        for first, last in spans:
            ax.barh(row, _after(last, freq) - first, left=first, height=0.5, color=colour)
        first, end = ends[label][0], _after(ends[label][1], freq)
        where, shift, align = (first, -6, "right") if first > half else (end, 8, "left")
        if row == 0 and first <= half:  # inside the longest
            where, shift, colour = first, 6, "white"
        else:
            colour = INK
        said = words[label]
        ax.annotate(said, (where, row), xytext=(shift, 0), textcoords="offset points", va="center", ha=align, color=colour)
    ax.set_yticks(range(len(lanes)), list(lanes))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    date_axis(ax)
    return fig


def _middle(ends: dict) -> pd.Timestamp:
    """The middle of several (first, last)."""
    first, last = min(a for a, _ in ends.values()), max(b for _, b in ends.values())
    return first + (last - first) / 2


def _after(date: pd.Timestamp, freq: str) -> pd.Timestamp:
    """Where the period that begins on a date ends."""
    return pd.date_range(date, periods=2, freq=freq)[-1]


def _period(first: pd.Timestamp, last: pd.Timestamp, spans: list, freq: str) -> str:
    """Spans of periods in words: 'Oct 2022 to Sep 2024, 24 months'."""
    n = sum(len(pd.date_range(a, b, freq=freq)) for a, b in spans)
    form = "%b %Y" if freq[:1] in "MQ" else "%-d %b %Y"
    return f"{first:{form}} to {_after(last, freq) - pd.Timedelta(days=1):{form}}, {span(n, period_name(freq))}"


@drawn
def trials(frame: pd.DataFrame, metric: str = "relative quantile score") -> Figure:
    """Score of each trial and the best so far. frame: score (lower is better), in order; trial (its number, else from 1 on)
    and state (else all have finished): one that was stopped early is hollow.
    """
    score = frame["score"].to_numpy(float) if len(frame) else np.empty(0)
    done = np.isfinite(score)
    if not done.any():
        return nothing("No trial has finished")
    number = frame["trial"].to_numpy() if "trial" in frame else np.arange(1, len(score) + 1)
    state = frame["state"].to_numpy() if "state" in frame else np.full(len(score), "finished")
    short = done & (state == EARLY)
    best = np.minimum.accumulate(np.where(done, score, np.inf))
    winner = int(np.nanargmin(np.where(done, score, np.nan)))
    title = f"Trial {number[winner]} of {len(score)} is the best, at {score[winner]:.4f}"
    title += f"; {np.sum(short)} stopped early" if short.any() else ""
    title += f"; {np.sum(~done)} gave no score" if not done.all() else ""
    fig, axes = canvas(title, size=(8.2, 3.1))
    ax = axes[0, 0]
    ax.plot(number[done & ~short], score[done & ~short], "o", color=GREY, ms=5)
    ax.plot(number[short], score[short], "o", color=GREY, ms=5, mfc="white")
    ax.step(number[np.isfinite(best)], best[np.isfinite(best)], where="post", color=BLUE)
    ax.plot(number[winner], score[winner], "o", color=BLUE, ms=8)
    ax.set_xlim(number[0] - 0.5, number[-1] + 0.5)
    ax.margins(y=0.12)
    end_labels(ax, [(number[-1], best[-1], "best so far", BLUE)])
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("trial, in order of start" + (" (hollow: stopped early)" if short.any() else ""))
    ax.set_ylabel(f"{metric}\n(lower is better)")
    return fig


@drawn
def losses(history) -> Figure:
    """Training and validation loss by epoch. history: frame or list of dicts, one an epoch, with train and validation (NaN
    allowed), and step: the number of steps taken, 0 of a row that tells how training began.
    """
    frame = pd.DataFrame(history)
    parts = {c: frame[c].astype(float) for c in ("train", "validation") if c in frame}
    if "step" in frame and len(frame):
        frame.index += int(frame["step"].iloc[0] != 0)
    parts = {c: p.set_axis(frame.index).dropna() for c, p in parts.items() if p.notna().any()}
    if not parts:
        return nothing("No loss was recorded: nothing was trained")
    if "validation" in parts:
        best, last = parts["validation"].idxmin(), frame.index[-1]
        title = f"Validation loss was lowest after {counted(best, 'epoch')} ({parts['validation'][best]:.4g})"
        title += f"; training went on to {last:,.0f}" if last > best else ", the last"
    else:
        first, end, n = parts["train"].iloc[0], parts["train"].iloc[-1], len(parts["train"])
        way = "fell to" if end < first else "rose to" if end > first else "was"
        title = f"Training loss {way} {end:.3g} in {counted(n, 'epoch')}"
    fig, axes = canvas(title, size=(8.2, 3.1))
    ax = axes[0, 0]
    ends = []
    for label, colour in {"train": GREY, "validation": BLUE}.items():
        if label in parts:
            y = parts[label]
            ax.plot(y.index, y, color=colour, marker="o" if len(y) < 40 else None, ms=3.5)
            ends.append((y.index[-1], y.iloc[-1], {"train": "training", "validation": "validation"}[label], colour))
    if "validation" in parts:
        spot = (best, parts["validation"][best])
        ax.plot(*spot, "o", ms=9, mfc="white", mec=INK, mew=1.5)
        ax.annotate("best", spot, xytext=(0, 10), textcoords="offset points", ha="center")
    ax.margins(y=0.15)
    end_labels(ax, ends)
    whole_ticks(ax, frame.index)
    ax.set_xlabel("epochs of training")
    ax.set_ylabel("loss (lower is better)")
    return fig


def _fan(ax, past: pd.DataFrame, ahead: pd.DataFrame, colour: str, freq: str) -> None:
    """History as black steps, then median and shaded bands; the two are told apart by a line at the as-of day."""
    span = pd.date_range(past["ts"].min(), ahead["ts"].min(), freq=freq, inclusive="left") if len(past) else []
    if len(span):
        y = past.drop_duplicates("ts", keep="last").set_index("ts")["y"].reindex(span)
        _history(ax, y)
    last = ahead["ts"].max()
    edges = [*ahead["ts"], pd.date_range(last, periods=2, freq=freq)[-1]]  # as in ``_edged``

    def held(column: str) -> np.ndarray:
        return np.append(ahead[column].to_numpy(float), ahead[column].iloc[-1])

    for low, high, alpha in (("q05", "q95", 0.18), ("q25", "q75", 0.32)):
        if low in ahead and high in ahead:
            ax.fill_between(edges, held(low), held(high), step="post", color=colour, alpha=alpha, lw=0)
    ax.step(edges, held("q50"), where="post", color=colour, lw=2.2)
    ax.axvline(ahead["ts"].min(), color=GREY, lw=0.8, ls=(0, (2, 2)))


def _expectation(ahead: pd.DataFrame, trade: Trade) -> str:
    """What the medians of some series expect, as the end of a sentence."""
    if trade is trades.SALES:
        selling = int((ahead.groupby("series_id", observed=True)["q50"].sum() > 0).sum())
        return "expect no sale" if not selling else f"expect {selling} to sell"
    if "last_value" not in ahead:
        return "hold their last price"
    final = ahead.groupby("series_id", observed=True).tail(1)
    moving = int(((final["q50"] / final["last_value"] - 1).abs() > CHANGED).sum())
    return "hold their last price" if not moving else f"expect {moving} to move"


@drawn
def fans(history: pd.DataFrame, forecast: pd.DataFrame, ids=None, labels=None, periods: int = 60, freq: str = "D") -> Figure:
    """History and forecast of up to four series. history: series_id, ts, y, title; forecast: series_id, ts, q05 … q95.

    ids: the series to show, in order; labels: a line for each ('best, error 1.2 %'); periods: how much history.
    """
    ids = list(ids if ids is not None else pd.unique(forecast["series_id"]))[:4] if len(forecast) else []
    ids = [i for i in ids if (forecast["series_id"] == i).any()]
    if not ids:
        return nothing("No forecast to show")
    horizon = int(forecast.groupby("series_id", observed=True).size().max())
    trade, unit = trades.of(forecast), period_name(freq)
    what = _expectation(forecast[forecast["series_id"].isin(ids)], trade)
    title = f"The next {span(horizon, unit)}"
    if len(ids) > 1:
        title = f"Next {span(horizon, unit)}: the median forecasts of these {len(ids)} {what}"
    cols = len(ids) if len(ids) in (1, 3) else 2
    rows = -(-len(ids) // cols)
    fig, axes = canvas(
        title,
        f"{title}. History in black, median in blue, bands for 50 % and 90 %.",
        rows,
        cols,
        size=(8.2, 0.7 + (2.9 if rows == 1 else 2.15 * rows)),
        sharex=True,
    )
    pasts = [history[history["series_id"] == key] for key in ids]
    titles = [past["title"].iloc[-1] if "title" in past and len(past) else key for past, key in zip(pasts, ids, strict=True)]
    shown = names(titles, ids, 44 if cols < 3 else 26)
    for number, (ax, key, past) in enumerate(zip(axes.flat, ids, pasts, strict=False)):
        ahead = forecast[forecast["series_id"] == key].sort_values("ts").assign(ts=lambda f: pd.to_datetime(f["ts"]))
        past = past.sort_values("ts").assign(ts=lambda f: pd.to_datetime(f["ts"]))
        since = pd.date_range(end=ahead["ts"].min(), periods=periods + 1, freq=freq)[0]
        past = past[(past["ts"] >= since) & (past["ts"] < ahead["ts"].min())]
        _fan(ax, past, ahead, BLUE, freq)
        label = f"\n{plain(labels[number], 44)}" if labels is not None and number < len(labels) else ""
        ax.set_title(shown[number] + label)
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=trade is trades.SALES))
        ax.margins(x=0.01, y=0.15)
        if np.ptp(ax.dataLim.intervaly) < 1e-9:
            ax.set_ylim(ax.dataLim.y0 * 0.9 - 0.01, ax.dataLim.y0 * 1.1 + 0.01)
        date_axis(ax, most=4)
    for ax in axes[:, 0]:
        ax.set_ylabel(trade.unit)
    for ax in axes.flat[len(ids) :]:
        ax.set_visible(False)
    first = axes.flat[0]
    for text, style in {"actual": INK, "median": BLUE, "50 % and 90 % band": "#8fbbd9"}.items():
        first.plot([], [], color=style, lw=2 if style != "#8fbbd9" else 7, label=text)
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    return fig


@drawn
def moves(frame: pd.DataFrame, ahead: str, top: int = 12) -> Figure:
    """The prices likeliest to differ at the end. frame: a forecast, with last_value, p_change, p_up, and title (optional);
    ahead: how far that is ('7 days').
    """
    frame = frame.dropna(subset=["p_change"]) if "p_change" in frame else frame.iloc[:0]
    if not len(frame):
        return nothing("No forecast says how likely a change is")
    frame = frame.sort_values("horizon").groupby("series_id", observed=True).tail(1) if "horizon" in frame else frame
    likely = int((frame["p_change"] > 0.5).sum())
    which = f"{likely:,} of {counted(len(frame), 'price')} {'is' if likely == 1 else 'are'}"
    title = f"{which} more likely than not to have changed in {ahead}"
    best = frame.nlargest(top, "p_change").iloc[::-1]
    fig, axes = canvas(title, size=(8.2, 1.1 + 0.27 * len(best)))
    ax = axes[0, 0]
    sides = {"change": (best["p_change"], GREY)}
    if "p_up" in best:  # not of a run of an earlier version
        sides = {"lower": (best["p_change"] - best["p_up"], BLUE), "higher": (best["p_up"], ORANGE)}
    left = np.zeros(len(best))
    for name, (chance, colour) in sides.items():
        ax.barh(range(len(best)), chance, left=left, color=colour, height=0.68, label=name)
        left += chance.to_numpy()
    ax.axvline(0.5, color=GREY, lw=0.8, ls=(0, (3, 3)))
    if len(sides) > 1:
        fig.legend(loc="outside lower left", ncols=2, fontsize=9)
    for row, item in enumerate(best.itertuples()):
        low, mid, high = (getattr(item, q, np.nan) / item.last_value - 1 for q in ("q05", "q50", "q95"))
        text = f"{signed(mid)}  ({signed(low)} to {signed(high)})"
        ax.annotate(
            text, (1.01, row), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=9, annotation_clip=False
        )
    ax.annotate(
        "median move (90 % band)",
        (1.01, 1),
        xycoords="axes fraction",
        va="bottom",
        fontsize=9,
        color=GREY,
        annotation_clip=False,
    )
    ax.set_yticks(range(len(best)), names(best.get("title", best["series_id"]), best["series_id"], 34))
    ax.set_xlim(0, 1)
    percent_axis(ax.xaxis)
    ax.set_xlabel(f"probability that the price in {ahead} differs from the last one ({CHANGE})")
    ax.grid(axis="y", visible=False)
    return fig


def looks(importance: pd.DataFrame, weights) -> Figure:
    """What the experts look at: ``attention`` where there are weights, else ``importance``."""
    return attention(weights) if np.size(weights) else features(importance)


@drawn
def features(importance: pd.DataFrame, top: int = 10) -> Figure:
    """Which features the trees split on. importance: feature, share of the loss saved (fractions), most first."""
    if importance.empty:
        return nothing("No trees were grown")
    first = importance.head(top)
    called = [feature_name(str(f)) for f in first["feature"]]
    lead = " · ".join(called[:3])
    fig, axes = canvas(f"The trees look first at: {lead}", size=(8.2, 0.9 + 0.27 * len(first)))
    ax = axes[0, 0]
    ax.barh(range(len(first)), first["share"], color=[BLUE] * 3 + [PALE] * (len(first) - 3), height=0.66)
    ax.set_yticks(range(len(first)), [plain(name, 56) for name in called])
    ax.invert_yaxis()
    percent_axis(ax.xaxis)
    ax.set_xlabel("share of the loss that its splits saved")
    ax.grid(axis="y", visible=False)
    return fig


@drawn
def attention(weights, unit: str = "days") -> Figure:
    """Where the model looks. weights: (L,) or (H, L), oldest period first, the last column being the as-of day."""
    w = np.atleast_2d(np.asarray(weights, dtype=float))
    if not w.size or not np.isfinite(w).any():
        return nothing("This model has no attention weights")
    w = np.nan_to_num(w) / np.maximum(np.nansum(w, axis=1, keepdims=True), 1e-12)  # (H, L), each row sums to 1
    mean = w.mean(axis=0)
    back = np.arange(len(mean))[::-1]
    recent, peak = mean[-7:].sum(), int(back[mean.argmax()])
    place = f"on the as-of {unit.rstrip('s')} itself" if peak == 0 else f"{peak} {unit if peak > 1 else unit.rstrip('s')} back"
    title = f"{percent(recent)} of the attention is on the last {span(min(7, len(mean)), unit)}; its peak is {place}"
    if np.ptp(mean) < 1e-9:
        title = f"Attention is even over {span(len(mean), unit)}: the model looks nowhere in particular"
    fig, axes = canvas(title, size=(8.2, 2.7))
    ax = axes[0, 0]
    if len(w) > 1:
        ax.fill_between(back, w.min(axis=0), w.max(axis=0), color=BLUE, alpha=0.18, lw=0, label="range over the days ahead")
        ax.legend(loc="upper left", fontsize=9)
    ax.plot(back, mean, color=BLUE, marker="o", ms=3)
    ax.axhline(1 / len(mean), color=GREY, lw=0.9, ls=(0, (4, 3)))
    ax.annotate(
        "even",
        (1.0, 1 / len(mean)),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        color=GREY,
        va="center",
        annotation_clip=False,
    )
    ax.invert_xaxis()
    ax.set_ylim(0)
    ax.set_xlabel(f"{unit} before the forecast is made")
    ax.set_ylabel("share of attention")
    percent_axis(ax.yaxis)
    return fig
