"""Rolling origins: the life of the job, replayed.

A model is trained at the first origin on what was known then, fine-tuned along the way, and asked at every origin together
with the baselines. Whatever is asked gets ``panel.until(origin)`` and nothing else. Between and before the origins that are
scored lie others, on a sample of the series, where only what may be published is asked: evidence for the gate.

Symbols: N series, H periods ahead, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from forecastbook import models, scores, table
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.roster import status, trainable

SAFE = "last_value"  # what is published where nothing has proven better
WARM_UP = 8  # origins of evidence before the first that is scored, a horizon apart
WITNESSES = 500  # series that are asked at an origin of evidence
JUDGES = 5000  # series that are asked at a scored origin: a seeded sample of a larger panel says as much, and costs no more


@dataclass
class Origin:
    """Every forecast made from one origin, and what came. ``q``: name -> (N, H, Q); ``p``: name -> (N, H)."""

    date: np.datetime64
    ts: np.ndarray  # (H,) the periods forecast
    status: np.ndarray  # (N,) 'model', 'naive' or 'excluded' at that date
    last: np.ndarray  # (N,) last value then
    scale: np.ndarray  # (N,) what errors are measured in
    y: np.ndarray  # (N, H), NaN where not observed
    q: dict[str, np.ndarray] = field(default_factory=dict)
    p: dict[str, np.ndarray] = field(default_factory=dict)
    warm_up: bool = False  # evidence for the gate on a sample of the series; in no score table
    means: dict[str, tuple] = field(default_factory=dict)  # the gate's scores of each forecast, once known


def hyper(params: Params) -> dict:
    """Hyperparameters of a first training, as the model takes them."""
    own = params.model.model_dump(exclude={"name", "forecast_length"})
    return {
        **own,
        "forecast_length": params.model.forecast_length or params.horizon,
        "seed": params.seed,
        "validation_days": params.finetune.validation_days,
        "patience": params.finetune.patience,
    }


def finetune_hyper(params: Params) -> dict:
    """Hyperparameters of a fine-tune."""
    f = params.finetune
    return {
        "epochs": f.epochs,
        "learning_rate": f.learning_rate,
        "patience": f.patience,
        "validation_days": f.validation_days,
        "train_days": f.days,
        "seed": params.seed,
        "device": params.model.device,
    }


def origins(panel: Panel, params: Params) -> list[np.datetime64]:
    """Rolling origins, oldest first: the last lies a horizon before the as-of date, the others a stride apart.

    Origins with fewer periods before them than the context are left out: nobody could have forecast there.
    """
    last = len(panel.dates) - 1 - params.horizon
    found = [last - k * params.backtest.stride for k in range(params.backtest.origins)]
    return [panel.dates[i] for i in sorted(found) if i + 1 >= params.model.sequence_length]


def evidence(panel: Panel, params: Params, judged: list[np.datetime64]) -> list[np.datetime64]:
    """Origins of evidence, oldest first: a horizon apart, between the scored ones and ``WARM_UP`` before the first."""
    if not judged:
        return []
    last, first = (int(np.flatnonzero(panel.dates == d)[0]) for d in (judged[-1], judged[0]))
    found = range(last, first - WARM_UP * params.horizon - 1, -params.horizon)
    return [panel.dates[i] for i in sorted(found) if i + 1 >= params.model.sequence_length and panel.dates[i] not in judged]


def ask(panel: Panel, date, params: Params, asked: dict, warm_up: bool = False) -> Origin:
    """Every model's forecast from ``date``, made on ``panel.until(date)``, with what ``panel`` knows of the periods after."""
    view = panel.until(date)
    at = Origin(
        date,
        view.horizon_dates(params.horizon),
        status(view, params),
        view.last_value,
        models.scale(view),
        panel.after(date, params.horizon),
        warm_up=warm_up,
    )
    for name, (q, p) in models.forecasts(asked, view, params.horizon, params.quantiles).items():
        at.q[name], at.p[name] = q, p
    return at


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
    jury = judges(panel, params)
    witnesses, speaker, record = jury.sample(WITNESSES, params.seed), None, []
    for i, date in enumerate(tqdm(dates, desc="origins", disable=not progress)):
        if i in refit_at or speaker is None:
            speaker = train((teacher or panel).until(date), params, speaker.network if speaker else None)
            if teacher and speaker:
                speaker = replace(speaker, counted=table.count(teacher.until(date), params.horizon))
        spoken = {params.model.name: speaker} if speaker else {}
        asked, warm_up = (jury, False) if date in judged else (witnesses, True)
        record.append(ask(asked, date, params, models.baselines(asked.until(date)) | spoken, warm_up))
    return record


