"""The price model: causal, free of scale, reproducible, honest when it knows nothing; foreign checkpoints load strictly."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from forecastbook import forking, grid, lstm, spells
from forecastbook.panel import build

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
TINY = dict(hidden_size=16, num_layers=1, epochs=2, max_steps=12, batch_size=16, sequence_length=10, learning_rate=3e-3)


def panel_of(y):
    """A daily panel of a (N, T) array, by the same door as every other."""
    N, T = y.shape
    dates = pd.date_range("2024-01-01", periods=T)
    frame = pd.DataFrame({"series_id": np.repeat([f"s{n:04d}" for n in range(N)], T), "ts": np.tile(dates, N), "y": y.ravel()})
    return build(frame.assign(available=frame.y.notna()), "D", dates[-1])


def shop(seed=0, N=30, T=120, gaps=0.2):
    """Prices that leave their usual level for a few days and come back: something to learn."""
    draw = np.random.default_rng(seed)
    usual = np.round(draw.uniform(2, 40, N), 2)
    y = np.repeat(usual[:, None], T, axis=1)
    for n in range(N):
        for start in range(int(draw.integers(0, 20)), T, int(draw.integers(15, 30))):
            y[n, start : start + 4] = np.round(usual[n] * 0.8, 2)
    y[draw.random((N, T)) < gaps] = np.nan
    y[:3, :70] = np.nan
    return y


@pytest.fixture(scope="module")
def panel():
    return panel_of(shop())


@pytest.fixture(scope="module")
def model(panel):
    return lstm.fit(panel.until(panel.dates[-20]), **TINY)


@pytest.fixture(scope="module", params=[{}, {"attention": True}, {"num_layers": 0}], ids=["plain", "attention", "no-layers"])
def each(request, panel):
    """A model of every architecture of the default network."""
    return lstm.fit(panel.until(panel.dates[-20]), **{**TINY, **request.param})


# ---- what a forecast may know, and what it must look like


@settings(max_examples=8, deadline=None)
@given(cut=st.integers(60, 119), seed=st.integers(0, 99))
def test_a_forecast_knows_nothing_of_later_days(each, panel, cut, seed):
    y = panel.y.copy()
    y[:, cut:] = np.random.default_rng(seed).uniform(0.1, 1e4, y[:, cut:].shape)
    date = panel.dates[cut - 1]
    before, after = (lstm.forecast(each, p.until(date), 7, LEVELS) for p in (panel, replace(panel, y=y)))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))


def test_training_knows_nothing_of_held_out_days():
    """Prices of the validation days change which epoch is kept at most, never a gradient."""
    y = shop(5)
    changed = y.copy()
    changed[:, -20:] *= 1.7
    losses = [[h["train_loss"] for h in lstm.fit(panel_of(a), **TINY, validation_days=20).history] for a in (y, changed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("days", "length", "held"), [(10, 30, 14), (20, 10, 28), (10, 2, 28), (10, 5, 28)])
def test_a_few_days_to_fine_tune_on_are_not_all_held_out(panel, model, days, length, held):
    made = lstm.fit(panel, **{**TINY, "sequence_length": length, "validation_days": held, "train_days": days})
    assert made.info["n_origins"] > 0 and made.info["trained_from"] < made.info["trained_until"] < str(panel.as_of)


def test_training_knows_nothing_of_days_after_the_as_of_date(panel):
    """The same weights to the bit, whatever came after the day that the network was trained on."""
    y = panel.y.copy()
    y[:, 90:] = np.random.default_rng(0).uniform(0.1, 1e4, y[:, 90:].shape)
    date = panel.dates[89]
    before, after = (lstm.fit(p.until(date), **TINY).net.state_dict() for p in (panel, replace(panel, y=y)))
    assert all(torch.equal(v, after[k]) for k, v in before.items())


@pytest.mark.parametrize("factor", [100, 1000])
def test_prices_times_a_factor_give_forecasts_times_it(each, panel, factor):
    q, p, _ = lstm.forecast(each, panel, 7, LEVELS)
    more, p_more, _ = lstm.forecast(each, panel_of(panel.y * factor), 7, LEVELS)
    np.testing.assert_allclose(more, factor * q, rtol=1e-6)
    np.testing.assert_allclose(p_more, p, atol=1e-6)


def test_training_on_prices_times_1000_gives_the_same_network(panel):
    one, other = (lstm.fit(panel_of(panel.y * f), **TINY) for f in (1, 1000))
    (q, p, _), (q1000, p1000, _) = (
        lstm.forecast(one, panel, 7, LEVELS),
        lstm.forecast(other, panel_of(panel.y * 1000), 7, LEVELS),
    )
    np.testing.assert_allclose(p1000, p, atol=1e-5)
    np.testing.assert_allclose(q1000, 1000 * q, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), N=st.integers(1, 5), T=st.integers(1, 90), gaps=st.sampled_from([0.0, 0.4, 0.9]))
def test_quantiles_are_finite_ordered_and_positive_wherever_a_price_was_seen(each, seed, N, T, gaps):
    y = np.random.default_rng(seed).lognormal(2, 1.5, (N, T)).round(2) + 0.01
    y[np.random.default_rng(seed + 1).random((N, T)) < gaps] = np.nan
    panel = panel_of(y)
    q, p, _ = lstm.forecast(each, panel, 5, LEVELS)
    seen = panel.n_obs > 0
    assert q.shape == (N, 5, 5) and q.dtype == np.float64
    assert np.isfinite(q[seen]).all() and (q[seen] > 0).all() and (np.diff(q[seen], axis=2) >= 0).all()
    assert ((p[seen] >= 0) & (p[seen] <= 1)).all() and np.isnan(q[~seen]).all() and np.isnan(p[~seen]).all()
    assert np.array_equal(lstm.forecast(each, panel, 5, LEVELS).q, q, equal_nan=True)
    assert np.array_equal(lstm.forecast(each, panel, 5, LEVELS).p_change, p, equal_nan=True)


def test_a_gap_is_not_a_row_shift(model):
    y = np.repeat(np.r_[np.full(60, 10.0), np.full(40, 8.0)][None], 2, axis=0)
    y[1, 65:95] = np.nan
    with_gap = lstm.forecast(model, panel_of(y), 7, LEVELS).p_change[1]
    rows_only = y[1][np.isfinite(y[1])]
    assert not np.allclose(with_gap, lstm.forecast(model, panel_of(rows_only[None]), 7, LEVELS).p_change[0])


def test_a_series_is_forecast_alike_alone_and_in_company(each, panel):
    """What a series is told of the others is the shop's habit, and nothing else."""
    ahead = spells.calendar(panel, 1, 7)[0]
    _, together = lstm.mixture(each, panel, ahead)
    _, alone = lstm.mixture(each, panel.take([7]), ahead)
    np.testing.assert_allclose(alone.hazard[0], together.hazard[7], atol=1e-6)
    np.testing.assert_allclose(alone.quantiles(LEVELS)[0], together.quantiles(LEVELS)[7], rtol=1e-6)


