"""What somebody should look at before the forecasts are trusted: deliveries and prices that are whole, and yet hardly right.

Nothing is taken out here. Each alarm is said on the console, kept in the manifest, and stands on top of the report.
"""

from __future__ import annotations

import logging
import unicodedata
from datetime import date

import numpy as np
import pandas as pd

from forecastbook import roster
from forecastbook.intake import REFUSED, Intake
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.run import Run
from forecastbook.runfiles import RunFiles, previous
from forecastbook.trades import PRICES
from forecastbook.wording import counted, percent, period_name, shorten

log = logging.getLogger("forecastbook")
PART, QUIET = 0.5, 0.1  # of the readings of a quiet day (this quantile of days): with fewer the newest one is not complete
USUAL, LEAST = 60, 7  # days with a reading by which that is told, and how many of them it takes
FEW = 20  # items that sell in a quiet period: of fewer, chance may leave out most
WILD = 100.0  # sales of one period so many times those of any other of the item
FAR = 5.0  # a newest price so many times the item's median, or as far below
KNOWN, NEWS = 5, 14  # readings by which an item's median is told; periods for which a jump is news
SMALL = 20.0  # units a period: below it a count and a fraction are different things
AGAIN = 0.01  # share of the rows kept: more rows than that which say another value, or sell a fraction, are no slips
FUTURE = 0.01  # share of the rows read: more than that dated after today, and it is rather the clock
GONE = 0.2  # share of the items of the run before: more than that gone is rather the delivery


def sound(run: Run, intake: Intake, panel: Panel) -> pd.DataFrame:
    """Say aloud what ``of`` finds, and what is gone since the run before: a row an alarm, title and text."""
    found = of(intake, panel, run.params) + gone(panel, previous(RunFiles(run.dir)), run.params.max_series)
    for _, text in found:
        log.warning("%s", text)
    table = pd.DataFrame(found, columns=["title", "text"])
    run.note(alarms=table.to_dict("records"), counts=intake.counts)
    return table


def of(intake: Intake, panel: Panel, params: Params, today: date | None = None) -> list[tuple[str, str]]:
    """(title, text) of each thing that stands out in what was read. Raises StaleError where the params stop on old data."""
    counts = intake.counts
    again, future = counts.get("duplicates with another value", 0), counts.get("quarantined: date in the future", 0)
    found = [
        ("The data are old", roster.overdue(panel.as_of.astype(date), params, today)),
        ("Many rows could not be used", intake.refusal()),
        ("A column could not be read", _unread(counts)),
        *(("Rows that are not used", remark) for remark in intake.remarks),
        (
            "Rows that contradict each other",
            f"{counted(again, 'row')} gave another value than the row that was kept for the same item and date: was a delivery "
            "read twice, or in two units?"
            if again > AGAIN * counts.get("rows kept", 0)
            else "",
        ),
        (
            "Rows of the future",
            f"{counted(future, 'row')} {'is' if future == 1 else 'are'} dated after today: is the clock of this machine right?"
            if future > FUTURE * counts.get("rows read", 0)
            else "",
        ),
        ("Ids that look alike", alike(panel.ids)),
    ]
    if params.trade is PRICES:  # sales are 0 where nothing was read, and may multiply overnight
        found += [(_incomplete(panel), thin(panel)), ("Prices far from what is usual", far(panel))]
    else:
        found += [(_incomplete(panel), slack(panel)), ("Sales far from what is usual", wild(panel))]
        found += [("Sales are no whole numbers", fractions(panel))]
    return [(title, text if text.endswith((".", "?", "!")) else f"{text}.") for title, text in found if text]


def _unread(counts: dict[str, int]) -> str:
    """That covariates hold little but what is no number, in a sentence; else ''."""
    empty = sum(n for what, n in counts.items() if what.startswith("covariate left empty"))
    if empty <= REFUSED * counts.get("rows read", 0):
        return ""
    return (
        f"{counted(empty, 'value')} of past and future columns are no numbers and were left empty: the models do without them. "
        "The quarantine names the first of them; numbers, yes and no can be read"
    )


def _incomplete(panel: Panel) -> str:
    return f"The newest {period_name(panel.freq)[:-1]} is not complete"


def thin(panel: Panel) -> str:
    """That the newest period has far fewer readings than even a quiet one that has any, in a sentence; else ''."""
    seen = np.count_nonzero(panel.observed, axis=0)  # (T,)
    usual = seen[:-1][seen[:-1] > 0][-USUAL:]
    quiet = np.quantile(usual, QUIET) if len(usual) >= LEAST else 0
    return _short(panel, seen, quiet, "reading") if seen[-1] < PART * quiet else ""


def slack(panel: Panel) -> str:
    """That far fewer items sold in the newest period than even in a quiet one, in a sentence; else ''."""
    sold = np.count_nonzero(panel.y > 0, axis=0)  # (T,)
    usual = sold[:-1][-USUAL:]
    quiet = np.quantile(usual, QUIET) if len(usual) >= LEAST else 0
    return _short(panel, sold, quiet, "item sold", "items sold") if quiet >= FEW and sold[-1] < PART * quiet else ""


