"""The search, with a real Ray: what a failed trial, a killed search and a short history do."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pytest

from conftest import TINY, made_run, posted_panel, posted_prices, tiny
from forecastbook import tuning, views, wording
from forecastbook.params import Params
from forecastbook.run import Run
from forecastbook.yamlfile import merge

pytestmark = pytest.mark.timeout(280)


def searched(space: dict, **tune) -> object:
    return tiny(tune={"space": space, "trials": 3, "concurrent": 1, "budget_seconds": 120, "series": 8, "grace": 1, **tune})


def ray_processes(*drivers: int) -> list[str]:
    """Ray's servers that this process, or one of the ``drivers``, started: the session in their command names its pid."""
    mark = re.compile(rf"session_[\d_-]+_({'|'.join(map(str, (os.getpid(), *drivers)))})\b")
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] in ("raylet", "gcs_server") and mark.search(" ".join(process.info["cmdline"] or [])):
            found.append(process.info["name"])
    return found


def test_a_search_is_taken_up_again_on_the_same_data_only(tmp_path):
    run = made_run(tmp_path, searched({"hidden_size": [4]}), posted_prices(4, 40))
    before = tuning.kept_as(run)
    assert tuning.kept_as(Run(run.dir)) == before
    run.note(fingerprint="of other data")
    assert tuning.kept_as(run) != before


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"name": "lstm"}, "negative log score"),
        ({"name": "lstm", "window": "single"}, "squared error"),
        ({"name": "tide"}, "negative log score"),
        ({"name": "tide", "head": "quantile"}, "quantile loss"),
    ],
)
def test_the_loss_that_trials_are_compared_by_has_its_name(model, name):
    assert tuning.loss_name(Params.model_validate({"model": model, "source": {"kind": "file", "path": "a.csv"}})) == name


def test_the_spans_follow_each_other():
    panel = posted_panel(6, 120, seed=1)
    spans = tuning.splits(panel, searched({"hidden_size": [4]}))
    (a, b), (c, d), (e, f) = spans["train"], spans["validation"], spans["test"]
    assert a == panel.dates[0] and a < b < c < d < e < f == panel.as_of
    assert (d - c).astype(int) + 1 >= 14 and (f - e).astype(int) + 1 >= 14


def test_too_little_history_is_said():
    with pytest.raises(tuning.TuningError, match="periods of history are too few"):
        tuning.splits(posted_panel(3, 40, seed=1), searched({"hidden_size": [4]}))


def test_draws_stay_in_the_space():
    rng, space = np.random.default_rng(0), {"hidden_size": [4, 8], "learning_rate": [1e-4, 1e-2], "dropout": [0.0, 0.3]}
    drawn = [tuning._draw(space, rng) for _ in range(200)]
    assert {d["hidden_size"] for d in drawn} == {4, 8}
    assert all(1e-4 <= d["learning_rate"] <= 1e-2 and 0 <= d["dropout"] <= 0.3 for d in drawn)
    assert 0.3 < sum(d["learning_rate"] < 1e-3 for d in drawn) / 200 < 0.7, "a range over decades is drawn on a log scale"


def test_values_that_no_network_can_have_together_are_not_tried():
    """Attention looks back on the states of a recurrence, and a network without layers has none."""
    plain, attentive = (searched({"num_layers": [0, 1]}, use=True), tiny(model={"attention": True}))
    assert tuning._possible({"num_layers": 0}, plain) and not tuning._possible({"num_layers": 0, "attention": True}, plain)
    assert tuning._possible({"num_layers": 1}, attentive) and not tuning._possible({"num_layers": 0}, attentive)


def test_trials_are_told_as_a_reader_needs_them():
    params = searched({"hidden_size": [4, 8], "learning_rate": [1e-4, 1e-2]})
    columns = {"trial": [1, 2], "state": ["finished", "stopped early"], "epochs": [5, 2], "seconds": 1.0, "score": [0.7, 0.6]}
    results = pd.DataFrame(columns | {"hidden_size": ["4", "8"], "learning_rate": ["0.003", "0.00962027847402711"]})
    search = tuning.Search(params, results, {})
    assert search.table()["trial"].tolist() == [2, 1] and search.table()["hidden_size"].tolist() == [8, 4]
    assert search.table()["learning_rate"].tolist() == [0.00962, 0.003] and search.best["learning_rate"] == 0.00962027847402711
    assert tuning.space_table(params)["in use"].tolist() == [str(params.model.hidden_size), str(params.model.learning_rate)]
    outcome = pd.DataFrame({"contender": ["winner", "last_value"], "relative quantile score": [0.1, 0.2]})
    shown = views.contenders(outcome, params)
    assert "last value</td>" in shown and "quantile score / last price" in shown


class Told:
    """What Ray returns of a trial that has reported these losses, and whether it came to its end."""

    def __init__(self, losses, whole=False, error=None):
        rows = [{tuning.SCORE: loss, "epoch": k, "whole": False} for k, loss in enumerate(losses, 1)]
        rows += [rows[-1] | {"whole": True}] if whole else []
        self.metrics_dataframe = pd.DataFrame(rows).assign(time_total_s=1.0) if rows else None
        self.config, self.error = {"hyper": {"hidden_size": 4}}, error


