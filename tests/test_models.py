"""The baselines against slow loops of their definitions, and the one door that all models go through."""

from __future__ import annotations

import gc
import json
import math
import pickle
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import LEVELS, panel_of, posted_panel, tiny
from forecastbook import experts, gbm, models, training
from forecastbook.models import ModelError
from forecastbook.params import Params
from forecastbook.trades import PRICES, SALES

BASELINES = PRICES.baselines
nan = np.nan
EMPIRICAL = [name for name in BASELINES if name != "table"]  # the counting table has tests of its own


@pytest.fixture(scope="module")
def network():
    """A tiny trained network and the panel that it was trained on."""
    panel = posted_panel(10, 90)
    return models.fit("lstm", panel, **training.hyper(tiny())), panel


# ---- definitions, by loops over single values


def carried(y, t):
    for value in reversed(y[: t + 1]):
        if not math.isnan(value):
            return value
    return nan


def point(name, y, t, h):
    if name == "seasonal_naive":
        back = t + h - 7 * math.ceil(h / 7)
        value = carried(y, back) if back >= 0 else nan
        return carried(y, t) if math.isnan(value) else value
    if name == "moving_average":
        seen = [v for v in y[max(0, t - 27) : t + 1] if not math.isnan(v)]
        return sum(seen) / len(seen) if seen else carried(y, t)
    return carried(y, t)


def past_errors(name, y, h):
    out = []
    for t in range(len(y) - h):
        last = carried(y, t)
        error = (y[t + h] - point(name, y, t, h)) / abs(last) if last else nan
        if not math.isnan(error):
            out.append(error)
    return out


def half(own, pool, few=20):
    return (own + pool) / 2 if own is not None else pool


def loop_forecast(name, Y, horizon):
    """(q (N, H, Q), p (N, H), up (N, H)) of a baseline on the rows of an array."""
    recent = [list(y[-(365 + horizon) :]) for y in Y]
    q, p, up = np.full((len(Y), horizon, 5), nan), np.full((len(Y), horizon), nan), np.full((len(Y), horizon), nan)
    for h in range(1, horizon + 1):
        moved = []
        for y in recent:
            steps = [(carried(y, t), y[t + h]) for t in range(len(y) - h)]
            moved.append([math.log(b / a) for a, b in steps if not (math.isnan(a) or math.isnan(b))])
        for out, least in ((p, lambda log: abs(log) > 0.005), (up, lambda log: log > 0.005)):
            came = [[least(log) for log in own] for own in moved]
            pool = sum(map(sum, came)) / max(sum(map(len, came)), 1)
            for n, own in enumerate(came):
                out[n, h - 1] = half(sum(own) / len(own) if len(own) >= 20 else None, pool)
        errors = [past_errors(name, y, h) for y in recent]
        together = [e for series in errors for e in series]
        for n, y in enumerate(Y):
            last = carried(list(y), len(y) - 1)
            seen = [v for v in y if not math.isnan(v)]
            scale = 1.0 if not seen else abs(last) or (sum(map(abs, seen)) / len(seen)) or 1.0
            for k, level in enumerate(LEVELS):
                if name == "historical_quantiles":
                    window = [v for v in y[-90:] if not math.isnan(v)]
                    q[n, h - 1, k] = np.quantile(window, level) if window else last
                    continue
                pooled = np.quantile(together, level) if together else 0.0
                spread = half(np.quantile(errors[n], level) if len(errors[n]) >= 20 else None, pooled)
                spread = min(spread, 0) if level < 0.5 else max(spread, 0) if level > 0.5 else 0.0
                q[n, h - 1, k] = point(name, recent[n], len(recent[n]) - 1, h) + spread * scale
    return np.maximum(np.sort(q, axis=-1), 0), p, up


def ragged(seed=0):
    """Sticky, gappy, short, one-off, stale and never seen."""
    draw = np.random.default_rng(seed)
    y = posted_panel(6, 60, seed, gaps=0.25).y
    y = np.vstack([y[:, -60:], np.full((4, y[:, -60:].shape[1]), nan)])
    y[6, -12:] = draw.uniform(5, 9, 12).round(2)
    y[7, -1], y[8, :21] = 3.5, draw.uniform(1, 2, 21).round(2)  # 20 errors at h = 1, 19 at h = 2
    return y


