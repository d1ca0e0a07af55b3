"""Reports: one file a page, inert whatever an item is called, small whatever a cell prints, whole or not at all."""

from __future__ import annotations

import base64
import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from forecastbook import agenda, evidence, figures, points, provenance, report, runfiles, scoreboard, style, tables, wording
from forecastbook.files import RunError
from forecastbook.intake import Intake
from forecastbook.scores import CHANGED
from forecastbook.trades import PRICES, SALES
from forecastbook.wording import labels, share1
from test_figures import HOSTILE, rolling_backtest, sticky_forecast, sticky_prices, words

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EXTERNAL = re.compile(r"https?://|<script|<iframe|<object|<link|url\(|\son\w+\s*=|javascript:|@import", re.I)


def scores_of(backtest: pd.DataFrame) -> pd.DataFrame:
    """scores.parquet of a backtest."""
    scored = points.errors(backtest)
    names = {"error": "rel_mae", "loss": "rel_ql", "inside90": "coverage90", "inside50": "coverage50"}
    wide = scored.groupby("model")[list(names)].mean().rename(columns=names).reset_index()
    return wide.melt("model", var_name="metric", value_name="value").assign(slice="all", n=len(scored))


def make_run(
    out: Path, as_of: str = "2026-01-05", seed: int = 0, job: str = "prices", status: str = "done", **manifest
) -> Path:
    """A finished run directory with hostile titles, in the files and columns of a real one."""
    directory = out / job / as_of
    directory.mkdir(parents=True)
    panel = sticky_prices(seed=seed)
    panel = panel[panel["ts"] <= as_of]
    forecast = sticky_forecast(panel, seed=seed + 1)
    forecast["ts"] = pd.Timestamp(as_of) + pd.to_timedelta(forecast["horizon"], unit="D")
    forecast = forecast[forecast["series_id"] != "v0050"].assign(run_id=f"{job}-{as_of}", model_id=100, as_of=as_of, job=job)
    backtest = rolling_backtest(panel, seed=seed + 2)
    seen = panel.dropna(subset=["y"]).groupby("series_id", sort=False)
    series = seen.agg(title=("title", "last"), last_value=("y", "last"), last_ts=("ts", "last"), n_obs=("y", "size"))
    series = series.reset_index()
    series["source"] = series["series_id"].map(forecast.groupby("series_id")["source"].first()).fillna("excluded")
    series["why"] = series["source"].map(
        {"model": None, "naive": "the model has no proven skill here", "excluded": "fewer than 30 observed days"}
    )
    quarantine = pd.DataFrame(
        {
            "file": "prices.csv",
            "sheet": None,
            "row": [7, 12, 90],
            "column": ["price", "price", "date"],
            "value": ["-3.99", HOSTILE["p000"], "2025-02-30"],
            "reason": ["negative price", "not a number", "impossible date"],
        }
    )
    frames = {
        "panel": panel.drop(columns="title"),
        "forecast": forecast,
        "backtest": backtest,
        "series": series,
        "scores": scores_of(backtest),
        "quarantine": quarantine,
    }
    for name, frame in frames.items():
        frame.to_parquet(directory / f"{name}.parquet", index=False)
    record = {
        "run_id": f"{job}-{as_of.replace('-', '')}-1f3a9c",
        "job": job,
        "as_of": as_of,
        "status": status,
        "params_hash": "9b1c22d07a44",
        "params": {"horizon": 7, "seed": 0, "source": {"kind": "warehouse_prices", "history_days": 400}},
        "data_hash": "c0ffee123456",
        "commit": "4f2d8a1b9c3e",
        "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "seed": 0,
        "hardware": {"cores": 2, "machine": "x86_64"},
        "rows": {"facts_read": 11240, "facts_used": 11180, "forecast": len(forecast)},
        "seconds": {"01_ingest": 4.2, "03_finetune": 41.0, "04_forecast": 9.1, "05_evaluate": 7.7},
        "steps": {s: "done" for s in ("01_ingest", "03_finetune", "04_forecast", "05_evaluate")},
        "gate": {
            "verdict": "The fine-tuned LSTM is published: it saves a third of the last value's error on eight held-out dates.",
            "use": "blend",
            "skill": 0.33,
            "origins": 8,
            "hold_median": False,
            "standings": [
                {"model": "blend", "score": 0.0067, "skill": 0.33, "expected": 0.27, "doubt": 0.02, "hold": False},
                {"model": "last_value", "score": 0.01, "skill": 0.0, "expected": 0.0, "doubt": 0.0, "hold": False},
                {"model": "lstm", "score": None, "skill": None, "expected": None, "doubt": 0.03, "hold": True},
            ],
            "cold_start": False,
        },
        "receipt": {
            "table": "FactPriceForecast",
            "rows": len(forecast),
            "published_at": f"{as_of} 06:00",
            "warehouse": "duckdb",
        },
    } | manifest
    (directory / "manifest.json").write_text(json.dumps(record))
    return directory


