"""docs/models.md lists every class that the library knows."""

from __future__ import annotations

import re
from pathlib import Path

from kdnative.models.families import TABLE

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_every_known_class_is_listed():
    listed = set(re.findall(r"`([\w.]+)`", PAGE.read_text()))
    theirs = [row for row in TABLE if row.origin.startswith("transformers.")]
    classes = {name for row in theirs for name in (*row.models, *(row.layers if row.alone else ()))}
    others = {f"{row.origin}.{name}" for row in TABLE if row not in theirs and row.alone for name in row.layers}
    ends = {full for full in others if any(full.endswith(entry) for entry in listed)}
    assert classes <= listed
    assert ends == others
    layers = {name for name in listed if re.fullmatch(r"[A-Z]\w+(Layer|Model)", name)}
    assert layers - classes == set()
