"""A long file: what it holds, and what happens to rows that break the contract."""

import datetime as dt
import os
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import adds_up, reading
from forecastbook import longfile, panel, parsing
from forecastbook.intake import LISTED, SourceError
from forecastbook.params import Columns, File
from forecastbook.sources import SOURCES

FILE = SOURCES["file"]
D = dt.date(2024, 3, 10)


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Each file counts as one written long ago, so that what ``span`` has read is what ``read`` goes on with."""
    monkeypatch.setattr(longfile, "SETTLED", -1.0)


def days(n, end=D):
    return [end - dt.timedelta(days=k) for k in range(n)][::-1]


def file(path, **more):
    columns = {"series": "sku", "ts": "day", "y": "price", "available": "seen", "title": "name"}
    columns = Columns(**more.pop("columns", columns))
    return File.model_construct(kind="file", path=str(path), columns=columns, **more)  # unchecked: few days of history do here


def bare(path, **more):
    return file(path, **{"columns": {"series": "sku", "ts": "day", "y": "price"}, **more})


def text(tmp_path, body, name="prices.csv"):
    path = tmp_path / name
    path.write_text(body, encoding="utf-8")
    return path


def parquet(tmp_path, **columns):
    path = tmp_path / "prices.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def read(source, as_of=None):
    intake = FILE.read(source, None, FILE.span(source)[1] if as_of is None else as_of)
    assert adds_up(intake), intake.counts
    return intake


GOOD = "".join(f"a,{d},5.0,true,tea\n" for d in days(6, D - dt.timedelta(days=1)))


@pytest.mark.parametrize(
    "row, column, value, reason",
    [
        (f",{D},5,true,x", "sku", "", "missing series id"),
        (f"  ,{D},5,true,x", "sku", "  ", "missing series id"),
        ("a,,5,true,x", "day", "", "missing date"),
        ("a,2024-02-30,5,true,x", "day", "2024-02-30", "impossible date"),
        ("a,soon,5,true,x", "day", "soon", "impossible date"),
        ("a,0001-01-01,5,true,x", "day", "0001-01-01", "impossible date"),
        ("a,2999-01-01,5,true,x", "day", "2999-01-01", "impossible date"),
        ("a,2150-01-01,5,true,x", "day", "2150-01-01", "date in the future"),
        (f"a,{D},five,true,x", "price", "five", "not a number"),
        (f"a,{D},Rs. 12,true,x", "price", "Rs. 12", "not a number"),
        (f"a,{D},1_000,true,x", "price", "1_000", "not a number"),
        (f"a,{D},inf,true,x", "price", "inf", "not finite"),
        (f"a,{D},1e999,true,x", "price", "1e999", "not finite"),
        (f"a,{D},-5,true,x", "price", "-5", "negative"),
        (f"a,{D},-5,false,x", "price", "-5", "negative"),
        (f"a,{D},0,true,x", "price", "0", "zero price"),
        (f"a,{D},5000,true,x", "price", "5000", "unit error?"),
        (f"a,{D},0.05,true,x", "price", "0.05", "unit error?"),
        (f"a,{D},5,perhaps,x", "seen", "perhaps", "neither yes nor no"),
        (f"a,{D},5", None, f"a,{D},5", "row has 3 cells, wanted 5"),
    ],
)
def test_a_row_that_breaks_the_contract_is_quarantined(tmp_path, row, column, value, reason):
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}{row}\nb,{D},7,true,coffee\n")
    intake = read(file(path))
    assert len(intake.quarantine) == 1
    got = intake.quarantine.iloc[0]
    said = got["reason"].split(" (wanted ")[0]
    assert (got["file"], got["row"], got["column"], got["value"], said) == (str(path), 7, column, value, reason)
    if said in ("impossible date", "not a number"):
        assert {"impossible date": "31.12.2024", "not a number": "1,234.56"}[said] in got["reason"]
    assert intake.counts["rows kept"] == 7 and intake.counts["rows read"] == 8


@pytest.mark.parametrize("cells", ["5,,true", ",true,x", "nan,true,x", ",,x", "NA,false,x", "0,false,x", "5,false,x"])
def test_a_value_that_is_missing_or_not_available_is_not_observed_and_not_wrong(tmp_path, cells):
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}a,{D},{cells}\nb,{D},7,true,coffee\n")
    intake = read(file(path))
    assert intake.quarantine.empty
    y = reading(intake, "a", D)["y"]
    assert y == 5.0 if cells == "5,,true" else np.isnan(y)
    assert intake.counts["available without a value"] == (1 if cells in (",true,x", "nan,true,x") else 0)


def test_a_zero_is_a_value_where_zero_is_allowed(tmp_path):
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}a,{D},0,false,x\n")
    intake = read(file(path, positive=False))
    assert reading(intake, "a", D)["y"] == 0.0 and not reading(intake, "a", D)["available"] and intake.quarantine.empty


def test_the_last_row_of_a_series_and_day_wins_and_is_counted(tmp_path):
    intake = read(bare(text(tmp_path, f"sku,day,price\na,{D},5\na,{D},6\nb,{D},1\na,{D},4\n")))
    assert reading(intake, "a", D)["y"] == 4.0 and intake.counts["duplicates resolved"] == 2


TIMES = [f"a,{D} 08:00,5", f"a,{D} 20:00,6", f"a,{D}T12:30:00,7", f"b,{D},1", f"b,{D},2"]


@pytest.mark.parametrize("rows", [TIMES, TIMES[:3][::-1] + TIMES[3:], [TIMES[1], TIMES[3], TIMES[0], TIMES[4], TIMES[2]]])
def test_of_several_times_of_a_day_the_latest_wins_whatever_the_order_of_rows(tmp_path, rows):
    intake = read(bare(text(tmp_path, "\n".join(["sku,day,price", *rows]))))
    assert reading(intake, "a", D)["y"] == 6.0 and reading(intake, "b", D)["y"] == 2.0
    assert intake.counts["duplicates resolved"] == 3 == intake.counts["duplicates with another value"]


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_a_time_stamp_column_count_on_the_writers_wall(tmp_path, zone, unit):
    stamps = pd.DatetimeIndex([f"{D} 23:30", f"{D} 00:10", f"{D} 23:29"]).tz_localize(zone).as_unit(unit)
    intake = read(bare(parquet(tmp_path, sku=["a"] * 3, day=pa.array(stamps), price=[1.0, 2.0, 1.0])))
    assert reading(intake, "a", D)["y"] == 1.0
    assert (intake.counts["duplicates resolved"], intake.counts["duplicates with another value"]) == (2, 1)


def test_times_are_only_looked_at_where_rows_share_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "as_times", lambda column: 1 / 0)
    path = text(tmp_path, f"sku,day,price\na,{D} 08:00,5\nb,{D},1\n")
    assert reading(read(bare(path)), "a", D)["y"] == 5.0


def test_duplicates_that_say_the_same_are_told_from_those_that_do_not(tmp_path):
    """Not available on the same day is another value too; two empty ones are not."""
    rows = ["a,{},5,true,x", "a,{},5,true,x", "a,{},5,false,x", "b,{},,true,x", "b,{},,true,x", "c,{},1,true,x"]
    counts = read(file(text(tmp_path, "\n".join(["sku,day,price,seen,name", *(row.format(D) for row in rows)])))).counts
    assert (counts["duplicates resolved"], counts["duplicates with another value"]) == (3, 2)


@pytest.mark.parametrize(
    ("sep", "written", "number"),
    [
        (";", "1.445,86", 1445.86),
        (";", "1.234.567,5", 1234567.5),
        (";", "-1.445,86", None),
        (";", "1,445.86", 1445.86),
        (";", "1.234.567", 1234567),
        (";", "1445,86", 1445.86),
        (";", "7.25", 7.25),
        (";", "1.445", 1445),  # beside 12,5 the point is no decimal sign
        (";", "14.45,86", None),
        (";", "1.4455,86", None),
        (";", "1.445,86.1", None),
        (";", "€1445,86", None),
        (";", "1 445,86", 1445.86),
        (";", "1\u00a0445,86", 1445.86),  # the blank that Excel writes
        (";", "1\u202f234\u202f567,5", 1234567.5),
        (";", "1 445", 1445),
        (";", "1 445,867", 1445.867),
        (";", "14 45,86", None),
        (";", "1445 867", None),
        (",", "1 445.86", 1445.86),
        (",", "1 445,86", None),
        (",", "1,445.86", 1445.86),
        (",", "1.445,86", 1445.86),
        (",", "1,234,567", 1234567),
        (",", "1.445", 1.445),
        (",", "1,445", 1445),
        (",", "1445,86", None),
        (",", "1,44.86", None),
        (",", "1,445,86", None),
        (",", "€1445.86", None),
    ],
)
def test_marks_between_thousands_are_read_where_they_can_mean_one_thing(tmp_path, sep, written, number):
    other = "12,5" if sep == ";" else "12.5"
    path = text(tmp_path, sep.join(["sku", "day", "price"]) + f'\na{sep}{D}{sep}"{written}"\nb{sep}{D}{sep}{other}\n')
    intake = read(bare(path))
    if number is None:
        reason = "negative" if written[0] == "-" else f"not a number (wanted {parsing.numbers(sep == ';')})"
        assert intake.quarantine["reason"].tolist() == [reason]
    else:
        assert reading(intake, "a", D)["y"] == number and intake.quarantine.empty


@pytest.mark.parametrize(
    ("sep", "lone", "others", "number"),
    [
        (",", "1,450", ["950"], 1450),  # as a shop writes thousands
        (",", "1,450", ["1,234.50", "12.5"], 1450),
        (",", "1,450", ["12,5"], None),  # a comma that is none between thousands: either may be meant
        (",", "1.450", ["950"], 1.45),
        (",", "1.450", ["12,5"], 1.45),
        (";", "1.450", ["1.450,50", "950,00"], 1450),
        (";", "1.450", ["12.5"], 1.45),
        (";", "1.450", ["12.5", "950,00"], None),
        (";", "1.450", ["950"], None),
        (";", "1,450", ["1,234.50", "12.5"], 1450),
        (";", "1,450", ["950,00"], 1.45),
        (";", "1,450", ["950"], 1.45),  # why else would the file be delimited by semicolons
    ],
)
def test_the_other_numbers_of_a_column_tell_what_a_lone_mark_means(tmp_path, sep, lone, others, number):
    rows = [f'a{sep}{D}{sep}"{lone}"', *(f'{k}{sep}{D}{sep}"{other}"' for k, other in enumerate(others))]
    intake = read(bare(text(tmp_path, "\n".join([sep.join(["sku", "day", "price"]), *rows, f"z{sep}{D}{sep}7", ""]))))
    if number is None:
        assert lone in intake.quarantine["value"].tolist()
    else:
        assert reading(intake, "a", D)["y"] == number


def test_what_later_rows_hold_does_not_change_how_earlier_ones_are_read(tmp_path):
    def given(*late) -> tuple:
        days = [(D - dt.timedelta(days=back), "1,450", "yes" if back % 2 else "no") for back in range(3, 9)]
        rows = [f'a,{day},"{price}",{promo}' for day, price, promo in (*days, *late)]
        source = bare(text(tmp_path, "\n".join(["sku,day,price,promo", *rows]) + "\n"), past=["promo"])
        cut = D - dt.timedelta(days=3)
        return read(source, cut).frame, FILE.fingerprint(source, None, cut)

    (frame, mark), (same, again) = given(), given((D, "12,5", "maybe"))
    assert frame["y"].tolist() == [1450] * 6 and frame["promo"].tolist() == [0, 1] * 3
    assert same.equals(frame) and again == mark


def test_of_later_rows_a_run_knows_what_is_known_ahead_and_nothing_else(tmp_path):
    def given(*late) -> tuple:
        days = [f"a,{D - dt.timedelta(days=back)},5,yes,tea,green,1,0" for back in range(2, 9)]
        rows = [f"a,{D - dt.timedelta(days=back)},{rest}" for back, rest in zip((1, 0), late, strict=True)]
        path = text(tmp_path, "\n".join(["sku,day,price,seen,name,colour,cost,promo", *days, *rows]) + "\n")
        source, cut = file(path, static=["colour"], past=["cost"], future=["promo"]), D - dt.timedelta(days=2)
        return read(source, cut), FILE.fingerprint(source, None, cut)

    (one, mark), (two, again) = given(",,,,,1", ",,,,,0"), given("7,no,coffee,black,3,1", "9,yes,cocoa,brown,many,0")
    known, other = (intake.frame.drop(columns="title") for intake in (one, two))
    assert known.equals(other) and one.frame["promo"].tolist()[-2:] == [1, 0]
    assert two.quarantine.empty and mark == again


@pytest.mark.parametrize(("back", "more"), [(-2, {}), (45, {"history_days": 40})])
def test_a_refused_row_of_a_day_that_a_run_does_not_read_is_none_of_its_inputs(tmp_path, back, more):
    """Of sales a refused row says that a period is not known; one of a later week made a finished run look like another."""
    rows = [f"a,{D - dt.timedelta(days=k)},{k}" for k in range(2, 30)]
    cut, marks = D - dt.timedelta(days=2), []
    for body in (rows, [*rows, f"a,{cut - dt.timedelta(days=back)},many"]):
        source = bare(text(tmp_path, "\n".join(["sku,day,price", *body]) + "\n"), positive=False, **more)
        marks.append(FILE.fingerprint(source, None, cut))
        assert read(source, cut).unread.empty
    assert marks[0] == marks[1]


def test_yes_and_no_are_numbers_of_a_covariate(tmp_path):
    rows = [f"a,{D - dt.timedelta(days=k)},5,{word}" for k, word in enumerate(["да", "no", "", "TRUE"])]
    frame = read(bare(text(tmp_path, "\n".join(["sku,day,price,promo", *rows]) + "\n"), past=["promo"])).frame
    np.testing.assert_array_equal(frame["promo"], [1, np.nan, 0, 1])


def test_decimal_points_in_a_semicolon_file_stay_numbers(tmp_path):
    intake = read(bare(text(tmp_path, f"sku;day;price\na;{D};1.445\nb;{D};12.5\n")))
    assert reading(intake, "a", D)["y"] == 1.445 and intake.quarantine.empty


def test_points_that_may_stand_between_thousands_are_refused_where_nothing_tells(tmp_path):
    """A price list of 1401 to 1428 must not become one of 1.401 to 1.428 because nobody wrote a comma."""
    with pytest.raises(SourceError, match="2 not a number"):
        read(bare(text(tmp_path, f"sku;day;price\na;{D};1.401\nb;{D};1.428\n")))
    intake = read(bare(text(tmp_path, f"sku;day;price\na;{D};1.401\nb;{D};950\n")))
    assert intake.quarantine["value"].tolist() == ["1.401"] and reading(intake, "b", D)["y"] == 950


def test_a_date_far_before_all_others_is_set_aside_by_what_is_known(tmp_path):
    rows = [f"{sku},{D - dt.timedelta(days=d)},{d + 1}" for sku in "ab" for d in range(30)] + ["a,1925-08-01,3"]
    intake = read(bare(text(tmp_path, "\n".join(["sku,day,price", *rows]) + "\n")))
    assert intake.quarantine[["value", "reason"]].values.tolist() == [["1925-08-01", "date far before all others"]]
    assert intake.frame["ts"].min() == pd.Timestamp(D - dt.timedelta(days=29))
    old = [row.replace("1925-08-01", f"{D - dt.timedelta(days=5 * 365)}") for row in rows]
    assert read(bare(text(tmp_path, "\n".join(["sku,day,price", *old]) + "\n"))).quarantine.empty, "not that far"
    cut = D - dt.timedelta(days=10)
    later = [*rows, *(f"b,{D - dt.timedelta(days=k)},1" for k in range(9))]
    one, other = (read(bare(text(tmp_path, "\n".join(["sku,day,price", *r]) + "\n")), cut) for r in (rows, later))
    assert one.frame.equals(other.frame) and len(one.quarantine) == len(other.quarantine) == 1


def test_a_blank_title_or_static_takes_the_newest_that_is_said(tmp_path):
    rows = [("a", 3, "old", "X"), ("a", 2, "Red wine", "Y"), ("a", 1, "", ""), ("b", 1, "", ""), ("a", 0, " ", "")]
    body = "".join(f"{sku},{D - dt.timedelta(days=back)},5,true,{name},{brand}\n" for sku, back, name, brand in rows)
    intake = read(file(text(tmp_path, "sku,day,price,seen,name,brand\n" + body), static=["brand"]))
    built = panel.build(intake.frame, "D", D, static=["brand"])
    assert built.titles.tolist() == ["Red wine", "b"] and built.static[:, 0].tolist() == ["Y", ""]
    early = read(file(text(tmp_path, "sku,day,price,seen,name,brand\n" + body), static=["brand"]), D - dt.timedelta(days=3))
    assert panel.build(early.frame, "D", D - dt.timedelta(days=3), static=["brand"]).static.tolist() == [["X"]]


@pytest.mark.parametrize("positive", [True, False])
def test_every_kept_row_is_observed_or_not_available_or_without_a_value(tmp_path, positive):
    body = f"sku,day,price\na,{D},\nb,{D},1\na,{D - dt.timedelta(days=1)},2\n"
    intake = read(bare(text(tmp_path, body), positive=positive))
    assert (intake.counts["rows kept"], intake.counts["observed"], intake.counts["unavailable"]) == (3, 2, 1)
    seen = f"sku,day,price,seen,name\na,{D},4,false,x\nb,{D},1,true,x\nc,{D},,true,x\nd,{D},,false,x\ne,{D},,,x\n"
    counts = read(file(text(tmp_path, seen), positive=positive)).counts
    assert counts["available without a value"] == 1 and counts["unavailable"] == (3 if positive else 2)


def lost(intake):
    return {row.series_id: (row.title, row.rows, row.why.split(" (")[0]) for row in intake.lost.itertuples()}


def test_series_of_a_file_without_a_usable_row_are_named_with_the_commonest_reason(tmp_path):
    early, late = D - dt.timedelta(days=20), D + dt.timedelta(days=1)
    body = [
        *(f"b,{d},x,true,bread" for d in days(3)),  # b: three no numbers, a zero
        f"b,{D},0,true,bread",
        f"c,{D},-1,true,",
        f"a,{D},x,true,tea",  # a has other rows
        f"d,{late},x,true,later",  # not known yet
        f"e,{early},x,true,before the window",
        "f,2150-01-01,5,true,wrong year",
        "g,never,5,true,no day",
        f"h,{D},,false,not on offer",
        f",{D},x,true,no id",
        f"z,{late},5,true,z",
    ]
    path = text(tmp_path, f"sku,day,price,seen,name\n{GOOD}" + "\n".join(body) + "\n")
    intake = read(file(path, history_days=10), D)
    assert lost(intake) == {
        "b": ("bread", 4, "not a number"),
        "c": ("c", 1, "negative"),
        "f": ("wrong year", 1, "date in the future"),
        "g": ("no day", 1, "impossible date"),
    }
    assert intake.counts["series without a usable row"] == 4 and intake.counts["series"] == 2
    assert lost(read(bare(path), late)).keys() == set("bcdefg"), "e is inside now, d is known"


def test_a_series_of_which_only_what_is_known_ahead_is_left_counts_as_lost(tmp_path):
    late = D + dt.timedelta(days=1)
    path = text(tmp_path, f"sku,day,price,promo\na,{D},5,1\nb,{D},x,1\nb,{late},,1\na,{late},5,1\n")
    assert lost(read(bare(path, future=["promo"]), D)) == {"b": ("b", 1, "not a number")}


def test_a_file_of_which_most_is_refused_says_so(tmp_path):
    body = "".join(f"s{k};{d};€{k},5\n" for k in range(1, 18) for d in days(3)) + "".join(f"t;{d};4,5\n" for d in days(3))
    path = text(tmp_path, "sku;day;price\n" + body)
    intake = read(bare(path))
    assert len(intake.lost) == 17
    assert "51 of 54 rows were refused (94 %), most often: not a number (wanted 1234,56" in intake.refusal()
    assert f"such as price '€1,5' in row 1 of {path}; 17 items have no row left" in intake.refusal()
    assert read(bare(text(tmp_path, f"sku,day,price\n{GOOD.replace(',true,tea', '')}a,{D},x\n"))).refusal() == ""


def test_ids_and_titles_are_text_exactly_as_written(tmp_path):
    ids = ["007", "7", "NA", "1e5", "чай", "🍵", "x" * 10_000, "<script>", "=cmd|x", "a b"]
    titles = ["NA", "null", "", "nan", 'чай "à la"', "🍵", "y" * 10_000, '"><img onerror', "=1+1", "None"]
    frame = pd.DataFrame({"sku": ids, "day": D, "price": 1.0, "name": titles})
    columns = {"series": "sku", "ts": "day", "y": "price", "title": "name"}
    frame.to_csv(tmp_path / "Цены за май.csv", index=False, encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "Цены за май.parquet")
    for path in tmp_path.iterdir():
        out = read(file(path, columns=columns)).frame
        wanted = dict(zip(ids, [t or i for i, t in zip(ids, titles, strict=True)], strict=True))
        assert dict(zip(out["series_id"], out["title"], strict=True)) == wanted, path
        assert out["series_id"].tolist() == sorted(ids)


@pytest.mark.parametrize(
    "ids, wanted",
    [
        (pa.array([1, 22, None], pa.int64()), ["1", "22"]),
        (pa.array([1.0, 22.0, None]), ["1", "22"]),
        (pa.array([1.5, 22.0, float("nan")]), ["1.5", "22"]),
        (pa.array(["007", "b", None]).dictionary_encode(), ["007", "b"]),
        (pa.array([2**63 - 1, -4, None], pa.int64()), ["-4", str(2**63 - 1)]),
    ],
)
def test_ids_of_any_parquet_type_become_canonical_text(tmp_path, ids, wanted):
    intake = read(bare(parquet(tmp_path, sku=ids, day=[D] * 3, price=[1.0, 2.0, 3.0])))
    assert sorted(intake.frame["series_id"]) == sorted(wanted)
    assert intake.quarantine["reason"].tolist() == ["missing series id"]


STAMPS = [dt.datetime(2024, 2, 29, 23, 30), dt.datetime(2024, 3, 9, 12), dt.datetime(2024, 3, 10, 0, 30)]
TRUE_DAYS = [dt.date(2024, 2, 29), dt.date(2024, 3, 9), dt.date(2024, 3, 10)]


@pytest.mark.parametrize(
    "when",
    [
        pa.array(TRUE_DAYS, pa.date32()),
        pa.array(TRUE_DAYS, pa.date64()),
        *[pa.array(STAMPS, pa.timestamp(u)) for u in ("s", "ms", "us", "ns")],
        pa.array(pd.DatetimeIndex(STAMPS).tz_localize("America/New_York")),
        pa.array([str(d) for d in TRUE_DAYS]),
        pa.array([int(d.strftime("%Y%m%d")) for d in TRUE_DAYS]),
        pa.array([d.strftime("%d.%m.%Y") for d in TRUE_DAYS]),
        pa.array([s.isoformat() + "+14:00" for s in STAMPS]),
        pa.array([s.isoformat() + "Z" for s in STAMPS]),
        pa.array([str(d) for d in TRUE_DAYS]).dictionary_encode(),
    ],
    ids=str,
)
def test_dates_of_any_type_are_the_day_on_the_writers_wall(tmp_path, when):
    intake = read(bare(parquet(tmp_path, sku=["a"] * 3, day=when, price=[1.0, 2.0, 3.0])))
    assert [t.date() for t in intake.frame["ts"]] == TRUE_DAYS


def test_daylight_saving_adds_and_loses_no_day(tmp_path):
    hours = pd.date_range("2023-03-01", "2023-11-30 23:00", freq="h", tz="Europe/Berlin")
    intake = read(bare(parquet(tmp_path, sku=["a"] * len(hours), day=pa.array(hours), price=[1.0] * len(hours))))
    assert intake.counts["dates"] == 275 and intake.frame["ts"].diff().dropna().eq(pd.Timedelta(days=1)).all()


@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_other_delimiters_quotes_and_the_decimal_comma(tmp_path, sep):
    price = '"12,5"' if sep == "," else "12,5"
    body = sep.join(["sku", "note", "day", "price"]) + "\n" + sep.join(['"a"', '"x\ny"', f"{D:%d.%m.%Y}", price]) + "\n"
    body += sep.join(["b", "", str(D), "7.25"]) + "\n"
    intake = read(bare(text(tmp_path, body)))
    if sep == ";":
        assert reading(intake, "a", D)["y"] == 12.5
    else:
        # a comma may also group thousands: not guessed
        assert intake.quarantine["reason"].tolist() == [f"not a number (wanted {parsing.numbers(False)})"]
    assert reading(intake, "b", D)["y"] == 7.25


@pytest.mark.parametrize("unclosed", [(3,), (3, 4), (3, 7), (3, 4000)])
def test_a_quote_that_is_never_closed_does_not_swallow_rows_of_a_file(tmp_path, unclosed):
    rows = [f'item{i % 50},{D - dt.timedelta(days=99 - i // 50)},5.0,"tea, green"\n' for i in range(5000)]
    for i in unclosed:
        rows[i] = rows[i].replace('"tea, green"', '"9 inch')
    path = text(tmp_path, "sku,day,price,title\n" + "".join(rows))
    with pytest.raises(SourceError, match=rf"line {unclosed[0] + 2}: a quoted cell is not closed"):
        read(bare(path))


def test_a_cell_larger_than_what_is_read_at_once_is_named_by_its_line(tmp_path):
    rows = "".join(f"item{i % 50},{D - dt.timedelta(days=i // 2000)},5.0,tea\n" for i in range(100_000))
    path = text(tmp_path, f'sku,day,price,title\na,{D},5.0,"9 inch\n{rows}')
    with pytest.raises(SourceError, match="line 2: a quoted cell is not closed"):
        read(bare(path))


def test_lines_within_a_quoted_text_are_text(tmp_path):
    intake = read(bare(text(tmp_path, f'sku,day,price,title\na,{D},1,"tea\n5,5,5,5\n\ngreen"\n\nb,{D},2,9" inch\nc,{D},3,x\n')))
    assert dict(zip(intake.frame["series_id"], intake.frame["y"], strict=True)) == {"a": 1, "b": 2, "c": 3}
    assert intake.quarantine.empty and adds_up(intake)


def test_torn_rows_do_not_shift_the_numbers_of_others(tmp_path):
    intake = read(bare(text(tmp_path, f"sku,day,price\na,{D},1\ntorn\nb,{D},-1\nc,{D},1,2,3\nd,{D},x\n")))
    assert intake.quarantine["row"].tolist() == [2, 3, 4, 5]
    assert intake.counts["rows read"] == 5 and intake.counts["rows kept"] == 1


def test_torn_rows_at_either_end_and_beside_blank_lines_leave_the_others_their_numbers(tmp_path):
    path = text(tmp_path, f"sku,day,price\ntorn\n\na,{D},1\n\n\nc,{D},1,2,3\nb,{D},2\ntorn\n")
    table, rows, torn, _ = parsing.load(path, ["sku", "price"])
    assert (table["sku"].to_pylist(), rows.tolist(), torn["row"].tolist()) == (["a", "b"], [2, 4], [1, 3, 5])


def test_later_rows_are_kept_for_future_columns_only_and_without_their_value(tmp_path):
    when = [*days(3), D + dt.timedelta(days=1), D + dt.timedelta(days=2)]
    path = parquet(
        tmp_path,
        sku=["a"] * 5,
        day=when,
        price=[1.0, 2.0, 3.0, 4.0, None],
        promo=[0, 1, 0, 1, 1],
        cost=[1.0, None, 2.0, 9.0, 9.0],
        colour=["red", None, "NA", "red", "red"],
    )
    source = bare(path, future=["promo"], past=["cost"], static=["colour"])
    intake = read(source, D)
    assert intake.frame["promo"].tolist() == [0, 1, 0, 1, 1]
    assert np.isnan(intake.frame["y"].to_numpy()[3:]).all() and not intake.frame["available"].to_numpy()[3:].any()
    assert intake.frame["colour"].tolist() == ["red", *["NA"] * 4], "a blank or a later day takes the newest that is said"
    built = panel.build(intake.frame, "D", D, past=["cost"], future=["promo"], static=["colour"], horizon=2)
    assert built.y.shape == (1, 3) and built.future.shape == (1, 5, 1)
    assert FILE.span(source)[1] == D + dt.timedelta(days=1)
    plain = read(bare(path), D)
    assert len(plain.frame) == 3 and plain.counts["after the as-of date"] == 2


def test_a_covariate_that_is_no_number_is_left_empty_and_noted(tmp_path):
    path = text(tmp_path, f"sku,day,price,cost\na,{D},1,cheap\nb,{D},2,3.5\n")
    intake = read(bare(path, past=["cost"]))
    assert intake.quarantine[["row", "column", "value"]].values.tolist() == [[1, "cost", "cheap"]]
    assert np.isnan(reading(intake, "a", D)["cost"]) and reading(intake, "b", D)["cost"] == 3.5


@pytest.mark.parametrize("positive", [True, False])
def test_sales_of_items_that_were_not_on_offer_are_observed_and_counted_apart(tmp_path, positive):
    """A stock-out is written as 0 units, not as an empty cell, and some sell all the same. A price then is hidden."""
    rows = "".join(f"a,{d},{y},{'no' if k % 2 else 'yes'},tea\n" for k, (d, y) in enumerate(zip(days(5), "30251", strict=True)))
    intake = read(file(text(tmp_path, f"sku,day,price,seen,name\n{rows}b,{D},,no,tea\n"), positive=positive))
    names = ("observed", "unavailable", "of the observed not on offer")
    assert [intake.counts.get(name) for name in names] == ([3, 3, None] if positive else [5, 1, 2])


def test_of_a_covariate_without_a_number_the_first_cells_are_listed_and_all_are_counted(tmp_path):
    """Of each column; rows that are refused are all listed."""
    more = LISTED + 7
    rows = [f"i{k},{D},{'x' if k < more else 1},cheap,{'rare' if k % more == 5 else 2}" for k in range(2 * more)]
    intake = read(bare(text(tmp_path, "\n".join(["sku,day,price,cost,tax", *rows]) + "\n"), past=["cost", "tax"]))
    reason = f"not a number (wanted {parsing.numbers(False)})"
    assert {name: n for name, n in intake.counts.items() if reason in name} == {
        f"quarantined: {reason}": more,
        f"covariate left empty: {reason}": LISTED + 1,
        f"covariate left empty: {reason}, not listed": 7,
    }
    assert intake.quarantine["column"].value_counts().to_dict() == {"price": more, "cost": LISTED, "tax": 1}
    assert intake.quarantine.query("column == 'cost'")["row"].tolist() == list(range(more + 1, more + 1 + LISTED))


def test_history_days_cuts_the_past(tmp_path):
    path = parquet(tmp_path, sku=["a"] * 30, day=days(30), price=[1.0] * 30)
    intake = read(bare(path, history_days=10))
    assert intake.counts["rows kept"] == 10 and intake.counts["before the history window"] == 20


def test_all_missing_columns_are_named_with_the_nearest(tmp_path):
    path = text(tmp_path, f"SKU,date,price_eur,seen\na,{D},1,true\n")
    with pytest.raises(SourceError) as error:
        FILE.span(file(path))[1]
    for words in (
        "'sku' (nearest: 'SKU')",
        "'day'",
        "'price' (nearest: 'price_eur')",
        "'name'",
        "it has SKU, date, price_eur, seen",
    ):
        assert words in str(error.value)
    with pytest.raises(SourceError, match="there 2 times"):
        FILE.span(bare(text(tmp_path, f"sku,day,price,price\na,{D},1,2\n")))[1]


def test_namesakes_among_columns_that_nobody_asked_for_do_no_harm(tmp_path):
    assert len(read(bare(text(tmp_path, f"x,sku,x,day,price,\n1,a,2,{D},1,\n"))).frame) == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x.parquet", b"PAR1 not really", "really a .parquet file"),
        ("x.csv", b"", "is empty"),
        ("x.xlsx", b"x", "wanted a .parquet or .csv"),
        ("x.csv", b"sku,day,price\n", "no usable rows: 0 rows"),
        ("x.csv", "sku,day,price\nчай,2024-03-01,1\n".encode("cp1251"), "UTF-8"),
        ("x.csv", b"sku,day,price\na,never,1\na,2024-03-01,x\n", r"2 rows, 1 not a number \(.*\), 1 impossible date \("),
        ("x.csv", b"sku,day,price\na,01/31/2024,1\n", "row 1: day is '01/31/2024'"),
        ("x.parquet", b"", "really a .parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words) as error:
        FILE.span(bare(tmp_path / name))[1]
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_parquet_a_directory_and_nothing_at_all(tmp_path):
    path = parquet(tmp_path, sku=["a"], day=[D], price=[1.0])
    path.write_bytes(path.read_bytes()[:-20])
    for bad, words in ((path, "complete"), (tmp_path, "is a directory"), (tmp_path / "no.csv", "does not exist")):
        with pytest.raises(SourceError, match=words):
            FILE.span(bare(bad))[1]


@pytest.mark.parametrize("as_of", [D - dt.timedelta(days=30), D + dt.timedelta(days=1)])
def test_an_as_of_outside_the_file_names_its_first_and_last_day(tmp_path, as_of):
    with pytest.raises(SourceError, match=f"{D} to {D}"):
        read(bare(text(tmp_path, f"sku,day,price\na,{D},1\n")), as_of)


def test_the_fingerprint_follows_content_date_and_mapping(tmp_path):
    before = D - dt.timedelta(days=1)
    path = text(tmp_path, f"sku,day,price,p2\na,{before},1,2\na,{D},1,2\n")
    first = FILE.fingerprint(bare(path), None, D)
    assert first == FILE.fingerprint(bare(path), None, str(D))
    other = bare(path, columns={"series": "sku", "ts": "day", "y": "p2"})
    assert (
        len(
            {
                first,
                FILE.fingerprint(bare(path), None, D - dt.timedelta(days=1)),
                FILE.fingerprint(other, None, D),
                FILE.fingerprint(bare(path, history_days=5), None, D),
            }
        )
        == 4
    )
    text(tmp_path, f"sku,day,price,p2\na,{D},1,3\n")
    assert FILE.fingerprint(bare(path), None, D) != first


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_row_order_of_a_file_never_matters(tmp_path_factory, data):
    n = 24
    price, seen = st.sampled_from(["5", "5.5", "0", "-1", "x", "", "900", "inf"]), st.sampled_from(["true", "false", ""])
    cells = {
        "sku": [f"s{k % 4}" for k in range(n)],
        "day": [str(days(6)[k // 4]) for k in range(n)],
        "price": data.draw(st.lists(price, min_size=n, max_size=n)),
        "seen": data.draw(st.lists(seen, min_size=n, max_size=n)),
    }
    cells["sku"][0], cells["day"][0], cells["price"][0], cells["seen"][0] = "z", str(D), "5", "true"
    frame = pd.DataFrame(cells)
    order = data.draw(st.permutations(range(n)))
    folder = tmp_path_factory.mktemp("f")
    columns = {"series": "sku", "ts": "day", "y": "price", "available": "seen"}
    out = []
    for name, rows in (("one.csv", frame), ("two.csv", frame.iloc[order])):
        rows.to_csv(folder / name, index=False)
        out.append(read(file(folder / name, columns=columns)))
    pd.testing.assert_frame_equal(out[0].frame, out[1].frame)
    assert out[0].counts == out[1].counts
    assert sorted(out[0].quarantine["reason"]) == sorted(out[1].quarantine["reason"])


def test_csv_and_parquet_of_the_same_rows_read_the_same(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"sku": rng.integers(0, 50, 2000), "day": rng.choice(days(60), 2000), "price": rng.uniform(1, 9, 2000).round(2)}
    )
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    one, two = read(bare(tmp_path / "x.csv")), read(bare(tmp_path / "x.parquet"))
    pd.testing.assert_frame_equal(one.frame, two.frame)


def test_a_thousand_series_of_800_days_are_read_in_two_seconds(tmp_path):
    n, t = 1000, 800
    when = pd.date_range(end=D, periods=t).values.astype("datetime64[D]")
    path = parquet(
        tmp_path,
        sku=np.repeat([f"s{k:04d}" for k in range(n)], t),
        day=np.tile(when, n),
        price=np.random.default_rng(1).uniform(1, 2, n * t),
        seen=np.ones(n * t, bool),
        name=np.repeat(["x"] * n, t),
    )
    started = time.perf_counter()
    assert read(file(path), D).counts["rows kept"] == n * t
    assert time.perf_counter() - started < 2


def test_the_fingerprint_is_of_what_a_run_reads(tmp_path):
    """A row after the as-of date, another order of rows or another format of file leaves a finished run as it is."""
    earlier, later = D - dt.timedelta(days=1), D + dt.timedelta(days=1)
    rows = [f"a,{earlier},1", f"b,{earlier},2", f"a,{D},3"]
    first = FILE.fingerprint(bare(text(tmp_path, "\n".join(["sku,day,price", *rows]))), None, D)
    for again in (rows[::-1], [*rows, f"a,{later},9"]):
        assert FILE.fingerprint(bare(text(tmp_path, "\n".join(["sku,day,price", *again]))), None, D) == first
    changed = [rows[0], rows[1], f"a,{D},4"]
    assert FILE.fingerprint(bare(text(tmp_path, "\n".join(["sku,day,price", *changed]))), None, D) != first


def test_a_thousand_series_each_on_two_days_of_a_century_find_their_cells(tmp_path):
    """A grid of all cells would be mostly empty."""
    lines = "".join(f"s{i},{d},{i + 1}\n" for i in range(1000) for d in ("1900-01-01", "2024-03-10"))
    path = text(tmp_path, "sku,day,price\n" + lines)
    sparse = read(bare(path))
    assert len(sparse.frame) == 2000 and sparse.counts["dates"] == 2
    assert (sparse.frame["y"] == sparse.frame["series_id"].astype(str).str[1:].astype(int) + 1).all()


def test_columns_of_a_parquet_that_are_no_single_values_are_all_named(tmp_path):
    path = tmp_path / "odd.parquet"
    table = pa.table({"sku": pa.array([{"a": 1}]), "day": [D], "price": pa.array([[1.0]])})
    pq.write_table(table, path)
    with pytest.raises(SourceError) as error:
        read(bare(path))
    said = str(error.value)
    assert "column 'sku' is struct<" in said and "column 'price' is list<" in said and "one value a cell" in said


def test_text_that_is_not_marked_as_such_is_text(tmp_path):
    """Older writers of Parquet leave the mark out; bytes that are no text are refused by their column's name."""
    path = tmp_path / "old.parquet"
    pq.write_table(pa.table({"sku": [b"a", b"b"], "day": [D, D], "price": [b"1.5", b"2"]}), path)
    assert [reading(read(bare(path)), series, D)["y"] for series in "ab"] == [1.5, 2]
    pq.write_table(pa.table({"sku": [b"\xff\xfe"], "day": [D], "price": [1.0]}), path)
    with pytest.raises(SourceError, match="column 'sku' holds bytes that are no UTF-8 text"):
        read(bare(path))


