"""Rolling origins: the life of the job, replayed.

A model is trained at the first origin on what was known then, fine-tuned along the way, and asked at every origin together
with the baselines. Whatever is asked gets ``panel.until(origin)`` and nothing else. Between and before the origins that are
scored lie others, on a sample of the series, where only what may be published is asked: evidence for the gate.

Symbols: N series, H periods ahead, Q quantile levels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from forecastbook import blend, countingtable, counts, models, scores, training
from forecastbook.counts import Demand
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.roster import status
from forecastbook.sticky import Outlook
from forecastbook.trades import PRICES, SALES

WARM_UP = 8  # origins of evidence before the first that is scored, a horizon apart
WARM_UP_SALES = 2  # the same of sales
WITNESSES = 500  # series that are asked at an origin of evidence
JUDGES = 5000  # series that are asked at a scored origin: a seeded sample of a larger panel says as much, and costs no more
SILENCE = 60.0  # seconds without a line, after which an origin that only asks is told too


@dataclass
class Origin:
    """Every forecast made from one origin, and what came, by the name of who made it."""

    date: np.datetime64
    ts: np.ndarray  # (H,) the periods forecast
    status: np.ndarray  # (N,) 'model', 'naive' or 'excluded' at that date
    last: np.ndarray  # (N,) last value then
    scale: np.ndarray  # (N,) what errors are measured in: the size of a price, 1 for sales
    y: np.ndarray  # (N, H), NaN where not observed
    q: dict[str, np.ndarray] = field(default_factory=dict)  # (N, H, Q) quantiles
    p: dict[str, np.ndarray] = field(default_factory=dict)  # (N, H) the trade's ``probability``
    beside: dict[str, np.ndarray] = field(default_factory=dict)  # (N, H) what the trade forecasts ``beside`` it
    raw: dict[str, Demand] = field(default_factory=dict)  # of sales: the blend and its members, before they are rounded
    group: np.ndarray | None = None  # (N,) calibrated together; by default all
    spread: np.ndarray | None = None  # (N,) what a band is widened in; by default the scale
    whole: bool = False  # sales are whole numbers
    warm_up: bool = False  # evidence for the gate on a sample of the series; in no score table
    means: dict[str, tuple] = field(default_factory=dict)  # the gate's scores of each forecast, once known

    def __post_init__(self):
        self.group = np.zeros(len(self.scale), dtype=int) if self.group is None else self.group
        self.spread = self.scale if self.spread is None else self.spread

    def put(self, name: str, said: Outlook | Demand) -> None:
        """Keep a forecast. Of a Demand the quantiles are rounded where sales are whole numbers."""
        if isinstance(said, Demand):
            if name in (*SALES.members, "blend"):
                self.raw[name] = said
            said = blend.whole(said) if self.whole else said
            said = said.q, 1 - said.zero, said.mean
        self.q[name], self.p[name], self.beside[name] = said

    @property
    def scored(self) -> np.ndarray:
        """(N, H) bool: points that have an actual, of series that a model may forecast."""
        return (self.status == "model")[:, None] & np.isfinite(self.y)

    def unrounded(self, name: str) -> np.ndarray:
        """(N, H, Q) quantiles as they were said, where that is known; else as they are."""
        return self.raw[name].q if name in self.raw else self.q[name]


def origins(panel: Panel, params: Params) -> list[np.datetime64]:
    """Rolling origins, oldest first: the last lies a horizon before the as-of date, the others a stride apart.

    Origins with fewer than ``model.sequence_length`` periods up to them are left out: nobody could have forecast there.
    """
    last = len(panel.dates) - 1 - params.horizon
    found = [last - k * params.backtest.stride for k in range(params.backtest.origins)]
    return [panel.dates[i] for i in sorted(found) if i + 1 >= params.model.sequence_length]


def evidence(panel: Panel, params: Params, judged: list[np.datetime64]) -> list[np.datetime64]:
    """Origins of evidence, oldest first: a horizon apart, between the scored ones and ``WARM_UP`` before the first."""
    if not judged:
        return []
    last, first = (int(np.flatnonzero(panel.dates == d)[0]) for d in (judged[-1], judged[0]))
    sales = params.trade is SALES  # slower to train: less evidence, and none without a network
    found = range(last, first - (WARM_UP_SALES if sales else WARM_UP) * params.horizon - 1, -params.horizon)
    least = training.context(params) if sales else params.model.sequence_length
    return [panel.dates[i] for i in sorted(found) if i + 1 >= least and panel.dates[i] not in judged]


def ask(panel: Panel, date, params: Params, asked: dict, warm_up: bool = False) -> Origin:
    """Every model's forecast from ``date``, made on ``panel.until(date)``, with what ``panel`` knows of the periods after."""
    came = replace(panel, y=counts.sold(panel)) if params.trade is SALES else panel  # a stock-out says nothing of demand
    view = panel.until(date)
    at = opened(view, params, came.after(date, params.horizon), warm_up)
    for name, said in models.forecasts(asked, view, params.horizon, params.levels).items():
        at.put(name, said)
    return at


def opened(view: Panel, params: Params, y: np.ndarray | None = None, warm_up: bool = False) -> Origin:
    """An origin at the view's last day, nothing asked yet; without what came (N, H), ``y`` is NaN."""
    return Origin(
        view.as_of,
        view.horizon_dates(params.horizon),
        status(view, params),
        view.last_value,
        np.ones(len(view)) if params.trade is SALES else models.scale(view),
        np.full((len(view), params.horizon), np.nan) if y is None else y,
        warm_up=warm_up,
        **(counts.calibration(view) if params.trade is SALES else {}),
    )


