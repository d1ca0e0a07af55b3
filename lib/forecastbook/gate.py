"""The gate: what the record so far allows to publish.

Every expert and every baseline stand on the same origins, finished by then. What is known of a candidate's gain over the
trade's safe baseline (the last price; IMAPA for sales) is a normal prior (its credit) and the gains seen, weighed by how much
they scatter. The candidate that is expected to gain most is published when it has gained so far and more than the doubt; the
trade's favourite, where it has done so too, gives way only to one that has gained on it by more than the doubt. With no
record at all the safe baseline is published; of sales the blend, which has been better on every set it was tried on.

Symbols: N series, H periods ahead, Q quantile levels, P central intervals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from forecastbook import bands, intervals
from forecastbook.backtest import Origin, point_error, quantile_score
from forecastbook.files import sha256, write_json
from forecastbook.params import Params
from forecastbook.trades import PRICES, SALES, Trade
from forecastbook.training import experts_of
from forecastbook.wording import model_name, sentence, share1

WEIGHT = 2  # for how many origins the scatter counts that is expected before any gain is seen


@dataclass
class Gate:
    """What the record so far allows to publish.

    use: a candidate's name, or the trade's safe baseline when nothing has proven better. hold_median: the point stays at the
    last value because the candidate's own point has done worse. widening: (G, H, P) of intervals.widening. skill: of the chosen
    one (of the best candidate, when the safe baseline is published) on the record, NaN without one. standings: a row a
    candidate, best first. mix: how the trade's experts make their blend on this record, None where it needs none. rounds: from
    which fraction of a unit the upper bound of the widest band is rounded up.
    """

    use: str
    hold_median: bool
    widening: np.ndarray
    skill: float
    origins: int
    standings: list[dict]
    trade: Trade = PRICES
    mix: dict | None = None
    rounds: float = bands.ROUNDS[0]

    def verdict(self) -> str:
        """The choice in one sentence, computed."""
        safe = self.trade.safe_words
        first = f"{sentence(safe)} is published"
        if not self.origins:
            proof = "there is no finished origin yet on which a model could prove itself."
            return f"{first if self.use == self.trade.safe else f'{titled(self.use, self.trade)} is published'}: {proof}"
        over = f"over {self.origins} finished origin{'s' * (self.origins != 1)}"
        if self.use == self.trade.safe:
            if not self.skill > 0:  # nor is a NaN
                return f"{first}: {over} no candidate's quantile score was lower than {safe}'s."
            best = max((row for row in self.standings if row["skill"] == self.skill), key=lambda row: row["expected"])
            gap = f"{titled(best['model'], self.trade)} had a quantile score {share1(self.skill)} lower {over}"
            return f"{first}. {gap}, too small or too uneven a gain to expect it to last."
        hold = " Points stay at the last value, on which it was no better." if self.hold_median else ""
        gain = f"its quantile score was {share1(self.skill)} lower than {safe}'s"
        return f"{titled(self.use, self.trade)} is published: {gain} {over}.{hold}"


def titled(name: str, trade: Trade = PRICES) -> str:
    """A candidate's name at the start of a sentence."""
    return {
        "lstm": "The network",
        "tide": "The network",
        "lstm_table": "The network with the counting table",
        "gbm": "The boosted trees' model",
        "blend": "The blend of network, trees and table" if trade is PRICES else "The blend of network, trees and IMAPA",
        "table": "The counting table",
        "imapa": "IMAPA",
        "tsb": "TSB",
        "croston_sba": "Croston's method with the Syntetos-Boylan correction",
        "auto_ets": "AutoETS",
    }.get(name, name.replace("_", " ").capitalize())


def decide(record: list[Origin], params: Params, before=None, spoken=()) -> Gate:
    """Choose on the origins of a record whose last period had come by ``before`` (None: on all).

    spoken: candidates with a trained model; used only where there is no record and the trade trusts one of them.

    A gain is the safe baseline's quantile score less the candidate's, as a share of the safe one's mean; a price's point is
    held at the last value where its absolute error was no better. ``gate.doubt`` is in standard deviations of what is expected.
    """
    finished, trade = finished_by(record, before), params.trade
    finished = [o for o in finished if np.isfinite(_means(o, params)[trade.safe][0])]
    if not finished:
        calm = _calm(params, float("nan"), 0, [])
        if trade.trusted is None or trade.trusted not in spoken:
            return calm
        return replace(calm, use=trade.trusted, mix=experts_of(params).mix([], params))
    safe = {o.date: _means(o, params)[trade.safe][0] for o in finished}
    n, base, gains = len(finished), float(np.mean(list(safe.values()))), {}
    standings = [dict(model=trade.safe, score=base, skill=0.0, expected=0.0, doubt=0.0, hold=False, origins=n)]
    for name in finished[-1].q.keys() - {trade.safe, "published"}:  # one that was not there from the start has shown less
        row, gains[name] = _standing(name, finished, params)
        standings.append(row)
    standings.sort(key=lambda row: (-row["expected"] if np.isfinite(row["expected"]) else np.inf, row["model"]))  # NaN: no gain
    best = _chosen(standings, gains, safe, params)
    if best is None:
        known = [row["skill"] for row in standings if row["model"] != trade.safe and np.isfinite(row["skill"])]
        return _calm(params, max(known, default=float("nan")), n, standings)
    finished = [o for o in finished if best["model"] in o.q]
    rounds, mix = bands.rounds(finished, best["model"], params), experts_of(params).mix(finished, params)
    wider = bands.widening(finished, best["model"], rounds, best["hold"], params)
    return Gate(best["model"], best["hold"], wider, best["skill"], len(finished), standings, trade, mix, rounds)


