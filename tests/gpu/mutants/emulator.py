"""Mistakes in the emulator itself: a check that no longer checks, a layout or a rounding that is another one."""

import subprocess
from pathlib import Path

from tests.gpu import building
from tests.gpu.test_emulator import REPORTS, wrong_report

HERE = "tests/gpu/emulator/"


def CHECK(root: Path) -> str | None:
    """What the tests of the emulator notice in a copy of the repository."""
    program = building.build(root / "tests" / "gpu" / "instructions_test.cpp", root=root, flags=["-O0"])
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return done.stdout or f"ended with {done.returncode}"
    return next((said for name in REPORTS if (said := wrong_report(name, root, "-O0"))), None)


MUTANTS = [
    # races and order
    (HERE + "shadow.h", "if (s.thread == t.id || s.barrier != m.barrier) return true;", "return true;"),
    (HERE + "shadow.h", "return s.warp == t.warp && s.sync < m.warps[t.warp].sync;", "return s.warp == t.warp;"),
    (HERE + "shadow.h", "return s.warp == t.warp && s.sync <", "return s.sync <"),
    (HERE + "shadow.h", "if (before && saw_handover(t, h.word))", "if (before)"),
    (HERE + "shadow.h", "if (before && saw_handover(t, h.word))", "if (saw_handover(t, h.word))"),
    (HERE + "shadow.h", "if (h.word == word &&", "if ("),
    (HERE + "shadow.h", "s.barrier < h.barrier ||", "s.barrier <= h.barrier ||"),
    (HERE + "shadow.h", "h.barrier < m.barrier ||", "h.barrier <= m.barrier ||"),
    (HERE + "shadow.h", "t.fence_barrier = m.barrier;", "t.fence_barrier = m.barrier + 1;"),
    (HERE + "shadow.h", "t.words.push_back(word);", ""),
    (
        HERE + "shadow.h",
        "for (const void* word : t.words) m.acquired",
        "for (const auto& [block, all] : m.released) for (const void* word : {all[0].word}) m.acquired",
    ),
    (HERE + "shadow.h", 'if (!ordered(b.read, t)) bad("race with the read', 'if (false) bad("race with the read'),
    (HERE + "shadow.h", "if (!both_atomic && !ordered(b.write, t))", "if (!ordered(b.write, t))"),
    (HERE + "shadow.h", "  if (in_order) return;\n", ""),
    (HERE + "shadow.h", "  if (!in_order && before.block != m.block) return;\n", ""),
    (HERE + "shadow.h", "  b.read.thread = -2;\n", ""),
    (HERE + "shadow.h", "if (before.warp != t.warp) b.read.warp = -2;", ""),
    (HERE + "copy.h", "m.bytes[i].flight = m.now->id;", "m.bytes[i].flight = -1;"),
    (HERE + "copy.h", "while (t.groups.size() > pending)", "while (t.groups.size() > 0)"),
    (HERE + "copy.h", "while (t.groups.size() > pending)", "while (t.groups.size() > pending + 1)"),
    (HERE + "machine.h", "++m.barrier;\n", "\n"),
    (HERE + "threads.h", "++emulator::machine->warps[warp].sync;", ""),
    # bytes and addresses
    (HERE + "shadow.h", "if (touch != Touch::kWrite && !b.written)", "if (false)"),
    (HERE + "shadow.h", "if (at % size != 0)", "if (at % 4 != 0)"),
    (HERE + "shadow.h", "if (at % width != 0)", "if (at % 4 != 0)"),
    (HERE + "shadow.h", "if (uint64_t{at} + size > m.shared.size())", "if (false)"),
    (HERE + "shadow.h", "if (touch == Touch::kReadOnly && b.write.thread != -1", "if (false && b.write.thread != -1"),
    (HERE + "device_memory.h", "at + size <= r->end ? r", "at <= r->end ? r"),
    (HERE + "shadow.h", "if (writes) fail(", "if (false) fail("),
    # lanes
    (HERE + "machine.h", "if (w.done > 0) fail(", "if (false) fail("),
    (HERE + "machine.h", "if (!same_place(other.where, where) ||", "if ("),
    (HERE + "machine.h", "if (!same_place(other.where, first.where) ||", "if ("),
    (HERE + "launch.h", 'if (under_way) fail("', 'if (false) fail("'),
    # instructions
    (HERE + "threads.h", "lane ^ (m & 31)", "lane ^ (m & 15)"),
    (HERE + "matrix.h", "lanes[8 * i + l / 4]", "lanes[8 * i + l % 8]"),
    (HERE + "matrix.h", "shared[row + l % 4 * 4]", "shared[row + (l + 1) % 4 * 4]"),
    (
        HERE + "matrix.h",
        "&a[g + 8 * (i & 1)][(t + 4 * (i >> 1)) * kInWord]",
        "&a[g + 8 * (i >> 1)][(t + 4 * (i & 1)) * kInWord]",
    ),
    (HERE + "matrix.h", "&b[g][(t + 4 * i) * kInWord]", "&b[g][(2 * t + i) * kInWord]"),
    (HERE + "matrix.h", "l / 4 + 8 * (i >> 1), l % 4 * 2 + (i & 1)", "l / 4 + 8 * (i & 1), l % 4 * 2 + (i >> 1)"),
    (HERE + "matrix.h", "row % 8 * 4 + row / 8 + stored / 16 * 2", "row % 8 * 4 + row / 8 * 2 + stored / 16"),
    (HERE + "matrix.h", "column <= static_cast<int>", "column < static_cast<int>"),
    (HERE + "memory.h", "old >= last ? 0 : old + 1", "old > last ? 0 : old + 1"),
    (HERE + "convert.h", "std::nearbyint(std::ldexp(size,", "std::round(std::ldexp(size,"),
    (HERE + "convert.h", "1 - kBias);", "-kBias);"),
    (HERE + "convert.h", "if (error == 0 ||", "if (true ||"),
    (HERE + "arithmetic.h", "(i & 4 ? a : ~a) & (i & 2 ? b : ~b)", "(i & 2 ? a : ~a) & (i & 4 ? b : ~b)"),
    # costs
    (HERE + "counters.h", "n = static_cast<int>(std::unique(words, words + n) - words);", ""),
    (HERE + "counters.h", "if (to > end) bytes", "bytes"),
    (HERE + "counters.h", "past = (to + 31) / 32", "past = first + 1"),
]
