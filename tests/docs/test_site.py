"""The documentation site: it builds without a warning, names all that is public, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import kdnative as kd
from tests.report.browser import HOW_TO_GET, Browser, find_chromium

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


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


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


@pytest.fixture(scope="module")
def address(site):
    """Of the site on a server: from a folder its search does not run."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_in_a_browser(address):
    """Light, dark and searched: no error, and no request to anybody else."""
    if os.environ.get("KDNATIVE_NO_BROWSER") == "1":
        pytest.skip("KDNATIVE_NO_BROWSER=1")
    program = find_chromium()
    assert program, HOW_TO_GET
    with Browser(program) as page:
        background = {}
        for scheme in ("light", "dark"):
            page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            page.open(address + "first_student.html")
            color = page.evaluate("getComputedStyle(document.body).backgroundColor")
            background[scheme] = max(map(int, re.findall(r"\d+", color)[:3]))
            assert page.evaluate("document.querySelector('h1').innerText").startswith("Your first student")
        assert background["dark"] < 80 < 200 < background["light"]
        page.open(address + "index.html?q=distillation")
        found = page.evaluate(
            """new Promise((done) => {
              const look = () => document.querySelectorAll('.md-search-result__link').length;
              const start = Date.now();
              const timer = setInterval(() => {
                if (look() || Date.now() - start > 30000) { clearInterval(timer); done(look()); }
              }, 100);
            })"""
        )
        assert found > 0
        assert page.errors() == []
        assert page.requests() and all(url.startswith((address, "data:", "blob:")) for url in page.requests())


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
