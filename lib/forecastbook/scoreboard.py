"""Tables that judge forecasts: from ``backtest.parquet`` to scores, rankings and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from forecastbook import points, scores
from forecastbook.backtest import level_name
from forecastbook.params import Params

FORMATS = {  # how the columns of these tables are shown
    "quantile error, share of price": ".2%",
    "absolute error, share of price": ".2%",
    "skill against last value": "+.1%",
    "expected gain": "+.1%",
    "doubt": ".1%",
    "inside 90 % band": ".1%",
    "inside, after a change": ".1%",
    "change precision / base rate": ".2f",
    "error": ".1%",
    "change_rate": ".1%",
    "last_value": ",.2f",
}


def score_table(backtest: pd.DataFrame | Iterable[pd.DataFrame], params: Params) -> pd.DataFrame:
    """``scores.parquet``: model, metric, slice, value, n. Metrics over all points, changed and unchanged, and each horizon.

    rel_mae and rel_ql are divided by the last price before averaging; coverage50 and coverage90 are shares of actuals inside
    the central bands; winkler90 is relative too; brier and ap_ratio judge p_change (ap_ratio: average precision / base rate);
    wql is not relative. Points without an observation are left out. A large backtest may come in parts, all rows of a model
    in the same one.
    """
    parts = [backtest] if isinstance(backtest, pd.DataFrame) else backtest
    found = [
        (name, *row)
        for part in parts
        for name in part["model"].unique()
        for row in _scores(part, ((part["model"] == name) & part["y"].notna()).to_numpy(), params)
    ]
    table = pd.DataFrame(found, columns=["model", "metric", "slice", "value", "n"])
    order = {label: k for k, label in enumerate(["all", "changed", "unchanged"])}
    rank = [order[s] if s in order else len(order) + int(s[2:]) for s in table["slice"]]
    return table.iloc[np.argsort(rank, kind="stable")].reset_index(drop=True)


def _scores(frame: pd.DataFrame, rows: np.ndarray, params: Params) -> Iterator[tuple[str, str, float, int]]:
    """(metric, slice, value, n) of some rows (bool) of a backtest: those of one model that have an actual."""

    def column(name: str) -> np.ndarray:
        return frame[name].to_numpy(float)[rows]

    y, last, p = (column(name) for name in ("y", "last_value", "p_change"))
    size = np.where(np.abs(last) > 0, np.abs(last), np.nan)
    at = {level: column(level_name(level)) for level in params.quantiles}
    pinball = sum(scores.pinball(y, q[:, None], [level])[:, 0] for level, q in at.items()) / len(at)
    event = scores.changed(y[:, None], last)[:, 0]
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
    if 0.25 in at and 0.75 in at:
        per_point["coverage50"] = scores.covered(y, at[0.25], at[0.75])
    horizon = frame["horizon"].to_numpy()[rows]
    slices = {"all": np.ones(len(y), bool), "changed": event == 1, "unchanged": event == 0}
    slices |= {f"h={h}": horizon == h for h in np.unique(horizon)}
    for label, mask in slices.items():
        if not mask.any():
            continue
        means, total = per_point[mask].mean(), np.abs(y[mask]).sum()
        values = {**means, "wql": 2 * pinball[mask].sum() / total if total > 0 else np.nan}
        if label == "all" or label.startswith("h="):
            rate = event[mask].mean()
            precision = scores.average_precision(event[mask], p[mask])
            values |= {
                "change_rate": rate,
                "ap_ratio": precision / rate if rate > 0 else np.nan,
                "brier_skill": 1 - means["brier"] / (rate * (1 - rate)) if 0 < rate < 1 else np.nan,
            }
        for metric, value in values.items():
            yield metric, label, float(value), int(mask.sum())


def read(run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The record of a run: the published and last-value rows of its ``backtest.parquet``, and the scores of all rows."""
    run.verify("backtest.parquet")
    return points.read(run.dir / "backtest.parquet")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The score table's overall rows, one a model, best first: errors, skill against the last value, coverage, change calls."""
    wide = table[table["slice"] == "all"].pivot(index="model", columns="metric", values="value")
    changed = table[(table["slice"] == "changed") & (table["metric"] == "coverage90")].set_index("model")["value"]
    wide["covered when changed"] = changed
    if wide.empty:  # no record: the columns of one, without a row
        wide = wide.reindex(columns=["rel_ql", "rel_mae", "coverage90", "covered when changed", "ap_ratio"])
    wide["skill"] = 1 - wide["rel_ql"] / wide["rel_ql"].get("last_value", np.nan)
    names = {
        "rel_ql": "quantile error, share of price",
        "skill": "skill against last value",
        "rel_mae": "absolute error, share of price",
        "coverage90": "inside 90 % band",
        "covered when changed": "inside, after a change",
        "ap_ratio": "change precision / base rate",
    }
    return wide.sort_values("rel_ql")[list(names)].rename(columns=names).reset_index()


