"""The chain as Make sees it: which as-of date, which run, and one notebook executed at a time.

``plan`` finds the as-of date and prepares the run directory, ``step`` executes a notebook into it, ``open`` is how a notebook
finds its run, under Make and by hand alike; ``score`` needs no run: it brings the accuracy record up to date.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import os
import signal
import sys
from pathlib import Path

from forecastbook import jobs, roster
from forecastbook import run as runs
from forecastbook.commands import ROOT, Request, arguments, connected, log_to
from forecastbook.files import RunError, lock, lock_of
from forecastbook.run import Run
from forecastbook.step import CELL_TIMEOUT, MARK, StepError, Stopped, execute
from forecastbook.wording import unread

log = logging.getLogger("forecastbook")
SHOWN = 10  # vintages that make score shows where none is new


# --- the as-of date and the run -------------------------------------------------------------------------------------


def plan(asked: Request, force: bool = False) -> Run:
    """The run that a job's params, as-of date and data ask for: made, or found again.

    An empty embedded warehouse is given the sample first. Raises the error of whatever part says no: ParamsError, SourceError,
    WarehouseError, RunError.
    """
    given, source, store = asked.given, asked.source, asked.store  # what is wrong with these is said before OUT is made
    writable(asked.out)
    date, job, home = asked.date, asked.job, asked.out / asked.job
    if not given and (old := roster.overdue(date, asked.params)) and (home / date.isoformat()).is_dir():
        log.warning("%s", old)  # a finished run reads nothing that could say so
    winner = _winner(home, date, force)
    params = asked.load(winner)
    fingerprint = source.fingerprint(params.source, store, date)
    tuned = winner if params.tune.use else None
    ledger = store.ledger().to_pylist() if params.publish.enabled else []  # a warehouse that says no says it first
    run = runs.prepare(asked.out, job, date, params, warehouse=asked.url, fingerprint=fingerprint, tuned=tuned, force=force)
    if run.manifest["status"] != "done":
        if said := unread(params.unread, params.trade.things, params.trade.reads):
            log.warning("%s", said)
    else:  # an unfinished one is told by its ingest
        for said in source.unused(params.source, store, date):
            log.warning("%s", said)
    newest = max((entry["as_of"] for entry in ledger if entry["job"] == job), default=date)
    if not given and newest > date:
        log.warning("readers are served the forecast of %s, and the source ends on %s: was a delivery withdrawn?", newest, date)
    _mend(run, source, store, ledger)
    return run


def _mend(run: Run, source, store, ledger: list[dict]) -> None:
    """Have made again what is gone from a run: files that its steps left, its place in the ledger, its rows behind that."""
    gone, receipt = runs.gone(run), run.manifest.get("receipt") or {}
    if run.manifest["status"] == "done" and receipt.get("published_at"):
        mine = (run.job, receipt["model_id"], run.as_of)
        entry = next((e for e in ledger if (e["job"], e["model_id"], e["as_of"]) == mine), None)
        if entry is None:
            gone.setdefault("04_forecast", f"its publication in {run.warehouse}")
            if source.stores_facts:  # which are gone with it
                gone.setdefault("01_ingest", f"its facts in {run.warehouse}")
        elif entry["run_id"] == run.id and store.stored(run.id, run.as_of) != entry["rows"]:
            gone.setdefault("04_forecast", f"part of its publication in {run.warehouse}")
    for step, what in gone.items():
        log.warning("%s: %s is gone, so make forecast makes %s again", run.dir, what, step)
    runs.again(run.dir, gone)


def foresee(asked: Request, force: bool = False) -> tuple[dt.date | None, bool]:
    """The as-of date of the run that ``plan`` would give, and whether it would be made anew by ``force``; nothing is written.

    The date is None where only the first run can find it, because it loads the sample into an empty warehouse. Raises what
    params, source and warehouse raise.
    """
    asked.store.looks_only = True
    if not asked.has_data:
        return asked.given, False
    date, home = asked.date, asked.out / asked.job
    if not force:  # else the data are read too
        return date, False
    params = asked.load(_winner(home, date, force))
    fingerprint = asked.source.fingerprint(params.source, asked.store, date)
    return date, runs.differs(home / date.isoformat(), params, warehouse=asked.url, fingerprint=fingerprint)


def _winner(home: Path, date: dt.date, force: bool) -> dict | None:
    """The hyperparameters that the job's last tuning chose, if it knew nothing after ``date``; None when there are none.

    A finished run keeps those it was made with: a later tuning counts from the next as-of date on, or when forced.
    """
    manifest = home / date.isoformat() / "manifest.json"
    if manifest.is_file() and not force:
        made = Run(manifest.parent).manifest
        if made["status"] == "done":
            return made.get("tuned")
    path = home / "tuned.json"
    if not path.is_file():
        return None
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        return chosen["hyper"] if chosen["as_of"] <= date.isoformat() else None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error!r}); remove it, or run make tune again") from error


def writable(out: Path) -> None:
    """Raise RunError unless files can be made in ``out``: known before any work starts."""
    probe = out / f".{os.getpid()}.probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"OUT={out}: cannot write there ({error.strerror}); give a directory that you may write to") from error


def open(step: str, job: str, as_of: str, out: str, warehouse: str, overlays: list[str]) -> Run:
    """The run a notebook works on. By hand, one that is not there is planned here, and missing earlier steps are run first."""
    directory, by_hand = Path(out) / job / as_of, not os.environ.get(MARK)
    if by_hand:
        os.chdir(ROOT)  # Jupyter starts a kernel in notebooks/; paths in params are relative to where make runs
    if by_hand and not _ready(directory, step):
        log_to(None, step)
        run = plan(Request(job, as_of, out, warehouse or f"duckdb:{out}/warehouse.duckdb", overlays))
        directory = run.dir
        with lock(lock_of(directory), runs.WAIT):  # of two notebooks opened at once the second waits
            for earlier in runs.LEFT:
                if earlier < step and runs.lacking(Run(directory), earlier):
                    execute(ROOT / "notebooks" / f"{earlier}.ipynb", run, overlays)
    run = Run(directory)
    log_to(run.dir / "run.log", step)
    return run


def _ready(directory: Path, step: str) -> bool:
    """Whether a run is there, with all that is made before a step of it."""
    there = (directory / "manifest.json").is_file()
    return there and not any(runs.lacking(Run(directory), earlier) for earlier in runs.LEFT if earlier < step)


def store(run: Run):
    """The warehouse of a run."""
    return connected(run.warehouse, run.home.parent, {"job": run.job, "run_id": run.id})


# --- the accuracy record --------------------------------------------------------------------------------------------


def score(asked: Request) -> str:
    """Score what a job has published against what its source knows at the as-of date, by default the newest one; in words.

    ForecastScore is written, and tables that lack are made, and nothing else: no run, no directory, no sample. The words are a
    table of the vintages that have something new, and what the whole record says. Raises the error of whatever part says no,
    trackrecord.ScoreError for a date that is none of the job's periods.
    """
    from forecastbook import trackrecord

    job, params, store = asked.job, asked.params, asked.store
    if not params.publish.enabled:
        return f"{job} publishes nothing (publish.enabled is false), so there is nothing to score."
    if job not in store.ledger()["job"].to_pylist():
        return f"Nothing to score: {job} has published nothing in {asked.url} yet."
    store.looks_only = True
    if not asked.has_data:
        raise trackrecord.ScoreError(
            f"{job}: the source {params.source.kind} holds no data, so there is nothing to score its forecasts by"
        )
    date, fresh = asked.date, ()
    if trackrecord.due(store, job, params, date) is not None:
        store.migrate()  # a warehouse of an earlier version may lack columns
        intake = runs.complete(asked.source.read(params.source, store, date), params, date)
        try:
            panel = runs.build(intake, params, date)
        except ValueError as error:
            raise trackrecord.ScoreError(f"{job} cannot be scored as of {date}: {error}") from error
        fresh = trackrecord.score(store, job, params, panel)["as_of"]
    known = trackrecord.record(store, job, params, date)
    if known.empty:
        return f"Nothing to score: no forecast of {job} in {asked.url} has met its actuals by {date}."
    words, wanted = f"Nothing new to score as of {date}. The newest of {job}:", sorted(set(known["as_of"]))[-SHOWN:]
    if len(fresh):
        words, wanted = f"{job}, scored as of {date}:", {day.date() for day in fresh}
    table = trackrecord.printed(trackrecord.by_vintage(known[known["as_of"].isin(wanted)]))
    return f"{words}\n{table}\n{trackrecord.summary(known)}"


# --- the command line, called by the Makefile -----------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """``plan`` prints as-of date and run id, ``step`` executes one notebook, ``score`` prints how earlier forecasts did.

    Exit 0 done, 1 failed, 2 refused, 130 and 143 stopped.
    """
    parser = argparse.ArgumentParser(prog="python -m forecastbook.chain")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("plan", "step", "score"):
        sub = commands.add_parser(name)
        arguments(sub)
        if name == "plan":
            sub.add_argument("--force", action="store_true")
            sub.add_argument("--dry", action="store_true", help="write nothing")
        elif name == "step":
            sub.add_argument("notebook", type=Path)
            sub.add_argument("--run", default="", help="the id of the run that was planned")
            sub.add_argument("--timeout", type=int, default=CELL_TIMEOUT, help="seconds a cell may take")
    args = parser.parse_args(argv)
    _open_streams()
    # jsonschema, which nbformat brings, would compile a grammar of IRIs that no notebook has: 1.5 s of every step
    sys.modules.setdefault("rfc3987_syntax", None)
    signal.signal(signal.SIGTERM, _stop)
    tuning = args.command == "step" and args.notebook.stem == "02_tune"
    again = "score" if args.command == "score" else "tune" if tuning else "forecast"
    log_to(None, args.notebook.stem if args.command == "step" else args.job)
    asked = Request(args.job, args.as_of, args.out, args.warehouse, args.params)
    try:
        if args.command == "plan":
            if args.dry:
                date, anew = foresee(asked, args.force)
                print(date or "LATEST", "anew" if anew else "")
            else:
                run = plan(asked, args.force)
                print(run.as_of, run.id)
        elif args.command == "score":
            print(score(asked))
        else:
            _step(args)
    except KeyboardInterrupt:
        log.error("interrupted; the next make %s goes on from here", again)
        return 130
    except Stopped:
        log.error("stopped; the next make %s goes on from here", again)
        return 143
    except StepError as error:
        log.error("%s", error)
        return 1
    except Exception as error:
        if type(error).__module__.split(".")[0] != "forecastbook":
            raise  # a fault of ours keeps its traceback
        for line in str(error).splitlines():
            log.error("%s", line)
        return 2
    return 0


def _step(args) -> None:
    directory = args.out / jobs.job_name(args.job) / jobs.as_of_date(args.as_of).isoformat()
    final = directory / f"{args.notebook.stem}.ipynb"
    with lock(lock_of(directory), runs.WAIT) as waited:
        if waited and final.is_file() and final.stat().st_mtime > args.notebook.stat().st_mtime:
            log.info("%s was made meanwhile by the process that was waited for", final)
            return
        run = Run(directory)
        if args.run and run.id != args.run:
            raise RunError(f"{directory} was begun again with other inputs while {args.run} was made: it is now run {run.id}")
        handler = logging.FileHandler(directory / "run.log", encoding="utf-8")
        handler.setFormatter(log.handlers[0].formatter)
        log.addHandler(handler)
        execute(args.notebook, run, args.params, args.timeout)
        if args.notebook.stem == "02_tune":
            log.info("%s", Run(directory).manifest.get("search", "the search has kept nothing"))


def _open_streams() -> None:
    """Give a process that a scheduler started with its streams closed some that lead nowhere: a kernel cannot start without."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # open may have taken this very number, for this process alone
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def _stop(signum, frame) -> None:
    logging.getLogger("asyncio").disabled = True  # what still waits for the kernel is told that it died: no news to anyone
    raise Stopped(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
