"""The pooled model of sales: learnt from the past alone, the same each time, sane on any panel, whole on disk or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import LEVELS, long_frame, panel_of
from forecastbook import boosting, counts, demand, intermittent, pooled, scores
from forecastbook.panel import build

nan = np.nan
H = 4


def shop(n=40, T=48, seed=0, freq="W-MON"):
    """Slow and fast sellers with prices, list prices, orders and two static columns; ragged starts, gaps and stock-outs."""
    draw = np.random.default_rng(seed)
    rate = np.exp(draw.normal(0.8, 1.2, n))[:, None] * (1 + 0.5 * np.sin(np.arange(T) / 6))
    cut = draw.random((n, T)) < 0.2
    y = draw.negative_binomial(2, 2 / (2 + rate * np.where(cut, 2, 1))).astype(float)
    y[np.arange(T) < draw.integers(0, 20, n)[:, None]] = nan
    y[draw.random((n, T)) < 0.02] = nan
    frame = long_frame(y, freq=freq)
    usual = draw.uniform(2, 20, n)[:, None] * np.ones(T)
    frame["list_price"], frame["price"] = usual.ravel(), (usual * np.where(cut, 0.7, 1)).ravel()
    frame["orders"] = np.ceil(y.ravel() / 2)
    frame["available"] &= ~((y.ravel() == 0) & (draw.random(n * T) < 0.1))
    frame["category"] = np.repeat([f"c{k % 3}" for k in range(n)], T)
    frame["brand"] = np.repeat([f"b{k % 7}" for k in range(n)], T)
    return build(frame, freq, frame["ts"].max(), past=("price", "list_price", "orders"), static=("category", "brand"))


@pytest.fixture(scope="module")
def panel():
    return shop()


@pytest.fixture(scope="module")
def model(panel):
    return pooled.fit(panel.until(panel.dates[-5]), H, LEVELS)


def sane(said, N, Q=5, horizon=H):
    assert said.q.shape == (N, horizon, Q) and said.mean.shape == said.zero.shape == (N, horizon)
    known = np.isfinite(said.mean)
    assert (said.q[known] >= 0).all() and (np.diff(said.q[known], axis=-1) >= 0).all() and (said.mean[known] >= 0).all()
    assert ((said.zero[known] >= 0) & (said.zero[known] <= 1)).all() and np.isnan(said.q[~known]).all()


# ---- which rows are learnt from


def test_rows_are_drawn_by_weight_none_twice_the_same_each_time():
    weight = np.tile([1.0, 4.0], 50_000)
    found = pooled._drawn(weight, 10_000, 0)
    assert len(np.unique(found)) == 10_000 and (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, pooled._drawn(weight, 10_000, 0))
    assert (pooled._drawn(weight, 10_000, 1) != found).any()
    assert 3.5 < (found % 2).sum() / (found % 2 == 0).sum() < 4.1  # a little below 4: what is drawn is out of the bowl


def test_a_draw_weighs_as_all_rows_do():
    """Trees that can tell no row from another say the weighted quantiles, the weighted mean and the weighted share of zeros."""
    draw, fast = np.random.default_rng(0), np.arange(60_000) % 2 == 1
    scale = np.where(fast, 16.0, 1.0)
    y = np.where(fast, draw.uniform(16, 32, len(fast)), draw.uniform(0, 1, len(fast)) * (draw.random(len(fast)) > 0.3))
    chosen, blind = pooled._drawn(np.sqrt(scale), 6000, 0), np.zeros((len(y), 1))
    all_rows = pooled._grow(blind, ["x"], y, scale, False, LEVELS, 0)
    drawn = pooled._grow(blind[chosen], ["x"], y[chosen], scale[chosen], True, LEVELS, 0)
    said, wanted = (np.array([booster.predict(blind[:1])[0] for booster in grown]) for grown in (drawn, all_rows))
    np.testing.assert_allclose(said, wanted, rtol=0.02, atol=0.01)
    assert said[2] == pytest.approx(np.sqrt(1 + (0.5 - 0.2) / 0.8), rel=0.02), "four fifths of the weight are fast sellers"
    assert said[-1] == pytest.approx(0.3 / 5, abs=0.01)


# ---- when nothing is learnt


def test_too_little_or_nothing_sold_learns_nothing():
    assert pooled.fit(panel_of(np.random.default_rng(0).poisson(3, (1, 12)), freq="MS"), 3, LEVELS) is None
    assert pooled.fit(panel_of(np.zeros((30, 40)), freq="W-MON"), H, LEVELS) is None
    assert pooled.fit(panel_of(np.full((30, 40), nan), freq="W-MON"), H, LEVELS) is None
    assert pooled.fit(panel_of([[5.0]], freq="W-MON"), H, LEVELS) is None


@pytest.mark.parametrize(
    "n, T, freq, horizon",
    [(1, 80, "W-MON", 4), (30, 12, "MS", 3), (12, 30, "MS", 6), (3, 120, "W-MON", 1), (20, 40, "D", 7), (40, 24, "QS", 2)],
)
def test_small_panels_of_any_frequency(n, T, freq, horizon):
    panel = shop(n, T, seed=n, freq=freq)
    model = pooled.fit(panel, horizon, LEVELS)
    sane(model.forecast(panel, horizon, LEVELS), n, horizon=horizon)


@pytest.mark.parametrize("kind", ["never a zero", "mostly zero", "huge", "constant", "columns without a value"])
def test_lopsided_panels(kind):
    draw = np.random.default_rng(1)
    y = {
        "never a zero": draw.poisson(3, (20, 30)) + 1.0,
        "mostly zero": (draw.random((20, 30)) < 0.01).astype(float),
        "huge": draw.poisson(3, (20, 30)) * 1e7,
        "constant": np.full((20, 30), 4.0),
        "columns without a value": draw.poisson(3, (20, 30)).astype(float),
    }[kind]
    panel = panel_of(y, freq="W-MON")
    if kind == "columns without a value":
        panel = replace(panel, past=np.full((20, 30, 3), nan), past_names=("price", "list_price", "confidence"))
    said = pooled.fit(panel, H, LEVELS).forecast(panel, H, LEVELS)
    sane(said, 20)
    assert np.isfinite(said.q).all()
    assert said.mean.mean() == pytest.approx(y.mean(), rel=0.3, abs=0.02)


# ---- what it says


def test_quantiles_means_and_zeros_are_sane(panel, model):
    view = panel.until(panel.dates[-5])
    said = model.forecast(view, H, LEVELS)
    sane(said, 40)
    y = panel.after(panel.dates[-5], H)
    flat = np.nanquantile(counts.sold(view), LEVELS)
    assert scores.wql(y, said.q, LEVELS) < 0.9 * scores.wql(y, np.broadcast_to(flat, said.q.shape), LEVELS)
    assert scores.wql(y, said.q, LEVELS) < scores.wql(y, intermittent.forecast("last_value", view, H, LEVELS).q, LEVELS)
    assert np.corrcoef(said.zero[:, 0], np.nanmean(counts.sold(view) == 0, axis=1))[0, 1] > 0.7


def test_a_series_never_seen_is_left_out_and_a_new_one_is_not(panel, model):
    y, available = panel.y.copy(), panel.available.copy()
    y[3], y[4, :-1], y[5] = nan, nan, 0
    y[4, -1], available[5] = 2.0, False
    said = model.forecast(replace(panel, y=y, available=available), H, LEVELS)
    assert np.isnan(said.q[[3, 5]]).all() and np.isfinite(said.q[4]).all() and np.isfinite(said.zero[4]).all()


def test_it_learns_that_a_category_takes_turns():
    """Items of one group sell in even weeks, those of the other in odd ones: only the last value tells."""
    turn = (np.arange(40) + np.arange(60)[:, None]) % 2
    panel = panel_of(np.where(turn == 1, 10.0, 0.0), freq="W-MON")
    said = pooled.fit(panel, 2, LEVELS).forecast(panel, 2, LEVELS)
    last = panel.y[:, -1] == 10
    assert said.q[last, 0, 2].max() < 1 < 3 < said.q[~last, 0, 2].min()
    assert said.zero[last, 0].min() > 0.9 and said.zero[~last, 0].max() < 0.1
    assert said.zero[last, 1].max() < 0.3 < 0.7 < said.zero[~last, 1].min()


def test_a_year_ago_is_seen_once_there_is_one():
    """Each item sells in a month of its own: nobody without last year's calendar can know it."""
    month = np.arange(60) % 12
    y = np.where(month == (np.arange(80) % 12)[:, None], 12.0, 0.0)
    panel = panel_of(y, start="2019-01-01", freq="MS")
    model = pooled.fit(panel, 3, LEVELS)
    assert "year_ago" in model.names and model.importance()["feature"][0] == "year_ago"
    said = model.forecast(panel, 3, LEVELS)
    due = (np.arange(80) % 12) == 1  # February is the second month ahead
    assert said.q[due, 1, 2].min() > 6 > 3 > said.q[~due, 1, 2].max()
    assert "year_ago" not in pooled.fit(panel.until(panel.dates[11]), 3, LEVELS).names


