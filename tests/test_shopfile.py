"""One file of a shop: encodings, heads, sheets, and everything that is refused whole."""

import datetime as dt
import io
import logging
import zipfile

import openpyxl
import pytest
from openpyxl.utils import get_column_letter

from forecastbook import shopfile, workbook
from forecastbook.intake import SourceError
from shopfiles import ENGLISH, RUSSIAN, lot, sale, table, text, xls, xlsx

LOTS, SALES = table([lot(), lot(2, album="Письма")]), table([sale(), sale()])


def load(path, kind="stock", sheet=None):
    return shopfile.load(shopfile.document(path), kind, sheet)


def refusal(path, kind="stock", sheet=None) -> str:
    with pytest.raises(SourceError) as error:
        load(path, kind, sheet)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def repacked(path, out, change):
    """The same workbook with its parts changed: {name: bytes} -> {name: bytes}."""
    with zipfile.ZipFile(path) as old:
        parts = change({name: old.read(name) for name in old.namelist()})
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in parts.items():
            new.writestr(name, data)
    return out


# ---- what is read ----


@pytest.mark.parametrize("heads", [RUSSIAN, ENGLISH, {}])
@pytest.mark.parametrize("suffix", [".xlsx", ".xls", ".csv"])
def test_every_form_in_every_language_holds_the_same(tmp_path, suffix, heads):
    rows = table([lot(), lot(2, album="Письма")], heads)
    path = {".xlsx": xlsx, ".xls": xls, ".csv": text}[suffix](tmp_path / f"остатки на складе{suffix}", rows)
    found = load(path)
    assert found.cells["album"].tolist() == ["Distance", "Письма"] and found.cells["count"].tolist() == ["1", "2"]
    assert found.cells["price"].tolist() == ["2000", "2000"] and found.row.tolist() == [2, 3] and not found.faults
    assert found.heads["artist"] == heads.get("artist", "artist")
    assert found.sheet == (None if suffix == ".csv" else "Лист1")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_in_every_encoding_and_with_every_delimiter(tmp_path, encoding, delimiter, end):
    rows = table([lot(artist="Ёлка; и, другие", album='12" "живой"')])
    found = load(text(tmp_path / "stock.csv", rows, delimiter, encoding, end))
    assert found.cells["artist"].tolist() == ["Ёлка; и, другие"] and found.cells["album"].tolist() == ['12" "живой"']


def test_a_head_with_a_comma_that_nobody_quoted_is_one_head(tmp_path):
    path = text(tmp_path / "stock.csv", LOTS, ",")
    path.write_text(path.read_text(encoding="utf-8").replace('"Цена, руб."', "Цена, руб."), encoding="utf-8")
    found = load(path)
    assert found.cells["price"].tolist() == ["2000", "2000"] and not found.faults


def test_western_letters_in_their_code_page_are_told_from_cyrillic_ones(tmp_path):
    western = table(
        [lot(artist="Motörhead", album="Ágætis byrjun", release_type="Reissue"), lot(artist="Björk", release_type="Reissue")],
        ENGLISH,
    )
    found = load(text(tmp_path / "west.csv", western, ",", "cp1252"))
    assert found.cells["artist"].tolist() == ["Motörhead", "Björk"] and found.cells["album"][0] == "Ágætis byrjun"
    cyrillic = table([lot(artist="Алый трамвай", album="Письма")], ENGLISH)
    assert load(text(tmp_path / "east.csv", cyrillic, ",", "cp1251")).cells["album"].tolist() == ["Письма"]


def test_heads_are_found_whatever_their_case_order_and_neighbours(tmp_path):
    rows = [list(reversed([*row, "чужое"])) for row in table([lot()], {k: f"  {v.upper()} " for k, v in RUSSIAN.items()})]
    found = load(xlsx(tmp_path / "stock.xlsx", rows))
    assert found.cells["barcode"].tolist() == ["4601234567893"] and "чужое" not in found.heads.values()


