"""A shop's files from end to end: which files count, which rows, and the demand and the stock that come of them."""

import datetime as dt
import json
import logging
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecastbook import shoprows, stock
from forecastbook.intake import SourceError
from forecastbook.panel import build
from forecastbook.shop import Known, ShopFiles
from forecastbook.vinyl import STATIC
from shopfiles import ENGLISH, fact, job, lot, read, sale, shop, table, text, xls, xlsx

SHOP = ShopFiles()
D = dt.date


def adds_up(intake):
    c = intake.counts
    taken = sum(n for name, n in c.items() if name.startswith("quarantined") or name == "after the as-of date")
    return c["rows read"] == c["rows kept"] + taken


def months_of(intake):
    frame = intake.frame
    assert frame["series_id"].nunique() == 1
    return {f"{ts:%Y-%m}": y for ts, y in zip(frame["ts"], frame["y"], strict=True)}


def totals(intake) -> dict:
    frame = intake.facts["FactSales"].to_pandas()
    return frame.groupby("period")["units"].sum().to_dict()


def last_of(month: int, **more):
    """A sale on the last day of a month of 2022: then the month is complete."""
    return sale(f"{(pd.Timestamp(2022, month, 1) + pd.offsets.MonthEnd()):%d.%m.%Y}", **more)


# ---- the frame ----


def test_the_frame_of_one_item_by_hand(tmp_path):
    # 3 copies entered on 1 June, a 4th is left: sold on 10 and 31 August, and on 30 September
    found = read(
        shop(tmp_path, [lot(2)], [sale("10.08.2022", price=1500), sale("31.08.2022", price=2500), last_of(9, price=3000)])
    )
    frame = found.frame
    assert list(frame) == [
        "series_id", "ts", "y", "available", "title", *STATIC, "price", "price_band", "availability", "confidence",
        "lost_sales",
    ]  # fmt: skip
    assert frame["ts"].dtype == "datetime64[ns]" and frame["y"].dtype == float and frame["available"].dtype == bool
    assert all(isinstance(frame[name].dtype, pd.CategoricalDtype) for name in ("series_id", "title", *STATIC))
    assert months_of(found) == {"2022-08": 2, "2022-09": 1}  # no row before the sales begin: nobody knows what sold in June
    assert frame["price"].tolist() == [2000, 3000] and frame["price_band"].tolist() == [1, 2]
    assert frame["availability"].tolist() == [1, 1] and frame["lost_sales"].tolist() == [0, 0]
    # August begins with 5 copies; 4 after the 10th; 3 on the evening of the 31st, 4 of which could be sold that day
    assert frame["confidence"].tolist() == pytest.approx([(10 * 1 + 21 * 0.8) / 31, 0.6])
    assert frame["title"].unique().tolist() == ["Northern Static - Distance (Sealed, reissue 1988)"]
    assert frame[list(STATIC)].iloc[0].tolist() == ["Sealed", "Reissue", "Rock", "1970s", "1980s"]
    assert adds_up(found) and found.quarantine.empty


def test_months_without_a_sale_are_zero_and_a_stock_out_is_not_available(tmp_path):
    # one copy sold on 1 July, the next entered on 16 September
    lots = [lot(1, "16.09.2022"), lot(1, album="Other")]
    found = read(shop(tmp_path, lots, [sale("01.07.2022"), last_of(9, album="Other")])).frame
    found = found[found["title"].str.contains("Distance")]
    assert found["y"].tolist() == [1, 0, 0] and found["available"].tolist() == [True, False, True]
    assert found["availability"].tolist() == pytest.approx([1 / 31, 0, 15 / 30])
    assert found["lost_sales"].tolist() == pytest.approx([30 * 1, 0, 0])
    assert found["price"].tolist() == [2000] * 3


def test_facts_by_hand(tmp_path):
    found = read(
        shop(tmp_path, [lot(2)], [sale("10.08.2022", price=1500), sale("10.08.2022", price=2500), last_of(9, price=3000)])
    )
    assert fact(found, "FactSales").to_dict("list") == {
        "period": [D(2022, 8, 1), D(2022, 9, 1)],
        "units": [2, 1],
        "revenue": [4000, 3000],
    }
    assert fact(found, "FactStockMovement").to_dict("list") == {
        "date": [D(2022, 6, 1), D(2022, 8, 10), D(2022, 9, 30)],
        "units": [5, -2, -1],
    }
    month = fact(found, "FactItemMonth")
    assert month["period"].tolist() == [D(2022, 8, 1), D(2022, 9, 1)] and month["masked_mean_units"].tolist() == pytest.approx(
        [2 / 31, 1 / 30]
    )
    assert list(month) == [
        "period",
        "availability",
        "confidence",
        "masked_mean_units",
        "lost_sales_units",
        "lost_sales_revenue",
    ]
    assert fact(found, "StockNow").to_dict("list") == {"units": [2], "price": [2000]}
    item = found.facts["DimItem"].to_pylist()[0]
    assert (
        item["series_id"] == found.frame["series_id"].iloc[0] and json.loads(item["attributes_json"])["recording_year"] == 1973
    )


