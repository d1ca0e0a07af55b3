"""The score table against a slow loop, and the sentences and rankings that are read off it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from conftest import LEVELS, tiny
from forecastbook import backtest, points, scoreboard, tables
from salesdata import tiny as sales_job

PARAMS, Q = tiny(), ["q05", "q25", "q50", "q75", "q95"]
GATE = {"verdict": "The gate said so."}


def table_of(seed=0, models=("published", "lstm", "last_value"), series=6, origins=3, better=1.0):
    """A backtest of sticky prices; ``published`` errs by ``better`` times what the last value errs by."""
    draw, rows = np.random.default_rng(seed), []
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(np.arange(origins) * 7, "D")
    for s in range(series):
        for day in days:
            last = float(draw.uniform(2, 50))
            for h in range(1, 8):
                moved = draw.random() < 0.3
                y = np.nan if draw.random() < 0.2 else last * (draw.choice([0.7, 0.9, 1.1]) if moved else 1.0)
                for model in models:
                    width = 0.02 * last * np.array([-2, -1, 0, 1, 2])
                    middle = last if model != "lstm" else last * 0.98
                    if model == "published" and not np.isnan(y):
                        middle, width = y + better * (last - y), better * width
                    p = draw.random()
                    up = p * draw.choice([0.2, 0.5, 0.9])
                    rows.append([model, f"{s:03d}", day, day + pd.Timedelta(days=h), h, y, *(middle + width), last, p, up])
    columns = ["model", "series_id", "origin", "ts", "horizon", "y", *Q, "last_value", "p_change", "p_up"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def back():
    return table_of()


@pytest.fixture(scope="module")
def scored(back):
    return scoreboard.score_table(back, PARAMS)


def value(scored, model, metric, label="all"):
    return scored[(scored.model == model) & (scored.metric == metric) & (scored["slice"] == label)]["value"].item()


def loop(rows):
    out = {
        "rel_mae": [],
        "rel_ql": [],
        "rel_bias": [],
        "coverage90": [],
        "coverage50": [],
        "winkler90": [],
        "brier": [],
        "mae": [],
        "mape": [],
    }
    losses, sizes, events = [], [], []
    for r in rows.itertuples():
        q, size = [r.q05, r.q25, r.q50, r.q75, r.q95], abs(r.last_value)
        loss = np.mean([max(a * (r.y - v), (a - 1) * (r.y - v)) for a, v in zip(LEVELS, q, strict=True)])
        event = abs(math.log(r.y / r.last_value)) > 0.005
        winkler = (q[4] - q[0]) + 20 * max(q[0] - r.y, 0) + 20 * max(r.y - q[4], 0)
        below, above = r.y - 1e-9 * max(1, r.y), r.y + 1e-9 * max(1, r.y)  # the last bits of a bound do not count
        inside = [q[0] <= above and below <= q[4], q[1] <= above and below <= q[3]]
        one = [abs(r.y - q[2]) / size, loss / size, (q[2] - r.y) / size, *inside]
        one += [winkler / size, (event - r.p_change) ** 2, abs(r.y - q[2]), abs(r.y - q[2]) / r.y]
        for name, v in zip(out, one, strict=True):
            out[name].append(v)
        losses.append(loss), sizes.append(abs(r.y)), events.append(event)
    rate = np.mean(events)
    means = {name: np.mean(v) for name, v in out.items()} | {"wql": 2 * np.mean(losses) / np.mean(sizes), "change_rate": rate}
    if 0 < rate < 1:
        precision = average_precision_score(events, rows["p_change"])
        means |= {"ap_ratio": precision / rate, "brier_skill": 1 - means["brier"] / (rate * (1 - rate))}
    return means


@pytest.mark.parametrize("model", ["published", "lstm", "last_value"])
@pytest.mark.parametrize("label", ["all", "h=1", "h=7", "changed", "unchanged"])
def test_every_metric_of_every_slice_is_its_formula(back, scored, model, label):
    rows = back[(back.model == model) & back.y.notna()]
    changed = np.abs(np.log(rows.y / rows.last_value)) > 0.005
    rows = rows[
        {"all": rows.y > 0, "changed": changed, "unchanged": ~changed}.get(label, rows.horizon.astype(str) == label[2:])
    ]
    mine = scored[(scored.model == model) & (scored["slice"] == label)]
    assert (mine["n"] == len(rows)).all() and len(rows) > 5
    wanted = loop(rows)
    if label == "all":
        safe = loop(back[(back.model == "last_value") & back.y.notna()])
        wanted["skill"] = 1 - wanted["rel_ql"] / safe["rel_ql"]
    if label == "changed":
        up, down = rows["p_up"], rows["p_change"] - rows["p_up"]
        wanted["side"] = np.mean(
            [0.5 if a == b else (a > b) == (r > 0) for a, b, r in zip(up, down, rows.y - rows.last_value, strict=True)]
        )
    if "changed" in label:
        wanted = {k: v for k, v in wanted.items() if k not in ("change_rate", "ap_ratio", "brier_skill")}
    assert set(mine["metric"]) == set(wanted)
    for metric, number in wanted.items():
        assert value(scored, model, metric, label) == pytest.approx(number, rel=1e-9, abs=1e-12), metric


def test_the_table_has_its_columns_and_slices(scored):
    assert list(scored.columns) == ["model", "metric", "slice", "value", "n"]
    assert set(scored["slice"]) == {"all", "changed", "unchanged", *(f"h={h}" for h in range(1, 8))}
    assert not scored.duplicated(["model", "metric", "slice"]).any()


def test_points_without_an_observation_are_left_out(back, scored):
    spoilt = back.copy()
    spoilt.loc[spoilt.y.isna(), Q] = 1e9
    pd.testing.assert_frame_equal(scoreboard.score_table(spoilt, PARAMS), scored)


def test_a_record_in_which_no_price_moved_has_no_word_on_changes(back):
    still = back.assign(y=back["last_value"])
    summary = scoreboard.summary(scoreboard.score_table(still, PARAMS))
    assert summary[["inside, after a change", "side of a change right"]].isna().all(axis=None) and len(summary) == 3
    assert "None" not in tables.table(summary, scoreboard.FORMATS)


def test_the_summary_ranks_by_skill_against_the_last_value(scored):
    summary = scoreboard.summary(scored)
    error = summary["quantile score"]
    assert error.is_monotonic_increasing and set(summary["model"]) == {"published", "lstm", "last_value"}
    safe = value(scored, "last_value", "rel_ql")
    np.testing.assert_allclose(summary["skill"], 1 - error / safe)
    assert "points" not in summary, "all have forecast the same ones"
    after = summary.set_index("model")["inside, after a change"]
    assert after["lstm"] == value(scored, "lstm", "coverage90", "changed")


@pytest.mark.parametrize(("n", "told"), [(4, False), (5, True)])
def test_a_few_origins_that_all_gained_are_no_proof(n, told):
    """Of four that all gained no draw can show a loss: an interval would always say that the gain is beyond chance."""
    rows = [("published", k, 0.9 - 0.01 * k) for k in range(n)] + [("last_value", k, 1.0) for k in range(n)]
    frame = pd.DataFrame(rows, columns=["model", "origin", "loss"]).assign(series_id="a", horizon=1, error=0.0, changed=True)
    found = scoreboard.skills(frame).iloc[0]
    assert found["skill"] > 0.1 and found["n_origins"] == n and np.isfinite(found["low"]) == told
    assert not told or found["low"] < found["skill"] < found["high"]


def test_a_model_that_came_later_is_compared_where_it_has_forecast(back):
    """It missed the first origin, where all errors are tenfold: its own mean is low, its skill is that of the others' kind."""
    back, first = back.copy(), back["origin"] == back["origin"].min()
    for name in (*Q, "y"):
        back.loc[first, name] = back["last_value"] + 10 * (back[name] - back["last_value"])
    late = back[~(first & (back["model"] == "lstm"))]
    summary = scoreboard.summary(scoreboard.score_table(late, PARAMS)).set_index("model")
    matched = scoreboard.skills(late, model="lstm").set_index("baseline")["skill"]
    assert summary.loc["lstm", "skill"] == pytest.approx(matched["last_value"], abs=1e-12)
    naive = 1 - summary.loc["lstm", "quantile score"] / summary.loc["last_value", "quantile score"]
    assert naive > summary.loc["lstm", "skill"] + 0.1, "over its own points it would look better than it is"
    assert summary["points"].nunique() == 2 and summary["points"].idxmin() == "lstm"


