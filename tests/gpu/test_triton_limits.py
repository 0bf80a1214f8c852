"""Limits of what Triton compiles to: no stack, no local memory, shared memory that every device of the target has."""

import os
import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")

from tests.gpu import sass  # noqa: E402
from tests.gpu.triton_targets import cases  # noqa: E402

CASES = list(cases())
CHOSEN = CASES if os.environ.get("KDNATIVE_GPU_GRID") == "1" else [case for case in CASES if case.shipped]
"""All that is shipped; for ``make test-gpu-emulated`` what measuring may choose too, and both 16-bit types."""
EACH = {80: 4, 90: 32}
"""Instructions for each tensor instruction of w8a8's largest tile, at most. One of sm_90 does for each of its four
warps what 16 of sm_80 do."""


def _problems(case):
    kernel = case.compile()
    (function,) = sass.functions(kernel.asm["cubin"]).values()
    tensor = None if case.name in ("quantize", "layer_norm_quantize") else sass.TENSOR.pattern
    each = EACH[case.capability] if case.name == "w8a8" and case.largest else None
    found = sass.problems(function, instructions_per_mma=each, expected=tensor)
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
