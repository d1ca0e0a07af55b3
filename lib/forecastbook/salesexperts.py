"""The experts on sales: the network, the pooled trees, and IMAPA, alone and blended.

They differ in how they can be wrong, so their weighted quantiles are better than each: ``tide`` is the network, ``gbm`` the
pooled quantile trees, ``blend`` the mean of both and IMAPA with weights and a level read from finished origins. Whole numbers
come last, after blend and level.

Symbols: N series, H periods ahead, Q quantiles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from . import blend, pooled
from .counts import Demand
from .panel import Panel
from .params import Params
from .trades import SALES


@dataclass(frozen=True)
class Experts:
    """A trained network and trees grown beside it; either may be missing (None), not both."""

    network: object | None
    trees: pooled.Pooled | None

    def forecasts(self, panel: Panel, horizon: int, quantiles) -> dict[str, Demand]:
        """Name -> Demand of every member of the blend but the baselines; NaN for a series never observed."""
        out = {}
        if self.network is not None:
            from . import tide  # lazily: darts is slow to import

            out["tide"] = tide.forecast(self.network, panel, horizon, quantiles)
        if self.trees is not None:
            out["gbm"] = self.trees.forecast(panel, horizon, quantiles)
        return out

    def looks(self, panel: Panel) -> tuple[pd.DataFrame, np.ndarray]:
        """What the trees look at: feature, share of the loss that its splits saved. The network has no attention: (0, 0)."""
        none = pd.DataFrame(columns=["feature", "share"])
        return none if self.trees is None else self.trees.importance(), np.empty((0, 0))


def grow(view: Panel, params: Params) -> pooled.Pooled | None:
    """The trees, anew; None where there is too little to learn from. Service levels but the highest lie between the others."""
    levels = sorted({*params.quantiles, max(params.levels)})
    return pooled.fit(view, params.horizon, levels, params.seed)


def together(network, trees: pooled.Pooled | None) -> Experts | None:
    """Those who could be trained; None where nobody could."""
    return None if network is None and trees is None else Experts(network, trees)


def plant(trees: pooled.Pooled | None, directory: Path) -> None:
    """Put trees into ``directory``, in place of those that were there, whatever else it holds."""
    (Path(directory) / pooled.FILE).unlink(missing_ok=True)
    if trees:
        pooled.save(trees, directory)


def load(directory: Path) -> Experts | None:
    """The network and the trees of a model directory; None where it has neither."""
    described, network = json.loads((Path(directory) / "model.json").read_text(encoding="utf-8")), None
    if described["model"] == "tide":
        from . import tide

        network = tide.load(directory)
    return together(network, pooled.load(directory))


def mix(finished: list, params: Params) -> dict:
    """How to blend on the record of finished origins: {"weights": name -> one a level, "level": factors of quantiles and mean}.

    Weights are read from the quantiles that are scored; those of other levels lie between. Origins at which only IMAPA
    has spoken are left out.
    """
    told = [
        blend.Finished(at.y, {name: replace(said, q=said.q[..., params.scored]) for name, said in at.raw.items()})
        for at in finished
        if len(at.raw) > 1
    ]
    names = [name for name in SALES.members if told and name in told[-1].said] or list(SALES.members)
    found = blend.weights(told, names, params.quantiles)
    level = blend.level(told, found, params.quantiles)
    weights = {name: np.interp(params.levels, params.quantiles, w).tolist() for name, w in found.items()}
    return {"weights": weights, "level": list(level)}


def blend_in(at, how: dict | None, params: Params) -> None:
    """Add ``blend`` to an origin at which more than one member has spoken."""
    members = {name: at.raw[name] for name in SALES.members if name in at.raw}
    if how and len(members) > 1:
        told = {name: np.array(w) for name, w in how["weights"].items() if name in members}
        weights = blend.prior(list(members), params.levels) | told  # of one that has not spoken before nothing else is known
        said = blend.combine(members, weights, blend.Level(*how["level"]))
        at.put("blend", blend.settled(said, params.levels))
