"""Limits of what Triton compiles to: no stack, no local memory, shared memory that every device of the target has."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from tests.gpu import sass  # noqa: E402
from tests.gpu.triton_targets import cases  # noqa: E402

CASES = list(cases())


def _problems(case):
    kernel = case.compile()
    (function,) = sass.functions(kernel.asm["cubin"]).values()
    tensor = None if case.name in ("quantize", "layer_norm_quantize") else sass.TENSOR.pattern
    found = sass.problems(function, expected=tensor)
    if kernel.metadata.shared > case.most_shared:
        found.append(f"{kernel.metadata.shared} bytes of shared memory, at most {case.most_shared}")
    if function.blocks(case.capability, case.threads, kernel.metadata.shared) < 1:
        found.append("not one block fits into a multiprocessor")
    return found


@pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))
@pytest.mark.parametrize("case", [case for case in CASES if case.largest], ids=str)
def test_the_largest_tiles_use_no_stack(triton_cache, case):
    assert not _problems(case)


@pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))
def test_no_shipped_tile_uses_a_stack(triton_cache, long_grid):
    if not long_grid:
        pytest.skip("all configurations are compiled with KDNATIVE_GPU_GRID=1")
    assert not [f"{case}: {problem}" for case in CASES for problem in _problems(case)]


def test_every_table_has_its_largest_tile():
    assert {case.name for case in CASES if case.largest} == {case.name for case in CASES}
