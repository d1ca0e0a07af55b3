"""One run's main report: what the forecasts are worth first, how they were made last."""

from __future__ import annotations

import contextlib
from pathlib import Path

import nbformat
from markupsafe import Markup

from forecastbook import agenda, evidence, pages, provenance, scoreboard, scorefigures, trades
from forecastbook.executed import fault
from forecastbook.runfiles import RunFiles, between, coming, dated, previous, state_of, successor, superseded_by
from forecastbook.trades import PRICES, SALES, Trade
from forecastbook.wording import period_name, plain_line, share1, the

SECTIONS = {  # anchor -> name; the order of the page
    "glance": "At a glance",
    "accuracy": "Accuracy",
    "fans": "Two best, two worst",
    "uncertainty": "Is the uncertainty honest?",
    "track": "What earlier forecasts said",
    "agenda": "Changes coming",
    "downloads": "Downloads",
    "quality": "Data quality",
    "since": "Since the last run",
    "provenance": "Provenance",
}


def render_run(directory: str | Path) -> Path:
    """Write `report.html` (and its tables as CSV) of one run from the files in its directory, and return the page's path.

    Absent files leave their section empty with a sentence that says so; a failed run says on top where and why it failed.
    Raises FileNotFoundError or ValueError when there is no readable manifest.json.
    """
    run = RunFiles(Path(directory))
    m, forecast = run.manifest, run.frame("forecast")
    params, gate = m.get("params") or {}, m.get("gate") or {}
    (state, tone), trade, freq = state_of(m, run.dir), _trade(m, forecast), str(params.get("freq") or "D")
    horizon = int(forecast["horizon"].max()) if forecast is not None and "horizon" in forecast else params.get("horizon") or 0
    backtest, scored = run.backtest()
    skill = scoreboard.skills(scored) if scored is not None else None
    head = evidence.headline(scored, skill, gate.get("use")) if scored is not None else None
    n_obs = series["n_obs"] if (series := run.frame("series")) is not None and "n_obs" in series else ()
    drawn, judged = scoreboard.drawn(n_obs), scored.loc[scored["model"] == "published", "origin"].nunique() if head else 0
    moved, due = agenda.moves(run), agenda.orders(run, backtest) if trade is SALES else None
    if trade is PRICES and moved is not None:
        due = agenda.changes(moved, horizon, freq, backtest)
    sections = {  # by their anchors
        "glance": evidence.glance(run, head, moved, trade),
        "accuracy": evidence.accuracy(scored, skill, head, freq, horizon, drawn) if head else None,
        "fans": evidence.fans(run, scored, drawn),
        "uncertainty": evidence.uncertainty(backtest, scored) if head else None,
        "track": evidence.track(run, trade, scored),
        "downloads": provenance.downloads(
            run, due["plan"] if due and trade is SALES else None, moved if trade is PRICES else None
        ),
        "quality": provenance.quality(run, trade),
        "agenda": due,
        "since": provenance.since(run, previous(run), head, trade),
        "provenance": provenance.making(run),
    }
    why = "The run did not come this far." if tone != "good" else "No forecast of the backtest has met its actuals."
    nothing = "There is no forecast to show."
    names = _names(trade, sections["fans"])
    ahead = coming(horizon, period_name(freq)) if horizon else "forecast"
    published = provenance.published(m)
    job, as_of = str(m.get("job", "")), str(m.get("as_of", ""))
    text = pages.render(
        "run.html.j2",
        title=f"{job.capitalize()} {as_of}",
        heading=f"{(m.get('params') or {}).get('title') or 'Forecast'}: {ahead}",
        subtitle=" · ".join(
            filter(
                None,
                [
                    f"Job {job}",
                    _dates(as_of, freq, forecast),
                    f"run {m.get('run_id', '')}",
                    f"published {published}" if published else state,
                ],
            )
        ),
        problems=[*_failures(run), *run.problems],
        alarms=[(alarm["title"], plain_line(alarm["text"], 600)) for alarm in m.get("alarms") or []],
        warnings=_warnings(run, state, tone, _untested(run, gate, scored, trade)),
        verdict=_verdict(run, head, trade),
        standings=evidence.standings(gate, trade, lambda n: scoreboard.origins_words(n, judged, params, n_obs)),
        missing={"accuracy": why, "fans": nothing, "forecast": nothing},
        names=names,
        agenda_first=trade is SALES,
        nav=[(name, anchor) for anchor, name in names.items() if sections[anchor] or (tone == "good" and anchor != "track")],
        done=tone == "good",
        crumbs=pages.crumbs(run.dir, "report.html"),
        **sections,
    )
    return pages.write(run.dir / "report.html", text)


