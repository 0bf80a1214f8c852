"""Every CUDA kernel in a table, and bounds of their time: ``python -m tests.gpu.kernel_table docs/gpu_kernels.md``

Registers, stack, local memory and the hot loop come from cubins that NVRTC makes; banks, sectors and bytes from the
emulator's runs of aligned shapes (``FAMILY_test counters``). The page is filled between ``<!-- gpu: NAME -->`` and
``<!-- end -->``. Nothing here is measured on a GPU.
"""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.gpu import building, compiling, sass

ARCHITECTURES = (80, 86, 89, 90)
_NAME = re.compile(r"(.+)_(f32|bf16|f16)")
_BLOCK = re.compile(r"(<!-- gpu: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass
class Counted:
    """One kernel, all of its types together: how it is launched, and what the emulator counted; the worst of each."""

    threads: int = 0
    shared: int = 0
    banks: float = 1.0
    sectors: float = 1.0
    bytes: float = 1.0
    loop_cycles: float = 0.0  # of banks, for the copies and fragments of one block
    case: tuple[int, ...] = ()


@dataclass
class Kernel:
    """One row: functions of all types by architecture, and what was counted (None: nothing runs it alone)."""

    family: str
    name: str
    functions: dict[int, list[sass.Function]] = field(default_factory=dict)
    counted: Counted | None = None

    def worst(self, what) -> dict[int, float]:
        """The most of something, by architecture."""
        return {arch: max(what(function) for function in found) for arch, found in self.functions.items()}

    def blocks(self) -> dict[int, int]:
        """Blocks on a multiprocessor, of the type that fits least often."""
        assert self.counted is not None
        threads, shared = self.counted.threads, self.counted.shared
        return {a: min(f.blocks(a, threads, shared) for f in found) for a, found in self.functions.items()}

    @property
    def stack(self) -> int:
        """Bytes of stack and of local memory, the most: 0 in all that is shipped."""
        return max(f.stack + f.local for found in self.functions.values() for f in found)

    @property
    def local_accesses(self) -> int:
        """Loads and stores of these, the most: 0 in all that is shipped."""
        return max(f.local_accesses for found in self.functions.values() for f in found)

    def instructions_per_mma(self) -> dict[int, float]:
        """The most of the hot loops; empty without tensor instructions."""
        each = {a: [f.instructions_per_mma for f in found] for a, found in self.functions.items()}
        return {a: max(found) for a, found in each.items() if None not in found}


def families() -> list[str]:
    """The families of kernels, by their sources."""
    return sorted(path.stem for path in (building.ROOT / "csrc" / "cuda").glob("*.cu"))


@functools.cache
def kernels(family: str) -> dict[str, Kernel]:
    """The kernels of a family, by their names without the type."""
    found: dict[str, Kernel] = {}
    for arch in ARCHITECTURES:
        for name, function in sass.functions(compiling.compile_family(family, f"sm_{arch}")).items():
            short = _short(name)
            kernel = found.setdefault(short, Kernel(family, short))
            kernel.functions.setdefault(arch, []).append(function)
    for name, counted in _counted(family).items():
        found[name].counted = counted
    return found


def _short(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match.group(1) if match else name


def _counted(family: str) -> dict[str, Counted]:
    found: dict[str, Counted] = {}
    program = building.ROOT / "tests" / "gpu" / f"{family}_test.cpp"
    if not program.is_file():
        return found
    for line in building.run(building.build(program), "counters"):
        entry = found.setdefault(_short(line["kernel"]), Counted())
        launches = [launch for name, launch in line["launches"].items() if _short(name) == _short(line["kernel"])]
        entry.threads = max(launch["threads"] for launch in launches)
        entry.shared = max(launch["shared"] for launch in launches)
        entry.banks = max(entry.banks, building.worst_ratio(line, "shared"))
        entry.sectors = max(entry.sectors, building.worst_ratio(line, "global"))
        entry.bytes = max(entry.bytes, building.bytes_ratio(line))
        blocks = sum(launch["blocks"] for launch in line["launches"].values())
        loop = [cost["cycles"] for name, cost in line["shared"].items() if name.startswith(("cp.async", "ldmatrix"))]
        entry.loop_cycles = sum(loop) / blocks
        entry.case = tuple(int(number) for number in re.findall(r"\d+", line["case"]))
    return found


def table(family: str) -> str:
    """The kernels of a family as Markdown."""
    head = ["kernel", "threads", "shared KiB", "registers", "blocks", "instructions / mma", "stack"]
    head += ["local", "banks", "sectors", "bytes"]
    rows = [head, ["---"] * len(head)]
    for name, kernel in sorted(kernels(family).items(), key=lambda pair: _by_number(pair[0])):
        counted = kernel.counted
        row = [f"`{name}`"]
        row += [str(counted.threads), f"{counted.shared / 1024:.3g}"] if counted else ["", ""]
        row += [_each(kernel.worst(lambda function: function.registers), "d")]
        row += [_each(kernel.blocks(), "d") if counted else "", _each(kernel.instructions_per_mma(), ".1f")]
        row += [str(kernel.stack), str(kernel.local_accesses)]
        row += [f"{value:.2f}" for value in (counted.banks, counted.sectors, counted.bytes)] if counted else [""] * 3
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def triton_table() -> str:
    """The Triton kernels in the tile for most rows, each in the form that takes most registers, as Markdown."""
    from tests.gpu.triton_targets import cases

    head = ["kernel", "tile", "target", "threads", "shared KiB", "registers", "blocks", "instructions / mma", "stack"]
    rows = [[*head, "local"], ["---"] * (len(head) + 1)]
    for case in cases():
        if not case.largest:
            continue
        compiled = case.compile()
        (found,) = sass.functions(compiled.asm["cubin"]).values()
        shared, each = compiled.metadata.shared, found.instructions_per_mma
        row = [f"`{case.name}`", case.detail, f"sm_{case.capability}", str(case.threads), f"{shared / 1024:.3g}"]
        row += [str(found.registers), str(found.blocks(case.capability, case.threads, shared))]
        row += [f"{each:.1f}" if each else "", str(found.stack + found.local), str(found.local_accesses)]
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Orders names with numbers in them by these."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _each(values: dict[int, float], how: str) -> str:
    """One value where all architectures have the same, else one for each."""
    texts = [format(value, how) for value in values.values()]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    from tests.gpu import time_bound

    def content(match: re.Match[str]) -> str:
        name = match.group(2)
        if name == "triton":
            text = triton_table()
        else:
            text = time_bound.table(name.partition(":")[2]) if name.startswith("bound:") else table(name)
        return f"{match.group(1)}\n{text}\n{match.group(3)}"

    return _BLOCK.sub(content, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?", help="the page to fill; without it, tables are printed")
    path = parser.parse_args().page
    if path is None:
        for family in families():
            print(f"{family}\n\n{table(family)}")
    else:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
