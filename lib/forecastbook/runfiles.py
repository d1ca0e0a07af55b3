"""The files of a run, as a report reads them: what there is of its directory, however far the run came.

Nothing is demanded but a manifest. What cannot be read is a problem to show, not a reason to stop.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from markupsafe import escape

from forecastbook import points
from forecastbook.files import altered
from forecastbook.run import STEPS
from forecastbook.scores import DUST
from forecastbook.wording import labels, period_name, plain_line, span

COLUMNS = {
    "forecast": {"series_id", "ts", "horizon", "q50", "last_value"},
    "series": {"series_id"},
    "quarantine": {"reason"},
    "track_record": {"as_of", "horizon", "n", "error", "baseline_error", "size", "coverage", "complete"},
}
# the first two hold a shop's own columns
DATES = {"series": {"last_ts"}, "panel": {"ts"}, "forecast": {"ts", "origin", "as_of"}}


class RunFiles:
    """What there is of a run directory, read-only; what cannot be read is a problem to show, not a reason to stop."""

    def __init__(self, directory: Path):
        self.dir, self.problems = Path(directory), []
        self.manifest = manifest_of(self.dir)
        self.files: dict[str, pd.DataFrame | None] = {}
        self.labels: pd.Series | None = None

    def frame(self, name: str) -> pd.DataFrame | None:
        """A parquet file of the run with text ids and timestamps, or None when it is absent, empty or damaged."""
        if name not in self.files:
            path, frame = self.dir / f"{name}.parquet", None
            if path.is_file():
                try:
                    self._verify(path)
                    found = _panel(path) if name == "panel" else pd.read_parquet(path)
                    if lacking := COLUMNS.get(name, set()) - set(found.columns):
                        raise ValueError(f"it lacks the column {', '.join(sorted(lacking))}")
                    for column in DATES.get(name, DATES["forecast"]) & set(found.columns):
                        found[column] = pd.to_datetime(found[column])
                    if "series_id" in found and not isinstance(found["series_id"].dtype, pd.CategoricalDtype):
                        found["series_id"] = found["series_id"].astype(str)
                    frame = found
                except (OSError, ValueError) as error:  # pyarrow's errors are these two
                    self.problems.append(
                        {"title": f"{path.name} cannot be read", "text": plain_line(str(error), 300), "link": ""}
                    )
            self.files[name] = frame if frame is not None and len(frame) else None
        return self.files[name]

    def backtest(self) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """(what ``points.read`` keeps of backtest.parquet, the scores of all rows), read and scored piece by piece.

        Millions of rows fit: of the other models only what ``points.errors`` makes of them is kept.
        """
        path = self.dir / "backtest.parquet"
        if not path.is_file():
            return None, None
        try:
            self._verify(path)
            kept, scored = points.read(path)
        except (OSError, ValueError, KeyError) as error:
            text = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
            self.problems.append({"title": f"{path.name} cannot be read", "text": plain_line(text, 300), "link": ""})
            return None, None
        return (kept, scored) if (scored["model"] == "published").any() else (None, None)

    def _verify(self, path: Path) -> None:
        """Raise ValueError where a file is not what its step wrote; one that the manifest does not know is taken as it is."""
        noted = (self.manifest.get("files") or {}).get(path.name)
        if noted and (why := altered(path, noted)):
            raise ValueError(why)

    @property
    def ahead(self) -> str:
        """How far ahead is forecast: '7 days', '4 weeks'."""
        params = self.manifest.get("params") or {}
        unit = period_name(str(params.get("freq") or "D"))
        return span(params["horizon"], unit) if params.get("horizon") else f"the next {unit}"

    @property
    def titles(self) -> pd.Series:
        """Title by series_id, from series.parquet, as the data have it."""
        series = self.frame("series")
        if series is None or "title" not in series:
            return pd.Series(dtype=str)
        named = series["title"].where(series["title"].notna(), series["series_id"]).astype(str)
        return pd.Series(named.to_numpy(), index=series["series_id"])

    def title(self, ids: pd.Series) -> pd.Series:
        """What the items of some ids are called (``labels``), the id itself where there is no title."""
        if self.labels is None:
            titles = self.titles.rename_axis("series_id").reset_index(name="title").drop_duplicates("series_id")
            self.labels = labels(titles["series_id"], titles["title"]).set_axis(titles["series_id"])
        return ids.map(self.labels).fillna(ids) if len(self.labels) else ids


def coming(n: int, units: str) -> str:
    """1, 'weeks' → 'next week'; 3, 'months' → 'next 3 months'."""
    return f"next {units.removesuffix('s') if n == 1 else span(n, units)}"


def dated(day, freq: str) -> str:
    """A period as a reader names it: '2025-09-01', 'the week of 24 June 2024', 'September 2025'."""
    day, unit = pd.Timestamp(day), period_name(freq)
    if unit == "months":
        return f"{day:%B %Y}"
    named = {"weeks": "the week of", "quarters": "the quarter from", "periods": "the period from"}
    return f"{named[unit]} {day:%-d %B %Y}" if unit in named else f"{day:%Y-%m-%d}"


def between(first, last, freq: str) -> str:
    """Periods from one to another: '2018-01-01 to 2018-01-07', 'the weeks of 1 to 15 July 2024', 'October to December 2025'."""
    first, last, unit = pd.Timestamp(first), pd.Timestamp(last), period_name(freq)
    if first == last:
        return dated(first, freq)
    if unit == "days":
        return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
    begins = [] if unit == "months" else [f"{first:%-d}"]
    if first.year != last.year:
        begins.append(f"{first:%B %Y}")
    elif unit == "months" or first.month != last.month:
        begins.append(f"{first:%B}")
    named = {"weeks": "the weeks of ", "quarters": "the quarters from ", "periods": "the periods from "}
    return f"{named.get(unit, '')}{' '.join(begins)} to {last:{'%B %Y' if unit == 'months' else '%-d %B %Y'}}"


def _far(values: dict, model: str, metric: str) -> bool:
    """Whether a model's score differs from that of what is published by more than a widened band would make of it."""
    mine, theirs = (values.get((m, metric), 0.0) for m in ("published", model))
    return abs(mine - theirs) > 0.0005 * abs(theirs) + DUST


