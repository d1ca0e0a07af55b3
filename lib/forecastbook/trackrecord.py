"""The track record: forecasts that were really published, met with what came, and kept in ForecastScore.

A *vintage* is what a job published for one as-of date. A row of the record is one vintage at one horizon: it needs the actuals
of that one date and nothing later, so a reader of a past date leaves out the rows whose date had not come. Rows are kept as
means with their n. An error of prices is a share of the last price, point by point; of sales it is in units, with the mean
units sold beside it, because a share of what was sold cannot be averaged over periods that sold nothing.

Symbols: n points (a series on a date), H periods ahead.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa

from forecastbook import counts, scores, trades
from forecastbook.panel import Panel, periods
from forecastbook.params import Params
from forecastbook.publication import canonical, variant_ids
from forecastbook.run import Run
from forecastbook.trades import PRICES, SALES, Trade
from forecastbook.wording import counted, percent, share2

FILE = "track_record.parquet"  # of a run: the record as far as it could know it
GRACE = 2  # horizons after its last date in which a vintage is scored again: actuals may come late or be corrected
FIRST, LAST = dt.date(1900, 1, 1), dt.date(9999, 12, 31)
VINTAGE = ["model_id", "as_of", "run_id"]
METRICS = {  # name in the record -> metric in ForecastScore
    PRICES.name: {"error": "error", "baseline_error": "baseline_error", "coverage": "coverage"},
    SALES.name: {
        "error": "absolute_error",
        "baseline_error": "absolute_baseline_error",
        "coverage": "coverage",
        "size": "mean_sales",
    },
}
COLUMNS = {  # of a record, and their types where it has no row yet
    **{"as_of": pd.ArrowDtype(pa.date32()), "run_id": object, "horizon": "int64", "n": "int64"},
    **dict.fromkeys(["error", "baseline_error", "size", "coverage"], float),
    **dict.fromkeys(["complete", "afterwards"], bool),
}
FORMATS = {  # how the columns of ``by_vintage`` and ``by_horizon`` are shown
    "n": ",",
    "error": share2,
    "last value": share2,
    "inside 90 % band": percent,
}


class ScoreError(RuntimeError):
    """Forecasts that cannot be scored as asked."""


def update(run: Run, store, panel: Panel) -> pd.DataFrame:
    """Score for a run what is due, write ForecastScore and the run's own ``track_record.parquet``; returns the ``record``."""
    enabled = run.params.publish.enabled
    if enabled:
        score(store, run.job, run.params, panel)
    found = record(store, run.job, run.params, run.as_of) if enabled else _empty()
    run.write(FILE, found)
    return found


def score(store, job: str, params: Params, panel: Panel) -> pd.DataFrame:
    """Score what is ``due`` against a panel and write what is new or better to ForecastScore; returns the rows written.

    Only vintages of earlier as-of dates count. A stored row gives way to one with as many points or more, so a panel that knows
    less, of a past date or of fewer series, takes nothing away. The returned rows have the columns of ForecastScore. Writing is
    one transaction; doing it twice writes nothing. Raises WarehouseError when the warehouse says no.
    """
    began, as_of = pd.Timestamp.now("UTC"), panel.as_of.astype(dt.date)
    stored = _stored(store, job, params.trade)
    since = _open(_ledger(store, job, as_of), stored, params)
    if since is None:
        return pd.DataFrame(columns=["job", *VINTAGE, "horizon", "metric", "value", "n", "scored_at"])
    since = max(since, panel.dates[0].astype(dt.date))  # of what came before, the last value is not known here
    fresh = _means(store.vintages(job, before=as_of, since=since).to_pandas(), panel, params.trade)
    rows = fresh[_better(fresh, stored)].assign(job=job, scored_at=began)
    if len(rows):
        store.append("ForecastScore", _arrow(rows), replacing=("job", "as_of", "run_id", "horizon"))
    return rows.reset_index(drop=True)


def due(store, job: str, params: Params, as_of: dt.date) -> dt.date | None:
    """The earliest as-of date before ``as_of`` whose vintage has to be read; None when there is none.

    A vintage is settled, and never read again, once its last date is ``GRACE`` horizons behind a score that was made after the
    vintage was published: whoever made that score has looked at this vintage too, whatever it found. All the rest is open.
    """
    return _open(_ledger(store, job, as_of), _stored(store, job, params.trade), params)


