"""Charts as SVG text: points and lines with error bars, and horizontal bars.

Colours are CSS classes, so one picture reads on light and dark pages. Every mark carries its values as ``data-tip``
and as an accessible name; every chart has a title and a description.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from kdnative.report.labels import CHARACTER, Box, Wanted, place
from kdnative.report.scales import Scale, linear, logarithmic, marked


@dataclass(frozen=True)
class Point:
    """One mark: a place, optionally the interval of y, a label beside it, and the text of its tooltip.

    With a radius (px) the mark is a bubble.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    tip: str = ""
    radius: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together, joined in their order where that means something."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False
    marks: bool = True
    joined: bool = True


@dataclass(frozen=True)
class Axis:
    """How one direction is drawn.

    Attributes:
        title: quantity and unit.
        kind: ``"linear"``, ``"whole"``: linear with marks at whole numbers only, ``"log"``, or ``"marked"``:
            logarithmic with a mark at every value that occurs.
        text: of a mark.
        zero: a linear axis begins at 0.
        room: factor that a logarithmic axis reaches beyond its values.
    """

    title: str
    kind: str = "linear"
    text: Callable[[float], str] = "{:g}".format
    zero: bool = False
    room: float = 1.12

    def scale(self, values: Sequence[float], start: float, end: float) -> Scale:
        if self.kind == "log":
            return logarithmic(values, start, end, room=self.room)
        if self.kind == "marked":
            return marked(values, start, end)
        return linear(values, start, end, zero=self.zero, whole=self.kind == "whole")


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
    parts += _labels(series, across, up, Box(left, top - 20, width, bottom))
    return _svg(title, description, width, height, parts)


def bar_chart(title: str, description: str, bars: Sequence[Bar], width: int = 720) -> str:
    """Horizontal bars in the given order, from 0; negative values go to the left."""
    if not bars:
        raise ValueError(f"the chart {title!r} has no bar to draw")
    name_width = min(max(len(bar.name) for bar in bars) * CHARACTER + 12, width * 0.45)
    text_width = max(len(bar.text) for bar in bars) * CHARACTER + 12
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
        f'style="max-width:{1.2 * width:.0f}px" aria-labelledby="t{key} d{key}">\n'
        f'<title id="t{key}">{escape(title)}</title>\n'
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
        room = 30 + len(s.name) * CHARACTER + 14
        if x and x + room > width:
            x, y = 0.0, y + 20
        dash = " dashed" if s.dashed else ""
        line = f'<line class="line s{s.colour}{dash}" x1="{x:.1f}" y1="{y - 4}" x2="{x + 24:.1f}" y2="{y - 4}"/>'
        parts.append(
            f"{line if s.joined else ''}{_legend_mark(s, x + 12, y - 4)}"
            f'<text class="legend" x="{x + 30:.1f}" y="{y}">{escape(s.name)}</text>'
        )
        x += room
    return "".join(parts), y - 20


def _legend_mark(s: Series, x: float, y: float) -> str:
    if not s.marks:
        return ""
    bubbles = any(p.radius is not None for p in s.points)
    return f'<circle class="bubble s{s.colour}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>' if bubbles else _mark(s.colour, x, y)


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
    if len(places) > 1 and s.joined:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(f'<polyline class="line s{s.colour}{" dashed" if s.dashed else ""}" points="{path}"/>')
    for x, y, point in sorted(places, key=lambda place: -(place[2].radius or 0.0)):  # small ones on top
        inner = ""
        if point.low is not None and point.high is not None:
            high, low = up(point.high), up(point.low)
            inner += f'<path class="interval s{s.colour}" d="M{x:.1f} {high:.1f}V{low:.1f}'
            inner += f'M{x - 5:.1f} {high:.1f}h10M{x - 5:.1f} {low:.1f}h10"/>'
        if not s.marks and not inner:
            continue
        tip = escape(point.tip or f"{s.name} {point.label}".strip())
        if point.radius is None:
            inner += f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="11"/>{_mark(s.colour, x, y)}'
        else:
            inner += f'<circle class="bubble s{s.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:.1f}"/>'
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


def _labels(series: Sequence[Series], across: Scale, up: Scale, frame: Box) -> list[str]:
    """Texts beside their points."""
    points = [(across(p.x), up(p.y), p) for s in series for p in s.points]
    wanted = [Wanted(p.label, x, y, p.radius or 6.0) for x, y, p in points if p.label]
    bars = [Box(x - 1, up(p.high), x + 1, up(p.low)) for x, _, p in points if p.low is not None and p.high is not None]
    return [
        f'<text class="label" x="{found.x:.1f}" y="{found.y:.1f}">{escape(found.text)}</text>'
        for found in place(wanted, frame, bars)
    ]


def _cut(text: str, most: int = 46) -> str:
    """The end of a module's path says more than its beginning."""
    return text if len(text) <= most else "…" + text[-(most - 1) :]
