"""The challenger: where it starts, when it wins, when it is rolled back, and who was champion when."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import LEVELS, day, made_run, posted_panel, posted_prices, tiny
from forecastbook import backtest, challenger, experts, gbm, lstm, models, tide_model, training

PLAIN = {"attention": False, "window": "single"}
BASE = {"model": {"hidden_size": 64, "sequence_length": 30}}  # the shape of the network that the package carries


@pytest.fixture(scope="module")
def frame():
    return posted_prices(8, 80)


@pytest.fixture
def runs_at(tmp_path, frame):
    """Runs of one job at several as-of dates, all with a panel of what was known then."""

    def make(as_of, **over):
        date = day(as_of)
        return made_run(tmp_path, tiny(**over), frame[frame["ts"] <= pd.Timestamp(date)], date)

    return make


def outcome(**errors):
    """A duel by hand: each contender's error at three origins."""
    days = pd.date_range("2024-03-01", periods=3)
    rows = [(name, d, e, e) for name, e in errors.items() for d in days]
    return pd.DataFrame(rows, columns=["model", "origin", "rel_ql", "rel_mae"])


def crowned(run, seed=0):
    """A run whose tiny network has become the champion."""
    model = models.fit("lstm", run.panel(), **{**training.hyper(run.params), "seed": seed})
    challenger.settle(
        run, run.panel(), challenger.Start("cold", None, "Cold start."), model, outcome(challenger=0.1, last_value=0.2)
    )
    return model


def files(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


# ---- where it starts


def test_a_first_run_starts_cold_and_says_so(runs_at):
    run = runs_at("2024-03-10")
    start = challenger.start(run, run.panel())
    assert (start.kind, start.model) == ("cold", None) and "Cold start: no earlier run has left a champion" in start.said


def test_a_later_run_starts_from_the_champion(runs_at):
    model = crowned(runs_at("2024-03-10"))
    run = runs_at("2024-03-15")
    start = challenger.start(run, run.panel())
    assert start.kind == "champion" and "champion of 2024-03-10" in start.said
    panel = run.panel()
    np.testing.assert_array_equal(models.predict(start.model, panel, 7, LEVELS), models.predict(model, panel, 7, LEVELS))


def test_a_run_never_starts_from_its_own_date_or_a_later_one(runs_at):
    crowned(runs_at("2024-03-15"))
    for as_of in ("2024-03-15", "2024-03-10"):
        run = runs_at(as_of)
        assert run.champion() is None and challenger.start(run, run.panel()).kind == "cold"


def test_base_none_is_a_cold_start_whoever_is_champion(runs_at):
    crowned(runs_at("2024-03-10"))
    run = runs_at("2024-03-15", finetune={"base": "none"})
    start = challenger.start(run, run.panel())
    assert start.kind == "cold" and "a start from nothing (finetune.base: none)" in start.said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 16),
        ("num_layers", 2),
        ("num_layers", 0),
        ("attention", True),
        ("sequence_length", 10),
        ("forecast_length", 9),
    ],
)
def test_a_champion_of_another_architecture_is_a_cold_start(runs_at, name, value, lines):
    crowned(runs_at("2024-03-10"))
    run = runs_at("2024-03-15", model={name: value})
    start = challenger.start(run, run.panel())
    assert start.kind == "cold" and start.model is None and start.rival is not None and "another architecture" in start.said
    assert f"{name} " in start.said and f"-> {value}" in start.said and any("another architecture" in line for line in lines)
    assert challenger.train(start, run.panel(), run.params).hyper[name] == value


@pytest.mark.parametrize(("freq", "held", "words"), [("D", 14, "days; the last 14 are"), ("MS", 1, "months; the last is")])
def test_a_start_from_nothing_says_how_long_the_history_is_and_what_is_held_out(freq, held, words):
    params = tiny(freq=freq, finetune={"validation_days": held, "base": "none"})
    said = challenger._anew(posted_panel(3, 60), params, "why").said
    assert said == f"Cold start: why. The network learns from nothing on 60 {words} held out to judge it."


