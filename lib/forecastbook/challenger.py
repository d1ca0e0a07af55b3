"""The challenger: where it starts, how it is trained, and whether it replaces the champion."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from forecastbook import backtest, models, training
from forecastbook.files import copy_model, part_name, write_json
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.run import Run
from forecastbook.trades import SALES
from forecastbook.wording import change, model_name, period_name, share1, span

SERIES = 2000  # that a duel is fought over, a seeded sample of a larger panel

log = logging.getLogger("forecastbook")


@dataclass
class Start:
    """Where a training starts. kind: 'champion', 'checkpoint', 'shipped', 'cold' or 'none' (too little history for a network).

    model: the one to fine-tune, None for a cold start. rival: the model that the result must beat, None when there is none.
    said: the same in a sentence.
    """

    kind: str
    model: object | None
    said: str
    path: Path | None = None
    rival: object | None = None

    @property
    def called(self) -> str:
        """What the rival is, in words."""
        if self.kind == "shipped" and self.path is None:  # else the champion of another shape is the rival
            return "base network"
        return "checkpoint" if self.kind == "checkpoint" else "champion"


def start(run: Run, panel: Panel) -> Start:
    """The champion before this as-of date, the checkpoint that ``finetune.base`` names, the shipped base, or nothing.

    Without a champion that can be fine-tuned, it is the base network that the package carries, where its shape is the one that
    the params ask for; else a cold start. A champion of another shape, or one that has not met what ``make tune`` chose since,
    stays the rival that the new network must beat. Raises the model's own error when a checkpoint is missing or does not fit.
    """
    params, base = run.params, run.params.finetune.base
    given = _checkpoint(Path(base), params) if base not in ("champion", "anew", "none") else None
    if reason := training.trainable(panel, params, held=_held(params)):
        speaks = f"The checkpoint {base} speaks as it is" if given else "The baselines forecast"
        if not given and (given := training.shipped(params)):
            speaks = "The base network that comes with forecastbook speaks as it is"
        return Start("none", given, f"No network is trained: {reason}. {speaks}.")
    if given:
        return Start("checkpoint", given, f"Fine-tuned from the checkpoint {base}.", Path(base), given)
    champion = run.champion() if base in ("champion", "anew") else None
    if champion is None:
        asked = "the params ask for a start from nothing (finetune.base: none)"
        return _anew(panel, params, asked if base == "none" else "no earlier run has left a champion")
    path = run.home / champion["path"]
    model = models.load(path)
    if isinstance(model, models.Baseline):
        return _anew(panel, params, f"the champion of {champion['as_of']} is the baseline {model.name}")
    if not models.made_by(params.model.name, model):
        return _anew(panel, params, f"the champion of {champion['as_of']} is a model of something else")
    if base == "anew":
        return _anew(panel, params, "the params ask for a new network each time (finetune.base: anew)", path, model)
    wanted, tuned = training.hyper(params), run.manifest.get("tuned")
    met = tuned if tuned and tuned == champion.get("tuned") else {}  # made with it, or better than what was
    fixed = [k for k in models.shape(params.model.name) if k not in met]
    other = [k for k in fixed if wanted[k] not in (None, model.hyper[k])]  # None: as it is
    its = f"the champion of {champion['as_of']}"
    chosen = f"make tune has chosen since {its}"
    if other:
        said = ", ".join(f"{k} {model.hyper[k]} -> {wanted[k]}" for k in other)
        found = set(other) <= set(tuned or ())  # else the params ask for it
        why = f"{chosen if found else f'{its} has another architecture'} ({said})"
        log.warning("a new network is trained: %s", why)
        return _anew(panel, params, why, path, model)
    if tuned and not met:
        return _anew(panel, params, chosen, path, model)
    said = f"Fine-tuned from the champion of {champion['as_of']} ({champion['run_id']})."
    return Start("champion", model, said, path, model)


def _anew(panel: Panel, params: Params, why: str, path: Path | None = None, rival=None) -> Start:
    """A start without a champion to go on from: the shipped base, or nothing."""
    base, unit, held = training.shipped(params), period_name(params.freq), params.finetune.validation_days
    last = "last is" if held == 1 else f"last {held:,} are"
    on = f"on {span(len(panel.dates), unit)}; the {last} held out to judge it"
    if base is None:
        return Start("cold", None, f"Cold start: {why}. The network learns from nothing {on}.", path, rival)
    said = f"The base network that comes with forecastbook is fine-tuned {on}: {why}."
    return Start("shipped", base, said, path, rival or base)


def _checkpoint(path: Path, params: Params):
    if path.is_dir():
        model, name = models.load(path), params.model.name
        if isinstance(model, models.Baseline) or not models.made_by(name, model):
            raise models.ModelError(
                f"finetune.base {path}: holds no {name} network; name the model directory of a run that kept one"
            )
        return model
    return models.checkpoint(params.model.name, path, **training.hyper(params))


def train(begun: Start, panel: Panel, params: Params, progress: bool = False):
    """The challenger: fine-tuned from where it starts, trained from nothing on a cold start; None when none can be trained.

    It has not seen the last ``validation_days`` periods: a network of prices holds them out itself, one of sales, whose
    histories are short, is trained once more on all of them when it has won (``settle``).
    """
    return _train(begun, panel.until(panel.dates[max(len(panel.dates) - 1 - _held(params), 0)]), params, progress)


def _held(params: Params) -> int:
    """How many of the last periods a challenger is not given before it is judged; a network of prices holds its own out."""
    return params.finetune.validation_days if params.trade is SALES else 0


def _train(begun: Start, panel: Panel, params: Params, progress: bool = False):
    if begun.kind == "none":
        return None
    training.tell(panel, f"training the challenger on {len(panel):,} series up to {panel.as_of}")
    if begun.kind in ("cold", "shipped"):
        return training.first(panel, params, progress=progress)
    return models.finetune(begun.model, panel, progress=progress, parent=begun.said, **training.finetune_hyper(params))


def duel(panel: Panel, params: Params, contenders: dict) -> pd.DataFrame:
    """Contenders and the safe baseline on the held-out last periods, an origin each: model, origin, rel_ql, rel_mae.

    contenders: name -> model or None (left out). Targets that one of them has been trained on are left out for all. A network
    of prices holds these periods out itself, though its training was stopped by the loss on them, which favours the challenger
    a little. The gate on rolling origins has the last word.
    """
    panel = panel.sample(SERIES, params.seed)
    asked = {name: model for name, model in contenders.items() if model is not None}
    seen = max((_learnt(model) for model in asked.values()), default=panel.dates[0])
    safe = params.trade.safe
    asked[safe] = models.fit(safe, panel, params.trade)
    rows = []
    for date in _contests(panel, params):
        at = backtest.ask(panel, date, params, asked)
        scored = at.scored & (at.ts > seen)
        if scored.any():
            rows += [
                (
                    name,
                    pd.Timestamp(at.date),
                    backtest.quantile_score(at, at.q[name], params)[scored].mean(),
                    backtest.point_error(at, name, params)[scored].mean(),
                )
                for name in asked
            ]
    return pd.DataFrame(rows, columns=["model", "origin", "rel_ql", "rel_mae"])


def _learnt(model) -> np.datetime64:
    """The last period of the job's that a network was trained on; the shipped base has seen none."""
    until = model.info.get("trained_until") if model.info.get("id") != models.SHIPPED else None
    return np.datetime64(until or "0001-01-01", "D")


