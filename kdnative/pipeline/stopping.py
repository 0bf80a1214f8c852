"""Ends a run as Ctrl-C does when the process is told to: SIGTERM of a service manager, SIGHUP of a closed terminal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Stopped", "in_words", "stopping"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_GO_ON = "continue a run with --resume"


class Stopped(SystemExit):
    """The process was told to end. Unless somebody catches this, it does so with 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}; {_GO_ON}"


@contextmanager
def stopping() -> Iterator[None]:
    """While this lasts, the signals raise :class:`Stopped` in the main thread; a second one ends the process at once.

    A signal that somebody else handles, or ignores as `nohup` does, is left to them. From another thread than the main
    one, which alone can set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> None:
        leave()
        raise Stopped(number)

    def leave() -> None:
        for other in ours:
            if signal.getsignal(other) is stop:
                signal.signal(other, signal.SIG_DFL)

    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    except Stopped as end:
        with suppress(OSError):  # the terminal may be what ended
            print(f"kdnative: {end}", file=sys.stderr)
        raise
    finally:
        leave()


def in_words(error: BaseException) -> str:
    """What the log says of an error that ends a run."""
    if isinstance(error, Stopped):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"stopped; {_GO_ON}"
    return f"{type(error).__name__}: {error}"