def test_a_champion_that_is_a_baseline_is_a_cold_start(runs_at):
    first = runs_at("2024-03-10")
    crowned(first)
    models.save(models.fit("last_value", None), first.dir / "model")
    run = runs_at("2024-03-15")
    start = challenger.start(run, run.panel())
    assert start.kind == "cold" and "is the baseline last_value" in start.said


def test_too_little_history_trains_nothing_and_the_last_value_is_the_model(runs_at):
    run = runs_at("2024-01-20")
    start = challenger.start(run, run.panel())
    assert start.kind == "none" and "20 periods of history, a network needs 35" in start.said
    model = challenger.train(start, run.panel(), run.params)
    assert model is None
    said = challenger.settle(
        run, run.panel(), start, model, challenger.duel(run.panel(), run.params, {"challenger": None, "champion": None})
    )
    assert said == start.said and models.load(run.dir / "model") == models.fit("last_value", None) and run.champion() is None
    assert not (run.home / "champion.json").exists()
    assert challenger.history(None) == [] and challenger.summary(None) == "No network was trained."


# ---- the base network that the package carries


def test_a_first_run_of_the_shipped_shape_starts_from_it_on_all_of_the_history(runs_at):
    run = runs_at("2024-03-10", **BASE)
    panel = run.panel()
    start = challenger.start(run, panel)
    assert start.kind == "shipped" and start.rival is start.model and start.model.info["id"] == models.SHIPPED
    said = f"The base network that comes with forecastbook is fine-tuned on {len(panel.dates)} days; the last "
    said += f"{run.params.finetune.validation_days} are held out to judge it: no earlier run has left a champion."
    assert start.said == said
    child = challenger.train(start, panel, run.params)
    assert child.info["parent"] == models.SHIPPED and child.info["trained_from"] == str(panel.dates[0])
    assert challenger.start(runs_at("2024-03-10", **BASE, finetune={"base": "none"}), panel).kind == "cold"


def test_a_first_network_that_does_not_better_the_base_is_rolled_back_to_it_and_crowns_nobody(runs_at):
    run = runs_at("2024-03-10", **BASE)
    start = challenger.start(run, run.panel())
    child = challenger.train(start, run.panel(), run.params)
    said = challenger.settle(run, run.panel(), start, child, outcome(challenger=0.2, champion=0.2, last_value=0.3))
    assert said.startswith("Rolled back") and "of the base network), so the base network's weights forecast again" in said
    kept = files(run.dir / "model")
    assert kept["weights.safetensors"] == (lstm.BASE / "weights.safetensors").read_bytes()
    assert json.loads(kept["model.json"])["rolled_back"] is True
    assert "rolled_back" not in (lstm.BASE / "model.json").read_text() and not (run.home / "champion.json").exists()
    assert challenger.start(runs_at("2024-03-15", **BASE), run.panel()).kind == "shipped"


def test_a_winner_of_a_search_is_trained_anew_once_and_then_goes_on(runs_at):
    crowned(runs_at("2024-03-10"))
    run = runs_at("2024-03-15")
    assert challenger.start(run, run.panel()).kind == "champion"
    run.note(tuned={"dropout": 0.3})
    start = challenger.start(run, run.panel())
    assert start.kind == "cold" and start.rival is not None and "make tune has chosen since the champion of" in start.said
    crowned(run)
    later = runs_at("2024-03-18")
    later.note(tuned={"dropout": 0.3})
    assert challenger.start(later, later.panel()).kind == "champion"
    plain = runs_at("2024-03-19")
    assert challenger.start(plain, plain.panel()).kind == "champion", "nothing was chosen for this one"


