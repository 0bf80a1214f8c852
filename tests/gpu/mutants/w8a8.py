"""Mistakes in the int8 product, what follows it, and the code that launches it."""

TILE, EPILOGUE, ACTIVATION = "csrc/cuda/w8a8.cuh", "csrc/cuda/epilogue.cuh", "csrc/cuda/activation.cuh"
PRODUCT = "csrc/cuda/int8_product.h"
ELEMENT, HOST, LAYOUT = "csrc/cuda/element.cuh", "csrc/cuda/w8a8.h", "csrc/cuda/w8a8_layout.h"

PROGRAMS = ["tests/gpu/w8a8_test.cpp"]
TESTS = ["tests/gpu/test_w8a8.py", "-k", "accesses or sections or ptx"]

MUTANTS = [
    # The ring of stages.
    (TILE, "copy_wait<kStages - 2>();", "copy_wait<kStages - 1>();"),
    (TILE, "sync_threads();  // the stage has come", "// the stage has come"),
    (TILE, "copy_wait<0>();\n    sync_threads();", "copy_wait<0>();"),
    (TILE, "if (s + kStages - 1 < stages) copy_x", "if (s + kStages - 2 < stages) copy_x"),
    (TILE, "      empty = full;\n", ""),
    (TILE, "from[i] += kBk;", "from[i] += kBk / 2;"),
    (TILE, "bytes[i] = inside ? 16 : 0;", "bytes[i] = 16;"),
    (TILE, "const bool inside = row0 + r < rows;", "const bool inside = row0 + r <= rows;"),
    # Which chunk lies where: of the swizzles only the counters know.
    (TILE, "kChunks == 4 ? r >> 1 & 3 : r & 7;", "kChunks == 4 ? r & 3 : r & 7;"),
    (TILE, "kChunks == 4 ? r >> 1 & 3 : r & 7;", "kChunks == 4 ? r >> 1 & 3 : r >> 1 & 7;"),
    (
        TILE,
        "kChunks == 4 ? r >> 2 & 3 : (r & 1) | (r >> 1 & 6);",
        "kChunks == 4 ? r >> 1 & 3 : (r & 1) | (r >> 1 & 6);",
    ),
    (TILE, "kChunks == 4 ? r >> 2 & 3 : (r & 1) | (r >> 1 & 6);", "kChunks == 4 ? r >> 2 & 3 : r & 7;"),
    # Fragments and columns.
    (TILE, "(lane & 6) * 2 + (lane >> 4) * 2 + (lane & 1)", "(lane & 7) + (lane >> 4) * 8"),
    (TILE, "ws[j / 2][j % 2 * 2], ws[j / 2][j % 2 * 2 + 1]", "ws[j / 2][j % 2 * 2 + 1], ws[j / 2][j % 2 * 2]"),
    (TILE, "x_at(row + (lane & 15), step * 2 + (lane >> 4))", "x_at(row + (lane & 15), step * 2 + (lane >> 3 & 1))"),
    (TILE, "const int step = s * kWarpsK + warp_k;", "const int step = s * kWarpsK;"),
    (TILE, "const int h = j % 2 * 2;", "const int h = 0;"),
    (TILE, "j % 2 * 8 + (lane >> 2)", "(1 - j % 2) * 8 + (lane >> 2)"),
    # Warps that share k, tiles that share a block.
    (TILE, "if (kWarpsK > 1) sync_threads();", ""),
    (TILE, "for (int k = 0; k < kWarpsK; ++k) {", "for (int k = 1; k < kWarpsK; ++k) {"),
    (TILE, "tile_m = first + inside % height;", "tile_m = first + inside % kGroup;"),
    (TILE, "tile_n = inside / height;", "tile_n = inside / kGroup;"),
    # What follows the product.
    (
        EPILOGUE,
        "mul_rn(to_float(sums[i]), mul_rn(scale, scales[i]))",
        "mul_rn(mul_rn(to_float(sums[i]), scale), scales[i])",
    ),
    (EPILOGUE, "if (row >= m || column >= n) return;", "if (column >= n) return;"),
    (EPILOGUE, "if (row >= m || column >= n) return;", "if (row >= m) return;"),
    (EPILOGUE, "whole || n - column > 4 ? 4 : n - column", "4"),
    (EPILOGUE, "y[i] = add_rn(y[i], biases[i]);", "y[i] = add_rn(y[i], biases[0]);"),
    (EPILOGUE, "load4(residual + at, count, whole, added);", "load4(residual + column, count, whole, added);"),
    (ACTIVATION, "v = larger(0.0f, v);", "v = larger(v, 0.0f);"),
    (ACTIVATION, "larger(-0.5f, smaller(0.5f, mul_rn(x, polynomial(c, u))));", "mul_rn(x, polynomial(c, u));"),
    (ACTIVATION, "{0x1.166cf4p-3f,", "{0x1.166cf6p-3f,"),
    (ACTIVATION, "{0x1.218b0cp-3f,", "{0x1.218b0ep-3f,"),
    (ACTIVATION, "div_rn(x, add_rn(1.0f, exp(-x)))", "div_rn(x, add_rn(1.0f, exp(x)))"),
    (ACTIVATION, "if (x < kLowest) return 0.0f;", ""),
    (ACTIVATION, "if (x > kHighest) return float_of_bits(0x7f800000u);", ""),
    (ACTIVATION, "if (x < -kLimit) return -1.0f;", "if (x < -kLimit) return 1.0f;"),
    (ACTIVATION, "r = fma_rn(whole, -0x1.7f7d1cp-20f, r);", ""),
    (ELEMENT, "v[1] = to_float(T{static_cast<uint16_t>(bits.x >> 16)});", "v[1] = v[0];"),
    (ELEMENT, "{to_pair<T>(v[0], v[1]), to_pair<T>(v[2], v[3])}", "{to_pair<T>(v[1], v[0]), to_pair<T>(v[2], v[3])}"),
    (ELEMENT, "(i < 2 ? bits.x : bits.y) >> i % 2 * 16", "(i < 2 ? bits.x : bits.y) >> i / 2 * 16"),
    # The launch.
    (HOST, "(n + tile.columns - 1) / tile.columns", "(n + tile.columns) / tile.columns"),
    (PRODUCT, "return reads_by_four(a.n, a.type, {a.out, a.residual})", "return 1"),
    (HOST, "if (blocks > 0x7fffffff)", "if (false)"),
    (PRODUCT, "a.k_pad % kW8A8PadK != 0", "false"),
    (PRODUCT, "if (a.m > kMostRows ||", "if ("),
    (PRODUCT, "if (!lies_on(at, 16))", "if (!lies_on(at, 8))"),
    (LAYOUT, "(bytes + 255) / 256 * 256", "bytes"),
    (
        LAYOUT,
        "layout.input_scale = place(form.input_scale, k * 4);",
        "layout.input_scale = place(form.input_scale, k);",
    ),
]