def _standing(name: str, finished: list[Origin], params: Params) -> tuple[dict, dict]:
    """A candidate's row of the standings, and what it scored less than the safe baseline, by the date of the origin."""
    there, trade = [o for o in finished if name in o.q], params.trade
    both = np.array([(_means(o, params)[name], _means(o, params)[trade.safe]) for o in there])  # (n, 2, 3)
    (loose, held, point), safe = both[:, 0].T, both[:, 1].T
    hold = trade is PRICES and bool(not point.mean() < safe[2].mean())
    own, size = held if hold else loose, safe[0].mean()
    gain = (safe[0] - own) / size if size > 0 else -own
    skill, expected, doubt = _expected(gain, _credit(name, trade), params)
    row = dict(model=name, score=float(own.mean()), skill=skill, expected=expected, doubt=doubt, hold=hold, origins=len(there))
    return row, dict(zip((o.date for o in there), safe[0] - own, strict=True))


def finished_by(record: list[Origin], before=None) -> list[Origin]:
    """The origins of a record whose last period had come by ``before`` (None: all of them)."""
    return [o for o in record if before is None or o.ts[-1] <= before]


def _calm(params: Params, skill: float, n: int, standings: list[dict]) -> Gate:
    """The safe baseline, as it is."""
    calm = np.zeros((1, params.horizon, len(intervals.pairs(params.levels))))
    return Gate(params.trade.safe, False, calm, skill, n, standings, params.trade)


def _chosen(standings: list[dict], gains: dict[str, dict], safe: dict, params: Params) -> dict | None:
    """Of the standings, best first, the candidate to publish; None where none has beaten the safe baseline beyond the doubt.

    gains: name -> date of an origin -> what it scored less than the safe baseline, whose scores ``safe`` has. It begins with
    the favourite, where that has, else with the one that is expected to gain most, and goes on to another only where that has
    gained on it, origin by origin, by more than the doubt of that.
    Candidates that are about as good would take turns by chance, and each turn costs. And what two gain on each other scatters
    less than what they gain: one that was never worse, and now and then far better, is known by that alone.
    """
    better = [row for row in standings if row["skill"] > 0]  # whatever its credit promises; nor is a NaN
    proven, trade = [row for row in better if row["expected"] > row["doubt"]], params.trade
    if not proven:
        return None
    chosen = next((row for row in proven if row["model"] == trade.favourite), proven[0])
    for _ in better:
        most, ahead = 0.0, None
        for row in better:
            own, other = gains[row["model"]], gains[chosen["model"]]
            dates = [date for date in other if date in own]  # the last origin has both
            shared = np.array([own[date] - other[date] for date in dates]) / (np.mean([safe[date] for date in dates]) or 1.0)
            credit = _credit(row["model"], trade) - _credit(chosen["model"], trade)
            mean, expected, doubt = _expected(shared, credit, params)
            if mean > 0 and expected > max(doubt, most):
                most, ahead = expected, row
        if ahead is None:
            break
        chosen = ahead
    return chosen


def _credit(name: str, trade: Trade) -> float:
    return trade.credit.get(name, trade.others)


def _expected(gains: np.ndarray, credit: float, params: Params) -> tuple[float, float, float]:
    """(mean gain, its expectation, the doubt of that): a normal prior at the credit, met with the gains seen."""
    n, mean, trade = len(gains), float(gains.mean()), params.trade
    scatter = (((gains - mean) ** 2).sum() + WEIGHT * trade.scatter**2) / (n + WEIGHT - 1)  # of one origin's gain, squared
    seen, prior = n / scatter, 1 / trade.off**2
    expected = float((seen * mean + prior * credit) / (seen + prior))
    return mean, expected, float(params.gate.doubt * (seen + prior) ** -0.5)


