"""The run directory: files whole or absent, a manifest that is JSON, one writer at a time, and no finished run rewritten."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import day, made_run, posted_prices, python, same, tiny
from forecastbook import run as runs
from forecastbook.commands import log_to
from forecastbook.files import RunError, copy_model, lock, sha256
from forecastbook.panel import build
from forecastbook.params import Params
from forecastbook.run import Run, prepare

AS_OF = day("2024-03-10")


def make(out, params=None, as_of=AS_OF, fingerprint="data", warehouse="duckdb:w.duckdb", **more):
    return prepare(Path(out), "prices", as_of, params or tiny(), warehouse=warehouse, fingerprint=fingerprint, **more)


def finished(run):
    run.note(status="done")
    return run


# ---- what is in it


def test_a_full_disk_leaves_the_run_as_it_was(tmp_path):
    """No file may grow beyond 8 kB: parquet, text and manifest fail with a line that names them, and what was there stays."""
    run = make(tmp_path)
    run.write("a.parquet", pd.DataFrame({"x": [1, 2, 3]}))
    manifest = (run.dir / "manifest.json").read_bytes()
    code = """if True:
        import resource, sys
        import numpy as np, pandas as pd
        from pathlib import Path
        from forecastbook.files import RunError, write_text
        from forecastbook.run import Run
        run = Run(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        for attempt in (
            lambda: run.write("a.parquet", pd.DataFrame({"x": np.random.default_rng(0).random(100_000)})),
            lambda: write_text(run.dir / "note.txt", "x" * 100_000),
            lambda: run.note(reasons=["x" * 100_000]),
        ):
            try:
                attempt()
            except RunError as error:
                print(error)
    """
    child = python(code, run.dir)
    said, trouble = child.communicate(timeout=60)
    assert child.returncode == 0, trouble
    lines = said.splitlines()
    told = re.compile(r"cannot write \(.*File too large.*\); the old file is untouched")
    assert len(lines) == 3 and all(told.search(x) for x in lines), lines
    assert [name for name, x in zip(("a.parquet", "note.txt", "manifest.json"), lines, strict=True) if name in x] == [
        *("a.parquet", "note.txt", "manifest.json")
    ]
    assert sorted(p.name for p in run.dir.iterdir()) == ["a.parquet", "manifest.json"]
    assert (run.dir / "manifest.json").read_bytes() == manifest
    assert Run(run.dir).read("a.parquet")["x"].tolist() == [1, 2, 3]


def test_what_is_read_is_what_was_written(tmp_path):
    run, frame = make(tmp_path), pd.DataFrame({"id": ["007", "NA"], "x": [1.5, np.nan]})
    run.write("a.parquet", frame)
    pd.testing.assert_frame_equal(Run(run.dir).read("a.parquet"), frame)
    assert run.manifest["rows"]["a"] == 2 and run.manifest["files"]["a.parquet"] == sha256(run.dir / "a.parquet")


@pytest.mark.parametrize("spoil", ["cut", "flipped", "gone", "foreign"])
def test_a_file_that_is_not_what_was_written_is_named(tmp_path, spoil):
    run = make(tmp_path)
    run.write("a.parquet", pd.DataFrame({"x": [1, 2, 3]}))
    path = run.dir / "a.parquet"
    data = path.read_bytes()
    if spoil == "gone":
        path.unlink()
    elif spoil == "foreign":
        path.rename(run.dir / "b.parquet")
        path = run.dir / "b.parquet"
    else:
        path.write_bytes(data[:-9] if spoil == "cut" else data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(RunError, match=str(path)) as error:
        Run(run.dir).read(path.name)
    assert ("hash mismatch" if spoil != "gone" else "not found") in str(error.value) and "make forecast" in str(error.value)


def test_nothing_is_world_writable(tmp_path):
    old = os.umask(0o022)
    try:
        run = made_run(tmp_path, tiny(), posted_prices(4, 40))
        run.crown("because")
        with lock(tmp_path / "x.lock", wait=1):
            pass
        (run.dir / "m").mkdir()
        (run.dir / "m" / "w").write_text("w")
        copy_model(run.dir / "m", run.dir / "model")
    finally:
        os.umask(old)
    found = [p for p in tmp_path.rglob("*")]
    assert len(found) > 8
    for path in found:
        assert not path.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP), path
        assert not path.name.endswith(".part"), path


# ---- the manifest


def test_the_manifest_is_json_whatever_is_noted(tmp_path):
    run = make(tmp_path)
    run.note(gate={"skill": float("nan"), "reasons": [np.float64("inf"), -np.inf, np.float32("nan"), (1, np.nan)]})
    run.note(
        gate={"n": np.int64(3), "ok": np.bool_(True), "day": np.datetime64("2024-01-01"), "where": Path("a"), "as_of": AS_OF}
    )
    run.note(title='"><script>\u2028 Ж')

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = json.loads((run.dir / "manifest.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert text["gate"] == {
        **{"skill": None, "reasons": [None, None, None, [1, None]], "n": 3, "ok": True},
        **{"day": "2024-01-01", "where": "a", "as_of": "2024-03-10"},
    }
    assert text["title"] == '"><script>\u2028 Ж'
    with pytest.raises(TypeError, match="ndarray does not go into JSON"):
        run.note(x=np.ones(3))
    assert json.loads((run.dir / "manifest.json").read_text(encoding="utf-8")) == text


def test_notes_of_two_hands_at_once_are_all_kept(tmp_path):
    """Two notebooks opened by hand may write the manifest of one run in the same moment."""
    run, n = make(tmp_path), 40
    code = """if True:
        import sys
        from pathlib import Path
        from forecastbook.run import Run
        run, mine, n = Run(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
        for k in range(n):
            run.note(seconds={f"{mine}{k}": k})
    """
    hands = [python(code, str(run.dir), mine, str(n)) for mine in "ab"]
    assert all(hand.wait(timeout=60) == 0 for hand in hands), [hand.communicate() for hand in hands]
    assert set(Run(run.dir).manifest["seconds"]) == {f"{mine}{k}" for mine in "ab" for k in range(n)}


def test_columns_that_hold_nothing_are_text_and_can_be_read_beside_full_ones(tmp_path):
    import duckdb

    full = pd.DataFrame({"file": ["a.csv"], "sheet": ["one"], "row": [1]})
    for name, frame in {"a": full, "b": full.iloc[:0].astype(object), "c": full.assign(sheet=None)}.items():
        run = make(tmp_path / name)
        run.write("quarantine.parquet", frame.astype({"row": "int64"}))
        pd.testing.assert_frame_equal(
            run.read("quarantine.parquet"), frame.astype({"row": "int64"}), check_dtype=len(frame) > 0
        )
    for order in ("a c b", "b c a"):
        paths = [str(tmp_path / name / "prices/2024-03-10/quarantine.parquet") for name in order.split()]
        assert len(duckdb.read_parquet(paths).fetchall()) == 2


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"run_id": "x"}', '{"as_of": "bad"}'])
def test_a_manifest_or_a_list_of_champions_that_lacks_what_it_must_hold_is_named(tmp_path, text):
    run = make(tmp_path)
    if text.startswith("{"):
        (run.home / "champion.json").write_text(text)
        with pytest.raises(RunError, match="champion.json: holds no champions"):
            run.champion()
    (run.dir / "manifest.json").write_text(text)
    with pytest.raises(RunError, match="manifest.json: holds no manifest .*; remove"):
        Run(run.dir)


def test_a_champion_is_found_where_its_run_is_kept(tmp_path):
    """Day 2 kept day 1's model; day 1 is then made anew: the model that forecasts is the old one, under its new name."""
    first = finished(make(tmp_path))
    (first.dir / "model").mkdir()
    (first.dir / "model" / "model.json").write_text("{}")
    first.crown("better")
    second = make(tmp_path, as_of=AS_OF + dt.timedelta(days=1))
    second.crown("kept", second.champion())
    make(tmp_path, fingerprint="other", force=True)
    third = make(tmp_path, as_of=AS_OF + dt.timedelta(days=2)).champion()
    assert third["run_id"] == first.id and third["path"].startswith("2024-03-10+") and third["path"].endswith("/model")


def test_notes_of_two_hands_are_both_kept(tmp_path):
    step = make(tmp_path)
    runner = Run(step.dir)
    step.note(seconds={"01_ingest": 1.5})
    runner.note(seconds={"03_finetune": 2.5}, status="done")
    kept = Run(step.dir).manifest
    assert kept["seconds"] == {"01_ingest": 1.5, "03_finetune": 2.5} and kept["status"] == "done" == runner.manifest["status"]


def test_the_first_manifest_says_where_it_all_came_from(tmp_path):
    params = tiny(seed=11)
    kept = make(tmp_path, params).manifest
    assert (kept["job"], kept["as_of"], kept["status"], kept["seed"]) == ("prices", "2024-03-10", "running", 11)
    assert kept["params_hash"] == params.hash() and kept["data_hash"] == "data" and kept["params"]["seed"] == 11
    assert kept["versions"]["python"].startswith("3.") and kept["versions"]["numpy"] == np.__version__
    assert set(kept["hardware"]) == {"machine", "system", "cores"} and kept["hardware"]["cores"] >= 1
    assert {"commit", "dirty", "rows", "seconds", "steps", "files"} <= set(kept)


@pytest.mark.parametrize(("text", "said"), [(None, "not found"), ("{", "not valid JSON"), ("[]", "holds no manifest")])
def test_a_directory_without_a_sound_manifest_is_no_run(tmp_path, text, said):
    if text:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=f"manifest.json: {said}"):
        Run(tmp_path)


# ---- making and finding a run


def test_the_same_inputs_find_the_same_run(tmp_path):
    first = make(tmp_path / "a")
    first.note(steps={"01_ingest": "done"})
    again = make(tmp_path / "a")
    assert again.id == first.id and again.manifest["steps"] == {"01_ingest": "done"}
    assert make(tmp_path / "b").id == first.id and re.fullmatch(r"prices-20240310-[0-9a-f]{10}", first.id)
    assert again.params == tiny() and again.as_of == AS_OF


def test_other_inputs_make_another_run_id(tmp_path):
    ids = {
        make(tmp_path / "a").id,
        make(tmp_path / "b", tiny(seed=8)).id,
        make(tmp_path / "c", fingerprint="other").id,
        make(tmp_path / "d", as_of=day("2024-03-11")).id,
        prepare(tmp_path / "e", "sales", AS_OF, tiny(), warehouse="duckdb:w.duckdb", fingerprint="data").id,
    }
    assert len(ids) == 5


def test_an_unfinished_run_takes_up_new_params_from_the_first_step(tmp_path, lines):
    run = make(tmp_path)
    for step in runs.STEPS:
        (run.dir / f"{step}.ipynb").touch()
    again = make(tmp_path, tiny(model={"epochs": 3}))
    assert again.id != run.id and again.params.model.epochs == 3 and again.dir == run.dir
    assert [p.name for p in sorted(run.dir.glob("*.ipynb"))] == ["02_tune.ipynb"]
    assert len(lines) == 1 and "model.epochs: 1 -> 3" in lines[0] and run.id in lines[0]
    make(tmp_path, tiny(model={"epochs": 3}), fingerprint="other data")
    assert not list(run.dir.glob("*.ipynb")), "a search on other data is none of this one"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"params": tiny(model={"learning_rate": 0.01}, seed=8)}, ["seed: 7 -> 8", "model.learning_rate: 0.003 -> 0.01"]),
        ({"params": tiny(source={"kind": "file", "path": "a.csv"})}, ["source.kind: 'warehouse_prices' -> 'file'"]),
        ({"fingerprint": "other"}, ["the data up to the as-of date"]),
        ({"warehouse": "duckdb:other.duckdb"}, ["warehouse: 'duckdb:w.duckdb' -> 'duckdb:other.duckdb'"]),
    ],
)
def test_a_finished_run_is_never_rewritten_without_force(tmp_path, change, said, lines):
    run = finished(make(tmp_path))
    (run.dir / "forecast.parquet").write_text("precious")
    before = {p.name: p.read_bytes() for p in run.dir.iterdir()}
    with pytest.raises(RunError) as error:
        make(tmp_path, **change)
    message = str(error.value)
    assert all(s in message for s in said) and "FORCE=1" in message and str(run.dir) in message
    assert {p.name: p.read_bytes() for p in run.dir.iterdir()} == before

    forced = make(tmp_path, **change, force=True)
    kept = run.dir.with_name(f"2024-03-10+{run.id.rsplit('-', 1)[-1]}")
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == before
    assert forced.dir == run.dir and forced.manifest["status"] == "running"
    assert [p.name for p in forced.dir.iterdir()] == ["manifest.json"]
    assert any(str(kept) in line for line in lines)


