"""Fixtures of the tests of GPU kernels, which run without a GPU."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def triton_cache(tmp_path_factory):
    """What Triton compiles in a session is kept for it, and nothing of earlier ones is used."""
    pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


@pytest.fixture(params=(80, 90), ids=lambda capability: f"sm_{capability}")
def triton_driver(request, triton_cache):
    """Runs the test once per target; kernels take tensors of the CPU and run on the interpreter of PTX.

    What torch.empty gives is filled, so that what a kernel leaves out is seen.
    """
    from tests.gpu.triton_driver import TritonDriver

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with TritonDriver.active(request.param) as driver:
            yield driver
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def long_grid():
    """Whether the many shapes of ``make test-gpu-emulated`` are wanted."""
    return os.environ.get("KDNATIVE_GPU_GRID") == "1"
