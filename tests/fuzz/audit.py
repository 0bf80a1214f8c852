"""What an input must not do: network, processes, foreign code, prompts, files elsewhere. Seen by an audit hook."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import kdnative
from tests.fuzz.words import CANARY, OUTSIDE

__all__ = ["Audit", "Forbidden"]

_ALWAYS = {"builtins.input", *(f"os.{name}" for name in "exec fork forkpty posix_spawn spawn startfile system".split())}
_PREFIXES = tuple(
    f"{module}." for module in "socket subprocess pty urllib http.client ftplib smtplib webbrowser".split()
)
_CHANGES = [f"os.{name}" for name in "chmod chown link mkdir remove rename rmdir truncate".split()]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SYSTEM = (
    "/proc",
    "/sys",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/usr/lib",
    "/usr/share",
    "/etc/localtime",
    "/etc/ld.so",
)


class Forbidden(BaseException):
    """Stops what an input does; not an Exception, so that no handler of one takes it."""


class Audit:
    """Watches the process from :meth:`watch` on, for good; :attr:`seen` is to be emptied for each input.

    Args:
        scratch: the only folder that may be written to.
    """

    def __init__(self, scratch: Path) -> None:
        self.seen: list[str] = []
        self._scratch = (str(scratch.resolve()),)
        code = [Path(torch.__file__).parents[1], Path(kdnative.__file__).parent, Path(__file__).resolve().parents[2]]
        code += map(Path, sysconfig.get_paths().values())
        self._code = tuple(str(path.resolve()) for path in code)
        self._checks: dict[str, Callable[[tuple], str | None]] = {
            "open": self._open,
            "exec": self._exec,
            "import": lambda args: str(args[0]) if str(args[0]).startswith(CANARY) else None,
            "ctypes.dlopen": lambda args: self._inside(args[0], self._code + _SYSTEM) if "/" in str(args[0]) else None,
        }
        for event in _CHANGES:
            self._checks[event] = lambda args: self._inside(args[0], self._scratch)
        self._checks["os.symlink"] = lambda args: self._inside(args[1], self._scratch)
        self._busy = False

    def watch(self) -> None:
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        check = self._checks.get(event)
        if check is None and not event.startswith(_PREFIXES) and event not in _ALWAYS or self._busy:
            return
        self._busy = True  # looking at a path may raise events of its own
        try:
            wrong = repr(args)[:200] if check is None else check(args)
        finally:
            self._busy = False
        if wrong is not None:
            self.seen.append(f"{event} {wrong}")
            raise Forbidden(self.seen[-1])

    def _open(self, args: tuple) -> str | None:
        path, mode, flags = args
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor that is open
            return None
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
        if os.fsdecode(path).endswith(OUTSIDE) and not writes:
            return repr(path)
        return self._inside(path, self._scratch + (("/dev/null",) if writes else self._code + _SYSTEM))

    def _exec(self, args: tuple) -> str | None:
        file = getattr(args[0], "co_filename", "?")
        return None if file.startswith("<") else self._inside(file, self._code)

    def _inside(self, path: Any, roots: tuple[str, ...]) -> str | None:
        """None for a path below one of these; otherwise what to say of it."""
        if path is None or isinstance(path, int):
            return None
        real = os.path.realpath(os.fsdecode(path).partition("\0")[0])
        return None if any(real == root or real.startswith(root + "/") for root in roots) else repr(path)
