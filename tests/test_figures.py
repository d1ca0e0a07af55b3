"""Figures: every one draws from the run's frames, says something true in its title, survives empty and hostile input."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from forecastbook import calibrationfigures, demand, figures, gbm, points, scorefigures, style, trades, wording
from forecastbook.wording import percent
from salesdata import sales_panel

HOSTILE = {
    "p000": "<script>document.title='owned'</script>",
    "p001": '"><img src=x onerror="document.title=\'owned\'">',
    "p002": "$x_1$ and $\\frac{1}{2}$ for $5",
    "p003": "=cmd|' /C calc'!A0",
    "p004": "long " * 2000,
    "p005": "Tea 🍵 Zażółć чай",
    "p006": "+1 for free",
    "007": "NA",
}
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
MODELS = {
    "published": 0.75,
    "lstm": 0.8,
    "last_value": 1.0,
    "seasonal_naive": 1.5,
    "moving_average": 1.3,
    "historical_quantiles": 1.2,
}


def sticky_prices(n: int = 60, days: int = 200, seed: int = 0) -> pd.DataFrame:
    """Prices that hold for weeks and then jump, with gaps: a long frame series_id, ts, y, available, title."""
    rng = np.random.default_rng(seed)
    ids = [*HOSTILE, *(f"v{i:04d}" for i in range(n))][:n]
    ts = pd.date_range(end="2026-01-05", periods=days)
    frames = []
    for i in ids:
        usual = np.round(np.exp(rng.normal(2.2, 0.7)), 2)
        price, y = usual, np.empty(days)
        for t in range(days):
            if rng.random() < 0.04:
                price = usual if price != usual else np.round(usual * rng.choice([0.7, 0.8, 0.9, 1.1]), 2)
            y[t] = price
        seen = rng.random(days) > 0.15
        title = HOSTILE.get(
            i, f"{rng.choice(['Oat milk', 'Rye bread', 'Olive oil', 'Dark chocolate', 'Ground coffee'])} {i[1:]}"
        )
        frames.append(
            pd.DataFrame({"series_id": i, "ts": ts, "y": np.where(seen, y, np.nan), "available": seen, "title": title})
        )
    return pd.concat(frames, ignore_index=True)


def sticky_forecast(panel: pd.DataFrame, horizon: int = 7, seed: int = 1) -> pd.DataFrame:
    """A forecast of every series of the panel, quantiles around the last price, in the columns of forecast.parquet."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, (key, group) in enumerate(panel.dropna(subset=["y"]).groupby("series_id", sort=False)):
        last, risk, move = group["y"].iloc[-1], rng.beta(1, 3), rng.choice([0, 0, 0, -0.2, 0.15])
        for h in range(1, horizon + 1):
            p = 1 - (1 - risk) ** (h / horizon)
            q50 = last * (1 + move) if p > 0.4 else last
            q = np.sort([last * (1 - 0.3 * p), last * (1 - 0.1 * p), q50, last * (1 + 0.05 * p), last * (1 + 0.2 * p)])
            ts, up = pd.Timestamp("2026-01-05") + pd.Timedelta(days=h), p * (0.8 if move > 0 else 0.15)
            rows.append((key, ts, h, *q, p, up, last, "model" if i % 7 else "naive"))
    return pd.DataFrame(rows, columns=["series_id", "ts", "horizon", *QUANTILES, "p_change", "p_up", "last_value", "source"])


