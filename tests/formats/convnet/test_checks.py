"""What is refused of a network's weights, and how large its maps are."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from kdnative.formats.convnet import sizes
from kdnative.formats.convnet.checks import check, weight_shapes
from kdnative.formats.convnet.graph import Pool
from tests.convnets import Builder, every_kind


def with_weight(**changes):
    """A network with other tensors in one of its weights."""
    graph = every_kind()
    weights = dict(graph.weights)
    weights["fc"] = dataclasses.replace(weights["fc"], **changes)
    return dataclasses.replace(graph, weights=weights)


def test_shapes_of_plain_tensors():
    graph = every_kind()
    found = {name: (shape, dtype) for name, shape, dtype in weight_shapes(graph)}
    assert len(found) == 3 * len(graph.weights)
    for name, weight in graph.weights.items():
        assert found[f"{name}.qweight"] == (tuple(weight.q.shape), torch.int8)
        assert found[f"{name}.bias"] == (tuple(weight.bias.shape), torch.float32)
    check(graph)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"q": torch.zeros(7, 48, 1, 1)},
            "fc.qweight must be torch.int8 of shape \\[7, 48, 1, 1\\], got torch.float32",
        ),
        ({"q": torch.zeros(7, 48, dtype=torch.int8)}, "got torch.int8 of \\[7, 48\\]"),
        ({"q": torch.full((7, 48, 1, 1), -128, dtype=torch.int8)}, "fc.qweight holds -128"),
        ({"scale": torch.full((7,), torch.nan)}, "fc.scale holds NaN"),
        ({"scale": torch.full((7,), -1.0)}, "fc.scale holds negative values"),
        ({"bias": torch.full((7,), torch.inf)}, "fc.bias holds NaN or infinite"),
        ({"bias": torch.zeros(6)}, "fc.bias must be torch.float32 of shape \\[7\\]"),
    ],
)
def test_bad_weights(changes, words):
    with pytest.raises(ValueError, match=words):
        check(with_weight(**changes))


def test_missing_and_unknown_weights():
    graph = every_kind()
    rest = {name: weight for name, weight in graph.weights.items() if name != "gate"}
    with pytest.raises(ValueError, match="the weights of gate are missing"):
        check(dataclasses.replace(graph, weights=rest))
    with pytest.raises(ValueError, match="weights of other, which are no convolutions"):
        check(dataclasses.replace(graph, weights={**graph.weights, "other": graph.weights["fc"]}))
    check(dataclasses.replace(graph, weights={}), weights=False)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", range(1, 20))
def test_sizes_of_pooling_are_those_of_torch(size, ceil_mode):
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 3, 0), (2, 3, 1), (3, 1, 1)):
        if size + 2 * padding < kernel and not ceil_mode:
            continue  # torch refuses it
        b = Builder(1)
        both = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 2}
        b.other(Pool, [0], kind="max", out=b.nodes[0].out, ceil_mode=ceil_mode, **both)
        want = F.max_pool2d(torch.zeros(1, size, size + 1), kernel, stride, padding, ceil_mode=ceil_mode).shape[1:]
        assert sizes.sizes(b.graph(1), size, size + 1)[1] == tuple(want)


def test_steps_lead_to_the_same_sizes():
    graph = every_kind()
    for height, width in ((17, 23), (1, 1), (64, 9)):
        every = sizes.sizes(graph, height, width)
        for number in range(len(graph.nodes)):
            for axis, side in enumerate((height, width)):
                for step in sizes.steps_to(graph, number, axis):
                    side = sizes.out_size(side, step)
                assert side == every[number][axis]


def test_inputs_of_different_sizes():
    b = Builder()
    half = b.conv(0, 3, stride=(2, 2), name="half")
    b.conv(0, 3, residual=half, name="whole")
    with pytest.raises(ValueError, match="whole is given 4 x 4 pixels of half, and needs 8 x 8"):
        sizes.sizes(b.graph(2), 8, 8)
