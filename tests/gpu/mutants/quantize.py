"""Mistakes in the quantization per token and the norms in front of it."""

ROWS, HOST = "csrc/cuda/quantize.cuh", "csrc/cuda/quantize.h"

PROGRAMS = ["tests/gpu/quantize_test.cpp"]
TESTS = ["tests/gpu/test_quantize.py", "-k", "accesses or ptx"]

MUTANTS = [
    # Sums and maxima over a row.
    (ROWS, "mask > 0; mask /= 2", "mask > 1; mask /= 2"),
    (ROWS, "warp < kRowWarps; ++warp", "warp < kRowWarps - 1; ++warp"),
    (
        ROWS,
        "store_shared4(at + (thread() >> 5) * 4, value);\n    sync_threads();",
        "store_shared4(at + (thread() >> 5) * 4, value);",
    ),
    (ROWS, "sum_over_row(squares, 1)", "sum_over_row(squares, 0)"),
    (ROWS, "bits_of(v[i]) & 0x7fffffffu", "bits_of(v[i])"),
    # The codes.
    (ROWS, "finite && amax >= 1e-30f", "finite && amax > 0.0f"),
    (ROWS, "top < 0x7f800000u", "top <= 0x7f800000u"),
    (ROWS, "finite ? div_rn(amax, 127.0f) : float_of_bits(0x7fffffffu)", "div_rn(amax, 127.0f)"),
    (ROWS, "to_int(mul_rn(v[i], steps))", "to_int(div_rn(v[i], div_rn(amax, 127.0f)))"),
    (ROWS, "if (column >= k_pad) return;", "if (column >= k) return;"),
    (
        ROWS,
        "pack_int8(codes[0], codes[1], pack_int8(codes[2], codes[3], 0))",
        "pack_int8(codes[2], codes[3], pack_int8(codes[0], codes[1], 0))",
    ),
    # Which columns and rows.
    (ROWS, "return left <= 0 ? 0 : kWhole || left > 4 ? 4 : left;", "return left <= 0 ? 0 : 4;"),
    (ROWS, "      prepare(column_of(i), v);\n", ""),
    (ROWS, "for (int i = kHeld; column_of(i) < k_pad; ++i)", "for (int i = kHeld; column_of(i + 1) < k_pad; ++i)"),
    (ROWS, "if (row >= rows) return;", ""),
    (ROWS, "v[i] = mul_rn(v[i], factor[i]);", "v[i] = mul_rn(v[i], factor[0]);"),
    # The norm.
    (ROWS, "v[i] = rounded<T>(add_rn(v[i], other[i]));", "v[i] = add_rn(v[i], other[i]);"),
    (ROWS, "if (i < count) squares", "squares"),
    (ROWS, "norm.centered ? div_rn(total, columns) : 0.0f", "div_rn(total, columns)"),
    (ROWS, "const float difference = sub_rn(v[i], mean);", "const float difference = v[i];"),
    (ROWS, "sqrt_rn(add_rn(variance, norm.eps))", "sqrt_rn(variance)"),
    (
        ROWS,
        "fma_rn(mul_rn(sub_rn(v[i], mean), inverse), factor[i], shift[i])",
        "mul_rn(mul_rn(sub_rn(v[i], mean), inverse), factor[i])",
    ),
    (ROWS, "load4(norm.beta + column, count, true, shift);", "load4(norm.beta, count, true, shift);"),
    # The launch.
    (HOST, "(a.rows + 7) / 8", "a.rows / 8"),
    (HOST, "block ? 96 : 0", "block ? 64 : 0"),
    (HOST, "return k % 4 == 0;", "return true;"),
    (HOST, "check_lies_on_16({a.input_scale, norm.gamma, norm.beta});", "check_lies_on_16({a.input_scale});"),
    (HOST, "check_lies_on_16({a.input_scale});", ""),
    (HOST, "if (!lies_on(at, type == DType::f32 ? 16 : 8)) return false;", ""),
    (HOST, "if (a.rows > kMostRows || a.k > kMostColumns)", "if (a.k > kMostColumns)"),
    (HOST, "if (a.rows > kMostRows || a.k > kMostColumns)", "if (a.rows > kMostRows || a.k > kMostRows)"),
]
