"""From the text of a PTX module to kernels: parameters, registers, labels and instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from tests.gpu.ptx.numerics import SIZE, integer_bits

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?\s*((?:\.\w+[^{]*?)?)\{", re.DOTALL)
_VARIABLE = re.compile(
    r"\.(shared|global|const)\s+(?:\.attribute\([^)]*\)\s+)?(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)\s*"
    r"(?:\[\s*(\d*)\s*\])?\s*(?:=\s*(\{[^}]*\}|[^;]+))?;"
)
_INSTRUCTION = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.DOTALL)
_ADDRESS = re.compile(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_LABEL = re.compile(r"([$\w]+)\s*:(?!:)\s*")


class PtxError(Exception):
    """The text isn't understood, or the kernel does what it must not."""


@dataclass(frozen=True)
class Address:
    """``[base + offset]``; the base is a register or a symbol."""

    base: str
    offset: int


@dataclass(frozen=True)
class Vector:
    """``{a, b, ...}``."""

    items: tuple[str, ...]


Operand = str | Address | Vector


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``@!guard name operands``."""

    guard: str | None
    negated: bool
    name: str
    operands: tuple[Operand, ...]
    text: str
    parts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.name.split(".")))


@dataclass(frozen=True)
class Parameter:
    """One parameter: a scalar of a type, or ``size`` bytes of a struct (type ``b8``)."""

    name: str
    type: str
    size: int


@dataclass
class Kernel:
    """One ``.entry`` of a module."""

    name: str
    parameters: list[Parameter]
    most_threads: int | None
    exact_threads: int | None
    registers: dict[str, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0  # of the static arrays
    dynamic: dict[str, int] = field(default_factory=dict)  # the alignment of arrays without a size

    def symbols(self) -> tuple[dict[str, int], int]:
        """Where each shared array starts, and where the dynamic bytes do."""
        start = -(-self.shared_bytes // (align := max(self.dynamic.values(), default=1))) * align
        return self.shared | dict.fromkeys(self.dynamic, start), start


@dataclass
class Module:
    """What a PTX text holds: kernels, and initialized memory of the whole module."""

    target: str
    kernels: dict[str, Kernel]
    constants: dict[str, np.ndarray]

    def kernel(self, name: str | None = None) -> Kernel:
        """The kernel of that name; without a name, the only one."""
        if name is None and len(self.kernels) == 1:
            return next(iter(self.kernels.values()))
        if name not in self.kernels:
            raise PtxError(f"no kernel {name}: the module has {', '.join(self.kernels)}")
        return self.kernels[name]


def parse(text: str | bytes) -> Module:
    """Parses a module as NVRTC, nvcc or Triton write it."""
    text = text.decode() if isinstance(text, bytes) else text
    text = re.sub(r"/\*.*?\*/", " ", re.sub(r"//[^\n]*", "", text), flags=re.DOTALL)
    text = re.sub(r"(?m)^\s*\.(?:loc|file)\b[^\n]*$", "", text.rstrip("\0"))
    target = re.search(r"\.target\s+(\w+)", text)
    kernels, outside, at = {}, [], 0
    for match in _ENTRY.finditer(text):
        if match.start() < at:
            continue
        outside.append(text[at : match.start()])
        at = _end_of_scope(text, match.end())
        kernel = _kernel(match, text[match.end() : at - 1])
        kernels[kernel.name] = kernel
    outside.append(text[at:])
    rest = "\n".join(outside)
    constants = {}
    for space, align, kind, name, count, initial in _VARIABLE.findall(rest):
        if space == "shared":
            for kernel in kernels.values():
                _add_shared(kernel, name, kind, align, count)
        else:
            constants[name] = _initial(kind, count, initial)
    return Module(target.group(1) if target else "", kernels, constants)


def _end_of_scope(text: str, at: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return brace.end()
    raise PtxError("a brace is never closed")


def _kernel(match: re.Match[str], body: str) -> Kernel:
    name, parameters, directives = match.groups()
    threads = {}
    for which, numbers in re.findall(r"\.(maxntid|reqntid)\s+([\d,\s]+)", directives):
        threads[which] = int(np.prod([int(number) for number in numbers.split(",") if number.strip()]))
    found = [_parameter(text) for text in (parameters or "").split(",") if text.strip()]
    kernel = Kernel(name, found, threads.get("maxntid"), threads.get("reqntid"))
    for space, align, kind, variable, count, _ in _VARIABLE.findall(body):
        if space != "shared":
            raise PtxError(f"{name}: a variable {variable} in space {space} inside a kernel")
        _add_shared(kernel, variable, kind, align, count)
    for statement in _statements(_VARIABLE.sub("", body)):
        _add(kernel, statement)
    kernel.labels.setdefault("", len(kernel.code))
    return kernel


def _parameter(text: str) -> Parameter:
    kind = next(word for word in re.findall(r"\.(\w+)", text) if word in SIZE)
    name, count = re.search(r"([\w$]+)\s*(?:\[\s*(\d+)\s*\])?\s*$", text.strip()).groups()
    return Parameter(name, kind, SIZE[kind] * int(count or 1))


def _add_shared(kernel: Kernel, name: str, kind: str, align: str, count: str) -> None:
    """Static arrays lie one after the other; ``.extern`` ones, without a size, all start behind them."""
    size, align_to = SIZE[kind] * int(count or 0), int(align or SIZE[kind])
    start = -(-kernel.shared_bytes // align_to) * align_to
    if size:
        kernel.shared[name], kernel.shared_bytes = start, start + size
    else:
        kernel.dynamic[name] = align_to


def _initial(kind: str, count: str, initial: str) -> np.ndarray:
    size = SIZE[kind]
    values = [integer_bits(word) for word in re.split(r"[,{}\s]+", initial) if word]
    data = b"".join((value % (1 << 8 * size)).to_bytes(size, "little") for value in values)
    return np.frombuffer(data.ljust(size * int(count or 1), b"\0"), np.uint8).copy()


def _statements(body: str) -> list[str]:
    """Statements, without the braces of scopes: those of vectors stay."""
    out, start, depth = [], 0, 0
    for match in re.compile(r"[{};]").finditer(body):
        mark = match.group()
        begins = not re.sub(r"^(?:\s*[$\w]+\s*:(?!:))*", "", body[start : match.start()]).strip()
        if mark == "{" and (depth or not begins):
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
        elif mark in "{}":  # a scope
            if not begins:
                raise PtxError(f"a statement without its end: {body[start : match.start()].strip()}")
            out.append(body[start : match.start()])
            start = match.end()
        elif mark == ";" and not depth:
            out.append(body[start : match.start()])
            start = match.end()
    out.append(body[start:])
    return out


def _add(kernel: Kernel, statement: str) -> None:
    statement = " ".join(statement.split())
    while label := _LABEL.match(statement):
        kernel.labels[label.group(1)] = len(kernel.code)
        statement = statement[label.end() :]
    if not statement or statement.startswith(".pragma"):
        return
    if statement.startswith(".reg"):
        kind, names = statement[4:].split(maxsplit=1)
        for name in names.split(","):
            prefix, _, count = name.strip().rstrip(">").partition("<")
            for register in [f"{prefix}{n}" for n in range(int(count))] if count else [prefix]:
                if kernel.registers.setdefault(register, kind[1:]) != kind[1:]:
                    raise PtxError(f"{kernel.name}: register {register} of two types")
        return
    match = _INSTRUCTION.match(statement)
    if statement.startswith(".") or not match:
        raise PtxError(f"{kernel.name}: unknown statement: {statement}")
    negated, guard, name, operands = match.groups()
    kernel.code.append(Instruction(guard, negated == "!", name, _operands(operands), statement))


def _operands(text: str) -> tuple[Operand, ...]:
    pieces, depth, start = [], 0, 0
    for at, mark in enumerate(text):
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(mark, 0)
        if mark == "," and not depth:
            pieces.append(text[start:at])
            start = at + 1
    pieces.append(text[start:])
    return tuple(_operand(piece.strip()) for piece in pieces if piece.strip())


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return Vector(tuple(item.strip() for item in text[1:-1].split(",")))
    if text.startswith("["):
        match = _ADDRESS.fullmatch(text)
        if not match:
            raise PtxError(f"unknown address: {text}")
        return Address(match.group(1), int(match.group(2) or "0", 0))
    return text
