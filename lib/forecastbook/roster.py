"""Which series are forecast, by what, and why not."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pandas as pd

from forecastbook import counts, scores
from forecastbook.intake import Intake
from forecastbook.intake import today as clock
from forecastbook.panel import Panel, periods
from forecastbook.params import Params
from forecastbook.trades import PRICES, SALES
from forecastbook.wording import counted, percent, period_name, span

LIVELY = (PRICES.rate, "total_units")  # by what the series are chosen that a look at the data should see first


class StaleError(RuntimeError):
    """The newest day of the data is older than the params allow."""


def status(panel: Panel, params: Params) -> np.ndarray:
    """(N,) 'model' where a model may forecast, 'naive' for short or new series, 'excluded' for those gone or never seen."""
    rules, (known, gap, absent) = params.eligible, _known(panel, params)
    gone = (gap > rules.max_gap) | (absent > (panel.year or len(panel.dates))) | (known == 0)
    return np.where(gone, "excluded", np.where(known < rules.min_observations, "naive", "model")).astype(object)


def _known(panel: Panel, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) observations, periods since the last one, and periods since an item was on offer (0 for prices).

    Of sales the observations are those that speak of demand, and the second counts from the last one sold. What a shop has not
    had for a year tells nothing of the next months: a single copy that sold at once would be expected to sell every month.
    """
    if params.trade is not SALES:
        return panel.n_obs, panel.gap, np.zeros(len(panel), dtype=int)
    y = counts.sold(panel)
    some, known, T = y > 0, np.isfinite(y), y.shape[1]  # NaN is not
    sold = np.where(some.any(axis=1), np.argmax(some[:, ::-1], axis=1), np.minimum(panel.life, T))
    return known.sum(axis=1), sold, np.where(known.any(axis=1), np.argmax(known[:, ::-1], axis=1), T)


def reasons(panel: Panel, params: Params) -> np.ndarray:
    """(N,) why a series is not forecast by the model, None where it is."""
    rules, verb = params.eligible, "sold" if params.trade is SALES else "seen"

    def why(kind: str, known: int, gap: int, absent: int) -> str | None:
        if kind == "model":
            return None
        if known == 0:
            return f"no valid observation up to {panel.as_of}"
        if gap > rules.max_gap:
            return f"not {verb} for {gap} periods (limit {rules.max_gap})"
        if kind == "excluded":
            return f"not on offer for {absent} periods (limit {panel.year}, a year)"
        return f"only {counted(known, 'observation')} (a model needs {rules.min_observations}): {params.trade.safe_words}"

    return np.array([why(*row) for row in zip(status(panel, params), *_known(panel, params), strict=True)], dtype=object)


def roster(panel: Panel, params: Params, intake: Intake | None = None) -> pd.DataFrame:
    """``series.parquet``: a row a series: title, attributes, last value and date, counts, class, source and, if so, why not.

    Of prices: change_rate (share of observed steps) and demand_class 'constant' (never changed), 'sticky' (fewer than one step
    in ten) or 'volatile'. Of sales: what ``counts.describe`` says of demand, and where the source knows it (``intake``) the
    stock of today and the latest price. source: 'model' where a model may forecast it, 'naive', or 'excluded'.

    The first rows are those of the panel. After them come the series that the source holds and of which no row could be used
    (``intake.lost``): they are in no panel, but left out all the same; their demand_class is 'unknown'. refused: the rows of
    these, 0 for all others.
    """
    table = _table(panel, params, intake)
    if intake is None:
        return table
    lost = intake.lost[~intake.lost["series_id"].isin(panel.ids)]
    if params.max_series is not None and len(panel) >= params.max_series:
        lost = lost[lost["series_id"] < panel.ids[-1]]  # only the first so many are looked at
    if not len(lost):
        return table
    one = panel.take([0])  # a series that was never seen says what the other columns hold of one
    never = replace(one, ids=np.array([""], dtype=object), static=np.full_like(one.static, ""), y=np.full_like(one.y, np.nan))
    never = replace(never, available=np.zeros_like(one.available), past=np.full_like(one.past, np.nan))
    rows = _table(never, params, intake).iloc[np.zeros(len(lost), dtype=int)]
    why = [
        f"none of its {n} rows could be used: {reason}" if n > 1 else f"its only row could not be used: {reason}"
        for n, reason in zip(lost["rows"], lost["why"], strict=True)
    ]
    own = {"series_id": lost["series_id"], "title": lost["title"], "refused": lost["rows"].astype(int)}
    rows = rows.assign(**{name: values.to_numpy() for name, values in own.items()}, demand_class="unknown", why=why)
    return pd.concat([table, rows], ignore_index=True)