def judges(panel: Panel, params: Params) -> Panel:
    """The series that are asked at the scored origins: all of them, up to ``JUDGES``."""
    return panel.sample(JUDGES, params.seed)


def rolling(panel: Panel, params: Params, progress: bool = False, teacher: Panel | None = None) -> list[Origin]:
    """Replay the job over its rolling origins, oldest first: train before the first, fine-tune ``refits - 1`` times, ask all.

    The record speaks of the series of ``judges``. Origins marked ``warm_up`` are the evidence that the gate has beside the
    scored ones. The first training starts from where a first run would: never from a champion, which has seen the days to come.
    A ``teacher`` is another panel of the same dates that is learnt from instead, so that no series is asked that was learnt.
    """
    judged = origins(panel, params)
    dates = sorted(judged + evidence(panel, params, judged))
    refit_at = {int(i) for i in np.linspace(0, len(dates), params.backtest.refits, endpoint=False)} if dates else set()
    jury, speaker, record, told = judges(panel, params), None, [], time.monotonic()
    for i, date in enumerate(tqdm(dates, desc="origins", disable=not progress)):
        trains = i in refit_at or speaker is None
        if trains or time.monotonic() - told > SILENCE:
            told = time.monotonic()
            training.tell(teacher or panel, f"origin {i + 1} of {len(dates)}, {date}: {'training' if trains else 'asking'}")
        if trains:
            speaker = training.train((teacher or panel).until(date), params, speaker and speaker.network)
            if teacher and speaker and params.trade is PRICES:
                speaker = replace(speaker, counted=countingtable.count(teacher.until(date), params.horizon))
        spoken = {params.model.name: speaker} if speaker else {}
        asked, warm_up = jury, date not in judged
        if warm_up and len(jury) > WITNESSES:  # drawn as of that day: what begins later has no say in who is asked
            asked = jury.take(jury.until(date).drawn(WITNESSES, params.seed))
        record.append(ask(asked, date, params, models.baselines(asked.until(date), params.trade) | spoken, warm_up))
    return record


def quantile_score(at: Origin, q, params: Params) -> np.ndarray:
    """(N, H) mean pinball over the levels, relative to the scale; NaN where not observed."""
    loss = scores.pinball(at.y, q[..., params.scored], params.quantiles).mean(axis=-1)
    return loss / at.scale[:, None]


def point_error(at: Origin, name: str, params: Params) -> np.ndarray:
    return np.abs(at.y - at.q[name][..., params.levels.index(0.5)]) / at.scale[:, None]  # (N, H)


def level_name(level: float) -> str:
    """Column of a quantile level: .05 -> q05, .5 -> q50, .975 -> q975."""
    return "q" + f"{level:.4f}"[2:].rstrip("0").ljust(2, "0")


def parts(record: list[Origin], ids: np.ndarray, params: Params) -> Iterator[pd.DataFrame]:
    """``backtest.parquet`` in parts, one a model: a row a series, origin and horizon, of every series that was forecast there.

    At least one part, which is empty when there is no record. Model and series are categories.
    """
    judged = [at for at in record if not at.warm_up]
    names = ["published", *dict.fromkeys(n for at in record for n in at.q if n != "published")]
    kinds = {"series_id": ids, "demand_class": list(counts.CLASSES)}  # columns of codes, and what they stand for
    for name in [n for n in names if any(n in at.q for at in judged)] or names[:1]:
        said = [_rows(at, name, params) for at in judged if name in at.q] or [_rows(_nobody(params), name, params)]
        columns = {c: np.concatenate([part[c] for part in said]) for c in said[0]}
        for c in kinds.keys() & columns.keys():
            columns[c] = pd.Categorical.from_codes(columns[c], categories=kinds[c])
        model = np.full(len(columns["y"]), names.index(name))
        yield pd.DataFrame({"model": pd.Categorical.from_codes(model, categories=names)} | columns, copy=False)


def _rows(at: Origin, name: str, params: Params) -> dict[str, np.ndarray]:
    """One forecast of an origin as columns of ``backtest.parquet``, (n * H,) each, of the n series that were forecast there."""
    rows, H, trade = np.flatnonzero(at.status != "excluded"), params.horizon, params.trade
    columns = {
        "series_id": np.repeat(rows, H),
        "origin": np.full(len(rows) * H, np.datetime64(at.date, "ms")),
        "ts": np.tile(at.ts.astype("datetime64[ns]"), len(rows)),
        "horizon": np.tile(np.arange(1, H + 1), len(rows)),
        "y": at.y[rows].ravel(),
    }
    columns |= {level_name(level): at.q[name][rows, :, k].ravel() for k, level in enumerate(params.levels)}
    columns["last_value"] = np.repeat(at.last[rows], H)
    columns |= {trade.probability: at.p[name][rows].ravel(), trade.beside: at.beside[name][rows].ravel()}
    return columns | ({"demand_class": np.repeat(at.group[rows], H)} if trade is SALES else {})


def _nobody(params: Params) -> Origin:
    """An origin of no series."""
    H, none = params.horizon, np.empty(0)
    at = Origin(np.datetime64("NaT", "D"), np.full(H, "NaT", "M8[D]"), none.astype(str), none, none, np.empty((0, H)))
    at.q["published"] = np.empty((0, H, len(params.levels)))
    at.p["published"] = at.beside["published"] = np.empty((0, H))
    return at


def frame(record: list[Origin], ids: np.ndarray, params: Params) -> pd.DataFrame:
    """All of ``parts`` in one frame."""
    return pd.concat(parts(record, ids, params), ignore_index=True)