def test_a_head_of_a_csv_beyond_all_measure_is_told(tmp_path):
    with pytest.raises(SourceError, match="cannot read .*field larger than field limit"):
        read(bare(text(tmp_path, f"sku,day,{'x' * 140_000}\na,{D},1\n")))


@pytest.fixture
def loads(monkeypatch):
    """The paths of the files that are loaded during a test."""
    found, load = [], parsing.load
    monkeypatch.setattr(parsing, "load", lambda path, wanted: found.append(path) or load(path, wanted))
    return found


def test_what_span_has_read_is_read_once_and_let_go(tmp_path, loads):
    source = file(text(tmp_path, f"sku,day,price,seen,name\n{GOOD}"))
    as_of = FILE.span(source)[1]
    first = FILE.fingerprint(source, None, as_of)
    assert len(loads) == 1 and FILE._held is None
    assert FILE.fingerprint(source, None, as_of) == first and len(loads) == 2


def test_a_file_that_changes_between_two_calls_is_read_again(tmp_path, loads):
    """Also where its size and the time of its last write are as they were."""
    source = bare(text(tmp_path, f"sku,day,price\na,{D},1\n"))
    as_of, before = FILE.span(source)[1], (tmp_path / "prices.csv").stat()
    text(tmp_path, f"sku,day,price\na,{D},2\n", "new.csv").rename(tmp_path / "prices.csv")
    os.utime(tmp_path / "prices.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reading(FILE.read(source, None, as_of), "a", D)["y"] == 2 and len(loads) == 2


def test_a_file_written_a_moment_ago_is_not_held(tmp_path, loads, monkeypatch):
    monkeypatch.setattr(longfile, "SETTLED", 60.0)
    source = bare(text(tmp_path, f"sku,day,price\na,{D},1\n"))
    as_of = FILE.span(source)[1]
    text(tmp_path, f"sku,day,price\na,{D},2\n")
    assert reading(FILE.read(source, None, as_of), "a", D)["y"] == 2 and len(loads) == 2


def test_other_columns_of_a_file_that_is_held_are_read(tmp_path):
    source = bare(text(tmp_path, f"sku,day,price,cost\na,{D},1,7\n"))
    as_of = FILE.span(source)[1]
    columns = {"series": "sku", "ts": "day", "y": "cost"}
    assert reading(FILE.read(bare(source.path, columns=columns, past=["price"]), None, as_of), "a", D)["y"] == 7


def test_numbers_of_a_file_that_is_held_are_told_by_the_rows_up_to_the_as_of_date(tmp_path):
    """12,5 of the last day says what the mark in 1.450 is, to a run that knows that day and to no other."""
    before, source = days(2)[0], bare(text(tmp_path, f"sku;day;price\na;{days(2)[0]};1.450\nb;{days(2)[0]};7\nb;{D};12,5\n"))
    for as_of, kept in ((before, ["b"]), (D, ["a", "b", "b"])):
        FILE.span(source)
        assert FILE.read(source, None, as_of).frame["series_id"].tolist() == kept


def test_the_reading_of_a_large_file_is_announced(tmp_path, lines, monkeypatch):
    source = bare(text(tmp_path, f"sku,day,price\na,{D},1\n"))
    FILE.span(source)
    assert not lines
    monkeypatch.setattr(longfile, "LARGE", 10)
    longfile.LongFile().span(source)
    assert lines == [f"INFO reading {source.path} (29 B)"]


@pytest.mark.parametrize("dictionary", [["b", "a"], ["b", "a", "of no row"], ["b", "a", "a"], ["b", "a", " "]])
def test_text_in_a_dictionary_is_the_text_it_stands_for(dictionary):
    """Whatever else the dictionary holds, and however each piece of the column numbers its texts."""
    places = pa.array([1, 0, None, 1, len(dictionary) - 1], pa.uint8())
    if "of no row" in dictionary:
        places = pa.array([1, 0, None, 1, 0], pa.uint8())
    pieces = [pa.DictionaryArray.from_arrays(places, pa.array(dictionary)), pa.array(["c", "a"]).dictionary_encode()]
    for chunks in (pieces[:1], [pieces[0], pieces[1].cast(pieces[0].type)]):
        column = pa.chunked_array(chunks)
        (codes, texts), (wanted, plain) = parsing.as_text(column), parsing.as_text(column.cast(pa.string()))
        assert codes.dtype == np.int32 and sorted(texts) == sorted(plain)
        assert [texts[k] if k >= 0 else None for k in codes] == [plain[k] if k >= 0 else None for k in wanted]
        assert (codes < 0).sum() > 0 and not parsing.as_flags(column)[1][2]


def test_text_is_held_as_a_dictionary_and_says_what_plain_text_says(tmp_path):
    columns = {
        "sku": pa.array(["b", "a", "b"]),
        "day": pa.array([str(d) for d in days(3)]),
        "price": pa.array(["1.5", "x", "2"]),
    }
    pa.csv.write_csv(pa.table(columns), tmp_path / "prices.csv")
    files = [parquet(tmp_path, **columns), tmp_path / "prices.csv"]
    for path in files:
        assert all(pa.types.is_dictionary(kind) for kind in parsing.load(path, list(columns))[0].schema.types), path
    one, other = (read(bare(path), D) for path in files)
    pd.testing.assert_frame_equal(one.frame, other.frame)
    pd.testing.assert_frame_equal(one.quarantine.drop(columns="file"), other.quarantine.drop(columns="file"))
    assert len({FILE.fingerprint(bare(path), None, D) for path in files}) == 1
