"""Figures of sales: the kinds of demand, what to reorder, and whether a promised service is kept, and at what stock.

The house style and its rules are those of ``figures``; a *backtest* frame is said in ``points``, for sales it has p_sale too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter

from forecastbook.counts import ADI, CLASSES, CV2
from forecastbook.points import ENOUGH, levels
from forecastbook.reorder import reorder as to_order
from forecastbook.reorder import saved, stock_cost, upper
from forecastbook.style import BLUE, GREY, INK, ORANGE, PALE, UNMET, Figure, canvas, drawn, names, nothing, percent_axis
from forecastbook.trades import SALES
from forecastbook.wording import counted, model_name, share0, span

HABITS = {  # of each class of demand
    "smooth": "sell steadily",
    "erratic": "sell often, in uneven amounts",
    "intermittent": "sell now and then, in even amounts",
    "lumpy": "sell now and then, in uneven amounts",
    "silent": "have not sold yet",
}
SLACK = 0.02  # a share that is off by no more than this is as promised
NOISY = 0.1  # noise of a half from which a sample is too small to tell anything
BARS = 10  # of the histogram of where sales fell
READING = (  # of ``pit``
    "Where all bars are of one height, every quantile keeps its promise: as many actuals fell below as it says. Counts tie "
    "with their quantiles, so what is drawn is their probability, spread at random over the tie. A band holds more of them "
    "than it promises: what lies on its edge, as most zeros do, is inside."
)
DASHED = (0, (4, 3))


@drawn
def demand_map(series: pd.DataFrame, units: str = "periods") -> Figure:
    """How often items sell against how much the amounts vary. series: interval (periods), cv2, demand_class; units: of a
    period.
    """
    kinds = series["demand_class"].astype(str) if len(series) else pd.Series(dtype=str)
    kinds = kinds[kinds.isin(CLASSES)]
    share = kinds.value_counts(normalize=True).reindex(CLASSES, fill_value=0.0)
    if not share.sum():
        return nothing("No item has a known demand yet")
    most = share.idxmax()
    title = f"{share0(share[most])} of {counted(len(kinds), 'item')} {HABITS[most]}"
    if len(kinds) == 1:
        title = f"The one item {HABITS[most].replace('sell ', 'sells ').replace('have ', 'has ')}"
    title += f"; {share0(share['silent'])} have not sold yet" if share["silent"] and most != "silent" else ""
    x, y = series["interval"].to_numpy(float), series["cv2"].to_numpy(float)
    seen = np.isfinite(x) & np.isfinite(y) & (x > 0)
    x, y = x[seen], np.maximum(y[seen], 0)
    right, top = (max(least, 1.1 * np.quantile(v, 0.995)) if len(v) else least for least, v in ((10.0, x), (1.2, y)))
    alt = "Average demand interval against the squared variation of the amounts: " + ", ".join(
        f"{k} {share0(v)}" for k, v in share.items()
    )
    fig, axes = canvas(title, f"{title}. {alt}.", size=(8.2, 4.2))
    ax = axes[0, 0]
    fine = min(1.0, (500 / max(len(x), 1)) ** 0.25)  # of thousands of items no blob
    ax.plot(np.minimum(x, right), np.minimum(y, top), "o", color=BLUE, ms=4.5 * fine, mew=0, alpha=max(0.5 * fine, 0.12))
    ax.axvline(ADI, color=INK, lw=1)
    ax.axhline(CV2, color=INK, lw=1)
    corners = {"smooth": (0, 0), "intermittent": (1, 0), "erratic": (0, 1), "lumpy": (1, 1)}
    for kind, (side, up) in corners.items():
        ax.annotate(
            f"{kind}\n{share0(share[kind])}",
            (side, up),
            xycoords="axes fraction",
            xytext=(6 - 12 * side, 6 - 12 * up),
            textcoords="offset points",
            ha="right" if side else "left",
            va="top" if up else "bottom",
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],  # a box would hide what lies behind
        )
    ax.set_xscale("log")
    ax.set_xlim(0.66, right * 1.06)
    ax.set_ylim(-0.16 * top, top * 1.03)  # names of the lower kinds stand below the points
    ax.set_yticks([t for t in ax.get_yticks() if 0 <= t <= top])
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= right]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()
    beyond = int(((y > top) | (x > right)).sum())
    edge = f"; {beyond:,} beyond are drawn at the edge" if beyond else ""
    ax.set_xlabel(f"{units} from one sale to the next, on average (log scale); cut at {ADI}")
    ax.set_ylabel(f"unevenness of the amounts sold:\n(standard deviation / mean)², cut at {CV2}")
    ax.set_title(f"{counted(len(x), 'item')} that {'has' if len(x) == 1 else 'have'} sold{edge}", color=GREY)
    return fig


@drawn
def reorder(plan: pd.DataFrame, top: int = 12, units: str = "periods") -> Figure:
    """The stock of the most urgent items against what their service level needs. plan: ``reorder.plan``; units: of a period.

    Where the stock is not known, the expected sales stand in its place.
    """
    rows = to_order(plan[np.isfinite(plan["need"])], top) if len(plan) else plan
    if not len(rows):
        return nothing("Nothing to reorder: no item needs more than is there" if len(plan) else "No item is forecast")
    known = rows["stock"].notna().to_numpy()
    level, time = f"{100 * rows['level'].iloc[0]:.3g} %", span(int(rows["periods"].iloc[0]), units)
    fig, axes = canvas(_wanted(plan, f"{level} service over {time}"), size=(8.2, 1.35 + 0.29 * len(rows)))
    ax, at = axes[0, 0], np.arange(len(rows))
    ax.barh(at, rows["need"], height=0.74, color=PALE, label=f"needed for {level} service")
    if known.any():
        ax.barh(at[known], rows["stock"][known].clip(lower=0), height=0.36, color=INK, label="in stock now")
    if not known.all():
        ax.barh(at[~known], rows["expected"][~known], height=0.36, color=BLUE, label="expected to sell, stock unknown")
    for row, item in enumerate(rows.itertuples()):
        text = f"order {item.order:,.0f}" if known[row] else f"needs {item.need:,.0f}"
        ax.annotate(text, (item.need, row), xytext=(5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    ax.set_yticks(at, names(rows["title"], rows["series_id"], 34))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, rows["need"].max() * 1.16)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.set_xlabel(f"units over {time}")
    ax.grid(axis="y", visible=False)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    return fig


def _wanted(plan: pd.DataFrame, service: str) -> str:
    """The orders of a whole plan in a sentence."""
    every, unknown = to_order(plan, None), int(plan["stock"].isna().sum())
    if unknown == len(plan):
        need = f"{counted(len(every), 'item')} {'needs' if len(every) == 1 else 'need'}"
        said = f"{need} {counted(round(every['need'].sum()), 'unit')} for {service}"
        sold = round(every["expected"].sum())
        return f"{said}; {sold:,} {'is' if sold == 1 else 'are'} expected to sell"
    short = every[every["stock"].notna()]
    few = f"{len(short):,} of {counted(len(plan) - unknown, 'item')} {'is' if len(short) == 1 else 'are'} short"
    title = f"{few} of {service}: order {counted(round(short['order'].sum()), 'unit')}"
    return f"{title}; the stock of {unknown:,} more is not known" if unknown else title


def _met(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of one model that have an actual."""
    return frame[(frame["model"] == model) & np.isfinite(frame["y"])] if len(frame) else frame


