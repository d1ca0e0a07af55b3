"""The boosted trees: grown from the past alone, the same each time, whole on disk or refused."""

from __future__ import annotations

from dataclasses import replace

import lightgbm
import numpy as np
import pytest

from conftest import asked, panel_of, posted_panel
from forecastbook import gbm, spells, sticky

nan = np.nan
H = 7


@pytest.fixture(scope="module")
def panel():
    return posted_panel(20, 120)


@pytest.fixture(scope="module")
def trees(panel):
    return gbm.fit(panel, H)


# ---- when nothing is grown


def test_too_little_to_learn_from_grows_nothing():
    assert gbm.fit(panel_of([[4.99] * 10, [3.0] * 10]), H) is None
    y = np.where(np.arange(60) // 6 % 2, 4.0, 5.0)[None]
    assert gbm.fit(panel_of(y), H) is None, "40 days by 7 horizons are fewer than 500 pairs"
    assert gbm.fit(panel_of(y.repeat(3, axis=0)), H) is not None
    assert gbm.fit(panel_of(np.full((3, 80), nan)), H) is None


def test_prices_that_never_changed_grow_nothing():
    y = np.full((20, 120), 9.99)
    assert gbm.fit(panel_of(y), H) is None
    y[3, 60:] = 8.99
    assert gbm.fit(panel_of(y), H) is not None


# ---- what they say


def test_hazards_are_probabilities_of_every_series_and_horizon(panel, trees):
    hazard = trees.hazard(*asked(panel, H))
    assert hazard.shape == (20, H) and ((hazard >= 1e-4) & (hazard <= 0.99)).all()
    assert hazard.mean(axis=0)[-1] > hazard.mean(axis=0)[0], "in seven days more changes than in one"
    today, ahead = asked(panel, H)
    np.testing.assert_array_equal(trees.hazard(today[[7, 2]], ahead[:3]), hazard[[7, 2], :3])


def test_they_learn_that_a_cut_lasts_exactly_five_days():
    """Every 31 days a price is cut for five. On the fifth it comes back tomorrow, on the first it holds four days more."""
    n, days = 80, 200
    phase = (np.arange(days) + np.arange(n)[:, None] * 3) % 31  # days since the cut began
    usual = np.round(np.linspace(5, 50, n), 2)[:, None]
    panel = panel_of(np.where(phase < 5, np.round(usual * 0.8, 2), usual))
    trees = gbm.fit(panel.until(panel.dates[180]), H)
    for t in (185, 190, 199):
        hazard = trees.hazard(*asked(panel.until(panel.dates[t]), H))
        first, fifth, between = (phase[:, t] == k for k in (0, 4, 8))
        assert first.any() and fifth.any() and between.any()
        assert hazard[fifth].min() > 0.7, "it ends"
        assert hazard[first][:, :4].max() < 0.3 and hazard[first][:, 4:].min() > 0.7
        assert hazard[between].max() < 0.3


@pytest.mark.parametrize("weekday", range(0, 7, 2))
def test_they_learn_on_which_weekday_a_shop_changes_its_prices(weekday):
    """Each week, on one day of it, a quarter of the prices is cut or comes back. Origins of every weekday are asked."""
    n, days, draw = 80, 210, np.random.default_rng(5)
    cut = np.zeros((n, days), dtype=bool)
    for week in range(0, days, 7):
        cut[:, week:] = (draw.random(n) < 0.25)[:, None]
    panel = panel_of(np.where(cut, 8.0, 9.99), start=f"2024-01-{weekday + 1:02d}")
    trees = gbm.fit(panel.until(panel.dates[174]), H)
    for t in range(175, 182):  # the prices of day 182 are new, whatever weekday that is
        hazard = trees.hazard(*asked(panel.until(panel.dates[t]), H))
        new = np.arange(t + 1, t + 1 + H) >= 182
        assert hazard[:, ~new].max(initial=0) < 0.1 and hazard[cut[:, t]][:, new].min() > 0.5, t


def test_they_learn_on_which_side_a_price_will_be():
    """A price alternates between two levels, a week on each: what differs is higher from the lower one, and the reverse."""
    n, days = 60, 200
    week = (np.arange(days) + np.arange(n)[:, None]) // 7 % 2
    usual = np.round(np.linspace(5, 50, n), 2)[:, None]
    panel = panel_of(np.where(week == 1, np.round(usual * 0.8, 2), usual))
    p = gbm.fit(panel, H).upward(*asked(panel, H))
    assert p.shape == (n, H) and p[week[:, -1] == 1].min() > 0.9 and p[week[:, -1] == 0].max() < 0.1


def test_the_side_is_learnt_from_changes_alone_and_only_where_both_were_seen(panel, trees):
    _, classes = sticky.targets(panel, spells.of(panel), H)
    grown = trees.sides.trees_to_dataframe().query("node_depth == 1")
    assert set(grown["count"]) == {(classes > 0).sum()}
    rising = 5 * 1.05 ** (np.arange(120) // 15 + np.zeros((20, 1)))
    trees = gbm.fit(panel_of(rising), H)
    assert trees.sides is None and trees.upward(*asked(panel_of(rising), H)) is None
    few = np.full((20, 120), 9.99)
    few[3, 60:80] = 8.99
    assert gbm.fit(panel_of(few), H).sides is None


def test_prices_in_another_unit_give_the_same_trees(panel, trees):
    cents = replace(panel, y=panel.y * 1000)
    np.testing.assert_array_equal(gbm.fit(cents, H).hazard(*asked(cents, H)), trees.hazard(*asked(panel, H)))


@pytest.mark.parametrize("cut", [70, 90, 118])
def test_trees_know_nothing_of_later_days(panel, cut):
    y = panel.y.copy()
    y[:, cut + 1 :] = np.random.default_rng(cut).choice([nan, 0.01, 3.0, 77.7, 5000.0], y[:, cut + 1 :].shape)
    date, other = panel.dates[cut], replace(panel, y=y)
    grown = [gbm.fit(p.until(date), H) for p in (panel, other)]
    for part in ("booster", "sides"):
        texts = [each and each.model_to_string() for each in (getattr(trees, part) for trees in grown)]
        assert texts[0] == texts[1], part
    a, b = (trees.hazard(*asked(p.until(date), H)) for trees, p in zip(grown, (panel, other), strict=True))
    np.testing.assert_array_equal(a, b)
    if cut < 118:
        assert gbm.fit(other, H).booster.model_to_string() != gbm.fit(panel, H).booster.model_to_string()


def test_only_days_whose_outcome_was_seen_are_learnt_from(panel, trees):
    _, classes = sticky.targets(panel, spells.of(panel), H)
    assert (classes < 0).sum() > 1000
    grown = trees.booster.trees_to_dataframe().query("node_depth == 1")
    assert set(grown["count"]) == {(classes >= 0).sum()}
    rate = (classes > 0).sum() / (classes >= 0).sum()
    assert trees.hazard(*asked(panel, H)).mean() == pytest.approx(rate, rel=0.4)


def test_a_list_price_reaches_the_trees(panel):
    listed = panel.y * np.where(np.arange(120) % 10 < 5, 1.25, 1.0)
    known = replace(panel, past=listed[:, :, None], past_names=("list_price",))
    found = gbm.fit(known, H).importance()
    assert found.set_index("feature")["share"]["to_list"] > 0
    assert gbm.fit(panel, H).importance().set_index("feature")["share"]["to_list"] == 0


def test_importance_is_a_share_of_every_feature_most_first(trees):
    found = trees.importance()
    assert sorted(found["feature"]) == sorted([*spells.FEATURES, *spells.CALENDAR])
    assert found["share"].sum() == pytest.approx(1) and found["share"].is_monotonic_decreasing and (found["share"] >= 0).all()
    assert "ahead" in found["feature"].head(10).tolist()


def test_a_larger_panel_is_learnt_from_by_a_sample(panel, monkeypatch):
    monkeypatch.setattr(gbm, "ROWS", 2000)
    small = [gbm.fit(panel, H, seed).booster for seed in (0, 0, 1)]
    counts = [b.trees_to_dataframe().query("node_depth == 1 and tree_index == 0")["count"].item() for b in small]
    assert counts == [2000, 2000, 2000]
    assert small[0].model_to_string() == small[1].model_to_string() != small[2].model_to_string()
    monkeypatch.setattr(gbm, "MAX_DAYS", 120 * 6)
    few = panel.sample(6, 0)
    assert gbm.fit(panel, H).booster.model_to_string() == gbm.fit(few, H).booster.model_to_string()


# ---- on disk


def test_the_same_panel_gives_the_same_bytes_whatever_the_process_drew(panel, trees, tmp_path):
    np.random.seed(3)
    for name, grown in (("a", trees), ("b", gbm.fit(panel, H))):
        (tmp_path / name).mkdir()
        gbm.save(grown, tmp_path / name)
    assert (tmp_path / "a" / gbm.FILE).read_bytes() == (tmp_path / "b" / gbm.FILE).read_bytes()


def test_saved_trees_say_the_same_and_a_directory_without_has_none(panel, trees, tmp_path):
    assert gbm.load(tmp_path) is None
    gbm.save(trees, tmp_path)
    back = gbm.load(tmp_path)
    np.testing.assert_array_equal(back.hazard(*asked(panel, H)), trees.hazard(*asked(panel, H)))
    np.testing.assert_array_equal(back.upward(*asked(panel, H)), trees.upward(*asked(panel, H)))
    assert back.importance().equals(trees.importance())
    (tmp_path / "again").mkdir()
    gbm.save(back, tmp_path / "again")
    assert (tmp_path / "again" / gbm.FILE).read_bytes() == (tmp_path / gbm.FILE).read_bytes()
    gbm.save(replace(trees, sides=None), tmp_path)
    assert gbm.load(tmp_path).sides is None


BROKEN = {
    "empty": lambda b: b"",
    "text": lambda b: b"hello",
    "bytes": lambda b: bytes(range(256)),
    "header": lambda b: b[:900],
    "torn early": lambda b: b[: len(b) // 10],
    "torn late": lambda b: b[: len(b) * 95 // 100],
    "torn at the end": lambda b: b[:-5],
    "a number changed": lambda b: b.replace(b"left_child=1", b"left_child=9", 1),
    "a word changed": lambda b: b.replace(b"leaf_value=", b"leaf_valux=", 1),
    "without its seal": lambda b: b[: b.rindex(b"sha256=")],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_trees_are_refused_by_name(trees, tmp_path, kind):
    """LightGBM itself ends the whole process on some of these."""
    gbm.save(trees, tmp_path)
    path = tmp_path / gbm.FILE
    whole = path.read_bytes()
    broken = BROKEN[kind](whole)
    assert broken != whole
    path.write_bytes(broken)
    with pytest.raises(gbm.TreesError, match="trees.txt: not the text of boosted trees") as error:
        gbm.load(tmp_path)
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_trees_of_something_else_are_refused_by_name(tmp_path):
    draw = np.random.default_rng(0)
    settings = gbm.SETTINGS | {"min_data_in_leaf": 5}
    rows = lightgbm.Dataset(draw.random((200, 3)), draw.integers(0, 2, 200))
    gbm.save(gbm.Trees(lightgbm.train(settings, rows, num_boost_round=2)), tmp_path)
    with pytest.raises(gbm.TreesError, match="trees.txt: grown on other features"):
        gbm.load(tmp_path)
