"""Blocks of code in a page of the documentation, and checks of those that are not Python."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import yaml

from kdnative import cli
from kdnative.pipeline import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
NOTE = re.compile(r"<!-- *(?P<key>not run|needs|given|really): *(?P<value>[^>]+?) *-->\s*$")
TRAINED = ("train_teacher", "train_baseline", "distil", "prune", "recover")
QUICKLY = [
    *(f"--set=benchmark.{key}" for key in ("repeats=5", "grid_repeats=1", "grid_batches=[1]", "grid_tokens=[16]")),
    *(f"--set={stage}.max_steps=1" for stage in TRAINED),
]
SHELL, TEXT = ("sh", "bash", "shell", ""), ("text", "csv", "json", "html")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: as the fence names it; "" where it names none.
        line: of the first line of code, from 1.
        notes: what HTML comments before the fence say: "not run" (why it can't be), "needs" (a package, without which
            it is left out), "given" (names that the text around it speaks of and no code defines).
    """

    page: Path
    language: str
    code: str
    line: int
    notes: dict[str, str]

    @property
    def file(self) -> str | None:
        """The name in a first line such as ``# app.py``: readers put the block into that file."""
        found = re.match(r"# ([\w-]+\.(py|yaml))\n", self.code)
        return found and found[1]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in their order; those of plain text (output, folders) are none."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        notes, before = {}, text[: match.start()]
        while note := NOTE.search(before):
            notes[note["key"]] = note["value"]
            before = before[: note.start()]
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        if match["language"] not in TEXT:
            found.append(Block(page, match["language"], code, text.count("\n", 0, match.start("code")) + 1, notes))
    return found


def load_yaml(code: str, folder: Path) -> None:
    """A recipe, or some sections of one. Raises what is wrong with it."""
    content = yaml.safe_load(code)
    if not {"name", "data", "teacher"} <= content.keys():
        whole = {"name": "part", "data": {"source": "reviews.csv"}, "teacher": {"source": "package:minilm-l6"}}
        whole |= content
        code = yaml.safe_dump(whole)
    path = folder / "block.yaml"
    path.write_text(code)
    load_recipe(path)


def check_shell(code: str, really: bool = False) -> None:
    """Every command of a block, one a line: run where it is quick, else read as the real command would read it.

    With `really` recipes are run, with few steps. Two spaces and more begin an explanation.

    Raises:
        AssertionError: a command would fail, or is not known here.
    """
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(re.split(r"(?<=\S)\s{2,}", line)[0], comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if not words:
            continue
        check = COMMANDS.get(words[0], _path if "/" in words[0] else None)
        assert check, f"`{line.strip()}`: nothing here checks {words[0]}; mark the block <!-- not run: the reason -->"
        check([*words[1:], "--quiet", *QUICKLY] if really else words if check is _path else words[1:])


def _kdnative(arguments: list[str]) -> None:
    if arguments[:1] == ["bench"] and len(arguments) > 1 and "--help" not in arguments:
        _bench(arguments[1], arguments[2:])
        return
    if "--help" in arguments or "--version" in arguments:
        assert _quietly(cli.main, arguments) == 0
        return
    parsed = _parsed(cli._parser().parse_args, arguments)
    if arguments[0] in ("doctor", "inspect", "new") or "--quiet" in arguments:
        assert _quietly(cli.main, arguments) == 0
    elif arguments[0] == "run" and not Path(parsed.recipe).is_file():  # one of the repository
        load_recipe(ROOT / parsed.recipe, parsed.set)
    elif arguments[0] == "run":
        settings = [f"--set={setting}" for setting in parsed.set]
        assert _quietly(cli.main, ["run", parsed.recipe, "--check", *settings]) == 0


def _bench(suite: str, options: list[str]) -> None:
    """Reads the options as the suite does, and stops there."""
    import argparse

    _parsed(cli._parser().parse_args, ["bench", suite])
    module = importlib.import_module(f"kdnative.bench.{suite.replace('-', '_')}")
    parse = argparse.ArgumentParser.parse_args

    class Read(Exception):
        pass

    def parse_and_stop(parser, argv=None, namespace=None):
        parse(parser, argv, namespace)
        raise Read

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop), contextlib.suppress(Read):
        _parsed(module.main, options)


def _parsed(parse, arguments: list[str]):
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parse(arguments)
    except SystemExit as end:
        raise AssertionError(f"`{shlex.join(arguments)}`: {errors.getvalue() or end}") from None


def _quietly(run, arguments: list[str]) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run(arguments)
    assert code == 0 or arguments[0] == "doctor", errors.getvalue()
    return 0


def _make(arguments: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, equals, _ = word.partition("=")
        known = re.search(rf"^{name} [?:]?= " if equals else rf"^{name}:", text, re.MULTILINE)
        assert known or (equals and f"$({name})" in text), f"the Makefile has no {name}"


def _pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", arguments
    project = (ROOT / "pyproject.toml").read_text()
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    for word in arguments[1:]:
        for extra in (re.findall(r"\[([^\]]+)\]", word) or [""])[0].split(","):
            own = word.startswith((".", "kdnative", "'.", "src"))
            assert not (own and extra) or re.search(rf"^{extra} = ", section, re.MULTILINE), f"no extra {extra}"


def _python(arguments: list[str]) -> None:
    module = arguments[1] if arguments[0] == "-m" else None
    if module in ("pytest", "pip", "venv"):
        return
    path = ROOT / (module.replace(".", "/") + ".py" if module else arguments[0])
    assert path.is_file() or Path(arguments[0]).is_file(), f"python {' '.join(arguments)}: there is no {path}"


def _path(arguments: list[str]) -> None:
    missing = [word for word in arguments if not word.startswith("-") and not os.path.exists(ROOT / word)]
    assert not missing, f"there is no {missing}"


COMMANDS = {
    "kdnative": _kdnative, "make": _make, "pip": _pip, "python": _python, "python3": _python, "pytest": _path,
}  # fmt: skip
