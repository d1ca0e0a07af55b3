"""What a run's report says about its forecasts: the cards, the accuracy, the fans, and the bands."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecastbook import calibrationfigures, figures, points, salesfigures, scoreboard, scorefigures, trackrecord, trades
from forecastbook.agenda import BIG_MOVE
from forecastbook.points import OURS
from forecastbook.runfiles import RunFiles
from forecastbook.scores import DUST
from forecastbook.tables import Html, cards, right, table
from forecastbook.trades import SALES, Trade
from forecastbook.wording import (
    CHANGE,
    NAMES,
    change,
    counted,
    in_points,
    model_name,
    percent,
    period_name,
    share1,
    share2,
    span,
    the,
)


def headline(scored: pd.DataFrame, skill: pd.DataFrame, use: str | None = None) -> dict:
    """The numbers that the cards, the verdict and the comparison with the last run share. use: what the gate lets out.

    A baseline that is itself what is published is not compared with: the strongest is looked for among the others.
    """
    trade = trades.of(scored)
    by = scoreboard.by_model(scored).set_index("model")
    same = scorefigures.itself(skill)
    itself, skill, still = list(skill.loc[same, "baseline"]), skill[~same], scorefigures.still(scored)
    base = by[~by.index.isin([*OURS, *itself])]
    inside = scored.loc[scored["model"] == "published"].get("inside90", pd.Series(dtype=float))
    held, moved = inside.mean(), inside[points.event(scored).reindex(inside.index)].mean()
    best = skill.iloc[0] if len(skill) and not still else None  # the lowest skill is the one against the strongest baseline
    mine = by.loc["published"] if "published" in by.index else by.iloc[0]
    return {
        "error": float(mine[trade.metric]),
        "best_error": float(base[trade.metric].min()) if len(base) else np.nan,
        "best": model_name(base[trade.metric].idxmin()) if base[trade.metric].notna().any() else "",
        "inside90": float(moved if trade is SALES else held),  # a zero lies on its bound as a rule
        "moved90": float(np.nan if trade is SALES else moved),
        "skill": float(best["skill"]) if best is not None else np.nan,
        "low": float(best["low"]) if best is not None else np.nan,
        "high": float(best["high"]) if best is not None else np.nan,
        "against": model_name(best["baseline"]) if best is not None else "",
        "itself": itself,
        "use": use,
        "still": still,
        "calm": trade is not SALES and not points.event(scored).any(),
    }


def band_words(held: float, promised: float = 0.9) -> tuple[str, str]:
    """(tone, words) for a band that held a share of the actuals."""
    if not np.isfinite(held):
        return "info", ""
    if held < promised - 0.1:
        return "bad", "Bad: too narrow"
    if held < promised - 0.03:
        return "watch", "Watch: somewhat narrow"
    return ("watch", "Watch: wider than promised") if held > promised + 0.08 else ("good", "Good: kept")


def glance(run: RunFiles, head: dict | None, moved: pd.DataFrame | None, trade: Trade) -> Html:
    """The cards on top: error, skill, coverage, items and what is coming, each where the run has come that far.

    A card is a value, its label, a note, and (tone, word) of how good it is.
    """
    items = [_error_card(head, trade), _skill_card(head), _band_card(head, trade)] if head else []
    if moved is not None:
        items.append(_items_card(run, moved, bool(head)))
        items.append(_coming_sales(run) if trade is SALES else _coming_prices(run, moved))
    return cards(items) if items else Html("")


NEUTRAL = ("info", "")


def _against(head: dict) -> tuple[str, str, str]:
    """How a card says what is compared with: that a baseline is published itself, 'the best (other)', that there is none."""
    itself = scorefigures.standing(head["itself"], head["use"])
    itself = f"{itself}; " if itself else ""
    other = " other" if itself else ""
    return itself, f"the best{other}", f"{itself}no{other} baseline to compare with"


def _error_card(head: dict, trade: Trade) -> tuple:
    what, by = ("weighted quantile loss", "loss") if trade is SALES else ("mean error, share of the last price", "error")
    itself, best, none = _against(head)
    note, tone = none, NEUTRAL
    if head["still"]:
        note = scorefigures.STILL
    elif head["best"]:
        note = f"{itself}{best} baseline by {by}: {head['best']}, {share2(head['best_error'])}"
        ratio = head["error"] / head["best_error"] - 1 if head["best_error"] > 0 else 0.0
        tone = ("watch", "Watch: level") if ratio <= 0.01 else ("bad", "Bad: worse")
        tone = ("good", "Good: better") if ratio < -0.001 else tone
    return share2(head["error"]), what, note, tone


def _skill_card(head: dict) -> tuple:
    itself, best, none = _against(head)
    if not head["against"]:
        return "–", "skill", scorefigures.STILL if head["still"] else none, NEUTRAL
    interval = "too few origins for an interval"
    if np.isfinite(head["low"]):
        interval = f"90 % interval {change(head['low'])} to {change(head['high'])}"
    proof = ("watch", "Watch: not proven")
    if head["calm"]:
        proof = ("info", "Untested: no price moved then")
    elif head["low"] > 0:
        proof = ("good", "Good: beyond chance")
    elif head["high"] < 0:
        proof = ("bad", "Bad: worse")
    note = f"{itself}{best} baseline by quantile score; {interval}"
    return change(head["skill"]), f"skill against {head['against']}", note, proof


def _band_card(head: dict, trade: Trade) -> tuple:
    of = "of sales above zero inside the band" if trade is SALES else "of actual prices inside the band"
    kept = "promised 90 %" + (f"; {percent(head['moved90'])} after a change" if np.isfinite(head["moved90"]) else "")
    held = ("no price moved", NEUTRAL) if head["still"] else (kept, band_words(head["inside90"]))
    return percent(head["inside90"]), of, *held


def _items_card(run: RunFiles, moved: pd.DataFrame, tested: bool) -> tuple:
    """How many items are forecast. tested: whether a past forecast could be checked."""
    series = run.frame("series")
    known = len(series) if series is not None else len(moved)
    out = max(known - len(moved), 0)
    simple = int((moved["source"] != "model").sum()) if "source" in moved else 0
    tone = ("watch", "Watch: some left out") if out <= 0.2 * known else ("bad", "Bad: many left out")
    if not out:
        tone = ("good", "Good: all") if tested else ("watch", "Watch: untested")
    said = "item" if len(moved) == known == 1 else "items"
    return f"{len(moved):,} of {known:,}", f"{said} forecast", f"{out:,} left out, {simple:,} by a baseline", tone


def _coming_prices(run: RunFiles, moved: pd.DataFrame) -> tuple:
    big = int((moved["move"].abs() > BIG_MOVE).sum())
    likely = f"{int((moved['p_change'] > 0.5).sum()):,} more likely than not to differ then" if "p_change" in moved else ""
    return f"{big:,}", f"expected to move more than 5 % in {run.ahead}", likely, "info"


def _coming_sales(run: RunFiles) -> tuple:
    forecast = run.frame("forecast")
    units = forecast["mean"].sum()
    sure = int((forecast.groupby("series_id")["p_sale"].apply(lambda p: 1 - (1 - p).prod()) > 0.5).sum())
    likely = f"{counted(sure, 'item')} more likely than not to sell"
    return f"{units:,.0f}", f"units expected in {run.ahead}", likely, "info"


def _candidates(rows: pd.DataFrame) -> pd.Series:
    """What the gate's candidates are called."""
    held = rows["hold"].eq(True) if "hold" in rows else pd.Series(False, rows.index)
    return rows["model"].map(model_name) + np.where(held, ", point held", "")


