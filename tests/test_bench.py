"""The bench runs, on the sample and on a file of one's own, and its tables hold what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import posted_prices

BENCH = Path(__file__).with_name("bench.py")
MODELS = {"published", "lstm", "last_value", "seasonal_naive", "moving_average", "historical_quantiles"}
NAMES = {"series_id": "variant_id", "ts": "date", "y": "price", "available": "is_available"}


def bench(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, BENCH, "--quick", *map(str, words)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Where a quick bench of the sample and of a file wrote, and what it printed."""
    home = tmp_path_factory.mktemp("bench")
    posted_prices(20, 90).rename(columns=NAMES).to_parquet(home / "prices.parquet")
    done = bench("--out", home / "out", "--file", home / "prices.parquet")
    assert done.returncode == 0, done.stderr
    return home / "out", done.stdout


def test_accuracy_has_a_row_a_model_and_data_set_and_its_skills_are_finite(made):
    table = pd.read_csv(made[0] / "accuracy.csv")
    for data in ("sample", "prices.parquet"):
        rows = table[table["data"] == data].set_index("model")
        assert set(rows.index) == MODELS and rows.index.is_unique
        numbers = rows.drop(columns="data")
        assert np.isfinite(numbers[["relative MAE", "relative quantile score", "AP ratio", "Brier skill"]]).all(axis=None)
        assert np.isfinite(numbers[["skill against last value", "from", "to"]]).all(axis=None)
        assert (numbers["from"] <= numbers["to"]).all() and numbers.loc["last_value", "skill against last value"] == 0
        gap = 1 - rows["relative quantile score"] / rows.loc["last_value", "relative quantile score"]
        np.testing.assert_allclose(rows["skill against last value"], gap, atol=1e-9)  # every model forecasts every point
        assert numbers[["in 90 % band", "in 90 % band, changed"]].apply(lambda c: c.between(0, 1)).all(axis=None)


def test_ratios_of_speed_are_those_of_the_seconds_and_the_verdict_follows_them(made):
    table = pd.read_csv(made[0] / "speed.csv")
    assert [what.split(",")[0] for what in table["what"]] == ["train", "predict"]
    for unit in ("wall", "CPU"):
        assert (table[f"ours {unit} s"] > 0).all()
        np.testing.assert_allclose(table[f"{unit} ratio"], table[f"peer {unit} s"] / table[f"ours {unit} s"])
    for ratio, target in zip(table["CPU ratio"], table["target"], strict=True):
        assert target.endswith("met" if ratio >= 50 else "missed")
    assert "1 epoch measured, times 10" in table["peer"][0]


def test_what_is_printed_is_what_is_written(made):
    out, printed = made
    assert (out / "bench.md").read_text(encoding="utf-8") == printed
    assert "nan" not in printed and "| published |" in printed


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path):
    done = bench("--out", tmp_path, "--file", tmp_path / "none.parquet")
    assert done.returncode == 1 and "none.parquet" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
