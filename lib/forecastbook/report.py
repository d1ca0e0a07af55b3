"""Reports: an executed notebook, a run, or all runs, each as HTML files that open offline and stay inert.

Every page is one file: no scripts, no external reference, images embedded, a content security policy that forbids the rest.
What a notebook or an item's title brings along is cleaned (nh3) or escaped (Jinja's autoescape) before it gets there. Pages are
written under a temporary name beside the target and moved, so that a full disk leaves the old page as it was.

    python -m forecastbook.report OUT            render every run below OUT again, and OUT/index.html
    python -m forecastbook.report OUT RUN_DIR    one run, and OUT/index.html
"""

from __future__ import annotations

import base64
import contextlib
import copy
import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import jinja2
import nbformat
import nh3
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup, escape

from forecastbook import figures
from forecastbook.figures import percent, signed

TEMPLATES = Path(__file__).resolve().parent / "templates"
STEPS = ("01_ingest", "02_tune", "03_finetune", "04_forecast", "05_evaluate")
TEXT_LIMIT = 100_000  # characters of one output that are shown
PAGE_LIMIT = 600_000  # characters of text outputs on one page
IMAGE_LIMIT = 2_300_000  # base64 characters of images on one page: with the rest it stays below 3 MB
BIG_MOVE = 0.05
SHOWN = ["text/html", "image/png", "image/svg+xml", "image/jpeg", "text/markdown", "text/latex", "text/plain"]  # best first
WIDGET = "application/vnd.jupyter.widget-view+json"
WORDS = {"good": "Good", "watch": "Watch", "bad": "Bad", "info": ""}


# --- tables and cards, for notebooks and pages ------------------------------------------------------------------------


class Html(str):
    """HTML that is safe already: notebooks show it, Jinja does not escape it again."""

    def __html__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<style>{INLINE}</style>{self}"

    def __repr__(self) -> str:
        return " ".join(re.sub(r"<[^>]+>", " ", self).split())[:500]


INLINE = (
    ".fb{border-collapse:collapse;font-variant-numeric:tabular-nums}.fb caption{text-align:left;color:#535b68}"
    ".fb th,.fb td{text-align:right;padding:.3em .8em}.fb .text{text-align:left}"
    ".cards{display:flex;flex-wrap:wrap;gap:12px}.card{border:1px solid #e3e6ea;border-top:4px solid #535b68;border-radius:6px;"
    "padding:10px 14px;width:150px}.card .value{font-size:1.6em;font-weight:700}.card .note{color:#535b68;font-size:.85em}"
    ".card.good{border-top-color:#009e73}.card.watch{border-top-color:#e69f00}.card.bad{border-top-color:#d55e00}"
    ".card .state{font-size:.85em;font-weight:600}"
)


def shorten(text: object, limit: int = 70) -> str:
    """One line of at most `limit` characters, for display only; control characters become spaces."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 20 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _cell(value: object, form: str | Callable | None) -> str:
    if value is None or value is pd.NaT or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if callable(form):
        return str(form(value))
    if form:
        return form.format(value) if "{" in form else format(value, form)
    if isinstance(value, (pd.Timestamp, np.datetime64)):
        return f"{pd.Timestamp(value):%Y-%m-%d}"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, (float, np.floating)) else shorten(value)


def table(frame: pd.DataFrame, formats: dict | None = None, headers: dict | None = None, caption: str = "",
          empty: str = "nothing to show", limit: int = 50, ours: Callable | None = None) -> Html:
    """A frame as an escaped HTML table, numbers right, text left and cut for display only.

    formats: column → format ('{:.2f}', '.1f') or a function of the value; headers: column → head (with its unit; default: the
    name without underscores); empty: what is said in place of a table without rows; limit: how many rows are shown; ours: a row
    (as a namedtuple) → True when it is to stand out. Objects so made show themselves in a notebook.
    """
    if not len(frame):
        return Html(f'<p class="note">{escape(empty)}</p>')
    formats, headers = formats or {}, headers or {}
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) or (callable(formats.get(c)) and formats[c] in NUMERIC) for c in frame]
    align = ["" if n else ' class="text"' for n in numeric]
    names = [escape(headers.get(c, str(c).replace("_", " "))) for c in frame]
    heads = "".join(f'<th scope="col"{a}>{name}</th>' for a, name in zip(align, names, strict=True))
    rows = []
    for row in frame.head(limit).itertuples(index=False, name="Row"):
        cells = "".join(f"<td{a}>{escape(_cell(v, formats.get(c)))}</td>" for c, v, a in zip(frame, row, align, strict=True))
        rows.append(f"<tr{' class=ours' if ours and ours(row) else ''}>{cells}</tr>")
    more = len(frame) - limit
    tail = f'<p class="tail">and {more:,} more</p>' if more > 0 else ""
    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(f'<div class="scroll" tabindex="0"><table class="fb">{head}<thead><tr>{heads}</tr></thead>'
                f"<tbody>{''.join(rows)}</tbody></table></div>{tail}")


def cards(items: Iterable[tuple]) -> Html:
    """Cards (value, label, note, state): state is good, watch, bad or info, or a pair (state, word) with a word of its own."""
    out = []
    for value, label, note, state in items:
        state, word = state if isinstance(state, tuple) else (state, WORDS.get(state, ""))
        said = f'<div class="state">{escape(word)}</div>' if word else ""
        out.append(f'<div class="card {escape(state)}"><div class="value">{escape(value)}</div>'
                   f'<div class="label">{escape(label)}</div><div class="note">{escape(note)}</div>{said}</div>')
    return Html(f'<div class="cards">{"".join(out)}</div>')


def share1(value: float) -> str:
    """0.0123 → '1.2 %'."""
    return percent(value, 1)


def share2(value: float) -> str:
    """0.0123 → '1.23 %'."""
    return percent(value, 2)


def change(value: float) -> str:
    """0.0123 → '+1.2 %'."""
    return signed(value, 1)


def in_points(value: float) -> str:
    """0.0123 → '+1.23', in percentage points."""
    return signed(value, 2).removesuffix(" %")


def _right(value: str) -> str:
    return value


NUMERIC = (percent, signed, share1, share2, change, in_points, _right)  # their columns are aligned as numbers


# --- writing --------------------------------------------------------------------------------------------------------


def _write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a whole file or leave the old one: a temporary name in the same directory, then a move."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding=encoding, newline="", errors="replace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, f"{path}: cannot write the page ({error.strerror}); the old one is untouched") from error
    finally:
        with contextlib.suppress(OSError):  # a disk that is full may also refuse this; the error above is the one to show
            part.unlink(missing_ok=True)
    return path


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    made.filters["embed"] = lambda figure: Markup(figures.embed(figure))
    return made


def _page(template: str, **context) -> str:
    css = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    base = {"css": css, "nav": (), "crumbs": (), "body": "",
            "foot": "Made by forecastbook. This page needs no network and runs no scripts."}
    return _environment().get_template(template).render(base | context)


# --- notebooks ------------------------------------------------------------------------------------------------------

TAGS = set(["a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "col", "colgroup", "dd", "del", "details", "div",
            "dl", "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li",
            "mark", "ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody",
            "td", "tfoot", "th", "thead", "tr", "tt", "u", "ul", "var"])
ATTRIBUTES = {"*": {"class"}, "a": {"href"}, "img": {"src", "alt", "width"}, "ol": {"start"},
              "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan", "scope"}}
LOCAL = re.compile(r"#[\w.-]*|(\.\./)*[\w-][\w.-]*\.(html|csv)(#[\w.-]*)?")
INLINE_IMAGE = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=\s]*")


def _attribute(tag: str, attribute: str, value: str) -> str | None:
    """Links only to this page and its siblings, images only from inside the page."""
    if attribute == "href":
        return value if LOCAL.fullmatch(value) else None
    if attribute == "src":
        return value if INLINE_IMAGE.fullmatch(value) else None
    return value


def clean(fragment: str) -> str:
    """HTML without scripts, styles, forms, handlers and references to anything outside the page."""
    return nh3.clean(fragment, tags=TAGS, attributes=ATTRIBUTES, attribute_filter=_attribute, url_schemes={"data"},
                     link_rel=None)


def terminal_text(text: str) -> str:
    """What a terminal would show in the end: of lines drawn over with carriage returns the last state, no cursor movement."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]|\x1b\][^\x07]*\x07", "", text.replace("\r\n", "\n"))
    if "\r" in text:
        text = "\n".join(next((p for p in reversed(line.split("\r")) if p.strip()), "") for line in text.split("\n"))
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]", "", text)


