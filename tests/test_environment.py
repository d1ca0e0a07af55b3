"""What is written twice is held together here: lock, environment.yml, pyproject, Makefile, README."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, pip = environment["dependencies"]
    assert environment["name"] == "forecastbook" and environment["channels"][0] == "conda-forge"
    assert pip == {"pip": ["-r requirements.lock"]} and "pip" in plain and any(p.startswith("python=3.1") for p in plain)


def test_every_make_command_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", ".ci/run"):
        named = set(re.findall(r"\bmake(?: -n)? ([a-z]+)\b", (ROOT / page).read_text())) - {"alone", "runs"}
        assert named <= targets, f"{page} names {named - targets}"
    assert (
        set(["forecast", "setup", "test", "tune", "all", "lab", "report", "smoke", "bench", "lint", "lock", "clean", "help"])
        <= targets
    )


def test_make_alone_prints_help():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "make forecast" in done.stdout and "JOB=prices" in done.stdout


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target
