"""The generated shop: real files with a real shop's habits, the same every time, and read back without loss."""

import csv
import datetime as dt
import io
import time

import numpy as np
import openpyxl
import pytest

from forecastbook import recordshop
from forecastbook.shop import ShopFiles
from shopfiles import job


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    started = time.monotonic()
    found = recordshop.write(tmp_path_factory.mktemp("shop"))
    return found, time.monotonic() - started


@pytest.fixture(scope="module")
def intake(written):
    source, started = job(written[0]["stock"], *written[0]["sales"]), time.monotonic()
    last = ShopFiles().span(source)[1]
    return ShopFiles().read(source, None, last), last, time.monotonic() - started


def cells(path):
    if path.suffix == ".csv":
        return path.read_bytes()
    return [[cell.value for cell in row] for page in openpyxl.load_workbook(path) for row in page.iter_rows()]


def rows(path):
    if path.suffix == ".csv":
        table = list(csv.reader(io.StringIO(path.read_bytes().decode("cp1251")), delimiter=";"))
    else:
        table = list(openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True))
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def day(value):
    return dt.datetime.strptime(value, "%d.%m.%Y").date() if isinstance(value, str) else value and value.date()


def test_it_is_written_and_read_in_seconds(written, intake):
    assert written[1] < 20 and intake[2] < 20  # 2 and 3 on a quiet machine


def test_the_files_are_a_shops_own(written):
    found, _ = written
    assert {path.suffix for path in found["sales"]} == {".xlsx", ".csv"} and len(found["sales"]) == 36
    assert all(path.exists() for path in [found["stock"], *found["sales"]])
    assert [cell.value for cell in next(openpyxl.load_workbook(found["stock"]).worksheets[0].iter_rows())] == [
        "Штрихкод", "Исполнитель", "Альбом", "Конверт", "Цена, руб.", "Тип", "Год записи", "Год выпуска", "Стиль",
        "Дата создания", "Экземпляры",
    ]  # fmt: skip
    csv = next(path for path in found["sales"] if path.suffix == ".csv")
    assert csv.read_bytes().decode("cp1251").startswith("Штрихкод;Исполнитель;")
    assert not [path for path in found["stock"].parent.iterdir() if path.name.endswith(".part")]


def test_three_years_of_hundreds_of_records_and_little_is_lost(intake):
    found, last, _ = intake
    assert last == dt.date(2025, 9, 1) and found.counts["months"] == 36 and found.counts["series"] == 400
    assert 0 < len(found.quarantine) < 20
    assert found.counts["rows read"] == found.counts["rows kept"] + len(found.quarantine)
    assert found.facts["FactSales"]["units"].to_numpy().sum() == found.counts["sold rows"]


def test_months_are_those_of_the_copies_in_the_files(written, intake):
    """Once more from the raw cells, one copy at a time: what sold, and on which days there was something to sell."""
    copies: dict[str, list] = {}
    for path in [written[0]["stock"], *written[0]["sales"]]:
        for row in rows(path):
            try:
                float(str(row["Цена, руб."]).replace("\u00a0", "").replace(",", "."))
            except ValueError:
                continue
            if row["Исполнитель"] and row["Альбом"]:
                name = " - ".join(" ".join(row[head].split()) for head in ("Исполнитель", "Альбом")).lower()
                life = day(row.get("Дата добавления") or row["Дата создания"]), day(row.get("Дата заказа"))
                copies.setdefault(name, []).append((*life, row.get("Экземпляры", 1)))
    frame = intake[0].frame
    assert len(copies) == frame["series_id"].nunique()
    for row in frame.sample(300, random_state=0).itertuples():
        days = [row.ts.date() + dt.timedelta(k) for k in range(row.ts.days_in_month)]
        of = copies[row.title.rsplit(" (", 1)[0].lower()]
        offered = [sum(n for came, went, n in of if came <= d and (went is None or went >= d)) for d in days]
        assert row.y == sum(n for _, went, n in of if went in days)
        assert row.availability == pytest.approx(np.clip(offered, 0, 1).mean())
        assert row.confidence == pytest.approx(np.clip(offered, 0, 5).mean() / 5)
        assert row.lost_sales == pytest.approx(offered.count(0) * row.y / max(len(days) - offered.count(0), 1))


def test_demand_is_intermittent_seasonal_and_mostly_of_few(intake):
    frame = intake[0].frame
    assert 0.55 < (frame["y"] == 0).mean() < 0.9
    by_month = frame.groupby(frame["ts"].dt.month)["y"].mean()
    assert by_month.idxmax() == 12 and by_month[12] > 1.3 * by_month.mean()
    sold = frame.groupby("series_id", observed=True)["y"].sum().sort_values(ascending=False)
    assert sold.head(80).sum() > 0.5 * sold.sum() and (sold <= 5).mean() > 0.2


def test_it_runs_out_is_restocked_and_is_repriced(intake):
    frame = intake[0].frame
    assert 0.1 < (~frame["available"]).mean() < 0.5 and frame["lost_sales"].sum() > 0
    back = frame.groupby("series_id", observed=True)["availability"].apply(
        lambda a: bool(((a > 0.5) & (a.shift() < 0.5)).any())
    )
    assert back.sum() > 50
    assert (frame.groupby("series_id", observed=True)["price_band"].nunique() > 1).sum() > 50
    assert np.array_equal(intake[0].facts["StockNow"]["units"].to_numpy() >= 0, np.ones(400, dtype=bool))


def test_the_same_arguments_write_the_same_rows(tmp_path):
    small = {"records": 25, "months": 8, "until": dt.date(2024, 6, 30)}
    one, two = (recordshop.write(tmp_path / name, **small) for name in "ab")
    assert [path.name for path in one["sales"]] == [path.name for path in two["sales"]]
    assert all(cells(a) == cells(b) for a, b in zip([one["stock"], *one["sales"]], [two["stock"], *two["sales"]], strict=True))
    other = recordshop.write(tmp_path / "c", **small, seed=8)
    assert cells(other["stock"]) != cells(one["stock"])


@pytest.mark.parametrize(
    "records, months, until", [(1, 1, dt.date(2023, 2, 28)), (5, 2, dt.date(2024, 2, 29)), (30, 14, dt.date(2025, 5, 31))]
)
def test_a_shop_of_any_size_has_complete_months(tmp_path, records, months, until):
    found = recordshop.write(tmp_path, records=records, months=months, until=until)
    source = job(found["stock"], *found["sales"])
    assert ShopFiles().span(source)[1] == until.replace(day=1)
    assert ShopFiles().read(source, None, until.replace(day=1)).counts["rows kept"] > 0


def test_a_shop_may_end_in_the_middle_of_a_month(tmp_path):
    found = recordshop.write(tmp_path, records=20, months=4, until=dt.date(2025, 9, 12))
    source = job(found["stock"], *found["sales"])
    assert ShopFiles().span(source)[1] == dt.date(2025, 8, 1)
    source.fill_last_month = True
    assert ShopFiles().span(source)[1] == dt.date(2025, 9, 1)