def _table(panel: Panel, params: Params, intake: Intake | None) -> pd.DataFrame:
    """``roster`` of the series of a panel."""
    last = panel.last_index[:, -1]
    columns = {"series_id": panel.ids, "title": panel.titles}
    columns |= {name: panel.static[:, k] for k, name in enumerate(panel.static_names)}
    columns |= {
        "last_value": panel.last_value,
        "last_ts": pd.to_datetime(np.where(last >= 0, panel.dates[last], np.datetime64("NaT"))).date,
        "n_obs": panel.n_obs,
        "gap": panel.gap,
    }
    columns |= counts.describe(panel) if params.trade is SALES else _stickiness(panel)
    if intake and "StockNow" in intake.facts:
        now = intake.facts["StockNow"].to_pandas().set_index("series_id").reindex(panel.ids)
        columns |= {"stock": now["units"].to_numpy(), "price": now["price"].to_numpy()}
    return pd.DataFrame(columns | {"source": status(panel, params), "why": reasons(panel, params), "refused": 0})


def _stickiness(panel: Panel) -> dict[str, np.ndarray]:
    """Of posted prices: how often they change, and a word for it."""
    moved = np.zeros(len(panel))
    for i in range(1, len(panel.dates)):  # over periods, all series at once
        step = scores.changed(panel.y[:, i][:, None], panel.filled[:, i - 1])[:, 0]
        moved += np.nan_to_num(step)
    rate = moved / np.maximum(panel.n_obs - 1, 1)
    return {
        "change_rate": rate,
        "demand_class": np.where(moved == 0, "constant", np.where(rate < 0.1, "sticky", "volatile")),
    }


def kinds(why: pd.Series, unit: str = "periods") -> pd.Series:
    """Reasons without the numbers of a single series, so that those of one kind are alike. unit: of a period."""
    said = {
        r"not (seen|sold|on offer) for [\d,]+ periods \(limit (\d+)(?:, a year)?\)": lambda found: (
            f"not {found[1]} for more than {span(int(found[2]), unit)}"
        ),
        r"only [\d,]+ observations? \(a model needs (\d+)\)": r"fewer than the \1 observations that a model needs",
        r"(?:none of its [\d,]+ rows|its only row) could": "none of its rows could",
    }
    for own, kind in said.items():
        why = why.str.replace(own, kind, regex=True)
    return why


def eligibility(series: pd.DataFrame, unit: str = "periods") -> pd.DataFrame:
    """How many series are forecast by what, and why the others are not: source, why, series. unit: of a period."""
    words = {"model": "model, if the gate lets it", "naive": "the safe baseline", "excluded": "not forecast"}
    why = kinds(series["why"].fillna("enough observations, seen lately"), unit)
    size = series.assign(source=series["source"].map(words), why=why).groupby(["source", "why"]).size()
    return size.sort_values(ascending=False).rename("series").reset_index()


def examples(series: pd.DataFrame, count: int = 6) -> list[str]:
    """Ids of the liveliest well-observed series: what a look at the data should see first."""
    series, rate = series[series["n_obs"] > 0], next(c for c in LIVELY if c in series)
    enough = series[series["n_obs"] >= series["n_obs"].median()]
    return enough.sort_values([rate, "series_id"], ascending=[False, True])["series_id"].head(count).tolist()


def freshness(panel: Panel, params: Params, today: dt.date | None = None) -> str:
    """How old the newest day is, in a sentence. Raises StaleError when the params say that this stops the run.

    The clock says how old the data is; it never dates a forecast. today: the later of the local and the UTC date by default.
    """
    as_of, limit = panel.as_of.astype(dt.date), params.freshness.max_age_days
    said = f"The newest {_old(as_of, params, today)}"
    if params.trade is PRICES:  # sales that are not there count as none
        said += f", and has a reading of {percent(np.isfinite(panel.y[:, -1]).mean())} of the series"
    return (
        said
        + "."
        + (f" The limit is {counted(limit, 'day')} (freshness.max_age_days)." if overdue(as_of, params, today) else "")
    )


def overdue(as_of: dt.date, params: Params, today: dt.date | None = None) -> str:
    """That the newest day is older than the params allow, in a sentence; '' where it is not, or nothing is said of it.

    Raises StaleError when the params say that this stops the run.
    """
    limit = params.freshness.max_age_days
    if limit is None or age(as_of, params, today) <= limit:
        return ""
    said = f"The newest {_old(as_of, params, today)}; the limit is {counted(limit, 'day')} (freshness.max_age_days)"
    if params.freshness.action == "stop":
        raise StaleError(f"{said}: bring the source up to date, or set freshness.action: warn")
    return said


def _old(as_of: dt.date, params: Params, today: dt.date | None) -> str:
    """'day, 2025-09-30, is 2 days old'; 'month, 2025-09-01, ended 2 days ago'."""
    days, period = age(as_of, params, today), period_name(params.freq)[:-1]
    if days < 0:
        return f"{period}, {as_of}, is not over yet"
    old = counted(days, "day")
    return f"{period}, {as_of}, " + (f"is {old} old" if period == "day" else f"ended {old} ago")


def age(as_of: dt.date, params: Params, today: dt.date | None = None) -> int:
    """Days since the last day of the period that begins with ``as_of``; negative while it is not over."""
    last = periods(as_of, 2, params.freq)[1].astype(dt.date) - dt.timedelta(days=1)
    return ((today or clock()) - last).days