def test_typed_cells_of_excel_become_plain_text(tmp_path):
    rows = table([lot(created=dt.datetime(2022, 6, 1), barcode=4601234567893, price=1500.5, release_year=1988.0)])
    for path in (xlsx(tmp_path / "s.xlsx", rows), xls(tmp_path / "s.xls", rows)):
        cells = {role: column[0] for role, column in load(path).cells.items()}
        assert (cells["created_date"], cells["barcode"], cells["price"], cells["release_year"]) == (
            "2022-06-01", "4601234567893", "1500.5", "1988")  # fmt: skip


def test_rows_keep_the_numbers_that_their_reader_sees(tmp_path):
    blank = [None] * len(LOTS[0])
    assert load(xlsx(tmp_path / "s.xlsx", [LOTS[0], blank, LOTS[1], blank, blank, LOTS[2]])).row.tolist() == [3, 6]
    assert load(text(tmp_path / "s.csv", [LOTS[0], [], LOTS[1], [""] * 11, LOTS[2]])).row.tolist() == [3, 5]
    long = [LOTS[0], ["1", "two\nlines", *LOTS[1][2:]], LOTS[2]]
    assert load(text(tmp_path / "l.csv", long)).row.tolist() == [2, 4]


def test_a_line_that_names_the_delimiter_is_not_the_head(tmp_path):
    path = text(tmp_path / "s.csv", LOTS, "|")
    path.write_bytes(b"sep=|\r\n" + path.read_bytes())
    assert load(path).row.tolist() == [3, 4]


def test_a_file_that_lies_about_its_size_is_read_whole(tmp_path):
    def small(parts):
        name = "xl/worksheets/sheet1.xml"
        return parts | {name: parts[name].replace(b'<dimension ref="A1:K3"', b'<dimension ref="A1:A1"')}

    path = repacked(xlsx(tmp_path / "s.xlsx", LOTS), tmp_path / "lie.xlsx", small)
    assert len(load(path).row) == 2


# ---- faults of a row ----


def test_a_formula_counts_by_its_stored_value_and_is_a_fault_without_one(tmp_path):
    rows = table([lot(price="=1000+500"), lot()])
    path = xlsx(tmp_path / "s.xlsx", rows)
    found = load(path)
    assert found.faults == [(0, "Цена, руб.", None, workbook.NO_VALUE)] and len(found.row) == 2

    def stored(parts):
        name = "xl/worksheets/sheet1.xml"
        return parts | {name: parts[name].replace(b"<f>1000+500</f><v></v>", b"<f>1000+500</f><v>1500</v>").replace(
            b"<f>1000+500</f><v />", b"<f>1000+500</f><v>1500</v>")}  # fmt: skip

    found = load(repacked(path, tmp_path / "stored.xlsx", stored))
    assert found.cells["price"].tolist() == ["1500", "2000"] and not found.faults


def test_an_error_that_excel_shows_is_a_fault_of_its_row(tmp_path):
    book = openpyxl.load_workbook(xlsx(tmp_path / "s.xlsx", LOTS))
    cell = book.active["E2"]
    cell.value, cell.data_type = "#REF!", "e"
    book.save(tmp_path / "e.xlsx")
    assert load(tmp_path / "e.xlsx").faults == [(0, "Цена, руб.", "#REF!", "Excel shows an error in this cell")]


def test_a_torn_line_and_an_unquoted_decimal_comma_are_faults(tmp_path):
    path = text(tmp_path / "s.csv", LOTS, ",")
    good = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([good[0], good[1].replace("2000", "2000,50"), good[2], "a,b"]), encoding="utf-8")
    assert [(at, why) for at, _, _, why in load(path).faults] == [
        (0, "row has 12 cells, wanted 11"),
        (2, "row has 2 cells, wanted 11"),
    ]


def test_merged_cells_below_the_head_are_faults_of_their_rows(tmp_path):
    for path in (xlsx(tmp_path / "s.xlsx", LOTS, merge="B2:B3"),):
        assert [fault[0] for fault in load(path).faults] == [0, 1]


# ---- files that are refused whole ----


