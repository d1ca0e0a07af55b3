"""One run's main report: what the forecasts are worth first, how they were made last."""

from __future__ import annotations

import contextlib
from pathlib import Path

import nbformat

from forecastbook import agenda, evidence, pages, provenance, scoreboard, scorefigures, trades
from forecastbook.executed import fault
from forecastbook.record import Record, previous, state_of
from forecastbook.trades import PRICES, SALES, Trade
from forecastbook.wording import moment, period_name, plain_line, share1, span, the

SECTIONS = [
    ("At a glance", "glance"),
    ("Accuracy", "accuracy"),
    ("Two best, two worst", "fans"),
    ("Is the uncertainty honest?", "uncertainty"),
    ("What earlier forecasts said", "track"),
    ("Changes coming", "agenda"),
    ("Downloads", "downloads"),
    ("Data quality", "quality"),
    ("Since the last run", "since"),
    ("Provenance", "provenance"),
]


def render_run(directory: str | Path) -> Path:
    """Write `report.html` (and `forecast.csv`) of one run from the files in its directory, and return the page's path.

    Absent files leave their section empty with a sentence that says so; a failed run says on top where and why it failed.
    Raises FileNotFoundError or ValueError when there is no readable manifest.json.
    """
    run = Record(Path(directory))
    m = run.manifest
    backtest, scored = run.backtest()
    skill = scoreboard.skills(scored) if scored is not None else None
    head = evidence.headline(scored, skill) if scored is not None else None
    moved = agenda.moves(run)
    forecast = run.frame("forecast")
    horizon = (m.get("params") or {}).get("horizon", "")
    horizon = int(forecast["horizon"].max()) if forecast is not None and "horizon" in forecast else horizon
    currency = str((m.get("params") or {}).get("currency") or "")
    gate, job, as_of = m.get("gate") or {}, str(m.get("job", "")), str(m.get("as_of", ""))
    warnings = (
        ["First run: there was no model to start from, so it was trained on the full history."]
        if gate.get("cold_start")
        else []
    )
    if m.get("dirty"):
        warnings.append("The code had uncommitted changes when this ran: the commit below does not fully describe it.")
    state, tone = state_of(m, run.dir)
    if tone == "watch":
        warnings.insert(0, f"This run is not finished: {state}.")
    why = "The run did not come this far." if tone != "good" else "No forecast of the backtest has met its actuals."
    freq = str((m.get("params") or {}).get("freq") or "D")
    trade = _trade(m, forecast)
    due = agenda.orders(run) if trade is SALES else None
    if trade is PRICES and moved is not None:
        due = agenda.changes(moved, horizon, currency, freq, backtest)
    if untested := _untested(run, gate, scored, trade):
        warnings.append(untested)
    sections = {
        "cards": evidence.glance(run, head, moved, trade),
        "accuracy": evidence.accuracy(scored, skill, head, freq, horizon or 0) if head else None,
        "fans": evidence.fans(run, scored),
        "uncertainty": evidence.uncertainty(backtest, scored) if head else None,
        "track": evidence.track(run, trade),
        "download": provenance.download(run),
        "quality": provenance.quality(run),
        "agenda": due,
        "since": provenance.since(run, previous(run), head),
        "provenance": provenance.making(run),
    }
    _failure(run)
    shown = {
        "glance": sections["cards"],
        "accuracy": head,
        "fans": sections["fans"],
        "uncertainty": sections["uncertainty"],
        "agenda": due,
        "downloads": sections["download"],
    }
    order = (
        SECTIONS
        if trade is PRICES
        else [SECTIONS[0], ("What to reorder", "agenda"), *(s for s in SECTIONS[1:] if s[1] != "agenda")]
    )
    nav = [(text, anchor) for text, anchor in order if tone == "good" or shown.get(anchor, True)]
    nav = [(text, anchor) for text, anchor in nav if anchor != "track" or sections["track"]]
    fans_title = (sections["fans"] or {}).get("title") or dict((anchor, text) for text, anchor in SECTIONS)["fans"]
    nav = [(fans_title if anchor == "fans" else text, anchor) for text, anchor in nav]
    ahead = f"next {span(horizon, period_name(freq))}" if horizon else "forecast"
    made = m.get("receipt", {}) or {}
    subtitle = " · ".join(
        filter(
            None,
            [
                f"As of {as_of}",
                f"run {m.get('run_id', '')}",
                f"published {moment(made['published_at'])}" if made.get("published_at") else state,
            ],
        )
    )
    text = pages.render(
        "run.html.j2",
        title=f"{job.capitalize()} {as_of}",
        heading=f"{job.replace('_', ' ').capitalize()}: {ahead}",
        subtitle=subtitle,
        problems=run.problems,
        alarms=[(alarm["title"], plain_line(alarm["text"], 600)) for alarm in run.manifest.get("alarms") or []],
        warnings=warnings,
        verdict=_verdict(run, head),
        standings=evidence.standings(gate, trade),
        missing={"accuracy": why, "fans": "There is no forecast to show.", "forecast": "There is no forecast to show."},
        sticky=forecast is not None and "p_change" in forecast,
        fans_title=fans_title,
        agenda_title=dict((anchor, text) for text, anchor in order)["agenda"],
        agenda_first=trade is SALES,
        nav=nav,
        done=tone == "good",
        crumbs=pages.crumbs(run.dir, "report.html"),
        **sections,
    )
    return pages.write(run.dir / "report.html", text)


