"""``kdnative bench readme``: fills the tables and charts of README.md and docs/ from benchmarks/results.

``--check`` changes nothing, says what would change, and ends with 1 where something would. ``--run PATH`` first keeps
the figures of a finished run as ``benchmarks/results/runs/NAME.json``, or those of runs with several seeds as
``NAME-seeds.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdnative.bench.blocks import RESULTS, filled
from kdnative.bench.run_figures import run_figures
from kdnative.bench.seed_figures import seed_figures
from kdnative.files import replace_text
from kdnative.machine.environment import write_result


def main(argv: Sequence[str] | None = None) -> int:
    """Fills the documents, or checks them, and returns the exit code."""
    text = "Tables and charts of README.md and docs/ from the files in benchmarks/results."
    parser = argparse.ArgumentParser(prog="kdnative bench readme", description=text, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 if something would change")
    words = "keep the figures of this first: the folder of a finished run, or NAME-seeds.json of kdnative run --seeds"
    parser.add_argument("--run", type=Path, metavar="PATH", help=words)
    parser.add_argument("--root", type=Path, default=Path(), help="of the repository (default: this folder)")
    options = parser.parse_args(argv)
    if options.check and options.run:
        parser.error("--run writes a file, --check writes none: give one of them")
    if options.run:
        with_seeds = options.run.suffix == ".json"
        figures = seed_figures(options.run) if with_seeds else run_figures(options.run)
        file = options.root / RESULTS / "runs" / f"{figures['name']}{'-seeds' if with_seeds else ''}.json"
        write_result(file, figures)
        print(f"wrote {file}")
    changed = changes(options.root)
    for path, text in changed.items():
        print(f"{path}: {_difference(path, text)}")
        if not options.check:
            replace_text(path, text)
    if options.check and changed:
        print("make readme fills them", file=sys.stderr)
    return 1 if options.check and changed else 0


def changes(root: Path) -> dict[Path, str]:
    """The files that differ from what the results say, with the text that they should have.

    Raises:
        ValueError: there are no documents, or a block can't be filled.
    """
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    if not documents[0].is_file():
        raise ValueError(f"{documents[0]} is missing: run this in the repository, or name it with --root")
    found: dict[Path, str] = {}
    for document in documents:
        found |= filled(document, root)
    return {path: text for path, text in found.items() if not path.is_file() or _read(path) != text}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _difference(path: Path, text: str) -> str:
    if not path.is_file():
        return "new"
    old, new = _read(path).splitlines(), text.splitlines()
    number = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return f"changes from line {number + 1} on"


if __name__ == "__main__":
    sys.exit(main())