def notebook(*cells, path: Path, tags=()) -> Path:
    """Write a notebook of the given cells as executed."""
    nb = new_notebook(cells=list(cells))
    for number, cell in enumerate((c for c in nb.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    nbformat.write(nb, path)
    return path


def shown(source: str = "show()", tags=(), **data):
    """A code cell with one output of the given MIME types."""
    bundle = {k.replace("_", "/").replace("image/svg", "image/svg+xml"): v for k, v in data.items()}
    return new_code_cell(source, outputs=[new_output("display_data", bundle)], metadata={"tags": list(tags)})


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """An OUT with two runs; the newest has a notebook."""
    out = tmp_path_factory.mktemp("book with a space")
    make_run(out, "2025-12-29")
    directory = make_run(out)
    frame, forecast = sticky_prices(8), None
    frame = frame[frame["series_id"].isin(list(HOSTILE))]
    forecast = sticky_forecast(frame).merge(frame[["series_id", "title"]].drop_duplicates(), on="series_id")
    fig = figures.fans(frame, forecast, list(HOSTILE)[:4])
    data, meta = fig._repr_mimebundle_()
    notebook(
        new_markdown_cell(
            "# What do the next seven days look like?\n\nReads `panel.parquet`, writes `forecast.parquet`. Costs $5, or $x_1$."
        ),
        new_code_cell("as_of = '2026-01-05'  # the last day\nhorizon = 7", metadata={"tags": ["parameters"]}),
        new_markdown_cell("## Forecast\n\nEvery item gets a median and two bands."),
        new_code_cell(
            "forecast = models.predict(model, panel)",
            outputs=[
                new_output("stream", name="stderr", text="\r".join(f"predict {i:3d} %" for i in range(101)) + "\n"),
                new_output("stream", name="stdout", text="60 series x 7 days\n"),
            ],
        ),
        new_markdown_cell("## The likeliest moves"),
        shown(
            "moves",
            text_html=tables.table(
                forecast[["series_id", "title", "q50", "p_change"]].head(8),
                {"q50": ".2f", "p_change": wording.percent},
                caption="Eight items",
            )._repr_html_(),
            text_plain="table",
        ),
        shown("pd.DataFrame", text_html=forecast[["series_id", "horizon", "q05", "q50"]].head(4).to_html(), text_plain="frame"),
        new_code_cell("figures.fans(panel, forecast)", outputs=[new_output("display_data", data, metadata=meta)]),
        path=directory / "04_forecast.ipynb",
    )
    assert report.main([str(out)]) == 0
    return out


def pages(out: Path) -> list[Path]:
    return sorted(out.rglob("*.html"))


def test_pages_are_one_small_file_each_with_nothing_external(book):
    assert len(pages(book)) == 4
    for page in pages(book):
        text = page.read_text(encoding="utf-8")
        assert page.stat().st_size < 3_000_000
        outside = re.sub(r"&lt;.*?&gt;|&#?\w+;", " ", text)
        found = [m for m in EXTERNAL.finditer(outside)]
        tags = "".join(re.findall(r"<[a-z][^>]*>", text))
        assert not EXTERNAL.search(tags), (page.name, EXTERNAL.search(tags))
        assert not any(m[0].startswith(("<", "url(", "http")) for m in found), (page.name, found)
        assert all(s.startswith("data:image/png;base64,") for s in re.findall(r'\ssrc="([^"]*)"', tags))
        assert all(re.match(r"#|data:text/csv|[\w./+-]+\.(html|csv)$", h) for h in re.findall(r'href="([^"]*)"', tags))
        assert "default-src 'none'" in text
        assert all(re.search(r'alt="[^"]{8,}"', tag) for tag in re.findall(r"<img[^>]*>", text))


def test_links_between_pages_lead_somewhere(book):
    for page in pages(book):
        for href in re.findall(r'href="([^"#:]+)"', page.read_text(encoding="utf-8")):
            assert (page.parent / href).is_file(), (page, href)


def test_the_run_report_has_its_sections_in_order_and_says_what_the_data_say(book):
    text = unbroken((book / "prices/2026-01-05/report.html").read_text(encoding="utf-8"))
    heads = re.findall(r'<h2 id="(\w+)"', text)
    assert heads == ["accuracy", "fans", "uncertainty", "agenda", "downloads", "quality", "since", "provenance"]
    assert len(re.findall(r'<div class="card \w+">', text)) == 5
    assert "59 of 60" in text and "1 left out" in text and "fewer than 30 observed days" in text
    assert "negative price" in text and "3 rows were set aside" in text
    assert "Compared with 2025-12-29" in text and "4f2d8a1b9c3e (clean)" in text and "c0ffee123456" in text
    scored = points.errors(pd.read_parquet(book / "prices/2026-01-05/backtest.parquet"))
    held = scored.loc[scored["model"] == "published", "inside90"].mean()
    assert f"{100 * held:.0f} % of actual prices fell inside a band that promised 90 %" in text


def test_the_candidates_stand_in_the_report_best_first_and_the_published_one_is_named(book):
    text = unbroken((book / "prices/2026-01-05/report.html").read_text(encoding="utf-8"))
    found = text.split("What might have been published, on 8 finished origins")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in found.split("<tr")[2:]]
    assert [row[0] for row in rows] == ["blend of experts (published)", "last value", "LSTM, point held"]
    assert rows[0][1:] == ["0.67 %", "+33.0 %", "+27.0 %"] and "nan" not in found.lower() and "None" not in found
    index = (book / "index.html").read_text(encoding="utf-8")
    assert "blend of experts" in index
    assert re.search(r"published by</\w+>\s*<\w+[^>]*>blend of experts<", text)


def test_a_run_that_readers_do_not_get_is_not_said_to_be_published_only(tmp_path):
    receipt = {"table": "FactPriceForecast", "rows": 7, "published_at": "2026-01-05 06:00", "status": "superseded by run quick"}
    for status, said in ((receipt["status"], True), ("published", False)):
        text = report.render_run(make_run(tmp_path / status[:3], receipt=receipt | {"status": status})).read_text()
        assert text.count("published 2026-01-05 06:00 UTC, superseded by run quick") == int(said)
        assert text.count("FactPriceForecast, 2026-01-05 06:00 UTC, superseded by run quick") == int(said)


def test_the_heading_says_which_days_are_forecast_and_the_verdict_names_the_strongest_baseline(tmp_path):
    kept = {"model": "historical_quantiles", "score": 0.007, "skill": 0.3, "expected": 0.2, "doubt": 0.02, "hold": True}
    gate = json.loads((make_run(tmp_path / "a") / "manifest.json").read_text())["gate"] | {"verdict": "The blend is published."}
    directory = make_run(tmp_path / "b", gate=gate | {"standings": [*gate["standings"], kept]})
    text = plain_text(report.render_run(directory).read_text())
    days = pd.read_parquet(directory / "forecast.parquet")["ts"]
    assert f"Job prices · As of 2026-01-05 · forecast for {days.min():%Y-%m-%d} to {days.max():%Y-%m-%d} · run" in text
    assert re.search(r"was \d+\.\d % lower than that of the best baseline, the (last value|\w+ average|seasonal naive)\.", text)
    assert "Against the strongest that the gate tried (historical quantiles, point held) it was 4.3 % lower on all" in text


@pytest.mark.parametrize("vintages", [0, 1, 2])
def test_earlier_forecasts_have_a_section_once_there_are_two(tmp_path, vintages):
    directory = make_run(tmp_path)
    rows = {"as_of": pd.date_range("2025-12-01", periods=vintages).date.repeat(2), "horizon": [1, 2] * vintages, "n": 10}
    rows |= {"run_id": "r", "error": 0.02, "baseline_error": 0.04, "size": 1.0, "coverage": 0.9, "complete": True}
    pd.DataFrame(rows).to_parquet(directory / "track_record.parquet", index=False)
    text = unbroken(report.render_run(directory).read_text())
    there = vintages > 1
    assert ('<h2 id="track">What earlier forecasts said</h2>' in text) == ('href="#track"' in text) == there
    assert ("2 published forecasts have met their actuals: error 2.00 % against 4.00 % of the last value" in text) == there
    assert "cannot be read" not in text


def test_a_run_that_has_not_decided_shows_no_standings(tmp_path):
    for trade in (PRICES, SALES):
        assert evidence.standings({}, trade) is None and evidence.standings({"standings": []}, trade) is None
    text = report.render_run(make_run(tmp_path, gate={"verdict": "None yet.", "use": "last_value"})).read_text(encoding="utf-8")
    assert "What might have been published" not in text and "None yet." in text


def test_the_card_never_calls_a_narrow_band_honest():
    assert (
        evidence.band_words(0.64)[0] == "bad"
        and evidence.band_words(0.9)[0] == "good"
        and evidence.band_words(0.85)[0] == "watch"
    )


def test_skill_is_one_minus_the_ratio_and_its_interval_is_seeded():
    backtest = rolling_backtest(sticky_prices(20))
    scored = points.errors(backtest)
    skill = scoreboard.skills(backtest)
    mean = scored.groupby("model")["loss"].mean()
    for row in skill.itertuples():
        assert row.skill == pytest.approx(1 - mean["published"] / mean[row.baseline])
        assert row.low <= row.skill <= row.high and row.n_origins == 8
    assert skill.equals(scoreboard.skills(scored)) and not skill["low"].equals(scoreboard.skills(scored, seed=1)["low"])
    one = scoreboard.skills(backtest[backtest["origin"] == backtest["origin"].max()])
    assert one["skill"].notna().all() and one["low"].isna().all()
    against_itself = backtest[backtest["model"] == "published"]
    twin = pd.concat([against_itself, against_itself.assign(model="last_value")])
    assert scoreboard.skills(twin)[["skill", "low", "high"]].abs().to_numpy().max() < 1e-12


def test_no_move_is_one_sentence_and_not_rows_of_zero(tmp_path):
    directory = make_run(tmp_path)
    forecast = pd.read_parquet(directory / "forecast.parquet")
    forecast.assign(q50=forecast["last_value"]).to_parquet(directory / "forecast.parquet")
    text = unbroken(report.render_run(directory).read_text(encoding="utf-8"))
    assert "no move above 5 %" in text and "+0.0 %" not in text.split('id="agenda"')[1].split('id="downloads"')[0]


def test_the_download_is_whole_and_safe_against_formulas(book):
    directory = book / "prices/2026-01-05"
    text = (directory / "report.html").read_text(encoding="utf-8")
    embedded = base64.b64decode(re.search(r'download="forecast_[^"]*" href="data:text/csv;[^,]*,([^"]+)"', text)[1])
    assert embedded == (directory / "forecast.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(embedded.decode("utf-8-sig"))))
    assert len(rows) == 413
    assert not [c for r in rows for k, c in r.items() if c[:1] in tuple("=+@\t\r") or (c[:1] == "-" and k == "title")]
    titles = {r["series_id"]: r["title"] for r in rows}
    assert titles["p003"] == "'" + HOSTILE["p003"] and titles["007"] == "NA" and titles["p005"] == HOSTILE["p005"]
    assert titles["p004"] == HOSTILE["p004"], "text is cut only on display"


def test_every_price_that_is_expected_to_move_is_in_a_file_of_its_own(tmp_path):
    directory = make_run(tmp_path)
    forecast = pd.read_parquet(directory / "forecast.parquet")
    last = forecast["horizon"] == forecast["horizon"].max()
    up = last & (forecast["series_id"].isin(sorted(set(forecast["series_id"]))[:30]))
    forecast["q50"] = forecast["last_value"] * np.where(up, 1.2, 1.0)
    forecast.to_parquet(directory / "forecast.parquet", index=False)
    text = report.render_run(directory).read_text(encoding="utf-8")
    assert "30 of the 59 items move more than 5 %" in plain_text(text) and "and 10 more" in text
    assert "The whole list is in a file, under Downloads." in text
    rows = pd.read_csv(directory / "changes.csv", dtype={"series_id": str}, keep_default_na=False)
    assert list(rows) == [
        "series_id",
        "title",
        "last_price",
        "expected_price",
        "change",
        "date",
        "lower",
        "upper",
        "p_change",
        "p_up",
    ]
    assert set(rows["series_id"]) == set(forecast.loc[up, "series_id"]) and len(rows) == 30
    assert set(rows["date"]) == {f"{forecast['ts'].max():%Y-%m-%d}"} and rows["change"].round(9).eq(0.2).all()
    titles = rows.set_index("series_id")["title"]
    assert titles["p003"] == "'" + HOSTILE["p003"], "a formula is made harmless here too"
    assert (
        'download="changes_prices_2026-01-05.csv"' in text and "Prices expected to move, every one, CSV <span>(30 rows" in text
    )
    forecast.assign(q50=forecast["last_value"]).to_parquet(directory / "forecast.parquet", index=False)
    assert "changes_prices" not in report.render_run(directory).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2", "@SUM(A1)", "\tx", "\rx", " =1", "\n=1", "＝1", "|cmd"])
def test_every_beginning_of_a_formula_is_prefixed(text):
    out = provenance.safe_csv(pd.DataFrame({"title": [text], "n": [-1.5], "=head": ["fine"]}))
    row = next(csv.DictReader(io.StringIO(out)))
    assert row["title"] == "'" + text and row["n"] == "-1.5" and row["'=head"] == "fine"


def test_a_failed_run_says_where_and_why_and_shows_what_exists(tmp_path):
    steps = {"01_ingest": "done", "03_finetune": "failed"}
    directory = make_run(tmp_path, status="failed", steps=steps, gate=None, receipt=None)
    for name in ("forecast", "backtest", "scores"):
        (directory / f"{name}.parquet").unlink()
    (directory / "run.log").write_text("2026-01-05 INFO 03 start\n2026-01-05 ERROR 03 RuntimeError: loss is <b>nan</b>\n")
    text = report.render_run(directory).read_text(encoding="utf-8")
    assert "failed at 03_finetune" in text and "loss is &lt;b&gt;nan&lt;/b&gt;" in text
    assert "3 rows were set aside" in text and 'id="accuracy"' not in text and "#accuracy" not in text
    index = report.render_index(tmp_path).read_text(encoding="utf-8")
    assert "failed at 03_finetune" in index


def test_only_a_manifest_is_enough_and_damage_is_named(tmp_path):
    directory = tmp_path / "prices" / "2026-01-05"
    directory.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="manifest.json"):
        report.render_run(directory)
    (directory / "manifest.json").write_text('{"job": "prices", "as_of": "2026-01-05", "status": "running", "steps": {}}')
    assert "not finished" in report.render_run(directory).read_text(encoding="utf-8")
    (directory / "forecast.parquet").write_bytes(b"PAR1 torn")
    assert "forecast.parquet cannot be read" in report.render_run(directory).read_text(encoding="utf-8")
    pd.DataFrame({"series_id": ["a"]}).to_parquet(directory / "forecast.parquet")
    assert "it lacks the column horizon, last_value, q50, ts" in report.render_run(directory).read_text(encoding="utf-8")
    for name in ("backtest", "scores"):
        pd.DataFrame({"model": ["published"]}).to_parquet(directory / f"{name}.parquet")
    assert "backtest.parquet cannot be read" in report.render_run(directory).read_text(encoding="utf-8")
    assert "scores.parquet cannot be read" in report.render_index(tmp_path).read_text(encoding="utf-8")
    (directory / "manifest.json").write_text('{"job": "pri')
    assert "unreadable" in report.render_index(tmp_path).read_text(encoding="utf-8")
    assert report.main([str(tmp_path)]) == 1


def test_the_index_is_newest_first_and_marks_superseded_runs(tmp_path):
    for as_of in ("2025-12-29", "2026-01-05", "2025-12-22"):
        (tmp_path / "prices" / as_of).mkdir(parents=True)
        (tmp_path / "prices" / as_of / "manifest.json").write_text(
            json.dumps({"job": "prices", "as_of": as_of, "status": "done", "dirty": True, "commit": "abcdef1234567"})
        )
    shutil.copytree(tmp_path / "prices/2026-01-05", tmp_path / "prices/2026-01-05+1f3a9c")
    text = report.render_index(tmp_path).read_text(encoding="utf-8")
    dates = re.findall(r"<td[^>]*>(?:<a[^>]*>)?(\d{4}-\d\d-\d\d)", text)
    assert dates == ["2026-01-05", "2026-01-05", "2025-12-29", "2025-12-22"]
    assert text.count("(superseded)") == 1 and "abcdef12*" in text
    assert "4 runs of prices, the newest first." in text and "the sales above zero" in text
    assert [wording.listed([*"abc"[:n]]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert "No run yet" in report.render_index(tmp_path / "prices").read_text(encoding="utf-8")


def test_the_report_of_a_superseded_run_says_so_and_leads_to_the_one_that_replaced_it(tmp_path):
    directory = make_run(tmp_path)
    report.render_run(directory)
    old = directory.rename(tmp_path / "prices/2026-01-05+1f3a9c")
    banner, link = '<div class="banner watch">Superseded by run ', '<a href="../2026-01-05/report.html">'
    assert "Superseded" not in (old / "report.html").read_text(encoding="utf-8")
    new = make_run(tmp_path, run_id="prices-new<b>", status="running", steps={"01_ingest": "done"})
    report.render_run(new)
    assert "Superseded" not in (old / "report.html").read_text(encoding="utf-8"), "the new one is not finished"
    done = json.loads((new / "manifest.json").read_text()) | {"status": "done"}
    (new / "manifest.json").write_text(json.dumps(done))
    assert "Superseded" not in report.render_run(new).read_text(encoding="utf-8")
    assert f"{banner}{link}prices-new&lt;b&gt;</a>.</div>" in (old / "report.html").read_text(encoding="utf-8")
    before = (old / "report.html").stat().st_mtime_ns
    report.render_run(new)
    assert (old / "report.html").stat().st_mtime_ns == before, "once is enough"
    whole = (old / "manifest.json").read_text()
    (old / "manifest.json").write_text(json.dumps(json.loads(whole) | {"gate": {"standings": [{"model": "lstm"}]}}))
    (old / "report.html").write_text("a page of an earlier version")
    assert report.render_run(new).is_file() and "earlier version" in (old / "report.html").read_text()
    (old / "manifest.json").write_text(whole)
    shutil.rmtree(new)
    assert "Superseded: this run was made anew" in report.render_run(old).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("freq", "first", "last", "one", "both"),
    [
        ("D", "2017-12-31", "2018-01-06", "2017-12-31", "2017-12-31 to 2018-01-06"),
        ("MS", "2025-10-01", "2025-12-01", "October 2025", "October to December 2025"),
        ("MS", "2025-11-01", "2026-01-01", "November 2025", "November 2025 to January 2026"),
        ("W-MON", "2024-07-01", "2024-07-22", "the week of 1 July 2024", "the weeks of 1 to 22 July 2024"),
        ("W-MON", "2024-06-24", "2024-07-15", "the week of 24 June 2024", "the weeks of 24 June to 15 July 2024"),
        (
            "QS",
            "2024-10-01",
            "2025-01-01",
            "the quarter from 1 October 2024",
            "the quarters from 1 October 2024 to 1 January 2025",
        ),
    ],
)
def test_periods_are_named_as_readers_name_them(freq, first, last, one, both):
    assert runfiles.dated(first, freq) == runfiles.between(first, first, freq) == one
    assert runfiles.between(first, last, freq) == both


def test_a_monthly_report_speaks_of_months(tmp_path):
    directory = make_run(tmp_path, "2026-01-01", params={"horizon": 3, "freq": "MS"})
    for name in ("panel", "forecast"):
        frame = pd.read_parquet(directory / f"{name}.parquet")
        start = pd.Timestamp("2025-11-01") if name == "panel" else pd.Timestamp("2026-01-01")
        day = pd.to_datetime(frame["ts"])
        number = frame["horizon"] if name == "forecast" else (day - day.max()).dt.days
        frame["ts"] = [start + pd.DateOffset(months=int(k)) for k in number]
        frame[frame["ts"] > "2020"].to_parquet(directory / f"{name}.parquet", index=False)
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert "As of January 2026 · forecast for February to August 2026 · run" in said
    assert "the newest is of November 2025, 2 months before the as-of date." in said


def test_scripts_handlers_and_outside_references_do_not_survive_a_notebook(tmp_path):
    evil = (
        '<script>document.title="owned"</script><img src=x onerror="document.title=1"><img src="https://evil.example/x.png">'
        '<a href="javascript:alert(1)">a</a><a href="//evil.example">b</a><iframe src="https://evil.example"></iframe>'
        '<style>body{background:url(https://evil.example)}</style><p style="background:url(x)" onclick="x()">kept</p>'
        '<svg onload="x()"><script>1</script></svg><form action="https://evil.example"><input></form><b>bold</b>'
    )
    svg = '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    page = report.render_notebook(
        notebook(
            new_markdown_cell(
                f"# Title <script>document.title='owned'</script>\n\n{evil}\n\n[link](javascript:alert(1)) ![i](https://evil.example/i.png)"
            ),
            new_markdown_cell("![gone](attachment:gone.png)"),
            shown(text_html=evil, text_plain="x"),
            shown(text_markdown=evil, text_plain="x"),
            shown(image_svg=svg, text_plain="x"),
            shown(application_javascript="alert(1)"),
            new_code_cell("'</pre><script>alert(1)</script>'"),
            path=tmp_path / "04_forecast.ipynb",
        )
    )
    text = page.read_text(encoding="utf-8")
    tags = "".join(re.findall(r"<[a-z][^>]*>", text))
    assert (
        not EXTERNAL.search(tags)
        and "evil" not in tags
        and "<style>body" not in text
        and "kept" in text
        and "<b>bold</b>" in text
    )
    assert re.search(r"<title>Title</title>", text)


def test_progress_bars_fold_and_long_outputs_are_cut_with_a_note(tmp_path):
    bar = "".join(f"\rstep {i}" for i in range(1000))
    cells = [
        new_code_cell(
            "a",
            outputs=[new_output("stream", name="stderr", text=bar), new_output("stream", name="stderr", text="\rstep 1000\n")],
        ),
        new_code_cell("b", outputs=[new_output("stream", name="stdout", text="line of thirty bytes or so....\n" * 1_000_000)]),
        shown(text_html="<table>" + "<tr><td>1</td></tr>" * 50_000 + "</table>"),
        new_code_cell("c", outputs=[new_output("error", ename="E", evalue="x" * 10**6, traceback=["y" * 10**6])]),
    ]
    page = report.render_notebook(notebook(*cells, path=tmp_path / "01_ingest.ipynb"))
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 1_000_000
    assert "step 1000" in text and "step 999" not in text
    assert text.count("Output cut") == 3 and "of 31.0 MB" in text


def test_a_failed_notebook_shows_its_error_on_top_and_a_readable_traceback(tmp_path):
    trace = [
        "\x1b[0;31mZeroDivisionError\x1b[0m  Traceback",
        "\x1b[0;32m----> 1\x1b[0m 1/0",
        "ZeroDivisionError: division <by> zero",
    ]
    banner = new_markdown_cell("An exception was encountered", metadata={"tags": ["papermill-error-cell-tag"]})
    error = new_output("error", ename="ZeroDivisionError", evalue="division <by> zero", traceback=trace)
    cells = [banner, new_markdown_cell("# Fine-tune"), new_code_cell("1/0", outputs=[error])]
    text = report.render_notebook(notebook(*cells, path=tmp_path / "03_finetune.failed.ipynb")).read_text(encoding="utf-8")
    assert "\x1b" not in text and '<span class="ansi-red-fg">ZeroDivisionError</span>' in text
    assert text.index("ZeroDivisionError: division &lt;by&gt; zero") < text.index("<h1") and "An exception was" not in text
    anchor = re.search(r'class="banner">.*?href="#([\w-]+)"', text, re.S)[1]
    assert f'id="{anchor}"' in text and '<details class="code" open>' in text


def test_code_is_folded_but_there_and_headings_have_anchors(book):
    text = unbroken((book / "prices/2026-01-05/04_forecast.html").read_text(encoding="utf-8"))
    assert text.count('<details class="code"><summary>code</summary>') == 4
    assert "<summary>defaults, for a run by hand</summary>" in text
    assert '<h2 id="the-likeliest-moves">' in text and '<a href="#the-likeliest-moves">' in text
    assert "Costs $5, or $x_1$." in text and "predict 100 %" in text and "predict  99 %" not in text


def test_the_two_folds_of_parameters_are_told_apart(tmp_path):
    cells = [new_code_cell("x = 1", metadata={"tags": ["parameters"]}), new_code_cell("y", metadata={"tags": ["other"]})]
    given = new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]})
    text = report.render_notebook(notebook(cells[0], given, cells[1], path=tmp_path / "01_ingest.ipynb")).read_text()
    folds = re.findall(r'<details class="code"><summary>(.*?)</summary>', text)
    assert folds == ["defaults, for a run by hand", "parameters of this run", "code"]


