"""Builds and runs the C++ programs that test GPU kernels on the emulator (``tests/gpu/emulator``).

A program prints ``FAIL ...`` or ``ERROR ...`` and exits with 1, or prints counters: a line of JSON for each case.
``python -m tests.gpu.building tests/gpu/NAME_test.cpp [ARGUMENT...]`` builds one and runs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "gpu"
INCLUDES = ("csrc/cuda", "tests/gpu")
FLAGS = ("-std=c++20", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
DOES_NOT_COMPILE = 2  # an exit status of this module
PAST_LEVEL_1 = re.compile(r"cp\.async\.cg|no_allocate")
"""Accesses that don't keep what they read for other warps of a block."""


class DoesNotCompile(RuntimeError):
    """A test program doesn't compile; the text is the compiler's."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler to build test programs with."""
    return shutil.which(compiler()) is not None


def compiler() -> str:
    """The C++ compiler: ``CXX`` or g++."""
    return os.environ.get("CXX", "g++")


def build(source: Path, *, sanitize: bool = False, root: Path = ROOT, flags: Iterable[str] = ()) -> Path:
    """The program of one C++ source; it is built when a file that it includes has changed.

    Args:
        source: a ``.cpp`` file.
        sanitize: with the address and the undefined-behaviour sanitizer.
        root: the copy of the repository that the source is in.
        flags: more flags of the compiler.

    Raises:
        DoesNotCompile: it doesn't.
    """
    command = [compiler(), *FLAGS, *(SANITIZED if sanitize else ("-O2",)), *flags]
    command += [f"-I{root / folder}" for folder in INCLUDES]
    digest = hashlib.sha256(" ".join([*FLAGS, *flags, str(sanitize)]).encode())
    for text in sorted(included(source, root).items()):
        digest.update(repr(text).encode())
    folder = root / CACHE.relative_to(ROOT)
    program = folder / f"{source.stem}-{digest.hexdigest()[:16]}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = program.with_suffix(f".{os.getpid()}")  # several processes may build it at once
        result = subprocess.run([*command, str(source), "-o", str(temporary)], capture_output=True, text=True)
        if result.returncode != 0:
            raise DoesNotCompile(f"{source.name} does not compile:\n{result.stderr[:4000]}")
        temporary.replace(program)
    return program


def included(source: Path, root: Path = ROOT) -> dict[str, str]:
    """The texts of a source and of the repository's files that it includes, by path."""
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
        if name in found:
            continue
        found[name] = path.read_text()
        for header in re.findall(r'^\s*#include "([^"]+)"', found[name], re.M):
            folders = [path.parent, *(root / folder for folder in INCLUDES)]
            waiting += [f / header for f in folders if (f / header).is_file()][:1]
    return found


def run(program: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> list[dict]:
    """Runs a test program and returns the lines of JSON that it printed.

    Raises:
        AssertionError: it found something wrong, or crashed; the text is what it printed.
    """
    result = subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0", **(environment or {})},
    )
    if result.returncode != 0:
        raise AssertionError(
            f"{program.name} {' '.join(arguments)} exits with {result.returncode}:\n"
            f"{result.stdout[-3000:]}{result.stderr[-3000:]}"
        )
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def worst_ratio(counters: dict, kind: str) -> float:
    """Cycles (``kind`` shared) or sectors (global) over the least possible, of the worst instruction."""
    unit = {"shared": "cycles", "global": "sectors"}[kind]
    return max((c[unit] / c["ideal"] for c in counters[kind].values() if c["ideal"]), default=1.0)


def bytes_ratio(counters: dict) -> float:
    """Bytes that blocks load to what they need, each once. What a block reads again comes from its first level."""
    reads = {name: cost for name, cost in counters["global"].items() if name.startswith(("cp.async", "ld."))}
    moved = [cost["sectors" if PAST_LEVEL_1.search(name) else "once"] for name, cost in reads.items()]
    return sum(moved) / sum(cost["once"] for cost in reads.values())


def sectors_bytes(counters: dict, names: str) -> int:
    """Bytes of the sectors that global accesses whose names match a pattern have moved."""
    return 32 * sum(c["sectors"] for name, c in counters["global"].items() if re.search(names, name))


def main() -> int:
    source, *arguments = sys.argv[1:]
    try:
        program = build(Path(source).resolve())
    except DoesNotCompile as error:
        print(error)
        return DOES_NOT_COMPILE
    return 1 if subprocess.run([str(program), *arguments]).returncode else 0


if __name__ == "__main__":
    sys.exit(main())
