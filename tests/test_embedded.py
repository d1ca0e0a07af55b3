"""The embedded warehouse: a file that is locked, killed, truncated, read-only, full."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from forecastbook.warehouse import WarehouseError, connect
from publishing import H, healthy, prices, put, start, stored


def test_seed_fills_an_empty_table_once_and_leaves_a_full_one(house):
    facts = {
        "FactProductPrice": pa.table(
            {
                "price_fact_id": [1, 2],
                "variant_id": [1, 1],
                "date_id": [20240301, 20240302],
                "current_price": [1.0, 2.0],
                "is_available": [True, True],
            }
        ),
        "DimVariant": pa.table({"variant_id": [1], "shop_product_id": [1], "variant_title": ["tea"]}),
    }
    assert house.seed("price_held", facts) is True
    assert house.seed("price_held", facts) is False
    assert stored(house, "SELECT COUNT(*) FROM FactProductPrice") == [(2,)]


def test_migrating_again_changes_no_byte(house):
    before = hashlib.sha256(house.path.read_bytes()).hexdigest()
    assert house.migrate() == []
    assert hashlib.sha256(house.path.read_bytes()).hexdigest() == before


def test_a_repeat_changes_no_byte(house):
    put(house)
    before = house.path.read_bytes()
    assert put(house)["status"] == "already published"
    assert house.path.read_bytes() == before


def test_several_queries_share_one_opening_of_the_file(house, monkeypatch):
    put(house)
    opened, connect_ = [], house._connect
    monkeypatch.setattr(house, "_connect", lambda read_only: opened.append(read_only) or connect_(read_only))
    found = house.queries({"ledger": {}, "price_variants": {}})
    assert opened == [True] and found["ledger"].num_rows == 1
    with pytest.raises(WarehouseError, match="no query"):
        house.queries({"ledger": {}, "nonsense": {}})
    assert house.query("ledger").num_rows == 1 and opened == [True] * 3, "and closed it, after an error too"


def test_threads_of_one_process_take_turns(house):
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda k: put(house, run_id=f"run{k % 2}")["status"], range(8)))
    assert len(done) == 8 and house.ledger().num_rows == 1 and healthy(house)


KILLED = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, {tests!r})
    from forecastbook import embedded
    from forecastbook.warehouse import connect
    from publishing import put, prices
    step = sys.argv[1]
    seen = embedded.DuckDB._insert
    def pause(*args, **more):
        if step == "before insert":
            print("here", flush=True); time.sleep(60)
        seen(*args, **more)
        if step == "after insert":
            print("here", flush=True); time.sleep(60)
    embedded.DuckDB._insert = staticmethod(pause)
    receipt = embedded.DuckDB._receipt
    def last(*args):
        if step == "after commit":
            print("here", flush=True); time.sleep(60)
        return receipt(*args)
    embedded.DuckDB._receipt = last
    put(connect("duckdb:{path}"), prices(level=20.0), run_id="r2")
""")


@pytest.mark.parametrize("step, current", [("before insert", "r1"), ("after insert", "r1"), ("after commit", "r2")])
def test_killed_inside_a_publication_readers_see_one_whole_set_and_a_rerun_ends_it(house, step, current):
    put(house)
    process = start(house, KILLED, step)
    assert process.stdout.readline().strip() == "here", process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rows = house.current("prices")
    assert rows.num_rows == 3 * H and set(rows["run_id"].to_pylist()) == {current}
    assert healthy(house)
    put(house, prices(level=20.0), run_id="r2")
    assert set(house.current("prices")["run_id"].to_pylist()) == {"r2"}
    assert stored(house, "SELECT COUNT(*) FROM FactPriceForecast WHERE run_id = 'r2'") == [(3 * H,)]
    assert healthy(house)


HOLDER = "import duckdb, sys, time; c = duckdb.connect({path!r}); print('held', flush=True); time.sleep(float(sys.argv[1]))"


