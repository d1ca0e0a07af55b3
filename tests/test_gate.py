"""The gate: what proves itself is published, everything else is the last value; and only what had come counts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import LEVELS, made_run, posted_prices, tiny
from forecastbook import bands, counts, gate, intervals, scores
from forecastbook.backtest import Origin
from forecastbook.files import RunError
from forecastbook.params import Params
from forecastbook.run import Run
from forecastbook.trades import PRICES

SAFE, FAVOURITE = PRICES.safe, PRICES.favourite
nan = np.nan
H, STEPS = 2, np.array([-2.0, -1, 0, 1, 2])
PARAMS = tiny(horizon=H)


def origin(i, widths, y=100.0, medians=None, status="model", last=100.0, p=None):
    """An origin on day 2i of N series whose bands are ``widths[name]`` (number or (N,)) x (-2 .. 2) around their medians.

    The mean pinball of a point that lies on the median is 0.14 x width: widths set the skill exactly, and the widening is 0.
    """
    N = max([np.size(w) for w in widths.values()] + [np.size(y)])
    y = np.broadcast_to(np.asarray(y, float).reshape(-1, 1), (N, H)).copy()
    ts = np.datetime64("2024-01-01") + 2 * i + np.arange(1, H + 1)
    at = Origin(ts[0] - 1, ts, np.full(N, status, dtype=object), np.full(N, last), np.full(N, 100.0), y)
    for name, width in widths.items():
        middle = (medians or {}).get(name, last)
        spread = np.broadcast_to(np.asarray(width, float), N)[:, None, None] * STEPS
        at.q[name], at.p[name] = middle + np.broadcast_to(spread, (N, H, 5)), np.full((N, H), 0.5 if p is None else p)
        at.beside[name] = at.p[name] / 4
    return at


def record(n, widths, **more):
    return [origin(i, widths, **more) for i in range(n)]


# ---- what is published


def test_without_a_record_the_last_value_is_published():
    for empty in ([], record(3, {SAFE: 1.0, "lstm": nan}, y=nan), record(3, {SAFE: 2.0, "lstm": 1.0}, status="naive")):
        decided = gate.decide(empty, PARAMS)
        assert (decided.use, decided.origins, decided.hold_median) == (SAFE, 0, False) and math.isnan(decided.skill)
        assert decided.standings == [] and (decided.widening == 0).all()
        assert "no finished origin" in decided.verdict() and gate.standings(decided).empty


def test_a_clearly_better_model_is_published():
    decided = gate.decide(record(4, {SAFE: 1.0, "seasonal_naive": 0.9, "lstm": 0.6}), PARAMS)
    assert decided.use == "lstm" and decided.origins == 4
    assert decided.skill == pytest.approx(0.4)
    assert "The network is published: its quantile score was 40.0 % lower" in decided.verdict()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lstm_table", "The network with the counting table is"),
        ("gbm", "The boosted trees' model is"),
        ("blend", "The blend of network, trees and table is"),
        ("table", "The counting table is"),
    ],
)
def test_every_candidate_can_win_and_is_named(name, words):
    decided = gate.decide(record(4, {SAFE: 1.0, "lstm": 0.9} | {name: 0.6}), PARAMS)
    assert decided.use == name and decided.verdict().startswith(words)


def test_a_worse_model_is_not():
    decided = gate.decide(record(4, {SAFE: 1.0, "lstm": 1.1}), PARAMS)
    assert decided.use == SAFE and decided.skill == pytest.approx(-0.1) and not decided.hold_median
    assert "no candidate's quantile score was lower than the last value's" in decided.verdict()


def test_a_baseline_can_win_and_is_named():
    decided = gate.decide(record(4, {SAFE: 1.0, "moving_average": 0.5, "lstm": 0.8}), PARAMS)
    assert decided.use == "moving_average" and decided.verdict().startswith("Moving average is published")


@pytest.mark.parametrize("order", [("seasonal_naive", "lstm"), ("lstm", "seasonal_naive")])
def test_a_loss_that_is_not_a_number_is_never_published(order):
    widths = {SAFE: 1.0} | dict.fromkeys(order, 1.2) | {"lstm": nan}
    decided = gate.decide(record(3, widths), PARAMS)
    assert decided.use == SAFE and decided.skill == pytest.approx(-0.2)
    assert "nan" not in decided.verdict() and decided.standings[-1]["model"] == "lstm"
    alone = gate.decide(record(3, {SAFE: 1.0, "lstm": nan}), PARAMS)
    assert alone.use == SAFE and "nan" not in alone.verdict() and "The last value is published" in alone.verdict()
    better = gate.decide(record(3, {"lstm": nan, SAFE: 1.0, "blend": 0.5}), PARAMS)
    assert better.use == "blend"


def test_prices_that_never_change_keep_the_last_value():
    decided = gate.decide(record(3, {"blend": 0.0, SAFE: 0.0, "lstm": 0.0}), PARAMS)
    assert decided.use == SAFE and decided.skill == 0
    worse = gate.decide(record(3, {"blend": 0.5, SAFE: 0.0, "lstm": 0.2}), PARAMS)
    assert worse.use == SAFE and not worse.skill > 0 and "nan" not in worse.verdict()


def posterior(gains, credit) -> tuple[float, float]:
    """Mean and standard deviation of a candidate's gain, by summing over a fine grid of what it might be.

    Its credit is a normal prior; the gains scatter around it, by as much as they are seen to and as is presumed together.
    """
    x, n = np.linspace(-1.5, 1.5, 300_001), len(gains)
    scatter = (np.sum((gains - np.mean(gains)) ** 2) + gate.WEIGHT * PRICES.scatter**2) / (n + gate.WEIGHT - 1)
    log = -((x - credit) ** 2) / (2 * PRICES.off**2) - sum((g - x) ** 2 for g in gains) / (2 * scatter)
    weight = np.exp(log - log.max())
    mean = (weight * x).sum() / weight.sum()
    return mean, float(np.sqrt((weight * (x - mean) ** 2).sum() / weight.sum()))


@given(st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 3.0]))
def test_a_credit_is_met_with_the_gains_that_were_seen(n, seed, doubt):
    draw, names = np.random.default_rng(seed), ["moving_average", "table", "lstm", "lstm_table", "gbm", "blend"]
    widths = [{SAFE: draw.uniform(0.5, 2)} | {m: draw.uniform(0.3, 1.7) for m in names} for _ in range(n)]
    decided = gate.decide([origin(i, w) for i, w in enumerate(widths)], tiny(horizon=H, gate={"doubt": doubt}))
    base = np.mean([w[SAFE] for w in widths])
    rows = {row["model"]: row for row in decided.standings}
    assert set(rows) == {SAFE, *names} and (rows[SAFE]["expected"], rows[SAFE]["skill"], rows[SAFE]["doubt"]) == (0, 0, 0)
    for name in names:
        gains = np.array([(w[SAFE] - w[name]) / base for w in widths])
        mean, deviation = posterior(gains, PRICES.credit.get(name, PRICES.others))
        assert rows[name]["skill"] == pytest.approx(gains.mean())
        assert rows[name]["expected"] == pytest.approx(mean, abs=1e-6)
        assert rows[name]["doubt"] == pytest.approx(doubt * deviation, abs=1e-6)
    expected = [row["expected"] for row in decided.standings]
    assert expected == sorted(expected, reverse=True)
    better = [row["model"] for row in decided.standings if row["skill"] > 0]
    proven = [name for name in better if rows[name]["expected"] > rows[name]["doubt"]]
    use = FAVOURITE if FAVOURITE in proven else proven[0] if proven else SAFE
    for _ in better if proven else ():  # it gives way only to what has gained on it beyond doubt, origin by origin
        rivals = {}
        for name in better:
            ahead, credit = (
                np.array([(w[use] - w[name]) / base for w in widths]),
                PRICES.credit.get(name, PRICES.others) - PRICES.credit.get(use, PRICES.others),
            )
            mean, deviation = posterior(ahead, credit)
            if ahead.mean() > 0 and mean > doubt * deviation:
                rivals[name] = mean
        use = max(rivals, key=rivals.get, default=use)
    assert decided.use == use


def test_one_that_was_never_worse_and_now_and_then_far_better_is_published():
    """Its gains scatter more for being larger: it is less sure of its own than a rival that it always equals or beats."""
    calm, moved = dict.fromkeys((SAFE, "gbm", "blend"), 0.01), {SAFE: 1.0, "gbm": 0.1, "blend": 0.6}
    widths = [calm, calm, calm, calm, moved] * 4
    decided = gate.decide([origin(i, w) for i, w in enumerate(widths)], PARAMS)
    rows = {row["model"]: row for row in decided.standings}
    assert rows["gbm"]["expected"] < rows["blend"]["expected"] and decided.use == "gbm"


@pytest.mark.parametrize("name", ["gbm", "blend", "table", "lstm"])
def test_who_has_lost_is_never_published_whatever_the_credit(name):
    open_ = tiny(horizon=H, gate={"doubt": 0.0})
    for n in (1, 2, 40):
        assert gate.decide(record(n, {SAFE: 1.0, name: 1.01}), open_).use == SAFE
    decided = gate.decide(record(1, {SAFE: 1.0, "gbm": 0.9}), open_)
    assert decided.use == "gbm" and "was 10.0 % lower than the last value's over 1 finished origin." in decided.verdict()


@pytest.mark.parametrize(("n", "use"), [(1, SAFE), (40, "moving_average")])
def test_a_baseline_that_is_no_price_model_has_to_make_up_for_a_loss(n, use):
    open_ = tiny(horizon=H, gate={"doubt": 0.0})
    assert gate.decide(record(n, {SAFE: 1.0, "moving_average": 0.97}), open_).use == use
    assert gate.decide(record(n, {SAFE: 1.0, "lstm": 0.97}), open_).use == "lstm"


@pytest.mark.parametrize(("n", "use"), [(2, SAFE), (40, "lstm")])
def test_a_gain_must_be_clear_of_the_doubt(n, use):
    """3 % better: not clear of nothing on two origins, clear on forty."""
    decided = gate.decide(record(n, {SAFE: 1.0, "lstm": 0.97}), PARAMS)
    assert decided.use == use and decided.skill == pytest.approx(0.03)
    assert (
        "The network had a quantile score 3.0 % lower over 2 finished origins, too small or too uneven a gain"
        in decided.verdict()
    ) is (use == SAFE)


@pytest.mark.parametrize(
    ("gbm", "use"), [([0.79] * 8, FAVOURITE), ([0.7] * 8, "gbm"), ([0.3, 1.2] * 4, FAVOURITE), ([0.79] * 60, "gbm")]
)
def test_candidates_that_are_about_as_good_do_not_take_turns(gbm, use):
    """The favourite loses a fifth: one that loses a little less takes its place when that is sure, not before."""
    decided = gate.decide([origin(i, {SAFE: 1.0, FAVOURITE: 0.8, "gbm": w}) for i, w in enumerate(gbm)], PARAMS)
    rows = {row["model"]: row for row in decided.standings}
    assert rows["gbm"]["skill"] > rows[FAVOURITE]["skill"] - 1e-9 and decided.use == use
    assert decided.skill == rows[use]["skill"]


def test_a_favourite_that_has_not_beaten_the_last_value_is_none():
    assert gate.decide(record(6, {SAFE: 1.0, FAVOURITE: 1.2, "lstm": 0.9}), PARAMS).use == "lstm"
    assert gate.decide(record(6, {SAFE: 1.0, FAVOURITE: nan, "lstm": 0.9}), PARAMS).use == "lstm"


def test_gains_that_scatter_count_for_less():
    steady, erratic = (
        gate.decide([origin(i, {SAFE: 1.0, "lstm": w}) for i, w in enumerate(widths)], PARAMS).standings
        for widths in ([0.8] * 6, [0.1, 1.5] * 3)
    )
    steady, erratic = (next(r for r in rows if r["model"] == "lstm") for rows in (steady, erratic))
    assert steady["skill"] == pytest.approx(erratic["skill"]) == pytest.approx(0.2)
    assert steady["expected"] > 1.5 * erratic["expected"] > 0 and steady["doubt"] < erratic["doubt"]


def test_each_origin_weighs_the_same_however_many_points_it_has():
    good, bad = origin(0, {SAFE: 1.0, "lstm": np.full(2, 0.2)}), origin(1, {SAFE: 1.0, "lstm": np.full(2, 1.3)})
    good.y[0] = nan
    assert gate.decide([good, bad], PARAMS).skill == pytest.approx(1 - (0.2 + 1.3) / 2)


def test_short_and_excluded_series_and_missing_days_are_not_scored():
    at = record(3, {SAFE: 1.0, "lstm": np.array([0.5, 9.0, 9.0])})
    for o in at:
        o.status[1:] = ["naive", "excluded"]
        o.y[0, 1] = nan
        o.q["lstm"][0, 1] = 1e6
    assert gate.decide(at, PARAMS).skill == pytest.approx(0.5)


def test_origins_of_evidence_count_like_the_others():
    at = record(3, {SAFE: 1.0, "lstm": 0.5}) + [origin(3, {SAFE: np.ones(4), "lstm": np.full(4, 1.3)})]
    for o in at[:3]:
        o.warm_up = True
    decided = gate.decide(at, PARAMS)
    assert decided.origins == 4 and decided.skill == pytest.approx(1 - (3 * 0.5 + 1.3) / 4)
    gate.replay(at, PARAMS)
    assert [("published" in o.q) for o in at] == [False, False, False, True], "nothing is published where nobody reads"
    np.testing.assert_array_equal(at[3].q["published"], at[3].q["lstm"])


def test_what_was_published_is_no_candidate_and_scores_are_taken_once(monkeypatch):
    at = gate.replay(record(4, {SAFE: 1.0, "lstm": 0.5}), PARAMS)
    decided = gate.decide(at, PARAMS)
    assert {row["model"] for row in decided.standings} == {SAFE, "lstm"}
    assert all({SAFE, "lstm"} <= set(o.means) for o in at)
    seen = [o.means["lstm"] for o in at]
    monkeypatch.setattr(gate, "quantile_score", lambda *_: 1 / 0)
    assert gate.decide(at, PARAMS).standings == decided.standings and [o.means["lstm"] for o in at] == seen


def test_a_candidate_that_stood_on_fewer_origins_is_judged_on_those_and_less_surely():
    at = record(4, {SAFE: 1.0, "lstm": 0.9, "gbm": 0.2})
    whole = {row["model"]: row for row in gate.decide(at, PARAMS).standings}
    del at[0].q["gbm"], at[1].q["gbm"]
    part = {row["model"]: row for row in gate.decide(at, PARAMS).standings}
    assert part["gbm"]["skill"] == pytest.approx(whole["gbm"]["skill"]) and part["lstm"] == whole["lstm"]
    assert part["gbm"]["doubt"] > whole["gbm"]["doubt"] and part["gbm"]["expected"] < whole["gbm"]["expected"]
    assert (part["gbm"]["origins"], part["lstm"]["origins"], whole["gbm"]["origins"]) == (2, 4, 4)
    assert "origins" in gate.standings(gate.decide(at, PARAMS))
    assert "origins" not in gate.standings(gate.decide(at[2:], PARAMS)), "all stood on the same"


# ---- what is let out


def test_what_is_let_out_series_by_series():
    at = origin(9, {SAFE: 1.0, "lstm": 0.5}, y=np.full(5, nan), p=0.3)
    at.status[:] = ["model", "model", "naive", "excluded", "model"]
    at.q["lstm"][4] = nan
    at.p[SAFE] = np.full((5, H), 0.1)
    at.p["lstm"][0, 0] = nan
    at.beside[SAFE] = np.full((5, H), 0.02)
    decided = gate.Gate("lstm", False, np.zeros((1, H, 2)), 0.5, 3, [])
    q, p, beside, source = gate.publishable(at, decided, PARAMS)
    assert source.tolist() == ["model", "model", "naive", "excluded", "naive"]
    for n in (0, 1):
        np.testing.assert_array_equal(q[n], at.q["lstm"][n])
    for n in (2, 4):
        np.testing.assert_array_equal(q[n], at.q[SAFE][n])
    assert np.isnan(q[3]).all() and np.isnan(p[3]).all() and np.isnan(beside[3]).all()
    np.testing.assert_array_equal(p[[0, 1, 2, 4]], [[0.1, 0.3], [0.3, 0.3], [0.1, 0.1], [0.1, 0.1]])
    np.testing.assert_allclose(beside[[0, 1, 2, 4]], [[0.02, 0.075], [0.075, 0.075], [0.02, 0.02], [0.02, 0.02]])
    q, *_, source = gate.publishable(at, gate.decide([], PARAMS), PARAMS)
    assert source.tolist() == ["naive", "naive", "naive", "excluded", "naive"]
    np.testing.assert_array_equal(q[:3], at.q[SAFE][:3])
    gone = gate.Gate("blend", False, np.zeros((1, H, 2)), 0.5, 3, [])  # a candidate that nobody spoke for at this date
    assert gate.publishable(at, gone, PARAMS)[3].tolist() == ["naive", "naive", "naive", "excluded", "naive"]


@pytest.mark.parametrize(
    ("name", "said"), [("moving_average", "moving_average"), ("table", "table"), ("blend", "model"), ("gbm", "model")]
)
def test_a_published_baseline_is_named_as_the_source_an_expert_is_the_model(name, said):
    at = origin(0, {SAFE: 1.0, name: 0.5})
    decided = gate.Gate(name, False, np.zeros((1, H, 2)), 0.5, 3, [])
    assert gate.publishable(at, decided, PARAMS)[3].tolist() == [said]


# ---- the point and the band


@pytest.mark.parametrize(("median", "hold"), [(100.5, False), (102.5, True), (100.0, True)])
def test_the_point_moves_only_when_it_has_been_nearer(median, hold):
    """Actual prices are 101: a point at 100.5 is nearer than the last value 100, 102.5 is not, 100 is no nearer."""
    at = record(4, {SAFE: 9.0, "lstm": 2.0}, y=101.0, medians={"lstm": median})
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and decided.hold_median is hold
    q = gate.publishable(origin(9, {SAFE: 9.0, "lstm": 2.0}, medians={"lstm": median}), decided, PARAMS)[0]
    np.testing.assert_allclose(q[..., 2], 100.0 if hold else median)
    assert ("Points stay at the last value" in decided.verdict()) is hold


def test_a_candidate_whose_point_is_held_is_judged_with_the_point_held():
    """Its point is worse than the last value: what counts is what would be published, the median at the last value."""
    at = record(4, {SAFE: 9.0, "lstm": 2.0}, y=100.0, medians={"lstm": 103.0})
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and decided.hold_median
    row = next(r for r in decided.standings if r["model"] == "lstm")
    held = gate.publishable(at[0], gate.Gate("lstm", True, np.zeros((1, H, 2)), 0.5, 4, []), PARAMS)[0]
    score, loose = (scores.pinball(at[0].y, q, LEVELS).mean() / 100 for q in (held, at[0].q["lstm"]))
    assert row["score"] == pytest.approx(score) and score < loose and row["hold"]
    moved = next(r for r in decided.standings if r["model"] == SAFE)
    assert not moved["hold"] and row["skill"] == pytest.approx(1 - score / moved["score"])


def test_holding_puts_the_median_at_the_last_value_and_the_others_on_their_side_of_it():
    at = origin(0, {SAFE: np.ones(2)}, last=10.0)
    q = np.array([[[7, 8, 9, 11, 12.0]] * H, [[10.5, 10.6, 11, 12, 13.0]] * H])
    before = q.copy()
    np.testing.assert_array_equal(bands.hold(q, at, PARAMS)[:, 0], [[7, 8, 10, 11, 12], [10, 10, 10, 12, 13]])
    np.testing.assert_array_equal(q, before)


@given(seed=st.integers(0, 10**6), hold=st.booleans())
def test_what_is_shaped_stays_in_order_and_at_or_above_zero(seed, hold):
    draw = np.random.default_rng(seed)
    at = origin(0, {SAFE: np.ones(4)}, last=draw.uniform(0, 5))
    q = bands.shape(draw.normal(3, 3, (4, H, 5)), at, draw.uniform(0, 0.1, (1, H, 2)), hold, PARAMS)
    assert (np.diff(q, axis=-1) >= 0).all() and (q >= 0).all()
    if hold:
        np.testing.assert_array_equal(q[..., 2], at.last[:, None].repeat(H, 1))


def test_a_band_that_missed_is_widened_until_it_holds_its_promise():
    at = [origin(i, {SAFE: 9.0, "lstm": 0.1}, y=100 + np.linspace(-3, 3, 30)) for i in range(3)]
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and decided.widening.shape == (1, H, 2) and (decided.widening > 0).all()
    actual, q = np.concatenate([o.y for o in at]), np.concatenate([o.q["lstm"] for o in at])
    np.testing.assert_array_equal(decided.widening, intervals.widening(actual, q, np.full(90, 100.0), LEVELS))
    out = gate.publishable(at[0], decided, PARAMS)[0]
    assert scores.covered(at[0].y, out[..., 0], out[..., 4]).mean() >= 0.9


def test_what_no_model_forecasts_widens_no_band():
    at = record(4, {SAFE: 9.0, "lstm": np.full(5, 0.5)}, y=np.r_[np.full(4, 100.0), 150.0])
    for o in at:
        o.status[4] = "naive"
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and (decided.widening == 0).all()


def test_a_band_is_widened_for_what_it_misses_once_its_point_is_held():
    """Prices stay at 100, the candidate says 102 to 104: held, its band begins at 100 and has missed nothing."""
    at = record(4, {SAFE: 9.0, "lstm": 0.5}, medians={"lstm": 103.0})
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and decided.hold_median and (decided.widening == 0).all()
    np.testing.assert_array_equal(gate.publishable(at[0], decided, PARAMS)[0][0, 0], [100, 100, 100, 103.5, 104])
    missed = [origin(i, {SAFE: 9.0, "lstm": 0.5}, y=99.0, medians={"lstm": 103.0}) for i in range(4)]
    decided = gate.decide(missed, PARAMS)
    assert decided.hold_median and decided.widening[0, 0].tolist() == pytest.approx([0.01, 0.01])
    np.testing.assert_allclose(gate.publishable(missed[0], decided, PARAMS)[0][0, 0], [99, 99, 100, 104.5, 105])


# ---- only what had come


def test_only_origins_that_were_finished_count():
    at = record(4, {SAFE: 1.0, "lstm": 0.5})
    assert gate.decide(at, PARAMS, before=at[2].date).origins == 2
    assert gate.decide(at, PARAMS, before=at[2].date - 1).origins == 1
    assert gate.decide(at, PARAMS, before=at[0].date).origins == 0


@given(k=st.integers(0, 4), seed=st.integers(0, 99))
def test_a_replay_publishes_on_what_had_come_by_then(k, seed):
    """Whatever comes after origin k, and whatever later origins say, leaves all that was published up to k alone."""

    def life(spoil):
        draw, out = np.random.default_rng(seed), []
        for i in range(6):
            y = 100 + draw.normal(0, 0.3, 8).round(1)
            widths = {SAFE: 2.0 + draw.random(), "lstm": 0.5 * draw.random(8) + 0.3}
            out.append(origin(i, widths, y=y, medians={"lstm": 100.2}))
        if spoil:
            for o in out[k:]:
                o.y[:] = 1e6
            for o in out[k + 1 :]:
                o.q["lstm"] = o.q["lstm"] * 50
        return gate.replay(out, PARAMS)

    clean = life(False)
    assert not any(np.array_equal(o.q["published"], o.q[SAFE]) for o in clean[1:]), "there is something to get wrong"
    for a, b in zip(clean[: k + 1], life(True)[: k + 1], strict=True):
        np.testing.assert_array_equal(a.q["published"], b.q["published"])
        np.testing.assert_array_equal(a.p["published"], b.p["published"])


def test_the_first_origin_of_a_replay_publishes_the_last_value():
    at = gate.replay(record(4, {SAFE: 1.0, "lstm": 0.5}), PARAMS)
    np.testing.assert_array_equal(at[0].q["published"], at[0].q[SAFE])
    np.testing.assert_array_equal(at[3].q["published"], at[3].q["lstm"])


def test_origins_before_the_model_existed_do_not_count_for_or_against_it():
    at = record(2, {SAFE: 1.0, "seasonal_naive": 0.99}) + [
        origin(i, {SAFE: 1.0, "seasonal_naive": 2, "lstm": 0.5}) for i in (2, 3)
    ]
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and decided.origins == 2


# ---- kept


def test_a_decision_is_kept_and_found_again(tmp_path):
    run = made_run(tmp_path, tiny(), posted_prices(4, 40))
    (run.dir / "model").mkdir()
    decided = gate.decide(record(4, {SAFE: 1.0, "lstm": 0.7, "blend": nan}, medians={"lstm": 101.0}), PARAMS)
    assert decided.use == "lstm" and decided.hold_median
    decided.widening = np.array([[[0.1, 0.2]] * 7])
    gate.save(run, decided, model="said")
    back = gate.load(run)
    assert (back.use, back.hold_median, back.skill, back.origins) == ("lstm", True, decided.skill, 4)
    np.testing.assert_array_equal(back.widening, decided.widening)
    assert back.trade is PRICES and back.mix is None, "prices are blended without a record"
    assert str(back.standings) == str(decided.standings) and back.verdict() == decided.verdict()
    noted = Run(run.dir).manifest["gate"]
    assert noted["use"] == "lstm" and noted["verdict"] == decided.verdict() and noted["model"] == "said"
    assert noted["hold_median"] is True and [row["model"] for row in noted["standings"]][0] == "lstm"
    gate.save(run, gate.decide([], PARAMS))
    assert math.isnan(gate.load(run).skill) and run.manifest["gate"]["use"] == SAFE
    (run.dir / "model" / "calibration.json").write_text("{}")
    with pytest.raises(RunError, match="calibration.json.*hash mismatch"):
        gate.load(run)


def test_the_standings_are_a_table_best_first():
    decided = gate.decide(record(9, {SAFE: 1.0, "lstm": 0.6, "table": 0.8}, medians={"lstm": 100.1}, y=100.2), PARAMS)
    table = gate.standings(decided)
    assert table["candidate"].tolist() == ["LSTM", "counting table", "last value"]
    assert table["expected gain"].is_monotonic_decreasing and table["expected gain"].iloc[-1] == 0
    assert table["point held"].tolist() == ["", "yes", ""]
    assert table["skill"].tolist() == [row["skill"] for row in decided.standings]
    assert list(gate.standings(gate.decide([], PARAMS))) == list(table)


def test_one_that_came_late_is_compared_in_the_units_of_the_origins_that_both_have():
    """Its own gains are shares of quieter times: they must not make it win where it lost."""
    early = [{SAFE: 1.0, "blend": 0.6}] * 6
    late = [{SAFE: 0.25, "blend": 0.15, "gbm": 0.16}] * 6
    decided = gate.decide([origin(i, w) for i, w in enumerate([*early, *late])], PARAMS)
    assert decided.use == "blend"


@pytest.mark.parametrize("mean", [0.1, 0.3, 2.0])
def test_the_honest_bands_of_slow_sellers_are_not_widened(mean):
    """Of an item that sells once in ten weeks a twentieth of all weeks lies above the band: half of those in which it sells."""
    params, draw, record = (
        Params.model_validate({"model": {"name": "tide"}, "source": {"kind": "warehouse_sales"}}),
        np.random.default_rng(3),
        [],
    )
    shape, levels = (800, params.horizon), params.levels
    honest = counts.negative_binomial(np.full(shape, mean), np.full(shape, 2 * mean), levels)
    for k in range(8):
        y = draw.negative_binomial(mean, 0.5, shape).astype(float)
        date = np.datetime64("2024-01-01") + 28 * k
        ts = date + 7 * np.arange(1, params.horizon + 1)
        at = Origin(date, ts, np.full(800, "model"), y[:, 0], np.ones(800), y, whole=True)
        at.group, at.spread = np.full(800, 2), np.ones(800)
        at.put("imapa", replace(honest, q=honest.q + 3))
        at.put("gbm", honest)
        record.append(at)
    decided = gate.decide(record, params)
    assert decided.use == "gbm" and (decided.widening == 0).all()
