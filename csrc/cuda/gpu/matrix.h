// Fragments and products of matrices, by whole warps. Device half. Layouts: PTX ISA, "Matrix fragments for mma".
//
// Lane l has group g = l / 4 and t = l % 4. c and d of every m16n8 product: registers 0 and 1 are row g, columns 2t and
// 2t + 1; registers 2 and 3 are row g + 8.
#pragma once

#include "gpu/values.h"

namespace gpu {

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: lanes 8 i to 8 i + 7 give the rows (16 bytes each) of matrix i, 8 x 8
// elements of 16 bits; lane l gets columns 2t and 2t + 1 of row g of each.
GPU_FN void load_matrix_x4(uint32_t (&r)[4], uint32_t row_at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_at)
               : "memory");
}

// mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32: d += a [16, 32] b [32, 8], int8 factors, int32 sums that wrap.
// a: register i is row g + 8 (i & 1), columns 4t + 16 (i >> 1) and the three after; b: register i is rows 4t + 16 i and
// the three after of column g.
GPU_FN void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32: half of it, d += a [16, 16] b [16, 8], with registers 0 and 1 of a
// and 0 of b.
GPU_FN void mma_s8_half(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a0), "r"(a1), "r"(b));
}

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32: d += a [16, 16] b [16, 8], fp16 factors, fp32 sums.
// a: register i is row g + 8 (i & 1), columns 2t + 8 (i >> 1) and the next; b: register i is rows 2t + 8 i and the next
// of column g.
GPU_FN void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: the same with bf16 factors.
GPU_FN void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32: d += a [16, 64] b [64, 8] where every four
// columns of a row of a hold two values that are stored, [16, 32], and two zeros. a and d as in mma_s8; b: register i
// is rows 4t + 16 i and the three after of column g. metadata: 2 bits for each stored value, its column of the four,
// increasing, the first in the lowest bits. Lane l has those of row g + 8 (t & 1), stored columns 16 (t >> 1) and the
// 15 after. The last operand, the selector, is 0: all four lanes of a row contribute.
GPU_FN void mma_sparse_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0x0;"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata));
}

}  // namespace gpu