def test_the_median_stays_at_the_last_price_unless_more_than_half_of_the_mass_has_left(each, panel):
    q, p, _ = lstm.forecast(each, panel, 7, LEVELS)
    last = np.broadcast_to(panel.last_value[:, None], p.shape)
    assert (q[..., 2][p < 0.5] == last[p < 0.5]).all() and (p < 0.5).any()
    gone = each.net.hazard.detach().clone()
    with torch.no_grad():
        each.net.hazard.add_(20)  # everything changes: now most medians leave
    try:
        q, p, _ = lstm.forecast(each, panel, 7, LEVELS)
    finally:
        with torch.no_grad():
            each.net.hazard.copy_(gone)
    assert (p > 0.99).all() and (q[..., 2] != last).mean() > 0.3


def test_a_mixture_is_what_a_forecast_is_made_of(each, panel):
    """Of seen series, on the grid that is given; its hazard is the probability of a change, its quantiles the forecast."""
    steps, ahead = grid.of(panel), spells.calendar(panel, 1, 7)[0]
    posted, said = lstm.mixture(each, panel, ahead, steps)
    q, p, _ = lstm.forecast(each, panel, 7, LEVELS)
    assert steps is not None and (posted.price[:, -1] == panel.last_value).all()
    np.testing.assert_array_equal(said.hazard, p)
    np.testing.assert_array_equal(said.quantiles(LEVELS), q)
    assert ((said.hazard > 0) & (said.hazard < 1)).all()
    np.testing.assert_allclose(said.kinds.sum(axis=2), 1, rtol=1e-5)
    _, free = lstm.mixture(each, panel, ahead)
    assert not np.array_equal(free.ladder.values, said.ladder.values), "without a grid the atoms are ratios"


