"""The sample that a fresh clone forecasts."""

from forecastbook import sample, style


def test_the_sample_is_the_same_every_time():
    one, two = sample.build(40), sample.build(40)
    assert all(one[name].equals(two[name]) for name in one)
    assert one["FactProductPrice"]["price_fact_id"].to_pylist() == list(range(1, one["FactProductPrice"].num_rows + 1))
    assert one["DimDate"].num_rows == 365


def test_namesakes_are_told_apart_by_an_id_that_no_figure_cuts():
    found = sample.build(500)
    variants = found["DimVariant"].to_pandas().set_index("variant_id")["variant_title"]
    assert variants.is_unique
    twins = variants[[title.endswith(f" ({key})") for key, title in variants.items()]]
    assert len(twins) and all(style.called(title, key, 30).endswith(f" ({key})") for key, title in twins.items())
