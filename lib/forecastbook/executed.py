"""An executed notebook as a page: its prose, folded code, and outputs that are cleaned, cut to size and shown at rest."""

from __future__ import annotations

import base64
import copy
import html
import re
from functools import cache
from pathlib import Path

import nbformat
from markupsafe import Markup, escape

from forecastbook import pages
from forecastbook.wording import plain_line, shorten

TEXT_LIMIT = 100_000  # characters of one output that are shown
PAGE_LIMIT = 600_000  # characters of text outputs on one page
IMAGE_LIMIT = 2_300_000  # base64 characters of images on one page: with the rest it stays below 3 MB
SHOWN = ["text/html", "image/png", "image/svg+xml", "image/jpeg", "text/markdown", "text/latex", "text/plain"]  # best first
WIDGET = "application/vnd.jupyter.widget-view+json"


def render_notebook(path: str | Path) -> Path:
    """Render one executed notebook to a self-contained page beside it, and return that page's path.

    Raises ValueError, naming the file, when it is not a notebook.
    """
    path = Path(path)
    try:
        nb = nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path}: not a readable notebook ({plain_line(str(error), 160)}); run its step again") from error
    nb = copy.deepcopy(nb)
    _tidy(nb, _Budget())
    failed = fault(nb)
    code = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    notes = []
    if code and not any(c.get("execution_count") for c in code):
        notes.append("This notebook has not been executed: it shows no results.")
    elif not failed and any(not c.get("execution_count") for c in code):
        notes.append("This notebook did not run to its end: some cells were not executed.")
    body, _ = _exporter().from_notebook_node(nb, resources={"fault": failed, "notes": notes})
    body, nav, title = _anchors(body)
    page = path.with_suffix(".html")
    title, crumbs = shorten(title or path.stem, 100), pages.crumbs(path.parent, page.name)
    run, where = path.parent, ""
    if (run / "manifest.json").is_file():
        title, where = f"{run.parent.name} {run.name}: {title}", f"Job {run.parent.name} · as of {run.name}"
    text = pages.render("page.html.j2", title=title, where=where, body=Markup(body), nav=nav or [(title, "")], crumbs=crumbs)
    return pages.write(page, text)


def _tidy(nb, budget: _Budget) -> None:
    """Fold what streams printed, cut what is too long, drop papermill's own banners; all on a copy of the notebook."""
    drop = {"papermill-error-cell-tag"}
    nb.cells = [c for c in nb.cells if not drop & set(c.metadata.get("tags", []))]
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "code":
            cell.metadata["anchor"] = f"cell-{number}"
            cell.outputs = [shown for output in _joined(cell.get("outputs", [])) for shown in _cut(output, budget)]


def _joined(outputs: list) -> list:
    """Outputs with what a stream printed in pieces joined, and without live progress bars, whose last state nobody kept."""
    found = []
    for output in outputs:
        last = found[-1] if found else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        elif WIDGET not in output.get("data", {}):
            found.append(output)
    return found


def _cut(output, budget: _Budget) -> list:
    """An output as far as the page has room for it, and below it a note on what is left out: none, one, or two outputs."""
    if output.output_type == "stream":
        output.text, note = budget.cut(terminal_text(output.text))
        if not output.text.strip():
            return []
    elif output.output_type == "error":
        text, note = budget.cut("\n".join(output.traceback))
        output.traceback = [text]
    elif not set(SHOWN) & set(output.data):
        note = f"An output of the kind {shorten(', '.join(output.data), 60)} was left out."
        output.data = {}
    else:
        note = _cut_data(output.data, budget)
    shown = [output] if output.get("data", True) else []
    if note:
        shown.append(nbformat.v4.new_output("display_data", {"text/html": f'<p class="note">{escape(note)}</p>'}))
    return shown


def _cut_data(data: dict, budget: _Budget) -> str:
    """Cut the texts of an output, drop the pictures that there is no room for; the note on it, or ''."""
    note = ""
    for kind in ("text/html", "text/markdown", "text/plain", "text/latex"):
        if kind in data and not (kind == "text/plain" and len(data) > 1):
            data[kind], said = budget.cut(str(data[kind]))
            note = note or said
    for kind in ("image/png", "image/jpeg", "image/svg+xml"):
        size = len(data.get(kind, ""))
        if size > budget.images:
            del data[kind]
            note = f"A picture of {size / 1e6:.1f} MB was left out to keep the page small; the notebook has it."
        else:
            budget.images -= size
    return note


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
        said = f"Output cut: the first {limit // 1000:,} KB of {len(text) / 1e6:,.1f} MB are shown; the notebook has it all."
        return text[:limit], said


def terminal_text(text: str) -> str:
    """What a terminal would show in the end: of lines drawn over with carriage returns the last state, no cursor movement."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]|\x1b\][^\x07]*\x07", "", text.replace("\r\n", "\n"))
    if "\r" in text:
        text = "\n".join(next((p for p in reversed(line.split("\r")) if p.strip()), "") for line in text.split("\n"))
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]", "", text)


def fault(nb) -> dict | None:
    """The first error of a notebook: where it is and what it says."""
    for number, cell in enumerate(nb.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                cell.metadata["open"] = True
                said = plain_line(f"{output.get('ename', 'Error')}: {output.get('evalue', '')}")
                return {"where": f"This notebook failed in cell {number}", "what": said, "anchor": f"cell-{number}"}
    return None


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


@cache
def _exporter():
    from nbconvert.exporters.templateexporter import TemplateExporter

    class Page(TemplateExporter):
        """Notebook → body of a page, with the templates of this package."""

        file_extension = ".html"
        output_mimetype = "text/html"
        export_from_notebook = None

    page = Page(template_name="notebook", extra_template_basedirs=[str(pages.TEMPLATES)])
    page.display_data_priority = SHOWN
    page.filters = {
        "clean": pages.clean,
        "markdown": _markdown,
        "terminal": _terminal,
        "python": _python,
        "picture": _picture,
        "kind": _kind,
        "prose": lambda cell: _markdown(cell.source, cell.get("attachments")),
    }
    return page


def _markdown(source: str, attachments: dict | None = None) -> str:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    attachments = attachments or {}
    source = re.sub(r"\(attachment:([^)\s]+)", lambda m: m[0] if m[1] in attachments else "(#", source)
    renderer = IPythonRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
    return pages.clean(MarkdownWithMath(renderer=renderer).render(source[:PAGE_LIMIT]))


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
    alt = meta.get("alt") or plain_line(str(output.data.get("text/plain", "")), 200)
    alt = "Figure without a description" if not alt or alt.startswith("<") else alt
    source = f"data:{kind};base64,{''.join(data.split())}"
    return f'<figure class="scroll" tabindex="0"><img alt="{escape(alt)}" src="{source}"></figure>'


def _kind(cell) -> str:
    """What the fold of a code cell is called."""
    words = {"injected-parameters": "parameters of this run", "parameters": "defaults, for a run by hand"}
    return next((said for tag, said in words.items() if tag in cell.metadata.get("tags", [])), "code")