def test_of_sales_too_a_model_that_came_later_is_compared_where_it_has_forecast():
    """It says what IMAPA says, at the second origin alone, where five times as much is sold: it is no better and no worse."""
    draw, rows = np.random.default_rng(0), []
    names = ["q05", "q25", "q50", "q75", "q80", "q90", "q95", "q99"]
    for day, rate, models in (("2024-01-01", 2.0, ["imapa"]), ("2024-02-05", 10.0, ["imapa", "gbm"])):
        for s, y in enumerate(draw.poisson(rate, 50).astype(float)):
            said = dict(zip(names, rate * np.linspace(0.4, 1.8, len(names)), strict=True))
            said |= {"y": y, "last_value": 1.0, "p_sale": 0.9, "mean": rate, "horizon": 1, "series_id": str(s)}
            rows += [{"model": m, "origin": pd.Timestamp(day), "ts": pd.Timestamp(day), **said} for m in models]
    back, params = pd.DataFrame(rows), sales_job()
    summary = scoreboard.summary(scoreboard.score_table(back, params), params.trade).set_index("model")
    assert summary.loc["gbm", "skill"] == pytest.approx(0, abs=1e-12)
    assert scoreboard.skills(back, model="gbm").set_index("baseline").loc["imapa", "skill"] == pytest.approx(0, abs=1e-12)


