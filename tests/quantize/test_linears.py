"""Which modules are linears, and where their weights are."""

import pytest
import torch
from torch import nn

from kdnative import convert_
from kdnative.nn import EncoderLayer
from kdnative.quantize import FakeQuantLinear
from kdnative.quantize.linears import linears_of
from tests.nn.test_encoder_layer import layer


class Own(nn.Linear):
    """It may compute something else."""


def test_by_class():
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(4, 6),
            "own": Own(4, 6),
            "trained": FakeQuantLinear(4, 6),
            "attention": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            "norm": nn.LayerNorm(4),
        }
    )
    model["again"] = model["plain"]
    found = linears_of(model)
    assert {name: site.path for name, site in found.items()} == {
        "plain": "plain.weight",
        "attention": "attention.in_proj_weight",
        "attention.out_proj": "attention.out_proj.weight",
    }
    assert [tuple(site.weight.shape) for site in found.values()] == [(6, 4), (12, 4), (4, 4)]
    assert linears_of(model["plain"])[""].path == "weight"


def test_a_transposed_weight():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D(6, 4)
    site = linears_of(conv1d)[""]
    assert site.inputs == 4 and torch.equal(site.weight, conv1d.weight.t())
    assert torch.equal(site.as_parameter(site.weight), conv1d.weight) and not site.weight.requires_grad


def test_the_digest_is_that_of_shape_dtype_and_values():
    linear = nn.Linear(4, 6)
    (site,) = linears_of(linear).values()
    first = site.digest()
    assert first == site.digest() and len(first) == 64
    with torch.no_grad():
        linear.weight[5, 3] += 1
    assert site.digest() != first
    shapes = [nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 6, dtype=torch.bfloat16)]
    for each in shapes:
        nn.init.zeros_(each.weight)
    assert len({linears_of(each)[""].digest() for each in shapes}) == 3


def test_nothing_inside_of_native_modules():
    model = nn.Sequential(layer("ViTLayer"), nn.Linear(48, 64))
    convert_(model, keep="1")
    assert type(model[0]) is EncoderLayer and list(linears_of(model)) == ["1"]
