"""The gate: what proves itself is published, everything else is the last value; and only what had come counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import LEVELS, made_run, posted_prices, tiny
from forecastbook import gate, intervals, scores
from forecastbook.backtest import SAFE, Origin

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
    return at


def record(n, widths, **more):
    return [origin(i, widths, **more) for i in range(n)]


# ---- what is published


def test_without_a_record_the_last_value_is_published():
    for empty in ([], record(3, {SAFE: 1.0, "lstm": nan}, y=nan), record(3, {SAFE: 2.0, "lstm": 1.0}, status="naive")):
        decided = gate.decide(empty, PARAMS)
        assert (decided.use, decided.origins, decided.hold_median) == (SAFE, 0, False) and math.isnan(decided.skill)
        assert decided.held.all() and (decided.widening == 0).all()
        assert "no finished origin" in decided.verdict()


def test_a_clearly_better_model_is_published():
    decided = gate.decide(record(4, {SAFE: 1.0, "seasonal_naive": 0.9, "lstm": 0.6}), PARAMS)
    assert decided.use == "lstm" and decided.origins == 4 and not decided.held.any()
    assert decided.skill == pytest.approx(0.4)
    assert "The model is published: its quantile error was 40.0% lower" in decided.verdict()


def test_a_worse_model_is_not():
    decided = gate.decide(record(4, {SAFE: 1.0, "lstm": 1.1}), PARAMS)
    assert decided.use == SAFE and decided.held.all() and decided.skill == pytest.approx(-0.1)
    assert "was no lower than the last value's" in decided.verdict()


def test_a_baseline_can_win_and_is_named():
    decided = gate.decide(record(4, {SAFE: 1.0, "moving_average": 0.5, "lstm": 0.8}), PARAMS)
    assert decided.use == "moving_average" and decided.verdict().startswith("moving_average is published")


@pytest.mark.parametrize(("width", "use"), [(0.59, "lstm"), (0.5, "moving_average")])
def test_a_baseline_takes_the_models_place_only_by_more_than_the_handicap(width, use):
    assert gate.decide(record(4, {SAFE: 1.0, "moving_average": width, "lstm": 0.6}), PARAMS).use == use


@pytest.mark.parametrize("order", [("seasonal_naive", "lstm"), ("lstm", "seasonal_naive")])
def test_a_loss_that_is_not_a_number_is_never_published(order):
    widths = {SAFE: 1.0} | dict.fromkeys(order, 1.2) | {"lstm": nan}
    decided = gate.decide(record(3, widths), PARAMS)
    assert decided.use == SAFE and decided.skill == pytest.approx(-0.2)
    assert "nan" not in decided.verdict()
    alone = gate.decide(record(3, {SAFE: 1.0, "lstm": nan}), PARAMS)
    assert alone.use == SAFE and "nan" not in alone.verdict() and "The last value is published" in alone.verdict()


def test_prices_that_never_change_keep_the_last_value():
    decided = gate.decide(record(3, {SAFE: 0.0, "lstm": 0.0}), PARAMS)
    assert decided.use == SAFE and decided.skill == 0


@pytest.mark.parametrize(("n", "use"), [(1, SAFE), (2, "lstm")])
def test_the_handicap_is_one_origin_lost(n, use):
    """3 % better: not enough against one origin lost by 5 % after one origin, enough after two."""
    decided = gate.decide(record(n, {SAFE: 1.0, "lstm": 0.97}), PARAMS)
    assert decided.use == use and decided.skill == pytest.approx(0.03)
    if use == SAFE:
        assert "3.0% lower, which is within the handicap" in decided.verdict()
    assert gate.decide(record(n, {SAFE: 1.0, "lstm": 0.97}), tiny(horizon=H, gate={"handicap": 0.0})).use == "lstm"


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


# ---- by series


@given(st.lists(st.floats(0.1, 3.0), min_size=2, max_size=6), st.floats(0.5, 40))
def test_a_series_is_held_when_its_own_record_mixed_with_the_pools_shows_no_gain(widths, shrink):
    params, n = tiny(horizon=H, gate={"shrink": shrink, "handicap": 0.0}), 3
    decided = gate.decide(record(n, {SAFE: 1.0, "lstm": np.array(widths)}), params)
    gain = [0.14 / 100 * (1 - w) for w in widths]
    pool = sum(gain) / len(gain)
    if decided.use == SAFE:
        assert pool <= 1e-12 and decided.held.all()
    else:
        mixed = [(n * H * g + shrink * pool) / (n * H + shrink) for g in gain]
        clear = [abs(m) > 1e-12 for m in mixed]
        assert [bool(h) for h, c in zip(decided.held, clear, strict=True) if c] == [
            m <= 0 for m, c in zip(mixed, clear, strict=True) if c
        ]


def test_what_is_let_out_series_by_series():
    at = origin(9, {SAFE: 1.0, "lstm": 0.5}, y=np.full(5, nan), p=0.3)
    at.status[:] = ["model", "model", "naive", "excluded", "model"]
    at.q["lstm"][4] = nan
    at.p[SAFE] = np.full((5, H), 0.1)
    at.p["lstm"][0, 0] = nan
    decided = gate.Gate("lstm", False, np.zeros((H, 2)), np.array([False, True, False, False, False]), 0.5, 3, [])
    q, p, source = gate.publishable(at, decided, PARAMS)
    assert source.tolist() == ["model", "naive", "naive", "excluded", "naive"]
    np.testing.assert_array_equal(q[0], at.q["lstm"][0])
    for n in (1, 2, 4):
        np.testing.assert_array_equal(q[n], at.q[SAFE][n])
    assert np.isnan(q[3]).all() and np.isnan(p[3]).all()
    np.testing.assert_array_equal(p[:2], [[0.1, 0.3], [0.1, 0.1]])
    q, _, source = gate.publishable(at, gate.decide([], PARAMS), PARAMS)
    assert source.tolist() == ["naive", "naive", "naive", "excluded", "naive"]
    np.testing.assert_array_equal(q[:3], at.q[SAFE][:3])


def test_a_published_baseline_is_named_as_the_source():
    at = origin(0, {SAFE: 1.0, "moving_average": 0.5})
    decided = gate.Gate("moving_average", False, np.zeros((H, 2)), np.array([False]), 0.5, 3, [])
    assert gate.publishable(at, decided, PARAMS)[2].tolist() == ["moving_average"]


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


@given(seed=st.integers(0, 10**6), hold=st.booleans())
def test_what_is_shaped_stays_in_order_and_at_or_above_zero(seed, hold):
    draw = np.random.default_rng(seed)
    at = origin(0, {SAFE: np.ones(4)}, last=draw.uniform(0, 5))
    q = gate.shape(draw.normal(3, 3, (4, H, 5)), at, draw.uniform(0, 0.1, (H, 2)), hold, PARAMS)
    assert (np.diff(q, axis=-1) >= 0).all() and (q >= 0).all()
    if hold:
        np.testing.assert_array_equal(q[..., 2], at.last[:, None].repeat(H, 1))


def test_a_band_that_missed_is_widened_until_it_holds_its_promise():
    at = [origin(i, {SAFE: 9.0, "lstm": 0.1}, y=100 + np.linspace(-3, 3, 30)) for i in range(3)]
    decided = gate.decide(at, PARAMS)
    assert decided.use == "lstm" and (decided.widening > 0).all()
    actual, q = np.concatenate([o.y for o in at]), np.concatenate([o.q["lstm"] for o in at])
    np.testing.assert_array_equal(decided.widening, intervals.widening(actual, q, np.full(90, 100.0), LEVELS))
    out = gate.publishable(at[0], decided, PARAMS)[0]
    assert scores.covered(at[0].y, out[..., 0] - 1e-9, out[..., 4] + 1e-9).mean() >= 0.9


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
            y = 100 + draw.normal(0, 2, 8).round(1)
            out.append(origin(i, {SAFE: 1.0 + draw.random(), "lstm": draw.random(8) + 0.3}, y=y, medians={"lstm": 100.2}))
        if spoil:
            for o in out[k:]:
                o.y[:] = 1e6
            for o in out[k + 1 :]:
                o.q["lstm"] = o.q["lstm"] * 50
        return gate.replay(out, PARAMS)

    for a, b in zip(life(False)[: k + 1], life(True)[: k + 1], strict=True):
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
    panel = run.panel()
    decided = gate.Gate("lstm", True, np.array([[0.1, 0.2]] * 7), np.array([False, True, False, True]), 0.25, 6, ["because"])
    gate.save(run, decided, panel, model="said")
    back = gate.load(run, panel)
    assert (back.use, back.hold_median, back.skill, back.origins, back.reasons) == ("lstm", True, 0.25, 6, ["because"])
    np.testing.assert_array_equal(back.widening, decided.widening)
    np.testing.assert_array_equal(back.held, decided.held)
    assert run.manifest["gate"]["series_held"] == 2 and run.manifest["gate"]["model"] == "said"
    gate.save(run, gate.decide([], PARAMS), panel)
    assert math.isnan(gate.load(run, panel).skill) and run.manifest["gate"]["use"] == SAFE
