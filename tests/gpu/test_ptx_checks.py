"""What the interpreter refuses: each check has a tiny kernel that breaks its rule, and a correct one beside it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gpu import ptx
from tests.gpu.snippets import kernel

# Each thread has its own 4 bytes of shared memory at %r0; %r2 is 1 in the first lane of each warp.
OWN = "mov.u32 %r1, space; shl.b32 %r2, %tid, 2; add.u32 %r0, %r1, %r2; "
NEXT = "xor.b32 %r3, %tid, 1; shl.b32 %r3, %r3, 2; add.u32 %r3, %r1, %r3; "
OUT = "mad.wide.u32 %rd20, %tid, 4, %rd1; st.global.u32 [%rd20], %r9; "
COPY = "mad.wide.u32 %rd21, %tid, 16, %rd2; mov.u32 %r1, space; shl.b32 %r2, %tid, 4; add.u32 %r0, %r1, %r2; "
COPY += "cp.async.cg.shared.global [%r0], [%rd21], 16; cp.async.commit_group; "


def launch(body, threads=64, shared=1024, lazy=True, arrays=1, out=None):
    out = np.zeros(threads, np.uint32) if out is None else out
    rest = [np.arange(threads * 4, dtype=np.uint32)] * (arrays - 1)
    stats = ptx.run(kernel(body, arrays, shared=shared), "k", 1, threads, [out, *rest], lazy=lazy)
    return out, stats


def test_bounds_of_global_memory():
    assert (launch("mov.u32 %r9, 7; " + OUT)[0] == 7).all()
    with pytest.raises(ptx.PtxError, match="st.global of 4 bytes at offset 252, outside its buffer .* of 252 bytes"):
        launch("mov.u32 %r9, 7; " + OUT, out=np.zeros(63, np.uint32))
    with pytest.raises(ptx.PtxError, match="lies in no buffer"):
        launch("mov.u64 %rd1, 0; mov.u32 %r9, 7; " + OUT)


def test_alignment():
    with pytest.raises(ptx.PtxError, match="st.global of 4 bytes at .*, which isn't a multiple"):
        launch("add.u64 %rd1, %rd1, 2; mov.u32 %r9, 7; " + OUT, out=np.zeros(70, np.uint32))
    with pytest.raises(ptx.PtxError, match="ld.shared of 16 bytes"):
        launch(OWN + "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r0];")


def test_shared_bytes_that_nobody_wrote():
    with pytest.raises(ptx.PtxError, match="ld.shared: shared byte 0 that nobody wrote"):
        launch(OWN + "ld.shared.u32 %r9, [%r0];" + OUT)
    with pytest.raises(ptx.PtxError, match="outside the 256 bytes of shared memory"):
        launch(OWN + "st.shared.u32 [%r0+4], %tid;", shared=256)


@pytest.mark.parametrize("sync, seen", [("bar.sync 0;", True), ("bar.warp.sync 0xffffffff;", True), ("", False)])
def test_bytes_of_another_thread_need_a_barrier(sync, seen):
    body = OWN + "st.shared.u32 [%r0], %tid; " + sync + NEXT + "ld.shared.u32 %r9, [%r3]; " + OUT
    if seen:
        assert launch(body)[0].tolist() == [n ^ 1 for n in range(64)]
    else:
        with pytest.raises(ptx.PtxError, match="of another thread, and no barrier"):
            launch(body)


def test_a_warp_is_not_enough_for_the_block():
    other = NEXT.replace("%tid, 1", "%tid, 32")
    body = OWN + "st.shared.u32 [%r0], %tid; {} " + other + "ld.shared.u32 %r9, [%r3]; " + OUT
    assert launch(body.format("bar.sync 0;"))[0].tolist() == [n ^ 32 for n in range(64)]
    with pytest.raises(ptx.PtxError, match="of another thread, and no barrier"):
        launch(body.format("bar.warp.sync 0xffffffff;"))


@pytest.mark.parametrize("lazy", [True, False])
def test_copies_are_waited_for(lazy):
    read = "ld.shared.u32 %r9, [%r0]; " + OUT
    wait = "cp.async.wait_group 0; "
    assert launch(COPY + wait + read, arrays=2, lazy=lazy)[0].tolist() == [4 * n for n in range(64)]
    for body in (COPY + read, COPY + "cp.async.wait_group 1; " + read):
        with pytest.raises(ptx.PtxError, match="that (a copy is under way to|nobody wrote)"):
            launch(body, arrays=2, lazy=lazy)
    other = wait + "{} xor.b32 %r3, %r0, 16; ld.shared.u32 %r9, [%r3]; " + OUT
    assert launch(COPY + other.format("bar.sync 0;"), arrays=2, lazy=lazy)[0].tolist() == [
        4 * (n ^ 1) for n in range(64)
    ]
    with pytest.raises(ptx.PtxError, match="of another thread, and no barrier"):
        launch(COPY + other.format(""), arrays=2, lazy=lazy)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("access", ["ld.shared.u32 %r9, [%r0];", "st.shared.u32 [%r0], %tid;"])
def test_bytes_of_a_copy_under_way_are_left_alone(access, lazy):
    """Also where something was written there before."""
    body = COPY.replace("cp.async.cg", "mov.u32 %r9, 1; st.shared.v4.u32 [%r0], {%r9, %r9, %r9, %r9}; cp.async.cg")
    launch(body + "cp.async.wait_all; " + access, arrays=2, lazy=lazy)
    with pytest.raises(ptx.PtxError, match="that a copy is under way to"):
        launch(body + access, arrays=2, lazy=lazy)


def test_groups_are_those_of_each_thread():
    """The second warp closes one group more, so that one pending group is not the copy for it, and is for the first."""
    more = "setp.ge.u32 %p1, %tid, 32; @%p1 cp.async.commit_group; cp.async.wait_group 1; "
    read = "{} ld.shared.u32 %r9, [%r0]; {} " + OUT
    launch(COPY + more + read.format("@%p1", "@!%p1 mov.u32 %r9, 0;"), arrays=2)
    with pytest.raises(ptx.PtxError, match="that (a copy is under way to|nobody wrote)"):
        launch(COPY + more + read.format("", ""), arrays=2)


def test_the_tail_of_a_copy_is_zeros():
    body = COPY.replace("[%rd21], 16;", "[%rd21], 16, %r3;").replace("cp.async.cg", "mov.u32 %r3, 6; cp.async.cg")
    body += "cp.async.wait_all; ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r0]; or.b32 %r6, %r6, %r7; "
    body += "shl.b32 %r5, %r5, 8; or.b32 %r9, %r6, %r5; " + OUT
    assert launch(body, arrays=2)[0].tolist() == [(4 * n + 1) << 8 for n in range(64)]


def test_divergence():
    branch = "and.b32 %r2, %tid, 1; setp.eq.u32 %p1, %r2, 0; mov.u32 %r9, 5; @%p1 bra EVEN; {} mov.u32 %r9, 3; EVEN: "
    assert launch(branch.format("") + OUT)[0].tolist() == [5, 3] * 32
    shuffle = "shfl.sync.bfly.b32 %r9, %tid, 1, 31, 0xffffffff; "
    joined = "shfl.sync.bfly.b32 %r9, %r9, 1, 31, 0xffffffff; "  # where the branches meet, all lanes are there again
    assert launch(branch.format("") + joined + OUT)[0].tolist() == [3, 5] * 32
    assert launch(shuffle + OUT)[0].tolist() == [n ^ 1 for n in range(64)]
    with pytest.raises(ptx.PtxError, match="shfl.sync.bfly.b32: lanes of warp 0 are apart"):
        launch(branch.format(shuffle) + OUT)
    with pytest.raises(ptx.PtxError, match="ldmatrix.*lanes of a warp are apart"):
        launch("mov.u32 %r1, space; " + branch.format("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r1];") + OUT)


def test_barriers_that_are_never_reached():
    half = "setp.ge.u32 %p1, %tid, 32; "
    with pytest.raises(ptx.PtxError, match="wait at a barrier that others never reach"):
        launch(half + "@%p1 bar.sync 1, 64; @!%p1 bar.sync 2, 64;")
    launch(half + "@%p1 bar.sync 1, 32; @!%p1 bar.sync 2, 32;")
    launch(half + "@%p1 ret; bar.sync 0;")  # those that have ended don't count


def test_endless_loops_end(monkeypatch):
    monkeypatch.setattr(ptx.running, "_LIMIT", 1000)
    with pytest.raises(ptx.PtxError, match="no end after 1000 instructions"):
        launch("AGAIN: bra AGAIN;")


def test_registers_of_two_types_and_unknown_text():
    with pytest.raises(ptx.PtxError, match="register %r1 of two types"):
        ptx.parse(kernel("{ .reg .b64 %r1; }", 1))
    with pytest.raises(ptx.PtxError, match="unknown statement"):
        ptx.parse(kernel(".frob 3;", 1))
    with pytest.raises(ptx.PtxError, match="no kernel other: the module has k"):
        ptx.parse(kernel("", 1)).kernel("other")


def test_arguments():
    text = kernel("", 1, scalars=1)
    with pytest.raises(ValueError, match="k takes 2 arguments, and 1 are given"):
        ptx.run(text, "k", 1, 32, [None])
    with pytest.raises(TypeError, match="argument 0 is a float, and the parameter is of type u64"):
        ptx.run(text, "k", 1, 32, [1.5, 2])
    with pytest.raises(TypeError, match="argument 1 is a ndarray, and the parameter is of type u32"):
        ptx.run(text, "k", 1, 32, [None, np.zeros(1)])
    with pytest.raises(ValueError, match="contiguous"):
        ptx.run(text, "k", 1, 32, [np.zeros((4, 4))[:, 1], 1])


def test_atomics():
    total = np.zeros(1, np.float32)
    text = kernel("cvt.rn.f32.u32 %f1, %tid; red.global.add.f32 [%rd1], %f1;", 1)
    ptx.run(text, "k", 3, 64, [total])
    assert total[0] == 3 * 64 * 63 / 2
    # The counter of split sums: the last to come sees 2, and leaves 0.
    counter, seen = np.zeros(1, np.uint32), np.zeros(3, np.uint32)
    body = "atom.global.inc.u32 %r1, [%rd1], 2; mov.u32 %r2, %ctaid.x; mad.wide.u32 %rd9, %r2, 4, %rd2; "
    ptx.run(kernel(body + "st.global.u32 [%rd9], %r1;", 2), "k", 3, 1, [counter, seen])
    assert counter[0] == 0 and seen.tolist() == [0, 1, 2]


@pytest.mark.parametrize("stride, cycles", [(4, 1), (8, 2), (128, 32), (0, 1)])
def test_bank_cycles(stride, cycles):
    body = f"mov.u32 %r1, space; mad.lo.u32 %r0, %tid, {stride}, %r1; st.shared.u32 [%r0], %tid;"
    _, stats = launch(body, threads=32, shared=4096)
    cost = stats.shared["st.shared"]
    assert (cost.requests, cost.cost) == (1, cycles)
    assert cost.ideal == 1


def test_bank_cycles_of_wide_accesses():
    body = "mov.u32 %r1, space; mad.lo.u32 %r0, %tid, {}, %r1; st.shared.v4.u32 [%r0], {{%tid, %tid, %tid, %tid}};"
    for stride, cycles in ((16, 4), (32, 8), (128, 32)):
        _, stats = launch(body.format(stride), threads=32, shared=4096)
        cost = stats.shared["st.shared"]
        assert (cost.cost, cost.ideal) == (cycles, 4)
    # Eight lanes are served together: those of one part meet in four banks, and other parts don't help.
    body = "mov.u32 %r1, space; and.b32 %r2, %tid, 7; shr.u32 %r3, %tid, 3; mad.lo.u32 %r0, %r2, 128, %r1; "
    body += "mad.lo.u32 %r0, %r3, 16, %r0; st.shared.v4.u32 [%r0], {%tid, %tid, %tid, %tid};"
    assert launch(body, threads=32, shared=4096)[1].shared["st.shared"].cost == 32


@pytest.mark.parametrize("stride, sectors, ideal", [(4, 4, 4), (8, 8, 4), (32, 32, 4), (0, 1, 1)])
def test_sectors(stride, sectors, ideal):
    body = f"mad.wide.u32 %rd9, %tid, {stride}, %rd1; ld.global.u32 %r9, [%rd9];"
    stats = ptx.run(kernel(body, 1), "k", 1, 32, [np.zeros(1024, np.uint32)])
    assert (stats.loads["ld.global"].cost, stats.loads["ld.global"].ideal) == (sectors, ideal)
    assert stats.bytes_loaded == 32 * sectors and stats.bytes_stored == 0
