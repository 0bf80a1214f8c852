"""Which channels stay or go together, worked by hand, and what keeps channels in a model."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations

from kdnative.prune.channels.groups import find_groups
from kdnative.prune.channels.layers import read_layers
from tests.prune.channel_networks import NETWORKS, Shuffled, conv, graph


def groups_of(model, size=12, **options):
    return find_groups(read_layers(model, {"": graph(model.eval(), torch.zeros(1, 3, size, size))}, **options))


def free(model, **options):
    return {g.name: (len(g.units), g.given_by) for g in groups_of(model, **options) if not g.why}


def why(model, **options):
    return {g.name: g.why for g in groups_of(model, **options) if g.why}


def test_partners_in_sums():
    assert free(NETWORKS["Residual"]()) == {"stem.0": (7, ("stem.0", "second.0")), "first.0": (5, ("first.0",))}


def test_gates_and_what_they_are_made_of():
    assert free(NETWORKS["Gated"]()) == {"stem.0": (11, ("stem.0", "fc2")), "fc1": (3, ("fc1",))}


def test_places_in_concatenations():
    assert free(NETWORKS["Side"]()) == {
        "a.0": (5, ("a.0", "whole")),
        "b.0": (6, ("b.0", "whole")),
        "mixed.0": (4, ("mixed.0", "whole")),
    }


def test_what_reads_a_group_has_its_count():
    model = NETWORKS["Grouped"]()
    (group,) = (group for group in groups_of(model) if not group.why)
    assert group.gives == {0: 3, 1: 2, 2: 4} and group.reads == {1: 3, 2: 2, 3: 4}


def test_results_stay():
    assert why(NETWORKS["Gated"]()) == {"head": "it is what the network returns"}


def test_shuffled_channels_stay_and_say_so():
    model = Shuffled()
    assert free(model) == {"inner.0": (6, ("inner.0",))}
    reasons = why(model)
    assert "splits channels or puts them into another order" in reasons["stem.0"]
    assert "splits channels or puts them into another order" in reasons["outer.0"]


def test_kept_modules_stay_with_their_partners():
    kept = why(NETWORKS["Residual"](), kept=lambda name: "asked for" if name == "second.0" else None)
    assert kept["stem.0"] == "asked for" and "first.0" not in kept


def test_computed_weights_stay():
    model = nn.Sequential(conv(3, 8), parametrizations.weight_norm(nn.Conv2d(8, 6, 1)), nn.Conv2d(6, 2, 1))
    assert "computed from other tensors" in why(model)["0.0"]
    assert "computed from other tensors" in why(model)["1"]


def test_a_layer_that_is_called_twice_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.again, self.last = conv(3, 6), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.last(self.again(torch.relu(self.again(self.stem(x)))))

    assert free(Twice()) == {} and "used by several layers" in why(Twice())["stem.0"]


def test_a_weight_in_two_modules_stays():
    model = nn.Sequential(conv(3, 6), nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1))
    model[3].weight = model[1].weight
    assert free(model) == {} and "in several modules" in why(model)["0.0"]
