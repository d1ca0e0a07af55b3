"""Rolling origins: where they lie, what is known at each, and the table that is kept of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conftest import LEVELS, panel_of, posted_panel, tiny
from forecastbook import backtest, experts, gate, models, spells, training
from forecastbook.trades import PRICES

COLUMNS = ["model", "series_id", "origin", "ts", "horizon", "y", "q05", "q25", "q50", "q75", "q95", "last_value"]
COLUMNS += ["p_change", "p_up"]
OPEN = {"gate": {"doubt": 0.0}}
ALL = {*PRICES.baselines, *experts.NAMES}


@pytest.fixture(scope="module")
def panel():
    """Series that come and go: ragged starts, one that ends early, one never seen."""
    panel = posted_panel(14, 110, gaps=0.15)
    y = panel.y.copy()
    y[3, 70:], y[5], y[7, :60] = np.nan, np.nan, np.nan
    return replace(panel, y=y)


@pytest.fixture(scope="module")
def trained():
    """The days at which ``record`` was trained."""
    return []


@pytest.fixture(scope="module")
def record(panel, trained):
    train = training.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", lambda view, *rest: trained.append(view.as_of) or train(view, *rest))
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


def test_evidence_lies_a_horizon_apart_between_the_scored_origins_and_before_them(panel):
    def days(dates):
        return [int(np.flatnonzero(panel.dates == d)[0]) for d in dates]

    params = tiny(backtest={"stride": 17, "origins": 3})
    judged = backtest.origins(panel, params)
    assert days(judged) == [68, 85, 102]
    # back from 102 by sevens to 8 horizons before the first, but for those that are scored and those without context
    assert days(backtest.evidence(panel, params, judged)) == [18, 25, 32, 39, 46, 53, 60, 67, 74, 81, 88, 95]
    params = tiny()  # scored origins a horizon apart: none lies between
    judged = backtest.origins(panel, params)
    assert days(backtest.evidence(panel, params, judged)) == [18, 25, 32, 39, 46, 53, 60, 67]
    assert backtest.evidence(panel, params, []) == []


# ---- the replay


def test_the_warm_up_comes_first_and_is_in_no_table(panel, record):
    assert [o.warm_up for o in record] == [True] * 8 + [False] * 5
    assert record[7].ts[-1] == record[8].date
    table = backtest.frame(record, panel.ids, tiny())
    assert table["origin"].min() == pd.Timestamp(record[8].date)


def test_it_is_trained_as_often_as_asked_and_wherever_nobody_speaks_yet(record, trained):
    assert tiny(**OPEN).backtest.refits == 2 and len(record) == 13
    assert [k for k, at in enumerate(record) if at.date in trained] == [0, 1, 2, 3, 6] and len(trained) == 5


def test_a_replay_tells_where_it_is_if_the_panel_is_large(panel, record, lines, monkeypatch):
    """Each origin that trains, before it does, and others after a silence; a small job says nothing."""
    params = tiny(**OPEN)
    monkeypatch.setattr(training, "train", lambda *asked: None)
    backtest.rolling(panel, params)
    assert not lines
    monkeypatch.setattr(training, "LARGE", panel.y.size)
    monkeypatch.setattr(training, "train", lambda view, *rest: lines.append(f"trains {view.as_of}"))
    backtest.rolling(panel, params)
    dates = [at.date for at in record]
    wanted = [(f"INFO origin {i} of {len(dates)}, {day}: training", f"trains {day}") for i, day in enumerate(dates, 1)]
    assert lines == [line for pair in wanted for line in pair]
    lines.clear()
    monkeypatch.setattr(backtest, "SILENCE", -1.0)
    monkeypatch.setattr(training, "train", lambda *asked: Silent())
    backtest.rolling(panel, params)
    assert [i for i, line in enumerate(lines) if line.endswith(": training")] == [0, 6] and len(lines) == len(dates) == 13
    assert all(line.endswith(": asking") for i, line in enumerate(lines) if i not in (0, 6))


class Silent:
    """A trained model that has nothing to say."""

    network = None

    def forecasts(self, *asked) -> dict:
        return {}


def test_evidence_is_asked_of_a_sample_of_the_series_alone(panel, monkeypatch):
    monkeypatch.setattr(backtest, "WITNESSES", 5)
    params = tiny(backtest={"origins": 2}, model={"epochs": 1})
    record = gate.replay(backtest.rolling(panel, params), params)
    assert {len(o.y) for o in record if o.warm_up} == {5} and {len(o.y) for o in record if not o.warm_up} == {14}
    for at in (o for o in record if o.warm_up):
        then = panel.until(at.date)
        assert (then.take(then.drawn(5, params.seed)).n_obs > 0).all()
        np.testing.assert_array_equal(at.last, then.take(then.drawn(5, params.seed)).last_value)
    assert all("published" not in o.q for o in record if o.warm_up)
    assert backtest.frame(record, panel.ids, params)["origin"].nunique() == 2


def test_what_begins_later_has_no_say_in_who_is_asked(panel, monkeypatch):
    """Four items begin after the last origin, or never: who is asked, the gate and what is published are the same."""
    monkeypatch.setattr(backtest, "WITNESSES", 6)
    params, wide = tiny(**OPEN), np.r_[np.arange(14), np.arange(4)]
    more = panel.take(wide)
    ids = np.array([f"x{k:02d}" for k in range(18)], dtype=object)
    never, later = more.y.copy(), more.y.copy()
    never[14:], later[14:, :-6] = np.nan, np.nan
    records = [gate.replay(backtest.rolling(replace(more, ids=ids, y=y), params), params) for y in (never, later)]
    for a, b in zip(*records, strict=True):
        assert a.q.keys() == b.q.keys() and a.date < panel.dates[-6]
        for name in a.q:
            assert np.array_equal(a.q[name], b.q[name], equal_nan=True), (name, a.date)


def test_every_origin_asks_everyone_and_scores_with_what_came(panel, record):
    spoken = [o for o in record if "lstm" in o.q]
    assert len(spoken) == len(record) - 3, "too little to train on before the first 35 days"
    for at in record:
        wanted = (ALL if at in spoken else {*PRICES.baselines}) | (set() if at.warm_up else {"published"})
        assert set(at.q) == wanted == set(at.p)
        t = int(np.flatnonzero(panel.dates == at.date)[0])
        np.testing.assert_array_equal(at.y, panel.y[:, t + 1 : t + 8])
        np.testing.assert_array_equal(at.ts, panel.dates[t + 1 : t + 8])
        np.testing.assert_array_equal(at.last, panel.filled[:, t])
        for name, q in at.q.items():
            scored = at.status != "excluded"
            assert np.isfinite(q[scored]).all() and (np.diff(q[scored], axis=-1) >= 0).all() and (q[scored] >= 0).all(), name
            assert ((at.p[name][scored] >= 0) & (at.p[name][scored] <= 1)).all(), name


def test_the_baselines_of_the_record_are_those_of_the_view(panel, record):
    at = record[4]
    for name in PRICES.baselines:
        q, p, _ = models.forecast(models.fit(name, panel), panel.until(at.date), 7, LEVELS)
        assert np.array_equal(at.q[name], q, equal_nan=True) and np.array_equal(at.p[name], p, equal_nan=True)


def test_the_same_replay_twice_gives_the_same_bits(panel, record):
    again = gate.replay(backtest.rolling(panel, tiny(**OPEN)), tiny(**OPEN))
    for a, b in zip(record, again, strict=True):
        assert all(np.array_equal(a.q[n], b.q[n], equal_nan=True) for n in a.q)


@pytest.mark.parametrize("k", [0, 2, 3])
def test_nothing_made_up_to_an_origin_depends_on_what_came_after_it(panel, record, k):
    """Every price after origin k is rewritten and the life of the job replayed: network, trees, table, grid, gate and all.

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
        assert a.q.keys() == b.q.keys() and (a.date < rolled[0].date or a.q.keys() == ALL | {"published"})
        for name in a.q:
            assert np.array_equal(a.q[name], b.q[name], equal_nan=True), (name, a.date)
            assert np.array_equal(a.p[name], b.p[name], equal_nan=True), (name, a.date)
        for name in ("status", "last", "scale", "ts"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ALL | {"published"}:
        assert not np.array_equal(record[-1].q[name], other[-1].q[name], equal_nan=True), name


def test_the_replay_is_worth_testing(record):
    """The gate lets something else than the last value out somewhere, else the test above would prove less than it says."""
    assert any(not np.array_equal(o.q["published"], o.q["last_value"], equal_nan=True) for o in record if not o.warm_up)


def test_without_enough_history_only_baselines_answer():
    record = backtest.rolling(posted_panel(4, 34), tiny())
    assert [set(o.q) for o in record] == [set(PRICES.baselines)] * len(record)
    assert [o.warm_up for o in record] == [False, False]


def test_a_large_panel_is_judged_on_a_sample_that_the_witnesses_are_of(panel, monkeypatch):
    assert backtest.judges(panel, tiny()) is panel
    monkeypatch.setattr(backtest, "JUDGES", 9)
    monkeypatch.setattr(backtest, "WITNESSES", 4)
    params = tiny(backtest={"origins": 2})
    jury = backtest.judges(panel, params)
    record = gate.replay(backtest.rolling(panel, params), params)
    assert len(jury) == 9 and {len(o.y) for o in record if not o.warm_up} == {9}
    assert {len(o.y) for o in record if o.warm_up} == {4}
    at = record[-1]
    np.testing.assert_array_equal(at.last, jury.until(at.date).last_value)
    table = backtest.frame(record, jury.ids, params)
    mine = table[
        (table["model"] == "published") & (table["series_id"] == jury.ids[0]) & (table["origin"] == table["origin"].max())
    ]
    np.testing.assert_array_equal(mine["q50"], at.q["published"][0, :, 2])


def test_with_a_teacher_no_series_is_asked_that_was_learnt(panel, monkeypatch):
    """Whatever one of the asked series did, the experts say the same of the others: nothing was learnt from it.

    The weekdays on which the asked shop changes its prices are not learnt but seen: here they are held.
    """
    monkeypatch.setattr(spells, "habit", lambda panel: np.zeros(7))
    teacher = posted_panel(20, 110, seed=5)
    y = panel.y.copy()
    y[2] = np.where(np.isnan(y[2]), np.nan, np.round(np.random.default_rng(0).uniform(1, 60, y.shape[1]), 2))
    one, other = (backtest.rolling(p, tiny(), teacher=teacher) for p in (panel, replace(panel, y=y)))
    rest = np.arange(len(panel)) != 2
    spoken = [(a, b) for a, b in zip(one, other, strict=True) if "blend" in a.q]
    assert len(spoken) > 5
    for a, b in spoken:
        for name in experts.NAMES:
            np.testing.assert_array_equal(a.p[name][rest], b.p[name][rest], err_msg=name)
            assert not np.array_equal(a.p[name][2], b.p[name][2], equal_nan=True)
    learnt = backtest.rolling(panel, tiny())
    assert not np.array_equal(learnt[-1].p["blend"], one[-1].p["blend"], equal_nan=True)


# ---- the table


def test_the_table_has_its_columns_and_a_row_for_every_forecast(panel, record):
    table = backtest.frame(record, panel.ids, tiny())
    assert list(table.columns) == COLUMNS
    assert list(dict.fromkeys(table["model"])) == ["published", *PRICES.baselines, *experts.NAMES]
    rolled = [o for o in record if not o.warm_up]
    assert len(table) == 10 * 7 * sum(int((o.status != "excluded").sum()) for o in rolled)
    assert not table.duplicated(["model", "series_id", "origin", "horizon"]).any()
    assert (table["ts"] == table["origin"] + pd.to_timedelta(table["horizon"], "D")).all()
    assert not (table["series_id"] == "0005").any()


def test_a_row_of_the_table_is_the_forecast_it_names(panel, record):
    at = record[9]
    table = backtest.frame(record, panel.ids, tiny())
    row = table[(table.model == "lstm") & (table.series_id == "0002") & (table.origin == pd.Timestamp(at.date))].iloc[4]
    assert row["horizon"] == 5 and row["last_value"] == at.last[2] and row["p_change"] == at.p["lstm"][2, 4]
    assert row["p_up"] == at.beside["lstm"][2, 4]
    np.testing.assert_array_equal(row[["q05", "q25", "q50", "q75", "q95"]].to_numpy(float), at.q["lstm"][2, 4])
    assert row["y"] == at.y[2, 4] or (np.isnan(row["y"]) and np.isnan(at.y[2, 4]))


def test_the_table_in_parts_is_the_table(panel, record):
    parts = list(backtest.parts(record, panel.ids, tiny()))
    assert [list(part["model"].unique()) for part in parts] == [
        ["published"],
        *([n] for n in [*PRICES.baselines, *experts.NAMES]),
    ]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), backtest.frame(record, panel.ids, tiny()))


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
