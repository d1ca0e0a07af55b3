"""The challenger: where it starts, how it is trained, and whether it replaces the champion."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from forecastbook import backtest, gbm, lstm, models
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.roster import trainable
from forecastbook.run import Run, copy_model

SECONDS = 2000  # series that a duel is fought over, a seeded sample of a larger panel

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


def start(run: Run, panel: Panel) -> Start:
    """The champion before this as-of date, the checkpoint that ``finetune.base`` names, the shipped base, or nothing.

    Without a champion that can be fine-tuned, it is the base network that the package carries, where its shape is the one that
    the params ask for; else a cold start. A champion of another shape stays the rival that the new network must beat.
    Raises the model's own error when a checkpoint is missing or does not fit.
    """
    params, base = run.params, run.params.finetune.base
    if reason := trainable(panel, params):
        given = backtest.shipped(params)
        speaks = "The base network that comes with forecastbook speaks as it is" if given else "The baselines forecast"
        return Start("none", given, f"No network is trained: {reason}. {speaks}.")
    if base not in ("champion", "none"):
        given = _checkpoint(Path(base), params)
        return Start("checkpoint", given, f"Fine-tuned from the checkpoint {base}.", Path(base), given)
    champion = run.champion() if base == "champion" else None
    if champion is None:
        return _anew(panel, params, "no champion exists yet" if base == "champion" else "finetune.base is none")
    path = run.home / champion["path"]
    model = models.load(path)
    if isinstance(model, models.Baseline):
        return _anew(panel, params, f"the champion of {champion['as_of']} is the baseline {model.name}")
    wanted = backtest.hyper(params)
    other = [f"{k} {model.hyper[k]} -> {wanted[k]}" for k in models.SHAPE if model.hyper[k] != wanted[k]]
    if other:
        why = f"the champion of {champion['as_of']} has another architecture ({', '.join(other)})"
        log.warning("a new network is trained: %s", why)
        return _anew(panel, params, why, path, model)
    said = f"Fine-tuned from the champion of {champion['as_of']} ({champion['run_id']})."
    return Start("champion", model, said, path, model)


def _anew(panel: Panel, params: Params, why: str, path: Path | None = None, rival=None) -> Start:
    """A start without a champion to go on from: the shipped base, or nothing."""
    base = backtest.shipped(params)
    if base is None:
        said = f"Cold start: {why}, so the network was trained from nothing on all {len(panel.dates)} periods."
        return Start("cold", None, said, path, rival)
    said = f"Fine-tuned from the base network that comes with forecastbook on all {len(panel.dates)} periods: {why}."
    return Start("shipped", base, said, path or lstm.BASE, rival or base)


def _checkpoint(path: Path, params: Params):
    if path.is_dir():
        return models.load(path)
    return models.checkpoint(
        params.model.name,
        path,
        **{k: v for k, v in backtest.hyper(params).items() if k not in ("seed", "validation_days", "patience")},
    )


def train(origin: Start, panel: Panel, params: Params, progress: bool = False):
    """The challenger: fine-tuned from where it starts, trained from nothing on a cold start; None when none can be trained."""
    if origin.kind == "none":
        return None
    if origin.kind in ("cold", "shipped"):
        return backtest.first(panel, params, progress=progress)
    return models.finetune(origin.model, panel, progress=progress, parent=origin.said, **backtest.finetune_hyper(params))


def duel(panel: Panel, params: Params, contenders: dict) -> pd.DataFrame:
    """Contenders and the last value on the held-out last periods, an origin a day: model, origin, rel_ql, rel_mae.

    contenders: name -> model or None (left out). None was trained on a target of these origins; the challenger's training was
    stopped by the loss on them, which favours it a little, so the gate on rolling origins has the last word.
    """
    panel = panel.sample(SECONDS, params.seed)
    asked = {name: model for name, model in contenders.items() if model is not None}
    asked[backtest.SAFE] = models.fit(backtest.SAFE, panel)
    last = len(panel.dates) - 1 - params.horizon
    count = max(params.finetune.validation_days - params.horizon + 1, 1)
    rows = []
    for i in range(max(last - count + 1, params.model.sequence_length), last + 1):
        at = backtest.ask(panel, panel.dates[i], params, asked)
        scored = (at.status == "model")[:, None] & np.isfinite(at.y)
        if scored.any():
            rows += [
                (
                    name,
                    pd.Timestamp(at.date),
                    backtest.quantile_error(at, at.q[name], params)[scored].mean(),
                    backtest.point_error(at, name, params)[scored].mean(),
                )
                for name in asked
            ]
    return pd.DataFrame(rows, columns=["model", "origin", "rel_ql", "rel_mae"])


def settle(run: Run, origin: Start, challenger, outcome: pd.DataFrame) -> str:
    """Put the better of challenger and champion into ``model/``, enter a new champion; returns the verdict in a sentence.

    A challenger that is not better than the model it started from on held-out time is rolled back, and so is one that nothing
    could be compared on. A network whose error is not a number is never kept. Beside a network, trees are grown anew.
    """
    said = _settled(run, origin, challenger, outcome)
    target = run.dir / "model"
    (target / gbm.FILE).unlink(missing_ok=True)  # of the run whose network forecasts again
    network = models.load(target)
    if not isinstance(network, models.Baseline):
        trees = gbm.fit(run.panel(), run.params.horizon, run.params.seed)
        if trees is not None:
            gbm.save(trees, target)
    return said


def _settled(run: Run, origin: Start, challenger, outcome: pd.DataFrame) -> str:
    means = outcome.groupby("model")["rel_ql"].mean()
    target = run.dir / "model"
    if challenger is None:
        models.save(origin.model or models.fit(backtest.SAFE, run.panel()), target)
        return origin.said
    mine, safe, before = (means.get(name, np.nan) for name in ("challenger", backtest.SAFE, "champion"))
    against = f"{1 - mine / safe:+.1%} against the last value" if safe > 0 else "no error to compare with"
    base = origin.kind == "shipped" and origin.path == lstm.BASE  # else the champion of another shape is the rival
    rival = "base network" if base else "checkpoint" if origin.kind == "checkpoint" else "champion"
    if origin.rival is not None and not (mine < before or (np.isnan(before) and np.isfinite(mine))):
        if origin.path.is_dir():
            copy_model(origin.path, target)
        else:  # a bare file of weights
            _put(run, origin.rival, target)
        _describe(target, rolled_back=True)
        told = (
            f"training did not lower the held-out quantile error ({mine:.5f} against {before:.5f} of the {rival})"
            if np.isfinite(before)
            else "no held-out origin shows that training helped"
        )
        return f"Rolled back: {told}, so the {rival}'s weights forecast again."
    if "challenger" in means and np.isnan(mine):
        models.save(models.fit(backtest.SAFE, run.panel()), target)
        return "No network is kept: its held-out error is not a number, so its training failed. The baselines forecast."
    _put(run, challenger, target)
    gained = f", {1 - mine / before:.1%} lower than the {rival}'s" if np.isfinite(before) else ""
    judged = f"held-out quantile error {mine:.5f}{gained}" if np.isfinite(mine) else "no held-out origin to judge it by"
    run.crown(f"{judged}; {against}")
    return f"The challenger becomes the champion: {judged} ({against})."


def _put(run: Run, model, target: Path) -> None:
    """Save a model so that ``target`` is the old directory or the whole new one."""
    with tempfile.TemporaryDirectory(dir=run.dir, prefix=".model.") as part:
        models.save(model, Path(part))
        copy_model(Path(part), target)


def _describe(directory: Path, **entries) -> None:
    path = directory / "model.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(described | entries, indent=1) + "\n", encoding="utf-8")


def means(outcome: pd.DataFrame) -> pd.DataFrame:
    """A duel's mean errors, one row a contender, best first."""
    table = outcome.groupby("model")[["rel_ql", "rel_mae"]].mean().sort_values("rel_ql").reset_index()
    return table.rename(columns={"rel_ql": "quantile error, share of price", "rel_mae": "absolute error, share of price"})


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
