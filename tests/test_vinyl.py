"""What a record is: cells, decades, years, modes, and what makes two rows the same item."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecastbook import style, vinyl

ROW = {
    "barcode": "4601234567893",
    "artist": "Northern Static",
    "album": "Distance",
    "cover_type": "SS",
    "price": 2000.0,
    "release_type": "Переиздание",
    "recording_year": 1973.0,
    "release_year": "1988",
    "style": "Rock",
    "created": "2022-06-01",
}


def rows(*changes):
    frame = pd.DataFrame([ROW | change for change in changes])
    return frame.assign(created=pd.to_datetime(frame["created"]).to_numpy("datetime64[s]"))


def cleaned(*changes, newest=2022):
    return vinyl.clean(rows(*changes), newest)[0]


# ---- cells ----


@pytest.mark.parametrize(
    "written, value",
    [
        ("1 500,00", 1500),
        ("1\u00a0500,00", 1500),
        ("1\u202f500,50", 1500.5),
        ("1500", 1500),
        ("1500.5", 1500.5),
        ("1.500,00", 1500),
        ("1,500.00", 1500),
        ("12,345,678", 12345678),
        ("2 990 руб.", 2990),
        ("2990₽", 2990),
        ("0,5", 0.5),
        ("-10", -10),
        ("1e3", 1000),
        ("inf", math.inf),
    ],
)
def test_numbers_as_people_write_them(written, value):
    assert vinyl.number(written) == value


@pytest.mark.parametrize("written", ["", "договорная", "1,2,3", "1_000", "nan", "1500,00,00", "--5", "#REF!", "12abc"])
def test_what_is_no_number_is_not_taken_for_one(written):
    assert math.isnan(vinyl.number(written))


def test_a_lone_comma_with_three_digits_is_read_as_the_file_writes_numbers():
    assert vinyl.number("1,500", comma=False) == 1500 and vinyl.number("689,999") == 689.999
    assert vinyl.number("1500,5", comma=False) == 1500.5
    assert vinyl.ambiguous("1,500") and not vinyl.ambiguous("1,500", comma=False) and not vinyl.ambiguous("1 500,00")


@pytest.mark.parametrize(
    "written",
    ["2022-09-05", "05.09.2022", "5.9.2022", "05-09-2022", "05/09/2022", "05.09.22", "2022-09-05 14:33:10", 
     "2022-09-05T01:00:00+03:00", "05.09.2022 9:15", "20220905", "1662336000", "44809", "44809.0", "44809.5", "1662336000,25"],
)  # fmt: skip
def test_days_as_people_and_programs_write_them(written):
    assert vinyl.day(written) == np.datetime64("2022-09-05")


@pytest.mark.parametrize("written", ["", "30.02.2022", "2022-13-01", "09/25/2022", "скоро", "12", "5.9", "2022"])
def test_what_is_no_day_is_not_taken_for_one(written):
    assert np.isnat(vinyl.day(written))


def test_a_leap_day_is_a_day():
    assert vinyl.day("29.02.2024") == np.datetime64("2024-02-29") and np.isnat(vinyl.day("29.02.2023"))


@pytest.mark.parametrize(
    "written, code",
    [
        ("4 601 234 567 893", "4601234567893"),
        ("00123", "123"),
        ("12345.0", "12345"),
        ("4.601E+12", "4601000000000"),
        ("4,601e+12", "4601000000000"),
        ('="00123"', "123"),
        ("'00123", "123"),
        (" ABC-1 ", "ABC-1"),
        (None, "None"),
        ("", "None"),
        ("nan", "None"),
        ("000", "None"),
        ("\u00a0", "None"),
    ],
)
def test_barcodes_lose_spaces_and_zeros_and_what_excel_did_to_them(written, code):
    assert vinyl.barcode(written) == code


@pytest.mark.parametrize(
    "written, year",
    [("1979", 1979), ("1979.0", 1979), ("197?", 1979), ("197", 1979), ("20", 2000), ("20??", 2000), ("200?", 2009),
     ("19", 1900), ("1979/80", 1979), (" 198? ", 1989)],
)  # fmt: skip
def test_partial_years_of_release_are_completed(written, year):
    assert vinyl.release_year(written) == year


@pytest.mark.parametrize("written", [None, "", "?", "1879", "79", "19790", "неизвестно"])
def test_a_year_of_release_that_does_not_start_with_19_or_20_is_none(written):
    assert math.isnan(vinyl.release_year(written))


def test_a_recording_needs_a_whole_year():
    assert vinyl.recording_year("1938") == 1938 and vinyl.recording_year("1977.0") == 1977
    assert all(math.isnan(vinyl.recording_year(text)) for text in ("197?", "", "19", "197", "77", "19777"))


@pytest.mark.parametrize(
    "year, label",
    [(1949, "<1950"), (1950, "1950s"), (1959, "1950s"), (1960, "1960s"), (2019, "2010s"), (2020, "2020s"), (2025, "2020s"),
     (2031, "2030s"), (1900, "<1950")],
)  # fmt: skip
def test_decades_begin_with_their_zero(year, label):
    assert vinyl.decade(year) == label


@pytest.mark.parametrize(
    "written, kind",
    [("SS", "Sealed"), ("ss ", "Sealed"), ("Sealed", "Sealed"), ("NM", "Opened"), ("Opened", "Opened"), ("", None)],
)
def test_a_cover_is_sealed_or_opened(written, kind):
    assert vinyl.cover(written) == kind


def test_kinds_and_styles_in_both_languages():
    assert vinyl.release_type("Оригинал") == vinyl.release_type("original ") == "Original"
    assert vinyl.release_type("переиздание") == vinyl.release_type("Reissue") == "Reissue"
    assert vinyl.release_type("Бутлег") == "Бутлег" and vinyl.release_type(None) == "None"
    assert vinyl.style(" Rock /  Pop ") == "Rock/Pop" and vinyl.style("nan") is None


@pytest.mark.parametrize(
    "price, band",
    [(0.5, 0), (689.999, 0), (690, 1), (2490, 1), (2490.01, 2), (3990, 2), (5590, 3), (7390, 4), (8590, 5), (11990, 6),
     (11991, 7), (0, np.nan), (np.nan, np.nan)],
)  # fmt: skip
def test_price_bands_are_closed_on_the_right(price, band):
    assert np.array_equal(vinyl.price_band([price]), [band], equal_nan=True)


@given(st.lists(st.sampled_from([None, "a", "b", "A"]), max_size=20))
def test_each_is_the_function_of_every_cell(cells):
    assert vinyl.each(cells, lambda text: text and text.upper()).tolist() == [c and c.upper() for c in cells]


# ---- years of release ----


def years(kind, recorded, released, newest=2022):
    found, counts = vinyl.release_years(kind, recorded, released, newest)
    return found.tolist(), counts["release year repaired"]


def test_ten_reissues_or_fewer_do_not_make_a_mean_and_do_not_crash():
    known = [1990.0] * 10
    found, repaired = years(["Reissue"] * 11, [1970.0] * 11, [*known, np.nan])
    assert found[-1] == 1985 and repaired == 1


def test_nothing_is_released_in_the_future_nor_before_it_was_recorded():
    assert years(["Reissue"] * 3, [2020.0, 2020.0, 2023.0], [np.nan, 2099.0, np.nan]) == ([2022, 2022, 2023], 3)


def test_more_than_ten_reissues_give_the_rounded_mean_gap():
    found, _ = years(["Reissue"] * 12, [1970.0] * 12, [*[1990.0] * 10, 1995.0, np.nan])
    assert found[-1] == 1970 + round((10 * 20 + 25) / 11)


def test_an_original_came_out_when_it_was_recorded():
    assert years(["Original"], [1970.0], [1999.0]) == ([1970], 0)


@pytest.mark.parametrize("released", [1969.0, np.nan, 2099.0, 1900.0])
def test_a_reissue_from_before_its_recording_or_from_the_future_is_repaired(released):
    assert years(["Reissue"], [1970.0], [released]) == ([1985], 1)


def test_a_partial_year_is_not_completed_into_the_future():
    assert cleaned({"release_year": "202?"})["release_year"].item() == 2022


# ---- modes ----


def test_a_missing_cover_takes_the_mode_of_its_record_then_of_its_price_band():
    out = cleaned(
        {"cover_type": "SS"},
        {"cover_type": "NM"},
        {"cover_type": "NM"},
        {"cover_type": None},
        {"cover_type": None, "album": "Other"},
        {"cover_type": None, "album": "Third", "price": 9000.0},
    )
    # the record's own; then price band 1 and the 1980s, whose mode is Opened too; then nothing is known
    assert out["cover_type"].tolist() == ["Sealed", "Opened", "Opened", "Opened", "Opened", "Opened"]
    out = cleaned(
        {"cover_type": "SS"}, {"cover_type": None, "album": "Other"}, {"cover_type": None, "album": "X", "price": 9000.0}
    )
    assert out["cover_type"].tolist() == ["Sealed", "Sealed", "Opened"]


def test_a_record_has_one_style_its_most_frequent_one():
    out = cleaned({"style": "Jazz"}, {"style": "Rock"}, {"style": "Rock"}, {"style": None}, {"album": "Other", "style": None})
    assert out["style"].tolist() == ["Rock"] * 4 + ["None"]


def test_of_equal_modes_the_first_entered_wins():
    out = cleaned({"style": "Rock", "created": "2022-06-02"}, {"style": "Jazz", "created": "2022-06-01"})
    assert out["style"].tolist() == ["Jazz", "Jazz"]


# ---- identity ----


def test_spelling_does_not_make_another_item():
    out = cleaned(
        {},
        {"artist": " northern  STATIC"},
        {"barcode": "0 4601234567893"},
        {"release_type": "Reissue"},
        {"release_year": "198?"},
    )
    assert out["series_id"].nunique() == 1


@pytest.mark.parametrize(
    "change",
    [{"barcode": "1"}, {"artist": "X"}, {"album": "X"}, {"cover_type": "NM"}, {"release_type": "Оригинал"},
     {"release_year": "1991"}, {"recording_year": 1974.0}],
)  # fmt: skip
def test_each_part_of_the_key_makes_another_item(change):
    assert cleaned({}, change)["series_id"].nunique() == 2


def test_a_price_does_not_make_another_item_and_neither_does_the_calendar():
    out = cleaned({}, {"price": 9000.0})
    assert out["series_id"].nunique() == 1
    later = vinyl.clean(rows({}), newest=2035)[0]
    assert later["series_id"].item() == out["series_id"].iloc[0]


def test_ids_are_short_and_stay():
    assert cleaned({})["series_id"].item() == "baaf6451a2f4"  # another value would make every record of every shop a new one


def test_one_record_is_a_catalogue():
    out, counts = vinyl.clean(rows({"release_year": None, "cover_type": None, "style": None, "barcode": None}), 2022)
    row = out.iloc[0]
    assert (row["barcode"], row["cover_type"], row["style"], row["release_year"]) == ("None", "Opened", "None", 1988)
    assert counts == {"release year repaired": 1, "cover filled": 1, "without a style": 1}


def test_titles_read_and_tell_namesakes_apart():
    items = cleaned(
        {}, {"barcode": "7"}, {"album": "NA", "release_type": "Оригинал", "cover_type": "VG"}, {"album": "<script>"}
    )
    titles = vinyl.titles(items).tolist()
    assert titles[2] == "Northern Static - NA (Opened, original 1973)"
    assert titles[3] == "Northern Static - <script> (Sealed, reissue 1988)"
    for title, key in zip(titles[:2], items["series_id"], strict=False):
        assert title == f"Northern Static - Distance (Sealed, reissue 1988) ({key})"
        assert style.called(title, key, 30).endswith(f"… ({key})"), "a figure cuts the title, not what tells it from others"
    assert len(set(titles)) == 4


def test_attributes_are_the_nine_of_the_key():
    found = json.loads(vinyl.attributes_json(cleaned({"artist": "Алый трамвай"}))[0])
    assert tuple(found) == vinyl.KEY and found["artist"] == "Алый трамвай" and found["recording_year"] == 1973