def test_settings_that_a_search_found_are_told_with_its_date(tmp_path):
    found = {"hidden_size": 128, "dropout": 0.2327057}
    directory = make_run(tmp_path, tuned=found)
    facts = lambda: dict(provenance.making(runfiles.RunFiles(directory))["facts"])  # noqa: E731
    said = "found by make tune: hidden_size 128, dropout 0.2327"
    assert facts()["settings"] == said
    last = tmp_path / "prices/tuned.json"
    last.write_text(json.dumps({"hyper": found, "as_of": "2025-12-29"}))
    assert facts()["settings"] == said.replace(":", " as of 2025-12-29:")
    last.write_text(json.dumps({"hyper": {"hidden_size": 64}, "as_of": "2026-01-01"}))
    assert facts()["settings"] == said, "a later search found others"
    assert "settings" not in dict(provenance.making(runfiles.RunFiles(make_run(tmp_path, "2025-12-29")))["facts"])


@pytest.mark.parametrize(
    ("again", "other", "said"),
    [
        (200, 200, "200 rows gave way to another of the same item and date, all with another value."),
        (1, 1, "1 row gave way to another of the same item and date with another value."),
        (3, 1, "3 rows gave way to another of the same item and date, 1 of them with another value."),
    ],
)
def test_rows_that_gave_way_are_counted_in_words(tmp_path, again, other, said):
    directory = make_run(tmp_path, counts={"duplicates resolved": again, "duplicates with another value": other})
    assert said in provenance.quality(runfiles.RunFiles(directory), PRICES)["lines"]


