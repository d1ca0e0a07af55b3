"""The accuracy half of the bench: what the forecasts are worth, what each idea adds, and what a short history is given.

Items and time are both held out: the series are split in two, each half is forecast by experts that learnt from the other one,
from origins whose days to come nobody had seen. Everything goes through the same replay and gate as a run of the job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from forecastbook import backtest, experts, forking, gate, gbm, grid, models, points, scoreboard, spells, training
from forecastbook import panel as panels
from forecastbook import run as runs
from forecastbook.intake import SourceError
from forecastbook.params import Params
from forecastbook.sources import SOURCES
from forecastbook.trades import PRICES
from forecastbook.warehouse import connect
from forecastbook.yamlfile import merge, read_yaml

SAFE = PRICES.safe
PARAMS = Path(__file__).resolve().parents[1] / "params"
DENSE = {"backtest": {"origins": 20, "stride": 7, "refits": 8}}  # a week apart, so that targets do not overlap
QUICK = {"backtest": {"origins": 2, "stride": 7, "refits": 1}, "source": {"sample_series": 60}}
COLUMNS = {"series": "variant_id", "ts": "date", "y": "price", "available": "is_available", "title": "title"}
LEAST = 60  # days of history before the first origin of a window
SHORT = (60, 90)  # days of history that are left in the table of short histories
FORMATS = {
    "relative MAE": ".2%",
    "relative quantile score": ".2%",
    "skill": "+.1%",
    "from": "+.1%",
    "to": "+.1%",
    "MAE to last value": "+.1%",
    "worst horizon": "+.1%",
    "in 90 % band": ".1%",
    "in 90 % band, changed": ".1%",
    "AP ratio": ".2f",
    "Brier skill": "+.1%",
    "side right": ".1%",
    "back to previous right": ".1%",
    "side right, by size": ".1%",
    "back to previous right, by size": ".1%",
    "side right, first changes": ".1%",
    "skill of lstm": "+.1%",
    "skill of gbm": "+.1%",
    "skill of blend": "+.1%",
    "skill of table": "+.1%",
    "CPU s": ".0f",
    "zero-shot": "+.1%",
    "fine-tuned": "+.1%",
    "cold": "+.1%",
    "table": "+.1%",
    "published": "+.1%",
}
READING = (
    "Items and time held out. Skill: relative quantile score below that of the last value with its empirical errors, with a "
    "90 % interval by block bootstrap over origins. MAE to last value: relative MAE less the last value's, as a share of it, "
    "over all horizons and in the worst one. AP ratio: average precision of p_change over the rate of change; Brier skill is "
    "against that rate. Side: of the prices that changed and had done so before, how often p_up said the right one, "
    "and how often 'back to the previous price' did; by size: each change counts by its log ratio. First changes: of those "
    "with no previous price to go back to."
)
EARLIER = (
    "The same a window earlier, and another one, as far back as two months of history are left: nothing was chosen by these. "
    "Skills against the last value; the columns behind them are of what was published."
)
ABLATIONS = "One idea changed at a time, on one half of the items (skills against the last value; CPU seconds of the replay)."
STARTS = (
    "Short histories, cut out of the same windows: skill against the last value of the blend whose network is the shipped base "
    "as it is (zero-shot), the base fine-tuned, and one trained from nothing (cold), beside the counting table and what the "
    "gate would have published."
)
IDEAS = {  # what is changed: params, and what is taken out of the code
    "as it ships": ({}, ()),
    "no candidate levels": ({}, ("levels",)),
    "no grid of the shop": ({}, ("grid",)),
    "side left to the network": ({}, ("side",)),
    "attention": ({"model": {"attention": True}}, ()),
    "no recurrence (feature network)": ({"model": {"num_layers": 0}}, ()),
    "2 layers of 128": ({"model": {"num_layers": 2, "hidden_size": 128}}, ()),
    "network from nothing": ({"finetune": {"base": "none"}}, ()),
    "fine-tuned on 60 days": ({"finetune": {"days": 60}}, ()),
    "recurrence always at hand": ({}, ("forgetting",)),
    "no habit of the shop": ({}, ("habit",)),
    "all dates two days later": ({}, ("mondays",)),
    "two days later, no habit": ({}, ("mondays", "habit")),
}


def job(quick: bool, file: str | None = None) -> Params:
    """Params of the price job with dense origins; on a file instead of the warehouse, when one is given."""
    told = read_yaml(PARAMS / "prices.yaml")
    told = merge(merge(told, read_yaml(PARAMS / "smoke.yaml")), QUICK) if quick else merge(told, DENSE)
    return Params.model_validate(merge(told, {"source": {"kind": "file", "path": file, "columns": COLUMNS}} if file else {}))


def load(params: Params, directory: str) -> panels.Panel:
    """The panel of a job as of its newest day, by the same doors as a run: source, warehouse, intake, panel."""
    source, store = SOURCES[params.source.kind], connect(f"duckdb:{directory}/warehouse.duckdb")
    as_of = source.span(params.source, store)[1]
    return runs.build(source.read(params.source, store, as_of), params, as_of)


def halves(panel: panels.Panel) -> tuple[panels.Panel, panels.Panel]:
    """Every second series, and the others."""
    return panel.take(slice(0, None, 2)), panel.take(slice(1, None, 2))


def replayed(asked: panels.Panel, teacher: panels.Panel, params: Params) -> pd.DataFrame:
    """The backtest frame of a replay in which one half is asked and the other one learnt from."""
    record = gate.replay(backtest.rolling(asked, params, progress=True, teacher=teacher), params)
    return backtest.frame(record, asked.ids, params)


def values(back: pd.DataFrame, params: Params) -> pd.Series:
    """Scores of a backtest by (model, slice, metric)."""
    return scoreboard.score_table(back, params).set_index(["model", "slice", "metric"])["value"]


def accuracy(panel: panels.Panel, params: Params, data: str) -> tuple[pd.DataFrame, str]:
    """A row a model, best first, its columns as ``READING`` says, and what the record covers in a sentence."""
    one, other = halves(panel)
    back = pd.concat([replayed(one, other, params), replayed(other, one, params)], ignore_index=True)
    back = back.assign(model=back["model"].astype(str), series_id=back["series_id"].astype(str))
    if not back["y"].notna().any():
        raise SourceError(f"{data}: from no rolling origin did a forecast meet an actual; give a longer history")
    value, scored, sides, rows = values(back, params), points.errors(back), directions(back, panel), []
    worst = value.xs("rel_mae", level="metric").unstack("slice").filter(like="h=")
    worst = (worst / worst.loc[SAFE] - 1).max(axis=1)
    for name in value.index.unique("model"):
        pair = scored[scored["model"].isin([name, SAFE])]
        skill = {"skill": 0.0, "low": 0.0, "high": 0.0}  # of the last value against itself
        if name != SAFE:
            skill = scoreboard.skills(pair, model=name, seed=params.seed).set_index("baseline").reindex([SAFE]).iloc[0]
        rows.append(
            {
                "data": data,
                "model": name,
                "relative MAE": value[name, "all", "rel_mae"],
                "relative quantile score": value[name, "all", "rel_ql"],
                "skill": skill["skill"],
                "from": skill["low"],
                "to": skill["high"],
                "MAE to last value": value[name, "all", "rel_mae"] / value[SAFE, "all", "rel_mae"] - 1,
                "worst horizon": worst[name],
                "in 90 % band": value[name, "all", "coverage90"],
                "in 90 % band, changed": value.get((name, "changed", "coverage90"), np.nan),
                "AP ratio": value[name, "all", "ap_ratio"],
                "Brier skill": value[name, "all", "brier_skill"],
                "side right": sides["right"][name],
                "back to previous right": sides["previous"][name],
                "side right, by size": sides["right, by size"][name],
                "back to previous right, by size": sides["previous, by size"][name],
                "side right, first changes": sides["right, first changes"].get(name, np.nan),
            }
        )
    said = f"{data}: {scoreboard.describe(back)} {value['published', 'all', 'change_rate']:.1%} of prices had changed by then."
    return pd.DataFrame(rows).sort_values("relative quantile score", ignore_index=True), said


def directions(back: pd.DataFrame, panel: panels.Panel) -> pd.DataFrame:
    """By model, of the prices that changed and had done so before: how often the likelier side was right (``right``), and how
    often that of the previous price (``previous``); of both also the share of the sum of all log ratios (``by size``). And of
    those that changed for the first time, of which the previous price says nothing (``right, first changes``).

    Neither side likelier counts a half.
    """
    read = spells.of(panel)
    before = read.features[:, :, spells.FEATURES.index("to_previous")]  # log(previous / price), 0 where there is none
    row = pd.Index(panel.ids.astype(str)).get_indexer(back["series_id"])
    day = pd.Index(panel.dates.astype("datetime64[ns]")).get_indexer(back["origin"])
    move, back_to = np.log(back["y"] / back["last_value"]), before[row, day]
    found = pd.DataFrame({"model": back["model"], "first": back_to == 0, "size": np.abs(move)})
    for name, said in (("right", 2 * back["p_up"] - back["p_change"]), ("previous", back_to)):
        found[name] = (1 + np.sign(said) * np.sign(move)) / 2
        found[f"{name}, by size"] = found[name] * found["size"]
    found = found[found["size"] > spells.CHANGE]
    again = found[~found["first"]].groupby("model").mean()
    for name in ("right", "previous"):
        again[f"{name}, by size"] /= again["size"]
    again["right, first changes"] = found[found["first"]].groupby("model")["right"].mean()
    return again.drop(columns=["first", "size"])


def windows(panel: panels.Panel, params: Params, least: int) -> Iterator[panels.Panel]:
    """The panel as it was at the end of each window of origins, newest first, while it has so many days."""
    for end in range(len(panel.dates) - 1, least - 2, -params.backtest.origins * params.backtest.stride):
        view = panel.until(panel.dates[end])
        yield view.take(view.n_obs > 0)


def earlier(panel: panels.Panel, params: Params, data: str) -> pd.DataFrame:
    """A row a window of origins before that of ``accuracy``, newest first; they follow each other without a gap."""
    rows, window = [], params.backtest.origins * params.backtest.stride
    for view in list(windows(panel, params, window + params.horizon + LEAST))[1:]:
        found = accuracy(view, params, data)[0].set_index("model")
        alone = {f"skill of {name}": found["skill"][name] for name in ("table", "gbm", "blend")}
        kept = ["from", "to", "MAE to last value", "worst horizon", "in 90 % band, changed", "AP ratio", "Brier skill"]
        told = found.loc["published", ["skill", *kept]].to_dict()
        rows.append({"data": data, "until": str(view.as_of), **alone, "published": told.pop("skill"), **told})
    return pd.DataFrame(rows)


def no_levels(*given, read=spells.read) -> spells.Posted:
    """What ``spells.read`` reads, every candidate level masked."""
    posted = read(*given)
    return replace(posted, levels=np.full(posted.levels.shape, np.nan))


def ablations(panel: panels.Panel, params: Params, data: str) -> pd.DataFrame:
    """A row an idea: skills of the experts and of what is published, and what the replay cost."""
    later = replace(panel, dates=panel.dates + 2)  # what comes on Mondays comes on Wednesdays
    few = {"backtest": {"refits": max(1, params.backtest.refits // 2)}}
    rows = []
    for idea, (change, without) in IDEAS.items():
        began = time.process_time()
        changed = Params.model_validate(merge(merge(params.model_dump(mode="json"), few), change))
        with ExitStack() as stack:
            if "grid" in without:
                stack.enter_context(mock.patch.object(grid, "of", lambda panel: None))
            if "side" in without:
                stack.enter_context(mock.patch.object(gbm.Trees, "upward", lambda *given: None))
            if "forgetting" in without:
                stack.enter_context(mock.patch.multiple(forking, FORGET=0.0, HAZE=0.0))
            if "habit" in without:
                stack.enter_context(mock.patch.object(spells, "habit", lambda panel: np.zeros(7)))
            if "levels" in without:
                stack.enter_context(mock.patch.object(spells, "read", no_levels))
            value = values(replayed(*halves(later if "mondays" in without else panel), changed), changed)
        skill = skills(value)
        names = ("lstm", "gbm", "blend", "published")
        rows.append({"data": data, "idea": idea, **{f"skill of {n}" if n != "published" else n: skill[n] for n in names}})
        rows[-1]["CPU s"] = time.process_time() - began
    return pd.DataFrame(rows)


def starts(panel: panels.Panel, params: Params, data: str) -> pd.DataFrame:
    """A row a length of history and window: the blend from each start, the table, and what would have been published.

    Of each history the last four weeks are forecast, from weekly origins, by experts that learnt from the other half until the
    first of them; the gate has what evidence such a history gives.
    """
    changed = Params.model_validate(merge(params.model_dump(mode="json"), {"backtest": {"origins": 4, "refits": 6}}))
    rows, shipped = [], training.shipped(changed)
    if shipped is None:
        return pd.DataFrame(rows)
    for days in SHORT:
        for whole in windows(panel, params, days + 28):
            asked, teacher = halves(whole.last(days + 28))
            dates = backtest.origins(asked, changed)
            view = teacher.until(dates[0])
            networks = {
                "zero-shot": shipped,
                "fine-tuned": training.first(view, changed),
                "cold": models.fit(changed.model.name, view, **training.hyper(changed)),
            }
            trees, row = gbm.fit(view, changed.horizon, changed.seed), {}
            for name, network in networks.items():
                spoken = models.baselines(asked) | {"lstm": experts.Experts(network, trees)}
                record = [backtest.ask(asked, date, changed, spoken) for date in dates]
                saved = skills(values(backtest.frame(record, asked.ids, changed), changed))
                row |= {name: saved["blend" if trees else "lstm_table"], "table": saved["table"]}
            row["published"] = skills(values(replayed(asked, teacher, changed), changed))["published"]
            rows.append({"data": data, "days of history": days, "until": str(whole.as_of), **row})
    return pd.DataFrame(rows)


def skills(value: pd.Series) -> pd.Series:
    """By model: the share of the last value's relative quantile score that it saves. value: as ``values`` returns it."""
    score = value.xs("rel_ql", level="metric").xs("all", level="slice")
    return 1 - score / score[SAFE]
