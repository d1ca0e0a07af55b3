"""make warehouse and make doctor: what they say, what they exit with, and that the doctor writes nothing."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from google.auth import exceptions as auth
from google.cloud import bigquery as service

from conftest import posted_panel
from emulated import FaultProxy, is_load
from forecastbook import bigquery, cloud, doctor, lstm, models, schema, sources
from forecastbook.commands import ROOT
from forecastbook.doctor import Patient, check, migrate
from forecastbook.intake import today
from forecastbook.params import Params
from forecastbook.warehouse import WarehouseError, connect
from publishing import prices, put, stored

DATASETS = itertools.count()
PRICES = {"source": {"kind": "warehouse_prices"}}
SALES = {"source": {"kind": "warehouse_sales"}, "model": {"name": "tide"}}
BARE = {"GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", "BIGQUERY_EMULATOR_HOST"}


@pytest.fixture
def house(tmp_path):
    """A DuckDB file that is not there yet."""
    return connect(f"duckdb:{tmp_path / 'the shop' / 'warehouse.duckdb'}")


@pytest.fixture
def dataset(emulator, monkeypatch):
    """A dataset that is not there yet. The emulator takes seconds to make our tables, so few tests have them made."""
    emulator.lead(monkeypatch)
    return connect(f"bigquery:test-project.doctor_{next(DATASETS)}")


@pytest.fixture(scope="module")
def shop(emulator, tmp_path_factory):
    """A dataset with prices of today and one publication, for tests that only look: its url, what making it said, and the
    requests that the publication sent."""
    url = "bigquery:test-project.doctor_shop"
    with pytest.MonkeyPatch.context() as patch, FaultProxy(emulator.host) as proxy:
        emulator.lead(patch, BIGQUERY_EMULATOR_HOST=proxy.host)
        made = doc("migrate", url, tmp_path_factory.mktemp("out"))
        house = connect(url)
        fill(house, today())
        before = len(proxy.requests)
        put(house, prices(ids=("a", "b"), key="series_id"))
        return SimpleNamespace(url=url, made=made, publication=proxy.requests[before:])


@pytest.fixture
def visited(shop, emulator, monkeypatch):
    """The url of ``shop``, and a proxy in front of it."""
    with FaultProxy(emulator.host) as proxy:
        emulator.lead(monkeypatch, BIGQUERY_EMULATOR_HOST=proxy.host)
        yield shop.url, proxy


def doc(command: str, url: str, out: Path, *more: str, job: str = "prices", **environ) -> subprocess.CompletedProcess:
    """``python -m forecastbook.doctor`` as make calls it."""
    call = [sys.executable, "-m", "forecastbook.doctor", command, "--job", job, "--out", str(out), "--warehouse", url, *more]
    return subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, **environ})


def nobody(tmp_path: Path) -> dict[str, str]:
    """An environment in which Google knows nobody."""
    home = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"), "NO_GCE_CHECK": "true"}
    return home | dict.fromkeys(BARE, "")


def fill(house, last: dt.date, days: int = 3) -> None:
    """Prices of two variants on the days up to ``last``."""
    house.migrate()
    calendar = [last - dt.timedelta(days=i) for i in range(days)]
    number = [day.year * 10_000 + day.month * 100 + day.day for day in calendar]
    house.append("DimVariant", pa.table({"variant_id": [1, 2], "shop_product_id": [1, 2], "variant_title": ["tea", "milk"]}))
    parts = {name: [getattr(day, name) for day in calendar] for name in ("year", "month", "day")}
    words = [day.strftime("%A") for day in calendar]
    house.append("DimDate", pa.table({"date_id": number, "full_date": calendar, **parts, "day_of_week": words}))
    facts = {"price_fact_id": list(range(2 * days)), "variant_id": [1, 2] * days, "date_id": sorted(number * 2)}
    more = {"current_price": [2.5] * 2 * days, "original_price": [3.0] * 2 * days, "is_available": [True] * 2 * days}
    house.append("FactProductPrice", pa.table({**facts, **more}))


def look(url: str, out: Path, *only: str, job: str = "prices", as_of: str = "", overlay: str = "") -> dict[str, doctor.Finding]:
    """What each check found, in this process; ``only``: these and what they need."""
    checks, wanted = doctor.SERVER if url.startswith("bigquery:") else doctor.FILE, list(only)
    for what in wanted:  # grows
        wanted += [need for need in checks[what][1] if need not in wanted]
    chosen = {what: checks[what] for what in checks if what in wanted or not only}
    path = out / "overlay.yaml"
    overlays = []
    if overlay:
        path.write_text(overlay)
        overlays = [str(path)]
    found = {finding.what: finding for finding in check(Patient(job, as_of, out, url, overlays), chosen)}
    assert all(
        len(str(finding).splitlines()) == 1 and finding.level in ("ok", "warn", "FAIL", "skip") for finding in found.values()
    )
    return found


def levels(found: dict[str, doctor.Finding], level: str) -> set[str]:
    return {what for what, finding in found.items() if finding.level == level}


# ---- make warehouse ------------------------------------------------------------------------------------------------------


def test_it_is_made_once_and_then_up_to_date(house, tmp_path, shop):
    first, again = doc("migrate", house.url, tmp_path), doc("migrate", house.url, tmp_path)
    assert (first.returncode, again.returncode, shop.made.returncode) == (0, 0, 0), first.stderr + again.stderr
    made = [f"made {name}" for name in (*schema.tables(), *schema.views())]
    assert first.stdout.splitlines() == made
    assert shop.made.stdout.splitlines() == ["made dataset test-project.doctor_shop in the default location", *made]
    assert again.stdout == f"{house.url} is up to date\n"
    assert doc("migrate", house.url, tmp_path, "--dry-run").stdout == f"-- {house.url} is up to date\n"


def test_a_dry_run_changes_nothing_and_its_statements_are_all_it_takes(house, tmp_path):
    done = doc("migrate", house.url, tmp_path / "out", "--dry-run")
    assert done.returncode == 0 and done.stdout.endswith(";\n"), done.stderr
    assert not list(tmp_path.iterdir())
    house.path.parent.mkdir()
    with duckdb.connect(str(house.path)) as connection:
        connection.execute(done.stdout)
    assert house.lacking() == house.migrate() == []


def test_a_dry_run_on_a_dataset_changes_nothing_and_its_statements_are_all_it_takes(dataset, tmp_path):
    done = doc("migrate", dataset.url, tmp_path, "--dry-run")
    assert done.returncode == 0 and not dataset.exists(), done.stderr
    for text in ("PARTITION BY as_of", "CLUSTER BY variant_id, run_id", "description='the median'", "CREATE SCHEMA"):
        assert text in done.stdout
    dataset.client.query(done.stdout).result()
    again = doc("migrate", dataset.url, tmp_path)
    assert again.stdout == f"{dataset.url} is up to date\n" and not again.stderr


def test_what_lacks_is_told_before_it_is_made(house):
    house.migrate()
    stored(house, "DROP VIEW CurrentSalesForecast")
    stored(house, "DROP TABLE DimVariant")
    stored(house, "CREATE TABLE DimVariant (variant_id INT64, shop_product_id INT64, variant_title STRING)")
    known = connect(house.url)
    assert known.lacking() == ["added DimVariant.source_key", "made CurrentSalesForecast"]
    assert known.lacking() == known.migrate() and connect(house.url).lacking() == []


def test_a_dry_run_without_credentials_prints_the_statements_of_an_empty_dataset(tmp_path):
    done = doc("migrate", "bigquery:my-project.shop", tmp_path, "--dry-run", BIGQUERY_LOCATION="EU", **nobody(tmp_path))
    assert done.returncode == 0
    assert "authentication failed" in done.stderr and "for an empty warehouse" in done.stderr
    assert "location = 'EU'" in done.stdout and "CREATE TABLE IF NOT EXISTS `my-project`.shop.PublishLedger" in done.stdout
    assert done.stdout.count(";\n") == 1 + len(schema.tables()) + len(schema.views())


def test_without_credentials_nothing_is_migrated(tmp_path):
    done = doc("migrate", "bigquery:my-project.shop", tmp_path, **nobody(tmp_path))
    assert done.returncode == 2 and "gcloud auth application-default login" in done.stderr and not done.stdout
    assert "Traceback" not in done.stderr


# ---- make doctor ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "dataset"])
def test_a_healthy_warehouse_has_no_line_that_fails_and_nothing_is_written_into_it(where, house, tmp_path, request):
    url, proxy = request.getfixturevalue("visited") if where == "dataset" else (house.url, None)
    if where == "file":
        fill(house, today())
        put(house, prices(ids=(1, 2)))
    before = files(tmp_path)
    done = doc("check", url, tmp_path / "outputs")
    assert done.returncode == 0 and not done.stderr and files(tmp_path) == before
    lines = {line[5:].partition(":")[0]: line for line in done.stdout.splitlines()}
    warned = [what for what, line in lines.items() if not line.startswith("ok   ")]
    assert warned == ([] if where == "file" else ["cost"]), "the emulator says 0 bytes"
    assert list(lines) == list(doctor.FILE if where == "file" else doctor.SERVER)
    assert f"a run as of {today()}" in lines["data"]
    assert "FactPriceForecast holds 14 rows; prices has published 1 vintages, the newest as of 2024-03-01" in lines["forecasts"]
    posted = [r for r in proxy.requests if r.method != "GET" and ":testIamPermissions" not in r.path] if proxy else []
    assert bool(posted) == (where == "dataset") and not any(is_load(request) for request in posted)
    for sent in posted:
        dry = sent.configuration.get("dryRun") or (sent.json or {}).get("dryRun")
        assert dry or re.match(r"\s*(SELECT|WITH)\b", sent.sql or ""), (sent.path, sent.sql)


def files(home: Path) -> dict:
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in home.rglob("*")}


@pytest.mark.parametrize("where", ["file", "dataset"])
def test_a_wrong_type_fails_by_name(where, tmp_path, request):
    made = request.getfixturevalue("house" if where == "file" else "dataset")
    made.path.parent.mkdir() if where == "file" else made._make_dataset()
    columns = (
        "price_fact_id INT64, variant_id INT64, date_id INT64, current_price STRING, original_price INT64, is_available BOOL"
    )
    stored(made, f"CREATE TABLE FactProductPrice ({columns})")
    done = doc("check", made.url, tmp_path)
    assert done.returncode == 1 and re.search(r"^FAIL tables: .*FactProductPrice.current_price is", done.stdout, re.M)
    assert "rename the table" in done.stdout and re.search(r"^skip data: .*because of tables", done.stdout, re.M)
    for more in ([], ["--dry-run"]) if where == "file" else ():
        refused = doc("migrate", made.url, tmp_path, *more)
        assert refused.returncode == 2 and "FactProductPrice.current_price" in refused.stderr and not refused.stdout


def test_nobody_logged_in_fails_with_how_and_the_rest_is_skipped(tmp_path):
    done = doc("check", "bigquery:my-project.shop", tmp_path, **nobody(tmp_path))
    assert done.returncode == 1
    assert re.search(r"^FAIL credentials: .*gcloud auth application-default login", done.stdout, re.M)
    kinds = [line[:4] for line in done.stdout.splitlines()]
    assert kinds == ["ok  "] * 4 + ["FAIL"] + ["skip"] * (len(doctor.SERVER) - 5)


@pytest.mark.parametrize(
    "age, overlay, level, text",
    [
        (0, "", "ok", "knows nothing of the last 0 days"),
        (3, "", "ok", "last 3 days"),
        (30, "", "warn", "its forecasts would end on"),
        (3, "freshness: {max_age_days: 2}", "warn", "max_age_days allows \\(2\\)"),
        (3, "freshness: {max_age_days: 2, action: stop}", "FAIL", "bring the source up to date"),
    ],
)
def test_stale_data_warns_or_fails_as_the_run_would(tmp_path, age, overlay, level, text):
    house = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    fill(house, today() - dt.timedelta(days=age))
    found = look(house.url, tmp_path, "data", overlay=overlay)["data"]
    assert found.level == level and re.search(text, found.found)


def test_a_date_outside_the_data_fails(tmp_path):
    house = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    fill(house, today())
    found = look(house.url, tmp_path, as_of="2001-01-01")
    assert levels(found, "FAIL") == {"data"} and "lies outside the data" in found["data"].found


def test_a_date_that_no_run_could_have_fails(tmp_path):
    days = pd.date_range(end=today() - dt.timedelta(days=7), periods=9, freq="W-MON")
    pd.DataFrame({"series_id": "tea", "ts": days, "y": 2.5}).to_csv(tmp_path / "prices.csv", index=False)
    overlay = f"freq: W-MON\nsource: {{kind: file, path: {tmp_path}/prices.csv}}\n"
    asked = {"overlay": overlay, "as_of": f"{days[4] + pd.Timedelta(days=2):%Y-%m-%d}"}
    found = look(f"duckdb:{tmp_path / 'w.duckdb'}", tmp_path, "data", **asked)["data"]
    assert found.level == "FAIL" and f"write {days[4]:%Y-%m-%d}" in found.found


def test_an_empty_dataset_fails_and_an_empty_file_gets_the_sample(house, tmp_path, visited):
    found = look(visited[0], tmp_path, "data", job="sales")["data"]
    assert found.level == "FAIL" and "FactSales has no facts: load them first" in found.found
    house.migrate()
    found = look(house.url, tmp_path, "data")["data"]
    assert found.level == "warn" and "first run makes a sample" in found.found
    house.append("DimVariant", pa.table({"variant_id": [1], "shop_product_id": [1], "variant_title": ["tea"]}))
    found = look(house.url, tmp_path, "data")["data"]
    assert found.level == "FAIL" and "FactProductPrice has no facts" in found.found, "a shop's own file is given no sample"


def test_a_file_that_is_not_there_is_made_by_the_first_run(house, tmp_path):
    found = look(house.url, tmp_path)
    assert not levels(found, "FAIL") and "is not there yet" in found["file"].found and not list(tmp_path.iterdir())


def test_a_dataset_that_is_not_there_or_lacks_what_the_job_reads_fails(dataset, tmp_path):
    found = look(dataset.url, tmp_path)
    assert levels(found, "FAIL") == {"dataset"} and "make warehouse WAREHOUSE=bigquery:" in found["dataset"].found
    assert not dataset.exists()
    dataset._make_dataset()
    found = look(dataset.url, tmp_path, "tables", job="sales")["tables"]
    assert found.level == "FAIL" and "sales reads DimItem, FactSales, which are not there" in found.found
    found = look(dataset.url, tmp_path, job="vinyl")
    assert found["tables"].level == "warn" and "none is there yet" in found["tables"].found
    assert "before there is one" in found["writing"].found and "cannot be told" in found["reading"].found
    assert found["cost"].found == "shop_files sends no query to read its facts"
    assert not levels(found, "FAIL") and not list(tmp_path.iterdir()), "the generated shop's files are not written"


@pytest.mark.parametrize(
    "where, code, what, level, text",
    [
        (":testIamPermissions", 501, "writing", "warn", "cannot be told here"),
        (":testIamPermissions", 403, "writing", "FAIL", "the account lacks a right"),
        ("/datasets/", 403, "dataset", "FAIL", "the account lacks a right"),
        ("/jobs", 403, "jobs", "FAIL", "the account lacks a right"),
        ("/jobs", 401, "jobs", "FAIL", "authentication failed"),
    ],
)
def test_a_right_that_is_missing_is_named_by_its_line(visited, tmp_path, where, code, what, level, text):
    url, proxy = visited
    fault = {"code": code, "reason": "accessDenied", "message": "no"}
    proxy.fault("status", when=lambda r: where in r.path and ("tables" not in r.path or ":" in where), times=None, **fault)
    found = look(url, tmp_path, what)[what]
    assert found.level == level and text in found.found


def test_rights_that_lack_are_listed_with_the_role_that_has_them(visited, tmp_path, monkeypatch):
    monkeypatch.setattr(bigquery.BigQuery, "may", lambda self, table, rights: ["bigquery.tables.get"])
    found = look(visited[0], tmp_path, "writing")["writing"]
    assert found.level == "FAIL" and "bigquery.tables.updateData (write to it)" in found.found
    assert "bigquery.tables.get (" not in found.found and "roles/bigquery.dataEditor" in found.found


def test_a_run_is_priced_and_held_against_the_limit(visited, tmp_path, monkeypatch):
    monkeypatch.setattr(bigquery.BigQuery, "estimate", lambda self, name, params: 2**39 if name == "price_facts" else 2**36)
    monkeypatch.setenv("BIGQUERY_MAXIMUM_BYTES_BILLED", str(10**12))
    patient = Patient("prices", "", tmp_path, visited[0], [])
    level, said = doctor.cost(patient)
    assert level == "ok" and "by 8 queries, 549.8 GB of it by price_facts" in said
    assert "$5.8594 at $6.25 a TiB" in said  # (1/2 + 7/16) TiB
    level, said = doctor.quota(patient)
    assert level == "warn" and "a result may have 10.0 GB" in said and "price_facts reads at most 6 rows" in said
    monkeypatch.setenv("BIGQUERY_PRICE_PER_TIB", "8")
    assert "$7.5000 at $8 a TiB" in doctor.cost(patient)[1]
    monkeypatch.setenv("BIGQUERY_PRICE_PER_TIB", "cheap")
    with pytest.raises(doctor.Wrong, match="BIGQUERY_PRICE_PER_TIB=cheap: wanted dollars"):
        doctor.cost(patient)
    patient.store.maximum, words = 10**9, r"price_facts would read 549.8 GB, above BIGQUERY_MAXIMUM_BYTES_BILLED \(1.0 GB\)"
    monkeypatch.delenv("BIGQUERY_PRICE_PER_TIB")
    with pytest.raises(doctor.Wrong, match=words):
        doctor.cost(patient)


def test_jobs_sent_by_a_publication_are_those_that_the_quota_counts(shop):
    loads = [r.configuration["load"]["destinationTable"]["tableId"] for r in shop.publication if is_load(r)]
    changes = [r.sql for r in shop.publication if re.match(r"\s*(MERGE|UPDATE|INSERT|DELETE|BEGIN)\b", r.sql or "")]
    wanted = [doctor.SENT["publishing"][i] + doctor.SENT["new items"][i] for i in range(3)]
    staged = [table for table in loads if table.startswith("forecastbook_staging_")]
    assert [len(loads) - len(staged), len(staged), len(changes)] == wanted


def test_a_ledger_that_was_tampered_with_fails(house, tmp_path):
    fill(house, today())
    put(house, prices(ids=(1, 2)))
    stored(house, "DELETE FROM FactPriceForecast WHERE horizon = 3")
    found = look(house.url, tmp_path, "ledger")["ledger"]
    assert found.level == "FAIL" and "counts (1 faults" in found.found and "publish the run again" in found.found


def test_a_file_that_another_process_has_open_fails_by_its_name(tmp_path, monkeypatch):
    house = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    house.migrate()
    code = f"import duckdb, time; c = duckdb.connect({str(house.path)!r}); print('open', flush=True); time.sleep(60)"
    monkeypatch.setattr(doctor, "PATIENCE", 0.3)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        found = look(house.url, tmp_path)
        holder.kill()
    assert levels(found, "FAIL") == {"file"} and f"PID {holder.pid}" in found["file"].found
    assert levels(found, "skip") == {"tables", "data", "ledger", "forecasts"}


def test_a_path_or_a_job_that_cannot_be_fails_by_its_line(tmp_path):
    (tmp_path / "note").write_text("no database")
    found = look(f"duckdb:{tmp_path / 'note'}", tmp_path / "note" / "out")
    assert levels(found, "FAIL") == {"file", "out"} and "not a valid DuckDB database" in found["file"].found
    assert "is a directory" in look(f"duckdb:{tmp_path}", tmp_path)["file"].found
    found = look("duckdb:", tmp_path, job="no such job")
    assert {"warehouse", "job"} == levels(found, "FAIL") and "bigquery:PROJECT.DATASET" in found["warehouse"].found
    misspelt = look(f"duckdb:{tmp_path / 'w.duckdb'}", tmp_path, overlay="horizn: 3")["job"]
    assert misspelt.level == "FAIL" and "did you mean horizon" in misspelt.found


def test_another_region_than_the_one_asked_for_warns(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGQUERY_LOCATION", "EU")
    dataset._make_dataset()
    assert look(dataset.url, tmp_path, "dataset")["dataset"].found == "it is in EU"
    monkeypatch.setenv("BIGQUERY_LOCATION", "US")
    found = look(dataset.url, tmp_path, "dataset")["dataset"]
    assert found.level == "warn" and "it is in EU; BIGQUERY_LOCATION says US" in found.found


def test_what_is_deleted_by_itself_is_told(dataset, tmp_path):
    dataset._make_dataset()
    assert look(dataset.url, tmp_path, "expiry")["expiry"].found == "nothing is deleted by itself"
    described = dataset.client.get_dataset(".".join(dataset.place))
    described.default_table_expiration_ms, described.default_partition_expiration_ms = 60 * 86_400_000, 7 * 86_400_000
    dataset.client.update_dataset(described, ["default_table_expiration_ms", "default_partition_expiration_ms"])
    ledger = service.Table(".".join((*dataset.place, "PublishLedger")), [service.SchemaField("job", "STRING")])
    ledger.expires = dt.datetime(2999, 1, 1, tzinfo=dt.UTC)
    dataset.client.create_table(ledger)
    found = look(dataset.url, tmp_path, "expiry")["expiry"]
    assert found.level == "warn" and "every new table of the dataset after 60 days" in found.found
    assert "partitions of every new table after 7 days; PublishLedger on 2999-01-01" in found.found


# ---- what it stands on ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [PRICES, SALES], ids=["prices", "sales"])
def test_a_source_asks_what_it_says_it_asks(tmp_path, given):
    source, house, sent = Params.model_validate(given | table_of(given)).source, connect(f"duckdb:{tmp_path}/w.duckdb"), {}
    source = source.model_copy(update={"sample_series": 5})
    kind, query = sources.SOURCES[source.kind], house.query
    house.query = lambda name, params=None: sent.setdefault(name, params or {}) and None or query(name, params)
    _, last = kind.span(source, house)
    asked = kind.asks(source, last)
    kind.fingerprint(source, house, last)
    kind.read(source, house, last)
    assert sent == asked and all(schema.statement(name, "bigquery")[1] == set(values) for name, values in asked.items())


def table_of(given: dict) -> dict:
    return {"publish": {"table": "FactSalesForecast"}} if given is SALES else {}


def test_make_hands_over_every_word_as_it_is():
    odd = "duckdb:/tmp/a b/it's $HOME.duckdb".replace("$", "$$")
    call = ["make", "-n", "--no-print-directory", f"WAREHOUSE={odd}", "JOB=prices", "PARAMS=a.yaml b.yaml"]
    shown = subprocess.run([*call, "warehouse", "DRY_RUN=1"], cwd=ROOT, capture_output=True, text=True).stdout
    words = subprocess.run(
        ["sh", "-c", f"set -- {shown.strip()}; printf '%s\\n' \"$@\""], capture_output=True, text=True
    ).stdout
    assert words.splitlines()[2:5] == ["-m", "forecastbook.doctor", "migrate"] and "--dry-run" in words.splitlines()
    assert "duckdb:/tmp/a b/it's $HOME.duckdb" in words.splitlines() and "a.yaml b.yaml" in words.splitlines()
    shown = subprocess.run([*call, "doctor", "AS_OF=2024-01-02"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "doctor check " in shown and "--as-of '2024-01-02'" in shown and "--dry-run" not in shown


def test_make_warehouse_and_make_doctor_run(tmp_path):
    call = ["make", "--no-print-directory", f"OUT={tmp_path / 'out'}"]
    dry = subprocess.run([*call, "warehouse", "DRY_RUN=1"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0 and dry.stdout.startswith("CREATE TABLE") and not list(tmp_path.iterdir())
    made = subprocess.run([*call, "warehouse"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0 and "made PublishLedger\n" in made.stdout
    healthy = subprocess.run([*call, "doctor"], cwd=ROOT, capture_output=True, text=True)
    assert healthy.returncode == 0 and "ok   tables: all 13 tables" in healthy.stdout
    ill = subprocess.run([*call, "doctor", "JOB=nothing"], cwd=ROOT, capture_output=True, text=True)
    assert ill.returncode != 0 and "FAIL job: " in ill.stdout


def test_the_page_and_the_library_name_the_same_variables():
    pattern = re.compile(r"\b(?:BIGQUERY|GOOGLE)_[A-Z_]+\b")
    page = set(pattern.findall((ROOT / "BIGQUERY.md").read_text(encoding="utf-8")))
    library = {name for path in (ROOT / "lib").rglob("*.py") for name in pattern.findall(path.read_text(encoding="utf-8"))}
    assert page == library and len(page) >= 7


def test_the_roles_are_the_same_wherever_they_are_said():
    pattern = re.compile(r"roles/[a-z]+\.\w+")
    readme, page, code = (
        set(pattern.findall((ROOT / name).read_text(encoding="utf-8")))
        for name in ("README.md", "BIGQUERY.md", "lib/forecastbook/doctor.py")
    )
    assert readme <= page and code <= page
    assert {f"roles/bigquery.{name}" for name in ("jobUser", "readSessionUser", "dataEditor", "dataViewer")} <= readme


# ---- the four old messages and what became of them -----------------------------------------------------------------------


def test_the_readme_has_each_old_message_and_the_words_of_the_new_one():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Troubleshooting")[2].partition("## More")[0]
    lib = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "lib").rglob("*.py"))
    old = ("Model file not found", "BigQuery authentication failed", "No data returned from BigQuery", "Fine-tuning failed")
    rows = {words: next(line for line in table.splitlines() if f'once "{words}"' in line) for words in old}
    for words, row in rows.items():
        said = [re.sub(r"^(… )?(facts and )?|: …$", "", text) for text in re.findall(r"`([^`]*)`", row.split("|")[1])]
        assert said and all(re.sub(r"^03_finetune ", "", text) in lib for text in said), (words, said)


def test_a_model_file_that_is_missing_is_named_with_where_it_was_looked_for(tmp_path):
    for network, error in (("lstm", lstm.LSTMError), ("tide", models.ModelError)):
        with pytest.raises(error, match=f"none.pth: (no such checkpoint|model) file.*finetune.base.*{Path.cwd()}") as raised:
            models.checkpoint(network, tmp_path / "none.pth")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("reason", "said", "advice"),
    [
        ("billingNotEnabled", "Billing has not been enabled for this project", "enable billing for the project"),
        (
            "accessDenied",
            "Access Denied: dataset (or it may not exist)",
            "make doctor tells which is missing; or check PROJECT",
        ),
        ("policyViolation", "Request is prohibited by policy", "nothing is half done"),
    ],
)
def test_what_is_refused_is_not_always_for_lack_of_a_right(reason, said, advice):
    error = cloud.exceptions.Forbidden(said, errors=[{"reason": reason}])
    told = str(cloud._explained(error, "bigquery:my-project.shop"))
    assert advice in told and ("lacks a right" in told) == (reason == "accessDenied")


def test_another_project_may_pay(monkeypatch):
    """Where the account may read data in one project and run jobs in another."""
    house = connect("bigquery:my-data.shop")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "127.0.0.1:1")
    assert house.client.project == "my-data"
    monkeypatch.setenv("BIGQUERY_BILLING_PROJECT", "my-jobs")
    again = connect("bigquery:my-data.shop")
    assert again.client.project == "my-jobs" and again._name("FactSales") == "my-data.shop.FactSales"


def test_a_login_that_may_not_act_as_the_account_is_told_the_role(monkeypatch):
    monkeypatch.setenv("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", "f@p.iam.gserviceaccount.com")
    error = auth.RefreshError("Unable to acquire impersonated credentials")
    said = str(cloud._explained(error, "bigquery:my-project.shop"))
    assert "authentication failed: the login may not act as f@p" in said and "serviceAccountTokenCreator" in said


def test_an_impersonating_login_asks_for_a_token_that_may_ask_for_tokens(monkeypatch):
    asked = []
    monkeypatch.setattr(
        cloud.google.auth, "default", lambda scopes: (asked.append(scopes), (cloud.AnonymousCredentials(), ""))[1]
    )
    for name in BARE:
        monkeypatch.delenv(name, raising=False)
    cloud.Connection.credentials()
    monkeypatch.setenv("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", "f@p.iam.gserviceaccount.com")
    assert cloud.Connection.credentials().service_account_email == "f@p.iam.gserviceaccount.com"
    assert asked == [[cloud.SCOPE], [cloud.WIDE]]


def test_facts_that_cannot_be_used_are_counted_and_what_they_lack_is_said(tmp_path):
    house = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    fill(house, today())
    stored(house, "DELETE FROM DimDate")
    source = Params.model_validate(PRICES).source
    with pytest.raises(
        sources.SourceError, match="has 6 facts and no usable price up to today.*DimVariant and a day in DimDate"
    ):
        sources.SOURCES[source.kind].span(source, house)


def test_a_training_that_runs_away_is_said_and_leaves_the_weights_of_before(lines, monkeypatch):
    forward, calls = lstm._backward, itertools.count()

    def poisoned(net, *more):
        if next(calls) == 2:
            next(net.parameters()).data.fill_(np.nan)
        return forward(net, *more)

    monkeypatch.setattr(lstm, "_backward", poisoned)
    small = {"hidden_size": 8, "epochs": 4, "max_steps": 8, "sequence_length": 14, "validation_days": 0}
    model = lstm.fit(posted_panel(8), **small)
    assert all(np.isfinite(part.detach().numpy()).all() for part in model.net.parameters())
    assert [row["epoch"] for row in model.history] == [0, 1, 2] and model.info["kept_epoch"] == 1
    assert [line for line in lines if "loss of epoch 2 is no number" in line and "finetune.learning_rate" in line]


def test_a_dry_run_of_a_wrong_type_is_refused_not_guessed(tmp_path):
    house = connect(f"duckdb:{tmp_path / 'w.duckdb'}")
    house.migrate()
    stored(house, "DROP TABLE DimDate; CREATE TABLE DimDate (date_id STRING)")
    with pytest.raises(WarehouseError, match="DimDate.date_id is VARCHAR"):
        migrate(house, dry=True)