def test_the_frame_makes_a_panel(tmp_path):
    found = read(shop(tmp_path, [lot(), lot(album="New", created="05.09.2022")], [sale("03.07.2022"), last_of(9)]))
    panel = build(found.frame, as_of=D(2022, 9, 1), freq="MS", static=STATIC, past=("price", "availability"))
    assert panel.y.shape == (2, 3)
    new = panel.titles.tolist().index("Northern Static - New (Sealed, reissue 1988)")
    assert np.array_equal(panel.y[new], [np.nan, np.nan, 0], equal_nan=True) and panel.static_names == STATIC


def test_history_months_keeps_the_last_ones(tmp_path):
    source = shop(tmp_path, [lot()], [sale("03.05.2022"), last_of(9)], history_months=2)
    found = read(source)
    assert months_of(found) == {"2022-08": 0, "2022-09": 1} and found.frame["price"].iloc[0] == 2000
    assert totals(found) == {D(2022, 5, 1): 1, D(2022, 9, 1): 1}  # facts are all of them


# ---- quantities, arrivals, old stock ----


def test_copies_are_a_quantity_and_not_a_row(tmp_path):
    found = read(shop(tmp_path, [lot(7), lot(2)], [last_of(8)]))
    assert fact(found, "StockNow")["units"].tolist() == [9]
    assert fact(found, "FactStockMovement")["units"].tolist() == [10, -1]


def test_a_sales_file_may_have_copies_too(tmp_path):
    found = read(shop(tmp_path, [lot(1)], [last_of(8, count=3), last_of(8, count=None)]))
    assert months_of(found) == {"2022-08": 4} and fact(found, "FactSales")["revenue"].tolist() == [8000]


def test_stock_from_before_the_first_month_is_there_and_unsold_arrivals_move(tmp_path):
    lots = [lot(1, "01.02.2015", album="Old"), lot(4, "20.08.2022", album="Fresh"), lot(1)]
    found = read(shop(tmp_path, lots, [sale("01.07.2022"), last_of(9)]))
    frame = found.frame.assign(name=found.frame["title"].str.extract(r"- (\w+)", expand=False))
    old, fresh = (frame[frame["name"] == name] for name in ("Old", "Fresh"))
    assert old["availability"].tolist() == [1, 1, 1] and old["confidence"].tolist() == pytest.approx([0.2] * 3)
    assert fresh["ts"].dt.month.tolist() == [8, 9] and fresh["availability"].tolist() == pytest.approx([12 / 31, 1])
    moves = found.facts["FactStockMovement"].to_pandas()
    assert (moves["units"] == 4).sum() == 1 and moves["date"].min() == D(2015, 2, 1)


def test_a_copy_that_comes_and_goes_on_one_day_was_available(tmp_path):
    found = read(shop(tmp_path, [lot(0, "01.01.2023", album="X")], [sale("31.08.2022", "31.08.2022")], cutoff="01.09.2022"))
    frame = found.frame
    assert frame["availability"].tolist() == pytest.approx([1 / 31]) and frame["available"].tolist() == [True]
    assert fact(found, "FactStockMovement").empty or "2022-08-31" not in set(
        found.facts["FactStockMovement"]["date"].to_pylist()
    )


def test_entered_after_it_was_sold_is_taken_as_the_day_it_sold(tmp_path):
    found = read(shop(tmp_path, [lot(1)], [sale("31.08.2022", "15.09.2022")]))
    assert found.counts["created after sold: taken as the day sold"] == 1 and months_of(found) == {"2022-08": 1}


def test_one_item_one_sale_is_a_shop(tmp_path):
    found = read(shop(tmp_path, [lot(0)], [last_of(8, release_year=None, barcode=None)]))
    assert len(found.frame["series_id"].cat.categories) == 1 or len(found.facts["DimItem"]) == 2


# ---- the cutoff ----


@pytest.mark.parametrize("cutoff", ["2022-09-01", "01.09.2022", "01-09-2022"])
def test_a_cutoff_in_any_form(tmp_path, cutoff):
    source = shop(tmp_path, [lot()], [sale("10.08.2022")], cutoff=cutoff)
    assert SHOP.span(source) == (D(2022, 8, 1), D(2022, 8, 1))


