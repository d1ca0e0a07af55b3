"""Figures of sales: titles that the data bear out, honest forecasts called honest, and hostile or empty input survived."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecastbook import calibrationfigures, salesfigures
from forecastbook import reorder as book
from forecastbook.points import errors

LEVELS = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q80": 0.8, "q90": 0.9, "q95": 0.95, "q99": 0.99}
HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "$x_1$ and $\\frac{1}{2}$ for $5",
    "long " * 2000,
    "Tea 🍵 Zażółć чай",
    "=cmd|' /C calc'!A0",
]


def quantiles(mean, size: float) -> dict[str, np.ndarray]:
    """Quantile columns of a negative binomial of a mean and size; with the mean and the chance of a sale."""
    p = size / (size + mean)
    columns = {c: stats.nbinom.ppf(level, size, p) for c, level in LEVELS.items()}
    return columns | {"mean": mean, "p_sale": 1 - p**size}


def rates(n: int, seed: int = 0) -> np.ndarray:
    """What the items of a shop sell in a period: most little, few much."""
    return np.exp(np.random.default_rng(seed).normal(-0.3, 1.4, n))


def tried(n: int = 250, origins: int = 6, horizon: int = 4, size: float = 1.5, seed: int = 0) -> pd.DataFrame:
    """A backtest of sales that are negative binomial: `published` knows it, `imapa` guesses its mean, `zeros` says none."""
    rng, rate = np.random.default_rng(seed), rates(n, seed)
    frames = []
    for k in range(origins):
        for h in range(1, horizon + 1):
            y = rng.negative_binomial(size, size / (size + rate)).astype(float)
            y[rng.random(n) < 0.05] = np.nan
            none = {c: np.zeros(n) for c in [*LEVELS, "mean", "p_sale"]}
            guess = quantiles(rate * np.exp(rng.normal(0.1, 0.7, n)), size)
            for model, said in {"published": quantiles(rate, size), "imapa": guess, "zeros": none}.items():
                at = pd.Timestamp("2026-01-05") - pd.Timedelta(weeks=horizon * (origins - k))
                keys = {"model": model, "series_id": [f"i{i}" for i in range(n)], "origin": at}
                keys |= {"ts": at + pd.Timedelta(weeks=h), "horizon": h, "y": y, "last_value": np.rint(rate)}
                frames.append(pd.DataFrame(keys | said | {"demand_class": "lumpy"}))
    return pd.concat(frames, ignore_index=True)


def shop(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """The series frame of a shop with all that it may know."""
    rng, rate = np.random.default_rng(seed), rates(n, seed)
    interval, cv2 = 1 / (1 - np.exp(-rate)) * rng.uniform(1, 1.3, n), rng.gamma(2, 0.3, n)
    silent = rng.random(n) < 0.04
    interval[silent], cv2[silent] = np.nan, np.nan
    rare, wild = interval >= 1.32, cv2 >= 0.49
    kind = np.where(rare, np.where(wild, "lumpy", "intermittent"), np.where(wild, "erratic", "smooth"))
    titles = [*HOSTILE, *(f"{rng.choice(['Oat milk', 'Blue Train, LP', 'Ground coffee'])} {i}" for i in range(n))][:n]
    columns = {"series_id": [f"i{i}" for i in range(n)], "title": titles, "mean_units": rate, "interval": interval, "cv2": cv2}
    columns |= {"demand_class": np.where(silent, "silent", kind), "stock": rng.poisson(3.5 * rate), "last_value": np.rint(rate)}
    return pd.DataFrame(columns | {"price": rng.lognormal(2, 0.6, n).round(2), "lost_units": rng.poisson(0.4, n), "n_obs": 52})


def ahead(n: int = 300, horizon: int = 4, seed: int = 0) -> pd.DataFrame:
    """The forecast frame of that shop."""
    rate = np.repeat(rates(n, seed), horizon)
    keys = {"series_id": np.repeat([f"i{i}" for i in range(n)], horizon), "horizon": np.tile(np.arange(1, horizon + 1), n)}
    return pd.DataFrame(keys | quantiles(rate, 1.5) | {"last_value": 1.0, "source": "model"})


def every_figure(backtest, series, plan) -> dict:
    """Each public figure once, on the given frames."""
    return {
        "demand_map": salesfigures.demand_map(series),
        "reorder": salesfigures.reorder(plan, units="weeks"),
        "service": salesfigures.service(backtest),
        "pit": salesfigures.pit(backtest),
    }


@pytest.fixture(scope="module")
def backtest():
    return tried()


@pytest.fixture(scope="module")
def plan():
    return book.plan(ahead(), shop())


def words(fig) -> str:
    return " ".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def told(fig) -> str:
    return " ".join(fig._suptitle.get_text().split())


@pytest.mark.filterwarnings("error")
def test_every_figure_draws_without_a_warning_and_brings_alt_text(backtest, plan):
    drawn = every_figure(backtest, shop(), plan)
    own = {n for n, f in vars(salesfigures).items() if hasattr(f, "__wrapped__") and f.__module__ == salesfigures.__name__}
    assert own == set(drawn)
    for label, fig in drawn.items():
        assert fig.png(60).startswith(b"\x89PNG") and 10 < len(fig.alt) < 500 and told(fig), label
        assert not any(t.get_parse_math() for t in fig.findobj(matplotlib.text.Text)), label
        assert max(len(line) for t in fig.findobj(matplotlib.text.Text) for line in t.get_text().split("\n")) < 100, label


@pytest.mark.filterwarnings("error")
def test_nothing_to_draw_is_said_and_not_raised(backtest, plan):
    bare = pd.DataFrame()
    for frames in [(backtest.iloc[:0], shop().iloc[:0], plan.iloc[:0]), (bare, bare, bare)]:
        for label, fig in every_figure(*frames).items():
            assert fig.png(50) and fig.alt in words(fig) and len(fig.alt) > 10, label
    unseen = backtest.assign(y=np.nan)
    for draw in (salesfigures.service, salesfigures.pit, calibrationfigures.by_event):
        assert draw(unseen).png(50)


@pytest.mark.filterwarnings("error")
def test_a_single_point_silence_and_frames_with_few_columns_draw(backtest, plan):
    one = backtest[(backtest["series_id"] == "i0") & (backtest["horizon"] == 1)].head(3).assign(y=2.0)
    silent = backtest.head(600).assign(y=0.0)
    few = backtest[["model", "series_id", "origin", "horizon", "y", "q05", "q50", "q95", "p_sale", "last_value"]]
    categories = backtest.astype({"model": "category", "series_id": "category"})
    for frame in (one, silent, few, categories, few[few["model"] == "published"]):
        for draw in (salesfigures.service, salesfigures.pit, calibrationfigures.by_event):
            assert draw(frame).png(50)
    assert "No forecast met periods with sales" in told(calibrationfigures.by_event(backtest.assign(y=backtest["y"] * 0)))
    none = shop(3).assign(interval=np.nan, cv2=np.nan, demand_class="silent")
    one = shop(1).assign(interval=1.0, cv2=0.0, demand_class="smooth")
    assert told(salesfigures.demand_map(one)) == "The one item sells steadily"
    assert told(salesfigures.demand_map(one.assign(demand_class="silent"))) == "The one item has not sold yet"
    assert told(salesfigures.demand_map(none)) == "100 % of 3 items have not sold yet" and salesfigures.demand_map(none).png(50)
    assert salesfigures.demand_map(one).png(50)
    assert salesfigures.reorder(plan.head(1)).png(50)


def test_the_map_says_which_kind_is_most_common():
    series = shop(10).assign(interval=2.0, cv2=0.1, demand_class=["intermittent"] * 6 + ["smooth"] * 3 + ["silent"])
    fig = salesfigures.demand_map(series)
    assert min(fig.axes[0].get_yticks()) == 0, "no variation is below nothing"
    assert told(fig) == "60 % of 10 items sell now and then, in even amounts; 10 % have not sold yet"
    assert "weeks from one sale to the next" in words(salesfigures.demand_map(series, units="weeks"))
    assert {"smooth\n30 %", "intermittent\n60 %", "erratic\n0 %", "lumpy\n0 %"} <= {t.get_text() for t in fig.axes[0].texts}


def test_orders_are_drawn_as_the_plan_has_them(plan):
    fig = salesfigures.reorder(plan, top=5, units="weeks")
    first, all_ = book.reorder(plan, 5), book.reorder(plan, None)
    assert [t.get_text() for t in fig.axes[0].texts] == [f"order {n:,.0f}" for n in first["order"]]
    needs, stocks = ([bar.get_width() for bar in group] for group in fig.axes[0].containers)
    assert needs == first["need"].tolist() and stocks == first["stock"].tolist()
    units = all_["order"].sum()
    assert told(fig) == f"{len(all_)} of {len(plan)} items are short of 90 % service over 4 weeks: order {units:,.0f} units"
    full = salesfigures.reorder(plan.assign(stock=1e6, order=0.0))
    assert "Nothing to reorder" in words(full) and full.png(50)


def test_without_a_stock_the_expected_sales_stand_in_its_place():
    blind = book.plan(ahead(20), shop(20).drop(columns=["stock", "price", "lost_units"]), 0.95)
    fig = salesfigures.reorder(blind, top=4)
    need, expected = ([bar.get_width() for bar in group] for group in fig.axes[0].containers)
    assert need == blind["need"].head(4).tolist() and expected == pytest.approx(blind["expected"].head(4).tolist())
    sums = book.reorder(blind, None)[["need", "expected"]].sum()
    said = f"need {sums['need']:,.0f} units for 95 % service over 4 periods; {sums['expected']:,.0f} are expected to sell"
    assert told(fig).endswith(said) and {t.get_text().split()[0] for t in fig.axes[0].texts} == {"needs"}
    half = book.plan(ahead(20), shop(20).assign(stock=[0.0] * 3 + [np.nan] * 17))
    mixed = salesfigures.reorder(half)
    assert "stock unknown" in words(mixed) and told(mixed).startswith("3 of 3 items")
    assert told(mixed).endswith("; the stock of 17 more is not known")


def test_hostile_titles_are_shown_as_they_are_and_cut():
    series = shop(6).assign(stock=0)
    labels = [t.get_text() for t in salesfigures.reorder(book.plan(ahead(6), series)).axes[0].get_yticklabels()]
    assert len(labels) == 6 and max(map(len, labels)) <= 34
    assert any(t.startswith("$x_1$") for t in labels) and any(t.startswith("<script>") for t in labels)


def test_service_is_the_share_covered_and_the_true_law_holds_less_stock_than_a_guess(backtest):
    mine = backtest[(backtest["model"] == "published") & backtest["y"].notna()]
    served = (mine["y"] <= mine["q90"]).mean()
    title = told(salesfigures.service(backtest))
    assert title.startswith(f"Stock for 90 % service covered {100 * served:.0f} % of periods, with ")
    assert title.endswith("less left over than by IMAPA")
    swapped = backtest.assign(model=backtest["model"].replace({"published": "imapa", "imapa": "published"}))
    assert told(salesfigures.service(swapped)).endswith("more left over than by IMAPA")
    alone = salesfigures.service(backtest[backtest["model"] == "published"])
    assert told(alone).endswith("of periods") and "IMAPA" not in words(alone)
    better = backtest[backtest["model"] == "published"].assign(model="tsb")
    assert told(salesfigures.service(pd.concat([backtest, better]))) == title, "against the safe baseline"
    few = backtest[backtest["origin"] > backtest["origin"].sort_values().unique()[1]]
    assert told(salesfigures.service(few)).endswith("of periods"), "of four origins nobody can tell what is saved"


def test_an_honest_forecast_keeps_its_promise_in_periods_with_sales_too(backtest):
    found = book.stock_cost(backtest[(backtest["model"] == "published") & backtest["y"].notna()])
    assert (found["served"] >= found["level"] - 0.01).all()
    assert (found["served_sales"] >= found["honest"] - 0.015).all() and (found["honest"] < found["level"]).all()


def test_the_transform_of_an_honest_forecast_is_uniform_and_of_others_is_not():
    honest = tried(1500, 3, size=2.0, seed=4).query("model == 'published'")
    u = salesfigures.pit_values(honest)
    assert ((u >= 0) & (u <= 1)).all() and len(u) == honest["y"].notna().sum()
    assert np.abs(np.histogram(u, 10, (0, 1))[0] / len(u) - 0.1).max() < 0.02
    large = honest.assign(**quantiles(np.full(len(honest), 300.0), 4.0))
    large["y"] = np.random.default_rng(0).negative_binomial(4, 4 / 304, len(large)).astype(float)
    assert told(salesfigures.pit(large)).startswith(
        ("The forecasts are honest", "The forecasts are all but honest", "No sign that the forecasts run high")
    )
    columns = [*LEVELS]
    center = large[columns].sub(large["q50"], axis=0)
    for change, said in {
        "too narrow": large.assign(**center.mul(0.4).add(large["q50"], axis=0)),
        "too wide": large.assign(**center.mul(1.9).add(large["q50"], axis=0).clip(lower=0)),
        "run low": large.assign(**(large[columns] * 0.6)),
        "run high": large.assign(**(large[columns] * 1.6)),
    }.items():
        assert change in told(salesfigures.pit(said)), change
    assert salesfigures.pit(honest).png(60) == salesfigures.pit(honest).png(60), "the same seed, the same picture"


def test_the_title_of_the_transform_claims_no_more_than_its_bars():
    even = np.linspace(0.0005, 0.9995, 1000)
    assert salesfigures._verdict(even, 1000) == "The forecasts are honest: sales fell evenly over all that was foretold"
    raised = np.concatenate([even, np.full(40, 0.99)])
    assert salesfigures._verdict(raised, 1000) == (
        "No sign that the forecasts run high or low, too narrow or too wide, "
        "but 13 % of sales fell in the highest tenth of what was foretold"
    )
    nearly = np.linspace(0, 1, 20_000) ** 1.01  # off by less than a point, and yet far beyond chance
    assert "all but honest: each tenth" in salesfigures._verdict(nearly, 10**8)
    assert salesfigures._verdict(even[:3], 3) == "Too few forecasts to tell whether they are honest: 3 independent ones"
    assert "too narrow" in salesfigures._verdict(np.repeat([0.02, 0.5, 0.98], 300), 900)
    fig = salesfigures.pit(tried(3, 1, 1))
    assert told(fig).startswith("Too few forecasts") and "the grey band" in words(fig)


def test_the_chance_of_no_sale_is_where_the_transform_of_zero_ends():
    frame = tried(4, 1, 1).query("model == 'published'").assign(p_sale=0.25, y=0.0)
    many = pd.concat([frame] * 500)
    u = salesfigures.pit_values(many)
    assert u.max() <= 0.75 and u.mean() == pytest.approx(0.375, abs=0.02)
    far = salesfigures.pit_values(many.assign(y=1e6))
    assert (far == 1).all()
    metres = pd.DataFrame({"y": [2.5, 5.0, 0.5], "q05": 1.0, "q50": 5.0, "q95": 9.0})
    assert salesfigures.pit_values(metres) == pytest.approx([0.05 + 0.45 * 1.5 / 4, 0.5, 0.025]), "amounts that are not whole"


def test_zero_and_nonzero_state_what_was_held(backtest):
    scored = errors(backtest)
    mine = scored[scored["model"] == "published"]
    held = mine.loc[mine["sold"], "inside90"].mean()
    share = f"{100 * mine['sold'].mean():.1f} % of forecasts met periods with sales"
    errors_of = [scored.loc[scored["sold"] & (scored["model"] == m), "error"].mean() for m in ("published", "imapa")]
    off = errors_of[0] / errors_of[1] - 1
    title = f"{share}; the 90 % band held {100 * held:.0f} % of those"
    title += f"; the error there is {100 * abs(off):.1f} % {'above' if off > 0 else 'below'} IMAPA's"
    assert told(calibrationfigures.by_event(backtest)) == told(calibrationfigures.by_event(scored)) == title
    bars = [bar.get_width() for group in calibrationfigures.by_event(scored).axes[0].containers for bar in group]
    expected = [
        scored[(scored["model"] == m) & (scored["sold"] == s)]["error"].mean()
        for s in (False, True)
        for m in ("published", "imapa")
    ]
    assert bars == pytest.approx(expected)


def test_one_item_is_not_written_as_many(plan):
    one = plan[plan["stock"].notna() & (plan["order"] > 0)].head(1).assign(need=3.0, stock=2.0, order=1.0)
    assert told(salesfigures.reorder(one)).startswith("1 of 1 item is short of ")
    assert ": order 1 unit" in told(salesfigures.reorder(one)) and "order 1 units" not in told(salesfigures.reorder(one))
    unknown = told(salesfigures.reorder(one.assign(stock=np.nan, expected=1.0, need=1.0)))
    assert unknown.startswith("1 item needs 1 unit for ") and unknown.endswith("; 1 is expected to sell")


def test_the_names_beside_bars_of_errors_end_before_the_axis(backtest):
    fig = calibrationfigures.by_event(backtest)
    fig.png(60)
    error = fig.axes[0]
    assert all(t.get_window_extent().x1 <= error.get_window_extent().x1 for t in error.texts)


def test_the_probability_of_a_sale_is_held_against_how_often_one_came(backtest):
    fig = calibrationfigures.reliability(backtest)
    assert told(fig).startswith("Called more likely than not") and "probability said of a sale" in fig.axes[0].get_xlabel()