def rival(gate: dict, trade: Trade) -> tuple[float, str] | None:
    """What the gate's choice saves on the best baseline of its standings, as a share, and which one that is.

    None without standings, where a baseline is published itself, or where the best one made no error.
    """
    rows = pd.DataFrame(gate.get("standings") or [])
    if rows.empty or gate.get("use") in trade.baselines:
        return None
    mine, rivals = rows.loc[rows["model"] == gate.get("use"), "score"], rows[rows["model"].isin(trade.baselines)]
    best = pd.to_numeric(rivals["score"]).min()
    if not len(mine) or not best > DUST:
        return None
    return 1 - float(mine.iloc[0]) / float(best), _candidates(rows)[rivals["score"].idxmin()]


def standings(gate: dict, trade: Trade, where=None) -> Html | None:
    """The gate's candidates, best first, as a table; None where the gate has not decided.

    where: says how the finished origins, given their number, lie to those shown above (``scoreboard.origins_words``).
    """
    rows = pd.DataFrame(gate.get("standings") or [])
    if rows.empty:
        return None
    scored = pd.to_numeric(rows.loc[rows["model"] == trade.safe, "score"])
    held = rows["hold"].eq(True) if "hold" in rows else pd.Series(False, rows.index)
    behind = gate.get("use") in set(rows["model"][1:])
    rows = rows.assign(model=_candidates(rows) + np.where(rows["model"] == gate.get("use"), " (published)", ""))
    heads = {
        "model": "candidate",
        "score": "quantile score, units" if trade is SALES else "quantile score",
        "skill": "saves",
        "expected": "expected to save",
    }
    forms = {heads["score"]: "{:.3f}" if trade is SALES else share2, "saves": change, "expected to save": change}
    alike = "origins" not in rows or rows["origins"].nunique() == 1
    lie = where(gate.get("origins", 0)) if where and alike else ""
    caption = f"What might have been published, on {counted(gate.get('origins', 0), 'finished origin')}"
    caption += f"{f': {lie};' if lie else ','} the candidate that is expected to save most comes first"
    if not alike:
        heads |= {"origins": "origins"}
        caption += f"; what is saved is against {trade.safe_words}, on the same origins"
    if held.any():
        caption += ". Point held: its median stands at the last price, as its own was no better"
    if (found := rival(gate, trade)) is not None:
        caption += f". What is published saves {share1(found[0])} on the best of the baselines here, {found[1]}"
    if trade is not SALES and len(scored) and scored.iloc[0] < DUST:
        rows[["skill", "expected"]] = np.nan
        caption += f". {scorefigures.STILL}"
    elif behind:
        caption += ". What stands above what is published does not lead it beyond doubt"
    return table(rows[list(heads)].rename(columns=heads), forms, caption=f"{caption}.")


