"""Charts as SVG, drawn when the page is made; the page's script draws the marks again, in the same way."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import pairwise
from typing import Any

from didsim.lessons._lesson import Axis, Chart, Mark
from didsim.lessons._text import subscripts, tick

WIDTH, HEIGHT = 600, 372


@dataclass(frozen=True)
class Box:
    """Where the axes stand in a drawing, and how far apart names have to be, in the units of the drawing."""

    left: int = 48
    right: int = 584
    top: int = 34
    bottom: int = 326
    gap: int = 17


def box_of(chart: Chart) -> Box:
    """Return where the axes stand: there is room to the right for names of at most some 17 letters, if need be."""
    longest = max((len(mark.label) for mark in chart.marks if mark.at_end), default=0)
    return Box(right=584 - min(8 * longest, 140)) if longest else Box()


@dataclass
class Place:
    """Where the name of a mark stands."""

    x: float
    y: float


def draw(chart: Chart, series: Mapping[str, Sequence[float]], name: str) -> str:
    """Return a chart as an element of a page; `name` makes its identifiers unique."""
    box, marks = box_of(chart), marks_of(chart, series)
    paths = [
        _path(mark, index, outline) for index, (mark, (outline, _)) in enumerate(zip(chart.marks, marks, strict=True))
    ]
    names = [_name(mark, i, place) for i, (mark, (_, place)) in enumerate(zip(chart.marks, marks, strict=True))]
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-summary">',
            f'<title id="{name}-title">{escape(chart.title)}</title>',
            f'<desc id="{name}-summary">{escape(chart.summary)}</desc>',
            f'<clipPath id="{name}-box"><rect x="{box.left}" y="{box.top - 6}" '
            f'width="{box.right - box.left}" height="{box.bottom - box.top + 6}"/></clipPath>',
            *_axes(chart),
            f'<g clip-path="url(#{name}-box)">',
            *paths,
            "</g>",
            *[text for text in names if text],
            "</svg>",
        ]
    )


def _axes(chart: Chart) -> list[str]:
    box, (x, y) = box_of(chart), _scales(chart, box_of(chart))
    middle = (box.left + box.right) // 2
    return [
        *[f'<path class="grid" d="M{box.left} {_fixed(y(value))}H{box.right}"/>' for value in chart.y.ticks],
        *[
            f'<text class="tick" x="{box.left - 7}" y="{_fixed(y(value) + 4)}" text-anchor="end">{tick(value)}</text>'
            for value in chart.y.ticks
        ],
        *[
            f'<text class="tick" x="{_fixed(x(value))}" y="{box.bottom + 17}" text-anchor="middle">{tick(value)}</text>'
            for value in chart.x.ticks
        ],
        f'<path class="axis" d="M{box.left} {box.bottom}H{box.right}"/>',
        f'<text class="label" x="4" y="14">{escape(chart.y.label)}</text>',
        f'<text class="label" x="{middle}" y="{box.bottom + 38}" text-anchor="middle">{escape(chart.x.label)}</text>',
    ]


def _path(mark: Mark, index: int, outline: str) -> str:
    faint = " faint" if mark.faint else ""
    dash = f' stroke-dasharray="{mark.dash}"' if mark.dash else ""
    return f'<path class="{mark.kind} c-{mark.colour}{faint}" data-mark="{index}"{dash} d="{outline}"/>'


def _name(mark: Mark, index: int, place: Place) -> str:
    if not mark.label:
        return ""
    beside = mark.at_end or mark.side == "right"
    x, y = (place.x + 8, place.y + 4) if beside else (place.x, place.y - 9)
    anchor = "start" if beside else "middle"
    return (
        f'<text class="name c-{mark.colour}" data-mark="{index}" text-anchor="{anchor}" '
        f'x="{_fixed(x)}" y="{_fixed(y)}">{subscripts(mark.label)}</text>'
    )


def marks_of(chart: Chart, series: Mapping[str, Sequence[float]]) -> list[tuple[str, Place]]:
    """Return all that depends on the slider: the outline of each mark, and the place of its name."""
    box, drawn = box_of(chart), []
    for mark in chart.marks:
        xs, ys = _places(mark, series[mark.name], chart, box)
        drawn.append((OUTLINES[mark.kind](xs, ys, box), Place(xs[mark.label_at], ys[mark.label_at])))
    _spread([place for mark, (_, place) in zip(chart.marks, drawn, strict=True) if mark.at_end], box)
    return drawn


def _places(mark: Mark, values: Sequence[float], chart: Chart, box: Box) -> tuple[list[float], list[float]]:
    x, y = _scales(chart, box)
    if mark.kind == "point":
        return [x(values[0])], [y(values[1])]
    if mark.kind == "level":
        return [box.right], [y(values[0])]
    if mark.kind == "rule":
        return [x(values[0])], [box.top]
    return [x(value) for value in chart.at], [y(value) for value in values]


def _scales(chart: Chart, box: Box) -> tuple[Callable[[float], float], Callable[[float], float]]:
    return _scale(chart.x, box.left, box.right), _scale(chart.y, box.bottom, box.top)


def _scale(axis: Axis, start: float, end: float) -> Callable[[float], float]:
    """Return the function from values of an axis to places between two ends."""

    def along(value: float) -> float:
        if not axis.log:
            return value
        return math.log(value) if value > 0 else -math.inf

    low, high = along(axis.low), along(axis.high)
    return lambda value: start + (along(value) - low) / (high - low) * (end - start)


def _spread(places: Sequence[Place], box: Box) -> None:
    """Keep names that stand one below the other apart."""
    column = sorted((place for place in places if math.isfinite(place.y)), key=lambda place: place.y)
    for place in column:
        place.y = min(max(place.y, box.top + box.gap / 2), box.bottom)
    for above, place in pairwise(column):
        place.y = max(place.y, above.y + box.gap)
    for steps, place in enumerate(reversed(column)):
        place.y = min(place.y, box.bottom - steps * box.gap)


def _fixed(value: float) -> str:
    return f"{value:.1f}"


def _circle(x: float, y: float, radius: float) -> str:
    half = f"a{radius:g} {radius:g} 0 1 0"
    return f"M{_fixed(x - radius)} {_fixed(y)}{half} {2 * radius:g} 0{half} {-2 * radius:g} 0"


Places = Sequence[float]


def _bars(xs: Places, ys: Places, box: Box) -> str:
    half, floor = 0.4 * (box.right - box.left) / len(xs), _fixed(box.bottom)
    return "".join(
        f"M{_fixed(x - half)} {floor}V{_fixed(y)}H{_fixed(x + half)}V{floor}Z"
        for x, y in zip(xs, ys, strict=True)
        if math.isfinite(y)
    )


def _line(xs: Places, ys: Places, box: Box) -> str:
    strokes, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        seen = math.isfinite(y)
        strokes.append(f"{pen}{_fixed(x)} {_fixed(y)}" if seen else "")
        pen = "L" if seen else "M"
    return "".join(strokes)


def _dots(xs: Places, ys: Places, box: Box, radius: float = 2.5) -> str:
    seen = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return "".join(_circle(x, y, radius) for x, y in seen)


def _point(xs: Places, ys: Places, box: Box) -> str:
    return _dots(xs, ys, box, 5)


def _level(xs: Places, ys: Places, box: Box) -> str:
    return f"M{_fixed(box.left)} {_fixed(ys[0])}H{_fixed(box.right)}" if math.isfinite(ys[0]) else ""


def _rule(xs: Places, ys: Places, box: Box) -> str:
    return f"M{_fixed(xs[0])} {_fixed(box.bottom)}V{_fixed(box.top)}" if math.isfinite(xs[0]) else ""


OUTLINES: Mapping[str, Callable[[Places, Places, Box], str]] = {
    "bars": _bars,
    "line": _line,
    "dots": _dots,
    "point": _point,
    "level": _level,
    "rule": _rule,
}
"""The outline of each kind of mark, as SVG has it; what is not finite is left out."""


def data_of(chart: Chart) -> dict[str, Any]:
    """Return what the page's script has to know of a chart."""
    axes = {"x": chart.x, "y": chart.y}
    return {
        **{name: {"low": axis.low, "high": axis.high, "log": axis.log} for name, axis in axes.items()},
        "at": chart.at,
        "box": asdict(box_of(chart)),
        "marks": [
            {"name": m.name, "kind": m.kind, "at_end": m.at_end, "label_at": m.label_at, "side": m.side}
            for m in chart.marks
        ],
    }
