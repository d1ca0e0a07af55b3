"""The forecast table of a run: from quantile arrays to rows, looked over, and put into the shape the warehouse publishes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa

from forecastbook import backtest, gate, models, training
from forecastbook.backtest import Origin
from forecastbook.gate import Gate
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.run import Run
from forecastbook.trades import PRICES, SALES
from forecastbook.wording import counted, moment, percent

FORMATS = {  # how the columns of these tables are shown
    "price now": ",.2f",
    "probability of a change": percent,
    "of a rise": percent,
    "point": ",.2f",
    "90 % band from": ",.2f",
    "to": ",.2f",
}


def now(panel: Panel, params: Params, decided: Gate, speaker=None) -> Origin:
    """The forecasts that may be published from the as-of date itself: nothing has come yet, so ``y`` is NaN.

    Asked are the safe baseline, and what the gate decided to use: a baseline, or one of the experts (``speaker``).
    """
    at, trade = backtest.opened(panel, params), params.trade
    asked = {name: models.fit(name, panel, trade) for name in {trade.safe, decided.use} & set(trade.baselines)}
    if speaker and decided.use not in trade.baselines:
        asked[params.model.name] = speaker
    for name, said in models.forecasts(asked, panel, params.horizon, params.levels).items():
        at.put(name, said)
    training.experts_of(params).blend_in(at, decided.mix, params)
    return at


def speaker(run: Run):
    """The experts that this run's model directory holds; None where only the baselines can speak."""
    return training.experts_of(run.params).load(run.dir / "model")


def looks(speaker, panel: Panel) -> tuple[pd.DataFrame, np.ndarray]:
    """What the experts look at: feature importance, mean attention (H, L); empty where there are none."""
    return speaker.looks(panel) if speaker else (pd.DataFrame(columns=["feature", "share"]), np.empty((0, 0)))


def frame(at: Origin, decided: Gate, panel: Panel, params: Params, run: Run) -> pd.DataFrame:
    """``forecast.parquet``: one row a series and period ahead, of every series that is forecast; sorted by series and date."""
    q, p, beside, source = gate.publishable(at, decided, params)
    keep, H = np.flatnonzero(source != "excluded"), params.horizon
    columns = {
        "series_id": np.repeat(panel.ids[keep], H),
        "ts": np.tile(at.ts, len(keep)).astype("datetime64[ms]"),
        "horizon": np.tile(np.arange(1, H + 1), len(keep)),
    }
    columns |= {backtest.level_name(level): q[keep, :, k].ravel() for k, level in enumerate(params.levels)}
    out = pd.DataFrame(
        columns
        | {
            params.trade.probability: p[keep].ravel(),
            params.trade.beside: beside[keep].ravel(),
            "last_value": np.repeat(at.last[keep], H),
            "source": np.repeat(source[keep], H),
        }
    )
    out["run_id"], out["model_id"], out["as_of"], out["job"] = run.id, params.publish.model_id, run.as_of, run.job
    out["ts"] = out["ts"].dt.date
    return out


def sanity(frame: pd.DataFrame, params: Params) -> pd.DataFrame:
    """What must not be in a forecast table, counted: check, found (rows), result."""
    names = [backtest.level_name(level) for level in params.levels]
    q = frame[names].to_numpy()
    jump = np.abs(np.log(np.maximum(frame["q50"], 1e-12) / np.maximum(frame["last_value"], 1e-12))) > np.log(2)
    chance = frame[params.trade.probability]
    possible = chance.between(0, 1) & (frame["p_up"].between(0, chance) if params.trade is PRICES else True)
    found = {
        "missing or infinite values": int((~np.isfinite(q)).any(axis=1).sum()),
        "negative values": int((q < 0).any(axis=1).sum()),
        "crossing quantiles": int((np.diff(q, axis=1) < 0).any(axis=1).sum()),
        "impossible probabilities": int((~possible).sum()),
        "series without every period": int((frame.groupby("series_id").size() != params.horizon).sum()),
    }
    rows = [(name, count, "ok" if not count else "fault") for name, count in found.items()]
    if params.trade is SALES:
        jump = (frame["mean"] > frame["q95"]).to_numpy()
        rows.append(("mean above the 95 % quantile", int(jump.sum()), "ok" if not jump.any() else "look"))
    else:
        rows.append(("point more than doubled or halved", int(jump.sum()), "ok" if not jump.any() else "look"))
    return pd.DataFrame(rows, columns=["check", "found", "result"])