def by_model(scored: pd.DataFrame) -> pd.DataFrame:
    """One row a model of what ``points.errors`` made: error, error on changed prices, quantile score, coverage; best first."""
    scored = scored.assign(on_changed=scored["error"].where(scored["changed"]))
    columns = [c for c in ("error", "on_changed", "loss", "inside90", "inside50") if c in scored]
    return scored.groupby("model", observed=True)[columns].mean().sort_values("error").reset_index().astype({"model": str})


def skills(
    backtest: pd.DataFrame, model: str = "published", seed: int = 0, draws: int = 1000, level: float = 0.9
) -> pd.DataFrame:
    """Skill of a model against every baseline, with an interval by block bootstrap over origins.

    backtest: the columns of backtest.parquet, or what ``points.errors`` made. skill = 1 − rel_ql(model) / rel_ql(baseline)
    over the points that both forecast. Origins are drawn in circular blocks of about the cube root of their number, as
    neighbours in time are alike (Künsch 1989; Politis and Romano 1992). Returns baseline, skill, low, high, n_origins; low and
    high are NaN with one origin.
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
        starts = rng.integers(0, n, (draws, -(-n // block)))
        index = ((starts[:, :, None] + np.arange(block)) % n).reshape(draws, -1)[:, :n]  # (draws, origins)
        totals = sums[index].sum(axis=1)  # (draws, 2)
        ratio = 1 - totals[totals[:, 1] > 0, 0] / totals[totals[:, 1] > 0, 1]
        low, high = np.quantile(ratio, [(1 - level) / 2, (1 + level) / 2]) if n > 1 and len(ratio) else (np.nan, np.nan)
        rows.append((str(name), 1 - sums[:, 0].sum() / sums[:, 1].sum(), low, high, n))
    return pd.DataFrame(rows, columns=columns).sort_values("skill", ignore_index=True)


def best_median_worst(backtest: pd.DataFrame, forecast: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Three forecast series by their published error over rolling origins: (ids, labels). Without a record the first ones."""
    error = by_series(backtest)
    error = error[error.index.isin(forecast["series_id"].unique())].sort_values(kind="stable")
    if not len(error):
        ids = sorted(forecast["series_id"].unique())[:3]
        return ids, ["no record yet"] * len(ids)
    places = dict.fromkeys([0, len(error) // 2, len(error) - 1])
    names = ["best", "median", "worst"][: len(places)]
    return [error.index[i] for i in places], [f"{n}: error {error.iloc[i]:.1%}" for n, i in zip(names, places, strict=True)]


def by_series(backtest: pd.DataFrame) -> pd.Series:
    """Mean relative absolute error of what was published, by series."""
    mine = points.errors(backtest[backtest["model"] == "published"])
    error = mine.groupby("series_id", observed=True)["error"].mean()
    error.index = error.index.astype(object)
    return error


def worst(backtest: pd.DataFrame, series: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The series with the largest published error: series_id, title, error, last_value, change_rate."""
    error = by_series(backtest).sort_values(ascending=False, kind="stable").head(count).rename("error").reset_index()
    return error.merge(series[["series_id", "title", "last_value", "change_rate"]], on="series_id", how="left")[
        ["series_id", "title", "error", "last_value", "change_rate"]
    ]


def describe(backtest: pd.DataFrame) -> str:
    """What the record covers, in a sentence."""
    mine = backtest[backtest["model"] == "published"]
    if not len(mine):
        return "No rolling origin fits into this history: there is no record to judge by."
    days = mine["origin"].drop_duplicates().sort_values()
    return (
        f"{len(days)} origins from {days.iloc[0]:%Y-%m-%d} to {days.iloc[-1]:%Y-%m-%d}, "
        f"{mine['series_id'].nunique():,} series, {int(mine['y'].notna().sum()):,} forecasts that met an actual."
    )


def verdict(table: pd.DataFrame, gate: dict) -> str:
    """Whether to trust it, computed: the published error against the last value, coverage in words, and what the gate did."""
    wide = table[table["slice"] == "all"].pivot(index="model", columns="metric", values="value")
    if "published" not in wide.index:
        return f"There is no record to judge by. {gate['verdict']}"
    mine, safe = wide.loc["published"], wide.loc["last_value"]
    skill = 1 - mine["rel_ql"] / safe["rel_ql"] if safe["rel_ql"] > 0 else 0.0
    word = "no better than" if abs(skill) < 0.0005 else f"{abs(skill):.1%} {'better' if skill > 0 else 'worse'} than"
    return (
        f"Published forecasts were {word} the last value on quantile error; {mine['coverage90']:.0%} of actual prices fell "
        f"inside bands that promised 90 %. {gate['verdict']}"
    )