def test_without_a_cutoff_it_is_the_day_after_the_last_sale(tmp_path):
    assert SHOP.span(shop(tmp_path / "a", [lot()], [sale("10.08.2022"), last_of(9)])) == (D(2022, 8, 1), D(2022, 9, 1))
    assert SHOP.span(shop(tmp_path / "b", [lot()], [sale("10.08.2022"), sale("29.09.2022")]))[1] == D(2022, 8, 1)


def test_the_stock_of_the_cutoff_is_that_of_its_morning(tmp_path):
    # the snapshot of the morning of 1 September has 2; entered on 20 August, one sold on 25 August: 3 from the 20th to the 25th
    lots, sales = [lot(2, "20.08.2022")], [sale("25.08.2022", "20.08.2022"), sale("01.08.2022", "01.06.2022")]
    found = read(shop(tmp_path, lots, sales, cutoff="01.09.2022"))
    frame = found.frame
    assert frame["confidence"].tolist() == pytest.approx([(0.2 + 6 * 0.6 + 6 * 0.4) / 31])
    assert frame["availability"].tolist() == pytest.approx([13 / 31])


def test_sales_on_and_after_the_cutoff_leave_the_snapshot(tmp_path):
    # 3 copies on the morning of 30 September; two of them are sold on that day and in October
    lots = [lot(3)]
    sales = [sale("10.09.2022"), sale("30.09.2022"), sale("31.10.2022")]
    found = read(shop(tmp_path, lots, sales, cutoff="30.09.2022"))
    assert SHOP.span(shop(tmp_path, lots, sales, cutoff="30.09.2022"))[1] == D(2022, 10, 1)
    assert months_of(found) == {"2022-09": 2, "2022-10": 1} and fact(found, "StockNow")["units"].tolist() == [1]
    # 4 until the 10th, 3 until the 30th, 2 until 31 October
    assert found.frame["confidence"].tolist() == pytest.approx([(10 * 0.8 + 20 * 0.6) / 30, 0.4])
    assert fact(found, "FactStockMovement")["units"].tolist() == [4, -1, -1, -1]


def test_a_later_sale_that_the_snapshot_does_not_hold_was_in_the_shop_all_the_same(tmp_path):
    sales = [sale("10.09.2022"), sale("05.10.2022"), sale("31.10.2022")]
    found = read(shop(tmp_path, [lot(1)], sales, cutoff="30.09.2022"))
    assert fact(found, "StockNow")["units"].tolist() == [0] and found.frame["availability"].tolist() == [1, 1]
    assert fact(found, "FactStockMovement")["units"].tolist() == [3, -1, -1, -1]


def test_a_lot_entered_after_the_cutoff_arrives_on_its_day(tmp_path):
    found = read(shop(tmp_path, [lot(1), lot(5, "03.09.2022")], [last_of(8)]))
    assert fact(found, "StockNow")["units"].tolist() == [6]
    assert fact(found, "FactStockMovement").to_dict("list")["date"] == [D(2022, 6, 1), D(2022, 8, 31), D(2022, 9, 3)]


@pytest.mark.parametrize("cutoff", ["31.02.2022", "soon", "2999-01-01", "2022"])
def test_an_impossible_cutoff_is_refused(tmp_path, cutoff):
    with pytest.raises(SourceError, match="source.cutoff"):
        SHOP.span(shop(tmp_path, [lot()], [sale()], cutoff=cutoff))


# ---- the incomplete month ----


def test_an_incomplete_month_is_left_out_unless_it_is_to_be_filled(tmp_path):
    # September is known to the 20th: 4 sold in 20 days, 10 days are missing: round(4 / 20 * 10) = 2
    sales = [last_of(8), *[sale(f"{day:02d}.09.2022", price=1000) for day in (1, 5, 9, 20)]]
    skipped = read(shop(tmp_path, [lot(3)], sales))
    assert months_of(skipped) == {"2022-08": 1}
    assert totals(skipped) == {D(2022, 8, 1): 1, D(2022, 9, 1): 4}  # what sold did sell: the facts lose nothing
    filled = read(shop(tmp_path, [lot(3)], sales, fill_last_month=True))
    assert months_of(filled) == {"2022-08": 1, "2022-09": 6}
    assert fact(filled, "FactSales")["revenue"].tolist() == [2000, 6000] and filled.frame["availability"].tolist() == [1, 1]


def test_a_complete_month_is_not_filled(tmp_path):
    source = shop(tmp_path, [lot(3)], [last_of(8), last_of(9)], fill_last_month=True)
    assert months_of(read(source)) == {"2022-08": 1, "2022-09": 1}


