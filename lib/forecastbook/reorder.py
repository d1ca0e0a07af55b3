"""What to buy: forecasts of sales set against the stock, item by item, the lists that a buyer reads, and what service costs.

Frames: a *forecast* has series_id, horizon, q05 … q99, mean and p_sale, one row an item and period; *series* has series_id and
title, and where the shop knows them demand_class, stock (units now, NaN unknown), price and lost_units, and why no model may
forecast an item, where that is so. What a shop does not know is NaN in the plan and no column of its tables.

Symbols: N items, H periods ahead, K known quantile levels, D draws.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecastbook.points import levels
from forecastbook.tables import right
from forecastbook.wording import percent

SLOW = 4.0  # a stock that lasts longer than so many horizons is slow, whatever the chance of a sale
LONG = 99  # periods above which a stock is only said to last longer
CHUNK = 8192  # items whose draws are in memory at once
SEED = 20051  # of the order in which the draws of each period are met
# Columns of a series that a plan takes over where they are there.
KNOWN = ("demand_class", "total_units", "stock", "price", "lost_units", "why")
COLUMNS = (
    *("series_id", "title", "demand_class", "total_units", "stock", "expected", "need", "order", "lost_units", "price", "cost"),
    *("p_any", "periods_of_stock", "short", "level", "periods", "why"),
)
UNITS = ("days", "weeks", "months", "quarters", "periods")
FORMATS = {  # how the columns of these tables are shown
    "stock, units": right,
    "expected sales, units": ",.1f",
    "need, units": ",.0f",
    "order, units": ",.0f",
    "sold so far, units": ",.0f",
    "price": ",.2f",
    "order at the last price": ",.0f",
    "chance of any sale": percent,
    "lost sales, units": ",.1f",
    **{f"stock lasts, {unit}": right for unit in UNITS},
}


def total(forecast: pd.DataFrame, level: float, draws: int = 400, stock: pd.Series | None = None) -> pd.DataFrame:
    """Demand over the whole horizon: series_id, expected (sum of the means), need (its quantile at `level`, whole units), short
    (the units expected to be asked for and not there, of a stock by series_id; unknown: 0).

    The quantile function of a period runs straight between the known levels, from 0 at level 0, and is flat above the highest.
    Periods are taken to be independent, given the forecast: `draws` evenly spaced levels are met in an order of their own in
    each period, the same in every call, and the sums are ranked. Where an item's periods err together (a trend that was missed)
    the true need is higher, up to about the sum of the periods' own quantiles. Over one period the need is that quantile
    itself, rounded up. Raises ValueError for a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a service level lies between 0 and 1, not {level}")
    ids, q, known = _cube(forecast)
    expected = forecast["mean"].groupby(forecast["series_id"].to_numpy(object), sort=False).sum().reindex(ids)
    there = np.zeros(len(ids)) if stock is None else stock.reindex(ids).fillna(0).to_numpy(float)
    need, short = np.empty(len(ids)), np.empty(len(ids))
    rank = max(int(np.ceil(level * draws - 1e-9)), 1) - 1
    for at in (slice(k, k + CHUNK) for k in range(0, len(ids), CHUNK)):
        sums = _sums(q[at], known, draws)
        need[at] = q[at, 0] @ _weights(known, [level])[:, 0] if q.shape[1] == 1 else np.sort(sums, axis=1)[:, rank]
        short[at] = np.maximum(sums - there[at, None], 0).mean(axis=1)
    need = np.ceil(need - 1e-9) + 0.0
    return pd.DataFrame({"series_id": ids, "expected": expected.to_numpy(float), "need": need, "short": short})


