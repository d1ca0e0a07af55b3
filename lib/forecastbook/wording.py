"""How numbers and names are written: shares in percent with a true minus, long names on one line."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from .scores import CHANGED

NAMES = {
    "published": "published",
    "lstm": "LSTM",
    "lstm_table": "LSTM + table",
    "blend": "blend of experts",
    "gbm": "boosted trees",
    "tide": "TiDE",
    "table": "counting table",
    "challenger": "challenger",
    "champion": "champion",
    "last_value": "last value",
    "seasonal_naive": "seasonal naive",
    "moving_average": "moving average",
    "historical_quantiles": "historical quantiles",
    "croston_sba": "Croston SBA",
    "tsb": "TSB",
    "imapa": "IMAPA",
    "auto_ets": "AutoETS",
}

FEATURES = {  # of ``spells`` and ``demand``, as a reader knows them; those that are many of a kind are in ``KINDS``
    "age": "days at this price",
    "observations": "times seen at this price",
    "previous_length": "days at the price before",
    "age_to_previous_length": "days at this price against the one before",
    "never_changed": "price never changed so far",
    "to_previous": "distance to the price before",
    "to_previous2": "distance to the price before the last two",
    "below_usual": "price below its usual level",
    "above_usual": "price above its usual level",
    "gap": "days since it was last seen",
    "last_direction": "direction of the last change",
    "last_step": "change on this very day",
    "observed": "seen on this very day",
    "to_list": "distance to the list price",
    "list_known": "list price is known",
    "ahead": "how far ahead",
    "mondays_passed": "Mondays until then",
    "on_monday": "it is for a Monday",
    "on_weekend": "it is for a weekend",
    "on_friday": "it is for a Friday",
    "habit_passed": "the shop's weekdays of change until then",
    "on_habit": "it is for a weekday of change of the shop",
    "level": "recent level of sales",
    "length": "periods known so far",
    "rate": "how often it sells",
    "rate_fast": "how often it sells lately",
    "last_0": "sales of the last period",
    "since_sale": "periods since the last sale",
    "interval": "periods between sales",
    "size": "mean amount of a sale",
    "variation": "how much sales vary",
    "mean_all": "mean sales of all periods",
    "growth": "sales against a season ago",
    "trend": "how all items sell lately",
    "trend_items": "how the usual item sells lately",
    "trend_words": "how items of like titles sell lately",
    "year_ago": "sales a season ago",
    "year_ago_5": "sales around a season ago",
    "season_sin": "time of the season (sine)",
    "season_cos": "time of the season (cosine)",
    "price": "price",
    "price_usual": "price against its usual level",
    "price_step": "price against the period before",
    "price_list": "price against the list price",
    "price_list_usual": "usual price against the list price",
    "promotion": "promotion",
    "promotion_4": "promotions of 4 periods",
    "offered": "on offer",
    "quantile_1.0": "largest recent sales",
}
KINDS = {  # the pattern of a name -> words around what its groups hold
    r"to_mode(\d+)": "distance to the usual price of {} days",
    r"to_max(\d+)": "distance to the highest price of {} days",
    r"to_min(\d+)": "distance to the lowest price of {} days",
    r"share_mode(\d+)": "share of {} days at the usual price",
    r"rate(\d+)": "changes in {} days",
    r"mean_step(\d+)": "size of the changes in {} days",
    r"seen(\d+)": "share of {} days it was seen on",
    r"last_(\d+)": "sales {} before the last period",
    r"mean_(\d+)": "mean sales of {} periods",
    r"zeros_(\d+)": "share of {} periods without a sale",
    r"offered_(\d+)": "share of {} periods on offer",
    r"recent_(0\.\d+)": "sales, a new period weighing {:.0%}",
    r"steady_(0\.\d+)": "sales without peaks, a new period weighing {:.0%}",
    r"quantile_(0\.\d+)": "{:.0%} quantile of recent sales",
    r"trend_(.+)": "how its {} sells lately",
    r"past_(.+)_recent": "recent {} against its mean",
    r"past_(.+)_level": "mean {}",
    r"past_(.+)": "{} against its mean",
    r"future_(.+)_step": "change of {} until then",
    r"future_(.+)": "{} at that time",
}

EARLY = "stopped early"  # a trial of a search that others had left behind, or that the time budget ended


def percent(share: float, digits: int = 0) -> str:
    """0.643 → '64 %'; not a number → 'n/a'."""
    if share is None or not np.isfinite(share):
        return "n/a"
    return f"{round(100 * share, digits) + 0.0:.{digits}f} %".replace("-", "−")


def share0(share: float) -> str:
    """A share in whole percent that is never rounded to 'none' or 'all'."""
    if 0 < share < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def signed(share: float, digits: int = 0) -> str:
    """0.05 → '+5 %', −0.2 → '−20 %', 0 → '0 %'."""
    text = percent(share, digits)
    return text if text.startswith(("−", "n")) or not float(text.split()[0]) else f"+{text}"


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


def bare_percent(value: float | None, digits: int) -> str:
    """A share as percentage points, without the sign: the head of the column has it."""
    return percent(value, digits).removesuffix(" %") if value is not None and np.isfinite(value) else "–"


def shorten(text: object, limit: int = 70, middle: bool = False) -> str:
    """One line of at most `limit` characters, for display only; control characters become spaces.

    middle: what is cut is the middle, for names and ids that differ at their ends.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 20 * limit]).split())
    return line if len(line) <= limit else cut(line, limit, middle)