def _means(at: Origin, params: Params) -> dict[str, tuple[float, float, float]]:
    """Of each forecast of an origin: mean relative quantile score, the same with the point held, mean relative absolute error.

    Over the points that have an actual, of series that a model may forecast; NaN where there is none. Kept with the origin.
    """
    for name in at.q.keys() - at.means.keys():
        scored = at.scored
        if not scored.any():
            at.means[name] = (np.nan, np.nan, np.nan)
            continue
        loose = quantile_score(at, at.q[name], params)[scored].mean()
        held = loose if params.trade is SALES else quantile_score(at, bands.hold(at.q[name], at, params), params)[scored].mean()
        at.means[name] = (
            float(loose),
            float(held),
            float(point_error(at, name, params)[scored].mean()),
        )
    return at.means


def publishable(at: Origin, decided: Gate, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the gate lets out from one origin: (quantiles (N, H, Q), probability (N, H), what is beside it (N, H), source (N,)).

    source is 'model', the name of a baseline that has won, 'naive' (the safe one) or 'excluded'; excluded rows are NaN.
    """
    safe = params.trade.safe
    out, p, beside = (said[safe].copy() for said in (at.q, at.p, at.beside))
    source = np.where(at.status == "excluded", "excluded", "naive").astype(object)
    if decided.use in at.q and decided.use != safe:
        use = at.status == "model"
        q = bands.rounded(at, decided.use, decided.rounds, params)
        shaped = bands.shape(q, at, decided.widening, decided.hold_median, params)
        use = use & np.isfinite(shaped).all(axis=(1, 2))
        out[use], source[use] = shaped[use], "model" if decided.use not in params.trade.baselines else decided.use
        said = use[:, None] & np.isfinite(at.p[decided.use])  # the plain network says no probability
        p[said], beside[said] = at.p[decided.use][said], at.beside[decided.use][said]
    source[~np.isfinite(out).all(axis=(1, 2))] = "excluded"  # seen, but never on offer: nothing is known of its demand
    for each in (out, p, beside):
        each[source == "excluded"] = np.nan
    return out, p, beside, source


def replay(record: list[Origin], params: Params) -> list[Origin]:
    """Add ``published`` to each origin: what the gate would have let out there, on the record that was finished by then.

    The blend of experts whose weights need a record is made first, at each origin on what was finished by then.
    """
    home = experts_of(params)
    for at in record:
        home.blend_in(at, home.mix(finished_by(record, at.date), params), params)
    for at in (o for o in record if not o.warm_up):
        decided = decide(record, params, before=at.date, spoken=at.q.keys())
        at.q["published"], at.p["published"], at.beside["published"], _ = publishable(at, decided, params)
    return record


def standings(decided: Gate) -> pd.DataFrame:
    """The candidates as a table, best first: mean score, skill, what is expected of it, and whether its point would be held.

    Where some stood on fewer origins than others, also on how many: their score and skill are of those.
    """
    heads = {
        "model": "candidate",
        "score": "quantile score",
        "skill": "skill",
        "expected": "expected gain",
        "doubt": "doubt",
        "hold": "point held",
        "origins": "origins",
    }
    table = pd.DataFrame(decided.standings, columns=[*heads])
    table = table.assign(model=table["model"].map(model_name), hold=table["hold"].map({True: "yes", False: ""}))
    table = table.rename(columns=heads)
    return table if table["origins"].nunique() > 1 else table.drop(columns="origins")


def save(run, decided: Gate, **said) -> None:
    """Keep the decision beside the model (``calibration.json``) and, with what else is said of the model, in the manifest."""
    told = {name: getattr(decided, name) for name in ("use", "hold_median", "skill", "origins", "standings")}
    more = {"widening": decided.widening.tolist(), "mix": decided.mix, "rounds": decided.rounds}
    write_json(run.dir / "model" / "calibration.json", told | more)
    before = {name: None for name in run.manifest["files"] if name.startswith("model/")}  # of a model that was there
    run.note(
        files=before | {f"model/{path.name}": sha256(path) for path in sorted((run.dir / "model").iterdir())},
        gate=told | {"verdict": decided.verdict()} | said,
    )


def load(run) -> Gate:
    """The decision that ``save`` kept. Raises RunError when a file of the model changed."""
    for name, noted in run.manifest["files"].items():
        if name.startswith("model/") and noted:
            run.verify(name)
    text = json.loads((run.dir / "model" / "calibration.json").read_text(encoding="utf-8"))
    nan = float("nan")  # null in the file
    skill = nan if text["skill"] is None else text["skill"]
    standings = [{name: nan if value is None else value for name, value in row.items()} for row in text["standings"]]
    return Gate(
        text["use"],
        text["hold_median"],
        np.array(text["widening"]),
        skill,
        text["origins"],
        standings,
        run.params.trade,
        text["mix"],
        text["rounds"],
    )