@pytest.mark.parametrize("chosen", [{"dropout": 0.3}, {"hidden_size": 6}])
def test_a_winner_of_a_search_that_loses_its_duel_is_not_trained_again(runs_at, chosen):
    crowned(runs_at("2024-03-10"))
    run = runs_at("2024-03-15", model=chosen)
    run.note(tuned=chosen)
    start = challenger.start(run, run.panel())
    assert start.kind == "cold" and start.rival is not None
    assert "make tune has chosen since the champion of 2024-03-10" in start.said and "another architecture" not in start.said
    assert ("hidden_size 8 -> 6" in start.said) == ("hidden_size" in chosen)
    child = challenger.train(start, run.panel(), run.params)
    said = challenger.settle(run, run.panel(), start, child, outcome(challenger=0.3, champion=0.2, last_value=0.4))
    assert "Rolled back" in said and run.champion()["as_of"] == "2024-03-10", "a run never starts from its own date"
    later = runs_at("2024-03-18", model=chosen)
    assert challenger.start(later, later.panel()).kind == ("champion" if "dropout" in chosen else "cold"), "nothing was tuned"
    later.note(tuned=chosen)
    entry, again = later.champion(), challenger.start(later, later.panel())
    assert again.kind == "champion" and again.path == later.home / "2024-03-10" / "model"
    assert entry["as_of"] == "2024-03-15" and entry["tuned"] == chosen and "make tune chose has lost" in entry["why"]
    anew = runs_at("2024-03-19", model=chosen, finetune={"base": "anew"})
    anew.note(tuned=chosen)
    start = challenger.start(anew, anew.panel())
    child = challenger.train(start, anew.panel(), anew.params)
    assert "Rolled back" in challenger.settle(
        anew, anew.panel(), start, child, outcome(challenger=0.3, champion=0.2, last_value=0.4)
    )
    assert runs_at("2024-03-20").champion() == entry, "it has lost once, and that is told once"
    later.note(tuned={"dropout": 0.1})
    assert challenger.start(later, later.panel()).kind == "cold", "another winner has its turn"


def test_a_first_network_that_betters_the_base_is_the_champion(runs_at):
    run = runs_at("2024-03-10", **BASE)
    start = challenger.start(run, run.panel())
    child = challenger.train(start, run.panel(), run.params)
    assert start.called == "base network"
    said = challenger.settle(run, run.panel(), start, child, outcome(challenger=0.15, champion=0.2, last_value=0.3))
    assert "becomes the champion" in said and "25.0 % lower than the base network's" in said
    later = challenger.start(runs_at("2024-03-15", **BASE), run.panel())
    assert later.kind == "champion" and later.path == run.dir / "model"


def test_a_champion_of_another_shape_is_the_rival_of_a_network_that_starts_from_the_base(runs_at):
    first, run = runs_at("2024-03-10"), runs_at("2024-03-15", **BASE)
    champion = crowned(first)
    start = challenger.start(run, run.panel())
    assert start.kind == "shipped" and start.model.info["id"] == models.SHIPPED and start.path == first.dir / "model"
    assert start.rival.hyper == champion.hyper and "has another architecture" in start.said
    child = challenger.train(start, run.panel(), run.params)
    said = challenger.settle(run, run.panel(), start, child, outcome(challenger=0.2, champion=0.1, last_value=0.3))
    assert "of the champion), so the champion's weights forecast again" in said
    assert files(run.dir / "model")["weights.safetensors"] == files(first.dir / "model")["weights.safetensors"]


def test_with_too_little_history_the_base_speaks_as_it_is(runs_at):
    run = runs_at("2024-01-20", **BASE)
    panel = run.panel()
    start = challenger.start(run, panel)
    assert start.kind == "none" and "speaks as it is" in start.said and challenger.train(start, panel, run.params) is None
    said = challenger.settle(
        run, panel, start, None, challenger.duel(panel, run.params, {"challenger": None, "champion": start.rival})
    )
    assert said == start.said and not (run.home / "champion.json").exists()
    kept = experts.load(run.dir / "model")
    assert all(torch.equal(v, kept.network.net.state_dict()[k]) for k, v in lstm.shipped().net.state_dict().items())


def test_with_too_little_history_a_named_checkpoint_speaks_as_it_is(runs_at):
    first = runs_at("2024-03-10")
    model = crowned(first)
    run = runs_at("2024-01-20", finetune={"base": str(first.dir / "model")})
    start = challenger.start(run, run.panel())
    assert start.kind == "none" and f"The checkpoint {first.dir / 'model'} speaks as it is" in start.said
    np.testing.assert_array_equal(
        models.predict(start.model, run.panel(), 7, LEVELS), models.predict(model, run.panel(), 7, LEVELS)
    )