def test_the_verdict_says_better_worse_or_no_better():
    said = {b: scoreboard.verdict(scoreboard.score_table(table_of(better=b), PARAMS), GATE) for b in (0.5, 1.0, 1.5)}
    assert "50.0 % better than the last value" in said[0.5]
    assert "no better than the last value" in said[1.0]
    assert "50.0 % worse than the last value" in said[1.5]
    assert all("bands that promised 90 %" in s and s.endswith("The gate said so.") for s in said.values())


def test_best_median_and_worst_are_told_apart(back):
    error = scoreboard.by_series(back)
    mine = back[(back.model == "published") & back.y.notna() & (back.series_id == "002")]
    assert error["002"] == pytest.approx(np.mean(np.abs(mine.y - mine.q50) / mine.last_value))
    forecast = pd.DataFrame({"series_id": ["000", "001", "002", "003", "004"]})
    ids, labels = scoreboard.best_median_worst(back, forecast)
    moved = points.event(mine := points.errors(back[back["model"] == "published"])).groupby(mine["series_id"]).sum()
    kept = error.drop("005")
    assert (moved[kept.index] > 0).all()
    assert ids == [kept.idxmin(), kept.sort_values().index[2], kept.idxmax()]
    assert [x.split(":")[0] for x in labels] == ["best", "median", "worst"]
    ids, labels = scoreboard.best_median_worst(back, forecast.iloc[:1])
    assert ids == ["000"] and len(labels) == 1


