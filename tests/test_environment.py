"""What is written twice is held together: lock, environment.yml, pyproject, Makefile, README. And what runs are made with."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import LIB, python
from forecastbook.chain import ROOT

LOCK = (ROOT / "requirements.lock").read_text().splitlines()
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LOCK if "==" in line}
CORE = [
    "jupyterlab",
    "papermill",
    "nbconvert",
    "torch",
    "darts",
    "pandas",
    "matplotlib",
    "google-cloud-bigquery",
    "ray",
    "pytest",
    "nbval",
]


def test_every_line_of_the_lock_is_one_pin():
    odd = [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!_-]+", line)]
    assert not odd, "no address, no local build"
    assert len(PINS) == len(LOCK)
    assert not [name for name in PINS if name.startswith(("nvidia", "triton", "cuda"))]


def test_the_lock_is_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(text)
        assert PINS[canonicalize_name(wanted.name)] in wanted.specifier, text
    assert set(CORE) <= set(PINS) and PINS["torch"] == "2.13.0" and PINS["darts"].startswith("0.48.") and PINS["pandas"] < "3"


def test_whatever_the_package_imports_is_declared():
    named = set()
    for path in (LIB / "forecastbook").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                named.add(node.module.split(".")[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    brings = metadata.packages_distributions()
    own = {"forecastbook", "google", *sys.stdlib_module_names}  # google is a name that several packages share
    undeclared = {name for name in named - own if not {canonicalize_name(d) for d in brings[name]} & declared}
    assert not undeclared


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, pip = environment["dependencies"]
    assert environment["name"] == "forecastbook" and environment["channels"][0] == "conda-forge"
    assert (
        pip == {"pip": ["-r requirements.lock", "-e ."]} and "pip" in plain and any(p.startswith("python=3.1") for p in plain)
    )


def test_every_make_command_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", ".ci/run"):
        named = set(re.findall(r"\bmake(?: -n)? ([a-z]+)\b", (ROOT / page).read_text())) - {"alone", "runs"}
        assert named <= targets, f"{page} names {named - targets}"
    assert (
        set(["forecast", "setup", "test", "tune", "all", "lab", "report", "smoke", "bench", "lint", "lock", "clean", "help"])
        <= targets
    )


def test_every_target_can_be_planned():
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    command = ["make", "--no-print-directory", "-n", "RAY_ADDRESS=ray.example:6379"]
    for target in targets:
        done = subprocess.run([*command, target], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout, f"{target}: {done.stdout}{done.stderr}"
    assert len(targets) > 15


def test_make_alone_prints_help():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "make forecast" in done.stdout and "JOB=prices" in done.stdout


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_code_outside_a_checkout_says_no_git(tmp_path):
    shutil.copytree(LIB / "forecastbook", tmp_path / "lib" / "forecastbook", ignore=shutil.ignore_patterns("__pycache__"))
    child = python("from forecastbook import environment; print(environment.git_state())", lib=tmp_path / "lib", cwd=tmp_path)
    said, trouble = child.communicate(timeout=60)
    assert said.strip() == "('no git', None)", trouble


def test_a_checkout_gives_its_commit_and_says_when_it_is_dirty(tmp_path):
    home = tmp_path / "repo"
    shutil.copytree(LIB / "forecastbook", home / "lib" / "forecastbook", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(home), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    code = "import sys; sys.dont_write_bytecode = True; from forecastbook import environment; print(environment.git_state())"
    env = {**os.environ, "PYTHONPATH": str(home / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    (home / "params").mkdir()
    touched = [None, home / "params" / "mine.yaml", home / "lib" / "forecastbook" / "figures.py"]  # params are in the manifest
    for path, dirty in zip(touched, (False, False, True), strict=True):
        if path:
            path.write_text("changed = 1")
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
        assert said.stdout.strip() == str((commit, dirty)), said.stderr


@pytest.mark.parametrize("name", ["here", "мой  place's"])
def test_a_checkout_that_was_copied_or_moved_has_no_environment_yet(tmp_path, name):
    """Its .venv would run the code of the place that it was made in."""
    home = tmp_path / name
    (home / ".venv").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", home)
    for place, ready in ((tmp_path, False), (home, True)):
        (home / ".venv" / "ready.mk").write_text(f"READY := {place}\n")
        said = subprocess.run(["make", "-n", "report"], cwd=home, capture_output=True, text=True).stdout
        assert (".venv is not there yet" in said) != ready and (home / ".venv" / "ready.mk").is_file(), said
