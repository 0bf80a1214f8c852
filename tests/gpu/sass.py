"""What a cubin tells without a GPU: resources of each kernel, machine code, its hot loop, and how many blocks fit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# Of one multiprocessor: registers, bytes of shared memory, of which a block can have so many, warps, and blocks.
# Source: NVIDIA, CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
LIMITS = {
    80: (65536, 164 * 1024, 163 * 1024, 64, 32),
    86: (65536, 100 * 1024, 99 * 1024, 48, 16),
    89: (65536, 100 * 1024, 99 * 1024, 48, 24),
    90: (65536, 228 * 1024, 227 * 1024, 64, 32),
}
TENSOR = re.compile(r"[A-Z]*MMA\b")  # IMMA, HMMA, IGMMA, HGMMA, DMMA
_SHARED_OF_A_BLOCK = 1024  # what the system keeps for itself
_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_CODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Line:
    """One machine instruction: ``IMMA.16832.S8.S8`` and the text of its operands."""

    address: int
    opcode: str
    operands: str


@dataclass(frozen=True)
class Function:
    """One kernel of a cubin. Bytes of stack and of local memory are those of one thread."""

    name: str
    registers: int
    stack: int
    shared: int
    local: int
    code: tuple[Line, ...]

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches a regular expression from its start."""
        return sum(bool(re.match(pattern, line.opcode)) for line in self.code)

    @property
    def local_accesses(self) -> int:
        """Loads and stores of local memory: spilled registers and indexed arrays."""
        return self.count(r"(LDL|STL)\b")

    @cached_property
    def loops(self) -> list[Loop]:
        """The code between each backward branch and its target."""
        found = []
        for line in self.code:
            target = re.search(r"0x([0-9a-f]+)", line.operands) if line.opcode.startswith("BRA") else None
            if target and (start := int(target.group(1), 16)) < line.address:
                found.append(Loop(tuple(one for one in self.code if start <= one.address <= line.address)))
        return found

    def hot_loop(self, pattern: str = TENSOR.pattern) -> Loop | None:
        """Of the innermost loops that have instructions of a pattern, the one with the most of them."""
        holds = [loop for loop in self.loops if loop.count(pattern)]
        inner = [loop for loop in holds if not any(loop.contains(other) for other in holds)]
        return max(inner, key=lambda loop: loop.count(pattern), default=None)

    @property
    def instructions_per_mma(self) -> float | None:
        """Instructions of the hot loop for each of its tensor instructions; None: no loop has any."""
        loop = self.hot_loop()
        return len(loop.code) / loop.count(TENSOR.pattern) if loop else None

    def blocks(self, arch: int, threads: int, dynamic_shared: int = 0) -> int:
        """Blocks that a multiprocessor holds at once; 0: not one."""
        registers, shared, most_of_a_block, warps, blocks = LIMITS[arch]
        needed = self.shared + dynamic_shared
        if needed > most_of_a_block:
            return 0
        warps_of_a_block = -(-threads // 32)
        # Registers come in units of 256 a warp, and warps are spread over four partitions.
        of_a_warp = -(-self.registers * 32 // 256) * 256
        return min(
            registers // 4 // of_a_warp * 4 // warps_of_a_block,
            shared // (-(-(needed + _SHARED_OF_A_BLOCK) // 128) * 128),
            warps // warps_of_a_block,
            blocks,
        )


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop, in order."""

    code: tuple[Line, ...]

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches a regular expression from its start."""
        return sum(bool(re.match(pattern, line.opcode)) for line in self.code)

    def contains(self, other: Loop) -> bool:
        """Does it hold another loop, and more?"""
        first, last = self.code[0].address, self.code[-1].address
        return self.code != other.code and first <= other.code[0].address and other.code[-1].address <= last

    @property
    def mix(self) -> Counter[str]:
        """How often each opcode occurs, without its modifiers."""
        return Counter(line.opcode.partition(".")[0] for line in self.code)


def tool(name: str) -> Path | None:
    """One of NVIDIA's binary tools: from a package (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm), Triton's, or PATH."""
    for entry in sys.path:
        for folder in (*sorted(Path(entry or ".").glob("nvidia/*/bin")), Path(entry) / "triton/backends/nvidia/bin"):
            if (folder / name).is_file():
                return folder / name
    found = shutil.which(name)
    return Path(found) if found else None


def missing() -> str | None:
    """Why cubins can't be read here; None: they can."""
    for name in ("cuobjdump", "nvdisasm"):
        if tool(name) is None:
            return f"{name} isn't here: pip install nvidia-cuda-{name}"
    return None


def functions(cubin: bytes) -> dict[str, Function]:
    """The kernels of a cubin by name.

    Raises:
        RuntimeError: the tools are missing, or don't understand it.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = {name: [int(n) for n in numbers] for name, *numbers in _USAGE.findall(_say("-res-usage", file.name))}
        pieces = _FUNCTION.split(_say("-sass", file.name))
    code = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    found = {}
    for name, (registers, stack, shared, local) in usage.items():
        lines = tuple(Line(int(at, 16), opcode, rest.strip()) for at, opcode, rest in _CODE.findall(code[name]))
        found[name] = Function(name, registers, stack, shared, local, lines)
    return found


def _say(option: str, path: str) -> str:
    if reason := missing():
        raise RuntimeError(reason)
    cuobjdump, nvdisasm = tool("cuobjdump"), tool("nvdisasm")
    assert cuobjdump and nvdisasm
    environment = {"PATH": f"{nvdisasm.parent}:/usr/bin:/bin"}
    result = subprocess.run([cuobjdump, option, path], capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"cuobjdump {option}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def problems(
    function: Function,
    *,
    registers: int = 255,
    instructions_per_mma: float | None = None,
    expected: str | None = None,
    forbidden: str | None = None,
) -> list[str]:
    """What keeps a kernel from being shipped, in words; stack and local memory always do.

    Args:
        registers: the most of a thread.
        instructions_per_mma: the most of the hot loop for each tensor instruction; None: there need be none.
        expected: pattern of an opcode that the hot loop has to have; without tensor instructions, the kernel.
        forbidden: pattern of opcodes that it must not have.
    """
    found = []
    if function.stack or function.local or function.local_accesses:
        local = f"{function.local} of local memory, {function.local_accesses} accesses of it"
        found.append(f"{function.stack} bytes of stack, {local}")
    if function.registers > registers:
        found.append(f"{function.registers} registers, at most {registers}")
    each = function.instructions_per_mma
    if instructions_per_mma is not None and (each is None or each > instructions_per_mma):
        found.append(
            f"{each and round(each, 2)} instructions for each tensor instruction, at most {instructions_per_mma}"
        )
    hot = function.hot_loop() or function
    if expected and not hot.count(expected):
        found.append(f"no instruction {expected}")
    if forbidden and (count := hot.count(forbidden)):
        found.append(f"{count} instructions {forbidden}")
    return [f"{function.name}: {problem}" for problem in found]
