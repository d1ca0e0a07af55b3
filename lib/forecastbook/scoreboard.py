"""Tables that judge forecasts: from ``backtest.parquet`` to scores, rankings and sentences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from forecastbook import backtest as rolling  # here a backtest is a table of its rows
from forecastbook import counts, points, scores
from forecastbook.backtest import level_name
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.trades import PRICES, SALES, Trade
from forecastbook.wording import change, counted, percent, share1

FORMATS = {  # how the columns of these tables are shown
    "quantile score": ".4f",
    "absolute error": ".4f",
    "WQL": ".4f",
    "skill": change,
    "expected gain": change,
    "doubt": share1,
    "bias of the mean": change,
    "inside 90 % band": share1,
    "inside, after a change": share1,
    "side of a change right": share1,
    "inside, where sold": share1,
    "change precision / base rate": ".2f",
    "Brier score of a sale": ".4f",
    "MIWS": ".2f",
    "MIC": share1,
    "RMSSE": ".3f",
    "error": share1,
    "share of all error": share1,
    "change_rate": share1,
    "sale_rate": share1,
    "last_value": ",.2f",
}
DRAWS, WITHIN = 1000, 0.9  # of a bootstrap, and the share of them that its interval holds
# by event: where it came, where not
SLICES = ({"changed": "changed", "sold": "nonzero"}, {"changed": "unchanged", "sold": "zero"})


def score_table(backtest: pd.DataFrame | Iterable[pd.DataFrame], params: Params, panel: Panel | None = None) -> pd.DataFrame:
    """``scores.parquet``: model, metric, slice, value, n: over all points, those with and without the event, each horizon, and
    each class of demand.

    rel_mae, rel_ql and rel_bias (of the median) are divided by the last price before averaging, for sales by the mean of
    all; mae is in units of the data, mape divided by the actual price; coverage50 and coverage90 are shares of actuals
    inside the central bands; winkler90 is relative too; brier and ap_ratio judge the probability of the event (ap_ratio:
    average precision / base rate, which is change_rate or sale_rate; brier_skill: against always saying that rate); side is
    the share of the changed prices that went where the likelier side was (a half where neither was); wql is not relative.
    Of sales also: bias (of the mean forecast, as a share of what was sold), miws and mic by zero and non-zero actuals and
    combined, pinball and service (share of points not above the quantile) at each service level, and rmsse (root mean
    squared error of the mean, scaled by the naive one's on ``panel`` before the first origin: Makridakis, Spiliotis &
    Assimakopoulos 2022). Points without an observation are left out. skill is 1 - rel_ql / that of the safe baseline, over
    the origins from which both forecast. A large backtest may come in parts, all rows of a model in the same one.
    """
    parts, found, losses = [backtest] if isinstance(backtest, pd.DataFrame) else backtest, [], {}
    for part in parts:
        for name in part["model"].unique():
            rows = ((part["model"] == name) & part["y"].notna()).to_numpy()
            scored, losses[name] = _scores(part, rows, params, panel)
            found += [(name, *row) for row in scored]
    safe = losses.get(params.trade.safe, pd.DataFrame(columns=["sum", "count"]))
    for name, loss in losses.items():
        shared = loss.index.intersection(safe.index)
        mine, base = loss.loc[shared].sum(), safe.loc[shared, "sum"].sum()
        if len(shared):
            found.append((name, "skill", "all", 1 - mine["sum"] / base if base > 0 else np.nan, int(mine["count"])))
    table = pd.DataFrame(found, columns=["model", "metric", "slice", "value", "n"]).astype({"value": float, "n": "int64"})
    order = {label: k for k, label in enumerate(["all", "changed", "unchanged", "nonzero", "zero"])}
    rank = [order[s] if s in order else len(order) + (int(s[2:]) if s.startswith("h=") else 10_000) for s in table["slice"]]
    return table.iloc[np.argsort(rank, kind="stable")].reset_index(drop=True)


def _scores(
    frame: pd.DataFrame, rows: np.ndarray, params: Params, panel: Panel | None
) -> tuple[list[tuple[str, str, float, int]], pd.DataFrame]:
    """Of some rows (bool) of a backtest, those of one model that have an actual: (metric, slice, value, n); and by origin the
    sum and count of a loss that compares with another model's: rel_ql, but of sales, whose size is of the model's own rows, the
    loss in units."""

    def column(name: str) -> np.ndarray:
        return frame[name].to_numpy(float)[rows]

    trade = params.trade
    y, last, p = (column(name) for name in ("y", "last_value", trade.probability))
    size = trade.sizes(y, last)
    at = {level: column(level_name(level)) for level in params.levels}
    pinball = sum(scores.pinball(y, at[level][:, None], [level])[:, 0] for level in params.quantiles) / len(params.quantiles)
    event = trade.happened(y[:, None], last)[:, 0]
    per_point = pd.DataFrame(
        {
            "rel_mae": np.abs(y - at[0.5]) / size,
            "rel_ql": pinball / size,
            "rel_bias": (at[0.5] - y) / size,
            "coverage90": scores.covered(y, at[0.05], at[0.95]),
            "winkler90": scores.winkler(y, at[0.05], at[0.95]) / size,
            "brier": (event - p) ** 2,
            "mae": np.abs(y - at[0.5]),
        }
    )
    if trade is PRICES:
        per_point["mape"] = np.abs(y - at[0.5]) / np.where(y > 0, y, np.nan)
    if 0.25 in at and 0.75 in at:
        per_point["coverage50"] = scores.covered(y, at[0.25], at[0.75])
    if trade is SALES:
        per_point["mean_error"] = column("mean") - y
        for level in [q for q in params.levels if q > 0.75]:
            per_point[f"pinball{level_name(level)[1:]}"] = scores.pinball(y, at[level][:, None], [level])[:, 0]
            per_point[f"service{level_name(level)[1:]}"] = (y <= at[level]).astype(float)
    horizon = frame["horizon"].to_numpy()[rows]
    came, not_came = (names[trade.event] for names in SLICES)
    slices = {"all": np.ones(len(y), bool), came: event == 1, not_came: event == 0}
    slices |= {f"h={h}": horizon == h for h in np.unique(horizon)}
    if "demand_class" in frame:
        kinds = frame["demand_class"].to_numpy()[rows]
        slices |= {f"class={kind}": kinds == kind for kind in pd.unique(kinds)}
    found = []
    for label, mask in slices.items():
        if not mask.any():
            continue
        means, total = per_point[mask].mean(), np.abs(y[mask]).sum()
        values = {**means, "wql": 2 * pinball[mask].sum() / total if total > 0 else np.nan}
        if trade is PRICES and label == came:
            values["side"] = np.mean((1 + np.sign(y - last) * np.sign(2 * column("p_up") - p))[mask] / 2)
        if trade is SALES:
            error = values.pop("mean_error")
            values["bias"] = error * mask.sum() / total if total > 0 else np.nan
        if label == "all" or label.startswith("h="):
            rate = event[mask].mean()
            precision = scores.average_precision(event[mask], p[mask])
            values |= {
                f"{trade.rate}": rate,
                "ap_ratio": precision / rate if rate > 0 else np.nan,
                "brier_skill": 1 - means["brier"] / (rate * (1 - rate)) if 0 < rate < 1 else np.nan,
            }
            if trade is SALES:
                for name, made in (("miws", scores.miws), ("mic", scores.mic)):
                    values |= {f"{name}_{k}": v for k, v in made(y[mask], at[0.05][mask], at[0.95][mask]).items()}
        if label == "all" and trade is SALES and panel is not None:
            values["rmsse"] = _rmsse(frame[rows], panel)
        found += [(metric, label, float(value), int(mask.sum())) for metric, value in values.items()]
    loss = pd.Series(pinball if trade is SALES else pinball / size)
    return found, loss.groupby(frame["origin"].to_numpy()[rows]).agg(["sum", "count"])


def _rmsse(rows: pd.DataFrame, panel: Panel) -> float:
    """Mean over series of the root of the mean squared error of the mean forecast over that of the naive before the first
    origin.

    Series that never changed before it have no such scale and are left out; NaN when none is left.
    """
    if not len(rows):
        return float("nan")
    before = panel.until(rows["origin"].min())
    steps = np.diff(counts.sold(before), axis=1) ** 2  # (N, T - 1), of demand, as the actuals are
    known = np.isfinite(steps)
    scale = np.where(known, steps, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    squared = ((rows["mean"] - rows["y"]) ** 2).groupby(rows["series_id"].astype(str)).mean()
    scale = pd.Series(scale, index=panel.ids).reindex(squared.index)
    return float(np.sqrt(squared[scale > 0] / scale[scale > 0]).mean())


def read(run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The record of a run: the rows of its ``backtest.parquet`` that ``points.read`` keeps, and the scores of all rows."""
    run.verify("backtest.parquet")
    return points.read(run.dir / "backtest.parquet")