def test_a_key_that_is_newer_than_a_run_had_its_default_then(tmp_path):
    run = finished(make(tmp_path))
    made = json.loads((run.dir / "manifest.json").read_text())
    del made["params"]["finetune"]["max_steps"]
    (run.dir / "manifest.json").write_text(json.dumps(made))
    assert make(tmp_path).manifest["status"] == "done"
    with pytest.raises(RunError, match="max_steps: 200 -> 9"):
        make(tmp_path, tiny(finetune={"max_steps": 9}))


def test_force_without_a_change_leaves_a_finished_run_alone(tmp_path):
    run = finished(make(tmp_path))
    assert make(tmp_path, force=True).manifest["status"] == "done" and len(list(run.home.glob("2024*"))) == 1


def test_forcing_back_and_forth_keeps_every_finished_run(tmp_path):
    a, b = tiny(), tiny(seed=8)
    for params in (a, b, a):
        finished(make(tmp_path, params, force=True))
    names = sorted(p.name for p in (tmp_path / "prices").glob("2024*"))
    assert (
        len(names) == 3
        and len({json.loads((tmp_path / "prices" / n / "manifest.json").read_text())["run_id"] for n in names}) == 2
    )
    finished(make(tmp_path, b, force=True))
    assert len(list((tmp_path / "prices").glob("2024*"))) == 4
    shutil.rmtree(next(p for p in (tmp_path / "prices").glob("2024*+*") if not p.name.endswith("-2")))
    for params in (a, b):  # where a kept one was removed, its name is free, and no other is in the way
        finished(make(tmp_path, params, force=True))
    assert len(list((tmp_path / "prices").glob("2024*"))) == 5


