"""A run: one job at one as-of date, and the directory that is its record.

Tables are written under a temporary name, synced and moved, and their SHA-256 goes into ``manifest.json``, as does that of the
model's files: a reader either finds a whole file with the content that was written, or an error that names it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forecastbook import panel as panels
from forecastbook.environment import git_state, hardware, versions
from forecastbook.files import RunError, altered, lock, lock_of, replacing, sha256, write_json
from forecastbook.intake import quiet
from forecastbook.params import Params, digest
from forecastbook.trades import SALES

log = logging.getLogger("forecastbook")
WAIT = 1800.0  # seconds to wait for another process that works on the same run
STEPS = ("01_ingest", "02_tune", "03_finetune", "04_forecast", "05_evaluate")
LEFT = {  # step of the daily chain -> files that it always leaves, which later steps and readers need
    "01_ingest": ("panel.parquet", "series.parquet", "quarantine.parquet"),
    "03_finetune": ("backtest.parquet", "scores.parquet", "model/model.json", "model/calibration.json"),
    "04_forecast": ("forecast.parquet",),
    "05_evaluate": ("report.html",),
}


class Run:
    """The directory ``<out>/<job>/<as_of>/`` with typed access to what is in it.

    Attributes: ``dir`` (Path), ``job``, ``as_of`` (date), ``params`` (Params), ``id`` (run_id), ``warehouse`` (url).
    """

    def __init__(self, directory: Path):
        self.dir = Path(directory)
        path = self.dir / "manifest.json"
        try:
            self.manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path}: not found; a run is made by `make forecast`") from None
        except ValueError as error:
            raise RunError(f"{path}: not valid JSON ({error}); remove {self.dir} and run make forecast again") from error
        try:
            self.job, self.id, self.warehouse = (self.manifest[key] for key in ("job", "run_id", "warehouse"))
            self.as_of = dt.date.fromisoformat(self.manifest["as_of"])
            for key, kind in {"status": str, "params": dict, "steps": dict, "files": dict}.items():
                if not isinstance(self.manifest[key], kind):
                    raise TypeError(key)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: holds no manifest ({error}); remove {self.dir} and run make forecast again") from error

    @functools.cached_property
    def params(self) -> Params:
        """What the run was asked for. Validated on use: a directory of an earlier version can still be compared and kept."""
        return Params.model_validate(self.manifest["params"])

    @property
    def home(self) -> Path:
        """The job's directory: all its runs and ``champion.json``."""
        return self.dir.parent

    # --- the record -------------------------------------------------------------------------------------------------

    def note(self, **entries) -> None:
        """Add entries to the manifest; a mapping is merged into the one that is there."""
        path = self.dir / "manifest.json"
        # a step and its runner both write here, and so may a notebook by hand
        with lock(self.dir.with_name(f".{self.dir.name}.manifest.lock"), WAIT):
            current = json.loads(path.read_text(encoding="utf-8"))
            for key, value in entries.items():
                old = current.get(key)
                current[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
            self.manifest = current
            write_json(path, current)

    def write(self, name: str, frame: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
        """Write a frame as parquet, whole or not at all, and note its hash and row count.

        A large one may come in parts of the same columns, which are then never in memory together. Each becomes a row group.
        """
        path, rows = self.dir / name, 0
        with replacing(path) as part:
            if isinstance(frame, pd.DataFrame):
                pq.write_table(_typed(pa.Table.from_pandas(frame, preserve_index=False)), part)
                rows = len(frame)
            else:
                with contextlib.ExitStack() as opened:
                    writer = None
                    for piece in frame:
                        table = pa.Table.from_pandas(piece, preserve_index=False)
                        writer = writer or opened.enter_context(pq.ParquetWriter(part, table.schema))
                        writer.write_table(table, row_group_size=max(len(piece), 1))
                        rows += len(piece)
        self.note(files={name: sha256(path)}, rows={name.removesuffix(".parquet"): rows})

    def read(self, name: str, where=None) -> pd.DataFrame:
        """Read what an earlier step wrote; ``where``: only some rows, [(column, "==", value)].

        Raises RunError when it is missing or is not what was written.
        """
        self.verify(name)
        frame = pd.read_parquet(self.dir / name, filters=where)
        pa.default_memory_pool().release_unused()  # Arrow keeps what it has freed; what comes next will want it
        return frame

    def parts(self, name: str) -> Iterator[pd.DataFrame]:
        """The same, part by part as it was written, for what is too large to hold."""
        self.verify(name)
        with pq.ParquetFile(self.dir / name) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group).to_pandas(split_blocks=True, self_destruct=True)

    def verify(self, name: str) -> None:
        """Raise RunError, naming the file, unless ``name`` holds the bytes that its step wrote."""
        path, noted = self.dir / name, self.manifest.get("files", {}).get(name)
        if not path.is_file():
            raise RunError(f"{path}: not found; the step that writes it has not run, run make forecast")
        if why := altered(path, noted):
            raise RunError(f"{path}: {why}")

    def complete(self, intake):
        """The intake with a 0 for each period without a sale (see ``complete``), as of this run's date."""
        return complete(intake, self.params, self.as_of)

    def build(self, intake) -> panels.Panel:
        """The panel of an intake (see ``build``), as of this run's date."""
        return build(intake, self.params, self.as_of)

    def panel(self) -> panels.Panel:
        """The panel of this run, from the files that ingest wrote: what was known at the as-of date."""
        series, source = self.read("series.parquet").set_index("series_id"), self.params.source
        tables = []
        for name in ("panel.parquet", *(["future.parquet"] if source.future else [])):
            self.verify(name)
            tables.append(pq.read_table(self.dir / name))
        table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
        del tables
        frame = table.to_pandas(date_as_object=False, ignore_metadata=True, self_destruct=True)
        del table
        for name in ("title", *source.static):
            frame[name] = frame["series_id"].map(series[name])
        panel = panels.build(frame, self.params.freq, self.as_of, **_covariates(self.params))
        del frame
        pa.default_memory_pool().release_unused()
        return panel

    def keep(self, intake, panel: panels.Panel, roster: pd.DataFrame) -> None:
        """Write what ingest found: ``panel.parquet``, ``series.parquet`` and ``quarantine.parquet``.

        The panel holds observed rows and rows that say "not available", up to the as-of date; values known ahead go to
        ``future.parquet``. Raises RunError when no series is left to forecast: before anything is trained.
        """
        if (roster["source"] == "excluded").all():
            why = roster["why"].mode().iloc[0]
            raise RunError(f"{self.job}: no series can be forecast as of {self.as_of}, most often because: {why}")
        text = ["title", *panel.static_names]  # once a series, in series.parquet
        frame = intake.frame.drop(columns=[c for c in text if c in intake.frame])
        frame["series_id"] = frame["series_id"].astype(pd.CategoricalDtype(panel.ids))  # none for series that are not wanted
        if frame["series_id"].isna().any():
            frame = frame[frame["series_id"].notna()]
        if not _in_order(frame):
            frame = frame.sort_values(["series_id", "ts"], kind="stable")
        known = frame["ts"] <= pd.Timestamp(self.as_of)
        frame = frame.assign(ts=frame["ts"].astype(pd.ArrowDtype(pa.date32())))
        self.write("panel.parquet", frame if known.all() else frame[known])
        if panel.future_names:
            self.write("future.parquet", frame.loc[~known, ["series_id", "ts", "available", *panel.future_names]])
        self.write("series.parquet", roster)
        self.write("quarantine.parquet", intake.quarantine)

    # --- the champion -----------------------------------------------------------------------------------------------

    def champion(self) -> dict | None:
        """The model that forecast last before this as-of date: {run_id, as_of, path, why}; None when there is none.

        Only entries of earlier dates count: a run that is resumed, or made for a past date, never starts from its own future.
        """
        entries = [e for e in _champions(self.home)["history"] if e["as_of"] < self.as_of.isoformat()]
        there = [e for e in entries if (self.home / e["path"] / "model.json").is_file()]
        if entries and (newest := max(entries, key=lambda e: e["as_of"])) not in there:  # older ones may have been removed
            log.warning("the champion of %s is gone (%s): passed over", newest["as_of"], self.home / newest["path"])
        return max(there, key=lambda e: e["as_of"]) if there else None

    def crown(self, why: str, kept: dict | None = None) -> None:
        """Enter this run's model as the champion from its as-of date on. Doing it twice changes nothing.

        kept: the entry of an earlier champion that stays one, and has now met what ``make tune`` chose.
        """
        path = self.home / "champion.json"
        with lock(self.home / ".champion.lock", wait=60):
            entry = {"run_id": self.id, "as_of": self.as_of.isoformat(), "path": f"{self.dir.name}/model", "why": why}
            entry |= {key: kept[key] for key in ("run_id", "path")} if kept else {}
            entry |= {"tuned": tuned} if (tuned := self.manifest.get("tuned")) else {}
            history = [e for e in _champions(self.home)["history"] if e["as_of"] != entry["as_of"]] + [entry]
            history.sort(key=lambda e: e["as_of"])
            write_json(path, {"champion": history[-1], "history": history})


def complete(intake, params: Params, as_of: dt.date):
    """What a source read; for sales with a row of 0 for each period in which nothing was sold since an item's first.

    A period without a row is no gap there: the item was on offer and nobody bought it, unless the source says otherwise.
    """
    return quiet(intake, params.freq, as_of) if params.trade is SALES else intake


def build(intake, params: Params, as_of: dt.date) -> panels.Panel:
    """The panel of what a source read, with its covariates; at most ``max_series`` series. Raises as ``panel.build``."""
    if params.max_series is None:
        return intake.panel(params.freq, as_of, **_covariates(params))
    frame = intake.frame
    first = sorted(frame["series_id"].unique())[: params.max_series]
    return panels.build(frame[frame["series_id"].isin(first)], params.freq, as_of, **_covariates(params))


def _covariates(params: Params) -> dict:
    """What a panel of the job holds beside its values, and how far ahead; no past column that nobody reads."""
    source, unread = params.source, params.unread
    past = [name for name in source.past if name not in unread]
    return {"past": past, "future": source.future, "static": source.static, "horizon": params.horizon}


def _typed(table: pa.Table) -> pa.Table:
    """The same with columns that hold nothing as text: other programs can then read the files of several runs as one table."""
    fields = [pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def _in_order(frame: pd.DataFrame) -> bool:
    """Whether the rows of a long frame with categorical ids are sorted by series and day, as sources return them."""
    series, ts = frame["series_id"].cat.codes.to_numpy(), frame["ts"].to_numpy()
    return bool(((series[1:] > series[:-1]) | ((series[1:] == series[:-1]) & (ts[1:] >= ts[:-1]))).all())


def _champions(home: Path) -> dict:
    path = home / "champion.json"
    if not path.is_file():
        return {"history": []}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all({"as_of", "path", "run_id"} <= set(entry) for entry in found["history"]):
            return found
        raise KeyError("run_id")
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: holds no champions ({error!r}); mend it, or remove it to start from none") from error


# --- making and finding a run ---------------------------------------------------------------------------------------


def prepare(
    out: Path,
    job: str,
    as_of: dt.date,
    params: Params,
    *,
    warehouse: str,
    fingerprint: str,
    force: bool = False,
    tuned: dict | None = None,
) -> Run:
    """Make the directory of a run, or find it again with the same run id.

    A run that was not finished takes up new inputs from the first step. A finished one is never rewritten: when its params,
    data or warehouse are not what they were, RunError says what changed; with ``force`` the old directory is kept under a name
    with the last part of its id and a new run starts. tuned: the hyperparameters in ``params`` that a tuning chose, for the
    record.
    """
    directory = Path(out) / job / as_of.isoformat()
    wanted = _wanted(params, warehouse, fingerprint)
    if not _changed(directory, wanted):
        return Run(directory)
    with lock(lock_of(directory), WAIT):
        if changed := _changed(directory, wanted):
            if changed != NEW:
                _make_room(Run(directory), changed, force)
            else:  # what is left of a run without its manifest says nothing
                again(directory, STEPS)
            _begin(directory, job, as_of, params, wanted, tuned)
    return Run(directory)


def differs(directory: Path, params: Params, *, warehouse: str, fingerprint: str) -> bool:
    """Whether ``prepare`` would not find a run there that was made with these inputs."""
    return bool(_changed(directory, _wanted(params, warehouse, fingerprint)))


def _wanted(params: Params, warehouse: str, fingerprint: str) -> dict:
    return {"params": params.model_dump(mode="json"), "fingerprint": fingerprint, "warehouse": warehouse}


NEW, DATA = ["there is no run yet"], "the data up to the as-of date"


def _changed(directory: Path, wanted: dict) -> list[str]:
    """What a run's inputs are that its directory was not made with; empty when it was made with just these."""
    if not (directory / "manifest.json").is_file():
        return NEW
    made = {name: Run(directory).manifest.get(name) for name in wanted}
    with contextlib.suppress(ValueError, TypeError):  # a key that is newer than the run had its default then
        made["params"] = Params.model_validate(made["params"]).model_dump(mode="json")
    return _changes(made, wanted)


def _make_room(run: Run, changed: list[str], force: bool) -> None:
    """An unfinished run gives up its notebooks; a finished one refuses, or is kept under another name when forced.

    A search is kept unless the data changed: it takes long, and most params are not its own.
    """
    what = "; ".join(changed)
    if run.manifest["status"] != "done":
        log.warning("inputs changed (%s): the unfinished run %s starts again", what, run.id)
        again(run.dir, [step for step in STEPS if step != "02_tune" or DATA in changed])
    elif force:
        name = f"{run.dir.name}+{run.id.rsplit('-', 1)[-1]}"
        names = itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2)))
        kept = next(run.home / each for each in names if not (run.home / each).exists())
        _follow(run, kept)
        os.replace(run.dir, kept)
        log.warning("inputs changed (%s): the finished run is kept in %s", what, kept)
    else:
        raise RunError(
            f"{run.dir} is finished and was made with other inputs: {what}. It is kept as it is. "
            "FORCE=1 makes a new run and keeps the old one; another AS_OF or OUT leaves it alone"
        )