def rolling_backtest(panel: pd.DataFrame, origins: int = 8, stride: int = 14, horizon: int = 7, seed: int = 2) -> pd.DataFrame:
    """Forecasts of six models from eight origins, in the columns of backtest.parquet; `published` has the smallest errors."""
    rng = np.random.default_rng(seed)
    wide = panel.pivot(index="ts", columns="series_id", values="y")
    filled, frames = wide.ffill().bfill(), []
    for k in range(origins, 0, -1):
        at = len(wide) - 1 - horizon - (k - 1) * stride
        last = filled.iloc[at].to_numpy()
        for h in range(1, horizon + 1):
            truth, y = filled.iloc[at + h].to_numpy(), wide.iloc[at + h].to_numpy()
            for model, width in MODELS.items():
                known = rng.random(len(last)) < (0.35 if model in ("published", "lstm") else 0.0)
                q50 = np.where(known, truth, last) if width <= 1 else last * np.exp(rng.normal(0, 0.01 * width, len(last)))
                scale = 0.01 * width * np.sqrt(h) * last if model != "last_value" else 0 * last
                frames.append(
                    pd.DataFrame(
                        {
                            "model": model,
                            "series_id": wide.columns,
                            "origin": wide.index[at],
                            "ts": wide.index[at + h],
                            "horizon": h,
                            "y": y,
                            **{c: np.maximum(q50 + scale * 3 * (level - 0.5), 0) for c, level in QUANTILES.items()},
                            "last_value": last,
                            "p_change": 0.04 * h,
                            "p_up": 0.01 * h,
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def panel():
    return sticky_prices()


@pytest.fixture(scope="module")
def forecast(panel):
    return sticky_forecast(panel).merge(panel[["series_id", "title"]].drop_duplicates(), on="series_id")


@pytest.fixture(scope="module")
def backtest(panel):
    return rolling_backtest(panel)


def importance() -> pd.DataFrame:
    """What trees look at, as ``gbm.Trees.importance`` says it: most first."""
    share = np.array([0.4, 0.3, 0.1, 0.1, *[0.01] * 10])
    return pd.DataFrame({"feature": ["age", "to_mode90", *(f"feature_{k}" for k in range(12))], "share": share})


def every_figure(panel, forecast, backtest) -> dict[str, style.Figure]:
    """Each public figure once, on the given frames."""
    rng = np.random.default_rng(3)
    skills = pd.DataFrame(
        {
            "baseline": ["last_value", "moving_average", "seasonal_naive"],
            "skill": [0.06, 0.2, -0.1],
            "low": [-0.01, 0.15, -0.14],
            "high": [0.12, 0.26, -0.04],
        }
    )
    score = 0.02 + rng.gamma(2, 0.004, 24)
    score[5] = np.nan
    step = np.arange(0, 300, 20)
    history = pd.DataFrame(
        {"step": step, "train": np.exp(-step / 90) + 0.2, "validation": np.exp(-step / 60) + 0.3 + step / 3000}
    )
    record = pd.DataFrame(
        {
            "as_of": pd.date_range("2025-11-01", periods=6, freq="7D"),
            "error": rng.uniform(0.01, 0.03, 6),
            "coverage": rng.uniform(0.8, 0.95, 6),
            "baseline_error": rng.uniform(0.02, 0.035, 6),
            "n": 400,
        }
    )
    few = len(panel) == 0
    return {
        "small_multiples": figures.small_multiples(panel),
        "spells": figures.spells(rng.geometric(0.04, 0 if few else 900)),
        "coverage_over_time": figures.coverage_over_time(panel),
        "splits": figures.splits(
            *(
                [None] * 3
                if few
                else [
                    ("2025-06-20", "2025-10-31"),
                    ("2025-11-01", "2025-11-30"),
                    [("2025-12-01", "2025-12-07"), ("2025-12-22", "2025-12-28")],
                ]
            )
        ),
        "trials": figures.trials(pd.DataFrame({"score": score[: 0 if few else None]})),
        "losses": figures.losses(history[: 0 if few else None]),
        "errors_by_origin": scorefigures.errors_by_origin(backtest),
        "fans": figures.fans(
            panel, forecast, list(HOSTILE)[:4], ["best, error 0.2 %", "second best", "second worst", "worst, error 20 %"]
        ),
        "fans_three": figures.fans(panel, forecast, list(HOSTILE)[4:7]),
        "moves": figures.moves(forecast, "7 days"),
        "attention": figures.attention(np.empty((0, 0)) if few else rng.gamma(1, np.linspace(0.1, 1, 30), (7, 30))),
        "features": figures.features(importance()[: 0 if few else None]),
        "error_by_horizon": scorefigures.error_by_horizon(backtest),
        "accuracy": scorefigures.accuracy(backtest),
        "calibration": calibrationfigures.calibration(backtest),
        "skill": scorefigures.skill(skills[: 0 if few else None]),
        "by_event": calibrationfigures.by_event(backtest),
        "reliability": calibrationfigures.reliability(backtest),
        "track_record": scorefigures.track_record(record[: 0 if few else None]),
    }


@pytest.fixture(scope="module")
def drawn(panel, forecast, backtest):
    return every_figure(panel, forecast, backtest)


def words(fig) -> str:
    return " ".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


@pytest.mark.filterwarnings("error")
def test_every_figure_draws_without_a_warning_and_brings_alt_text(drawn, tmp_path):
    for label, fig in drawn.items():
        assert fig.png(60).startswith(b"\x89PNG"), label
        assert 10 < len(fig.alt) < 500, label
        assert fig._suptitle.get_text().strip(), f"{label} has no headline"


def test_nothing_to_draw_is_said_and_not_raised(panel, forecast, backtest):
    for label, fig in every_figure(panel.iloc[:0], forecast.iloc[:0], backtest.iloc[:0]).items():
        assert fig.png(50), label
        assert fig.alt in words(fig) and len(fig.alt) > 10, label


@pytest.mark.filterwarnings("error")
def test_one_series_constant_price_and_no_change_draw(panel, forecast, backtest):
    one = panel[panel["series_id"] == "v0001"].assign(y=5.0)
    ahead = forecast[forecast["series_id"] == "v0001"].assign(**dict.fromkeys([*QUANTILES, "last_value"], 5.0), p_change=0.0)
    past = backtest[backtest["series_id"] == "v0001"].assign(**dict.fromkeys([*QUANTILES, "last_value", "y"], 5.0))
    for label, fig in every_figure(one, ahead, past).items():
        assert fig.png(50), label
    flat = calibrationfigures.by_event(past)
    assert "No forecast met changed prices" in flat.alt
    assert "0 %" in figures.small_multiples(one).alt
    assert (
        figures.spells([1]).png(50)
        and figures.attention([1.0]).png(50)
        and figures.trials(pd.DataFrame({"score": [0.1]})).png(50)
    )


def test_a_single_origin_and_a_single_day_draw(panel, backtest):
    day = backtest[(backtest["origin"] == backtest["origin"].max()) & (backtest["horizon"] == 1)]
    for draw in (
        scorefigures.errors_by_origin,
        scorefigures.error_by_horizon,
        scorefigures.accuracy,
        calibrationfigures.calibration,
        calibrationfigures.by_event,
        calibrationfigures.reliability,
    ):
        assert draw(day).png(50)
    assert figures.coverage_over_time(panel[panel["ts"] == panel["ts"].max()]).png(50)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2, 30, 400])
def test_a_track_record_is_readable_however_long_it_is(n):
    base = np.linspace(0.03, 0.05, n)
    frame = pd.DataFrame(
        {
            "as_of": pd.date_range("2025-01-01", periods=n).date,
            "error": base * np.where(np.arange(n) % 2, 1.1, 0.5),
            "baseline_error": base,
            "coverage": np.linspace(0.85, 0.95, n),
            "n": 100,
            "complete": np.arange(n) < n - 1,
        }
    )
    fig = scorefigures.track_record(frame.iloc[::-1])  # in any order
    said = words(fig)
    assert (
        fig.png(60) and "promised" in said and "last value" in said and f"{percent(frame['error'].mean(), 2)}, last" in fig.alt
    )
    met = (
        "One earlier forecast met its actuals in part:"
        if n == 1
        else f"{n} earlier forecasts met their actuals (1 of them only"
    )
    assert fig.alt.startswith(met), "the newest is hollow"
    boxes = sorted((t.get_window_extent() for t in fig.axes[0].texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 2 for below, above in zip(boxes, boxes[1:], strict=False)), "no name stands on another"
    assert (f"better on {(n + 1) // 2} of {n} dates" in fig.alt) == (n > 1)
    marks = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert bool(marks) == (n < 400) == ("hollow" in said) and ("thick" in said) == (n == 400)
    ticks = [t.get_text() for t in fig.axes[1].get_xticklabels()]
    assert len(ticks) == len(set(ticks)) <= 7


@pytest.mark.parametrize("freq", ["D", "W-MON", "MS"])
def test_the_last_period_is_as_wide_as_the_others(freq):
    """A value holds for all of its period: the newest one too, up to where the forecast begins."""
    dates = pd.date_range("2024-01-01", periods=9, freq=freq)
    past = pd.DataFrame({"series_id": "a", "ts": dates[:7], "y": np.arange(7.0), "title": "a"})
    ahead = pd.DataFrame({"series_id": "a", "ts": dates[7:], **dict.fromkeys(QUANTILES, 5.0), "last_value": 6.0})
    for fig in (figures.small_multiples(past, freq=freq), figures.fans(past, ahead, freq=freq)):
        line = next(line for line in fig.axes[0].lines if line.get_color() == style.INK and len(line.get_xdata()) > 1)
        assert line.get_xdata()[-1] == dates[7] and line.get_ydata()[-2:].tolist() == [6, 6]
    assert figures.coverage_over_time(past, freq).axes[0].lines[0].get_xdata()[-1] == dates[7]
    assert figures.small_multiples(past[:1], freq=freq).png(40) and figures.coverage_over_time(past[:1], freq).png(40)


def test_titles_state_what_the_data_say():
    ts = pd.Timestamp("2026-01-01")
    rows = [
        (m, i, ts, ts + pd.Timedelta(days=h), h, 10.0, q, q, q, q, q, 10.0)
        for m, q in (("published", 10.5), ("last_value", 11.0))
        for i in ("a", "b")
        for h in (1, 2)
    ]
    backtest = pd.DataFrame(rows, columns=["model", "series_id", "origin", "ts", "horizon", "y", *QUANTILES, "last_value"])
    assert "50.0 % below that of the last value" in scorefigures.error_by_horizon(backtest).alt
    assert "50.0 % better than the best baseline, the last value" in scorefigures.accuracy(backtest).alt
    won = "The published forecast scores 50.0 % better than the last value on average, and is better at 1 of 1 origin"
    assert scorefigures.errors_by_origin(backtest).alt == won
    duel = pd.DataFrame({"model": ["challenger", "champion"], "origin": pd.Timestamp("2024-03-01"), "value": [0.1, 0.2]})
    assert "50.0 % better than the base network on average" in scorefigures.errors_by_origin(duel, champion="base network").alt
    assert calibrationfigures.calibration(backtest).alt.startswith("0 % of actual prices fell inside a band that promised 90 %")
    worse = backtest.assign(model=backtest["model"].map({"published": "last_value", "last_value": "published"}))
    assert "100.0 % above that of the last value" in scorefigures.error_by_horizon(worse).alt
    assert "worse than the best baseline" in scorefigures.accuracy(worse).alt
    assert "median 4" in figures.spells([2, 4, 8]).alt
    skill = pd.DataFrame({"baseline": ["last_value"], "skill": [-0.1], "low": [-0.2], "high": [-0.05]})
    assert scorefigures.skill(skill).alt == "Worse than the last value"


def test_a_challenger_that_is_rolled_back_is_not_titled_a_winner():
    """What it must beat is the champion, and on average: that it beats a baseline everywhere says nothing of the verdict."""
    origins = pd.date_range("2024-03-01", periods=4)
    scores = {"challenger": [1.0, 1.0, 1.0, 4.0], "champion": [1.1, 1.1, 1.1, 1.1], "last_value": [9.0, 9.0, 9.0, 9.0]}
    duel = pd.concat(pd.DataFrame({"model": m, "origin": origins, "value": v}) for m, v in scores.items())
    told = scorefigures.errors_by_origin(duel).alt
    assert told == "The challenger forecast scores 59.1 % worse than the champion on average, and is better at 3 of 4 origins"
    alone = scorefigures.errors_by_origin(duel[duel["model"] != "champion"]).alt
    assert "80.6 % better than the last value on average, and is better at 4 of 4 origins" in alone
    even = scorefigures.errors_by_origin(duel[duel["model"] != "last_value"].assign(value=1.0)).alt
    assert "scores the same as the champion on average, and is better at 0 of 4" in even


def test_spans_are_told_in_periods_and_drawn_to_the_end_of_the_last():
    months = figures.splits(("2022-10-01", "2024-09-01"), ("2024-10-01", "2025-03-01"), None, freq="MS")
    assert "train Oct 2022 to Sep 2024, 24 months; validation Oct 2024 to Mar 2025, 6 months" in months.alt
    bars = [bar for group in months.axes[0].containers for bar in group]
    edges = [bars[0].get_x(), bars[0].get_x() + bars[0].get_width(), bars[1].get_x()]
    assert [f"{matplotlib.dates.num2date(x):%Y-%m-%d}" for x in edges] == ["2022-10-01", "2024-10-01", "2024-10-01"]
    weeks = figures.splits(("2024-01-01", "2024-01-08"), None, None, freq="W-MON")
    assert "train 1 Jan 2024 to 14 Jan 2024, 2 weeks" in weeks.alt


def test_trials_have_the_numbers_of_their_table_and_those_stopped_early_are_hollow():
    frame = pd.DataFrame({"trial": [1, 2, 3, 4], "state": ["finished", "finished", wording.EARLY, "failed"]})
    fig = figures.trials(frame.assign(score=[0.5, 0.41234, 0.6, np.nan]))
    assert fig.alt == "Trial 2 of 4 is the best, at 0.4123; 1 stopped early; 1 gave no score"
    hollow = [line for line in fig.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[3]] and "hollow: stopped early" in words(fig)


def test_losses_are_told_by_epoch_and_nothing_is_best_without_validation():
    rows = [{"step": 0, "train": None, "validation": 0.9}, {"step": 30, "train": 0.8, "validation": 0.7}]
    rows += [{"step": 60, "train": 0.6, "validation": 0.75}]
    fig = figures.losses(rows)
    assert fig.alt == "Validation loss was lowest after 1 epoch (0.7); training went on to 2" and "best" in words(fig).split()
    assert [line.get_xdata().tolist() for line in fig.axes[0].lines[:2]] == [[1, 2], [0, 1, 2]]
    sales = [{"step": 16 * k, "train": 1 - 0.1 * k, "validation": None} for k in range(1, 6)]
    fig = figures.losses(sales)
    assert fig.alt == "Training loss fell to 0.5 in 5 epochs" and "best" not in words(fig).split()
    assert fig.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert figures.losses(sales[:1]).alt == "Training loss was 0.9 in 1 epoch" and figures.losses(rows[:1]).png(40)


def test_errors_follow_their_definitions(backtest):
    rng = np.random.default_rng(0)
    scored = points.errors(backtest)
    rows = backtest.loc[scored.index]
    assert len(scored) == np.isfinite(backtest["y"]).sum()
    for i in rng.choice(scored.index, 200):
        r = rows.loc[i]
        pinball = [max(level * (r["y"] - r[c]), (level - 1) * (r["y"] - r[c])) for c, level in QUANTILES.items()]
        assert scored.loc[i, "loss"] == pytest.approx(np.mean(pinball) / r["last_value"])
        assert scored.loc[i, "error"] == pytest.approx(abs(r["y"] - r["q50"]) / r["last_value"])
        assert scored.loc[i, "changed"] == (abs(np.log(r["y"] / r["last_value"])) > 0.005)


def test_dollars_are_never_maths_and_titles_are_cut_for_display(panel, forecast):
    ids = ["p002", "p004", "p005"]
    fig = figures.fans(panel, forecast, ids)
    texts = fig.findobj(matplotlib.text.Text)
    assert not any(t.get_parse_math() for t in texts)
    assert any(t.get_text().startswith("$x_1$") for t in texts)
    assert max(len(line) for t in texts for line in t.get_text().split("\n")) < 100
    assert style.plain("a\x00b\n\tc") == "a□b c" and len(style.plain("x" * 10_000)) == 38


def test_what_the_experts_look_at_is_attention_where_there_is_some_else_the_trees_features():
    weights = np.full((7, 30), 1 / 30)
    trees, none = figures.looks(importance(), np.empty((0, 0))), figures.looks(importance()[:0], np.empty((0, 0)))
    lead = ["days at this price", "distance to the usual price of 90 days", "feature 0"]
    assert " ".join(trees._suptitle.get_text().split()) == f"The trees look first at: {' · '.join(lead)}"
    assert [t.get_text() for t in trees.axes[0].get_yticklabels()][:3] == lead
    assert [bar.get_width() for bar in trees.axes[0].patches] == list(importance()["share"][:10]), "the ten that matter most"
    assert figures.looks(importance(), weights).png(50) == figures.attention(weights).png(50)
    assert "No trees were grown" in words(none)


def test_every_feature_of_the_trees_has_plain_words_of_its_own():
    panel = sales_panel(40, 110)
    N, T = panel.y.shape
    columns = ("price", "list_price", "promotion", "stock_age")
    panel = replace(panel, past=np.ones((N, T, 4)), past_names=columns, future=np.ones((N, T + 4, 1)), future_names=("hot",))
    panel = replace(panel, available=panel.available & (np.arange(T) != 60))
    panel = replace(panel, titles=np.array(["Blue tea"] * 8 + ["Rye"] * (N - 8), object))
    panel = replace(panel, static=np.full((N, 1), "Jazz", object), static_names=("style",))
    signals = demand.of(panel, 2, {"style": ["Jazz"]})
    later = demand.ahead(panel, 2, 2, signals.scale, yearly=True)[1]
    assert {"trend_words", "offered_4", "past_stock_age_level", "growth", "quantile_0.9"} <= set(signals.names)
    for features in (gbm.NAMES, [*signals.names, *later]):
        said = [wording.feature_name(name) for name in features]
        assert len(said) == len(set(said)) and max(map(len, said)) <= 50
        own = {"style"}  # a column of the job
        for name, words_ in zip(features, said, strict=True):
            known = name in wording.FEATURES or any(re.fullmatch(p, name) for p in wording.KINDS)
            assert (known or name in own) and not re.search(r"_|[a-z]\d", words_), name
    assert wording.feature_name("quantile_0.75") == "75 % quantile of recent sales"
    assert wording.feature_name("trend_cover_type") == "how its cover type sells lately"


def test_a_notebook_gets_a_picture_with_its_alt_text(panel):
    data, metadata = figures.small_multiples(panel)._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR") and metadata["image/png"]["alt"] == data["text/plain"]


def test_drawing_changes_no_global_state_and_repeats_to_the_byte(panel, forecast, backtest):
    before = dict(matplotlib.rcParams)
    first, again = figures.fans(panel, forecast).png(60), figures.fans(panel, forecast).png(60)
    assert first == again
    assert dict(matplotlib.rcParams) == before


def test_a_baseline_that_is_published_is_left_out_of_the_skill(backtest):
    rows = {"baseline": ["table", "last_value"], "skill": [-0.0001, 0.02], "low": [-0.0002, 0.01], "high": [0.0, 0.04]}
    skill = pd.DataFrame(rows)
    assert scorefigures.itself(skill).tolist() == [True, False]
    fig = scorefigures.skill(skill)
    assert fig.alt == "The counting table itself is published: better than the last value, beyond chance"
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["last value"]
    assert "no other baseline to compare with" in scorefigures.skill(skill[:1]).alt
    one = skill.assign(low=np.nan, high=np.nan)
    assert not scorefigures.itself(one).any(), "at a single origin a tie by chance is no identity"
    assert scorefigures.itself(one.assign(skill=[0.0, 0.02])).tolist() == [True, False]
    title = scorefigures.accuracy(backtest[backtest["model"] != "lstm"], same=["last_value"]).alt
    assert title.startswith("The last value itself is published: ") and "the best of the others, " in title


def test_only_what_the_gate_lets_out_is_called_published():
    """Others may say the same without being it."""
    rows = {"baseline": ["table", "last_value", "croston_sba"], "skill": [0.0, 0.0, 0.02], "low": 0.0, "high": 0.0}
    skill = pd.DataFrame(rows).assign(low=[0.0, 0.0, 0.01], high=[0.0, 0.0, 0.04])
    same = "What is published is the same as the counting table and the last value: better than Croston SBA, beyond chance"
    assert scorefigures.skill(skill).alt == scorefigures.skill(skill, use="blend").alt == same
    own = scorefigures.skill(skill, use="table").alt
    assert own.startswith("The counting table itself is published, which is the same as the last value: better than")
    assert scorefigures.skill(skill[1:], use="blend").alt.startswith("What is published is the same as the last value: ")
    assert scorefigures.skill(skill[:2]).alt.endswith("last value, and there is no other baseline to compare with")
    frame = pd.DataFrame({"model": ["published", "table", "last_value", "croston_sba"], "value": [1.0, 1.0, 1.0, 2.0]})
    bars = scorefigures.accuracy(frame, same=["table", "last_value"]).alt
    assert bars.startswith("What is published is the same as the counting table and the last value: 50.0 % better than")
    assert wording.the(["table"]) == "the counting table" and wording.the([]) == ""
    assert wording.the(["imapa", "table", "tsb"]) == "IMAPA, the counting table and TSB"


@pytest.mark.filterwarnings("error")
def test_errors_of_nothing_have_no_axis_to_read(backtest):
    flat = backtest.assign(**dict.fromkeys([*QUANTILES, "y"], backtest["last_value"]))
    for draw in (scorefigures.accuracy, scorefigures.error_by_horizon, scorefigures.errors_by_origin):
        assert draw(flat).alt == scorefigures.STILL, draw
    error = calibrationfigures.by_event(flat).axes[0]
    assert error.get_xlim() == (0, 1)
    small = scorefigures.accuracy(pd.DataFrame({"model": ["published", "last_value"], "value": [1e-5, 2e-5]}))
    small.png(40)
    ticks = [t.get_text() for t in small.axes[0].get_xticklabels()]
    assert len(ticks) == len(set(ticks)), "labels of a short axis differ from each other"


def test_labels_stay_clear_of_lines_and_edges(backtest):
    fig = calibrationfigures.calibration(backtest)
    fig.png(60)
    whole, changed = fig.axes
    box = next(t for t in whole.texts if t.get_text() == "honest").get_window_extent()
    bars = [whole.transData.transform((level, 0))[0] for level in QUANTILES.values()]
    assert not any(box.x0 < x < box.x1 for x in bars)
    assert not changed.texts and len(changed.lines) == len(whole.lines) - 1, "of what changed nothing is promised: no diagonal"
    fig = calibrationfigures.by_event(backtest)
    fig.png(60)
    error, cover = fig.axes
    assert all(t.get_window_extent().x1 <= error.get_window_extent().x1 for t in error.texts)
    promise = cover.transData.transform((0.9, 0))[0]
    inside = [t.get_window_extent() for t in cover.texts if "promised" not in t.get_text()]
    assert inside and not any(box.x0 < promise < box.x1 for box in inside)


def test_a_probability_is_held_against_how_often_it_came(backtest):
    """A group's point is what was said and what came in it; an honest one lies on the diagonal, few forecasts are hollow."""
    n = 4000
    said = np.random.default_rng(0).choice([0.03, 0.15, 0.62], n, p=[0.6, 0.396, 0.004])
    came = np.random.default_rng(1).random(n) < said
    frame = pd.DataFrame({"model": ["published"] * n, "horizon": 1})
    frame = frame.assign(y=np.where(came, 2.0, 1.0), last_value=1.0, q50=1.0, p_change=said, p_up=said)
    fig = calibrationfigures.reliability(frame)
    diagonal, curve, *points = fig.axes[0].lines
    x, y = curve.get_data()
    assert x == pytest.approx([0.03, 0.15, 0.62]) and y == pytest.approx([came[said == p].mean() for p in (0.03, 0.15, 0.62)])
    hollow = {line.get_markerfacecolor(): len(line.get_xdata()) for line in points}
    assert hollow["white"] == 1 and sum(hollow.values()) == 3
    assert f"Called more likely than not {(said > 0.5).sum()} times, a change came in" in fig.alt
    fig.png(60)
    assert all(t.get_window_extent().y0 > fig.axes[0].get_window_extent().y0 for t in fig.axes[0].texts), "clear of the axis"
    assert "never called more likely than not" in calibrationfigures.reliability(frame.assign(p_change=0.1)).alt


def test_what_counts_as_a_change_is_written_on_the_figures_that_count_it(panel, forecast, backtest):
    drawn = (figures.moves(forecast, "7 days"), calibrationfigures.calibration(backtest), calibrationfigures.by_event(backtest))
    for fig in (*drawn, figures.small_multiples(panel)):
        assert wording.CHANGE in words(fig).replace("\n", " "), fig.alt


def test_a_bar_of_a_change_is_parted_into_lower_and_higher(forecast):
    fig = figures.moves(forecast, "7 days")
    lower, higher = fig.axes[0].containers
    final = forecast[forecast["horizon"] == 7].nlargest(12, "p_change").iloc[::-1]
    np.testing.assert_allclose([bar.get_width() for bar in higher], final["p_up"])
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in higher], final["p_change"])
    assert [bars.get_label() for bars in (lower, higher)] == ["lower", "higher"] and {"lower", "higher"} <= set(
        words(fig).split()
    )
    (whole,) = figures.moves(forecast.drop(columns="p_up"), "7 days").axes[0].containers  # of a run of an earlier version
    np.testing.assert_allclose([bar.get_width() for bar in whole], final["p_change"])


