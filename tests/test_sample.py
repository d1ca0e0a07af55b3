"""The sample that a fresh clone forecasts."""

from forecastbook import sample


def test_the_sample_is_the_same_every_time():
    one, two = sample.build(40), sample.build(40)
    assert all(one[name].equals(two[name]) for name in one)
    assert one["FactProductPrice"]["price_fact_id"].to_pylist() == list(range(1, one["FactProductPrice"].num_rows + 1))
    assert one["DimDate"].num_rows == 365
