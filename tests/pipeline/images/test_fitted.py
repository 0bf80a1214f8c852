"""Networks in the sizes that pruning left them in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdnative.pipeline.networks import fitted
from kdnative.prune import prune_channels_


@pytest.mark.parametrize(
    ("groups", "shape", "left"),
    [
        (4, (16, 4, 3, 3), (8, 4, 3, 3)),  # two of four groups
        (4, (16, 4, 3, 3), (4, 4, 3, 3)),  # one of them
        (4, (32, 4, 3, 3), (24, 4, 3, 3)),  # more channels out than in
        (16, (16, 1, 3, 3), (10, 1, 3, 3)),  # depthwise
        (1, (16, 16, 3, 3), (9, 16, 3, 3)),
        (1, (16, 16, 3, 3), (9, 5, 3, 3)),
    ],
)
def test_convolutions_are_those_that_were_pruned(groups, shape, left):
    model = nn.Sequential(nn.Conv2d(shape[1] * groups, shape[0], 3, groups=groups))
    weight = torch.randn(left)
    found = fitted(model, {"0.weight": left, "0.bias": left[:1]})
    found.load_state_dict({"0.weight": weight, "0.bias": torch.zeros(left[0])})
    wanted_groups = groups * left[0] // shape[0] if groups > 1 else 1
    x = torch.randn(2, left[1] * wanted_groups, 7, 7)
    assert (found[0].groups, found[0].in_channels, found[0].out_channels) == (wanted_groups, x.shape[1], left[0])
    assert torch.equal(found(x), nn.functional.conv2d(x, weight, None, groups=wanted_groups))


def test_convolutions_with_groups_have_fewer_of_them_when_they_are_read_again():
    def made() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=4), nn.Conv2d(64, 64, 3, groups=64),
            nn.Conv2d(64, 5, 1),
        ).eval()  # fmt: skip

    pictures, pruned = torch.randn(2, 3, 32, 32), made()
    prune_channels_(pruned, pictures, macs=0.6, round_to=1)
    assert pruned[2].groups < 4 and pruned[3].groups < 64
    again = fitted(made(), {name: tensor.shape for name, tensor in pruned.state_dict().items()})
    again.load_state_dict(pruned.state_dict())
    assert [str(module) for module in again] == [str(module) for module in pruned]
    assert torch.equal(again(pictures), pruned(pictures))
