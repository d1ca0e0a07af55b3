"""What a network of a job is trained with and from, and the experts of one day."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import posted_panel, tiny
from forecastbook import backtest, lstm, models, training
from forecastbook.trades import PRICES


@pytest.fixture(scope="module")
def panel():
    return posted_panel(14, 110, gaps=0.15)


def test_hyperparameters_reach_the_model_under_its_own_names():
    params = tiny(seed=11, finetune={"patience": 2})
    hyper = training.hyper(params)
    assert hyper["seed"] == 11 and hyper["forecast_length"] == 7 and hyper["validation_days"] == 14 and hyper["patience"] == 2
    assert training.hyper(tiny(model={"forecast_length": 9}))["forecast_length"] == 9
    assert training.finetune_hyper(params)["train_days"] == 30 and training.finetune_hyper(params)["seed"] == 11
    assert set(hyper) | set(training.finetune_hyper(params)) <= set(lstm.DEFAULTS)


def test_the_base_speaks_until_there_is_enough_history_to_train_on(panel):
    theirs = tiny(model={"hidden_size": 64, "sequence_length": 30, "epochs": 1, "max_steps": 2})
    short, long = panel.until(panel.dates[45]), panel.until(panel.dates[80])
    assert training.train(panel.until(panel.dates[30]), tiny()) is None, "no base of this shape"
    early = training.train(short, theirs)
    assert early.network.info["id"] == models.SHIPPED and early.trees is not None
    assert all(torch.equal(v, early.network.net.state_dict()[k]) for k, v in lstm.shipped().net.state_dict().items())
    first = training.train(long, theirs, early.network)
    assert first.network.info["parent"] == models.SHIPPED and first.network.hyper["train_days"] is None, "a first training"
    assert training.train(short, theirs, first.network).network is first.network, "and is not trained on too little"
    record = backtest.rolling(short, theirs)
    assert len(record) == 2 and all({"lstm", "lstm_table", *PRICES.baselines} <= set(o.q) for o in record)


def test_the_first_training_starts_from_the_shipped_base_where_the_shape_is_its_own_and_never_from_a_champion(panel):
    view, base = panel.until(panel.dates[80]), lstm.shipped()
    theirs = tiny(model={"hidden_size": 64, "sequence_length": 30, "epochs": 1, "max_steps": 2})
    assert training.shipped(theirs).info["id"] == "the shipped base" and training.shipped(tiny()) is None
    from_base = training.first(view, theirs)
    assert from_base.info["parent"] == "the shipped base" and from_base.hyper["train_days"] is None
    assert from_base.hyper["max_steps"] == 2 and from_base.hyper["learning_rate"] == theirs.model.learning_rate
    assert all(np.array_equal(from_base.scaling[k], base.scaling[k]) for k in base.scaling)
    nothing = theirs.model_copy(update={"finetune": theirs.finetune.model_copy(update={"base": "none"})})
    for params in (nothing, tiny()):
        assert training.first(view, params).info["parent"] is None
    speaker = training.train(view, theirs)
    assert speaker.network.info["parent"] == "the shipped base" and speaker.trees is not None
    again = training.train(view, theirs, speaker.network)
    assert again.network.hyper["train_days"] == 30 and again.network is not speaker.network
