"""Pillow, imported when a picture is read: it is an optional package."""

from __future__ import annotations

import importlib
from types import ModuleType

from kdnative.extras import require

__all__ = ["pillow"]


def pillow(name: str) -> ModuleType:
    """A module of Pillow, such as "Image".

    Raises:
        ImportError: Pillow is not installed; the text says which extra brings it.
    """
    require("PIL", "reading pictures")
    return importlib.import_module(f"PIL.{name}")
