"""One function a figure: a frame or arrays in, a `Figure` out, its title stating what the data say.

Nothing here touches global state: figures are built on the object API under `STYLE`, show themselves in a notebook
(`_repr_mimebundle_`, no pyplot backend needed) and carry one sentence of alt text in `.alt`, which also travels in the
notebook's output metadata. Actuals are black, intervals are shaded, at most four colours, distinguishable without colour vision
(Okabe and Ito, 2008). Input that holds nothing to draw gives a figure that says so.

Frames are long; what a *backtest* frame holds is said in ``points``.
"""

from __future__ import annotations

import base64
import functools
import io
import textwrap

import matplotlib
import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as _Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from forecastbook import trades
from forecastbook.points import OURS, errors, event, levels
from forecastbook.scores import CHANGED, DUST, slack
from forecastbook.trades import PRICES, Trade
from forecastbook.wording import counted, percent, share1, shorten, signed, span

# DejaVu comes with matplotlib and draws Latin, Greek and Cyrillic; for other scripts, whatever of these the machine has.
SCRIPTS = """Noto Sans CJK KR,Noto Sans CJK JP,Noto Sans CJK SC,Malgun Gothic,Apple SD Gothic Neo,NanumGothic,Hiragino Sans
Yu Gothic,Microsoft YaHei,PingFang SC,Noto Sans Arabic,Noto Sans Hebrew,Noto Sans Devanagari,Noto Sans Thai,Arial Unicode MS"""
FONTS = ["DejaVu Sans", *sorted(set(SCRIPTS.replace("\n", ",").split(",")) & set(font_manager.get_font_names()))]
INK, BLUE, ORANGE, GREEN, GREY, PALE = "#16181d", "#0072b2", "#d55e00", "#009e73", "#6b7280", "#c5cad2"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": FONTS,
    "font.size": 9.5,
    "text.parse_math": False,
    "text.usetex": False,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "axes.facecolor": "white",
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": "#3f4550",
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "grid.linewidth": 0.8,
    "xtick.color": "#3f4550",
    "ytick.color": "#3f4550",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "butt",
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
}
NAMES = {
    "published": "published",
    "lstm": "LSTM",
    "lstm_table": "LSTM + table",
    "blend": "blend of experts",
    "gbm": "boosted trees",
    "tide": "TiDE",
    "table": "counting table",
    "challenger": "challenger",
    "champion": "champion",
    "last_value": "last value",
    "seasonal_naive": "seasonal naive",
    "moving_average": "moving average",
    "historical_quantiles": "historical quantiles",
    "croston_sba": "Croston SBA",
    "tsb": "TSB",
    "imapa": "IMAPA",
    "auto_ets": "AutoETS",
}
COLOURS = {"published": BLUE, "challenger": BLUE, "lstm": BLUE, "blend": BLUE, "champion": GREEN}


CHANGE = f"a change is more than {share1(CHANGED)}"  # what counts as one: wherever changes are counted, it is said
STILL = "No price moved in the record: there is nothing to compare"
MANY = 4  # names of models beside those that matter, at most, at the ends of lines
FAR = 2.0  # times the safe baseline's error: a baseline beyond it is left out of a figure of lines


class Figure(_Figure):
    """A matplotlib figure that shows itself in a notebook and brings its alt text along."""

    alt: str = ""

    def png(self, dpi: int = 170) -> bytes:
        """The picture as PNG bytes; the same figure gives the same bytes."""
        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            FigureCanvasAgg(self)
            self.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
        return out.getvalue()

    def _repr_png_(self) -> str:
        return base64.b64encode(self.png()).decode()

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        data = {"image/png": self._repr_png_(), "text/plain": self.alt or "figure"}
        width, height = (int(x * 100) for x in self.get_size_inches())
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset().union(*(FT2Font(font_manager.findfont(name)).get_charmap() for name in FONTS))


def plain(text: object, limit: int = 38) -> str:
    """A title for display: one line, at most `limit` characters, only glyphs that a font has (others become a box)."""
    line = " ".join(str(text)[: 8 * limit].split())
    line = line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
    return "".join(c if ord(c) in _glyphs() and c.isprintable() else "□" for c in line)


def called(title: object, series_id: object, limit: int = 38) -> str:
    """What an item is called in a figure: its title, or its id where the fonts could draw less than two thirds of the title."""
    tail = f" ({shorten(series_id, 22)})"  # of ``wording.labels``: what is cut is the title, not what tells it from others
    tail = tail if str(title).endswith(tail) else ""
    shown = plain(str(title).removesuffix(tail), max(limit - len(tail), 8))
    return plain(series_id, limit) if 3 * shown.count("□") > len(shown) else f"{shown} {plain(tail)}".rstrip()


def _figure(title: str, alt: str = "", rows: int = 1, cols: int = 1, size: tuple[float, float] = (8.2, 3.4), **kw):
    """A figure with its headline and a (rows, cols) array of axes."""
    fig = Figure(figsize=size, layout="constrained")
    fig.suptitle("\n".join(textwrap.wrap(title, 88)), x=0.008, ha="left", fontsize=11, fontweight="bold", color=INK)
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.06, hspace=0.06, wspace=0.05)
    fig.alt = alt or title
    return fig, fig.subplots(rows, cols, squeeze=False, **kw)


