"""What only BigQuery can go wrong in: replies that get lost, publishers that are killed, limits, credentials, tables, reads.

The genuine client talks over a real socket to a proxy, which loses, delays and refuses, in front of the emulator. What became
of every publication is written to outputs/bench/bigquery_faults.md.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from google.api_core import exceptions
from google.auth import impersonated_credentials
from google.cloud import bigquery as service

from emulated import ROOT, FaultProxy, is_load, is_query, query_contains
from forecastbook import cloud, schema
from forecastbook.bigquery import BigQuery
from forecastbook.cloud import emulator_host
from forecastbook.warehouse import WarehouseError, connect
from publishing import DAY, H, healthy, prices, put, stored

N = 3 * H  # rows of a publication
COLUMNS = (
    "fault", "raised", "current after it", "one current set", "vintages whole", "orphans seen", "rows of the run", "requests",
    "current after a repeat",
)  # fmt: skip


def at(host: str, dataset: str, labels=None, pause=0.02, patience=5.0, wait=60.0, estimates=False) -> BigQuery:
    """A dataset behind a host, by a client of its own, that does not wait long and sends no dry runs."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("BIGQUERY_EMULATOR_HOST", host)
        house = connect(f"bigquery:test-project.{dataset}", labels=labels)
        assert house.client  # made while the variable is set
    house.pause, house.patience, house.wait, house.estimates = pause, patience, wait, estimates
    return house


@pytest.fixture(scope="module")
def book():
    """Rows of the table of faults and outcomes."""
    rows: list[tuple] = []
    yield rows
    if rows:
        path = ROOT / "outputs" / "bench" / "bigquery_faults.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
        path.write_text("".join(f"| {' | '.join(map(str, line))} |\n" for line in lines), encoding="utf-8")


# ---- exactly once ----------------------------------------------------------------------------------------------------------


SEEN = """
SELECT 'stored' AS what, run_id, COUNT(*) AS n, COUNT(DISTINCT forecast_id) AS once FROM FactPriceForecast GROUP BY run_id
UNION ALL SELECT 'ledger', run_id, SUM(`rows`), COUNT(*) FROM PublishLedger GROUP BY run_id
UNION ALL SELECT 'current', run_id, COUNT(*), COUNT(DISTINCT forecast_id) FROM CurrentPriceForecast GROUP BY run_id
"""
FAULTS = "SELECT " + ", ".join(
    f"(SELECT faults FROM ({schema.statement(f'check_{name}', 'bigquery')[0]}))"
    for name in ("counts", "ledger", "current", "bounds", "orphans")
)


def acts(requests) -> int:
    """How many requests there were, but for questions: how often is asked after a job depends on how long it takes."""
    return sum(request.method != "GET" for request in requests)


class Scene:
    """A dataset with an old vintage and a current set, on which one publication after the other meets its fault.

    What one publication leaves current is the old set for the next. ``house`` goes to the emulator past every proxy.
    """

    def __init__(self, emulator, name: str):
        self.emulator, self.name = emulator, name
        self.house = at(emulator.host, name)
        self.house.migrate()
        put(self.house, run_id="vintage", as_of=DAY - dt.timedelta(days=7))
        put(self.house, run_id="first")  # which enters the date in the ledger; what follows only flips its pointer
        with FaultProxy(emulator.host) as proxy:
            put(at(proxy.host, name), run_id="second")
            self.clean, self.acts = len(proxy.requests), acts(proxy.requests)
            self.load = next(r.n for r in proxy.requests if is_load(r))
            self.flip = next(r.n for r in proxy.requests if flip(r))
        self.current = "second"

    def seen(self, old: str, new: str) -> tuple:
        """What readers see, as a row of the table: which run is current, and whether all is whole, single and unmixed."""
        found = {"stored": {}, "ledger": {}, "current": {}}
        for what, run, n, once in stored(self.house, SEEN):
            found[what][run] = (n, once)
        (self.current,) = found["current"]
        orphans = sum(n for run, (n, _) in found["current"].items() if run not in found["ledger"])
        single = found["current"] == {self.current: (N, N)} and all(entries == 1 for _, entries in found["ledger"].values())
        named = set(found["ledger"]) == {"vintage", self.current}
        whole = all(found["stored"].get(run) == (rows, rows) for run, (rows, _) in found["ledger"].items())
        rows = found["stored"].get(new, (0, 0))
        assert single and named and whole and orphans == 0, found
        assert rows in ((0, 0), (N, N)) and all(n == once for n, once in found["stored"].values()), found
        assert self.current in (old, new), found
        return "new" if self.current == new else "old", "yes", "yes", orphans, rows[0]


def staged(house) -> list[str]:
    """Tables that were made for one statement and are still there."""
    return [table.table_id for table in house.client.list_tables(".".join(house.place)) if "staging" in table.table_id]


def flip(request) -> bool:
    return "MERGE INTO PublishLedger" in (request.sql or "")


def asked(text: str):
    """A query that is not a dry run and contains the text."""
    return lambda request: text in (request.sql or "") and request.path.partition("?")[0].endswith("/queries")


def polled(text: str):
    """A question after a job whose id contains the text: for its state or its result."""
    return lambda request: request.method == "GET" and text in request.path


PLACES = {
    "ledger read": asked("FROM PublishLedger"),
    "load": is_load,
    "read back": lambda request: asked("FROM FactPriceForecast")(request) and request.n > 3,  # not the one before the load
    "model MERGE": query_contains("MERGE INTO DimModel"),
    "flip": flip,
}
READS = ("ledger read", "read back")
REFUSALS = {
    "503": {"code": 503, "reason": "backendError"},
    "500": {"code": 500, "reason": "internalError"},
    "429": {"code": 429, "reason": "rateLimitExceeded"},
    "403 rateLimitExceeded": {"code": 403, "reason": "rateLimitExceeded"},
}
DENIED = {"code": 403, "reason": "accessDenied", "message": "Access Denied: the user does not have permission"}
UNKNOWN = {"code": 401, "reason": "authError", "message": "Request had invalid authentication credentials"}


@pytest.fixture(scope="module")
def scene(emulator):
    scene = Scene(emulator, "faults")
    yield scene
    assert healthy(scene.house)


