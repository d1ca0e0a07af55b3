"""The search for hyperparameters: Ray Tune with ASHA, on origins that lie after everything a trial was trained on.

Three spans of the panel follow each other in time. A trial trains on the first, is stopped early and compared on the second by
the loss that its network is trained by (``loss_name``), and the winner is judged on the third against what is in use and the
safe baseline. Ray is imported only here, and only when a search runs.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forecastbook import backtest, models, training
from forecastbook.files import write_json
from forecastbook.panel import Panel
from forecastbook.params import Params, digest, hyperparameters
from forecastbook.run import Run
from forecastbook.wording import EARLY, settings, share1

log = logging.getLogger("forecastbook")
SCORE = "validation_loss"
FORMATS = {"score": ".4f", "seconds": ".3g"}  # how the columns of these tables are shown


class TuningError(RuntimeError):
    """A search that gave nothing to go by."""


def splits(panel: Panel, params: Params) -> dict[str, tuple]:
    """First and last day of the spans 'train', 'validation' and 'test', in time order.

    Validation and test are each ``finetune.validation_days`` long, at least two horizons. Raises TuningError when the history
    is too short to hold all three.
    """
    held = max(params.finetune.validation_days, 2 * params.horizon)
    T, first = len(panel.dates), params.model.sequence_length
    if first + 3 * held > T:
        raise TuningError(f"{T} periods of history are too few to tune on: {first + 3 * held} are needed; what is in use stays")
    cut = [0, T - 2 * held, T - held, T]
    names = ("train", "validation", "test")
    return {name: (panel.dates[a], panel.dates[b - 1]) for name, a, b in zip(names, cut[:-1], cut[1:], strict=True)}


def loss_name(params: Params) -> str:
    """What the networks of a job are trained by, and trials compared by."""
    if getattr(params.model, "head", None) == "quantile":
        return "quantile loss"
    return "squared error" if getattr(params.model, "window", None) == "single" else "negative log score"


def space_table(params: Params) -> pd.DataFrame:
    """What is searched: hyperparameter, the value in use, and the values or the range tried."""
    used = params.model.model_dump()
    rows = [(name, str(used.get(name)), _shown(values)) for name, values in params.tune.space.items()]
    return pd.DataFrame(rows, columns=["hyperparameter", "in use", "tried"])


def _shown(values: list) -> str:
    return f"{values[0]:g} to {values[1]:g}" if _is_range(values) else ", ".join(map(str, values))


def _rounded(value):
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _is_range(values: list) -> bool:
    return len(values) == 2 and all(isinstance(v, float) for v in values)


def _draw(space: dict[str, list], rng: np.random.Generator) -> dict:
    """One draw: a choice of a list, or a number between two floats (on a log scale when they span a factor of 10 or more)."""
    out = {}
    for name, values in space.items():
        if not _is_range(values):
            out[name] = values[int(rng.integers(len(values)))]
        elif values[0] > 0 and values[1] / values[0] >= 10:
            out[name] = float(np.exp(rng.uniform(np.log(values[0]), np.log(values[1]))))
        else:
            out[name] = float(rng.uniform(*values))
    return out


def _possible(drawn: dict, params: Params) -> bool:
    """Whether a network can be built with these values together: each alone has been looked at."""
    try:
        hyperparameters(params.model.name, params.model.model_dump() | drawn)
    except ValueError:
        return False
    return True


@dataclass
class Search:
    """A finished search. results: a row a trial, in the order drawn: trial (from 1 on), state, epochs, seconds, score (NaN of
    a failed one) and its values as JSON."""

    params: Params
    results: pd.DataFrame
    used: dict

    @property
    def best(self) -> dict:
        """The values of the trial with the lowest score."""
        row = self.results.sort_values("score", kind="stable").iloc[0]
        return {name: json.loads(row[name]) for name in self.params.tune.space}

    def table(self) -> pd.DataFrame:
        """The trials, best first, fractions to three digits."""
        values = {name: self.results[name].map(lambda text: _rounded(json.loads(text))) for name in self.params.tune.space}
        return self.results.assign(**values).sort_values("score", kind="stable").reset_index(drop=True)

    def judge(self, panel: Panel) -> pd.DataFrame:
        """Winner, what is in use and the safe baseline on the test span: contender, score. Both networks are trained once more,
        on everything before that span."""
        spans = splits(panel, self.params)
        view = panel.until(spans["validation"][1])
        asked = {"in use": _train(self.params, view, {})}
        asked["winner"] = asked["in use"] if self.best == self.used else _train(self.params, view, self.best)
        asked[self.params.trade.safe] = models.fit(self.params.trade.safe, view, self.params.trade)
        last = len(panel.dates) - 1 - self.params.horizon
        start = int(np.flatnonzero(panel.dates == spans["validation"][1])[0])
        errors = {name: [] for name in asked}
        for i in range(start, last + 1):
            at = backtest.ask(panel, panel.dates[i], self.params, asked)
            for name in asked:
                errors[name].append(backtest.quantile_score(at, at.q[name], self.params)[at.scored])
        rows = [(name, float(np.concatenate(parts).mean())) for name, parts in errors.items()]
        return pd.DataFrame(rows, columns=["contender", "relative quantile score"]).sort_values("relative quantile score")

    def keep(self, run: Run, outcome: pd.DataFrame) -> str:
        """Write the winner to ``tuned.json`` when it beat what is in use on the test span; says and notes what was done."""
        said = self._keep(run, outcome)
        run.note(search=said)
        return said

    def _keep(self, run: Run, outcome: pd.DataFrame) -> str:
        score = outcome.set_index("contender")["relative quantile score"]
        if not score["winner"] < score["in use"]:
            return f"What is in use stays: on the test span it scored {score['in use']:.5f}, the winner {score['winner']:.5f}."
        chosen = {"hyper": self.best, "run_id": run.id, "as_of": run.as_of.isoformat(), "scores": score.to_dict()}
        write_json(run.home / "tuned.json", chosen)
        gain = 1 - score["winner"] / score["in use"]
        return f"Kept for the next forecasts ({share1(gain)} better than what is in use): {settings(self.best)}."


def _train(params: Params, panel: Panel, over: dict, on_epoch=None):
    hyper = training.hyper(params) | {"validation_days": max(params.finetune.validation_days, 2 * params.horizon)} | over
    return models.fit(params.model.name, panel, on_epoch=on_epoch, **hyper)


def kept_as(run: Run) -> str:
    """The name under which a search is kept, and taken up again: of the same params on the same data."""
    return digest([run.params.hash(), run.manifest["fingerprint"]])[:12]


def _trial(config: dict, panel: Panel, params: Params) -> None:
    """One trial, in a process of Ray's: reports the validation loss after each epoch, and that it has come to its end."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    told = {}

    def report(row: dict) -> None:
        told.update({SCORE: row["validation_loss"], "epoch": row["epoch"]})
        tune.report(dict(told, whole=False))

    _train(params, panel, config["hyper"], report)
    if told:
        tune.report(told | {"whole": True})


