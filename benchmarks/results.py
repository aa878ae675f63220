"""What was measured, as text: a terminal's, RESULTS.md, and the README's picture.

`python -m benchmarks.results` makes the two anew of what `make bench` wrote last.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.plot import picture
from benchmarks.sides import Row, Table

_PROJECT = Path(__file__).parents[1]
MEASURED = _PROJECT / "dist/bench.json"
_HEAD = """# What was measured

Made by `make bench` and `.venv/bin/python -m benchmarks.results`; nothing here is written by hand.
A figure is the median of {rounds} rounds, beside it the middle half of them. A ratio is the median
of the rounds' own, to the first side of its table, which is measured twice: by how much "again"
differs is the noise. The sides take turns, each in a mount namespace of its own, and count only if
every target shows the user as its owner.

"""


def lines(table: Table) -> Iterator[str]:
    """For a terminal."""
    unit = f", {table.unit}" if table.unit else ""
    yield f"{table.title}{unit}: median (middle half){', ratio' * table.has_ratios}"
    wide = max(map(len, table.sides))
    for row in table.rows():
        ratio = f"{_figure(row.ratio):>6} ×" if table.has_ratios else ""
        spread = f"({_spread(row)})"
        yield f"  {row.name:{wide}}  {_figure(row.median):>7}  {spread:17}{ratio}".rstrip()


def page(machine: dict[str, str], tables: list[Table]) -> str:
    """RESULTS.md."""
    rounds = max(len(values) for table in tables for values in table.sides.values())
    text = _HEAD.format(rounds=rounds)
    text += "".join(f"- {name}: {said}\n" for name, said in machine.items())
    for table in tables:
        unit = table.unit or "each"
        text += f"\n## {table.title}\n\n| | {unit} | middle half |{' ratio |' * table.has_ratios}\n"
        text += f"| --- | ---: | ---: |{' ---: |' * table.has_ratios}\n"
        for row in table.rows():
            ratio = f" {_figure(row.ratio)} × |" * table.has_ratios
            text += f"| {row.name} | {_figure(row.median)} | {_spread(row)} |{ratio}\n"
    return text


def _spread(row: Row) -> str:
    return f"{_figure(row.low)}–{_figure(row.high)}"


def _figure(value: float) -> str:
    """Three digits that count."""
    for digits, least in ((0, 100), (1, 10), (2, 1)):
        if value >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.1g}"


def main(measured: Path = MEASURED, folder: Path = _PROJECT) -> None:
    """Write benchmarks/RESULTS.md and docs/speed.svg below a folder."""
    told: dict[str, Any] = json.loads(measured.read_text())
    tables = [Table(**each) for each in told["tables"]]
    for path, text in (
        ("benchmarks/RESULTS.md", page(told["machine"], tables)),
        ("docs/speed.svg", picture(tables)),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