def test_all_missing_columns_are_named_at_once_with_the_nearest_head(tmp_path):
    rows = table([{k: v for k, v in lot().items() if k not in ("artist", "price")} | {"Исполнител": "x"}])
    said = refusal(xlsx(tmp_path / "s.xlsx", rows))
    assert "sheet 'Лист1', row 1" in said and "no column for artist ('Исполнитель' or 'Artist'; nearest: 'Исполнител')" in said
    assert "no column for price ('Цена, руб.' or 'Price')" in said


def test_a_sales_file_in_place_of_the_stock_says_what_it_lacks(tmp_path):
    assert "no column for count ('Экземпляры' or 'Copies')" in refusal(xlsx(tmp_path / "a.xlsx", SALES))
    assert "no column for sold_date" in refusal(xlsx(tmp_path / "b.xlsx", LOTS), "sales")


def test_two_columns_for_one_thing_are_refused(tmp_path):
    rows = [[*LOTS[0], "Price"], [*LOTS[1], 5]]
    assert "more than one column for price: 'Цена, руб.', 'Price'" in refusal(xlsx(tmp_path / "s.xlsx", rows))
    beside = [[*LOTS[0], "Genre", "Количество"], [*LOTS[1], "other", 99]]  # other words beside the contract's own heads
    found = load(xlsx(tmp_path / "t.xlsx", beside))
    assert found.cells["style"].tolist() == ["Rock"] and found.cells["count"].tolist() == ["1"]


def test_two_sheets_with_data_need_a_name(tmp_path):
    path = xlsx(tmp_path / "s.xlsx", SALES, LOTS, [])
    said = refusal(path)
    assert "2 sheets with data, 'Лист1', 'Лист2'" in said and "source.sheet" in said
    assert load(path, "stock", "Лист2").sheet == "Лист2"
    assert "has no sheet 'X'" in refusal(path, "stock", "X")
    assert load(xlsx(tmp_path / "one.xlsx", LOTS, [], []), "stock", "X").sheet == "Лист1"  # nothing to choose from


def test_a_merged_head_is_refused(tmp_path):
    assert "row 1: merged cells in the head row" in refusal(xlsx(tmp_path / "s.xlsx", LOTS, merge="A1:B1"))
    said = refusal(xls(tmp_path / "s.xls", [["", *LOTS[0][1:]], LOTS[1]], merge=(0, 0, 11, 12)))
    assert "merged cells in the head row" in said


@pytest.mark.parametrize("name", ["s.xlsx", "s.csv", "s.xls"])
def test_an_empty_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="is empty"):
        load(path)


def test_a_file_of_stock_without_rows_is_refused(tmp_path):
    assert "is empty" in refusal(xlsx(tmp_path / "none.xlsx", [], []))
    for path in (
        xlsx(tmp_path / "head.xlsx", LOTS[:1]),
        xls(tmp_path / "head.xls", LOTS[:1]),
        text(tmp_path / "head.csv", LOTS[:1]),
    ):
        assert "no rows below" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"not a workbook", b"<html><table></table></html>", b"PK\x03\x04broken", workbook.OLE + b"\0" * 600]
)
@pytest.mark.parametrize("name", ["s.xlsx", "s.xls"])
def test_what_is_not_really_excel_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    said = refusal(path)
    assert "Excel" in said
    assert ("web page" in said) == content.startswith(b"<html")


def test_the_kind_of_excel_is_told_by_content(tmp_path):
    old = xls(tmp_path / "old.xls", LOTS).rename(tmp_path / "old.xlsx")
    new = xlsx(tmp_path / "new.xlsx", LOTS).rename(tmp_path / "new.xls")
    assert len(load(old).row) == len(load(new).row) == 2
    csv = xlsx(tmp_path / "x.xlsx", LOTS).rename(tmp_path / "x.csv")
    assert "under the name of a .csv" in refusal(csv)


def test_an_encrypted_workbook_is_refused(tmp_path):
    path = tmp_path / "s.xlsx"
    path.write_bytes(workbook.OLE + b"\0" * 600 + workbook.ENCRYPTED)
    assert "is encrypted" in refusal(path)

    def locked(data):
        at = data.index(b"PK\x01\x02")
        return data[: at + 8] + b"\x01" + data[at + 9 :]

    path = xlsx(tmp_path / "z.xlsx", LOTS)
    path.write_bytes(locked(path.read_bytes()))
    assert "is encrypted" in refusal(path)


