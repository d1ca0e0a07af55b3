"""What a network of a job is trained with, and from: hyperparameters, the base to start from, whether there is enough to learn.

``train`` makes the experts of one day, for ``backtest`` along its origins; ``challenger`` and ``tuning`` train networks alone.
"""

from __future__ import annotations

import importlib
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forecastbook import counts, models
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.roster import status
from forecastbook.trades import SALES
from forecastbook.wording import counted

log = logging.getLogger("forecastbook")
LARGE = 1_000_000  # cells of a panel, series times periods, from which on a training takes minutes and is told


def context(params: Params) -> int:
    """Periods of history that a network can first be trained on."""
    ahead = params.model.forecast_length or params.horizon
    return params.model.sequence_length + params.finetune.validation_days + ahead


def trainable(panel: Panel, params: Params, held: int = 0) -> str | None:
    """None when a network can be trained on this panel, else the reason why not. held: last periods that it will not see."""
    needed = context(params)
    if len(panel.dates) < needed:
        return f"{counted(len(panel.dates), 'period')} of history, a network needs {needed}"
    if params.trade is SALES:
        known, ahead = np.isfinite(counts.sold(panel)), params.model.forecast_length or params.horizon
        if not counts.learnable(known[:, : len(panel.dates) - held], ahead).any():
            return f"of no item is demand known over {counted(counts.LEAST, 'period')} and in the {ahead} after them"
    if not (status(panel, params) == "model").any():
        rules = params.eligible
        lately = f"{rules.max_gap} periods" if rules.max_gap > 1 else "period"
        return f"no series has {rules.min_observations} observations and was seen in the last {lately}"
    return None


def hyper(params: Params) -> dict:
    """Hyperparameters of a first training, as the model takes them."""
    own = params.model.model_dump(exclude={"name", "forecast_length"})
    own |= {"forecast_length": params.model.forecast_length or params.horizon, "seed": params.seed}
    if params.trade is SALES:  # trained for a fixed number of epochs, on all there is: see challenger.train
        return own | {"levels": tuple(params.levels), "validation_days": 0}
    return own | {"validation_days": params.finetune.validation_days, "patience": params.finetune.patience}


def finetune_hyper(params: Params) -> dict:
    """Hyperparameters of a fine-tune."""
    return params.finetune.hyper | {"seed": params.seed, "device": params.model.device}


def shipped(params: Params):
    """The base network that the package carries, None where the job wants another shape of network or a start from nothing."""
    if params.finetune.base in ("none", "anew"):
        return None
    return models.shipped(params.model.name, **hyper(params))


def first(view: Panel, params: Params, progress: bool = False):
    """The network of a first run: the shipped base fine-tuned on all of the history, or one trained from nothing."""
    base, own = shipped(params), hyper(params)
    if base is None:
        return models.fit(params.model.name, view, progress=progress, **own)
    free = {k: v for k, v in own.items() if k not in models.shape(params.model.name)}
    return models.finetune(base, view, progress=progress, parent=models.SHIPPED, train_days=None, **free)


def train(view: Panel, params: Params, network=None):
    """Experts as of the view's last day: the network fine-tuned from the given one or trained first, the trees grown anew.

    Where there is too little history to train on, the given network speaks as it is, at first the shipped one. None where
    nobody could be trained.
    """
    home, begun = experts_of(params), view.n_obs > 0
    if begun.any() and not begun.all():
        view = view.take(begun)  # what begins later is in no category, vocabulary or sample
    with ThreadPoolExecutor(1) as beside:  # each computes on one thread, outside of Python: two cores are used, bytes stay
        trees = beside.submit(home.grow, view, params)
        if trainable(view, params) is not None:
            network = network or shipped(params)
        elif network is None or network.info.get("id") == models.SHIPPED or params.finetune.base == "anew":
            network = first(view, params)
        else:
            network = models.finetune(network, view, **finetune_hyper(params))
        return home.together(network, trees.result())


def tell(panel: Panel, what: str) -> None:
    """Log what begins now, where the panel is so large that it takes a while."""
    if panel.y.size >= LARGE:
        log.info("%s", what)


def experts_of(params: Params):
    """The module of the experts of the job's trade. Imported when asked: a report reads the table of the backtest without."""
    return importlib.import_module(params.trade.experts)
