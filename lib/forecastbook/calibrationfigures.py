"""Figures of what forecasts promised: whether quantiles, bands and probabilities kept their word.

What a *backtest* frame holds is said in ``points``; the house style is that of ``style``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecastbook import trades
from forecastbook.points import errors, event, levels
from forecastbook.scores import slack
from forecastbook.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    UNMET,
    Figure,
    canvas,
    drawn,
    nothing,
    percent_axis,
    top_of,
)
from forecastbook.trades import PRICES, Trade
from forecastbook.wording import CHANGE, counted, model_name, percent

READING = (  # of ``calibration``
    "A quantile keeps its promise where as many actuals fell below it as it says. Prices that stand still lie exactly on their "
    "quantiles, so each bar runs from the share strictly below to the share at or below, and an honest one touches the "
    "diagonal. The right side looks only at prices that did change, of which nothing is promised."
)


@drawn
def calibration(frame: pd.DataFrame, model: str = "published") -> Figure:
    """Promised quantile against the share of actuals below it, on all periods and, without a promise, where the event came.

    frame: a backtest, whose rows of `model` are shown.

    Posted prices tie with their quantiles, so each level has a bar from 'strictly below' to 'at or below': an honest
    forecast's bar touches the diagonal on all periods.
    """
    frame = frame[frame["model"] == model] if "model" in frame and len(frame) else frame
    scored = errors(frame) if len(frame) else frame
    if not len(scored):
        return nothing(UNMET)
    rows, quantiles = frame.loc[scored.index], levels(frame)
    trade = trades.of(scored)
    groups = {"all periods": np.ones(len(rows), bool), trade.with_event: event(scored).to_numpy()}
    held = scored["inside90"].mean() if "inside90" in scored else np.nan
    fig, axes = canvas(
        f"{percent(held)} of actual {trade.things} fell inside a band that promised 90 %", cols=2, size=(8.2, 3.6), sharey=True
    )
    y, steps = rows["y"].to_numpy(float), np.array([0.0, *quantiles.values(), 1.0])
    free = (steps[:-1] + np.diff(steps) / 2)[np.diff(steps).round(6).argmax()]  # in the widest gap between two bars
    for ax, (label, mask), colour in zip(axes.flat, groups.items(), (BLUE, ORANGE), strict=True):
        if mask.all():  # where only what changed is looked at, not even an honest forecast lies on the diagonal
            ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 3)))
            ax.annotate("honest", (free, free - 0.06), color=GREY, ha="center", va="top", fontsize=9)
        ax.set_title(f"{label}: {counted(int(mask.sum()), 'forecast')}")
        for column, level in quantiles.items():
            if mask.any():
                q, near = rows[column].to_numpy(float)[mask], slack(y[mask])
                low, high = np.mean(y[mask] < q - near), np.mean(y[mask] <= q + near)
                ax.plot([level, level], [low, high], color=colour, lw=5, alpha=0.35)
                ax.plot([level, level], [low, high], "_", color=colour, ms=9, mew=2)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        percent_axis(ax.xaxis)
        percent_axis(ax.yaxis)
        ax.set_xlabel("quantile promised")
    if trade is PRICES:
        axes[0, 1].set_xlabel(f"quantile promised ({CHANGE})")
    axes[0, 0].set_ylabel(f"share of actual {trade.things}\nbelow … at or below it")
    return fig


CHANCES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # edges of the groups of a reliability curve
FEW = 30  # forecasts: a group of fewer is drawn hollow


@drawn
def reliability(frame: pd.DataFrame, model: str = "published") -> Figure:
    """The probability that was said of the event (a changed price, a sale) against how often it came, by groups of it.

    frame: a backtest, whose rows of `model` are shown. A point is the mean of what was said in a group (``CHANCES``), with the
    number of its forecasts.
    """
    mine = frame[(frame["model"] == model) & frame["y"].notna()] if len(frame) else frame
    trade = trades.of(frame)
    mine = mine[mine[trade.probability].notna()] if len(mine) else mine
    if not len(mine):
        return nothing(UNMET)
    said = mine[trade.probability].to_numpy(float)
    came = trade.happened(mine["y"].to_numpy(float), mine["last_value"].to_numpy(float))
    group = np.clip(np.digitize(said, CHANCES) - 1, 0, len(CHANCES) - 2)
    by = pd.DataFrame({"said": said, "came": came, "n": 1}).groupby(group).agg({"said": "mean", "came": "mean", "n": "size"})
    sure = said > 0.5
    title = f"{trade.called} was never called more likely than not"
    if sure.any():
        times = counted(int(sure.sum()), "time")
        title = f"Called more likely than not {times}, {trade.called.lower()} came in {percent(came[sure].mean())} of them"
        if sure.sum() == 1:
            title = f"Called more likely than not once, {trade.called.lower()} {'came' if came[sure].all() else 'did not come'}"
    fig, axes = canvas(title, size=(8.2, 3.6))
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 3)))
    ax.annotate("honest", (0.93, 0.97), color=GREY, ha="right", va="center", fontsize=9)  # the numbers stand below
    ax.plot(by["said"], by["came"], "-", color=BLUE, lw=1.5)
    for full, rows in by.groupby(by["n"] >= FEW):
        ax.plot(rows["said"], rows["came"], "o", color=BLUE, ms=6, mfc=BLUE if full else "white", clip_on=False)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # the diagonal strikes no number through
    for row in by.itertuples():
        place = {"xytext": (8, -4), "va": "top"} if row.came > 0.12 else {"xytext": (0, 6), "ha": "center"}  # clear of the axis
        ax.annotate(f"{row.n:,}", (row.said, row.came), textcoords="offset points", color=GREY, fontsize=8, bbox=box, **place)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.set_xlabel(f"probability said of {trade.called.lower()}" + (f"\n({CHANGE})" if trade is PRICES else ""))
    ax.set_ylabel("share that came")
    return fig


@drawn
def by_event(frame: pd.DataFrame, model: str = "published") -> Figure:
    """Error and coverage of the 90 % band where the event came (a change, a sale) and where not, beside the safe baseline.

    frame: a backtest, scored or not.
    """
    scored = errors(frame) if len(frame) else pd.DataFrame()
    mine = scored[scored["model"] == model] if len(scored) else scored
    if not len(mine):
        return nothing(UNMET)
    trade, came = trades.of(scored), event(mine).to_numpy(bool)
    other = scored[scored["model"] == trade.safe]
    held = mine["inside90"].to_numpy(float) if "inside90" in mine else np.full(len(mine), np.nan)
    title = f"No forecast met {trade.with_event}: only {trade.without_event} were tested"
    if came.any():
        title = f"{percent(came.mean(), 1)} of forecasts met {trade.with_event}"
        title += f"; the 90 % band held {percent(held[came].mean())} of those"
        title += _against_safe(
            mine["error"].to_numpy(float)[came].mean(), other.loc[event(other).to_numpy(bool), "error"].mean(), trade
        )
    fig, axes = canvas(title, cols=2, size=(8.2, 2.5))
    error, cover = axes.flat
    groups = {trade.without_event: ~came, trade.with_event: came}
    for row, mask in enumerate(groups.values()):
        theirs = other.loc[event(other).to_numpy(bool) == bool(row), "error"].mean()
        ours, share = (values[mask].mean() if mask.any() else np.nan for values in (mine["error"].to_numpy(float), held))
        for shift, value, colour, name in ((-0.19, ours, BLUE, model), (0.19, theirs, ORANGE, trade.safe)):
            if np.isfinite(value):
                error.barh(row + shift, value, height=0.34, color=colour)
                text = f"{percent(value, 1)}  {model_name(name)}"
                error.annotate(text, (value, row + shift), xytext=(4, 0), textcoords="offset points", va="center", color=colour)
        if np.isfinite(share):
            cover.barh(row, share, height=0.5, color=BLUE)
            start, colour = (0, "white") if share > 0.25 else (share, BLUE)  # left of the line of the promise
            cover.annotate(percent(share), (start, row), xytext=(6, 0), textcoords="offset points", va="center", color=colour)
    error.set_xlim(0, top_of(error.dataLim.x1, 2.0))  # the names stand right of the bars
    error.set_xlabel(trade.error)
    cover.axvline(0.9, color=INK, lw=1, ls=(0, (4, 3)))
    over = "promised over both: 90 %"
    cover.annotate(over, (0.9, 1), xycoords=("data", "axes fraction"), ha="right", va="bottom", fontsize=9)
    cover.set_xlim(0, 1)
    cover.set_xlabel("share inside the 90 % band" + (f"\n({CHANGE})" if trade is PRICES else ""))
    for ax in axes.flat:
        percent_axis(ax.xaxis)
        ax.set_yticks([0, 1], [f"{k}\n{counted(int(m.sum()), 'forecast')}" for k, m in groups.items()])
        ax.set_ylim(1.5, -0.5)
        ax.grid(axis="y", visible=False)
    cover.tick_params(labelleft=False)
    return fig


def _against_safe(error: float, safe: float, trade: Trade) -> str:
    """How an error is set against the safe baseline's, as the end of a sentence; '' where there is none."""
    if not (np.isfinite(error) and safe > 0):
        return ""
    off = error / safe - 1
    said = "the same as" if abs(off) < 0.0005 else f"{percent(abs(off), 1)} {'above' if off > 0 else 'below'}"
    return f"; the error there is {said} {trade.safe_words}'s"