def _trade(manifest: dict, forecast) -> Trade:
    """The trade of a run: its forecasts say, else its params."""
    name = ((manifest.get("params") or {}).get("model") or {}).get("name")
    return trades.of(forecast.columns) if forecast is not None else trades.TRADES.get(name, PRICES)


def _untested(run: Record, gate: dict, scored, trade: Trade) -> str:
    """What to know of a forecast of which nothing could be checked on the past; empty where something was."""
    if scored is not None or run.frame("forecast") is None or gate.get("origins") or not gate.get("use"):
        return ""
    use = gate["use"]
    rest = trade.safe_words if use == trade.safe else the([use])
    return (
        "No past forecast could be checked: the history is too short for it. The bands and chances below rest on nothing but "
        f"{rest}, and a band without width does not promise that nothing moves."
    )


def _failure(run: Record) -> None:
    """Put what failed and its error line on top."""
    words, tone = state_of(run.manifest, run.dir)
    if tone != "bad":
        return
    step = words.removeprefix("failed at ")
    text, link = str((run.manifest.get("failed") or {}).get("why") or ""), ""
    for path in (run.dir / f"{step}.failed.ipynb", run.dir / f"{step}.ipynb"):
        if path.is_file():
            with contextlib.suppress(ValueError, KeyError):  # a half-written notebook has no error line to show
                found = fault(nbformat.read(path, as_version=4))
                text = text or (found or {}).get("what", "")
            link = path.stem + ".html" if path.with_suffix(".html").is_file() else ""
            break
    log = run.dir / "run.log"
    if not text and log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        text = next((line for line in reversed(lines) if " ERROR " in line), "")
    run.problems.insert(0, {"title": f"This run {words}", "text": plain_line(text), "link": link})


def _verdict(run: Record, head: dict | None) -> str:
    """What the gate said; without a word from it, what the skill says."""
    said = str((run.manifest.get("gate") or {}).get("verdict") or "").strip()
    if said or not head:
        return said
    if head["low"] > 0:
        return f"The published forecast saves {share1(head['skill'])} of the error of {head['against']}, beyond chance."
    if not head["against"]:
        return f"{scorefigures.STILL}." if head["still"] else "There is no baseline to compare the published forecast with."
    return f"The published forecast is not proven better than {head['against']}."
