"""What fuzzing found: kept as one line of JSON each, grouped by place, written down with what made it."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Found", "by_place", "of_exception", "of_log", "read"]

_TEXT = 4000
_CAUSES = (
    r"SUMMARY: (.*)",
    r"(\S+: runtime error: .*)",
    r'File ".*/(kdnative/\S+\.py)", line (\d+)',
    r'File "(.*)", line (\d+)',
)


@dataclass
class Found:
    """One finding.

    Attributes:
        number: of the input.
        kind: "exception", "audit", "memory", "hang" or "crash".
        place: file, line and what was raised; equal for findings with the same cause.
        detail: the traceback, or what the process wrote last.
    """

    number: int
    kind: str
    place: str
    detail: str
    input: str = ""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read(file: Path) -> list[Found]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Found(**json.loads(line)) for line in lines]


def by_place(found: Iterable[Found]) -> dict[str, list[Found]]:
    """Most frequent first."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(f"{one.kind}: {one.place}", []).append(one)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def of_exception(number: int, kind: str, error: BaseException) -> Found:
    """Placed by the innermost line of kdnative, and the innermost line at all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/kdnative/" in frame.filename and "/tests/" not in frame.filename]
    places = dict.fromkeys(_short(frame) for frame in (*own[-1:], *frames[-1:]))
    text = re.sub(r"\d+", "N", str(error).partition("\n")[0])[:100].encode("ascii", "backslashreplace").decode()
    detail = "".join(traceback.format_exception(error))[-_TEXT:]
    return Found(number, kind, f"{' < '.join(places)} {type(error).__name__}: {text}", _printable(detail))


def of_log(number: int, kind: str, what: str, log: str) -> Found:
    """Placed by what a sanitizer or Python's own fault handler said last."""
    for pattern in _CAUSES:
        if match := re.search(pattern, log):
            what += f" at {':'.join(match.groups())}"
            break
    return Found(number, kind, _printable(what), _printable(log[-_TEXT:]))


def _short(frame: traceback.FrameSummary) -> str:
    name = re.sub(r".*/(site-packages|lib/python[\d.]+)/", "", frame.filename)
    name = re.sub(r".*/(?=(kdnative|tests)/)", "", name)
    return f"{name}:{frame.lineno}"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