def test_one_of_a_thing_is_not_written_as_many(panel, forecast, backtest):
    one = forecast[forecast["series_id"] == "v0010"].assign(p_change=0.9)
    assert figures.moves(one, "7 days").alt == "1 of 1 price is more likely than not to have changed in 7 days"
    assert figures.fans(panel, one[one["horizon"] == 1]).alt.startswith("The next 1 day.")
    single = panel[panel["series_id"] == "v0010"]
    assert figures.coverage_over_time(single).alt.startswith("The one series is observed on 8")
    pair = panel[panel["series_id"].isin(["v0010", "v0011"])].assign(y=lambda f: f["y"].where(f["series_id"] == "v0010"))
    assert "Of 2 series 1 is observed on a typical day" in figures.coverage_over_time(pair).alt
    sure = backtest[backtest["model"] == "published"].head(1).assign(p_change=0.9, y=5.0, last_value=4.0)
    assert calibrationfigures.reliability(sure).alt == "Called more likely than not once, a change came"
    assert "had lasted 1 day or less" in words(figures.spells([1, 1])) and "even over 1 day:" in figures.attention([1.0]).alt


def test_every_public_figure_is_drawn_here(drawn):
    public = {
        n
        for home in (figures, scorefigures)
        for n, f in vars(home).items()
        if hasattr(f, "__wrapped__") and f.__module__ == home.__name__ and not n.startswith("_")
    }
    assert public <= set(drawn), public - set(drawn)