def summary(table: pd.DataFrame, trade: Trade = PRICES) -> pd.DataFrame:
    """The score table's overall rows, one a model, best first by skill against the safe baseline: errors, skill, coverage.

    A model that did not speak at every origin has errors of fewer points than the others: then ``points`` says how many.
    """
    wide = table[table["slice"] == "all"].pivot(index="model", columns="metric", values="value")
    came = SLICES[0][trade.event]
    on_event = table[table["slice"] == came].pivot(index="model", columns="metric", values="value")
    wide[["covered", "side"]] = on_event.reindex(columns=["coverage90", "side"])  # none where the event never came
    names = {
        PRICES.name: {
            "rel_ql": "quantile score",
            "skill": "skill",
            "rel_mae": "absolute error",
            "coverage90": "inside 90 % band",
            "covered": "inside, after a change",
            "side": "side of a change right",
            "ap_ratio": "change precision / base rate",
        },
        SALES.name: {
            "wql": "WQL",
            "skill": "skill",
            "bias": "bias of the mean",
            "coverage90": "inside 90 % band",
            "covered": "inside, where sold",
            "brier": "Brier score of a sale",
            "miws_combined": "MIWS",
            "mic_combined": "MIC",
            "rmsse": "RMSSE",
        },
    }[trade.name]
    wide["points"] = table[(table["slice"] == "all") & (table["metric"] == "rel_ql")].set_index("model")["n"]
    wide = wide.reindex(columns=[*dict.fromkeys(["rel_ql", *names, "points"])])  # no record: the columns of one, without a row
    wide = wide.sort_values("rel_ql").sort_values("skill", ascending=False, kind="stable")
    shown = [*names] + ["points"] * (wide["points"].nunique() > 1)
    return wide[shown].rename(columns=names).reset_index()