@drawn
def service(backtest: pd.DataFrame) -> Figure:
    """Whether a stock planned by a quantile of the published forecast serves as promised, and what it costs against IMAPA.

    Left: each level ≥ ½ against the share of periods whose sales it covered, for all and for periods with sales, each with the
    least that an honest forecast covers (sales are whole numbers, so it may cover more). Right: mean units left over against
    mean units short; the lower curve holds less stock at the same service. All models have forecast the same points.
    """
    met, safe = _met(backtest, "published"), _met(backtest, SALES.safe)
    if not len(met) or not upper(met):
        return nothing(UNMET)
    mine, theirs = stock_cost(met), stock_cost(safe) if len(safe) else None
    at = int((mine["level"] - 0.9).abs().argmin())
    title = f"Stock for {share0(mine['level'][at])} service covered {share0(mine['served'][at])} of periods"
    gain = saved(mine, theirs, at) if len(safe) and met["origin"].nunique() >= ENOUGH else np.nan
    if abs(gain) >= 0.005:
        title += f", with {share0(abs(gain))} {'less' if gain > 0 else 'more'} left over than by {SALES.safe_words}"
    fig, (axes,) = canvas(title, cols=2, size=(8.2, 3.7))
    _promise(axes[0], mine)
    _curve(axes[1], mine, theirs, "published", model_name(SALES.safe))
    return fig


