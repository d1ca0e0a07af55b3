"""Files that are whole or absent, and locks: what a run directory relies on when its processes are killed.

A file is written under a temporary name, synced and moved. Locks are the kernel's, so none outlives its holder.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np

log = logging.getLogger("forecastbook")


class RunError(RuntimeError):
    """A run directory, or a file in it, that cannot be used as it is."""


def part_name(path: Path) -> Path:
    """What a file or directory is called, beside its place, while this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextlib.contextmanager
def replacing(path: Path):
    """Give a temporary path beside ``path``; on success sync and move it there, on failure leave the old file as it was."""
    part = part_name(path)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename not in (None, str(part)):  # of another file, which was read meanwhile
            raise
        raise RunError(f"{path}: cannot write ({error.strerror or error}); the old file is untouched") from error
    finally:
        part.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove what writers that were killed left half done in a directory: what ``replacing`` and ``part_name`` name."""
    for part in directory.glob(".*.part"):
        pid = part.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            log.info("%s was left by a process that was killed: removed", part)
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    with replacing(Path(path)) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    """Write a value ``as_json``, whole or not at all."""
    write_text(path, as_json(value, indent=1) + "\n")


def as_json(value, **layout) -> str:
    """A value as JSON: numbers of numpy too, dates and paths as text, NaN and infinity as null.

    Raises TypeError for what JSON cannot hold.
    """
    return json.dumps(_finite(value), ensure_ascii=False, default=_plain, **layout)


def _finite(value):
    """NaN and infinity as null, all the way down: JSON has no word for them."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, (float, np.floating)) and not np.isfinite(value) else value


def _plain(value):
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        return value.item()
    if isinstance(value, (dt.date, np.datetime64, Path)):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def copy_model(source: Path, target: Path) -> None:
    """Replace the model directory ``target`` by a copy of ``source``, in two renames; between them it does not exist.

    A kill leaves no half of one, and the step that copies runs again and clears away what was left.
    """
    for left in (left for end in ("part", "old") for left in target.parent.glob(f".{target.name}.*.{end}")):
        shutil.rmtree(left)
    part, old = part_name(target), target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.copytree(source, part)
    part.chmod(target.parent.stat().st_mode)  # a temporary directory is its owner's alone; who reads the run may read the model
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def altered(path: Path, noted: str | None) -> str:
    """That a file is not what its step wrote, by the hash that was noted then; '' where it is."""
    if sha256(path) == noted:
        return ""
    return "its content is not what was written (hash mismatch); remove it, and make forecast makes it anew"


def lock_of(directory: Path) -> Path:
    """The lock file of a run: beside its directory, which may be renamed."""
    return directory.with_name(f".{directory.name}.lock")


@contextlib.contextmanager
def lock(path: Path, wait: float):
    """Hold an advisory lock on ``path``; yields whether it had to be waited for.

    The kernel drops the lock with its holder, however that ended: nothing stale is left behind. Raises RunError that names the
    holder's pid and since when, after ``wait`` seconds.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    except OSError as error:
        raise RunError(f"{path.parent}: cannot write there ({error.strerror}); give a writable OUT=") from error
    with opened as stream:
        waited, deadline = False, time.monotonic() + wait
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{path.parent}: {holder} still holds the lock after {wait:.0f} s; "
                        "wait for it to end, or stop that process"
                    ) from None
                if not waited:
                    log.warning("waiting for %s, which holds %s", holder, path)
                waited = True
                time.sleep(0.2)
        stream.seek(0)
        if left := stream.read().strip():
            log.warning("%s did not end properly; its lock is taken over", left)
        stream.seek(0)
        stream.truncate()
        mine = f"pid {os.getpid()} since {dt.datetime.now().astimezone().isoformat(timespec='seconds')}"
        try:
            os.write(stream.fileno(), mine.encode())
        except OSError as error:
            raise RunError(f"{path}: cannot write ({error.strerror}); make room there, or give another OUT=") from error
        try:
            yield waited
        finally:
            stream.seek(0)
            stream.truncate()