def test_colours_are_few_and_told_apart_without_colour_vision():
    def luminance(colour):
        return np.dot(matplotlib.colors.to_rgb(colour), [0.2126, 0.7152, 0.0722])

    assert len(set(scorefigures.COLOURS.values())) <= 4
    assert abs(luminance(style.BLUE) - luminance(style.ORANGE)) > 0.04


def test_a_title_that_no_font_draws_gives_way_to_the_id():
    unknown = "\U00012000\U00012001\U00012002"  # cuneiform
    assert style.called(unknown, "item-7") == "item-7"
    assert style.called("Crème brûlée \U00012000", "item-7") == "Crème brûlée □"
    assert style.called("Сыр", "item-7") == "Сыр"


def test_names_that_a_cut_makes_alike_are_told_apart():
    titles = [f"Amber Division - Songs of Midnight, volume {k} (sealed)" for k in range(3)]
    shown = style.names(titles, ["a1", "a2", "a3"], 30)
    assert len(set(shown)) == 3 and max(map(len, shown)) <= 30 and all("…" in name for name in shown)
    assert style.names([*titles, "Short"], "abcd", 60) == [*titles, "Short"]
    inner = [f"Amber Division - Songs of Midnight, volume {k} (sealed, reissue of 1998)" for k in range(2)]
    assert style.names(inner, ["item-000017", "item-000018"], 34) == [
        "Amber Division - Songs… (…000017)",
        "Amber Division - Songs… (…000018)",
    ]
    assert style.called("supplier-0001-shelf-7-article-000123456", "supplier-0001-shelf-7-article-000123456", 21) == (
        "supplier-0…-000123456"
    )
    ids = pd.Series(["supplier-0001-shelf-7-article-1", "supplier-0001-shelf-7-article-2"])
    assert wording.labels(ids, pd.Series(["Tea", "Tea"])).tolist() == [
        "Tea (supplier-00…-article-1)",
        "Tea (supplier-00…-article-2)",
    ]
    history = pd.concat(
        sticky_prices(3).assign(series_id=lambda f, k=k: f["series_id"] + str(k), title=t) for k, t in enumerate(titles)
    )
    drawn = figures.small_multiples(history, pd.unique(history["series_id"]))
    assert len({ax.get_title("left") for ax in drawn.axes}) == 6


