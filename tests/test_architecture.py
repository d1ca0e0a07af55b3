"""The drawing: who may import whom in lib/forecastbook, held against the syntax trees of the modules.

A new module needs a line in ``DRAWING``, below what it imports, and one in the module table of ARCHITECTURE.md.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT / "lib" / "forecastbook"
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in sorted(LIB.glob("[a-z]*.py"))}

# Module -> what of ours it may import. From the bottom up: a module may only import from lines above its own.
DRAWING = {
    # leaves
    "panel": "",
    "scores": "",
    "intervals": "",
    "wording": "scores",
    "schema": "",
    "cells": "panel",
    "intake": "cells panel wording",
    "sample": "",
    "facts": "intake",
    "yamlfile": "",
    "files": "",
    "environment": "",
    # what is asked for
    "trades": "scores",
    "counts": "panel",
    "tide_data": "counts panel",
    "tide_heads": "counts",
    "modelconfig": "",
    "params": "modelconfig panel trades yamlfile",
    "tide_model": "files modelconfig params tide_data tide_heads",
    "jobs": "params yamlfile",
    # where facts come from and forecasts go
    "publication": "files schema",
    "backend": "publication schema",
    "embedded": "backend publication schema",
    "cloud": "schema",
    "bigquery": "backend cloud publication schema wording",
    "warehouse": "backend bigquery embedded publication schema",
    "parsing": "intake",
    "longfile": "cells intake params parsing wording",
    "workbook": "intake",
    "shopfile": "intake workbook",
    "vinyl": "",
    "recordshop": "",
    "stock": "",
    "shoprows": "intake shopfile vinyl",
    "shop": "cells intake params recordshop shoprows stock vinyl",
    "salesfacts": "cells facts intake params parsing publication sample",
    "pricefacts": "cells facts intake params parsing sample",
    "sources": "intake longfile panel pricefacts salesfacts shop trades",
    "run": "environment files intake panel params trades",
    # models, and what they are worth
    "grid": "panel",
    "compiled": "",
    "spells": "compiled panel scores",
    "sticky": "compiled grid panel spells",
    "countingtable": "grid panel spells sticky",
    "boosting": "",
    "gbm": "boosting panel spells sticky",
    "threads": "",
    "forking": "panel spells sticky",
    "plain": "panel",
    "lstm": "files forking grid panel params plain spells sticky threads",
    "experts": "gbm grid lstm panel params spells sticky countingtable",
    "intermittent": "counts panel scores trades",
    "demand": "counts panel",
    "pooled": "boosting counts demand intervals panel",
    "tide_darts": "tide_data tide_heads tide_model",
    "tide": "counts panel params threads tide_darts tide_data tide_heads tide_model",
    "blend": "counts intervals scores",
    "salesexperts": "blend counts panel params pooled tide trades",
    "models": "counts files grid intermittent intervals lstm panel scores sticky countingtable tide trades",
    "roster": "counts intake panel params scores trades wording",
    "training": "counts experts models panel params roster salesexperts trades wording",
    "backtest": "blend countingtable counts models panel params roster scores sticky trades training",
    "bands": "backtest counts intervals params scores trades",
    "gate": "backtest bands files intervals params trades training wording",
    "challenger": "backtest files models panel params run trades training wording",
    "points": "scores trades",
    "scoreboard": "backtest counts panel params points scores trades wording",
    "forecasts": "backtest gate models panel params run trades training wording",
    "trackrecord": "counts panel params publication run scores trades wording",
    "tuning": "backtest files models panel params run training wording",
    "processes": "panel",
    "pretrain": "lstm models panel processes",
    # what a reader sees
    "style": "wording",
    "figures": "scores style trades wording",
    "scorefigures": "points scores style trades wording",
    "calibrationfigures": "points scores style trades wording",
    "tables": "wording",
    "reorder": "points tables wording",
    "salesfigures": "counts points reorder style trades wording",
    "views": "calibrationfigures figures forecasts panel params reorder roster salesfigures scoreboard tables trades wording",
    "pages": "files",
    "executed": "pages wording",
    "runfiles": "files points run scores wording",
    "agenda": "figures reorder runfiles salesfigures scores tables wording",
    "evidence": "agenda calibrationfigures figures points runfiles salesfigures scoreboard scorefigures scores tables "
    "trackrecord trades wording",
    "alarms": "intake panel params roster run runfiles trades wording",
    "provenance": "agenda counts pages points roster runfiles scores tables trades wording",
    "runpage": "agenda evidence executed pages provenance runfiles scoreboard scorefigures trades wording",
    "report": "executed files pages runfiles runpage wording",
    # the runner
    "commands": "intake jobs params sources warehouse",
    "doctor": "commands intake roster schema warehouse wording yamlfile",
    "step": "environment files report run",
    "chain": "commands files jobs roster run step trackrecord wording",
}
LAZY = {
    ("models", "lstm"),
    ("spells", "compiled"),
    ("sticky", "compiled"),
    ("models", "tide"),
    ("tide", "tide_darts"),
    ("salesexperts", "tide"),
    ("shop", "recordshop"),
    ("warehouse", "bigquery"),
    ("step", "report"),
    ("report", "runpage"),
    ("commands", "sources"),
    ("commands", "warehouse"),
    ("chain", "trackrecord"),
}
NAMED = {  # what a module names as text and does not import -> who imports it, by that name
    ("trades", "experts"): "training",
    ("trades", "salesexperts"): "training",
    ("tide_model", "tide"): "models",
}
ONLY_IN = {  # a package from outside -> the modules that may import it
    "duckdb": {"embedded"},
    "google": {"bigquery", "cloud"},
    "grpc": {"cloud"},
    "ray": {"tuning"},
    "darts": {"tide_darts"},
    "pytorch_lightning": {"tide_darts"},
    "lightning": set(),
    "onnxruntime": {"tide"},
    "lightgbm": {"boosting"},
    "numba": {"compiled"},
    "statsforecast": {"intermittent"},
    "torch": {"forking", "lstm", "plain", "tide", "threads", "tide_data", "tide_heads", "tide_darts", "tuning"},
    "openpyxl": {"recordshop", "workbook"},
    "xlrd": {"workbook"},
    "yaml": {"yamlfile"},
}
HEAVY = (
    "torch",
    "ray",
    "darts",
    "lightgbm",
    "forecastbook.boosting",
    "numba",
    "pytorch_lightning",
    "statsforecast",
    "onnxruntime",
    "openpyxl",
    "xlrd",
    "google.cloud",
    "nbformat",
    "scipy",
    "matplotlib",
)


def imports(tree: ast.AST) -> set[str]:
    """Dotted names that a tree imports, ours as 'forecastbook.<module>'; a module that is named in a string counts too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(filter(None, ["forecastbook" if node.level else "", node.module]))
            found |= {f"{source}.{alias.name}" for alias in node.names} if source == "forecastbook" else {source}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"forecastbook\.\w+", node.value):
            found.add(node.value)
    return found


