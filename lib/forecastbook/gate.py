"""The gate: what the record so far allows to publish.

A model is published only when it has been better than the last value on origins that were finished by then; a series keeps
the last value where the model has no proven skill on it. With no record, the last value is published.

Symbols: N series, H periods ahead, Q quantile levels, P central intervals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from forecastbook import intervals
from forecastbook.backtest import SAFE, Origin, point_error, quantile_error
from forecastbook.models import BASELINES
from forecastbook.panel import Panel
from forecastbook.params import Params
from forecastbook.run import sha256, write_text


@dataclass
class Gate:
    """What the record so far allows to publish.

    use: 'lstm' (or another model's name), or 'last_value' when nothing has proven better. hold_median: the point stays at the
    last value because the model's own point has done worse. widening: (H, P) of intervals.widening. held: (N,) bool, series
    that get the last value because the model has no proven skill on them. skill: what the choice was made on, NaN without a
    record.
    """

    use: str
    hold_median: bool
    widening: np.ndarray
    held: np.ndarray
    skill: float
    origins: int
    reasons: list[str]

    def verdict(self) -> str:
        """The choice in one sentence, computed."""
        if not self.origins:
            return "The last value is published: there is no finished origin yet on which a model could prove itself."
        over = f"over {self.origins} finished origins"
        if self.use == SAFE:
            gap = f"{self.skill:.1%} lower, which is within the handicap," if self.skill > 0 else "no lower"  # nor is a NaN
            return f"The last value is published: {over} the best candidate's quantile error was {gap} than the last value's."
        hold = " Points stay at the last value, on which no candidate was better." if self.hold_median else ""
        return (
            f"{'The model' if self.use not in BASELINES else self.use} is published: its quantile error was {self.skill:.1%} "
            f"lower than the last value's {over}; {int(self.held.sum())} series keep the last value.{hold}"
        )


def decide(record: list[Origin], params: Params, before=None) -> Gate:
    """Choose on the origins of a record whose last period had come by ``before`` (None: all of them).

    Every model and baseline of the record is a candidate, the job's model first. One is published when its mean relative
    quantile score, burdened with one origin lost by ``gate.handicap`` of the last value's, still beats the last value's (and,
    by the same burden, the candidates before it). Its point is held at the last value when its absolute error was no better.
    A series keeps the last value when its own record, mixed with ``gate.shrink`` points of the pool's, shows no gain.
    """
    finished = [o for o in record if before is None or o.ts[-1] <= before]
    finished = [o for o in finished if params.model.name in o.q] or finished  # where there is a model, it is compared
    rows = [(o.status == "model")[:, None] & np.isfinite(o.y) for o in finished]  # (N, H) each: the scored points
    finished, rows = [o for o, r in zip(finished, rows, strict=True) if r.any()], [r for r in rows if r.any()]
    n, n_series = len(finished), len(record[0].last) if record else 0
    calm = np.zeros((params.horizon, len(intervals.pairs(params.quantiles))))
    everyone = np.ones(n_series, bool)
    if not finished:
        return Gate(SAFE, False, calm, everyone, float("nan"), 0, ["no finished origin"])

    def mean(parts) -> float:  # over the points of an origin, then over origins: each origin weighs the same
        return float(np.mean([part[r].mean() for part, r in zip(parts, rows, strict=True)]))

    actual = np.concatenate([np.where(r, o.y, np.nan) for o, r in zip(finished, rows, strict=True)])
    scale = np.concatenate([o.scale for o in finished])
    safe = [quantile_error(o, o.q[SAFE], params) for o in finished]  # (N, H) each
    base, safe_point = mean(safe), mean([point_error(o, SAFE, params) for o in finished])
    best, said, skills = None, [], []
    own_first = sorted(finished[0].q, key=lambda name: name != params.model.name)
    for name in (name for name in own_first if name not in (SAFE, "published")):
        widening = intervals.widening(actual, np.concatenate([o.q[name] for o in finished]), scale, params.quantiles)
        hold = mean([point_error(o, name, params) for o in finished]) >= safe_point
        errors = [quantile_error(o, shape(o.q[name], o, widening, hold, params), params) for o in finished]
        own = mean(errors)
        gain = (n * (base - own) - params.gate.handicap * base) / (n + 1)
        skill = 1 - own / base if base > 0 else 0.0
        skills.append(float(skill))
        said.append(f"{name}: relative quantile score {own:.5f} against {base:.5f} of the last value ({skill:+.1%})")
        # a NaN is no gain; a later candidate must beat an earlier one by the handicap too, so that ties do not flip the choice
        if gain > (0 if best is None else best[0] + params.gate.handicap * base / (n + 1)):
            best = gain, name, hold, widening, errors, skill
    said.append(f"{n} finished origins; a candidate starts with one lost by {params.gate.handicap:.0%}")
    if best is None:
        known = [s for s in skills if np.isfinite(s)]
        return Gate(SAFE, False, calm, everyone, max(known, default=float("nan")), n, said)
    _, name, hold, widening, errors, skill = best
    delta = np.stack([np.where(r, s - m, 0) for s, m, r in zip(safe, errors, rows, strict=True)])  # (O, N, H)
    count = np.stack(rows).sum(axis=(0, 2))
    pool = delta.sum() / count.sum()
    held = (delta.sum(axis=(0, 2)) + params.gate.shrink * pool) / (count + params.gate.shrink) <= 0
    return Gate(name, bool(hold), widening, held, float(skill), n, said)


def shape(q, at: Origin, widening, hold_median: bool, params: Params) -> np.ndarray:
    """Calibrated quantiles (N, H, Q): widened, the median held at the last value when asked, in order, not below 0."""
    out = intervals.widen(q, at.scale, widening, params.quantiles)
    if hold_median:
        middle = params.quantiles.index(0.5)
        last = at.last[:, None]
        out[..., :middle] = np.minimum(out[..., :middle], last[..., None])
        out[..., middle + 1 :] = np.maximum(out[..., middle + 1 :], last[..., None])
        out[..., middle] = last
    return out


def publishable(at: Origin, decided: Gate, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the gate lets out from one origin: (quantiles (N, H, Q), p_change (N, H), source (N,)).

    source is 'model', 'naive' or 'excluded'; excluded rows are NaN.
    """
    out, p = at.q[SAFE].copy(), at.p[SAFE].copy()
    source = np.where(at.status == "excluded", "excluded", "naive").astype(object)
    if decided.use in at.q and decided.use != SAFE:
        use = (at.status == "model") & ~decided.held
        shaped = shape(at.q[decided.use], at, decided.widening, decided.hold_median, params)
        use &= np.isfinite(shaped).all(axis=(1, 2))
        out[use], source[use] = shaped[use], "model" if decided.use not in BASELINES else decided.use
        p[use] = np.where(np.isfinite(at.p[decided.use][use]), at.p[decided.use][use], p[use])
    out[source == "excluded"], p[source == "excluded"] = np.nan, np.nan
    return out, p, source


def replay(record: list[Origin], params: Params) -> list[Origin]:
    """Add ``published`` to each origin: what the gate would have let out there, on the record that was finished by then."""
    for at in record:
        decided = decide(record, params, before=at.date)
        at.q["published"], at.p["published"], _ = publishable(at, decided, params)
    return record


def save(run, decided: Gate, panel: Panel, **said) -> None:
    """Keep the decision beside the model (``calibration.json``) and, with what else is said of the model, in the manifest."""
    text = {
        "use": decided.use,
        "hold_median": decided.hold_median,
        "widening": decided.widening.tolist(),
        "skill": decided.skill if np.isfinite(decided.skill) else None,
        "origins": decided.origins,
        "reasons": decided.reasons,
        "held": [str(i) for i in panel.ids[decided.held]],
    }
    write_text(run.dir / "model" / "calibration.json", json.dumps(text, indent=1) + "\n")
    run.note(
        files={f"model/{path.name}": sha256(path) for path in sorted((run.dir / "model").iterdir())},
        gate={
            "use": decided.use,
            "published": decided.use,
            "verdict": decided.verdict(),
            "skill": decided.skill,
            "origins": decided.origins,
            "reasons": decided.reasons,
            "hold_median": decided.hold_median,
            "series_held": int(decided.held.sum()),
            **said,
        },
    )


def load(run, panel: Panel) -> Gate:
    """The decision that ``save`` kept, for the series of this panel. Raises RunError when a file of the model changed."""
    for name in run.manifest["files"]:
        if name.startswith("model/"):
            run.verify(name)
    text = json.loads((run.dir / "model" / "calibration.json").read_text(encoding="utf-8"))
    held = np.isin(panel.ids.astype(str), text["held"])
    skill = float("nan") if text["skill"] is None else text["skill"]
    return Gate(text["use"], text["hold_median"], np.array(text["widening"]), held, skill, text["origins"], text["reasons"])
