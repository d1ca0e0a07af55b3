"""What a job forecasts: posted prices or sales. What is different between them is said here, once, and asked for by name.

A job's trade follows from its network (``lstm``: prices, ``tide``: sales); a table's from the column that holds its
probability.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from . import scores


@dataclass(frozen=True)
class Trade:
    """The rules and the words of one trade.

    experts: the module that trains and asks the models. baselines: forecasts that need no training. safe: the one that is
    published where nothing has proven better. trusted: what is published before any record, None: the safe one. favourite: the
    candidate that has been best on most data; others that are about as good do not take turns with it. members: whose
    forecasts are blended with weights that the record decides. credit: what a candidate of the gate may be expected to gain
    before it has shown anything, as a share of the safe one's score; others: what any other may; off: how far that may be off
    (a standard deviation); scatter: of the gains from origin to origin before any is seen. All of these are from the
    development data, shrunk. probability: the column with the chance of the event by which points are split. beside: the
    column beside it, what else is forecast: of prices the chance that one is higher then, of sales their mean. The rest are
    words.
    """

    name: str
    experts: str
    baselines: tuple[str, ...]
    safe: str
    trusted: str | None
    favourite: str
    members: tuple[str, ...]
    credit: dict[str, float]
    others: float
    off: float
    scatter: float
    probability: str
    beside: str
    event: str  # column of points that says whether it came
    rate: str  # metric, and column of a series: how often it comes
    safe_words: str  # what a sentence calls the safe baseline
    things: str  # what the values are
    unit: str  # what they are counted in: label of an axis
    called: str  # what the event is called
    with_event: str  # the points where it came, and the others
    without_event: str
    size: str  # what errors are divided by, so that items can be averaged
    error: str  # label of an absolute error
    loss: str  # label of a quantile score
    weight: float  # of the mean pinball loss in it
    metric: str  # column of points that leads a figure: 'error' or 'loss'
    families: dict[str, tuple[str, str]]  # network -> model_name, model_type in DimModel
    reads: tuple[str, ...] | None = None  # past covariates that its models read, and no others; None: all that there are

    def happened(self, y, last) -> np.ndarray:
        """1.0 where the event came, 0.0 where not, NaN where not known. y: (N, H) or (n,); last: (N,) or (n,)."""
        y = np.asarray(y, float)
        return scores.changed(y, last) if self is PRICES else np.where(np.isnan(y), np.nan, y > 0)

    def unread(self, past: Iterable[str], future: Iterable[str], static: Iterable[str]) -> list[str]:
        """Of the columns that a source brings beside the values, those that no model of the trade reads."""
        return [] if self.reads is None else [*(name for name in past if name not in self.reads), *future, *static]

    def sizes(self, y, last) -> np.ndarray:
        """What the error of each point is divided by, (n,): its last price, of sales the mean of all; NaN where that is 0."""
        if self is PRICES:
            return np.where(np.abs(last) > 0, np.abs(last), np.nan)
        known = np.asarray(y, float)[~np.isnan(y)]
        mean = np.abs(known).mean() if known.size else np.nan
        return np.full(len(y), mean if mean > 0 else np.nan)


PRICES = Trade(
    name="prices",
    experts="forecastbook.experts",
    baselines=("last_value", "table", "seasonal_naive", "moving_average", "historical_quantiles"),
    safe="last_value",
    trusted=None,
    favourite="blend",
    members=(),
    credit={"gbm": 0.04, "blend": 0.04, "lstm_table": 0.03, "table": 0.03, "lstm": 0.0},
    others=-0.05,  # no price model: it starts with a loss
    off=0.12,
    scatter=0.3,
    probability="p_change",
    beside="p_up",
    event="changed",
    rate="change_rate",
    safe_words="the last value",
    things="prices",
    unit="price",
    called="A change",
    with_event="changed prices",
    without_event="unchanged prices",
    size="the last price",
    error="mean |error| / last price",
    loss="quantile score / last price",
    weight=1.0,
    metric="error",
    families={"lstm": ("LSTM_Price_Forecaster", "LSTM_Seq2Seq")},
    reads=("list_price",),
)
SALES = Trade(
    name="sales",
    experts="forecastbook.salesexperts",
    baselines=(
        "zeros",
        "last_value",
        "moving_average",
        "seasonal_naive",
        "historical_quantiles",
        "croston_sba",
        "tsb",
        "imapa",
        "auto_ets",
    ),
    safe="imapa",
    trusted="blend",
    favourite="blend",
    members=("imapa", "gbm", "tide"),
    credit={"blend": 0.025, "gbm": 0.02, "tide": 0.0},
    others=-0.05,
    off=0.03,
    scatter=0.03,
    probability="p_sale",
    beside="mean",
    event="sold",
    rate="sale_rate",
    safe_words="IMAPA",
    things="sales",
    unit="units",
    called="A sale",
    with_event="periods with sales",
    without_event="periods without",
    size="mean sales",
    error="mean |error| / mean sales",
    loss="weighted quantile loss",
    weight=2.0,
    metric="loss",  # an absolute error rewards who forecasts zero
    families={"tide": ("Sales_Forecaster", "TiDE_GBM_Blend")},
)
TRADES = {"lstm": PRICES, "tide": SALES}  # by the network that a job names


def of(columns: Iterable[str]) -> Trade:
    """The trade of a table of forecasts or of scored points, by its columns; prices where nothing says otherwise."""
    return SALES if {SALES.probability, SALES.event} & set(map(str, columns)) else PRICES
