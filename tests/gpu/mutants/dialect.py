"""Mistakes in the inline assembly of the device half, which only the interpreter can see."""

from tests.gpu.both_layers import difference

GPU = "csrc/cuda/gpu/"
CHECK = difference

MUTANTS = [
    (GPU + "threads.h", '"shfl.sync.bfly.b32 %0, %1, %2,', '"shfl.sync.down.b32 %0, %1, %2,'),
    (
        GPU + "threads.h",
        '%0, %1, %2, 0x1f, 0xffffffff;" : "=r"(r) : "r"(v), "r"(from)',
        '%0, %2, %1, 0x1f, 0xffffffff;" : "=r"(r) : "r"(v), "r"(from)',
    ),
    (GPU + "threads.h", "return blockIdx.y;", "return blockIdx.x + 1;"),
    (GPU + "threads.h", "return gridDim.z;", "return gridDim.z + 1;"),
    (GPU + "memory.h", '"ld.shared.v4.b32 {%0, %1, %2, %3}', '"ld.shared.v4.b32 {%0, %2, %1, %3}'),
    (GPU + "memory.h", '"st.shared.v4.b32 [%0], {%1, %2, %3, %4}', '"st.shared.v4.b32 [%0], {%1, %2, %4, %3}'),
    (GPU + "memory.h", '"ld.global.nc.u8 %0, [%1];"', '"ld.global.nc.u8 %0, [%1 + 1];"'),
    (GPU + "memory.h", '"ld.global.nc.v2.b32 {%0, %1}', '"ld.global.nc.v2.b32 {%1, %0}'),
    (GPU + "memory.h", '"ld.global.nc.v4.b32 {%0, %1, %2, %3}', '"ld.global.nc.v4.b32 {%3, %1, %2, %0}'),
    (GPU + "memory.h", "no_allocate.v4.b32 {%0, %1, %2, %3}", "no_allocate.v4.b32 {%1, %0, %2, %3}"),
    (GPU + "memory.h", '"ld.global.v4.b32 {%0, %1, %2, %3}', '"ld.global.v4.b32 {%0, %1, %3, %2}'),
    (GPU + "memory.h", '"st.global.v2.b32 [%0], {%1, %2}', '"st.global.v2.b32 [%0], {%2, %1}'),
    (GPU + "memory.h", '"st.global.v4.b32 [%0], {%1, %2, %3, %4}', '"st.global.v4.b32 [%0], {%4, %2, %3, %1}'),
    (GPU + "memory.h", '"st.global.u16 [%0]', '"st.global.u8 [%0]'),
    (GPU + "memory.h", '"atom.global.inc.u32', '"atom.global.add.u32'),
    (GPU + "copy.h", "[%1], 16, %2;", "[%1], 16;"),
    (GPU + "copy.h", '"cp.async.wait_group %0;" ::"n"(kPending)', '"cp.async.wait_group %0;" ::"n"(kPending + 1)'),
    (GPU + "copy.h", '"cp.async.commit_group;"', '""'),
    (GPU + "matrix.h", "m8n8.x4.shared.b16 {%0, %1, %2, %3}", "m8n8.x4.shared.b16 {%0, %2, %1, %3}"),
    (
        GPU + "matrix.h",
        's32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "',
        's32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%9, %8}, "',
    ),
    (
        GPU + "matrix.h",
        'm16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "',
        'm16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %6, %5, %7}, {%8, %9}, "',
    ),
    (GPU + "matrix.h", "m16n8k32.row.col.s32.s8.s8.s32 {%0", "m16n8k32.row.col.s32.u8.s8.s32 {%0"),
    (
        GPU + "matrix.h",
        'f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "',
        'f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%9, %8}, "',
    ),
    (
        GPU + "matrix.h",
        'f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "',
        'f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%5, %4, %6, %7}, {%8, %9}, "',
    ),
    (GPU + "matrix.h", "{%4, %5}, {%6}, {%0", "{%5, %4}, {%6}, {%0"),
    (GPU + "matrix.h", '"{%8, %9, %10, %11}, {%0', '"{%8, %10, %9, %11}, {%0'),
    (GPU + "convert.h", '"cvt.rn.f16.f32', '"cvt.rn.bf16.f32'),
    (GPU + "convert.h", '"cvt.rn.bf16.f32', '"cvt.rn.f16.f32'),
    (
        GPU + "convert.h",
        'f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));\n  return r;\n}\n// cvt.rn.bf16x2',
        'f16x2.f32 %0, %2, %1;" : "=r"(r) : "f"(high), "f"(low));\n  return r;\n}\n// cvt.rn.bf16x2',
    ),
    (GPU + "convert.h", '"cvt.rn.bf16x2.f32 %0, %1, %2', '"cvt.rn.bf16x2.f32 %0, %2, %1'),
    (GPU + "convert.h", '"cvt.rn.f32.s32', '"cvt.rn.f32.u32'),
    (GPU + "convert.h", '"cvt.rni.s32.f32', '"cvt.rzi.s32.f32'),
    (GPU + "convert.h", '"cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;', '"cvt.pack.sat.s8.s32.b32 %0, %2, %1, %3;'),
    (GPU + "arithmetic.h", '"sub.rn.f32 %0, %1, %2;', '"sub.rn.f32 %0, %2, %1;'),
    (GPU + "arithmetic.h", '"div.rn.f32 %0, %1, %2;', '"div.rn.f32 %0, %2, %1;'),
    (GPU + "arithmetic.h", '"fma.rn.f32 %0, %1, %2, %3;', '"fma.rn.f32 %0, %1, %3, %2;'),
    (GPU + "arithmetic.h", '"lop3.b32 %0, %1, %2, %3, %4;', '"lop3.b32 %0, %3, %2, %1, %4;'),
    (GPU + "arithmetic.h", '"prmt.b32 %0, %1, %2, %3;', '"prmt.b32 %0, %2, %1, %3;'),
    (GPU + "arithmetic.h", '"fma.rn.f16x2 %0, %1, %2, %3;', '"fma.rn.f16x2 %0, %3, %2, %1;'),
    (GPU + "arithmetic.h", '"fma.rn.bf16x2 %0, %1, %2, %3;', '"fma.rn.bf16x2 %0, %1, %3, %2;'),
]
