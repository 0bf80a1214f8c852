"""Every block of code in README.md and docs/ is run or read here, or says in a comment before it why it can't be.

``<!-- not run: the reason -->`` before a block leaves it out, ``<!-- needs: PACKAGE -->`` where that is not installed,
and ``<!-- given: model, inputs -->`` gives it objects that the text speaks of (tests/docs/workshop.py).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

from kdnative import models
from kdnative.convert import registry
from kdnative.models import family
from kdnative.tasks import TASKS
from tests.docs import workshop
from tests.docs.blocks import PAGES, ROOT, SHELL, Block, blocks_of, check_shell, load_yaml

ALL = {page: blocks_of(page) for page in PAGES}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    pytest.importorskip("sentence_transformers")
    return workshop.build(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def registered(monkeypatch):
    """What a page registers is forgotten afterwards."""
    known = set(family._known)
    monkeypatch.setattr(registry, "_BY_TYPE", {kind: list(entries) for kind, entries in registry._BY_TYPE.items()})
    with mock.patch.dict(TASKS):
        yield
    for new in set(family._known) - known:
        models.unregister(new.name)


@pytest.mark.parametrize("page", [page for page in PAGES if ALL[page]], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_page(page, built, registered, tmp_path, monkeypatch):
    workshop.link(built, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDNATIVE_CACHE", str(built / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace = {"__name__": "page"}
    for block in ALL[page]:
        if "not run" in block.notes or not _is_installed(block.notes.get("needs")):
            continue
        if block.file:
            (tmp_path / block.file).write_text(block.code)
        try:
            _run(block, namespace)
        except Exception as error:
            where = f"{page.relative_to(ROOT)}, line {block.line}"
            pytest.fail(f"{where}: {type(error).__name__}: {error}", pytrace=not isinstance(error, AssertionError))


def _run(block: Block, namespace: dict) -> None:
    for name in filter(None, block.notes.get("given", "").replace(" ", "").split(",")):
        namespace[name] = workshop.given(name)
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), namespace)
    elif block.language == "yaml":
        load_yaml(block.code, Path.cwd())
    elif block.language in SHELL:
        check_shell(block.code, "really" in block.notes)
    else:
        raise AssertionError(f"nothing here reads {block.language!r}: call it text, or say <!-- not run: why -->")


def _is_installed(package: str | None) -> bool:
    return package is None or importlib.util.find_spec(package) is not None


def test_how_many(capsys):
    """Prints what became of the blocks, so that one sees how much of the documentation is proved."""
    blocks = [block for page in ALL.values() for block in page]
    run = Counter(block.language or "sh" for block in blocks if "not run" not in block.notes)
    reasons = [block for block in blocks if "not run" in block.notes]
    with capsys.disabled():
        print(f"\n{len(blocks)} blocks of code: " + ", ".join(f"{n} {name}" for name, n in sorted(run.items())), end="")
        print(f" run or read, {len(reasons)} not run")
        for block in reasons:
            print(f"  {block.page.relative_to(ROOT)}, line {block.line}: {block.notes['not run']}")
        for package in sorted({block.notes["needs"] for block in blocks if "needs" in block.notes}):
            print(f"  {package} is{'' if _is_installed(package) else ' not'} installed, which some blocks need")
    assert sum(run.values()) > len(reasons)
    assert all(len(block.notes["not run"]) > 10 for block in reasons), "a reason is a few words"


def test_that_mistakes_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = {
        "sh": [
            "kdnative run", "kdnative bench gemm --speed", "kdnative convert A", "kdnative run no.yaml", "make dmeo",
            "make demo R=1", "pip install 'kdnative[pipelines]'", "python -m tests.fuzz.walk", "wget x",
        ],
        "yaml": ["distil: {epoch: 3}", "name: a\ndata: {source: x.csv}\nteacher: {}"],
        "python": ["import kdnative as kd\nkd.convert_(1)"],
        "": ["some words"],
        "rust": ["fn main() {}"],
    }  # fmt: skip
    for language, codes in wrong.items():
        for code in codes:
            with pytest.raises((AssertionError, ValueError, TypeError)):
                _run(Block(PAGES[0], language, code, 1, {}), {})


def test_comments_before_a_block(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- not run: needs a hub -->\n<!-- given: model -->\n```sh\nx\n```\n\n```text\nb\n```\n"
                    "1. c\n\n   ```python\n   x = 1\n   ```\n")  # fmt: skip
    first, second = blocks_of(page)
    assert first.notes == {"not run": "needs a hub", "given": "model"} and first.line == 6
    assert second.code == "x = 1\n" and second.notes == {} and second.language == "python"