def test_sold_out_targets_are_not_learnt_from():
    panel = shop(30, 40)
    target = pooled._targets(panel, 40, H)
    gone = ~panel.available & (panel.y <= 0)
    assert gone.sum() > 10
    for n, t in zip(*np.nonzero(gone), strict=True):
        assert all(np.isnan(target[n, t - h, h - 1]) for h in range(1, min(H, t) + 1))
    full = replace(panel, available=panel.observed)
    assert np.isfinite(pooled._targets(full, 40, H)).sum() > np.isfinite(target).sum()


def test_levels_in_between_and_beyond():
    q = np.array([[[0.0, 4.0, 10.0]]])
    out = pooled.between(q, (0.1, 0.5, 0.9), (0.01, 0.1, 0.3, 0.5, 0.9, 0.99))
    assert out[0, 0, [1, 3, 4]] == pytest.approx([0, 4, 10])
    assert out[0, 0, 0] == 0 and 0 < out[0, 0, 2] < 4 and 10 < out[0, 0, 5] < 16
    np.testing.assert_array_equal(pooled.between(np.full((1, 1, 1), 3.0), (0.5,), LEVELS), np.full((1, 1, 5), 3.0))


@given(
    st.lists(st.floats(0, 1e4), min_size=5, max_size=5),
    st.lists(st.floats(0.005, 0.995), min_size=1, max_size=9, unique=True),
)
def test_any_levels_rise(values, levels):
    out = pooled.between(np.sort(values)[None, None], LEVELS, sorted(levels))
    assert (np.diff(out) >= 0).all() and (out >= 0).all()


