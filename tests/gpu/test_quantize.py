"""Quantization per token for GPUs, and norms in front of it: on the emulator, as PTX and as machine code."""

import numpy as np
import pytest
import torch

from kdnative.formats import arithmetic
from tests.gpu import building, compiling, ptx
from tests.gpu.common import GRID, LONG, TYPES, memory_of, needs_compiler, needs_nvrtc

NAMES = [f"{norm}quantize_{rows}_{kind}" for norm in ("", "norm_") for rows in ("warp", "block") for kind in TYPES]
PROGRAM = building.ROOT / "tests" / "gpu" / "quantize_test.cpp"


@needs_compiler
def test_on_the_emulator():
    building.run(building.build(PROGRAM), *GRID)


@needs_compiler
def test_with_sanitizers():
    building.run(building.build(PROGRAM, sanitize=True, flags=["-O0"]), "quick")


@needs_compiler
def test_accesses_are_as_few_as_can_be():
    cases = building.run(building.build(PROGRAM), "counters")
    assert sorted(counters["kernel"] for counters in cases) == sorted(NAMES)
    for counters in cases:
        assert building.worst_ratio(counters, "shared") == 1
        assert building.worst_ratio(counters, "global") == 1
        rows, k = (int(number) for number in counters["case"].split())
        size = 4 if counters["kernel"].endswith("f32") else 2
        if counters["kernel"].endswith("bf16"):
            size = 2
        normed = counters["kernel"].startswith("norm")
        # x once, the codes and the scales once, and input scales for each row; the norm adds a tensor, its sum, and
        # two vectors.
        least = rows * (k * size + k + 4 + 4 * k) + normed * rows * (2 * k * size + 8 * k)
        assert building.sectors_bytes(counters, ".*") <= 1.01 * least


def _rows(m, k, dtype):
    random = np.random.default_rng(m * k)
    x = random.normal(size=(m, k)).astype(np.float32)
    x[1 % m] = 0
    x[2 % m, k // 2] = np.nan
    return torch.from_numpy(x).to(dtype)


@needs_nvrtc
def test_every_kernel_runs_as_ptx():
    """Those below: each norm, rows of a warp and of a block, each type."""
    assert sorted(compiling.ptx_of("quantize").kernels) == sorted(NAMES)


@needs_nvrtc
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("m", "k"), [(9, 37), (3, 1100), *([(10, 260), (3, 1031)] if LONG else [])])
def test_ptx(kind, m, k):
    x, k_pad = _rows(m, k, TYPES[kind]), -(-k // 128) * 128
    input_scale = np.random.default_rng(k).uniform(0.5, 2, k).astype(np.float32)
    q, scale = np.full((m, k_pad), 77, np.int8), np.zeros(m, np.float32)
    by_warp = k <= 1024
    ptx.run(
        compiling.ptx_of("quantize"),
        f"quantize_{'warp' if by_warp else 'block'}_{kind}",
        -(-m // 8) if by_warp else m,
        256,
        [memory_of(x), input_scale, q, scale, m, k, k_pad, k % 4 == 0],
        shared=0 if by_warp else 96,
    )
    codes, scales = arithmetic.quantize_rows(x.float() * torch.from_numpy(input_scale))
    np.testing.assert_array_equal(q[:, :k], codes.numpy())
    assert not q[:, k:].any()
    np.testing.assert_array_equal(scale, scales.numpy())


@needs_nvrtc
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("m", "k"), [(9, 40), (2, 1029)])
@pytest.mark.parametrize("centered", [True, False])
def test_norm_in_ptx(kind, m, k, centered):
    """The sum is that of torch; the norm is that of float64, up to half a step of the code and a few roundings."""
    random = np.random.default_rng(m * k)
    x, added = (torch.from_numpy(random.normal(1, 2, (m, k)).astype(np.float32)).to(TYPES[kind]) for _ in range(2))
    gamma, beta = (random.uniform(-1, 1, k).astype(np.float32) for _ in range(2))
    k_pad, by_warp = -(-k // 128) * 128, k <= 1024
    q, scale, total = np.full((m, k_pad), 77, np.int8), np.zeros(m, np.float32), torch.zeros_like(x)
    ptx.run(
        compiling.ptx_of("quantize"),
        f"norm_quantize_{'warp' if by_warp else 'block'}_{kind}",
        -(-m // 8) if by_warp else m,
        256,
        [
            memory_of(x),
            memory_of(added),
            memory_of(total),
            gamma,
            beta,
            1e-5,
            centered,
            None,
            q,
            scale,
            m,
            k,
            k_pad,
            k % 4 == 0,
        ],
        shared=0 if by_warp else 96,
    )
    assert torch.equal(total, x + added)
    h = total.double().numpy()
    mean = h.mean(1, keepdims=True) * centered
    y = (h - mean) / np.sqrt(((h - mean) ** 2).mean(1, keepdims=True) + 1e-5) * gamma + beta
    # The bound of quantize_test.cpp, with |h| < 16 and at most 1,029 columns: 40 roundings of numbers below 16.
    error = 40 * 16 * 2.0**-24
    np.testing.assert_allclose(scale, np.abs(y).max(1) / 127, rtol=0, atol=error / 127)
    assert (np.abs(q[:, :k] * scale[:, None] - y) <= scale[:, None] * 0.5001 + error).all()
    assert not q[:, k:].any()