# ---- the trees beside a network


def test_trees_are_grown_beside_whatever_network_is_kept(runs_at):
    first, run = runs_at("2024-03-05"), runs_at("2024-03-10")
    crowned(first)
    start = challenger.start(run, run.panel())
    child = challenger.train(start, run.panel(), run.params)
    for mine, rolled_back in ((0.05, False), (0.3, True)):
        said = challenger.settle(run, run.panel(), start, child, outcome(challenger=mine, champion=0.1, last_value=0.2))
        assert said.startswith("Rolled back") is rolled_back
        kept, own = experts.load(run.dir / "model"), gbm.fit(run.panel(), 7, run.params.seed)
        assert kept.trees.booster.model_to_string() == own.booster.model_to_string(), "of this run's day, not of the champion's"
    older = experts.load(first.dir / "model").trees.booster.model_to_string()
    assert older != own.booster.model_to_string()


def test_where_nothing_changed_no_old_trees_are_left(runs_at, tmp_path):
    crowned(runs_at("2024-03-05"))
    calm = posted_prices(8, 80).assign(y=4.99)
    run = made_run(tmp_path, tiny(), calm[calm["ts"] <= "2024-03-10"], day("2024-03-10"))
    start = challenger.start(run, run.panel())
    child = challenger.train(start, run.panel(), run.params)
    assert (start.path / gbm.FILE).is_file()
    challenger.settle(run, run.panel(), start, child, outcome(challenger=0.3, champion=0.1, last_value=0.2))
    assert not (run.dir / "model" / gbm.FILE).exists() and experts.load(run.dir / "model").trees is None


def test_no_trees_are_grown_beside_a_baseline(runs_at):
    run = runs_at("2024-03-10")
    start = challenger.start(run, run.panel())
    challenger.settle(
        run, run.panel(), start, challenger.train(start, run.panel(), run.params), outcome(challenger=np.nan, last_value=0.2)
    )
    assert not (run.dir / "model" / gbm.FILE).exists() and experts.load(run.dir / "model") is None


# ---- a foreign checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    """The state dict of a plain network of one layer, hidden size 8."""
    torch.manual_seed(1)
    settings = dict(lstm.DEFAULTS, hidden_size=8, num_layers=1, **PLAIN)
    path = tmp_path / "lstm_forecaster.pth"
    torch.save(lstm.Plain(settings).state_dict(), path)
    return path


def test_a_checkpoint_is_loaded_and_can_be_finetuned(runs_at, checkpoint):
    run = runs_at("2024-03-10", model=PLAIN, finetune={"base": str(checkpoint)})
    panel = run.panel()
    start = challenger.start(run, panel)
    assert start.kind == "checkpoint" and str(checkpoint) in start.said
    state = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(v, state[k]) for k, v in start.model.net.state_dict().items())
    child = challenger.train(start, panel, run.params)
    assert child.hyper["window"] == "single" and np.isfinite(models.predict(child, panel, 7, LEVELS)).all()


def test_a_checkpoint_that_finetuning_made_worse_is_rolled_back(runs_at, checkpoint):
    run = runs_at("2024-03-10", model=PLAIN, finetune={"base": str(checkpoint)})
    panel = run.panel()
    start = challenger.start(run, panel)
    said = challenger.settle(
        run, run.panel(), start, challenger.train(start, panel, run.params), outcome(challenger=0.3, champion=0.2)
    )
    assert "Rolled back" in said and "of the checkpoint" in said
    kept = models.load(run.dir / "model")
    np.testing.assert_array_equal(models.predict(kept, panel, 7, LEVELS), models.predict(start.model, panel, 7, LEVELS))
    assert not (run.home / "champion.json").exists()


def test_a_missing_checkpoint_names_its_path(runs_at, tmp_path):
    for base in (tmp_path / "nowhere.pth", tmp_path / "nowhere"):
        run = runs_at("2024-03-10", model=PLAIN, finetune={"base": str(base)})
        with pytest.raises(lstm.LSTMError, match=f"{base}: no such checkpoint file"):
            challenger.start(run, run.panel())