def by_model(scored: pd.DataFrame) -> pd.DataFrame:
    """One row a model of what ``points.errors`` made: error, also where the event came, quantile score and coverage."""
    scored = scored.assign(on_event=scored["error"].where(points.event(scored)))
    columns = [c for c in ("error", "on_event", "loss", "inside90", "inside50") if c in scored]
    return scored.groupby("model", observed=True)[columns].mean().sort_values("error").reset_index().astype({"model": str})


def skills(backtest: pd.DataFrame, model: str = "published", seed: int = 0) -> pd.DataFrame:
    """Skill of a model against every baseline, with a 90 % interval by block bootstrap over origins.

    backtest: the columns of backtest.parquet, or what ``points.errors`` made. skill = 1 − rel_ql(model) / rel_ql(baseline)
    over the points that both forecast. Origins are drawn in circular blocks of about the cube root of their number, as
    neighbours in time are alike (Künsch 1989; Politis and Romano 1992). Returns baseline, skill, low, high, n_origins; low and
    high are NaN with fewer than ``points.ENOUGH`` origins: of four that all gained no draw could show a loss.
    """
    scored = points.errors(backtest)
    rng, columns = np.random.default_rng(seed), ["baseline", "skill", "low", "high", "n_origins"]
    origin, origins = pd.factorize(scored["origin"], sort=True)
    point = (pd.factorize(scored["series_id"])[0] * len(origins) + origin) * 10_000 + scored["horizon"].to_numpy()
    loss, rows = scored["loss"].to_numpy(), []
    mine = np.flatnonzero(scored["model"] == model)
    for name in sorted(set(scored["model"].unique()) - set(points.OURS)):
        ours, theirs = mine, np.flatnonzero(scored["model"] == name)
        if not np.array_equal(point[ours], point[theirs]):  # as a rule both forecast the same points, in the same order
            _, i, j = np.intersect1d(point[ours], point[theirs], return_indices=True)
            ours, theirs = ours[i], theirs[j]
        at = origin[ours]
        sums = np.stack([np.bincount(at, loss[ours], len(origins)), np.bincount(at, loss[theirs], len(origins))], axis=1)
        sums = sums[np.bincount(at, minlength=len(origins)) > 0]  # (origins, 2)
        if not len(sums) or not sums[:, 1].sum() > 0:
            continue
        n = len(sums)
        block = max(1, round(n ** (1 / 3)))
        starts = rng.integers(0, n, (DRAWS, -(-n // block)))
        index = ((starts[:, :, None] + np.arange(block)) % n).reshape(DRAWS, -1)[:, :n]  # (draws, origins)
        totals = sums[index].sum(axis=1)  # (draws, 2)
        ratio = 1 - totals[totals[:, 1] > 0, 0] / totals[totals[:, 1] > 0, 1]
        known = n >= points.ENOUGH and len(ratio)
        low, high = np.quantile(ratio, [(1 - WITHIN) / 2, (1 + WITHIN) / 2]) if known else (np.nan, np.nan)
        rows.append((str(name), 1 - sums[:, 0].sum() / sums[:, 1].sum(), low, high, n))
    return pd.DataFrame(rows, columns=columns).sort_values("skill", ignore_index=True)


def ranked(scored: pd.DataFrame, ids) -> tuple[pd.Series, bool]:
    """The published error (``by_series``) of the series ``ids``, the least first, and whether it is of those alone of which
    something was to be forecast: whose price moved, or which sold in as many periods as half of them. Of the rest a unit
    decides. Where those are fewer than four all series are ranked.
    """
    mine = scored[(scored["model"] == "published") & scored["series_id"].isin(set(ids))]
    event = points.event(mine).groupby(mine["series_id"].astype(object)).sum()
    error = by_series(mine).dropna().sort_values(kind="stable")
    lively = event[event >= max(1, event.median() if "share" in mine else 1)].index
    moved = error[error.index.isin(lively)]
    return (moved, True) if len(moved) >= 4 else (error, False)


def best_median_worst(backtest: pd.DataFrame, forecast: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Up to three forecast series by their published error over rolling origins (``ranked``): (ids, labels). No record: the
    first ones."""
    error, _ = ranked(points.errors(backtest), forecast["series_id"].unique())
    if not len(error):
        ids = sorted(forecast["series_id"].unique())[:3]
        return ids, ["not ranked"] * len(ids)
    places = dict.fromkeys([0, len(error) // 2, len(error) - 1])
    names = ["best", "worst"] if len(places) == 2 else ["best", "median", "worst"][: len(places)]
    return [error.index[i] for i in places], [f"{n}: error {share1(error.iloc[i])}" for n, i in zip(names, places, strict=True)]


def by_series(backtest: pd.DataFrame) -> pd.Series:
    """What was published, by series: the mean relative absolute error of a price; of sales the series' own WQL, NaN unsold."""
    scored = points.errors(backtest[backtest["model"] == "published"])
    by = scored.groupby("series_id", observed=True)
    error = by["loss"].sum() / by["share"].sum().replace(0, np.nan) if "share" in scored else by["error"].mean()
    error.index = error.index.astype(object)
    return error.rename("error")


def worst(backtest: pd.DataFrame, series: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The series that the published quantile score comes from most: series_id, title, its share of all error, its own error
    (``by_series``), last_value, and how often it changes or sells.

    By the share, as the largest errors of their own are of items that sold once.
    """
    rate = next(c for c in ("change_rate", "sale_rate") if c in series)
    scored = points.errors(backtest[backtest["model"] == "published"])
    loss = scored.groupby("series_id", observed=True)["loss"].sum()
    loss.index = loss.index.astype(object)
    share = loss / loss.sum() if loss.sum() > 0 else loss
    found = pd.DataFrame({"share of all error": share, "error": by_series(scored)}).rename_axis("series_id")
    found = found.sort_values("share of all error", ascending=False, kind="stable").head(count).reset_index()
    return found.merge(series[["series_id", "title", "last_value", rate]], on="series_id", how="left")[
        ["series_id", "title", "share of all error", "error", "last_value", rate]
    ]


def worst_words(n_obs) -> str:
    """What the table of the ``worst`` is; n_obs as in ``drawn``."""
    among = drawn(n_obs)
    return "The items with the largest share of the error" + (f", among {among}" if among else "")


def drawn(n_obs) -> str:
    """Which items a backtest asks, where it does not ask all: '5,000 of 19,992 items, drawn at random'; else ''.

    n_obs: (N,) how many observations each item of the panel has; those without any are not asked.
    """
    known = int(np.count_nonzero(np.asarray(n_obs) > 0))
    return f"{rolling.JUDGES:,} of {known:,} items, drawn at random" if known > rolling.JUDGES else ""


def origins_words(n: int, judged: int, params: dict, n_obs) -> str:
    """How the gate's ``n`` finished origins lie to the ``judged`` ones that a report shows above; '' where that is not known.

    params: those of the run, as its manifest has them; n_obs as in ``drawn``.
    """
    horizon, stride = params.get("horizon") or 0, (params.get("backtest") or {}).get("stride") or 0
    if not judged or not horizon or not stride or n < judged:
        return ""
    the = "the one" if judged == 1 else f"the {judged:,}"
    if n == judged:
        return f"{the} above"
    inside = any(step % stride for step in range(horizon, (judged - 1) * stride, horizon))
    few = min(rolling.JUDGES, int(np.count_nonzero(np.asarray(n_obs) > 0))) > rolling.WITNESSES
    sample = f" (of {rolling.WITNESSES:,} items at most, drawn at random)" if few else ""
    return f"{the} above and {n - judged:,} {'between or ' * inside}before {'it' if judged == 1 else 'them'}{sample}"


def describe(backtest: pd.DataFrame, n_obs=()) -> str:
    """What the record covers, in a sentence; n_obs as in ``drawn``."""
    mine = backtest[backtest["model"] == "published"]
    if not len(mine):
        return "No rolling origin fits into this history: there is no record to judge by."
    days = mine["origin"].drop_duplicates().sort_values()
    among = drawn(n_obs)
    return (
        f"{counted(len(days), 'origin')} from {days.iloc[0]:%Y-%m-%d} to {days.iloc[-1]:%Y-%m-%d}, "
        f"{mine['series_id'].nunique():,} series{f' ({among})' if among else ''}, "
        f"{counted(int(mine['y'].notna().sum()), 'forecast')} that met an actual."
    )


def verdict(table: pd.DataFrame, gate: dict) -> str:
    """Whether to trust it, computed: the published error against the safe baseline, coverage, and what the gate did."""
    wide = table[table["slice"] == "all"].pivot(index="model", columns="metric", values="value")
    if "published" not in wide.index:
        return f"There is no record to judge by. {gate['verdict']}"
    trade = SALES if "bias" in wide else PRICES
    mine, safe = wide.loc["published"], wide.loc[trade.safe]
    skill = 1 - mine["rel_ql"] / safe["rel_ql"] if safe["rel_ql"] > 0 else 0.0
    word = "no better than" if abs(skill) < 0.0005 else f"{share1(abs(skill))} {'better' if skill > 0 else 'worse'} than"
    held, of = (mine["coverage90"], f"actual {trade.things}")
    if trade is SALES:
        held = table.set_index(["model", "metric", "slice"])["value"].get(("published", "coverage90", "nonzero"), np.nan)
        of = "sales that were not zero"
    return (
        f"Published forecasts were {word} {trade.safe_words} on quantile score; {percent(held)} of {of} fell "
        f"inside bands that promised 90 %. {gate['verdict']}"
    )
