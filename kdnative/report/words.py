"""Figures as a reader sees them. None, which means not measured, is always a dash."""

from __future__ import annotations

DASH = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """0.915 as ``91.5 %``."""
    return DASH if share is None else f"{100 * share:.{digits}f} %"


def measure(value: float | None, percent_: bool, digits: int = 1) -> str:
    """A figure of the task: a share as ``91.5 %``, another number as ``0.915``."""
    if value is None or percent_:
        return percent(value, digits)
    return f"{value:.{digits + 2}f}"


def interval(estimate: dict | None, percent_: bool) -> str:
    """The 95 % interval of a measure, as ``89.3 – 93.4`` in percent, or ``0.893 – 0.934``."""
    if not estimate:
        return DASH
    return " – ".join(measure(estimate[end], percent_).removesuffix(" %") for end in ("low", "high"))


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


def times(ratio: float | None) -> str:
    """A ratio, as ``12.3×``."""
    return DASH if ratio is None else f"{_significant(ratio)}×"


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
