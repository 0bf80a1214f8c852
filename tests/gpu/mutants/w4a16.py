"""Mistakes in the kernels with float activations, which the emulator sees in their results or in what they cost."""

from pathlib import Path

from tests.gpu import building

HERE = "csrc/cuda/"
SHARED, GEMM, GEMV, ROWS = (HERE + name for name in ("w4a16.cuh", "w4a16_gemm.cuh", "w4a16_gemv.cuh", "w4a16_rows.cuh"))
HOST = HERE + "w4a16.h"


def CHECK(root: Path) -> str | None:
    """What the emulator notices in a copy of the repository: wrong results, or accesses that cost too much."""
    program = building.build(root / "tests" / "gpu" / "w4a16_test.cpp", root=root, flags=("-O0",))
    try:
        building.run(program, "quick")
        for counters in building.run(program, "counters"):
            for kind in ("shared", "global"):
                if (ratio := building.worst_ratio(counters, kind)) > 1:
                    return f"FAIL {counters['kernel']}: {kind} accesses cost {ratio:.2f} times the least"
    except AssertionError as error:
        return str(error)
    return None


MUTANTS = [
    # codes to factors
    (SHARED, "0xe4e4e4e4u, 0x4040u + 0x0101u * j", "0xe4e4e4e4u, 0x4040u + 0x0100u * j"),
    (SHARED, "low, 0x63806380u", "low, 0x64006400u"),
    (SHARED, "s < 4; s += 2, word >>= 8", "s < 4; s += 2, word >>= 4"),
    (SHARED, "0x00f000f0u, 0x64006400u), 0x2c002c00u, high", "0x00f000f0u, 0x64006400u), 0x2c002c00u, low"),
    (SHARED, "0xc3c3c3c3u, 0x4040u + 0x0101u * j", "0xc3c3c3c3u, 0x4040u + 0x0101u"),
    (SHARED, "s < 4; ++s, word >>= 4", "s < 4; ++s, word >>= 8"),
    (SHARED, "0xe480e480u", "0xe47fe480u"),
    (SHARED, "0xc510c510u", "0xc500c510u"),
    (SHARED, "insert(word >> 4, 0x000f000fu", "insert(word >> 5, 0x000f000fu"),
    (SHARED, "word_of(vectors[v], j)", "word_of(vectors[0], j)"),
    (
        SHARED,
        "pairs[2 * v] = half[0], pairs[2 * v + 1] = half[1]",
        "pairs[2 * v] = half[1], pairs[2 * v + 1] = half[0]",
    ),
    (SHARED, "constexpr uint32_t kNoZeros = 0x08080808u", "constexpr uint32_t kNoZeros = 0x08080708u"),
    # outputs
    (SHARED, "if (row >= o.m || column >= o.n) return;", "if (column >= o.n) return;"),
    (SHARED, "if (row >= o.m || column >= o.n) return;", "if (row >= o.m) return;"),
    (SHARED, "kMost < o.n - column ? kMost : o.n - column", "kMost"),
    (
        SHARED,
        "store4(static_cast<T*>(o.out) + at, count, o.whole, y)",
        "store4(static_cast<T*>(o.out) + at, count, true, y)",
    ),
    (SHARED, "y[i] = add_rn(y[i], biases[i]);", "y[i] = add_rn(y[i], biases[0]);"),
    (SHARED, "static_cast<int64_t>(row) * o.n + column;", "static_cast<int64_t>(row) * o.m + column;"),
    (SHARED, "  activate(y, o.activation);\n", ""),
    # blocks that share a tile
    (SHARED, "  sync_threads();  // what this block wrote", "  // what this block wrote"),
    (SHARED, "    fence_global();\n    store_shared4(", "    store_shared4("),
    (SHARED, "static_cast<uint32_t>(blocks - 1)));\n    fence_global();", "static_cast<uint32_t>(blocks - 1)));"),
    (
        SHARED,
        "atomic_inc(counter, static_cast<uint32_t>(blocks - 1))",
        "atomic_inc(counter, static_cast<uint32_t>(blocks))",
    ),
    (SHARED, "return load_shared4(shared_word) == static_cast<uint32_t>(blocks - 1);", "return true;"),
    # many rows: copies
    (GEMM, "tile + r * (kBk * 2) + ((c ^ r) & 7) * 16", "tile + r * (kBk * 2) + (c & 7) * 16"),
    (GEMM, "s.x_rows = (m - row + kXRows - 1) / kXRows;", "s.x_rows = kBm / kXRows;"),
    (GEMM, "s.weight_chunks = (strips - strip + kStripStep - 1) / kStripStep;", "s.weight_chunks = kStrips;"),
    (GEMM, "chunk < kScaleChunks && column < strips * kUnit ? 16 : 0", "chunk < kScaleChunks ? 16 : 0"),
    (GEMM, "zero_column < strips * kUnit && zeros != nullptr ? 16 : 0", "zeros != nullptr ? 16 : 0"),
    (GEMM, "inside && i < from.x_rows ? 16 : 0", "i < from.x_rows ? 16 : 0"),
    (GEMM, "unit < units && i < from.weight_chunks ? 16 : 0", "i < from.weight_chunks ? 16 : 0"),
    (GEMM, "if (row >= (group_shift == 0 ? 2 : 1)) return;", "if (row >= 1) return;"),
    (GEMM, "(step * kUnits >> group_shift) + row", "(step >> group_shift) + row"),
    (GEMM, "group < groups ? from.scale_bytes : 0", "from.scale_bytes"),
    (GEMM, "copy_wait<kStages - 2>();", "copy_wait<kStages - 1>();"),
    (GEMM, "      sync_threads();  // the stage has arrived", "      // the stage has arrived"),
    (GEMM, "const int ahead = s + kStages - 1;", "const int ahead = s + kStages;"),
    (GEMM, "stage = advance(stage), next = advance(next);", "stage = advance(stage), next = advance(stage);"),
    (GEMM, "all - first < each ? all - first : each", "all - first"),
    # many rows: products
    (GEMM, "unit * 4 + half * 2 + (lane >> 4)", "unit * 4 + half * 2 + (lane >> 3 & 1)"),
    (GEMM, "(strip * kUnits + unit) * unit_bytes(kBits)", "(strip * kUnits + (unit ^ 1)) * unit_bytes(kBits)"),
    (GEMM, "const uint32_t row = group_shift == 0 ? unit : 0;", "const uint32_t row = 0;"),
    (GEMM, "strip * kUnit + h * 16 + (lane & 3) * 4) * 4)", "strip * kUnit + h * 16 + (lane & 3)) * 4)"),
    (GEMM, "strip * kUnit + (lane >> 2) * 4);", "strip * kUnit + (lane & 3) * 4);"),
    (GEMM, "scales[j >> 1][(j & 1) * 2 + (c & 1)]", "scales[j >> 1][(j & 1) * 2 + (c >> 1)]"),
    (GEMM, "multiply(products[i], a[half][i], b[2 * half]", "multiply(products[i], a[half][i], b[half]"),
    (GEMM, "multiply(sums[i][j], a[half][i], b[2 * half]", "multiply(sums[i][j], a[half][i], b[half]"),
    # many rows: what follows
    (GEMM, "tile + r * (kBn * 4) + (c ^ (r & 1) * 4) * 16", "tile + r * (kBn * 4) + c * 16"),
    (GEMM, "    sync_threads();  // everyone is done with what lay there\n", ""),
    (GEMM, "if (!kGroups && column < n) load4", "if (!kGroups) load4"),
    (GEMM, "store_outputs<T, 4>(output, block_y() * kBm + row", "store_outputs<T, 4>(output, row"),
    (GEMM, "for (int z = 0; z < grid_z(); ++z)", "for (int z = 1; z < grid_z(); ++z)"),
    (GEMM, "const int tile = block_y() * grid_x() + block_x();", "const int tile = block_x();"),
    # few rows
    (GEMV, "units * 64 + 16;", "units * 64;"),
    (GEMV, "if (unit + d < end) {", "if (unit + d + 1 < end) {"),
    (GEMV, "const int group0 = first >> group_shift", "const int group0 = 0"),
    (GEMV, "    if constexpr (kGroups) copy_wait<0>();\n", ""),
    (GEMV, "g < m ? load_shared4(", "g <= m ? load_shared4("),
    (GEMV, "const int group = unit >> group_shift;", "const int group = unit >> group_shift >> 1;"),
    (GEMV, "(group * kUnit + output_of(j, g)) * 4", "(group * kUnit + j * 8 + g) * 4"),
    (GEMV, "zero_at + group * kUnit + g * 4", "zero_at + group * kUnit"),
    (GEMV, "{low[0], high[0], low[1], high[1]}", "{low[0], low[1], high[0], high[1]}"),
    (GEMV, "{low[2], high[2], low[3], high[3]}", "{low[2], high[2], high[3], low[3]}"),
    (GEMV, "scales[2 * i + c / 2]", "scales[2 * i + c % 2]"),
    (GEMV, "column ^ ((row & 2) | (row & 4) << 2)", "column"),
    (GEMV, "    sync_threads();  // everyone is done with what lay there\n", ""),
    (GEMV, "for (int w = 0; w < kWarps; ++w)", "for (int w = 1; w < kWarps; ++w)"),
    (GEMV, "for (int y = 0; y < grid_y(); ++y)", "for (int y = 0; y < grid_y() - 1; ++y)"),
    (GEMV, "begin + share < count ? begin + share : count", "begin + share"),
    (GEMV, "if constexpr (!kGroups) sum = mul_rn(sum, load_global(scale + column));\n", ""),
    # before a product
    (ROWS, "if (paired && 2 * p + 1 < k)", "if (paired)"),
    (ROWS, "if (paired && 2 * p + 1 < k)", "if (2 * p + 1 < k)"),
    (ROWS, "high = mul_rn(high, float_of_bits(s.y));", "high = mul_rn(high, float_of_bits(s.x));"),
    (ROWS, "for (int p = thread(); p < ld_out / 2; p += 256)", "for (int p = thread(); p < rows.k / 2; p += 256)"),
    # the weights as a matrix
    (ROWS, "tile + o * 64 + ((c ^ (o >> 1)) & 3) * 16", "tile + o * 64 + (c & 3) * 16"),
    (ROWS, "    sync_warp();\n", ""),
    (ROWS, "shuffle_from(scales, output_of(j, g))", "shuffle_from(scales, j * 8 + g)"),
    (ROWS, "if (o >= n || input >= k) continue;", "if (o >= n) continue;"),
    (ROWS, "if (o >= n || input >= k) continue;", "if (input >= k) continue;"),
    (ROWS, "if (k % 8 == 0) {", "if (k % 2 == 0) {"),
    (ROWS, "if (input + e < k) store_global", "store_global"),
    (ROWS, "load_global(input_scale + input + 1)", "load_global(input_scale + input)"),
    # how they are launched
    (HOST, "form.group == 32 ? 0 : form.group == 64 ? 1 : 2", "form.group == 32 ? 0 : 1"),
    (HOST, "a.type == DType::f32 || a.form.input_scales || a.k % 8 != 0 ||", "a.type == DType::f32 || a.k % 8 != 0 ||"),
    (
        HOST,
        "a.type == DType::f32 || a.form.input_scales || a.k % 8 != 0 ||",
        "a.type == DType::f32 || a.form.input_scales ||",
    ),
    (HOST, "a.k % 2 == 0 && lies_on(a.x", "lies_on(a.x"),
    (HOST, "groups = eight ? 0 : ((count - 1) >> shift) + 1", "groups = eight ? 0 : (count - 1) >> shift"),
]