def test_a_macro_is_refused(tmp_path):
    path = repacked(xlsx(tmp_path / "s.xlsx", LOTS), tmp_path / "m.xlsx", lambda parts: parts | {"xl/vbaProject.bin": b"x"})
    assert "holds a macro" in refusal(path)


def test_a_zip_that_is_no_workbook_is_refused(tmp_path):
    path = tmp_path / "s.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    assert "a zip file, but no workbook" in refusal(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    def bomb(parts, size):
        return parts | {"xl/media/x.xml": b"\0" * size}

    good = xlsx(tmp_path / "s.xlsx", LOTS)
    packed = repacked(good, tmp_path / "ratio.xlsx", lambda parts: bomb(parts, workbook.RATIO_FROM + 1))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing may be unpacked
    assert "-fold" in refusal(packed)
    monkeypatch.setattr(workbook, "MAX_INFLATED", 5_000_000)
    assert "would unpack to 8 MB, wanted at most 4 MB" in refusal(packed)


def test_too_many_parts_and_too_large_a_file_are_refused(tmp_path, monkeypatch):
    good = xlsx(tmp_path / "s.xlsx", LOTS)
    monkeypatch.setattr(workbook, "MAX_PARTS", 3)
    assert "parts in one workbook" in refusal(good)
    monkeypatch.setattr(shopfile, "MAX_FILE", 1000)
    assert "wanted at most" in refusal(good)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_external_entity_is_refused_and_not_read(tmp_path, encoding):
    secret = tmp_path / "secret.txt"
    secret.write_text("planted", encoding="utf-8")

    def entity(parts):
        name = "xl/worksheets/sheet1.xml"
        declared = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]>'
        body = parts[name].decode().split("?>", 1)[-1].replace("<v>0</v>", "<v>&e;</v>")
        return parts | {name: (declared + body).encode(encoding)}

    said = refusal(repacked(xlsx(tmp_path / "s.xlsx", LOTS), tmp_path / "e.xlsx", entity))
    assert "declares entities" in said and "planted" not in said


def test_a_row_beyond_excels_last_does_not_run_for_ever(tmp_path):
    def far(parts):
        name = "xl/worksheets/sheet1.xml"
        return parts | {name: parts[name].replace(b'<row r="3"', b'<row r="99999999999"')}

    assert "more cells or rows than" in refusal(repacked(xlsx(tmp_path / "s.xlsx", LOTS), tmp_path / "f.xlsx", far))


def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_after_it(tmp_path):
    lines = ["Штрихкод;Исполнитель;Альбом;Конверт;Цена, руб.;Тип;Год записи;Год выпуска;Экземпляры;Дата создания;Стиль"]
    lines += ['1;a;b;SS;500;Оригинал;1970;1970;1;01.06.2022;"Rock', *["1;a;b;SS;500;Оригинал;1970;1970;1;01.06.2022;Rock"] * 3]
    path = tmp_path / "s.csv"
    for content in ("\n".join(lines), "\n".join([lines[0], '1;"a;b', *lines[2:]])):
        path.write_text(content, encoding="utf-8")
        assert "line 2: a quoted cell is not closed" in refusal(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(b"a;b\n\0\1")
    assert "zero bytes" in refusal(path)
    path.write_bytes("Штрихкод".encode("cp1251") + b"\x98\x81")
    assert "save it as UTF-8" in refusal(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "stock.ods"
    path.write_bytes(b"x")
    assert "wanted an .xlsx, .xls or .csv" in refusal(path)


def test_the_old_reader_keeps_its_complaints_to_itself(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        load(xls(tmp_path / "s.xls", LOTS))
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_a_column_far_to_the_right_is_no_trouble(tmp_path):
    book = openpyxl.load_workbook(io.BytesIO(xlsx(tmp_path / "s.xlsx", LOTS).read_bytes()))
    book.active[f"{get_column_letter(16384)}2"] = "x"
    book.save(tmp_path / "wide.xlsx")
    assert len(load(tmp_path / "wide.xlsx").row) == 2