def _contests(panel: Panel, params: Params) -> np.ndarray:
    """The origins of a duel: all that have every target among the held-out periods; of sales all that have one there."""
    T = len(panel.dates)
    if params.trade is SALES:
        return panel.dates[max(T - 1 - params.finetune.validation_days, 0) : T - 1]
    last = T - 1 - params.horizon
    count = max(params.finetune.validation_days - params.horizon + 1, 1)
    return panel.dates[max(last - count + 1, params.model.sequence_length) : max(last + 1, 0)]


def settle(run: Run, panel: Panel, begun: Start, challenger, outcome: pd.DataFrame) -> str:
    """Put the better of challenger and champion into ``model/``, enter a new champion; returns the verdict in a sentence.

    A challenger that is not better than the model it started from on held-out time is rolled back, and so is one that nothing
    could be compared on. A network whose error is not a number is never kept. Beside a network, trees are grown anew.
    """
    home = training.experts_of(run.params)
    with ThreadPoolExecutor(1) as beside:  # as in training.train
        trees = beside.submit(home.grow, panel, run.params)
        said = _settled(run, panel, begun, challenger, outcome)
        home.plant(trees.result(), run.dir / "model")
    return said


def _settled(run: Run, panel: Panel, begun: Start, challenger, outcome: pd.DataFrame) -> str:
    means, trade = _means(outcome)["rel_ql"], run.params.trade
    target, safe_model = run.dir / "model", models.Baseline(trade.safe, trade)
    if challenger is None:
        models.save(begun.model or safe_model, target)
        return begun.said
    mine, safe, before = (means.get(name, np.nan) for name in ("challenger", trade.safe, "champion"))
    against = f"{change(1 - mine / safe)} against {trade.safe_words}" if safe > 0 else "no error to compare with"
    if begun.rival is not None and not (mine < before or (np.isnan(before) and np.isfinite(mine))):
        if begun.path is not None and begun.path.is_dir():
            copy_model(begun.path, target)
        else:  # the base that the package carries, or a bare file of weights
            _put(run, begun.rival, target)
        _describe(target, rolled_back=True)
        told = (
            f"training did not lower the held-out quantile score ({mine:.5f} against {before:.5f} of the {begun.called})"
            if np.isfinite(before)
            else "no held-out origin shows that training helped"
        )
        tuned, champion = run.manifest.get("tuned"), run.champion()
        if begun.kind in ("cold", "shipped") and tuned and champion and champion.get("tuned") != tuned:  # told once
            run.crown(f"kept: what make tune chose has lost to it; {told}", champion)
        return f"Rolled back: {told}, so the {begun.called}'s weights forecast again."
    if "challenger" in means and np.isnan(mine):
        models.save(safe_model, target)
        return "No network is kept: its held-out error is not a number, so its training failed. The baselines forecast."
    _put(run, _whole(panel, run.params, begun, challenger), target)
    gained = f", {share1(1 - mine / before)} lower than the {begun.called}'s" if np.isfinite(before) else ""
    judged = f"held-out quantile score {mine:.5f}{gained}" if np.isfinite(mine) else "no held-out origin to judge it by"
    run.crown(f"{judged}; {against}")
    return f"The challenger becomes the champion: {judged} ({against})."


