"""The warehouse: where facts come from and forecasts go.

``connect(url)`` gives a Warehouse (``backend``): a DuckDB file (``embedded``) or a BigQuery dataset (``bigquery``). What it is
declared to hold is in ``schema``, what may be published in ``publication``.
"""

from __future__ import annotations

import re
from pathlib import Path

from forecastbook.backend import Warehouse
from forecastbook.embedded import DuckDB
from forecastbook.publication import variant_ids
from forecastbook.schema import WarehouseError

__all__ = ["DuckDB", "Warehouse", "WarehouseError", "connect", "variant_ids"]


def connect(url: str, lock_wait: float = 60.0, labels: dict[str, str] | None = None) -> Warehouse:
    """The warehouse behind a url: ``duckdb:PATH`` (made when absent) or ``bigquery:PROJECT.DATASET``.

    lock_wait: seconds to wait for another process that has the DuckDB file open. labels: what jobs in BigQuery are marked with
    ({"job": ..., "run_id": ...}). Nothing is opened yet. Raises WarehouseError on any other url.
    """
    scheme, _, rest = str(url).partition(":")
    if scheme == "duckdb" and "://" in rest:
        raise WarehouseError(f"not a file: {rest!r}; wanted duckdb:PATH, a place on this machine")
    if scheme == "duckdb" and rest.strip() and rest != ":memory:":  # memory would be gone after each call
        return DuckDB(url, Path(rest).expanduser(), lock_wait)
    if scheme == "bigquery":
        if not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]\.[A-Za-z0-9_]{1,1024}", rest):
            raise WarehouseError(
                f"not a BigQuery dataset: {rest!r}; wanted bigquery:PROJECT.DATASET, a project of 6 to 30 "
                "lower-case letters, digits and hyphens, a dataset of letters, digits and underscores"
            )
        from forecastbook.bigquery import BigQuery  # lazily: its client takes a second to import

        return BigQuery(url, *rest.split("."), labels=labels)
    raise WarehouseError(f"not a warehouse: {url!r}; wanted duckdb:PATH or bigquery:PROJECT.DATASET")
