"""The import rules of docs/architecture.md: downwards only, no circles, and a light front door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kdnative

PACKAGE = Path(kdnative.__file__).parent
DOCS = Path(__file__).parents[1] / "docs" / "architecture.md"


@dataclass(frozen=True)
class Import:
    """One import of a module of the package by another, both by their full names."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def levels(docs: str) -> dict[str, int]:
    """The numbered list under "Levels": each package or top-level module and its number, lowest first."""
    section = docs.partition("\n## Levels\n")[2].partition("\n## ")[0]
    found: dict[str, int] = {}
    for number, names in re.findall(r"^(\d+)\. ((?:`\w+`(?:, )?)+):", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert name not in found, f"{name} is listed twice"
            found[name] = int(number)
    return found


def sources(root: Path) -> dict[str, str]:
    """The text of every module of a package, by full name; that of a package is its ``__init__``."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(modules: Mapping[str, str], public: Mapping[str, str]) -> Iterator[Import]:
    """Every import of one of these modules by another, wherever it is written.

    Args:
        modules: source by full name.
        public: names that the package itself gives on first use, and the module that each comes from.
    """
    root = next(iter(modules)).partition(".")[0]
    for importer, source in modules.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{importer}:{node.lineno}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                package, _, last = name.rpartition(".")
                if package == root and last in public:
                    yield Import(importer, public[last], node.lineno)
                elif name.partition(".")[0] == root:
                    yield Import(importer, name if name in modules else package or name, node.lineno)


def room(module: str) -> str:
    """The package or top-level module that a module belongs to; empty for the root itself."""
    return module.split(".")[1] if "." in module else ""


def upward(found: Iterator[Import], level: Mapping[str, int]) -> list[Import]:
    """The imports that don't point to an earlier line of the list. The root's own, such as lazy names, are free."""
    free = ("", "__main__")
    between = [i for i in found if room(i.importer) not in free and room(i.importer) != room(i.imported)]
    return [i for i in between if room(i.imported) and not level[room(i.imported)] < level[room(i.importer)]]


def circle(edges: Iterator[tuple[str, str]]) -> list[str]:
    """Names that import each other, the first one again at the end; empty where there is no circle."""
    graph: dict[str, set[str]] = {}
    for importer, imported in edges:
        if importer != imported:
            graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return list(imports(sources(PACKAGE), kdnative._LAZY))


def test_the_list_names_every_package_and_top_level_module():
    rooms = {room(name) for name in sources(PACKAGE)} - {"", "__main__"}
    assert set(levels(DOCS.read_text(encoding="utf-8"))) == rooms


def test_imports_point_downwards(found):
    wrong = upward(found, levels(DOCS.read_text(encoding="utf-8")))
    assert [str(i) for i in wrong] == []


def test_no_packages_import_each_other(found):
    assert circle((room(i.importer), room(i.imported)) for i in found if room(i.importer) and room(i.imported)) == []


def test_no_modules_import_each_other(found):
    """The root is left out: its imports for type checkers name what it gives on first use."""
    assert circle((i.importer, i.imported) for i in found if room(i.importer) and room(i.imported)) == []


def test_only_the_command_line_imports_the_suites(found):
    assert [str(i) for i in found if room(i.imported) == "bench" and room(i.importer) != "bench"] == []
    suites = re.findall(r'import_module\(f?"kdnative\.bench', "".join(sources(PACKAGE).values()))
    assert len(suites) == 1 and "kdnative.bench.{" in sources(PACKAGE)["kdnative.cli"]


def test_the_front_door_is_light():
    """Only names that were asked for are loaded: no package of an extra, and no torch either."""
    code = "import sys, kdnative; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) & {"transformers", "yaml", "pydantic", "accelerate", "torch", "numpy"} == set()


def test_the_top_level_is_short():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


# What the rules would say about a package that breaks them.
PLANTED = {
    "plant": "",
    "plant.low": "",
    "plant.low.a": "def f():\n    from plant.high.b import g\n",
    "plant.low.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import plant.low.d\n",
    "plant.low.d": "from plant.low import c\n",
    "plant.high": "",
    "plant.high.b": "from plant import lazy_name\nfrom plant import low\nimport json\n",
}


def test_an_import_inside_a_function_and_a_public_name_count():
    level = {"low": 1, "high": 2}
    assert [str(i) for i in upward(imports(PLANTED, {}), level)] == ["plant.low.a:2 imports plant.high.b"]
    lazily = {**PLANTED, "plant.low.a": "from plant import lazy_name\n"}
    assert [str(i) for i in upward(imports(lazily, {"lazy_name": "plant.high.b"}), level)] == [
        "plant.low.a:1 imports plant.high.b"
    ]


def test_circles_are_found():
    found = list(imports(PLANTED, {}))
    assert set(circle((room(i.importer), room(i.imported)) for i in found if room(i.imported))) == {"low", "high"}
    inside = [(i.importer, i.imported) for i in found if i.importer.startswith("plant.low") and i.line != 2]
    assert set(circle(inside)) == {"plant.low.c", "plant.low.d"}


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match="plant.a:1: a relative import"):
        list(imports({"plant": "", "plant.a": "from . import b\n"}, {}))
