"""Rolling origins: where they lie, what is known at each, and the table that is kept of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conftest import LEVELS, panel_of, posted_panel, tiny
from forecastbook import backtest, gate, models

COLUMNS = ["model", "series_id", "origin", "ts", "horizon", "y", "q05", "q25", "q50", "q75", "q95", "last_value", "p_change"]
OPEN = {"gate": {"handicap": 0.0}}


@pytest.fixture(scope="module")
def panel():
    """Series that come and go: ragged starts, one that ends early, one never seen."""
    panel = posted_panel(14, 110, gaps=0.15)
    y = panel.y.copy()
    y[3, 70:], y[5], y[7, :60] = np.nan, np.nan, np.nan
    return replace(panel, y=y)


@pytest.fixture(scope="module")
def record(panel):
    return gate.replay(backtest.rolling(panel, tiny(**OPEN)), tiny(**OPEN))


# ---- where origins lie


def test_the_last_origin_lies_a_horizon_before_the_end_and_the_others_a_stride_apart(panel):
    at = [int(np.flatnonzero(panel.dates == d)[0]) for d in backtest.origins(panel, tiny())]
    assert at == [74, 81, 88, 95, 102] and len(panel.dates) == 110


def test_origins_without_context_are_left_out(panel):
    assert len(backtest.origins(panel.last(40), tiny())) == 3
    first = backtest.origins(panel.last(40), tiny())[0]
    assert (first - panel.last(40).dates[0]).astype(int) + 1 >= 14
    assert backtest.origins(panel.last(20), tiny()) == [] == backtest.origins(panel.last(3), tiny())


def test_held_out_origins_have_all_their_targets_in_the_held_out_days(panel):
    for days, count in ((14, 2), (21, 3), (7, 1), (3, 1)):
        dates = backtest.held_out(panel, tiny(finetune={"validation_days": days}))
        at = [int(np.flatnonzero(panel.dates == d)[0]) for d in dates]
        assert at == [102 - 7 * k for k in reversed(range(count))]
        assert days < 7 or at[0] + 1 >= 110 - days


# ---- the replay


def test_the_warm_up_comes_first_and_is_in_no_table(panel, record):
    assert [o.warm_up for o in record] == [True, True] + [False] * 5
    assert record[1].ts[-1] == record[2].date
    table = backtest.frame(record, panel.ids, tiny())
    assert table["origin"].min() == pd.Timestamp(record[2].date)


def test_every_origin_asks_everyone_and_scores_with_what_came(panel, record):
    for at in record:
        assert set(at.q) == {*models.BASELINES, "lstm", "published"} == set(at.p)
        t = int(np.flatnonzero(panel.dates == at.date)[0])
        np.testing.assert_array_equal(at.y, panel.y[:, t + 1 : t + 8])
        np.testing.assert_array_equal(at.ts, panel.dates[t + 1 : t + 8])
        np.testing.assert_array_equal(at.last, panel.filled[:, t])
        for name, q in at.q.items():
            scored = at.status != "excluded"
            assert np.isfinite(q[scored]).all() and (np.diff(q[scored], axis=-1) >= 0).all() and (q[scored] >= 0).all(), name


def test_the_baselines_of_the_record_are_those_of_the_view(panel, record):
    at = record[4]
    for name in models.BASELINES:
        q, p = models.forecast(models.fit(name, panel), panel.until(at.date), 7, LEVELS)
        assert np.array_equal(at.q[name], q, equal_nan=True) and np.array_equal(at.p[name], p, equal_nan=True)


def test_the_same_replay_twice_gives_the_same_bits(panel, record):
    again = gate.replay(backtest.rolling(panel, tiny(**OPEN)), tiny(**OPEN))
    for a, b in zip(record, again, strict=True):
        assert all(np.array_equal(a.q[n], b.q[n], equal_nan=True) for n in a.q)


@pytest.mark.parametrize("k", [0, 2, 3])
def test_nothing_made_up_to_an_origin_depends_on_what_came_after_it(panel, record, k):
    """Every price after origin k is rewritten and the whole life of the job replayed: training, calibration, gate and all.

    What was forecast and published from origin k and before stays the same to the bit; what came later does not.
    """
    rolled = [o for o in record if not o.warm_up]
    t = int(np.flatnonzero(panel.dates == rolled[k].date)[0])
    y, draw = panel.y.copy(), np.random.default_rng(k)
    y[:, t + 1 :] = draw.choice([np.nan, 0.01, 3.0, 77.7, 5000.0], y[:, t + 1 :].shape)
    params = tiny(**OPEN)
    other = gate.replay(backtest.rolling(replace(panel, y=y), params), params)
    assert [o.date for o in other] == [o.date for o in record]
    for a, b in zip(record, other, strict=True):
        if a.date > rolled[k].date:
            continue
        assert a.q.keys() == b.q.keys()
        for name in a.q:
            assert np.array_equal(a.q[name], b.q[name], equal_nan=True), (name, a.date)
            assert np.array_equal(a.p[name], b.p[name], equal_nan=True), (name, a.date)
        for name in ("status", "last", "scale", "ts"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(record[-1].q["published"], other[-1].q["published"], equal_nan=True)


def test_the_replay_is_worth_testing(record):
    """The gate lets something else than the last value out somewhere, else the test above would prove less than it says."""
    assert any(not np.array_equal(o.q["published"], o.q["last_value"], equal_nan=True) for o in record if not o.warm_up)


def test_without_enough_history_only_baselines_answer():
    record = backtest.rolling(posted_panel(4, 36), tiny())
    assert [set(o.q) for o in record] == [set(models.BASELINES)] * len(record) and len(record) == 3


# ---- the table


def test_the_table_has_its_columns_and_a_row_for_every_forecast(panel, record):
    table = backtest.frame(record, panel.ids, tiny())
    assert list(table.columns) == COLUMNS
    assert list(dict.fromkeys(table["model"])) == ["published", *models.BASELINES, "lstm"]
    rolled = [o for o in record if not o.warm_up]
    assert len(table) == 6 * 7 * sum(int((o.status != "excluded").sum()) for o in rolled)
    assert not table.duplicated(["model", "series_id", "origin", "horizon"]).any()
    assert (table["ts"] == table["origin"] + pd.to_timedelta(table["horizon"], "D")).all()
    assert not (table["series_id"] == "0005").any()


def test_a_row_of_the_table_is_the_forecast_it_names(panel, record):
    at = record[3]
    table = backtest.frame(record, panel.ids, tiny())
    row = table[(table.model == "lstm") & (table.series_id == "0002") & (table.origin == pd.Timestamp(at.date))].iloc[4]
    assert row["horizon"] == 5 and row["last_value"] == at.last[2] and row["p_change"] == at.p["lstm"][2, 4]
    np.testing.assert_array_equal(row[["q05", "q25", "q50", "q75", "q95"]].to_numpy(float), at.q["lstm"][2, 4])
    assert row["y"] == at.y[2, 4] or (np.isnan(row["y"]) and np.isnan(at.y[2, 4]))


def test_a_record_without_an_origin_is_an_empty_table_with_its_columns(tmp_path):
    params = tiny()
    record = gate.replay(backtest.rolling(panel_of([[4.99] * 5]), params), params)
    table = backtest.frame(record, np.array(["0000"]), params)
    assert record == [] and table.empty and list(table.columns) == COLUMNS
    table.to_parquet(tmp_path / "backtest.parquet")
    back = pd.read_parquet(tmp_path / "backtest.parquet")
    assert list(back.columns) == COLUMNS and back["origin"].dtype.kind == "M" and back["y"].dtype == float


@pytest.mark.parametrize(
    ("level", "name"), [(0.05, "q05"), (0.5, "q50"), (0.25, "q25"), (0.95, "q95"), (0.975, "q975"), (0.1, "q10")]
)
def test_a_level_names_its_column(level, name):
    assert backtest.level_name(level) == name


# ---- what a model is asked to be


def test_hyperparameters_reach_the_model_under_its_own_names():
    params = tiny(seed=11, finetune={"patience": 2})
    hyper = backtest.hyper(params)
    assert hyper["seed"] == 11 and hyper["forecast_length"] == 7 and hyper["validation_days"] == 14 and hyper["patience"] == 2
    assert backtest.hyper(tiny(model={"forecast_length": 9}))["forecast_length"] == 9
    assert backtest.finetune_hyper(params)["train_days"] == 30 and backtest.finetune_hyper(params)["seed"] == 11
    from forecastbook import lstm

    assert set(hyper) | set(backtest.finetune_hyper(params)) <= set(lstm.DEFAULTS)
