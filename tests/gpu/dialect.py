"""Reads the dialect (``csrc/cuda/gpu``), its emulated half, and kernels as text: what the lint of kernels needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FUNCTION = re.compile(
    r"(?P<comment>(?:^//[^\n]*\n)*)"
    r"(?P<template>^template <[^\n]*>\n)?"
    r"^(?:GPU_FN |inline )?(?!return|using|namespace|struct|constexpr|static|typedef)[\w:<>]+ (?P<name>\w+)"
    r"\((?P<parameters>[^{;]*?)\) \{(?P<body>.*?)(?:^\}|(?<=\})$|\}$)",
    re.M | re.S,
)
CONTROL = {"if", "for", "while", "switch", "return"}


@dataclass(frozen=True)
class Function:
    """A function of either half: its name, parameters such as "int mask", the comment above, and the text inside."""

    name: str
    parameters: tuple[str, ...]
    comment: str
    body: str


def functions(header: Path) -> list[Function]:
    """The functions of namespace gpu in a header of either half; what is the emulator's own is left out."""
    text = re.sub(r"^namespace emulator \{.*?^\}  // namespace emulator$", "", header.read_text(), flags=re.M | re.S)
    found = []
    for match in FUNCTION.finditer(text):
        parameters = [" ".join(p.split("=")[0].split()) for p in split(match["parameters"])]
        kept = tuple(p for p in parameters if p and "Where where" not in p)
        if match["name"] not in CONTROL:
            found.append(Function(match["name"], kept, match["comment"], match["body"]))
    return found


def split(parameters: str) -> list[str]:
    """What commas part that are not within brackets."""
    return re.split(r",\s*(?![^()<>]*[)>])", parameters)


@dataclass(frozen=True)
class Assembly:
    """An asm statement: ``volatile`` or not, its text, how many operands it has, and what it clobbers."""

    volatile: bool
    text: str
    operands: int
    clobbers: tuple[str, ...]


def assembly(body: str) -> list[Assembly]:
    """The asm statements in the body of a function."""
    found = []
    for match in re.finditer(r"\basm( volatile)?\((.*?)\);(?=\s)", body, re.S):
        statement = match[2]
        text = "".join(re.findall(r'"([^"]*)"', re.split(r'"\s*:', statement)[0] + '"'))
        rest = statement[len(re.split(r'"\s*:', statement)[0]) :]
        operands = len(re.findall(r'"[=+]?[a-z]"\s*\(', rest))
        clobbers = tuple(re.findall(r'"(\w+)"(?!\s*\()', rest))
        found.append(Assembly(bool(match[1]), text, operands, clobbers))
    return found


def without_comments(text: str) -> str:
    """C++ without comments and without the contents of strings; lines stay where they are."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', re.sub(r"//[^\n]*", "", text))


FORBIDDEN = {
    r"\basm\b": "inline assembly: an instruction is a function of the dialect (csrc/cuda/gpu), in both halves",
    r"\b__\w+": "a name of CUDA's or of the compiler's: kernels use the dialect's",
    r"\b(threadIdx|blockIdx|blockDim|gridDim|warpSize)\b": "a variable of CUDA's: use gpu::thread(), gpu::block_x()",
    r"\bcuda\w*|\bnv_\w+|\bu?int[234]\b|\bfloat[234]\b": "a type or function of CUDA's",
    r"#include\s*<": "a header of a library: NVRTC has none",
    r"\b(malloc|free|new|delete|printf|memcpy|memset|std::)": "something of a library",
}


def complaints(text: str) -> list[str]:
    """What a kernel's source must not do, each with its line.

    A pointer is any name that is declared as one somewhere in the file; memory behind it is reached by functions of the
    dialect alone, which see every access. Results are returned by references.
    """
    code = without_comments(text)
    found = []

    def complain(at: int, what: str) -> None:
        line = code.count("\n", 0, at) + 1
        found.append((line, f"line {line}: {code.splitlines()[line - 1].strip()!r}: {what}"))

    for pattern, what in FORBIDDEN.items():
        for match in re.finditer(pattern, re.sub(r"\b__(FILE|LINE)__\b", "", code)):
            complain(match.start(), what)
    # The star of a declaration touches the type; an array of pointers is indexed as such.
    for name in set(re.findall(r"[\w>]\* (?:const )?(\w+)(?=\s*[,;=){])", code)):
        before = r"(?:^|[=(,;{}&|!?:<+/%\-]|\breturn)\s*"
        for pattern in (rf"\b{name}\s*\[", rf"\b{name}\s*->", rf"{before}\*\s*{name}\b"):
            for match in re.finditer(pattern, code, re.M):
                complain(match.end() - 1, f"reaches memory behind the pointer {name} without a function of the dialect")
    return [text for _, text in sorted(set(found))]
