"""Where the texts beside a chart's points go, so that none covers another text or a mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

CHARACTER = 6.4  # mean width of a character of the 12 px labels, in px
_ASCENT, _DESCENT = 11.0, 4.0
_SHIFTS = 12  # how many steps a text moves away from its point, at most


class Box(NamedTuple):
    """A rectangle in px; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """Area that two boxes have in common."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0


@dataclass(frozen=True)
class Wanted:
    """A text and the point that it belongs to; the radius is that of the point's mark."""

    text: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Placed:
    """A text with the left end of its baseline."""

    text: str
    x: float
    y: float

    @property
    def box(self) -> Box:
        width = len(self.text) * CHARACTER
        return Box(self.x, self.y - _ASCENT, self.x + width, self.y + _DESCENT)


def place(wanted: Sequence[Wanted], frame: Box, lines: Sequence[Box] = ()) -> list[Placed]:
    """Puts every text right or left of its point, near it, where it covers least.

    Covering a text or leaving the frame is worse than covering a mark, and that is worse than crossing a line.

    Args:
        wanted: texts and points. frame: of the chart. lines: thin boxes to keep clear of where that is possible.
    """
    marks = [Box(w.x - w.radius, w.y - w.radius, w.x + w.radius, w.y + w.radius) for w in wanted]
    placed: list[Placed] = []
    for w in sorted(wanted, key=lambda w: w.y):
        taken = [p.box for p in placed]

        def cost(candidate: Placed, taken: list[Box] = taken) -> float:
            box = candidate.box
            outside = max(0.0, frame.left - box.left) + max(0.0, box.right - frame.right)
            outside += max(0.0, frame.top - box.top) + max(0.0, box.bottom - frame.bottom)
            covered = sum(box.shared(other) for other in taken) * 1000 + outside * 10_000
            return covered + sum(box.shared(m) for m in marks) * 10 + sum(box.shared(line) for line in lines)

        candidates = _candidates(w)
        # Among equals the nearest one: candidates are in the order of their distance.
        placed.append(min(candidates, key=lambda c: cost(c)))
    return placed


def _candidates(w: Wanted) -> list[Placed]:
    """Beside the point, then further and further above and below it."""
    width, gap = len(w.text) * CHARACTER, w.radius + 5
    sides = (w.x + gap, w.x - gap - width)
    shifts = sorted(range(-_SHIFTS, _SHIFTS + 1), key=lambda s: (abs(s + 1), s))  # a little above the point first
    return [Placed(w.text, x, w.y + 4 + 5 * shift) for shift in shifts for x in sides]
