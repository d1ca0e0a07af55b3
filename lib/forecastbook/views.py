"""What a reader sees of a job that depends on what it forecasts: posted prices or sales. Notebooks ask here, and never which.

``params.trade`` decides; figures and tables themselves are in ``figures``, ``salesfigures``, ``forecasts`` and ``reorder``.
"""

from __future__ import annotations

import pandas as pd

from forecastbook import calibrationfigures, figures, forecasts, reorder, roster, salesfigures, scoreboard
from forecastbook.figures import Figure
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.tables import Html, table
from forecastbook.trades import SALES
from forecastbook.wording import CHANGE, change, labels, model_name, percent, period_name, span


def character(panel: Panel, series: pd.DataFrame, params: Params) -> Figure:
    """What decides how much there is to forecast: how long a price lasts; how often and how evenly an item sells."""
    if params.trade is SALES:
        return salesfigures.demand_map(series, units=period_name(params.freq))
    return figures.spells(panel.spells(), unit=period_name(params.freq))


def named(frame: pd.DataFrame, series: pd.DataFrame, ids=None) -> pd.DataFrame:
    """The rows of a frame, of the series ``ids`` (None: of all), each item with a title that tells it from the others."""
    frame = frame if ids is None else frame[frame["series_id"].isin(list(ids))]
    called = labels(series["series_id"], series["title"]).set_axis(series["series_id"])
    return frame.assign(title=frame["series_id"].astype(object).map(called))


def examples(frame: pd.DataFrame, series: pd.DataFrame, params: Params) -> Figure:
    """The histories of six lively series. frame: series_id, ts, y of all of them."""
    ids = roster.examples(series)
    return figures.small_multiples(named(frame, series, ids), ids, params.trade, params.freq)


def agenda(forecast: pd.DataFrame, series: pd.DataFrame, params: Params) -> pd.DataFrame:
    """What a reader may want to act on, most urgent first: the likeliest changes of a price; what to reorder."""
    if params.trade is SALES:
        return reorder.plan(forecast, named(series, series), service_level(params))
    return forecasts.moves(forecast, named(series, series))


def agenda_figure(due: pd.DataFrame, forecast: pd.DataFrame, series: pd.DataFrame, params: Params) -> Figure:
    """An ``agenda`` as a figure; of prices among all that are forecast."""
    if params.trade is SALES:
        return salesfigures.reorder(due, units=period_name(params.freq))
    return figures.moves(named(forecast, series))


def agenda_table(due: pd.DataFrame, params: Params) -> Html:
    """The first rows of an ``agenda`` as a reader wants them."""
    if params.trade is SALES:
        unit, level, blind = period_name(params.freq), service_level(params), due["stock"].isna().all()
        caption = f"{'What must be there' if blind else 'What to reorder'} so that demand of the next "
        caption += f"{span(params.horizon, unit)} is met at {percent(level)}"
        rows = reorder.table(reorder.reorder(due, 15), "need" if blind else "reorder", unit)
        return table(rows, reorder.FORMATS, caption=caption, empty="Nothing is needed." if blind else "Nothing to reorder.")
    ahead = span(params.horizon, period_name(params.freq))
    caption = f"Likeliest to differ from today's price after {ahead}; {CHANGE}"
    return table(forecasts.moves_table(due), forecasts.FORMATS, caption=caption)


def service_level(params: Params) -> float:
    """The service level that a stock is planned for: 90 %, or the nearest that is forecast."""
    return reorder.service_level(params.levels)


def honesty(backtest: pd.DataFrame, params: Params) -> Figure:
    """Whether quantiles keep their promise: by level, or, as counts tie with their quantiles, by the randomised PIT."""
    return salesfigures.pit(backtest) if params.trade is SALES else calibrationfigures.calibration(backtest)


def standings(scores: pd.DataFrame, params: Params) -> Html:
    """The mean scores of all models over the rolling origins, best first."""
    caption = "Mean over all rolling origins, best first"
    summary = scoreboard.summary(scores, params.trade)
    summary["model"] = summary["model"].map(model_name)
    return table(summary, scoreboard.FORMATS, caption=caption, empty="There is no record yet.")


def skills(scored: pd.DataFrame) -> Html:
    """How far what is published is ahead of each baseline, with the interval of that. scored: what ``points.errors`` made."""
    found = scoreboard.skills(scored)
    found["baseline"] = found["baseline"].map(model_name)
    heads = {"low": "90 % interval from", "high": "to", "n_origins": "origins"}
    forms = dict.fromkeys(("skill", "low", "high"), change)
    caption = "Skill of the published forecast: its quantile score below each baseline's"
    return table(found, forms, heads, caption=caption, empty="There is no record yet.")
