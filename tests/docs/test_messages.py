"""Messages that docs/troubleshooting.md quotes are those of the code."""

from __future__ import annotations

import ast
import re

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def _texts():
    """Strings of kdnative, "..." standing for what is filled in, and C++ sources without the breaks of theirs."""
    for path in (ROOT / "kdnative").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in (ROOT / "csrc").rglob("*.[ch]*"):
        yield re.sub(r'", [\w.\[\]()->]+, "', "...", re.sub(r'"\s*\n\s*"', "", path.read_text()))


def test_quoted_messages_are_in_the_code():
    quoted = re.findall(r"^> (.+)$", PAGE.read_text(), re.MULTILINE)
    assert len(quoted) > 10
    everything = "\n".join(_texts())
    for message in quoted:
        for part in filter(None, (part.strip(" ,") for part in message.split("..."))):
            assert part in everything, f"{part!r} of {message!r}"