def _panel(path: Path) -> pd.DataFrame:
    """The observations of a panel: series_id as categories, ts, y, available where it says so. Its days never become Python
    objects: there are millions."""
    wanted = ["series_id", "ts", "y", *({"available"} & set(pq.read_schema(path).names))]
    table = pq.read_table(path, columns=wanted, read_dictionary=["series_id"])
    return table.to_pandas(date_as_object=False, ignore_metadata=True)


def manifest_of(directory: Path) -> dict:
    """What a run's manifest.json says. Raises FileNotFoundError or ValueError, naming the file, when it cannot be read."""
    path = directory / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not found, so this is not a run directory") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    parts = ("params", "steps", "files", "gate", "receipt", "counts", "seconds", "versions", "hardware")
    for name, part in (("it", found), *((part, found.get(part)) for part in parts if isinstance(found, dict))):
        if not isinstance(part, dict | None) or found is None:
            raise ValueError(f"{path}: {name} is no mapping")
    if not isinstance(found.get("alarms"), list | None):
        raise ValueError(f"{path}: alarms is no list")
    return found


def state_of(manifest: dict, directory: Path) -> tuple[str, str]:
    """(words, tone) of a run's state: done, failed at a step, part of it, running."""
    steps = manifest.get("steps") or {}
    failed = next((s for s, v in steps.items() if v == "failed"), None)
    failed = failed or next((p.name.split(".")[0] for p in sorted(directory.glob("[0-9][0-9]_*.failed.ipynb"))), None)
    status = manifest.get("status", "unknown")
    if status == "failed" or (failed and status != "done"):
        return f"failed at {failed}" if failed else "failed", "bad"
    if status == "done":
        return "done", "good"
    done = [s for s, v in steps.items() if v == "done"]
    return (f"running, {len(done)} of {len(STEPS) - 1} steps done" if status == "running" else f"part ({status})"), "watch"


def superseded_by(name: str) -> str:
    """How the report of a superseded run begins to say which one took its place: ``name`` is the directory of that one."""
    return f'Superseded by run <a href="../{escape(name)}/report.html">'


def successor(run: RunFiles) -> dict | None:
    """The manifest of the run that took the place of a superseded one, {} where it cannot be read; None for one that stands."""
    if "+" not in run.dir.name:
        return None
    with contextlib.suppress(ValueError, OSError):
        return manifest_of(run.dir.with_name(run.dir.name.split("+")[0]))
    return {}


def previous(run: RunFiles) -> RunFiles | None:
    """The finished run of the same job with the latest as-of before this one; superseded copies do not count."""
    found = []
    for path in run.dir.parent.glob("*/manifest.json"):
        if "+" in path.parent.name or path.parent == run.dir:
            continue
        with contextlib.suppress(ValueError, OSError):
            manifest = manifest_of(path.parent)
            if manifest.get("status") == "done" and str(manifest.get("as_of")) < str(run.manifest.get("as_of")):
                found.append((str(manifest["as_of"]), path.parent))
    return RunFiles(max(found)[1]) if found else None


def scores_of(directory: Path) -> dict[str, float]:
    """Error, skill against the best baseline and coverage of the published forecast, from scores.parquet; what there is.

    A baseline all of whose scores are those of what is published is what is published: it is not compared with.

    Raises ValueError, naming the file, when it cannot be read.
    """
    path = directory / "scores.parquet"
    if not path.is_file():
        return {}
    try:
        scores = pd.read_parquet(path)
        sold = scores[(scores["slice"] == "nonzero") & (scores["metric"] == "coverage90")]  # of sales: a zero proves little
        scores = pd.concat([scores[scores["slice"] == "all"], sold])
        values = {(r.model, r.metric): float(r.value) for r in scores.itertuples()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from error
    sales = ("published", "bias") in values
    wanted = (("error", "wql" if sales else "rel_mae"), ("inside90", "coverage90"))
    found = {label: values.get(("published", metric)) for label, metric in wanted}
    alike = ("rel_ql", "rel_mae", "coverage90")
    others = {m for m, _ in values if m not in points.OURS and any(_far(values, m, metric) for metric in alike)}
    bases = [values[m, "rel_ql"] for m in sorted(others) if values.get((m, "rel_ql"), 0) > DUST]
    if bases and ("published", "rel_ql") in values:
        found["skill"] = 1 - values["published", "rel_ql"] / min(bases)
    return {k: v for k, v in found.items() if v is not None}