def test_no_complete_month_says_what_to_do(tmp_path):
    with pytest.raises(SourceError, match="no complete month.*fill_last_month: true"):
        SHOP.span(shop(tmp_path, [lot()], [sale("10.08.2022")]))


# ---- files ----


def test_every_form_of_the_files_gives_the_same_numbers(tmp_path):
    lots, sales = [lot(2), lot(1, album="Письма", price=2500)], [sale("10.07.2022"), last_of(8, album="Письма", price=1500)]
    wanted = read(shop(tmp_path / "a", lots, sales))
    english = read(
        job(xls(tmp_path / "s.xls", table(lots, ENGLISH)), text(tmp_path / "e.csv", table(sales, ENGLISH), ",", "utf-8-sig"))
    )
    sums = [row | {"price": f"{row['price'] // 1000} {row['price'] % 1000:03d},00"} for row in sales]
    for space in (" ", "\u00a0"):
        spaced = [row | {"price": row["price"].replace(" ", space)} for row in sums]
        russian = read(
            job(text(tmp_path / "s.csv", table(lots), ";", "cp1251"), text(tmp_path / "r.csv", table(spaced), ";", "cp1251"))
        )
        assert russian.frame.equals(wanted.frame) and english.frame.equals(wanted.frame)
        assert all(russian.facts[name].equals(wanted.facts[name]) for name in wanted.facts)


def test_months_span_files_and_files_span_months_and_rows_repeat(tmp_path):
    stock_file = xlsx(tmp_path / "stock.xlsx", table([lot(1)]))
    one = xlsx(tmp_path / "1.xlsx", table([sale("05.07.2022"), sale("05.07.2022"), sale("20.08.2022")]))
    two = text(tmp_path / "2.csv", table([sale("21.08.2022"), sale("05.07.2022"), last_of(8)]))
    found = read(job(stock_file, one, two))
    assert months_of(found) == {"2022-07": 3, "2022-08": 3} and totals(found) == {D(2022, 7, 1): 3, D(2022, 8, 1): 3}
    back = read(job(stock_file, two, one))
    assert back.frame.equals(found.frame)


def test_a_file_given_twice_counts_once(tmp_path, caplog, monkeypatch):
    stock_file = xlsx(tmp_path / "stock.xlsx", table([lot(1)]))
    one = xlsx(tmp_path / "sales_1.xlsx", table([sale("05.07.2022"), last_of(8)]))
    (tmp_path / "sales_copy.xlsx").write_bytes(one.read_bytes())
    (tmp_path / "~$sales_1.xlsx").write_bytes(b"lock")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        found = read(job(stock_file, one, "sales_*.xlsx", "*.xlsx", "./sales_1.xlsx"))
    assert months_of(found) == {"2022-07": 1, "2022-08": 1}
    assert found.counts["files read"] == 2 and found.counts["files given again"] == 5
    assert "sales_copy.xlsx is the same file as" in caplog.text and "is given twice" in caplog.text
    assert months_of(read(job("stock.xlsx", "."))) == months_of(found)  # a directory: all files but the stock


def test_a_month_without_any_sale_is_warned_of(tmp_path, caplog):
    found = read(shop(tmp_path, [lot(2)], [sale("05.06.2022"), last_of(9)]))
    assert months_of(found) == {"2022-06": 1, "2022-07": 0, "2022-08": 0, "2022-09": 1}
    assert found.counts["months without any sale"] == 2 and "nothing at all was sold in 2022-07, 2022-08" in caplog.text


def test_the_same_rows_in_other_bytes_count_twice_and_are_warned_of(tmp_path, caplog):
    rows = table([sale("05.07.2022"), last_of(8)])
    stock_file = xlsx(tmp_path / "stock.xlsx", table([lot(1)]))
    source = job(stock_file, text(tmp_path / "a.csv", rows, ";"), text(tmp_path / "b.csv", rows, ","))
    assert months_of(read(source)) == {"2022-07": 2, "2022-08": 2}
    assert "b.csv holds the same 2 rows as" in caplog.text


def test_a_stock_file_of_which_no_row_can_be_used_is_refused(tmp_path):
    """Else all that was ever sold would look sold out ever since."""
    sales = [sale(f"{day:02}.08.2022") for day in range(1, 31)] + [last_of(8)]
    with pytest.raises(SourceError, match="the stock file has no usable row of 2; of all files: 2 not a whole number"):
        read(shop(tmp_path / "a", [lot(1.5), lot(2.5)], sales))
    some = read(shop(tmp_path / "b", [lot(1), lot(1.5)], sales))
    (said,) = some.remarks
    assert "1 of the 2 rows of" in said and "stock.xlsx were refused" in said and not some.refusal()
    assert read(shop(tmp_path / "c", [lot(1)], sales)).remarks == ()