def test_one_is_not_said_in_the_plural():
    assert [runfiles.coming(n, "weeks") for n in (1, 3)] == ["next week", "next 3 weeks"]
    assert [agenda._part(*n) for n in ((1, 1), (2, 2), (1, 1200))] == ["the one item", "all 2 items", "1 of the 1,200 items"]


def test_an_unreadable_or_unexecuted_notebook_is_called_by_name(tmp_path):
    path = tmp_path / "01_ingest.ipynb"
    path.write_text('{"cells": [')
    with pytest.raises(ValueError, match="01_ingest.ipynb"):
        report.render_notebook(path)
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    assert "has not been executed" in report.render_notebook(path).read_text(encoding="utf-8")


def test_a_full_disk_leaves_the_old_page_and_nothing_half_written(tmp_path, monkeypatch):
    directory = make_run(tmp_path)
    page = report.render_index(tmp_path)
    before = page.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="index.html.*No space"):
        report.render_index(tmp_path)
    assert page.read_bytes() == before and not [p for p in tmp_path.rglob("*") if ".part" in p.name]
    assert not (directory / "report.html").exists()


def test_tables_escape_align_and_cut():
    frame = pd.DataFrame({"title": [HOSTILE["p000"], HOSTILE["p004"]], "price": [3.5, np.nan], "share": [0.123, 0.5]})
    text = tables.table(frame, {"price": "{:.2f}", "share": share1}, {"price": "price, $"}, caption="<b>")._repr_html_()
    assert "<script" not in text and "&lt;script&gt;" in text and "&lt;b&gt;" in text
    assert "<td>3.50</td><td>12.3\u00a0%</td>" in text and "<td>–</td>" in text and "price, $" in text
    assert len(text) < 3000 and '<td class="text long">' in text
    assert "no move above 5 %" in tables.table(frame.iloc[:0], empty="no move above 5 %")
    assert "and 60 more" in tables.table(pd.DataFrame({"x": range(110)}))


