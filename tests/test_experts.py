"""The experts together: which candidates they make, how they are mixed, and what they know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import LEVELS, asked, panel_of, posted_panel, tiny
from forecastbook import countingtable, experts, gbm, grid, lstm, models, spells, sticky, training
from forecastbook import panel as panels

nan = np.nan
H = 7


@pytest.fixture(scope="module")
def panel():
    panel = posted_panel(16, 110, gaps=0.15)
    y = panel.y.copy()
    y[4], y[9, :80] = nan, nan
    return replace(panel, y=y)


def trained(panel, **model) -> experts.Experts:
    network = models.fit("lstm", panel, **training.hyper(tiny(model=model)))
    return experts.Experts(network, gbm.fit(panel, H))


@pytest.fixture(scope="module")
def speaker(panel):
    return trained(panel, max_steps=40, epochs=4, learning_rate=0.01)


def odds(p):
    return np.log(p / (1 - p))


# ---- which candidates there are


def test_four_candidates_stand(speaker, panel):
    found = speaker.forecasts(panel, H, LEVELS)
    assert tuple(found) == experts.NAMES == ("lstm", "lstm_table", "gbm", "blend")
    for name, (q, p, up) in found.items():
        assert q.shape == (16, H, 5) and p.shape == up.shape == (16, H), name
        assert np.isnan(q[4]).all() and np.isnan(p[4]).all() and np.isnan(up[4]).all(), "never observed"
        q, p, up = (np.delete(each, 4, axis=0) for each in (q, p, up))
        assert (np.diff(q, axis=-1) >= 0).all() and (q > 0).all() and ((p > 0) & (p < 1)).all(), name
        assert ((up > 0) & (up < p)).all(), name


def test_without_trees_the_network_and_the_table_remain(speaker, panel):
    alone, both = replace(speaker, trees=None).forecasts(panel, H, LEVELS), speaker.forecasts(panel, H, LEVELS)
    assert tuple(alone) == ("lstm", "lstm_table")
    for name, said in alone.items():
        for a, b in zip(said, both[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_plain_network_stands_alone(panel):
    plain = trained(panel, window="single")
    assert plain.trees is not None
    found = plain.forecasts(panel, H, LEVELS)
    assert list(found) == ["lstm"]
    for a, b in zip(found["lstm"], lstm.forecast(plain.network, panel, H, LEVELS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_panel_is_forecast_alike_in_however_many_turns(speaker, panel, monkeypatch):
    whole = speaker.forecasts(panel, H, LEVELS)
    monkeypatch.setattr(panels, "CHUNK", 3)
    assert len(list(panel.seen())) > 2
    for name, (q, p, up) in speaker.forecasts(panel, H, LEVELS).items():
        np.testing.assert_array_equal(q, whole[name][0], err_msg=name)
        for one, other in ((p, whole[name].p_change), (up, whole[name].p_up)):
            np.testing.assert_allclose(one, other, rtol=1e-4, err_msg=name)  # a batch of another size sums in another order


# ---- how they are mixed


def test_a_blend_is_the_mean_of_the_log_odds(speaker, panel):
    seen = panel.take(panel.n_obs > 0)
    p = {name: said[1] for name, said in speaker.forecasts(seen, H, LEVELS).items()}
    counted = countingtable.count(seen, H).hazard(spells.of(seen, 1).features[:, -1])
    np.testing.assert_array_equal(p["lstm"], lstm.forecast(speaker.network, seen, H, LEVELS).p_change)
    np.testing.assert_array_equal(p["gbm"], speaker.trees.hazard(*asked(seen, H)))
    days = countingtable.count(seen, H).change_days
    learnt = days / (days + 30)
    assert 0.2 < learnt < 0.9
    np.testing.assert_allclose(odds(p["lstm_table"]), (learnt * odds(p["lstm"]) + odds(counted)) / (learnt + 1))
    three = learnt * odds(p["lstm"]) + odds(counted) + 2 * learnt * odds(p["gbm"])
    np.testing.assert_allclose(odds(p["blend"]), three / (3 * learnt + 1))
    assert len({round(float(each.sum()), 9) for each in p.values()}) == 4, "the experts differ, else this proves little"


def test_what_was_learnt_from_one_campaign_hardly_counts(speaker, panel):
    """The fewer days of change there were, the nearer are the blends to the table; with none they are the table."""
    seen = panel.take(panel.n_obs > 0)
    counted = countingtable.count(seen, H)
    usual = odds(counted.hazard(spells.of(seen, 1).features[:, -1]))
    for name in ("lstm_table", "blend"):
        found = [
            replace(speaker, counted=replace(counted, change_days=days)).forecasts(seen, H, LEVELS) for days in (0, 1, 30, 999)
        ]
        away = [np.abs(odds(said[name].p_change) - usual).mean() for said in found]
        assert away[0] < 1e-9 < away[1] < away[2] / 5 and away[2] < away[3], name


def test_all_of_them_go_where_the_network_says_on_the_side_that_they_say(speaker, panel):
    """Each candidate is the network's mixture with another hazard; where trees are in it, it leans as all three do."""
    seen = panel.take(panel.n_obs > 0)
    posted, said = lstm.mixture(speaker.network, seen, spells.calendar(seen, 1, H)[0], grid.of(seen))
    usual = countingtable.count(seen, H).on(said.ladder, posted.features[:, -1])
    side = sticky.mean_odds([said.upward, usual.upward, speaker.trees.upward(*asked(seen, H))])
    leaning = said.leaning(side)
    assert np.abs(leaning.upward - said.upward).max() > 0.05, "the experts differ, else this proves little"
    for name, (q, p, up) in speaker.forecasts(seen, H, LEVELS).items():
        goes = leaning if name in ("gbm", "blend") else said
        np.testing.assert_array_equal(q, replace(goes, hazard=p).quantiles(LEVELS), err_msg=name)
        np.testing.assert_array_equal(up, p * goes.upward, err_msg=name)
        still = p < 0.5
        last = np.broadcast_to(seen.last_value[:, None], p.shape)
        assert still.any() and (q[..., 2][still] == last[still]).all(), name