def test_a_last_month_that_is_nearly_over_and_not_used_is_told(tmp_path):
    sales = [last_of(8), sale("02.09.2022"), sale("28.09.2022")]
    (said,) = read(shop(tmp_path / "a", [lot(1)], sales)).remarks
    assert said.startswith("2022-09 is nearly over") and "2 copies sold in it are not used" in said
    for name, more in (("b", {"cutoff": "01.10.2022"}), ("c", {"fill_last_month": True})):
        found = read(shop(tmp_path / name, [lot(1)], sales, **more))
        assert found.remarks == () and "2022-09" in months_of(found)
    assert read(shop(tmp_path / "d", [lot(1)], sales[:2])).remarks == (), "a month that has begun is none"
    early = shop(tmp_path / "e", [lot(1)], [last_of(7), *sales])
    assert read(early, D(2022, 7, 1)).remarks == (), "not known then"


def test_a_file_of_sales_may_hold_heads_alone(tmp_path, caplog):
    stock_file = xlsx(tmp_path / "stock.xlsx", table([lot(1)]))
    some, heads = table([sale("05.07.2022"), last_of(8)]), table([sale()])[:1]
    none = [xlsx(tmp_path / "09.xlsx", heads), text(tmp_path / "10.csv", heads, ";")]
    found = read(job(stock_file, none[0], xlsx(tmp_path / "08.xlsx", some), none[1], cutoff="01.11.2022"))
    assert months_of(found) == {"2022-07": 1, "2022-08": 1, "2022-09": 0, "2022-10": 0}
    assert caplog.text.count("has heads and no sales below them") == 2 and "holds the same" not in caplog.text
    with pytest.raises(SourceError, match="the sales files have no usable row"):
        read(job(stock_file, *none))


def test_reading_twice_changes_nothing(tmp_path):
    source = shop(tmp_path, [lot(2)], [sale("05.07.2022"), last_of(8)])
    first = read(source)
    shoprows.parsed.cache_clear()
    again = read(source)
    assert first.frame.equals(again.frame) and first.counts == again.counts and again.quarantine.equals(first.quarantine)


def test_files_that_are_not_there_are_named(tmp_path):
    good = xlsx(tmp_path / "s.xlsx", table([lot()]))
    for source, said in (
        (job(tmp_path / "no.xlsx", good), "source.stock .*no.xlsx does not exist"),
        (job(tmp_path, good), "is a directory"),
        (job(good, "nothing_*.xlsx"), r"source.sales nothing_\*.xlsx matches no"),
    ):
        with pytest.raises(SourceError, match=said):
            SHOP.span(source)


def test_all_bad_files_are_refused_at_once_and_nothing_is_read(tmp_path):
    stock_file = xlsx(tmp_path / "stock.xlsx", table([sale()]))
    bad = text(tmp_path / "bad.csv", [["a", "b"], ["1", "2"]])
    with pytest.raises(SourceError) as error:
        SHOP.span(job(stock_file, bad))
    assert "stock.xlsx, sheet 'Лист1', row 1: no column for count" in str(error.value) and "bad.csv, row 1" in str(error.value)


def test_names_with_spaces_cyrillic_brackets_and_a_link_work(tmp_path):
    home = tmp_path / "магазин (копия)"
    home.mkdir()
    stock_file = xlsx(home / "остатки [1].xlsx", table([lot()]))
    xlsx(home / "продажи [08].xlsx", table([last_of(8)]))
    os.symlink(home, tmp_path / "link")
    found = read(job(stock_file, home / "продажи [08].xlsx", tmp_path / "link" / "продажи [08].xlsx"))
    assert months_of(found) == {"2022-08": 1} and found.counts["files given again"] == 1


# ---- rows ----

BAD = {
    "missing artist": {"artist": None},
    "missing album": {"album": "  "},
    "missing price": {"price": None},
    "not a number": {"price": "договорная"},
    "negative": {"price": -5},
    "zero price": {"price": "0,00"},
    "not finite": {"price": "inf"},
    "ambiguous: a decimal comma, or one between thousands?": {"price": "1,500"},
    "missing recording_year": {"recording_year": ""},
    "not a year": {"recording_year": "197?"},
    "year in the future": {"recording_year": 2098},
    "missing created_date": {"created_date": None},
    "impossible date": {"created_date": "30.02.2022"},
    "date in the future": {"created_date": "01.01.2090"},
}
HEAD_OF = {
    "artist": "Исполнитель",
    "album": "Альбом",
    "price": "Цена, руб.",
    "recording_year": "Год записи",
    "created_date": "Дата добавления",
}


