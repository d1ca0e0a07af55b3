"""What can go wrong while a notebook is executed, done for real: kernels killed, disks full, secrets, rubbish in files."""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from conftest import LIB, python
from forecastbook import chain, provenance, report, sources
from forecastbook import run as runs
from forecastbook.commands import Request
from forecastbook.environment import git_state
from forecastbook.files import RunError
from forecastbook.params import Params
from forecastbook.run import Run
from forecastbook.runfiles import RunFiles
from forecastbook.step import StepError, execute

pytestmark = pytest.mark.timeout(180)
SECRET = "hunter2-not-for-any-report"


@pytest.fixture
def run(tmp_path) -> Run:
    return runs.prepare(
        tmp_path / "out", "prices", dt.date(2024, 3, 1), Params(), warehouse=f"duckdb:{tmp_path}/w.duckdb", fingerprint="f"
    )


def notebook(path: Path, *cells: str, tag: bool = True, kernel: str = "python3") -> Path:
    nb = nbformat.v4.new_notebook()
    nb.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    parameters = nbformat.v4.new_code_cell('job = as_of = out = warehouse = ""\noverlays = []')
    parameters.metadata.tags = ["parameters"] if tag else []
    nb.cells = [nbformat.v4.new_markdown_cell("# 1 · What?"), parameters, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nb, path)
    return path


def failed(run: Run, step: str) -> dict:
    """What must be true after any failure; the manifest's entry."""
    assert not (run.dir / f"{step}.ipynb").exists() and not (run.dir / f"{step}.html").exists(), "nothing at a final path"
    assert not list(run.dir.glob(".*part*")), "no temporary file is left"
    manifest = json.loads((run.dir / "manifest.json").read_text())
    assert manifest["status"] == "failed" and manifest["steps"][step] == "failed"
    page = (run.dir / "report.html").read_text()
    assert f"failed at {step}" in page and f"failed at {step}" in (run.dir.parents[1] / "index.html").read_text()
    return manifest["failed"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "kernel died"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_cell_that_ends_badly_fails_the_step(run, tmp_path, cell, said):
    path = notebook(tmp_path / "01_ingest.ipynb", "x = 1", cell, "y = 2")
    with pytest.raises(StepError, match=said):
        execute(path, run, [])
    assert said in failed(run, "01_ingest")["why"]
    assert (run.dir / "01_ingest.failed.ipynb").is_file() and (run.dir / "01_ingest.failed.html").is_file()
    good = notebook(tmp_path / "01_ingest.ipynb", "x = 1")
    execute(good, run, [])
    assert (run.dir / "01_ingest.ipynb").is_file() and not list(run.dir.glob("*.failed.*")), "the next success clears it"


def test_the_seconds_of_a_step_are_taken_after_its_pages(run, tmp_path, monkeypatch, lines):
    before = []

    def slow(out):
        before.append(Run(run.dir).manifest["seconds"]["05_evaluate"])
        time.sleep(1.2)

    monkeypatch.setattr(report, "render_index", slow)
    execute(notebook(tmp_path / "05_evaluate.ipynb", "x = 1"), run, [])
    seconds = Run(run.dir).manifest["seconds"]["05_evaluate"]
    assert seconds >= before[0] + 1.1 and f"INFO 05_evaluate finished in {seconds:.1f} s; report: " in lines[-1]


def test_a_clock_that_was_set_back_makes_no_step_older_than_what_it_follows(run, tmp_path):
    """Make would make it again each time."""
    path, later = notebook(tmp_path / "03_finetune.ipynb", "x = 1"), time.time() + 3600
    execute(notebook(tmp_path / "01_ingest.ipynb", "x = 1"), run, [])
    os.utime(run.dir / "01_ingest.ipynb", (later, later))
    execute(path, run, [])
    assert (run.dir / "03_finetune.ipynb").stat().st_mtime > later


def test_a_long_directory_for_temporary_files_and_a_home_that_cannot_be_written(run, tmp_path, monkeypatch, capfd):
    """A socket's path has 107 characters; IPython and matplotlib complain of a home that is none."""
    far = tmp_path / ("x" * 110)
    far.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(far))
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    execute(notebook(tmp_path / "01_ingest.ipynb", "import matplotlib", "import IPython"), run, [])
    said = capfd.readouterr()
    assert "Warning" not in said.err + said.out and not list(far.iterdir())


