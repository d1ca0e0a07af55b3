"""The forecast table: whole, dated by the data, looked over, and published once into a real warehouse."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pandas as pd
import pytest

from conftest import day, made_run, posted_prices, tiny
from forecastbook import backtest, challenger, experts, forecasts, gate, models, scoreboard, training
from forecastbook.forecasts import PublishError
from forecastbook.trades import PRICES
from forecastbook.warehouse import WarehouseError, connect, variant_ids
from forecastbook.yamlfile import merge

AS_OF = day("2024-03-10")
COLUMNS = ["series_id", "ts", "horizon", "q05", "q25", "q50", "q75", "q95", "p_change", "p_up", "last_value", "source"]
COLUMNS += ["run_id", "model_id", "as_of", "job"]


def prices():
    """Eight ordinary series, one new, one gone, one with a title that wants to be code."""
    frame = posted_prices(8, 80)
    frame = frame[frame["ts"] <= pd.Timestamp(AS_OF)]
    new = frame[(frame["series_id"] == "0000") & (frame["ts"] >= "2024-03-01")].assign(series_id="new", title="<script>")
    gone = frame[(frame["series_id"] == "0001") & (frame["ts"] < "2024-02-01")].assign(series_id="gone")
    return pd.concat([frame, new, gone], ignore_index=True)


class Job:
    """One run with a trained network and trees, a gate that lets the blend out, and an empty warehouse."""

    def __init__(self, out, as_of=AS_OF, **over):
        frame = prices()
        self.params = tiny(**merge({"gate": {"doubt": 0.0}}, over))
        self.run = made_run(out, self.params, frame[frame["ts"] <= pd.Timestamp(as_of)], as_of)
        self.panel, self.series = self.run.panel(), self.run.read("series.parquet")
        self.speaker = training.train(self.panel, self.params)
        (self.run.dir / "model").mkdir(exist_ok=True)
        record = gate.replay(backtest.rolling(self.panel, self.params), self.params)
        table = backtest.frame(record, self.panel.ids, self.params)
        self.run.write("scores.parquet", scoreboard.score_table(table, self.params))
        self.decided = gate.Gate("blend", False, np.full((1, 7, 2), 0.01), 0.2, 4, [])
        gate.save(self.run, self.decided)
        self.at = forecasts.now(self.panel, self.params, self.decided, self.speaker)
        self.table = forecasts.frame(self.at, self.decided, self.panel, self.params, self.run)
        self.store = connect(self.run.warehouse)

    def publish(self):
        return forecasts.publish(self.run, self.store, self.table, self.series)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def fresh(tmp_path):
    return Job(tmp_path)


# ---- the table


def test_every_forecast_series_has_every_period_once(job):
    t = job.table
    assert list(t.columns) == COLUMNS
    assert set(t["series_id"]) == {*(f"{i:04d}" for i in range(8)), "new"} and len(t) == 9 * 7
    for _, rows in t.groupby("series_id"):
        assert rows["horizon"].tolist() == list(range(1, 8))
        assert rows["ts"].tolist() == [AS_OF + dt.timedelta(days=h) for h in range(1, 8)]
    assert t["series_id"].is_monotonic_increasing


def test_dates_follow_the_data_and_never_the_clock(tmp_path):
    old = Job(tmp_path, day("2024-02-28"))
    assert old.table["ts"].min() == day("2024-02-29") and old.table["ts"].max() == day("2024-03-06")
    assert set(old.table["as_of"]) == {day("2024-02-28")}


def test_what_is_written_is_what_the_gate_lets_out(job):
    q, p, beside, source = gate.publishable(job.at, job.decided, job.params)
    for n, name in enumerate(job.panel.ids):
        rows = job.table[job.table["series_id"] == name]
        if source[n] == "excluded":
            assert rows.empty
            continue
        np.testing.assert_array_equal(rows[["q05", "q25", "q50", "q75", "q95"]].to_numpy(), q[n])
        np.testing.assert_array_equal(rows["p_change"], p[n])
        np.testing.assert_array_equal(rows["p_up"], beside[n])
        assert set(rows["source"]) == {source[n]} and set(rows["last_value"]) == {job.panel.last_value[n]}
    kinds = job.table.drop_duplicates("series_id").set_index("series_id")["source"]
    assert kinds["new"] == "naive" and (kinds.drop("new") == "model").all()


def test_quantiles_are_in_order_and_sane(job):
    q = job.table[["q05", "q25", "q50", "q75", "q95"]].to_numpy()
    assert np.isfinite(q).all() and (np.diff(q, axis=1) >= 0).all() and (q >= 0).all()
    assert job.table["p_change"].between(0, 1).all() and job.table["p_up"].between(0, job.table["p_change"]).all()


def test_nothing_has_come_yet_for_a_forecast_from_now(job):
    assert np.isnan(job.at.y).all() and set(job.at.q) == {PRICES.safe, *experts.NAMES} == set(job.at.p)
    for name, (q, p, up) in job.speaker.forecasts(job.panel, 7, job.params.quantiles).items():
        np.testing.assert_array_equal(job.at.q[name], models.intervals.tidy(q, 0.0))
        np.testing.assert_array_equal(job.at.p[name], p)
        np.testing.assert_array_equal(job.at.beside[name], up)


@pytest.mark.parametrize("use", ["last_value", "table", "moving_average"])
def test_only_what_may_be_published_is_asked(job, use):
    decided = gate.Gate(use, False, np.zeros((1, 7, 2)), 0.2, 4, [])
    at = forecasts.now(job.panel, job.params, decided, job.speaker)
    assert set(at.q) == {PRICES.safe, use}
    table = forecasts.frame(at, decided, job.panel, job.params, job.run)
    long = table[table["series_id"] != "new"]
    assert set(long["source"]) == {"naive" if use == PRICES.safe else use} and len(table) == 9 * 7
    wanted = models.predict(models.fit(use, job.panel), job.panel, 7, job.params.quantiles)
    n = list(job.panel.ids).index("0003")
    np.testing.assert_array_equal(table.loc[table["series_id"] == "0003", ["q05", "q25", "q50", "q75", "q95"]], wanted[n])


def test_without_a_speaker_the_last_value_is_published(job):
    alone = forecasts.now(job.panel, job.params, job.decided)
    assert set(alone.q) == {PRICES.safe}
    for decided in (job.decided, gate.decide([], job.params)):
        table = forecasts.frame(alone, decided, job.panel, job.params, job.run)
        assert set(table["source"]) == {"naive"} and len(table) == 9 * 7
        np.testing.assert_array_equal(table["q50"], table["last_value"])


def test_each_expert_can_be_what_is_published(job):
    seen = {}
    for use in experts.NAMES:
        decided = gate.Gate(use, False, np.zeros((1, 7, 2)), 0.2, 4, [])
        table = forecasts.frame(job.at, decided, job.panel, job.params, job.run)
        assert set(table.loc[table["series_id"] != "new", "source"]) == {"model"}
        n = list(job.panel.ids).index("0003")
        np.testing.assert_array_equal(table.loc[table["series_id"] == "0003", "p_change"], job.at.p[use][n])
        seen[use] = tuple(table["p_change"])
    assert len(set(seen.values())) == 4


def test_the_same_inputs_give_the_same_bytes(job, tmp_path):
    again = Job(tmp_path)
    for t, name in ((job.table, "a"), (again.table, "b")):
        t.drop(columns=["run_id"]).to_parquet(tmp_path / f"{name}.parquet", index=False)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert again.run.id == job.run.id


# ---- the look over it


def plant(table, row, **values):
    table = table.copy()
    for name, v in values.items():
        table.loc[table.index[row], name] = v
    return table


FAULTS = {
    "missing or infinite values": lambda t: plant(t, 3, q25=np.nan, q50=np.nan),
    "infinite values": lambda t: plant(t, 3, q95=np.inf),
    "negative values": lambda t: plant(t, 3, q05=-0.02, q25=-0.01),
    "crossing quantiles": lambda t: plant(t, 3, q25=t["q75"].iloc[3] + 1),
    "series without every period": lambda t: t.drop(index=t.index[3]),
    "a period twice": lambda t: plant(t, 3, horizon=3),
    "p_change above 1": lambda t: plant(t, 3, p_change=1.2),
    "a rise likelier than a change": lambda t: plant(t, 3, p_up=t["p_change"].iloc[3] + 0.01),
    "a rise less likely than never": lambda t: plant(t, 3, p_up=-0.01),
    "no word on a rise": lambda t: plant(t, 3, p_up=np.nan),
}


def test_a_sound_table_passes(job):
    checks = forecasts.sanity(job.table, job.params)
    assert list(checks.columns) == ["check", "found", "result"] and (checks["result"] == "ok").all()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_never_published(fresh, fault):
    fresh.publish()
    before = fresh.store.current("prices").to_pylist()
    fresh.run.id += "-again"
    fresh.table = FAULTS[fault](fresh.table)
    if fault in ("missing or infinite values", "negative values", "crossing quantiles", "series without every period"):
        checks = forecasts.sanity(fresh.table, fresh.params).set_index("check")
        assert checks.loc[fault, "result"] == "fault" and checks.loc[fault, "found"] == 1
    if "rise" in fault or "p_change" in fault:
        assert forecasts.sanity(fresh.table, fresh.params).set_index("check").loc["impossible probabilities", "found"] == 1
    with pytest.raises((PublishError, WarehouseError)) as error:
        fresh.publish()
    assert len(str(error.value).splitlines()) == 1
    assert fresh.store.current("prices").to_pylist() == before


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_a_fault_of_the_table(job, value):
    checks = forecasts.sanity(plant(job.table, 3, **{"q95" if value > 0 else "q05": value}), job.params)
    assert (checks["result"] == "fault").any()


def test_a_jump_is_worth_a_look_but_no_fault(job):
    last = job.table["last_value"].iloc[0]
    checks = forecasts.sanity(plant(job.table, 0, q50=last * 3, q75=last * 4, q95=last * 5), job.params)
    row = checks.set_index("check").loc["point more than doubled or halved"]
    assert row["found"] == 1 and row["result"] == "look" and not (checks["result"] == "fault").any()


# ---- publishing


def test_a_run_is_published_whole_and_read_back(fresh):
    receipt = fresh.publish()
    told = dict(zip(receipt["what"], receipt["value"], strict=True))
    assert (
        told["rows"] == "63"
        and told["items"] == "9"
        and told["published at"].endswith(" UTC")
        and "." not in told["published at"]
    )
    assert not [word for word in told if "_" in word]
    assert fresh.run.manifest["receipt"]["status"] == "published" and fresh.run.manifest["receipt"]["warehouse"]
    said = forecasts.read_back(fresh.run, fresh.store, fresh.table)
    assert said == "63 rows of this run are stored; readers are served 63 rows of this run."
    stored = fresh.store.published(fresh.run.id).to_pandas().sort_values(["variant_id", "horizon"])
    key = dict(zip(fresh.panel.ids, variant_ids(fresh.panel.ids)["id"].to_pylist(), strict=True))
    sent = fresh.table.assign(variant_id=fresh.table["series_id"].map(key)).sort_values(["variant_id", "horizon"])
    names = {"predicted_price": "q50", "confidence_lower": "q05", "confidence_upper": "q95", "p_change": "p_change"}
    for theirs, mine in names.items():
        np.testing.assert_array_equal(stored[theirs], sent[mine], err_msg=theirs)
    np.testing.assert_array_equal(pd.to_datetime(stored["forecast_date"]), pd.to_datetime(sent["ts"]))
    assert set(stored["model_id"]) == {100} and set(stored["run_id"]) == {fresh.run.id}


def test_publishing_twice_changes_nothing(fresh):
    fresh.publish()
    before = fresh.store.current("prices").to_pylist()
    fresh.publish()
    assert fresh.store.current("prices").to_pylist() == before
    assert fresh.run.manifest["receipt"]["status"] == "already published"
    assert all(ok for _, ok, _ in fresh.store.checks())


def test_ids_of_which_no_row_was_used_do_not_decide_the_keys_of_others(fresh, monkeypatch):
    """A line that says "Total" in a file of numbered items must not turn their keys into hashes."""
    asked = {}
    monkeypatch.setattr(fresh.store, "publish", lambda **given: asked.update(given) or {"status": "published"})
    lost = fresh.series.iloc[[0]].assign(series_id="Total", refused=3)
    fresh.series = pd.concat([fresh.series, lost], ignore_index=True)
    fresh.publish()
    assert asked["among"].tolist() == fresh.panel.ids.tolist()
    fresh.series = fresh.series.drop(columns="refused")  # as earlier versions wrote it
    fresh.publish()


def test_a_newer_run_is_what_readers_are_served(tmp_path):
    new, old = Job(tmp_path), Job(tmp_path, day("2024-03-01"))
    new.publish()
    old.publish()
    said = forecasts.read_back(old.run, old.store, old.table)
    assert "the run as of 2024-03-10, which is newer" in said
    assert "of this run." in forecasts.read_back(new.run, new.store, new.table)


def test_missing_rows_are_noticed(fresh):
    fresh.publish()
    with pytest.raises(PublishError, match="the warehouse holds 63 rows of run .*, of 62 that were sent"):
        forecasts.read_back(fresh.run, fresh.store, fresh.table.iloc[1:])


def test_the_gate_can_refuse_to_publish(fresh, tmp_path):
    scored = fresh.run.read("scores.parquet")
    error = scored.loc[
        (scored.model == "published") & (scored.metric == "rel_mae") & (scored["slice"] == "all"), "value"
    ].item()
    for limit, refused in ((error * 1.01, False), (error * 0.99, True)):
        strict = Job(tmp_path / str(refused), gate={"refuse_above": limit})
        if refused:
            with pytest.raises(PublishError, match="over the rolling origins and gate.refuse_above allows"):
                strict.publish()
            assert not strict.store.exists() or not strict.store.current("prices").num_rows
        else:
            strict.publish()


@pytest.mark.parametrize("unknown", [lambda scored: scored.iloc[:0], lambda scored: scored.assign(value=float("nan"))])
def test_a_limit_on_the_error_lets_nothing_out_whose_error_is_not_known(tmp_path, unknown):
    strict = Job(tmp_path, gate={"refuse_above": 0.5})
    strict.run.write("scores.parquet", unknown(strict.run.read("scores.parquet")))
    with pytest.raises(PublishError, match="not known, as no forecast has met its actual"):
        strict.publish()


def test_publishing_can_be_switched_off(tmp_path):
    off = Job(tmp_path, publish={"enabled": False})
    assert "publish.enabled is false" in off.publish()["value"].item()
    assert "Nothing was published" in forecasts.read_back(off.run, off.store, off.table) and not off.store.exists()


def test_rows_for_the_fact_table(job):
    rows = forecasts.rows(job.table, job.series, "FactPriceForecast")
    assert rows.num_rows == 63 and set(rows.column_names) == {
        *(
            "series_id",
            "title",
            "forecast_date",
            "horizon",
            "predicted_price",
            "confidence_upper",
            "confidence_lower",
            "p_change",
        )
    }
    assert (
        str(rows.schema.field("forecast_date").type) == "date32[day]" and str(rows.schema.field("series_id").type) == "string"
    )
    titles = dict(zip(rows["series_id"].to_pylist(), rows["title"].to_pylist(), strict=True))
    assert titles["new"] == "<script>" and titles["0003"] == "Item 3"
    low, mid, high = (rows[c].to_numpy() for c in ("confidence_lower", "predicted_price", "confidence_upper"))
    assert (low <= mid).all() and (mid <= high).all() and (low >= 0).all()
    sold = job.table.drop(columns="p_change").assign(mean=job.table["q50"] + 0.5, p_sale=0.5, q90=job.table["q95"])
    sales = forecasts.rows(sold, job.series, "FactSalesForecast")
    levels = ["q05", "q25", "q50", "q75", "q95"]
    assert sales.column_names == ["series_id", "title", "forecast_date", "horizon", *levels, "mean"]
    for name in [*levels, "mean"]:
        np.testing.assert_array_equal(sales[name].to_numpy(), sold[name], err_msg=name)


def test_the_models_row_has_real_metrics_and_every_hyperparameter(job):
    scored = job.run.read("scores.parquet")
    row = forecasts.model_record(job.run, scored)
    assert (row["model_name"], row["model_type"]) == ("LSTM_Price_Forecaster", "LSTM_Seq2Seq")
    mine = scored[(scored.model == "published") & (scored["slice"] == "all")].set_index("metric")["value"]
    assert {"mae", "mape", "coverage", "n"} <= set(row["performance_metrics"]) and row["performance_metrics"]["mape"] == mine[
        "mape"
    ]
    assert row["performance_metrics"]["coverage"] == mine["coverage90"]
    assert row["performance_metrics"]["rel_mae"] == mine["rel_mae"] and row["performance_metrics"]["published"] == "blend"
    assert all(not isinstance(v, float) or math.isfinite(v) for v in row["performance_metrics"].values())
    assert row["hyperparameters"]["hidden_size"] == 8 and row["hyperparameters"]["finetune"]["days"] == 30
    assert row["training_date"] == AS_OF and row["model_version"] == job.run.id
    empty = forecasts.model_record(job.run, scored.iloc[:0])
    assert empty["performance_metrics"]["n"] == 0


# ---- what a reader is shown


def test_the_likeliest_changes_come_first(job):
    moves = forecasts.moves(job.table, job.series, top=5)
    assert len(moves) == 5 and moves["p_change"].is_monotonic_decreasing
    first = job.table[(job.table["series_id"] == moves["series_id"][0]) & (job.table["horizon"] == 7)].iloc[0]
    assert moves["move"][0] == pytest.approx(first["q50"] / first["last_value"] - 1) and moves["q95"][0] == first["q95"]
    shown = forecasts.moves_table(moves)
    assert list(shown["price now"]) == list(moves["last_value"]) and shown["item"].notna().all()


def test_history_is_the_panel_of_the_asked_series(job):
    history = forecasts.history(job.panel, ["0003", "new"])
    assert set(history["series_id"]) == {"0003", "new"} and len(history) == 2 * len(job.panel.dates)
    np.testing.assert_array_equal(history[history["series_id"] == "0003"]["y"], job.panel.y[list(job.panel.ids).index("0003")])


def test_the_baseline_of_a_job_without_a_network_publishes_too(tmp_path):
    """One day of history: no network, no record; the last value is published for every series."""
    frame = posted_prices(3, 1, gaps=0.0)
    run = made_run(tmp_path, tiny(), frame)
    panel, series = run.panel(), run.read("series.parquet")
    start = challenger.start(run, panel)
    challenger.settle(run, panel, start, None, challenger.duel(panel, run.params, {}))
    record = gate.replay(backtest.rolling(panel, run.params), run.params)
    run.write("scores.parquet", scoreboard.score_table(backtest.frame(record, panel.ids, run.params), run.params))
    decided = gate.decide(record, run.params)
    gate.save(run, decided)
    at = forecasts.now(panel, run.params, decided, experts.load(run.dir / "model"))
    table = forecasts.frame(at, gate.load(run), panel, run.params, run)
    seen = int((panel.n_obs > 0).sum())
    store = connect(run.warehouse)
    forecasts.publish(run, store, table, series)
    assert len(table) == 7 * seen == store.current("prices").num_rows and seen >= 1
    assert (table["q05"] == table["q95"]).all() and set(table["source"]) == {"naive"}