def accuracy(scored: pd.DataFrame, skill: pd.DataFrame, head: dict, freq: str, horizon: int = 0, drawn: str = "") -> dict:
    """Errors against the baselines and by horizon: text, figures and tables.

    horizon: how far ahead it is forecast; drawn: which items were asked, where those were not all (``scoreboard.drawn``).
    """
    models = scoreboard.by_model(scored).merge(skill.rename(columns={"baseline": "model"}), on="model", how="left")
    models["interval"] = [f"{change(r.low)} to {change(r.high)}" if np.isfinite(r.low) else "–" for r in models.itertuples()]
    models["label"] = models["model"].map(scorefigures.dated(scored))
    own = models["model"].isin(head["itself"])
    models.loc[own, "skill"], models.loc[own, "interval"] = np.nan, "as what is published"
    if head["still"]:
        models["skill"], models["interval"] = np.nan, "–"
    trade, unit = trades.of(scored), period_name(freq)
    keep = ["label", "error", "on_event", "loss", "inside90", "skill", "interval"]
    heads = {
        "label": "model",
        "error": "error",
        "on_event": f"on {trade.with_event}",
        "loss": "weighted quantile loss" if trade is SALES else "quantile score",
        "inside90": "inside 90 % band",
        "skill": "published saves",
        "interval": "90 % interval",
    }
    models = models.sort_values("loss")
    forms = {"error": share2, "on_event": share1, "loss": share2, "inside90": percent, "skill": change, "interval": right}
    by = scored.groupby(["horizon", "model"], observed=True)[trade.metric].mean().unstack("model").sort_index()
    by.columns = by.columns.astype(str)
    shown = [m for m in ("published", trade.safe) if m in by]
    ahead = by[shown].rename(columns=NAMES).reset_index()
    if len(shown) == 2:
        ahead["difference"] = by["published"].to_numpy() - by[trade.safe].to_numpy()
    mine = scored[scored["model"] == "published"]
    dates = counted(mine["origin"].nunique(), "past date")
    text = (
        f"{counted(len(mine), 'forecast')} from {dates}, each made with what was known on its day, against what came. "
        f"{f'They are of {drawn}. ' if drawn else ''}"
        f"The error is how far the median was off, the {heads['loss']} how far all quantiles were, so the bands too; both are "
        f"shares of {trade.size}, and lower is better. “Published” is what the gate would have let out on each of those days, "
        "so it may lie behind what it has come to trust since."
    )
    text += "" if trade is SALES else f" Where changes are counted, {CHANGE}."
    if len(by) < horizon:
        text += f" Only {len(by)} of {span(horizon, unit)} ahead could be tested: on the others nothing was observed."
    if (late := models.loc[models["label"] != models["model"].map(model_name), "model"]).size:
        text += f" Not there at every date, so not quite comparable: {the(late)}."
    return {
        "text": text,
        "bars": scorefigures.accuracy(scored, "loss", same=head["itself"], use=head["use"]),  # what the gate goes by
        "horizon": scorefigures.error_by_horizon(scored, unit=unit),
        "models": table(
            models[keep].drop(columns=[c for c in ("on_event",) if models[c].isna().all()]),
            forms,
            heads,
            ours=lambda row: row.label.startswith(model_name("published")),
        ),
        "by_horizon": table(
            ahead,
            {c: share2 for c in ahead.columns[1:]} | {"difference": in_points},
            {
                "horizon": f"{unit} ahead",
                "published": f"published {'loss' if trade is SALES else 'error'}",
                "last value": "last-value error",
                "IMAPA": "IMAPA's loss",
                "difference": "difference, points",
            },
        ),
        "skill": scorefigures.skill(skill, use=head["use"]) if len(skill) and np.isfinite(head["low"]) else None,
    }