@pytest.mark.parametrize("name", EMPIRICAL)
def test_a_baseline_is_what_its_definition_says(name):
    y = ragged()
    q, p, up = models.forecast(models.fit(name, None), panel_of(y), 9, LEVELS)
    for said, wanted in zip((q, p, up), loop_forecast(name, y, 9), strict=True):
        np.testing.assert_allclose(said, wanted, rtol=1e-9, atol=1e-9)
    assert np.isnan(q[9]).all() and np.isfinite(q[:9]).all()


@pytest.mark.parametrize("name", EMPIRICAL)
def test_errors_older_than_a_year_are_forgotten(name):
    y = np.random.default_rng(1).choice([9.0, 10.0, 12.0], (2, 400))
    y[:, :20] = 1000.0
    said = models.forecast(models.fit(name, None), panel_of(y), 2, LEVELS)
    for one, wanted in zip(said, loop_forecast(name, y, 2), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_a_price_older_than_what_errors_are_read_from_is_still_the_last_one(name):
    y = np.full((2, 900), 5.0)
    y[0, 100:] = nan
    said = models.Baseline(name).forecast(panel_of(y), 7, LEVELS)
    assert (said.q[0, :, 2] == 5.0).all(), "nothing was seen of it for 800 days"


def test_seasons_follow_the_frequency():
    y = np.arange(1.0, 41)[None]
    median = {
        freq: models.predict(models.fit("seasonal_naive", None), panel_of(y, start, freq), 14, LEVELS)[0, :, 2]
        for freq, start in (("D", "2024-01-01"), ("MS", "2020-01-01"), ("W-MON", "2024-01-01"))
    }
    np.testing.assert_array_equal(median["D"], [*range(34, 41), *range(34, 41)])
    np.testing.assert_array_equal(median["MS"], [*range(29, 41), 29, 30])
    np.testing.assert_array_equal(median["W-MON"], [*[40] * 12, 1, 2])  # before a season of 52: the last value


# ---- properties of every baseline


@pytest.mark.parametrize("name", BASELINES)
@given(cut=st.integers(20, 58), seed=st.integers(0, 99))
def test_a_baseline_knows_nothing_of_later_days(name, cut, seed):
    panel = panel_of(ragged())
    y = panel.y.copy()
    y[:, cut + 1 :] = np.random.default_rng(seed).uniform(0.1, 1e5, y[:, cut + 1 :].shape)
    model, date = models.fit(name, panel), panel.dates[cut]
    a, b = (models.forecast(model, x.until(date), 4, LEVELS) for x in (panel, replace(panel, y=y)))
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("factor", [100, 1000])
def test_prices_in_another_unit_give_forecasts_in_it(name, factor):
    y, model = ragged(), models.fit(name, None)
    (q, p, up), (q100, p100, up100) = (models.forecast(model, panel_of(y * f), 7, LEVELS) for f in (1, factor))
    np.testing.assert_allclose(q100, factor * q, rtol=1e-9)
    np.testing.assert_allclose(p100, p, rtol=1e-12)
    np.testing.assert_allclose(up100, up, rtol=1e-12)


@pytest.mark.parametrize("name", BASELINES)
@given(seed=st.integers(0, 10**6), N=st.integers(1, 4), T=st.integers(1, 50), gaps=st.sampled_from([0.0, 0.5, 0.95]))
def test_quantiles_are_ordered_finite_and_not_negative(name, seed, N, T, gaps):
    draw = np.random.default_rng(seed)
    y = draw.lognormal(1, 2, (N, T))
    y[draw.random((N, T)) < gaps] = nan
    panel = panel_of(y)
    q, p, up = models.forecast(models.fit(name, panel), panel, 8, LEVELS)
    seen = panel.n_obs > 0
    assert q.shape == (N, 8, 5) and p.shape == (N, 8) and (np.diff(q[seen], axis=-1) >= 0).all() and (q[seen] >= 0).all()
    assert np.isfinite(q[seen]).all() and np.isnan(q[~seen]).all() and ((p[seen] >= 0) & (p[seen] <= 1)).all()
    assert ((up[seen] >= 0) & (up[seen] <= p[seen])).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_constant_price_is_forecast_with_certainty(name):
    """To the last bit: else an error of 1e-15 would be the worst there is, and everything a hundred percent better."""
    y = np.broadcast_to([[4.99], [9.99], [1234.56]], (3, 50)).copy()
    y[1, 7:12] = y[2, :3] = nan
    q, p, _ = models.forecast(models.fit(name, None), panel_of(y), 7, LEVELS)
    np.testing.assert_array_equal(q, np.broadcast_to([[[4.99]], [[9.99]], [[1234.56]]], q.shape))
    assert (p < 0.001).all() if name == "table" else (p == 0).all()


@pytest.mark.parametrize("name", BASELINES)
def test_one_series_and_one_day_of_history(name):
    q, p, _ = models.forecast(models.fit(name, None), panel_of([[4.99]]), 7, LEVELS)
    assert (q == 4.99).all() and (p == (0.005 if name == "table" else 0)).all()  # no evidence: one change in two hundred


def test_values_below_zero_have_no_floor_and_zeros_keep_a_scale():
    down = panel_of([[-5.0, -6, -4, -5] * 10])
    assert models.floor(down) is None and (models.predict(models.fit("last_value", down), down, 3, LEVELS) < 0).any()
    np.testing.assert_allclose(models.scale(panel_of([[2, 4, 0], [nan] * 3, [0, 0, 0], [1, 3, nan]])), [2, 1, 1, 3])
    assert models.floor(panel_of([[nan, nan]])) == 0.0


# ---- the network through the same door


def test_the_network_answers_in_the_shapes_of_a_baseline(network):
    model, panel = network
    q, p, _ = models.forecast(model, panel, 7, LEVELS)
    assert q.shape == (10, 7, 5) and (np.diff(q, axis=-1) >= 0).all() and (q >= 0).all() and ((p >= 0) & (p <= 1)).all()
    np.testing.assert_array_equal(models.predict(model, panel, 7, LEVELS), q)


def test_baselines_are_all_that_suit_the_panel():
    prices, temperatures = panel_of([[4.99, 5.99] * 20]), panel_of([[-1.0, 0.0, 2.0] * 10])
    assert list(models.baselines(prices)) == list(BASELINES)
    assert list(models.baselines(temperatures)) == EMPIRICAL == list(models.baselines(panel_of([[0.0, 1.0] * 10])))
    for panel in (prices, temperatures):
        for name, (q, p, up) in models.forecasts(models.baselines(panel), panel, 3, LEVELS).items():
            assert np.isfinite(q).all() and np.isfinite(p).all() and q.shape == (1, 3, 5), name
            assert ((up >= 0) & (up <= p)).all(), name


def test_many_forecasts_are_those_of_each_and_experts_answer_under_all_their_names(network):
    model, panel = network
    y = panel.y.copy()
    y[4] = nan
    panel = replace(panel, y=y)
    speaker = experts.Experts(model, gbm.fit(panel, 7))
    found = models.forecasts(models.baselines(panel) | {"lstm": speaker}, panel, 7, LEVELS)
    assert list(found) == [*BASELINES, *experts.NAMES]
    for name, asked in (models.baselines(panel) | {"lstm": model}).items():
        for a, b in zip(found[name], models.forecast(asked, panel, 7, LEVELS), strict=True):
            np.testing.assert_array_equal(a, b)
    for name, (q, *_) in found.items():
        assert np.isnan(q[4]).all() and (np.diff(np.delete(q, 4, axis=0), axis=-1) >= 0).all(), name


def test_the_shipped_base_is_offered_where_the_shape_is_the_same():
    wanted = training.hyper(Params())
    assert models.shipped("lstm", **wanted).info["id"] == "the shipped base"
    assert models.shipped("lstm", **wanted | {"learning_rate": 0.5, "epochs": 3}) is not None
    for name, value in dict(hidden_size=8, num_layers=0, attention=True, window="single", sequence_length=14).items():
        assert models.shipped("lstm", **wanted | {name: value}) is None, name
    assert models.shipped("lstm", **wanted | {"forecast_length": 9}) is None
    with pytest.raises(ModelError, match="'prophet' is not known"):
        models.shipped("prophet")


def test_a_saved_network_forecasts_the_same_bits_and_its_files_are_the_same_bytes(network, tmp_path):
    model, panel = network
    for name in ("a", "b"):
        models.save(model, tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["model.json", "weights.safetensors"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    back = models.load(tmp_path / "a")
    assert all(
        np.array_equal(a, b) for a, b in zip(*(models.forecast(m, panel, 7, LEVELS) for m in (model, back)), strict=True)
    )


def test_a_finetune_leaves_the_given_model_alone(network):
    model, panel = network
    before = models.predict(model, panel, 7, LEVELS)
    child = models.finetune(model, panel, **{**training.finetune_hyper(tiny()), "validation_days": 0, "learning_rate": 0.01})
    np.testing.assert_array_equal(models.predict(model, panel, 7, LEVELS), before)
    assert not np.array_equal(models.predict(child, panel, 7, LEVELS), before)


# ---- files


@pytest.mark.parametrize(("trade", "name"), [(trade, name) for trade in (PRICES, SALES) for name in trade.baselines])
def test_a_baseline_is_saved_and_loaded(trade, name, tmp_path):
    made = models.fit(name, None, trade)
    models.save(made, tmp_path / "model")
    assert models.load(tmp_path / "model") == made == models.finetune(made, None) and made.trade is trade
    told = {"model": name, "class": "Baseline", "trade": trade.name}
    assert json.loads((tmp_path / "model" / "model.json").read_text()) == told


def test_a_baseline_that_does_not_say_its_trade_is_one_of_prices(tmp_path):
    (tmp_path / "model.json").write_text('{"model": "last_value"}')
    assert models.load(tmp_path) == models.fit("last_value", None) != models.fit("last_value", None, SALES)
    (tmp_path / "model.json").write_text('{"model": "imapa"}')
    with pytest.raises(ModelError, match="model 'imapa' is not known"):
        models.load(tmp_path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_missing_model_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"model.json: model file not found; run make forecast"):
        models.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"\x80\x04garbage",
        b'{"model": ["lstm"]}',
        b'{"model": "os"}',
        b'{"model": null}',
        b'{"model": "last_value", "trade": "stocks"}',
    ],
)
def test_a_file_that_is_no_model_is_refused(content, tmp_path):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ModelError) as error:
        models.load(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_nothing_is_ever_unpickled(tmp_path, network):
    planted = tmp_path / "planted"
    (tmp_path / "model.json").write_bytes(pickle.dumps(Evil(planted)))
    with pytest.raises(ModelError):
        models.load(tmp_path)
    models.save(network[0], tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").write_bytes(pickle.dumps(Evil(planted)))
    with pytest.raises(ValueError, match="weights.safetensors: broken weights"):
        models.load(tmp_path / "m")
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Evil(planted)))
    with pytest.raises(ValueError, match="a.pth: refused"):
        models.checkpoint("lstm", tmp_path / "a.pth", attention=False, window="single")
    assert not planted.exists()