def test_the_same_items_are_ranked_wherever_the_best_and_the_worst_are_shown():
    base = pd.DataFrame({"model": "published", "series_id": [f"{i}" for i in range(8)], "origin": pd.Timestamp("2024-01-01")})
    scored = base.assign(horizon=1, error=np.arange(8) / 10, loss=np.arange(8) / 10, changed=np.arange(8) >= 3)
    ids = base["series_id"]
    error, lively = scoreboard.ranked(scored, ids)
    assert list(error.index) == ["3", "4", "5", "6", "7"] and lively, "one whose price never moved was easy"
    assert scoreboard.best_median_worst(scored, base)[0] == ["3", "5", "7"]
    error, lively = scoreboard.ranked(scored, ids[:6])
    assert list(error.index) == [*"012345"] and not lively, "three are too few to stand for all"
    sales = pd.concat([scored.assign(horizon=h) for h in (1, 2)]).drop(columns="changed")
    sales["sold"] = sales["series_id"].astype(int) >= sales["horizon"] * 3
    error, lively = scoreboard.ranked(sales.assign(share=sales["sold"] * 1.0), ids)
    assert set(error.index) == {*"34567"} and lively, "half sold once or never: whoever sold once counts, who never did not"


@pytest.mark.parametrize("n", [5, 6])
def test_a_record_of_a_sample_says_so(back, monkeypatch, n):
    n_obs = np.array([9, 0, *[3] * n])  # one was never seen, so never asked
    monkeypatch.setattr(backtest, "JUDGES", 6)
    said, sample = scoreboard.describe(back, n_obs), "6 of 7 items, drawn at random"
    assert (f"6 series ({sample}), " in said) == (scoreboard.drawn(n_obs) == sample) == (n == 6)
    assert (f"share of the error, among {sample}" in scoreboard.worst_words(n_obs)) == (n == 6)


@pytest.mark.parametrize(
    ("n", "judged", "stride", "witnesses", "said"),
    [
        (8, 6, 1, 500, "the 6 above and 2 before them"),
        (8, 6, 3, 500, "the 6 above and 2 before them"),
        (8, 6, 2, 500, "the 6 above and 2 between or before them"),  # a horizon of 3 is no multiple of 2
        (8, 6, 9, 500, "the 6 above and 2 between or before them"),
        (2, 1, 9, 500, "the one above and 1 before it"),
        (6, 6, 9, 500, "the 6 above"),
        (8, 6, 1, 10, "the 6 above and 2 before them (of 10 items at most, drawn at random)"),
        (5, 6, 1, 500, ""),
        (5, 0, 1, 500, ""),
    ],
)
def test_where_the_gates_origins_lie_is_computed(monkeypatch, n, judged, stride, witnesses, said):
    monkeypatch.setattr(backtest, "WITNESSES", witnesses)
    params = {"horizon": 3, "backtest": {"stride": stride}}
    assert scoreboard.origins_words(n, judged, params, np.ones(20)) == said
    assert scoreboard.origins_words(n, judged, {}, np.ones(20)) == ""


def test_the_worst_come_first(back):
    series = pd.DataFrame({"series_id": [f"{i:03d}" for i in range(6)]}).assign(title="t", last_value=1.0, change_rate=0.1)
    worst = scoreboard.worst(back, series, 4)
    assert worst["share of all error"].is_monotonic_decreasing and len(worst) == 4
    assert list(worst.columns) == ["series_id", "title", "share of all error", "error", "last_value", "change_rate"]
    mine = points.errors(back[back["model"] == "published"])
    by = mine.groupby("series_id")["loss"].sum() / mine["loss"].sum()
    assert worst["share of all error"].tolist() == pytest.approx(by.sort_values(ascending=False).head(4).tolist())


def test_what_the_record_covers(back):
    seen = int(back[back.model == "published"].y.notna().sum())
    assert (
        scoreboard.describe(back) == f"3 origins from 2024-01-01 to 2024-01-15, 6 series, {seen} forecasts that met an actual."
    )