def test_a_trial_that_others_left_behind_is_not_called_finished():
    params = tiny(model={"epochs": 3}, tune={"space": {"hidden_size": [4]}})
    whole, some = [0.5] * 3, [0.5] * 2
    told = [Told(whole), Told(some), Told(some, whole=True), Told([]), Told(some, error="no")]
    table = tuning._table(told, params)
    assert table["state"].tolist() == ["finished", "stopped early", "finished", "no epoch finished", "failed"]
    old = Told(whole)  # as an earlier version has left it
    old.metrics_dataframe = old.metrics_dataframe.drop(columns="whole")
    assert tuning._table([old], params)["state"].tolist() == ["finished"]
    assert table["trial"].tolist() == [1, 2, 3, 4, 5] and table["epochs"].tolist() == [
        len(whole),
        *[len(some)] * 2,
        0,
        len(some),
    ]


def test_a_failed_trial_leaves_the_rest_and_the_winner_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_possible", lambda drawn, params: True)
    run = made_run(tmp_path, searched({"hidden_size": [4, 6]}), posted_prices(10, 130, seed=2))
    run.params.tune.space["hidden_size"].insert(1, 0)  # no network has 0 units: that trial raises
    panel = run.panel()
    search = tuning.search(run, panel)
    states = dict(zip(search.results["hidden_size"], search.results["state"], strict=True))
    assert states.pop("0") == "failed" and set(states.values()) == {"finished"}
    assert search.best["hidden_size"] in (4, 6) and not ray_processes()
    outcome = search.judge(panel)
    assert set(outcome["contender"]) == {"winner", "in use", "last_value"} and outcome["relative quantile score"].notna().all()
    outcome.loc[outcome["contender"] == "winner", "relative quantile score"] = 0.0
    assert search.keep(run, outcome).endswith(f": hidden_size {search.best['hidden_size']}.")
    assert wording.settings({"hidden_size": 64, "dropout": 0.23270570707355803}) == "hidden_size 64, dropout 0.2327"
    assert json.loads((run.home / "tuned.json").read_text())["hyper"] == search.best
    outcome.loc[outcome["contender"] == "winner", "relative quantile score"] = 9.0
    (run.home / "tuned.json").unlink()
    assert "in use stays" in search.keep(run, outcome) and not (run.home / "tuned.json").exists()


def test_all_trials_failing_is_a_clear_stop(tmp_path):
    run = made_run(tmp_path, searched({"batch_size": [8]}, trials=1), posted_prices(8, 130, seed=3))
    run.params.tune.space["batch_size"][0] = -1
    object.__setattr__(run.params.model, "batch_size", -2)  # the first trial is what is in use: it must fail too
    with pytest.raises(tuning.TuningError, match="the search gave no result"):
        tuning.search(run, run.panel())
    assert not ray_processes()


def started(tmp_path, budget: int = 600):
    """A run whose second trial takes seconds, a process that searches it, and what its trials have reported so far."""
    slow = {"model": TINY["model"] | {"epochs": 20, "max_steps": 200}, "finetune": TINY["finetune"] | {"patience": 20}}
    params = searched({"hidden_size": [256]}, trials=2, grace=20, budget_seconds=budget)
    run = made_run(tmp_path, Params.model_validate(merge(params.model_dump(), slow)), posted_prices(10, 130, seed=2))
    code = (
        "from forecastbook import tuning; from forecastbook.run import Run\n"
        f"run = Run({str(run.dir)!r}); print(tuning.search(run, run.panel()).table().to_json())"
    )
    often = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0.2"}  # how often Ray writes down where it is
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    searching = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=often, **pipes)
    return run, searching, lambda: [path.read_text() for path in sorted((run.dir / "tune").rglob("result.json"))]


def await_reports(searching, reported, trials: int) -> None:
    deadline = time.monotonic() + 120
    while len([text for text in reported() if text]) < trials and time.monotonic() < deadline and searching.poll() is None:
        time.sleep(0.05)


def test_a_killed_search_is_resumed(tmp_path):
    run, searching, reported = started(tmp_path)
    await_reports(searching, reported, 2)
    assert set(ray_processes(searching.pid)) == {"raylet", "gcs_server"}, "they are known while they run"
    tree = [psutil.Process(searching.pid), *psutil.Process(searching.pid).children(recursive=True)]
    for process in tree:
        process.kill()
    psutil.wait_procs(tree, timeout=20)
    first, second = reported()
    assert len(first.splitlines()) == 20 and 0 < len(second.splitlines()) < 20, "it was to be killed in the second trial"
    search = tuning.search(Run(run.dir), run.panel())
    assert (search.results["state"] == "finished").all() and reported()[0] == first
    assert not ray_processes(searching.pid)


def test_a_trial_that_hangs_is_given_up_with_the_budget(tmp_path):
    run, searching, reported = started(tmp_path, budget=25)  # which a slow machine needs to start a trial
    await_reports(searching, reported, 1)
    below = psutil.Process(searching.pid).children(recursive=True)
    trials = [process for process in below if process.name().startswith("ray::ImplicitFun")]
    assert trials
    for trial in trials:
        trial.suspend()
    try:
        said, _ = searching.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # leave nobody behind, stopped processes least of all
        for process in [*below, searching]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise
    assert searching.returncode == 0 and not ray_processes(searching.pid)
    table = pd.read_json(io.StringIO(said))
    assert table["score"].notna().any() and (table["epochs"] < 20).all(), "it was to hang in the first trial"