def moves(frame: pd.DataFrame, series: pd.DataFrame, top: int = 15) -> pd.DataFrame:
    """The prices likeliest to differ on the last period, first: series_id, title, last_value, q05, q50, …, move."""
    final = frame[frame["horizon"] == frame["horizon"].max()].merge(series[["series_id", "title"]], on="series_id", how="left")
    final = final.assign(move=final["q50"] / final["last_value"] - 1)
    columns = ["series_id", "title", "last_value", "q05", "q50", "q95", "p_change", "p_up", "move"]
    return final.sort_values(["p_change", "series_id"], ascending=[False, True])[columns].head(top).reset_index(drop=True)


def moves_table(likely: pd.DataFrame) -> pd.DataFrame:
    """``moves`` as a reader wants it: item, price now, probability of a change and of a rise, expected point, 90 % band."""
    return pd.DataFrame(
        {
            "item": likely["title"].fillna(likely["series_id"]),
            "price now": likely["last_value"],
            "probability of a change": likely["p_change"],
            "of a rise": likely["p_up"],
            "point": likely["q50"],
            "90 % band from": likely["q05"],
            "to": likely["q95"],
        }
    )


def rows(frame: pd.DataFrame, series: pd.DataFrame, target: str) -> pa.Table:
    """The rows of a fact table, keyed by the text ``series_id`` (the warehouse makes its integer key) with their titles."""
    titles = frame[["series_id"]].merge(series[["series_id", "title"]], on="series_id", how="left")["title"]
    columns = {
        "series_id": pa.array(frame["series_id"], pa.string()),
        "title": pa.array(titles, pa.string()),
        "forecast_date": pa.array(frame["ts"], pa.date32()),
        "horizon": pa.array(frame["horizon"], pa.int64()),
    }
    named = (
        {"predicted_price": "q50", "confidence_upper": "q95", "confidence_lower": "q05", "p_change": "p_change"}
        if target == "FactPriceForecast"
        else {q: q for q in ("q05", "q25", "q50", "q75", "q95", "mean")}
    )
    return pa.table(columns | {name: pa.array(frame[source].to_numpy(float)) for name, source in named.items()})


def model_record(run: Run, table: pd.DataFrame) -> dict:
    """The run's row in DimModel: what was published, how well it did over the rolling origins, and every hyperparameter."""
    overall = table[(table["slice"] == "all") & (table["model"] == "published")]
    metrics = {row.metric: row.value for row in overall.itertuples() if np.isfinite(row.value)}
    metrics |= {"coverage": metrics["coverage90"]} if "coverage90" in metrics else {}  # as the readers of DimModel know it
    decided = run.manifest["gate"]
    name, family = run.params.trade.families[run.params.model.name]
    path = run.dir / "model" / "model.json"
    described = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {
        "model_name": name,
        "model_version": run.id,
        "model_type": family,
        "training_date": run.as_of,
        "performance_metrics": metrics
        | {"n": int(overall["n"].max()) if len(overall) else 0, "published": decided["use"], "gate_skill": decided["skill"]},
        "hyperparameters": run.params.model.model_dump()
        | described.get("hyperparameters", {})  # what the network was made with: a fine-tuned one keeps much of its champion's
        | {"finetune": run.params.finetune.model_dump()},
    }


class PublishError(RuntimeError):
    """A forecast that may not be published."""