class _Budget:
    """How much of a notebook's outputs a page may still show."""

    def __init__(self):
        self.text, self.images = PAGE_LIMIT, IMAGE_LIMIT

    def cut(self, text: str) -> tuple[str, str]:
        """(what is shown, a note on what is not)."""
        limit = max(min(TEXT_LIMIT, self.text), 2_000)
        self.text -= min(len(text), limit)
        if len(text) <= limit:
            return text, ""
        return text[
            :limit
        ], f"Output cut: the first {limit // 1000:,} KB of {len(text) / 1e6:,.1f} MB are shown; the notebook has it all."


def _tidy(nb, budget: _Budget) -> None:
    """Fold what streams printed, cut what is too long, drop papermill's own banners; all on a copy of the notebook."""
    drop = {"papermill-error-cell-tag"}
    nb.cells = [c for c in nb.cells if not drop & set(c.metadata.get("tags", []))]
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type != "code":
            continue
        cell.metadata["anchor"] = f"cell-{number}"
        outputs = []
        for output in cell.get("outputs", []):
            last = outputs[-1] if outputs else None
            if last and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text += output.text
                continue
            if WIDGET not in output.get("data", {}):  # a live progress bar; its last state is not in the notebook
                outputs.append(output)
        shown = []
        for output in outputs:
            note = ""
            if output.output_type == "stream":
                output.text, note = budget.cut(terminal_text(output.text))
                if not output.text.strip():
                    continue
            elif output.output_type == "error":
                output.traceback, note = (lambda t: ([t[0]], t[1]))(budget.cut("\n".join(output.traceback)))
            elif not set(SHOWN) & set(output.data):
                note = f"An output of the kind {shorten(', '.join(output.data), 60)} was left out."
                output.data = {}
            else:
                for kind in ("text/html", "text/markdown", "text/plain", "text/latex"):
                    if kind in output.data and not (kind == "text/plain" and len(output.data) > 1):
                        output.data[kind], said = budget.cut(str(output.data[kind]))
                        note = note or said
                for kind in ("image/png", "image/jpeg", "image/svg+xml"):
                    if kind in output.data:
                        size = len(output.data[kind])
                        if size > budget.images:
                            del output.data[kind]
                            note = f"A picture of {size / 1e6:.1f} MB was left out to keep the page small; the notebook has it."
                        else:
                            budget.images -= size
            if output.get("data", True):
                shown.append(output)
            if note:
                shown.append(nbformat.v4.new_output("display_data", {"text/html": f'<p class="note">{escape(note)}</p>'}))
        cell.outputs = shown


def _fault(nb) -> dict | None:
    """The first error of a notebook: where it is and what it says."""
    for number, cell in enumerate(nb.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                cell.metadata["open"] = True
                said = _plain_line(f"{output.get('ename', 'Error')}: {output.get('evalue', '')}")
                return {"where": f"This notebook failed in cell {number}", "what": said, "anchor": f"cell-{number}"}
    return None


def _plain_line(text: str, limit: int = 600) -> str:
    return shorten(re.sub(r"\x1b\[[0-9;]*m", "", text), limit)


def _markdown(source: str, attachments: dict | None = None) -> str:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    attachments = attachments or {}
    source = re.sub(r"\(attachment:([^)\s]+)", lambda m: m[0] if m[1] in attachments else "(#", source)
    renderer = IPythonRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    return clean(MarkdownWithMath(renderer=renderer).render(source[:PAGE_LIMIT]))


def _python(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(source[:TEXT_LIMIT], PythonLexer(), HtmlFormatter(nowrap=True))


def _terminal(text: str) -> str:
    from nbconvert.filters.ansi import ansi2html

    return ansi2html(terminal_text(text))


def _picture(output, kind: str) -> str:
    data, meta = output.data[kind], output.get("metadata", {})
    meta = {**meta, **(meta.get(kind) or {})}
    if kind == "image/svg+xml":
        data = base64.b64encode(str(data).encode()).decode()
    elif not re.fullmatch(r"[A-Za-z0-9+/=\s]*", data):
        return '<p class="note">A picture that cannot be read was left out.</p>'
    alt = meta.get("alt") or _plain_line(str(output.data.get("text/plain", "")), 200)
    alt = "Figure without a description" if not alt or alt.startswith("<") else alt
    source = f"data:{kind};base64,{''.join(data.split())}"
    return f'<figure class="scroll" tabindex="0"><img alt="{escape(alt)}" src="{source}"></figure>'


def _kind(cell) -> str:
    tags = set(cell.metadata.get("tags", []))
    return "parameters" if tags & {"parameters", "injected-parameters"} else "code"


@cache
def _exporter():
    from nbconvert.exporters.templateexporter import TemplateExporter

    class Page(TemplateExporter):
        """Notebook → body of a page, with the templates of this package."""

        file_extension = ".html"
        output_mimetype = "text/html"
        export_from_notebook = None

    
    page = Page(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)])
    page.display_data_priority = SHOWN
    page.filters = {"clean": clean, "markdown": _markdown, "terminal": _terminal, "python": _python, "picture": _picture,
                    "kind": _kind, "prose": lambda cell: _markdown(cell.source, cell.get("attachments"))}
    return page