def fans(run: RunFiles, scored: pd.DataFrame | None, drawn: str = "") -> dict | None:
    """History and forecast of the two best and the two worst series; None without a forecast. drawn as in ``accuracy``."""
    forecast, panel = run.frame("forecast"), run.frame("panel")
    freq = str((run.manifest.get("params") or {}).get("freq") or "D")
    if forecast is None or panel is None:
        return None
    ids, labels, title = list(pd.unique(forecast["series_id"]))[:4], None, "First items"
    text = "The first items; there is no backtest yet to rank them."
    text = text if scored is None else "The first items; nothing came in the backtest to rank them by."
    by, lively = (
        scoreboard.ranked(scored, forecast["series_id"].unique()) if scored is not None else (pd.Series(dtype=float), False)
    )
    if len(by):
        ids = list(by.index) if len(by) < 4 else [*by.index[:2], by.index[-2], by.index[-1]]
        words = ["best", "second best", "second worst", "worst"] if len(ids) == 4 else [""] * len(ids)
        labels = [f"{w}, error {share1(by[i])}".lstrip(", ") for w, i in zip(words, ids, strict=True)]
        sales = trades.of(scored) is SALES
        came = "that sold at least as often as half of all in the backtest" if sales else "whose price moved in the backtest"
        among = f" {came}" if lively else ""
        among += f" (it asked {drawn})" if drawn and lively else f" of the backtest ({drawn})" if drawn else ""
        title = "Two best, two worst" if len(ids) == 4 else "Forecasts, item by item"
        text = f"The two items with the smallest and the two with the largest error, of {len(by):,}{among}."
        if np.ptp(by) < DUST and len(by) > 1:
            title, labels = "Forecasts, item by item", [f"error {share1(by[i])}" for i in ids]
            text = f"The first of {len(by):,} items that have the same error{among}."
        elif len(ids) < 4:
            text = "The only item." if len(ids) == 1 else f"All {len(ids)} items, the one with the smallest error first."
    shown = panel[panel["series_id"].isin(ids)].astype({"series_id": str})
    shown = shown.assign(title=run.title(shown["series_id"]))
    figure = figures.fans(shown, forecast[forecast["series_id"].isin(ids)], ids, labels, freq=freq)
    return {"title": title, "text": text, "figure": figure}


def uncertainty(backtest: pd.DataFrame, scored: pd.DataFrame) -> dict | None:
    """Whether the bands held what they promised, in words first; None without bands."""
    mine = scored[scored["model"] == "published"]
    if not len(mine) or "inside90" not in mine:
        return None
    trade, came = trades.of(mine), points.event(mine)
    held, moved = mine["inside90"].mean(), mine.loc[came, "inside90"].mean()
    text = f"{percent(held)} of actual {trade.things} fell inside a band that promised 90 %."
    if "inside50" in mine:
        text += f" {percent(mine['inside50'].mean())} fell inside the band that promised 50 %."
    if np.isfinite(moved):
        text += f" Of {trade.with_event}, the 90 % band held {percent(moved)}."
    groups = {"all": mine, trade.with_event: mine[came], trade.without_event: mine[~came]}
    rows = [(k, len(g), g["inside90"].mean(), g["inside50"].mean() if "inside50" in g else np.nan) for k, g in groups.items()]
    frame = pd.DataFrame(rows, columns=["points", "forecasts", "inside90", "inside50"])
    heads = {"points": trade.things, "inside90": "inside 90 % band", "inside50": "inside 50 % band"}
    sales = trade is SALES
    return {
        "text": text,
        "calibration": salesfigures.pit(backtest) if sales else calibrationfigures.calibration(backtest),
        "reading": salesfigures.READING if sales else calibrationfigures.READING,
        "chances": calibrationfigures.reliability(backtest),
        "split": calibrationfigures.by_event(scored),
        "cost": salesfigures.service(backtest) if sales else None,
        "table": table(frame, {"inside90": share1, "inside50": share1}, heads),
    }


def track(run: RunFiles, trade: Trade, scored: pd.DataFrame | None = None) -> dict | None:
    """What forecasts that were really published said, and what came; None before there are two of them."""
    record = run.frame("track_record")
    if record is None or record["as_of"].nunique() < 2:
        return None
    return {
        "text": trackrecord.said(record, scored) or trackrecord.summary(record),
        "figure": scorefigures.track_record(trackrecord.by_vintage(record), trade),
    }
