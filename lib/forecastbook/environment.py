"""What a run is made with: the commit of the code, the versions of python and its packages, the kind of machine."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    *("forecastbook", "numpy", "pandas", "scipy", "numba", "torch", "pytorch-lightning", "darts", "lightgbm", "statsforecast"),
    *("pyarrow", "duckdb", "papermill"),
)


def git_state() -> tuple[str, bool | None]:
    """(commit, dirty) of the code; ("no git", None) where it is not a git checkout.

    Params do not count, nor data that lies about: they are in the manifest.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    code = [f":(top){path}" for path in ("lib", "notebooks", "Makefile", "requirements.lock")]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20)
        status = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "no git", None
    if commit.returncode or status.returncode:
        return "no git", None
    return commit.stdout.strip(), bool(status.stdout.strip())


def versions() -> dict[str, str]:
    """Versions of python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, object]:
    """What it ran on: the machine's kind and number of usable cores; no host name."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