def test_a_truncated_weight_file_and_another_architecture_are_refused(tmp_path, network):
    models.save(network[0], tmp_path)
    weights = tmp_path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="broken weights"):
        models.load(tmp_path)
    weights.write_bytes(whole)
    text = json.loads((tmp_path / "model.json").read_text())
    text["hyperparameters"]["hidden_size"] = 16
    (tmp_path / "model.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match=r"weights.safetensors: key '.*' has shape \(8, 28\), wanted \(16, 28\)"):
        models.load(tmp_path)


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(ModelError, match="model 'prophet' is not known; known: lstm, tide, last_value"):
        models.fit("prophet", panel_of([[1.0]]))


def test_how_often_a_price_changes_is_counted_once_a_panel_and_horizon(monkeypatch):
    """And not held longer than the panel; a panel of the same numbers is counted by itself."""
    counted, count = [], models._count_changes
    monkeypatch.setattr(models, "_count_changes", lambda *asked: counted.append(asked[1]) or count(*asked))
    monkeypatch.setattr(models, "_RATES", WeakKeyDictionary())
    panel = posted_panel(5, 60)
    said = models.forecasts({name: models.Baseline(name) for name in EMPIRICAL}, panel, 7, LEVELS)
    assert counted == [7] and len({id(one.p_change) for one in said.values()}) == 1
    models.change_rates(panel, 3), models.change_rates(replace(panel), 7)
    assert counted == [7, 3, 7]
    del panel
    gc.collect()
    assert not models._RATES
