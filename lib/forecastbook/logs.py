"""Where the package's log lines go: to the console, or into a run's ``run.log``."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("forecastbook")


def log_to(path: Path | None, label: str) -> None:
    """Send the package's log lines to a file (a kernel's way) or to stderr (``path`` None)."""
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    handler = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {label} %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
