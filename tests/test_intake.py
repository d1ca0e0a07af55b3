"""The sieve's arithmetic."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import long_frame, same
from forecastbook.intake import Intake, quarantine, unit_errors
from forecastbook.panel import build


def test_the_panel_of_an_intake_is_that_of_its_frame_with_what_is_known_ahead():
    frame = long_frame([[1.0, 2.0, np.nan, np.nan]]).assign(promo=[0.0, 1.0, 0.0, 1.0])
    asked = {"freq": "D", "as_of": frame["ts"][1], "future": ["promo"], "horizon": 2}
    panel = Intake(frame, quarantine(), {}).panel(**asked)
    same(panel, build(frame, **asked))
    assert panel.future[0, :, 0].tolist() == [0, 1, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1.0, 1.1, 2.0, 100.0, 150.0, 0.01, np.nan])), max_size=40))
@settings(max_examples=200, deadline=None)
def test_unit_errors_are_what_the_median_says(pairs):
    codes, y = np.array([p[0] for p in pairs], dtype=int), np.array([p[1] for p in pairs], dtype=float)
    got = unit_errors(codes, y)
    for k in range(len(y)):
        own = y[(codes == codes[k]) & np.isfinite(y)]
        ratio = 1.0 if np.isnan(y[k]) else abs(np.log(y[k]) - np.median(np.log(own)))
        wanted = np.isfinite(y[k]) and len(own) >= 3 and ratio >= np.log(100) - 1e-9
        assert got[k] == wanted
