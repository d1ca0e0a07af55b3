"""What a run's report says about itself: the download, the data it used and left out, what changed since, how it was made."""

from __future__ import annotations

import base64
import contextlib
import json
import re

import numpy as np
import pandas as pd

from forecastbook import counts, pages, points, roster, trades
from forecastbook.agenda import big, moves
from forecastbook.runfiles import RunFiles, dated, scores_of
from forecastbook.scores import CHANGED
from forecastbook.tables import Html, table
from forecastbook.wording import (
    CHANGE,
    change,
    counted,
    in_points,
    model_name,
    moment,
    percent,
    period_name,
    settings,
    share2,
    shorten,
    span,
    the,
    unread,
)

ROWS = {  # file of a run -> what a row of it is
    "panel": "observed values",
    "series": "items",
    "quarantine": "rows set aside",
    "backtest": "past forecasts replayed: a model, item and date",
    "scores": "scores of these",
    "forecast": "forecasts: an item and date",
    "track_record": "scores of earlier publications",
}


def downloads(run: RunFiles, plan: pd.DataFrame | None = None, moved: pd.DataFrame | None = None) -> list[dict]:
    """Write forecast.csv beside the page, with a ``reorder.plan`` orders.csv, with ``agenda.moves`` of prices changes.csv.

    Each is embedded too while it is small.
    """
    forecast, out = run.frame("forecast"), []
    for what in ("changes", "orders"):  # of a page that was made before
        (run.dir / f"{what}.csv").unlink(missing_ok=True)
    if moved is not None and len(rows := big(moved)):
        columns = {"series_id": "series_id", "title": "title", "last_value": "last_price", "q50": "expected_price"}
        columns |= {"move": "change", "ts": "date", "q05": "lower", "q95": "upper", "p_change": "p_change", "p_up": "p_up"}
        rows = rows.assign(title=_titles(run, rows["series_id"]))
        rows = rows[[name for name in columns if name in rows]].rename(columns=columns)
        out.append(_written(run, "changes", "Prices expected to move, every one", rows))
    if plan is not None and len(plan):
        known = plan.replace([np.inf, -np.inf], np.nan).dropna(axis=1, how="all")
        out.append(_written(run, "orders", "What to order, every item", known))
    if forecast is not None:
        rows = forecast.drop(columns=[c for c in ("run_id", "model_id", "job") if c in forecast])
        rows.insert(1, "title", _titles(run, rows["series_id"]))
        out.append(_written(run, "forecast", "All forecasts", rows))
    return out


def _titles(run: RunFiles, ids: pd.Series) -> pd.Series:
    """The titles of items as the data have them, not shortened; the id where there is none."""
    return ids.map(run.titles).fillna(ids) if len(run.titles) else ids


def _written(run: RunFiles, what: str, label: str, rows: pd.DataFrame) -> dict:
    """A table as a file beside the page: label, file, name to save it as, size in words, uri ('' where it is too large)."""
    text = "\ufeff" + safe_csv(rows)  # the mark tells a spreadsheet that this is UTF-8
    pages.write(run.dir / f"{what}.csv", text)
    data = text.encode("utf-8", errors="replace")
    name = re.sub(r"[^\w.-]+", "_", f"{what}_{run.manifest.get('job')}_{run.manifest.get('as_of')}.csv")
    uri = "data:text/csv;charset=utf-8;base64," + base64.b64encode(data).decode() if len(data) < 600_000 else ""
    size = f"{len(data) / 1e6:,.1f} MB" if len(data) > 1e6 else f"{max(len(data) // 1000, 1):,} KB"
    size = f"{counted(len(rows), 'row')}, {size}"
    return {"label": label, "uri": uri, "file": f"{what}.csv", "name": name, "size": size}


def safe_csv(frame: pd.DataFrame) -> str:
    """CSV text in which no cell is a formula: text that begins like one (= + - @, tab, return) gets an apostrophe in front."""

    def inert(value: object) -> object:
        if isinstance(value, str) and (
            value.lstrip(" \n\u00a0\ufeff")[:1] in tuple("=+-@\t\r|＝＋－＠") and value.strip(" ") or value[:1] in "\t\r\n"
        ):
            return "'" + value
        return value

    out = frame.copy()
    for column in out.columns:
        if not (pd.api.types.is_numeric_dtype(out[column]) or pd.api.types.is_datetime64_any_dtype(out[column])):
            out[column] = out[column].map(inert)
    out.columns = [inert(str(c)) for c in out.columns]
    return out.to_csv(index=False, lineterminator="\r\n", date_format="%Y-%m-%d")