def search(run: Run, panel: Panel) -> Search:
    """Search the space of the run's params; resumes what an earlier, interrupted search of this run left in ``<run>/tune``.

    The first trial is what is in use. Ends at ``tune.trials`` or ``tune.budget_seconds``, whichever is first. Uses the cluster
    at ``RAY_ADDRESS`` when that is set, else starts and ends its own. Raises TuningError when no trial finished an epoch.
    """
    params = run.params
    spans = splits(panel, params)
    view = panel.sample(params.tune.series, params.seed).until(spans["validation"][1])
    rng = np.random.default_rng(params.seed)
    used = {name: getattr(params.model, name) for name in params.tune.space}
    drawn = [used]
    for _ in range(20 * params.tune.trials):  # a small space runs out of new draws
        new = _draw(params.tune.space, rng)
        if len(drawn) < params.tune.trials and new not in drawn and _possible(new, params):
            drawn.append(new)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    address = os.environ.get("RAY_ADDRESS")
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # a socket's path may have 107 characters: not under the run
        own = {} if address else {"num_cpus": os.cpu_count(), "_temp_dir": short, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **own)
        try:
            trainable = functools.partial(_trial, panel=view, params=params)
            share = max(1, int((os.cpu_count() or 1) / params.tune.concurrent))
            trainable = tune.with_resources(trainable, {"cpu": share})
            storage, name = str((run.dir / "tune").resolve()), kept_as(run)
            path = f"{storage}/{name}"
            if tune.Tuner.can_restore(path):
                log.info("tuning resumes from %s", path)
                tuner = tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True, restart_errored=True)
            else:
                tuner = tune.Tuner(
                    trainable,
                    param_space={"hyper": tune.grid_search(drawn)},
                    tune_config=tune.TuneConfig(
                        metric=SCORE,
                        mode="min",
                        reuse_actors=True,  # else each trial starts a process, which takes longer than most trials
                        max_concurrent_trials=params.tune.concurrent,
                        time_budget_s=params.tune.budget_seconds,
                        scheduler=ASHAScheduler(
                            time_attr="epoch",
                            max_t=params.model.epochs,
                            grace_period=min(params.tune.grace, params.model.epochs),
                        ),
                    ),
                    run_config=tune.RunConfig(name=name, storage_path=storage, verbose=0, failure_config=tune.FailureConfig()),
                )
            results = tuner.fit()
        finally:
            ray.shutdown()
    return Search(params, _table(results, params), used)


def _table(results, params: Params) -> pd.DataFrame:
    rows = []
    for i, result in enumerate(results):
        frame = result.metrics_dataframe
        frame = pd.DataFrame() if frame is None else frame
        whole = frame["whole"].eq(True) if "whole" in frame else pd.Series(False, frame.index)  # not in an earlier version's
        epochs = frame[~whole] if SCORE in frame else pd.DataFrame()
        losses = epochs[SCORE].dropna() if len(epochs) else pd.Series(dtype=float)
        values = {name: json.dumps(result.config["hyper"][name]) for name in params.tune.space}
        seconds = float(frame["time_total_s"].iloc[-1]) if len(losses) else np.nan
        state = "failed" if result.error else "no epoch finished"
        if len(losses) and not result.error:  # the last epoch of all ends a trial before it can say that it has ended
            state = "finished" if whole.any() or epochs["epoch"].max() >= params.model.epochs else EARLY
        rows.append(
            {"trial": i + 1, "state": state, "epochs": len(losses), "seconds": seconds, "score": losses.min(), **values}
        )
    table = pd.DataFrame(rows)
    if not table["score"].notna().any():
        first = next(
            (str(r.error).splitlines()[-1] for r in results if r.error), "no trial finished an epoch within the budget"
        )
        raise TuningError(
            f"the search gave no result: {first}; raise tune.budget_seconds or look into the run's tune/ directory"
        )
    return table
