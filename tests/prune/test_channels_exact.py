"""A model without some channels computes what it computed where these were zero."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdnative.cnn import run
from kdnative.prune.channels.cutting import cut
from kdnative.prune.channels.groups import find_groups
from kdnative.prune.channels.layers import read_layers
from kdnative.prune.edits import Edits
from tests.cnn.coverage import build
from tests.prune.channel_networks import NETWORKS, Flattened, graph, settled


def zeroed(model, gone, layers, images):
    """The results with every map's channels at 0 that are to go."""
    network = graph(model, images)
    maps = layers.maps[""]

    def zero(number, where, value):
        if where == "before":
            return None
        left = torch.tensor([layers.find(unit) not in gone for unit in maps[number]], dtype=value.dtype)
        return value * left.reshape(-1, *[1] * (value.dim() - 2))

    return run(network, images, tap=zero, weights=network.fold(torch.float64))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_without_channels_as_with_zeros(name, share):
    torch.manual_seed(0)
    model = settled(NETWORKS[name]()).double()
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    layers = read_layers(model, {"": graph(model, images)})
    groups = [group for group in find_groups(layers) if not group.why]
    assert groups
    gone = {u for group in groups for u in group.units[: min(round(len(group.units) * share), len(group.units) - 1)]}
    whole = copy.deepcopy(model)
    cut(Edits(), model, layers, gone)
    with torch.no_grad():
        (want,) = zeroed(whole, gone, layers, images)
        got, before = model(images), whole(images)
    assert got.shape == before.shape
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(got, before, rtol=1e-3)  # what went was worth something
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


def test_a_model_of_torchvision_without_channels():
    pytest.importorskip("torchvision")
    model = build("mobilenet_v3_small").double()
    images = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    layers = read_layers(model, {"": graph(model, images)})
    groups = [group for group in find_groups(layers) if not group.why]
    gone = {unit for group in groups for unit in group.units[1::3]}
    whole = copy.deepcopy(model)
    cut(Edits(), model, layers, gone)
    with torch.no_grad():
        (want,) = zeroed(whole, gone, layers, images)
        got = model(images)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_columns_of_a_flattened_map_worked_by_hand():
    model = settled(Flattened())
    layers = read_layers(model, {"": graph(model, torch.zeros(1, 3, 12, 12))})
    group = next(group for group in find_groups(layers) if group.name == "stem.0")
    assert group.units == tuple(layers.maps[""][1])
    columns = torch.arange(45).reshape(5, 9)[[0, 2, 3]].flatten()  # nine pixels of each of three channels
    want = model.hidden.weight.detach()[:, columns].clone()
    norm = model.stem[1].running_var[[0, 2, 3]].clone()
    cut(Edits(), model, layers, {group.units[1], group.units[4]})
    assert torch.equal(model.hidden.weight, want) and model.hidden.in_features == 27
    assert torch.equal(model.stem[1].running_var, norm) and model.stem[1].num_features == 3
    assert model.stem[0].out_channels == 3 and list(model.stem[0].weight.shape) == [3, 3, 3, 3]


def test_whole_groups_go_with_all_of_their_channels():
    model = settled(NETWORKS["Grouped"]())
    layers = read_layers(model, {"": graph(model, torch.zeros(1, 3, 12, 12))})
    (group,) = (group for group in find_groups(layers) if not group.why)
    assert (len(group.units), group.width, group.channels) == (4, 3, 12)
    cut(Edits(), model, layers, {group.units[2]})
    assert (model.stem[0].out_channels, model.grouped[0].in_channels, model.grouped[0].out_channels) == (9, 9, 6)
    assert (model.grouped[0].groups, model.more[0].groups, model.more[0].out_channels) == (3, 6, 12)
    assert model.last.in_channels == 12


def test_memory_format_and_frozen_parameters_stay():
    model = settled(NETWORKS["Residual"]()).to(memory_format=torch.channels_last)
    model.first[0].weight.requires_grad_(False)
    layers = read_layers(model, {"": graph(model, torch.zeros(1, 3, 12, 12))})
    group = next(group for group in find_groups(layers) if group.name == "first.0")
    cut(Edits(), model, layers, {group.units[0]})
    weight = model.first[0].weight
    assert isinstance(weight, nn.Parameter) and not weight.requires_grad and len(weight) == 4
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert model.second[0].weight.requires_grad