def test_a_checkpoint_that_does_not_fit_names_path_key_and_both_shapes(runs_at, checkpoint):
    run = runs_at("2024-03-10", model={**PLAIN, "hidden_size": 16}, finetune={"base": str(checkpoint)})
    with pytest.raises(lstm.LSTMError) as error:
        challenger.start(run, run.panel())
    for part in (str(checkpoint), "encoder.weight_ih_l0", "(32, 1)", "(64, 1)"):
        assert part in str(error.value)


@pytest.mark.parametrize("kept", ["last_value", "tide"])
def test_a_directory_that_holds_no_network_of_the_job_is_no_base(runs_at, tmp_path, kept):
    """The baseline of a run whose network was not kept, or the network of sales."""
    model = (
        models.Baseline(kept)
        if kept == "last_value"
        else tide_model.Model([{"w": torch.zeros(1)}], dict(tide_model.DEFAULTS, seeds=1))
    )
    models.save(model, tmp_path / "other")
    run = runs_at("2024-03-10", finetune={"base": str(tmp_path / "other")})
    with pytest.raises(models.ModelError, match=f"finetune.base {tmp_path}/other: holds no lstm network; name the model dir"):
        challenger.start(run, run.panel())


def test_the_directory_of_a_model_can_be_the_base(runs_at):
    first = runs_at("2024-03-10")
    model = crowned(first)
    run = runs_at("2024-03-15", finetune={"base": str(first.dir / "model")})
    start = challenger.start(run, run.panel())
    assert start.kind == "checkpoint"
    panel = run.panel()
    np.testing.assert_array_equal(models.predict(start.model, panel, 7, LEVELS), models.predict(model, panel, 7, LEVELS))


# ---- the duel


def test_a_duel_is_fought_on_the_held_out_days_only(runs_at):
    run = runs_at("2024-03-19")
    panel, params = run.panel(), run.params
    model = challenger.train(challenger.start(run, panel), panel, params)
    fought = challenger.duel(panel, params, {"challenger": model, "champion": None})
    assert set(fought["model"]) == {"challenger", "last_value"}
    origins = fought["origin"].drop_duplicates()
    assert len(origins) == 14 - 7 + 1 and str(origins.max().date()) == "2024-03-12"
    assert str(origins.min().date()) == "2024-03-05"  # its first target is the first held-out day
    assert model.info["trained_until"] == "2024-03-05"
    at = backtest.ask(panel, np.datetime64("2024-03-08"), params, {"challenger": model})
    scored = (at.status == "model")[:, None] & np.isfinite(at.y)
    wanted = backtest.point_error(at, "challenger", params)[scored].mean()
    assert fought[(fought.model == "challenger") & (fought.origin == "2024-03-08")]["rel_mae"].item() == wanted
    best = challenger.means(fought)
    assert best.iloc[:, 1].is_monotonic_increasing and len(best) == 2
    named = challenger.means(outcome(champion=0.1, last_value=0.2), "base network")
    assert named["model"].tolist() == ["base network", "last value"]


def test_a_duel_of_a_large_panel_is_fought_over_a_sample(runs_at, monkeypatch):
    monkeypatch.setattr(challenger, "SERIES", 3)
    run = runs_at("2024-03-19")
    panel = run.panel()
    small = panel.sample(3, run.params.seed)
    assert len(small) == 3 and challenger.duel(panel, run.params, {}).equals(challenger.duel(small, run.params, {}))


