"""Figures as a reader sees them. None, which means not measured, is always a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DASH = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """0.915 as ``91.5 %``."""
    return DASH if share is None else f"{100 * share:.{digits}f} %"


def measure(value: float | None, percent_: bool, digits: int = 1) -> str:
    """A figure of the task: a share as ``91.5 %``, another number as ``0.915``."""
    if value is None or percent_:
        return percent(value, digits)
    return f"{value:.{digits + 2}f}"


def estimate(found: dict | None, percent_: bool) -> str:
    """A measure with its 95 % interval, as ``91.5 % [89.3, 93.4]``."""
    if not found:
        return DASH
    low, high = (measure(found[end], percent_).removesuffix(" %") for end in ("low", "high"))
    return f"{measure(found['value'], percent_)} [{low}, {high}]"


def change(difference: dict | None, percent_: bool, unit: str = "") -> str:
    """A difference of measures with its interval, in points as ``-0.4 [-1.2, +0.5]``, or as ``-0.004 [...]``."""
    if not difference:
        return DASH
    value, low, high = (_signed(difference[part], percent_) for part in ("value", "low", "high"))
    return f"{value}{unit if percent_ else ''} [{low}, {high}]"


def _signed(value: float, percent_: bool) -> str:
    text = f"{100 * value:+.1f}" if percent_ else f"{value:+.3f}"
    return text if text.strip("+-0.") else text[1:]  # neither +0.0 nor -0.0


def milliseconds(value: float | None) -> str:
    """Three significant digits, without exponents."""
    return DASH if value is None else _significant(value)


def megabytes(size: int | None) -> str:
    """Bytes in units of 10^6 bytes."""
    return DASH if size is None else f"{size / 1e6:.1f}"


def kilobytes(size: int | None) -> str:
    """Bytes in units of 10^3 bytes."""
    return DASH if size is None else f"{size / 1e3:,.1f}"


def millions(count: int | None) -> str:
    """A count in millions; small counts as they are."""
    if count is None:
        return DASH
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count:,}"


def case(found: Mapping[str, Any], times: str = "×") -> str:
    """What models were timed with: "batch 1 × 32 tokens, 2 threads"."""
    size = f"{found['tokens']} {found.get('unit', 'tokens')}"
    return f"batch {found['batch']} {times} {size}, {counted(found['threads'], 'thread')}"


def counted(count: int, what: str) -> str:
    """A number of things, as ``1 thread`` or ``1,038 examples``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def times(ratio: float | None) -> str:
    """A ratio, as ``12.3×``."""
    return DASH if ratio is None else f"{_significant(ratio)}×"


def speedup(found: dict | None) -> str:
    """A speed-up with its interval, as ``12.3× [11.9, 12.6]``."""
    if not found:
        return DASH
    interval = "" if found["low"] is None else f" [{_significant(found['low'])}, {_significant(found['high'])}]"
    return times(found["value"]) + interval


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and seconds."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def goal_value(value: float | None, unit: str) -> str:
    """A goal's figure in its unit."""
    if value is None:
        return "not measured"
    if unit == "%":
        return percent(value)
    return times(value) if unit == "x" else f"{_significant(value)} {unit}".strip()


def _significant(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"