def quality(run: RunFiles, trade: trades.Trade) -> dict:
    """What the data hold, which items were left out and why, and which rows were set aside."""
    series, quarantine, panel, forecast = (run.frame(n) for n in ("series", "quarantine", "panel", "forecast"))
    lines, tables = [], []
    as_of = pd.Timestamp(run.manifest.get("as_of"))
    if panel is not None:
        seen = panel.dropna(subset=["y"])
        freq = str((run.manifest.get("params") or {}).get("freq") or "D")
        unit, newest = period_name(freq), seen["ts"].max()
        length = span(len(pd.date_range(panel["ts"].min(), panel["ts"].max(), freq=freq)), unit)
        behind = len(pd.date_range(newest, as_of, freq=freq)) - 1
        late = f", {span(behind, unit)} before the as-of date" if behind > 0 else ""
        day = f"{newest:%-d %B %Y}" if unit == "days" else dated(newest, freq)
        items, values = counted(seen["series_id"].nunique(), "item"), counted(len(seen), "observed value")
        lines.append(f"{items} with {values} over {length}; the newest is of {day}{late}.")
    noted = {k: v for k, v in (run.manifest.get("rows") or {}).items() if isinstance(v, (int, float))}
    if noted:
        rows = [(ROWS.get(k, k.replace("_", " ")), v) for k, v in noted.items()]
        named = pd.DataFrame(rows, columns=["what", "rows"])
        tables.append(table(named, caption="Rows in and out"))
    if series is not None and "why" in series:
        unit = period_name(str((run.manifest.get("params") or {}).get("freq") or "D"))
        why = series["why"].astype("string").replace("", pd.NA)
        if forecast is not None:
            why = why.where(series["series_id"].isin(set(forecast["series_id"])), why.fillna("no forecast could be made of it"))
            lines += _handed(forecast, set(series.loc[why.isna(), "series_id"]))
        named = series.assign(
            source=series["source"].astype(str) if "source" in series else "",
            why=roster.kinds(why, unit),
        )
        marked = named[named["why"].notna()]
        if forecast is not None:
            marked = marked.assign(
                source=np.where(marked["series_id"].isin(set(forecast["series_id"])), marked["source"], "left out")
            )
        grouped = marked.groupby(["source", "why"], observed=True)["series_id"].agg(["size", "first"]).reset_index()
        grouped = grouped.sort_values("size", ascending=False)
        grouped["first"] = run.title(grouped["first"])
        grouped["source"] = grouped["source"].replace({"naive": "baseline", "excluded": "left out"})
        heads = {"source": "forecast by", "size": "items", "first": "for example"}
        tables.append(
            table(
                grouped,
                headers=heads,
                caption="Items left out, or forecast by the baseline, and why",
                empty="By the rules for items, none was left out or handed to the baseline.",
                limit=15,
            )
        )
    stale = series[series["last_ts"] < as_of - pd.Timedelta(days=14)] if series is not None and "last_ts" in series else None
    if stale is not None and len(stale):
        have = "has" if len(stale) == 1 else "have"
        lines.append(f"{counted(len(stale), 'item')} {have} not been observed for more than 14 days.")
    source = (run.manifest.get("params") or {}).get("source") or {}
    if idle := trade.unread(*(source.get(kind) or [] for kind in ("past", "future", "static"))):
        lines.append(unread(idle, trade.things, trade.reads))
    tally = run.manifest.get("counts") or {}
    if again := tally.get("duplicates resolved"):
        other = tally.get("duplicates with another value", 0)
        apart = f", {other:,} of them with" if other != again else ", all with" if again > 1 else " with"
        lines.append(f"{counted(again, 'row')} gave way to another of the same item and date{apart} another value.")
    if more := sum(n for what, n in tally.items() if what.endswith("not listed")):
        lines.append(
            f"Beyond those listed, {counted(more, 'row')} {'was' if more == 1 else 'were'} counted for the same reasons."
        )
    if quarantine is not None:
        by = quarantine["reason"].astype(str).value_counts().rename_axis("reason").reset_index(name="rows")
        were = f"{counted(len(quarantine), 'row')} {'was' if len(quarantine) == 1 else 'were'}"
        tables.append(table(by, caption=f"{were} set aside and not used", limit=15))
        keep = [
            c for c in ("file", "sheet", "row", "column", "value", "reason") if c in quarantine and quarantine[c].notna().any()
        ]
        sample = quarantine[keep].assign(**({"row": quarantine["row"].astype("Int64").astype(str)} if "row" in keep else {}))
        tables.append(Html(f"<details><summary>the first of them</summary>{table(sample, limit=20)}</details>"))
    else:
        looked = (run.dir / "quarantine.parquet").is_file()
        lines.append(
            "No row was set aside: every row kept the contract." if looked else "The run stopped before its rows were kept."
        )
    return {"lines": lines, "tables": tables}