def test_a_duel_leaves_out_what_a_contender_has_been_trained_on(runs_at):
    """Held-out days that have since been made more: the champion has learnt some of them."""
    run = runs_at("2024-03-19")
    panel, params = run.panel(), run.params
    champion = challenger.train(challenger.start(run, panel), panel, params)
    more = tiny(finetune={**params.finetune.model_dump(), "validation_days": 21})
    fought = challenger.duel(panel, more, {"champion": champion})
    alone = challenger.duel(panel, more, {})
    assert str(alone["origin"].min().date()) == "2024-02-27" and champion.info["trained_until"] == "2024-03-05"
    assert str(fought["origin"].min().date()) == "2024-02-28", "the first origin with a target after 2024-03-05"
    at = backtest.ask(panel, np.datetime64("2024-03-01"), more, {"champion": champion})
    scored = (at.status == "model")[:, None] & np.isfinite(at.y) & (at.ts > np.datetime64("2024-03-05"))
    wanted = backtest.point_error(at, "champion", more)[scored].mean()
    assert fought[(fought.model == "champion") & (fought.origin == "2024-03-01")]["rel_mae"].item() == wanted


def test_the_shipped_base_has_been_trained_on_nobodys_days(runs_at):
    run = runs_at("2024-03-19")
    panel = run.panel()
    fought = challenger.duel(panel, run.params, {"champion": lstm.shipped()})
    assert len(fought) and set(fought["model"]) == {"champion", "last_value"}


def test_a_duel_on_a_short_panel_has_no_rows(runs_at):
    run = runs_at("2024-01-10")
    assert challenger.duel(run.panel(), run.params, {}).empty


# ---- who wins


def test_a_better_challenger_becomes_the_champion(runs_at):
    first, run = runs_at("2024-03-10"), runs_at("2024-03-15")
    crowned(first)
    panel = run.panel()
    start = challenger.start(run, panel)
    model = challenger.train(start, panel, run.params)
    said = challenger.settle(run, run.panel(), start, model, outcome(challenger=0.09, champion=0.1, last_value=0.2))
    assert (
        "becomes the champion" in said
        and "10.0 % lower than the champion's" in said
        and "+55.0 % against the last value" in said
    )
    kept = models.load(run.dir / "model")
    np.testing.assert_array_equal(models.predict(kept, panel, 7, LEVELS), models.predict(model, panel, 7, LEVELS))
    entry = json.loads((run.home / "champion.json").read_text())["champion"]
    assert entry["run_id"] == run.id and entry["as_of"] == "2024-03-15" and entry["path"] == "2024-03-15/model"
    assert "Fine-tuned from the champion of 2024-03-10" in kept.info["parent"]


@pytest.mark.parametrize("mine", [0.1, 0.11, np.nan])
def test_a_challenger_that_is_not_better_is_rolled_back(runs_at, mine):
    first, run = runs_at("2024-03-10"), runs_at("2024-03-15")
    crowned(first)
    start = challenger.start(run, run.panel())
    before = (run.home / "champion.json").read_bytes()
    model = challenger.train(start, run.panel(), run.params)
    said = challenger.settle(run, run.panel(), start, model, outcome(challenger=mine, champion=0.1, last_value=0.2))
    assert said.startswith("Rolled back") and "against 0.10000 of the champion" in said
    ours, theirs = files(run.dir / "model"), files(first.dir / "model")
    assert ours["weights.safetensors"] == theirs["weights.safetensors"]
    assert json.loads(ours["model.json"])["rolled_back"] is True and "rolled_back" not in json.loads(theirs["model.json"])
    assert (run.home / "champion.json").read_bytes() == before
    models.load(run.dir / "model")


def test_a_challenger_that_nothing_could_be_compared_on_is_rolled_back(runs_at):
    first, run = runs_at("2024-03-10"), runs_at("2024-03-15")
    crowned(first)
    start = challenger.start(run, run.panel())
    said = challenger.settle(run, run.panel(), start, challenger.train(start, run.panel(), run.params), outcome())
    assert said.startswith("Rolled back") and "nan" not in said
    assert files(run.dir / "model")["weights.safetensors"] == files(first.dir / "model")["weights.safetensors"]


def test_a_network_whose_error_is_not_a_number_is_not_kept(runs_at):
    run = runs_at("2024-03-10")
    start = challenger.start(run, run.panel())
    model = challenger.train(start, run.panel(), run.params)
    said = challenger.settle(run, run.panel(), start, model, outcome(challenger=np.nan, last_value=0.2))
    assert "not a number" in said and models.load(run.dir / "model") == models.fit("last_value", None)
    assert not (run.home / "champion.json").exists()