def test_other_levels_and_horizons_can_be_asked(panel, model):
    said = model.forecast(panel, 2, (0.1, 0.5, 0.975))
    sane(said, 40, 3, 2)
    np.testing.assert_array_equal(said.q[..., 1], model.forecast(panel, H, LEVELS).q[:, :2, 2])


def test_a_panel_with_other_columns_is_answered(panel, model):
    bare = replace(panel, past=np.empty((40, 48, 0)), past_names=(), static=np.empty((40, 0), object), static_names=())
    sane(model.forecast(bare, H, LEVELS), 40)
    strange = panel.static.copy()
    strange[:, 0] = "unheard of"
    sane(model.forecast(replace(panel, static=strange), H, LEVELS), 40)


def test_a_planned_promotion_reaches_the_trees():
    draw = np.random.default_rng(3)
    planned = (draw.random((60, 44)) < 0.3).astype(float)
    y = draw.poisson(np.where(planned > 0, 12, 2)).astype(float)
    panel = replace(panel_of(y[:, :40], freq="W-MON"), future=planned[:, :, None], future_names=("promotion",))
    model = pooled.fit(panel, H, LEVELS)
    assert model.importance()["feature"][0] == "future_promotion"
    said = model.forecast(panel, H, LEVELS).mean
    assert said[planned[:, 40:] > 0].min() > 6 > said[planned[:, 40:] == 0].max()


def test_importance_is_a_share_of_every_feature_most_first(model):
    found = model.importance()
    assert sorted(found["feature"]) == sorted(model.names) and found["share"].sum() == pytest.approx(1)
    assert found["share"].is_monotonic_decreasing and (found["share"] >= 0).all()
    assert {"price_list", "past_orders", "trend_category", "brand"} <= set(found["feature"])


# ---- what it may know


@pytest.mark.parametrize("cut", [25, 46])
def test_the_future_changes_no_bit(panel, cut):
    draw = np.random.default_rng(cut)
    y, available, past = panel.y.copy(), panel.available.copy(), panel.past.copy()
    y[:, cut + 1 :] = draw.choice([nan, 0, 7, 900], y[:, cut + 1 :].shape)
    past[:, cut + 1 :] = draw.choice([nan, 0, 7, 900], past[:, cut + 1 :].shape)
    available[:, cut + 1 :] ^= True
    other, at = replace(panel, y=y, available=available, past=past), panel.dates[cut]
    a, b = (pooled.fit(p.until(at), H, LEVELS) for p in (panel, other))
    assert [x.model_to_string() for x in a.boosters] == [x.model_to_string() for x in b.boosters]
    one, two = a.forecast(panel.until(at), H, LEVELS), b.forecast(other.until(at), H, LEVELS)
    for part in ("q", "mean", "zero"):
        np.testing.assert_array_equal(getattr(one, part), getattr(two, part))


