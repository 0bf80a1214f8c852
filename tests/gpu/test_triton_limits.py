"""Limits of what Triton compiles to: no stack, no local memory, shared memory that every device of the target has."""

import os
import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from tests.gpu import sass  # noqa: E402
from tests.gpu.triton_targets import cases  # noqa: E402

CASES = list(cases())
CHOSEN = CASES if os.environ.get("KDNATIVE_GPU_GRID") == "1" else [case for case in CASES if case.largest]
"""The largest tiles; all tiles for ``make test-gpu-emulated``."""


def _problems(case):
    kernel = case.compile()
    (function,) = sass.functions(kernel.asm["cubin"]).values()
    tensor = None if case.name in ("quantize", "layer_norm_quantize") else sass.TENSOR.pattern
    found = sass.problems(function, expected=tensor)
    # The interpreter rounds these like exact ones, so no result shows them.
    approximate = re.findall(
        r"\b(?:div\.full|div\.approx|sqrt\.approx|rsqrt\.approx|ex2\.approx)\b.*", kernel.asm["ptx"]
    )
    found += [f"{instruction}, which is no exact operation of float32" for instruction in approximate]
    if kernel.metadata.shared > case.most_shared:
        found.append(f"{kernel.metadata.shared} bytes of shared memory, at most {case.most_shared}")
    if function.blocks(case.capability, case.threads, kernel.metadata.shared) < 1:
        found.append("not one block fits into a multiprocessor")
    return found


@pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_a_shipped_tile_uses_no_stack(triton_cache, case):
    assert not _problems(case)


def test_every_table_has_its_largest_tile():
    assert {case.name for case in CASES if case.largest} == {case.name for case in CASES}