def test_a_cold_start_is_crowned_even_when_it_lost_to_the_last_value_which_is_said(runs_at):
    """The gate, not the crown, decides what is published; tomorrow's fine-tune has to start somewhere."""
    run = runs_at("2024-03-10")
    start = challenger.start(run, run.panel())
    said = challenger.settle(
        run, run.panel(), start, challenger.train(start, run.panel(), run.params), outcome(challenger=0.3, last_value=0.2)
    )
    assert "−50.0 % against the last value" in said and (run.home / "champion.json").exists()


# ---- the line of champions


def test_history_is_kept_in_order_of_dates_and_read_backwards(runs_at):
    for as_of in ("2024-03-15", "2024-03-05", "2024-03-10"):
        run = runs_at(as_of)
        models.save(models.fit("last_value", run.panel()), run.dir / "model")
        run.crown("because")
    text = json.loads((runs_at("2024-03-15").home / "champion.json").read_text())
    assert [e["as_of"] for e in text["history"]] == ["2024-03-05", "2024-03-10", "2024-03-15"]
    assert text["champion"] == text["history"][-1]
    for as_of, champion in (("2024-03-15", "2024-03-10"), ("2024-03-12", "2024-03-10"), ("2024-03-10", "2024-03-05")):
        assert runs_at(as_of).champion()["as_of"] == champion
    assert runs_at("2024-03-05").champion() is None
    shutil.rmtree(runs_at("2024-03-10").dir / "model")
    assert runs_at("2024-03-12").champion()["as_of"] == "2024-03-05", "a champion that is gone is passed over"


def test_a_champion_of_another_architecture_must_still_be_beaten(runs_at):
    old = runs_at("2024-03-05")
    panel = old.panel()
    start = challenger.start(old, panel)
    challenger.settle(
        old, old.panel(), start, challenger.train(start, panel, old.params), outcome(challenger=0.1, last_value=0.2)
    )
    run = runs_at("2024-03-10", model={"hidden_size": 5})
    panel = run.panel()
    start = challenger.start(run, panel)
    assert start.kind == "cold" and start.model is None and start.rival is not None
    worse = challenger.train(start, panel, run.params)
    said = challenger.settle(run, run.panel(), start, worse, outcome(challenger=0.3, champion=0.2, last_value=0.4))
    assert (
        said.startswith("Rolled back") and models.load(run.dir / "model").hyper["hidden_size"] == old.params.model.hidden_size
    )


def test_crowning_and_settling_twice_changes_nothing(runs_at):
    run = runs_at("2024-03-10")
    panel = run.panel()
    start = challenger.start(run, panel)
    model = challenger.train(start, panel, run.params)
    seen = []
    for _ in range(2):
        said = challenger.settle(run, run.panel(), start, model, outcome(challenger=0.1, last_value=0.2))
        left = sorted(p.name for p in run.dir.iterdir())
        seen.append((said, files(run.dir / "model"), (run.home / "champion.json").read_bytes(), left))
    assert seen[0] == seen[1] and not [name for name in seen[0][3] if name.startswith(".")]
    assert challenger.start(run, panel).kind == "cold"  # a resumed run starts where it first did


def test_a_broken_champion_file_is_named(runs_at):
    run = runs_at("2024-03-10")
    (run.home / "champion.json").write_text("{")
    with pytest.raises(RuntimeError, match="champion.json: holds no champions"):
        run.champion()


def test_the_same_start_trains_the_same_network_and_tells_of_it(runs_at):
    run = runs_at("2024-03-10")
    panel = run.panel()
    a, b = (challenger.train(challenger.start(run, panel), panel, run.params) for _ in range(2))
    assert all(torch.equal(v, b.net.state_dict()[k]) for k, v in a.net.state_dict().items())
    rows = challenger.history(a)
    assert [set(r) for r in rows] == [{"step", "train", "validation"}] * len(rows) and len(rows) >= 2
    assert "8 series" in challenger.summary(a) and "2024-03-10" not in challenger.summary(a)
    assert training.trainable(panel, run.params) is None