def holding(house, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(path=str(house.path)), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "held"
    return process


def test_a_lock_is_waited_for_visibly(house, caplog):
    process = holding(house, 1.5)
    put(house)
    process.communicate()
    assert "waiting for" in caplog.text and f"PID {process.pid}" in caplog.text
    assert house.current("prices").num_rows == 3 * H


def test_a_lock_that_stays_is_an_error_naming_its_holder(house):
    process = holding(house, 60)
    try:
        started = time.monotonic()
        for call in (lambda h: put(h), lambda h: h.current("prices")):
            with pytest.raises(WarehouseError, match=f"still in use after .*PID {process.pid}"):
                call(connect(house.url, lock_wait=0.6))
        assert time.monotonic() - started < 10
    finally:
        process.kill()
        process.communicate()


def test_a_damaged_file_a_directory_and_an_impossible_place_are_named(tmp_path):
    bad = tmp_path / "bad.duckdb"
    bad.write_bytes(b"hello" * 10_000)
    (tmp_path / "file").write_text("x")
    for path, words in (
        (bad, "damaged or something else"),
        (tmp_path, "directory"),
        (tmp_path / "file" / "x.duckdb", "directory of"),
        (Path("/proc/nothing/x.duckdb"), "directory of"),
    ):
        with pytest.raises(WarehouseError, match=words) as error:
            connect(f"duckdb:{path}").migrate()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert bad.read_bytes() == b"hello" * 10_000


READ_ONLY = textwrap.dedent("""
    import os, sys
    sys.path.insert(0, {tests!r})
    from forecastbook.warehouse import WarehouseError
    from forecastbook.warehouse import connect
    from publishing import put
    house = connect("duckdb:{path}")
    house.current("prices")                                     # what is imported late is imported now
    if os.geteuid() == 0:
        os.seteuid(65534)                                       # root writes everywhere
    print(house.current("prices").num_rows)
    for url in (house.url, house.url + ".new"):
        try:
            put(connect(url), run_id="r2")
        except WarehouseError as error:
            print(error)
""")


def test_a_read_only_place_can_be_read_but_not_published_to():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        house = connect(f"duckdb:{folder}/w.duckdb")
        house.migrate()
        put(house)
        house.path.chmod(0o444)
        house.path.parent.chmod(0o555)
        out, err = start(house, READ_ONLY).communicate(timeout=60)
        house.path.parent.chmod(0o755)
        lines = out.strip().split("\n")
        assert lines[0] == str(3 * H) and len(lines) == 3, (out, err)
        assert all("cannot be written" in line for line in lines[1:])
        assert [p.name for p in Path(folder).iterdir()] == ["w.duckdb"] and healthy(house)


FULL = textwrap.dedent("""
    import resource, signal, sys
    sys.path.insert(0, {tests!r})
    from forecastbook.warehouse import WarehouseError
    from forecastbook.warehouse import connect
    from publishing import put, prices
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)               # a file may not grow beyond the limit: as a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
    try:
        put(connect("duckdb:{path}"), prices(list(range(20_000))), run_id="big")
    except WarehouseError as error:
        print(error)
""")


def test_a_full_disk_leaves_the_old_set(house):
    put(house)
    process = start(house, FULL, house.path.stat().st_size + 100_000)
    out, err = process.communicate(timeout=120)
    assert str(house.path) in out and len(out.strip().split("\n")) == 1, (out, err)
    assert set(house.current("prices")["run_id"].to_pylist()) == {"r1"} and healthy(house)
    put(house, prices(list(range(100))), run_id="after")  # there is room again
    assert house.current("prices").num_rows == 100 * H and healthy(house)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error_and_never_an_empty_result(house, share):
    put(house, prices(list(range(2000))))
    content = house.path.read_bytes()
    house.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WarehouseError) as error:
        assert house.current("prices").num_rows == 2000 * H  # or what is cut off was free space
        raise WarehouseError(str(house.path))
    assert str(house.path) in str(error.value) and "\n" not in str(error.value)


def test_files_are_never_writable_by_everyone(tmp_path):
    old = os.umask(0)
    try:
        house = connect(f"duckdb:{tmp_path / 'x.duckdb'}")
        house.migrate()
        put(house)
    finally:
        os.umask(old)
    assert all(p.stat().st_mode & 0o002 == 0 for p in tmp_path.iterdir())


@pytest.fixture
def house(tmp_path):
    out = connect(f"duckdb:{tmp_path / 'склад' / 'the warehouse.duckdb'}")
    out.migrate()
    return out