def test_a_point_in_a_csv_may_stand_between_thousands_and_in_excel_is_a_decimal_one(tmp_path):
    """Nobody sells a record for 2.49 roubles; a cell of Excel that says 508.725 is a number, not a way to write one."""
    sold = [last_of(8), last_of(8) | {"price": "2.490"}, last_of(8) | {"price": "2.490,00"}]
    found = read(
        job(xlsx(tmp_path / "s.xlsx", table([lot() | {"price": 508.725}])), text(tmp_path / "a.csv", table(sold), ";"))
    )
    assert found.quarantine[["value", "reason"]].to_numpy().tolist() == [
        ["2.490", next(r for r in BAD if r.startswith("ambig"))]
    ]
    assert fact(found, "FactSales")["revenue"].sum() == 2490 + 2000 and fact(found, "StockNow")["price"].tolist() == [508.725]


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("kind", ["stock", "sales"])
def test_a_bad_row_is_quarantined_with_its_place_and_reason(tmp_path, reason, kind):
    bad = {"stock": lot, "sales": sale}[kind]() | BAD[reason]
    lots = [lot(), lot(), bad] if kind == "stock" else [lot()]
    sales = [last_of(8), last_of(8)] + ([bad] if kind == "sales" else [])
    found = read(shop(tmp_path, lots, sales))
    assert len(found.quarantine) == 1
    row = found.quarantine.iloc[0]
    ((role, value),) = BAD[reason].items()
    assert (row["file"], row["sheet"], row["row"]) == (str(tmp_path / f"{kind}.xlsx"), "Лист1", 4)
    assert row["column"] == HEAD_OF[role] and row["reason"] == reason
    assert row["value"] == (None if value is None or not str(value).strip() else str(value))
    assert months_of(found) == {"2022-08": 2} and adds_up(found) and found.counts[f"quarantined: {reason}"] == 1


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"count": None}, "missing count"),
        ({"count": "2,5"}, "not a whole number"),
        ({"count": -1}, "negative"),
        ({"count": "много"}, "not a number"),
        ({"count": 1e9}, "too many copies"),
    ],
)
def test_a_bad_quantity_is_quarantined(tmp_path, change, reason):
    found = read(shop(tmp_path, [lot() | change, lot(2)], [last_of(8)]))
    assert found.quarantine["reason"].tolist() == [reason] and found.quarantine["column"].tolist() == ["Экземпляры"]
    assert fact(found, "StockNow")["units"].tolist() == [2]


@pytest.mark.parametrize(
    "sold, reason", [(None, "missing sold_date"), ("скоро", "impossible date"), ("01.01.1922", "impossible date")]
)
def test_a_bad_day_of_sale_is_quarantined(tmp_path, sold, reason):
    found = read(shop(tmp_path, [lot()], [last_of(8), sale(sold)]))
    assert found.quarantine["reason"].tolist() == [reason] and found.quarantine["column"].tolist() == ["Дата заказа"]


def test_days_are_not_taken_for_months_where_others_of_the_file_begin_with_the_month(tmp_path):
    """08/09/2022 is read as the 8th of September; beside 08/24/2022 it is hardly meant so, and nothing is guessed."""
    clear, unclear = sale("08/24/2022"), sale("08/09/2022")
    found = read(shop(tmp_path, [lot()], [last_of(8), clear, clear | {"price": 9}, unclear, sale("08/08/2022")]))
    why = found.quarantine.set_index("value")["reason"]
    assert (why["08/24/2022"] == "impossible date").all() and why["08/09/2022"].startswith(
        "ambiguous date: others of this file"
    )
    assert len(why) == 3 and adds_up(found), "the eighth of August is that in either order"
    found = read(shop(tmp_path, [lot()], [last_of(8), unclear, clear]))
    assert found.quarantine["value"].tolist() == ["08/24/2022"], "one may be a slip"


def test_rows_of_text_files_are_named_by_their_line(tmp_path):
    stock_file = text(tmp_path / "stock.csv", [*table([lot()]), [], *table([lot() | {"price": "?"}])[1:]], ";", "cp1251")
    found = read(job(stock_file, text(tmp_path / "sales.csv", table([last_of(8)]))))
    row = found.quarantine.iloc[0]
    assert (row["file"], row["sheet"], row["row"], row["value"]) == (str(stock_file), None, 4, "?")


def test_a_formula_without_a_value_is_a_bad_row(tmp_path):
    found = read(shop(tmp_path, [lot()], [last_of(8), sale(price="=A1*2")]))
    assert found.quarantine["reason"].tolist() == ["formula without a stored value: open the file in Excel and save it"]
    assert adds_up(found) and months_of(found) == {"2022-08": 1}