@pytest.mark.parametrize("cut", [8, 30, 45])
def test_every_feature_looks_back_only(panel, cut):
    """What was said of a period then is what is said of it now, so a row that is learnt from holds nothing of its outcome."""
    categories = {"category": ["c0", "c1", "c2"]}
    view = panel.until(panel.dates[cut])
    then, now = demand.of(view, cut + 1, categories), demand.of(panel, 48, categories)
    place = [now.names.index(name) for name in then.names]
    np.testing.assert_allclose(then.x, now.x[:, : cut + 1, place], rtol=1e-4, atol=1e-5)
    a, _ = demand.ahead(view, cut + 1, H, then.scale, True)
    b, _ = demand.ahead(panel, 48, H, now.scale, True)
    np.testing.assert_allclose(a, b[:, : cut + 1], rtol=1e-4, atol=1e-5)


def test_an_item_that_begins_later_is_in_no_trend(panel):
    """A view of the past holds its row already; a run of that day has not."""
    titled = replace(
        panel, titles=np.array([f"{'red' if n % 3 else 'blue'} wine {n}" for n in range(len(panel))], dtype=object)
    )
    view = titled.until(panel.dates[12])
    begun = view.n_obs > 0
    assert 5 < begun.sum() < len(view)
    mine, then = demand.of(view, 5, {"category": ["c0", "c1"]}), demand.of(view.take(begun), 5, {"category": ["c0", "c1"]})
    np.testing.assert_array_equal(mine.x[begun], then.x)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_features_of_size_do_not_know_the_unit(seed):
    panel = shop(6, 30, seed % 7)
    big = replace(panel, y=panel.y * 1000)
    a, b = (demand.of(p, 1, {}) for p in (panel, big))
    relative = [k for k, name in enumerate(a.names) if name.startswith(("mean_", "last_", "quantile_"))]
    slow = np.nanmean(counts.sold(panel), axis=1) > 3  # below, the scale has a floor
    np.testing.assert_allclose(a.x[slow][:, 0, relative], b.x[slow][:, 0, relative], rtol=0.15)


# ---- on disk


def test_the_same_panel_gives_the_same_bytes_and_says_the_same(panel, model, tmp_path):
    np.random.seed(3)
    again = pooled.fit(panel.until(panel.dates[-5]), H, LEVELS)
    for name, each in (("a", model), ("b", again)):
        (tmp_path / name).mkdir()
        pooled.save(each, tmp_path / name)
    whole = (tmp_path / "a" / pooled.FILE).read_bytes()
    assert whole == (tmp_path / "b" / pooled.FILE).read_bytes()
    back = pooled.load(tmp_path / "a")
    for part in ("q", "mean", "zero"):
        np.testing.assert_array_equal(
            getattr(back.forecast(panel, H, LEVELS), part), getattr(model.forecast(panel, H, LEVELS), part)
        )
    pooled.save(back, tmp_path)
    assert (tmp_path / pooled.FILE).read_bytes() == whole
    assert back.importance().equals(model.importance())
    assert pooled.load(tmp_path / "a" / "nowhere") is None
    other = pooled.fit(panel.until(panel.dates[-5]), H, LEVELS, seed=1)
    assert other.boosters[2].model_to_string() != model.boosters[2].model_to_string()


BROKEN = {
    "empty": lambda b: b"",
    "text": lambda b: b"hello",
    "bytes": lambda b: bytes(range(256)),
    "torn early": lambda b: b[: len(b) // 10],
    "torn late": lambda b: b[: len(b) * 95 // 100],
    "a number changed": lambda b: b.replace(b"left_child=1", b"left_child=9", 1),
    "without its seal": lambda b: b[: b.rindex(b"sha256=")],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_models_are_refused_by_name(model, tmp_path, kind):
    """LightGBM itself ends the whole process on some of these."""
    pooled.save(model, tmp_path)
    path = tmp_path / pooled.FILE
    whole = path.read_bytes()
    assert BROKEN[kind](whole) != whole
    path.write_bytes(BROKEN[kind](whole))
    with pytest.raises(pooled.PooledError, match="pooled.json: not the text of a pooled model") as error:
        pooled.load(tmp_path)
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_model_that_does_not_fit_its_names_is_refused(model, tmp_path):
    pooled.save(replace(model, levels=(0.5,)), tmp_path)
    with pytest.raises(pooled.PooledError, match="grown on other features"):
        pooled.load(tmp_path)
    text = '{"levels": [0.5]}\n'
    (tmp_path / pooled.FILE).write_text(boosting.sealed(text))
    with pytest.raises(pooled.PooledError, match="not the text of a pooled model"):
        pooled.load(tmp_path)
