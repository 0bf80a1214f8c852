"""Writes the table of recipe keys into docs/recipes.md; `make recipe-keys` calls it."""

from __future__ import annotations

from pathlib import Path

from kdnative.pipeline.reference import with_reference

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
