"""Mistakes in the int8 product of Triton, in what follows every product, and in activations."""

HERE = "kdnative/ops/backends/triton/"
PRODUCT, EPILOGUE, ACTIVATIONS = HERE + "w8a8.py", HERE + "epilogue.py", HERE + "activations.py"

TESTS = ["tests/gpu/test_triton_w8a8.py"]

MUTANTS = [
    (PRODUCT, "left = inputs < k - start", "left = inputs < k"),
    (PRODUCT, "        x += BK\n", "        x += BK // 2\n"),
    (PRODUCT, "mask=(rows < m)[:, None] & left[None, :]", "mask=left[None, :]"),
    (PRODUCT, "mask=(columns < n)[:, None] & left[None, :]", "mask=left[None, :]"),
    (
        PRODUCT,
        "total.to(tl.float32) * (scale_m[:, None] * scale_n[None, :])",
        "total.to(tl.float32) * scale_m[:, None] * scale_n[None, :]",
    ),
    (
        PRODUCT,
        "total = tl.dot(a, tl.trans(b), total, out_dtype=tl.int32)",
        "total = tl.dot(a, tl.trans(b), out_dtype=tl.int32)",
    ),
    (PRODUCT, "quantize_rows(rows, input_scale, k_pad)", "quantize_rows(rows, None, k_pad)"),
    (HERE + "launch.py", "enable_fp_fusion=False", "enable_fp_fusion=True"),
    (EPILOGUE, "tiles_m - band * DEEP", "tiles_m"),
    (EPILOGUE, "inside % depth, inside // depth", "inside // depth, inside % depth"),
    (
        EPILOGUE,
        "inside = (rows < m)[:, None] & (columns < n)[None, :]",
        "inside = (rows < m)[:, None] & (columns <= n)[None, :]",
    ),
    (EPILOGUE, "    y = activate(y, ACTIVATION)\n", "    y = y if HAS_BIAS else activate(y, ACTIVATION)\n"),
    (EPILOGUE, "y += tl.load(residual + at", "y -= tl.load(residual + at"),
    (ACTIVATIONS, "0x1.99cd06p-5", "0x1.99cd0ap-5"),
    (ACTIVATIONS, "0x1.a7313cp-5", "0x1.a7313ep-5"),
    (ACTIVATIONS, '"0x1.5558f4p-5"', '"0x1.5568f4p-5"'),
    (ACTIVATIONS, "0x1.7ebdaep-9", "0x1.7ebdb0p-9"),
    (ACTIVATIONS, "tl.where(y < 0.0, 0.0, y)", "tl.where(y > 0.0, y, 0.0)"),
    (ACTIVATIONS, "tl.where(x > 9.01, 1.0,", "tl.where(x > 0.901, 1.0,"),
    (ACTIVATIONS, "1.0 + _exp(0.0 - y)", "1.0 + _exp(y)"),
    (
        ACTIVATIONS,
        "tl.where(bounded > 0.5, 0.5, tl.where(bounded < -0.5, -0.5, bounded))",
        "tl.where(bounded > 0.5, 0.5, bounded)",
    ),
]
