"""The emulator reports what no GPU would: for each check a small kernel that breaks the rule, and one that keeps it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.gpu import building

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not building.has_compiler(), reason="no C++ compiler")

NOTHING = "nothing to report"
REPORTS = {
    "a clean kernel": NOTHING,
    "a read of another warp's bytes without a barrier": "a byte that nobody wrote",
    "a read of another lane's bytes without sync_warp": "race with the write of thread",
    "a read of another lane's bytes after sync_warp": NOTHING,
    "a read of another warp's bytes after sync_warp": "a byte that nobody wrote",
    "a write over another warp's bytes after sync_warp": "race with the write of thread",
    "a read of another warp's bytes that were written before": "race with",
    "a write over what another warp reads": "race with",
    "a write over what several warps read": "race with the read of several threads",
    "a write after sync_warp over what a lane read before it": NOTHING,
    "a write over what two warps read": "race with the read of several threads",
    "two writes of one shared address": "race with the write of thread 0, byte 0 of shared memory",
    "a read of shared bytes nobody wrote": "ld.shared.b32: reads a byte that nobody wrote, byte 0 of shared memory",
    "an access outside shared memory": "st.shared.b32: outside shared memory, offset 1024 of 1024 bytes",
    "a misaligned shared address": "misaligned shared address, offset 8 for 16 bytes",
    "a misaligned global address": "misaligned global address for 16 bytes",
    "a read past a buffer": "outside every buffer, byte 256 of in with 256",
    "a write past a buffer": "outside every buffer, byte 256 of out with 256",
    "a write before a buffer": "outside every buffer",
    "a write of what is only read": "writes in, which is only read",
    "a read of global bytes nobody wrote": "reads a byte that nobody wrote, byte 4 of out",
    "a copy without a wait, lazy": "touches bytes of a copy under way",
    "a copy without a wait, eager": "touches bytes of a copy under way",
    "a wait one too weak": "touches bytes of a copy under way",
    "a wait without a barrier": "nobody wrote",
    "a wait without a barrier, of bytes written before": "race with",
    "a wait and a barrier": NOTHING,
    "a copy over what another warp reads": "race with",
    "an end with copies under way": "a thread ends with copies under way",
    "a copy of more bytes than its size": "source size 17 is outside 0 ... 16",
    "a copy past a buffer": "cp.async.cg 16 from global: outside every buffer, byte 256 of in",
    "a copy of nothing from anywhere": NOTHING,
    "a lane that leaves a collective out": "a lane of this warp has ended before",
    "lanes at two collectives": "lanes have parted, lane 0 is at shfl.sync.bfly",
    "a lane that runs a loop once more": "deadlock",
    "warps that run a loop differently often": NOTHING,
    "a barrier that one warp leaves out": "deadlock: 32 of 64 threads wait at bar.sync, 32 have ended",
    "lanes at two barriers": "lanes of warp 0 have parted",
    "two warps that write one address": "race with the write of thread 0, byte 0 of out",
    "two blocks that write one address": "race with the write of thread 0 of another block",
    "a write over what another block reads": "race with the read of thread 0 of another block",
    "two blocks that count in one word": NOTHING,
    "a read of another warp's global bytes without a barrier": "nobody wrote",
    "the read-only path to bytes of this launch": "the read-only path, of bytes that this launch writes",
    "a sum over blocks, everyone fences before the barrier": "of another block",
    "a sum over blocks, the counting thread fences after the barrier": NOTHING,
    "a sum over blocks without a fence": "of another block",
    "a sum over blocks without a barrier before the fence": "of another block",
    "a sum over blocks by one that doesn't count": "of another block",
    "a sum over blocks that count in two words": "of another block",
    "a sum over blocks without a barrier after the count": "of another block",
    "a metadata word that isn't in order": "metadata of row 10 is not in increasing order",
}


def result_of(*arguments: str, root: Path = building.ROOT, flags: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit status and output of emulator_test."""
    program = building.build(root / "tests" / "gpu" / "emulator_test.cpp", root=root, flags=flags)
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout


def wrong_report(name: str, root: Path = building.ROOT, *flags: str) -> str | None:
    """What is wrong with the emulator's report of a case, given a copy of the repository; None: nothing."""
    status, output = result_of(name, root=root, flags=flags)
    if REPORTS[name] not in output or status != (REPORTS[name] != NOTHING):
        return f"{name}: {status}, {output}"
    # The line of the kernel's source, where an instruction is to blame.
    named = output.startswith(f"ERROR {name}: ") and ("emulator_test.cpp:" in output or "a thread ends" in output)
    return None if named or not status else output


def test_every_case_is_known():
    assert result_of()[1].splitlines() == list(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_a_check(name):
    assert wrong_report(name) is None


@pytest.mark.parametrize("how", ["plain", "sanitized", "ucontext"])
def test_instructions_do_what_formulas_say(how):
    """With sanitizers too, and with the change of stacks that other processors than x86-64 get."""
    flags = ["-DGPU_EMULATOR_UCONTEXT", "-O0"] if how == "ucontext" else []
    building.run(building.build(HERE / "instructions_test.cpp", sanitize=how == "sanitized", flags=flags))
