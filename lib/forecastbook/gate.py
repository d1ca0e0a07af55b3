"""The gate: what the record so far allows to publish.

Every expert, every baseline and the last value stand on the same origins, finished by then. What is known of a candidate's gain
is a normal prior (its credit) and the gains seen, weighed by how much they scatter. The candidate that is expected to gain most
is published when the last value is beaten by more than the doubt; with no record the last value is published.

Symbols: N series, H periods ahead, Q quantile levels, P central intervals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forecastbook import intervals
from forecastbook.backtest import SAFE, Origin, point_error, quantile_error
from forecastbook.models import BASELINES
from forecastbook.params import Params
from forecastbook.run import sha256, write_text

# What a candidate may be expected to gain before it has shown anything, as a share of the last value's score, and how far that
# may be off (a standard deviation): from the development data, shrunk. A baseline that is no price model starts with a loss.
CREDIT = {"gbm": 0.04, "blend": 0.04, "lstm_table": 0.03, "table": 0.03, "lstm": 0.0}
OTHERS, OFF = -0.05, 0.12
SCATTER, WEIGHT = 0.3, 2  # of the gains from origin to origin before any is seen, and for how many origins that counts


@dataclass
class Gate:
    """What the record so far allows to publish.

    use: a candidate's name, or 'last_value' when nothing has proven better. hold_median: the point stays at the last value
    because the candidate's own point has done worse. widening: (H, P) of intervals.widening. skill: of the chosen one (of the
    best candidate, when the last value is published) on the record, NaN without one. standings: a row a candidate, best first.
    """

    use: str
    hold_median: bool
    widening: np.ndarray
    skill: float
    origins: int
    standings: list[dict]

    def verdict(self) -> str:
        """The choice in one sentence, computed."""
        if not self.origins:
            return "The last value is published: there is no finished origin yet on which a model could prove itself."
        over = f"over {self.origins} finished origins"
        if self.use == SAFE:
            gap = f"{self.skill:.1%} lower, which is within the doubt," if self.skill > 0 else "no lower"  # nor is a NaN
            said = f"{over} the best candidate's quantile error was {gap} than the last value's"
            return f"The last value is published: {said}."
        hold = " Points stay at the last value, on which it was no better." if self.hold_median else ""
        gain = f"its quantile error was {self.skill:.1%} lower than the last value's"
        return f"{titled(self.use)} is published: {gain} {over}.{hold}"


def titled(name: str) -> str:
    """A candidate's name at the start of a sentence."""
    return {
        "lstm": "The network",
        "lstm_table": "The network with the counting table",
        "gbm": "The boosted trees' model",
        "blend": "The blend of network, trees and table",
        "table": "The counting table",
    }.get(name, name)


def decide(record: list[Origin], params: Params, before=None) -> Gate:
    """Choose on the origins of a record whose last period had come by ``before`` (None: on all).

    A gain is the last value's relative quantile score less the candidate's, as a share of the last value's mean; a point is
    held at the last value where its absolute error was no better. ``gate.doubt`` is in standard deviations of what is expected.
    """
    finished = [o for o in record if before is None or o.ts[-1] <= before]
    finished = [o for o in finished if np.isfinite(_means(o, params)[SAFE][0])]
    calm = np.zeros((params.horizon, len(intervals.pairs(params.quantiles))))
    if not finished:
        return Gate(SAFE, False, calm, float("nan"), 0, [])
    n = len(finished)
    base = float(np.mean([_means(o, params)[SAFE][0] for o in finished]))
    standings = [dict(model=SAFE, score=base, skill=0.0, expected=0.0, doubt=0.0, hold=False)]
    for name in finished[-1].q.keys() - {SAFE, "published"}:  # one that was not there from the start has shown less
        both = np.array([(_means(o, params)[name], _means(o, params)[SAFE]) for o in finished if name in o.q])  # (n, 2, 3)
        (loose, held, point), safe = both[:, 0].T, both[:, 1].T
        hold = bool(not point.mean() < safe[2].mean())
        own = held if hold else loose
        size = safe[0].mean()
        skill, expected, doubt = _expected((safe[0] - own) / size if size > 0 else -own, CREDIT.get(name, OTHERS))
        doubt *= params.gate.doubt
        standings.append(dict(model=name, score=float(own.mean()), skill=skill, expected=expected, doubt=doubt, hold=hold))
    standings.sort(key=lambda row: (-row["expected"] if np.isfinite(row["expected"]) else np.inf, row["model"]))  # NaN: no gain
    best = next((row for row in standings if row["expected"] > row["doubt"]), None)
    if best is None or base <= 0:
        known = [row["skill"] for row in standings if row["model"] != SAFE and np.isfinite(row["skill"])]
        return Gate(SAFE, False, calm, max(known, default=float("nan")), n, standings)
    finished = [o for o in finished if best["model"] in o.q]
    rows = [(o.status == "model")[:, None] & np.isfinite(o.y) for o in finished]
    actual = np.concatenate([np.where(r, o.y, np.nan) for o, r in zip(finished, rows, strict=True)])
    scale, said = np.concatenate([o.scale for o in finished]), np.concatenate([o.q[best["model"]] for o in finished])
    widening = intervals.widening(actual, said, scale, params.quantiles)
    return Gate(best["model"], best["hold"], widening, best["skill"], len(finished), standings)


