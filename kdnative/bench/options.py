"""Command-line options that the suites share."""

from __future__ import annotations

import argparse


def numbers(text: str) -> list[int]:
    """``"1,8,32"`` as positive integers."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers such as 1,8,32")
    return found


def sizes(text: str) -> list[tuple[int, int]]:
    """``"384x384,768x3072"`` as pairs of positive integers."""
    pairs = []
    for part in text.split(","):
        first, _, second = part.partition("x")
        if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
            raise argparse.ArgumentTypeError(f"{part!r} is not a pair of positive numbers such as 384x384")
        pairs.append((int(first), int(second)))
    return pairs


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the suites that compare with other engines."""
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="compare with other engines"
    )
    add_basic(parser)


def add_basic(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every suite has."""
    parser.add_argument("--threads", type=_positive, default=1, help="threads of every engine (default: 1)")
    parser.add_argument("--rounds", type=_positive, default=9, help="samples per candidate (default: 9)")
    parser.add_argument("--json", metavar="FILE", help="write the result")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the result")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
