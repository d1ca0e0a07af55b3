"""What a run's report asks its reader to act on: prices that are expected to move, items to reorder."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecastbook import figures, reorder, salesfigures
from forecastbook.runfiles import RunFiles, coming
from forecastbook.scores import CHANGED
from forecastbook.tables import right, table
from forecastbook.wording import change, counted, percent, period_name, share1, span

BIG_MOVE = 0.05  # share of the last price
SHOWN = 20  # rows of a list on the page; its file has them all
WHOLE = " The whole list is in a file, under Downloads."


def moves(run: RunFiles) -> pd.DataFrame | None:
    """One row an item: the last day of the horizon, its move against the last value, and its title."""
    forecast = run.frame("forecast")
    if forecast is None or not {"last_value", "q50"} <= set(forecast.columns):
        return None
    last = forecast.sort_values("horizon").groupby("series_id", observed=True).tail(1).copy()
    last["move"] = (last["q50"] / last["last_value"].where(last["last_value"] > 0) - 1).astype(float)
    last["title"] = run.title(last["series_id"])
    return last


def orders(run: RunFiles, backtest: pd.DataFrame | None = None) -> dict | None:
    """What to reorder, what does not move, what was lost, and the whole ``plan``; None without a forecast or the series.

    Where no stock is known, what to have; and how often as much would have been enough at past dates.
    """
    forecast, series, params = run.frame("forecast"), run.frame("series"), run.manifest.get("params") or {}
    if forecast is None or series is None:
        return None
    series = series.assign(title=run.title(series["series_id"]))
    level = reorder.service_level([*params.get("quantiles", [0.9]), *params.get("service_levels", [])])
    unit, plan = period_name(str(params.get("freq") or "D")), reorder.plan(forecast, series, level)
    due, blind = reorder.reorder(plan, None), plan["stock"].isna().all()
    horizon = int(forecast["horizon"].max())
    text = f"To serve an item's demand of the {coming(horizon, unit)} in full with a chance of {percent(level)}: "
    if len(due):
        units = counted(round(due["order"].sum()), "unit")
        text += f"{'have' if blind else 'order'} {units} in all, of {_part(len(due), len(plan))}"
        if due["cost"].notna().all():
            text += f", {due['cost'].sum():,.0f} at the prices that customers last paid"
        text += "; those first whose shortage would cost most." if len(due) > 1 else "."
    else:
        text += "no stock is needed." if blind else "nothing needs to be ordered."
    if blind and len(due):
        text += " The stock is not known here, so this is what must be there, not what must be bought."
    if backtest is not None and np.isfinite(enough := reorder.kept(backtest, level)):
        over = f" over all {span(horizon, unit)}" if horizon > 1 else ""
        text += f" At past dates this would have covered {percent(enough)} of the items{over}, "
        text += f"where {percent(level)} were promised."
        if horizon > 1:
            text += f" The figure on the cost of service counts each {unit[:-1]} by itself, and so shows another share."
    text += WHOLE if len(due) > SHOWN else ""
    shown = reorder.table(due, "need" if blind else "reorder", unit)
    tables = [table(shown, reorder.FORMATS, empty="Nothing is needed." if blind else "Nothing to reorder.", limit=SHOWN)]
    for kind, rows, caption in (
        ("slow", reorder.slow(plan, 10), "Slow movers: on the shelf, known long enough, and least likely to sell"),
        (
            "lost",
            reorder.lost(plan, 10),
            f"Lost sales: what stock-outs may have cost in those of the last twelve {unit} that had stock on at least "
            "a quarter of their days",
        ),
    ):
        if len(rows):
            tables.append(table(reorder.table(rows, kind, unit), reorder.FORMATS, caption=caption))
    return {"text": text, "tables": tables, "figure": salesfigures.reorder(plan, units=unit), "plan": plan}


def _part(some: int, of: int) -> str:
    """'211 of the 324 items', 'all 324 items', 'the one item'."""
    return f"{some:,} of the {of:,} items" if some < of else f"all {of:,} items" if of > 1 else "the one item"


def _kept(backtest: pd.DataFrame) -> str:
    """How often a published point that was more than ``BIG_MOVE`` off at the end of the horizon came true; '' without any."""
    mine = backtest[(backtest["model"] == "published") & backtest["y"].notna()]
    mine = mine[mine["horizon"] == mine["horizon"].max()]
    said, came = mine["q50"] / mine["last_value"] - 1, mine["y"] / mine["last_value"] - 1
    called = said.abs() > BIG_MOVE
    if not called.any():
        return ""
    right = (came * np.sign(said) > BIG_MOVE)[called]
    return (
        f" At past dates {counted(len(right), 'forecast')} said so, and {percent(right.mean())} came true: "
        f"the price then stood more than {percent(BIG_MOVE)} off on that side."
    )


def big(moved: pd.DataFrame) -> pd.DataFrame:
    """Of ``moves`` those above ``BIG_MOVE``, largest first."""
    rows = moved[moved["move"].abs() > BIG_MOVE]
    return rows.iloc[np.argsort(-rows["move"].abs().to_numpy(), kind="stable")].copy()


def changes(moved: pd.DataFrame, horizon: int, freq: str = "D", backtest: pd.DataFrame | None = None) -> dict:
    """The moves above ``BIG_MOVE``, largest first, and how often such a forecast came true in a backtest."""
    money, ahead = "{:,.2f}".format, span(horizon, period_name(freq))
    rows = big(moved)
    if {"q05", "q95"} <= set(moved.columns):
        rows["band"] = [f"{money(a)} – {money(b)}" for a, b in zip(rows["q05"], rows["q95"], strict=True)]
    keep = [c for c in ("title", "last_value", "q50", "move", "band", "p_change", "p_up") if c in rows]
    heads = {
        "title": "item",
        "last_value": "now",
        "q50": f"in {ahead}",
        "move": "change",
        "band": "90 % band",
        "p_change": f"chance of a change of more than {share1(CHANGED)}",
        "p_up": "of a rise",
    }
    forms = {"last_value": money, "q50": money, "move": change, "p_change": percent, "p_up": percent, "band": right}
    if len(rows):
        text = f"Median forecast against the last price, largest first: {_part(len(rows), len(moved))} "
        text += f"{'moves' if len(rows) == 1 else 'move'} more than {percent(BIG_MOVE)}."
        text += _kept(backtest) if backtest is not None else ""
        text += WHOLE if len(rows) > SHOWN else ""
    else:
        whose = f"every one of the {len(moved):,} items" if len(moved) > 1 else "the one item"
        text = f"The median forecast of {whose} stays within {percent(BIG_MOVE)} of its last price."
    return {
        "text": text,
        "tables": [table(rows[keep], forms, heads, empty="no move above 5 %", limit=SHOWN)],
        "figure": figures.moves(moved, ahead) if "p_change" in moved and moved["p_change"].notna().any() else None,
    }