def test_it_learns_that_a_short_cut_ends():
    y = shop(1, N=60, T=200, gaps=0.0)
    panel = panel_of(y)
    model = lstm.fit(panel, **{**TINY, "epochs": 5, "max_steps": 125})
    p = lstm.forecast(model, panel, 7, LEVELS).p_change
    down = y[:, -1] < np.nanmax(y, axis=1)
    assert down.any() and p[down, -1].min() > 0.5 > p[~down, 0].max()
    assert model.history[-1]["train_loss"] < model.history[1]["train_loss"]


# ---- with little or nothing to learn from


@pytest.mark.parametrize("y", [np.full((5, 80), 9.99), np.full((1, 80), 9.99), np.full((4, 1), 3.0), np.full((2, 9), 3.0)])
@pytest.mark.parametrize("window", ["all", "single"])
def test_constant_prices_are_forecast_to_stay(y, window):
    model = lstm.fit(panel_of(y), **TINY, window=window)
    q, p, _ = lstm.forecast(model, panel_of(y), 7, LEVELS)
    assert (q == y[0, 0]).all() and (window == "single" or (p < 0.05).all())
    json.dumps([model.history, model.info], allow_nan=False)


def test_an_empty_history_of_one_series_is_no_obstacle(model):
    y = shop(2, N=4)
    y[2] = np.nan
    fitted = lstm.fit(panel_of(y), **TINY)
    q, *_ = lstm.forecast(fitted, panel_of(y), 7, LEVELS)
    assert np.isnan(q[2]).all() and np.isfinite(q[[0, 1, 3]]).all()


# ---- the same again