def _anchors(body: str) -> tuple[str, list[tuple[str, str]], str]:
    """Give headings ids; return the body, the second-level ones for the navigation, and the first first-level one as title."""
    nav, seen, title = [], set(), ""

    def name(match: re.Match) -> str:
        nonlocal title
        level, inner = match[1], match[3]
        text = html.unescape(re.sub(r"<[^>]+>", "", inner)).strip()
        slug = re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:60] or "section"
        while slug in seen:
            slug += "-"
        seen.add(slug)
        if level == "1" and not title:
            title = text
        elif level in "12":
            nav.append((shorten(text, 48), slug))
        return f'<h{level} id="{escape(slug)}"{match[2]}>{inner}</h{level}>'

    return re.sub(r"<h([1-4])([^>]*)>(.*?)</h\1>", name, body, flags=re.S), nav, title


def _crumbs(directory: Path, here: str = "") -> list[tuple[str, str]]:
    """Links to the run's other pages, from what is there."""
    pages = [("All runs", "../../index.html")] if (directory / "manifest.json").is_file() else []
    if (directory / "manifest.json").is_file() and here != "report.html":
        pages.append(("Report", "report.html"))
    for notebook in sorted(directory.glob("[0-9][0-9]_*.ipynb")):
        if re.fullmatch(r"\d\d_\w+(\.failed)?\.ipynb", notebook.name) and notebook.stem + ".html" != here:
            pages.append((notebook.stem.replace("_", " ", 1).replace(".failed", " (failed)"), notebook.stem + ".html"))
    return pages


def render_notebook(path: str | Path) -> Path:
    """Render one executed notebook to a self-contained page beside it, and return that page's path.

    Raises ValueError, naming the file, when it is not a notebook.
    """
    path = Path(path)
    try:
        nb = nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path}: not a readable notebook ({_plain_line(str(error), 160)}); run its step again") from error
    nb = copy.deepcopy(nb)
    _tidy(nb, _Budget())
    fault = _fault(nb)
    code = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    notes = []
    if code and not any(c.get("execution_count") for c in code):
        notes.append("This notebook has not been executed: it shows no results.")
    elif not fault and any(not c.get("execution_count") for c in code):
        notes.append("This notebook did not run to its end: some cells were not executed.")
    body, _ = _exporter().from_notebook_node(nb, resources={"fault": fault, "notes": notes})
    body, nav, title = _anchors(body)
    page = path.with_suffix(".html")
    crumbs = _crumbs(path.parent, page.name)
    title = shorten(title or path.stem, 100)
    return _write(page, _page("page.html.j2", title=title, body=Markup(body), nav=nav or [(title, "")], crumbs=crumbs))


# --- scores ---------------------------------------------------------------------------------------------------------