def _promise(ax, mine: pd.DataFrame) -> None:
    """Promised against achieved service."""
    lines = {"all periods": ("served", "level", BLUE), "periods with sales": ("served_sales", "honest", ORANGE)}
    for label, (served, least, colour) in lines.items():
        ax.plot(mine["level"], mine[least], color=colour, lw=1.1, ls=DASHED)
        ax.plot(mine["level"], mine[served], "o-", color=colour, ms=4.5, label=label)
    ax.plot([], [], color=GREY, lw=1.1, ls=DASHED, label="least that was promised")
    ax.set_xlim(0.48, 1.01)
    ax.set_ylim(min(0.45, np.nanmin(mine[["served", "served_sales", "honest", "level"]].to_numpy()) - 0.03), 1.03)
    ax.set_xlabel("service level promised")
    ax.set_title("at or above its dashed line: promise kept")
    ax.set_ylabel("share of periods covered")
    ax.legend(loc="lower right", fontsize=8.5)
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)


def _curve(ax, mine: pd.DataFrame, theirs: pd.DataFrame | None, ours: str, rival: str) -> None:
    """Units left over against units short, level by level."""
    if theirs is not None:
        ax.plot(theirs["short"], theirs["over"], "o-", color=ORANGE, ms=4, label=rival)
    ax.plot(mine["short"], mine["over"], "o-", color=BLUE, ms=4.5, label=ours)
    for row in mine.itertuples():
        spot = (row.short, row.over)
        ax.annotate(
            f"{100 * row.level:.3g} %",
            spot,
            xytext=(5, 4),
            textcoords="offset points",
            color=BLUE,
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
        )
    ax.set_xlim(0, 1.14 * ax.dataLim.x1 or 1)
    ax.set_ylim(0, 1.12 * ax.dataLim.y1 or 1)
    ax.set_title("lower: less left over at the same shortage")
    ax.set_xlabel("units short, per item and period")
    ax.set_ylabel("units left over, per item and period")
    ax.legend(loc="upper right", fontsize=8.5)


def _reached(q: np.ndarray, known: np.ndarray, x: np.ndarray, side: str) -> np.ndarray:
    """(n,) probability below x ('left') or up to x ('right') of quantile functions (n, K), straight between the levels."""
    after = (q < x[:, None] if side == "left" else q <= x[:, None]).sum(axis=1)
    high, low = np.minimum(after, len(known) - 1), np.maximum(after - 1, 0)
    row = np.arange(len(x))
    width = q[row, high] - q[row, low]
    part = np.divide(x - q[row, low], width, out=np.zeros(len(x)), where=width > 0)
    return np.where(after == len(known), 1.0, np.where(after == 0, 0.0, known[low] + part * (known[high] - known[low])))