@pytest.mark.parametrize("most", [4, 6])
def test_dates_find_their_ticks_over_any_span(most):
    fig, axes = style.canvas("spans", size=(4, 2))
    style.date_axis(axes[0, 0], most=most)
    first, locate = pd.Timestamp("2021-01-01"), axes[0, 0].xaxis.get_major_locator()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for days in range(1, 2000, 13):
            assert 1 <= len(locate.tick_values(first, first + pd.Timedelta(days=days))) <= most + 3


def test_an_axis_of_units_has_whole_numbers_only():
    days = pd.date_range("2025-01-01", periods=12, freq="MS")
    past = pd.DataFrame({"series_id": "a", "ts": days, "y": np.tile([0.0, 1.0, 1.0], 4), "title": "Songs"})
    ahead = pd.DataFrame({"series_id": "a", "ts": pd.date_range("2026-01-01", periods=3, freq="MS"), "horizon": [1, 2, 3]})
    ahead = ahead.assign(**dict(zip(QUANTILES, (0, 0, 0, 1, 2), strict=True)), p_sale=0.3, mean=0.4)
    for fig in (
        figures.fans(past, ahead, freq="MS"),
        figures.small_multiples(past, trade=trades.SALES, freq="MS"),
    ):
        ticks = fig.axes[0].get_yticks()
        assert len(ticks) > 1 and (ticks == np.rint(ticks)).all(), fig.alt
    assert fig.alt == "This item sold in 67 % of its months"