def test_cards_say_their_state_in_words():
    text = tables.cards(
        [("1", "<i>", "n", "good"), ("2", "b", "n", "watch"), ("3", "c", "n", ("bad", "too narrow")), ("4", "d", "n", "info")]
    )
    assert all(word in text for word in ("Good", "Watch", "too narrow")) and "<i>" not in text


def test_the_same_run_gives_the_same_page(tmp_path):
    directory = make_run(tmp_path)
    first = report.render_run(directory).read_bytes()
    assert report.render_run(directory).read_bytes() == first


def test_the_command_line_names_its_use_and_renders_one_run(book, capsys):
    assert report.main([]) == 2 and report.main(["--help"]) == 2
    capsys.readouterr()
    command = [sys.executable, "-m", "forecastbook.report", str(book), str(book / "prices/2025-12-29")]
    lib = Path(report.__file__).resolve().parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(lib)}, check=True, timeout=50
    )
    assert [Path(line).name for line in done.stdout.split("\n") if line] == ["report.html", "index.html"]


def test_a_file_that_was_changed_by_hand_is_not_reported_as_published(book):
    directory = book / "prices/2025-12-29"
    manifest = json.loads((directory / "manifest.json").read_text())
    noted = {"files": {"forecast.parquet": "0" * 64}}
    (directory / "manifest.json").write_text(json.dumps(manifest | noted))
    try:
        page = report.render_run(directory).read_text(encoding="utf-8")
    finally:
        (directory / "manifest.json").write_text(json.dumps(manifest))
    assert "forecast.parquet cannot be read" in page and "hash mismatch" in page and "expected to move" not in page


