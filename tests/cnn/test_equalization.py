"""Cross-layer equalization changes scales, not what a network computes."""

import pytest
import torch
from torch import nn

from kdnative.cnn import run, trace
from kdnative.cnn.equalization import factors_of, pairs_of, scaled
from tests.cnn.networks import depthwise, images, residual


def limits(graph, x, weights):
    """The largest absolute value of each channel of each node."""
    found = [None] * len(graph.nodes)

    def see(number, where, value):
        if where == "out":
            found[number] = value.abs().amax((0, 2, 3))

    with torch.no_grad():
        result = run(graph, x, tap=see, weights=weights)
    return found, result


def equalized(graph, weights, largest):
    return scaled(graph, weights, factors_of(graph, weights, largest))


@pytest.mark.parametrize("make", [depthwise, lambda: depthwise(nn.ReLU), lambda: depthwise(nn.LeakyReLU), residual])
def test_the_network_computes_the_same(make):
    model, x = make().double(), images(16).double()
    graph = trace(model, x)
    weights = graph.fold(torch.float64)
    seen, before = limits(graph, x, weights)
    changed = equalized(graph, weights, seen)
    assert any(not torch.equal(changed[name][0], weights[name][0]) for name in weights)
    _, after = limits(graph, x, changed)
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(one.abs().max()))


def test_channels_before_a_depthwise_kernel_use_more_of_the_range():
    model, x = depthwise(nn.ReLU).double(), images(16).double()
    graph = trace(model, x)
    weights = graph.fold(torch.float64)
    seen, _ = limits(graph, x, weights)
    after, _ = limits(graph, x, equalized(graph, weights, seen))
    first = next(pair.first for pair in pairs_of(graph) if graph.nodes[pair.second].groups > 1)
    top = seen[first].max()
    wanted = seen[first] * torch.where(seen[first] > 0, (top / seen[first]) ** 0.7, 1).clamp(max=32)
    assert torch.allclose(after[first], wanted, rtol=1e-6) and seen[first].min() < 0.5 * top


def test_relu6_is_never_passed():
    model, x = depthwise().double(), images(16).double()
    graph = trace(model, x)
    weights = graph.fold(torch.float64)
    seen, _ = limits(graph, x, weights)
    changed = equalized(graph, weights, seen)
    for pair in pairs_of(graph):
        node = graph.nodes[pair.first]
        if node.ending.activation == "relu6":
            full = seen[pair.first] >= 6
            assert torch.equal(changed[node.name][1][full], weights[node.name][1][full]) and bool((~full).any())


def test_where_others_read_nothing_is_scaled():
    graph = trace(residual(), (2, 3, 17, 17))
    names = {(graph.nodes[pair.first].name, graph.nodes[pair.second].name) for pair in pairs_of(graph)}
    assert names == {("first.0", "second.0")}


def test_dead_channels_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = -1
    graph, x = trace(model, (1, 3, 5, 5)), images(4, 5)
    weights = graph.fold()
    changed = equalized(graph, weights, limits(graph, x, weights)[0])
    assert torch.equal(changed["0"][0][1], weights["0"][0][1]) and torch.equal(changed["0"][1][1], weights["0"][1][1])
    assert all(bool(torch.isfinite(part).all()) for pair in changed.values() for part in pair)