def train(view: Panel, params: Params, network=None):
    """Experts as of the view's last day: the network fine-tuned from the given one or trained first, the trees grown anew.

    Where there is too little history to train on, the given network speaks as it is, at first the shipped one; None without.
    """
    from forecastbook import experts, gbm  # lazily: a report reads the table of the backtest and needs neither

    with ThreadPoolExecutor(1) as beside:  # each computes on one thread, outside of Python: two cores are used, bytes stay
        trees = beside.submit(gbm.fit, view, params.horizon, params.seed)
        if trainable(view, params) is not None:
            network = network or shipped(params)
        elif network is None or network.info.get("id") == models.SHIPPED:
            network = first(view, params)
        else:
            network = models.finetune(network, view, **finetune_hyper(params))
        return network and experts.Experts(network, trees.result())


def shipped(params: Params):
    """The base network that the package carries, None where the job wants another shape of network or a start from nothing."""
    if params.finetune.base == "none":
        return None
    return models.shipped(params.model.name, **hyper(params))


def first(view: Panel, params: Params, progress: bool = False):
    """The network of a first run: the shipped base fine-tuned on all of the history, or one trained from nothing."""
    base, own = shipped(params), hyper(params)
    if base is None:
        return models.fit(params.model.name, view, progress=progress, **own)
    free = {k: v for k, v in own.items() if k not in models.SHAPE}
    return models.finetune(base, view, progress=progress, parent=models.SHIPPED, train_days=None, **free)


def quantile_error(at: Origin, q, params: Params) -> np.ndarray:
    """(N, H) mean pinball over the levels, relative to the scale; NaN where not observed."""
    return scores.pinball(at.y, q, params.quantiles).mean(axis=-1) / at.scale[:, None]


def point_error(at: Origin, name: str, params: Params) -> np.ndarray:
    return np.abs(at.y - at.q[name][..., params.quantiles.index(0.5)]) / at.scale[:, None]  # (N, H)


def level_name(level: float) -> str:
    """Column of a quantile level: .05 -> q05, .5 -> q50, .975 -> q975."""
    return "q" + f"{level:.4f}"[2:].rstrip("0").ljust(2, "0")


def parts(record: list[Origin], ids: np.ndarray, params: Params) -> Iterator[pd.DataFrame]:
    """``backtest.parquet`` in parts, one a model: a row a series, origin and horizon, of every series that was forecast there.

    At least one part, which is empty when there is no record. Model and series are categories.
    """
    judged = [at for at in record if not at.warm_up]
    names = ["published", *dict.fromkeys(n for at in record for n in at.q if n != "published")]
    model, series, H = pd.CategoricalDtype(names), pd.CategoricalDtype(ids), params.horizon
    for name in [n for n in names if any(n in at.q for at in judged)] or names[:1]:
        asked = [(at, np.flatnonzero(at.status != "excluded"), at.q[name], at.p[name]) for at in judged if name in at.q]

        def column(values, kind, asked=asked) -> np.ndarray:
            """``values(origin, series, q, p)`` of all origins, one below the other: anything that broadcasts to (series, H)."""
            found = [np.broadcast_to(values(at, rows, q, p), (len(rows), H)).ravel() for at, rows, q, p in asked]
            return np.concatenate(found) if found else np.empty(0, dtype=kind)

        row = column(lambda at, rows, q, p: rows[:, None], int)
        columns = {
            "model": pd.Categorical.from_codes(np.full(len(row), names.index(name)), dtype=model),
            "series_id": pd.Categorical.from_codes(row, dtype=series),
            "origin": column(lambda at, rows, q, p: np.datetime64(at.date, "ms"), "datetime64[ms]"),
            "ts": column(lambda at, rows, q, p: at.ts.astype("datetime64[ns]"), "datetime64[ns]"),
            "horizon": column(lambda at, rows, q, p: np.arange(1, H + 1), int),
            "y": column(lambda at, rows, q, p: at.y[rows], float),
        }
        for k, level in enumerate(params.quantiles):
            columns[level_name(level)] = column(lambda at, rows, q, p, k=k: q[rows, :, k], float)
        columns["last_value"] = column(lambda at, rows, q, p: at.last[rows, None], float)
        columns["p_change"] = column(lambda at, rows, q, p: p[rows], float)
        yield pd.DataFrame(columns, copy=False)


def frame(record: list[Origin], ids: np.ndarray, params: Params) -> pd.DataFrame:
    """All of ``parts`` in one frame."""
    return pd.concat(parts(record, ids, params), ignore_index=True)
