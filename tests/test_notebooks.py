"""The notebooks: how they are written, and that each runs by hand on the sample data."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from markupsafe import Markup

from forecastbook import chain, challenger, figures, pages, scoreboard, tables, views, wording
from forecastbook.jobs import load
from forecastbook.run import STEPS
from test_figures import sticky_forecast, sticky_prices, words

NOTEBOOKS = sorted((chain.ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path):
    nb = nbformat.read(path, as_version=4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    return nb, code, [c for c in nb.cells if c.cell_type == "markdown"]


def lines(cell) -> int:
    return len([line for line in cell.source.splitlines() if line.strip()])


def test_there_are_five():
    assert [p.stem for p in NOTEBOOKS] == list(STEPS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_written_to_be_read(path):
    nb, code, prose = read(path)
    body = [c for c in code if "parameters" not in c.metadata.get("tags", [])]
    assert nb.metadata.kernelspec.name == "python3"
    assert len(prose) >= len(code)
    assert nb.cells[0].cell_type == "markdown" and "?" in nb.cells[0].source.splitlines()[0], "cell 1 asks the question"
    assert "parameters" in nb.cells[1].metadata.tags
    assert statistics.median(map(lines, body)) <= 4 and max(map(lines, body)) <= 12
    for cell in code:
        assert not cell.outputs and cell.execution_count is None, "outputs are stripped"
        assert not re.search(r"^\s*(def|class) |if job", cell.source, re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_prose_follows_each_figure(path):
    cells = read(path)[0].cells
    for i, cell in enumerate(cells):
        if cell.cell_type == "code" and re.search(r"(figures|views)\.", cell.source):
            assert cells[i - 1].cell_type == cells[i + 1].cell_type == "markdown", f"no prose before or after {cell.source}"


def test_parameters_are_the_same_everywhere():
    assert len({read(path)[1][0].source for path in NOTEBOOKS}) == 1


def test_items_that_share_a_title_are_told_apart_in_a_notebook():
    """In the histories of 01, the fans of 04, its agenda as a table and as a figure."""
    forecast = sticky_forecast(sticky_prices(12))
    params = load(chain.ROOT / "params" / "prices.yaml")
    panel = sticky_prices(12)
    series = pd.DataFrame({"series_id": pd.unique(panel["series_id"]), "title": "plain"})
    series = series.assign(n_obs=170, change_rate=0.1)
    drawn = views.examples(panel, series, params), views.agenda_figure(None, forecast, series, params)
    for fig in (*drawn, figures.fans(views.named(panel, series), forecast)):
        said = words(fig)
        assert re.search(r"plain \(\w+\)", said) and not re.search(r"plain(?! \()", said), fig.alt
    page = views.agenda_table(views.agenda(forecast, series, params), params)
    assert len(set(re.findall(r"plain \(\w+\)", page))) == len(series) and wording.CHANGE in page
    assert views.named(panel, series, ["v0001"])["series_id"].unique().tolist() == ["v0001"]
    fans = next(cell.source for cell in read(NOTEBOOKS[3])[1] if "figures.fans" in cell.source)
    assert "views.named" in fans and any("views.examples" in cell.source for cell in read(NOTEBOOKS[0])[1])


def test_a_notebook_reads_its_figures_in_the_words_of_its_own_trade():
    said = {topic: {views.reading(topic, params) for params in jobs().values()} for topic in views.READINGS}
    assert all(len(texts) == 2 for texts in said.values())
    code = " ".join(cell.source for path in NOTEBOOKS for cell in read(path)[1])
    assert set(re.findall(r'views\.reading\("(\w+)"', code)) == set(views.READINGS)
    scores = pd.DataFrame(columns=["model", "metric", "slice", "value", "n"])
    for params in jobs().values():
        short = re.findall(r"\b[A-Z]{3,}\b", " ".join(scoreboard.summary(scores, params.trade)))
        assert set(short) <= set(re.findall(r"\w+", views.reading("scores", params))), "every abbreviation is explained"


def jobs() -> dict:
    return {name: load(chain.ROOT / "params" / f"{name}.yaml") for name in ("prices", "sales")}


def test_who_the_rival_is_and_how_long_a_training_goes_on_is_told_as_it_is():
    prices, sales = jobs().values()
    start = challenger.Start("cold", None, "")
    assert "only the last value" in views.rival(start, prices) and "only IMAPA" in views.rival(start, sales)
    shipped = challenger.Start("shipped", None, "", rival=object())
    assert "never seen this shop" in views.rival(shipped, prices)
    later = challenger.Start("champion", None, "", Path("model"), object())
    assert "forecast last" in views.rival(later, sales) and "no champion yet" not in views.rival(later, sales)
    held = [{"step": 0, "train": None, "validation": 0.5}, {"step": 9, "train": 0.6, "validation": 0.4}]
    text = views.training(held, prices)
    assert f"not fallen for {prices.finetune.patience} epochs, or to the last epoch" in text and "marked epoch are kept" in text
    assert "all epochs count" in views.training([{"step": 9, "train": 0.6, "validation": None}], sales)
    assert "No network was trained" in views.training([], prices)


def test_only_prices_can_be_held_and_a_track_record_is_read_once_there_is_one():
    prices, sales = jobs().values()
    standings = pd.DataFrame({"candidate": ["IMAPA"], "skill": [0.0], "point held": [""]})
    assert "point held" in views.candidates(standings, prices) and "point held" not in views.candidates(standings, sales)
    none = views.track(pd.DataFrame(columns=["complete"]), pd.DataFrame(), {})
    assert "The record begins when" in none and "too kind" not in none
    some, by = pd.DataFrame({"complete": [True, False]}), pd.DataFrame({"horizon": [1], "error": [0.1]})
    assert "Hollow points" in views.track(some, by, {}) and "Hollow" not in views.track(some[:1], by, {})
    assert "the replay was too kind" in views.track(some, by, {})


def test_pages_keep_numbers_and_dates_whole():
    """No line ends between a number and its percent sign, nor within a fact of the line under the heading."""
    body = Markup("<p>64 % of <code>a</code></p>")
    page = pages.render("page.html.j2", title="t", where="Job <b> · as of 2026-01-05", body=body)
    assert "64\u00a0% of <code>" in page and "<span>as of 2026-01-05</span>" in page and "<span>Job &lt;b&gt;</span> · " in page
    shares = tables.table(pd.DataFrame({"share": [0.123]}), {"share": wording.share1})
    assert "<td>12.3\u00a0%</td>" in shares


@pytest.mark.timeout(600)
def test_each_runs_by_hand_in_under_a_minute(tmp_path):
    """nbval executes every notebook in a kernel of its own, with its default parameters, as JupyterLab would."""
    told = tmp_path / "junit.xml"
    nbval = ["--nbval-lax", "--nbval-cell-timeout=120", "-q", "-p", "no:cacheprovider", f"--junitxml={told}"]
    command = [sys.executable, "-m", "pytest", *nbval, *map(str, NOTEBOOKS)]
    done = subprocess.run(command, cwd=chain.ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-1000:]}"
    seconds = Counter()
    for cell in ElementTree.parse(told).iter("testcase"):
        seconds[cell.get("classname").split(".")[1]] += float(cell.get("time"))
    assert set(seconds) == {path.stem for path in NOTEBOOKS} and max(seconds.values()) < 60, dict(seconds)