def pit_values(frame: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Randomised probability integral transform of each row with an actual: uniform when the forecasts are honest.

    Czado, Gneiting & Held 2009: F(y − 1) + v (F(y) − F(y − 1)), v uniform. F is approximate: the quantile function runs
    straight between the known levels, from 0 at level 0, and is rounded to whole units where all sales are whole; above the
    highest level F is 1, and F(0) is 1 − p_sale where that is known.
    """
    frame = frame[np.isfinite(frame["y"])]
    names = levels(frame)
    y, known = frame["y"].to_numpy(float), np.array([0.0, *names.values()])
    q = np.column_stack([np.zeros(len(y)), *(frame[c].to_numpy(float) for c in names)])
    half = 0.5 if (y == np.rint(y)).all() else 0.0
    low, high = _reached(q, known, y - half, "left"), _reached(q, known, y + half, "right")
    low = np.where(y <= 0, 0.0, low)
    if "p_sale" in frame:
        none = 1 - frame["p_sale"].to_numpy(float)
        low, high = np.where(y > 0, np.where(y == 1, none, np.maximum(low, none)), 0.0), np.where(y <= 0, none, high)
    high = np.maximum(high, low)
    return low + np.random.default_rng(seed).random(len(y)) * (high - low)


def _noise(share: float, trials: int) -> float:
    """What nine in ten shares of so many trials are off by at most."""
    return 1.645 * np.sqrt(share * (1 - share) / trials)


def _verdict(u: np.ndarray, trials: int) -> str:
    """What a sample that should be uniform says of the forecasts. trials: how many of them are independent of each other."""
    noise = _noise(0.5, trials)
    if noise > NOISY:
        return f"Too few forecasts to tell whether they are honest: {counted(trials, 'independent one')}"
    upper, outer, slack = np.mean(u > 0.5), np.mean(np.abs(u - 0.5) > 0.4), SLACK + noise
    if abs(upper - 0.5) > max(slack, abs(outer - 0.2)):
        way, half, share = ("low", "upper", upper) if upper > 0.5 else ("high", "lower", 1 - upper)
        return f"The forecasts run {way}: {share0(share)} of sales fell in the {half} half of what was foretold"
    if abs(outer - 0.2) > slack:
        way = "narrow" if outer > 0.2 else "wide"
        return f"The forecasts are too {way}: {share0(outer)} of sales fell in the outer fifth of what was foretold"
    share = np.histogram(u, BARS, (0, 1))[0] / len(u)
    worst = int(np.abs(share - 1 / BARS).argmax())
    off = abs(share[worst] - 1 / BARS)
    if off <= _noise(1 / BARS, trials):
        return "The forecasts are honest: sales fell evenly over all that was foretold"
    if off <= SLACK / 2:
        return "The forecasts are all but honest: each tenth of what was foretold held 10 % of sales, give or take one point"
    tenth = {0: "lowest tenth", BARS - 1: "highest tenth"}.get(worst, f"tenth from {share0(worst / BARS)} up")
    said = f"but {share0(share[worst])} of sales fell in the {tenth} of what was foretold"
    return f"No sign that the forecasts run high or low, too narrow or too wide, {said}"


@drawn
def pit(backtest: pd.DataFrame) -> Figure:
    """Histogram of ``pit_values``: even when honest, a bowl when too narrow, a hill when too wide, a slope when biased.

    The band holds nine in ten bars of an honest forecast, taking an item's periods from one origin as a single trial: they are
    not independent of each other.
    """
    met = _met(backtest, "published")
    if not len(met):
        return nothing(UNMET)
    u = pit_values(met)
    u = u[np.isfinite(u)]
    if not len(u):
        return nothing(UNMET)
    trials = max(len(met[["series_id", "origin"]].drop_duplicates()), 1)
    fig, axes = canvas(_verdict(u, trials), size=(8.2, 3.1))
    ax, even = axes[0, 0], 1 / BARS
    share, edges = np.histogram(u, BARS, (0, 1))
    band = _noise(even, trials)
    ax.bar(edges[:-1], share / len(u), width=0.92 * even, align="edge", color=BLUE)
    ax.axhspan(max(even - band, 0), even + band, color=INK, alpha=0.14, lw=0, zorder=0.5)  # under the bars
    ax.axhline(even, color=INK, lw=1, ls=DASHED, zorder=4)
    words = "honest: nine in\nten bars end in\nthe grey band"
    ax.annotate(words, (1.0, even), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9, annotation_clip=False)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, max(share.max() / len(u), even + band) * 1.12)
    ax.set_xlabel("where the sales fell in what was foretold (0 %: lowest, 100 %: highest)")
    ax.set_ylabel(f"share of {counted(len(u), 'forecast')}")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.grid(axis="x", visible=False)
    return fig