def run_of(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def outcome(book, scene, name: str, prepare, *, raised: str = "", current: str = "new", settings=None, **rows):
    """Publish run ``name`` through a proxy that ``prepare`` has set up, look, and where it failed publish again without it.

    raised: what the error says. Returns the requests that the first publication sent and the seconds that it took.
    """
    old, new, began = scene.current, run_of(name), time.monotonic()
    with FaultProxy(scene.emulator.host) as proxy:
        prepare(proxy)
        house, error = at(proxy.host, scene.name, **(settings or {})), None
        try:
            put(house, prices(level=20.0, **rows), run_id=new)
        except WarehouseError as caught:
            error = caught
        took, sent = time.monotonic() - began, list(proxy.requests)
    row = scene.seen(old, new)
    assert (error is not None) == bool(raised), error
    assert not raised or (re.search(raised, str(error)) and "\n" not in str(error)), error
    assert row[0] == current
    repeat = ""
    if error is not None:
        put(scene.house, prices(level=20.0, **rows), run_id=new)
        repeat = scene.seen(old, new)[0]
        assert repeat == "new"
    book.append((name, "yes" if error else "no", *row, len(sent), repeat))
    return sent, took


@pytest.mark.parametrize("place", PLACES)
def test_a_lost_reply_is_looked_up_and_nothing_is_done_twice(book, scene, place):
    sent, _ = outcome(book, scene, f"{place}: reply lost", lambda proxy: proxy.fault("lost_reply", when=PLACES[place]))
    assert acts(sent) == scene.acts + (place in READS) and (place in READS or any(map(polled("/jobs/forecastbook-"), sent)))


@pytest.mark.parametrize("place", PLACES)
def test_a_lost_request_is_looked_up_and_sent_again(book, scene, place):
    sent, _ = outcome(book, scene, f"{place}: request lost", lambda proxy: proxy.fault("lost_request", when=PLACES[place]))
    assert acts(sent) == scene.acts + 1 and (place in READS or any(map(polled("/jobs/forecastbook-"), sent)))


@pytest.mark.parametrize("place", PLACES)
def test_503_twice_is_waited_out(book, scene, place):
    sent, _ = outcome(book, scene, f"{place}: 503 twice", lambda proxy: proxy.fault("status", when=PLACES[place], times=2))
    assert acts(sent) == scene.acts + 2


@pytest.mark.parametrize("refusal", ["500", "429", "403 rateLimitExceeded"])
def test_a_refusal_that_passes_is_waited_out_at_every_request(book, scene, refusal):
    def prepare(proxy):
        for when in PLACES.values():
            proxy.fault("status", when=when, times=2, **REFUSALS[refusal])

    sent, _ = outcome(book, scene, f"everywhere: {refusal} twice", prepare)
    assert acts(sent) == scene.acts + 2 * len(PLACES)


def told_at_once(book, scene, name: str, place: str, refusal: dict, raised: str) -> None:
    """A refusal that will not pass: raised with the words, nothing sent after it, and the old set stays."""
    faults = []
    sent, _ = outcome(
        book,
        scene,
        name,
        lambda proxy: faults.append(proxy.fault("status", when=PLACES[place], times=None, **refusal)),
        raised=raised,
        current="old",
    )
    assert len(faults[0].hits) == 1 and sent[-1] is faults[0].hits[0]


@pytest.mark.parametrize("place", ["ledger read", "load", "read back", "flip"])
def test_a_missing_right_is_told_at_once_and_the_old_set_stays(book, scene, place):
    raised = "the account lacks a right: BIGQUERY.md lists the roles"
    told_at_once(book, scene, f"{place}: 403 accessDenied", place, DENIED, raised)


@pytest.mark.parametrize("place", ["ledger read", "load"])
def test_401_is_told_at_once_with_the_way_to_log_in(book, scene, place):
    raised = "authentication failed: run `gcloud auth application-default login`"
    told_at_once(book, scene, f"{place}: 401", place, UNKNOWN, raised)


@pytest.mark.parametrize("place", ["load", "read back", "flip"])
def test_a_reply_that_is_too_slow_counts_as_lost(book, scene, place):
    sent, took = outcome(
        book,
        scene,
        f"{place}: reply slower than the client waits",
        lambda proxy: proxy.fault("slow", when=PLACES[place], seconds=30, side="after"),
        settings={"wait": 1.5, "patience": 20},
    )
    assert len(sent) > scene.clean and took < 25


@pytest.mark.parametrize("place", ["load", "flip"])
def test_a_request_that_arrives_after_it_was_sent_again_does_nothing(book, scene, place):
    name, late = f"{place}: arrives late, after it was sent again", []
    with FaultProxy(scene.emulator.host) as proxy:
        late.append(proxy.fault("hold", when=PLACES[place]))
        old, house = scene.current, at(proxy.host, scene.name, wait=1.5, patience=20)
        put(house, prices(level=20.0), run_id=run_of(name))
        sent = len(proxy.requests)
        assert scene.seen(old, run_of(name))[0] == "new" and late[0].hits[0].status is None
        proxy.release()
        answered(late[0])
        assert late[0].hits[0].status == 409
    book.append((name, "no", *scene.seen(old, run_of(name)), sent, ""))


def answered(fault, seconds: float = 5) -> None:
    """Wait until the emulator has answered the request that was held."""
    until = time.monotonic() + seconds
    while fault.hits[0].status is None and time.monotonic() < until:
        time.sleep(0.01)


def test_a_lost_reply_and_a_busy_look_up_still_store_once(book, scene):
    faults = []

    def prepare(proxy):
        proxy.fault("lost_reply", when=is_load)
        faults.append(proxy.fault("status", when=polled("/jobs/forecastbook-load-")))

    sent, _ = outcome(book, scene, "load: reply lost, then 503 on the look-up", prepare)
    assert acts(sent) == scene.acts and sum(map(is_load, sent)) == 1 and faults[0].hits


def test_a_poll_that_fails_is_asked_again(book, scene):
    """How often is asked depends on how long a job takes; what matters is that none is sent a second time."""
    faults = []

    def prepare(proxy):
        faults.append(proxy.fault("status", when=polled("/queries/forecastbook-flip-"), times=2))
        faults.append(proxy.fault("lost_reply", when=polled("/queries/forecastbook-statement-")))

    sent, _ = outcome(book, scene, "polls: reply lost, 503 twice", prepare)
    assert [len(fault.hits) for fault in faults] == [2, 1]
    begun = [request.json["jobReference"]["jobId"] for request in sent if "jobReference" in (request.json or {})]
    assert len(begun) == len(set(begun)) > 2 and sum(map(is_load, sent)) == 1


@pytest.mark.parametrize(
    "since, when, current",
    [
        ("the beginning", lambda request: True, "old"),
        ("the load on", lambda request: is_load(request) or polled("/jobs/")(request), "old"),
        ("the flip on", lambda request: flip(request) or polled("/jobs/")(request), "old"),
        ("the reply to the flip on", polled("/queries/forecastbook-flip-"), "new"),
    ],
)
def test_503_for_ever_ends_in_bounded_time_and_tells_the_truth(book, scene, since, when, current):
    sent, took = outcome(
        book,
        scene,
        f"503 for ever from {since}",
        lambda proxy: proxy.fault("status", when=when, times=None),
        raised="BigQuery could not be reached or was too busy for too long; nothing is half done: run again",
        current=current,
        settings={"patience": 0.5},
    )
    assert took < 15 and sum(request.status == 503 for request in sent) >= 3


def failed(request, reason: str, message: str) -> dict:
    """What the service says of a job that was done and failed."""
    error = {"reason": reason, "message": message}
    return {**request, "status": {"state": "DONE", "errorResult": error, "errors": [error]}}


@pytest.mark.parametrize(
    "place, reason, message",
    [
        ("load", "backendError", "Error encountered during execution. Retrying may solve the problem."),
        ("flip", "invalidQuery", "Could not serialize access to table PublishLedger due to concurrent update"),
    ],
)
def test_a_job_that_failed_for_a_passing_reason_is_begun_anew_under_the_next_name(book, scene, place, reason, message):
    kind = "load" if place == "load" else "query"
    destination = {"projectId": "test-project", "datasetId": scene.name, "tableId": "FactPriceForecast"}
    job = {
        "jobReference": {"projectId": "test-project", "jobId": "x", "location": "US"},
        "configuration": {kind: {"destinationTable": destination} if kind == "load" else {"query": "MERGE"}},
    }
    sent, _ = outcome(
        book,
        scene,
        f"{place}: job fails with {reason}",
        lambda proxy: proxy.fault("answer", when=PLACES[place], body=failed(job, reason, message)),
    )
    ids = [request.json["jobReference"]["jobId"] for request in sent if PLACES[place](request)]
    assert len(ids) == 2 and (ids[0][:-1], ids[0][-1], ids[1][-1]) == (ids[1][:-1], "0", "1")


def test_a_load_that_fails_for_good_is_told_and_can_be_repeated_when_the_cause_is_mended(book, scene):
    """The failed job stays under its id for days: a repeat must not take its failure for news."""

    def prepare(proxy):
        proxy.fault("hold", when=is_load)
        threading.Thread(target=break_table, args=[proxy], daemon=True).start()

    def break_table(proxy):
        proxy.held.wait(60)
        stored(scene.house, "ALTER TABLE FactPriceForecast RENAME COLUMN horizon TO other")
        proxy.release()

    name, old = "load: job fails for good", scene.current
    with FaultProxy(scene.emulator.host) as proxy:
        prepare(proxy)
        with pytest.raises(WarehouseError, match="Cannot add fields.*nothing is half done"):
            put(at(proxy.host, scene.name), prices(level=20.0), run_id=run_of(name))
        sent = len(proxy.requests)
        stored(scene.house, "ALTER TABLE FactPriceForecast RENAME COLUMN other TO horizon")
        row = scene.seen(old, run_of(name))
        assert row[0] == "old" and row[4] == 0
        put(at(proxy.host, scene.name), prices(level=20.0), run_id=run_of(name))
        assert [request.status for request in proxy.requests if is_load(request)] == [200, 409, 200]
    repeat = scene.seen(old, run_of(name))[0]
    book.append((name, "yes", *row, sent, repeat))
    assert repeat == "new"


def test_rows_that_were_deleted_since_are_stored_again(book, scene):
    """The job that stored them is still there under its id: adopting it would publish an empty set."""
    name, old = "rows deleted after the publication", "vintage"
    put(scene.house, prices(level=20.0), run_id=run_of(name))
    for table in ("FactPriceForecast", "PublishLedger"):
        stored(scene.house, f"DELETE FROM {table} WHERE run_id = '{run_of(name)}'")
    assert scene.seen(old, run_of(name))[4] == 0
    with FaultProxy(scene.emulator.host) as proxy:
        put(at(proxy.host, scene.name), prices(level=20.0), run_id=run_of(name))
        assert [request.status for request in proxy.requests if is_load(request)] == [409, 200]
    row = scene.seen(old, run_of(name))
    assert row[0] == "new" and row[4] == N
    book.append((name, "no", *row, len(proxy.requests), ""))


@pytest.mark.parametrize("place, ids", [("load", (1, 2, 3)), ("read back", (1, 2, 3)), ("read back", (1, 2))])
def test_other_rows_of_the_same_run_in_between_never_mix(book, scene, place, ids):
    name, old = f"other rows ({len(ids)} series) of the same run before the {place}", scene.current
    with FaultProxy(scene.emulator.host) as proxy:
        proxy.fault("hold", when=PLACES[place])
        mine = threading.Thread(target=put, args=[at(proxy.host, scene.name), prices(level=20.0), run_of(name)])
        mine.start()
        assert proxy.held.wait(60)
        put(scene.house, prices(ids, level=30.0), run_id=run_of(name))
        proxy.release()
        mine.join(60)
        sent = len(proxy.requests)
    row = scene.seen(old, run_of(name))
    assert row[0] == "new" and row[4] == N
    levels = stored(scene.house, f"SELECT DISTINCT predicted_price FROM FactPriceForecast WHERE run_id = '{run_of(name)}'")
    assert len(levels) == 1, "one publisher's rows, not some of each"
    book.append((name, "no", *row, sent, ""))


# ---- killed between every two steps ----------------------------------------------------------------------------------------


SERVER = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from forecastbook.bigquery import BigQuery
    from forecastbook.warehouse import connect
    from publishing import prices, put
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        host, url, run = line.split()
        pid = os.fork()
        if not pid:
            os.environ["BIGQUERY_EMULATOR_HOST"] = host
            BigQuery.pause, BigQuery.estimates = 0.02, False
            try:
                said = put(connect(url), prices(level=20.0), run_id=run)["status"]
            except BaseException as error:
                said = repr(error)
            os.write(1, f"{os.getpid()} {said}\\n".encode())
            os._exit(0)
        os.write(1, f"{pid} began\\n".encode())
""")


class Publishers:
    """Publishers as processes, made at once by a process that has imported everything already."""

    def __init__(self):
        tests = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, tests],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tests.parent / "lib"), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout.readline() == "ready\n"
        self.said: dict[int, str] = {}

    def begin(self, host: str, house, run: str) -> int:
        """Start one; its process id."""
        print(host, house.url, run, file=self.process.stdin, flush=True)
        while (line := self.process.stdout.readline().strip()) and not line.endswith(" began"):
            self.hear(line)
        return int(line.split()[0])

    def hear(self, line: str) -> None:
        pid, _, said = line.partition(" ")
        self.said[int(pid)] = said

    def ends(self, *pids: int) -> list[str]:
        """What they said at their end."""
        while not set(pids) <= set(self.said):
            self.hear(self.process.stdout.readline().strip())
        return [self.said[pid] for pid in pids]


@pytest.fixture(scope="module")
def publishers():
    made = Publishers()
    yield made
    made.process.stdin.close()
    made.process.wait(10)


def test_a_publisher_killed_at_any_step_leaves_the_old_set_or_the_new_one_and_a_repeat_mends_it(book, scene, publishers):
    """Each request in turn is held, before it reaches the service or before its reply is back, and the publisher is killed.

    Where only reading was cut off, the repeat is the next publisher of the run, killed one step later.
    """
    old, run = scene.current, "killed-0"
    steps = [k for k in range(scene.clean) if k == 0 or k >= scene.load - 1]  # up to the load it only reads
    both = {scene.load, scene.flip, scene.clean - 1}  # elsewhere nothing has changed until the next request
    for k, side in [(k, side) for k in steps for side in ("before", "after") if side == "before" or k in both]:
        with FaultProxy(scene.emulator.host) as proxy:
            fault = proxy.fault("hold", after=k, side=side)
            pid = publishers.begin(proxy.host, scene.house, run)
            assert proxy.held.wait(60), publishers.said
            os.kill(pid, signal.SIGKILL)
            row, sent = scene.seen(old, run), len(proxy.requests)
            at = next((i for i, request in enumerate(proxy.requests) if flip(request)), None)
            known = at is not None and acts(proxy.requests[at + 1 :]) > 0  # the publisher went on to the next step
            if known or at is None:  # else it is asked for, and perhaps done
                assert row[0] == ("new" if known else "old"), (k, side)
            repeat = "killed again"
            if k >= scene.load:
                assert side == "before" or stored(scene.house, FAULTS) == [(0,) * 5]
                put(scene.house, prices(level=20.0), run_id=run)
                if side == "before":  # what was on its way when its publisher died still arrives
                    proxy.release()
                    answered(fault)
                repeat = scene.seen(old, run)[0]
                assert repeat == "new"
                old, run = run, f"killed-{k}-{side}"
        book.append((f"SIGKILL {side} request {k + 1} of {scene.clean}", "killed", *row, sent, repeat))


def test_two_publishers_of_one_run_that_both_lose_the_reply_to_their_load_store_it_once(book, scene, publishers):
    name, old = "two publishers of one run, both load replies lost", scene.current
    with FaultProxy(scene.emulator.host) as proxy:
        fault = proxy.fault("lost_reply", when=is_load, times=2)
        pids = [publishers.begin(proxy.host, scene.house, run_of(name)) for _ in range(2)]
        assert set(publishers.ends(*pids)) <= {"replaced", "already published"}
        assert len(fault.hits) >= 1
        sent = len(proxy.requests)
    row = scene.seen(old, run_of(name))
    assert row[0] == "new" and row[4] == N
    book.append((name, "no", *row, sent, ""))


def test_two_publishers_that_replace_one_run_at_once_both_finish(book, scene, publishers):
    name, old = "two publishers replace one run at once", scene.current
    put(scene.house, prices(level=5.0), run_id=run_of(name))
    with FaultProxy(scene.emulator.host) as proxy:
        proxy.fault("slow", when=query_contains("BEGIN TRANSACTION"), seconds=0.4)  # the other one is then at the same step
        pids = [publishers.begin(proxy.host, scene.house, run_of(name)) for _ in range(2)]
        assert set(publishers.ends(*pids)) <= {"replaced", "already published"}
        sent = len(proxy.requests)
    row = scene.seen(old, run_of(name))
    assert row[0] == "new" and row[4] == N
    book.append((name, "no", *row, sent, ""))
    left = [
        table.table_id for table in scene.house.client.list_tables(".".join(scene.house.place)) if "staging" in table.table_id
    ]
    assert left == []


# ---- cost and safety -------------------------------------------------------------------------------------------------------


WINDOW = {"from_date_id": 20240101, "to_date_id": 20240131}
LABELS = {"app": "forecastbook", "job": "prices_7", "run_id": "2024-03-01_ab"}


@pytest.fixture(scope="module")
def cost(emulator):
    """A dataset, and all requests of a migration, a publication with new series, a replacement, an append and a read."""
    with FaultProxy(emulator.host) as proxy:
        house = at(proxy.host, "cost", {"job": "Prices 7", "run_id": "2024-03-01/ab"}, estimates=True)
        house.migrate()
        put(house, prices(["a", "b"], key="series_id"))
        put(house, prices(["a", "b"], key="series_id", level=20.0))
        house.append("FactProductPrice", pa.table(posted(5)))
        assert house.query("price_facts", WINDOW).num_rows == 5
        house.checks()
        yield house, list(proxy.requests)


def posted(n: int) -> dict:
    return {
        "price_fact_id": range(n),
        "variant_id": [k % 7 for k in range(n)],
        "date_id": [20240101 + k % 28 for k in range(n)],
        "current_price": [1.5] * n,
        "is_available": [True] * n,
    }


def settings(request) -> dict:
    """What a request that starts a query says about it, by whichever of the two methods."""
    sent = request.json
    return {**sent["configuration"], **sent["configuration"]["query"]} if "configuration" in sent else sent


def test_every_query_carries_its_limit_its_labels_and_its_dataset(cost):
    queries = [settings(request) for request in cost[1] if is_query(request)]
    assert len(queries) > 30
    for sent in queries:
        assert sent["maximumBytesBilled"] == str(100 * 10**9) and sent["labels"] == LABELS and sent["useLegacySql"] is False
        assert sent["defaultDataset"] == {"projectId": "test-project", "datasetId": "cost"}


def test_every_read_was_estimated_first(cost):
    estimated, read = set(), 0
    for request in filter(is_query, cost[1]):
        if settings(request).get("dryRun"):
            estimated.add((request.sql, str(settings(request)["queryParameters"])))
        elif asked("")(request) and not re.search(r"SELECT COUNT\(\*\) FROM Fact|INFORMATION_SCHEMA", request.sql):
            assert (request.sql, str(settings(request)["queryParameters"])) in estimated
            read += 1
    assert read > 10


def test_prices_are_read_by_parameters_and_never_by_literals(cost):
    sent = [settings(request) for request in cost[1] if "FROM FactProductPrice" in (request.sql or "")]
    assert [bool(s.get("dryRun")) for s in sent] == [True, False]
    for s in sent:
        assert "BETWEEN @from_date_id AND @to_date_id" in s["query"] and not re.search(r"\d{4}|'", s["query"])
        assert {p["name"]: (p["parameterType"]["type"], p["parameterValue"]["value"]) for p in s["queryParameters"]} == {
            name: ("INT64", str(value)) for name, value in WINDOW.items()
        }


def test_no_value_of_a_publication_stands_in_a_text(emulator, cost):
    hostile = "x'; DROP TABLE PublishLedger; --"
    with FaultProxy(emulator.host) as proxy:
        house = at(proxy.host, "cost", estimates=True)
        put(house, prices([hostile], key="series_id"), run_id=hostile, job=hostile)
        assert house.published(hostile).num_rows == H and house.current(hostile).num_rows == H
        texts = [request.sql for request in proxy.requests if is_query(request)]
    assert len(texts) > 10 and not [text for text in texts if "DROP" in text or "2024" in text]


def test_loads_append_to_tables_that_are_there_with_a_schema_and_labels(cost):
    loads = [request.configuration for request in cost[1] if is_load(request)]
    by_table = {load["load"]["destinationTable"]["tableId"]: load for load in loads}
    assert {"FactPriceForecast", "FactProductPrice"} < set(by_table) and len(by_table) == 4  # and two staged
    for sent in by_table.values():
        load = sent["load"]
        assert sent["labels"] == LABELS and load["createDisposition"] == "CREATE_NEVER" and load["sourceFormat"] == "PARQUET"
        assert load["writeDisposition"] == "WRITE_APPEND"
        assert load["schema"]["fields"]
    fields = by_table["FactPriceForecast"]["load"]["schema"]["fields"]
    assert [field["name"] for field in fields] == schema.tables()["FactPriceForecast"].names
    assert {field["name"] for field in fields if field["mode"] == "REQUIRED"} == {
        field.name for field in schema.tables()["FactPriceForecast"] if not field.nullable
    }


def test_what_was_staged_is_gone_and_would_have_gone_by_itself(cost):
    house, sent = cost
    made = [request.json for request in sent if request.method == "POST" and request.path.partition("?")[0].endswith("/tables")]
    assert len(made) == 2 and all(0 < int(table["expirationTime"]) / 1000 - time.time() < 25 * 3600 for table in made)
    assert staged(house) == []


def test_the_limit_comes_from_the_environment(emulator, monkeypatch, cost):
    monkeypatch.setenv("BIGQUERY_MAXIMUM_BYTES_BILLED", " 12345 ")
    with FaultProxy(emulator.host) as proxy:
        at(proxy.host, "cost", estimates=True).ledger()
        sent = [settings(request)["maximumBytesBilled"] for request in proxy.requests if is_query(request)]
    assert sent == ["12345"] * 2


@pytest.mark.parametrize("text", ["100 GB", "-1", "0", "1e9", "0x10", "1.5", "9" * 19, "\u0661\u0662"])
def test_nonsense_for_the_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv("BIGQUERY_MAXIMUM_BYTES_BILLED", text)
    with pytest.raises(WarehouseError, match="BIGQUERY_MAXIMUM_BYTES_BILLED=.*wanted a whole number of bytes") as error:
        connect("bigquery:test-project.cost")
    assert "\n" not in str(error.value)


def test_a_query_that_would_read_too_much_is_refused_before_anything_is_read(emulator, cost):
    with FaultProxy(emulator.host) as proxy:
        house = at(proxy.host, "cost", estimates=True)
        estimate = {
            "jobReference": {"projectId": "test-project", "jobId": "x", "location": "US"},
            "configuration": {"query": {"query": "SELECT"}, "dryRun": True},
            "statistics": {"totalBytesProcessed": str(200 * 10**9), "query": {"totalBytesProcessed": str(200 * 10**9)}},
            "status": {"state": "DONE"},
        }
        proxy.fault("answer", when=lambda request: request.configuration.get("dryRun"), times=None, body=estimate)
        assert house.estimate("price_facts", WINDOW) == 200 * 10**9
        with pytest.raises(
            WarehouseError,
            match=r"query price_facts would read 200.0 GB, more than BIGQUERY_MAXIMUM_BYTES_BILLED allows \(100.0 GB\)",
        ):
            house.query("price_facts", WINDOW)
        assert not [request for request in proxy.requests if is_query(request) and not settings(request).get("dryRun")]


def test_the_services_own_refusal_to_bill_more_says_what_to_do(emulator, cost):
    with FaultProxy(emulator.host) as proxy:
        limit = {"code": 400, "reason": "bytesBilledLimitExceeded", "message": "Query exceeded limit for bytes billed: 1."}
        fault = proxy.fault("status", when=asked("FactProductPrice"), times=None, **limit)
        with pytest.raises(WarehouseError, match="query price_facts: .*read fewer days .*raise BIGQUERY_MAXIMUM_BYTES_BILLED"):
            at(proxy.host, "cost").query("price_facts", WINDOW)
        assert len(fault.hits) == 1


@pytest.mark.parametrize(
    "place",
    ["a`; DROP TABLE x", "my-project.ds; --", "my-project.ds`", "my-project.d s", "my-project.ds\n", "my_project.ds", "."],
)
def test_a_hostile_name_of_a_project_or_dataset_is_refused(place):
    with pytest.raises(WarehouseError, match="bigquery:PROJECT.DATASET") as error:
        connect(f"bigquery:{place}")
    assert "\n" not in str(error.value)


# ---- credentials -----------------------------------------------------------------------------------------------------------


USER = {
    "type": "authorized_user",
    "client_id": "dummy.apps.example",
    "client_secret": "dummy",
    "refresh_token": "dummy",
    "quota_project_id": "test-project",
}


@pytest.fixture
def away(monkeypatch, tmp_path):
    """The real service, without any credentials; returns a directory outside the repository."""
    for name in list(os.environ):
        if name.startswith(("BIGQUERY_", "GOOGLE_", "GCLOUD_", "CLOUDSDK_", "GCE_")):
            monkeypatch.delenv(name)
    for name in ("HOME", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    return tmp_path


def key(directory: Path, content, name: str = "key.json") -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one_line(error) -> str:
    assert "\n" not in str(error.value) and len(str(error.value)) < 900
    return str(error.value)


@pytest.mark.parametrize(
    "host", ["example.com:80", "10.0.0.1:9050", "[::2]:1", "127.0.0.1", "localhost", "0.0.0.0:1", "https://127.0.0.1:1",
             "127.0.0.1:1/x", "localhost.example.com:1", "127.0.0.1@example.com:80", ":9050", "::1:1x"]
)  # fmt: skip
def test_an_emulator_on_another_machine_is_refused(away, monkeypatch, host):
    for name in ("BIGQUERY_EMULATOR_HOST", "BIGQUERY_STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, host)
        with pytest.raises(WarehouseError, match=f"{name}=.*must be on this machine"):
            emulator_host(name)
    with pytest.raises(WarehouseError, match="BIGQUERY_EMULATOR_HOST="):
        connect("bigquery:test-project.shop").exists()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "http://127.0.0.1:1", "[::1]:1", "http://localhost:1/"])
def test_an_emulator_on_this_machine_is_used_without_credentials(away, monkeypatch, host):
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", host)
    house = connect("bigquery:test-project.shop")
    assert house.client._connection.API_BASE_URL.removeprefix("http://") == emulator_host("BIGQUERY_EMULATOR_HOST")
    house.patience, house.pause = 0.2, 0.02
    with pytest.raises(WarehouseError, match="could not be reached"):  # nobody listens there
        house.exists()


@pytest.mark.parametrize("form", ["absolute", "relative", "symlink", "dotted", "absent"])
def test_a_key_inside_the_repository_is_refused_before_it_is_read(away, monkeypatch, form):
    inside = ROOT / "outputs" / f"no-such-key-{os.getpid()}.json"  # not there: to read it would be another error
    monkeypatch.chdir(ROOT)
    (away / "link").symlink_to(ROOT / "outputs")
    path = {
        "absolute": inside,
        "relative": inside.relative_to(ROOT),
        "symlink": away / "link" / inside.name,
        "dotted": ROOT / "lib" / ".." / "outputs" / inside.name,
        "absent": ROOT / "no-such-directory" / "key.json",
    }[form]
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(WarehouseError, match="lies inside the repository") as error:
        connect("bigquery:test-project.shop").exists()
    assert f"GOOGLE_APPLICATION_CREDENTIALS={path}" in one_line(error)


def test_a_key_in_the_repository_at_work_is_refused_but_not_one_in_any_directory(away, monkeypatch):
    path = key(away, USER)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.chdir(away)
    assert BigQuery.credentials().client_id == USER["client_id"]
    (away / ".git").mkdir()
    (away / "below").mkdir()
    monkeypatch.chdir(away / "below")
    with pytest.raises(WarehouseError, match="lies inside the repository"):
        BigQuery.credentials()


def test_without_credentials_one_line_says_how_and_nothing_is_tried_again(away):
    began = time.monotonic()
    with pytest.raises(WarehouseError, match="authentication failed: run `gcloud auth application-default login`") as error:
        connect("bigquery:test-project.shop").exists()
    assert one_line(error) and time.monotonic() - began < 3


@pytest.mark.parametrize(
    "content",
    ["", "not JSON", "[]", "{}", {"type": "service_account"}, {"type": "authorized_user"}, {"type": "nonsense"}, "\ud800",
     {"type": "service_account", "client_email": "a@b.example", "token_uri": "http://127.0.0.1:1", "private_key": "junk"}],
)  # fmt: skip
def test_a_key_file_that_is_none_is_named(away, monkeypatch, content):
    path = key(away, content) if content != "\ud800" else away / "key.json"
    if content == "\ud800":
        path.write_bytes(b"\xff\xfe{")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(WarehouseError) as error:
        connect("bigquery:test-project.shop").exists()
    assert str(path) in one_line(error)


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "a directory"])
def test_a_key_file_that_cannot_be_read_is_named(away, monkeypatch, absent):
    path = away / "none.json" if absent else away
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(WarehouseError) as error:
        connect("bigquery:test-project.shop").exists()
    assert str(path) in one_line(error)


def test_a_service_account_is_impersonated_without_a_key(away, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key(away, USER)))
    monkeypatch.setenv("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", "robot@test-project.iam.gserviceaccount.com")
    found = connect("bigquery:test-project.shop").client._credentials
    assert isinstance(found, impersonated_credentials.Credentials) and found.token is None
    assert found.service_account_email == "robot@test-project.iam.gserviceaccount.com"
    assert found._source_credentials.client_id == USER["client_id"]


@pytest.mark.parametrize("impersonated", [False, True])
def test_an_expired_login_is_one_line_and_is_not_tried_again(away, monkeypatch, impersonated):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key(away, USER)))
    if impersonated:
        monkeypatch.setenv("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", "robot@test-project.iam.gserviceaccount.com")
    with FaultProxy("127.0.0.1:1") as proxy:
        expired = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
        proxy.fault("answer", times=None, body=expired, code=400)
        monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"http://{proxy.host}/token")
        with pytest.raises(WarehouseError, match="expired or revoked.*authentication failed: run `gcloud auth") as error:
            connect("bigquery:test-project.shop").ledger()
        assert one_line(error) and [request.path for request in proxy.requests] == ["/token"]


def test_a_place_of_tokens_that_is_busy_is_asked_again(away, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key(away, USER)))
    with FaultProxy("127.0.0.1:1") as proxy:
        proxy.fault("answer", times=None, body={"error": "temporarily_unavailable"}, code=503)
        monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"http://{proxy.host}/token")
        house = connect("bigquery:test-project.shop")
        house.patience, house.pause = 0.2, 0.02
        with pytest.raises(WarehouseError, match="too busy for too long; nothing is half done: run again"):
            house.exists()
        assert len(proxy.requests) > 1


# ---- tables ----------------------------------------------------------------------------------------------------------------


def test_forecasts_are_partitioned_clustered_and_described(cost):
    house, sent = cost
    for name, item in (("FactPriceForecast", "variant_id"), ("FactSalesForecast", "item_id")):
        table = house.client.get_table(f"test-project.cost.{name}")
        assert (table.time_partitioning.field, table.time_partitioning.type_) == ("as_of", "DAY")
        assert table.clustering_fields == [item, "run_id"] and table.require_partition_filter in (None, False)
        assert "every run ever published" in table.description
        said = {field.name: field.description for field in table.schema}
        assert said["as_of"] is None or "last day" in said["as_of"]
        assert said["forecast_id"] == f"run_id-{item}-horizon"
    sales = house.client.get_table("test-project.cost.FactSales")
    assert (sales.time_partitioning.field, sales.time_partitioning.type_) == ("period", "MONTH")
    (text,) = [request.sql for request in sent if "CREATE TABLE" in (request.sql or "")]
    assert "PARTITION BY RANGE_BUCKET(date_id, GENERATE_ARRAY(20000100, 20400100, 100))" in text
    assert text.count("CREATE TABLE IF NOT EXISTS `test-project`.cost.") == len(schema.tables())


def test_views_name_their_project_and_dataset(cost):
    for name in schema.views():
        text = cost[0].client.get_table(f"test-project.cost.{name}").view_query
        named = re.findall(r"\b(?:FROM|JOIN)\s+(\S+)", text)
        tables = [word for word in named if word != "newest"]
        assert len(tables) == 2 and all(re.fullmatch(r"`test-project`\.`?cost`?\.\S+", word) for word in tables), text


def test_the_pages_way_to_the_newest_forecasts_finds_what_the_view_shows(cost):
    text = re.search(r"```sql\n(.*?)```", (ROOT / "BIGQUERY.md").read_text(encoding="utf-8"), re.S)[1]
    keys = "variant_id, forecast_date, predicted_price"
    mine = sorted(stored(cost[0], text.replace("SELECT * FROM FactPrice", f"SELECT {keys} FROM FactPrice")))
    assert mine == sorted(stored(cost[0], f"SELECT {keys} FROM CurrentPriceForecast WHERE job = 'prices'")) and len(mine) == 14


def test_a_shops_older_forecasts_get_our_columns_keep_their_rows_and_stay_as_they_are(emulator):
    house = at(emulator.host, "older")
    house.client.create_dataset("older")
    stored(
        house,
        "CREATE TABLE FactPriceForecast (forecast_id STRING NOT NULL, variant_id INT64 NOT NULL, model_id INT64 NOT NULL, "
        "forecast_date DATE NOT NULL, predicted_price FLOAT64, confidence_upper FLOAT64, confidence_lower FLOAT64, "
        "created_at TIMESTAMP); INSERT INTO FactPriceForecast (forecast_id, variant_id, model_id, forecast_date, "
        "predicted_price) VALUES ('old', 1, 9, DATE '2020-01-01', 3.5)",
    )
    assert [line for line in house.migrate() if line.startswith("added")] == [
        f"added FactPriceForecast.{name}" for name in ("as_of", "horizon", "p_change", "run_id")
    ]
    table = house.client.get_table("older.FactPriceForecast")
    assert table.time_partitioning is None and not table.clustering_fields
    assert {field.mode for field in table.schema if field.name in ("as_of", "run_id")} == {"NULLABLE"}
    put(house)
    assert stored(house, "SELECT variant_id, predicted_price, as_of, run_id FROM FactPriceForecast WHERE model_id = 9") == [
        (1, 3.5, None, None)
    ]
    assert house.current().num_rows == N and at(emulator.host, "older").migrate() == []


def test_a_new_dataset_is_made_where_the_environment_says(emulator, monkeypatch, lines):
    monkeypatch.setenv("BIGQUERY_LOCATION", "EU")
    with FaultProxy(emulator.host) as proxy:
        proxy.fault("status", when=is_query, times=None, **DENIED)
        with pytest.raises(WarehouseError, match="migrate: .*the account lacks a right"):
            at(proxy.host, "elsewhere").migrate()
        (sent,) = [request.json for request in proxy.requests if request.path.partition("?")[0].endswith("/datasets")]
        jobs = [request.json for request in proxy.requests if is_query(request)]
    assert sent["location"] == "EU" and [job["jobReference"]["location"] for job in jobs] == ["EU"]
    assert [line for line in lines if line.startswith("WARNING") and "elsewhere in EU (BIGQUERY_LOCATION says where)" in line]


# ---- reads -----------------------------------------------------------------------------------------------------------------


def sessions_of(house, monkeypatch) -> list:
    """The sessions of the Storage Read API that a warehouse opens from now on."""
    opened: list = []
    if house.reader:
        genuine = house.reader.create_read_session
        monkeypatch.setattr(house.reader, "create_read_session", lambda *a, **k: opened.append(k) or genuine(*a, **k))
    return opened


def test_many_rows_come_by_the_storage_api_and_are_those_of_the_rest_api_in_order(emulator, monkeypatch, cost):
    n = 30_000
    rows = {
        "forecast_id": [f"{k}" for k in range(n)],
        "variant_id": [(k * 7919) % n for k in range(n)],
        "model_id": [1] * n,
        "forecast_date": [DAY + dt.timedelta(days=k % 5) for k in range(n)],
        "predicted_price": [None if k % 11 == 0 else k / 8 for k in range(n)],
        "created_at": [dt.datetime(2024, 3, 1, 1, 2, 3, k % 1000, tzinfo=dt.UTC) for k in range(n)],
        "as_of": [DAY] * n,
        "run_id": ["many"] * n,
    }
    cost[0].append("FactPriceForecast", pa.table(rows))
    read = {}
    for name in ("rest", "storage"):
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", emulator.host)
        if name == "storage":
            monkeypatch.setenv("BIGQUERY_STORAGE_EMULATOR_HOST", emulator.grpc)
        house = connect("bigquery:test-project.cost")
        sessions = sessions_of(house, monkeypatch)
        read[name] = house.published("many", as_of=DAY)
        assert len(sessions) == (name == "storage")
        assert house.published("r1").num_rows and len(sessions) == (name == "storage"), "few rows do without"
    assert read["rest"].num_rows == n and read["storage"].equals(read["rest"])
    assert read["rest"]["variant_id"].to_pylist() == list(range(n))


def test_several_queries_are_asked_side_by_side(emulator, cost):
    asked_for = {"price_variants": {}, "sales_held": {}, "ledger": {}}
    with FaultProxy(emulator.host) as proxy, ThreadPoolExecutor(1) as pool:
        held = proxy.fault("hold", when=asked("FROM DimVariant"))
        found = pool.submit(at(proxy.host, "cost").queries, asked_for)
        assert proxy.held.wait(30)
        until = time.monotonic() + 30
        while sum(is_query(request) for request in proxy.requests) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert sum(is_query(request) for request in proxy.requests) == 3 and not found.done()
        proxy.release()
        assert list(found.result(30)) == list(asked_for) and len(held.hits) == 1
    for name, table in found.result().items():
        assert table.equals(cost[0].query(name)), name


def test_a_page_that_is_lost_on_the_way_does_not_shorten_a_result(emulator, cost):
    with FaultProxy(emulator.host) as proxy:
        fault = proxy.fault("lost_reply", when=polled("/queries/"))
        house = at(proxy.host, "cost", estimates=True)
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("BIGQUERY_EMULATOR_HOST", proxy.host)
            whole = house.published("many")
        assert whole.num_rows in (0, 30_000) and (fault.hits or whole.num_rows == 0)


def test_what_is_not_there_is_no_rows_and_every_other_failure_names_its_query(emulator):
    nowhere = at(emulator.host, "nowhere")
    assert nowhere.ledger().num_rows == 0 and not nowhere.exists()
    house = at(emulator.host, "damaged")
    house.client.create_dataset("damaged")
    assert house.ledger().num_rows == 0 and house.query("price_facts", WINDOW).num_rows == 0
    stored(house, "CREATE TABLE PublishLedger (job STRING)")
    with pytest.raises(WarehouseError, match="test-project.damaged: query ledger: .*model_id") as error:
        house.ledger()
    assert one_line(error)
    with pytest.raises(WarehouseError, match="query ledger: "):
        put(house)


def test_a_reply_of_another_making_is_an_error_and_not_no_rows(emulator, cost):
    with FaultProxy(emulator.host) as proxy:
        proxy.fault("status", when=asked("PublishLedger"), code=404, reason="notFound", message="Not found: Dataset x:y")
        with pytest.raises(WarehouseError, match="query ledger: .*check PROJECT and DATASET in WAREHOUSE"):
            at(proxy.host, "cost", estimates=True).ledger()


def test_the_client_is_the_genuine_one(cost):
    assert type(cost[0].client) is service.Client


# ---- what the service does and the emulator does not -------------------------------------------------------------------------


def names_of(proxy) -> list[str]:
    """The jobs that were sent, by what their ids say that they do."""
    sent = [(request.json or {}).get("jobReference", {}).get("jobId", "") for request in proxy.requests]
    return [name.removeprefix("forecastbook-") for name in sent if name]


def test_what_only_one_publisher_may_insert_has_a_job_that_all_of_them_share(emulator):
    """On the service a MERGE that only inserts does not exclude another; a job's id does."""
    at(emulator.host, "first").migrate()
    with FaultProxy(emulator.host) as proxy:
        one, two = at(proxy.host, "first"), at(proxy.host, "first")
        put(one, prices(["a", "b"], key="series_id"), run_id="r1")
        first = names_of(proxy)
        stored(one, "DELETE FROM PublishLedger WHERE TRUE")
        stored(one, "DELETE FROM DimModel WHERE TRUE")
        proxy.requests.clear()
        put(two, prices(["a", "b"], key="series_id", level=20.0), run_id="r2")
        shared = {name for name in first if name.startswith(("enter-", "model-", "items-"))}
        assert len(shared) == 3 and {n for n in shared if n[:2] != "it"} <= set(names_of(proxy)), "and the old ones are adopted"
        assert len([n for n in first if n.startswith("load-")]) == 1
    house = at(emulator.host, "first")
    assert house.ledger()["run_id"].to_pylist() == ["r2"] and house.current()["run_id"].to_pylist() == ["r2"] * 2 * 7
    house.client.delete_dataset("first", delete_contents=True)


@pytest.fixture(scope="module")
def theirs(emulator):
    house = at(emulator.host, "foreign")
    house.migrate()
    yield house
    house.client.delete_dataset("foreign", delete_contents=True)


def test_what_another_account_began_cannot_be_seen_and_what_it_did_can(emulator, theirs):
    """On the service a job is shown to the account that began it alone; its id is taken for all."""
    house = theirs
    put(house, prices(["a", "b"], key="series_id"), run_id="theirs")
    with FaultProxy(emulator.host) as proxy:
        hidden = proxy.fault("status", when=polled("/jobs/forecastbook-"), times=None, **DENIED)
        ours = at(proxy.host, "foreign", patience=0.3)
        said = put(
            ours,
            prices(["a", "b"], DAY + dt.timedelta(days=1), key="series_id"),
            run_id="ours",
            as_of=DAY + dt.timedelta(days=1),
        )
        assert said["status"] == "published" and not hidden.hits, "a model that is there is not entered again"
        stored(house, "DELETE FROM DimModel WHERE TRUE")  # of what they did something may be gone
        later = DAY + dt.timedelta(days=2)
        assert put(ours, prices(["a", "b"], later, key="series_id"), run_id="later", as_of=later)["status"] == "published"
        assert hidden.hits and stored(house, "SELECT COUNT(*) FROM DimModel") == [(1,)]
        stored(house, "DELETE FROM PublishLedger WHERE run_id = 'later'")  # the id of the first entry is taken, too
        assert put(ours, prices(["a", "b"], later, key="series_id"), run_id="later", as_of=later)["status"] == "published"

        def begun(store, job_id: str):
            return store.client.query("SELECT 1", job_id=job_id, location=store.location, retry=None, job_retry=None)

        assert not house._job("work", lambda job_id: begun(house, job_id))
        proxy.requests.clear()
        assert ours._job("work", lambda job_id: begun(ours, job_id), lambda: True), "what they did is there"
        assert names_of(proxy) == ["work-0"]
        assert not ours._job("work", lambda job_id: begun(ours, job_id), lambda: False), "it is not: the next id is ours"
        assert names_of(proxy)[-1] == "work-1"
        with pytest.raises(exceptions.Forbidden, match="does not have permission"):  # a name that nobody else gives
            ours._job("work", lambda job_id: begun(ours, job_id))
    assert healthy(house)


def test_rows_that_are_gone_as_soon_as_they_are_loaded_are_not_loaded_again(theirs, monkeypatch):
    """As where the partitions of a dataset expire: one load, and one line that says what to look at."""
    house = theirs
    real, loads = house._load, []

    def load(table, *given):
        there = real(table, *given)
        stored(house, f"DELETE FROM {table} WHERE run_id = 'gone'")
        loads.append(table)
        return there

    monkeypatch.setattr(house, "_load", load)
    with pytest.raises(WarehouseError, match="FactPriceForecast and are not there: where its partitions expire"):
        put(house, prices(level=20.0), run_id="gone")
    assert loads == ["FactPriceForecast"]


def test_two_contents_of_one_run_have_one_load_job(scene):
    with FaultProxy(scene.emulator.host) as proxy:
        house = at(proxy.host, scene.name)
        tokens = []
        for level in (30.0, 31.0):
            stored(scene.house, "DELETE FROM FactPriceForecast WHERE run_id = 'same'")
            stored(scene.house, "DELETE FROM PublishLedger WHERE run_id = 'same'")
            put(house, prices(level=level), run_id="same")
            tokens += [name.split("-")[1] for name in names_of(proxy) if name.startswith("load-")]
        assert len(set(tokens)) == 1
    assert set(scene.house.published("same")["predicted_price"].to_pylist()) == {31.0}


@pytest.mark.parametrize(
    "reason, code, passes",
    [("bytesBilledLimitExceeded", 500, False), ("timeout", 500, False), ("backendError", 503, True),
     ("rateLimitExceeded", 403, True), ("accessDenied", 403, False), ("internalError", 500, True), ("", 502, True),
     ("", 404, False)],
)  # fmt: skip
def test_a_reason_decides_what_passes_and_not_the_code_that_it_comes_with(reason, code, passes):
    error = exceptions.from_http_status(code, "x", errors=[{"reason": reason}] if reason else [])
    assert cloud._passing(error) is passes


def test_a_job_that_is_there_and_not_to_be_seen_yet_is_waited_for(scene):
    with FaultProxy(scene.emulator.host) as proxy:
        proxy.fault("lost_reply", when=is_load)
        unseen = proxy.fault("status", when=polled("/jobs/forecastbook-load"), times=2, code=404, reason="notFound")
        assert put(at(proxy.host, scene.name), prices(level=33.0), run_id="unseen")["status"] == "replaced"
        assert len(unseen.hits) == 2
    assert scene.house.published("unseen").num_rows == 21


def test_a_table_of_another_case_and_a_view_without_its_table_are_errors_and_not_no_data(emulator):
    house = at(emulator.host, "cases")
    house.client.create_dataset("cases")
    with FaultProxy(emulator.host) as proxy:
        away = at(proxy.host, "cases")
        said = "Not found: Table test-project:{} was not found in location EU"
        proxy.fault("status", when=is_query, code=404, reason="notFound", message=said.format("cases.FactProductPrice"))
        assert away.query("price_held").num_rows == 0
        for place in ("other.FactProductPrice", "cases.elsewhere"):  # behind a view of the shop's
            proxy.fault("status", when=is_query, code=404, reason="notFound", message=said.format(place))
            with pytest.raises(WarehouseError, match=f"query price_held: .*{place}"):
                away.query("price_held")
    stored(house, "CREATE TABLE factproductprice (date_id INT64)")
    with pytest.raises(WarehouseError, match="factproductprice is not FactProductPrice to BigQuery, which minds the case"):
        house.migrate()
    house.client.delete_dataset("cases", delete_contents=True)


def test_a_run_that_another_overtakes_says_so(scene):
    with FaultProxy(scene.emulator.host) as proxy:
        house, held = at(proxy.host, scene.name), proxy.fault("hold", when=flip, side="before")
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(put, house, prices(level=40.0), run_id="slow")
            assert proxy.held.wait(30)
            assert put(scene.house, prices(level=41.0), run_id="quick")["status"] == "replaced"
            proxy.release()
            assert slow.result(60)["status"] == "superseded by run quick"
        assert len(held.hits) == 1
    assert set(scene.house.current("prices")["run_id"].to_pylist()) == {"quick"}
