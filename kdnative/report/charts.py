"""Charts as SVG text: points and lines with error bars, and horizontal bars.

Colours are CSS classes, so one picture reads on light and dark pages. Every mark carries its values as ``data-tip``
and as an accessible name; every chart has a title and a description.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from kdnative.report.scales import Scale, linear, logarithmic, marked

COLOURS = 7  # classes s0 to s6 of assets/chart.css
_CHARACTER = 6.4  # mean width of a character of the 12 px labels, in px
_LABEL_HEIGHT = 15


@dataclass(frozen=True)
class Point:
    """One mark: a place, optionally the interval of y, a label beside it, and the text of its tooltip."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together, joined in their order."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    marks: bool = True


@dataclass(frozen=True)
class Axis:
    """How one direction is drawn.

    Attributes:
        title: quantity and unit.
        kind: ``"linear"``, ``"log"``, or ``"marked"``: logarithmic with a mark at every value that occurs.
        text: of a mark.
        zero: a linear axis begins at 0.
    """

    title: str
    kind: str = "linear"
    text: Callable[[float], str] = "{:g}".format
    zero: bool = False

    def scale(self, values: Sequence[float], start: float, end: float) -> Scale:
        if self.kind == "linear":
            return linear(values, start, end, zero=self.zero)
        return (logarithmic if self.kind == "log" else marked)(values, start, end)


@dataclass(frozen=True)
class Bar:
    """One horizontal bar."""

    name: str
    value: float
    text: str
    colour: int = 6
    tip: str = ""


def xy_chart(
    title: str, description: str, series: Sequence[Series], x: Axis, y: Axis, width: int = 720, height: int = 380
) -> str:
    """A chart of points and lines.

    Args:
        title: shown above the chart.
        description: what a reader who can't see it must know.
        series: with at least one point in all.
        x, y: the axes.
        width, height: in px.
    """
    points = [p for s in series for p in s.points]
    if not points:
        raise ValueError(f"the chart {title!r} has no point to draw")
    legend, legend_height = _legend(series, width)
    left, right, top, bottom = 64, width - 20, 44 + legend_height, height - 52
    heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    across, up = x.scale([p.x for p in points], left, right), y.scale(heights, bottom, top)
    parts = [_title_text(title), legend, *_axes(across, up, x, y, (left, right, top, bottom))]
    for s in series:
        parts.append(_series(s, across, up))
    parts += _labels(series, across, up, right)
    return _svg(title, description, width, height, parts)


def bar_chart(title: str, description: str, bars: Sequence[Bar], width: int = 720) -> str:
    """Horizontal bars in the given order, from 0; negative values go to the left."""
    if not bars:
        raise ValueError(f"the chart {title!r} has no bar to draw")
    name_width = min(max(len(bar.name) for bar in bars) * _CHARACTER + 12, width * 0.45)
    text_width = max(len(bar.text) for bar in bars) * _CHARACTER + 12
    row, top = 26, 44
    values = [bar.value for bar in bars]
    scale = linear(values, name_width, width - text_width - 8, zero=True)
    parts = [_title_text(title)]
    for index, bar in enumerate(bars):
        y = top + index * row
        start, end = sorted((scale(0), scale(bar.value)))
        tip, name = bar.tip or f"{bar.name}: {bar.text}", escape(_cut(bar.name))
        parts.append(
            f'<g class="mark" tabindex="0" role="img" aria-label="{escape(tip)}" data-tip="{escape(tip)}">'
            f'<rect class="hit" x="0" y="{y}" width="{width}" height="{row}"/>'
            f'<text class="name" x="{name_width - 8:.1f}" y="{y + 17}" text-anchor="end">{name}</text>'
            f'<rect class="bar s{bar.colour}" x="{start:.1f}" y="{y + 4}" width="{max(end - start, 1):.1f}" '
            f'height="{row - 8}" rx="2"/>'
            f'<text class="value" x="{end + 6:.1f}" y="{y + 17}">{escape(bar.text)}</text></g>'
        )
    return _svg(title, description, width, top + len(bars) * row + 12, parts)


def _svg(title: str, description: str, width: int, height: int, parts: Sequence[str]) -> str:
    key = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()[:8]
    body = "\n".join(part for part in parts if part)
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="group" '
        f'aria-labelledby="t{key} d{key}">\n<title id="t{key}">{escape(title)}</title>\n'
        f'<desc id="d{key}">{escape(description)}</desc>\n{body}\n</svg>'
    )


