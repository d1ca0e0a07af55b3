"""The bench: what the forecasts are worth, and what they cost, as tables. ``make bench``, or by hand on your own prices:

    .venv/bin/python tests/bench.py --out outputs/bench --file prices.parquet

Accuracy: the price job replayed over dense rolling origins of the sample and of every ``--file`` (columns variant_id, date,
price, is_available, title). Speed: ratios against named peers, and how the cost grows (``bench_speed``, ``peers``). ``--only``
takes one of the halves. Everything is computed here; bench.md and a csv of each of its tables are written to OUT.

Symbols: N series, T days, H days ahead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

import bench_accuracy
import bench_speed
from bench_accuracy import COLUMNS
from forecastbook.files import write_text
from forecastbook.intake import SourceError

SALES = {"WQL": ".4f", "bias of the mean": "+.1%", "inside, where sold": ".1%", "Brier score of a sale": ".4f", "MIWS": ".2f"}
SALES |= {"inside 90 % band": ".1%", "MIC": ".1%", "RMSSE": ".3f", "service 95": ".1%", "published saves": "+.1%"}
FORMATS = bench_accuracy.FORMATS | bench_speed.FORMATS | SALES  # how the columns of all tables are shown


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a table of markdown, numbers to the right."""
    rules = ["---:" if name in FORMATS else "---" for name in frame]
    cells = [
        ["–" if v != v else format(v, FORMATS.get(c, "")) for c, v in zip(frame, row, strict=True)]  # NaN is not itself
        for row in frame.itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(frame), rules, *cells])


def worth(quick: bool, files: list[str]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The accuracy half: its tables, and its paragraphs. All data is read first: a fault is told before the long work."""
    with tempfile.TemporaryDirectory() as directory:
        jobs = [(bench_accuracy.job(quick, file), Path(file or "sample").name) for file in (None, *files)]
        data = [(bench_accuracy.load(params, directory), params, name) for params, name in jobs]
    tables, said = zip(*(bench_accuracy.accuracy(*given) for given in data), strict=True)
    found = {"accuracy": pd.concat(tables, ignore_index=True)}
    page = [*said, bench_accuracy.READING, markdown(found["accuracy"])]
    if not quick:
        for name in ("earlier", "ablations", "starts"):
            found[name] = pd.concat([getattr(bench_accuracy, name)(*given) for given in data], ignore_index=True)
            page += [getattr(bench_accuracy, name.upper()), markdown(found[name])]
    return found, page


def cost(quick: bool) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The speed half: its tables, and its paragraphs."""
    tables, said = bench_speed.measure(quick)
    page = []
    for name, text in said.items():
        page += [text, markdown(tables[name])] if name in tables else [text]
    return tables, page


def main() -> None:
    """Measure, print, write. One line and exit code 1 when the data cannot be read."""
    ask = argparse.ArgumentParser(description="accuracy and speed of the price forecasts")
    ask.add_argument("--out", type=Path, default=Path("outputs/bench"), help="where the tables are written")
    ask.add_argument("--file", action="append", default=[], help=f"own prices, with columns {', '.join(COLUMNS.values())}")
    ask.add_argument("--quick", action="store_true", help="few series, two origins: only to see that it runs")
    ask.add_argument("--only", choices=("accuracy", "speed"), help="one half; the default is both")
    told = ask.parse_args()
    torch.set_num_threads(1)
    found, page = {}, []
    try:
        if told.only != "speed":
            found, page = worth(told.quick, told.file)
        if told.only != "accuracy":
            tables, said = cost(told.quick)
            found, page = found | tables, page + said
    except SourceError as error:
        sys.exit(f"bench: {error}")
    print("\n\n".join(page))
    told.out.mkdir(parents=True, exist_ok=True)
    write_text(told.out / "bench.md", "\n\n".join(page) + "\n")
    for name, table in found.items():
        write_text(told.out / f"{name}.csv", table.to_csv(index=False))


if __name__ == "__main__":
    main()
