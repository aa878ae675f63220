"""A picture of what new volumes cost, by their number, for each who can mount them."""

import math
from collections.abc import Sequence
from html import escape

from benchmarks.sides import Table

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 180, 40, 50
_COLOURS = ("#0b62c4", "#c2410c", "#a16207", "#7e22ce", "#4b5563")
_STYLE = "font: 13px system-ui, sans-serif"


def picture(tables: Sequence[Table]) -> str:
    """An SVG: both axes grow by powers of ten."""
    lines = _lines(tables)
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    rows, columns = _powers(ys), _powers(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _scale(x, columns, _LEFT, _WIDTH - _RIGHT),
            _scale(y, rows, _HEIGHT - _BOTTOM, _TOP),
        )

    drawn = []
    for each in columns:
        x, _ = place(each, rows[0])
        drawn.append(_line([(x, _TOP), (x, _HEIGHT - _BOTTOM)], "#d4d4d8", 1))
        drawn.append(_text(x, _HEIGHT - _BOTTOM + 20, _number(each), "middle"))
    for each in rows:
        _, y = place(columns[0], each)
        drawn.append(_line([(_LEFT, y), (_WIDTH - _RIGHT, y)], "#d4d4d8", 1))
        drawn.append(_text(_LEFT - 8, y + 4, _number(each), "end"))
    drawn.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "volumes", "middle"))
    drawn.append(_text(8, 22, "ms, whole command", "start"))
    taken: list[float] = []
    coloured = zip(lines.items(), _COLOURS, strict=False)
    for (name, points), colour in sorted(coloured, key=lambda each: -each[0][1][-1][1]):
        places = [place(*each) for each in points]
        drawn.append(_line(places, colour, 2.5))
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        label = name.replace("`", "")
        if points[-1][0] < max(xs):  # right of it the others go on
            drawn.append(_text(x - 6, y - 8, label, "end", colour))
            continue
        while any(abs(y - other) < 16 for other in taken):  # no name lies on another
            y += 1
        taken.append(y)
        drawn.append(_text(x + 10, y + 4, label, "start", colour))
    body = "\n".join(drawn)
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" style="{_STYLE}"'
    ground = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{ground}\n{body}\n</svg>\n'


def _lines(tables: Sequence[Table]) -> dict[str, list[tuple[float, float]]]:
    """By side, the milliseconds that each number of new volumes takes."""
    found: dict[str, list[tuple[float, float]]] = {}
    for table in tables:
        head, _, count = table.name.partition("-")
        for row in table.rows() if head == "new" else ():
            if not row.name.endswith(", again"):
                found.setdefault(row.name, []).append((float(count), row.median))
    return found


def _powers(values: Sequence[float]) -> list[float]:
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**each for each in range(first, max(last, first + 1) + 1)]


def _scale(value: float, powers: Sequence[float], begin: float, end: float) -> float:
    low, high = math.log10(powers[0]), math.log10(powers[-1])
    return begin + (end - begin) * (math.log10(value) - low) / (high - low)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{listed}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#3f3f46") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