def cut(line: str, limit: int, middle: bool = False) -> str:
    """A line that is too long cut to `limit` characters, behind or in the middle."""
    back = (limit - 1) // 2 if middle else 0
    return line[: limit - 1 - back].rstrip() + "…" + line[len(line) - back :].lstrip()


def plain_line(text: str, limit: int = 600) -> str:
    """`shorten` for what a terminal was sent: without its colours."""
    return shorten(re.sub(r"\x1b\[[0-9;]*m", "", text), limit)


def counted(n: int, one: str, many: str = "") -> str:
    """1, 'day' → '1 day'; 1200, 'day' → '1,200 days'; many: the plural where it is not made by an s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def span(n: int, units: str) -> str:
    """1, 'days' → '1 day'; 7, 'days' → '7 days'."""
    return counted(n, units.removesuffix("s"))


def labels(ids: pd.Series, titles: pd.Series) -> pd.Series:
    """What items are called: their titles, with the id behind those that others have too; the id where there is no title."""
    titles = titles.astype(object).where(titles.notna(), ids).astype(str)
    shared = titles.map(shorten).duplicated(keep=False) & (titles != ids.astype(str))
    both = [
        f"{shorten(title, 44)} ({shorten(key, 22, middle=True)})"
        for key, title in zip(ids[shared], titles[shared], strict=True)
    ]
    out = titles.copy()
    out[shared] = both
    return out


def moment(iso: str) -> str:
    """An ISO time stamp in UTC, to the minute: '2026-01-05 06:12 UTC'; empty for an empty one."""
    return f"{iso[:10]} {iso[11:16]} UTC" if iso else ""


def size(n: float) -> str:
    """Bytes: 512 → '512 B', 1.4e9 → '1.4 GB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def model_name(model: str, champion: str = NAMES["champion"]) -> str:
    """The readable name of a model. champion: what that one is called, before there is one."""
    return champion if model == "champion" else NAMES.get(model, shorten(str(model).replace("_", " "), 38))


def feature_name(feature: str) -> str:
    """What a feature of the trees is in plain words; a column of the job's own keeps its name."""
    if feature in FEATURES:
        return FEATURES[feature]
    for pattern, words in KINDS.items():
        if found := re.fullmatch(pattern, feature):
            held = found[1]
            return words.format(float(held) if "%" in words else held.replace("_", " ")).replace("%", " %")
    return feature.replace("_", " ")


def the(models) -> str:
    """Models as a sentence names them: 'the last value', 'IMAPA', 'the last value, IMAPA and the counting table'."""
    return listed([n if n[:1].isupper() else f"the {n}" for n in map(model_name, models)])


def sentence(text: str) -> str:
    """Words as a sentence begins: with a capital."""
    return text[:1].upper() + text[1:]


def listed(names: list[str]) -> str:
    """'prices', 'prices and vinyl', 'prices, sales and vinyl'; '' for none."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def settings(values: dict) -> str:
    """Hyperparameters in a line: 'hidden_size 128, learning_rate 0.006974'."""
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())


def unread(names: list[str], things: str, reads) -> str:
    """That no model reads some columns, in a sentence; '' for none. things: what is forecast; reads: what models do read."""
    if not names:
        return ""
    return (
        f"No model of {things} reads {', '.join(names)}: named in the params, and without effect on a forecast. Of all that "
        f"stands beside them they read the past column {', '.join(reads)} alone."
    )


def period_name(freq: str) -> str:
    """What periods of a pandas frequency are called: 'days', 'weeks', 'months', 'quarters', else 'periods'."""
    return {"D": "days", "W": "weeks", "M": "months", "Q": "quarters"}.get(freq[:1], "periods")


def within(freq: str) -> str:
    """The preposition of a period: 'on' a day, 'in' a week."""
    return "on" if period_name(freq) == "days" else "in"


def ahead(horizons, unit: str) -> str:
    """Which horizons were tested: '7 days ahead', '1 to 7 days ahead', '3 of the first 14 days ahead'."""
    first, last, n = min(horizons), max(horizons), len(horizons)
    if n == 1:
        return f"{span(last, unit)} ahead"
    return f"{first} to {last} {unit} ahead" if n == last - first + 1 else f"{n} of the first {last} {unit} ahead"


CHANGE = f"a change is more than {share1(CHANGED)}"  # what counts as one: wherever changes are counted, it is said
