"""The experts on a posted price: the network, the boosted trees and the counting table, alone and together.

All of them say how likely it is that a price differs by then, and that it is higher then; the network also says where it goes
on either side. The ways to combine them are the candidates of the gate:

- ``lstm``: the network. ``lstm_table``: mean of the log odds of network and table, the cheapest insurance.
- ``gbm``: the trees' hazard. ``blend``: mean of the log odds of all three, in which the trees count twice. The side of both is
  a mean of all three.

Against the table's count of states, network and trees have credibility n / (n + ``EVIDENCE``), where n is the number of days of
change they could learn from: with few campaigns in the history they overfit them.

Symbols: N series, H days ahead, Q quantiles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from . import countingtable, gbm, grid, lstm, spells, sticky
from .panel import Panel
from .params import Params

NAMES = ("lstm", "lstm_table", "gbm", "blend")
EVIDENCE = 30  # effective days of change at which what was learnt counts half of what it will


@dataclass(frozen=True)
class Experts:
    """A trained network, trees grown beside it (None: too little to learn from), and the table (None: counted when asked)."""

    network: lstm.Model
    trees: gbm.Trees | None = None
    counted: countingtable.CountingTable | None = None

    def forecasts(self, panel: Panel, horizon: int, quantiles) -> dict[str, sticky.Outlook]:
        """Name -> outlook of every candidate; NaN for a series never observed."""
        if self.network.hyper["window"] == "single":
            return {"lstm": lstm.forecast(self.network, panel, horizon, quantiles)}
        names = [n for n in NAMES if self.trees is not None or n in ("lstm", "lstm_table")]
        out = {name: sticky.Outlook.unknown(len(panel), horizon, len(quantiles)) for name in names}
        counted, steps = self.counted or countingtable.count(panel, horizon), grid.of(panel)
        ahead = spells.calendar(panel, 1, horizon)[0]  # (H, 7)
        learnt = counted.change_days / (counted.change_days + EVIDENCE)
        for rows, part in panel.seen():
            posted, said = lstm.mixture(self.network, part, ahead, steps)
            today = posted.features[:, -1]
            tabled = counted.on(said.ladder, today)
            hazards = {"lstm": said.hazard, "lstm_table": sticky.mean_odds([said.hazard, tabled.hazard], [learnt, 1])}
            goes = dict.fromkeys(names, said)
            if self.trees is not None:
                hazards["gbm"] = self.trees.hazard(today, ahead)
                three = [said.hazard, tabled.hazard, hazards["gbm"]]
                hazards["blend"] = sticky.mean_odds(three, [learnt, 1, 2 * learnt])
                side = self.trees.upward(today, ahead)
                if side is not None:
                    goes["gbm"] = goes["blend"] = said.leaning(sticky.mean_odds([said.upward, tabled.upward, side]))
            for name, hazard in hazards.items():
                out[name].put(rows, replace(goes[name], hazard=hazard).outlook(quantiles))
        return out

    def looks(self, panel: Panel) -> tuple[pd.DataFrame, np.ndarray]:
        """What the experts look at: importance of features to the trees, mean attention (H, L) of the network; may be empty."""
        none = pd.DataFrame(columns=["feature", "share"])
        importance, hyper = self.trees.importance() if self.trees else none, self.network.hyper
        if not hyper["attention"] or hyper["window"] == "single":
            return importance, np.empty((0, 0))
        return importance, lstm.attention(self.network, panel.take(panel.n_obs > 0)).mean(axis=0)


def grow(view: Panel, params: Params) -> gbm.Trees | None:
    """The trees, anew; None where there is too little to learn from."""
    return gbm.fit(view, params.horizon, params.seed)


def together(network: lstm.Model | None, trees: gbm.Trees | None) -> Experts | None:
    """Those who could be trained; None without a network, which says where a price goes."""
    return network and Experts(network, trees)


def plant(trees: gbm.Trees | None, directory: Path) -> None:
    """Put trees beside the network that ``directory`` holds, in place of those that were there; none beside a baseline."""
    (Path(directory) / gbm.FILE).unlink(missing_ok=True)  # of the run whose network forecasts again
    if trees and _holds_network(directory):
        gbm.save(trees, directory)


def mix(finished: list, params: Params) -> None:
    """Nothing: the blend of prices is a mean of log odds, whatever the record says."""


def blend_in(at, how: None, params: Params) -> None:
    """Nothing: ``Experts.forecasts`` has blended already."""


def load(directory) -> Experts | None:
    """The network and the trees of a model directory; None where it holds a baseline, so that no expert was kept."""
    return Experts(lstm.load(directory), gbm.load(directory)) if _holds_network(directory) else None


def _holds_network(directory) -> bool:
    described = json.loads((Path(directory) / "model.json").read_text(encoding="utf-8"))
    return described["model"] == "lstm"
