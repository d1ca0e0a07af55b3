"""The sales model: causal, reproducible, finite on raw counts, honest about what it cannot do; darts only when it is needed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conftest import LEVELS, panel_of
from forecastbook import tide, tide_data, tide_heads
from forecastbook.counts import LEAST, sold
from forecastbook.modelconfig import from_config

TINY = dict(hidden_size=8, epochs=2, max_steps=20, batch_size=64, sequence_length=8, forecast_length=3, seeds=2)


def sales(seed=0, N=24, T=60, ragged=True):
    """Monthly counts (N, T): intermittent, with a high December; items begin late, the last two never."""
    draw = np.random.default_rng(seed)
    level = draw.lognormal(0.5, 1.2, N)[:, None] * (1 + 2 * (np.arange(T) % 12 == 11))
    y = draw.negative_binomial(1.0, 1 / (1 + level), (N, T)).astype(float)
    if ragged:
        y[np.arange(T) < draw.integers(0, T // 2, N)[:, None]] = np.nan
        y[-2:] = np.nan
    return y


def shop(seed=0, **named):
    """A panel of ``sales`` with a price, a column known ahead, two static columns and months in which nothing was on offer."""
    panel, draw = panel_of(sales(seed, **named), "2019-01-01", "MS"), np.random.default_rng(seed)
    (N, T), style = panel.y.shape, np.array(["Rock/Jazz", "Jazz", "Rock", "Folk"], dtype=object)
    price = np.where(draw.random((N, T)) < 0.2, np.nan, draw.uniform(5, 50, (N, T)))
    return replace(
        panel,
        available=panel.observed & (draw.random((N, T)) > 0.1),
        past=price[:, :, None],
        past_names=("price",),
        future=draw.random((N, T + 3, 1)),
        future_names=("hot",),
        static=np.stack([style[np.arange(N) % 4], np.repeat(np.array(["new", "used"], dtype=object), N // 2)], axis=1),
        static_names=("style", "cover"),
    )


@pytest.fixture(scope="module")
def panel():
    return shop()


@pytest.fixture(scope="module")
def model(panel):
    """Every input that there is, and both phases."""
    inputs = dict(covariates=True, static_covariates=True, temporal_width_past=2)
    return tide.fit(panel.until(panel.dates[-4]), **TINY, **inputs, validation_days=6)


@pytest.fixture(scope="module")
def plain(panel):
    return tide.fit(panel, **{**TINY, "seeds": 1})


# ---- what a forecast may know, and what it must look like


@settings(max_examples=8)
@given(cut=st.integers(40, 59), seed=st.integers(0, 99))
def test_a_forecast_knows_nothing_of_later_periods(model, panel, cut, seed):
    draw, date = np.random.default_rng(seed), panel.dates[cut - 1]
    y, past, available = panel.y.copy(), panel.past.copy(), panel.available.copy()
    y[:, cut:] = draw.poisson(50, y[:, cut:].shape)
    past[:, cut:], available[:, cut:] = draw.uniform(0, 1e4, past[:, cut:].shape), draw.random(available[:, cut:].shape) < 0.5
    changed = replace(panel, y=y, past=past, available=available)
    before, after = (tide.forecast(model, p.until(date), 3, LEVELS) for p in (panel, changed))
    for name in ("q", "mean", "zero"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_training_knows_nothing_of_periods_after_the_as_of_date(panel):
    y = panel.y.copy()
    y[:, 50:] = 77.0
    date = panel.dates[49]
    one, other = (tide.fit(p.until(date), **TINY, covariates=True) for p in (panel, replace(panel, y=y)))
    assert all(torch.equal(v, other.states[1][name]) for name, v in one.states[1].items())


def test_no_number_of_a_window_changes_with_what_comes_after_its_origin(panel):
    """All inputs of the windows at an origin, from a panel that ends there and from one that goes on."""
    hyper = tide.settings({**TINY, "covariates": True, "static_covariates": True, "seasonal": True, "weight_alpha": 0.0})
    scaling = tide_data.learn_scaling(panel.until(panel.dates[44]), hyper)
    rows = torch.arange(len(panel))
    parts = []
    for view in (panel.until(panel.dates[44]), panel):
        parts.append(tide_data.feed(view, hyper, scaling).batch(rows, torch.full_like(rows, 44), targets=False))
    assert set(parts[0]) == {
        *("past_target", "past_covariates", "static_covariates", "historic_future_covariates", "future_covariates")
    }
    for name, early in parts[0].items():
        np.testing.assert_array_equal(early, parts[1][name], err_msg=name)


def test_held_out_periods_choose_the_epoch_and_change_no_gradient_of_the_search(panel):
    y = panel.y.copy()
    y[:, -6:] *= 3
    runs = [tide.fit(p, **TINY, validation_days=6, patience=9).history for p in (panel, replace(panel, y=y))]
    assert [row["train_loss"] for row in runs[0]] == [row["train_loss"] for row in runs[1]]
    assert [row["validation_loss"] for row in runs[0]] != [row["validation_loss"] for row in runs[1]]
    best = min(runs[0], key=lambda row: row["validation_loss"])
    assert [row["epoch"] for row in runs[0] if row["kept"]] == [best["epoch"]]


@pytest.mark.parametrize("head", tide_heads.HEADS)
def test_quantiles_are_ordered_and_not_negative_wherever_something_was_observed(panel, head):
    got = tide.forecast(tide.fit(panel, **TINY, head=head), panel, 2, (0.05, 0.3, 0.5, 0.9, 0.95))
    seen = panel.n_obs > 0
    assert got.q.shape == (24, 2, 5) and got.mean.shape == got.zero.shape == (24, 2) and not seen[-2:].any()
    assert (got.q[seen] >= 0).all() and (np.diff(got.q[seen], axis=2) >= 0).all() and (got.mean[seen] > 0).all()
    assert ((got.zero[seen] >= 0) & (got.zero[seen] <= 1)).all()
    assert np.isnan(got.q[~seen]).all() and np.isnan(got.mean[~seen]).all() and np.isnan(got.zero[~seen]).all()


def test_it_learns_the_level_of_each_item():
    level = np.repeat([0.3, 3.0, 300.0], 20)
    panel = panel_of(np.random.default_rng(0).poisson(level[:, None], (60, 40)).astype(float), freq="W-MON")
    got = tide.forecast(tide.fit(panel, **{**TINY, "epochs": 6, "max_steps": 240, "hidden_size": 16}), panel, 3, LEVELS)
    for rate in (0.3, 3.0, 300.0):
        assert np.median(got.mean[level == rate]) == pytest.approx(rate, rel=0.3)
    assert np.median(got.zero[level == 0.3]) == pytest.approx(np.exp(-0.3), abs=0.1)


def test_a_horizon_beyond_the_trained_one_is_refused(plain, panel):
    with pytest.raises(tide.TideError, match="trained for 3 periods ahead and cannot forecast 4"):
        tide.forecast(plain, panel, 4, LEVELS)


# ---- reproducible, quiet, light


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_numbers_of_others_alone(panel):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one, other = tide.fit(panel, **TINY), tide.fit(panel, **TINY)
    a, b = tide.forecast(one, panel, 3, LEVELS), tide.forecast(other, panel, 3, LEVELS)
    np.testing.assert_array_equal(a.q, b.q)
    np.testing.assert_array_equal(a.mean, b.mean)
    assert torch.equal(expected[0], torch.random.get_rng_state()) and (expected[1] == np.random.get_state()[1]).all()
    assert not np.array_equal(a.mean, tide.forecast(tide.fit(panel, **TINY, seed=1), panel, 3, LEVELS).mean, equal_nan=True)


def test_nothing_is_printed_and_nothing_is_left_behind(panel, tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    tide.forecast(tide.fit(panel, **TINY, swa_start=0.5), panel, 3, LEVELS)
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "") and not len(recwarn)


def test_importing_the_module_does_not_import_darts():
    code = (
        "import sys, forecastbook.tide; print([m for m in ('darts', 'pytorch_lightning', 'onnxruntime') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---- what it is trained on


@pytest.mark.parametrize("ragged", [False, True])
def test_a_batch_is_what_darts_stacks_of_its_own_windows(ragged):
    from bench_tide import HYPER, Stock
    from bench_tide import sales as weekly

    panel, hyper = weekly(9, 40, ragged=ragged), tide.settings({**HYPER, "seasonal": False})
    stock = Stock(panel, hyper)
    feed = tide_data.feed(panel, hyper, tide_data.learn_scaling(panel, hyper))
    batch = tide.nets().Windows(feed, *stock.windows()).__getitems__(range(len(stock.data)))
    for name in ("past_target", "future_target"):
        wanted = np.stack([getattr(stock.data[i], name) for i in range(len(stock.data))])
        np.testing.assert_array_equal(getattr(batch, name).numpy(), wanted)
    assert (batch.sample_weight == 1).all() and batch.static_covariates is None


def test_on_the_same_windows_the_loss_is_that_of_stock_darts_to_the_bit():
    from bench_tide import EPOCHS, HYPER, Stock, ours
    from bench_tide import sales as weekly

    panel, hyper = weekly(12, ragged=True), tide.settings({**HYPER, "batch_size": 32, "hidden_size": 8, "seasonal": False})
    stock = Stock(panel, hyper)
    with tide.quiet():
        theirs = stock.fit(-(-len(stock.data) // 32))
        assert len(theirs) == EPOCHS and theirs == ours(panel, hyper, stock)[1]


def test_a_period_sold_out_has_no_weight_unless_something_was_sold():
    y = np.tile([2.0, 0.0, 3.0, 1.0], (4, 8))
    panel = panel_of(y)
    available = np.ones(y.shape, dtype=bool)
    available[0, -3:] = False  # 0 sold, 3 sold, 1 sold
    hyper = tide.settings({**TINY, "seasonal": False})
    feed = tide_data.feed(replace(panel, available=available), hyper, tide_data.learn_scaling(panel, hyper))
    batch = feed.batch(torch.tensor([0, 1]), torch.tensor([28, 28]))
    assert batch["sample_weight"][:, :, 0].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert batch["future_target"][:, :, 0].tolist() == [[0, 3, 1], [0, 3, 1]]
    assert batch["past_target"][0, :, 0].tolist() == y[0, 21:29].tolist()


def test_windows_lie_within_the_periods_asked_for_and_within_the_life_of_their_series(panel):
    hyper = tide.settings({**TINY, "seasonal": False})
    feed = tide_data.feed(panel, hyper, tide_data.learn_scaling(panel, hyper))
    series, origin = (part.numpy() for part in feed.windows(30, 50))
    begun = panel.observed.argmax(axis=1)
    assert origin.min() >= 29 and origin.max() == 47 and (origin >= begun[series] + LEAST - 1).all()
    assert set(series) == set(np.flatnonzero(panel.n_obs > 0))


def test_windows_weigh_by_their_own_past():
    weight = tide_data.weights(np.array([[0.0, 0, 0, 0], [8, 8, 8, 8], [np.nan, np.nan, 8, 0]]), 2, 2.0)
    raw = 0.1 + 2 * np.log1p([[0, 0, 0, 0], [8, 8, 8, 8], [0, 0, 8, 4]])
    np.testing.assert_allclose(weight, raw / raw.mean())
    assert (tide_data.weights(np.ones((2, 3)), 2, 0) == 1).all()


def test_categories_are_multi_hot_and_split_on_a_slash(panel):
    tokens = tide_data._tokens(panel)
    hot = tide_data.multi_hot(panel, tokens)
    row = {(name, token): hot[0, k] for k, (name, token) in enumerate(tokens)}
    assert row == {
        ("style", "Rock"): 1,
        ("style", "Jazz"): 1,
        ("style", "Folk"): 0,
        ("cover", "new"): 1,
        ("cover", "used"): 0,
    }
    unknown = replace(panel, static=np.full(panel.static.shape, "Polka", dtype=object))
    assert not tide_data.multi_hot(unknown, tokens).any()


def test_year_ago_counts_are_read_where_there_is_a_year_of_them(panel, model):
    assert model.hyper["seasonal"] and not tide.fit(panel.last(20), **TINY).hyper["seasonal"]
    hyper = tide.settings({**TINY, "seasonal": True})
    feed = tide_data.feed(panel, hyper, tide_data.learn_scaling(panel, hyper))
    row = int(panel.n_obs.argmax())
    ahead = feed.batch(torch.tensor([row]), torch.tensor([59]), targets=False)["future_covariates"][0, :, 0]
    np.testing.assert_array_equal(ahead, sold(panel)[row, 48:51].astype(np.float32))


def test_no_year_ago_is_looked_at_where_the_horizon_reaches_beyond_it(panel):
    made = tide.fit(panel, **{**TINY, "forecast_length": panel.year, "seeds": 1, "epochs": 1})
    assert not made.hyper["seasonal"] and tide.forecast(made, panel, panel.year, LEVELS).q.shape[1] == panel.year


def test_december_is_learnt_from_years_ago():
    panel = panel_of(sales(1, N=80, T=59, ragged=False), "2019-01-01", "MS")
    said = []
    for seasonal in (True, False):
        model = tide.fit(panel, **{**TINY, "epochs": 6, "max_steps": 400, "hidden_size": 16, "seeds": 1}, seasonal=seasonal)
        december, january, _ = tide.forecast(model, panel, 3, LEVELS).mean[:78].sum(axis=0)
        said.append(december / january)
    assert said[0] > 2 and said[1] < 1.3  # 3 in truth


def test_the_anniversary_of_the_first_sale_is_marked():
    y = np.full((2, 40), np.nan)
    y[0, 5:], y[1, 0:] = 1.0, 1.0
    panel = panel_of(y, "2020-01-01", "MS")
    marked = tide_data.future_covariates(panel, y, 3, dict(future={}))[:, :, tide_data.YEARS + 4]
    assert set(np.flatnonzero(marked[0])) == {16, 17, 18, 28, 29, 30, 40, 41, 42}


def test_nothing_to_learn_from_is_said(panel):
    with pytest.raises(tide.TideError, match="nothing to learn from in 5 periods of 24 series"):
        tide.fit(panel.last(5), **TINY)


@pytest.mark.parametrize(
    "over",
    [
        dict(schedule="cosine_restarts", T_0=5, T_mult=2),
        dict(swa_start=0.5, epochs=4),
        dict(head="quantile", sigma_left=0.754, sigma_right=1.39, weight_alpha=2.556),
        dict(head="quantile", window_scale=False, gradient_clip=0.5),
        dict(head="nb", use_layer_norm=True, num_encoder_layers=2, num_decoder_layers=2, weight_decay=0.01),
    ],
    ids=lambda over: next(iter(over.values())),
)
def test_every_way_to_train_ends_with_finite_numbers(panel, over):
    model = tide.fit(panel, **{**TINY, "seeds": 1, **over})
    assert all(torch.isfinite(v).all() for v in model.states[0].values())
    assert np.isfinite(tide.forecast(model, panel, 3, LEVELS).q[:22]).all()
    assert len(model.history) == model.hyper["epochs"] and all(np.isfinite(row["train_loss"]) for row in model.history)


def test_a_training_that_runs_away_is_said():
    panel = panel_of(np.random.default_rng(0).poisson(3.0, (20, 30)) * 1e39, freq="W-MON")
    for held in (0, 4):
        with pytest.raises(tide.TideError, match="ran away to numbers that are not finite"):
            tide.fit(panel, **{**TINY, "seeds": 1}, head="quantile", window_scale=False, gradient_clip=0, validation_days=held)


def test_averaged_weights_follow_the_same_path_until_the_averaging_starts(panel):
    one, other = (tide.fit(panel, **{**TINY, "epochs": 4, "seeds": 1}, swa_start=start) for start in (None, 0.75))
    losses = [[row["train_loss"] for row in model.history] for model in (one, other)]
    assert losses[0][:2] == losses[1][:2] and losses[0][3] != losses[1][3]


# ---- heads


def test_a_mean_has_no_bound_but_that_of_its_scale():
    """Grams sell by the million; a network that runs away is still held."""
    scale = torch.full((1, 1, 1, 1), math.log(5e6))
    raw = [torch.tensor([[[[value, 0.0]]]]) for value in (0.0, 90.0)]
    sane, wild = (tide_heads.parameters(tide_heads.unscale(one, scale, False), "nb")[0].item() for one in raw)
    assert sane == pytest.approx(5e6, rel=1e-5) and 1e9 < wild < 1e13


def test_quantile_weights_by_hand():
    got = tide.quantile_weights(LEVELS, 0.754, 1.39)
    np.testing.assert_allclose(got, [0.49047, 0.80262, 1.0, 0.96867, 0.90545], atol=1e-5)
    np.testing.assert_allclose(tide.quantile_weights(LEVELS, 0.754, None), [*got[:2], 1, 1, 1])
    np.testing.assert_allclose(tide.quantile_weights(LEVELS, 1e-3, 1e-3), [0, 0, 1, 0.5, 0.5], atol=1e-12)
    assert (tide.quantile_weights(LEVELS, None, None) == 1).all()
    with pytest.raises(ValueError, match="above 0, got 0"):
        tide.quantile_weights(LEVELS, 0, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        tide.quantile_weights([0.5, 5], 1, 1)


def test_the_quantile_loss_by_hand():
    raw, y = torch.tensor([[[[1.0, 4.0]]]]), torch.tensor([[[3.0]]])
    loss = tide_heads.pinball_loss(raw, y, torch.tensor([0.25, 0.75]), torch.tensor([2.0, 10.0]))
    assert loss.shape == (1, 1, 1) and loss.item() == pytest.approx(2 * 0.25 * 2 + 10 * 0.25 * 1)


@given(
    mean=st.floats(-20, 30),
    spread=st.floats(-30, 30),
    extra=st.floats(-30, 30),
    y=st.one_of(st.integers(0, 5), st.integers(0, 10**6)),
    head=st.sampled_from(["nb", "zinb"]),
)
def test_count_losses_and_their_slopes_are_finite_on_raw_counts(mean, spread, extra, y, head):
    raw = torch.tensor([[[[mean, spread, extra]]]], requires_grad=True)
    loss = tide_heads.count_loss(raw, torch.tensor([[[float(y)]]]), head)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(raw.grad).all()


@given(mean=st.floats(-2, 4), spread=st.floats(-1, 3), extra=st.floats(-2, 4), y=st.integers(0, 40))
def test_count_losses_are_the_likelihood_of_the_zero_inflated_negative_binomial(mean, spread, extra, y):
    raw = torch.tensor([[[[mean, spread, extra]]]], dtype=torch.float64)
    m, a, zero = (float(v) for v in tide_heads.said(raw, "zinb"))
    own = stats.nbinom.pmf(y, 1 / a, 1 / (1 + m * a))
    loss = float(tide_heads.count_loss(raw, torch.tensor([[[float(y)]]], dtype=torch.float64), "zinb"))
    assert np.exp(-loss) == pytest.approx(zero * (y == 0) + (1 - zero) * own, rel=1e-6, abs=1e-12)
    plain = float(tide_heads.count_loss(raw, torch.tensor([[[float(y)]]], dtype=torch.float64), "nb"))
    assert np.exp(-plain) == pytest.approx(own, rel=1e-6, abs=1e-12)


@given(mean=st.floats(0.01, 200), spread=st.floats(0.02, 5), zero=st.floats(0, 0.95), level=st.floats(0.01, 0.99))
def test_quantiles_of_counts_are_the_least_that_the_distribution_reaches(mean, spread, zero, level):
    got = tide_heads.demand([np.array([[[mean, spread, zero]]])], "zinb", LEVELS, [level])
    q = got.q[0, 0, 0]

    def reached(n):
        return zero + (1 - zero) * stats.nbinom.cdf(n, 1 / spread, 1 / (1 + mean * spread))

    assert reached(q) >= level - 1e-9 and (q == 0 or reached(q - 1) < level + 1e-9)
    assert got.mean[0, 0] == pytest.approx((1 - zero) * mean) and got.zero[0, 0] == pytest.approx(reached(0))


def test_quantiles_between_trained_levels_lie_on_a_line_and_crossing_ones_are_sorted():
    said = np.array([[[0.0, 0.0, 4.0, 2.0, 10.0]]])
    got = tide_heads.demand([said], "quantile", LEVELS, (0.01, 0.5, 0.625, 0.75, 0.99))
    np.testing.assert_allclose(got.q[0, 0], [0, 2, 3, 4, 10])
    assert 0.25 < got.zero[0, 0] < 0.5 and got.mean[0, 0] > 0


# ---- fine-tuning, on disk, exported


def test_finetuning_starts_from_the_given_model_and_leaves_it_as_it_was(model, panel):
    before = [{name: v.clone() for name, v in state.items()} for state in model.states]
    child = tide.finetune(model, panel, parent="champion", validation_days=0, epochs=1, learning_rate=1e-4, train_days=12)
    moved = max(float((v - before[0][name]).abs().max()) for name, v in child.states[0].items())
    assert 0 < moved < 0.02 and child.info["parent"] == "champion" and child.info["n_origins"] < model.info["n_origins"]
    assert child.scaling == model.scaling and child.info["trained_until"] == str(panel.as_of)
    assert all(torch.equal(v, was[name]) for was, state in zip(before, model.states, strict=True) for name, v in state.items())


def test_finetuning_that_helps_nobody_is_undone(model, panel):
    child = tide.finetune(model, panel, learning_rate=0.9, validation_days=3)
    assert child.info["kept_epoch"] == 0 and child.history[0]["kept"] and child.history[0]["epoch"] == 0
    assert all(torch.equal(v, model.states[1][name]) for name, v in child.states[1].items())


def test_shape_settings_cannot_change_in_a_finetune(plain, panel):
    with pytest.raises(tide.TideError, match="hidden_size is 8 in the model to fine-tune and cannot become 9"):
        tide.finetune(plain, panel, hidden_size=9)


def test_a_saved_model_forecasts_the_same_bits_and_is_written_the_same_bytes(model, panel, tmp_path):
    tide.save(model, tmp_path / "a")
    loaded = tide.load(tmp_path / "a")
    tide.save(loaded, tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["model.json", "weights.safetensors"]
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    np.testing.assert_array_equal(tide.forecast(loaded, panel, 3, LEVELS).q, tide.forecast(model, panel, 3, LEVELS).q)
    assert loaded.hyper == model.hyper and json.loads((tmp_path / "a" / "model.json").read_text())["model"] == "tide"


def test_broken_directories_are_named(plain, tmp_path):
    with pytest.raises(tide.TideError, match=r"model\.json: no such file"):
        tide.load(tmp_path)
    tide.save(plain, tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(tide.TideError, match="broken weights"):
        tide.load(tmp_path)
    tide.save(replace(plain, hyper={**plain.hyper, "seeds": 2}), tmp_path)
    with pytest.raises(tide.TideError, match="no weights of network 1 of 2"):
        tide.load(tmp_path)
    (tmp_path / "model.json").write_text('{"model": "lstm"}')
    with pytest.raises(tide.TideError, match="not a description of this model"):
        tide.load(tmp_path)


def test_weights_of_another_network_are_refused(plain, panel):
    with pytest.raises(tide.TideError, match="not of this network"):
        tide.forecast(replace(plain, hyper={**plain.hyper, "hidden_size": 9}), panel, 3, LEVELS)


def test_the_exported_ensemble_says_in_onnxruntime_what_it_says_in_torch(model, panel, tmp_path):
    import onnxruntime

    assert tide.export_onnx(model, tmp_path / "model.onnx") < 1e-4
    feed = tide_data.feed(panel, model.hyper, model.scaling)
    rows = torch.arange(22)
    batch = feed.batch(rows, torch.full_like(rows, 59), targets=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    said = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]  # (E, B, H, P)
    got = tide_heads.demand(list(said), "zinb", LEVELS, LEVELS)
    np.testing.assert_allclose(got.mean, tide.forecast(model, panel, 3, LEVELS).mean[:22], rtol=1e-4)


# ---- settings


def test_an_old_configuration_is_translated():
    old = """{"model_config": {"num_encoder_layers": 3, "num_decoder_layers": 2, "temporal_width_past": 2, "dropout": 0.5,
        "batch_size": 128}, "optimizer_config": {"lr": 7.7e-05, "weight_decay": 0.0028},
        "lr_shed_config": {"T_0": 160, "T_mult": 1}, "swa_config": {"swa_lrs": 1e-4, "swa_epoch_start": 0.6},
        "weights_config": {"sigma_left": 0.754, "sigma_right": 1.39},
        "train_ds_config": {"alpha": 2.556}, "lags": 9, "quantiles": [0.05, 0.25, 0.5, 0.75, 0.95]}"""
    got = from_config(old)
    assert got == dict(
        **dict(head="quantile", schedule="cosine_restarts", gradient_clip=0.5),
        **dict(num_encoder_layers=3, num_decoder_layers=2, temporal_width_past=2, dropout=0.5, batch_size=128),
        **dict(learning_rate=7.7e-05, weight_decay=0.0028, T_0=160, T_mult=1, swa_lr=1e-4, swa_start=0.6),
        **dict(sigma_left=0.754, sigma_right=1.39, weight_alpha=2.556, sequence_length=9, levels=[0.05, 0.25, 0.5, 0.75, 0.95]),
    )
    assert from_config(json.loads(old)) == got and set(got) <= set(tide.DEFAULTS)


def test_what_an_old_configuration_says_of_things_that_are_no_more_is_left_out_and_told(caplog):
    old = {"model_id": "4ff41e5d", "train_ds_config": {"alpha": 2.556, "span": 7}, "lags": 9}
    assert set(from_config(old)) == {"head", "schedule", "gradient_clip", "weight_alpha", "sequence_length"}
    assert [r.getMessage().split(",")[0] for r in caplog.records] == [
        "model config: model_id is '4ff41e5d'",
        "model config: train_ds_config.span is 7",
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"optimizer_config": {"lr": 4.616}}, r"optimizer_config\.lr is 4\.616.*exponent was lost"),
        ({"optimizer_config": {"lr": 1e-3, "weight_decay": 6.206}}, r"weight_decay is 6\.206"),
        ({"model_config": {"hidden": 5}}, "unknown key model_config.'hidden'"),
        ({"callbacks": {}}, "unknown key 'callbacks'"),
        ({"model_config": 5}, "model_config must be a dictionary"),
        ("{", "not JSON"),
        ("[]", "wanted a dictionary"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        from_config(config)


@pytest.mark.parametrize(
    ("over", "error", "message"),
    [
        (dict(hidden=5), TypeError, "no hyperparameter 'hidden'"),
        (dict(epochs=0), tide.TideError, "epochs: .*greater than or equal to 1, got 0"),
        (dict(learning_rate=4.616), tide.TideError, "learning_rate: .*less than 1, got 4.616"),
        (dict(weight_alpha="1e-3"), tide.TideError, "weight_alpha: .*valid number, got '1e-3'"),
        (dict(head="poisson"), tide.TideError, "head: .*'nb', 'zinb' or 'quantile', got 'poisson'"),
        (dict(head="nb", window_scale=False), tide.TideError, "a count head needs window_scale"),
        (dict(swa_start=2), tide.TideError, "swa_start: .*less than 1, got 2"),
        (dict(levels=(0.5, 0.1)), tide.TideError, "levels must rise"),
        (dict(seasonal=True, forecast_length=12), tide.TideError, "looks a year back"),
        (dict(device="cuda"), tide.TideError, "torch sees no CUDA device"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(panel, over, error, message):
    if over.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(error, match=message):
        tide.fit(panel, **{**TINY, **over})