def skills(backtest: pd.DataFrame, model: str = "published", seed: int = 0, draws: int = 1000,
           level: float = 0.9) -> pd.DataFrame:
    """Skill of a model against every baseline, with an interval by block bootstrap over origins.

    backtest: the columns of backtest.parquet, or what `figures.errors` made of it. skill = 1 − rel_ql(model) / rel_ql(baseline)
    over the points that both forecast. Origins are drawn in circular blocks of about the cube root of their number, as
    neighbours in time are alike (Künsch 1989; Politis and Romano 1992). Returns baseline, skill, low, high, n_origins; low and
    high are NaN with one origin.
    """
    scored = backtest if "loss" in backtest else figures.errors(backtest)
    rng, columns = np.random.default_rng(seed), ["baseline", "skill", "low", "high", "n_origins"]
    origin, origins = pd.factorize(scored["origin"], sort=True)
    point = (pd.factorize(scored["series_id"])[0] * len(origins) + origin) * 10_000 + scored["horizon"].to_numpy()
    loss, models = scored["loss"].to_numpy(), scored["model"].to_numpy()
    mine, rows = models == model, []
    for name in sorted(set(scored["model"].unique()) - set(figures.OURS)):
        theirs = models == name
        _, i, j = np.intersect1d(point[mine], point[theirs], return_indices=True)
        at = origin[mine][i]
        sums = np.stack([np.bincount(at, loss[mine][i], len(origins)), np.bincount(at, loss[theirs][j], len(origins))], axis=1)
        sums = sums[np.bincount(at, minlength=len(origins)) > 0]  # (origins, 2)
        if not len(sums) or not sums[:, 1].sum() > 0:
            continue
        n = len(sums)
        block = max(1, round(n ** (1 / 3)))
        starts = rng.integers(0, n, (draws, -(-n // block)))
        index = ((starts[:, :, None] + np.arange(block)) % n).reshape(draws, -1)[:, :n]  # (draws, origins)
        totals = sums[index].sum(axis=1)  # (draws, 2)
        ratio = 1 - totals[totals[:, 1] > 0, 0] / totals[totals[:, 1] > 0, 1]
        low, high = np.quantile(ratio, [(1 - level) / 2, (1 + level) / 2]) if n > 1 and len(ratio) else (np.nan, np.nan)
        rows.append((str(name), 1 - sums[:, 0].sum() / sums[:, 1].sum(), low, high, n))
    return pd.DataFrame(rows, columns=columns).sort_values("skill", ignore_index=True)


def _scores(scored: pd.DataFrame) -> pd.DataFrame:
    """One row a model: error, on changed prices, quantile score, coverage; the best error first."""
    scored = scored.assign(on_changed=scored["error"].where(scored["changed"]))
    columns = [c for c in ("error", "on_changed", "loss", "inside90", "inside50") if c in scored]
    return scored.groupby("model", observed=True)[columns].mean().sort_values("error").reset_index()


# --- one run --------------------------------------------------------------------------------------------------------


COLUMNS = {"forecast": {"series_id", "ts", "horizon", "q50", "last_value"}, "series": {"series_id"}, "quarantine": {"reason"}}


class _Run:
    """What there is of a run directory, read-only; what cannot be read is a problem to show, not a reason to stop."""

    def __init__(self, directory: Path):
        self.dir, self.problems = Path(directory), []
        self.manifest = _manifest(self.dir)
        self.files: dict[str, pd.DataFrame | None] = {}

    def frame(self, name: str) -> pd.DataFrame | None:
        """A parquet file of the run with text ids and timestamps, or None when it is absent, empty or damaged."""
        if name not in self.files:
            path, frame = self.dir / f"{name}.parquet", None
            if path.is_file():
                try:
                    found = pd.read_parquet(path, columns=["series_id", "ts", "y"] if name == "panel" else None)
                    if lacking := COLUMNS.get(name, set()) - set(found.columns):
                        raise ValueError(f"it lacks the column {', '.join(sorted(lacking))}")
                    for column in {"ts", "origin", "as_of", "last_ts"} & set(found.columns):
                        found[column] = pd.to_datetime(found[column])
                    if "series_id" in found:
                        found["series_id"] = found["series_id"].astype(str)
                    frame = found
                except (OSError, ValueError) as error:  # pyarrow's errors are these two
                    self.problems.append({"title": f"{path.name} cannot be read", "text": _plain_line(str(error), 300),
                                          "link": ""})
            self.files[name] = frame if frame is not None and len(frame) else None
        return self.files[name]

    def backtest(self) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """(the published and last-value rows of backtest.parquet, the scores of all rows), read and scored piece by piece.

        Millions of rows fit: of the other models only what `figures.errors` makes of them is kept.
        """
        path = self.dir / "backtest.parquet"
        if not path.is_file():
            return None, None
        kept, scored = [], []
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 18):
                rows = batch.to_pandas()
                rows["origin"] = pd.to_datetime(rows["origin"])
                kept.append(rows[rows["model"].isin(["published", "last_value"]) & rows["y"].notna()])
                scores = figures.errors(rows).drop(columns="ts", errors="ignore")
                scored.append(scores.astype({c: "float32" for c in ("inside90", "inside50") if c in scores}))
        except (OSError, ValueError, KeyError) as error:
            text = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
            self.problems.append({"title": f"{path.name} cannot be read", "text": _plain_line(text, 300), "link": ""})
        scored = pd.concat(scored, ignore_index=True) if scored else pd.DataFrame(columns=["model"])
        if not (scored["model"] == "published").any():
            return None, None
        scored["model"], scored["series_id"] = scored["model"].astype(str), scored["series_id"].astype(str).astype("category")
        return pd.concat(kept, ignore_index=True), scored

    @property
    def titles(self) -> pd.Series:
        """Title by series_id, from series.parquet."""
        series = self.frame("series")
        if series is None or "title" not in series:
            return pd.Series(dtype=str)
        named = series["title"].where(series["title"].notna(), series["series_id"]).astype(str)
        return pd.Series(named.to_numpy(), index=series["series_id"])

    def title(self, ids: pd.Series) -> pd.Series:
        """Titles of ids, the id itself where there is none."""
        return ids.map(self.titles).fillna(ids) if len(self.titles) else ids


def _manifest(directory: Path) -> dict:
    path = directory / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not found, so this is not a run directory") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no mapping")
    return found


def _state(manifest: dict, directory: Path) -> tuple[str, str]:
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


def _failure(run: _Run) -> None:
    """Put what failed and its error line on top."""
    words, tone = _state(run.manifest, run.dir)
    if tone != "bad":
        return
    step = words.removeprefix("failed at ")
    text, link = str(run.manifest.get("error") or ""), ""
    for path in (run.dir / f"{step}.failed.ipynb", run.dir / f"{step}.ipynb"):
        if path.is_file():
            with contextlib.suppress(ValueError, KeyError):  # a half-written notebook has no error line to show
                fault = _fault(nbformat.read(path, as_version=4))
                text = text or (fault or {}).get("what", "")
            link = path.stem + ".html" if path.with_suffix(".html").is_file() else ""
            break
    log = run.dir / "run.log"
    if not text and log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        text = next((line for line in reversed(lines) if " ERROR " in line), "")
    run.problems.insert(0, {"title": f"This run {words}", "text": _plain_line(text), "link": link})


def _previous(run: _Run) -> _Run | None:
    """The finished run of the same job with the latest as-of before this one; superseded copies do not count."""
    found = []
    for path in run.dir.parent.glob("*/manifest.json"):
        if "+" in path.parent.name or path.parent == run.dir:
            continue
        with contextlib.suppress(ValueError, OSError):
            manifest = _manifest(path.parent)
            if manifest.get("status") == "done" and str(manifest.get("as_of")) < str(run.manifest.get("as_of")):
                found.append((str(manifest["as_of"]), path.parent))
    return _Run(max(found)[1]) if found else None


def _headline(scored: pd.DataFrame, skill: pd.DataFrame) -> dict:
    """The numbers that the cards, the verdict and the comparison with the last run share."""
    by = _scores(scored).set_index("model")
    base = by[~by.index.isin(figures.OURS)]
    best = skill.iloc[0] if len(skill) else None  # the lowest skill is the one against the strongest baseline
    mine = by.loc["published"] if "published" in by.index else by.iloc[0]
    return {"error": float(mine["error"]), "best_error": float(base["error"].min()) if len(base) else np.nan,
            "best": figures.name(base["error"].idxmin()) if len(base) else "", "inside90": float(mine.get("inside90", np.nan)),
            "skill": float(best["skill"]) if best is not None else np.nan, "low": float(best["low"]) if best is not None
            else np.nan, "high": float(best["high"]) if best is not None else np.nan, "against": figures.name(best["baseline"])
            if best is not None else ""}


def _band_words(held: float, promised: float = 0.9) -> tuple[str, str]:
    """(tone, words) for a band that held a share of the actuals."""
    if not np.isfinite(held):
        return "info", ""
    if held < promised - 0.1:
        return "bad", "Bad: too narrow"
    if held < promised - 0.03:
        return "watch", "Watch: somewhat narrow"
    return ("watch", "Watch: wider than promised") if held > promised + 0.08 else ("good", "Good: kept")


def _moves(run: _Run) -> pd.DataFrame | None:
    """One row an item: the last day of the horizon, its move against the last value, and its title."""
    forecast = run.frame("forecast")
    if forecast is None or not {"last_value", "q50"} <= set(forecast.columns):
        return None
    last = forecast.sort_values("horizon").groupby("series_id", observed=True).tail(1).copy()
    last["move"] = (last["q50"] / last["last_value"].where(last["last_value"] > 0) - 1).astype(float)
    last["title"] = run.title(last["series_id"])
    return last


def _cards(run: _Run, head: dict | None, moves: pd.DataFrame | None) -> Html:
    items, horizon = [], run.manifest.get("params", {}).get("horizon") or ""
    if head:
        ratio = head["error"] / head["best_error"] - 1 if head["best_error"] > 0 else 0.0
        level = ("watch", "Watch: level") if ratio <= 0.01 else ("bad", "Bad: worse")
        tone = ("good", "Good: better") if ratio < -0.001 else level
        note = f"best baseline {share2(head['best_error'])} ({head['best']})" if head["best"] else "no baseline to compare"
        items.append((share2(head["error"]), "mean error, share of the last price", note, tone))
        proof = (("good", "Good: beyond chance") if head["low"] > 0 else ("bad", "Bad: worse") if head["high"] < 0
                 else ("watch", "Watch: not proven"))
        span = (f"90 % interval {change(head['low'])} to {change(head['high'])}" if np.isfinite(head["low"])
                else "too few origins for an interval")
        items.append((change(head["skill"]), f"skill against {head['against'] or 'the baseline'}", span, proof))
        items.append((percent(head["inside90"]), "of actual prices inside the band", "promised 90 %",
                      _band_words(head["inside90"])))
    series = run.frame("series")
    if moves is not None:
        known = len(series) if series is not None else len(moves)
        out = max(known - len(moves), 0)
        simple = int((moves["source"] != "model").sum()) if "source" in moves else 0
        tone = (
            ("good", "Good: all")
            if not out
            else ("watch", "Watch: some left out")
            if out <= 0.2 * known
            else ("bad", "Bad: many left out")
        )
        items.append((f"{len(moves):,} of {known:,}", "items forecast", f"{out:,} left out, {simple:,} by the baseline", tone))
        big = int((moves["move"].abs() > BIG_MOVE).sum())
        likely = f"{int((moves['p_change'] > 0.5).sum()):,} more likely than not to change" if "p_change" in moves else ""
        items.append((f"{big:,}", f"expected to move more than 5 % in {horizon or 'the next'} days", likely, "info"))
    return cards(items) if items else Html("")


def _accuracy(scored: pd.DataFrame, skill: pd.DataFrame, head: dict) -> dict:
    models = _scores(scored).merge(skill.rename(columns={"baseline": "model"}), on="model", how="left")
    models["interval"] = [f"{change(r.low)} to {change(r.high)}" if np.isfinite(r.low) else "–" for r in models.itertuples()]
    models["label"] = [figures.name(m) for m in models["model"]]
    keep = ["label", "error", "on_changed", "loss", "inside90", "skill", "interval"]
    heads = {"label": "model", "error": "error", "on_changed": "on changed prices", "loss": "quantile score",
             "inside90": "inside 90 % band", "skill": "published saves", "interval": "90 % interval"}
    forms = {"error": share2, "on_changed": share1, "loss": share2, "inside90": percent, "skill": change, "interval": _right}
    by = scored.groupby(["horizon", "model"], observed=True)["error"].mean().unstack("model").sort_index()
    shown = [m for m in ("published", "last_value") if m in by]
    ahead = by[shown].rename(columns=figures.NAMES).reset_index()
    if len(shown) == 2:
        ahead["difference"] = by["published"].to_numpy() - by["last_value"].to_numpy()
    mine = scored[scored["model"] == "published"]
    text = (f"{len(mine):,} forecasts from {mine['origin'].nunique()} past dates, each made with what was known on its day, "
            "against what came. Error and quantile score are shares of the last price; lower is better.")
    return {
        "text": text,
        "bars": figures.accuracy(_means(scored, "model")),
        "horizon": figures.error_by_horizon(_means(scored, "horizon", "model")),
        "models": table(
            models[keep].drop(columns=[c for c in ("on_changed",) if models[c].isna().all()]),
            forms,
            heads,
            ours=lambda row: row.label == "published",
        ),
        "by_horizon": table(
            ahead,
            {c: share2 for c in ahead.columns[1:]} | {"difference": in_points},
            {
                "horizon": "days ahead",
                "published": "published error",
                "last value": "last-value error",
                "difference": "difference, points",
            },
        ),
        "skill": figures.skill(skill) if len(skill) and np.isfinite(head["low"]) else None,
    }


def _means(scored: pd.DataFrame, *by: str) -> pd.DataFrame:
    return scored.groupby(list(by), observed=True)["error"].mean().rename("value").reset_index()


def _fans(run: _Run, scored: pd.DataFrame | None) -> dict | None:
    forecast, panel = run.frame("forecast"), run.frame("panel")
    if forecast is None or panel is None:
        return None
    ids, labels = list(pd.unique(forecast["series_id"]))[:4], None
    text = "The first items; there is no backtest yet to rank them."
    if scored is not None:
        mine = scored[(scored["model"] == "published") & scored["series_id"].isin(set(forecast["series_id"]))]
        by = mine.groupby("series_id", observed=True).agg(error=("error", "mean"), changed=("changed", "sum"))
        moved = by[by["changed"] > 0]
        by = (moved if len(moved) >= 4 else by).sort_values("error", kind="stable")
        ids = list(by.index) if len(by) < 4 else [*by.index[:2], by.index[-2], by.index[-1]]
        words = ["best", "second best", "second worst", "worst"] if len(ids) == 4 else [""] * len(ids)
        labels = [f"{w}, error {share1(by.loc[i, 'error'])}".lstrip(", ") for w, i in zip(words, ids, strict=True)]
        among = " whose price moved in the backtest" if len(moved) >= 4 else ""
        text = f"The two items with the smallest and the two with the largest error, of {len(by):,}{among}."
    shown = panel[panel["series_id"].isin(ids)]
    shown = shown.assign(title=run.title(shown["series_id"]))
    return {"text": text, "figure": figures.fans(shown, forecast[forecast["series_id"].isin(ids)], ids, labels)}


def _uncertainty(backtest: pd.DataFrame, scored: pd.DataFrame) -> dict | None:
    mine = scored[scored["model"] == "published"]
    if not len(mine) or "inside90" not in mine:
        return None
    held, moved = mine["inside90"].mean(), mine.loc[mine["changed"], "inside90"].mean()
    text = f"{percent(held)} of actual prices fell inside a band that promised 90 %."
    if "inside50" in mine:
        text += f" {percent(mine['inside50'].mean())} fell inside the band that promised 50 %."
    if np.isfinite(moved):
        text += f" Where the price did change, the 90 % band held {percent(moved)}."
    groups = {"all": mine, "changed": mine[mine["changed"]], "unchanged": mine[~mine["changed"]]}
    rows = [(k, len(g), g["inside90"].mean(), g["inside50"].mean() if "inside50" in g else np.nan) for k, g in groups.items()]
    frame = pd.DataFrame(rows, columns=["prices", "forecasts", "inside90", "inside50"])
    heads = {"inside90": "inside 90 % band", "inside50": "inside 50 % band"}
    return {"text": text, "calibration": figures.calibration(backtest), "split": figures.changed_unchanged(backtest),
            "table": table(frame, {"inside90": share1, "inside50": share1}, heads)}


def _changes(moves: pd.DataFrame, horizon: int, currency: str) -> dict:
    money, unit = "{:,.2f}".format, f", {currency}" if currency else ""
    big = moves[moves["move"].abs() > BIG_MOVE].copy()
    big = big.iloc[np.argsort(-big["move"].abs().to_numpy(), kind="stable")]
    ends = {"low": "q05", "high": "q95"} if {"q05", "q95"} <= set(moves.columns) else {}
    if ends:
        big["band"] = [f"{money(a)} – {money(b)}" for a, b in zip(big["q05"], big["q95"], strict=True)]
    keep = [c for c in ("title", "last_value", "q50", "move", "band", "p_change") if c in big]
    heads = {"title": "item", "last_value": f"now{unit}", "q50": f"in {horizon} days{unit}", "move": "change",
             "band": f"90 % band{unit}", "p_change": "chance of any change"}
    forms = {"last_value": money, "q50": money, "move": change, "p_change": percent, "band": _right}
    text = f"Median forecast against the last price, largest first: {len(big):,} of {len(moves):,} items move more than 5 %."
    text = (text if len(big)
            else f"The median forecast of every one of the {len(moves):,} items stays within 5 % of its last price.")
    return {"text": text, "table": table(big[keep], forms, heads, empty="no move above 5 %", limit=20),
            "figure": figures.moves(moves) if "p_change" in moves and moves["p_change"].notna().any() else None}


def safe_csv(frame: pd.DataFrame) -> str:
    """CSV text in which no cell is a formula: text that begins like one (= + - @, tab, return) gets an apostrophe in front."""

    def inert(value: object) -> object:
        if isinstance(value, str) and (value.lstrip(" \n\u00a0\ufeff")[:1] in tuple("=+-@\t\r|＝＋－＠") and value.strip(" ")
                                       or value[:1] in "\t\r\n"):
            return "'" + value
        return value

    out = frame.copy()
    for column in out.columns:
        if not (pd.api.types.is_numeric_dtype(out[column]) or pd.api.types.is_datetime64_any_dtype(out[column])):
            out[column] = out[column].map(inert)
    out.columns = [inert(str(c)) for c in out.columns]
    return out.to_csv(index=False, lineterminator="\r\n", date_format="%Y-%m-%d")


def _download(run: _Run) -> dict | None:
    forecast = run.frame("forecast")
    if forecast is None:
        return None
    out = forecast.drop(columns=[c for c in ("run_id", "model_id", "job") if c in forecast])
    out.insert(1, "title", run.title(out["series_id"]))
    text = "\ufeff" + safe_csv(out)  # the mark tells a spreadsheet that this is UTF-8
    _write(run.dir / "forecast.csv", text)
    data = text.encode("utf-8", errors="replace")
    name = re.sub(r"[^\w.-]+", "_", f"forecast_{run.manifest.get('job')}_{run.manifest.get('as_of')}.csv")
    uri = "data:text/csv;charset=utf-8;base64," + base64.b64encode(data).decode() if len(data) < 600_000 else ""
    size = f"{len(data) / 1e6:,.1f} MB" if len(data) > 1e6 else f"{max(len(data) // 1000, 1):,} KB"
    return {"uri": uri, "file": "forecast.csv", "name": name, "size": f"{len(out):,} rows, {size}"}


def _quality(run: _Run) -> dict:
    series, quarantine, panel, forecast = (run.frame(n) for n in ("series", "quarantine", "panel", "forecast"))
    lines, tables = [], []
    as_of = pd.Timestamp(run.manifest.get("as_of"))
    if panel is not None:
        seen = panel.dropna(subset=["y"])
        span = (panel["ts"].max() - panel["ts"].min()).days + 1
        newest = seen["ts"].max()
        late = "" if newest >= as_of else f", {(as_of - newest).days} days before the as-of date"
        lines.append(f"{seen['series_id'].nunique():,} items with {len(seen):,} observed values over {span:,} days; "
                     f"the newest is of {newest:%-d %B %Y}{late}.")
    counts = {k: v for k, v in (run.manifest.get("rows") or {}).items() if isinstance(v, (int, float))}
    if counts:
        named = pd.DataFrame([(k.replace("_", " "), v) for k, v in counts.items()], columns=["what", "rows"])
        tables.append(table(named, caption="Rows in and out"))
    if series is not None and "why" in series:
        named = series.assign(source=series["source"].astype(str) if "source" in series else "",
                              why=series["why"].astype("string"))
        marked = named[named["why"].notna() & (named["why"] != "")]
        if forecast is not None:
            marked = marked.assign(source=np.where(marked["series_id"].isin(set(forecast["series_id"])), marked["source"],
                                                   "left out"))
        grouped = marked.groupby(["source", "why"], observed=True)["series_id"].agg(["size", "first"]).reset_index()
        grouped = grouped.sort_values("size", ascending=False)
        grouped["first"] = run.title(grouped["first"])
        grouped["source"] = grouped["source"].replace({"naive": "baseline", "excluded": "left out"})
        heads = {"source": "forecast by", "size": "items", "first": "for example"}
        tables.append(table(grouped, headers=heads, caption="Items left out, or forecast by the baseline, and why",
                            empty="No item was left out or handed to the baseline.", limit=15))
    stale = series[series["last_ts"] < as_of - pd.Timedelta(days=14)] if series is not None and "last_ts" in series else None
    if stale is not None and len(stale):
        lines.append(f"{len(stale):,} items have not been observed for more than 14 days.")
    if quarantine is not None:
        by = quarantine["reason"].astype(str).value_counts().rename_axis("reason").reset_index(name="rows")
        tables.append(table(by, caption=f"{len(quarantine):,} rows were set aside and not used", limit=15))
        keep = [c for c in ("file", "sheet", "row", "column", "value", "reason") if c in quarantine
                and quarantine[c].notna().any()]
        sample = quarantine[keep].assign(**({"row": quarantine["row"].astype("Int64").astype(str)} if "row" in keep else {}))
        tables.append(Html(f"<details><summary>the first of them</summary>{table(sample, limit=20)}</details>"))
    else:
        lines.append("No row was set aside: every row kept the contract.")
    return {"lines": lines, "tables": tables}


def _since(run: _Run, before: _Run | None, head: dict | None) -> dict:
    if before is None:
        return {"lines": ["This is the first finished run of the job; there is nothing to compare with."], "tables": []}
    lines, tables = [], []
    old, new = before.titles, run.titles
    if len(old) and len(new):
        fresh, gone = new.index.difference(old.index), old.index.difference(new.index)
        both = new.index.intersection(old.index)
        renamed = [i for i in both if new[i] != old[i]]
        lines.append(f"Compared with {before.manifest['as_of']}: {len(fresh):,} items are new, {len(gone):,} are gone, "
                     f"{len(renamed):,} changed their title.")
        rows = [("new", i, new[i]) for i in fresh[:10]] + [("gone", i, old[i]) for i in gone[:10]]
        rows += [("retitled", i, f"{shorten(old[i], 32)} → {shorten(new[i], 32)}") for i in renamed[:10]]
        if rows:
            tables.append(table(pd.DataFrame(rows, columns=["what", "id", "item"]), caption="Items, up to ten of each kind"))
    came = _what_came(before, run.frame("panel"))
    if came is not None and len(came):
        error, held = came["error"].mean(), came["inside90"].mean() if "inside90" in came else np.nan
        lines.append(f"Of what that run said, {len(came):,} values have come since: mean error {share2(error)}, "
                     f"{percent(held)} inside its 90 % band.")
    if head:
        was, labels = _scored(before.dir), {"error": "error / last price", "skill": "skill", "inside90": "inside 90 % band"}
        rows = [(label, was[k], head[k], head[k] - was[k]) for k, label in labels.items() if was.get(k) is not None]
        if rows:
            frame = pd.DataFrame(rows, columns=["score", "was", "is", "difference"])
            tables.append(table(frame, {"was": share2, "is": share2, "difference": in_points},
                                {"difference": "difference, points"}, caption="Backtest then and now"))
    then, now = _moves(before), _moves(run)
    if then is not None and now is not None:
        both = now.merge(then[["series_id", "last_value"]], on="series_id", suffixes=("", "_then"))
        both["moved"] = both["last_value"] / both["last_value_then"].where(both["last_value_then"] > 0) - 1
        moved = both[both["moved"].abs() > 0.005].sort_values("moved", key=lambda v: -v.abs())
        lines.append(f"{len(moved):,} of {len(both):,} prices have changed in between.")
        if len(moved):
            tables.append(
                table(
                    moved[["title", "last_value_then", "last_value", "moved"]],
                    {"last_value_then": ",.2f", "last_value": ",.2f", "moved": change},
                    {"title": "item", "last_value_then": "price then", "last_value": "price now", "moved": "change"},
                    caption="Largest changes in between",
                    limit=8,
                )
            )
    return {"lines": lines or ["The last run left nothing to compare with."], "tables": tables}


def _what_came(before: _Run, panel: pd.DataFrame | None) -> pd.DataFrame | None:
    """The last run's forecasts scored on what this run's panel has observed since."""
    forecast = before.frame("forecast")
    if forecast is None or panel is None:
        return None
    actual = panel[["series_id", "ts", "y"]]
    return figures.errors(forecast.drop(columns=["y"], errors="ignore").merge(actual, on=["series_id", "ts"]))


def _provenance(run: _Run) -> dict:
    m = run.manifest
    commit, dirty = str(m.get("commit") or "no git"), m.get("dirty")
    code = commit if commit == "no git" or dirty is None else f"{commit} ({'with uncommitted changes' if dirty else 'clean'})"
    gate, receipt = m.get("gate") or {}, m.get("receipt") or {}
    published = (f"{receipt['rows']:,} rows to {receipt.get('table')}, {receipt.get('published_at', '')}" if receipt.get("rows")
                 else "not published")
    facts = [
        ("run", m.get("run_id")),
        ("as of", m.get("as_of")),
        ("data", m.get("data_hash")),
        ("parameters", m.get("params_hash")),
        ("code", code),
        ("seed", m.get("seed")),
        ("published by", gate.get("published")),
        ("published", published),
        ("hardware", ", ".join(f"{k} {v}" for k, v in (m.get("hardware") or {}).items())),
    ]
    seconds = {k: v for k, v in (m.get("seconds") or {}).items() if isinstance(v, (int, float))}
    steps = pd.DataFrame([(k.replace("_", " ", 1), v) for k, v in seconds.items()], columns=["step", "seconds"])
    return {
        "facts": [(k, v) for k, v in facts if v not in (None, "")],
        "steps": table(steps, {"seconds": ",.1f"}, caption=f"Seconds per step, {sum(seconds.values()):,.0f} in all")
        if len(steps)
        else "",
        "params": json.dumps(m.get("params") or {}, indent=1, ensure_ascii=False, default=str),
        "versions": "\n".join(f"{k} {v}" for k, v in (m.get("versions") or {}).items()),
    }


def _verdict(run: _Run, head: dict | None) -> str:
    said = str((run.manifest.get("gate") or {}).get("verdict") or "").strip()
    if said or not head:
        return said
    if head["low"] > 0:
        return f"The published forecast saves {share1(head['skill'])} of the error of {head['against']}, beyond chance."
    return f"The published forecast is not proven better than {head['against']}."


SECTIONS = [("At a glance", "glance"), ("Accuracy", "accuracy"), ("Two best, two worst", "fans"),
            ("Is the uncertainty honest?", "uncertainty"), ("Changes coming", "changes"), ("Downloads", "downloads"),
            ("Data quality", "quality"), ("Since the last run", "since"), ("Provenance", "provenance")]


def render_run(directory: str | Path) -> Path:
    """Write `report.html` (and `forecast.csv`) of one run from the files in its directory, and return the page's path.

    Absent files leave their section empty with a sentence that says so; a failed run says on top where and why it failed.
    Raises FileNotFoundError or ValueError when there is no readable manifest.json.
    """
    run = _Run(Path(directory))
    m = run.manifest
    backtest, scored = run.backtest()
    skill = skills(scored) if scored is not None else None
    head = _headline(scored, skill) if scored is not None else None
    moves = _moves(run)
    forecast = run.frame("forecast")
    horizon = (m.get("params") or {}).get("horizon", "")
    horizon = int(forecast["horizon"].max()) if forecast is not None and "horizon" in forecast else horizon
    gate, job, as_of = m.get("gate") or {}, str(m.get("job", "")), str(m.get("as_of", ""))
    warnings = (["First run: there was no model to start from, so it was trained on the full history."]
                if gate.get("cold_start") else [])
    if m.get("dirty"):
        warnings.append("The code had uncommitted changes when this ran: the commit below does not fully describe it.")
    state, tone = _state(m, run.dir)
    if tone == "watch":
        warnings.insert(0, f"This run is not finished: {state}.")
    why = "The run did not come this far." if tone != "good" else "No forecast of the backtest has met its actuals."
    sections = {
        "cards": _cards(run, head, moves),
        "accuracy": _accuracy(scored, skill, head) if head else None,
        "fans": _fans(run, scored),
        "uncertainty": _uncertainty(backtest, scored) if head else None,
        "download": _download(run),
        "quality": _quality(run),
        "changes": _changes(moves, horizon, str((m.get("params") or {}).get("currency") or "")) if moves is not None else None,
        "since": _since(run, _previous(run), head),
        "provenance": _provenance(run),
    }
    _failure(run)
    shown = {"glance": sections["cards"], "accuracy": head, "fans": sections["fans"], "uncertainty": sections["uncertainty"],
             "changes": sections["changes"], "downloads": sections["download"]}
    nav = [(text, anchor) for text, anchor in SECTIONS if tone == "good" or shown.get(anchor, True)]
    ahead = f"next {horizon} days" if horizon else "forecast"
    made = m.get("receipt", {}) or {}
    subtitle = " · ".join(filter(None, [f"As of {as_of}", f"run {m.get('run_id', '')}", f"published {made['published_at']}"
                                        if made.get("published_at") else state]))
    page = _page(
        "run.html.j2",
        title=f"{job.capitalize()} {as_of}",
        heading=f"{job.replace('_', ' ').capitalize()}: {ahead}",
        subtitle=subtitle,
        problems=run.problems,
        warnings=warnings,
        verdict=_verdict(run, head),
        reasons=[str(r) for r in gate.get("reasons") or []],
        missing={"accuracy": why, "fans": "There is no forecast to show.", "forecast": "There is no forecast to show."},
        sticky=forecast is not None and "p_change" in forecast,
        nav=nav,
        done=tone == "good",
        crumbs=_crumbs(run.dir, "report.html"),
        **sections,
    )
    return _write(run.dir / "report.html", page)


# --- all runs -------------------------------------------------------------------------------------------------------


def _scored(directory: Path) -> dict[str, float]:
    """Error, skill against the best baseline and coverage of the published forecast, from scores.parquet; what there is.

    Raises ValueError, naming the file, when it cannot be read.
    """
    path = directory / "scores.parquet"
    if not path.is_file():
        return {}
    try:
        scores = pd.read_parquet(path)
        scores = scores[scores["slice"] == "all"]
        values = {(r.model, r.metric): float(r.value) for r in scores.itertuples()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from error
    found = {label: values.get(("published", metric)) for label, metric in (("error", "rel_mae"), ("inside90", "coverage90"))}
    bases = [v for (model, metric), v in values.items() if metric == "rel_ql" and model not in figures.OURS and v > 0]
    if bases and ("published", "rel_ql") in values:
        found["skill"] = 1 - values["published", "rel_ql"] / min(bases)
    return {k: v for k, v in found.items() if v is not None}


def _row(directory: Path, out: Path) -> dict:
    """One line of the index, from the manifest and scores.parquet."""
    base = {"as_of": directory.name, "job": directory.parent.name, "error": "–", "skill": "–", "coverage": "–",
            "published": "–", "params": "–", "commit": "–", "pages": [], "report": "", "superseded": "+" in directory.name}
    try:
        m = _manifest(directory)
    except (ValueError, OSError) as error:
        return base | {"state": shorten(f"unreadable: {str(error).split(': ', 1)[-1]}", 60), "tone": "bad"}
    state, tone = _state(m, directory)
    gate, values = m.get("gate") or {}, {}
    try:
        values = _scored(directory)
    except ValueError as error:
        state, tone = f"{state}; {error}", "bad"
    local = directory.relative_to(out).as_posix()
    pages = [(p.stem.split("_", 1)[0] + (" failed" if ".failed" in p.name else ""), f"{local}/{p.name}")
             for p in sorted(directory.glob("[0-9][0-9]_*.html"))]
    report = f"{local}/report.html" if (directory / "report.html").is_file() else ""
    short = {k: str(m.get(k) or "–")[:8] for k in ("params_hash", "commit")}
    return base | {
        "as_of": str(m.get("as_of", directory.name)), "job": str(m.get("job", directory.parent.name)), "state": state,
        "tone": tone, "error": _points(values.get("error"), 2), "skill": _points(values.get("skill", gate.get("skill")), 1),
                "coverage": _points(values.get("inside90"), 0), "report": report,
        "published": figures.name(gate.get("published") or "–"),
        "params": short["params_hash"],
        "commit": short["commit"] + ("*" if m.get("dirty") else ""),
        "pages": ([("report", report)] if report else []) + pages,
    }


def _points(value: float | None, digits: int) -> str:
    """A share as percentage points, without the sign: the head of the column has it."""
    return percent(value, digits).removesuffix(" %") if value is not None and np.isfinite(value) else "–"


def render_index(out: str | Path) -> Path:
    """Write `index.html` over all runs below `out`, newest first, and return its path."""
    out = Path(out)
    rows = [_row(p.parent, out) for p in out.glob("*/*/manifest.json")]
    rows.sort(key=lambda r: (r["job"], r["superseded"]))
    rows.sort(key=lambda r: r["as_of"], reverse=True)
    jobs = sorted({r["job"] for r in rows})
    intro = f"{len(rows):,} {'run' if len(rows) == 1 else 'runs'} of {', '.join(jobs)}, the newest first. " if rows else ""
    intro += "Error and skill are those of rolling forecasts of the past; skill is against the best baseline. "
    intro += "* marks a commit with uncommitted changes."
    return _write(out / "index.html", _page("index.html.j2", title="Forecast book", intro=intro, rows=rows))


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
        except (OSError, ValueError) as error:
            print(f"report: {error}" if str(path) in str(error) else f"report: {path}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
