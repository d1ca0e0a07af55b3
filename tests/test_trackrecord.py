"""The track record: today's maths on every vintage, nothing read twice that is settled, nothing known before its day."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import salesdata
from conftest import made_run, panel_of, posted_prices, tiny
from forecastbook import counts, provenance, trackrecord
from forecastbook.runfiles import RunFiles
from forecastbook.trackrecord import by_horizon, by_vintage, due, record, score
from forecastbook.trades import SALES
from forecastbook.warehouse import connect
from forecastbook.wording import percent, share2

H, T, N = 3, 40, 5
PARAMS = tiny(horizon=H)
DAYS = pd.date_range("2024-01-01", periods=T)


def day(t: int) -> dt.date:
    return DAYS[t].date()


def prices(seed: int = 0, gaps: float = 0.2) -> np.ndarray:
    """(N, T) prices, some not observed; the last day always is."""
    draw = np.random.default_rng(seed)
    y = np.round(draw.uniform(5, 50, (N, 1)) * draw.choice([1, 1, 1, 0.8], (N, T)), 2)
    y[draw.random((N, T)) < gaps] = np.nan
    y[:, 0] = y[:, -1] = 10.0
    return y


@pytest.fixture
def store(tmp_path):
    out = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    out.migrate()
    return out


def publish(store, t: int, run_id: str = "", job: str = "prices", ids=None, seed: int = 1) -> pd.DataFrame:
    """Publish a made-up vintage as of day ``t``; returns its rows."""
    ids = [f"{i:04d}" for i in range(N)] if ids is None else ids
    draw, n = np.random.default_rng([seed, t]), len(ids) * H
    point = draw.uniform(5, 50, n)
    rows = pd.DataFrame(
        {
            "series_id": np.repeat(ids, H),
            "forecast_date": np.tile([day(t) + dt.timedelta(days=h) for h in range(1, H + 1)], len(ids)),
            "horizon": np.tile(np.arange(1, H + 1), len(ids)),
            "predicted_price": point,
            "confidence_lower": point * draw.uniform(0.2, 1, n),
            "confidence_upper": point * draw.uniform(1, 3, n),
        }
    )
    store.publish(
        job=job,
        model_id=100,
        as_of=day(t),
        run_id=run_id or f"r{t}",
        table="FactPriceForecast",
        rows=pa.Table.from_pandas(rows, preserve_index=False),
    )
    return rows


def known(y: np.ndarray, t: int):
    """The panel of prices as day ``t`` knew it."""
    return panel_of(y[:, : t + 1])


def kept(store, *more: str) -> pd.DataFrame:
    """All rows of ForecastScore that count, without the clock unless it is asked for."""
    found = store.query("scores", {"job": "prices", "since": day(0), "before": dt.date(9999, 1, 1)}).to_pandas()
    return found[["as_of", "run_id", "horizon", "metric", "value", "n", *more]]


@pytest.fixture
def asked(store, monkeypatch):
    """From which as-of dates on vintages were read back."""
    found, plain = [], type(store).vintages
    monkeypatch.setattr(
        type(store), "vintages", lambda self, job, **bounds: found.append(bounds["since"]) or plain(self, job, **bounds)
    )
    return found


# ---- the maths


def test_errors_are_those_of_each_point_against_what_came(store):
    y = prices()
    vintages = {t: publish(store, t) for t in (10, 11, 12)}
    score(store, "prices", PARAMS, known(y, T - 1))
    filled = pd.DataFrame(y.T).ffill().to_numpy().T
    found = record(store, "prices", PARAMS, day(T - 1))
    assert list(found.columns) == list(trackrecord.COLUMNS) and len(found) == 3 * H and found["complete"].all()
    points = []
    for t, rows in vintages.items():
        for row in rows.itertuples():
            i, actual, last = int(row.series_id), y[int(row.series_id), t + row.horizon], filled[int(row.series_id), t]
            if np.isfinite(actual):
                inside = row.confidence_lower <= actual <= row.confidence_upper
                points.append(
                    (day(t), row.horizon, abs(actual - row.predicted_price) / last, abs(actual - last) / last, inside)
                )
                assert i < N
    points = pd.DataFrame(points, columns=["as_of", "horizon", "error", "baseline_error", "coverage"])
    for key, folded in (("as_of", by_vintage(found)), ("horizon", by_horizon(found))):
        wanted = points.groupby(key)[["error", "baseline_error", "coverage"]].mean()
        np.testing.assert_allclose(folded[["error", "baseline_error", "coverage"]], wanted)
        assert folded["n"].tolist() == points.groupby(key).size().tolist() and folded[key].tolist() == list(wanted.index)
    both = points.groupby(["as_of", "horizon"]).size()
    assert found["n"].tolist() == both.tolist()


def sold_out(store, t: int = 20):
    """Sales (6, 30) with a stock-out after week ``t``, whose vintage is published: the panel, the rows published."""
    panel = salesdata.sales_panel(6, 30)
    y, available = panel.y.copy(), panel.available.copy()
    y[0, t + 1], available[0, t + 1] = 0, False  # not on offer
    y[:, t + 2] = 0  # a week without any sale
    panel = dataclasses.replace(panel, y=y, available=available)
    draw, n = np.random.default_rng(0), 6 * 3
    q = np.sort(draw.integers(0, 9, (n, 5)).astype(float), axis=1)
    rows = {"series_id": np.repeat(panel.ids, 3), "horizon": np.tile([1, 2, 3], 6)}
    rows |= {"forecast_date": np.tile(panel.dates[t + 1 : t + 4], 6)}
    rows |= {name: q[:, k] for k, name in enumerate(("q05", "q25", "q50", "q75", "q95"))}
    as_of = panel.dates[t].astype(dt.date)
    store.publish(job="sales", model_id=200, as_of=as_of, run_id="s", table="FactSalesForecast", rows=pa.table(rows))
    return panel, rows


def test_a_stock_out_is_left_out_and_errors_of_sales_are_shares_of_what_was_sold(store):
    t, params = 20, salesdata.tiny()
    panel, rows = sold_out(store, t)
    q = np.stack([rows[name] for name in ("q05", "q25", "q50", "q75", "q95")], axis=1)
    written = score(store, "sales", params, panel)
    assert set(written["metric"]) == {"absolute_error", "absolute_baseline_error", "coverage", "mean_sales"}
    actual, last = counts.sold(panel)[:, t + 1 : t + 4], panel.filled[:, [t]]
    missing, on_offer = np.abs(actual - q[:, 2].reshape(6, 3)), np.isfinite(actual)
    found = record(store, "sales", params, panel.as_of.astype(dt.date))
    assert found["n"].tolist() == on_offer.sum(axis=0).tolist() == [5, 6, 6]
    one = by_vintage(found).iloc[0]
    assert one["error"] == pytest.approx(np.nansum(missing) / np.nansum(actual))
    assert one["baseline_error"] == pytest.approx(np.nansum(np.abs(actual - last)) / np.nansum(actual))
    held = (q[:, 0].reshape(6, 3) <= actual) & (actual <= q[:, 4].reshape(6, 3))
    assert one["coverage"] == pytest.approx(held[on_offer].mean()) and one["n"] == 17
    assert np.isnan(by_horizon(found)["error"][1]), "no share of nothing"


def test_a_report_says_of_the_last_run_what_the_record_says(store, tmp_path):
    t, params = 20, salesdata.tiny()
    panel, rows = sold_out(store, t)
    dates = {"before": panel.dates[t], "now": panel.as_of}
    for name, day in dates.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"as_of": str(day), "status": "done"}))
    said = pd.DataFrame(rows).rename(columns={"forecast_date": "ts"}).assign(last_value=1.0, p_sale=0.5)
    said.to_parquet(tmp_path / "before" / "forecast.parquet")
    came = {"series_id": np.repeat(panel.ids, 30), "ts": np.tile(panel.dates, 6), "y": panel.y.ravel()}
    pd.DataFrame(came).assign(available=panel.available.ravel()).to_parquet(tmp_path / "now" / "panel.parquet")
    since = provenance.since(RunFiles(tmp_path / "now"), RunFiles(tmp_path / "before"), None, SALES)
    score(store, "sales", params, panel)
    one = by_vintage(record(store, "sales", params, panel.as_of.astype(dt.date))).iloc[0]
    assert since["lines"][0] == (
        f"Of that run's forecasts {one['n']} have met their actuals since: mean error {share2(one['error'])}, "
        f"{percent(one['coverage'])} inside the 90 % band."
    )


def test_a_key_is_found_whether_the_job_then_published_ids_or_hashes(store):
    y = prices(gaps=0)
    publish(store, 10, ids=["1", "2", "-3"])
    publish(store, 11, ids=["1", "2", "new"])
    for ids in (["-3", "1", "2", "7", "8"], ["-3", "1", "2", "7", "new"], ["-3", "1", "2", "7", "007"]):
        panel = dataclasses.replace(known(y, T - 1), ids=np.array(ids, dtype=object))
        written = score(store, "prices", PARAMS, panel)
        found = by_vintage(record(store, "prices", PARAMS, day(T - 1)))
        assert found["n"].tolist() == [3 * H, (2 if "8" in ids else 3) * H]
    assert written.empty, "without the series 'new' less is known of the second vintage: the fuller record stays"


# ---- what is read, and what is written


def test_twice_is_once_and_a_later_day_adds_what_has_come(store):
    y = prices(gaps=0)
    for t in (10, 11):
        publish(store, t)
    assert len(score(store, "prices", PARAMS, known(y, 12))) == 3 * (2 + 1)
    first = kept(store, "scored_at")
    assert by_vintage(record(store, "prices", PARAMS, day(12)))["complete"].tolist() == [False, False]
    assert score(store, "prices", PARAMS, known(y, 12)).empty
    pd.testing.assert_frame_equal(kept(store, "scored_at"), first)
    more = score(store, "prices", PARAMS, known(y, 13))
    assert set(zip(more["as_of"].dt.date, more["horizon"], strict=True)) == {(day(10), 3), (day(11), 2)}
    assert by_vintage(record(store, "prices", PARAMS, day(13)))["complete"].tolist() == [True, False]
    both = kept(store, "scored_at").merge(first, on=["as_of", "horizon", "metric"], suffixes=("", "_first"))
    assert len(both) == len(first) and (both["scored_at"] == both["scored_at_first"]).all(), "what stands is not written again"


def test_the_as_of_date_itself_has_no_actuals_yet(store):
    publish(store, 10)
    assert due(store, "prices", PARAMS, day(10)) is None and score(store, "prices", PARAMS, known(prices(), 10)).empty
    assert due(store, "other", PARAMS, day(20)) is None


def test_scores_as_of_a_day_do_not_change_with_what_comes_after(tmp_path):
    y = prices()
    later = y.copy()
    later[:, 21:] = 77.7
    records, rows = [], []
    for name, actuals in (("a", y), ("b", later)):
        store = connect(f"duckdb:{tmp_path / name}.duckdb")
        store.migrate()
        for t in range(10, 24):
            publish(store, t)
        score(store, "prices", PARAMS, known(actuals, 20))
        rows.append(kept(store))
        score(store, "prices", PARAMS, known(actuals, T - 1))
        assert len(kept(store)) > len(rows[-1])
        score(store, "prices", PARAMS, known(actuals, 20))
        records.append(record(store, "prices", PARAMS, day(20)))
    pd.testing.assert_frame_equal(*rows)
    pd.testing.assert_frame_equal(*records)
    assert len(records[0]) == len(rows[0]) / 3, "a past date sees of the fuller record what it could know"
    assert by_vintage(records[0])["complete"].sum() == 8


@pytest.mark.parametrize("poorer", ["an earlier date", "fewer series", "a shorter history"])
def test_a_fuller_record_is_not_overwritten_by_a_poorer_one(store, poorer):
    y = prices(gaps=0)
    y[1, 8:] = y[1, :8].mean()  # seen before, and not on the day of the vintage
    y[1, 10] = np.nan
    for t in (10, 11):
        publish(store, t)
    score(store, "prices", PARAMS, known(y, 16))
    before = kept(store)
    panel = known(y, 16)
    panel = {"an earlier date": known(y, 12), "fewer series": panel.take([0, 1]), "a shorter history": panel.last(7)}[poorer]
    assert score(store, "prices", PARAMS, panel).empty
    pd.testing.assert_frame_equal(kept(store), before)


def test_actuals_that_come_late_or_are_corrected_count_within_the_grace(store):
    y = prices(gaps=0)
    publish(store, 10)
    late = y.copy()
    late[:3, 12] = np.nan
    score(store, "prices", PARAMS, known(late, 14))
    assert kept(store)["n"].min() == 2
    score(store, "prices", PARAMS, known(y, 15))
    assert kept(store)["n"].min() == 5
    corrected = y.copy()
    corrected[0, 11] *= 2
    assert set(score(store, "prices", PARAMS, known(corrected, 16))["horizon"]) == {1}


def test_what_is_settled_is_never_read_again(store, asked):
    y, settled = prices(gaps=0), H * (1 + trackrecord.GRACE)
    for t in range(5, 22):
        publish(store, t)
        score(store, "prices", PARAMS, known(y, t))
        if t > 6:
            assert asked[-1] == day(max(5, t - settled - 1)), "the days of the grace, and one more that proves them over"
    assert len(by_vintage(record(store, "prices", PARAMS, day(21)))) == 16


def test_a_vintage_whose_actuals_never_came_is_not_read_for_ever(store, asked):
    y = prices(gaps=0)
    y[:, 11:16] = np.nan  # the shop was not read for five days
    for t in range(5, 30):
        publish(store, t)
    score(store, "prices", PARAMS, known(y, 29))
    assert day(10) not in set(kept(store)["as_of"]) and day(15) in set(kept(store)["as_of"])
    assert due(store, "prices", PARAMS, day(29)) == day(20)


def test_a_vintage_published_late_or_anew_is_scored(store):
    y = prices(gaps=0)
    for t in range(10, 30):
        publish(store, t)
    score(store, "prices", PARAMS, known(y, 29))
    assert due(store, "prices", PARAMS, day(29)) == day(20)
    old = kept(store)
    publish(store, 9, "backfill")
    publish(store, 12, "again", seed=2)
    assert due(store, "prices", PARAMS, day(29)) == day(9)
    assert day(12) not in set(kept(store)["as_of"]), "the scores of a run that is replaced do not count"
    score(store, "prices", PARAMS, known(y, 29))
    new = kept(store)
    assert set(new["as_of"]) - set(old["as_of"]) == {day(9)}
    assert set(new.loc[new["as_of"] == day(12), "run_id"]) == {"again"}
    publish(store, 30)
    score(store, "prices", PARAMS, known(y, 31))
    assert due(store, "prices", PARAMS, day(31)) > day(12)


def test_a_store_of_another_jobs_scores_stays_as_it_is(store):
    y = prices(gaps=0)
    publish(store, 10, "a"), publish(store, 10, "b", job="mine")
    score(store, "mine", PARAMS, known(y, 14))
    assert kept(store).empty and len(score(store, "prices", PARAMS, known(y, 14))) == 3 * H
    assert len(record(store, "mine", PARAMS, day(14))) == H


# ---- what a run keeps of it


def test_a_run_keeps_the_whole_record_and_not_only_what_is_new(tmp_path, store):
    frame = posted_prices(N, T)
    for t in (10, 11):
        publish(store, t)
    for t in (15, 30):
        run = made_run(tmp_path, PARAMS, frame[frame["ts"] <= DAYS[t]], day(t), warehouse=store.url)
        found = trackrecord.update(run, store, run.panel())
        assert len(by_vintage(found)) == 2
        pd.testing.assert_frame_equal(run.read(trackrecord.FILE), found)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_file_of_an_empty_record_has_the_types_of_a_full_one(tmp_path, store, enabled):
    params = tiny(horizon=H, publish={"enabled": enabled})
    run = made_run(tmp_path, params, posted_prices(N, T), day(T - 1), warehouse=store.url)
    trackrecord.update(run, store, run.panel())
    empty = pq.read_schema(run.dir / trackrecord.FILE)
    publish(store, 10)
    score(store, "prices", PARAMS, known(prices(), T - 1))
    full = pa.Table.from_pandas(record(store, "prices", PARAMS, day(T - 1)), preserve_index=False)
    assert full.num_rows and full.schema.equals(empty)


def test_a_job_that_publishes_nothing_has_no_record(tmp_path, store):
    publish(store, 10)
    params = tiny(horizon=H, publish={"enabled": False})
    run = made_run(tmp_path, params, posted_prices(N, T), day(T - 1), warehouse=store.url)
    found = trackrecord.update(run, store, run.panel())
    assert found.empty and kept(store).empty and run.read(trackrecord.FILE).empty
    assert by_vintage(found).empty and by_horizon(found).empty
    assert trackrecord.summary(found) == "No published forecast has met its actuals yet."


def test_whether_it_was_published_before_what_it_forecasts_is_said_as_the_ledger_has_it(store):
    y = prices(gaps=0)
    for t in (10, 11, 12):
        publish(store, t)
    score(store, "prices", PARAMS, known(y, T - 1))
    clock, plain = {}, store.ledger
    ledger = lambda: pa.Table.from_pandas(  # noqa: E731
        (found := plain().to_pandas()).assign(published_at=pd.to_datetime(found["as_of"].map(clock), utc=True))
    )
    for late, words in (
        (0, "Each was published before the first period that it forecasts was over: no replay, no second try."),
        (1, "1 of 3 was published afterwards, from data up to its as-of date."),
        (2, "2 of 3 were published afterwards, from data up to their as-of dates."),
        (3, "All were published afterwards, from data up to their as-of dates."),
    ):
        for k, t in enumerate((10, 11, 12)):  # the first period is the day after, and over the day after that
            clock[day(t)] = pd.Timestamp(day(t)) + pd.Timedelta(hours=48 if k < late else 47.9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "ledger", ledger)
            found = record(store, "prices", PARAMS, day(T - 1))
        assert found.groupby("as_of")["afterwards"].first().tolist() == [True] * late + [False] * (3 - late)
        assert trackrecord.said(found).endswith(f" {words}")
    assert trackrecord.said(found.drop(columns="afterwards")) == trackrecord.summary(found), "an older run does not know"
    assert trackrecord.said(found[:0]) == ""


def test_the_error_of_the_rolling_origins_stands_beside_that_of_what_was_published(store):
    publish(store, 10)
    score(store, "prices", PARAMS, known(prices(gaps=0), 14))
    scored = pd.DataFrame({"model": ["published", "published", "tsb"], "error": [0.1, 0.2, 9.0]})
    found = record(store, "prices", PARAMS, day(14))
    mean = by_vintage(found)["error"][0]
    for frame, size in ((scored, "the last price"), (scored.assign(sold=True), "mean sales")):
        words = f" Mean error as a share of {size}: rolling origins 15.00 %, really published {share2(mean)}."
        assert trackrecord.said(found, frame).endswith(words)
    assert "rolling" not in trackrecord.said(found, scored[2:])


def test_the_record_in_a_sentence(store):
    y = prices(gaps=0)
    publish(store, 10)
    score(store, "prices", PARAMS, known(y, 12))
    one = record(store, "prices", PARAMS, day(12))
    assert trackrecord.summary(one).startswith("One published forecast has met its actuals: error ")
    assert " of 1 date; " in trackrecord.summary(one)
    publish(store, 11)
    score(store, "prices", PARAMS, known(y, 14))
    two = record(store, "prices", PARAMS, day(14))
    assert "2 published forecasts" in trackrecord.summary(two) and " of 2 dates; " in trackrecord.summary(two)
    lines = trackrecord.printed(by_vintage(two)).splitlines()
    assert " ".join(lines[0].split()) == "as of n error last value inside 90 % band complete" and len(lines) == 3
    assert lines[1].split()[0] == str(day(10)) and lines[1].endswith("yes")