def test_trees_that_learnt_no_side_leave_it_to_the_network(speaker, panel):
    seen = panel.take(panel.n_obs > 0)
    _, said = lstm.mixture(speaker.network, seen, spells.calendar(seen, 1, H)[0], grid.of(seen))
    for name, (q, p, up) in replace(speaker, trees=replace(speaker.trees, sides=None)).forecasts(seen, H, LEVELS).items():
        np.testing.assert_array_equal(q, replace(said, hazard=p).quantiles(LEVELS), err_msg=name)
        np.testing.assert_array_equal(up, p * said.upward, err_msg=name)


def test_the_table_is_counted_anew_unless_it_is_given(speaker, panel):
    other = countingtable.count(posted_panel(10, 110, seed=9), H)
    given, anew = (replace(speaker, counted=c).forecasts(panel, H, LEVELS) for c in (other, None))
    assert not np.array_equal(given["lstm_table"][1], anew["lstm_table"][1], equal_nan=True)
    np.testing.assert_array_equal(given["gbm"][1], anew["gbm"][1])
    mine = replace(speaker, counted=countingtable.count(panel, H)).forecasts(panel, H, LEVELS)
    np.testing.assert_array_equal(mine["blend"][1], anew["blend"][1])


# ---- what they know


@pytest.mark.parametrize("cut", [60, 85, 108])
def test_the_experts_know_nothing_of_later_days(speaker, panel, cut):
    y = panel.y.copy()
    y[:, cut + 1 :] = np.random.default_rng(cut).choice([nan, 0.01, 3.0, 77.7, 5000.0], y[:, cut + 1 :].shape)
    date, other = panel.dates[cut], replace(panel, y=y)
    before, after = (speaker.forecasts(p.until(date), H, LEVELS) for p in (panel, other))
    for name in experts.NAMES:
        for a, b in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
    late, spoilt = speaker.forecasts(panel, H, LEVELS), speaker.forecasts(other, H, LEVELS)
    assert not any(np.array_equal(late[name][1], spoilt[name][1], equal_nan=True) for name in experts.NAMES)


def test_prices_times_1000_give_the_same_odds_and_quantiles_times_1000(speaker, panel):
    one, other = (speaker.forecasts(p, H, LEVELS) for p in (panel, replace(panel, y=panel.y * 1000)))
    for name in experts.NAMES:
        np.testing.assert_allclose(other[name][1], one[name][1], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(other[name][0], 1000 * one[name][0], rtol=1e-6, err_msg=name)


def test_a_replay_of_a_panel_with_little_history_goes_from_no_trees_to_trees():
    young = posted_panel(4, 60)
    assert gbm.fit(young.until(young.dates[22]), H) is None and gbm.fit(young, H) is not None


# ---- on disk and on show


def test_experts_are_loaded_from_the_directory_of_a_model(speaker, panel, tmp_path):
    models.save(speaker.network, tmp_path)
    assert experts.load(tmp_path).trees is None
    gbm.save(speaker.trees, tmp_path)
    back = experts.load(tmp_path)
    for name, said in speaker.forecasts(panel, H, LEVELS).items():
        for a, b in zip(said, back.forecasts(panel, H, LEVELS)[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
    models.save(models.fit("last_value", panel), tmp_path / "baseline")
    assert experts.load(tmp_path / "baseline") is None
    (tmp_path / gbm.FILE).write_text("tree\n")
    with pytest.raises(gbm.TreesError, match=gbm.FILE):
        experts.load(tmp_path)


def test_what_they_look_at(speaker, panel):
    importance, weights = speaker.looks(panel)
    assert importance.equals(speaker.trees.importance()) and weights.shape == (0, 0)
    importance, _ = replace(speaker, trees=None).looks(panel)
    assert importance.empty


def test_attention_is_a_mean_over_the_series_that_were_seen(panel):
    attending = trained(panel, attention=True)
    _, weights = attending.looks(panel)
    assert weights.shape == (H, 14)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    _, weights = trained(panel, attention=True, window="single").looks(panel)
    assert weights.shape == (0, 0), "the plain network attends to other things than days"


def test_a_constant_shop_is_forecast_to_stay():
    panel = panel_of(np.full((5, 80), 9.99))
    still = experts.Experts(models.fit("lstm", panel, **training.hyper(tiny())), gbm.fit(panel, H))
    assert still.trees is None
    for q, p, _ in still.forecasts(panel, H, LEVELS).values():
        assert (q == 9.99).all() and (p < 0.05).all()