def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").write_text("a file, not a directory")
    with pytest.raises(RunError, match="out") as error:
        make(tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1


# ---- the panel of a run


def test_the_panel_that_is_read_back_is_the_one_that_was_built(tmp_path):
    frame = posted_prices(6, 60, gaps=0.3)
    frame["list_price"] = frame["y"] * 1.25
    run = made_run(tmp_path, tiny(), frame)
    same(run.panel(), build(frame, "D", frame["ts"].max(), past=["list_price"], horizon=7))
    assert set(run.manifest["files"]) == {"panel.parquet", "series.parquet", "quarantine.parquet"}


def test_a_past_column_that_no_model_reads_is_in_no_panel(tmp_path):
    frame = posted_prices(4, 60)
    frame["list_price"], frame["cost"] = frame["y"] * 1.25, frame["y"] / 2
    run = made_run(tmp_path, tiny(source={"kind": "file", "path": "x", "past": ["cost", "list_price"]}), frame)
    same(run.panel(), build(frame, "D", frame["ts"].max(), past=["list_price"], horizon=7))
    assert "cost" in pd.read_parquet(run.dir / "panel.parquet"), "what was read is kept"


def test_values_known_ahead_are_kept_apart_and_the_panel_holds_no_later_row(tmp_path):
    source = {"kind": "file", "path": "x", "future": ["promo"], "static": ["brand"]}
    frame = posted_prices(4, 60).assign(brand="b")
    frame["promo"] = np.arange(len(frame), dtype=float)
    as_of = day("2024-02-20")
    run = made_run(tmp_path, tiny(source=source), frame, as_of)
    stored = pd.read_parquet(run.dir / "panel.parquet")
    assert list(stored) == ["series_id", "ts", "y", "available", "promo"], "text is kept once a series"
    assert stored["ts"].max() == as_of and pd.read_parquet(run.dir / "future.parquet")["ts"].min() > as_of
    assert "y" not in pd.read_parquet(run.dir / "future.parquet")
    wanted = build(frame, "D", as_of, future=["promo"], static=["brand"], horizon=7)
    same(run.panel(), wanted)
    assert np.isfinite(run.panel().future[:, -7:]).any()


def test_only_the_first_series_are_taken_when_asked(tmp_path):
    run = made_run(tmp_path, tiny(max_series=3), posted_prices(6, 40))
    assert list(run.panel().ids) == ["0000", "0001", "0002"] and len(run.read("series.parquet")) == 3


def test_what_is_gone_is_found_by_the_step_that_left_it(tmp_path):
    run = make(tmp_path)
    (run.dir / "model").mkdir()
    for names in runs.LEFT.values():
        for name in names:
            (run.dir / name).touch()
    for step in runs.LEFT:
        (run.dir / f"{step}.ipynb").touch()
    run.note(files={"model/gbm.txt": "1f", "future.parquet": "2e", "model/of_an_earlier_one": None})
    assert runs.gone(run) == {"01_ingest": "future.parquet", "03_finetune": "model/gbm.txt"}
    run.note(steps={"03_finetune": "running"})
    assert runs.gone(run) == {"01_ingest": "future.parquet"}, "who works on it knows"


def test_a_run_without_its_manifest_begins_again(tmp_path):
    run = make(tmp_path)
    for step in runs.STEPS:
        (run.dir / f"{step}.ipynb").touch()
    assert set(runs.gone(run)) == set(runs.LEFT)
    (run.dir / "manifest.json").unlink()
    assert make(tmp_path).id == run.id and not list(run.dir.glob("*.ipynb")), "what is left says nothing of what it was made of"


# ---- together, and from one version to the next


def test_many_runs_are_crowned_at_once_and_none_is_lost(tmp_path):
    dates = [day(f"2024-03-{d:02d}") for d in range(1, 5)]
    for date in dates:
        make(tmp_path, as_of=date)
    code = "import sys; from pathlib import Path; from forecastbook.run import Run; Run(Path(sys.argv[1])).crown('x')"
    children = [python(code, tmp_path / "prices" / date.isoformat()) for date in dates]
    assert [child.wait(timeout=60) for child in children] == [0] * 4
    for child in children:
        child.communicate()
    history = json.loads((tmp_path / "prices" / "champion.json").read_text())["history"]
    assert [e["as_of"] for e in history] == [d.isoformat() for d in dates]


def test_two_processes_that_prepare_one_run_make_one(tmp_path):
    code = """if True:
        import datetime as dt, sys
        from pathlib import Path
        from forecastbook.params import Params
        from forecastbook.run import prepare
        day = dt.date(2024, 3, 10)
        print(prepare(Path(sys.argv[1]), "prices", day, Params(), warehouse="duckdb:w", fingerprint="f").id)
    """
    children = [python(code, tmp_path) for _ in range(2)]
    said = [child.communicate(timeout=60) for child in children]
    assert len({out for out, _ in said}) == 1 and all(child.returncode == 0 for child in children), said
    assert [p.name for p in (tmp_path / "prices").iterdir() if not p.name.startswith(".")] == ["2024-03-10"]


def test_log_lines_go_to_one_file_with_time_level_and_step(tmp_path):
    log = logging.getLogger("forecastbook")
    kept, level, propagate = list(log.handlers), log.level, log.propagate
    log.handlers[:] = []
    try:
        for label in ("01_ingest", "03_finetune"):
            log_to(tmp_path / "run.log", label)
            logging.getLogger("forecastbook.lstm").warning("said by %s", label)
        written = (tmp_path / "run.log").read_text().splitlines()
        pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING "
        assert len(written) == 2 and re.match(pattern + "01_ingest said by 01_ingest", written[0])
        assert re.match(pattern + "03_finetune said by 03_finetune", written[1]) and len(log.handlers) == 1
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers[:], log.propagate = kept, propagate
        log.setLevel(level)


def test_a_run_of_an_earlier_version_is_compared_and_starts_again(tmp_path):
    """Its params hold a key that is no longer known: an unfinished run starts again, a finished one says what differs."""
    run = runs.prepare(tmp_path, "prices", dt.date(2024, 3, 1), Params(), warehouse="w", fingerprint="f")
    run.note(params={"no_longer": 1})
    again = runs.prepare(tmp_path, "prices", dt.date(2024, 3, 1), Params(), warehouse="w", fingerprint="f")
    assert again.params == Params()
    again.note(params={"no_longer": 1}, status="done")
    with pytest.raises(RunError, match="no_longer: 1 -> None"):
        runs.prepare(tmp_path, "prices", dt.date(2024, 3, 1), Params(), warehouse="w", fingerprint="f")


def test_a_table_written_in_parts_reads_as_one_and_part_by_part(tmp_path):
    run = made_run(tmp_path, tiny(), posted_prices(3, 40))
    kind = pd.CategoricalDtype(["a", "b", "never"])
    pieces = [
        pd.DataFrame({"model": pd.Series([m] * n, dtype=kind), "y": np.arange(float(n))}) for m, n in (("a", 3), ("b", 2))
    ]
    run.write("x.parquet", iter(pieces))
    whole = run.read("x.parquet")
    assert whole["model"].tolist() == ["a"] * 3 + ["b"] * 2 and whole["y"].tolist() == [0, 1, 2, 0, 1]
    assert run.manifest["rows"]["x"] == 5
    assert [part["y"].tolist() for part in run.parts("x.parquet")] == [[0, 1, 2], [0, 1]]
    assert run.read("x.parquet", where=[("model", "==", "b")])["y"].tolist() == [0, 1]
    (run.dir / "x.parquet").write_bytes(b"torn")
    for reader in (lambda: run.read("x.parquet"), lambda: next(run.parts("x.parquet"))):
        with pytest.raises(RunError, match="hash mismatch"):
            reader()


def test_parts_that_fail_half_way_leave_the_old_table(tmp_path):
    run = made_run(tmp_path, tiny(), posted_prices(3, 40))
    before = (run.dir / "series.parquet").read_bytes()

    def pieces():
        yield pd.DataFrame({"y": [1.0]})
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        run.write("series.parquet", pieces())
    assert (run.dir / "series.parquet").read_bytes() == before and not list(run.dir.glob(".*part*"))