def record(store, job: str, params: Params, as_of: dt.date) -> pd.DataFrame:
    """All that the warehouse holds of a job's record, as far as ``as_of`` could know it; one row a vintage and horizon.

    Columns as_of (date), run_id, horizon, n, error and baseline_error (mean |actual - predicted| and |actual - last value|: of
    prices as a share of the last price, of sales in units), size (what they are still to be divided by: 1, or the mean units
    sold), coverage (share inside the published band), complete (whether all dates of the vintage had come), afterwards (whether
    it was published only when its first period was over). A vintage that a later run has replaced is not in it.
    """
    stored, names = _stored(store, job, params.trade, as_of), METRICS[params.trade.name]
    stored = stored[_dates(stored["as_of"], stored["horizon"], params.freq) <= np.datetime64(as_of, "D")]
    if stored.empty:
        return _empty()
    keys = ["as_of", "run_id", "horizon", "n"]
    wide = stored.pivot(index=keys, columns="metric", values="value").reindex(columns=names.values())
    wide = wide.set_axis(list(names), axis=1).dropna().reset_index()
    wide = wide if "size" in wide else wide.assign(size=1.0)
    reach = np.maximum(wide.groupby("as_of")["horizon"].transform("max"), params.horizon)
    wide["complete"] = _dates(wide["as_of"], reach, params.freq) <= np.datetime64(as_of, "D")
    published = wide["as_of"].map(_ledger(store, job, as_of).set_index("as_of")["published_at"]).to_numpy("datetime64[ns]")
    wide["afterwards"] = ~(published < _dates(wide["as_of"], 2 * np.ones(len(wide)), params.freq))
    return wide.assign(as_of=wide["as_of"].dt.date)[[*COLUMNS]]


def by_vintage(record: pd.DataFrame) -> pd.DataFrame:
    """A ``record`` with one row a vintage, oldest first: as_of, n, error, baseline_error, coverage, size, complete.

    The errors are shares: of the last price (size is 1); of sales of the mean units sold (size), NaN where nothing was.
    """
    folded = _folded(record, "as_of")
    return folded.assign(complete=record.groupby("as_of")["complete"].first().to_numpy(dtype=bool))


def by_horizon(record: pd.DataFrame) -> pd.DataFrame:
    """A ``record`` with one row a horizon, of all vintages: horizon, n, error, baseline_error, coverage, size, as above."""
    return _folded(record, "horizon")


def table(folded: pd.DataFrame) -> pd.DataFrame:
    """What ``by_vintage`` or ``by_horizon`` give, under the heads that ``FORMATS`` formats."""
    return folded.drop(columns="size").rename(
        columns={"baseline_error": "last value", "coverage": "inside 90 % band", "as_of": "as of"}
    )


def printed(folded: pd.DataFrame) -> str:
    """The same as plain text, one line a row."""
    shown = {head: "{:,}".format if form == "," else form for head, form in FORMATS.items()}
    shown["complete"] = {True: "yes", False: "not yet"}.get
    return table(folded).to_string(index=False, formatters=shown)


def summary(record: pd.DataFrame) -> str:
    """A record in a sentence: how many forecasts it holds, how far they were off and how often they were right."""
    folded = by_vintage(record).dropna(subset=["error"])
    if folded.empty:
        return "No published forecast has met its actuals yet."
    whole = _folded(record.assign(all=0), "all").iloc[0]
    better = int((folded["error"] < folded["baseline_error"]).sum())
    what = (
        f"{len(folded):,} published forecasts have met their actuals"
        if len(folded) > 1
        else "One published forecast has met its actuals"
    )
    return (
        f"{what}: error {share2(whole['error'])} against {share2(whole['baseline_error'])} of the last value, smaller on "
        f"{better:,} of {counted(len(folded), 'date')}; {percent(whole['coverage'])} inside the 90 % band."
    )


