"""What a reader sees of a job that depends on what it forecasts: posted prices or sales. Notebooks ask here, and never which.

``params.trade`` decides; figures and tables themselves are in ``figures``, ``salesfigures``, ``forecasts`` and ``reorder``.
"""

from __future__ import annotations

import pandas as pd
from markupsafe import escape

from forecastbook import calibrationfigures, figures, forecasts, reorder, roster, salesfigures, scoreboard
from forecastbook.figures import Figure
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.tables import Html, table
from forecastbook.trades import SALES
from forecastbook.wording import CHANGE, change, counted, labels, model_name, percent, period_name, span

READINGS = {  # how to read what a notebook shows, where that is different for the two trades
    "seen": {
        "prices": "A dip at the right edge means that the newest period is incomplete; of the series not seen, forecasts start "
        "from what is older.",
        "sales": "An item counts from its first period on, and a period without a sale is a zero that counts too: a newest "
        "period that is incomplete is no dip here, it looks like few sales.",
    },
    "duel": {
        "prices": "The training of a network of prices is stopped by the loss on those periods, which favours it a little.",
        "sales": "A network of sales has not seen those periods at all.",
    },
    "scores": {
        "prices": "Skill is the share of the last value's quantile score that a model saves. The side of a change is right "
        "where a changed price went the way that was called likelier. Change precision is how well the chance of a change "
        "tells the prices that do change from the others (average precision); guessing has that of the base rate, 1.00.",
        "sales": "WQL is the loss of all quantiles as a share of what was sold, skill the share of IMAPA's that a model saves. "
        "A bias above zero foretold too much. The Brier score is the mean squared error of the chance of a sale. MIWS is the "
        "mean interval score (Winkler's) of the 90 % band in units, MIC its coverage; in both, periods with sales weigh "
        "sixteen times those without. RMSSE is the root mean squared error of the mean over that of a naive forecast.",
    },
    "honesty": {"prices": calibrationfigures.READING, "sales": salesfigures.READING},
}


def reading(topic: str, params: Params) -> Html:
    """How to read a figure or a table, in a job's own words."""
    return _paragraph(READINGS[topic][params.trade.name])


def _paragraph(text: str) -> Html:
    return Html(f"<p>{escape(text)}</p>")


def rival(start, params: Params) -> Html:
    """Who stands beside the safe baseline before a training. start: a ``challenger.Start``."""
    if start.rival is None:
        return _paragraph(f"There is no network yet that a new one must beat, only {params.trade.safe_words}.")
    return _paragraph(
        {
            "base network": "There is no champion yet. The base network stands here that comes with forecastbook; it has never "
            "seen this shop.",
            "checkpoint": "The checkpoint stands here that finetune.base names.",
        }.get(start.called, "The champion is the network that forecast last; the new one must beat it.")
    )


def training(history: list[dict], params: Params) -> Html:
    """How long a training goes on, and which of its weights are kept. history: what ``challenger.history`` gives."""
    if not history:
        return _paragraph("No network was trained, so there is no loss.")
    if all(row["validation"] is None for row in history):
        return _paragraph("No period was held out to stop the training by: all epochs count.")
    text = "Training goes on until the loss on the periods held out has not fallen for "
    text += f"{counted(params.finetune.patience, 'epoch')}, or to the last epoch. "
    if params.trade is SALES:
        return _paragraph(text + "Then all periods are learnt from, for as many epochs as are marked.")
    return _paragraph(text + "The weights of the marked epoch are kept, whatever came after.")


def contenders(outcome: pd.DataFrame, params: Params) -> Html:
    """What ``tuning.Search.judge`` found."""
    score = "quantile score, units" if params.trade is SALES else "quantile score / last price"
    rows = outcome.assign(contender=outcome["contender"].map(model_name)).set_axis(["contender", score], axis=1)
    return table(rows, caption="On the test origins (lower is better)")


def candidates(standings: pd.DataFrame, params: Params) -> Html:
    """The ``gate.standings``; only a price can be held."""
    rows = standings.drop(columns="point held") if params.trade is SALES else standings
    return table(rows, scoreboard.FORMATS, caption="Candidates, by what is expected of them", empty="There is no record yet.")


def track(record: pd.DataFrame, by_horizon: pd.DataFrame, formats: dict) -> Html:
    """A ``trackrecord.record`` by periods ahead, with how to read it; that there is none yet."""
    if record.empty:
        return _paragraph("The record begins when the first dates of a published forecast have come.")
    text = "Where the error is clearly larger here than at the rolling origins above, the replay was too kind."
    text += "" if record["complete"].all() else " Hollow points lack some of their dates still."
    return Html(_paragraph(text) + table(by_horizon, formats, caption="Earlier forecasts by horizon"))


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
    return figures.moves(named(forecast, series), span(params.horizon, period_name(params.freq)))


def agenda_table(due: pd.DataFrame, params: Params) -> Html:
    """The first rows of an ``agenda`` as a reader wants them."""
    if params.trade is SALES:
        unit, level, blind = period_name(params.freq), service_level(params), due["stock"].isna().all()
        caption = f"{'What must be there' if blind else 'What to reorder'} so that demand of the next "
        caption += f"{span(params.horizon, unit)} is met at {percent(level)}"
        rows = reorder.table(reorder.reorder(due, 15), "need" if blind else "reorder", unit)
        return table(rows, reorder.FORMATS, caption=caption, empty="Nothing is needed." if blind else "Nothing to reorder.")
    caption = f"Likeliest to have changed in {span(params.horizon, period_name(params.freq))}; {CHANGE}"
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
