"""Writes constraints.txt from the environment that runs this; `make constraints` calls it in a fresh one.

A package is pinned on the Pythons for which its version exists, and where what needs it is pinned too: an older
transformers, which Python 3.10 gets, needs an older tokenizers.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

FILE = Path(__file__).parents[1] / "constraints.txt"
HEADER = """\
# The versions that the tests last passed with. `make constraints` writes this file anew, from the newest ones; commit
# it once `make test` has passed. The set-ups of the Makefile use it, `make test-latest` does not. torch and what comes
# with it is not here: which build is right depends on the machine. Where a line has a marker, other Pythons get the
# newest version that they can have.
"""
EXTRAS = frozenset({"bench", "dev"})
PYTHONS = [f"3.{minor}.{micro}" for minor in range(10, 15) for micro in range(30)]
UNPINNED = {"pip", "setuptools", "torch", "torchvision", "triton"}


def main() -> None:
    needed_by = walk("kdnative", EXTRAS)
    pinned = sorted(name for name in needed_by if is_pinned(name, needed_by[name]))
    lines = [line(name, limits(name, pinned, needed_by)) for name in pinned]
    FILE.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{FILE.name}: {len(lines)} packages")


def walk(root: str, extras: frozenset[str]) -> dict[str, set[str]]:
    """The installed packages that ``root`` needs, and for each those that ask for it."""
    needed_by: dict[str, set[str]] = {}
    todo, seen = [(root, extras)], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for needed in map(Requirement, distribution(name).requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                child = canonicalize_name(needed.name)
                todo.append((child, frozenset(needed.extras)))
                if child != name:  # a package asks for its own extras
                    needed_by.setdefault(child, set()).add(name)
    return needed_by


def is_pinned(name: str, needed_by: set[str]) -> bool:
    """torch's own requirements are exact; of NVIDIA's packages those count that pyproject.toml names."""
    return "kdnative" in needed_by - {name} if name.startswith(("cuda-", "nvidia-")) else name not in UNPINNED


def limits(name: str, pinned: list[str], needed_by: dict[str, set[str]]) -> set[Specifier]:
    """The Pythons of a package and of all that needs it."""
    found: set[Specifier] = set()
    todo, seen = [name], set()
    while todo:
        one = todo.pop()
        if one not in seen and one in pinned:
            seen.add(one)
            found |= set(SpecifierSet(distribution(one).metadata["Requires-Python"] or ""))
            todo += needed_by[one]
    return {limit for limit in found if not all(map(limit.contains, PYTHONS))}


def line(name: str, limits: set[Specifier]) -> str:
    least = [limit for limit in limits if limit.operator == ">="]
    highest = sorted(least, key=lambda limit: Version(limit.version))[-1:]
    marker = " and ".join(map(condition, highest + sorted(limits - set(least), key=str)))
    return f"{name}=={Version(distribution(name).version).public}{marker and ' ; ' + marker}\n"


def condition(limit: Specifier) -> str:
    version = Version(limit.version.removesuffix(".*"))
    if limit.operator == ">=" and not version.micro:
        return f'python_version >= "{version.major}.{version.minor}"'
    return f'python_full_version {limit.operator} "{limit.version}"'


if __name__ == "__main__":
    main()