def _expected(gains: np.ndarray, credit: float) -> tuple[float, float, float]:
    """(mean gain, its expectation, the standard deviation of that): a normal prior at the credit, met with the gains seen."""
    n, mean = len(gains), float(gains.mean())
    scatter = (((gains - mean) ** 2).sum() + WEIGHT * SCATTER**2) / (n + WEIGHT - 1)  # of one origin's gain, squared
    seen, prior = n / scatter, 1 / OFF**2
    return mean, float((seen * mean + prior * credit) / (seen + prior)), float((seen + prior) ** -0.5)


def _means(at: Origin, params: Params) -> dict[str, tuple[float, float, float]]:
    """Of each forecast of an origin: mean relative quantile score, the same with the point held, mean relative absolute error.

    Over the points that have an actual, of series that a model may forecast; NaN where there is none. Kept with the origin.
    """
    for name in at.q.keys() - at.means.keys():
        scored = (at.status == "model")[:, None] & np.isfinite(at.y)
        if not scored.any():
            at.means[name] = (np.nan, np.nan, np.nan)
            continue
        held = quantile_error(at, hold(at.q[name], at, params), params)[scored].mean()
        at.means[name] = (
            float(quantile_error(at, at.q[name], params)[scored].mean()),
            float(held),
            float(point_error(at, name, params)[scored].mean()),
        )
    return at.means


def hold(q, at: Origin, params: Params) -> np.ndarray:
    """Quantiles with the median at the last value and the others on their side of it: (N, H, Q), a copy."""
    out, middle, last = np.array(q, float), params.quantiles.index(0.5), at.last[:, None]
    out[..., :middle] = np.minimum(out[..., :middle], last[..., None])
    out[..., middle + 1 :] = np.maximum(out[..., middle + 1 :], last[..., None])
    out[..., middle] = last
    return out


def shape(q, at: Origin, widening, hold_median: bool, params: Params) -> np.ndarray:
    """Calibrated quantiles (N, H, Q): widened, the median held at the last value when asked, in order, not below 0."""
    out = intervals.widen(q, at.scale, widening, params.quantiles)
    return hold(out, at, params) if hold_median else out


def publishable(at: Origin, decided: Gate, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the gate lets out from one origin: (quantiles (N, H, Q), p_change (N, H), source (N,)).

    source is 'model', 'naive' or 'excluded'; excluded rows are NaN.
    """
    out, p = at.q[SAFE].copy(), at.p[SAFE].copy()
    source = np.where(at.status == "excluded", "excluded", "naive").astype(object)
    if decided.use in at.q and decided.use != SAFE:
        use = at.status == "model"
        shaped = shape(at.q[decided.use], at, decided.widening, decided.hold_median, params)
        use = use & np.isfinite(shaped).all(axis=(1, 2))
        out[use], source[use] = shaped[use], "model" if decided.use not in BASELINES else decided.use
        p[use] = np.where(np.isfinite(at.p[decided.use][use]), at.p[decided.use][use], p[use])
    out[source == "excluded"], p[source == "excluded"] = np.nan, np.nan
    return out, p, source


def replay(record: list[Origin], params: Params) -> list[Origin]:
    """Add ``published`` to each origin: what the gate would have let out there, on the record that was finished by then."""
    for at in (o for o in record if not o.warm_up):
        decided = decide(record, params, before=at.date)
        at.q["published"], at.p["published"], _ = publishable(at, decided, params)
    return record


def standings(decided: Gate) -> pd.DataFrame:
    """The candidates as a table, best first: mean score, skill, what is expected of it, and whether its point would be held."""
    table = pd.DataFrame(decided.standings, columns=["model", "score", "skill", "expected", "doubt", "hold"])
    heads = {
        "model": "candidate",
        "score": "quantile error, share of price",
        "skill": "skill against last value",
        "expected": "expected gain",
        "hold": "point held",
    }
    return table.assign(hold=table["hold"].map({True: "yes", False: ""})).rename(columns=heads)


def save(run, decided: Gate, **said) -> None:
    """Keep the decision beside the model (``calibration.json``) and, with what else is said of the model, in the manifest."""
    text = {
        "use": decided.use,
        "hold_median": decided.hold_median,
        "widening": decided.widening.tolist(),
        "skill": decided.skill if np.isfinite(decided.skill) else None,
        "origins": decided.origins,
        "standings": decided.standings,
    }
    write_text(run.dir / "model" / "calibration.json", json.dumps(text, indent=1) + "\n")
    run.note(
        files={f"model/{path.name}": sha256(path) for path in sorted((run.dir / "model").iterdir())},
        gate={
            "use": decided.use,
            "verdict": decided.verdict(),
            "skill": decided.skill,
            "origins": decided.origins,
            "standings": decided.standings,
            "hold_median": decided.hold_median,
            **said,
        },
    )


def load(run) -> Gate:
    """The decision that ``save`` kept. Raises RunError when a file of the model changed."""
    for name in run.manifest["files"]:
        if name.startswith("model/"):
            run.verify(name)
    text = json.loads((run.dir / "model" / "calibration.json").read_text(encoding="utf-8"))
    skill = float("nan") if text["skill"] is None else text["skill"]
    return Gate(text["use"], text["hold_median"], np.array(text["widening"]), skill, text["origins"], text["standings"])
