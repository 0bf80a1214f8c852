"""Mistakes in the Triton kernels of rows."""

HERE = "kdnative/ops/backends/triton/"
ROUNDING, QUANTIZE, NORM = HERE + "rounding.py", HERE + "quantize.py", HERE + "layer_norm_quantize.py"

TESTS = ["tests/gpu/test_triton_quantize.py"]

MUTANTS = [
    (ROUNDING, "(x + _MAGIC) - _MAGIC", "tl.floor(x + 0.5)"),
    (ROUNDING, "& 0x7FFFFFFF", "& -1"),
    (ROUNDING, "finite = top < _INFINITE", "finite = top <= _INFINITE"),
    (ROUNDING, "amax >= 1e-30", "amax >= 1e-38"),
    (ROUNDING, "tl.div_rn(127.0, amax)", "127.0 * tl.div_rn(1.0, amax)"),
    (ROUNDING, "tl.div_rn(amax, 127.0)", "amax * (1.0 / 127.0)"),
    (ROUNDING, "values * inverse), 0.0)", "values * inverse), 1.0)"),
    (QUANTIZE, "top = tl.maximum(top, magnitude_bits(v))", "top = magnitude_bits(v)"),
    (QUANTIZE, "for start in range(0, k, BLOCK)", "for start in range(0, k - BLOCK + 1, BLOCK)"),
    (QUANTIZE, "for start in range(0, k_pad, BLOCK)", "for start in range(0, k, BLOCK)"),
    (QUANTIZE, "codes += row * k_pad", "codes += row * k"),
    (QUANTIZE, "x += row * stride", "x += row * k"),
    (QUANTIZE, "mask=at < k_pad)", "mask=at < k)"),
    (NORM, "row * k + at, v.to(total", "row * k_pad + at, v.to(total"),
    (NORM, "        v = v.to(total.dtype.element_ty).to(tl.float32)", "        v = v + 0.0"),
    (
        NORM,
        "v = tl.where(inside, v - tl.div_rn(tl.sum(v, 0), k.to(tl.float32)), 0.0)",
        "v = v - tl.div_rn(tl.sum(v, 0), k.to(tl.float32))",
    ),
    (NORM, "variance + eps", "variance"),
    (NORM, "    if CENTRED:", "    if not CENTRED:"),
    (NORM, "v *= tl.load(input_scale + at", "v += tl.load(input_scale + at"),
    (NORM, "v += tl.load(bias + at", "v -= tl.load(bias + at"),
]
