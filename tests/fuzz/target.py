"""What a target of the fuzzers is, and what it may say of an input."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Finding", "Target"]


class Finding(Exception):
    """An input was accepted that should not have been, or an answer was wrong; the text says what."""


class Target(Protocol):
    """A kind of inputs, made from numbers.

    Attributes:
        inputs: how many different ones there are; None: any number.
    """

    inputs: int | None = None

    def make(self, number: int, rng: random.Random) -> Any:
        """The input of this number; the same for the same random numbers."""

    def run(self, made: Any, folder: Path) -> bool:
        """Gives it to kdnative; ``folder`` is empty, and for this input alone.

        Returns:
            True: it worked. False: it was refused in words.

        Raises:
            Finding, and whatever else kdnative raises: it was neither.
        """

    def describe(self, made: Any) -> str:
        """In a few lines, for reports."""

    def save(self, made: Any, folder: Path) -> None:
        """Writes it down as it is given to kdnative, into a new folder."""
