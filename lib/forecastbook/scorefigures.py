"""Figures of what forecasts were worth: their errors, their bands and their record beside the baselines.

What a *backtest* frame holds is said in ``points``; the house style is that of ``style``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecastbook import trades
from forecastbook.points import OURS, errors
from forecastbook.scores import DUST
from forecastbook.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    UNMET,
    Figure,
    canvas,
    date_axis,
    drawn,
    end_labels,
    nothing,
    percent_axis,
    top_of,
    whole_ticks,
)
from forecastbook.trades import PRICES, Trade
from forecastbook.wording import ahead, counted, model_name, percent, sentence, signed, the

COLOURS = {"published": BLUE, "challenger": BLUE, "lstm": BLUE, "blend": BLUE, "champion": GREEN}
STILL = "No price moved in the record: there is nothing to compare"
MANY = 4  # names of models beside those that matter, at most, at the ends of lines
FAR = 2.0  # times the safe baseline's error: a baseline beyond it is left out of a figure of lines


def _means(frame: pd.DataFrame, metric: str, *by: str) -> pd.Series:
    """Mean of a metric by the given columns, from a backtest frame, scored or not, or one aggregated (with `value`)."""
    if not len(frame):
        return pd.Series(dtype=float)
    scored, metric = (frame, "value") if "value" in frame else (errors(frame), metric)
    return scored.groupby(list(by), observed=True)[metric].mean().dropna().rename("value")


def _by(frame: pd.DataFrame, metric: str, column: str) -> pd.DataFrame:
    """The same as a table: one row a value of `column`, one column a model."""
    means = _means(frame, metric, column, "model")
    return means.unstack("model").sort_index() if len(means) else pd.DataFrame()


def itself(skill: pd.DataFrame) -> pd.Series:
    """(n,) bool: which rows of ``scoreboard.skills`` compare what is published with the same: a baseline that is published,
    or one that says what that says.

    Its bands may have been widened at an origin, so a skill that is shown as 0.0 % with its whole interval counts.
    """
    off = skill[["skill", "low", "high"]].abs()
    return (off < 0.0005).all(axis=1) | (off["low"].isna() & (off["skill"] < DUST))


def standing(same, use: str | None = None) -> str:
    """That baselines tie with what is published, as a clause; '' where none does.

    same: those baselines. use: what the gate lets out; where it is not known, a baseline that alone ties is taken for it.
    """
    same = list(same)
    use = same[0] if use is None and len(same) == 1 else use
    if not same or use not in same:
        return f"what is published is the same as {the(same)}" if same else ""
    rest = [m for m in same if m != use]
    return f"{the([use])} itself is published" + (f", which is the same as {the(rest)}" if rest else "")


def dated(frame: pd.DataFrame) -> dict[str, str]:
    """Readable names of the models of a backtest; behind one that was not there at every date, at how many it was."""
    if "origin" not in frame:
        return {m: model_name(m) for m in frame["model"].unique()}
    dates, all_ = frame.groupby("model", observed=True)["origin"].nunique(), frame["origin"].nunique()
    return {m: model_name(m) + (f" ({n} of {all_} dates)" if n < all_ else "") for m, n in dates.items()}


def still(frame: pd.DataFrame) -> bool:
    """Whether the last price was right at every point of a backtest, scored or not, and sure of it: nobody can be better."""
    scored = errors(frame)
    theirs = scored.loc[scored["model"] == PRICES.safe, ["error", "loss"]]
    return trades.of(scored) is PRICES and len(theirs) > 0 and theirs.max(axis=None) < DUST


def _rank(models) -> list[str]:
    """Baselines first and ours last, so that ours is drawn on top."""
    return sorted(models, key=lambda m: (m in OURS, m in COLOURS or m == _safe(models), str(m)))


def _ours(models) -> str | None:
    return next((m for m in OURS if m in set(models)), None)


def _safe(models) -> str | None:
    """The baseline that a reader compares with: IMAPA where it is there, else the last value; None where neither is."""
    return next((t.safe for t in (trades.SALES, PRICES) if t.safe in set(models)), None)


def _beside(model: str, name: str) -> str:
    """A model as a sentence compares with it. name: what it is called here."""
    return f"the {name}" if model == "champion" else the([model])


def _colour(model: str, ours: str | None, safe: str | None) -> str:
    """Colour for what the reader compares, pale for the rest."""
    if model == safe:
        return ORANGE
    return COLOURS.get(model, PALE) if model in (ours, "champion") else PALE


@drawn
def errors_by_origin(frame: pd.DataFrame, metric: str = "loss", trade: Trade = PRICES, champion: str = "champion") -> Figure:
    """Quantile score at each origin. frame: a backtest, or aggregated with the columns model, origin, value.

    The title compares means, as a verdict does: with the champion, which is what a challenger must beat, where there is one.
    champion: what it is called.
    """
    table = _by(frame, metric, "origin")
    if table.empty:
        return nothing("No origin has met its actuals yet")
    if trade is PRICES and table.max(axis=None) < DUST:
        return nothing(STILL)
    ours, models, safe = _ours(table.columns), _rank(table.columns), _safe(table.columns)
    names = {m: model_name(m, champion) for m in models}
    rival = next((m for m in ("champion", safe, *models) if m in table and m != ours), None)
    title, mean = f"Quantile score at {counted(len(table), 'origin')}", table.mean(skipna=False)
    if ours and rival and np.isfinite(mean[ours]) and mean[rival] > 0:
        gain, wins = 1 - mean[ours] / mean[rival], int((table[ours] < table[rival]).sum())
        said = f"{percent(abs(gain), 1)} {'better' if gain > 0 else 'worse'} than" if abs(gain) >= 0.0005 else "the same as"
        title = f"The {names[ours]} forecast scores {said} {_beside(rival, names[rival])} on average"
        title += f", and is better at {wins} of {counted(len(table), 'origin')}"
    fig, axes = canvas(title, size=(8.2, 3.2))
    ax = axes[0, 0]
    x = pd.to_datetime(table.index)
    for model in models:
        main = (colour := _colour(model, ours, safe)) != PALE
        ax.plot(x, table[model], "o-", color=colour, ms=4.5 if main else 2.5, lw=2 if main else 1)
    ax.set_ylim(0, np.nanmax(table.to_numpy()) * 1.12 or 1)
    colours = {m: GREY if _colour(m, ours, safe) == PALE else _colour(m, ours, safe) for m in models}
    end_labels(ax, [(x[-1], table[m].dropna().iloc[-1], names[m], colours[m]) for m in models if table[m].notna().any()])
    ax.set_xlabel("forecast made on")
    ax.set_ylabel(
        "quantile score / last price\n(lower is better)" if trade is PRICES else "quantile score, units\n(lower is better)"
    )
    if trade is PRICES:
        percent_axis(ax.yaxis)
    date_axis(ax, x)
    return fig


@drawn
def error_by_horizon(frame: pd.DataFrame, metric: str | None = None, unit: str = "days") -> Figure:
    """Mean error by days ahead. frame: a backtest, or aggregated with model, horizon, value (fractions of the last price)."""
    metric = metric or trades.of(frame).metric
    table = _by(frame, metric, "horizon")
    if table.empty:
        return nothing(UNMET)
    if trades.of(frame) is PRICES and table.max(axis=None) < DUST:
        return nothing(STILL)
    ours, models, safe, trade = _ours(table.columns), _rank(table.columns), _safe(table.columns), trades.of(frame)
    if ours and safe:
        gain = 1 - table[ours].mean() / table[safe].mean() if table[safe].mean() > 0 else 0.0
        against = trade.safe_words
        said = f"{percent(abs(gain), 1)} {'below' if gain > 0 else 'above'} that of {against}"
        what = "error" if metric == "error" else "quantile score"
        title = f"The {model_name(ours)} {what} is {said if abs(gain) >= 0.0005 else f'the same as that of {against}'}"
        title += f", on average {ahead(table.index, unit)}" if table.index.max() > 1 else ""
    else:
        title = f"Error, {ahead(table.index, unit)}"
    if safe and (far := [m for m in models if m not in OURS and table[m].mean() > FAR * table[safe].mean()]):
        models = [m for m in models if m not in far]  # they would press the others together
        table = table[models]
    fig, axes = canvas(title, size=(8.2, 3.2))
    ax = axes[0, 0]
    for model in models:
        main = (colour := _colour(model, ours, safe)) != PALE
        ax.plot(table.index, table[model], "o-", color=colour, ms=4.5 if main else 2.5, lw=2 if main else 1)
    ax.set_ylim(0, top_of(np.nanmax(table.to_numpy()), 1.1))
    ends, x = table.ffill().iloc[-1].dropna(), table.index[-1]
    colours = {m: _colour(m, ours, safe) for m in models if m in ends.index}
    pale = [m for m, colour in colours.items() if colour == PALE]
    labels = [(x, ends[m], model_name(m), colour) for m, colour in colours.items() if colour != PALE]
    if len(pale) > MANY:  # so many names would stand far from their lines
        labels.append((x, ends[pale].max(), "other candidates", GREY))
    else:
        labels += [(x, ends[m], model_name(m), GREY) for m in pale]
    end_labels(ax, labels)
    whole_ticks(ax, table.index)
    ax.set_xlabel(f"{unit} ahead")
    ax.set_ylabel(trade.error if metric == "error" else trade.loss)
    percent_axis(ax.yaxis)
    return fig


@drawn
def accuracy(frame: pd.DataFrame, metric: str | None = None, same=(), use: str | None = None) -> Figure:
    """One bar a model, the best on top. frame: a backtest, or aggregated with the columns model, value.

    same: baselines that tie with what is published, which is compared with the others; use: as in ``standing``.
    """
    metric = metric or trades.of(frame).metric
    table = _means(frame, metric, "model").sort_values(ascending=False)
    if table.empty:
        return nothing(UNMET)
    if "value" not in frame and still(frame) and table.max() < 1e-9:
        return nothing(STILL)
    ours, best = _ours(table.index), table.index[-1]
    rest = table.drop([m for m in (*OURS, *same) if m in table])
    title = f"{model_name(best).capitalize()} has the smallest error"
    if ours and len(rest):
        gain, rival = 1 - table[ours] / rest.min() if rest.min() > 0 else 0.0, the([rest.idxmin()])
        said = f"{percent(abs(gain), 1)} {'better' if gain > 0 else 'worse'} than" if abs(gain) >= 0.0005 else "as good as"
        title = f"The {model_name(ours)} forecast is {said} the best baseline, {rival}"
        if len(same):
            title = f"{sentence(standing(same, use))}: {said} the best of the others, {rival}"
    labels = dated(frame)
    fig, axes = canvas(title, size=(8.2, 0.9 + 0.34 * len(table)))
    ax = axes[0, 0]
    ax.barh(range(len(table)), table, color=[BLUE if m == ours else PALE for m in table.index], height=0.66)
    for row, value in enumerate(table):
        ax.annotate(percent(value, 2), (value, row), xytext=(5, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(table)), [labels.get(m, model_name(m)) for m in table.index])
    ax.set_xlim(0, top_of(table.max(), 1.12))
    trade = trades.of(frame)
    ax.set_xlabel(trade.error if metric == "error" else f"mean {trade.loss}")
    percent_axis(ax.xaxis)
    ax.grid(axis="y", visible=False)
    return fig


@drawn
def skill(frame: pd.DataFrame, use: str | None = None) -> Figure:
    """Skill against each baseline with its interval. frame: baseline, skill, low, high (fractions; above 0 is better).

    Those that tie with what is published are named in the title instead; use: as in ``standing``.
    """
    frame = frame.dropna(subset=["skill"]).sort_values("skill", ascending=False) if len(frame) else frame
    if not len(frame):
        return nothing("No skill to show: there is no baseline that has made an error")
    same = itself(frame)
    own, frame = sentence(standing(frame.loc[same, "baseline"], use)), frame[~same]
    if not len(frame):
        return nothing(f"{own}, and there is no other baseline to compare with")
    proven, worse = frame[frame["low"] > 0], frame[frame["high"] < 0]
    if frame["low"].isna().all():
        title = "Too few origins to tell skill from chance"
    elif len(proven) == len(frame):
        title = (
            f"Better than every {'other ' if own else ''}baseline, beyond chance"
            if len(frame) > 1
            else f"Better than {the(frame['baseline'])}, beyond chance"
        )
    elif len(worse):
        title = f"Worse than {the(worse['baseline'])}"
    else:
        title = f"Not proven better than {the(frame.loc[~(frame['low'] > 0), 'baseline'])}"
    title = f"{own}: {title[0].lower()}{title[1:]}" if own else title
    fig, axes = canvas(title, size=(8.2, 1.0 + 0.38 * len(frame)))
    ax = axes[0, 0]
    for row, item in enumerate(frame.itertuples()):
        colour = BLUE if item.low > 0 else ORANGE if item.high < 0 else GREY
        ax.plot([item.low, item.high], [row, row], color=colour, lw=2.5)
        ax.plot(item.skill, row, "o", color=colour, ms=8)
        text = signed(item.skill, 1) + (f"  ({signed(item.low, 1)} to {signed(item.high, 1)})" if item.low == item.low else "")
        ax.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", color=colour, annotation_clip=False)
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(frame)), [model_name(b) for b in frame["baseline"]])
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.set_xlabel("skill: share of the baseline's quantile score that is saved (90 % interval)")
    percent_axis(ax.xaxis)
    ax.grid(axis="y", visible=False)
    return fig


@drawn
def track_record(frame: pd.DataFrame, trade: Trade = PRICES) -> Figure:
    """What earlier published forecasts said and what came, by the date they were made on; oldest first or not.

    frame: as_of, error, coverage; optional baseline_error, n (points behind a row), size (what the errors are shares of, where
    it is not the same everywhere) and complete (False: some of the dates are still to come; such a point is hollow). Of many
    vintages each is a thin line, and a thick one is their moving mean.
    """
    frame = frame.dropna(subset=["error"]).sort_values("as_of") if len(frame) else frame
    if not len(frame):
        return nothing("No earlier published forecast has met its actuals yet")
    fig, axes = canvas(_track_title(frame), rows=2, size=(8.2, 3.9), sharex=True)
    x = pd.to_datetime(frame["as_of"])
    done = frame["complete"].to_numpy(dtype=bool) if "complete" in frame else np.ones(len(frame), dtype=bool)
    window = len(frame) // 20 if len(frame) > 40 else 1  # vintages in a moving mean

    def line(ax, name, colour, size=6.0):
        y = frame[name].astype(float)
        if window > 1:
            ax.plot(x, y, color=colour, lw=0.8, alpha=0.35)
            y = y.rolling(window, center=True, min_periods=1).mean()
            ax.plot(x, y, color=colour)
        else:
            ax.plot(x, y, color=colour)
            ax.plot(x[done], y[done], "o", color=colour, ms=size)
            ax.plot(x[~done], y[~done], "o", color=colour, ms=size, mfc="white")
        return x.iloc[-1], y.iloc[-1], colour

    error, cover = axes[:, 0]
    shown = [("error", "published", BLUE, 6.0)]
    if "baseline_error" in frame and frame["baseline_error"].notna().any():
        shown.append(("baseline_error", "last value", ORANGE, 4.0))
    ends = [(*line(error, name, colour, size)[:2], text, colour) for name, text, colour, size in shown]
    error.set_ylim(0, np.nanmax(frame[[name for name, *_ in shown]].to_numpy(dtype=float)) * 1.15 or 1)
    end_labels(error, ends)
    error.set_ylabel(f"mean error, share\nof {trade.size}")
    line(cover, "coverage", BLUE)
    cover.axhline(0.9, color=INK, lw=1, ls=(0, (4, 3)))
    low = 0.0 if frame["coverage"].min() < 0.55 else 0.5
    cover.set_ylim(low, 1 + 0.15 * (1 - low))
    cover.set_yticks([low, (low + 1) / 2, 1])
    cover.annotate(
        "promised\n90 %",
        (1, 0.9),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
    )
    cover.set_ylabel("inside the band")
    notes = ["hollow: some dates are still to come"] if window == 1 and not done.all() else []
    notes += [f"thick: mean of {window} forecasts"] if window > 1 else []
    cover.set_xlabel(f"forecast made on{f' ({notes[0]})' if notes else ''}")
    for ax in (error, cover):
        percent_axis(ax.yaxis)
        date_axis(ax, x)
    return fig


def _track_title(frame: pd.DataFrame) -> str:
    """The finding of a track record in words: error against the last value, and coverage."""
    n = frame["n"].to_numpy(dtype=float) if "n" in frame else np.ones(len(frame))
    weights = n * frame["size"].to_numpy(dtype=float) if "size" in frame else n
    count = f"{len(frame):,} earlier forecasts" if len(frame) > 1 else "One earlier forecast"
    part = int((~frame["complete"].astype(bool)).sum()) if "complete" in frame else 0
    some = f" ({part:,} of them only in part)" if len(frame) > 1 else " in part"
    held = percent(np.average(frame["coverage"], weights=n))
    error = np.average(frame["error"], weights=weights)
    title = f"{count} met {'their' if len(frame) > 1 else 'its'} actuals{some if part else ''}: mean error {percent(error, 2)}"
    if "baseline_error" in frame and frame["baseline_error"].notna().all():
        last = np.average(frame["baseline_error"], weights=weights)
        title += f", last value {percent(last, 2)}"
        if len(frame) > 1:
            better = int((frame["error"] < frame["baseline_error"]).sum())
            title += f" (better on {better:,} of {len(frame):,} dates)"
    return f"{title}; {held} inside the 90 % band"
