"""The house style of all figures: fonts, colours, axes, and a `Figure` that shows itself.

Nothing here touches global state: figures are built on the object API under `STYLE`, show themselves in a notebook
(`_repr_mimebundle_`, no pyplot backend needed) and carry one sentence of alt text in `.alt`, which also travels in the
notebook's output metadata. Actuals are black, intervals are shaded, at most four colours, distinguishable without colour vision
(Okabe and Ito, 2008).
"""

from __future__ import annotations

import base64
import functools
import io
import textwrap

import matplotlib
import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as _Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from forecastbook.wording import cut, percent, shorten

# DejaVu comes with matplotlib and draws Latin, Greek and Cyrillic; for other scripts, whatever of these the machine has.
SCRIPTS = """Noto Sans CJK KR,Noto Sans CJK JP,Noto Sans CJK SC,Malgun Gothic,Apple SD Gothic Neo,NanumGothic,Hiragino Sans
Yu Gothic,Microsoft YaHei,PingFang SC,Noto Sans Arabic,Noto Sans Hebrew,Noto Sans Devanagari,Noto Sans Thai,Arial Unicode MS"""
FONTS = ["DejaVu Sans", *sorted(set(SCRIPTS.replace("\n", ",").split(",")) & set(font_manager.get_font_names()))]
INK, BLUE, ORANGE, GREEN, GREY, PALE = "#16181d", "#0072b2", "#d55e00", "#009e73", "#6b7280", "#c5cad2"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": FONTS,
    "font.size": 9.5,
    "text.parse_math": False,
    "text.usetex": False,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "axes.facecolor": "white",
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": "#3f4550",
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "grid.linewidth": 0.8,
    "xtick.color": "#3f4550",
    "ytick.color": "#3f4550",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "butt",
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 12),  # of a price in millions no power of ten stands apart
    "axes.unicode_minus": True,
}


class Figure(_Figure):
    """A matplotlib figure that shows itself in a notebook and brings its alt text along."""

    alt: str = ""

    def png(self, dpi: int = 170) -> bytes:
        """The picture as PNG bytes; the same figure gives the same bytes."""
        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            FigureCanvasAgg(self)
            self.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
        return out.getvalue()

    def _repr_png_(self) -> str:
        return base64.b64encode(self.png()).decode()

    def uri(self) -> str:
        """The same as a `data:` URI for an HTML page."""
        return f"data:image/png;base64,{self._repr_png_()}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        data = {"image/png": self._repr_png_(), "text/plain": self.alt or "figure"}
        width, height = (int(x * 100) for x in self.get_size_inches())
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset().union(*(FT2Font(font_manager.findfont(name)).get_charmap() for name in FONTS))


def plain(text: object, limit: int = 38, middle: bool = False) -> str:
    """A title for display: one line, at most `limit` characters, only glyphs that a font has (others become a box)."""
    line = " ".join(str(text)[: 8 * limit].split())
    line = line if len(line) <= limit else cut(line, limit, middle)
    return "".join(c if ord(c) in _glyphs() and c.isprintable() else "□" for c in line)


def called(title: object, series_id: object, limit: int = 38, middle: bool = False) -> str:
    """What an item is called in a figure: its title, or its id where the fonts could draw less than two thirds of the title.

    An id that is too long is cut in the middle, a title behind, or in the middle when that is wanted.
    """
    tail = f" ({shorten(series_id, 22, middle=True)})"  # of ``labels``: what is cut is the title, not what tells it from others
    tail = tail if str(title).endswith(tail) else ""
    shown = plain(str(title).removesuffix(tail), max(limit - len(tail), 8), middle or str(title) == str(series_id))
    if 3 * shown.count("□") > len(shown):
        return plain(series_id, limit, middle=True)
    return f"{shown} {plain(tail)}".rstrip()


def names(titles, ids, limit: int = 38) -> list[str]:
    """What the items of one figure are called.

    Titles that are alike once they are cut are cut in the middle; where that is no help the end of the id stands behind.
    """

    def ending(title, key, limit):
        return f"{called(title, key, limit - 10)} (…{plain(str(key)[-6:])})"

    pairs = list(zip(titles, ids, strict=True))
    out = [called(title, key, limit) for title, key in pairs]
    for how in (functools.partial(called, middle=True), ending):
        twice = {name for name in out if out.count(name) > 1}
        out = [how(*pair, limit) if name in twice else name for name, pair in zip(out, pairs, strict=True)]
    return out


