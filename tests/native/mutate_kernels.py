"""Mutation tests of the kernels: does the harness notice a mistake? ``make mutants``

Every mutant of mutants.txt is built into the kernel harness (in a copy, under the address sanitizer), and the part of
the harness that ought to notice is run. One that passes has survived: a check is missing, or the mutant changes
nothing. The exit status is 1 when one survived, no longer matches the source, does not compile, or cannot run here.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = ["-O1", "-fsanitize=address"]


@dataclass
class Mutant:
    """One mistake; mutants.txt says what the fields mean."""

    file: str
    isa: str
    part: str
    name: str
    edits: list[tuple[list[str], list[str]]] = field(default_factory=list)  # lines to replace, lines instead


def read_mutants(text: str) -> list[Mutant]:
    """The mutants of a file like mutants.txt."""
    found: list[Mutant] = []
    where: list[str] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            where = line.strip("[]").split()
        elif line.startswith("-"):
            if not found[-1].edits or found[-1].edits[-1][1]:
                found[-1].edits.append(([], []))
            found[-1].edits[-1][0].append(line[2:])
        elif line.startswith("+"):
            found[-1].edits[-1][1].append(line[2:])
        else:
            found.append(Mutant(*where, line))
    return found


def apply(source: str, mutant: Mutant) -> str:
    """The mutated text.

    Raises:
        ValueError: a text to replace isn't there exactly once.
    """
    for lines, instead in mutant.edits:
        old = "\n".join(lines)
        if (times := source.count(old)) != 1:
            raise ValueError(f"csrc/cpu/{mutant.file} has {times} times, not once: {old!r}")
        source = source.replace(old, "\n".join(instead))
    return source


def includes(path: Path, seen: set[Path] | None = None) -> set[Path]:
    """A source and the files of the repository that it includes."""
    seen = set() if seen is None else seen
    if path not in seen:
        seen.add(path)
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            includes((path.parent / name).resolve(), seen)
    return seen


def sources_of(root: Path, isa: str) -> list[Path]:
    """What may be compiled for an instruction set: its folder, and the sources for any width of vectors."""
    return sorted((root / "csrc" / "cpu" / isa).glob("*.cpp")) + sorted((root / "csrc" / "cpu" / "simd").glob("*.cpp"))


def object_of(isa: str, source: str) -> str:
    """The object file of a source that is compiled for an instruction set, as build_harness.sh names it."""
    return f"{isa}-{source.replace('/', '-')}.o"


class Workplace:
    """A copy of the sources with the objects of the unchanged kernels."""

    def __init__(self, folder: Path):
        self.root, self.objects, self.program = folder, folder / "objects", folder / "harness"
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        shutil.copytree(ROOT / "tests" / "native", folder / "tests" / "native")
        self.objects.mkdir()

    def build(self, only: list[str]) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OBJECTS": str(self.objects), "ONLY": " ".join(only), "EMULATE_AMX": "1"}
        script = self.root / "tests" / "native" / "build_harness.sh"
        command = ["sh", str(script), str(self.program), *FLAGS]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [str(self.program), "--stop", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def try_mutant(self, mutant: Mutant) -> tuple[str, str]:
        """What became of it, and the first words of whoever noticed."""
        file = (self.root / "csrc" / "cpu" / mutant.file).resolve()
        original = file.read_text()
        try:
            mutated = apply(original, mutant)
        except ValueError as error:
            return "STALE", str(error)
        root = self.root.resolve()
        users = [source for source in sources_of(root, mutant.isa) if file in includes(source)]
        names = [object_of(mutant.isa, str(source.relative_to(root))) for source in users]
        objects = [self.objects / name for name in names if (self.objects / name).exists()]
        if not objects:
            return "STALE", f"no source of {mutant.isa} includes {mutant.file}"
        kept = {o: o.read_bytes() for o in objects}
        file.write_text(mutated)
        try:
            built = self.build([o.name for o in objects])
            if built.returncode != 0:
                return "DOES NOT COMPILE", built.stderr.strip().splitlines()[0]
            done = self.run("--isa", mutant.isa, "--part", mutant.part)
        except subprocess.TimeoutExpired:
            return "killed", "no end"
        finally:
            file.write_text(original)
            for o, data in kept.items():
                o.write_bytes(data)
        if done.returncode == 0:
            return "SURVIVED", done.stdout.strip().splitlines()[-1]
        if done.returncode == 2:
            return "NOT RUN", done.stdout.strip()
        text = re.search(r"FAIL .*|AddressSanitizer: [a-z-]+", done.stdout + done.stderr)
        return "killed", text[0] if text else f"exit status {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation tests of the x86-64 kernels.")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose file, set, part or name holds this")
    wanted = parser.parse_args().only
    if platform.machine() not in ("x86_64", "AMD64"):
        print("the mutants are of x86-64 kernels: run this on such a machine")
        return 1
    mutants = read_mutants((HERE / "mutants.txt").read_text())
    chosen = [m for m in mutants if wanted in f"{m.file} {m.isa} {m.part} {m.name}"]
    if not chosen:
        print(f"no mutant holds '{wanted}'")
        return 1
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder))
        built = place.build([])
        if built.returncode != 0:
            print(built.stderr)
            return 1
        for isa, part in sorted({(m.isa, m.part) for m in chosen}):
            done = place.run("--isa", isa, "--part", part)
            if done.returncode == 1:
                print(f"the unchanged kernels fail already ({isa}, {part}):\n{done.stdout}{done.stderr}")
                return 1
        for mutant in chosen:
            start = time.monotonic()
            outcome, text = place.try_mutant(mutant)
            counts[outcome] = counts.get(outcome, 0) + 1
            where = f"{mutant.file} ({mutant.isa})"
            took = time.monotonic() - start
            print(f"{outcome:<9} {where:<40} {mutant.name:<42} {took:5.1f} s  {text[:90]}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    return 0 if set(counts) == {"killed"} else 1


if __name__ == "__main__":
    sys.exit(main())