def _short(panel: Panel, seen: np.ndarray, quiet: float, one: str, many: str = "") -> str:
    unit, whole = period_name(panel.freq)[:-1], panel.dates[np.flatnonzero(seen >= PART * quiet)[-1]]
    return (
        f"{panel.as_of} has {counted(int(seen[-1]), one, many)} where even a quiet {unit} has {quiet:,.0f}: an unfinished "
        f"delivery, or a wrong date? AS_OF={whole} forecasts from the last full one"
    )


def far(panel: Panel) -> str:
    """Which prices have lately jumped to ``FAR`` times the median of their item, or as far below, in a sentence; else ''."""
    now, before = panel.last_value, panel.filled[:, -1 - min(NEWS, len(panel.dates) - 1)]
    with np.errstate(invalid="ignore"):  # few have moved so far at all: only their median is taken
        rows = np.flatnonzero((panel.n_obs >= KNOWN) & (now != before) & np.isfinite(before))
        median = np.nanmedian(panel.y[rows], axis=1) if len(rows) else np.empty(0)
        odd = _far(now[rows], median) & ~_far(before[rows], median)
    rows, median = rows[odd], median[odd]
    if not len(rows):
        return ""
    such = ", ".join(
        f"{shorten(str(panel.titles[i]), 40)} at {now[i]:,.2f}, usually {m:,.2f}"
        for i, m in zip(rows[:3], median[:3], strict=True)
    )
    return (
        f"The newest price of {counted(len(rows), 'item')} is {FAR:g} times what is usual or more, or 1/{FAR:g} of it or less: "
        f"{such}. Check it at the source: forecasts start from there"
    )


def fractions(panel: Panel) -> str:
    """That sales are small and not whole, in a sentence; else ''. The models count: a tenth of a kilo is nothing to them."""
    sold = panel.y[panel.y > 0]
    part = sold[sold != np.rint(sold)]
    if len(part) <= AGAIN * len(sold) or np.median(sold) >= SMALL:
        return ""
    return (
        f"{percent(len(part) / len(sold))} of the sales are fractions, such as {part[0]:g}, and half are below "
        f"{np.median(sold):.3g}: the models count units. Give them in one of which whole numbers sell (grams, not kilograms)"
    )


def wild(panel: Panel) -> str:
    """Which items sold in one period ``WILD`` times what they sold in any other, in a sentence; else ''.

    Of any period, however long ago: each training learns from it anew.
    """
    known = np.where(panel.observed, panel.y, 0.0)  # (N, T)
    at = known.argmax(axis=1)
    most = known[np.arange(len(panel)), at]
    known[np.arange(len(panel)), at] = 0
    next_most = known.max(axis=1)
    rows = np.flatnonzero(((panel.y > 0).sum(axis=1) >= KNOWN) & (most >= WILD * np.maximum(next_most, 1)))
    if not len(rows):
        return ""
    such = ", ".join(
        f"{shorten(str(panel.titles[i]), 40)} {most[i]:,.0f} on {panel.dates[at[i]]}, else at most {next_most[i]:,.0f}"
        for i in rows[:3]
    )
    return (
        f"{counted(len(rows), 'item')} sold at least {WILD:g} times as much in one period as in any other: {such}. Check it at "
        "the source: one slip moves the forecasts of all items"
    )


def _far(price: np.ndarray, usual: np.ndarray) -> np.ndarray:
    return (price >= FAR * usual) | (price * FAR <= usual)


def alike(ids: np.ndarray) -> str:
    """Which ids differ only by spaces, case or the form of an accent; in a sentence, '' for none."""
    plain = pd.Series([" ".join(unicodedata.normalize("NFKC", str(i)).casefold().split()) for i in ids])
    twins = np.flatnonzero(plain.duplicated(keep=False))
    if not len(twins):
        return ""
    first = [ids[i] for i in twins if plain[i] == plain[twins[0]]]
    return (
        f"{counted(len(twins), 'id')} differ only by spaces, case or the form of an accent and are taken for different items, "
        f"such as {' and '.join(repr(str(i)) for i in first[:2])}"
    )


def gone(panel: Panel, before: RunFiles | None, max_series: int | None = None) -> list[tuple[str, str]]:
    """Whether many items that the finished run before had are not in this one at all.

    max_series: how many items were asked for, the first by their ids; of those that stand behind them nothing is known.
    """
    if before is None or not len(before.titles):
        return []
    had, ids = before.titles, panel.ids.astype(str)
    if max_series is not None and len(ids) >= max_series:
        had = had[had.index <= max(ids)]
    lost = had.index.difference(pd.Index(ids))
    if not len(had) or len(lost) <= GONE * len(had):
        return []
    such = ", ".join(shorten(str(had[i]), 40) for i in lost[:3])
    return [
        (
            "Many items are gone",
            f"{len(lost):,} of the {counted(len(had), 'item')} that the run as of {before.manifest['as_of']} had are "
            f"not in the data, such as {such}: is the delivery complete?",
        )
    ]