def said(record: pd.DataFrame, scored: pd.DataFrame | None = None) -> str:
    """The ``summary``, whether it was published before what it forecasts, and the error of the rolling origins beside its own.

    scored: what ``points.errors`` made of the backtest, None without one. '' while nothing has met its actuals.
    """
    met = by_vintage(record).dropna(subset=["error"]) if len(record) else record
    if not len(met):
        return ""
    text = summary(record)
    if "afterwards" in record:  # a file of an older run does not know
        n, late = len(met), int(record.groupby("as_of")["afterwards"].first().loc[met["as_of"]].sum())
        each = "It was" if n == 1 else "Each was"
        if late:
            who = each if late == n == 1 else "All were" if late == n else f"{late:,} of {n:,} {'was' if late == 1 else 'were'}"
            text += f" {who} published afterwards, from data up to {'its as-of date' if late == 1 else 'their as-of dates'}."
        else:
            text += f" {each} published before the first period that it forecasts was over: no replay, no second try."
    if scored is not None and (mine := scored["model"] == "published").any():
        whole = _folded(record.assign(all=0), "all").iloc[0]
        replayed = share2(scored.loc[mine, "error"].mean())
        text += f" Mean error as a share of {trades.of(scored).size}: rolling origins {replayed}, really published "
        text += f"{share2(whole['error'])}."
    return text


# ---- inside ----------------------------------------------------------------------------------------------------------


def _empty() -> pd.DataFrame:
    """A record without a row."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})


def _ledger(store, job: str, before: dt.date) -> pd.DataFrame:
    """The vintages of a job of as-of dates before ``before``: as_of, published_at of the newest set."""
    ledger = store.ledger().to_pandas()
    ledger = ledger.assign(as_of=pd.to_datetime(ledger["as_of"]), published_at=_clock(ledger["published_at"]))
    ledger = ledger[(ledger["job"] == job) & (ledger["as_of"] < pd.Timestamp(before))]
    return ledger.groupby("as_of", as_index=False)["published_at"].max()


def _stored(store, job: str, trade: Trade, before: dt.date = LAST) -> pd.DataFrame:
    """The rows of ForecastScore of a job's vintages, where all metrics of a horizon are there: the columns of the table."""
    keys, names = ["as_of", "run_id", "horizon"], METRICS[trade.name].values()
    found = store.query("scores", {"job": job, "since": FIRST, "before": before}).to_pandas()
    found = found[found["metric"].isin(names)]
    found = found.assign(as_of=pd.to_datetime(found["as_of"]), scored_at=_clock(found["scored_at"]))
    return found[found.groupby(keys)["metric"].transform("size") == len(names)]


def _clock(column: pd.Series) -> pd.Series:
    """Time stamps in UTC as plain datetime64[ns]."""
    return pd.to_datetime(column, utc=True).dt.tz_localize(None).astype("datetime64[ns]")


def _open(ledger: pd.DataFrame, stored: pd.DataFrame, params: Params) -> dt.date | None:
    """The earliest vintage of a ledger that is not settled, as ``due`` says it."""
    if ledger.empty:
        return None
    stored = stored.drop_duplicates(["as_of", "horizon"])
    reach = stored.groupby("as_of")["horizon"].max().reindex(ledger["as_of"]).fillna(0).to_numpy()
    H = np.maximum(reach, params.horizon).astype(int)
    last = _dates(ledger["as_of"], H * (1 + GRACE), params.freq)  # (V,) the last date on which a vintage is scored again
    came = _dates(stored["as_of"], stored["horizon"], params.freq)  # (rows,)
    order = np.argsort(came, kind="stable")
    # when that date or a later one was scored
    newest = np.maximum.accumulate(stored["scored_at"].to_numpy()[order][::-1])[::-1]
    at = np.searchsorted(came[order], last, side="right")
    settled = np.append(newest, np.datetime64("NaT"))[at] >= ledger["published_at"].to_numpy()  # NaT: not yet
    return None if settled.all() else ledger["as_of"][~settled].min().date()