def nothing(message: str) -> Figure:
    """A figure that says why there is nothing to see."""
    fig = Figure(figsize=(8.2, 1.3))
    fig.text(0.5, 0.5, message, ha="center", va="center", color=GREY, fontsize=11)
    fig.alt = message
    return fig


def _figure_function(draw):
    """Draw under STYLE, and make sure that no text is ever read as maths ('$x_1$' is a title)."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            fig = draw(*args, **kwargs)
            for text in fig.findobj(Text):
                text.set_parse_math(False)
            return fig

    return wrapper


def _dates(ax, ts=None, most: int = 6) -> None:
    locator = mdates.AutoDateLocator(minticks=2, maxticks=most)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _day(mdates.num2date(v))))
    if ts is not None and len(ts):
        first, last = pd.Timestamp(min(ts)), pd.Timestamp(max(ts))
        if first == last:
            ax.set_xlim(first - pd.Timedelta(days=3), last + pd.Timedelta(days=3))


def _day(when) -> str:
    return f"{when.day} {when:%b}\n{when.year}"


def _percent_axis(axis, digits: int | None = None) -> None:
    def label(v, _):
        least = next((d for d in range(6) if abs(v * 100 - round(v * 100, d)) < 1e-9), 6)
        return percent(v, digits if digits is not None else least)

    axis.set_major_formatter(FuncFormatter(label))


def _end_labels(ax, ends: list[tuple[float, float, str, str]]) -> None:
    """Direct labels right of the lines: (x, y, text, colour), pushed apart where they would touch."""
    low, high = ax.get_ylim()
    step = (high - low) * 0.075
    ends = sorted(ends, key=lambda e: e[1])
    place = np.array([y for _, y, _, _ in ends])
    for _ in range(200):  # a few labels: pairs that touch give way by half each
        short = np.maximum(step - np.diff(place), 0) / 2
        if not short.max(initial=0) > step * 0.01:
            break
        place[1:] += short
        place[:-1] -= short
    for (x, _, text, colour), y in zip(ends, place, strict=True):
        ax.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False)


def name(model: str) -> str:
    """The readable name of a model."""
    return NAMES.get(model, plain(str(model).replace("_", " ")))


def the(models) -> str:
    """Models as a sentence names them: 'the last value', 'IMAPA', 'the last value and the counting table'."""
    return " and ".join(n if n[:1].isupper() else f"the {n}" for n in map(name, models))


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
    """(n,) bool: which rows of ``scoreboard.skills`` compare what is published with itself: a baseline that is published.

    Its bands may have been widened at an origin, so a skill that is shown as 0.0 % with its whole interval counts.
    """
    off = skill[["skill", "low", "high"]].abs()
    return (off < 0.0005).all(axis=1) | (off["low"].isna() & (off["skill"] < DUST))


def dated(frame: pd.DataFrame) -> dict[str, str]:
    """Readable names of the models of a backtest; behind one that was not there at every date, at how many it was."""
    if "origin" not in frame:
        return {m: name(m) for m in frame["model"].unique()}
    dates, all_ = frame.groupby("model", observed=True)["origin"].nunique(), frame["origin"].nunique()
    return {m: name(m) + (f" ({n} of {all_} dates)" if n < all_ else "") for m, n in dates.items()}


def still(frame: pd.DataFrame) -> bool:
    """Whether the last price was right at every point of a backtest, scored or not, and sure of it: nobody can be better."""
    scored = errors(frame)
    theirs = scored.loc[scored["model"] == PRICES.safe, ["error", "loss"]]
    return trades.of(scored) is PRICES and len(theirs) > 0 and theirs.max(axis=None) < DUST


def _top(highest: float, room: float) -> float:
    """Where an axis of errors ends: with room above the highest; at 100 % where that is nothing, or the dust of a sum."""
    return highest * room if highest > 1e-9 else 1.0


def _rank(models) -> list[str]:
    """Baselines first and ours last, so that ours is drawn on top."""
    return sorted(models, key=lambda m: (m in OURS, m in COLOURS or m == _safe(models), str(m)))


def _ours(models) -> str | None:
    return next((m for m in OURS if m in set(models)), None)


def _safe(models) -> str | None:
    """The baseline that a reader compares with: IMAPA where it is there, else the last value; None where neither is."""
    return next((t.safe for t in (trades.SALES, PRICES) if t.safe in set(models)), None)


def _colour(model: str, ours: str | None, safe: str | None) -> str:
    """Colour for what the reader compares, pale for the rest."""
    if model == safe:
        return ORANGE
    return COLOURS.get(model, PALE) if model in (ours, "champion") else PALE


def _history(ax, y: pd.Series) -> None:
    """Observed prices as black steps; over days without an observation a pale line carries the last price."""
    ax.step(y.index, y.ffill(), where="post", color=PALE, lw=1.1)
    ax.step(y.index, y, where="post", color=INK, lw=1.4)
    alone = y.notna() & y.shift().isna() & y.shift(-1).isna()  # a day between two gaps has no line: show it as a dot
    ax.plot(y.index[alone], y[alone], ".", color=INK, ms=2.5)


@_figure_function
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
    unit = period_name(freq)
    title = f"{who} changed in {changed} of observed {unit}; {percent(max(gap, 0))} of {unit} have no observation ({CHANGE})"
    if trade is trades.SALES:
        silent = np.mean(np.concatenate([g["y"].dropna() for g in groups.values()]) == 0)
        whose = "this item" if len(groups) == 1 else f"these {len(groups)} items"
        title = f"In {percent(silent)} of the periods of {whose} nothing was sold"
    cols = min(3, len(groups))
    rows = -(-len(groups) // cols)
    fig, axes = _figure(title, rows=rows, cols=cols, size=(8.2, 0.6 + 1.75 * rows), sharex=True)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    for ax, (key, group), times in zip(axes.flat, groups.items(), days, strict=False):
        y = group.drop_duplicates("ts", keep="last").set_index("ts")["y"].reindex(times)
        _history(ax, y)
        ax.set_title(called(group["title"].iloc[-1] if "title" in group else key, key, 30))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.margins(y=0.15)
        _dates(ax, times, most=4)
    for ax in axes[:, 0]:
        ax.set_ylabel(trade.unit)
    return fig


@_figure_function
def spells(lengths, unit: str = "days") -> Figure:
    """How long a price lasts. lengths: array of spell lengths in days, each ≥ 1; log axis, median labelled."""
    x = np.asarray(lengths, dtype=float).ravel()
    x = x[np.isfinite(x) & (x > 0)]
    if not len(x):
        return nothing("No completed price spells: no price has changed yet")
    median, long = np.median(x), np.quantile(x, 0.9)
    half = span(round(median), unit)
    title = f"Half of all prices last {half} or less, one in ten lasts longer than {long:.0f}"
    alt = f"Histogram of {counted(len(x), 'price spell')} on a logarithmic axis; median {half}."
    fig, axes = _figure(title, alt, size=(8.2, 3.1))
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
    _percent_axis(ax.yaxis)
    ax.grid(axis="x", visible=False)
    return fig


@_figure_function
def coverage_over_time(frame: pd.DataFrame, freq: str = "D") -> Figure:
    """Number of series observed in each period. frame: series_id, ts, y."""
    seen = frame.dropna(subset=["y"]) if len(frame) else frame
    if not len(seen):
        return nothing("No observations in the window")
    daily = seen.groupby("ts")["series_id"].nunique()
    daily = daily.reindex(pd.date_range(daily.index.min(), daily.index.max(), freq=freq), fill_value=0)
    total, typical = frame["series_id"].nunique(), daily.median()
    one = period_name(freq).removesuffix("s")
    title = f"In a typical {one} {typical:,.0f} of {total:,} series are observed ({percent(typical / total)})"
    fig, axes = _figure(title, size=(8.2, 2.7))
    ax = axes[0, 0]
    ax.fill_between(daily.index, daily, step="mid", color=PALE, lw=0)
    ax.step(daily.index, daily, where="mid", color=INK, lw=0.9)
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
    _dates(ax, daily.index)
    return fig


def _ranges(spans) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """(start, end), or several of them, or an array of dates."""
    if spans is None or not len(spans):
        return []
    if isinstance(spans[0], (tuple, list)):
        return [(pd.Timestamp(a), pd.Timestamp(b)) for a, b in spans]
    return [(pd.Timestamp(min(spans)), pd.Timestamp(max(spans)))]


@_figure_function
def splits(train, validation, test) -> Figure:
    """Where the dates fall. Each argument: (first, last), a list of such pairs, an array of dates, or None."""
    lanes = {"train": (_ranges(train), GREY), "validation": (_ranges(validation), BLUE), "test": (_ranges(test), ORANGE)}
    lanes = {k: v for k, v in lanes.items() if v[0]}
    if not lanes:
        return nothing("No dates to split")
    ends = {k: (min(a for a, _ in v[0]), max(b for _, b in v[0])) for k, v in lanes.items()}
    order = list(ends)
    late = all(ends[a][1] < ends[b][0] for a, b in zip(order, order[1:], strict=False))
    said = "The search never sees a date that it is later tested on" if late else "Caution: the date ranges overlap"
    fig, axes = _figure(
        said,
        "Bars on a time line: " + "; ".join(f"{k} {a:%Y-%m-%d} to {b:%Y-%m-%d}" for k, (a, b) in ends.items()) + ".",
        size=(8.2, 0.9 + 0.5 * len(lanes)),
    )
    ax = axes[0, 0]
    for row, (label, (spans, colour)) in enumerate(lanes.items()):
        for first, last in spans:
            ax.barh(row, last - first + pd.Timedelta(days=1), left=first, height=0.5, color=colour)
        days = sum((b - a).days + 1 for a, b in spans)
        text = f"{ends[label][0]:%-d %b %Y} – {ends[label][1]:%-d %b %Y}, {counted(days, 'day')}"
        middle = (
            ends[label][0]
            > min(a for a, _ in ends.values()) + (max(b for _, b in ends.values()) - min(a for a, _ in ends.values())) / 2
        )
        where, shift, align = (ends[label][0], -6, "right") if middle else (ends[label][1], 8, "left")
        inside = not middle and row == 0
        where, shift, colour = (ends[label][0], 6, "white") if inside else (where, shift, INK)
        ax.annotate(text, (where, row), xytext=(shift, 0), textcoords="offset points", va="center", ha=align, color=colour)
    ax.set_yticks(range(len(lanes)), list(lanes))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    _dates(ax)
    return fig


@_figure_function
def trials(frame: pd.DataFrame, references: dict[str, float] | None = None, metric: str = "relative quantile score") -> Figure:
    """Score of each trial and the best so far. frame: score (lower is better), in order; references: name → score."""
    score = frame["score"].to_numpy(float) if len(frame) else np.empty(0)
    done = np.isfinite(score)
    if not done.any():
        return nothing("No trial has finished")
    number = np.arange(1, len(score) + 1)
    best = np.minimum.accumulate(np.where(done, score, np.inf))
    winner = int(np.nanargmin(np.where(done, score, np.nan)))
    failed = f"; {np.sum(~done)} did not finish" if not done.all() else ""
    title = f"Trial {winner + 1} of {len(score)} is the best, at {score[winner]:.4g}{failed}"
    fig, axes = _figure(title, size=(8.2, 3.1))
    ax = axes[0, 0]
    ax.plot(number[done], score[done], "o", color=PALE, ms=6, mec="white")
    ax.step(number[np.isfinite(best)], best[np.isfinite(best)], where="post", color=BLUE)
    ax.plot(number[winner], score[winner], "o", color=BLUE, ms=8)
    ends = [(number[-1], best[-1], "best so far", BLUE)]
    for label, value in (references or {}).items():
        if np.isfinite(value):
            ax.axhline(value, color=GREY, lw=1, ls=(0, (4, 3)))
            ends.append((number[-1], value, plain(name(label)), GREY))
    ax.set_xlim(0.5, len(score) + 0.5)
    ax.margins(y=0.12)
    _end_labels(ax, ends)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("trial, in order of start")
    ax.set_ylabel(f"{metric}\n(lower is better)")
    return fig


@_figure_function
def losses(history, step: str = "step") -> Figure:
    """Training and validation loss. history: frame or list of dicts with step (or epoch), train, validation (NaN allowed)."""
    frame = pd.DataFrame(history)
    step = next((c for c in (step, "step", "epoch") if c in frame), None)
    parts = {c: frame[[step, c]].dropna() for c in ("train", "validation") if step and c in frame}
    parts = {c: p for c, p in parts.items() if len(p)}
    if not parts:
        return nothing("No loss was recorded: nothing was trained")
    judged = parts.get("validation", parts.get("train"))
    which = "Validation" if "validation" in parts else "Training"
    best = judged.loc[judged.iloc[:, 1].idxmin()]
    title = f"{which} loss was lowest at {step} {best[step]:,.0f} ({best.iloc[1]:.4g}); "
    title += f"training went on to {step} {frame[step].max():,.0f}"
    fig, axes = _figure(title, size=(8.2, 3.1))
    ax = axes[0, 0]
    ends = []
    for label, colour in {"train": GREY, "validation": BLUE}.items():
        if label in parts:
            x, y = parts[label].to_numpy(float).T
            ax.plot(x, y, color=colour, marker="o" if len(x) < 40 else None, ms=3.5)
            ends.append((x[-1], y[-1], {"train": "training", "validation": "validation"}[label], colour))
    ax.plot(best[step], best.iloc[1], "o", ms=9, mfc="white", mec=INK, mew=1.5)
    ax.annotate("best", (best[step], best.iloc[1]), xytext=(0, 10), textcoords="offset points", ha="center")
    ax.margins(y=0.15)
    _end_labels(ax, ends)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel(step)
    ax.set_ylabel("loss (lower is better)")
    return fig


@_figure_function
def errors_by_origin(frame: pd.DataFrame, metric: str = "loss", trade: Trade = PRICES) -> Figure:
    """Quantile score at each origin. frame: a backtest, or aggregated with the columns model, origin, value."""
    table = _by(frame, metric, "origin")
    if table.empty:
        return nothing("No origin has met its actuals yet")
    if trade is PRICES and table.max(axis=None) < DUST:
        return nothing(STILL)
    ours, models, safe = _ours(table.columns), _rank(table.columns), _safe(table.columns)
    rivals = [m for m in ("champion", safe) if m in table and m != ours] or [m for m in models if m != ours]
    if ours and rivals:
        wins = int((table[ours] < table[rivals[-1]]).sum())
        title = f"The {name(ours)} forecast beats {name(rivals[-1])} at {wins} of {counted(len(table), 'origin')}"
    else:
        title = f"Quantile score at {counted(len(table), 'origin')}"
    fig, axes = _figure(title, size=(8.2, 3.2))
    ax = axes[0, 0]
    x = pd.to_datetime(table.index)
    for model in models:
        main = (colour := _colour(model, ours, safe)) != PALE
        ax.plot(x, table[model], "o-", color=colour, ms=4.5 if main else 2.5, lw=2 if main else 1)
    ax.set_ylim(0, np.nanmax(table.to_numpy()) * 1.12 or 1)
    colours = {m: GREY if _colour(m, ours, safe) == PALE else _colour(m, ours, safe) for m in models}
    _end_labels(ax, [(x[-1], table[m].dropna().iloc[-1], name(m), colours[m]) for m in models if table[m].notna().any()])
    ax.set_xlabel("forecast made on")
    ax.set_ylabel(
        "quantile score / last price\n(lower is better)" if trade is PRICES else "quantile score, units\n(lower is better)"
    )
    if trade is PRICES:
        _percent_axis(ax.yaxis)
    _dates(ax, x)
    return fig


def _fan(ax, past: pd.DataFrame, ahead: pd.DataFrame, colour: str, freq: str) -> None:
    """History as black steps, then median and shaded bands; the two are told apart by a line at the as-of day."""
    span = pd.date_range(past["ts"].min(), ahead["ts"].min(), freq=freq, inclusive="left") if len(past) else []
    if len(span):
        y = past.drop_duplicates("ts", keep="last").set_index("ts")["y"].reindex(span)
        _history(ax, y)
    last = ahead["ts"].max()
    edges = [*ahead["ts"], pd.date_range(last, periods=2, freq=freq)[-1]]  # a period's value holds for all of it

    def held(column: str) -> np.ndarray:
        return np.append(ahead[column].to_numpy(float), ahead[column].iloc[-1])

    for low, high, alpha in (("q05", "q95", 0.18), ("q25", "q75", 0.32)):
        if low in ahead and high in ahead:
            ax.fill_between(edges, held(low), held(high), step="post", color=colour, alpha=alpha, lw=0)
    ax.step(edges, held("q50"), where="post", color=colour, lw=2.2)
    ax.axvline(ahead["ts"].min(), color=GREY, lw=0.8, ls=(0, (2, 2)))


def period_name(freq: str) -> str:
    """What periods of a pandas frequency are called: 'days', 'weeks', 'months', 'quarters', else 'periods'."""
    return {"D": "days", "W": "weeks", "M": "months", "Q": "quarters"}.get(freq[:1], "periods")


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


@_figure_function
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
    fig, axes = _figure(
        title,
        f"{title}. History in black, median in blue, bands for 50 % and 90 %.",
        rows,
        cols,
        size=(8.2, 0.7 + (2.9 if rows == 1 else 2.15 * rows)),
        sharex=True,
    )
    for number, (ax, key) in enumerate(zip(axes.flat, ids, strict=False)):
        ahead = forecast[forecast["series_id"] == key].sort_values("ts").assign(ts=lambda f: pd.to_datetime(f["ts"]))
        past = history[history["series_id"] == key].sort_values("ts").assign(ts=lambda f: pd.to_datetime(f["ts"]))
        since = pd.date_range(end=ahead["ts"].min(), periods=periods + 1, freq=freq)[0]
        past = past[(past["ts"] >= since) & (past["ts"] < ahead["ts"].min())]
        _fan(ax, past, ahead, BLUE, freq)
        title = past["title"].iloc[-1] if "title" in past and len(past) else key
        label = f"\n{plain(labels[number], 44)}" if labels is not None and number < len(labels) else ""
        ax.set_title(called(title, key, 44 if cols < 3 else 26) + label)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.margins(x=0.01, y=0.15)
        if np.ptp(ax.dataLim.intervaly) < 1e-9:
            ax.set_ylim(ax.dataLim.y0 * 0.9 - 0.01, ax.dataLim.y0 * 1.1 + 0.01)
        _dates(ax, most=4)
    for ax in axes[:, 0]:
        ax.set_ylabel(trade.unit)
    for ax in axes.flat[len(ids) :]:
        ax.set_visible(False)
    first = axes.flat[0]
    for text, style in {"actual": INK, "median": BLUE, "50 % and 90 % band": "#8fbbd9"}.items():
        first.plot([], [], color=style, lw=2 if style != "#8fbbd9" else 7, label=text)
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    return fig


@_figure_function
def moves(frame: pd.DataFrame, top: int = 12) -> Figure:
    """The prices likeliest to differ at the end. frame: a forecast, with last_value, p_change, p_up, and title (optional)."""
    frame = frame.dropna(subset=["p_change"]) if "p_change" in frame else frame.iloc[:0]
    if not len(frame):
        return nothing("No forecast says how likely a change is")
    frame = frame.sort_values("horizon").groupby("series_id", observed=True).tail(1) if "horizon" in frame else frame
    likely = int((frame["p_change"] > 0.5).sum())
    which = f"{likely:,} of {counted(len(frame), 'price')} {'is' if likely == 1 else 'are'}"
    title = f"{which} more likely than not to differ from today's at the end of the horizon"
    best = frame.nlargest(top, "p_change").iloc[::-1]
    fig, axes = _figure(title, size=(8.2, 1.1 + 0.27 * len(best)))
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
    ax.set_yticks(range(len(best)), [called(getattr(i, "title", i.series_id), i.series_id, 34) for i in best.itertuples()])
    ax.set_xlim(0, 1)
    _percent_axis(ax.xaxis)
    ax.set_xlabel(f"probability that the price differs from today's at the end of the horizon ({CHANGE})")
    ax.grid(axis="y", visible=False)
    return fig


def looks(importance: pd.DataFrame, weights) -> Figure:
    """What the experts look at: ``attention`` where there are weights, else ``importance``."""
    return attention(weights) if np.size(weights) else features(importance)


@_figure_function
def features(importance: pd.DataFrame, top: int = 10) -> Figure:
    """Which features the trees split on. importance: feature, share of the loss saved (fractions), most first."""
    if importance.empty:
        return nothing("No trees were grown")
    first = importance.head(top)
    lead = ", ".join(str(f).replace("_", " ") for f in first["feature"].head(3))
    fig, axes = _figure(f"The trees look first at {lead}", size=(8.2, 0.9 + 0.27 * len(first)))
    ax = axes[0, 0]
    ax.barh(range(len(first)), first["share"], color=[BLUE] * 3 + [PALE] * (len(first) - 3), height=0.66)
    ax.set_yticks(range(len(first)), [str(f).replace("_", " ") for f in first["feature"]])
    ax.invert_yaxis()
    _percent_axis(ax.xaxis)
    ax.set_xlabel("share of the loss that its splits saved")
    ax.grid(axis="y", visible=False)
    return fig


@_figure_function
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
    fig, axes = _figure(title, size=(8.2, 2.7))
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
    _percent_axis(ax.yaxis)
    return fig


def _ahead(horizons, unit: str) -> str:
    """Which horizons were tested: '7 days ahead', '1 to 7 days ahead', '3 of the first 14 days ahead'."""
    first, last, n = min(horizons), max(horizons), len(horizons)
    if n == 1:
        return f"{span(last, unit)} ahead"
    return f"{first} to {last} {unit} ahead" if n == last - first + 1 else f"{n} of the first {last} {unit} ahead"


def _whole_ticks(ax, x) -> None:
    """Ticks at whole numbers only, also where there are one or two points."""
    if len(x) <= 10:
        ax.set_xticks(list(x))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    if len(x) == 1:
        ax.set_xlim(x[0] - 1, x[0] + 1)


@_figure_function
def error_by_horizon(frame: pd.DataFrame, metric: str | None = None, unit: str = "days") -> Figure:
    """Mean error by days ahead. frame: a backtest, or aggregated with model, horizon, value (fractions of the last price)."""
    metric = metric or trades.of(frame).metric
    table = _by(frame, metric, "horizon")
    if table.empty:
        return nothing("No forecast has met its actuals yet")
    if trades.of(frame) is PRICES and table.max(axis=None) < DUST:
        return nothing(STILL)
    ours, models, safe, trade = _ours(table.columns), _rank(table.columns), _safe(table.columns), trades.of(frame)
    if ours and safe:
        gain = 1 - table[ours].mean() / table[safe].mean() if table[safe].mean() > 0 else 0.0
        against = trade.safe_words
        said = f"{percent(abs(gain), 1)} {'below' if gain > 0 else 'above'} that of {against}"
        what = "error" if metric == "error" else "quantile score"
        title = f"The {name(ours)} {what} is {said if abs(gain) >= 0.0005 else f'the same as that of {against}'}"
        title += f", {_ahead(table.index, unit)}" if table.index.max() > 1 else ""
    else:
        title = f"Error, {_ahead(table.index, unit)}"
    if safe and (far := [m for m in models if m not in OURS and table[m].mean() > FAR * table[safe].mean()]):
        models = [m for m in models if m not in far]  # they would press the others together
        table = table[models]
    fig, axes = _figure(title, size=(8.2, 3.2))
    ax = axes[0, 0]
    for model in models:
        main = (colour := _colour(model, ours, safe)) != PALE
        ax.plot(table.index, table[model], "o-", color=colour, ms=4.5 if main else 2.5, lw=2 if main else 1)
    ax.set_ylim(0, _top(np.nanmax(table.to_numpy()), 1.1))
    ends, x = table.ffill().iloc[-1].dropna(), table.index[-1]
    colours = {m: _colour(m, ours, safe) for m in models if m in ends.index}
    pale = [m for m, colour in colours.items() if colour == PALE]
    labels = [(x, ends[m], name(m), colour) for m, colour in colours.items() if colour != PALE]
    if len(pale) > MANY:  # so many names would stand far from their lines
        labels.append((x, ends[pale].max(), "other candidates", GREY))
    else:
        labels += [(x, ends[m], name(m), GREY) for m in pale]
    _end_labels(ax, labels)
    _whole_ticks(ax, table.index)
    ax.set_xlabel(f"{unit} ahead")
    ax.set_ylabel(trade.error if metric == "error" else trade.loss)
    _percent_axis(ax.yaxis)
    return fig


@_figure_function
def accuracy(frame: pd.DataFrame, metric: str | None = None, same=()) -> Figure:
    """One bar a model, the best on top. frame: a backtest, or aggregated with the columns model, value.

    same: baselines whose forecasts are what is published; it is compared with the others.
    """
    metric = metric or trades.of(frame).metric
    table = _means(frame, metric, "model").sort_values(ascending=False)
    if table.empty:
        return nothing("No forecast has met its actuals yet")
    if "value" not in frame and still(frame) and table.max() < 1e-9:
        return nothing(STILL)
    ours, best = _ours(table.index), table.index[-1]
    rest = table.drop([m for m in (*OURS, *same) if m in table])
    if ours and len(same) and len(rest):
        gain = 1 - table[ours] / rest.min() if rest.min() > 0 else 0.0
        said = f"{percent(abs(gain), 1)} {'better' if gain > 0 else 'worse'} than" if abs(gain) >= 0.0005 else "as good as"
        title = f"What is published is {the(same)} itself: {said} the best of the others, {name(rest.idxmin())}"
    elif ours and len(rest):
        gain = 1 - table[ours] / rest.min() if rest.min() > 0 else 0.0
        said = f"{percent(abs(gain), 1)} {'better' if gain > 0 else 'worse'} than" if abs(gain) >= 0.0005 else "as good as"
        title = f"The {name(ours)} forecast is {said} the best baseline, {name(rest.idxmin())}"
    else:
        title = f"{name(best).capitalize()} has the smallest error"
    labels = dated(frame)
    fig, axes = _figure(title, size=(8.2, 0.9 + 0.34 * len(table)))
    ax = axes[0, 0]
    ax.barh(range(len(table)), table, color=[BLUE if m == ours else PALE for m in table.index], height=0.66)
    for row, value in enumerate(table):
        ax.annotate(percent(value, 2), (value, row), xytext=(5, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(table)), [labels.get(m, name(m)) for m in table.index])
    ax.set_xlim(0, _top(table.max(), 1.12))
    trade = trades.of(frame)
    ax.set_xlabel(trade.error if metric == "error" else f"mean {trade.loss}")
    _percent_axis(ax.xaxis)
    ax.grid(axis="y", visible=False)
    return fig


@_figure_function
def calibration(frame: pd.DataFrame, model: str = "published") -> Figure:
    """Promised quantile against the share of actuals below it, on all periods and, without a promise, where the event came.

    frame: a backtest, whose rows of `model` are shown.

    Posted prices tie with their quantiles, so each level has a bar from 'strictly below' to 'at or below': an honest
    forecast's bar touches the diagonal on all periods.
    """
    frame = frame[frame["model"] == model] if "model" in frame and len(frame) else frame
    scored = errors(frame) if len(frame) else frame
    if not len(scored):
        return nothing("No forecast has met its actuals yet")
    rows, quantiles = frame.loc[scored.index], levels(frame)
    trade = trades.of(scored)
    groups = {"all periods": np.ones(len(rows), bool), trade.with_event: event(scored).to_numpy()}
    held = scored["inside90"].mean() if "inside90" in scored else np.nan
    fig, axes = _figure(
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
        _percent_axis(ax.xaxis)
        _percent_axis(ax.yaxis)
        ax.set_xlabel("quantile promised")
    if trade is PRICES:
        axes[0, 1].set_xlabel(f"quantile promised ({CHANGE})")
    axes[0, 0].set_ylabel(f"share of actual {trade.things}\nbelow … at or below it")
    return fig


@_figure_function
def band_width(frame: pd.DataFrame, model: str = "published") -> Figure:
    """Mean width of the central bands by horizon, as a share of the last price. frame: a backtest; rows of `model` count."""
    mine = frame[frame["model"] == model] if len(frame) else frame
    mine = mine[mine["last_value"] > 0] if len(mine) else mine
    bands = {promised: ends for promised, ends in {0.9: ("q05", "q95"), 0.5: ("q25", "q75")}.items() if set(ends) <= set(mine)}
    if not len(mine) or not bands:
        return nothing("No band has been forecast yet")
    lines = {
        promised: ((mine[high] - mine[low]) / mine["last_value"]).groupby(mine["horizon"]).mean()
        for promised, (low, high) in bands.items()
    }
    width = lines[max(lines)]
    ahead = f"{span(width.index[-1], 'periods')} ahead"
    title = f"The {percent(max(lines))} band is {percent(width.iloc[-1], 1)} of the price wide {ahead}"
    if 0.5 in lines and len(lines) > 1:
        title += f", the 50 % band {percent(lines[0.5].iloc[-1], 1)}"
    fig, axes = _figure(title, size=(8.2, 2.8))
    ax = axes[0, 0]
    for promised, line in lines.items():
        ax.plot(line.index, line, "o-", color=BLUE if promised == max(lines) else GREY)
    ax.set_ylim(0, _top(width.max(), 1.15))
    _end_labels(
        ax, [(w.index[-1], w.iloc[-1], f"{percent(p)} band", BLUE if p == max(lines) else GREY) for p, w in lines.items()]
    )
    _whole_ticks(ax, width.index)
    ax.set_xlabel("periods ahead")
    ax.set_ylabel("mean width / last price")
    _percent_axis(ax.yaxis)
    return fig


@_figure_function
def skill(frame: pd.DataFrame) -> Figure:
    """Skill against each baseline with its interval. frame: baseline, skill, low, high (fractions; above 0 is better)."""
    frame = frame.dropna(subset=["skill"]).sort_values("skill", ascending=False) if len(frame) else frame
    if not len(frame):
        return nothing("No skill to show: there is no baseline that has made an error")
    same = itself(frame)
    own, frame = the(frame.loc[same, "baseline"]), frame[~same]
    if not len(frame):
        return nothing(f"What is published is {own} itself, and there is no other baseline to compare with")
    proven, worse = frame[frame["low"] > 0], frame[frame["high"] < 0]
    if len(proven) == len(frame):
        title = (
            f"Better than every {'other ' if own else ''}baseline, beyond chance"
            if len(frame) > 1
            else f"Better than {name(frame['baseline'].iloc[0])}, beyond chance"
        )
    elif len(worse):
        title = f"Worse than {', '.join(map(name, worse['baseline']))}"
    else:
        open_ = [name(b) for b in frame.loc[~(frame["low"] > 0), "baseline"]]
        title = f"Not proven better than {', '.join(open_)}"
    title = f"{own[0].upper()}{own[1:]} itself is published: {title[0].lower()}{title[1:]}" if own else title
    fig, axes = _figure(title, size=(8.2, 1.0 + 0.38 * len(frame)))
    ax = axes[0, 0]
    for row, item in enumerate(frame.itertuples()):
        colour = BLUE if item.low > 0 else ORANGE if item.high < 0 else GREY
        ax.plot([item.low, item.high], [row, row], color=colour, lw=2.5)
        ax.plot(item.skill, row, "o", color=colour, ms=8)
        text = f"{signed(item.skill, 1)}  ({signed(item.low, 1)} to {signed(item.high, 1)})"
        ax.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", color=colour, annotation_clip=False)
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(frame)), [name(b) for b in frame["baseline"]])
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.set_xlabel("skill: share of the baseline's quantile score that is saved (90 % interval)")
    _percent_axis(ax.xaxis)
    ax.grid(axis="y", visible=False)
    return fig


@_figure_function
def changed_unchanged(frame: pd.DataFrame, model: str = "published", against: str = "last_value") -> Figure:
    """Error and band coverage where the price changed and where it did not. frame: a backtest."""
    scored = errors(frame) if len(frame) else pd.DataFrame()
    mine = scored[scored["model"] == model] if len(scored) else scored
    if not len(mine):
        return nothing("No forecast has met its actuals yet")
    kinds = {"unchanged": mine["changed"] == False, "changed": mine["changed"] == True}  # noqa: E712
    share = percent(kinds["changed"].mean(), 1)
    held = mine.loc[kinds["changed"], "inside90"].mean()
    title = (
        f"{share} of actual prices had changed; the 90 % band held {percent(held)} of those"
        if kinds["changed"].any()
        else "No price changed in the backtest: only stillness was tested"
    )
    fig, axes = _figure(title, cols=2, size=(8.2, 2.5))
    other = scored[scored["model"] == against]
    error, cover = axes.flat
    for row, (kind, mask) in enumerate(kinds.items()):
        theirs = other.loc[other["changed"] == (kind == "changed"), "error"].mean()
        for shift, value, colour in ((-0.19, mine.loc[mask, "error"].mean(), BLUE), (0.19, theirs, ORANGE)):
            if np.isfinite(value):
                error.barh(row + shift, value, height=0.34, color=colour)
                text = f"{percent(value, 2)}  {name(model if colour == BLUE else against)}"
                error.annotate(text, (value, row + shift), xytext=(4, 0), textcoords="offset points", va="center", color=colour)
        value = mine.loc[mask, "inside90"].mean()
        if np.isfinite(value):
            cover.barh(row, value, height=0.5, color=BLUE)
            start, colour = (0, "white") if value > 0.25 else (value, BLUE)  # left of the line of the promise
            cover.annotate(percent(value), (start, row), xytext=(6, 0), textcoords="offset points", va="center", color=colour)
    error.set_xlim(0, _top(error.dataLim.x1, 2.0))  # the names stand right of the bars
    error.set_xlabel("mean |error| / last price")
    cover.axvline(0.9, color=INK, lw=1, ls=(0, (4, 3)))
    over = "promised over both: 90 %"
    cover.annotate(over, (0.9, 1), xycoords=("data", "axes fraction"), ha="right", va="bottom", fontsize=9)
    cover.set_xlim(0, 1)
    cover.set_xlabel(f"share inside the 90 % band\n({CHANGE})")
    for ax in axes.flat:
        _percent_axis(ax.xaxis)
        ax.set_yticks([0, 1], [f"{k}\n{counted(int(m.sum()), 'forecast')}" for k, m in kinds.items()])
        ax.set_ylim(1.5, -0.5)
        ax.grid(axis="y", visible=False)
    cover.tick_params(labelleft=False)
    return fig


@_figure_function
def track_record(frame: pd.DataFrame, trade: Trade = PRICES) -> Figure:
    """What earlier published forecasts said and what came, by the date they were made on; oldest first or not.

    frame: as_of, error, coverage; optional baseline_error, n (points behind a row), size (what the errors are shares of, where
    it is not the same everywhere) and complete (False: some of the dates are still to come; such a point is hollow). Of many
    vintages each is a thin line, and a thick one is their moving mean.
    """
    frame = frame.dropna(subset=["error"]).sort_values("as_of") if len(frame) else frame
    if not len(frame):
        return nothing("No earlier published forecast has met its actuals yet")
    fig, axes = _figure(_track_title(frame), rows=2, size=(8.2, 3.9), sharex=True)
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
    _end_labels(error, ends)
    error.set_ylabel(f"error / {trade.size}")
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
        _percent_axis(ax.yaxis)
        _dates(ax, x)
        if x.iloc[-1] - x.iloc[0] < pd.Timedelta(days=6):
            ax.set_xticks(x)  # else hours
    return fig


def _track_title(frame: pd.DataFrame) -> str:
    """The finding of a track record in words: error against the last value, and coverage."""
    n = frame["n"].to_numpy(dtype=float) if "n" in frame else np.ones(len(frame))
    weights = n * frame["size"].to_numpy(dtype=float) if "size" in frame else n
    count = f"{len(frame):,} earlier forecasts" if len(frame) > 1 else "One earlier forecast"
    held = percent(np.average(frame["coverage"], weights=n))
    error = np.average(frame["error"], weights=weights)
    title = f"{count} met {'their' if len(frame) > 1 else 'its'} actuals: mean error {percent(error, 1)}"
    if "baseline_error" in frame and frame["baseline_error"].notna().all():
        last = np.average(frame["baseline_error"], weights=weights)
        title += f", last value {percent(last, 1)}"
        if len(frame) > 1:
            better = int((frame["error"] < frame["baseline_error"]).sum())
            title += f" (better on {better:,} of {len(frame):,} dates)"
    return f"{title}; {held} inside the 90 % band"


def embed(fig: Figure) -> str:
    """The figure as a `data:` URI for an HTML page."""
    return "data:image/png;base64," + base64.b64encode(fig.png()).decode()
