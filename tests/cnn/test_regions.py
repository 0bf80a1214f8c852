"""The largest parts of a model that can be traced, and why the rest can't."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdnative.cnn import regions
from tests.cnn.coverage import relative_error
from tests.cnn.small import Written, conv


class Block(nn.Module):
    """A stem that can be traced, attention over channels that can't, and a head that can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(), nn.ReLU())
        self.odd = nn.Sequential(conv(8, 8, 1), nn.Softmax(1), conv(8, 8, 1))
        self.unused = conv(8, 8, 1)
        self.head = nn.Sequential(conv(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes = nn.Linear(4, 3)

    def forward(self, x):
        return self.classes(self.head(self.odd(self.stem(x))))


def test_a_whole_model_is_one_part():
    found = regions(nn.Sequential(conv(), nn.ReLU()), (1, 3, 13, 17))
    assert list(found.graphs) == [""] and found.left == {}


def test_the_largest_parts_and_the_reasons():
    model = Block().double().eval()
    found = regions(model, torch.zeros(1, 3, 13, 17))
    assert list(found.graphs) == ["stem", "odd.0", "odd.2", "head"]
    for name, graph in found.graphs.items():
        assert relative_error(model.get_submodule(name), graph) < 1e-12
    assert set(found.left) == {"", "odd", "unused"}
    assert "odd.1 (Softmax) at test_regions.py" in found.left[""] and "odd.1" not in found.left
    assert found.left["odd"].startswith("1 (Softmax): softmax is not supported")
    assert "isn't called" in found.left["unused"]


def test_a_model_without_convolutions_is_none():
    found = regions(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (1, 3, 2, 2))
    assert (found.graphs, found.left) == ({}, {"": "it has no convolution"})


def test_a_model_that_fails_half_way_has_the_parts_that_ran():
    def forward(x, a, b):
        y = a(x)
        return b(y) if y.sum() > 0 else y

    found = regions(Written(forward, conv(), conv(8, 8)), (1, 3, 13, 17))
    assert list(found.graphs) == ["layers.0"]
    assert "traced with the shapes of" in found.left[""] and "isn't called" in found.left["layers.1"]


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda x, a: {"out": a(a(x))}, "it is called 2 times"),
        (lambda x, a: {"out": a(input=x)}, "its input is not one tensor"),
        (lambda x, a: {"out": a(x[0])}, "which isn't a map"),
    ],
)
def test_how_a_module_must_be_called(forward, why):
    found = regions(Written(forward, conv(3, 3)), (1, 3, 13, 17))
    assert found.graphs == {} and why in found.left["layers.0"]


def test_a_part_that_returns_several_tensors_is_none():
    pair = Written(lambda x, a: (a(x), x), conv())
    found = regions(Written(lambda x, a: {"out": a(x)[0]}, pair), (1, 3, 13, 17))
    assert "it returns tuple" in found.left["layers.0"] and list(found.graphs) == ["layers.0.layers.0"]


def test_a_module_that_changes_its_input_is_no_part():
    """What it was given is read again: a network would leave it as it was."""
    block = nn.Sequential(nn.ReLU(inplace=True), conv(3, 3, 1))
    found = regions(Written(lambda x, a: torch.softmax(a(x) + x, 1), block), (1, 3, 13, 17))
    assert list(found.graphs) == ["layers.0.1"] and "changes its input in place" in found.left["layers.0"]
    whole = regions(Written(lambda x, a: a(x) + x, block), (1, 3, 13, 17))
    assert list(whole.graphs) == [""]
