"""What is known of a posted price on each day: causal, free of scale, and what a slow reading finds."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import panel_of
from forecastbook import spells

K = {name: k for k, name in enumerate(spells.FEATURES)}


def posted_prices(seed: int, N: int = 6, T: int = 140, gaps: float = 0.3) -> np.ndarray:
    """Random spells over a few levels, with gaps and late starts: (N, T)."""
    draw = np.random.default_rng(seed)
    y = np.empty((N, T))
    for n in range(N):
        level = np.round(draw.uniform(1, 50, size=draw.integers(1, 6)), 2)
        spell = np.repeat(draw.integers(len(level), size=T), draw.integers(1, 20, size=T))[:T]
        y[n] = level[spell]
        y[n, : draw.integers(0, T // 2)] = np.nan
    y[draw.random((N, T)) < gaps] = np.nan
    return y


def read_equal(a: spells.Posted, b: spells.Posted, days=slice(None)) -> bool:
    return all(
        np.array_equal(getattr(a, name)[:, days], getattr(b, name), equal_nan=True)
        for name in ("price", "features", "levels", "life", "gap")
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 139))
def test_a_day_knows_nothing_of_later_days(seed, cut):
    y = posted_prices(seed)
    changed = y.copy()
    changed[:, cut:] = np.random.default_rng(seed + 1).uniform(0.01, 1e5, size=changed[:, cut:].shape)
    early = spells.read(y[:, :cut], y[:, :cut] * 1.1)
    assert read_equal(spells.read(changed, changed * 1.1), early, slice(None, cut))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([100.0, 0.01, 4096.0, 7.3]))
def test_scale_changes_prices_and_no_feature(seed, factor):
    y = posted_prices(seed)
    one, other = spells.read(y), spells.read(y * factor)
    assert np.array_equal(one.features, other.features)
    np.testing.assert_allclose(other.levels, one.levels * factor, rtol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.integers(1, 140))
def test_keeping_the_last_days_gives_the_same_days(seed, keep):
    y = posted_prices(seed)
    assert read_equal(spells.read(y), spells.read(y, keep=keep), slice(140 - keep, None))


def test_series_are_read_one_by_one():
    y = posted_prices(3)
    together, rows = spells.read(y), [4, 1]
    for name in ("price", "features", "levels"):
        assert np.array_equal(getattr(together, name)[rows], getattr(spells.read(y[rows]), name), equal_nan=True)


def test_the_words_for_a_known_story():
    """Forty days at 10, three days at 8, then 10 again: eight days, the last three not observed."""
    y = np.r_[np.full(40, 10.0), np.full(3, 8.0), np.full(5, 10.0), np.full(3, np.nan)][None]
    read = spells.read(y)
    now, dip = read.features[0, -1], read.features[0, 41]
    assert read.gap[0, -1] == 3 and read.life[0, -1] == 51
    assert now[K["age"]] == pytest.approx(np.log1p(7)) and now[K["observations"]] == pytest.approx(np.log1p(5))
    assert now[K["previous_length"]] == pytest.approx(np.log1p(3))
    assert now[K["to_previous"]] == pytest.approx(np.log(0.8)) and now[K["to_mode90"]] == 0
    assert now[K["rate28"]] == pytest.approx(2 / 28) and now[K["last_direction"]] == 1 and now[K["observed"]] == 0
    assert dip[K["to_mode90"]] == pytest.approx(np.log(10 / 8)) and dip[K["below_usual"]] == 1 and dip[K["above_usual"]] == 0
    assert dip[K["last_step"]] == 0 and read.features[0, 40, K["last_step"]] == pytest.approx(np.log(0.8))
    assert np.array_equal(read.levels[0, -1], [8, np.nan, np.nan, np.nan, np.nan], equal_nan=True)  # the others equal 10 or 8
    assert np.array_equal(read.levels[0, 41], [10, np.nan, np.nan, np.nan, np.nan], equal_nan=True)


def test_levels_are_what_a_slow_reading_finds():
    y = posted_prices(11, N=4, T=120)
    read = spells.read(y)
    for n in range(4):
        alive = np.flatnonzero(np.isfinite(y[n]))
        filled, last = np.full(120, np.nan), np.nan
        for t in range(120):
            last = y[n, t] if np.isfinite(y[n, t]) else last
            filled[t] = last
        for t in range(alive[0], 120, 7):
            window = filled[max(alive[0], t - 89) : t + 1]
            values, counts = np.unique(window, return_counts=True)
            wanted = [values[counts.argmax()], window.max(), window.min()]
            slow = [np.log(w / filled[t]) for w in wanted]
            fast = read.features[n, t, [K["to_mode90"], K["to_max90"], K["to_min90"]]]
            np.testing.assert_allclose(fast, slow, atol=1e-6)
            assert read.features[n, t, K["share_mode90"]] == pytest.approx(counts.max() / len(window))


def test_spells_and_rates_are_what_a_slow_reading_finds():
    y = posted_prices(12, N=5, T=150)
    read = spells.read(y)
    for n in range(len(y)):
        first = np.flatnonzero(np.isfinite(y[n]))[0]
        filled = pd.Series(y[n, first:]).ffill().to_numpy()
        step = np.diff(np.log(filled), prepend=np.log(filled[0]))
        for t in range(0, len(filled), 5):
            starts = np.flatnonzero(np.abs(step[: t + 1]) > spells.CHANGE)
            spell = starts[-1] if len(starts) else -1
            before = starts[-2] if len(starts) > 1 else 0
            sighted = np.isfinite(y[n, first : first + t + 1])
            wanted = {
                "age": np.log1p(t - spell if spell >= 0 else t + 1),
                "observations": np.log1p(sighted[max(spell, 0) :].sum()),
                "previous_length": np.log1p(spell - before if spell >= 0 else 0),
                "never_changed": float(spell < 0),
                "to_previous": np.log(filled[spell - 1] / filled[t]) if spell >= 0 else 0,
                "to_previous2": np.log(filled[before - 1] / filled[t]) if before else 0,
                "last_direction": np.sign(step[spell]) if spell >= 0 else 0,
                "last_step": step[t],
                "mean_step90": np.abs(step[: t + 1])[-90:].mean(),
                **{f"rate{w}": (np.abs(step[: t + 1]) > spells.CHANGE)[-w:].mean() for w in (7, 28, 90)},
                **{f"seen{w}": sighted[-w:].mean() for w in (7, 28)},
                "gap": np.log1p(t - np.flatnonzero(sighted)[-1]),
            }
            got = read.features[n, first + t]
            assert {k: got[K[k]] for k in wanted} == pytest.approx(wanted, abs=1e-6), (n, t)


def test_a_gap_is_not_a_row_shift():
    y = np.r_[np.full(30, 5.0), np.full(30, 6.0)]
    gap = y.copy()
    gap[32:55] = np.nan
    full, gapped = spells.read(y[None]).features[0, -1], spells.read(gap[None]).features[0, -1]
    assert full[K["age"]] == gapped[K["age"]] and gapped[K["observations"]] < full[K["observations"]]
    dropped = spells.read(y[np.isfinite(gap)][None]).features[0, -1]
    assert dropped[K["age"]] < gapped[K["age"]]


def test_list_price_is_used_where_known():
    y = np.full((2, 30), 8.0)
    listed = np.full((2, 30), np.nan)
    listed[0, 10] = 10.0
    read = spells.read(y, listed).features[:, -1]
    assert read[0, K["to_list"]] == pytest.approx(np.log(10 / 8)) and read[0, K["list_known"]] == 1
    assert read[1, K["to_list"]] == 0 and read[1, K["list_known"]] == 0


def test_the_list_price_of_a_panel_is_found():
    y = posted_prices(5, N=9)
    panel = panel_of(y)
    listed = replace(panel, past=np.stack([y * 0, y * 1.3], axis=2), past_names=("other", "list_price"))
    whole = spells.of(listed, 40)
    assert read_equal(spells.read(y, y * 1.3), whole, slice(100, None)) and whole.features[..., K["list_known"]].any()
    assert not spells.of(panel, 40).features[..., K["list_known"]].any()


@pytest.mark.parametrize("keep, horizon", [(1, 7), (5, 3), (30, 14)])
def test_the_calendar_counts_mondays_between_a_day_and_its_target(keep, horizon):
    panel = panel_of(np.ones((1, 30)))  # 2024-01-01 is a Monday
    got = spells.calendar(panel, keep, horizon)
    assert got.shape == (keep, horizon, len(spells.CALENDAR))
    for k in range(keep):
        for h in range(1, horizon + 1):
            origin = panel.dates[30 - keep + k].astype(dt.date)
            days = [origin + dt.timedelta(days=d) for d in range(1, h + 1)]
            on = days[-1].weekday()
            wanted = [h / 7, sum(d.weekday() == 0 for d in days), on == 0, on >= 5, on == 4]
            np.testing.assert_allclose(got[k, h - 1], np.array([*wanted, 0, 0], float), rtol=1e-6)


def weekly(weekday: int, weeks: int = 30, start: str = "2024-01-01", N: int = 20):
    """A panel of prices that all change on one weekday, 0 Monday, and on no other."""
    y = 5.0 + (np.arange(7 * weeks) - weekday) // 7 % 2
    return panel_of(np.tile(y, (N, 1)), start=start)


@pytest.mark.parametrize("weekday", range(7))
def test_the_calendar_knows_the_weekday_on_which_a_shop_changes_its_prices(weekday):
    """The habit is the same whatever the weekday is, only that it is another one; its share ahead of a day is counted."""
    panel = weekly(weekday)
    found = spells.habit(panel)
    assert found[weekday] > 0.65 and np.delete(found, weekday).max() < 0 and abs(found.sum()) < 1e-12
    got = spells.calendar(panel, 14, 7)
    passed, on = (got[..., spells.CALENDAR.index(name)] for name in ("habit_passed", "on_habit"))
    weekdays = (np.arange(14)[:, None] + 1 + np.arange(7)) % 7  # the panel's days are whole weeks, so day -14 is a Monday
    np.testing.assert_allclose(on, found[weekdays], rtol=1e-5)
    np.testing.assert_allclose(passed, found[weekdays].cumsum(axis=1), atol=2e-6)
    assert (passed[:, 6] == 0).all(), "in each week of seven days it comes once, to the last bit"


def test_a_habit_is_of_weeks_and_not_of_prices():
    """A campaign that changes all prices is one decision; weeks without a change say nothing; years ago is forgotten."""
    one = weekly(2, weeks=20, N=1).y[0]
    few = np.full((40, 140), 3.0)
    few[0] = one  # one item keeps the habit
    few[1:, 60:] = 2.0  # on day 60, a Friday, all others change
    found, alone = spells.habit(panel_of(few)), spells.habit(panel_of(one[None]))
    assert found.argmax() == alone.argmax() == 2 and 0 < found[4] - alone[4] < 0.05
    assert (spells.habit(panel_of(np.full((5, 60), 2.0))) == 0).all() and (spells.habit(panel_of([[1.0]])) == 0).all()
    long = np.concatenate([weekly(3, weeks=60).y, weekly(1, weeks=60).y], axis=1)
    assert spells.habit(panel_of(long)).argmax() == 1


def test_a_habit_knows_nothing_of_later_days():
    panel = weekly(4)
    cut, later = panel.dates[100], panel.y.copy()
    later[:, 101:] = np.random.default_rng(0).uniform(1, 9, later[:, 101:].shape)
    changed = replace(panel, y=later)
    np.testing.assert_array_equal(spells.calendar(changed.until(cut), 30, 7), spells.calendar(panel.until(cut), 30, 7))
    assert not np.array_equal(spells.habit(changed), spells.habit(panel))


def test_a_zero_price_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        spells.read(np.array([[1.0, 0.0]]))


def test_hard_series_stay_finite():
    y = np.full((3, 20), np.nan)
    y[1, -1] = 3.0
    y[2] = 5.0
    read = spells.read(y)
    assert np.isfinite(read.features).all() and (read.life[0] == 0).all() and np.isnan(read.levels).all()


def most(home: Path, **env) -> str:
    """What a function of a copy of the compiled module says, in a process of its own."""
    shutil.copy(Path(spells.__file__).with_name("compiled.py"), home)
    code = "import compiled, numpy; print(compiled._most(numpy.array([1, 3, 3]), numpy.array([5, 9, 7]), 3))"
    env = {**os.environ, "NUMBA_CACHE_DIR": "", **env}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=home, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_nothing_can_be_written_each_process_compiles_its_own(tmp_path):
    (tmp_path / "__pycache__").touch()  # no directory, nor is one below HOME
    assert most(tmp_path, HOME="/dev/null", XDG_CACHE_HOME="/dev/null") == "2"


def test_compiled_code_that_a_crash_left_empty_is_made_again(tmp_path):
    assert most(tmp_path) == "2"
    for ending in ("nbi", "nbc"):
        kept = list((tmp_path / "__pycache__").glob(f"*.{ending}"))
        assert kept and all(path.stat().st_size for path in kept)
        for left in (b"", bytes(100)):
            for path in kept:
                path.write_bytes(left)
            assert most(tmp_path) == "2", ending


def test_without_compiling_the_same_comes_out(tmp_path):
    assert most(tmp_path, NUMBA_DISABLE_JIT="1") == "2"


def test_list_prices_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 5\) do not belong to prices of shape \(3, 5\)"):
        spells.read(np.ones((3, 5)), np.ones((1, 5)))


WITHIN = """
import numpy as np
from conftest import panel_of, posted_panel
from forecastbook import spells, sticky

long = posted_panel(8, 400).y
daily = np.random.default_rng(0).uniform(1, 9, (3, 200))  # a level a day
for y in (long, daily, np.full((2, 1), 3.0), np.full((1, 40), np.nan)):
    panel = panel_of(y)
    for keep in (1, 30, None, 999):
        posted = spells.read(y, y * 1.1, keep)
        assert np.isfinite(posted.features).all()
        ratio, classes = sticky.targets(panel, posted, 9)
        seen = posted.price[:, -1] > 0
        ladder = sticky.Ladder.of(posted.price[seen, -1], posted.levels[seen, -1], sticky.atoms(ratio, classes))
        for hazard in (0.0, 0.4, 1.0):
            shape = (seen.sum(), 2)
            said = sticky.Mixture(ladder, np.full(shape, hazard), np.full((*shape, sticky.CLASSES), 0.1))
            assert np.isfinite(said.quantiles((0.0, 0.5, 1.0))).all()
"""


def test_compiled_loops_stay_within_their_arrays(tmp_path):
    """Numba looks after no bounds unless it is told to."""
    home = Path(__file__).parent
    env = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": f"{home}:{home.parent / 'lib'}",
    }
    done = subprocess.run([sys.executable, "-c", WITHIN], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