def publish(run: Run, store, forecast: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Publish the run's forecasts once, note the receipt, and return it as a table (what, value).

    Raises PublishError when a sanity check found a fault, or when the gate has a limit and the error is above it or not known,
    and the warehouse's own error when it says no; the forecasts of earlier runs are then served as before.
    """
    params = run.params
    faults = sanity(forecast, params)
    if (faults["result"] == "fault").any():
        raise PublishError(
            f"not published: {', '.join(faults.loc[faults['result'] == 'fault', 'check'])} in the forecast table"
        )
    table = run.read("scores.parquet")
    used = series[series["refused"] == 0] if "refused" in series else series  # ids of refused rows are nobody's keys
    error = table.loc[(table["model"] == "published") & (table["metric"] == "rel_mae") & (table["slice"] == "all"), "value"]
    limit = params.gate.refuse_above
    if limit is not None and not error.le(limit).any():
        known = (
            f"{error.iloc[0]:.3f} over the rolling origins"
            if error.notna().any()
            else "not known, as no forecast has met its actual,"
        )
        raise PublishError(f"not published: the relative error is {known} and gate.refuse_above allows {limit}")
    if not params.publish.enabled:
        run.note(receipt={"status": "not published: publish.enabled is false"})
        return pd.DataFrame({"what": ["status"], "value": [run.manifest["receipt"]["status"]]})
    store.migrate()
    receipt = store.publish(
        job=run.job,
        model_id=params.publish.model_id,
        as_of=run.as_of,
        run_id=run.id,
        table=params.publish.table,
        rows=rows(forecast, series, params.publish.table),
        model=model_record(run, table),
        among=used["series_id"],
    )
    run.note(receipt=receipt | {"warehouse": run.warehouse})
    return _told(receipt)


def _told(receipt: dict) -> pd.DataFrame:
    """A receipt as a reader wants it: what, value."""
    words = {"as_of": "as of", "run_id": "run", "model_id": "number in DimModel", "series": "items"}
    words |= {"content_hash": "hash of the rows", "published_at": "published at", "new_in_dimension": "new items"}
    forms = dict.fromkeys(("rows", "series", "new_in_dimension"), "{:,}".format) | {"published_at": moment}
    said = [(words.get(name, name), str(forms.get(name, str)(value))) for name, value in receipt.items()]
    return pd.DataFrame(said, columns=["what", "value"])


def read_back(run: Run, store, forecast: pd.DataFrame) -> str:
    """Count what the warehouse now holds of this run and what it serves; raises PublishError when rows are missing."""
    if not run.params.publish.enabled:
        return "Nothing was published, so there is nothing to read back."
    stored = store.published(run.id, run.params.publish.table, run.as_of)
    if stored.num_rows != len(forecast):
        raise PublishError(
            f"the warehouse holds {counted(stored.num_rows, 'row')} of run {run.id}, of {len(forecast):,} that were sent"
        )
    served = store.current(run.job, run.params.publish.table)
    newest, (name,) = max(served["as_of"].to_pylist()), set(served["run_id"].to_pylist())
    note = "this run" if name == run.id else f"the run as of {newest}, which is newer"
    if name != run.id and newest == run.as_of:
        note = f"run {name}, which was published later for the same date"
    rows, are = counted(stored.num_rows, "row"), "is" if stored.num_rows == 1 else "are"
    return f"{rows} of this run {are} stored; readers are served {counted(served.num_rows, 'row')} of {note}."


def history(panel: Panel, ids: list[str]) -> pd.DataFrame:
    """Observed values of some series as a long frame: series_id, ts, y, title."""
    at = np.flatnonzero(np.isin(panel.ids, ids))
    T = len(panel.dates)
    return pd.DataFrame(
        {
            "series_id": np.repeat(panel.ids[at], T),
            "ts": np.tile(panel.dates.astype("datetime64[ns]"), len(at)),
            "y": panel.y[at].ravel(),
            "title": np.repeat(panel.titles[at], T),
        }
    )