def republish(directory: Path, change) -> pd.DataFrame:
    """Rewrite a run's record by a function of its backtest, and the scores that follow from it."""
    backtest = change(pd.read_parquet(directory / "backtest.parquet"))
    backtest.to_parquet(directory / "backtest.parquet", index=False)
    scores_of(backtest).to_parquet(directory / "scores.parquet", index=False)
    return backtest


def publishing(model: str):
    """A backtest in which a model's forecasts are published at every origin."""
    return lambda back: pd.concat(
        [back[back["model"] != "published"], back[back["model"] == model].assign(model="published")], ignore_index=True
    )


def unbroken(page: str) -> str:
    """A page whose numbers and percent signs have plain spaces between them again."""
    return page.replace("\u00a0%", " %")


def plain_text(page: str) -> str:
    """What a page says, its tags and pictures taken out; alt texts stay."""
    page = re.sub(r'(?:src|href)="data:[^"]*"', "", page)
    return " ".join(re.sub(r'<[^>]*?alt="([^"]*)"[^>]*>|<[^>]+>', r" \1 ", page).split())


def test_a_baseline_that_is_published_is_not_compared_with_itself(tmp_path):
    directory = make_run(tmp_path, gate={"verdict": "Published.", "use": "seasonal_naive", "origins": 8})
    backtest = republish(directory, publishing("seasonal_naive"))
    skill = scoreboard.skills(backtest)
    head = evidence.headline(points.errors(backtest), skill)
    others = skill[skill["baseline"] != "seasonal_naive"]
    assert head["itself"] == ["seasonal_naive"] and head["against"] == wording.model_name(others["baseline"].iloc[0])
    assert head["skill"] == others["skill"].iloc[0] != 0 and head["best"] != "seasonal naive"
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert "the seasonal naive itself is published; the best other baseline by error" in said
    assert "skill against seasonal naive" not in said and "as what is published" in said
    assert "0.0 % to 0.0 %" not in said and "The seasonal naive itself is published: " in said
    from_file = runfiles.scores_of(directory)["skill"]
    assert from_file == pytest.approx(head["skill"]), "the index and the last run's comparison leave it out too"
    assert "that is not itself published" in report.render_index(tmp_path).read_text(encoding="utf-8")


def test_a_published_baseline_without_a_rival_says_so(tmp_path):
    directory = make_run(tmp_path, gate={"verdict": "Published.", "use": "last_value", "origins": 8})
    alone = publishing("last_value")
    republish(directory, lambda back: alone(back)[lambda f: f["model"].isin(["published", "last_value"])])
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert "the last value itself is published; no other baseline to compare with" in said
    assert "Watch: not proven" not in said and "Watch: level" not in said


def stand_still(back: pd.DataFrame) -> pd.DataFrame:
    back = back.assign(**{c: back["last_value"] for c in ("y", "q05", "q25", "q50", "q75", "q95")})
    dust = back["model"] == "moving_average"
    return back.assign(q50=back["q50"].where(~dust, back["q50"] * (1 + 1e-16)))


def test_where_no_price_moved_nothing_is_compared(tmp_path):
    flat = [dict(model=m, score=0.0, skill=0.0, expected=-0.04, doubt=0.1, hold=False) for m in ("last_value", "table")]
    gate = {"verdict": "The last value is published.", "use": "last_value", "origins": 8, "standings": flat, "skill": 0.4}
    directory = make_run(tmp_path, gate=gate)
    republish(directory, stand_still)
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert said.count("No price moved in the record: there is nothing to compare") >= 5, "cards, both figures, standings"
    for wrong in ("Good: beyond chance", "Watch: wider", "Watch: level", "Watch: not proven", "+100.0 %", "−4.0 %"):
        assert wrong not in said, wrong
    assert "items that have the same error" in said and "second worst" not in said
    assert "skill" not in runfiles.scores_of(directory)
    row = re.search(r"<td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", report.render_index(tmp_path).read_text(encoding="utf-8"))
    assert row.groups() == ("0.00", "–", "100")


@pytest.mark.parametrize("handed", [False, True])
def test_items_that_the_gate_hands_to_a_baseline_are_counted(tmp_path, handed):
    directory = make_run(tmp_path)
    forecast = pd.read_parquet(directory / "forecast.parquet").assign(source="table" if handed else "model")
    forecast.to_parquet(directory / "forecast.parquet", index=False)
    series = pd.read_parquet(directory / "series.parquet").assign(why=None, source="model")
    series[series["series_id"].isin(forecast["series_id"])].to_parquet(directory / "series.parquet", index=False)
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    n = forecast["series_id"].nunique()
    assert "By the rules for items, none was left out" in said
    assert (f"For {n} items that a model might forecast the gate publishes the counting table." in said) == handed
    assert (f"0 left out, {n if handed else 0} by a baseline") in said


def test_reasons_are_grouped_whatever_their_number_and_named_by_period(tmp_path):
    directory = make_run(tmp_path, params={"horizon": 7, "freq": "W-MON"})
    series = pd.read_parquet(directory / "series.parquet")
    why = [f"not seen for {60 + k} periods (limit 56)" for k in range(len(series))]
    series.assign(why=why, source="excluded").to_parquet(directory / "series.parquet", index=False)
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert said.count("not seen for more than 56 weeks") == 2, "one row of those left out, one of those forecast all the same"
    assert "(limit" not in said


