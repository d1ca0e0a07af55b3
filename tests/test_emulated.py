"""The machinery of the BigQuery tests, itself tested: environment and process of the emulator, the proxy in front of it."""

from __future__ import annotations

import fcntl
import gzip
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, Forbidden, NotFound, ServiceUnavailable
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

import emulated
from emulated import Emulator, FaultProxy, Unavailable, environment, is_load, is_query, is_upload, query_contains

pytestmark = pytest.mark.timeout(120)
SETUP = emulated.HERE / "setup.sh"


def client(host: str) -> bigquery.Client:
    options = ClientOptions(api_endpoint=f"http://{host}")
    return bigquery.Client(project="test-project", credentials=AnonymousCredentials(), client_options=options)


# --- the environment


def test_the_lock_is_exact_pins():
    note, *pins = (emulated.HERE / "requirements.lock").read_text().splitlines()
    assert note.startswith("# ") and not [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)]
    assert len(pins) == len({pin.split("==")[0].lower() for pin in pins}) == 45 and "local-bigquery==0.3.2" in pins


def test_setup_does_nothing_when_it_is_up_to_date(emulator):
    stamp = emulated.ROOT / ".emulator" / "requirements.lock"
    before, start = stamp.stat().st_mtime_ns, time.monotonic()
    done = subprocess.run(["bash", SETUP, stamp.parent], capture_output=True, text=True)
    assert time.monotonic() - start < 2
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and stamp.stat().st_mtime_ns == before


@pytest.mark.parametrize("shim", [False, True], ids=["nothing", "a shim that fails"])
def test_without_python_3_13_setup_says_so_and_leaves_nothing(tmp_path, monkeypatch, shim):
    programs, away = tmp_path / "programs", tmp_path / "away"
    programs.mkdir(), away.mkdir()
    (programs / "bash").symlink_to(shutil.which("bash"))
    if shim:
        (programs / "python3.13").write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
        (programs / "python3.13").chmod(0o755)
    environ = {"PATH": str(programs), "PYENV_ROOT": str(tmp_path / "none")}
    done = subprocess.run([programs / "bash", SETUP, away / "env"], env=environ, cwd=away, capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout == "" and not list(away.iterdir())
    assert len(done.stderr.splitlines()) == 1 and "no Python 3.13" in done.stderr

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="^setup.sh: no Python 3.13[^\n]*$"):
        environment(away / "env")
    assert not list(away.iterdir())


def test_a_build_that_fails_is_an_error_and_not_a_skip(tmp_path, emulator):
    (tmp_path / "env").write_text("a file where the directory should be")
    with pytest.raises(RuntimeError, match=r"setup.sh ended with 1: .*"):
        environment(tmp_path / "env")


def test_who_asks_while_another_builds_waits(emulator):
    with ThreadPoolExecutor(1) as pool:
        with open(SETUP) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            asked = pool.submit(environment)
            with pytest.raises(TimeoutError):
                asked.result(0.3)
        assert asked.result(10) == emulated.ROOT / ".emulator" / "bin" / "python"


# --- the process


