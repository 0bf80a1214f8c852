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


def names(text: str) -> list[str]:
    """``"w8a8,w4a8-g64"`` as texts, none of them empty."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names with commas between them")
    return found


def add_peers(parser: argparse.ArgumentParser, compiled: bool = True) -> None:
    """Adds the options of the suites that compare with other engines, ``compiled`` ones among them."""
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="compare with other engines"
    )
    if compiled:
        parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")


def add_threads(parser: argparse.ArgumentParser, several: str | None = None) -> None:
    """Adds ``--threads``: one number, or a list with the given default."""
    if several is None:
        parser.add_argument("--threads", type=positive, default=1, help="threads of every engine (default: 1)")
    else:
        text = f"numbers of threads of every engine, one after the other (default: {several})"
        parser.add_argument("--threads", type=numbers, default=several, help=text)


def add_output(parser: argparse.ArgumentParser, rounds: int | None = 9, plot: bool = False) -> None:
    """Adds ``--json`` and, where the suite has them, ``--rounds`` and ``--plot``."""
    if rounds is not None:
        text = f"samples per candidate (default: {rounds})"
        parser.add_argument("--rounds", type=positive, default=rounds, help=text)
    parser.add_argument("--json", metavar="FILE", help="write the result")
    if plot:
        parser.add_argument("--plot", metavar="FILE.svg", type=_svg, help="draw the result")


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _svg(text: str) -> str:
    if not text.endswith(".svg"):
        raise argparse.ArgumentTypeError(f"plots are written as .svg, got {text!r}")
    return text