def test_standings_say_on_how_many_origins_where_that_differs():
    gate = {"use": "blend", "origins": 8}
    row = {"model": "blend", "score": 0.01, "skill": 0.3, "expected": 0.2, "doubt": 0.02, "hold": False}
    rows = [row | {"origins": 2}, row | {"model": "last_value", "skill": 0.0, "origins": 8}]
    page = evidence.standings(gate | {"standings": rows}, PRICES)
    assert '<th scope="col">origins</th>' in page and "<td>2</td>" in page and "the last value, on the same origins" in page
    for same in ([r | {"origins": 8} for r in rows], [{k: v for k, v in r.items() if k != "origins"} for r in rows]):
        page = evidence.standings(gate | {"standings": same}, PRICES)
        assert ">origins</th>" not in page and "same origins" not in page


def test_standings_say_what_is_saved_on_the_best_baseline_as_the_gate_saw_it():
    row = {"model": "gbm", "score": 0.03, "skill": 0.4, "expected": 0.3, "doubt": 0.02, "hold": False}
    held = row | {"model": "historical_quantiles", "score": 0.04, "skill": 0.2, "hold": True}
    safe = row | {"model": "last_value", "score": 0.05, "skill": 0.0}
    page = plain_text(evidence.standings({"use": "gbm", "origins": 8, "standings": [row, held, safe]}, PRICES))
    assert "What is published saves 25.0 % on the best of the baselines here, historical quantiles, point held" in page
    assert "as its own was no better" in page and "boosted trees (published)" in page
    page = plain_text(evidence.standings({"use": "last_value", "origins": 8, "standings": [row, safe]}, PRICES))
    assert "saves" not in page.split("comes first")[1].split("candidate")[0], "a baseline is not compared with itself"
    blend = row | {"model": "blend", "expected": 0.299}
    for use, behind in (("gbm", False), ("blend", True)):
        page = plain_text(evidence.standings({"use": use, "origins": 8, "standings": [row, blend, safe]}, PRICES))
        assert ("What stands above what is published does not lead it beyond doubt." in page) == behind


def test_a_model_that_came_late_is_marked_wherever_means_stand_side_by_side():
    back = rolling_backtest(sticky_prices(20))
    late = back[(back["model"] != "lstm") | (back["origin"] > back["origin"].sort_values().unique()[2])]
    for frame, marked in ((late, True), (back, False)):
        scored, skill = points.errors(frame), scoreboard.skills(frame)
        shown = evidence.accuracy(scored, skill, evidence.headline(scored, skill), "D")
        labels = [t.get_text() for t in shown["bars"].axes[0].get_yticklabels()]
        assert ("LSTM (5 of 8 dates)" in shown["models"]) == ("LSTM (5 of 8 dates)" in labels) == marked
        assert ("Not there at every date, so not quite comparable: LSTM." in shown["text"]) == marked
        assert "published (" not in shown["models"] and "<tr class=ours" in shown["models"]


def test_many_refused_rows_are_said_on_top_with_an_example(tmp_path):
    directory = make_run(tmp_path)
    assert "could not be used" not in report.render_run(directory).read_text(encoding="utf-8")
    quarantine = pd.read_parquet(directory / "quarantine.parquet")
    said = Intake(pd.DataFrame(), quarantine, {"rows read": 10, "quarantined: not a number": 3}).refusal()
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    (directory / "manifest.json").write_text(
        json.dumps(manifest | {"alarms": [{"title": "Many rows could not be used", "text": said}]}), encoding="utf-8"
    )
    text = report.render_run(directory).read_text(encoding="utf-8")
    assert '<div class="banner"><strong>Look at this first</strong><ul>' in text and "<script>" not in text
    assert "Many rows could not be used. 3 of 10 rows were refused" in plain_text(text)
    assert "3 of 10 rows were refused (30 %), most often: not a number; such as price" in plain_text(text)


def test_items_of_which_no_row_was_used_are_left_out_on_the_cards_and_in_the_table(tmp_path):
    directory = make_run(tmp_path)
    series = pd.read_parquet(directory / "series.parquet")
    why = [f"none of its {n} rows could be used: not a number" for n in range(102, 119)]
    lost = pd.DataFrame({"series_id": [f"lost{k}" for k in range(17)], "n_obs": 0, "source": "excluded", "why": why})
    pd.concat([series, lost], ignore_index=True).to_parquet(directory / "series.parquet", index=False)
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert f"{len(series) - 1} of {len(series) + 17}" in said and "18 left out" in said
    assert "none of its rows could be used: not a number" in said


def test_a_forecast_that_nothing_could_test_says_so_on_top(tmp_path):
    directory = make_run(tmp_path, gate={"verdict": "None yet.", "use": "last_value", "origins": 0})
    banner = "No past forecast could be checked"
    assert banner not in report.render_run(directory).read_text(encoding="utf-8"), "there is a record"
    (directory / "backtest.parquet").unlink()
    series = pd.read_parquet(directory / "series.parquet")
    series[series["source"] != "excluded"].to_parquet(directory / "series.parquet", index=False)
    text = report.render_run(directory).read_text(encoding="utf-8")
    said = plain_text(text)
    assert f'<div class="banner watch">{banner}' in text and "rest on nothing but the last value" in said
    assert "Good: " not in said and "Watch: untested" in said and said.index(banner) < said.index("items forecast")


def test_the_first_run_is_not_called_so_where_a_later_one_is_finished(tmp_path):
    make_run(tmp_path, "2026-01-05")
    text = report.render_run(make_run(tmp_path, "2025-12-29")).read_text(encoding="utf-8")
    assert "No run of an earlier as-of date is finished, so there is nothing to compare with." in text


def test_items_that_share_a_title_are_told_apart_in_the_whole_report(tmp_path, monkeypatch):
    directory = make_run(tmp_path)
    series = pd.read_parquet(directory / "series.parquet")
    series["title"] = np.where(series.index % 3 > 0, "plain", "Tea " + series["series_id"])
    series.to_parquet(directory / "series.parquet", index=False)
    seen, fans, moves = [], figures.fans, figures.moves
    monkeypatch.setattr(figures, "fans", lambda *a, **k: seen.append(fans(*a, **k)) or seen[-1])
    monkeypatch.setattr(figures, "moves", lambda *a, **k: seen.append(moves(*a, **k)) or seen[-1])
    text = report.render_run(directory).read_text(encoding="utf-8")
    drawn = " ".join(words(fig) for fig in seen)
    assert len(seen) == 2 and re.search(r"plain \(\w+\)", drawn) and not re.search(r"plain(?! \()", drawn)
    cells = re.findall(r"<td[^>]*>(plain[^<]*)</td>", text.split('id="agenda"')[1].split('id="downloads"')[0])
    assert cells and all(re.fullmatch(r"plain \(\w+\)", cell) for cell in cells) and len(set(cells)) == len(cells)
    titles = {row["title"] for row in csv.DictReader(io.StringIO((directory / "forecast.csv").read_text("utf-8-sig")))}
    assert "plain" in titles, "the download keeps titles as they are, with the id beside"


