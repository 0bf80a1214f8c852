"""The Triton driver: what it gives back, and that the interpreter's checks reach Triton's kernels."""

import os

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")
tl = pytest.importorskip("triton.language")

from tests.gpu.ptx import PtxError  # noqa: E402
from tests.gpu.triton_driver import TritonDriver  # noqa: E402


@triton.jit
def _add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


@triton.jit
def _unmasked(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at) * 2)


@triton.jit
def _product(x, y, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    square = at[:, None] * BLOCK + at[None, :]
    tl.store(out + square, tl.dot(tl.load(x + square), tl.load(y + square), input_precision="ieee"))


@triton.jit
def _fused(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at)
    tl.store(out + at, v * v - 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int8])
def test_sums_of_every_type(triton_driver, dtype):
    x, y = (torch.randint(-50, 50, (300,)).to(dtype) for _ in range(2))
    out = torch.full((301,), 7, dtype=dtype)
    _add[(3,)](x, y, out, 300, BLOCK=128)
    assert torch.equal(out[:300], x + y)
    assert out[300] == 7
    assert triton_driver.launches[-1].grid == (3, 1, 1)


def test_views_of_one_tensor_and_odd_addresses(triton_driver):
    """A view begins where it begins: Triton is told of its alignment, and the kernel changes the tensor behind it."""
    whole = torch.arange(40.0)
    before = whole.clone()
    _add[(1,)](whole[1:11], whole[10:20], whole[21:31], 10, BLOCK=32)
    before[21:31] = before[1:11] + before[10:20]
    assert torch.equal(whole, before)


def test_an_access_outside_a_tensor_is_an_error(triton_driver):
    with pytest.raises(PtxError, match="outside its buffer"):
        _unmasked[(1,)](torch.zeros(100), torch.zeros(128), BLOCK=128)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_product_without_tf32(triton_cache, lazy):
    x, y, out = torch.randn(16, 16), torch.randn(16, 16), torch.empty(16, 16)
    for capability in (80, 90):
        with TritonDriver.active(capability, lazy):
            _product[(1,)](x, y, out, BLOCK=16)
        torch.testing.assert_close(out.double(), x.double() @ y.double(), atol=1e-5, rtol=0)


def test_products_are_not_contracted_with_sums(triton_driver):
    x = torch.randn(64)
    out = torch.empty(64)
    _fused[(1,)](x, out, BLOCK=64)
    assert torch.equal(out, x * x - 1.0)


def test_what_was_active_before_is_back(triton_cache, monkeypatch):
    monkeypatch.delenv("TRITON_DEFAULT_FP_FUSION", raising=False)
    config, hooks = triton.runtime.driver, triton.knobs.runtime.kernel_load_start_hook
    before = config._active, list(hooks.calls)
    with pytest.raises(ZeroDivisionError), TritonDriver.active(80) as driver:
        assert config.active is driver
        raise ZeroDivisionError
    assert (config._active, hooks.calls) == before
    assert "TRITON_DEFAULT_FP_FUSION" not in os.environ