def _follow(run: Run, kept: Path) -> None:
    """Champions of later dates that are this run's model find it in the directory that now holds it."""
    path = run.home / "champion.json"
    with lock(run.home / ".champion.lock", wait=60):
        history = _champions(run.home)["history"]
        for entry in history:
            if entry["run_id"] == run.id:
                entry["path"] = f"{kept.name}/model"
        if history:
            write_json(path, {"champion": history[-1], "history": history})


def again(directory: Path, steps: Iterable[str]) -> None:
    """Let Make make steps of a run again, and what follows them: the notebook is what says that a step is made."""
    for step in steps:
        (directory / f"{step}.ipynb").unlink(missing_ok=True)


def lacking(run: Run, step: str) -> list[str]:
    """The files of a step that are not there: those that it always leaves, and others that the manifest has of it."""
    noted = [name for name, content in run.manifest["files"].items() if content and _writer(name) == step]
    return [name for name in dict.fromkeys((*LEFT[step], *noted)) if not (run.dir / name).is_file()]


def _writer(name: str) -> str:
    """The step that writes a file which not every run has."""
    if name.startswith("model/"):
        return "03_finetune"
    return {"future.parquet": "01_ingest", "track_record.parquet": "05_evaluate"}.get(name, "")


def gone(run: Run) -> dict[str, str]:
    """Of the steps that are made and not under way, those of which a file is not there any more: step -> the file."""
    made = [step for step in LEFT if (run.dir / f"{step}.ipynb").is_file() and run.manifest["steps"].get(step) != "running"]
    return {step: names[0] for step in made if (names := lacking(run, step))}


def _begin(directory: Path, job: str, as_of: dt.date, params: Params, wanted: dict, tuned: dict | None) -> None:
    """Write the first manifest. The run id comes from what decides the numbers: job, date, params, data and commit."""
    commit, dirty = git_state()
    decides = [job, as_of.isoformat(), wanted["params"], wanted["fingerprint"], commit]
    manifest = {
        "run_id": f"{job}-{as_of:%Y%m%d}-{digest(decides)[:10]}",
        "job": job,
        "as_of": as_of.isoformat(),
        "status": "running",
        **wanted,
        "params_hash": params.hash(),
        "tuned": tuned,
        "data_hash": wanted["fingerprint"],
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "seed": params.seed,
        "hardware": hardware(),
        "rows": {},
        "seconds": {},
        "steps": {},
        "files": {},
    }
    directory.mkdir(exist_ok=True)
    write_json(directory / "manifest.json", manifest)


def _changes(old, new, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [line for k in keys for line in _changes(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    if old == new:
        return []
    return [DATA if key == "fingerprint" else f"{key.removeprefix('params.')}: {old!r} -> {new!r}"]
