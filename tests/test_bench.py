"""The bench runs, on the sample and on a file of one's own, and its tables hold what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bench as whole
import bench_accuracy
import bench_bigquery
import bench_sales
import bench_speed
import peers
import salesdata
from conftest import panel_of, posted_panel, posted_prices
from forecastbook import experts, forking, lstm, spells
from forecastbook.trades import PRICES, SALES

BENCH = Path(__file__).with_name("bench.py")
MODELS = {"published", *experts.NAMES, *PRICES.baselines}
NAMES = {"series_id": "variant_id", "ts": "date", "y": "price", "available": "is_available"}
SPEED = ["train", "predict", "predict", "train against darts", "predict against darts"]
SPEED += ["DuckDB to panel", "DuckDB to panel with checks"]


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
        assert np.isfinite(numbers["skill"]).all() and numbers.loc["last_value", "skill"] == 0
        assert numbers[["from", "to"]].isna().drop("last_value").all(axis=None), "two origins are too few for an interval"
        gap = 1 - rows["relative quantile score"] / rows.loc["last_value", "relative quantile score"]
        np.testing.assert_allclose(rows["skill"], gap, atol=1e-9)  # every model forecasts every point
        assert numbers[["in 90 % band", "in 90 % band, changed"]].apply(lambda c: c.between(0, 1)).all(axis=None)


def test_a_direction_is_right_once_and_by_the_size_of_its_change():
    """Four series that fell from 10 to 8: one goes back, one falls on, by less, one stays and one is not seen. A fifth, which
    never changed before, rises."""
    panel = panel_of(np.where(np.arange(40) < 30, [[10.0]] * 4 + [[8.0]], 8.0))
    back = pd.DataFrame(
        [
            (model, panel.ids[n], y, 8.0, 0.6, up)
            for model, up in (("up", 0.4), ("down", 0.2), ("silent", 0.3))
            for n, y in enumerate([10.0, 7.5, 8.0, np.nan, 9.0])
        ],
        columns=["model", "series_id", "y", "last_value", "p_change", "p_up"],
    ).assign(origin=panel.dates[-1].astype("datetime64[ns]"))
    found, sizes = bench_accuracy.directions(back, panel), np.log([10 / 8, 8 / 7.5])
    assert found[["right", "previous"]].eq(0.5).all(axis=None)
    assert found["right, first changes"].to_dict() == {"up": 1.0, "down": 0.0, "silent": 0.5}
    share = sizes[0] / sizes.sum()
    np.testing.assert_allclose(found.loc[["up", "down", "silent"], "right, by size"], [share, 1 - share, 0.5])
    np.testing.assert_allclose(found["previous, by size"], share)


def test_ratios_of_speed_are_those_of_the_seconds_and_the_verdict_follows_them(made):
    table = pd.read_csv(made[0] / "speed.csv")
    assert [what.split(",")[0] for what in table["what"]] == SPEED
    for unit in ("wall", "CPU"):
        assert (table[f"ours {unit} s"] > 0).all()
        np.testing.assert_allclose(table[f"{unit} ratio"], table[f"peer {unit} s"] / table[f"ours {unit} s"])
    assert table["target"].tolist() == [50, 50, 200, 20, 20, 12, 12]
    for ratio, target, verdict in table[["CPU ratio", "target", "verdict"]].itertuples(index=False):
        assert verdict in (("met", "missed: forecasts are worse") if ratio >= target else ("missed",))
    assert "1 epoch measured, times 10" in table["peer"][0] and "1 epoch measured, times 10" in table["peer"][3]


def test_training_meets_its_target_only_where_its_forecasts_are_no_worse(made):
    table, verdict = pd.read_csv(made[0] / "quality.csv"), pd.read_csv(made[0] / "speed.csv")["verdict"][0]
    assert len(table) == 5 and (table.drop(columns="forecast") > 0).all(axis=None)
    assert bench_speed.no_worse(table) == ("the old pipeline: yes." in made[1])
    assert bench_speed.no_worse(table) or verdict.startswith("missed")
    turns = [[100, 100, 1, 1]]
    assert bench_speed.row("", turns, "train", "", "")["verdict"] == "met"
    assert bench_speed.row("", turns, "train", "", "", worse=True)["verdict"].startswith("missed")
    assert bench_speed.row("", turns, "predict more", "", "")["verdict"] == "missed"


def test_the_scaling_table_adds_up(made):
    table = pd.read_csv(made[0] / "scaling.csv")
    parts = table[["train CPU s", "forecast CPU s", "table CPU s"]]
    assert table["variants"].is_monotonic_increasing and (parts > 0).all(axis=None) and (table["peak MB"] > 100).all()
    np.testing.assert_allclose(parts.sum(axis=1), table["all CPU s"])
    np.testing.assert_allclose(table["all CPU s"] / table["variants"] * 1000, table["CPU s per 1,000"])


def test_what_is_printed_is_what_is_written(made):
    out, printed = made
    assert (out / "bench.md").read_text(encoding="utf-8") == printed
    assert "nan" not in printed and "| published |" in printed and "GFLOP/s" in printed


@pytest.mark.parametrize("half", ["accuracy", "speed"])
def test_one_half_alone_leaves_the_other_undone(half, tmp_path, monkeypatch, capsys):
    table = pd.DataFrame({"what": [1]})
    monkeypatch.setattr(whole, "worth", lambda quick, files: ({"accuracy": table}, ["what it is worth"]))
    monkeypatch.setattr(whole, "cost", lambda quick: ({"speed": table}, ["what it costs"]))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", half, "--out", str(tmp_path)])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    whole.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bench.md", f"{half}.csv"])
    assert capsys.readouterr().out == {"accuracy": "what it is worth\n", "speed": "what it costs\n"}[half]


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path):
    done = bench("--out", tmp_path, "--file", tmp_path / "none.parquet")
    assert done.returncode == 1 and "none.parquet" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_operations_are_those_that_torch_counts_and_those_of_the_recurrence():
    B, C, S, K, D = 3, 20, 4, len(spells.FEATURES), 8
    nets = [forking.Forking({**lstm.DEFAULTS, "hidden_size": D, "num_layers": layers}) for layers in (0, 1)]
    ahead = torch.zeros(B, S, forking.ASKED, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nets[0](torch.zeros(B, C, K), slice(S), torch.zeros(*ahead.shape, forking.CALENDAR), ahead)
    flat, deep = (bench_speed.operations(net, B, C, S) for net in nets)
    assert flat == 3 * counter.get_total_flops()
    assert deep - flat == 3 * 2 * 2 * (C * 4 * D * (K + D) + S * D * D)  # of two crops its gates and the layer that reads them


def test_the_old_pipeline_is_what_it_was():
    panel = posted_panel(4, 60)
    peer, frame = peers.Original(30, 7), peers.long(panel)
    x, y = peer.windows(frame)
    assert sum(p.numel() for p in peer.net.parameters()) == 398_465
    assert len(x) == len(y) == (panel.n_obs - 36).sum() and min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) <= 1
    said = peer.forecast(frame)
    assert len(said) == 4 * 7 and (said["confidence_lower"] <= said["confidence_upper"]).all()
    flat = peers.Original(30, 7).forecast(peers.long(panel_of(np.full(40, 100.0))))  # its output is added where nothing moved
    assert (flat["confidence_upper"] == flat["predicted_price"]).all() and flat["predicted_price"].between(99, 101).all()


def test_the_bench_of_sales_ranks_what_was_published_among_all(tmp_path):
    params, panel = salesdata.tiny(), salesdata.sales_panel()
    found, said = bench_sales.table("tiny", params, panel)
    assert {"published", "blend", "gbm", "tide", *SALES.baselines} == set(found["model"]) and found[
        "WQL"
    ].is_monotonic_increasing
    saved = 1 - found.set_index("model")["WQL"]["published"] / found.set_index("model")["WQL"]
    saves = found.set_index("model")["published saves"].dropna()
    np.testing.assert_allclose(saves, saved[saves.index])
    assert set(saves.index) == set(SALES.baselines) and said.startswith("tiny: 4 origins") and "% of them were zeros" in said
    assert whole.markdown(found).count("\n") == len(found) + 1


def test_the_bench_of_bigquery_reads_every_fact_on_each_side(emulator, monkeypatch):
    emulator.lead(monkeypatch)
    store = bench_bigquery.connect(bench_bigquery.URL)
    bench_bigquery.fill(store, 12_000)
    sides = (bench_bigquery.plain, bench_bigquery.table, bench_bigquery.panel)
    assert [side(store) for side in sides] == [12_000] * 3