def test_an_empty_record_is_said_and_breaks_nothing(tmp_path):
    empty = backtest.frame([], np.array([], dtype=object), PARAMS)
    empty.to_parquet(tmp_path / "b.parquet")
    for back in (empty, pd.read_parquet(tmp_path / "b.parquet")):
        scored = scoreboard.score_table(back, PARAMS)
        assert scored.empty and list(scored.columns) == ["model", "metric", "slice", "value", "n"]
        assert scored.dtypes.equals(scoreboard.score_table(table_of(), PARAMS).dtypes), "as where there is something"
        scored.to_parquet(tmp_path / "s.parquet")
        for table in (scored, pd.read_parquet(tmp_path / "s.parquet")):
            assert list(scoreboard.summary(table).columns) == list(
                scoreboard.summary(scoreboard.score_table(table_of(), PARAMS)).columns
            )
            assert scoreboard.summary(table).empty
            assert scoreboard.verdict(table, GATE) == "There is no record to judge by. The gate said so."
        assert "no record to judge by" in scoreboard.describe(back)
        ids, labels = scoreboard.best_median_worst(back, pd.DataFrame({"series_id": ["b", "a"]}))
        assert ids == ["a", "b"] and labels == ["not ranked"] * 2
        series = pd.DataFrame({"series_id": ["a"], "title": ["t"], "last_value": [1.0], "change_rate": [0.0]})
        assert scoreboard.worst(back, series).empty


def test_a_record_that_met_no_actual_is_said_too():
    back = table_of().assign(y=np.nan)
    scored = scoreboard.score_table(back, PARAMS)
    assert scoreboard.summary(scored).empty and "no record to judge by" in scoreboard.verdict(scored, GATE)


def test_the_report_and_the_score_table_agree_on_every_model(back):
    """One counts points one by one, the other by model: errors, quantile scores and bands are the same ones."""
    still = back[back["series_id"] == "000"].assign(series_id="still", y=9.99, last_value=9.99, **dict.fromkeys(Q, 9.99))
    still["q05"] = 9.990000000000002  # the last bit of a bound
    back = pd.concat([back, still], ignore_index=True)
    wide = scoreboard.score_table(back, PARAMS).query("slice == 'all'").pivot(index="model", columns="metric", values="value")
    means = points.errors(back).groupby("model")[["error", "loss", "inside90", "inside50"]].mean()
    np.testing.assert_allclose(means, wide.loc[means.index, ["rel_mae", "rel_ql", "coverage90", "coverage50"]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["category", object])
def test_a_backtest_is_scored_alike_whole_in_parts_and_from_its_file(tmp_path, back, scored, kind):
    back = back.astype({"model": kind, "series_id": kind})
    parts = [part for _, part in back.groupby("model", sort=False, observed=True)]
    assert_same = pd.testing.assert_frame_equal
    assert_same(scoreboard.score_table(iter(parts), PARAMS), scored, check_dtype=False, rtol=1e-12)
    back.to_parquet(tmp_path / "backtest.parquet", row_group_size=100, index=False)
    kept, errors = points.read(tmp_path / "backtest.parquet")
    wanted = points.errors(back).reset_index(drop=True)
    assert_same(errors, wanted.drop(columns="ts"), check_dtype=False, check_categorical=False)
    mine = back[back["model"].isin(["published", "last_value"]) & back["y"].notna()].reset_index(drop=True)
    assert_same(kept, mine, check_dtype=False, check_categorical=False)
    assert_same(scoreboard.skills(errors), scoreboard.skills(back))
    assert_same(scoreboard.by_series(errors).to_frame(), scoreboard.by_series(back).to_frame())
    assert_same(scoreboard.by_model(errors), scoreboard.by_model(points.errors(back)), rtol=1e-6)


def test_skill_is_over_the_points_that_both_forecast(back):
    less = back[(back["model"] != "lstm") | (back["series_id"] > "002")]
    got = scoreboard.skills(less, model="lstm").set_index("baseline")
    both = back[back["series_id"] > "002"]
    pd.testing.assert_frame_equal(got, scoreboard.skills(both, model="lstm").set_index("baseline"))