def _handed(forecast: pd.DataFrame, ruled: set[str]) -> list[str]:
    """What the gate publishes for items that a model might forecast (ids ``ruled``), where that is a baseline; a line each."""
    if "source" not in forecast:
        return []
    source = forecast.drop_duplicates("series_id").set_index("series_id")["source"].astype(str)
    source = source[source.index.isin(ruled) & (source != "model")]
    names = source.replace("naive", trades.of(forecast).safe)
    return [
        f"For {counted(n, 'item')} that a model might forecast the gate publishes {the([name])}."
        for name, n in names.value_counts().items()
    ]


def since(run: RunFiles, before: RunFiles | None, head: dict | None, trade: trades.Trade) -> dict:
    """What changed since the finished run before: items, prices, scores, and what came of that run's forecasts."""
    if before is None:
        return {"lines": ["No run of an earlier as-of date is finished, so there is nothing to compare with."], "tables": []}
    lines, tables = [], []
    old, new = before.titles, run.titles
    if len(old) and len(new):
        fresh, gone = new.index.difference(old.index), old.index.difference(new.index)
        both = new.index.intersection(old.index)
        renamed = [i for i in both if new[i] != old[i]]
        lines.append(
            f"Compared with {before.manifest['as_of']}: items new {len(fresh):,}, gone {len(gone):,}, "
            f"with another title {len(renamed):,}."
        )
        rows = [("new", i, new[i]) for i in fresh[:10]] + [("gone", i, old[i]) for i in gone[:10]]
        rows += [("retitled", i, f"{shorten(old[i], 32)} → {shorten(new[i], 32)}") for i in renamed[:10]]
        if rows:
            tables.append(table(pd.DataFrame(rows, columns=["what", "id", "item"]), caption="Items, up to ten of each kind"))
    came = _what_came(before, run.frame("panel"), trade)
    if came is not None and len(came):
        error, held = came["error"].mean(), came["inside90"].mean() if "inside90" in came else np.nan
        lines.append(
            f"Of that run's forecasts {len(came):,} {'has met its actual' if len(came) == 1 else 'have met their actuals'} "
            "since: "
            f"mean error {share2(error)}, {percent(held)} inside the 90 % band."
        )
    if head:
        was = scores_of(before.dir)
        labels = {"error": "error / last price", "skill": "skill", "inside90": "inside 90 % band"}
        if trade is trades.SALES:
            labels |= {"error": trade.loss, "inside90": "inside 90 % band, where sold"}
        rows = [(label, was[k], head[k], head[k] - was[k]) for k, label in labels.items() if was.get(k) is not None]
        if rows:
            frame = pd.DataFrame(rows, columns=["score", "was", "is", "difference"])
            tables.append(
                table(
                    frame,
                    {"was": share2, "is": share2, "difference": in_points},
                    {"difference": "difference, points"},
                    caption="Backtest then and now",
                )
            )
    then, now = moves(before), moves(run)
    if then is not None and now is not None and "p_change" in now:
        both = now.merge(then[["series_id", "last_value"]], on="series_id", suffixes=("", "_then"))
        both["moved"] = both["last_value"] / both["last_value_then"].where(both["last_value_then"] > 0) - 1
        moved = both[both["moved"].abs() > CHANGED].sort_values("moved", key=lambda v: -v.abs())
        lines.append(f"Prices that changed in between: {len(moved):,} of {len(both):,} ({CHANGE}).")
        if len(moved):
            tables.append(
                table(
                    moved[["title", "last_value_then", "last_value", "moved"]],
                    {"last_value_then": ",.2f", "last_value": ",.2f", "moved": change},
                    {"title": "item", "last_value_then": "price then", "last_value": "price now", "moved": "change"},
                    caption="Largest changes in between",
                    limit=8,
                )
            )
    return {"lines": lines or ["The last run left nothing to compare with."], "tables": tables}


