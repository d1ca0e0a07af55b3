"""Cells: how rows find theirs, and the panel that is taken from them."""

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import same
from forecastbook import cells
from forecastbook.intake import Intake
from forecastbook.panel import build


@given(st.lists(st.integers(0, 30), max_size=30), st.sampled_from([1, 7, 10**15]), st.integers(-(10**9), 10**9))
def test_numbers_become_codes_into_their_sorted_distinct_values(values, factor, shift):
    values = np.array(values, dtype=np.int64) * factor + shift
    column = pa.chunked_array([values[:3], values[3:]])
    codes, distinct = cells.numbered(column)
    wanted, inverse = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(distinct, wanted)
    np.testing.assert_array_equal(codes, inverse)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_panel_of_grids_is_the_one_built_from_their_frame(data):
    """Whatever is missing, beaten or refused: dense and long say the same, to the last bit."""
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    ids, colours = np.array(["b", "a", "c", "10", "9"], dtype=object), np.array(["red", "", "red", "blue"], dtype=object)
    codes, day = rng.integers(0, len(ids), n).astype(np.int32), rng.integers(19_000, 19_009, n).astype(np.int32)
    ok = rng.random(n) < 0.8
    ok[0] = True
    made = cells.Cells(ids, codes, day, ok)
    made.resolve(lambda rows: ())
    y, price = np.where(rng.random(n) < 0.3, np.nan, rng.random(n)), pa.chunked_array([rng.random(n)])
    columns = {"y": y, "available": rng.random(n) < 0.5, "title": (None, ids), "colour": (rng.integers(0, 4, n), colours)}
    grids = made.grids(columns | {"price": price, "cost": y * 2})
    as_of = np.datetime64(int(day[ok].max()) + data.draw(st.integers(0, 3)), "D")
    past = data.draw(st.sampled_from([(), ("price",), ("cost", "price")]))
    intake = Intake(grids, pd.DataFrame(), {})
    dense = intake.panel("D", as_of, past=past, static=("colour",))
    assert "frame" not in vars(intake), "nothing long was made"
    same(dense, build(intake.frame, "D", as_of, past=past, static=("colour",)))
    assert grids.used() == (intake.frame["series_id"].nunique(), intake.frame["ts"].nunique())
