"""Target: inputs that do what the fuzzers look for, so that a test knows that they see it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import torch

from kdnative import ops
from tests.fuzz.guarded import Guarded
from tests.fuzz.target import Finding

__all__ = ["DEFECTS", "Planted"]


def _hang(folder: Path) -> None:
    while True:
        pass


def _wait(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "pipe").read_text()


def _crash(folder: Path) -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def _read_on(folder: Path) -> None:
    tensor = Guarded().place(torch.zeros(64))
    longer = torch.from_numpy(np.lib.stride_tricks.as_strided(tensor.numpy(), shape=(65,)))
    ops.quantize_per_token(longer)


def _leave(folder: Path) -> None:
    os._exit(0)


def _raise(folder: Path) -> None:
    raise KeyError("scale")


def _accept(folder: Path) -> None:
    raise Finding("what should have been refused was accepted")


def _connect(folder: Path) -> None:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))


def _spawn(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def _ask(folder: Path) -> None:
    input("Do you wish to run the custom code? [y/N]")


def _write(folder: Path) -> None:
    Path("/tmp/kdnative-fuzz-planted").write_text("")


def _read(folder: Path) -> None:
    Path("/etc/passwd").read_text()


def _swallow(folder: Path) -> None:
    try:
        socket.getaddrinfo("localhost", 80)
    except Exception:
        pass


def _run_code(folder: Path) -> None:
    import importlib.util

    (folder / "evil.py").write_text("x = 1\n")
    spec = importlib.util.spec_from_file_location("evil", folder / "evil.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _grow(folder: Path) -> None:
    _ = b"x" * (540 * 2**20)


def _grow_without_end(folder: Path) -> None:
    held = []
    while True:
        held.append(bytes(2**26))


DEFECTS = {  # and the kind of finding that it must be
    _hang: "hang",
    _wait: "hang",
    _crash: "crash",
    _read_on: "crash",
    _leave: "crash",
    _raise: "exception",
    _accept: "exception",
    _connect: "audit",
    _spawn: "audit",
    _ask: "audit",
    _write: "audit",
    _read: "audit",
    _swallow: "audit",
    _run_code: "audit",
    _grow: "memory",
    _grow_without_end: "exception",
}


class Planted:
    """See :class:`tests.fuzz.target.Target`. Every second input has a defect; those between work, or are refused."""

    inputs = 2 * len(DEFECTS)

    def __init__(self, folder: Path) -> None:
        self._defects = list(DEFECTS)

    def make(self, number: int, rng: random.Random) -> int:
        return number

    def run(self, made: int, folder: Path) -> bool:
        if made % 2:
            self._defects[made // 2](folder)
        return made % 4 == 0

    def describe(self, made: int) -> str:
        return self._defects[made // 2].__name__

    def save(self, made: int, folder: Path) -> None:
        folder.mkdir()
        (folder / "number").write_text(str(made))