def test_the_emulator_listens_on_loopback_only_and_alone_and_ends_in_order(tmp_path, monkeypatch, emulator):
    monkeypatch.setenv("GROUPS", "wheel staff")
    with Emulator(tmp_path) as own:
        listening = [c.laddr for c in psutil.Process(own.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
        assert {f"127.0.0.1:{address.port}" for address in listening} == {own.host, own.grpc}
        assert own.environ == {"BIGQUERY_EMULATOR_HOST": own.host, "BIGQUERY_STORAGE_EMULATOR_HOST": own.grpc}
        with pytest.raises(RuntimeError, match=r"ended with 1: [\s\S]*Could not set lock"):
            Emulator(tmp_path).start()
        os.kill(own.pid, signal.SIGTERM)
        assert own.process.wait(10) == 0


def test_killed_it_starts_again_with_its_data_and_it_ends_with_the_process_that_started_it(tmp_path, emulator):
    with Emulator(tmp_path / "data") as own:
        client(own.host).create_dataset("kept")
        assert own.kill() == -signal.SIGKILL
    code = (
        "import sys, time; from emulated import Emulator\n"
        "own = Emulator(sys.argv[1]).start(); print(own.pid, own.host, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, tmp_path / "data"]
    starter = subprocess.Popen(command, cwd=Path(emulated.__file__).parent, stdout=subprocess.PIPE, text=True)
    pid, host = starter.stdout.readline().split()
    started = psutil.Process(int(pid))
    assert [found.dataset_id for found in client(host).list_datasets()] == ["kept"]
    starter.kill(), starter.communicate()
    psutil.wait_procs([started], timeout=10)
    assert not started.is_running() or started.status() == psutil.STATUS_ZOMBIE


# --- the proxy, as the genuine client sees it


@pytest.fixture
def proxy(emulator):
    with FaultProxy(emulator.host) as found:
        yield found


@pytest.fixture
def near(emulator) -> bigquery.Client:
    """A client that goes around the proxy."""
    return client(emulator.host)


@pytest.fixture
def table(near, request) -> str:
    """An empty table T (a INT64) in a dataset of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "_", request.node.name)
    near.create_dataset(name)
    near.create_table(bigquery.Table(f"test-project.{name}.T", [bigquery.SchemaField("a", "INT64")]))
    return f"test-project.{name}.T"


def parquet(values) -> bytes:
    file = BytesIO()
    pq.write_table(pa.table({"a": pa.array(values, pa.int64())}), file)
    return file.getvalue()


def load(found: bigquery.Client, table: str, data: bytes, job_id: str, **options) -> bigquery.LoadJob:
    config = bigquery.LoadJobConfig(schema=[bigquery.SchemaField("a", "INT64")], source_format="PARQUET")
    options = {"size": len(data), "num_retries": 0} | options
    return found.load_table_from_file(BytesIO(data), table, job_id=job_id, job_config=config, **options)


def stored(found: bigquery.Client, table: str) -> int:
    return next(iter(found.query_and_wait(f"SELECT COUNT(*) AS n FROM `{table}`"))).n


def test_without_a_fault_load_and_query_pass_and_are_recorded(proxy, near, table):
    far, data = client(proxy.host), parquet([1, 2, 3])
    assert load(far, table, data, "pass-1").result(timeout=30).output_rows == 3
    assert (
        list(far.query(f"SELECT SUM(a) AS total FROM `{table}`").result(timeout=30))[0].total == 6 and stored(far, table) == 3
    )
    [upload] = [request for request in proxy.requests if is_upload(request)]
    assert is_load(upload) and upload.json["jobReference"]["jobId"] == "pass-1" and data in upload.body and upload.status == 200
    inserted, asked = [request for request in proxy.requests if is_query(request)]
    assert inserted.path.split("?")[0].endswith("/jobs") and asked.path.split("?")[0].endswith("/queries")
    assert query_contains("SUM(a)")(inserted) and not query_contains("SUM(a)")(asked) and not is_load(inserted)
    assert [request.n for request in proxy.requests] == list(range(len(proxy.requests)))
    assert {request.status for request in proxy.requests} == {200} and proxy.requests[-1].method in ("GET", "POST")


def test_a_large_upload_in_parts_goes_wholly_through_the_proxy(proxy, near, table, monkeypatch):
    monkeypatch.setattr("google.cloud.bigquery.client._DEFAULT_CHUNKSIZE", 4 << 20)
    data = parquet(np.random.default_rng(0).integers(0, 1 << 62, 1_200_000))
    assert len(data) > 8 << 20
    load(client(proxy.host), table, data, "large-1").result(timeout=60)
    opened, *parts = [request for request in proxy.requests if is_upload(request)]
    assert is_load(opened) and len(parts) == 3 and {part.method for part in parts} == {"PUT"}
    assert b"".join(part.body for part in parts) == data and [part.status for part in parts] == [308, 308, 200]
    assert stored(near, table) == 1_200_000


def test_lost_reply_is_a_connection_error_of_a_load_that_was_stored_once(proxy, near, table):
    far, data = client(proxy.host), parquet([1, 2])
    fault = proxy.fault("lost_reply", when=is_load)
    with pytest.raises(requests.exceptions.ConnectionError, match="reset by peer"):
        load(far, table, data, "lost-1")
    assert [request.status for request in fault.hits] == [None] and len(proxy.requests) == 1
    near.get_job("lost-1").result(timeout=30)
    assert stored(near, table) == 2
    with pytest.raises(Conflict, match="Already Exists: Job"):
        load(far, table, data, "lost-1")
    assert proxy.requests[-1].status == 409 and stored(near, table) == 2


def test_lost_request_is_a_connection_error_of_a_load_that_never_was(proxy, near, table):
    far, data = client(proxy.host), parquet([1, 2])
    proxy.fault("lost_request", when=is_load)
    with pytest.raises(requests.exceptions.ConnectionError, match="reset by peer"):
        load(far, table, data, "never-1")
    with pytest.raises(NotFound):
        near.get_job("never-1")
    load(far, table, data, "never-1").result(timeout=30)
    assert stored(near, table) == 2


def test_status_is_an_error_as_bigquery_says_it(proxy, table):
    far, dataset = client(proxy.host), table.rpartition(".")[0]
    proxy.fault("status")
    proxy.fault("status", code=403, reason="rateLimitExceeded", message="Exceeded rate limits: too many of these")
    with pytest.raises(ServiceUnavailable) as unavailable:
        far.get_dataset(dataset, retry=None)
    assert unavailable.value.errors[0]["reason"] == "backendError" and unavailable.value.errors[0]["domain"] == "global"
    with pytest.raises(Forbidden, match="too many of these") as refused:
        far.get_dataset(dataset, retry=None)
    assert refused.value.errors[0]["reason"] == "rateLimitExceeded"
    proxy.fault("status")
    assert far.get_dataset(dataset).dataset_id == dataset.split(".")[1], "the client takes this 503 for one to try again after"
    assert [request.status for request in proxy.requests] == [503, 403, 503, 200]
    proxy.fault("status", when=is_query, code=400, reason="invalidQuery", times=None)
    for _ in range(2):
        with pytest.raises(requests.exceptions.HTTPError):
            requests.post(
                f"http://{proxy.host}/bigquery/v2/projects/test-project/queries", json={"query": "x"}
            ).raise_for_status()
    raw = requests.post(f"http://{proxy.host}/bigquery/v2/projects/test-project/queries", json={"query": "x"}).json()
    message = raw["error"]["message"]
    detail = {"message": message, "domain": "global", "reason": "invalidQuery"}
    assert raw == {"error": {"code": 400, "message": message, "errors": [detail], "status": "INVALID_ARGUMENT"}}


def test_slow_waits_and_then_does_it(proxy, table):
    proxy.fault("slow", seconds=0.6)
    start = time.monotonic()
    client(proxy.host).get_table(table)
    assert 0.6 <= time.monotonic() - start < 10
    start = time.monotonic()
    client(proxy.host).get_table(table)
    assert time.monotonic() - start < 0.6


def test_slow_on_the_side_after_has_done_it_before_it_waits(proxy, near, table):
    dataset = table.rpartition(".")[0] + "_slow"
    proxy.fault("slow", seconds=30, side="after", when=lambda request: request.method == "POST")
    with pytest.raises(requests.exceptions.ReadTimeout):
        client(proxy.host).create_dataset(dataset, retry=None, timeout=1)
    assert near.get_dataset(dataset).dataset_id == dataset.split(".")[1]


def test_answer_is_the_proxys_own(proxy, table):
    proxy.fault("answer", code=418, body={"said": ["tea"]})
    reply = requests.get(f"http://{proxy.host}/bigquery/v2/anything")
    assert (reply.status_code, reply.json()) == (418, {"said": ["tea"]})
    assert client(proxy.host).get_table(table).num_rows is not None, "once"


@pytest.mark.parametrize("side", ["before", "after"])
def test_hold_stops_a_request_until_it_is_released(proxy, near, table, side):
    dataset = table.rpartition(".")[0] + "_held"
    proxy.fault("hold", side=side, when=lambda request: request.method == "POST")
    with ThreadPoolExecutor(1) as pool:
        try:
            made = pool.submit(client(proxy.host).create_dataset, dataset)
            assert proxy.held.wait(10)
            there = dataset.split(".")[1] in [found.dataset_id for found in near.list_datasets()]
            with pytest.raises(TimeoutError):
                made.result(0.3)
            assert there == (side == "after") and proxy.requests[-1].status is None
        finally:
            proxy.release()
        assert made.result(10).dataset_id == dataset.split(".")[1] and not proxy.held.is_set()
    assert near.get_dataset(dataset) and proxy.requests[-1].status == 200


def test_a_held_request_is_reset_when_the_proxy_closes_and_never_arrives(emulator, near, table):
    dataset = table.rpartition(".")[0] + "_dropped"
    with ThreadPoolExecutor(1) as pool:
        with FaultProxy(emulator.host) as proxy:
            proxy.fault("hold")
            made = pool.submit(client(proxy.host).create_dataset, dataset, retry=None)
            assert proxy.held.wait(10)
        with pytest.raises(requests.exceptions.ConnectionError):
            made.result(10)
    with pytest.raises(NotFound):
        near.get_dataset(dataset)


def test_which_requests_a_fault_meets(proxy, table):
    far = client(proxy.host)
    fault = proxy.fault("status", when=lambda request: request.method == "GET", after=1, times=2, code=400, reason="invalid")
    asked = []
    for _ in range(5):
        try:
            far.get_table(table)
            asked.append(200)
        except Exception as error:
            asked.append(error.code)
    assert asked == [200, 400, 400, 200, 200] and [request.n for request in fault.hits] == [1, 2]
    proxy.fault("status", times=None, code=400)
    proxy.clear()
    far.get_table(table)
    for wrong in ({"kind": "burnt"}, {"kind": "slow", "code": 503}, {"kind": "hold", "side": "beside"}):
        with pytest.raises(ValueError):
            proxy.fault(**wrong)


def test_a_when_that_fails_is_not_taken_for_a_fault(emulator):
    with pytest.raises(ZeroDivisionError), FaultProxy(emulator.host) as proxy:
        proxy.fault("status", when=lambda request: 1 / 0)
        with pytest.raises(requests.exceptions.ConnectionError):
            client(proxy.host).get_dataset("any", retry=None)


# --- the proxy, byte by byte


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent, and with a session address of its own."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers.items()), body))
        self.send_response(200)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/session?id=1")
        self.send_header("X-Kept", "yes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def echo():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.seen, server.daemon_threads = [], True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_passes_is_not_changed(echo):
    upstream = f"127.0.0.1:{echo.server_address[1]}"
    zipped = gzip.compress(json.dumps({"query": "SELECT 1"}).encode())
    with FaultProxy(upstream) as proxy:
        connection = http.client.HTTPConnection(proxy.host, timeout=10)
        connection.request("POST", "/x/queries?a=%2F&b", zipped, {"Content-Encoding": "gzip", "Host": "named.example:1"})
        reply = connection.getresponse()
        assert reply.read() == zipped and reply.headers["X-Kept"] == "yes"
        assert reply.headers["Location"] == f"http://{proxy.host}/session?id=1"
        connection_of_first = connection.sock
        connection.request("POST", "/chunked", iter([b"ab", b"c" * 100_000]), encode_chunked=True)
        assert connection.getresponse().read() == b"ab" + b"c" * 100_000
        assert connection.sock is connection_of_first, "the connection is kept"
        connection.request("POST", "/empty")
        assert connection.getresponse().read() == b""
        connection.close()
        first, chunked, empty = proxy.requests
    path, headers, body = echo.seen[0]
    assert path == "/x/queries?a=%2F&b" and headers["Host"] == "named.example:1" and body == zipped == first.body
    assert first.json == {"query": "SELECT 1"} and is_query(first) and query_contains("SELECT")(first)
    assert chunked.json is None and not is_query(chunked) and empty.json is None and empty.body == b""


def test_when_the_emulator_is_gone_the_client_is_cut_off(echo):
    with FaultProxy(f"127.0.0.1:{echo.server_address[1]}") as proxy:
        echo.socket.close()
        with pytest.raises(requests.exceptions.ConnectionError, match="reset by peer"):
            requests.post(f"http://{proxy.host}/x", data=b"1", timeout=10)
        assert [request.status for request in proxy.requests] == [None]