def _whole(panel: Panel, params: Params, begun: Start, challenger):
    """The challenger that has won, as it will forecast: of sales trained again, now on all periods."""
    return _train(begun, panel, params) if params.trade is SALES else challenger


def _put(run: Run, model, target: Path) -> None:
    """Save a model so that ``target`` is the old directory or the whole new one."""
    part = part_name(target.with_name("trained"))
    try:
        models.save(model, part)
        copy_model(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _describe(directory: Path, **entries) -> None:
    path = directory / "model.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, described | entries)


def spoken(run: Run) -> set[str]:
    """What could be published without any record: the trade's trusted candidate, where anybody was trained."""
    if run.params.trade.trusted is None:
        return set()
    return {run.params.trade.trusted} if training.experts_of(run.params).load(run.dir / "model") else set()


def _means(outcome: pd.DataFrame) -> pd.DataFrame:
    """Mean errors of a duel by model; one that is no number at an origin has none."""
    return outcome.groupby("model")[["rel_ql", "rel_mae"]].agg(lambda errors: errors.mean(skipna=False))


def means(outcome: pd.DataFrame, champion: str = "champion") -> pd.DataFrame:
    """A duel's mean errors, one row a contender, best first: relative to the last price, or in units sold.

    champion: what it is called (``Start.called``).
    """
    table = _means(outcome).sort_values("rel_ql").reset_index()
    table["model"] = table["model"].map(lambda name: model_name(name, champion))
    return table.rename(columns={"rel_ql": "quantile score", "rel_mae": "absolute error"})


def history(model) -> list[dict]:
    """Losses by step, as the figure takes them; empty when no network was trained."""
    rows = [] if model is None else model.history
    return [{"step": r["step"], "train": r["train_loss"], "validation": r["validation_loss"]} for r in rows]


def summary(model) -> str:
    """What was trained, in a sentence."""
    if model is None:
        return "No network was trained."
    i = model.info
    return (
        f"{i['parameters']:,} weights, {i['n_origins']:,} origins of {i['n_series']:,} series, {i['trained_from']} to "
        f"{i['trained_until']}, on {i['device']}: {i['seconds']:.0f} s; epoch {i['kept_epoch']} is kept."
    )