def test_a_total_below_the_table_is_not_a_sale(tmp_path):
    total = {name: None for name in sale()} | {"barcode": "Итого", "price": 2000}
    found = read(shop(tmp_path, [lot()], [last_of(8), total]))
    assert months_of(found) == {"2022-08": 1} and found.quarantine["reason"].tolist() == ["missing artist"]


def test_a_price_a_hundred_times_too_high_is_quarantined(tmp_path):
    sales = [*[last_of(8) for _ in range(4)], sale("15.08.2022", price=200_000)]
    found = read(shop(tmp_path, [lot(3)], sales))
    assert found.quarantine["reason"].tolist() == ["unit error?"] and months_of(found) == {"2022-08": 4} and adds_up(found)
    found = read(shop(tmp_path / "b", [lot(3, price=200_000)], sales[:4]))
    assert fact(found, "StockNow").to_dict("list") == {"units": [3], "price": [2000]}  # the copies are there at whatever price
    assert found.counts["price left out: unit error?"] == 1 and adds_up(found)


def test_text_is_kept_as_text(tmp_path):
    odd = {"artist": "NA", "album": "<script>🎵" + "x" * 10_000, "barcode": "007", "style": "=cmd|' /C calc'!A0"}
    lots = [lot() | odd | {"style": "+Rock"}]
    found = read(shop(tmp_path, lots, [last_of(8) | odd | {"style": "+Rock"}]))
    assert len(found.frame["series_id"].cat.categories) == 1
    assert found.frame["title"].iloc[0].startswith("NA - <script>🎵xxx") and found.frame["style"].iloc[0] == "+Rock"


def test_a_reprice_across_a_break_stays_one_item(tmp_path):
    found = read(shop(tmp_path, [lot(1, price=4000)], [sale("05.07.2022", price=2000), last_of(8, price=2600)]))
    assert len(found.frame["series_id"].cat.categories) == 1
    assert found.frame["price_band"].tolist() == [1, 2] and fact(found, "StockNow")["price"].tolist() == [4000]


def test_no_usable_sale_says_why(tmp_path):
    with pytest.raises(SourceError, match="no usable row: 3 rows read, 2 zero price"):
        SHOP.span(shop(tmp_path, [lot()], [sale(price=0), sale(price=0)]))


# ---- what an as-of date knows ----


def history():
    lots = [lot(2), lot(1, "05.09.2022", album="Later")]
    early = [sale("03.06.2022", "01.02.2022", price=1800), sale("20.07.2022"), last_of(7, album="Письма")]
    late = [sale("11.08.2022", price=9000), last_of(9, album="Письма"), sale("12.09.2022", "06.09.2022", album="Later")]
    return lots, early, late


def test_an_earlier_as_of_reads_a_shorter_history(tmp_path):
    lots, early, late = history()
    source = shop(tmp_path, lots, early + late)
    found = read(source, D(2022, 7, 1))
    assert found.frame["ts"].max() == pd.Timestamp("2022-07-01") and max(totals(found)) == D(2022, 7, 1)
    assert found.counts["after the as-of date"] == 2 and adds_up(found)
    assert not found.frame["title"].str.contains("Later").any()
    assert found.facts["FactStockMovement"].to_pandas()["date"].max() == D(2022, 7, 31)
    whole = read(source)
    same = whole.frame[whole.frame["ts"] <= "2022-07-01"]
    key = ["series_id", "ts"]
    merged = found.frame.astype({"series_id": str}).merge(same.astype({"series_id": str}), on=key, suffixes=("", "_later"))
    assert len(merged) == len(found.frame) == len(same)
    for name in ("y", "price", "price_band", "availability", "confidence", "lost_sales", "available"):
        assert merged[name].equals(merged[f"{name}_later"]), name


def test_later_files_do_not_change_an_earlier_as_of(tmp_path):
    lots, early, late = history()
    stock_file = xlsx(tmp_path / "stock.xlsx", table(lots))
    first = xlsx(tmp_path / "1.xlsx", table(early))
    one = job(stock_file, first, xlsx(tmp_path / "2.xlsx", table(late)), cutoff="01.10.2022")
    changed = [row | {"price": 99, "sold_date": "29.09.2022"} for row in late[:2]] + [
        sale(f"{day}.09.2022", "02.08.2022", style="Jazz", cover_type=None, release_year="2001") for day in range(10, 25)
    ]
    two = job(stock_file, first, xlsx(tmp_path / "3.xlsx", table(changed)), cutoff="01.10.2022")
    as_of = D(2022, 7, 1)
    before, after = read(one, as_of), read(two, as_of)
    assert before.frame.equals(after.frame)
    assert all(before.facts[name].equals(after.facts[name]) for name in before.facts)
    assert SHOP.fingerprint(one, None, as_of) == SHOP.fingerprint(two, None, as_of)
    assert SHOP.fingerprint(one, None, D(2022, 9, 1)) != SHOP.fingerprint(two, None, D(2022, 9, 1))
    assert not read(one).frame.equals(read(two).frame)