def canvas(title: str, alt: str = "", rows: int = 1, cols: int = 1, size: tuple[float, float] = (8.2, 3.4), **kw):
    """A figure with its headline and a (rows, cols) array of axes."""
    fig = Figure(figsize=size, layout="constrained")
    lines = textwrap.wrap(title.replace(" %", "\u00a0%"), 88)  # none ends between a number and its percent sign
    heading = "\n".join(lines).replace("\u00a0", " ")
    fig.suptitle(heading, x=0.008, ha="left", fontsize=11, fontweight="bold", color=INK)
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.06, hspace=0.06, wspace=0.05)
    fig.alt = alt or title
    axes = fig.subplots(rows, cols, squeeze=False, **kw)
    for ax in axes.flat:
        ax.xaxis.set_major_formatter(Thousands())
        ax.yaxis.set_major_formatter(Thousands())
    return fig, axes


class Thousands(ScalarFormatter):
    """Numbers of an axis with commas, as in all text."""

    def __call__(self, x, pos=None) -> str:
        whole, point, part = super().__call__(x, pos).partition(".")
        return (f"{int(whole):,}" if whole.isdecimal() else whole) + point + part


UNMET = "No forecast has met its actuals yet"  # what figures of scores say where there is nothing to see


def nothing(message: str) -> Figure:
    """A figure that says why there is nothing to see."""
    fig = Figure(figsize=(8.2, 1.3))
    fig.text(0.5, 0.5, message, ha="center", va="center", color=GREY, fontsize=11)
    fig.alt = message
    return fig


def drawn(draw):
    """Draw under STYLE, and make sure that no text is ever read as maths ('$x_1$' is a title)."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            fig = draw(*args, **kwargs)
            for text in fig.findobj(Text):
                text.set_parse_math(False)
            return fig

    return wrapper


def date_axis(ax, ts=None, most: int = 6) -> None:
    """Dates along an axis, with the year. ts: those that are drawn; where they are few they are the ticks."""
    ticks = dict.fromkeys(range(8), most) | {mdates.MONTHLY: most + 1}  # half years fill what is no two years yet
    locator = mdates.AutoDateLocator(minticks=2, maxticks=ticks)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _day(mdates.num2date(v))))
    if ts is None or not len(ts):
        return
    days = pd.DatetimeIndex(ts).unique().sort_values()
    if len(days) == 1:
        ax.set_xlim(days[0] - pd.Timedelta(days=3), days[0] + pd.Timedelta(days=3))
    if len(days) <= most and (np.diff(days) * 8 >= days[-1] - days[0]).all():  # few, and with room for their names
        ax.set_xticks(days)


def _day(when) -> str:
    return f"{when.day} {when:%b}\n{when.year}"


def percent_axis(axis, digits: int | None = None) -> None:
    def label(v, _):
        least = next((d for d in range(6) if abs(v * 100 - round(v * 100, d)) < 1e-9), 6)
        return percent(v, digits if digits is not None else least)

    axis.set_major_formatter(FuncFormatter(label))


def end_labels(ax, ends: list[tuple[float, float, str, str]]) -> None:
    """Direct labels right of the lines: (x, y, text, colour), pushed apart where they would touch."""
    low, high = ax.get_ylim()
    height = 72 * ax.get_figure().get_figheight() * ax.get_position().height  # in points, about: the layout is still to come
    step = (high - low) * 1.35 * matplotlib.rcParams["font.size"] / height
    ends = sorted(ends, key=lambda e: e[1])
    place = np.array([y for _, y, _, _ in ends])
    for _ in range(200):  # a few labels: pairs that touch give way by half each
        short = np.maximum(step - np.diff(place), 0) / 2
        if not short.max(initial=0) > step * 0.01:
            break
        place[1:] += short
        place[:-1] -= short
    for (x, _, text, colour), y in zip(ends, place, strict=True):
        ax.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False)


def whole_ticks(ax, x) -> None:
    """Ticks at whole numbers only, also where there are one or two points."""
    if len(x) <= 10:
        ax.set_xticks(list(x))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    if len(x) == 1:
        ax.set_xlim(x[0] - 1, x[0] + 1)


def top_of(highest: float, room: float) -> float:
    """Where an axis of errors ends: with room above the highest; at 100 % where that is nothing, or the dust of a sum."""
    return highest * room if highest > 1e-9 else 1.0
