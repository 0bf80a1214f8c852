"""The documentation site: it builds without a warning, names all that is public, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import kdnative as kd

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason='the site needs: pip install "kdnative[docs]"')
    pytest.importorskip("mkdocstrings", reason='the site needs: pip install "kdnative[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    return folder


class _Loads(HTMLParser):
    """What a browser fetches to show a page, links that a reader has to click not counted."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag in ("script", "img", "iframe", "source") and named.get("src"):
            self.found.append(named["src"])
        if tag == "link" and named.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(named.get("href") or "")


def test_every_page_loads_only_what_the_site_holds(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text())
        assert loads.found
        for target in loads.found:
            assert not re.match(r"(https?:)?//", target), f"{page.name} loads {target}"
            if page.name != "404.html" and not target.startswith("data:"):  # whose paths begin at the server's root
                assert (page.parent / target.split("?")[0].split("#")[0]).exists(), f"{page.name} lacks {target}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", sheet.read_text()), f"{sheet.name} loads from elsewhere"


def test_every_public_name_is_in_the_reference(site):
    for package in _packages():
        page = (site / "api" / f"{package}.html").read_text()
        names = sys.modules[f"kdnative.{package}"].__all__
        missing = [name for name in names if not re.search(rf'id="kdnative\.{package}\.(\w+\.)?{name}"', page)]
        documented = [name for name in missing if _has_docstring(sys.modules[f"kdnative.{package}"], name)]
        assert not documented, f"api/{package}.html lacks {', '.join(documented)}"


def test_the_overview_names_everything_at_the_top():
    page = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"`kd\.(\w+)`", page))
    assert named == set(kd.__all__)
    assert set(re.findall(r"\(api/(\w+)\.md\)", page)) == set(_packages())


def _packages():
    text = (ROOT / "tools" / "docs_site.py").read_text()
    names = re.findall(r'"(\w+)"', re.search(r"PACKAGES = \((.*?)\n\)", text, re.DOTALL)[1])
    for name in names:
        __import__(f"kdnative.{name}")
    return names


def _has_docstring(module, name):
    value = getattr(module, name)
    own = getattr(value, "__module__", "")
    return isinstance(own, str) and own.startswith("kdnative") and bool(getattr(value, "__doc__", None))