def test_the_fingerprint_does_not_know_the_form_of_the_files(tmp_path):
    lots, early, late = history()
    one = shop(tmp_path, lots, early + late)
    shuffled = early + late
    random.Random(3).shuffle(shuffled)
    two = job(
        text(tmp_path / "s.csv", table(lots)),
        text(tmp_path / "a.csv", table(shuffled[:2])),
        text(tmp_path / "b.csv", table(shuffled[2:])),
    )
    as_of = D(2022, 9, 1)
    assert SHOP.fingerprint(one, None, as_of) == SHOP.fingerprint(two, None, as_of)
    one.history_months = 1
    assert SHOP.fingerprint(one, None, as_of) != SHOP.fingerprint(two, None, as_of)


@pytest.mark.parametrize("seed", range(4))
def test_which_of_two_equal_rows_stands_first_decides_nothing(tmp_path, seed):
    """Neither which cover fills a gap, and with it which item a row is of, nor a latest price, nor the last bits of a sum."""
    lots = [
        lot(cover_type=cover, style=style, price=price) for cover, style, price in [("SS", "Rock", 900), ("G", "Jazz", 950)]
    ]
    lots += [lot(cover_type=None, style=None), lot(artist="NORTHERN STATIC", release_year="1985")]
    sales = [sale("31.08.2022", price=f"{price / 7:.2f}") for price in range(10_000, 10_040)] + [last_of(9)]
    one = shop(tmp_path / "one", lots, sales)
    for rows in (lots, sales):
        random.Random(seed).shuffle(rows)
    two = shop(tmp_path / "two", lots, sales)
    for as_of in (D(2022, 9, 1), D(2022, 8, 1)):
        first, second = read(one, as_of), read(two, as_of)
        assert first.frame.equals(second.frame)
        assert all(fact(first, name).equals(fact(second, name)) for name in first.facts)
        assert SHOP.fingerprint(one, None, as_of) == SHOP.fingerprint(two, None, as_of)


@pytest.mark.parametrize(
    "as_of, said", [(D(2022, 7, 15), "write 2022-07-01"), (D(2022, 1, 1), "lies outside"), (D(2022, 10, 1), "outside")]
)
def test_an_as_of_that_is_no_month_of_the_data_is_refused(tmp_path, as_of, said):
    lots, early, late = history()
    with pytest.raises(SourceError, match=said):
        read(shop(tmp_path, lots, early + late), as_of)


# ---- the walk of a whole shop ----


@st.composite
def lives(draw):
    """Copies of two items: (item, day entered, day sold or None) in 90 days, and the day of the snapshot."""
    copies = draw(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 80), st.none() | st.integers(0, 40)), min_size=1, max_size=25)
    )
    return [(i, a, None if b is None else min(a + b, 89)) for i, a, b in copies], draw(st.integers(1, 90))


@given(lives())
def test_the_stock_is_the_copies_between_entry_and_sale_from_any_snapshot(life):
    copies, at = life
    day = np.datetime64("2022-01-01") + np.arange(91)
    lots = [lot(0, "2022-01-01", album=name) for name in "AB"]
    # the snapshot of the morning of day ``at``: what is there, and what was entered later and never sold
    lots += [lot(1, str(day[a]), album="AB"[i]) for i, a, b in copies if b is None or a < at <= b]
    sales = [sale(str(day[b]), str(day[a]), album="AB"[i]) for i, a, b in copies if b is not None]
    with tempfile.TemporaryDirectory() as home:
        files = (
            text(Path(home) / "stock.csv", table(lots)),
            text(Path(home) / "sales.csv", table([*sales, sale(album="Other")])),
        )
        parsed = shoprows.parsed(*shoprows.documents(job(*files)), None, str(day[at]))
    known = Known(parsed, parsed.last + 1, newest=True)
    items = [known.titles.tolist().index(f"Northern Static - {name} (Sealed, reissue 1988)") for name in "AB"]
    for k in range(0, 91, 10):
        wanted = [sum(i == item and a < k and (b is None or b >= k) for i, a, b in copies) for item in (0, 1)]
        backwards = stock.stock_at(known.snapshot, parsed.cutoff, known.moves, day[k])
        forwards = known.moves.between("1900-01-01", day[k]).net(len(known.ids))  # from an empty shop
        assert backwards[items].tolist() == forwards[items].tolist() == wanted
