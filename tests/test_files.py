"""Files are whole or absent, and locks end with their holder."""

import os
import resource
import signal
import time

import pytest

from conftest import python
from forecastbook.files import RunError, copy_model, lock, part_name, replacing, sweep, write_text


def test_a_failure_in_the_middle_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    class Trouble(Exception):
        pass

    for trouble, wanted in (
        (Trouble(), Trouble),
        (OSError(28, "No space left on device"), RunError),
        (KeyboardInterrupt(), None),
    ):
        with pytest.raises(wanted or KeyboardInterrupt) as error, replacing(path) as part:
            part.write_text("half of the new")
            raise trouble
        assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
        if wanted is RunError:
            assert "a.txt: cannot write (No space left on device)" in str(error.value)
    write_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_is_read_meanwhile_is_not_blamed_on_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="input.txt"), replacing(tmp_path / "a.txt") as part:
        part.write_text((tmp_path / "input.txt").read_text())
    assert not list(tmp_path.iterdir())


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader:
        with replacing(path) as part:
            part.write_text("new")
            assert path.read_text() == "old" and part.parent == path.parent
        assert path.read_text() == "new" and reader.read() == "old"


def test_a_model_directory_is_replaced_whole(tmp_path):
    source, target = tmp_path / "new", tmp_path / "model"
    for directory, name in ((source, "b"), (target, "a")):
        directory.mkdir()
        (directory / name).write_text(name)
    copy_model(source, target)
    for left in (".model.1.part", ".model.1.old"):  # by a process that was killed
        (tmp_path / left).mkdir()
    copy_model(source, target)
    assert [p.name for p in target.iterdir()] == ["b"] and sorted(p.name for p in tmp_path.iterdir()) == ["model", "new"]


HOLD = """if True:
    import sys, time
    from pathlib import Path
    from forecastbook.files import lock
    with lock(Path(sys.argv[1]), wait=5):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds a lock for some seconds; whatever is left of it is killed afterwards."""
    children = []

    def start(seconds):
        child = python(HOLD, tmp_path / "home" / ".x.lock", seconds)
        children.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_a_second_process_waits_and_then_says_who_holds_the_lock(tmp_path, holder, lines):
    child = holder(60)
    began = time.monotonic()
    told = rf"pid {child.pid} since \d{{4}}-\d\d-\d\dT.* still holds the lock"
    with pytest.raises(RunError, match=told), lock(tmp_path / "home" / ".x.lock", wait=0.5):
        pass
    assert 0.4 < time.monotonic() - began < 5
    assert len(lines) == 1 and f"waiting for pid {child.pid}" in lines[0]


def test_a_lock_that_is_given_back_is_taken(tmp_path, holder, lines):
    holder(0.6)
    with lock(tmp_path / "home" / ".x.lock", wait=20) as waited:
        assert waited
    assert not any("did not end properly" in line for line in lines)
    with lock(tmp_path / "home" / ".x.lock", wait=0) as waited:
        assert not waited


def test_the_lock_of_a_killed_process_is_taken_over_with_a_line(tmp_path, holder, lines):
    child = holder(60)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with lock(tmp_path / "home" / ".x.lock", wait=2) as waited:
        assert not waited
    assert [line for line in lines if f"pid {child.pid}" in line and "did not end properly" in line]
    lines.clear()
    with lock(tmp_path / "home" / ".x.lock", wait=0):
        pass
    assert not lines


def test_a_lock_on_a_full_disk_is_one_clear_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(RunError, match=r"x\.lock: cannot write .*another OUT="), lock(tmp_path / ".x.lock", wait=0):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_error_under_the_lock_gives_it_back(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path / ".x.lock", wait=0):
        raise KeyError
    with lock(tmp_path / ".x.lock", wait=0):
        pass


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_now_is_not(tmp_path):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from forecastbook.files import part_name, replacing
        part_name(Path(sys.argv[1]) / "model").mkdir()
        with replacing(Path(sys.argv[1]) / "backtest.parquet") as part:
            part.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    child = python(code, str(tmp_path))
    child.communicate(timeout=60)
    (tmp_path / "kept.parquet").touch()
    part_name(tmp_path / "mine").touch()
    left = {p.name.split(".")[1] for p in tmp_path.iterdir() if p.name.endswith(".part")}
    assert child.returncode == -9 and left == {"model", "backtest", "mine"}
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"kept.parquet", part_name(tmp_path / "mine").name}
