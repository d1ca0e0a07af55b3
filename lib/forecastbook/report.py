"""Reports: an executed notebook, a run, or all runs, each as HTML files that open offline and stay inert.

These are the doors; behind them ``executed`` renders a notebook, ``runpage`` a run's main report, and every page is made and
written by ``pages``: whole, or the old one stays as it was. The index over all runs is made here.

    python -m forecastbook.report OUT            render every run below OUT again, and OUT/index.html
    python -m forecastbook.report OUT RUN_DIR    one run, and OUT/index.html
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from forecastbook import pages
from forecastbook.executed import render_notebook
from forecastbook.files import RunError
from forecastbook.runfiles import manifest_of, scores_of, state_of, superseded_by
from forecastbook.wording import bare_percent, counted, listed, model_name, shorten

log = logging.getLogger("forecastbook")
__all__ = ["main", "render_index", "render_notebook", "render_run"]


def render_run(directory: str | Path) -> Path:
    """Write a run's ``report.html`` and return its path; the reports of runs whose place it has taken say so from then on."""
    from forecastbook import runpage  # with all that draws: most steps render a notebook and the index

    directory, page = Path(directory), runpage.render_run(directory)
    if state_of(manifest_of(directory), directory)[1] != "good":
        return page
    said = superseded_by(directory.name)
    for old in sorted(directory.parent.glob(f"{directory.name}+*/report.html")):
        try:
            if said not in old.read_text(encoding="utf-8", errors="replace"):
                runpage.render_run(old.parent)
        except Exception as error:  # what is wrong with an old run, perhaps of an earlier version, is no fault of this one
            log.warning("%s: not rendered again (%s: %s)", old, type(error).__name__, error)
    return page


def render_index(out: str | Path) -> Path:
    """Write `index.html` over all runs below `out`, newest first, and return its path."""
    out = Path(out)
    rows = [_row(p.parent, out) for p in out.glob("*/*/manifest.json")]
    rows.sort(key=lambda r: (r["job"], r["superseded"]))
    rows.sort(key=lambda r: r["as_of"], reverse=True)
    jobs = sorted({r["job"] for r in rows})
    intro = f"{counted(len(rows), 'run')} of {listed(jobs)}{', the newest first' * (len(rows) > 1)}. " if rows else ""
    intro += "Errors are those of rolling forecasts of the past: of prices the mean error as a share of the last price, "
    intro += "of sales the weighted quantile loss; inside the band are counted all prices, and the sales above zero. "
    intro += "Skill is against the best baseline that is not itself published. "
    intro += "* marks a commit with uncommitted changes."
    text = pages.render("index.html.j2", title="Forecast book", intro=intro, rows=rows)
    return pages.write(out / "index.html", text)


def _row(directory: Path, out: Path) -> dict:
    """One line of the index, from the manifest and scores.parquet."""
    base = {
        "as_of": directory.name,
        "job": directory.parent.name,
        "error": "–",
        "skill": "–",
        "coverage": "–",
        "published": "–",
        "params": "–",
        "commit": "–",
        "pages": [],
        "report": "",
        "superseded": "+" in directory.name,
    }
    try:
        m = manifest_of(directory)
    except (ValueError, OSError) as error:
        return base | {"state": shorten(f"unreadable: {str(error).split(': ', 1)[-1]}", 60), "tone": "bad"}
    state, tone = state_of(m, directory)
    if tone == "good" and m.get("alarms"):
        state, tone = f"{state}, {counted(len(m['alarms']), 'thing')} to look at", "watch"
    gate, values = m.get("gate") or {}, {}
    try:
        values = scores_of(directory)
    except ValueError as error:
        state, tone = f"{state}; {error}", "bad"
    local = directory.relative_to(out).as_posix()
    links = [
        (p.stem.split("_", 1)[0] + (" failed" if ".failed" in p.name else ""), f"{local}/{p.name}")
        for p in sorted(directory.glob("[0-9][0-9]_*.html"))
    ]
    report = f"{local}/report.html" if (directory / "report.html").is_file() else ""
    short = {k: str(m.get(k) or "–")[:8] for k in ("params_hash", "commit")}
    return base | {
        "as_of": str(m.get("as_of", directory.name)),
        "job": str(m.get("job", directory.parent.name)),
        "state": state,
        "tone": tone,
        "error": bare_percent(values.get("error"), 2),
        "skill": bare_percent(values.get("skill") if values else gate.get("skill"), 1),
        "coverage": bare_percent(values.get("inside90"), 0),
        "report": report,
        "published": model_name(gate.get("use") or "–"),
        "params": short["params_hash"],
        "commit": short["commit"] + ("*" if m.get("dirty") else ""),
        "pages": ([("report", report)] if report else []) + links,
    }


def main(arguments: list[str]) -> int:
    """Render notebooks, report and index; a page that fails is named on stderr and does not stop the others."""
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print("usage: python -m forecastbook.report OUT [RUN_DIR]", file=sys.stderr)
        return 2
    out, failed = Path(arguments[0]), 0
    runs = [Path(arguments[1])] if len(arguments) == 2 else sorted(p.parent for p in out.glob("*/*/manifest.json"))
    work = [(render_notebook, p) for r in runs for p in sorted(r.glob("[0-9][0-9]_*.ipynb"))] + [(render_run, r) for r in runs]
    for render, path in [*work, (render_index, out)]:
        try:
            print(render(path))
        except (OSError, ValueError, RunError) as error:
            print(f"report: {error}" if str(path) in str(error) else f"report: {path}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
