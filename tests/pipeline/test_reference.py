"""The reference of keys: that docs/recipes.md has it, that it has every key, and how values are put in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from kdnative.pipeline.reference import BEGIN, END, allowed, reference, with_reference
from kdnative.pipeline.sections import Section
from kdnative.pipeline.stages import recipe_class

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def test_the_page_is_up_to_date():
    page = PAGE.read_text(encoding="utf-8")
    assert with_reference(page) == page, "run: make recipe-keys"


def sections(model, found=None):
    found = {} if found is None else found
    for field in model.model_fields.values():
        for member in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(member, type) and issubclass(member, Section) and member not in found:
                found[member] = None
                sections(member, found)
    return found


def test_every_key_has_a_row_and_a_meaning():
    text = reference()
    rows = {line.split("`")[1]: line for line in text.split("\n") if line.startswith("| `")}
    for section in sections(recipe_class()):
        assert set(section.model_fields) <= set(rows)
    for key, row in rows.items():
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 4 and len(cells[3]) > 10 and cells[3].endswith("."), f"{key} needs a sentence: {row}"


def test_a_section_of_another_one_and_an_inherited_default():
    text = reference()
    prune = text[text.index("### compress_teacher.prune, prune\n") :].split("\n### ")[0]
    assert "| `epochs` | `2` | whole number from 0 |" in prune and "| `lr` |" not in prune
    assert "[distil](#distil)" in prune and "`lr`" in text


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, ["whole number"]),
        (Annotated[float, Field(ge=0, lt=1)], ["number from 0, below 1"]),
        (Annotated[Annotated[int, Field(ge=2)], Field(ge=4)], ["whole number from 4"]),
        (None | Annotated[int, Field(ge=1)] | list[int], ["whole number from 1", "list of whole numbers", "null"]),
        (tuple[float, float], ["list of 2 numbers"]),
        (Literal["a", 8, True], ["`a`", "`8`", "`true`"]),
        (dict[str, str | None], ["table of text: (text or null)"]),
    ],
)
def test_values_in_words(annotation, words):
    assert allowed(annotation) == words


def test_a_page_without_marks():
    with pytest.raises(ValueError, match="needs the lines"):
        with_reference(f"{END} {BEGIN}")
