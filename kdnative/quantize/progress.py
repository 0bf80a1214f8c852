"""How a calibration tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdnative.extras import require

__all__ = ["Progress", "progress_of"]


class Progress:
    """Hands on what is being done, how much of it is done, and how much there is; a context manager."""

    def __init__(self, tell: Callable[[str, int, int], None] | None = None) -> None:
        self._tell = tell

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._tell is not None:
            self._tell(what, done, total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class _Bars(Progress):
    """Bars of tqdm, one for each thing that is done."""

    def __init__(self) -> None:
        self._tqdm: Any = require("tqdm", "progress=True", "or give a function").tqdm
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.desc != what or done < self._bar.n:
            self.__exit__()
            self._bar = self._tqdm(total=total, desc=what, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def progress_of(shown: bool | Callable[[str, int, int], None]) -> Progress:
    """What ``progress=`` asks for.

    Raises:
        TypeError: neither True nor False nor a function. ImportError: tqdm is not installed.
    """
    if shown is True:
        return _Bars()
    if shown is False or callable(shown):
        return Progress(None if shown is False else shown)
    raise TypeError(f"progress is True, False or a function, not {type(shown).__name__}")