def test_few_dates_are_their_own_ticks():
    fig, axes = style.canvas("few", size=(4, 2))
    for days, own in (("17 24 31", True), ("17", True), ("1 2 31", False)):  # the names of the first two would touch
        ts = pd.to_datetime([f"2017-12-{day}" for day in days.split()])
        axes[0, 0].plot(ts, range(len(ts)))
        style.date_axis(axes[0, 0], ts)
        ticks = matplotlib.dates.num2date(axes[0, 0].get_xticks())
        assert ([tick.day for tick in ticks] == [day.day for day in ts]) == own, days


@pytest.mark.parametrize(("scale", "said"), [(1, "2.50"), (1_000, "2,500"), (1_000_000, "2,500,000")])
def test_numbers_of_an_axis_have_commas_and_no_power_of_ten(panel, scale, said):
    fig = figures.small_multiples(panel.assign(y=panel["y"] * 0 + 2.5 * scale), ["v0010"])
    fig.axes[0].set_ylim(2 * scale, 3 * scale)
    fig.png(40)
    axis = fig.axes[0].yaxis
    assert said in [t.get_text() for t in axis.get_ticklabels()] and not axis.get_offset_text().get_text()


def test_no_line_of_a_title_ends_between_a_number_and_its_percent_sign():
    for words in range(20):
        fig, _ = style.canvas(
            "word " * words + "98 % inside the 90 % band of all that was promised to those who read titles so far"
        )
        assert not any(line.startswith("%") for line in fig.get_suptitle().split("\n"))
