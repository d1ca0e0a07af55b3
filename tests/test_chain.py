"""The chain itself, as Make runs it: on the smoke overlay, in processes of its own, against a real warehouse file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import nbformat
import pandas as pd
import psutil
import pyarrow as pa
import pytest

from conftest import posted_prices, python
from forecastbook import chain
from forecastbook.commands import Request
from forecastbook.files import lock, lock_of
from forecastbook.intake import SourceError
from forecastbook.params import Params
from forecastbook.roster import StaleError
from forecastbook.run import Run
from forecastbook.sources import SOURCES
from forecastbook.step import MARK, faults
from forecastbook.warehouse import WarehouseError, connect
from publishing import stored

pytestmark = pytest.mark.timeout(600)
STEPS = ("01_ingest", "03_finetune", "04_forecast", "05_evaluate")
TINY = "max_series: 12\nmodel: {hidden_size: 4, epochs: 1, max_steps: 4}\nfinetune: {epochs: 1}\nbacktest: {origins: 2}\n"


class Book:
    """One OUT directory and the make that works on it."""

    def __init__(self, out: Path, job: str = "prices", warehouse: str = "", environ: dict[str, str] | None = None):
        self.out, self.job, self.environ, self.checkout = out, job, {**os.environ, **(environ or {})}, chain.ROOT
        self.warehouse = warehouse or f"duckdb:{out}/warehouse.duckdb"
        out.mkdir(parents=True, exist_ok=True)
        self.overlay = out.parent / "tiny.yaml"
        self.overlay.write_text(TINY)

    def command(self, *args: str) -> list[str]:
        own = [f"OUT={self.out}", f"JOB={self.job}", f"WAREHOUSE={self.warehouse}", f"PARAMS=params/smoke.yaml {self.overlay}"]
        return ["make", "--no-print-directory", *own, *(args or ("forecast",))]

    def make(self, *args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*args), cwd=self.checkout, capture_output=True, text=True, timeout=300, env=self.environ
        )

    def start(self, *args: str) -> subprocess.Popen:
        own = {"cwd": self.checkout, "env": self.environ, "start_new_session": True}
        own["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores Ctrl-C
        return subprocess.Popen(self.command(*args), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **own)

    @property
    def run(self) -> Path:
        return next(p for p in (self.out / self.job).iterdir() if (p / "manifest.json").is_file() and "+" not in p.name)

    @property
    def manifest(self) -> dict:
        return json.loads((self.run / "manifest.json").read_text())

    def digest(self, name: str = "forecast.parquet") -> str:
        return hashlib.sha256((self.run / name).read_bytes()).hexdigest()

    def times(self) -> dict[str, float]:
        return {str(p.relative_to(self.out)): p.stat().st_mtime_ns for p in self.out.rglob("*") if p.is_file()}

    @property
    def store(self):
        return connect(self.warehouse)

    def processes(self) -> list[psutil.Process]:
        """Living processes that a kernel of this book is or started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK, "").startswith(str(self.out)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def wait_for_kernel(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not self.processes():
            assert time.monotonic() < deadline, "no kernel runs"
            time.sleep(0.05)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for log in self.out.glob(f"{self.job}/*/run.log"):
                if text in log.read_text():
                    return
            time.sleep(0.05)
        raise AssertionError(f"{text!r} never came into run.log")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Book:
    book = Book(tmp_path_factory.mktemp("finished") / "out")
    done = book.make()
    assert done.returncode == 0, done.stderr
    return book


def test_a_bare_run_publishes_a_week_for_every_variant(finished):
    forecast, rows = pd.read_parquet(finished.run / "forecast.parquet"), finished.store.current("prices").to_pandas()
    newest = pd.read_parquet(finished.run / "panel.parquet")["ts"].max()
    assert (rows.groupby("variant_id").size() == 7).all() and len(rows) == len(forecast) > 0
    assert rows["forecast_date"].min() == newest + pd.Timedelta(days=1), "dates follow the data, not the clock"
    assert (rows["confidence_lower"] <= rows["predicted_price"]).all() and (
        rows["predicted_price"] <= rows["confidence_upper"]
    ).all()
    assert (rows["confidence_lower"] >= 0).all()
    assert all(ok for _, ok, _ in finished.store.checks())


def test_the_record_is_whole(finished):
    manifest = finished.manifest
    assert manifest["status"] == "done" and set(manifest["steps"].values()) == {"done"} and set(manifest["steps"]) == set(STEPS)
    for name in ("panel", "series", "quarantine", "backtest", "scores", "forecast"):
        assert manifest["files"][f"{name}.parquet"] == finished.digest(f"{name}.parquet")
    for step in STEPS:
        assert (finished.run / f"{step}.html").stat().st_size < 3_000_000
        assert faults(nbformat.read(finished.run / f"{step}.ipynb", 4)) is None
    assert {
        "run_id",
        "params",
        "params_hash",
        "data_hash",
        "commit",
        "dirty",
        "versions",
        "seed",
        "hardware",
        "gate",
        "receipt",
    } <= set(manifest)
    assert (finished.run / "report.html").is_file() and (finished.out / "index.html").is_file()
    assert not [p for p in finished.run.rglob("*") if ".part" in p.name]
    with duckdb.connect(str(finished.out / "warehouse.duckdb"), read_only=True) as connection:
        name, kind, metrics, hyper = connection.execute(
            "SELECT model_name, model_type, performance_metrics_json, hyperparameters_json FROM DimModel WHERE model_id = 100"
        ).fetchone()
    assert (name, kind) == ("LSTM_Price_Forecaster", "LSTM_Seq2Seq")
    assert json.loads(metrics)["rel_ql"] > 0 and json.loads(hyper)["hidden_size"] == 4


def test_a_second_run_does_nothing(finished):
    before = finished.times()
    again, dry = finished.make(), finished.make("-n", "forecast")
    assert again.returncode == dry.returncode == 0
    assert "Nothing to be done" in again.stdout and "Nothing to be done" in dry.stdout
    assert finished.times() == before


@pytest.fixture(scope="module")
def record_shop(tmp_path_factory) -> Book:
    book = Book(tmp_path_factory.mktemp("shop") / "out", "vinyl")
    done = book.make()
    assert done.returncode == 0, done.stderr[-3000:]
    return book


def test_a_record_shop_from_its_files_to_published_quantiles(record_shop):
    book, run = record_shop, record_shop.run
    assert all((run / f"{step}.html").is_file() for step in STEPS)
    assert json.loads((run / "manifest.json").read_text())["status"] == "done"
    frame, series = pd.read_parquet(run / "forecast.parquet"), pd.read_parquet(run / "series.parquet")
    assert len(series) == 12 and series["stock"].notna().all() and (frame[["q05", "q50", "q95", "q99"]] % 1 == 0).all(axis=None)
    assert len(pd.read_parquet(run / "quarantine.parquet")), "the generated shop has rows that are wrong, as real ones have"
    with duckdb.connect(str(book.out / "warehouse.duckdb"), read_only=True) as house:

        def one(text: str):
            return house.execute(text).fetchone()[0]

        sold = one("SELECT SUM(units) FROM FactSales")
        twice = "SELECT COUNT(*) FROM (SELECT item_id, period FROM FactSales GROUP BY ALL HAVING COUNT(*) > 1)"
        assert sold > 500 and one(twice) == 0
        assert one("SELECT MAX(availability) FROM FactItemMonth") <= 1 and one("SELECT COUNT(*) FROM FactStockMovement") > 500
        assert one("SELECT COUNT(*) FROM CurrentSalesForecast WHERE job = 'vinyl'") == len(frame)
        assert one("SELECT COUNT(*) FROM FactPriceForecast") == 0
    assert "What to reorder" in (run / "report.html").read_text() and all(ok for _, ok, _ in book.store.checks())
    orders, forecast = pd.read_csv(run / "orders.csv"), pd.read_parquet(run / "forecast.parquet")
    assert set(orders["series_id"]) == set(forecast["series_id"]) and {"title", "stock", "need", "order", "cost"} <= set(orders)
    before = book.times()
    assert book.make().returncode == 0 and book.times() == before, "nothing is made twice"


@pytest.fixture(scope="module")
def served(finished, record_shop, emulator, tmp_path_factory) -> dict[str, tuple[Book, Book]]:
    """Both jobs again, side by side, against BigQuery: prices from the facts of the finished run, the shop from its files.

    By job: (the book on DuckDB, the book on BigQuery).
    """
    url, home = "bigquery:test-project.shop", tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        emulator.lead(patch)
        store = connect(url)
        store.migrate()
        with duckdb.connect(str(finished.out / "warehouse.duckdb"), read_only=True) as facts:
            for table in ("FactProductPrice", "DimVariant", "DimDate", "DimShopProduct"):
                store.append(table, facts.sql(f"FROM {table}").to_arrow_table())
        pairs = {b.job: (b, Book(home / b.job / "out", b.job, url, emulator.environ)) for b in (finished, record_shop)}
        both = {job: pair[1].start() for job, pair in pairs.items()}
        for job, making in both.items():
            said = making.communicate(timeout=400)[1]
            assert making.returncode == 0, f"{job}: {said[-3000:]}"
        yield pairs


@pytest.mark.parametrize("job", ["prices", "vinyl"])
def test_bigquery_and_duckdb_give_the_same_bytes_and_serve_the_same_rows(served, job):
    here, there = served[job]
    assert there.manifest["run_id"] == here.manifest["run_id"] and there.manifest["receipt"]["status"] == "published"
    named = {k for k, v in here.manifest["files"].items() if v != there.manifest["files"][k]}
    assert named <= {"quarantine.parquet"}, "only the names of the shop's own files differ"
    ours, theirs = (book.store.current(job).drop_columns(["created_at", "published_at"]) for book in (here, there))
    assert ours.num_rows > 0 and theirs.equals(ours)
    assert theirs.num_rows == len(pd.read_parquet(there.run / "forecast.parquet"))
    assert all(ok for _, ok, _ in there.store.checks())
    model = "SELECT * FROM DimModel WHERE model_id = {} ORDER BY model_name".format(here.manifest["receipt"]["model_id"])
    assert stored(there.store, model) == stored(here.store, model)


@pytest.mark.parametrize("table", ["FactSales", "FactStockMovement", "FactItemMonth", "DimItem"])
def test_the_facts_of_a_shops_files_are_the_same_in_bigquery(served, table):
    here, there = served["vinyl"]
    order = "item_id" if table == "DimItem" else "item_id, 2"
    facts = stored(here.store, f"SELECT * FROM {table} ORDER BY {order}")
    assert facts and stored(there.store, f"SELECT * FROM {table} ORDER BY {order}") == facts


def test_a_second_run_against_bigquery_does_nothing(served):
    book = served["prices"][1]
    before = book.times()
    again = book.make()
    assert again.returncode == 0 and "Nothing to be done" in again.stdout and book.times() == before


def test_a_dataset_that_does_not_exist_is_named_and_not_made(served):
    book = served["prices"][1]
    done = book.make("forecast", "WAREHOUSE=bigquery:test-project.shpo", f"OUT={book.out}/other")
    assert done.returncode != 0 and "bigquery:test-project.shpo does not exist: check PROJECT and DATASET" in done.stderr
    assert not connect("bigquery:test-project.shpo").exists() and "Traceback" not in done.stderr


def test_killed_in_every_step_and_resumed_by_two_at_once(finished, tmp_path):
    """SIGKILL to make and all below it, in each step in turn; each time the next make goes on with the same run, at last two.

    In a symlinked checkout with a space in its path, Cyrillic names, a locale with a decimal comma.
    """
    book, done = Book(tmp_path / "вывод", environ={"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}), []
    book.checkout = tmp_path / "my checkout"
    book.checkout.symlink_to(chain.ROOT)
    for step in STEPS:
        making = book.start()
        book.wait_for(f"{step} starts")
        book.wait_for_kernel()
        os.killpg(making.pid, signal.SIGKILL)
        making.wait()
        assert not (book.run / f"{step}.ipynb").exists(), "no half-finished target"
        assert all((book.run / f"{s}.ipynb").exists() for s in done), "finished steps are kept"
        (book.run / "run.log").rename(book.run / f"run.{step}.log")
        done.append(step)
    with lock(lock_of(book.run), 60):  # until both have planned the step that is left
        both = [book.start() for _ in range(2)]
        for making in both:
            assert any("waiting for pid" in line for line in making.stderr)  # it may wait for the DuckDB file before
    errors = [making.communicate(timeout=300)[1] for making in both]
    assert [making.returncode for making in both] == [0, 0] and any("was made meanwhile" in e for e in errors), errors
    assert book.manifest["run_id"] == finished.manifest["run_id"] and book.digest() == finished.digest()
    assert book.store.ledger().num_rows == 1 and all(ok for _, ok, _ in book.store.checks())
    assert not [p for p in book.run.rglob("*") if p.name.endswith(".part")]


def test_touching_a_notebook_reruns_it_and_what_follows(finished):
    notebook = chain.ROOT / "notebooks" / "04_forecast.ipynb"
    before = notebook.stat()
    os.utime(notebook)
    try:
        said = finished.make("forecast", "--dry-run").stdout
    finally:
        os.utime(notebook, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [step for step in STEPS if f"notebooks/{step}.ipynb" in said] == ["04_forecast", "05_evaluate"], said
    assert not any(step in finished.make("forecast", "--dry-run").stdout for step in STEPS)


@pytest.mark.parametrize(
    ("end", "sign", "word", "code"),
    [(os.kill, signal.SIGTERM, "stopped", 143), (os.killpg, signal.SIGINT, "interrupted", 130)],
    ids=["SIGTERM to make", "Ctrl-C to all that the terminal started"],
)
def test_a_stopped_make_leaves_no_process(tmp_path, end, sign, word, code):
    book = Book(tmp_path / "out")
    making = book.start()
    book.wait_for("01_ingest starts")
    book.wait_for_kernel()
    end(making.pid, sign)
    said = making.communicate(timeout=60)[1]
    assert making.returncode != 0 and f" {word}; the next make forecast goes on from here" in said and "Traceback" not in said
    assert f"01_ingest.ipynb] Error {code}" in said
    deadline = time.monotonic() + 15
    while book.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not book.processes()
    assert not (book.run / "01_ingest.ipynb").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("AS_OF=2026-1-5", "wanted YYYY-MM-DD"),
        ("AS_OF=../../x", "wanted YYYY-MM-DD"),
        ("AS_OF=2017-13-01", "wanted a real date"),
        ("AS_OF=2999-01-01", "lies in the future"),
        ("AS_OF=1999-01-01", "lies outside the data"),
        ("JOB=../x", "wanted the name of a file"),
        ("JOB=price", "did you mean prices.yaml"),
        ("ASOF=2017-12-24", "unknown variable ASOF: it would have no effect; known are JOB AS_OF"),
        ("FORCE=0", "FORCE and DRY_RUN are 1 or left out"),
        ("WAREHOUSE=mysql:x", "duckdb:"),
        ("WAREHOUSE=bigquery:a`; DROP", "bigquery"),
    ],
)
def test_a_wrong_variable_is_refused_before_anything_is_made(finished, given, said):
    before = sorted(p.name for p in finished.out.rglob("*"))
    done = finished.make("forecast", given)
    assert done.returncode != 0
    assert said in done.stderr and "Traceback" not in done.stderr
    assert sorted(p.name for p in finished.out.rglob("*")) == before


def test_what_is_gone_from_a_finished_run_is_made_again(finished):
    """A file that a step left, or its place in the ledger: nothing says done of what is not there any more."""
    digest, run_id = finished.digest(), finished.manifest["run_id"]
    (finished.run / "forecast.parquet").unlink()
    with duckdb.connect(str(finished.store.path)) as connection:
        connection.execute("DELETE FROM PublishLedger")
    before = finished.times()
    done = finished.make()
    assert done.returncode == 0, done.stderr
    assert "forecast.parquet is gone, so make forecast makes 04_forecast again" in done.stderr
    assert finished.digest() == digest and finished.manifest["run_id"] == run_id and finished.manifest["status"] == "done"
    assert finished.store.ledger()["run_id"].to_pylist() == [run_id] and all(ok for _, ok, _ in finished.store.checks())
    kept = [name for name in before if name.endswith(("01_ingest.ipynb", "03_finetune.ipynb", "scores.parquet"))]
    assert len(kept) == 3 and all(finished.times()[name] == before[name] for name in kept), "earlier steps stand"


def test_a_publication_that_is_gone_is_published_again(finished, tmp_path):
    """Looked at with copies of the run: its step is marked to be made again, and no other."""

    def left(name: str, store) -> set[str]:
        run = Run(shutil.copytree(finished.run, tmp_path / name / "prices" / finished.run.name))
        chain._mend(run, SOURCES["warehouse_prices"], store, store.ledger().to_pylist())
        return {step for step in STEPS if (run.dir / f"{step}.ipynb").is_file()}

    assert left("there", finished.store) == set(STEPS)
    assert left("gone", connect(f"duckdb:{tmp_path}/other.duckdb")) == set(STEPS) - {"04_forecast"}
    shutil.copy(finished.store.path, tmp_path / "part.duckdb")
    with duckdb.connect(str(tmp_path / "part.duckdb")) as connection:
        connection.execute("DELETE FROM FactPriceForecast WHERE horizon = 2")
    assert left("part", connect(f"duckdb:{tmp_path}/part.duckdb")) == set(STEPS) - {"04_forecast"}


def test_params_edited_after_a_finished_run(finished, tmp_path):
    (tmp_path / "more.yaml").write_text("gate: {doubt: 2.0}\n")
    command = [c if not c.startswith("PARAMS=") else f"{c} {tmp_path}/more.yaml" for c in finished.command()]
    digest, first = finished.digest(), finished.manifest["run_id"]
    refused = subprocess.run(command, cwd=chain.ROOT, capture_output=True, text=True, timeout=300)
    assert (
        refused.returncode != 0
        and f"gate.doubt: {Params().gate.doubt} -> 2.0" in refused.stderr
        and "FORCE=1" in refused.stderr
    )
    assert finished.digest() == digest
    before, dry = finished.times(), ("-n", "forecast", "FORCE=1")
    assert "Nothing to be done" in finished.make(*dry).stdout, "without the other inputs"
    shown = finished.make(*dry, command[-2]).stdout
    assert [step for step in STEPS if f"notebooks/{step}.ipynb" in shown] == list(STEPS) and finished.times() == before
    forced = finished.start("forecast", "FORCE=1", command[-2])
    deadline = time.monotonic() + 120
    while len(list((finished.out / "prices").glob("*/run.log"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(forced.pid, signal.SIGKILL)  # its first step has begun: that is all there is to see
    forced.wait()
    assert finished.manifest["run_id"] != first
    kept = next(p for p in (finished.out / "prices").iterdir() if "+" in p.name)
    assert hashlib.sha256((kept / "forecast.parquet").read_bytes()).hexdigest() == digest, "the old run is kept"
    assert set(finished.store.current("prices")["run_id"].to_pylist()) == {first}, "and served until the new one is published"


def test_data_that_are_too_old_are_said_or_stop_what_has_nothing_new_to_do(published, tmp_path, lines):
    (tmp_path / "fresh.yaml").write_text("freshness: {max_age_days: 30}\n")
    (tmp_path / "stop.yaml").write_text("freshness: {max_age_days: 30, action: stop}\n")

    def plan(*overlays, as_of=""):
        asked = [str(published.overlay), *map(str, overlays)]
        return chain.plan(Request("prices", as_of, published.out, published.url, asked))

    plan(tmp_path / "fresh.yaml")
    assert not [line for line in lines if "days old" in line], "01_ingest will say it"
    plan(tmp_path / "fresh.yaml")
    (said,) = [line for line in lines if "days old" in line]
    assert said.startswith("WARNING The newest day, 2024-03-12, is") and "freshness.max_age_days" in said
    with pytest.raises(StaleError, match="bring the source up to date"):
        plan(tmp_path / "stop.yaml")
    assert plan(tmp_path / "stop.yaml", as_of="2024-03-11").as_of.isoformat() == "2024-03-11", "an old day was asked for"
    with pytest.raises(SourceError, match=rf"lies outside the data of {published.home}/prices.csv"):
        plan(as_of="2024-03-13")


def test_a_delivery_that_was_withdrawn_is_told(published, lines):
    """Readers go on with the forecast that was made of it."""
    published.write(published.days[:4])
    chain.plan(Request("prices", "", published.out, published.url, [str(published.overlay)]))
    assert [line for line in lines if "readers are served the forecast of 2024-03-05" in line and "ends on" in line], lines
    lines.clear()
    chain.plan(Request("prices", "2024-03-04", published.out, published.url, [str(published.overlay)]))
    assert not [line for line in lines if "withdrawn" in line], "an earlier day was asked for"


def test_facts_of_later_days_that_cannot_be_used_are_told_though_nothing_is_to_be_done(tmp_path, lines):
    """As where the calendar was not filled on: the run of the last usable day is finished, and would stay the last one."""
    store = connect(f"duckdb:{tmp_path}/shop.duckdb")
    store.migrate()
    SOURCES["warehouse_prices"].ensure_sample(store, 20)
    overlay = tmp_path / "own.yaml"
    overlay.write_text("publish: {enabled: false}\n")
    asked = ("prices", "", tmp_path / "out", store.url, [str(overlay)])
    run = chain.plan(Request(*asked))
    run.note(status="done")
    lines.clear()
    assert chain.plan(Request(*asked)).id == run.id and not [line for line in lines if "DimDate" in line]
    with duckdb.connect(str(store.path)) as connection:
        late = "SELECT price_fact_id + 1000000, variant_id, 20180102, current_price, original_price, is_available"
        connection.execute(f"INSERT INTO FactProductPrice {late} FROM FactProductPrice WHERE date_id = 20171231")
        connection.execute("DELETE FROM DimDate WHERE date_id > 20171231")
    assert chain.plan(Request(*asked)).id == run.id and [line for line in lines if "is DimDate filled so far" in line], lines


def test_columns_that_no_model_reads_are_told_when_a_run_is_planned(tmp_path, lines):
    posted_prices(4, 60).assign(cost=1.0).to_csv(tmp_path / "prices.csv", index=False)
    overlay = tmp_path / "own.yaml"
    overlay.write_text(f"publish: {{enabled: false}}\nsource: {{kind: file, path: {tmp_path}/prices.csv, past: [cost]}}\n")
    asked = ("prices", "", tmp_path / "out", f"duckdb:{tmp_path}/shop.duckdb", [str(overlay)])
    run = chain.plan(Request(*asked))
    assert len([line for line in lines if "No model of prices reads cost:" in line]) == 1
    run.note(status="done")
    lines.clear()
    assert chain.plan(Request(*asked)).id == run.id and not lines


@pytest.mark.parametrize("force", [False, True])
def test_a_warehouse_that_cannot_be_read_is_refused_before_a_run_is_touched(tmp_path, force):
    posted_prices(4, 60).to_csv(tmp_path / "prices.csv", index=False)
    overlay, wrong = tmp_path / "own.yaml", tmp_path / "prices.duckdb"
    overlay.write_text(f"source: {{kind: file, path: {tmp_path}/prices.csv}}\n")
    wrong.write_text("no database\n" * 1000)
    asked = ("prices", "", tmp_path / "out")
    run = chain.plan(Request(*asked, f"duckdb:{tmp_path}/shop.duckdb", [str(overlay)]))
    run.note(status="done" if force else "running")
    before, there = (run.dir / "manifest.json").read_bytes(), sorted(run.home.iterdir())
    with pytest.raises(WarehouseError, match=str(wrong)):
        chain.plan(Request(*asked, f"duckdb:{wrong}", [str(overlay)]), force)
    assert (run.dir / "manifest.json").read_bytes() == before and sorted(run.home.iterdir()) == there


def test_a_step_of_a_run_that_was_begun_again_with_other_inputs_is_refused(tmp_path, capfd):
    overlay, out = tmp_path / "own.yaml", tmp_path / "out"
    overlay.write_text("publish: {enabled: false}\nsource: {sample_series: 20}\n")
    asked = ("prices", "", out, f"duckdb:{tmp_path}/shop.duckdb", [str(overlay)])
    first = chain.plan(Request(*asked)).id
    overlay.write_text(overlay.read_text() + "horizon: 5\n")
    second = chain.plan(Request(*asked))
    assert second.id != first
    given = [
        "--job",
        "prices",
        "--out",
        str(out),
        "--warehouse",
        asked[3],
        "--params",
        str(overlay),
        "--as-of",
        str(second.as_of),
    ]
    assert chain.main(["step", *given, "--run", first, str(chain.ROOT / "notebooks" / "01_ingest.ipynb")]) == 2


# --- the accuracy record ------------------------------------------------------------------------------------------------


class Published:
    """Twelve days of three prices in a file, and a warehouse with the forecasts of the third and the fifth of them."""

    def __init__(self, home: Path):
        self.home, self.url, self.out = home, f"duckdb:{home}/shop.duckdb", home / "out"
        self.days = pd.date_range("2024-03-01", periods=12)
        self.write(self.days)
        self.overlay = home / "own.yaml"
        self.overlay.write_text(f"horizon: 3\nsource: {{kind: file, path: {home}/prices.csv}}\n")

    def write(self, days) -> None:
        rows = [(sku, day.date(), 10.0 + n % 3) for sku in ("a", "b", "c") for n, day in enumerate(days)]
        pd.DataFrame(rows, columns=["series_id", "ts", "y"]).to_csv(self.home / "prices.csv", index=False)

    def publish(self, n: int) -> None:
        """What was forecast on day ``n``: 10, give or take 1.5, of each price on each of three days."""
        ahead = [d.date() for d in self.days[n + 1 : n + 4]]
        rows = {"series_id": [sku for sku in "abc" for _ in ahead], "forecast_date": ahead * 3, "horizon": [1, 2, 3] * 3}
        rows |= {"predicted_price": [10.0] * 9, "confidence_lower": [8.5] * 9, "confidence_upper": [11.5] * 9}
        store = connect(self.url)
        store.migrate()
        asked = {
            "job": "prices",
            "model_id": 100,
            "as_of": self.days[n].date(),
            "run_id": f"r{n}",
            "table": "FactPriceForecast",
        }
        store.publish(**asked, rows=pa.table(rows))

    def score(self, as_of: str = "", *overlays: str) -> str:
        return chain.score(Request("prices", as_of, self.out, self.url, [str(self.overlay), *overlays]))

    def command(self, **more: str) -> subprocess.CompletedProcess:
        asked = {"job": "prices", "out": str(self.out), "warehouse": self.url, "params": str(self.overlay), "as-of": ""} | more
        words = [word for key, value in asked.items() for word in (f"--{key}", value)]
        command = [sys.executable, "-m", "forecastbook.chain", "score", *words]
        return subprocess.run(command, cwd=chain.ROOT, capture_output=True, text=True, timeout=120)

    @property
    def rows(self) -> list[tuple]:
        with duckdb.connect(self.url.removeprefix("duckdb:"), read_only=True) as connection:
            return connection.execute("SELECT * FROM ForecastScore ORDER BY as_of, horizon, metric").fetchall()


@pytest.fixture
def published(tmp_path) -> Published:
    shop = Published(tmp_path)
    shop.publish(2), shop.publish(4)
    return shop


def test_scoring_needs_no_run_and_twice_is_once(published):
    done = published.command()
    assert done.returncode == 0, done.stderr
    words, heads, *table, last = done.stdout.splitlines()
    assert words == "prices, scored as of 2024-03-12:" and heads.split()[:4] == ["as", "of", "n", "error"]
    # day 2 stood at 12, what came was 10, 11, 12 against 10; day 4 stood at 11, what came was 12, 10, 11
    assert [line.split() for line in table] == [
        ["2024-03-03", "9", "8.33", "%", "8.33", "%", "67", "%", "yes"],
        ["2024-03-05", "9", "9.09", "%", "6.06", "%", "67", "%", "yes"],
    ]
    assert last.startswith("2 published forecasts have met their actuals: error 8.71 % against 7.20 % of the last value, ")
    assert len(published.rows) == 2 * 3 * 3 and not published.out.exists()
    rows, again = published.rows, published.command()
    nothing = "Nothing new to score as of 2024-03-12. The newest of prices:"
    assert again.returncode == 0 and again.stdout.splitlines() == [nothing, heads, *table, last]
    assert published.rows == rows and sorted(p.name for p in published.home.iterdir()) == [
        "own.yaml",
        "prices.csv",
        "shop.duckdb",
    ]


def test_a_later_day_scores_more_and_an_earlier_one_takes_nothing_away(published):
    first = published.score("2024-03-06")
    assert len(published.rows) == 3 * (3 + 1) and first.count("yes") == first.count("not yet") == 1
    later = published.score()
    assert len(published.rows) == 3 * 6 and "2024-03-05" in later and "2024-03-03" not in later
    rows, back = published.rows, published.score("2024-03-04")
    assert back.startswith("Nothing new to score as of 2024-03-04. ") and "\nOne published forecast has" in back
    assert published.rows == rows and "2024-03-05" not in back
    assert published.score("2024-03-03") == (
        f"Nothing to score: no forecast of prices in {published.url} has met its actuals by 2024-03-03."
    )


def test_scoring_where_there_is_nothing_to_score(tmp_path):
    shop = Published(tmp_path)
    done = shop.command()
    assert done.returncode == 0 and done.stdout == f"Nothing to score: prices has published nothing in {shop.url} yet.\n"
    assert not (tmp_path / "shop.duckdb").exists() and not shop.out.exists()
    off = tmp_path / "off.yaml"
    off.write_text("publish: {enabled: false}\n")
    assert shop.score("", str(off)) == "prices publishes nothing (publish.enabled is false), so there is nothing to score."


def test_a_date_between_the_periods_of_a_job_cannot_be_scored(published):
    weekly = published.home / "weekly.yaml"
    weekly.write_text("freq: W-FRI\n")
    done = published.command(params=f"{published.overlay} {weekly}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the newest date of the data, 2024-03-12, is not the first day of a period of freq W-FRI" in done.stderr
    assert "set freq (weeks that begin on its day are W-TUE)" in done.stderr
    assert not published.rows


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"as-of": "2024-3-5"}, "wanted YYYY-MM-DD"),
        ({"as-of": "2024-04-05"}, "lies outside the data"),
        ({"job": "../x"}, "wanted the name of a file"),
        ({"warehouse": "mysql:x"}, "duckdb:"),
    ],
)
def test_scoring_refuses_in_one_line(published, given, said):
    done = published.command(**given)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout


# --- sales jobs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["sales", "vinyl"])
def test_a_dry_run_of_a_job_that_has_no_data_yet_writes_nothing(tmp_path, job):
    book = Book(tmp_path / "out")
    dry = book.make("-n", "forecast", f"JOB={job}")
    assert dry.returncode == 0 and "01_ingest" in dry.stdout and not list(book.out.iterdir()), dry.stderr


def test_two_notebooks_opened_by_hand_run_the_earlier_step_once(tmp_path):
    posted_prices(4, 120).to_parquet(tmp_path / "prices.parquet")
    (tmp_path / "own.yaml").write_text(f"source: {{kind: file, path: {tmp_path}/prices.parquet}}\n")
    code = (
        "import sys; from forecastbook import chain\n"
        "print(chain.open('03_finetune', 'prices', '', *sys.argv[1:3], sys.argv[3:]).id)"
    )
    given = [tmp_path / "out", f"duckdb:{tmp_path}/w.duckdb", "params/smoke.yaml", tmp_path / "own.yaml"]
    both = [python(code, *given) for _ in range(2)]
    (one, first), (other, second) = (opened.communicate(timeout=120) for opened in both)
    assert one == other and one.startswith("prices-20240429-"), first + second
    assert (first + second).count("01_ingest starts") == 1 and "waiting for pid" in first + second
    dated = code.replace("''", "'2024-04-20'")
    for ran in (1, 0):  # of a date that nobody has run yet all is made, then it is there
        earlier, said = python(dated, *given).communicate(timeout=120)
        assert earlier.startswith("prices-20240420-") and said.count("01_ingest starts") == ran, said
