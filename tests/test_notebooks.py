"""The notebooks: how they are written, and that each runs by hand on the sample data."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from forecastbook import chain

NOTEBOOKS = sorted((chain.ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path):
    nb = nbformat.read(path, as_version=4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    return nb, code, [c for c in nb.cells if c.cell_type == "markdown"]


def lines(cell) -> int:
    return len([line for line in cell.source.splitlines() if line.strip()])


def test_there_are_five():
    assert [p.stem for p in NOTEBOOKS] == list(chain.STEPS)


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
            assert i > 0 and cells[i - 1].cell_type == "markdown" or cells[i - 2].cell_type == "markdown", (
                f"no prose before {cell.source}"
            )
            assert cells[i + 1].cell_type == "markdown" or cells[i + 2].cell_type == "markdown", f"no prose after {cell.source}"


def test_parameters_are_the_same_everywhere():
    assert len({read(path)[1][0].source for path in NOTEBOOKS}) == 1


@pytest.mark.timeout(600)
def test_each_runs_by_hand_in_under_a_minute():
    """nbval executes every notebook in a kernel of its own, with its default parameters, as JupyterLab would."""
    for path in NOTEBOOKS:
        started = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--nbval-lax",
            "--nbval-cell-timeout=120",
            "-q",
            "-p",
            "no:cacheprovider",
            str(path),
        ]
        done = subprocess.run(command, cwd=chain.ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{path.name}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}"
        assert time.monotonic() - started < 90, f"{path.name} took {time.monotonic() - started:.0f} s"
