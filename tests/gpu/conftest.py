"""Fixtures of the tests of GPU kernels, which run without a GPU."""

import pytest
import torch

from tests.gpu.building import CACHE
from tests.gpu.common import LONG


@pytest.fixture(scope="session")
def triton_cache():
    """What Triton compiles is kept in ``build/gpu/triton``, by the contents of its sources, options and target."""
    pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(CACHE / "triton"))
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
    return LONG