def _title_text(title: str) -> str:
    return f'<text class="title" x="0" y="18">{escape(title)}</text>'


def _legend(series: Sequence[Series], width: int) -> tuple[str, int]:
    """Names of the series with their marks, wrapped; none for a single series without a name."""
    named = [s for s in series if s.name]
    if not named:
        return "", 0
    x, y, parts = 0.0, 40, []
    for s in named:
        room = 30 + len(s.name) * _CHARACTER + 14
        if x and x + room > width:
            x, y = 0.0, y + 20
        dash = " dashed" if s.dashed else ""
        mark = _mark(s.colour, x + 12, y - 4) if s.marks else ""
        parts.append(
            f'<line class="line s{s.colour}{dash}" x1="{x:.1f}" y1="{y - 4}" x2="{x + 24:.1f}" y2="{y - 4}"/>{mark}'
            f'<text class="legend" x="{x + 30:.1f}" y="{y}">{escape(s.name)}</text>'
        )
        x += room
    return "".join(parts), y - 20


def _axes(across: Scale, up: Scale, x: Axis, y: Axis, frame: tuple[float, float, float, float]) -> list[str]:
    left, right, top, bottom = frame
    parts = []
    for value in up.ticks:
        at = f"{up(value):.1f}"
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{y.text(value)}</text>'
        )
    for value in across.ticks:
        at = f"{across(value):.1f}"
        parts.append(f'<line class="tickmark" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(f'<text class="tick" x="{at}" y="{bottom + 19}" text-anchor="middle">{x.text(value)}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle, centre = (top + bottom) / 2, (left + right) / 2
    parts.append(
        f'<text class="axis-title" x="{centre}" y="{bottom + 42}" text-anchor="middle">{escape(x.title)}</text>'
    )
    parts.append(
        f'<text class="axis-title" transform="translate(14 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.title)}</text>"
    )
    return parts


def _series(s: Series, across: Scale, up: Scale) -> str:
    places = [(across(p.x), up(p.y), p) for p in s.points]
    parts = []
    if len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(f'<polyline class="line s{s.colour}{" dashed" if s.dashed else ""}" points="{path}"/>')
    for x, y, point in places:
        inner = ""
        if point.low is not None and point.high is not None:
            high, low = up(point.high), up(point.low)
            inner += f'<path class="interval s{s.colour}" d="M{x:.1f} {high:.1f}V{low:.1f}'
            inner += f'M{x - 5:.1f} {high:.1f}h10M{x - 5:.1f} {low:.1f}h10"/>'
        if not s.marks and not inner:
            continue
        tip = escape(point.tip or f"{s.name} {point.label}".strip())
        inner += f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="11"/>{_mark(s.colour, x, y)}'
        parts.append(f'<g class="mark" tabindex="0" role="img" aria-label="{tip}" data-tip="{tip}">{inner}</g>')
    return "".join(parts)


def _mark(colour: int, x: float, y: float) -> str:
    """A shape as well as a colour tells series apart."""
    shape = colour % 4
    if shape == 1:
        return f'<rect class="dot s{colour}" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    if shape == 2:
        return f'<path class="dot s{colour}" d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z"/>'
    if shape == 3:
        return f'<path class="dot s{colour}" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'
    return f'<circle class="dot s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _labels(series: Sequence[Series], across: Scale, up: Scale, right: float) -> list[str]:
    """Texts beside their points, moved apart up and down where they would cover one another."""
    placed: list[tuple[float, float, float]] = []  # left, right, baseline
    parts = []
    wanted = [(across(p.x), up(p.y), p.label) for s in series for p in s.points if p.label]
    for x, y, text in sorted(wanted, key=lambda w: w[1]):
        length = len(text) * _CHARACTER
        at_end = x + 10 + length > right
        begin = x - 10 - length if at_end else x + 10
        base = y - 8
        while any(begin < r and begin + length > left and abs(base - b) < _LABEL_HEIGHT for left, r, b in placed):
            base += 2
        placed.append((begin, begin + length, base))
        anchor, place = ("end", x - 10) if at_end else ("start", x + 10)
        parts.append(f'<text class="label" x="{place:.1f}" y="{base:.1f}" text-anchor="{anchor}">{escape(text)}</text>')
    return parts


def _cut(text: str, most: int = 46) -> str:
    """The end of a module's path says more than its beginning."""
    return text if len(text) <= most else "…" + text[-(most - 1) :]
