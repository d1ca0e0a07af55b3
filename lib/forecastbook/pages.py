"""Pages: one HTML file each that opens offline and stays inert.

No scripts, no external reference, images embedded, a content security policy that forbids the rest. What a notebook or an
item's title brings along is cleaned (nh3) or escaped (Jinja's autoescape).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import jinja2
import nh3
from markupsafe import Markup

from forecastbook.files import replacing

TEMPLATES = Path(__file__).resolve().parent / "templates"
TAGS = set(
    re.findall(
        r"\w+",
        """
    a abbr b blockquote br caption cite code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4
    h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead
    tr tt u ul var
    """,
    )
)
ATTRIBUTES = {
    "*": {"class"},
    "a": {"href"},
    "img": {"src", "alt", "width"},
    "ol": {"start"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
LOCAL = re.compile(r"#[\w.-]*|(\.\./)*[\w-][\w.-]*\.(html|csv)(#[\w.-]*)?")
INLINE_IMAGE = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=\s]*")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context) -> str:
    """The HTML of a page, from a template of this package."""
    css = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    base = {
        "css": css,
        "nav": (),
        "crumbs": (),
        "body": "",
        "foot": "Made by forecastbook. This page needs no network and runs no scripts.",
    }
    return _environment().get_template(template).render(base | context)


def write(path: Path, text: str) -> Path:
    """Write a whole page or leave the old one, and return its path. Raises RunError, naming it, when it cannot be written."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace", newline="")
    return path


def crumbs(directory: Path, here: str = "") -> list[tuple[str, str]]:
    """Links to the run's other pages, from what is there."""
    pages = [("All runs", "../../index.html")] if (directory / "manifest.json").is_file() else []
    if (directory / "manifest.json").is_file() and here != "report.html":
        pages.append(("Report", "report.html"))
    for page in sorted(directory.glob("[0-9][0-9]_*.html")):
        if re.fullmatch(r"\d\d_\w+(\.failed)?\.html", page.name) and page.name != here:
            pages.append((page.stem.replace("_", " ", 1).replace(".failed", " (failed)"), page.name))
    return pages


def clean(fragment: str) -> str:
    """HTML without scripts, styles, forms, handlers and references to anything outside the page."""
    return nh3.clean(
        fragment, tags=TAGS, attributes=ATTRIBUTES, attribute_filter=_attribute, url_schemes={"data"}, link_rel=None
    )


def _attribute(tag: str, attribute: str, value: str) -> str | None:
    """Links only to this page and its siblings, images only from inside the page."""
    if attribute == "href":
        return value if LOCAL.fullmatch(value) else None
    if attribute == "src":
        return value if INLINE_IMAGE.fullmatch(value) else None
    return value