def ours(tree: ast.AST) -> set[str]:
    return {name.split(".")[1] for name in imports(tree) if name.startswith("forecastbook.")} & set(MODULES)


def at_import(module: str) -> ast.Module:
    """The part of a module that runs when it is imported: all but the bodies of its functions."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

    return Strip().visit(ast.parse((LIB / f"{module}.py").read_text(encoding="utf-8")))


def test_the_drawing_has_every_module_and_no_other():
    assert set(DRAWING) == set(MODULES)


def test_the_drawing_runs_one_way():
    drawn = list(DRAWING)
    for number, (module, allowed) in enumerate(DRAWING.items()):
        assert set(allowed.split()) <= set(drawn[:number]), f"{module} imports from a line that is not above its own"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_just_what_is_drawn(module):
    named = {name for who, name in NAMED if who == module}
    by_name = {name for (_, name), who in NAMED.items() if who == module}
    assert (ours(MODULES[module]) - {module} - named) | by_name == set(DRAWING.get(module, "").split()) | by_name


@pytest.mark.parametrize("module, named", sorted(NAMED))
def test_what_is_only_named_is_imported_by_one_above_both(module, named):
    statements = [node for node in ast.walk(MODULES[module]) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node.lineno for node in statements if named in ours(node)]
    assert named in ours(MODULES[module]), "no longer named: take it out of NAMED"
    importer = NAMED[module, named]
    assert named in DRAWING[importer].split() and "importlib" in imports(MODULES[importer])
    drawn = list(DRAWING)
    assert drawn.index(importer) > max(drawn.index(module), drawn.index(named))


@pytest.mark.parametrize("module, imported", sorted(LAZY))
def test_what_is_drawn_as_lazy_is_imported_in_a_function(module, imported):
    statements = [node for node in ast.walk(at_import(module)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node.lineno for node in statements if imported in ours(node)]
    assert imported in ours(MODULES[module]), "no longer imported: take it out of LAZY"


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_from_outside_is_imported_in_one_place(package):
    users = {module for module, tree in MODULES.items() if package in {name.split(".")[0] for name in imports(tree)}}
    assert users <= ONLY_IN[package]


def test_names_are_nouns_that_one_would_search_for():
    assert not set(MODULES) & {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}


@pytest.mark.parametrize("module", ["chain", "sources", "warehouse", "report", "views", "scoreboard", "trackrecord"])
def test_nothing_heavy_is_imported_before_it_is_needed(module):
    needed = {"report": ["nbformat"], "views": ["matplotlib"]}.get(module, [])
    code = f"import sys, forecastbook.{module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(LIB.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == needed


def test_the_module_table_of_architecture_md_has_every_module_and_no_other():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)\.py` \|", text, re.M)) == set(MODULES)