def _means(past: pd.DataFrame, panel: Panel, trade: Trade) -> pd.DataFrame:
    """Vintages (one row a series, as-of date and horizon) against a panel: model_id, as_of, run_id, horizon, metric, value, n.

    Counted are points whose actual and last value are known; a stock-out of sales says nothing of demand.
    """
    row = _places(panel.ids, past["id"].to_numpy())
    days = pd.Index(panel.dates.astype("datetime64[ns]"))
    column, origin = (days.get_indexer(pd.to_datetime(past[name])) for name in ("forecast_date", "as_of"))
    met = (row >= 0) & (column >= 0) & (origin >= 0)
    past, row, column, origin = past[met], row[met], column[met], origin[met]
    y = counts.sold(panel) if trade is SALES else panel.y
    actual, last = y[row, column], panel.filled[row, origin]
    scale = np.ones(len(past)) if trade is SALES else trade.sizes(actual, last)
    points = {
        "error": np.abs(actual - past["predicted"].to_numpy()) / scale,
        "baseline_error": np.abs(actual - last) / scale,
        "coverage": scores.covered(actual, past["lower"], past["upper"]),
        "size": actual,
    }
    names, keys = METRICS[trade.name], [*VINTAGE, "horizon"]
    past = past[keys].assign(**{metric: points[name] for name, metric in names.items()}).dropna()
    grouped = past.groupby(keys)
    means = grouped.mean().assign(n=grouped.size()).reset_index()
    means = means.melt([*keys, "n"], var_name="metric", value_name="value")
    means = means.assign(as_of=pd.to_datetime(means["as_of"]))
    return means.sort_values(["as_of", "horizon", "metric"], ignore_index=True)[[*keys, "metric", "value", "n"]]


def _places(ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each published key (n,) stands among the series (N,): (n,) rows of the panel, -1 for none.

    A job publishes its ids themselves while all of them are whole numbers, else their hashes. Which it was then does not follow
    from what there is now, so both are looked up, the ids first.
    """
    whole = np.flatnonzero([canonical(str(i)) for i in ids])
    place = np.full(len(keys), -1)
    for rows, among in ((np.arange(len(ids)), ["-"]), (whole, None)):
        own = variant_ids(ids[rows], among=among)["id"].to_numpy() if len(rows) else np.empty(0, dtype=np.int64)
        at = pd.Index(own).get_indexer(keys)
        place = np.where(at >= 0, rows[np.maximum(at, 0)] if len(rows) else -1, place)
    return place


def _better(fresh: pd.DataFrame, stored: pd.DataFrame) -> pd.Series:
    """(rows,) bool: which fresh rows say something new, and stand on no fewer points than what is stored."""
    keys = ["run_id", "as_of", "horizon", "metric"]
    both = fresh.merge(stored[[*keys, "value", "n"]], how="left", on=keys, suffixes=("", "_stored"), validate="1:1")
    fuller = both["n"] >= both["n_stored"].fillna(0)
    other = (both["n"] != both["n_stored"]) | ~np.isclose(both["value"], both["value_stored"].astype(float), rtol=1e-9, atol=0)
    group = [both[key] for key in keys[:3]]  # all metrics of a horizon or none: they are replaced together
    return fuller.groupby(group).transform("all") & other.groupby(group).transform("any")


def _arrow(rows: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(rows.assign(as_of=rows["as_of"].dt.date), preserve_index=False)


def _dates(as_of: pd.Series, horizon, freq: str) -> np.ndarray:
    """The date ``horizon`` periods after ``as_of``: (n,) each -> (n,) datetime64[D]."""
    horizon = np.asarray(horizon, dtype=int)
    if not len(horizon):
        return np.empty(0, dtype="datetime64[D]")
    codes, starts = pd.factorize(as_of)
    grids = [periods(start, int(horizon.max()) + 1, freq) for start in starts]
    return np.array([grids[code][h] for code, h in zip(codes, horizon, strict=True)], dtype="datetime64[D]")


def _folded(record: pd.DataFrame, key: str) -> pd.DataFrame:
    """The means over the rows that share a key: key, n, error, baseline_error (shares), coverage, size."""
    names = ["error", "baseline_error", "coverage", "size"]
    sums = record[names].astype(float).mul(record["n"].astype(float), axis=0).assign(n=record["n"].astype("int64"))
    sums = sums.groupby(record[key]).sum()
    size = sums["size"].where(sums["size"] > 0)
    out = {"n": sums["n"], "error": sums["error"] / size, "baseline_error": sums["baseline_error"] / size}
    out |= {"coverage": sums["coverage"] / sums["n"], "size": sums["size"] / sums["n"]}
    return pd.DataFrame(out).reset_index()
