"""What several test files share: small prices, panels, params, run directories, an emulator, code in a process of its own."""

from __future__ import annotations

import datetime as dt
import logging
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small only wait for each other's threads

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from forecastbook import run as runs
from forecastbook import spells
from forecastbook.intake import Intake
from forecastbook.panel import Panel, build
from forecastbook.params import Params
from forecastbook.roster import roster
from forecastbook.yamlfile import merge

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("quick")

LIB = Path(runs.__file__).parent.parent
SLOW = ("test_chain", "test_tuning", "test_bigquery", "test_warehouse", "test_report", "test_faults", "test_doctor")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
TINY = {
    "title": "Tiny",
    "model": {"hidden_size": 8, "num_layers": 1, "epochs": 1, "max_steps": 5, "sequence_length": 14, "batch_size": 16},
    "finetune": {"epochs": 1, "days": 30, "validation_days": 14},
    "backtest": {"origins": 5, "stride": 7, "refits": 2},
}


def pytest_collection_modifyitems(items) -> None:
    """Files that take minutes come first: two of them that mostly wait share the machine well, and none is left for the end."""
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


def asked(panel: Panel, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """What boosted trees are asked with at a panel's last day: features (N, K) of all series, and the calendar ahead (H, 7)."""
    return spells.of(panel, 1).features[:, -1], spells.calendar(panel, 1, horizon)[0]


def posted_prices(n: int = 12, days: int = 110, seed: int = 0, gaps: float = 0.1, start: str = "2024-01-01") -> pd.DataFrame:
    """A long frame of sticky prices: cuts of a few days from a usual level, some days not observed (no row), ragged starts."""
    draw, parts = np.random.default_rng(seed), []
    for i in range(n):
        usual = round(float(draw.uniform(2, 60)), 2)
        y = np.full(days, usual)
        for first in range(int(draw.integers(3, 15)), days, int(draw.integers(9, 25))):
            y[first : first + int(draw.integers(2, 6))] = round(usual * float(draw.choice([0.7, 0.8, 0.9, 1.1])), 2)
        seen = draw.random(days) >= gaps
        seen[: int(draw.integers(0, 8))] = False
        seen[-1], seen[0] = True, seen[0] or i == 0
        ts = pd.date_range(start, periods=days)[seen]
        parts.append(pd.DataFrame({"series_id": f"{i:04d}", "ts": ts, "y": y[seen], "available": True, "title": f"Item {i}"}))
    return pd.concat(parts, ignore_index=True)


def long_frame(y, start: str = "2024-01-01", freq: str = "D") -> pd.DataFrame:
    """The long frame of an array (N, T); a NaN stays a row that says "not available"."""
    y = np.atleast_2d(np.asarray(y, float))
    ids, dates = [f"{i:04d}" for i in range(len(y))], pd.date_range(start, periods=y.shape[1], freq=freq)
    frame = pd.DataFrame({"series_id": np.repeat(ids, y.shape[1]), "ts": np.tile(dates, len(y)), "y": y.ravel()})
    return frame.assign(available=frame["y"].notna(), title="Item " + frame["series_id"])


def panel_of(y, start: str = "2024-01-01", freq: str = "D") -> Panel:
    """The panel of an array (N, T), by the same door as every other."""
    frame = long_frame(y, start, freq)
    return build(frame, freq, frame["ts"].max())


def posted_panel(n: int = 12, days: int = 110, seed: int = 0, gaps: float = 0.1) -> Panel:
    frame = posted_prices(n, days, seed, gaps)
    return build(frame, "D", frame["ts"].max(), past=())


def tiny(**over) -> Params:
    """Params of a network that trains in a blink; ``over`` is laid over them, section by section."""
    return Params.model_validate(merge(TINY, over))


def made_run(out: Path, params: Params, frame: pd.DataFrame, as_of=None, job: str = "prices", warehouse: str = "") -> runs.Run:
    """A run whose ingest is done: its directory holds panel, series and quarantine of the frame."""
    as_of = as_of or frame["ts"].max().date()
    url = warehouse or f"duckdb:{out / 'warehouse.duckdb'}"
    run = runs.prepare(Path(out), job, as_of, params, warehouse=url, fingerprint="f")
    for name in params.source.past:
        frame = frame.assign(**{name: np.nan}) if name not in frame else frame
    quarantine = pd.DataFrame({"file": [], "sheet": [], "row": [], "column": [], "value": [], "reason": []})
    intake = Intake(frame, quarantine, {})
    view = run.build(intake)
    run.keep(intake, view, roster(view, params))
    return run


def same(a: Panel, b: Panel) -> None:
    """Two panels agree bit for bit, array by array."""
    for name in ("ids", "titles", "dates", "y", "available", "past", "future", "static"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype and left.shape == right.shape, name
        np.testing.assert_array_equal(left, right, err_msg=name)


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


@pytest.fixture
def lines():
    """The log lines that the package writes during a test: a list of messages."""
    found, log = [], logging.getLogger("forecastbook")
    handler = logging.Handler()
    handler.emit = lambda record: found.append(f"{record.levelname} {record.getMessage()}")
    level, _ = log.level, log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """A running BigQuery emulator; tests keep apart by datasets of their own. Each dataset that is there makes every statement
    slower, so a module has an emulator of its own, and a test that makes a dataset deletes it.
    """
    import emulated

    try:
        python = emulated.environment()
    except emulated.Unavailable as missing:
        pytest.skip(f"NO PYTHON 3.13: {missing}; BigQuery is NOT tested on this machine")
    with emulated.Emulator(tmp_path_factory.mktemp("emulator"), python) as running:
        yield running


def adds_up(intake: Intake) -> bool:
    """Whether every row that was read is kept or named in the counts."""
    c = intake.counts
    taken = sum(
        n
        for name, n in c.items()
        if name.startswith("quarantined")
        or name in ("duplicates resolved", "after the as-of date", "before the history window")
    )
    known = sum(c.get(name, 0) for name in ("observed", "unavailable", "available without a value", "known ahead"))
    return c["rows read"] == c["rows kept"] + taken and len(intake.frame) == c["rows kept"] == known


def reading(intake: Intake, series, day) -> pd.Series:
    """The one row of a series and day."""
    frame = intake.frame
    at = frame[(frame["series_id"] == str(series)) & (frame["ts"] == pd.Timestamp(day))]
    assert len(at) == 1
    return at.iloc[0]


def python(code: str, *args, lib: Path = LIB, **more):
    """Code in a process of its own, its output and errors on pipes."""
    env = {**os.environ, "PYTHONPATH": str(lib)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=-1, stderr=-1, text=True, env=env, **more)