def _cube(forecast: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (N,) in order of appearance, quantiles (N, H, K) with that of level 0 put in front, levels (K,)."""
    known = levels(forecast)
    item, ids = pd.factorize(forecast["series_id"].to_numpy(object))
    step, steps = pd.factorize(forecast["horizon"].to_numpy(), sort=True)
    q = np.zeros((len(ids), len(steps), 1 + len(known)))
    q[item, step, 1:] = forecast[list(known)].to_numpy(float)
    return ids, q, np.array([0.0, *known.values()])


def _weights(known: np.ndarray, at) -> np.ndarray:
    """(K, D): how much the quantile at each known level counts in the interpolated one at each of the levels `at`."""
    return np.stack([np.interp(at, known, row) for row in np.eye(len(known))])


def _sums(q: np.ndarray, known: np.ndarray, draws: int) -> np.ndarray:
    """(N, D) draws of the demand over all periods, of quantiles (N, H, K)."""
    rng, even = np.random.default_rng(SEED), _weights(known, (np.arange(draws) + 0.5) / draws)
    return sum(q[:, h] @ even[:, rng.permutation(draws)] for h in range(q.shape[1]))


def plan(forecast: pd.DataFrame, series: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """What to do about each item, one row an item of the forecast, the most urgent first, in the columns ``COLUMNS``.

    order = need − stock, at least 0, and the whole need where the stock is not known; cost = order × price, the latest one that
    customers paid; p_any: chance of a sale in the horizon, its periods taken to be independent; periods_of_stock: how long the
    stock lasts at the expected rate; short: units expected to be asked for beyond the stock if nothing is bought; periods: H.

    Urgent is what loses most if nothing is bought: short × price (a price that is not known counts as the median one). That
    puts first the items that run out soon and sell much. Items of unknown stock come after those of a known one: nobody knows
    yet whether they are short.
    """
    about = series.drop_duplicates("series_id").set_index(series["series_id"].drop_duplicates().to_numpy(object))
    stock = about["stock"].astype(float) if "stock" in about else pd.Series(np.nan, about.index)
    out = total(forecast, level, stock=stock)
    about = about.reindex(out["series_id"])
    for name in KNOWN:
        out[name] = about[name].to_numpy() if name in about else np.nan
    out["title"] = about["title"].astype(object).where(about["title"].notna(), about.index.to_series()).to_numpy()
    out["order"] = np.maximum(out["need"] - out["stock"].fillna(0), 0)
    out["cost"] = out["order"] * out["price"]
    none = (1 - forecast["p_sale"]).groupby(forecast["series_id"].to_numpy(object), sort=False).prod()
    out["p_any"] = 1 - none.reindex(out["series_id"]).to_numpy()
    out["level"], out["periods"] = level, forecast["horizon"].nunique()
    out["periods_of_stock"] = _lasts(out["stock"], out["expected"] / out["periods"].clip(1))
    value = out["short"] * out["price"].fillna(out["price"].median() if out["price"].notna().any() else 1.0)
    out = out.assign(_unknown=out["stock"].isna(), _value=value).sort_values(
        ["_unknown", "_value", "order", "series_id"], ascending=[True, False, False, True]
    )
    return out[list(COLUMNS)].reset_index(drop=True)


def _lasts(stock: pd.Series, rate: pd.Series) -> np.ndarray:
    """Periods until a stock is sold at a rate: 0 for none, infinite where nothing is expected to sell, NaN where unknown."""
    stock, rate = stock.to_numpy(float), rate.to_numpy(float)
    forever = np.where(stock > 0, np.inf, np.where(np.isnan(stock), np.nan, 0.0))
    return np.where(rate > 0, np.maximum(stock, 0) / np.where(rate > 0, rate, 1), forever)


def kept(backtest: pd.DataFrame, level: float) -> float:
    """The share of items and origins of a backtest whose demand over the whole horizon was met by the published ``need``.

    Only where every period of the horizon was observed; NaN where none was. It puts the promise ``level`` to the test, and with
    it that periods are taken to be independent.
    """
    mine = backtest[backtest["model"] == "published"]
    met, whole = [], mine["horizon"].nunique()
    for _, rows in mine[mine["y"].notna()].groupby("origin", observed=True):
        sold = rows.groupby(rows["series_id"].astype(object))["y"].agg(["sum", "size"])
        sold = sold.loc[sold["size"] == whole, "sum"]
        if len(sold):
            need = total(rows[rows["series_id"].isin(sold.index)], level).set_index("series_id")["need"]
            met.append(need.reindex(sold.index) >= sold - 1e-9)
    return float(pd.concat(met).mean()) if met else np.nan


def reorder(plan: pd.DataFrame, top: int | None = 12) -> pd.DataFrame:
    """What to buy: the `top` most urgent rows (None: all) of a plan with something to order, in its order."""
    rows = plan[plan["order"] > 0]
    return (rows if top is None else rows.head(top)).reset_index(drop=True)


def slow(plan: pd.DataFrame, top: int = 12) -> pd.DataFrame:
    """Stock that stays: items that more likely than not sell nothing, or whose stock lasts over `SLOW` horizons.

    The least likely to sell come first; of those as likely, to a whole percent, the ones whose stock lasts longest. Items that
    are too new for a model (``why``) are left out: of one that has not sold yet the baseline says that it never will.
    """
    rows = plan[(plan["stock"] > 0) & plan["why"].isna() & ((plan["p_any"] < 0.5) | (plan["stock"] > SLOW * plan["expected"]))]
    rows = rows.assign(_chance=rows["p_any"].round(2)).sort_values(
        ["_chance", "periods_of_stock", "series_id"], ascending=[True, False, True]
    )
    return rows.drop(columns="_chance").head(top).reset_index(drop=True)


def lost(plan: pd.DataFrame, top: int = 12) -> pd.DataFrame:
    """Where empty shelves cost most: items by the units they are estimated to have lost in the last twelve periods."""
    rows = plan[plan["lost_units"] > 0].sort_values(["lost_units", "series_id"], ascending=[False, True])
    return rows.head(top).reset_index(drop=True)


def table(rows: pd.DataFrame, kind: str = "reorder", units: str = "weeks") -> pd.DataFrame:
    """Rows of a plan as a reader wants them, columns with their units in the head; shown with ``FORMATS``.

    kind: 'reorder', 'need' (where no stock is known), 'slow' or 'lost', which columns; units: what a period is. A column of
    which the shop knows nothing is left out; where only some stock is unknown, that is said.
    """
    heads = {
        "title": "item",
        "demand_class": "demand",
        "total_units": "sold so far, units",
        "lost_units": "lost sales, units",
        "stock": "stock, units",
        "expected": "expected sales, units",
        "p_any": "chance of any sale",
        "periods_of_stock": f"stock lasts, {units}",
        "need": "need, units",
        "order": "order, units",
        "price": "price",
        "cost": "order at the last price",
    }
    shown = {
        "reorder": ("title", "total_units", "stock", "periods_of_stock", "expected", "need", "order", "cost"),
        "need": ("title", "demand_class", "total_units", "expected", "need", "price"),
        "slow": ("title", "demand_class", "stock", "periods_of_stock", "expected", "p_any", "price"),
        "lost": ("title", "lost_units", "stock", "periods_of_stock", "expected", "order", "price"),
    }[kind]
    out = rows[[name for name in shown if rows[name].notna().any()]].copy()
    for name, write in {"stock": _units, "periods_of_stock": _periods}.items():
        if name in out:
            out[name] = out[name].map(write)
    return out.rename(columns=heads).reset_index(drop=True)


def _units(stock: float) -> str:
    """12.0 → '12', not a number → 'unknown'."""
    return "unknown" if pd.isna(stock) else f"{stock:,.10g}".replace("-", "−")


def _periods(lasts: float) -> str:
    """3.14 → '3.1', more than anybody plans for → 'over 99', not a number → 'unknown'."""
    return "unknown" if pd.isna(lasts) else f"over {LONG}" if lasts > LONG else f"{lasts:.1f}"


def service_level(levels) -> float:
    """The level that a stock is planned for: 90 %, or the nearest above a half that is forecast."""
    return min((level for level in levels if level > 0.5), key=lambda level: abs(level - 0.9))


def upper(frame: pd.DataFrame) -> dict[str, float]:
    """Quantile columns that a stock may be planned by, at ½ or above, and their levels."""
    return {column: level for column, level in levels(frame).items() if level >= 0.5}


def stock_cost(frame: pd.DataFrame) -> pd.DataFrame:
    """What each level costs as a stock: level, over and short (mean units left and missing a period), served (share y ≤ q),
    served_sales (of periods with sales) and honest (the least that would be, were the forecast true). frame: of one model.

    Periods with sales are picked by what came, so the promise is less there: of a share p that sells, 1 − p is served whatever
    the stock, and (level − (1 − p)) / p of the others.
    """
    y, sale = frame["y"].to_numpy(float), frame["y"].to_numpy(float) > 0
    p = frame["p_sale"].to_numpy(float) if "p_sale" in frame else np.full(len(y), sale.mean())
    rows = []
    for column, level in upper(frame).items():
        gap = frame[column].to_numpy(float) - y
        served = gap >= -1e-9 * np.maximum(1, np.abs(y))
        honest = np.maximum(level - (1 - p), 0).sum() / p.sum() if p.sum() > 0 else np.nan
        among = served[sale].mean() if sale.any() else np.nan
        rows.append((level, np.maximum(gap, 0).mean(), np.maximum(-gap, 0).mean(), served.mean(), among, honest))
    return pd.DataFrame(rows, columns=["level", "over", "short", "served", "served_sales", "honest"])


def saved(mine: pd.DataFrame, theirs: pd.DataFrame, at: int) -> float:
    """Share of units left over that is saved at the shortage of row `at`, along the rival's curve; NaN beyond its ends.

    Between two levels that curve bends: it is read off straight in the logarithm of the shortage, else the rival looks worse.
    """
    curve = theirs[theirs["short"] > 0].sort_values("short")
    if not len(curve) or not mine["short"][at] > 0:
        return np.nan
    left = np.interp(np.log(mine["short"][at]), np.log(curve["short"]), curve["over"], left=np.nan, right=np.nan)
    return 1 - mine["over"][at] / left if left > 0 else np.nan
