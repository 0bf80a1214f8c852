"""Mistakes in the 2:4 product, in what it shares with block-sparse ones, and in the code that launches it."""

TILE, ROWS, SUMS = "csrc/cuda/sparse24.cuh", "csrc/cuda/copy_rows.cuh", "csrc/cuda/transposed.cuh"
HOST, LAYOUT = "csrc/cuda/sparse24.h", "csrc/cuda/sparse24_layout.h"
MATRIX, PACK, SECTIONS = (
    "csrc/cuda/gpu/matrix.h",
    "kdnative/formats/gpu/sparse24.py",
    "kdnative/formats/gpu/sections.py",
)

PROGRAMS = ["tests/gpu/sparse24_test.cpp"]
TESTS = ["tests/gpu/test_sparse24.py", "-k", "packs or cutlass or refuses or accesses or same_parts or ptx"]

MUTANTS = [
    # The ring of stages.
    (TILE, "copy_wait<kStages - 2>();", "copy_wait<kStages - 1>();"),
    (TILE, "sync_threads();  // the stage has come", "// the stage has come"),
    (TILE, "copy_wait<0>();\n    sync_threads();", "copy_wait<0>();"),
    (TILE, "if (s + kStages - 1 < stages) copy_weight", "if (s + kStages - 2 < stages) copy_weight"),
    (TILE, "if (s + kStages - 1 < stages) copy_weight", "if (s + kStages < stages) copy_weight"),
    (TILE, "      empty = full;\n", ""),
    (TILE, "from[i] += kRunBytes;", "from[i] += Layout::kTileBytes;"),
    (TILE, "run < last ? run : last", "run"),
    (TILE, "(n - 1) / 16;", "n / 16;"),
    (TILE, "(k_pad + Layout::kPadK - 1) / Layout::kPadK *", "(k_pad + Layout::kPadK) / Layout::kPadK *"),
    (TILE, "const int stages = (k_pad + kDepth - 1) / kDepth;", "const int stages = k_pad / kDepth;"),
    # Fragments.
    (TILE, "codes[i][0] = four.x, codes[i][1] = four.y", "codes[i][0] = four.y, codes[i][1] = four.x"),
    (TILE, "codes[i][2] = four.z, codes[i][3] = four.w", "codes[i][2] = four.w, codes[i][3] = four.z"),
    (TILE, "Layout::kCodeBytes + lane * 4", "Layout::kCodeBytes + (lane ^ 1) * 4"),
    (TILE, "row + (lane & 7), step * 4 + (lane >> 3)", "row + (lane & 7), step * 4 + (lane >> 3 ^ 1)"),
    (TILE, "full + x_lane[step] + j * 8 * kDepth", "full + x_lane[step]"),
    (
        TILE,
        "mma_sparse_s8(sums[i][j], codes[i], rows, places[i])",
        "mma_sparse_s8(sums[i][j], codes[i], rows, places[0])",
    ),
    (TILE, "const int step = s * kWarpsK + warp_k;", "const int step = s * kWarpsK;"),
    # Rows of x.
    (ROWS, "(c ^ (r & 7)) * 16", "c * 16"),
    (ROWS, "(c ^ (r & 7)) * 16", "(c ^ (r >> 1 & 7)) * 16"),
    (ROWS, "const bool inside = row < rows;", "const bool inside = row <= rows;"),
    (ROWS, "kDepth == 128 || left > 0 ? bytes[i] : 0", "bytes[i]"),
    (ROWS, "left -= kDepth;", ""),
    (ROWS, "from[i] += kDepth;", "from[i] += 128;"),
    # Sums to outputs.
    (SUMS, "(thread() & 4) != 0", "(thread() & 8) != 0"),
    (SUMS, "shuffle_xor(odd ? even_row[0] : odd_row[0], 4)", "shuffle_xor(odd ? odd_row[0] : even_row[0], 4)"),
    (SUMS, "U4{first, second, odd_row[0], odd_row[1]}", "U4{odd_row[0], odd_row[1], first, second}"),
    (SUMS, "if (kWarpsK > 1) sync_threads();", ""),
    (SUMS, "(lane & 3) * 2 + (lane >> 2 & 1)", "(lane & 7)"),
    (SUMS, "(lane >> 3) * 4, sum);", "(lane >> 3 ^ 1) * 4, sum);"),
    (SUMS, "at = part; at < kQuads; at += kWarpsK", "at = 0; at < kQuads; at += 1"),
    (SUMS, "sum[2] += four.z, sum[3] += four.w", "sum[2] += four.w, sum[3] += four.z"),
    (SUMS, "return store(group, part, output, row, outputs.epilogue<Bf16>());", "return;"),
    # The launch.
    (HOST, "(a.m + tile.rows - 1) / tile.rows);\n", "a.m / tile.rows + 1);\n"),
    (HOST, "(a.n + tile.outputs - 1) / tile.outputs);\n  kernel.threads", "a.n / tile.outputs + 1);\n  kernel.threads"),
    (LAYOUT, "bias(scale + aligned(4 * n))", "bias(scale + 4 * n)"),
    # What only the interpreter sees.
    (MATRIX, '"{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0x0;"', '"{%8, %10, %9, %11}, {%0, %1, %2, %3}, %12, 0x0;"'),
    # The packed weight.
    (PACK, ".argsort(dim=-1, stable=True)[..., :2].sort(-1).values", ".argsort(dim=-1, stable=True)[..., :2]"),
    (PACK, "tiles.permute(0, 3, 1, 5, 4, 2, 6)", "tiles.permute(0, 3, 1, 5, 2, 4, 6)"),
    (PACK, "words.permute(0, 3, 1, 4, 2, 5)", "words.permute(0, 3, 1, 2, 4, 5)"),
    (PACK, "    require_two_of_four(weight.qweight)\n", ""),
    (SECTIONS, "if weight.input_scale is not None:", "if weight.zero is not None:"),
    (SECTIONS, "if packed.numel() != size:", "if packed.numel() > size:"),
]
