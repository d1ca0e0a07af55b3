"""Tables and cards as HTML, escaped, for notebooks and for pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from markupsafe import escape

from forecastbook.wording import change, in_points, percent, share1, share2, shorten, signed

INLINE = (
    ".fb{border-collapse:collapse;font-variant-numeric:tabular-nums}.fb caption{text-align:left;color:#535b68}"
    ".fb th,.fb td{text-align:right;padding:.3em .8em}.fb .text{text-align:left}"
    ".cards{display:flex;flex-wrap:wrap;gap:12px}.card{border:1px solid #e3e6ea;border-top:4px solid #535b68;border-radius:6px;"
    "padding:10px 14px;width:150px}.card .value{font-size:1.6em;font-weight:700}.card .note{color:#535b68;font-size:.85em}"
    ".card.good{border-top-color:#009e73}.card.watch{border-top-color:#e69f00}.card.bad{border-top-color:#d55e00}"
    ".card .state{font-size:.85em;font-weight:600}"
)
LONG = 28  # characters, from which a text's column is kept wide
WORDS = {"good": "Good", "watch": "Watch", "bad": "Bad", "info": ""}


class Html(str):
    """HTML that is safe already: notebooks show it, Jinja does not escape it again."""

    def __html__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<style>{INLINE}</style>{self}"

    def __repr__(self) -> str:
        return " ".join(re.sub(r"<[^>]+>", " ", self).split())[:500]


def right(value: str) -> str:
    """Text as it is, in a column that is aligned as numbers are."""
    return value


NUMERIC = (percent, signed, share1, share2, change, in_points, right)  # functions whose columns are aligned as numbers


def _cell(value: object, form: str | Callable | None) -> str:
    """What a cell says; no line ends between a number and its percent sign."""
    return _said(value, form).replace(" %", "\u00a0%")


def _said(value: object, form: str | Callable | None) -> str:
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


def table(
    frame: pd.DataFrame,
    formats: dict | None = None,
    headers: dict | None = None,
    caption: str = "",
    empty: str = "nothing to show",
    limit: int = 50,
    ours: Callable | None = None,
) -> Html:
    """A frame as an escaped HTML table, numbers right, text left and cut for display only.

    formats: column → format ('{:.2f}', '.1f') or a function of the value; headers: column → head (with its unit; default: the
    name without underscores); empty: what is said in place of a table without rows; limit: how many rows are shown; ours: a row
    (as a namedtuple) → True when it is to stand out. Objects so made show themselves in a notebook.
    """
    if not len(frame):
        return Html(f'<p class="note">{escape(empty)}</p>')
    formats, headers = formats or {}, headers or {}
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) or (callable(formats.get(c)) and formats[c] in NUMERIC) for c in frame]
    shown = [[_cell(value, formats.get(c)) for value in frame[c].head(limit)] for c in frame]
    long = [max(map(len, column)) > LONG for column in shown]
    align = ["" if n else ' class="text long"' if wide else ' class="text"' for n, wide in zip(numeric, long, strict=True)]
    names = [escape(headers.get(c, str(c).replace("_", " "))) for c in frame]
    heads = "".join(f'<th scope="col"{a}>{name}</th>' for a, name in zip(align, names, strict=True))
    rows = []
    for row, said in zip(frame.head(limit).itertuples(index=False, name="Row"), zip(*shown, strict=True), strict=True):
        cells = "".join(f"<td{a}>{escape(text)}</td>" for text, a in zip(said, align, strict=True))
        rows.append(f"<tr{' class=ours' if ours and ours(row) else ''}>{cells}</tr>")
    more = len(frame) - limit
    tail = f'<p class="tail">and {more:,} more</p>' if more > 0 else ""
    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="scroll" tabindex="0"><table class="fb">{head}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{tail}"
    )


def cards(items: Iterable[tuple]) -> Html:
    """Cards (value, label, note, state): state is good, watch, bad or info, or a pair (state, word) with a word of its own."""
    out = []
    for value, label, note, state in items:
        state, word = state if isinstance(state, tuple) else (state, WORDS.get(state, ""))
        said = f'<div class="state">{escape(word)}</div>' if word else ""
        out.append(
            f'<div class="card {escape(state)}"><div class="value">{escape(value)}</div>'
            f'<div class="label">{escape(label)}</div><div class="note">{escape(note)}</div>{said}</div>'
        )
    return Html(f'<div class="cards">{"".join(out)}</div>')
