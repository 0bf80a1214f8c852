"""The teacher whose hidden states students learn: native on the CPU, and as good as the float one."""

from __future__ import annotations

import pytest
import torch

from kdnative import ops
from kdnative.nn import Encoder, Linear
from kdnative.pipeline.stages.teacher import for_hidden_states
from tests.small_models import bert

IDS = torch.arange(5, 27).view(2, 11)
MASK = torch.ones_like(IDS)
MASK[1, 7:] = 0


def states(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states


def native_parts(model):
    return [module for module in model.modules() if isinstance(module, Encoder | Linear)]


@pytest.mark.skipif(ops.isa() == "reference", reason="the teacher stays in float with the reference kernels")
def test_native_states_are_those_of_the_float_teacher():
    expected, teacher = states(bert()), for_hidden_states(bert(), "w8a8", "cpu")
    assert sum(isinstance(part, Encoder) for part in native_parts(teacher)) == 1
    actual = states(teacher)
    assert len(actual) == len(expected) == 3
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.cosine_similarity(ours, theirs, dim=-1)[MASK.bool()].min() > 0.99


@pytest.mark.parametrize(("scheme", "device"), [(None, "cpu"), ("w8a8", "cuda")])
def test_float_where_native_is_not_asked_for_or_elsewhere(scheme, device):
    teacher = bert()
    assert for_hidden_states(teacher, scheme, device) is teacher and not native_parts(teacher)


def test_float_with_the_reference_kernels():
    before = ops.isa()
    ops.select_isa("reference")
    try:
        assert not native_parts(for_hidden_states(bert(), "w8a8", "cpu"))
    finally:
        ops.select_isa(before)