def _what_came(before: RunFiles, panel: pd.DataFrame | None, trade: trades.Trade) -> pd.DataFrame | None:
    """The last run's forecasts scored on what this run's panel has observed since; a stock-out says nothing of demand."""
    forecast = before.frame("forecast")
    if forecast is None or panel is None:
        return None
    actual = panel[panel["ts"] > pd.Timestamp(before.manifest["as_of"])]
    if trade is trades.SALES and "available" in actual:
        actual = actual.assign(y=counts.demand(actual["y"].to_numpy(), actual["available"].to_numpy(dtype=bool)))
    met = forecast.drop(columns=["y"], errors="ignore").merge(actual[["series_id", "ts", "y"]], on=["series_id", "ts"])
    return points.errors(met)


def published(manifest: dict) -> str:
    """When, and by whom it is superseded: '2026-01-05 06:12 UTC'; '' for a run that published nothing."""
    receipt = manifest.get("receipt") or {}
    status = str(receipt.get("status"))
    return moment(receipt.get("published_at") or "") + (f", {status}" if status.startswith("superseded") else "")


def _code(said: dict) -> str:
    """The commit of a manifest, or of a step in it, and whether all was committed."""
    commit, dirty = str(said.get("commit") or "no git"), said.get("dirty")
    return commit if commit == "no git" or dirty is None else f"{commit} ({'with uncommitted changes' if dirty else 'clean'})"


def _settings(run: RunFiles) -> str:
    """Where hyperparameters come from that are not those of the params: 'found by make tune as of 2017-12-31: …'; else ''."""
    if not isinstance(tuned := run.manifest.get("tuned"), dict) or not tuned:
        return ""
    when = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # the last search, where this is what it found
        last = json.loads((run.dir.parent / "tuned.json").read_text(encoding="utf-8"))
        when = f" as of {last['as_of']}" if last["hyper"] == tuned else ""
    return f"found by make tune{when}: {settings(tuned)}"


def making(run: RunFiles) -> dict:
    """Run, data, parameters, code, seed, hardware, versions and seconds."""
    m = run.manifest
    code = _code(m)
    later = {step: said for step, made in (m.get("code") or {}).items() if (said := _code(made)) != code}
    gate, receipt = m.get("gate") or {}, m.get("receipt") or {}
    where = f"{counted(receipt['rows'], 'row')} to {receipt.get('table')}, " if receipt.get("rows") else ""
    facts = [
        ("run", m.get("run_id")),
        ("as of", m.get("as_of")),
        ("data", m.get("data_hash")),
        ("parameters", m.get("params_hash")),
        ("code", code),
        *((f"code of {step.replace('_', ' ', 1)}", said) for step, said in later.items()),
        ("seed", m.get("seed")),
        ("settings", _settings(run)),
        ("published by", model_name(gate["use"]) if gate.get("use") else ""),
        ("published", where + published(m) if where else "not published"),
        ("hardware", ", ".join(f"{k} {v}" for k, v in (m.get("hardware") or {}).items())),
    ]
    seconds = {k: v for k, v in (m.get("seconds") or {}).items() if isinstance(v, (int, float))}
    steps = pd.DataFrame([(k.replace("_", " ", 1), v) for k, v in seconds.items()], columns=["step", "seconds"])
    return {
        "facts": [(k, v) for k, v in facts if v not in (None, "")],
        "steps": table(steps, {"seconds": ",.1f"}, caption=f"Seconds per step, {sum(seconds.values()):,.0f} in all")
        if len(steps)
        else "",
        "params": json.dumps(m.get("params") or {}, indent=1, ensure_ascii=False, default=str),
        "versions": "\n".join(f"{k} {v}" for k, v in (m.get("versions") or {}).items()),
    }
