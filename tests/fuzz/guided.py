"""Fuzzing led by what inputs reach: ``python -m tests.fuzz.guided TARGET [OPTIONS OF LIBFUZZER]``, with atheris.

The bytes that libFuzzer makes are the random numbers from which a target makes an input.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

from tests.fuzz.run import TARGETS, load

__all__ = ["Choices"]


class Choices(random.Random):
    """Random numbers out of some bytes, and zeros after the last one."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._at = data, 0

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        part = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(part, "little") >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(53) / 2**53


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("this needs atheris: pip install atheris")
    names = [name for name in TARGETS if name not in ("regressions", "planted")]  # whose inputs are a list
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python -m tests.fuzz.guided {'|'.join(names)} [-runs=N] [-max_len=N] [FOLDER]")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["kdnative"]):
        import kdnative.checkpoint
        import kdnative.data
        import kdnative.pipeline.recipe  # noqa: F401
        from tests.fuzz.worker import attempt
    folder = Path("build/fuzz") / f"guided-{name}"  # libFuzzer ends the process at once: nothing is removed then
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target = load(name, folder / "seeds")

    def one(data: bytes) -> None:
        _, found = attempt(target, 0, Choices(data), folder / "input")
        if found is not None:
            raise RuntimeError(f"{found.kind}: {found.place}\n{found.input}\n{found.detail}")

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