def test_a_process_whose_streams_are_closed_gives_its_children_some():
    """As some schedulers start one; a kernel could not start."""
    child = "import os; [os.fstat(k) for k in (0, 1, 2)]"
    code = "import subprocess, sys; from forecastbook import chain; chain._open_streams(); print('heard')\n"
    code += f"sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    command = [sys.executable, "-c", code]
    own = {"env": os.environ | {"PYTHONPATH": str(LIB)}, "timeout": 100}
    assert subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command], **own).returncode == 0


@pytest.mark.parametrize("most", [10_000, 50_000, 150_000])
def test_where_a_file_cannot_grow_the_step_says_so(run, tmp_path, most):
    """As on a full disk, at whatever file it happens first: no traceback of ours, and the cause is kept."""
    path, limits = notebook(tmp_path / "01_ingest.ipynb", "print('x' * 200_000)"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(StepError, match="File too large"):
            execute(path, run, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    manifest = Run(run.dir).manifest
    assert manifest["status"] == "failed" and "File too large" in manifest["failed"]["why"]
    assert not (run.dir / "01_ingest.ipynb").exists() and not list(run.dir.glob(".*part*"))
    execute(path, run, [])
    assert Run(run.dir).manifest["steps"]["01_ingest"] == "done" and not list(run.dir.glob("*.failed.*"))


def test_a_cell_that_takes_too_long(run, tmp_path):
    path = notebook(tmp_path / "01_ingest.ipynb", "import time; time.sleep(60)")
    with pytest.raises(StepError, match="longer than 2 s"):
        execute(path, run, [], timeout=2)
    failed(run, "01_ingest")


def test_children_of_a_kernel_end_with_it(run, tmp_path):
    path = notebook(
        tmp_path / "01_ingest.ipynb",
        "import subprocess\nchild = subprocess.Popen(['sleep', '300'], start_new_session=True)",
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    )
    with pytest.raises(StepError):
        execute(path, run, [])
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_runner_leaves_nothing_that_the_next_keeps(run, tmp_path):
    path = notebook(tmp_path / "01_ingest.ipynb", f"open({str(tmp_path / 'on')!r}, 'w').close()\nimport time; time.sleep(60)")
    code = f"from pathlib import Path; from forecastbook.step import execute; from forecastbook.run import Run; " \
           f"execute(Path({str(path)!r}), Run(Path({str(run.dir)!r})), [])"  # fmt: skip
    runner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (tmp_path / "on").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    runner.kill()
    runner.wait()
    assert not (run.dir / "01_ingest.ipynb").exists()
    execute(notebook(path, "x = 1"), run, [])
    assert (run.dir / "01_ingest.ipynb").is_file() and not list(run.dir.glob(".*part*"))


def test_a_notebook_that_could_not_take_its_parameters(run, tmp_path):
    with pytest.raises(StepError, match="no cell is tagged 'parameters'"):
        execute(notebook(tmp_path / "01_ingest.ipynb", tag=False), run, [])
    with pytest.raises(StepError, match="wanted 'python3'"):
        execute(notebook(tmp_path / "01_ingest.ipynb", kernel="ir"), run, [])
    assert not list(run.dir.glob("*.ipynb"))


def test_thirty_megabytes_printed_make_a_small_page(run, tmp_path):
    path = notebook(tmp_path / "01_ingest.ipynb", "print(('x' * 99 + '\\n') * 300_000)")
    execute(path, run, [])
    assert (run.dir / "01_ingest.html").stat().st_size < 1_000_000


def test_a_secret_in_the_environment_is_in_no_file(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FORECASTBOOK_TEST_SECRET", SECRET)
    execute(notebook(tmp_path / "01_ingest.ipynb", "x = 1"), run, [])
    with pytest.raises(StepError):
        execute(notebook(tmp_path / "03_finetune.ipynb", "1 / 0"), run, [])
    for path in run.home.parent.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_full_disk_keeps_the_old_files(run, tmp_path):
    """RLIMIT_FSIZE makes every write beyond it fail, as a full disk does."""
    run.write("series.parquet", pd.DataFrame({"series_id": ["a"]}))
    before = (run.dir / "series.parquet").read_bytes()
    code = (
        "import resource, signal, sys, numpy as np, pandas as pd\n"
        "from pathlib import Path; from forecastbook.run import Run, RunError\n"
        f"run = Run(Path({str(run.dir)!r})); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: run.write('series.parquet', pd.DataFrame({'x': np.random.default_rng(0).normal(size=100_000)}))\n"
        "except RunError as error: print(error); sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "cannot write" in done.stdout and "untouched" in done.stdout
    assert (run.dir / "series.parquet").read_bytes() == before and not list(run.dir.glob(".*part*"))


def test_a_file_changed_by_hand_is_named(run):
    run.write("series.parquet", pd.DataFrame({"series_id": ["a"]}))
    path = run.dir / "series.parquet"
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    with pytest.raises(RunError, match=r"series\.parquet.*hash mismatch"):
        run.read("series.parquet")


def test_nowhere_to_write_is_said_before_any_work(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(RunError, match="OUT="):
        chain.writable(tmp_path / "file" / "out")


def test_nothing_made_is_writable_by_everyone(run, tmp_path):
    old = os.umask(0o022)
    try:
        execute(notebook(tmp_path / "01_ingest.ipynb", "x = 1"), run, [])
    finally:
        os.umask(old)
    assert not [p for p in run.home.parent.rglob("*") if p.stat().st_mode & 0o002]


def test_two_at_once_do_not_meet(tmp_path):
    """Two runs of other dates, executed at the same moment from one directory: each has its own kernel and sockets."""
    code = (
        "import sys; from pathlib import Path; from forecastbook.step import execute; from forecastbook.run import Run; "
        "execute(Path(sys.argv[1]), Run(Path(sys.argv[2])), [])"
    )
    path = notebook(tmp_path / "01_ingest.ipynb", "x = 1")
    made = [
        runs.prepare(tmp_path / "out", "prices", dt.date(2024, 3, d), Params(), warehouse="w", fingerprint="f") for d in (1, 2)
    ]
    both = [python(code, path, run.dir, cwd=tmp_path) for run in made]
    errors = [p.communicate(timeout=150)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    assert all((run.dir / "01_ingest.ipynb").is_file() for run in made)
    assert not list(tmp_path.glob("kernel*")), "nothing is left where make runs"


def test_a_search_that_waited_leaves_a_run_that_was_finished_meanwhile_as_it_is(run, tmp_path):
    waiting = Run(run.dir)
    run.note(status="done")
    execute(notebook(tmp_path / "02_tune.ipynb", "x = 1"), waiting, [])
    assert Run(run.dir).manifest["status"] == "done"


def test_a_failure_is_told_where_its_page_cannot_be_written(run, tmp_path, lines):
    """The page is larger than the notebook: what failed first is still what is said, in the manifest and in the index too."""
    path, limits = (
        notebook(tmp_path / "01_ingest.ipynb", "print('x' * 30_000)", "1 / 0"),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(StepError, match="ZeroDivisionError"):
            execute(path, run, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line for line in lines if "01_ingest.failed.html: cannot write (File too large)" in line]
    assert "ZeroDivisionError" in Run(run.dir).manifest["failed"]["why"]
    assert "failed at 01_ingest" in (run.dir.parents[1] / "index.html").read_text()


def test_a_step_made_by_other_code_than_the_run_says_so(run, tmp_path, lines):
    run.note(commit="0123456", dirty=False)
    execute(notebook(tmp_path / "01_ingest.ipynb", "x = 1"), run, [])
    assert [line for line in lines if "01_ingest is made by other code than the run was begun with" in line]
    facts = dict(provenance.making(RunFiles(run.dir))["facts"])
    assert facts["code"] == "0123456 (clean)" and facts["code of 01 ingest"].startswith(git_state()[0])


def test_a_search_neither_reopens_nor_fails_a_finished_run(run, tmp_path):
    run.note(status="done", steps={"05_evaluate": "done"})
    run = Run(run.dir)
    execute(notebook(tmp_path / "02_tune.ipynb", "x = 1"), run, [])
    assert Run(run.dir).manifest["status"] == "done" and Run(run.dir).manifest["steps"]["02_tune"] == "done"
    with pytest.raises(StepError):
        execute(notebook(tmp_path / "02_tune.ipynb", "1 / 0"), Run(run.dir), [])
    assert Run(run.dir).manifest["status"] == "done" and not Run(run.dir).manifest.get("failed")


def test_a_winner_counts_only_from_its_own_date_on_and_not_for_a_finished_run(tmp_path):
    home = tmp_path / "prices"
    home.mkdir()
    (home / "tuned.json").write_text(json.dumps({"hyper": {"hidden_size": 32}, "as_of": "2024-03-01"}))
    before, same, after = (chain._winner(home, dt.date(2024, *day), False) for day in ((2, 29), (3, 1), (3, 2)))
    assert (before, same, after) == (None, {"hidden_size": 32}, {"hidden_size": 32})
    finished = runs.prepare(tmp_path, "prices", dt.date(2024, 3, 1), Params(), warehouse="w", fingerprint="f")
    finished.note(status="done")
    assert chain._winner(home, dt.date(2024, 3, 1), False) is None and chain._winner(home, dt.date(2024, 3, 1), True)


def test_a_dry_run_makes_nothing(tmp_path):
    import duckdb

    path = tmp_path / "shop.duckdb"
    duckdb.connect(str(path)).close()
    before = path.read_bytes()
    assert chain.foresee(Request("prices", "", tmp_path / "out", f"duckdb:{path}", [])) == (None, False)
    assert path.read_bytes() == before and not (tmp_path / "out").exists()


# --- data that no shop should have, through ingest to a published forecast ---------------------------------------------

HOSTILE = {
    "one variant": {"a": [5.0] * 80},
    "all prices constant": {f"s{i}": [3.0 + i] * 80 for i in range(8)},
    "one day of history": {f"s{i}": [3.0 + i] for i in range(8)},
    "hostile titles": {"<script>alert(1)</script>": [9.99] * 80, "=cmd|' /C calc'!A0": [1.0, 2.0] * 40, "😀" * 200: [7.0] * 80},
    "NaN, inf, zero and negative": {"a": [1.0, np.nan, np.inf, 0.0, -5.0] * 16, "b": [2.0] * 80},
    "appears late": {"old": [4.0] * 80, "new": [np.nan] * 78 + [6.0, 6.5]},
    "gone": {"here": [4.0] * 80, "left": [5.0] * 20 + [np.nan] * 60},
}


def chained(tmp_path, columns: dict[str, list], **rows) -> tuple[Run, pd.DataFrame]:
    """Ingest to publication on a CSV of these prices, in this process, by the same functions that the notebooks call."""
    from forecastbook import backtest, challenger, experts, forecasts, gate, roster, scoreboard
    from forecastbook.warehouse import connect

    parts = [
        pd.DataFrame({"id": name, "day": pd.date_range("2024-01-01", periods=len(y)), "price": y})
        for name, y in columns.items()
    ]
    frame = pd.concat(parts, ignore_index=True).dropna(subset=["price"]).assign(title=lambda f: f["id"])
    frame.to_csv(tmp_path / "prices.csv", index=False)
    tiny = {
        "source": {"kind": "file", "path": str(tmp_path / "prices.csv"),
                   "columns": {"series": "id", "ts": "day", "y": "price", "title": "title"}},
        "model": {"hidden_size": 4, "num_layers": 1, "epochs": 1, "max_steps": 3, "sequence_length": 10},
        "finetune": {"epochs": 1}, "backtest": {"origins": 3, "stride": 7},
    }  # fmt: skip
    params = Params.model_validate(tiny)
    source, store = sources.SOURCES["file"], connect(f"duckdb:{tmp_path}/w.duckdb")
    as_of = source.span(params.source, store)[1]
    run = runs.prepare(tmp_path / "out", "prices", as_of, params, warehouse=store.url, fingerprint="f")
    intake = source.read(params.source, store, as_of)
    panel = run.build(intake)
    run.keep(intake, panel, roster.roster(panel, params))
    panel, series = run.panel(), run.read("series.parquet")
    start = challenger.start(run, panel)
    model = challenger.train(start, panel, params)
    outcome = challenger.duel(panel, params, {"challenger": model, "champion": start.rival})
    verdict = challenger.settle(run, panel, start, model, outcome)
    record = gate.replay(backtest.rolling(panel, params), params)
    run.write("backtest.parquet", backtest.parts(record, backtest.judges(panel, params).ids, params))
    run.write("scores.parquet", scoreboard.score_table(run.parts("backtest.parquet"), params))
    gate.save(run, gate.decide(record, params), model=verdict, start=start.said, cold_start=start.kind == "cold")
    speaker, decided = experts.load(run.dir / "model"), gate.load(run)
    now = forecasts.now(panel, params, decided, speaker)
    forecast = forecasts.frame(now, decided, panel, params, run)
    run.write("forecast.parquet", forecast)
    forecasts.publish(run, store, forecast, series)
    assert all(ok for _, ok, _ in store.checks())
    report.render_run(run.dir)
    return run, forecast


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_prices_give_a_sound_forecast(tmp_path, name):
    run, forecast = chained(tmp_path, HOSTILE[name])
    q = forecast[["q05", "q25", "q50", "q75", "q95"]].to_numpy()
    assert len(forecast) and np.isfinite(q).all() and (q >= 0).all() and (np.diff(q, axis=1) >= 0).all()
    assert (forecast.groupby("series_id").size() == 7).all()
    series = run.read("series.parquet").set_index("series_id")
    page = (run.dir / "report.html").read_text()
    assert "<script" not in page
    if name in ("all prices constant", "one variant", "one day of history"):
        assert (forecast["q50"] == forecast["last_value"]).all() and (forecast["source"] == "naive").all()
    if name == "NaN, inf, zero and negative":
        assert set(run.read("quarantine.parquet")["reason"]) >= {"not finite"} and len(run.read("quarantine.parquet")) >= 48
    if name == "appears late":
        assert (forecast.loc[forecast["series_id"] == "new", "source"] == "naive").all() and "2 observations" in series.loc[
            "new", "why"
        ]
    if name == "gone":
        assert "left" not in set(forecast["series_id"]) and "not seen for 60 periods" in series.loc["left", "why"]


def test_an_empty_file_stops_before_training(tmp_path):
    (tmp_path / "p.csv").write_text("series_id,ts,y\n")
    params = Params.model_validate({"source": {"kind": "file", "path": str(tmp_path / "p.csv")}})
    with pytest.raises(sources.SourceError, match=r"p\.csv"):
        sources.SOURCES["file"].span(params.source, None)[1]
