"""The table of optional packages against the package's own metadata."""

import importlib.metadata
import re

import pytest

from kdnative.extras import EXTRAS, require

DISTRIBUTIONS = {
    "PIL": "pillow",
    "auto_round": "auto-round",
    "huggingface_hub": "huggingface-hub",
    "sentence_transformers": "sentence-transformers",
    "yaml": "pyyaml",
}


def test_every_package_is_in_the_extra_that_is_named():
    declared = set()
    for line in importlib.metadata.requires("kdnative"):
        if match := re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", line):
            declared.add((match[1].lower(), match[2]))
    assert {(DISTRIBUTIONS.get(module, module), extra) for module, extra in EXTRAS.items()} <= declared
    users = {pair for pair in declared if pair[1] not in ("dev", "docs") and pair[0] != "kdnative"}
    assert {name for name, _ in users} == {DISTRIBUTIONS.get(module, module) for module in EXTRAS}


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(EXTRAS, "no_such_package_here", "bench")
    with pytest.raises(ImportError, match=r'not installed: pip install "kdnative\[bench\]"'):
        require("no_such_package_here")
    with pytest.raises(ImportError, match=r'^a table needs the package .* "kdnative\[bench\]", or draw it by hand$'):
        require("no_such_package_here", "a table", "or draw it by hand")