def test_same_inputs_same_bytes(panel, tmp_path):
    states = []
    for name in ("one", "two"):
        torch.manual_seed(len(states))  # whatever the process drew before
        fitted = lstm.fit(panel, **TINY)
        lstm.save(fitted, tmp_path / name)
        states.append(lstm.forecast(fitted, panel, 7, LEVELS)[0].tobytes())
    assert states[0] == states[1]
    for file in ("weights.safetensors", "model.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    other = lstm.fit(panel, **TINY, seed=1)
    assert lstm.forecast(other, panel, 7, LEVELS)[1].tobytes() != lstm.forecast(fitted, panel, 7, LEVELS)[1].tobytes()


def test_a_champion_from_before_habits_were_read_forecasts_as_it_did(panel, tmp_path):
    """Its weights on the calendar are two columns narrower; it is fine-tuned like any other."""
    model = lstm.fit(panel, **TINY, attention=True)
    narrow = ("from_calendar.weight", "ask.weight")
    with torch.no_grad():
        for name in narrow:
            model.net.get_parameter(name)[:, -2:] = 0
    lstm.save(model, tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    save_file(state | {name: state[name][:, :-2].contiguous() for name in narrow}, tmp_path / "weights.safetensors")
    back = lstm.load(tmp_path)
    for one, other in zip(lstm.forecast(model, panel, 7, LEVELS), lstm.forecast(back, panel, 7, LEVELS), strict=True):
        np.testing.assert_array_equal(one, other)
    assert lstm.finetune(back, panel, epochs=1).net.from_calendar.weight[:, -2:].abs().max() > 0, "it learns of them"


@pytest.fixture
def threads():
    """Sets the number of torch threads; the former number is back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_byte(panel, tmp_path, threads):
    """With matrices that are wide enough for torch to share out: without ``one_thread`` these weights differ."""
    forecasts = []
    for number in (1, 2):
        threads(number)
        fitted = lstm.fit(panel, epochs=1, max_steps=3, attention=True, hidden_size=128)
        tuned = lstm.finetune(fitted, panel, epochs=1, max_steps=3)
        lstm.save(fitted, tmp_path / f"fit-{number}")
        lstm.save(tuned, tmp_path / f"finetune-{number}")
        forecasts.append([a.tobytes() for a in (*lstm.forecast(tuned, panel, 7, LEVELS), lstm.attention(tuned, panel))])
        assert torch.get_num_threads() == number
    assert forecasts[0] == forecasts[1]
    for step in ("fit", "finetune"):
        for file in ("weights.safetensors", "model.json"):
            assert (tmp_path / f"{step}-1" / file).read_bytes() == (tmp_path / f"{step}-2" / file).read_bytes()


def test_training_does_without_the_compiler_of_torch_and_steps_as_torch_does(panel, monkeypatch):
    start, x = nn.LSTM(3, 8), torch.randn(20, 4, 3)

    def steps(optimizer) -> torch.Tensor:
        net = copy.deepcopy(start)
        moved = optimizer(net.parameters(), lr=1e-2, weight_decay=1e-2, fused=True)
        rates = torch.optim.lr_scheduler.OneCycleLR(moved, 1e-2, total_steps=20)
        for _ in range(15):
            moved.zero_grad(set_to_none=True)
            net(x)[0].pow(2).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            moved.step()
            rates.step()
        return torch.cat([weight.detach().flatten() for weight in net.parameters()])

    stock = steps(torch.optim.AdamW)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails
    assert torch.equal(steps(lstm.AdamW), stock)
    assert lstm.fit(panel, **TINY).history[-1]["step"]
    with pytest.raises(ImportError):
        steps(torch.optim.AdamW)


def test_the_number_of_threads_is_back_after_an_error_too(panel, model, threads):
    threads(2)
    during = []
    lstm.fit(panel, **TINY, on_epoch=lambda row: during.append(torch.get_num_threads()))
    assert during == [1, 1] and torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        lstm.fit(panel, **TINY, on_epoch=lambda row: 1 / 0)
    with pytest.raises(lstm.LSTMError):
        lstm.forecast(model, panel, 8, LEVELS)
    assert torch.get_num_threads() == 2


def test_the_global_random_state_is_left_alone(panel):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    lstm.fit(panel, **TINY)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("window", ["all", "single"])
@pytest.mark.parametrize("attention", [True, False])
def test_a_saved_model_forecasts_the_same(panel, tmp_path, window, attention):
    fitted = lstm.fit(panel, **TINY, window=window, attention=attention)
    lstm.save(fitted, tmp_path)
    back = lstm.load(tmp_path)
    for a, b in zip(lstm.forecast(fitted, panel, 7, LEVELS), lstm.forecast(back, panel, 7, LEVELS), strict=True):
        assert np.array_equal(a, b, equal_nan=True)
    assert back.hyper == fitted.hyper and back.history == fitted.history
    text = json.loads((tmp_path / "model.json").read_text())
    assert {"class", "hyperparameters", "scaling", "info", "history"} <= set(text)


def test_attention_is_a_distribution_over_the_last_days(model, panel):
    y = panel.y.copy()
    y[4] = np.nan
    attending = lstm.fit(panel, **TINY, attention=True)
    weights = lstm.attention(attending, replace(panel, y=y))
    assert weights.shape == (30, 7, 10) and np.isnan(weights[4]).all()
    np.testing.assert_allclose(np.delete(weights, 4, axis=0).sum(axis=2), 1, atol=1e-5)
    for without in (model, lstm.fit(panel, **TINY, attention=True, window="single")):
        with pytest.raises(lstm.LSTMError, match="no attention"):
            lstm.attention(without, panel)


def test_without_layers_there_is_no_recurrence_and_a_forecast_needs_the_last_day_alone(panel):
    net = lstm.fit(panel, **{**TINY, "num_layers": 0})
    assert not any(name.startswith(("encoder", "from_state")) for name in net.net.state_dict())
    other = lstm.fit(panel, **TINY)
    assert other.info["parameters"] > net.info["parameters"]
    x, origins = torch.randn(3, 10, len(spells.FEATURES)), slice(9, 10)
    calendar, ahead = torch.randn(3, 1, 7, len(spells.CALENDAR)), torch.arange(7).expand(3, 1, 7)
    before = x.clone()
    before[:, :9] = 0
    with torch.no_grad():
        for network, alike in ((net, True), (other, False)):
            hazards = [network.net.eval()(each, origins, calendar, ahead)[0] for each in (x, before)]
            assert torch.equal(*hazards) is alike


@pytest.mark.parametrize("attention", [False, True])
def test_a_forecast_is_the_mean_of_what_is_said_with_the_recurrence_and_without(panel, attention, monkeypatch):
    """And of the crops of a training step the first half has it and the others have it not."""
    net = lstm.fit(panel, **{**TINY, "attention": attention, "dropout": 0.0}).net
    net.dropout.p = 0.0
    x, origins = torch.randn(3, 10, len(spells.FEATURES)), slice(9, 10)
    calendar, ahead = torch.randn(3, 1, 7, len(spells.CALENDAR)), torch.arange(7).expand(3, 1, 7)
    monkeypatch.setattr(forking, "HAZE", 0.0)
    said = {}
    with torch.no_grad():
        for forget in (0.0, 0.5, 1.0):
            monkeypatch.setattr(forking, "FORGET", forget)
            said[forget] = net.train()(x, origins, calendar, ahead)[:2]
        mean = net.eval()(x, origins, calendar, ahead)[:2]
    for one, half, other, both in zip(said[0.0], said[0.5], said[1.0], mean, strict=True):
        assert not torch.allclose(one, other, atol=1e-4), "the recurrence says something"
        torch.testing.assert_close(half, torch.cat([one[:2], other[2:]]))
        torch.testing.assert_close(both, (one + other) / 2)


@pytest.mark.parametrize(
    "change, days", [({}, 4), ({"sequence_length": 3}, 3), ({"attention": True}, 10), ({"num_layers": 0}, 1)]
)
def test_a_forecast_reads_the_last_days_as_many_as_it_needs(panel, change, days, monkeypatch):
    model, read, kept = lstm.fit(panel, **{**TINY, "max_steps": 1, **change}), spells.of, []
    monkeypatch.setattr(spells, "of", lambda panel, keep=None: kept.append(keep) or read(panel, keep))
    lstm.forecast(model, panel, 7, LEVELS)
    assert set(kept) == {days}


# ---- fine-tuning


@pytest.mark.parametrize("window", ["all", "single"])
def test_fine_tuning_leaves_the_given_model_alone_and_keeps_the_best_epoch(panel, window):
    base = lstm.fit(panel.until(panel.dates[-30]), **TINY, window=window)
    before = {k: v.clone() for k, v in base.net.state_dict().items()}
    tuned = lstm.finetune(base, panel, epochs=3, parent="run-1")
    assert all(torch.equal(v, before[k]) for k, v in base.net.state_dict().items())
    kept = [h for h in tuned.history if h["kept"]]
    losses = [h["validation_loss"] for h in tuned.history]
    assert len(kept) == 1 and kept[0]["validation_loss"] == min(losses) and tuned.info["parent"] == "run-1"
    assert tuned.info["trained_until"] <= str(panel.dates[-15]) and tuned.hyper["train_days"] == 400
    assert all(np.array_equal(tuned.scaling[k], base.scaling[k]) for k in base.scaling)


def test_fine_tuning_that_helps_nothing_returns_the_start(panel, model):
    tuned = lstm.finetune(model, panel, epochs=2, learning_rate=0.99)
    assert tuned.info["kept_epoch"] == 0 and tuned.history[0]["kept"] and not any(h["kept"] for h in tuned.history[1:])
    assert all(torch.equal(v, model.net.state_dict()[k]) for k, v in tuned.net.state_dict().items())
    assert np.array_equal(lstm.forecast(tuned, panel, 7, LEVELS).q, lstm.forecast(model, panel, 7, LEVELS).q)


# ---- the loop


def test_every_epoch_is_reported_as_it_ends(panel):
    rows = []
    fitted = lstm.fit(panel, **TINY, on_epoch=lambda row: rows.append(row["epoch"]))
    assert rows == [row["epoch"] for row in fitted.history if row["epoch"] > 0] == [1, 2]


def test_a_batch_that_gpu_memory_does_not_hold_is_halved(caplog):
    """The memory is the only thing that is not real here: a loss that has room for 5 rows."""
    net = nn.Linear(1, 1)

    class Tight:
        def loss(self, net, rows, device, draw):
            if len(rows) > 5:
                raise torch.cuda.OutOfMemoryError("too much")
            return net(torch.ones(len(rows), 1)).mean()

    loss, batch = lstm._backward(net, Tight(), np.arange(32), torch.device("cpu"), None, 32)
    assert batch == 4 and np.isfinite(loss) and net.weight.grad is not None
    assert "batch size halved to 4" in caplog.text


def test_a_list_price_reaches_the_network(panel):
    listed = np.where(np.isfinite(panel.y), panel.y * 1.25, np.nan)
    with_list = replace(panel, past=listed[:, :, None], past_names=("list_price",))
    fitted = lstm.fit(panel, **TINY)
    assert not np.array_equal(
        lstm.forecast(fitted, with_list, 7, LEVELS).p_change, lstm.forecast(fitted, panel, 7, LEVELS).p_change
    )


# ---- what is refused, and how it is said


def test_refused_settings(panel, model):
    with pytest.raises(TypeError, match="no hyperparameter 'hidden'"):
        lstm.fit(panel, hidden=3)
    with pytest.raises(TypeError, match="no hyperparameter 'lr'"):
        lstm.finetune(model, panel, lr=3)
    with pytest.raises(lstm.LSTMError, match="batch_size: .*greater than or equal to 1, got 0"):
        lstm.fit(panel, batch_size=0)
    with pytest.raises(lstm.LSTMError, match="num_layers: .*greater than or equal to 0, got -1"):
        lstm.fit(panel, num_layers=-1)
    with pytest.raises(lstm.LSTMError, match="num_layers 0 has no states"):
        lstm.fit(panel, num_layers=0, window="single")
    with pytest.raises(lstm.LSTMError, match="attention must be false"):
        lstm.fit(panel, num_layers=0, attention=True)
    with pytest.raises(lstm.LSTMError, match="num_layers is 1 .* cannot become 0"):
        lstm.finetune(model, panel, num_layers=0)
    with pytest.raises(lstm.LSTMError, match="cannot forecast 8"):
        lstm.forecast(model, panel, 8, LEVELS)
    with pytest.raises(lstm.LSTMError, match="window: .*'all' or 'single', got 'some'"):
        lstm.fit(panel, window="some")
    with pytest.raises(lstm.LSTMError, match="hidden_size is 16 .* cannot become 32"):
        lstm.finetune(model, panel, hidden_size=32)
    with pytest.raises(lstm.LSTMError, match="trained for 7 periods ahead and cannot forecast 8"):
        lstm.forecast(model, panel, 8, LEVELS)


def test_broken_model_directories_are_named(model, tmp_path):
    with pytest.raises(lstm.LSTMError, match="model.json: no such file"):
        lstm.load(tmp_path)
    lstm.save(model, tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(lstm.LSTMError, match="weights.safetensors: broken weights"):
        lstm.load(tmp_path)
    weights.unlink()
    with pytest.raises(lstm.LSTMError, match="weights.safetensors: no such file"):
        lstm.load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(lstm.LSTMError, match="model.json: not a model description"):
        lstm.load(tmp_path)


# ---- foreign checkpoints of the plain network


class Reference(nn.Module):
    """The plain sequence-to-sequence network, written down a second time, one cell and one series at a time."""

    def __init__(self, state):
        super().__init__()
        self.cells = {side: [nn.LSTMCell(1 if k == 0 else 128, 128) for k in range(2)] for side in ("encoder", "decoder")}
        for side, cells in self.cells.items():
            for k, cell in enumerate(cells):
                cell.load_state_dict({n: state[f"{side}.{n}_l{k}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
        self.weight, self.bias = state["linear.weight"], state["linear.bias"]

    def advance(self, side, value, memory):
        for k, cell in enumerate(self.cells[side]):
            memory[k] = cell(value, memory[k])
            value = memory[k][0]
        return value @ self.weight.T + self.bias

    @torch.no_grad()
    def forward(self, x):
        memory = [(torch.zeros(1, 128), torch.zeros(1, 128)) for _ in range(2)]
        for value in x:
            self.advance("encoder", value.view(1, 1), memory)
        out, value = [], x[-1].view(1, 1)
        for _ in range(7):
            value = self.advance("decoder", value, memory)
            out.append(float(value))
        return out


def plain_state(seed=0):
    """A random flat state dict of the 18 tensors that such a checkpoint holds."""
    make, state = torch.Generator().manual_seed(seed), {}
    for side in ("encoder", "decoder"):
        for k in range(2):
            for name, shape in (
                ("weight_ih", (512, 1 if k == 0 else 128)),
                ("weight_hh", (512, 128)),
                ("bias_ih", (512,)),
                ("bias_hh", (512,)),
            ):
                state[f"{side}.{name}_l{k}"] = torch.randn(shape, generator=make) * 0.15
    state["linear.weight"] = torch.randn((1, 128), generator=make) * 0.3
    state["linear.bias"] = torch.tensor([0.3])
    return state


PLAIN = dict(attention=False, window="single", hidden_size=128, num_layers=2)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "lstm_forecaster.pth"
    torch.save(plain_state(), path)
    return path


def test_a_foreign_checkpoint_gives_its_own_numbers(checkpoint):
    net, reference = lstm.load_checkpoint(checkpoint, **PLAIN), Reference(plain_state())
    assert len(net.state_dict()) == 18 and sum(p.numel() for p in net.parameters()) == 398_465
    x = torch.rand(5, 30, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        np.testing.assert_allclose(net(x), [reference(row) for row in x], atol=1e-6)
        with_attention = lstm.load_checkpoint(checkpoint, **{**PLAIN, "attention": True})  # which adds nothing yet
        np.testing.assert_allclose(with_attention(x), net(x), atol=1e-6)


def test_the_plain_networks_own_sizes_are_its_defaults(checkpoint, panel):
    assert len(lstm.load_checkpoint(checkpoint, window="single").state_dict()) == 18
    model = lstm.from_checkpoint(checkpoint)
    assert (model.hyper["hidden_size"], model.hyper["num_layers"]) == (128, 2)
    assert lstm.finetune(model, panel, epochs=1, max_steps=1).hyper["hidden_size"] == 128
    assert lstm.fit(panel, **TINY, window="single").hyper["hidden_size"] == 16, "what is asked for counts"


def test_a_foreign_checkpoint_forecasts_in_prices_of_the_window(checkpoint):
    y = shop(4, N=6, T=100)
    y[0] = 5.0
    panel, reference = panel_of(y), Reference(plain_state())
    q, p, _ = lstm.forecast(lstm.from_checkpoint(checkpoint, **PLAIN), panel, 7, LEVELS)
    filled = panel.filled[:, -30:]
    assert (q[0] == 5.0).all() and np.isnan(p).all() and (q == q[:, :, :1]).all()
    for n in range(3, 6):
        low, span = filled[n].min(), np.ptp(filled[n])
        scaled = torch.tensor((filled[n] - low) / span, dtype=torch.float32)
        np.testing.assert_allclose(q[n, :, 0], np.maximum(0, low + np.array(reference(scaled)) * span), rtol=1e-5)


def test_a_foreign_checkpoint_can_be_fine_tuned(checkpoint, panel, tmp_path):
    base = lstm.from_checkpoint(checkpoint, **PLAIN)
    tuned = lstm.finetune(base, panel, epochs=2)
    assert tuned.info["parent"] == str(checkpoint)
    assert min(h["validation_loss"] for h in tuned.history[1:]) < tuned.history[0]["validation_loss"]
    assert set(tuned.net.state_dict()) == set(plain_state())
    lstm.save(tuned, tmp_path / "m")
    assert np.array_equal(
        lstm.forecast(lstm.load(tmp_path / "m"), panel, 7, LEVELS).q, lstm.forecast(tuned, panel, 7, LEVELS).q
    )


def test_mismatches_name_path_key_and_both_shapes(checkpoint, tmp_path):
    def refused(path, words, **hyper):
        with pytest.raises(lstm.LSTMError) as error:
            lstm.load_checkpoint(path, **hyper)
        assert all(word in str(error.value) for word in (str(path), *words)), str(error.value)

    refused(tmp_path / "none.pth", ["no such checkpoint file"], **PLAIN)
    refused(checkpoint, ["encoder.weight_ih_l0", "(512, 1)", "(256, 1)"], **{**PLAIN, "hidden_size": 64})
    with pytest.raises(lstm.LSTMError, match="serves window='single' only"):
        lstm.from_checkpoint(checkpoint, window="all")
    refused(checkpoint, ["attention=False, window='single'"])
    state = plain_state()
    del state["decoder.bias_hh_l1"]
    torch.save(state, tmp_path / "less.pth")
    refused(tmp_path / "less.pth", ["decoder.bias_hh_l1", "(512,)", "missing"], **PLAIN)
    torch.save({**plain_state(), "extra.weight": torch.zeros(2, 3)}, tmp_path / "more.pth")
    refused(tmp_path / "more.pth", ["unexpected key 'extra.weight'", "(2, 3)"], **PLAIN)
    torch.save({"state_dict": plain_state()}, tmp_path / "nested.pth")
    refused(tmp_path / "nested.pth", ["flat dictionary of tensors"], **PLAIN)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_checkpoint_is_executed(checkpoint, tmp_path):
    trap = tmp_path / "executed"
    files = {name: tmp_path / name for name in ("payload.pth", "raw.pkl", "script.pt", "cut.pth", "empty.pth", "text.pth")}
    torch.save({**plain_state(), "extra": Payload(trap)}, files["payload.pth"])
    files["raw.pkl"].write_bytes(pickle.dumps(Payload(trap)))
    with zipfile.ZipFile(files["script.pt"], "w") as archive:  # the layout of a TorchScript archive
        archive.writestr("script/constants.pkl", pickle.dumps(()))
        archive.writestr("script/data.pkl", pickle.dumps(Payload(trap)))
        archive.writestr("script/code/__torch__.py", "raise SystemExit")
        archive.writestr("script/version", "3\n")
    files["cut.pth"].write_bytes(checkpoint.read_bytes()[:5000])
    files["empty.pth"].write_bytes(b"")
    files["text.pth"].write_text("not a checkpoint")
    for path in files.values():
        with pytest.raises(lstm.LSTMError, match="refused") as error:
            lstm.load_checkpoint(path, **PLAIN)
        assert str(path) in str(error.value)
    assert not trap.exists()
