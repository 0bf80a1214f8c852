"""Mutation tests of the GPU kernels: does a test notice a mistake? ``make mutants-gpu``

``tests/gpu/mutants/FAMILY.py`` lists the mistakes of a family and who ought to notice:

- ``MUTANTS``: (file, text that is there exactly once, text instead) for each.
- ``PROGRAMS``: C++ tests on the emulator, with their arguments, which run first because they are quick. Mistakes in the
  device half of the dialect (``csrc/cuda/gpu``) are unseen there, and skip them.
- ``CHECK``: a function of the root of a copy of the repository, which says what it notices there, or None.
- ``TESTS``: arguments of pytest, such as the file of the family's tests through the interpreter.

Each mutant is tried in a copy of the repository. One that nobody notices has survived. The exit status is 1 when one
survived, no longer matches its file, or does not compile.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kdnative.ops.nvrtc import NvrtcError
from tests.gpu.building import DOES_NOT_COMPILE, ROOT, DoesNotCompile

HERE = Path(__file__).parent
COPIED = ("csrc", "kdnative", "tests", "pyproject.toml")
SECONDS = 600  # a mutant that takes longer has no end


@dataclass(frozen=True)
class Family:
    """One list of mutants and the tests that must kill them."""

    name: str
    mutants: tuple[tuple[str, str, str], ...]
    programs: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...]
    check: Callable[[Path], str | None] | None = None


def families() -> list[Family]:
    """Every list in ``tests/gpu/mutants``."""
    found = []
    for path in sorted((HERE / "mutants").glob("[a-z]*.py")):
        module = importlib.import_module(f"tests.gpu.mutants.{path.stem}")
        programs = tuple(tuple(p.split()) for p in getattr(module, "PROGRAMS", ()))
        tests, check = tuple(getattr(module, "TESTS", ())), getattr(module, "CHECK", None)
        found.append(Family(path.stem, tuple(module.MUTANTS), programs, tests, check))
    return found


def mutate(source: str, old: str, new: str, file: str) -> str:
    """The text with the mistake.

    Raises:
        ValueError: the old text isn't there exactly once, or the new one is the same.
    """
    if (times := source.count(old)) != 1:
        raise ValueError(f"{file} has {times} times, not once: {old!r}")
    if old == new:
        raise ValueError(f"{file}: the mutant changes nothing: {old!r}")
    return source.replace(old, new)


# An editable install finds kdnative by a hook, which comes before PYTHONPATH and leads to the original.
_NO_HOOKS = "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"


class Workplace:
    """A copy of the repository in which one mutant at a time is tried."""

    def __init__(self, folder: Path):
        self.root = folder
        spec = importlib.util.find_spec("kdnative._C")
        assert spec is not None and spec.origin is not None
        native = Path(spec.origin)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder / name)
        shutil.copy(native, folder / "kdnative" / native.name)
        (folder / "sitecustomize.py").write_text(_NO_HOOKS)

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def complaint(self, family: Family, *, device_only: bool = False) -> tuple[str, str]:
        """What the tests of a family make of the copy as it is: an outcome, and the words of whoever noticed."""
        for program in () if device_only else family.programs:
            done = self.run("tests.gpu.building", *program)
            if done.returncode:
                outcome = "DOES NOT COMPILE" if done.returncode == DOES_NOT_COMPILE else "killed"
                return outcome, first_words(done.stdout + done.stderr) or f"ended with {done.returncode}"
        if family.check:
            try:
                noticed = family.check(self.root)
            except (NvrtcError, DoesNotCompile) as error:
                return "DOES NOT COMPILE", first_words(str(error))
            if noticed:
                return "killed", first_words(noticed)
        if family.tests:
            done = self.run("pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *family.tests)
            text = done.stdout + done.stderr
            if done.returncode == 1:
                compiles = not re.search(r"^E .*(DoesNotCompile|NvrtcError)", text, re.M)
                return "killed" if compiles else "DOES NOT COMPILE", first_words(text)
            if done.returncode:
                return "NOT RUN", text.strip().splitlines()[-1]
        return "SURVIVED", ""

    def try_mutant(self, family: Family, mutant: tuple[str, str, str]) -> tuple[str, str]:
        """What became of it, and the first words of whoever noticed."""
        name, old, new = mutant
        file = self.root / name
        original = file.read_text()
        try:
            file.write_text(mutate(original, old, new, name))
        except ValueError as error:
            return "STALE", str(error)
        try:
            return self.complaint(family, device_only=name.startswith("csrc/cuda/gpu/"))
        except subprocess.TimeoutExpired:
            return "killed", "no end"
        finally:
            file.write_text(original)


def first_words(text: str) -> str:
    """The line that says what is wrong; "" where nothing was said, as by a program that crashed."""
    found = re.search(r"(?:FAIL|ERROR) (?!tests/).*|^E  .*|AddressSanitizer: [a-z-]+|error: .*", text, re.M)
    lines = [found[0]] if found else text.strip().splitlines()[-1:]
    return " ".join(" ".join(lines).split())


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation tests of the GPU kernels.")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose family, file or text holds this")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at a time")
    options = parser.parse_args()
    chosen = [(f, m) for f in families() for m in f.mutants if options.only in " ".join([f.name, *m])]
    if not chosen:
        print(f"no mutant holds {options.only!r}")
        return 1
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        free: queue.Queue[Workplace] = queue.Queue()
        for i in range(options.jobs):
            free.put(Workplace(Path(folder) / str(i)))

        def attempt(family: Family, mutant: tuple[str, str, str] | None) -> tuple[str, str, float]:
            place, start = free.get(), time.monotonic()
            try:
                outcome, text = place.try_mutant(family, mutant) if mutant else place.complaint(family)
            finally:
                free.put(place)
            return outcome, text, time.monotonic() - start

        used = {f.name: f for f, _ in chosen}.values()
        for family, (outcome, text, _) in zip(used, pool.map(lambda f: attempt(f, None), used), strict=True):
            if outcome != "SURVIVED":
                print(f"the tests of {family.name} fail without a mutant already: {outcome}, {text}")
                return 1
        for (family, mutant), (outcome, text, took) in zip(
            chosen, pool.map(lambda pair: attempt(*pair), chosen), strict=True
        ):
            counts[outcome] = counts.get(outcome, 0) + 1
            change = f"{mutant[1]!r} -> {mutant[2]!r}"
            print(f"{outcome:<9} {family.name:<10} {mutant[0]}: {change}  {took:.1f} s  {text[:100]}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    return 0 if set(counts) == {"killed"} else 1


if __name__ == "__main__":
    sys.exit(main())
