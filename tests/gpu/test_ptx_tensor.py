"""Fragments of matrix instructions as the PTX ISA draws them, worked out lane by lane and element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gpu import ptx
from tests.gpu.snippets import kernel

RNG = np.random.default_rng(5)
BYTES = {"s8": 1, "u8": 1, "f16": 2, "bf16": 2, "tf32": 4}


def as_bytes(matrix, kind):
    """float64 [rows, columns] -> uint8 [rows, columns, bytes an element]; and the values that the type holds."""
    tensor = torch.from_numpy(matrix)
    types = {"s8": torch.int8, "u8": torch.uint8, "f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
    tensor = tensor.to(types[kind])
    if kind == "tf32":
        tensor = (tensor.view(torch.int32) & -8192).view(torch.float32)
    return tensor.view(torch.uint8).numpy().reshape(*matrix.shape, BYTES[kind]), tensor.double().numpy()


def registers_of(matrix_bytes, places):
    """[registers, 32] words: ``places(register, lane)`` gives the row and column of a word's first element."""
    size = matrix_bytes.shape[2]
    count = 0
    while places(count, 0) is not None:
        count += 1
    words = np.zeros((count, 32), np.uint32)
    for register in range(count):
        for lane in range(32):
            row, column = places(register, lane)
            words[register, lane] = matrix_bytes[row, column : column + 4 // size].reshape(-1).view(np.uint32)[0]
    return words


def load(name, count, pointer):
    """PTX that loads registers of a lane from words [registers, 32]."""
    lines = [f"mad.wide.u32 %rd20, %tid, 4, {pointer};"]
    lines += [f"ld.global.b32 %{name}{n}, [%rd20+{128 * n}];" for n in range(count)]
    return " ".join(lines)


def names(prefix, count):
    return "{" + ", ".join(f"%{prefix}{n}" for n in range(count)) + "}"


def multiply(instruction, a, b, c, extra=(), operands=""):
    """Runs a product of fragments; words of sums come and go as [4, 32]."""
    out = np.zeros((4, 32), np.uint32)
    declared = " ".join(f".reg .b32 %{name}<8>;" for name in "abcde")
    body = load("a", len(a), "%rd1") + load("b", len(b), "%rd2") + load("c", 4, "%rd3")
    body += "".join(load("e", 1, "%rd5") for _ in extra)
    body += f"{instruction} {names('d', 4)}, {names('a', len(a))}, {names('b', len(b))}, {names('c', 4)}{operands}; "
    body += "mad.wide.u32 %rd20, %tid, 4, %rd4; " + " ".join(
        f"st.global.b32 [%rd20+{128 * n}], %d{n};" for n in range(4)
    )
    ptx.run(kernel(body, 4 + len(extra), declared), "k", 1, 32, [a, b, np.ascontiguousarray(c), out, *extra])
    return out


def sums_of(words, dtype):
    """[4, 32] words of c or d as [16, 8]."""
    out = np.zeros((16, 8), dtype)
    for register in range(4):
        for lane in range(32):
            out[lane // 4 + 8 * (register // 2), lane % 4 * 2 + register % 2] = words.view(dtype)[register, lane]
    return out


def words_of(sums):
    words = np.zeros((4, 32), sums.dtype)
    for register in range(4):
        for lane in range(32):
            words[register, lane] = sums[lane // 4 + 8 * (register // 2), lane % 4 * 2 + register % 2]
    return words.view(np.uint32)


def place_a(k, kind):
    """PTX ISA, figures of a: rows of a register alternate by 8, then k moves by half."""
    per, count = 4 // BYTES[kind], k * BYTES[kind] // 8

    def place(register, lane):
        if register == count:
            return None
        return lane // 4 + 8 * (register % 2), lane % 4 * per + register // 2 * (k // (count // 2))

    return place


def place_b(k, kind):
    per, count = 4 // BYTES[kind], k * BYTES[kind] // 16

    def place(register, lane):  # of b transposed, [8, k]
        return None if register == count else (lane // 4, lane % 4 * per + register * (k // count))

    return place


@pytest.mark.parametrize(
    "kind, k", [("s8", 32), ("u8", 32), ("s8", 16), ("f16", 16), ("f16", 8), ("bf16", 16), ("tf32", 8)]
)
def test_mma(kind, k):
    integer = kind in ("s8", "u8")
    low, high = {"s8": (-128, 128), "u8": (0, 256)}.get(kind, (0, 1))
    make = (lambda *shape: RNG.integers(low, high, shape).astype(float)) if integer else RNG.standard_normal
    draw = make if integer else lambda *shape: RNG.standard_normal(shape)
    (a_bytes, a), (b_bytes, b) = as_bytes(draw(16, k), kind), as_bytes(draw(8, k), kind)
    kind_c = np.int32 if integer else np.float32
    c = (RNG.integers(-1000, 1000, (16, 8)) if integer else RNG.standard_normal((16, 8))).astype(kind_c)
    of = "s32" if integer else "f32"
    out = multiply(
        f"mma.sync.aligned.m16n8k{k}.row.col.{of}.{kind}.{kind}.{of}",
        registers_of(a_bytes, place_a(k, kind)),
        registers_of(b_bytes, place_b(k, kind)),
        words_of(c),
    )
    expected = (a @ b.T + c).astype(kind_c)
    np.testing.assert_array_equal(sums_of(out, kind_c), expected)


def test_sums_wrap_or_saturate():
    a_bytes, _ = as_bytes(np.full((16, 32), -128.0), "s8")
    b_bytes, _ = as_bytes(np.full((8, 32), -128.0), "s8")
    c = words_of(np.full((16, 8), 2**31 - 5, np.int32))
    a, b = registers_of(a_bytes, place_a(32, "s8")), registers_of(b_bytes, place_b(32, "s8"))
    name = "mma.sync.aligned.m16n8k32.row.col{}.s32.s8.s8.s32"
    wrapped = sums_of(multiply(name.format(""), a, b, c), np.int32)
    assert (wrapped == 2**31 - 5 + 32 * 128 * 128 - 2**32).all()
    assert (sums_of(multiply(name.format(".satfinite"), a, b, c), np.int32) == 2**31 - 1).all()


def test_sparse_metadata_out_of_order():
    zeros, words = np.zeros((4, 32), np.uint32), np.zeros((1, 32), np.uint32)
    name = "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32"
    with pytest.raises(ptx.PtxError, match="metadata that isn't in order"):
        multiply(name, zeros, zeros, zeros, [words], ", %e0, 0x0")
    words[:] = 0x44444444  # the first two of each four
    assert not multiply(name, zeros, zeros, zeros, [words], ", %e0, 0x0").any()


def test_unknown_shapes_stop():
    zeros = np.zeros((4, 32), np.uint32)
    for name in (
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16",
    ):
        with pytest.raises(ptx.PtxError, match="unknown instruction mma"):
            multiply(name, zeros, zeros[:2], zeros)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix_and_stmatrix(count, trans):
    """Lane l gets elements 2 (l % 4) and the next of row l / 4 of each matrix; stmatrix is the way back."""
    matrices = RNG.integers(0, 2**16, (count, 8, 8)).astype(np.uint16)
    order = RNG.permutation(8 * count)  # where each row lies
    placed = np.zeros((32, 8), np.uint16)
    placed[order] = matrices.reshape(-1, 8)
    lanes = np.zeros(32, np.uint32)
    lanes[: 8 * count] = 16 * order
    got, back = np.zeros((count, 32), np.uint32), np.zeros((32, 8), np.uint16)
    body = "mov.u32 %r1, space; mad.wide.u32 %rd20, %tid, 16, %rd1; ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd20]; "
    body += "mad.lo.u32 %r6, %tid, 16, %r1; st.shared.v4.u32 [%r6], {%r2, %r3, %r4, %r5}; bar.sync 0; "
    body += load("e", 1, "%rd2") + "add.u32 %r7, %e0, %r1; "
    body += f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {names('d', count)}, [%r7]; "
    body += "mad.wide.u32 %rd20, %tid, 4, %rd3; "
    body += " ".join(f"st.global.b32 [%rd20+{128 * n}], %d{n};" for n in range(count))
    body += f"stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r7+512], {names('d', count)}; bar.sync 0; "
    body += f"setp.lt.u32 %p1, %tid, {8 * count}; @!%p1 ret; add.u32 %r8, %e0, %r1; "
    body += "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r8+512]; mad.wide.u32 %rd20, %tid, 16, %rd4; "
    body += "st.global.v4.u32 [%rd20], {%r2, %r3, %r4, %r5};"
    text = kernel(body, 4, ".reg .b32 %d<4>; .reg .b32 %e<1>;", shared=1024)
    ptx.run(text, "k", 1, 32, [placed, lanes, got, back])
    for n, matrix in enumerate(matrices):
        seen = matrix.T if trans else matrix
        for lane in range(32):
            low, high = seen[lane // 4, lane % 4 * 2], seen[lane // 4, lane % 4 * 2 + 1]
            assert got[n, lane] == int(low) | int(high) << 16
    np.testing.assert_array_equal(back[: 8 * count].reshape(count, 8, 8), matrices)
