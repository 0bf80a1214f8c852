"""Mistakes in the product of Triton with 4-bit weights and floating-point activations, and in its packed weight."""

PRODUCT = "kdnative/ops/backends/triton/w4a16.py"
FORMAT = "kdnative/formats/gpu/triton_w4a16.py"

TESTS = ["tests/gpu/test_triton_w4a16.py"]

MUTANTS = [
    (PRODUCT, "(zero + 1024.0)", "(zero + 1023.0)"),
    (PRODUCT, "(zero + 128.0)", "(zero + 127.0)"),
    (PRODUCT, "(bits | 0x4300)", "(bits | 0x4380)"),
    (PRODUCT, "points = tl.full(columns.shape, 8.0", "points = tl.full(columns.shape, 7.0"),
    (PRODUCT, "inputs = start + first + pairs", "inputs = start + pairs"),
    (PRODUCT, "(tl.cdiv(k, 2 * _HALF) * _HALF)", "(k // 2)"),
    (PRODUCT, "inside = inputs < last", "inside = inputs < last + 32"),
    (PRODUCT, "codes += _HALF", "codes += 2 * _HALF"),
    (PRODUCT, "_factors(packed & 15", "_factors(packed & 7"),
    (PRODUCT, "_factors(packed >> 4", "_factors(packed & 15"),
    (PRODUCT, "total = tl.fma(part, step[None, :], total)\n                part", "part"),
    (PRODUCT, "if GROUP < BK:", "if GROUP > BK:"),
    (PRODUCT, "scale + (group + 1) * n", "scale + group * n"),
    (PRODUCT, "zero, group + 1,", "zero, group,"),
    (PRODUCT, "part = tl.dot(a, tl.trans(b), part)\n            if", "part = tl.dot(a, tl.trans(b))\n            if"),
    (PRODUCT, "part = tl.dot(a, tl.trans(b), part)\n        total", "part = tl.dot(a, tl.trans(b))\n        total"),
    (PRODUCT, "a.to(tl.float32) * tl.load(input_scale", "a.to(tl.float32) + tl.load(input_scale"),
    (PRODUCT, "DTYPE=tl.float16 if x.dtype == torch.float16 else tl.bfloat16", "DTYPE=tl.bfloat16"),
    (FORMAT, "u[:, :, 0] | u[:, :, 1] << 4", "u[:, :, 1] | u[:, :, 0] << 4"),
    (FORMAT, "[pairs & 15, pairs >> 4]", "[pairs >> 4, pairs & 15]"),
    (FORMAT, "weight.scale.detach().t()]", "weight.scale.detach()]"),
]