def _dates(as_of: str, freq: str, forecast) -> str:
    """'As of 2017-12-31 · forecast for 2018-01-01 to 2018-01-07', 'As of May 2025 · forecast for June to August 2025'."""
    known = as_of
    with contextlib.suppress(ValueError):
        known = dated(as_of, freq) if as_of else ""
    if forecast is None or "ts" not in forecast or not len(forecast):
        return f"As of {known}"
    return f"As of {known} · forecast for {between(forecast['ts'].min(), forecast['ts'].max(), freq)}"


def _names(trade: Trade, fans: dict | None) -> dict[str, str]:
    """What each section is called, by its anchor, in the order of the page."""
    names = dict(SECTIONS)
    if trade is SALES:  # a buyer's list comes first
        names = {"glance": names["glance"], "agenda": "What to reorder"} | {k: v for k, v in names.items() if k != "agenda"}
    return names | ({"fans": fans["title"]} if fans and fans.get("title") else {})


def _superseded(run: RunFiles) -> list[Markup]:
    """Which run has taken the place of this one, with a link to its report; nothing for a run that stands."""
    if (by := successor(run)) is None:
        return []
    if not by:
        return [Markup("Superseded: this run was made anew, and is kept for the record.")]
    kept = run.dir.name.split("+")[0]
    return [Markup(superseded_by(kept)) + str(by.get("run_id", kept)) + Markup("</a>.")]


def _warnings(run: RunFiles, state: str, tone: str, untested: str) -> list[str]:
    """What is wrong with no part of the run, and yet to be known before it is read."""
    said = [*_superseded(run), *([f"This run is not finished: {state}."] if tone == "watch" else [])]
    if (gate := run.manifest.get("gate") or {}).get("cold_start"):
        said.append(str(gate.get("start") or "Cold start: there was no model to start from."))
    if run.manifest.get("dirty"):
        said.append("The code had uncommitted changes when this ran: the commit below does not fully describe it.")
    return [*said, untested] if untested else said


def _trade(manifest: dict, forecast) -> Trade:
    """The trade of a run: its forecasts say, else its params."""
    name = ((manifest.get("params") or {}).get("model") or {}).get("name")
    return trades.of(forecast.columns) if forecast is not None else trades.TRADES.get(name, PRICES)


def _untested(run: RunFiles, gate: dict, scored, trade: Trade) -> str:
    """What to know of a forecast of which nothing could be checked on the past; empty where something was."""
    if scored is not None or run.frame("forecast") is None or gate.get("origins") or not gate.get("use"):
        return ""
    use = gate["use"]
    rest = trade.safe_words if use == trade.safe else the([use])
    return (
        "No past forecast could be checked: the history is too short for it. The bands and chances below rest on nothing but "
        f"{rest}, and a band without width does not promise that nothing moves."
    )


def _failures(run: RunFiles) -> list[dict]:
    """What failed, with its error line: a banner, or none."""
    words, tone = state_of(run.manifest, run.dir)
    if tone != "bad":
        return []
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
    return [{"title": f"This run {words}", "text": plain_line(text), "link": link}]


def _verdict(run: RunFiles, head: dict | None, trade: Trade) -> str:
    """What the gate said; without a word from it, what the skill says."""
    gate = run.manifest.get("gate") or {}
    said, held = str(gate.get("verdict") or "").strip(), evidence.rival(gate, trade)
    if said and head and head["against"] and not head["calm"] and abs(head["skill"]) >= 0.0005:  # nor is a NaN
        side, best = "lower" if head["skill"] > 0 else "higher", "best other" if head["itself"] else "best"
        gain = f"{share1(abs(head['skill']))} {side} than that of the {best} baseline, {the([head['against']])}"
        said += f" On the past dates below, the quantile score of what is published was {gain}."
        if held and held[1] != head["against"]:  # the gate also tries baselines whose point stands at the last price
            said += f" Against the strongest that the gate tried ({held[1]}) it was {share1(abs(held[0]))} "
            said += f"{'lower' if held[0] > 0 else 'higher'} on all finished origins."
        return said
    if said or not head:
        return said
    if head["low"] > 0:
        return f"The published forecast saves {share1(head['skill'])} of the error of {the([head['against']])}, beyond chance."
    if not head["against"]:
        return f"{scorefigures.STILL}." if head["still"] else "There is no baseline to compare the published forecast with."
    return f"The published forecast is not proven better than {the([head['against']])}."
