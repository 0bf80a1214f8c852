"""Building what a file describes with nothing else within reach: no network, no questions, no end of modules.

Functions of Python, torch and transformers are replaced while any thread builds, and put back after the last one.
They act on threads that build, in which nothing but constructors runs; all others go on as ever. torch's hooks on
registration are not used: another thread that makes a module while one of them is added or removed fails.
"""

from __future__ import annotations

import builtins
import functools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["isolated", "limited_modules", "offline"]

Place = tuple[Any, str, str]
"""A module or class, the name of a function in it, and what a call of that is, in words."""
_ABSENT = object()


class _Watch:
    """Tells threads that ask for it of calls that they make themselves, before these run."""

    def __init__(self, places: Callable[[], Iterator[Place]]) -> None:
        self._places = places
        self._lock, self._users = threading.Lock(), 0
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._thread = threading.local()

    @contextmanager
    def telling(self, observer: Callable[[str], None]) -> Iterator[None]:
        """Call ``observer`` with what this thread is about to do; it may raise."""
        with self._lock:
            if self._users == 0:
                self._replace()
            self._users += 1
        observers = self._thread.__dict__.setdefault("observers", [])
        observers.append(observer)
        try:
            yield
        finally:
            observers.pop()
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._restore()

    def _replace(self) -> None:
        for holder, name, what in self._places():
            own, watched = vars(holder).get(name, _ABSENT), self._watched(getattr(holder, name), what)
            setattr(holder, name, watched)
            self._replaced.append((holder, name, own, watched))

    def _restore(self) -> None:
        while self._replaced:
            holder, name, own, watched = self._replaced.pop()
            if vars(holder).get(name) is not watched:
                continue  # somebody else has replaced it since, and calls what was there
            if own is _ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, own)

    def _watched(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        thread = self._thread

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            for observer in reversed(getattr(thread, "observers", ())):
                observer(what)
            return function(*args, **kwargs)

        return watched


def _ways_out() -> Iterator[Place]:
    for name in ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex"):
        yield socket, name, "look up a name in the network"
    for name in ("connect", "connect_ex"):
        yield socket.socket, name, "connect to another program"
    yield builtins, "input", "ask a question on the terminal"
    if (dynamic := sys.modules.get("transformers.dynamic_module_utils")) is not None:
        yield dynamic, "get_class_in_module", "run code from outside of transformers"


_WAYS_OUT = _Watch(_ways_out)
_MODULES = _Watch(lambda: iter([(nn.Module, "__init__", "make a module")]))


@contextmanager
def isolated() -> Iterator[None]:
    """Let this thread reach nothing outside of the process and of the libraries that are installed.

    Raises:
        ValueError: it has tried to. Raised where that happens, and again at the end if it was caught in between.
    """
    refused: list[str] = []

    def refuse(what: str) -> None:
        refused.append(
            f"building it would {what}, which no model from a file may; build the model in your code and call "
            "load(path, into=model)"
        )
        raise ValueError(refused[-1])

    with _WAYS_OUT.telling(refuse):
        try:
            yield
        except Exception as error:
            if refused and str(error) != refused[0]:
                raise ValueError(refused[0]) from error
            raise
    if refused:
        raise ValueError(refused[0])


@contextmanager
def offline() -> Iterator[None]:
    """Let this thread reach nothing either, as on a machine without a network: what tries gets an OSError and goes on.

    For imports: modules of transformers look for kernels on the hub when they are imported (gpt_neo in version 5.25).
    """

    def refuse(what: str) -> None:
        raise OSError(f"loading a checkpoint may not {what}")

    with _WAYS_OUT.telling(refuse):
        yield


@contextmanager
def limited_modules(limit: int) -> Iterator[None]:
    """Let this thread make at most ``limit`` modules of torch, whatever they are part of.

    Raises:
        ValueError: it makes more.
    """
    left = limit

    def count(what: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"building it makes more than {limit:,} modules, which is far more than its file is for")

    with _MODULES.telling(count):
        yield
