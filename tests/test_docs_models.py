"""docs/models.md lists every class that the library knows."""

from __future__ import annotations

import re
from pathlib import Path

from kdnative.models import hf_families, hf_layers, vision_layers

PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def test_every_known_class_is_listed():
    listed = set(re.findall(r"`([\w.]+)`", PAGE.read_text()))
    vision = {f"{module}.{name}" for module, name in vision_layers.READERS}
    ends = {full for full in vision if any(full.endswith(entry) for entry in listed)}
    assert set(hf_families.READERS) | set(hf_layers.READERS) <= listed
    assert ends == vision
    layers = {name for name in listed if re.fullmatch(r"[A-Z]\w+(Layer|Model)", name)}
    own = {"nn.TransformerEncoderLayer"}
    assert layers - own - set(hf_families.READERS) - set(hf_layers.READERS) == set()