def test_a_label_keeps_its_id_however_short_it_is_cut():
    ids, titles = pd.Series(["A1", "A2", "A3", "A4"]), pd.Series(["x" * 90, "x" * 90, "Tea", None])
    shown = labels(ids, titles).tolist()
    assert shown[2:] == ["Tea", "A4"] and len(set(shown)) == 4 and max(map(len, shown)) <= 70
    assert style.called(shown[0], "A1", 20) == "x" * 14 + "… (A1)" and style.called("Tea (A1)", "B7", 20) == "Tea (A1)"


def test_expected_moves_say_how_often_such_ones_came_true():
    def point(model, horizon, last, q50, y):
        return {"model": model, "horizon": horizon, "last_value": last, "q50": q50, "y": y}

    backtest = pd.DataFrame(
        [
            point("published", 7, 10.0, 12.0, 12.5),  # rose as said
            point("published", 7, 10.0, 12.0, 10.4),  # rose, by too little
            point("published", 7, 10.0, 8.0, 11.0),  # rose instead
            point("published", 7, 10.0, 8.0, 9.0),  # fell as said
            point("published", 7, 10.0, 8.0, np.nan),  # nobody knows
            point("published", 7, 10.0, 10.1, 15.0),  # said nothing
            point("published", 1, 10.0, 8.0, 10.0),  # another day
            point("lstm", 7, 10.0, 8.0, 8.0),  # not published
        ]
    )
    moved = pd.DataFrame({"title": ["Tea"], "last_value": [10.0], "q50": [12.0], "move": [0.2]})
    said = agenda.changes(moved, 7, "D", backtest)["text"]
    assert said.endswith(
        "At past dates 4 forecasts said so, and 50 % came true: the price then stood more than 5 % off on that side."
    )
    assert "past dates" not in agenda.changes(moved, 7, "D", backtest[5:])["text"]
    assert "past dates" not in agenda.changes(moved.assign(move=0.01), 7, "D", backtest)["text"], "nothing is expected"


def test_what_counts_as_a_change_is_said_where_changes_are_counted(book):
    text = unbroken((book / "prices/2026-01-05/report.html").read_text(encoding="utf-8"))
    least = share1(CHANGED)
    assert wording.CHANGE.endswith(least)
    assert f"chance of a change of more than {least}" in text
    assert wording.CHANGE in text.split('id="accuracy"')[1].split("<figure")[0]


def test_horizons_that_were_not_tested_are_not_claimed():
    back = rolling_backtest(sticky_prices(20))
    for frame, few in ((back[back["horizon"] == 7], True), (back, False)):
        scored, skill = points.errors(frame), scoreboard.skills(frame)
        shown = evidence.accuracy(scored, skill, evidence.headline(scored, skill), "D", 7)
        assert ("Only 1 of 7 days ahead could be tested" in shown["text"]) == few
        ticks = shown["horizon"].axes[0].get_xticks()
        assert (np.asarray(ticks) == np.rint(ticks)).all() and (len(ticks) == 1) == few
        assert shown["horizon"].alt.endswith(f", on average {'7' if few else '1 to 7'} days ahead")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_items_are_not_called_two_best_and_two_worst(tmp_path, n):
    directory = make_run(tmp_path)
    keep = ["v0008", "v0009", "v0010"][:n]
    for name in ("panel", "forecast", "backtest", "series"):
        frame = pd.read_parquet(directory / f"{name}.parquet")
        frame[frame["series_id"].isin(keep)].to_parquet(directory / f"{name}.parquet", index=False)
    text = report.render_run(directory).read_text(encoding="utf-8")
    said = plain_text(text)
    assert "Two best, two worst" not in text and "the two with the largest" not in text
    assert ("The only item." if n == 1 else f"All {n} items, the one with the smallest error first.") in said
    assert not re.search(r"\b1 (items|days|past dates|rows|forecasts|prices|values)\b", said.split("Rows in and out")[0])


def test_a_report_on_a_sample_of_the_items_says_so_wherever_it_rests_on_it(tmp_path, monkeypatch):
    directory = make_run(tmp_path, params={"horizon": 7, "backtest": {"stride": 21}})
    whole = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    assert "drawn at random" not in whole and "on 8 finished origins: the 8 above; the candidate" in whole
    monkeypatch.setattr(scoreboard.rolling, "JUDGES", 40)
    said = plain_text(report.render_run(directory).read_text(encoding="utf-8"))
    known = (pd.read_parquet(directory / "series.parquet")["n_obs"] > 0).sum()
    assert f"against what came. They are of 40 of {known} items, drawn at random. The error is" in said
    assert f"in the backtest (it asked 40 of {known} items, drawn at random)." in said


def test_cards_name_the_score_by_which_a_baseline_is_the_best(book):
    said = plain_text((book / "prices/2026-01-05/report.html").read_text(encoding="utf-8"))
    assert "best baseline by error: " in said and "best baseline by quantile score; 90 % interval" in said


@pytest.mark.skipif(not CHROMIUM, reason="NO CHROMIUM FOUND: that hostile titles are inert was NOT checked in a browser")
def test_a_browser_finds_the_title_unchanged_and_no_script_ran(book, tmp_path):
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    for page, title in (
        (book / "prices/2026-01-05/report.html", "Prices 2026-01-05"),
        (book / "prices/2026-01-05/04_forecast.html", "prices 2026-01-05: What do the next seven days look like?"),
        (book / "index.html", "Forecast book"),
    ):
        command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / page.stem}", page.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True).stdout
        assert f"<title>{title}</title>" in dom
        assert "<script" not in dom and not re.search(r"<[^>]+\sonerror=", dom)


@pytest.mark.parametrize("more", [0, 1500])
def test_the_report_says_how_many_rows_the_quarantine_does_not_list(tmp_path, more):
    counts = {"covariate left empty: no": 1000} | ({"covariate left empty: no, not listed": more} if more else {})
    lines = provenance.quality(runfiles.RunFiles(make_run(tmp_path, counts=counts)), PRICES)["lines"]
    said = [line for line in lines if line.startswith("Beyond")]
    assert said == ["Beyond those listed, 1,500 rows were counted for the same reasons."] * bool(more)


@pytest.mark.parametrize("trade", [PRICES, SALES])
def test_the_report_says_which_columns_no_model_reads(tmp_path, trade):
    source = {"kind": "file", "past": ["list_price", "cost"], "static": ["brand"]}
    lines = provenance.quality(runfiles.RunFiles(make_run(tmp_path, params={"source": source})), trade)["lines"]
    said = [line for line in lines if "No model" in line]
    assert [line.partition(":")[0] for line in said] == ["No model of prices reads cost, brand"] * (trade is PRICES)
